// SPDX-License-Identifier: GPL-2.0

//! Migration of one batch: the folios in it, their places, and the kernel's `migrate_pages()`.

pub(crate) mod batch;
mod load;
mod place;
mod route;
mod run;
mod stock;

pub(crate) use load::{
    Load,
    Way, //
};
pub(crate) use run::Attempt;
