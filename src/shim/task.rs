// SPDX-License-Identifier: GPL-2.0

//! Threads, and what a caller may do to them.

use core::ptr::NonNull;

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::aref::ARef,
    task::Task, //
};

use crate::{
    bindings,
    pure::units::NodeId,
    shim::mm::UserMm, //
};

/// The task's cpuset allows a node.
pub(crate) const MEMS_ALLOWED: u8 = bindings::PM_MEMS_ALLOWED as u8;
/// The root cpuset has a node: it has not just come online.
pub(crate) const MEMS_KNOWN: u8 = bindings::PM_MEMS_KNOWN as u8;

/// Takes over a reference to a task, if there is one.
///
/// # Safety
///
/// `task` must be null, or a task with a reference that the caller gives away.
unsafe fn take(task: *mut bindings::task_struct) -> Option<ARef<Task>> {
    // CAST: `Task` is a transparent wrapper of `struct task_struct`.
    let task = NonNull::new(task.cast::<Task>())?;
    // SAFETY: By the requirements the reference is ours.
    Some(unsafe { ARef::from_raw(task) })
}

/// Finds a thread by its ID in the caller's PID namespace; 0 is the caller.
pub(crate) fn by_pid(pid: i32) -> Option<ARef<Task>> {
    // SAFETY: May be called with any number.
    let task = unsafe { bindings::pm_shim_task_by_pid(pid) };
    // SAFETY: The shim returned null or a reference.
    unsafe { take(task) }
}

/// Finds the process that a file descriptor of the caller stands for.
///
/// # Errors
///
/// `EBADF` if it is no pidfd, `ESRCH` if the process is gone.
pub(crate) fn by_pidfd(fd: i32) -> Result<ARef<Task>> {
    // SAFETY: May be called with any number.
    let task = from_err_ptr(unsafe { bindings::pm_shim_task_by_pidfd(fd) })?;
    // SAFETY: The shim returned no error, so it is a reference.
    unsafe { take(task) }.ok_or(ESRCH)
}

/// Finds a thread of the same process that still has memory, `task` itself if it has. With `mm` it
/// must be that memory.
pub(crate) fn alive(task: &Task, mm: Option<&UserMm>) -> Option<ARef<Task>> {
    let mm = mm.map_or(core::ptr::null_mut(), UserMm::as_raw);
    // SAFETY: `task` is a live reference, and `mm` is only compared.
    let found = unsafe { bindings::pm_shim_task_alive(task.as_ptr(), mm) };
    // SAFETY: The shim returned null or a reference.
    unsafe { take(found) }
}

/// The ID of its process, in the first PID namespace.
///
/// `Task` of Linux 7.2 has no such method.
pub(crate) fn process_id(task: &Task) -> i32 {
    // SAFETY: `task` is a live reference, and the field never changes.
    unsafe { (*task.as_ptr()).tgid }
}

/// Whether it is a thread of the kernel.
pub(crate) fn is_kernel(task: &Task) -> bool {
    // SAFETY: `task` is a live reference.
    unsafe { bindings::pm_shim_task_is_kernel(task.as_ptr()) }
}

/// Whether the whole process has exited or is about to.
pub(crate) fn is_dead(task: &Task) -> bool {
    // SAFETY: `task` is a live reference.
    unsafe { bindings::pm_shim_task_is_dead(task.as_ptr()) }
}

/// Whether a signal kills the caller.
pub(crate) fn caller_is_killed() -> bool {
    // SAFETY: Asks about the current task only.
    unsafe { bindings::pm_shim_caller_is_killed() }
}

/// Whether the caller may move pages that several processes map.
pub(crate) fn caller_may_move_shared() -> bool {
    // SAFETY: Asks about the current task only.
    unsafe { bindings::pm_shim_capable_nice() }
}

/// Notes for each node what the cpusets say of it, in the flags [`MEMS_ALLOWED`] and
/// [`MEMS_KNOWN`]. `facts` has one entry for each node number.
pub(crate) fn mems(task: &Task, facts: &mut [u8]) {
    let Ok(len) = u32::try_from(facts.len()) else {
        return;
    };
    // SAFETY: The task is a live reference, and `facts` is writable for `len` bytes.
    unsafe { bindings::pm_shim_task_mems(task.as_ptr(), facts.as_mut_ptr(), len) };
}

/// A task that executes no new program while this is held, so that what was checked stays true.
///
/// # Invariants
///
/// `exec_update_lock` of the task is held for reading.
pub(crate) struct Steady<'a>(&'a Task);

impl<'a> Steady<'a> {
    /// Waits for a running exec to end.
    ///
    /// # Errors
    ///
    /// `EINTR` if the caller is being killed.
    pub(crate) fn new(task: &'a Task) -> Result<Self> {
        // SAFETY: `task` is a live reference.
        to_result(unsafe { bindings::pm_shim_task_lock_exec(task.as_ptr()) })?;
        // INVARIANT: The lock was taken.
        Ok(Self(task))
    }

    /// Whether the caller may look at the task as ptrace(2) would, with its real credentials.
    pub(crate) fn caller_may_access(&self) -> bool {
        // SAFETY: The task is a live reference.
        unsafe { bindings::pm_shim_task_may_access(self.0.as_ptr()) }
    }

    /// Asks the security modules whether the caller may move its pages.
    ///
    /// # Errors
    ///
    /// What the security module says.
    pub(crate) fn caller_may_move(&self) -> Result {
        // SAFETY: The task is a live reference.
        to_result(unsafe { bindings::pm_shim_task_may_move(self.0.as_ptr()) })
    }

    /// The memory of the task, `None` if it has none any more.
    pub(crate) fn mm(&self) -> Option<UserMm> {
        // SAFETY: The task is a live reference.
        let mm = unsafe { bindings::pm_shim_task_mm(self.0.as_ptr()) };
        // SAFETY: The shim returned null or a reference.
        unsafe { UserMm::from_raw(mm) }
    }
}

impl Drop for Steady<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type invariant.
        unsafe { bindings::pm_shim_task_unlock_exec(self.0.as_ptr()) };
    }
}

/// Whether the caller's cpuset lets it allocate memory of a node.
pub(crate) fn caller_may_allocate(node: NodeId) -> bool {
    // SAFETY: Just looks; the number may be any.
    unsafe { bindings::pm_shim_caller_may_allocate(node.get()) }
}
