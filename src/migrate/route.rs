// SPDX-License-Identifier: GPL-2.0

//! Routes: for each node the nodes that its pages may go to, in the order in which they are tried.
//!
//! A step of one costs a look at every node, so it is taken once in a call, not for each page.
//!
//! Locks: none.

use kernel::prelude::*;

use crate::{
    pure::{
        node_map::Destination,
        order::Map,
        units::NodeId, //
    },
    shim::node, //
};

/// The steps of a route that are known. `None` stands for its end.
type Route = KVVec<Option<Destination>>;

/// The routes of one call. A small one has no table, and looks anew for each page.
pub(super) struct Routes(KVVec<Route>);

impl Routes {
    /// Has no table.
    pub(super) fn new() -> Self {
        Self(KVVec::new())
    }

    /// Gets a table, if it has none.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn prepare(&mut self) -> Result {
        while self.0.len() < node::count() {
            self.0.push(Route::new(), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// The place to try for a page on `from` after `step` others had no room. The map and `strict` must be the
    /// same until [`clear`](Self::clear).
    pub(super) fn step(
        &mut self,
        map: &Map,
        from: NodeId,
        step: usize,
        strict: bool,
    ) -> Option<Destination> {
        let named = map.pair(from).and_then(|pair| map.named_by(pair));
        if step == 0 && named.is_some() {
            // That takes no look at other nodes.
            return map.next(from, None, strict, node::distance);
        }
        let mut unknown = Route::new();
        let route = self.0.get_mut(from.index()).unwrap_or(&mut unknown);
        if let Some(&known) = route.get(step) {
            return known;
        }
        let mut place = match route.last() {
            Some(None) => return None,
            last => last.copied().flatten(),
        };
        for index in route.len()..=step {
            place = map.next(from, place, strict, node::distance);
            // Without memory for it, it is looked for anew.
            if route.len() == index {
                let _ = route.push(place, GFP_NOWAIT | __GFP_NOWARN);
            }
            place?;
        }
        place
    }

    /// Forgets them.
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(|route| *route = Route::new());
    }
}
