// SPDX-License-Identifier: GPL-2.0
/*
 * Helper threads: they ask what may never be answered, so that a caller can
 * stop waiting.
 *
 * A file system may ask a server, and the server may be dead. A helper is a
 * kernel thread that waits in the caller's place. When the caller's patience
 * ends, the helper gets a SIGKILL, which ends every wait that a kill can end.
 * What is left, for example a FUSE request that its server has read, lasts until
 * the server answers or its connection is aborted. Such a helper is lost. It holds
 * the module, and the file that it was asked about, until it ends.
 *
 * So each helper is in a list while it is at work, with the device and the user
 * that it waits for, and there is a limit for each.
 *
 * Locks: pm_busy_lock is a leaf.
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
#include <linux/wait.h>

#include "page_migrate_shim.h"

/*
 * However often a caller is interrupted, a helper gets so much time: else a
 * caller that is interrupted all the time would get nowhere.
 */
#define PM_HELPER_AT_LEAST	(HZ / 2)

struct pm_helper {
	refcount_t refs;		/* the caller's and the thread's */
	struct task_struct *task;	/* held by the caller, or NULL */
	char name[32];
	struct completion wanted;	/* @job is there, or the end */
	struct completion done;
	void *job;			/* NULL: none, or the end */
	struct mem_cgroup *memcg;	/* pays for what the thread allocates */
	struct list_head busy;		/* in pm_busy, or empty */
	struct pm_asked asked;		/* whom a busy helper waits for */
	bool lost;			/* nobody waits for the helper itself */
};

static LIST_HEAD(pm_busy);
static DEFINE_SPINLOCK(pm_busy_lock);
static DECLARE_WAIT_QUEUE_HEAD(pm_busy_wait);

static void pm_helper_put(struct pm_helper *helper)
{
	if (!refcount_dec_and_test(&helper->refs))
		return;
	mem_cgroup_put(helper->memcg);
	kfree(helper);
}

/* Return: 0 if the helper is in the list now, -EAGAIN to wait, -EBUSY for no use. */
static int pm_helper_try_enter(struct pm_helper *helper,
			       const struct pm_asked *asked)
{
	/* Those that may be done soon, and those that are lost. */
	unsigned int device[2] = {}, user[2] = {}, all[2] = {};
	struct pm_helper *other;
	int err = 0;

	spin_lock(&pm_busy_lock);
	list_for_each_entry(other, &pm_busy, busy) {
		bool lost = READ_ONCE(other->lost);

		if (other->asked.wait != asked->wait)
			continue;
		device[lost] += other->asked.dev == asked->dev;
		user[lost] += other->asked.uid == asked->uid;
		all[lost]++;
	}
	/* A file system that has left a question unanswered is not asked another. */
	if ((asked->dev && device[true]) || user[true] >= asked->of_user ||
	    all[true] >= asked->in_all)
		err = -EBUSY;
	else if (device[true] + device[false] >= asked->of_device ||
		 user[true] + user[false] >= asked->of_user ||
		 all[true] + all[false] >= asked->in_all)
		err = -EAGAIN;
	if (!err) {
		helper->asked = *asked;
		list_add(&helper->busy, &pm_busy);
	}
	spin_unlock(&pm_busy_lock);
	return err;
}

static void pm_helper_leave(struct pm_helper *helper)
{
	spin_lock(&pm_busy_lock);
	list_del_init(&helper->busy);
	spin_unlock(&pm_busy_lock);
	wake_up_all(&pm_busy_wait);
}

/* Wait until a helper may ask. Return: as pm_shim_helper_run(). */
static int pm_helper_enter(struct pm_helper *helper,
			   const struct pm_asked *asked, unsigned long patience)
{
	unsigned long first = min_t(unsigned long, patience, PM_HELPER_AT_LEAST);
	long left;
	int err;

#define PM_ENTERED ((err = pm_helper_try_enter(helper, asked)) != -EAGAIN)
	left = wait_event_killable_timeout(pm_busy_wait, PM_ENTERED, first);
	if (!left && patience > first)
		left = wait_event_interruptible_timeout(pm_busy_wait, PM_ENTERED,
							patience - first);
#undef PM_ENTERED
	if (left < 0)
		return -EINTR;
	return err ? -ETIMEDOUT : 0;
}

static int pm_helper_main(void *data)
{
	struct pm_helper *helper = data;
	void *job;

	/* A signal that comes before this is lost: whoever starts a helper waits for it. */
	allow_signal(SIGKILL);
	complete(&helper->done);
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
	pm_helper_leave(helper);
	pm_helper_put(helper);
	module_put_and_kthread_exit(0);
	return 0;
}

/**
 * pm_shim_helper_new() - make a helper
 * @name: what its thread will be called, when it has something to do
 *
 * Return: the helper, for pm_shim_helper_end(), or NULL.
 */
struct pm_helper *pm_shim_helper_new(const char *name)
{
	struct pm_helper *helper = kzalloc_obj(*helper, GFP_KERNEL_ACCOUNT);

	if (!helper)
		return NULL;
	init_completion(&helper->wanted);
	init_completion(&helper->done);
	INIT_LIST_HEAD(&helper->busy);
	refcount_set(&helper->refs, 1);
	helper->memcg = get_mem_cgroup_from_mm(current->mm);
	strscpy(helper->name, name);
	return helper;
}

static int pm_helper_start(struct pm_helper *helper)
{
	struct task_struct *task;

	if (helper->task)
		return 0;
	task = kthread_create(pm_helper_main, helper, "%s", helper->name);
	/* Whatever else there was too little of: trying again at once is no use. */
	if (IS_ERR(task))
		return PTR_ERR(task) == -EINTR ? -EINTR : -ENOMEM;
	helper->task = get_task_struct(task);
	refcount_inc(&helper->refs);
	/* An open file keeps the module now; the thread may outlive it. */
	__module_get(THIS_MODULE);
	wake_up_process(task);
	wait_for_completion(&helper->done);
	return 0;
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
	if (helper->task)
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
 * @asked: whom the job may have to wait for, and how many helpers may
 *
 * Waits for other helpers to be done first, where there are too many; but not
 * for one that is lost.
 *
 * Return: 0 when the job is done. -ENOMEM. -EINTR if a signal came, -ETIMEDOUT if
 * it took too long: then the helper has been killed, may still be at work, and is good
 * for nothing but pm_shim_helper_end().
 */
int pm_shim_helper_run(struct pm_helper *helper, void *job,
		       unsigned int patience, unsigned int last,
		       const struct pm_asked *asked)
{
	unsigned long rest = msecs_to_jiffies(patience);
	unsigned long first = min_t(unsigned long, rest, PM_HELPER_AT_LEAST);
	long left;
	int err;

	xchg(&helper->job, job);
	/* There is no thread before it may ask. */
	err = pm_helper_enter(helper, asked, rest);
	if (err)
		return err;
	err = pm_helper_start(helper);
	if (err) {
		pm_helper_leave(helper);
		return err;
	}
	complete(&helper->wanted);
	left = wait_for_completion_killable_timeout(&helper->done, first);
	if (!left && rest > first)
		left = wait_for_completion_interruptible_timeout(&helper->done,
								 rest - first);
	if (left <= 0) {
		send_sig(SIGKILL, helper->task, 1);
		if (!wait_for_completion_timeout(&helper->done,
						 msecs_to_jiffies(last))) {
			/* It leaves the list when it ends. */
			WRITE_ONCE(helper->lost, true);
			return left ? -EINTR : -ETIMEDOUT;
		}
	}
	pm_helper_leave(helper);
	return left > 0 ? 0 : left ? -EINTR : -ETIMEDOUT;
}
