// SPDX-License-Identifier: GPL-2.0
/* Numbers, layouts, INFO, the device node, and the 32-bit way in. */
#include "harness.h"
#include "util.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* The contract, in numbers: a program compiled once must run for ever. */
_Static_assert(sizeof(struct page_migrate_info) == 64, "info");
_Static_assert(sizeof(struct page_migrate_result) == 112, "result");
_Static_assert(sizeof(struct page_migrate_request) == 192, "request");
_Static_assert(sizeof(struct page_migrate_placement) == 64, "placement");
_Static_assert(_Alignof(struct page_migrate_request) == 8, "alignment");
_Static_assert(PAGE_MIGRATE_NODE_ANY == -1, "ANY");
_Static_assert(PAGE_MIGRATE_PIDFD == 1, "PIDFD");
_Static_assert(PAGE_MIGRATE_DRY_RUN == 2, "DRY_RUN");
_Static_assert(PAGE_MIGRATE_EXCLUSIVE == 8, "EXCLUSIVE");
_Static_assert(PAGE_MIGRATE_STRICT == 32, "STRICT");

#define AT(type, field, offset, size)					\
	_Static_assert(offsetof(struct type, field) == (offset) &&	\
		       sizeof(((struct type *)0)->field) == (size),	\
		       #type "." #field)

AT(page_migrate_info, max_nodes, 0, 4);
AT(page_migrate_info, max_workers, 4, 4);
AT(page_migrate_info, flags, 8, 8);
AT(page_migrate_info, reserved, 16, 48);

AT(page_migrate_request, pid, 0, 4);
AT(page_migrate_request, flags, 4, 4);
AT(page_migrate_request, va_start, 8, 8);
AT(page_migrate_request, len, 16, 8);
AT(page_migrate_request, count, 24, 4);
AT(page_migrate_request, workers, 28, 4);
AT(page_migrate_request, old_nodes, 32, 8);
AT(page_migrate_request, new_nodes, 40, 8);
AT(page_migrate_request, moved_by_pair, 48, 8);
AT(page_migrate_request, max_pages, 56, 8);
AT(page_migrate_request, reserved, 64, 16);
AT(page_migrate_request, result, 80, 112);

AT(page_migrate_result, moved, 0, 8);
AT(page_migrate_result, moved_fallback, 8, 8);
AT(page_migrate_result, already_moved, 16, 8);
AT(page_migrate_result, in_place, 24, 8);
AT(page_migrate_result, exempt, 32, 8);
AT(page_migrate_result, shared, 40, 8);
AT(page_migrate_result, busy, 48, 8);
AT(page_migrate_result, pinned, 56, 8);
AT(page_migrate_result, unmovable, 64, 8);
AT(page_migrate_result, no_memory, 72, 8);
AT(page_migrate_result, policies, 80, 8);
AT(page_migrate_result, resume_va, 88, 8);
AT(page_migrate_result, gone, 96, 8);
AT(page_migrate_result, reserved, 104, 8);

AT(page_migrate_placement, pid, 0, 4);
AT(page_migrate_placement, flags, 4, 4);
AT(page_migrate_placement, va_start, 8, 8);
AT(page_migrate_placement, len, 16, 8);
AT(page_migrate_placement, count, 24, 4);
AT(page_migrate_placement, reserved0, 28, 4);
AT(page_migrate_placement, pages, 32, 8);
AT(page_migrate_placement, reserved, 40, 24);

/* The numbers written out: _IOC(dir, 0xB9, nr, size). */
#define NR_INFO 0x8040b900UL
#define NR_MIGRATE 0xc0c0b901UL
#define NR_PLACEMENT 0xc040b902UL

TEST(numbers)
{
	EXPECT_EQ(NR_INFO, (unsigned long)PAGE_MIGRATE_IOC_INFO & 0xffffffff);
	EXPECT_EQ(NR_MIGRATE, (unsigned long)PAGE_MIGRATE_IOC_MIGRATE & 0xffffffff);
	EXPECT_EQ(NR_PLACEMENT, (unsigned long)PAGE_MIGRATE_IOC_PLACEMENT & 0xffffffff);
}

static void check_info(struct __test_metadata *_metadata, const struct page_migrate_info *info)
{
	EXPECT_EQ(nr_node_ids(), info->max_nodes);
	EXPECT_LE(1, info->max_workers);
	EXPECT_EQ(PAGE_MIGRATE_PIDFD | PAGE_MIGRATE_DRY_RUN | PAGE_MIGRATE_KEEP_POLICY |
		  PAGE_MIGRATE_EXCLUSIVE | PAGE_MIGRATE_NEW_JOB | PAGE_MIGRATE_STRICT, info->flags);
	for (size_t i = 0; i < ARRAY_LEN(info->reserved); i++)
		EXPECT_EQ(0, info->reserved[i]);
}

TEST(info)
{
	struct {
		struct page_migrate_info info;
		uint8_t after[64];
	} arg;
	int fd = pm_open();

	memset(&arg, 0xa5, sizeof(arg));
	ASSERT_EQ(0, pm_ioctl(fd, NR_INFO, &arg.info));
	check_info(_metadata, &arg.info);
	/* And not a byte more than the structure. */
	for (size_t i = 0; i < sizeof(arg.after); i++)
		ASSERT_EQ(0xa5, arg.after[i]);
}

/* What it names as the largest number of workers is accepted, and is the largest. */
TEST(max_workers)
{
	enum { N = 3000 };
	char *p = map_node(N, mem[0]);
	struct page_migrate_request req = pm_req(0, p, N * PAGE, 1, &mem[0], &mem[1]);
	struct page_migrate_info info;
	int fd = pm_open();

	ASSERT_EQ(0, pm_ioctl(fd, NR_INFO, &info));
	req.workers = info.max_workers + 1;
	EXPECT_EQ(-EINVAL, pm_migrate(fd, &req));
	EXPECT_TRUE(all_on(0, p, N, &mem[0], 1));
	req.workers = info.max_workers;
	EXPECT_EQ(0, pm_migrate(fd, &req)) pm_print(&req.result);
	EXPECT_EQ(N, req.result.moved);
	EXPECT_TRUE(all_on(0, p, N, &mem[1], 1));
}

TEST(info_in_any_open_mode)
{
	static const int modes[] = { O_RDONLY, O_WRONLY, O_RDWR };
	struct page_migrate_info info;

	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		int fd = open(PM_DEVICE, modes[i] | O_CLOEXEC);

		ASSERT_LE(0, fd);
		memset(&info, 0xa5, sizeof(info));
		EXPECT_EQ(0, pm_ioctl(fd, NR_INFO, &info));
		check_info(_metadata, &info);
		close(fd);
	}
}

TEST(info_as_nobody)
{
	struct page_migrate_info info;
	int fd;

	drop_to(NOBODY);
	fd = pm_open();
	memset(&info, 0xa5, sizeof(info));
	ASSERT_EQ(0, pm_ioctl(fd, NR_INFO, &info));
	check_info(_metadata, &info);
}

TEST(info_efault)
{
	int fd = pm_open();
	void *ro = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, ro);
	ASSERT_NE(MAP_FAILED, (void *)edge);
	ASSERT_EQ(0, munmap(edge + PAGE, PAGE));
	EXPECT_EQ(-EFAULT, pm_ioctl(fd, NR_INFO, NULL));
	EXPECT_EQ(-EFAULT, pm_ioctl(fd, NR_INFO, (void *)(-PAGE)));
	EXPECT_EQ(-EFAULT, pm_ioctl(fd, NR_INFO, ro));
	/* The last byte is beyond the mapping. */
	EXPECT_EQ(-EFAULT, pm_ioctl(fd, NR_INFO, edge + PAGE - 63));
	EXPECT_EQ(0, pm_ioctl(fd, NR_INFO, edge + PAGE - 64));
}

TEST(device_node)
{
	struct stat st;

	ASSERT_EQ(0, stat(PM_DEVICE, &st));
	EXPECT_EQ(S_IFCHR, st.st_mode & S_IFMT);
	EXPECT_EQ(0666, st.st_mode & 07777);
	EXPECT_EQ(0, st.st_uid);
	EXPECT_EQ(10, major(st.st_rdev));
}

/* Each of these is one step away from a number that is known. */
TEST(unknown_numbers)
{
	static const unsigned long nrs[] = {
		0, 1, 0xb900, 0xb901,
		_IO(0xb9, 0), _IO(0xb9, 1), _IO(0xb9, 2), _IO(0xb9, 3),
		_IOR(0xb9, 3, struct page_migrate_info),
		_IOWR(0xb9, 3, struct page_migrate_request),
		_IOR(0xb9, 0xff, struct page_migrate_info),
		_IOR(0xb8, 0, struct page_migrate_info),
		_IOWR(0xba, 1, struct page_migrate_request),
		/* The direction and the size are part of the number. */
		_IOW(0xb9, 0, struct page_migrate_info),
		_IOWR(0xb9, 0, struct page_migrate_info),
		_IOR(0xb9, 1, struct page_migrate_request),
		_IOW(0xb9, 1, struct page_migrate_request),
		_IOR(0xb9, 2, struct page_migrate_placement),
		_IOR(0xb9, 0, struct { uint64_t x[7]; }),
		_IOWR(0xb9, 1, struct { uint64_t x[23]; }),
		_IOWR(0xb9, 1, struct { uint64_t x[25]; }),
		_IOWR(0xb9, 2, struct { uint64_t x[9]; }),
		0x5401 /* TCGETS */,
	};
	union {
		struct page_migrate_request req;
		uint8_t bytes[512];
	} arg, before;
	int fd = pm_open();
	/* A request that would move, if a wrong number were taken for a right one. */
	char *p = map_node(4, mem[0]);

	memset(&arg, 0, sizeof(arg));
	arg.req = pm_req(0, p, 4 * PAGE, 1, &mem[0], &mem[1]);
	before = arg;
	for (size_t i = 0; i < ARRAY_LEN(nrs); i++) {
		EXPECT_EQ(-ENOTTY, pm_ioctl(fd, nrs[i], &arg))
			TH_LOG("number %#lx", nrs[i]);
		EXPECT_EQ(0, memcmp(&arg, &before, sizeof(arg)));
	}
	EXPECT_TRUE(all_on(0, p, 4, &mem[0], 1));
	/* And the right one does move. */
	EXPECT_EQ(0, pm_ioctl(fd, NR_MIGRATE, &arg));
	EXPECT_TRUE(all_on(0, p, 4, &mem[1], 1));
}

/*
 * The 32-bit way in. int 0x80 from a 64-bit program takes the kernel's path
 * for 32-bit callers, structures and all; pointers must be below 4 GB.
 */
static long ioctl32(int fd, unsigned int nr, void *arg)
{
	long ret;

	asm volatile("int $0x80"
		     : "=a"(ret)
		     : "0"(54L /* ioctl */), "b"((long)fd), "c"((long)nr), "d"(arg)
		     : "memory", "r8", "r9", "r10", "r11", "cc");
	return (int)ret;
}

TEST(caller_of_32_bits)
{
	struct {
		struct page_migrate_info info;
		struct page_migrate_request req;
		struct page_migrate_placement place;
		int old[2], new[2];
		uint64_t by_pair[2];
		uint64_t pages[MAX_NODES];
	} *low;
	int fd = pm_open();
	char *p;

	low = mmap(NULL, sizeof(*low), PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)low);
	memset(low, 0xa5, sizeof(*low));

	ASSERT_EQ(0, ioctl32(fd, NR_INFO, &low->info));
	check_info(_metadata, &low->info);

	p = map_nodes(8, mem, 2);
	low->old[0] = mem[0];
	low->old[1] = mem[1];
	low->new[0] = mem[2];
	low->new[1] = mem[3];
	low->req = pm_req(0, p, 8 * PAGE, 2, low->old, low->new);
	low->req.moved_by_pair = (uintptr_t)low->by_pair;
	pm_poison(&low->req.result);
	ASSERT_EQ(0, ioctl32(fd, NR_MIGRATE, &low->req));
	EXPECT_EQ(8, low->req.result.moved);
	EXPECT_EQ(4, low->by_pair[0]);
	EXPECT_EQ(4, low->by_pair[1]);
	EXPECT_TRUE(all_on(0, p, 8, &mem[2], 2));

	low->place = (struct page_migrate_placement){
		.va_start = (uintptr_t)p,
		.len = 8 * PAGE,
		.count = MAX_NODES,
		.pages = (uintptr_t)low->pages,
	};
	ASSERT_EQ(0, ioctl32(fd, NR_PLACEMENT, &low->place));
	EXPECT_EQ(4, low->pages[mem[2]]);
	EXPECT_EQ(4, low->pages[mem[3]]);
	EXPECT_EQ(-ENOTTY, ioctl32(fd, _IO(0xb9, 0), &low->info));
}

TEST_HARNESS_MAIN
