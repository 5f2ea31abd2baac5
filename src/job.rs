// SPDX-License-Identifier: GPL-2.0

//! A job: what is to be moved, the frames that have been moved to, and how far it is.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    batch::{
        self,
        Batch,
        Lists, //
    },
    frames::Frames,
    marks::{
        Mark,
        Marks, //
    },
    migrate::{
        Migration,
        Scratch, //
    },
    policy::{
        self,
        Cookie,
        Scope, //
    },
    request::{
        NodeLists,
        Order,
        Range, //
    },
    result::{
        Counts,
        Reason,
        Remnant, //
    },
    shim::{
        self,
        file::MappedFile,
        folio::FolioList,
        node,
        task,
        trace, //
    },
    target::Target,
    walk::{
        Census,
        Collector,
        LastLook, //
    },
};

/// Times that one call may ask all CPUs to bring their folios to the LRU lists.
const MAX_DRAINS: u32 = 16;

/// Pages that are tried at least when full nodes change places.
const MIN_RESCUE_PAGES: u64 = 32;

/// How long kswapd gets before pages without room are tried as a last resort.
const KSWAPD_MOMENT: Delta = Delta::from_millis(20);

/// How often it gets that.
const MAX_MOMENTS: u32 = 8;

/// Files whose marks are read at one address. A target may map another one each time.
const MAX_LEARNT: u32 = 16;

/// What an open file remembers from one call to the next.
pub(crate) struct Job {
    lists: NodeLists,
    frames: Pin<KBox<Frames>>,
    cookie: Cookie,
    moved: u64,
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
    before: u64,
}

impl<'a> Running<'a> {
    fn begin(progress: Option<&'a Progress>, before: u64, va: usize) -> Self {
        let running = Self { progress, before };
        if let Some(progress) = progress {
            progress.running.store(1, Relaxed);
        }
        running.show(&Counts::default(), va);
        running
    }

    fn show(&self, counts: &Counts, va: usize) {
        if let Some(progress) = self.progress {
            let moved = self.before.saturating_add(counts.all_moved());
            progress.moved.store(moved, Relaxed);
            let left = counts.left().saturating_add(counts.no_memory());
            progress.left.store(left, Relaxed);
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

/// How a chunk is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Count all, move what can be moved.
    Move,
    /// Count all, move nothing, remember frames as if they had moved.
    DryRun,
    /// Try those of one pair once more that found no room.
    Rescue(usize),
    /// See what is left.
    LastLook,
}

/// One call at work.
struct Call<'a> {
    order: &'a Order,
    target: &'a mut Target,
    frames: &'a Frames,
    imagined: Option<Pin<KBox<Frames>>>,
    marks: Marks,
    /// The file before which the last walk stopped: its mark is to be read.
    unknown: Option<MappedFile>,
    /// Walks that stopped where they began, one after the other, though a mark had just been read.
    stuck: u32,
    batch: Batch,
    lists: Lists,
    scratch: Scratch,
    move_shared: bool,
    drains: u32,
    drained: bool,
    /// Nothing else has helped those pages that found no room.
    last_resort: bool,
    /// Pages that are tried at a time where there was no room, about as many as find some.
    rescue_pages: u64,
    /// Frames of pages that found no room. What has moved, and is then moved on by somebody else, may
    /// be in any frame, on an old node, too: it must not be taken for one of these.
    waiting: Pin<KBox<Frames>>,
    /// Those of them that were tried again, and stay for another reason.
    held: Pin<KBox<Frames>>,
    /// `waiting` lacks some, for want of memory.
    incomplete: bool,
    /// For each pair the address from which on some of its pages found no room.
    short_from: KVVec<Option<usize>>,
    /// For each pair the address from which on some of those could not be tried again: they were off
    /// their LRU list, or referenced.
    passed_from: KVVec<Option<usize>>,
    /// What is left on the old nodes in the end.
    remnant: Remnant,
    /// Base pages that have been copied, mapped in the range or not; in a dry run those that would be.
    copied: u64,
    outcome: Outcome,
}

/// Notes for `pair` that something was left behind from `at` on.
fn note_first(from: &mut [Option<usize>], pair: usize, at: usize) {
    if let Some(from) = from.get_mut(pair) {
        *from = Some(from.map_or(at, |first| first.min(at)));
    }
}

/// What an errno of the rooms below means for the call.
fn ended_by(e: Error) -> End {
    match e {
        e if e == EINTR => End::Signal,
        e if e == ESRCH => End::TargetGone,
        _ => End::Broke,
    }
}

/// Does what `order` says, as a part of the job in `slot`, or of a new one that takes its place.
///
/// # Errors
///
/// `ENOMEM` before anything has moved.
pub(crate) fn run(
    slot: &mut Option<Job>,
    order: &Order,
    target: &mut Target,
    progress: &Progress,
) -> Result<Outcome> {
    let continues = !order.new_job && slot.as_ref().is_some_and(|job| job.lists == order.lists);
    if !continues {
        let frames = KBox::pin_init(Frames::new(), GFP_KERNEL)?;
        if order.dry_run {
            // The old job stays, and the new one is just imagined.
            let running = Running::begin(None, 0, 0);
            return migrate(order, target, &frames, Cookie::new(), running);
        }
        *slot = Some(Job {
            lists: order.lists.try_clone()?,
            frames,
            cookie: Cookie::new(),
            moved: 0,
        });
    }
    let job = slot.as_mut().ok_or(EINVAL)?;
    let shown = (!order.dry_run).then_some(progress);
    let running = Running::begin(shown, job.moved, order.range.start);
    let outcome = migrate(order, target, &job.frames, job.cookie, running)?;
    if !order.dry_run {
        job.moved = job.moved.saturating_add(outcome.counts.all_moved());
    }
    Ok(outcome)
}

/// Moves the pages that `order` selects, chunk by chunk.
///
/// # Errors
///
/// `ENOMEM` before anything has moved.
fn migrate(
    order: &Order,
    target: &mut Target,
    frames: &Frames,
    cookie: Cookie,
    running: Running<'_>,
) -> Result<Outcome> {
    let Range { start, end } = order.range;
    let pairs = order.lists.len();
    let imagined = if order.dry_run {
        Some(KBox::pin_init(Frames::new(), GFP_KERNEL)?)
    } else {
        None
    };
    let mut call = Call {
        order,
        target,
        frames,
        imagined,
        marks: Marks::new(),
        unknown: None,
        stuck: 0,
        batch: Batch::new()?,
        lists: Lists {
            plain: FolioList::new()?,
            huge: FolioList::new()?,
            served: FolioList::new()?,
        },
        scratch: Scratch::new()?,
        move_shared: !order.exclusive && task::caller_may_move_shared(),
        drains: 0,
        drained: false,
        last_resort: false,
        rescue_pages: batch::MAX_PAGES,
        waiting: KBox::pin_init(Frames::new(), GFP_KERNEL)?,
        held: KBox::pin_init(Frames::new(), GFP_KERNEL)?,
        incomplete: false,
        short_from: KVVec::from_elem(None, pairs, GFP_KERNEL)?,
        passed_from: KVVec::from_elem(None, pairs, GFP_KERNEL)?,
        remnant: Remnant::default(),
        copied: 0,
        outcome: Outcome {
            counts: Counts::default(),
            by_pair: KVVec::from_elem(0, pairs, GFP_KERNEL)?,
            resume: start,
            end: End::Done,
        },
    };
    let mode = if order.dry_run {
        Mode::DryRun
    } else {
        Mode::Move
    };
    if let Err(ended) = call.rewrite_policies(cookie) {
        call.outcome.end = ended;
        return Ok(call.outcome);
    }
    if mode == Mode::Move && start < end {
        shim::folio::drain_lru();
    }
    while call.outcome.resume < end {
        let at = call.outcome.resume;
        let ended = call.chunk(at, end, mode).and_then(|resume| {
            call.outcome.resume = resume;
            call.try_wanted(at, resume)?;
            call.pause(resume >= end)
        });
        running.show(&call.outcome.counts, call.outcome.resume);
        if let Err(ended) = ended {
            call.outcome.end = ended;
            break;
        }
    }
    if call.outcome.resume >= end && call.outcome.end == End::Done {
        if let Err(ended) = call.rescue(end, &running) {
            call.outcome.end = ended;
        }
    }
    if call.outcome.end == End::Done {
        call.write_back();
    }
    running.show(&call.outcome.counts, call.outcome.resume);
    drop(running);
    Ok(call.outcome)
}

impl Call<'_> {
    /// Makes policies name the new nodes, so that pages faulted in from now on land there.
    ///
    /// # Errors
    ///
    /// Says why the call must end.
    fn rewrite_policies(&mut self, cookie: Cookie) -> Result<(), End> {
        let order = self.order;
        if order.keep_policy {
            return Ok(());
        }
        let scope = Scope {
            mm: self.target.mm(),
            range: order.range.start..order.range.end,
            task: self.target.task(),
            threads: order.whole,
            // They belong to all who map the files.
            files: self.move_shared || self.target.mm().is_current(),
        };
        let allowed = |node| self.target.mems().allows(node);
        let mut changed = 0;
        let done = policy::rewrite(
            &scope,
            &order.map,
            cookie,
            order.dry_run,
            allowed,
            &mut changed,
        );
        self.outcome.counts.policies(changed);
        done.map_err(ended_by)
    }

    /// Reads the mark of the file before which the last walk stopped, if it did.
    ///
    /// That may take as long as the file system likes. What was done before is on record by now.
    ///
    /// # Errors
    ///
    /// Says why the call must end.
    fn learn(&mut self) -> Result<(), End> {
        let Some(file) = self.unknown.take() else {
            return Ok(());
        };
        self.marks.learn(file, self.stuck > 0).map_err(ended_by)?;
        self.pause(false)
    }

    /// Walks from `at` as far as one hold of mmap_lock and one batch allow, and moves the batch.
    /// Returns where to go on.
    ///
    /// A file without a known mark ends a chunk, and the next one begins with reading it.
    ///
    /// # Errors
    ///
    /// Says why the call must end.
    fn chunk(&mut self, at: usize, end: usize, mode: Mode) -> Result<usize, End> {
        let learns = self.unknown.is_some();
        self.learn()?;
        let moving = matches!(mode, Mode::Move | Mode::Rescue(_));
        let limit = match self.order.max_pages {
            Some(max) => max.saturating_sub(self.copied).max(1),
            _ => batch::MAX_PAGES,
        };
        let limit = match mode {
            Mode::Rescue(_) => limit.min(self.rescue_pages),
            _ => limit,
        };
        if moving {
            self.make_room();
        }
        let mut second = Counts::default();
        let mut collector = Collector {
            map: &self.order.map,
            frames: self.frames,
            imagined: self.imagined.as_deref(),
            marks: &self.marks,
            move_shared: self.move_shared,
            only: match mode {
                Mode::Rescue(pair) => Some((pair, &*self.waiting)),
                _ => None,
            },
            last_look: (mode == Mode::LastLook).then_some(LastLook {
                waiting: &self.waiting,
                held: &self.held,
                remnant: &mut self.remnant,
            }),
            lists: moving.then_some(&mut self.lists),
            batch: &mut self.batch,
            counts: match mode {
                Mode::Move | Mode::DryRun => &mut self.outcome.counts,
                Mode::Rescue(_) | Mode::LastLook => &mut second,
            },
            limit,
            may_drain: moving && self.drains < MAX_DRAINS,
            drained: self.drained,
            wants_drain: false,
            passed: false,
            mark: Mark::Migratable,
            writable: false,
            served: false,
            holds: None,
            pass_unknown: self.stuck >= MAX_LEARNT,
        };
        let walked = self.target.mm().walk(at, end, &mut collector);
        let (wants_drain, passed) = (collector.wants_drain, collector.passed);
        if let (Mode::Rescue(pair), true) = (mode, passed) {
            note_first(&mut self.passed_from, pair, at);
        }
        let walked = walked.map_err(ended_by)?;
        if !self.batch.is_empty() {
            let begun = moving.then(trace::Begun::batch).flatten();
            let (pages, before) = (self.batch.pages(), self.done_with());
            let finished = self.finish_batch(at, mode, second);
            if let Some(begun) = begun {
                self.trace_batch(begun, at, pages, before);
            }
            finished?;
        }
        let stuck = learns && walked.unknown.is_some() && walked.resume == at;
        self.stuck = if stuck {
            self.stuck.saturating_add(1)
        } else {
            0
        };
        self.unknown = walked.unknown;
        self.drained = wants_drain;
        if wants_drain {
            self.drains = self.drains.saturating_add(1);
            shim::folio::drain_lru();
        }
        Ok(walked.resume)
    }

    /// Whether to stop between two chunks; not if all is done.
    ///
    /// # Errors
    ///
    /// Says why the call must end.
    fn pause(&self, done: bool) -> Result<(), End> {
        if done {
            return Ok(());
        }
        if self.order.max_pages.is_some_and(|max| self.copied >= max) {
            return Err(End::Done);
        }
        // A call that is interrupted again and again must get on: the first chunk is always done.
        let begun = self.outcome.resume > self.order.range.start;
        if task::caller_is_killed() || (begun && current!().signal_pending()) {
            return Err(End::Signal);
        }
        if self.target.is_gone() {
            return Err(End::TargetGone);
        }
        Ok(())
    }

    /// Moves the batch that the walk from `at` has found, and counts what became of it.
    fn finish_batch(&mut self, at: usize, mode: Mode, mut second: Counts) -> Result<(), End> {
        let mut broke = false;
        match mode {
            // It collects nothing.
            Mode::LastLook => return Ok(()),
            Mode::DryRun => {
                self.copied = self.copied.saturating_add(self.batch.size());
                if let Some(imagined) = self.imagined.as_deref() {
                    broke = self
                        .batch
                        .try_for_each(|pfn, nr_pages| imagined.mark(pfn, nr_pages))
                        .is_err();
                }
            }
            Mode::Move | Mode::Rescue(_) => {
                // Whoever exits now, or executes another program, has none of these pages left.
                if !self.target.reread_mems() {
                    return Err(self.abandon_batch());
                }
                broke = self.move_batch();
            }
        }
        let (short_from, passed_from) = (&mut self.short_from, &mut self.passed_from);
        let (waiting, held) = (&self.waiting, &self.held);
        let incomplete = &mut self.incomplete;
        let rescuing = matches!(mode, Mode::Rescue(_));
        // What is in such a frame from now on is another page, unless it stays there once more.
        if self.outcome.counts.no_memory() > 0 {
            let _ = self.batch.try_for_each(|pfn, nr_pages| {
                waiting.unmark(pfn, nr_pages);
                held.unmark(pfn, nr_pages);
                Ok(())
            });
        }
        let counts = match mode {
            Mode::Rescue(_) => &mut second,
            _ => &mut self.outcome.counts,
        };
        let complete = self.batch.settle(
            mode == Mode::DryRun,
            counts,
            &mut self.outcome.by_pair,
            |pair, pfn, nr_pages, why| {
                let from = match why {
                    Reason::NoMemory => &mut *short_from,
                    Reason::Gone => return,
                    // It had found no room before, and has not been tried since.
                    _ if rescuing => {
                        // Without memory for it, it is still said to have found no room.
                        let _ = held.mark(pfn, nr_pages);
                        &mut *passed_from
                    }
                    _ => return,
                };
                // Without memory for it, it stays where it is.
                *incomplete |= waiting.mark(pfn, nr_pages).is_err();
                note_first(from, pair, at);
            },
        );
        *incomplete |= !complete;
        if rescuing {
            self.outcome.counts.rescued(&second);
        }
        if broke {
            return Err(End::Broke);
        }
        Ok(())
    }

    /// Pages that have moved, and those that their process has given back.
    fn done_with(&self) -> (u64, u64) {
        let counts = &self.outcome.counts;
        (counts.all_moved(), counts.gone())
    }

    /// Tells who watches about a batch of `pages` that the walk from `at` has found. `before` is
    /// what had moved, and been given back, before it.
    fn trace_batch(&self, begun: trace::Begun, at: usize, pages: u64, before: (u64, u64)) {
        let done = self.done_with();
        let moved = done.0.saturating_sub(before.0);
        let gone = done.1.saturating_sub(before.1);
        trace::batch(&trace::Batch {
            pid: task::process_id(self.target.task()),
            va: at,
            pages,
            moved,
            left: pages.saturating_sub(moved).saturating_sub(gone),
            usecs: begun.usecs(),
        });
    }

    /// Has the files written of which pages stay until that has happened, so that the same call again
    /// moves them. Nothing is locked or isolated now, as it was when these pages were tried.
    ///
    /// All is done and counted by now: a signal just ends this.
    fn write_back(&mut self) {
        for start in self.batch.take_unwritten() {
            if current!().signal_pending() {
                break;
            }
            let Ok(Some(file)) = self.target.mm().file_at(start) else {
                continue;
            };
            // What cannot be written stays, and has been counted. One wait for that is enough.
            if !self.marks.write_back(file).unwrap_or(false) {
                break;
            }
        }
    }

    /// Tries large folios of `at..resume` again for which nodes are to be compacted, now that nothing
    /// is isolated: a call that ends early would leave them behind. They were part of a batch that was
    /// within the call's limit.
    ///
    /// # Errors
    ///
    /// Says why the call must end.
    fn try_wanted(&mut self, at: usize, resume: usize) -> Result<(), End> {
        if !self.scratch.wants_room() {
            return Ok(());
        }
        for pair in 0..self.order.lists.len() {
            let short = self.short_from.get(pair).copied().flatten();
            if short.is_some_and(|short| short <= at) {
                self.chunk(at, resume, Mode::Rescue(pair))?;
            }
        }
        Ok(())
    }

    /// Makes room for the large folios that found none in the last batch. Nothing is isolated now.
    fn make_room(&mut self) {
        let Self { order, scratch, .. } = self;
        if scratch.wants_room() {
            shim::run_for(order.map.destinations(), &mut || scratch.make_room());
        }
    }

    /// Gives up a batch whose target is gone, and with it the counts of its pages.
    fn abandon_batch(&mut self) -> End {
        self.lists.put_back();
        self.batch.clear();
        End::TargetGone
    }

    /// Moves the batch. Returns whether memory for bookkeeping ran out.
    fn move_batch(&mut self) -> bool {
        let Self {
            order,
            target,
            frames,
            batch,
            lists,
            scratch,
            last_resort,
            copied,
            ..
        } = self;
        let mut broke = false;
        shim::run_for(order.map.destinations(), &mut || {
            let mut migration = Migration::new(
                &order.map,
                target.mems(),
                frames,
                batch,
                order.strict,
                *last_resort,
                scratch,
            );
            *copied = copied.saturating_add(migration.run(lists));
            broke = migration.broke;
        });
        broke
    }

    /// Tries once more what found no room.
    ///
    /// Where full nodes change places, pages can move only as fast as others make room for them.
    /// So the pairs that were short take turns, each going on from where it first was short, until
    /// a whole round has moved nothing. Then they are tried as a last resort: after a moment for
    /// kswapd, which was woken and holds pages back while it works, with reclaim once more, with
    /// large folios split, and with what could not be tried in its turn. That, too, goes on until a
    /// round has moved nothing, and then once more from the start, but only so often, and only if
    /// anything has moved since the last time.
    ///
    /// # Errors
    ///
    /// Says why the call must end before the last of them has been tried.
    fn rescue(&mut self, end: usize, running: &Running<'_>) -> Result<(), End> {
        if self.order.dry_run || self.outcome.counts.no_memory() == 0 {
            return Ok(());
        }
        let begun = self.outcome.counts.all_moved();
        // A target may fault in pages on the old nodes faster than they move. That must end, too.
        let goal = begun.saturating_add(self.outcome.counts.no_memory());
        let mut ended = Ok(());
        let (mut moments, mut moved_at_last) = (0, None);
        while self.outcome.counts.all_moved() < goal {
            let before = self.outcome.counts.all_moved();
            for pair in 0..self.order.lists.len() {
                ended = ended.and_then(|()| self.rescue_pair(pair, end, goal));
                running.show(&self.outcome.counts, end);
            }
            if ended.is_err() {
                break;
            }
            if self.outcome.counts.all_moved() > before {
                continue;
            }
            if moved_at_last == Some(before) || moments >= MAX_MOMENTS {
                break;
            }
            moments = moments.saturating_add(1);
            moved_at_last = Some(before);
            self.last_resort = true;
            self.scratch.try_anew();
            for (pair, passed) in self.passed_from.iter_mut().enumerate() {
                if let Some(at) = passed.take() {
                    note_first(&mut self.short_from, pair, at);
                }
            }
            fsleep(KSWAPD_MOMENT);
            // After that, as what runs meanwhile fills the caches of the LRU lists again.
            shim::folio::drain_lru();
            ended = self.pause(false);
            if ended.is_err() {
                break;
            }
        }
        ended = ended.and_then(|()| self.look_again(end));
        if ended.is_err() {
            // The same call again goes on from the first page that may still move.
            let left = [&self.short_from, &self.passed_from];
            let first = left.iter().flat_map(|from| from.iter()).flatten().min();
            self.outcome.resume = first.copied().unwrap_or(end);
        }
        ended
    }

    /// Goes on with one pair for as long as there is room, up to `goal` moved pages in all.
    fn rescue_pair(&mut self, pair: usize, end: usize, goal: u64) -> Result<(), End> {
        while let Some(at) = self.short_from.get(pair).copied().flatten() {
            if let Some(from) = self.short_from.get_mut(pair) {
                *from = None;
            }
            let before = self.outcome.counts.all_moved();
            let walked = self.chunk(at, end, Mode::Rescue(pair));
            let Some(from) = self.short_from.get_mut(pair) else {
                break;
            };
            let full = from.is_some();
            if !full {
                *from = Some(*walked.as_ref().unwrap_or(&at)).filter(|&at| at < end);
            }
            walked?;
            let moved = self.outcome.counts.all_moved();
            self.rescue_pages = if full {
                // To take many off their lists for the sake of a few would cost more than to move.
                let room = moved.saturating_sub(before).saturating_mul(2);
                room.clamp(MIN_RESCUE_PAGES, batch::MAX_PAGES)
            } else {
                (self.rescue_pages.saturating_mul(2)).min(batch::MAX_PAGES)
            };
            if moved >= goal {
                break;
            }
            self.pause(false)?;
            if full && moved == before {
                // The turn of the next pair.
                break;
            }
        }
        Ok(())
    }

    /// Counts anew what is still without room: a page that moved when it was met again had been
    /// counted before, and others stay for another reason by now.
    fn look_again(&mut self, end: usize) -> Result<(), End> {
        if self.incomplete || self.outcome.counts.no_memory() == 0 {
            return Ok(());
        }
        let mut at = self.order.range.start;
        while at < end {
            at = self.chunk(at, end, Mode::LastLook)?;
            self.pause(at >= end)?;
        }
        self.outcome.counts.settle_no_memory(&self.remnant);
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
