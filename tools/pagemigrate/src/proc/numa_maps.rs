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

/// Adds up the lines of numa_maps.
pub(crate) fn parse(numa_maps: &str, mounts: &Mounts) -> Usage {
    let mut usage = Usage::default();
    for line in numa_maps.lines() {
        let mut kind = Kind::Anon;
        let mut anon = 0;
        let mut page_kb = 4;
        let mut nodes: Vec<(u32, u64)> = Vec::new();
        // The first two words are the address and the policy.
        for word in line.split(' ').skip(2) {
            match word.split_once('=') {
                Some(("file", path)) => kind = kind_of_file(&unescape(path), mounts),
                Some(("anon", n)) => anon = n.parse().unwrap_or(0),
                Some(("kernelpagesize_kB", n)) => page_kb = n.parse().unwrap_or(page_kb),
                Some((key, n)) => {
                    let node = key.strip_prefix('N').and_then(|id| id.parse().ok());
                    if let (Some(node), Ok(n)) = (node, n.parse()) {
                        nodes.push((node, n));
                    }
                }
                None if word == "heap" => kind = Kind::Heap,
                None if word == "stack" => kind = Kind::Stack,
                None if word == "huge" => kind = Kind::Huge,
                None => {}
            }
        }
        // A private mapping of a file of which only own copies are present.
        let pages: u64 = nodes.iter().map(|(_, n)| n).sum();
        if kind == Kind::File && anon == pages {
            kind = Kind::Anon;
        }
        for (node, n) in nodes {
            *usage
                .nodes
                .entry(node)
                .or_default()
                .entry(kind)
                .or_default() += n.saturating_mul(page_kb).saturating_mul(1024);
        }
    }
    usage
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
