// SPDX-License-Identifier: GPL-2.0

//! The last look: counts anew what is still on the old nodes.
//!
//! Locks: as in `sort`.

use crate::{
    pure::counts::{
        Reason,
        Remnant, //
    },
    shim::{
        frames::Frames,
        mm::Mapped, //
    }, //
};

/// What a last look needs to know, and finds.
pub(crate) struct LastLook<'a> {
    /// Frames of pages that found no room.
    pub(crate) waiting: &'a Frames,
    /// Those of them that were tried again, and stay for another reason.
    pub(crate) held: &'a Frames,
    pub(crate) remnant: &'a mut Remnant,
}

impl LastLook<'_> {
    pub(super) fn meet(&mut self, mapped: &Mapped<'_>, obstacle: Option<Reason>) {
        let pages = mapped.mapped() as u64;
        if obstacle == Some(Reason::Exempt) {
            return;
        }
        if !self.waiting.contains(mapped.pfn()) {
            self.remnant.elsewhere = self.remnant.elsewhere.saturating_add(pages);
            return;
        }
        let reason = match obstacle {
            Some(reason) => reason,
            None if self.held.contains(mapped.pfn()) => Reason::Busy,
            None => Reason::NoMemory,
        };
        self.remnant.waiting.stay(reason, pages);
    }
}
