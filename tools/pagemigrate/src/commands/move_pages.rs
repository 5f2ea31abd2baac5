// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate move`

use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Instant;

use page_migrate::cpus::Topology;
use page_migrate::{Device, Machine, Node, NodeMap, Request, Target};

use crate::cli::MoveArgs;
use crate::errors::{self, KnownNodes};
use crate::exit::Failure;
use crate::job::cpuset::{Cpusets, Kind};
use crate::job::pace::Pace;
use crate::job::threads::Threads;
use crate::job::{self, Member, Work};
use crate::proc::slurm::Job;
use crate::report::progress::{self, Amount, Progress};
use crate::report::Report;
use crate::signals::Signals;
use crate::term;

/// `command` is the whole command line, for the user to go on with.
pub(crate) fn run(args: &MoveArgs, command: &[OsString]) -> Result<u8, Failure> {
    let (selection, map) = args.resolve()?;
    let machine = Machine::read().map_err(|e| format!("cannot read the machine's nodes: {e}"))?;
    let map = NodeMap::parse(&map, &machine)
        .map_err(|e| Failure::Usage(format!("{e}\nTry 'pagemigrate move --help'.")))?;
    if args.range.is_some() && !selection.is_single() {
        return Err(Failure::Usage(
            "--range is for one process: each has addresses of its own".into(),
        ));
    }
    let notes = errors::check_nodes(&map, &machine, &KnownNodes::read(&machine))?;
    for note in notes.iter().filter(|_| !args.quiet) {
        term::note(note);
    }
    let device = Device::open().map_err(|e| errors::device(&e))?;
    for disagrees in selection.jobs.iter().filter_map(Job::compare) {
        term::note(&disagrees);
    }
    let mut cpusets = None;
    let mut threads = None;
    if args.threads || args.cpuset {
        let topology = Topology::read().map_err(|e| format!("cannot read the nodes' CPUs: {e}"))?;
        let pairs = map.pairs();
        cpusets = args
            .cpuset
            .then(|| Cpusets::new(selection.groups(), pairs, &topology, &machine, args.dry_run));
        let counterparts = cpusets.as_ref().and_then(Cpusets::counterparts).cloned();
        threads = Some(Threads::new(topology, pairs, args.dry_run, counterparts));
    }

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
        pace: args.rate.filter(|_| !args.dry_run).map(Pace::new),
        members: selection.named().into_iter().map(Member::new).collect(),
        passes: 0,
    };
    let shows = Progress::wanted(args.progress, args.quiet) && !args.dry_run;
    // Nobody but the kernel knows which nodes it has taken.
    let any = map.pairs().iter().any(|pair| pair.new == Node::Any);
    let looks = args.dry_run || args.verbose || any;
    // How much there is to do, once it is known.
    let total = OnceLock::new();
    let mut shown: Option<Progress> = None;
    let mut begun = false;
    let mut echoed = false;
    let done = signals.watch(
        || {
            let Some(total) = total.get().copied().filter(|_| shows) else {
                return;
            };
            // What the user sees after a signal is the end of it.
            if signals.came() {
                if let Some(bar) = shown.take() {
                    bar.clear();
                    echoed = matches!(bar, Progress::Bar(_));
                }
                return;
            }
            if !begun {
                shown = Progress::new(args.progress, args.quiet, total);
                begun = true;
            }
            if let Some(bar) = &mut shown {
                let settled = settled.load(Ordering::Relaxed);
                bar.show(&device, Amount { total, settled });
            }
        },
        || {
            if let Some(cpusets) = &mut cpusets {
                cpusets.widen()?;
            }
            work.find();
            work.check()?;
            if !args.no_room_check {
                match work.check_room() {
                    Some(lacking) if args.dry_run => term::note(&lacking),
                    Some(lacking) => return Err(Failure::Error(lacking)),
                    None => {}
                }
            }
            let before = (shows || looks).then(|| work.placement());
            if let Some(before) = &before {
                total.get_or_init(|| before.selected(map.pairs()));
            }
            if let Some(pace) = &mut work.pace {
                pace.begin();
            }
            let begin = Instant::now();
            if let Some(cpusets) = &mut cpusets {
                // The CPUs first: what is touched from now on comes from the new nodes.
                work.sweep();
                cpusets.narrow(Kind::Cpus);
            }
            work.run();
            if let Some(cpusets) = &mut cpusets {
                if signals.came() || job::failed(&work.members) {
                    cpusets.undo();
                    work.undo_threads();
                } else {
                    cpusets.narrow(Kind::Mems);
                    cpusets.finish();
                }
            }
            let elapsed = begin.elapsed();
            let before = before.filter(|_| looks);
            let after = (looks && !args.dry_run && before.is_some()).then(|| work.placement());
            Ok((elapsed, before, after))
        },
    );
    if let Some(bar) = &shown {
        bar.clear();
    }
    if echoed {
        progress::clear_line();
    }
    let (elapsed, before, after) = done?;

    let report = Report {
        map: &map,
        dry_run: args.dry_run,
        range: args.range.unwrap_or_default(),
        interrupted: signals.came(),
        single: selection.is_single(),
        members: &work.members,
        threads: work.threads.as_ref(),
        cpusets: cpusets.as_ref(),
        passes: work.passes,
        elapsed,
        before: before.as_ref(),
        after: after.as_ref(),
        command,
        verbose: args.verbose,
    };
    let printed = if args.json {
        term::print(&report.to_json())
    } else if args.quiet {
        Ok(())
    } else {
        term::print(&report.to_text())
    };
    for line in report.troubles() {
        term::complain(&line);
    }
    printed?;
    if let Some(file) = &args.openmetrics {
        report.write_metrics(file)?;
    }
    Ok(report.exit_status())
}
