// SPDX-License-Identifier: GPL-2.0

//! Pages that found no room: which of them are tried again, in which order, and until when.
//!
//! Locks: none of its own; nothing is locked or isolated between two chunks.

use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    migrate::batch,
    shim, //
};

use super::{
    call::{
        Call,
        End,
        Mode, //
    },
    Running, //
};

/// Pages that are tried at least when full nodes change places.
const MIN_RESCUE_PAGES: u64 = 32;

/// How long kswapd gets before pages without room are tried as a last resort.
const KSWAPD_MOMENT: Delta = Delta::from_millis(20);

/// How often it gets that.
const MAX_MOMENTS: u32 = 8;

/// Notes for `pair` that something was left behind from `at` on.
pub(super) fn note_first(from: &mut [Option<usize>], pair: usize, at: usize) {
    if let Some(from) = from.get_mut(pair) {
        *from = Some(from.map_or(at, |first| first.min(at)));
    }
}

impl Call<'_> {
    /// Tries large folios of `at..resume` again for which nodes are to be compacted, now that nothing
    /// is isolated: a call that ends early would leave them behind. They were part of a batch that was
    /// within the call's limit.
    ///
    /// # Errors
    ///
    /// Says why the call must end.
    pub(super) fn try_wanted(&mut self, at: usize, resume: usize) -> Result<(), End> {
        if !self.scratch.wants_room() {
            return Ok(());
        }
        for pair in 0..self.order.lists.len() {
            let short = self.short_from.get(pair).copied().flatten();
            if short.is_some_and(|short| short <= at) {
                self.chunk(at, resume, Mode::Rescue(pair))?;
            }
        }
        Ok(())
    }

    /// Tries once more what found no room.
    ///
    /// Where full nodes change places, pages can move only as fast as others make room for them.
    /// So the pairs that were short take turns, each going on from where it first was short, until
    /// a whole round has moved nothing. Then they are tried as a last resort: after a moment for
    /// kswapd, which was woken and holds pages back while it works, with reclaim once more, with
    /// large folios split, and with what could not be tried in its turn. That, too, goes on until a
    /// round has moved nothing, and then once more from the start, but only so often, and only if
    /// anything has moved since the last time.
    ///
    /// # Errors
    ///
    /// Says why the call must end before the last of them has been tried.
    pub(super) fn rescue(&mut self, end: usize, running: &Running<'_>) -> Result<(), End> {
        if self.order.dry_run || self.outcome.counts.no_memory() == 0 {
            return Ok(());
        }
        let begun = self.outcome.counts.all_moved();
        // A target may fault in pages on the old nodes faster than they move. That must end, too.
        let goal = begun.saturating_add(self.outcome.counts.no_memory());
        let mut ended = Ok(());
        let (mut moments, mut moved_at_last) = (0, None);
        while self.outcome.counts.all_moved() < goal {
            let before = self.outcome.counts.all_moved();
            for pair in 0..self.order.lists.len() {
                ended = ended.and_then(|()| self.rescue_pair(pair, end, goal));
                running.show(&self.outcome.counts, end);
            }
            if ended.is_err() {
                break;
            }
            if self.outcome.counts.all_moved() > before {
                continue;
            }
            if moved_at_last == Some(before) || moments >= MAX_MOMENTS {
                break;
            }
            moments = moments.saturating_add(1);
            moved_at_last = Some(before);
            self.last_resort = true;
            self.scratch.try_anew();
            for (pair, passed) in self.passed_from.iter_mut().enumerate() {
                if let Some(at) = passed.take() {
                    note_first(&mut self.short_from, pair, at);
                }
            }
            fsleep(KSWAPD_MOMENT);
            // After the pause, as what runs in it fills the caches of the LRU lists again.
            shim::folio::drain_lru();
            ended = self.pause(false);
            if ended.is_err() {
                break;
            }
        }
        ended = ended.and_then(|()| self.look_again(end));
        if ended.is_err() {
            // The same call again goes on from the first page that may still move.
            let left = [&self.short_from, &self.passed_from];
            let first = left.iter().flat_map(|from| from.iter()).flatten().min();
            self.outcome.resume = first.copied().unwrap_or(end);
        }
        ended
    }

    /// Goes on with one pair for as long as there is room, up to `goal` moved pages in all.
    fn rescue_pair(&mut self, pair: usize, end: usize, goal: u64) -> Result<(), End> {
        while let Some(at) = self.short_from.get(pair).copied().flatten() {
            if let Some(from) = self.short_from.get_mut(pair) {
                *from = None;
            }
            let before = self.outcome.counts.all_moved();
            let walked = self.chunk(at, end, Mode::Rescue(pair));
            let Some(from) = self.short_from.get_mut(pair) else {
                break;
            };
            let full = from.is_some();
            if !full {
                *from = Some(*walked.as_ref().unwrap_or(&at)).filter(|&at| at < end);
            }
            walked?;
            let moved = self.outcome.counts.all_moved();
            self.rescue_pages = if full {
                // To take many off their lists for the sake of a few would cost more than to move.
                let room = moved.saturating_sub(before).saturating_mul(2);
                room.clamp(MIN_RESCUE_PAGES, batch::MAX_PAGES)
            } else {
                (self.rescue_pages.saturating_mul(2)).min(batch::MAX_PAGES)
            };
            if moved >= goal {
                break;
            }
            self.pause(false)?;
            if full && moved == before {
                // The turn of the next pair.
                break;
            }
        }
        Ok(())
    }

    /// Counts anew what is still without room: a page that moved when it was met again had been
    /// counted before, and others stay for another reason by now.
    fn look_again(&mut self, end: usize) -> Result<(), End> {
        if self.incomplete || self.outcome.counts.no_memory() == 0 {
            return Ok(());
        }
        let mut at = self.order.range.start;
        while at < end {
            at = self.chunk(at, end, Mode::LastLook)?;
            self.pause(at >= end)?;
        }
        self.outcome.counts.settle_no_memory(&self.remnant);
        Ok(())
    }
}
