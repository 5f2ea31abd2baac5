// SPDX-License-Identifier: GPL-2.0

//! Counts the pages on each node, whatever becomes of them.
//!
//! Locks: runs under mmap_lock and, for each folio, its page-table lock; takes none.

use crate::{
    pure::units::Pages,
    shim::mm::{
        FolioStep,
        Mapped,
        Visitor,
        Vma,
        VmaStep, //
    }, //
};

/// Counts the pages on each node.
pub(crate) struct Census<'a> {
    pub(crate) pages: &'a mut [Pages],
}

impl Visitor for Census<'_> {
    fn vma(&mut self, _vma: &Vma) -> VmaStep {
        VmaStep::Enter
    }

    fn folio(&mut self, mapped: &Mapped<'_>) -> FolioStep {
        // A page that somebody is moving is still on the node that it leaves.
        if let Some(pages) = self.pages.get_mut(mapped.node().index()) {
            *pages += mapped.pages().count();
        }
        FolioStep::On
    }
}
