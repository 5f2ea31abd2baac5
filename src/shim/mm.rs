// SPDX-License-Identifier: GPL-2.0

//! Address spaces, and the walk over their present pages.

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    error::to_result,
    ffi::c_void,
    mm::Mm,
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef, //
};

use crate::{
    bindings,
    pure::units::{
        NodeId,
        PageNumber,
        Pages,
        Pfn,
        Span,
        Vpn, //
    },
    shim::{
        file::{
            InodeId,
            MappedFile, //
        },
        folio::FolioList,
        node, //
        page_set::PageSet,
    },
};

/// A VMA that a walk enters.
pub(crate) struct Vma {
    /// The file that it maps, if any.
    pub(crate) inode: Option<InodeId>,
    /// It may be written to.
    pub(crate) writable: bool,
    /// A server answers for the file's pages, and may never do so.
    pub(crate) served: bool,
    /// Its first address, if its file system holds pages until they have been written.
    pub(crate) holds: Option<usize>,
}

/// A run of present pages of one folio, under its page-table lock.
pub(crate) struct Mapped<'a> {
    facts: &'a bindings::pm_folio,
    // Valid under the page-table lock only, which belongs to this CPU.
    _locked: PhantomData<*mut ()>,
}

impl Mapped<'_> {
    fn has(&self, flag: u32) -> bool {
        self.facts.flags & flag != 0
    }

    /// The folio's frames.
    pub(crate) fn frames(&self) -> Span<Pfn> {
        Span::new(Pfn::new(self.facts.pfn), self.facts.nr_pages)
    }

    /// The run's pages in the address space.
    pub(crate) fn pages(&self) -> Span<Vpn> {
        Span::new(Vpn::new(self.facts.addr >> PAGE_SHIFT), self.facts.mapped)
    }

    /// Position of the run's first page in the folio.
    pub(crate) fn index(&self) -> usize {
        self.facts.index
    }

    /// The node that it is on.
    pub(crate) fn node(&self) -> NodeId {
        NodeId::from_kernel(self.facts.nid)
    }

    /// It is anonymous memory.
    pub(crate) fn is_anon(&self) -> bool {
        self.has(bindings::PM_FOLIO_ANON)
    }

    /// Another process may map it. The kernel cannot always tell.
    pub(crate) fn is_shared(&self) -> bool {
        self.has(bindings::PM_FOLIO_SHARED)
    }

    /// It is pinned for DMA.
    pub(crate) fn is_pinned(&self) -> bool {
        self.has(bindings::PM_FOLIO_PINNED)
    }

    /// The kernel cannot move it.
    pub(crate) fn is_unmovable(&self) -> bool {
        self.has(bindings::PM_FOLIO_UNMOVABLE)
    }

    /// It is from a hugetlb pool.
    pub(crate) fn is_hugetlb(&self) -> bool {
        self.has(bindings::PM_FOLIO_HUGETLB)
    }

    /// It is on its LRU list: nobody has isolated it.
    pub(crate) fn is_listed(&self) -> bool {
        self.has(bindings::PM_FOLIO_LISTED)
    }

    /// Somebody else is moving it.
    pub(crate) fn is_migrating(&self) -> bool {
        self.has(bindings::PM_FOLIO_MIGRATING)
    }

    /// Takes the folio off its LRU list or out of its hugetlb pool, into `list`. Returns false if somebody
    /// else has it, or if it waits in the cache of a CPU to be listed.
    pub(crate) fn isolate(&self, list: &mut FolioList) -> bool {
        let folio = self.facts.folio;
        if folio.is_null() {
            return false;
        }
        // SAFETY: The folio is mapped by a page table whose lock is held, which keeps it alive.
        unsafe { bindings::pm_shim_folio_isolate(folio, list.as_raw()) }
    }
}

/// What a [`Visitor`] answers to a VMA.
pub(crate) enum VmaStep {
    /// Walk its pages.
    Enter,
    /// Stop before it: its file is not known.
    UnknownFile,
}

/// What a [`Visitor`] answers to a run of pages.
pub(crate) enum FolioStep {
    /// Go on.
    On,
    /// Stop before it.
    Stop,
}

/// The pages that a walk shows to its visitor. The others are counted, or left out.
pub(crate) struct Filter<'a> {
    /// For each node number: pages on nodes with the flag `node_map::OLD` are shown.
    pub(crate) nodes: &'a [u8],
    /// Pages in these frames are counted as moved.
    pub(crate) moved: &'a PageSet<Pfn>,
    /// Others may add some while the walk goes on.
    pub(crate) others_move: bool,
    /// Of the address space's pages only these are looked at. What is shown and taken, or counted, is
    /// taken out of the set.
    pub(crate) only: Option<Only<'a>>,
}

/// Pages that are to be looked at once more.
pub(crate) struct Only<'a> {
    /// Their numbers.
    pub(crate) pages: &'a PageSet<Vpn>,
    /// Those on nodes without the flag stay in the set, uncounted.
    pub(crate) leave: bool,
    /// Do not wait for mmap_lock: where others have it, the walk ends where it begins.
    pub(crate) try_lock: bool,
}

/// What a [`Filter`] has kept from a visitor, in base pages.
#[derive(Default)]
pub(crate) struct Passed {
    /// On no old node.
    pub(crate) in_place: Pages,
    /// In frames of pages that have moved.
    pub(crate) already_moved: Pages,
    /// Taken out of the set of pages that were to be looked at, whatever they were.
    pub(crate) taken: Pages,
}

/// Looks at the present pages of a range.
///
/// Its methods run with mmap_lock held, the second one also under a page-table lock. They must
/// neither sleep nor allocate.
pub(crate) trait Visitor {
    /// Whether the target gets page tables of huge pages back that it has shared, and lost when one of
    /// the pages moved.
    fn shares(&self) -> bool {
        false
    }
    /// A VMA begins.
    fn vma(&mut self, vma: &Vma) -> VmaStep;
    /// A run of pages of one folio.
    fn folio(&mut self, mapped: &Mapped<'_>) -> FolioStep;
}

/// What a search for files has come by.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    /// VMAs that may have a memory policy.
    pub(crate) policies: bool,
    /// Shmem files, which may have policies of their own.
    pub(crate) shmem: bool,
}

impl Seen {
    /// Nobody has looked.
    pub(crate) const ANYTHING: Self = Self {
        policies: true,
        shmem: true,
    };
}

/// Where a walk ended.
pub(crate) struct WalkEnd {
    /// The address at which to go on.
    pub(crate) resume: usize,
    /// A file that the visitor did not know.
    pub(crate) unknown: Option<MappedFile>,
    /// Pages up to there that the visitor was not shown.
    pub(crate) passed: Passed,
}

/// The address space of a process.
///
/// The structure is held, the memory is not: it is given back when the process exits. So whatever
/// looks into it may find that it is gone.
#[derive(Clone)]
pub(crate) struct UserMm(ARef<Mm>);

impl UserMm {
    /// Takes over a reference, if there is one.
    ///
    /// # Safety
    ///
    /// `mm` must be null, or an address space with a reference that the caller gives away.
    pub(super) unsafe fn from_raw(mm: *mut bindings::mm_struct) -> Option<Self> {
        // CAST: `Mm` is a transparent wrapper of `struct mm_struct`.
        let mm = NonNull::new(mm.cast::<Mm>())?;
        // SAFETY: By the requirements the reference is ours.
        Some(Self(unsafe { ARef::from_raw(mm) }))
    }

    pub(super) fn as_raw(&self) -> *mut bindings::mm_struct {
        self.0.as_raw()
    }

    /// The address at which user memory ends, in bytes.
    pub(crate) fn size(&self) -> usize {
        // SAFETY: The address space is a live reference.
        unsafe { bindings::pm_shim_mm_size(self.as_raw()) }
    }

    /// Whether it is the caller's own.
    pub(crate) fn is_current(&self) -> bool {
        current!()
            .mm()
            .is_some_and(|mm| core::ptr::eq(mm.as_raw(), self.as_raw()))
    }

    /// Whether nobody uses it any more.
    pub(crate) fn is_gone(&self) -> bool {
        // SAFETY: The address space is a live reference.
        unsafe { bindings::pm_shim_mm_is_gone(self.as_raw()) }
    }

    /// The file that is mapped at an address, if it may have a mark.
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal came, `ESRCH` if nobody uses the address space any more.
    pub(crate) fn file_at(&self, address: usize) -> Result<Option<MappedFile>> {
        let mut file = bindings::pm_file::default();
        // SAFETY: The address space is a live reference, and `file` is writable.
        to_result(unsafe { bindings::pm_shim_mm_file_at(self.as_raw(), address, &mut file) })?;
        // SAFETY: The shim holds any file that it tells of.
        Ok(unsafe { MappedFile::from_raw(file) })
    }

    /// The next file from `at` on, below `end`, that may have a mark; `at` is then behind its mapping.
    /// `None` where there is none before the new `at`. `last` lets mappings of one file be passed over. What
    /// else there is up to there is added to `seen`.
    ///
    /// # Errors
    ///
    /// As [`file_at`](Self::file_at).
    pub(crate) fn next_file(
        &self,
        at: &mut usize,
        end: usize,
        last: &mut usize,
        seen: &mut Seen,
    ) -> Result<Option<MappedFile>> {
        let mut file = bindings::pm_file::default();
        let mut facts = bindings::pm_seen::default();
        // SAFETY: The address space is a live reference, and the others are writable.
        to_result(unsafe {
            bindings::pm_shim_mm_next_file(self.as_raw(), at, end, last, &mut file, &mut facts)
        })?;
        seen.policies |= facts.policies;
        seen.shmem |= facts.shmem;
        // SAFETY: The shim holds any file that it tells of.
        Ok(unsafe { MappedFile::from_raw(file) })
    }

    /// Shows present pages of `start..end` to `visitor`, for a bounded time; those that pass `filter`
    /// only, if there is one.
    ///
    /// Takes mmap_lock for reading and gives it up early when others want it.
    ///
    /// # Errors
    ///
    /// `EINTR` if the caller is being killed, `ESRCH` if nobody uses the address space any more,
    /// `EINVAL` if the filter lacks a node.
    pub(crate) fn walk(
        &self,
        start: usize,
        end: usize,
        filter: Option<&Filter<'_>>,
        mut visitor: &mut dyn Visitor,
    ) -> Result<WalkEnd> {
        let mut walk = bindings::pm_walk {
            share: visitor.shares(),
            ..bindings::pm_walk::default()
        };
        if let Some(filter) = filter {
            if filter.nodes.len() < node::count() {
                return Err(EINVAL);
            }
            walk.nodes = filter.nodes.as_ptr();
            if filter.others_move || !filter.moved.is_empty() {
                walk.moved = filter.moved.as_raw();
            }
            if let Some(only) = &filter.only {
                walk.only = only.pages.as_raw();
                walk.leave = only.leave;
                walk.try_lock = only.try_lock;
            }
        }
        let sink: *mut &mut dyn Visitor = &mut visitor;
        // SAFETY: The address space is a live reference, `sink` lives until the call returns and
        // only the two functions below use it, and `walk` is writable. What the filter refers to is
        // borrowed until then, and its table has an entry for each node.
        let how =
            unsafe { bindings::pm_shim_mm_walk(self.as_raw(), start, end, sink.cast(), &mut walk) };
        to_result(how.min(0))?;
        // SAFETY: The shim holds any file that it tells of.
        let unknown = unsafe { MappedFile::from_raw(walk.file) };
        Ok(WalkEnd {
            resume: walk.resume,
            unknown,
            passed: Passed {
                in_place: Pages::new(walk.in_place),
                already_moved: Pages::new(walk.already_moved),
                taken: Pages::new(walk.taken),
            },
        })
    }
}

/// Hands a VMA to the visitor.
///
/// # Safety
///
/// `sink` must come from [`UserMm::walk`], which must not have returned. `vma` must be readable.
#[no_mangle]
unsafe extern "C" fn page_migrate_walk_vma(
    sink: *mut c_void,
    vma: *const bindings::pm_vma,
) -> bindings::pm_step {
    // SAFETY: By the requirements, and the walk uses it one call at a time.
    let visitor = unsafe { &mut *sink.cast::<&mut dyn Visitor>() };
    // SAFETY: By the requirements.
    let facts = unsafe { &*vma };
    let vma = Vma {
        inode: InodeId::from_raw(&facts.file),
        writable: facts.flags & bindings::PM_VMA_WRITE != 0,
        served: facts.flags & bindings::PM_VMA_SERVED != 0,
        holds: (facts.flags & bindings::PM_VMA_HOLDS != 0).then_some(facts.start),
    };
    match visitor.vma(&vma) {
        VmaStep::Enter => bindings::pm_step_PM_STEP_ON,
        VmaStep::UnknownFile if vma.inode.is_some() => bindings::pm_step_PM_STEP_STOP,
        // Without a file there is nothing to stop for.
        VmaStep::UnknownFile => bindings::pm_step_PM_STEP_ON,
    }
}

/// Hands a run of pages to the visitor.
///
/// # Safety
///
/// `sink` must come from [`UserMm::walk`], which must not have returned. `folio` must be readable,
/// and the page-table lock of the run held.
#[no_mangle]
unsafe extern "C" fn page_migrate_walk_folio(
    sink: *mut c_void,
    folio: *const bindings::pm_folio,
) -> bindings::pm_step {
    // SAFETY: By the requirements, and the walk uses it one call at a time.
    let visitor = unsafe { &mut *sink.cast::<&mut dyn Visitor>() };
    let mapped = Mapped {
        // SAFETY: By the requirements.
        facts: unsafe { &*folio },
        _locked: PhantomData,
    };
    match visitor.folio(&mapped) {
        FolioStep::On => bindings::pm_step_PM_STEP_ON,
        FolioStep::Stop => bindings::pm_step_PM_STEP_STOP,
    }
}
