// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate move` with jobs of many processes, end to end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use page_migrate_tests::cli::{done, Cgroup, Cli, Done};
use page_migrate_tests::{
    be_target_if_asked, clean_up, damaged_in, memory_nodes, nodes_of, own_program, signal, Tap,
    Target, Zombie, NOBODY,
};
use serde_json::Value;

const PAGES: usize = 256;

/// Enough for something to happen while they move.
const MANY: usize = 5 * 4096;

const SOON: Duration = Duration::from_secs(60);

/// The first part of a line of a file of /proc that begins so.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.to_owned())
}

fn migrated_so_far() -> u64 {
    let n = field("/proc/vmstat", "pgmigrate_success ").unwrap();
    n.parse().unwrap()
}

/// The CPUs that a thread may run on.
fn cpus_of(pid: i32, tid: u64) -> String {
    let path = format!("/proc/{pid}/task/{tid}/status");
    field(&path, "Cpus_allowed_list:").unwrap()
}

fn cpus_of_node(node: u32) -> String {
    let path = format!("/sys/devices/system/node/node{node}/cpulist");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// The CPU that a process's first thread ran on last, once it sleeps.
fn last_cpu(pid: i32) -> String {
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let fields: Vec<_> = rest.split_whitespace().collect();
        if fields[0] == "S" {
            return fields[36].to_owned();
        }
        sleep(Duration::from_millis(10));
    }
}

/// The memory policy of the mapping that begins at an address.
fn policy_of(pid: i32, start: u64) -> String {
    field(&format!("/proc/{pid}/numa_maps"), &format!("{start:x} ")).unwrap()
}

/// Anonymous pages of a process on a node.
fn anon_on(pid: i32, node: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    let name = format!("N{node}=");
    maps.lines()
        .filter(|line| line.contains(" anon="))
        .flat_map(|line| line.split(' '))
        .filter_map(|word| word.strip_prefix(name.as_str())?.parse::<u64>().ok())
        .sum()
}

/// Counts the calls of the module, by its tracepoint.
struct Trace;

impl Trace {
    const ROOT: &str = "/sys/kernel/tracing";
    const ENABLE: &str = "/sys/kernel/tracing/events/page_migrate/page_migrate_call/enable";

    fn start() -> Self {
        if !Path::new(Self::ROOT).join("trace").exists() {
            done(Command::new("mount").args(["-t", "tracefs", "none", Self::ROOT])).expect(0);
        }
        fs::write(format!("{}/trace", Self::ROOT), "").unwrap();
        fs::write(Self::ENABLE, "1").unwrap();
        Trace
    }

    /// Since the start, about one process.
    fn calls(&self, pid: i32) -> usize {
        let trace = fs::read_to_string(format!("{}/trace", Self::ROOT)).unwrap();
        let word = format!("pid={pid} ");
        trace
            .lines()
            .filter(|l| l.contains("page_migrate_call:") && l.contains(&word))
            .count()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        fs::write(Self::ENABLE, "0").unwrap();
    }
}

/// The command at work.
struct Running(Child);

impl Running {
    fn start(cli: &Cli, line: &str) -> Self {
        let mut command = cli.command(&line.split(' ').collect::<Vec<_>>());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    /// Waits until the first page of a target's first part is on a node.
    fn moves(self, target: &Target, node: u32) -> Self {
        let begin = Instant::now();
        while nodes_of(target.pid(), target.parts[0], 1) != [node as i32] {
            assert!(begin.elapsed() < SOON, "nothing moves");
        }
        // The rest has not followed yet, or the test would say nothing.
        let last = target.parts[0] + ((MANY - 1) * page_migrate_tests::page()) as u64;
        assert_ne!(nodes_of(target.pid(), last, 1), [node as i32]);
        self
    }

    fn end(self) -> Done {
        Done::from(self.0.wait_with_output().unwrap())
    }
}

/// A shell that makes eight processes at a time, for ever.
struct Storm(Child);

impl Storm {
    const LOOP: &str = "while :; do for i in 1 2 3 4 5 6 7 8; do /bin/true & done; wait; done";

    fn start(node: u32) -> Self {
        let mut command = Command::new("numactl");
        command.args(["-m", &node.to_string(), "bash", "-c", Self::LOOP]);
        Storm(command.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has 8 MiB of memory, and a child that does not get to its execve(2).
const VFORK: &str = "
import os, sys
memory = bytearray(8 << 20)
for i in range(0, len(memory), 4096):
    memory[i] = 1
fifo = (os.POSIX_SPAWN_OPEN, 5, sys.argv[1], os.O_RDONLY, 0)
os.posix_spawn('/bin/true', ['true'], {}, file_actions=[fifo])
";

/// What JSON says of a process.
#[track_caller]
fn of(json: &Value, pid: i32) -> &Value {
    let all = json["processes"].as_array().unwrap();
    let mut found = all.iter().filter(|p| p["pid"] == pid);
    let one = found.next().unwrap_or_else(|| panic!("no {pid}: {json}"));
    assert!(found.next().is_none(), "{pid} twice: {json}");
    one
}

#[track_caller]
fn number(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name}: {value}"))
}

/// The totals must be the sums of what the processes have.
#[track_caller]
fn adds_up(json: &Value) {
    for name in [
        "moved",
        "moved_fallback",
        "already_moved",
        "in_place",
        "exempt",
        "left_behind",
        "gone",
        "policies",
    ] {
        let all = json["processes"].as_array().unwrap();
        let sum: u64 = all.iter().map(|p| number(p, name)).sum();
        assert_eq!(number(json, name), sum, "{name}: {json}");
    }
}

fn main() {
    be_target_if_asked();
    let mut tap = Tap::new();
    let nodes = memory_nodes();
    let (a, b, c) = (nodes[0], nodes[1], nodes[2]);
    let (cli, nobody) = (Cli::root(), Cli::nobody());
    let on = |node: u32| vec![node as i32; PAGES];
    let part = format!("{a}:{PAGES}");
    let many = format!("{a}:{MANY}");
    let start = |parts: &[&str]| Target::start(parts, 0);
    let shared_file = format!("/dev/shm/page_migrate-job-{}", std::process::id());

    tap.test(
        "several processes are one job: each page moves once",
        || {
            let shared = 8192;
            let file = format!("{a},{c},{b},{b},{a}:{shared}:{shared_file}");
            let mut one = start(&[&file, &format!("{a},{b},{c}:1024")]);
            let mut two = start(&[&file, &format!("{c}:{PAGES}")]);
            let mut three = start(&[&file]);
            // A page that moves twice, or three times, is where none should be.
            let map = BTreeMap::from([(a, b), (b, c), (c, a)].map(|(x, y)| (x as i32, y as i32)));
            let then = |before: Vec<i32>| -> Vec<i32> { before.iter().map(|n| map[n]).collect() };
            let expected = then(one.nodes(0, shared));
            let private = then(one.nodes(1, 1024));
            let moved_before = migrated_so_far();
            let line = format!(
                "move {},{} {} {a}:{b} {b}:{c} {c}:{a} --json",
                one.pid(),
                two.pid(),
                three.pid()
            );
            let json = cli.run(&line).expect(0).json();
            let moves = migrated_so_far() - moved_before;
            for target in [&one, &two, &three] {
                assert_eq!(target.nodes(0, shared), expected);
            }
            assert_eq!(one.nodes(1, 1024), private);
            assert_eq!(two.nodes(1, PAGES), on(a));
            let moved = number(&json, "moved");
            assert!(moved >= (shared + 1024 + PAGES) as u64, "{json}");
            // Folios that are mapped in part move whole.
            assert!(
                (moved..moved + shared as u64 / 2).contains(&moves),
                "{moves}: {json}"
            );
            adds_up(&json);
            assert!(
                number(of(&json, one.pid()), "moved") >= (shared + 1024) as u64,
                "{json}"
            );
            for target in [&two, &three] {
                let part = of(&json, target.pid());
                assert!(number(part, "moved") < shared as u64 / 2, "{json}");
                assert!(number(part, "already_moved") >= shared as u64, "{json}");
            }
            for target in [&mut one, &mut two, &mut three] {
                assert_eq!(target.damaged(), 0);
            }
            fs::remove_file(&shared_file).unwrap();
        },
    );

    tap.test("--children: those of children, too", || {
        let mut root = start(&[&part, "fork", &part, "fork", &part]);
        let (child, grandchild) = (root.parts[1] as i32, root.parts[3] as i32);
        let own = [(root.pid(), 0), (child, 2), (grandchild, 4)];
        let is = |expected: [u32; 3]| {
            for ((pid, part), node) in own.into_iter().zip(expected) {
                assert_eq!(nodes_of(pid, root.parts[part], PAGES), on(node), "{pid}");
                assert_eq!(damaged_in(pid, root.parts[part], PAGES), 0);
            }
            // What they have from their parent has moved with it.
            assert_eq!(nodes_of(grandchild, root.parts[0], PAGES), on(expected[0]));
            assert_eq!(damaged_in(grandchild, root.parts[0], PAGES), 0);
        };
        let line = |map: &str| format!("move {} {map} --json", root.pid());
        cli.run(&line(&format!("{a}:{b}"))).expect(0);
        is([b, a, a]);
        let json = cli
            .run(&format!("{} --children", line(&format!("{a}:{c} {b}:{c}"))))
            .expect(0)
            .json();
        is([c, c, c]);
        assert_eq!(json["processes"].as_array().unwrap().len(), 3, "{json}");
        for (pid, _) in own {
            assert!(number(of(&json, pid), "moved") >= PAGES as u64, "{json}");
        }
        adds_up(&json);
        assert_eq!(root.damaged(), 0);
    });

    tap.test("--cgroup: all below it, and who joins meanwhile", || {
        let group = Cgroup::new("");
        let below = group.below("one");
        let deep = below.below("two");
        let mut first = start(&[&many]);
        let (nested, outside) = (start(&[&part]), start(&[&part]));
        let mut late = start(&[&part]);
        group.enter(first.pid());
        deep.enter(nested.pid());
        let line = format!("move --cgroup {} {a}:{b} --json", group.path().display());
        let running = Running::start(&cli, &line).moves(&first, b);
        below.enter(late.pid());
        let json = running.end().expect(0).json();
        assert_eq!(first.nodes(0, MANY), vec![b as i32; MANY]);
        assert_eq!(nested.nodes(0, PAGES), on(b));
        assert_eq!(late.nodes(0, PAGES), on(b));
        assert_eq!(outside.nodes(0, PAGES), on(a));
        for target in [&first, &nested, &late] {
            assert!(number(of(&json, target.pid()), "moved") >= PAGES as u64);
        }
        assert_eq!(json["processes"].as_array().unwrap().len(), 3, "{json}");
        adds_up(&json);
        // As /proc/PID/cgroup names it; and a group below alone.
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", nested.pid())).unwrap();
        let name = groups.trim().strip_prefix("0::").unwrap().to_owned();
        assert!(name.ends_with("/one/two"), "{name}");
        cli.run(&format!("move --cgroup {name} {b}:{a}")).expect(0);
        assert_eq!(nested.nodes(0, PAGES), on(a));
        assert_eq!(late.nodes(0, PAGES), on(b));
        cli.run(&format!("move --cgroup {name}/none {b}:{a}"))
            .expect(1)
            .says("no control group");
        assert_eq!(first.damaged(), 0);
        assert_eq!(late.damaged(), 0);
        // The groups go after their processes.
        drop((first, nested, late));
        cli.run(&format!("move --cgroup {name} {b}:{a}"))
            .expect(1)
            .says("no process");
        drop((deep, below, group));
    });

    tap.test("--cgroup: from inside of it", || {
        let group = Cgroup::new("");
        let target = start(&[&part]);
        group.enter(target.pid());
        let folder = group.path().display();
        let line = format!(
            "echo $$ >{folder}/cgroup.procs && exec {} move --cgroup {folder} {a}:{b} --json",
            cli.program.display()
        );
        let json = done(Command::new("sh").args(["-c", &line]))
            .expect(0)
            .json();
        assert_eq!(json["processes"].as_array().unwrap().len(), 1, "{json}");
        assert_eq!(target.nodes(0, PAGES), on(b));
        drop(target);
    });

    tap.test(
        "--passes: until nothing is left, or as often as told",
        || {
            let trace = Trace::start();
            let busy = start(&[&part, &format!("busy:{a}")]);
            let pid = busy.pid();
            // Its policy stays, and the old node is filled again and again. Where
            // its thread did not get a CPU between two passes, nothing was left.
            for passes in [5, 1] {
                let begin = Instant::now();
                loop {
                    let before = trace.calls(pid);
                    let line = format!("move {pid} {a}:{b} --keep-policy --passes {passes} --json");
                    let made = number(&cli.run(&line).json(), "passes") as usize;
                    // One call that checks, and those that move.
                    assert_eq!(trace.calls(pid) - before, 1 + made);
                    assert!((1..=passes).contains(&made), "{made} of {passes}");
                    if made == passes {
                        break;
                    }
                    assert!(begin.elapsed() < SOON, "never more than {made} passes");
                }
                let begin = Instant::now();
                while anon_on(pid, a) == 0 {
                    assert!(begin.elapsed() < SOON, "nothing comes back");
                    sleep(Duration::from_millis(1));
                }
            }
            // With its policy, nothing comes back.
            cli.run(&format!("move {pid} {a}:{b}")).expect(0);
            assert_eq!(anon_on(pid, a), 0);
            sleep(Duration::from_millis(200));
            assert_eq!(anon_on(pid, a), 0);
            assert!(anon_on(pid, b) >= 1024);
            // One that is idle: the second pass finds nothing.
            let idle = start(&[&part]);
            let json = cli.run(&format!("move {} {a}:{b} --json", idle.pid()));
            let json = json.expect(0).json();
            assert_eq!(json["passes"], 2, "{json}");
            assert_eq!(trace.calls(idle.pid()), 1 + 2);
            // What moved in the first pass counts once.
            let seen = idle.nodes(0, PAGES);
            assert_eq!(seen, on(b));
            assert!(number(&json, "already_moved") < PAGES as u64, "{json}");
            let json = cli.run(&format!("move {} {b}:{a} {a}:{b} --json", idle.pid()));
            assert_eq!(json.expect(0).json()["passes"], 1);
            assert_eq!(idle.nodes(0, PAGES), on(a));
            let line = format!("move {} {a}:{b} --dry-run --json", idle.pid());
            assert_eq!(cli.run(&line).expect(0).json()["passes"], 1);
        },
    );

    tap.test("policies: moved along, or left with --keep-policy", || {
        let target = start(&[&format!("bind:{a}:{PAGES}")]);
        let (pid, addr) = (target.pid(), target.parts[0]);
        let policy = || policy_of(pid, addr);
        assert_eq!(policy(), format!("bind:{a}"));
        let line = |options: &str| format!("move {pid} {a}:{b} --json{options}");
        let json = cli.run(&line(" --dry-run")).expect(0).json();
        assert_eq!(json["policies"], 1, "{json}");
        assert_eq!(policy(), format!("bind:{a}"));
        let json = cli.run(&line(" --keep-policy")).expect(0).json();
        assert_eq!(json["policies"], 0, "{json}");
        assert_eq!(target.nodes(0, PAGES), on(b));
        assert_eq!(policy(), format!("bind:{a}"));
        let json = cli.run(&line("")).expect(0).json();
        assert_eq!(json["policies"], 1, "{json}");
        assert_eq!(policy(), format!("bind:{b}"));
        let text = cli.run(&format!("move {pid} {b}:{c}")).expect(0);
        assert!(text.out.contains("1 memory policy changed"), "{}", text.out);
        assert_eq!(policy(), format!("bind:{c}"));
    });

    let (cpus_a, cpus_b) = (cpus_of_node(a), cpus_of_node(b));
    assert!(
        !cpus_a.is_empty() && !cpus_b.is_empty(),
        "nodes without CPUs"
    );

    tap.test("--threads: those bound to CPUs of old nodes", || {
        let both = format!("{cpus_a},{cpus_b}");
        let target = start(&[
            &part,
            &format!("cpus:{cpus_a}"),
            &format!("cpus:{cpus_b}"),
            &format!("cpus:{both}"),
        ]);
        let pid = target.pid();
        let all = || [1, 2, 3].map(|i| cpus_of(pid, target.parts[i]));
        let before = all();
        assert_eq!(before[0], cpus_a);
        let line = |map: &str, options: &str| format!("move {pid} {map} --threads{options}");
        let map = format!("{a}:{b}");

        let text = cli.run(&line(&map, " --dry-run")).expect(0).out;
        let would = format!("1 thread of process {pid}: CPUs {cpus_a} would become {cpus_b}");
        assert!(text.contains(&would), "{text}");
        assert_eq!(all(), before);
        assert_eq!(target.nodes(0, PAGES), on(a));

        let json = cli.run(&line(&map, " --json")).expect(0).json();
        let changes = json["threads"]["changes"].as_array().unwrap();
        let mine = |tid: u64| changes.iter().find(|change| change["tid"] == tid);
        let change = mine(target.parts[1]).unwrap();
        assert_eq!(change["pid"], pid);
        assert_eq!(change["from"], cpus_a);
        assert_eq!(change["to"], cpus_b);
        assert_eq!(change["error"], Value::Null);
        assert!(mine(target.parts[2]).is_none(), "{json}");
        assert!(mine(target.parts[3]).is_none(), "{json}");
        let unchanged = number(&json["threads"], "unchanged");
        assert_eq!(changes.len() as u64 + unchanged, 4, "{json}");
        assert_eq!(all(), [&cpus_b, &before[1], &before[2]].map(Clone::clone));
        assert_eq!(target.nodes(0, PAGES), on(b));

        // A rotation of CPUs, each by where its thread was.
        let text = cli
            .run(&line(&format!("{a}:{b} {b}:{a}"), ""))
            .expect(0)
            .out;
        let became = format!("CPUs {cpus_b} became {cpus_a}");
        assert!(text.contains(&became), "{text}");
        assert_eq!(all()[..2], [cpus_a.clone(), cpus_a.clone()]);
        // Without the option, nothing.
        cli.run(&format!("move {pid} {a}:{b}")).expect(0);
        assert_eq!(all()[..2], [cpus_a.clone(), cpus_a.clone()]);
    });

    tap.test("--threads: without a choice, by where it runs", || {
        let online = fs::read_to_string("/sys/devices/system/node/has_cpu").unwrap();
        let with_cpu = page_migrate::Machine::new(&[], &[])
            .parse_nodes(online.trim())
            .unwrap();
        let target = start(&[&part]);
        let pid = target.pid();
        let mine = || cpus_of(pid, pid as u64);
        let default = mine();
        // It sleeps: the CPU stays the one of its last run.
        let cpu = last_cpu(pid);
        let here = with_cpu.iter().copied().find(|n| cpus_of_node(*n) == cpu);
        let here = here.unwrap_or_else(|| panic!("one CPU for each node: {cpu}"));
        let there = if here == b { a } else { b };
        let line = |map: &str| format!("move {pid} {map} --threads");
        let text = cli.run(&line(&format!("{there}:{c}"))).expect(0).out;
        assert!(text.contains("1 thread: CPUs stay"), "{text}");
        assert_eq!(mine(), default);
        cli.run(&format!("{} --dry-run", line(&format!("{here}:{there}"))))
            .expect(0);
        assert_eq!(mine(), default);
        let text = cli.run(&line(&format!("{here}:{there}"))).expect(0).out;
        assert_eq!(mine(), cpus_of_node(there));
        assert!(text.contains(&format!("CPUs {default} became")), "{text}");
    });

    tap.test("--cpuset: lists of a group and of those below it", || {
        let group = Cgroup::new(&a.to_string());
        group.set("cpuset.cpus", &cpus_a);
        group.set("cgroup.subtree_control", "+cpuset");
        let inner = group.below("inner");
        inner.set("cpuset.cpus", &cpus_a);
        // One that has no choice of its own, one that is bound to its CPU, and a policy.
        let mut targets = [
            start(&[&part]),
            start(&[&part, &format!("cpus:{cpus_a}")]),
            start(&[&format!("bind:{a}:{PAGES}")]),
        ];
        for target in &targets {
            inner.enter(target.pid());
        }
        let list = |group: &Cgroup, file: &str| {
            let text = fs::read_to_string(group.path().join(file)).unwrap();
            text.trim().to_owned()
        };
        let lists = || {
            [
                list(&group, "cpuset.cpus"),
                list(&group, "cpuset.mems"),
                list(&inner, "cpuset.cpus"),
                list(&inner, "cpuset.mems"),
            ]
        };
        let all_on =
            |targets: &[Target], node: u32| targets.iter().all(|t| t.nodes(0, PAGES) == on(node));
        let before = lists();
        let line = format!("move --cgroup {} {a}:{b} --cpuset", group.path().display());

        // Nothing begins: all is as it was.
        let told = cli.run(&format!("{line} --pid {}", i32::MAX)).expect(1);
        assert!(told.err.contains("no process"), "{}", told.err);
        assert_eq!(lists(), before);
        assert!(all_on(&targets, a));

        let json = cli.run(&format!("{line} --json")).expect(0).json();
        let changes = json["cpusets"]["changes"].as_array().unwrap();
        assert_eq!(changes.len(), 3, "{json}");
        assert_eq!(json["cpusets"]["undone"], false, "{json}");
        let (node, none) = (b.to_string(), String::new());
        assert_eq!(lists(), [&cpus_b, &node, &cpus_b, &none].map(Clone::clone));
        assert!(all_on(&targets, b));
        for target in &mut targets {
            assert_eq!(cpus_of(target.pid(), target.pid() as u64), cpus_b);
            assert_eq!(target.damaged(), 0);
        }
        let bound = &targets[1];
        assert_eq!(cpus_of(bound.pid(), bound.parts[1]), cpus_b);
        let policy = policy_of(targets[2].pid(), targets[2].parts[0]);
        assert_eq!(policy, format!("bind:{b}"));

        let text = cli.run(&line.replace(&format!("{a}:{b}"), &format!("{b}:{a}")));
        let text = text.expect(0).out;
        let told = format!("2 control groups: CPUs {cpus_b} became {cpus_a}");
        assert!(text.contains(&told), "{text}");
        assert_eq!(lists(), before);
        assert!(all_on(&targets, a));
        drop(targets);
        while list(&group, "cgroup.events").contains("populated 1") {
            sleep(Duration::from_millis(1));
        }
        drop(inner);
    });

    tap.test("--threads: CPUs that cannot be had", || {
        let group = Cgroup::new("");
        group.set("cpuset.cpus", &cpus_a);
        let target = start(&[&part]);
        group.enter(target.pid());
        let line = format!("move {} {a}:{b} --threads", target.pid());
        let told = cli.run(&line).expect(3);
        let lines: Vec<&str> = told.err.lines().collect();
        assert_eq!(lines.len(), 1, "{}", told.err);
        assert!(
            lines[0].contains("the cpuset has none of these CPUs (--cpuset"),
            "{}",
            told.err
        );
        assert!(!told.out.contains("CPUs"), "{}", told.out);
        assert_eq!(cpus_of(target.pid(), target.pid() as u64), cpus_a);
        // The pages have moved all the same.
        assert_eq!(target.nodes(0, PAGES), on(b));
        drop(target);
    });

    tap.test("--json: the same as the table", || {
        let file = format!("{a}:{PAGES}:{shared_file}");
        let one = start(&[&file, &part]);
        let two = start(&[&file, &format!("bind:{a}:64"), &format!("{c}:32")]);
        let pids = [one.pid(), two.pid()];
        let line = format!("move {},{} {a}:{b} {b}:{a} --dry-run", pids[0], pids[1]);
        let text = cli.run(&line).expect(0).out;
        let json = cli.run(&format!("{line} --json")).expect(0).json();
        adds_up(&json);
        assert!(number(&json, "in_place") >= 32, "{json}");
        // Blanks stand between columns, and one may be in a name.
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|l| {
                l.split("  ")
                    .map(str::trim)
                    .filter(|w| !w.is_empty())
                    .collect()
            })
            .collect();
        let starts = |word: &str| rows.iter().find(|r| r.first() == Some(&word)).unwrap();
        let header = starts("process");
        let names = BTreeMap::from([
            ("moved", "moved"),
            ("in place", "in_place"),
            ("policies", "policies"),
            ("left", "left_behind"),
        ]);
        for (pid, name) in [
            (Some(pids[0]), Some("test_job")),
            (Some(pids[1]), Some("test_job")),
            (None, None),
        ] {
            let (row, value) = match pid {
                Some(pid) => (starts(&pid.to_string()), of(&json, pid)),
                None => (starts("all"), &json),
            };
            let row = match name {
                Some(name) => {
                    assert_eq!(row[1], name);
                    &row[2..]
                }
                None => &row[1..],
            };
            let columns = &header[2..];
            assert_eq!(row.len(), columns.len(), "{text}");
            assert!(columns.len() == names.len(), "{text}");
            for (column, cell) in columns.iter().zip(row) {
                let name = names[column];
                assert_eq!(number(value, name).to_string(), *cell, "{column}: {text}");
            }
        }
        let sum = format!("2 processes: would move {} pages", number(&json, "moved"));
        assert!(text.contains(&sum), "{text}");
        for pair in json["pairs"].as_array().unwrap() {
            let (old, new) = (number(pair, "old"), number(pair, "new"));
            let moved = number(pair, "moved");
            let told = text.contains(&format!("{old} to {new}: {moved} page"));
            assert_eq!(told, moved > 0, "{pair}: {text}");
        }
        fs::remove_file(&shared_file).unwrap();
    });

    tap.test("a process that exits meanwhile: the others go on", || {
        let mut first = start(&[&many]);
        let gone = start(&[&part]);
        let last = start(&[&part]);
        let pids = [&first, &gone, &last].map(|t| t.pid());
        let line = format!("move {},{},{} {a}:{b} --json", pids[0], pids[1], pids[2]);
        let running = Running::start(&cli, &line).moves(&first, b);
        drop(gone);
        let told = running.end().expect(0);
        let said = format!("process {} has exited", pids[1]);
        assert!(told.err.contains(&said), "{}", told.err);
        let json = told.json();
        assert_eq!(of(&json, pids[1])["stopped_by"], "exited");
        assert_eq!(of(&json, pids[2])["stopped_by"], "end");
        assert_eq!(first.nodes(0, MANY), vec![b as i32; MANY]);
        assert_eq!(last.nodes(0, PAGES), on(b));
        assert_eq!(first.damaged(), 0);
        // In the middle of its own call.
        let first = start(&[&many]);
        let pids = [first.pid(), last.pid()];
        let line = format!("move {},{} {a}:{b} {b}:{c} --json", pids[0], pids[1]);
        let running = Running::start(&cli, &line).moves(&first, b);
        drop(first);
        let json = running.end().expect(0).json();
        assert_eq!(number(&json, "left_behind"), 0, "{json}");
        assert_eq!(of(&json, pids[0])["stopped_by"], "exited", "{json}");
        assert_eq!(last.nodes(0, PAGES), on(c));
        // All of them: that is an error.
        let pid = last.pid();
        drop(last);
        cli.run(&format!("move {pid},{} {a}:{b}", pids[0]))
            .expect(1)
            .says(&format!("no processes {pid}, {}", pids[0]));
    });

    tap.test("what exited processes leave behind is no status 3", || {
        const STUCK: u64 = 64;
        let secret = format!("secret:{a}:{STUCK}");
        for passes in [1, 3] {
            let first = start(&[&secret]);
            let second = start(&[&many]);
            let line = format!(
                "move {},{} {a}:{b} --passes {passes} --json",
                first.pid(),
                second.pid()
            );
            let running = Running::start(&cli, &line).moves(&second, b);
            let pid = first.pid();
            drop(first);
            let json = running.end().expect(0).json();
            assert_eq!(of(&json, pid)["stopped_by"], "exited", "{json}");
            assert!(number(of(&json, pid), "gone") >= STUCK, "{json}");
            assert_eq!(number(of(&json, pid), "left_behind"), 0, "{json}");
            assert_eq!(number(&json, "left_behind"), 0, "{json}");
            adds_up(&json);
            assert_eq!(second.nodes(0, MANY), vec![b as i32; MANY]);
        }
        // Those of a process that lives are left behind.
        let first = start(&[&secret]);
        let second = start(&[&part]);
        let line = format!("move {},{} {a}:{b} --json", first.pid(), second.pid());
        let json = cli.run(&line).expect(3).json();
        assert!(
            number(of(&json, first.pid()), "unmovable") >= STUCK,
            "{json}"
        );
        // In a group one of them is served before the large one, in whatever order they are listed.
        let group = Cgroup::new("");
        let (large, third) = (start(&[&many]), start(&[&secret]));
        for target in [&first, &large, &third] {
            group.enter(target.pid());
        }
        let line = format!("move --cgroup {} {a}:{b} --json", group.path().display());
        let running = Running::start(&cli, &line).moves(&large, b);
        let pids = [first.pid(), third.pid()];
        drop((first, third));
        let json = running.end().expect(0).json();
        assert!(number(&json, "gone") >= STUCK, "{json}");
        for pid in pids {
            assert_eq!(of(&json, pid)["stopped_by"], "exited", "{json}");
        }
        assert_eq!(large.nodes(0, MANY), vec![b as i32; MANY]);
        drop(large);
    });

    tap.test("one that never existed: nothing moves", || {
        let target = start(&[&part]);
        let group = Cgroup::new("");
        group.enter(target.pid());
        let reaped = {
            let mut child = Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        let (pid, folder) = (target.pid(), group.path().display());
        for (words, named) in [
            (
                format!("{pid},{}", i32::MAX),
                format!("no process {}", i32::MAX),
            ),
            (
                format!("{},{pid}", i32::MAX),
                format!("no process {}", i32::MAX),
            ),
            (format!("{pid} {reaped}"), format!("no process {reaped}")),
            (
                format!("--children {pid},{reaped},{}", i32::MAX),
                format!("no processes {reaped}, {}", i32::MAX),
            ),
            (
                format!("--cgroup {folder} {}", i32::MAX),
                format!("no process {}", i32::MAX),
            ),
        ] {
            for option in ["", " --json", " --dry-run"] {
                let told = cli.run(&format!("move {words} {a}:{b}{option}"));
                let told = told.expect(1).says(&named);
                if option == " --json" {
                    let json = told.json();
                    let message = json["error"]["message"].as_str().unwrap();
                    assert!(message.contains(&named), "{json}");
                } else {
                    assert_eq!(told.out, "", "{words}{option}");
                }
            }
        }
        assert_eq!(target.nodes(0, PAGES), on(a));
        drop(target);
    });

    tap.test(
        "one that has exited, but is not reaped: the others go on",
        || {
            let target = start(&[&part]);
            let dead = Zombie::new();
            let line = format!("move {},{} {a}:{b}", dead.pid(), target.pid());
            let told = cli.run(&line).expect(0);
            told.says(&format!("process {} has exited", dead.pid()));
            assert_eq!(target.nodes(0, PAGES), on(b));
        },
    );

    tap.test("processes that come and go", || {
        let group = Cgroup::new("");
        let root = Storm::start(a);
        group.enter(root.pid());
        let selections = [
            format!("--children {}", root.pid()),
            format!("--cgroup {}", group.path().display()),
        ];
        let (mut from, mut to) = (a, b);
        let begin = Instant::now();
        let mut exited = 0;
        for selection in selections.iter().cycle() {
            let line = format!("move {selection} {from}:{to} --json");
            let told = cli.run(&line);
            let json = told.json();
            adds_up(&json);
            let all = json["processes"].as_array().unwrap();
            for process in all.iter().filter(|p| p["stopped_by"] == "exited") {
                assert_eq!(number(process, "left_behind"), 0, "{json}");
                exited += 1;
            }
            // The shell lives, and its memory may be busy while it forks.
            let left = number(&json, "left_behind");
            told.expect(if left > 0 { 3 } else { 0 });
            assert_eq!(of(&json, root.pid())["stopped_by"], "end", "{json}");
            (from, to) = (to, from);
            if exited >= 8 && from == a && begin.elapsed() > Duration::from_secs(5) {
                break;
            }
            assert!(begin.elapsed() < 2 * SOON, "only {exited} have exited");
        }
        drop(root);
        group.kill();
    });

    tap.test("a child of vfork(2), which has its parent's memory", || {
        let fifo = format!("/tmp/page_migrate-fifo-{}", std::process::id());
        done(Command::new("mkfifo").arg(&fifo)).expect(0);
        let mut parent = Command::new("numactl")
            .args(["-m", &a.to_string(), "python3", "-c", VFORK, &fifo])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(parent.id()).unwrap();
        // The child waits in open(2) for somebody to write, and its parent in vfork(2) for the child.
        let begin = Instant::now();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let child: i32 = loop {
            let list = fs::read_to_string(&children).unwrap_or_default();
            if let Ok(child) = list.trim().parse() {
                break child;
            }
            assert!(begin.elapsed() < SOON, "no child");
            sleep(Duration::from_millis(10));
        };
        let memory = |pid: i32| field(&format!("/proc/{pid}/status"), "VmSize:");
        assert_eq!(memory(pid), memory(child));
        let before = anon_on(pid, a);
        assert!(before >= 2048, "{before}");
        let line = format!("move --children {pid} {a}:{b} --json");
        let json = cli.run(&line).expect(0).json();
        assert_eq!(json["processes"].as_array().unwrap().len(), 2, "{json}");
        assert_eq!((anon_on(pid, a), anon_on(child, a)), (0, 0));
        assert!(anon_on(pid, b) >= before);
        // Each page moves once, and is met again in the child.
        assert!(number(of(&json, pid), "moved") >= before, "{json}");
        assert_eq!(number(of(&json, child), "moved"), 0, "{json}");
        assert!(
            number(of(&json, child), "already_moved") >= before,
            "{json}"
        );
        signal(parent.id(), libc::SIGKILL);
        signal(u32::try_from(child).unwrap(), libc::SIGKILL);
        parent.wait().unwrap();
        fs::remove_file(&fifo).unwrap();
    });

    tap.test(
        "pages that a process gives back: told, not left behind",
        || {
            let target = start(&[&format!("discard:{a}:2048")]);
            let line = format!("move {} {a}:{b} --keep-policy --passes 1", target.pid());
            let begin = Instant::now();
            let (mut in_json, mut in_text) = (false, false);
            while !(in_json && in_text) {
                assert!(
                    begin.elapsed() < SOON,
                    "none is gone: JSON {in_json}, text {in_text}"
                );
                let told = cli.run(&format!("{line} --json"));
                let json = told.json();
                adds_up(&json);
                let reasons = ["shared", "busy", "pinned", "unmovable", "no_memory"];
                let left: u64 = reasons.iter().map(|name| number(&json, name)).sum();
                assert_eq!(number(&json, "left_behind"), left, "{json}");
                told.expect(if left > 0 { 3 } else { 0 });
                in_json |= number(&json, "gone") > 0;
                let told = cli.run(&line);
                let left = told.out.contains("left behind");
                let told = told.expect(if left { 3 } else { 0 });
                in_text |= told
                    .out
                    .contains("given back by the process before the move");
            }
        },
    );

    tap.test(
        "one that may not be moved: nothing moves, and who it is",
        || {
            let own = Target::start(&[&part], NOBODY);
            let roots = start(&[&part]);
            let line = format!("move {},{} {a}:{b}", own.pid(), roots.pid());
            nobody
                .run(&line)
                .expect(1)
                .says("not permitted")
                .says(&format!("process {} (test_job)", roots.pid()));
            assert_eq!(own.nodes(0, PAGES), on(a));
            assert_eq!(roots.nodes(0, PAGES), on(a));
            let group = Cgroup::new("");
            group.enter(own.pid());
            group.enter(roots.pid());
            let line = format!("move --cgroup {} {a}:{b}", group.path().display());
            nobody.run(&line).expect(1).says("not permitted");
            assert_eq!(own.nodes(0, PAGES), on(a));
            drop(roots);
            nobody.run(&line).expect_all_but_shared();
            assert_eq!(own.nodes(0, PAGES), on(b));
            drop(own);
        },
    );

    tap.test(
        "one that comes later and may not be moved: an error",
        || {
            let group = Cgroup::new("");
            let mut own = Target::start(&[&many], NOBODY);
            let roots = start(&[&part]);
            group.enter(own.pid());
            let line = format!("move --cgroup {} {a}:{b} --json", group.path().display());
            let running = Running::start(&nobody, &line).moves(&own, b);
            group.enter(roots.pid());
            let told = running.end().expect(1).says("not permitted");
            let json = told.json();
            assert_eq!(of(&json, own.pid())["stopped_by"], "end");
            assert_eq!(of(&json, roots.pid())["stopped_by"], "error");
            assert_eq!(own.nodes(0, MANY), vec![b as i32; MANY]);
            assert_eq!(roots.nodes(0, PAGES), on(a));
            assert_eq!(own.damaged(), 0);
            drop((own, roots));
        },
    );

    tap.test("the command is stopped for a while: it goes on", || {
        let mut target = start(&[&many]);
        let line = format!("move {} {a}:{b} {b}:{a} --json", target.pid());
        let running = Running::start(&cli, &line).moves(&target, b);
        signal(running.0.id(), libc::SIGSTOP);
        sleep(Duration::from_millis(300));
        signal(running.0.id(), libc::SIGCONT);
        let json = running.end().expect(0).json();
        assert_eq!(target.nodes(0, MANY), vec![b as i32; MANY]);
        assert!(number(&json["pairs"][0], "moved") >= MANY as u64, "{json}");
        assert!(number(&json, "moved") < 2 * MANY as u64, "{json}");
        assert_eq!(target.damaged(), 0);
    });

    tap.test("usage: status 2, and a hint", || {
        let pid = own_program(); // no process
        for (line, hint) in [
            ("move 1,2 0:1 --range 0x1000+4K".to_owned(), "--range"),
            ("move --children 0:1".to_owned(), "no process is named"),
            ("move 0:1".to_owned(), "no process"),
            ("move 1 0:1 --passes 0".to_owned(), "passes"),
            (format!("move {} 0:1", pid.display()), "not a process ID"),
        ] {
            let told = cli.run(&line).expect(2).says(hint);
            assert_eq!(told.out, "", "{line}");
        }
    });

    let _ = fs::remove_file(&shared_file);
    clean_up();
    tap.finish();
}
