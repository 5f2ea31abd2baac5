/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs that measure share: options, the nodes of the machine, targets, the
 * three contestants, and the lines that they print.
 *
 * Only libc and system calls, linked statically, so that the programs also run on a
 * machine that has neither the build root nor its libraries.
 *
 * A line is "CASE,PARAMETERS,CONTESTANT,ROUND,PAGES,VALUE,UNIT". PARAMETERS are KEY=VALUE,
 * with a blank between two. VALUE is for the whole call, not for each page. What cannot
 * be measured on a machine is told by a line "# CASE,PARAMETERS: REASON".
 */
#ifndef PM_BENCH_H
#define PM_BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <linux/page_migrate.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define MAX_NODES 1024
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Who does the work. The profile keeps them apart by these numbers. */
enum contestant { IDLE, OURS, MIGRATE_PAGES, MOVE_PAGES, NR_CONTESTANTS };
extern const char *const contestant_names[NR_CONTESTANTS];

/* Options of every program, see bench_begin(). */
extern int rounds;		/* how often each contestant is measured */
extern size_t mib;		/* the most memory that a case may use; 0: the case's own choice */
extern const char *only;	/* run cases whose "CASE,PARAMETERS" contains this; NULL: all */
extern bool quick;		/* the few cases that scripts/bench --quick compares */

/* Reads options, finds the nodes, opens what is needed. To be called first. */
void bench_begin(int argc, char **argv);
/* Ends the program with a message and errno. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * Cases.
 */
/* Sets the name of what is measured next. False: --only leaves it out. */
bool case_begin(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Tells why it is not measured. */
void case_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints a line. A time is in nanoseconds, or in instructions if the clock counts these. */
void print_time(enum contestant c, int round, size_t pages, uint64_t value);
void print_count(enum contestant c, int round, size_t pages, uint64_t value, const char *unit);

/* Nanoseconds of a clock that only goes on. */
uint64_t now(void);

/*
 * Nodes with memory, in ascending order.
 */
extern int nr_mem;
extern int mem[MAX_NODES];
extern int home;		/* the node of this CPU: where targets have all else */

/* Pages of a node that are free now. */
size_t node_free(int node);
/* The policy of this thread is to take memory of that node alone; -1: no policy. */
void bind_to(int node);

/* Node lists: pages on from[i] are to be on to[i]. */
struct pairs {
	int n;
	int from[MAX_NODES], to[MAX_NODES];
};

/*
 * Finds n pairs of different nodes, each with room for that many pages, home only if
 * there are too few others. False: the machine has too few.
 */
bool pairs_find(struct pairs *p, int n, size_t pages);
/* The way back. */
void pairs_turn(struct pairs *p);

/*
 * Memory. All of it lies at the same address in each target: the arena, which the
 * programs reserve before they make targets.
 */
enum kind { ANON, MEMFD, DISK, THP, NR_KINDS };
extern const char *const kind_names[NR_KINDS];
extern char *arena;
#define ARENA_SIZE (8UL << 30)

/*
 * In a target: maps npages at the arena's offset and places page i (huge page i, for THP)
 * on nodes[i % n]. fd is a file of arena_file(), or -1 for memory that has none.
 */
void arena_map(size_t offset, size_t npages, enum kind kind, int fd, const int *nodes, int n);
/* An empty file of that kind; -1 where the kind has none. -2: this machine cannot. */
int arena_file(enum kind kind, const char *name);
/* How many of these pages are on one of the nodes. */
size_t arena_count(pid_t pid, size_t offset, size_t npages, const int *nodes, int n);

/*
 * Targets: processes that run fn(arg), tell that they are ready by returning from it,
 * and then wait to be ended. They die with their parent.
 */
struct target {
	pid_t pid;
	int pipe;
};

void target_start(struct target *t, void (*fn)(void *arg), void *arg);
void target_end(struct target *t);

/*
 * The contestants. Each call measures itself and returns nanoseconds; it ends the program
 * when it fails.
 */
/* One ioctl for a range; len ~0UL with va 0 is the whole process. */
uint64_t call_ours(int fd, pid_t pid, const void *va, size_t len, const struct pairs *p);
/* The same with all of the request and the result. */
uint64_t call_request(int fd, struct page_migrate_request *req);
struct page_migrate_request request_of(pid_t pid, const void *va, size_t len,
				       const struct pairs *p);
/* migrate_pages(2) once for each pair, as a user would have to. */
uint64_t call_migrate_pages(pid_t pid, const struct pairs *p);
/* move_pages(2): asks where the pages are, and moves those on the old nodes. */
uint64_t call_move_pages(pid_t pid, const void *va, size_t npages, size_t step,
			 const struct pairs *p);
/* The device; a new job for each. */
int device_open(void);
/* One call on a new open file for the whole process, with so many workers (0: its choice). */
uint64_t call_new_job(pid_t pid, const struct pairs *p, unsigned int workers);
/* The largest number of workers that a request may name. */
unsigned int max_workers(void);

/* What the profiler counts. A round that is not counted is none of its business. */
void profile_begin(enum contestant c);
void profile_end(void);
extern bool warm_up;

/* Pins this thread to a CPU, by its place among those that the program may use. */
void pin_to(int i);
/* How many CPUs the program may use. */
int cpus(void);
/* Pages of so many MiB, or of --mib if that is less. */
size_t pages_of(size_t wanted_mib);
/* Ends what is wrong with a case: fewer than 99 of 100 pages are where they should be. */
size_t expect_moved(enum contestant c, size_t there, size_t all);

/* A number of a file such as /proc/vmstat, behind a name. */
long number_in(const char *path, const char *name);
/* Brings in what each CPU has counted for itself. */
void counters_refresh(void);
/* Pages that are isolated now, exact. */
long isolated(void);
/*
 * Calls of the kernel's migrate_pages() for system calls, between begin (false: this
 * kernel cannot tell) and end.
 */
bool batches_begin(void);
long batches(void);
void batches_end(void);

#endif
