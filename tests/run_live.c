// SPDX-License-Identifier: GPL-2.0
/* Programs that run while they are moved, and each page exactly once. */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

/* What a busy target counts, in memory that it shares with the test. */
struct busy {
	atomic_ulong rounds, maps, forks, errors;
	atomic_bool stop;
	char *small, *huge, *file;
};

enum { SMALL = 1500, HUGE_H = 3, FILE_N = 400, MAP_N = 64 };

/* Adds one to a counter in each page, and looks whether none was lost. */
static void *counting(void *arg)
{
	struct busy *b = arg;
	struct { char *p; size_t n; } area[] = {
		{ b->small, SMALL }, { b->huge, HUGE_H * HPAGE_NR }, { b->file, FILE_N },
	};

	for (uint64_t round = 1; !b->stop; round++) {
		for (size_t a = 0; a < ARRAY_LEN(area); a++)
			for (size_t i = 0; i < area[a].n; i++) {
				uint64_t *w = (uint64_t *)(area[a].p + i * PAGE) + i % 500;

				if (*w != round - 1)
					b->errors++;
				*w = round;
			}
		b->rounds++;
	}
	return NULL;
}

static void *mapping(void *arg)
{
	struct busy *b = arg;

	while (!b->stop) {
		char *p = mmap(NULL, MAP_N * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED) {
			b->errors++;
			continue;
		}
		fill(p, MAP_N, b->maps);
		mprotect(p + 10 * PAGE, PAGE, PROT_READ);
		if (bad_pages(p, MAP_N, b->maps))
			b->errors++;
		munmap(p + MAP_N / 2 * PAGE, MAP_N / 2 * PAGE);
		munmap(p, MAP_N / 2 * PAGE);
		b->maps++;
	}
	return NULL;
}

static struct busy *busy_new(void)
{
	struct busy *b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			      -1, 0);

	if (b == MAP_FAILED)
		die("mmap");
	return b;
}

static void busy_child(struct child *c, void *arg)
{
	struct busy *b = arg;
	int file = memfd_create("pm", 0);
	pthread_t t[2];

	b->small = map_nodes(SMALL, SWAP_OLD, 2);
	b->huge = map_thp(HUGE_H, mem[0]);
	memset(b->small, 0, SMALL * PAGE);
	memset(b->huge, 0, HUGE_H * HPAGE);
	if (ftruncate(file, FILE_N * PAGE))
		die("memfd");
	b->file = mmap(NULL, FILE_N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	place_pages(b->file, FILE_N, SWAP_OLD, 2);
	if (pthread_create(&t[0], NULL, counting, b) || pthread_create(&t[1], NULL, mapping, b))
		die("pthread_create");
	child_put(c, 1);
	child_get(c);
	b->stop = true;
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	child_put(c, b->errors);
}

TEST(busy_target)
{
	enum { MOVES = 12 };
	int fd = pm_open();
	struct busy *b = busy_new();
	struct page_migrate_result res;
	unsigned long maps, rounds, during = 0;
	uint64_t moved = 0, left = 0;
	struct child c;

	child_start(&c, busy_child, b);
	child_get(&c);
	maps = b->maps;
	rounds = b->rounds;
	for (int i = 0;
	     i < MOVES || ((b->maps < maps + 3 || b->rounds < rounds + 3) && i < 200); i++) {
		unsigned long before = b->maps;
		long ret = pm_move(fd, c.pid, NULL, ~0UL, PAGE_MIGRATE_NEW_JOB, 2, SWAP_OLD,
				   SWAP_NEW, &res);

		ASSERT_LE(0, ret) pm_print(&res);
		EXPECT_EQ((uint64_t)ret, pm_left(&res));
		EXPECT_EQ(0, res.no_memory);
		moved += res.moved;
		left += ret;
		during += b->maps - before;
	}
	/* It was served while it was moved. */
	EXPECT_LT(0, during);
	EXPECT_LE(rounds + 3, b->rounds);
	EXPECT_LT(MOVES * (SMALL + HUGE_H * HPAGE_NR) / 2, moved);
	/* A page in use is seldom in the way. */
	EXPECT_GT(moved / 20, left);
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
	EXPECT_EQ(0, nr_isolated());
}

TEST(busy_target_ends_where_the_map_says)
{
	int fd = pm_open();
	struct busy *b = busy_new();
	struct page_migrate_result res;
	struct child c;
	long ret = 1;

	child_start(&c, busy_child, b);
	child_get(&c);
	for (int i = 0; i < 20 && ret; i++) {
		ret = pm_move(fd, c.pid, b->small, SMALL * PAGE, 0, 2, SWAP_OLD,
			      (int[]){ mem[2], mem[3] }, &res);
		ASSERT_LE(0, ret) pm_print(&res);
	}
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(all_on(c.pid, b->small, SMALL, &mem[2], 2));
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
}

enum { LARGE = 20000 };

static void large_child(struct child *c, void *arg)
{
	char *p = map_nodes(LARGE, SWAP_OLD, 2);

	(void)arg;
	fill(p, LARGE, 1);
	child_put(c, (uintptr_t)p);
	child_get(c);
	child_put(c, bad_pages(p, LARGE, 1));
}

TEST(target_dies_during_the_call)
{
	static const int after[] = { 100, 3000, 10000, 30000, 60000, 100000, 200000 };
	enum { TRIES = 20 };
	int hits = 0;

	for (size_t i = 0; i < ARRAY_LEN(after) + TRIES; i++) {
		struct page_migrate_result res;
		int fd = pm_open();
		struct killer k;
		struct child c;
		pthread_t t;
		long ret;

		child_start(&c, large_child, NULL);
		child_get(&c);
		k = (struct killer){ .pid = c.pid, .fd = fd, .after_us = -1 };
		if (i < ARRAY_LEN(after))
			k.after_us = after[i];
		ASSERT_EQ(0, pthread_create(&t, NULL, kill_in_call, &k));
		ret = pm_move(fd, c.pid, NULL, ~0UL, PAGE_MIGRATE_NEW_JOB, 2,
			      SWAP_OLD, SWAP_NEW, &res);
		EXPECT_TRUE(ret >= 0 || ret == -ESRCH) TH_LOG("returned %ld", ret);
		if (ret >= 0) {
			EXPECT_EQ((uint64_t)ret, pm_left(&res));
			hits += pm_sum(&res) > 0 && pm_sum(&res) < LARGE;
		}
		pthread_join(t, NULL);
		child_end(&c);
		close(fd);
		if (i >= ARRAY_LEN(after) && hits)
			break;
	}
	EXPECT_LT(0, hits)
		TH_LOG("no process died in the middle of a call");
	EXPECT_EQ(0, nr_isolated());
}

struct caller_arg {
	pid_t pid;
};

/* Moves another process back and forth until it is killed. */
static void calling_child(struct child *c, void *arg)
{
	struct caller_arg *a = arg;
	int fd = pm_open();
	struct page_migrate_result res;

	child_put(c, 1);
	for (;;)
		if (pm_move(fd, a->pid, NULL, ~0UL, PAGE_MIGRATE_NEW_JOB, 2,
			    SWAP_OLD, SWAP_NEW, &res) < 0)
			die("the caller's move");
}

TEST(caller_is_killed_during_the_call)
{
	static const int after[] = { 1000, 10000, 30000, 100000, 300000 };
	struct child target, caller;
	struct caller_arg a;

	child_start(&target, large_child, NULL);
	child_get(&target);
	a.pid = target.pid;
	for (size_t i = 0; i < ARRAY_LEN(after); i++) {
		double start;

		child_start(&caller, calling_child, &a);
		child_get(&caller);
		usleep(after[i]);
		/* It is at work, or has told why not. */
		ASSERT_EQ(0, waitpid(caller.pid, NULL, WNOHANG));
		start = now();
		child_end(&caller);
		EXPECT_GT(5.0 * patience(), now() - start);
	}
	EXPECT_EQ(0, nr_isolated());
	/* The target has lost nothing and can still be moved. */
	EXPECT_LE(0, pm_move(pm_open(), target.pid, NULL, ~0UL, 0, 2, SWAP_OLD, SWAP_NEW, NULL));
	child_put(&target, 1);
	EXPECT_EQ(0, child_get(&target));
	child_end(&target);
}

static void forking_child(struct child *c, void *arg)
{
	enum { N = 1000 };
	struct busy *b = arg;
	char *p = map_nodes(N, SWAP_OLD, 2);

	fill(p, N, 2);
	child_put(c, (uintptr_t)p);
	while (!b->stop) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			p[0]++;
			_exit(bad_pages(p, N, 2) != 1);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			b->errors++;
		if (bad_pages(p, N, 2))
			b->errors++;
		b->forks++;
	}
	child_get(c);
	child_put(c, b->errors);
}

TEST(target_forks_during_the_call)
{
	int fd = pm_open();
	struct busy *b = busy_new();
	struct page_migrate_result res;
	unsigned long forks;
	struct child c;

	child_start(&c, forking_child, b);
	child_get(&c);
	forks = b->forks;
	for (int i = 0; i < 20 || (b->forks < forks + 5 && i < 500); i++) {
		long ret = pm_move(fd, c.pid, NULL, ~0UL, PAGE_MIGRATE_NEW_JOB, 2,
			      SWAP_OLD, SWAP_NEW, &res);

		ASSERT_LE(0, ret) pm_print(&res);
	}
	EXPECT_LE(forks + 5, b->forks);
	b->stop = true;
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
	EXPECT_EQ(0, nr_isolated());
}

/*
 * Many kinds side by side in one range, in no order: small pages over all
 * nodes, huge pages at every place against a batch's border, and shared memory
 * that is mapped once below and once above all of them.
 */
enum {
	MEMFD = 700,
	PIECES = 9,
	PIECE = 513,		/* small pages before each huge page */
	TAIL = 4600,
	LAYOUT = (2 + PIECES * 2 + PIECES / 3 + 1) * HPAGE_NR + TAIL + MEMFD,
};

struct layout {
	char *base;
	size_t npages;
	int *node;
	uint32_t *tag;		/* what a page holds, 0 where there is none */
	uint32_t seed;
};

/* Writes to each page which one it is. */
static void tag_pages(struct layout *l, char *p, size_t npages)
{
	size_t first = (p - l->base) / PAGE;

	for (size_t i = 0; i < npages; i++) {
		l->tag[first + i] = first + i + 1;
		*(uint32_t *)(p + i * PAGE + 640) = first + i + 1;
	}
}

static size_t bad_tags(const struct layout *l)
{
	size_t bad = 0;

	for (size_t i = 0; i < l->npages; i++)
		if (l->tag[i])
			bad += *(uint32_t *)(l->base + i * PAGE + 640) != l->tag[i];
	return bad;
}

static void map_scattered(struct layout *l, char *p, size_t npages)
{
	map_fixed(p, npages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (advise(p, npages * PAGE, MADV_NOHUGEPAGE))
		die("madvise");
	for (size_t i = 0; i < npages; i++)
		l->node[i] = mem[next_random(&l->seed) % 4];
	for (int k = 0; k < 4; k++) {
		bind_to(mem[k]);
		for (size_t i = 0; i < npages; i++)
			if (l->node[i] == mem[k])
				p[i * PAGE] = 1;
	}
	bind_to(-1);
	tag_pages(l, p, npages);
}

static void layout_make(struct layout *l)
{
	int file = memfd_create("pm", 0);
	char *p;

	l->npages = LAYOUT;
	l->base = reserve(LAYOUT);
	l->node = malloc(LAYOUT * sizeof(int));
	l->tag = calloc(LAYOUT, sizeof(*l->tag));
	l->seed = 99;
	if (file < 0 || ftruncate(file, MEMFD * PAGE) || !l->node || !l->tag)
		die("memfd");
	p = l->base;
	map_fixed(p, MEMFD, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	for (int i = 0; i < MEMFD; i++)
		l->node[i] = mem[next_random(&l->seed) % 4];
	place_pages(p, MEMFD, l->node, MEMFD);
	tag_pages(l, p, MEMFD);
	/* Each piece: small pages that end where a huge page begins. */
	p = l->base + 2 * HPAGE;
	for (int i = 0; i < PIECES; i++, p += 2 * HPAGE) {
		char *huge = p + HPAGE, *from = map_thp(1, mem[i % 3]);
		size_t n = HPAGE_NR - (i * 57) % HPAGE_NR;

		map_scattered(l, huge - n * PAGE, n);
		/* Every third lies across two page tables. */
		if (i % 3 == 2)
			huge += PAGE * (i + 1);
		if (mremap(from, HPAGE, HPAGE, MREMAP_MAYMOVE | MREMAP_FIXED, huge) != huge)
			die("mremap");
		tag_pages(l, huge, HPAGE_NR);
		/* Every second is mapped by PTE. */
		if (i % 2)
			if (mprotect(huge + 7 * PAGE, PAGE, PROT_READ))
				die("mprotect");
		if (i % 3 == 2)
			p += HPAGE;
	}
	map_scattered(l, p, TAIL);
	p += TAIL * PAGE;
	map_fixed(p, MEMFD, PROT_READ, MAP_SHARED, file, 0);
	touch(p, MEMFD);
	memcpy(l->tag + (p - l->base) / PAGE, l->tag, MEMFD * sizeof(*l->tag));
	p += MEMFD * PAGE;
	if (p > l->base + LAYOUT * PAGE)
		die("the layout is too small");
	l->npages = (p - l->base) / PAGE;
}

/* Moves by a map and holds each page against it. */
static void exactly_once(struct __test_metadata *_metadata, struct layout *l, int count,
			 const int *old, const int *new)
{
	struct page_migrate_result res;
	struct page_migrate_request req;
	uint64_t by_pair[MAX_NODES], sum = 0, on_old = 0;
	int *from = malloc(l->npages * 4), *to = malloc(l->npages * 4);
	size_t present = present_pages(0, l->base, l->npages);
	int fd = pm_open();
	long ret;

	nodes_of(0, l->base, l->npages, from);
	for (size_t i = 0; i < l->npages; i++)
		for (int k = 0; k < count; k++)
			on_old += from[i] == old[k];
	req = pm_req(0, l->base, l->npages * PAGE, count, old, new);
	req.moved_by_pair = (uintptr_t)by_pair;
	ret = pm_migrate(fd, &req);
	res = req.result;
	EXPECT_EQ(0, ret) pm_print(&res);
	nodes_of(0, l->base, l->npages, to);
	EXPECT_TRUE(all_mapped(from, to, l->npages, count, old, new));
	EXPECT_EQ(present, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(on_old, res.moved + res.already_moved) pm_print(&res);
	EXPECT_EQ(present - on_old, res.in_place) pm_print(&res);
	for (int k = 0; k < count; k++)
		sum += by_pair[k];
	EXPECT_EQ(res.moved, sum);
	EXPECT_EQ(0, bad_tags(l));
	close(fd);
	free(from);
	free(to);
}

TEST(exactly_once_when_two_nodes_change_places)
{
	struct layout l;

	layout_make(&l);
	for (int i = 0; i < 2; i++)
		exactly_once(_metadata, &l, 2, SWAP_OLD, SWAP_NEW);
	EXPECT_EQ(0, nr_isolated());
}

TEST(exactly_once_in_a_circle)
{
	int old[] = { mem[0], mem[1], mem[2] }, new[] = { mem[1], mem[2], mem[0] };
	struct layout l;
	int *first, *last;

	layout_make(&l);
	first = malloc(l.npages * 4);
	last = malloc(l.npages * 4);
	nodes_of(0, l.base, l.npages, first);
	for (int i = 0; i < 3; i++)
		exactly_once(_metadata, &l, 3, old, new);
	/* Three times round is home. */
	nodes_of(0, l.base, l.npages, last);
	EXPECT_EQ(0, memcmp(first, last, l.npages * 4));
}

TEST(exactly_once_in_a_chain)
{
	int old[] = { mem[2], mem[0], mem[1] }, new[] = { mem[3], mem[1], mem[2] };
	struct layout l;

	layout_make(&l);
	exactly_once(_metadata, &l, 3, old, new);
}

/* The target's memory, in runs of pages that are on one node after the other. */
struct full {
	char *p;
	size_t npages, run;
};

static bool full_on(const struct full *f, size_t page)
{
	return page / f->run % 2;
}

static void full_child(struct child *c, void *arg)
{
	struct full *f = arg;
	bool until_full = f->run;
	long floor[2], room[2], more;
	uint64_t bad = 0;

	cpu_lists_drain();
	for (int k = 0; k < 2; k++) {
		floor[k] = node_watermark(mem[k], "high") + 2048;
		room[k] = node_free(mem[k]) - floor[k];
	}
	/* What one node has more than the other is not the target's. */
	more = room[1] - room[0];
	bind_to(mem[more > 0]);
	fill(lazy_map(labs(more) + 1, MADV_NOHUGEPAGE), labs(more) + 1, 0);
	/* All of one node, then all of the other: some is for the kernel. */
	if (!f->run)
		f->run = room[more < 0] - 512;
	f->p = lazy_map(node_free(mem[0]) + node_free(mem[1]), MADV_NOHUGEPAGE);
	for (f->npages = 0; until_full || f->npages < 2 * f->run; f->npages++) {
		size_t i = f->npages;
		int node = mem[full_on(f, i)];

		if (i % f->run == 0)
			bind_to(node);
		if (until_full && i % 256 == 0 && node_free(node) < floor[full_on(f, i)])
			break;
		((uint64_t *)(f->p + i * PAGE))[i % 512] = i + 1;
	}
	bind_to(-1);
	child_put(c, (uintptr_t)f->p);
	child_put(c, f->npages);
	child_put(c, f->run);
	child_get(c);
	for (size_t i = 0; i < f->npages; i++)
		bad += ((uint64_t *)(f->p + i * PAGE))[i % 512] != i + 1;
	child_put(c, bad);
}

FIXTURE(full)
{
};

FIXTURE_VARIANT(full)
{
	size_t run;
};

FIXTURE_VARIANT_ADD(full, interleaved)
{
	.run = 256,
};

FIXTURE_VARIANT_ADD(full, one_after_the_other)
{
	.run = 0,
};

FIXTURE_SETUP(full)
{
}

FIXTURE_TEARDOWN(full)
{
}

TEST_F(full, nodes_change_places)
{
	struct full f = { .run = variant->run };
	struct page_migrate_result res;
	int fd = pm_open(), *nodes;
	struct child c;
	size_t wrong = 0, compacted;
	long ret;

	child_start(&c, full_child, &f);
	f.p = (char *)child_get(&c);
	f.npages = child_get(&c);
	f.run = child_get(&c);
	nodes = malloc(f.npages * sizeof(*nodes));
	nodes_of(c.pid, f.p, f.npages, nodes);
	for (size_t i = 0; i < f.npages; i++)
		wrong += nodes[i] != mem[full_on(&f, i)];
	ASSERT_EQ(0, wrong);
	/* Else there is room enough for a job that takes no care. */
	ASSERT_LT(2 * (node_free(mem[0]) + node_free(mem[1])), (long)f.npages);

	compacted = vmstat("compact_isolated");
	ret = pm_move(fd, c.pid, f.p, f.npages * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res);
	EXPECT_EQ(f.npages, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(0, res.moved_fallback);
	/*
	 * Where the caller changes its CPU, free pages hide on the lists of the one
	 * before, and the last pages may find none. Where a node is full, kswapd
	 * looks at its pages, which are busy then. The next call does.
	 */
	EXPECT_LE(res.no_memory + res.busy, f.npages / 100) pm_print(&res);
	EXPECT_EQ(f.npages, res.moved + res.no_memory + res.busy) pm_print(&res);
	for (int i = 0; i < 10 && (ret > 0 || (ret == -ENOMEM && res.no_memory)); i++) {
		cpu_lists_drain();
		ret = pm_move(fd, c.pid, f.p, f.npages * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res);
	}
	EXPECT_EQ(0, ret) pm_print(&res);
	nodes_of(c.pid, f.p, f.npages, nodes);
	for (size_t i = 0; i < f.npages; i++)
		wrong += nodes[i] != mem[!full_on(&f, i)];
	/* A page that the kernel has moved to another frame of its node is a new one. */
	compacted = vmstat("compact_isolated") - compacted;
	EXPECT_LE(wrong, compacted);
	/* What is compacted is counted for the whole machine: too much would pass. */
	EXPECT_LE(wrong, f.npages / 50);
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
	EXPECT_EQ(0, nr_isolated());
}

TEST_HARNESS_MAIN
