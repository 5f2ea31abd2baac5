// SPDX-License-Identifier: GPL-2.0

//! Pages that wait for another round of the same call: they found no room, or were busy.
//!
//! They are known by their place in the address space, not by their frames: so each mapping of a page
//! waits by itself, whatever has come into a frame since, and a page that a round does not meet has been
//! given back.
//!
//! Locks: none.

use kernel::prelude::*;

use crate::{
    migrate::batch::Wait,
    pure::{
        counts::Waits,
        units::{
            PageNumber,
            Vpn, //
        }, //
    },
    shim::page_set::PageSet, //
};

/// The pages that wait.
///
/// A round takes pages out of `now`, pair by pair, and what has to wait again is put into `next`, which
/// becomes `now` in the next round.
pub(super) struct Waiting {
    now: PageSet<Vpn>,
    next: PageSet<Vpn>,
    /// Why those of `next` wait.
    waits: Waits,
    /// Some have come since the last round.
    has_new: bool,
    /// For each pair the first of its pages in `next`.
    first: KVVec<Option<Vpn>>,
    /// For each pair the page at which the round is to go on, if it has not been through.
    turns: KVVec<Option<Vpn>>,
    /// The pair whose turn it is.
    turn: usize,
}

impl Waiting {
    /// No page waits, and there are no pairs.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            now: PageSet::new()?,
            next: PageSet::new()?,
            waits: Waits::default(),
            has_new: false,
            first: KVVec::new(),
            turns: KVVec::new(),
            turn: 0,
        })
    }

    /// Forgets all that waits.
    pub(super) fn clear(&mut self) {
        self.now.clear();
        self.next.clear();
        self.waits = Waits::default();
        self.has_new = false;
    }

    /// Gets ready for so many pairs. Nothing waits.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn set_pairs(&mut self, pairs: usize) -> Result {
        self.first.clear();
        self.first.resize(pairs, None, GFP_KERNEL_ACCOUNT)?;
        self.turns.clear();
        self.turns.resize(pairs, None, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// Notes that pages wait for the next round.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; they do not wait then.
    pub(super) fn add(&mut self, wait: &Wait) -> Result {
        self.next.add(wait.pages)?;
        self.waits.add(wait.reason, wait.pages.count());
        self.has_new = true;
        if let Some(first) = self.first.get_mut(wait.pair) {
            let page = wait.pages.first;
            *first = Some(first.map_or(page, |first| first.min(page)));
        }
        Ok(())
    }

    /// Whether pages have come since the last round.
    pub(super) fn has_new(&self) -> bool {
        self.has_new
    }

    /// Why pages wait for the next round.
    pub(super) fn waits(&self) -> Waits {
        self.waits
    }

    /// The first page that waits for this round, or with `tried` for the next one.
    pub(super) fn first(&self, tried: bool) -> Option<Vpn> {
        let now = self.now.first(Vpn::new(0));
        let next = self.next.first(Vpn::new(0)).filter(|_| tried);
        Iterator::chain(now.into_iter(), next).min()
    }

    /// Whether no page waits for this round any more.
    pub(super) fn is_round_over(&self) -> bool {
        self.now.first(Vpn::new(0)).is_none()
    }

    /// Ends a round that has looked at everything: what it has not met has been given back.
    pub(super) fn end_round(&mut self) {
        self.now.clear();
        self.has_new = false;
    }

    /// Begins a round over all that waits. Returns why they wait. The last round has ended.
    pub(super) fn begin_round(&mut self) -> Waits {
        core::mem::swap(&mut self.now, &mut self.next);
        core::mem::swap(&mut self.turns, &mut self.first);
        self.first.fill(None);
        // The lowest page is among those that are tried first.
        let pairs = self.turns.iter().enumerate();
        let lowest = pairs.filter_map(|(pair, page)| page.map(|page| (page, pair)));
        self.turn = lowest.min().map_or(0, |(_, pair)| pair);
        core::mem::take(&mut self.waits)
    }

    /// Pages that have not been taken in this round.
    pub(super) fn now(&self) -> &PageSet<Vpn> {
        &self.now
    }

    /// Pairs that the round has not been through.
    pub(super) fn pairs_left(&self) -> usize {
        self.turns.iter().flatten().count()
    }

    /// The next pair whose turn it is in this round, and the page at which it is to go on.
    pub(super) fn next_turn(&mut self) -> Option<(usize, Vpn)> {
        for _ in 0..self.turns.len() {
            let pair = self.turn;
            self.turn = pair.saturating_add(1);
            if self.turn >= self.turns.len() {
                self.turn = 0;
            }
            let Some(turn) = self.turns.get_mut(pair) else {
                continue;
            };
            *turn = turn.and_then(|page| self.now.first(page));
            if let Some(page) = *turn {
                return Some((pair, page));
            }
        }
        None
    }

    /// The pair is to go on at `page` in its next turn.
    pub(super) fn go_on_at(&mut self, pair: usize, page: Vpn) {
        if let Some(turn) = self.turns.get_mut(pair) {
            *turn = Some(page);
        }
    }
}
