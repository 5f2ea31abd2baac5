// SPDX-License-Identifier: GPL-2.0

//! Sets of page numbers, one bit each.
//!
//! Locks: none.

use core::ptr::NonNull;

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings;

/// A set of page numbers: page frames, such as those that a job has moved pages to, or pages of an
/// address space.
///
/// A folio found in a frame that a job has moved pages to has been moved in this job, through whatever
/// mapping it is met.
///
/// # Invariants
///
/// The pointer is from `pm_shim_set_new()` and is freed only by `drop`.
pub(crate) struct PageSet(NonNull<bindings::pm_set>);

// SAFETY: The set is not bound to a thread.
unsafe impl Send for PageSet {}
// SAFETY: Its bits change atomically, and its blocks of bits stay until it is cleared, which takes
// a unique reference, or dropped.
unsafe impl Sync for PageSet {}

impl PageSet {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: May be called wherever sleeping is allowed.
        let set = NonNull::new(unsafe { bindings::pm_shim_set_new() }).ok_or(ENOMEM)?;
        // INVARIANT: It was just made, and nobody else has it.
        Ok(Self(set))
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
    pub(crate) fn contains(&self, page: usize) -> bool {
        // SAFETY: The set lives by the type invariant.
        !self.is_empty() && unsafe { bindings::pm_shim_set_has(self.as_raw(), page) }
    }

    /// The first page of the set that is not below `from`, but below `end`.
    pub(crate) fn next(&self, from: usize, end: usize) -> Option<usize> {
        // SAFETY: The set lives by the type invariant.
        let page = unsafe { bindings::pm_shim_set_next(self.as_raw(), from, end) };
        (page < end).then_some(page)
    }

    /// Adds `nr` pages from `first` on. May sleep, but calls no OOM killer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; none has been added then.
    pub(crate) fn add(&self, first: usize, nr: usize) -> Result {
        Adder::new(self).add(first, nr)
    }

    /// Takes `nr` pages from `first` on away. Neither sleeps nor allocates.
    pub(crate) fn remove(&self, first: usize, nr: usize) {
        if first.checked_add(nr).is_some() && !self.is_empty() {
            // SAFETY: The set lives by the type invariant, and the last page has a number.
            unsafe { bindings::pm_shim_set_remove(self.as_raw(), first, nr) };
        }
    }

    /// Takes all pages away, and gives their memory back.
    pub(crate) fn clear(&mut self) {
        // SAFETY: The set lives by the type invariant, and nobody else uses it now.
        unsafe { bindings::pm_shim_set_clear(self.as_raw()) };
    }
}

/// Adds pages to a set, and remembers where the last one was: most are near each other.
pub(crate) struct Adder<'a> {
    set: &'a PageSet,
    at: bindings::pm_set_cursor,
}

impl<'a> Adder<'a> {
    /// Has added none yet.
    pub(crate) fn new(set: &'a PageSet) -> Self {
        // A set cannot be cleared as long as this refers to it: the block stays.
        let at = bindings::pm_set_cursor::default();
        Self { set, at }
    }

    /// Adds `nr` pages from `first` on. May sleep, but calls no OOM killer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; none has been added then.
    pub(crate) fn add(&mut self, first: usize, nr: usize) -> Result {
        first.checked_add(nr).ok_or(EOVERFLOW)?;
        let set = self.set.as_raw();
        // SAFETY: The set lives as long as the reference to it, the block that `at` refers to is one of
        // its own, and the last page has a number.
        to_result(unsafe { bindings::pm_shim_set_add(set, &mut self.at, first, nr) })
    }

    /// Takes `nr` pages from `first` on away. Neither sleeps nor allocates.
    pub(crate) fn remove(&self, first: usize, nr: usize) {
        self.set.remove(first, nr);
    }
}

impl Drop for PageSet {
    fn drop(&mut self) {
        // SAFETY: The set is ours alone now, by the type invariant.
        unsafe { bindings::pm_shim_set_free(self.as_raw()) };
    }
}
