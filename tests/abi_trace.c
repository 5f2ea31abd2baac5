// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints: what fires, what its fields say, that nothing fires while
 * nobody watches, and that the module can go while somebody does.
 */
#include "harness.h"
#include "util.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

#define EVENTS TRACING "/events/page_migrate"
#define CALL "page_migrate_call"
#define BATCH "page_migrate_batch"
#define NPAGES 64

static void set(const char *path, const char *text)
{
	int ret = file_write(path, text);

	if (ret) {
		errno = -ret;
		die("%s > %s", text, path);
	}
}

/* Forgets what has fired: that is what opening with O_TRUNC means here. */
static void clear(void)
{
	int fd = open(TRACING "/trace", O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0)
		die(TRACING "/trace");
	close(fd);
}

/* Lines of one event of one process, in order. */
struct lines {
	size_t n;
	char line[64][1024];
};

static void look(const char *event, pid_t pid, struct lines *lines)
{
	FILE *f = fopen(TRACING "/trace", "re");
	char line[1024], name[64], who[32];

	if (!f)
		die(TRACING "/trace");
	lines->n = 0;
	snprintf(name, sizeof(name), ": %s: ", event);
	snprintf(who, sizeof(who), " pid=%d ", pid);
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "[LOST "))
			die("events are lost");
		if (!strstr(line, name) || !strstr(line, who))
			continue;
		if (lines->n == ARRAY_LEN(lines->line))
			die("too many events");
		memcpy(lines->line[lines->n++], line, sizeof(line));
	}
	fclose(f);
}

/* How many events of this module there are, of whatever process. */
static int all_events(void)
{
	FILE *f = fopen(TRACING "/trace", "re");
	char line[1024];
	int n = 0;

	if (!f)
		die(TRACING "/trace");
	while (fgets(line, sizeof(line), f))
		n += line[0] != '#' && strstr(line, ": page_migrate_");
	fclose(f);
	return n;
}

/* The text behind NAME= of a line. */
static const char *text_of(const char *line, const char *name)
{
	char key[32];
	const char *p;

	snprintf(key, sizeof(key), " %s=", name);
	p = strstr(line, key);
	if (!p)
		die("no %s in %s", name, line);
	return p + strlen(key);
}

static int64_t field(const char *line, const char *name)
{
	const char *p = text_of(line, name);
	char *end;
	int64_t value = strtoll(p, &end, 0);

	if (end == p || !strchr("\n -", *end))
		die("%s is no number in %s", name, line);
	return value;
}

static bool text_is(const char *line, const char *name, const char *text)
{
	const char *p = text_of(line, name);
	size_t n = strlen(text);

	if (!strncmp(p, text, n) && strchr("\n ", p[n]))
		return true;
	fprintf(stderr, "# %s is not %s: %s", name, text, line);
	return false;
}

/* Each count of a call's line is that of the result that its caller got. */
static bool same(const char *line, const struct page_migrate_result *res)
{
	bool ok = true;

#define SAME(f)									\
	if (field(line, #f) != (int64_t)res->f) {				\
		fprintf(stderr, "# " #f " is not %" PRIu64 ": %s",		\
			(uint64_t)res->f, line);				\
		ok = false;							\
	}
	SAME(moved);
	SAME(moved_fallback);
	SAME(already_moved);
	SAME(in_place);
	SAME(exempt);
	SAME(shared);
	SAME(busy);
	SAME(pinned);
	SAME(unmovable);
	SAME(no_memory);
	SAME(gone);
	SAME(policies);
	SAME(resume_va);
#undef SAME
	return ok;
}

/* The address behind the - of va=START-END. */
static uint64_t va_end(const char *line)
{
	const char *p = strchr(text_of(line, "va"), '-');

	return p ? strtoull(p + 1, NULL, 0) : 0;
}

static uint64_t usecs_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ULL + t.tv_nsec / 1000;
}

FIXTURE(trace)
{
	int fd;
	struct lines lines;
};

FIXTURE_SETUP(trace)
{
	tracefs_mount();
	if (access(EVENTS "/" CALL, F_OK) || access(EVENTS "/" BATCH, F_OK))
		die("no events in " EVENTS);
	set(EVENTS "/enable", "0");
	set(TRACING "/tracing_on", "1");
	clear();
	set(EVENTS "/enable", "1");
	self->fd = pm_open();
}

FIXTURE_TEARDOWN(trace)
{
	(void)self;
	set(EVENTS "/enable", "0");
	clear();
}

static void hold_pages(struct child *c, void *arg)
{
	char *p = map_nodes(3 * NPAGES, arg, 3);

	child_put(c, (uintptr_t)p);
}

/* A swap and a bystander, of another process. */
TEST_F(trace, call)
{
	int nodes[] = { mem[0], mem[1], mem[2] };
	int old[] = { mem[0], mem[1] }, new[] = { mem[1], mem[0] };
	struct page_migrate_result res;
	uint64_t begun, usecs;
	const char *line;
	struct child c;
	char *p;

	child_start(&c, hold_pages, nodes);
	p = (char *)child_get(&c);
	begun = usecs_now();
	ASSERT_EQ(0, pm_move(self->fd, c.pid, p, 3 * NPAGES * PAGE, 0, 2, old, new, &res));
	usecs = usecs_now() - begun;
	EXPECT_EQ(NPAGES, count_on(c.pid, p, 3 * NPAGES, mem[2]));
	nodes[0] = mem[1];
	nodes[1] = mem[0];
	EXPECT_TRUE(all_on(c.pid, p, 3 * NPAGES, nodes, 3));
	EXPECT_EQ(2 * NPAGES, res.moved);

	look(CALL, c.pid, &self->lines);
	ASSERT_EQ(1, self->lines.n);
	line = self->lines.line[0];
	EXPECT_TRUE(same(line, &res)) pm_print(&res);
	EXPECT_EQ(2 * NPAGES, field(line, "moved"));
	EXPECT_EQ(NPAGES, field(line, "in_place"));
	EXPECT_EQ(0, field(line, "ret"));
	EXPECT_EQ(2, field(line, "pairs"));
	EXPECT_TRUE(text_is(line, "flags", "none"));
	EXPECT_EQ((intptr_t)p, field(line, "va"));
	EXPECT_EQ((uintptr_t)p + 3 * NPAGES * PAGE, va_end(line));
	/* It took some time, and no more than its caller saw. */
	EXPECT_LT(0, field(line, "usecs"));
	EXPECT_GE((int64_t)usecs, field(line, "usecs"));
	/* Nobody else is blamed. */
	look(CALL, getpid(), &self->lines);
	EXPECT_EQ(0, self->lines.n);
	child_end(&c);
}

/* Migrations that the kernel's own event tells of: done by this process, or by others. */
static void migrations(int *own, int *others)
{
	FILE *f = fopen(TRACING "/trace", "re");
	char line[1024], who[32];

	if (!f)
		die(TRACING "/trace");
	*own = *others = 0;
	snprintf(who, sizeof(who), "-%d ", getpid());
	while (fgets(line, sizeof(line), f)) {
		if (!strstr(line, ": mm_migrate_pages: ") || !strstr(line, "reason=syscall"))
			continue;
		if (strstr(line, who))
			++*own;
		else
			++*others;
	}
	fclose(f);
}

/*
 * Who may use the new nodes does the work, in its own time; a thread of the kernel
 * does it only for one who may not.
 */
TEST_F(trace, who_does_the_work)
{
	int nodes[] = { mem[0], mem[0], mem[0] };
	struct page_migrate_result res;
	int own, others;
	char text[24], *p;
	struct child c;
	struct cg cg;

	child_start(&c, hold_pages, nodes);
	p = (char *)child_get(&c);
	snprintf(text, sizeof(text), "%d", mem[1]);
	cg_make(&cg, "work", text);
	cg_enter(&cg, getpid());
	set(TRACING "/events/migrate/mm_migrate_pages/enable", "1");
	clear();
	EXPECT_EQ(0, pm_move(self->fd, c.pid, p, 3 * NPAGES * PAGE, 0, 1, &mem[0], &mem[1], &res));
	migrations(&own, &others);
	EXPECT_LT(0, own);
	EXPECT_EQ(0, others);
	clear();
	EXPECT_EQ(0, pm_move(self->fd, c.pid, p, 3 * NPAGES * PAGE, 0, 1, &mem[1], &mem[0], &res));
	migrations(&own, &others);
	EXPECT_EQ(0, own);
	EXPECT_LT(0, others);
	set(TRACING "/events/migrate/mm_migrate_pages/enable", "0");
	EXPECT_TRUE(all_on(c.pid, p, 3 * NPAGES, &mem[0], 1));
	cg_leave(getpid());
	cg_remove(&cg);
	child_end(&c);
}

/* One for each call, in their order, and each says what its own did. */
TEST_F(trace, one_for_each_call)
{
	char *p = map_node(5 * NPAGES, mem[0]);
	struct page_migrate_result res[5];

	for (int i = 0; i < 5; i++)
		ASSERT_EQ(0, pm_move(self->fd, 0, p, (i + 1) * NPAGES * PAGE, 0, 1,
				     &mem[0], &mem[1], &res[i]));
	look(CALL, getpid(), &self->lines);
	ASSERT_EQ(5, self->lines.n);
	for (int i = 0; i < 5; i++) {
		EXPECT_TRUE(same(self->lines.line[i], &res[i]));
		EXPECT_EQ(NPAGES, field(self->lines.line[i], "moved"));
		EXPECT_EQ((uintptr_t)p + (i + 1) * NPAGES * PAGE,
			  va_end(self->lines.line[i]));
	}
}

static int by_va(const void *a, const void *b)
{
	uint64_t x = field(a, "va"), y = field(b, "va");

	return x < y ? -1 : x > y;
}

/*
 * A long range goes in several batches, which add up to the call. Several workers
 * end theirs in any order, and at the same time.
 */
static void batches(struct __test_metadata *_metadata, int fd, struct lines *lines,
		    unsigned int workers)
{
	enum { BIG = 12000 };
	char *p = map_node(BIG, mem[1]);
	int64_t pages = 0, moved = 0, left = 0, usecs = 0, longest = 0;
	uint64_t va = (uintptr_t)p;
	struct page_migrate_request req = pm_req(0, p, BIG * PAGE, 1, &mem[1], &mem[2]);
	const struct page_migrate_result *res = &req.result;

	req.workers = workers;
	ASSERT_EQ(0, pm_migrate(fd, &req));
	EXPECT_EQ(BIG, count_on(0, p, BIG, mem[2]));
	look(BATCH, getpid(), lines);
	ASSERT_LE(3, lines->n);
	qsort(lines->line, lines->n, sizeof(lines->line[0]), by_va);
	for (size_t i = 0; i < lines->n; i++) {
		const char *line = lines->line[i];
		int64_t n = field(line, "pages"), time = field(line, "usecs");

		EXPECT_LT(0, n);
		EXPECT_GE(4096, n);
		EXPECT_EQ(n, field(line, "moved") + field(line, "left"));
		EXPECT_LT(0, time);
		/* What waited on the list of another CPU comes once more, at the end. */
		EXPECT_LE(va, (uint64_t)field(line, "va"));
		EXPECT_GT((uintptr_t)p + BIG * PAGE, (uint64_t)field(line, "va"));
		va = field(line, "va");
		pages += n;
		moved += field(line, "moved");
		left += field(line, "left");
		usecs += time;
		longest = time > longest ? time : longest;
	}
	EXPECT_EQ((uintptr_t)p, (uint64_t)field(lines->line[0], "va"));
	EXPECT_EQ(BIG, pages);
	EXPECT_EQ((int64_t)(res->moved + res->moved_fallback), moved);
	EXPECT_EQ(0, left);
	look(CALL, getpid(), lines);
	ASSERT_EQ(1, lines->n);
	EXPECT_TRUE(same(lines->line[0], res));
	/* The walks took some time, too. */
	EXPECT_LT(workers > 1 ? longest : usecs, field(lines->line[0], "usecs"));
	munmap(p, BIG * PAGE);
}

TEST_F(trace, batches)
{
	batches(_metadata, self->fd, &self->lines, 1);
}

TEST_F(trace, batches_of_workers)
{
	batches(_metadata, self->fd, &self->lines, 2);
}

/* Pages that are held cannot move. */
TEST_F(trace, left_behind)
{
	enum { HELD = 4 };
	char *p = map_node(NPAGES, mem[0]);
	struct iovec iov = { p, HELD * PAGE };
	struct page_migrate_result res;
	long moved = 0, left = 0;
	int pipefd[2];

	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_EQ((ssize_t)(HELD * PAGE), vmsplice(pipefd[1], &iov, 1, 0));
	ASSERT_EQ(HELD, pm_move(self->fd, 0, p, NPAGES * PAGE, 0, 1,
				&mem[0], &mem[1], &res));
	EXPECT_EQ(HELD, count_on(0, p, HELD, mem[0]));
	EXPECT_EQ(NPAGES - HELD, count_on(0, p, NPAGES, mem[1]));
	look(CALL, getpid(), &self->lines);
	ASSERT_EQ(1, self->lines.n);
	EXPECT_TRUE(same(self->lines.line[0], &res));
	EXPECT_EQ(HELD, field(self->lines.line[0], "ret"));
	EXPECT_EQ(HELD, field(self->lines.line[0], "busy") +
			field(self->lines.line[0], "pinned"));
	look(BATCH, getpid(), &self->lines);
	for (size_t i = 0; i < self->lines.n; i++) {
		moved += field(self->lines.line[i], "moved");
		left += field(self->lines.line[i], "left");
		EXPECT_EQ(field(self->lines.line[i], "pages"),
			  field(self->lines.line[i], "moved") +
			  field(self->lines.line[i], "left"));
	}
	EXPECT_EQ(NPAGES - HELD, moved);
	/* What is busy is tried once more. */
	EXPECT_LE(HELD, left);
	EXPECT_GE(2 * HELD, left);
}

/* A dry run is a call, and moves no batch. */
TEST_F(trace, flags)
{
	char *p = map_node(NPAGES, mem[0]);
	struct page_migrate_result res;
	int pidfd = pidfd_open(getpid(), 0);

	ASSERT_LE(0, pidfd);
	ASSERT_EQ(0, pm_move(self->fd, pidfd, p, NPAGES * PAGE,
			     PAGE_MIGRATE_PIDFD | PAGE_MIGRATE_DRY_RUN |
			     PAGE_MIGRATE_EXCLUSIVE | PAGE_MIGRATE_STRICT, 1,
			     &mem[0], &mem[1], &res));
	EXPECT_EQ(NPAGES, count_on(0, p, NPAGES, mem[0]));
	look(CALL, getpid(), &self->lines);
	ASSERT_EQ(1, self->lines.n);
	EXPECT_TRUE(text_is(self->lines.line[0], "flags",
			    "PIDFD|DRY_RUN|EXCLUSIVE|STRICT"));
	EXPECT_TRUE(same(self->lines.line[0], &res));
	EXPECT_EQ(NPAGES, field(self->lines.line[0], "moved"));
	look(BATCH, getpid(), &self->lines);
	EXPECT_EQ(0, self->lines.n);

	/* No flag of the header is printed as a number. */
	for (int bit = 1; bit < 32; bit++) {
		struct page_migrate_info info;
		const char *line;

		ASSERT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_INFO, &info));
		if (!(info.flags & 1ULL << bit))
			continue;
		clear();
		ASSERT_LE(0, pm_move(self->fd, 0, p, NPAGES * PAGE, 1U << bit, 1,
				     &mem[0], &mem[0], NULL));
		look(CALL, getpid(), &self->lines);
		ASSERT_EQ(1, self->lines.n);
		line = text_of(self->lines.line[0], "flags");
		EXPECT_TRUE(*line >= 'A' && *line <= 'Z')
			fprintf(stderr, "# %s", self->lines.line[0]);
	}
}

/* What is refused before it begins is no call at work. */
TEST_F(trace, refused)
{
	char *p = map_node(NPAGES, mem[0]);
	int nowhere = nr_node_ids();

	EXPECT_EQ(-EINVAL, pm_move(self->fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0],
				   &nowhere, NULL));
	EXPECT_EQ(-ESRCH, pm_move(self->fd, -1, p, NPAGES * PAGE, 0, 1, &mem[0],
				  &mem[1], NULL));
	EXPECT_EQ(0, all_events());
	EXPECT_EQ(NPAGES, count_on(0, p, NPAGES, mem[0]));
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* Ended early: by a signal, and by its own limit. */
TEST_F(trace, ended_early)
{
	enum { BIG = 24576 };
	char *p = map_node(BIG, mem[1]);
	struct page_migrate_request req = pm_req(0, p, BIG * PAGE, 1, &mem[1], &mem[2]);
	struct itimerval soon = { .it_value.tv_usec = 30000 };
	struct sigaction act = { .sa_handler = on_alarm };
	const char *line;

	ASSERT_EQ(0, sigaction(SIGALRM, &act, NULL));
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &soon, NULL));
	ASSERT_EQ(-EINTR, pm_migrate(self->fd, &req));
	look(CALL, getpid(), &self->lines);
	ASSERT_EQ(1, self->lines.n);
	line = self->lines.line[0];
	EXPECT_EQ(-EINTR, field(line, "ret"));
	EXPECT_TRUE(same(line, &req.result));
	EXPECT_EQ(count_on(0, p, BIG, mem[2]), (size_t)field(line, "moved"));
	EXPECT_GT((int64_t)((intptr_t)p + BIG * PAGE), field(line, "resume_va"));
	EXPECT_EQ((uintptr_t)p + BIG * PAGE, va_end(line));

	clear();
	req.max_pages = 1;
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	look(CALL, getpid(), &self->lines);
	ASSERT_EQ(1, self->lines.n);
	line = self->lines.line[0];
	EXPECT_EQ(0, field(line, "ret"));
	EXPECT_LE(1, field(line, "moved"));
	EXPECT_TRUE(same(line, &req.result));
}

/* Each can be watched alone, and a filter knows the fields. */
TEST_F(trace, chosen)
{
	char *p = map_node(NPAGES, mem[0]);

	set(EVENTS "/" CALL "/enable", "0");
	ASSERT_EQ(0, pm_move(self->fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[1], NULL));
	look(BATCH, getpid(), &self->lines);
	EXPECT_LE(1, self->lines.n);
	EXPECT_EQ(self->lines.n, all_events());

	clear();
	set(EVENTS "/" BATCH "/enable", "0");
	set(EVENTS "/" CALL "/enable", "1");
	set(EVENTS "/" CALL "/filter", "moved > 10 && pairs == 1");
	ASSERT_EQ(0, pm_move(self->fd, 0, p, 10 * PAGE, 0, 1, &mem[1], &mem[2], NULL));
	EXPECT_EQ(0, all_events());
	ASSERT_EQ(0, pm_move(self->fd, 0, p, NPAGES * PAGE, 0, 1, &mem[1], &mem[2], NULL));
	EXPECT_EQ(1, all_events());
	EXPECT_EQ(NPAGES, count_on(0, p, NPAGES, mem[2]));
	set(EVENTS "/" CALL "/filter", "0");
}

/* While nobody watches, nothing fires, and pages move all the same. */
TEST_F(trace, disabled)
{
	char *p = map_node(NPAGES, mem[0]);

	set(EVENTS "/enable", "0");
	ASSERT_EQ(0, pm_move(self->fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[1], NULL));
	EXPECT_EQ(NPAGES, count_on(0, p, NPAGES, mem[1]));
	EXPECT_EQ(0, all_events());
	set(EVENTS "/enable", "1");
	ASSERT_EQ(0, pm_move(self->fd, 0, p, NPAGES * PAGE, 0, 1, &mem[1], &mem[0], NULL));
	look(CALL, getpid(), &self->lines);
	EXPECT_EQ(1, self->lines.n);
	look(BATCH, getpid(), &self->lines);
	EXPECT_LE(1, self->lines.n);
}

/*
 * The module goes while somebody watches, and comes back. The kernel log is
 * looked at by whoever runs the machine.
 */
TEST_F(trace, unload)
{
	char *p = map_node(NPAGES, mem[0]);

	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pm_move(self->fd, 0, p, NPAGES * PAGE, 0, 1,
				     &mem[i % 2], &mem[1 - i % 2], NULL));
		look(CALL, getpid(), &self->lines);
		EXPECT_EQ(1, self->lines.n);
		look(BATCH, getpid(), &self->lines);
		EXPECT_LE(1, self->lines.n);
		EXPECT_EQ(-EWOULDBLOCK, module_unload());
		close(self->fd);
		ASSERT_EQ(0, module_unload());
		EXPECT_FALSE(module_loaded());
		EXPECT_NE(0, access(EVENTS, F_OK));
		/* What had fired can no longer be printed, but does no harm. */
		all_events();
		ASSERT_EQ(0, module_load(""));
		ASSERT_TRUE(device_comes(true));
		ASSERT_EQ(0, access(EVENTS, F_OK));
		self->fd = pm_open();
		clear();
		set(EVENTS "/enable", "1");
	}
}

TEST_HARNESS_MAIN
