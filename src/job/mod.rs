// SPDX-License-Identifier: GPL-2.0

//! A job: what an open file remembers from one call to the next, and who may look at it.
//!
//! `call` is one call at work. Pages that found no room, or were busy, wait (`waiting`) and are tried again
//! (`retry`) in rounds (`rounds`). `workers` are threads that move batches while the call walks on.
//!
//! Locks: a job is used under its open file's mutex (`shim/mutex`), which its caller holds.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

use crate::{
    migrate::{
        batch,
        Load, //
    },
    policy::Cookie,
    pure::{
        counts::Counts,
        order::{
            NodeLists,
            Order,
            Range, //
        },
        units::{
            Pages,
            Pfn, //
        }, //
    },
    shim::{
        node, //
        page_set::PageSet,
    },
    target::Target,
    walk::Census, //
};

mod call;
mod retry;
mod rounds;
mod waiting;
mod workers;

use waiting::Waiting;

pub(crate) use call::{
    End,
    Outcome, //
};

/// What an open file remembers from one call to the next.
#[derive(Default)]
pub(crate) struct Remembered {
    job: Option<Job>,
    desk: Option<Desk>,
}

/// Memory that a call works with. The next one on the same open file need not get it anew.
struct Desk {
    load: Load,
    waiting: Waiting,
    /// For each node number whether its pages are looked at, in a walk for one pair.
    nodes: KVVec<u8>,
}

impl Desk {
    /// Makes a desk, or takes that of the call before, for a call of so many pairs with so many pages in its
    /// range.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn ready(slot: &mut Option<Self>, pairs: usize, pages: usize) -> Result<&mut Self> {
        let folios = pages.min(batch::FIRST_FOLIOS);
        let desk = match slot.take() {
            Some(desk) => desk,
            None => Self {
                load: Load::new(folios)?,
                waiting: Waiting::new()?,
                nodes: KVVec::from_elem(0, node::count(), GFP_KERNEL_ACCOUNT)?,
            },
        };
        let desk = slot.insert(desk);
        desk.load.batch.grow_to(folios);
        desk.waiting.set_pairs(pairs)?;
        Ok(desk)
    }
}

/// What calls with the same lists have done.
struct Job {
    lists: NodeLists,
    frames: Arc<PageSet<Pfn>>,
    cookie: Cookie,
    moved: Pages,
}

/// How far the work of an open file is, for whoever looks while it goes on.
pub(crate) struct Progress {
    moved: Atomic<u64>,
    left: Atomic<u64>,
    va: Atomic<u64>,
    running: Atomic<u64>,
}

impl Progress {
    /// Nothing done yet.
    pub(crate) fn new() -> Self {
        Self {
            moved: Atomic::new(0),
            left: Atomic::new(0),
            va: Atomic::new(0),
            running: Atomic::new(0),
        }
    }

    /// `moved`, `left`, `va` and the number of running calls.
    pub(crate) fn read(&self) -> [u64; 4] {
        [
            self.moved.load(Relaxed),
            self.left.load(Relaxed),
            self.va.load(Relaxed),
            self.running.load(Relaxed),
        ]
    }
}

/// A call that shows its progress until it is dropped.
struct Running<'a> {
    progress: Option<&'a Progress>,
    /// Pages that earlier calls of the job have moved.
    before: Pages,
}

impl<'a> Running<'a> {
    fn begin(progress: Option<&'a Progress>, before: Pages, va: usize) -> Self {
        let running = Self { progress, before };
        if let Some(progress) = progress {
            progress.running.store(1, Relaxed);
        }
        running.show(&Counts::default(), Pages::NONE, va);
        running
    }

    /// Shows counts, and besides them the pages that wait.
    fn show(&self, counts: &Counts, waiting: Pages, va: usize) {
        if let Some(progress) = self.progress {
            let moved = self.before + counts.all_moved();
            progress.moved.store(moved.get(), Relaxed);
            let left = counts.left() + counts.no_memory() + waiting;
            progress.left.store(left.get(), Relaxed);
            progress.va.store(va as u64, Relaxed);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(progress) = self.progress {
            progress.running.store(0, Relaxed);
        }
    }
}

/// Does what `order` says, as a part of the job of the open file, or of a new one that takes its place.
///
/// # Errors
///
/// `ENOMEM` before anything has moved.
pub(crate) fn run(
    remembered: &mut Remembered,
    order: &Order,
    target: &mut Target,
    progress: &Progress,
) -> Result<Outcome> {
    let Remembered { job: slot, desk } = remembered;
    let continues = !order.new_job && slot.as_ref().is_some_and(|job| job.lists == order.lists);
    if !continues {
        let frames = Arc::new(PageSet::new()?, GFP_KERNEL_ACCOUNT)?;
        if order.dry_run {
            // The old job stays, and the new one is just imagined.
            let running = Running::begin(None, Pages::NONE, 0);
            return call::migrate(order, target, desk, &frames, Cookie::new(), running);
        }
        *slot = Some(Job {
            lists: order.lists.try_clone()?,
            frames,
            cookie: Cookie::new(),
            moved: Pages::NONE,
        });
    }
    let job = slot.as_mut().ok_or(EINVAL)?;
    let shown = (!order.dry_run).then_some(progress);
    let running = Running::begin(shown, job.moved, order.range.start);
    let outcome = call::migrate(order, target, desk, &job.frames, job.cookie, running)?;
    if !order.dry_run {
        job.moved += outcome.counts.all_moved();
    }
    Ok(outcome)
}

/// Counts the pages of `range` on each node.
///
/// # Errors
///
/// `EINTR` if a signal came, `ESRCH` if the target exited, `ENOMEM`.
pub(crate) fn census(range: Range, target: &Target) -> Result<KVVec<Pages>> {
    let mut pages = KVVec::from_elem(Pages::NONE, node::count(), GFP_KERNEL)?;
    let Range { start: mut va, end } = range;
    while va < end {
        let mut census = Census { pages: &mut pages };
        va = target.mm().walk(va, end, None, &mut census)?.resume;
        if va >= end {
            break;
        }
        if current!().signal_pending() {
            return Err(EINTR);
        }
        if target.is_gone() {
            return Err(ESRCH);
        }
    }
    Ok(pages)
}
