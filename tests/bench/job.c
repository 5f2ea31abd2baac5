// SPDX-License-Identifier: GPL-2.0
/*
 * A job of 16 processes that share memory and have some of their own: one open file and a
 * call for each process, or migrate_pages(2) on each.
 */
#include "bench.h"

#define PROCESSES 16
#define PRIVATE_MIB 8UL

static size_t shared, private;
static struct pairs p;
static int file;

static void fill(void *arg)
{
	(void)arg;
	arena_map(0, shared, MEMFD, file, p.from, p.n);
	arena_map(shared * PAGE, private, ANON, -1, p.from, p.n);
}

static uint64_t ours(const struct target *t)
{
	int fd = device_open();
	uint64_t time = 0;

	for (int i = 0; i < PROCESSES; i++) {
		struct page_migrate_request req = request_of(t[i].pid, NULL, ~0UL, &p);

		req.workers = 1;
		time += call_request(fd, &req);
	}
	close(fd);
	return time;
}

static uint64_t theirs(const struct target *t)
{
	uint64_t time = 0;

	for (int i = 0; i < PROCESSES; i++)
		time += call_migrate_pages(t[i].pid, &p);
	return time;
}

static size_t check(const struct target *t, enum contestant c)
{
	size_t there = arena_count(t[0].pid, 0, shared, p.to, p.n);

	for (int i = 0; i < PROCESSES; i++)
		there += arena_count(t[i].pid, shared * PAGE, private, p.to, p.n);
	pairs_turn(&p);
	return expect_moved(c, there, shared + PROCESSES * private);
}

int main(int argc, char **argv)
{
	struct target t[PROCESSES];
	size_t there;

	bench_begin(argc, argv);
	shared = pages_of(256);
	private = pages_of(PRIVATE_MIB);
	if (!case_begin("job", "processes=%d pairs=8", PROCESSES))
		return 0;
	if (!pairs_find(&p, 8, (shared + PROCESSES * private) / 8)) {
		case_skip("needs 16 nodes with room for %zu pages",
			  (shared + PROCESSES * private) / 8);
		return 0;
	}
	file = arena_file(MEMFD, "job");
	for (int i = 0; i < PROCESSES; i++)
		target_start(&t[i], fill, NULL);
	/* Once each way is enough: these are many pages. */
	for (int r = 0; r < 2; r++) {
		for (int k = 0; k < 2; k++) {
			enum contestant c = (r + k) % 2 ? MIGRATE_PAGES : OURS;
			uint64_t time = c == OURS ? ours(t) : theirs(t);

			there = check(t, c);
			print_time(c, r, there, time);
		}
	}
	for (int i = 0; i < PROCESSES; i++)
		target_end(&t[i]);
	return 0;
}
