// SPDX-License-Identifier: GPL-2.0

//! Node lists become a node map: where does a page on this node go?
//!
//! Pure: this file knows no kernel type, so that it can be tested anywhere. Its tables are whatever
//! can be seen as slices.

use core::ops::Deref;

use super::units::NodeId;

/// The wildcard of a node list.
pub(crate) const ANY: i32 = -1;

/// Marks a node from which nothing moves, in the table of pairs.
const NO_PAIR: u16 = u16::MAX;

/// `new_nodes` names this node.
const TARGET: u8 = 1;
/// A wildcard in `new_nodes` may choose this node.
const CANDIDATE: u8 = 2;
/// Pages that are found on this node are to move.
pub(crate) const OLD: u8 = 4;

/// What is wrong with a pair of node lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListError {
    /// There is no entry, the lists differ in length, or there are more entries than nodes.
    Length,
    /// A number is neither a node number nor the wildcard.
    Range,
    /// A node, or the wildcard, is named twice among the old nodes.
    Twice,
    /// A wildcard stands on both sides of a pair.
    AnyToAny,
    /// A wildcard among the new nodes has no node to choose from.
    NoCandidate,
    /// A new node has no memory, or an old node cannot exist.
    NoSuchNode,
    /// The target may not use a new node.
    NotAllowed,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeFacts {
    /// It may exist on this machine.
    pub(crate) possible: bool,
    /// It is online and has memory.
    pub(crate) memory: bool,
    /// The target's cpuset allows it.
    pub(crate) allowed: bool,
}

/// Where a page may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The node.
    pub(crate) node: NodeId,
    /// It is not the node that the lists name.
    pub(crate) fallback: bool,
}

/// The map from old nodes to new nodes.
///
/// # Invariants
///
/// `pairs` and `flags` have one entry for each node number. Each entry of `pairs` that is not
/// [`NO_PAIR`] is an index into `new`.
pub(crate) struct NodeMap<P, N, F> {
    pairs: P,
    new: N,
    flags: F,
}

/// Checks the lists alone, without knowing the machine.
///
/// `seen` is scratch space with one entry for each node number.
///
/// # Errors
///
/// [`ListError::Length`], [`ListError::Range`], [`ListError::Twice`] or [`ListError::AnyToAny`].
pub(crate) fn check_lists(old: &[i32], new: &[i32], seen: &mut [u8]) -> Result<(), ListError> {
    if old.is_empty() || old.len() != new.len() || old.len() > seen.len() {
        return Err(ListError::Length);
    }
    seen.fill(0);
    let mut any_seen = false;
    for (&from, &to) in old.iter().zip(new) {
        if to != ANY && node_index(to, seen.len()).is_none() {
            return Err(ListError::Range);
        }
        if from == ANY {
            if core::mem::replace(&mut any_seen, true) {
                return Err(ListError::Twice);
            }
            if to == ANY {
                return Err(ListError::AnyToAny);
            }
            continue;
        }
        let index = node_index(from, seen.len()).ok_or(ListError::Range)?;
        let slot = seen.get_mut(index).ok_or(ListError::Range)?;
        if core::mem::replace(slot, 1) != 0 {
            return Err(ListError::Twice);
        }
    }
    Ok(())
}

fn node_index(node: i32, nr_nodes: usize) -> Option<usize> {
    usize::try_from(node).ok().filter(|&n| n < nr_nodes)
}

impl<P, N, F> NodeMap<P, N, F>
where
    P: Deref<Target = [u16]>,
    N: Deref<Target = [i32]>,
    F: Deref<Target = [u8]>,
{
    /// Makes the map from lists that [`check_lists`] has found good.
    ///
    /// `pairs` and `flags` need one entry for each node number; what is in them is ignored.
    /// `facts` tells of each node number.
    ///
    /// # Errors
    ///
    /// [`ListError::NoSuchNode`], [`ListError::NotAllowed`] or [`ListError::NoCandidate`].
    pub(crate) fn new(
        old: &[i32],
        new: N,
        mut pairs: P,
        mut flags: F,
        facts: impl Fn(NodeId) -> NodeFacts,
    ) -> Result<Self, ListError>
    where
        P: core::ops::DerefMut,
        F: core::ops::DerefMut,
    {
        let nr_nodes = flags.len();
        let facts = |index| NodeId::new(index).map_or_else(NodeFacts::default, &facts);
        pairs.fill(NO_PAIR);
        flags.fill(0);

        for &node in old {
            if let Some(index) = node_index(node, nr_nodes) {
                if !facts(index).possible {
                    return Err(ListError::NoSuchNode);
                }
            }
        }
        for &node in new.iter() {
            if let Some(index) = node_index(node, nr_nodes) {
                if !facts(index).memory {
                    return Err(ListError::NoSuchNode);
                }
            }
        }
        for &node in new.iter() {
            let Some(index) = node_index(node, nr_nodes) else {
                continue;
            };
            if !facts(index).allowed {
                return Err(ListError::NotAllowed);
            }
            if let Some(flag) = flags.get_mut(index) {
                *flag |= TARGET;
            }
        }

        let mut wildcard = NO_PAIR;
        for (i, &node) in old.iter().enumerate() {
            let pair = u16::try_from(i).map_err(|_| ListError::Length)?;
            match node_index(node, nr_nodes).and_then(|n| pairs.get_mut(n)) {
                Some(slot) => *slot = pair,
                None => wildcard = pair,
            }
        }
        // What `old_nodes` names is settled before the wildcard takes the rest.
        let mut candidates = false;
        for (index, (slot, flag)) in pairs.iter_mut().zip(flags.iter_mut()).enumerate() {
            if *slot == NO_PAIR {
                let fact = facts(index);
                if fact.memory && fact.allowed {
                    *flag |= CANDIDATE;
                    candidates = true;
                }
                *slot = wildcard;
            }
        }
        if !candidates && new.contains(&ANY) {
            return Err(ListError::NoCandidate);
        }
        for (index, (slot, flag)) in pairs.iter_mut().zip(flags.iter_mut()).enumerate() {
            match new.get(usize::from(*slot)) {
                // Also what the lists leave where it is.
                Some(&to) if node_index(to, nr_nodes) == Some(index) => *slot = NO_PAIR,
                Some(_) => *flag |= OLD,
                None => {}
            }
        }
        // INVARIANT: `pairs` holds `NO_PAIR` or indices of `old`, which is as long as `new`.
        Ok(Self { pairs, new, flags })
    }

    /// For each node number, whether pages that are found there are to move: [`OLD`].
    pub(crate) fn flags(&self) -> &[u8] {
        &self.flags
    }

    /// Sets in `flags`, for each node number, whether pages there are moved by `pair`: [`OLD`] or 0.
    pub(crate) fn flags_of(&self, pair: usize, flags: &mut [u8]) {
        for (index, flag) in flags.iter_mut().enumerate() {
            let node = NodeId::new(index);
            *flag = if node.and_then(|node| self.pair(node)) == Some(pair) {
                OLD
            } else {
                0
            };
        }
    }

    /// The pair that moves pages away from `node`, or `None` where they stay.
    pub(crate) fn pair(&self, node: NodeId) -> Option<usize> {
        let pair = *self.pairs.get(node.index())?;
        (pair != NO_PAIR).then_some(usize::from(pair))
    }

    /// The node that a pair names, if it is not a wildcard.
    pub(crate) fn named_by(&self, pair: usize) -> Option<NodeId> {
        let to = *self.new.get(pair)?;
        NodeId::new(node_index(to, self.pairs.len())?)
    }

    /// A node from which a pair moves pages away.
    pub(crate) fn source_of(&self, pair: usize) -> Option<NodeId> {
        let mut nodes = (0..self.pairs.len()).filter_map(NodeId::new);
        nodes.find(|&node| self.pair(node) == Some(pair))
    }

    /// The nodes that pages may go to, whatever node they are on.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = NodeId> + '_ {
        let wanted = if self.new.contains(&ANY) {
            TARGET | CANDIDATE
        } else {
            TARGET
        };
        self.flags
            .iter()
            .enumerate()
            .filter(move |(_, &flag)| flag & wanted != 0)
            .filter_map(|(index, _)| NodeId::new(index))
    }

    /// The next place to try for a page on `node`, after `last` had no room.
    ///
    /// First comes the node that the lists name, then, unless `strict`, the other new nodes, the
    /// nearest to the named one first. For a wildcard come the nodes that it may choose, the
    /// nearest to the page first. A page's own node never comes. Of nodes that are equally far the
    /// one with the lowest number comes first.
    pub(crate) fn next(
        &self,
        node: NodeId,
        last: Option<Destination>,
        strict: bool,
        distance: impl Fn(NodeId, NodeId) -> u32,
    ) -> Option<Destination> {
        let (center, wanted) = match self.named_by(self.pair(node)?) {
            Some(center) => {
                if last.is_none() {
                    return Some(Destination {
                        node: center,
                        fallback: false,
                    });
                }
                if strict {
                    return None;
                }
                (center, TARGET)
            }
            None => (node, CANDIDATE),
        };
        let fallback = wanted == TARGET;
        let key = |n: NodeId| (distance(center, n), n);
        // A named node has been tried before all others, however near they are.
        let after = last
            .map(|d| d.node)
            .filter(|&n| !fallback || n != center)
            .map(key);
        self.flags
            .iter()
            .enumerate()
            .filter(|&(_, flag)| flag & wanted != 0)
            .filter_map(|(index, _)| NodeId::new(index))
            .filter(|&n| n != node && !(fallback && n == center))
            .map(key)
            .filter(|&k| after.is_none_or(|a| k > a))
            .min()
            .map(|(_, node)| Destination { node, fallback })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Map = NodeMap<Vec<u16>, Vec<i32>, Vec<u8>>;

    fn build(
        old: &[i32],
        new: &[i32],
        nr: usize,
        facts: impl Fn(usize) -> NodeFacts,
    ) -> Result<Map, ListError> {
        check_lists(old, new, &mut vec![7; nr])?;
        let facts = |node: NodeId| facts(node.index());
        NodeMap::new(old, new.to_vec(), vec![9; nr], vec![9; nr], facts)
    }

    fn id(n: usize) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn number(d: &Destination) -> usize {
        d.node.index()
    }

    fn all(_: usize) -> NodeFacts {
        NodeFacts {
            possible: true,
            memory: true,
            allowed: true,
        }
    }

    fn line(a: usize, b: usize) -> u32 {
        10 + a.abs_diff(b) as u32
    }

    fn far(a: NodeId, b: NodeId) -> u32 {
        line(a.index(), b.index())
    }

    fn order(map: &Map, node: usize, strict: bool) -> Vec<Destination> {
        let node = id(node);
        let mut found = Vec::new();
        let first = map.next(node, None, strict, far);
        if let Some(named) = map.pair(node).and_then(|pair| map.named_by(pair)) {
            let node = named;
            assert_eq!(
                first,
                Some(Destination {
                    node,
                    fallback: false
                })
            );
        }
        let mut last = None;
        while let Some(next) = map.next(node, last, strict, far) {
            found.push(next);
            last = Some(next);
            assert!(found.len() <= 64, "does not end");
        }
        found
    }

    /// Every list of `len` entries out of `-1 .. nr`.
    fn lists(len: usize, nr: i32) -> Vec<Vec<i32>> {
        let mut all = vec![vec![]];
        for _ in 0..len {
            all = all
                .into_iter()
                .flat_map(|list| {
                    (-1..nr).map(move |n| {
                        let mut list = list.clone();
                        list.push(n);
                        list
                    })
                })
                .collect();
        }
        all
    }

    /// The contract, said once more in the plainest way.
    fn expected(old: &[i32], new: &[i32], nr: i32, usable: u32) -> Result<Vec<Option<usize>>, ()> {
        for (i, n) in old.iter().enumerate() {
            if old[..i].contains(n) || (*n == ANY && new[i] == ANY) {
                return Err(());
            }
        }
        if new.iter().any(|&n| n != ANY && usable & (1 << n) == 0) {
            return Err(());
        }
        let free = (0..nr).any(|n| !old.contains(&n) && usable & (1 << n) != 0);
        if new.contains(&ANY) && !free {
            return Err(());
        }
        Ok((0..nr)
            .map(|n| {
                let pair = old
                    .iter()
                    .position(|&o| o == n)
                    .or_else(|| old.iter().position(|&o| o == ANY))?;
                (new[pair] != n).then_some(pair)
            })
            .collect())
    }

    #[test]
    fn every_small_map() {
        for nr in 1..=4i32 {
            for len in 1..=(nr.min(3) as usize) {
                for usable in 0..(1u32 << nr) {
                    let facts = |n: usize| NodeFacts {
                        possible: true,
                        memory: usable & (1 << n) != 0,
                        allowed: true,
                    };
                    for old in lists(len, nr) {
                        for new in lists(len, nr) {
                            check_one(&old, &new, nr, usable, facts);
                        }
                    }
                }
            }
        }
    }

    fn check_one(
        old: &[i32],
        new: &[i32],
        nr: i32,
        usable: u32,
        facts: impl Fn(usize) -> NodeFacts,
    ) {
        let map = build(old, new, nr as usize, facts);
        let want = expected(old, new, nr, usable);
        let (map, want) = match (map, want) {
            (Ok(map), Ok(want)) => (map, want),
            (Err(_), Err(())) => return,
            (map, want) => panic!("{old:?} -> {new:?}: {:?} but {want:?}", map.err()),
        };
        for (node, &want) in want.iter().enumerate() {
            assert_eq!(map.pair(id(node)), want, "{old:?} -> {new:?} at {node}");
            let places = order(&map, node, false);
            let strict = order(&map, node, true);
            assert!(places.iter().all(|d| number(d) != node));
            assert!(places.iter().all(|d| usable & (1 << number(d)) != 0));
            let Some(pair) = want else {
                assert!(places.is_empty() && strict.is_empty());
                continue;
            };
            let mut nodes: Vec<_> = places.iter().map(|d| number(d) as i32).collect();
            if new[pair] == ANY {
                assert_eq!(places, strict);
                assert!(places.iter().all(|d| !d.fallback));
                assert!(nodes.iter().all(|n| !old.contains(n)));
                let keys: Vec<_> = nodes.iter().map(|&n| (line(node, n as usize), n)).collect();
                assert!(keys.windows(2).all(|w| w[0] < w[1]));
            } else {
                assert_eq!(number(&places[0]) as i32, new[pair]);
                assert_eq!(strict, places[..1]);
                assert!(!places[0].fallback && places[1..].iter().all(|d| d.fallback));
                let center = new[pair] as usize;
                let keys: Vec<_> = nodes
                    .iter()
                    .map(|&n| (line(center, n as usize), n))
                    .collect();
                assert!(keys.windows(2).all(|w| w[0] < w[1]));
                nodes.sort_unstable();
                let mut named: Vec<_> = new.iter().copied().filter(|&n| n != ANY).collect();
                named.sort_unstable();
                named.dedup();
                named.retain(|&n| n as usize != node);
                assert_eq!(nodes, named);
            }
        }
    }

    #[test]
    fn lists_are_checked() {
        assert_eq!(build(&[], &[], 4, all).err(), Some(ListError::Length));
        assert_eq!(build(&[0], &[1, 2], 4, all).err(), Some(ListError::Length));
        assert_eq!(
            build(&[0, 1, 2], &[0, 1, 0], 2, all).err(),
            Some(ListError::Length)
        );
        for bad in [4, -2, i32::MAX, i32::MIN] {
            assert_eq!(build(&[bad], &[1], 4, all).err(), Some(ListError::Range));
            assert_eq!(build(&[1], &[bad], 4, all).err(), Some(ListError::Range));
        }
        assert_eq!(
            build(&[1, 1], &[2, 3], 4, all).err(),
            Some(ListError::Twice)
        );
        assert_eq!(
            build(&[ANY, ANY], &[2, 3], 4, all).err(),
            Some(ListError::Twice)
        );
        assert_eq!(
            build(&[ANY], &[ANY], 4, all).err(),
            Some(ListError::AnyToAny)
        );
    }

    #[test]
    fn nodes_are_checked() {
        let facts = |n: usize| NodeFacts {
            possible: n != 3,
            memory: n < 2,
            allowed: n != 1,
        };
        assert_eq!(
            build(&[3], &[0], 4, facts).err(),
            Some(ListError::NoSuchNode)
        );
        assert_eq!(
            build(&[0], &[2], 4, facts).err(),
            Some(ListError::NoSuchNode)
        );
        assert_eq!(
            build(&[0], &[1], 4, facts).err(),
            Some(ListError::NotAllowed)
        );
        assert_eq!(
            build(&[0], &[ANY], 4, facts).err(),
            Some(ListError::NoCandidate)
        );
        // An old node may have no memory: it is just empty.
        assert!(build(&[2], &[0], 4, facts).is_ok());
    }

    #[test]
    fn full_range_of_node_numbers() {
        let old: Vec<i32> = (0..1024).collect();
        let new: Vec<i32> = (0..1024).map(|n| (n + 2) % 1024).collect();
        let map = build(&old, &new, 1024, all).unwrap();
        for n in 0..1024 {
            assert_eq!(map.pair(id(n)), Some(n));
            let first = map.next(id(n), None, false, far).unwrap();
            assert_eq!(number(&first), (n + 2) % 1024);
        }
        assert_eq!(map.pair(id(1024)), None);
        assert_eq!(map.next(id(1024), None, false, far), None);
    }
}
