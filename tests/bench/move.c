// SPDX-License-Identifier: GPL-2.0
/*
 * Everything moves: 4K pages of three kinds with 1, 2 and 8 pairs, huge pages, and a swap
 * of two nodes, which only ours and move_pages(2) can do. Contestants move the same pages
 * by turns, there and back.
 */
#include "bench.h"

struct memory {
	enum kind kind;
	size_t npages;
	int fd;
	struct pairs p;
};

static void fill(void *arg)
{
	struct memory *m = arg;

	arena_map(0, m->npages, m->kind, m->fd, m->p.from, m->p.n);
}

/* After a swap, all pages have to be where the others were. */
static void check_swap(pid_t pid, const struct memory *m, int swaps, enum contestant c)
{
	size_t unit = m->kind == THP ? HUGE / PAGE : 1, units = m->npages / unit, there = 0;

	for (size_t i = 0; i < units; i++)
		there += arena_count(pid, i * unit * PAGE, 1, &m->p.from[(i + swaps) % 2], 1);
	expect_moved(c, there, units);
}

static uint64_t one(enum contestant c, pid_t pid, struct memory *m)
{
	switch (c) {
	case OURS:
		return call_new_job(pid, &m->p, 1);
	case MIGRATE_PAGES:
		return call_migrate_pages(pid, &m->p);
	default:
		return call_move_pages(pid, arena, m->npages, m->kind == THP ? HUGE : PAGE, &m->p);
	}
}

static void measure(struct memory *m, bool swap)
{
	struct target t;
	int swaps = 0;

	m->fd = arena_file(m->kind, "move");
	if (m->fd == -2) {
		case_skip("no file on the disk: %s", strerror(errno));
		return;
	}
	target_start(&t, fill, m);
	/* Each contestant goes both ways as often. The first round is not counted. */
	for (int r = -1; r < 2 * ((rounds + 1) / 2); r++)
		for (enum contestant c = OURS; c <= MOVE_PAGES; c++) {
			uint64_t time;
			size_t there;

			if (swap && c == MIGRATE_PAGES)
				continue;
			warm_up = r < 0;
			time = one(c, t.pid, m);
			there = expect_moved(c, arena_count(t.pid, 0, m->npages, m->p.to, m->p.n),
					     m->npages);
			if (swap)
				check_swap(t.pid, m, ++swaps, c);
			else
				pairs_turn(&m->p);
			if (r >= 0)
				print_time(c, r, there, time);
		}
	target_end(&t);
	if (m->fd >= 0)
		close(m->fd);
}

static void move(enum kind kind, int n)
{
	struct memory m = { .kind = kind, .npages = pages_of(quick ? 16 : kind == THP ? 128 : 32) };

	if (!case_begin("move", "memory=%s pairs=%d", kind_names[kind], n))
		return;
	if (!pairs_find(&m.p, n, m.npages / n + (kind == THP ? HUGE / PAGE : 0))) {
		case_skip("needs %d nodes with room for %zu pages", 2 * n, m.npages / n);
		return;
	}
	measure(&m, false);
}

static void swap(enum kind kind)
{
	struct memory m = { .kind = kind, .npages = pages_of(kind == THP ? 128 : 32) };

	if (quick || !case_begin("swap", "memory=%s", kind_names[kind]))
		return;
	if (!pairs_find(&m.p, 1, m.npages)) {
		case_skip("needs 2 nodes with room for %zu pages", m.npages);
		return;
	}
	m.p.n = 2;
	m.p.from[1] = m.p.to[0];
	m.p.to[1] = m.p.from[0];
	measure(&m, true);
}

int main(int argc, char **argv)
{
	static const int counts[] = { 1, 2, 8 };

	bench_begin(argc, argv);
	for (enum kind k = ANON; k <= DISK; k++)
		for (size_t i = 0; i < ARRAY_LEN(counts); i++)
			if (!quick || (k == ANON && counts[i] != 2))
				move(k, counts[i]);
	if (!quick)
		move(THP, 8);
	swap(ANON);
	swap(THP);
	return 0;
}
