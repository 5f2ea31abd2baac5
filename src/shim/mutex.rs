// SPDX-License-Identifier: GPL-2.0

//! A mutex whose waiters can be killed.
//!
//! Locks: it comes before all others, and is held for the whole of a call.

use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
};

use kernel::{
    error::to_result,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

use crate::bindings;

/// A value that one thread uses at a time.
///
/// A call may have it for minutes, and who waits for [`kernel::sync::Mutex`] cannot be killed.
///
/// # Invariants
///
/// `value` is only touched while `lock` is held.
#[pin_data]
pub(crate) struct KillableMutex<T> {
    #[pin]
    lock: Opaque<bindings::mutex>,
    value: UnsafeCell<T>,
}

// SAFETY: The lock may be used on any thread, and the value goes where the whole goes.
unsafe impl<T: Send> Send for KillableMutex<T> {}
// SAFETY: The lock lets one thread at a time to the value.
unsafe impl<T: Send> Sync for KillableMutex<T> {}

impl<T> KillableMutex<T> {
    /// A value that nobody uses yet.
    pub(crate) fn new(value: T) -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- Opaque::ffi_init(|slot: *mut bindings::mutex| {
                // SAFETY: The slot is pinned and can be written to.
                unsafe { bindings::pm_shim_mutex_init(slot) }
            }),
            value: UnsafeCell::new(value),
        })
    }

    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// `EINTR` if the caller is being killed.
    pub(crate) fn take(&self) -> Result<KillableGuard<'_, T>> {
        // SAFETY: The lock has been initialised.
        to_result(unsafe { bindings::pm_shim_mutex_take(self.lock.get()) })?;
        // INVARIANT: The lock has been taken.
        Ok(KillableGuard {
            mutex: self,
            _here: NotThreadSafe,
        })
    }
}

/// A value in use.
///
/// # Invariants
///
/// The lock of `mutex` is held by this thread.
pub(crate) struct KillableGuard<'a, T> {
    mutex: &'a KillableMutex<T>,
    _here: NotThreadSafe,
}

impl<T> Deref for KillableGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The lock is held by the type invariant, so nobody changes the value.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for KillableGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held by the type invariant, so nobody else uses the value.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for KillableGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type invariant.
        unsafe { bindings::pm_shim_mutex_give(self.mutex.lock.get()) };
    }
}
