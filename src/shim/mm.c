// SPDX-License-Identifier: GPL-2.0
/*
 * Address spaces: their locks, and the walk over their present pages.
 *
 * The walk shows each folio to the Rust half, which decides. What it calls for
 * each page is in this file.
 *
 * Locks, in this order: mmap_lock, for reading in a walk, which holds it for a
 * bounded time; what the kernel's own walk takes for hugetlb; a page-table lock,
 * under which the Rust half decides on a folio and takes only leaf locks.
 */
#include <linux/buffer_head.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/leafops.h>
#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>

#include "page_set.h"
#include "shim.h"

/* VMAs, and parts of page tables, to look at before others get mmap_lock. */
#define PM_WALK_STEPS	1024

/* Pages that cost as much as a VMA. */
#define PM_WALK_PART	64

/* Places without a page table that cost as much as a page table. */
#define PM_WALK_HOLES	256

/*
 * Wait for a lock whose holder may wait for a server. A signal ends that; but a
 * caller that is interrupted all the time gets half a second each time, or it
 * would get nowhere.
 */
int pm_down_read(struct rw_semaphore *sem)
{
	unsigned long end = jiffies + HZ / 2;

	if (!down_read_interruptible(sem))
		return 0;
	while (!down_read_trylock(sem)) {
		if (time_after(jiffies, end) || schedule_timeout_killable(1))
			return -EINTR;
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

unsigned long pm_shim_mm_size(struct mm_struct *mm)
{
	return mm->task_size;
}

bool pm_shim_mm_is_gone(struct mm_struct *mm)
{
	return !atomic_read(&mm->mm_users);
}

/*
 * Only a hold of its lock keeps the memory of an address space. A caller may
 * wait for a file system for long: if the process exits then, its memory is given
 * back as ever.
 *
 * Whoever puts the last reference takes the address space down, which closes its
 * files and may wait for their server without an end. A caller must not: it is
 * left to a worker of the kernel.
 */
static int pm_mm_lock(struct mm_struct *mm, bool write)
{
	if (!mmget_not_zero(mm))
		return -ESRCH;
	if (write ? mmap_write_lock_killable(mm) : pm_down_read(&mm->mmap_lock)) {
		mmput_async(mm);
		return -EINTR;
	}
	return 0;
}

int pm_mm_read_lock(struct mm_struct *mm)
{
	return pm_mm_lock(mm, false);
}

/* Return: -EAGAIN where the lock is not to be had at once. */
static int pm_mm_read_trylock(struct mm_struct *mm)
{
	if (!mmget_not_zero(mm))
		return -ESRCH;
	if (mmap_read_trylock(mm))
		return 0;
	mmput_async(mm);
	return -EAGAIN;
}

void pm_mm_read_unlock(struct mm_struct *mm)
{
	mmap_read_unlock(mm);
	mmput_async(mm);
}

int pm_mm_write_lock(struct mm_struct *mm)
{
	return pm_mm_lock(mm, true);
}

void pm_mm_write_unlock(struct mm_struct *mm)
{
	mmap_write_unlock(mm);
	mmput_async(mm);
}

/* No flags of a VMA: it maps a file, or there is none. */
#define PM_VMA_OTHER	U32_MAX

/* One walk under one hold of mmap_lock. */
struct pm_walk_state {
	struct pm_walk *walk;
	void *sink;
	unsigned int steps;
	unsigned int holes;
	u32 file_flags;		/* facts about the pages of the VMA's file */
	bool plain;		/* whatever the VMA maps is a page of the process */
	bool handed;		/* the last page was handed over: so may be the next one */
	bool loses;		/* the VMA may have lost shared page tables */
	u32 shown;		/* flags of the VMA that was shown last; one like it is not */
	struct pm_set_cursor moved, only;
	struct pm_folio folio;	/* what is handed over. Not on the stack: that is zeroed first */
};

/*
 * After @nr pages, or before a VMA: whether to stop at @resume, so that others get
 * mmap_lock. The first time it never stops, or a busy lock would keep the walk where
 * it is.
 */
static int pm_walk_pause(struct mm_walk *mw, unsigned long resume, unsigned long nr)
{
	struct pm_walk_state *st = mw->private;
	const bool first = !st->steps;

	cond_resched();
	st->steps += 1 + nr / PM_WALK_PART;
	if (first)
		return 0;
	if (st->steps < PM_WALK_STEPS && !mmap_lock_is_contended(mw->mm))
		return 0;
	st->walk->resume = resume;
	return 1;
}

static __always_inline bool pm_folio_is_pinned(struct folio *folio)
{
	if (folio_test_large(folio))
		return folio_maybe_dma_pinned(folio);
	/* Each pin is so many references: most pages have not as many. */
	if (folio_ref_count(folio) < GUP_PIN_COUNTING_BIAS)
		return false;
	/* Many mappings look like a pin to folio_maybe_dma_pinned(). */
	return folio_ref_count(folio) - folio_expected_ref_count(folio) >=
	       GUP_PIN_COUNTING_BIAS;
}

/*
 * Memory that a driver put into a mapping belongs to no file and is not
 * anonymous. It is not the process's to move, and is not counted.
 */
static bool pm_folio_is_user(struct folio *folio)
{
	return folio && !folio_is_zone_device(folio) &&
	       !folio_test_reserved(folio) &&
	       (folio_test_anon(folio) || folio_test_hugetlb(folio) ||
		folio_mapping(folio));
}

static __always_inline void pm_facts(struct pm_folio *out, struct folio *folio,
				     u32 flags)
{
	out->nr_pages = 1;
	if (folio_test_anon(folio))
		flags |= PM_FOLIO_ANON;
	if (folio_test_large(folio)) {
		out->nr_pages = folio_nr_pages(folio);
		flags |= PM_FOLIO_LARGE;
		if (folio_test_hugetlb(folio))
			flags |= PM_FOLIO_HUGETLB;
	}
	if (folio_maybe_mapped_shared(folio))
		flags |= PM_FOLIO_SHARED;
	if (pm_folio_is_pinned(folio))
		flags |= PM_FOLIO_PINNED;
	if (folio_test_lru(folio))
		flags |= PM_FOLIO_LISTED;
	out->folio = folio;
	out->pfn = folio_pfn(folio);
	out->nid = folio_nid(folio);
	out->flags = flags;
}

void pm_folio_facts(struct pm_folio *out, struct folio *folio, u32 flags)
{
	pm_facts(out, folio, flags);
}

/* Take pages out of the set of those to look at. Return: how many were in it. */
static unsigned long pm_walk_take(struct pm_walk *walk, unsigned long page,
				  unsigned long nr)
{
	unsigned long end = page + nr, taken = 0;

	while ((page = pm_shim_set_next(walk->only, page, end)) < end) {
		unsigned long gap = pm_shim_set_gap(walk->only, page, end);

		pm_shim_set_remove(walk->only, page, gap - page);
		taken += gap - page;
		page = gap;
	}
	walk->taken += taken;
	return taken;
}

/* pm_walk_passes() for a walk that looks at the pages of a set only. */
static bool pm_walk_passes_only(struct pm_walk_state *st, int nid,
				unsigned long pfn, unsigned long page,
				unsigned long nr)
{
	struct pm_walk *walk = st->walk;

	if (nr == 1 ? !pm_set_has(walk->only, &st->only, page) :
		      pm_shim_set_next(walk->only, page, page + nr) == page + nr)
		return true;
	if (walk->moved && pm_set_has(walk->moved, &st->moved, pfn)) {
		walk->already_moved += pm_walk_take(walk, page, nr);
		return true;
	}
	if (walk->nodes[nid] & PM_NODE_OLD)
		return false;
	if (!walk->leave)
		walk->in_place += pm_walk_take(walk, page, nr);
	return true;
}

/*
 * Whether pages that follow each other on a node need no more than to be counted.
 * Most pages of most walks do: this is what a scan costs.
 */
static __always_inline bool pm_walk_passes(struct pm_walk_state *st, int nid,
					   unsigned long pfn, unsigned long addr,
					   unsigned long nr)
{
	struct pm_walk *walk = st->walk;

	if (!walk->nodes)
		return false;
	if (walk->only)
		return pm_walk_passes_only(st, nid, pfn, addr >> PAGE_SHIFT, nr);
	if (walk->moved && pm_set_has(walk->moved, &st->moved, pfn)) {
		walk->already_moved += nr;
		return true;
	}
	if (walk->nodes[nid] & PM_NODE_OLD)
		return false;
	walk->in_place += nr;
	return true;
}

/*
 * How many of @nr entries from @pte on need no more than to be counted. The loop
 * that most pages of most scans are in.
 */
static unsigned long pm_walk_skip(struct pm_walk_state *st, const pte_t *pte,
				  unsigned long nr)
{
	struct pm_walk *walk = st->walk;
	const u8 *nodes = walk->nodes;
	struct pm_set *moved = walk->moved;
	unsigned long i, in_place = 0, none = 0;

	for (i = 0; i < nr; i++) {
		const pte_t val = ptep_get((pte_t *)pte + i);
		const struct page *page;
		unsigned long pfn;

		if (pte_none(val)) {
			none++;
			continue;
		}
		if (!pte_present(val) || pte_special(val))
			break;
		pfn = pte_pfn(val);
		page = pfn_to_page(pfn);
		if (is_zone_device_page(page))
			break;
		if (moved && pm_set_has(moved, &st->moved, pfn))
			continue;
		if (nodes[page_to_nid(page)] & PM_NODE_OLD)
			break;
		in_place++;
	}
	walk->in_place += in_place;
	walk->already_moved += i - in_place - none;
	return i;
}

static __always_inline int pm_walk_hand_over(struct pm_walk_state *st,
					     struct pm_folio *facts)
{
	if (likely(page_migrate_walk_folio(st->sink, facts) != PM_STEP_STOP))
		return 0;
	st->walk->resume = facts->addr;
	return 1;
}

/* Hand those pages of a run over that are to be looked at. */
static noinline int pm_walk_show_only(struct pm_walk_state *st,
				      struct pm_folio *facts)
{
	struct pm_set *only = st->walk->only;
	unsigned long first = facts->addr >> PAGE_SHIFT, index = facts->index;
	unsigned long page = first, end = first + facts->mapped;

	while ((page = pm_shim_set_next(only, page, end)) < end) {
		unsigned long gap = pm_shim_set_gap(only, page, end);

		facts->addr = page << PAGE_SHIFT;
		facts->index = index + page - first;
		facts->mapped = gap - page;
		if (pm_walk_hand_over(st, facts))
			return 1;
		pm_walk_take(st->walk, page, gap - page);
		page = gap;
	}
	return 0;
}

/* Hand a run of pages over. Return: 1 to stop before one of them. */
static __always_inline int pm_walk_show(struct pm_walk_state *st,
					struct pm_folio *facts)
{
	return unlikely(st->walk->only) ? pm_walk_show_only(st, facts) :
					  pm_walk_hand_over(st, facts);
}

/* The same for pages of one folio. Return: 1 to stop before one of them. */
static int pm_walk_run(struct mm_walk *mw, struct folio *folio, u32 flags,
		       unsigned long index, unsigned long mapped,
		       unsigned long addr)
{
	struct pm_walk_state *st = mw->private;

	if (!folio_test_anon(folio))
		flags |= st->file_flags;
	pm_facts(&st->folio, folio, flags);
	st->folio.addr = addr;
	st->folio.index = index;
	st->folio.mapped = mapped;
	return pm_walk_show(st, &st->folio);
}

/* The same for pages that somebody else is moving. */
static int pm_walk_migrating(struct mm_walk *mw, softleaf_t entry,
			     unsigned long mapped, unsigned long addr)
{
	struct pm_walk_state *st = mw->private;
	struct folio *folio = softleaf_to_folio(entry);
	struct pm_folio facts = {
		.addr = addr,
		.pfn = softleaf_to_pfn(entry),
		.nr_pages = mapped,
		.mapped = mapped,
		.nid = folio_nid(folio),
		.flags = PM_FOLIO_MIGRATING,
	};

	if (st->walk->leave && !(st->walk->nodes[facts.nid] & PM_NODE_OLD))
		return 0;
	if (folio_test_anon(folio))
		facts.flags |= PM_FOLIO_ANON;
	return pm_walk_show(st, &facts);
}

/* A place without anything to look at. */
static int pm_walk_nothing(struct mm_walk *mw, unsigned long next)
{
	struct pm_walk_state *st = mw->private;

	return ++st->holes % PM_WALK_HOLES ? 0 : pm_walk_pause(mw, next, PTRS_PER_PTE);
}

/* Whether a walk over the pages of a set has none of them to look at here. */
static bool pm_walk_has_none(struct mm_walk *mw, unsigned long addr,
			     unsigned long end)
{
	struct pm_walk_state *st = mw->private;
	unsigned long last = end >> PAGE_SHIFT;

	return st->walk->only &&
	       pm_shim_set_next(st->walk->only, addr >> PAGE_SHIFT, last) == last;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
static int pm_walk_huge_pmd(struct mm_walk *mw, pmd_t pmd, unsigned long addr,
			    unsigned long end)
{
	unsigned long nr = (end - addr) >> PAGE_SHIFT, pfn;
	struct folio *folio;

	if (!pmd_present(pmd)) {
		const softleaf_t entry = softleaf_from_pmd(pmd);

		if (softleaf_is_migration(entry))
			return pm_walk_migrating(mw, entry, nr, addr);
		return 0;
	}
	pfn = pmd_pfn(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
	folio = pm_call(vm_normal_folio_pmd)(mw->vma, addr, pmd);
	if (!pm_folio_is_user(folio) ||
	    pm_walk_passes(mw->private, folio_nid(folio), pfn, addr, nr))
		return 0;
	return pm_walk_run(mw, folio, 0, pfn - folio_pfn(folio), nr, addr);
}
#endif

static int pm_walk_pmd(pmd_t *pmd, unsigned long addr, unsigned long end,
		       struct mm_walk *mw)
{
	struct pm_walk_state *st = mw->private;
	struct folio *run = NULL;
	const bool may_skip = st->plain && st->walk->nodes && !st->walk->only;
	const unsigned long nr = (end - addr) >> PAGE_SHIFT;
	bool skip = may_skip && !st->handed;
	unsigned long run_addr = addr, run_pfn = 0, run_len = 0, run_end = 0;
	pte_t *first, *pte;
	spinlock_t *ptl;
	int stop = 0;

	if (pm_walk_has_none(mw, addr, end))
		return pm_walk_nothing(mw, end);
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	if (pmd_is_huge(*pmd)) {
		ptl = pm_call(__pmd_trans_huge_lock)(pmd, mw->vma);
		if (ptl) {
			stop = pm_walk_huge_pmd(mw, *pmd, addr, end);
			spin_unlock(ptl);
			return stop ?: pm_walk_pause(mw, end, nr);
		}
	}
#endif

	first = pte = pm_call(pte_offset_map_lock)(mw->mm, pmd, addr, &ptl);
	if (!pte) {
		mw->action = ACTION_AGAIN;
		return 0;
	}
	for (; addr != end; addr += PAGE_SIZE, pte++) {
		if (skip && !run) {
			unsigned long skipped = pm_walk_skip(st, pte,
							     (end - addr) >> PAGE_SHIFT);

			addr += skipped << PAGE_SHIFT;
			pte += skipped;
			if (addr == end)
				break;
		}

		const pte_t val = ptep_get(pte);
		const bool normal = pte_present(val) && !pte_special(val);
		const unsigned long pfn = normal ? pte_pfn(val) : 0;

		if (run) {
			if (normal && pfn == run_pfn + run_len && pfn < run_end) {
				run_len++;
				continue;
			}
			stop = pm_walk_run(mw, run, 0, run_pfn - folio_pfn(run),
					   run_len, run_addr);
			if (stop)
				goto out;
			run = NULL;
		}
		if (normal) {
			struct page *page = pfn_to_page(pfn);

			if (st->plain && !is_zone_device_page(page)) {
				if (pm_walk_passes(st, page_to_nid(page), pfn, addr, 1)) {
					skip = may_skip;
					continue;
				}
				run = page_folio(page);
			} else {
				run = pm_call(vm_normal_folio)(mw->vma, addr, val);
				if (!pm_folio_is_user(run) ||
				    pm_walk_passes(st, folio_nid(run), pfn, addr, 1)) {
					run = NULL;
					continue;
				}
			}
			skip = false;
			if (!folio_test_large(run)) {
				stop = pm_walk_run(mw, run, 0, 0, 1, addr);
				if (stop)
					goto out;
				run = NULL;
				continue;
			}
			run_addr = addr;
			run_pfn = pfn;
			run_len = 1;
			run_end = folio_pfn(run) + folio_nr_pages(run);
		} else if (!pte_present(val) && !pte_none(val)) {
			const softleaf_t entry = softleaf_from_pte(val);

			if (softleaf_is_migration(entry))
				stop = pm_walk_migrating(mw, entry, 1, addr);
			if (stop)
				goto out;
		}
	}
	if (run)
		stop = pm_walk_run(mw, run, 0, run_pfn - folio_pfn(run), run_len,
				   run_addr);
out:
	st->handed = !skip;
	pte_unmap_unlock(first, ptl);
	return stop ?: pm_walk_pause(mw, end, nr);
}

static int pm_walk_hugetlb(pte_t *pte, unsigned long hmask, unsigned long addr,
			   unsigned long end, struct mm_walk *mw)
{
	unsigned long nr = (end - addr) >> PAGE_SHIFT, index;
	struct folio *folio;
	spinlock_t *ptl;
	int stop = 0;
	pte_t val;

	ptl = huge_pte_lock(hstate_vma(mw->vma), mw->mm, pte);
	val = huge_ptep_get(mw->mm, addr & hmask, pte);
	if (pte_present(val)) {
		folio = pfn_folio(pte_pfn(val));
		index = (addr & ~hmask) >> PAGE_SHIFT;
		if (!pm_walk_passes(mw->private, folio_nid(folio),
				    folio_pfn(folio) + index, addr, nr))
			stop = pm_walk_run(mw, folio, hugetlb_pmd_shared(pte) ?
					   PM_FOLIO_SHARED : 0, index, nr, addr);
	} else if (!huge_pte_none(val)) {
		const softleaf_t entry = softleaf_from_pte(val);

		if (softleaf_is_migration(entry))
			stop = pm_walk_migrating(mw, entry, nr, addr);
	}
	spin_unlock(ptl);
	return stop ?: pm_walk_pause(mw, end, nr);
}

/*
 * Processes that map the same huge pages may share the page table. To move one of
 * its pages, the kernel takes the table away from all of them but one, and with it
 * the other pages, until they are touched. They are still mapped as far as their
 * process can tell: have the table back, as a page fault would.
 *
 * Return: the entry of @addr, or NULL.
 */
static pte_t *pm_walk_share_again(struct mm_walk *mw, unsigned long addr)
{
	struct vm_area_struct *vma = mw->vma;
	unsigned long first = addr & PUD_MASK;
	loff_t pos;

	if (!(vma->vm_flags & VM_MAYSHARE) || huge_page_size(hstate_vma(vma)) != PMD_SIZE ||
	    first < vma->vm_start || vma->vm_end - first < PUD_SIZE)
		return NULL;
	/* Where the file has no pages there is no table worth having. */
	pos = (loff_t)linear_page_index(vma, first) << PAGE_SHIFT;
	if (!filemap_range_has_page(vma->vm_file->f_mapping, pos,
				    pos + PUD_SIZE - 1))
		return NULL;
	return pm_call(huge_pte_alloc)(mw->mm, vma, addr, PMD_SIZE);
}

/* Apart, as a mapping may have many holes, and next to none of them come here. */
static noinline int pm_walk_some_hole(unsigned long addr, unsigned long next,
				      struct mm_walk *mw)
{
	struct pm_walk_state *st = mw->private;

	/* Between VMAs there is none, and the last one no longer counts. */
	if (st->loses && mw->vma) {
		pte_t *pte = pm_walk_share_again(mw, addr & PMD_MASK);

		if (pte)
			return pm_walk_hugetlb(pte, PMD_MASK, addr, next, mw);
	}
	return pm_walk_pause(mw, next, PTRS_PER_PTE);
}

/* A mapping may be large and empty, and its pages may be looked for one by one. */
static int pm_walk_hole(unsigned long addr, unsigned long next, int depth,
			struct mm_walk *mw)
{
	struct pm_walk_state *st = mw->private;

	if (likely(++st->holes % PM_WALK_HOLES && !st->loses))
		return 0;
	return pm_walk_some_hole(addr, next, mw);
}

/* Huge pages of a device are not the process's, and to walk them would split them. */
static int pm_walk_pud(pud_t *pud, unsigned long addr, unsigned long end,
		       struct mm_walk *mw)
{
	if (pud_leaf(pudp_get(pud)))
		mw->action = ACTION_CONTINUE;
	return 0;
}

/*
 * Drivers map memory that is not the process's to move. Where none does, it is
 * enough to see that a page is not special and not on a device.
 */
static bool pm_vma_is_plain(struct vm_area_struct *vma)
{
	if (vma->vm_flags & (VM_IO | VM_PFNMAP | VM_MIXEDMAP))
		return false;
	if (vma_is_anonymous(vma))
		return true;
	return vma->vm_file && S_ISREG(file_inode(vma->vm_file)->i_mode) &&
	       vma->vm_file->f_mapping->a_ops->migrate_folio;
}

/* What there is to be known of a VMA that maps a file, and of the pages of that. */
static void pm_vma_file_facts(struct pm_walk_state *st,
			      struct vm_area_struct *vma, struct pm_vma *facts)
{
	const struct inode *inode = file_inode(vma->vm_file);

	st->loses = st->walk->share && is_vm_hugetlb_page(vma);
	/* guest_memfd: what the kernel itself may not read. */
	if (!pm_call(vma_migratable)(vma) || pm_call(vma_is_secretmem)(vma) ||
	    mapping_inaccessible(vma->vm_file->f_mapping))
		st->file_flags = PM_FOLIO_UNMOVABLE;
	if (pm_inode_is_served(inode))
		facts->flags |= PM_VMA_SERVED | PM_VMA_HOLDS;
	else if (!S_ISBLK(inode->i_mode) &&
		 inode->i_mapping->a_ops->migrate_folio ==
			 buffer_migrate_folio_norefs)
		facts->flags |= PM_VMA_HOLDS;
	/*
	 * Where there are no attributes there is no mark. Nor would a path keep
	 * every such file: guest_memfd's is from a module that only an open file
	 * holds.
	 */
	inode = file_user_inode(vma->vm_file);
	if (inode->i_opflags & IOP_XATTR)
		pm_inode_facts(&facts->file, inode);
}

static int pm_walk_test(unsigned long start, unsigned long end,
			struct mm_walk *mw)
{
	struct pm_walk_state *st = mw->private;
	struct vm_area_struct *vma = mw->vma;
	struct pm_vma facts = {};

	if (pm_walk_pause(mw, start, 0))
		return -EAGAIN;
	if (pm_walk_has_none(mw, start, end))
		return 1;
	/*
	 * Device memory without private copies, and what the kernel itself maps
	 * without a file: the vdso and its data.
	 */
	if (((vma->vm_flags & (VM_IO | VM_PFNMAP)) && !vma->anon_vma) ||
	    (!vma->vm_file && vma->vm_ops))
		return 1;
	/*
	 * Anonymous memory that was never written to has no pages but zero
	 * pages, however large it is: programs reserve much more than they use.
	 */
	if (!vma->vm_file && !vma->anon_vma)
		return 1;
	/*
	 * Private copies in a mapping are anonymous memory, which can move
	 * wherever it is mapped.
	 */
	st->file_flags = 0;
	st->loses = false;
	st->plain = pm_vma_is_plain(vma);
	if (vma->vm_flags & VM_WRITE)
		facts.flags |= PM_VMA_WRITE;
	if (vma->vm_file)
		pm_vma_file_facts(st, vma, &facts);
	else if (st->shown == facts.flags)
		return 0;
	st->shown = vma->vm_file ? PM_VMA_OTHER : facts.flags;
	facts.start = vma->vm_start;

	switch (page_migrate_walk_vma(st->sink, &facts)) {
	case PM_STEP_ON:
		return 0;
	case PM_STEP_SKIP:
		return 1;
	default:
		st->walk->resume = start;
		pm_file_get(vma->vm_file, &st->walk->file);
		return -EAGAIN;
	}
}

static const struct mm_walk_ops pm_walk_ops = {
	.pud_entry	= pm_walk_pud,
	.pmd_entry	= pm_walk_pmd,
	.pte_hole	= pm_walk_hole,
	.hugetlb_entry	= pm_walk_hugetlb,
	.test_walk	= pm_walk_test,
	.walk_lock	= PGWALK_RDLOCK,
};

/**
 * pm_shim_mm_walk() - show the present pages of a range to the Rust half
 * @mm: address space
 * @start: first address, page-aligned
 * @end: address after the last, page-aligned, above @start
 * @sink: handed to page_migrate_walk_vma() and page_migrate_walk_folio()
 * @walk: out
 *
 * Takes mmap_lock for reading for a bounded time. With &pm_walk.try_lock, a walk that
 * would have to wait for it has looked at nothing and is to go on at @start.
 *
 * Return: an &enum pm_end, -ESRCH if the address space is no longer in use, or
 * -EINTR if the caller is being killed.
 */
int pm_shim_mm_walk(struct mm_struct *mm, unsigned long start,
		    unsigned long end, void *sink, struct pm_walk *walk)
{
	struct pm_walk_state st = {
		.walk = walk,
		.sink = sink,
		.shown = PM_VMA_OTHER,
		.moved = PM_SET_CURSOR,
		.only = PM_SET_CURSOR,
	};
	int stopped;

	walk->file = (struct pm_file){};
	walk->resume = start;
	stopped = walk->try_lock ? pm_mm_read_trylock(mm) : pm_mm_read_lock(mm);
	if (stopped == -EAGAIN)
		return PM_END_STOP;
	if (stopped)
		return stopped;
	walk->resume = end;
	stopped = pm_call(walk_page_range)(mm, start, end, &pm_walk_ops, &st);
	pm_mm_read_unlock(mm);
	if (walk->file.opener)
		return PM_END_FILE;
	return stopped ? PM_END_STOP : PM_END_RANGE;
}

/**
 * pm_shim_mm_file_at() - find the file that is mapped at an address
 * @mm: address space
 * @addr: the address
 * @file: out: held, or empty
 *
 * Return: 0, -ESRCH if the address space is no longer in use, or -EINTR if a
 * signal came.
 */
int pm_shim_mm_file_at(struct mm_struct *mm, unsigned long addr,
		       struct pm_file *file)
{
	struct vm_area_struct *vma;
	int err;

	*file = (struct pm_file){};
	err = pm_mm_read_lock(mm);
	if (err)
		return err;
	vma = find_vma(mm, addr);
	/* A path does not keep guest_memfd's module. */
	if (vma && vma->vm_start <= addr && vma->vm_file &&
	    !mapping_inaccessible(vma->vm_file->f_mapping))
		pm_file_get(vma->vm_file, file);
	pm_mm_read_unlock(mm);
	return 0;
}

/**
 * pm_shim_mm_next_file() - find the next file that is mapped and may have a mark
 * @mm: address space
 * @addr: in: where to begin; out: where to go on
 * @end: address after the last
 * @last: in: an inode whose mappings are passed over, or 0; out: the file's
 * @file: out: held, or empty if there is none before @addr
 * @seen: in and out: what there is besides up to there
 *
 * Takes mmap_lock for reading for a bounded time.
 *
 * Return: as pm_shim_mm_file_at().
 */
int pm_shim_mm_next_file(struct mm_struct *mm, unsigned long *addr,
			 unsigned long end, unsigned long *last,
			 struct pm_file *file, struct pm_seen *seen)
{
	VMA_ITERATOR(vmi, mm, *addr);
	struct vm_area_struct *vma;
	unsigned int steps = 0;
	int err;

	*file = (struct pm_file){};
	err = pm_mm_read_lock(mm);
	if (err)
		return err;
	*addr = end;
	for_each_vma_range(vmi, vma, end) {
		const struct inode *inode;

		if (++steps > PM_WALK_STEPS) {
			*addr = vma->vm_start;
			break;
		}
		if (vma->vm_policy)
			seen->policies = true;
		if (!vma->vm_file)
			continue;
		if (shmem_mapping(vma->vm_file->f_mapping))
			seen->shmem = true;
		if ((vma->vm_flags & (VM_IO | VM_PFNMAP)) && !vma->anon_vma)
			continue;
		inode = file_user_inode(vma->vm_file);
		if (!(inode->i_opflags & IOP_XATTR) || (unsigned long)inode == *last)
			continue;
		*last = (unsigned long)inode;
		*addr = min(vma->vm_end, end);
		pm_file_get(vma->vm_file, file);
		break;
	}
	pm_mm_read_unlock(mm);
	return 0;
}
