// SPDX-License-Identifier: GPL-2.0

//! What `pagemigrate move` tells when it is done.

use std::time::Duration;

use comfy_table::CellAlignment;
use page_migrate::{overlaps, page_size, Counts, Node, NodeMap, Outcome, Range, Stop};
use serde_json::{json, Map, Value};

use crate::migrate::Member;
use crate::threads::Threads;
use crate::{text, EXIT_ERROR, EXIT_LEFT_BEHIND};

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
    pub(crate) passes: u32,
    pub(crate) elapsed: Duration,
}

/// What was counted, of one process or of all of them.
struct Totals {
    counts: Counts,
    moved_by_pair: Vec<u64>,
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

/// How a process's part of the job ended.
fn stopped_by(member: &Member) -> &'static str {
    match member.outcome.as_ref().map(|o| o.stop) {
        _ if member.error.is_some() => "error",
        _ if member.exited => "exited",
        None => "not begun",
        Some(Stop::Interrupted) => "interrupted",
        Some(Stop::OutOfMemory) => "out of memory",
        Some(_) => "end",
    }
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
        self.outcomes().any(|o| o.stop == Stop::OutOfMemory)
    }

    pub(crate) fn exit_status(&self) -> u8 {
        let failed = self.interrupted
            || self.out_of_memory()
            || self.none_left()
            || self.members.iter().any(|m| m.error.is_some())
            || self.threads.is_some_and(Threads::failed);
        if failed {
            EXIT_ERROR
        } else if self.outcomes().any(|o| o.counts.left_behind() > 0) {
            EXIT_LEFT_BEHIND
        } else {
            0
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let total = self.total(self.outcomes());
        let mut out = self.threads.map(Threads::to_text).unwrap_or_default();
        let whose = match self.members {
            [one] if self.single => one.process.title(),
            [_] => "1 process".into(),
            all => format!("{} processes", all.len()),
        };
        if !self.single {
            out += &self.table(&total.counts);
        }
        out += &self.summary(&whose, &total);
        out
    }

    fn summary(&self, whose: &str, total: &Totals) -> String {
        let counts = &total.counts;
        let verb = if self.dry_run { "would move" } else { "moved" };
        let mut out = format!("{whose}: {verb} {}", text::pages(counts.total_moved()));
        if !self.dry_run {
            out += &format!(" in {:.2} s", self.elapsed.as_secs_f64());
        }
        if self.passes > 1 {
            out += &format!(", {} passes", self.passes);
        }
        out.push('\n');
        if self.map.pairs().len() > 1 {
            for (pair, moved) in self.map.pairs().iter().zip(&total.moved_by_pair) {
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
            (
                counts.gone,
                "were given back by their process before they could move",
            ),
        ] {
            if n > 0 {
                out += &format!("  {}: {what}\n", text::pages(n));
            }
        }
        if counts.policies > 0 {
            let policies = if counts.policies == 1 { "y" } else { "ies" };
            let verb = if self.dry_run {
                "would change"
            } else {
                "changed"
            };
            out += &format!("  {} memory polic{policies} {verb}\n", counts.policies);
        }
        if self.dry_run && self.members.len() > 1 {
            out += "  (a page that several processes map counts for each of them)\n";
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

    /// A line for each process. Columns without any number are left out.
    fn table(&self, total: &Counts) -> String {
        type Column = (&'static str, fn(&Counts) -> u64);
        let columns: [Column; 8] = [
            ("moved", Counts::total_moved),
            ("fallback", |c| c.moved_fallback),
            ("met again", |c| c.already_moved),
            ("in place", |c| c.in_place),
            ("exempt", |c| c.exempt),
            ("gone", |c| c.gone),
            ("policies", |c| c.policies),
            ("left", Counts::left_behind),
        ];
        let columns: Vec<Column> = columns
            .into_iter()
            .filter(|(name, of)| ["moved", "left"].contains(name) || of(total) > 0)
            .collect();
        let mut table = text::table();
        let mut header = vec!["process", "name"];
        header.extend(columns.iter().map(|(name, _)| *name));
        header.push("");
        table.set_header(header);
        let row = |first: String, name: &str, counts: Option<&Counts>, end: &str| {
            let number = |of: &fn(&Counts) -> u64| counts.map_or("-".into(), |c| of(c).to_string());
            let mut row = vec![first, name.to_owned()];
            row.extend(columns.iter().map(|(_, of)| number(of)));
            row.push(if end == "end" { "" } else { end }.into());
            row
        };
        for member in self.members {
            table.add_row(row(
                member.process.pid.to_string(),
                member.process.name.as_deref().unwrap_or_default(),
                member.outcome.as_ref().map(|o| &o.counts),
                stopped_by(member),
            ));
        }
        table.add_row(row("all".into(), "", Some(total), "end"));
        let last = columns.len() + 2;
        for (i, column) in table.column_iter_mut().enumerate() {
            if i != 1 && i != last {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt() + "\n"
    }

    pub(crate) fn to_json(&self) -> String {
        let mut value = self.counts_to_json(self.outcomes());
        let stopped_by = if self.none_left() {
            "exited"
        } else if self.interrupted {
            "interrupted"
        } else if self.out_of_memory() {
            "out of memory"
        } else {
            "end"
        };
        let processes: Vec<Value> = self.members.iter().map(|m| self.member(m)).collect();
        value.extend([
            ("dry_run".into(), json!(self.dry_run)),
            ("page_size".into(), json!(page_size())),
            ("passes".into(), json!(self.passes)),
            ("seconds".into(), json!(self.elapsed.as_secs_f64())),
            ("stopped_by".into(), json!(stopped_by)),
            ("processes".into(), json!(processes)),
        ]);
        if let (true, [one]) = (self.single, self.members) {
            value.insert("pid".into(), json!(one.process.pid));
            value.insert("resume_va".into(), json!(resume_va(one)));
        }
        if let Some(threads) = self.threads {
            value.insert("threads".into(), threads.to_json());
        }
        format!("{:#}\n", Value::Object(value))
    }

    fn member(&self, member: &Member) -> Value {
        let mut value = self.counts_to_json(member.outcome.iter());
        value.extend([
            ("pid".into(), json!(member.process.pid)),
            ("name".into(), json!(member.process.name)),
            ("stopped_by".into(), json!(stopped_by(member))),
            ("resume_va".into(), json!(resume_va(member))),
            ("error".into(), json!(member.error)),
        ]);
        Value::Object(value)
    }

    fn counts_to_json<'a>(
        &self,
        outcomes: impl Iterator<Item = &'a Outcome>,
    ) -> Map<String, Value> {
        let Totals {
            counts,
            moved_by_pair,
        } = self.total(outcomes);
        let node = |n: Node| match n {
            Node::Id(id) => json!(id),
            Node::Any => json!("any"),
        };
        let pairs = self.map.pairs().iter().zip(moved_by_pair);
        let pairs: Vec<Value> = pairs
            .map(|(pair, moved)| {
                json!({"old": node(pair.old), "new": node(pair.new), "moved": moved})
            })
            .collect();
        let mut value = Map::new();
        value.insert("pairs".into(), json!(pairs));
        for (name, n) in [
            ("moved", counts.moved),
            ("moved_fallback", counts.moved_fallback),
            ("already_moved", counts.already_moved),
            ("in_place", counts.in_place),
            ("exempt", counts.exempt),
            ("left_behind", counts.left_behind()),
            ("shared", counts.shared),
            ("busy", counts.busy),
            ("pinned", counts.pinned),
            ("unmovable", counts.unmovable),
            ("no_memory", counts.no_memory),
            ("gone", counts.gone),
            ("policies", counts.policies),
        ] {
            value.insert(name.into(), json!(n));
        }
        value
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
            all => lines.push(format!("processes {} have exited", text::list(all))),
        }
        if self.interrupted {
            lines.push(self.how_to_go_on());
        }
        if self.out_of_memory() {
            lines.push("stopped: the kernel has no memory left for the call itself".into());
        }
        if self.threads.is_some_and(Threads::failed) {
            lines.push(
                "some threads keep their CPUs: what they touch first comes from the old nodes"
                    .into(),
            );
        }
        lines
    }

    fn how_to_go_on(&self) -> String {
        if self.outcomes().next().is_none() {
            return "interrupted before any page has moved".into();
        }
        if !overlaps(self.map.pairs()) {
            return "interrupted; what has moved stays moved, the same command does the rest"
                .into();
        }
        let mut line = "interrupted; do not repeat the command: with this map, what has moved \
                        would move on"
            .to_owned();
        // Behind that address nothing has moved only if it was the first walk, and
        // had not come back to pages without room. All policies are done.
        if let (true, [one]) = (self.single, self.members) {
            let counts = one.outcome.as_ref().map(|o| o.counts);
            let from = resume_va(one);
            let end = self.range.end();
            if one.calls == 1 && counts.is_some_and(|c| c.no_memory == 0) && from < end {
                line += &format!(
                    ". --keep-policy --range {from:#x}+{:#x}, and the other options as they \
                     were, does the rest",
                    end - from
                );
            }
        }
        line
    }
}

/// Where it stopped.
fn resume_va(member: &Member) -> u64 {
    member.outcome.as_ref().map_or(0, |o| o.resume_va)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::Process;
    use page_migrate::Machine;

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
            passes: 1,
            elapsed: Duration::ZERO,
        }
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
        let text = report.to_text();
        assert!(text.contains("moved 7 pages") && !text.contains("given back"));
        assert!(text.contains("0 to 2: 7 pages") && !text.contains("1 to 3"));
        assert!(text.contains("1 page (4.00 KiB): of them"));
        assert!(!text.contains("left behind") && !text.contains("pinned"));
        assert!(!text.contains("passes"));
        report.passes = 2;
        assert!(report.to_text().contains(", 2 passes"));
        report.dry_run = true;
        let text = report.to_text();
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
        let text = report(&map, &members).to_text();
        assert!(text.contains("left behind: 15 pages"));
        for word in [
            "CAP_SYS_NICE",
            "busy",
            "pinned",
            "unmovable",
            "without room",
            "  6 pages (24.00 KiB): were given back by their process",
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
        assert!(report(&map, &one)
            .to_text()
            .lines()
            .any(|line| line.contains("moved") && line.contains("gone")));
        let report = report(&map, &members);
        let table = report.to_text();
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
        assert!(told(&plain, &members).contains("the same command does the rest"));
        assert!(told(&swap, &members).contains("do not repeat"));
        assert!(told(&swap, &members).contains("--keep-policy --range 0x1000+0x2000,"));
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
        assert_eq!(status(&[good()], true), 1);
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
