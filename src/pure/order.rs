// SPDX-License-Identifier: GPL-2.0

//! An order: what is to be done for one call, in terms that the rooms share.
//!
//! Its tables are in kernel memory; it knows nothing else of the kernel.

use kernel::{
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc, //
};

use super::{
    node_map::NodeMap,
    units::Pages, //
};

/// Threads that a call can have copy for it, at most.
pub(crate) const MAX_WORKERS: usize = 8;

/// A node map in kernel memory.
pub(crate) type Map = NodeMap<KVVec<u16>, KVVec<i32>, KVVec<u8>>;

/// An address range, in bytes, page-aligned.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    /// First address.
    pub(crate) start: usize,
    /// Address after the last; not below `start`.
    pub(crate) end: usize,
}

impl Range {
    /// The pages of `len` bytes from `va_start` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the start is not page-aligned.
    pub(crate) fn new(va_start: u64, len: u64) -> Result<Self> {
        let start = usize::try_from(va_start)?;
        let len = usize::try_from(len)?;
        if start & !PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        let end = start
            .saturating_add(len)
            .checked_next_multiple_of(PAGE_SIZE)
            .unwrap_or(PAGE_MASK);
        Ok(Self { start, end })
    }

    /// The part below `size`, the end of an address space.
    pub(crate) fn clipped(self, size: usize) -> Self {
        Self {
            start: self.start,
            end: self.end.min(size).max(self.start),
        }
    }

    /// Whether it is all of an address space that ends at `size`.
    pub(crate) fn is_whole(self, size: usize) -> bool {
        self.start == 0 && self.end >= size
    }
}

/// A copy of a list, charged to the caller.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn copy(list: &[i32]) -> Result<KVVec<i32>> {
    let mut copy = KVVec::with_capacity(list.len(), GFP_KERNEL_ACCOUNT)?;
    copy.extend_from_slice(list, GFP_KERNEL_ACCOUNT)?;
    Ok(copy)
}

/// The node lists of a request: what makes calls belong to one job.
#[derive(PartialEq)]
pub(crate) struct NodeLists {
    old: KVVec<i32>,
    new: KVVec<i32>,
}

impl NodeLists {
    /// The lists `old` and `new`, of the same length.
    pub(crate) fn new(old: KVVec<i32>, new: KVVec<i32>) -> Self {
        Self { old, new }
    }

    /// A copy.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            old: copy(&self.old)?,
            new: copy(&self.new)?,
        })
    }

    /// Entries of each list.
    pub(crate) fn len(&self) -> usize {
        self.old.len()
    }
}

/// What is left to be done of a request once its target has been found.
pub(crate) struct Order {
    /// The range, within the target's address space.
    pub(crate) range: Range,
    /// Where pages go.
    pub(crate) map: Arc<Map>,
    /// The node lists that the map was made of.
    pub(crate) lists: NodeLists,
    /// The range is the whole address space.
    pub(crate) whole: bool,
    /// Leave memory policies alone.
    pub(crate) keep_policy: bool,
    /// Forget what has moved before.
    pub(crate) new_job: bool,
    /// Threads that copy; 0 is for the call to choose.
    pub(crate) workers: usize,
    /// End after so many moved pages.
    pub(crate) max_pages: Option<Pages>,
    /// Change nothing.
    pub(crate) dry_run: bool,
    /// Leave pages that other processes map.
    pub(crate) exclusive: bool,
    /// No fallback to other nodes.
    pub(crate) strict: bool,
}
