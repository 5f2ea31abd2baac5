// SPDX-License-Identifier: GPL-2.0
/* Processes with so many threads that to look at all of them takes a while. */
#include "harness.h"
#include "policy_util.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define OLD ((const int[]){ A, B })
#define NEW ((const int[]){ B, A })

/*
 * So many threads wait on one futex, not more: for each one that comes or goes a debug
 * kernel looks at all that wait there.
 */
enum { THREADS = 5000, GROUP = 50, GROUPS = THREADS / GROUP, TRIES = 10 };

/* What the threads of a target share with the test. */
struct board {
	atomic_uint order[GROUPS];	/* goes up: they look */
	atomic_uint done;
	atomic_uint first, second, neither;
	int node[2];
	pid_t tid[THREADS];
};

static struct board *new_board(void)
{
	struct board *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (b == MAP_FAILED)
		die("mmap");
	return b;
}

struct many {
	struct board *b;
	int i;
};

static void await_order(struct board *b, int i, unsigned int was)
{
	atomic_uint *order = &b->order[i / GROUP];

	while (*order == was)
		syscall(SYS_futex, order, FUTEX_WAIT, was, NULL, NULL, 0);
}

static void give_order(struct board *b)
{
	for (int i = 0; i < GROUPS; i++) {
		b->order[i]++;
		syscall(SYS_futex, &b->order[i], FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	}
}

/* Has one of the two nodes by turns, and tells whether it is still that or the other. */
static void *one_of_many(void *arg)
{
	struct many *m = arg;
	struct board *b = m->b;
	struct nodes mine = NODES(b->node[m->i % 2]), other = NODES(b->node[!(m->i % 2)]);
	unsigned int order = 0;

	set_thread_policy(MPOL_BIND, mine);
	b->tid[m->i] = gettid();
	b->done++;
	for (;; order++) {
		struct policy pol;

		await_order(b, m->i, order);
		pol = get_policy(NULL);
		if (pol.mode != MPOL_BIND)
			b->neither++;
		else if (nodes_same(pol.nodes, mine))
			b->first++;
		else if (nodes_same(pol.nodes, other))
			b->second++;
		else
			b->neither++;
		b->done++;
	}
	return NULL;
}

static void start_thread(void *(*fn)(void *), void *arg)
{
	static pthread_attr_t attr;
	static bool ready;
	pthread_t thread;
	int err;

	if (!ready) {
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_attr_setguardsize(&attr, 0);
		if (pthread_attr_setstacksize(&attr, 32768))
			die("stack size");
		ready = true;
	}
	err = pthread_create(&thread, &attr, fn, arg);
	if (err) {
		errno = err;
		die("pthread_create");
	}
}

static void wait_for(const atomic_uint *count, unsigned int n)
{
	double begin = now();

	while (*count < n) {
		if (now() - begin > 120 * patience())
			die("%u of %u threads", *count, n);
		usleep(1000);
	}
}

static void run_many(struct child *c, void *arg)
{
	static struct many all[THREADS];
	struct board *b = arg;

	for (int i = 0; i < THREADS; i++) {
		all[i] = (struct many){ b, i };
		start_thread(one_of_many, &all[i]);
	}
	wait_for(&b->done, THREADS);
	child_put(c, 1);
}

/* How many threads have the other node of the two now. */
static unsigned int look_at_all(struct __test_metadata *_metadata, struct board *b)
{
	b->done = b->first = b->second = b->neither = 0;
	give_order(b);
	wait_for(&b->done, THREADS);
	EXPECT_EQ(0, b->neither);
	EXPECT_EQ(THREADS, b->first + b->second);
	return b->second;
}

/* A thread's own policy, as the first line of its numa_maps has it. */
static void shown_policy(pid_t pid, pid_t tid, char *policy, size_t size)
{
	char path[64], line[256], *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/numa_maps", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	if (n <= 0)
		die("%s", path);
	close(fd);
	line[n] = 0;
	end = strchr(line, ' ');
	if (!end)
		die("no policy in %s", line);
	snprintf(policy, size, "%.*s", (int)strcspn(end + 1, "\n "), end + 1);
}

static void threads_start(struct child *c, struct board *b)
{
	nr_node_ids();
	b->node[0] = A;
	b->node[1] = B;
	child_start(c, run_many, b);
	child_get(c);
}

TEST(policies_of_many_threads)
{
	struct board *b = new_board();
	struct page_migrate_result res;
	int fd = pm_open();
	struct child c;
	double begin;

	threads_start(&c, b);
	begin = now();
	EXPECT_LE(0, pm_move(fd, c.pid, NULL, ~0UL, 0, 2, OLD, NEW, &res))
		pm_print(&res);
	TH_LOG("%.3f s", now() - begin);
	EXPECT_EQ(THREADS, res.policies);
	EXPECT_EQ(THREADS, look_at_all(_metadata, b));
	/* None of them twice in a job. */
	EXPECT_LE(0, pm_move(fd, c.pid, NULL, ~0UL, 0, 2, OLD, NEW, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_EQ(THREADS, look_at_all(_metadata, b));
	child_end(&c);
	close(fd);
}

struct policy_caller {
	int fd;
	pid_t target;
};

static void call_for_policies(struct child *c, void *arg)
{
	struct policy_caller *p = arg;

	(void)c;
	pm_move(p->fd, p->target, NULL, ~0UL, 0, 2, OLD, NEW, NULL);
}

/*
 * Its caller is killed when the first threads have their new policies. It stops in
 * the midst of them, and the next call on the open file does the others.
 */
TEST(killed_among_many_threads)
{
	struct board *b = new_board();
	struct page_migrate_result res;
	bool partly = false, other = false;
	struct child c;

	threads_start(&c, b);
	for (int i = 0; i < TRIES && !partly; i++) {
		struct policy_caller caller = { .fd = pm_open(), .target = c.pid };
		char before[64], after[64];
		unsigned int changed;
		struct child killed;
		double begin;

		shown_policy(c.pid, b->tid[2], before, sizeof(before));
		child_start(&killed, call_for_policies, &caller);
		begin = now();
		do {
			shown_policy(c.pid, b->tid[2], after, sizeof(after));
			ASSERT_GT(60 * patience(), now() - begin);
		} while (!strcmp(before, after));
		begin = now();
		child_end(&killed);
		TH_LOG("ended after %.3f s", now() - begin);
		EXPECT_GT(2 * patience(), now() - begin);
		changed = look_at_all(_metadata, b);
		if (other)
			changed = THREADS - changed;
		partly = changed < THREADS;
		TH_LOG("%u of %d", changed, THREADS);
		EXPECT_LT(0, changed);
		EXPECT_LE(0, pm_move(caller.fd, c.pid, NULL, ~0UL, 0, 2, OLD, NEW, &res));
		EXPECT_EQ(THREADS - changed, res.policies);
		other = !other;
		EXPECT_EQ(other ? THREADS : 0, look_at_all(_metadata, b));
		close(caller.fd);
	}
	EXPECT_TRUE(partly);
	child_end(&c);
}

enum { HELD = 5000 };

static void *wait_and_exit(void *arg)
{
	struct many *m = arg;

	m->b->tid[m->i] = gettid();
	m->b->done++;
	await_order(m->b, m->i, 0);
	return NULL;
}

static void *stay(void *arg)
{
	struct many *m = arg;

	m->b->tid[m->i] = gettid();
	m->b->done++;
	for (;;)
		pause();
	return NULL;
}

static void run_exiting(struct child *c, void *arg)
{
	static struct many all[THREADS];
	struct board *b = arg;
	char *p = map_node(HELD, A);

	fill(p, HELD, 7);
	for (int i = 0; i < THREADS; i++) {
		all[i] = (struct many){ b, i };
		start_thread(i < THREADS - 1 ? wait_and_exit : stay, &all[i]);
	}
	wait_for(&b->done, THREADS);
	child_put(c, (uintptr_t)p);
	await_order(b, 0, 0);
	pthread_exit(NULL);
}

static char state_of(pid_t pid, pid_t tid)
{
	char path[64], text[512], *p;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	if (file_read(path, text, sizeof(text)))
		return 0;
	p = strrchr(text, ')');
	return p ? p[2] : 0;
}

/*
 * The only thread that is alive comes after thousands that have exited, and that
 * stay until their tracer asks for them.
 */
TEST(first_threads_have_exited)
{
	struct board *b = new_board();
	struct page_migrate_result res;
	int fd = pm_open(), waits = 0;
	struct child c;
	double begin;
	pid_t last;
	char *p;

	nr_node_ids();
	child_start(&c, run_exiting, b);
	p = (char *)child_get(&c);
	last = b->tid[THREADS - 1];
	for (int i = 0; i < THREADS - 1; i++)
		ASSERT_EQ(0, ptrace(PTRACE_SEIZE, b->tid[i], 0, 0));
	give_order(b);
	for (int i = 0; i < THREADS - 1; i++)
		while (state_of(c.pid, b->tid[i]) != 'Z' && waits++ < 60000)
			usleep(1000);
	while (state_of(c.pid, c.pid) != 'Z' && waits++ < 60000)
		usleep(1000);
	ASSERT_EQ('Z', state_of(c.pid, c.pid));
	ASSERT_EQ('Z', state_of(c.pid, b->tid[THREADS - 2]));
	ASSERT_EQ('S', state_of(c.pid, last));

	begin = now();
	EXPECT_EQ(0, pm_move(fd, c.pid, p, HELD * PAGE, 0, 1, OLD, NEW, &res))
		pm_print(&res);
	TH_LOG("%.3f s", now() - begin);
	EXPECT_GT(20 * patience(), now() - begin);
	EXPECT_EQ(HELD, res.moved);
	/* move_pages(2) finds the process by a thread that is alive. */
	EXPECT_EQ(HELD, count_on(last, p, HELD, B));
	for (int i = 0; i < THREADS - 1; i++)
		waitpid(b->tid[i], NULL, __WALL);
	child_end(&c);
	close(fd);
}

TEST_HARNESS_MAIN
