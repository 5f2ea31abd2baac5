// SPDX-License-Identifier: GPL-2.0
/* Which addresses a call covers, where it stops, and what it counts. */
#include "harness.h"
#include "util.h"

#include <fcntl.h>
#include <inttypes.h>

#define NPAGES 16

FIXTURE(range)
{
	int fd;
	char *p;
};

/* NPAGES pages on mem[0]. */
FIXTURE_SETUP(range)
{
	self->fd = pm_open();
	self->p = map_node(NPAGES, mem[0]);
	fill(self->p, NPAGES, 3);
}

FIXTURE_TEARDOWN(range)
{
	EXPECT_EQ(0, bad_pages(self->p, NPAGES, 3));
}

/* mem[0] to mem[2] in a range of this process. */
static long go(FIXTURE_DATA(range) *self, uint64_t va, uint64_t len,
	       struct page_migrate_result *res)
{
	struct page_migrate_request req = pm_req(0, NULL, 0, 1, &mem[0], &mem[2]);
	long ret;

	req.va_start = va;
	req.len = len;
	pm_poison(&req.result);
	ret = pm_migrate(self->fd, &req);
	*res = req.result;
	return ret;
}

/* Pages first..last-1 of the fixture are on mem[2], the rest on mem[0]. */
static bool only_moved(FIXTURE_DATA(range) *self, size_t first, size_t last)
{
	int want[NPAGES];

	for (size_t i = 0; i < NPAGES; i++)
		want[i] = i >= first && i < last ? mem[2] : mem[0];
	return all_on(0, self->p, NPAGES, want, NPAGES);
}

TEST_F(range, edges_of_pages)
{
	static const struct {
		size_t first, bytes, pages;
	} cases[] = {
		{ 3, 1, 1 },
		{ 3, PAGE - 1, 1 },
		{ 3, PAGE, 1 },
		{ 3, PAGE + 1, 2 },
		{ 3, 4 * PAGE - 1, 4 },
		{ 3, 4 * PAGE, 4 },
		{ 0, PAGE, 1 },
		{ NPAGES - 1, PAGE, 1 },
		{ NPAGES - 1, 1, 1 },
		{ 0, NPAGES * PAGE, NPAGES },
	};
	struct page_migrate_result res;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t va = (uintptr_t)self->p + cases[i].first * PAGE;

		ASSERT_EQ(0, go(self, va, cases[i].bytes, &res));
		EXPECT_EQ(cases[i].pages, res.moved);
		EXPECT_EQ(cases[i].pages, pm_sum(&res));
		EXPECT_EQ(va + cases[i].pages * PAGE, res.resume_va);
		EXPECT_TRUE(only_moved(self, cases[i].first, cases[i].first + cases[i].pages))
			TH_LOG("case %zu", i);
		ASSERT_EQ(0, pm_move(self->fd, 0, self->p, NPAGES * PAGE, 0, 1,
				     &mem[2], &mem[0], NULL));
		ASSERT_TRUE(only_moved(self, 0, 0));
	}
}

TEST_F(range, empty)
{
	static const uint64_t beyond[] = {
		1ULL << 47, 1ULL << 56, 1ULL << 63, ~0ULL << 12,
		0xffff800000000000ULL, 0x7ffffffff000ULL,
	};
	struct page_migrate_result res;

	ASSERT_EQ(0, go(self, (uintptr_t)self->p, 0, &res));
	EXPECT_EQ(0, pm_sum(&res));
	EXPECT_EQ((uintptr_t)self->p, res.resume_va);
	ASSERT_EQ(0, go(self, 0, 0, &res));
	EXPECT_EQ(0, pm_sum(&res));
	/* Past the end of the address space: whatever the length. */
	for (size_t i = 0; i < ARRAY_LEN(beyond); i++) {
		ASSERT_EQ(0, go(self, beyond[i], PAGE, &res))
			TH_LOG("va %#" PRIx64, beyond[i]);
		EXPECT_EQ(0, pm_sum(&res));
		ASSERT_EQ(0, go(self, beyond[i], ~0ULL, &res))
			TH_LOG("va %#" PRIx64, beyond[i]);
		EXPECT_EQ(0, pm_sum(&res));
	}
	EXPECT_TRUE(only_moved(self, 0, 0));
}

/* Lengths that pass the end, and those that would wrap around. */
TEST_F(range, up_to_the_end)
{
	uint64_t va = (uintptr_t)self->p + 8 * PAGE;
	const uint64_t lens[] = {
		~0ULL, ~0ULL - va, 0 - va, PAGE - va, 0ULL - PAGE, 0ULL - PAGE + 1, 1ULL << 63,
		(1ULL << 47) - va,
	};
	struct page_migrate_result res;

	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		ASSERT_EQ(0, go(self, va, lens[i], &res))
			TH_LOG("len %#" PRIx64, lens[i]);
		EXPECT_LE(8, res.moved);
		EXPECT_EQ(0, res.resume_va % PAGE);
		/* The end of the range is at the end of the address space. */
		EXPECT_LE((uintptr_t)&res, res.resume_va);
		EXPECT_GE(1ULL << 57, res.resume_va);
		EXPECT_TRUE(only_moved(self, 8, NPAGES))
			TH_LOG("len %#" PRIx64, lens[i]);
		ASSERT_EQ(0, pm_move(self->fd, 0, self->p, NPAGES * PAGE, 0, 1,
				     &mem[2], &mem[0], NULL));
	}
}

/* Names the mappings in which numa_maps sees pages on the node. */
static void show_on_node(int node)
{
	char line[4096], key[24];
	FILE *f = fopen("/proc/self/numa_maps", "re");

	if (!f)
		die("numa_maps");
	snprintf(key, sizeof(key), " N%d=", node);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, key))
			fprintf(stderr, "#   %s", line);
	fclose(f);
}

/* Pages of private anonymous mappings on a node, by numa_maps. */
static long anon_on(pid_t pid, int node)
{
	char path[64], line[4096], key[24], *p;
	long n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/numa_maps", pid);
	snprintf(key, sizeof(key), " N%d=", node);
	f = fopen(path, "re");
	if (!f)
		die("%s", path);
	while (fgets(line, sizeof(line), f)) {
		p = strstr(line, key);
		if (p && strstr(line, " anon=") && !strstr(line, " file="))
			n += atol(p + strlen(key));
	}
	fclose(f);
	return n;
}

TEST_F(range, whole_process)
{
	struct page_migrate_result res;
	long ret;

	ASSERT_LE(NPAGES, anon_on(getpid(), mem[0]));
	ret = go(self, 0, ~0ULL, &res);
	/* Files and pages of the test's parent may be busy; ours are not. */
	EXPECT_LE(0, ret);
	EXPECT_EQ(pm_left(&res), (uint64_t)ret);
	EXPECT_LE(NPAGES, res.moved);
	EXPECT_TRUE(only_moved(self, 0, NPAGES));
	EXPECT_EQ(0, anon_on(getpid(), mem[0]))
		show_on_node(mem[0]);
	/* All of it is counted: code, libraries, stack and heap. */
	EXPECT_LE(NPAGES + 50, pm_sum(&res));
}

TEST_F(range, holes)
{
	struct page_migrate_result res;

	/* Three mappings, with nothing in between and pages never touched. */
	ASSERT_EQ(0, munmap(self->p + 4 * PAGE, 2 * PAGE));
	ASSERT_EQ(0, munmap(self->p + 10 * PAGE, PAGE));
	ASSERT_EQ(0, madvise(self->p + 12 * PAGE, 2 * PAGE, MADV_DONTNEED));
	ASSERT_EQ(0, go(self, (uintptr_t)self->p - PAGE, (NPAGES + 2) * PAGE, &res));
	EXPECT_EQ(NPAGES - 5, res.moved);
	EXPECT_EQ(NPAGES - 5, pm_sum(&res));
	EXPECT_EQ((uintptr_t)self->p + (NPAGES + 1) * PAGE, res.resume_va);
	EXPECT_EQ(NPAGES - 5, count_on(0, self->p, NPAGES, mem[2]));
	EXPECT_EQ(-ENOENT, node_of(self->p + 12 * PAGE));

	/* A range that has nothing but a hole. */
	ASSERT_EQ(0, go(self, (uintptr_t)self->p + 4 * PAGE, 2 * PAGE, &res));
	EXPECT_EQ(0, pm_sum(&res));
	EXPECT_EQ((uintptr_t)self->p + 6 * PAGE, res.resume_va);

	/* Fill the holes again for the check at the end. */
	ASSERT_NE(MAP_FAILED, mmap(self->p + 4 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	ASSERT_NE(MAP_FAILED, mmap(self->p + 10 * PAGE, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	{
		char *copy = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		ASSERT_NE(MAP_FAILED, (void *)copy);
		fill(copy, NPAGES, 3);
		memcpy(self->p + 4 * PAGE, copy + 4 * PAGE, 2 * PAGE);
		memcpy(self->p + 10 * PAGE, copy + 10 * PAGE, PAGE);
		memcpy(self->p + 12 * PAGE, copy + 12 * PAGE, 2 * PAGE);
	}
}

/* One range over mappings of different kinds, which begins and ends inside. */
TEST_F(range, several_mappings)
{
	enum { N = 12 };
	struct page_migrate_result res;
	char *base = mmap(NULL, 3 * N * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int want[3 * N];

	ASSERT_NE(MAP_FAILED, (void *)base);
	ASSERT_EQ(0, mprotect(base, N * PAGE, PROT_READ | PROT_WRITE));
	ASSERT_NE(MAP_FAILED, mmap(base + N * PAGE, N * PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	ASSERT_EQ(0, mprotect(base + 2 * N * PAGE, N * PAGE, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, advise(base, 3 * N * PAGE, MADV_NOHUGEPAGE));
	place_pages(base, 3 * N, &mem[0], 1);
	fill(base, 3 * N, 4);
	ASSERT_EQ(0, mprotect(base + 2 * N * PAGE, N * PAGE, PROT_READ));
	ASSERT_TRUE(all_on(0, base, 3 * N, &mem[0], 1));

	ASSERT_EQ(0, go(self, (uintptr_t)base + 5 * PAGE, (2 * N - 5 + 3) * PAGE, &res));
	EXPECT_EQ(2 * N - 5 + 3, res.moved);
	EXPECT_EQ(2 * N - 5 + 3, pm_sum(&res));
	for (int i = 0; i < 3 * N; i++)
		want[i] = i >= 5 && i < 2 * N + 3 ? mem[2] : mem[0];
	EXPECT_TRUE(all_on(0, base, 3 * N, want, 3 * N));
	EXPECT_EQ(0, bad_pages(base, 3 * N, 4));
	EXPECT_TRUE(only_moved(self, 0, 0));
}

/* PROT_NONE takes the access away, not the pages. */
TEST_F(range, no_access)
{
	struct page_migrate_result res;

	ASSERT_EQ(0, mprotect(self->p, NPAGES * PAGE, PROT_NONE));
	ASSERT_EQ(0, go(self, (uintptr_t)self->p, NPAGES * PAGE, &res));
	EXPECT_EQ(NPAGES, res.moved);
	EXPECT_TRUE(only_moved(self, 0, NPAGES));
	ASSERT_EQ(0, mprotect(self->p, NPAGES * PAGE, PROT_READ | PROT_WRITE));
}

/* Pages of the range of several kinds are counted once, in the right place. */
TEST_F(range, counts)
{
	uint64_t by_pair[2] = { ~0ULL, ~0ULL };
	const int old[] = { mem[0], mem[1] }, new[] = { mem[2], mem[1] };
	int place[] = { mem[0], mem[1], mem[3], mem[0] };
	struct page_migrate_request req;
	char *p = map_nodes(64, place, 4);

	req = pm_req(0, p, 64 * PAGE, 2, old, new);
	req.moved_by_pair = (uintptr_t)by_pair;
	pm_poison(&req.result);
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(32, req.result.moved);
	EXPECT_EQ(32, req.result.in_place);
	EXPECT_EQ(64, pm_sum(&req.result));
	EXPECT_EQ(32, by_pair[0]);
	EXPECT_EQ(0, by_pair[1]);
	place[0] = place[3] = mem[2];
	EXPECT_TRUE(all_on(0, p, 64, place, 4));
}

/* Zero pages, the vdso and device mappings are neither moved nor counted. */
TEST_F(range, not_counted)
{
	struct page_migrate_result res;
	uint64_t pages[MAX_NODES];
	unsigned long start, end;
	char line[512], *zero;
	int seen = 0;
	FILE *f;

	zero = mmap(NULL, 8 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)zero);
	ASSERT_EQ(0, advise(zero, 8 * PAGE, MADV_NOHUGEPAGE));
	for (int i = 0; i < 8; i++)
		ASSERT_EQ(0, ((volatile char *)zero)[i * PAGE]);
	ASSERT_TRUE(pagemap_of(0, zero) >> 63);
	ASSERT_EQ(0, pm_move(self->fd, 0, zero, 8 * PAGE, 0, 1,
			     (int[]){ ANY }, &mem[2], &res));
	EXPECT_EQ(0, pm_sum(&res));
	EXPECT_EQ(0, res.moved);

	f = fopen("/proc/self/maps", "re");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f)) {
		if (!strstr(line, "[vdso]") && !strstr(line, "[vvar"))
			continue;
		ASSERT_EQ(2, sscanf(line, "%lx-%lx", &start, &end));
		seen++;
		ASSERT_EQ(0, pm_move(self->fd, 0, (void *)start, end - start, 0, 1,
				     (int[]){ ANY }, &mem[2], &res))
			TH_LOG("%s", line);
		EXPECT_EQ(0, pm_sum(&res))
			TH_LOG("%s", line);
		memset(pages, 0xff, sizeof(pages));
		ASSERT_EQ(0, pm_placement(self->fd, 0, (void *)start, end - start, pages));
		for (int i = 0; i < MAX_NODES; i++)
			ASSERT_EQ(0, pages[i]);
	}
	fclose(f);
	EXPECT_LE(2, seen);
}

/*
 * max_pages: the call ends near the limit and says where. Calls from there on
 * do all of it, each page once.
 */
TEST_F(range, max_pages)
{
	enum { BIG = 20000, LIMIT = 2000, BATCH = 4096 };
	uint64_t by_pair, va, total = 0;
	struct page_migrate_request req;
	char *p = map_node(BIG, mem[1]);
	int calls = 0;
	long ret;

	fill(p, BIG, 6);
	va = (uintptr_t)p;
	while (va < (uintptr_t)p + BIG * PAGE) {
		uint64_t end = (uintptr_t)p + BIG * PAGE;

		req = pm_req(0, (void *)va, end - va, 1, &mem[1], &mem[3]);
		req.max_pages = LIMIT;
		req.moved_by_pair = (uintptr_t)&by_pair;
		pm_poison(&req.result);
		ret = pm_migrate(self->fd, &req);
		ASSERT_EQ(0, ret);
		EXPECT_EQ(by_pair, req.result.moved);
		EXPECT_EQ(req.result.moved, pm_sum(&req.result));
		EXPECT_EQ(0, req.result.resume_va % PAGE);
		ASSERT_LT(va, req.result.resume_va);
		ASSERT_GE(end, req.result.resume_va);
		EXPECT_EQ((req.result.resume_va - va) / PAGE, req.result.moved);
		EXPECT_GE(LIMIT + BATCH, req.result.moved);
		if (req.result.resume_va < end)
			EXPECT_LE(LIMIT, req.result.moved);
		total += req.result.moved;
		/* Exactly what it says, and nothing behind it. */
		EXPECT_EQ(total, count_on(0, p, BIG, mem[3]));
		va = req.result.resume_va;
		calls++;
	}
	EXPECT_EQ(BIG, total);
	EXPECT_LE(BIG / (LIMIT + BATCH), calls);
	EXPECT_LT(1, calls);
	EXPECT_TRUE(all_on(0, p, BIG, &mem[3], 1));
	EXPECT_EQ(0, bad_pages(p, BIG, 6));
}

TEST_F(range, max_pages_that_is_not_reached)
{
	struct page_migrate_request req = pm_req(0, self->p, NPAGES * PAGE, 1, &mem[0], &mem[2]);

	req.max_pages = NPAGES + 1;
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(NPAGES, req.result.moved);
	EXPECT_EQ((uintptr_t)self->p + NPAGES * PAGE, req.result.resume_va);
	EXPECT_TRUE(only_moved(self, 0, NPAGES));

	req = pm_req(0, self->p, NPAGES * PAGE, 1, &mem[2], &mem[0]);
	req.max_pages = ~0ULL;
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(NPAGES, req.result.moved);
	EXPECT_TRUE(only_moved(self, 0, 0));
}

/* Pages that are only looked at do not use up the limit. */
TEST_F(range, max_pages_counts_what_moves)
{
	enum { STAY = 12000 };
	struct page_migrate_request req;
	char *p;

	p = map_node(STAY + 8, mem[1]);
	/* The last eight go elsewhere. */
	ASSERT_EQ(0, madvise(p + STAY * PAGE, 8 * PAGE, MADV_DONTNEED));
	place_pages(p + STAY * PAGE, 8, &mem[0], 1);
	ASSERT_TRUE(all_on(0, p + STAY * PAGE, 8, &mem[0], 1));

	req = pm_req(0, p, (STAY + 8) * PAGE, 1, &mem[0], &mem[2]);
	req.max_pages = 8;
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(8, req.result.moved);
	EXPECT_EQ(STAY, req.result.in_place);
	EXPECT_EQ(8, count_on(0, p, STAY + 8, mem[2]));
}

/* A limit in the middle of huge pages: at most one of them more. */
TEST_F(range, max_pages_huge)
{
	enum { N = 12 };
	struct page_migrate_request req;
	char *p = map_thp(N, mem[1]);
	size_t moved;

	if (!has_thp())
		SKIP(return, NO_THP);
	req = pm_req(0, p, N * HPAGE, 1, &mem[1], &mem[3]);
	req.max_pages = 1;
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	moved = req.result.moved;
	EXPECT_LE(1, moved);
	EXPECT_GE(1 + 4096, moved);
	EXPECT_EQ(0, moved % HPAGE_NR);
	ASSERT_GT((uintptr_t)p + N * HPAGE, req.result.resume_va);
	EXPECT_EQ(moved, count_on(0, p, N * HPAGE_NR, mem[3]));
	EXPECT_TRUE(all_on(0, p, moved, &mem[3], 1));
	EXPECT_EQ((uintptr_t)p + moved * PAGE, req.result.resume_va);
}

/* Any open mode will do, and any number of workers that INFO allows. */
TEST_F(range, open_modes_and_workers)
{
	static const int modes[] = { O_RDONLY, O_WRONLY, O_RDWR };
	struct page_migrate_info info;

	ASSERT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_INFO, &info));
	for (unsigned int i = 0; i <= info.max_workers || i < ARRAY_LEN(modes); i++) {
		const int *from = &mem[i % 3], *to = &mem[(i + 1) % 3];
		struct page_migrate_request req = pm_req(0, self->p, NPAGES * PAGE, 1, from, to);
		int fd = open(PM_DEVICE, modes[i % ARRAY_LEN(modes)] | O_CLOEXEC);

		ASSERT_LE(0, fd);
		req.workers = i % (info.max_workers + 1);
		ASSERT_EQ(0, pm_migrate(fd, &req));
		EXPECT_EQ(NPAGES, req.result.moved);
		EXPECT_TRUE(all_on(0, self->p, NPAGES, to, 1));
		close(fd);
	}
}

/* The same range and lists again: there is nothing left to do. */
TEST_F(range, again)
{
	struct page_migrate_result res;

	ASSERT_EQ(0, go(self, (uintptr_t)self->p, NPAGES * PAGE, &res));
	EXPECT_EQ(NPAGES, res.moved);
	ASSERT_EQ(0, go(self, (uintptr_t)self->p, NPAGES * PAGE, &res));
	EXPECT_EQ(0, res.moved);
	EXPECT_EQ(NPAGES, res.already_moved + res.in_place);
	EXPECT_EQ(NPAGES, pm_sum(&res));
	EXPECT_TRUE(only_moved(self, 0, NPAGES));
}

TEST_HARNESS_MAIN
