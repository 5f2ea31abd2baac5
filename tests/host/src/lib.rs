// SPDX-License-Identifier: GPL-2.0
//! Compiles the module's pure rooms for the host, so that `cargo test` runs
//! the tests that stand beside their code.

// The module uses what the tests alone do not.
#![allow(dead_code)]

#[path = "../../../src/pure/units.rs"]
mod units;

/// As the module has it.
mod pure {
    pub(crate) use crate::units;
}

#[path = "../../../src/pure/node_map.rs"]
mod node_map;

#[path = "../../../src/pure/counts.rs"]
mod counts;

#[path = "../../../src/job/rounds.rs"]
mod rounds;
