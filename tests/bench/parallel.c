// SPDX-License-Identifier: GPL-2.0
/*
 * What a second CPU brings, by wall clock: one call with two workers, two callers on the
 * halves of one process, two callers on two processes. The last is the ruler: how much
 * two CPUs of this machine can do for work that has nothing in common. Two loops that do
 * nothing at all tell whether it has two CPUs to give.
 */
#include "bench.h"

#include <pthread.h>

enum how { WORKERS, HALVES, PROCESSES, NR_HOWS };

#define SPINS 200000000UL

static const char *const how_names[NR_HOWS] = { "workers", "halves", "processes" };

static enum kind kind;
static size_t npages;		/* of both halves */
static struct pairs p;
static int files[2];
static struct target targets[2];
static pthread_barrier_t barrier;

/* All of it in one process, or half of it in each of two. */
static void fill(void *arg)
{
	arena_map(0, npages, kind, *(int *)arg, p.from, p.n);
}

static void fill_half(void *arg)
{
	arena_map(0, npages / 2, kind, *(int *)arg, p.from, p.n);
}

struct caller {
	pid_t pid;
	char *va;
	size_t len;
	int cpu;
};

static void *call(void *arg)
{
	struct caller *c = arg;
	struct page_migrate_request req = request_of(c->pid, c->va, c->len, &p);
	int fd = device_open();

	req.workers = 1;
	pin_to(c->cpu);
	pthread_barrier_wait(&barrier);
	call_request(fd, &req);
	pthread_barrier_wait(&barrier);
	close(fd);
	return NULL;
}

/*
 * The time of n threads that begin at once, until the last has ended. Each gets its part
 * of args, and waits at the barrier before its work and after.
 */
static uint64_t at_once(void *(*fn)(void *arg), void *args, size_t size, int n)
{
	pthread_t threads[2];
	uint64_t t;

	pthread_barrier_init(&barrier, NULL, n + 1);
	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, fn, (char *)args + i * size))
			die("pthread_create");
	pthread_barrier_wait(&barrier);
	t = now();
	pthread_barrier_wait(&barrier);
	t = now() - t;
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&barrier);
	return t;
}

static void check(enum how how)
{
	size_t each = how == PROCESSES ? npages / 2 : npages, there;

	for (int i = 0; i <= (how == PROCESSES); i++) {
		there = arena_count(targets[i].pid, 0, each, p.to, 1);
		expect_moved(OURS, there, each);
	}
	pairs_turn(&p);
}

static void start(enum how how)
{
	for (int i = 0; i <= (how == PROCESSES); i++) {
		files[i] = arena_file(kind, "parallel");
		target_start(&targets[i], how == PROCESSES ? fill_half : fill, &files[i]);
	}
}

static void end(enum how how)
{
	for (int i = 0; i <= (how == PROCESSES); i++) {
		target_end(&targets[i]);
		if (files[i] >= 0)
			close(files[i]);
	}
}

/* One and two by turns, a line for each: CPUs=1 and CPUs=2 are what is compared. */
static void parallel(enum how how)
{
	pid_t pid[2];

	if (!case_begin("parallel", "how=%s memory=%s", how_names[how], kind_names[kind]))
		return;
	if (cpus() < 2) {
		case_skip("needs 2 CPUs");
		return;
	}
	if (how == WORKERS && max_workers() < 2) {
		case_skip("the module has 1 worker at most");
		return;
	}
	if (!pairs_find(&p, 1, npages + HUGE / PAGE)) {
		case_skip("needs 2 nodes with room for %zu pages", npages);
		return;
	}
	start(how);
	pid[0] = targets[0].pid;
	pid[1] = how == PROCESSES ? targets[1].pid : pid[0];
	for (int r = -1; r < rounds; r++)
		for (int n = 1; n <= 2; n++) {
			size_t half = npages / 2 * PAGE;
			struct caller c[2] = {
				{ pid[0], arena, half, 0 },
				{ pid[1], how == PROCESSES ? arena : arena + half, half, 1 },
			};
			uint64_t time;

			if (how == WORKERS) {
				time = call_new_job(pid[0], &p, n);
			} else if (n == 2) {
				time = at_once(call, c, sizeof(*c), 2);
			} else {
				time = at_once(call, c, sizeof(*c), 1);
				time += at_once(call, c + 1, sizeof(*c), 1);
			}
			check(how);
			case_begin("parallel", "how=%s memory=%s cpus=%d", how_names[how],
				   kind_names[kind], n);
			if (r >= 0)
				print_time(OURS, r, npages, time);
		}
	end(how);
}

/* A swap with two workers, against move_pages(2), which has none. */
static void swap(void)
{
	const int nodes = 2;

	kind = ANON;
	if (!case_begin("parallel", "how=workers memory=%s swap=1", kind_names[kind]))
		return;
	if (max_workers() < 2) {
		case_skip("the module has 1 worker at most");
		return;
	}
	if (!pairs_find(&p, 1, npages)) {
		case_skip("needs 2 nodes with room for %zu pages", npages);
		return;
	}
	p.n = nodes;
	p.from[1] = p.to[0];
	p.to[1] = p.from[0];
	files[0] = -1;
	target_start(&targets[0], fill, &files[0]);
	for (int r = -1; r < rounds; r++) {
		uint64_t time = call_new_job(targets[0].pid, &p, 2);

		if (r >= 0)
			print_time(OURS, r, npages, time);
		time = call_move_pages(targets[0].pid, arena, npages, PAGE, &p);
		if (r >= 0)
			print_time(MOVE_PAGES, r, npages, time);
	}
	target_end(&targets[0]);
}

static void *spin(void *arg)
{
	pin_to(*(int *)arg);
	pthread_barrier_wait(&barrier);
	for (volatile unsigned long i = 0; i < SPINS; i++)
		;
	pthread_barrier_wait(&barrier);
	return NULL;
}

/* Two loops, one after the other and at once. */
static void spins(void)
{
	int cpu[2] = { 0, 1 };

	if (!case_begin("parallel", "how=loops"))
		return;
	if (cpus() < 2) {
		case_skip("needs 2 CPUs");
		return;
	}
	for (int r = 0; r < rounds; r++)
		for (int n = 1; n <= 2; n++) {
			uint64_t time = 0;

			for (int i = 0; i < 2; i += n)
				time += at_once(spin, cpu + i, sizeof(*cpu), n);
			case_begin("parallel", "how=loops memory=none cpus=%d", n);
			print_time(IDLE, r, 0, time);
		}
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv);
	npages = pages_of(128);
	spins();
	for (enum how h = 0; h < NR_HOWS; h++)
		for (enum kind k = ANON; k <= THP; k++) {
			kind = k;
			if (k != DISK)
				parallel(h);
		}
	swap();
	return 0;
}
