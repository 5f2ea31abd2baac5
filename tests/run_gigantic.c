// SPDX-License-Identifier: GPL-2.0
/*
 * hugetlb pages of 1 GiB: each is one folio of 262144 pages. Their machine sets one
 * aside on each of the first two nodes when it boots.
 */
#include "harness.h"
#include "mem_util.h"

#include <linux/memfd.h>
#include <pthread.h>
#include <stdatomic.h>

#define GIGANTIC (1UL << 30)
#define N (GIGANTIC / PAGE)

/* Every page would take too long to write and to compare. */
enum { STRIDE = 61, SEED = 9 };

static long gigantic_pool(int node)
{
	char path[160], buf[32];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%d/hugepages/hugepages-1048576kB/free_hugepages",
		 node);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	return atol(buf);
}

static void fill_some(char *p)
{
	for (size_t i = 0; i < N; i += STRIDE)
		fill(p + i * PAGE, 1, SEED + i);
}

static size_t bad_some(const char *p)
{
	size_t bad = 0;

	for (size_t i = 0; i < N; i += STRIDE)
		bad += bad_pages(p + i * PAGE, 1, SEED + i);
	return bad;
}

FIXTURE(gigantic)
{
	char *p, *q;	/* two mappings of the same page, side by side */
	int fd;
};

FIXTURE_SETUP(gigantic)
{
	int file = memfd_create("gigantic", MFD_HUGETLB | MFD_HUGE_1GB);

	nr_node_ids();
	if (file < 0)
		die("no huge pages of 1 GiB");
	for (int i = 0; i < 2; i++)
		if (gigantic_pool(mem[i]) != 1)
			die("no free page of 1 GiB on node %d", mem[i]);
	if (ftruncate(file, GIGANTIC))
		die("ftruncate");
	self->p = mmap(NULL, 3 * GIGANTIC, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);
	if (self->p == MAP_FAILED)
		die("mmap");
	self->p = (char *)(((uintptr_t)self->p + GIGANTIC - 1) & ~(GIGANTIC - 1));
	self->q = self->p + GIGANTIC;
	map_fixed(self->p, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	map_fixed(self->q, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	bind_to(mem[0]);
	fill_some(self->p);
	bind_to(-1);
	touch(self->q, 1);
	ASSERT_EQ(mem[0], node_of(self->p));
	self->fd = pm_open();
}

FIXTURE_TEARDOWN(gigantic)
{
	munmap(self->p, GIGANTIC);
	munmap(self->q, GIGANTIC);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(1, gigantic_pool(mem[i]));
	EXPECT_EQ(0, nr_isolated());
}

static bool is_on(const char *p, int node)
{
	return numa_maps_pages(0, p, node) == 1 && node_of(p) == node &&
	       node_of(p + (N - 1) * PAGE) == node;
}

/* Moved through one mapping, met again through the other: in one call and in the next. */
TEST_F(gigantic, mapped_twice)
{
	struct page_migrate_result res;

	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, 2 * GIGANTIC, 0, 2, SWAP_OLD, SWAP_NEW, &res))
		pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, res.already_moved);
	EXPECT_EQ(2 * N, pm_sum(&res));
	EXPECT_TRUE(is_on(self->p, mem[1]));
	EXPECT_TRUE(is_on(self->q, mem[1]));
	ASSERT_EQ(0, pm_move(self->fd, 0, self->q, GIGANTIC, 0, 2, SWAP_OLD, SWAP_NEW, &res))
		pm_print(&res);
	EXPECT_EQ(N, res.already_moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(is_on(self->p, mem[1]));
	EXPECT_EQ(0, bad_some(self->q));
}

/* It moves whole, whatever part of it is in the range, and whatever the limit. */
TEST_F(gigantic, partly_in_the_range)
{
	struct page_migrate_request req = pm_req(0, self->p + 1000 * PAGE, 100 * PAGE, 1, &mem[0],
						 &mem[1]);

	req.max_pages = 1;
	ASSERT_EQ(0, pm_migrate(self->fd, &req)) pm_print(&req.result);
	EXPECT_EQ(100, req.result.moved);
	EXPECT_EQ(100, pm_sum(&req.result));
	EXPECT_TRUE(is_on(self->p, mem[1]));
	EXPECT_EQ(0, bad_some(self->p));
}

/* How late a thread of the highest priority is that has a CPU to wake up on. */
struct clock {
	int cpu;
	atomic_bool end;
	double latest;
};

static void *tick(void *arg)
{
	struct sched_param first = { .sched_priority = 50 };
	struct timespec ms = { .tv_nsec = 1000000 };
	struct clock *c = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(c->cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || sched_setscheduler(0, SCHED_FIFO, &first))
		die("CPU %d", c->cpu);
	while (!c->end) {
		double begin = now(), late;

		nanosleep(&ms, NULL);
		late = now() - begin - 0.001;
		if (late > c->latest)
			c->latest = late;
	}
	return NULL;
}

/* A call does not keep the CPUs from others for as long as it takes. */
TEST_F(gigantic, others_go_on)
{
	enum { CPUS = 2 };
	struct clock c[CPUS] = { };
	pthread_t thread[CPUS];
	struct page_migrate_result res;
	double begin, took;

	for (int i = 0; i < CPUS; i++) {
		c[i].cpu = i;
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, tick, &c[i]));
	}
	begin = now();
	EXPECT_EQ(0, pm_move(self->fd, 0, self->p, GIGANTIC, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	took = now() - begin;
	for (int i = 0; i < CPUS; i++) {
		c[i].end = true;
		pthread_join(thread[i], NULL);
		TH_LOG("CPU %d: late by %.1f ms at most, the call took %.1f ms", i,
		       c[i].latest * 1e3, took * 1e3);
		/* Far more than it should be: an emulated CPU stands still at times. */
		EXPECT_GT(0.5 * patience(), c[i].latest);
	}
	EXPECT_EQ(N, res.moved);
	EXPECT_TRUE(is_on(self->p, mem[1]));
}

TEST_HARNESS_MAIN
