// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate show`

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Row};
use page_migrate::Machine;
use serde_json::{json, Map, Value};

use crate::numa_maps::{self, Kind, Mounts, Usage};
use crate::{explain, text, Failure};

const BAR: u64 = 24;

pub(crate) fn run(pid: i32, as_json: bool) -> Result<ExitCode, Failure> {
    let usage = read(pid)?;
    if usage.total() == 0 && explain::status_field(pid, "VmSize").is_none() {
        return Err(explain::no_address_space(pid).into());
    }
    let mut nodes: BTreeSet<u32> = usage.nodes.keys().copied().collect();
    if let Ok(machine) = Machine::read() {
        nodes.extend(machine.memory());
    }
    let nodes: Vec<u32> = nodes.into_iter().collect();
    let out = if as_json {
        format!("{:#}\n", to_json(pid, &usage, &nodes))
    } else {
        format!("{}\n{}\n", explain::process(pid), to_table(&usage, &nodes))
    };
    text::print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn read(pid: i32) -> Result<Usage, String> {
    let explain_io = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound if fs::exists(format!("/proc/{pid}")).unwrap_or(false) => {
            "this kernel has no /proc/PID/numa_maps".into()
        }
        io::ErrorKind::NotFound => explain::no_process(pid),
        io::ErrorKind::PermissionDenied => explain::not_permitted(pid),
        // ESRCH: it exited while we were reading.
        _ if e.raw_os_error() == Some(3) => explain::no_process(pid),
        _ => format!("cannot read /proc/{pid}/numa_maps: {e}"),
    };
    // File names need not be UTF-8.
    let maps = fs::read(format!("/proc/{pid}/numa_maps")).map_err(explain_io)?;
    let mounts = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    Ok(numa_maps::parse(
        &String::from_utf8_lossy(&maps),
        &Mounts::parse(&String::from_utf8_lossy(&mounts)),
    ))
}

fn to_json(pid: i32, usage: &Usage, nodes: &[u32]) -> Value {
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
    json!({
        "pid": pid,
        "nodes": nodes,
        "bytes": kinds(&|kind| usage.of_kind(kind)),
        "total": usage.total(),
    })
}

fn to_table(usage: &Usage, nodes: &[u32]) -> String {
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| usage.of_kind(*kind) > 0)
        .collect();
    let size = |bytes: u64| {
        if bytes == 0 {
            "-".into()
        } else {
            text::bytes(bytes)
        }
    };
    let mut table = text::table();
    let mut header = vec!["node".to_owned()];
    header.extend(kinds.iter().map(|kind| kind.name().to_owned()));
    header.extend(["total".to_owned(), String::new()]);
    table.set_header(header);
    for node in nodes {
        let mut row = vec![node.to_string()];
        row.extend(kinds.iter().map(|kind| size(usage.get(*node, *kind))));
        row.push(size(usage.of_node(*node)));
        row.push(bar(usage.of_node(*node), usage.total()));
        table.add_row(row);
    }
    let mut row = vec!["all".to_owned()];
    row.extend(kinds.iter().map(|kind| size(usage.of_kind(*kind))));
    row.extend([size(usage.total()), String::new()]);
    table.add_row(Row::from(row));
    let last = table.column_count() - 1;
    for (i, column) in table.column_iter_mut().enumerate() {
        if i != last {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A bar for a part of a whole. Any part at all shows at least a bit.
fn bar(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return String::new();
    }
    let (full, bit) = if text::is_utf8() {
        ("█", "▏")
    } else {
        ("#", ":")
    };
    let wide = |n: u64| u128::from(n);
    let length = wide(part) * wide(BAR) / wide(whole);
    let percent = wide(part) * 100 / wide(whole);
    let bar = match usize::try_from(length) {
        Ok(0) | Err(_) => bit.to_owned(),
        Ok(n) => full.repeat(n),
    };
    format!("{bar} {percent}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        let maps = "1 default heap anon=256 N0=256 kernelpagesize_kB=4\n\
                    2 default anon=768 N2=768 kernelpagesize_kB=4\n";
        numa_maps::parse(maps, &Mounts::default())
    }

    #[test]
    fn table() {
        let table = to_table(&usage(), &[0, 1, 2]);
        let line = |start: &str| {
            let found = table.lines().find(|l| l.trim_start().starts_with(start));
            found.unwrap_or_else(|| panic!("no {start} in\n{table}"))
        };
        assert!(line("node").contains("heap") && line("node").contains("anon"));
        assert!(!line("node").contains("huge"));
        assert!(line("0 ").contains("1.00 MiB") && line("0 ").contains("25%"));
        assert!(line("1 ").contains('-') && !line("1 ").contains('%'));
        assert!(line("2 ").contains("3.00 MiB") && line("2 ").contains("75%"));
        assert!(line("all").contains("4.00 MiB"));
    }

    #[test]
    fn json_of_usage() {
        let value = to_json(7, &usage(), &[0, 1, 2]);
        assert_eq!(value["pid"], 7);
        assert_eq!(value["total"], 4 << 20);
        assert_eq!(value["nodes"][2]["node"], 2);
        assert_eq!(value["nodes"][2]["bytes"]["anon"], 3 << 20);
        assert_eq!(value["nodes"][1]["total"], 0);
        assert_eq!(value["bytes"]["heap"], 1 << 20);
    }

    #[test]
    fn bars() {
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(0, 0), "");
        assert!(bar(1, 1_000_000).contains("0%"));
        assert!(bar(u64::MAX, u64::MAX).ends_with(" 100%"));
    }
}
