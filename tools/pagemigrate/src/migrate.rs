// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate move`

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use page_migrate::{
    open_pidfd, page_size, Counts, Device, Machine, NodeMap, Outcome, Request, Stop, Target,
};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{explain, text, Failure, MoveArgs, EXIT_ERROR, EXIT_LEFT_BEHIND};

/// Pages for one call while a progress bar is shown: not so few that the calls
/// cost more than the work, not so many that the bar stands still.
const STEP_MIN: u64 = 4096;
const STEP_MAX: u64 = 256 * 1024;

pub(crate) fn run(args: &MoveArgs) -> Result<ExitCode, Failure> {
    let machine = Machine::read().map_err(|e| format!("cannot read the machine's nodes: {e}"))?;
    let map = NodeMap::parse(&args.map.join(" "), &machine)
        .map_err(|e| Failure::Usage(format!("{e}\nTry 'pagemigrate move --help'.")))?;
    let device = Device::open().map_err(|e| explain::device(&e))?;

    // Through a pidfd the target stays the same process from call to call. A
    // thread that is not the first one of its process has none.
    let pidfd = open_pidfd(args.pid).ok();
    let target = match &pidfd {
        Some(fd) => Target::Pidfd(std::os::fd::AsFd::as_fd(fd)),
        None => Target::Pid(args.pid),
    };
    let range = args.range.unwrap_or_default();
    let request = Request::new(target)
        .range(range)
        .pairs(map.pairs())
        .dry_run(args.dry_run)
        .strict(args.strict)
        .exclusive(args.exclusive);

    // A signal ends the call, not the command: what has been done is told.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|e| format!("cannot catch signals: {e}"))?;
    }

    let explain_call =
        |e: page_migrate::Error| explain::call(&e, args.pid, &map, args.range.is_some());
    let begin = Instant::now();
    let outcome = if io::stderr().is_terminal() && !args.dry_run {
        let total = device
            .placement(target, range)
            .map_err(explain_call)?
            .selected(map.pairs());
        let in_steps = !request.may_move_twice();
        let bar = progress_bar(total, in_steps);
        let step = if in_steps {
            (total / 100).clamp(STEP_MIN, STEP_MAX)
        } else {
            0
        };
        let outcome = device.migrate_in_steps(&request, step, |so_far| {
            let left = so_far.counts.left_behind();
            let done = so_far
                .counts
                .total_moved()
                .saturating_add(left)
                .saturating_add(so_far.counts.exempt);
            bar.set_position(done.saturating_mul(page_size()));
            if left > 0 {
                bar.set_message(format!("{left} left behind"));
            }
            if interrupted.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        bar.finish_and_clear();
        outcome
    } else {
        device.migrate(&request)
    }
    .map_err(explain_call)?;
    let elapsed = begin.elapsed();

    if args.json {
        text::print(&to_json(args, &map, &outcome, elapsed))?;
    } else {
        text::print(&summary(args, &map, &outcome, elapsed))?;
    }
    match outcome.stop {
        Stop::Interrupted => eprintln!(
            "pagemigrate: interrupted at {:#x}; what has moved stays moved, the same command \
             does the rest",
            outcome.resume_va
        ),
        Stop::OutOfMemory => eprintln!(
            "pagemigrate: stopped at {:#x}: the kernel has no memory left for the call itself",
            outcome.resume_va
        ),
        Stop::TargetExited => eprintln!("pagemigrate: process {} has exited", args.pid),
        _ => {}
    }
    Ok(exit_status(&outcome))
}

fn exit_status(outcome: &Outcome) -> ExitCode {
    match outcome.stop {
        Stop::Interrupted | Stop::OutOfMemory => ExitCode::from(EXIT_ERROR),
        _ if outcome.returned > 0 || outcome.counts.left_behind() > 0 => {
            ExitCode::from(EXIT_LEFT_BEHIND)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn progress_bar(total: u64, in_steps: bool) -> ProgressBar {
    let (bar, template) = if in_steps {
        (
            ProgressBar::new(total.saturating_mul(page_size())),
            "{bar:40} {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  eta {eta}  {msg}",
        )
    } else {
        (
            ProgressBar::new_spinner(),
            "{spinner} moving, {elapsed} so far",
        )
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Why pages were left behind, and what helps.
fn reasons(counts: &Counts) -> [(u64, &'static str, &'static str); 5] {
    [
        (
            counts.shared,
            "shared with other processes",
            "have CAP_SYS_NICE (sudo) and do not give --exclusive",
        ),
        (
            counts.busy,
            "busy",
            "locked, under writeback or in use by the kernel just now: run the command again",
        ),
        (
            counts.pinned,
            "pinned",
            "held for I/O by a device or another process: move them when that has ended",
        ),
        (
            counts.unmovable,
            "unmovable",
            "the kernel cannot move this kind of memory (memfd_secret, driver memory)",
        ),
        (
            counts.no_memory,
            "without room on the new nodes",
            "free memory there (numactl -H), give more new nodes, or leave --strict away",
        ),
    ]
}

fn summary(args: &MoveArgs, map: &NodeMap, outcome: &Outcome, elapsed: Duration) -> String {
    let counts = &outcome.counts;
    let verb = if args.dry_run { "would move" } else { "moved" };
    let mut out = format!(
        "{}: {verb} {}",
        explain::process(args.pid),
        text::pages(counts.total_moved())
    );
    if !args.dry_run {
        out += &format!(" in {:.2} s", elapsed.as_secs_f64());
    }
    out.push('\n');
    if map.pairs().len() > 1 {
        for (pair, moved) in map.pairs().iter().zip(&outcome.moved_by_pair) {
            if *moved > 0 {
                out += &format!("  {} to {}: {}\n", pair.old, pair.new, text::pages(*moved));
            }
        }
    }
    for (n, what) in [
        (
            counts.moved_fallback,
            "of them went to another new node, since their own was full",
        ),
        (counts.already_moved, "met again after they had moved"),
        (counts.in_place, "were not on an old node"),
        (counts.exempt, "stay, as their file's mark says"),
    ] {
        if n > 0 {
            out += &format!("  {}: {what}\n", text::pages(n));
        }
    }
    if counts.policies > 0 {
        out += &format!("  {} memory policies changed\n", counts.policies);
    }
    if counts.left_behind() > 0 {
        out += &format!("left behind: {}\n", text::pages(counts.left_behind()));
        for (n, what, hint) in reasons(counts) {
            if n > 0 {
                out += &format!("  {} {what}: {hint}\n", text::pages(n));
            }
        }
    }
    out
}

fn to_json(args: &MoveArgs, map: &NodeMap, outcome: &Outcome, elapsed: Duration) -> String {
    let counts = &outcome.counts;
    let node = |n: page_migrate::Node| match n {
        page_migrate::Node::Id(id) => json!(id),
        page_migrate::Node::Any => json!("any"),
    };
    let pairs: Vec<_> = map
        .pairs()
        .iter()
        .zip(&outcome.moved_by_pair)
        .map(|(pair, moved)| json!({"old": node(pair.old), "new": node(pair.new), "moved": moved}))
        .collect();
    let stop = match outcome.stop {
        Stop::Returned | Stop::NoRoom => "end",
        Stop::OutOfMemory => "out of memory",
        Stop::Interrupted => "interrupted",
        Stop::TargetExited => "process exited",
        _ => "unknown",
    };
    let value = json!({
        "pid": args.pid,
        "dry_run": args.dry_run,
        "page_size": page_size(),
        "pairs": pairs,
        "moved": counts.moved,
        "moved_fallback": counts.moved_fallback,
        "already_moved": counts.already_moved,
        "in_place": counts.in_place,
        "exempt": counts.exempt,
        "left_behind": counts.left_behind(),
        "shared": counts.shared,
        "busy": counts.busy,
        "pinned": counts.pinned,
        "unmovable": counts.unmovable,
        "no_memory": counts.no_memory,
        "policies": counts.policies,
        "stopped_by": stop,
        "resume_va": outcome.resume_va,
        "seconds": elapsed.as_secs_f64(),
    });
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dry_run: bool) -> MoveArgs {
        MoveArgs {
            pid: i32::MAX,
            map: vec!["0:2 1:3".into()],
            range: None,
            dry_run,
            strict: false,
            exclusive: false,
            json: false,
        }
    }

    fn map() -> NodeMap {
        let nodes = [0, 1, 2, 3];
        NodeMap::parse("0:2 1:3", &Machine::new(&nodes, &nodes)).unwrap()
    }

    fn outcome(counts: Counts) -> Outcome {
        Outcome {
            counts,
            moved_by_pair: vec![7, 0],
            returned: 0,
            stop: Stop::Returned,
            resume_va: 0x1000,
        }
    }

    #[test]
    fn only_what_happened_is_told() {
        let counts = Counts {
            moved: 6,
            moved_fallback: 1,
            ..Counts::default()
        };
        let text = summary(&args(false), &map(), &outcome(counts), Duration::ZERO);
        assert!(text.contains("moved 7 pages"));
        assert!(text.contains("0 to 2: 7 pages") && !text.contains("1 to 3"));
        assert!(text.contains("1 page (4.00 KiB): of them"));
        assert!(!text.contains("left behind") && !text.contains("pinned"));
        let text = summary(&args(true), &map(), &outcome(counts), Duration::ZERO);
        assert!(text.contains("would move") && !text.contains(" s\n"));
    }

    #[test]
    fn each_reason_has_a_line() {
        let counts = Counts {
            shared: 1,
            busy: 2,
            pinned: 3,
            unmovable: 4,
            no_memory: 5,
            ..Counts::default()
        };
        let text = summary(&args(false), &map(), &outcome(counts), Duration::ZERO);
        assert!(text.contains("left behind: 15 pages"));
        for word in [
            "CAP_SYS_NICE",
            "busy",
            "pinned",
            "unmovable",
            "without room",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn exit_statuses() {
        let status = |stop, returned, no_memory| {
            let mut o = outcome(Counts {
                no_memory,
                ..Counts::default()
            });
            o.stop = stop;
            o.returned = returned;
            format!("{:?}", exit_status(&o))
        };
        let is = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(status(Stop::Returned, 0, 0), is(0));
        assert_eq!(status(Stop::Returned, 1, 0), is(3));
        assert_eq!(status(Stop::NoRoom, 0, 1), is(3));
        assert_eq!(status(Stop::Interrupted, 0, 0), is(1));
        assert_eq!(status(Stop::OutOfMemory, 0, 0), is(1));
        assert_eq!(status(Stop::TargetExited, 0, 0), is(0));
    }

    #[test]
    fn json_is_json() {
        let text = to_json(
            &args(true),
            &map(),
            &outcome(Counts::default()),
            Duration::ZERO,
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["pairs"][0]["moved"], 7);
        assert_eq!(value["dry_run"], true);
        assert_eq!(value["left_behind"], 0);
    }
}
