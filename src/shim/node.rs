// SPDX-License-Identifier: GPL-2.0

//! NUMA nodes.

use crate::{
    bindings,
    pure::node_map::{
        self,
        NodeFacts, //
    },
};

// The walk reads the table of the node map.
const _: () = assert!(bindings::PM_NODE_OLD == node_map::OLD as u32);

/// Node numbers are below this.
pub(crate) fn count() -> usize {
    // SAFETY: Reads a variable that does not change after boot.
    let nr = unsafe { bindings::pm_shim_nr_nodes() };
    nr as usize
}

/// What the machine says of a node. `known` and `allowed` are what the cpusets say: one that they
/// do not know yet has no memory yet.
pub(crate) fn facts(node: usize, known: bool, allowed: bool) -> NodeFacts {
    let state = match u32::try_from(node) {
        // SAFETY: The number is checked to be that of a node.
        Ok(nid) if node < count() => unsafe { bindings::pm_shim_node_state(nid) },
        _ => 0,
    };
    NodeFacts {
        possible: state & bindings::PM_NODE_POSSIBLE != 0,
        memory: known && state & bindings::PM_NODE_MEMORY != 0,
        allowed,
    }
}

/// How far two nodes are from each other, as the firmware tells.
pub(crate) fn distance(from: usize, to: usize) -> u32 {
    match (u32::try_from(from), u32::try_from(to)) {
        (Ok(a), Ok(b)) if from < count() && to < count() => {
            // SAFETY: Both numbers are checked to be those of nodes.
            unsafe { bindings::pm_shim_node_distance(a, b) }
        }
        _ => u32::MAX,
    }
}

/// Whether a node has `pages` single pages to spare, as far as can be told without taking them.
pub(crate) fn has_room(node: u16, pages: usize) -> bool {
    if usize::from(node) >= count() {
        return false;
    }
    // SAFETY: The number is checked to be that of a node.
    unsafe { bindings::pm_shim_node_has_room(u32::from(node), pages) }
}
