// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate show`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use page_migrate::Machine;
use serde_json::{json, Map, Value};

use crate::cli::ShowArgs;
use crate::errors;
use crate::exit::{self, Failure};
use crate::proc::numa_maps::{self, Kind, Mapping, Mounts, Usage};
use crate::proc::slurm::Job;
use crate::proc::{status_field, Process, Selection};
use crate::report::SCHEMA;
use crate::term::{self, Column};

/// How long the bar of a whole is at most.
const BAR: usize = 24;

/// A process and its memory.
struct Shown {
    process: Process,
    mappings: Vec<Mapping>,
    usage: Usage,
}

pub(crate) fn run(args: &ShowArgs) -> Result<u8, Failure> {
    let selection = args.resolve()?;
    for disagrees in selection.jobs.iter().filter_map(Job::compare) {
        term::note(&disagrees);
    }
    let Some(seconds) = args.watch else {
        let (shown, troubles) = look(&selection);
        if let (true, [trouble, ..]) = (shown.is_empty(), &troubles[..]) {
            return Err(trouble.clone().into());
        }
        if shown.is_empty() {
            return Err(Failure::Error(
                "no process belongs to what was named".into(),
            ));
        }
        let text = if args.json {
            format!("{:#}\n", to_json(&shown, &selection, args.maps))
        } else {
            to_text(&shown, args.maps)
        };
        term::print(&text)?;
        for trouble in &troubles {
            term::complain(trouble);
        }
        return Ok(if troubles.is_empty() { 0 } else { exit::ERROR });
    };
    let redraws = io::stdout().is_terminal() && !term::is_dumb() && !args.json;
    let mut seen = false;
    loop {
        let (shown, troubles) = look(&selection);
        if shown.is_empty() {
            return match troubles.into_iter().next() {
                Some(trouble) if !seen => Err(trouble.into()),
                _ if !seen => Err(Failure::Error(
                    "no process belongs to what was named".into(),
                )),
                _ => Ok(0),
            };
        }
        seen = true;
        let text = if args.json {
            format!("{}\n", to_json(&shown, &selection, args.maps))
        } else if redraws {
            // From the upper left corner, on an empty screen.
            format!("\x1b[H\x1b[2J{}", to_text(&shown, args.maps))
        } else {
            format!("{}\n", to_text(&shown, args.maps))
        };
        term::print(&text)?;
        thread::sleep(Duration::from_secs_f64(seconds));
    }
}

/// What there is now, and what could not be looked at.
fn look(selection: &Selection) -> (Vec<Shown>, Vec<String>) {
    let mut processes = selection.named();
    let known: BTreeSet<i32> = processes.iter().map(|p| p.tgid).collect();
    processes.extend(selection.others(&known));
    let mut shown = Vec::new();
    let mut troubles = Vec::new();
    for process in processes {
        match read(process.pid) {
            Ok(mappings) => {
                let usage = Usage::of(&mappings);
                if usage.total() == 0 && status_field(process.pid, "VmSize").is_none() {
                    troubles.push(errors::no_address_space(process.pid));
                    continue;
                }
                shown.push(Shown {
                    process,
                    mappings,
                    usage,
                });
            }
            // What was found, and has exited since, nobody has asked for.
            Err(_) if process.is_gone() && !selection.pids.contains(&process.pid) => {}
            Err(trouble) => troubles.push(trouble),
        }
    }
    (shown, troubles)
}

fn read(pid: i32) -> Result<Vec<Mapping>, String> {
    let explain_io = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound if fs::exists(format!("/proc/{pid}")).unwrap_or(false) => {
            "this kernel has no /proc/PID/numa_maps".into()
        }
        io::ErrorKind::NotFound => errors::no_process(pid),
        io::ErrorKind::PermissionDenied => errors::not_permitted(pid),
        // ESRCH: it exited while we were reading.
        _ if e.raw_os_error() == Some(3) => errors::no_process(pid),
        _ => format!("cannot read /proc/{pid}/numa_maps: {e}"),
    };
    // File names need not be UTF-8.
    let maps = fs::read(format!("/proc/{pid}/numa_maps")).map_err(explain_io)?;
    let mounts = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    Ok(numa_maps::mappings(
        &String::from_utf8_lossy(&maps),
        &Mounts::parse(&String::from_utf8_lossy(&mounts)),
    ))
}

/// Of all processes together. What several of them map counts for each.
fn sum(shown: &[Shown]) -> Usage {
    let mut all = Usage::default();
    for one in shown {
        all.add(&one.usage);
    }
    all
}

/// The nodes that have memory, and those that something lies on.
fn nodes_of(usage: &Usage) -> Vec<u32> {
    let mut nodes: BTreeSet<u32> = usage.nodes.keys().copied().collect();
    if let Ok(machine) = Machine::read() {
        nodes.extend(machine.memory());
    }
    nodes.into_iter().collect()
}

fn to_json(shown: &[Shown], selection: &Selection, maps: bool) -> Value {
    let all = sum(shown);
    let nodes = nodes_of(&all);
    let processes = shown.iter().map(|one| {
        let mut value = usage_to_json(&one.usage, &nodes);
        value.insert("pid".into(), json!(one.process.pid));
        value.insert("name".into(), json!(one.process.name));
        if maps {
            let maps: Vec<Value> = one.mappings.iter().map(mapping_to_json).collect();
            value.insert("maps".into(), json!(maps));
        }
        Value::Object(value)
    });
    let processes: Vec<Value> = processes.collect();
    let mut value = usage_to_json(&all, &nodes);
    value.insert("schema".into(), json!(SCHEMA));
    value.insert("command".into(), json!("show"));
    value.insert("processes".into(), json!(processes));
    if let (true, [one]) = (selection.is_single(), shown) {
        value.insert("pid".into(), json!(one.process.pid));
    }
    Value::Object(value)
}

fn usage_to_json(usage: &Usage, nodes: &[u32]) -> Map<String, Value> {
    let kinds = |bytes: &dyn Fn(Kind) -> u64| -> Map<String, Value> {
        Kind::ALL
            .iter()
            .map(|kind| (kind.name().to_owned(), json!(bytes(*kind))))
            .collect()
    };
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|node| {
            json!({
                "node": node,
                "bytes": kinds(&|kind| usage.get(*node, kind)),
                "total": usage.of_node(*node),
            })
        })
        .collect();
    let mut value = Map::new();
    value.insert("nodes".into(), json!(nodes));
    value.insert("bytes".into(), json!(kinds(&|kind| usage.of_kind(kind))));
    value.insert("total".into(), json!(usage.total()));
    value
}

fn mapping_to_json(mapping: &Mapping) -> Value {
    let nodes = mapping.nodes.iter();
    let nodes: Vec<Value> = nodes
        .map(|(node, bytes)| json!({"node": node, "total": bytes}))
        .collect();
    json!({
        "start": mapping.start,
        "kind": mapping.kind.name(),
        "policy": mapping.policy,
        "file": mapping.file,
        "nodes": nodes,
        "total": mapping.total(),
    })
}

fn to_text(shown: &[Shown], maps: bool) -> String {
    let (width, utf8) = (term::width(), term::is_utf8());
    let mut out = String::new();
    if maps {
        for one in shown {
            out += &format!("{}\n", one.process.title());
            out += &mapping_table(&one.mappings, width, utf8);
        }
        return out;
    }
    let all = sum(shown);
    match shown {
        [one] => out += &format!("{}\n", one.process.title()),
        _ => out += &process_table(shown, &all, width, utf8),
    }
    out + &node_table(&all, &nodes_of(&all), width, utf8)
}

fn size(bytes: u64) -> String {
    if bytes == 0 {
        "-".into()
    } else {
        term::bytes(bytes)
    }
}

/// A line for each node.
fn node_table(usage: &Usage, nodes: &[u32], width: Option<usize>, utf8: bool) -> String {
    let mut node = Column::new("node");
    let mut total = Column::new("total");
    // The bar is worth less than numbers, the percentage more.
    let mut percent = Column::new(" ").rank(1);
    let parts = nodes.iter().map(|id| usage.of_node(*id)).collect();
    let bar = Column::bars(parts, usage.total(), BAR, utf8).rank(20);
    for id in nodes {
        let part = usage.of_node(*id);
        node.push(id.to_string());
        total.push(size(part));
        percent.push(percentage(part, usage.total()));
    }
    node.push("all");
    total.push(size(usage.total()));
    let mut columns = vec![node];
    let mut kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| usage.of_kind(*kind) > 0)
        .collect();
    // The smallest go first where there is no room.
    let mut by_size = kinds.clone();
    by_size.sort_by_key(|kind| std::cmp::Reverse(usage.of_kind(*kind)));
    for kind in kinds.drain(..) {
        let rank = by_size.iter().position(|other| *other == kind).unwrap_or(0);
        let mut column = Column::new(kind.name()).rank(2 + rank);
        for id in nodes {
            column.push(size(usage.get(*id, kind)));
        }
        column.push(size(usage.of_kind(kind)));
        columns.push(column);
    }
    columns.extend([total, percent, bar]);
    term::table(columns, width, utf8)
}

fn percentage(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return String::new();
    }
    format!("{}%", u128::from(part) * 100 / u128::from(whole))
}

/// A line for each process, a column for each node that has something.
fn process_table(shown: &[Shown], all: &Usage, width: Option<usize>, utf8: bool) -> String {
    let mut process = Column::new("process");
    let mut name = Column::new("name").left().cut_to(4);
    let mut total = Column::new("total");
    for one in shown {
        process.push(one.process.pid.to_string());
        let named = one.process.name.as_deref().unwrap_or_default();
        name.push(term::shown(named, utf8));
        total.push(size(one.usage.total()));
    }
    process.push("all");
    name.push("");
    total.push(size(all.total()));
    let mut columns = vec![process, name];
    let used = all.nodes.keys().filter(|node| all.of_node(**node) > 0);
    for (rank, node) in used.enumerate() {
        let mut column = Column::new(format!("node {node}")).rank(1 + rank);
        for one in shown {
            column.push(size(one.usage.of_node(*node)));
        }
        column.push(size(all.of_node(*node)));
        columns.push(column);
    }
    columns.push(total);
    term::table(columns, width, utf8)
}

/// A line for each mapping that has pages, the largest first.
fn mapping_table(mappings: &[Mapping], width: Option<usize>, utf8: bool) -> String {
    let mut there: Vec<&Mapping> = mappings.iter().filter(|m| m.total() > 0).collect();
    there.sort_by_key(|m| (std::cmp::Reverse(m.total()), m.start));
    let mut by_node: BTreeMap<u32, u64> = BTreeMap::new();
    for (node, bytes) in there.iter().flat_map(|m| &m.nodes) {
        let sum = by_node.entry(*node).or_default();
        *sum = sum.saturating_add(*bytes);
    }
    let mut start = Column::new("start").rank(2);
    let mut kind = Column::new("kind").left().rank(3);
    let mut policy = Column::new("policy").left().rank(90);
    let mut total = Column::new("total");
    let mut file = Column::new("file").left().cut_to(12).keep_end().rank(1);
    for mapping in &there {
        start.push(format!("{:x}", mapping.start));
        kind.push(mapping.kind.name());
        policy.push(mapping.policy.as_str());
        total.push(size(mapping.total()));
        let path = mapping.file.as_deref().unwrap_or_default();
        file.push(term::shown(path, utf8));
    }
    let mut columns = vec![start, kind, total];
    for (rank, node) in by_node.keys().enumerate() {
        let mut column = Column::new(format!("node {node}")).rank(10 + rank);
        for mapping in &there {
            column.push(size(mapping.nodes.get(node).copied().unwrap_or(0)));
        }
        columns.push(column);
    }
    columns.extend([policy, file]);
    term::table(columns, width, utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pid: i32, maps: &str) -> Shown {
        let mappings = numa_maps::mappings(maps, &Mounts::default());
        Shown {
            process: Process::new(pid),
            usage: Usage::of(&mappings),
            mappings,
        }
    }

    const ONE: &str = "1000 default heap anon=256 N0=256 kernelpagesize_kB=4\n\
                       2000 bind:2 anon=768 N2=768 kernelpagesize_kB=4\n\
                       3000 default file=/usr/lib/a-library-with-a-long-name.so N1=1 kernelpagesize_kB=4\n";

    #[track_caller]
    fn line<'t>(table: &'t str, start: &str) -> &'t str {
        let found = table.lines().find(|l| l.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in\n{table}"))
    }

    fn fits(text: &str, width: usize) {
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}\n{text}");
        }
    }

    #[test]
    fn by_node() {
        let one = shown(i32::MAX, ONE);
        let nodes = [0, 1, 2];
        let table = node_table(&one.usage, &nodes, None, true);
        let line = |start: &str| line(&table, start);
        assert!(line("node").contains("heap") && line("node").contains("anon"));
        assert!(!line("node").contains("huge"));
        assert!(line("0 ").contains("1.00 MiB") && line("0 ").contains("24%"));
        assert!(line("2 ").contains("3.00 MiB") && line("2 ").contains("74%"));
        assert!(line("2 ").contains("████"));
        assert!(line("all").contains("4.00 MiB"));
        for width in [40, 80, 120] {
            let table = node_table(&one.usage, &nodes, Some(width), false);
            assert!(table.is_ascii(), "{table}");
            fits(&table, width);
            assert!(
                table.contains("4.00 MiB") && table.contains("74%"),
                "{table}"
            );
        }
    }

    #[test]
    fn by_process() {
        let both = [shown(i32::MAX, ONE), shown(i32::MAX - 1, ONE)];
        let all = sum(&both);
        let table = process_table(&both, &all, None, true);
        assert!(line(&table, "process").contains("node 2"), "{table}");
        assert!(line(&table, "2147483646").contains("3.00 MiB"), "{table}");
        assert!(line(&table, "all").contains("6.00 MiB"), "{table}");
        for width in [40, 80, 120] {
            let table = process_table(&both, &all, Some(width), true);
            fits(&table, width);
            assert!(line(&table, "all").contains("8.01 MiB"), "{table}");
        }
    }

    #[test]
    fn by_mapping() {
        let one = shown(i32::MAX, ONE);
        let table = mapping_table(&one.mappings, None, true);
        let at = |word: &str| {
            table
                .find(word)
                .unwrap_or_else(|| panic!("{word}\n{table}"))
        };
        assert!(at("2000") < at("1000") && at("1000") < at("3000"));
        assert!(at("bind:2") > 0 && at("long-name.so") > 0);
        for width in [40, 80, 120] {
            fits(&mapping_table(&one.mappings, Some(width), true), width);
        }
    }

    #[test]
    fn json_of_usage() {
        let selection = Selection {
            pids: vec![7],
            ..Selection::default()
        };
        let mut one = shown(i32::MAX, ONE);
        one.process.pid = 7;
        let value = to_json(&[one], &selection, true);
        assert_eq!(value["pid"], 7);
        assert_eq!(value["total"], (4 << 20) + 4096);
        assert_eq!(value["bytes"]["heap"], 1 << 20);
        let process = &value["processes"][0];
        assert_eq!(process["total"], value["total"]);
        assert_eq!(process["maps"][1]["policy"], "bind:2");
        assert_eq!(
            process["maps"][2]["file"],
            "/usr/lib/a-library-with-a-long-name.so"
        );
        let nodes = value["nodes"].as_array().unwrap();
        let two = nodes.iter().find(|n| n["node"] == 2).unwrap();
        assert_eq!(two["bytes"]["anon"], 3 << 20);
    }

    #[test]
    fn percentages() {
        assert_eq!(percentage(0, 10), "");
        assert_eq!(percentage(0, 0), "");
        assert_eq!(percentage(1, 1_000_000), "0%");
        assert_eq!(percentage(u64::MAX, u64::MAX), "100%");
    }
}
