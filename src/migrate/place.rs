// SPDX-License-Identifier: GPL-2.0

//! Places for large folios, found before the kernel is shown them.
//!
//! `migrate_pages()` in the kernel's `mm/migrate.c` splits a large folio as soon as it gets no new one
//! for it. A folio that is to stay whole must therefore have its place before, or not be shown.

use kernel::prelude::*;

use crate::{
    pure::units::{
        NodeId,
        Pfn,
        Span, //
    },
    shim::folio::NewFolio, //
};

/// A large folio, as its place is known by. When it has been split, another folio has its first frame.
pub(crate) type FolioKey = Span<Pfn>;

/// Where a large folio is to go.
pub(crate) enum Place {
    /// As a whole to this new folio; the flag says that it is on another node than the named one.
    Whole(NewFolio, bool),
    /// In pieces to this node, which has room for its pages but not in one piece. The flag says that
    /// the kernel has asked for a new folio and been told to split it.
    Pieces(NodeId, bool),
    /// The kernel failed to split this folio, so it needs one destination for the whole of it.
    Unsplittable,
}

/// The places of the large folios of one list.
pub(crate) struct Places {
    known: KVVec<(FolioKey, Place)>,
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

    /// Notes the place of a folio. The newest entry wins; taking it uncovers the older one.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the place is given back then.
    pub(crate) fn put(&mut self, key: FolioKey, place: Place) -> Result {
        self.known.reserve(1, GFP_KERNEL_ACCOUNT)?;
        self.known
            .push_within_capacity((key, place))
            .map_err(|_| ENOMEM)
    }

    /// Whether a folio has a place.
    pub(crate) fn has(&self, key: FolioKey) -> bool {
        let mut newest_first = self.known.iter().rev();
        newest_first
            .find(|(w, _)| *w == key)
            .is_some_and(|(_, place)| !matches!(place, Place::Unsplittable))
    }

    /// Whether there is no use in splitting a folio, since the kernel failed to split it or another one of its
    /// size. A file system with large blocks has many of them.
    pub(crate) fn is_unsplittable(&self, key: FolioKey) -> bool {
        self.unsplittable_orders & order_bit(key) != 0
    }

    /// Takes the new folio of one that is now moved as a whole. A second attempt has to find another.
    pub(crate) fn take_whole(&mut self, key: FolioKey) -> Option<(NewFolio, bool)> {
        let is_it = |(w, place): &(FolioKey, Place)| match place {
            // That it has the right size must not depend on anything else.
            Place::Whole(new, _) => *w == key && new.frames().len == key.len,
            _ => false,
        };
        let at = self.known.iter().position(is_it)?;
        match self.known.remove(at) {
            Ok((_, Place::Whole(folio, fallback))) => Some((folio, fallback)),
            _ => None,
        }
    }

    /// Whether a folio is to be split, which is then asked for.
    pub(crate) fn ask_for_pieces(&mut self, key: FolioKey) -> bool {
        for (_, place) in self.known.iter_mut().filter(|(w, _)| *w == key) {
            if let Place::Pieces(_, asked) = place {
                *asked = true;
                return true;
            }
        }
        false
    }

    /// Notes that a large folio is still there after a pass. Returns whether it should have been
    /// split.
    pub(crate) fn is_still_whole(&mut self, key: FolioKey) -> bool {
        for (_, place) in self.known.iter_mut().filter(|(w, _)| *w == key) {
            if matches!(place, Place::Pieces(_, true)) {
                *place = Place::Unsplittable;
                self.unsplittable_orders |= order_bit(key);
                return true;
            }
        }
        false
    }

    /// Whether any folio is to be split.
    pub(crate) fn any_pieces(&self) -> bool {
        let is_pieces = |(_, place): &(FolioKey, Place)| matches!(place, Place::Pieces(..));
        self.known.iter().any(is_pieces)
    }

    /// Pages of a node that folios which are to be split will take.
    pub(crate) fn promised(&self, on: NodeId) -> usize {
        self.known
            .iter()
            .filter(|(_, place)| matches!(place, Place::Pieces(node, _) if *node == on))
            .fold(0, |sum, (key, _)| sum.saturating_add(key.len))
    }

    /// Forgets all, and gives back what was not taken.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.unsplittable_orders = 0;
    }
}

fn order_bit(key: FolioKey) -> u32 {
    1u32.checked_shl(key.len.trailing_zeros()).unwrap_or(0)
}
