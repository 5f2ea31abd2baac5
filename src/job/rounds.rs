// SPDX-License-Identifier: GPL-2.0

//! Pages that wait are tried in rounds: which round comes next, and when it is enough.
//!
//! Where full nodes change places, pages move only as fast as others make room for them. Example: node
//! 0 and node 1 are full but for one page each and are to be swapped. The first pass moves what fits;
//! a round takes pages of both nodes at a time, so that each page that moves makes room for another.
//!
//! Pure: this file knows no kernel type.

use crate::pure::units::Pages;

/// A round goes over all that waits, of all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Once more as before: pages have moved, so others may find room.
    Again,
    /// After the CPUs have brought their pages to the LRU lists, and waiting for pages that are locked.
    Patient,
    /// As that, reclaiming once more, and with large folios split for any room. `pause`: after a moment for
    /// kswapd, which was woken and holds pages back while it works.
    Last {
        /// Whether to give kswapd that moment.
        pause: bool,
    },
}

/// What a pass over the pages has left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    /// Pages that moved in it.
    pub(crate) moved: Pages,
    /// Pages without room.
    pub(crate) no_memory: Pages,
    /// Other pages that wait.
    pub(crate) busy: Pages,
}

/// A round costs about an eighth of what it costs to move all that it tries. So it has to move more than
/// this part of the pages without room for another one to come: else a call whose target gives a page back
/// now and then would go on for ever.
const WORTH: u64 = 64;

/// Which rounds there have been.
pub(crate) struct Rounds {
    patient: bool,
    last: bool,
}

impl Rounds {
    /// There has been the first pass only.
    pub(crate) fn new() -> Self {
        Self {
            patient: false,
            last: false,
        }
    }

    /// The round after one, or after the first pass, that has left this.
    pub(crate) fn next(&mut self, left: Left) -> Option<Round> {
        // What is busy is not helped by others that moved.
        let helped = left.no_memory.any() && left.moved.get() > left.no_memory.get() / WORTH;
        if helped && !self.last {
            return Some(Round::Again);
        }
        if left.busy.any() && !self.patient {
            self.patient = true;
            return Some(Round::Patient);
        }
        let first = !self.last && left.no_memory.any();
        self.last |= first;
        (first || helped).then_some(Round::Last { pause: first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: usize = 3;

    fn left(moved: u64, no_memory: u64, busy: u64) -> Left {
        Left {
            moved: Pages::new(moved),
            no_memory: Pages::new(no_memory),
            busy: Pages::new(busy),
        }
    }

    /// Nodes with free pages, and pages that are to move: each on a node, with the nodes that it may go
    /// to, the best one first.
    #[derive(Clone, Debug)]
    struct Machine {
        free: [u64; NODES],
        waiting: Vec<(usize, Vec<usize>)>,
        busy: u64,
        moved: u64,
        /// Free pages that another process takes at the end of a round, from the first node that has any.
        thief: Vec<u64>,
    }

    impl Machine {
        /// Goes once over what waits, in batches of `batch` pages. A batch is tried until it stands still,
        /// as pages that move free others.
        fn round(&mut self, batch: usize) -> u64 {
            let before = self.moved;
            let mut left = Vec::new();
            for pages in std::mem::take(&mut self.waiting).chunks(batch) {
                let mut pages = pages.to_vec();
                loop {
                    let count = pages.len();
                    pages.retain(|(on, to)| {
                        let Some(&to) = to.iter().find(|&&to| self.free[to] > 0) else {
                            return true;
                        };
                        self.free[to] -= 1;
                        self.free[*on] += 1;
                        self.moved += 1;
                        false
                    });
                    if pages.len() == count {
                        break;
                    }
                }
                left.extend(pages);
            }
            self.waiting = left;
            if let Some(mut taken) = self.thief.pop() {
                for free in &mut self.free {
                    let take = taken.min(*free);
                    *free -= take;
                    taken -= take;
                }
            }
            self.moved - before
        }

        /// The first pass, and all rounds after it. Returns how many there were.
        fn run(&mut self, batch: usize) -> usize {
            let mut rounds = Rounds::new();
            let mut moved = self.round(batch);
            for count in 0.. {
                let waiting = self.waiting.len() as u64;
                if rounds.next(left(moved, waiting, self.busy)).is_none() {
                    return count;
                }
                moved = self.round(batch);
            }
            unreachable!()
        }

        fn could_move(&self) -> bool {
            let mut pages = self.waiting.iter();
            pages.any(|(_, to)| to.iter().any(|&to| self.free[to] > 0))
        }
    }

    /// Calls `f` with each way to choose `N` numbers below `below`.
    fn each<const N: usize>(below: u64, mut f: impl FnMut([u64; N])) {
        for code in 0..below.pow(N as u32) {
            let mut rest = code;
            f(std::array::from_fn(|_| {
                let digit = rest % below;
                rest /= below;
                digit
            }));
        }
    }

    /// All maps of three nodes, with and without fallback, all fillings with up to three pages, and all
    /// amounts of free pages.
    fn each_machine(mut f: impl FnMut(Machine)) {
        each::<3>(4, |to| {
            each::<3>(4, |pages| {
                each::<3>(3, |free| {
                    for fallback in [false, true] {
                        let mut waiting = Vec::new();
                        for on in 0..NODES {
                            let named = to[on] as usize;
                            if named >= NODES || named == on {
                                continue;
                            }
                            let mut list = vec![named];
                            if fallback {
                                let others = to.iter().map(|&to| to as usize);
                                list.extend(others.filter(|&n| n < NODES && n != on && n != named));
                            }
                            for _ in 0..pages[on] {
                                waiting.push((on, list.clone()));
                            }
                        }
                        f(Machine {
                            free,
                            waiting,
                            busy: 0,
                            moved: 0,
                            thief: Vec::new(),
                        });
                    }
                });
            });
        });
    }

    #[test]
    fn nothing_waits_where_there_is_room() {
        each_machine(|machine| {
            for batch in [1, 2, 100] {
                let mut end = machine.clone();
                end.run(batch);
                assert!(!end.could_move(), "{machine:?} ends as {end:?}");
                let all = end.moved as usize + end.waiting.len();
                assert_eq!(all, machine.waiting.len());
                assert_eq!(end.free.iter().sum::<u64>(), machine.free.iter().sum());
            }
        });
    }

    #[test]
    fn it_ends_soon_whoever_takes_the_room() {
        each::<4>(3, |thief| {
            each_machine(|mut machine| {
                machine.thief = thief.to_vec();
                let pages = machine.waiting.len();
                // Each round but the last two has moved a page.
                assert!(machine.run(2) <= pages + 2);
            });
        });
    }

    /// Three full nodes in a circle, with one free page on one of them: one batch moves all.
    #[test]
    fn a_circle_of_full_nodes_needs_one_round() {
        let mut machine = Machine {
            free: [0, 0, 1],
            waiting: (0..30).map(|i| (i % 3, vec![(i + 1) % 3])).collect(),
            busy: 0,
            moved: 0,
            thief: Vec::new(),
        };
        machine.round(30);
        assert_eq!(machine.moved, 30);
    }

    #[test]
    fn what_is_busy_is_tried_once_more() {
        let mut rounds = Rounds::new();
        let busy = left(7, 0, 1);
        assert_eq!(rounds.next(busy), Some(Round::Patient));
        assert_eq!(rounds.next(busy), None);
    }

    #[test]
    fn kswapd_gets_one_moment() {
        let mut rounds = Rounds::new();
        let full = |moved| left(moved, 9, 1);
        assert_eq!(rounds.next(full(1)), Some(Round::Again));
        assert_eq!(rounds.next(full(0)), Some(Round::Patient));
        assert_eq!(rounds.next(full(1)), Some(Round::Again));
        assert_eq!(rounds.next(full(0)), Some(Round::Last { pause: true }));
        assert_eq!(rounds.next(full(1)), Some(Round::Last { pause: false }));
        assert_eq!(rounds.next(full(0)), None);
        assert_eq!(Rounds::new().next(Left::default()), None);
    }

    /// However few pages move in each round, all rounds together cost no more than a part of what it
    /// costs to move them: each page that is tried in vain has a part of a page that moved.
    #[test]
    fn rounds_end_soon() {
        for few in [1, 2, 10, 1000] {
            let mut rounds = Rounds::new();
            let (mut waiting, mut moved, mut tried, mut all) = (100_000u64, few, 0, few);
            loop {
                if rounds.next(left(moved, waiting, 0)).is_none() {
                    break;
                }
                tried += waiting;
                moved = few.min(waiting);
                waiting -= moved;
                all += moved;
            }
            assert!(tried <= 2 * 100_000 + WORTH * all, "{few}: {tried}, {all}");
        }
    }
}
