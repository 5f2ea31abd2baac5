// SPDX-License-Identifier: GPL-2.0
/* The page cache of a file on a disk: what moves stays right on the disk. */
#include "harness.h"
#include "mem_util.h"

enum { N = 600 };

#define WRITEBACK "/proc/sys/vm/dirty_writeback_centisecs"

FIXTURE(file)
{
	char path[128], writeback[16];
	int file;
};

FIXTURE_SETUP(file)
{
	/* Dirty pages stay dirty until a test says otherwise. */
	ASSERT_EQ(0, file_read(WRITEBACK, self->writeback, sizeof(self->writeback)));
	ASSERT_EQ(0, file_write(WRITEBACK, "0"));
	self->file = scratch_file("file", self->path, sizeof(self->path));
}

FIXTURE_TEARDOWN(file)
{
	file_write(WRITEBACK, self->writeback);
	close(self->file);
	unlink(self->path);
}

static char *map_file(int file, int prot, int flags)
{
	char *p = mmap(NULL, N * PAGE, prot, flags, file, 0);

	if (p == MAP_FAILED)
		die("mmap of a file");
	/* khugepaged would take pages out of the page table to merge them. */
	if (advise(p, N * PAGE, MADV_NOHUGEPAGE))
		die("madvise");
	touch(p, N);
	if (!all_on(0, p, N, &mem[0], 1))
		die("the page cache is not where it was placed");
	return p;
}

static size_t dirty(const char *p)
{
	size_t n = 0;

	for (int i = 0; i < N; i++)
		n += has_flag(p + i * PAGE, KPF_DIRTY);
	return n;
}

TEST_F(file, clean_shared_read_only)
{
	int fd = pm_open();
	uint64_t moved;
	char *p;

	file_fill(self->file, N, 1, &mem[0], 1);
	ASSERT_EQ(0, fsync(self->file));
	p = map_file(self->file, PROT_READ, MAP_SHARED);
	ASSERT_EQ(0, dirty(p));
	ASSERT_EQ(0, move_patiently(fd, 0, p, N * PAGE, 1, &mem[0], &mem[1], &moved));
	EXPECT_EQ(N, moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, dirty(p));
	EXPECT_EQ(0, bad_pages(p, N, 1));
	munmap(p, N * PAGE);
	EXPECT_EQ(0, bad_on_disk(self->path, N, 1));
}

TEST_F(file, dirty_shared_writable)
{
	int fd = pm_open();
	struct page_migrate_result res;
	char *p;
	long ret;

	file_fill(self->file, N, 2, &mem[0], 1);
	ASSERT_EQ(0, fsync(self->file));
	p = map_file(self->file, PROT_READ | PROT_WRITE, MAP_SHARED);
	fill(p, N, 3);
	ret = pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res);
	ASSERT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 3));
	/* What was written before the move reaches the disk, and what is after. */
	EXPECT_EQ(0, bad_on_disk(self->path, N, 3));
	fill(p, N, 4);
	munmap(p, N * PAGE);
	EXPECT_EQ(0, bad_on_disk(self->path, N, 4));
}

TEST_F(file, dirty_by_write)
{
	int fd = pm_open();
	struct page_migrate_result res;
	char *p;

	file_fill(self->file, N, 5, &mem[0], 1);
	p = map_file(self->file, PROT_READ, MAP_SHARED);
	ASSERT_EQ(N, dirty(p));
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(N, dirty(p));
	EXPECT_EQ(0, bad_pages(p, N, 5));
	munmap(p, N * PAGE);
	EXPECT_EQ(0, bad_on_disk(self->path, N, 5));
}

TEST_F(file, private_read_only)
{
	int fd = pm_open();
	uint64_t moved;
	char *p;

	file_fill(self->file, N, 6, &mem[0], 1);
	ASSERT_EQ(0, fsync(self->file));
	p = map_file(self->file, PROT_READ, MAP_PRIVATE);
	ASSERT_EQ(0, move_patiently(fd, 0, p, N * PAGE, 1, &mem[0], &mem[1], &moved));
	EXPECT_EQ(N, moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 6));
}

TEST_F(file, private_copies)
{
	int fd = pm_open();
	uint64_t moved;
	char *p, *shared;

	file_fill(self->file, N, 7, &mem[0], 1);
	ASSERT_EQ(0, fsync(self->file));
	p = map_file(self->file, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	bind_to(mem[0]);
	fill(p, N / 2, 8);
	bind_to(-1);
	ASSERT_TRUE(has_flag(p, KPF_ANON));
	ASSERT_TRUE(all_on(0, p, N, &mem[0], 1));
	ASSERT_EQ(0, move_patiently(fd, 0, p, N * PAGE, 1, &mem[0], &mem[1], &moved));
	EXPECT_EQ(N, moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N / 2, 8));
	/* The file's own pages under the copies are not mapped and stay. */
	shared = mmap(NULL, N * PAGE, PROT_READ, MAP_SHARED, self->file, 0);
	ASSERT_NE(MAP_FAILED, shared);
	touch(shared, N);
	EXPECT_TRUE(all_on(0, shared, N / 2, &mem[0], 1));
	EXPECT_TRUE(all_on(0, shared + N / 2 * PAGE, N / 2, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(shared, N, 7));
	munmap(shared, N * PAGE);
	munmap(p, N * PAGE);
	EXPECT_EQ(0, bad_on_disk(self->path, N, 7));
}

TEST_F(file, deleted_and_still_mapped)
{
	int fd = pm_open();
	struct page_migrate_result res;
	char *p, *buf = malloc(N * PAGE);

	file_fill(self->file, N, 9, &mem[0], 1);
	p = map_file(self->file, PROT_READ | PROT_WRITE, MAP_SHARED);
	ASSERT_EQ(0, unlink(self->path));
	fill(p, N, 10);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 10));
	/* Still the same file behind the descriptor, on the disk as well. */
	ASSERT_EQ(0, fsync(self->file));
	munmap(p, N * PAGE);
	file_write("/proc/sys/vm/drop_caches", "1");
	ASSERT_EQ((ssize_t)(N * PAGE), pread(self->file, buf, N * PAGE, 0));
	EXPECT_EQ(0, bad_pages(buf, N, 10));
}

static void reading_child(struct child *c, void *arg)
{
	int file = *(int *)arg;
	char *p = mmap(NULL, N * PAGE, PROT_READ, MAP_SHARED, file, 0);

	touch(p, N);
	child_put(c, (uintptr_t)p);
	child_get(c);
	child_put(c, bad_pages(p, N, 11));
}

TEST_F(file, mapped_by_two_processes)
{
	int fd = pm_open();
	struct child c;
	uint64_t moved;
	char *p, *q;

	file_fill(self->file, N, 11, &mem[0], 1);
	ASSERT_EQ(0, fsync(self->file));
	p = map_file(self->file, PROT_READ, MAP_SHARED);
	child_start(&c, reading_child, &self->file);
	q = (char *)child_get(&c);
	ASSERT_EQ(0, move_patiently(fd, c.pid, q, N * PAGE, 1, &mem[0], &mem[1], &moved));
	EXPECT_EQ(N, moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_TRUE(all_on(c.pid, q, N, &mem[1], 1));
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
}

/* Read ahead, the page cache is in large folios: they move whole. */
TEST_F(file, large_folios)
{
	enum { BIG = 4096 };
	int fd = pm_open();
	size_t large = 0, after = 0, present;
	struct page_migrate_result res;
	uint64_t moved;
	char *p;

	if (!has_thp())
		SKIP(return, NO_THP);
	file_fill(self->file, BIG, 12, &mem[1], 1);
	ASSERT_EQ(0, fsync(self->file));
	file_write("/proc/sys/vm/drop_caches", "1");
	bind_to(mem[0]);
	ASSERT_EQ(0, posix_fadvise(self->file, 0, 0, POSIX_FADV_SEQUENTIAL));
	p = mmap(NULL, BIG * PAGE, PROT_READ, MAP_SHARED, self->file, 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, advise(p, BIG * PAGE, MADV_NOHUGEPAGE));
	for (int i = 0; i < BIG; i += 16) {
		char buf[16 * PAGE];

		ASSERT_EQ((ssize_t)sizeof(buf), pread(self->file, buf, sizeof(buf), i * PAGE));
	}
	touch(p, BIG);
	bind_to(-1);
	ASSERT_TRUE(all_on(0, p, BIG, &mem[0], 1));
	for (int i = 0; i < BIG; i++)
		large += has_flag(p + i * PAGE, KPF_COMPOUND_TAIL);
	ASSERT_LT(0, large);
	present = present_pages(0, p, BIG);
	/* A range that cuts folios: nothing is counted but what is inside. */
	ASSERT_EQ(0, pm_move(fd, 0, p + 3 * PAGE, 10 * PAGE, PAGE_MIGRATE_DRY_RUN, 1, &mem[0],
			     &mem[1], &res));
	EXPECT_EQ(10, res.moved);
	EXPECT_EQ(10, pm_sum(&res));
	ASSERT_EQ(0, move_patiently(fd, 0, p, BIG * PAGE, 1, &mem[0], &mem[1], &moved));
	EXPECT_EQ(present, moved);
	EXPECT_TRUE(all_on(0, p, BIG, &mem[1], 1));
	for (int i = 0; i < BIG; i++)
		after += has_flag(p + i * PAGE, KPF_COMPOUND_TAIL);
	EXPECT_EQ(large, after);
	EXPECT_EQ(0, bad_pages(p, BIG, 12));
}

/*
 * A file system whose blocks are larger than a page: its folios cannot be split.
 * Where the named node has room for pages, but not for blocks, another new node
 * takes them.
 */
TEST(large_blocks)
{
	enum { BLOCK = 65536, BLOCKS = 512, NPAGES = BLOCKS * (BLOCK / PAGE) };
	const int old[] = { mem[0], mem[2] }, new[] = { mem[1], mem[3] };
	const int keep[] = { mem[1], mem[3] };
	char *p, *buf = malloc(BLOCKS * BLOCK);
	struct page_migrate_result res;
	struct fragment frag;
	int fd = pm_open(), file;
	size_t there, cut = 0;

	/* The kernel has such file systems only together with huge pages. */
	if (!has_thp())
		SKIP(return, NO_THP);
	ASSERT_EQ(0, system("modprobe loop && mkfs.ext4 -q -F -b 65536 " SCRATCH
			    "/blocks.img 96M 2>/dev/null && "
			    "mount -o loop " SCRATCH "/blocks.img /mnt"));
	file = open("/mnt/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, file);
	ASSERT_NE(NULL, buf);
	fill(buf, NPAGES, 13);
	/* One by one, so that there is a folio for each block. */
	bind_to(mem[0]);
	for (int i = 0; i < BLOCKS; i++)
		ASSERT_EQ(BLOCK, pwrite(file, buf + i * BLOCK, BLOCK, (off_t)i * BLOCK));
	ASSERT_EQ(0, fsync(file));
	p = mmap(NULL, NPAGES * PAGE, PROT_READ, MAP_SHARED, file, 0);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, advise(p, NPAGES * PAGE, MADV_NOHUGEPAGE));
	/* Else those that have just arrived would be dropped to make room for more. */
	ASSERT_EQ(0, mlock(p, NPAGES * PAGE));
	bind_to(-1);
	ASSERT_TRUE(all_on(0, p, NPAGES, &mem[0], 1));

	fragment_start(&frag, mem[1], NPAGES + 4096);
	EXPECT_EQ(0, pm_move(fd, 0, p, NPAGES * PAGE, 0, 2, old, new, &res)) pm_print(&res);
	EXPECT_EQ(NPAGES, res.moved + res.moved_fallback) pm_print(&res);
	/* How many depends on what the node still has in larger pieces. */
	TH_LOG("%llu pages found no room in one piece", (long long)res.moved_fallback);
	there = count_at_rest(p, NPAGES, keep[0], res.moved);
	EXPECT_EQ(res.moved, there);
	EXPECT_EQ(res.moved_fallback, count_on(0, p, NPAGES, keep[1]));
	for (int i = 0; i < NPAGES; i += BLOCK / PAGE)
		cut += pfn_of(p + i * PAGE) % (BLOCK / PAGE) ||
		       !has_flag(p + (i + 1) * PAGE, KPF_COMPOUND_TAIL);
	EXPECT_EQ(0, cut);
	EXPECT_EQ(0, bad_pages(p, NPAGES, 13));
	fragment_end(&frag);

	munmap(p, NPAGES * PAGE);
	close(file);
	free(buf);
	EXPECT_EQ(0, umount("/mnt"));
	EXPECT_EQ(0, unlink(SCRATCH "/blocks.img"));
}

TEST_HARNESS_MAIN
