// SPDX-License-Identifier: GPL-2.0

//! Migration of one batch: destinations, fallback, retry, and why something stayed.

use kernel::prelude::*;

use crate::{
    pure::{
        counts::Reason,
        node_map::Destination,
        order::Map,
        units::{
            NodeId,
            Pages,
            Pfn,
            Span, //
        }, //
    },
    shim::{
        folio::{
            self,
            Effort,
            FolioList,
            Mover,
            NewFolio,
            Source, //
        },
        node,
        page_set::{
            Adder,
            PageSet, //
        }, //
    },
    target::Mems, //
};

use super::{
    batch::{
        self,
        Batch,
        Lists, //
    },
    place::{
        Place,
        Places, //
    },
    route::Routes,
    stock::Stock, //
};

/// Batches after which reclaim is tried once more on a node where it did not help.
const PATIENCE: u32 = 64;

/// Flags of a node. `SOURCE_*`: small or large folios from it found no destination in this pass.
/// `EXHAUSTED_*`: reclaim for small, or compaction for large folios did not help there, and is not tried
/// again yet. `FULL`: it had nothing free, as far as could be seen; free pages may be on the lists of other
/// CPUs.
const SOURCE_SMALL: u8 = 1;
const SOURCE_LARGE: u8 = 2;
const EXHAUSTED_SMALL: u8 = 4;
const EXHAUSTED_LARGE: u8 = 8;
const FULL: u8 = 16;

/// Folios up to this order are split rather than that a node is compacted for each of them. It is the
/// kernel's `PAGE_ALLOC_COSTLY_ORDER`.
const MAX_SPLIT_ORDER: u32 = 3;

/// A size of large folios for which a node is to be compacted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Want {
    node: NodeId,
    order: u32,
    hugetlb: bool,
}

/// Sizes that are wanted at a time, at most. What is wanted besides is asked for again.
const MAX_WANTS: usize = 16;

/// New folios that a batch may have: it may be one large folio, in pieces. A gigantic page is never split.
const MAX_PLACED: usize = 16 * batch::MAX_FOLIOS;

/// Base pages that the kernel is shown at a time. It unmaps all of them before it copies the first, so who
/// touches one of them waits for the rest.
const AT_A_TIME: usize = 64;

/// A batch that may be so large gets pages ahead.
const MIN_STOCKED: usize = 64;

/// A new folio that has not been given back.
struct Placed {
    /// The number in the batch of the folio that it is for.
    number: u16,
    /// The first frame of that folio, or of the part of it.
    src: Pfn,
    frames: Span<Pfn>,
    fallback: bool,
}

/// How hard a batch is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Without waiting for folios that others have locked.
    Quick,
    /// With waiting for them.
    Patient,
    /// As that, and large folios are split even where not all of their pages have room.
    Last,
}

/// Moves the folios of a batch to where the map says.
pub(crate) struct Migration<'a> {
    map: &'a Map,
    mems: &'a Mems,
    frames: Adder<'a, Pfn>,
    batch: &'a mut Batch,
    strict: bool,
    attempt: Attempt,
    scratch: &'a mut Scratch,
    /// Some folio found no room in this pass.
    short: bool,
    /// Memory for bookkeeping ran out.
    pub(crate) out_of_memory: bool,
}

/// Memory that is used for one batch after the other.
pub(crate) struct Scratch {
    placed: KVVec<Placed>,
    places: Places,
    routes: Routes,
    /// Single pages that were allocated ahead.
    stock: Stock,
    /// For each pair the small folios of the batch that have no place yet.
    need: KVVec<u16>,
    nodes: KVVec<u8>,
    batches: u32,
    /// What to compact nodes for before the next batch, and large folios that came of it.
    wants: KVVec<Want>,
    reserve: KVVec<(Want, NewFolio)>,
    /// Folios whose destinations are full. Empty between two passes.
    parked: FolioList,
    /// Folios that have been looked at, before they go back to their list. Empty when all have been.
    sorted: FolioList,
    /// The folio that is being looked at, while it is not known where it goes; those that the kernel has yet
    /// to be shown.
    ahead: FolioList,
}

impl Scratch {
    /// Uses the empty `lists` as long as it lives.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(lists: [FolioList; 3]) -> Result<Self> {
        let [parked, sorted, ahead] = lists;
        Ok(Self {
            placed: KVVec::new(),
            places: Places::new(),
            routes: Routes::new(),
            stock: Stock::new(),
            need: KVVec::new(),
            nodes: KVVec::from_elem(0, node::count(), GFP_KERNEL_ACCOUNT)?,
            batches: 0,
            wants: KVVec::new(),
            reserve: KVVec::new(),
            parked,
            sorted,
            ahead,
        })
    }

    /// Gets ready for a batch of up to so many folios, of so many pairs.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn prepare(&mut self, folios: usize, pairs: usize) -> Result {
        self.placed.clear();
        self.placed.reserve(folios, GFP_KERNEL_ACCOUNT)?;
        if folios >= MIN_STOCKED {
            self.stock.prepare()?;
            self.routes.prepare()?;
            self.need.resize(pairs, 0, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// Forgets all, and gives up memory that large folios have needed.
    pub(crate) fn tidy(&mut self) {
        self.try_anew();
        if self.placed.capacity() > 2 * batch::MAX_FOLIOS {
            self.placed = KVVec::new();
        }
        self.places = Places::new();
        self.routes.clear();
        self.wants.clear();
        self.reserve.clear();
    }

    /// Makes room to note the pieces of large folios that are split, before folios are locked. The kernel may
    /// split any by itself. Where there is no memory, it is tried again for each piece.
    fn make_room_for_pieces(&mut self, pages: Pages) {
        let pages = usize::try_from(pages.get()).unwrap_or(usize::MAX);
        let gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
        let _ = self.placed.reserve(pages.min(MAX_PLACED), gfp);
    }

    /// Forgets which nodes reclaim did not help.
    pub(crate) fn try_anew(&mut self) {
        self.nodes.fill(0);
    }

    /// Whether large folios found no room in the last batch where compaction may help.
    pub(crate) fn wants_room(&self) -> bool {
        !self.wants.is_empty()
    }

    /// Takes over what another one wants room for.
    pub(crate) fn take_wants(&mut self, other: &mut Self) {
        while let Some(want) = other.wants.pop() {
            self.want(want);
        }
    }

    /// Gives back the room that was made and not used.
    pub(crate) fn drop_reserve(&mut self) {
        self.reserve.clear();
    }

    /// Compacts nodes for the large folios that found no room in the last batch. One size of each
    /// node is tried once; where that does not help, folios are split.
    ///
    /// Nothing may be isolated: compaction waits for isolated pages to come back.
    pub(crate) fn make_room(&mut self) {
        self.reserve.clear();
        while let Some(want) = self.wants.pop() {
            let found = folio::allocate(want.node, want.order, want.hugetlb, Effort::Light);
            match found {
                // Without memory for it, it is given back, and is there to be found.
                Some(folio) => drop(self.reserve.push((want, folio), GFP_KERNEL_ACCOUNT)),
                None => self.mark(want.node, EXHAUSTED_LARGE),
            }
        }
    }

    fn mark(&mut self, node: NodeId, flag: u8) {
        if let Some(flags) = self.nodes.get_mut(node.index()) {
            *flags |= flag;
        }
    }

    fn is_marked(&self, node: NodeId, flag: u8) -> bool {
        let flags = self.nodes.get(node.index());
        flags.is_some_and(|flags| flags & flag != 0)
    }

    fn want(&mut self, want: Want) {
        if !self.wants.contains(&want) && self.wants.len() < MAX_WANTS {
            let _ = self.wants.push(want, GFP_NOWAIT | __GFP_NOWARN);
        }
    }

    fn take_reserve(&mut self, want: Want) -> Option<NewFolio> {
        let at = self.reserve.iter().position(|(kept, _)| *kept == want)?;
        self.reserve.remove(at).ok().map(|(_, folio)| folio)
    }

    /// Gives free pages of nodes that looked full, which other CPUs keep for themselves, back to them.
    fn drain_full(&mut self) {
        for (index, flags) in self.nodes.iter_mut().enumerate() {
            let Some(node) = NodeId::new(index).filter(|_| *flags & FULL != 0) else {
                continue;
            };
            *flags &= !FULL;
            folio::drain_free(node);
        }
    }
}

impl<'a> Migration<'a> {
    /// Prepares to move `batch`.
    pub(crate) fn new(
        map: &'a Map,
        mems: &'a Mems,
        frames: &'a PageSet<Pfn>,
        batch: &'a mut Batch,
        strict: bool,
        attempt: Attempt,
        scratch: &'a mut Scratch,
    ) -> Self {
        scratch.placed.clear();
        scratch.batches = scratch.batches.wrapping_add(1);
        if scratch.batches % PATIENCE == 0 {
            scratch.try_anew();
        }
        Self {
            map,
            mems,
            frames: Adder::new(frames),
            batch,
            strict,
            attempt,
            scratch,
            short: false,
            out_of_memory: false,
        }
    }

    /// Moves what can be moved, puts the rest back, and notes in the batch what became of each. Returns
    /// the base pages that were copied.
    pub(crate) fn run(&mut self, lists: &mut Lists) -> Pages {
        if self.batch.has_large() {
            self.scratch.make_room_for_pieces(self.batch.size());
            self.scratch.places.prepare(self.batch.folios());
        }
        self.batch.count_small(&mut self.scratch.need);
        let wait = self.attempt != Attempt::Quick;
        self.batch.begin();
        let [plain, others @ ..] = &mut lists.plain;
        others.iter_mut().for_each(|list| plain.append(list));
        self.pass(plain, wait);
        self.pass(&mut lists.huge, wait);
        self.pass(&mut lists.served, false);
        if !self.batch.has_large() {
            return Pages::new(self.scratch.placed.len() as u64);
        }
        let mut copied = Pages::NONE;
        for placed in self.scratch.placed.iter() {
            copied += placed.frames.count();
            let from = Span::new(placed.src, placed.frames.len);
            self.batch.note_moved(placed.number, from, placed.fallback);
        }
        copied
    }

    /// Moves one list.
    ///
    /// The kernel gives a list up at the first folio without room. So folios whose destinations are
    /// full are parked, and the others go on; what they free may be what the parked ones need.
    fn pass(&mut self, list: &mut FolioList, wait: bool) {
        let begun = self.scratch.placed.len();
        let mut drained = false;
        let mut parked_at = begun;
        loop {
            self.prepare(list);
            if list.is_empty() {
                if self.scratch.parked.is_empty() {
                    break;
                }
                if self.scratch.placed.len() > parked_at {
                    // Pages moved, so pages were freed: worth another look.
                } else if !drained && parked_at == begun {
                    // Freed pages may wait in the caches of other CPUs while their node looks full.
                    // Where some have moved, the others get another turn, and this if need be.
                    self.scratch.drain_full();
                    drained = true;
                } else {
                    break;
                }
                list.append(&mut self.scratch.parked);
                parked_at = self.scratch.placed.len();
                continue;
            }
            let before = self.scratch.placed.len();
            self.short = false;
            for node in self.scratch.nodes.iter_mut() {
                *node &= !(SOURCE_SMALL | SOURCE_LARGE);
            }
            self.show(list, wait);
            if self.stayed_whole(list) {
                // Unsplittable folios are tried once more, with one destination for the whole of each.
            } else if !self.short {
                self.give_up(list, Reason::Busy);
            } else if self.scratch.placed.len() > before {
                // Pages moved, and were freed: the rest gets another look.
            } else if !drained && before == begun {
                self.scratch.drain_full();
                drained = true;
            } else {
                // What moves from now on may have made room for the first that was parked.
                if self.scratch.parked.is_empty() {
                    parked_at = self.scratch.placed.len();
                }
                self.park(list);
            }
        }
        self.scratch.places.clear();
        self.scratch.stock.clear();
        list.append(&mut self.scratch.parked);
        let reason = if self.out_of_memory {
            Reason::Busy
        } else {
            Reason::NoMemory
        };
        self.give_up(list, reason);
    }

    /// Has the kernel migrate `list`, part after part. Those that were not migrated stay in it.
    fn show(&mut self, list: &mut FolioList, wait: bool) {
        self.scratch.ahead.append(list);
        while !self.scratch.ahead.is_empty() {
            self.scratch.ahead.take(AT_A_TIME, list);
            list.migrate(self, wait);
            self.scratch.sorted.append(list);
        }
        list.append(&mut self.scratch.sorted);
    }

    /// Finds places for the large folios of `list`, and sets those aside that have none.
    ///
    /// So a folio is split only where that helps. Huge pages of a pool are never split.
    fn prepare(&mut self, list: &mut FolioList) {
        if !self.batch.has_large() {
            return;
        }
        while let Some(src) = list.first() {
            let shown = src.order == 0 || src.hugetlb || self.find_place(&src);
            list.shift(if shown {
                &mut self.scratch.sorted
            } else {
                &mut self.scratch.parked
            });
        }
        list.append(&mut self.scratch.sorted);
        self.batch.begin();
    }

    /// Looks for a place for a large folio, unless it has one. Part of one that was split is looked after when the
    /// kernel asks.
    fn find_place(&mut self, src: &Source) -> bool {
        let Some(number) = self.batch.number(src.frames.first) else {
            return false;
        };
        if !self.batch.is_whole(number, src.frames) || self.scratch.places.has(number) {
            return true;
        }
        let Some(place) = self.place_for(src) else {
            self.batch.note_no_room(number);
            return false;
        };
        let noted = self.scratch.places.put(number, place).is_ok();
        self.out_of_memory |= !noted;
        noted
    }

    fn place_for(&mut self, src: &Source) -> Option<Place> {
        let pages = src.frames.len;
        let mut splits = !self.scratch.places.is_unsplittable(pages);
        let last_resort = self.attempt == Attempt::Last;
        let mut step = 0;
        while let Some(Destination { node, fallback }) = self.next(src.node, &mut step) {
            if let Some(folio) = self.allocate_on(src, node, src.order) {
                return Some(Place::Whole { folio, fallback });
            }
            // Compaction may still find room for the whole, once the batch is back.
            splits &= src.order <= MAX_SPLIT_ORDER
                || last_resort
                || self.scratch.is_marked(node, EXHAUSTED_LARGE);
            if !splits {
                continue;
            }
            let promised = self.scratch.places.promised(node);
            // As a last resort, room for a single page is enough, but only for one folio at a time.
            let splits_here = node::has_room(node, promised.saturating_add(pages))
                || (last_resort && promised == 0 && self.allocate_on(src, node, 0).is_some());
            if !splits_here {
                continue;
            }
            if src.order > MAX_SPLIT_ORDER {
                // Room that folios have left in pieces stays so while CPUs keep some of them for themselves.
                folio::drain_free(node);
                if let Some(folio) = self.allocate_on(src, node, src.order) {
                    return Some(Place::Whole { folio, fallback });
                }
            }
            return Some(Place::Pieces {
                node,
                pages,
                asked: false,
            });
        }
        None
    }

    /// Whether large folios of `list` should have been split in the last pass and were not: file
    /// systems with large blocks have such, and who holds a reference prevents it, too.
    fn stayed_whole(&mut self, list: &mut FolioList) -> bool {
        if !self.scratch.places.any_pieces() {
            return false;
        }
        let mut any = false;
        while let Some(folio) = list.shift(&mut self.scratch.sorted) {
            let frames = folio.frames;
            let number = self.batch.number(frames.first).filter(|_| folio.large);
            if let Some(number) = number.filter(|&number| self.batch.is_whole(number, frames)) {
                any |= self.scratch.places.is_still_whole(number, frames.len);
            }
        }
        self.scratch.places.forget_asked();
        list.append(&mut self.scratch.sorted);
        any
    }

    /// Sets those aside that found no room in the last pass; all of them if it cannot be told.
    fn park(&mut self, list: &mut FolioList) {
        let mut any = false;
        while let Some(folio) = list.shift(&mut self.scratch.ahead) {
            let flag = if folio.large {
                SOURCE_LARGE
            } else {
                SOURCE_SMALL
            };
            let full = self
                .scratch
                .nodes
                .get(folio.node.index())
                .is_some_and(|n| n & flag != 0);
            if full {
                any = true;
                self.scratch.parked.append(&mut self.scratch.ahead);
            } else {
                self.scratch.sorted.append(&mut self.scratch.ahead);
            }
        }
        if any {
            list.append(&mut self.scratch.sorted);
        } else {
            self.scratch.parked.append(&mut self.scratch.sorted);
        }
    }

    /// Notes why the folios of `list` stay, and puts them back.
    fn give_up(&mut self, list: &mut FolioList, reason: Reason) {
        while let Some(folio) = list.shift(&mut self.scratch.sorted) {
            let reason = if folio.freed {
                Reason::Gone
            } else if folio.pinned {
                Reason::Pinned
            } else {
                reason
            };
            self.batch.note_left(folio.frames, reason);
            if folio.unwritten && reason == Reason::Busy {
                self.batch.note_unwritten(folio.frames.first);
            }
        }
        self.scratch.sorted.put_back();
    }

    /// The next node to try for a page on `from`, after so many steps. One that the target has lost is as a full
    /// one.
    fn next(&mut self, from: NodeId, step: &mut usize) -> Option<Destination> {
        loop {
            let next = self
                .scratch
                .routes
                .step(self.map, from, *step, self.strict)?;
            *step = step.saturating_add(1);
            if self.mems.allows(next.node) {
                return Some(next);
            }
        }
    }

    /// Looks for room on one node: what is free first, then, unless that failed not long ago, with
    /// a little reclaim. For large folios that has to wait until nothing is isolated.
    fn allocate_on(&mut self, src: &Source, node: NodeId, order: u32) -> Option<NewFolio> {
        let hugetlb = src.hugetlb;
        if let Some(folio) = folio::allocate(node, order, hugetlb, Effort::None) {
            return Some(folio);
        }
        self.scratch.mark(node, FULL);
        if order > 0 {
            let want = Want {
                node,
                order,
                hugetlb,
            };
            let kept = self.scratch.take_reserve(want);
            if kept.is_none()
                && order > MAX_SPLIT_ORDER
                && !self.scratch.is_marked(node, EXHAUSTED_LARGE)
            {
                self.scratch.want(want);
            }
            return kept;
        }
        if self.scratch.is_marked(node, EXHAUSTED_SMALL) {
            return None;
        }
        let light = folio::allocate(node, order, hugetlb, Effort::Light);
        // Another node is for what has no room on this one: its free pages may be on the lists of CPUs.
        let folio = light.or_else(|| {
            folio::drain_free(node);
            folio::allocate(node, order, hugetlb, Effort::None)
        });
        if folio.is_none() {
            self.scratch.mark(node, EXHAUSTED_SMALL);
        }
        folio
    }

    /// Looks for room on one node after the other.
    fn allocate(&mut self, src: &Source, order: u32) -> Option<(NewFolio, bool)> {
        let mut step = 0;
        while let Some(Destination { node, fallback }) = self.next(src.node, &mut step) {
            if let Some(folio) = self.allocate_on(src, node, order) {
                return Some((folio, fallback));
            }
        }
        None
    }

    /// A page of the node that the lists name for a small folio, by its number, if it is to be had ahead.
    fn take_from_stock(&mut self, number: u16) -> Option<NewFolio> {
        let pair = self.batch.pair(number)?;
        let need = self.need(pair);
        let node = self.map.named_by(pair)?;
        if !self.mems.allows(node) {
            return None;
        }
        // What was taken before it looked full is still there.
        let full = self.scratch.is_marked(node, FULL);
        self.scratch.stock.take(node, if full { 0 } else { need })
    }

    /// The small folios of a pair that have no place yet, and this one.
    fn need(&mut self, pair: usize) -> u16 {
        let Some(need) = self.scratch.need.get_mut(pair) else {
            return 0;
        };
        let all = *need;
        *need = all.saturating_sub(1);
        all
    }

    /// The place that was found for a folio before, or what can be found now.
    fn place(&mut self, src: &Source, number: u16) -> Option<(NewFolio, bool)> {
        let order = src.order;
        if order == 0 {
            if let Some(folio) = self.take_from_stock(number) {
                return Some((folio, false));
            }
            return self.allocate(src, order);
        }
        if self.batch.is_whole(number, src.frames) {
            let places = &mut self.scratch.places;
            if let Some(place) = places.take_whole(number, src.frames.len) {
                return Some(place);
            }
            if places.ask_for_pieces(number) {
                return None;
            }
        }
        self.allocate(src, order)
    }

    /// Remembers a new folio, for its frames and for what `src` becomes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn remember(&mut self, number: u16, src: &Source, folio: &NewFolio, fallback: bool) -> Result {
        let placed = Placed {
            number,
            src: src.frames.first,
            frames: Span::new(folio.pfn(), src.frames.len),
            fallback,
        };
        // There is room, unless memory was short: then it is tried once more.
        self.scratch.placed.reserve(1, GFP_NOWAIT | __GFP_NOWARN)?;
        self.frames.add(placed.frames)?;
        self.scratch
            .placed
            .push_within_capacity(placed)
            .map_err(|_| ENOMEM)
    }
}

impl Mover for Migration<'_> {
    fn new_folio(&mut self, src: &Source) -> Option<NewFolio> {
        // Whatever the kernel is shown is of the batch.
        let number = self.batch.number(src.frames.first)?;
        if let Some((folio, fallback)) = self.place(src, number) {
            if self.remember(number, src, &folio, fallback).is_ok() {
                self.batch.note_placed(number, src.frames.len, fallback);
                return Some(folio);
            }
            self.out_of_memory = true;
        } else {
            self.batch.note_no_room(number);
        }
        self.short = true;
        let large = src.order > 0;
        let flag = if large { SOURCE_LARGE } else { SOURCE_SMALL };
        self.scratch.mark(src.node, flag);
        None
    }

    fn unused(&mut self, folio: NewFolio) {
        let frames = folio.frames();
        let placed = &mut self.scratch.placed;
        if let Some(at) = placed.iter().rposition(|p| p.frames == frames) {
            self.frames.remove(frames);
            if let Some(placed) = placed.get(at) {
                self.batch.note_not_placed(placed.number);
            }
            // Order does not matter: the last one takes its place.
            if let Some(last) = placed.pop() {
                if let Some(slot) = placed.get_mut(at) {
                    *slot = last;
                }
            }
        }
    }
}
