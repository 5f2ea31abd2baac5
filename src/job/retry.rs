// SPDX-License-Identifier: GPL-2.0

//! Tries once more what waits, round after round.
//!
//! A batch of a round takes pages of all pairs, so that those of full nodes make room for each other.
//!
//! Locks: none of its own; nothing is locked or isolated between two batches.

use core::ops::ControlFlow::{
    Break,
    Continue, //
};

use kernel::{
    page::PAGE_SHIFT,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    migrate::{
        batch,
        Attempt, //
    },
    pure::{
        counts::Reason,
        units::{
            PageNumber,
            Pages,
            Vpn, //
        }, //
    },
    shim, //
};

use super::{
    call::{
        Call,
        End,
        Flow,
        Look, //
    },
    rounds::{
        Left,
        Round,
        Rounds, //
    },
    Running, //
};

/// Pages of a pair that a batch takes at a time, at least.
const MIN_SHARE: Pages = Pages::new(32);

/// Walks for one batch, at most. What the first of them has isolated waits for the last.
const MAX_WALKS: usize = 32;

/// So many pages may wait for an attempt in the middle of the first pass.
const FEW: Pages = Pages::new(2 * batch::MAX_PAGES.get());

/// How long kswapd gets before the last round.
const KSWAPD_PAUSE: Delta = Delta::from_millis(20);

impl Call<'_> {
    /// Tries what waits once more, until no other round would help.
    ///
    /// # Breaks
    ///
    /// Where the call must end before that. It is to go on from the first page that waits.
    pub(super) fn rounds(&mut self, running: &Running<'_>) -> Flow {
        let mut rounds = Rounds::new();
        let mut before = Pages::NONE;
        loop {
            let waits = self.waiting.waits();
            let moved = self.outcome.counts.all_moved();
            let left = Left {
                moved: moved - before,
                no_memory: waits.no_memory,
                busy: waits.busy,
            };
            before = moved;
            let Some(round) = rounds.next(left) else {
                return Continue(());
            };
            // A call that is interrupted again and again must get on: a signal ends a round between two of
            // its batches only.
            let mut done = self.may_go_on();
            if done.is_continue() {
                let attempt = self.prepare_round(round);
                done = self.round(attempt);
            }
            self.show(running);
            if let Break(ended) = done {
                self.go_back(ended);
                return done;
            }
        }
    }

    /// Tries what waits once more in the middle of the first pass, unless it is so much that this would cost
    /// more than the pass. `drain`: after the CPUs have brought their pages to the LRU lists.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    pub(super) fn retry_few(&mut self, drain: bool) -> Flow {
        if self.waiting.waits().total() > FEW {
            return Continue(());
        }
        let mut done = self.may_go_on();
        if done.is_continue() {
            if drain {
                shim::folio::drain_lru();
            }
            done = self.round(Attempt::Patient);
        }
        if let Break(ended) = done {
            if self.outcome.resume >= self.order.range.end {
                self.go_back(ended);
            }
        }
        done
    }

    /// The call ends in the middle of a round: it is to go on from the first page that waits. After a signal
    /// that is one which this round has not tried: what it has tried in vain would end the next call as
    /// well.
    fn go_back(&mut self, ended: End) {
        let first = self.waiting.first(ended != End::Signal);
        let end = self.order.range.end;
        self.outcome.resume = first.map_or(end, |page| page.get() << PAGE_SHIFT);
    }

    /// Does what is to be done before a round, and says how hard it tries.
    fn prepare_round(&mut self, round: Round) -> Attempt {
        let attempt = match round {
            Round::Again => return Attempt::Quick,
            Round::Patient => Attempt::Patient,
            Round::Last { pause } => {
                if pause {
                    fsleep(KSWAPD_PAUSE);
                }
                self.load.try_anew();
                Attempt::Last
            }
        };
        // After the pause, as what runs in it fills the caches of the LRU lists again.
        shim::folio::drain_lru();
        attempt
    }

    /// Goes once over the pages that wait, and counts them anew. What is not met has been given back.
    ///
    /// # Breaks
    ///
    /// Where the call must end. What it has not come to by then still waits.
    pub(super) fn round(&mut self, attempt: Attempt) -> Flow {
        // What stays because it has yet to be written is noted anew, too.
        drop(self.load.batch.take_unwritten());
        let waits = self.waiting.begin_round();
        // Each page that waits may be in a file whose mark has been forgotten, or that is new.
        self.marks_left = waits.total().get();
        let mut taken = Pages::NONE;
        let done = self.retry(attempt, &mut taken);
        let missed = waits.without(taken);
        match done {
            Continue(()) => {
                self.outcome.counts.stay(Reason::Gone, missed.total());
                self.waiting.end_round();
            }
            Break(ended) => self.stay(missed, Some(ended)),
        }
        done
    }

    /// Moves what waits, batch after batch. Adds to `taken` the pages that were met.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    fn retry(&mut self, attempt: Attempt, taken: &mut Pages) -> Flow {
        let mut rest = Vpn::new(0);
        loop {
            self.read_mark()?;
            self.make_room()?;
            let Some(first) = self.fill_batch(&mut rest, taken)? else {
                return Continue(());
            };
            self.finish_batch(first.get() << PAGE_SHIFT, attempt)?;
            if self.waiting.is_round_over() {
                self.may_go_on()?;
            } else {
                self.pause()?;
            }
        }
    }

    /// Fills a batch with pages that wait, with the same share of each pair. Returns the page at which it
    /// began, `None` if there is nothing left to look at.
    ///
    /// When the round has been through all pairs, it looks at the `rest` from that page on.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    fn fill_batch(&mut self, rest: &mut Vpn, taken: &mut Pages) -> Flow<Option<Vpn>> {
        let end = self.order.range.end;
        let limit = self.limit();
        let pairs = self.waiting.pairs_left().clamp(1, MAX_WALKS);
        let share = limit
            .get()
            .checked_div(pairs as u64)
            .map_or(limit, Pages::new)
            .max(MIN_SHARE);
        let mut first = None;
        for _ in 0..pairs {
            let (look, page) = match self.waiting.next_turn() {
                Some((pair, page)) => (Look::Pair(pair), page),
                None => match self.waiting.now().next(*rest, Vpn::new(end >> PAGE_SHIFT)) {
                    Some(page) => (Look::Rest, page),
                    None => break,
                },
            };
            first = first.or(Some(page));
            let upto = limit.min(self.load.batch.size() + share);
            let walked = match self.walk(page.get() << PAGE_SHIFT, end, look, upto) {
                Continue(walked) => walked,
                Break(ended) => {
                    self.abandon_batch();
                    return Break(ended);
                }
            };
            *taken += walked.passed.taken;
            let resume = Vpn::new(walked.resume >> PAGE_SHIFT);
            match look {
                Look::Pair(pair) => self.waiting.go_on_at(pair, resume),
                _ => *rest = resume,
            }
            if walked.unknown.is_some() {
                // Its mark is read before the next batch.
                self.unknown = walked.unknown;
                self.marks_left = self.marks_left.saturating_sub(1);
                break;
            }
            if self.load.batch.is_full(limit) || resume == page {
                break;
            }
        }
        Continue(first)
    }
}
