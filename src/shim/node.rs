// SPDX-License-Identifier: GPL-2.0

//! NUMA nodes.

use crate::{
    bindings,
    pure::{
        node_map::{
            self,
            NodeFacts, //
        },
        units::NodeId, //
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

/// Whether the kernel has tables for a node.
fn exists(node: NodeId) -> bool {
    node.index() < count()
}

/// What the machine says of a node. `known` and `allowed` are what the cpusets say: one that they
/// do not know yet has no memory yet.
pub(crate) fn facts(node: NodeId, known: bool, allowed: bool) -> NodeFacts {
    let state = if exists(node) {
        // SAFETY: The number is that of a node.
        unsafe { bindings::pm_shim_node_state(node.get()) }
    } else {
        0
    };
    NodeFacts {
        possible: state & bindings::PM_NODE_POSSIBLE != 0,
        memory: known && state & bindings::PM_NODE_MEMORY != 0,
        allowed,
    }
}

/// How far two nodes are from each other, as the firmware tells.
pub(crate) fn distance(from: NodeId, to: NodeId) -> u32 {
    if !exists(from) || !exists(to) {
        return u32::MAX;
    }
    // SAFETY: Both numbers are those of nodes.
    unsafe { bindings::pm_shim_node_distance(from.get(), to.get()) }
}

/// Whether a node has `pages` single pages to spare, as far as can be told without taking them.
pub(crate) fn has_room(node: NodeId, pages: usize) -> bool {
    // SAFETY: The number is that of a node.
    exists(node) && unsafe { bindings::pm_shim_node_has_room(node.get(), pages) }
}
