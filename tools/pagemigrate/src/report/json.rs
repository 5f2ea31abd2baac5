// SPDX-License-Identifier: GPL-2.0

//! The report for programs.

use page_migrate::{page_size, Node, Outcome};
use serde_json::{json, Map, Value};

use super::{resume_va, stopped_by, OnNode, Report, Totals, SCHEMA};
use crate::job::Member;

fn node(node: Node) -> Value {
    match node {
        Node::Id(id) => json!(id),
        Node::Any => json!("any"),
    }
}

impl Report<'_> {
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
        let nodes = self.nodes().map(|nodes| {
            let one = |on: &OnNode| json!({"node": node(on.node), "before": on.before, "after": on.after});
            nodes.iter().map(one).collect::<Vec<_>>()
        });
        value.extend([
            ("schema".into(), json!(SCHEMA)),
            ("command".into(), json!("move")),
            ("nodes".into(), json!(nodes)),
            ("exit_status".into(), json!(self.exit_status())),
            ("troubles".into(), json!(self.troubles())),
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
        if let Some(cpusets) = self.cpusets {
            value.insert("cpusets".into(), cpusets.to_json());
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
}
