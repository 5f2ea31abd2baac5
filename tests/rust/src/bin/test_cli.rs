// SPDX-License-Identifier: GPL-2.0

//! The command `pagemigrate`, end to end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use page_migrate::cpus::CpuSet;
use page_migrate_tests::cli::{done, Cgroup, Cli, Done};
use page_migrate_tests::schema;
use page_migrate_tests::stall::StalledDevice;
use page_migrate_tests::{
    be_target_if_asked, clean_up, memory_nodes, nodes_of, own_program, page, signal, sysfs_nodes,
    Tap, Target, Zombie, NOBODY,
};

const PAGES: usize = 256;

/// The module, loaded with other parameters until this is dropped.
struct Reloaded;

impl Reloaded {
    fn new(parameter: &str) -> Self {
        Self::load(&[parameter]);
        Reloaded
    }

    fn load(parameters: &[&str]) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        // This program is build/tools/release/test_cli.
        let build = own_program().ancestors().nth(3).unwrap().to_owned();
        let module = build.join(release.trim()).join("page_migrate.ko");
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("rmmod").arg("page_migrate"));
        run(Command::new("insmod").arg(module).args(parameters));
    }
}

impl Drop for Reloaded {
    fn drop(&mut self) {
        Self::load(&[]);
    }
}

/// A command at work, killed when this is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    fn signal(&self, number: i32) {
        signal(self.0.id(), number);
    }

    /// Whether it is still there after half a second.
    fn stays(&mut self) -> bool {
        sleep(Duration::from_millis(500));
        self.0.try_wait().unwrap().is_none()
    }

    /// Its exit status, which must come soon.
    fn status(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "it does not end");
            sleep(Duration::from_millis(1));
        }
    }

    /// How it ended. What it prints must fit into a pipe.
    fn end(mut self) -> Done {
        let status = self.status().expect("ended by a signal");
        let read = |pipe: &mut dyn std::io::Read| {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        };
        Done {
            status,
            out: read(self.0.stdout.as_mut().unwrap()),
            err: read(self.0.stderr.as_mut().unwrap()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Files that cannot be written: a full one, and one whose reader has gone.
fn unwritable() -> [(&'static str, OwnedFd); 2] {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (writer, _) = UnixStream::pair().unwrap();
    [("full", full.into()), ("no reader", writer.into())]
}

/// The percentages that a bar has shown, in their order.
fn percents(text: &str) -> Vec<u32> {
    let number = |part: &str| {
        let from = part
            .rfind(|c: char| !c.is_ascii_digit())
            .map_or(0, |i| i + 1);
        part[from..].parse().ok()
    };
    // What comes after the last sign is no number of the bar.
    let parts: Vec<&str> = text.split('%').collect();
    parts[..parts.len() - 1]
        .iter()
        .filter_map(|part| number(part))
        .collect()
}

fn main() {
    be_target_if_asked();
    let mut tap = Tap::new();
    let nodes = memory_nodes();
    let (a, b, c) = (nodes[0], nodes[1], nodes[2]);
    let cli = Cli::root();
    let nobody = Cli::nobody();
    let part = format!("{a}:{PAGES}");
    let on = |node: u32| vec![node as i32; PAGES];
    let whole = |t: &Target, i: usize| format!("{:#x}+{}", t.parts[i], PAGES * page());

    tap.test("info: text and JSON agree", || {
        let text = cli.run("info").expect(0);
        let json = cli.run("info --json").expect(0).json();
        let highest = sysfs_nodes("possible").into_iter().max().unwrap();
        assert_eq!(json["max_nodes"], highest + 1);
        for flag in json["flags"].as_array().unwrap() {
            assert!(text.out.contains(flag.as_str().unwrap()), "{}", text.out);
        }
        assert!(text.out.contains("DRY_RUN"));
        assert!(
            text.out
                .contains(&format!("node numbers:      0-{highest}\n")),
            "{}",
            text.out
        );
        let version = json["version"].as_str().unwrap();
        assert!(text.out.contains(&format!("pagemigrate {version}\n")));
        let module = match (
            json["module_version"].as_str(),
            json["module_build_id"].as_str(),
        ) {
            (Some(version), _) => version,
            (None, Some(id)) => &id[..12],
            (None, None) => "does not tell its version",
        };
        assert!(text.out.contains(module), "{}", text.out);
        assert_eq!(json["nodes_with_memory"], serde_json::json!(nodes));
    });

    tap.test("move: the whole of a process", || {
        let parts = [part.clone(), format!("{b}:{PAGES}")];
        let mut target = Target::start(&[&parts[0], &parts[1]], 0);
        let line = format!("move {} {a},{b}:{c},{a}", target.pid());
        // Something may be busy for a moment: the command may be repeated, but
        // then not with a map that would move on what has arrived.
        let first = cli.run(&line);
        assert!(first.status == 0 || first.status == 3, "{}", first.err);
        assert!(first.out.contains("moved"), "{}", first.out);
        assert_eq!(first.status == 3, first.out.contains("left behind"));
        assert_eq!(target.nodes(0, PAGES), on(c));
        assert_eq!(target.nodes(1, PAGES), on(a));
        assert_eq!(target.damaged(), 0);
    });

    tap.test("move: maps as several words, and a swap", || {
        let parts = [part.clone(), format!("{b}:{PAGES}")];
        let mut target = Target::start(&[&parts[0], &parts[1]], 0);
        let line = format!("move {} {a}:{b} {b}:{a}", target.pid());
        let first = cli.run(&line);
        assert!(first.status == 0 || first.status == 3, "{}", first.err);
        assert_eq!(target.nodes(0, PAGES), on(b));
        assert_eq!(target.nodes(1, PAGES), on(a));
        assert_eq!(target.damaged(), 0);
    });

    tap.test("move --range --json: exactly these pages", || {
        let mut target = Target::start(&[&part, &part], 0);
        let range = whole(&target, 1);
        let line = format!("move {} {a}:{b} --range {range} --json", target.pid());
        let json = cli.run(&line).expect(0).json();
        assert_eq!(target.nodes(0, PAGES), on(a));
        assert_eq!(target.nodes(1, PAGES), on(b));
        assert_eq!(json["pid"], target.pid());
        assert_eq!(json["moved"], PAGES);
        assert_eq!(json["pairs"][0]["old"], a);
        assert_eq!(json["pairs"][0]["new"], b);
        assert_eq!(json["pairs"][0]["moved"], PAGES);
        assert_eq!(json["left_behind"], 0);
        assert_eq!(json["stopped_by"], "end");
        assert_eq!(json["dry_run"], false);
        assert_eq!(target.damaged(), 0);
    });

    tap.test("move --dry-run: nothing moves", || {
        let target = Target::start(&[&part], 0);
        let range = whole(&target, 0);
        let line = format!("move {} {a}:{b} --range {range} --dry-run", target.pid());
        let text = cli.run(&line).expect(0);
        assert!(text.out.contains("would move 256 pages"), "{}", text.out);
        let json = cli.run(&format!("{line} --json")).expect(0).json();
        assert_eq!(json["moved"], PAGES);
        assert_eq!(json["dry_run"], true);
        assert_eq!(target.nodes(0, PAGES), on(a));
    });

    tap.test("move: nothing that is silent", || {
        let target = Target::start(&[&part], 0);
        let pid = target.pid();
        // An address that no process has at its end.
        let told = cli.run(&format!("move {pid} {a}:{b} --range 0x10000+64K"));
        let told = told.expect(0);
        assert!(told.out.contains("no page in this range"), "{}", told.out);
        // As a line of /proc/PID/maps begins.
        let start = target.parts[0];
        let range = format!("{start:x}-{:x}", start + (PAGES * page()) as u64);
        let told = cli.run(&format!("move {pid} {a}:any --range {range}"));
        let told = told.expect(0);
        let node = target.nodes(0, 1)[0];
        assert!(node >= 0 && node != a as i32);
        assert!(
            told.out.contains(&format!("node {node} took ")),
            "{}",
            told.out
        );
        let told = cli.run(&format!("move {pid} {node}:{node} --range {range}"));
        let told = told.expect(0).says("moves nothing");
        assert!(
            told.out.contains("256 pages (1.00 MiB): in place"),
            "{}",
            told.out
        );
        // Quiet, but for what went wrong.
        let quiet = cli.run(&format!("move -q {pid} {node}:{a} --range {range}"));
        let quiet = quiet.expect(0);
        assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
        assert_eq!(target.nodes(0, PAGES), on(a));
        let far = i32::MAX;
        cli.run(&format!("move -q {far} {a}:{b}"))
            .expect(1)
            .says("no process");
        let loud = cli.run(&format!("move -v {pid} {a}:{b} --range {range}"));
        let loud = loud.expect(0).out;
        for word in ["before", "after", "1.00 MiB"] {
            assert!(loud.contains(word), "{word}: {loud}");
        }
        assert_eq!(target.nodes(0, PAGES), on(b));
    });

    tap.test("move --dry-run: before and afterwards", || {
        let target = Target::start(&[&part, &format!("{b}:512")], 0);
        let pid = target.pid();
        let line = format!("move {pid} {a}:{c} {b}:{a} --dry-run");
        let text = cli.run(&line).expect_all_but_shared();
        for word in ["node", "before", "would be", "would move"] {
            assert!(text.out.contains(word), "{word}: {}", text.out);
        }
        let json = cli.run(&format!("{line} --json")).json();
        let on_node = |node: u32, when: &str| {
            let all = json["nodes"].as_array().unwrap();
            let found = all.iter().find(|n| n["node"] == node);
            found.map_or(0, |n| n[when].as_u64().unwrap())
        };
        assert!(on_node(a, "before") >= PAGES as u64, "{json}");
        assert!(on_node(b, "before") >= 512, "{json}");
        assert!(on_node(a, "after") >= 512, "{json}");
        assert!(on_node(c, "after") >= PAGES as u64, "{json}");
        assert!(on_node(b, "after") < 512, "{json}");
        assert_eq!(target.nodes(0, PAGES), on(a));
    });

    tap.test("move: without room for all, nothing moves", || {
        // More than the node has.
        let meminfo = fs::read_to_string(format!("/sys/devices/system/node/node{b}/meminfo"));
        let meminfo = meminfo.unwrap();
        let total = meminfo.lines().find(|l| l.contains("MemTotal:")).unwrap();
        let kib: usize = total.split_whitespace().nth(3).unwrap().parse().unwrap();
        // A bit more than half of it on two nodes each.
        let many = kib * 1024 / page() * 55 / 100;
        let target = Target::start(&[&format!("{a}:{many}"), &format!("{c}:{many}")], 0);
        let line = format!("move {} {a},{c}:{b}", target.pid());
        let told = cli.run(&line);
        let told = told.expect(1).says(&format!("node {b} has no room"));
        assert_eq!(told.out, "");
        told.says("--no-room-check");
        let json = cli.run(&format!("{line} --json")).expect(1).json();
        assert_eq!(json["error"]["kind"], "error");
        assert_eq!(target.nodes(0, 1), [a as i32]);
        cli.run(&format!("{line} --dry-run")).says("note: node");
        // What can have room is no matter for the check, nor is a swap.
        let line = format!("move {} {a}:{c} {c}:{a} --dry-run", target.pid());
        let told = cli.run(&line);
        assert!(!told.err.contains("no room"), "{}", told.err);
    });

    tap.test("move --rate: no faster, and all of it", || {
        let many = 2048;
        let mut target = Target::start(&[&format!("{a}:{many}")], 0);
        let range = format!("{:#x}+{}", target.parts[0], many * page());
        let line = format!("move {} {a}:{b} --range {range}", target.pid());
        let begin = Instant::now();
        // 8 MiB at 4 MiB a second.
        let json = cli
            .run(&format!("{line} --rate 4M --json"))
            .expect(0)
            .json();
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1700), "{took:?}");
        assert_eq!(json["moved"], many);
        assert_eq!(json["pairs"][0]["moved"], many);
        assert_eq!(json["already_moved"], 0);
        assert_eq!(json["in_place"], 0);
        assert_eq!(target.nodes(0, many), vec![b as i32; many]);
        // Processes that are smaller than what moves at a time.
        let small: Vec<Target> = (0..3).map(|_| Target::start(&[&part], 0)).collect();
        let pids: Vec<String> = small.iter().map(|t| t.pid().to_string()).collect();
        let begin = Instant::now();
        let line = format!("move {} {a}:{b} --passes 1 --rate 1500K", pids.join(","));
        cli.run(&line).expect(0);
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1700), "{took:?}");
        // A signal ends the pause, too.
        let line = format!("move {} {b}:{a} --range {range} --rate 64K", target.pid());
        let running = Running::start(&mut cli.command(&line.split(' ').collect::<Vec<_>>()));
        let begin = Instant::now();
        while target.nodes(0, 1) != [a as i32] {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing moves");
        }
        running.signal(libc::SIGINT);
        let told = running.end().expect(130).says("interrupted");
        assert!(told.out.contains("moved"), "{}", told.out);
        assert_eq!(target.damaged(), 0);
    });

    tap.test("move --progress=json: lines for programs", || {
        let many = 4096;
        let target = Target::start(&[&format!("{a}:{many}")], 0);
        let range = format!("{:#x}+{}", target.parts[0], many * page());
        let line = format!(
            "move {} {a}:{b} --range {range} --rate 8M --progress=json --json",
            target.pid()
        );
        let told = cli.run(&line).expect(0);
        assert_eq!(told.json()["moved"], many);
        let events: Vec<_> = told.err.lines().map(schema::parse).collect();
        assert!(events.len() >= 3, "{}", told.err);
        let done: Vec<u64> = events.iter().map(|e| e["done"].as_u64().unwrap()).collect();
        assert!(done.is_sorted(), "{done:?}");
        for event in &events {
            assert_eq!(event["total"], many);
        }
    });

    tap.test("move --openmetrics: a file that is there at once", || {
        let target = Target::start(&[&part], 0);
        let file = format!("/tmp/page_migrate-{}.prom", std::process::id());
        let line = format!(
            "move {} {a}:{b} --range {} --openmetrics {file}",
            target.pid(),
            whole(&target, 0)
        );
        cli.run(&line).expect(0);
        let text = fs::read_to_string(&file).unwrap();
        let moved = format!(
            "pagemigrate_last_moved_bytes{{to=\"named\"}} {}\n",
            PAGES * page()
        );
        assert!(text.contains(&moved) && text.ends_with("# EOF\n"), "{text}");
        // The monitoring's own opinion.
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]);
        done(promtool.stdin(fs::File::open(&file).unwrap())).expect(0);
        fs::remove_file(file).unwrap();
        let line = format!("move {} {b}:{a} --openmetrics /nonexistent/x", target.pid());
        cli.run(&line).expect(1).says("cannot write the metrics");
        assert_eq!(target.nodes(0, PAGES), on(a));
    });

    tap.test("migratepages: what numactl's takes", || {
        let link = std::env::temp_dir().join(format!("pm-{}", std::process::id()));
        fs::create_dir(&link).unwrap();
        let name = link.join("migratepages");
        std::os::unix::fs::symlink(&cli.program, &name).unwrap();
        let target = Target::start(&[&part, &format!("{b}:{PAGES}")], 0);
        let run = |words: &[&str]| done(Command::new(&name).args(words));
        let pid = target.pid().to_string();
        let told = run(&[&pid, &format!("{b},{a}"), &format!("{c}")]).expect(0);
        assert_eq!((told.out.as_str(), told.err.as_str()), ("", ""));
        assert_eq!(target.nodes(0, PAGES), on(c));
        assert_eq!(target.nodes(1, PAGES), on(c));
        run(&[&pid, "x", "0"]).expect(2).says("not a node number");
        run(&[&pid]).expect(2).says("usage: migratepages");
        assert!(run(&["--help"]).expect(0).out.contains("FROM-NODES"));
        fs::remove_dir_all(link).unwrap();
    });

    tap.test("show: several processes, names, groups, mappings", || {
        let group = Cgroup::new("");
        let one = Target::start(&[&part], 0);
        let two = Target::start(&[&format!("{b}:512")], 0);
        for target in [&one, &two] {
            group.enter(target.pid());
        }
        let both = format!("show {},{}", one.pid(), two.pid());
        let text = cli.run(&both).expect(0).out;
        for word in ["process", "test_cli", "all", &one.pid().to_string()] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let in_group = format!("show --cgroup {}", group.path().display());
        for line in [both, in_group] {
            let json = cli.run(&format!("{line} --json")).expect(0).json();
            let all = json["processes"].as_array().unwrap();
            assert_eq!(all.len(), 2, "{json}");
            let sum: u64 = all.iter().map(|p| p["total"].as_u64().unwrap()).sum();
            assert_eq!(json["total"], sum);
        }
        let json = cli.run("show test_cli --json").expect(0).json();
        let names = json["processes"].as_array().unwrap().iter();
        assert!(
            names.filter(|p| p["name"] == "test_cli").count() >= 2,
            "{json}"
        );
        cli.run("show no-such-name").expect(1).says("no-such-name");
        cli.run("show").expect(2).says("no process is named");
        let line = format!("show {} --maps", one.pid());
        let text = cli.run(&line).expect(0).out;
        assert!(text.contains(&format!("{:x}", one.parts[0])), "{text}");
        let json = cli.run(&format!("{line} --json")).expect(0).json();
        let maps = json["processes"][0]["maps"].as_array().unwrap().clone();
        let part = maps.iter().find(|m| m["start"] == one.parts[0]).unwrap();
        assert_eq!(part["total"], PAGES * page());
        // Until it has exited.
        let line = format!("show {} --watch=0.2 --json", one.pid());
        let mut running = Running::start(&mut cli.command(&line.split(' ').collect::<Vec<_>>()));
        let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let line = lines.next().unwrap().unwrap();
            assert_eq!(schema::parse(&line)["pid"], one.pid());
        }
        drop(one);
        assert_eq!(running.status(), Some(0));
        drop((two, group));
    });

    tap.test("move: wildcards", || {
        let target = Target::start(&[&format!("{a},{b}:{PAGES}")], 0);
        let range = whole(&target, 0);
        let line = |map: &str| format!("move {} {map} --range {range}", target.pid());
        cli.run(&line(&format!("all:{c}"))).expect(0);
        assert_eq!(target.nodes(0, PAGES), on(c));
        cli.run(&line(&format!("{c}:any"))).expect(0);
        for node in target.nodes(0, PAGES) {
            assert!(node >= 0 && node != c as i32, "{node}");
        }
        cli.run(&line(&format!("!{a}:{a}"))).expect(0);
        assert_eq!(target.nodes(0, PAGES), on(a));
    });

    tap.test("move --exclusive: status 3, and why", || {
        let file = format!("/dev/shm/page_migrate-cli-{}", std::process::id());
        let part = format!("{a}:{PAGES}:{file}");
        let one = Target::start(&[&part], 0);
        let two = Target::start(&[&part], 0);
        let range = whole(&one, 0);
        let line = format!("move {} {a}:{b} --range {range} --exclusive", one.pid());
        let text = cli.run(&line).expect(3);
        assert!(text.out.contains("left behind: 256 pages"), "{}", text.out);
        assert!(text.out.contains("CAP_SYS_NICE"), "{}", text.out);
        assert!(!text.out.contains("pinned"), "{}", text.out);
        let json = cli.run(&format!("{line} --json")).expect(3).json();
        assert_eq!(json["shared"], PAGES);
        assert_eq!(json["left_behind"], PAGES);
        assert_eq!(two.nodes(0, PAGES), on(a));
        fs::remove_file(file).unwrap();
    });

    tap.test("move: a progress bar on a terminal, none in a pipe", || {
        let many = 14 * 4096;
        let mut target = Target::start(&[&format!("{a}:{many}")], 0);
        let line = |map: &str| {
            let program = cli.program.display();
            format!(
                "{program} move {} {map} --range {:#x}+{}",
                target.pid(),
                target.parts[0],
                many * page()
            )
        };
        // script(1) gives it a terminal.
        let on_terminal = |map: &str| {
            done(
                Command::new("script")
                    .args(["-q", "-e", "-c", &line(map), "/dev/null"])
                    .env("TERM", "xterm"),
            )
        };
        // The bar is looked at ten times a second: on a fast machine one move
        // may be over before it has shown two numbers on the way.
        let (mut from, mut to) = (a, b);
        let mut most = 0;
        for _ in 0..6 {
            let shown = on_terminal(&format!("{from}:{to}")).expect(0);
            assert!(
                shown.out.contains(&format!("moved {many} pages")),
                "{}",
                shown.out
            );
            assert_eq!(target.nodes(0, many), vec![to as i32; many]);
            (from, to) = (to, from);
            let percents = percents(&shown.out);
            assert!(!percents.is_empty(), "{}", shown.out);
            assert!(percents.is_sorted(), "{percents:?}");
            let mut on_the_way = percents;
            on_the_way.retain(|p| (1..100).contains(p));
            on_the_way.dedup();
            most = most.max(on_the_way.len());
            if most >= 2 {
                break;
            }
        }
        assert!(most >= 2, "the bar never showed two numbers on the way");
        // It goes on from where they are now.
        let (a, b) = (to, from);
        // A map that must be done in one call.
        let shown = on_terminal(&format!("'{b}:{a} {a}:{b}'")).expect(0);
        assert!(
            shown.out.contains(&format!("moved {many} pages")),
            "{}",
            shown.out
        );
        assert_eq!(target.nodes(0, many), vec![a as i32; many]);
        let piped = done(Command::new("sh").args(["-c", &line(&format!("{a}:{b}"))])).expect(0);
        assert_eq!(piped.err, "");
        assert!(!piped.out.contains('%'), "{}", piped.out);
        assert_eq!(target.nodes(0, many), vec![b as i32; many]);
        assert_eq!(target.damaged(), 0);
    });

    tap.test("move: Ctrl-C ends it, the same command goes on", || {
        let many = 12 * 4096;
        let mut target = Target::start(&[&format!("{a}:{many}")], 0);
        let range = format!("{:#x}+{}", target.parts[0], many * page());
        let line = format!("move {} {a}:{b} --range {range} --json", target.pid());
        let child = cli
            .command(&line.split(' ').collect::<Vec<_>>())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It is at work as soon as the first page has moved.
        let begin = Instant::now();
        while nodes_of(target.pid(), target.parts[0], 1) != [b as i32] {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing moves");
        }
        signal(child.id(), libc::SIGINT);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        // The whole command, as it can be pasted.
        let next = format!("  {} {line}\n", cli.program.display());
        assert!(said.ends_with(&next), "{said}");
        let json = schema::parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(json["exit_status"], 130);
        assert_eq!(json["stopped_by"], "interrupted");
        let moved = json["moved"].as_u64().unwrap();
        let seen = target.nodes(0, many);
        let there = seen.iter().filter(|n| **n == b as i32).count();
        assert_eq!(there as u64, moved);
        assert!(there > 0 && there < many, "{there}");
        let resume_va = json["resume_va"].as_u64().unwrap();
        assert!(resume_va > target.parts[0]);
        assert!(resume_va < target.parts[0] + (many * page()) as u64);
        assert_eq!(target.damaged(), 0);
        let rest = cli.run(&line).expect(0).json();
        assert_eq!(rest["moved"], many - there);
        assert_eq!(target.nodes(0, many), vec![b as i32; many]);
    });

    tap.test("signals: the first one ends the call", || {
        for number in [libc::SIGINT, libc::SIGTERM] {
            let target = Target::start(&[&part], 0);
            let pid = target.pid().to_string();
            let device = StalledDevice::new();
            let mut command = cli.command(&["move", &pid, &format!("{a}:{b}")]);
            device.replace_for(&mut command);
            let mut running = Running::start(&mut command);
            device.stall();
            running.signal(number);
            assert!(running.stays(), "the call hangs, and so does the command");
            device.fail(libc::EINTR);
            let told = running.end().expect(130);
            told.says("interrupted before any page has moved");
        }
    });

    tap.test("signals: a second one ends a command that hangs", || {
        for [first, second] in [
            [libc::SIGINT, libc::SIGINT],
            [libc::SIGTERM, libc::SIGTERM],
            [libc::SIGINT, libc::SIGTERM],
        ] {
            let target = Target::start(&[&part], 0);
            let pid = target.pid().to_string();
            let device = StalledDevice::new();
            let mut command = cli.command(&["move", &pid, &format!("{a}:{b}")]);
            device.replace_for(&mut command);
            let mut running = Running::start(&mut command);
            device.stall();
            running.signal(first);
            assert!(running.stays(), "the call hangs, and so does the command");
            running.signal(second);
            assert_eq!(running.status(), Some(130));
        }
    });

    tap.test("signals: where nobody reads what is told", || {
        let target = Target::start(&[&part], 0);
        // The pipe is full before the command writes to it.
        let line = format!(
            "head -c 65536 /dev/zero; exec {} move {} {a}:{b}",
            cli.program.display(),
            target.pid()
        );
        let mut running = Running::start(Command::new("sh").args(["-c", &line]));
        let begin = Instant::now();
        while target.nodes(0, PAGES) != on(b) {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing moves");
        }
        assert!(running.stays(), "it cannot print");
        running.signal(libc::SIGINT);
        assert!(running.stays(), "the first signal is for the move");
        running.signal(libc::SIGINT);
        assert_eq!(running.status(), Some(130));
    });

    tap.test("stderr that cannot be written changes no status", || {
        let mut target = Target::start(&[&part], 0);
        let (pid, zombie) = (target.pid(), Zombie::new());
        let file = format!("/dev/shm/page_migrate-cli-{}", std::process::id());
        fs::write(&file, "").unwrap();
        cli.args(&["mark", "--trusted", &file, "none"]).expect(0);
        for (what, stderr) in unwritable() {
            let run = |line: &str| {
                let mut command = cli.command(&line.split(' ').collect::<Vec<_>>());
                let stderr = stderr.try_clone().unwrap();
                let done = command.stdout(Stdio::null()).stderr(stderr).status();
                done.unwrap().code()
            };
            for (line, status) in [
                // Errors, before anything has moved.
                (format!("move {} {a}:{b}", i32::MAX), 1),
                (format!("move {pid},{} {a}:{b}", i32::MAX), 1),
                (format!("move --cgroup /nonexistent {a}:{b}"), 1),
                ("mark /dev/null lib".into(), 1),
                (format!("show {}", i32::MAX), 1),
                // Usage.
                (format!("move {pid} {a} {b}"), 2),
                ("nonsense".into(), 2),
                // It did what it was asked for, and has something to tell.
                (format!("move {pid},{} {a}:{b}", zombie.pid()), 0),
                (format!("move {pid},{} {b}:{a} --json", zombie.pid()), 0),
                (format!("mark {file} none"), 0),
            ] {
                assert_eq!(run(&line), Some(status), "{what}: {line}");
            }
            assert_eq!(target.nodes(0, PAGES), on(a));
            assert_eq!(
                run(&format!("move {pid},{} {a}:{b}", zombie.pid())),
                Some(0)
            );
            assert_eq!(target.nodes(0, PAGES), on(b), "{what}");
            assert_eq!(run(&format!("move {pid} {b}:{a}")), Some(0));
        }
        assert_eq!(target.damaged(), 0);
        fs::remove_file(file).unwrap();
    });

    tap.test("stdout that cannot be written", || {
        let target = Target::start(&[&part], 0);
        let (pid, zombie) = (target.pid(), Zombie::new());
        for (what, stdout) in unwritable() {
            let run = |line: &str| -> Done {
                let mut command = cli.command(&line.split(' ').collect::<Vec<_>>());
                let stdout = stdout.try_clone().unwrap();
                let child = command.stdout(stdout).stderr(Stdio::piped()).spawn();
                Done::from(child.unwrap().wait_with_output().unwrap())
            };
            // Only a reader that has seen enough is no error.
            let status = if what == "full" { 1 } else { 0 };
            let says = if what == "full" { "cannot write" } else { "" };
            let line = format!("move {pid},{} {a}:{b}", zombie.pid());
            run(&line)
                .expect(status)
                .says(says)
                .says(&format!("process {} has exited", zombie.pid()));
            assert_eq!(target.nodes(0, PAGES), on(b), "{what}");
            let line = format!("move {pid} {b}:{a} --json");
            run(&line).expect(status).says(says);
            assert_eq!(target.nodes(0, PAGES), on(a), "{what}");
            for line in ["info", "info --json", "--help", "--version", "move --help"] {
                run(line).expect(status).says(says);
            }
            run(&format!("show {pid}")).expect(status).says(says);
            // Both of them.
            let mut command = cli.command(&["info"]);
            let command = command.stdout(stdout.try_clone().unwrap());
            let command = command.stderr(stdout.try_clone().unwrap());
            assert_eq!(command.status().unwrap().code(), Some(status), "{what}");
        }
    });

    tap.test("move: a user's own process, and nobody else's", || {
        let mut own = Target::start(&[&part], NOBODY);
        let range = whole(&own, 0);
        let line = format!("move {} {a}:{b} --range {range}", own.pid());
        nobody.run(&line).expect(0);
        assert_eq!(own.nodes(0, PAGES), on(b));
        assert_eq!(own.damaged(), 0);
        let roots = Target::start(&[&part], 0);
        let line = format!("move {} {a}:{b}", roots.pid());
        nobody
            .run(&line)
            .expect(1)
            .says("not permitted")
            .says("root (uid 0)")
            .says("nobody")
            .says("CAP_SYS_PTRACE");
        nobody
            .run(&format!("show {}", roots.pid()))
            .expect(1)
            .says("root (uid 0)");
        assert_eq!(roots.nodes(0, PAGES), on(a));
    });

    tap.test("move: errors say what to do", || {
        let target = Target::start(&[], 0);
        let pid = target.pid();
        let far = sysfs_nodes("possible").into_iter().max().unwrap() + 1;
        if let Some(empty) = sysfs_nodes("online")
            .into_iter()
            .find(|n| !nodes.contains(n))
        {
            cli.run(&format!("move {pid} {a}:{empty}"))
                .expect(1)
                .says(&format!("node {empty} has no memory"))
                .says("Nodes with memory: ");
            // That nothing can move away from it is said, and no error.
            cli.run(&format!("move {pid} {empty}:{a} --dry-run"))
                .expect(0)
                .says(&format!("note: node {empty} has no memory"));
        }
        let here = CpuSet::from_iter(sysfs_nodes("online").into_iter().map(|n| n as usize));
        for map in [format!("{a}:{far}"), format!("{far}:{a}")] {
            cli.run(&format!("move {pid} {map}"))
                .expect(1)
                .says(&format!("no such node: {far}. This machine has {here}"));
        }
        cli.run(&format!("move {pid} {a}:{a} --dry-run"))
            .expect(0)
            .says("moves nothing");
        // The kernel's first thread.
        cli.run(&format!("move 2 {a}:{b}"))
            .expect(1)
            .says("no address space");
        drop(target);
        cli.run(&format!("move {pid} {a}:{b}"))
            .expect(1)
            .says("no process");
        cli.run(&format!("show {pid}")).expect(1).says("no process");
        cli.run("show 2").expect(1).says("no address space");
    });

    tap.test("move: a new node outside of the target's cpuset", || {
        let group = Cgroup::new(&format!("{a},{b}"));
        let target = Target::start(&[&part], 0);
        group.enter(target.pid());
        cli.run(&format!("move {} {a}:{c}", target.pid()))
            .expect(1)
            .says("cpuset")
            .says(&format!("new node {c} is outside"));
        assert_eq!(target.nodes(0, PAGES), on(a));
        // One that does not exist is not the cpuset's fault.
        let far = sysfs_nodes("possible").into_iter().max().unwrap() + 1;
        let told = cli
            .run(&format!("move {} {a}:{far}", target.pid()))
            .expect(1);
        assert!(!told.err.contains("cpuset"), "{}", told.err);
        let range = whole(&target, 0);
        let line = format!("move {} {a}:{b} --range {range}", target.pid());
        cli.run(&line).expect(0);
        assert_eq!(target.nodes(0, PAGES), on(b));
    });

    tap.test("usage: status 2, and a hint", || {
        let pid = std::process::id();
        for line in [
            "".into(),
            "move".into(),
            format!("move {pid}"),
            format!("move {pid} 0"),
            format!("move {pid} 0:1,2"),
            format!("move {pid} 0,0:1"),
            format!("move {pid} any:any"),
            format!("move {pid} 0:1 --range 1+1"),
            format!("move {pid} 0:1 --range 0"),
            format!("move {pid} 0:1 --unknown"),
            "move x 0:1".into(),
            "move 0 0:1".into(),
            "mark /tmp what".into(),
        ] {
            let done = cli.run(&line).expect(2);
            assert_eq!(done.out, "", "{line}");
            assert!(!done.err.is_empty(), "{line}");
        }
        for (line, hint) in [
            (format!("move {pid} 0:2,1:3"), "0,1:2,3".to_owned()),
            (
                format!("move {pid} 0-1 2-3"),
                format!("pagemigrate move {pid} 0-1:2-3"),
            ),
            (format!("move {pid} 0->2"), "write 0:2".into()),
            (format!("move {pid} 0:1 0->2"), "write 0:2".into()),
            (format!("move {pid} 0-"), "the shell took the '>'".into()),
        ] {
            let told = cli.run(&line).expect(2).says(&hint);
            assert!(told.err.starts_with("pagemigrate: "), "{}", told.err);
            let json = cli.run(&format!("{line} --json")).expect(2).json();
            assert_eq!(json["error"]["kind"], "usage");
            assert_eq!(json["error"]["exit_status"], 2);
        }
    });

    tap.test("show: what numa_maps says", || {
        let target = Target::start(&[&part, &format!("{b}:512")], 0);
        let text = cli.run(&format!("show {}", target.pid())).expect(0);
        let json = cli.run(&format!("show {} --json", target.pid()));
        let json = json.expect(0).json();
        let of = |node: u32| {
            let all = json["nodes"].as_array().unwrap();
            let found = all.iter().find(|n| n["node"] == node);
            found.unwrap()["total"].as_u64().unwrap()
        };
        assert!(of(a) >= (PAGES * page()) as u64, "{json}");
        assert!(of(b) >= (512 * page()) as u64, "{json}");
        assert!(json["bytes"]["anon"].as_u64().unwrap() >= ((PAGES + 512) * page()) as u64);
        let sum: u64 = nodes.iter().map(|n| of(*n)).sum();
        assert_eq!(json["total"], sum);
        for word in ["node", "anon", "stack", "total", "all", "%", "█"] {
            assert!(text.out.contains(word), "{word}: {}", text.out);
        }
        // The same memory on another node, before and after.
        let range = whole(&target, 0);
        let line = format!("move {} {a}:{c} --range {range}", target.pid());
        cli.run(&line).expect(0);
        let after = cli.run(&format!("show {} --json", target.pid()));
        let after = after.expect(0).json();
        let now = |node: u32| {
            let all = after["nodes"].as_array().unwrap();
            let found = all.iter().find(|n| n["node"] == node);
            found.unwrap()["total"].as_u64().unwrap()
        };
        assert!(now(c) >= of(c) + (PAGES * page()) as u64, "{after}");
        assert!(now(a) < of(a), "{after}");
    });

    tap.test("mark: set, show, obey, clear", || {
        let file = format!("/dev/shm/page_migrate-mark-{}", std::process::id());
        let part = format!("{a}:{PAGES}:{file}");
        let target = Target::start(&[&part], 0);
        let xattr = |name: &str| {
            done(Command::new("getfattr").args([
                "--only-values",
                "--absolute-names",
                "-n",
                name,
                &file,
            ]))
        };
        let range = whole(&target, 0);
        let line = format!("move {} {a}:{b} --range {range} --json", target.pid());

        assert_eq!(cli.args(&["mark", &file]).expect(0).out, "no mark\n");
        cli.args(&["mark", &file, "none"]).expect(0);
        assert_eq!(xattr("user.migrate").expect(0).out, "none");
        assert_eq!(
            cli.args(&["mark", &file]).expect(0).out,
            "user.migrate: none\n"
        );
        let json = cli.run(&line).expect(0).json();
        assert_eq!(json["exempt"], PAGES);
        assert_eq!(json["moved"], 0);
        assert_eq!(target.nodes(0, PAGES), on(a));

        cli.args(&["mark", "--trusted", &file, "lib"]).expect(0);
        assert_eq!(xattr("trusted.migrate").expect(0).out, "lib");
        cli.args(&["mark", &file, "clear"])
            .expect(0)
            .says("trusted.migrate");
        xattr("user.migrate").expect(1);
        // "lib" lets pages of writable mappings move.
        assert_eq!(cli.run(&line).expect(0).json()["moved"], PAGES);
        assert_eq!(target.nodes(0, PAGES), on(b));
        cli.args(&["mark", "--trusted", &file, "clear"]).expect(0);
        cli.args(&["mark", "--trusted", &file, "clear"]).expect(0);
        xattr("trusted.migrate").expect(1);

        nobody
            .args(&["mark", "--trusted", &file, "none"])
            .expect(1)
            .says("CAP_SYS_ADMIN");
        cli.args(&["mark", "/proc/self/status", "none"])
            .expect(1)
            .says("cannot mark");
        cli.args(&["mark", "/nonexistent"])
            .expect(1)
            .says("cannot read the mark of");
        cli.args(&["mark", "/dev/shm", "none"])
            .expect(1)
            .says("is a folder");
        cli.args(&["mark", &file, "lib"]).expect(0);
        let json = cli.args(&["mark", &file, "--json"]).expect(0).json();
        assert_eq!(json["marks"]["user.migrate"], "lib");
        assert_eq!(json["effect"], "lib");
        let json = cli
            .args(&["mark", "/nonexistent", "--json"])
            .expect(1)
            .json();
        assert_eq!(json["command"], "mark");
        fs::remove_file(file).unwrap();
    });

    tap.test("self_ranges_only=1: the whole, no --range", || {
        let _module = Reloaded::new("self_ranges_only=1");
        let many = 3 * 4096;
        let mut target = Target::start(&[&format!("{a}:{many}")], 0);
        let range = format!("{:#x}+4096", target.parts[0]);
        cli.run(&format!("move {} {a}:{b} --range {range}", target.pid()))
            .expect(1)
            .says("self_ranges_only");
        assert_eq!(target.nodes(0, many), vec![a as i32; many]);
        let done = cli.run(&format!("move {} {a}:{b} --json", target.pid()));
        assert!(done.status == 0 || done.status == 3, "{}", done.out);
        assert_eq!(target.nodes(0, many), vec![b as i32; many]);
        assert_eq!(target.damaged(), 0);
        let json = done.json();
        let moved = json["moved"].as_u64().unwrap();
        assert_eq!(json["pairs"][0]["moved"], moved);
        assert!(moved >= many as u64 && moved < 2 * many as u64, "{json}");
    });

    tap.test("no device: says how to get one", || {
        // Without the device in sight, in a namespace of its own.
        let line = format!(
            "mount -t tmpfs none /dev && exec {} info",
            cli.program.display()
        );
        done(Command::new("unshare").args(["--mount", "sh", "-c", &line]))
            .expect(1)
            .says("insmod");
        // A node of the device that nothing serves, as a container may have.
        let line = format!(
            "mount -t tmpfs none /dev && mknod /dev/page_migrate c 10 254 && exec {} info --json",
            cli.program.display()
        );
        let told = done(Command::new("unshare").args(["--mount", "sh", "-c", &line]));
        let told = told.expect(1).says("no module serves it");
        assert_eq!(told.json()["command"], "info");
    });

    clean_up();
    tap.finish();
}
