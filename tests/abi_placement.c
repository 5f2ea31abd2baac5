// SPDX-License-Identifier: GPL-2.0
/* PLACEMENT: how many pages are on each node, against what others see. */
#include "harness.h"
#include "util.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#define NPAGES 40

FIXTURE(placement)
{
	int fd, ids;
	char *p;
	uint64_t pages[MAX_NODES + 8];
	struct page_migrate_placement arg;
};

/* Ten pages on each of four nodes. */
FIXTURE_SETUP(placement)
{
	self->fd = pm_open();
	self->ids = nr_node_ids();
	self->p = map_nodes(NPAGES, mem, 4);
	self->arg = (struct page_migrate_placement){
		.va_start = (uintptr_t)self->p,
		.len = NPAGES * PAGE,
		.count = self->ids,
		.pages = (uintptr_t)self->pages,
	};
}

FIXTURE_TEARDOWN(placement)
{
	/* Looking moves nothing, and the call that was changed was a good one. */
	EXPECT_TRUE(all_on(0, self->p, NPAGES, mem, 4));
	EXPECT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &self->arg));
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(NPAGES / 4, self->pages[mem[i]]);
}

static long look(FIXTURE_DATA(placement) *self, const void *va, uint64_t len)
{
	struct page_migrate_placement arg = self->arg;

	arg.va_start = (uintptr_t)va;
	arg.len = len;
	memset(self->pages, 0xff, sizeof(self->pages));
	return pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg);
}

static uint64_t total(FIXTURE_DATA(placement) *self)
{
	uint64_t sum = 0;

	for (int i = 0; i < self->ids; i++)
		sum += self->pages[i];
	return sum;
}

TEST_F(placement, counts)
{
	ASSERT_EQ(0, look(self, self->p, NPAGES * PAGE));
	for (int i = 0; i < self->ids; i++)
		EXPECT_EQ(count_on(0, self->p, NPAGES, i), self->pages[i]);
	EXPECT_EQ(NPAGES, total(self));
	/* Not an entry more than count. */
	EXPECT_EQ(UINT64_MAX, self->pages[self->ids]);
}

TEST_F(placement, ranges)
{
	ASSERT_EQ(0, look(self, self->p + PAGE, 1));
	EXPECT_EQ(1, self->pages[mem[1]]);
	EXPECT_EQ(1, total(self));
	ASSERT_EQ(0, look(self, self->p + PAGE, PAGE + 1));
	EXPECT_EQ(1, self->pages[mem[1]]);
	EXPECT_EQ(1, self->pages[mem[2]]);
	EXPECT_EQ(2, total(self));
	ASSERT_EQ(0, look(self, self->p, 0));
	EXPECT_EQ(0, total(self));
	EXPECT_EQ(0, self->pages[mem[0]]);
	/* Past the end of the address space. */
	ASSERT_EQ(0, look(self, (void *)(1ULL << 63), ~0ULL));
	EXPECT_EQ(0, total(self));
	/* Over the hole on each side. */
	ASSERT_EQ(0, look(self, self->p - PAGE, (NPAGES + 2) * PAGE));
	EXPECT_EQ(NPAGES, total(self));
	/* A hole within. */
	ASSERT_EQ(0, madvise(self->p + 4 * PAGE, 2 * PAGE, MADV_DONTNEED));
	ASSERT_EQ(0, look(self, self->p, NPAGES * PAGE));
	EXPECT_EQ(NPAGES - 2, total(self));
	EXPECT_EQ(NPAGES / 4 - 1, self->pages[mem[0]]);
	EXPECT_EQ(NPAGES / 4 - 1, self->pages[mem[1]]);
	place_pages(self->p + 4 * PAGE, 2, mem, 2);
}

TEST_F(placement, huge_pages)
{
	char *h = map_thp(2, mem[3]);

	if (!has_thp())
		SKIP(return, NO_THP);
	ASSERT_EQ(0, look(self, h, 2 * HPAGE));
	EXPECT_EQ(2 * HPAGE_NR, self->pages[mem[3]]);
	EXPECT_EQ(2 * HPAGE_NR, total(self));
	/* Part of one, and across two: what is in the range counts. */
	ASSERT_EQ(0, look(self, h + 3 * PAGE, 5 * PAGE));
	EXPECT_EQ(5, self->pages[mem[3]]);
	ASSERT_EQ(0, look(self, h + HPAGE - 3 * PAGE, 7 * PAGE));
	EXPECT_EQ(7, self->pages[mem[3]]);
	EXPECT_EQ(7, total(self));
	EXPECT_EQ(2 * HPAGE / 1024, smaps_kb(0, h, "AnonHugePages"));
}

/* One page, two addresses: counted for each. */
TEST_F(placement, mapped_twice)
{
	int memfd = syscall(SYS_memfd_create, "pm", 0);
	char *p;

	ASSERT_LE(0, memfd);
	ASSERT_EQ(0, ftruncate(memfd, 8 * PAGE));
	p = mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)p);
	for (int i = 0; i < 2; i++)
		ASSERT_NE(MAP_FAILED, mmap(p + i * 8 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_FIXED, memfd, 0));
	place_pages(p, 16, mem, 2);
	ASSERT_EQ(pfn_of(p), pfn_of(p + 8 * PAGE));
	ASSERT_EQ(0, look(self, p, 16 * PAGE));
	EXPECT_EQ(8, self->pages[mem[0]]);
	EXPECT_EQ(8, self->pages[mem[1]]);
	EXPECT_EQ(16, total(self));
}

/* A mark keeps a page where it is; it does not hide it. */
TEST_F(placement, marked_file)
{
	char path[] = "/dev/shm/pm-placement-XXXXXX";
	struct page_migrate_result res;
	int file = mkstemp(path);
	char *p;

	ASSERT_LE(0, file);
	EXPECT_EQ(0, fsetxattr(file, "trusted.migrate", "none", 4, 0));
	ASSERT_EQ(0, unlink(path));
	ASSERT_EQ(0, ftruncate(file, 8 * PAGE));
	p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	ASSERT_NE(MAP_FAILED, (void *)p);
	place_pages(p, 8, &mem[1], 1);
	/* The mark does hold. */
	ASSERT_EQ(0, pm_move(self->fd, 0, p, 8 * PAGE, 0, 1, &mem[1], &mem[2], &res));
	EXPECT_EQ(8, res.exempt);
	EXPECT_TRUE(all_on(0, p, 8, &mem[1], 1));
	ASSERT_EQ(0, look(self, p, 8 * PAGE));
	EXPECT_EQ(8, self->pages[mem[1]]);
	EXPECT_EQ(8, total(self));
}

TEST_F(placement, zero_pages)
{
	volatile char *p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, (void *)p);
	ASSERT_EQ(0, advise((void *)p, 8 * PAGE, MADV_NOHUGEPAGE));
	for (int i = 0; i < 8; i++)
		ASSERT_EQ(0, p[i * PAGE]);
	ASSERT_TRUE(pagemap_of(0, (void *)p) >> 63);
	ASSERT_EQ(0, look(self, (void *)p, 8 * PAGE));
	EXPECT_EQ(0, total(self));
	p[PAGE] = 1;
	ASSERT_EQ(0, look(self, (void *)p, 8 * PAGE));
	EXPECT_EQ(1, total(self));
}

/* Addresses of the mappings that are the kernel's own. */
static bool is_special(pid_t pid, unsigned long addr)
{
	unsigned long start;
	bool found = false;
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	if (!f)
		die("%s", path);
	while (fgets(line, sizeof(line), f))
		if ((strstr(line, "[vdso]") || strstr(line, "[vvar") ||
		     strstr(line, "[vsyscall]")) &&
		    sscanf(line, "%lx", &start) == 1 && start == addr)
			found = true;
	fclose(f);
	return found;
}

static void numa_maps_total(pid_t pid, uint64_t *pages)
{
	char path[64], line[4096], *p;
	FILE *f;

	memset(pages, 0, MAX_NODES * sizeof(*pages));
	snprintf(path, sizeof(path), "/proc/%d/numa_maps", pid);
	f = fopen(path, "re");
	if (!f)
		die("%s", path);
	while (fgets(line, sizeof(line), f)) {
		if (is_special(pid, strtoul(line, NULL, 16)))
			continue;
		for (p = line; (p = strstr(p, " N")); p++) {
			int node;
			unsigned long n;

			if (sscanf(p, " N%d=%lu", &node, &n) == 2)
				pages[node] += n;
		}
	}
	fclose(f);
}

static void hold(struct child *c, void *arg)
{
	char *p = map_nodes(400, mem, 4), *h = map_thp(1, mem[2]);

	(void)arg;
	(void)h;
	child_put(c, (uintptr_t)p);
	pause();
}

/* All of another process, against numa_maps, node by node. */
TEST_F(placement, whole_process)
{
	struct page_migrate_placement arg = self->arg;
	uint64_t want[MAX_NODES];
	struct child c;

	child_start(&c, hold, NULL);
	child_get(&c);
	ASSERT_EQ(0, kill(c.pid, SIGSTOP));
	ASSERT_EQ(c.pid, waitpid(c.pid, NULL, WUNTRACED));
	numa_maps_total(c.pid, want);
	EXPECT_LE(100 + HPAGE_NR, want[mem[2]]);
	arg.pid = c.pid;
	arg.va_start = 0;
	arg.len = ~0ULL;
	memset(self->pages, 0xff, sizeof(self->pages));
	ASSERT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg));
	for (int i = 0; i < self->ids; i++) {
		EXPECT_EQ(want[i], self->pages[i])
			TH_LOG("node %d", i);
	}

	/* By pidfd it is the same process. */
	arg.pid = syscall(SYS_pidfd_open, c.pid, 0);
	ASSERT_LE(0, arg.pid);
	arg.flags = PAGE_MIGRATE_PIDFD;
	memset(self->pages, 0xff, sizeof(self->pages));
	ASSERT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg));
	for (int i = 0; i < self->ids; i++)
		EXPECT_EQ(want[i], self->pages[i]);
	child_end(&c);
}

/* After a move the counts follow. */
TEST_F(placement, follows_a_move)
{
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, NPAGES * PAGE, 0, 2,
			     (int[]){ mem[0], mem[1] }, (int[]){ mem[1], mem[0] }, NULL));
	ASSERT_EQ(0, pm_move(self->fd, 0, self->p, NPAGES * PAGE, 0, 1, &mem[2], &mem[3], NULL));
	ASSERT_EQ(0, look(self, self->p, NPAGES * PAGE));
	EXPECT_EQ(10, self->pages[mem[0]]);
	EXPECT_EQ(10, self->pages[mem[1]]);
	EXPECT_EQ(0, self->pages[mem[2]]);
	EXPECT_EQ(20, self->pages[mem[3]]);
	/* Back to where the end of the test wants them. */
	munmap(self->p, NPAGES * PAGE);
	self->p = map_nodes(NPAGES, mem, 4);
	self->arg.va_start = (uintptr_t)self->p;
}

/* Entries from max_nodes on are 0, and none is written behind count. */
TEST_F(placement, long_list)
{
	struct page_migrate_placement arg = self->arg;

	arg.count = self->ids + 3;
	memset(self->pages, 0xff, sizeof(self->pages));
	ASSERT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg));
	EXPECT_EQ(NPAGES, total(self));
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, self->pages[self->ids + i]);
	EXPECT_EQ(UINT64_MAX, self->pages[self->ids + 3]);
}

#define REFUSED(err, change) do {					\
	struct page_migrate_placement arg = self->arg;			\
									\
	change;								\
	EXPECT_EQ(err, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg)) \
		TH_LOG("case of line %d", __LINE__);			\
	arg.len = 0;							\
	EXPECT_EQ(err, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg)) \
		TH_LOG("case of line %d, empty range", __LINE__);	\
} while (0)

TEST_F(placement, einval)
{
	for (int bit = 1; bit < 32; bit++)
		REFUSED(-EINVAL, arg.flags = 1U << bit);
	REFUSED(-EINVAL, arg.reserved0 = 1);
	REFUSED(-EINVAL, arg.reserved[0] = 1);
	REFUSED(-EINVAL, arg.reserved[1] = 1);
	REFUSED(-EINVAL, arg.reserved[2] = 1ULL << 63);
	REFUSED(-EINVAL, arg.va_start++);
	REFUSED(-EINVAL, arg.va_start = ~0ULL);
	REFUSED(-EINVAL, arg.count = self->ids - 1);
	REFUSED(-EINVAL, arg.count = 0);
	REFUSED(-EINVAL, arg.pid = 2);
}

TEST_F(placement, efault)
{
	char *edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *ro = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, (void *)edge);
	ASSERT_NE(MAP_FAILED, ro);
	ASSERT_EQ(0, munmap(edge + PAGE, PAGE));
	EXPECT_EQ(-EFAULT, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, NULL));
	EXPECT_EQ(-EFAULT, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, edge + PAGE - 56));
	REFUSED(-EFAULT, arg.pages = 0);
	REFUSED(-EFAULT, arg.pages = -PAGE);
	REFUSED(-EFAULT, arg.pages = (uintptr_t)ro);
	REFUSED(-EFAULT, arg.pages = (uintptr_t)edge + PAGE - 8 * (self->ids - 1));
	/* Exactly as much room as is needed. */
	{
		struct page_migrate_placement arg = self->arg;

		arg.pages = (uintptr_t)edge + PAGE - 8 * self->ids;
		EXPECT_EQ(0, pm_ioctl(self->fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg));
		EXPECT_EQ(10, ((uint64_t *)(uintptr_t)arg.pages)[mem[0]]);
	}
}

TEST_F(placement, esrch_and_ebadf)
{
	pid_t pid = fork();
	siginfo_t info;
	int pidfd;

	if (!pid)
		_exit(0);
	ASSERT_LT(0, pid);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	ASSERT_LE(0, pidfd);
	ASSERT_EQ(0, waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
	REFUSED(-ESRCH, arg.pid = pid);
	REFUSED(-ESRCH, arg.pid = pidfd; arg.flags = PAGE_MIGRATE_PIDFD);
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	REFUSED(-ESRCH, arg.pid = pid);
	REFUSED(-ESRCH, arg.pid = pidfd; arg.flags = PAGE_MIGRATE_PIDFD);
	REFUSED(-ESRCH, arg.pid = -1);
	REFUSED(-ESRCH, arg.pid = INT_MIN);
	REFUSED(-EBADF, arg.pid = -1; arg.flags = PAGE_MIGRATE_PIDFD);
	REFUSED(-EBADF, arg.pid = -10000; arg.flags = PAGE_MIGRATE_PIDFD);
	REFUSED(-EBADF, arg.pid = 1000; arg.flags = PAGE_MIGRATE_PIDFD);
	REFUSED(-EBADF, arg.pid = self->fd; arg.flags = PAGE_MIGRATE_PIDFD);
}

static void as_nobody(struct child *c, void *arg)
{
	struct page_migrate_placement req = *(struct page_migrate_placement *)arg;
	uint64_t pages[MAX_NODES] = { };
	char *p = map_node(12, mem[3]);
	int fd;

	drop_to(NOBODY);
	fd = pm_open();
	req.pages = (uintptr_t)pages;
	child_put(c, pm_ioctl(fd, PAGE_MIGRATE_IOC_PLACEMENT, &req));
	/* The caller itself it may look at. */
	child_put(c, pm_placement(fd, 0, p, 12 * PAGE, pages));
	child_put(c, pages[mem[3]]);
	child_put(c, pm_placement(fd, getpid(), p, 12 * PAGE, pages));
	/* Pages that others map as well are there, too. */
	child_put(c, pm_placement(fd, 0, (void *)req.va_start, req.len, pages));
	child_put(c, pages[mem[0]]);
}

TEST_F(placement, permission)
{
	struct page_migrate_placement arg = self->arg;
	struct child c;

	arg.pid = getpid();
	child_start(&c, as_nobody, &arg);
	EXPECT_EQ(-EPERM, (long)child_get(&c));
	EXPECT_EQ(0, (long)child_get(&c));
	EXPECT_EQ(12, child_get(&c));
	EXPECT_EQ(0, (long)child_get(&c));
	EXPECT_EQ(0, (long)child_get(&c));
	EXPECT_EQ(10, child_get(&c));
	child_end(&c);
}

TEST_HARNESS_MAIN
