// SPDX-License-Identifier: GPL-2.0
/*
 * What calls may cost. The largest arguments and the most open jobs, all as
 * nobody: each call ends soon, the target can go on during it, what the kernel
 * holds for it is charged to the caller's control group, and is given back.
 * The limits in time are generous: an emulated machine is slow.
 */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <time.h>

/*
 * Seconds for one call: three times the worst on a busy host. Where cost is
 * without bound, it takes minutes.
 */
#define SOON (10.0 * patience())
/* What a target may have to wait for, and how often a busy host may spoil that. */
#define PAUSE (1.0 * patience())
#define TRIES 3
/* The kernel's own limit of mappings, less what a program has. */
#define MAPPINGS 65000
#define JOBS 1000
#define THREADS 3000
#define FILES 10000
/* What the target can do during each call, at least. */
#define ROUNDS 5UL

/* All of this process, as nobody: one move, one look, one dry run. */
#define CALLS 4

/* Policies that the first call has changed. */
static uint64_t policies;

static void whole_call(int i)
{
	struct page_migrate_result res;
	uint64_t pages[MAX_NODES];
	static int fd = -1;
	long ret;

	if (fd < 0)
		fd = pm_open();
	if (i == 3)
		ret = pm_placement(fd, 0, NULL, ~0UL, pages);
	else
		ret = pm_move(fd, 0, NULL, ~0UL, i == 1 ? PAGE_MIGRATE_DRY_RUN : 0, 1,
			      &mem[i == 2], &mem[2], &res);
	if (ret < 0)
		die("call %d of all: %ld", i, ret);
	if (i == 0)
		policies = res.policies;
}

static void whole_process(struct child *c)
{
	double most = 0, begin;

	for (int i = 0; i < CALLS; i++) {
		begin = now();
		whole_call(i);
		if (now() - begin > most)
			most = now() - begin;
	}
	child_put(c, most * 1000);
}

static void one_huge_hole(struct child *c, void *arg)
{
	(void)arg;
	drop_to(NOBODY);
	/* A page in each 64 GiB: as many page tables as pages. */
	for (uintptr_t at = 1UL << 40; at < 1UL << 46; at += 1UL << 36) {
		char *p = mmap((void *)at, PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (p != MAP_FAILED)
			*p = 1;
	}
	/* One mapping of 16 TiB, with nothing in it. */
	if (mmap(NULL, 1UL << 44, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		die("mmap of 16 TiB");
	whole_process(c);
}

/* arg: each of them has a memory policy, too. */
static void map_many(void *arg)
{
	unsigned long mask[MAX_NODES / (8 * sizeof(long))] = { };
	char *p = reserve(2 * MAPPINGS);

	drop_to(NOBODY);
	mask[mem[0] / 64] |= 1UL << (mem[0] % 64);
	for (size_t i = 0; i < MAPPINGS / 2; i++) {
		char *at = p + 2 * i * PAGE;

		map_fixed(at, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (arg && mbind(at, PAGE, MPOL_PREFERRED, mask, MAX_NODES, 0))
			die("mbind %zu", i);
		if (i % 8 == 0)
			*at = 1;
	}
}

static void many_mappings(struct child *c, void *arg)
{
	map_many(arg);
	whole_process(c);
}

/* As many threads, each with a memory policy of its own. */
struct waiting {
	pthread_barrier_t ready;
	pthread_mutex_t end;
};

static void *wait_with_policy(void *arg)
{
	struct waiting *w = arg;

	bind_to(mem[0]);
	pthread_barrier_wait(&w->ready);
	pthread_mutex_lock(&w->end);
	return NULL;
}

static void many_threads(struct child *c, void *arg)
{
	static struct waiting w = { .end = PTHREAD_MUTEX_INITIALIZER };
	pthread_attr_t attr;
	pthread_t t;

	(void)arg;
	drop_to(NOBODY);
	pthread_barrier_init(&w.ready, NULL, THREADS + 1);
	pthread_mutex_lock(&w.end);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&t, &attr, wait_with_policy, &w))
			die("thread %d", i);
	pthread_barrier_wait(&w.ready);
	whole_process(c);
	child_put(c, policies);
}

/* As many files, every eighth of them marked. */
static void many_files(struct child *c, void *arg)
{
	const int where[8] = { mem[0], mem[2], mem[2], mem[2], mem[2], mem[2], mem[2], mem[2] };
	char *p = reserve(FILES);
	char path[64];

	(void)arg;
	own_tmpfs("mode=777,nr_inodes=0,huge=never");
	bind_to(mem[0]);
	for (size_t i = 0; i < FILES; i++) {
		int fd;

		snprintf(path, sizeof(path), "/mnt/%zu", i);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		if (fd < 0 || ftruncate(fd, PAGE) ||
		    (i % 8 == 0 && fsetxattr(fd, "user.migrate", "none", 4, 0)))
			die("file %zu", i);
		map_fixed(p + i * PAGE, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		p[i * PAGE] = 1;
		close(fd);
	}
	bind_to(-1);
	drop_to(NOBODY);
	whole_process(c);
	/* None has got lost among so many. */
	child_put(c, all_on(0, p, FILES, where, 8));
}

/* more: what the target is to say at the end, if anything. */
static void expect_soon(struct __test_metadata *_metadata,
			void (*fn)(struct child *c, void *arg), void *arg, uint64_t more)
{
	struct child c;
	double seconds;

	child_start(&c, fn, arg);
	seconds = child_get(&c) / 1000.0;
	EXPECT_GT(SOON, seconds);
	TH_LOG("the longest call took %.3f s", seconds);
	if (more)
		EXPECT_EQ(more, child_get(&c));
	child_end(&c);
}

TEST(range_of_all_with_few_mappings)
{
	expect_soon(_metadata, one_huge_hole, NULL, 0);
}

TEST(range_of_all_with_many_mappings)
{
	expect_soon(_metadata, many_mappings, NULL, 0);
}

TEST(range_of_all_with_many_policies)
{
	expect_soon(_metadata, many_mappings, "", 0);
}

/* The first call, from mem[0], changes the policy of each thread. */
TEST(range_of_all_with_many_threads)
{
	expect_soon(_metadata, many_threads, NULL, THREADS);
}

TEST(range_of_all_with_many_files)
{
	expect_soon(_metadata, many_files, NULL, 1);
}

/* The most entries, right and wrong, and counts that no memory could hold. */
TEST(largest_lists)
{
	int n = nr_node_ids(), fd = pm_open();
	int *old = malloc(n * sizeof(int)), *new = malloc(n * sizeof(int));
	char *p = map_node(1, mem[0]);
	struct page_migrate_placement look = { .pages = (uintptr_t)p, .count = ~0U };
	struct page_migrate_request req = pm_req(0, p, PAGE, n, old, new);
	double begin = now();
	long ret;

	for (int i = 0; i < n; i++) {
		old[i] = i;
		new[i] = mem[1];
	}
	ret = pm_migrate(fd, &req);
	/* Not each of these nodes need exist. */
	EXPECT_TRUE(ret == 0 || ret == -ENODEV);
	old[n - 1] = ANY;
	ret = pm_migrate(fd, &req);
	EXPECT_TRUE(ret == 0 || ret == -ENODEV);
	for (unsigned int bit = 0; bit < 32; bit++) {
		req.count = n + (1U << bit);
		EXPECT_EQ(-EINVAL, pm_migrate(fd, &req));
	}
	req.count = ~0U;
	EXPECT_EQ(-EINVAL, pm_migrate(fd, &req));
	/* 32 GiB of results: as far as there is room for them. */
	EXPECT_EQ(-EFAULT, pm_ioctl(fd, PAGE_MIGRATE_IOC_PLACEMENT, &look));
	EXPECT_GT(SOON, now() - begin);
	free(old);
	free(new);
}

/* Kernel memory that a control group is charged for, in bytes. */
static long charged(const struct cg *cg)
{
	char path[320], text[8192], *at;

	snprintf(path, sizeof(path), "%s/memory.stat", cg->path);
	if (file_read(path, text, sizeof(text)))
		die("%s", path);
	at = strstr(text, "\nslab ");
	if (!at)
		die("no slab in %s", path);
	return atol(at + 6);
}

/* As many jobs as files, each with pages that it has moved on all nodes. */
static void many_jobs(struct child *c, void *arg)
{
	const struct rlimit files = { JOBS + 64, JOBS + 64 };
	char *p;
	int *fd = calloc(JOBS, sizeof(*fd));

	(void)arg;
	if (!fd || setrlimit(RLIMIT_NOFILE, &files))
		die("setrlimit");
	drop_to(NOBODY);
	child_get(c);
	p = map_nodes(4, mem, 4);
	for (int i = 0; i < JOBS; i++) {
		int from[4], to[4];

		for (int k = 0; k < 4; k++) {
			from[k] = mem[k];
			to[k] = mem[(k + 1) % 4];
		}
		fd[i] = pm_open();
		if (pm_move(fd[i], 0, p, 4 * PAGE, 0, 4, from, to, NULL))
			die("job %d", i);
	}
	child_put(c, all_on(0, p, 4, mem, 4));
	child_get(c);
	for (int i = 0; i < JOBS; i++)
		close(fd[i]);
	child_put(c, 1);
}

TEST(most_open_jobs)
{
	/* Each remembers frames on four nodes: four blocks of bits. */
	const long LEAST = JOBS * 4 * 512L;
	long before, with = 0, after = 0;
	struct child c;
	struct cg cg;
	double begin;

	if (file_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory"))
		die("no memory controller");
	cg_make(&cg, "bounds", NULL);
	child_start(&c, many_jobs, NULL);
	cg_enter(&cg, c.pid);
	before = charged(&cg);
	begin = now();
	child_put(&c, 1);
	/* JOBS is a multiple of the four nodes: all is where it was. */
	EXPECT_EQ(1, child_get(&c));
	EXPECT_GT(SOON, now() - begin);
	/* What is taken or freed is counted in batches, and some of it in the background. */
	for (int i = 0; i < 50; i++) {
		with = charged(&cg);
		if (LEAST <= with - before)
			break;
		usleep(100000);
	}
	child_put(&c, 1);
	child_get(&c);
	for (int i = 0; i < 50; i++) {
		after = charged(&cg);
		if (after < before + (with - before) / 4)
			break;
		usleep(100000);
	}
	TH_LOG("%d jobs in %.1f s: %ld bytes charged for each, %ld left at the end", JOBS,
	       now() - begin, (with - before) / JOBS, after - before);
	EXPECT_LE(LEAST, with - before);
	EXPECT_GT(8 * LEAST, with - before);
	EXPECT_GT((with - before) / 4, after - before);
	child_end(&c);
	cg_remove(&cg);
}

/* A job that begins anew again and again keeps nothing of the old ones. */
TEST(jobs_in_one_file)
{
	char *p = map_nodes(4, mem, 4);
	int fd = pm_open();
	long before = 0, after;

	for (int i = 0; i < 600; i++) {
		if (i == 100)
			before = vmstat("nr_slab_unreclaimable");
		ASSERT_LE(0, pm_move(fd, 0, p, 4 * PAGE, PAGE_MIGRATE_NEW_JOB, 2, &mem[i % 3],
				     &mem[1 - i % 2], NULL));
	}
	after = vmstat("nr_slab_unreclaimable");
	/* 500 jobs of some pages each, if they stayed. */
	EXPECT_GT(500, after - before);
}

/* The target maps memory while all of it is looked at and moved. */
struct mapper {
	atomic_bool stop;
	atomic_ulong rounds;
	/* When the mmap that is under way began. */
	_Atomic double begun;
	_Atomic double most;
};

static void *mapper(void *arg)
{
	struct mapper *m = arg;

	while (!atomic_load(&m->stop)) {
		double begin = now();
		char *p;

		atomic_store(&m->begun, begin);
		p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED || munmap(p, PAGE))
			die("mmap meanwhile");
		if (now() - begin > atomic_load(&m->most))
			atomic_store(&m->most, now() - begin);
		atomic_fetch_add(&m->rounds, 1);
		usleep(100);
	}
	return NULL;
}

/* For each call: how long it took, the longest mmap meanwhile, and how many. */
static void mapping_meanwhile(struct child *c, void *arg)
{
	static struct mapper m;
	pthread_t t;

	map_many(arg);
	if (pthread_create(&t, NULL, mapper, &m))
		die("pthread_create");
	/* It is at work before the first call. */
	while (atomic_load(&m.rounds) < 3)
		usleep(1000);
	for (int i = 0; i < CALLS; i++) {
		unsigned long rounds = atomic_load(&m.rounds);
		double begin = now(), took;

		atomic_store(&m.most, 0);
		whole_call(i);
		took = now() - begin;
		rounds = atomic_load(&m.rounds) - rounds;
		/* One that has waited for the end counts as well. */
		begin = now();
		while (atomic_load(&m.begun) < begin)
			usleep(100);
		child_put(c, took * 1000);
		child_put(c, atomic_load(&m.most) * 1000);
		child_put(c, rounds);
	}
	atomic_store(&m.stop, true);
	pthread_join(t, NULL);
}

/* Whether each call left the target alone. The log tells what there was to see. */
static bool not_held_up(struct __test_metadata *_metadata)
{
	struct child c;
	bool ok = true;

	child_start(&c, mapping_meanwhile, "");
	for (int i = 0; i < CALLS; i++) {
		double took = child_get(&c) / 1000.0, longest = child_get(&c) / 1000.0;
		unsigned long rounds = child_get(&c);

		TH_LOG("call %d took %.3f s, the longest of %lu mmap meanwhile %.3f s", i, took,
		       rounds, longest);
		EXPECT_GT(2 * SOON, took);
		/* One may wait at the beginning, and one at the end. */
		ok &= rounds >= ROUNDS;
		ok &= longest < PAUSE;
		/* In a short call, that is about the same as what the host may do. */
		ok &= took < 1.5 || longest < took / 3;
	}
	child_end(&c);
	return ok;
}

/* What a call does to its target, it does each time; the host does not. */
TEST(target_is_not_held_up)
{
	bool ok = false;

	for (int i = 0; i < TRIES && !ok; i++)
		ok = not_held_up(_metadata);
	EXPECT_TRUE(ok);
}

/*
 * A mapping of a hugetlb file system costs its owner nothing, and the walk looks
 * for its pages one by one: 2^25 of them here. A signal must end that.
 */
static void on_alarm(int sig)
{
	(void)sig;
}

static void empty_hugetlb(struct child *c, void *arg)
{
	enum { MS = 300 };
	const struct itimerval once = { .it_value.tv_usec = MS * 1000 };
	struct sigaction act = { .sa_handler = on_alarm };
	const size_t len = 1UL << 46;
	uint64_t pages[MAX_NODES];
	int fd = pm_open();
	char *p;

	(void)arg;
	drop_to(NOBODY);
	sigaction(SIGALRM, &act, NULL);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_HUGETLB, -1, 0);
	if (p == MAP_FAILED)
		die("mmap of 64 TiB of huge pages");
	for (int i = 0; i < 3; i++) {
		double begin = now();
		long ret;

		setitimer(ITIMER_REAL, &once, NULL);
		if (i == 2)
			ret = pm_placement(fd, 0, p, len, pages);
		else
			ret = pm_move(fd, 0, p, len, i ? PAGE_MIGRATE_DRY_RUN : 0, 1, &mem[0],
				      &mem[1], NULL);
		child_put(c, (now() - begin) * 1000);
		/* A machine that is fast enough gets to its end. */
		child_put(c, ret == -EINTR || (ret == 0 && now() - begin < MS / 1000.0));
	}
}

TEST(empty_huge_pages_without_end)
{
	struct child c;

	child_start(&c, empty_hugetlb, NULL);
	for (int i = 0; i < 3; i++) {
		double took = child_get(&c) / 1000.0;

		TH_LOG("call %d returned after %.3f s", i, took);
		EXPECT_GT(2.0 * patience(), took);
		EXPECT_EQ(1, child_get(&c));
	}
	child_end(&c);
}

/* Each look at the target finds another file that nobody has seen before. */
static void *renewer(void *arg)
{
	char *at = arg;

	for (;;) {
		int file = memfd_create("pm", 0);

		if (file < 0 || ftruncate(file, PAGE) ||
		    mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) != at)
			die("memfd");
		close(file);
	}
	return NULL;
}

static void ever_new_files(struct child *c, void *arg)
{
	char *p = reserve(4);
	pthread_t t;

	(void)arg;
	drop_to(NOBODY);
	for (int i = 0; i < 3; i++)
		if (pthread_create(&t, NULL, renewer, p + i * PAGE))
			die("pthread_create");
	whole_process(c);
}

TEST(target_that_maps_ever_new_files)
{
	struct child c;
	double took;

	child_start(&c, ever_new_files, NULL);
	took = child_get(&c) / 1000.0;
	TH_LOG("the longest call took %.3f s", took);
	EXPECT_GT(SOON, took);
	child_end(&c);
}

TEST_HARNESS_MAIN
