// SPDX-License-Identifier: GPL-2.0
/* What a program can watch: fdinfo of the open file, also during a call. */
#include "harness.h"
#include "util.h"

#include <inttypes.h>
#include <pthread.h>
#include <sys/mman.h>
#include <linux/capability.h>

#define NPAGES 64

struct info {
	uint64_t moved, left, va, running;
};

/* Each of the four is there, once, on a line of its own, and in its format. */
static bool look(pid_t pid, int fd, struct info *info)
{
	static const char *const keys[] = { "moved:", "left:", "va:", "running:" };
	uint64_t *values[] = { &info->moved, &info->left, &info->va, &info->running };
	char path[64], buf[4096], *line, *save = NULL;
	int seen[4] = { };

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
			size_t n = strlen(keys[i]);
			char *p, *end;

			if (strncmp(line, keys[i], n))
				continue;
			p = line + n + strspn(line + n, " \t");
			if (!strcmp(keys[i], "va:") && strncmp(p, "0x", 2)) {
				fprintf(stderr, "# not hexadecimal: %s\n", line);
				return false;
			}
			*values[i] = strtoull(p, &end, strcmp(keys[i], "va:") ? 10 : 16);
			if (end == p || *end) {
				fprintf(stderr, "# not a number: %s\n", line);
				return false;
			}
			seen[i]++;
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		if (seen[i] != 1) {
			fprintf(stderr, "# %s is there %d times\n", keys[i], seen[i]);
			return false;
		}
	}
	return info->running <= 1;
}

TEST(fresh_file)
{
	int fd = pm_open();
	struct info info;

	ASSERT_TRUE(look(getpid(), fd, &info));
	EXPECT_EQ(0, info.moved);
	EXPECT_EQ(0, info.left);
	EXPECT_EQ(0, info.running);
}

TEST(after_a_call)
{
	int fd = pm_open(), other = pm_open();
	char *p = map_node(NPAGES, mem[0]);
	struct info info, before;

	ASSERT_TRUE(look(getpid(), fd, &before));
	/* A dry run leaves no trace. */
	ASSERT_EQ(0, pm_move(fd, 0, p, NPAGES * PAGE, PAGE_MIGRATE_DRY_RUN, 1,
			     &mem[0], &mem[2], NULL));
	ASSERT_TRUE(look(getpid(), fd, &info));
	EXPECT_EQ(0, memcmp(&before, &info, sizeof(info)));

	ASSERT_EQ(0, pm_move(fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], NULL));
	ASSERT_TRUE(look(getpid(), fd, &info));
	EXPECT_EQ(NPAGES, info.moved);
	EXPECT_EQ(0, info.left);
	EXPECT_EQ((uintptr_t)p + NPAGES * PAGE, info.va);
	EXPECT_EQ(0, info.running);
	/* Another open file is another job. */
	ASSERT_TRUE(look(getpid(), other, &info));
	EXPECT_EQ(0, info.moved);
}

static void map_too(struct child *c, void *arg)
{
	volatile char *p = arg;
	char sum = 0;

	for (size_t i = 0; i < NPAGES; i++)
		sum += p[i * PAGE];
	child_put(c, sum);
}

TEST(left_behind)
{
	int fd = pm_open();
	char *p = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct child c;
	struct info info;

	ASSERT_NE(MAP_FAILED, (void *)p);
	place_pages(p, NPAGES, &mem[0], 1);
	child_start(&c, map_too, p);
	child_get(&c);
	ASSERT_EQ(NPAGES, pm_move(fd, 0, p, NPAGES * PAGE, PAGE_MIGRATE_EXCLUSIVE, 1,
				  &mem[0], &mem[2], NULL));
	ASSERT_TRUE(look(getpid(), fd, &info));
	EXPECT_EQ(0, info.moved);
	EXPECT_EQ(NPAGES, info.left);
	/* What is left is that of the last call. */
	ASSERT_EQ(0, pm_move(fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], NULL));
	ASSERT_TRUE(look(getpid(), fd, &info));
	EXPECT_EQ(NPAGES, info.moved);
	EXPECT_EQ(0, info.left);
	child_end(&c);
}

/* Stopped early, va is where it stopped. */
TEST(limited)
{
	enum { BIG = 12000 };
	char *p = map_node(BIG, mem[1]);
	struct page_migrate_request req = pm_req(0, p, BIG * PAGE, 1, &mem[1], &mem[2]);
	int fd = pm_open();
	struct info info;

	req.max_pages = 100;
	ASSERT_EQ(0, pm_migrate(fd, &req));
	ASSERT_GT((uintptr_t)p + BIG * PAGE, req.result.resume_va);
	ASSERT_TRUE(look(getpid(), fd, &info));
	EXPECT_EQ(req.result.moved, info.moved);
	EXPECT_EQ(req.result.resume_va, info.va);
	EXPECT_EQ(0, info.running);
}

struct mover {
	int fd;
	char *p;
	size_t npages;
	long ret;
	volatile bool done;
};

static void *move_it(void *arg)
{
	struct mover *m = arg;

	m->ret = pm_move(m->fd, 0, m->p, m->npages * PAGE, 0, 1, &mem[1], &mem[2], NULL);
	m->done = true;
	return NULL;
}

/* Read while a call is at work: it must not wait for the call's end. */
TEST(during_a_call)
{
	struct mover m = { .fd = pm_open(), .npages = 24576 };
	uint64_t moved = 0, va = 0;
	struct info info;
	int running = 0, grown = 0;
	pthread_t t;

	m.p = map_node(m.npages, mem[1]);
	ASSERT_EQ(0, pthread_create(&t, NULL, move_it, &m));
	while (!m.done) {
		ASSERT_TRUE(look(getpid(), m.fd, &info));
		if (info.running) {
			running++;
			EXPECT_LE(moved, info.moved);
			grown += info.moved > moved && info.moved < m.npages;
			moved = info.moved;
			EXPECT_LE(va, info.va);
			EXPECT_GE((uintptr_t)m.p + m.npages * PAGE, info.va);
			va = info.va;
		}
		usleep(1000);
	}
	ASSERT_EQ(0, pthread_join(t, NULL));
	EXPECT_EQ(0, m.ret);
	EXPECT_LT(0, running);
	EXPECT_LT(1, grown);
	ASSERT_TRUE(look(getpid(), m.fd, &info));
	EXPECT_EQ(m.npages, info.moved);
	EXPECT_EQ((uintptr_t)m.p + m.npages * PAGE, info.va);
	EXPECT_EQ(0, info.running);
}

/*
 * The file tells its job to whoever has it, the addresses of a target included
 * that this one could not look at itself. To hand it on is to hand that on.
 */
struct handed {
	int fd;
	pid_t pid;
};

static void holder_main(struct child *c, void *arg)
{
	char *p = map_node(NPAGES, mem[0]);

	(void)arg;
	child_put(c, (uintptr_t)p);
}

static void heir_main(struct child *c, void *arg)
{
	const struct handed *h = arg;
	struct info info = { };
	char path[64], buf[256];

	drop_to(NOBODY);
	snprintf(path, sizeof(path), "/proc/%d/maps", h->pid);
	child_put(c, file_read(path, buf, sizeof(buf)));
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", getppid(), h->fd);
	child_put(c, file_read(path, buf, sizeof(buf)));
	child_put(c, look(getpid(), h->fd, &info));
	child_put(c, info.moved);
	child_put(c, info.va);
}

TEST(file_that_root_has_used)
{
	struct handed h = { .fd = pm_open() };
	struct child holder, heir;
	char *p;

	child_start(&holder, holder_main, NULL);
	h.pid = holder.pid;
	p = (char *)child_get(&holder);
	ASSERT_EQ(0, pm_move(h.fd, h.pid, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], NULL));
	child_start(&heir, heir_main, &h);
	EXPECT_EQ(-EACCES, (long)child_get(&heir));
	EXPECT_EQ(-EACCES, (long)child_get(&heir));
	EXPECT_EQ(1, child_get(&heir));
	EXPECT_EQ(NPAGES, child_get(&heir));
	EXPECT_EQ((uintptr_t)p + NPAGES * PAGE, child_get(&heir));
	child_end(&heir);
	child_end(&holder);
}

TEST_HARNESS_MAIN
