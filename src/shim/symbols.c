// SPDX-License-Identifier: GPL-2.0
/*
 * Kernel functions that are not exported, found by name when the module is
 * loaded; and the module's parameter.
 *
 * They are called through static calls. A static call is a direct call, which
 * also works where indirect branch tracking has sealed the function's entry.
 *
 * Locks: none. Nothing runs yet that would use what is bound here.
 */
#define pr_fmt(fmt) "page_migrate: " fmt

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/moduleparam.h>

#include "shim.h"

#define PM_DEFINE(name) DEFINE_STATIC_CALL_NULL(pm_call_##name, name);
PM_SYMBOLS(PM_DEFINE)

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
