// SPDX-License-Identifier: GPL-2.0

//! The library `page-migrate` against the real device.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use page_migrate::{open_pidfd, Device, Error, Node, Range, Request, Stop, Target as To};
use page_migrate_tests::{
    be_target_if_asked, clean_up, memory_nodes, own_program, page, public_copy, sysfs_nodes, Hog,
    Memory, Tap, Target, NOBODY,
};

const PAGES: usize = 64;

/// "pid old new": as another user, tries to move a process, prints the error.
fn be_intruder_if_asked() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().map(String::as_str) != Some("--intrude") {
        return;
    }
    let number = |i: usize| args[i].parse::<u32>().unwrap();
    let request = Request::new(To::Pid(number(1) as i32)).pair(number(2), number(3));
    let device = Device::open().unwrap();
    let moved = device.migrate(&request).map(|o| o.counts);
    let seen = device.placement(To::Pid(number(1) as i32), Range::ALL);
    println!("{moved:?} {seen:?}");
    std::process::exit(0);
}

fn main() {
    be_target_if_asked();
    be_intruder_if_asked();
    let mut tap = Tap::new();
    let nodes = memory_nodes();
    let (a, b, c) = (nodes[0], nodes[1], nodes[2]);
    let device = Device::open().unwrap();
    let me = || Request::new(To::Myself);
    let all_on = |memory: &Memory, node: u32| memory.nodes().iter().all(|n| *n == node as i32);

    tap.test("info: nodes and flags", || {
        let info = device.info().unwrap();
        let highest = sysfs_nodes("possible").into_iter().max().unwrap();
        assert_eq!(info.max_nodes, highest + 1);
        assert!(info.max_workers >= 1);
        let names = info.flag_names();
        for flag in [
            "PIDFD",
            "DRY_RUN",
            "KEEP_POLICY",
            "EXCLUSIVE",
            "NEW_JOB",
            "STRICT",
        ] {
            assert!(names.iter().any(|n| n == flag), "{flag} in {names:?}");
        }
    });

    tap.test("migrate: own pages move, with their contents", || {
        let memory = Memory::on(&[a], PAGES);
        let outcome = device
            .migrate(&me().range(memory.range()).pair(a, b))
            .unwrap();
        assert!(all_on(&memory, b), "{:?}", memory.nodes());
        assert_eq!(memory.damaged(), 0);
        assert_eq!(outcome.counts.moved, PAGES as u64);
        assert_eq!(outcome.counts.total(), PAGES as u64);
        assert_eq!(outcome.moved_by_pair, [PAGES as u64]);
        assert_eq!(outcome.returned, 0);
        assert_eq!(outcome.resume_va, memory.range().end());
        assert!(outcome.is_complete());
        assert_eq!(outcome.interrupted_at(), None);
    });

    tap.test("migrate: two nodes change places", || {
        let memory = Memory::on(&[a, b, c], PAGES);
        let request = me().range(memory.range()).pair(a, b).pair(b, a);
        let outcome = device.migrate(&request.new_job(true)).unwrap();
        let expected: Vec<i32> = (0..PAGES).map(|i| [b, a, c][i % 3] as i32).collect();
        assert_eq!(memory.nodes(), expected);
        assert_eq!(memory.damaged(), 0);
        let thirds: Vec<u64> = (0..3)
            .map(|k| (k..PAGES).step_by(3).count() as u64)
            .collect();
        assert_eq!(outcome.moved_by_pair, thirds[..2]);
        assert_eq!(outcome.counts.in_place, thirds[2]);
    });

    tap.test("migrate: any old node", || {
        let memory = Memory::on(&[a, b, c], PAGES);
        let request = me().range(memory.range()).pair(Node::Any, c);
        let outcome = device.migrate(&request).unwrap();
        assert!(all_on(&memory, c), "{:?}", memory.nodes());
        assert!(outcome.is_complete());
    });

    tap.test("migrate: any new node", || {
        let memory = Memory::on(&[a, b], PAGES);
        let request = me()
            .range(memory.range())
            .pair(a, Node::Any)
            .pair(b, Node::Any);
        let outcome = device.migrate(&request).unwrap();
        for node in memory.nodes() {
            assert!(node >= 0 && node != a as i32 && node != b as i32, "{node}");
        }
        assert_eq!(outcome.counts.total_moved(), PAGES as u64);
        assert_eq!(memory.damaged(), 0);
    });

    tap.test("migrate: a part of a mapping", || {
        let memory = Memory::on(&[a], PAGES);
        let part = Range {
            start: memory.start() + 8 * page() as u64,
            // Rounded up to two pages.
            len: page() as u64 + 1,
        };
        device.migrate(&me().range(part).pair(a, b)).unwrap();
        for (i, node) in memory.nodes().into_iter().enumerate() {
            let expected = if i == 8 || i == 9 { b } else { a };
            assert_eq!(node, expected as i32, "page {i}");
        }
    });

    tap.test("dry run: counts and moves nothing", || {
        let memory = Memory::on(&[a, b], PAGES);
        let before = memory.nodes();
        let request = me().range(memory.range()).pair(a, c).dry_run(true);
        let outcome = device.migrate(&request).unwrap();
        assert_eq!(outcome.counts.moved, PAGES as u64 / 2);
        assert_eq!(outcome.moved_by_pair, [PAGES as u64 / 2]);
        assert_eq!(outcome.counts.in_place, PAGES as u64 / 2);
        assert_eq!(memory.nodes(), before);
    });

    tap.test("placement: as move_pages(2) sees it", || {
        let memory = Memory::on(&[a, b, b], PAGES);
        let placement = device.placement(To::Myself, memory.range()).unwrap();
        let seen = memory.nodes();
        for node in 0..device.info().unwrap().max_nodes {
            let count = seen.iter().filter(|n| **n == node as i32).count();
            assert_eq!(placement.on(node), count as u64, "node {node}");
        }
        assert_eq!(placement.total(), PAGES as u64);
    });

    // More than two of the module's batches.
    const MANY: usize = 3 * 4096;

    tap.test("max_pages: ends early and says where", || {
        let memory = Memory::on(&[a], MANY);
        let request = me().range(memory.range()).pair(a, b);
        let outcome = device.migrate(&request.clone().max_pages(1)).unwrap();
        let moved = outcome.counts.moved;
        assert!((1..=1 + 4096).contains(&moved), "{moved}");
        assert_eq!(outcome.stop, Stop::Limit);
        assert!(!outcome.is_complete());
        assert!(outcome.resume_va > memory.start());
        assert!(outcome.resume_va < memory.range().end());
        let seen = memory.nodes().iter().filter(|n| **n == b as i32).count();
        assert_eq!(seen as u64, moved);
        assert_eq!(memory.damaged(), 0);
    });

    tap.test("a job: in many calls, each page moves once", || {
        let memory = Memory::on(&[a, b, c], MANY);
        let job = Device::open().unwrap();
        let request = me().pair(a, b).pair(b, a).max_pages(1);
        let (mut range, mut calls, mut moved) = (memory.range(), 0, 0);
        while range.len > 0 {
            let outcome = job.migrate(&request.clone().range(range)).unwrap();
            let limited = outcome.counts.moved > 0;
            let stop = if limited { Stop::Limit } else { Stop::Returned };
            assert_eq!(outcome.stop, stop);
            moved += outcome.counts.moved;
            calls += 1;
            range = Range {
                start: outcome.resume_va,
                len: memory.range().end() - outcome.resume_va,
            };
        }
        assert!(calls > 1);
        assert_eq!(moved, MANY as u64 / 3 * 2);
        let swapped: Vec<i32> = (0..MANY).map(|i| [b, a, c][i % 3] as i32).collect();
        assert_eq!(memory.nodes(), swapped);
        // What has moved stays, and a new job swaps it back.
        let request = me().range(memory.range()).pair(a, b).pair(b, a);
        let outcome = job.migrate(&request).unwrap();
        assert_eq!(outcome.counts.already_moved, moved);
        assert_eq!(memory.nodes(), swapped);
        let progress = job.progress().unwrap();
        assert_eq!((progress.moved, progress.running), (moved, false));
        job.migrate(&request.new_job(true)).unwrap();
        let back: Vec<i32> = (0..MANY).map(|i| [a, b, c][i % 3] as i32).collect();
        assert_eq!(memory.nodes(), back);
        assert_eq!(memory.damaged(), 0);
    });

    tap.test("check: every check, and nothing else", || {
        let target = Target::start(&[&format!("{a}:{PAGES}")], 0);
        let request = Request::new(To::Pid(target.pid())).pair(a, b);
        device.check(&request).unwrap();
        let none = sysfs_nodes("possible").into_iter().max().unwrap() + 1;
        assert!(device.check(&request.clone().pair(b, none)).is_err());
        assert_eq!(target.nodes(0, PAGES), vec![a as i32; PAGES]);
        drop(target);
        assert!(matches!(device.check(&request), Err(Error::NoSuchProcess)));
    });

    tap.test("pidfd: another process", || {
        let mut target = Target::start(&[&format!("{a}:{PAGES}")], 0);
        let pidfd = open_pidfd(target.pid()).unwrap();
        let range = Range {
            start: target.parts[0],
            len: (PAGES * page()) as u64,
        };
        let to = To::Pidfd(pidfd.as_fd());
        let outcome = device.migrate(&Request::new(to).range(range).pair(a, b));
        assert!(outcome.unwrap().is_complete());
        assert_eq!(target.nodes(0, PAGES), vec![b as i32; PAGES]);
        assert_eq!(target.damaged(), 0);
        let placement = device.placement(to, range).unwrap();
        assert_eq!(placement.on(b), PAGES as u64);
    });

    tap.test("exclusive: shared pages stay, and are told", || {
        let path = format!("/dev/shm/page_migrate-{}", std::process::id());
        let part = format!("{a}:{PAGES}:{path}");
        let one = Target::start(&[&part], 0);
        let two = Target::start(&[&part], 0);
        let request = Request::new(To::Pid(one.pid()))
            .range(Range {
                start: one.parts[0],
                len: (PAGES * page()) as u64,
            })
            .pair(a, b);
        let outcome = device.migrate(&request.clone().exclusive(true)).unwrap();
        assert_eq!(two.nodes(0, PAGES), vec![a as i32; PAGES]);
        assert_eq!(outcome.counts.shared, PAGES as u64);
        assert_eq!(outcome.returned, PAGES as u64);
        assert_eq!(outcome.counts.left_behind(), PAGES as u64);
        assert_eq!(outcome.stop, Stop::Returned);
        assert!(!outcome.is_complete());
        // Root may move them, and then they move for both.
        let outcome = device.migrate(&request).unwrap();
        assert!(outcome.is_complete(), "{outcome:?}");
        assert_eq!(two.nodes(0, PAGES), vec![b as i32; PAGES]);
        fs::remove_file(path).unwrap();
    });

    tap.test("gone: pages that are given back while they move", || {
        let target = Target::start(&[&format!("discard:{a}:2048")], 0);
        let begin = Instant::now();
        loop {
            let request = Request::new(To::Pid(target.pid())).pair(a, b);
            let outcome = device.migrate(&request.keep_policy(true).new_job(true));
            let outcome = outcome.unwrap();
            let counts = &outcome.counts;
            assert_eq!(outcome.returned, counts.left_behind(), "{outcome:?}");
            if counts.gone > 0 {
                assert!(counts.total() >= counts.gone + counts.left_behind());
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{outcome:?}");
        }
    });

    tap.test("a full node: an outcome with counts", || {
        let memory = Memory::on(&[a, c], 2048);
        let hog = Hog::new(b, c);
        // Unlike the hog's calls, the module takes free pages from the lists
        // of other CPUs too: use them up.
        let mut fillers = Vec::new();
        loop {
            let filler = Memory::on(&[a], 16384);
            let request = me().range(filler.range()).pair(a, b).strict(true);
            let is_full = device.migrate(&request).unwrap().counts.no_memory > 0;
            fillers.push(filler);
            if is_full {
                break;
            }
            assert!(fillers.len() < 8, "node {b} does not get full");
        }
        // Pages of a to the full node, pages of c to one that has room.
        let request = me()
            .range(memory.range())
            .pair(a, b)
            .pair(c, a)
            .strict(true);
        let outcome = device.migrate(&request).unwrap();
        assert_eq!(outcome.stop, Stop::NoRoom, "{outcome:?}");
        // A few pages may have become free since.
        assert!(outcome.counts.no_memory >= 512, "{outcome:?}");
        assert_eq!(outcome.moved_by_pair[1], 1024);
        let seen = memory.nodes();
        let stayed = (0..2048).step_by(2).filter(|i| seen[*i] == a as i32);
        assert_eq!(stayed.count() as u64, outcome.counts.no_memory);
        let moved = (1..2048).step_by(2).filter(|i| seen[*i] == a as i32);
        assert_eq!(moved.count(), 1024);
        assert_eq!(memory.damaged(), 0);
        assert!(!outcome.is_complete());
        // With room, the same call does the rest.
        drop((hog, fillers));
        let request = me().range(memory.range()).pair(a, b).strict(true);
        device.migrate(&request).unwrap();
        assert!(all_on(&memory, b));
    });

    tap.test("a target that has exited: NoSuchProcess", || {
        let target = Target::start(&[], 0);
        let pid = target.pid();
        drop(target);
        let request = Request::new(To::Pid(pid)).pair(a, b);
        assert!(matches!(
            device.migrate(&request),
            Err(Error::NoSuchProcess)
        ));
        assert!(matches!(
            device.placement(To::Pid(pid), Range::ALL),
            Err(Error::NoSuchProcess)
        ));
        let negative = Request::new(To::Pid(-1)).pair(a, b);
        assert!(matches!(
            device.migrate(&negative),
            Err(Error::NoSuchProcess)
        ));
    });

    tap.test("requests that make no sense: InvalidArgument", || {
        let memory = Memory::on(&[a], PAGES);
        let ok = || me().range(memory.range());
        let max_nodes = device.info().unwrap().max_nodes;
        let unaligned = Range {
            start: memory.start() + 1,
            len: memory.len(),
        };
        for (what, request) in [
            ("no pairs", ok()),
            ("an old node twice", ok().pair(a, b).pair(a, c)),
            ("any twice", ok().pair(Node::Any, b).pair(Node::Any, c)),
            ("any to any", ok().pair(Node::Any, Node::Any)),
            ("a new node too large", ok().pair(a, max_nodes)),
            ("an old node too large", ok().pair(max_nodes, a)),
            ("a node above i32", ok().pair(a, u32::MAX)),
            ("unaligned", me().range(unaligned).pair(a, b)),
            ("too many workers", ok().pair(a, b).workers(u32::MAX)),
        ] {
            let done = device.migrate(&request);
            assert!(
                matches!(done, Err(Error::InvalidArgument)),
                "{what}: {done:?}"
            );
        }
        assert!(all_on(&memory, a));
    });

    // A machine with a node without memory is one of those that we run on.
    if let Some(empty) = sysfs_nodes("online")
        .into_iter()
        .find(|n| !nodes.contains(n))
    {
        tap.test("a new node without memory: NoSuchNode", || {
            let memory = Memory::on(&[a], PAGES);
            let done = device.migrate(&me().range(memory.range()).pair(a, empty));
            assert!(matches!(done, Err(Error::NoSuchNode)), "{done:?}");
            assert!(all_on(&memory, a));
        });
    }

    tap.test("a descriptor that is no pidfd: NotAPidfd", || {
        let null = File::open("/dev/null").unwrap();
        let request = Request::new(To::Pidfd(null.as_fd())).pair(a, b);
        assert!(matches!(device.migrate(&request), Err(Error::NotAPidfd)));
    });

    tap.test("another user's process: NotPermitted", || {
        let mut target = Target::start(&[&format!("{a}:{PAGES}")], 0);
        let output = Command::new(public_copy(&own_program()))
            .arg("--intrude")
            .args([target.pid().to_string(), a.to_string(), b.to_string()])
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.trim(), "Err(NotPermitted) Err(NotPermitted)");
        assert_eq!(target.nodes(0, PAGES), vec![a as i32; PAGES]);
        assert_eq!(target.damaged(), 0);
    });

    tap.test("the device is for everybody", || {
        let mode = fs::metadata(page_migrate::DEVICE_PATH).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
        assert_eq!(mode & 0o777, 0o666);
        assert!(Path::new("/sys/module/page_migrate").exists());
    });

    clean_up();
    tap.finish();
}
