// SPDX-License-Identifier: GPL-2.0
/*
 * Does wrong on purpose, one thing at a time, when it is loaded: so that
 * scripts/control sees whether that is noticed. Never load it elsewhere.
 */
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/panic.h>
#include <linux/slab.h>
#include <linux/string.h>

static char *mode = "none";
module_param(mode, charp, 0444);
MODULE_PARM_DESC(mode, "what to do wrong");

static void do_nothing(void)
{
}

static void do_warn(void)
{
	WARN_ON(1);
}

static void do_taint(void)
{
	add_taint(TAINT_USER, LOCKDEP_STILL_OK);
}

static void do_panic(void)
{
	panic("on purpose");
}

/* As if a page had been taken off its list for good. */
static void do_isolate(void)
{
	mod_node_page_state(NODE_DATA(first_online_node), NR_ISOLATED_ANON, 1);
}

static void do_leak(void)
{
	/* Several: a pointer to one may happen to stay somewhere. */
	for (int i = 0; i < 8; i++) {
		char *lost = kmalloc(200, GFP_KERNEL);

		OPTIMIZER_HIDE_VAR(lost);
	}
}

static void do_use_after_free(void)
{
	char *p = kmalloc(200, GFP_KERNEL);

	if (!p)
		return;
	OPTIMIZER_HIDE_VAR(p);
	kfree(p);
	OPTIMIZER_HIDE_VAR(p);
	WRITE_ONCE(p[10], 1);
}

static void do_list(void)
{
	LIST_HEAD(list);
	LIST_HEAD(entry);

	list_add(&entry, &list);
	list.next = &list;
	list_del(&entry);
}

static void do_locks(void)
{
	static DEFINE_MUTEX(a);
	static DEFINE_MUTEX(b);

	mutex_lock(&a);
	mutex_lock(&b);
	mutex_unlock(&b);
	mutex_unlock(&a);
	mutex_lock(&b);
	mutex_lock(&a);
	mutex_unlock(&a);
	mutex_unlock(&b);
}

static void do_sleep(void)
{
	preempt_disable();
	might_sleep();
	preempt_enable();
}

static const struct {
	const char *name;
	void (*act)(void);
} deeds[] = {
	{ "none", do_nothing },
	{ "warn", do_warn },
	{ "taint", do_taint },
	{ "panic", do_panic },
	{ "isolate", do_isolate },
	{ "leak", do_leak },
	{ "use-after-free", do_use_after_free },
	{ "list", do_list },
	{ "locks", do_locks },
	{ "sleep", do_sleep },
};

static int __init pm_control_init(void)
{
	for (int i = 0; i < ARRAY_SIZE(deeds); i++) {
		if (!strcmp(mode, deeds[i].name)) {
			deeds[i].act();
			return 0;
		}
	}
	return -EINVAL;
}

static void __exit pm_control_exit(void)
{
}

module_init(pm_control_init);
module_exit(pm_control_exit);

MODULE_DESCRIPTION("Faults on purpose, for the tests of page_migrate");
MODULE_LICENSE("GPL");
