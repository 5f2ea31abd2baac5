// SPDX-License-Identifier: GPL-2.0
/*
 * Servers that never answer. A call does not wait for them for long: it ends by itself
 * with what lies behind, and within a second when a signal comes. The questions that are
 * left with a server are few, and they end with it.
 */
#include "harness.h"
#include "fuse_util.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

/* Milliseconds. A call waits a few seconds for a server, and after a signal one at most. */
enum { BY_ITSELF = 10000, AT_ONCE = 1500, AFTER_SIGNAL = 1500 };

/* How often the module is in use: it cannot be removed unless that is 0. */
static int uses(void)
{
	char text[32];

	if (file_read("/sys/module/page_migrate/refcnt", text, sizeof(text)))
		die("refcnt");
	return atoi(text);
}

/* A thread that has been counted out may still be on its way. */
static bool uses_become(int n)
{
	for (int i = 0; i < 500 * patience() && uses() != n; i++)
		usleep(10000);
	return uses() == n;
}

/* A call ended with the files' pages left, at least those of the first one. */
static void passed_by(struct __test_metadata *_metadata, struct scene *s, long ret,
		      const struct page_migrate_result *res)
{
	ASSERT_LT(0, ret);
	EXPECT_EQ(ret, res->busy) pm_print(res);
	EXPECT_LE(N, res->busy) pm_print(res);
	EXPECT_EQ(AREA, res->busy + res->moved + res->already_moved) pm_print(res);
	EXPECT_EQ((uintptr_t)s->area + AREA * PAGE, res->resume_va) pm_print(res);
	EXPECT_TRUE(all_on(s->target.pid, part(s, 0), N, &mem[1], 1));
	EXPECT_TRUE(all_on(s->target.pid, file_of(s, 0), N, &mem[0], 1));
	EXPECT_TRUE(all_on(s->target.pid, part(s, 1 + FILES), N, &mem[1], 1));
}

/*
 * Servers that do not say whether there is a mark.
 */
TEST(call_ends_by_itself)
{
	struct scene s;
	int before;

	scene_start(&s, PROT_READ, false);
	before = uses();
	for (int k = 0; k < NAMES; k++) {
		int asked = server->asked[0][k];
		struct caller c;
		double begin;

		server->holds[0][k] = true;
		caller_start(&c, &s);
		ASSERT_TRUE(caller_returns(&c, BY_ITSELF));
		passed_by(_metadata, &s, c.end->ret, &c.end->res);
		EXPECT_EQ(asked + 1, server->asked[0][k]);
		EXPECT_EQ(1, readers());
		EXPECT_LT(before, uses());

		/* Nobody waits for this server again. */
		begin = now();
		caller_start(&c, &s);
		ASSERT_TRUE(caller_returns(&c, BY_ITSELF));
		EXPECT_GT(AT_ONCE * patience() / 1000.0, now() - begin);
		passed_by(_metadata, &s, c.end->ret, &c.end->res);
		EXPECT_EQ(asked + 1, server->asked[0][k]);
		EXPECT_EQ(1, readers());

		/* Once it has answered, it is asked again. */
		hold(0, false);
		EXPECT_TRUE(readers_become(0, LONG));
		EXPECT_TRUE(uses_become(before));
		answer(0, USER, 0, "none", 4);
		there_and_back(_metadata, &s, true, false);
	}
	scene_end(_metadata, &s);
}

/* The question is still with the server when the call has ended. */
TEST(signals)
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGUSR1, SIGKILL };
	struct scene s;
	int before;

	scene_start(&s, PROT_READ, false);
	before = uses();
	for (size_t i = 0; i < ARRAY_LEN(sigs); i++) {
		int asked = server->asked[0][TRUSTED], answered = server->answered[0][TRUSTED];
		struct caller c;

		hold(0, true);
		caller_start(&c, &s);
		ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], asked + 1));
		usleep(100000);
		EXPECT_FALSE(speaks(&c.child, 0));
		kill(c.child.pid, sigs[i]);
		if (sigs[i] == SIGKILL) {
			EXPECT_TRUE(dies(&c.child, AFTER_SIGNAL));
		} else {
			ASSERT_TRUE(caller_returns(&c, AFTER_SIGNAL)) TH_LOG("signal %d", sigs[i]);
			EXPECT_EQ(-EINTR, c.end->ret);
			ASSERT_FALSE(pm_is_poison(&c.end->res));
			EXPECT_EQ(N, c.end->res.moved) pm_print(&c.end->res);
			EXPECT_EQ(N, pm_sum(&c.end->res)) pm_print(&c.end->res);
			EXPECT_EQ((uintptr_t)file_of(&s, 0), c.end->res.resume_va);
		}
		EXPECT_EQ(answered, server->answered[0][TRUSTED]);
		EXPECT_TRUE(all_on(s.target.pid, part(&s, 0), N, &mem[1], 1));
		EXPECT_TRUE(all_on(s.target.pid, part(&s, 1), AREA - N, &mem[0], 1));
		/* The target never notices. */
		EXPECT_EQ(0, tell(&s, LIVE));
		hold(0, false);
		EXPECT_TRUE(readers_become(0, LONG));
		there_and_back(_metadata, &s, false, false);
	}
	EXPECT_TRUE(uses_become(before));
	scene_end(_metadata, &s);
}

/*
 * A question keeps the module and the mount until the server answers, the administrator
 * ends the connection, or the file system is unmounted by force.
 */
TEST(question_ends)
{
	enum { ANSWER, FORCE, ABORT, WAYS };

	for (int way = 0; way < WAYS; way++) {
		struct scene s;
		struct caller c;
		char path[64];
		int before;

		scene_start(&s, PROT_READ, false);
		before = uses();
		connection_file(&s, "abort", path, sizeof(path));
		hold(0, true);
		caller_start(&c, &s);
		ASSERT_TRUE(caller_returns(&c, BY_ITSELF));
		passed_by(_metadata, &s, c.end->ret, &c.end->res);
		EXPECT_EQ(1, readers());
		/* Not even the target's end changes that. */
		EXPECT_EQ(0, tell(&s, LOOK));
		child_end(&s.target);
		EXPECT_EQ(1, readers());
		EXPECT_LT(before, uses());
		EXPECT_EQ(-1, umount(MNT));
		EXPECT_EQ(EBUSY, errno);
		switch (way) {
		case ANSWER:
			hold(0, false);
			break;
		case FORCE:
			/* The first one lets those go who keep it from being unmounted. */
			umount2(MNT, MNT_FORCE);
			break;
		case ABORT:
			if (file_write(path, "1"))
				die("%s", path);
			break;
		}
		EXPECT_TRUE(readers_become(0, LONG)) TH_LOG("way %d", way);
		EXPECT_TRUE(uses_become(before)) TH_LOG("way %d", way);
		hold(0, false);
		scene_end(_metadata, &s);
	}
}

/*
 * Many servers, and a user who asks them all.
 */
enum {
	SERVERS = 12,		/* that do not answer; one more does */
	CALLS = 100,
	MOST = 8,		/* questions of one user */
	OTHER = NOBODY - 1,
};

/* Piece i of a target is a file of server i; then come the one that answers, and memory. */
static char *crowd;

static char *piece(int i)
{
	return crowd + i * N * PAGE;
}

static void be_servers(struct child *c, void *arg)
{
	pthread_t thread;
	char mnt[32];

	(void)arg;
	for (int i = 0; i <= SERVERS; i++) {
		snprintf(mnt, sizeof(mnt), MNT "/%d", i);
		if (mkdir(mnt, 0755) ||
		    pthread_create(&thread, NULL, session_run, session_start(mnt, "-oallow_other")))
			die("server %d", i);
	}
	child_put(c, 0);
	pause();
}

static void be_crowd(struct child *c, void *uid)
{
	drop_to(*(uid_t *)uid);
	bind_to(mem[0]);
	for (int i = 0; i <= SERVERS; i++) {
		char path[32];
		int fd;

		/* The first file has no answer, the second one has. */
		snprintf(path, sizeof(path), MNT "/%d/%d", i, i == SERVERS);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			die("%s", path);
		map_fixed(piece(i), N, PROT_READ, MAP_SHARED, fd, 0);
		touch(piece(i), N);
		close(fd);
	}
	map_fixed(piece(SERVERS + 1), N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		  -1, 0);
	advise(piece(SERVERS + 1), N * PAGE, MADV_NOHUGEPAGE);
	place_pages(piece(SERVERS + 1), N, &mem[0], 1);
	bind_to(-1);
	child_put(c, 0);
}

struct question {
	struct child child;
	uid_t uid;
	pid_t target;
	int first, pieces;
	struct {
		long ret;
		struct page_migrate_result res;
	} *end;
};

static void ask(struct child *c, void *arg)
{
	struct question *q = arg;

	if (q->uid)
		drop_to(q->uid);
	q->end->ret = pm_move(pm_open(), q->target, piece(q->first), q->pieces * N * PAGE, 0, 1,
			      &mem[0], &mem[1], &q->end->res);
	child_put(c, 0);
}

static void question_start(struct question *q, uid_t uid, pid_t target, int first, int pieces)
{
	*q = (struct question){ .uid = uid, .target = target, .first = first, .pieces = pieces };
	q->end = shared_memory(sizeof(*q->end));
	child_start(&q->child, ask, q);
}

static bool question_returns(struct question *q, int ms)
{
	if (!speaks(&q->child, ms))
		return false;
	child_get(&q->child);
	child_end(&q->child);
	return true;
}

/* The file of the server that answers is marked, and memory lies behind it. */
static void is_served(struct __test_metadata *_metadata, uid_t uid)
{
	struct child target;
	struct question q;

	child_start(&target, be_crowd, &uid);
	child_get(&target);
	question_start(&q, uid, target.pid, SERVERS, 2);
	ASSERT_TRUE(question_returns(&q, AT_ONCE)) TH_LOG("user %u", uid);
	EXPECT_EQ(0, q.end->ret) pm_print(&q.end->res);
	EXPECT_EQ(N, q.end->res.exempt) pm_print(&q.end->res);
	EXPECT_EQ(N, q.end->res.moved) pm_print(&q.end->res);
	EXPECT_TRUE(all_on(target.pid, piece(SERVERS), N, &mem[0], 1));
	EXPECT_TRUE(all_on(target.pid, piece(SERVERS + 1), N, &mem[1], 1));
	child_end(&target);
}

TEST(one_user_has_few_questions)
{
	static struct question q[CALLS];
	struct child servers, target;
	uid_t uid = NOBODY;
	int before = uses(), most = 0;

	own_tmpfs("mode=755");
	server = shared_memory(sizeof(*server));
	no_marks();
	hold(0, true);
	answer(1, USER, 0, "none", 4);
	crowd = reserve((SERVERS + 2) * N);
	child_start(&servers, be_servers, NULL);
	child_get(&servers);
	child_start(&target, be_crowd, &uid);
	child_get(&target);

	/* Each asks one server, all at the same time. */
	for (int i = 0; i < CALLS; i++) {
		int n = readers();

		/* On a slow machine the first have given up before the last begin. */
		most = n > most ? n : most;
		question_start(&q[i], uid, target.pid, i % SERVERS, 1);
	}
	for (int i = 0; i < CALLS; i++) {
		while (!speaks(&q[i].child, 20) && most <= SERVERS) {
			int n = readers();

			most = n > most ? n : most;
		}
		ASSERT_TRUE(question_returns(&q[i], LONG));
		EXPECT_EQ(N, q[i].end->ret);
		EXPECT_EQ(N, q[i].end->res.busy) pm_print(&q[i].end->res);
	}
	EXPECT_TRUE(all_on(target.pid, crowd, SERVERS * N, &mem[0], 1));
	EXPECT_LT(0, most);
	EXPECT_GE(MOST, most);
	EXPECT_LT(0, readers());
	EXPECT_GE(MOST, readers());

	/* One call for everything ends, too, and moves what is memory. */
	question_start(&q[0], uid, target.pid, 0, SERVERS + 2);
	ASSERT_TRUE(question_returns(&q[0], LONG));
	EXPECT_LE(SERVERS * N, q[0].end->ret) pm_print(&q[0].end->res);
	EXPECT_TRUE(all_on(target.pid, crowd, (SERVERS + 1) * N, &mem[0], 1));
	EXPECT_TRUE(all_on(target.pid, piece(SERVERS + 1), N, &mem[1], 1));
	EXPECT_GE(MOST, readers());

	/* Others have their own. */
	is_served(_metadata, OTHER);
	is_served(_metadata, 0);

	hold(0, false);
	EXPECT_TRUE(readers_become(0, LONG));
	is_served(_metadata, uid);
	child_end(&target);
	for (int i = 0; i <= SERVERS; i++) {
		char mnt[32];

		snprintf(mnt, sizeof(mnt), MNT "/%d", i);
		EXPECT_EQ(0, umount(mnt)) TH_LOG("%s", mnt);
	}
	child_end(&servers);
	EXPECT_TRUE(uses_become(before));
}

/*
 * Targets that wait for a server themselves.
 */

/*
 * A process has so many threads that wait and that no signal can wake. They are looked at
 * for a while: on its way there a thread waits like that for a disk, too, but not for long.
 */
static bool falls_asleep(pid_t pid, int threads)
{
	enum { LOOKS = 50 };
	int looks = 0;

	for (int i = 0; i < LONG * patience() && looks < LOOKS; i += 10) {
		looks = asleep_for_good(pid) == threads ? looks + 1 : 0;
		usleep(10000);
	}
	return looks == LOOKS;
}

/*
 * A call that waits for the target, ended by a signal. It need not come as far as to
 * move anything.
 */
static void interrupted(struct __test_metadata *_metadata, struct scene *s, int sig)
{
	struct caller c;

	caller_start(&c, s);
	/* The module's own patience is the same on a slow machine. */
	EXPECT_FALSE(speaks(&c.child, 200 / patience()));
	kill(c.child.pid, sig);
	if (sig == SIGKILL) {
		EXPECT_TRUE(dies(&c.child, AFTER_SIGNAL));
		return;
	}
	ASSERT_TRUE(caller_returns(&c, AFTER_SIGNAL)) TH_LOG("signal %d", sig);
	EXPECT_EQ(-EINTR, c.end->ret);
}

/*
 * A fault of the target that waits for its server keeps the VMA, and so its policy. The
 * target's other threads do not wait for the call.
 */
TEST(fault_keeps_the_policy)
{
	struct caller c;
	struct scene s;
	long longest = 0;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	server->holds_writes = true;
	ASSERT_EQ(0, tell(&s, STICK));
	ASSERT_TRUE(falls_asleep(s.target.pid, 2));
	interrupted(_metadata, &s, SIGUSR1);
	interrupted(_metadata, &s, SIGINT);
	interrupted(_metadata, &s, SIGKILL);

	/* Without a signal it ends by itself: the policy stays, and the rest moves. */
	caller_start(&c, &s);
	do {
		long ms = tell(&s, MAP);

		ASSERT_LE(0, ms);
		longest = ms > longest ? ms : longest;
	} while (longest < BY_ITSELF && !speaks(&c.child, 50));
	TH_LOG("the longest mapping took %ld ms", longest);
	EXPECT_GT(1000 * patience(), longest);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret) pm_print(&c.end->res);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 0), N, &mem[1], 1));
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 1 + FILES), N, &mem[1], 1));

	/* It was that for which the calls waited. */
	EXPECT_EQ(2, asleep_for_good(s.target.pid));
	server->holds_writes = false;
	EXPECT_EQ(0, tell(&s, UNSTICK));
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

/* The target waits with mmap_lock held for writing. */
TEST(target_keeps_mmap_lock)
{
	struct scene s;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	ASSERT_EQ(0, tell(&s, WRITE));
	server->holds_writes = true;
	ASSERT_EQ(0, tell(&s, COVER));
	ASSERT_TRUE(falls_asleep(s.target.pid, 1));
	interrupted(_metadata, &s, SIGUSR1);
	interrupted(_metadata, &s, SIGTERM);
	interrupted(_metadata, &s, SIGKILL);
	EXPECT_EQ(1, asleep_for_good(s.target.pid));
	server->holds_writes = false;
	ASSERT_EQ(0, tell(&s, UNCOVER));
	/* The first file is no longer mapped. */
	ASSERT_EQ(0, tell(&s, REPLACE));
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

/*
 * The target executes another program and waits, with exec_update_lock held, for a
 * process that shares its memory and waits for the server.
 */
TEST(target_keeps_exec_update_lock)
{
	struct scene s;
	pid_t pid;
	int status;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	ASSERT_EQ(0, tell(&s, WRITE));
	server->holds_writes = true;
	pid = tell(&s, COVER_SHARED);
	ASSERT_LT(0, pid);
	ASSERT_TRUE(falls_asleep(pid, 1));
	ASSERT_EQ(0, tell(&s, EXEC));
	ASSERT_TRUE(falls_asleep(s.target.pid, 1));
	interrupted(_metadata, &s, SIGUSR1);
	interrupted(_metadata, &s, SIGINT);
	interrupted(_metadata, &s, SIGKILL);
	EXPECT_EQ(1, asleep_for_good(s.target.pid));
	server->holds_writes = false;
	ASSERT_EQ(s.target.pid, waitpid(s.target.pid, &status, 0));
	EXPECT_TRUE(WIFEXITED(status) && !WEXITSTATUS(status));
	s.target.pid = 0;
	scene_end(_metadata, &s);
}

TEST_HARNESS_MAIN
