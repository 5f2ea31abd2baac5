// SPDX-License-Identifier: GPL-2.0
/*
 * Small calls: a process of about 150 pages, one of which moves. The whole process is
 * named, or that page alone. move_pages(2) is told its address in both.
 */
#include "bench.h"

/* With what the program itself has, about 150. */
#define SMALL_PAGES 48

/* Calls are short, and so a tick shows: there are more of them. */
#define ROUNDS (8 * rounds)

static struct pairs p;

static void fill(void *arg)
{
	(void)arg;
	arena_map(0, SMALL_PAGES, ANON, -1, &home, 1);
	arena_map(SMALL_PAGES * PAGE, 1, ANON, -1, p.from, 1);
}

static void check(pid_t pid, enum contestant c)
{
	if (arena_count(pid, SMALL_PAGES * PAGE, 1, p.to, 1) != 1)
		die("%s: the page has not moved", contestant_names[c]);
	pairs_turn(&p);
}

static void small(bool whole)
{
	char *page = arena + SMALL_PAGES * PAGE;
	struct target t;
	int fd;

	if (!case_begin("small", "range=%s", whole ? "process" : "page"))
		return;
	if (!pairs_find(&p, 1, 64)) {
		case_skip("needs 2 nodes with room");
		return;
	}
	target_start(&t, fill, NULL);
	fd = device_open();
	/* The first round is not counted. Lists change each time, and so a job begins. */
	for (int r = -1; r < ROUNDS; r++) {
		struct page_migrate_request req;
		uint64_t time, all;

		warm_up = r < 0;
		req = request_of(t.pid, whole ? NULL : page, whole ? ~0UL : PAGE, &p);
		time = call_request(fd, &req);
		all = req.result.moved + req.result.in_place;
		check(t.pid, OURS);
		if (r >= 0)
			print_time(OURS, r, all, time);

		time = call_migrate_pages(t.pid, &p);
		check(t.pid, MIGRATE_PAGES);
		if (r >= 0)
			print_time(MIGRATE_PAGES, r, all, time);

		time = call_move_pages(t.pid, page, 1, PAGE, &p);
		check(t.pid, MOVE_PAGES);
		if (r >= 0)
			print_time(MOVE_PAGES, r, all, time);
	}
	close(fd);
	target_end(&t);
}

/* A caller that opens the device for this one call. */
static void first(void)
{
	struct target t;

	if (quick || !case_begin("small", "range=process job=first"))
		return;
	if (!pairs_find(&p, 1, 64)) {
		case_skip("needs 2 nodes with room");
		return;
	}
	target_start(&t, fill, NULL);
	for (int r = -1; r < ROUNDS; r++) {
		uint64_t time = now();
		int fd = device_open();

		warm_up = r < 0;
		call_ours(fd, t.pid, NULL, ~0UL, &p);
		close(fd);
		time = now() - time;
		check(t.pid, OURS);
		if (r >= 0)
			print_time(OURS, r, 1, time);
	}
	target_end(&t);
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv);
	small(true);
	small(false);
	first();
	return 0;
}
