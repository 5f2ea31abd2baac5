// SPDX-License-Identifier: GPL-2.0
/* Where pages go: lists, wildcards, full nodes, and calls that only look. */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* As many pages as no full node has room for by accident. */
#define MANY 4000

FIXTURE(map)
{
	int fd;
	struct page_migrate_result res;
	uint64_t by_pair[MAX_NODES];
};

FIXTURE_SETUP(map)
{
	self->fd = pm_open();
}

FIXTURE_TEARDOWN(map)
{
	close(self->fd);
}

static long go(FIXTURE_DATA(map) *self, void *p, size_t npages, unsigned int flags,
	       int count, const int *old, const int *new)
{
	struct page_migrate_request req = pm_req(0, p, npages * PAGE, count, old, new);
	long ret;

	memset(self->by_pair, 0xff, sizeof(self->by_pair));
	req.flags = flags;
	req.moved_by_pair = (uintptr_t)self->by_pair;
	pm_poison(&req.result);
	ret = pm_migrate(self->fd, &req);
	self->res = req.result;
	return ret;
}

/*
 * Pages laid over the nodes of from[], n a round, go to the nodes of to[] by
 * the lists. What is the same in both is not meant to move.
 */
static void check(struct __test_metadata *_metadata, FIXTURE_DATA(map) *self, int rounds,
		  int n, const int *from, const int *to, int count, const int *old, const int *new)
{
	size_t npages = (size_t)rounds * n, moved = 0, pairs = 0;
	char *p = map_nodes(npages, from, n);

	fill(p, npages, 9);
	for (int i = 0; i < n; i++)
		moved += from[i] == to[i] ? 0 : rounds;

	/* A dry run says the same and does nothing. */
	ASSERT_EQ(0, go(self, p, npages, PAGE_MIGRATE_DRY_RUN, count, old, new));
	EXPECT_EQ(moved, self->res.moved);
	EXPECT_EQ(npages - moved, self->res.in_place);
	EXPECT_EQ(npages, pm_sum(&self->res));
	for (int i = 0; i < count; i++)
		pairs += self->by_pair[i];
	EXPECT_EQ(moved, pairs);
	EXPECT_TRUE(all_on(0, p, npages, from, n));

	ASSERT_EQ(0, go(self, p, npages, 0, count, old, new));
	EXPECT_EQ(moved, self->res.moved);
	EXPECT_EQ(npages - moved, self->res.in_place);
	EXPECT_EQ(npages, pm_sum(&self->res));
	for (int i = 0; i < count; i++) {
		size_t want = 0;

		for (int k = 0; k < n; k++)
			if (old[i] == from[k] && from[k] != to[k])
				want += rounds;
		/* What a wildcard stands for, the callers check. */
		if (old[i] != ANY)
			EXPECT_EQ(want, self->by_pair[i]);
	}
	EXPECT_EQ(UINT64_MAX, self->by_pair[count]);
	EXPECT_EQ(0, self->res.policies);
	EXPECT_TRUE(all_on(0, p, npages, to, n));
	EXPECT_EQ(0, bad_pages(p, npages, 9));
	munmap(p, npages * PAGE);
}

#define NODES(...) (const int[]){ __VA_ARGS__ }

TEST_F(map, one_pair)
{
	check(_metadata, self, 100, 2, NODES(mem[0], mem[1]), NODES(mem[3], mem[1]),
	      1, NODES(mem[0]), NODES(mem[3]));
}

TEST_F(map, two_pairs)
{
	check(_metadata, self, 100, 2, NODES(mem[0], mem[1]), NODES(mem[2], mem[3]),
	      2, NODES(mem[0], mem[1]), NODES(mem[2], mem[3]));
	/* The order of the lists is the caller's, not that of the nodes. */
	check(_metadata, self, 100, 2, NODES(mem[0], mem[1]), NODES(mem[3], mem[2]),
	      2, NODES(mem[1], mem[0]), NODES(mem[2], mem[3]));
}

TEST_F(map, shift)
{
	check(_metadata, self, 100, 3, NODES(mem[0], mem[1], mem[2]), NODES(mem[1], mem[2], mem[2]),
	      2, NODES(mem[0], mem[1]), NODES(mem[1], mem[2]));
	check(_metadata, self, 100, 3, NODES(mem[3], mem[2], mem[1]), NODES(mem[2], mem[1], mem[0]),
	      3, NODES(mem[1], mem[2], mem[3]), NODES(mem[0], mem[1], mem[2]));
}

/* More than one batch, so that pages that have arrived are met again. */
TEST_F(map, swap)
{
	check(_metadata, self, 5000, 2, NODES(mem[0], mem[1]), NODES(mem[1], mem[0]),
	      2, NODES(mem[0], mem[1]), NODES(mem[1], mem[0]));
}

TEST_F(map, rotation_of_all)
{
	int to[MAX_NODES];

	for (int i = 0; i < nr_mem; i++)
		to[i] = mem[(i + 1) % nr_mem];
	check(_metadata, self, 1500, nr_mem, mem, to, nr_mem, mem, to);
}

TEST_F(map, same_node_stays)
{
	check(_metadata, self, 50, 2, NODES(mem[0], mem[1]), NODES(mem[0], mem[1]),
	      1, NODES(mem[0]), NODES(mem[0]));
	check(_metadata, self, 50, 3, NODES(mem[0], mem[1], mem[2]), NODES(mem[0], mem[3], mem[3]),
	      2, NODES(mem[0], ANY), NODES(mem[0], mem[3]));
	EXPECT_EQ(100, self->by_pair[1]);
}

TEST_F(map, twice_in_new)
{
	check(_metadata, self, 100, 3, NODES(mem[0], mem[1], mem[2]), NODES(mem[3], mem[3], mem[2]),
	      2, NODES(mem[0], mem[1]), NODES(mem[3], mem[3]));
}

TEST_F(map, other_nodes_stay)
{
	check(_metadata, self, 100, 4, mem, NODES(mem[0], mem[1], mem[3], mem[3]),
	      1, NODES(mem[2]), NODES(mem[3]));
	check(_metadata, self, 100, 2, NODES(mem[1], mem[2]), NODES(mem[1], mem[2]),
	      1, NODES(mem[0]), NODES(mem[3]));
}

TEST_F(map, any_old)
{
	int to[MAX_NODES];

	for (int i = 0; i < nr_mem; i++)
		to[i] = mem[2];
	check(_metadata, self, 100, nr_mem, mem, to, 1, NODES(ANY), NODES(mem[2]));
	EXPECT_EQ(100 * (nr_mem - 1), self->by_pair[0]);

	/* Beside a named one: all but that. What is on the new node is there. */
	for (int i = 0; i < nr_mem; i++)
		to[i] = mem[1];
	to[0] = mem[3];
	check(_metadata, self, 100, nr_mem, mem, to, 2, NODES(mem[0], ANY), NODES(mem[3], mem[1]));
	EXPECT_EQ(100 * (nr_mem - 2), self->by_pair[1]);
	/* The place of the wildcard does not matter. */
	check(_metadata, self, 100, nr_mem, mem, to, 2, NODES(ANY, mem[0]), NODES(mem[1], mem[3]));
	EXPECT_EQ(100 * (nr_mem - 2), self->by_pair[0]);
}

/* The least distance from a node to any node with memory but those of not[]. */
static int nearest_distance(int from, int n, const int *not)
{
	int best = 256;

	for (int i = 0; i < nr_mem; i++) {
		bool out = false;

		for (int k = 0; k < n; k++)
			out |= mem[i] == not[k];
		if (!out && node_distance_of(from, mem[i]) < best)
			best = node_distance_of(from, mem[i]);
	}
	return best;
}

/* Pages that are on a node of this distance, the nodes of not[] apart. */
static size_t count_at(void *p, size_t npages, int from, int distance, int n, const int *not)
{
	size_t sum = 0;

	for (int i = 0; i < nr_mem; i++) {
		bool out = false;

		for (int k = 0; k < n; k++)
			out |= mem[i] == not[k];
		if (!out && node_distance_of(from, mem[i]) == distance)
			sum += count_on(0, p, npages, mem[i]);
	}
	return sum;
}

/* For every node: what has to leave it goes to a nearest one. */
TEST_F(map, any_new)
{
	for (int i = 0; i < nr_mem; i++) {
		char *p = map_node(200, mem[i]);
		int best = nearest_distance(mem[i], 1, &mem[i]);

		ASSERT_EQ(0, go(self, p, 200, PAGE_MIGRATE_DRY_RUN, 1, &mem[i], NODES(ANY)));
		EXPECT_EQ(200, self->res.moved);
		EXPECT_TRUE(all_on(0, p, 200, &mem[i], 1));
		ASSERT_EQ(0, go(self, p, 200, 0, 1, &mem[i], NODES(ANY)));
		EXPECT_EQ(200, self->res.moved);
		EXPECT_EQ(200, pm_sum(&self->res));
		EXPECT_EQ(200, self->by_pair[0]);
		EXPECT_EQ(200, count_at(p, 200, mem[i], best, 1, &mem[i]))
			TH_LOG("from node %d", mem[i]);
		munmap(p, 200 * PAGE);
	}
}

/* Two nodes are emptied: neither may be where the other's pages go. */
TEST_F(map, any_new_twice)
{
	for (int i = 0; i + 1 < nr_mem; i++) {
		const int old[] = { mem[i], mem[i + 1] };
		char *p = map_node(100, old[0]), *q = map_node(100, old[1]);

		ASSERT_EQ(0, go(self, p, 100, 0, 2, old, NODES(ANY, ANY)));
		EXPECT_EQ(100, self->res.moved);
		EXPECT_EQ(100, count_at(p, 100, old[0], nearest_distance(old[0], 2, old), 2, old));
		ASSERT_EQ(0, go(self, q, 100, 0, 2, old, NODES(ANY, ANY)));
		EXPECT_EQ(100, self->by_pair[1]);
		EXPECT_EQ(100, count_at(q, 100, old[1], nearest_distance(old[1], 2, old), 2, old));
	}
}

TEST_F(map, any_new_beside_a_named_one)
{
	const int old[] = { mem[0], mem[1] };
	char *p = map_node(100, mem[0]), *q = map_node(100, mem[1]);

	ASSERT_EQ(0, go(self, p, 100, 0, 2, old, NODES(ANY, mem[3])));
	EXPECT_EQ(100, count_at(p, 100, mem[0], nearest_distance(mem[0], 2, old), 2, old));
	ASSERT_EQ(0, go(self, q, 100, 0, 2, old, NODES(ANY, mem[3])));
	EXPECT_TRUE(all_on(0, q, 100, &mem[3], 1));
}

/* The nearest node is full: the next one takes it, and it is no fallback. */
TEST_F(map, any_new_when_the_nearest_is_full)
{
	const int old = mem[1];
	int best = nearest_distance(old, 1, &old), full = -1, not[2], next;
	struct child hog;
	size_t there;
	char *p;

	for (int i = 0; i < nr_mem && full < 0; i++)
		if (mem[i] != old && mem[i] != mem[0] && node_distance_of(old, mem[i]) == best)
			full = mem[i];
	/* The nearest is the node that the kernel itself lives on. */
	if (full < 0)
		full = mem[0];
	not[0] = old;
	not[1] = full;
	next = nearest_distance(old, 2, not);
	p = map_node(MANY, old);
	hog_start(&hog, full);
	EXPECT_EQ(0, go(self, p, MANY, 0, 1, &old, NODES(ANY)))
		pm_print(&self->res);
	child_end(&hog);
	there = count_on(0, p, MANY, full);
	EXPECT_EQ(MANY, self->res.moved);
	EXPECT_EQ(MANY, pm_sum(&self->res));
	EXPECT_EQ(MANY - there, count_at(p, MANY, old, next, 2, not));
	EXPECT_LT(MANY / 4, MANY - there);
}

/* The named node is full: the rest goes to the other new node. */
TEST_F(map, fallback)
{
	const int old[] = { mem[0], mem[1] }, new[] = { mem[2], mem[3] };
	char *p = map_nodes(2 * MANY, old, 2);
	struct child hog;
	size_t fell;

	fill(p, 2 * MANY, 8);
	hog_start(&hog, mem[3]);
	EXPECT_EQ(0, go(self, p, 2 * MANY, 0, 2, old, new))
		pm_print(&self->res);
	child_end(&hog);
	fell = self->res.moved_fallback;
	EXPECT_LT(MANY / 4, fell);
	EXPECT_GE(MANY, fell);
	EXPECT_EQ(2 * MANY - fell, self->res.moved);
	EXPECT_EQ(2 * MANY, pm_sum(&self->res));
	EXPECT_EQ(MANY, self->by_pair[0]);
	EXPECT_EQ(MANY, self->by_pair[1]);
	EXPECT_EQ(MANY + fell, count_on(0, p, 2 * MANY, mem[2]));
	EXPECT_EQ(MANY - fell, count_on(0, p, 2 * MANY, mem[3]));
	EXPECT_EQ(0, bad_pages(p, 2 * MANY, 8));
}

/*
 * Several nodes could take the rest: the nearest to the one that is full does.
 * The pages' own node is one of the new ones and must not count as one.
 */
TEST_F(map, fallback_to_the_nearest)
{
	int n = nr_mem, full = mem[n - 1], count = n - 1, best = 256;
	int new[MAX_NODES];
	char *p = map_node(MANY, mem[0]);
	struct child hog;
	size_t sum = 0;

	new[0] = full;
	for (int i = 1; i < count; i++) {
		new[i] = mem[(i + 1) % count];
		if (new[i] != mem[0] && node_distance_of(full, new[i]) < best)
			best = node_distance_of(full, new[i]);
	}
	hog_start(&hog, full);
	EXPECT_EQ(0, go(self, p, MANY, 0, count, mem, new))
		pm_print(&self->res);
	child_end(&hog);
	EXPECT_LT(MANY / 4, self->res.moved_fallback);
	EXPECT_EQ(MANY, self->res.moved + self->res.moved_fallback);
	EXPECT_EQ(MANY, self->by_pair[0]);
	EXPECT_EQ(self->res.moved, count_on(0, p, MANY, full));
	for (int i = 1; i < count; i++)
		if (new[i] != mem[0] && node_distance_of(full, new[i]) == best)
			sum += count_on(0, p, MANY, new[i]);
	EXPECT_EQ(self->res.moved_fallback, sum);
}

/* A full node keeps its own pair's pages back, not those of the others. */
TEST_F(map, strict)
{
	const int old[] = { mem[1], mem[0] }, new[] = { mem[3], mem[2] };
	char *p = map_nodes(2 * MANY, old, 2);
	struct child hog;
	size_t left;

	fill(p, 2 * MANY, 8);
	hog_start(&hog, mem[3]);
	EXPECT_EQ(-ENOMEM, go(self, p, 2 * MANY, PAGE_MIGRATE_STRICT, 2, old, new));
	pm_print(&self->res);
	child_end(&hog);
	left = self->res.no_memory;
	EXPECT_LT(MANY / 4, left);
	EXPECT_GE(MANY, left);
	EXPECT_EQ(0, self->res.moved_fallback);
	EXPECT_EQ(2 * MANY - left, self->res.moved);
	EXPECT_EQ(2 * MANY, pm_sum(&self->res));
	EXPECT_EQ((uintptr_t)p + 2 * MANY * PAGE, self->res.resume_va);
	EXPECT_EQ(MANY - left, self->by_pair[0]);
	EXPECT_EQ(MANY, self->by_pair[1]);
	EXPECT_EQ(left, count_on(0, p, 2 * MANY, mem[1]));
	EXPECT_EQ(0, count_on(0, p, 2 * MANY, mem[0]));
	EXPECT_EQ(MANY, count_on(0, p, 2 * MANY, mem[2]));
	EXPECT_EQ(MANY - left, count_on(0, p, 2 * MANY, mem[3]));

	/* With room, the same call again does the rest. */
	EXPECT_EQ(0, go(self, p, 2 * MANY, PAGE_MIGRATE_STRICT, 2, old, new))
		pm_print(&self->res);
	EXPECT_EQ(left, self->res.moved);
	EXPECT_EQ(MANY, count_on(0, p, 2 * MANY, mem[3]));
	EXPECT_EQ(0, bad_pages(p, 2 * MANY, 8));
}

/* The only other new node is the one that the pages are on. */
TEST_F(map, own_node_is_no_fallback)
{
	const int old[] = { mem[1], mem[0] }, new[] = { mem[3], mem[1] };
	char *p = map_nodes(2 * MANY, old, 2);
	struct child hog;
	size_t left;

	hog_start(&hog, mem[3]);
	EXPECT_EQ(-ENOMEM, go(self, p, 2 * MANY, 0, 2, old, new));
	pm_print(&self->res);
	child_end(&hog);
	left = self->res.no_memory;
	EXPECT_LT(MANY / 4, left);
	EXPECT_EQ(0, self->res.moved_fallback);
	EXPECT_EQ(2 * MANY - left, self->res.moved);
	EXPECT_EQ(2 * MANY, pm_sum(&self->res));
	EXPECT_EQ(MANY - left, count_on(0, p, 2 * MANY, mem[3]));
	EXPECT_EQ(MANY + left, count_on(0, p, 2 * MANY, mem[1]));
}

/* With one pair there is no other new node at all. */
TEST_F(map, nowhere_to_fall_back)
{
	char *p = map_node(MANY, mem[1]);
	struct child hog;

	hog_start(&hog, mem[3]);
	EXPECT_EQ(-ENOMEM, go(self, p, MANY, 0, 1, &mem[1], &mem[3]));
	child_end(&hog);
	EXPECT_LT(MANY / 4, self->res.no_memory);
	EXPECT_EQ(0, self->res.moved_fallback);
	EXPECT_EQ(MANY, self->res.moved + self->res.no_memory);
	EXPECT_EQ(self->res.no_memory, count_on(0, p, MANY, mem[1]));
	EXPECT_EQ(self->res.moved, count_on(0, p, MANY, mem[3]));
}

/*
 * Two nodes that are full but for a few pages change places: what leaves the
 * one makes the room for what leaves the other.
 */
TEST_F(map, swap_of_full_nodes)
{
	const int old[] = { mem[2], mem[3] }, new[] = { mem[3], mem[2] };
	char *p = map_nodes(2 * MANY, old, 2);
	struct child a, b;
	long isolated;

	fill(p, 2 * MANY, 8);
	isolated = nr_isolated();
	hog_start(&a, mem[2]);
	hog_start(&b, mem[3]);
	hog_release(&a, 1024);
	hog_release(&b, 1024);
	EXPECT_EQ(0, go(self, p, 2 * MANY, 0, 2, old, new)) {
		pm_print(&self->res);
		zones_print(mem[2]);
		zones_print(mem[3]);
	}
	child_end(&a);
	child_end(&b);
	EXPECT_EQ(2 * MANY, self->res.moved);
	EXPECT_TRUE(all_on(0, p, 2 * MANY, new, 2));
	EXPECT_EQ(0, bad_pages(p, 2 * MANY, 8));
	EXPECT_EQ(isolated, nr_isolated());
}

/*
 * With room for a handful at a time it takes many turns. Each of them must cost
 * about what it moves, or the call does not end for hours on a large machine.
 */
TEST_F(map, swap_with_little_room)
{
	enum { N = 4000, ROOM = 16 };
	const int old[] = { mem[2], mem[3] }, new[] = { mem[3], mem[2] };
	char *p = lazy_map(2 * N, MADV_NOHUGEPAGE);
	struct child a, b;
	struct timespec begin, end;
	long ret;

	/* What one of them needs lies far from what the other has to give. */
	place_pages(p, N, &old[0], 1);
	place_pages(p + N * PAGE, N, &old[1], 1);
	fill(p, 2 * N, 9);
	hog_start(&a, mem[2]);
	hog_start(&b, mem[3]);
	hog_release(&a, ROOM);
	hog_release(&b, ROOM);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	ret = go(self, p, 2 * N, 0, 2, old, new);
	clock_gettime(CLOCK_MONOTONIC, &end);
	child_end(&a);
	child_end(&b);
	TH_LOG("%ld ms, %llu moved, %llu found no room",
	       (end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000,
	       (long long)self->res.moved, (long long)self->res.no_memory);
	/* The kernel itself may take the room away. */
	EXPECT_TRUE(!ret || ret == -ENOMEM) pm_print(&self->res);
	EXPECT_EQ(2 * N, self->res.moved + self->res.no_memory) pm_print(&self->res);
	EXPECT_EQ(self->res.moved, count_on(0, p, 2 * N, mem[2]) + count_on(0, p, 2 * N, mem[3]) -
				   self->res.no_memory);
	EXPECT_EQ(0, bad_pages(p, 2 * N, 9));
	EXPECT_EQ(0, nr_isolated());
	EXPECT_GT(60 * patience(), end.tv_sec - begin.tv_sec);
}

struct mover {
	int fd, old[2], new[2];
	char *p;
	size_t npages;
	unsigned int flags;
	struct page_migrate_result res;
	long ret;
	atomic_bool done;
};

static void *move_in_thread(void *arg)
{
	struct mover *m = arg;

	m->ret = pm_move(m->fd, 0, m->p, m->npages * PAGE, m->flags, 2, m->old, m->new, &m->res);
	m->done = true;
	return NULL;
}

static void share_and_wait(struct child *c, void *arg)
{
	(void)arg;
	child_put(c, 0);
	child_get(c);
}

/*
 * While pages wait for room the process forks. A call that leaves alone what
 * others map leaves these behind, and says so.
 */
TEST_F(map, shared_while_it_waits_for_room)
{
	enum { N = 4000, ROOM = 16, TRIES = 5 };
	bool hit = false;

	for (int i = 0; i < TRIES && !hit; i++) {
		struct mover m = {
			.fd = self->fd, .npages = 2 * N,
			.flags = PAGE_MIGRATE_EXCLUSIVE | PAGE_MIGRATE_NEW_JOB,
			.old = { mem[2], mem[3] }, .new = { mem[3], mem[2] },
			.p = lazy_map(2 * N, MADV_NOHUGEPAGE),
		};
		struct child a, b, kid;
		uint64_t stayed, before;
		pthread_t t;

		place_pages(m.p, N, &mem[2], 1);
		place_pages(m.p + N * PAGE, N, &mem[3], 1);
		fill(m.p, 2 * N, 9);
		/* The hogs must not share them. */
		ASSERT_EQ(0, madvise(m.p, 2 * N * PAGE, MADV_DONTFORK));
		hog_start(&a, mem[2]);
		hog_start(&b, mem[3]);
		hog_release(&a, ROOM);
		hog_release(&b, ROOM);
		ASSERT_EQ(0, madvise(m.p, 2 * N * PAGE, MADV_DOFORK));
		ASSERT_EQ(0, pthread_create(&t, NULL, move_in_thread, &m));
		/* First it gets to its end, then it tries again what found no room. */
		while (!m.done && fdinfo(getpid(), self->fd, "va:") < (uintptr_t)m.p + 2 * N * PAGE)
			;
		before = fdinfo(getpid(), self->fd, "moved:");
		while (!m.done && fdinfo(getpid(), self->fd, "moved:") == before)
			;
		child_start(&kid, share_and_wait, NULL);
		child_get(&kid);
		pthread_join(t, NULL);
		stayed = count_on(0, m.p, N, mem[2]) + count_on(0, m.p + N * PAGE, N, mem[3]);
		EXPECT_EQ(stayed, pm_left(&m.res) + m.res.no_memory) pm_print(&m.res);
		EXPECT_EQ(2 * N, pm_sum(&m.res)) pm_print(&m.res);
		EXPECT_EQ(m.res.no_memory ? -ENOMEM : (long)pm_left(&m.res), m.ret)
			pm_print(&m.res);
		hit = m.res.moved && m.res.shared;
		child_end(&kid);
		child_end(&a);
		child_end(&b);
		EXPECT_EQ(0, bad_pages(m.p, 2 * N, 9));
		munmap(m.p, 2 * N * PAGE);
	}
	EXPECT_TRUE(hit) TH_LOG("it never forked while pages waited");
	EXPECT_EQ(0, nr_isolated());
}

/* A dry run leaves every frame, and huge pages, as they are. */
TEST_F(map, dry_run_changes_nothing)
{
	enum { N = 64 };
	uint64_t pfns[N], huge_pfn;
	char *p = map_nodes(N, mem, 2), *h = map_thp(1, mem[0]);
	char before[4096], after[4096];
	const int new[] = { mem[2], mem[3] };

	for (int i = 0; i < N; i++)
		pfns[i] = pfn_of(p + i * PAGE);
	huge_pfn = pfn_of(h);
	ASSERT_NE(0, pfns[0]);
	ASSERT_TRUE(numa_maps_line(0, p, before, sizeof(before)));
	for (int again = 0; again < 2; again++) {
		ASSERT_EQ(0, go(self, p, N, PAGE_MIGRATE_DRY_RUN, 2, mem, new));
		EXPECT_EQ(N, self->res.moved);
		EXPECT_EQ(0, self->res.already_moved);
		EXPECT_EQ(N / 2, self->by_pair[0]);
		EXPECT_EQ(N / 2, self->by_pair[1]);
		ASSERT_EQ(0, go(self, h, HPAGE_NR, PAGE_MIGRATE_DRY_RUN, 2, mem, new));
		EXPECT_EQ(HPAGE_NR, self->res.moved);
		EXPECT_EQ(HPAGE_NR, self->by_pair[0]);
	}
	ASSERT_TRUE(numa_maps_line(0, p, after, sizeof(after)));
	EXPECT_STREQ(before, after);
	for (int i = 0; i < N; i++)
		EXPECT_EQ(pfns[i], pfn_of(p + i * PAGE));
	EXPECT_EQ(huge_pfn, pfn_of(h));
	EXPECT_EQ(has_thp() ? HPAGE / 1024 : 0, smaps_kb(0, h, "AnonHugePages"));
	/* The real call still finds all of it to do. */
	ASSERT_EQ(0, go(self, p, N, 0, 2, mem, new));
	EXPECT_EQ(N, self->res.moved);
	EXPECT_TRUE(all_on(0, p, N, new, 2));
}

TEST_HARNESS_MAIN
