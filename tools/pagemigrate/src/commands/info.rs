// SPDX-License-Identifier: GPL-2.0

//! `pagemigrate info`

use std::fs;

use page_migrate::{Device, Info, Machine};
use serde_json::{json, Value};

use crate::errors::{self, node_list, KnownNodes};
use crate::exit::Failure;
use crate::proc::read;
use crate::report::SCHEMA;
use crate::term;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(json: bool) -> Result<u8, Failure> {
    let info = Device::open()
        .and_then(|device| device.info())
        .map_err(|e| errors::device(&e))?;
    let machine = Machine::read().map_err(|e| format!("cannot read the machine's nodes: {e}"))?;
    let known = KnownNodes::read(&machine);
    let text = if json {
        format!("{:#}\n", to_json(&info, &machine, &known))
    } else {
        term::wrapped(
            &to_text(&info, &machine, &known),
            term::width(),
            "node numbers:      ".len(),
        )
    };
    term::print(&text)?;
    Ok(0)
}

/// What the loaded module says of itself.
fn module(what: &str) -> Option<String> {
    let text = read(format!("/sys/module/page_migrate/{what}"))?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What its linker has written into the loaded module: no other build has the same.
fn build_id() -> Option<String> {
    let note = fs::read("/sys/module/page_migrate/notes/.note.gnu.build-id").ok()?;
    id_of(&note)
}

/// The ID in an ELF note, which comes after three numbers and the name "GNU".
fn id_of(note: &[u8]) -> Option<String> {
    let id = note.strip_prefix(&[4, 0, 0, 0])?.get(12..)?;
    let mut text = String::new();
    for byte in id {
        text += &format!("{byte:02x}");
    }
    Some(text).filter(|text| !text.is_empty())
}

fn to_text(info: &Info, machine: &Machine, known: &KnownNodes) -> String {
    let version = match (module("version"), build_id()) {
        (Some(version), _) => version,
        (None, Some(id)) => format!("build {}", id.get(..12).unwrap_or(&id)),
        (None, None) => "which does not tell its version".into(),
    };
    let numbers = info.max_nodes.saturating_sub(1);
    format!(
        "command:           pagemigrate {VERSION}\n\
         module:            page_migrate, {version}\n\
         node numbers:      0-{numbers}\n\
         nodes online:      {}\n\
         nodes with memory: {}\n\
         workers:           {} at most\n\
         flags:             {}\n",
        node_list(&known.online),
        node_list(machine.memory()),
        info.max_workers,
        info.flag_names().join(" ")
    )
}

fn to_json(info: &Info, machine: &Machine, known: &KnownNodes) -> Value {
    json!({
        "schema": SCHEMA,
        "command": "info",
        "version": VERSION,
        "module_version": module("version"),
        "module_build_id": build_id(),
        "max_nodes": info.max_nodes,
        "max_workers": info.max_workers,
        "flags": info.flag_names(),
        "nodes_online": known.online,
        "nodes_with_memory": machine.memory(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_ids() {
        let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0\x01\xab\xff";
        assert_eq!(id_of(note).as_deref(), Some("01abff"));
        for bad in [
            &b""[..],
            b"\x04\0\0\0",
            b"\x05\0\0\0\0\0\0\0\0\0\0\0GNU\0x",
            &note[..16],
        ] {
            assert_eq!(id_of(bad), None);
        }
    }
}
