// SPDX-License-Identifier: GPL-2.0
/*
 * What nobody may move of its own, pages that others map, and the module's own
 * life: its parameter, loading and unloading. Who may move whose pages is in
 * abi_privilege.c.
 */
#include "harness.h"
#include "util.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/capability.h>

#define NPAGES 16

/* A process of nobody's that holds pages on mem[0]. */
static void target_main(struct child *c, void *arg)
{
	char *p = map_node(NPAGES, mem[0]);

	(void)arg;
	fill(p, NPAGES, 2);
	drop_to(NOBODY);
	child_put(c, (uintptr_t)p);
	child_put(c, child_get(c) ? bad_pages(p, NPAGES, 2) : 0);
}

static char *target_start(struct child *c)
{
	child_start(c, target_main, NULL);
	return (char *)child_get(c);
}

/* One call of another process that has given up what it says. */
struct call {
	pid_t pid;
	void *va;
	size_t len;
	unsigned int flags;
	int from, to;
	int without_cap;	/* -1: become nobody */
};

struct answer {
	long ret;
	struct page_migrate_result res;
};

static void caller_main(struct child *c, void *arg)
{
	struct call *call = arg;
	struct answer a;
	int fd;

	if (call->without_cap < 0)
		drop_to(NOBODY);
	else
		drop_cap(call->without_cap);
	fd = pm_open();
	a.ret = pm_move(fd, call->pid, call->va, call->len, call->flags, 1,
			&call->from, &call->to, &a.res);
	if (write(c->out, &a, sizeof(a)) != sizeof(a))
		die("write");
}

static struct answer ask(struct call call)
{
	struct child c;
	struct answer a;

	child_start(&c, caller_main, &call);
	if (read(c.in, &a, sizeof(a)) != sizeof(a))
		die("the caller has gone");
	child_end(&c);
	return a;
}

#define WITHOUT(cap, ...)	\
	ask((struct call){ .without_cap = (cap), .from = mem[0], .to = mem[2], __VA_ARGS__ })
#define AS_NOBODY(...) WITHOUT(-1, __VA_ARGS__)

static void self_main(struct child *c, void *arg)
{
	struct page_migrate_result res;
	char *p = map_node(NPAGES, mem[0]), *q;
	int fd;

	(void)arg;
	fill(p, NPAGES, 2);
	drop_to(NOBODY);
	fd = pm_open();
	child_put(c, pm_move(fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], &res));
	child_put(c, res.moved);
	child_put(c, all_on(0, p, NPAGES, &mem[2], 1));
	child_put(c, bad_pages(p, NPAGES, 2));
	/* The same by its number, and all of the process. */
	child_put(c, pm_move(fd, getpid(), p, NPAGES * PAGE, 0, 1, &mem[2], &mem[0], &res));
	child_put(c, res.moved);
	q = map_node(NPAGES, mem[1]);
	child_put(c, pm_move(fd, 0, NULL, ~0UL, 0, 1, &mem[1], &mem[3], &res) >= 0);
	child_put(c, all_on(0, q, NPAGES, &mem[3], 1));
}

TEST(nobody_on_itself)
{
	struct child c;

	child_start(&c, self_main, NULL);
	EXPECT_EQ(0, (long)child_get(&c));
	EXPECT_EQ(NPAGES, child_get(&c));
	EXPECT_EQ(1, child_get(&c));
	EXPECT_EQ(0, child_get(&c));
	EXPECT_EQ(0, (long)child_get(&c));
	EXPECT_EQ(NPAGES, child_get(&c));
	EXPECT_EQ(1, child_get(&c));
	EXPECT_EQ(1, child_get(&c));
	child_end(&c);
}

/*
 * The check is ptrace's, with the real ids: root without CAP_SYS_PTRACE is
 * one user among others, and CAP_SYS_NICE does not stand in for it.
 */
TEST(root_without_ptrace)
{
	struct child c;
	char *p = target_start(&c);
	struct answer a = WITHOUT(CAP_SYS_PTRACE, .pid = c.pid, .va = p, .len = NPAGES * PAGE);

	EXPECT_EQ(-EPERM, a.ret);
	EXPECT_TRUE(pm_is_poison(&a.res));
	EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[0], 1));
	a = WITHOUT(CAP_SYS_NICE, .pid = c.pid, .va = p, .len = NPAGES * PAGE);
	EXPECT_EQ(0, a.ret);
	EXPECT_EQ(NPAGES, a.res.moved);
	EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[2], 1));
	child_end(&c);
}

/*
 * A target with three kinds of pages: its own, those it shares with its child
 * since a fork, and those of a shared mapping that both use.
 */
struct shared_target {
	char *own, *cow, *shm;
};

static void share(struct child *c, void *arg)
{
	char *own, *cow = map_node(NPAGES, mem[0]);
	char *shm = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int ready[2];
	char byte = 0;

	(void)arg;
	if (shm == MAP_FAILED || pipe(ready))
		die("mmap or pipe");
	place_pages(shm, NPAGES, &mem[0], 1);
	fill(cow, NPAGES, 1);
	fill(shm, NPAGES, 2);
	drop_to(NOBODY);
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* A shared mapping is not copied by fork: look at each page. */
		for (size_t i = 0; i < NPAGES; i++)
			byte |= ((volatile char *)shm)[i * PAGE];
		if (write(ready[1], &byte, 1) != 1)
			die("write");
		for (;;)
			pause();
	}
	if (read(ready[0], &byte, 1) != 1)
		die("the child has gone");
	own = map_node(NPAGES, mem[0]);
	fill(own, NPAGES, 3);
	child_put(c, (uintptr_t)own);
	child_put(c, (uintptr_t)cow);
	child_put(c, (uintptr_t)shm);
	while (child_get(c))
		child_put(c, bad_pages(own, NPAGES, 3) + bad_pages(cow, NPAGES, 1) +
			     bad_pages(shm, NPAGES, 2));
}

static void touch_all(struct child *c, void *arg)
{
	char sum = 0;

	for (size_t i = 0; i < NPAGES; i++)
		sum += ((volatile char *)arg)[i * PAGE];
	child_put(c, sum);
}

static struct shared_target shared_start(struct child *c)
{
	struct shared_target t;

	child_start(c, share, NULL);
	t.own = (char *)child_get(c);
	t.cow = (char *)child_get(c);
	t.shm = (char *)child_get(c);
	return t;
}

static void check_shared(struct __test_metadata *_metadata, struct child *c,
			 struct shared_target t, struct call call)
{
	struct { char *p; bool shared; } parts[] = {
		{ t.own, false }, { t.cow, true }, { t.shm, true },
	};

	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		struct answer a;

		call.pid = c->pid;
		call.va = parts[i].p;
		call.len = NPAGES * PAGE;
		a = ask(call);
		EXPECT_EQ(parts[i].shared ? NPAGES : 0, a.ret);
		EXPECT_EQ(parts[i].shared ? NPAGES : 0, a.res.shared);
		EXPECT_EQ(parts[i].shared ? 0 : NPAGES, a.res.moved);
		EXPECT_EQ(NPAGES, pm_sum(&a.res));
		EXPECT_TRUE(all_on(c->pid, parts[i].p, NPAGES,
				   &mem[parts[i].shared ? 0 : 2], 1))
			TH_LOG("part %zu", i);
	}
	child_put(c, 1);
	EXPECT_EQ(0, child_get(c));
}

TEST(shared_pages_without_cap_sys_nice)
{
	struct child c;
	struct shared_target t = shared_start(&c);
	struct answer a;

	/* A dry run counts them in the same way. */
	a = AS_NOBODY(.pid = c.pid, .va = t.cow, .len = NPAGES * PAGE,
		      .flags = PAGE_MIGRATE_DRY_RUN);
	EXPECT_EQ(NPAGES, a.ret);
	EXPECT_EQ(NPAGES, a.res.shared);
	check_shared(_metadata, &c, t,
		     (struct call){ .without_cap = -1, .from = mem[0], .to = mem[2] });
	child_end(&c);
}

/* It is this capability that counts, not being root. */
TEST(shared_pages_as_root_without_cap_sys_nice)
{
	struct child c;
	struct shared_target t = shared_start(&c);

	check_shared(_metadata, &c, t,
		     (struct call){ .without_cap = CAP_SYS_NICE, .from = mem[0], .to = mem[2] });
	child_end(&c);
}

TEST(shared_pages_exclusive)
{
	struct child c;
	struct shared_target t = shared_start(&c);

	check_shared(_metadata, &c, t,
		     (struct call){ .without_cap = CAP_SYS_TIME, .from = mem[0], .to = mem[2],
				    .flags = PAGE_MIGRATE_EXCLUSIVE });
	child_end(&c);
}

TEST(shared_pages_as_root)
{
	int fd = pm_open();
	struct child c;
	struct shared_target t = shared_start(&c);
	char *parts[] = { t.own, t.cow, t.shm };
	struct page_migrate_result res;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		EXPECT_EQ(0, pm_move(fd, c.pid, parts[i], NPAGES * PAGE, 0, 1,
				     &mem[0], &mem[2], &res));
		EXPECT_EQ(NPAGES, res.moved);
		EXPECT_EQ(NPAGES, pm_sum(&res));
		EXPECT_TRUE(all_on(c.pid, parts[i], NPAGES, &mem[2], 1));
	}
	child_put(&c, 1);
	EXPECT_EQ(0, child_get(&c));
	child_end(&c);
}

/* Root of a user namespace of its own has no right over others' pages. */
static void userns_main(struct child *c, void *arg)
{
	struct page_migrate_result res;
	char *shm = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct child other;
	int fd;

	(void)arg;
	if (shm == MAP_FAILED)
		die("mmap");
	place_pages(shm, NPAGES, &mem[0], 1);
	drop_to(NOBODY);
	child_start(&other, touch_all, shm);
	child_get(&other);
	if (unshare(CLONE_NEWUSER))
		die("unshare");
	fd = pm_open();
	child_put(c, pm_move(fd, 0, shm, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], &res));
	child_put(c, res.shared);
	child_put(c, all_on(0, shm, NPAGES, &mem[0], 1));
	child_end(&other);
}

TEST(shared_pages_in_a_user_namespace)
{
	struct child c;

	child_start(&c, userns_main, NULL);
	EXPECT_EQ(NPAGES, child_get(&c));
	EXPECT_EQ(NPAGES, child_get(&c));
	EXPECT_EQ(1, child_get(&c));
	child_end(&c);
}

/* Shared pages that need not move are not left behind. */
TEST(shared_pages_elsewhere)
{
	struct child c;
	struct shared_target t = shared_start(&c);
	struct answer a = ask((struct call){ .without_cap = -1, .pid = c.pid, .va = t.cow,
					     .len = NPAGES * PAGE, .from = mem[1], .to = mem[2] });

	EXPECT_EQ(0, a.ret);
	EXPECT_EQ(NPAGES, a.res.in_place);
	EXPECT_EQ(0, a.res.shared);
	child_end(&c);
}

/* Where the caller itself may allocate does not matter. */
static void confined_main(struct child *c, void *arg)
{
	struct call *call = arg;
	struct page_migrate_result res;
	int fd;

	child_get(c);
	fd = pm_open();
	bind_to(mem[0]);
	child_put(c, pm_move(fd, call->pid, call->va, call->len, 0, 1,
			     &call->from, &call->to, &res));
	child_put(c, res.moved);
}

TEST(cpuset_and_policy_of_the_caller)
{
	struct call call = { .from = mem[0], .to = mem[2], .len = NPAGES * PAGE };
	struct child c, caller;
	struct cg cg;
	char mems[16];

	call.va = target_start(&c);
	call.pid = c.pid;
	snprintf(mems, sizeof(mems), "%d", mem[0]);
	cg_make(&cg, "perm", mems);
	child_start(&caller, confined_main, &call);
	cg_enter(&cg, caller.pid);
	child_put(&caller, 1);
	EXPECT_EQ(0, (long)child_get(&caller));
	EXPECT_EQ(NPAGES, child_get(&caller));
	EXPECT_TRUE(all_on(c.pid, call.va, NPAGES, &mem[2], 1));
	child_end(&caller);
	child_end(&c);
	cg_remove(&cg);
}

/*
 * The module itself. Every test leaves it loaded, without parameters.
 */
FIXTURE(module)
{
	int unused;
};

FIXTURE_SETUP(module)
{
	(void)self;
	/* Find the file while nothing is changed yet. */
	close(module_open());
	if (!module_loaded())
		die("the module is not loaded");
}

FIXTURE_TEARDOWN(module)
{
	long ret;

	(void)self;
	if (module_loaded()) {
		ret = module_unload();
		EXPECT_EQ(0, ret);
	}
	ret = module_load("");
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(device_comes(true));
}

static bool moves_now(void)
{
	char *p = map_node(NPAGES, mem[0]);
	int fd = pm_open();
	bool ok = !pm_move(fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], NULL) &&
		  all_on(0, p, NPAGES, &mem[2], 1);

	close(fd);
	munmap(p, NPAGES * PAGE);
	return ok;
}

TEST_F(module, load_unload_load)
{
	for (int i = 0; i < 3; i++) {
		EXPECT_TRUE(moves_now());
		EXPECT_EQ(-EEXIST, module_load(""));
		ASSERT_EQ(0, module_unload());
		EXPECT_FALSE(module_loaded());
		EXPECT_TRUE(device_comes(false));
		EXPECT_EQ(-ENOENT, module_unload());
		ASSERT_EQ(0, module_load(""));
		ASSERT_TRUE(device_comes(true));
	}
}

TEST_F(module, in_use)
{
	int fd = pm_open(), second;

	EXPECT_EQ(-EWOULDBLOCK, module_unload());
	ASSERT_TRUE(module_loaded());
	EXPECT_TRUE(moves_now());
	second = dup(fd);
	close(fd);
	EXPECT_EQ(-EWOULDBLOCK, module_unload());
	EXPECT_TRUE(module_loaded());
	/* The refused attempts have not closed the door. */
	EXPECT_TRUE(moves_now());
	close(second);
	EXPECT_EQ(0, module_unload());
	EXPECT_FALSE(module_loaded());
}

TEST_F(module, unknown_parameter_value)
{
	ASSERT_EQ(0, module_unload());
	EXPECT_NE(0, module_load("self_ranges_only=perhaps"));
	EXPECT_FALSE(module_loaded());
}

/*
 * Users come and go while the module does. What one has opened works until it is
 * closed.
 */
struct user {
	atomic_bool *stop;
	char *p;
	unsigned int seed;
	unsigned long moved, busy, absent, bad;
};

static void *use_it(void *arg)
{
	struct user *u = arg;
	int at = 0;

	while (!atomic_load(u->stop)) {
		int to = 2 - at, fd = open(PM_DEVICE, O_RDWR | O_CLOEXEC);
		long ret;

		if (fd < 0) {
			/* There is no node, or no device or module behind it any more. */
			if (errno == ENOENT || errno == ENODEV) {
				u->absent++;
			} else {
				fprintf(stderr, "# open: %s\n", strerror(errno));
				u->bad++;
			}
			usleep(1000);
			continue;
		}
		ret = pm_move(fd, 0, u->p, PAGE, 0, 1, &mem[at], &mem[to], NULL);
		if (ret == 0 && node_of(u->p) == mem[to]) {
			u->moved++;
			at = to;
		} else if (ret == 1) {
			/* Something else holds on to the page for a moment. */
			u->busy++;
		} else {
			fprintf(stderr, "# a call on an open file: %ld\n", ret);
			u->bad++;
		}
		close(fd);
		/* Without pauses somebody would have it open at any time. */
		usleep(rand_r(&u->seed) % 20000);
	}
	return NULL;
}

TEST_F(module, comes_and_goes_under_its_users)
{
	unsigned long loads = 0, refused = 0, moved = 0, busy = 0, absent = 0;
	double end = now() + 5 * patience(), last = end + 60 * patience();
	atomic_bool stop = false;
	unsigned int seed = 3;
	struct user user[3];
	pthread_t t[3];

	for (int i = 0; i < 3; i++) {
		user[i] = (struct user){ .stop = &stop, .seed = i, .p = map_node(1, mem[0]) };
		ASSERT_EQ(0, pthread_create(&t[i], NULL, use_it, &user[i]));
	}
	/* On a busy machine one side may hardly get its turn: longer then. */
	while (now() < end || ((loads < 8 || !refused) && now() < last)) {
		long ret = module_unload();

		if (ret) {
			/* Somebody uses it. */
			EXPECT_TRUE(ret == -EWOULDBLOCK || ret == -EBUSY)
				TH_LOG("unloading: %ld", ret);
			refused++;
			usleep(1000);
			continue;
		}
		ret = module_load("");
		EXPECT_EQ(0, ret);
		loads += !ret;
		usleep(rand_r(&seed) % 20000);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, pthread_join(t[i], NULL));
		EXPECT_EQ(0, user[i].bad);
		EXPECT_LT(0, user[i].moved);
		moved += user[i].moved;
		busy += user[i].busy;
		absent += user[i].absent;
		munmap(user[i].p, PAGE);
	}
	TH_LOG("%lu loads, %lu unloads refused; %lu moves, %lu of a busy page, %lu times no device",
	       loads, refused, moved, busy, absent);
	EXPECT_LT(3, loads);
	/* Both sides have met the other. */
	EXPECT_LT(0, refused);
	EXPECT_LT(0, absent);
	EXPECT_GT(moved, busy);
	ASSERT_TRUE(device_comes(true));
	EXPECT_TRUE(moves_now());
}

/*
 * A module that looks for a function which no kernel has: one letter of a name
 * in it is changed.
 */
TEST_F(module, function_that_the_kernel_lacks)
{
	static const char name[] = "\0vma_migratable";
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int from = module_open(), to = memfd_create("module", MFD_CLOEXEC);
	off_t size = lseek(from, 0, SEEK_END);
	char *image, *at, record[4096];
	int changed = 0, lines = 0, named = 0;
	long ret;

	ASSERT_LE(0, log);
	ASSERT_LE(0, to);
	image = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, from, 0);
	ASSERT_NE(MAP_FAILED, image);
	for (at = image; (at = memmem(at, image + size - at, name, sizeof(name))); at++, changed++)
		at[sizeof(name) - 2] = 'Q';
	ASSERT_LT(0, changed);
	ASSERT_EQ(size, write(to, image, size));

	ASSERT_EQ(0, module_unload());
	ASSERT_LE(0, lseek(log, 0, SEEK_END));
	ret = syscall(SYS_finit_module, to, "", 0) ? -errno : 0;
	EXPECT_EQ(-ENOENT, ret);
	EXPECT_FALSE(module_loaded());
	EXPECT_TRUE(device_comes(false));
	for (ssize_t n; (n = read(log, record, sizeof(record) - 1)) > 0;) {
		record[n] = 0;
		lines += !!strstr(record, "page_migrate:");
		named += !!strstr(record, "vma_migratablQ");
	}
	EXPECT_EQ(1, lines);
	EXPECT_EQ(1, named);
	munmap(image, size);
	close(from);
	close(to);
	close(log);
}

static void *hold_thread(void *arg)
{
	*(pid_t *)arg = syscall(SYS_gettid);
	for (;;)
		pause();
	return NULL;
}

TEST_F(module, self_ranges_only)
{
	struct page_migrate_result res;
	uint64_t pages[MAX_NODES];
	volatile pid_t tid = 0;
	struct child c;
	pthread_t t;
	char *p, *mine;
	int fd;

	ASSERT_EQ(0, module_unload());
	ASSERT_EQ(0, module_load("self_ranges_only=1"));
	ASSERT_TRUE(device_comes(true));
	fd = pm_open();
	p = target_start(&c);

	/* A part of another process: refused, for root too. */
	EXPECT_EQ(-EINVAL, pm_move(fd, c.pid, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], &res));
	EXPECT_TRUE(pm_is_poison(&res));
	EXPECT_EQ(-EINVAL, pm_move(fd, c.pid, p, ~0UL, 0, 1, &mem[0], &mem[2], &res));
	EXPECT_EQ(-EINVAL, pm_move(fd, c.pid, NULL, (size_t)p + PAGE, 0, 1,
				   &mem[0], &mem[2], &res));
	EXPECT_EQ(-EINVAL, pm_move(fd, c.pid, p, NPAGES * PAGE, PAGE_MIGRATE_DRY_RUN, 1,
				   &mem[0], &mem[2], &res));
	EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[0], 1));
	/* PLACEMENT is not concerned. */
	EXPECT_EQ(0, pm_placement(fd, c.pid, p, NPAGES * PAGE, pages));
	EXPECT_EQ(NPAGES, pages[mem[0]]);
	/* All of it is no part. */
	EXPECT_LE(0, pm_move(fd, c.pid, NULL, ~0UL, 0, 1, &mem[0], &mem[2], &res));
	EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[2], 1));

	/* For itself any range, by any of its names. */
	mine = map_node(NPAGES, mem[0]);
	EXPECT_EQ(0, pm_move(fd, 0, mine, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], &res));
	EXPECT_TRUE(all_on(0, mine, NPAGES, &mem[2], 1));
	EXPECT_EQ(0, pm_move(fd, getpid(), mine, NPAGES * PAGE, 0, 1, &mem[2], &mem[0], &res));
	EXPECT_TRUE(all_on(0, mine, NPAGES, &mem[0], 1));
	ASSERT_EQ(0, pthread_create(&t, NULL, hold_thread, (void *)&tid));
	while (!tid)
		usleep(1000);
	EXPECT_EQ(0, pm_move(fd, tid, mine, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], &res));
	EXPECT_TRUE(all_on(0, mine, NPAGES, &mem[2], 1));
	child_end(&c);
	close(fd);

	/* Without the parameter, and with 0, the part moves. */
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, module_unload());
		ASSERT_EQ(0, module_load(i ? "self_ranges_only=0" : ""));
		ASSERT_TRUE(device_comes(true));
		fd = pm_open();
		p = target_start(&c);
		EXPECT_EQ(0, pm_move(fd, c.pid, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], &res));
		EXPECT_TRUE(all_on(c.pid, p, NPAGES, &mem[2], 1));
		child_end(&c);
		close(fd);
	}
}

TEST_HARNESS_MAIN
