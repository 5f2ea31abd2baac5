// SPDX-License-Identifier: GPL-2.0
/*
 * Helper threads: they ask what may never be answered, so that a caller can
 * stop waiting.
 *
 * A file system may ask a server, and the server may be dead. A helper is a
 * kernel thread that waits in the caller's place. When the caller's patience
 * ends, the helper gets a SIGKILL, which ends every wait that a kill can end.
 * What is left, for example a FUSE request that its server has read, lasts until
 * the server answers or its connection is aborted. Such a helper is lost: it is
 * remembered with the device and the user that it waits for until it ends, so
 * that the Rust half can bound their number. It holds the module, and the file
 * that it was asked about.
 *
 * Locks: pm_lost_lock is a leaf.
 */
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/refcount.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "page_migrate_shim.h"

/*
 * However often a caller is interrupted, a helper gets so much time: else a
 * caller that is interrupted all the time would get nowhere.
 */
#define PM_HELPER_AT_LEAST	(HZ / 2)

struct pm_helper {
	refcount_t refs;		/* the caller's and the thread's */
	struct task_struct *task;	/* held by the caller */
	struct completion wanted;	/* @job is there, or the end */
	struct completion done;
	void *job;			/* NULL: none, or the end */
	struct mem_cgroup *memcg;	/* pays for what the thread allocates */
	struct list_head lost;		/* in pm_lost, or empty */
	struct pm_asked asked;		/* whom a lost helper waits for */
};

static LIST_HEAD(pm_lost);
static DEFINE_SPINLOCK(pm_lost_lock);

static void pm_helper_put(struct pm_helper *helper)
{
	if (!refcount_dec_and_test(&helper->refs))
		return;
	mem_cgroup_put(helper->memcg);
	kfree(helper);
}

static int pm_helper_main(void *data)
{
	struct pm_helper *helper = data;
	void *job;

	allow_signal(SIGKILL);
	for (;;) {
		struct mem_cgroup *before;

		wait_for_completion_state(&helper->wanted, TASK_IDLE);
		job = xchg(&helper->job, NULL);
		if (!job)
			break;
		before = set_active_memcg(helper->memcg);
		page_migrate_help(job);
		set_active_memcg(before);
		complete(&helper->done);
	}
	spin_lock(&pm_lost_lock);
	list_del_init(&helper->lost);
	spin_unlock(&pm_lost_lock);
	pm_helper_put(helper);
	module_put_and_kthread_exit(0);
	return 0;
}

/**
 * pm_shim_helper_start() - start a helper
 * @name: the thread's name
 *
 * Return: the helper, for pm_shim_helper_end(), or an error pointer.
 */
struct pm_helper *pm_shim_helper_start(const char *name)
{
	struct pm_helper *helper = kzalloc_obj(*helper, GFP_KERNEL_ACCOUNT);
	struct task_struct *task;

	if (!helper)
		return ERR_PTR(-ENOMEM);
	init_completion(&helper->wanted);
	init_completion(&helper->done);
	INIT_LIST_HEAD(&helper->lost);
	refcount_set(&helper->refs, 2);
	task = kthread_create(pm_helper_main, helper, "%s", name);
	if (IS_ERR(task)) {
		kfree(helper);
		return ERR_CAST(task);
	}
	helper->task = get_task_struct(task);
	helper->memcg = get_mem_cgroup_from_mm(current->mm);
	/* An open file keeps the module now; the thread may outlive it. */
	__module_get(THIS_MODULE);
	wake_up_process(task);
	return helper;
}

/**
 * pm_shim_helper_end() - give a helper up
 * @helper: the helper
 *
 * Return: the job that it has not begun, or NULL.
 */
void *pm_shim_helper_end(struct pm_helper *helper)
{
	void *job = xchg(&helper->job, NULL);

	complete(&helper->wanted);
	put_task_struct(helper->task);
	pm_helper_put(helper);
	return job;
}

/**
 * pm_shim_helper_run() - have a job done, and wait for it
 * @helper: a helper that has nothing to do
 * @job: handed to page_migrate_help() on the helper's thread
 * @patience: milliseconds to wait
 * @last: milliseconds that it may take to notice that it has been killed
 * @asked: whom the job may have to wait for
 *
 * Return: 0 when the job is done. -EINTR if a signal came, -ETIMEDOUT if it took
 * too long: then the helper has been killed, may still be at work, and is good
 * for nothing but pm_shim_helper_end().
 */
int pm_shim_helper_run(struct pm_helper *helper, void *job,
		       unsigned int patience, unsigned int last,
		       const struct pm_asked *asked)
{
	unsigned long rest = msecs_to_jiffies(patience);
	unsigned long first = min(rest, (unsigned long)PM_HELPER_AT_LEAST);
	long left;

	xchg(&helper->job, job);
	complete(&helper->wanted);
	left = wait_for_completion_killable_timeout(&helper->done, first);
	if (!left && rest > first)
		left = wait_for_completion_interruptible_timeout(&helper->done,
								 rest - first);
	if (left > 0)
		return 0;
	send_sig(SIGKILL, helper->task, 1);
	if (!wait_for_completion_timeout(&helper->done, msecs_to_jiffies(last))) {
		helper->asked = *asked;
		spin_lock(&pm_lost_lock);
		list_add(&helper->lost, &pm_lost);
		spin_unlock(&pm_lost_lock);
	}
	return left ? -EINTR : -ETIMEDOUT;
}

/* Count the helpers that are lost: by device, by user, and all. */
void pm_shim_helpers_lost(const struct pm_asked *asked, struct pm_lost *out)
{
	struct pm_helper *helper;

	*out = (struct pm_lost){};
	spin_lock(&pm_lost_lock);
	list_for_each_entry(helper, &pm_lost, lost) {
		out->all++;
		out->of_device += helper->asked.dev == asked->dev &&
				  helper->asked.wait == asked->wait;
		out->of_user += helper->asked.uid == asked->uid;
	}
	spin_unlock(&pm_lost_lock);
}
