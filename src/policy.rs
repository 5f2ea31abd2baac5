// SPDX-License-Identifier: GPL-2.0

//! Memory policies follow the pages: they name the new nodes instead of the old ones.
//!
//! Policies are rewritten before the first page moves, so that what is faulted in while they move
//! lands where it belongs. Each policy object is rewritten once per job.
//!
//! Locks: those that `shim/policy.c` takes, under which an editor decides.

use kernel::{
    prelude::*,
    rbtree::RBTree,
    str::CString,
    sync::{
        aref::ARef,
        Arc, //
    },
    task::Task, //
};

use crate::{
    pure::{
        order::Map,
        units::NodeId, //
    },
    shim::{
        file::InodeId,
        helper::{
            Ended,
            Helper,
            Patience,
            Wait, //
        },
        mm::UserMm,
        node,
        policy::{
            self,
            Editor,
            Manner,
            Policy, //
        },
        task, //
    }, //
};

pub(crate) use crate::shim::policy::Cookie;

/// For each node the one that policies name instead.
struct Renaming(KVVec<NodeId>);

impl Renaming {
    fn new(map: &Map) -> Result<Self> {
        let mut to = KVVec::with_capacity(node::count(), GFP_KERNEL)?;
        for node in 0..node::count() {
            let node = NodeId::new(node).ok_or(EINVAL)?;
            let named = map
                .next(node, None, false, node::distance)
                .map_or(node, |d| d.node);
            to.push(named, GFP_KERNEL)?;
        }
        Ok(Self(to))
    }

    /// Renames the nodes of a mask. Returns whether it has changed.
    fn rename(&self, mask: &mut [usize]) -> bool {
        let bits = usize::BITS as usize;
        let mut renamed = [0usize; policy::WORDS];
        let Some(renamed) = renamed.get_mut(..mask.len()) else {
            return false;
        };
        for (i, word) in mask.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                let node = i
                    .saturating_mul(bits)
                    .saturating_add(rest.trailing_zeros() as usize);
                rest &= rest.wrapping_sub(1);
                // Masks of users may name nodes that this machine cannot have. They stay.
                let to = self.0.get(node).map_or(node, |to| to.index());
                if let Some(word) = renamed.get_mut(to / bits) {
                    *word |= 1 << (to % bits);
                }
            }
        }
        let changed = *mask != *renamed;
        mask.copy_from_slice(renamed);
        changed
    }

    /// Whether a set of nodes stays what it is.
    fn keeps(&self, set: impl Fn(NodeId) -> bool) -> bool {
        let bits = usize::BITS as usize;
        let mut mask = [0usize; policy::WORDS];
        let nodes = (0..self.0.len()).filter_map(NodeId::new);
        for node in nodes.filter(|&node| set(node)).map(NodeId::index) {
            if let Some(word) = mask.get_mut(node / bits) {
                *word |= 1 << (node % bits);
            }
        }
        !self.rename(&mut mask)
    }
}

impl Editor for Renaming {
    fn edit(&self, policy: &mut Policy<'_>) -> bool {
        let mut changed = false;
        for mask in policy.masks() {
            changed |= self.rename(mask);
        }
        if let Some(home) = policy.home_node() {
            if let Some(&to) = self.0.get(home) {
                if to.index() != home {
                    policy.set_home_node(to);
                    changed = true;
                }
            }
        }
        changed
    }
}

/// What is to be rewritten.
pub(crate) struct Scope<'a> {
    /// The address space.
    pub(crate) mm: &'a UserMm,
    /// The VMAs that lie wholly in here.
    pub(crate) range: core::ops::Range<usize>,
    /// A thread of the process.
    pub(crate) task: &'a ARef<Task>,
    /// The policies of its threads are rewritten, too.
    pub(crate) threads: bool,
    /// Those of VMAs are.
    pub(crate) vmas: bool,
    /// The shared policies of files are rewritten, too.
    pub(crate) files: bool,
}

/// One pass over the policies of a process.
struct Rewrite<'a> {
    scope: &'a Scope<'a>,
    renaming: Arc<Renaming>,
    manner: Manner,
    helper: Option<Helper>,
}

/// How long a VMA is waited for, with mmap_lock held for writing: the target cannot map memory then.
const VMA_PATIENCE: Patience = Patience {
    first: 200,
    last: 5000,
};

/// How long other tasks are waited for to pass through the scheduler.
const STAGE_PATIENCE: Patience = Patience {
    first: 10_000,
    last: 100,
};

/// How often a VMA is tried that cannot be locked.
const VMA_TRIES: u32 = 3;

/// Rewrites the policies of `scope` by `map`. Adds to `total` how many have changed, or would change
/// with `dry_run`; errors leave it as far as it got.
///
/// `allowed` tells which nodes the target's cpuset has now.
///
/// # Errors
///
/// `ENOMEM`, `EINTR` if a signal came, or `ESRCH` if the target is gone; what has been rewritten
/// stays so.
pub(crate) fn rewrite(
    scope: &Scope<'_>,
    map: &Map,
    cookie: Cookie,
    dry_run: bool,
    allowed: impl Fn(NodeId) -> bool,
    total: &mut u64,
) -> Result {
    let renaming = Arc::new(Renaming::new(map)?, GFP_KERNEL)?;
    let manner = Manner {
        cookie,
        dry_run,
        // A cpuset whose nodes only change places among themselves will not be narrowed.
        detach: !renaming.keeps(allowed),
    };
    let mut rewrite = Rewrite {
        scope,
        renaming,
        manner,
        helper: None,
    };
    // What could not be locked is not done, and is found again.
    let mut tries = if scope.vmas { VMA_TRIES } else { 0 };
    while tries > 0 && rewrite.vmas(total)? {
        tries = tries.saturating_sub(1);
    }
    if scope.files {
        rewrite.files(total)?;
    }
    if scope.threads {
        rewrite.threads(total)?;
    }
    Ok(())
}

impl Rewrite<'_> {
    /// Rewrites the policies of VMAs. Returns whether one could not be locked.
    fn vmas(&mut self, total: &mut u64) -> Result<bool> {
        let core::ops::Range { start, end } = self.scope.range;
        let mut skipped = false;
        let mut steps = Steps(0);
        let mut at = start;
        while at < end {
            // Writers stop every page fault: only where there is something to do.
            let (found, resume) =
                policy::vma_ahead(self.scope.mm, start, end, at, self.manner, &*self.renaming)?;
            at = resume;
            if found {
                let (resume, late) = self.some_vmas(at, total)?;
                skipped |= late;
                at = resume;
            }
            steps.pause()?;
        }
        Ok(skipped)
    }

    /// Rewrites the policies of some VMAs from `at` on. Returns where to go on, and whether a VMA had
    /// to be left out.
    fn some_vmas(&mut self, at: usize, total: &mut u64) -> Result<(usize, bool)> {
        let core::ops::Range { start, end } = self.scope.range;
        let manner = self.manner;
        let mut tries = 0u32;
        loop {
            let (mm, renaming) = (self.scope.mm.clone(), self.renaming.clone());
            let work = move || policy::rewrite_vmas(&mm, start, end, at, manner, &*renaming);
            let ended = if manner.dry_run {
                Ended::Done(work())
            } else {
                self.help(VMA_PATIENCE, work)?
            };
            let (done, late, interrupted) = match ended {
                Ended::Done(done) => (Some(done), false, false),
                Ended::Late(done) => (done, true, false),
                Ended::Interrupted(done) => (done, true, true),
            };
            let resume = match done {
                // A helper that is late has left out the VMA that it waited for.
                Some(Ok((changed, resume))) => {
                    *total = total.saturating_add(changed);
                    Some(resume)
                }
                Some(Err(e)) if !late => return Err(e),
                // It has not got mmap_lock. The walk would have to wait for that as well.
                _ => None,
            };
            tries = tries.saturating_add(1);
            if interrupted || (resume.is_none() && tries > VMA_TRIES && current!().signal_pending())
            {
                return Err(EINTR);
            }
            if let Some(resume) = resume {
                return Ok((resume, late));
            }
        }
    }

    /// Rewrites the shared policies of the files that are mapped.
    fn files(&mut self, total: &mut u64) -> Result {
        let core::ops::Range { start, end } = self.scope.range;
        let mut files: RBTree<InodeId, ()> = RBTree::new();
        let mut known = 0;
        let mut steps = Steps(0);
        let mut at = start;
        while at < end {
            let (file, resume) = policy::next_file(self.scope.mm, start, end, at)?;
            if let Some(file) = file.filter(|file| files.get(&file.inode()).is_none()) {
                let mut page = Some(0);
                while let Some(at) = page {
                    let (changed, resume) =
                        policy::rewrite_file(&file, at, self.manner, &*self.renaming)?;
                    *total = total.saturating_add(changed);
                    page = resume;
                    pause(changed > 0 && !self.manner.dry_run && page.is_some())?;
                }
                // Forgetting is safe: a rewritten policy is recognised by its cookie, at the cost of
                // time. Only a dry run counts it again.
                if known >= MANY {
                    files = RBTree::new();
                    known = 0;
                }
                known = known.saturating_add(1);
                files.try_create_and_insert(file.inode(), (), GFP_KERNEL_ACCOUNT)?;
            }
            at = resume;
            steps.pause()?;
        }
        Ok(())
    }

    /// Rewrites the policies of threads.
    fn threads(&mut self, total: &mut u64) -> Result {
        let (task, mm) = (self.scope.task, self.scope.mm);
        let (changed, staged) = policy::rewrite_tasks(task, mm, self.manner, &*self.renaming)?;
        *total = total.saturating_add(changed);
        if !staged || self.manner.dry_run {
            return Ok(());
        }
        let (task, mm) = (task.clone(), mm.clone());
        let (renaming, manner) = (self.renaming.clone(), self.manner);
        let work = move || policy::rewrite_staged_tasks(&task, &mm, manner, &*renaming);
        match self.help(STAGE_PATIENCE, work)? {
            Ended::Done(changed) => {
                *total = total.saturating_add(changed?);
                Ok(())
            }
            // A helper that has begun finishes in any case. Another call was at it, if not.
            Ended::Late(None) => Ok(()),
            Ended::Late(Some(changed)) => {
                *total = total.saturating_add(changed?);
                Ok(())
            }
            Ended::Interrupted(_) => Err(EINTR),
        }
    }

    /// Has `work` done where the caller can stop waiting for it.
    fn help<T: Send + Unpin + 'static>(
        &mut self,
        patience: Patience,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Ended<T>> {
        let helper = match self.helper.take() {
            Some(helper) => helper,
            None => {
                let pid = task::process_id(self.scope.task);
                let name = CString::try_from_fmt(fmt!("pm_policy/{pid}"))?;
                Helper::new(&name)?
            }
        };
        let (helper, ended) = helper.run(patience, &Wait::Policy.for_nobody(), work)?;
        self.helper = helper;
        Ok(ended)
    }
}

/// As many steps as a process has VMAs, unless the administrator allows more
/// (`DEFAULT_MAX_MAP_COUNT` in the kernel). It also bounds what a pass remembers.
const MANY: u32 = 1 << 16;

/// How many steps a pass has done.
struct Steps(u32);

impl Steps {
    /// Ends the call between two steps if it is killed. Other signals wait, for who is interrupted
    /// again and again would start with the first VMA each time; but not for a target that makes
    /// ever new ones ahead of the pass.
    fn pause(&mut self) -> Result {
        self.0 = self.0.saturating_add(1);
        pause(self.0 > MANY)
    }
}

/// Ends the call between two chunks if it is killed, or if a signal came and `may`: where something
/// was done that the next call finds done, and there is more to do. So each call gets further.
fn pause(may: bool) -> Result {
    if task::caller_is_killed() || (may && current!().signal_pending()) {
        return Err(EINTR);
    }
    Ok(())
}
