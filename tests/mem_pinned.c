// SPDX-License-Identifier: GPL-2.0
/* Memory that cannot move: pinned, held, secret, or not the kernel's at all. */
#include "harness.h"
#include "mem_util.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>

static int ring_new(struct io_uring_params *params)
{
	int ring;

	memset(params, 0, sizeof(*params));
	ring = syscall(__NR_io_uring_setup, 8, params);
	if (ring < 0)
		die("io_uring_setup");
	return ring;
}

static void ring_pin(int ring, void *addr, size_t npages)
{
	struct iovec iov = { .iov_base = addr, .iov_len = npages * PAGE };

	if (syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1))
		die("IORING_REGISTER_BUFFERS");
}

static void ring_unpin(int ring)
{
	if (syscall(__NR_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0))
		die("IORING_UNREGISTER_BUFFERS");
}

/* Until what was held for a moment longer is free; returns the last value. */
static long move_rest(int fd, void *p, size_t npages)
{
	uint64_t moved;

	return move_patiently(fd, 0, p, npages * PAGE, 1, &mem[0], &mem[1], &moved);
}

TEST(registered_buffer)
{
	enum { N = 128, PINNED = 50 };
	int fd = pm_open();
	struct io_uring_params params;
	int ring = ring_new(&params);
	char *p = map_node(N, mem[0]), *pin = p + 30 * PAGE;
	struct page_migrate_result res;
	uint64_t pfns[PINNED];

	fill(p, N, 1);
	ring_pin(ring, pin, PINNED);
	for (int i = 0; i < PINNED; i++)
		pfns[i] = pfn_of(pin + i * PAGE);
	ASSERT_EQ(PINNED, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(PINNED, res.pinned);
	EXPECT_EQ(N - PINNED, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	for (int i = 0; i < PINNED; i++)
		EXPECT_EQ(pfns[i], pfn_of(pin + i * PAGE));
	EXPECT_TRUE(all_on(0, p, 30, &mem[1], 1));
	EXPECT_TRUE(all_on(0, pin, PINNED, &mem[0], 1));
	EXPECT_TRUE(all_on(0, pin + PINNED * PAGE, N - 30 - PINNED, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 1));
	EXPECT_EQ(0, nr_isolated());
	ring_unpin(ring);
	EXPECT_EQ(0, move_rest(fd, p, N));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 1));
}

TEST(one_page_of_a_huge_page)
{
	int fd = pm_open();
	struct io_uring_params params;
	int ring = ring_new(&params);
	char *p = map_thp(2, mem[0]);
	struct page_migrate_result res;

	if (!has_thp())
		SKIP(return, NO_THP);
	fill(p, 2 * HPAGE_NR, 2);
	ring_pin(ring, p + 77 * PAGE, 1);
	ASSERT_EQ(HPAGE_NR, pm_move(fd, 0, p, 2 * HPAGE, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(HPAGE_NR, res.pinned);
	EXPECT_EQ(HPAGE_NR, res.moved);
	EXPECT_TRUE(all_on(0, p, HPAGE_NR, &mem[0], 1));
	EXPECT_TRUE(all_on(0, p + HPAGE, HPAGE_NR, &mem[1], 1));
	EXPECT_EQ((long)(2 * HPAGE / 1024), smaps_kb(0, p, "AnonHugePages"));
	ring_unpin(ring);
	EXPECT_EQ(0, move_rest(fd, p, 2 * HPAGE_NR));
	EXPECT_TRUE(all_on(0, p, 2 * HPAGE_NR, &mem[1], 1));
	EXPECT_EQ((long)(2 * HPAGE / 1024), smaps_kb(0, p, "AnonHugePages"));
	EXPECT_EQ(0, bad_pages(p, 2 * HPAGE_NR, 2));
}

TEST(shared_memory_pinned_and_mapped_twice)
{
	enum { N = 40 };
	int fd = pm_open(), file = memfd_create("pm", 0);
	struct io_uring_params params;
	int ring = ring_new(&params);
	struct page_migrate_result res;
	char *base = reserve(2 * N);

	ASSERT_EQ(0, ftruncate(file, N * PAGE));
	map_fixed(base, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	map_fixed(base + N * PAGE, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	place_pages(base, N, &mem[0], 1);
	fill(base, N, 3);
	touch(base, 2 * N);
	ring_pin(ring, base, N);
	/* Each mapping is counted, none of them as moved. */
	ASSERT_EQ(2 * N, pm_move(fd, 0, base, 2 * N * PAGE, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(2 * N, res.pinned);
	EXPECT_TRUE(all_on(0, base, 2 * N, &mem[0], 1));
	ring_unpin(ring);
	EXPECT_EQ(0, move_rest(fd, base, 2 * N));
	EXPECT_TRUE(all_on(0, base, 2 * N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(base, N, 3));
}

/* Pages in a pipe are referenced, not pinned; which of both may be said. */
TEST(spliced_into_a_pipe)
{
	enum { N = 60, HELD = 16 };
	int fd = pm_open(), pipefd[2];
	char *p = map_node(N, mem[0]), *buf = malloc(HELD * PAGE);
	struct iovec iov = { .iov_base = p, .iov_len = HELD * PAGE };
	struct page_migrate_result res;
	size_t have = 0;

	fill(p, N, 4);
	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_EQ((ssize_t)(HELD * PAGE), vmsplice(pipefd[1], &iov, 1, 0));
	ASSERT_EQ(HELD, pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(HELD, res.busy + res.pinned);
	EXPECT_EQ(N - HELD, res.moved);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, p, HELD, &mem[0], 1));
	EXPECT_TRUE(all_on(0, p + HELD * PAGE, N - HELD, &mem[1], 1));
	EXPECT_EQ(0, nr_isolated());
	while (have < HELD * PAGE) {
		ssize_t n = read(pipefd[0], buf + have, HELD * PAGE - have);

		ASSERT_LT(0, n);
		have += n;
	}
	EXPECT_EQ(0, bad_pages(buf, HELD, 4));
	close(pipefd[0]);
	close(pipefd[1]);
	EXPECT_EQ(0, move_rest(fd, p, N));
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	EXPECT_EQ(0, bad_pages(p, N, 4));
}

TEST(secret_memory)
{
	enum { N = 20 };
	int fd = pm_open(), file = syscall(__NR_memfd_secret, 0), from[MAX_NODES], to[MAX_NODES];
	int nr = all_to_last(from, to);
	struct page_migrate_result res;
	char *base = reserve(2 * N);
	uint64_t pfns[N];

	ASSERT_LE(0, file) TH_LOG("memfd_secret: %s", strerror(errno));
	ASSERT_EQ(0, ftruncate(file, N * PAGE));
	bind_to(mem[0]);
	map_fixed(base, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	for (int i = 0; i < N; i++)
		base[i * PAGE] = i + 1;
	map_fixed(base + N * PAGE, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	place_pages(base + N * PAGE, N, &mem[0], 1);
	for (int i = 0; i < N; i++)
		pfns[i] = pfn_of(base + i * PAGE);
	ASSERT_NE(0, pfns[0]);
	ASSERT_EQ(N, pm_move(fd, 0, base, 2 * N * PAGE, 0, nr, from, to, &res)) pm_print(&res);
	EXPECT_EQ(N, res.unmovable);
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(2 * N, pm_sum(&res));
	for (int i = 0; i < N; i++) {
		EXPECT_EQ(pfns[i], pfn_of(base + i * PAGE));
		EXPECT_EQ(i + 1, base[i * PAGE]);
	}
	EXPECT_TRUE(all_on(0, base + N * PAGE, N, &LAST, 1));
}

/*
 * A driver's pages in a mapping: not counted, or as unmovable, and the pages
 * around them move.
 */
static void expect_left_alone(struct __test_metadata *_metadata, int fd, char *p, size_t npages)
{
	enum { N = 20 };
	int from[MAX_NODES], to[MAX_NODES], nr = all_to_last(from, to);
	struct page_migrate_result res;
	uint64_t *before = malloc(npages * 8);
	char *own = map_node(N, mem[0]);
	long ret;

	touch(p, npages);
	for (size_t i = 0; i < npages; i++)
		before[i] = pfn_of(p + i * PAGE);
	ret = pm_move(fd, 0, p, npages * PAGE, 0, nr, from, to, &res);
	EXPECT_EQ((long)res.unmovable, ret) pm_print(&res);
	EXPECT_EQ(pm_sum(&res), res.unmovable) pm_print(&res);
	EXPECT_GE(npages, res.unmovable);
	for (size_t i = 0; i < npages; i++)
		EXPECT_EQ(before[i], pfn_of(p + i * PAGE));
	/* With the whole process. */
	ret = pm_move(fd, 0, NULL, ~0UL, 0, nr, from, to, &res);
	EXPECT_LE(0, ret) pm_print(&res);
	EXPECT_TRUE(all_on(0, own, N, &LAST, 1));
	for (size_t i = 0; i < npages; i++)
		EXPECT_EQ(before[i], pfn_of(p + i * PAGE));
	free(before);
}

TEST(ring_of_io_uring)
{
	int fd = pm_open();
	struct io_uring_params params;
	int ring = ring_new(&params);
	size_t size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	size_t npages = (size + PAGE - 1) / PAGE;
	char *p = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		       IORING_OFF_SQ_RING);
	struct io_uring_sqe *sqes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	unsigned int *cq_tail;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, sqes);
	expect_left_alone(_metadata, fd, p, npages);
	expect_left_alone(_metadata, fd, (char *)sqes, 1);

	/* The ring still works. */
	memset(sqes, 0, sizeof(*sqes));
	sqes->opcode = IORING_OP_NOP;
	sqes->user_data = 99;
	((unsigned int *)(p + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned int *)(p + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	ASSERT_EQ(1, syscall(__NR_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	cq_tail = (unsigned int *)(p + params.cq_off.tail);
	EXPECT_EQ(1, __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE));
	EXPECT_EQ(99, ((struct io_uring_cqe *)(p + params.cq_off.cqes))->user_data);
}

TEST(buffer_of_perf)
{
	enum { N = 1 + 8 };
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_PAGE_FAULTS,
		.size = sizeof(attr),
	};
	int fd = pm_open(), event = syscall(__NR_perf_event_open, &attr, 0, -1, -1, 0);
	char *p;

	ASSERT_LE(0, event) TH_LOG("perf_event_open: %s", strerror(errno));
	p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);
	ASSERT_NE(MAP_FAILED, p);
	expect_left_alone(_metadata, fd, p, N);
}

TEST(device_memory)
{
	enum { N = 16 };
	int fd = pm_open(), file = open("/dev/mem", O_RDONLY);
	struct page_migrate_result res;
	uint64_t sum = 0;
	static uint64_t on[MAX_NODES];
	char *p;

	ASSERT_LE(0, file);
	/* The firmware, which strict rules for /dev/mem let through. */
	p = mmap(NULL, N * PAGE, PROT_READ, MAP_SHARED, file, 0xf0000);
	ASSERT_NE(MAP_FAILED, p);
	touch(p, N);
	ASSERT_EQ(0, pm_move(fd, 0, p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res)) pm_print(&res);
	EXPECT_EQ(0, pm_sum(&res));
	ASSERT_EQ(0, pm_placement(fd, 0, p, N * PAGE, on));
	for (int i = 0; i < MAX_NODES; i++)
		sum += on[i];
	EXPECT_EQ(0, sum);
	expect_left_alone(_metadata, fd, p, N);
}

static char *vdso_of_self(size_t *npages)
{
	char line[512];
	unsigned long start, end;
	char *p = NULL;
	FILE *f = fopen("/proc/self/maps", "re");

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[vdso]") && sscanf(line, "%lx-%lx", &start, &end) == 2) {
			p = (char *)start;
			*npages = (end - start) / PAGE;
		}
	if (!p)
		die("no vdso");
	fclose(f);
	return p;
}

TEST(vdso)
{
	int fd = pm_open(), from[MAX_NODES], to[MAX_NODES], nr = all_to_last(from, to);
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];
	uint64_t sum = 0, before;
	size_t npages;
	char *p = vdso_of_self(&npages);

	touch(p, npages);
	before = pfn_of(p);
	ASSERT_EQ(0, pm_move(fd, 0, p, npages * PAGE, 0, nr, from, to, &res)) pm_print(&res);
	EXPECT_EQ(0, pm_sum(&res));
	EXPECT_EQ(before, pfn_of(p));
	ASSERT_EQ(0, pm_placement(fd, 0, p, npages * PAGE, on));
	for (int i = 0; i < MAX_NODES; i++)
		sum += on[i];
	EXPECT_EQ(0, sum);
}

TEST_HARNESS_MAIN
