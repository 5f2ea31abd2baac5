// SPDX-License-Identifier: GPL-2.0

//! Move the pages of running processes between NUMA nodes, by a map from old nodes to new nodes.
//!
//! The interface is documented in `include/uapi/linux/page_migrate.h`.
//!
//! Knowledge goes one way: this root knows `device`, which knows `request`, and so on down to
//! `shim`, the one room that reaches into the kernel. What several rooms share is in `pure`.

use kernel::prelude::*;

mod bindings;
mod device;
mod job;
mod marks;
mod migrate;
mod policy;
mod pure;
mod questions;
mod request;
mod shim;
mod target;
mod uapi;
mod walk;

module! {
    type: PageMigrateModule,
    name: "page_migrate",
    authors: ["The page_migrate authors"],
    description: "Move running processes between NUMA nodes",
    license: "GPL",
}

/// The module: its device, and what the device stands on.
///
/// Fields are dropped in the order in which they stand: the device goes first.
#[pin_data]
struct PageMigrateModule {
    #[pin]
    _device: device::Registration,
    _kernel: shim::Kernel,
}

impl kernel::InPlaceModule for PageMigrateModule {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _kernel: shim::Kernel::bind()?,
            _device <- device::Registration::new(module)?,
        })
    }
}
