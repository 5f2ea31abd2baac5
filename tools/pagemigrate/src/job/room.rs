// SPDX-License-Identifier: GPL-2.0

//! Whether the new nodes can have room for what is to move.
//!
//! The answer is "no" only where that is certain: what moves is estimated low, and the room high.
//! Pages of hugetlbfs, which have room of their own, are left out.

use page_migrate::{destination, page_size, Machine, Node, Pair};

use crate::errors::node_list;
use crate::proc::{kilobytes, read, Resident};
use crate::term;

/// Memory of a node that something can move to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) node: u32,
    /// Nobody has it.
    pub(crate) free: u64,
    /// What the kernel could give back, with `free`.
    pub(crate) available: u64,
}

impl Room {
    pub(crate) fn read(node: u32) -> Option<Self> {
        let text = read(format!("/sys/devices/system/node/node{node}/meminfo"))?;
        Self::parse(node, &text)
    }

    fn parse(node: u32, meminfo: &str) -> Option<Self> {
        let field = |name: &str| kilobytes(meminfo, &format!("Node {node} {name}:"));
        let free = field("MemFree")?;
        let available = ["Active(file)", "Inactive(file)", "SReclaimable"]
            .iter()
            .filter_map(|name| field(name))
            .fold(free, u64::saturating_add);
        Some(Room {
            node,
            free,
            available,
        })
    }
}

/// What would move of one process.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Pages, by pair.
    pub(crate) moved_by_pair: Vec<u64>,
    pub(crate) resident: Resident,
}

impl Load {
    /// Bytes that are certain to need a place: of what several map, each has a share only.
    fn at_least(&self, pair: usize) -> u64 {
        let shared = self.resident.all.saturating_sub(self.resident.share);
        let others = shared.saturating_add(self.resident.huge);
        self.most(pair).saturating_sub(others)
    }

    /// Bytes that may move.
    fn most(&self, pair: usize) -> u64 {
        let pages = self.moved_by_pair.get(pair).copied().unwrap_or(0);
        pages.saturating_mul(page_size())
    }
}

/// The nodes that pages of `pairs` can come to.
pub(crate) fn new_nodes(pairs: &[Pair], machine: &Machine) -> Vec<u32> {
    let any = pairs.iter().any(|pair| pair.new == Node::Any);
    let is_new = |node: &u32| {
        pairs.iter().any(|pair| pair.new == Node::Id(*node))
            || (any && !pairs.iter().any(|pair| pair.old == Node::Id(*node)))
    };
    machine.memory().iter().copied().filter(is_new).collect()
}

/// Says what is missing, if not all of it can have room. With `strict` each page needs it on the
/// node that its pair names.
pub(crate) fn lacking(
    pairs: &[Pair],
    strict: bool,
    loads: &[Load],
    rooms: &[Room],
) -> Option<String> {
    let sum = |of: &dyn Fn(&Load, usize) -> u64, which: &dyn Fn(&Pair) -> bool| {
        pairs
            .iter()
            .enumerate()
            .filter(|(_, pair)| pair.old != pair.new && which(pair))
            .flat_map(|(i, _)| loads.iter().map(move |load| of(load, i)))
            .fold(0u64, u64::saturating_add)
    };
    // What leaves a node makes room there.
    let room = |room: &Room| {
        let leaves = sum(&Load::most, &|pair| match pair.old {
            Node::Id(id) => id == room.node,
            Node::Any => destination(pairs, room.node).is_some(),
        });
        room.available.saturating_add(leaves)
    };
    let told = |nodes: &[u32], need: u64, have: u64| {
        let (s, have_no) = match nodes {
            [_] => ("", "has"),
            _ => ("s", "have"),
        };
        format!(
            "node{s} {} {have_no} no room for all: at least {} would move there, and at most {} \
             can be made free.\nFree memory there, name more new nodes, or move what fits with \
             --no-room-check",
            node_list(nodes),
            term::bytes(need),
            term::bytes(have)
        )
    };
    if strict && pairs.iter().all(|pair| pair.new != Node::Any) {
        return rooms.iter().find_map(|one| {
            let need = sum(&Load::at_least, &|pair| pair.new == Node::Id(one.node));
            let have = room(one);
            (need > have).then(|| told(&[one.node], need, have))
        });
    }
    let need = sum(&Load::at_least, &|_| true);
    let have = rooms.iter().map(room).fold(0, u64::saturating_add);
    let nodes: Vec<u32> = rooms.iter().map(|one| one.node).collect();
    (need > have).then(|| told(&nodes, need, have))
}

#[cfg(test)]
mod tests {
    use super::*;
    use page_migrate::NodeMap;

    fn machine() -> Machine {
        Machine::new(&[0, 1, 2, 3], &[0, 1, 2, 3])
    }

    fn load(pages: &[u64], all: u64, share: u64) -> Load {
        let page = page_size();
        Load {
            moved_by_pair: pages.to_vec(),
            resident: Resident {
                all: all * page,
                share: share * page,
                huge: 0,
            },
        }
    }

    /// Pages that each node has room for.
    fn check(map: &str, strict: bool, loads: &[Load], room: [u64; 4]) -> Option<String> {
        let map = NodeMap::parse(map, &machine()).unwrap();
        let rooms: Vec<Room> = new_nodes(map.pairs(), &machine())
            .into_iter()
            .map(|node| {
                let free = room[node as usize] * page_size();
                Room {
                    node,
                    free,
                    available: free,
                }
            })
            .collect();
        lacking(map.pairs(), strict, loads, &rooms)
    }

    #[test]
    fn meminfo() {
        let text = "Node 2 MemTotal:  100 kB\nNode 2 MemFree:   10 kB\n\
                    Node 2 Active(file):  3 kB\nNode 2 Inactive(file): 4 kB\n\
                    Node 2 SReclaimable: 5 kB\n";
        let room = Room::parse(2, text).unwrap();
        assert_eq!((room.free, room.available), (10 << 10, 22 << 10));
        assert_eq!(Room::parse(1, text), None);
    }

    #[test]
    fn room_is_enough_or_not() {
        let one = [load(&[100], 120, 120)];
        assert_eq!(check("0:1", false, &one, [0, 100, 0, 0]), None);
        let told = check("0:1", false, &one, [0, 99, 0, 0]).unwrap();
        assert!(told.starts_with("node 1 has no room"), "{told}");
        assert!(told.contains("--no-room-check"), "{told}");
        // Where one is full, the other new node takes it; not with --strict.
        let two = [load(&[100, 100], 200, 200)];
        assert_eq!(check("0:2 1:3", false, &two, [0, 0, 10, 190]), None);
        let told = check("0:2 1:3", true, &two, [0, 0, 10, 190]).unwrap();
        assert!(told.starts_with("node 2 has no room"), "{told}");
        let told = check("0:2 1:3", false, &two, [0, 0, 10, 189]).unwrap();
        assert!(told.starts_with("nodes 2-3 have no room"), "{told}");
    }

    #[test]
    fn a_swap_makes_room_for_itself() {
        let one = [load(&[100, 100], 200, 200)];
        assert_eq!(check("0:1 1:0", true, &one, [0, 0, 0, 0]), None);
        assert!(check("0:1 1:0", true, &[load(&[100, 10], 110, 110)], [0; 4]).is_some());
    }

    #[test]
    fn what_several_map_needs_room_once() {
        // Four processes that map the same 100 pages, and ten of their own each.
        let four = vec![load(&[110], 110, 35); 4];
        assert_eq!(check("0:1", false, &four, [0, 140, 0, 0]), None);
        assert!(check("0:1", false, &four, [0, 139, 0, 0]).is_some());
        // One that maps 100 pages three times.
        let one = [load(&[300], 300, 100)];
        assert_eq!(check("0:1", false, &one, [0, 100, 0, 0]), None);
    }

    #[test]
    fn huge_pages_have_room_of_their_own() {
        let mut one = load(&[612], 100, 100);
        one.resident.huge = 512 * page_size();
        assert_eq!(check("0:1", false, &[one], [0, 100, 0, 0]), None);
    }

    #[test]
    fn wildcards() {
        let one = [load(&[100], 100, 100)];
        assert_eq!(check("0:any", false, &one, [0, 50, 25, 25]), None);
        assert!(check("0:any", false, &one, [1000, 50, 25, 24]).is_some());
        assert_eq!(check("all:1", false, &one, [0, 100, 0, 0]), None);
        assert_eq!(check("0:0", false, &one, [0; 4]), None);
    }
}
