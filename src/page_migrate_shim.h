/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the Rust half of page_migrate needs from the kernel and cannot reach:
 * functions that are not exported, page-table iteration, macros and inline
 * functions. The shim has no policy, and no state but sets of pages.
 */
#ifndef _PAGE_MIGRATE_SHIM_H
#define _PAGE_MIGRATE_SHIM_H

#include <linux/path.h>
#include <linux/types.h>

struct cred;
struct file;
struct folio;
struct inode;
struct list_head;
struct mm_struct;
struct mutex;
struct task_struct;

/* Facts about a VMA that the walk enters. */
#define PM_VMA_WRITE		1U	/* the mapping may be written to */
#define PM_VMA_SERVED		2U	/* a server answers for its file's pages */
#define PM_VMA_HOLDS		4U	/* its file system holds pages until they are written */

/* What tells a file from others, also from one that gets its place in memory. */
struct pm_inode {
	unsigned long at;		/* address of the inode, 0 for none */
	u64 ino;
	u32 generation;
	u32 dev;
};

/* A mapped file, held. */
struct pm_file {
	struct path path;		/* the file that the user opened */
	struct path pages;		/* the one whose pages are mapped */
	const struct cred *opener;	/* who opened it */
};

/* What a search for files has come by. */
struct pm_seen {
	bool policies;			/* VMAs with a memory policy */
	bool shmem;			/* shmem files, which may have policies */
};

/* What a helper's job may have to wait for. */
enum pm_wait {
	PM_WAIT_MARK,			/* the attributes of a file */
	PM_WAIT_WRITE,			/* the dirty pages of a file */
	PM_WAIT_POLICY,			/* a VMA, or other tasks */
};

/* And for whom; and how many helpers may do that at a time. */
struct pm_asked {
	enum pm_wait wait;
	u32 dev;			/* the file system's device, if any */
	u32 uid;			/* who opened the file */
	u32 of_device;			/* for the same device */
	u32 of_user;			/* for files of the same user */
	u32 in_all;			/* for the same kind of answer */
};

struct pm_vma {
	struct pm_inode file;		/* none for anonymous memory */
	unsigned long start;		/* its first address */
	u32 flags;			/* PM_VMA_* */
};

/* Facts about a folio, valid while its page-table lock is held. */
#define PM_FOLIO_ANON		1U	/* anonymous memory */
#define PM_FOLIO_LARGE		2U	/* more than one page */
#define PM_FOLIO_HUGETLB	4U	/* from a hugetlb pool */
#define PM_FOLIO_SHARED		8U	/* perhaps mapped by another process */
#define PM_FOLIO_PINNED		16U	/* pinned for DMA */
#define PM_FOLIO_UNMOVABLE	32U	/* can never be moved */
#define PM_FOLIO_MIGRATING	64U	/* being moved by somebody else: no folio */
#define PM_FOLIO_FREED		128U	/* isolated, and no longer in use */
#define PM_FOLIO_UNWRITTEN	256U	/* its file system has yet to write it */
#define PM_FOLIO_LISTED		512U	/* on its LRU list: not isolated */

struct pm_folio {
	struct folio *folio;		/* NULL with PM_FOLIO_MIGRATING */
	unsigned long addr;		/* of the first mapped page */
	unsigned long pfn;		/* frame of the folio's first page */
	unsigned long nr_pages;		/* pages of the folio */
	unsigned long index;		/* first mapped page, within the folio */
	unsigned long mapped;		/* pages mapped here, one after another */
	int nid;			/* node that the folio is on */
	u32 flags;			/* PM_FOLIO_* */
};

/* An isolated folio that needs a place. */
struct pm_source {
	unsigned long pfn;		/* frame of its first page */
	int nid;			/* node that it is on */
	unsigned int order;
	bool hugetlb;			/* from a pool of huge pages */
};

/* What the Rust half answers to a VMA or a folio. */
enum pm_step {
	PM_STEP_ON,			/* go on */
	PM_STEP_SKIP,			/* VMA: leave it out */
	PM_STEP_STOP,			/* stop before this one */
};

/* How a walk ended. */
enum pm_end {
	PM_END_RANGE,			/* at the end of the range */
	PM_END_STOP,			/* at @resume, as asked or to let others in */
	PM_END_FILE,			/* at @resume, since a file is not known yet */
};

/*
 * What a walk is for. Only pages on the old nodes of the call, and those that
 * somebody else is moving, are handed to the Rust half; the others are counted.
 * Where @nodes is NULL, all are handed over.
 */
struct pm_walk {
	bool share;			/* in: have shared page tables back */
	bool try_lock;			/* in: do not wait for mmap_lock */
	bool leave;			/* in: leave pages on other nodes in @only, uncounted */
	const u8 *nodes;		/* in: PM_NODE_OLD or not, for each node number */
	struct pm_set *moved;		/* in: pages in these frames have moved, or NULL */
	struct pm_set *only;		/* in: look at these pages, and take them out, or NULL */
	u64 in_place;			/* out: pages on other nodes */
	u64 already_moved;		/* out: pages in frames of @moved */
	u64 taken;			/* out: pages taken out of @only */
	unsigned long resume;		/* out: where to go on */
	struct pm_file file;		/* out: with PM_END_FILE, held */
};

/* The block of bits of a set that was used last, NULL if there was none among @nr. */
struct pm_set_cursor {
	unsigned long index;
	unsigned long *bits;
	unsigned int nr;
};

/* A flag of @nodes: pages that are found there are to move. */
#define PM_NODE_OLD		4U

/* Node facts. */
#define PM_NODE_POSSIBLE	1U	/* may exist on this machine */
#define PM_NODE_MEMORY		2U	/* has memory now */

/* Facts about a node and a task's cpuset. */
#define PM_MEMS_ALLOWED		1U	/* the task may use it */
#define PM_MEMS_KNOWN		2U	/* the root cpuset has it */

/* Ways to look for a destination. */
enum pm_effort {
	PM_EFFORT_NONE,			/* take what is free */
	PM_EFFORT_LIGHT,		/* one round of reclaim or compaction */
};

int pm_shim_bind(void);

struct pm_set *pm_shim_set_new(void);
void pm_shim_set_free(struct pm_set *set);
void pm_shim_set_clear(struct pm_set *set);
bool pm_shim_set_is_empty(const struct pm_set *set);
bool pm_shim_set_has(struct pm_set *set, unsigned long page);
unsigned long pm_shim_set_next(struct pm_set *set, unsigned long page,
			       unsigned long end);
unsigned long pm_shim_set_gap(struct pm_set *set, unsigned long page,
			      unsigned long end);
int pm_shim_set_add(struct pm_set *set, struct pm_set_cursor *at,
		    unsigned long page, unsigned long nr);
void pm_shim_set_remove(struct pm_set *set, unsigned long page, unsigned long nr);

bool pm_shim_self_ranges_only(void);

struct task_struct *pm_shim_task_by_pid(pid_t pid);
struct task_struct *pm_shim_task_by_pidfd(int pidfd);
struct task_struct *pm_shim_task_alive(struct task_struct *task,
				       const struct mm_struct *mm);
bool pm_shim_task_is_kernel(struct task_struct *task);
bool pm_shim_task_is_dead(struct task_struct *task);
int pm_shim_task_lock_exec(struct task_struct *task);
void pm_shim_task_unlock_exec(struct task_struct *task);
bool pm_shim_task_may_access(struct task_struct *task);
int pm_shim_task_may_move(struct task_struct *task);
void pm_shim_task_mems(struct task_struct *task, u8 *facts,
		       unsigned int nr_nodes);
struct mm_struct *pm_shim_task_mm(struct task_struct *task);
bool pm_shim_caller_is_killed(void);
bool pm_shim_capable_nice(void);
bool pm_shim_caller_may_allocate(unsigned int nid);

unsigned long pm_shim_mm_size(struct mm_struct *mm);
bool pm_shim_mm_is_gone(struct mm_struct *mm);
int pm_shim_mm_walk(struct mm_struct *mm, unsigned long start,
		    unsigned long end, void *sink, struct pm_walk *walk);

void pm_shim_file_inode(const struct pm_file *file, struct pm_inode *out);
void pm_shim_file_asked(const struct pm_file *file, struct pm_asked *out);
bool pm_shim_file_is_in_memory(const struct pm_file *file);
bool pm_shim_file_is_served(const struct pm_file *file);
void pm_shim_file_put(struct pm_file *file);
ssize_t pm_shim_file_xattr(const struct pm_file *file, const char *name,
			   void *value, size_t size);
void pm_shim_file_write_back(const struct pm_file *file);
int pm_shim_mm_next_file(struct mm_struct *mm, unsigned long *addr,
			 unsigned long end, unsigned long *last,
			 struct pm_file *file, struct pm_seen *seen);
int pm_shim_mm_file_at(struct mm_struct *mm, unsigned long addr,
		       struct pm_file *file);

unsigned int pm_shim_nr_nodes(void);
unsigned int pm_shim_node_state(unsigned int nid);
unsigned int pm_shim_node_distance(unsigned int from, unsigned int to);
bool pm_shim_node_has_room(unsigned int nid, unsigned long nr_pages);

void pm_shim_list_init(struct list_head *list);
bool pm_shim_list_is_empty(const struct list_head *list);
bool pm_shim_list_first(struct list_head *list, struct pm_source *out);
bool pm_shim_list_shift(struct list_head *from, struct list_head *to,
			struct pm_folio *out);
void pm_shim_list_take(struct list_head *from, unsigned long pages,
		       struct list_head *to);
void pm_shim_list_put_back(struct list_head *list);
void pm_shim_list_splice(struct list_head *from, struct list_head *to);
bool pm_shim_folio_isolate(struct folio *folio, struct list_head *list);
struct folio *pm_shim_folio_alloc(unsigned int nid, unsigned int order,
				  bool hugetlb, enum pm_effort effort);
unsigned long pm_shim_folio_alloc_some(unsigned int nid, unsigned long nr,
				       struct folio **folios);
unsigned long pm_shim_folio_pfn(struct folio *folio);
unsigned long pm_shim_folio_nr_pages(struct folio *folio);
void pm_shim_folio_put(struct folio *folio);
void pm_shim_migrate(struct list_head *list, void *mover, bool wait);
void *pm_shim_zalloc(size_t size);
void pm_shim_drain_lru(void);
void pm_shim_drain_lru_here(void);
void pm_shim_drain_free(unsigned int nid);

void pm_shim_mutex_init(struct mutex *lock);
int pm_shim_mutex_take(struct mutex *lock);
void pm_shim_mutex_give(struct mutex *lock);

struct pm_helper;
struct pm_helper *pm_shim_helper_new(const char *name);
void *pm_shim_helper_end(struct pm_helper *helper);
int pm_shim_helper_run(struct pm_helper *helper, void *job,
		       unsigned int patience, unsigned int last,
		       const struct pm_asked *asked);

int pm_shim_workers_start(void);
void pm_shim_workers_stop(void);
void pm_shim_run_on_worker(void *job);
bool pm_shim_queue_work(struct work_struct *work, int nid);
struct mem_cgroup *pm_shim_payer_get(void);
struct mem_cgroup *pm_shim_payer_set(struct mem_cgroup *memcg);
void pm_shim_payer_put(struct mem_cgroup *memcg);
unsigned int pm_shim_nr_cpus(void);

/*
 * The Rust half, called by the shim. The first two run under a page-table
 * lock: they neither sleep nor allocate.
 */
enum pm_step page_migrate_walk_vma(void *sink, const struct pm_vma *vma);
enum pm_step page_migrate_walk_folio(void *sink, const struct pm_folio *folio);
struct folio *page_migrate_new_folio(void *mover, unsigned long pfn, int nid,
				     unsigned int order, bool hugetlb);
void page_migrate_free_folio(void *mover, struct folio *dst);
void page_migrate_run(void *job);
void page_migrate_help(void *job);

#endif /* _PAGE_MIGRATE_SHIM_H */
