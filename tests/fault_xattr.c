// SPDX-License-Identifier: GPL-2.0
/*
 * Marks on a file system that is slow, fails, or goes away: a FUSE server that does with
 * each request for a mark what the test tells it to. What a call does where a server
 * never answers is in fault_server.
 */
#include "harness.h"
#include "fuse_util.h"

#include <signal.h>
#include <sys/wait.h>

/*
 * Slow servers.
 */
TEST(target_lives_on_while_the_server_thinks)
{
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (int i = 0; i < FILES; i++)
		hold(i, true);
	caller_start(&c, &s);
	for (int i = 0; i < FILES; i++)
		for (int k = 0; k < NAMES; k++) {
			ASSERT_TRUE(wait_for(&server->asked[i][k], 1));
			/* None of this would end if the caller had mmap_lock. */
			ASSERT_EQ(0, tell(&s, LIVE));
			ASSERT_EQ(0, tell(&s, LOOK));
			EXPECT_EQ(0, server->answered[i][k]);
			EXPECT_FALSE(speaks(&c.child, 0));
			server->holds[i][k] = false;
		}
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	/* What was busy. */
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

/* A call does not keep files open: what their last close does is done. */
TEST(files_are_closed_meanwhile)
{
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	hold(1, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[1][TRUSTED], 1));
	EXPECT_EQ(0, server->released[0]);
	ASSERT_EQ(0, tell(&s, REPLACE));
	/* The first has been asked for its mark, the second is just being asked. */
	for (int i = 0; i < FILES; i++)
		EXPECT_TRUE(wait_for(&server->released[i], 1));
	EXPECT_FALSE(speaks(&c.child, 0));
	hold(1, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 0), N, &mem[1], 1));
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 1 + FILES), N, &mem[1], 1));
	scene_end(_metadata, &s);
}

/* Nor is a removed segment of shared memory kept, though its mark has been read. */
TEST(segment_is_removed_meanwhile)
{
	struct caller c;
	struct statfs fs;
	fsblkcnt_t free;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	/* Only here: the others do not see it. */
	ASSERT_EQ(0, mount("none", SCRATCH, "tmpfs", 0, NULL));
	ASSERT_EQ(0, statfs(SCRATCH, &fs));
	free = fs.f_bfree;
	ASSERT_EQ(0, tell(&s, SEGMENT));
	ASSERT_EQ(0, statfs(SCRATCH, &fs));
	ASSERT_EQ(free - N, fs.f_bfree);
	hold(0, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], 1));
	/* So that one has been moved by now. */
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 0), N, &mem[1], 1));
	ASSERT_EQ(0, tell(&s, NO_SEGMENT));
	ASSERT_EQ(0, statfs(SCRATCH, &fs));
	EXPECT_EQ(free, fs.f_bfree);
	EXPECT_EQ(0, umount(SCRATCH));
	EXPECT_FALSE(speaks(&c.child, 0));
	hold(0, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 1 + FILES), N, &mem[1], 1));
	scene_end(_metadata, &s);
}

TEST(slow)
{
	bool once = true;
	struct scene s;
	int calls;

	scene_start(&s, PROT_READ, false);
	server->delay = 300000;
	answer(0, USER, 0, "none", 4);
	move_all(_metadata, &s, 0, 1, N);
	landed(_metadata, &s, true, false);
	/* Each name once in a call, of each file. */
	calls = server->asked[0][TRUSTED];
	for (int i = 0; i < FILES; i++)
		for (int k = 0; k < NAMES; k++)
			once &= server->asked[i][k] == calls;
	EXPECT_TRUE(once);
	scene_end(_metadata, &s);
}

/* What the target has written and the server has not got yet moves as well. */
TEST(written_pages)
{
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	hold(1, true);
	answer(0, USER, 0, "lib", 3);
	ASSERT_EQ(0, tell(&s, WRITE));
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[1][TRUSTED], 1));
	ASSERT_EQ(0, tell(&s, WRITE));
	hold(1, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	ASSERT_LE(0, c.end->ret);
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	EXPECT_EQ(0, tell(&s, LOOK));
	EXPECT_EQ(0, tell(&s, SYNC));
	scene_end(_metadata, &s);
}

/*
 * Answers.
 */
/*
 * One call with the answers that are set, where nobody can tell the mark of a file: its
 * pages stay, what lies behind moves. Then all goes on without marks.
 */
static void stays_unread(struct __test_metadata *_metadata, struct scene *s, int file)
{
	struct page_migrate_result res;
	long ret = N + 1;

	/* Pages of the other file are busy at times. */
	for (int i = 0; i < 20 && ret > N; i++) {
		if (i)
			usleep(50000);
		ret = move(s, 0, 1, &res);
	}
	EXPECT_EQ(N, ret) pm_print(&res);
	EXPECT_EQ(N, res.busy) pm_print(&res);
	EXPECT_EQ(AREA, pm_sum(&res)) pm_print(&res);
	landed(_metadata, s, file == 0, file == 1);
	no_marks();
	move_all(_metadata, s, 0, 1, 0);
	move_all(_metadata, s, 1, 0, 0);
}

TEST(errors)
{
	static const int errs[] = {
		EIO, EPERM, EACCES, ENOMEM, EINTR, EAGAIN, ENOENT, ETIMEDOUT, EFAULT, EINVAL,
		EBUSY, ESTALE, ENOSPC, E2BIG, EHWPOISON,
	};
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (size_t i = 0; i < ARRAY_LEN(errs); i++) {
		for (int k = 0; k < NAMES; k++)
			answer(0, k, errs[i], "", 0);
		stays_unread(_metadata, &s, 0);
		/* The second name counts only where the first one is not set. */
		answer(0, TRUSTED, errs[i], "", 0);
		answer(0, USER, 0, "none", 4);
		stays_unread(_metadata, &s, 0);
		answer(1, USER, errs[i], "", 0);
		stays_unread(_metadata, &s, 1);
		answer(0, TRUSTED, 0, "lib", 3);
		answer(0, USER, errs[i], "", 0);
		there_and_back(_metadata, &s, true, false);
		answer(0, TRUSTED, 0, "all", 3);
		answer(0, USER, errs[i], "", 0);
		there_and_back(_metadata, &s, false, false);
		if (!__test_passed(_metadata))
			TH_LOG("that was errno %d", errs[i]);
	}
	scene_end(_metadata, &s);
}

/* These say that no mark of this name is set. */
TEST(no_such_attribute)
{
	static const int errs[] = { ENODATA, EOPNOTSUPP };
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (size_t i = 0; i < ARRAY_LEN(errs); i++) {
		int asked = server->asked[0][USER];

		for (int k = 0; k < NAMES; k++)
			answer(0, k, errs[i], "", 0);
		there_and_back(_metadata, &s, false, false);
		EXPECT_LT(asked, server->asked[0][USER]);
		answer(0, TRUSTED, errs[i], "", 0);
		answer(0, USER, 0, "none", 4);
		there_and_back(_metadata, &s, true, false);
	}
	scene_end(_metadata, &s);
}

/* A value that is too long: said by the server, or found by the kernel. */
TEST(long_values)
{
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (int k = 0; k < NAMES; k++) {
		answer(0, k, ERANGE, "", 0);
		there_and_back(_metadata, &s, false, false);
		answer(0, k, 0, "none and more", 13);
		there_and_back(_metadata, &s, false, false);
		answer(0, k, 0, "nonelibnonelibnonelibnonelibnonelibnonelib", 42);
		there_and_back(_metadata, &s, false, false);
	}
	/* It is set, so that the other one does not count. */
	answer(0, TRUSTED, ERANGE, "", 0);
	answer(0, USER, 0, "none", 4);
	there_and_back(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

TEST(server_without_attributes)
{
	struct scene s;

	knows_no_marks = true;
	scene_start(&s, PROT_READ, false);
	answer(0, TRUSTED, 0, "none", 4);
	there_and_back(_metadata, &s, false, false);
	EXPECT_EQ(0, server->asked[0][TRUSTED]);
	scene_end(_metadata, &s);
}

TEST(marks)
{
	static const struct {
		const char *value;
		size_t size;
		bool stays;
	} values[] = {
		{ "none", 4, true }, { "NONE", 4, true }, { "nOnE", 4, true }, { "lib", 3, true },
		{ "LIB", 3, true }, { "Lib", 3, true }, { "", 0, false }, { "non", 3, false },
		{ "lib", 4, false }, { "lib\n", 4, false }, { "none\n", 5, false },
		{ "li", 2, false },
	};
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		bool stays = values[i].stays;

		for (int k = 0; k < NAMES; k++) {
			answer(0, k, 0, values[i].value, values[i].size);
			there_and_back(_metadata, &s, stays, false);
		}
		answer(1, USER, 0, values[i].value, values[i].size);
		there_and_back(_metadata, &s, false, stays);
		/* The trusted one goes first, even if it means nothing. */
		if (stays && values[i].size) {
			answer(0, TRUSTED, 0, values[i].value, values[i].size);
			answer(0, USER, 0, "all", 3);
			answer(1, TRUSTED, 0, "all", 3);
			answer(1, USER, 0, values[i].value, values[i].size);
			there_and_back(_metadata, &s, true, false);
		}
		if (!__test_passed(_metadata))
			TH_LOG("that was value %zu: %s", i, values[i].value);
	}
	scene_end(_metadata, &s);
}

TEST(marks_of_writable_mappings)
{
	struct scene s;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	answer(0, USER, 0, "lib", 3);
	answer(1, USER, 0, "NONE", 4);
	there_and_back(_metadata, &s, false, true);
	answer(0, TRUSTED, 0, "None", 4);
	answer(1, TRUSTED, 0, "LiB", 3);
	there_and_back(_metadata, &s, true, false);
	scene_end(_metadata, &s);
}

/*
 * FUSE lets nobody but the user who has mounted a file system ask its server, not even
 * root. A call of root's asks for the user, who has opened the file.
 */
TEST(server_of_another_user)
{
	struct page_migrate_result res;
	struct caller c;
	struct scene s;

	owner = NOBODY;
	if (chmod("/dev/fuse", 0666) || chown(MNT, NOBODY, NOBODY))
		die("FUSE for a user");
	scene_start(&s, PROT_READ, false);
	for (int i = 0; i < FILES; i++) {
		hold(i, true);
		answer(i, TRUSTED, 0, "none", 4);
	}
	caller_start(&c, &s);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_EQ(FILES * N, c.end->ret);
	EXPECT_EQ(FILES * N, c.end->res.busy) pm_print(&c.end->res);
	landed(_metadata, &s, true, true);
	for (int i = 0; i < FILES; i++)
		hold(i, false);
	/* Until the server has answered the question that was left. */
	for (int i = 0; i < 100; i++) {
		EXPECT_LE(0, move(&s, 0, 1, &res));
		EXPECT_EQ(FILES * N, res.exempt + res.busy) pm_print(&res);
		if (!res.busy)
			break;
		usleep(20000);
	}
	EXPECT_EQ(FILES * N, res.exempt) pm_print(&res);
	landed(_metadata, &s, true, true);
	/* The user can ask it. */
	EXPECT_LE(0, tell(&s, MOVE_BACK));
	EXPECT_LT(0, server->asked[0][TRUSTED]);
	EXPECT_TRUE(all_on(s.target.pid, s.area, AREA, &mem[0], 1));
	scene_end(_metadata, &s);
	chown(MNT, 0, 0);
}

/*
 * The server is the target, and lives on while it is asked.
 */
TEST(target_serves_itself)
{
	struct scene s;
	long ret = 1;

	scene_start(&s, PROT_READ, true);
	there_and_back(_metadata, &s, false, false);
	answer(0, USER, 0, "none", 4);
	there_and_back(_metadata, &s, true, false);
	/* All of it, the server's own memory included. */
	for (int i = 0; i < 20 && ret > 0; i++)
		ret = pm_move(s.fd, s.target.pid, NULL, ~0UL, 0, 1, &mem[0], &mem[1], NULL);
	EXPECT_LE(0, ret);
	EXPECT_TRUE(all_on(s.target.pid, s.area, AREA, &mem[1], 1));
	EXPECT_EQ(0, tell(&s, LOOK));
	/* Caller, target and server are one. */
	ret = 1;
	for (int i = 0; i < 20 && ret > 0; i++)
		ret = tell(&s, MOVE_BACK);
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(all_on(s.target.pid, s.area, AREA, &mem[0], 1));
	EXPECT_LT(0, server->spare_reads);
	scene_end(_metadata, &s);
}

/*
 * Servers that do not answer.
 */

/* A call stands before the first file: what it has done is written. */
static void stopped_before_file_0(struct __test_metadata *_metadata, struct scene *s,
				  struct caller *c)
{
	EXPECT_EQ(-EINTR, c->end->ret);
	ASSERT_FALSE(pm_is_poison(&c->end->res));
	EXPECT_EQ(N, c->end->res.moved) pm_print(&c->end->res);
	EXPECT_EQ(N, pm_sum(&c->end->res)) pm_print(&c->end->res);
	EXPECT_EQ((uintptr_t)file_of(s, 0), c->end->res.resume_va) pm_print(&c->end->res);
	EXPECT_TRUE(all_on(s->target.pid, part(s, 0), N, &mem[1], 1));
	EXPECT_TRUE(all_on(s->target.pid, part(s, 1), AREA - N, &mem[0], 1));
}

TEST(signal_and_a_server_that_gives_up)
{
	struct page_migrate_result res;
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	server->obeys = true;
	for (int k = 0; k < NAMES; k++) {
		/* Also in the middle of a file's two names. */
		server->holds[0][k] = true;
		caller_start(&c, &s);
		ASSERT_TRUE(wait_for(&server->asked[0][k], server->answered[0][k] + 1));
		kill(c.child.pid, SIGUSR1);
		ASSERT_TRUE(caller_returns(&c, LONG));
		stopped_before_file_0(_metadata, &s, &c);
		/* The question is taken back as well. */
		EXPECT_TRUE(wait_for(&server->interrupted, k + 1));
		hold(0, false);
		server->answered[0][k]++;
		if (k == TRUSTED) {
			/* The same call again. */
			EXPECT_LE(0, move(&s, 0, 1, &res));
			EXPECT_EQ(N, res.already_moved) pm_print(&res);
			EXPECT_EQ(AREA, pm_sum(&res)) pm_print(&res);
		} else {
			/* From there on. */
			EXPECT_LE(0, pm_move(s.fd, s.target.pid, (void *)c.end->res.resume_va,
					     (AREA - N) * PAGE, 0, 1, &mem[0], &mem[1], &res));
			EXPECT_EQ(0, res.already_moved) pm_print(&res);
			EXPECT_EQ(AREA - N, pm_sum(&res)) pm_print(&res);
		}
		there_and_back(_metadata, &s, false, false);
	}
	EXPECT_EQ(NAMES, server->interrupted);
	scene_end(_metadata, &s);
}

/* A request that the server has not taken yet: a fatal signal takes it back. */
TEST(killed_before_the_server_looks)
{
	char path[64], text[32] = "0";
	struct caller c;
	struct scene s;
	int status;

	scene_start(&s, PROT_READ, false);
	connection_file(&s, "waiting", path, sizeof(path));
	kill(s.server.pid, SIGSTOP);
	ASSERT_EQ(s.server.pid, waitpid(s.server.pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	caller_start(&c, &s);
	for (int i = 0; i < LONG * patience() && atoi(text) < 1; i += 10) {
		usleep(10000);
		ASSERT_EQ(0, file_read(path, text, sizeof(text)));
	}
	ASSERT_LE(1, atoi(text));
	EXPECT_EQ(0, server->asked[0][TRUSTED]);
	kill(c.child.pid, SIGKILL);
	EXPECT_TRUE(dies(&c.child, LONG));
	kill(s.server.pid, SIGCONT);
	there_and_back(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

/*
 * Servers that go away. What has been answered before counts.
 */
static void goes_away(struct __test_metadata *_metadata, bool aborts)
{
	struct page_migrate_result res;
	struct caller c;
	struct scene s;
	char path[64];

	scene_start(&s, PROT_READ, false);
	connection_file(&s, "abort", path, sizeof(path));
	answer(0, TRUSTED, 0, "none", 4);
	hold(1, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[1][TRUSTED], 1));
	if (!aborts)
		child_end(&s.server);
	else if (file_write(path, "1"))
		die("%s", path);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	EXPECT_EQ(N, c.end->res.exempt) pm_print(&c.end->res);
	EXPECT_TRUE(all_on(s.target.pid, file_of(&s, 0), N, &mem[0], 1));
	EXPECT_EQ(0, tell(&s, LOOK));
	EXPECT_EQ(N, c.end->res.busy) pm_print(&c.end->res);
	/* The next call can read no mark at all. */
	EXPECT_EQ(FILES * N, move(&s, 0, 1, &res)) pm_print(&res);
	EXPECT_EQ(FILES * N, res.busy) pm_print(&res);
	landed(_metadata, &s, true, true);
	hold(1, false);
	scene_end(_metadata, &s);
}

TEST(server_is_killed)
{
	goes_away(_metadata, false);
}

TEST(connection_is_aborted)
{
	goes_away(_metadata, true);
}

/*
 * Others do not notice a call that waits.
 */
TEST(waiting_call_blocks_nobody_else)
{
	static uint64_t on[MAX_NODES];
	char path[64], text[1024], want[64];
	struct caller c, other, next;
	struct scene s;
	int fd;

	scene_start(&s, PROT_READ, false);
	fd = pm_open();
	hold(0, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], 1));

	/* The open file says how far it is. */
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", s.fd);
	ASSERT_EQ(0, file_read(path, text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "running:\t1\n")) TH_LOG("%s", text);
	snprintf(want, sizeof(want), "moved:\t%d\n", N);
	EXPECT_NE(NULL, strstr(text, want)) TH_LOG("%s", text);
	snprintf(want, sizeof(want), "va:\t%p\n", (void *)file_of(&s, 0));
	EXPECT_NE(NULL, strstr(text, want)) TH_LOG("%s", text);

	/* Another open file on the same target, without that file. */
	caller_start_on(&other, &s, fd, file_of(&s, 1), 2 * N);
	ASSERT_TRUE(caller_returns(&other, LONG));
	EXPECT_LE(0, other.end->ret);
	EXPECT_EQ(2 * N, pm_sum(&other.end->res)) pm_print(&other.end->res);
	EXPECT_LE(N, other.end->res.moved) pm_print(&other.end->res);

	/* The census asks for no marks, and waits for no turn. */
	ASSERT_EQ(0, pm_placement(s.fd, s.target.pid, s.area, AREA * PAGE, on));
	EXPECT_EQ(AREA, on[mem[0]] + on[mem[1]]);
	EXPECT_LE(N, on[mem[0]]);

	/*
	 * One that waits for its turn on the same open file can be killed. How long the
	 * module waits for the server is the same on a slow machine.
	 */
	caller_start(&next, &s);
	EXPECT_FALSE(speaks(&next.child, 500 / patience()));
	kill(next.child.pid, SIGKILL);
	EXPECT_TRUE(dies(&next.child, LONG));

	EXPECT_EQ(1, server->asked[0][TRUSTED]);
	hold(0, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	close(fd);
	scene_end(_metadata, &s);
}

/* The target does not wait for the call either. */
TEST(target_exits_meanwhile)
{
	struct caller c;
	struct scene s;
	long pages;

	scene_start(&s, PROT_READ, false);
	ASSERT_EQ(0, tell(&s, GROW));
	hold(0, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], 1));
	pages = vmstat("nr_anon_pages");
	kill(s.target.pid, SIGKILL);
	ASSERT_TRUE(dies(&s.target, LONG));
	/* Its memory is given back, however long the call still takes. */
	for (int i = 0; i < 100 && pages - vmstat("nr_anon_pages") < GROWTH / 2; i++)
		usleep(20000);
	EXPECT_LT(GROWTH / 2, pages - vmstat("nr_anon_pages"));
	hold(0, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	/* What was done before counts. */
	EXPECT_LE(0, c.end->ret);
	EXPECT_LE(N, pm_sum(&c.end->res)) pm_print(&c.end->res);
	scene_end(_metadata, &s);
}

TEST_HARNESS_MAIN
