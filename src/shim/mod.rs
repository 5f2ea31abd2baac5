// SPDX-License-Identifier: GPL-2.0

//! Safe types around what the C shim reaches in the kernel.
//!
//! This room and its children, `bindings` and `uapi` are the only ones with `unsafe` in them, apart
//! from the registration in `device`.
//!
//! The C files beside those of Rust reach what Rust cannot: `symbols.c` binds the kernel's functions,
//! and each of the others says what it owns and which locks it takes.

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::{
    bindings,
    pure::units::NodeId, //
};

pub(crate) mod file;
pub(crate) mod folio;
pub(crate) mod helper;
pub(crate) mod mm;
pub(crate) mod mutex;
pub(crate) mod node;
pub(crate) mod page_set;
pub(crate) mod policy;
pub(crate) mod task;
pub(crate) mod trace;
pub(crate) mod worker;

/// Proof that the kernel functions that the shim calls have been found.
///
/// # Invariants
///
/// Every static call of the shim is bound, and its work queue exists.
pub(crate) struct Kernel(());

impl Kernel {
    /// Finds every kernel function that the shim calls.
    ///
    /// # Errors
    ///
    /// `ENOENT` after one line in the kernel log that names what the running kernel lacks.
    pub(crate) fn bind() -> Result<Self> {
        // SAFETY: Called when the module is loaded, before anything uses the static calls.
        to_result(unsafe { bindings::pm_shim_bind() })?;
        // SAFETY: Called once for each load, and undone in `drop`.
        to_result(unsafe { bindings::pm_shim_workers_start() })?;
        // INVARIANT: Both calls succeeded.
        Ok(Self(()))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the work queue exists. The device is gone, so nothing uses
        // it any more.
        unsafe { bindings::pm_shim_workers_stop() };
    }
}

/// The module's parameter of this name.
pub(crate) fn self_ranges_only() -> bool {
    // SAFETY: Just reads what was set when the module was loaded.
    unsafe { bindings::pm_shim_self_ranges_only() }
}

/// The CPUs that are online.
pub(crate) fn nr_cpus() -> usize {
    // SAFETY: It is always fine to ask.
    let nr = unsafe { bindings::pm_shim_nr_cpus() };
    nr as usize
}

/// Runs `job` where memory of all `nodes` may be allocated, and returns when it is done.
///
/// The caller's own cpuset must not restrict where the pages of another process go. Where it lacks
/// one of the nodes, a thread of the kernel does the job.
pub(crate) fn run_for(mut nodes: impl Iterator<Item = NodeId>, mut job: &mut (dyn FnMut() + Send)) {
    if nodes.all(task::caller_may_allocate) {
        return job();
    }
    let job: *mut &mut (dyn FnMut() + Send) = &mut job;
    // SAFETY: `job` points to a closure that lives until this returns, and `page_migrate_run` is
    // called with it at most once before that.
    unsafe { bindings::pm_shim_run_on_worker(job.cast()) };
}

/// Runs what [`run_for`] was given.
///
/// # Safety
///
/// `job` must come from [`run_for`], which must not have returned.
#[no_mangle]
unsafe extern "C" fn page_migrate_run(job: *mut kernel::ffi::c_void) {
    // SAFETY: By the requirements, `job` points to the live reference made in `run_for`,
    // and nothing else uses it until this returns.
    let job = unsafe { &mut *job.cast::<&mut (dyn FnMut() + Send)>() };
    job();
}
