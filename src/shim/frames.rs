// SPDX-License-Identifier: GPL-2.0

//! Sets of page frames, one bit each. Takes no lock.

use core::ptr::NonNull;

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings;

/// A set of page frames, such as those that a job has moved pages to.
///
/// A folio found in such a frame has been moved in this job, through whatever mapping it is met.
///
/// # Invariants
///
/// The pointer is from `pm_shim_frames_new()` and is freed only by `drop`.
pub(crate) struct Frames(NonNull<bindings::pm_frames>);

// SAFETY: The set is not bound to a thread.
unsafe impl Send for Frames {}
// SAFETY: Its bits change atomically, and its pages of bits stay until it is dropped.
unsafe impl Sync for Frames {}

impl Frames {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: May be called wherever sleeping is allowed.
        let frames = NonNull::new(unsafe { bindings::pm_shim_frames_new() }).ok_or(ENOMEM)?;
        // INVARIANT: It was just made, and nobody else has it.
        Ok(Self(frames))
    }

    pub(super) fn as_raw(&self) -> *mut bindings::pm_frames {
        self.0.as_ptr()
    }

    /// Whether no frame was ever added.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: The set lives by the type invariant.
        unsafe { bindings::pm_shim_frames_is_empty(self.as_raw()) }
    }

    /// Whether a frame is in the set. Neither sleeps nor allocates.
    pub(crate) fn contains(&self, pfn: usize) -> bool {
        // SAFETY: The set lives by the type invariant.
        !self.is_empty() && unsafe { bindings::pm_shim_frames_has(self.as_raw(), pfn) }
    }

    /// Adds the frames of a folio. May sleep, but calls no OOM killer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; none has been added then.
    pub(crate) fn mark(&self, pfn: usize, nr_pages: usize) -> Result {
        pfn.checked_add(nr_pages).ok_or(EOVERFLOW)?;
        // SAFETY: The set lives by the type invariant, and the last frame has a number.
        to_result(unsafe { bindings::pm_shim_frames_add(self.as_raw(), pfn, nr_pages) })
    }

    /// Takes the frames of a folio away. Neither sleeps nor allocates.
    pub(crate) fn unmark(&self, pfn: usize, nr_pages: usize) {
        if pfn.checked_add(nr_pages).is_some() && !self.is_empty() {
            // SAFETY: The set lives by the type invariant, and the last frame has a number.
            unsafe { bindings::pm_shim_frames_remove(self.as_raw(), pfn, nr_pages) };
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: The set is ours alone now, by the type invariant.
        unsafe { bindings::pm_shim_frames_free(self.as_raw()) };
    }
}
