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

static bool is_on(const char *p, int node)
{
	return numa_maps_pages(0, p, node) == 1 && node_of(p) == node &&
	       node_of(p + (N - 1) * PAGE) == node;
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

/*
 * The end of one mapping and the start of the next, of the same page: it moves
 * whole, is met again at once and in the next call, and others get the CPUs. All
 * in one test, as it takes long to write and to copy such a page on an emulated CPU.
 */
TEST(mapped_twice)
{
	enum { CPUS = 4, PART = 100 };
	int fd, file = memfd_create("gigantic", MFD_HUGETLB | MFD_HUGE_1GB);
	struct page_migrate_result res;
	struct clock c[CPUS] = { };
	pthread_t thread[CPUS];
	double begin, took;
	char *p, *q;

	nr_node_ids();
	ASSERT_LE(0, file);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(1, gigantic_pool(mem[i]));
	ASSERT_EQ(0, ftruncate(file, GIGANTIC));
	p = mmap(NULL, 3 * GIGANTIC, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	p = (char *)(((uintptr_t)p + GIGANTIC - 1) & ~(GIGANTIC - 1));
	q = p + GIGANTIC;
	map_fixed(p, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	map_fixed(q, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	bind_to(mem[0]);
	fill_some(p);
	bind_to(-1);
	touch(q, 1);
	ASSERT_TRUE(is_on(p, mem[0]));
	fd = pm_open();

	for (int i = 0; i < CPUS; i++) {
		c[i].cpu = i;
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, tick, &c[i]));
	}
	begin = now();
	EXPECT_EQ(0, pm_move(fd, 0, q - PART * PAGE, 2 * PART * PAGE, 0, 2, SWAP_OLD, SWAP_NEW,
			     &res))
		pm_print(&res);
	took = now() - begin;
	for (int i = 0; i < CPUS; i++) {
		c[i].end = true;
		pthread_join(thread[i], NULL);
		TH_LOG("CPU %d: late by %.1f ms at most, the call took %.1f ms", i,
		       c[i].latest * 1e3, took * 1e3);
		/* Far more than it should be: an emulated CPU stands still at times. */
		EXPECT_GT(2.0 * patience(), c[i].latest);
	}
	EXPECT_EQ(PART, res.moved);
	EXPECT_EQ(PART, res.already_moved);
	EXPECT_EQ(2 * PART, pm_sum(&res));
	EXPECT_TRUE(is_on(p, mem[1]));
	EXPECT_TRUE(is_on(q, mem[1]));

	EXPECT_EQ(0, pm_move(fd, 0, p, 2 * GIGANTIC, 0, 2, SWAP_OLD, SWAP_NEW, &res))
		pm_print(&res);
	EXPECT_EQ(2 * N, res.already_moved);
	EXPECT_EQ(2 * N, pm_sum(&res));
	EXPECT_TRUE(is_on(p, mem[1]));
	EXPECT_EQ(0, bad_some(q));
	munmap(p, 2 * GIGANTIC);
	/* What it left has become a free page of its pool, and so has what it used. */
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(1, gigantic_pool(mem[i]));
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

TEST_HARNESS_MAIN
