// SPDX-License-Identifier: GPL-2.0
/* Jobs of several calls: what an open file remembers, and for how long. */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

#define N 600
#define NODES(...) ((const int[]){ __VA_ARGS__ })
#define WHOLE NULL, ~0UL

/* 0 to 1, 1 to 2: a page that is met again looks as if it had to move. */
#define SHIFT_OLD NODES(mem[0], mem[1])
#define SHIFT_NEW NODES(mem[1], mem[2])

FIXTURE(calls)
{
	int fd;
	char *p;
	struct page_migrate_result res;
};

FIXTURE_SETUP(calls)
{
	file_write("/proc/sys/vm/compaction_proactiveness", "0");
	self->fd = pm_open();
	self->p = map_nodes(N, mem, 3);
	fill(self->p, N, 3);
}

FIXTURE_TEARDOWN(calls)
{
	close(self->fd);
}

/* One call for the N pages, by the lists. */
static long go(FIXTURE_DATA(calls) *self, int fd, unsigned int flags, const int *old,
	       const int *new)
{
	return pm_move(fd, 0, self->p, N * PAGE, flags, 2, old, new, &self->res);
}

#define EXPECT_COUNTS(m, a, i)							\
	do {									\
		EXPECT_EQ((uint64_t)(m), self->res.moved) pm_print(&self->res);	\
		EXPECT_EQ((uint64_t)(a), self->res.already_moved);		\
		EXPECT_EQ((uint64_t)(i), self->res.in_place);			\
		EXPECT_EQ(N, pm_sum(&self->res));				\
	} while (0)

/* A call that repeats what is done, and moves nothing. */
#define EXPECT_NOTHING_MOVES(call, ...)						\
	do {									\
		long before_ = migrated();					\
										\
		EXPECT_EQ(0, call);						\
		EXPECT_EQ(before_, migrated());					\
		EXPECT_TRUE(all_on(0, self->p, N, NODES(__VA_ARGS__), 3));	\
	} while (0)

TEST_F(calls, repeated_shift)
{
	long before = migrated();

	ASSERT_EQ(0, go(self, self->fd, 0, SHIFT_OLD, SHIFT_NEW));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_EQ(400, migrated() - before);
	for (int i = 0; i < 3; i++) {
		EXPECT_NOTHING_MOVES(go(self, self->fd, 0, SHIFT_OLD, SHIFT_NEW),
				     mem[1], mem[2], mem[2]);
		EXPECT_COUNTS(0, 400, 200);
	}
	EXPECT_EQ(0, bad_pages(self->p, N, 3));
}

TEST_F(calls, repeated_swap)
{
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(400, 0, 200);
	for (int i = 0; i < 3; i++) {
		EXPECT_NOTHING_MOVES(go(self, self->fd, 0, SWAP_OLD, SWAP_NEW),
				     mem[1], mem[0], mem[2]);
		EXPECT_COUNTS(0, 400, 200);
	}
	EXPECT_EQ(0, bad_pages(self->p, N, 3));
}

/* A page that came later, to an old node, moves when the call is repeated. */
TEST_F(calls, new_pages_move_too)
{
	char *q = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct page_migrate_result res;

	ASSERT_NE(MAP_FAILED, (void *)q);
	ASSERT_EQ(0, advise(q, N * PAGE, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	place_pages(q, N, NODES(mem[2]), 1);
	ASSERT_EQ(0, pm_move(self->fd, 0, q, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res));
	EXPECT_EQ(N, res.in_place);
	/* On a node whose frames the job has not used. */
	ASSERT_EQ(0, pm_move(self->fd, 0, q, N * PAGE, 0, 2, NODES(mem[2], mem[0]),
			     NODES(mem[3], mem[2]), &res));
	EXPECT_EQ(N, res.moved);
	EXPECT_TRUE(all_on(0, q, N, &mem[3], 1));
}

TEST_F(calls, other_lists_begin_a_new_job)
{
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(400, 0, 200);
	/* The same pairs in another order are other lists. */
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_NEW, SWAP_OLD));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_TRUE(all_on(0, self->p, N, mem, 3));
	/* Another new node. */
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_NEW, NODES(mem[0], mem[3])));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_TRUE(all_on(0, self->p, N, NODES(mem[3], mem[0], mem[2]), 3));
	/* A list that is shorter, and begins alike. */
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, 1, NODES(mem[3]), NODES(mem[1]),
			     &self->res));
	EXPECT_COUNTS(200, 0, 400);
	ASSERT_EQ(0, go(self, self->fd, 0, NODES(mem[3], mem[1]), NODES(mem[1], mem[3])));
	EXPECT_COUNTS(200, 0, 400);
	EXPECT_TRUE(all_on(0, self->p, N, NODES(mem[3], mem[0], mem[2]), 3));
}

/* What was before the last job is forgotten, the same lists or not. */
TEST_F(calls, one_job_at_a_time)
{
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	ASSERT_EQ(0, go(self, self->fd, 0, NODES(mem[2], mem[3]), NODES(mem[3], mem[2])));
	EXPECT_COUNTS(200, 0, 400);
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_TRUE(all_on(0, self->p, N, NODES(mem[0], mem[1], mem[3]), 3));
}

TEST_F(calls, new_job_flag)
{
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	ASSERT_EQ(0, go(self, self->fd, PAGE_MIGRATE_NEW_JOB, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_TRUE(all_on(0, self->p, N, mem, 3));
	/* From there on it is remembered. */
	EXPECT_NOTHING_MOVES(go(self, self->fd, 0, SWAP_OLD, SWAP_NEW), mem[0], mem[1], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
}

TEST_F(calls, new_open_file)
{
	int other = pm_open();

	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	ASSERT_EQ(0, go(self, other, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_TRUE(all_on(0, self->p, N, mem, 3));
	EXPECT_NOTHING_MOVES(go(self, other, 0, SWAP_OLD, SWAP_NEW), mem[0], mem[1], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
}

/* In any open mode. */
TEST_F(calls, open_modes)
{
	static const int modes[] = { O_RDONLY, O_WRONLY, O_RDWR };

	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		int fd = open(PM_DEVICE, modes[i] | O_CLOEXEC);

		ASSERT_LE(0, fd);
		ASSERT_EQ(0, go(self, fd, 0, SWAP_OLD, SWAP_NEW));
		EXPECT_COUNTS(400, 0, 200);
		ASSERT_EQ(0, go(self, fd, 0, SWAP_OLD, SWAP_NEW));
		EXPECT_COUNTS(0, 400, 200);
		close(fd);
	}
}

/* A dry run tells what a call would do, and is forgotten. */
TEST_F(calls, dry_run)
{
	uint64_t moved;

	EXPECT_NOTHING_MOVES(go(self, self->fd, PAGE_MIGRATE_DRY_RUN, SWAP_OLD, SWAP_NEW),
			     mem[0], mem[1], mem[2]);
	EXPECT_COUNTS(400, 0, 200);
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(400, 0, 200);
	moved = fdinfo(getpid(), self->fd, "moved:");
	/* In the job. */
	EXPECT_NOTHING_MOVES(go(self, self->fd, PAGE_MIGRATE_DRY_RUN, SWAP_OLD, SWAP_NEW),
			     mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
	/* As a new one. */
	EXPECT_NOTHING_MOVES(go(self, self->fd, PAGE_MIGRATE_DRY_RUN | PAGE_MIGRATE_NEW_JOB,
				SWAP_OLD, SWAP_NEW), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_NOTHING_MOVES(go(self, self->fd, PAGE_MIGRATE_DRY_RUN, SHIFT_OLD, SHIFT_NEW),
			     mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(400, 0, 200);
	/* The job is still there. */
	EXPECT_EQ(moved, fdinfo(getpid(), self->fd, "moved:"));
	EXPECT_NOTHING_MOVES(go(self, self->fd, 0, SWAP_OLD, SWAP_NEW), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
}

/* A call that fails a check leaves the job as it was. */
TEST_F(calls, refused_call)
{
	struct page_migrate_request req;
	int offline = nr_node_ids();

	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_EQ(-EINVAL, go(self, self->fd, PAGE_MIGRATE_NEW_JOB, SWAP_OLD,
			      NODES(mem[0], offline)));
	req = pm_req(0, self->p + 1, N * PAGE, 2, SWAP_OLD, SWAP_NEW);
	req.flags = PAGE_MIGRATE_NEW_JOB;
	EXPECT_EQ(-EINVAL, pm_migrate(self->fd, &req));
	EXPECT_EQ(-ESRCH, pm_move(self->fd, -5, self->p, N * PAGE, PAGE_MIGRATE_NEW_JOB, 2,
				  SWAP_OLD, SWAP_NEW, NULL));
	EXPECT_NOTHING_MOVES(go(self, self->fd, 0, SWAP_OLD, SWAP_NEW), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
}

/* moved is that of the job, over all of its calls. */
TEST_F(calls, fdinfo_of_a_job)
{
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pm_move(self->fd, 0, self->p + i * 200 * PAGE, 200 * PAGE, 0, 1,
				     NODES(mem[0]), NODES(mem[3]), &self->res));
		EXPECT_EQ(200, pm_sum(&self->res));
		EXPECT_EQ(count_on(0, self->p, (i + 1) * 200, mem[3]),
			  fdinfo(getpid(), self->fd, "moved:"));
		EXPECT_EQ((uintptr_t)self->p + (i + 1) * 200 * PAGE,
			  fdinfo(getpid(), self->fd, "va:"));
	}
	EXPECT_EQ(200, fdinfo(getpid(), self->fd, "moved:"));
	/* A new job begins at 0. */
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, 30 * PAGE, 0, 1, NODES(mem[3]), NODES(mem[0]),
			     &self->res));
	EXPECT_EQ(10, fdinfo(getpid(), self->fd, "moved:"));
}

static void call_inherited(struct child *c, void *arg)
{
	FIXTURE_DATA(calls) *self = arg;

	/* Its own memory, which it shares with its parent. */
	if (go(self, self->fd, 0, SWAP_OLD, SWAP_NEW))
		die("the child's call");
	child_put(c, self->res.moved);
	child_put(c, self->res.already_moved);
}

/* It is the open file that counts, by whatever number it goes. */
TEST_F(calls, copies_of_the_descriptor)
{
	struct child c;
	int copy = dup(self->fd);

	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_NOTHING_MOVES(go(self, copy, 0, SWAP_OLD, SWAP_NEW), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
	child_start(&c, call_inherited, self);
	EXPECT_EQ(0, child_get(&c));
	EXPECT_EQ(400, child_get(&c));
	child_end(&c);
	/* It lives as long as one of them is open. */
	close(self->fd);
	EXPECT_NOTHING_MOVES(go(self, copy, 0, SWAP_OLD, SWAP_NEW), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
	self->fd = copy;
}

struct caller {
	int fd, count;
	pid_t pid;
	char *p;
	size_t npages;
	const int *old, *new;
	long ret;
	struct page_migrate_result res;
	atomic_bool done;
};

static void *call(void *arg)
{
	struct caller *c = arg;

	c->ret = pm_move(c->fd, c->pid, c->p, c->npages * PAGE, 0, c->count, c->old, c->new,
			 &c->res);
	c->done = true;
	return NULL;
}

#define BIG 20000

/* Calls on one file take turns: the second finds the first one's work done. */
TEST_F(calls, take_turns)
{
	char *p = map_nodes(BIG, SWAP_OLD, 2);
	int old[] = { mem[0], mem[1] }, new[] = { mem[1], mem[0] };
	struct caller c[3];
	pthread_t t[3];
	uint64_t moved = 0, already = 0;
	long before;

	fill(p, BIG, 4);
	before = migrated();
	for (int i = 0; i < 3; i++) {
		c[i] = (struct caller){ .fd = dup(self->fd), .count = 2, .p = p, .npages = BIG,
					.old = old, .new = new };
		ASSERT_EQ(0, pthread_create(&t[i], NULL, call, &c[i]));
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		EXPECT_EQ(0, c[i].ret) pm_print(&c[i].res);
		EXPECT_EQ(BIG, pm_sum(&c[i].res));
		/* Each is either the one that moved them all, or not: they took turns. */
		EXPECT_TRUE(c[i].res.moved == BIG || c[i].res.already_moved == BIG)
			pm_print(&c[i].res);
		moved += c[i].res.moved;
		already += c[i].res.already_moved;
	}
	EXPECT_EQ(BIG, moved);
	EXPECT_EQ(2 * BIG, already);
	EXPECT_EQ(BIG, migrated() - before);
	EXPECT_TRUE(all_on(0, p, BIG, new, 2));
	EXPECT_EQ(0, bad_pages(p, BIG, 4));
	EXPECT_EQ(0, fdinfo(getpid(), self->fd, "running:"));
}

static void waiting_child(struct child *c, void *arg)
{
	struct caller *a = arg;

	child_put(c, 1);
	child_get(c);
	call(a);
	child_put(c, a->ret);
}

/* Who waits for a turn can be killed, while the other goes on. */
TEST_F(calls, killed_while_waiting)
{
	enum { LONG = 60000 };
	struct caller mine = { .fd = self->fd, .count = 1, .npages = LONG,
			       .old = &mem[0], .new = &mem[1] }, theirs;
	struct child c;
	pthread_t t;
	double start;

	mine.p = map_node(LONG, mem[0]);
	/* Or the child that dies would hold on to some of it for a moment. */
	ASSERT_EQ(0, madvise(mine.p, LONG * PAGE, MADV_DONTFORK));
	theirs = (struct caller){ .fd = self->fd, .count = 1, .npages = N, .p = self->p,
				  .old = &mem[0], .new = &mem[1] };
	/* All that takes long comes before the call that is to be waited for. */
	child_start(&c, waiting_child, &theirs);
	child_get(&c);
	ASSERT_EQ(0, pthread_create(&t, NULL, call, &mine));
	while (!fdinfo(getpid(), self->fd, "running:") && !mine.done)
		usleep(1000);
	child_put(&c, 1);
	usleep(20000);
	start = now();
	child_end(&c);
	EXPECT_GT(10.0, now() - start);
	/* Else it would have had its turn. */
	EXPECT_EQ(1, fdinfo(getpid(), self->fd, "running:"));
	EXPECT_FALSE(mine.done);
	pthread_join(t, NULL);
	EXPECT_EQ(0, mine.ret);
	EXPECT_EQ(LONG, mine.res.moved);
	EXPECT_EQ(count_on(0, self->p, N, mem[0]), N / 3);
	/* And the file is as good as before. */
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, N * PAGE, 0, 1, &mem[0], &mem[1], &self->res));
	EXPECT_COUNTS(N / 3, 0, N - N / 3);
}

/* Several files, one process, one map: each page moves once. */
TEST_F(calls, several_files_at_once)
{
	enum { FILES = 4 };
	char *p = map_nodes(BIG, SWAP_OLD, 2);
	int new[] = { mem[2], mem[3] }, old[] = { mem[0], mem[1] };
	struct caller c[FILES];
	pthread_t t[FILES];
	uint64_t moved = 0;

	fill(p, BIG, 4);
	for (int i = 0; i < FILES; i++) {
		c[i] = (struct caller){ .fd = pm_open(), .count = 2, .p = p, .npages = BIG,
					.old = old, .new = new };
		ASSERT_EQ(0, pthread_create(&t[i], NULL, call, &c[i]));
	}
	for (int i = 0; i < FILES; i++) {
		pthread_join(t[i], NULL);
		EXPECT_LE(0, c[i].ret) pm_print(&c[i].res);
		EXPECT_EQ((uint64_t)c[i].ret, pm_left(&c[i].res));
		EXPECT_EQ(BIG, pm_sum(&c[i].res));
		moved += c[i].res.moved;
		close(c[i].fd);
	}
	/* What one of them had in work was busy for the others. */
	EXPECT_EQ(BIG, moved);
	EXPECT_TRUE(all_on(0, p, BIG, new, 2));
	EXPECT_EQ(0, bad_pages(p, BIG, 4));
	EXPECT_EQ(0, nr_isolated());
}

/* Several files that want different things: nothing is lost. */
TEST_F(calls, several_files_against_each_other)
{
	enum { FILES = 4 };
	char *p = map_nodes(BIG, mem, 4);
	int old[FILES][4], new[FILES][4];
	struct caller c[FILES];
	pthread_t t[FILES];
	size_t there = 0;

	fill(p, BIG, 4);
	for (int i = 0; i < FILES; i++) {
		for (int k = 0; k < 4; k++) {
			old[i][k] = mem[k];
			new[i][k] = mem[(k + i) % 4];
		}
		c[i] = (struct caller){ .fd = pm_open(), .count = 4, .p = p, .npages = BIG,
					.old = old[i], .new = new[i] };
		ASSERT_EQ(0, pthread_create(&t[i], NULL, call, &c[i]));
	}
	for (int i = 0; i < FILES; i++) {
		pthread_join(t[i], NULL);
		EXPECT_LE(0, c[i].ret) pm_print(&c[i].res);
		EXPECT_EQ(BIG, pm_sum(&c[i].res)) pm_print(&c[i].res);
		close(c[i].fd);
	}
	for (int k = 0; k < 4; k++)
		there += count_on(0, p, BIG, mem[k]);
	EXPECT_EQ(BIG, there);
	EXPECT_EQ(0, bad_pages(p, BIG, 4));
	EXPECT_EQ(0, nr_isolated());
}

/* What has moved counts so, even if its file was marked meanwhile. */
TEST_F(calls, already_moved_wins_over_exempt)
{
	char path[128], *p;
	int file = scratch_file("mark", path, sizeof(path));
	struct page_migrate_result res;
	size_t moved = 0;
	long ret = 1;

	file_fill(file, N, 5, SWAP_OLD, 2);
	ASSERT_EQ(0, fsync(file));
	p = mmap(NULL, N * PAGE, PROT_READ, MAP_SHARED, file, 0);
	ASSERT_NE(MAP_FAILED, (void *)p);
	/* khugepaged would take pages out of the page table to merge them. */
	ASSERT_EQ(0, advise(p, N * PAGE, MADV_NOHUGEPAGE));
	touch(p, N);
	ASSERT_TRUE(all_on(0, p, N, SWAP_OLD, 2));
	/* Pages of the cache may be busy for a moment. */
	for (int i = 0; i < 20 && ret; i++) {
		ret = pm_move(self->fd, 0, p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res);
		moved += res.moved;
	}
	ASSERT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(N, moved);
	ASSERT_EQ(0, fsetxattr(file, "user.migrate", "none", 4, 0));
	ASSERT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW, &res));
	EXPECT_EQ(N, res.already_moved) pm_print(&res);
	EXPECT_EQ(0, res.exempt);
	/* For another job they are pages of a marked file. */
	ASSERT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, PAGE_MIGRATE_NEW_JOB, 2, SWAP_OLD,
			     SWAP_NEW, &res));
	EXPECT_EQ(N, res.exempt) pm_print(&res);
	EXPECT_TRUE(all_on(0, p, N, SWAP_NEW, 2));
	unlink(path);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void alarm_every(int us)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval it = { { 0, us }, { 0, us } };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &it, NULL);
}

/* Interrupted and continued, each page moves once; from where it stopped, or from the start. */
static void interrupted(struct __test_metadata *_metadata, int fd, bool resume)
{
	const int old[] = { mem[0], mem[1], mem[2] }, new[] = { mem[1], mem[2], mem[3] };
	char *p = map_nodes(3 * 8000, mem, 3), *at = p;
	size_t npages = 3 * 8000;
	struct page_migrate_result res;
	uint64_t moved = 0;
	int eintr = 0;
	long before = migrated(), ret;

	fill(p, npages, 6);
	before = migrated();
	do {
		/* Soon enough for a fast machine, and in the end late enough for a slow one. */
		alarm_every(2000 + eintr * 20000);
		ret = pm_move(fd, 0, at, npages * PAGE - (at - p), 0, 3, old, new, &res);
		alarm_every(0);
		moved += res.moved;
		EXPECT_TRUE(ret == 0 || ret == -EINTR) TH_LOG("returned %ld", ret);
		if (ret == -EINTR) {
			eintr++;
			EXPECT_LE((uintptr_t)at, res.resume_va);
			if (resume)
				at = (char *)(uintptr_t)res.resume_va;
		}
	} while (ret == -EINTR && eintr < 500);
	EXPECT_EQ(0, ret);
	EXPECT_LT(0, eintr) TH_LOG("the call was never interrupted");
	EXPECT_EQ((uintptr_t)p + npages * PAGE, res.resume_va);
	EXPECT_EQ(npages, moved);
	EXPECT_EQ((long)npages, migrated() - before);
	EXPECT_EQ(npages, fdinfo(getpid(), fd, "moved:"));
	EXPECT_TRUE(all_on(0, p, npages, new, 3));
	EXPECT_EQ(0, bad_pages(p, npages, 6));
}

TEST_F(calls, interrupted_and_continued)
{
	interrupted(_metadata, self->fd, true);
}

TEST_F(calls, interrupted_and_repeated)
{
	interrupted(_metadata, self->fd, false);
}

/* A swap in slices, from where the last one stopped or from the start. */
TEST_F(calls, slices_of_a_swap)
{
	for (int resume = 0; resume < 2; resume++) {
		char *p = map_nodes(BIG, SWAP_OLD, 2);
		struct page_migrate_request req = pm_req(0, p, BIG * PAGE, 2, SWAP_OLD, SWAP_NEW);
		uint64_t end = (uintptr_t)p + BIG * PAGE, moved = 0;
		long before;
		int slices = 0;

		fill(p, BIG, 7);
		req.flags = PAGE_MIGRATE_NEW_JOB;
		req.max_pages = 1500;
		before = migrated();
		do {
			ASSERT_EQ(0, pm_migrate(self->fd, &req)) pm_print(&req.result);
			req.flags = 0;
			/* A limit may be passed by one batch. */
			EXPECT_GE(1500 + 4096, req.result.moved);
			moved += req.result.moved;
			if (resume) {
				req.va_start = req.result.resume_va;
				req.len = end - req.va_start;
			}
			slices++;
		} while (req.result.resume_va < end && slices < 100);
		EXPECT_LT(3, slices);
		EXPECT_EQ(BIG, moved);
		EXPECT_EQ(BIG, migrated() - before);
		EXPECT_EQ(BIG, fdinfo(getpid(), self->fd, "moved:"));
		EXPECT_TRUE(all_on(0, p, BIG, SWAP_NEW, 2));
		EXPECT_EQ(0, bad_pages(p, BIG, 7));
		munmap(p, BIG * PAGE);
	}
}

static int same_mm(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return 0;
}

/* A process with the same address space, as vfork(2) makes it, and threads. */
TEST_F(calls, processes_that_share_an_mm)
{
	static char stack[65536] __attribute__((aligned(16)));
	pid_t pid = clone(same_mm, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);

	ASSERT_LT(0, pid);
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_NOTHING_MOVES(pm_move(self->fd, pid, self->p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW,
				     &self->res), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

struct thread_id {
	atomic_int tid;
	atomic_bool stop;
};

static void *tell_tid(void *arg)
{
	struct thread_id *id = arg;

	id->tid = gettid();
	while (!id->stop)
		usleep(1000);
	return NULL;
}

TEST_F(calls, threads_by_id)
{
	struct thread_id id = { };
	pthread_t t;

	ASSERT_EQ(0, pthread_create(&t, NULL, tell_tid, &id));
	while (!id.tid)
		usleep(1000);
	ASSERT_EQ(0, pm_move(self->fd, id.tid, self->p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW,
			     &self->res));
	EXPECT_COUNTS(400, 0, 200);
	EXPECT_NOTHING_MOVES(go(self, self->fd, 0, SWAP_OLD, SWAP_NEW), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
	id.stop = true;
	pthread_join(t, NULL);
}

static void sleeping_child(struct child *c, void *arg)
{
	touch(arg, N);
	child_put(c, 1);
	child_get(c);
	child_put(c, bad_pages(arg, N, 3));
}

/* A process that forks between two calls: what its child has was moved. */
TEST_F(calls, fork_between_calls)
{
	struct child c;

	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	child_start(&c, sleeping_child, self->p);
	child_get(&c);
	EXPECT_NOTHING_MOVES(pm_move(self->fd, c.pid, self->p, N * PAGE, 0, 2, SWAP_OLD, SWAP_NEW,
				     &self->res), mem[1], mem[0], mem[2]);
	EXPECT_COUNTS(0, 400, 200);
	EXPECT_TRUE(all_on(c.pid, self->p, N, NODES(mem[1], mem[0], mem[2]), 3));
	/* What the parent copies on a node of the lists is a page of its own. */
	bind_to(mem[2]);
	for (size_t i = 0; i < 30; i++)
		((volatile char *)self->p)[i * PAGE] = self->p[i * PAGE];
	bind_to(-1);
	ASSERT_TRUE(all_on(0, self->p, 30, &mem[2], 1));
	ASSERT_EQ(0, go(self, self->fd, 0, SWAP_OLD, SWAP_NEW));
	EXPECT_COUNTS(0, 380, 220);
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	EXPECT_EQ(0, bad_pages(self->p, N, 3));
	child_end(&c);
}

struct family {
	char *shared;
	size_t npages, own;
};

static void family_child(struct child *c, void *arg)
{
	struct family *f = arg;
	char *own = map_nodes(f->own, SWAP_OLD, 2);

	touch(f->shared, f->npages);
	child_put(c, (uintptr_t)own);
	child_get(c);
	child_put(c, bad_pages(f->shared, f->npages, 8));
}

static void family_make(struct family *f, struct child *c, int n)
{
	f->shared = mmap(NULL, f->npages * PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f->shared == MAP_FAILED)
		die("mmap");
	place_pages(f->shared, f->npages, SWAP_OLD, 2);
	fill(f->shared, f->npages, 8);
	for (int i = 0; i < n; i++) {
		child_start(&c[i], family_child, f);
		child_get(&c[i]);
	}
}

/* A process that exits between two calls: the job goes on with the others. */
TEST_F(calls, exit_between_calls)
{
	struct family f = { .npages = N, .own = 200 };
	struct child c[3];
	struct page_migrate_result res;
	pid_t gone;

	family_make(&f, c, 3);
	ASSERT_EQ(0, pm_move(self->fd, c[0].pid, WHOLE, 0, 2, SWAP_OLD, SWAP_NEW, &res));
	EXPECT_LE(N + 200, res.moved);
	gone = c[1].pid;
	/* First as a zombie, then as nothing. */
	kill(gone, SIGKILL);
	ASSERT_EQ(0, waitid(P_PID, gone, &(siginfo_t){ }, WEXITED | WNOWAIT));
	EXPECT_EQ(-ESRCH, pm_move(self->fd, gone, WHOLE, 0, 2, SWAP_OLD, SWAP_NEW, &res));
	EXPECT_TRUE(pm_is_poison(&res));
	child_end(&c[1]);
	EXPECT_EQ(-ESRCH, pm_move(self->fd, gone, WHOLE, 0, 2, SWAP_OLD, SWAP_NEW, &res));
	ASSERT_EQ(0, pm_move(self->fd, c[2].pid, WHOLE, 0, 2, SWAP_OLD, SWAP_NEW, &res));
	EXPECT_LE(N, res.already_moved);
	EXPECT_LE(200, res.moved);
	EXPECT_TRUE(all_on(c[2].pid, f.shared, N, SWAP_NEW, 2));
	child_put(&c[2], 1);
	EXPECT_EQ(0, child_get(&c[2]));
	child_end(&c[0]);
	child_end(&c[2]);
}

/* One that exits in the middle of its call: the job goes on with the others. */
TEST_F(calls, exit_during_a_call)
{
	enum { TRIES = 20, SHARED = 6000, OWN = 30000 };
	int hits = 0;

	for (int i = 0; i < TRIES && !hits; i++) {
		struct family f = { .npages = SHARED, .own = OWN };
		struct page_migrate_result res;
		struct killer k = { .fd = pm_open(), .after_us = -1 };
		struct child c[2];
		pthread_t t;
		long ret, before;
		int calls = 0;

		family_make(&f, c, 1);
		f.own = 200;
		child_start(&c[1], family_child, &f);
		child_get(&c[1]);
		k.pid = c[0].pid;
		ASSERT_EQ(0, pthread_create(&t, NULL, kill_in_call, &k));
		ret = pm_move(k.fd, c[0].pid, WHOLE, 0, 2, SWAP_OLD, SWAP_NEW, &res);
		EXPECT_TRUE(ret >= 0 || ret == -ESRCH) TH_LOG("returned %ld", ret);
		pthread_join(t, NULL);
		if (ret >= 0) {
			EXPECT_EQ((uint64_t)ret, pm_left(&res));
			hits += pm_sum(&res) > 0 && pm_sum(&res) < SHARED + OWN;
		}
		child_end(&c[0]);
		before = count_on(c[1].pid, f.shared, f.npages, mem[1]);
		/*
		 * The address space of the one that died may still be on its way out,
		 * in a worker of the kernel, which then holds shared pages: busy.
		 */
		do {
			if (calls)
				usleep(50000 * patience());
			ret = pm_move(k.fd, c[1].pid, WHOLE, 0, 2, SWAP_OLD, SWAP_NEW, &res);
			ASSERT_LE(0, ret) pm_print(&res);
			ASSERT_EQ((uint64_t)ret, res.busy) pm_print(&res);
		} while (ret && ++calls < 40);
		ASSERT_EQ(0, ret) pm_print(&res);
		EXPECT_TRUE(all_on(c[1].pid, f.shared, f.npages, SWAP_NEW, 2))
			TH_LOG("%ld pages were on node %d before the second call", before, mem[1]);
		EXPECT_LE(f.npages + 200, res.moved + res.already_moved);
		child_put(&c[1], 1);
		EXPECT_EQ(0, child_get(&c[1]));
		child_end(&c[1]);
		munmap(f.shared, f.npages * PAGE);
		close(k.fd);
	}
	EXPECT_LT(0, hits)
		TH_LOG("no process died in the middle of a call");
	EXPECT_EQ(0, nr_isolated());
}

TEST_HARNESS_MAIN
