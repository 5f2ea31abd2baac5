// SPDX-License-Identifier: GPL-2.0
/* Marks on files: what an extended attribute keeps where it is. */
#include "harness.h"
#include "mem_util.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { N = 64 };

#define TRUSTED "trusted.migrate"
#define USER "user.migrate"

static void mark(const char *path, const char *name, const char *value, size_t size)
{
	if (setxattr(path, name, value, size, 0))
		die("setxattr %s of %s", name, path);
}

static void unmark(const char *path, const char *name)
{
	if (removexattr(path, name) && errno != ENODATA)
		die("removexattr %s of %s", name, path);
}

FIXTURE(marks)
{
	char path[128];
	int file, fd;
};

FIXTURE_SETUP(marks)
{
	self->fd = pm_open();
	self->file = scratch_file("marks", self->path, sizeof(self->path));
	file_fill(self->file, N, 1, &mem[0], 1);
	ASSERT_EQ(0, fsync(self->file));
}

FIXTURE_TEARDOWN(marks)
{
	close(self->file);
	unlink(self->path);
}

static char *map_file(int file, int prot, int flags)
{
	char *p = mmap(NULL, N * PAGE, prot, flags, file, 0);

	if (p == MAP_FAILED)
		die("mmap of a file");
	touch(p, N);
	return p;
}

/* Moves from mem[0] to mem[1] and says whether all stayed (true) or all went. */
static bool all_stay(struct __test_metadata *_metadata, int fd, char *p)
{
	struct page_migrate_result res;
	bool stay;
	long ret = -1;

	/* The page cache may be busy for a moment. */
	for (int i = 0; i < 20 && ret; i++) {
		if (i)
			usleep(50000);
		ret = pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[1], &res);
	}
	EXPECT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(N, pm_sum(&res));
	stay = res.exempt;
	if (stay) {
		EXPECT_EQ(N, res.exempt);
		EXPECT_TRUE(all_on(0, p, N, &mem[0], 1));
	} else {
		EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
		/* Back, for the next one. */
		for (int i = 0; i < 20; i++) {
			ret = pm_move(fd, 0, p, N * PAGE, 0, 1, &mem[1], &mem[0], &res);
			if (ret <= 0)
				break;
			usleep(50000);
		}
		EXPECT_EQ(0, ret) pm_print(&res);
		EXPECT_TRUE(all_on(0, p, N, &mem[0], 1));
	}
	return stay;
}

TEST_F(marks, values)
{
	static const struct {
		const char *value;
		size_t size;
		bool stay;
	} values[] = {
		{ "none", 4, true }, { "NONE", 4, true }, { "nOnE", 4, true },
		{ "lib", 3, true }, { "LIB", 3, true }, { "Lib", 3, true }, { "liB", 3, true },
		{ "none\n", 5, false }, { "none", 5, false }, { "lib\n", 4, false },
		{ "lib", 4, false }, { " none", 5, false }, { "none ", 5, false },
		{ "", 0, false }, { "no", 2, false }, { "non", 3, false }, { "nonf", 4, false },
		{ "nones", 5, false }, { "li", 2, false }, { "library", 7, false },
		{ "all", 3, false }, { "none,lib", 8, false },
	};
	char *p = map_file(self->file, PROT_READ, MAP_SHARED), *big = malloc(2000);

	ASSERT_FALSE(all_stay(_metadata, self->fd, p));
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		mark(self->path, USER, values[i].value, values[i].size);
		EXPECT_EQ(values[i].stay, all_stay(_metadata, self->fd, p))
			TH_LOG("user value %zu: %s", i, values[i].value);
		unmark(self->path, USER);
		mark(self->path, TRUSTED, values[i].value, values[i].size);
		EXPECT_EQ(values[i].stay, all_stay(_metadata, self->fd, p))
			TH_LOG("trusted value %zu: %s", i, values[i].value);
		unmark(self->path, TRUSTED);
	}
	/* Longer than any buffer that expects a mark. */
	memset(big, 'n', 2000);
	memcpy(big, "none", 4);
	mark(self->path, USER, big, 2000);
	EXPECT_FALSE(all_stay(_metadata, self->fd, p));
	/* Another attribute is no mark. */
	unmark(self->path, USER);
	mark(self->path, "user.migrates", "none", 4);
	mark(self->path, "user.Migrate", "none", 4);
	EXPECT_FALSE(all_stay(_metadata, self->fd, p));
	EXPECT_EQ(0, bad_pages(p, N, 1));
}

TEST_F(marks, trusted_before_user)
{
	char *p = map_file(self->file, PROT_READ, MAP_SHARED);
	char *w = map_file(self->file, PROT_READ | PROT_WRITE, MAP_SHARED);

	mark(self->path, USER, "none", 4);
	EXPECT_TRUE(all_stay(_metadata, self->fd, p));
	/* A trusted mark that means nothing is set all the same. */
	mark(self->path, TRUSTED, "", 0);
	EXPECT_FALSE(all_stay(_metadata, self->fd, p));
	mark(self->path, TRUSTED, "other", 5);
	EXPECT_FALSE(all_stay(_metadata, self->fd, p));
	mark(self->path, TRUSTED, "a value that is much longer than any mark", 41);
	EXPECT_FALSE(all_stay(_metadata, self->fd, p));
	mark(self->path, TRUSTED, "lib", 3);
	EXPECT_TRUE(all_stay(_metadata, self->fd, p));
	EXPECT_FALSE(all_stay(_metadata, self->fd, w));
	mark(self->path, TRUSTED, "none", 4);
	mark(self->path, USER, "lib", 3);
	EXPECT_TRUE(all_stay(_metadata, self->fd, w));
	unmark(self->path, TRUSTED);
	EXPECT_FALSE(all_stay(_metadata, self->fd, w));
	EXPECT_TRUE(all_stay(_metadata, self->fd, p));
}

TEST_F(marks, read_anew_in_each_call)
{
	char *p = map_file(self->file, PROT_READ, MAP_SHARED);

	for (int i = 0; i < 3; i++) {
		mark(self->path, USER, "none", 4);
		EXPECT_TRUE(all_stay(_metadata, self->fd, p));
		unmark(self->path, USER);
		EXPECT_FALSE(all_stay(_metadata, self->fd, p));
	}
}

/* First half private copies, second half the file's own pages. */
static char *map_copies(int file, int prot)
{
	char *p = map_file(file, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	bind_to(mem[0]);
	memset(p, 0x55, N / 2 * PAGE);
	bind_to(-1);
	if (mprotect(p, N * PAGE, prot))
		die("mprotect");
	if (!all_on(0, p, N, &mem[0], 1))
		die("private copies are not where they were placed");
	return p;
}

TEST_F(marks, lib)
{
	char *shared_ro, *shared_rw, *private_ro, *private_rw, *copies;
	struct page_migrate_result res;
	long ret;

	mark(self->path, USER, "lib", 3);
	shared_ro = map_file(self->file, PROT_READ, MAP_SHARED);
	EXPECT_TRUE(all_stay(_metadata, self->fd, shared_ro));
	shared_rw = map_file(self->file, PROT_READ | PROT_WRITE, MAP_SHARED);
	EXPECT_FALSE(all_stay(_metadata, self->fd, shared_rw));
	private_ro = map_file(self->file, PROT_READ | PROT_EXEC, MAP_PRIVATE);
	EXPECT_TRUE(all_stay(_metadata, self->fd, private_ro));
	private_rw = map_file(self->file, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	EXPECT_FALSE(all_stay(_metadata, self->fd, private_rw));

	/* What counts is the permission that the mapping has now. */
	ASSERT_EQ(0, mprotect(shared_rw, N * PAGE, PROT_READ));
	EXPECT_TRUE(all_stay(_metadata, self->fd, shared_rw));

	/* Copies move out of a mapping without write permission as well. */
	copies = map_copies(self->file, PROT_READ);
	ret = pm_move(self->fd, 0, copies, N * PAGE, 0, 1, &mem[0], &mem[1], &res);
	EXPECT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(N / 2, res.moved);
	EXPECT_EQ(N / 2, res.exempt);
	EXPECT_EQ(N, pm_sum(&res));
	EXPECT_TRUE(all_on(0, copies, N / 2, &mem[1], 1));
	EXPECT_TRUE(all_on(0, copies + N / 2 * PAGE, N / 2, &mem[0], 1));
	EXPECT_EQ(0x55, copies[0]);

	/* And out of a writable one, with the file's own pages. */
	copies = map_copies(self->file, PROT_READ | PROT_WRITE);
	EXPECT_FALSE(all_stay(_metadata, self->fd, copies));
}

TEST_F(marks, none)
{
	char *shared_rw, *copies;

	mark(self->path, USER, "none", 4);
	shared_rw = map_file(self->file, PROT_READ | PROT_WRITE, MAP_SHARED);
	EXPECT_TRUE(all_stay(_metadata, self->fd, shared_rw));
	copies = map_copies(self->file, PROT_READ | PROT_WRITE);
	EXPECT_TRUE(all_stay(_metadata, self->fd, copies));
	EXPECT_EQ(0x55, copies[0]);
}

TEST_F(marks, exempt_counts_only_on_old_nodes)
{
	static uint64_t on[MAX_NODES];
	struct page_migrate_result res;
	char *p;

	mark(self->path, USER, "none", 4);
	p = map_file(self->file, PROT_READ, MAP_SHARED);
	ASSERT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, 0, 1, &mem[2], &mem[1], &res));
	EXPECT_EQ(0, res.exempt);
	EXPECT_EQ(N, res.in_place);
	/* A node that maps to itself selects nothing either. */
	ASSERT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, 0, 1, &mem[0], &mem[0], &res));
	EXPECT_EQ(0, res.exempt);
	EXPECT_EQ(N, res.in_place);
	ASSERT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, PAGE_MIGRATE_DRY_RUN, 1, &mem[0], &mem[1],
			     &res));
	EXPECT_EQ(N, res.exempt);
	EXPECT_EQ(0, res.moved);
	/* Marked pages are pages. */
	ASSERT_EQ(0, pm_placement(self->fd, 0, p, N * PAGE, on));
	EXPECT_EQ(N, on[mem[0]]);
}

/* One page by two mappings, of which a `lib` exempts one. */
TEST_F(marks, met_through_a_mapping_that_is_exempt_and_one_that_is_not)
{
	/* The second time so far apart that they are not in one batch. */
	static const size_t apart[] = { 2 * N, 12000 };

	mark(self->path, USER, "lib", 3);
	for (size_t i = 0; i < ARRAY_LEN(apart); i++) {
		char *base = reserve(apart[i] + N), *far = base + apart[i] * PAGE, *mid;
		size_t filler = apart[i] - 2 * N;
		struct page_migrate_result res;

		mid = base + N * PAGE;
		map_fixed(base, N, PROT_READ, MAP_SHARED, self->file, 0);
		map_fixed(far, N, PROT_READ | PROT_WRITE, MAP_SHARED, self->file, 0);
		touch(base, N);
		touch(far, N);
		if (filler) {
			map_fixed(mid, filler, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			advise(mid, filler * PAGE, MADV_NOHUGEPAGE);
			place_pages(mid, filler, &mem[0], 1);
		}
		ASSERT_TRUE(all_on(0, base, N, &mem[0], 1));
		/* Exempt first: it moves when it is met through the other. */
		ASSERT_EQ(0, pm_move(self->fd, 0, base, far + N * PAGE - base, 0, 1, &mem[0],
				     &mem[1], &res)) pm_print(&res);
		EXPECT_EQ(N, res.exempt);
		EXPECT_EQ(N + filler, res.moved);
		EXPECT_EQ(2 * N + filler, pm_sum(&res));
		EXPECT_TRUE(all_on(0, base, N, &mem[1], 1));

		/* Exempt second: it has moved, and that wins. */
		ASSERT_EQ(0, mprotect(base, N * PAGE, PROT_READ | PROT_WRITE));
		ASSERT_EQ(0, mprotect(far, N * PAGE, PROT_READ));
		touch(base, N);
		touch(far, N);
		ASSERT_EQ(0, pm_move(self->fd, 0, base, far + N * PAGE - base, 0, 2, SWAP_OLD,
				     SWAP_NEW, &res)) pm_print(&res);
		EXPECT_EQ(0, res.exempt);
		EXPECT_EQ(N, res.already_moved);
		EXPECT_EQ(N + filler, res.moved);
		EXPECT_EQ(2 * N + filler, pm_sum(&res));
		EXPECT_TRUE(all_on(0, far, N, &mem[0], 1));
		munmap(base, (apart[i] + N) * PAGE);
	}
}

TEST_F(marks, deleted_file)
{
	char *p = map_file(self->file, PROT_READ, MAP_SHARED);

	mark(self->path, USER, "none", 4);
	ASSERT_EQ(0, unlink(self->path));
	EXPECT_TRUE(all_stay(_metadata, self->fd, p));
	ASSERT_EQ(0, fremovexattr(self->file, USER));
	EXPECT_FALSE(all_stay(_metadata, self->fd, p));
	EXPECT_EQ(0, bad_pages(p, N, 1));
}

TEST(file_on_tmpfs)
{
	int fd = pm_open(), file;
	char *p, *w;

	own_tmpfs("huge=never");
	file = open("/mnt/file", O_RDWR | O_CREAT, 0600);
	ASSERT_LE(0, file);
	file_fill(file, N, 2, &mem[0], 1);
	p = map_file(file, PROT_READ, MAP_SHARED);
	w = map_file(file, PROT_READ | PROT_WRITE, MAP_SHARED);
	EXPECT_FALSE(all_stay(_metadata, fd, p));
	mark("/mnt/file", USER, "none", 4);
	EXPECT_TRUE(all_stay(_metadata, fd, p));
	EXPECT_TRUE(all_stay(_metadata, fd, w));
	mark("/mnt/file", TRUSTED, "lib", 3);
	EXPECT_TRUE(all_stay(_metadata, fd, p));
	EXPECT_FALSE(all_stay(_metadata, fd, w));
}

/* More files than the marks of which are kept at a time, and some of them again. */
TEST(thousands_of_files)
{
	enum { FILES = 5000, AGAIN = 200, MARKED = 7 };
	struct page_migrate_result res;
	size_t wrong = 0, marked = 0;
	int fd = pm_open();
	char *p, *at;

	own_tmpfs("huge=never");
	p = lazy_map(FILES + AGAIN, MADV_NOHUGEPAGE);
	bind_to(mem[0]);
	for (int i = 0; i < FILES + AGAIN; i++) {
		int file;
		char path[32];

		snprintf(path, sizeof(path), "/mnt/%d", i % FILES);
		file = open(path, O_RDWR | O_CREAT, 0600);
		ASSERT_LE(0, file);
		if (i < FILES)
			ASSERT_EQ(0, ftruncate(file, PAGE));
		if (i < FILES && i % MARKED == 0)
			mark(path, USER, "none", 4);
		at = mmap(p + i * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			  file, 0);
		ASSERT_EQ(p + i * PAGE, at);
		*at = 1;
		close(file);
	}
	bind_to(-1);
	ASSERT_EQ(0, pm_move(fd, 0, p, (FILES + AGAIN) * PAGE, 0, 1, &mem[0], &mem[1], &res));
	for (int i = 0; i < FILES + AGAIN; i++) {
		bool stays = i % FILES % MARKED == 0;

		marked += stays;
		wrong += node_of(p + i * PAGE) != (stays ? mem[0] : mem[1]);
	}
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(marked, res.exempt) pm_print(&res);
	EXPECT_EQ(FILES + AGAIN - marked, res.moved + res.already_moved) pm_print(&res);
}

/*
 * Somebody who may not even see a trusted attribute moves a process of his own:
 * the mark is obeyed.
 */
static void unprivileged_main(struct child *c, void *arg)
{
	const char *path = arg;
	struct page_migrate_result res;
	int fd = pm_open(), file;
	char value[8], *p;

	drop_to(NOBODY);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		die("%s", path);
	/* Nobody else has it mapped: such pages may be moved by everybody. */
	p = map_file(file, PROT_READ, MAP_SHARED);
	for (;;) {
		long ret = 1;

		child_get(c);
		for (int i = 0; i < 20 && ret > 0; i++) {
			if (i)
				usleep(50000);
			ret = pm_move(fd, 0, p, N * PAGE, PAGE_MIGRATE_NEW_JOB, 1, &mem[0],
				      &mem[1], &res);
		}
		child_put(c, ret);
		child_put(c, res.exempt);
		child_put(c, res.moved);
		child_put(c, count_on(0, p, N, mem[1]));
		child_put(c, getxattr(path, TRUSTED, value, sizeof(value)) > 0);
	}
}

TEST_F(marks, trusted_counts_for_everybody)
{
	struct child c;

	mark(self->path, TRUSTED, "none", 4);
	child_start(&c, unprivileged_main, self->path);
	for (int marked = 1; marked >= 0; marked--) {
		if (!marked)
			unmark(self->path, TRUSTED);
		child_put(&c, 1);
		EXPECT_EQ(0, (long)child_get(&c));
		EXPECT_EQ(marked ? N : 0, child_get(&c));
		EXPECT_EQ(marked ? 0 : N, child_get(&c));
		EXPECT_EQ(marked ? 0 : N, child_get(&c));
		/* It could not have found out by itself. */
		EXPECT_EQ(0, child_get(&c));
	}
	child_end(&c);
}

/* What a file system without extended attributes has is free to move. */
TEST(file_that_cannot_be_marked)
{
	struct page_migrate_result res;
	int fd = pm_open(), file;
	char value[8], *p, *copies;
	size_t bad = 0;
	long ret = 1;

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("ramfs", "/mnt", "ramfs", 0, NULL))
		die("ramfs on /mnt");
	file = open("/mnt/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, N * PAGE));
	ASSERT_EQ(-1, fgetxattr(file, TRUSTED, value, sizeof(value)));
	ASSERT_EQ(EOPNOTSUPP, errno);
	ASSERT_EQ(-1, fgetxattr(file, USER, value, sizeof(value)));
	ASSERT_EQ(EOPNOTSUPP, errno);
	ASSERT_EQ(-1, fsetxattr(file, USER, "none", 4, 0));
	ASSERT_EQ(EOPNOTSUPP, errno);
	/* Only read: the kernel cannot move dirty pages of this file system. */
	bind_to(mem[0]);
	p = map_file(file, PROT_READ, MAP_SHARED);
	bind_to(-1);
	ASSERT_TRUE(all_on(0, p, N, &mem[0], 1));
	for (int i = 0; i < 20 && ret > 0; i++) {
		if (i)
			usleep(50000);
		ret = pm_move(fd, 0, p, N * PAGE, PAGE_MIGRATE_NEW_JOB, 1, &mem[0], &mem[1], &res);
	}
	EXPECT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(0, res.exempt);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
	for (size_t i = 0; i < N * PAGE; i++)
		bad += p[i] != 0;
	EXPECT_EQ(0, bad);
	/* And the private copies of its pages. */
	copies = map_file(file, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	bind_to(mem[0]);
	fill(copies, N, 6);
	bind_to(-1);
	ASSERT_TRUE(all_on(0, copies, N, &mem[0], 1));
	EXPECT_FALSE(all_stay(_metadata, fd, copies));
	EXPECT_EQ(0, bad_pages(copies, N, 6));
}

/* Two files, one marked: the mark of one is not taken for the other's. */
TEST_F(marks, only_the_marked_file)
{
	struct page_migrate_result res;
	char path[128], *base = reserve(2 * N);
	int other = scratch_file("other", path, sizeof(path));
	long ret = -1;

	file_fill(other, N, 3, &mem[0], 1);
	ASSERT_EQ(0, fsync(other));
	mark(self->path, USER, "none", 4);
	map_fixed(base, N, PROT_READ, MAP_SHARED, self->file, 0);
	map_fixed(base + N * PAGE, N, PROT_READ, MAP_SHARED, other, 0);
	touch(base, 2 * N);
	for (int i = 0; i < 20 && ret; i++) {
		ret = pm_move(self->fd, 0, base, 2 * N * PAGE, 0, 1, &mem[0], &mem[1], &res);
		if (ret)
			usleep(50000);
	}
	unlink(path);
	EXPECT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(N, res.exempt);
	EXPECT_TRUE(all_on(0, base, N, &mem[0], 1));
	EXPECT_TRUE(all_on(0, base + N * PAGE, N, &mem[1], 1));
}

static void on_signal(int signal)
{
	(void)signal;
}

/*
 * A caller that is interrupted all the time gets on, if each call begins where the last one
 * ended: also where that is a file whose mark has to be read.
 */
TEST_F(marks, interrupted_all_the_time)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	int file[3], calls = 0, interrupted = 0;
	char path[3][128], *p = reserve(4 * N), *at = p;
	struct page_migrate_result res;
	struct child interrupter;
	long ret = -EINTR;

	for (int i = 0; i < 3; i++) {
		char name[16];

		snprintf(name, sizeof(name), "nag%d", i);
		file[i] = scratch_file(name, path[i], sizeof(path[i]));
		file_fill(file[i], N, i, &mem[0], 1);
		ASSERT_EQ(0, fsync(file[i]));
		map_fixed(p + i * N * PAGE, N, PROT_READ, MAP_SHARED, file[i], 0);
		touch(p + i * N * PAGE, N);
	}
	map_fixed(p + 3 * N * PAGE, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_EQ(0, advise(p + 3 * N * PAGE, N * PAGE, MADV_NOHUGEPAGE));
	place_pages(p + 3 * N * PAGE, N, &mem[0], 1);
	ASSERT_TRUE(all_on(0, p, 4 * N, &mem[0], 1));

	ASSERT_EQ(0, sigaction(SIGUSR1, &act, NULL));
	interrupter_start(&interrupter);
	for (; calls < 40 && ret; calls++) {
		ret = pm_move(self->fd, 0, at, p + 4 * N * PAGE - at, 0, 1, &mem[0], &mem[1],
			      &res);
		if (ret > 0) {
			/* Pages that somebody else holds: all of it again. */
			at = p;
			continue;
		}
		ASSERT_TRUE(!ret || ret == -EINTR)
			TH_LOG("%ld", ret);
		interrupted += ret == -EINTR;
		at = (char *)(uintptr_t)res.resume_va;
	}
	child_end(&interrupter);
	TH_LOG("%d calls, %d of them interrupted", calls, interrupted);
	EXPECT_EQ(0, ret);
	/* Else it was never interrupted and the test shows nothing. */
	EXPECT_LT(0, interrupted);
	EXPECT_TRUE(all_on(0, p, 4 * N, &mem[1], 1));
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, bad_pages(p + i * N * PAGE, N, i));
		close(file[i]);
		unlink(path[i]);
	}
	munmap(p, 4 * N * PAGE);
}

/* A file of a lower layer, marked through the overlay after it was mapped. */
#define LAYERS "/scratch/layers"
#define OPTIONS "lowerdir=" LAYERS "/low,upperdir=" LAYERS "/up,workdir=" LAYERS "/work,metacopy=on"

static void path_of(char *path, const char *dir, const char *name)
{
	sprintf(path, LAYERS "/%s/%s", dir, name);
}

TEST(file_that_was_opened_is_asked)
{
	static const char *const dirs[] = { "low", "up", "work", "all" };
	char low[64], all[64], *p;
	int file, fd = pm_open();

	ASSERT_EQ(0, mkdir(LAYERS, 0755));
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		path_of(low, dirs[i], "");
		ASSERT_EQ(0, mkdir(low, 0755));
	}
	path_of(low, "low", "file");
	path_of(all, "all", "file");
	file = open(low, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	ASSERT_LE(0, file);
	file_fill(file, N, 1, &mem[0], 1);
	ASSERT_EQ(0, fsync(file));
	ASSERT_EQ(0, mount("overlay", LAYERS "/all", "overlay", 0, OPTIONS));
	close(file);
	file = open(all, O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, file);
	p = map_file(file, PROT_READ, MAP_SHARED);
	EXPECT_FALSE(all_stay(_metadata, fd, p));
	/* The mark comes to lie in the upper layer, the pages are those of the lower one. */
	mark(all, USER, "none", 4);
	EXPECT_EQ(-1, getxattr(low, USER, NULL, 0));
	EXPECT_TRUE(all_stay(_metadata, fd, p));
	unmark(all, USER);
	EXPECT_FALSE(all_stay(_metadata, fd, p));
	EXPECT_EQ(0, bad_pages(p, N, 1));
	munmap(p, N * PAGE);
	close(file);
	EXPECT_EQ(0, umount(LAYERS "/all"));
	EXPECT_EQ(0, system("rm -rf " LAYERS));
}

/*
 * Two images of erofs with the same file in both, told by a fingerprint, share its
 * pages. mkfs.erofs of the distribution knows the attribute, but not yet that it is
 * the fingerprint: the superblock is told so here, and goes without a checksum.
 */
#define IMAGES "/scratch/erofs"
#define FINGERPRINT "trusted.erofs.fingerprint"

enum {
	SUPERBLOCK = 1024,
	FEATURE_COMPAT = 8,
	COMPAT_CHECKSUM = 1,
	COMPAT_FINGERPRINTS = 0x20,
	FINGERPRINT_PREFIX = 105,
};

static void make_image(const char *name, bool marked)
{
	char command[512], path[64], prefix = 0;
	uint32_t features;
	int file;

	snprintf(command, sizeof(command),
		 "cd " IMAGES " && mkdir tree %s && cp data tree/file && "
		 "setfattr -n " FINGERPRINT " -v same tree/file && %s "
		 "mkfs.erofs --quiet --xattr-prefix=" FINGERPRINT " %s.img tree && rm -r tree",
		 name, marked ? "setfattr -n " USER " -v none tree/file &&" : "", name);
	if (system(command))
		die("an image of erofs");
	snprintf(path, sizeof(path), IMAGES "/%s.img", name);
	file = open(path, O_RDWR | O_CLOEXEC);
	if (pread(file, &features, 4, SUPERBLOCK + FEATURE_COMPAT) != 4)
		die("%s", path);
	features &= ~COMPAT_CHECKSUM;
	features |= COMPAT_FINGERPRINTS;
	if (pwrite(file, &features, 4, SUPERBLOCK + FEATURE_COMPAT) != 4 ||
	    pwrite(file, &prefix, 1, SUPERBLOCK + FINGERPRINT_PREFIX) != 1)
		die("%s", path);
	close(file);
	snprintf(command, sizeof(command),
		 "cd " IMAGES " && mount -t erofs -o ro,loop,inode_share,domain_id=test %s.img %s",
		 name, name);
	if (system(command))
		die("%s", command);
}

static char *map_image(const char *name)
{
	char path[64], *p;
	int file;

	snprintf(path, sizeof(path), IMAGES "/%s/file", name);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		die("%s", path);
	p = map_file(file, PROT_READ, MAP_SHARED);
	close(file);
	return p;
}

TEST(file_that_shares_its_pages_is_asked)
{
	char *plain, *marked;
	int file, fd = pm_open();
	struct stat st;

	ASSERT_EQ(0, system("modprobe -a loop erofs"));
	ASSERT_EQ(0, mkdir(IMAGES, 0755));
	file = open(IMAGES "/data", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	ASSERT_LE(0, file);
	file_fill(file, N, 1, &mem[0], 1);
	ASSERT_EQ(0, fsync(file));
	close(file);
	make_image("plain", false);
	make_image("marked", true);
	ASSERT_EQ(0, stat(IMAGES "/marked/file", &st));
	ASSERT_EQ(N * PAGE, st.st_size);

	bind_to(mem[0]);
	plain = map_image("plain");
	marked = map_image("marked");
	bind_to(-1);
	/* It is the same page: it shows in both that it has moved. */
	ASSERT_EQ(pfn_of(plain), pfn_of(marked));
	for (int i = 0; i < 2; i++) {
		EXPECT_TRUE(all_stay(_metadata, fd, marked));
		EXPECT_FALSE(all_stay(_metadata, fd, plain));
	}
	EXPECT_EQ(0, bad_pages(plain, N, 1));
	munmap(plain, N * PAGE);
	munmap(marked, N * PAGE);
	EXPECT_EQ(0, system("umount " IMAGES "/plain " IMAGES "/marked && rm -r " IMAGES));
}

TEST_HARNESS_MAIN
