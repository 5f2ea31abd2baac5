// SPDX-License-Identifier: GPL-2.0

//! A batch: the folios that one chunk of the walk found worth moving, and what became of them.

use kernel::prelude::*;

use crate::{
    pure::counts::{
        Counts,
        Reason, //
    },
    shim::folio::FolioList, //
};

/// Most base pages of a batch; the last folio may pass it.
pub(crate) const MAX_PAGES: u64 = 1024;

/// Slots of the hash table: a power of two, large enough that it never fills up.
const SLOTS: usize = 4096;
const NO_ENTRY: u16 = u16::MAX;

/// Folios are powers of two of pages, up to this one.
const MAX_ORDER: u32 = 18;

/// The reasons for which a folio that was tried may stay.
const TRIED: [Reason; 4] = [
    Reason::Busy,
    Reason::Pinned,
    Reason::Unmovable,
    Reason::NoMemory,
];

/// One folio.
struct Entry {
    pfn: usize,
    nr_pages: u64,
    pair: usize,
    /// Pages of it that the walk met for the first time.
    counted: u64,
    /// Pages of it that the walk met again.
    again: u64,
    /// The first page that was met, and the page after the last that was met for the first time.
    first_index: usize,
    next_index: usize,
    /// The last attempt to find a place for it, or for a part of it, failed.
    no_room: bool,
    /// Pages that moved, and those of them that went to another node than the named one.
    moved: u64,
    fallback: u64,
    /// Pages that stay, by reason, as in [`TRIED`].
    left: [u64; TRIED.len()],
    /// The first address of the VMA where it was met, if it can move only when it has been written.
    holds: Option<usize>,
}

impl Entry {
    /// How many pages of the folio, or of a part of it, the walk has met. When it has been split,
    /// there may be parts that the walk has not met.
    fn met(&self, pfn: usize, nr_pages: usize) -> u64 {
        let index = pfn.saturating_sub(self.pfn);
        let met = index.saturating_add(nr_pages).min(self.next_index);
        met.saturating_sub(index.max(self.first_index)) as u64
    }
}

/// Frames of a folio, or of a part of one that was split, that stay for the same reason.
struct Piece {
    pair: usize,
    pfn: usize,
    nr_pages: usize,
    reason: Reason,
}

/// Isolated folios of a batch.
pub(crate) struct Lists {
    pub(crate) plain: FolioList,
    /// Huge pages: one without room must not stop the others.
    pub(crate) huge: FolioList,
    /// Pages for which a server answers: one may be locked for as long as the server likes, and is not
    /// waited for.
    pub(crate) served: FolioList,
}

impl Lists {
    /// Puts all folios back where they came from.
    pub(crate) fn put_back(&mut self) {
        for list in [&mut self.plain, &mut self.huge, &mut self.served] {
            list.put_back();
        }
    }
}

/// Folios found by one chunk of the walk.
///
/// # Invariants
///
/// Each slot holds [`NO_ENTRY`] or an index into `entries`, whose capacity is [`MAX_PAGES`].
pub(crate) struct Batch {
    entries: KVVec<Entry>,
    slots: KVVec<u16>,
    /// Base pages that were met for the first time.
    pages: u64,
    /// Base pages of its folios.
    size: u64,
    /// What was tried and stays.
    pieces: KVVec<Piece>,
    /// There was no memory to note one of these.
    forgot: bool,
    /// VMAs, by their first address, of whose files pages stay because they have yet to be written.
    unwritten: KVVec<usize>,
}

/// VMAs of which that is remembered.
const MAX_UNWRITTEN: usize = 64;

impl Batch {
    /// Makes an empty batch with room for all that a chunk may find.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // INVARIANT: All slots are empty.
        Ok(Self {
            entries: KVVec::with_capacity(MAX_PAGES as usize, GFP_KERNEL_ACCOUNT)?,
            slots: KVVec::from_elem(NO_ENTRY, SLOTS, GFP_KERNEL_ACCOUNT)?,
            pages: 0,
            size: 0,
            pieces: KVVec::new(),
            forgot: false,
            unwritten: KVVec::with_capacity(MAX_UNWRITTEN, GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// Base pages in it that were met for the first time.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Base pages of its folios: what is isolated for it, and copied if all of it moves.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The slot of a frame, or the empty one where it would go.
    fn slot(&self, pfn: usize) -> usize {
        let hash = (pfn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut slot = hash as usize % SLOTS;
        // There are more slots than entries, so an empty one ends this.
        while let Some(&entry) = self.slots.get(slot) {
            match self.entries.get(usize::from(entry)) {
                Some(found) if found.pfn != pfn => slot = (slot + 1) % SLOTS,
                _ => break,
            }
        }
        slot
    }

    fn find(&mut self, pfn: usize) -> Option<&mut Entry> {
        let entry = *self.slots.get(self.slot(pfn))?;
        self.entries.get_mut(usize::from(entry))
    }

    /// The number of the folio that has or had this frame.
    pub(crate) fn number(&self, pfn: usize) -> Option<u16> {
        (0..=MAX_ORDER).find_map(|order| {
            let head = pfn & !((1usize << order) - 1);
            let number = *self.slots.get(self.slot(head))?;
            let entry = self.entries.get(usize::from(number))?;
            (((pfn - head) as u64) < entry.nr_pages).then_some(number)
        })
    }

    /// The entry of the folio that has or had this frame.
    fn find_covering(&mut self, pfn: usize) -> Option<&mut Entry> {
        let number = self.number(pfn)?;
        self.entries.get_mut(usize::from(number))
    }

    /// Notes that a folio was met that may be in the batch. Returns whether it is.
    ///
    /// Pages after those met so far are new, as a mapping is walked upwards; others are met again.
    pub(crate) fn meet(&mut self, pfn: usize, index: usize, mapped: usize) -> bool {
        let Some(entry) = self.find(pfn) else {
            return false;
        };
        let pages = mapped as u64;
        if index >= entry.next_index {
            entry.next_index = index.saturating_add(mapped);
            entry.counted = entry.counted.saturating_add(pages);
            self.pages = self.pages.saturating_add(pages);
        } else {
            entry.again = entry.again.saturating_add(pages);
        }
        true
    }

    /// Adds a folio that is not in the batch. There must be fewer than [`MAX_PAGES`] pages in it.
    pub(crate) fn add(
        &mut self,
        pfn: usize,
        nr_pages: usize,
        index: usize,
        mapped: usize,
        pair: usize,
        holds: Option<usize>,
    ) -> Result {
        let at = u16::try_from(self.entries.len())?;
        let slot = self.slot(pfn);
        let pages = mapped as u64;
        let entry = Entry {
            pfn,
            nr_pages: nr_pages as u64,
            pair,
            counted: pages,
            again: 0,
            first_index: index,
            next_index: index.saturating_add(mapped),
            no_room: false,
            moved: 0,
            fallback: 0,
            left: [0; TRIED.len()],
            holds,
        };
        self.entries
            .push_within_capacity(entry)
            .map_err(|_| ENOMEM)?;
        if let Some(slot) = self.slots.get_mut(slot) {
            // INVARIANT: `at` is the index of the entry just pushed.
            *slot = at;
        }
        self.pages = self.pages.saturating_add(pages);
        self.size = self.size.saturating_add(nr_pages as u64);
        Ok(())
    }

    /// Notes whether a place was found for a folio, by its number, or for a part of it.
    pub(crate) fn note_room(&mut self, number: u16, found: bool) {
        if let Some(entry) = self.entries.get_mut(usize::from(number)) {
            entry.no_room = !found;
        }
    }

    /// Notes that a folio, by its number, or a part of it from `pfn` on, has moved; with `fallback` to
    /// another node than the named one.
    pub(crate) fn note_moved(&mut self, number: u16, pfn: usize, nr_pages: usize, fallback: bool) {
        if let Some(entry) = self.entries.get_mut(usize::from(number)) {
            let pages = entry.met(pfn, nr_pages);
            entry.moved = entry.moved.saturating_add(pages);
            if fallback {
                entry.fallback = entry.fallback.saturating_add(pages);
            }
        }
    }

    /// Notes that a folio, or a part of one, stays. [`Reason::Busy`] becomes
    /// [`Reason::NoMemory`] where the last attempt found no room.
    pub(crate) fn note_left(&mut self, pfn: usize, nr_pages: usize, reason: Reason) {
        let Some(entry) = self.find_covering(pfn) else {
            return;
        };
        let reason = match reason {
            Reason::Busy if entry.no_room => Reason::NoMemory,
            reason => reason,
        };
        let met = entry.met(pfn, nr_pages);
        for (left, _) in entry
            .left
            .iter_mut()
            .zip(TRIED)
            .filter(|(_, tried)| *tried == reason)
        {
            *left = left.saturating_add(met);
        }
        let pair = entry.pair;
        if met > 0 {
            self.note_piece(pair, pfn, nr_pages, reason);
        }
    }

    /// Notes that a folio that stays has yet to be written by its file system.
    pub(crate) fn note_unwritten(&mut self, pfn: usize) {
        let holds = self.find_covering(pfn).and_then(|entry| entry.holds);
        if let Some(start) = holds.filter(|start| !self.unwritten.contains(start)) {
            // Of more files than these, a later call has pages to write.
            let _ = self.unwritten.push_within_capacity(start);
        }
    }

    /// The VMAs, by their first address, of whose files pages stay because they have yet to be written.
    pub(crate) fn take_unwritten(&mut self) -> KVVec<usize> {
        core::mem::take(&mut self.unwritten)
    }

    fn note_piece(&mut self, pair: usize, pfn: usize, nr_pages: usize, reason: Reason) {
        let next = |last: &Piece| last.pfn.checked_add(last.nr_pages);
        if let Some(last) = self
            .pieces
            .last_mut()
            .filter(|last| last.pair == pair && last.reason == reason && next(last) == Some(pfn))
        {
            last.nr_pages = last.nr_pages.saturating_add(nr_pages);
            return;
        }
        let piece = Piece {
            pair,
            pfn,
            nr_pages,
            reason,
        };
        self.forgot |= self.pieces.push(piece, GFP_KERNEL_ACCOUNT).is_err();
    }

    /// Counts what became of each folio, by reason and by pair, and empties the batch.
    ///
    /// Pages that neither moved nor stay have been given back by their process. In a `dry_run` nothing
    /// was tried, and all would move.
    ///
    /// Calls `stayed` with the pair, the first frame and the number of pages of what was tried and
    /// stays, and why. Returns whether that was all.
    pub(crate) fn settle(
        &mut self,
        dry_run: bool,
        counts: &mut Counts,
        by_pair: &mut [u64],
        mut stayed: impl FnMut(usize, usize, usize, Reason),
    ) -> bool {
        for piece in self.pieces.iter() {
            stayed(piece.pair, piece.pfn, piece.nr_pages, piece.reason);
        }
        let complete = !self.forgot;
        for entry in self.entries.iter() {
            // There may be holes between the pages that the walk met, so that the sums are too large.
            // What stays comes first: to be told of too much of it costs a repeated call, no more.
            let mut rest = entry.counted;
            let mut first = None;
            for (&left, reason) in entry.left.iter().zip(TRIED) {
                let left = left.min(rest);
                if left > 0 {
                    rest = rest.saturating_sub(left);
                    first = first.or(Some(reason));
                    counts.stay(reason, left);
                }
            }
            let moved = if dry_run { rest } else { rest.min(entry.moved) };
            counts.stay(Reason::Gone, rest.saturating_sub(moved));
            counts.moved(moved, moved.min(entry.fallback));
            if let Some(pages) = by_pair.get_mut(entry.pair) {
                *pages = pages.saturating_add(moved);
            }
            let again = match first {
                _ if moved > 0 => Reason::AlreadyMoved,
                Some(reason) => reason,
                None => Reason::Gone,
            };
            counts.stay(again, entry.again);
        }
        self.clear();
        complete
    }

    /// Calls `f` with the first frame and the number of pages of each folio.
    ///
    /// # Errors
    ///
    /// The first that `f` returns.
    pub(crate) fn try_for_each(&self, mut f: impl FnMut(usize, usize) -> Result) -> Result {
        for entry in self.entries.iter() {
            f(entry.pfn, usize::try_from(entry.nr_pages)?)?;
        }
        Ok(())
    }

    /// Empties the batch without counting anything.
    pub(crate) fn clear(&mut self) {
        // The last entry first: no other one was placed behind it.
        while let Some(pfn) = self.entries.last().map(|entry| entry.pfn) {
            let slot = self.slot(pfn);
            if let Some(slot) = self.slots.get_mut(slot) {
                *slot = NO_ENTRY;
            }
            self.entries.pop();
        }
        self.pages = 0;
        self.size = 0;
        self.pieces.clear();
        self.forgot = false;
    }
}
