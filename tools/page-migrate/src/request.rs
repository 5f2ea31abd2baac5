// SPDX-License-Identifier: MIT OR Apache-2.0

use std::os::fd::BorrowedFd;

use crate::{destination, uapi, Node, Pair};

/// The process that a call is about.
#[derive(Clone, Copy, Debug)]
pub enum Target<'fd> {
    /// The caller itself.
    Myself,
    /// A process, by any of its threads.
    Pid(i32),
    /// A process, by a pidfd: it cannot become another one in between.
    Pidfd(BorrowedFd<'fd>),
}

/// A part of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address, a multiple of the page size.
    pub start: u64,
    /// Bytes, rounded up to whole pages by the kernel.
    pub len: u64,
}

impl Range {
    /// The whole process.
    pub const ALL: Range = Range {
        start: 0,
        len: u64::MAX,
    };

    /// The address behind the range, as far as addresses go.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

impl Default for Range {
    fn default() -> Self {
        Range::ALL
    }
}

/// What to move, and how. Nothing is checked here: the kernel is the judge.
#[derive(Clone, Debug)]
#[must_use]
pub struct Request<'fd> {
    pub(crate) target: Target<'fd>,
    pub(crate) range: Range,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) flags: u32,
    pub(crate) max_pages: u64,
    pub(crate) workers: u32,
}

impl<'fd> Request<'fd> {
    /// A request about the whole of a process, still without pairs.
    pub fn new(target: Target<'fd>) -> Self {
        Request {
            target,
            range: Range::ALL,
            pairs: Vec::new(),
            flags: 0,
            max_pages: 0,
            workers: 0,
        }
    }

    /// The same for another process.
    pub fn target(mut self, target: Target<'fd>) -> Self {
        self.target = target;
        self
    }

    /// Only this part of the address space.
    pub fn range(mut self, range: Range) -> Self {
        self.range = range;
        self
    }

    /// Adds a pair: pages found on `old` go to `new`.
    pub fn pair(mut self, old: impl Into<Node>, new: impl Into<Node>) -> Self {
        self.pairs.push(Pair {
            old: old.into(),
            new: new.into(),
        });
        self
    }

    /// Adds pairs.
    pub fn pairs(mut self, pairs: &[Pair]) -> Self {
        self.pairs.extend_from_slice(pairs);
        self
    }

    /// Count what would move, change nothing.
    pub fn dry_run(self, on: bool) -> Self {
        self.flag(uapi::DRY_RUN, on)
    }

    /// Leave pages that another process maps, whatever the caller may do.
    pub fn exclusive(self, on: bool) -> Self {
        self.flag(uapi::EXCLUSIVE, on)
    }

    /// No fallback: a page whose own new node is full stays.
    pub fn strict(self, on: bool) -> Self {
        self.flag(uapi::STRICT, on)
    }

    /// Leave the memory policies as they are.
    pub fn keep_policy(self, on: bool) -> Self {
        self.flag(uapi::KEEP_POLICY, on)
    }

    /// Forget what this device has moved before, and begin a new job.
    pub fn new_job(self, on: bool) -> Self {
        self.flag(uapi::NEW_JOB, on)
    }

    /// End the call once about that many pages have moved; 0 is no limit.
    pub fn max_pages(mut self, pages: u64) -> Self {
        self.max_pages = pages;
        self
    }

    /// Threads that copy; 0 is the kernel's choice.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    fn flag(mut self, flag: u32, on: bool) -> Self {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
        self
    }
}

/// How many pages did what. Each base-page mapping that a call meets counts in
/// exactly one of the fields from `moved` to `gone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Now on the node that the map names; in a dry run: would be moved.
    pub moved: u64,
    /// Moved to another new node, since the named one was full.
    pub moved_fallback: u64,
    /// Met again after it had moved in this job.
    pub already_moved: u64,
    /// On no old node, or on one that maps to itself.
    pub in_place: u64,
    /// Left because of its file's mark.
    pub exempt: u64,
    /// Left because another process maps it too.
    pub shared: u64,
    /// Locked, under writeback or briefly referenced.
    pub busy: u64,
    /// Pinned for DMA or otherwise held for long.
    pub pinned: u64,
    /// Of a kind that the kernel cannot move.
    pub unmovable: u64,
    /// No new node has room.
    pub no_memory: u64,
    /// Given back by the process (freed, unmapped) before it could move:
    /// neither moved nor left behind.
    pub gone: u64,
    /// Memory policies that were changed (objects, not pages).
    pub policies: u64,
}

impl Counts {
    /// Pages that moved, to the named node or to another new one.
    pub fn total_moved(&self) -> u64 {
        self.moved.saturating_add(self.moved_fallback)
    }

    /// Pages that stay behind although the map selects them.
    pub fn left_behind(&self) -> u64 {
        [
            self.shared,
            self.busy,
            self.pinned,
            self.unmovable,
            self.no_memory,
        ]
        .iter()
        .fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Pages that a call met, whatever became of them.
    pub fn total(&self) -> u64 {
        [self.already_moved, self.in_place, self.exempt, self.gone]
            .iter()
            .fold(self.total_moved(), |sum, n| sum.saturating_add(*n))
            .saturating_add(self.left_behind())
    }

    /// Counts what was left behind as gone. This is for a process that has
    /// exited, since it has given back all of its pages.
    pub fn give_back(&mut self) {
        self.gone = self.gone.saturating_add(self.left_behind());
        self.shared = 0;
        self.busy = 0;
        self.pinned = 0;
        self.unmovable = 0;
        self.no_memory = 0;
    }

    /// Adds the counts of another call.
    pub fn add(&mut self, other: &Counts) {
        for (a, b) in [
            (&mut self.moved, other.moved),
            (&mut self.moved_fallback, other.moved_fallback),
            (&mut self.already_moved, other.already_moved),
            (&mut self.in_place, other.in_place),
            (&mut self.exempt, other.exempt),
            (&mut self.shared, other.shared),
            (&mut self.busy, other.busy),
            (&mut self.pinned, other.pinned),
            (&mut self.unmovable, other.unmovable),
            (&mut self.no_memory, other.no_memory),
            (&mut self.gone, other.gone),
            (&mut self.policies, other.policies),
        ] {
            *a = a.saturating_add(b);
        }
    }
}

impl From<&uapi::Result> for Counts {
    fn from(r: &uapi::Result) -> Self {
        Counts {
            moved: r.moved,
            moved_fallback: r.moved_fallback,
            already_moved: r.already_moved,
            in_place: r.in_place,
            exempt: r.exempt,
            shared: r.shared,
            busy: r.busy,
            pinned: r.pinned,
            unmovable: r.unmovable,
            no_memory: r.no_memory,
            gone: r.gone,
            policies: r.policies,
        }
    }
}

/// Why a call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// It got to the end of its range, or the process exited or called
    /// execve(2): then it has counted what it did before.
    Returned,
    /// About `max_pages` pages have moved. The same call again goes on.
    Limit,
    /// `ENOMEM` with pages in `no_memory`: some found no room on any new node,
    /// the others were moved.
    NoRoom,
    /// `ENOMEM` of the call itself: it could not get memory for its own
    /// bookkeeping and stopped where `resume_va` says.
    OutOfMemory,
    /// A signal came. The same call again goes on.
    Interrupted,
}

/// What a call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many pages did what.
    pub counts: Counts,
    /// For each pair: pages that left its old node, fallback included.
    pub moved_by_pair: Vec<u64>,
    /// What the call returned: pages that stay behind, without `no_memory`.
    pub returned: u64,
    /// Why the call returned.
    pub stop: Stop,
    /// Where an interrupted or limited call stopped, else the range's end.
    pub resume_va: u64,
}

impl Outcome {
    /// Whether every page that the map selects is where it should be, or is
    /// exempt.
    pub fn is_complete(&self) -> bool {
        self.stop == Stop::Returned && self.counts.left_behind() == 0
    }

    /// Where to go on, for a call that a signal interrupted.
    pub fn interrupted_at(&self) -> Option<u64> {
        (self.stop == Stop::Interrupted).then_some(self.resume_va)
    }

    /// Adds what an earlier call counted in another part of the same range.
    pub fn add_part(&mut self, other: &Outcome) {
        self.counts.add(&other.counts);
        self.returned = self.returned.saturating_add(other.returned);
        for (a, b) in self.moved_by_pair.iter_mut().zip(&other.moved_by_pair) {
            *a = a.saturating_add(*b);
        }
    }

    /// Adds what earlier calls of the same job moved in the same range, and
    /// what was gone by then. All else has been met anew, and what they had
    /// moved as well: as in place or, where the device remembers, as already
    /// moved. It counts once.
    pub fn add_earlier(&mut self, earlier: &Outcome) {
        let (now, then) = (&mut self.counts, &earlier.counts);
        let again = now.already_moved.min(then.total_moved());
        now.already_moved -= again;
        now.in_place = now
            .in_place
            .saturating_sub(then.total_moved().saturating_sub(again));
        now.moved = now.moved.saturating_add(then.moved);
        now.moved_fallback = now.moved_fallback.saturating_add(then.moved_fallback);
        now.gone = now.gone.saturating_add(then.gone);
        now.policies = now.policies.saturating_add(then.policies);
        for (a, b) in self.moved_by_pair.iter_mut().zip(&earlier.moved_by_pair) {
            *a = a.saturating_add(*b);
        }
    }
}

/// Pages on each node. The index is the node's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Pages by node.
    pub pages: Vec<u64>,
}

impl Placement {
    /// Pages on one node; 0 for a node that does not exist.
    pub fn on(&self, node: u32) -> u64 {
        usize::try_from(node)
            .ok()
            .and_then(|n| self.pages.get(n))
            .copied()
            .unwrap_or(0)
    }

    /// Pages on all nodes.
    pub fn total(&self) -> u64 {
        self.pages.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Pages on a node that `pairs` sends elsewhere.
    pub fn selected(&self, pairs: &[Pair]) -> u64 {
        (0u32..)
            .zip(&self.pages)
            .filter(|(node, _)| destination(pairs, *node).is_some())
            .fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(Node, Node)]) -> Request<'static> {
        pairs
            .iter()
            .fold(Request::new(Target::Myself), |r, (old, new)| {
                r.pair(*old, *new)
            })
    }

    fn id(n: u32) -> Node {
        Node::Id(n)
    }

    #[test]
    fn flags_can_be_taken_back() {
        let r = Request::new(Target::Myself)
            .dry_run(true)
            .strict(true)
            .exclusive(true);
        assert_eq!(r.flags, 2 | 8 | 32);
        assert_eq!(r.strict(false).dry_run(false).flags, 8);
    }

    #[test]
    fn counts_add_up() {
        let one = Counts {
            moved: 1,
            moved_fallback: 2,
            already_moved: 4,
            in_place: 8,
            exempt: 16,
            shared: 32,
            busy: 64,
            pinned: 128,
            unmovable: 256,
            no_memory: 512,
            gone: 1024,
            policies: 2048,
        };
        assert_eq!(one.total_moved(), 3);
        assert_eq!(one.left_behind(), 32 + 64 + 128 + 256 + 512);
        assert_eq!(one.total(), 2047);
        let mut sum = one;
        sum.add(&one);
        assert_eq!(sum.total(), 4094);
        assert_eq!(sum.policies, 4096);
    }

    #[test]
    fn each_field_is_read_from_its_own() {
        let raw = uapi::Result {
            moved: 1,
            moved_fallback: 2,
            already_moved: 3,
            in_place: 4,
            exempt: 5,
            shared: 6,
            busy: 7,
            pinned: 8,
            unmovable: 9,
            no_memory: 10,
            policies: 11,
            resume_va: 12,
            gone: 13,
            reserved: 14,
        };
        let expected = Counts {
            moved: 1,
            moved_fallback: 2,
            already_moved: 3,
            in_place: 4,
            exempt: 5,
            shared: 6,
            busy: 7,
            pinned: 8,
            unmovable: 9,
            no_memory: 10,
            gone: 13,
            policies: 11,
        };
        assert_eq!(Counts::from(&raw), expected);
    }

    #[test]
    fn an_exited_process_leaves_nothing_behind() {
        let mut counts = Counts {
            moved: 1,
            exempt: 2,
            shared: 4,
            busy: 8,
            pinned: 16,
            unmovable: 32,
            no_memory: 64,
            gone: 128,
            ..Counts::default()
        };
        let total = counts.total();
        counts.give_back();
        let expected = Counts {
            moved: 1,
            exempt: 2,
            gone: 4 + 8 + 16 + 32 + 64 + 128,
            ..Counts::default()
        };
        assert_eq!(counts, expected);
        assert_eq!((counts.left_behind(), counts.total()), (0, total));
    }

    #[test]
    fn an_earlier_part_is_not_counted_twice() {
        let outcome = |moved, in_place, busy| Outcome {
            counts: Counts {
                moved,
                in_place,
                busy,
                ..Counts::default()
            },
            moved_by_pair: vec![moved],
            returned: busy,
            stop: Stop::Returned,
            resume_va: 0,
        };
        let mut whole = outcome(70, 40, 2);
        whole.add_earlier(&outcome(30, 5, 1));
        assert_eq!(whole, {
            let mut expected = outcome(100, 10, 2);
            expected.moved_by_pair = vec![100];
            expected
        });
        // As a job meets it that remembers.
        let mut whole = outcome(0, 40, 0);
        whole.counts.already_moved = 35;
        whole.add_earlier(&outcome(30, 5, 1));
        assert_eq!((whole.counts.already_moved, whole.counts.in_place), (5, 40));
        // What was gone is not met again.
        let mut earlier = outcome(30, 5, 1);
        earlier.counts.gone = 7;
        let mut whole = outcome(0, 35, 0);
        whole.counts.gone = 2;
        whole.add_earlier(&earlier);
        assert_eq!(whole.counts.gone, 9);
    }

    #[test]
    fn parts_add_up() {
        let part = |moved, in_place, stop| Outcome {
            counts: Counts {
                moved,
                in_place,
                ..Counts::default()
            },
            moved_by_pair: vec![moved],
            returned: 1,
            stop,
            resume_va: moved,
        };
        let mut whole = part(70, 40, Stop::Returned);
        whole.add_part(&part(30, 5, Stop::Limit));
        let mut expected = part(100, 45, Stop::Returned);
        (expected.returned, expected.resume_va) = (2, 70);
        assert_eq!(whole, expected);
    }

    #[test]
    fn selected_pages() {
        let placement = Placement {
            pages: vec![1, 10, 100, 1000],
        };
        assert_eq!(placement.on(2), 100);
        assert_eq!(placement.on(4), 0);
        assert_eq!(placement.total(), 1111);
        assert_eq!(
            placement.selected(&request(&[(id(0), id(2)), (id(1), id(3))]).pairs),
            11
        );
        assert_eq!(
            placement.selected(&request(&[(Node::Any, id(3)), (id(0), id(0))]).pairs),
            110
        );
    }

    #[test]
    fn a_range_ends_with_the_addresses() {
        assert_eq!(Range::ALL.end(), u64::MAX);
        let top = Range {
            start: u64::MAX - 1,
            len: 10,
        };
        assert_eq!(top.end(), u64::MAX);
    }
}
