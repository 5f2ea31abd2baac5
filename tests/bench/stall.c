// SPDX-License-Identifier: GPL-2.0
/*
 * How long the target waits while its pages move: for mmap(2) and munmap(2), for a page
 * fault, and for a page that is on its way. The caller and the target have a CPU each. And
 * how many pages are isolated at most.
 */
#include "bench.h"

#include <pthread.h>

enum activity { MUNMAP, FAULT, ACCESS, NR_ACTIVITIES };

static const char *const activity_names[NR_ACTIVITIES] = { "munmap", "fault", "access" };

/* Seen by both sides. */
static struct {
	volatile uint64_t longest;
	volatile uint64_t sum;
	volatile uint64_t times;
} *seen;

static struct memory {
	enum activity activity;
	enum kind kind;
	size_t npages;
	struct pairs p;
} m;

static void see(uint64_t time)
{
	if (time > seen->longest)
		seen->longest = time;
	seen->sum += time;
	seen->times++;
}

/* The target's own work, without an end. */
static void *work(void *arg)
{
	enum { SPARE = 4096 };
	char *spare = arena + m.npages * PAGE;
	uint32_t random = 1;

	(void)arg;
	pin_to(1);
	arena_map(m.npages * PAGE, SPARE, ANON, -1, &home, 1);
	madvise(spare, SPARE * PAGE, MADV_DONTNEED);
	for (size_t i = 0;; i++) {
		uint64_t t;
		char *q;

		switch (m.activity) {
		case MUNMAP:
			/* Both want the address space for themselves: either may have to wait. */
			t = now();
			q = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			see(now() - t);
			if (q == MAP_FAILED)
				die("mmap");
			*(volatile char *)q = 1;
			t = now();
			munmap(q, 16 * PAGE);
			see(now() - t);
			break;
		case FAULT:
			if (i % SPARE == 0)
				madvise(spare, SPARE * PAGE, MADV_DONTNEED);
			t = now();
			((volatile char *)spare)[i % SPARE * PAGE] = 1;
			see(now() - t);
			break;
		default:
			random = random * 1664525 + 1013904223;
			t = now();
			((volatile char *)arena)[(random >> 4) % m.npages * PAGE] += 1;
			see(now() - t);
			break;
		}
	}
	return NULL;
}

static void fill(void *arg)
{
	pthread_t thread;

	(void)arg;
	arena_map(0, m.npages, m.kind, -1, m.p.from, 1);
	if (m.activity != NR_ACTIVITIES && pthread_create(&thread, NULL, work, NULL))
		die("pthread_create");
}

static uint64_t run(enum contestant c, pid_t pid, unsigned int workers, uint64_t idle)
{
	switch (c) {
	case IDLE:
		usleep(idle / 1000);
		return idle;
	case OURS:
		return call_new_job(pid, &m.p, workers);
	default:
		return call_migrate_pages(pid, &m.p);
	}
}

static void stall(enum activity activity, unsigned int workers)
{
	uint64_t last = 200000000;
	struct target t;

	m = (struct memory){ .activity = activity, .kind = ANON, .npages = pages_of(1024) };
	if (!case_begin("stall", "what=%s workers=%u", activity_names[activity], workers))
		return;
	if (cpus() < 2) {
		case_skip("needs 2 CPUs");
		return;
	}
	if (workers > max_workers()) {
		case_skip("the module has 1 worker at most");
		return;
	}
	if (!pairs_find(&m.p, 1, m.npages)) {
		case_skip("needs 2 nodes with room for %zu pages", m.npages);
		return;
	}
	target_start(&t, fill, NULL);
	usleep(100000);
	for (int r = 0; r < rounds; r++)
		for (enum contestant c = IDLE; c <= MIGRATE_PAGES; c++) {
			uint64_t time;

			seen->longest = 0;
			seen->sum = 0;
			seen->times = 0;
			time = run(c, t.pid, workers, last);
			print_time(c, r, m.npages, seen->longest);
			print_count(c, r, m.npages, seen->sum / (seen->times ?: 1), "mean");
			if (c == IDLE)
				continue;
			last = time;
			expect_moved(c, arena_count(t.pid, 0, m.npages, m.p.to, 1), m.npages);
			pairs_turn(&m.p);
		}
	target_end(&t);
}

static volatile bool watching;
static volatile long most;

static void *watch(void *arg)
{
	(void)arg;
	pin_to(1);
	while (watching) {
		long n = isolated();

		if (n > most)
			most = n;
	}
	return NULL;
}

static void isolation(enum kind kind, unsigned int workers)
{
	struct target t;

	m = (struct memory){ .activity = NR_ACTIVITIES, .kind = kind, .npages = pages_of(256) };
	if (!case_begin("isolated", "memory=%s workers=%u", kind_names[kind], workers))
		return;
	if (cpus() < 2) {
		case_skip("needs 2 CPUs");
		return;
	}
	if (workers > max_workers()) {
		case_skip("the module has 1 worker at most");
		return;
	}
	if (!pairs_find(&m.p, 1, m.npages + HUGE / PAGE)) {
		case_skip("needs 2 nodes with room for %zu pages", m.npages);
		return;
	}
	target_start(&t, fill, NULL);
	for (int r = 0; r < rounds; r++)
		for (enum contestant c = OURS; c <= MIGRATE_PAGES; c++) {
			pthread_t thread;

			most = 0;
			watching = true;
			if (pthread_create(&thread, NULL, watch, NULL))
				die("pthread_create");
			run(c, t.pid, workers, 0);
			watching = false;
			pthread_join(thread, NULL);
			print_count(c, r, m.npages, most, "pages");
			pairs_turn(&m.p);
		}
	target_end(&t);
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv);
	seen = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (seen == MAP_FAILED)
		die("mmap");
	pin_to(0);
	for (unsigned int workers = 1; workers <= 2; workers++) {
		for (enum activity a = 0; a < NR_ACTIVITIES; a++)
			stall(a, workers);
		isolation(ANON, workers);
		isolation(THP, workers);
	}
	return 0;
}
