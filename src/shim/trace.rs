// SPDX-License-Identifier: GPL-2.0

//! The tracepoints.
//!
//! C header: `events/page_migrate_trace.h`, which says what the fields mean.
//!
//! While nobody watches, each costs a function call and a branch that is not taken: no fact is
//! gathered, and the clock is not read.

use kernel::time::{
    Instant,
    Monotonic, //
};

use crate::bindings;

pub(crate) use bindings::{
    page_migrate_batch as Batch,
    page_migrate_call as Call, //
};

/// When something began that was watched from its beginning.
#[derive(Clone, Copy)]
pub(crate) struct Begun(Instant<Monotonic>);

impl Begun {
    /// A call begins. `None` if nobody watches.
    pub(crate) fn call() -> Option<Self> {
        // SAFETY: It is always fine to ask.
        unsafe { bindings::pm_shim_trace_call_wanted() }.then(|| Self(Instant::now()))
    }

    /// A batch begins to move. `None` if nobody watches.
    pub(crate) fn batch() -> Option<Self> {
        // SAFETY: It is always fine to ask.
        unsafe { bindings::pm_shim_trace_batch_wanted() }.then(|| Self(Instant::now()))
    }

    /// Microseconds since then.
    pub(crate) fn usecs(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(0) / 1000
    }
}

/// Tells those who watch that a call is over.
pub(crate) fn call(call: &Call, result: &bindings::page_migrate_result) {
    // SAFETY: Both are read and neither is kept.
    unsafe { bindings::pm_shim_trace_call(call, result) };
}

/// Tells those who watch that a batch has been moved.
pub(crate) fn batch(batch: &Batch) {
    // SAFETY: It is read and not kept.
    unsafe { bindings::pm_shim_trace_batch(batch) };
}
