// SPDX-License-Identifier: GPL-2.0

//! The subcommands, a file each.

pub(crate) mod info;
pub(crate) mod mark;
pub(crate) mod migratepages;
pub(crate) mod move_pages;
pub(crate) mod show;
