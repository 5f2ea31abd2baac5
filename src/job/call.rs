// SPDX-License-Identifier: GPL-2.0

//! One call at work: chunk after chunk, when it ends, and what came of it.
//!
//! Locks: none of its own. `mmap_lock` is held within each walk and not between them.

use kernel::prelude::*;

use crate::{
    marks::{
        Mark,
        Marks, //
    },
    migrate::{
        batch::{
            self,
            Batch,
            Lists, //
        },
        Migration,
        Scratch, //
    },
    policy::{
        self,
        Cookie,
        Scope, //
    },
    pure::{
        counts::{
            Counts,
            Reason,
            Remnant, //
        },
        order::{
            Order,
            Range, //
        }, //
    },
    shim::{
        self,
        file::MappedFile,
        folio::FolioList,
        frames::Frames,
        mm::Filter,
        task,
        trace, //
    },
    target::Target,
    walk::{
        Collector,
        LastLook, //
    },
};

use super::{
    rounds::note_first,
    Running, //
};

/// Times that one call may ask all CPUs to bring their folios to the LRU lists.
const MAX_DRAINS: u32 = 16;

/// Files whose marks are read at one address. A target may map another one each time.
const MAX_LEARNT: u32 = 16;

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
pub(super) enum Mode {
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
pub(super) struct Call<'a> {
    pub(super) order: &'a Order,
    target: &'a mut Target,
    frames: &'a Frames,
    imagined: Option<Frames>,
    marks: Marks,
    /// The file before which the last walk stopped: its mark is to be read.
    unknown: Option<MappedFile>,
    /// Walks that stopped where they began, one after the other, though a mark had just been read.
    stuck: u32,
    batch: Batch,
    lists: Lists,
    pub(super) scratch: Scratch,
    move_shared: bool,
    drains: u32,
    drained: bool,
    /// Nothing else has helped those pages that found no room.
    pub(super) last_resort: bool,
    /// Pages that are tried at a time where there was no room, about as many as find some.
    pub(super) rescue_pages: u64,
    /// Frames of pages that found no room. What has moved, and is then moved on by somebody else, may
    /// be in any frame, on an old node, too: it must not be taken for one of these.
    waiting: Frames,
    /// Those of them that were tried again, and stay for another reason.
    held: Frames,
    /// `waiting` lacks some, for want of memory.
    pub(super) incomplete: bool,
    /// For each pair the address from which on some of its pages found no room.
    pub(super) short_from: KVVec<Option<usize>>,
    /// For each pair the address from which on some of those could not be tried again: they were off
    /// their LRU list, or referenced.
    pub(super) passed_from: KVVec<Option<usize>>,
    /// What is left on the old nodes in the end.
    pub(super) remnant: Remnant,
    /// Base pages that have been copied, mapped in the range or not; in a dry run those that would be.
    copied: u64,
    pub(super) outcome: Outcome,
}

/// What an errno of the rooms below means for the call.
fn ended_by(e: Error) -> End {
    match e {
        e if e == EINTR => End::Signal,
        e if e == ESRCH => End::TargetGone,
        _ => End::Broke,
    }
}

/// Moves the pages that `order` selects, chunk by chunk.
///
/// # Errors
///
/// `ENOMEM` before anything has moved.
pub(super) fn migrate(
    order: &Order,
    target: &mut Target,
    frames: &Frames,
    cookie: Cookie,
    running: Running<'_>,
) -> Result<Outcome> {
    let Range { start, end } = order.range;
    let pairs = order.lists.len();
    let imagined = if order.dry_run {
        Some(Frames::new()?)
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
        waiting: Frames::new()?,
        held: Frames::new()?,
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
    let ready = call
        .rewrite_policies(cookie)
        .and_then(|()| call.learn_ahead());
    if let Err(ended) = ready {
        call.outcome.end = ended;
        return Ok(call.outcome);
    }
    // Pages that wait on a CPU for their LRU list cannot be isolated, and others are referenced there.
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

    /// Reads the marks of the files of the range that are on disks or in memory, so that the walk need not
    /// stop at each of them. A file with a server stops it, and so does one that is mapped after this.
    ///
    /// A call with a limit may never come to most of them, and is one of many.
    ///
    /// # Errors
    ///
    /// Says why the call must end.
    fn learn_ahead(&mut self) -> Result<(), End> {
        let Range { start: mut at, end } = self.order.range;
        let mut last = 0;
        while at < end && self.order.max_pages.is_none() && self.marks.has_room() {
            if task::caller_is_killed() {
                return Err(End::Signal);
            }
            // A caller that is interrupted again and again must get on.
            if current!().signal_pending() {
                break;
            }
            let mm = self.target.mm();
            let Some(file) = mm.next_file(&mut at, end, &mut last).map_err(ended_by)? else {
                continue;
            };
            // What lies before such a file need not wait for its server.
            if file.is_served() || self.marks.get(file.inode()).is_some() {
                continue;
            }
            match self.marks.learn(file, false) {
                Err(e) if e == EINTR => break,
                learnt => learnt.map_err(ended_by)?,
            }
        }
        Ok(())
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
    pub(super) fn chunk(&mut self, at: usize, end: usize, mode: Mode) -> Result<usize, End> {
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
        let filter = Filter {
            nodes: self.order.map.flags(),
            moved: self.frames,
            only: matches!(mode, Mode::Rescue(_)).then_some(&self.waiting),
        };
        let mut collector = Collector {
            map: &self.order.map,
            imagined: self.imagined.as_ref(),
            marks: &self.marks,
            move_shared: self.move_shared,
            only: match mode {
                Mode::Rescue(pair) => Some(pair),
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
        let walked = self
            .target
            .mm()
            .walk(at, end, Some(&filter), &mut collector);
        let (wants_drain, passed) = (collector.wants_drain, collector.passed);
        if let (Mode::Rescue(pair), true) = (mode, passed) {
            note_first(&mut self.passed_from, pair, at);
        }
        let walked = walked.map_err(ended_by)?;
        if matches!(mode, Mode::Move | Mode::DryRun) {
            let counts = &mut self.outcome.counts;
            counts.stay(Reason::InPlace, walked.passed.in_place);
            counts.stay(Reason::AlreadyMoved, walked.passed.already_moved);
        }
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
    pub(super) fn pause(&self, done: bool) -> Result<(), End> {
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
                if let Some(imagined) = self.imagined.as_ref() {
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
}
