// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints themselves.
 *
 * Rust code in the kernel's tree tests a tracepoint's key in place. Out of the
 * tree that would make the kernel's build rules write into the kernel's tree,
 * so a function does it. It is called once for each call and for each batch.
 */
#define CREATE_TRACE_POINTS
#include "page_migrate_events.h"

bool pm_shim_trace_call_wanted(void)
{
	return trace_page_migrate_call_enabled();
}

bool pm_shim_trace_batch_wanted(void)
{
	return trace_page_migrate_batch_enabled();
}

void pm_shim_trace_call(const struct page_migrate_call *call,
			const struct page_migrate_result *result)
{
	trace_page_migrate_call(call, result);
}

void pm_shim_trace_batch(const struct page_migrate_batch *batch)
{
	trace_page_migrate_batch(batch);
}
