// SPDX-License-Identifier: GPL-2.0
/*
 * How much of the kernel's stack a call takes, by the kernel's own stack tracer. It looks at
 * all tasks: what it finds while nothing is called is the floor.
 */
#include "bench.h"

#define PAGES 4096UL
#define ENABLED "/proc/sys/kernel/stack_tracer_enabled"
#define MAX_SIZE "/sys/kernel/tracing/stack_max_size"

static struct pairs p;

static void fill(void *arg)
{
	(void)arg;
	arena_map(0, PAGES, ANON, -1, p.from, 1);
}

static bool file_put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

int main(int argc, char **argv)
{
	struct target t;

	bench_begin(argc, argv);
	if (!case_begin("stack", "what=move"))
		return 0;
	if (!pairs_find(&p, 1, PAGES)) {
		case_skip("needs 2 nodes with room for %lu pages", PAGES);
		return 0;
	}
	target_start(&t, fill, NULL);
	if (!file_put(ENABLED, "1")) {
		case_skip("the kernel has no stack tracer");
		return 0;
	}
	for (enum contestant c = IDLE; c < NR_CONTESTANTS; c++) {
		char size[32] = "";
		int fd;

		file_put(MAX_SIZE, "0");
		switch (c) {
		case IDLE:
			usleep(100000);
			break;
		case OURS:
			call_new_job(t.pid, &p, 0);
			break;
		case MIGRATE_PAGES:
			call_migrate_pages(t.pid, &p);
			break;
		default:
			call_move_pages(t.pid, arena, PAGES, PAGE, &p);
			break;
		}
		fd = open(MAX_SIZE, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, size, sizeof(size) - 1) <= 0)
			die(MAX_SIZE);
		close(fd);
		print_count(c, 0, PAGES, strtoull(size, NULL, 10), "bytes");
		if (c == IDLE)
			continue;
		expect_moved(c, arena_count(t.pid, 0, PAGES, p.to, 1), PAGES);
		pairs_turn(&p);
	}
	file_put(ENABLED, "0");
	target_end(&t);
	return 0;
}
