// SPDX-License-Identifier: GPL-2.0

//! Isolated folios, and their migration.

use core::ptr::NonNull;

use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use crate::{
    bindings,
    pure::units::{
        NodeId,
        PageNumber,
        Pfn,
        Span, //
    },
    shim::node, //
};

/// Lists that one call needs.
const LISTS: usize = 13;

/// The heads of a call's lists, in one piece of memory.
struct Heads([Opaque<bindings::list_head>; LISTS]);

/// Isolated folios. What is still in the list when it is dropped goes back where it came from.
///
/// # Invariants
///
/// The list head is one of `_heads` that no other list has. It is initialised and links isolated folios
/// that belong to this list alone.
pub(crate) struct FolioList {
    head: *mut bindings::list_head,
    _heads: Arc<Heads>,
}

// SAFETY: The folios belong to whoever holds the list, on whatever thread.
unsafe impl Send for FolioList {}

/// An isolated folio, as it stands in a list.
pub(crate) struct Isolated {
    /// Its frames.
    pub(crate) frames: Span<Pfn>,
    /// The node that it is on.
    pub(crate) node: NodeId,
    /// It has more than one page.
    pub(crate) large: bool,
    /// It is pinned for DMA.
    pub(crate) pinned: bool,
    /// Its process has given it back: nobody but this list has a reference.
    pub(crate) freed: bool,
    /// Its file system has yet to write it.
    pub(crate) unwritten: bool,
}

impl FolioList {
    /// Makes the lists of a call, all empty.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new_all() -> Result<[Self; LISTS]> {
        let heads = core::array::from_fn(|_| Opaque::uninit());
        let heads = Arc::new(Heads(heads), GFP_KERNEL_ACCOUNT)?;
        Ok(heads.0.each_ref().map(|head| {
            // SAFETY: The head is writable and does not move: it stays where the `Arc` has it.
            unsafe { bindings::pm_shim_list_init(head.get()) };
            // INVARIANT: The list has been initialised and is empty, and each head is for one list.
            Self {
                head: head.get(),
                _heads: heads.clone(),
            }
        }))
    }

    pub(super) fn as_raw(&mut self) -> *mut bindings::list_head {
        self.head
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: The list is initialised by the type invariant.
        unsafe { bindings::pm_shim_list_is_empty(self.head) }
    }

    /// The first folio.
    pub(crate) fn first(&self) -> Option<Source> {
        let mut facts = bindings::pm_source::default();
        // SAFETY: The list is initialised and links isolated folios by the type invariant, and `facts` is
        // writable.
        let found = unsafe { bindings::pm_shim_list_first(self.head, &mut facts) };
        found.then(|| Source::from_facts(&facts))
    }

    /// Moves the first folio to the end of `to`, and tells about it.
    pub(crate) fn shift(&mut self, to: &mut FolioList) -> Option<Isolated> {
        let mut facts = bindings::pm_folio::default();
        // SAFETY: Both lists are initialised by their invariants, and `facts` is writable.
        if !unsafe { bindings::pm_shim_list_shift(self.as_raw(), to.as_raw(), &mut facts) } {
            return None;
        }
        Some(Isolated {
            frames: Span::new(Pfn::new(facts.pfn), facts.nr_pages),
            node: NodeId::from_kernel(facts.nid),
            large: facts.flags & bindings::PM_FOLIO_LARGE != 0,
            pinned: facts.flags & bindings::PM_FOLIO_PINNED != 0,
            freed: facts.flags & bindings::PM_FOLIO_FREED != 0,
            unwritten: facts.flags & bindings::PM_FOLIO_UNWRITTEN != 0,
        })
    }

    /// Moves the first folios, as many as have so many base pages, and at least one, to `to`, which is
    /// empty.
    pub(crate) fn take(&mut self, pages: usize, to: &mut FolioList) {
        // SAFETY: Both lists are initialised by their invariants.
        unsafe { bindings::pm_shim_list_take(self.as_raw(), pages, to.as_raw()) };
    }

    /// Moves all folios of `from` to the end of this list.
    pub(crate) fn append(&mut self, from: &mut FolioList) {
        // SAFETY: Both lists are initialised by their invariants.
        unsafe { bindings::pm_shim_list_splice(from.as_raw(), self.as_raw()) };
    }

    /// Puts all folios back where they came from.
    pub(crate) fn put_back(&mut self) {
        // SAFETY: The list is initialised and links isolated folios by the type invariant.
        unsafe { bindings::pm_shim_list_put_back(self.as_raw()) };
    }

    /// Migrates the folios to where `mover` says. Those that were not migrated stay in the list,
    /// and with `wait` false also those that somebody else has locked.
    pub(crate) fn migrate(&mut self, mut mover: &mut dyn Mover, wait: bool) {
        let ctx: *mut &mut dyn Mover = &mut mover;
        // SAFETY: The list links isolated folios by the type invariant. `ctx` lives until the call
        // returns, and only the two functions below use it.
        unsafe { bindings::pm_shim_migrate(self.as_raw(), ctx.cast(), wait) };
    }
}

impl Drop for FolioList {
    fn drop(&mut self) {
        if !self.is_empty() {
            self.put_back();
        }
    }
}

/// How hard to look for a free page. The OOM killer is never called.
#[derive(Clone, Copy)]
pub(crate) enum Effort {
    /// Take what is free.
    None,
    /// One round of reclaim or compaction.
    Light,
}

/// An isolated folio that needs a place.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// Its frames.
    pub(crate) frames: Span<Pfn>,
    /// The node that it is on.
    pub(crate) node: NodeId,
    /// Its size, as a power of two of pages.
    pub(crate) order: u32,
    /// It is from a hugetlb pool.
    pub(crate) hugetlb: bool,
}

impl Source {
    fn from_facts(facts: &bindings::pm_source) -> Self {
        Self::new(facts.pfn, facts.nid, facts.order, facts.hugetlb)
    }

    fn new(pfn: usize, nid: c_int, order: u32, hugetlb: bool) -> Self {
        let nr_pages = 1usize.checked_shl(order).unwrap_or(0);
        Self {
            frames: Span::new(Pfn::new(pfn), nr_pages),
            node: NodeId::from_kernel(nid),
            order,
            hugetlb,
        }
    }
}

/// A freshly allocated folio that nobody else uses.
///
/// # Invariants
///
/// Holds the only reference to the folio.
pub(crate) struct NewFolio(NonNull<bindings::folio>);

// SAFETY: The folio belongs to whoever holds its only reference, on whatever thread.
unsafe impl Send for NewFolio {}

impl NewFolio {
    /// Its first frame.
    pub(crate) fn pfn(&self) -> Pfn {
        // SAFETY: The folio is alive by the type invariant.
        Pfn::new(unsafe { bindings::pm_shim_folio_pfn(self.0.as_ptr()) })
    }

    /// Its frames.
    pub(crate) fn frames(&self) -> Span<Pfn> {
        // SAFETY: The folio is alive by the type invariant.
        let len = unsafe { bindings::pm_shim_folio_nr_pages(self.0.as_ptr()) };
        Span::new(self.pfn(), len)
    }

    fn into_raw(self) -> *mut bindings::folio {
        let folio = self.0.as_ptr();
        core::mem::forget(self);
        folio
    }
}

impl Drop for NewFolio {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type invariant.
        unsafe { bindings::pm_shim_folio_put(self.0.as_ptr()) };
    }
}

/// Allocates a folio of `order` on `node` and no other, for user memory; with `hugetlb` one of the pool
/// of that size.
pub(crate) fn allocate(
    node: NodeId,
    order: u32,
    hugetlb: bool,
    effort: Effort,
) -> Option<NewFolio> {
    let effort = match effort {
        Effort::None => bindings::pm_effort_PM_EFFORT_NONE,
        Effort::Light => bindings::pm_effort_PM_EFFORT_LIGHT,
    };
    // SAFETY: The node has memory, or had it when the call began; an offline node just has nothing
    // to give.
    let folio = unsafe { bindings::pm_shim_folio_alloc(node.get(), order, hugetlb, effort) };
    // INVARIANT: The reference is ours.
    NonNull::new(folio).map(NewFolio)
}

/// Pages that [`allocate_some`] gets at most.
pub(crate) const MOST_AT_A_TIME: usize = 32;

/// Adds up to `wanted` single pages of `node`, and no other, to `pages`, as far as they are free and there is
/// room for them.
pub(crate) fn allocate_some(node: NodeId, wanted: usize, pages: &mut KVVec<NewFolio>) {
    let mut folios = [core::ptr::null_mut(); MOST_AT_A_TIME];
    let wanted = wanted
        .min(MOST_AT_A_TIME)
        .min(pages.capacity().saturating_sub(pages.len()));
    // SAFETY: As in `allocate`; there is room for all that may be written.
    let got =
        unsafe { bindings::pm_shim_folio_alloc_some(node.get(), wanted, folios.as_mut_ptr()) };
    for &folio in folios.iter().take(got) {
        // INVARIANT: The reference is ours.
        if let Some(folio) = NonNull::new(folio).map(NewFolio) {
            // There is room. If there were none, the page would be given back.
            drop(pages.push_within_capacity(folio));
        }
    }
}

/// Finds places for folios. Its methods may sleep.
pub(crate) trait Mover {
    /// A new folio for `src`; `None` where there is no room.
    ///
    /// Called again for each attempt, and for the parts of a folio that had to be split.
    fn new_folio(&mut self, src: &Source) -> Option<NewFolio>;
    /// A new folio was not needed.
    fn unused(&mut self, folio: NewFolio);
}

/// Asks the mover for a place.
///
/// # Safety
///
/// `mover` must come from [`FolioList::migrate`], which must not have returned. The others must tell of an
/// isolated folio.
#[no_mangle]
unsafe extern "C" fn page_migrate_new_folio(
    mover: *mut c_void,
    pfn: usize,
    nid: c_int,
    order: u32,
    hugetlb: bool,
) -> *mut bindings::folio {
    // SAFETY: By the requirements, and the kernel uses it one call at a time.
    let mover = unsafe { &mut *mover.cast::<&mut dyn Mover>() };
    mover
        .new_folio(&Source::new(pfn, nid, order, hugetlb))
        .map_or(core::ptr::null_mut(), NewFolio::into_raw)
}

/// Gives a place back to the mover.
///
/// # Safety
///
/// `mover` must come from [`FolioList::migrate`], which must not have returned. `dst` must come from
/// [`page_migrate_new_folio`] with its reference.
#[no_mangle]
unsafe extern "C" fn page_migrate_free_folio(mover: *mut c_void, dst: *mut bindings::folio) {
    // SAFETY: By the requirements, and the kernel uses it one call at a time.
    let mover = unsafe { &mut *mover.cast::<&mut dyn Mover>() };
    if let Some(dst) = NonNull::new(dst) {
        // INVARIANT: By the requirements the reference is handed back to us.
        mover.unused(NewFolio(dst));
    }
}

/// Brings recently used folios of all CPUs to the LRU lists, where they can be isolated.
pub(crate) fn drain_lru() {
    // SAFETY: May be called wherever one may sleep.
    unsafe { bindings::pm_shim_drain_lru() };
}

/// Brings recently used folios of this CPU to the LRU lists.
pub(crate) fn drain_lru_here() {
    // SAFETY: May be called anywhere outside of interrupts.
    unsafe { bindings::pm_shim_drain_lru_here() };
}

/// Gives free pages of a node that CPUs keep for themselves back to it.
pub(crate) fn drain_free(node: NodeId) {
    if node.index() < node::count() {
        // SAFETY: The number is that of a node. One may sleep here.
        unsafe { bindings::pm_shim_drain_free(node.get()) };
    }
}
