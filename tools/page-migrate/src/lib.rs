// SPDX-License-Identifier: MIT OR Apache-2.0

//! Safe access to `/dev/page_migrate`: move the pages of a running process
//! between NUMA nodes, by a map from old nodes to new nodes.
//!
//! ```no_run
//! use page_migrate::{Device, Machine, NodeMap, Request, Target};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::open()?;
//! let map = NodeMap::parse("0-1:2-3", &Machine::read()?)?;
//! let request = Request::new(Target::Pid(1234)).pairs(map.pairs());
//! let outcome = device.migrate(&request)?;
//! println!("{} pages moved", outcome.counts.total_moved());
//! # Ok(())
//! # }
//! ```
//!
//! An open [`Device`] is a job, which may have many processes: as long as the
//! pairs are the same, no page moves twice. Counts are in base pages. What the
//! fields mean is told in full in `include/uapi/linux/page_migrate.h`.

pub mod cpus;
mod device;
mod error;
pub mod mark;
mod nodes;
mod progress;
mod request;
mod uapi;

pub use device::{open_pidfd, page_size, Device, Info, DEVICE_PATH};
pub use error::Error;
pub use nodes::{destination, overlaps, Machine, Node, NodeMap, Pair, ParseError, MAX_NODE};
pub use progress::{CallingThread, Progress};
pub use request::{Counts, Outcome, Placement, Range, Request, Stop, Target};
