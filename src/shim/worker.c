// SPDX-License-Identifier: GPL-2.0
/*
 * What a call needs to run: its turn on the open file, memory for bookkeeping, and
 * threads that no cpuset confines.
 *
 * Locks: the mutex of a turn comes before all others; it is held for the whole
 * of a call. A worker's job takes what the call would take.
 */
#include <linux/memcontrol.h>
#include <linux/mutex.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "shim.h"

void pm_shim_mutex_init(struct mutex *lock)
{
	mutex_init(lock);
}

/* Return: 0, or -EINTR if the caller is being killed. */
int pm_shim_mutex_take(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}

void pm_shim_mutex_give(struct mutex *lock)
{
	mutex_unlock(lock);
}

/**
 * pm_shim_zalloc() - allocate zeros for bookkeeping, charged to the caller
 * @size: in bytes
 *
 * For where folios are locked: reclaims a little, and fails rather than call
 * the OOM killer.
 *
 * Return: the memory, for kfree(), or NULL.
 */
void *pm_shim_zalloc(size_t size)
{
	return kzalloc(size, GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN);
}

struct workqueue_struct *pm_workqueue;

int pm_shim_workers_start(void)
{
	/*
	 * Pages are isolated while they wait here. Others may wait for these, and
	 * the creation of a thread for the others: so there must be a rescuer.
	 */
	pm_workqueue = alloc_workqueue("page_migrate", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return pm_workqueue ? 0 : -ENOMEM;
}

void pm_shim_workers_stop(void)
{
	destroy_workqueue(pm_workqueue);
}

struct pm_work {
	struct work_struct work;
	struct mem_cgroup *memcg;
	void *job;
};

static void pm_work_run(struct work_struct *work)
{
	struct pm_work *here = container_of(work, struct pm_work, work);
	struct mem_cgroup *before = set_active_memcg(here->memcg);

	page_migrate_run(here->job);
	set_active_memcg(before);
}

/**
 * pm_shim_run_on_worker() - run page_migrate_run() where all nodes are allowed
 * @job: handed to page_migrate_run()
 *
 * The caller's own cpuset would restrict where pages can be allocated. Kernel
 * threads have no such limit. What the job allocates for itself is charged to
 * the caller all the same. Returns when the job is done.
 */
void pm_shim_run_on_worker(void *job)
{
	struct pm_work on_stack = { .job = job };

	on_stack.memcg = get_mem_cgroup_from_mm(current->mm);
	INIT_WORK_ONSTACK(&on_stack.work, pm_work_run);
	queue_work(pm_workqueue, &on_stack.work);
	flush_work(&on_stack.work);
	destroy_work_on_stack(&on_stack.work);
	mem_cgroup_put(on_stack.memcg);
}

/**
 * pm_shim_queue_work() - run a work item where all nodes are allowed
 * @work: the item
 * @nid: the node near whose CPUs it is to run; NUMA_NO_NODE is anywhere
 *
 * Return: false if it is queued already.
 */
bool pm_shim_queue_work(struct work_struct *work, int nid)
{
	return queue_work_node(nid, pm_workqueue, work);
}

/**
 * pm_shim_payer_get() - the control group that pays for the caller's memory
 *
 * Return: the group, for pm_shim_payer_put(). NULL is none.
 */
struct mem_cgroup *pm_shim_payer_get(void)
{
	return get_mem_cgroup_from_mm(current->mm);
}

/**
 * pm_shim_payer_set() - have a group pay for what this thread allocates
 * @memcg: the group, or NULL
 *
 * Return: the group before.
 */
struct mem_cgroup *pm_shim_payer_set(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}

void pm_shim_payer_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

/* The CPUs that are online. */
unsigned int pm_shim_nr_cpus(void)
{
	return num_online_cpus();
}
