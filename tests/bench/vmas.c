// SPDX-License-Identifier: GPL-2.0
/* The same pages in one mapping or in thousands: all move, or none has to. */
#include "bench.h"

#define PAGES 10000UL

struct memory {
	int vmas;
	int node;
};

static void fill(void *arg)
{
	struct memory *m = arg;
	size_t len = PAGES / m->vmas * PAGE;

	arena_map(0, PAGES, ANON, -1, &m->node, 1);
	/* Every other part gets a flag, so that no two of them are one. */
	for (int i = 1; i < m->vmas; i += 2)
		if (madvise(arena + i * len, len, MADV_DONTDUMP))
			die("madvise");
}

static void measure(int vmas, bool move)
{
	struct memory m = { .vmas = vmas };
	struct target t;
	struct pairs p;

	if (!case_begin("vmas", "what=%s vmas=%d", move ? "move" : "scan", vmas))
		return;
	if (!pairs_find(&p, 1, PAGES)) {
		case_skip("needs 2 nodes with room for %lu pages", PAGES);
		return;
	}
	m.node = move ? p.from[0] : home;
	target_start(&t, fill, &m);
	for (int r = -1; r < 2 * ((rounds + 1) / 2); r++)
		for (enum contestant c = OURS; c <= MIGRATE_PAGES; c++) {
			uint64_t time;

			warm_up = r < 0;
			time = c == OURS ? call_new_job(t.pid, &p, 1) :
					   call_migrate_pages(t.pid, &p);
			if (move) {
				expect_moved(c, arena_count(t.pid, 0, PAGES, p.to, 1), PAGES);
				pairs_turn(&p);
			}
			if (r >= 0)
				print_time(c, r, PAGES, time);
		}
	target_end(&t);
}

int main(int argc, char **argv)
{
	static const int counts[] = { 1, 100, 10000 };

	bench_begin(argc, argv);
	for (int move = 0; move < 2; move++)
		for (size_t i = 0; i < ARRAY_LEN(counts); i++)
			measure(counts[i], move);
	return 0;
}
