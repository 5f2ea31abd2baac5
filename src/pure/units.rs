// SPDX-License-Identifier: GPL-2.0

//! Units: numbers that must not be taken for each other.

/// A number of a page: of its frame, or of its place in an address space.
pub(crate) trait PageNumber: Copy + Ord {
    /// The page of this number.
    fn new(number: usize) -> Self;
    /// Its number.
    fn get(self) -> usize;
}

/// The number of a page frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pfn(usize);

/// The number of a page of an address space: its address in units of pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Vpn(usize);

impl PageNumber for Pfn {
    fn new(number: usize) -> Self {
        Self(number)
    }

    fn get(self) -> usize {
        self.0
    }
}

impl PageNumber for Vpn {
    fn new(number: usize) -> Self {
        Self(number)
    }

    fn get(self) -> usize {
        self.0
    }
}

impl Pfn {
    /// The first frame of the folio of 2^`order` pages that would have this one.
    pub(crate) fn head(self, order: u32) -> Self {
        Self(self.0 & usize::MAX.checked_shl(order).unwrap_or(0))
    }
}

/// Pages one after the other: a folio by its frames, or a run of mapped pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span<N> {
    pub(crate) first: N,
    /// How many.
    pub(crate) len: usize,
}

impl<N: PageNumber> Span<N> {
    /// `len` pages from `first` on.
    pub(crate) fn new(first: N, len: usize) -> Self {
        Self { first, len }
    }

    /// The page after the last one.
    pub(crate) fn end(self) -> N {
        N::new(self.first.get().saturating_add(self.len))
    }

    /// Whether a page is one of these.
    pub(crate) fn contains(self, page: N) -> bool {
        page >= self.first && page < self.end()
    }

    /// `len` of its pages from the one at `offset` on.
    pub(crate) fn part(self, offset: usize, len: usize) -> Self {
        Self::new(N::new(self.first.get().saturating_add(offset)), len)
    }

    /// Where the pages that it shares with another span begin in it, and how many there are.
    pub(crate) fn common(self, other: Self) -> Option<(usize, usize)> {
        let from = self.first.max(other.first).get();
        let len = self.end().min(other.end()).get().checked_sub(from)?;
        (len > 0).then(|| (from.saturating_sub(self.first.get()), len))
    }
}

/// The number of a NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct NodeId(u16);

impl NodeId {
    /// The node of this number, if it can be one.
    pub(crate) fn new(number: usize) -> Option<Self> {
        u16::try_from(number).ok().map(Self)
    }

    /// The node that the kernel means. What is none has a number that no node has.
    pub(crate) fn from_kernel(nid: i32) -> Self {
        Self(u16::try_from(nid).unwrap_or(u16::MAX))
    }

    /// Its place in a table with an entry for each node.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Its number, as the kernel has it.
    pub(crate) fn get(self) -> u32 {
        u32::from(self.0)
    }
}
