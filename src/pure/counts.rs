// SPDX-License-Identifier: GPL-2.0

//! What a call did, counted in base pages.

/// Why a page stays where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// What a last look finds on the old nodes.
#[derive(Default)]
pub(crate) struct Remnant {
    /// Pages in frames whose pages found no room, by what keeps them now.
    pub(crate) waiting: Counts,
    /// Pages in other frames. They stay for reasons that have been counted, or the kernel has moved
    /// them within their node, or they are new.
    pub(crate) elsewhere: u64,
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

    /// Counts `pages` that moved, of which `fallback` went to another node than the named one.
    pub(crate) fn moved(&mut self, pages: u64, fallback: u64) {
        let named = pages.saturating_sub(fallback);
        self.0.moved = self.0.moved.saturating_add(named);
        self.0.moved_fallback = self.0.moved_fallback.saturating_add(fallback);
    }

    /// Takes over what a second attempt did with pages that had found no room.
    pub(crate) fn rescued(&mut self, second: &Self) {
        self.moved(second.all_moved(), second.0.moved_fallback);
        self.stay(Reason::AlreadyMoved, second.0.already_moved);
        self.stay(Reason::Gone, second.0.gone);
        // What moved now, or was given back, was without room before.
        let rest = second
            .all_moved()
            .saturating_add(second.0.already_moved)
            .saturating_add(second.0.gone);
        self.0.no_memory = self.0.no_memory.saturating_sub(rest);
    }

    /// Sets right how many pages are without room, by what a last look has found: no more than are
    /// still there. Others stay for another reason by now. The rest was met through other mappings
    /// before it moved.
    pub(crate) fn settle_no_memory(&mut self, remnant: &Remnant) {
        let here = remnant.elsewhere.saturating_sub(self.left());
        let mut rest = self.0.no_memory;
        self.0.no_memory = 0;
        for (reason, pages) in [
            (
                Reason::NoMemory,
                remnant.waiting.0.no_memory.saturating_add(here),
            ),
            (Reason::Shared, remnant.waiting.0.shared),
            (Reason::Pinned, remnant.waiting.0.pinned),
            (Reason::Unmovable, remnant.waiting.0.unmovable),
            (Reason::Busy, remnant.waiting.0.busy),
        ] {
            let pages = pages.min(rest);
            rest = rest.saturating_sub(pages);
            self.stay(reason, pages);
        }
        self.stay(Reason::AlreadyMoved, rest);
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

    /// Whether nothing has been counted at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.all_moved() == 0
            && self.left() == 0
            && self.0.no_memory == 0
            && self.0.in_place == 0
            && self.0.already_moved == 0
            && self.0.exempt == 0
            && self.0.gone == 0
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

    fn counts(list: &[(Reason, u64)]) -> Counts {
        let mut counts = Counts::default();
        for &(reason, pages) in list {
            counts.stay(reason, pages);
        }
        counts
    }

    /// no_memory, already_moved, left
    fn settled(mut before: Counts, waiting: &[(Reason, u64)], elsewhere: u64) -> (u64, u64, u64) {
        let sum = |c: &Counts| c.0.no_memory + c.0.already_moved + c.left();
        let was = sum(&before);
        before.settle_no_memory(&Remnant {
            waiting: counts(waiting),
            elsewhere,
        });
        assert_eq!(was, sum(&before), "a page is lost or counted twice");
        (before.no_memory(), before.0.already_moved, before.left())
    }

    #[test]
    fn all_that_waits_is_still_there() {
        let before = counts(&[(Reason::NoMemory, 10)]);
        assert_eq!((10, 0, 0), settled(before, &[(Reason::NoMemory, 10)], 0));
    }

    #[test]
    fn what_moved_when_it_was_met_again() {
        let before = counts(&[(Reason::NoMemory, 10), (Reason::AlreadyMoved, 1)]);
        assert_eq!((4, 7, 0), settled(before, &[(Reason::NoMemory, 4)], 0));
        let before = counts(&[(Reason::NoMemory, 10)]);
        assert_eq!((0, 10, 0), settled(before, &[], 0));
    }

    #[test]
    fn what_stays_for_another_reason_by_now() {
        let before = counts(&[(Reason::NoMemory, 10)]);
        let waiting = [
            (Reason::Shared, 4),
            (Reason::Pinned, 3),
            (Reason::Busy, 2),
            (Reason::NoMemory, 1),
        ];
        assert_eq!((1, 0, 9), settled(before, &waiting, 0));
    }

    #[test]
    fn what_the_kernel_moved_within_its_node() {
        // Five of those elsewhere were counted as busy.
        let before = counts(&[(Reason::NoMemory, 10), (Reason::Busy, 5)]);
        assert_eq!((10, 0, 5), settled(before, &[(Reason::NoMemory, 7)], 8));
        let before = counts(&[(Reason::NoMemory, 10), (Reason::Busy, 5)]);
        assert_eq!((7, 3, 5), settled(before, &[(Reason::NoMemory, 7)], 5));
    }

    #[test]
    fn new_pages_are_not_counted() {
        let before = counts(&[(Reason::NoMemory, 10)]);
        assert_eq!((10, 0, 0), settled(before, &[(Reason::NoMemory, 9)], 500));
        let before = counts(&[(Reason::NoMemory, 10)]);
        assert_eq!(
            (10, 0, 0),
            settled(before, &[(Reason::NoMemory, 12), (Reason::Shared, 5)], 0)
        );
    }
}
