// SPDX-License-Identifier: GPL-2.0
/*
 * The longest lists that there can be: each node of a machine with very many is
 * an entry. They are obeyed, whatever their order, and the calls end soon, also
 * where many of the new nodes are full. The limits in time are generous: an
 * emulated machine is slow.
 */
#include "harness.h"
#include "mem_util.h"

#include <time.h>

#define SOON (20.0 * patience())

/* Groups of nodes with room: the first ones hold the kernel. */
enum { SOURCES = 40, TARGETS = 60, SPARE = 80, SOME = 8, EACH = 600, N = SOME * EACH };

FIXTURE(lists)
{
	int n, fd, old[MAX_NODES], new[MAX_NODES];
	uint64_t by_pair[MAX_NODES];
	struct page_migrate_request req;
	char *p;
};

FIXTURE_SETUP(lists)
{
	self->n = nr_node_ids();
	/* The debug kernel boots with fewer. */
	ASSERT_LE(patience() > 1 ? 96 : 128, self->n);
	/* Each of them exists, so each may be in a list. */
	ASSERT_EQ(self->n, nr_mem);
	self->fd = pm_open();
	/* In no order: 37 and the number of nodes have no common divisor. */
	ASSERT_NE(0, self->n % 37);
	for (int i = 0; i < self->n; i++)
		self->old[i] = self->new[i] = (i * 37 + 5) % self->n;
	self->p = map_nodes(N, mem + SOURCES, SOME);
	fill(self->p, N, 3);
	self->req = pm_req(0, self->p, N * PAGE, self->n, self->old, self->new);
	self->req.moved_by_pair = (uintptr_t)self->by_pair;
}

FIXTURE_TEARDOWN(lists)
{
	munmap(self->p, N * PAGE);
	close(self->fd);
}

/* The entry of a node. */
static int entry(const FIXTURE_DATA(lists) *self, int node)
{
	for (int i = 0; i < self->n; i++)
		if (self->old[i] == node)
			return i;
	die("no entry for node %d", node);
}

/* What the lists say, and only that. */
TEST_F(lists, every_node_to_the_next)
{
	double begin;

	for (int i = 0; i < self->n; i++)
		self->new[i] = (self->old[i] + 1) % self->n;
	begin = now();
	ASSERT_EQ(0, pm_migrate(self->fd, &self->req)) pm_print(&self->req.result);
	EXPECT_GT(SOON, now() - begin);
	EXPECT_EQ(N, self->req.result.moved);
	EXPECT_EQ(N, pm_sum(&self->req.result));
	EXPECT_TRUE(all_on(0, self->p, N, mem + SOURCES + 1, SOME));
	for (int i = 0; i < self->n; i++) {
		bool source = self->old[i] >= mem[SOURCES] && self->old[i] < mem[SOURCES + SOME];

		EXPECT_EQ(source ? EACH : 0, self->by_pair[i])
			TH_LOG("entry %d, node %d", i, self->old[i]);
	}
	EXPECT_EQ(0, bad_pages(self->p, N, 3));
	EXPECT_EQ(0, nr_isolated());
}

/* The last entry stands for the only node that no other one names. */
TEST_F(lists, one_node_by_any)
{
	int rest = entry(self, mem[SOURCES + 3]), last = self->n - 1;
	double begin;

	/* Behind all others. */
	self->old[rest] = self->new[rest] = self->old[last];
	self->old[last] = ANY;
	self->new[last] = mem[TARGETS];
	begin = now();
	ASSERT_EQ(0, pm_migrate(self->fd, &self->req)) pm_print(&self->req.result);
	EXPECT_GT(SOON, now() - begin);
	EXPECT_EQ(EACH, self->req.result.moved);
	EXPECT_EQ(N - EACH, self->req.result.in_place);
	EXPECT_EQ(EACH, self->by_pair[last]);
	EXPECT_EQ(EACH, count_on(0, self->p, N, mem[TARGETS]));
	EXPECT_EQ(0, count_on(0, self->p, N, mem[SOURCES + 3]));
	EXPECT_EQ(0, bad_pages(self->p, N, 3));
}

/* Counts that no list can have, and lists that are wrong at their very end. */
TEST_F(lists, that_are_refused)
{
	int last = self->n - 1, was = self->old[last];
	double begin = now();

	for (int i = 0; i < self->n; i++)
		self->new[i] = mem[TARGETS];
	for (unsigned int bit = 0; bit < 32; bit++) {
		self->req.count = self->n + (1U << bit);
		EXPECT_EQ(-EINVAL, pm_migrate(self->fd, &self->req));
	}
	self->req.count = ~0U;
	EXPECT_EQ(-EINVAL, pm_migrate(self->fd, &self->req));
	self->req.count = self->n;
	self->old[last] = self->old[0];
	EXPECT_EQ(-EINVAL, pm_migrate(self->fd, &self->req));
	self->old[last] = self->n;
	EXPECT_EQ(-EINVAL, pm_migrate(self->fd, &self->req));
	self->old[last] = was;
	self->new[last] = self->n;
	EXPECT_EQ(-EINVAL, pm_migrate(self->fd, &self->req));
	/* With every node named, there is no room elsewhere. */
	self->new[last] = ANY;
	EXPECT_EQ(-EINVAL, pm_migrate(self->fd, &self->req));
	EXPECT_GT(SOON, now() - begin);
	EXPECT_TRUE(all_on(0, self->p, N, mem + SOURCES, SOME));
}

/*
 * Takes the room of a node: by move_pages(2) from another, as that fails where a
 * fault would end in the OOM killer. Returns the number of pages that found room.
 */
static size_t fill_node(int node, int from)
{
	enum { CHUNK = 256, MOST = 200 };
	static int nodes[CHUNK], status[CHUNK];
	static void *pages[CHUNK];
	size_t sum = 0;

	for (size_t i = 0; i < CHUNK; i++)
		nodes[i] = node;
	for (int chunk = 0, quiet = 0; quiet < 3; chunk++) {
		char *p = mmap(NULL, CHUNK * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		size_t moved;

		if (p == MAP_FAILED || chunk == MOST)
			die("node %d does not get full", node);
		place_pages(p, CHUNK, &from, 1);
		for (size_t i = 0; i < CHUNK; i++)
			pages[i] = p + i * PAGE;
		if (move_pages(0, CHUNK, pages, nodes, status, MPOL_MF_MOVE) < 0 &&
		    errno != ENOMEM)
			die("move_pages");
		nodes_of(0, p, CHUNK, status);
		moved = 0;
		for (size_t i = 0; i < CHUNK; i++) {
			moved += status[i] == node;
			/* What did not fit is of no use. */
			if (status[i] != node)
				madvise(pages[i], PAGE, MADV_DONTNEED);
		}
		quiet = moved < CHUNK / 8 ? quiet + 1 : 0;
		sum += moved;
	}
	return sum;
}

/* Each of the sources has a new node that is full. */
TEST_F(lists, several_nodes_are_full)
{
	struct page_migrate_result *res = &self->req.result;
	uint64_t went = 0;
	size_t found;
	double begin;
	long ret;

	/* The kernel may make room on the first ones while the last ones are filled. */
	do {
		found = 0;
		for (int k = 0; k < SOME; k++)
			found += fill_node(mem[TARGETS + k], mem[SPARE + k]);
	} while (found > EACH);
	for (int k = 0; k < SOME; k++)
		self->new[entry(self, mem[SOURCES + k])] = mem[TARGETS + k];
	/* Each of the pairs is short, and tries again. */
	self->req.flags = PAGE_MIGRATE_STRICT;
	begin = now();
	ret = pm_migrate(self->fd, &self->req);
	TH_LOG("%.3f s without other nodes", now() - begin);
	EXPECT_GT(SOON, now() - begin);
	EXPECT_EQ(-ENOMEM, ret) pm_print(res);
	EXPECT_EQ(N, pm_sum(res)) pm_print(res);
	EXPECT_EQ(0, res->moved_fallback);
	EXPECT_LT(N / 2, res->no_memory) pm_print(res);
	for (int k = 0; k < SOME; k++) {
		/* The kernel makes some room now and then, but not that much. */
		EXPECT_LT(0, count_on(0, self->p, N, mem[SOURCES + k]))
			TH_LOG("node %d was not full", mem[TARGETS + k]);
		went += count_on(0, self->p, N, mem[TARGETS + k]);
	}
	EXPECT_EQ(res->moved, went);
	/* Without that flag each page finds a node with room. */
	self->req.flags = PAGE_MIGRATE_NEW_JOB;
	begin = now();
	ret = pm_migrate(self->fd, &self->req);
	TH_LOG("%.3f s with them, %llu pages moved before", now() - begin,
	       (unsigned long long)went);
	EXPECT_GT(SOON, now() - begin);
	EXPECT_EQ(0, ret) pm_print(res);
	EXPECT_EQ(N, pm_sum(res)) pm_print(res);
	EXPECT_EQ(N - went, res->moved + res->moved_fallback) pm_print(res);
	EXPECT_LT(0, res->moved_fallback);
	for (int k = 0; k < SOME; k++)
		EXPECT_EQ(0, count_on(0, self->p, N, mem[SOURCES + k]));
	EXPECT_EQ(0, bad_pages(self->p, N, 3));
	EXPECT_EQ(0, nr_isolated());
}

TEST_HARNESS_MAIN
