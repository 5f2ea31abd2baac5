// SPDX-License-Identifier: GPL-2.0

//! A job: what is to be moved, the frames that have been moved to, and how far it is.

use kernel::{
    alloc::Flags,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    xarray::{
        AllocKind,
        XArray, //
    },
};

use crate::{
    batch::{
        self,
        Batch, //
    },
    marks::{
        Mark,
        Marks, //
    },
    migrate::{
        Migration,
        Scratch, //
    },
    request::{
        Order,
        Range, //
    },
    result::Counts,
    shim::{
        self,
        folio::FolioList,
        node,
        task, //
    },
    target::Target,
    walk::{
        Census,
        Collector,
        Lists, //
    },
};

/// Times that one call may ask all CPUs to bring their folios to the LRU lists.
const MAX_DRAINS: u32 = 16;

/// Frames of one page of bits: 128 MiB.
const FRAMES_PER_PAGE: usize = 1 << 15;

/// Bits of 32768 frames: one page of memory.
#[derive(Zeroable)]
struct FramePage([u64; FRAMES_PER_PAGE / 64]);

/// The frames that a job has moved pages to, one bit each, in pages made on demand.
///
/// A folio found in such a frame has been moved in this job, through whatever mapping it is met.
#[pin_data]
pub(crate) struct Frames {
    #[pin]
    pages: XArray<KBox<FramePage>>,
}

/// The word and the mask of a frame within its page.
fn bit(pfn: usize) -> (usize, u64) {
    (pfn % FRAMES_PER_PAGE / 64, 1 << (pfn % 64))
}

impl Frames {
    /// No frame.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pages <- XArray::new(AllocKind::Alloc),
        })
    }

    /// Whether a frame is among them. Neither sleeps nor allocates.
    pub(crate) fn contains(&self, pfn: usize) -> bool {
        let (word, mask) = bit(pfn);
        self.pages
            .lock()
            .get(pfn / FRAMES_PER_PAGE)
            .and_then(|page| page.0.get(word))
            .is_some_and(|word| word & mask != 0)
    }

    /// Adds the frames of a folio.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; none has been added then.
    pub(crate) fn mark(&self, pfn: usize, nr_pages: usize) -> Result {
        let end = pfn.checked_add(nr_pages).ok_or(EOVERFLOW)?;
        for index in (pfn / FRAMES_PER_PAGE)..end.div_ceil(FRAMES_PER_PAGE) {
            self.prepare(index)?;
        }
        self.update(pfn..end, |word, mask| *word |= mask);
        Ok(())
    }

    /// Takes the frames of a folio away.
    pub(crate) fn unmark(&self, pfn: usize, nr_pages: usize) {
        self.update(pfn..pfn.saturating_add(nr_pages), |word, mask| {
            *word &= !mask;
        });
    }

    fn prepare(&self, index: usize) -> Result {
        if self.pages.lock().get(index).is_some() {
            return Ok(());
        }
        let flags: Flags = GFP_KERNEL;
        let page = KBox::init(pin_init::init_zeroed::<FramePage>(), flags)?;
        let mut pages = self.pages.lock();
        if pages.get(index).is_none() {
            pages.store(index, page, flags)?;
        }
        Ok(())
    }

    fn update(&self, frames: core::ops::Range<usize>, change: impl Fn(&mut u64, u64)) {
        let mut pages = self.pages.lock();
        for pfn in frames {
            let (word, mask) = bit(pfn);
            if let Some(word) = pages
                .get_mut(pfn / FRAMES_PER_PAGE)
                .and_then(|page| page.0.get_mut(word))
            {
                change(word, mask);
            }
        }
    }
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
struct Running<'a>(Option<&'a Progress>);

impl<'a> Running<'a> {
    fn begin(progress: Option<&'a Progress>, va: usize) -> Self {
        let running = Self(progress);
        if let Some(progress) = progress {
            progress.running.fetch_add(1, Relaxed);
            progress.moved.store(0, Relaxed);
        }
        running.show(&Counts::default(), va);
        running
    }

    fn show(&self, counts: &Counts, va: usize) {
        if let Some(progress) = self.0 {
            progress.moved.store(counts.all_moved(), Relaxed);
            let left = counts.left().saturating_add(counts.no_memory());
            progress.left.store(left, Relaxed);
            progress.va.store(va as u64, Relaxed);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(progress) = self.0 {
            progress.running.fetch_sub(1, Relaxed);
        }
    }
}

/// Why a call ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It got to the end of its range, or moved as many pages as it was to.
    Done,
    /// A signal came.
    Signal,
    /// The target exited.
    TargetGone,
    /// There was no memory for bookkeeping.
    Broke,
}

/// What a call did.
pub(crate) struct Outcome {
    /// Its counts.
    pub(crate) counts: Counts,
    /// Pages that left each old node.
    pub(crate) by_pair: KVVec<u64>,
    /// Where it stopped.
    pub(crate) resume: usize,
    /// Why it stopped.
    pub(crate) end: End,
}

/// One call at work.
struct Call<'a> {
    order: &'a Order,
    target: &'a Target,
    frames: Pin<KBox<Frames>>,
    marks: Marks,
    batch: Batch,
    lists: Lists,
    scratch: Scratch,
    move_shared: bool,
    drains: u32,
    drained: bool,
    outcome: Outcome,
}

/// Moves the pages that `order` selects, chunk by chunk.
///
/// # Errors
///
/// `ENOMEM` before anything has moved.
pub(crate) fn migrate(order: &Order, target: &Target, progress: &Progress) -> Result<Outcome> {
    let Range { start, end } = order.range;
    let mut call = Call {
        order,
        target,
        frames: KBox::pin_init(Frames::new(), GFP_KERNEL)?,
        marks: Marks::new(),
        batch: Batch::new()?,
        lists: Lists {
            plain: FolioList::new()?,
            huge: FolioList::new()?,
        },
        scratch: Scratch::new()?,
        move_shared: !order.exclusive && task::caller_may_move_shared(),
        drains: 0,
        drained: false,
        outcome: Outcome {
            counts: Counts::default(),
            by_pair: KVVec::from_elem(0, order.pairs, GFP_KERNEL)?,
            resume: start,
            end: End::Done,
        },
    };
    let running = Running::begin((!order.dry_run).then_some(progress), start);
    if !order.dry_run && start < end {
        shim::folio::drain_lru();
    }
    while call.outcome.resume < end {
        let ended = call.chunk(end);
        running.show(&call.outcome.counts, call.outcome.resume);
        if let Some(ended) = ended {
            call.outcome.end = ended;
            break;
        }
    }
    Ok(call.outcome)
}

impl Call<'_> {
    /// Walks as far as one hold of mmap_lock and one batch allow, and moves the batch.
    fn chunk(&mut self, end: usize) -> Option<End> {
        let limit = match self.order.max_pages {
            Some(max) => max.saturating_sub(self.outcome.counts.all_moved()).max(1),
            None => batch::MAX_PAGES,
        };
        let may_drain = !self.order.dry_run && self.drains < MAX_DRAINS;
        let mut collector = Collector {
            map: &self.order.map,
            frames: &self.frames,
            marks: &self.marks,
            move_shared: self.move_shared,
            lists: (!self.order.dry_run).then_some(&mut self.lists),
            batch: &mut self.batch,
            counts: &mut self.outcome.counts,
            limit,
            may_drain,
            drained: self.drained,
            wants_drain: false,
            mark: Mark::Migratable,
            writable: false,
        };
        let walked = self
            .target
            .mm()
            .walk(self.outcome.resume, end, &mut collector);
        let wants_drain = collector.wants_drain;
        let Ok(walked) = walked else {
            return Some(End::Signal);
        };
        self.outcome.resume = walked.resume;

        if !self.batch.is_empty() {
            if let Err(ended) = self.move_batch() {
                return Some(ended);
            }
        }
        if let Some(file) = walked.unknown {
            if let Err(e) = self.marks.learn(file) {
                return Some(if e == EINTR { End::Signal } else { End::Broke });
            }
        }
        self.drained = wants_drain;
        if wants_drain {
            self.drains = self.drains.saturating_add(1);
            shim::folio::drain_lru();
        }
        self.pause(end)
    }

    /// Whether to stop between two chunks.
    fn pause(&self, end: usize) -> Option<End> {
        let moved = self.outcome.counts.all_moved();
        if self.outcome.resume >= end || self.order.max_pages.is_some_and(|max| moved >= max) {
            return Some(End::Done);
        }
        if current!().signal_pending() {
            return Some(End::Signal);
        }
        if self.target.is_gone() {
            return Some(End::TargetGone);
        }
        None
    }

    fn move_batch(&mut self) -> Result<(), End> {
        let mut broke = false;
        if self.order.dry_run {
            let frames = &self.frames;
            broke = self
                .batch
                .try_for_each(|pfn, nr_pages| frames.mark(pfn, nr_pages))
                .is_err();
        } else {
            let Self {
                order,
                frames,
                batch,
                lists,
                scratch,
                ..
            } = self;
            shim::run_everywhere(&mut || {
                let mut migration =
                    Migration::new(&order.map, frames, batch, order.strict, scratch);
                migration.run(lists);
                broke = migration.broke;
            });
        }
        self.batch
            .settle(&mut self.outcome.counts, &mut self.outcome.by_pair);
        if broke {
            return Err(End::Broke);
        }
        Ok(())
    }
}

/// Counts the pages of `range` on each node.
///
/// # Errors
///
/// `EINTR` if a signal came, `ESRCH` if the target exited, `ENOMEM`.
pub(crate) fn census(range: Range, target: &Target) -> Result<KVVec<u64>> {
    let mut pages = KVVec::from_elem(0, node::count(), GFP_KERNEL)?;
    let Range { start: mut va, end } = range;
    while va < end {
        let mut census = Census { pages: &mut pages };
        va = target.mm().walk(va, end, &mut census)?.resume;
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
