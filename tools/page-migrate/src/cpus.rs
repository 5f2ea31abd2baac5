// SPDX-License-Identifier: MIT OR Apache-2.0

//! CPUs of nodes, and the CPUs that threads may run on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use crate::{destination, Node, Pair};

/// A set of CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(BTreeSet<usize>);

/// More CPUs than any kernel can have: asked for with a mask of this size, the
/// kernel gives all that it has.
const MAX_CPUS: usize = 64 * 1024;

impl CpuSet {
    /// Reads a list of the kernel's: `0-3,8`, or nothing.
    pub fn parse(list: &str) -> Option<Self> {
        let mut set = BTreeSet::new();
        for part in list.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if last >= MAX_CPUS {
                return None;
            }
            set.extend(first..=last);
        }
        Some(CpuSet(set))
    }

    /// Its CPUs, the lowest first.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// Whether there is no CPU in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a CPU is in it.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether each of its CPUs is in the other one, too.
    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Whether they have no CPU in common.
    pub fn is_disjoint(&self, other: &CpuSet) -> bool {
        self.0.is_disjoint(&other.0)
    }

    /// Takes the CPUs of another one in.
    pub fn extend(&mut self, other: &CpuSet) {
        self.0.extend(&other.0);
    }

    /// The CPUs that are in both.
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.intersection(&other.0).copied().collect())
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<T: IntoIterator<Item = usize>>(cpus: T) -> Self {
        CpuSet(cpus.into_iter().collect())
    }
}

/// As the kernel writes it: `0-3,8`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut cpus = self.0.iter().copied().peekable();
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

const WORD: usize = u64::BITS as usize;

/// The CPUs that a thread may run on. 0 is the caller.
pub fn affinity(tid: i32) -> io::Result<CpuSet> {
    let mut mask = vec![0u64; MAX_CPUS / WORD];
    // SAFETY: the mask has as many bytes as we say.
    let done = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            size_of_val(mask.as_slice()),
            mask.as_mut_ptr(),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..MAX_CPUS)
        .filter(|cpu| mask[cpu / WORD] & (1 << (cpu % WORD)) != 0)
        .collect())
}

/// Says which CPUs a thread may run on. Its cpuset limits them further. 0 is
/// the caller.
pub fn set_affinity(tid: i32, cpus: &CpuSet) -> io::Result<()> {
    let mut mask = vec![0u64; MAX_CPUS / WORD];
    for cpu in &cpus.0 {
        let word = mask
            .get_mut(cpu / WORD)
            .ok_or(io::ErrorKind::InvalidInput)?;
        *word |= 1 << (cpu % WORD);
    }
    // SAFETY: the mask has as many bytes as we say.
    let done = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            tid,
            size_of_val(mask.as_slice()),
            mask.as_ptr(),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The nodes that are online, with their CPUs and distances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    nodes: BTreeMap<u32, (CpuSet, Vec<u32>)>,
}

impl Topology {
    /// This machine's.
    pub fn read() -> io::Result<Self> {
        Self::read_at(Path::new("/sys/devices/system/node"))
    }

    /// The one that a folder like /sys/devices/system/node tells of.
    pub fn read_at(folder: &Path) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "odd text in sysfs");
        let online = fs::read_to_string(folder.join("online"))?;
        let mut nodes = BTreeMap::new();
        // Numbers of nodes are written like those of CPUs.
        for node in CpuSet::parse(&online).ok_or_else(bad)?.0 {
            let folder = folder.join(format!("node{node}"));
            let cpus = CpuSet::parse(&fs::read_to_string(folder.join("cpulist"))?);
            let distance = fs::read_to_string(folder.join("distance"))?
                .split_whitespace()
                .map(|d| d.parse().map_err(|_| bad()))
                .collect::<Result<Vec<u32>, _>>()?;
            let node = u32::try_from(node).map_err(|_| bad())?;
            nodes.insert(node, (cpus.ok_or_else(bad)?, distance));
        }
        Ok(Topology { nodes })
    }

    /// The CPUs of a node; none if there is no such node.
    pub fn cpus(&self, node: u32) -> CpuSet {
        self.nodes
            .get(&node)
            .map(|(cpus, _)| cpus.clone())
            .unwrap_or_default()
    }

    /// The CPUs of all nodes.
    pub fn all_cpus(&self) -> CpuSet {
        let mut all = CpuSet::default();
        for (cpus, _) in self.nodes.values() {
            all.extend(cpus);
        }
        all
    }

    /// The CPUs of the nodes that the pairs empty.
    pub fn old_cpus(&self, pairs: &[Pair]) -> CpuSet {
        let mut old = CpuSet::default();
        for (node, (cpus, _)) in &self.nodes {
            if destination(pairs, *node).is_some() {
                old.extend(cpus);
            }
        }
        old
    }

    /// The CPUs of the nodes to which the pages of the nodes of `cpus` go.
    /// Empty where those have none.
    pub fn new_cpus(&self, cpus: &CpuSet, pairs: &[Pair]) -> CpuSet {
        let mut new = CpuSet::default();
        for (node, (own, _)) in &self.nodes {
            if own.is_disjoint(cpus) {
                continue;
            }
            match destination(pairs, *node) {
                None => new.extend(&own.intersection(cpus)),
                Some(Node::Id(to)) => new.extend(&self.cpus(to)),
                Some(Node::Any) => new.extend(&self.nearest(*node, pairs)),
            }
        }
        new
    }

    /// For each of `cpus` that is on an old node, one of the new node: the first CPU of a node goes
    /// to the first one, and so on, or to the next one that nothing else has, neither of `cpus` nor of
    /// `taken`. Where a node has too few, those of `taken` serve as well. A CPU for which there is
    /// none at all is left out.
    pub fn counterparts(
        &self,
        cpus: &CpuSet,
        pairs: &[Pair],
        taken: &CpuSet,
    ) -> BTreeMap<usize, usize> {
        let mut used = CpuSet::default();
        let mut moves = Vec::new();
        for (node, (own, _)) in &self.nodes {
            match destination(pairs, *node) {
                None => used.extend(&own.intersection(cpus)),
                Some(Node::Id(to)) => moves.push((own, self.cpus(to))),
                Some(Node::Any) => moves.push((own, self.nearest(*node, pairs))),
            }
        }
        let mut map = BTreeMap::new();
        for (own, to) in moves {
            let to: Vec<usize> = to.iter().collect();
            let ranks = own.iter().enumerate();
            for (rank, cpu) in ranks.filter(|(_, cpu)| cpus.contains(*cpu)) {
                let in_turn = || to.iter().cycle().skip(rank).take(to.len()).copied();
                let new = in_turn()
                    .find(|new| !used.contains(*new) && !taken.contains(*new))
                    .or_else(|| in_turn().find(|new| !used.contains(*new)))
                    .or_else(|| in_turn().next());
                used.0.extend(new);
                map.extend(new.map(|new| (cpu, new)));
            }
        }
        map
    }

    /// The CPUs of the nearest node that has some and that no pair empties.
    fn nearest(&self, node: u32, pairs: &[Pair]) -> CpuSet {
        let Some((_, distances)) = self.nodes.get(&node) else {
            return CpuSet::default();
        };
        self.nodes
            .iter()
            .zip(distances)
            .filter(|((other, (cpus, _)), _)| {
                !cpus.is_empty() && !pairs.iter().any(|p| p.old == Node::Id(**other))
            })
            .min_by_key(|(_, distance)| **distance)
            .map(|((_, (cpus, _)), _)| cpus.clone())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> CpuSet {
        CpuSet::parse(list).unwrap()
    }

    /// Two CPUs on each node but 3, which has none; 1 and 2 are close.
    fn topology() -> Topology {
        let node = |cpus: &str, distance: [u32; 4]| (set(cpus), distance.to_vec());
        Topology {
            nodes: BTreeMap::from([
                (0, node("0-1", [10, 30, 20, 30])),
                (1, node("2-3", [30, 10, 15, 12])),
                (2, node("4-5", [20, 15, 10, 40])),
                (5, node("", [30, 12, 40, 10])),
            ]),
        }
    }

    fn pairs(pairs: &[(Node, Node)]) -> Vec<Pair> {
        pairs
            .iter()
            .map(|(old, new)| Pair {
                old: *old,
                new: *new,
            })
            .collect()
    }

    #[test]
    fn lists() {
        for text in ["", "0", "0-3", "0-1,3,5-6,1000"] {
            assert_eq!(set(text).to_string(), text);
        }
        assert_eq!(set("3,1-2,2\n").to_string(), "1-3");
        for text in ["x", "1-", "-1", "0-99999999"] {
            assert_eq!(CpuSet::parse(text), None, "{text}");
        }
    }

    #[test]
    fn old_and_new() {
        let t = topology();
        let (n, any) = (Node::Id, Node::Any);
        let shift = pairs(&[(n(0), n(1)), (n(1), n(2))]);
        assert_eq!(t.old_cpus(&shift), set("0-3"));
        assert_eq!(t.new_cpus(&set("0"), &shift), set("2-3"));
        assert_eq!(t.new_cpus(&set("1-2"), &shift), set("2-5"));
        // Node 2 keeps its CPUs, as far as they were allowed.
        assert_eq!(t.new_cpus(&set("0,4"), &shift), set("2-4"));
        // To itself is no old node.
        let stay = pairs(&[(any, n(0)), (n(1), n(1))]);
        assert_eq!(t.old_cpus(&stay), set("4-5"));
        assert_eq!(t.new_cpus(&set("5"), &stay), set("0-1"));
        // A node without CPUs has none to give.
        assert_eq!(t.new_cpus(&set("0"), &pairs(&[(n(0), n(5))])), set(""));
        assert_eq!(t.all_cpus(), set("0-5"));
    }

    #[test]
    fn as_many_as_before() {
        let t = topology();
        let (n, any) = (Node::Id, Node::Any);
        let map = |cpus: &str, map: &[(Node, Node)], taken: &str| {
            let map = t.counterparts(&set(cpus), &pairs(map), &set(taken));
            map.into_iter().collect::<Vec<_>>()
        };
        let both = [(n(0), n(1)), (n(1), n(2))];
        assert_eq!(map("0", &both, ""), [(0, 2)]);
        assert_eq!(map("1,3", &both, ""), [(1, 3), (3, 5)]);
        assert_eq!(map("0-3", &both, ""), [(0, 2), (1, 3), (2, 4), (3, 5)]);
        // What stays keeps its CPUs, and the next one is taken.
        let one = [(n(0), n(1))];
        assert_eq!(map("0,2", &one, ""), [(0, 3)]);
        let together = [(n(0), n(2)), (n(1), n(2))];
        assert_eq!(map("0,2", &together, ""), [(0, 4), (2, 5)]);
        // What others have is left to them, as long as there is something else.
        assert_eq!(map("0", &one, "2"), [(0, 3)]);
        assert_eq!(map("0-1", &one, "2"), [(0, 3), (1, 2)]);
        // Too few.
        assert_eq!(map("0-2", &one, ""), [(0, 3), (1, 3)]);
        assert_eq!(map("0", &[(n(0), any)], ""), [(0, 4)]);
        assert_eq!(map("0", &[(n(0), n(5))], ""), []);
    }

    #[test]
    fn the_nearest_with_cpus() {
        let t = topology();
        let (n, any) = (Node::Id, Node::Any);
        // Node 5 is nearer to 1, and has no CPU.
        assert_eq!(t.new_cpus(&set("2"), &pairs(&[(n(1), any)])), set("4-5"));
        let both = pairs(&[(n(1), any), (n(2), any)]);
        assert_eq!(t.new_cpus(&set("2"), &both), set("0-1"));
    }

    #[test]
    fn this_machine() {
        let mine = affinity(0).unwrap();
        assert!(!mine.is_empty());
        set_affinity(0, &mine).unwrap();
        assert_eq!(affinity(0).unwrap(), mine);
        assert!(set_affinity(0, &CpuSet::default()).is_err());
        assert!(set_affinity(0, &CpuSet::from_iter([0, MAX_CPUS])).is_err());
        assert!(affinity(1 << 23).is_err());
    }
}
