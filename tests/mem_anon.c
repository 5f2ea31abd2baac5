// SPDX-License-Identifier: GPL-2.0
/* Anonymous memory in small pages: owned, shared by fork, locked, in swap. */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <stdatomic.h>

TEST(two_nodes_change_places)
{
	enum { N = 1000 };
	int fd = pm_open(), at[] = { mem[0], mem[1] };
	char *p = map_nodes(N, at, 2);
	struct page_migrate_result res;

	fill(p, N, 1);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res));
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(present_pages(0, p, N), pm_sum(&res));
	EXPECT_EQ((uintptr_t)p + N * PAGE, res.resume_va);
	EXPECT_TRUE(all_on(0, p, N, SWAP_NEW, 2));
	EXPECT_EQ(0, bad_pages(p, N, 1));
	EXPECT_EQ(0, nr_isolated());
}

TEST(pages_on_other_nodes_stay)
{
	enum { N = 400 };
	int fd = pm_open(), at[] = { mem[0], mem[2], mem[1], mem[3] };
	int want[] = { mem[1], mem[2], mem[1], mem[3] };
	char *p = map_nodes(N, at, 4);
	uint64_t before = pfn_of(p + 2 * PAGE);
	struct page_migrate_result res;

	fill(p, N, 2);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(N / 4, res.moved);
	EXPECT_EQ(N * 3 / 4, res.in_place);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, want, 4));
	EXPECT_EQ(before, pfn_of(p + 2 * PAGE));
	EXPECT_EQ(0, bad_pages(p, N, 2));
}

struct shared {
	char *p;
	size_t npages;
	unsigned int seed;
};

/* Reads all, and on each request says how many of the pages are wrong. */
static void shared_child(struct child *c, void *arg)
{
	const struct shared *s = arg;

	touch(s->p, s->npages);
	child_put(c, bad_pages(s->p, s->npages, s->seed));
	for (;;) {
		if (child_get(c) == 1)
			memset(s->p, 0x77, PAGE);
		child_put(c, bad_pages(s->p, s->npages, s->seed));
	}
}

TEST(shared_after_fork)
{
	enum { N = 600 };
	int fd = pm_open();
	struct shared s = { .p = map_node(N, mem[0]), .npages = N, .seed = 3 };
	struct page_migrate_result res;
	struct child c;

	fill(s.p, N, 3);
	child_start(&c, shared_child, &s);
	ASSERT_EQ(0, child_get(&c));
	ASSERT_EQ(pfn_of(s.p), pfn_of_pid(c.pid, s.p));

	ASSERT_EQ(0, pm_move(fd, 0, s.p, N * PAGE, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, s.p, N, &mem[1], 1));
	EXPECT_TRUE(all_on(c.pid, s.p, N, &mem[1], 1));
	/* Still one page for both, and still copied when one of them writes. */
	for (int i = 0; i < N; i += 50)
		EXPECT_EQ(pfn_of(s.p + i * PAGE), pfn_of_pid(c.pid, s.p + i * PAGE));
	EXPECT_EQ(0, bad_pages(s.p, N, 3));
	child_put(&c, 0);
	EXPECT_EQ(0, child_get(&c));
	child_put(&c, 1);
	EXPECT_EQ(1, child_get(&c));
	EXPECT_EQ(0, bad_pages(s.p, N, 3));

	/* The other process is served as well, by its own id. */
	ASSERT_EQ(0, pm_move(fd, c.pid, s.p, N * PAGE, 0, 1, &mem[1], &mem[2], &res));
	EXPECT_TRUE(all_on(c.pid, s.p + PAGE, N - 1, &mem[2], 1));
	EXPECT_TRUE(all_on(0, s.p + PAGE, N - 1, &mem[2], 1));
	child_put(&c, 0);
	EXPECT_EQ(1, child_get(&c));
	child_end(&c);
	EXPECT_EQ(0, bad_pages(s.p, N, 3));
}

struct reader {
	char *p;
	size_t npages;
	atomic_ulong rounds, bad;
	atomic_bool stop;
};

static void *read_all(void *arg)
{
	struct reader *r = arg;

	while (!r->stop) {
		r->bad += bad_pages(r->p, r->npages, 4);
		r->rounds++;
	}
	return NULL;
}

TEST(read_while_moving)
{
	enum { N = 2000 };
	int fd = pm_open();
	struct reader r = { .p = map_node(N, mem[0]), .npages = N };
	struct page_migrate_result res;
	unsigned long before;
	pthread_t t;

	fill(r.p, N, 4);
	ASSERT_EQ(0, pthread_create(&t, NULL, read_all, &r));
	while (!r.rounds)
		usleep(1000);
	before = r.rounds;
	for (int i = 0; i < 10 || r.rounds < before + 3; i++) {
		long ret = pm_move(fd, 0, r.p, N * PAGE, 0, 1, &mem[i % 2], &mem[1 - i % 2], &res);

		ASSERT_EQ(0, ret) pm_print(&res);
		EXPECT_EQ(N, res.moved);
		ASSERT_TRUE(all_on(0, r.p, N, &mem[1 - i % 2], 1));
	}
	r.stop = true;
	pthread_join(t, NULL);
	EXPECT_EQ(0, r.bad);
}

TEST(mlocked)
{
	enum { N = 300 };
	int fd = pm_open();
	char *p = map_node(N, mem[0]);
	struct page_migrate_result res;

	fill(p, N, 5);
	ASSERT_EQ(0, mlock(p, N * PAGE));
	ASSERT_TRUE(has_flag(p, KPF_MLOCKED_BIT));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ((long)(N * PAGE / 1024), smaps_kb(0, p, "Locked"));
	for (int i = 0; i < N; i += 25)
		EXPECT_TRUE(has_flag(p + i * PAGE, KPF_MLOCKED_BIT));
	EXPECT_EQ(0, bad_pages(p, N, 5));
}

TEST(no_access)
{
	enum { N = 100 };
	int fd = pm_open();
	char *p = map_node(N, mem[0]);
	struct page_migrate_result res;

	fill(p, N, 6);
	ASSERT_EQ(0, mprotect(p, N * PAGE, PROT_NONE));
	ASSERT_EQ(N, present_pages(0, p, N));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	ASSERT_EQ(0, mprotect(p, N * PAGE, PROT_READ));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 6));
}

TEST(zero_pages_are_not_counted)
{
	enum { N = 100 };
	int fd = pm_open(), from[MAX_NODES], to[MAX_NODES], nr = all_to_last(from, to);
	static uint64_t on[MAX_NODES];
	char *p = map_node(N, mem[0]), *h;
	struct page_migrate_result res;
	uint64_t zero, sum = 0;

	ASSERT_EQ(0, madvise(p + 10 * PAGE, 50 * PAGE, MADV_DONTNEED));
	touch(p, N);
	zero = pfn_of(p + 10 * PAGE);
	ASSERT_TRUE(kpageflags(zero) >> KPF_ZERO_PAGE & 1);
	ASSERT_EQ(N - 50, present_pages(0, p, N));
	ASSERT_EQ(0, pm_placement(fd, 0, p, N * PAGE, on));
	for (int i = 0; i < MAX_NODES; i++)
		sum += on[i];
	EXPECT_EQ(N - 50, sum);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, nr, from, to, &res));
	EXPECT_EQ(N - 50, res.moved);
	EXPECT_EQ(N - 50, pm_sum(&res));
	EXPECT_EQ(zero, pfn_of(p + 10 * PAGE));
	EXPECT_EQ(0, p[30 * PAGE]);

	/* The huge zero page. */
	if (!has_thp())
		return;
	h = lazy_map(2 * HPAGE_NR, MADV_HUGEPAGE);
	touch(h, 1);
	h[HPAGE] = 1;
	ASSERT_TRUE(has_flag(h + PAGE, KPF_ZERO_PAGE));
	ASSERT_EQ(HPAGE_NR, present_pages(0, h, 2 * HPAGE_NR));
	ASSERT_EQ(0, pm_move(fd, 0, h, 2 * HPAGE, 0, nr, from, to, &res));
	EXPECT_EQ(HPAGE_NR, pm_sum(&res));
	EXPECT_EQ(LAST, node_of(h + HPAGE));
	EXPECT_EQ(0, h[5 * PAGE]);
}

TEST(holes_are_no_error)
{
	enum { N = 90 };
	int fd = pm_open();
	char *p = map_node(N, mem[0]);
	struct page_migrate_result res;

	fill(p, N, 7);
	ASSERT_EQ(0, munmap(p + 30 * PAGE, 10 * PAGE));
	ASSERT_EQ(0, munmap(p, 5 * PAGE));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(N - 15, res.moved);
	EXPECT_EQ(N - 15, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p + 5 * PAGE, 25, &mem[1], 1));
	EXPECT_TRUE(all_on(0, p + 40 * PAGE, 50, &mem[1], 1));
}

TEST(only_the_range_moves)
{
	enum { N = 100 };
	int fd = pm_open();
	char *p = map_node(N, mem[0]);
	struct page_migrate_result res;

	/* The length is rounded up to whole pages. */
	ASSERT_EQ(0, pm_move(fd, 0, p + 10 * PAGE, 20 * PAGE - 1, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(20, res.moved);
	EXPECT_EQ(20, pm_sum(&res));
	EXPECT_EQ((uintptr_t)p + 30 * PAGE, res.resume_va);
	EXPECT_TRUE(all_on(0, p, 10, &mem[0], 1));
	EXPECT_TRUE(all_on(0, p + 10 * PAGE, 20, &mem[1], 1));
	EXPECT_TRUE(all_on(0, p + 30 * PAGE, N - 30, &mem[0], 1));
}

TEST(freed_lazily)
{
	enum { N = 64 };
	int fd = pm_open();
	char *p = map_node(N, mem[0]);
	struct page_migrate_result res;
	size_t present;

	memset(p, 0x33, N * PAGE);
	ASSERT_EQ(0, madvise(p, N * PAGE, MADV_FREE));
	present = present_pages(0, p, N);
	ASSERT_LT(0, present);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(present, pm_sum(&res));
	EXPECT_EQ(res.moved, count_on(0, p, N, mem[1]));
	EXPECT_EQ(0, count_on(0, p, N, mem[0]));
	for (int i = 0; i < N; i++)
		EXPECT_TRUE(p[i * PAGE] == 0x33 || p[i * PAGE] == 0);
}

static void idle_child(struct child *c, void *arg)
{
	const int *nodes = arg;
	char *p = map_nodes(500, nodes, 2);

	fill(p, 500, 8);
	child_put(c, (uintptr_t)p);
	child_get(c);
	child_put(c, bad_pages(p, 500, 8));
}

TEST(whole_process)
{
	int fd = pm_open(), nodes[] = { mem[0], mem[1] };
	static uint64_t on[MAX_NODES];
	struct page_migrate_result res;
	uint64_t sum = 0;
	struct child c;
	size_t present;
	char *p;
	long ret;

	child_start(&c, idle_child, nodes);
	p = (char *)child_get(&c);
	ASSERT_EQ(0, kill(c.pid, SIGSTOP));
	ASSERT_EQ(c.pid, waitpid(c.pid, NULL, WUNTRACED));
	present = process_pages(c.pid, -1);
	/* The vdso is there, it is just not counted. */
	ASSERT_EQ(0, pm_placement(fd, c.pid, NULL, ~0UL, on));
	for (int i = 0; i < MAX_NODES; i++)
		sum += on[i];
	EXPECT_EQ(present, sum);
	for (int i = 0; i < nr_mem; i++)
		EXPECT_EQ(process_pages(c.pid, mem[i]), on[mem[i]]);

	ret = pm_move(fd, c.pid, NULL, ~0UL, 0, 2, nodes, (int[]){ mem[2], mem[3] }, &res);
	ASSERT_LE(0, ret);
	EXPECT_EQ(present, pm_sum(&res));
	EXPECT_EQ(pm_left(&res), (uint64_t)ret);
	EXPECT_EQ(0, res.unmovable);
	EXPECT_EQ((uint64_t)ret,
		  process_pages(c.pid, mem[0]) + process_pages(c.pid, mem[1]))
		pm_print(&res);
	EXPECT_TRUE(all_on(c.pid, p, 500, &mem[2], 2));
	ASSERT_EQ(0, kill(c.pid, SIGCONT));
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
}

FIXTURE(in_swap)
{
	char path[128];
};

FIXTURE_SETUP(in_swap)
{
	swap_start(self->path, sizeof(self->path), 4096);
}

FIXTURE_TEARDOWN(in_swap)
{
	swap_end(self->path);
}

static size_t swapped(const char *p, size_t npages)
{
	size_t n = 0;

	for (size_t i = 0; i < npages; i++)
		n += pagemap_of(0, p + i * PAGE) >> 62 & 1;
	return n;
}

TEST_F(in_swap, is_not_touched)
{
	enum { N = 512 };
	int fd = pm_open(), from[MAX_NODES], to[MAX_NODES], nr = all_to_last(from, to);
	char *p = map_node(N, mem[0]);
	struct page_migrate_result res;
	uint64_t on[MAX_NODES], sum;
	size_t out;

	fill(p, N, 9);
	ASSERT_EQ(0, madvise(p, N / 2 * PAGE, MADV_PAGEOUT));
	out = swapped(p, N);
	ASSERT_LT(0, out);
	ASSERT_EQ(N - out, present_pages(0, p, N));
	ASSERT_EQ(0, pm_placement(fd, 0, p, N * PAGE, on));
	EXPECT_EQ(N - out, on[mem[0]]);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res));
	EXPECT_EQ(N - out, res.moved);
	EXPECT_EQ(N - out, pm_sum(&res));
	EXPECT_EQ(out, swapped(p, N));
	EXPECT_EQ(N - out, count_on(0, p, N, mem[1]));
	EXPECT_EQ(0, bad_pages(p, N, 9));
	/* Those read back still have their place in swap, and move all the same. */
	ASSERT_EQ(0, move_patiently(fd, 0, p, N * PAGE, nr, from, to, &sum));
	EXPECT_TRUE(all_on(0, p, N, &LAST, 1));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, nr, from, to, &res)) pm_print(&res);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_EQ(0, bad_pages(p, N, 9));
}

#define KSM "/sys/kernel/mm/ksm/"

FIXTURE(merged)
{
	char scan[16], sleep[16], run[16];
};

FIXTURE_SETUP(merged)
{
	ASSERT_EQ(0, file_read(KSM "pages_to_scan", self->scan, sizeof(self->scan)));
	ASSERT_EQ(0, file_read(KSM "sleep_millisecs", self->sleep, sizeof(self->sleep)));
	ASSERT_EQ(0, file_read(KSM "run", self->run, sizeof(self->run)));
	ASSERT_EQ(0, file_write(KSM "pages_to_scan", "1000"));
	ASSERT_EQ(0, file_write(KSM "sleep_millisecs", "5"));
	ASSERT_EQ(0, file_write(KSM "run", "1"));
}

FIXTURE_TEARDOWN(merged)
{
	file_write(KSM "run", "2");
	file_write(KSM "run", self->run);
	file_write(KSM "pages_to_scan", self->scan);
	file_write(KSM "sleep_millisecs", self->sleep);
}

TEST_F(merged, by_ksm)
{
	enum { N = 64 };
	int fd = pm_open(), from[MAX_NODES], to[MAX_NODES], nr = all_to_last(from, to);
	char *p = map_node(N, mem[0]);
	struct page_migrate_result res;
	size_t same = 0;

	for (int i = 0; i < N; i++)
		fill(p + i * PAGE, 1, 10);
	ASSERT_EQ(0, madvise(p, N * PAGE, MADV_MERGEABLE));
	for (int i = 0; i < 600 && same < N; i++) {
		usleep(100000);
		for (same = 0; same < N && pfn_of(p + same * PAGE) == pfn_of(p); same++)
			;
	}
	ASSERT_EQ(N, same) TH_LOG("ksmd has not merged the pages");
	ASSERT_TRUE(has_flag(p, KPF_KSM));
	ASSERT_EQ(0, file_write(KSM "run", "0"));

	/* Wherever ksmd has put it: to the last node. */
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, nr, from, to, &res)) pm_print(&res);
	EXPECT_EQ(N, pm_sum(&res));
	/* One page with many mappings moves once. */
	EXPECT_EQ(1, res.moved);
	EXPECT_EQ(N - 1, res.already_moved);
	EXPECT_TRUE(all_on(0, p, N, &LAST, 1));
	EXPECT_EQ(pfn_of(p), pfn_of(p + (N - 1) * PAGE));
	EXPECT_TRUE(has_flag(p, KPF_KSM));
	for (int i = 0; i < N; i++)
		EXPECT_EQ(0, bad_pages(p + i * PAGE, 1, 10));
	memset(p, 1, PAGE);
	EXPECT_EQ(0, bad_pages(p + PAGE, 1, 10));
}

TEST_HARNESS_MAIN
