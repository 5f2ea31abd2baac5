// SPDX-License-Identifier: GPL-2.0
/*
 * Nothing to move: what it costs to look at a process whose pages are on no old node. The
 * system call looks at all of it once for each pair.
 */
#include "bench.h"

#define SCAN_PAGES (quick ? 4096UL : 16384UL)
/* Pages that a job has moved before it is measured. */
#define MOVED 1024UL

struct memory {
	size_t npages;
	int away;	/* the node of the last pages; home: none are elsewhere */
};

static void fill(void *arg)
{
	struct memory *m = arg;

	arena_map(0, m->npages, ANON, -1, &home, 1);
	if (m->away != home)
		arena_map(m->npages * PAGE, MOVED, ANON, -1, &m->away, 1);
}

/* All nodes but home are old, and home is where their pages would go. */
static bool lists(struct pairs *p, int n)
{
	p->n = 0;
	for (int i = nr_mem - 1; i >= 0 && p->n < n; i--) {
		if (mem[i] == home)
			continue;
		p->from[p->n] = mem[i];
		p->to[p->n++] = home;
	}
	return p->n == n;
}

static void scan(int n, bool used)
{
	struct memory m = { .npages = SCAN_PAGES, .away = home };
	struct target t;
	struct pairs p;
	int fd;

	if (!case_begin("scan", "pairs=%d job=%s", n, used ? "used" : "new"))
		return;
	if (!lists(&p, n)) {
		case_skip("needs %d nodes", n + 1);
		return;
	}
	if (used) {
		/* The first that has room: a small one may be full. */
		for (int i = 0; i < n && m.away == home; i++)
			if (node_free(p.from[i]) > 2 * MOVED)
				m.away = p.from[i];
		m.npages -= MOVED;
	}
	target_start(&t, fill, &m);
	fd = device_open();
	warm_up = true;
	/* What is on an old node after all goes home now, so that nothing is left to move. */
	call_ours(fd, t.pid, NULL, ~0UL, &p);
	call_migrate_pages(t.pid, &p);
	if (!used) {
		close(fd);
		fd = device_open();
		call_ours(fd, t.pid, NULL, ~0UL, &p);
	}
	warm_up = false;
	/* They are short: what disturbs one of them is not to count. */
	for (int r = 0; r < (rounds < 3 ? 3 : rounds); r++) {
		struct page_migrate_request req = request_of(t.pid, NULL, ~0UL, &p);
		uint64_t time = call_request(fd, &req);

		if (req.result.moved)
			die("%llu pages moved", (unsigned long long)req.result.moved);
		print_time(OURS, r, SCAN_PAGES, time);
		print_time(MIGRATE_PAGES, r, SCAN_PAGES, call_migrate_pages(t.pid, &p));
	}
	close(fd);
	target_end(&t);
}

int main(int argc, char **argv)
{
	static const int counts[] = { 1, 8, 32 };

	bench_begin(argc, argv);
	for (size_t i = 0; i < ARRAY_LEN(counts); i++)
		for (int used = 0; used < 2; used++)
			scan(counts[i], used);
	return 0;
}
