/* SPDX-License-Identifier: GPL-2.0 */
/* The tracepoints, as the Rust half uses them. */
#ifndef _PAGE_MIGRATE_TRACE_H
#define _PAGE_MIGRATE_TRACE_H

#include <linux/page_migrate.h>
#include <linux/types.h>

/* A call that is over, but for its result. */
struct page_migrate_call {
	pid_t pid;			/* of the target, in the first PID namespace */
	u32 flags;			/* PAGE_MIGRATE_* */
	u32 pairs;			/* entries of each node list */
	unsigned long va_start;		/* the range, within the address space */
	unsigned long va_end;
	long ret;			/* pages left behind, or -errno */
	u64 usecs;			/* without the wait for its turn */
};

/* A batch that has been moved. */
struct page_migrate_batch {
	pid_t pid;			/* as in a call */
	unsigned long va;		/* where the walk that found it began */
	u64 pages;			/* pages in it, each once */
	u64 moved;			/* those that moved, wherever to */
	u64 left;			/* those that did not */
	u64 usecs;			/* without the walk */
};

/* Whether somebody watches: if not, nothing needs to be gathered. */
bool pm_shim_trace_call_wanted(void);
bool pm_shim_trace_batch_wanted(void);

void pm_shim_trace_call(const struct page_migrate_call *call,
			const struct page_migrate_result *result);
void pm_shim_trace_batch(const struct page_migrate_batch *batch);

#endif /* _PAGE_MIGRATE_TRACE_H */
