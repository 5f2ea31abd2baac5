// SPDX-License-Identifier: GPL-2.0
/* hugetlb pages of 2 MB. */
#include "harness.h"
#include "mem_util.h"

enum { H = 4, N = H * HPAGE_NR, POOL = 24 };

static long pool_file(int node, const char *file, const char *set)
{
	char path[160], buf[32];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/%s", node, file);
	if (set && file_write(path, set))
		die("%s", path);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	return atol(buf);
}

static void pool_set(int node, long pages)
{
	char text[16];

	snprintf(text, sizeof(text), "%ld", pages);
	if (pool_file(node, "nr_hugepages", text) != pages)
		die("no pool of %ld huge pages on node %d", pages, node);
}

static char *map_huge(size_t nhuge, int node, int flags, int fd)
{
	char *p;

	bind_to(node);
	p = mmap(NULL, nhuge * HPAGE, PROT_READ | PROT_WRITE, flags | MAP_HUGETLB, fd, 0);
	if (p == MAP_FAILED)
		die("mmap of %zu huge pages", nhuge);
	for (size_t i = 0; i < nhuge; i++)
		p[i * HPAGE] = 1;
	bind_to(-1);
	if (!all_on(0, p, nhuge * HPAGE_NR, &node, 1))
		die("huge pages are not where they were placed");
	return p;
}

FIXTURE(pool)
{
	struct fragment frag;
};

FIXTURE_SETUP(pool)
{
	pool_set(mem[0], POOL);
	pool_set(mem[1], 0);
}

FIXTURE_TEARDOWN(pool)
{
	fragment_end(&self->frag);
	for (int i = 0; i < nr_mem; i++)
		pool_file(mem[i], "nr_hugepages", "0");
}

TEST_F(pool, private_to_a_node_without_pool)
{
	int fd = pm_open();
	char *p = map_huge(H, mem[0], MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];

	fill(p, N, 1);
	ASSERT_EQ(0, pool_file(mem[1], "free_hugepages", NULL));
	ASSERT_EQ(0, pm_placement(fd, 0, p, H * HPAGE, on));
	EXPECT_EQ(N, on[mem[0]]);
	ASSERT_EQ(0, pm_move(fd, 0, p, H * HPAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(H, numa_maps_pages(0, p, mem[1]));
	EXPECT_TRUE(has_flag(p, KPF_HUGE));
	EXPECT_EQ(0, bad_pages(p, N, 1));
	ASSERT_EQ(0, pm_placement(fd, 0, p, H * HPAGE, on));
	EXPECT_EQ(0, on[mem[0]]);
	EXPECT_EQ(N, on[mem[1]]);
	munmap(p, H * HPAGE);
}

TEST_F(pool, taken_from_the_pool)
{
	int fd = pm_open();
	char *p = map_huge(H, mem[0], MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct page_migrate_result res;

	fill(p, N, 2);
	pool_set(mem[1], H);
	ASSERT_EQ(0, pm_move(fd, 0, p, H * HPAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, pool_file(mem[1], "free_hugepages", NULL));
	EXPECT_EQ(H, pool_file(mem[1], "nr_hugepages", NULL));
	EXPECT_EQ(POOL, pool_file(mem[0], "free_hugepages", NULL));
	EXPECT_EQ(0, bad_pages(p, N, 2));
	munmap(p, H * HPAGE);
}

TEST_F(pool, two_nodes_change_places)
{
	int fd = pm_open();
	struct page_migrate_result res;
	char *p, *q;

	pool_set(mem[1], H);
	p = map_huge(H, mem[0], MAP_PRIVATE | MAP_ANONYMOUS, -1);
	q = map_huge(H, mem[1], MAP_PRIVATE | MAP_ANONYMOUS, -1);
	fill(p, N, 3);
	fill(q, N, 4);
	ASSERT_LE(0, pm_move(fd, 0, NULL, ~0UL, 0, 2, SWAP_OLD, SWAP_NEW, &res)) pm_print(&res);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_TRUE(all_on(0, q, N, &mem[0], 1));
	EXPECT_EQ(0, bad_pages(p, N, 3));
	EXPECT_EQ(0, bad_pages(q, N, 4));
	munmap(p, H * HPAGE);
	munmap(q, H * HPAGE);
}

static void huge_child(struct child *c, void *arg)
{
	touch(arg, N);
	child_put(c, bad_pages(arg, N, 5));
	child_get(c);
	child_put(c, bad_pages(arg, N, 5));
}

TEST_F(pool, shared_and_mapped_twice)
{
	int fd = pm_open(), file = memfd_create("huge", MFD_HUGETLB);
	struct page_migrate_result res;
	struct child c;
	char *p, *q;

	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, H * HPAGE));
	p = map_huge(H, mem[0], MAP_SHARED, file);
	q = map_huge(H, mem[0], MAP_SHARED, file);
	fill(p, N, 5);
	child_start(&c, huge_child, p);
	ASSERT_EQ(0, child_get(&c));
	ASSERT_EQ(pfn_of(p), pfn_of_pid(c.pid, p));

	ASSERT_LE(0, pm_move(fd, 0, NULL, ~0UL, 0, 2, SWAP_OLD, SWAP_NEW, &res)) pm_print(&res);
	EXPECT_LE(N, res.moved);
	EXPECT_LE(N, res.already_moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_TRUE(all_on(0, q, N, &mem[1], 1));
	EXPECT_TRUE(all_on(c.pid, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(q, N, 5));
	child_put(&c, 0);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
	munmap(p, H * HPAGE);
	munmap(q, H * HPAGE);
	close(file);
}

TEST_F(pool, partly_in_the_range)
{
	int fd = pm_open();
	char *p = map_huge(2, mem[0], MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct page_migrate_result res;

	fill(p, 2 * HPAGE_NR, 6);
	ASSERT_EQ(0, pm_move(fd, 0, p + 500 * PAGE, 100 * PAGE, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(100, res.moved);
	EXPECT_EQ(100, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, 2 * HPAGE_NR, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, 2 * HPAGE_NR, 6));
	munmap(p, 2 * HPAGE);
}

/* Huge pages without room are counted, and the small ones move all the same. */
TEST_F(pool, no_room)
{
	enum { BIG = 16, SMALL = 600 };
	int fd = pm_open();
	struct page_migrate_result res;
	char *base, *lo, *p, *hi;
	size_t stayed;
	long ret;

	/* Small pages below and above the huge ones. */
	base = reserve((BIG + 2) * HPAGE_NR);
	lo = map_fixed(base, SMALL / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	hi = map_fixed(base + (BIG + 1) * HPAGE, SMALL / 2, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	place_pages(lo, SMALL / 2, &mem[0], 1);
	place_pages(hi, SMALL / 2, &mem[0], 1);
	fill(lo, SMALL / 2, 7);
	fill(hi, SMALL / 2, 8);
	bind_to(mem[0]);
	p = map_fixed(base + HPAGE, BIG * HPAGE_NR, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	for (int i = 0; i < BIG; i++)
		p[i * HPAGE] = 1;
	bind_to(-1);
	fill(p, BIG * HPAGE_NR, 9);
	fragment_start(&self->frag, mem[1], 8192);

	ret = pm_move(fd, 0, base, (BIG + 2) * HPAGE, 0, 1, &mem[0], &mem[1], &res);
	EXPECT_EQ(-ENOMEM, ret) pm_print(&res);
	stayed = count_on(0, p, BIG * HPAGE_NR, mem[0]);
	EXPECT_LT(0, stayed);
	EXPECT_EQ(stayed, res.no_memory);
	EXPECT_EQ(SMALL + BIG * HPAGE_NR - stayed, res.moved);
	EXPECT_EQ(SMALL + BIG * HPAGE_NR, pm_sum(&res));
	EXPECT_TRUE(come_to_rest_on(lo, SMALL / 2, mem[1]));
	EXPECT_TRUE(come_to_rest_on(hi, SMALL / 2, mem[1]));
	EXPECT_EQ(0, bad_pages(lo, SMALL / 2, 7));
	EXPECT_EQ(0, bad_pages(hi, SMALL / 2, 8));
	EXPECT_EQ(0, bad_pages(p, BIG * HPAGE_NR, 9));
	munmap(p, BIG * HPAGE);
}

TEST_HARNESS_MAIN
