// SPDX-License-Identifier: GPL-2.0

//! Migration of one batch: destinations, fallback, retry, and why something stayed.

use kernel::prelude::*;

use crate::{
    batch::{
        self,
        Batch,
        Lists, //
    },
    frames::Frames,
    places::{
        Place,
        Places,
        Whom, //
    },
    result::Reason,
    shim::{
        self,
        folio::{
            Effort,
            FolioList,
            Mover,
            NewFolio,
            Source, //
        },
        node::{
            self,
            Map, //
        }, //
    }, //
};

/// Batches after which reclaim is tried once more on a node where it did not help.
const PATIENCE: u32 = 64;

/// No room for small pages, and none for large ones, of a node: as a source in this pass, as a
/// destination even after some reclaim.
const SOURCE_SMALL: u8 = 1;
const SOURCE_LARGE: u8 = 2;
const TIRED_SMALL: u8 = 4;
const TIRED_LARGE: u8 = 8;

/// A new folio that has not been given back.
struct Placed {
    src: usize,
    pfn: usize,
    nr_pages: usize,
    fallback: bool,
}

/// Moves the folios of a batch to where the map says.
pub(crate) struct Migration<'a> {
    map: &'a Map,
    frames: &'a Frames,
    batch: &'a mut Batch,
    strict: bool,
    last_resort: bool,
    scratch: &'a mut Scratch,
    /// Some folio found no room in this pass.
    short: bool,
    /// Memory for bookkeeping ran out.
    pub(crate) broke: bool,
}

/// Memory that is used for one batch after the other.
pub(crate) struct Scratch {
    placed: KVVec<Placed>,
    places: Places,
    nodes: KVVec<u8>,
    batches: u32,
    parked: FolioList,
    sorted: FolioList,
    hand: FolioList,
}

impl Scratch {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            // Enough for a batch, whose last folio may be a huge page in pieces: to grow it where
            // folios are locked may fail.
            placed: KVVec::with_capacity(2 * batch::MAX_PAGES as usize, GFP_KERNEL_ACCOUNT)?,
            places: Places::new(),
            nodes: KVVec::from_elem(0, node::count(), GFP_KERNEL_ACCOUNT)?,
            batches: 0,
            parked: FolioList::new()?,
            sorted: FolioList::new()?,
            hand: FolioList::new()?,
        })
    }

    /// Forgets which nodes reclaim did not help.
    pub(crate) fn try_anew(&mut self) {
        self.nodes.fill(0);
    }
}

impl<'a> Migration<'a> {
    /// Prepares to move `batch`. As a `last_resort`, large folios are split even where not all of
    /// their pages have room.
    pub(crate) fn new(
        map: &'a Map,
        frames: &'a Frames,
        batch: &'a mut Batch,
        strict: bool,
        last_resort: bool,
        scratch: &'a mut Scratch,
    ) -> Self {
        scratch.placed.clear();
        scratch.batches = scratch.batches.wrapping_add(1);
        if scratch.batches % PATIENCE == 0 {
            scratch.try_anew();
        }
        Self {
            map,
            frames,
            batch,
            strict,
            last_resort,
            scratch,
            short: false,
            broke: false,
        }
    }

    /// Moves what can be moved, puts the rest back, and notes in the batch what became of each.
    pub(crate) fn run(&mut self, lists: &mut Lists) {
        self.pass(&mut lists.plain, true);
        self.pass(&mut lists.huge, true);
        self.pass(&mut lists.fuse, false);
        for placed in self.scratch.placed.iter().filter(|p| p.fallback) {
            self.batch.note_fallback(placed.src, placed.nr_pages as u64);
        }
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
                    shim::folio::drain_free();
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
            list.migrate(self, wait);
            if self.stayed_whole(list) {
                // They get a place for all of them, or none. That happens to each once.
            } else if !self.short {
                self.give_up(list, Reason::Busy);
            } else if self.scratch.placed.len() > before {
                // As above.
            } else if !drained && before == begun {
                shim::folio::drain_free();
                drained = true;
            } else {
                self.park(list);
                parked_at = self.scratch.placed.len();
            }
        }
        self.scratch.places.clear();
        list.append(&mut self.scratch.parked);
        let reason = if self.broke {
            Reason::Busy
        } else {
            Reason::NoMemory
        };
        self.give_up(list, reason);
    }

    /// Finds places for the large folios of `list`, and sets those aside that have none.
    ///
    /// So a folio is split only where that helps. Huge pages of a pool are never split.
    fn prepare(&mut self, list: &mut FolioList) {
        while let Some(src) = list.first() {
            let shown = src.order() == 0 || src.is_hugetlb() || self.find_place(&src);
            list.shift(if shown {
                &mut self.scratch.sorted
            } else {
                &mut self.scratch.parked
            });
        }
        list.append(&mut self.scratch.sorted);
    }

    /// Looks for a place for a large folio, unless it has one.
    fn find_place(&mut self, src: &Source<'_>) -> bool {
        let Some(whom) = whom(src) else {
            return false;
        };
        if self.scratch.places.has(whom) {
            return true;
        }
        let Some(place) = self.place_for(src, whom) else {
            self.batch.note_room(whom.pfn, false);
            return false;
        };
        if self.scratch.places.put(whom, place).is_err() {
            self.broke = true;
            return false;
        }
        true
    }

    fn place_for(&mut self, src: &Source<'_>, whom: Whom) -> Option<Place> {
        let splits = !self.scratch.places.is_solid(whom);
        let mut last = None;
        while let Some(next) = self.map.next(src.node(), last, self.strict, node::distance) {
            if let Some(folio) = self.allocate_on(src, next.node, src.order()) {
                return Some(Place::Whole(folio, next.fallback));
            }
            let promised = self.scratch.places.promised(next.node);
            if splits
                && (node::has_room(next.node, promised.saturating_add(whom.nr_pages))
                    || (self.last_resort && self.allocate_on(src, next.node, 0).is_some()))
            {
                return Some(Place::Pieces(next.node, false));
            }
            last = Some(next);
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
            any |= self.scratch.places.is_still_whole(Whom {
                pfn: folio.pfn,
                nr_pages: folio.nr_pages,
            });
        }
        list.append(&mut self.scratch.sorted);
        any
    }

    /// Sets those aside that found no room in the last pass; all of them if it cannot be told.
    fn park(&mut self, list: &mut FolioList) {
        let mut any = false;
        while let Some(folio) = list.shift(&mut self.scratch.hand) {
            let flag = if folio.large {
                SOURCE_LARGE
            } else {
                SOURCE_SMALL
            };
            let full = self
                .scratch
                .nodes
                .get(folio.node)
                .is_some_and(|n| n & flag != 0);
            if full {
                any = true;
                self.scratch.parked.append(&mut self.scratch.hand);
            } else {
                self.scratch.sorted.append(&mut self.scratch.hand);
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
            let reason = if folio.pinned { Reason::Pinned } else { reason };
            self.batch.note_left(folio.pfn, folio.nr_pages, reason);
        }
        self.scratch.sorted.put_back();
    }

    fn mark_node(&mut self, node: usize, flag: u8) {
        if let Some(flags) = self.scratch.nodes.get_mut(node) {
            *flags |= flag;
        }
    }

    /// Looks for room on one node: what is free first, then, unless that failed not long ago, with
    /// a little reclaim.
    fn allocate_on(&mut self, src: &Source<'_>, node: u16, order: u32) -> Option<NewFolio> {
        let tired = if order == 0 { TIRED_SMALL } else { TIRED_LARGE };
        let index = usize::from(node);
        if let Some(folio) = src.allocate(node, order, Effort::None) {
            return Some(folio);
        }
        if self
            .scratch
            .nodes
            .get(index)
            .is_some_and(|n| n & tired != 0)
        {
            return None;
        }
        let folio = src.allocate(node, order, Effort::Light);
        if folio.is_none() {
            self.mark_node(index, tired);
        }
        folio
    }

    /// Looks for room on one node after the other.
    fn allocate(&mut self, src: &Source<'_>) -> Option<(NewFolio, bool)> {
        let order = src.order();
        let mut last = None;
        while let Some(next) = self.map.next(src.node(), last, self.strict, node::distance) {
            if let Some(folio) = self.allocate_on(src, next.node, order) {
                return Some((folio, next.fallback));
            }
            last = Some(next);
        }
        None
    }

    /// The place that was found for a folio before, or what can be found now.
    fn place(&mut self, src: &Source<'_>) -> Option<(NewFolio, bool)> {
        if let Some(whom) = whom(src) {
            if let Some(place) = self.scratch.places.take_whole(whom) {
                return Some(place);
            }
            if self.scratch.places.ask_for_pieces(whom) {
                return None;
            }
        }
        self.allocate(src)
    }

    /// Remembers a new folio, for its frames and for what `src` becomes.
    fn remember(&mut self, src: usize, folio: &NewFolio, fallback: bool) -> Result {
        let placed = Placed {
            src,
            pfn: folio.pfn(),
            nr_pages: folio.nr_pages(),
            fallback,
        };
        // Bounded by the batch, if it is needed at all: it need not be charged.
        self.scratch.placed.reserve(1, GFP_NOWAIT | __GFP_NOWARN)?;
        self.frames.mark(placed.pfn, placed.nr_pages)?;
        self.scratch
            .placed
            .push_within_capacity(placed)
            .map_err(|_| ENOMEM)
    }
}

/// A folio as its place is known by, `None` if it is a single page.
fn whom(src: &Source<'_>) -> Option<Whom> {
    let order = src.order();
    let nr_pages = 1usize.checked_shl(order)?;
    (order > 0).then(|| Whom {
        pfn: src.pfn(),
        nr_pages,
    })
}

impl Mover for Migration<'_> {
    fn new_folio(&mut self, src: &Source<'_>) -> Option<NewFolio> {
        let pfn = src.pfn();
        if let Some((folio, fallback)) = self.place(src) {
            if self.remember(pfn, &folio, fallback).is_ok() {
                self.batch.note_room(pfn, true);
                return Some(folio);
            }
            self.broke = true;
        } else {
            self.batch.note_room(pfn, false);
        }
        self.short = true;
        let large = src.order() > 0;
        self.mark_node(src.node(), if large { SOURCE_LARGE } else { SOURCE_SMALL });
        None
    }

    fn unused(&mut self, folio: NewFolio) {
        let pfn = folio.pfn();
        let placed = &mut self.scratch.placed;
        if let Some(at) = placed.iter().rposition(|p| p.pfn == pfn) {
            self.frames.unmark(pfn, folio.nr_pages());
            // Order does not matter: the last one takes its place.
            if let Some(last) = placed.pop() {
                if let Some(slot) = placed.get_mut(at) {
                    *slot = last;
                }
            }
        }
    }
}
