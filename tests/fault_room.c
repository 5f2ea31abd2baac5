// SPDX-License-Identifier: GPL-2.0
/* Targets that have no memory left: at the limit of their cgroup, and in swap. */
#include "harness.h"
#include "mem_util.h"

/* Many times what a call takes off the lists at a time. */
enum { N = 16384, ROUNDS = 4 };

/* What a target is told: not to get more pages, but to make a huge page of some. */
enum { COLLAPSE = N };

/* A target in a cgroup of its own, which holds N pages on the first node. */
struct tight {
	struct child child;
	struct cg cg;
	char *p;
};

/*
 * At a limit there is no room for another huge page. Unlike with a small one, the
 * kernel then just says so, and kills nobody.
 */
static bool collapses(char *p)
{
	bool done;

	if (advise(p, HPAGE, MADV_HUGEPAGE))
		die("madvise");
	done = !madvise(p, HPAGE, MADV_COLLAPSE);
	if (advise(p, HPAGE, MADV_NOHUGEPAGE))
		die("madvise");
	return done;
}

static void be_tight(struct child *c, void *arg)
{
	struct tight *t = arg;

	cg_enter(&t->cg, getpid());
	place_pages(t->p, N, &mem[0], 1);
	fill(t->p, N, 4);
	/* Looks when it is told to. */
	for (child_put(c, 0);;) {
		size_t more = child_get(c);
		char *q;

		if (!more) {
			child_put(c, bad_pages(t->p, N, 4));
			continue;
		}
		if (more == COLLAPSE) {
			child_put(c, collapses(t->p));
			continue;
		}
		/* Lives on over its limit: what it gets it gives back. */
		q = lazy_map(more, MADV_NOHUGEPAGE);
		for (size_t i = 0; i < more; i++)
			q[i * PAGE] = 1;
		munmap(q, more * PAGE);
		child_put(c, 0);
	}
}

static long cg_number(const struct cg *cg, const char *file, const char *name)
{
	char path[320], text[1024], *at = text;

	snprintf(path, sizeof(path), "%s/%s", cg->path, file);
	if (file_read(path, text, sizeof(text)))
		die("%s", path);
	if (name) {
		at = strstr(text, name);
		if (!at)
			die("no %s in %s", name, path);
		at += strlen(name);
	}
	return atol(at);
}

static void limit(const struct cg *cg, const char *file, long bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", bytes);
	if (cg_set((struct cg *)cg, file, text))
		die("%s", file);
}

static void tight_start(struct tight *t)
{
	if (file_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory"))
		die("no memory controller");
	cg_make(&t->cg, "tight", NULL);
	/* Mapped before the child comes, so that both know where. */
	t->p = lazy_map(N, MADV_NOHUGEPAGE);
	child_start(&t->child, be_tight, t);
	child_get(&t->child);
}

static void tight_end(struct tight *t)
{
	child_end(&t->child);
	munmap(t->p, N * PAGE);
	cg_remove(&t->cg);
}

/*
 * Moves the target to and fro; where it has no memory left it moves all the same.
 * more: pages that it gets meanwhile, which counts as an event each time. Where it
 * can get none, it has tried to before.
 */
static void moves_at_limit(struct __test_metadata *_metadata, const char *file,
			   const char *event, size_t more)
{
	bool tries = !more && has_thp();
	struct tight t = { };
	int fd = pm_open();

	tight_start(&t);
	limit(&t.cg, file, cg_number(&t.cg, "memory.current", NULL));
	for (int i = 0; i < ROUNDS; i++) {
		int from = mem[i % 2], to = mem[!(i % 2)];
		long events = cg_number(&t.cg, "memory.events", event), ret = 1, left;

		if (tries) {
			child_put(&t.child, COLLAPSE);
			EXPECT_EQ(0, child_get(&t.child));
		}
		child_put(&t.child, more);
		for (int k = 0; k < 20 && ret > 0; k++)
			ret = pm_move(fd, t.child.pid, t.p, N * PAGE, 0, 1, &from, &to, NULL);
		ASSERT_EQ(0, ret);
		ASSERT_TRUE(all_on(t.child.pid, t.p, N, &to, 1));
		ASSERT_EQ(0, child_get(&t.child));
		child_put(&t.child, 0);
		ASSERT_EQ(0, child_get(&t.child));
		events = cg_number(&t.cg, "memory.events", event) - events;
		left = cg_number(&t.cg, file, NULL) - cg_number(&t.cg, "memory.current", NULL);
		TH_LOG("%s: round %d, %ld events, %ld pages below", file, i, events,
		       left / (long)PAGE);
		if (more || tries)
			EXPECT_LT(0, events);
		/* CPUs keep some charges for themselves: fewer than a huge page in all. */
		if (!more)
			EXPECT_GT((long)HPAGE_NR, left / (long)PAGE);
	}
	EXPECT_EQ(0, cg_number(&t.cg, "memory.events", "oom_kill "));
	tight_end(&t);
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

TEST(at_memory_max)
{
	/* Without swap it can get nothing more, or the kernel kills it. */
	moves_at_limit(_metadata, "memory.max", "\nmax ", 0);
}

TEST(over_memory_high)
{
	moves_at_limit(_metadata, "memory.high", "\nhigh ", 128);
}

/*
 * Half of the target is in swap, and it swaps in and out all the time while it
 * moves. Where swap has no room for what is read back, too, the kernel kills it
 * without our help.
 */
TEST(target_swaps)
{
	const int nodes[] = { mem[0], mem[1] }, other[] = { mem[1], mem[0] };
	uint64_t moved = 0, calls = 0;
	struct tight t = { };
	int fd = pm_open();
	char path[64];

	swap_start(path, sizeof(path), N);
	tight_start(&t);
	limit(&t.cg, "memory.max", cg_number(&t.cg, "memory.current", NULL) - N / 2 * (long)PAGE);
	ASSERT_LT(N / 4 * (long)PAGE, cg_number(&t.cg, "memory.swap.current", NULL));
	for (int i = 0; i < ROUNDS; i++) {
		child_put(&t.child, 0);
		/* It is reading what it holds meanwhile. */
		for (struct pollfd in = { .fd = t.child.in, .events = POLLIN };
		     poll(&in, 1, 0) == 0; calls++) {
			struct page_migrate_result res;
			long ret = pm_move(fd, t.child.pid, t.p, N * PAGE, PAGE_MIGRATE_NEW_JOB, 2,
					   nodes, other, &res);

			ASSERT_LE(0, ret) pm_print(&res);
			moved += res.moved;
		}
		ASSERT_EQ(0, child_get(&t.child));
	}
	EXPECT_EQ(0, cg_number(&t.cg, "memory.events", "oom_kill "));
	TH_LOG("%llu calls moved %llu pages, %ld pages are in swap", (long long)calls,
	       (long long)moved, cg_number(&t.cg, "memory.swap.current", NULL) / (long)PAGE);
	EXPECT_LT(N, moved);
	tight_end(&t);
	swap_end(path);
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

/* Free pages of swap. */
static long swap_free(void)
{
	char text[4096], *at;

	if (file_read("/proc/meminfo", text, sizeof(text)))
		die("/proc/meminfo");
	at = strstr(text, "SwapFree:");
	if (!at)
		die("no SwapFree");
	return atol(at + 9) / (long)(PAGE / 1024);
}

/* Pages of swap that may be left: each CPU keeps some for itself. */
enum { FEW = 64 };

/* Takes the rest of swap, with memory of its own. */
static void take_swap(struct child *c, void *arg)
{
	enum { CHUNK = 32 };
	char *p = lazy_map(2 * N, MADV_NOHUGEPAGE);

	(void)arg;
	for (size_t i = 0; i < 2 * N && swap_free() > FEW; i += CHUNK) {
		memset(p + i * PAGE, 1, CHUNK * PAGE);
		if (madvise(p + i * PAGE, CHUNK * PAGE, MADV_PAGEOUT))
			die("MADV_PAGEOUT");
	}
	child_put(c, swap_free());
}

/*
 * Half of the target is in swap, which is full, and the target is at its limit:
 * not a page can go out for one that comes in. What is there moves all the same,
 * and what is not there is not brought in. It sleeps meanwhile: would it read,
 * the kernel would kill it without our help.
 */
TEST(swap_is_full)
{
	struct tight t = { };
	struct child rest;
	int fd = pm_open();
	char path[64];
	size_t there;
	long in_swap;

	swap_start(path, sizeof(path), N);
	tight_start(&t);
	limit(&t.cg, "memory.max", cg_number(&t.cg, "memory.current", NULL) - N / 2 * (long)PAGE);
	in_swap = cg_number(&t.cg, "memory.swap.current", NULL);
	ASSERT_LT(N / 4 * (long)PAGE, in_swap);
	child_start(&rest, take_swap, NULL);
	ASSERT_GE(FEW, (long)child_get(&rest));
	there = present_pages(t.child.pid, t.p, N);
	ASSERT_LT(N / 4, there);
	ASSERT_GT(N, there);
	for (int i = 0; i < ROUNDS; i++) {
		int from = mem[i % 2], to = mem[!(i % 2)];
		long ret = 1;

		for (int k = 0; k < 20 && ret > 0; k++)
			ret = pm_move(fd, t.child.pid, t.p, N * PAGE, 0, 1, &from, &to, NULL);
		ASSERT_EQ(0, ret);
		EXPECT_EQ(there, count_on(t.child.pid, t.p, N, to));
		EXPECT_EQ(there, present_pages(t.child.pid, t.p, N));
		EXPECT_GE(FEW, swap_free());
	}
	EXPECT_EQ(in_swap, cg_number(&t.cg, "memory.swap.current", NULL));
	EXPECT_EQ(0, cg_number(&t.cg, "memory.events", "oom_kill "));
	TH_LOG("%zu pages moved to and fro, %ld in swap, %ld free there", there,
	       in_swap / (long)PAGE, swap_free());
	/* With room in swap, it can read all it has. */
	child_end(&rest);
	for (int i = 0; i < 600 && swap_free() < N / 4; i++)
		usleep(100000);
	ASSERT_LE(N / 4, swap_free());
	child_put(&t.child, 0);
	EXPECT_EQ(0, child_get(&t.child));
	EXPECT_EQ(0, cg_number(&t.cg, "memory.events", "oom_kill "));
	tight_end(&t);
	swap_end(path);
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

TEST_HARNESS_MAIN
