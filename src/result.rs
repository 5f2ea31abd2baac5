// SPDX-License-Identifier: GPL-2.0

//! What a call did, counted in base pages.

use crate::uapi::CallResult;

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
}

/// Counts of one call.
#[derive(Default)]
pub(crate) struct Counts(CallResult);

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
        // What moved now was without room before.
        let rest = second.all_moved().saturating_add(second.0.already_moved);
        self.0.no_memory = self.0.no_memory.saturating_sub(rest);
    }

    /// Sets right how many pages are without room: no more than `pages`. The others were met
    /// through other mappings before they moved.
    pub(crate) fn limit_no_memory(&mut self, pages: u64) {
        let moved = self.0.no_memory.saturating_sub(pages);
        self.0.no_memory = self.0.no_memory.min(pages);
        self.stay(Reason::AlreadyMoved, moved);
    }

    /// Pages that would move or have moved, met once or more.
    pub(crate) fn all_met(&self) -> u64 {
        self.all_moved().saturating_add(self.0.already_moved)
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

    /// Whether no page has been counted at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.all_moved() == 0
            && self.left() == 0
            && self.0.no_memory == 0
            && self.0.in_place == 0
            && self.0.already_moved == 0
            && self.0.exempt == 0
    }

    /// The result as the caller gets it. `resume_va` is where the call stopped.
    pub(crate) fn into_result(mut self, resume_va: usize) -> CallResult {
        self.0.resume_va = resume_va as u64;
        self.0
    }
}
