// SPDX-License-Identifier: GPL-2.0

//! Sorts the pages that a walk shows: what stays is counted, what is to move is isolated.
//!
//! Locks: runs under mmap_lock and, for each folio, its page-table lock. Below these no lock is
//! taken.

use crate::{
    marks::{
        Mark,
        Marks, //
    },
    migrate::batch::{
        self,
        Batch,
        Lists, //
    },
    pure::{
        counts::{
            Counts,
            Reason, //
        },
        order::Map, //
    },
    shim::{
        frames::Frames,
        mm::{
            FolioStep,
            Mapped,
            NotIsolated,
            Visitor,
            Vma,
            VmaStep, //
        }, //
    },
};

use super::LastLook;

/// Sorts the pages of one chunk: counts those that stay, collects those that are to move.
pub(crate) struct Collector<'a> {
    pub(crate) map: &'a Map,
    /// Frames that would have been moved, were this no dry run.
    pub(crate) imagined: Option<&'a Frames>,
    pub(crate) marks: &'a Marks,
    /// Pages that other processes map may move too.
    pub(crate) move_shared: bool,
    /// Take pages of this pair only, and count none: they have been counted.
    pub(crate) only: Option<usize>,
    /// Only look at what is left on old nodes.
    pub(crate) last_look: Option<LastLook<'a>>,
    /// Where isolated folios go; `None` to leave them alone.
    pub(crate) lists: Option<&'a mut Lists>,
    pub(crate) batch: &'a mut Batch,
    pub(crate) counts: &'a mut Counts,
    /// Stop when the folios of the batch have so many pages, whether they are mapped here or not: all
    /// of them are isolated and copied.
    pub(crate) limit: u64,
    /// Stop at a folio that is not on its LRU list yet, to drain.
    pub(crate) may_drain: bool,
    /// The LRU caches have been drained just before the first folio.
    pub(crate) drained: bool,
    /// Out: stopped at a folio that draining may help.
    pub(crate) wants_drain: bool,
    /// Out: one of those to take only could not be tried, but may be later.
    pub(crate) passed: bool,
    /// The mark of the VMA in which the walk is.
    pub(crate) mark: Mark,
    /// That VMA may be written to.
    pub(crate) writable: bool,
    /// A server answers for the pages of its file.
    pub(crate) served: bool,
    /// Its first address, if its file system holds pages until they have been written.
    pub(crate) holds: Option<usize>,
    /// Do not stop before the next file without a known mark: what is there stays.
    pub(crate) pass_unknown: bool,
}

impl Collector<'_> {
    fn stay(&mut self, mapped: &Mapped<'_>, reason: Reason) -> FolioStep {
        if self.only.is_none() {
            self.counts.stay(reason, mapped.mapped() as u64);
        } else if matches!(reason, Reason::Busy | Reason::Pinned) {
            self.passed = true;
        }
        FolioStep::On
    }

    /// Why a page on an old node must not be tried, if so.
    fn obstacle(&self, mapped: &Mapped<'_>) -> Option<Reason> {
        if self.mark.exempts(mapped.is_anon(), self.writable) {
            Some(Reason::Exempt)
        } else if mapped.is_shared() && !self.move_shared {
            Some(Reason::Shared)
        } else if mapped.is_unmovable() {
            Some(Reason::Unmovable)
        } else if mapped.is_migrating() || self.mark == Mark::Unknown {
            Some(Reason::Busy)
        } else if mapped.is_pinned() {
            Some(Reason::Pinned)
        } else {
            None
        }
    }

    fn isolate(&mut self, mapped: &Mapped<'_>) -> Result<(), NotIsolated> {
        match &mut self.lists {
            Some(lists) if mapped.is_hugetlb() => mapped.isolate(&mut lists.huge),
            Some(lists) if self.served && !mapped.is_anon() => mapped.isolate(&mut lists.served),
            Some(lists) => mapped.isolate(&mut lists.plain),
            None => Ok(()),
        }
    }
}

impl Visitor for Collector<'_> {
    fn shares(&self) -> bool {
        self.imagined.is_none()
    }

    fn vma(&mut self, vma: &Vma) -> VmaStep {
        self.writable = vma.writable;
        self.served = vma.served;
        self.holds = vma.holds;
        match vma.inode.map(|inode| self.marks.get(inode)) {
            None => self.mark = Mark::Migratable,
            Some(Some(mark)) => self.mark = mark,
            Some(None) if core::mem::take(&mut self.pass_unknown) => {
                self.mark = Mark::Unknown;
            }
            Some(None) => return VmaStep::UnknownFile,
        }
        VmaStep::Enter
    }

    fn folio(&mut self, mapped: &Mapped<'_>) -> FolioStep {
        let just_drained = core::mem::replace(&mut self.drained, false);
        if self
            .batch
            .meet(mapped.pfn(), mapped.index(), mapped.mapped())
        {
            return FolioStep::On;
        }
        if !mapped.is_migrating() && self.imagined.is_some_and(|f| f.contains(mapped.pfn())) {
            return self.stay(mapped, Reason::AlreadyMoved);
        }
        let Some(pair) = self.map.pair(mapped.node()) else {
            return self.stay(mapped, Reason::InPlace);
        };
        if self.only.is_some_and(|only| only != pair) {
            return FolioStep::On;
        }
        let obstacle = self.obstacle(mapped);
        if let Some(look) = &mut self.last_look {
            look.meet(mapped, obstacle);
            return FolioStep::On;
        }
        if let Some(reason) = obstacle {
            return self.stay(mapped, reason);
        }
        if self.batch.size() >= self.limit.min(batch::MAX_PAGES) {
            return FolioStep::Stop;
        }
        match self.isolate(mapped) {
            Ok(()) => {}
            Err(NotIsolated::NotListed) if self.may_drain && !just_drained => {
                self.wants_drain = true;
                return FolioStep::Stop;
            }
            Err(_) => return self.stay(mapped, Reason::Busy),
        }
        if self
            .batch
            .add(
                mapped.pfn(),
                mapped.nr_pages(),
                mapped.index(),
                mapped.mapped(),
                pair,
                self.holds.filter(|_| !mapped.is_anon()),
            )
            .is_err()
        {
            // The limit above keeps this from happening. The list puts the folio back.
            return self.stay(mapped, Reason::Busy);
        }
        FolioStep::On
    }
}
