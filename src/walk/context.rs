// SPDX-License-Identifier: GPL-2.0

//! The VMA that a walk is in: what its visitors have to know of it.

use crate::{
    marks::{
        Mark,
        Marks, //
    },
    shim::mm::{
        Vma,
        VmaStep, //
    },
};

/// What is known of the VMA that the walk is in.
pub(crate) struct Context<'a> {
    marks: &'a Marks,
    /// The mark of its file.
    pub(super) mark: Mark,
    /// It may be written to.
    pub(super) writable: bool,
    /// A server answers for the pages of its file.
    pub(super) served: bool,
    /// Its first address, if its file system holds pages until they have been written.
    pub(super) holds: Option<usize>,
    /// Files without a known mark at which the walk does not stop.
    passes: u32,
}

impl<'a> Context<'a> {
    /// A walk that begins, with the marks that are known.
    ///
    /// So many files without a known mark do not stop the walk; their pages stay.
    pub(crate) fn new(marks: &'a Marks, passes: u32) -> Self {
        Self {
            marks,
            mark: Mark::Migratable,
            writable: false,
            served: false,
            holds: None,
            passes,
        }
    }

    /// Enters a VMA, or stops before it if the mark of its file has to be read first.
    pub(super) fn enter(&mut self, vma: &Vma) -> VmaStep {
        self.writable = vma.writable;
        self.served = vma.served;
        self.holds = vma.holds;
        match vma.inode.map(|inode| self.marks.get(inode)) {
            None => self.mark = Mark::Migratable,
            Some(Some(mark)) => self.mark = mark,
            Some(None) => match self.passes.checked_sub(1) {
                Some(passes) => {
                    self.passes = passes;
                    self.mark = Mark::Unknown;
                }
                None => return VmaStep::UnknownFile,
            },
        }
        VmaStep::Enter
    }
}
