// SPDX-License-Identifier: GPL-2.0
/*
 * Does wrong on purpose, one thing at a time, when it is loaded: so that
 * scripts/control sees whether that is noticed. Never load it elsewhere.
 */
#include <linux/debug_locks.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/kfence.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/panic.h>
#include <linux/sched.h>
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

/* Called like what allocates destinations, for which the page's owner counts. */
static noinline void pm_shim_folio_alloc(void)
{
	struct page *lost = alloc_page(GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(lost);
}

static void do_use_after_free(void)
{
	unsigned long end = jiffies + 60 * HZ;
	bool watched;
	char *p;

	/* KASAN watches every object, KFENCE takes one now and then. */
	do {
		p = kmalloc(200, GFP_KERNEL);
		if (!p)
			return;
		watched = IS_ENABLED(CONFIG_KASAN) || is_kfence_address(p);
		OPTIMIZER_HIDE_VAR(p);
		kfree(p);
		cond_resched();
	} while (!watched && time_before(jiffies, end));
	OPTIMIZER_HIDE_VAR(p);
	if (watched)
		WRITE_ONCE(p[10], 1);
}

/* Whoever loads this stays on one CPU, whose list of free pages it uses. */
static void do_use_free_page(void)
{
	static struct page *taken[64];
	struct page *page = alloc_page(GFP_KERNEL);
	char *p;

	if (!page)
		return;
	p = page_address(page);
	__free_page(page);
	OPTIMIZER_HIDE_VAR(p);
	WRITE_ONCE(p[10], 1);
	/* It is looked at when it is allocated again. */
	for (int i = 0; i < ARRAY_SIZE(taken); i++)
		taken[i] = alloc_page(GFP_KERNEL);
	for (int i = 0; i < ARRAY_SIZE(taken); i++) {
		if (taken[i])
			__free_page(taken[i]);
	}
}

/* As if the kernel itself had kept the module in use. */
static void do_hold(void)
{
	static struct file *held;

	held = filp_open("/dev/page_migrate", O_RDWR, 0);
	if (IS_ERR(held))
		pr_err("no device: %pe\n", held);
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

/* As if lockdep had run out of memory, which is no report. */
static void do_no_lockdep(void)
{
	debug_locks_off();
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
	{ "leak-page", pm_shim_folio_alloc },
	{ "use-after-free", do_use_after_free },
	{ "use-free-page", do_use_free_page },
	{ "hold", do_hold },
	{ "list", do_list },
	{ "locks", do_locks },
	{ "no-lockdep", do_no_lockdep },
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
