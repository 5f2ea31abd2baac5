// SPDX-License-Identifier: GPL-2.0
/* Shared memory: memfd, tmpfs files, System V, and huge pages of them. */
#include "harness.h"
#include "mem_util.h"

#include <sys/ipc.h>
#include <sys/shm.h>

static char *map_shared(int file, size_t npages)
{
	char *p = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static int new_memfd(size_t npages)
{
	int file = memfd_create("pm", MFD_CLOEXEC);

	if (file < 0 || ftruncate(file, npages * PAGE))
		die("memfd");
	return file;
}

/* Nodes in no order that helps: a fixed random sequence over n nodes. */
static void place_irregularly(char *p, size_t npages, int n, int *at)
{
	uint32_t seed = 12345;

	for (size_t i = 0; i < npages; i++)
		at[i] = mem[next_random(&seed) % n];
	place_pages(p, npages, at, npages);
}

TEST(memfd)
{
	enum { N = 1000 };
	int fd = pm_open(), file = new_memfd(N), at[] = { mem[0], mem[1] };
	char *p = map_shared(file, N), *buf = malloc(N * PAGE);
	struct page_migrate_result res;

	place_pages(p, N, at, 2);
	ASSERT_TRUE(all_on(0, p, N, at, 2));
	fill(p, N, 1);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, SWAP_NEW, 2));
	EXPECT_EQ(0, bad_pages(p, N, 1));
	/* And by the file, not by the mapping. */
	ASSERT_EQ((ssize_t)(N * PAGE), pread(file, buf, N * PAGE, 0));
	EXPECT_EQ(0, bad_pages(buf, N, 1));
}

TEST(file_on_tmpfs)
{
	enum { N = 500 };
	int fd = pm_open(), file;
	struct page_migrate_result res;
	char *p, *buf = malloc(N * PAGE);

	own_tmpfs("huge=never");
	file = open("/mnt/file", O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, file);
	file_fill(file, N, 2, &mem[0], 1);
	p = map_shared(file, N);
	touch(p, N);
	ASSERT_TRUE(all_on(0, p, N, &mem[0], 1));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 2));
	ASSERT_EQ(0, unlink("/mnt/file"));
	/* Deleted, and still mapped. */
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[1], &mem[2], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[2], 1));
	ASSERT_EQ((ssize_t)(N * PAGE), pread(file, buf, N * PAGE, 0));
	EXPECT_EQ(0, bad_pages(buf, N, 2));
}

TEST(private_copies_of_tmpfs_pages)
{
	enum { N = 200 };
	int fd = pm_open(), file;
	struct page_migrate_result res;
	char *p, *buf = malloc(N * PAGE);

	own_tmpfs("huge=never");
	file = open("/mnt/file", O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, file);
	file_fill(file, N, 3, &mem[0], 1);
	p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	ASSERT_NE(MAP_FAILED, p);
	touch(p, N);
	bind_to(mem[0]);
	memset(p, 0x44, N / 2 * PAGE);
	bind_to(-1);
	ASSERT_TRUE(all_on(0, p, N, &mem[0], 1));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0x44, p[(N / 2 - 1) * PAGE]);
	ASSERT_EQ((ssize_t)(N * PAGE), pread(file, buf, N * PAGE, 0));
	EXPECT_EQ(0, bad_pages(buf, N, 3));
}

TEST(system_v)
{
	enum { N = 500 };
	int fd = pm_open(), id = shmget(IPC_PRIVATE, N * PAGE, 0600 | IPC_CREAT);
	int at[] = { mem[0], mem[1] };
	struct page_migrate_result res;
	char *p;

	ASSERT_LE(0, id);
	p = shmat(id, NULL, 0);
	ASSERT_EQ(0, shmctl(id, IPC_RMID, NULL));
	ASSERT_NE((void *)-1, p);
	place_pages(p, N, at, 2);
	fill(p, N, 4);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, SWAP_NEW, 2));
	EXPECT_EQ(0, bad_pages(p, N, 4));
}

/* More pages than one batch, so that some are met again after their batch. */
TEST(mapped_twice)
{
	enum { N = 6000 };
	int fd = pm_open(), file = new_memfd(N), *from = malloc(N * 4), *to = malloc(N * 4);
	char *base = reserve(3 * N), *p, *q;
	struct page_migrate_result res;
	uint64_t by_pair[2];
	struct page_migrate_request req;
	size_t moving = 0;

	/* The second mapping begins in the middle of a page table. */
	p = map_fixed(base, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	q = map_fixed(base + (N + 77) * PAGE, N, PROT_READ, MAP_SHARED, file, 0);
	place_irregularly(p, N, 3, from);
	fill(p, N, 5);
	touch(q, N);
	nodes_of(0, p, N, from);
	for (int i = 0; i < N; i++)
		moving += from[i] != mem[2];

	req = pm_req(0, base, (2 * N + 77) * PAGE, 2, SWAP_OLD, SWAP_NEW);
	req.moved_by_pair = (uintptr_t)by_pair;
	ASSERT_EQ(0, pm_migrate(fd, &req)) pm_print(&req.result);
	res = req.result;
	EXPECT_EQ(moving, res.moved);
	EXPECT_EQ(moving, res.already_moved);
	EXPECT_EQ(2 * (N - moving), res.in_place);
	EXPECT_EQ(2 * N, pm_sum(&res));
	EXPECT_EQ(moving, by_pair[0] + by_pair[1]);
	nodes_of(0, p, N, to);
	EXPECT_TRUE(all_mapped(from, to, N, 2, SWAP_OLD, SWAP_NEW));
	EXPECT_EQ(0, bad_pages(q, N, 5));
}

static void sharing_child(struct child *c, void *arg)
{
	char *p = map_shared(*(int *)arg, 400);

	touch(p, 400);
	child_put(c, (uintptr_t)p);
	child_get(c);
	child_put(c, bad_pages(p, 400, 6));
	memset(p, 0x66, PAGE);
	child_put(c, 0);
}

TEST(shared_by_two_processes)
{
	enum { N = 400 };
	int fd = pm_open(), file = new_memfd(N);
	char *p = map_shared(file, N), *q;
	struct page_migrate_result res;
	struct child c;

	place_pages(p, N, &mem[0], 1);
	fill(p, N, 6);
	child_start(&c, sharing_child, &file);
	q = (char *)child_get(&c);
	ASSERT_EQ(0, pm_move(fd, c.pid, q, N * PAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(c.pid, q, N, &mem[1], 1));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_get(&c);
	EXPECT_EQ(0x66, p[0]);
	child_end(&c);
}

TEST(irregular_rotation)
{
	enum { N = 3000 };
	int fd = pm_open(), file = new_memfd(N), from[N], to[N];
	int old[] = { mem[0], mem[1], mem[2] }, new[] = { mem[1], mem[2], mem[0] };
	char *p = map_shared(file, N);
	struct page_migrate_result res;

	place_irregularly(p, N, 4, from);
	fill(p, N, 7);
	nodes_of(0, p, N, from);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 3, old, new, &res)) pm_print(&res);
	nodes_of(0, p, N, to);
	EXPECT_TRUE(all_mapped(from, to, N, 3, old, new));
	EXPECT_EQ(N, res.moved + res.in_place);
	EXPECT_EQ(count_on(0, p, N, mem[3]), res.in_place);
	EXPECT_EQ(0, bad_pages(p, N, 7));
}

TEST(pages_of_the_file_that_are_not_mapped)
{
	enum { N = 300, SEEN = 100 };
	int fd = pm_open(), file = new_memfd(N);
	struct page_migrate_result res;
	char *p;

	file_fill(file, N, 8, &mem[0], 1);
	p = map_shared(file, N);
	for (int i = 0; i < SEEN; i++) {
		/* A write fault brings in one page, a read fault those around it. */
		__atomic_fetch_or(p + i * PAGE, 0, __ATOMIC_RELAXED);
	}
	ASSERT_EQ(SEEN, present_pages(0, p, N));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(SEEN, res.moved);
	EXPECT_EQ(SEEN, pm_sum(&res));
	touch(p, N);
	EXPECT_TRUE(all_on(0, p, SEEN, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 8));
}

TEST(huge_pages)
{
	enum { H = 3, N = H * HPAGE_NR };
	int fd = pm_open(), file;
	struct page_migrate_result res;
	char *base = reserve(4 * N), *p, *q;

	if (!has_thp())
		SKIP(return, NO_THP);
	own_tmpfs("huge=always");
	file = open("/mnt/file", O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, N * PAGE));
	/* Once by PMD, once by PTE: the second is not aligned. */
	p = map_fixed(base, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	q = map_fixed(base + (N + HPAGE_NR + 9) * PAGE, N, PROT_READ, MAP_SHARED, file, 0);
	place_pages(p, N, &mem[0], 1);
	fill(p, N, 9);
	touch(q, N);
	ASSERT_TRUE(all_on(0, p, N, &mem[0], 1));
	ASSERT_EQ((long)(H * HPAGE / 1024), smaps_kb(0, p, "ShmemPmdMapped"));
	ASSERT_EQ(2 * N, present_pages(0, base, 4 * N));
	ASSERT_EQ(0, pm_move(fd, 0, base, 4 * N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res))
		pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, res.already_moved);
	EXPECT_EQ(2 * N, pm_sum(&res));
	touch(p, N);
	touch(q, N);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_TRUE(all_on(0, q, N, &mem[1], 1));
	/* Still large. */
	for (int i = 0; i < H; i++) {
		EXPECT_TRUE(has_flag(p + i * HPAGE, KPF_COMPOUND_HEAD));
		EXPECT_TRUE(has_flag(p + (i + 1) * HPAGE - PAGE, KPF_COMPOUND_TAIL));
		EXPECT_EQ(pfn_of(p + i * HPAGE) + HPAGE_NR - 1, pfn_of(p + (i + 1) * HPAGE - PAGE));
	}
	EXPECT_EQ(0, bad_pages(q, N, 9));
}

TEST_HARNESS_MAIN
