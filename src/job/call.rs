// SPDX-License-Identifier: GPL-2.0

//! One call at work: chunk after chunk, when it ends, and what came of it.
//!
//! Locks: none of its own. `mmap_lock` is held within each walk and not between them.

use core::ops::ControlFlow::{
    self,
    Break,
    Continue, //
};

use kernel::{
    page::PAGE_SHIFT,
    prelude::*,
    sync::Arc,
    task::Task, //
};

use crate::{
    marks::Marks,
    migrate::{
        batch, //
        Attempt,
        Load,
        Way,
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
            Waits, //
        },
        order::{
            Order,
            Range, //
        },
        units::{
            Pages,
            Pfn, //
        }, //
    },
    shim::{
        self,
        file::MappedFile,
        mm::{
            Filter,
            Only,
            Seen,
            WalkEnd, //
        },
        page_set::PageSet,
        task,
        trace, //
    },
    target::Target,
    walk::{
        Context,
        Sorter, //
    },
};

use super::{
    waiting::Waiting,
    workers::Workers,
    Desk,
    Running, //
};

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
    OutOfMemory,
}

/// What a call did.
pub(crate) struct Outcome {
    /// Its counts.
    pub(crate) counts: Counts,
    /// Pages that left each old node.
    pub(crate) by_pair: KVVec<Pages>,
    /// Base pages that have been copied, mapped in the range or not; in a dry run those that would be.
    copied: Pages,
    /// Where it stopped.
    pub(crate) resume: usize,
    /// Why it stopped.
    pub(crate) end: End,
}

/// Which pages a walk looks at.
#[derive(Clone, Copy)]
pub(super) enum Look {
    /// All of the range.
    All,
    /// Those of one pair that wait for this round.
    Pair(usize),
    /// All that still wait for this round: they have moved through another mapping, or are on another
    /// node by now.
    Rest,
}

/// One call at work.
pub(super) struct Call<'a> {
    pub(super) order: &'a Order,
    pub(super) target: &'a mut Target,
    pub(super) way: Way,
    /// In a dry run, the frames of pages that would have moved.
    imagined: Option<PageSet<Pfn>>,
    marks: Marks,
    /// The file before which the last walk stopped: its mark is to be read.
    pub(super) unknown: Option<MappedFile>,
    /// Marks that may still be read in this round.
    pub(super) marks_left: u64,
    /// Walks that stopped where they began, one after the other, though a mark had just been read.
    stuck: u32,
    /// What walks fill, and what is moved next.
    pub(super) load: &'a mut Load,
    pub(super) workers: Workers,
    move_shared: bool,
    pub(super) waiting: &'a mut Waiting,
    /// For each node number whether its pages are looked at, in a walk for one pair.
    nodes: &'a mut [u8],
    pub(super) outcome: Outcome,
}

/// Whether the call goes on, or why it ends.
pub(super) type Flow<T = ()> = ControlFlow<End, T>;

/// What a result of the rooms below means for the call.
pub(super) fn flow<T>(result: Result<T>) -> Flow<T> {
    match result {
        Ok(value) => Continue(value),
        Err(e) if e == EINTR => Break(End::Signal),
        Err(e) if e == ESRCH => Break(End::TargetGone),
        Err(_) => Break(End::OutOfMemory),
    }
}

/// The first of two that ends the call.
pub(super) fn first(one: Flow, other: Flow) -> Flow {
    match one {
        Continue(()) => other,
        Break(end) => Break(end),
    }
}

/// Moves the pages that `order` selects: once over the range, and then, in rounds, over what waits.
///
/// # Errors
///
/// `ENOMEM` before anything has moved.
pub(super) fn migrate(
    order: &Order,
    target: &mut Target,
    slot: &mut Option<Desk>,
    frames: &Arc<PageSet<Pfn>>,
    cookie: Cookie,
    running: Running<'_>,
) -> Result<Outcome> {
    let pairs = order.lists.len();
    let Range { start, end } = order.range;
    let pages = end.saturating_sub(start) >> PAGE_SHIFT;
    let Desk {
        load,
        waiting,
        nodes,
    } = Desk::ready(slot, pairs, pages)?;
    let mut call = Call {
        order,
        target,
        way: Way {
            map: order.map.clone(),
            frames: frames.clone(),
            strict: order.strict,
        },
        imagined: order.dry_run.then(PageSet::new).transpose()?,
        marks: Marks::new(),
        unknown: None,
        marks_left: 0,
        stuck: 0,
        load,
        workers: Workers::new(order),
        move_shared: !order.exclusive && task::caller_may_move_shared(),
        waiting,
        nodes,
        outcome: Outcome {
            counts: Counts::default(),
            by_pair: KVVec::from_elem(Pages::NONE, pairs, GFP_KERNEL)?,
            copied: Pages::NONE,
            resume: start,
            end: End::Done,
        },
    };
    let ended = call.all(cookie, &running).break_value();
    if let Some(end) = ended {
        call.outcome.end = end;
    }
    if call.outcome.end == End::Done {
        call.write_back();
    }
    let waits = call.waiting.waits();
    call.stay(waits, ended);
    running.show(&call.outcome.counts, Pages::NONE, call.outcome.resume);
    drop(running);
    call.load.tidy();
    call.waiting.clear();
    Ok(call.outcome)
}

/// Counts what became of the batch of a load, which is empty afterwards, and tells who watches. `task` is of the
/// target.
///
/// # Breaks
///
/// With [`End::OutOfMemory`] if memory for bookkeeping ran out.
pub(super) fn settle(
    load: &mut Load,
    outcome: &mut Outcome,
    waiting: &mut Waiting,
    dry_run: bool,
    task: &Task,
) -> Flow {
    let Outcome {
        counts,
        by_pair,
        copied,
        resume,
        ..
    } = outcome;
    let pages = load.batch.pages();
    let (moved, gone) = (counts.all_moved(), counts.gone());
    *copied += core::mem::take(&mut load.copied);
    load.batch.settle(counts, by_pair, |counts, wait| {
        // Without memory to note that it waits it is not tried again.
        if dry_run || waiting.add(&wait).is_err() {
            counts.stay(wait.reason, wait.pages.count());
        }
    });
    if let Some(usecs) = load.usecs.take() {
        let moved = counts.all_moved() - moved;
        let gone = counts.gone() - gone;
        trace::batch(&trace::Batch {
            pid: task::process_id(task),
            va: load.at,
            pages: pages.get(),
            moved: moved.get(),
            left: (pages - moved - gone).get(),
            usecs,
        });
    }
    if core::mem::take(&mut load.out_of_memory) {
        // What stays of it was not tried.
        *resume = (*resume).min(load.at);
        return Break(End::OutOfMemory);
    }
    Continue(())
}

impl Call<'_> {
    /// Does the work of the call: policies, one pass over the range, and rounds over what waits.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    fn all(&mut self, cookie: Cookie, running: &Running<'_>) -> Flow {
        let seen = self.look_ahead()?;
        self.rewrite_policies(cookie, seen)?;
        self.first_pass(running)?;
        self.rounds(running)
    }

    /// Counts pages that wait no longer, as the call ends like that.
    pub(super) fn stay(&mut self, waits: Waits, ended: Option<End>) {
        let counts = &mut self.outcome.counts;
        match ended {
            Some(End::TargetGone) => counts.stay(Reason::Gone, waits.total()),
            _ => counts.stay_waiting(waits),
        }
    }

    /// Makes policies name the new nodes, so that pages faulted in from now on land there.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    fn rewrite_policies(&mut self, cookie: Cookie, seen: Seen) -> Flow {
        let order = self.order;
        if order.keep_policy {
            return Continue(());
        }
        let scope = Scope {
            mm: self.target.mm(),
            range: order.range.start..order.range.end,
            task: self.target.task(),
            threads: order.whole,
            vmas: seen.policies,
            // They belong to all who map the files.
            files: seen.shmem && (self.move_shared || self.target.mm().is_current()),
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
        flow(done)
    }

    /// Reads the marks of the files of the range that are on disks or in memory, so that the walk need not
    /// stop at each of them. A file with a server stops it, and so does one that is mapped after this.
    /// Returns where there may be policies to rewrite.
    ///
    /// A call with a limit may never come to most of the files, and is one of many.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    fn look_ahead(&mut self) -> Flow<Seen> {
        let Range { start: mut at, end } = self.order.range;
        let (mut seen, mut last) = (Seen::default(), 0);
        while at < end && self.order.max_pages.is_none() && self.marks.has_room() {
            if task::caller_is_killed() {
                return Break(End::Signal);
            }
            // A caller that is interrupted again and again must get on.
            if current!().signal_pending() {
                break;
            }
            let mm = self.target.mm();
            let file = mm.next_file(&mut at, end, &mut last, &mut seen);
            let Some(file) = flow(file)? else {
                continue;
            };
            // What lies before such a file need not wait for its server.
            if file.is_served() || self.marks.get(file.inode()).is_some() {
                continue;
            }
            match self.marks.learn(file, false) {
                Err(e) if e == EINTR => break,
                learnt => flow(learnt)?,
            }
        }
        if at < end {
            return Continue(Seen::ANYTHING);
        }
        Continue(seen)
    }

    /// Goes once over the range.
    ///
    /// # Breaks
    ///
    /// Where the call must end before it got to the end of the range.
    fn first_pass(&mut self, running: &Running<'_>) -> Flow {
        let Range { start, end } = self.order.range;
        // A call with a limit may never come to the round in which pages that were busy are tried again.
        let attempt = if self.order.max_pages.is_some() {
            Attempt::Patient
        } else {
            Attempt::Quick
        };
        match attempt {
            _ if self.order.dry_run || start >= end => {}
            Attempt::Patient => shim::folio::drain_lru(),
            // A target that moves itself has used its pages here.
            _ => shim::folio::drain_lru_here(),
        }
        let done = self.all_chunks(attempt, running);
        let done = first(done, self.end_workers());
        if matches!(done, Break(End::Signal)) && self.waiting.has_new() {
            // Most of what is busy waits on a CPU for its list. The caller is not to come back for that.
            let _ = self.retry_few(true);
        }
        done
    }

    /// Goes over the range, chunk after chunk.
    ///
    /// # Breaks
    ///
    /// Where the call must end before it got to the end of the range.
    fn all_chunks(&mut self, attempt: Attempt, running: &Running<'_>) -> Flow {
        let end = self.order.range.end;
        while self.outcome.resume < end {
            let done = self.chunk(end, attempt);
            self.show(running);
            done?;
            if attempt == Attempt::Patient && self.load.wants_room() {
                // Nodes are compacted for what waits, which a call that ends early would leave behind.
                self.retry_few(false)?;
            }
            if self.outcome.resume < end {
                self.pause()?;
            }
        }
        Continue(())
    }

    /// Reads the mark of the file before which the last walk stopped, if it did. Returns whether it did.
    ///
    /// That may take as long as the file system likes. What was done before is on record by now.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    pub(super) fn read_mark(&mut self) -> Flow<bool> {
        let Some(file) = self.unknown.take() else {
            return Continue(false);
        };
        flow(self.marks.learn(file, self.stuck > 0))?;
        self.pause()?;
        Continue(true)
    }

    /// Goes on with the first pass as far as one hold of mmap_lock and one batch allow, and moves the batch.
    ///
    /// A file without a known mark ends a chunk, and the next one begins with reading it.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    fn chunk(&mut self, end: usize, attempt: Attempt) -> Flow {
        let at = self.outcome.resume;
        // What lies before a file need not wait for its server.
        if let Some(file) = self.unknown.take_if(|file| file.is_served()) {
            self.settle_all()?;
            if self.waiting.has_new() {
                self.retry_few(true)?;
            }
            self.unknown = Some(file);
        }
        let learnt = self.read_mark()?;
        self.make_room()?;
        self.get_workers();
        let walked = self.walk(at, end, Look::All, self.limit())?;
        if self.is_for_worker() {
            self.hand_over(at)?;
        } else {
            self.finish_batch(at, attempt)?;
        }
        self.stuck = if learnt && walked.unknown.is_some() && walked.resume == at {
            self.stuck.saturating_add(1)
        } else {
            0
        };
        self.unknown = walked.unknown;
        self.outcome.resume = walked.resume;
        Continue(())
    }

    /// Walks from `at` as far as one hold of mmap_lock allows, or until the folios of the batch have `limit`
    /// pages. What is not even tried is counted.
    ///
    /// # Breaks
    ///
    /// Where the call must end. The walk has looked at nothing then.
    pub(super) fn walk(
        &mut self,
        at: usize,
        end: usize,
        look: Look,
        limit: Pages,
    ) -> Flow<WalkEnd> {
        let map = &self.order.map;
        let nodes = match look {
            Look::Pair(pair) => {
                map.flags_of(pair, self.nodes);
                &*self.nodes
            }
            Look::All | Look::Rest => map.flags(),
        };
        let only = Only {
            pages: self.waiting.now(),
            leave: matches!(look, Look::Pair(_)),
            // Others wait for folios that are isolated, and pages have been taken out of the set.
            try_lock: !self.load.batch.is_empty(),
        };
        let again = !matches!(look, Look::All);
        let filter = Filter {
            nodes,
            moved: &self.way.frames,
            others_move: self.workers.are_there(),
            only: again.then_some(only),
        };
        let passes = match again {
            true if self.marks_left == 0 => u32::MAX,
            true => 0,
            false => u32::from(self.stuck >= MAX_LEARNT),
        };
        let mut sorter = Sorter {
            map,
            context: Context::new(&self.marks, passes),
            move_shared: self.move_shared,
            imagined: self.imagined.as_ref(),
            lists: (!self.order.dry_run).then_some(&mut self.load.lists),
            batch: &mut self.load.batch,
            counts: &mut self.outcome.counts,
            limit,
        };
        let mm = self.target.mm();
        let walked = flow(mm.walk(at, end, Some(&filter), &mut sorter))?;
        let counts = &mut self.outcome.counts;
        counts.stay(Reason::InPlace, walked.passed.in_place);
        counts.stay(Reason::AlreadyMoved, walked.passed.already_moved);
        Continue(walked)
    }

    /// Base pages that the next batch may have.
    pub(super) fn limit(&self) -> Pages {
        self.order.max_pages.map_or(batch::MAX_PAGES, |max| {
            (max - self.outcome.copied).clamp(Pages::new(1), batch::MAX_PAGES)
        })
    }

    /// Whether to go on, whatever signal has come but a kill.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    pub(super) fn may_go_on(&self) -> Flow {
        let copied = self.outcome.copied;
        if self.order.max_pages.is_some_and(|max| copied >= max) {
            return Break(End::Done);
        }
        if task::caller_is_killed() {
            return Break(End::Signal);
        }
        if self.target.is_gone() {
            return Break(End::TargetGone);
        }
        Continue(())
    }

    /// Whether to go on.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    pub(super) fn pause(&self) -> Flow {
        // A call that is interrupted again and again must get on: the first chunk is always done.
        let begun = self.outcome.resume > self.order.range.start;
        if begun && current!().signal_pending() {
            return Break(End::Signal);
        }
        self.may_go_on()
    }

    /// Gets ready for a batch: its memory, and room for the large folios that found none in the last one.
    ///
    /// # Breaks
    ///
    /// With [`End::OutOfMemory`].
    pub(super) fn make_room(&mut self) -> Flow {
        if self.order.dry_run {
            return Continue(());
        }
        if self.load.wants_room() {
            // Nothing may be isolated while that is done.
            self.settle_all()?;
            self.load.make_room(&self.way);
        } else {
            self.load.drop_reserve();
        }
        let pairs = self.order.lists.len();
        flow(self.load.prepare(pairs))
    }

    /// Moves the batch that walks from `at` on have found, and counts what became of it.
    ///
    /// # Breaks
    ///
    /// Where the call must end.
    pub(super) fn finish_batch(&mut self, at: usize, attempt: Attempt) -> Flow {
        if self.load.batch.is_empty() {
            return Continue(());
        }
        let mut noted = Continue(());
        self.load.at = at;
        if self.order.dry_run {
            noted = self.imagine_batch();
        } else if self.load.batch.folios() > 0 {
            self.ask_cpuset()?;
            self.load.run_here(&self.way, self.target.mems(), attempt);
        }
        let (dry_run, task) = (self.order.dry_run, self.target.task());
        let settled = settle(self.load, &mut self.outcome, self.waiting, dry_run, task);
        first(noted, settled)
    }

    /// Asks once more which nodes the target may use, before the batch is moved. If the target is gone, gives the
    /// batch up.
    ///
    /// # Breaks
    ///
    /// With [`End::TargetGone`].
    pub(super) fn ask_cpuset(&mut self) -> Flow {
        if !self.target.reread_mems() {
            self.abandon_batch();
            return Break(End::TargetGone);
        }
        Continue(())
    }

    /// Gives up a batch whose target is gone: whoever exits, or executes another program, has given all of its
    /// pages back.
    pub(super) fn abandon_batch(&mut self) {
        let pages = self.load.give_up();
        self.outcome.counts.stay(Reason::Gone, pages);
    }

    /// Remembers the frames of a batch of a dry run as if it had moved.
    ///
    /// # Breaks
    ///
    /// With [`End::OutOfMemory`].
    fn imagine_batch(&mut self) -> Flow {
        let batch = &mut self.load.batch;
        self.load.copied = batch.size();
        let imagined = self.imagined.as_ref();
        let noted = batch.imagine(|frames| imagined.map_or(Ok(()), |set| set.add(frames)));
        flow(noted)
    }

    /// Shows how far the call is.
    pub(super) fn show(&self, running: &Running<'_>) {
        let waits = self.waiting.waits().total();
        running.show(&self.outcome.counts, waits, self.outcome.resume);
    }

    /// Has the files written of which pages stay until that has happened, so that the same call again
    /// moves them. Nothing is locked or isolated now, as it was when these pages were tried.
    ///
    /// All is done and counted by now: a signal just ends this.
    fn write_back(&mut self) {
        for start in self.load.batch.take_unwritten() {
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
}
