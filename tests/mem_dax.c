// SPDX-License-Identifier: GPL-2.0
/*
 * Files on persistent memory that are mapped without the page cache (DAX). Their
 * pages are the device itself. A private copy of one is memory like any other.
 *
 * These tests need a machine with such a device, /dev/pmem0.
 */
#include "harness.h"
#include "mem_util.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <linux/fs.h>

#define DEVICE "/dev/pmem0"
#define MNT "/mnt"
#define FILE_ON_DAX MNT "/file"

enum { N = 2 * HPAGE_NR, COPIES = N / 4 };

FIXTURE(dax)
{
	int fd, file, node;
	char *p;		/* where the test maps the file */
	uint64_t pfns[N];
	bool mounted;
};

static void run(const char *command)
{
	if (system(command))
		die("%s", command);
}

static bool is_copy(size_t i)
{
	return i % 4 == 1;
}

/* A file of N pages, filled, whose blocks can be mapped by whole PMDs. */
FIXTURE_SETUP(dax)
{
	char text[16];

	self->fd = pm_open();
	if (system("modprobe -a nd_e820 nd_pmem"))
		SKIP(return, "no driver for persistent memory");
	for (int i = 0; i < 600 && access(DEVICE, F_OK); i++)
		usleep(100000);
	ASSERT_EQ(0, access(DEVICE, F_OK)) TH_LOG("no " DEVICE);
	ASSERT_EQ(0, file_read("/sys/block/pmem0/device/numa_node", text, sizeof(text)));
	self->node = atoi(text);
	run("mkfs.ext4 -q -F -b 4096 -E stride=512,stripe_width=512 " DEVICE);
	ASSERT_EQ(0, mount(DEVICE, MNT, "ext4", 0, "dax=always"));
	self->mounted = true;
	self->file = open(FILE_ON_DAX, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	ASSERT_LE(0, self->file);
	ASSERT_EQ(0, fallocate(self->file, 0, 0, N * PAGE));
	file_fill(self->file, N, 1, &mem[0], 1);
	ASSERT_EQ(0, fsync(self->file));
	self->p = reserve(N);
}

FIXTURE_TEARDOWN(dax)
{
	if (!self->mounted)
		return;
	munmap(self->p, N * PAGE);
	close(self->file);
	umount(MNT);
}

static void remember_frames(FIXTURE_DATA(dax) *self)
{
	for (size_t i = 0; i < N; i++)
		self->pfns[i] = pfn_of(self->p + i * PAGE);
}

/* Maps the file and copies every fourth page by writing to it. */
static void map_with_copies(FIXTURE_DATA(dax) *self)
{
	map_fixed(self->p, N, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->file, 0);
	touch(self->p, N);
	bind_to(mem[0]);
	for (size_t i = 0; i < N; i++) {
		if (is_copy(i))
			memset(self->p + i * PAGE, i, PAGE);
	}
	bind_to(-1);
	/* A huge mapping goes when a part of it is copied. */
	touch(self->p, N);
	remember_frames(self);
}

static void expect_intact(struct __test_metadata *_metadata, FIXTURE_DATA(dax) *self)
{
	size_t bad = 0;

	for (size_t i = 0; i < N; i++) {
		char *page = self->p + i * PAGE;

		if (is_copy(i))
			bad += page[0] != (char)i || memcmp(page, page + 1, PAGE - 1);
		else
			bad += page_is_bad(page, i, 1);
	}
	EXPECT_EQ(0, bad);
}

/* Copies are on a node; the device's pages are where they were. */
static void expect_copies_on(struct __test_metadata *_metadata, FIXTURE_DATA(dax) *self, int node)
{
	size_t on = 0, moved = 0;

	for (size_t i = 0; i < N; i++) {
		char *page = self->p + i * PAGE;

		if (is_copy(i))
			on += node_of(page) == node;
		else
			moved += pfn_of(page) != self->pfns[i];
	}
	EXPECT_EQ(COPIES, on);
	EXPECT_EQ(0, moved);
}

static uint64_t placement_sum(FIXTURE_DATA(dax) *self, uint64_t *on)
{
	uint64_t sum = 0;

	if (pm_placement(self->fd, 0, self->p, N * PAGE, on))
		die("PLACEMENT");
	for (int i = 0; i < MAX_NODES; i++)
		sum += on[i];
	return sum;
}

/* The nodes of the copies and of the device, to a third one. */
static int to_third(FIXTURE_DATA(dax) *self, int *old, int *new)
{
	int n = 0, third = mem[1] == self->node ? mem[2] : mem[1];

	old[n] = mem[0];
	new[n++] = third;
	if (self->node != mem[0]) {
		old[n] = self->node;
		new[n++] = third;
	}
	return n;
}

TEST_F(dax, private_copies)
{
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];
	int old[2], new[2], n = to_third(self, old, new);

	map_with_copies(self);
	EXPECT_EQ(COPIES, placement_sum(self, on));
	EXPECT_EQ(COPIES, on[mem[0]]);
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, PAGE_MIGRATE_DRY_RUN, n, old, new,
			     &res));
	EXPECT_EQ(COPIES, res.moved) pm_print(&res);
	expect_copies_on(_metadata, self, mem[0]);
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, n, old, new, &res))
		pm_print(&res);
	EXPECT_EQ(COPIES, res.moved) pm_print(&res);
	EXPECT_EQ(COPIES, pm_sum(&res)) pm_print(&res);
	expect_copies_on(_metadata, self, new[0]);
	expect_intact(_metadata, self);
	EXPECT_EQ(COPIES, placement_sum(self, on));
	EXPECT_EQ(COPIES, on[new[0]]);
	/* With the whole process, back. */
	ASSERT_LE(0, pm_move(self->fd, 0, NULL, ~0UL, 0, 1, new, old, &res));
	expect_copies_on(_metadata, self, mem[0]);
	expect_intact(_metadata, self);
	EXPECT_EQ(0, nr_isolated());
}

/* The file itself has not changed. */
TEST_F(dax, file_is_untouched)
{
	int old[2], new[2], n = to_third(self, old, new);
	char *buf = malloc(N * PAGE);

	map_with_copies(self);
	ASSERT_LE(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, n, old, new, NULL));
	ASSERT_EQ((ssize_t)(N * PAGE), pread(self->file, buf, N * PAGE, 0));
	EXPECT_EQ(0, bad_pages(buf, N, 1));
	free(buf);
}

TEST_F(dax, marked_file)
{
	struct page_migrate_result res;
	int old[2], new[2], n = to_third(self, old, new);

	map_with_copies(self);
	ASSERT_EQ(0, fsetxattr(self->file, "trusted.migrate", "none", 4, 0));
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, n, old, new, &res));
	EXPECT_EQ(COPIES, res.exempt) pm_print(&res);
	EXPECT_EQ(COPIES, pm_sum(&res)) pm_print(&res);
	expect_copies_on(_metadata, self, mem[0]);
	ASSERT_EQ(0, fsetxattr(self->file, "trusted.migrate", "lib", 3, 0));
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, n, old, new, &res));
	EXPECT_EQ(COPIES, res.moved) pm_print(&res);
	expect_copies_on(_metadata, self, new[0]);
	expect_intact(_metadata, self);
}

TEST_F(dax, shared)
{
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];
	int old[2], new[2], n = to_third(self, old, new);
	size_t moved = 0;

	map_fixed(self->p, N, PROT_READ | PROT_WRITE, MAP_SHARED, self->file, 0);
	fill(self->p, N, 2);
	remember_frames(self);
	EXPECT_EQ(0, placement_sum(self, on));
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, n, old, new, &res));
	EXPECT_EQ(0, pm_sum(&res)) pm_print(&res);
	for (size_t i = 0; i < N; i++)
		moved += pfn_of(self->p + i * PAGE) != self->pfns[i];
	EXPECT_EQ(0, moved);
	EXPECT_EQ(0, bad_pages(self->p, N, 2));
}

/* Which of the pages are mapped by a PMD. */
static size_t huge_mapped(FIXTURE_DATA(dax) *self)
{
	struct page_region regions[16];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)self->p,
		.end = (uintptr_t)self->p + N * PAGE,
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_LEN(regions),
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
	size_t pages = 0;

	if (n < 0)
		die("PAGEMAP_SCAN");
	close(pagemap);
	for (long i = 0; i < n; i++)
		pages += (regions[i].end - regions[i].start) / PAGE;
	return pages;
}

/* Huge mappings of the device stay whole, whoever looks at them. */
TEST_F(dax, huge_mappings)
{
	static uint64_t on[MAX_NODES];
	struct page_migrate_result res;
	int old[2], new[2], n = to_third(self, old, new);
	long split;

	if (!has_thp())
		SKIP(return, NO_THP);
	map_fixed(self->p, N, PROT_READ | PROT_WRITE, MAP_SHARED, self->file, 0);
	fill(self->p, N, 3);
	remember_frames(self);
	ASSERT_EQ(N, huge_mapped(self));
	split = vmstat("thp_split_pmd");
	EXPECT_EQ(0, placement_sum(self, on));
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, n, old, new, &res));
	EXPECT_EQ(0, pm_sum(&res)) pm_print(&res);
	/* A part of one. */
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p + 7 * PAGE, 100 * PAGE, 0, n, old, new, &res));
	EXPECT_EQ(0, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(N, huge_mapped(self));
	EXPECT_EQ(split, vmstat("thp_split_pmd"));
	EXPECT_EQ(self->pfns[N - 1], pfn_of(self->p + (N - 1) * PAGE));
	EXPECT_EQ(0, bad_pages(self->p, N, 3));
}

/* One huge mapping with a copy in it, and one without, which stays whole. */
TEST_F(dax, copy_beside_a_huge_mapping)
{
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];
	int old[2], new[2], n = to_third(self, old, new);
	size_t huge;

	if (!has_thp())
		SKIP(return, NO_THP);
	map_fixed(self->p, N, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->file, 0);
	touch(self->p, N);
	ASSERT_EQ(N, huge_mapped(self));
	bind_to(mem[0]);
	memset(self->p + 9 * PAGE, 9, PAGE);
	bind_to(-1);
	touch(self->p, N);
	huge = huge_mapped(self);
	ASSERT_EQ(HPAGE_NR, huge);
	EXPECT_EQ(1, placement_sum(self, on));
	EXPECT_EQ(1, on[mem[0]]);
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, n, old, new, &res));
	EXPECT_EQ(1, res.moved) pm_print(&res);
	EXPECT_EQ(1, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(new[0], node_of(self->p + 9 * PAGE));
	EXPECT_EQ(9, self->p[9 * PAGE + 77]);
	EXPECT_EQ(huge, huge_mapped(self));
	EXPECT_FALSE(page_is_bad(self->p + 8 * PAGE, 8, 1));
}

/* The system call leaves the whole mapping, copies and all. */
TEST_F(dax, migrate_pages)
{
	unsigned long from = 1UL << mem[0], to;
	int old[2], new[2];

	to_third(self, old, new);
	to = 1UL << new[0];
	map_with_copies(self);
	ASSERT_LE(0, syscall(__NR_migrate_pages, 0, 64, &from, &to));
	expect_copies_on(_metadata, self, mem[0]);
	expect_intact(_metadata, self);
}

TEST_HARNESS_MAIN
