// SPDX-License-Identifier: GPL-2.0
/*
 * How many batches a call makes, told by the kernel's own tracepoint: 22 files that are
 * mapped by one process, and 64 small processes of one job.
 */
#include "bench.h"

#define FILES 22
#define FILE_PAGES 200UL
#define PROCESSES 64
#define PROCESS_PAGES 16UL

static struct pairs p;
static int files[FILES];

static void fill_files(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < FILES; i++)
		arena_map(i * FILE_PAGES * PAGE, FILE_PAGES, DISK, files[i], p.from, 1);
}

static void fill_small(void *arg)
{
	(void)arg;
	arena_map(0, PROCESS_PAGES, ANON, -1, p.from, 1);
}

static bool can_count;

/* Both contestants on a few targets; each of them has so many pages. */
static void measure(const struct target *t, int n, size_t npages)
{
	for (int r = -1; r < 2; r++)
		for (enum contestant c = OURS; c <= MIGRATE_PAGES; c++) {
			long before = can_count ? batches() : 0;
			int fd = device_open();
			uint64_t time = 0;
			size_t there = 0;

			warm_up = r < 0;
			for (int i = 0; i < n; i++)
				time += c == OURS ? call_ours(fd, t[i].pid, NULL, ~0UL, &p) :
						    call_migrate_pages(t[i].pid, &p);
			close(fd);
			for (int i = 0; i < n; i++)
				there += arena_count(t[i].pid, 0, npages, p.to, 1);
			expect_moved(c, there, n * npages);
			pairs_turn(&p);
			if (r < 0)
				continue;
			print_time(c, r, there, time);
			if (can_count)
				print_count(c, r, there, batches() - before, "batches");
		}
}

int main(int argc, char **argv)
{
	struct target t[PROCESSES];

	bench_begin(argc, argv);
	can_count = batches_begin();
	if (!can_count)
		fprintf(stderr, "bench: no tracepoints: nothing is counted\n");
	if (case_begin("calls", "files=%d pages=%lu", FILES, FILES * FILE_PAGES)) {
		bool can = pairs_find(&p, 1, FILES * FILE_PAGES);

		for (int i = 0; i < FILES && can; i++) {
			files[i] = arena_file(DISK, "calls");
			can = files[i] >= 0;
		}
		if (can) {
			target_start(t, fill_files, NULL);
			measure(t, 1, FILES * FILE_PAGES);
			target_end(t);
		} else {
			case_skip("needs 2 nodes with room, and a disk");
		}
	}
	if (case_begin("calls", "processes=%d pages=%lu", PROCESSES, PROCESSES * PROCESS_PAGES)) {
		if (pairs_find(&p, 1, PROCESSES * PROCESS_PAGES)) {
			for (int i = 0; i < PROCESSES; i++)
				target_start(&t[i], fill_small, NULL);
			measure(t, PROCESSES, PROCESS_PAGES);
			for (int i = 0; i < PROCESSES; i++)
				target_end(&t[i]);
		} else {
			case_skip("needs 2 nodes with room");
		}
	}
	batches_end();
	return 0;
}
