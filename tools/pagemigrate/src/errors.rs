// SPDX-License-Identifier: GPL-2.0

//! What went wrong and what to do about it.

use std::fs;
use std::io;
use std::path::Path;

use page_migrate::{Error, Machine, Node, NodeMap};

use crate::text;

/// A text of /proc. Names need not be UTF-8.
pub(crate) fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

/// A field of /proc/PID/status.
pub(crate) fn status_field(pid: i32, field: &str) -> Option<String> {
    let status = read(format!("/proc/{pid}/status"))?;
    status.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().to_owned())
    })
}

/// The name of a process. Whoever gave it must not have it control a terminal.
pub(crate) fn name(pid: i32) -> Option<String> {
    status_field(pid, "Name").map(|name| name.replace(char::is_control, "?"))
}

/// "process 12 (cat)"
pub(crate) fn process(pid: i32) -> String {
    match name(pid) {
        Some(name) => format!("process {pid} ({name})"),
        None => format!("process {pid}"),
    }
}

fn user_name(uid: &str) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then_some(name)
    });
    match name {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

/// Whose process it is, as far as one can see.
fn owner(pid: i32) -> Option<String> {
    let uids = status_field(pid, "Uid")?;
    uids.split_whitespace().next().map(user_name)
}

fn me() -> String {
    let own = i32::try_from(std::process::id()).ok().and_then(owner);
    own.unwrap_or_else(|| "an unknown user".into())
}

/// The process may not be looked at or moved.
pub(crate) fn not_permitted(pid: i32) -> String {
    let whose = match owner(pid) {
        Some(owner) => format!("belongs to user {owner}"),
        None => "belongs to another user".into(),
    };
    format!(
        "not permitted: {} {whose}, and you are user {}.\n\
         Be that user (a process that changed its user or is not dumpable is closed even to \
         it), or have CAP_SYS_PTRACE, as root has: try sudo. To move also pages that other \
         processes map, have CAP_SYS_NICE. In a container, see its capabilities and seccomp \
         profile; a security module (SELinux, AppArmor, Yama) can forbid it too.",
        process(pid),
        me()
    )
}

pub(crate) fn no_process(pid: i32) -> String {
    format!("no process {pid}: it has exited or is not in this pid namespace")
}

/// The same of several processes.
pub(crate) fn no_processes(pids: &[i32]) -> String {
    match pids {
        [one] => no_process(*one),
        all => format!(
            "no processes {}: they have exited or are not in this pid namespace",
            text::list(all)
        ),
    }
}

pub(crate) fn no_address_space(pid: i32) -> String {
    format!(
        "{} has no address space: it is a kernel thread, or it is exiting",
        process(pid)
    )
}

/// An error of a call that is about the device alone.
pub(crate) fn device(error: &Error) -> String {
    match error {
        Error::Open { source, .. } => {
            let hint = match source.kind() {
                io::ErrorKind::NotFound => {
                    "Is the module loaded? Look with 'lsmod | grep page_migrate'; load it, as \
                     root, with 'insmod page_migrate.ko' (or modprobe page_migrate). In a \
                     container, pass the device in."
                }
                io::ErrorKind::PermissionDenied => {
                    "The device is made for everybody (mode 0666). Look at its mode, and in a \
                     container at its device rules."
                }
                _ if source.raw_os_error() == Some(6) => {
                    "The device node is there, but no module serves it: load page_migrate.ko."
                }
                _ => "",
            };
            format!("{error}\n{hint}").trim_end().to_owned()
        }
        Error::NotSupported => {
            "the device does not know this call: is another or an older module loaded?".into()
        }
        other => other.to_string(),
    }
}

/// An error of a call about a process, or a part of it.
pub(crate) fn call(error: &Error, pid: i32, map: &NodeMap, in_part: bool) -> String {
    match error {
        Error::NotPermitted => not_permitted(pid),
        Error::NoSuchProcess => no_process(pid),
        Error::NoSuchNode => no_node(map),
        Error::InvalidArgument => invalid(pid, map, in_part),
        Error::OutOfMemory => "the kernel has no memory left for the call itself".into(),
        other => device(other),
    }
}

fn no_node(map: &NodeMap) -> String {
    let Ok(machine) = Machine::read() else {
        return "a node of the map does not exist or has no memory".into();
    };
    let have = machine
        .memory()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let without = |node: Node| match node {
        Node::Id(id) => !machine.memory().contains(&id),
        Node::Any => false,
    };
    let bad_new = map.pairs().iter().map(|p| p.new).find(|n| without(*n));
    let bad_old = map.pairs().iter().map(|p| p.old).find(|n| without(*n));
    match (bad_new, bad_old) {
        (Some(node), _) => {
            format!("new node {node} is offline or has no memory. Nodes with memory: {have}")
        }
        (None, Some(node)) => {
            format!("old node {node} does not exist here. Nodes with memory: {have}")
        }
        (None, None) => format!("a node of the map does not exist. Nodes with memory: {have}"),
    }
}

fn invalid(pid: i32, map: &NodeMap, in_part: bool) -> String {
    // A kernel thread and a process on its way out have no memory to speak of.
    if status_field(pid, "VmSize").is_none() {
        return no_address_space(pid);
    }
    if let (Some(list), Ok(machine)) = (status_field(pid, "Mems_allowed_list"), Machine::read()) {
        let allowed = machine.parse_nodes(&list).unwrap_or_default();
        let outside = map.pairs().iter().find_map(|p| match p.new {
            Node::Id(id) if !allowed.contains(&id) => Some(id),
            _ => None,
        });
        if let Some(node) = outside {
            return format!(
                "new node {node} is outside the cpuset of {}, which has nodes {list}.\n\
                 Widen the cpuset first (cpuset.mems of its control group).",
                process(pid)
            );
        }
    }
    if in_part {
        return "invalid argument: either the map names a node that this machine cannot have, or \
                the module was loaded with self_ranges_only=1, with which a process can give a \
                range only for itself (then leave --range away)"
            .into();
    }
    "invalid argument: the map names a node that this machine cannot have, or nodes for which \
     'any' finds no other; or the module does not know one of the options (see pagemigrate info)"
        .into()
}
