// SPDX-License-Identifier: GPL-2.0

//! Memory policies follow the pages: they name the new nodes instead of the old ones.
//!
//! Policies are rewritten before the first page moves, so that what is faulted in meanwhile lands
//! where it belongs. Each policy object is rewritten once per job.

use kernel::{
    prelude::*,
    rbtree::RBTree,
    task::Task, //
};

use crate::shim::{
    file::InodeId,
    mm::UserMm,
    node::{
        self,
        Map, //
    },
    policy::{
        self,
        Editor,
        Manner,
        Policy, //
    },
    task, //
};

pub(crate) use crate::shim::policy::Cookie;

/// For each node the one that policies name instead.
struct Renaming(KVVec<u16>);

impl Renaming {
    fn new(map: &Map) -> Result<Self> {
        let mut to = KVVec::with_capacity(node::count(), GFP_KERNEL)?;
        for node in 0..node::count() {
            let same = u16::try_from(node)?;
            let named = map
                .next(node, None, false, node::distance)
                .map_or(same, |d| d.node);
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
        for node in 0..mask.len().saturating_mul(bits) {
            // Masks of users may name nodes that this machine cannot have. They stay.
            let to = self.0.get(node).map_or(node, |&to| usize::from(to));
            let is_set = mask
                .get(node / bits)
                .is_some_and(|word| word & (1 << (node % bits)) != 0);
            if is_set {
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
    fn keeps(&self, set: impl Fn(usize) -> bool) -> bool {
        let bits = usize::BITS as usize;
        let mut mask = [0usize; policy::WORDS];
        for node in (0..self.0.len()).filter(|&node| set(node)) {
            if let Some(word) = mask.get_mut(node / bits) {
                *word |= 1 << (node % bits);
            }
        }
        !self.rename(&mut mask)
    }
}

impl Editor for Renaming {
    fn edit(&mut self, policy: &mut Policy<'_>) -> bool {
        let mut changed = false;
        for mask in policy.masks() {
            changed |= self.rename(mask);
        }
        if let Some(home) = policy.home_node() {
            if let Some(&to) = self.0.get(home) {
                if usize::from(to) != home {
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
    /// The process whose threads' policies are rewritten, too.
    pub(crate) task: Option<&'a Task>,
}

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
    allowed: impl Fn(usize) -> bool,
    total: &mut u64,
) -> Result {
    let mut renaming = Renaming::new(map)?;
    let manner = Manner {
        cookie,
        dry_run,
        // A cpuset whose nodes only change places among themselves will not be narrowed.
        detach: !renaming.keeps(allowed),
    };
    let core::ops::Range { start, end } = scope.range;

    let mut steps = Steps(0);
    let mut at = start;
    while at < end {
        let (changed, resume) =
            policy::rewrite_vmas(scope.mm, start, end, at, manner, &mut renaming)?;
        *total = total.saturating_add(changed);
        at = resume;
        steps.pause()?;
    }
    let mut files: RBTree<InodeId, ()> = RBTree::new();
    let mut known = 0;
    steps = Steps(0);
    at = start;
    while at < end {
        let (file, resume) = policy::next_file(scope.mm, start, end, at)?;
        if let Some(file) = file.filter(|file| files.get(&file.inode()).is_none()) {
            let mut page = Some(0);
            while let Some(at) = page {
                let (changed, resume) = policy::rewrite_file(&file, at, manner, &mut renaming)?;
                *total = total.saturating_add(changed);
                page = resume;
                pause(changed > 0 && !dry_run && page.is_some())?;
            }
            // What is done is found done, so that to forget it costs time; a dry run counts it again.
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
    if let Some(task) = scope.task {
        let changed = policy::rewrite_tasks(task, scope.mm, manner, &mut renaming)?;
        *total = total.saturating_add(changed);
    }
    Ok(())
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
