// SPDX-License-Identifier: GPL-2.0
/* Large folios of anonymous memory: they move whole and stay large. */
#include "harness.h"
#include "mem_util.h"

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

/* Whether a run of pages is one large folio, by its frames. */
static bool one_folio(const char *p, size_t npages)
{
	uint64_t pfn = pfn_of(p);

	if (!pfn || !(kpageflags(pfn) >> KPF_COMPOUND_HEAD & 1))
		return false;
	for (size_t i = 1; i < npages; i++)
		if (pfn_of(p + i * PAGE) != pfn + i ||
		    !(kpageflags(pfn + i) >> KPF_COMPOUND_TAIL & 1))
			return false;
	return true;
}

static size_t whole_folios(const char *p, size_t n, size_t npages)
{
	size_t whole = 0;

	for (size_t i = 0; i < n; i++)
		whole += one_folio(p + i * npages * PAGE, npages);
	return whole;
}

TEST(mapped_by_pmd)
{
	enum { H = 4, N = H * HPAGE_NR };
	int fd = pm_open();
	char *p = map_thp(H, mem[0]);
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, N, 1);
	ASSERT_EQ(0, pm_move(fd, 0, p, H * HPAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ((long)(H * HPAGE / 1024), smaps_kb(0, p, "AnonHugePages"));
	EXPECT_EQ(0, bad_pages(p, N, 1));
}

TEST(mapped_by_pte)
{
	enum { H = 2, N = H * HPAGE_NR };
	int fd = pm_open();
	char *p = map_thp(H, mem[0]);
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, N, 2);
	ASSERT_EQ(0, mprotect(p + 100 * PAGE, PAGE, PROT_READ));
	ASSERT_EQ(0, smaps_kb(0, p, "AnonHugePages"));
	ASSERT_TRUE(one_folio(p, HPAGE_NR));
	ASSERT_EQ(0, pm_move(fd, 0, p, H * HPAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(H, whole_folios(p, H, HPAGE_NR));
	EXPECT_EQ(0, bad_pages(p, N, 2));
}

TEST(straddling_two_pmds)
{
	enum { N = HPAGE_NR };
	int fd = pm_open();
	char *p = map_thp(1, mem[0]), *t = reserve(2 * HPAGE_NR) + 5 * PAGE;
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, N, 3);
	ASSERT_EQ(t, mremap(p, HPAGE, HPAGE, MREMAP_MAYMOVE | MREMAP_FIXED, t));
	ASSERT_TRUE(one_folio(t, HPAGE_NR));
	/* A swap would show a folio that was taken for two. */
	ASSERT_EQ(0, pm_move(fd, 0, t, HPAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved + res.already_moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, t, N, &mem[1], 1));
	EXPECT_TRUE(one_folio(t, HPAGE_NR));
	EXPECT_EQ(0, bad_pages(t, N, 3));
}

TEST(partly_in_the_range)
{
	int fd = pm_open();
	char *p = map_thp(2, mem[0]);
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	/* From the middle of the first to the middle of the second. */
	fill(p, 2 * HPAGE_NR, 4);
	ASSERT_EQ(0, pm_move(fd, 0, p + 500 * PAGE, 100 * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res))
		pm_print(&res);
	/* Pages outside move with the folio, uncounted. */
	EXPECT_EQ(100, res.moved);
	EXPECT_EQ(100, pm_sum(&res));
	EXPECT_EQ((uintptr_t)p + 600 * PAGE, res.resume_va);
	EXPECT_TRUE(all_on(0, p, 2 * HPAGE_NR, &mem[1], 1));
	EXPECT_EQ((long)(2 * HPAGE / 1024), smaps_kb(0, p, "AnonHugePages"));
	EXPECT_EQ(0, bad_pages(p, 2 * HPAGE_NR, 4));
}

TEST(parts_far_apart)
{
	/* More pages lie between them than are moved at a time. */
	enum { FAR = 10000 };
	int fd = pm_open(), at[] = { mem[0], mem[1] };
	char *base = reserve(FAR + 4 * HPAGE_NR), *p = map_thp(1, mem[0]);
	char *mid = base + HPAGE, *far = mid + FAR * PAGE;
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, HPAGE_NR, 5);
	ASSERT_EQ(base, mremap(p, HPAGE / 2, HPAGE / 2, MREMAP_MAYMOVE | MREMAP_FIXED, base));
	ASSERT_EQ(far, mremap(p + HPAGE / 2, HPAGE / 2, HPAGE / 2,
			      MREMAP_MAYMOVE | MREMAP_FIXED, far));
	map_fixed(mid, FAR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_EQ(0, advise(mid, FAR * PAGE, MADV_NOHUGEPAGE));
	place_pages(mid, FAR, at, 2);
	ASSERT_EQ(pfn_of(base) + HPAGE_NR / 2, pfn_of(far));

	ASSERT_EQ(0, pm_move(fd, 0, base, far + HPAGE - base, 0, 2, SWAP_OLD, SWAP_NEW, &res))
		pm_print(&res);
	EXPECT_EQ(FAR + HPAGE_NR, pm_sum(&res));
	EXPECT_LE(HPAGE_NR / 2, res.already_moved) pm_print(&res);
	EXPECT_EQ(FAR + HPAGE_NR, res.moved + res.already_moved) pm_print(&res);
	EXPECT_TRUE(all_on(0, base, HPAGE_NR / 2, &mem[1], 1));
	EXPECT_TRUE(all_on(0, mid, FAR, SWAP_NEW, 2));
	EXPECT_TRUE(all_on(0, far, HPAGE_NR / 2, &mem[1], 1));
	EXPECT_EQ(pfn_of(base) + HPAGE_NR / 2, pfn_of(far));
	EXPECT_EQ(0, bad_pages(base, HPAGE_NR / 2, 5));
}

TEST(swap_of_huge_and_small)
{
	enum { H = 6 };
	int fd = pm_open();
	char *p[H], *s[H];
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	for (int i = 0; i < H; i++) {
		p[i] = map_thp(1, mem[i % 2]);
		fill(p[i], HPAGE_NR, i);
		s[i] = map_nodes(50, SWAP_OLD, 2);
		fill(s[i], 50, 100 + i);
	}
	ASSERT_LE(0, pm_move(fd, 0, NULL, ~0UL, 0, 2, SWAP_OLD, SWAP_NEW, &res)) pm_print(&res);
	for (int i = 0; i < H; i++) {
		EXPECT_TRUE(all_on(0, p[i], HPAGE_NR, &mem[1 - i % 2], 1));
		EXPECT_EQ((long)(HPAGE / 1024), smaps_kb(0, p[i], "AnonHugePages"));
		EXPECT_EQ(0, bad_pages(p[i], HPAGE_NR, i));
		EXPECT_TRUE(all_on(0, s[i], 50, SWAP_NEW, 2));
		EXPECT_EQ(0, bad_pages(s[i], 50, 100 + i));
	}
}

static void reading_child(struct child *c, void *arg)
{
	child_put(c, bad_pages(arg, HPAGE_NR, 6));
	child_get(c);
	child_put(c, bad_pages(arg, HPAGE_NR, 6));
}

TEST(shared_after_fork)
{
	int fd = pm_open();
	char *p = map_thp(1, mem[0]);
	struct page_migrate_result res;
	struct child c;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, HPAGE_NR, 6);
	child_start(&c, reading_child, p);
	ASSERT_EQ(0, child_get(&c));
	ASSERT_EQ(pfn_of(p), pfn_of_pid(c.pid, p));
	ASSERT_EQ(0, pm_move(fd, c.pid, p, HPAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(HPAGE_NR, res.moved);
	EXPECT_EQ(HPAGE_NR, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, HPAGE_NR, &mem[1], 1));
	EXPECT_TRUE(all_on(c.pid, p, HPAGE_NR, &mem[1], 1));
	EXPECT_EQ(pfn_of(p), pfn_of_pid(c.pid, p));
	EXPECT_TRUE(one_folio(p, HPAGE_NR));
	child_put(&c, 0);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
	EXPECT_EQ(0, bad_pages(p, HPAGE_NR, 6));
}

TEST(partly_unmapped)
{
	int fd = pm_open();
	char *p = map_thp(1, mem[0]);
	struct page_migrate_result res;
	size_t present;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, HPAGE_NR, 7);
	/* So that khugepaged does not fill the hole. */
	ASSERT_EQ(0, advise(p, HPAGE, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, madvise(p + 100 * PAGE, 200 * PAGE, MADV_DONTNEED));
	present = present_pages(0, p, HPAGE_NR);
	ASSERT_EQ(HPAGE_NR - 200, present);
	ASSERT_EQ(0, pm_move(fd, 0, p, HPAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(present, res.moved);
	EXPECT_EQ(present, pm_sum(&res));
	EXPECT_EQ(present, count_on(0, p, HPAGE_NR, mem[1]));
	EXPECT_EQ(0, bad_pages(p, 100, 7));
	EXPECT_EQ(0, p[150 * PAGE]);
}

TEST(locked)
{
	int fd = pm_open();
	char *p = map_thp(1, mem[0]);
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, HPAGE_NR, 8);
	ASSERT_EQ(0, mlock(p, HPAGE));
	ASSERT_EQ(0, pm_move(fd, 0, p, HPAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(HPAGE_NR, res.moved);
	EXPECT_TRUE(all_on(0, p, HPAGE_NR, &mem[1], 1));
	EXPECT_EQ((long)(HPAGE / 1024), smaps_kb(0, p, "AnonHugePages"));
	EXPECT_EQ((long)(HPAGE / 1024), smaps_kb(0, p, "Locked"));
	EXPECT_EQ(0, bad_pages(p, HPAGE_NR, 8));
}

/* No room for one page of them: nothing is won by a split. */
TEST(whole_where_the_node_is_full)
{
	enum { H = 16, N = H * HPAGE_NR };
	int fd = pm_open();
	char *p = map_thp(H, mem[0]);
	struct page_migrate_result res;
	struct child hog;
	size_t whole;
	long ret;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, N, 13);
	hog_start(&hog, mem[1]);
	ret = pm_move(fd, 0, p, H * HPAGE, PAGE_MIGRATE_STRICT, 1, &mem[0], &mem[1], &res);
	EXPECT_EQ(-ENOMEM, ret) pm_print(&res);
	EXPECT_EQ(N, res.moved + res.no_memory) pm_print(&res);
	EXPECT_EQ(N, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(res.moved, count_on(0, p, N, mem[1]));
	/* A page that kswapd gets back meanwhile may cost a batch of them. */
	whole = whole_folios(p, H, HPAGE_NR);
	EXPECT_LE(H / 2, whole) pm_print(&res);
	child_end(&hog);
	EXPECT_EQ(0, bad_pages(p, N, 13));
	/* With room, all go. */
	EXPECT_EQ(0, pm_move(fd, 0, p, H * HPAGE, PAGE_MIGRATE_STRICT, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_LE(whole, whole_folios(p, H, HPAGE_NR));
	EXPECT_EQ(0, bad_pages(p, N, 13));
}

#define MIN_FREE "/proc/sys/vm/min_free_kbytes"

FIXTURE(full)
{
	char unevictable[16], min_free[16];
};

FIXTURE_VARIANT(full)
{
	bool scattered;
};

/* What the kernel keeps free for itself may be in large pieces. */
FIXTURE_VARIANT_ADD(full, kept)
{
	.scattered = false,
};

/* All that is free is single pages, and no compaction makes more of them. */
FIXTURE_VARIANT_ADD(full, scattered)
{
	.scattered = true,
};

FIXTURE_SETUP(full)
{
	ASSERT_EQ(0, file_read(COMPACT_LOCKED, self->unevictable, sizeof(self->unevictable)));
	ASSERT_EQ(0, file_read(MIN_FREE, self->min_free, sizeof(self->min_free)));
	ASSERT_EQ(0, file_write(COMPACT_LOCKED, "0"));
}

FIXTURE_TEARDOWN(full)
{
	EXPECT_EQ(0, file_write(COMPACT_LOCKED, self->unevictable));
	EXPECT_EQ(0, file_write(MIN_FREE, self->min_free));
}

/*
 * Room for a few at a time: they change places, and most are still huge. What goes first
 * may have to be split; it leaves whole room behind.
 */
TEST_F(full, swap)
{
	enum { H = 16, N = H * HPAGE_NR, ROOM = 4 * HPAGE_NR };
	const int old[] = { mem[2], mem[3] }, new[] = { mem[3], mem[2] };
	int fd = pm_open();
	char *p = map_thp(H, old[0]), *q = map_thp(H, old[1]);
	struct page_migrate_result res;
	size_t whole, kept[2] = { };
	struct child a, b;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, N, 14);
	fill(q, N, 15);
	if (variant->scattered) {
		/* Now the hogs take what the kernel keeps, too. */
		for (int i = 0; i < 2; i++)
			kept[i] = node_watermark(old[i], "min");
		ASSERT_EQ(0, file_write(MIN_FREE, "4096"));
	}
	hog_start(&a, old[0]);
	hog_start(&b, old[1]);
	if (variant->scattered) {
		hog_scatter(&a, ROOM + kept[0]);
		hog_scatter(&b, ROOM + kept[1]);
		ASSERT_EQ(0, file_write(MIN_FREE, self->min_free));
	} else {
		hog_release(&a, ROOM);
		hog_release(&b, ROOM);
	}
	/* Only those two ranges: the hogs are other processes. */
	ASSERT_LE(0, pm_move(fd, 0, NULL, ~0UL, PAGE_MIGRATE_STRICT, 2, old, new, &res))
		pm_print(&res);
	child_end(&a);
	child_end(&b);
	EXPECT_EQ(0, res.no_memory) pm_print(&res);
	EXPECT_TRUE(all_on(0, p, N, &new[0], 1));
	EXPECT_TRUE(all_on(0, q, N, &new[1], 1));
	whole = whole_folios(p, H, HPAGE_NR) + whole_folios(q, H, HPAGE_NR);
	EXPECT_LE(H, whole);
	TH_LOG("%zu of %d are whole", whole, 2 * H);
	EXPECT_EQ(0, bad_pages(p, N, 14));
	EXPECT_EQ(0, bad_pages(q, N, 15));
}

#define MTHP_64K THP_DIR "hugepages-64kB/enabled"

FIXTURE(mthp)
{
	char was[64];
};

FIXTURE_SETUP(mthp)
{
	char *p, *end;

	if (!has_thp())
		SKIP(return, NO_THP);
	ASSERT_EQ(0, file_read(MTHP_64K, self->was, sizeof(self->was)));
	p = strchr(self->was, '[');
	ASSERT_NE(NULL, p);
	end = strchr(p, ']');
	ASSERT_NE(NULL, end);
	*end = 0;
	memmove(self->was, p + 1, end - p);
	ASSERT_EQ(0, file_write(MTHP_64K, "always"));
}

FIXTURE_TEARDOWN(mthp)
{
	EXPECT_EQ(0, file_write(MTHP_64K, self->was));
}

/* Less than a huge page, so only the smaller size fits. */
static char *map_mthp(size_t npages, int node)
{
	char *p = reserve(npages);

	map_fixed(p, npages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bind_to(node);
	for (size_t i = 0; i < npages; i++)
		p[i * PAGE] = 1;
	bind_to(-1);
	return p;
}

TEST_F(mthp, stays_large)
{
	enum { N = 256, ORDER = 16 };
	int fd = pm_open();
	char *p = map_mthp(N, mem[0]), *q = map_mthp(N, mem[1]);
	struct page_migrate_result res;

	ASSERT_EQ(N / ORDER, whole_folios(p, N / ORDER, ORDER));
	ASSERT_EQ(N / ORDER, whole_folios(q, N / ORDER, ORDER));
	fill(p, N, 9);
	fill(q, N, 10);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res)) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(N / ORDER, whole_folios(p, N / ORDER, ORDER));
	EXPECT_EQ(0, bad_pages(p, N, 9));

	/* A range that begins and ends inside of a folio: 3 + 16 + 5 pages. */
	ASSERT_EQ(0, pm_move(fd, 0, q + 13 * PAGE, 24 * PAGE, 0, 1, &mem[1], &mem[0], &res));
	EXPECT_EQ(24, res.moved);
	EXPECT_EQ(24, pm_sum(&res));
	EXPECT_TRUE(all_on(0, q, 48, &mem[0], 1));
	EXPECT_TRUE(all_on(0, q + 48 * PAGE, N - 48, &mem[1], 1));
	EXPECT_EQ(N / ORDER, whole_folios(q, N / ORDER, ORDER));
	EXPECT_EQ(0, bad_pages(q, N, 10));
}

FIXTURE(fragmented)
{
	struct fragment frag;
};

FIXTURE_SETUP(fragmented)
{
	if (!has_thp())
		SKIP(return, NO_THP);
}

FIXTURE_TEARDOWN(fragmented)
{
	fragment_end(&self->frag);
}

/* No room for a huge page on the new node, but for its pages. */
TEST_F(fragmented, split_and_moved)
{
	enum { H = 16, N = H * HPAGE_NR };
	int fd = pm_open();
	char *p = map_thp(H, mem[0]);
	struct page_migrate_result res;
	size_t whole;
	long ret;

	fill(p, N, 11);
	fragment_start(&self->frag, mem[1], N + 4096);
	ret = pm_move(fd, 0, p, H * HPAGE, 0, 1, &mem[0], &mem[1], &res);
	ASSERT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_EQ(0, bad_pages(p, N, 11));
	EXPECT_TRUE(come_to_rest_on(p, N, mem[1]));
	/* Else the node was not fragmented and the test shows nothing. */
	whole = whole_folios(p, H, HPAGE_NR);
	EXPECT_GT(H / 2, whole) TH_LOG("%zu are whole", whole);
}

/*
 * Nor is there room for all pages of what is split, and only the middle of each
 * huge page is in the range: what is counted is that middle, to the page.
 */
TEST_F(fragmented, split_and_counted)
{
	enum { H = 128, FROM = 100, N = 300, FEW = 100 };
	int fd = pm_open();
	char *p = map_thp(H, mem[0]) + FROM * PAGE, *room = map_node(H * FEW, mem[1]);
	struct page_migrate_result res;
	size_t all = 0, some = 0, none = 0;

	for (int i = 0; i < H; i++)
		fill(p + i * HPAGE, N, i);
	/* The kernel's own reserve has room for many more. */
	fragment_start(&self->frag, mem[1], HPAGE_NR);
	for (int i = 0; i < H && !some; i++, p += HPAGE) {
		long ret = pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res);

		ASSERT_EQ(res.no_memory ? -ENOMEM : 0, ret) pm_print(&res);
		EXPECT_EQ(N, res.moved + res.no_memory) pm_print(&res);
		EXPECT_EQ(N, pm_sum(&res)) pm_print(&res);
		EXPECT_EQ(res.moved, count_at_rest(p, N, mem[1], res.moved)) pm_print(&res);
		EXPECT_EQ(0, bad_pages(p, N, i));
		if (res.moved == N) {
			all++;
		} else if (res.moved) {
			some++;
		} else {
			/*
			 * Room for some pages of the next: how many, with what the
			 * kernel keeps back, is not the same each time.
			 */
			EXPECT_EQ(0, madvise(room + none * FEW * PAGE,
					     (none % 5 + 1) * FEW / 5 * PAGE, MADV_DONTNEED));
			none++;
		}
	}
	EXPECT_LT(0, some) TH_LOG("%zu moved, %zu stayed", all, none);
}

TEST_HARNESS_MAIN
