// SPDX-License-Identifier: GPL-2.0

//! Sets of page numbers, one bit each.
//!
//! Locks: none.

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    prelude::*, //
};

use crate::{
    bindings,
    pure::units::{
        PageNumber,
        Span, //
    }, //
};

/// A set of page numbers: page frames, such as those that a job has moved pages to, or pages of an
/// address space.
///
/// A folio found in a frame that a job has moved pages to has been moved in this job, through whatever
/// mapping it is met.
///
/// # Invariants
///
/// The pointer is from `pm_shim_set_new()` and is freed only by `drop`.
pub(crate) struct PageSet<N>(NonNull<bindings::pm_set>, PhantomData<N>);

// SAFETY: The set is not bound to a thread.
unsafe impl<N> Send for PageSet<N> {}
// SAFETY: Its bits change atomically, and its blocks of bits stay until it is cleared, which takes
// a unique reference, or dropped.
unsafe impl<N> Sync for PageSet<N> {}

impl<N: PageNumber> PageSet<N> {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: May be called wherever sleeping is allowed.
        let set = NonNull::new(unsafe { bindings::pm_shim_set_new() }).ok_or(ENOMEM)?;
        // INVARIANT: It was just made, and nobody else has it.
        Ok(Self(set, PhantomData))
    }

    pub(super) fn as_raw(&self) -> *mut bindings::pm_set {
        self.0.as_ptr()
    }

    /// Whether no page was ever added.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: The set lives by the type invariant.
        unsafe { bindings::pm_shim_set_is_empty(self.as_raw()) }
    }

    /// Whether a page is in the set. Neither sleeps nor allocates.
    pub(crate) fn contains(&self, page: N) -> bool {
        // SAFETY: The set lives by the type invariant.
        !self.is_empty() && unsafe { bindings::pm_shim_set_has(self.as_raw(), page.get()) }
    }

    /// The first page of the set that is not below `from`.
    pub(crate) fn first(&self, from: N) -> Option<N> {
        self.next(from, N::new(usize::MAX))
    }

    /// The first page of the set that is not below `from`, but below `end`.
    pub(crate) fn next(&self, from: N, end: N) -> Option<N> {
        // SAFETY: The set lives by the type invariant.
        let page = unsafe { bindings::pm_shim_set_next(self.as_raw(), from.get(), end.get()) };
        (page < end.get()).then(|| N::new(page))
    }

    /// Adds pages. May sleep, but calls no OOM killer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; none has been added then.
    pub(crate) fn add(&self, pages: Span<N>) -> Result {
        Adder::new(self).add(pages)
    }

    /// Takes pages away. Neither sleeps nor allocates.
    pub(crate) fn remove(&self, pages: Span<N>) {
        let (first, len) = (pages.first.get(), pages.len);
        if first.checked_add(len).is_some() && !self.is_empty() {
            // SAFETY: The set lives by the type invariant, and the last page has a number.
            unsafe { bindings::pm_shim_set_remove(self.as_raw(), first, len) };
        }
    }

    /// Takes all pages away, and gives their memory back.
    pub(crate) fn clear(&mut self) {
        // SAFETY: The set lives by the type invariant, and nobody else uses it now.
        unsafe { bindings::pm_shim_set_clear(self.as_raw()) };
    }
}

/// Adds pages to a set, and remembers where the last one was: most are near each other.
pub(crate) struct Adder<'a, N> {
    set: &'a PageSet<N>,
    at: bindings::pm_set_cursor,
}

impl<'a, N: PageNumber> Adder<'a, N> {
    /// Has added none yet.
    pub(crate) fn new(set: &'a PageSet<N>) -> Self {
        // A set cannot be cleared as long as this refers to it: the block stays.
        let at = bindings::pm_set_cursor::default();
        Self { set, at }
    }

    /// Adds pages. May sleep, but calls no OOM killer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; none has been added then.
    pub(crate) fn add(&mut self, pages: Span<N>) -> Result {
        let (first, nr) = (pages.first.get(), pages.len);
        first.checked_add(nr).ok_or(EOVERFLOW)?;
        let set = self.set.as_raw();
        // SAFETY: The set lives as long as the reference to it, the block that `at` refers to is one of
        // its own, and the last page has a number.
        match unsafe { bindings::pm_shim_set_add(set, &mut self.at, first, nr) } {
            0 => Ok(()),
            _ => Err(ENOMEM),
        }
    }

    /// Takes pages away. Neither sleeps nor allocates.
    pub(crate) fn remove(&self, pages: Span<N>) {
        self.set.remove(pages);
    }
}

impl<N> Drop for PageSet<N> {
    fn drop(&mut self) {
        // SAFETY: The set is ours alone now, by the type invariant.
        unsafe { bindings::pm_shim_set_free(self.0.as_ptr()) };
    }
}
