// SPDX-License-Identifier: GPL-2.0

//! What went wrong and what to do about it.

use std::fs;
use std::io;

use page_migrate::cpus::CpuSet;
use page_migrate::{Error, Machine, Node, NodeMap};

use crate::proc::{name, read, status_field};
use crate::term;

/// "process 12 (cat)"
pub(crate) fn process(pid: i32) -> String {
    match name(pid) {
        Some(name) => format!("process {pid} ({})", term::shown(&name, term::is_utf8())),
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
            term::list(all)
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
        Error::Open { source, .. } => format!("{error}\n{}", no_device(source))
            .trim_end()
            .to_owned(),
        Error::NotSupported => {
            "the device does not know this call: is another or an older module loaded?".into()
        }
        other => other.to_string(),
    }
}

/// What to do where the device cannot be opened.
fn no_device(source: &io::Error) -> &'static str {
    match (source.kind(), source.raw_os_error()) {
        (io::ErrorKind::NotFound, _) => {
            "Is the module loaded? Look with 'lsmod | grep page_migrate'. Load it as root, with \
             'insmod page_migrate.ko' or 'modprobe page_migrate'. In a container, load it outside \
             and pass the device in (--device /dev/page_migrate)."
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "The device is made for everybody (mode 0666). Look at its mode, and in a container at \
             its device rules (--device /dev/page_migrate)."
        }
        (_, Some(ENXIO | ENODEV)) => {
            "The device node is there, but no module serves it: load page_migrate.ko. In a \
             container, load it outside, and start the container anew: the number of the device \
             changes each time the module is loaded."
        }
        _ => "",
    }
}

const ENXIO: i32 = 6;
const ENODEV: i32 = 19;

/// An error of a call about a process, or a part of it.
pub(crate) fn call(error: &Error, pid: i32, map: &NodeMap, in_part: bool) -> String {
    match error {
        Error::NotPermitted => not_permitted(pid),
        Error::NoSuchProcess => no_process(pid),
        Error::NoSuchNode => no_node(),
        Error::InvalidArgument => invalid(pid, map, in_part),
        Error::OutOfMemory => "the kernel has no memory left for the call itself".into(),
        other => device(other),
    }
}

/// Nodes as the kernel writes them: 0-3,8.
pub(crate) fn node_list(nodes: &[u32]) -> String {
    let numbers = nodes.iter().filter_map(|n| usize::try_from(*n).ok());
    CpuSet::from_iter(numbers).to_string()
}

/// The nodes of this machine that a map can name, beside those that have memory.
#[derive(Debug, Default)]
pub(crate) struct KnownNodes {
    pub(crate) possible: Vec<u32>,
    pub(crate) online: Vec<u32>,
}

impl KnownNodes {
    pub(crate) fn read(machine: &Machine) -> Self {
        let list = |name: &str| {
            let text = read(format!("/sys/devices/system/node/{name}")).unwrap_or_default();
            machine.parse_nodes(&text).unwrap_or_default()
        };
        KnownNodes {
            possible: list("possible"),
            online: list("online"),
        }
    }
}

/// Whether this machine has the nodes of a map, before anything else is asked about them. What
/// is possible, but moves nothing, is returned as notes.
pub(crate) fn check_nodes(
    map: &NodeMap,
    machine: &Machine,
    known: &KnownNodes,
) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    let no_such = |id: u32| {
        format!(
            "no such node: {id}. This machine has {}",
            node_list(&known.online)
        )
    };
    for pair in map.pairs() {
        match pair.new {
            Node::Id(id) if machine.memory().contains(&id) => {}
            Node::Id(id) if known.online.contains(&id) => {
                return Err(format!(
                    "node {id} has no memory that pages could move to. Nodes with memory: {}",
                    node_list(machine.memory())
                ))
            }
            Node::Id(id) => return Err(no_such(id)),
            Node::Any => {}
        }
        match pair.old {
            Node::Id(id) if machine.memory().contains(&id) => {}
            Node::Id(id) if known.online.contains(&id) || known.possible.contains(&id) => {
                notes.push(format!(
                    "node {id} has no memory, so there is nothing to move away from it. Nodes \
                     with memory: {}",
                    node_list(machine.memory())
                ));
            }
            Node::Id(id) => return Err(no_such(id)),
            Node::Any => {}
        }
    }
    if map.pairs().iter().all(|pair| pair.old == pair.new) {
        notes.push("this map moves nothing: it sends each node to itself".into());
    }
    Ok(notes)
}

/// The kernel knows one of the nodes no more.
fn no_node() -> String {
    match Machine::read() {
        Ok(machine) => format!(
            "a node of the map is offline or has no memory. Nodes with memory: {}",
            node_list(machine.memory())
        ),
        Err(_) => "a node of the map is offline or has no memory".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_looked_up_first() {
        let machine = Machine::new(&[0, 1, 2], &[0, 1]);
        let known = KnownNodes {
            possible: vec![0, 1, 2, 3, 4],
            online: vec![0, 1, 2, 3],
        };
        let check =
            |text: &str| check_nodes(&NodeMap::parse(text, &machine).unwrap(), &machine, &known);
        for text in ["0:1", "0-1:2", "all:2", "2:any", "0:1 1:0", "all:2 0:0"] {
            assert_eq!(check(text), Ok(Vec::new()), "{text}");
        }
        let no_such = Err("no such node: 9. This machine has 0-3".to_owned());
        assert_eq!(check("0:9"), no_such);
        assert_eq!(check("9:0"), no_such);
        let told = check("0:3").unwrap_err();
        assert!(told.contains("node 3 has no memory"), "{told}");
        assert!(told.ends_with("Nodes with memory: 0-2"), "{told}");
        assert!(check("0:4").unwrap_err().contains("no such node: 4"));
        for text in ["3:0", "4:0"] {
            let notes = check(text).unwrap();
            assert!(notes[0].contains("nothing to move away"), "{notes:?}");
        }
        assert!(check("0:0 1:1").unwrap()[0].contains("moves nothing"));
    }

    #[test]
    fn a_device_that_cannot_be_opened() {
        for (errno, hint) in [
            (2, "insmod"),
            (13, "0666"),
            (ENXIO, "no module serves it"),
            (ENODEV, "start the container anew"),
        ] {
            let told = device(&Error::Open {
                path: "/dev/page_migrate".into(),
                source: io::Error::from_raw_os_error(errno),
            });
            assert!(told.contains(hint), "{told}");
            assert!(told.starts_with("cannot open /dev/page_migrate"), "{told}");
        }
    }
}
