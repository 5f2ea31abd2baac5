// SPDX-License-Identifier: GPL-2.0

//! What `pagemigrate move` tells when it is done.

mod json;
mod metrics;
pub(crate) mod progress;
mod text;

use std::ffi::OsString;
use std::time::Duration;

use page_migrate::{overlaps, Counts, Node, NodeMap, Outcome, Placement, Range, Stop};

use crate::exit;
use crate::job::cpuset::Cpusets;
use crate::job::threads::Threads;
use crate::job::{self, Member};
use crate::term;

/// Of what is printed for programs: anything that they know stays as it is as long as this does.
pub(crate) const SCHEMA: u32 = 1;

pub(crate) struct Report<'a> {
    pub(crate) map: &'a NodeMap,
    pub(crate) dry_run: bool,
    /// What was asked for.
    pub(crate) range: Range,
    pub(crate) interrupted: bool,
    /// One process was named, and nothing that could be more.
    pub(crate) single: bool,
    pub(crate) members: &'a [Member],
    pub(crate) threads: Option<&'a Threads>,
    pub(crate) cpusets: Option<&'a Cpusets>,
    pub(crate) passes: u32,
    pub(crate) elapsed: Duration,
    /// Mappings of pages on each node, where that was looked at.
    pub(crate) before: Option<&'a Placement>,
    /// The same after a move; a dry run has none.
    pub(crate) after: Option<&'a Placement>,
    /// The command line, with its first word.
    pub(crate) command: &'a [OsString],
    /// Print what each node had and has.
    pub(crate) verbose: bool,
}

/// What was counted, of one process or of all of them.
struct Totals {
    counts: Counts,
    moved_by_pair: Vec<u64>,
}

/// What a node has before, and afterwards, where that can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OnNode {
    node: Node,
    before: u64,
    after: Option<u64>,
}

/// How a process's part of the job ended.
fn stopped_by(member: &Member) -> &'static str {
    match member.outcome.as_ref().map(|o| o.stop) {
        _ if member.error.is_some() => "error",
        _ if member.exited => "exited",
        None => "not begun",
        // A call with a limit is followed by another, unless a signal comes.
        Some(Stop::Interrupted | Stop::Limit) => "interrupted",
        Some(Stop::OutOfMemory) => "out of memory",
        Some(_) => "end",
    }
}

/// Where a member's last call stopped.
fn resume_va(member: &Member) -> u64 {
    member.outcome.as_ref().map_or(0, |o| o.resume_va)
}

impl Report<'_> {
    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.members.iter().filter_map(|m| m.outcome.as_ref())
    }

    fn total<'a>(&self, outcomes: impl Iterator<Item = &'a Outcome>) -> Totals {
        let mut total = Totals {
            counts: Counts::default(),
            moved_by_pair: vec![0; self.map.pairs().len()],
        };
        for outcome in outcomes {
            total.counts.add(&outcome.counts);
            for (sum, n) in total.moved_by_pair.iter_mut().zip(&outcome.moved_by_pair) {
                *sum = sum.saturating_add(*n);
            }
        }
        total
    }

    /// Whether all processes have exited.
    fn none_left(&self) -> bool {
        self.members.iter().all(|m| m.exited)
    }

    fn out_of_memory(&self) -> bool {
        job::out_of_memory(self.members)
    }

    pub(crate) fn exit_status(&self) -> u8 {
        // Of a job whose pages have moved, its CPUs may stay.
        let stays = self.outcomes().any(|o| o.counts.left_behind() > 0)
            || self.threads.is_some_and(Threads::failed)
            || self.cpusets.is_some_and(Cpusets::failed);
        if self.interrupted {
            exit::INTERRUPTED
        } else if job::failed(self.members) {
            exit::ERROR
        } else if stays {
            exit::LEFT_BEHIND
        } else {
            0
        }
    }

    /// What each node has before and afterwards: as it was seen or, of a dry run, as it would be.
    /// What goes to "any" node is at the end then.
    fn nodes(&self) -> Option<Vec<OnNode>> {
        let before = self.before?;
        let numbers = 0..u32::try_from(before.pages.len()).unwrap_or(u32::MAX);
        if let Some(after) = self.after {
            let all = numbers.map(|node| OnNode {
                node: Node::Id(node),
                before: before.on(node),
                after: Some(after.on(node)),
            });
            return Some(all.filter(|n| n.before > 0 || n.after > Some(0)).collect());
        }
        if !self.dry_run {
            return None;
        }
        let pairs = self.map.pairs();
        let moved = self.total(self.outcomes()).moved_by_pair;
        let moves = || {
            pairs
                .iter()
                .zip(&moved)
                .filter(|(pair, _)| pair.old != pair.new)
        };
        let named = |node: u32| pairs.iter().any(|pair| pair.old == Node::Id(node));
        // What an entry for all other nodes moves is known for them together only.
        let of_others: u64 = numbers
            .clone()
            .filter(|node| !named(*node) && page_migrate::destination(pairs, *node).is_some())
            .map(|node| before.on(node))
            .fold(0, u64::saturating_add);
        let gone = |node: u32| -> Option<u64> {
            let (pair, moved) = moves()
                .find(|(pair, _)| pair.old == Node::Id(node))
                .or_else(|| moves().find(|(pair, _)| !named(node) && pair.old == Node::Any))
                .filter(|(pair, _)| pair.new != Node::Id(node))
                .map_or((None, 0), |(pair, moved)| (Some(pair), *moved));
            match pair {
                Some(pair) if pair.old == Node::Any => match moved {
                    0 => Some(0),
                    all if all == of_others => Some(before.on(node)),
                    _ => None,
                },
                _ => Some(moved),
            }
        };
        let come = |to: Node| {
            let moves = moves().filter(|(pair, _)| pair.new == to);
            moves.map(|(_, n)| *n).fold(0, u64::saturating_add)
        };
        let all = numbers.map(|node| OnNode {
            node: Node::Id(node),
            before: before.on(node),
            after: gone(node).map(|gone| {
                let rest = before.on(node).saturating_sub(gone);
                rest.saturating_add(come(Node::Id(node)))
            }),
        });
        let any = OnNode {
            node: Node::Any,
            before: 0,
            after: Some(come(Node::Any)),
        };
        let all = all.chain([any]);
        Some(all.filter(|n| n.before > 0 || n.after != Some(0)).collect())
    }

    /// The nodes that took what was to go to any node, and how much more they have than before,
    /// without what another pair has sent there.
    fn takers(&self) -> Vec<(u32, u64)> {
        let (Some(before), Some(after)) = (self.before, self.after) else {
            return Vec::new();
        };
        let pairs = self.map.pairs();
        if pairs.iter().all(|pair| pair.new != Node::Any) {
            return Vec::new();
        }
        let moved = self.total(self.outcomes()).moved_by_pair;
        let sent = |node: u32| {
            let to_it = pairs
                .iter()
                .zip(&moved)
                .filter(|(pair, _)| pair.new == Node::Id(node));
            to_it
                .map(|(_, n)| *n)
                .fold(before.on(node), u64::saturating_add)
        };
        (0u32..)
            .zip(&after.pages)
            .filter(|(node, _)| !pairs.iter().any(|pair| pair.old == Node::Id(*node)))
            .map(|(node, n)| (node, n.saturating_sub(sent(node))))
            .filter(|(_, more)| *more > 0)
            .collect()
    }

    /// What went wrong.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for error in self.members.iter().filter_map(|m| m.error.as_ref()) {
            if !lines.contains(error) {
                lines.push(error.clone());
            }
        }
        let exited = self.members.iter().filter(|m| m.exited);
        let exited: Vec<i32> = exited.map(|m| m.process.pid).collect();
        match &exited[..] {
            [] => {}
            [one] => lines.push(format!("process {one} has exited")),
            all => lines.push(format!("processes {} have exited", term::list(all))),
        }
        lines.extend(self.cpusets.map(Cpusets::troubles).unwrap_or_default());
        if self.interrupted {
            lines.push(self.how_to_go_on());
        }
        if self.out_of_memory() {
            lines.push("stopped: the kernel has no memory left for the call itself".into());
        }
        lines.extend(self.threads.map(Threads::troubles).unwrap_or_default());
        lines
    }

    /// What to do after a signal: the whole command that does the rest, where there is one.
    fn how_to_go_on(&self) -> String {
        if self.outcomes().next().is_none() {
            return self.same_command("interrupted before any page has moved");
        }
        if self.dry_run {
            return self.same_command("interrupted; nothing has moved, as this was a dry run");
        }
        if !overlaps(self.map.pairs()) {
            return self.same_command("interrupted; what has moved stays moved");
        }
        let told = "interrupted; do not repeat the command: with this map, what has moved would \
                    move on";
        // Behind that address nothing has moved only if it was the first walk, and
        // had not come back to pages without room. All policies are done.
        if let (true, [one]) = (self.single, self.members) {
            let counts = one.outcome.as_ref().map(|o| o.counts);
            let from = resume_va(one);
            let end = self.range.end();
            if one.calls == 1 && counts.is_some_and(|c| c.no_memory == 0) && from < end {
                let rest = format!("{from:#x}+{:#x}", end - from);
                return match self.command_line(Some(&rest)) {
                    Some(line) => format!("{told}. This does the rest:\n  {line}"),
                    None => format!("{told}. --keep-policy --range {rest} does the rest"),
                };
            }
        }
        told.into()
    }

    fn same_command(&self, told: &str) -> String {
        match self.command_line(None) {
            Some(line) => format!("{told}. This goes on:\n  {line}"),
            None => format!("{told}. The same command goes on"),
        }
    }

    /// The command as a shell takes it; with a range, for that one. The policies, and the CPUs of
    /// the threads, have been moved by then.
    fn command_line(&self, range: Option<&str>) -> Option<String> {
        let mut words: Vec<&str> = Vec::new();
        let mut given = self.command.iter().map(|word| word.to_str());
        while let Some(word) = given.next() {
            let word = word?;
            if range.is_some() {
                if word == "--range" {
                    given.next();
                    continue;
                }
                if word.starts_with("--range=") || ["--threads", "--keep-policy"].contains(&word) {
                    continue;
                }
            }
            words.push(word);
        }
        if let Some(range) = range {
            // Behind the name of the subcommand.
            let at = words.iter().position(|word| *word == "move")? + 1;
            words.splice(at..at, ["--keep-policy", "--range", range]);
        }
        let line = shlex::try_join(words).ok()?;
        Some(line).filter(|line| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::Process;
    use page_migrate::Machine;
    use serde_json::Value;

    fn map(text: &str) -> NodeMap {
        let nodes = [0, 1, 2, 3];
        NodeMap::parse(text, &Machine::new(&nodes, &nodes)).unwrap()
    }

    fn member(pid: i32, counts: Counts) -> Member {
        let mut member = Member::new(Process::new(pid));
        member.outcome = Some(Outcome {
            counts,
            moved_by_pair: vec![counts.total_moved(), 0],
            returned: 0,
            stop: Stop::Returned,
            resume_va: 0x1000,
        });
        member
    }

    fn report<'a>(map: &'a NodeMap, members: &'a [Member]) -> Report<'a> {
        Report {
            map,
            dry_run: false,
            range: Range::ALL,
            interrupted: false,
            single: members.len() == 1,
            members,
            threads: None,
            cpusets: None,
            passes: 1,
            elapsed: Duration::ZERO,
            before: None,
            after: None,
            command: &[],
            verbose: false,
        }
    }

    /// Without the colours.
    fn text_of(report: &Report<'_>) -> String {
        anstream::adapter::strip_str(&report.to_text()).to_string()
    }

    fn moved(moved: u64, moved_fallback: u64) -> Counts {
        Counts {
            moved,
            moved_fallback,
            ..Counts::default()
        }
    }

    #[test]
    fn only_what_happened_is_told() {
        let map = map("0:2 1:3");
        let members = [member(i32::MAX, moved(6, 1))];
        let mut report = report(&map, &members);
        let text = text_of(&report);
        assert!(text.contains("moved 7 pages") && !text.contains("given back"));
        assert!(text.contains("0 to 2: 7 pages") && !text.contains("1 to 3"));
        assert!(text.contains("1 page (4.00 KiB): went to another new node"));
        assert!(!text.contains("left behind") && !text.contains("pinned"));
        assert!(!text.contains("passes"));
        report.passes = 2;
        assert!(text_of(&report).contains(", 2 passes"));
        report.dry_run = true;
        let text = text_of(&report);
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
            gone: 6,
            ..Counts::default()
        };
        let (map, members) = (map("0:2 1:3"), [member(i32::MAX, counts)]);
        let text = text_of(&report(&map, &members));
        assert!(text.contains("left behind: 15 pages"));
        for word in [
            "CAP_SYS_NICE",
            "busy",
            "pinned",
            "unmovable",
            "without room",
            "  6 pages (24.00 KiB): given back by the process before the move",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn a_line_for_each_process_and_for_all() {
        let map = map("0:2 1:3");
        let mut gone = member(i32::MAX - 1, Counts::default());
        gone.outcome = None;
        gone.exited = true;
        let members = [
            member(i32::MAX, moved(30, 0)),
            member(i32::MAX - 2, moved(12, 0)),
            gone,
        ];
        let mut given_back = moved(5, 0);
        given_back.gone = 77;
        let one = [member(1, given_back), member(2, moved(1, 0))];
        assert!(text_of(&report(&map, &one))
            .lines()
            .any(|line| line.contains("moved") && line.contains("gone")));
        let report = report(&map, &members);
        let table = text_of(&report);
        let line = |start: &str| {
            let found = table.lines().find(|l| l.trim_start().starts_with(start));
            found.unwrap_or_else(|| panic!("no {start} in\n{table}"))
        };
        assert!(line(&i32::MAX.to_string()).contains("30"));
        assert!(line(&(i32::MAX - 1).to_string()).contains("exited"));
        assert!(line("all").contains("42"));
        assert!(line("process").contains("left") && !line("process").contains("exempt"));
        assert!(table.contains("3 processes: moved 42 pages"));
        assert_eq!(
            report.troubles(),
            [format!("process {} has exited", i32::MAX - 1)]
        );
    }

    #[test]
    fn json_says_the_same() {
        let map = map("0:2 1:3");
        let mut members = [member(i32::MAX, moved(30, 1)), member(7, moved(12, 0))];
        let json = |members: &[Member]| -> Value {
            serde_json::from_str(&report(&map, members).to_json()).unwrap()
        };
        members[1].outcome.as_mut().unwrap().counts.gone = 3;
        let value = json(&members);
        assert_eq!(value["moved"], 42);
        assert_eq!(value["gone"], 3);
        assert_eq!(value["processes"][1]["gone"], 3);
        assert_eq!(value["left_behind"], 0);
        assert_eq!(value["pairs"][0]["moved"], 43);
        assert_eq!(value["processes"][1]["moved"], 12);
        assert_eq!(value["processes"][0]["pairs"][0]["moved"], 31);
        assert_eq!(value["stopped_by"], "end");
        assert_eq!(value["passes"], 1);
        assert!(value.get("pid").is_none() && value.get("threads").is_none());
        members[1].error = Some("why".into());
        assert_eq!(json(&members)["processes"][1]["error"], "why");
        assert_eq!(json(&members)["processes"][1]["stopped_by"], "error");
        let one = json(&members[..1]);
        assert_eq!(one["pid"], i32::MAX);
        assert_eq!(one["moved"], 30);
    }

    #[test]
    fn an_interrupted_swap_is_not_to_be_repeated() {
        let (plain, swap) = (map("0:2 1:3"), map("0:1 1:0"));
        let mut members = [member(i32::MAX, moved(1, 0))];
        members[0].outcome.as_mut().unwrap().stop = Stop::Interrupted;
        members[0].calls = 1;
        let told = |map, members: &[Member]| {
            let mut report = report(map, members);
            report.interrupted = true;
            report.range = Range {
                start: 0,
                len: 0x3000,
            };
            report.troubles().join("\n")
        };
        assert!(told(&plain, &members).contains("stays moved. The same command goes on"));
        assert!(told(&swap, &members).contains("do not repeat"));
        assert!(told(&swap, &members).contains("--keep-policy --range 0x1000+0x2000 "));
        // Later passes, and pages that are tried again, are not in order.
        members[0].calls = 2;
        assert!(!told(&swap, &members).contains("--range"));
        members[0].calls = 1;
        members[0].outcome.as_mut().unwrap().counts.no_memory = 1;
        assert!(told(&swap, &members).contains("do not repeat"));
        assert!(!told(&swap, &members).contains("--range"));
        members[0].outcome = None;
        assert!(told(&swap, &members).contains("before any page has moved"));
    }

    #[test]
    fn the_whole_command_that_goes_on() {
        let (plain, swap) = (map("0:2 1:3"), map("0:1 1:0"));
        let mut members = [member(i32::MAX, moved(1, 0))];
        members[0].outcome.as_mut().unwrap().stop = Stop::Interrupted;
        members[0].calls = 1;
        let told = |map, line: &str| {
            let command: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let mut report = report(map, &members);
            report.interrupted = true;
            report.command = &command;
            report.range = Range {
                start: 0,
                len: 0x3000,
            };
            report.troubles().join("\n")
        };
        let text = told(&plain, "./pagemigrate move --json 7 !1:2");
        assert!(
            text.ends_with(":\n  ./pagemigrate move --json 7 '!1:2'"),
            "{text}"
        );
        let text = told(
            &swap,
            "pagemigrate move --threads 7 0:1 1:0 --range 0+0x3000 --keep-policy -v",
        );
        let rest = "move --keep-policy --range 0x1000+0x2000 7 0:1 1:0 -v";
        assert!(
            text.ends_with(&format!(":\n  pagemigrate {rest}")),
            "{text}"
        );
        let text = told(&swap, "pagemigrate move --range=0-3000 7 0:1 1:0");
        assert!(text.ends_with("--range 0x1000+0x2000 7 0:1 1:0"), "{text}");
        let mut dry = report(&swap, &members);
        (dry.interrupted, dry.dry_run) = (true, true);
        assert!(dry.troubles()[0].contains("nothing has moved"));
    }

    #[test]
    fn a_dry_run_says_would() {
        let counts = Counts {
            moved: 1,
            moved_fallback: 2,
            already_moved: 3,
            in_place: 4,
            exempt: 5,
            busy: 6,
            policies: 7,
            ..Counts::default()
        };
        let (map, members) = (map("0:2 1:3"), [member(1, counts)]);
        let mut report = report(&map, &members);
        let done = text_of(&report);
        assert!(done.contains(": not on an old node"), "{done}");
        report.dry_run = true;
        let text = text_of(&report);
        for line in [
            "would move 3 pages",
            "would go to another new node",
            "would be met again",
            "not on an old node",
            "would be kept by the mark",
            "would change",
            "would be left behind:",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        for word in ["moved 3", "went", "were", "changed"] {
            assert!(!text.contains(word), "{word}:\n{text}");
        }
    }

    #[test]
    fn nothing_is_said_that_is_not_so() {
        let in_place = Counts {
            in_place: 4,
            ..Counts::default()
        };
        let members = [member(1, in_place)];
        // Such pages may be on an old node, and are where they should be.
        let same = map("0:0");
        assert!(text_of(&report(&same, &members)).contains(": in place"));
        let members = [member(1, Counts::default())];
        let mut report = report(&same, &members);
        report.range = Range {
            start: 0x1000,
            len: 0x1000,
        };
        assert!(text_of(&report).contains("no page in this range"));
        report.range = Range::ALL;
        assert!(text_of(&report).contains("no page that could be counted"));
    }

    fn pages(pages: &[u64]) -> Placement {
        Placement {
            pages: pages.to_vec(),
        }
    }

    #[test]
    fn before_and_would_be() {
        let before = pages(&[10, 20, 0, 5]);
        let picture = |text: &str, by_pair: &[u64]| -> Vec<(String, u64, Option<u64>)> {
            let map = map(text);
            let mut members = [member(1, moved(1, 0))];
            members[0].outcome.as_mut().unwrap().moved_by_pair = by_pair.to_vec();
            let mut report = report(&map, &members);
            report.dry_run = true;
            report.before = Some(&before);
            let nodes = report.nodes().unwrap();
            assert!(text_of(&report).contains("would be"));
            let told = nodes
                .iter()
                .map(|n| (n.node.to_string(), n.before, n.after));
            told.collect()
        };
        let row = |node: &str, before, after| (node.to_owned(), before, Some(after));
        assert_eq!(
            picture("0:2 1:3", &[9, 20]),
            [
                row("0", 10, 1),
                row("1", 20, 0),
                row("2", 0, 9),
                row("3", 5, 25)
            ]
        );
        assert_eq!(
            picture("0:1 1:0", &[10, 20]),
            [row("0", 10, 20), row("1", 20, 10), row("3", 5, 5)]
        );
        assert_eq!(
            picture("1:any", &[20]),
            [
                row("0", 10, 10),
                row("1", 20, 0),
                row("3", 5, 5),
                row("any", 0, 20)
            ]
        );
        assert_eq!(
            picture("all:2 0:0", &[25, 0]),
            [
                row("0", 10, 10),
                row("1", 20, 0),
                row("2", 0, 25),
                row("3", 5, 0)
            ]
        );
        // Which of the nodes still has some is not known.
        let some = picture("all:2", &[34]);
        assert_eq!(some[1], ("1".to_owned(), 20, None));
        assert_eq!(some[2], row("2", 0, 34));
    }

    #[test]
    fn who_took_what_could_go_anywhere() {
        let (before, after) = (pages(&[10, 0, 5]), pages(&[0, 7, 8]));
        let any = map("0:any");
        let members = [member(1, moved(10, 0))];
        let mut report = report(&any, &members);
        (report.before, report.after) = (Some(&before), Some(&after));
        assert_eq!(report.takers(), [(1, 7), (2, 3)]);
        let text = text_of(&report);
        assert!(text.contains("node 1 took 7 pages"), "{text}");
        assert!(!text.contains("before"), "{text}");
        report.verbose = true;
        assert!(text_of(&report).contains("before"));
        // What another pair sends to a node, it has not taken.
        let two = map("0:any 3:1");
        let mut members = [member(1, moved(10, 0))];
        members[0].outcome.as_mut().unwrap().moved_by_pair = vec![7, 4];
        let mut report = self::report(&two, &members);
        (report.before, report.after) = (Some(&before), Some(&after));
        assert_eq!(report.takers(), [(1, 3), (2, 3)]);
    }

    #[test]
    fn exit_statuses() {
        let map = map("0:2 1:3");
        let status = |members: &[Member], interrupted| {
            let mut report = report(&map, members);
            report.interrupted = interrupted;
            report.exit_status()
        };
        let good = || member(1, moved(1, 0));
        let mut gone = Member::new(Process::new(i32::MAX));
        gone.exited = true;
        let mut bad = good();
        bad.error = Some("why".into());
        let full = Counts {
            no_memory: 1,
            ..Counts::default()
        };
        let mut broke = good();
        broke.outcome.as_mut().unwrap().stop = Stop::OutOfMemory;
        assert_eq!(status(&[good()], false), 0);
        assert_eq!(status(&[good()], true), 130);
        assert_eq!(status(&[good(), member(1, full)], false), 3);
        assert_eq!(status(&[good(), bad], false), 1);
        assert_eq!(status(&[good(), broke], false), 1);
        assert_eq!(status(std::slice::from_ref(&gone), false), 1);
        assert_eq!(status(&[gone, good()], false), 0);
        // Pages that are gone are not left behind, nor are those of processes that are.
        let given_back = Counts {
            gone: 1,
            ..Counts::default()
        };
        assert_eq!(status(&[member(1, given_back)], false), 0);
        let mut exited = member(1, full);
        assert_eq!(status(&[exited], false), 3);
        exited = member(1, full);
        exited.exit();
        assert_eq!(status(&[exited, good()], false), 0);
        let mut exited = member(1, full);
        exited.exit();
        assert_eq!(status(&[exited, member(2, full)], false), 3);
    }
}
