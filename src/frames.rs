// SPDX-License-Identifier: GPL-2.0

//! The frames that a job has moved pages to.
//!
//! Locks: that of the array, a leaf, also under page-table locks. What is asked there neither sleeps
//! nor allocates.

use kernel::{
    prelude::*,
    xarray::{
        AllocKind,
        XArray, //
    },
};

use crate::shim;

/// Frames of one page of bits: 128 MiB.
const FRAMES_PER_PAGE: usize = 1 << 15;

/// Bits of 32768 frames: one page of memory.
type FramePage = [u64; FRAMES_PER_PAGE / 64];

/// The frames that a job has moved pages to, one bit each, in pages made on demand.
///
/// A folio found in such a frame has been moved in this job, through whatever mapping it is met.
#[pin_data]
pub(crate) struct Frames {
    #[pin]
    pages: XArray<KBox<FramePage>>,
}

/// The word and the mask of a frame within its page.
fn bit(pfn: usize) -> (usize, u64) {
    (pfn % FRAMES_PER_PAGE / 64, 1 << (pfn % 64))
}

/// The bits of one word from `first` on, `len` of them.
fn bits(first: usize, len: usize) -> u64 {
    let ones = u64::MAX.checked_shr(64u32.saturating_sub(len as u32));
    ones.unwrap_or(0) << (first % 64)
}

impl Frames {
    /// No frame.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pages <- XArray::new(AllocKind::Alloc),
        })
    }

    /// Whether a frame is among them. Neither sleeps nor allocates.
    pub(crate) fn contains(&self, pfn: usize) -> bool {
        let (word, mask) = bit(pfn);
        self.pages
            .lock()
            .get(pfn / FRAMES_PER_PAGE)
            .and_then(|page| page.get(word))
            .is_some_and(|word| word & mask != 0)
    }

    /// Adds the frames of a folio.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; none has been added then.
    pub(crate) fn mark(&self, pfn: usize, nr_pages: usize) -> Result {
        let end = pfn.checked_add(nr_pages).ok_or(EOVERFLOW)?;
        for index in (pfn / FRAMES_PER_PAGE)..end.div_ceil(FRAMES_PER_PAGE) {
            self.prepare(index)?;
        }
        self.update(pfn..end, |word, mask| *word |= mask);
        Ok(())
    }

    /// Takes the frames of a folio away.
    pub(crate) fn unmark(&self, pfn: usize, nr_pages: usize) {
        self.update(pfn..pfn.saturating_add(nr_pages), |word, mask| {
            *word &= !mask;
        });
    }

    fn prepare(&self, index: usize) -> Result {
        if self.pages.lock().get(index).is_some() {
            return Ok(());
        }
        // Charged to the caller: everybody may open as many jobs as files.
        let page: KBox<FramePage> = shim::zeros()?;
        let mut pages = self.pages.lock();
        if pages.get(index).is_none() {
            // A node of the array serves 64 such pages, so it need not be charged. Reclaim for it
            // could end in the OOM killer.
            pages.store(index, page, GFP_NOWAIT | __GFP_NOWARN)?;
        }
        Ok(())
    }

    fn update(&self, frames: core::ops::Range<usize>, change: impl Fn(&mut u64, u64)) {
        let mut start = frames.start;
        while start < frames.end {
            let index = start / FRAMES_PER_PAGE;
            let end = index
                .saturating_add(1)
                .saturating_mul(FRAMES_PER_PAGE)
                .min(frames.end);
            // A gigantic folio has eight such pages: the lock is not held for all of them.
            if let Some(page) = self.pages.lock().get_mut(index) {
                while start < end {
                    let len = (64usize.saturating_sub(start % 64)).min(end.saturating_sub(start));
                    if let Some(word) = page.get_mut(bit(start).0) {
                        change(word, bits(start, len));
                    }
                    start = start.saturating_add(len);
                }
            }
            start = end;
        }
    }
}
