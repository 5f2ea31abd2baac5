/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A job as a batch manager starts it: a leader forks the other members, they
 * share a SysV segment and a tmpfs file, keep some of the leader's memory
 * copy-on-write, and have memory of their own. Which page is where is recorded
 * page by page, by move_pages(2), before and after a move.
 */
#ifndef PM_TESTS_JOB_H
#define PM_TESTS_JOB_H

#include "util.h"

struct job_shape {
	int members;
	/* Its memory lies on mem[first] to mem[first + nodes - 1]. */
	int first, nodes;
	/* Pages: shared by all, of each, and of the leader before it forks. */
	size_t shm, file, own, cow;
	/* Huge pages of the leader, and of every fourth member. */
	size_t huge;
	/* Keep its pages from being reclaimed, where nodes are small. */
	bool locked;
};

struct job {
	struct job_shape shape;
	struct child *member;
	char *shm, *file, *cow, *huge, *own;
};

void job_start(struct job *job, const struct job_shape *shape);
/* Pages whose contents are not what was written, as all members see it. */
size_t job_damage(struct job *job);
void job_end(struct job *job);

/* A page as one member sees it. */
struct job_page {
	uintptr_t va;
	uint64_t pfn;
	int node;
};

/* Every present page of every member: those of member m begin at first[m]. */
struct job_record {
	struct job_page *page;
	size_t n, *first;
};

void job_look(const struct job *job, struct job_record *rec);
void job_forget(struct job_record *rec);

struct job_map {
	int count;
	int old[MAX_NODES], new[MAX_NODES];
};

/* mem[first + i] to mem[first + i + by] for count nodes. */
void job_map_shift(struct job_map *map, int first, int count, int by);
/* The count nodes from mem[first] on, each to the next, the last to the first. */
void job_map_circle(struct job_map *map, int first, int count);
int job_map_of(const struct job_map *map, int node);

/* Pages that are not on the node that the map gives for where they were. */
size_t job_wrong(const struct job_record *before, const struct job_record *after,
		 const struct job_map *map);
/*
 * Pages that were on an old node of the map in the first record, and are not there in
 * the last, after the job has moved by the map and back. Members may have touched more
 * pages by then.
 */
size_t job_not_home(const struct job *job, const struct job_record *first,
		    const struct job_record *last, const struct job_map *map);
/*
 * Pages of memory that have to move: each counts once, however often it is
 * mapped. A large folio moves whole, so all of it counts.
 */
size_t job_must_move(const struct job_record *rec, const struct job_map *map);
/* Pages of memory on each node. */
void job_on_nodes(const struct job_record *rec, size_t *on);

/*
 * One call for each member. Returns the first error, else what all calls
 * together left behind.
 */
long job_move(const struct job *job, int fd, const struct job_map *map, unsigned int flags,
	      struct page_migrate_result *each);
/* The same with migrate_pages(2). */
void job_move_by_syscall(const struct job *job, const struct job_map *map);

/* Nothing but the test is to move pages in this machine. */
void job_quiet_machine(void);

struct job_play {
	struct job_map map;
	/* Pages on each node: before, as the map says, and after either. */
	size_t before[MAX_NODES], wanted[MAX_NODES], ours[MAX_NODES];
	size_t sys_before[MAX_NODES], syscall[MAX_NODES];
	/* Mappings, and how many of them are wrong. */
	size_t mappings, wrong, sys_mappings, sys_wrong;
	/* Pages that had to move, and that the kernel says were moved. */
	size_t must_move, migrated, sys_must_move, sys_migrated;
	size_t damage;
	double seconds, sys_seconds;
};

/* The syscall's turn of a play, on a job of its own. */
void job_play_syscall(struct job_play *play, const struct job_shape *shape);
/* The module's, on a running job. each: one result for each member. */
long job_play_module(struct job_play *play, struct job *job, int fd, unsigned int flags,
		     struct page_migrate_result *each);
/* What became of it, one line a node. Lines begin with prefix. */
void job_picture(const struct job_play *play, FILE *out, const char *prefix);

#endif
