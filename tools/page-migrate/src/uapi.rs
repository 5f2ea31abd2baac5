// SPDX-License-Identifier: MIT OR Apache-2.0

//! The structures and numbers of `<linux/page_migrate.h>`, with their layout
//! checked when this is compiled.

use core::mem::{offset_of, size_of};

pub(crate) const NODE_ANY: i32 = -1;

pub(crate) const PIDFD: u32 = 1 << 0;
pub(crate) const DRY_RUN: u32 = 1 << 1;
pub(crate) const KEEP_POLICY: u32 = 1 << 2;
pub(crate) const EXCLUSIVE: u32 = 1 << 3;
pub(crate) const NEW_JOB: u32 = 1 << 4;
pub(crate) const STRICT: u32 = 1 << 5;

/// `struct page_migrate_info`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Info {
    pub(crate) max_nodes: u32,
    pub(crate) max_workers: u32,
    pub(crate) flags: u64,
    pub(crate) reserved: [u64; 6],
}

/// `struct page_migrate_result`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Result {
    pub(crate) moved: u64,
    pub(crate) moved_fallback: u64,
    pub(crate) already_moved: u64,
    pub(crate) in_place: u64,
    pub(crate) exempt: u64,
    pub(crate) shared: u64,
    pub(crate) busy: u64,
    pub(crate) pinned: u64,
    pub(crate) unmovable: u64,
    pub(crate) no_memory: u64,
    pub(crate) policies: u64,
    pub(crate) resume_va: u64,
    pub(crate) gone: u64,
    pub(crate) reserved: u64,
}

/// `struct page_migrate_request`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    pub(crate) pid: i32,
    pub(crate) flags: u32,
    pub(crate) va_start: u64,
    pub(crate) len: u64,
    pub(crate) count: u32,
    pub(crate) workers: u32,
    pub(crate) old_nodes: u64,
    pub(crate) new_nodes: u64,
    pub(crate) moved_by_pair: u64,
    pub(crate) max_pages: u64,
    pub(crate) reserved: [u64; 2],
    pub(crate) result: Result,
}

/// `struct page_migrate_placement`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Placement {
    pub(crate) pid: i32,
    pub(crate) flags: u32,
    pub(crate) va_start: u64,
    pub(crate) len: u64,
    pub(crate) count: u32,
    pub(crate) reserved0: u32,
    pub(crate) pages: u64,
    pub(crate) reserved: [u64; 3],
}

// A few architectures number the directions differently in <asm/ioctl.h>.
#[cfg(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "sparc64"
))]
compile_error!("the ioctl numbers of this architecture are not known here");

const fn ioc(direction: u32, nr: u32, size: usize) -> u32 {
    (direction << 30) | ((size as u32) << 16) | (0xB9 << 8) | nr
}

const READ: u32 = 2;
const READ_WRITE: u32 = 3;

pub(crate) const IOC_INFO: u32 = ioc(READ, 0x00, size_of::<Info>());
pub(crate) const IOC_MIGRATE: u32 = ioc(READ_WRITE, 0x01, size_of::<Request>());
pub(crate) const IOC_PLACEMENT: u32 = ioc(READ_WRITE, 0x02, size_of::<Placement>());

macro_rules! layout {
    ($t:ty, $size:literal, $($field:ident @ $offset:literal),+) => {
        const _: () = {
            assert!(size_of::<$t>() == $size);
            assert!(align_of::<$t>() == 8);
            $(assert!(offset_of!($t, $field) == $offset);)+
        };
    };
}

layout!(Info, 64, max_nodes @ 0, max_workers @ 4, flags @ 8, reserved @ 16);
layout!(
    Result, 112,
    moved @ 0, moved_fallback @ 8, already_moved @ 16, in_place @ 24,
    exempt @ 32, shared @ 40, busy @ 48, pinned @ 56, unmovable @ 64,
    no_memory @ 72, policies @ 80, resume_va @ 88, gone @ 96,
    reserved @ 104
);
layout!(
    Request, 192,
    pid @ 0, flags @ 4, va_start @ 8, len @ 16, count @ 24, workers @ 28,
    old_nodes @ 32, new_nodes @ 40, moved_by_pair @ 48, max_pages @ 56,
    reserved @ 64, result @ 80
);
layout!(
    Placement, 64,
    pid @ 0, flags @ 4, va_start @ 8, len @ 16, count @ 24, reserved0 @ 28,
    pages @ 32, reserved @ 40
);

const _: () = {
    assert!(IOC_INFO == 0x8040_b900);
    assert!(IOC_MIGRATE == 0xc0c0_b901);
    assert!(IOC_PLACEMENT == 0xc040_b902);
};
