// SPDX-License-Identifier: GPL-2.0

//! A load: one batch, and all that it takes to move it on whatever thread.
//!
//! Locks: none of its own; `migrate_pages()` takes the locks of folios.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    pure::{
        order::Map,
        units::{
            NodeId,
            Pages,
            Pfn, //
        }, //
    },
    shim::{
        self,
        folio::FolioList,
        page_set::PageSet,
        trace, //
    },
    target::Mems, //
};

use super::{
    batch::{
        Batch,
        Lists, //
    },
    run::{
        Attempt,
        Migration,
        Scratch, //
    }, //
};

/// Where the pages of a call go: the same for all of its loads.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) map: Arc<Map>,
    /// Where the job has moved pages to.
    pub(crate) frames: Arc<PageSet<Pfn>>,
    /// No fallback to other nodes.
    pub(crate) strict: bool,
}

/// One batch, and what it takes to move it.
pub(crate) struct Load {
    pub(crate) batch: Batch,
    pub(crate) lists: Lists,
    scratch: Scratch,
    /// Where the walk began that found it.
    pub(crate) at: usize,
    /// How long the last move took, in microseconds, if somebody watched.
    pub(crate) usecs: Option<u64>,
    /// Base pages that it copied, whether they are mapped in the range or not.
    pub(crate) copied: Pages,
    /// Memory for bookkeeping ran out in it.
    pub(crate) out_of_memory: bool,
}

impl Load {
    /// An empty load, whose first batch has room for so many folios.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(folios: usize) -> Result<Self> {
        let [huge, served, parked, sorted, one, plain @ ..] = FolioList::new_all()?;
        Ok(Self {
            batch: Batch::new(folios)?,
            lists: Lists {
                plain,
                huge,
                served,
            },
            scratch: Scratch::new([parked, sorted, one])?,
            at: 0,
            usecs: None,
            copied: Pages::NONE,
            out_of_memory: false,
        })
    }

    /// Forgets all but its memory, as a call has ended. What large folios have needed goes, too.
    pub(crate) fn tidy(&mut self) {
        self.give_up();
        self.batch.tidy();
        self.scratch.tidy();
        self.copied = Pages::NONE;
        self.usecs = None;
        self.out_of_memory = false;
    }

    /// Gets the memory for a batch of so many pairs. Nothing of its own may be isolated: the kernel may
    /// reclaim for it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn prepare(&mut self, pairs: usize) -> Result {
        self.scratch.prepare(self.batch.capacity(), pairs)
    }

    /// Whether large folios of its last batch found no room, where compaction may help.
    pub(crate) fn wants_room(&self) -> bool {
        self.scratch.wants_room()
    }

    /// Takes over what another load wants room for.
    pub(crate) fn take_wants(&mut self, other: &mut Self) {
        self.scratch.take_wants(&mut other.scratch);
    }

    /// Makes room for the large folios that found none in its last batch. Nothing may be isolated.
    pub(crate) fn make_room(&mut self, way: &Way) {
        shim::run_for(way.map.destinations(), &mut || self.scratch.make_room());
    }

    /// Gives back the room that was made and not used.
    pub(crate) fn drop_reserve(&mut self) {
        self.scratch.drop_reserve();
    }

    /// Forgets which nodes reclaim did not help.
    pub(crate) fn try_anew(&mut self) {
        self.scratch.try_anew();
    }

    /// Where its first folio goes, or with `from` where it comes from.
    pub(crate) fn node(&self, way: &Way, from: bool) -> Option<NodeId> {
        let pair = self.batch.pair(0)?;
        if from {
            way.map.source_of(pair)
        } else {
            way.map.named_by(pair)
        }
    }

    /// Moves the batch on a thread that may use all nodes, and notes in it what became of each folio. The
    /// target may use `mems`.
    pub(crate) fn run(&mut self, way: &Way, mems: &Mems, attempt: Attempt) {
        let begun = trace::Begun::batch();
        let mut migration = Migration::new(
            &way.map,
            mems,
            &way.frames,
            &mut self.batch,
            way.strict,
            attempt,
            &mut self.scratch,
        );
        self.copied = migration.run(&mut self.lists);
        self.out_of_memory = migration.out_of_memory;
        self.usecs = begun.map(trace::Begun::usecs);
    }

    /// Moves the batch on this thread, if it may use all nodes.
    pub(crate) fn run_here(&mut self, way: &Way, mems: &Mems, attempt: Attempt) {
        shim::run_for(way.map.destinations(), &mut || self.run(way, mems, attempt));
    }

    /// Puts the folios back where they came from, and empties the batch. Returns the pages that were met for it.
    pub(crate) fn give_up(&mut self) -> Pages {
        self.lists.put_back();
        self.batch.give_up()
    }
}
