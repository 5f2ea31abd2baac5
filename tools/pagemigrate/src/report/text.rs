// SPDX-License-Identifier: GPL-2.0

//! The report for people.

use page_migrate::{page_size, Counts, Node, Outcome};

use super::{stopped_by, Report, Totals};
use crate::job::cpuset::Cpusets;
use crate::job::threads::Threads;
use crate::term::{self, Column};

/// How long the bar of the largest node is at most.
const BAR: usize = 20;

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

impl Report<'_> {
    pub(crate) fn to_text(&self) -> String {
        let total = self.total(self.outcomes());
        let wrapped = |text: &str| term::wrapped(text, term::width(), term::HANGING);
        let cpusets = self.cpusets.map(Cpusets::to_text).unwrap_or_default();
        let threads = self.threads.map(Threads::to_text).unwrap_or_default();
        let mut out = wrapped(&(cpusets + &threads));
        let whose = match self.members {
            [one] if self.single => one.process.title(),
            [_] => "1 process".into(),
            all => format!("{} processes", all.len()),
        };
        if !self.single {
            out += &self.table(&total.counts);
        }
        if self.dry_run || self.verbose {
            out += &self.picture();
        }
        out += &wrapped(&self.summary(&whose, &total));
        out
    }

    /// What was done, or would be.
    fn tense<'t>(&self, done: &'t str, would: &'t str) -> &'t str {
        if self.dry_run {
            would
        } else {
            done
        }
    }

    fn summary(&self, whose: &str, total: &Totals) -> String {
        let counts = &total.counts;
        let verb = self.tense("moved", "would move");
        let mut out = format!("{whose}: {verb} {}", term::pages(counts.total_moved()));
        if !self.dry_run {
            out += &format!(" in {:.2} s", self.elapsed.as_secs_f64());
        }
        if self.passes > 1 {
            out += &format!(", {} passes", self.passes);
        }
        if counts.total_moved() > 0 {
            out = term::styled(term::GOOD, &out);
        }
        out.push('\n');
        if counts.total() == 0 && self.outcomes().next().is_some() {
            out += self.nothing_there();
        }
        if self.map.pairs().len() > 1 {
            for (pair, moved) in self.map.pairs().iter().zip(&total.moved_by_pair) {
                if *moved > 0 {
                    out += &format!("  {} to {}: {}\n", pair.old, pair.new, term::pages(*moved));
                }
            }
        }
        for (node, more) in self.takers() {
            out += &format!("  node {node} took {}\n", term::pages(more));
        }
        // What an entry sends to its own node is in place, too.
        let stay = self.map.pairs().iter().any(|pair| pair.old == pair.new);
        for (n, done, would) in [
            (
                counts.moved_fallback,
                "went to another new node, since that of the map was full",
                "would go to another new node, since that of the map is full",
            ),
            (
                counts.already_moved,
                "met again after the move",
                "would be met again after the move",
            ),
            if stay {
                (counts.in_place, "in place", "in place")
            } else {
                (counts.in_place, "not on an old node", "not on an old node")
            },
            (
                counts.exempt,
                "kept by the mark of the file",
                "would be kept by the mark of the file",
            ),
            (
                counts.gone,
                "given back by the process before the move",
                "given back by the process before the count",
            ),
        ] {
            if n > 0 {
                out += &format!("  {}: {}\n", term::pages(n), self.tense(done, would));
            }
        }
        if counts.policies > 0 {
            let policies = if counts.policies == 1 { "y" } else { "ies" };
            let verb = self.tense("changed", "would change");
            out += &format!("  {} memory polic{policies} {verb}\n", counts.policies);
        }
        if self.dry_run && self.members.len() > 1 {
            out += "  (a page that several processes map counts for each of them)\n";
        }
        if counts.left_behind() > 0 {
            let title = self.tense("left behind:", "would be left behind:");
            out += &format!(
                "{} {}\n",
                term::styled(term::CARE, title),
                term::pages(counts.left_behind())
            );
            for (n, what, hint) in reasons(counts) {
                if n > 0 {
                    out += &format!("  {} {what}: {hint}\n", term::pages(n));
                }
            }
        }
        out
    }

    /// Where no page was met at all.
    fn nothing_there(&self) -> &'static str {
        if self.range == page_migrate::Range::ALL {
            "  (there is no page that could be counted)\n"
        } else {
            "  (there is no page in this range: /proc/PID/maps has the addresses in use)\n"
        }
    }

    /// What each node has before and afterwards.
    fn picture(&self) -> String {
        let Some(nodes) = self.nodes().filter(|nodes| !nodes.is_empty()) else {
            return String::new();
        };
        let size = |pages: u64| match pages {
            0 => "-".into(),
            n => term::bytes(n.saturating_mul(page_size())),
        };
        let utf8 = term::is_utf8();
        let most = nodes.iter().map(|n| n.before.max(n.after.unwrap_or(0)));
        let most = most.max().unwrap_or(0);
        let bars = |parts: Vec<u64>| Column::bars(parts, most, BAR, utf8);
        let mut node = Column::new("node");
        let mut before = Column::new("before");
        let before_bar = bars(nodes.iter().map(|n| n.before).collect()).rank(2);
        let mut after = Column::new(self.tense("after", "would be"));
        let after_bar = bars(nodes.iter().map(|n| n.after.unwrap_or(0)).collect()).rank(1);
        for on in nodes {
            node.push(match on.node {
                Node::Id(id) => id.to_string(),
                Node::Any => "any".into(),
            });
            before.push(size(on.before));
            after.push(on.after.map_or("?".into(), size));
        }
        term::table(
            vec![node, before, before_bar, after, after_bar],
            term::width(),
            utf8,
        )
    }

    /// A line for each process. Columns without any number are left out, and those that the
    /// terminal has no room for.
    fn table(&self, total: &Counts) -> String {
        type Number = (&'static str, usize, fn(&Counts) -> u64);
        let numbers: [Number; 8] = [
            ("moved", 0, Counts::total_moved),
            ("fallback", 1, |c| c.moved_fallback),
            ("met again", 4, |c| c.already_moved),
            ("in place", 5, |c| c.in_place),
            ("exempt", 3, |c| c.exempt),
            ("gone", 6, |c| c.gone),
            ("policies", 7, |c| c.policies),
            ("left", 0, Counts::left_behind),
        ];
        let utf8 = term::is_utf8();
        let mut process = Column::new("process");
        let mut name = Column::new("name").left().cut_to(4);
        let mut end = Column::new("").left().rank(2);
        for member in self.members {
            process.push(member.process.pid.to_string());
            let named = member.process.name.as_deref().unwrap_or_default();
            name.push(term::shown(named, utf8));
            let how = stopped_by(member);
            end.push(if how == "end" { "" } else { how });
        }
        process.push("all");
        let mut columns = vec![process, name];
        for (title, rank, of) in numbers {
            if rank > 0 && of(total) == 0 {
                continue;
            }
            let mut column = Column::new(title).rank(rank);
            for member in self.members {
                let counts = member.outcome.as_ref().map(|o: &Outcome| &o.counts);
                column.push(counts.map_or("-".into(), |c| of(c).to_string()));
            }
            column.push(of(total).to_string());
            columns.push(column);
        }
        columns.push(end);
        term::table(columns, term::width(), utf8)
    }
}
