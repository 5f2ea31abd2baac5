/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What all test programs share: the nodes of the machine, calls of the device,
 * placed memory, and ways to look at pages from outside the module.
 *
 * A helper that meets something that no test expects (no device, no memory
 * node) ends the program: a test that cannot do its work must not pass.
 */
#ifndef PM_TESTS_UTIL_H
#define PM_TESTS_UTIL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
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

#define PM_DEVICE "/dev/page_migrate"
#define MAX_NODES 1024
#define PAGE 4096UL
#define HPAGE (2UL << 20)
#define HPAGE_NR (HPAGE / PAGE)
#define NOBODY 65534
#define ANY PAGE_MIGRATE_NODE_ANY
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Ends the program with a message and errno. */
/* False: the kernel knows no transparent huge pages (PREEMPT_RT). */
bool has_thp(void);
/* madvise(2); what it says about huge pages is true where there are none. */
int advise(void *addr, size_t len, int advice);
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * Nodes.
 * mem[0..nr_mem-1]: nodes with memory, ascending, gaps possible.
 */
extern int nr_mem;
extern int mem[MAX_NODES];

/* The machine's nr_node_ids: one more than the highest possible node. */
int nr_node_ids(void);
/* Whether a node is in /sys/devices/system/node/FILE. */
bool node_in(const char *file, int node);
/* A node below nr_node_ids() without memory, or -1. */
int node_without_memory(void);
/* Distance from sysfs; 255 if it cannot be read. */
int node_distance_of(int from, int to);
/* Free pages of a node, per-CPU lists not included. */
long node_free(int node);
/* The same with them: slower, for what must not be lost. */
long node_free_all(int node);
/* Sum of a watermark, "min", "low" or "high", of the zones of a node. */
long node_watermark(int node, const char *which);
/* What of a node is free, and what keeps it, to tell why a move found no room. */
void zones_print(int node);
/* Makes free memory that hides on the lists of the CPUs free for all. */
void cpu_lists_drain(void);

/* The device. pm_* return what the call returns, or -errno. */
int pm_open(void);
long pm_ioctl(int fd, unsigned long nr, void *arg);
/*
 * A request without flags. The environment variable PAGE_MIGRATE_WORKERS says how many
 * workers it asks for; without it the kernel chooses.
 */
struct page_migrate_request pm_req(pid_t pid, const void *va, size_t len,
				   int count, const int *old, const int *new);
long pm_migrate(int fd, struct page_migrate_request *req);
/* One call for the common case; flags as in the header; res may be NULL. */
long pm_move(int fd, pid_t pid, const void *va, size_t len, unsigned int flags,
	     int count, const int *old, const int *new,
	     struct page_migrate_result *res);
/* Fills pages[0..MAX_NODES-1]. */
long pm_placement(int fd, pid_t pid, const void *va, size_t len, uint64_t *pages);
/* Poison for a result that a call must not write. */
void pm_poison(struct page_migrate_result *res);
bool pm_is_poison(const struct page_migrate_result *res);
/* Sum of the page counts of a result. */
uint64_t pm_sum(const struct page_migrate_result *res);
/* shared + busy + pinned + unmovable: what a call returns when it is > 0. */
uint64_t pm_left(const struct page_migrate_result *res);
void pm_print(const struct page_migrate_result *res);

/*
 * Placed memory. All mappings are without THP unless the name says so.
 */
/* The policy of this thread; node -1 takes it back. */
void bind_to(int node);
/* Writes to each page of a mapping, page i while bound to nodes[i % n]. */
void place_pages(void *addr, size_t npages, const int *nodes, int n);
/* Private anonymous mapping, page i on nodes[i % n]. Checks the placement. */
void *map_nodes(size_t npages, const int *nodes, int n);
void *map_node(size_t npages, int node);
/* Anonymous THPs, or as many small pages without has_thp(), on a node. Aligned. */
void *map_thp(size_t nhuge, int node);
/* Different contents for each page and seed. */
void fill(void *addr, size_t npages, unsigned int seed);
/* Whether page i of such memory does not hold what fill() wrote. */
bool page_is_bad(const void *page, size_t i, unsigned int seed);
/* Number of such pages. */
size_t bad_pages(const void *addr, size_t npages, unsigned int seed);

/*
 * Looking from outside.
 */
/* Nodes of pages, by move_pages(2); -errno where there is no page. */
void nodes_of(pid_t pid, const void *addr, size_t npages, int *nodes);
int node_of(const void *addr);
int node_of_pid(pid_t pid, const void *addr);
size_t count_on(pid_t pid, const void *addr, size_t npages, int node);
/* Whether page i is on nodes[i % n], for each page; says which is not. */
bool all_on(pid_t pid, const void *addr, size_t npages, const int *nodes, int n);
/* Raw pagemap entry and frame (0 = none) of a page. */
uint64_t pagemap_of(pid_t pid, const void *addr);
uint64_t pfn_of(const void *addr);
uint64_t pfn_of_pid(pid_t pid, const void *addr);
/* The line of numa_maps of the mapping that begins at addr. */
bool numa_maps_line(pid_t pid, const void *addr, char *buf, size_t size);
/* Its count for a node (in pages of the mapping's size), 0 if none. */
long numa_maps_pages(pid_t pid, const void *addr, int node);
/* A field of smaps in kB ("AnonHugePages") of the mapping that holds addr. */
long smaps_kb(pid_t pid, const void *addr, const char *field);
/* nr_isolated_anon + nr_isolated_file: what stays isolated for a second. */
long nr_isolated(void);
/* A counter of /proc/vmstat, exact; -1 if there is none. */
long vmstat(const char *name);
/*
 * Pages that system calls, this module's among them, have moved since the first
 * time that somebody asked. What compaction moves is not in it.
 */
long migrated(void);

#define TRACING "/sys/kernel/tracing"
void tracefs_mount(void);

/*
 * Files of /proc and /sys.
 */
/* Both return 0 or -errno. */
int file_write(const char *path, const char *text);
int file_read(const char *path, char *buf, size_t size);

/* Seconds of a clock that only goes on. */
double now(void);
/* How many times longer things may take than on a stock kernel. */
int patience(void);

/*
 * Processes.
 */
/* Gives up root for good in this process. */
void drop_to(uid_t uid);
/* Gives up one capability of the effective, permitted and bounding sets. */
void drop_cap(int cap);

/* A number of /proc/PID/fdinfo/FD, such as that behind "moved:". */
uint64_t fdinfo(pid_t pid, int fd, const char *key);

struct killer {
	pid_t pid;
	int fd;
	long after_us;
};

/*
 * For a thread: kills a process after some time, or, where that is negative, as
 * soon as the first pages of a call on fd have moved.
 */
void *kill_in_call(void *killer);

struct child {
	pid_t pid;
	int in, out;	/* own ends, on both sides */
	long taken;	/* pages that a hog has taken */
	int node;	/* of a hog */
};

/*
 * Starts a child that runs fn(c, arg) and then waits until it is ended.
 * Both sides talk with child_put() and child_get(). The child dies with its
 * parent. child_end() ends and reaps it.
 */
void child_start(struct child *c, void (*fn)(struct child *c, void *arg), void *arg);
void child_put(struct child *c, uint64_t value);
uint64_t child_get(struct child *c);
void child_end(struct child *c);

/*
 * A child that makes a SIGUSR1 wait at the beginning of each ioctl of the calling
 * thread, which must have a handler for it, until child_end(). Thus each call begins
 * with a signal pending, however fast the machine is.
 */
void interrupter_start(struct child *c);

/*
 * A child that takes all free memory of a node, down to where the kernel
 * refuses to move a page there. hog_release() gives about npages back.
 * hog_scatter() gives up to 12288 pages back, once, no two of them neighbours, and
 * locks the rest in memory: where compaction leaves locked pages alone, no large room
 * comes of them. When child_end() returns, its memory is free again.
 */
void hog_start(struct child *c, int node);
void hog_release(struct child *c, size_t npages);
void hog_scatter(struct child *c, size_t npages);

/*
 * The module's own life. PM_KO names its file; without it, it is looked for
 * beside the folder of the programs.
 */
int module_open(void);
/* Both return 0 or -errno. */
long module_load(const char *params);
long module_unload(void);
bool module_loaded(void);
/*
 * Threads of the kernel in which the module reads marks, as /proc has them, and whether
 * there are so many of them within that time (in milliseconds).
 */
int readers(void);
bool readers_become(int n, int ms);
/* Waits for the device to come or to go: udev or devtmpfs takes a moment. */
bool device_comes(bool there);

/* A cgroup (v2) with its own cpuset.mems. Path is kept in cg. */
struct cg {
	char path[256];
};

void cg_make(struct cg *cg, const char *name, const char *mems);
/* 0 or -errno. */
int cg_set(struct cg *cg, const char *file, const char *text);
void cg_enter(struct cg *cg, pid_t pid);
/* Moves a process back to the root cgroup. */
void cg_leave(pid_t pid);
void cg_remove(struct cg *cg);

#endif
