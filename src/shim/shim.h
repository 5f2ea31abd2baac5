/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the C files of the shim share: the kernel functions that are bound by
 * name, and a few functions of their own. The Rust half does not see this.
 */
#ifndef _PAGE_MIGRATE_SHIM_INTERNAL_H
#define _PAGE_MIGRATE_SHIM_INTERNAL_H

#include <linux/cpuset.h>
#include <linux/hugetlb.h>
#include <linux/mempolicy.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagewalk.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/rmap.h>
#include <linux/secretmem.h>
#include <linux/security.h>
#include <linux/static_call.h>
#include <linux/swap.h>

/* Where Linux 7.3 declares lru_add_drain() and drain_all_pages(). */
#include "../mm/internal.h"
#if __has_include("../mm/page_alloc.h")
#include "../mm/page_alloc.h"
#endif

#include "page_migrate_shim.h"
#include "policy.h"

struct rw_semaphore;
struct workqueue_struct;

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

#define PM_DECLARE(name) DECLARE_STATIC_CALL(pm_call_##name, name);
PM_SYMBOLS(PM_DECLARE)

#define pm_call(name)	static_call(pm_call_##name)

/* In file.c. */
void pm_file_get(const struct file *file, struct pm_file *held);
bool pm_inode_is_served(const struct inode *inode);
void pm_inode_facts(struct pm_inode *out, const struct inode *inode);

/* In mm.c. */
int pm_down_read(struct rw_semaphore *sem);
int pm_mm_read_lock(struct mm_struct *mm);
void pm_mm_read_unlock(struct mm_struct *mm);
int pm_mm_write_lock(struct mm_struct *mm);
void pm_mm_write_unlock(struct mm_struct *mm);
void pm_folio_facts(struct pm_folio *out, struct folio *folio, u32 flags);

/* In worker.c. */
extern struct workqueue_struct *pm_workqueue;

#endif /* _PAGE_MIGRATE_SHIM_INTERNAL_H */
