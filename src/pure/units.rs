// SPDX-License-Identifier: GPL-2.0

//! Units: numbers that must not be taken for each other.

use core::{
    iter::Sum,
    ops::{
        Add,
        AddAssign,
        Sub, //
    }, //
};

/// A number of base pages. Sums end at the largest number, which no count comes near, and differences at none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pages(u64);

impl Pages {
    /// No page.
    pub(crate) const NONE: Self = Self(0);

    /// So many pages.
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Their number.
    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// Whether there are any.
    pub(crate) fn any(self) -> bool {
        self != Self::NONE
    }
}

impl Add for Pages {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Pages {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Pages {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Pages {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::NONE, Add::add)
    }
}

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

    /// How many, as they are counted.
    pub(crate) fn count(self) -> Pages {
        Pages(self.len as u64)
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
