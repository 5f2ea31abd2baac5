// SPDX-License-Identifier: MIT OR Apache-2.0

use std::fmt;
use std::fs;
use std::io;

/// The largest node number that any Linux kernel can have.
pub const MAX_NODE: u32 = 1023;

/// A node in a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// This one.
    Id(u32),
    /// As an old node: every node that no other pair names. As a new node: the
    /// nearest one with room that no pair empties.
    Any,
}

impl From<u32> for Node {
    fn from(id: u32) -> Self {
        Node::Id(id)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Id(id) => id.fmt(f),
            Node::Any => "any".fmt(f),
        }
    }
}

/// Pages found on `old` go to `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The node to empty.
    pub old: Node,
    /// The node to fill.
    pub new: Node,
}

/// Whether some new node is an old one too, with another destination (a swap, a
/// shift). Then only a job that remembers what it has moved may be repeated.
pub fn overlaps(pairs: &[Pair]) -> bool {
    let old_any = pairs.iter().any(|p| p.old == Node::Any);
    pairs.iter().any(|p| match p.new {
        // It goes to a node that no old entry names: only the wildcard can
        // meet it there.
        Node::Any => old_any,
        Node::Id(id) => destination(pairs, id).is_some(),
    })
}

/// Where pages of a node go; `None` where they stay.
pub fn destination(pairs: &[Pair], node: u32) -> Option<Node> {
    pairs
        .iter()
        .find(|p| p.old == Node::Id(node))
        .or_else(|| pairs.iter().find(|p| p.old == Node::Any))
        .map(|p| p.new)
        .filter(|new| *new != Node::Id(node))
}

/// Why a text is not a node list or not a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// There is nothing.
    #[error("the node list is empty")]
    EmptyList,
    /// Something that is not a number, where a node should be.
    #[error("'{0}' is not a node number (a list looks like 0-3,5 or all or '!2' or +0-1)")]
    NotANumber(String),
    /// A node number that no kernel has.
    #[error("node {0} is too large: node numbers end at {MAX_NODE}")]
    TooLarge(String),
    /// `3-1`
    #[error("the range {0}-{1} runs backwards")]
    Backwards(u32, u32),
    /// A node twice in one list of old nodes.
    #[error("node {0} appears twice among the old nodes")]
    Twice(Node),
    /// `!` took everything away.
    #[error("'{0}' leaves no node")]
    NothingLeft(String),
    /// `+3` where fewer nodes are allowed.
    #[error("+{0}: only {1} nodes are allowed here (the first is +0)")]
    NoSuchRelative(u32, usize),
    /// `0->2`
    #[error("'{0}' is not a map: write {1}:{2}")]
    Arrow(String, String, String),
    /// A map without `:`.
    #[error("'{0}' is not a map: write OLD:NEW, like 0-1:2-3")]
    NoColon(String),
    /// `0:2,1:3`
    #[error("'{0}' has more than one ':': write 0,1:2,3 or, with a space between them, 0:2 1:3")]
    ManyColons(String),
    /// Lists of different lengths.
    #[error("'{map}' has {old} old and {new} new nodes: give as many new as old ones, or one new")]
    Lengths {
        /// The map.
        map: String,
        /// Entries on the left.
        old: usize,
        /// Entries on the right.
        new: usize,
    },
    /// `any` beside other nodes.
    #[error("'any' must be alone on its side of a map")]
    AnyNotAlone,
    /// `any:any`
    #[error("'{0}' names no node: one side must")]
    NoNode(String),
}

/// The nodes that `all`, `!` and `+` refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    memory: Vec<u32>,
    allowed: Vec<u32>,
}

impl Machine {
    /// A machine that has memory on `memory`, of which `allowed` may be used.
    pub fn new(memory: &[u32], allowed: &[u32]) -> Self {
        let sorted = |list: &[u32]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list.dedup();
            list
        };
        let memory = sorted(memory);
        let mut allowed = sorted(allowed);
        allowed.retain(|n| memory.contains(n));
        Machine { memory, allowed }
    }

    /// This machine, with the nodes that this process may use.
    pub fn read() -> io::Result<Self> {
        let list = |text: &str| {
            parse_absolute(text.trim())
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
        };
        let memory = list(&fs::read_to_string("/sys/devices/system/node/has_memory")?)?;
        // The name of a process need not be UTF-8.
        let status = fs::read("/proc/self/status")?;
        let status = String::from_utf8_lossy(&status);
        let allowed = match status
            .lines()
            .find_map(|l| l.strip_prefix("Mems_allowed_list:"))
        {
            Some(text) => list(text)?,
            None => memory.clone(),
        };
        Ok(Machine::new(&memory, &allowed))
    }

    /// The nodes with memory, ascending.
    pub fn memory(&self) -> &[u32] {
        &self.memory
    }

    /// Those of them that this process may use, ascending.
    pub fn allowed(&self) -> &[u32] {
        &self.allowed
    }

    /// Reads a node list in libnuma's forms:
    ///
    /// - `0-3,5`: these nodes, in this order;
    /// - `all`: every node with memory;
    /// - `!2`: every node with memory but these;
    /// - `+0-1`: the first two of the nodes that this process may use. A `+`
    ///   stands at the beginning and goes for the whole list.
    pub fn parse_nodes(&self, text: &str) -> Result<Vec<u32>, ParseError> {
        let text = text.trim();
        let (invert, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut nodes = if rest == "all" {
            self.memory.clone()
        } else if let Some(rest) = rest.strip_prefix('+') {
            parse_absolute(rest)?
                .into_iter()
                .map(|n| {
                    usize::try_from(n)
                        .ok()
                        .and_then(|i| self.allowed.get(i))
                        .copied()
                        .ok_or(ParseError::NoSuchRelative(n, self.allowed.len()))
                })
                .collect::<Result<_, _>>()?
        } else {
            parse_absolute(rest)?
        };
        if invert {
            nodes = self
                .memory
                .iter()
                .copied()
                .filter(|n| !nodes.contains(n))
                .collect();
        }
        if nodes.is_empty() {
            return Err(ParseError::NothingLeft(text.into()));
        }
        Ok(nodes)
    }
}

/// Numbers and ranges, without the forms that need to know the machine.
fn parse_absolute(text: &str) -> Result<Vec<u32>, ParseError> {
    if text.is_empty() {
        return Err(ParseError::EmptyList);
    }
    let mut nodes = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => nodes.push(parse_number(part, part)?),
            Some((first, last)) => {
                let (first, last) = (parse_number(first, part)?, parse_number(last, part)?);
                if first > last {
                    return Err(ParseError::Backwards(first, last));
                }
                nodes.extend(first..=last);
            }
        }
    }
    Ok(nodes)
}

/// Decimal digits only: no sign, no space, no other base.
fn parse_number(text: &str, part: &str) -> Result<u32, ParseError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::NotANumber(part.into()));
    }
    match text.parse() {
        Ok(n) if n <= MAX_NODE => Ok(n),
        _ => Err(ParseError::TooLarge(text.into())),
    }
}

/// Pairs of old and new nodes. No old node appears twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMap {
    pairs: Vec<Pair>,
}

impl NodeMap {
    /// Reads a map, `OLD:NEW` with a node list on each side.
    ///
    /// - Lists of equal length pair up by position, in the order in which they
    ///   are written: `0,1:3,2` sends 0 to 3 and 1 to 2.
    /// - A single new node serves all old ones: `0-1:3`.
    /// - `any` (or `all`) as the only old node: every node that no other pair
    ///   names.
    /// - `any` as the only new node: the nearest one with room that is no old
    ///   node. It serves all old ones.
    /// - Several maps are separated by spaces or `;`: `0:2 1:3`. (Not by `,`,
    ///   which separates nodes.)
    pub fn parse(text: &str, machine: &Machine) -> Result<Self, ParseError> {
        let mut pairs: Vec<Pair> = Vec::new();
        for map in text
            .split(|c: char| c == ';' || c.is_whitespace())
            .filter(|s| !s.is_empty())
        {
            for pair in parse_one(map, machine)? {
                if pairs.iter().any(|p| p.old == pair.old) {
                    return Err(ParseError::Twice(pair.old));
                }
                pairs.push(pair);
            }
        }
        if pairs.is_empty() {
            return Err(ParseError::NoColon(text.into()));
        }
        Ok(NodeMap { pairs })
    }

    /// The pairs.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }
}

fn parse_one(map: &str, machine: &Machine) -> Result<Vec<Pair>, ParseError> {
    if let Some((old, new)) = map.split_once("->") {
        return Err(ParseError::Arrow(map.into(), old.into(), new.into()));
    }
    let mut sides = map.split(':');
    let (old, new) = match (sides.next(), sides.next(), sides.next()) {
        (Some(old), Some(new), None) => (old, new),
        (_, None, _) => return Err(ParseError::NoColon(map.into())),
        _ => return Err(ParseError::ManyColons(map.into())),
    };
    let side = |text: &str| -> Result<Vec<Node>, ParseError> {
        if text == "any" {
            return Ok(vec![Node::Any]);
        }
        if text.split(',').any(|part| part == "any") {
            return Err(ParseError::AnyNotAlone);
        }
        Ok(machine
            .parse_nodes(text)?
            .into_iter()
            .map(Node::Id)
            .collect())
    };
    let new = side(new)?;
    // With one new node, "all" means also the nodes that are not known here.
    let old = if old == "all" && new.len() == 1 {
        vec![Node::Any]
    } else {
        side(old)?
    };
    if old == [Node::Any] && new == [Node::Any] {
        return Err(ParseError::NoNode(map.into()));
    }
    match new[..] {
        [one] => Ok(old.into_iter().map(|old| Pair { old, new: one }).collect()),
        _ if old.len() == new.len() => Ok(old
            .into_iter()
            .zip(new)
            .map(|(old, new)| Pair { old, new })
            .collect()),
        _ => Err(ParseError::Lengths {
            map: map.into(),
            old: old.len(),
            new: new.len(),
        }),
    }
}

impl fmt::Display for NodeMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, pair) in self.pairs.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{}:{}", pair.old, pair.new)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes 0, 1, 3 and 4 with memory, of which 1, 3 and 4 may be used.
    fn machine() -> Machine {
        Machine::new(&[0, 1, 3, 4], &[4, 3, 1, 2])
    }

    fn nodes(text: &str) -> Result<Vec<u32>, ParseError> {
        machine().parse_nodes(text)
    }

    /// The map's own text, written pair by pair.
    fn map(text: &str) -> Result<String, ParseError> {
        NodeMap::parse(text, &machine()).map(|m| m.to_string())
    }

    #[test]
    fn destinations() {
        let of = |text: &str, node| {
            let map = NodeMap::parse(text, &machine()).unwrap();
            destination(map.pairs(), node)
        };
        assert_eq!(of("0,1:3,4", 1), Some(Node::Id(4)));
        assert_eq!(of("0,1:3,4", 3), None);
        assert_eq!(of("all:3 1:0", 1), Some(Node::Id(0)));
        assert_eq!(of("all:3 1:0", 4), Some(Node::Id(3)));
        assert_eq!(of("all:3 1:0", 3), None);
        assert_eq!(of("1:any", 1), Some(Node::Any));
    }

    #[test]
    fn overlapping() {
        let (id, any) = (Node::Id, Node::Any);
        for (pairs, expected) in [
            (vec![(id(0), id(2)), (id(1), id(3))], false),
            (vec![(id(0), id(2)), (id(1), id(2))], false),
            (vec![(id(0), id(1)), (id(1), id(0))], true),
            (vec![(id(0), id(1)), (id(1), id(2))], true),
            // 1 to itself stays.
            (vec![(id(0), id(1)), (id(1), id(1))], false),
            (vec![(any, id(3))], false),
            (vec![(any, id(3)), (id(3), id(0))], true),
            (vec![(any, id(3)), (id(3), id(3))], false),
            (vec![(any, id(3)), (id(0), id(2))], true),
            (vec![(id(2), any)], false),
            (vec![(id(2), any), (id(0), id(1))], false),
            (vec![(id(2), any), (any, id(1))], true),
        ] {
            let pairs: Vec<Pair> = pairs
                .into_iter()
                .map(|(old, new)| Pair { old, new })
                .collect();
            assert_eq!(overlaps(&pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(nodes("0").unwrap(), [0]);
        assert_eq!(nodes("0-3,5").unwrap(), [0, 1, 2, 3, 5]);
        assert_eq!(nodes("5,0-1").unwrap(), [5, 0, 1]);
        assert_eq!(nodes("2-2").unwrap(), [2]);
        assert_eq!(nodes("1023").unwrap(), [1023]);
        assert_eq!(nodes("007").unwrap(), [7]);
        assert_eq!(nodes(" 1,2 ").unwrap(), [1, 2]);
    }

    #[test]
    fn forms_that_know_the_machine() {
        assert_eq!(nodes("all").unwrap(), [0, 1, 3, 4]);
        assert_eq!(nodes("!3").unwrap(), [0, 1, 4]);
        assert_eq!(nodes("!0-3").unwrap(), [4]);
        assert_eq!(nodes("!9").unwrap(), [0, 1, 3, 4]);
        assert_eq!(nodes("+0").unwrap(), [1]);
        assert_eq!(nodes("+0-1").unwrap(), [1, 3]);
        assert_eq!(nodes("+2,0").unwrap(), [4, 1]);
        assert_eq!(nodes("!+0").unwrap(), [0, 3, 4]);
    }

    #[test]
    fn no_lists() {
        for text in [
            "x", "-1", "1-", "1--2", "1-2-3", "0x1", "+", "1,+2", "1,all", "a-b", "1 2", ",", "1,",
            ",1", "--", "\u{663}", "all,1", "same", "!!1",
        ] {
            let e = nodes(text).unwrap_err();
            assert!(
                matches!(e, ParseError::NotANumber(_) | ParseError::EmptyList),
                "{text}: {e:?}"
            );
        }
        assert_eq!(nodes(""), Err(ParseError::EmptyList));
        assert_eq!(nodes("!"), Err(ParseError::EmptyList));
        assert_eq!(nodes("3-1"), Err(ParseError::Backwards(3, 1)));
        assert_eq!(nodes("1024"), Err(ParseError::TooLarge("1024".into())));
        for huge in ["0-4294967295", "4294967296", "99999999999999999999999"] {
            assert!(
                matches!(nodes(huge), Err(ParseError::TooLarge(_))),
                "{huge}"
            );
        }
        assert_eq!(nodes("!all"), Err(ParseError::NothingLeft("!all".into())));
        assert_eq!(nodes("!0-4"), Err(ParseError::NothingLeft("!0-4".into())));
        assert_eq!(nodes("+3"), Err(ParseError::NoSuchRelative(3, 3)));
    }

    #[test]
    fn maps() {
        for (text, pairs) in [
            ("0-1:2-3", "0:2 1:3"),
            ("0,1:2,3", "0:2 1:3"),
            ("0,1:3,2", "0:3 1:2"),
            ("0-1:3", "0:3 1:3"),
            ("0:1 1:0", "0:1 1:0"),
            ("0:1;1:0", "0:1 1:0"),
            (" 0:1 ;\t1:0; ", "0:1 1:0"),
            ("all:3", "any:3"),
            ("any:3", "any:3"),
            ("all:4,3,1,0", "0:4 1:3 3:1 4:0"),
            ("2:any", "2:any"),
            ("2,4:any", "2:any 4:any"),
            ("all:3 3:0", "any:3 3:0"),
            ("!3:3", "0:3 1:3 4:3"),
            ("+0-1:0,4", "1:0 3:4"),
            ("2:2", "2:2"),
            ("all:any;", ""),
        ] {
            match map(text) {
                Ok(m) => assert_eq!(m, pairs, "{text}"),
                Err(e) => assert!(pairs.is_empty(), "{text}: {e}"),
            }
        }
    }

    #[test]
    fn no_maps() {
        assert_eq!(map("0,2"), Err(ParseError::NoColon("0,2".into())));
        assert_eq!(map(""), Err(ParseError::NoColon("".into())));
        assert_eq!(map(" ; "), Err(ParseError::NoColon(" ; ".into())));
        assert_eq!(
            map("0:2,1:3"),
            Err(ParseError::ManyColons("0:2,1:3".into()))
        );
        let arrow = map("0->2").unwrap_err();
        assert_eq!(arrow.to_string(), "'0->2' is not a map: write 0:2");
        assert_eq!(map(":2"), Err(ParseError::EmptyList));
        assert_eq!(map("0:"), Err(ParseError::EmptyList));
        assert_eq!(map(":"), Err(ParseError::EmptyList));
        assert_eq!(map("0,0:1"), Err(ParseError::Twice(Node::Id(0))));
        assert_eq!(map("0:1 0:2"), Err(ParseError::Twice(Node::Id(0))));
        assert_eq!(map("any:1 all:2"), Err(ParseError::Twice(Node::Any)));
        assert_eq!(map("0,any:1,2"), Err(ParseError::AnyNotAlone));
        assert_eq!(map("0,1:1,any"), Err(ParseError::AnyNotAlone));
        assert_eq!(map("any:any"), Err(ParseError::NoNode("any:any".into())));
        assert_eq!(map("all:any"), Err(ParseError::NoNode("all:any".into())));
        for (text, old, new) in [("0:1,2", 1, 2), ("0-2:3-4", 3, 2), ("any:1,2", 1, 2)] {
            let map_text = text.into();
            assert_eq!(
                map(text),
                Err(ParseError::Lengths {
                    map: map_text,
                    old,
                    new
                })
            );
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["0:2 1:3", "any:3 3:0", "2:any"] {
            let once = map(text).unwrap();
            assert_eq!(map(&once).unwrap(), once);
        }
    }

    #[test]
    fn no_input_panics() {
        // Every text of up to four of the characters that mean something.
        let alphabet = [
            "0", "9", "-", ",", ":", "!", "+", "any", "all", ";", " ", "x",
        ];
        let mut texts = vec![String::new()];
        for _ in 0..4 {
            let longer: Vec<String> = texts
                .iter()
                .flat_map(|t| alphabet.iter().map(move |c| format!("{t}{c}")))
                .collect();
            for t in &longer {
                if let Ok(m) = NodeMap::parse(t, &machine()) {
                    let again = NodeMap::parse(&m.to_string(), &machine());
                    assert_eq!(again.as_ref(), Ok(&m), "{t}");
                }
            }
            texts = longer;
        }
    }
}
