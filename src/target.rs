// SPDX-License-Identifier: GPL-2.0

//! The process whose pages are to move: found, checked for permission, and held.
//!
//! Locks: exec_update_lock, from the check of the permission until the address space is held.

use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::Task, //
};

use crate::{
    pure::units::NodeId,
    shim::{
        mm::UserMm,
        node,
        task::{
            self,
            Steady, //
        }, //
    }, //
};

/// How the caller names a process.
#[derive(Clone, Copy)]
pub(crate) enum Who {
    /// By the ID of any of its threads; 0 is the caller.
    Pid(i32),
    /// By a pidfd.
    PidFd(i32),
}

/// How often another thread is looked for, when one exits while it is asked for its memory.
const TRIES: u32 = 16;

/// What the cpusets have said of each node, each time that they were asked.
///
/// A cpuset may be that of one thread among several. So a node that it did not have once is not used.
pub(crate) struct Mems {
    facts: KVVec<u8>,
    /// Space for an answer.
    now: KVVec<u8>,
}

impl Mems {
    fn new(task: &Task) -> Result<Self> {
        let mut facts = KVVec::from_elem(0, node::count(), GFP_KERNEL)?;
        let now = KVVec::from_elem(0, node::count(), GFP_KERNEL)?;
        task::mems(task, &mut facts);
        Ok(Self { facts, now })
    }

    /// A copy.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let mut copy = Self {
            facts: KVVec::from_elem(0, self.facts.len(), GFP_KERNEL_ACCOUNT)?,
            now: KVVec::new(),
        };
        copy.assign(self);
        Ok(copy)
    }

    /// Becomes a copy of `other`, which is of the same machine.
    pub(crate) fn assign(&mut self, other: &Self) {
        for (mine, facts) in self.facts.iter_mut().zip(other.facts.iter()) {
            *mine = *facts;
        }
    }

    fn reread(&mut self, task: &Task) {
        task::mems(task, &mut self.now);
        for (facts, now) in self.facts.iter_mut().zip(self.now.iter()) {
            *facts &= now;
        }
    }

    /// Whether the target's cpuset allows a node.
    pub(crate) fn allows(&self, node: NodeId) -> bool {
        self.says(node, task::MEMS_ALLOWED)
    }

    /// Whether the cpusets know of a node.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.says(node, task::MEMS_KNOWN)
    }

    fn says(&self, node: NodeId, fact: u8) -> bool {
        self.facts
            .get(node.index())
            .is_some_and(|&facts| facts & fact != 0)
    }
}

/// A process that the caller may move.
pub(crate) struct Target {
    task: ARef<Task>,
    mm: UserMm,
    mems: Mems,
}

impl Target {
    /// Finds a process and checks that the caller may move its pages.
    ///
    /// The rule and its order are those of move_pages(2): exec_update_lock, ptrace access,
    /// security modules, cpuset, memory.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is no such process or it has exited, `EBADF` if it is no pidfd, `EPERM` if
    /// the caller may not, `EINVAL` if it has no address space, `EINTR` if the caller is being
    /// killed, `ENOMEM`.
    pub(crate) fn find(who: Who) -> Result<Self> {
        let named = match who {
            Who::Pid(pid) if pid < 0 => return Err(ESRCH),
            Who::Pid(pid) => task::by_pid(pid).ok_or(ESRCH)?,
            Who::PidFd(fd) if fd < 0 => return Err(EBADF),
            Who::PidFd(fd) => task::by_pidfd(fd)?,
        };
        for _ in 0..TRIES {
            // A process outlives its first thread. A kernel thread has no memory, but is checked for
            // permission like any other.
            let task = match task::alive(&named, None) {
                Some(task) => task,
                None if task::is_kernel(&named) => named.clone(),
                None => break,
            };
            if let Some(target) = Self::hold(task)? {
                return Ok(target);
            }
        }
        Err(ESRCH)
    }

    /// Checks and holds the process of a thread. `None` if that thread has just exited.
    fn hold(task: ARef<Task>) -> Result<Option<Self>> {
        let steady = Steady::new(&task)?;
        if !steady.caller_may_access() {
            return Err(EPERM);
        }
        steady.caller_may_move().map_err(|_| EPERM)?;
        let mems = Mems::new(&task)?;
        if task::is_kernel(&task) {
            return Err(EINVAL);
        }
        let mm = steady.mm();
        drop(steady);
        if task::is_dead(&task) {
            return Err(ESRCH);
        }
        Ok(mm.map(|mm| Self { task, mm, mems }))
    }

    /// Its address space.
    pub(crate) fn mm(&self) -> &UserMm {
        &self.mm
    }

    /// One of its threads.
    pub(crate) fn task(&self) -> &ARef<Task> {
        &self.task
    }

    /// What the cpusets said of each node when it was found.
    pub(crate) fn mems(&self) -> &Mems {
        &self.mems
    }

    /// Asks the cpusets again, and returns whether one of its threads still uses the address space.
    ///
    /// The administrator may narrow the target's cpuset, or move it to another one, at any time.
    pub(crate) fn reread_mems(&mut self) -> bool {
        let Some(task) = task::alive(&self.task, Some(&self.mm)) else {
            return false;
        };
        self.mems.reread(&task);
        true
    }

    /// Whether it has exited since it was found.
    pub(crate) fn is_gone(&self) -> bool {
        self.mm.is_gone() || task::is_dead(&self.task)
    }
}
