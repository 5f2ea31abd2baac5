// SPDX-License-Identifier: GPL-2.0

//! What a call did, counted in base pages.
//!
//! Pure: this file knows no kernel type.

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
    pub(crate) moved: u64,
    pub(crate) moved_fallback: u64,
    pub(crate) already_moved: u64,
    pub(crate) in_place: u64,
    pub(crate) exempt: u64,
    pub(crate) shared: u64,
    pub(crate) busy: u64,
    pub(crate) pinned: u64,
    pub(crate) unmovable: u64,
    pub(crate) no_memory: u64,
    pub(crate) policies: u64,
    pub(crate) gone: u64,
}

/// Counts of one call.
#[derive(Default)]
pub(crate) struct Counts(Totals);

/// Pages that wait for another attempt in the same call, by what was in the way of the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// No new node had room.
    pub(crate) no_memory: u64,
    /// They were in use.
    pub(crate) busy: u64,
}

impl Waits {
    /// Counts `pages` that are to be tried again.
    pub(crate) fn add(&mut self, reason: Reason, pages: u64) {
        let count = match reason {
            Reason::NoMemory => &mut self.no_memory,
            _ => &mut self.busy,
        };
        *count = count.saturating_add(pages);
    }

    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.no_memory.saturating_add(self.busy)
    }

    /// What is left of them when `pages` have been met again. Which ones is not known: those that were
    /// busy come first, as a node without room is what the caller should hear of.
    pub(crate) fn without(&self, pages: u64) -> Self {
        let busy = pages.min(self.busy);
        Self {
            busy: self.busy.saturating_sub(busy),
            no_memory: self.no_memory.saturating_sub(pages.saturating_sub(busy)),
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
    pub(crate) fn stay(&mut self, reason: Reason, pages: u64) {
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
        *count = count.saturating_add(pages);
    }

    /// Counts pages that have waited, and are not tried any more.
    pub(crate) fn stay_waiting(&mut self, waits: Waits) {
        self.stay(Reason::NoMemory, waits.no_memory);
        self.stay(Reason::Busy, waits.busy);
    }

    /// Counts `pages` that moved, with `fallback` to another node than the named one.
    pub(crate) fn moved(&mut self, pages: u64, fallback: bool) {
        let count = if fallback {
            &mut self.0.moved_fallback
        } else {
            &mut self.0.moved
        };
        *count = count.saturating_add(pages);
    }

    /// Counts policies that changed.
    pub(crate) fn policies(&mut self, policies: u64) {
        self.0.policies = self.0.policies.saturating_add(policies);
    }

    /// Pages that moved, wherever to.
    pub(crate) fn all_moved(&self) -> u64 {
        self.0.moved.saturating_add(self.0.moved_fallback)
    }

    /// Pages left behind for a reason that the caller may want to know.
    pub(crate) fn left(&self) -> u64 {
        self.0
            .shared
            .saturating_add(self.0.busy)
            .saturating_add(self.0.pinned)
            .saturating_add(self.0.unmovable)
    }

    /// Pages that found no room.
    pub(crate) fn no_memory(&self) -> u64 {
        self.0.no_memory
    }

    /// Pages that their process gave back before they could move.
    pub(crate) fn gone(&self) -> u64 {
        self.0.gone
    }

    /// Whether nothing has been found or changed; what is gone was not found.
    pub(crate) fn is_empty(&self) -> bool {
        self.all_moved() == 0
            && self.left() == 0
            && self.0.no_memory == 0
            && self.0.in_place == 0
            && self.0.already_moved == 0
            && self.0.exempt == 0
            && self.0.policies == 0
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
            no_memory: 3,
            busy: 2,
        };
        for pages in 0..8 {
            let left = waits.without(pages);
            assert_eq!(left.total(), waits.total().saturating_sub(pages));
            assert_eq!(left.no_memory, left.total().min(3));
        }
    }
}
