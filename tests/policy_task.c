// SPDX-License-Identifier: GPL-2.0
/*
 * The policies of threads: all of a process when the range is all of it, once
 * per job, and never a moment at which a running thread could not allocate.
 */
#include "harness.h"
#include "policy_util.h"

#include <pthread.h>
#include <sys/wait.h>

#define CYCLE 3, CYCLE_OLD, CYCLE_NEW
#define SWAP 2, ((const int[]){ A, Z }), ((const int[]){ Z, A })

enum { PAGES = 12, MAX_THREADS = 16 };

/*
 * A target with one thread per policy. Thread i sets its policy and then does
 * what the parent asks for: 1 = see whether the policy and new faults are as
 * in want[i], 2 = start one more thread, which inherits, and let that one see,
 * 3 = fork and let the child see, 4 = leave the first thread (thread 0 only).
 */
struct target {
	int n;
	struct policy set[MAX_THREADS];
	/* Shared with the parent. */
	struct policy want[MAX_THREADS];
	struct nodes land[MAX_THREADS];
	pid_t tid[MAX_THREADS];
	/* Of the target alone. */
	pthread_barrier_t barrier;
	int order;
	bool ok[MAX_THREADS];
};

struct thread {
	struct target *t;
	int i;
};

static bool as_wanted(const struct target *t, int i)
{
	char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool ok;

	if (p == MAP_FAILED || advise(p, PAGES * PAGE, MADV_NOHUGEPAGE))
		die("mmap");
	ok = policy_is(get_policy(NULL), t->want[i].mode, t->want[i].nodes) &&
		faults_land_on(p, PAGES, t->want[i].mode, t->land[i]);
	munmap(p, PAGES * PAGE);
	return ok;
}

static void *inheriting(void *arg)
{
	struct thread *th = arg;

	th->t->ok[th->i] = as_wanted(th->t, th->i);
	return NULL;
}

static void obey(struct thread *th)
{
	struct target *t = th->t;
	pthread_t another;
	int status;
	pid_t pid;

	switch (t->order) {
	case 1:
		t->ok[th->i] = as_wanted(t, th->i);
		break;
	case 2:
		if (pthread_create(&another, NULL, inheriting, th))
			die("pthread_create");
		pthread_join(another, NULL);
		break;
	case 3:
		pid = fork();
		if (!pid)
			_exit(!as_wanted(t, th->i));
		t->ok[th->i] = waitpid(pid, &status, 0) == pid && !status;
		break;
	}
}

static void *thread(void *arg)
{
	struct thread *th = arg;
	struct target *t = th->t;

	t->tid[th->i] = gettid();
	if (t->set[th->i].mode)
		set_thread_policy(t->set[th->i].mode, t->set[th->i].nodes);
	pthread_barrier_wait(&t->barrier);
	for (;;) {
		pthread_barrier_wait(&t->barrier);
		obey(th);
		pthread_barrier_wait(&t->barrier);
	}
	return NULL;
}

/* Thread 0, the one that talks, has no policy that a test looks at. */
static void run_target(struct child *c, void *arg)
{
	struct target *t = arg;
	static struct thread all[MAX_THREADS];
	pthread_t id;

	pthread_barrier_init(&t->barrier, NULL, t->n + 1);
	for (int i = 0; i < t->n; i++) {
		all[i] = (struct thread){ t, i };
		if (pthread_create(&id, NULL, thread, &all[i]))
			die("pthread_create");
	}
	pthread_barrier_wait(&t->barrier);
	child_put(c, 1);
	for (;;) {
		t->order = child_get(c);
		memset(t->ok, 0, sizeof(t->ok));
		pthread_barrier_wait(&t->barrier);
		pthread_barrier_wait(&t->barrier);
		for (int i = 0; i < t->n; i++) {
			if (!t->ok[i])
				fprintf(stderr, "# thread %d is not as it should be\n", i);
			child_put(c, t->ok[i]);
		}
	}
}

static struct target *new_target(void)
{
	struct target *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (t == MAP_FAILED)
		die("mmap");
	return t;
}

/* Adds a thread; the second set is where relative nodes really are. */
static void add_thread(struct target *t, int mode, struct nodes set, struct nodes effect)
{
	t->set[t->n] = t->want[t->n] = (struct policy){ mode, set };
	t->land[t->n++] = effect;
}

static void start(struct child *c, struct target *t)
{
	child_start(c, run_target, t);
	child_get(c);
}

static bool all_obey(struct child *c, const struct target *t, int order)
{
	bool ok = true;

	child_put(c, order);
	for (int i = 0; i < t->n; i++)
		ok &= child_get(c);
	return ok;
}

/* What the parent expects from now on. */
static void expect_moved(struct target *t, int count, const int *old, const int *new)
{
	for (int i = 0; i < t->n; i++) {
		if (!t->set[i].mode)
			continue;
		if (!(t->set[i].mode & MPOL_F_RELATIVE_NODES))
			t->want[i].nodes = image(t->want[i].nodes, count, old, new);
		t->land[i] = image(t->land[i], count, old, new);
	}
}

/* Eight policies of which seven have an old node. */
static void add_every_mode(struct target *t)
{
	add_thread(t, MPOL_BIND, NODES(A), NODES(A));
	add_thread(t, MPOL_PREFERRED, NODES(Z), NODES(Z));
	add_thread(t, MPOL_PREFERRED_MANY, NODES(A, C), NODES(A, C));
	add_thread(t, MPOL_INTERLEAVE, NODES(A, B), NODES(A, B));
	add_thread(t, MPOL_WEIGHTED_INTERLEAVE, NODES(B, C), NODES(B, C));
	add_thread(t, MPOL_BIND | MPOL_F_STATIC_NODES, NODES(B), NODES(B));
	add_thread(t, MPOL_INTERLEAVE | MPOL_F_RELATIVE_NODES, NODES(FIRST, FIRST + 1),
		   NODES(A, B));
	add_thread(t, MPOL_BIND, NODES(C), NODES(C));
}

enum { CHANGING = 7 };

TEST(all_threads)
{
	struct target *t = new_target();
	struct page_migrate_result res;
	int fd = pm_open();
	struct child c;

	add_every_mode(t);
	start(&c, t);
	ASSERT_TRUE(all_obey(&c, t, 1));
	ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, PAGE_MIGRATE_DRY_RUN, CYCLE, &res));
	EXPECT_EQ(CHANGING, res.policies);
	EXPECT_TRUE(all_obey(&c, t, 1));
	ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, 0, CYCLE, &res)) pm_print(&res);
	EXPECT_EQ(CHANGING, res.policies);
	expect_moved(t, CYCLE);
	EXPECT_TRUE(all_obey(&c, t, 1));
	/* Once, by whichever thread the process is named. */
	ASSERT_LE(0, pm_move(fd, t->tid[3], WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(all_obey(&c, t, 1));
	/* And again in another job, named by a thread. */
	ASSERT_LE(0, pm_move(pm_open(), t->tid[3], WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(CHANGING, res.policies);
	expect_moved(t, CYCLE);
	EXPECT_TRUE(all_obey(&c, t, 1));
	child_end(&c);
}

TEST(own_threads)
{
	struct page_migrate_result res;
	int fd = pm_open();

	set_thread_policy(MPOL_INTERLEAVE, NODES(A, C));
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(NULL, MPOL_INTERLEAVE, NODES(B, C)));
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(policy_at_is(NULL, MPOL_INTERLEAVE, NODES(B, C)));
	set_mempolicy(MPOL_DEFAULT, NULL, 0);
}

TEST(not_with_a_part_of_the_process)
{
	struct target *t = new_target();
	struct page_migrate_result res;
	int fd = pm_open();
	struct child c;

	add_every_mode(t);
	start(&c, t);
	ASSERT_LE(0, pm_move(fd, c.pid, (void *)PAGE, ~0UL - PAGE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	ASSERT_LE(0, pm_move(fd, c.pid, NULL, 1UL << 40, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(all_obey(&c, t, 1));
	ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, PAGE_MIGRATE_KEEP_POLICY, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(all_obey(&c, t, 1));
	ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(CHANGING, res.policies);
	expect_moved(t, CYCLE);
	EXPECT_TRUE(all_obey(&c, t, 1));
	child_end(&c);
}

/* Threads and processes that begin after the call inherit what it made. */
TEST(once_for_those_that_inherit)
{
	struct target *t = new_target();
	struct page_migrate_result res;
	int fd = pm_open();
	struct child c;

	add_thread(t, MPOL_BIND, NODES(A), NODES(A));
	add_thread(t, MPOL_INTERLEAVE, NODES(B, Z), NODES(B, Z));
	add_thread(t, MPOL_PREFERRED, NODES(Z), NODES(Z));
	start(&c, t);
	ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(3, res.policies);
	expect_moved(t, CYCLE);
	EXPECT_TRUE(all_obey(&c, t, 2));
	EXPECT_TRUE(all_obey(&c, t, 3));
	child_end(&c);
}

static void talk(struct child *c, void *arg)
{
	(void)arg;
	child_put(c, 1);
	for (;;) {
		struct policy pol = { };

		child_get(c);
		pol = get_policy(NULL);
		child_put(c, pol.mode);
		for (int i = 0; i < MAX_NODES; i++)
			if (has_node(&pol.nodes, i)) {
				child_put(c, i);
				break;
			}
	}
}

/* The job's next process was forked from one that it has served already. */
TEST(once_for_the_next_process)
{
	struct page_migrate_result res;
	struct child c, before;
	int fd = pm_open();

	set_thread_policy(MPOL_BIND, NODES(A));
	child_start(&before, talk, NULL);
	child_get(&before);
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	ASSERT_EQ(1, res.policies);
	child_start(&c, talk, NULL);
	child_get(&c);
	for (int i = 0; i < 2; i++) {
		ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, 0, CYCLE, &res));
		EXPECT_EQ(0, res.policies);
		child_put(&c, 1);
		EXPECT_EQ(MPOL_BIND, child_get(&c));
		EXPECT_EQ(B, child_get(&c));
		ASSERT_LE(0, pm_move(fd, before.pid, WHOLE, 0, CYCLE, &res));
		EXPECT_EQ(!i, res.policies);
		child_put(&before, 1);
		EXPECT_EQ(MPOL_BIND, child_get(&before));
		EXPECT_EQ(B, child_get(&before));
	}
	child_end(&c);
	child_end(&before);
	set_mempolicy(MPOL_DEFAULT, NULL, 0);
}

static void *second_thread(void *arg)
{
	struct child *c = arg;
	char path[64], buf[512];

	set_thread_policy(MPOL_INTERLEAVE, NODES(A, Z));
	/* Wait until the first thread is a zombie. */
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
	for (int i = 0; i < 1000; i++) {
		if (!file_read(path, buf, sizeof(buf)) && strstr(buf, ") Z "))
			break;
		usleep(5000);
	}
	talk(c, NULL);
	return NULL;
}

static void without_first_thread(struct child *c, void *arg)
{
	pthread_t id;

	(void)arg;
	set_thread_policy(MPOL_BIND, NODES(A));
	if (pthread_create(&id, NULL, second_thread, c))
		die("pthread_create");
	pthread_exit(NULL);
}

TEST(first_thread_has_exited)
{
	struct page_migrate_result res;
	int fd = pm_open();
	struct child c;

	child_start(&c, without_first_thread, NULL);
	child_get(&c);
	ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, 0, 2, ((int[]){ A, Z }), ((int[]){ B, B }), &res));
	EXPECT_EQ(1, res.policies);
	child_put(&c, 1);
	EXPECT_EQ(MPOL_INTERLEAVE, child_get(&c));
	EXPECT_EQ(B, child_get(&c));
	child_end(&c);
}

/*
 * Threads under every mode take memory and give it back as fast as they can,
 * while their policies change places. No thread may fail for a moment: a bind
 * policy without a node would be an OOM kill or SIGBUS. Each checks that what
 * it gets lies where some state of its policy allows.
 */
struct busy {
	volatile bool stop;
	volatile uint64_t rounds[8];
	volatile uint64_t stray;	/* pages on a node of no policy */
	volatile uint64_t wrong;	/* policies at the end */
};

struct busy_thread {
	struct busy *b;
	int i, mode;
	struct nodes set;
	bool own_mapping;
};

static void *keep_faulting(void *arg)
{
	enum { N = 32 };
	struct busy_thread *th = arg;
	struct nodes allowed = NODES(A, Z);

	if (!th->own_mapping)
		set_thread_policy(th->mode, th->set);
	while (!th->b->stop) {
		char *p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		int at[N];

		if (p == MAP_FAILED || advise(p, N * PAGE, MADV_NOHUGEPAGE))
			die("mmap");
		if (th->own_mapping)
			set_policy(p, N, th->mode, th->set);
		touch_for_writing(p, N);
		nodes_of(0, p, N, at);
		/* Those that are just being moved are nowhere. */
		for (int i = 0; i < N; i++)
			if (at[i] >= 0 && !has_node(&allowed, at[i]) && !th->b->stray++)
				fprintf(stderr, "# mode %d: a page on node %d, free: %ld and %ld\n",
					th->mode, at[i], node_free(A), node_free(Z));
		munmap(p, N * PAGE);
		th->b->rounds[th->i]++;
	}
	/* An even number of swaps. */
	if (!th->own_mapping && !policy_at_is(NULL, th->mode, th->set)) {
		fprintf(stderr, "# mode %d: not as it was\n", th->mode);
		th->b->wrong++;
	}
	return NULL;
}

static void run_busy(struct child *c, void *arg)
{
	static struct busy_thread all[8];
	static const int modes[] = { MPOL_BIND, MPOL_BIND, MPOL_PREFERRED, MPOL_INTERLEAVE,
				     MPOL_WEIGHTED_INTERLEAVE, MPOL_PREFERRED_MANY };
	pthread_t id[ARRAY_LEN(modes)];
	struct busy *b = arg;

	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		all[i] = (struct busy_thread){ b, i, modes[i], NODES(A), i == 1 };
		if (spreads(modes[i]))
			all[i].set = NODES(A, Z);
		if (pthread_create(&id[i], NULL, keep_faulting, &all[i]))
			die("pthread_create");
	}
	/* Each has its policy before the first swap. */
	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		while (!b->rounds[i])
			usleep(1000);
	child_put(c, 1);
	for (size_t i = 0; i < ARRAY_LEN(modes); i++)
		pthread_join(id[i], NULL);
	child_put(c, 2);
}

TEST(threads_that_allocate_never_fail)
{
	enum { ROUNDS = 60, NTHREADS = 6 };
	struct busy *b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			      -1, 0);
	long killed = vmstat("oom_kill");
	struct page_migrate_result res;
	uint64_t policies = 0;
	int fd = pm_open();
	struct child c;

	ASSERT_NE(MAP_FAILED, (void *)b);
	child_start(&c, run_busy, b);
	child_get(&c);
	for (int i = 0; i < ROUNDS; i++) {
		ASSERT_LE(0, pm_move(fd, c.pid, WHOLE, PAGE_MIGRATE_NEW_JOB, SWAP, &res))
			pm_print(&res);
		policies += res.policies;
	}
	b->stop = true;
	EXPECT_EQ(2, child_get(&c));
	/* Three threads have one node of the two in their own policy. */
	EXPECT_LE(3 * ROUNDS, policies);
	EXPECT_EQ(0, b->stray);
	EXPECT_EQ(0, b->wrong);
	for (int i = 0; i < NTHREADS; i++)
		EXPECT_LT(0, b->rounds[i]);
	EXPECT_EQ(0, waitpid(c.pid, NULL, WNOHANG));
	EXPECT_EQ(killed, vmstat("oom_kill"));
	child_end(&c);
}

TEST_HARNESS_MAIN
