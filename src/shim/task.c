// SPDX-License-Identifier: GPL-2.0
/*
 * Threads: found, asked about, and what a caller may do to them.
 *
 * Locks: exec_update_lock for reading, which its caller holds from the check of
 * a permission until it has the address space. No lock of the module is taken
 * under it.
 */
#include <linux/capability.h>
#include <linux/cpuset.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/security.h>

#include "shim.h"

/**
 * pm_shim_task_by_pid() - find a thread
 * @pid: its ID in the caller's PID namespace; 0 is the caller
 *
 * Return: the thread with a reference, or NULL.
 */
struct task_struct *pm_shim_task_by_pid(pid_t pid)
{
	struct task_struct *task;
	struct pid *ref;

	if (!pid)
		return get_task_struct(current);
	ref = find_get_pid(pid);
	task = get_pid_task(ref, PIDTYPE_PID);
	put_pid(ref);
	return task;
}

/**
 * pm_shim_task_by_pidfd() - find the process or thread of a pidfd
 * @pidfd: the descriptor, not negative
 *
 * Return: a thread with a reference, or an error pointer.
 */
struct task_struct *pm_shim_task_by_pidfd(int pidfd)
{
	struct task_struct *task;
	unsigned int flags;
	struct pid *ref;

	ref = pm_call(pidfd_get_pid)(pidfd, &flags);
	if (IS_ERR(ref))
		return ERR_CAST(ref);
	/* Of a process this is its first thread, of a thread's pidfd that one. */
	task = get_pid_task(ref, PIDTYPE_PID);
	put_pid(ref);
	return task ?: ERR_PTR(-ESRCH);
}

static bool pm_task_uses(struct task_struct *task, const struct mm_struct *mm)
{
	const struct mm_struct *its = READ_ONCE(task->mm);

	return its && (!mm || its == mm);
}

/**
 * pm_shim_task_alive() - find a thread of the process that still has memory
 * @task: any thread of it, dead or alive; preferred if it has memory
 * @mm: the memory that it must have, or NULL for any
 *
 * Return: the thread with a reference, or NULL if there is none.
 */
struct task_struct *pm_shim_task_alive(struct task_struct *task,
				       const struct mm_struct *mm)
{
	struct task_struct *thread, *found = NULL;

	rcu_read_lock();
	if (pm_task_uses(task, mm)) {
		found = get_task_struct(task);
	} else if (pid_alive(task)) {
		for_each_thread(task, thread) {
			if (!pm_task_uses(thread, mm))
				continue;
			found = get_task_struct(thread);
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

bool pm_shim_task_is_kernel(struct task_struct *task)
{
	return task->flags & PF_KTHREAD;
}

/*
 * Whether the whole process has exited or has been told to. One that dumps core
 * has been told to, and keeps its memory until the dump has been written.
 */
bool pm_shim_task_is_dead(struct task_struct *task)
{
	if (!atomic_read(&task->signal->live))
		return true;
	return (READ_ONCE(task->signal->flags) & SIGNAL_GROUP_EXIT) &&
	       !READ_ONCE(task->signal->core_state);
}

int pm_shim_task_lock_exec(struct task_struct *task)
{
	return pm_down_read(&task->signal->exec_update_lock);
}

void pm_shim_task_unlock_exec(struct task_struct *task)
{
	up_read(&task->signal->exec_update_lock);
}

bool pm_shim_task_may_access(struct task_struct *task)
{
	return pm_call(ptrace_may_access)(task, PTRACE_MODE_READ_REALCREDS);
}

int pm_shim_task_may_move(struct task_struct *task)
{
	return pm_call(security_task_movememory)(task);
}

/**
 * pm_shim_task_mems() - ask the cpusets about each node
 * @task: the task
 * @facts: out: PM_MEMS_* for each node
 * @nr_nodes: length of @facts
 *
 * A node that comes online has memory some time before the cpusets learn of it,
 * the root first. So the root is asked first.
 */
void pm_shim_task_mems(struct task_struct *task, u8 *facts,
		       unsigned int nr_nodes)
{
	nodemask_t root = pm_call(cpuset_mems_allowed)(&init_task);
	nodemask_t mems = pm_call(cpuset_mems_allowed)(task);
	unsigned int nid;

	for (nid = 0; nid < nr_nodes; nid++)
		facts[nid] = (node_isset(nid, mems) ? PM_MEMS_ALLOWED : 0) |
			     (node_isset(nid, root) ? PM_MEMS_KNOWN : 0);
}

/**
 * pm_shim_task_mm() - find the address space of a thread
 * @task: the thread
 *
 * Return: the address space, or NULL. The reference keeps the structure, not
 * the memory: pm_mm_read_lock() and pm_mm_write_lock() do.
 */
struct mm_struct *pm_shim_task_mm(struct task_struct *task)
{
	struct mm_struct *mm = get_task_mm(task);

	if (mm) {
		mmgrab(mm);
		mmput_async(mm);
	}
	return mm;
}

bool pm_shim_caller_is_killed(void)
{
	return fatal_signal_pending(current);
}

bool pm_shim_capable_nice(void)
{
	return capable(CAP_SYS_NICE);
}

/* Whether the caller's own cpuset lets it allocate memory of a node. */
bool pm_shim_caller_may_allocate(unsigned int nid)
{
	return nid < MAX_NUMNODES && node_isset(nid, cpuset_current_mems_allowed);
}
