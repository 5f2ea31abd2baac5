// SPDX-License-Identifier: GPL-2.0
/*
 * Programs that allocate all the time: after at most three calls for each of
 * their processes nothing of them is on the old nodes, and nothing comes back.
 */
#include "harness.h"
#include "mem_util.h"

#include <dirent.h>
#include <numa.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#define OLD ((const int[]){ mem[0], mem[1] })
#define NEW ((const int[]){ mem[2], mem[3] })

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* What the threads of the target do. */
enum { COUNT, FAULT, BOUND, REMAP, HUGE_PAGES, SPAWN, FORK, KINDS };

enum {
	STATIC = 3000,		/* pages that are there from the beginning */
	BLOCK = 64,		/* pages that are written and compared at a time */
	CHILDREN = 3,		/* that live at the same time */
	CHILD_TURNS = 20,
	WARM = 600,		/* steps of a thread that is at work */
	CALLS = 3,
	RETRIES = 10,
	MAX_PIDS = 64,
};

#define MS 1000000LL
#define LONG_CALL (3000 * MS * patience())
#define MAX_PAUSE (5000 * MS * patience())

/* What the target tells the test, in memory that they share. */
struct board {
	atomic_bool end;
	atomic_ulong steps[KINDS], damage;
	atomic_llong longest;	/* pause of COUNT in ns */
	bool policies;
};

struct worker {
	struct board *b;
	int kind;
	char *p, *other;
	unsigned int seed;
	pid_t child[CHILDREN];
};

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static char *block_new(void)
{
	char *p = mmap(NULL, BLOCK * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void step(struct worker *w)
{
	w->b->steps[w->kind]++;
}

static void block_fill(struct worker *w, char *p)
{
	w->seed++;
	for (size_t i = 0; i < BLOCK; i++) {
		fill(p + i * PAGE, 1, w->seed * BLOCK + i);
		step(w);
	}
}

static void block_check(struct worker *w, const char *p, unsigned int seed)
{
	for (size_t i = 0; i < BLOCK; i++) {
		w->b->damage += bad_pages(p + i * PAGE, 1, seed * BLOCK + i);
		step(w);
	}
}

/* Counts in each page, and how long that waits at most. */
static void turn_count(struct worker *w)
{
	long long last = now_ns();

	for (size_t i = 0; i < STATIC; i++) {
		unsigned int *word = (unsigned int *)(w->p + i * PAGE) + i % 1000;
		long long t;

		w->b->damage += *word != w->seed;
		*word = w->seed + 1;
		t = now_ns();
		if (t - last > w->b->longest)
			w->b->longest = t - last;
		last = t;
		step(w);
	}
	w->seed++;
}

/* A fresh block is held until the next one is written. */
static void turn_fault(struct worker *w)
{
	char *p = block_new();

	block_fill(w, p);
	if (w->p) {
		block_check(w, w->p, w->seed - 1);
		munmap(w->p, BLOCK / 2 * PAGE);
		munmap(w->p + BLOCK / 2 * PAGE, BLOCK / 2 * PAGE);
	}
	w->p = p;
}

/* The same pages go and come back, in a mapping with a policy of its own. */
static void turn_bound(struct worker *w)
{
	block_fill(w, w->p);
	block_check(w, w->p, w->seed);
	if (madvise(w->p, BLOCK * PAGE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	for (size_t i = 0; i < BLOCK; i++)
		w->b->damage += w->p[i * PAGE] != 0;
}

/* The old place stays mapped: else another thread could take it. */
static void turn_remap(struct worker *w)
{
	char *p = mremap(w->p, BLOCK * PAGE, BLOCK * PAGE,
			 MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, w->other);

	if (p != w->other)
		die("mremap");
	w->other = w->p;
	w->p = p;
	block_check(w, p, w->seed);
	block_fill(w, p);
}

static void huge_write(struct worker *w, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		*(size_t *)(w->p + i * PAGE + 1024) = i + w->seed;
		step(w);
	}
}

/* A huge page is split, refilled and collapsed. */
static void turn_huge(struct worker *w)
{
	w->seed++;
	huge_write(w, 0, HPAGE_NR);
	if (madvise(w->p + BLOCK * PAGE, BLOCK * PAGE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	huge_write(w, BLOCK, 2 * BLOCK);
	/* May fail while the pages are on their way. */
	madvise(w->p, HPAGE, MADV_COLLAPSE);
	for (size_t i = 0; i < HPAGE_NR; i++) {
		w->b->damage += *(size_t *)(w->p + i * PAGE + 1024) != i + w->seed;
		step(w);
	}
	if (w->seed % 4 == 0 && madvise(w->p, HPAGE, MADV_DONTNEED))
		die("MADV_DONTNEED");
}

static void *spawned(void *arg)
{
	struct worker *w = arg;

	turn_fault(w);
	return NULL;
}

static void turn_spawn(struct worker *w)
{
	pthread_t t;

	if (pthread_create(&t, NULL, spawned, w) || pthread_join(t, NULL))
		die("pthread_create");
}

/* A child breaks its share of the pages, and takes some of its own. */
static void forked(struct worker *w)
{
	struct worker own = { .b = w->b, .kind = FORK };

	block_check(w, w->p, w->seed);
	for (int i = 0; i < CHILD_TURNS && !w->b->end; i++) {
		turn_fault(&own);
		block_fill(w, w->p);
		block_check(w, w->p, w->seed);
	}
	_exit(0);
}

static void turn_fork(struct worker *w)
{
	pid_t *child = &w->child[w->seed % CHILDREN];
	int status;

	if (*child && (waitpid(*child, &status, 0) != *child || status))
		w->b->damage++;
	*child = fork();
	if (!*child)
		forked(w);
	if (*child < 0)
		die("fork");
	block_check(w, w->p, w->seed);
	block_fill(w, w->p);
}

static void (*const turns[KINDS])(struct worker *w) = {
	[COUNT] = turn_count,
	[FAULT] = turn_fault,
	[BOUND] = turn_bound,
	[REMAP] = turn_remap,
	[HUGE_PAGES] = turn_huge,
	[SPAWN] = turn_spawn,
	[FORK] = turn_fork,
};

/* Lets a thread run on the CPUs of nodes only; whether that changes anything. */
static bool run_on(pid_t tid, const int *nodes, int n)
{
	struct bitmask *cpus = numa_allocate_cpumask();
	cpu_set_t want, have;

	CPU_ZERO(&want);
	for (int i = 0; i < n; i++) {
		if (numa_node_to_cpus(nodes[i], cpus))
			die("CPUs of node %d", nodes[i]);
		for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
			if (numa_bitmask_isbitset(cpus, cpu))
				CPU_SET(cpu, &want);
	}
	numa_free_cpumask(cpus);
	if (sched_getaffinity(tid, sizeof(have), &have) ||
	    sched_setaffinity(tid, sizeof(want), &want)) {
		if (errno != ESRCH)
			die("affinity of %d", tid);
		return false;
	}
	return !CPU_EQUAL(&want, &have);
}

/* New pages of this thread land on an old node: by its policy or where it runs. */
static void allocate_on(const struct board *b, int k)
{
	unsigned long mask[MAX_NODES / (8 * sizeof(long))] = { };

	if (!b->policies) {
		run_on(0, &OLD[k], 1);
		return;
	}
	mask[OLD[k] / (8 * sizeof(long))] |= 1UL << OLD[k] % (8 * sizeof(long));
	if (set_mempolicy(k ? MPOL_PREFERRED : MPOL_BIND, mask, MAX_NODES))
		die("set_mempolicy");
}

static void *work(void *arg)
{
	struct worker *w = arg;

	allocate_on(w->b, w->kind % 2);
	switch (w->kind) {
	case COUNT:
		w->p = lazy_map(STATIC, MADV_NOHUGEPAGE);
		for (size_t i = 0; i < STATIC; i++) {
			if (i % (STATIC / 2) == 0)
				allocate_on(w->b, i / (STATIC / 2));
			w->p[i * PAGE] = 0;
		}
		break;
	case BOUND:
		w->p = lazy_map(BLOCK, MADV_NOHUGEPAGE);
		if (w->b->policies)
			bind_range(w->p, BLOCK, OLD[0]);
		break;
	case REMAP:
		w->other = block_new();
		__attribute__((fallthrough));
	case FORK:
		w->p = block_new();
		block_fill(w, w->p);
		break;
	case HUGE_PAGES:
		w->p = lazy_map(HPAGE_NR, MADV_HUGEPAGE);
		break;
	}
	while (!w->b->end)
		turns[w->kind](w);
	for (int i = 0; i < CHILDREN; i++)
		if (w->child[i])
			waitpid(w->child[i], NULL, 0);
	return NULL;
}

static void target_child(struct child *c, void *arg)
{
	struct worker w[KINDS] = { };
	pthread_t t[KINDS];

	child_get(c);
	allocate_on(arg, 0);
	for (int i = 0; i < KINDS; i++) {
		w[i] = (struct worker){ .b = arg, .kind = i };
		if (pthread_create(&t[i], NULL, work, &w[i]))
			die("pthread_create");
	}
	child_get(c);
	w->b->end = true;
	for (int i = 0; i < KINDS; i++)
		pthread_join(t[i], NULL);
	child_put(c, 1);
}

/* The processes of the target, oldest first. */
static int processes(const struct cg *cg, pid_t *pids)
{
	char path[320], buf[1024], *p = buf, *end;
	int n = 0;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cg->path);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	for (; n < MAX_PIDS; p = end) {
		pid_t pid = strtol(p, &end, 10);

		if (end == p)
			break;
		pids[n++] = pid;
	}
	return n;
}

/* Calls fn for each thread of the target. */
static void each_thread(const struct cg *cg, void (*fn)(pid_t pid, pid_t tid, void *arg),
			void *arg)
{
	pid_t pids[MAX_PIDS];
	int n = processes(cg, pids);

	for (int i = 0; i < n; i++) {
		char path[64];
		struct dirent *d;
		DIR *dir;

		snprintf(path, sizeof(path), "/proc/%d/task", pids[i]);
		dir = opendir(path);
		while (dir && (d = readdir(dir)))
			if (d->d_name[0] != '.')
				fn(pids[i], atoi(d->d_name), arg);
		if (dir)
			closedir(dir);
	}
}

static void to_new_cpus(pid_t pid, pid_t tid, void *arg)
{
	(void)pid;
	*(bool *)arg |= run_on(tid, NEW, 2);
}

/* Also those that were born meanwhile to a thread that was still to be moved. */
static void move_cpus(const struct cg *cg)
{
	bool changed;

	do {
		changed = false;
		each_thread(cg, to_new_cpus, &changed);
	} while (changed);
}

/* Whether a mapping belongs to the kernel: it is where this process has it, too. */
static bool special(const char *start)
{
	static struct mapping maps[256];
	static size_t n;

	if (!n)
		n = mappings_of(0, maps, ARRAY_LEN(maps));
	for (size_t i = 0; i < n; i++)
		if (maps[i].start == start)
			return maps[i].special;
	return false;
}

/* Pages of a process on the old nodes as numa_maps shows them; 0 if it has gone. */
static long on_old_nodes(pid_t pid, bool show)
{
	char path[64], line[4096];
	long sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/numa_maps", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		long here = 0;

		if (special((char *)strtoul(line, NULL, 16)))
			continue;
		for (int i = 0; i < 2; i++) {
			char key[24], *p;

			snprintf(key, sizeof(key), " N%d=", OLD[i]);
			p = strstr(line, key);
			if (p)
				here += atol(p + strlen(key));
		}
		if (here && show)
			fprintf(stderr, "# %d: %s", pid, line);
		sum += here;
	}
	if (f)
		fclose(f);
	return sum;
}

static long left_behind(const struct cg *cg, bool show)
{
	pid_t pids[MAX_PIDS];
	int n = processes(cg, pids);
	long sum = 0;

	for (int i = 0; i < n; i++)
		sum += on_old_nodes(pids[i], show);
	return sum;
}

struct target {
	struct board *b;
	struct cg cg;
	struct child c;
	int fd;		/* the job */
};

static void target_start(struct target *t, bool policies)
{
	t->b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t->b == MAP_FAILED)
		die("mmap");
	t->b->policies = policies;
	t->fd = pm_open();
	cg_make(&t->cg, "busy", NULL);
	child_start(&t->c, target_child, t->b);
	cg_enter(&t->cg, t->c.pid);
	child_put(&t->c, 1);
	/* Until each thread is at work. */
	for (int i = 0; i < KINDS; i++)
		while (t->b->steps[i] < WARM)
			usleep(10000);
}

static void target_end(struct target *t)
{
	cg_set(&t->cg, "cgroup.kill", "1");
	child_end(&t->c);
	cg_remove(&t->cg);
	close(t->fd);
	munmap(t->b, PAGE);
}

FIXTURE(busy)
{
	struct target t;
};

enum halt { RUNNING, STOPPED, FROZEN };

FIXTURE_VARIANT(busy)
{
	bool policies;
	enum halt halt;
};

FIXTURE_VARIANT_ADD(busy, with_policies)
{
	.policies = true,
};

FIXTURE_VARIANT_ADD(busy, by_first_touch)
{
	.policies = false,
};

FIXTURE_VARIANT_ADD(busy, with_policies_stopped)
{
	.policies = true,
	.halt = STOPPED,
};

FIXTURE_VARIANT_ADD(busy, by_first_touch_stopped)
{
	.halt = STOPPED,
};

FIXTURE_VARIANT_ADD(busy, with_policies_frozen)
{
	.policies = true,
	.halt = FROZEN,
};

FIXTURE_SETUP(busy)
{
	target_start(&self->t, variant->policies);
}

FIXTURE_TEARDOWN(busy)
{
	target_end(&self->t);
}

static void count_running(pid_t pid, pid_t tid, void *arg)
{
	char path[64], buf[512], *p;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	if (file_read(path, buf, sizeof(buf)))
		return;
	p = strrchr(buf, ')');
	*(int *)arg += !p || !strchr("TZX", p[2]);
}

static void signal_all(const struct cg *cg, int sig)
{
	pid_t pids[MAX_PIDS];
	int n = processes(cg, pids);

	for (int i = 0; i < n; i++)
		kill(pids[i], sig);
}

static void halt(struct cg *cg, enum halt how)
{
	char path[320], buf[256] = "";
	int running = 1;

	if (how == FROZEN && cg_set(cg, "cgroup.freeze", "1"))
		die("cgroup.freeze");
	snprintf(path, sizeof(path), "%s/cgroup.events", cg->path);
	while (how == FROZEN && !strstr(buf, "frozen 1")) {
		usleep(1000);
		if (file_read(path, buf, sizeof(buf)))
			die("cgroup.events");
	}
	/* A process that was just being forked is met in the next round. */
	while (how == STOPPED && running) {
		signal_all(cg, SIGSTOP);
		usleep(10000);
		running = 0;
		each_thread(cg, count_running, &running);
	}
}

static void go_on(struct cg *cg, enum halt how)
{
	if (how == FROZEN)
		cg_set(cg, "cgroup.freeze", "0");
	if (how == STOPPED)
		signal_all(cg, SIGCONT);
}

/* What each thread has done. */
struct progress {
	unsigned long steps[KINDS];
};

static struct progress progress_of(const struct board *b)
{
	struct progress p;

	for (int k = 0; k < KINDS; k++)
		p.steps[k] = b->steps[k];
	return p;
}

static void each_went_on(struct __test_metadata *_metadata, struct progress before,
			 const struct board *b)
{
	for (int k = 0; k < KINDS; k++) {
		EXPECT_LT(before.steps[k], b->steps[k])
			TH_LOG("thread %d stood still", k);
	}
}

/* One call for each process of the target. */
static void move_all(struct __test_metadata *_metadata, struct target *t, unsigned int flags,
		     bool running)
{
	unsigned long moved = 0, busy = 0, pinned = 0;
	pid_t pids[MAX_PIDS];
	int n = processes(&t->cg, pids);
	long long start = now_ns();
	long left = 0;

	for (int i = 0; i < n; i++) {
		struct progress before = progress_of(t->b);
		struct page_migrate_result res;
		long long took = -now_ns();
		long ret = pm_move(t->fd, pids[i], NULL, ~0UL, flags, 2, OLD, NEW, &res);

		took += now_ns();
		/* A child may have ended by now. */
		if (ret == -ESRCH && pids[i] != t->c.pid)
			continue;
		ASSERT_LE(0, ret) pm_print(&res);
		EXPECT_EQ(0, res.no_memory);
		EXPECT_EQ((uint64_t)ret, pm_left(&res));
		left += ret;
		moved += res.moved;
		busy += res.busy;
		pinned += res.pinned;
		/* In a shorter time not every thread has had a CPU at all. */
		if (running && took > LONG_CALL)
			each_went_on(_metadata, before, t->b);
	}
	TH_LOG("%d processes, %lld ms: %lu pages moved, %ld left (%lu busy, %lu pinned), %ld on"
	       " the old nodes", n, (now_ns() - start) / MS, moved, left, busy, pinned,
	       left_behind(&t->cg, false));
}

static void stays_away(struct __test_metadata *_metadata, struct target *t)
{
	for (int i = 0; i < 10; i++) {
		usleep(50000);
		EXPECT_EQ(0, left_behind(&t->cg, true));
	}
	child_put(&t->c, 1);
	EXPECT_EQ(1, child_get(&t->c));
	EXPECT_EQ(0, t->b->damage);
	child_end(&t->c);
	EXPECT_EQ(0, nr_isolated());
}

TEST_F(busy, leaves_the_old_nodes)
{
	bool running = variant->halt == RUNNING;
	int calls = running ? CALLS : 1;
	struct target *t = &self->t;
	struct progress before;
	long long took, pause;

	ASSERT_LT(STATIC, left_behind(&t->cg, false));
	if (!variant->policies)
		move_cpus(&t->cg);
	halt(&t->cg, variant->halt);
	before = progress_of(t->b);
	t->b->longest = 0;
	took = -now_ns();
	for (int i = 0; i < calls; i++)
		move_all(_metadata, t, 0, running);
	/*
	 * A process that exits holds on to pages that others map until it has
	 * had a CPU for all of it; no signal stops it. A frozen group has none such.
	 */
	for (int i = 0; variant->halt != FROZEN && i < RETRIES && left_behind(&t->cg, false); i++) {
		usleep(100000);
		move_all(_metadata, t, 0, running);
	}
	took += now_ns();
	pause = t->b->longest;
	EXPECT_EQ(0, left_behind(&t->cg, true));
	if (running) {
		each_went_on(_metadata, before, t->b);
		t->b->longest = 0;
		usleep(took / 1000);
		TH_LOG("longest pause %lld ms in %lld ms of calls, %lld ms as long without",
		       pause / MS, took / MS, t->b->longest / MS);
		EXPECT_GT(MAX_PAUSE, pause);
	} else {
		/* Page by page, which would race with a process that runs. */
		for (int k = 0; k < 2; k++)
			EXPECT_EQ(0, process_pages(t->c.pid, OLD[k]));
	}
	go_on(&t->cg, variant->halt);
	stays_away(_metadata, t);
}

/* What the others would see if policies did not follow. */
TEST(comes_back_where_policies_stay)
{
	struct target t;

	target_start(&t, true);
	halt(&t.cg, FROZEN);
	move_all(_metadata, &t, PAGE_MIGRATE_KEEP_POLICY, false);
	EXPECT_EQ(0, left_behind(&t.cg, true));
	go_on(&t.cg, FROZEN);
	for (int i = 0; i < 200 && !left_behind(&t.cg, false); i++)
		usleep(10000);
	EXPECT_LT(0, left_behind(&t.cg, false));
	target_end(&t);
}

TEST_HARNESS_MAIN
