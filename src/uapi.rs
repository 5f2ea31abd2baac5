// SPDX-License-Identifier: GPL-2.0

//! The structures of the interface, as generated from `include/uapi/linux/page_migrate.h`.

use core::mem::offset_of;

use kernel::{
    prelude::*,
    transmute::{
        AsBytes,
        FromBytes, //
    },
};

use crate::{
    bindings,
    pure::{
        counts::Totals,
        order, //
    }, //
};

pub(crate) use bindings::{
    page_migrate_info as Info,
    page_migrate_placement as Placement,
    page_migrate_request as Request,
    page_migrate_result as CallResult, //
};

pub(crate) const IOC_INFO: u32 = bindings::page_migrate_ioc_PAGE_MIGRATE_IOC_INFO;
pub(crate) const IOC_MIGRATE: u32 = bindings::page_migrate_ioc_PAGE_MIGRATE_IOC_MIGRATE;
pub(crate) const IOC_PLACEMENT: u32 = bindings::page_migrate_ioc_PAGE_MIGRATE_IOC_PLACEMENT;

pub(crate) const PIDFD: u32 = bindings::PAGE_MIGRATE_PIDFD;
pub(crate) const DRY_RUN: u32 = bindings::PAGE_MIGRATE_DRY_RUN;
pub(crate) const KEEP_POLICY: u32 = bindings::PAGE_MIGRATE_KEEP_POLICY;
pub(crate) const EXCLUSIVE: u32 = bindings::PAGE_MIGRATE_EXCLUSIVE;
pub(crate) const NEW_JOB: u32 = bindings::PAGE_MIGRATE_NEW_JOB;
pub(crate) const STRICT: u32 = bindings::PAGE_MIGRATE_STRICT;

/// Every flag that this module knows.
pub(crate) const FLAGS: u32 = PIDFD | DRY_RUN | KEEP_POLICY | EXCLUSIVE | NEW_JOB | STRICT;

/// Threads that a call can have copy for it.
pub(crate) const MAX_WORKERS: u32 = order::MAX_WORKERS as u32;

/// The result as the caller gets it. `resume_va` is where the call stopped.
pub(crate) fn result(totals: Totals, resume_va: usize) -> CallResult {
    CallResult {
        moved: totals.moved.get(),
        moved_fallback: totals.moved_fallback.get(),
        already_moved: totals.already_moved.get(),
        in_place: totals.in_place.get(),
        exempt: totals.exempt.get(),
        shared: totals.shared.get(),
        busy: totals.busy.get(),
        pinned: totals.pinned.get(),
        unmovable: totals.unmovable.get(),
        no_memory: totals.no_memory.get(),
        policies: totals.policies,
        resume_va: resume_va as u64,
        gone: totals.gone.get(),
        reserved: 0,
    }
}

const _: () = {
    assert!(size_of::<Info>() == 64);
    assert!(offset_of!(Info, flags) == 8);
    assert!(offset_of!(Info, reserved) == 16);
    assert!(size_of::<CallResult>() == 112);
    assert!(offset_of!(CallResult, no_memory) == 72);
    assert!(offset_of!(CallResult, resume_va) == 88);
    assert!(offset_of!(CallResult, gone) == 96);
    assert!(size_of::<Request>() == 192);
    assert!(offset_of!(Request, va_start) == 8);
    assert!(offset_of!(Request, count) == 24);
    assert!(offset_of!(Request, old_nodes) == 32);
    assert!(offset_of!(Request, moved_by_pair) == 48);
    assert!(offset_of!(Request, max_pages) == 56);
    assert!(offset_of!(Request, reserved) == 64);
    assert!(offset_of!(Request, result) == 80);
    assert!(size_of::<Placement>() == 64);
    assert!(offset_of!(Placement, pages) == 32);
    assert!(offset_of!(Placement, reserved) == 40);
    assert!(bindings::PAGE_MIGRATE_NODE_ANY == crate::pure::node_map::ANY);
};

// SAFETY: All fields are integers without padding between them, so any bytes are a valid value.
unsafe impl FromBytes for Request {}
// SAFETY: As for `Request`.
unsafe impl FromBytes for Placement {}
// SAFETY: As for `Request`.
unsafe impl FromBytes for CallResult {}
// SAFETY: All fields are integers, and the sizes asserted above leave no room for padding.
unsafe impl AsBytes for Info {}
// SAFETY: As for `Info`.
unsafe impl AsBytes for CallResult {}
