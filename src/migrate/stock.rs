// SPDX-License-Identifier: GPL-2.0

//! Single pages that are allocated ahead, many at a time: that costs half of what one by one costs.
//!
//! Locks: none. Its pages are free pages of the kernel's that nobody uses yet.

use kernel::prelude::*;

use crate::{
    pure::units::NodeId,
    shim::folio::{
        self,
        NewFolio, //
    }, //
};

/// Nodes for which pages are kept at a time.
const SHELVES: usize = 8;

/// It is not worth it for less.
const MIN_NEED: u16 = 4;

/// Pages of one node.
struct Shelf {
    node: Option<NodeId>,
    pages: KVVec<NewFolio>,
}

/// Pages of some nodes, each on the shelf that its number gives. Two nodes that share one get pages ahead in
/// turn.
pub(super) struct Stock(KVVec<Shelf>);

impl Stock {
    /// Has no shelf, and never a page.
    pub(super) fn new() -> Self {
        Self(KVVec::new())
    }

    /// Gets its shelves, if it has none.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn prepare(&mut self) -> Result {
        while self.0.len() < SHELVES {
            let pages = KVVec::with_capacity(folio::MOST_AT_A_TIME, GFP_KERNEL_ACCOUNT)?;
            self.0
                .push(Shelf { node: None, pages }, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// A page on `node`, `None` if there is none to be had ahead. `need` pages are still to come from there.
    pub(super) fn take(&mut self, node: NodeId, need: u16) -> Option<NewFolio> {
        let shelf = self.0.get_mut(node.index() % SHELVES)?;
        if shelf.pages.is_empty() && need >= MIN_NEED {
            shelf.node = Some(node);
            folio::allocate_some(node, usize::from(need), &mut shelf.pages);
        }
        if shelf.node == Some(node) {
            shelf.pages.pop()
        } else {
            None
        }
    }

    /// Gives back what was not taken.
    pub(super) fn clear(&mut self) {
        for shelf in self.0.iter_mut() {
            shelf.pages.clear();
        }
    }
}
