// SPDX-License-Identifier: GPL-2.0
/*
 * The C half of page_migrate: it reaches what Rust cannot, and decides nothing.
 *
 * Kernel functions that are not exported are found by name when the module is
 * loaded and called through static calls. A static call is a direct call, which
 * also works where indirect branch tracking has sealed the function's entry.
 */
#define pr_fmt(fmt) "page_migrate: " fmt

#include <linux/buffer_head.h>
#include <linux/capability.h>
#include <linux/cpuset.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/leafops.h>
#include <linux/magic.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/mempolicy.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/mount.h>
#include <linux/pagewalk.h>
#include <linux/path.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/rmap.h>
#include <linux/secretmem.h>
#include <linux/security.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/static_call.h>
#include <linux/swap.h>
#include <linux/workqueue.h>
#include <linux/xattr.h>

/* Where Linux 7.3 declares lru_add_drain() and drain_all_pages(). */
#include "../mm/internal.h"
#if __has_include("../mm/page_alloc.h")
#include "../mm/page_alloc.h"
#endif

#include "page_migrate_policy.h"
#include "page_migrate_shim.h"

/* Page-table ranges (of one PMD) and VMAs to look at before others get mmap_lock. */
#define PM_WALK_STEPS	128

/* Places without a page table that cost as much as one of these steps. */
#define PM_WALK_HOLES	256

/*
 * What the shim binds, by name. The types are those of the kernel's own
 * declarations, so that a kernel whose function has other arguments does not
 * build. Kernels for real time are built without transparent huge pages.
 */
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#define PM_SYMBOLS_THP(X)						       \
	X(__pmd_trans_huge_lock)					       \
	X(vm_normal_folio_pmd)
#else
#define PM_SYMBOLS_THP(X)
#endif

#define PM_SYMBOLS(X)							       \
	PM_SYMBOLS_THP(X)						       \
	X(__mpol_put)							       \
	X(alloc_hugetlb_folio_nodemask)					       \
	X(cpuset_mems_allowed)						       \
	X(drain_all_pages)						       \
	X(huge_pte_alloc)						       \
	X(hugetlb_vma_lock_read)					       \
	X(hugetlb_vma_unlock_read)					       \
	X(isolate_folio_to_list)					       \
	X(lru_add_drain)						       \
	X(lru_add_drain_all)						       \
	X(migrate_pages)						       \
	X(pidfd_get_pid)						       \
	X(pte_offset_map_lock)						       \
	X(ptrace_may_access)						       \
	X(putback_movable_pages)					       \
	X(security_task_movememory)					       \
	X(size_to_hstate)						       \
	X(vm_normal_folio)						       \
	X(vma_is_secretmem)						       \
	X(vma_migratable)						       \
	X(walk_page_range)

#define PM_DECLARE(name) DEFINE_STATIC_CALL_NULL(pm_call_##name, name);
PM_SYMBOLS(PM_DECLARE)

#define pm_call(name)	static_call(pm_call_##name)

/* The one that finds the others. */
DEFINE_STATIC_CALL_NULL(pm_call_lookup, kallsyms_lookup_name);

static noinline unsigned long pm_find(const char *name)
{
	unsigned long addr = pm_call(lookup)(name);

	if (!addr)
		pr_err("this kernel has no %s\n", name);
	return addr;
}

/**
 * pm_shim_bind() - find every kernel function that the shim calls
 *
 * Return: 0, or -ENOENT after one message that names what is missing.
 */
int pm_shim_bind(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long addr;
	int err;

	err = register_kprobe(&probe);
	if (err) {
		pr_err("cannot look kernel functions up: no probe on %s (%d)\n",
		       probe.symbol_name, err);
		return err;
	}
	/*
	 * Where indirect branches are tracked, the probe stands behind the mark
	 * that such branches must land on: only a direct call gets there.
	 */
	static_call_update(pm_call_lookup,
			   (typeof(kallsyms_lookup_name) *)probe.addr);
	unregister_kprobe(&probe);

#define PM_BIND(name)							       \
	addr = pm_find(#name);						       \
	if (!addr)							       \
		return -ENOENT;						       \
	static_call_update(pm_call_##name, (typeof(name) *)addr);
	PM_SYMBOLS(PM_BIND)
	return 0;
}

/* Here since Rust's module! of Linux 7.2 knows no bool. */
static bool self_ranges_only;
module_param(self_ranges_only, bool, 0);
MODULE_PARM_DESC(self_ranges_only, "A process may give a partial range only for itself");

bool pm_shim_self_ranges_only(void)
{
	return self_ranges_only;
}

void pm_mpol_put(struct mempolicy *pol)
{
	pm_call(__mpol_put)(pol);
}

/*
 * Wait for a lock whose holder may wait for a server. A signal ends that; but a
 * caller that is interrupted all the time gets half a second each time, or it
 * would get nowhere.
 */
static int pm_down_read(struct rw_semaphore *sem)
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

/**
 * pm_shim_task_by_pid() - find a thread
 * @pid: its ID in the caller's PID namespace; 0 is the caller
 *
 * Return: the thread with a reference, or NULL.
 */
struct task_struct *pm_shim_task_by_pid(pid_t pid)
{
	struct task_struct *task;
	struct pid *ref;

	if (!pid)
		return get_task_struct(current);
	ref = find_get_pid(pid);
	task = get_pid_task(ref, PIDTYPE_PID);
	put_pid(ref);
	return task;
}

/**
 * pm_shim_task_by_pidfd() - find the process or thread of a pidfd
 * @pidfd: the descriptor, not negative
 *
 * Return: a thread with a reference, or an error pointer.
 */
struct task_struct *pm_shim_task_by_pidfd(int pidfd)
{
	struct task_struct *task;
	unsigned int flags;
	struct pid *ref;

	ref = pm_call(pidfd_get_pid)(pidfd, &flags);
	if (IS_ERR(ref))
		return ERR_CAST(ref);
	/* Of a process this is its first thread, of a thread's pidfd that one. */
	task = get_pid_task(ref, PIDTYPE_PID);
	put_pid(ref);
	return task ?: ERR_PTR(-ESRCH);
}

static bool pm_task_uses(struct task_struct *task, const struct mm_struct *mm)
{
	const struct mm_struct *its = READ_ONCE(task->mm);

	return its && (!mm || its == mm);
}

/**
 * pm_shim_task_alive() - find a thread of the process that still has memory
 * @task: any thread of it, dead or alive; preferred if it has memory
 * @mm: the memory that it must have, or NULL for any
 *
 * Return: the thread with a reference, or NULL if there is none.
 */
struct task_struct *pm_shim_task_alive(struct task_struct *task,
				       const struct mm_struct *mm)
{
	struct task_struct *thread, *found = NULL;

	rcu_read_lock();
	if (pm_task_uses(task, mm)) {
		found = get_task_struct(task);
	} else if (pid_alive(task)) {
		for_each_thread(task, thread) {
			if (!pm_task_uses(thread, mm))
				continue;
			found = get_task_struct(thread);
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

bool pm_shim_task_is_kernel(struct task_struct *task)
{
	return task->flags & PF_KTHREAD;
}

/*
 * Whether the whole process has exited or has been told to. One that dumps core
 * has been told to, and keeps its memory until the dump has been written.
 */
bool pm_shim_task_is_dead(struct task_struct *task)
{
	if (!atomic_read(&task->signal->live))
		return true;
	return (READ_ONCE(task->signal->flags) & SIGNAL_GROUP_EXIT) &&
	       !READ_ONCE(task->signal->core_state);
}

int pm_shim_task_lock_exec(struct task_struct *task)
{
	return pm_down_read(&task->signal->exec_update_lock);
}

void pm_shim_task_unlock_exec(struct task_struct *task)
{
	up_read(&task->signal->exec_update_lock);
}

bool pm_shim_task_may_access(struct task_struct *task)
{
	return pm_call(ptrace_may_access)(task, PTRACE_MODE_READ_REALCREDS);
}

int pm_shim_task_may_move(struct task_struct *task)
{
	return pm_call(security_task_movememory)(task);
}

/**
 * pm_shim_task_mems() - ask the cpusets about each node
 * @task: the task
 * @facts: out: PM_MEMS_* for each node
 * @nr_nodes: length of @facts
 *
 * A node that comes online has memory some time before the cpusets learn of it,
 * the root first. So the root is asked first.
 */
void pm_shim_task_mems(struct task_struct *task, u8 *facts,
		       unsigned int nr_nodes)
{
	nodemask_t root = pm_call(cpuset_mems_allowed)(&init_task);
	nodemask_t mems = pm_call(cpuset_mems_allowed)(task);
	unsigned int nid;

	for (nid = 0; nid < nr_nodes; nid++)
		facts[nid] = (node_isset(nid, mems) ? PM_MEMS_ALLOWED : 0) |
			     (node_isset(nid, root) ? PM_MEMS_KNOWN : 0);
}

/**
 * pm_shim_task_mm() - find the address space of a thread
 * @task: the thread
 *
 * Return: the address space, or NULL. The reference keeps the structure, not
 * the memory: pm_mm_read_lock() and pm_mm_write_lock() do.
 */
struct mm_struct *pm_shim_task_mm(struct task_struct *task)
{
	struct mm_struct *mm = get_task_mm(task);

	if (mm) {
		mmgrab(mm);
		mmput_async(mm);
	}
	return mm;
}

bool pm_shim_caller_is_killed(void)
{
	return fatal_signal_pending(current);
}

bool pm_shim_capable_nice(void)
{
	return capable(CAP_SYS_NICE);
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
 * wait for a file system for long: meanwhile the memory of a process that
 * exits is given back as ever.
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

/*
 * A file is held by its path. The open file would be held back from its last
 * close, which drops locks and leases, and lets the file be executed.
 *
 * File systems that are stacked on others, or share pages among their files, map
 * another file than the one that was opened.
 */
void pm_file_get(const struct file *file, struct pm_file *held)
{
	held->path = *file_user_path(file);
	held->pages = file->f_path;
	held->opener = get_cred(file->f_cred);
	path_get(&held->path);
	path_get(&held->pages);
}

/*
 * Whether a server answers for the pages of a file: it may never do so, and
 * whoever waits for it may hold their locks. fuseblk has a device, and a server.
 */
static bool pm_inode_is_served(const struct inode *inode)
{
	const struct super_block *sb = inode->i_sb;

	return !S_ISBLK(inode->i_mode) && !shmem_mapping(inode->i_mapping) &&
	       sb->s_magic != HUGETLBFS_MAGIC &&
	       (!(sb->s_type->fs_flags & FS_REQUIRES_DEV) ||
		sb->s_magic == FUSE_SUPER_MAGIC);
}

/* One walk under one hold of mmap_lock. */
struct pm_walk_state {
	struct pm_walk *walk;
	void *sink;
	unsigned int steps;
	unsigned int holes;
	u32 file_flags;		/* facts about the pages of the VMA's file */
};

/*
 * At each step: whether to stop at @resume, so that others get mmap_lock. The
 * first step never stops, or a busy lock would keep the walk where it is.
 */
static int pm_walk_pause(struct mm_walk *mw, unsigned long resume)
{
	struct pm_walk_state *st = mw->private;

	cond_resched();
	if (!st->steps++)
		return 0;
	if (st->steps < PM_WALK_STEPS && !mmap_lock_is_contended(mw->mm))
		return 0;
	st->walk->resume = resume;
	return 1;
}

static bool pm_folio_is_pinned(struct folio *folio)
{
	if (folio_test_large(folio))
		return folio_maybe_dma_pinned(folio);
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

static void pm_folio_facts(struct pm_folio *out, struct folio *folio, u32 flags)
{
	if (folio_test_anon(folio))
		flags |= PM_FOLIO_ANON;
	if (folio_test_large(folio))
		flags |= PM_FOLIO_LARGE;
	if (folio_test_hugetlb(folio))
		flags |= PM_FOLIO_HUGETLB;
	if (folio_maybe_mapped_shared(folio))
		flags |= PM_FOLIO_SHARED;
	if (pm_folio_is_pinned(folio))
		flags |= PM_FOLIO_PINNED;
	out->folio = folio;
	out->pfn = folio_pfn(folio);
	out->nr_pages = folio_nr_pages(folio);
	out->nid = folio_nid(folio);
	out->flags = flags;
}

/* Hand a run of pages of one folio over. Return: 1 to stop at @addr. */
static int pm_walk_run(struct mm_walk *mw, struct folio *folio, u32 flags,
		       unsigned long index, unsigned long mapped,
		       unsigned long addr)
{
	struct pm_walk_state *st = mw->private;
	struct pm_folio facts;

	if (!folio_test_anon(folio))
		flags |= st->file_flags;
	pm_folio_facts(&facts, folio, flags);
	facts.index = index;
	facts.mapped = mapped;
	if (page_migrate_walk_folio(st->sink, &facts) != PM_STEP_STOP)
		return 0;
	st->walk->resume = addr;
	return 1;
}

/* The same for pages that somebody else is moving. */
static int pm_walk_migrating(struct mm_walk *mw, softleaf_t entry,
			     unsigned long mapped, unsigned long addr)
{
	struct pm_walk_state *st = mw->private;
	struct folio *folio = softleaf_to_folio(entry);
	struct pm_folio facts = {
		.pfn = softleaf_to_pfn(entry),
		.nr_pages = mapped,
		.mapped = mapped,
		.nid = folio_nid(folio),
		.flags = PM_FOLIO_MIGRATING,
	};

	if (folio_test_anon(folio))
		facts.flags |= PM_FOLIO_ANON;
	if (page_migrate_walk_folio(st->sink, &facts) != PM_STEP_STOP)
		return 0;
	st->walk->resume = addr;
	return 1;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
static int pm_walk_huge_pmd(struct mm_walk *mw, pmd_t pmd, unsigned long addr,
			    unsigned long end)
{
	unsigned long nr = (end - addr) >> PAGE_SHIFT;
	struct folio *folio;

	if (!pmd_present(pmd)) {
		const softleaf_t entry = softleaf_from_pmd(pmd);

		if (softleaf_is_migration(entry))
			return pm_walk_migrating(mw, entry, nr, addr);
		return 0;
	}
	folio = pm_call(vm_normal_folio_pmd)(mw->vma, addr, pmd);
	if (!pm_folio_is_user(folio))
		return 0;
	return pm_walk_run(mw, folio, 0, pmd_pfn(pmd) - folio_pfn(folio) +
			   ((addr & ~PMD_MASK) >> PAGE_SHIFT), nr, addr);
}
#endif

static int pm_walk_pmd(pmd_t *pmd, unsigned long addr, unsigned long end,
		       struct mm_walk *mw)
{
	struct folio *run = NULL, *folio;
	unsigned long run_addr = addr, run_index = 0, run_len = 0, index;
	pte_t *first, *pte;
	spinlock_t *ptl;
	int stop = 0;

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	if (pmd_is_huge(*pmd)) {
		ptl = pm_call(__pmd_trans_huge_lock)(pmd, mw->vma);
		if (ptl) {
			stop = pm_walk_huge_pmd(mw, *pmd, addr, end);
			spin_unlock(ptl);
			return stop ?: pm_walk_pause(mw, end);
		}
	}
#endif

	first = pte = pm_call(pte_offset_map_lock)(mw->mm, pmd, addr, &ptl);
	if (!pte) {
		mw->action = ACTION_AGAIN;
		return 0;
	}
	for (; addr != end; addr += PAGE_SIZE, pte++) {
		pte_t val = ptep_get(pte);

		folio = NULL;
		if (pte_present(val)) {
			folio = pm_call(vm_normal_folio)(mw->vma, addr, val);
			if (!pm_folio_is_user(folio))
				folio = NULL;
		}
		index = folio ? pte_pfn(val) - folio_pfn(folio) : 0;
		if (folio && folio == run && index == run_index + run_len) {
			run_len++;
			continue;
		}
		if (run) {
			stop = pm_walk_run(mw, run, 0, run_index, run_len,
					   run_addr);
			if (stop)
				goto out;
		}
		run = folio;
		run_addr = addr;
		run_index = index;
		run_len = 1;
		if (!pte_present(val) && !pte_none(val)) {
			const softleaf_t entry = softleaf_from_pte(val);

			if (softleaf_is_migration(entry))
				stop = pm_walk_migrating(mw, entry, 1, addr);
			if (stop)
				goto out;
		}
	}
	if (run)
		stop = pm_walk_run(mw, run, 0, run_index, run_len, run_addr);
out:
	pte_unmap_unlock(first, ptl);
	return stop ?: pm_walk_pause(mw, end);
}

static int pm_walk_hugetlb(pte_t *pte, unsigned long hmask, unsigned long addr,
			   unsigned long end, struct mm_walk *mw)
{
	unsigned long nr = (end - addr) >> PAGE_SHIFT;
	struct folio *folio;
	spinlock_t *ptl;
	int stop = 0;
	pte_t val;

	ptl = huge_pte_lock(hstate_vma(mw->vma), mw->mm, pte);
	val = huge_ptep_get(mw->mm, addr & hmask, pte);
	if (pte_present(val)) {
		folio = pfn_folio(pte_pfn(val));
		stop = pm_walk_run(mw, folio, hugetlb_pmd_shared(pte) ?
				   PM_FOLIO_SHARED : 0,
				   (addr & ~hmask) >> PAGE_SHIFT, nr, addr);
	} else if (!huge_pte_none(val)) {
		const softleaf_t entry = softleaf_from_pte(val);

		if (softleaf_is_migration(entry))
			stop = pm_walk_migrating(mw, entry, nr, addr);
	}
	spin_unlock(ptl);
	return stop ?: pm_walk_pause(mw, end);
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

/* A mapping may be large and empty, and its pages may be looked for one by one. */
static int pm_walk_hole(unsigned long addr, unsigned long next, int depth,
			struct mm_walk *mw)
{
	struct pm_walk_state *st = mw->private;

	if (st->walk->share && mw->vma && is_vm_hugetlb_page(mw->vma)) {
		pte_t *pte = pm_walk_share_again(mw, addr & PMD_MASK);

		if (pte)
			return pm_walk_hugetlb(pte, PMD_MASK, addr, next, mw);
	}
	return ++st->holes % PM_WALK_HOLES ? 0 : pm_walk_pause(mw, next);
}

/* Huge pages of a device are not the process's, and to walk them would split them. */
static int pm_walk_pud(pud_t *pud, unsigned long addr, unsigned long end,
		       struct mm_walk *mw)
{
	if (pud_leaf(pudp_get(pud)))
		mw->action = ACTION_CONTINUE;
	return 0;
}

static void pm_inode_facts(struct pm_inode *out, const struct inode *inode)
{
	out->at = (unsigned long)inode;
	out->ino = inode->i_ino;
	out->generation = inode->i_generation;
	out->dev = inode->i_sb->s_dev;
}

static int pm_walk_test(unsigned long start, unsigned long end,
			struct mm_walk *mw)
{
	struct pm_walk_state *st = mw->private;
	struct vm_area_struct *vma = mw->vma;
	struct pm_vma facts = {};

	if (pm_walk_pause(mw, start))
		return -EAGAIN;
	/*
	 * Device memory without private copies, and what the kernel itself maps
	 * without a file: the vdso and its data.
	 */
	if (((vma->vm_flags & (VM_IO | VM_PFNMAP)) && !vma->anon_vma) ||
	    (!vma->vm_file && vma->vm_ops))
		return 1;
	/*
	 * Private copies in a mapping are anonymous memory, which can move
	 * wherever it is mapped.
	 */
	st->file_flags = 0;
	if (!pm_call(vma_migratable)(vma) || pm_call(vma_is_secretmem)(vma))
		st->file_flags = PM_FOLIO_UNMOVABLE;
	if (vma->vm_file) {
		const struct inode *inode = file_inode(vma->vm_file);

		/* guest_memfd: what the kernel itself may not read. */
		if (mapping_inaccessible(vma->vm_file->f_mapping))
			st->file_flags = PM_FOLIO_UNMOVABLE;
		if (pm_inode_is_served(inode))
			facts.flags |= PM_VMA_SERVED | PM_VMA_HOLDS;
		else if (!S_ISBLK(inode->i_mode) &&
			 inode->i_mapping->a_ops->migrate_folio ==
				 buffer_migrate_folio_norefs)
			facts.flags |= PM_VMA_HOLDS;
		/*
		 * Where there are no attributes there is no mark. Nor would a
		 * path keep every such file: guest_memfd's is from a module
		 * that only an open file holds.
		 */
		inode = file_user_inode(vma->vm_file);
		if (inode->i_opflags & IOP_XATTR)
			pm_inode_facts(&facts.file, inode);
	}
	if (vma->vm_flags & VM_WRITE)
		facts.flags |= PM_VMA_WRITE;
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
 * Takes mmap_lock for reading for a bounded time.
 *
 * Return: an &enum pm_end, -ESRCH if the address space is no longer in use, or
 * -EINTR if the caller is being killed.
 */
int pm_shim_mm_walk(struct mm_struct *mm, unsigned long start,
		    unsigned long end, void *sink, struct pm_walk *walk)
{
	struct pm_walk_state st = { .walk = walk, .sink = sink };
	int stopped;

	walk->file = (struct pm_file){};
	walk->resume = start;
	stopped = pm_mm_read_lock(mm);
	if (stopped)
		return stopped;
	walk->resume = end;
	stopped = pm_call(walk_page_range)(mm, start, end, &pm_walk_ops, &st);
	pm_mm_read_unlock(mm);
	if (walk->file.opener)
		return PM_END_FILE;
	return stopped ? PM_END_STOP : PM_END_RANGE;
}

void pm_shim_file_inode(const struct pm_file *file, struct pm_inode *out)
{
	pm_inode_facts(out, d_inode(file->path.dentry));
}

void pm_shim_file_asked(const struct pm_file *file, struct pm_asked *out)
{
	const struct super_block *sb = d_inode(file->path.dentry)->i_sb;

	out->dev = sb->s_dev;
	/* A user who mounts it answers for all user IDs of the user's namespace. */
	out->uid = from_kuid(&init_user_ns, sb->s_user_ns == &init_user_ns ?
			     file->opener->uid : sb->s_user_ns->owner);
}

/* Whether a server has to be waited for to read its attributes. */
bool pm_shim_file_is_served(const struct pm_file *file)
{
	return pm_inode_is_served(d_inode(file->path.dentry));
}

/* Whether nobody has to be waited for to read its attributes. */
bool pm_shim_file_is_in_memory(const struct pm_file *file)
{
	return shmem_mapping(d_inode(file->path.dentry)->i_mapping);
}

static struct workqueue_struct *pm_workqueue;

struct pm_file_work {
	struct work_struct work;
	struct pm_file file;
};

static void pm_file_drop(struct pm_file *file)
{
	path_put(&file->path);
	path_put(&file->pages);
	put_cred(file->opener);
}

static void pm_file_work(struct work_struct *work)
{
	struct pm_file_work *here = container_of(work, struct pm_file_work, work);

	pm_file_drop(&here->file);
	kfree(here);
}

/*
 * Whoever puts the last reference may have to wait for a server. A caller leaves
 * that to a worker.
 */
void pm_shim_file_put(struct pm_file *file)
{
	struct pm_file_work *work = NULL;

	if (!(current->flags & PF_KTHREAD) && !pm_shim_file_is_in_memory(file))
		work = kmalloc_obj(*work, GFP_KERNEL_ACCOUNT);
	if (!work) {
		pm_file_drop(file);
		return;
	}
	work->file = *file;
	INIT_WORK(&work->work, pm_file_work);
	queue_work(pm_workqueue, &work->work);
}

/**
 * pm_shim_file_xattr() - read an extended attribute, whoever the caller is
 * @file: the file, held
 * @name: full name of the attribute
 * @value: out
 * @size: size of @value in bytes
 *
 * May sleep for as long as the file system likes: hold no lock. A server sees
 * the one who opened the file, who could read it.
 *
 * Return: bytes read, or an errno; -ERANGE if the value is larger than @size.
 */
ssize_t pm_shim_file_xattr(const struct pm_file *file, const char *name,
			   void *value, size_t size)
{
	struct dentry *dentry = file->path.dentry;
	const struct cred *before = override_creds(file->opener);
	ssize_t len;

	len = __vfs_getxattr(dentry, d_inode(dentry), name, value, size);
	revert_creds(before);
	return len;
}

/*
 * A journal keeps the buffers of a file's pages for as long as it lists them for a
 * checkpoint, although they have been written by now. Take them away.
 */
static void pm_release_buffers(struct address_space *mapping)
{
	struct folio_batch fbatch;
	pgoff_t index = 0;

	folio_batch_init(&fbatch);
	while (!fatal_signal_pending(current) &&
	       filemap_get_folios(mapping, &index, ULONG_MAX, &fbatch)) {
		for (unsigned int i = 0; i < folio_batch_count(&fbatch); i++) {
			struct folio *folio = fbatch.folios[i];

			if (!folio_trylock(folio))
				continue;
			if (folio->mapping == mapping)
				filemap_release_folio(folio, GFP_KERNEL);
			folio_unlock(folio);
		}
		folio_batch_release(&fbatch);
		cond_resched();
	}
}

/**
 * pm_shim_file_write_back() - have a file's dirty pages written
 * @file: the file, held
 *
 * Starts it where a server has to answer, which may then be waited for only
 * where many writes are under way. Waits for a disk.
 */
void pm_shim_file_write_back(const struct pm_file *file)
{
	struct inode *inode = d_inode(file->pages.dentry);
	bool wait = !pm_inode_is_served(inode);

	write_inode_now(inode, wait);
	if (wait)
		pm_release_buffers(inode->i_mapping);
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

unsigned int pm_shim_nr_nodes(void)
{
	return nr_node_ids;
}

unsigned int pm_shim_node_state(unsigned int nid)
{
	return (node_possible(nid) ? PM_NODE_POSSIBLE : 0) |
	       (node_state(nid, N_MEMORY) ? PM_NODE_MEMORY : 0);
}

unsigned int pm_shim_node_distance(unsigned int from, unsigned int to)
{
	return node_distance(from, to);
}

/**
 * pm_shim_node_has_room() - whether a node has single pages to spare
 * @nid: the node
 * @nr_pages: how many are wanted
 *
 * Counts what is free above the watermarks up to which kswapd reclaims. That is
 * an estimate: others take pages, too.
 */
bool pm_shim_node_has_room(unsigned int nid, unsigned long nr_pages)
{
	unsigned long room = 0;

	if (!node_state(nid, N_MEMORY))
		return false;
	for (int i = 0; i <= ZONE_MOVABLE; i++) {
		struct zone *zone = &NODE_DATA(nid)->node_zones[i];
		unsigned long free = zone_page_state(zone, NR_FREE_PAGES);
		unsigned long kept = high_wmark_pages(zone);

		if (managed_zone(zone) && free > kept)
			room += free - kept;
	}
	return room >= nr_pages;
}

void pm_shim_list_init(struct list_head *list)
{
	INIT_LIST_HEAD(list);
}

bool pm_shim_list_is_empty(const struct list_head *list)
{
	return list_empty(list);
}

/* Return: the first folio, or NULL. */
struct folio *pm_shim_list_first(struct list_head *list)
{
	return list_first_entry_or_null(list, struct folio, lru);
}

/* Move the first folio of @from to the end of @to. Return: false if none. */
bool pm_shim_list_shift(struct list_head *from, struct list_head *to,
			struct pm_folio *out)
{
	struct folio *folio = list_first_entry_or_null(from, struct folio, lru);
	u32 flags = 0;

	if (!folio)
		return false;
	if (folio_ref_count(folio) == 1)
		flags |= PM_FOLIO_FREED;
	if (!folio_test_anon(folio) &&
	    (folio_test_dirty(folio) || folio_test_writeback(folio) ||
	     folio_test_private(folio)))
		flags |= PM_FOLIO_UNWRITTEN;
	pm_folio_facts(out, folio, flags);
	out->index = 0;
	out->mapped = 0;
	list_move_tail(&folio->lru, to);
	return true;
}

/* Put all folios back, so that they can be isolated again at once. */
void pm_shim_list_put_back(struct list_head *list)
{
	if (list_empty(list))
		return;
	pm_call(putback_movable_pages)(list);
	/* The last of them wait on this CPU for others to come. */
	pm_call(lru_add_drain)();
}

void pm_shim_list_splice(struct list_head *from, struct list_head *to)
{
	list_splice_tail_init(from, to);
}

/**
 * pm_shim_folio_isolate() - take a folio off its LRU list or hugetlb pool
 * @folio: a folio that is mapped, under that mapping's page-table lock
 * @list: where it goes
 *
 * Return: 0; -EAGAIN if it is not on an LRU list yet; -EBUSY if somebody else
 * has it.
 */
int pm_shim_folio_isolate(struct folio *folio, struct list_head *list)
{
	bool on_list = folio_test_hugetlb(folio) || folio_test_lru(folio);

	if (pm_call(isolate_folio_to_list)(folio, list))
		return 0;
	return on_list ? -EBUSY : -EAGAIN;
}

/**
 * pm_shim_folio_alloc() - allocate a folio on one node and no other
 * @nid: the node
 * @order: order of the folio
 * @hugetlb: from the pool of huge pages of this size
 * @effort: how hard to try; never the OOM killer
 *
 * Return: the folio with a reference, or NULL.
 */
struct folio *pm_shim_folio_alloc(unsigned int nid, unsigned int order,
				  bool hugetlb, enum pm_effort effort)
{
	gfp_t gfp = __GFP_THISNODE | __GFP_NOWARN | __GFP_NORETRY;

	if (hugetlb) {
		struct hstate *h = pm_call(size_to_hstate)(PAGE_SIZE << order);

		/* Gigantic pages come from the pool, not from movable zones. */
		gfp |= __GFP_COMP;
		gfp |= hstate_is_gigantic(h) ? GFP_HIGHUSER :
					       GFP_HIGHUSER_MOVABLE;
		if (effort == PM_EFFORT_NONE)
			gfp &= ~__GFP_DIRECT_RECLAIM;
		return pm_call(alloc_hugetlb_folio_nodemask)(h, nid, NULL, gfp,
							     true);
	}
	gfp |= order ? GFP_TRANSHUGE_LIGHT : GFP_HIGHUSER_MOVABLE;
	if (effort == PM_EFFORT_NONE)
		gfp &= ~__GFP_DIRECT_RECLAIM;
	else
		gfp |= __GFP_DIRECT_RECLAIM;
	return __folio_alloc(gfp, order, nid, NULL);
}

unsigned long pm_shim_folio_pfn(struct folio *folio)
{
	return folio_pfn(folio);
}

unsigned long pm_shim_folio_nr_pages(struct folio *folio)
{
	return folio_nr_pages(folio);
}

unsigned int pm_shim_folio_order(struct folio *folio)
{
	return folio_order(folio);
}

bool pm_shim_folio_is_hugetlb(struct folio *folio)
{
	return folio_test_hugetlb(folio);
}

int pm_shim_folio_nid(struct folio *folio)
{
	return folio_nid(folio);
}

void pm_shim_folio_put(struct folio *folio)
{
	folio_put(folio);
}

static struct folio *pm_new_folio(struct folio *src, unsigned long private)
{
	return page_migrate_new_folio((void *)private, src);
}

static void pm_free_folio(struct folio *dst, unsigned long private)
{
	page_migrate_free_folio((void *)private, dst);
}

/**
 * pm_shim_migrate() - migrate a list of isolated folios
 * @list: the folios; afterwards those that were not migrated
 * @mover: handed to page_migrate_new_folio() and page_migrate_free_folio()
 * @wait: for the locks of folios, which no signal ends
 *
 * What is allocated meanwhile must not reclaim inodes: with the last reference
 * to one, its folios go, and it waits for the locks that a batch holds.
 */
void pm_shim_migrate(struct list_head *list, void *mover, bool wait)
{
	unsigned int nofs = memalloc_nofs_save();

	pm_call(migrate_pages)(list, pm_new_folio, pm_free_folio,
			       (unsigned long)mover,
			       wait ? MIGRATE_SYNC_LIGHT : MIGRATE_ASYNC,
			       MR_SYSCALL, NULL);
	memalloc_nofs_restore(nofs);
}

/**
 * pm_shim_zalloc() - allocate zeros for bookkeeping, charged to the caller
 * @size: in bytes
 *
 * For where folios are locked: reclaims a little, and fails rather than call
 * the OOM killer.
 *
 * Return: the memory, for kfree(), or NULL.
 */
void *pm_shim_zalloc(size_t size)
{
	return kzalloc(size, GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN);
}

/* Bring recently used folios of all CPUs to the LRU lists. */
void pm_shim_drain_lru(void)
{
	pm_call(lru_add_drain_all)();
}

/**
 * pm_shim_drain_free() - give free pages that CPUs keep for themselves back
 * @nid: the node
 *
 * For all zones at once drain_all_pages() does nothing while another such drain
 * is at work. For a zone it waits for its turn.
 */
void pm_shim_drain_free(unsigned int nid)
{
	for (int i = 0; i < MAX_NR_ZONES; i++) {
		struct zone *zone = &NODE_DATA(nid)->node_zones[i];

		if (populated_zone(zone))
			pm_call(drain_all_pages)(zone);
	}
}

void pm_shim_turn_init(struct mutex *lock)
{
	mutex_init(lock);
}

/* Return: 0, or -EINTR if the caller is being killed. */
int pm_shim_turn_take(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}

void pm_shim_turn_give(struct mutex *lock)
{
	mutex_unlock(lock);
}

int pm_shim_workers_start(void)
{
	pm_workqueue = alloc_workqueue("page_migrate", WQ_UNBOUND, 0);
	return pm_workqueue ? 0 : -ENOMEM;
}

void pm_shim_workers_stop(void)
{
	destroy_workqueue(pm_workqueue);
}

struct pm_work {
	struct work_struct work;
	struct mem_cgroup *memcg;
	void *job;
};

static void pm_work_run(struct work_struct *work)
{
	struct pm_work *here = container_of(work, struct pm_work, work);
	struct mem_cgroup *before = set_active_memcg(here->memcg);

	page_migrate_run(here->job);
	set_active_memcg(before);
}

/* Whether the caller's own cpuset lets it allocate memory of a node. */
bool pm_shim_caller_may_allocate(unsigned int nid)
{
	return nid < MAX_NUMNODES && node_isset(nid, cpuset_current_mems_allowed);
}

/**
 * pm_shim_run_on_worker() - run page_migrate_run() where all nodes are allowed
 * @job: handed to page_migrate_run()
 *
 * The caller's own cpuset would restrict where pages can be allocated. Kernel
 * threads have no such limit. What the job allocates for itself is charged to
 * the caller all the same. Returns when the job is done.
 */
void pm_shim_run_on_worker(void *job)
{
	struct pm_work on_stack = { .job = job };

	on_stack.memcg = get_mem_cgroup_from_mm(current->mm);
	INIT_WORK_ONSTACK(&on_stack.work, pm_work_run);
	queue_work(pm_workqueue, &on_stack.work);
	flush_work(&on_stack.work);
	destroy_work_on_stack(&on_stack.work);
	mem_cgroup_put(on_stack.memcg);
}
