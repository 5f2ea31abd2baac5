/* SPDX-License-Identifier: GPL-2.0 */
/* The part of the shim that reaches memory policies. */
#ifndef _PAGE_MIGRATE_POLICY_H
#define _PAGE_MIGRATE_POLICY_H

#include <linux/bits.h>
#include <linux/numa.h>
#include <linux/types.h>

struct mm_struct;
struct pm_file;
struct task_struct;

#define PM_NODE_WORDS	BITS_TO_LONGS(MAX_NUMNODES)

/* The nodes that a policy names, for the Rust half to change. */
struct pm_policy {
	unsigned long nodes[PM_NODE_WORDS];
	unsigned long user_nodes[PM_NODE_WORDS];	/* empty if there are none */
	int home_node;					/* or NUMA_NO_NODE */
};

/* One pass over policies. */
struct pm_policy_pass {
	void *editor;		/* handed to page_migrate_edit_policy() */
	unsigned long cookie;	/* of the job; policies that carry it are done */
	bool dry_run;		/* count only */
	bool detach;		/* the next cpuset change is to leave nodes alone */
	bool staged;		/* out: policies of tasks are to be staged */
};

long pm_shim_policy_vma_ahead(struct mm_struct *mm, unsigned long start,
			      unsigned long end,
			      const struct pm_policy_pass *pass,
			      unsigned long *at);
long pm_shim_policy_vmas(struct mm_struct *mm, unsigned long start,
			 unsigned long end, struct pm_policy_pass *pass,
			 unsigned long *resume);
long pm_shim_policy_tasks(struct task_struct *task, struct mm_struct *mm,
			  struct pm_policy_pass *pass);
long pm_shim_policy_tasks_staged(struct task_struct *task, struct mm_struct *mm,
				 struct pm_policy_pass *pass);
int pm_shim_policy_next_file(struct mm_struct *mm, unsigned long start,
			     unsigned long end, unsigned long *resume,
			     struct pm_file *file);
long pm_shim_policy_file(const struct pm_file *file, struct pm_policy_pass *pass,
			 unsigned long *resume);
unsigned long pm_shim_policy_cookie(void);

/* The Rust half. Called under spinlocks. Return: whether anything changed. */
bool page_migrate_edit_policy(void *editor, struct pm_policy *policy);

#endif /* _PAGE_MIGRATE_POLICY_H */
