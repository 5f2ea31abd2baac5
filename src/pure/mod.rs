// SPDX-License-Identifier: GPL-2.0

//! Rooms that know no other room: rules that can be tried by themselves, and what rooms share.

pub(crate) mod counts;
pub(crate) mod node_map;
pub(crate) mod order;
pub(crate) mod units;
