// SPDX-License-Identifier: GPL-2.0
/*
 * Every errno of the table. Each case is a call that would move pages, changed
 * in one place; afterwards the pages must be where they were and the result
 * must hold what was there before. The same call with an empty range must
 * fail in the same way.
 */
#include "harness.h"
#include "util.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define NPAGES 8

FIXTURE(errors)
{
	int fd;
	char *p;
	int old[MAX_NODES + 2], new[MAX_NODES + 2];
	struct page_migrate_request req;
};

FIXTURE_SETUP(errors)
{
	self->fd = pm_open();
	self->p = map_nodes(NPAGES, mem, 2);
	fill(self->p, NPAGES, 1);
	self->old[0] = mem[0];
	self->old[1] = mem[1];
	self->new[0] = mem[2];
	self->new[1] = mem[3];
	self->req = pm_req(0, self->p, NPAGES * PAGE, 2, self->old, self->new);
}

FIXTURE_TEARDOWN(errors)
{
	/* The call that was changed must have been a good one. */
	self->old[0] = mem[0];
	self->old[1] = mem[1];
	self->new[0] = mem[2];
	self->new[1] = mem[3];
	EXPECT_EQ(0, pm_migrate(self->fd, &self->req));
	EXPECT_EQ(NPAGES, self->req.result.moved);
	EXPECT_TRUE(all_on(0, self->p, NPAGES, &mem[2], 2));
	EXPECT_EQ(0, bad_pages(self->p, NPAGES, 1));
}

static void refused_at(struct __test_metadata *_metadata, FIXTURE_DATA(errors) *self,
		       struct page_migrate_request req, long err, int line)
{
	for (int empty = 0; empty < 2; empty++) {
		if (empty)
			req.len = 0;
		pm_poison(&req.result);
		EXPECT_EQ(err, pm_migrate(self->fd, &req))
			TH_LOG("case of line %d%s", line, empty ? ", empty range" : "");
		EXPECT_TRUE(pm_is_poison(&req.result))
			TH_LOG("case of line %d wrote a result", line);
		EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 2))
			TH_LOG("case of line %d moved pages", line);
	}
}

#define REFUSED(err, change) do {					\
	struct page_migrate_request req = self->req;			\
									\
	change;								\
	refused_at(_metadata, self, req, err, __LINE__);		\
} while (0)

/* A page without anything behind it. */
static char *page_at_edge(void)
{
	char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || munmap(p + PAGE, PAGE))
		die("mmap");
	return p;
}

TEST_F(errors, efault_argument)
{
	struct page_migrate_request *arg;
	char *edge = page_at_edge();

	EXPECT_EQ(-EFAULT, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_MIGRATE, NULL));
	EXPECT_EQ(-EFAULT, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_MIGRATE, (void *)-PAGE));
	/* The last byte of the result is missing. */
	arg = (void *)(edge + PAGE - sizeof(*arg) + 8);
	memcpy(arg, &self->req, sizeof(*arg) - 8);
	EXPECT_EQ(-EFAULT, pm_migrate(self->fd, arg));
	EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 2));
	arg->len = 0;
	EXPECT_EQ(-EFAULT, pm_migrate(self->fd, arg));
	arg = (void *)(edge + PAGE);
	EXPECT_EQ(-EFAULT, pm_migrate(self->fd, arg));
	EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 2));
}

TEST_F(errors, efault_argument_read_only)
{
	struct page_migrate_request *arg;

	for (int empty = 0; empty < 2; empty++) {
		arg = (void *)page_at_edge();
		*arg = self->req;
		if (empty)
			arg->len = 0;
		pm_poison(&arg->result);
		ASSERT_EQ(0, mprotect(arg, PAGE, PROT_READ));
		EXPECT_EQ(-EFAULT, pm_migrate(self->fd, arg));
		EXPECT_TRUE(pm_is_poison(&arg->result));
		EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 2));
	}
}

TEST_F(errors, efault_argument_half_read_only)
{
	char *two = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct page_migrate_request *arg;

	ASSERT_NE(MAP_FAILED, (void *)two);
	/* The input can be written, the last words of the result cannot. */
	arg = (void *)(two + PAGE - sizeof(*arg) + 16);
	*arg = self->req;
	pm_poison(&arg->result);
	ASSERT_EQ(0, mprotect(two + PAGE, PAGE, PROT_READ));
	EXPECT_EQ(-EFAULT, pm_migrate(self->fd, arg));
	EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 2));
}

TEST_F(errors, efault_lists)
{
	char *edge = page_at_edge();
	int *half = (int *)(edge + PAGE - sizeof(int));

	*half = mem[0];
	REFUSED(-EFAULT, req.old_nodes = 0);
	REFUSED(-EFAULT, req.new_nodes = 0);
	REFUSED(-EFAULT, req.old_nodes = -PAGE);
	REFUSED(-EFAULT, req.new_nodes = -PAGE);
	REFUSED(-EFAULT, req.old_nodes = (uintptr_t)edge + PAGE);
	REFUSED(-EFAULT, req.new_nodes = (uintptr_t)edge + PAGE);
	REFUSED(-EFAULT, req.old_nodes = (uintptr_t)half);
	*half = mem[2];
	REFUSED(-EFAULT, req.new_nodes = (uintptr_t)half);
	REFUSED(-EFAULT, req.old_nodes = 1ULL << 63);
}

TEST_F(errors, efault_moved_by_pair)
{
	char *edge = page_at_edge();
	uint64_t *ro = (uint64_t *)page_at_edge();

	REFUSED(-EFAULT, req.moved_by_pair = 8);
	REFUSED(-EFAULT, req.moved_by_pair = -PAGE);
	REFUSED(-EFAULT, req.moved_by_pair = (uintptr_t)edge + PAGE);
	/* Room for one of two. */
	REFUSED(-EFAULT, req.moved_by_pair = (uintptr_t)edge + PAGE - 8);
	ro[0] = ro[1] = 77;
	ASSERT_EQ(0, mprotect(ro, PAGE, PROT_READ));
	REFUSED(-EFAULT, req.moved_by_pair = (uintptr_t)ro);
	EXPECT_EQ(77, ro[0]);
	EXPECT_EQ(77, ro[1]);
}

TEST_F(errors, lists_may_be_read_only)
{
	int *ro = (int *)page_at_edge();

	ro[0] = mem[0];
	ro[1] = mem[1];
	ro[2] = mem[2];
	ro[3] = mem[3];
	ASSERT_EQ(0, mprotect(ro, PAGE, PROT_READ));
	EXPECT_EQ(0, pm_move(self->fd, 0, self->p, NPAGES * PAGE, 0, 2, ro, ro + 2, NULL));
	EXPECT_TRUE(all_on(0, self->p, NPAGES, mem + 2, 2));
	EXPECT_EQ(0, pm_move(self->fd, 0, self->p, NPAGES * PAGE, 0, 2, ro + 2, ro, NULL));
}

TEST_F(errors, einval_flags)
{
	struct page_migrate_info info;
	int known = 0;

	ASSERT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_INFO, &info));
	for (int bit = 0; bit < 32; bit++) {
		if (info.flags & (1ULL << bit)) {
			known++;
			continue;
		}
		REFUSED(-EINVAL, req.flags = 1U << bit);
		/* Also beside one that is known. */
		REFUSED(-EINVAL, req.flags = 1U << bit | PAGE_MIGRATE_STRICT);
	}
	EXPECT_EQ(6, known);
	REFUSED(-EINVAL, req.flags = ~0U);
}

TEST_F(errors, einval_fields)
{
	struct page_migrate_info info;

	ASSERT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_INFO, &info));
	REFUSED(-EINVAL, req.reserved[0] = 1);
	REFUSED(-EINVAL, req.reserved[1] = 1);
	REFUSED(-EINVAL, req.reserved[0] = 1ULL << 63);
	REFUSED(-EINVAL, req.reserved[1] = 1ULL << 63);
	REFUSED(-EINVAL, req.va_start += 1);
	REFUSED(-EINVAL, req.va_start += PAGE / 2);
	REFUSED(-EINVAL, req.va_start -= 1);
	REFUSED(-EINVAL, req.va_start = ~0ULL);
	REFUSED(-EINVAL, req.workers = info.max_workers + 1);
	REFUSED(-EINVAL, req.workers = ~0U);
}

TEST_F(errors, einval_count)
{
	int ids = nr_node_ids();

	REFUSED(-EINVAL, req.count = 0);
	REFUSED(-EINVAL, req.count = ~0U);
	/* 4 and 8 times this are small numbers in 32 bits. */
	REFUSED(-EINVAL, req.count = 0x40000002);
	REFUSED(-EINVAL, req.count = 0x20000002);
	/* Nothing is wrong with these lists but that they are too long. */
	for (int i = 0; i <= ids; i++) {
		self->old[i] = i;
		self->new[i] = mem[2];
	}
	self->old[ids] = ANY;
	REFUSED(-EINVAL, req.count = ids + 1);
}

TEST_F(errors, count_of_all_nodes)
{
	int ids = nr_node_ids(), count = 0;
	uint64_t *by_pair = calloc(ids, sizeof(*by_pair));
	struct page_migrate_request req = self->req;

	/* All but node mem[1] stay; that one goes. */
	for (int i = 0; i < ids; i++) {
		if (!node_in("has_memory", i))
			continue;
		self->old[count] = i;
		self->new[count++] = i == mem[1] ? mem[3] : i;
	}
	/* A node without memory may be an old one. */
	for (int i = 0; i < ids; i++) {
		if (node_in("has_memory", i) || !node_in("possible", i))
			continue;
		self->old[count] = i;
		self->new[count++] = mem[0];
	}
	req.count = count;
	req.moved_by_pair = (uintptr_t)by_pair;
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(NPAGES / 2, req.result.moved);
	EXPECT_EQ(NPAGES / 2, req.result.in_place);
	EXPECT_EQ(NPAGES / 2, by_pair[1]);
	EXPECT_TRUE(all_on(0, self->p, NPAGES, (int[]){ mem[0], mem[3] }, 2));
	/* Back, for the end of the test. */
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, NPAGES * PAGE, 0, 1, &mem[3], &mem[1], NULL));
}

TEST_F(errors, einval_nodes)
{
	int ids = nr_node_ids();
	const int wrong[] = { -2, -100, INT_MIN, ids, ids + 1, MAX_NODES, MAX_NODES + 64,
			      1 << 16, INT_MAX };

	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		for (int at = 0; at < 2; at++) {
			int was = self->old[at];

			self->old[at] = wrong[i];
			REFUSED(-EINVAL, (void)req);
			self->old[at] = was;
			was = self->new[at];
			self->new[at] = wrong[i];
			REFUSED(-EINVAL, (void)req);
			self->new[at] = was;
		}
	}
}

TEST_F(errors, einval_list_rules)
{
	/* Twice the same old node, also where both entries agree. */
	self->old[1] = self->old[0];
	REFUSED(-EINVAL, (void)req);
	self->new[1] = self->new[0];
	REFUSED(-EINVAL, (void)req);

	/* Two wildcards in old. */
	self->old[0] = self->old[1] = ANY;
	REFUSED(-EINVAL, (void)req);
	self->old[0] = mem[0];
	self->old[1] = self->old[2] = ANY;
	REFUSED(-EINVAL, req.count = 3; self->new[2] = mem[2]);

	/* From anywhere to anywhere. */
	self->old[0] = ANY;
	self->old[1] = mem[1];
	self->new[0] = ANY;
	self->new[1] = mem[3];
	REFUSED(-EINVAL, (void)req);
	REFUSED(-EINVAL, req.count = 1);
}

TEST_F(errors, einval_any_with_no_node_left)
{
	/* Every node with memory is an old one: there is nowhere to go. */
	for (int i = 0; i < nr_mem; i++) {
		self->old[i] = mem[i];
		self->new[i] = i ? mem[i] : ANY;
	}
	REFUSED(-EINVAL, req.count = nr_mem);
}

/*
 * Numbers that are in range, but no node to go to. Which of them there are
 * depends on the machine; at the upper end there is always EINVAL.
 */
TEST_F(errors, enodev)
{
	int ids = nr_node_ids();

	for (int i = 0; i <= ids; i++) {
		long err = i < ids ? -ENODEV : -EINVAL;

		if (node_in("has_memory", i))
			continue;
		self->new[0] = i;
		REFUSED(err, (void)req);
		self->new[0] = mem[2];
		self->new[1] = i;
		REFUSED(err, (void)req);
		self->new[1] = mem[3];
		if (i < ids && node_in("possible", i))
			continue;
		self->old[0] = i;
		REFUSED(err, (void)req);
		self->old[0] = mem[0];
	}
}

struct target {
	char *p;
	pid_t tid;
};

/* A process with pages on two nodes, with and without its first thread. */
static void *stay(void *arg)
{
	struct child *c = arg;

	child_put(c, syscall(SYS_gettid));
	for (;;)
		pause();
	return NULL;
}

static void target_main(struct child *c, void *arg)
{
	int leader_exits = *(int *)arg;
	pthread_t t;
	char *p = map_nodes(NPAGES, mem, 2);

	fill(p, NPAGES, 1);
	child_put(c, (uintptr_t)p);
	if (pthread_create(&t, NULL, stay, c))
		die("pthread_create");
	if (leader_exits)
		syscall(SYS_exit, 0);
}

static struct target target_start(struct child *c, int leader_exits)
{
	struct target t;

	child_start(c, target_main, &leader_exits);
	t.p = (char *)child_get(c);
	t.tid = child_get(c);
	return t;
}

static int pidfd_of(pid_t pid)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		die("pidfd_open %d", pid);
	return fd;
}

static char state_of(pid_t pid)
{
	char path[64], buf[512], *p;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	p = strrchr(buf, ')');
	return p ? p[2] : '?';
}

TEST_F(errors, esrch)
{
	struct child c;
	siginfo_t info;
	int pidfd;

	REFUSED(-ESRCH, req.pid = -1);
	REFUSED(-ESRCH, req.pid = -getpid());
	REFUSED(-ESRCH, req.pid = INT_MIN);
	REFUSED(-ESRCH, req.pid = INT_MAX);

	c.pid = fork();
	if (!c.pid)
		_exit(0);
	ASSERT_LT(0, c.pid);
	pidfd = pidfd_of(c.pid);
	ASSERT_EQ(0, waitid(P_PID, c.pid, &info, WEXITED | WNOWAIT));
	ASSERT_EQ('Z', state_of(c.pid));
	REFUSED(-ESRCH, req.pid = c.pid);
	REFUSED(-ESRCH, req.pid = pidfd; req.flags = PAGE_MIGRATE_PIDFD);
	ASSERT_EQ(c.pid, waitpid(c.pid, NULL, 0));
	REFUSED(-ESRCH, req.pid = c.pid);
	REFUSED(-ESRCH, req.pid = pidfd; req.flags = PAGE_MIGRATE_PIDFD);
}

TEST_F(errors, first_thread_has_exited)
{
	struct page_migrate_request req = self->req;
	struct child c;
	struct target t = target_start(&c, 1);
	int pidfd = pidfd_of(c.pid);

	for (int i = 0; i < 500 && state_of(c.pid) != 'Z'; i++)
		usleep(10000);
	ASSERT_EQ('Z', state_of(c.pid));
	ASSERT_TRUE(all_on(t.tid, t.p, NPAGES, mem, 2));

	req.va_start = (uintptr_t)t.p;
	req.pid = c.pid;
	EXPECT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(NPAGES, req.result.moved);
	EXPECT_TRUE(all_on(t.tid, t.p, NPAGES, mem + 2, 2));

	req.pid = pidfd;
	req.flags = PAGE_MIGRATE_PIDFD;
	req.old_nodes = (uintptr_t)self->new;
	req.new_nodes = (uintptr_t)self->old;
	EXPECT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(NPAGES, req.result.moved);
	EXPECT_TRUE(all_on(t.tid, t.p, NPAGES, mem, 2));

	req.pid = t.tid;
	req.flags = 0;
	req.old_nodes = (uintptr_t)self->old;
	req.new_nodes = (uintptr_t)self->new;
	EXPECT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(NPAGES, req.result.moved);
	EXPECT_TRUE(all_on(t.tid, t.p, NPAGES, mem + 2, 2));
	child_end(&c);
}

TEST_F(errors, ebadf)
{
	int null = open("/dev/null", O_RDWR), proc = open("/proc/self", O_RDONLY | O_DIRECTORY);

	ASSERT_LE(0, null);
	ASSERT_LE(0, proc);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = -1);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = INT_MIN);
	/* The values of PIDFD_SELF_THREAD and PIDFD_SELF_THREAD_GROUP. */
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = -10000);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = -10001);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = -20000);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = 1000);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = INT_MAX);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = null);
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = self->fd);
	/* A folder of /proc serves pidfd_send_signal(2), but is no pidfd. */
	REFUSED(-EBADF, req.flags = PAGE_MIGRATE_PIDFD; req.pid = proc);
}

TEST_F(errors, kernel_thread)
{
	char comm[32];
	int pidfd = pidfd_of(2);

	ASSERT_EQ(0, file_read("/proc/2/comm", comm, sizeof(comm)));
	ASSERT_STREQ("kthreadd\n", comm);
	REFUSED(-EINVAL, req.pid = 2);
	REFUSED(-EINVAL, req.pid = pidfd; req.flags = PAGE_MIGRATE_PIDFD);
}

/* The ways to name a process, all for the same one. */
TEST_F(errors, names_of_a_process)
{
	struct page_migrate_request req = self->req;
	struct child c;
	struct target t = target_start(&c, 0);
	int pidfd = pidfd_of(c.pid), threadfd = syscall(SYS_pidfd_open, t.tid, O_EXCL);
	const struct {
		int pid;
		unsigned int flags;
	} names[] = {
		{ c.pid, 0 }, { t.tid, 0 }, { pidfd, PAGE_MIGRATE_PIDFD },
		/* PIDFD_THREAD is O_EXCL: a pidfd of a thread. */
		{ threadfd, PAGE_MIGRATE_PIDFD },
	};

	ASSERT_NE(c.pid, t.tid);
	ASSERT_LE(0, threadfd);
	req.va_start = (uintptr_t)t.p;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		int *from = i % 2 ? self->new : self->old;
		int *to = i % 2 ? self->old : self->new;

		req.pid = names[i].pid;
		req.flags = names[i].flags;
		req.old_nodes = (uintptr_t)from;
		req.new_nodes = (uintptr_t)to;
		EXPECT_EQ(0, pm_migrate(self->fd, &req))
			TH_LOG("name %zu", i);
		EXPECT_EQ(NPAGES, req.result.moved);
		EXPECT_TRUE(all_on(c.pid, t.p, NPAGES, to, 2));
	}
	child_end(&c);
	/* None of them was this process. */
	EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 2));
}

/* A pid is looked up where the caller lives, not where the device was made. */
static void in_namespace(struct child *c, void *arg)
{
	struct page_migrate_result res;
	pid_t outside = *(pid_t *)arg, inner;

	if (unshare(CLONE_NEWPID))
		die("unshare");
	inner = fork();
	if (inner < 0)
		die("fork");
	if (!inner) {
		int fd = pm_open();
		char *p = map_node(NPAGES, mem[0]);

		child_put(c, getpid());
		child_put(c, pm_move(fd, 1, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], &res));
		child_put(c, res.moved);
		child_put(c, all_on(0, p, NPAGES, &mem[2], 1));
		/* The number of a process that is not in this namespace. */
		child_put(c, pm_move(fd, outside, p, NPAGES * PAGE, 0, 1, &mem[2], &mem[0], NULL));
		child_put(c, all_on(0, p, NPAGES, &mem[2], 1));
		_exit(0);
	}
	/* While it exits, it holds on to pages that its parents map, too. */
	waitpid(inner, NULL, 0);
	child_put(c, 0);
}

TEST_F(errors, pid_namespace)
{
	pid_t self_pid = getpid();
	struct child c;

	child_start(&c, in_namespace, &self_pid);
	EXPECT_EQ(1, child_get(&c));
	EXPECT_EQ(0, (long)child_get(&c));
	EXPECT_EQ(NPAGES, child_get(&c));
	EXPECT_EQ(1, child_get(&c));
	EXPECT_EQ(-ESRCH, (long)child_get(&c));
	EXPECT_EQ(1, child_get(&c));
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
}

/* Callers without the right, on a process of root and on one of another user. */
struct attempt {
	pid_t pid;
	int pidfd;
	struct page_migrate_request req;
};

static void try_as_nobody(struct child *c, void *arg)
{
	struct attempt *a = arg;
	int fd;

	drop_to(NOBODY);
	fd = pm_open();
	for (int i = 0; i < 4; i++) {
		struct page_migrate_request req = a->req;

		req.pid = i & 1 ? a->pidfd : a->pid;
		req.flags = i & 1 ? PAGE_MIGRATE_PIDFD : 0;
		if (i & 2)
			req.len = 0;
		pm_poison(&req.result);
		child_put(c, pm_migrate(fd, &req));
		child_put(c, pm_is_poison(&req.result));
	}
}

static void user_main(struct child *c, void *arg)
{
	char *p = map_nodes(NPAGES, mem, 2);

	drop_to(*(uid_t *)arg);
	child_put(c, (uintptr_t)p);
}

TEST_F(errors, eperm)
{
	uid_t other = 1000;
	struct child user, caller;
	struct attempt a = { .req = self->req };
	char *p;

	a.pid = getpid();
	a.pidfd = pidfd_of(a.pid);
	child_start(&caller, try_as_nobody, &a);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(-EPERM, (long)child_get(&caller));
		EXPECT_EQ(1, child_get(&caller));
	}
	child_end(&caller);
	EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 2));

	child_start(&user, user_main, &other);
	p = (char *)child_get(&user);
	a.pid = user.pid;
	a.pidfd = pidfd_of(user.pid);
	a.req.va_start = (uintptr_t)p;
	child_start(&caller, try_as_nobody, &a);
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(-EPERM, (long)child_get(&caller));
		EXPECT_EQ(1, child_get(&caller));
	}
	child_end(&caller);
	EXPECT_TRUE(all_on(user.pid, p, NPAGES, mem, 2));
	child_end(&user);
}

/* A target that may use two nodes. The caller may use all and is root. */
static void confined(struct child *c, void *arg)
{
	(void)arg;
	child_get(c);
	child_put(c, (uintptr_t)map_node(NPAGES, mem[0]));
}

TEST_F(errors, cpuset_of_the_target)
{
	struct page_migrate_result res;
	struct child c;
	struct cg cg;
	char mems[64], *p;
	long ret;

	snprintf(mems, sizeof(mems), "%d,%d", mem[0], mem[1]);
	cg_make(&cg, "errno", mems);
	child_start(&c, confined, NULL);
	cg_enter(&cg, c.pid);
	child_put(&c, 1);
	p = (char *)child_get(&c);

	/* Outside, alone and beside a node that is inside. */
	for (int dry = 0; dry < 2; dry++) {
		unsigned int flags = dry ? PAGE_MIGRATE_DRY_RUN : 0;

		for (int len = 0; len <= NPAGES; len += NPAGES) {
			ret = pm_move(self->fd, c.pid, p, len * PAGE, flags, 1,
				      (int[]){ mem[0] }, (int[]){ mem[2] }, &res);
			EXPECT_EQ(-EINVAL, ret);
			EXPECT_TRUE(pm_is_poison(&res));
			ret = pm_move(self->fd, c.pid, p, len * PAGE, flags, 2,
				      (int[]){ mem[0], mem[3] }, (int[]){ mem[1], mem[2] }, &res);
			EXPECT_EQ(-EINVAL, ret);
			EXPECT_TRUE(pm_is_poison(&res));
			/* Both nodes that it may use are to be emptied. */
			ret = pm_move(self->fd, c.pid, p, len * PAGE, flags, 2,
				      (int[]){ mem[0], mem[1] }, (int[]){ ANY, ANY }, &res);
			EXPECT_EQ(-EINVAL, ret);
			EXPECT_TRUE(pm_is_poison(&res));
			EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[0], 1));
		}
	}

	/* An old node may be outside. */
	ret = pm_move(self->fd, c.pid, p, NPAGES * PAGE, 0, 2,
		      (int[]){ mem[0], mem[3] }, (int[]){ mem[1], mem[1] }, &res);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(NPAGES, res.moved);
	EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[1], 1));

	/* ANY keeps to the cpuset. */
	ret = pm_move(self->fd, c.pid, p, NPAGES * PAGE, 0, 1,
		      (int[]){ mem[1] }, (int[]){ ANY }, &res);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(NPAGES, res.moved);
	EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[0], 1));

	/* Out of the cpuset, all is allowed. */
	cg_leave(c.pid);
	ret = pm_move(self->fd, c.pid, p, NPAGES * PAGE, 0, 1,
		      (int[]){ mem[0] }, (int[]){ mem[2] }, &res);
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[2], 1));
	child_end(&c);
	cg_remove(&cg);
}

static void on_alarm(int sig)
{
	(void)sig;
}

/*
 * A signal in the middle of a long call. When it comes is not for the test to
 * say, so it tries several times with different delays.
 */
TEST_F(errors, eintr)
{
	enum { BIG = 24576 };
	static const int delays[] = { 100, 50, 200, 25, 400, 10, 800, 5, 1, 1600 };
	struct sigaction act = { .sa_handler = on_alarm };
	struct page_migrate_request req;
	int from = mem[1], to = mem[2], hits = 0;
	long isolated = nr_isolated();
	char *p = map_node(BIG, from);

	fill(p, BIG, 5);
	ASSERT_EQ(0, sigaction(SIGALRM, &act, NULL));
	for (size_t i = 0; i < ARRAY_LEN(delays) && hits < 2; i++) {
		struct itimerval timer = {
			.it_value = { delays[i] / 1000, delays[i] % 1000 * 1000 },
		};
		uint64_t by_pair = ~0ULL, done = 0, sum = 0;
		long ret;

		req = pm_req(0, p, BIG * PAGE, 1, &from, &to);
		req.moved_by_pair = (uintptr_t)&by_pair;
		pm_poison(&req.result);
		ASSERT_EQ(0, setitimer(ITIMER_REAL, &timer, NULL));
		ret = pm_migrate(self->fd, &req);
		ASSERT_EQ(0, setitimer(ITIMER_REAL, &(struct itimerval){ }, NULL));
		if (ret == -EINTR) {
			ASSERT_FALSE(pm_is_poison(&req.result));
			EXPECT_EQ(req.result.moved, by_pair);
			EXPECT_EQ(0, req.result.resume_va % PAGE);
			ASSERT_LE((uintptr_t)p, req.result.resume_va);
			ASSERT_GT((uintptr_t)p + BIG * PAGE, req.result.resume_va);
			done = (req.result.resume_va - (uintptr_t)p) / PAGE;
			sum = pm_sum(&req.result);
			/* What was passed is counted and is there. */
			EXPECT_EQ(done, sum);
			if (done) {
				EXPECT_TRUE(all_on(0, p, done, &to, 1));
				hits++;
			}
			EXPECT_EQ(req.result.moved, count_on(0, p, BIG, to));
			EXPECT_EQ(0, bad_pages(p, BIG, 5));
			/* Go on: from where it stopped, and by the same call. */
			if (hits % 2) {
				req.va_start = req.result.resume_va;
				req.len -= done * PAGE;
				ASSERT_EQ(0, pm_migrate(self->fd, &req));
				EXPECT_EQ(BIG - sum, pm_sum(&req.result));
				EXPECT_EQ(BIG - done, req.result.moved);
			} else {
				ASSERT_EQ(0, pm_migrate(self->fd, &req));
				EXPECT_EQ(BIG - done, req.result.moved);
				EXPECT_EQ(BIG, pm_sum(&req.result));
			}
		} else {
			ASSERT_EQ(0, ret);
		}
		EXPECT_EQ((uintptr_t)p + BIG * PAGE, req.result.resume_va);
		ASSERT_TRUE(all_on(0, p, BIG, &to, 1));
		to = from;
		from = from == mem[1] ? mem[2] : mem[1];
	}
	EXPECT_EQ(2, hits)
		TH_LOG("no signal came in the middle of a call");
	EXPECT_EQ(0, bad_pages(p, BIG, 5));
	EXPECT_EQ(isolated, nr_isolated());
}

/* Repeats a call whose caller is interrupted all the time. Returns what the last one did. */
static long repeat(struct __test_metadata *_metadata, int fd, struct page_migrate_request *req)
{
	struct sigaction act = { .sa_handler = on_alarm };
	uint64_t end = req->va_start + req->len;
	struct child interrupter;
	int interrupted = 0;
	long ret;

	sigaction(SIGUSR1, &act, NULL);
	interrupter_start(&interrupter);
	while ((ret = pm_migrate(fd, req)) == -EINTR && interrupted++ < 1000) {
		/* Goes on from where it stopped. */
		req->va_start = req->result.resume_va;
		req->len = end - req->va_start;
	}
	child_end(&interrupter);
	EXPECT_LT(0, interrupted);
	return ret;
}

/* It comes to the end, also where pages cannot move, and does not try these for ever. */
TEST_F(errors, eintr_all_the_time)
{
	enum { BIG = 8192, HELD = 4 };
	const int from = mem[1], to = mem[2];
	struct page_migrate_request req;
	char *p = map_node(BIG, from);
	struct iovec iov = { p + (BIG - HELD) * PAGE, HELD * PAGE };
	struct child hog;
	int pipefd[2];

	fill(p, BIG, 6);
	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_EQ((ssize_t)(HELD * PAGE), vmsplice(pipefd[1], &iov, 1, 0));
	req = pm_req(0, p, BIG * PAGE, 1, &from, &to);
	EXPECT_EQ(HELD, repeat(_metadata, self->fd, &req)) pm_print(&req.result);
	EXPECT_EQ(BIG - HELD, count_on(0, p, BIG, to));
	EXPECT_EQ((uintptr_t)p + BIG * PAGE, req.result.resume_va);

	hog_start(&hog, from);
	req = pm_req(0, p, BIG * PAGE, 1, &to, &from);
	req.flags = PAGE_MIGRATE_STRICT;
	EXPECT_EQ(-ENOMEM, repeat(_metadata, self->fd, &req)) pm_print(&req.result);
	EXPECT_EQ((uintptr_t)p + BIG * PAGE, req.result.resume_va);
	child_end(&hog);
	EXPECT_EQ(0, bad_pages(p, BIG, 6));
	close(pipefd[0]);
	close(pipefd[1]);
}

static void big_main(struct child *c, void *arg)
{
	child_put(c, (uintptr_t)map_node(*(size_t *)arg, mem[1]));
}

/*
 * The target dies during a call: the call ends with what it has done, or as
 * if there had been no process. Nothing stays behind, isolated or held.
 */
TEST_F(errors, target_exits_during_the_call)
{
	static const int delays[] = { 50, 20, 100, 10, 200, 5, 400 };
	long isolated = nr_isolated(), free = node_free_all(mem[1]) + node_free_all(mem[2]), ret;
	size_t big = 24576;
	enum { TRIES = 20 };
	int hits = 0;

	/* A worker gives up the address space: ours must not be busy for that. */
	ASSERT_EQ(0, madvise(self->p, NPAGES * PAGE, MADV_DONTFORK));
	for (size_t i = 0; i < ARRAY_LEN(delays) + TRIES; i++) {
		struct page_migrate_result res;
		struct child c;
		struct killer k = { .fd = pm_open(), .after_us = -1 };
		pthread_t t;
		char *p;

		child_start(&c, big_main, &big);
		p = (char *)child_get(&c);
		k.pid = c.pid;
		if (i < ARRAY_LEN(delays))
			k.after_us = delays[i] * 1000L;
		ASSERT_EQ(0, pthread_create(&t, NULL, kill_in_call, &k));
		ret = pm_move(k.fd, c.pid, p, big * PAGE, 0, 1, &mem[1], &mem[2], &res);
		pthread_join(t, NULL);
		ASSERT_EQ(c.pid, waitpid(c.pid, NULL, 0));
		if (ret == -ESRCH) {
			EXPECT_TRUE(pm_is_poison(&res));
		} else {
			EXPECT_LE(0, ret);
			EXPECT_FALSE(pm_is_poison(&res));
			EXPECT_GE(big, pm_sum(&res));
			EXPECT_LT(0, pm_sum(&res));
			hits += pm_sum(&res) < big;
		}
		c.pid = 0;
		close(c.in);
		close(c.out);
		close(k.fd);
		if (i >= ARRAY_LEN(delays) && hits)
			break;
	}
	EXPECT_LT(0, hits)
		TH_LOG("no process died in the middle of a call");
	EXPECT_EQ(isolated, nr_isolated());
	/* The memory of all of them has come back; each had 24576 pages. */
	for (int n = 0; n < 1000 * patience(); n++) {
		if (node_free_all(mem[1]) + node_free_all(mem[2]) > free - 4096)
			break;
		usleep(10000);
	}
	EXPECT_LT(free - 4096, node_free_all(mem[1]) + node_free_all(mem[2]));
}

/* A caller that moves its parent's pages until it is killed. */
struct parent {
	pid_t pid;
	char *p;
	size_t npages;
	int from, to;
};

static void move_parent(struct child *c, void *arg)
{
	struct parent *m = arg;
	int fd = pm_open();

	child_put(c, 1);
	pm_move(fd, m->pid, m->p, m->npages * PAGE, 0, 1, &m->from, &m->to, NULL);
	child_put(c, 2);
}

/* The caller dies during its call: the target keeps all it had. */
TEST_F(errors, caller_is_killed_during_the_call)
{
	enum { BIG = 24576 };
	static const int delays[] = { 50, 20, 100, 10, 200 };
	struct parent m = { .pid = getpid(), .npages = BIG, .from = mem[1], .to = mem[2] };
	long isolated = nr_isolated();
	int hits = 0;

	m.p = map_node(BIG, m.from);
	fill(m.p, BIG, 7);
	for (size_t i = 0; i < ARRAY_LEN(delays); i++) {
		size_t there, here;
		struct child c;

		child_start(&c, move_parent, &m);
		child_get(&c);
		usleep(delays[i] * 1000);
		child_end(&c);
		there = count_on(0, m.p, BIG, m.to);
		here = count_on(0, m.p, BIG, m.from);
		EXPECT_EQ(BIG, there + here);
		hits += there && here;
		EXPECT_EQ(0, bad_pages(m.p, BIG, 7));
		EXPECT_EQ(isolated, nr_isolated());
		/* Nobody goes on after it. */
		usleep(50000);
		EXPECT_EQ(there, count_on(0, m.p, BIG, m.to));
		/* And another caller can. */
		ASSERT_EQ(0, pm_move(self->fd, 0, m.p, BIG * PAGE, 0, 1, &m.from, &m.to, NULL));
		ASSERT_TRUE(all_on(0, m.p, BIG, &m.to, 1));
		m.to = m.from;
		m.from = m.from == mem[1] ? mem[2] : mem[1];
	}
	EXPECT_LT(0, hits)
		TH_LOG("no caller died in the middle of a call");
}

/* Several calls at once on one open file, and on several. */
struct turn {
	int fd;
	char *p;
	size_t npages;
	struct page_migrate_result res;
	long ret;
};

static void *take_turn(void *arg)
{
	struct turn *t = arg;

	t->ret = pm_move(t->fd, 0, t->p, t->npages * PAGE, 0, 2, (int[]){ mem[0], mem[1] },
			 (int[]){ mem[2], mem[3] }, &t->res);
	return NULL;
}

TEST_F(errors, calls_side_by_side)
{
	enum { THREADS = 6, N = 3000 };
	struct turn turns[THREADS];
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++) {
		turns[i] = (struct turn){
			.fd = i < THREADS / 2 ? self->fd : pm_open(),
			.p = map_nodes(N, mem, 2),
			.npages = N,
		};
		fill(turns[i].p, N, i);
	}
	for (int i = 0; i < THREADS; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, take_turn, &turns[i]));
	for (int i = 0; i < THREADS; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	for (int i = 0; i < THREADS; i++) {
		EXPECT_EQ(0, turns[i].ret);
		EXPECT_EQ(N, turns[i].res.moved);
		EXPECT_EQ(N, pm_sum(&turns[i].res));
		EXPECT_TRUE(all_on(0, turns[i].p, N, mem + 2, 2));
		EXPECT_EQ(0, bad_pages(turns[i].p, N, i));
	}
}

/* A result on success: written whole, reserved words cleared. */
TEST_F(errors, result_is_written)
{
	struct page_migrate_request req = self->req;

	pm_poison(&req.result);
	req.flags = PAGE_MIGRATE_DRY_RUN;
	ASSERT_EQ(0, pm_migrate(self->fd, &req));
	EXPECT_EQ(NPAGES, req.result.moved);
	EXPECT_EQ(NPAGES, pm_sum(&req.result));
	EXPECT_EQ(0, req.result.policies);
	EXPECT_EQ(0, req.result.gone);
	EXPECT_EQ(0, req.result.reserved);
	EXPECT_EQ((uintptr_t)self->p + NPAGES * PAGE, req.result.resume_va);
	/* The input is left as it was. */
	EXPECT_EQ(0, memcmp(&req.va_start, &self->req.va_start,
			    offsetof(struct page_migrate_request, result) -
			    offsetof(struct page_migrate_request, va_start)));
}

TEST_HARNESS_MAIN
