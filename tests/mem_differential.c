// SPDX-License-Identifier: GPL-2.0
/*
 * What migrate_pages(2) moves, the module moves. An address space with all kinds
 * of memory is chosen by a seed and built twice, in two processes of the same
 * program. The system call moves the one, the module the other, for the same
 * caller and by the same map of nodes. Then the two are compared page by page,
 * from outside.
 *
 * Environment: PM_SECONDS, how long (60); PM_SEED, where the seeds begin, which
 * go up by one from round to round; PM_KIND, the name of the only kind of memory
 * to build, to find the smallest address space in which the two differ.
 */
#include "harness.h"
#include "mem_util.h"

#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define KSM "/sys/kernel/mm/ksm/"
#define THP "/sys/kernel/mm/transparent_hugepage/"

#define IMAGES SCRATCH "/pm-differential"
#define XFS_DIR IMAGES "/xfs"
#define BLOCKS_DIR IMAGES "/blocks"
#define DISK IMAGES "/disk"

enum {
	PLACES = 4,		/* nodes on which memory is placed */
	MAX_MAPS = 6,
	MAX_AREAS = 64,
	MAX_FILES = 32,
	MTHP_NR = 16,		/* pages of a 64 kB folio */
	POOL = 8,		/* hugetlb pages on each node */
	TRIES = 3,		/* calls of the module on the same range */
	ATTEMPTS = 3,		/* of a seed for which the two differ */
	LEAST_ROUNDS = 3,	/* one for each caller */
	SHOWN = 3,		/* pages of an area that a report names */
	TWIN_IN = 100,		/* descriptors of a twin that it gets by exec */
	TWIN_OUT = 101,
};

/*
 * What follows from a seed.
 */
enum who { ROOT, UNPRIVILEGED, ROOT_WITHOUT_NICE, CALLERS };

static const char *const who_name[CALLERS] = {
	[ROOT] = "root",
	[UNPRIVILEGED] = "user nobody",
	[ROOT_WITHOUT_NICE] = "root without CAP_SYS_NICE",
};

struct plan {
	uint32_t seed;
	enum who who;
	int count, old[2], new[2];
	/* A new node is an old one too: to repeat the system call would move more. */
	bool overlaps;
	/* The module is asked for each mapping by itself, not for the whole process. */
	bool by_range;
	/* The new nodes have free hugetlb pages; if not, they are made by the move. */
	bool pool_on_new;
};

static uint32_t below(uint32_t *rnd, uint32_t n)
{
	return next_random(rnd) % n;
}

/* Neighbouring seeds shall not give similar sequences. */
static uint32_t stream(uint32_t seed, uint32_t nr)
{
	uint32_t rnd = (seed * 2654435761U) ^ (nr * 2246822519U) ^ 0x5bd1e995;

	if (!rnd)
		rnd = 1;
	for (int i = 0; i < 8; i++)
		next_random(&rnd);
	return rnd;
}

static void shuffle(uint32_t *rnd, int *list, int n)
{
	for (int i = n - 1; i > 0; i--) {
		int k = below(rnd, i + 1), was = list[i];

		list[i] = list[k];
		list[k] = was;
	}
}

static void sort(int *list, int n)
{
	for (int i = 1; i < n; i++)
		for (int k = i; k > 0 && list[k - 1] > list[k]; k--) {
			int was = list[k];

			list[k] = list[k - 1];
			list[k - 1] = was;
		}
}

/*
 * The system call takes two sets of nodes and matches them by the order of their
 * numbers, so the lists of the module are sorted to say the same.
 */
static struct plan plan_of(uint32_t seed)
{
	uint32_t rnd = stream(seed, 1000);
	struct plan plan = { .seed = seed, .who = seed % CALLERS, .count = 2 };
	int place[PLACES];

	if (nr_mem < PLACES)
		die("fewer than %d nodes with memory", PLACES);
	for (int i = 0; i < PLACES; i++)
		place[i] = mem[i];
	shuffle(&rnd, place, PLACES);
	switch (below(&rnd, 4)) {
	case 0:
		plan.count = 1;
		plan.old[0] = place[0];
		plan.new[0] = place[1];
		break;
	case 1:
		/* 0 to 1 and 1 to 2, which the system call does in the order that is right. */
		sort(place, 3);
		plan.old[0] = place[0];
		plan.old[1] = plan.new[0] = place[1];
		plan.new[1] = place[2];
		plan.overlaps = true;
		break;
	case 2:
		sort(place, 2);
		plan.old[0] = place[0];
		plan.old[1] = place[1];
		plan.new[0] = plan.new[1] = place[2];
		break;
	default:
		sort(place, 2);
		sort(place + 2, 2);
		for (int i = 0; i < 2; i++) {
			plan.old[i] = place[i];
			plan.new[i] = place[2 + i];
		}
	}
	plan.by_range = below(&rnd, 3) == 0;
	plan.pool_on_new = below(&rnd, 2);
	return plan;
}

static bool is_old(const struct plan *plan, int node)
{
	for (int i = 0; i < plan->count; i++)
		if (plan->old[i] == node)
			return true;
	return false;
}

static int image_of(const struct plan *plan, int node)
{
	for (int i = 0; i < plan->count; i++)
		if (plan->old[i] == node)
			return plan->new[i];
	return node;
}

/*
 * A twin: the process whose memory is moved. What it has built it tells the
 * parent as areas, each of which is one or more mappings of the same kind, also
 * those of processes that it shares them with.
 */
struct map {
	pid_t pid;
	char *p;
	size_t npages;
};

struct area {
	int kind, nr_maps;
	struct map map[MAX_MAPS];
};

struct twin {
	struct plan plan;
	uint32_t rnd;		/* of the area that is being built */
	int nr_areas, nr_sharers, nr_paths;
	struct area area[MAX_AREAS];
	struct child sharer[MAX_AREAS];
	char path[MAX_FILES][128];
};

/* A number from least on, one of so many. */
static size_t some(struct twin *t, size_t least, size_t more)
{
	return least + below(&t->rnd, more);
}

static bool coin(struct twin *t)
{
	return below(&t->rnd, 2);
}

/* Where pages must be placed to be moved. */
static int old_node(struct twin *t)
{
	return t->plan.old[below(&t->rnd, t->plan.count)];
}

/* Mostly on nodes that are emptied, so that there is something to move. */
static int some_node(struct twin *t)
{
	return below(&t->rnd, 4) ? old_node(t) : mem[below(&t->rnd, PLACES)];
}

static void add_map(struct area *a, pid_t pid, char *p, size_t npages)
{
	if (a->nr_maps == MAX_MAPS)
		die("more than %d mappings in an area", MAX_MAPS);
	a->map[a->nr_maps++] = (struct map){ .pid = pid, .p = p, .npages = npages };
}

static void add(struct area *a, char *p, size_t npages)
{
	add_map(a, getpid(), p, npages);
}

/* A write fault that changes nothing. */
static void touch_to_write(char *p)
{
	__atomic_fetch_or(p, 0, __ATOMIC_RELAXED);
}

/* Runs of pages on changing nodes. */
static void scatter(struct twin *t, char *p, size_t npages)
{
	for (size_t i = 0, n; i < npages; i += n) {
		n = some(t, 1, 16);
		if (n > npages - i)
			n = npages - i;
		bind_to(some_node(t));
		for (size_t k = 0; k < n; k++)
			touch_to_write(p + (i + k) * PAGE);
	}
	bind_to(-1);
}

static char *map_small(size_t npages, int flags, int fd)
{
	char *p = reserve(npages);

	map_fixed(p, npages, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (advise(p, npages * PAGE, MADV_NOHUGEPAGE))
		die("madvise");
	return p;
}

/* Small anonymous pages on several nodes, with contents. */
static char *filled(struct twin *t, size_t npages)
{
	char *p = map_small(npages, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	scatter(t, p, npages);
	fill(p, npages, next_random(&t->rnd));
	return p;
}

/*
 * Huge pages. Where the kernel has none to give, the small ones that it gives
 * instead are on the same node.
 */
static char *filled_thp(struct twin *t, size_t nhuge)
{
	char *p = lazy_map(nhuge * HPAGE_NR, MADV_HUGEPAGE);

	for (size_t i = 0; i < nhuge; i++) {
		bind_to(some_node(t));
		for (size_t k = 0; k < HPAGE_NR; k++)
			touch_to_write(p + i * HPAGE + k * PAGE);
	}
	bind_to(-1);
	fill(p, nhuge * HPAGE_NR, next_random(&t->rnd));
	return p;
}

/* A part of a mapping, of n pages, that the seed chooses. */
static char *part(struct twin *t, char *p, size_t npages, size_t *n)
{
	size_t first = below(&t->rnd, npages);

	*n = some(t, 1, npages - first);
	return p + first * PAGE;
}

static bool build_small(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 160), cold;
	char *p = filled(t, n), *q = part(t, p, n, &cold);

	if (coin(t) && madvise(q, cold * PAGE, MADV_COLD))
		die("MADV_COLD");
	add(a, p, n);
	return true;
}

static bool build_bound(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 100);
	char *p = map_small(n, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	bind_range(p, n, old_node(t));
	fill(p, n, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

/* Several VMAs, with holes between them and guard regions inside. */
static bool build_pieces(struct twin *t, struct area *a)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_EXEC };
	size_t n = some(t, 100, 100), k;
	char *p = filled(t, n), *q;

	for (int i = 0; i < 6; i++) {
		q = part(t, p, n, &k);
		if (k > 10)
			k = 10;
		if (i < 3)
			mprotect(q, k * PAGE, prots[i]);
		else if (i == 3)
			munmap(q, k * PAGE);
		else if (i == 4)
			madvise(q, k * PAGE, MADV_DONTNEED);
		else
			madvise(q, k * PAGE, MADV_GUARD_INSTALL);
	}
	add(a, p, n);
	return true;
}

static bool build_zero(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64);
	char *p = map_small(n, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	touch(p, n);
	for (size_t i = 0; i < n; i += some(t, 1, 4)) {
		bind_to(some_node(t));
		p[i * PAGE] = 1;
	}
	bind_to(-1);
	add(a, p, n);
	return true;
}

static bool build_huge_zero(struct twin *t, struct area *a)
{
	char *p = lazy_map(2 * HPAGE_NR, MADV_HUGEPAGE);

	touch(p, 1);
	bind_to(old_node(t));
	p[HPAGE] = 1;
	bind_to(-1);
	add(a, p, 2 * HPAGE_NR);
	return true;
}

static bool build_thp(struct twin *t, struct area *a)
{
	add(a, filled_thp(t, 2), 2 * HPAGE_NR);
	return true;
}

static bool build_thp_by_pte(struct twin *t, struct area *a)
{
	char *p = filled_thp(t, 1);

	if (mprotect(p + below(&t->rnd, HPAGE_NR) * PAGE, PAGE, PROT_READ))
		die("mprotect");
	add(a, p, HPAGE_NR);
	return true;
}

static bool build_thp_in_part(struct twin *t, struct area *a)
{
	char *p = filled_thp(t, 1), *q;
	size_t n;

	/* So that nothing fills the holes. */
	if (advise(p, HPAGE, MADV_NOHUGEPAGE))
		die("madvise");
	for (int i = 0; i < 3; i++) {
		q = part(t, p, HPAGE_NR, &n);
		if (n > 150)
			n = 150;
		if (madvise(q, n * PAGE, MADV_DONTNEED))
			die("MADV_DONTNEED");
	}
	add(a, p, HPAGE_NR);
	return true;
}

static bool build_thp_locked(struct twin *t, struct area *a)
{
	char *p = filled_thp(t, 1);

	if (mlock(p, HPAGE))
		die("mlock");
	add(a, p, HPAGE_NR);
	return true;
}

static bool build_thp_no_access(struct twin *t, struct area *a)
{
	char *p = filled_thp(t, 1);

	if (mprotect(p, HPAGE, PROT_NONE))
		die("mprotect");
	add(a, p, HPAGE_NR);
	return true;
}

static bool build_thp_freed_lazily(struct twin *t, struct area *a)
{
	char *p = filled_thp(t, 1);

	if (madvise(p, HPAGE, MADV_FREE))
		die("MADV_FREE");
	add(a, p, HPAGE_NR);
	return true;
}

/* Across two page tables, or in two parts far from each other. */
static bool build_thp_elsewhere(struct twin *t, struct area *a)
{
	size_t shift = some(t, 1, 200), first = coin(t) ? HPAGE_NR : some(t, 1, 500);
	char *p = filled_thp(t, 1), *to = reserve(8 * HPAGE_NR) + shift * PAGE;
	char *far = to + 4 * HPAGE, *from = p + first * PAGE;
	size_t len = first * PAGE, rest = HPAGE - len;

	if (mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		die("mremap");
	add(a, to, first);
	if (!rest)
		return true;
	if (mremap(from, rest, rest, MREMAP_MAYMOVE | MREMAP_FIXED, far) != far)
		die("mremap");
	add(a, far, HPAGE_NR - first);
	return true;
}

/* Less than a huge page, so that only the smaller size fits. */
static bool build_mthp(struct twin *t, struct area *a)
{
	size_t n = some(t, 4, 8) * MTHP_NR, k;
	char *p = lazy_map(n, MADV_HUGEPAGE), *q;

	for (size_t i = 0; i < n; i++) {
		if (i % MTHP_NR == 0)
			bind_to(some_node(t));
		touch_to_write(p + i * PAGE);
	}
	bind_to(-1);
	fill(p, n, next_random(&t->rnd));
	if (coin(t)) {
		q = part(t, p, n - 8, &k);
		if (madvise(q, (k % 8 + 1) * PAGE, MADV_DONTNEED))
			die("MADV_DONTNEED");
	}
	add(a, p, n);
	return true;
}

static bool build_collapsed(struct twin *t, struct area *a)
{
	char *p = reserve(HPAGE_NR);

	map_fixed(p, HPAGE_NR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (advise(p, HPAGE, MADV_NOHUGEPAGE))
		die("madvise");
	scatter(t, p, HPAGE_NR);
	fill(p, HPAGE_NR, next_random(&t->rnd));
	/* It may fail: then it is small pages. */
	if (!advise(p, HPAGE, MADV_HUGEPAGE))
		madvise(p, HPAGE, MADV_COLLAPSE);
	add(a, p, HPAGE_NR);
	return true;
}

static bool merged(const char *p, size_t npages, size_t different)
{
	for (size_t i = different; i < npages; i++)
		if (pfn_of(p + i * PAGE) != pfn_of(p + i % different * PAGE))
			return false;
	return true;
}

static bool build_ksm(struct twin *t, struct area *a)
{
	size_t n = some(t, 16, 48), different = some(t, 1, 3);
	char *p = map_small(n, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	unsigned int seed = next_random(&t->rnd);
	bool done = false;

	bind_to(old_node(t));
	for (size_t i = 0; i < n; i++)
		fill(p + i * PAGE, 1, seed + i % different);
	bind_to(-1);
	if (madvise(p, n * PAGE, MADV_MERGEABLE) || file_write(KSM "run", "1"))
		die("KSM");
	for (int i = 0; i < 600 * patience() && !done; i++) {
		usleep(20000);
		done = merged(p, n, different);
	}
	if (file_write(KSM "run", "0"))
		die("KSM");
	add(a, p, n);
	return done;
}

static bool build_locked(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 100), k;
	char *p = filled(t, n), *q = part(t, p, n, &k);

	if (mlock2(p, n * PAGE, coin(t) ? MLOCK_ONFAULT : 0) || munlock(q, k * PAGE))
		die("mlock");
	add(a, p, n);
	return true;
}

static bool build_no_access(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 100);
	char *p = filled(t, n);

	if (mprotect(p, n * PAGE, PROT_NONE))
		die("mprotect");
	add(a, p, n);
	return true;
}

static bool build_freed_lazily(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 100), k;
	char *p = filled(t, n), *q = part(t, p, n, &k);

	if (madvise(q, k * PAGE, MADV_FREE))
		die("MADV_FREE");
	add(a, p, n);
	return true;
}

static bool build_droppable(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 32);
	char *p = reserve(n);

	map_fixed(p, n, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	scatter(t, p, n);
	fill(p, n, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

static bool build_growing(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 32);
	char *p = map_small(n, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);

	scatter(t, p, n);
	fill(p, n, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

/* Its descriptor stays open, as do those of other kinds below. */
static bool build_uffd_protected(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64), k;
	char *p = filled(t, n), *q = part(t, p, n, &k);
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)p, .len = n * PAGE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)q, .len = k * PAGE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg) ||
	    ioctl(fd, UFFDIO_WRITEPROTECT, &wp))
		die("userfaultfd");
	add(a, p, n);
	return true;
}

static bool build_remapped(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64);
	char *p = filled(t, n), *to = reserve(n) + some(t, 0, 20) * PAGE;
	int keep = coin(t) ? MREMAP_DONTUNMAP : 0;

	if (mremap(p, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | keep, to) != to)
		die("mremap");
	add(a, to, n);
	return true;
}

/* Written to swap and read back, in part: what is back may still have its place there. */
static bool build_from_swap(struct twin *t, struct area *a)
{
	size_t n = some(t, 64, 64), k;
	char *p = filled(t, n), *q = part(t, p, n, &k);

	if (madvise(p, n * PAGE, MADV_PAGEOUT))
		die("MADV_PAGEOUT");
	bind_to(old_node(t));
	touch(q, k);
	bind_to(-1);
	add(a, p, n);
	return true;
}

static void pin(char *p, size_t npages)
{
	struct iovec iov = { .iov_base = p, .iov_len = npages * PAGE };
	struct io_uring_params params = { };
	int ring = syscall(__NR_io_uring_setup, 4, &params);

	if (ring < 0 || syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1))
		die("io_uring");
}

static bool build_pinned(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64), k;
	char *p = filled(t, n), *q = part(t, p, n, &k);

	pin(q, k);
	add(a, p, n);
	return true;
}

static bool build_pinned_thp(struct twin *t, struct area *a)
{
	char *p = filled_thp(t, 2);

	pin(p + below(&t->rnd, HPAGE_NR) * PAGE, 1);
	add(a, p, 2 * HPAGE_NR);
	return true;
}

static bool build_spliced(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 32);
	char *p = filled(t, n);
	struct iovec iov = { .iov_base = p + some(t, 0, 16) * PAGE, .iov_len = 16 * PAGE };
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) || vmsplice(fds[1], &iov, 1, 0) != (ssize_t)iov.iov_len)
		die("vmsplice");
	add(a, p, n);
	return true;
}

static bool build_secret(struct twin *t, struct area *a)
{
	size_t n = some(t, 4, 12);
	int fd = syscall(__NR_memfd_secret, 0);
	char *p;

	if (fd < 0)
		return false;
	if (ftruncate(fd, n * PAGE))
		die("ftruncate");
	p = map_small(n, MAP_SHARED, fd);
	scatter(t, p, n);
	add(a, p, n);
	return true;
}

static bool build_shared_anon(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64);
	char *p = map_small(n, MAP_SHARED | MAP_ANONYMOUS, -1);

	scatter(t, p, n);
	fill(p, n, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

static int new_memfd(unsigned int flags, size_t npages)
{
	int fd = memfd_create("differential", MFD_CLOEXEC | flags);

	if (fd < 0 || ftruncate(fd, npages * PAGE))
		die("memfd_create");
	return fd;
}

/* Pages of the file that nobody maps are none of the process's. */
static bool build_memfd(struct twin *t, struct area *a)
{
	size_t n = some(t, 64, 64);
	int fd = new_memfd(0, n);
	char *p = map_small(n, MAP_SHARED, fd), *q;

	scatter(t, p, n);
	fill(p, n, next_random(&t->rnd));
	if (madvise(p, n / 4 * PAGE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	add(a, p, n);
	if (coin(t)) {
		/* Again, in another page table. */
		q = reserve(n) + 77 * PAGE;
		map_fixed(q, n, PROT_READ, MAP_SHARED, fd, 0);
		touch(q, n);
		add(a, q, n);
	}
	return true;
}

/* Folios of 64 kB, which are chosen for shared memory by a setting of their own. */
static bool build_memfd_mthp(struct twin *t, struct area *a)
{
	size_t n = some(t, 4, 8) * MTHP_NR;
	char *p = reserve(n);

	map_fixed(p, n, PROT_READ | PROT_WRITE, MAP_SHARED, new_memfd(0, n), 0);
	if (madvise(p, n * PAGE, MADV_HUGEPAGE))
		die("MADV_HUGEPAGE");
	for (size_t i = 0; i < n; i++) {
		if (i % MTHP_NR == 0)
			bind_to(some_node(t));
		touch_to_write(p + i * PAGE);
	}
	bind_to(-1);
	fill(p, n, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

static bool build_memfd_pinned(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 32), k;
	char *p = map_small(n, MAP_SHARED, new_memfd(0, n)), *q = part(t, p, n, &k);

	scatter(t, p, n);
	fill(p, n, next_random(&t->rnd));
	pin(q, k);
	add(a, p, n);
	return true;
}

static bool build_memfd_from_swap(struct twin *t, struct area *a)
{
	size_t n = some(t, 64, 64), k;
	char *p = map_small(n, MAP_SHARED, new_memfd(0, n)), *q = part(t, p, n, &k);

	scatter(t, p, n);
	fill(p, n, next_random(&t->rnd));
	if (madvise(p, n * PAGE, MADV_PAGEOUT))
		die("MADV_PAGEOUT");
	bind_to(old_node(t));
	touch(q, k);
	bind_to(-1);
	add(a, p, n);
	return true;
}

static bool build_system_v(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64);
	int id = shmget(IPC_PRIVATE, n * PAGE, 0600 | IPC_CREAT);
	char *p = id < 0 ? (void *)-1 : shmat(id, NULL, 0);

	if (p == (void *)-1 || shmctl(id, IPC_RMID, NULL))
		die("shmat");
	if (advise(p, n * PAGE, MADV_NOHUGEPAGE))
		die("madvise");
	scatter(t, p, n);
	fill(p, n, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

static int tmpfs_file(const char *dir, int kind, size_t npages)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%d", dir, kind);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, npages * PAGE))
		die("%s", path);
	return fd;
}

/* Nodes on which the page cache of a file lies, in turn. */
static void fill_file(struct twin *t, int fd, size_t npages)
{
	int nodes[3], n = some(t, 1, ARRAY_LEN(nodes));

	for (int i = 0; i < n; i++)
		nodes[i] = some_node(t);
	file_fill(fd, npages, next_random(&t->rnd), nodes, n);
}

/* Copies of some pages, each on a node of its own. */
static void copy_some(struct twin *t, char *p, size_t npages)
{
	for (size_t i = 0; i < npages; i += some(t, 1, 4)) {
		bind_to(some_node(t));
		p[i * PAGE + 8] ^= 1;
	}
	bind_to(-1);
}

static bool build_tmpfs(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64);
	int fd = tmpfs_file("/mnt/small", a->kind, n);
	char *p = map_small(n, MAP_SHARED, fd);

	fill_file(t, fd, n);
	touch(p, n);
	add(a, p, n);
	return true;
}

static bool build_tmpfs_copies(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64);
	int fd = tmpfs_file("/mnt/small", a->kind, n);
	char *p = map_small(n, MAP_PRIVATE, fd);

	fill_file(t, fd, n);
	touch(p, n);
	copy_some(t, p, n);
	add(a, p, n);
	return true;
}

/* Once by PMD, and once by PTE, which is not aligned. */
static bool build_tmpfs_huge(struct twin *t, struct area *a)
{
	int fd = tmpfs_file("/mnt", a->kind, HPAGE_NR);
	char *p = reserve(4 * HPAGE_NR), *q = p + 2 * HPAGE + 9 * PAGE;

	map_fixed(p, HPAGE_NR, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bind_to(old_node(t));
	fill(p, HPAGE_NR, next_random(&t->rnd));
	bind_to(-1);
	add(a, p, HPAGE_NR);
	if (coin(t)) {
		map_fixed(q, HPAGE_NR, PROT_READ, MAP_SHARED, fd, 0);
		touch(q, HPAGE_NR);
		add(a, q, HPAGE_NR);
	}
	return true;
}

static long free_huge(int node)
{
	char path[160], text[32];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/free_hugepages", node);
	return file_read(path, text, sizeof(text)) ? 0 : atol(text);
}

/* A fault on a node without a free one would be the end of the process. */
static bool touch_huge(struct twin *t, char *p, size_t nhuge)
{
	for (size_t i = 0; i < nhuge; i++) {
		int node = old_node(t);

		if (!free_huge(node))
			return false;
		bind_to(node);
		p[i * HPAGE] = 1;
	}
	bind_to(-1);
	fill(p, nhuge * HPAGE_NR, next_random(&t->rnd));
	return true;
}

static bool build_hugetlb(struct twin *t, struct area *a)
{
	size_t nhuge = some(t, 1, 2);
	char *p = reserve(nhuge * HPAGE_NR);

	if (mmap(p, nhuge * HPAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0) != p ||
	    !touch_huge(t, p, nhuge))
		return false;
	add(a, p, nhuge * HPAGE_NR);
	return true;
}

static bool build_hugetlb_memfd(struct twin *t, struct area *a)
{
	size_t nhuge = some(t, 1, 2), n = nhuge * HPAGE_NR;
	int fd = new_memfd(MFD_HUGETLB, n);
	char *p = reserve(4 * n), *q = p + 2 * nhuge * HPAGE;

	if (mmap(p, n * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != p ||
	    !touch_huge(t, p, nhuge))
		return false;
	add(a, p, n);
	if (coin(t)) {
		map_fixed(q, n, PROT_READ, MAP_SHARED, fd, 0);
		touch(q, n);
		add(a, q, n);
	}
	return true;
}

/* Some huge pages are the file's, the others are copies. */
static bool build_hugetlb_copies(struct twin *t, struct area *a)
{
	enum { N = 2 * HPAGE_NR };
	int fd = new_memfd(MFD_HUGETLB, N), node = old_node(t);
	char *p = reserve(2 * N), *q = p + N * PAGE;

	if (mmap(p, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != p ||
	    mmap(q, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) != q ||
	    !touch_huge(t, p, 2) || !free_huge(node))
		return false;
	touch(q, N);
	bind_to(node);
	q[HPAGE] ^= 1;
	bind_to(-1);
	add(a, p, N);
	add(a, q, N);
	return true;
}

/* A file on the scratch disk that is removed when the twin ends. */
static int new_file(struct twin *t, int kind, char **path)
{
	char name[32];

	if (t->nr_paths == MAX_FILES)
		die("more than %d files", MAX_FILES);
	*path = t->path[t->nr_paths++];
	snprintf(name, sizeof(name), "differential-%d", kind);
	return scratch_file(name, *path, sizeof(t->path[0]));
}

/* As fill_file() leaves it, on the disk or only in memory. */
static char *mapped_file(struct twin *t, struct area *a, bool clean, int flags, int *file)
{
	size_t n = some(t, 32, 100);
	char *path, *p;
	int fd = new_file(t, a->kind, &path);

	fill_file(t, fd, n);
	if (clean && fsync(fd))
		die("fsync");
	p = map_small(n, flags, fd);
	touch(p, n);
	add(a, p, n);
	if (file)
		*file = fd;
	else
		close(fd);
	return p;
}

static bool build_file_clean(struct twin *t, struct area *a)
{
	mapped_file(t, a, true, MAP_SHARED, NULL);
	return true;
}

static bool build_file_dirty(struct twin *t, struct area *a)
{
	char *p = mapped_file(t, a, true, MAP_SHARED, NULL);

	fill(p, a->map[0].npages, next_random(&t->rnd));
	return true;
}

static bool build_file_written(struct twin *t, struct area *a)
{
	mapped_file(t, a, false, MAP_SHARED, NULL);
	return true;
}

static bool build_file_private(struct twin *t, struct area *a)
{
	mapped_file(t, a, true, MAP_PRIVATE, NULL);
	return true;
}

static bool build_file_copies(struct twin *t, struct area *a)
{
	char *p = mapped_file(t, a, coin(t), MAP_PRIVATE, NULL);

	copy_some(t, p, a->map[0].npages);
	return true;
}

static bool build_file_locked(struct twin *t, struct area *a)
{
	char *p = mapped_file(t, a, true, MAP_SHARED, NULL);

	if (mlock(p, a->map[0].npages * PAGE))
		die("mlock");
	return true;
}

static bool build_file_deleted(struct twin *t, struct area *a)
{
	char *p = mapped_file(t, a, coin(t), MAP_SHARED, NULL);

	fill(p, a->map[0].npages / 2, next_random(&t->rnd));
	if (unlink(t->path[--t->nr_paths]))
		die("unlink");
	return true;
}

/* Its data go through the journal, whose references keep dirty pages where they are. */
static bool build_file_journalled(struct twin *t, struct area *a)
{
	char *path, *p;
	size_t n = some(t, 32, 64);
	int flags, fd = new_file(t, a->kind, &path);

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags))
		die("FS_IOC_GETFLAGS");
	flags |= FS_JOURNAL_DATA_FL;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags))
		return false;
	fill_file(t, fd, n);
	if (coin(t) && fsync(fd))
		die("fsync");
	p = map_small(n, MAP_SHARED, fd);
	touch(p, n);
	if (coin(t))
		fill(p, n, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

/*
 * A file on one of the file systems that the fixture has mounted: clean, written
 * to by write(2), or through the mapping.
 */
static bool file_on(struct twin *t, struct area *a, const char *dir)
{
	size_t n = some(t, 64, 64);
	char *path = t->path[t->nr_paths++], *p;
	int fd;

	snprintf(path, sizeof(t->path[0]), "%s/%d", dir, getpid());
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		die("%s", path);
	fill_file(t, fd, n);
	if (coin(t) && fsync(fd))
		die("fsync");
	p = map_small(n, MAP_SHARED, fd);
	touch(p, n);
	if (coin(t))
		fill(p, n / 2, next_random(&t->rnd));
	add(a, p, n);
	return true;
}

static bool build_file_xfs(struct twin *t, struct area *a)
{
	return file_on(t, a, XFS_DIR);
}

/* Its blocks are larger than a page, so its folios cannot be split. */
static bool build_file_large_blocks(struct twin *t, struct area *a)
{
	return file_on(t, a, BLOCKS_DIR);
}

/* The page cache of a disk itself, which is emptied first: the other twin has used it. */
static bool build_block_device(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 32);
	int fd = open(DISK, O_RDWR | O_CLOEXEC);
	char *p;

	if (fd < 0 || ioctl(fd, BLKFLSBUF, 0))
		die(DISK);
	fill_file(t, fd, n);
	if (coin(t) && fsync(fd))
		die("fsync");
	p = map_small(n, MAP_SHARED, fd);
	touch(p, n);
	add(a, p, n);
	return true;
}

/* The ring that the kernel shares with a user of io_setup(2). */
static bool build_aio_ring(struct twin *t, struct area *a)
{
	static struct mapping maps[1024];
	unsigned long ring = 0;
	size_t n;

	bind_to(old_node(t));
	if (syscall(__NR_io_setup, 512, &ring))
		die("io_setup");
	bind_to(-1);
	n = mappings_of(0, maps, ARRAY_LEN(maps));
	for (size_t i = 0; i < n; i++)
		if ((uintptr_t)maps[i].start == ring) {
			touch(maps[i].start, maps[i].npages);
			add(a, maps[i].start, maps[i].npages);
		}
	return a->nr_maps == 1;
}

/* Read ahead, the page cache is in large folios. */
static bool build_file_large(struct twin *t, struct area *a)
{
	enum { N = 512, CHUNK = 16 };
	static char buf[CHUNK * PAGE];
	char *path, *p;
	int fd = new_file(t, a->kind, &path);

	fill_file(t, fd, N);
	if (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) ||
	    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL))
		die("fsync or posix_fadvise");
	for (size_t i = 0; i < N; i += CHUNK) {
		if (i % (N / 4) == 0)
			bind_to(some_node(t));
		if (pread(fd, buf, sizeof(buf), i * PAGE) != (ssize_t)sizeof(buf))
			die("pread");
	}
	bind_to(-1);
	p = map_small(N, MAP_SHARED, fd);
	touch(p, N);
	add(a, p, N);
	return true;
}

static bool build_overlay(struct twin *t, struct area *a)
{
	size_t n = some(t, 32, 64);
	char *p;
	int fd;

	if (mkdir("/mnt/small/up", 0700) || mkdir("/mnt/small/work", 0700) ||
	    mkdir("/mnt/small/low", 0700) || mkdir("/mnt/small/overlay", 0700))
		die("mkdir");
	if (mount("overlay", "/mnt/small/overlay", "overlay", 0,
		  "lowerdir=/mnt/small/low,upperdir=/mnt/small/up,workdir=/mnt/small/work"))
		die("no overlay");
	fd = tmpfs_file("/mnt/small/overlay", a->kind, n);
	fill_file(t, fd, n);
	p = map_small(n, MAP_SHARED, fd);
	touch(p, n);
	add(a, p, n);
	return true;
}

/* What a process that shares an area does with it when it has been forked. */
enum sharing { ALONE, INHERITS, READS, WRITES };

enum {
	NEEDS_THP = 1,
	STAYS = 2,		/* the system call moves none of it */
	MAY_VANISH = 4,		/* its pages may become zeros */
};

static const struct kind {
	const char *name;
	bool (*build)(struct twin *t, struct area *a);
	enum sharing sharing;
	unsigned int is;
} kinds[] = {
	{ "small", build_small, WRITES, 0 },
	{ "bound", build_bound, WRITES, 0 },
	{ "pieces", build_pieces, INHERITS, 0 },
	{ "zero", build_zero, WRITES, 0 },
	{ "huge_zero", build_huge_zero, INHERITS, NEEDS_THP },
	{ "thp", build_thp, WRITES, NEEDS_THP },
	{ "thp_by_pte", build_thp_by_pte, READS, NEEDS_THP },
	{ "thp_in_part", build_thp_in_part, WRITES, NEEDS_THP },
	{ "thp_locked", build_thp_locked, READS, NEEDS_THP },
	{ "thp_no_access", build_thp_no_access, INHERITS, NEEDS_THP },
	{ "thp_freed_lazily", build_thp_freed_lazily, INHERITS, NEEDS_THP | MAY_VANISH },
	{ "thp_elsewhere", build_thp_elsewhere, WRITES, NEEDS_THP },
	{ "mthp", build_mthp, WRITES, NEEDS_THP },
	{ "collapsed", build_collapsed, WRITES, NEEDS_THP },
	{ "ksm", build_ksm, WRITES, 0 },
	{ "locked", build_locked, WRITES, 0 },
	{ "no_access", build_no_access, INHERITS, 0 },
	{ "freed_lazily", build_freed_lazily, INHERITS, MAY_VANISH },
	{ "droppable", build_droppable, ALONE, MAY_VANISH },
	{ "growing", build_growing, WRITES, 0 },
	{ "uffd_protected", build_uffd_protected, INHERITS, 0 },
	{ "remapped", build_remapped, WRITES, 0 },
	{ "from_swap", build_from_swap, INHERITS, 0 },
	{ "pinned", build_pinned, ALONE, 0 },
	{ "pinned_thp", build_pinned_thp, ALONE, NEEDS_THP },
	{ "spliced", build_spliced, ALONE, 0 },
	{ "secret", build_secret, ALONE, STAYS },
	{ "shared_anon", build_shared_anon, READS, 0 },
	{ "memfd", build_memfd, READS, 0 },
	{ "memfd_mthp", build_memfd_mthp, READS, NEEDS_THP },
	{ "memfd_pinned", build_memfd_pinned, ALONE, 0 },
	{ "memfd_from_swap", build_memfd_from_swap, INHERITS, 0 },
	{ "system_v", build_system_v, READS, 0 },
	{ "tmpfs", build_tmpfs, READS, 0 },
	{ "tmpfs_copies", build_tmpfs_copies, WRITES, 0 },
	{ "tmpfs_huge", build_tmpfs_huge, READS, NEEDS_THP },
	{ "hugetlb", build_hugetlb, READS, 0 },
	{ "hugetlb_memfd", build_hugetlb_memfd, READS, 0 },
	{ "hugetlb_copies", build_hugetlb_copies, READS, 0 },
	{ "file_clean", build_file_clean, READS, 0 },
	{ "file_dirty", build_file_dirty, READS, 0 },
	{ "file_written", build_file_written, READS, 0 },
	{ "file_private", build_file_private, WRITES, 0 },
	{ "file_copies", build_file_copies, WRITES, 0 },
	{ "file_locked", build_file_locked, READS, 0 },
	{ "file_deleted", build_file_deleted, READS, 0 },
	{ "file_journalled", build_file_journalled, READS, 0 },
	{ "file_large", build_file_large, READS, 0 },
	{ "file_xfs", build_file_xfs, READS, 0 },
	/* The kernel has such file systems only together with huge pages. */
	{ "file_blocks", build_file_large_blocks, READS, NEEDS_THP },
	{ "block_device", build_block_device, READS, 0 },
	{ "aio_ring", build_aio_ring, ALONE, 0 },
	{ "overlay", build_overlay, READS, 0 },
};

enum { KINDS = ARRAY_LEN(kinds) };

_Static_assert(ARRAY_LEN(kinds) <= MAX_AREAS, "an area for each kind");

struct share {
	const struct area *area;
	enum sharing sharing;
	uint32_t rnd;
};

static void share(struct child *c, void *arg)
{
	struct share *s = arg;

	for (int k = 0; k < s->area->nr_maps; k++) {
		const struct map *m = &s->area->map[k];

		if (s->sharing >= READS)
			touch(m->p, m->npages);
		for (size_t i = 0; s->sharing == WRITES && i < m->npages; i++)
			if (below(&s->rnd, 8) == 0)
				m->p[i * PAGE + 16] ^= 1;
	}
	child_put(c, 1);
}

/* Another process that has the area and nothing that was built before it. */
static void share_area(struct twin *t, struct area *a)
{
	struct share s = { .area = a, .sharing = kinds[a->kind].sharing, .rnd = t->rnd };
	struct child *c = &t->sharer[t->nr_sharers];
	int own = a->nr_maps;

	child_start(c, share, &s);
	child_get(c);
	/* One that has gone has left its traces all the same. */
	if (below(&t->rnd, 3) == 0) {
		child_end(c);
		return;
	}
	t->nr_sharers++;
	for (int i = 0; i < own && a->nr_maps < MAX_MAPS; i++)
		add_map(a, c->pid, a->map[i].p, a->map[i].npages);
}

static void area_build(struct twin *t, int kind)
{
	struct area *a = &t->area[t->nr_areas];

	/* Each kind has its own numbers, so that it is the same without the others. */
	t->rnd = stream(t->plan.seed, kind);
	*a = (struct area){ .kind = kind };
	if (!kinds[kind].build(t, a)) {
		bind_to(-1);
		return;
	}
	t->nr_areas++;
	if (kinds[kind].sharing != ALONE && below(&t->rnd, 3) == 0)
		share_area(t, a);
	/* It fails for holes, which are not forked anyway. */
	for (int i = 0; i < a->nr_maps; i++)
		if (a->map[i].pid == getpid())
			madvise(a->map[i].p, a->map[i].npages * PAGE, MADV_DONTFORK);
}

static void put_all(int fd, const void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = write(fd, (const char *)data + done, size - done);

		if (n <= 0)
			die("write to the other process");
		done += n;
	}
}

static void get_all(int fd, void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = read(fd, (char *)data + done, size - done);

		if (n <= 0)
			die("the other process has gone");
		done += n;
	}
}

static bool is_wanted(int kind)
{
	const char *only = getenv("PM_KIND");

	return (!only || !strcmp(only, kinds[kind].name)) &&
	       (has_thp() || !(kinds[kind].is & NEEDS_THP));
}

/* The program as a twin: builds, tells, and stays until it is told to end. */
static int twin_main(uint32_t seed)
{
	static struct twin t;
	struct child parent = { .in = TWIN_IN, .out = TWIN_OUT };
	uint32_t rnd = stream(seed, 2000);
	int order[KINDS];

	t.plan = plan_of(seed);
	own_tmpfs("huge=always");
	if (mkdir("/mnt/small", 0755) || mount("tmpfs", "/mnt/small", "tmpfs", 0, "huge=never"))
		die("tmpfs on /mnt/small");
	for (int i = 0; i < KINDS; i++)
		order[i] = i;
	shuffle(&rnd, order, KINDS);
	for (int i = 0; i < KINDS; i++)
		if (is_wanted(order[i]))
			area_build(&t, order[i]);
	if (t.plan.who == UNPRIVILEGED) {
		drop_to(NOBODY);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	child_put(&parent, t.nr_areas);
	put_all(parent.out, t.area, t.nr_areas * sizeof(t.area[0]));
	child_get(&parent);
	/* The last first: the others wait on pipes that it holds as well. */
	while (t.nr_sharers)
		child_end(&t.sharer[--t.nr_sharers]);
	child_put(&parent, t.nr_paths);
	put_all(parent.out, t.path, t.nr_paths * sizeof(t.path[0]));
	return 0;
}

/*
 * A caller: makes the calls, with the rights that the plan says.
 */
enum { SYSTEM_CALL, OURS };

struct order {
	int what;
	char *p;
	size_t len;
};

struct answer {
	long ret;
	struct page_migrate_result res;
};

struct caller {
	const struct plan *plan;
	pid_t target;
};

static void caller_main(struct child *c, void *arg)
{
	const struct caller *caller = arg;
	const struct plan *plan = caller->plan;
	unsigned long from[MAX_NODES / 64] = { }, to[MAX_NODES / 64] = { };
	struct order order;
	int fd;

	if (plan->who == UNPRIVILEGED)
		drop_to(NOBODY);
	else if (plan->who == ROOT_WITHOUT_NICE)
		drop_cap(CAP_SYS_NICE);
	for (int i = 0; i < plan->count; i++) {
		from[plan->old[i] / 64] |= 1UL << (plan->old[i] % 64);
		to[plan->new[i] / 64] |= 1UL << (plan->new[i] % 64);
	}
	fd = pm_open();
	for (;;) {
		struct answer answer = { };

		get_all(c->in, &order, sizeof(order));
		if (order.what == OURS) {
			answer.ret = pm_move(fd, caller->target, order.p, order.len, 0,
					     plan->count, plan->old, plan->new, &answer.res);
		} else {
			answer.ret = migrate_pages(caller->target, MAX_NODES, from, to);
			if (answer.ret < 0)
				answer.ret = -errno;
		}
		put_all(c->out, &answer, sizeof(answer));
	}
}

static struct answer ask(struct child *c, int what, char *p, size_t len)
{
	struct order order = { .what = what, .p = p, .len = len };
	struct answer answer;

	put_all(c->out, &order, sizeof(order));
	get_all(c->in, &answer, sizeof(answer));
	return answer;
}

/*
 * How the parent sees a page.
 */
enum {
	PRESENT = 1, ZERO = 2, ANON = 4, MERGED = 8, HUGETLB = 16, HEAD = 32, TAIL = 64,
	DIRTY = 128, SHARED = 256, SWAPPED = 512,
};

struct page {
	int node;
	uint32_t is;
	uint64_t hash;
};

struct side {
	struct child twin, caller;
	int nr_areas;
	struct area area[MAX_AREAS];
	/* By area and map: before the move and after it. */
	struct page *before[MAX_AREAS][MAX_MAPS], *after[MAX_AREAS][MAX_MAPS];
};

static uint64_t hash_of(const uint64_t *words)
{
	uint64_t h = 0;

	for (size_t i = 0; i < PAGE / 8; i++)
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15ULL + (h >> 29);
	return h;
}

static uint64_t number_at(int fd, uint64_t index)
{
	uint64_t value;

	if (pread(fd, &value, 8, index * 8) != 8)
		die("pread");
	return value;
}

static int open_of(pid_t pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("%s", path);
	return fd;
}

static uint32_t flags_of(uint64_t pfn)
{
	static const struct { int bit; uint32_t is; } names[] = {
		{ KPF_ZERO_PAGE, ZERO }, { KPF_ANON, ANON }, { KPF_KSM, MERGED },
		{ KPF_HUGE, HUGETLB }, { KPF_COMPOUND_HEAD, HEAD }, { KPF_COMPOUND_TAIL, TAIL },
		{ KPF_DIRTY, DIRTY },
	};
	static int counts = -1;
	uint64_t flags = kpageflags(pfn);
	uint32_t is = PRESENT;

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (flags >> names[i].bit & 1)
			is |= names[i].is;
	/* Only what has a file is written back. */
	if (is & ANON)
		is &= ~DIRTY;
	if (counts < 0)
		counts = open("/proc/kpagecount", O_RDONLY | O_CLOEXEC);
	if (counts < 0)
		die("/proc/kpagecount");
	if (!(is & ZERO) && number_at(counts, pfn) > 1)
		is |= SHARED;
	return is;
}

/* Returns how many pages are being written back, and so will not move at once. */
static size_t look(const struct map *m, struct page *pages)
{
	int pagemap = open_of(m->pid, "pagemap"), memory = open_of(m->pid, "mem");
	int *nodes = malloc(m->npages * sizeof(*nodes));
	uint64_t words[PAGE / 8];
	size_t in_writeback = 0;

	if (!nodes)
		die("malloc");
	nodes_of(m->pid, m->p, m->npages, nodes);
	for (size_t i = 0; i < m->npages; i++) {
		uint64_t entry = number_at(pagemap, (uintptr_t)m->p / PAGE + i);
		uint64_t pfn = entry & ((1ULL << 55) - 1);

		pages[i] = (struct page){ .node = nodes[i] };
		if (!(entry >> 63)) {
			pages[i].is = entry >> 62 & 1 ? SWAPPED : 0;
			continue;
		}
		pages[i].is = flags_of(pfn);
		in_writeback += kpageflags(pfn) >> KPF_WRITEBACK & 1;
		/* Secret memory cannot be read. */
		if (!(pages[i].is & ZERO) &&
		    pread(memory, words, PAGE, (uintptr_t)m->p + i * PAGE) == (ssize_t)PAGE)
			pages[i].hash = hash_of(words);
	}
	free(nodes);
	close(pagemap);
	close(memory);
	return in_writeback;
}

static void look_at_all(struct side *s, bool before)
{
	size_t in_writeback = 1;

	for (int tries = 0; in_writeback && tries < 50; tries++) {
		if (tries)
			usleep(100000);
		in_writeback = 0;
		for (int i = 0; i < s->nr_areas; i++)
			for (int k = 0; k < s->area[i].nr_maps; k++)
				in_writeback += look(&s->area[i].map[k],
						     before ? s->before[i][k] : s->after[i][k]);
	}
}

static void twin_exec(struct child *c, void *arg)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", *(uint32_t *)arg);
	if (dup2(c->in, TWIN_IN) < 0 || dup2(c->out, TWIN_OUT) < 0)
		die("dup2");
	execl("/proc/self/exe", "mem_differential", "--twin", text, NULL);
	die("exec");
}

static void side_start(struct side *s, const struct plan *plan)
{
	struct caller caller = { .plan = plan };

	for (int i = 0; i < PLACES; i++) {
		bool wanted = is_old(plan, mem[i]) || plan->pool_on_new;
		char text[16];

		snprintf(text, sizeof(text), "%d", wanted ? POOL : 0);
		node_pool(mem[i], text);
	}
	child_start(&s->twin, twin_exec, (void *)&plan->seed);
	s->nr_areas = child_get(&s->twin);
	get_all(s->twin.in, s->area, s->nr_areas * sizeof(s->area[0]));
	for (int i = 0; i < s->nr_areas; i++)
		for (int k = 0; k < s->area[i].nr_maps; k++) {
			size_t n = s->area[i].map[k].npages;

			s->before[i][k] = calloc(n, sizeof(struct page));
			s->after[i][k] = calloc(n, sizeof(struct page));
			if (!s->before[i][k] || !s->after[i][k])
				die("calloc");
		}
	caller.target = s->twin.pid;
	child_start(&s->caller, caller_main, &caller);
	look_at_all(s, true);
}

static void side_end(struct side *s)
{
	static char path[MAX_FILES][128];
	int status, n;

	child_end(&s->caller);
	child_put(&s->twin, 0);
	/* It may not be allowed to remove them itself. */
	n = child_get(&s->twin);
	get_all(s->twin.in, path, n * sizeof(path[0]));
	for (int i = 0; i < n; i++)
		if (unlink(path[i]))
			die("%s", path[i]);
	if (waitpid(s->twin.pid, &status, 0) != s->twin.pid || status)
		die("a twin ended with status %#x", status);
	close(s->twin.in);
	close(s->twin.out);
}

static void side_free(struct side *s)
{
	for (int i = 0; i < s->nr_areas; i++)
		for (int k = 0; k < s->area[i].nr_maps; k++) {
			free(s->before[i][k]);
			free(s->after[i][k]);
		}
}

/*
 * What was found, by kind. The last place is for what concerns no single kind:
 * counts of the whole process.
 */
enum { WHOLE = KINDS };

struct totals {
	size_t compared, skipped, on_old, by_syscall, by_ours;
};

struct findings {
	size_t differ[KINDS + 1], damaged;
	struct totals total[KINDS];
};

static const char *plan_text(const struct plan *plan)
{
	static char text[128];
	int n = snprintf(text, sizeof(text), "PM_SEED=%u, %s, %s", plan->seed,
			 who_name[plan->who], plan->by_range ? "by range" : "whole process");

	for (int i = 0; i < plan->count; i++)
		n += snprintf(text + n, sizeof(text) - n, ", %d to %d", plan->old[i], plan->new[i]);
	return text;
}

/* A page as a report shows it. */
static const char *page_text(const struct page *p)
{
	static const char *const names[] = {
		"present", "zero", "anon", "merged", "hugetlb", "head", "tail", "dirty", "shared",
		"swapped",
	};
	static char texts[4][128];
	static unsigned int turn;
	char *text = texts[turn++ % ARRAY_LEN(texts)];
	int n = snprintf(text, sizeof(texts[0]), "node %d (", p->node);

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (p->is >> i & 1)
			n += snprintf(text + n, sizeof(texts[0]) - n, " %s", names[i]);
	snprintf(text + n, sizeof(texts[0]) - n, " )");
	return text;
}

#define report(plan, fmt, ...) \
	fprintf(stderr, "# %s: " fmt "\n", plan_text(plan), ##__VA_ARGS__)

/* Which mapping of an area, for reports. */
static const char *map_text(const struct side *s, int area, int map)
{
	static char text[64];
	bool own = s->area[area].map[map].pid == s->twin.pid;

	snprintf(text, sizeof(text), "%s, mapping %d of %d%s", kinds[s->area[area].kind].name, map,
		 s->area[area].nr_maps, own ? "" : " (of another process)");
	return text;
}

/* Contents, of either twin. */
static void check_contents(const struct plan *plan, const struct side *s, const char *mover,
			   struct findings *f)
{
	static const uint64_t zeros[PAGE / 8];
	uint64_t zero = hash_of(zeros);

	for (int i = 0; i < s->nr_areas; i++)
		for (int k = 0; k < s->area[i].nr_maps; k++)
			for (size_t n = 0; n < s->area[i].map[k].npages; n++) {
				const struct page *b = &s->before[i][k][n], *a = &s->after[i][k][n];
				bool lost;

				if (!(b->is & PRESENT))
					continue;
				if (a->is & PRESENT)
					lost = a->hash != b->hash;
				else
					/* A file has it, and so has swap. */
					lost = (b->is & ANON) && !(a->is & SWAPPED);
				if (lost && kinds[s->area[i].kind].is & MAY_VANISH &&
				    (!(a->is & PRESENT) || a->is & ZERO || a->hash == zero))
					continue;
				if (lost && f->damaged++ < SHOWN)
					report(plan, "%s, page %zu: other contents after %s; was %s"
					       ", is %s", map_text(s, i, k), n, mover, page_text(b),
					       page_text(a));
			}
}

static int area_of(const struct side *s, int kind)
{
	for (int i = 0; i < s->nr_areas; i++)
		if (s->area[i].kind == kind)
			return i;
	return -1;
}

static void compare_maps(const struct plan *plan, const struct side *theirs, int i,
			 const struct side *ours, int j, int k, struct findings *f)
{
	int kind = theirs->area[i].kind;
	struct totals *total = &f->total[kind];
	size_t differ = 0;

	for (size_t n = 0; n < theirs->area[i].map[k].npages; n++) {
		const struct page *tb = &theirs->before[i][k][n], *ta = &theirs->after[i][k][n];
		const struct page *ob = &ours->before[j][k][n], *oa = &ours->after[j][k][n];
		int want = image_of(plan, tb->node);

		/* By chance the kernel may have built it in another way. */
		if (tb->node != ob->node || tb->is != ob->is) {
			total->skipped++;
			continue;
		}
		total->compared++;
		if (tb->node < 0 || want == tb->node)
			continue;
		total->on_old++;
		total->by_ours += oa->node == want;
		if (ta->node != want)
			continue;
		total->by_syscall++;
		if (oa->node != want && differ++ < SHOWN)
			report(plan, "%s, page %zu of %zu was %s; migrate_pages(2): %s; ours: %s",
			       map_text(ours, j, k), n, ours->area[j].map[k].npages, page_text(ob),
			       page_text(ta), page_text(oa));
	}
	if (differ)
		report(plan, "%s: %zu pages that only migrate_pages(2) has moved",
		       map_text(ours, j, k), differ);
	f->differ[kind] += differ;
}

static void compare(const struct plan *plan, const struct side *theirs, const struct side *ours,
		    struct findings *f)
{
	for (int kind = 0; kind < KINDS; kind++) {
		int i = area_of(theirs, kind), j = area_of(ours, kind);

		if (i < 0 || j < 0)
			continue;
		/* The plan is the same for both, so the mappings are, too. */
		for (int k = 0; k < theirs->area[i].nr_maps; k++)
			compare_maps(plan, theirs, i, ours, j, k, f);
	}
}

/* Pages of a mapping, or of the whole process, that are on old nodes. */
static size_t pages_on_old(const struct plan *plan, pid_t pid, const struct map *m)
{
	size_t n = 0;

	for (int i = 0; i < plan->count; i++)
		n += m ? count_on(pid, m->p, m->npages, plan->old[i]) :
			 process_pages(pid, plan->old[i]);
	return n;
}

/*
 * One call for one range, and whether its counts are true. What is present may
 * change by itself, if seldom; only what is the same before and after is exact.
 */
static struct answer call_ours(const struct plan *plan, struct side *s, const struct map *m,
			       int kind, struct findings *f)
{
	pid_t pid = s->twin.pid;
	size_t before = m ? present_pages(pid, m->p, m->npages) : process_pages(pid, -1);
	struct answer answer = ask(&s->caller, OURS, m ? m->p : NULL,
				   m ? m->npages * PAGE : ~0UL);
	size_t after = m ? present_pages(pid, m->p, m->npages) : process_pages(pid, -1);
	const char *name = m ? kinds[kind].name : "the whole process";
	size_t on_old;

	if (answer.ret < 0) {
		report(plan, "%s: the call returned %ld", name, answer.ret);
		f->differ[kind]++;
		return answer;
	}
	if (answer.ret != (long)pm_left(&answer.res)) {
		report(plan, "%s: returned %ld, counts %llu", name, answer.ret,
		       (long long)pm_left(&answer.res));
		pm_print(&answer.res);
		f->differ[kind]++;
	}
	if (before == after && pm_sum(&answer.res) != before) {
		report(plan, "%s: %zu pages are present, %llu were counted", name, before,
		       (long long)pm_sum(&answer.res));
		pm_print(&answer.res);
		f->differ[kind]++;
	}
	if (plan->overlaps || before != after)
		return answer;
	on_old = pages_on_old(plan, pid, m);
	if (on_old != pm_left(&answer.res)) {
		report(plan, "%s: %zu pages are on old nodes, %llu were left by the counts", name,
		       on_old, (long long)pm_left(&answer.res));
		pm_print(&answer.res);
		f->differ[kind]++;
	}
	return answer;
}

static void move_by_ours(const struct plan *plan, struct side *s, struct findings *f)
{
	if (!plan->by_range) {
		for (int i = 0; i < TRIES; i++) {
			if (call_ours(plan, s, NULL, WHOLE, f).ret <= 0)
				return;
			usleep(50000);
		}
		return;
	}
	for (int i = 0; i < s->nr_areas; i++)
		for (int k = 0; k < s->area[i].nr_maps; k++) {
			const struct map *m = &s->area[i].map[k];

			for (int n = 0; n < TRIES && m->pid == s->twin.pid; n++) {
				if (call_ours(plan, s, m, s->area[i].kind, f).ret <= 0)
					break;
				usleep(20000);
			}
		}
}

/* What our calls have left, the system call cannot move either. */
static void move_the_rest(const struct plan *plan, struct side *s, struct findings *f)
{
	size_t was = pages_on_old(plan, s->twin.pid, NULL), in_areas = 0, is;
	struct answer answer = ask(&s->caller, SYSTEM_CALL, NULL, 0);

	if (answer.ret < 0) {
		report(plan, "migrate_pages(2) returned %ld", answer.ret);
		f->differ[WHOLE]++;
	}
	is = pages_on_old(plan, s->twin.pid, NULL);
	for (int i = 0; i < s->nr_areas; i++)
		for (int k = 0; k < s->area[i].nr_maps; k++) {
			const struct map *m = &s->area[i].map[k];
			struct page *then = calloc(m->npages, sizeof(*then));
			size_t differ = 0;

			if (!then)
				die("calloc");
			look(m, then);
			for (size_t n = 0; n < m->npages; n++) {
				const struct page *a = &s->after[i][k][n];

				if (!is_old(plan, a->node) || then[n].node < 0 ||
				    is_old(plan, then[n].node))
					continue;
				if (differ++ < SHOWN)
					report(plan, "%s, page %zu of %zu: after our calls %s; "
					       "then migrate_pages(2): %s", map_text(s, i, k), n,
					       m->npages, page_text(a), page_text(&then[n]));
			}
			f->differ[s->area[i].kind] += differ;
			in_areas += differ;
			free(then);
		}
	if (!plan->by_range && is < was && !in_areas) {
		report(plan, "migrate_pages(2) moved %zu pages outside of the areas that we left",
		       was - is);
		f->differ[WHOLE]++;
	}
}

static void run(const struct plan *plan, struct findings *f)
{
	static struct side theirs, ours;
	struct answer answer;

	theirs = ours = (struct side){ };
	side_start(&theirs, plan);
	answer = ask(&theirs.caller, SYSTEM_CALL, NULL, 0);
	if (answer.ret < 0)
		die("migrate_pages(2): %ld, seed %u", answer.ret, plan->seed);
	look_at_all(&theirs, false);
	side_end(&theirs);

	side_start(&ours, plan);
	move_by_ours(plan, &ours, f);
	look_at_all(&ours, false);
	if (!plan->overlaps)
		move_the_rest(plan, &ours, f);
	side_end(&ours);

	check_contents(plan, &theirs, "migrate_pages(2)", f);
	check_contents(plan, &ours, "our calls", f);
	compare(plan, &theirs, &ours, f);
	side_free(&theirs);
	side_free(&ours);
}

static const char *kind_name(int kind)
{
	return kind == WHOLE ? "the whole process" : kinds[kind].name;
}

/*
 * What keeps a page busy for a moment makes no difference twice. Returns how many
 * kinds differ, for which the same seed is tried again.
 */
static size_t round_of(uint32_t seed, struct totals *total)
{
	struct plan plan = plan_of(seed);
	unsigned int differs[KINDS + 1] = { };
	bool again = true, ever = false;
	size_t bad = 0;

	for (int i = 0; i < ATTEMPTS && again; i++) {
		struct findings f = { };

		again = false;
		run(&plan, &f);
		/* Nothing excuses this. */
		if (f.damaged)
			return 1;
		for (int kind = 0; kind <= KINDS; kind++) {
			differs[kind] += f.differ[kind] > 0;
			again |= f.differ[kind] > 0 || differs[kind] == 1;
		}
		ever |= again;
		for (int kind = 0; kind < KINDS; kind++) {
			total[kind].compared += f.total[kind].compared;
			total[kind].skipped += f.total[kind].skipped;
			total[kind].on_old += f.total[kind].on_old;
			total[kind].by_syscall += f.total[kind].by_syscall;
			total[kind].by_ours += f.total[kind].by_ours;
		}
	}
	for (int kind = 0; kind <= KINDS; kind++) {
		if (differs[kind] < 2)
			continue;
		report(&plan, "%s differs in %u of %d attempts", kind_name(kind), differs[kind],
		       ATTEMPTS);
		bad++;
	}
	if (ever && !bad)
		report(&plan, "none of it came again");
	return bad;
}

/* What would change the memory of a twin while it is looked at. */
static const struct setting {
	const char *path, *value;
	bool needs_thp;
} settings[] = {
	{ "/proc/sys/vm/dirty_writeback_centisecs", "0", false },
	{ "/proc/sys/vm/compaction_proactiveness", "0", false },
	{ THP "khugepaged/scan_sleep_millisecs", "100000000", true },
	{ THP "hugepages-64kB/enabled", "madvise", true },
	{ THP "hugepages-64kB/shmem_enabled", "advise", true },
	{ KSM "pages_to_scan", "1000", false },
	{ KSM "sleep_millisecs", "5", false },
	{ KSM "run", "0", false },
};

FIXTURE(differential)
{
	char was[ARRAY_LEN(settings)][64], swap[128];
	uint32_t seed;
	double seconds;
};

/* Of a list such as "always [madvise] never" the word in brackets. */
static void chosen_word(char *text)
{
	char *p = strchr(text, '['), *end = p ? strchr(p, ']') : NULL;

	if (!end)
		return;
	*end = 0;
	memmove(text, p + 1, end - p);
}

FIXTURE_SETUP(differential)
{
	const char *seconds = getenv("PM_SECONDS"), *seed = getenv("PM_SEED");

	for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
		if (settings[i].needs_thp && !has_thp())
			continue;
		ASSERT_EQ(0, file_read(settings[i].path, self->was[i], sizeof(self->was[i])))
			TH_LOG("%s", settings[i].path);
		chosen_word(self->was[i]);
		ASSERT_EQ(0, file_write(settings[i].path, settings[i].value))
			TH_LOG("%s", settings[i].path);
	}
	swap_start(self->swap, sizeof(self->swap), 4096);
	ASSERT_EQ(0, system("modprobe -a overlay loop xfs && "
			    "mkdir -p " XFS_DIR " " BLOCKS_DIR " && "
			    "truncate -s 320M " XFS_DIR ".img && mkfs.xfs -q -f " XFS_DIR ".img && "
			    "mount -o loop " XFS_DIR ".img " XFS_DIR " && "
			    "truncate -s 4M " DISK ".img && "
			    "ln -sf $(losetup -f --show " DISK ".img) " DISK));
	if (has_thp())
		ASSERT_EQ(0, system("mkfs.ext4 -q -F -b 65536 " BLOCKS_DIR ".img 96M "
				    "2>/dev/null && mount -o loop " BLOCKS_DIR ".img " BLOCKS_DIR));
	self->seconds = seconds ? atof(seconds) : 60;
	self->seed = seed ? strtoul(seed, NULL, 0) : time(NULL) & 0xffffff;
	TH_LOG("PM_SEED=%u PM_SECONDS=%.0f", self->seed, self->seconds);
}

FIXTURE_TEARDOWN(differential)
{
	file_write(KSM "run", "2");
	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		if (self->was[i][0])
			file_write(settings[i].path, self->was[i]);
	for (int i = 0; i < PLACES; i++)
		node_pool(mem[i], "0");
	swap_end(self->swap);
	EXPECT_EQ(0, system("umount " XFS_DIR "; umount " BLOCKS_DIR " 2>/dev/null; "
			    "losetup -d $(readlink " DISK "); rm -r " IMAGES));
}

TEST_F_TIMEOUT(differential, what_the_system_call_moves, 1000000)
{
	static struct totals total[KINDS];
	const char *only = getenv("PM_KIND");
	double begin = now();
	uint32_t rounds = 0;

	while (now() - begin < self->seconds || rounds < LEAST_ROUNDS) {
		double at = now();
		size_t bad = round_of(self->seed + rounds, total);

		EXPECT_EQ(0, bad);
		TH_LOG("seed %u: %.1f s", self->seed + rounds, now() - at);
		rounds++;
	}
	fprintf(stderr, "# %u rounds. Pages: compared, not alike in the twins, on old nodes, of "
		"these moved by migrate_pages(2), by ours\n", rounds);
	for (int kind = 0; kind < KINDS; kind++) {
		const struct totals *t = &total[kind];

		fprintf(stderr, "# %16s %7zu %7zu %7zu %7zu %7zu\n", kinds[kind].name,
			t->compared, t->skipped, t->on_old, t->by_syscall, t->by_ours);
		if (only || !is_wanted(kind))
			continue;
		EXPECT_LT(0, t->compared)
			TH_LOG("%s was never compared", kinds[kind].name);
		EXPECT_EQ(!(kinds[kind].is & STAYS), t->by_syscall > 0)
			TH_LOG("%s: migrate_pages(2) moved %zu", kinds[kind].name, t->by_syscall);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--twin"))
		return twin_main(strtoul(argv[2], NULL, 10));
	return test_harness_run(argc, argv);
}
