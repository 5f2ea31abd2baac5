// SPDX-License-Identifier: GPL-2.0

//! A batch: the folios that are moved at a time, where they are mapped, and what became of them.
//!
//! A walk fills it with runs of mapped pages. Most are of folios that it has isolated, each of which has
//! one entry, however often it is met. When the folios have been moved, each run is counted by what
//! became of its pages. Example: a large folio of four pages is mapped twice; the kernel splits it and
//! moves the first two. It has one entry, two runs, and two parts: of the first run two pages have moved
//! and two wait, of the second run two had moved already and two wait.

use kernel::prelude::*;

use crate::{
    pure::{
        counts::{
            Counts,
            Reason, //
        },
        units::{
            PageNumber,
            Pages,
            Pfn,
            Span,
            Vpn, //
        }, //
    },
    shim::folio::FolioList, //
};

/// Most base pages of a batch, unless it is one folio that is larger.
pub(crate) const MAX_PAGES: Pages = Pages::new(1024);

/// Most folios of a batch.
pub(crate) const MAX_FOLIOS: usize = MAX_PAGES.get() as usize;

/// Folios that the first batch of a call may have. Calls on small processes need no more, and memory for
/// more would cost them as much as the rest of the call.
pub(crate) const FIRST_FOLIOS: usize = 32;

/// How many times more there is room for after a batch that was full.
const GROWTH: usize = 8;

/// Runs for each folio that there is room for. A folio may have any number of them, and where there are
/// more, the batch is full.
const RUNS_EACH: usize = 2;

/// Slots of the hash table for each folio that there is room for: so many that it never fills up. A
/// power of two, as the numbers of folios are.
const SLOTS_EACH: usize = 4;

/// No folio: an empty slot, or a run whose folio could not be isolated.
const NO_ENTRY: u16 = u16::MAX;

/// Folios are powers of two of pages, up to this one.
const MAX_ORDER: u32 = 18;

/// VMAs that are remembered whose files have pages to write.
const MAX_UNWRITTEN: usize = 64;

/// What became of a folio, or of a part of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It neither moved nor stays: its process has given it back.
    Gone,
    /// It has moved, with `fallback` to another node than the named one.
    Moved { fallback: bool },
    /// It stays.
    Left(Reason),
    /// It was split, and its parts have fates of their own; those without one are gone.
    InParts,
}

/// One folio.
struct Entry {
    frames: Span<Pfn>,
    pair: u16,
    /// The one before it in its group.
    older: u16,
    /// The last attempt to find a place for it, or for a part of it, failed.
    no_room: bool,
    fate: Fate,
    /// The page after the last one that was met for the first time.
    next_index: usize,
    /// The first address of the VMA where it was met, if it can move only when it has been written.
    holds: Option<usize>,
}

/// Pages of a folio that are mapped one after the other.
struct Run {
    first: Vpn,
    len: u32,
    /// Position of the first one in the folio.
    index: u32,
    entry: u16,
    pair: u16,
    /// They have been met before, through another mapping.
    again: bool,
}

/// A part of a folio that was split.
struct Part {
    frames: Span<Pfn>,
    fate: Fate,
}

/// A pair, or the number of an entry, as it is kept. There are no more pairs than nodes, whose numbers are as
/// short, and at most [`MAX_FOLIOS`] entries.
fn short(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// A run of pages that a walk was shown.
pub(crate) struct Found {
    pub(crate) pages: Span<Vpn>,
    /// The frames of their folio.
    pub(crate) frames: Span<Pfn>,
    /// Position of the first page in the folio.
    pub(crate) index: usize,
}

/// Pages that stay, and may be tried again.
pub(crate) struct Wait {
    pub(crate) pages: Span<Vpn>,
    pub(crate) pair: usize,
    pub(crate) reason: Reason,
}

/// Lists for folios of as many pairs. More pairs share them.
const GROUPS: usize = 8;

fn group(pair: usize) -> usize {
    pair % GROUPS
}

/// Isolated folios of a batch.
pub(crate) struct Lists {
    /// By pair: the kernel locks an LRU list for all folios of a node that follow each other.
    pub(crate) plain: [FolioList; GROUPS],
    /// Huge pages: one without room must not stop the others.
    pub(crate) huge: FolioList,
    /// Pages for which a server answers: one may be locked for as long as the server likes, and is not
    /// waited for.
    pub(crate) served: FolioList,
}

impl Lists {
    /// The list for folios of a pair of which nothing else is to be known.
    pub(crate) fn plain_of(&mut self, pair: usize) -> Option<&mut FolioList> {
        self.plain.get_mut(group(pair))
    }

    /// Puts all folios back where they came from.
    pub(crate) fn put_back(&mut self) {
        self.plain.iter_mut().for_each(FolioList::put_back);
        self.huge.put_back();
        self.served.put_back();
    }
}

/// Folios that are moved at a time.
///
/// # Invariants
///
/// Each slot holds [`NO_ENTRY`] or an index into `entries`. There are [`SLOTS_EACH`] slots for each entry
/// that there is room for, and their number is a power of two.
pub(crate) struct Batch {
    entries: KVVec<Entry>,
    /// A hash table by frame, of the first `indexed` entries. It is filled when a folio has to be looked
    /// for, which most batches never need: a folio on its LRU list is not in the batch, and the kernel asks
    /// for the folios one after the other.
    slots: KVVec<u16>,
    indexed: usize,
    /// The folio that is most likely to be looked for next.
    guess: u16,
    /// The newest folio of each group.
    newest: [u16; GROUPS],
    runs: KVVec<Run>,
    /// Base pages of its folios that were met for the first time.
    pages: Pages,
    /// Base pages of its folios.
    size: Pages,
    /// Some of them are large.
    has_large: bool,
    /// Parts of those that were split.
    parts: KVVec<Part>,
    /// VMAs, by their first address, of whose files pages stay because they have yet to be written.
    unwritten: KVVec<usize>,
}

impl Batch {
    /// Makes an empty batch that has room for so many folios.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(folios: usize) -> Result<Self> {
        let mut batch = Self {
            entries: KVVec::new(),
            slots: KVVec::new(),
            indexed: 0,
            guess: NO_ENTRY,
            newest: [NO_ENTRY; GROUPS],
            runs: KVVec::new(),
            pages: Pages::NONE,
            size: Pages::NONE,
            has_large: false,
            parts: KVVec::new(),
            unwritten: KVVec::new(),
        };
        batch.make_room_for(folios.clamp(1, MAX_FOLIOS))?;
        Ok(batch)
    }

    /// Makes room for so many folios. The batch must be empty.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; it stays as it is then.
    fn make_room_for(&mut self, folios: usize) -> Result {
        let gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
        let entries = KVVec::with_capacity(folios, gfp)?;
        let runs = KVVec::with_capacity(RUNS_EACH.saturating_mul(folios), gfp)?;
        let slots = SLOTS_EACH.saturating_mul(entries.capacity());
        // INVARIANT: All slots are empty. A number of slots below a power of two is rounded up.
        self.slots = KVVec::from_elem(NO_ENTRY, slots.next_power_of_two(), gfp)?;
        self.entries = entries;
        self.runs = runs;
        Ok(())
    }

    /// Base pages of its folios that were met, each counted once.
    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// Base pages of its folios: what is isolated for it, and copied if all of it moves.
    pub(crate) fn size(&self) -> Pages {
        self.size
    }

    /// Folios that it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.capacity().min(MAX_FOLIOS)
    }

    /// Gives up memory that folios which were split, or have yet to be written, have needed.
    pub(crate) fn tidy(&mut self) {
        self.parts = KVVec::new();
        self.unwritten = KVVec::new();
    }

    /// Gets room for so many folios, if it has less. The batch must be empty. Without memory for it, batches are
    /// small.
    pub(crate) fn grow_to(&mut self, folios: usize) {
        if self.capacity() < folios.min(MAX_FOLIOS) {
            let _ = self.make_room_for(folios.min(MAX_FOLIOS));
        }
    }

    /// Whether no page has been met.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Folios that are isolated for it.
    pub(crate) fn folios(&self) -> usize {
        self.entries.len()
    }

    /// Whether its folios have `limit` pages, or there is no room for another one.
    pub(crate) fn is_full(&self, limit: Pages) -> bool {
        self.size >= limit.min(MAX_PAGES) || self.entries.len() >= self.capacity()
    }

    /// Whether a folio of so many pages would take it past [`MAX_PAGES`].
    pub(crate) fn is_too_large_for(&self, folio: Pages) -> bool {
        self.size > Pages::NONE && self.size + folio > MAX_PAGES
    }

    /// Whether some of its folios are large.
    pub(crate) fn has_large(&self) -> bool {
        self.has_large
    }

    /// Counts the small folios of each pair.
    pub(crate) fn count_small(&self, by_pair: &mut [u16]) {
        by_pair.fill(0);
        for entry in self.entries.iter().filter(|entry| entry.frames.len == 1) {
            if let Some(count) = by_pair.get_mut(usize::from(entry.pair)) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// Whether these are the frames of a folio, by its number, and not of a part of it.
    pub(crate) fn is_whole(&self, number: u16, frames: Span<Pfn>) -> bool {
        let entry = self.entries.get(usize::from(number));
        entry.is_some_and(|entry| entry.frames == frames)
    }

    /// The pair of a folio, by its number.
    pub(crate) fn pair(&self, number: u16) -> Option<usize> {
        let entry = self.entries.get(usize::from(number));
        entry.map(|entry| usize::from(entry.pair))
    }

    /// Whether there is room for another run.
    pub(crate) fn has_room_for_run(&self) -> bool {
        self.runs.len() < self.runs.capacity()
    }

    /// The slot of a frame, or the empty one where it would go.
    fn slot(&self, pfn: Pfn) -> usize {
        let mask = self.slots.len().wrapping_sub(1);
        let hash = (pfn.get() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut slot = hash as usize & mask;
        // There are more slots than entries, so an empty one ends this.
        while let Some(&entry) = self.slots.get(slot) {
            match self.entries.get(usize::from(entry)) {
                Some(found) if found.frames.first != pfn => slot = slot.wrapping_add(1) & mask,
                _ => break,
            }
        }
        slot
    }

    /// Puts the entries into the hash table that are not in it.
    fn index(&mut self) {
        while let Some(entry) = self.entries.get(self.indexed) {
            let slot = self.slot(entry.frames.first);
            if let Some(slot) = self.slots.get_mut(slot) {
                // INVARIANT: It is the index of an entry.
                *slot = short(self.indexed);
            }
            self.indexed = self.indexed.saturating_add(1);
        }
    }

    /// The number, if it is that of the folio that has or had this frame.
    fn if_has(&self, number: u16, pfn: Pfn) -> Option<u16> {
        let entry = self.entries.get(usize::from(number))?;
        entry.frames.contains(pfn).then_some(number)
    }

    /// Gets ready to be asked for all folios, one group after the other.
    pub(crate) fn begin(&mut self) {
        self.guess = self.newest_from(0);
    }

    /// The newest folio of the first group that has any, from this one on.
    fn newest_from(&self, group: usize) -> u16 {
        let mut groups = self.newest.iter().skip(group);
        groups
            .find(|&&number| number != NO_ENTRY)
            .copied()
            .unwrap_or(NO_ENTRY)
    }

    /// The number of the folio that has or had this frame. The kernel isolates each folio to the head of
    /// a list, so that it asks for the newest of a group first, and then for the one before it.
    pub(crate) fn number(&mut self, pfn: Pfn) -> Option<u16> {
        let number = self.if_has(self.guess, pfn).or_else(|| {
            self.index();
            (0..=MAX_ORDER).find_map(|order| {
                let number = *self.slots.get(self.slot(pfn.head(order)))?;
                self.if_has(number, pfn)
            })
        })?;
        let entry = self.entries.get(usize::from(number))?;
        self.guess = match entry.older {
            NO_ENTRY => self.newest_from(group(entry.pair.into()).wrapping_add(1)),
            older => older,
        };
        Some(number)
    }

    fn push_run(&mut self, found: &Found, entry: u16, pair: u16, again: bool) {
        let (index, len) = (u32::try_from(found.index), u32::try_from(found.pages.len));
        // Both are at most the pages of a gigantic folio. The caller has seen that there is room.
        let _ = self.runs.push_within_capacity(Run {
            first: found.pages.first,
            index: index.unwrap_or(u32::MAX),
            len: len.unwrap_or(u32::MAX),
            entry,
            pair,
            again,
        });
    }

    /// Notes a run of pages if its folio is in the batch. Returns whether it is.
    ///
    /// Pages after those met so far are new, as a mapping is walked upwards; others are met again. There
    /// must be room for a run.
    pub(crate) fn meet(&mut self, found: &Found) -> bool {
        self.index();
        let slot = self.slot(found.frames.first);
        let number = self.slots.get(slot).copied().unwrap_or(NO_ENTRY);
        let Some(entry) = self.entries.get_mut(usize::from(number)) else {
            return false;
        };
        let again = found.index < entry.next_index;
        let pair = entry.pair;
        if !again {
            entry.next_index = found.index.saturating_add(found.pages.len);
            self.pages += found.pages.count();
        }
        self.push_run(found, number, pair, again);
        true
    }

    /// Adds a run of pages and their folio, which has been isolated and is not in the batch. The batch
    /// must not be full, and there must be room for a run.
    pub(crate) fn add(&mut self, found: &Found, pair: usize, holds: Option<usize>) {
        let pair = short(pair);
        let number = short(self.entries.len());
        let older = self
            .newest
            .get_mut(group(pair.into()))
            .map_or(NO_ENTRY, |newest| core::mem::replace(newest, number));
        let entry = Entry {
            frames: found.frames,
            pair,
            older,
            no_room: false,
            fate: Fate::Gone,
            next_index: found.index.saturating_add(found.pages.len),
            holds,
        };
        // The caller has seen that there is room.
        let _ = self.entries.push_within_capacity(entry);
        self.push_run(found, number, pair, false);
        self.pages += found.pages.count();
        self.size += found.frames.count();
        self.has_large |= found.frames.len > 1;
    }

    /// Adds a run of pages whose folio somebody else has. There must be room for a run.
    pub(crate) fn pass(&mut self, found: &Found, pair: usize) {
        self.push_run(found, NO_ENTRY, short(pair), false);
    }

    /// Notes that no place was found for a folio, by its number, or for a part of it.
    pub(crate) fn note_no_room(&mut self, number: u16) {
        if let Some(entry) = self.entries.get_mut(usize::from(number)) {
            entry.no_room = true;
        }
    }

    /// Notes that a place was found for `nr_pages` of a folio, by its number. If that is all of it, it has moved,
    /// unless [`note_not_placed`](Self::note_not_placed) follows.
    pub(crate) fn note_placed(&mut self, number: u16, nr_pages: usize, fallback: bool) {
        if let Some(entry) = self.entries.get_mut(usize::from(number)) {
            entry.no_room = false;
            if nr_pages >= entry.frames.len {
                entry.fate = Fate::Moved { fallback };
            }
        }
    }

    /// Notes that the place for a folio, by its number, or for a part of it, was not used.
    pub(crate) fn note_not_placed(&mut self, number: u16) {
        let entry = self.entries.get_mut(usize::from(number));
        // Of a part, nothing has been noted yet.
        if let Some(entry) = entry.filter(|entry| matches!(entry.fate, Fate::Moved { .. })) {
            entry.fate = Fate::Gone;
        }
    }

    fn note(&mut self, number: u16, frames: Span<Pfn>, fate: Fate) {
        let Some(entry) = self.entries.get_mut(usize::from(number)) else {
            return;
        };
        if frames.len >= entry.frames.len {
            entry.fate = fate;
            return;
        }
        // One part could not be noted: then all stays, and is found to have moved when it is met again.
        if matches!(entry.fate, Fate::Left(_)) {
            return;
        }
        let part = Part { frames, fate };
        let gfp = GFP_NOWAIT | __GFP_NOWARN;
        entry.fate = match self.parts.push(part, gfp) {
            Ok(()) => Fate::InParts,
            Err(_) => Fate::Left(Reason::Busy),
        };
    }

    /// Notes that a folio, by its number, or the part of it that had these frames, has moved; with
    /// `fallback` to another node than the named one.
    pub(crate) fn note_moved(&mut self, number: u16, frames: Span<Pfn>, fallback: bool) {
        self.note(number, frames, Fate::Moved { fallback });
    }

    /// Notes that a folio, or a part of one, stays. [`Reason::Busy`] becomes
    /// [`Reason::NoMemory`] where the last attempt found no room.
    pub(crate) fn note_left(&mut self, frames: Span<Pfn>, reason: Reason) {
        let Some(number) = self.number(frames.first) else {
            return;
        };
        let no_room = |entry: &Entry| entry.no_room;
        let fate = match reason {
            Reason::Gone => Fate::Gone,
            Reason::Busy if self.entries.get(usize::from(number)).is_some_and(no_room) => {
                Fate::Left(Reason::NoMemory)
            }
            reason => Fate::Left(reason),
        };
        self.note(number, frames, fate);
    }

    /// Notes that a folio that stays has yet to be written by its file system.
    pub(crate) fn note_unwritten(&mut self, pfn: Pfn) {
        let number = self.number(pfn).map(usize::from);
        let entry = number.and_then(|number| self.entries.get(number));
        let holds = entry.and_then(|entry| entry.holds);
        if let Some(start) = holds.filter(|start| !self.unwritten.contains(start)) {
            // Of more files than these, a later call has pages to write.
            if self.unwritten.len() < MAX_UNWRITTEN {
                let gfp = GFP_NOWAIT | __GFP_NOWARN;
                let _ = self.unwritten.push(start, gfp);
            }
        }
    }

    /// The VMAs, by their first address, of whose files pages stay because they have yet to be written.
    pub(crate) fn take_unwritten(&mut self) -> KVVec<usize> {
        core::mem::take(&mut self.unwritten)
    }

    /// Notes of each folio that it would have moved, and calls `f` with its frames.
    ///
    /// # Errors
    ///
    /// The first that `f` returns.
    pub(crate) fn imagine(&mut self, f: impl Fn(Span<Pfn>) -> Result) -> Result {
        let mut done = Ok(());
        for entry in self.entries.iter_mut() {
            entry.fate = Fate::Moved { fallback: false };
            done = done.and_then(|()| f(entry.frames));
        }
        done
    }

    /// Counts what became of each page, by reason and by pair, and empties the batch. Calls `wait` with
    /// the pages that stay, but may be tried again; it counts them.
    pub(crate) fn settle(
        &mut self,
        counts: &mut Counts,
        by_pair: &mut [Pages],
        mut wait: impl FnMut(&mut Counts, Wait),
    ) {
        let mut moved = |counts: &mut Counts, pair: u16, pages: Pages, fallback: bool| {
            counts.moved(pages, fallback);
            if let Some(sum) = by_pair.get_mut(usize::from(pair)) {
                *sum += pages;
            }
        };
        // Most pages are of runs that follow each other, and have moved to where they were to.
        let (mut pair, mut pages) = (0, Pages::NONE);
        for run in self.runs.iter() {
            if self.has_moved(run) {
                if run.pair != pair {
                    moved(counts, pair, core::mem::take(&mut pages), false);
                    pair = run.pair;
                }
                pages += Pages::new(run.len.into());
                continue;
            }
            let mut each = |offset: usize, nr_pages: usize, fate: Fate| {
                let pages = Pages::new(nr_pages as u64);
                match fate {
                    Fate::Gone | Fate::InParts => counts.stay(Reason::Gone, pages),
                    Fate::Moved { .. } if run.again => counts.stay(Reason::AlreadyMoved, pages),
                    Fate::Moved { fallback } => moved(counts, run.pair, pages, fallback),
                    Fate::Left(reason) if reason.may_change() => wait(
                        counts,
                        Wait {
                            pages: Span::new(run.first, run.len as usize).part(offset, nr_pages),
                            pair: usize::from(run.pair),
                            reason,
                        },
                    ),
                    Fate::Left(reason) => counts.stay(reason, pages),
                }
            };
            match self.entries.get(usize::from(run.entry)) {
                Some(entry) if entry.fate == Fate::InParts => self.parts_of(run, entry, each),
                Some(entry) => each(0, run.len as usize, entry.fate),
                None => each(0, run.len as usize, Fate::Left(Reason::Busy)),
            }
        }
        moved(counts, pair, pages, false);
        self.clear();
    }

    /// Whether all pages of a run have moved to the named node, and were met for the first time.
    fn has_moved(&self, run: &Run) -> bool {
        let entry = self.entries.get(usize::from(run.entry));
        let fate = entry.map(|entry| entry.fate);
        fate == Some(Fate::Moved { fallback: false }) && !run.again
    }

    /// Calls `each` with the fates of the pages of a run whose folio was split, and where they begin within it.
    fn parts_of(&self, run: &Run, entry: &Entry, mut each: impl FnMut(usize, usize, Fate)) {
        let mut rest = run.len as usize;
        let frames = entry.frames.part(run.index as usize, rest);
        for part in self.parts.iter() {
            if let Some((offset, nr_pages)) = frames.common(part.frames) {
                each(offset, nr_pages, part.fate);
                rest = rest.saturating_sub(nr_pages);
            }
        }
        if rest > 0 {
            each(0, rest, Fate::Gone);
        }
    }

    /// Empties the batch, of which nothing has been tried. Returns the pages that were met for it.
    pub(crate) fn give_up(&mut self) -> Pages {
        let pages = self.runs.iter().map(|run| Pages::new(run.len.into())).sum();
        self.clear();
        pages
    }

    /// Empties the batch, and makes room for a larger one if it had no more.
    fn clear(&mut self) {
        let full = self.entries.len() >= self.capacity() || !self.has_room_for_run();
        if self.indexed > 0 {
            self.slots.fill(NO_ENTRY);
            self.indexed = 0;
        }
        self.newest = [NO_ENTRY; GROUPS];
        // INVARIANT: All slots are empty.
        self.entries.clear();
        self.runs.clear();
        self.parts.clear();
        self.pages = Pages::NONE;
        self.size = Pages::NONE;
        self.has_large = false;
        if full {
            self.grow_to(self.capacity().saturating_mul(GROWTH));
        }
    }
}
