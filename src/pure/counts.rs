// SPDX-License-Identifier: GPL-2.0

//! What a call did, counted in base pages.
//!
//! Pure: this file knows no kernel type.

use super::units::Pages;

/// Why a page stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is on no old node, or on one that maps to itself.
    InPlace,
    /// It has moved in this job before.
    AlreadyMoved,
    /// The mark of its file forbids it.
    Exempt,
    /// Another process maps it.
    Shared,
    /// It is in use for the moment.
    Busy,
    /// It is pinned for DMA.
    Pinned,
    /// The kernel cannot move such pages.
    Unmovable,
    /// No new node has room.
    NoMemory,
    /// Its process gave it back before it could move.
    Gone,
}

/// What the caller is told: pages by what became of them, and policies that changed.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) moved: Pages,
    pub(crate) moved_fallback: Pages,
    pub(crate) already_moved: Pages,
    pub(crate) in_place: Pages,
    pub(crate) exempt: Pages,
    pub(crate) shared: Pages,
    pub(crate) busy: Pages,
    pub(crate) pinned: Pages,
    pub(crate) unmovable: Pages,
    pub(crate) no_memory: Pages,
    pub(crate) policies: u64,
    pub(crate) gone: Pages,
}

/// Counts of one call.
#[derive(Default)]
pub(crate) struct Counts(Totals);

/// Pages that wait for another attempt in the same call, by what was in the way of the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// No new node had room.
    pub(crate) no_memory: Pages,
    /// They were in use.
    pub(crate) busy: Pages,
}

impl Waits {
    /// Counts `pages` that are to be tried again.
    pub(crate) fn add(&mut self, reason: Reason, pages: Pages) {
        let count = match reason {
            Reason::NoMemory => &mut self.no_memory,
            _ => &mut self.busy,
        };
        *count += pages;
    }

    /// All of them.
    pub(crate) fn total(&self) -> Pages {
        self.no_memory + self.busy
    }

    /// What is left of them when `pages` have been met again. Which ones is not known: those that were
    /// busy come first, as a node without room is what the caller should hear of.
    pub(crate) fn without(&self, pages: Pages) -> Self {
        let busy = pages.min(self.busy);
        Self {
            busy: self.busy - busy,
            no_memory: self.no_memory - (pages - busy),
        }
    }
}

impl Reason {
    /// Whether another attempt in the same call may move the page.
    pub(crate) fn may_change(self) -> bool {
        matches!(self, Self::Busy | Self::NoMemory)
    }
}

impl Counts {
    /// Counts `pages` that stay.
    pub(crate) fn stay(&mut self, reason: Reason, pages: Pages) {
        let count = match reason {
            Reason::InPlace => &mut self.0.in_place,
            Reason::AlreadyMoved => &mut self.0.already_moved,
            Reason::Exempt => &mut self.0.exempt,
            Reason::Shared => &mut self.0.shared,
            Reason::Busy => &mut self.0.busy,
            Reason::Pinned => &mut self.0.pinned,
            Reason::Unmovable => &mut self.0.unmovable,
            Reason::NoMemory => &mut self.0.no_memory,
            Reason::Gone => &mut self.0.gone,
        };
        *count += pages;
    }

    /// Counts pages that have waited, and are not tried any more.
    pub(crate) fn stay_waiting(&mut self, waits: Waits) {
        self.stay(Reason::NoMemory, waits.no_memory);
        self.stay(Reason::Busy, waits.busy);
    }

    /// Counts `pages` that moved, with `fallback` to another node than the named one.
    pub(crate) fn moved(&mut self, pages: Pages, fallback: bool) {
        let count = if fallback {
            &mut self.0.moved_fallback
        } else {
            &mut self.0.moved
        };
        *count += pages;
    }

    /// Counts policies that changed.
    pub(crate) fn policies(&mut self, policies: u64) {
        self.0.policies = self.0.policies.saturating_add(policies);
    }

    /// Pages that moved, wherever to.
    pub(crate) fn all_moved(&self) -> Pages {
        self.0.moved + self.0.moved_fallback
    }

    /// Pages left behind for a reason that the caller may want to know.
    pub(crate) fn left(&self) -> Pages {
        self.0.shared + self.0.busy + self.0.pinned + self.0.unmovable
    }

    /// Pages that found no room.
    pub(crate) fn no_memory(&self) -> Pages {
        self.0.no_memory
    }

    /// Pages that their process gave back before they could move.
    pub(crate) fn gone(&self) -> Pages {
        self.0.gone
    }

    /// Whether nothing has been found or changed; what is gone was not found.
    pub(crate) fn is_empty(&self) -> bool {
        let found = self.all_moved()
            + self.left()
            + self.0.no_memory
            + self.0.in_place
            + self.0.already_moved
            + self.0.exempt;
        !found.any() && self.0.policies == 0
    }

    /// The sums in the end.
    pub(crate) fn into_totals(self) -> Totals {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_met_again_waits_no_longer() {
        let waits = Waits {
            no_memory: Pages::new(3),
            busy: Pages::new(2),
        };
        for pages in (0..8).map(Pages::new) {
            let left = waits.without(pages);
            assert_eq!(left.total(), waits.total() - pages);
            assert_eq!(left.no_memory, left.total().min(Pages::new(3)));
        }
    }
}
