// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that its process gives back while it waits to be moved. Such pages have
 * not moved, and they are not left behind: they count as gone.
 *
 * No page can have moved to a node without having been allocated there. The
 * kernel's own counters of migration do not tell: they count a page that was
 * freed in time as a success.
 */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <stdatomic.h>

enum { CHURN = 8 * HPAGE_NR, QUIET = HPAGE_NR, ALL = CHURN + QUIET };

#define ALLOC TRACING "/events/kmem/mm_page_alloc"

/* The frames of a node, from the lowest to the one behind the highest. */
static void frames_of(int node, unsigned long *first, unsigned long *end)
{
	unsigned long spanned = 0, start, last = 0;
	char line[256];
	int at = -1;
	FILE *f = fopen("/proc/zoneinfo", "re");

	*first = ~0UL;
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %d,", &at) == 1 || at != node)
			spanned = 0;
		sscanf(line, " spanned %lu", &spanned);
		if (at != node || sscanf(line, " start_pfn: %lu", &start) != 1 || !spanned)
			continue;
		if (start < *first)
			*first = start;
		if (start + spanned > last)
			last = start + spanned;
	}
	if (!f || !last)
		die("/proc/zoneinfo");
	fclose(f);
	*end = last;
}

/* What churn does with its memory, in one round. */
struct churn {
	void (*round)(struct churn *c);
	char *p;
	int file;
	atomic_bool stop;
	atomic_long rounds;
};

static void write_pages(struct churn *c, size_t step)
{
	for (size_t i = 0; i < CHURN; i += step)
		((volatile char *)c->p)[i * PAGE] = 1;
}

static void give_back(char *p, size_t npages)
{
	if (madvise(p, npages * PAGE, MADV_DONTNEED))
		die("MADV_DONTNEED");
}

static void round_free(struct churn *c)
{
	write_pages(c, 1);
	give_back(c->p, CHURN);
}

static void round_map_anew(struct churn *c)
{
	map_fixed(c->p, CHURN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (advise(c->p, CHURN * PAGE, MADV_NOHUGEPAGE))
		die("MADV_NOHUGEPAGE");
	write_pages(c, 1);
}

static void round_truncate(struct churn *c)
{
	if (ftruncate(c->file, 0) || ftruncate(c->file, CHURN * PAGE))
		die("ftruncate");
	write_pages(c, 1);
}

static void round_free_parts(struct churn *c)
{
	write_pages(c, HPAGE_NR);
	for (size_t i = 0; i < CHURN; i += HPAGE_NR)
		give_back(c->p + i * PAGE, HPAGE_NR / 2);
	give_back(c->p, CHURN);
}

static void *churn_run(void *arg)
{
	struct churn *c = arg;

	bind_to(mem[0]);
	while (!c->stop) {
		c->round(c);
		c->rounds++;
	}
	return NULL;
}

FIXTURE(gone)
{
	char trigger[192];
	char *base, *quiet;
	int fd, file;
};

FIXTURE_VARIANT(gone)
{
	void (*round)(struct churn *c);
	bool shared, huge;
};

FIXTURE_VARIANT_ADD(gone, freed) { .round = round_free };
FIXTURE_VARIANT_ADD(gone, mapped_anew) { .round = round_map_anew };
FIXTURE_VARIANT_ADD(gone, truncated) { .round = round_truncate, .shared = true };
FIXTURE_VARIANT_ADD(gone, parts_of_huge_pages) { .round = round_free_parts, .huge = true };

/* Pages that move on with those that come and go lie behind them. */
FIXTURE_SETUP(gone)
{
	unsigned long first, end;

	if (variant->huge && !has_thp())
		SKIP(return, NO_THP);
	self->fd = pm_open();
	tracefs_mount();
	frames_of(mem[1], &first, &end);
	/* Movable pages of the new node, which is what user memory is. */
	snprintf(self->trigger, sizeof(self->trigger),
		 "hist:keys=order if migratetype == 1 && pfn >= %lu && pfn < %lu", first, end);
	ASSERT_EQ(0, file_write(ALLOC "/trigger", self->trigger));
	self->base = reserve(ALL);
	self->quiet = self->base + CHURN * PAGE;
	self->file = memfd_create("pm", 0);
	ASSERT_LE(0, self->file);
	ASSERT_EQ(0, ftruncate(self->file, CHURN * PAGE));
	if (variant->shared)
		map_fixed(self->base, CHURN, PROT_READ | PROT_WRITE, MAP_SHARED, self->file, 0);
	else
		map_fixed(self->base, CHURN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	ASSERT_EQ(0, advise(self->base, CHURN * PAGE,
			    variant->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	map_fixed(self->quiet, QUIET, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_EQ(0, advise(self->quiet, QUIET * PAGE, MADV_NOHUGEPAGE));
	place_pages(self->quiet, QUIET, &mem[0], 1);
	fill(self->quiet, QUIET, 1);
}

FIXTURE_TEARDOWN(gone)
{
	char text[200];

	if (!self->trigger[0])
		return;
	snprintf(text, sizeof(text), "!%s", self->trigger);
	file_write(ALLOC "/trigger", text);
	munmap(self->base, ALL * PAGE);
	close(self->file);
}

/* Allocations from a node that was asked for them, of whatever order. */
static uint64_t numa_hits(int node)
{
	char path[64], text[1024], *p;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/numastat", node);
	if (file_read(path, text, sizeof(text)))
		die("%s", path);
	p = strstr(text, "numa_hit ");
	if (!p)
		die("no numa_hit in %s", path);
	return strtoull(p + strlen("numa_hit "), NULL, 10);
}

/*
 * Pages that have been allocated on the new node. The kernel shows each allocation of
 * more than one page, but not each single page, of which it may be asked for many at a
 * time; it counts both once.
 */
static uint64_t arrivals(void)
{
	char text[8192];
	uint64_t pages = numa_hits(mem[1]);
	int order;
	unsigned long hits;

	if (file_read(ALLOC "/hist", text, sizeof(text)))
		die(ALLOC "/hist");
	for (char *p = text; (p = strstr(p, "{ order:")); p++)
		if (sscanf(p, "{ order: %d } hitcount: %lu", &order, &hits) == 2)
			pages += (uint64_t)hits * ((1UL << order) - 1);
	return pages;
}

/* A call while memory comes and goes. */
TEST_F(gone, is_not_moved)
{
	struct churn c = { .round = variant->round, .p = self->base, .file = self->file };
	uint64_t gone = 0, moved = 0, arrived = 0, back;
	struct page_migrate_result res;
	double end = now() + 90 * patience();
	int calls = 0;
	pthread_t t;

	ASSERT_EQ(0, pthread_create(&t, NULL, churn_run, &c));
	for (; (calls < 40 || !gone || c.rounds < 5) && now() < end; calls++) {
		uint64_t before = arrivals(), here;
		size_t quiet;
		long ret;

		ret = pm_move(self->fd, 0, self->base, ALL * PAGE,
			      PAGE_MIGRATE_KEEP_POLICY | PAGE_MIGRATE_NEW_JOB, 1, &mem[0], &mem[1],
			      &res);
		here = arrivals() - before;
		ASSERT_LE(0, ret) pm_print(&res);
		EXPECT_EQ(pm_left(&res), (uint64_t)ret);
		/* Each address was looked at once. */
		EXPECT_GE(ALL, pm_sum(&res)) pm_print(&res);
		EXPECT_GE(here, res.moved) pm_print(&res);
		quiet = count_on(0, self->quiet, QUIET, mem[1]);
		EXPECT_LE(quiet, res.moved) pm_print(&res);
		gone += res.gone;
		moved += res.moved;
		arrived += here;
		ASSERT_EQ(0, move_patiently(self->fd, 0, self->quiet, QUIET * PAGE, 1, &mem[1],
					    &mem[0], &back));
	}
	c.stop = true;
	pthread_join(t, NULL);
	TH_LOG("%d calls, %ld rounds: %lu moved, %lu gone, %lu allocated on the new node", calls,
	       (long)c.rounds, (unsigned long)moved, (unsigned long)gone, (unsigned long)arrived);
	EXPECT_LT(0, gone);
	EXPECT_GE(arrived, moved);
	EXPECT_EQ(0, bad_pages(self->quiet, QUIET, 1));
	EXPECT_EQ(0, nr_isolated());
}

/* Where nothing is given back, nothing is gone. */
TEST_F(gone, nothing)
{
	struct churn c = { .round = variant->round, .p = self->base, .file = self->file };
	struct page_migrate_result res;
	uint64_t before, present;

	bind_to(mem[0]);
	write_pages(&c, 1);
	bind_to(-1);
	fill(self->base, ALL, 2);
	present = present_pages(0, self->base, ALL);
	ASSERT_EQ(ALL, present);
	before = arrivals();
	ASSERT_EQ(0, pm_move(self->fd, 0, self->base, ALL * PAGE, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(ALL, res.moved) pm_print(&res);
	EXPECT_EQ(0, res.gone) pm_print(&res);
	EXPECT_LE(ALL, arrivals() - before);
	EXPECT_TRUE(all_on(0, self->base, ALL, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(self->base, ALL, 2));
}

TEST_HARNESS_MAIN
