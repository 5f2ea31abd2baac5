// SPDX-License-Identifier: GPL-2.0

//! Batches in flight: threads of the kernel move them while the call walks on.
//!
//! The call fills a load, exchanges it for one that is empty, and waits when as many are in flight as there
//! are workers. Example, with two:
//!
//! ```text
//! call       walk A | walk B | wait for A | count A, walk C | wait for B | count B, walk D | ...
//! worker              move A ............|                  | move C .................|
//! worker                       | move B ..................|                  | move D ...
//! ```
//!
//! A page whose folio is in flight, met through another mapping, cannot be isolated: it waits, and a round
//! finds that it has moved. So what a complete call does and counts does not depend on the number of workers;
//! one that a signal ends may count such a page as busy. Rounds, dry runs and calls with `max_pages` have no
//! workers: they move a batch before they look for the next one.
//!
//! Locks: none.

use core::ops::ControlFlow::{
    Break,
    Continue, //
};

use crate::{
    migrate::{
        batch,
        Attempt,
        Load,
        Way, //
    },
    pure::{
        order::{
            self,
            Order, //
        },
        units::Pages, //
    },
    shim::{
        self,
        worker::{
            Crew,
            Work, //
        }, //
    },
    target::Mems, //
};

use super::call::{
    self,
    Call,
    Flow, //
};

/// Base pages of a batch that is worth a worker's time. The call moves smaller ones itself.
const MIN_SIZE: Pages = Pages::new(batch::MAX_PAGES.get() / 4);

/// Batches of such a size that the call itself moves before it has workers. Less work is not worth theirs.
const ALONE: u32 = 2;

/// Threads for each node that pages go to, if the call may choose. More of them would wait for its memory.
const EACH: usize = 2;

/// A load, and what its worker has to know.
struct Cargo {
    load: Load,
    way: Way,
    mems: Mems,
}

impl Work for Cargo {
    fn work(&mut self) {
        self.load.run(&self.way, &self.mems, Attempt::Quick);
        // What has moved is to be found on the LRU lists by the next call.
        shim::folio::drain_lru_here();
    }
}

/// The workers of a call.
pub(super) struct Workers {
    /// How many there are to be; with one, the call does it all.
    number: usize,
    /// Batches of some size so far.
    alone: u32,
    /// A copy is near on either side. So as not to crowd the CPUs of one node, batches go to where pages
    /// come from and to where they go by turns.
    turn: bool,
    crew: Option<Crew<Cargo>>,
}

impl Workers {
    /// Whether they move batches while the call walks.
    pub(super) fn are_there(&self) -> bool {
        self.crew.is_some()
    }

    /// None yet.
    pub(super) fn new(order: &Order) -> Self {
        let number = if order.dry_run || order.max_pages.is_some() {
            1
        } else if order.workers > 0 {
            order.workers
        } else {
            choose(order.map.destinations().count())
        };
        Self {
            number,
            alone: 0,
            turn: false,
            crew: None,
        }
    }
}

/// How many workers a call has that may choose: half of the CPUs at most, as others work on this machine.
fn choose(destinations: usize) -> usize {
    let cpus = shim::nr_cpus() / 2;
    let most = EACH.saturating_mul(destinations).min(order::MAX_WORKERS);
    cpus.clamp(1, most.max(1))
}

impl Call<'_> {
    /// Gets the workers if there is enough to do. Nothing is isolated now. Without memory for them, the call
    /// does it all.
    pub(super) fn get_workers(&mut self) {
        let Workers {
            number,
            alone,
            crew,
            ..
        } = &mut self.workers;
        if *number <= 1 || crew.is_some() || *alone < ALONE {
            return;
        }
        let (way, pairs, mems) = (&self.way, self.order.lists.len(), self.target.mems());
        let make = || {
            let mut load = Load::new(batch::MAX_FOLIOS)?;
            load.prepare(pairs)?;
            Ok(Cargo {
                load,
                way: way.clone(),
                mems: mems.try_clone()?,
            })
        };
        match Crew::new(*number, make) {
            Ok(new) => *crew = Some(new),
            Err(_) => *number = 1,
        }
    }

    /// Whether a worker is to move the batch that is ready. Notes that it is there if not.
    pub(super) fn is_for_worker(&mut self) -> bool {
        if self.load.batch.size() < MIN_SIZE {
            return false;
        }
        self.workers.alone = self.workers.alone.saturating_add(1);
        self.workers.are_there()
    }

    /// Has a worker move the batch that a walk from `at` on has found, and waits if none is left for the next
    /// one.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    pub(super) fn hand_over(&mut self, at: usize) -> Flow {
        self.ask_cpuset()?;
        self.load.at = at;
        let Some(crew) = &mut self.workers.crew else {
            return Continue(());
        };
        self.workers.turn = !self.workers.turn;
        let node = self.load.node(&self.way, self.workers.turn);
        crew.begin(node, |cargo| {
            core::mem::swap(&mut cargo.load, self.load);
            cargo.mems.assign(self.target.mems());
        });
        if crew.is_busy() {
            self.settle_one()?;
        }
        Continue(())
    }

    /// Waits until a batch that is in flight has been moved, and counts it. Returns whether there was one.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    fn settle_one(&mut self) -> Flow<bool> {
        let Some(cargo) = self.workers.crew.as_mut().and_then(Crew::wait) else {
            return Continue(false);
        };
        let task = self.target.task();
        call::settle(
            &mut cargo.load,
            &mut self.outcome,
            self.waiting,
            false,
            task,
        )?;
        Continue(true)
    }

    /// Waits until nothing is in flight, and counts what was.
    ///
    /// # Breaks
    ///
    /// Where the call must end. Nothing is in flight then, either.
    pub(super) fn settle_all(&mut self) -> Flow {
        let mut done = Continue(());
        loop {
            match self.settle_one() {
                Continue(true) => {}
                Continue(false) => return done,
                Break(ended) => done = Break(ended),
            }
        }
    }

    /// Ends the workers, and counts what they have done.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    pub(super) fn end_workers(&mut self) -> Flow {
        let done = self.settle_all();
        self.workers.number = 1;
        if let Some(mut crew) = self.workers.crew.take() {
            for cargo in crew.idle() {
                self.load.take_wants(&mut cargo.load);
            }
        }
        done
    }
}
