// SPDX-License-Identifier: GPL-2.0

//! What the walk over the page tables makes of each page: one visitor for each purpose.

mod census;
mod recount;
mod sort;

pub(crate) use census::Census;
pub(crate) use recount::LastLook;
pub(crate) use sort::Collector;
