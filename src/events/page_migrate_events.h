/* SPDX-License-Identifier: GPL-2.0 */
/* The tracepoints: their fields, and how they print. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM page_migrate

#if !defined(_PAGE_MIGRATE_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _PAGE_MIGRATE_EVENTS_H

#include <linux/page_migrate.h>
#include <linux/tracepoint.h>

#include "page_migrate_trace.h"

TRACE_EVENT(page_migrate_call,
	TP_PROTO(const struct page_migrate_call *call,
		 const struct page_migrate_result *result),

	TP_ARGS(call, result),

	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(u32, flags)
		__field(u32, pairs)
		__field(unsigned long, va_start)
		__field(unsigned long, va_end)
		__field(unsigned long, resume_va)
		__field(long, ret)
		__field(u64, moved)
		__field(u64, moved_fallback)
		__field(u64, already_moved)
		__field(u64, in_place)
		__field(u64, exempt)
		__field(u64, shared)
		__field(u64, busy)
		__field(u64, pinned)
		__field(u64, unmovable)
		__field(u64, no_memory)
		__field(u64, gone)
		__field(u64, policies)
		__field(u64, usecs)
	),

	TP_fast_assign(
		__entry->pid = call->pid;
		__entry->flags = call->flags;
		__entry->pairs = call->pairs;
		__entry->va_start = call->va_start;
		__entry->va_end = call->va_end;
		__entry->resume_va = result->resume_va;
		__entry->ret = call->ret;
		__entry->moved = result->moved;
		__entry->moved_fallback = result->moved_fallback;
		__entry->already_moved = result->already_moved;
		__entry->in_place = result->in_place;
		__entry->exempt = result->exempt;
		__entry->shared = result->shared;
		__entry->busy = result->busy;
		__entry->pinned = result->pinned;
		__entry->unmovable = result->unmovable;
		__entry->no_memory = result->no_memory;
		__entry->gone = result->gone;
		__entry->policies = result->policies;
		__entry->usecs = call->usecs;
	),

	TP_printk("pid=%d flags=%s pairs=%u va=0x%lx-0x%lx resume_va=0x%lx ret=%ld moved=%llu moved_fallback=%llu already_moved=%llu in_place=%llu exempt=%llu shared=%llu busy=%llu pinned=%llu unmovable=%llu no_memory=%llu gone=%llu policies=%llu usecs=%llu",
		  __entry->pid,
		  __entry->flags ? __print_flags(__entry->flags, "|",
				{ PAGE_MIGRATE_PIDFD, "PIDFD" },
				{ PAGE_MIGRATE_DRY_RUN, "DRY_RUN" },
				{ PAGE_MIGRATE_KEEP_POLICY, "KEEP_POLICY" },
				{ PAGE_MIGRATE_EXCLUSIVE, "EXCLUSIVE" },
				{ PAGE_MIGRATE_NEW_JOB, "NEW_JOB" },
				{ PAGE_MIGRATE_STRICT, "STRICT" }) : "none",
		  __entry->pairs, __entry->va_start, __entry->va_end,
		  __entry->resume_va, __entry->ret, __entry->moved,
		  __entry->moved_fallback, __entry->already_moved,
		  __entry->in_place, __entry->exempt, __entry->shared,
		  __entry->busy, __entry->pinned, __entry->unmovable,
		  __entry->no_memory, __entry->gone, __entry->policies,
		  __entry->usecs)
);

TRACE_EVENT(page_migrate_batch,
	TP_PROTO(const struct page_migrate_batch *batch),

	TP_ARGS(batch),

	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(unsigned long, va)
		__field(u64, pages)
		__field(u64, moved)
		__field(u64, left)
		__field(u64, usecs)
	),

	TP_fast_assign(
		__entry->pid = batch->pid;
		__entry->va = batch->va;
		__entry->pages = batch->pages;
		__entry->moved = batch->moved;
		__entry->left = batch->left;
		__entry->usecs = batch->usecs;
	),

	TP_printk("pid=%d va=0x%lx pages=%llu moved=%llu left=%llu usecs=%llu",
		  __entry->pid, __entry->va, __entry->pages, __entry->moved,
		  __entry->left, __entry->usecs)
);

#endif /* _PAGE_MIGRATE_EVENTS_H */

/* Outside of the guard: the kernel reads this file several times. */
#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH events
#define TRACE_INCLUDE_FILE page_migrate_events
#include <trace/define_trace.h>
