// SPDX-License-Identifier: GPL-2.0
/*
 * Whether a page costs more in a large process than in a small one, or where many jobs are
 * open; and how much memory of the kernel's an open job keeps.
 */
#include "bench.h"

#include <sys/resource.h>

#define JOB_PAGES 4096UL

struct memory {
	size_t npages;
	int node;
};

static void fill(void *arg)
{
	struct memory *m = arg;

	arena_map(0, m->npages, ANON, -1, &m->node, 1);
}

/* What the kernel has taken for itself, in kB. */
static long kernel_kb(void)
{
	counters_refresh();
	return number_in("/proc/meminfo", "Slab") + number_in("/proc/meminfo", "VmallocUsed");
}

static void size(size_t size_mib)
{
	struct memory m = { .npages = size_mib * ((1 << 20) / PAGE) };
	/* Each way once is enough for these many pages. */
	int n = size_mib >= 512 ? 1 : 2;
	struct target t;
	struct pairs p;

	if ((mib && size_mib > mib) || !case_begin("size", "mib=%zu", size_mib))
		return;
	if (!pairs_find(&p, 1, m.npages)) {
		case_skip("needs 2 nodes with room for %zu MiB", size_mib);
		return;
	}
	m.node = p.from[0];
	target_start(&t, fill, &m);
	for (int r = 0; r < n; r++)
		for (enum contestant c = OURS; c <= MIGRATE_PAGES; c++) {
			uint64_t time = c == OURS ? call_new_job(t.pid, &p, 1) :
						    call_migrate_pages(t.pid, &p);
			size_t there;

			there = expect_moved(c, arena_count(t.pid, 0, m.npages, p.to, 1), m.npages);
			pairs_turn(&p);
			print_time(c, r, there, time);
		}
	target_end(&t);
}

/*
 * Opens jobs, each of which has moved a page, until there are n. Returns what they take, in
 * kB: of a few it is lost in what the kernel has at hand.
 */
static long open_jobs(int n)
{
	static struct target t;
	static struct pairs p;
	static int have;
	static long before;

	if (!have) {
		before = kernel_kb();
		static struct memory m = { .npages = 1 };

		if (!pairs_find(&p, 1, 64))
			die("no 2 nodes with room");
		m.node = p.from[0];
		target_start(&t, fill, &m);
	}
	for (; have < n; have++) {
		call_ours(device_open(), t.pid, arena, PAGE, &p);
		pairs_turn(&p);
	}
	return kernel_kb() - before;
}

static void jobs(int n)
{
	struct memory m = { .npages = JOB_PAGES };
	struct target t;
	struct pairs p;
	long held;

	if (!case_begin("jobs", "open=%d", n))
		return;
	if (!pairs_find(&p, 1, JOB_PAGES)) {
		case_skip("needs 2 nodes with room for %lu pages", JOB_PAGES);
		return;
	}
	warm_up = true;
	/* The one that is measured is open, too. */
	held = open_jobs(n - 1);
	m.node = p.from[0];
	target_start(&t, fill, &m);
	for (int r = -1; r < 2 * ((rounds + 1) / 2); r++) {
		uint64_t time;

		warm_up = r < 0;
		time = call_new_job(t.pid, &p, 1);
		expect_moved(OURS, arena_count(t.pid, 0, JOB_PAGES, p.to, 1), JOB_PAGES);
		pairs_turn(&p);
		if (r >= 0)
			print_time(OURS, r, JOB_PAGES, time);
	}
	if (held > 0)
		print_count(OURS, 0, n - 1, held, "kB");
	target_end(&t);
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = { 32, 128, 512, 1024, 2048, 4096 };
	static const int counts[] = { 1, 10, 100, 1000 };
	struct rlimit files = { 4096, 4096 };

	bench_begin(argc, argv);
	setrlimit(RLIMIT_NOFILE, &files);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		size(sizes[i]);
	for (size_t i = 0; i < ARRAY_LEN(counts); i++)
		jobs(counts[i]);
	return 0;
}
