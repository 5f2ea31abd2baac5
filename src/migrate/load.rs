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
    map: Arc<Map>,
    /// Where the job has moved pages to.
    frames: Arc<PageSet<Pfn>>,
    /// No fallback to other nodes.
    strict: bool,
}

impl Way {
    /// The way that `map` shows. The job that has moved pages to `frames` goes it.
    pub(crate) fn new(map: Arc<Map>, frames: Arc<PageSet<Pfn>>, strict: bool) -> Self {
        Self {
            map,
            frames,
            strict,
        }
    }
}

/// One batch, and what it takes to move it.
pub(crate) struct Load {
    pub(crate) batch: Batch,
    pub(crate) lists: Lists,
    scratch: Scratch,
    way: Way,
    /// Where the walk began that found it.
    pub(crate) at: usize,
    /// How long the last move took, in microseconds, if somebody watched.
    pub(crate) usecs: Option<u64>,
    /// Base pages that it copied, whether they are mapped in the range or not.
    pub(crate) copied: u64,
    /// Memory for bookkeeping ran out in it.
    pub(crate) out_of_memory: bool,
}

impl Load {
    /// An empty load, whose first batch has room for so many folios at most.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(way: Way, folios: usize) -> Result<Self> {
        let [plain, huge, served, others @ ..] = FolioList::new_all()?;
        Ok(Self {
            batch: Batch::new(folios)?,
            lists: Lists {
                plain,
                huge,
                served,
            },
            scratch: Scratch::new(others)?,
            way,
            at: 0,
            usecs: None,
            copied: 0,
            out_of_memory: false,
        })
    }

    /// Gets ready for another call, which goes `way`.
    pub(crate) fn reuse(&mut self, way: Way) {
        self.give_up();
        drop(self.batch.take_unwritten());
        self.scratch.try_anew();
        self.way = way;
        self.copied = 0;
        self.usecs = None;
        self.out_of_memory = false;
    }

    /// Whether it has no more memory than batches of small folios need.
    pub(crate) fn is_usual(&self) -> bool {
        self.batch.is_usual() && self.scratch.is_usual()
    }

    /// Gets the memory for a batch of so many pairs. Nothing may be isolated: the kernel may reclaim for it.
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

    /// Makes room for the large folios that found none in its last batch. Nothing may be isolated.
    pub(crate) fn make_room(&mut self) {
        let Self { scratch, way, .. } = self;
        shim::run_for(way.map.destinations(), &mut || scratch.make_room());
    }

    /// Forgets which nodes reclaim did not help.
    pub(crate) fn try_anew(&mut self) {
        self.scratch.try_anew();
    }

    /// A node to which some of its folios go.
    pub(crate) fn destination(&self) -> Option<NodeId> {
        let from = self.batch.pair(0)?;
        self.way.map.named_by(from)
    }

    /// Moves the batch on a thread that may use all nodes, and notes in it what became of each folio. The
    /// target may use `mems`.
    pub(crate) fn run(&mut self, mems: &Mems, attempt: Attempt) {
        let begun = trace::Begun::batch();
        let mut migration = Migration::new(
            &self.way.map,
            mems,
            &self.way.frames,
            &mut self.batch,
            self.way.strict,
            attempt,
            &mut self.scratch,
        );
        self.copied = migration.run(&mut self.lists);
        self.out_of_memory = migration.out_of_memory;
        self.usecs = begun.map(trace::Begun::usecs);
    }

    /// Moves the batch on this thread, if it may use all nodes.
    pub(crate) fn run_here(&mut self, mems: &Mems, attempt: Attempt) {
        let map = self.way.map.clone();
        shim::run_for(map.destinations(), &mut || self.run(mems, attempt));
    }

    /// Puts the folios back where they came from, and empties the batch. Returns the pages that were met for it.
    pub(crate) fn give_up(&mut self) -> u64 {
        self.lists.put_back();
        self.batch.give_up()
    }
}
