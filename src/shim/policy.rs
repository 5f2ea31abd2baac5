// SPDX-License-Identifier: GPL-2.0

//! Memory policies of VMAs, threads and files.

use kernel::{
    error::to_result,
    ffi::{
        c_long,
        c_void, //
    },
    prelude::*,
    task::Task, //
};

use crate::{
    bindings,
    pure::units::NodeId,
    shim::{
        file::MappedFile,
        mm::UserMm, //
    },
};

/// Words of a mask of nodes.
pub(crate) const WORDS: usize =
    core::mem::offset_of!(bindings::pm_policy, user_nodes) / size_of::<usize>();

/// The nodes that a policy names.
pub(crate) struct Policy<'a>(&'a mut bindings::pm_policy);

impl Policy<'_> {
    /// The masks of nodes, as words of bits: the effective ones, then those that the user gave.
    pub(crate) fn masks(&mut self) -> [&mut [usize]; 2] {
        [&mut self.0.nodes, &mut self.0.user_nodes]
    }

    /// The home node, if there is one.
    pub(crate) fn home_node(&self) -> Option<usize> {
        usize::try_from(self.0.home_node).ok()
    }

    /// Sets the home node.
    pub(crate) fn set_home_node(&mut self, node: NodeId) {
        self.0.home_node = i32::try_from(node.get()).unwrap_or(-1);
    }
}

/// Decides what becomes of a policy. Runs under spinlocks: it must neither sleep nor allocate.
pub(crate) trait Editor {
    /// Changes the nodes of a policy. Returns whether anything changed.
    fn edit(&self, policy: &mut Policy<'_>) -> bool;
}

/// What tells one job's rewritten policies from another's.
#[derive(Clone, Copy)]
pub(crate) struct Cookie(usize);

impl Cookie {
    /// One that no other job has.
    pub(crate) fn new() -> Self {
        // SAFETY: Just asks for a random number.
        Self(unsafe { bindings::pm_shim_policy_cookie() })
    }
}

/// How policies are treated.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Policies with this cookie have been rewritten before.
    pub(crate) cookie: Cookie,
    /// Count only.
    pub(crate) dry_run: bool,
    /// The next change of the target's cpuset is to leave their nodes alone.
    pub(crate) detach: bool,
}

/// Runs `f` with a pass of `editor`.
fn with_pass<R>(
    manner: Manner,
    mut editor: &dyn Editor,
    f: impl FnOnce(&mut bindings::pm_policy_pass) -> R,
) -> R {
    let editor: *mut &dyn Editor = &mut editor;
    let mut pass = bindings::pm_policy_pass {
        editor: editor.cast(),
        cookie: manner.cookie.0,
        dry_run: manner.dry_run,
        detach: manner.detach,
        staged: false,
    };
    f(&mut pass)
}

fn changed(count: c_long) -> Result<u64> {
    u64::try_from(count).or_else(|_| {
        to_result(i32::try_from(count).unwrap_or(EIO.to_errno()))?;
        Ok(0)
    })
}

/// Whether there is a policy to be rewritten in a bounded number of the VMAs that lie wholly in
/// `start..end`, from `at` on. Returns it, and where that is or where to go on.
///
/// # Errors
///
/// `EINTR` if a signal came, `ESRCH` if nobody uses the address space any more.
pub(crate) fn vma_ahead(
    mm: &UserMm,
    start: usize,
    end: usize,
    at: usize,
    manner: Manner,
    editor: &dyn Editor,
) -> Result<(bool, usize)> {
    let mut resume = at;
    let found = with_pass(manner, editor, |pass| {
        // SAFETY: The address space is a live reference, and `resume` is writable.
        unsafe { bindings::pm_shim_policy_vma_ahead(mm.as_raw(), start, end, pass, &mut resume) }
    });
    Ok((changed(found)? > 0, resume))
}

/// Rewrites policies of the VMAs that lie wholly in `start..end`, from `at` on, of a bounded number
/// of VMAs. Returns how many changed, and where to go on.
///
/// Waits for page faults that are at work there, with mmap_lock held for writing.
///
/// # Errors
///
/// `EINTR` if the caller is being killed, `ESRCH` if nobody uses the address space any more.
pub(crate) fn rewrite_vmas(
    mm: &UserMm,
    start: usize,
    end: usize,
    at: usize,
    manner: Manner,
    editor: &dyn Editor,
) -> Result<(u64, usize)> {
    let mut resume = at;
    let count = with_pass(manner, editor, |pass| {
        // SAFETY: The address space is a live reference, `pass` holds an editor that lives until
        // this returns, and `resume` is writable.
        unsafe { bindings::pm_shim_policy_vmas(mm.as_raw(), start, end, pass, &mut resume) }
    });
    Ok((changed(count)?, resume))
}

/// Rewrites the policies of all threads of a process that uses `mm`. Returns how many changed, and
/// whether some are left for [`rewrite_staged_tasks`].
///
/// # Errors
///
/// `EINTR` if the caller is being killed.
pub(crate) fn rewrite_tasks(
    task: &Task,
    mm: &UserMm,
    manner: Manner,
    editor: &dyn Editor,
) -> Result<(u64, bool)> {
    let mut staged = false;
    let count = with_pass(manner, editor, |pass| {
        // SAFETY: Task and address space are live references, and `pass` holds an editor that lives
        // until this returns.
        let count = unsafe { bindings::pm_shim_policy_tasks(task.as_ptr(), mm.as_raw(), pass) };
        staged = pass.staged;
        count
    });
    Ok((changed(count)?, staged))
}

/// Rewrites those that [`rewrite_tasks`] has left. Waits for all tasks to pass through the scheduler,
/// which nothing ends.
///
/// # Errors
///
/// `EINTR` if the caller is being killed.
pub(crate) fn rewrite_staged_tasks(
    task: &Task,
    mm: &UserMm,
    manner: Manner,
    editor: &dyn Editor,
) -> Result<u64> {
    changed(with_pass(manner, editor, |pass| {
        // SAFETY: As in `rewrite_tasks`.
        unsafe { bindings::pm_shim_policy_tasks_staged(task.as_ptr(), mm.as_raw(), pass) }
    }))
}

/// Finds the next shmem file with policies of a bounded number of VMAs that lie wholly in
/// `start..end`, from `at` on. Returns it, and where to go on.
///
/// # Errors
///
/// `EINTR` if the caller is being killed, `ESRCH` if nobody uses the address space any more.
pub(crate) fn next_file(
    mm: &UserMm,
    start: usize,
    end: usize,
    at: usize,
) -> Result<(Option<MappedFile>, usize)> {
    let mut resume = at;
    let mut file = bindings::pm_file::default();
    // SAFETY: The address space is a live reference, the others are writable.
    to_result(unsafe {
        bindings::pm_shim_policy_next_file(mm.as_raw(), start, end, &mut resume, &mut file)
    })?;
    // SAFETY: The shim holds any file that it tells of.
    let file = unsafe { MappedFile::from_raw(file) };
    Ok((file, resume))
}

/// Rewrites policies of a shmem file that [`next_file`] has found, from page `at` on, of a bounded
/// number. Returns how many changed, and where to go on, if there is more.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn rewrite_file(
    file: &MappedFile,
    at: usize,
    manner: Manner,
    editor: &dyn Editor,
) -> Result<(u64, Option<usize>)> {
    let mut resume = at;
    let count = with_pass(manner, editor, |pass| {
        // SAFETY: The file is held and of shmem, `pass` holds an editor that lives until this
        // returns, and `resume` is writable.
        unsafe { bindings::pm_shim_policy_file(file.as_raw(), pass, &mut resume) }
    });
    Ok((changed(count)?, (resume != usize::MAX).then_some(resume)))
}

/// Hands a policy to the editor.
///
/// # Safety
///
/// `editor` must come from [`with_pass`], whose closure must not have returned. `policy` must be
/// writable.
#[no_mangle]
unsafe extern "C" fn page_migrate_edit_policy(
    editor: *mut c_void,
    policy: *mut bindings::pm_policy,
) -> bool {
    // SAFETY: By the requirements.
    let editor = unsafe { &*editor.cast::<&dyn Editor>() };
    // SAFETY: By the requirements.
    editor.edit(&mut Policy(unsafe { &mut *policy }))
}
