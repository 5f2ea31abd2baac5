// SPDX-License-Identifier: GPL-2.0

//! Places for large folios, found before the kernel is shown them.
//!
//! `migrate_pages()` in the kernel's `mm/migrate.c` splits a large folio as soon as it gets no new one
//! for it. A folio that is to stay whole must therefore have its place before, or not be shown.
//!
//! Locks: none.

use kernel::prelude::*;

use crate::{
    pure::units::NodeId,
    shim::folio::NewFolio, //
};

/// Where a large folio is to go.
pub(crate) enum Place {
    /// As a whole to this new folio.
    Whole {
        folio: NewFolio,
        /// It is on another node than the named one.
        fallback: bool,
    },
    /// In pieces.
    Pieces {
        /// To this node, which has room for them but not in one piece.
        node: NodeId,
        /// How many there are.
        pages: usize,
        /// The kernel has asked for a new folio, and been told to split it.
        asked: bool,
    },
}

/// The places of the large folios of a batch, by their numbers in it. The parts of a folio that was split have
/// none: they get one when the kernel asks for it.
pub(crate) struct Places {
    known: KVVec<Option<Place>>,
    /// Bit N: a folio of that order could not be split.
    unsplittable_orders: u32,
}

impl Places {
    /// No place.
    pub(crate) fn new() -> Self {
        Self {
            known: KVVec::new(),
            unsplittable_orders: 0,
        }
    }

    /// Gets ready for a batch of so many folios. Where there is no memory for it, [`put`](Self::put) fails.
    pub(crate) fn prepare(&mut self, folios: usize) {
        let gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
        while self.known.len() < folios && self.known.push(None, gfp).is_ok() {}
    }

    fn place(&mut self, number: u16) -> Option<&mut Option<Place>> {
        self.known.get_mut(usize::from(number))
    }

    /// Notes the place of a folio.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the place is given back then.
    pub(crate) fn put(&mut self, number: u16, place: Place) -> Result {
        *self.place(number).ok_or(ENOMEM)? = Some(place);
        Ok(())
    }

    /// Whether a folio has a place.
    pub(crate) fn has(&mut self, number: u16) -> bool {
        self.place(number).is_some_and(|place| place.is_some())
    }

    /// Whether there is no use in splitting folios of so many pages, since the kernel failed to split one of them. A
    /// file system with large blocks has many such.
    pub(crate) fn is_unsplittable(&self, pages: usize) -> bool {
        self.unsplittable_orders & order_bit(pages) != 0
    }

    /// Takes the new folio, of so many pages, of one that is now moved as a whole. A second attempt has to find
    /// another.
    pub(crate) fn take_whole(&mut self, number: u16, pages: usize) -> Option<(NewFolio, bool)> {
        match self.place(number)?.take() {
            // That it has the right size must not depend on anything else.
            Some(Place::Whole { folio, fallback }) if folio.frames().len == pages => {
                Some((folio, fallback))
            }
            other => {
                *self.place(number)? = other;
                None
            }
        }
    }

    /// Whether a folio is to be split, which is then asked for.
    pub(crate) fn ask_for_pieces(&mut self, number: u16) -> bool {
        match self.place(number) {
            Some(Some(Place::Pieces { asked, .. })) => {
                *asked = true;
                true
            }
            _ => false,
        }
    }

    /// Whether any folio is to be split.
    pub(crate) fn any_pieces(&self) -> bool {
        let is_pieces = |place: &Option<Place>| matches!(place, Some(Place::Pieces { .. }));
        self.known.iter().any(is_pieces)
    }

    /// Notes that a folio, of so many pages, is still there after a pass. Returns whether it should have been
    /// split.
    pub(crate) fn is_still_whole(&mut self, number: u16, pages: usize) -> bool {
        let asked = self
            .place(number)
            .is_some_and(|place| matches!(place, Some(Place::Pieces { asked: true, .. })));
        if asked {
            self.unsplittable_orders |= order_bit(pages);
        }
        asked
    }

    /// Forgets the folios that the kernel was told to split: it has done so, or never will.
    pub(crate) fn forget_asked(&mut self) {
        for place in self.known.iter_mut() {
            if matches!(place, Some(Place::Pieces { asked: true, .. })) {
                *place = None;
            }
        }
    }

    /// Pages of a node that folios which are to be split will take.
    pub(crate) fn promised(&self, on: NodeId) -> usize {
        let promised = |place: &Option<Place>| match place {
            Some(Place::Pieces { node, pages, .. }) if *node == on => *pages,
            _ => 0,
        };
        self.known
            .iter()
            .map(promised)
            .fold(0, usize::saturating_add)
    }

    /// Forgets all, and gives back what was not taken.
    pub(crate) fn clear(&mut self) {
        self.known.iter_mut().for_each(|place| *place = None);
        self.unsplittable_orders = 0;
    }
}

fn order_bit(pages: usize) -> u32 {
    1u32.checked_shl(pages.trailing_zeros()).unwrap_or(0)
}
