// SPDX-License-Identifier: GPL-2.0

//! Places for large folios, found before the kernel is shown them.
//!
//! `migrate_pages()` in the kernel's `mm/migrate.c` splits a large folio as soon as it gets no new one
//! for it. A folio that is to stay whole must therefore have its place before, or not be shown.

use kernel::prelude::*;

use crate::shim::folio::NewFolio;

/// Where a large folio is to go.
pub(crate) enum Place {
    /// As a whole to this new folio; the flag says that it is on another node than the named one.
    Whole(NewFolio, bool),
    /// In pieces to this node, which has room for its pages but not in one piece.
    Pieces {
        /// The node.
        node: u16,
        /// Pages of the folio.
        nr_pages: usize,
        /// The kernel has asked for a new folio and been told to split it.
        asked: bool,
    },
    /// It should have been split, and the kernel could not: only a place for all of it will do.
    Solid,
}

/// The places of the large folios of one list, by the frame number of their first page.
pub(crate) struct Places(KVVec<(usize, Place)>);

impl Places {
    /// No place.
    pub(crate) fn new() -> Self {
        Self(KVVec::new())
    }

    /// Notes the place of a folio. What was known of it before is known again when the new folio has
    /// been taken.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; the place is given back then.
    pub(crate) fn put(&mut self, pfn: usize, place: Place) -> Result {
        self.0.reserve(1, GFP_KERNEL_ACCOUNT)?;
        self.0
            .push_within_capacity((pfn, place))
            .map_err(|_| ENOMEM)
    }

    /// What is known of a folio.
    pub(crate) fn get(&self, pfn: usize) -> Option<&Place> {
        let mut newest_first = self.0.iter().rev();
        newest_first
            .find(|(p, _)| *p == pfn)
            .map(|(_, place)| place)
    }

    /// Takes the new folio of one of `nr_pages` that is now moved as a whole. A second attempt has
    /// to find another.
    pub(crate) fn take_whole(&mut self, pfn: usize, nr_pages: usize) -> Option<(NewFolio, bool)> {
        let at = self.0.iter().position(
            |(p, place)| matches!(place, Place::Whole(new, _) if *p == pfn && new.nr_pages() == nr_pages),
        )?;
        match self.0.remove(at) {
            Ok((_, Place::Whole(folio, fallback))) => Some((folio, fallback)),
            _ => None,
        }
    }

    /// Whether a folio is to be split, which is then asked for.
    pub(crate) fn ask_for_pieces(&mut self, pfn: usize) -> bool {
        let Some((_, Place::Pieces { asked, .. })) = self.0.iter_mut().find(|(p, _)| *p == pfn)
        else {
            return false;
        };
        *asked = true;
        true
    }

    /// Notes that a large folio is still there after a pass. Returns whether it should have been
    /// split.
    pub(crate) fn is_still_whole(&mut self, pfn: usize) -> bool {
        let Some((_, place)) = self.0.iter_mut().find(|(p, _)| *p == pfn) else {
            return false;
        };
        if !matches!(place, Place::Pieces { asked: true, .. }) {
            return false;
        }
        *place = Place::Solid;
        true
    }

    /// Whether any folio is to be split.
    pub(crate) fn any_pieces(&self) -> bool {
        let is_pieces = |(_, place): &(usize, Place)| matches!(place, Place::Pieces { .. });
        self.0.iter().any(is_pieces)
    }

    /// Pages of a node that folios which are to be split will take.
    pub(crate) fn promised(&self, on: u16) -> usize {
        self.0
            .iter()
            .filter_map(|(_, place)| match place {
                Place::Pieces { node, nr_pages, .. } if *node == on => Some(*nr_pages),
                _ => None,
            })
            .fold(0, usize::saturating_add)
    }

    /// Forgets all, and gives back what was not taken.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
