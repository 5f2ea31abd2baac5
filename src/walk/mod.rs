// SPDX-License-Identifier: GPL-2.0

//! What the walk over the page tables makes of each page: one visitor for each purpose.

mod census;
mod context;
mod sort;

pub(crate) use census::Census;
pub(crate) use context::Context;
pub(crate) use sort::Sorter;
