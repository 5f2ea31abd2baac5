// SPDX-License-Identifier: GPL-2.0

//! Sorts the pages on old nodes that a walk shows: what must stay is counted, what may move is
//! isolated into a batch.
//!
//! Locks: runs under mmap_lock and, for each folio, its page-table lock. Below these it takes none.

use crate::{
    marks::Mark,
    migrate::batch::{
        Batch,
        Found,
        Lists, //
    },
    pure::{
        counts::{
            Counts,
            Reason, //
        },
        order::Map,
        units::{
            Pages,
            Pfn, //
        }, //
    },
    shim::{
        mm::{
            FolioStep,
            Mapped,
            Visitor,
            Vma,
            VmaStep, //
        },
        page_set::PageSet, //
    },
};

use super::Context;

/// Sorts the pages of one walk.
pub(crate) struct Sorter<'a> {
    pub(crate) map: &'a Map,
    pub(crate) context: Context<'a>,
    /// Pages that other processes map may move too.
    pub(crate) move_shared: bool,
    /// Frames of pages that would have moved, were this not a dry run.
    pub(crate) imagined: Option<&'a PageSet<Pfn>>,
    /// Where isolated folios go; `None` to leave them alone.
    pub(crate) lists: Option<&'a mut Lists>,
    pub(crate) batch: &'a mut Batch,
    /// Counts the pages that are not even tried.
    pub(crate) counts: &'a mut Counts,
    /// Stop when the folios of the batch have so many pages, whether they are mapped here or not: all
    /// of them are isolated and copied.
    pub(crate) limit: Pages,
}

impl Sorter<'_> {
    fn stay(&mut self, mapped: &Mapped<'_>, reason: Reason) -> FolioStep {
        self.counts.stay(reason, mapped.pages().count());
        FolioStep::On
    }

    /// Why a page on an old node must not be tried, if so.
    fn obstacle(&self, mapped: &Mapped<'_>) -> Option<Reason> {
        let Context { mark, writable, .. } = self.context;
        if mark.exempts(mapped.is_anon(), writable) {
            Some(Reason::Exempt)
        } else if mapped.is_shared() && !self.move_shared {
            Some(Reason::Shared)
        } else if mapped.is_unmovable() {
            Some(Reason::Unmovable)
        } else if mark == Mark::Unknown {
            Some(Reason::Busy)
        } else if mapped.is_pinned() {
            Some(Reason::Pinned)
        } else {
            None
        }
    }

    /// Isolates a folio into the list for its kind.
    fn isolate(&mut self, mapped: &Mapped<'_>, pair: usize) -> bool {
        let Some(lists) = &mut self.lists else {
            return true;
        };
        let list = if mapped.is_hugetlb() {
            Some(&mut lists.huge)
        } else if self.context.served && !mapped.is_anon() {
            Some(&mut lists.served)
        } else {
            lists.plain_of(pair)
        };
        list.is_some_and(|list| mapped.isolate(list))
    }
}

impl Visitor for Sorter<'_> {
    fn shares(&self) -> bool {
        self.imagined.is_none()
    }

    fn vma(&mut self, vma: &Vma) -> VmaStep {
        self.context.enter(vma)
    }

    fn folio(&mut self, mapped: &Mapped<'_>) -> FolioStep {
        if !self.batch.has_room_for_run() {
            return FolioStep::Stop;
        }
        let found = Found {
            pages: mapped.pages(),
            frames: mapped.frames(),
            index: mapped.index(),
        };
        // What is on its list is not isolated, so not in the batch. A dry run isolates nothing.
        let may_be_known = !mapped.is_listed() || self.lists.is_none();
        if may_be_known && self.batch.meet(&found) {
            return FolioStep::On;
        }
        if !mapped.is_migrating()
            && self
                .imagined
                .is_some_and(|f| f.contains(found.frames.first))
        {
            return self.stay(mapped, Reason::AlreadyMoved);
        }
        let Some(pair) = self.map.pair(mapped.node()) else {
            return self.stay(mapped, Reason::InPlace);
        };
        if let Some(reason) = self.obstacle(mapped) {
            return self.stay(mapped, reason);
        }
        if mapped.is_migrating() {
            self.batch.pass(&found, pair);
            return FolioStep::On;
        }
        if self.batch.is_full(self.limit) || self.batch.is_too_large_for(found.frames.count()) {
            return FolioStep::Stop;
        }
        if self.isolate(mapped, pair) {
            let holds = self.context.holds.filter(|_| !mapped.is_anon());
            self.batch.add(&found, pair, holds);
        } else {
            self.batch.pass(&found, pair);
        }
        FolioStep::On
    }
}
