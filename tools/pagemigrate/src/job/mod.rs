// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate move`

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use page_migrate::{
    overlaps, page_size, Device, Error, Machine, NodeMap, Outcome, Range, Request, Stop, Target,
};

use crate::processes::{Process, Selection};
use crate::report::Report;
use crate::signals::Signals;
use crate::threads::Threads;
use crate::{explain, text, Failure, MoveArgs};

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

/// A job at work.
struct Work<'a> {
    device: &'a Device,
    /// What every call asks for; only the process differs.
    request: Request<'static>,
    map: &'a NodeMap,
    args: &'a MoveArgs,
    selection: &'a Selection,
    interrupted: &'a AtomicBool,
    /// Pages that are done with, though they did not move, for the bar.
    settled: &'a AtomicU64,
    threads: Option<Threads>,
    members: Vec<Member>,
    passes: u32,
}

pub(crate) fn run(args: &MoveArgs) -> Result<ExitCode, Failure> {
    let (selection, map) = args.resolve()?;
    let machine = Machine::read().map_err(|e| format!("cannot read the machine's nodes: {e}"))?;
    let map = NodeMap::parse(&map, &machine)
        .map_err(|e| Failure::Usage(format!("{e}\nTry 'pagemigrate move --help'.")))?;
    if args.range.is_some() && !selection.is_single() {
        return Err(Failure::Usage(
            "--range is for one process: each has addresses of its own".into(),
        ));
    }
    let device = Device::open().map_err(|e| explain::device(&e))?;
    let threads = args
        .threads
        .then(|| Threads::new(map.pairs(), args.dry_run))
        .transpose()
        .map_err(|e| format!("cannot read the nodes' CPUs: {e}"))?;

    // A signal ends the call, not the command: what has been done is told.
    let signals = Signals::catch().map_err(|e| format!("cannot catch signals: {e}"))?;
    let settled = AtomicU64::new(0);
    let mut work = Work {
        device: &device,
        request: Request::new(Target::Myself)
            .pairs(map.pairs())
            .range(args.range.unwrap_or_default())
            .dry_run(args.dry_run)
            .strict(args.strict)
            .exclusive(args.exclusive)
            .keep_policy(args.keep_policy),
        map: &map,
        args,
        selection: &selection,
        interrupted: signals.flag(),
        settled: &settled,
        threads,
        members: selection.named().into_iter().map(Member::new).collect(),
        passes: 0,
    };
    let bar = OnceLock::new();
    let elapsed = signals.watch(
        || {
            if let Some(bar) = bar.get() {
                show_progress(bar, &device, &settled);
            }
        },
        || {
            work.find();
            work.check()?;
            let begin = Instant::now();
            if io::stderr().is_terminal() && !args.dry_run {
                let total = work.selected();
                bar.get_or_init(|| progress_bar(total));
            }
            work.run();
            Ok::<_, Failure>(begin.elapsed())
        },
    )?;
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }

    let report = Report {
        map: &map,
        dry_run: args.dry_run,
        range: args.range.unwrap_or_default(),
        interrupted: signals.came(),
        single: selection.is_single(),
        members: &work.members,
        threads: work.threads.as_ref(),
        passes: work.passes,
        elapsed,
    };
    let printed = text::print(&if args.json {
        report.to_json()
    } else {
        report.to_text()
    });
    for line in report.troubles() {
        text::complain(&line);
    }
    printed?;
    Ok(ExitCode::from(report.exit_status()))
}

impl Work<'_> {
    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Takes in what belongs to the job by now.
    fn find(&mut self) {
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
    fn check(&mut self) -> Result<(), Failure> {
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
                    let trouble = explain::call(&e, member.process.pid, self.map, in_part);
                    if !troubles.contains(&trouble) {
                        troubles.push(trouble);
                    }
                }
            }
        }
        if !missing.is_empty() {
            troubles.insert(0, explain::no_processes(&missing));
        }
        if !troubles.is_empty() {
            return Err(Failure::Error(troubles.join("\n")));
        }
        if self.members.iter().all(|m| m.exited) {
            return Err(Failure::Error(match &self.members[..] {
                [] => "there is no process in what was named".into(),
                [one] => explain::no_process(one.process.pid),
                all => format!("no process is left: none of the {} exists", all.len()),
            }));
        }
        Ok(())
    }

    /// Mappings of pages that the first pass will meet on old nodes.
    fn selected(&self) -> u64 {
        let range = self.args.range.unwrap_or_default();
        self.members
            .iter()
            .take_while(|_| !self.interrupted())
            .filter_map(|m| {
                with_target(&m.process, |target| self.device.placement(target, range)).ok()
            })
            .map(|placement| placement.selected(self.map.pairs()))
            .fold(0, u64::saturating_add)
    }

    fn run(&mut self) {
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
            if let Some(threads) = &mut self.threads {
                let alive = self.members.iter().filter(|m| !m.is_over());
                threads.sweep(alive.map(|m| &m.process));
            }
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

    fn call(&mut self, index: usize) -> Option<Outcome> {
        let mut tries = 0;
        while !self.members[index].is_over() {
            let member = &mut self.members[index];
            match with_target(&member.process, |target| {
                self.device.migrate(&self.request.clone().target(target))
            }) {
                Ok(outcome) => {
                    let mut sum = outcome.clone();
                    // A dry run has left all for the next call to count.
                    if let (Some(earlier), false) = (&member.outcome, self.args.dry_run) {
                        sum.add_earlier(earlier);
                    }
                    member.outcome = Some(sum);
                    member.calls = member.calls.saturating_add(1);
                    let counts = &outcome.counts;
                    let settled =
                        counts.already_moved + counts.exempt + counts.gone + counts.left_behind();
                    self.settled.fetch_add(settled, Ordering::Relaxed);
                    // Then the call has ended early, and counted what it did.
                    if self.has_exited(&self.members[index].process) {
                        self.members[index].exit();
                    }
                    // Not by one of our signals: this command was stopped,
                    // and goes on.
                    if outcome.stop == Stop::Interrupted && !self.interrupted() {
                        continue;
                    }
                    return Some(outcome);
                }
                // An execve() gave the process another address space meanwhile.
                Err(Error::NoSuchProcess)
                    if tries < TRIES
                        && !member.process.is_gone()
                        && !self.interrupted.load(Ordering::Relaxed) =>
                {
                    tries += 1;
                    thread::sleep(PAUSE);
                }
                Err(Error::NoSuchProcess) => member.exit(),
                Err(e) => {
                    let in_part = self.args.range.is_some();
                    let pid = member.process.pid;
                    member.error = Some(explain::call(&e, pid, self.map, in_part));
                }
            }
        }
        None
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

/// Moves the bar.
fn show_progress(bar: &ProgressBar, device: &Device, settled: &AtomicU64) {
    let Ok(progress) = device.progress() else {
        return;
    };
    let mut done = progress
        .moved
        .saturating_add(settled.load(Ordering::Relaxed));
    if progress.running {
        done = done.saturating_add(progress.left);
    }
    let done = done.saturating_mul(page_size());
    // Later passes meet the same pages again.
    bar.set_position(done.max(bar.position()).min(bar.length().unwrap_or(done)));
    if progress.left > 0 {
        bar.set_message(format!("{} left behind", progress.left));
    }
}

fn progress_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total.saturating_mul(page_size()));
    if let Ok(style) = ProgressStyle::with_template(
        "{bar:40} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  eta {eta}  {msg}",
    ) {
        bar.set_style(style);
    }
    bar
}
