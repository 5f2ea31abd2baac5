// SPDX-License-Identifier: GPL-2.0
//! Compiles the module's pure rooms for the host, so that `cargo test` runs
//! the tests that stand beside their code.

// The module uses what the tests alone do not.
#![allow(dead_code)]

#[path = "../../../src/node_map.rs"]
mod node_map;

#[path = "../../../src/result.rs"]
mod result;

/// Stands for what the module has from the interface's header.
mod uapi {
    #[derive(Default)]
    pub(crate) struct CallResult {
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
        pub(crate) resume_va: u64,
    }
}
