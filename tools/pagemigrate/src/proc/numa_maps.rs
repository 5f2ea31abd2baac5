// SPDX-License-Identifier: GPL-2.0

//! Reads /proc/PID/numa_maps.

use std::collections::BTreeMap;

/// Kinds of memory, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Heap,
    Stack,
    Anon,
    File,
    Shm,
    Huge,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] = [
        Kind::Heap,
        Kind::Stack,
        Kind::Anon,
        Kind::File,
        Kind::Shm,
        Kind::Huge,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Heap => "heap",
            Kind::Stack => "stack",
            Kind::Anon => "anon",
            Kind::File => "file",
            Kind::Shm => "shm",
            Kind::Huge => "huge",
        }
    }
}

/// Bytes by node and kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) nodes: BTreeMap<u32, BTreeMap<Kind, u64>>,
}

impl Usage {
    pub(crate) fn get(&self, node: u32, kind: Kind) -> u64 {
        self.nodes
            .get(&node)
            .and_then(|kinds| kinds.get(&kind))
            .copied()
            .unwrap_or(0)
    }

    pub(crate) fn of_node(&self, node: u32) -> u64 {
        self.nodes
            .get(&node)
            .map_or(0, |kinds| kinds.values().sum())
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> u64 {
        self.nodes.keys().map(|node| self.get(*node, kind)).sum()
    }

    pub(crate) fn total(&self) -> u64 {
        self.nodes.keys().map(|node| self.of_node(*node)).sum()
    }
}

/// Mount points of tmpfs, from /proc/PID/mountinfo, and all others: what is
/// below one of them belongs to the longest that fits.
#[derive(Debug, Default)]
pub(crate) struct Mounts(Vec<(String, bool)>);

impl Mounts {
    pub(crate) fn parse(mountinfo: &str) -> Self {
        Mounts(
            mountinfo
                .lines()
                .filter_map(|line| {
                    let (left, right) = line.split_once(" - ")?;
                    let point = left.split(' ').nth(4)?;
                    let is_tmpfs = right.split(' ').next()? == "tmpfs";
                    Some((unescape(point), is_tmpfs))
                })
                .collect(),
        )
    }

    fn is_tmpfs(&self, path: &str) -> bool {
        self.0
            .iter()
            .filter(|(point, _)| {
                point == "/"
                    || path
                        .strip_prefix(point.as_str())
                        .is_some_and(|rest| rest.starts_with('/'))
            })
            // Of two mounts on one point, the later one hides the other.
            .max_by_key(|(point, _)| point.len())
            .is_some_and(|(_, tmpfs)| *tmpfs)
    }
}

/// The kernel writes odd characters as \ooo.
pub(crate) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A line of numa_maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) policy: String,
    pub(crate) kind: Kind,
    pub(crate) file: Option<String>,
    /// Bytes by node.
    pub(crate) nodes: BTreeMap<u32, u64>,
}

impl Mapping {
    pub(crate) fn total(&self) -> u64 {
        self.nodes.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    fn parse(line: &str, mounts: &Mounts) -> Option<Self> {
        let mut words = line.split(' ');
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        let policy = words.next()?.to_owned();
        let mut kind = Kind::Anon;
        let mut file = None;
        let mut anon = 0;
        let mut page_kb = 4u64;
        let mut pages: BTreeMap<u32, u64> = BTreeMap::new();
        for word in words {
            match word.split_once('=') {
                Some(("file", path)) => {
                    let path = unescape(path);
                    kind = kind_of_file(&path, mounts);
                    file = Some(path);
                }
                Some(("anon", n)) => anon = n.parse().unwrap_or(0),
                Some(("kernelpagesize_kB", n)) => page_kb = n.parse().unwrap_or(page_kb),
                Some((key, n)) => {
                    let node = key.strip_prefix('N').and_then(|id| id.parse().ok());
                    if let (Some(node), Ok(n)) = (node, n.parse()) {
                        pages.insert(node, n);
                    }
                }
                None if word == "heap" => kind = Kind::Heap,
                None if word == "stack" => kind = Kind::Stack,
                None if word == "huge" => kind = Kind::Huge,
                None => {}
            }
        }
        // A private mapping of a file of which only own copies are present.
        let sum = pages.values().fold(0, |sum: u64, n| sum.saturating_add(*n));
        if kind == Kind::File && anon == sum {
            kind = Kind::Anon;
        }
        let in_bytes = |n: u64| n.saturating_mul(page_kb).saturating_mul(1024);
        Some(Mapping {
            start,
            policy,
            kind,
            file,
            nodes: pages
                .into_iter()
                .map(|(node, n)| (node, in_bytes(n)))
                .collect(),
        })
    }
}

/// The lines of numa_maps.
pub(crate) fn mappings(numa_maps: &str, mounts: &Mounts) -> Vec<Mapping> {
    let lines = numa_maps.lines();
    lines
        .filter_map(|line| Mapping::parse(line, mounts))
        .collect()
}

impl Usage {
    /// Adds up mappings.
    pub(crate) fn of(mappings: &[Mapping]) -> Self {
        let mut usage = Usage::default();
        for mapping in mappings {
            for (node, bytes) in &mapping.nodes {
                let kinds = usage.nodes.entry(*node).or_default();
                let sum = kinds.entry(mapping.kind).or_default();
                *sum = sum.saturating_add(*bytes);
            }
        }
        usage
    }

    /// Adds another process's.
    pub(crate) fn add(&mut self, other: &Usage) {
        for (node, kinds) in &other.nodes {
            for (kind, bytes) in kinds {
                let sum = self
                    .nodes
                    .entry(*node)
                    .or_default()
                    .entry(*kind)
                    .or_default();
                *sum = sum.saturating_add(*bytes);
            }
        }
    }
}

fn kind_of_file(path: &str, mounts: &Mounts) -> Kind {
    // Memory that has a file's name only because the kernel needs one.
    let unnamed = ["/SYSV", "/memfd:", "/dev/zero"]
        .iter()
        .any(|prefix| path.starts_with(prefix));
    if unnamed || mounts.is_tmpfs(path) {
        Kind::Shm
    } else {
        Kind::File
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:22 / /dev rw - devtmpfs dev rw
24 23 0:23 / /dev/shm rw,nosuid shared:3 - tmpfs tmpfs rw
25 22 0:24 / /a\\040b rw - tmpfs tmpfs rw
26 25 0:25 / /a\\040b/disk rw - ext4 /dev/sdb rw
";

    const NUMA_MAPS: &str = "\
55d0c0000000 default file=/usr/bin/cat mapped=3 active=0 N0=2 N1=1 kernelpagesize_kB=4
55d0c0008000 default file=/usr/bin/cat anon=1 dirty=1 N0=1 kernelpagesize_kB=4
55d0c1000000 default heap anon=10 dirty=10 N1=10 kernelpagesize_kB=4
7f0000000000 bind:2 anon=5 dirty=5 active=1 N2=5 kernelpagesize_kB=4
7f0000100000 default file=/dev/shm/x dirty=4 N0=4 kernelpagesize_kB=4
7f0000200000 default file=/SYSV00000000\\040(deleted) dirty=2 N0=2 kernelpagesize_kB=4
7f0000300000 default file=/anon_hugepage\\040(deleted) huge anon=3 dirty=3 N1=2 N3=1 kernelpagesize_kB=2048
7f0000900000 default file=/a\\040b/t N0=1 kernelpagesize_kB=4
7f0000a00000 default file=/a\\040b/disk/f mapped=1 N0=1 kernelpagesize_kB=4
7f0000b00000 default file=/usr/lib/libc.so.6
7ffc00000000 default stack anon=6 dirty=6 N0=6 kernelpagesize_kB=4
7ffc00100000 default
";

    fn parse(text: &str, mounts: &Mounts) -> Usage {
        Usage::of(&mappings(text, mounts))
    }

    #[test]
    fn mappings_one_by_one() {
        let all = mappings(NUMA_MAPS, &Mounts::parse(MOUNTS));
        assert_eq!(all.len(), 12);
        let shm = &all[4];
        assert_eq!(shm.start, 0x7f00_0010_0000);
        assert_eq!(shm.file.as_deref(), Some("/dev/shm/x"));
        assert_eq!((shm.kind, shm.total()), (Kind::Shm, 4 * 4096));
        assert_eq!(all[3].policy, "bind:2");
    }

    #[test]
    fn usages_add_up() {
        let one = parse(NUMA_MAPS, &Mounts::parse(MOUNTS));
        let mut two = parse(NUMA_MAPS, &Mounts::parse(MOUNTS));
        two.add(&one);
        assert_eq!(two.total(), 2 * one.total());
        assert_eq!(two.get(1, Kind::Huge), 8 << 20);
    }

    #[test]
    fn kinds_and_nodes() {
        let usage = parse(NUMA_MAPS, &Mounts::parse(MOUNTS));
        assert_eq!(usage.get(0, Kind::File), (2 + 1) * 4096);
        assert_eq!(usage.get(1, Kind::File), 4096);
        assert_eq!(usage.get(0, Kind::Anon), 4096);
        assert_eq!(usage.get(2, Kind::Anon), 5 * 4096);
        assert_eq!(usage.get(1, Kind::Heap), 10 * 4096);
        assert_eq!(usage.get(0, Kind::Shm), (4 + 2 + 1) * 4096);
        assert_eq!(usage.get(0, Kind::Stack), 6 * 4096);
        assert_eq!(usage.get(1, Kind::Huge), 4 << 20);
        assert_eq!(usage.get(3, Kind::Huge), 2 << 20);
        assert_eq!(usage.of_kind(Kind::Huge), 6 << 20);
        assert_eq!(
            usage.total(),
            (3 + 1 + 1 + 5 + 10 + 7 + 6) * 4096 + (6 << 20)
        );
    }

    #[test]
    fn odd_lines_do_no_harm() {
        let odd = "\n \nx\n1 default N=1 Nx=2 N1=y file anon= =\n2 default N0=18446744073709551615 kernelpagesize_kB=9999999\n";
        let usage = parse(odd, &Mounts::default());
        assert_eq!(usage.nodes.len(), 1);
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("a\\999"), "a\\999");
    }
}
