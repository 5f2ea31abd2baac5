// SPDX-License-Identifier: GPL-2.0
/*
 * Memory policies of VMAs, of threads and of shmem files: found, locked, shown
 * to the Rust half, and written back so that no reader ever sees an empty mask.
 *
 * Locking, as mbind(2) and cpusets do it: policies of VMAs change under
 * mmap_lock for writing with the VMA write-locked; policies of threads under
 * task_lock and mems_allowed_seq, in place, since their threads use them
 * without a reference; policies of files are replaced by changed copies under
 * the lock of their tree, since readers hold references to them.
 */
#include <linux/cpuset.h>
#include <linux/fs.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/path.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>

#include "shim.h"

/* VMAs to look at before others get mmap_lock. */
#define PM_POLICY_VMAS	256

/* Threads to look at before RCU goes on, and how often to start again. */
#define PM_POLICY_THREADS	256
#define PM_POLICY_RESTARTS	64

/* Policies of a file to look at in one hold of their lock. */
#define PM_POLICY_NODES	32

/*
 * A policy that a job has rewritten carries the job's cookie in @rcu, which
 * nothing else uses while the policy lives, and a free bit in @flags that says
 * so. Both are copied with the policy, so that a copy made by fork(2), or when
 * a VMA is split, is known to be rewritten, too.
 */
#define PM_POLICY_MARK	BIT(12)

static_assert(!(PM_POLICY_MARK & (MPOL_MODE_FLAGS | MPOL_F_SHARED | MPOL_F_MOF |
				  MPOL_F_MORON)));

/*
 * A marked policy that is staged, that is, has its new nodes in lower words and
 * still its old ones in higher words, says in @rcu where those begin. That is
 * never the first word. A thread that is created then has a copy, which is staged, too.
 */
static unsigned long pm_policy_stage(const struct mempolicy *pol)
{
	return pol->flags & PM_POLICY_MARK ? (unsigned long)pol->rcu.func : 0;
}

static bool pm_policy_is_done(const struct mempolicy *pol,
			      const struct pm_policy_pass *pass)
{
	return !pol || pol->mode == MPOL_LOCAL ||
	       ((pol->flags & PM_POLICY_MARK) &&
		(unsigned long)pol->rcu.next == pass->cookie);
}

/*
 * Readers may look at @mask at any time, words upwards: they must always find
 * a node in it.
 */
static void pm_nodes_assign(nodemask_t *mask, const unsigned long *nodes)
{
	unsigned int i, words = BITS_TO_LONGS(nr_node_ids);

	for (i = 0; words > 1 && i < words; i++)
		WRITE_ONCE(mask->bits[i], mask->bits[i] | nodes[i]);
	smp_wmb(); /* the new nodes are there before the old ones go */
	for (i = 0; i < words; i++)
		WRITE_ONCE(mask->bits[i], nodes[i]);
}

/*
 * A thread looks its own policy's nodes up without a lock, and, while there is
 * no cpuset but the root, without a sequence count: MPOL_PREFERRED and the modes
 * that interleave trust that there is a node. A reader that has passed the last
 * word with new nodes already must still find an old one in a later word.
 */
static bool pm_policy_needs_stage(const struct mempolicy *pol,
				  const unsigned long *nodes)
{
	return (pol->mode == MPOL_PREFERRED || pol->mode == MPOL_INTERLEAVE ||
		pol->mode == MPOL_WEIGHTED_INTERLEAVE) &&
	       find_last_bit(nodes, nr_node_ids) / BITS_PER_LONG <
	       first_node(pol->nodes) / BITS_PER_LONG;
}

/*
 * Drop the old nodes of a staged policy. A change of the cpuset may have given
 * it others since it was staged: it is not left without any.
 */
static void pm_policy_finish(struct mempolicy *pol)
{
	unsigned long i = pm_policy_stage(pol);

	if (find_first_bit(pol->nodes.bits, i * BITS_PER_LONG) < i * BITS_PER_LONG)
		for (; i < PM_NODE_WORDS; i++)
			WRITE_ONCE(pol->nodes.bits[i], 0);
	pol->rcu.func = NULL;
}

/* What a policy is to become. Return: whether that is something else. */
static bool pm_policy_plan(const struct mempolicy *pol,
			   const struct pm_policy_pass *pass,
			   struct pm_policy *new)
{
	*new = (struct pm_policy){ .home_node = pol->home_node };
	memcpy(new->nodes, pol->nodes.bits, sizeof(pol->nodes.bits));
	if (pol->flags & MPOL_F_STATIC_NODES)
		memcpy(new->user_nodes, pol->w.user_nodemask.bits,
		       sizeof(pol->w.user_nodemask.bits));
	return page_migrate_edit_policy(pass->editor, new);
}

static void pm_policy_write(struct mempolicy *pol, struct pm_policy *new,
			    const struct pm_policy_pass *pass, bool stage)
{
	unsigned long old_from = 0;
	unsigned int i;

	WRITE_ONCE(pol->home_node, new->home_node);
	if (stage) {
		old_from = first_node(pol->nodes) / BITS_PER_LONG;
		for (i = 0; i < PM_NODE_WORDS; i++)
			WRITE_ONCE(pol->nodes.bits[i],
				   pol->nodes.bits[i] | new->nodes[i]);
	} else {
		pm_nodes_assign(&pol->nodes, new->nodes);
	}
	/*
	 * What the user asked for must move along, or the next cpuset change
	 * brings it back. Without such flags the kernel remaps nodes by their
	 * rank in the cpuset's old nodes; those that are not there stay.
	 */
	if (pol->flags & MPOL_F_STATIC_NODES)
		pm_nodes_assign(&pol->w.user_nodemask, new->user_nodes);
	else if (!(pol->flags & MPOL_F_RELATIVE_NODES) && pass->detach)
		nodes_clear(pol->w.cpuset_mems_allowed);
	pol->rcu.next = (void *)pass->cookie;
	pol->rcu.func = (void *)old_from;
	WRITE_ONCE(pol->flags, pol->flags | PM_POLICY_MARK);
}

/* For a policy that nobody reads without a lock or a reference. */
static bool pm_policy_edit(struct mempolicy *pol,
			   const struct pm_policy_pass *pass)
{
	struct pm_policy new;
	bool changed = pm_policy_plan(pol, pass, &new);

	if (!pass->dry_run)
		pm_policy_write(pol, &new, pass, false);
	return changed;
}

/*
 * The next VMA wholly inside the range, or NULL. @vmi has come to *@at, which then is
 * behind the VMA, or @end.
 */
static struct vm_area_struct *pm_vma_inside(struct vma_iterator *vmi,
					    unsigned long start,
					    unsigned long end,
					    unsigned long *at)
{
	struct vm_area_struct *vma;

	for_each_vma_range(*vmi, vma, end) {
		*at = vma->vm_end;
		if (vma->vm_start >= start && vma->vm_end <= end)
			return vma;
	}
	*at = end;
	return NULL;
}

/**
 * pm_shim_policy_vma_ahead() - look for a policy in a bounded number of VMAs
 * @mm: address space
 * @start: first address of the range
 * @end: address after its last
 * @pass: what is to be done
 * @at: in and out: where to go on. It never becomes less, also where a VMA
 *	begins before it: a target that changes its VMAs must not keep us forever
 *
 * Return: 1 if the VMA at *@at or the next one has a policy that is not done, 0
 * if there is none up to *@at, -ESRCH if the address space is no longer in use,
 * or -EINTR if a signal came.
 */
long pm_shim_policy_vma_ahead(struct mm_struct *mm, unsigned long start,
			      unsigned long end,
			      const struct pm_policy_pass *pass,
			      unsigned long *at)
{
	VMA_ITERATOR(vmi, mm, *at);
	struct vm_area_struct *vma;
	unsigned long here = *at;
	int found, seen = 0;

	found = pm_mm_read_lock(mm);
	if (found)
		return found;
	while (!found && seen++ < PM_POLICY_VMAS) {
		*at = here;
		vma = pm_vma_inside(&vmi, start, end, &here);
		if (!vma) {
			*at = end;
			break;
		}
		found = !pm_policy_is_done(vma->vm_policy, pass);
	}
	pm_mm_read_unlock(mm);
	return found;
}

/**
 * pm_shim_policy_vmas() - rewrite policies of the VMAs wholly inside a range
 * @mm: address space
 * @start: first address of the range
 * @end: address after its last
 * @pass: what to do
 * @resume: in and out: where to go on; @end when all is done
 *
 * Looks at a bounded number of VMAs. Stops every page fault and waits for those
 * that are at work in a VMA with a policy; only a kill ends that, and leaves out
 * the VMA that was waited for. In a dry run it does neither.
 *
 * Return: the number of policies that changed, -ESRCH if the address space is no
 * longer in use, or -EINTR if the caller is being killed.
 */
long pm_shim_policy_vmas(struct mm_struct *mm, unsigned long start,
			 unsigned long end, struct pm_policy_pass *pass,
			 unsigned long *resume)
{
	VMA_ITERATOR(vmi, mm, *resume);
	struct vm_area_struct *vma;
	long changed = 0;
	int seen, err;

	err = pass->dry_run ? pm_mm_read_lock(mm) : pm_mm_write_lock(mm);
	if (err)
		return err;
	for (seen = 0; seen < PM_POLICY_VMAS; seen++) {
		vma = pm_vma_inside(&vmi, start, end, resume);
		if (!vma)
			break;
		if (pm_policy_is_done(vma->vm_policy, pass))
			continue;
		/* A page fault holds a VMA for as long as its file system takes. */
		if (!pass->dry_run && vma_start_write_killable(vma))
			break;
		changed += pm_policy_edit(vma->vm_policy, pass);
	}
	if (pass->dry_run)
		pm_mm_read_unlock(mm);
	else
		pm_mm_write_unlock(mm);
	return changed;
}

/*
 * The policies of threads are rewritten in up to three rounds. The last two
 * follow only where policies must be staged, with the lock below held.
 */
enum pm_round {
	PM_ROUND_PLAIN,		/* those that need no stage */
	PM_ROUND_STAGE,		/* the others: new nodes in, old ones still there */
	PM_ROUND_FINISH,	/* old ones out: nobody looks for them any more */
};

/* What is staged is staged by its holder, or a copy that was never in use. */
static DEFINE_MUTEX(pm_stage_lock);

/* Return: whether the policy changed. */
static bool pm_policy_of_task(struct mempolicy *pol, enum pm_round round,
			      struct pm_policy_pass *pass)
{
	struct pm_policy new;
	bool changed, stage;

	if (pm_policy_stage(pol)) {
		if (round == PM_ROUND_PLAIN) {
			pass->staged = true;
			return false;
		}
		pm_policy_finish(pol);
	}
	if (round == PM_ROUND_FINISH || pm_policy_is_done(pol, pass))
		return false;
	changed = pm_policy_plan(pol, pass, &new);
	if (pass->dry_run)
		return changed;
	stage = pm_policy_needs_stage(pol, new.nodes);
	if (stage) {
		pass->staged = true;
		if (round == PM_ROUND_PLAIN)
			return false;
	}
	pm_policy_write(pol, &new, pass, stage);
	return changed;
}

static bool pm_policy_thread(struct task_struct *thread, struct mm_struct *mm,
			     struct pm_policy_pass *pass, enum pm_round round)
{
	struct mempolicy *pol;
	bool changed = false;

	task_lock(thread);
	pol = thread->mempolicy;
	/*
	 * It may have executed another program by now, which is none of ours,
	 * but for what we have begun.
	 */
	if (pol && (thread->mm == mm || round == PM_ROUND_FINISH)) {
		local_irq_disable();
		if (!pass->dry_run)
			write_seqcount_begin(&thread->mems_allowed_seq);
		changed = pm_policy_of_task(pol, round, pass);
		if (!pass->dry_run)
			write_seqcount_end(&thread->mems_allowed_seq);
		local_irq_enable();
	}
	task_unlock(thread);
	return changed;
}

/*
 * A process may have tens of thousands of threads. Between two lots of them the
 * caller may be killed, and RCU goes on. If the thread at which to go on has
 * exited by then, the rest is found from the first one again: in a dry run that
 * would count policies twice, so there the walk ends.
 *
 * Return: the number of policies that changed, or -EINTR.
 */
static long pm_policy_threads(struct task_struct *task, struct mm_struct *mm,
			      struct pm_policy_pass *pass, enum pm_round round)
{
	struct task_struct *thread;
	unsigned int seen = 0;
	unsigned int restarts = 0;
	bool again, killed = false;
	long changed = 0;

	pass->staged = false;
restart:
	again = false;
	rcu_read_lock();
	for_each_thread(task, thread) {
		changed += pm_policy_thread(thread, mm, pass, round);
		if (++seen % PM_POLICY_THREADS)
			continue;
		get_task_struct(thread);
		rcu_read_unlock();
		cond_resched();
		rcu_read_lock();
		again = !pid_alive(thread);
		put_task_struct(thread);
		/* What has been staged must be finished. */
		killed = round == PM_ROUND_PLAIN && fatal_signal_pending(current);
		if (again || killed)
			break;
	}
	rcu_read_unlock();
	if (killed)
		return -EINTR;
	if (again && !pass->dry_run && restarts++ < PM_POLICY_RESTARTS)
		goto restart;
	return changed;
}

/**
 * pm_shim_policy_tasks() - rewrite the policies of all threads of a process
 * @task: any of its threads
 * @mm: its address space
 * @pass: what to do
 *
 * Leaves out those that must be staged, and says so in @pass.
 *
 * Return: the number of policies that changed, or -EINTR if the caller is being
 * killed.
 */
long pm_shim_policy_tasks(struct task_struct *task, struct mm_struct *mm,
			  struct pm_policy_pass *pass)
{
	return pm_policy_threads(task, mm, pass, PM_ROUND_PLAIN);
}

/**
 * pm_shim_policy_tasks_staged() - rewrite those that were left out
 * @task: any thread of the process
 * @mm: its address space
 * @pass: what to do
 *
 * Waits for every task to pass through the scheduler, which nothing ends.
 *
 * Return: the number of policies that changed, or -EINTR if the caller is being
 * killed.
 */
long pm_shim_policy_tasks_staged(struct task_struct *task, struct mm_struct *mm,
				 struct pm_policy_pass *pass)
{
	long changed;

	if (mutex_lock_killable(&pm_stage_lock))
		return -EINTR;
	changed = pm_policy_threads(task, mm, pass, PM_ROUND_STAGE);
	if (pass->staged) {
		synchronize_rcu_tasks();
		pm_policy_threads(task, mm, pass, PM_ROUND_FINISH);
	}
	mutex_unlock(&pm_stage_lock);
	return changed;
}

static struct shared_policy *pm_file_policies(struct inode *inode)
{
	return &SHMEM_I(inode)->policy;
}

/**
 * pm_shim_policy_next_file() - find a shmem file with policies in a range
 * @mm: address space
 * @start: first address of the range
 * @end: address after its last
 * @resume: in and out: where to go on; @end when all is done
 * @file: out: held, or empty
 *
 * Return: 0, -ESRCH if the address space is no longer in use, or -EINTR if the
 * caller is being killed.
 */
int pm_shim_policy_next_file(struct mm_struct *mm, unsigned long start,
			     unsigned long end, unsigned long *resume,
			     struct pm_file *file)
{
	VMA_ITERATOR(vmi, mm, *resume);
	struct vm_area_struct *vma;
	struct file *mapped;
	int seen, err;

	*file = (struct pm_file){};
	err = pm_mm_read_lock(mm);
	if (err)
		return err;
	for (seen = 0; seen < PM_POLICY_VMAS; seen++) {
		vma = pm_vma_inside(&vmi, start, end, resume);
		if (!vma)
			break;
		mapped = vma->vm_file;
		if (!mapped || !shmem_mapping(mapped->f_mapping) ||
		    RB_EMPTY_ROOT(&pm_file_policies(file_inode(mapped))->root))
			continue;
		pm_file_get(mapped, file);
		break;
	}
	pm_mm_read_unlock(mm);
	return 0;
}

/* The policy of a file at @start or the next one after it, or NULL. */
static struct sp_node *pm_policy_from(struct shared_policy *tree, pgoff_t start)
{
	struct rb_node *at = tree->root.rb_node;
	struct sp_node *found = NULL;

	while (at) {
		struct sp_node *node = rb_entry(at, struct sp_node, nd);

		if (node->start >= start)
			found = node;
		at = node->start < start ? at->rb_right : at->rb_left;
	}
	return found;
}

static struct sp_node *pm_policy_after(struct sp_node *node)
{
	struct rb_node *next = rb_next(&node->nd);

	return next ? rb_entry(next, struct sp_node, nd) : NULL;
}

/*
 * Looks at a bounded number of policies from @from on: how many are not done
 * yet. @end: out: where the next ones begin, or ULONG_MAX. Counts changes in a
 * dry run.
 */
static unsigned int pm_policies_open(struct shared_policy *tree, pgoff_t from,
				     pgoff_t *end, struct pm_policy_pass *pass,
				     long *changed)
{
	unsigned int open = 0, seen = 0;
	struct sp_node *node;

	read_lock(&tree->lock);
	for (node = pm_policy_from(tree, from); node && seen < PM_POLICY_NODES;
	     node = pm_policy_after(node), seen++) {
		if (pm_policy_is_done(node->policy, pass))
			continue;
		open++;
		if (pass->dry_run)
			*changed += pm_policy_edit(node->policy, pass);
	}
	*end = node ? node->start : ULONG_MAX;
	read_unlock(&tree->lock);
	return open;
}

/**
 * pm_shim_policy_file() - rewrite policies of a shmem file
 * @file: the file, held
 * @pass: what to do
 * @resume: in and out: the page of the file to go on from; ULONG_MAX when all
 *	is done
 *
 * Looks at a bounded number of policies.
 *
 * Return: the number of policies that changed, or -ENOMEM.
 */
long pm_shim_policy_file(const struct pm_file *file, struct pm_policy_pass *pass,
			 unsigned long *resume)
{
	struct shared_policy *tree = pm_file_policies(d_inode(file->pages.dentry));
	struct mempolicy *copies[PM_POLICY_NODES];
	unsigned int open, made, used = 0;
	struct sp_node *node;
	long changed = 0;
	pgoff_t end;

	open = pm_policies_open(tree, *resume, &end, pass, &changed);
	if (pass->dry_run || !open)
		goto out;
	for (made = 0; made < open; made++) {
		copies[made] = kmalloc_obj(**copies);
		if (!copies[made])
			break;
	}
	if (made < open) {
		while (made--)
			kfree(copies[made]);
		return -ENOMEM;
	}
	write_lock(&tree->lock);
	for (node = pm_policy_from(tree, *resume);
	     node && node->start < end && used < made;
	     node = pm_policy_after(node)) {
		struct mempolicy *old = node->policy, *new = copies[used];

		if (pm_policy_is_done(old, pass))
			continue;
		*new = *old;
		atomic_set(&new->refcnt, 1);
		changed += pm_policy_edit(new, pass);
		node->policy = new;
		copies[used++] = old;
	}
	/* Others may have come in between. */
	if (node && node->start < end)
		end = node->start;
	write_unlock(&tree->lock);
	while (made-- > used)
		kfree(copies[made]);
	while (used--)
		pm_call(__mpol_put)(copies[used]);
out:
	*resume = end;
	return changed;
}

/* A number that no other job has. */
unsigned long pm_shim_policy_cookie(void)
{
	return get_random_long() | 1;
}
