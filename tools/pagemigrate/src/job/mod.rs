// SPDX-License-Identifier: GPL-2.0

//! A job at work: its processes, the passes over them, and each call.

pub(crate) mod cpuset;
pub(crate) mod pace;
pub(crate) mod room;
pub(crate) mod threads;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use page_migrate::{
    overlaps, Device, Error, Machine, NodeMap, Outcome, Placement, Range, Request, Stop, Target,
};

use crate::cli::MoveArgs;
use crate::errors;
use crate::exit::Failure;
use crate::job::pace::Pace;
use crate::job::room::{Load, Room};
use crate::job::threads::Threads;
use crate::proc::{resident, status_field, Process, Selection};

/// What is busy now may not be so a little later.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a pass looks for processes that have come meanwhile. A job that
/// makes processes all the time must not keep us.
const ROUNDS: u32 = 16;

/// How often a process is called on again that seems to have exited, but is there.
const TRIES: u32 = 10;

/// A process and what became of it.
pub(crate) struct Member {
    pub(crate) process: Process,
    /// Over all passes.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) error: Option<String>,
    pub(crate) exited: bool,
    /// Calls that have done something.
    pub(crate) calls: u32,
}

impl Member {
    pub(crate) fn new(process: Process) -> Self {
        Member {
            process,
            outcome: None,
            error: None,
            exited: false,
            calls: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.exited || self.error.is_some()
    }

    /// Notes that the process has exited. What a call left behind then, it has given back itself.
    pub(crate) fn exit(&mut self) {
        self.exited = true;
        if let Some(outcome) = &mut self.outcome {
            outcome.counts.give_back();
        }
    }
}

/// Whether the kernel has no memory for the call itself.
pub(crate) fn out_of_memory(members: &[Member]) -> bool {
    let outcomes = members.iter().filter_map(|m| m.outcome.as_ref());
    outcomes.into_iter().any(|o| o.stop == Stop::OutOfMemory)
}

/// Whether something else went wrong than that pages or CPUs stay.
pub(crate) fn failed(members: &[Member]) -> bool {
    out_of_memory(members)
        || members.iter().all(|m| m.exited)
        || members.iter().any(|m| m.error.is_some())
}

/// A job at work.
pub(crate) struct Work<'a> {
    pub(crate) device: &'a Device,
    /// What every call asks for; only the process differs.
    pub(crate) request: Request<'static>,
    pub(crate) map: &'a NodeMap,
    pub(crate) args: &'a MoveArgs,
    pub(crate) selection: &'a Selection,
    pub(crate) interrupted: &'a AtomicBool,
    /// Pages that are done with, though they did not move, for the bar.
    pub(crate) settled: &'a AtomicU64,
    pub(crate) threads: Option<Threads>,
    pub(crate) pace: Option<Pace>,
    pub(crate) members: Vec<Member>,
    pub(crate) passes: u32,
}

impl Work<'_> {
    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Takes in what belongs to the job by now.
    pub(crate) fn find(&mut self) {
        // The number of a process that has exited may be another's by now.
        for member in self.members.iter_mut().filter(|m| !m.exited) {
            if member.process.is_gone() {
                member.exit();
            }
        }
        let alive = self.members.iter().filter(|m| !m.exited);
        let known = alive.map(|m| m.process.tgid).collect();
        let new = self.selection.others(&known);
        self.members.extend(new.into_iter().map(Member::new));
    }

    /// Whether each process can be moved at all, before anything has happened.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        let mut troubles: Vec<String> = Vec::new();
        let mut missing = Vec::new();
        for member in &mut self.members {
            // Nothing has been done yet.
            if self.interrupted.load(Ordering::Relaxed) {
                return Ok(());
            }
            match with_target(&member.process, |target| {
                self.device.check(&self.request.clone().target(target))
            }) {
                Ok(()) => {}
                // It was there when it was named, or found.
                Err(Error::NoSuchProcess) if member.process.was_seen() => member.exit(),
                Err(Error::NoSuchProcess) => missing.push(member.process.pid),
                Err(e) => {
                    let in_part = self.args.range.is_some();
                    let trouble = errors::call(&e, member.process.pid, self.map, in_part);
                    if !troubles.contains(&trouble) {
                        troubles.push(trouble);
                    }
                }
            }
        }
        if !missing.is_empty() {
            troubles.insert(0, errors::no_processes(&missing));
        }
        if !troubles.is_empty() {
            return Err(Failure::Error(troubles.join("\n")));
        }
        if self.members.iter().all(|m| m.exited) {
            return Err(Failure::Error(match &self.members[..] {
                [] => "there is no process in what was named".into(),
                [one] => errors::no_process(one.process.pid),
                all => format!("no process is left: none of the {} exists", all.len()),
            }));
        }
        Ok(())
    }

    /// Says what is missing where the new nodes cannot have room, before anything has moved.
    pub(crate) fn check_room(&self) -> Option<String> {
        let machine = Machine::read().ok()?;
        let pairs = self.map.pairs();
        let nodes = room::new_nodes(pairs, &machine);
        let rooms: Vec<Room> = nodes.into_iter().filter_map(Room::read).collect();
        // Most jobs are smaller than what is free: then nobody has to count.
        let alive = || self.members.iter().filter(|m| !m.is_over());
        let size = |m: &Member| {
            let field = |name: &str| {
                let text = status_field(m.process.tgid, name)?;
                let number = text.split_whitespace().next()?.parse::<u64>().ok()?;
                number.checked_mul(1024)
            };
            field("VmRSS").unwrap_or(u64::MAX)
        };
        let all = alive().map(size).fold(0, u64::saturating_add);
        if rooms.is_empty() || rooms.iter().all(|room| room.free > all) {
            return None;
        }
        let request = self.request.clone().dry_run(true);
        let mut loads = Vec::new();
        for member in alive() {
            if self.interrupted() {
                return None;
            }
            // What cannot be counted needs no room, as far as anybody can be certain.
            let would = with_target(&member.process, |target| {
                self.device.migrate(&request.clone().target(target))
            });
            if let (Ok(would), Some(resident)) = (would, resident(member.process.tgid)) {
                loads.push(Load {
                    moved_by_pair: would.moved_by_pair,
                    resident,
                });
            }
        }
        room::lacking(pairs, self.args.strict, &loads, &rooms)
    }

    /// Mappings of pages on each node, of all processes together.
    pub(crate) fn placement(&self) -> Placement {
        let range = self.args.range.unwrap_or_default();
        let mut sum = Placement { pages: Vec::new() };
        let placements = self
            .members
            .iter()
            .filter(|m| !m.exited)
            .take_while(|_| !self.interrupted())
            .filter_map(|m| {
                with_target(&m.process, |target| self.device.placement(target, range)).ok()
            });
        for one in placements {
            sum.pages.resize(sum.pages.len().max(one.pages.len()), 0);
            for (all, n) in sum.pages.iter_mut().zip(one.pages) {
                *all = all.saturating_add(n);
            }
        }
        sum
    }

    /// Gives the threads their CPUs.
    pub(crate) fn sweep(&mut self) {
        if let Some(threads) = &mut self.threads {
            let alive = self.members.iter().filter(|m| !m.is_over());
            threads.sweep(alive.map(|m| &m.process));
        }
    }

    /// Gives them back.
    pub(crate) fn undo_threads(&mut self) {
        if let Some(threads) = self.threads.as_mut().filter(|_| !self.args.dry_run) {
            threads.undo();
        }
    }

    pub(crate) fn run(&mut self) {
        // What a dry run counts it counts again in the next pass.
        let passes = if self.args.dry_run {
            1
        } else {
            self.args.passes
        };
        while self.passes < passes && !self.interrupted() {
            self.passes += 1;
            let again = self.pass();
            if !again || self.interrupted() || self.members.iter().all(Member::is_over) {
                break;
            }
        }
        // What those have left behind that have exited since is nothing to come back for.
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let left = member.outcome.as_ref().map(|o| o.counts.left_behind());
            if self.interrupted() {
                return;
            }
            if left.is_some_and(|n| n > 0) && self.has_exited(&member.process) {
                self.members[index].exit();
            }
        }
    }

    /// Whether a process has exited, as the module sees it: it knows first, since /proc shows the
    /// memory until the end.
    fn has_exited(&self, process: &Process) -> bool {
        let nothing = Range { start: 0, len: 0 };
        let seen = with_target(process, |target| self.device.placement(target, nothing));
        matches!(seen, Err(Error::NoSuchProcess))
    }

    /// One call for each process. Whether another pass can do more.
    fn pass(&mut self) -> bool {
        let mut again = false;
        let mut moved = false;
        let mut next = 0;
        for _ in 0..ROUNDS {
            if self.interrupted() {
                return false;
            }
            self.find();
            if next == self.members.len() {
                break;
            }
            self.sweep();
            while next < self.members.len() {
                if self.interrupted() {
                    return false;
                }
                if let Some(outcome) = self.call(next) {
                    if outcome.stop == Stop::OutOfMemory {
                        return false;
                    }
                    let counts = &outcome.counts;
                    moved |= counts.total_moved() > 0;
                    again |= !self.members[next].exited
                        && (counts.busy > 0 || counts.pinned > 0 || counts.no_memory > 0);
                }
                next += 1;
            }
        }
        if again && !moved {
            thread::sleep(PAUSE);
        }
        // New pages may have come behind those that moved. Where the map
        // overlaps, those on its nodes may be where they should be.
        again || (moved && !overlaps(self.map.pairs()))
    }

    /// One call, or as many as the pace allows, for the range of one process.
    fn call(&mut self, index: usize) -> Option<Outcome> {
        let mut tries = 0;
        let mut walk = Walk::new(self.args.range.unwrap_or_default());
        loop {
            let member = self.members.get(index)?;
            if member.is_over() {
                break;
            }
            let mut request = self.request.clone().range(walk.range);
            if let Some(pace) = &self.pace {
                request = request.max_pages(pace.pages());
            }
            let done = with_target(&member.process, |target| {
                self.device.migrate(&request.target(target))
            });
            match done {
                Ok(outcome) => {
                    let counts = &outcome.counts;
                    let settled =
                        counts.already_moved + counts.exempt + counts.gone + counts.left_behind();
                    self.settled.fetch_add(settled, Ordering::Relaxed);
                    let moved = counts.total_moved();
                    let stop = outcome.stop;
                    walk.add(outcome);
                    // The last part, and a small process, count for the pace as well.
                    let interrupted = self.interrupted;
                    let pace = self.pace.as_mut();
                    let in_time = pace.is_some_and(|pace| pace.wait(moved, interrupted));
                    if stop == Stop::Limit && in_time {
                        walk.go_on();
                        continue;
                    }
                    // Then the call has ended early, and counted what it did.
                    let exited = self.has_exited(&self.members.get(index)?.process);
                    let interrupted = self.interrupted();
                    let member = self.members.get_mut(index)?;
                    let mut sum = walk.sum.clone()?;
                    // A dry run has left all for the next call to count.
                    if let (Some(earlier), false) = (&member.outcome, self.args.dry_run) {
                        sum.add_earlier(earlier);
                    }
                    member.outcome = Some(sum);
                    member.calls = member.calls.saturating_add(1);
                    if exited {
                        member.exit();
                    }
                    if stop == Stop::Interrupted && !interrupted {
                        // Not by one of our signals: this command was stopped,
                        // and goes on.
                        walk = Walk::new(self.args.range.unwrap_or_default());
                        continue;
                    }
                    return walk.sum;
                }
                // Where only whole ranges are allowed, it starts from the beginning, and meets
                // what has moved once more.
                Err(Error::InvalidArgument) if walk.has_gone_on() => walk.start_again(),
                // An execve() gave the process another address space meanwhile.
                Err(Error::NoSuchProcess)
                    if tries < TRIES && !member.process.is_gone() && !self.interrupted() =>
                {
                    tries += 1;
                    thread::sleep(PAUSE);
                }
                Err(e) => {
                    let in_part = self.args.range.is_some();
                    let member = self.members.get_mut(index)?;
                    // What earlier calls of this walk have done is done.
                    if let Some(mut sum) = walk.sum.take() {
                        if let Some(earlier) = &member.outcome {
                            sum.add_earlier(earlier);
                        }
                        member.outcome = Some(sum);
                    }
                    if matches!(e, Error::NoSuchProcess) {
                        member.exit();
                    } else {
                        let pid = member.process.pid;
                        member.error = Some(errors::call(&e, pid, self.map, in_part));
                    }
                }
            }
        }
        None
    }
}

/// The calls for one range, one after the other.
struct Walk {
    whole: Range,
    /// What the next call is about.
    range: Range,
    /// What they did.
    sum: Option<Outcome>,
    /// Each call begins where the one before has stopped.
    in_parts: bool,
}

impl Walk {
    fn new(range: Range) -> Self {
        Walk {
            whole: range,
            range,
            sum: None,
            in_parts: true,
        }
    }

    fn add(&mut self, mut outcome: Outcome) {
        if let Some(earlier) = &self.sum {
            if self.range == self.whole {
                outcome.add_earlier(earlier);
            } else {
                outcome.add_part(earlier);
            }
        }
        self.sum = Some(outcome);
    }

    fn go_on(&mut self) {
        if let (true, Some(sum)) = (self.in_parts, &self.sum) {
            let end = self.whole.end();
            let start = sum.resume_va.clamp(self.whole.start, end);
            self.range = Range {
                start,
                len: end - start,
            };
        }
    }

    fn has_gone_on(&self) -> bool {
        self.range != self.whole
    }

    fn start_again(&mut self) {
        self.in_parts = false;
        self.range = self.whole;
    }
}

/// Works on a process, if it still is the one that was found.
fn with_target<T>(
    process: &Process,
    work: impl FnOnce(Target<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    // The pidfd first: what it stands for cannot change any more.
    let pidfd = process.pidfd();
    if process.is_gone() {
        return Err(Error::NoSuchProcess);
    }
    match &pidfd {
        Some(fd) => work(Target::Pidfd(fd.as_fd())),
        None => work(Target::Pid(process.pid)),
    }
}
