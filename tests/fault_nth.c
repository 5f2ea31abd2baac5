// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation and every copy from and to user memory in every call fails,
 * one after another. The kernel must be built for that (CONFIG_FAULT_INJECTION);
 * see Documentation/fault-injection/fault-injection.rst.
 */
#include "harness.h"
#include "mem_util.h"

#include <sys/syscall.h>
#include <sys/xattr.h>

enum {
	N = 16,		/* pages of a range */
	HUGE = 2,
	MOST = 20000,	/* chances in one call: more means that they never end */
	STEP = 64,	/* bytes from one start of a lasting failure to the next, at first */
	FIRST = 128,	/* chances that are all taken where there are very many */
	SOME = 7,	/* and from then on, one of so many */
};

/* What may fail: one chance, or, lasting, everything of a kind from some point on. */
enum faults { EITHER, COPIES, ALLOCATIONS, SLAB_LASTING, PAGES_LASTING };

#define FAULTS "/sys/kernel/debug/"
static const char *const injectors[] = { "failslab", "fail_page_alloc", "fail_usercopy" };

static void set_fault(const char *injector, const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), FAULTS "%s/%s", injector, file);
	if (file_write(path, value))
		die("%s", path);
}

static void set_fault_to(const char *injector, const char *file, long value)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", value);
	set_fault(injector, file, text);
}

/*
 * Each allocation counts, whatever it may do to get memory. All settings are
 * made, so that none is left over from another test. Those that keep a kind of
 * failure away are asked before fail-nth counts.
 */
static void faults_prepare(enum faults faults)
{
	bool copies = faults == COPIES;

	for (size_t i = 0; i < ARRAY_LEN(injectors); i++) {
		set_fault(injectors[i], "probability", "0");
		set_fault(injectors[i], "times", "-1");
		set_fault(injectors[i], "interval", "1");
		set_fault(injectors[i], "space", "0");
		set_fault(injectors[i], "verbose", "0");
		set_fault(injectors[i], "task-filter", "N");
		set_fault(injectors[i], "stacktrace-depth", "32");
		set_fault(injectors[i], "require-start", "0");
		set_fault(injectors[i], "require-end", "0xffffffffffffffff");
	}
	set_fault("failslab", "ignore-gfp-wait", "N");
	set_fault("fail_page_alloc", "ignore-gfp-wait", "N");
	set_fault("fail_page_alloc", "ignore-gfp-highmem", "N");
	/* No cache is marked to fail, and no page is as large. */
	set_fault("failslab", "cache-filter", copies ? "Y" : "N");
	set_fault("fail_page_alloc", "min-order", copies ? "32" : "0");
	/* No caller is looked for that must be there: so none is found. */
	if (faults == ALLOCATIONS) {
		set_fault("fail_usercopy", "require-start", "1");
		set_fault("fail_usercopy", "stacktrace-depth", "0");
	}
}

/* How this thread makes its own calls fail. */
struct injector {
	enum faults faults;
	int nth, lasting;
};

static int task_file(const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/thread-self/%s", name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die("%s", path);
	return fd;
}

static void injector_open(struct injector *in, enum faults faults)
{
	struct page_migrate_info info;
	int fd = pm_open();

	/*
	 * What a call needs in this process is there before anything fails: a page
	 * fault that gets no memory is no failure of the call, but is tried again
	 * for as long as the failure lasts.
	 */
	if (pm_ioctl(fd, PAGE_MIGRATE_IOC_INFO, &info))
		die("PAGE_MIGRATE_IOC_INFO");
	close(fd);
	faults_prepare(faults);
	in->faults = faults;
	in->nth = task_file("fail-nth");
	in->lasting = task_file("make-it-fail");
}

static void injector_close(struct injector *in)
{
	faults_prepare(EITHER);
	close(in->nth);
	close(in->lasting);
}

static void nth_set(int fd, int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	/* This write, too, has its chances. */
	for (int i = 0; pwrite(fd, text, len, 0) != len; i++)
		if (i == 8)
			die("fail-nth");
}

/* Whether the failure has happened: then the count is down to 0. */
static bool nth_happened(int fd)
{
	char text[16] = "";
	bool happened;

	happened = pread(fd, text, sizeof(text) - 1, 0) > 0 && atoi(text) == 0;
	nth_set(fd, 0);
	return happened;
}

/* A failure that may happen so many times, once space is used up. */
static void space_set(const char *injector, long space, int times)
{
	set_fault_to(injector, "space", space);
	set_fault_to(injector, "times", times);
	set_fault(injector, "probability", "100");
}

static bool space_happened(const char *injector, int times)
{
	char path[128], text[32];

	set_fault(injector, "probability", "0");
	snprintf(path, sizeof(path), FAULTS "%s/times", injector);
	if (file_read(path, text, sizeof(text)))
		die("%s", path);
	return atoi(text) != times;
}

/* More often than a call can fail, but they are counted. */
#define ALWAYS 1000000

/*
 * From which byte on the nth failure of small allocations is. They differ in size
 * a lot, and in kind less and less: so from one to the next it gets farther.
 */
static long nth_space(int n)
{
	long space = 0;

	while (--n > 0)
		space += space > 32 * STEP ? space / 32 : STEP;
	return space;
}

static void inject(struct injector *in, int n)
{
	const char *name = in->faults == SLAB_LASTING ? "failslab" : "fail_page_alloc";

	if (in->faults < SLAB_LASTING) {
		nth_set(in->nth, n);
		return;
	}
	/* Space is in bytes, or in pages; a rest of it still serves what is smaller. */
	set_fault(name, "task-filter", "Y");
	space_set(name, in->faults == SLAB_LASTING ? nth_space(n) : n - 1, ALWAYS);
	if (pwrite(in->lasting, "1", 1, 0) != 1)
		die("make-it-fail");
}

static bool injected(struct injector *in)
{
	if (in->faults < SLAB_LASTING)
		return nth_happened(in->nth);
	if (pwrite(in->lasting, "0", 1, 0) != 1)
		die("make-it-fail");
	return space_happened(in->faults == SLAB_LASTING ? "failslab" : "fail_page_alloc", ALWAYS);
}

struct seen {
	unsigned int faults, nomem, fault, survived;
	double since;
};

#define SEEN_NOTHING { .since = now() }

/* What a sweep has seen; its time, since this is the slowest of all programs. */
#define LOG_SEEN(seen)								\
	TH_LOG("%u failures in %.0f s: %u ENOMEM, %u EFAULT, %u that did not matter", \
	       (seen)->faults, now() - (seen)->since, (seen)->nomem, (seen)->fault, \
	       (seen)->survived)

/* Runs a call with its nth chance of a failure taken; whether there was one. */
#define WITH_FAULT(in, n, ret, call) ({				\
	inject(in, n);						\
	(ret) = (call);						\
	injected(in);						\
})

/*
 * A whole process has hundreds of pages, and each page for which there is no room
 * has many chances. They fail in the same few ways, so tests of them take some of
 * the chances only: they would take longer than all others together.
 */
static int next_chance(int n, bool many)
{
	return many && n >= FIRST ? n + SOME : n + 1;
}

static void note(struct seen *seen, long ret)
{
	seen->faults++;
	if (ret == -ENOMEM)
		seen->nomem++;
	else if (ret == -EFAULT)
		seen->fault++;
	else
		seen->survived++;
}

/*
 * Whether a call may end so. A copy that fails is never passed over, and memory
 * that is missing is not taken for an address that is wrong.
 */
static bool may_return(enum faults faults, bool happened, long ret)
{
	if (!happened)
		return ret >= 0;
	switch (faults) {
	case EITHER:
		return ret >= 0 || ret == -ENOMEM || ret == -EFAULT;
	case COPIES:
		return ret == -EFAULT;
	default:
		return ret >= 0 || ret == -ENOMEM;
	}
}

enum kind {
	ANON, THP, BOUND, SHMEM, HUGETLB, CACHE, PRIVATE_FILE, MARKED, POLICY_SHM, POLICY_TASK,
	COPIED, LOCKED, SWAPPED, SECRET, MERGED,
};

FIXTURE(memory)
{
	char *p, path[128];
	size_t npages;
	int file;
	struct injector in;
	struct child child;
};

FIXTURE_VARIANT(memory)
{
	enum kind kind;
	enum faults faults;
};

#define ONLY(name, what, which) FIXTURE_VARIANT_ADD(memory, name) {	\
	.kind = what,							\
	.faults = which,						\
}

#define VARIANT(name, what) ONLY(name, what, EITHER)
/* Copies are the same for all kinds of memory, so these two are apart. */
ONLY(anonymous, ANON, ALLOCATIONS);
ONLY(anonymous_copies, ANON, COPIES);
ONLY(shared_policy, POLICY_SHM, ALLOCATIONS);
ONLY(shared_policy_copies, POLICY_SHM, COPIES);
VARIANT(thp, THP);
VARIANT(with_policies, BOUND);
VARIANT(shmem, SHMEM);
VARIANT(hugetlb, HUGETLB);
VARIANT(page_cache, CACHE);
VARIANT(private_file, PRIVATE_FILE);
VARIANT(marked_file, MARKED);
VARIANT(task_policy, POLICY_TASK);
VARIANT(shared_by_fork, COPIED);
VARIANT(locked, LOCKED);
VARIANT(half_in_swap, SWAPPED);
VARIANT(secret, SECRET);
VARIANT(merged, MERGED);
ONLY(anonymous_no_slab, ANON, SLAB_LASTING);
ONLY(shared_policy_no_slab, POLICY_SHM, SLAB_LASTING);
ONLY(anonymous_no_pages, ANON, PAGES_LASTING);
ONLY(marked_file_no_pages, MARKED, PAGES_LASTING);

static char *map_shared(size_t npages, int node)
{
	char *p = reserve(npages);

	map_fixed(p, npages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	place_pages(p, npages, &node, 1);
	return p;
}

/* A child that has all pages too, until one of both writes. */
static void share(struct child *c, void *arg)
{
	const char *p = arg;

	touch(p, N);
	for (child_put(c, 0);;) {
		child_get(c);
		child_put(c, bad_pages(p, N, 1));
	}
}

static char *map_secret(int node)
{
	int fd = syscall(SYS_memfd_secret, 0);
	char *p;

	if (fd < 0 || ftruncate(fd, N * PAGE))
		die("memfd_secret");
	p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap of secret memory");
	close(fd);
	place_pages(p, N, &node, 1);
	return p;
}

#define KSM "/sys/kernel/mm/ksm/"

/* All of them become one page with many mappings. */
static void merge(char *p)
{
	size_t same = 0;

	for (int i = 0; i < N; i++)
		fill(p + i * PAGE, 1, 1);
	if (file_write(KSM "pages_to_scan", "1000") || file_write(KSM "sleep_millisecs", "5") ||
	    file_write(KSM "run", "1") || madvise(p, N * PAGE, MADV_MERGEABLE))
		die("ksm");
	for (int i = 0; i < 3000 && same < N; i++) {
		usleep(100000);
		for (same = 0; same < N && pfn_of(p + same * PAGE) == pfn_of(p); same++)
			;
	}
	if (same < N || !has_flag(p, KPF_KSM))
		die("ksmd has not merged the pages");
	file_write(KSM "run", "0");
}

/* Pages whose contents are not what they were. */
static size_t damage(const char *p, size_t npages, enum kind kind)
{
	size_t bad = 0;

	if (kind != MERGED)
		return bad_pages(p, npages, 1);
	for (size_t i = 0; i < npages; i++)
		bad += bad_pages(p + i * PAGE, 1, 1);
	return bad;
}

FIXTURE_SETUP(memory)
{
	const int a = mem[0];
	size_t npages = N;

	injector_open(&self->in, variant->faults);
	self->file = -1;
	switch (variant->kind) {
	case ANON:
	case POLICY_TASK:
	case COPIED:
	case MERGED:
		self->p = map_node(N, a);
		break;
	case LOCKED:
		self->p = map_node(N, a);
		if (mlock(self->p, N * PAGE))
			die("mlock");
		break;
	case SWAPPED:
		swap_start(self->path, sizeof(self->path), 4096);
		self->p = map_node(N, a);
		break;
	case SECRET:
		self->p = map_secret(a);
		break;
	case THP:
		if (!has_thp())
			SKIP(return, NO_THP);
		npages = HUGE * HPAGE_NR;
		self->p = map_thp(HUGE, a);
		break;
	case BOUND:
		/* Several mappings, each with a policy of its own. */
		self->p = map_node(N, a);
		for (int i = 0; i < N; i += 4)
			bind_range(self->p + i * PAGE, 2, a);
		break;
	case SHMEM:
		self->p = map_shared(N, a);
		break;
	case POLICY_SHM:
		self->p = map_shared(N, a);
		for (int i = 0; i < N; i += 4)
			bind_range(self->p + i * PAGE, 2, a);
		break;
	case HUGETLB:
		npages = HUGE * HPAGE_NR;
		if (node_pool(a, "2") != HUGE || node_pool(mem[1], "2") != HUGE)
			die("no pool of huge pages");
		self->p = mmap(NULL, HUGE * HPAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		if (self->p == MAP_FAILED)
			die("mmap of huge pages");
		place_pages(self->p, npages, &a, 1);
		break;
	case CACHE:
	case PRIVATE_FILE:
	case MARKED:
		self->file = scratch_file("fault", self->path, sizeof(self->path));
		file_fill(self->file, N, 1, &a, 1);
		if (variant->kind == MARKED && fsetxattr(self->file, "user.migrate", "none", 4, 0))
			die("setxattr");
		fsync(self->file);
		self->p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE,
			       variant->kind == PRIVATE_FILE ? MAP_PRIVATE : MAP_SHARED,
			       self->file, 0);
		if (self->p == MAP_FAILED)
			die("mmap of a file");
		place_pages(self->p, variant->kind == PRIVATE_FILE ? N / 2 : N, &a, 1);
		touch(self->p, N);
		break;
	}
	self->npages = npages;
	fill(self->p, variant->kind == PRIVATE_FILE ? N / 2 : npages, 1);
	if (variant->kind == MERGED)
		merge(self->p);
	if (!all_on(0, self->p, npages, &a, 1))
		die("the pages are not where they should be");
	if (variant->kind == COPIED) {
		child_start(&self->child, share, self->p);
		child_get(&self->child);
	}
	if (variant->kind == POLICY_TASK)
		bind_to(a);
}

FIXTURE_TEARDOWN(memory)
{
	if (variant->kind == POLICY_TASK)
		bind_to(-1);
	munmap(self->p, self->npages * PAGE);
	if (variant->kind == COPIED)
		child_end(&self->child);
	if (variant->kind == SWAPPED)
		swap_end(self->path);
	if (variant->kind == MERGED)
		file_write(KSM "run", "2");
	if (variant->kind == HUGETLB) {
		node_pool(mem[0], "0");
		node_pool(mem[1], "0");
	}
	if (self->file >= 0) {
		close(self->file);
		unlink(self->path);
	}
	injector_close(&self->in);
}

/* Moves until everything has moved: a page may be busy for a moment. */
static long move_all(int fd, const void *p, size_t len, int from, int to)
{
	long ret = 1;

	for (int i = 0; i < 20 && ret > 0; i++) {
		if (i)
			usleep(50000);
		ret = pm_move(fd, 0, p, len, 0, 1, &from, &to, NULL);
	}
	return ret;
}

/* The very same call, until all is done. */
static long repeat(int fd, struct page_migrate_request *req)
{
	long ret = 1;

	for (int i = 0; i < 20 && ret > 0; i++) {
		if (i)
			usleep(50000);
		ret = pm_migrate(fd, req);
	}
	return ret;
}

/* The half that can be in swap: what is not there was not brought in. */
static size_t not_there(const char *p)
{
	size_t n = 0;

	for (int i = 0; i < N; i++)
		n += !pfn_of(p + i * PAGE);
	return n;
}

/* The pages that stay whatever is asked of the kernel: whether a call says so. */
static bool all_unmovable(int fd, const void *p, int from, int to)
{
	struct page_migrate_result res;

	return pm_move(fd, 0, p, N * PAGE, 0, 1, &from, &to, &res) == N && res.unmovable == N;
}

/*
 * A result that had poison in it: where there was no memory it is written all
 * the same, and says where to go on.
 */
static bool told(const struct page_migrate_request *req)
{
	const struct page_migrate_result *res = &req->result;
	uint64_t end = req->va_start + req->len;

	/* The whole address space ends before that. */
	if (end < req->va_start)
		end = ~0ULL;
	return !pm_is_poison(res) && res->resume_va >= req->va_start && res->resume_va <= end;
}

/* Each page with a policy is bound to one node, and that is a or b. */
static bool policies_are_whole(const char *p, int a, int b, int *node)
{
	for (int i = 0; i < N; i += 4) {
		unsigned long mask[MAX_NODES / 64] = { };
		int mode, bits = 0;

		if (get_mempolicy(&mode, mask, MAX_NODES, (void *)(p + i * PAGE), MPOL_F_ADDR))
			die("get_mempolicy");
		for (int n = 0; n < MAX_NODES; n++) {
			if (mask[n / 64] >> n % 64 & 1) {
				bits++;
				*node = n;
			}
		}
		if (mode != MPOL_BIND || bits != 1 || (*node != a && *node != b))
			return false;
	}
	return true;
}

TEST_F_TIMEOUT(memory, migrate, 900)
{
	bool stays = variant->kind == MARKED || variant->kind == SECRET;
	bool bound = variant->kind == BOUND || variant->kind == POLICY_SHM;
	/* A task's policy is met only by a call for the whole process. */
	bool whole = variant->kind == POLICY_TASK;
	char *start = whole ? NULL : self->p;
	size_t len = whole ? ~0UL : self->npages * PAGE;
	const int a = mem[0], b = mem[1];
	int to = stays ? a : b, node = -1;
	unsigned int late = 0;
	size_t swapped = 0;
	struct seen seen = SEEN_NOTHING;
	bool happened = true;

	for (int n = 1; happened; n = next_chance(n, whole)) {
		uint64_t by_pair[2] = { };
		int old[2] = { a, mem[2] }, new[2] = { b, b };
		struct page_migrate_request req = pm_req(0, start, len, 2, old, new);
		int fd = pm_open();
		size_t there, gone = 0;
		long ret;

		if (variant->kind == SWAPPED) {
			ASSERT_EQ(0, madvise(self->p, N / 2 * PAGE, MADV_PAGEOUT));
			gone = not_there(self->p);
			swapped += gone;
		}
		req.moved_by_pair = (uintptr_t)by_pair;
		pm_poison(&req.result);
		happened = WITH_FAULT(&self->in, n, ret, pm_migrate(fd, &req));
		ASSERT_GT(MOST, n);
		if (happened)
			note(&seen, ret);
		ASSERT_TRUE(may_return(variant->faults, happened, ret))
			TH_LOG("failure %d: %ld", n, ret);
		ASSERT_TRUE(ret != -ENOMEM || told(&req)) pm_print(&req.result);
		ASSERT_TRUE(ret != -EFAULT || pm_is_poison(&req.result)) pm_print(&req.result);
		/* Nothing is lost, and nothing has strayed. */
		there = count_on(0, self->p, self->npages, b);
		ASSERT_EQ(self->npages - gone, there + count_on(0, self->p, self->npages, a))
			TH_LOG("failure %d: %ld", n, ret);
		if (stays) {
			ASSERT_EQ(0, there)
				TH_LOG("failure %d: %ld", n, ret);
		} else if (!ret) {
			ASSERT_EQ(self->npages - gone, there)
				TH_LOG("failure %d", n);
		} else if (ret > 0) {
			ASSERT_EQ(ret, (long)pm_left(&req.result)) pm_print(&req.result);
		}
		if (variant->faults == COPIES && happened) {
			/* All is read before anything is done; then only the result is left. */
			ASSERT_TRUE(there || !late)
				TH_LOG("failure %d", n);
			late += there > 0;
			ASSERT_TRUE(there || !bound || policies_are_whole(self->p, a, a, &node))
				TH_LOG("failure %d: policies have changed", n);
		}
		if (variant->kind == SWAPPED) {
			ASSERT_EQ(gone, not_there(self->p))
				TH_LOG("failure %d: %ld", n, ret);
			/* What is read back comes to where it was. */
			bind_to(a);
			touch(self->p, N);
			bind_to(-1);
		}
		ASSERT_EQ(0, damage(self->p, self->npages, variant->kind))
			TH_LOG("failure %d: %ld", n, ret);
		if (bound) {
			ASSERT_TRUE(policies_are_whole(self->p, a, b, &node))
				TH_LOG("failure %d: %ld", n, ret);
		}
		/* The same call does the rest. */
		if (variant->kind == SECRET) {
			ASSERT_TRUE(ret < 0 || ret == N);
			ASSERT_TRUE(all_unmovable(fd, self->p, a, b))
				TH_LOG("failure %d: %ld", n, ret);
		} else {
			ASSERT_EQ(0, repeat(fd, &req))
				TH_LOG("failure %d: %ld", n, ret);
		}
		ASSERT_TRUE(all_on(0, self->p, self->npages, &to, 1))
			TH_LOG("failure %d: %ld", n, ret);
		ASSERT_TRUE(!bound || policies_are_whole(self->p, b, b, &node));
		if (variant->kind == COPIED) {
			/* Still one page for both. */
			for (int i = 0; i < N; i++)
				ASSERT_EQ(pfn_of(self->p + i * PAGE),
					  pfn_of_pid(self->child.pid, self->p + i * PAGE));
			child_put(&self->child, 1);
			ASSERT_EQ(0, child_get(&self->child));
		}
		for (int i = 0; variant->kind == LOCKED && i < N; i++) {
			ASSERT_TRUE(has_flag(self->p + i * PAGE, KPF_MLOCKED_BIT))
				TH_LOG("failure %d: page %d is not locked any more", n, i);
		}
		close(fd);
		if (stays)
			continue;
		fd = pm_open();
		ASSERT_EQ(0, move_all(fd, start, len, b, a));
		close(fd);
	}
	ASSERT_EQ(0, nr_isolated());
	LOG_SEEN(&seen);
	if (variant->faults == COPIES) {
		/* At least the argument and two lists; the counts of the pairs and the result. */
		EXPECT_LE(3, seen.fault - late);
		EXPECT_LE(2, late);
	} else {
		EXPECT_LT(0, seen.nomem);
	}
	if (variant->faults == EITHER)
		EXPECT_LT(0, seen.fault);
	if (variant->kind == SWAPPED)
		EXPECT_LT(0, swapped);
}

TEST_F_TIMEOUT(memory, placement, 300)
{
	static uint64_t pages[MAX_NODES];
	struct seen seen = SEEN_NOTHING;
	bool happened = true;
	int fd = pm_open();

	for (int n = 1; happened; n++) {
		long ret;

		memset(pages, 0xff, sizeof(pages));
		happened = WITH_FAULT(&self->in, n, ret,
				      pm_placement(fd, 0, self->p, self->npages * PAGE, pages));
		ASSERT_GT(MOST, n);
		if (happened)
			note(&seen, ret);
		ASSERT_GE(0, ret);
		ASSERT_TRUE(may_return(variant->faults, happened, ret))
			TH_LOG("failure %d: %ld", n, ret);
		if (ret)
			ASSERT_EQ(0, pm_placement(fd, 0, self->p, self->npages * PAGE, pages));
		ASSERT_EQ(self->npages, pages[mem[0]]);
	}
	LOG_SEEN(&seen);
	if (variant->faults == EITHER || variant->faults == COPIES)
		EXPECT_LT(0, seen.fault);
	/* Where one allocation fails, vmalloc helps. It is all too small for whole pages. */
	if (variant->faults == SLAB_LASTING)
		EXPECT_LT(0, seen.nomem);
	close(fd);
}

/* Another process, whole: its policies, its threads, its libraries. */
static void be_target(struct child *c, void *arg)
{
	char *p = arg;

	bind_to(mem[0]);
	for (;;)
		child_put(c, bad_pages(p, N, 3) + (child_get(c) != 1));
}

TEST(other_process)
{
	const int a = mem[0], b = mem[1];
	struct seen seen = SEEN_NOTHING;
	bool happened = true;
	struct injector in;
	struct child c;
	char *p;

	injector_open(&in, EITHER);
	p = map_shared(N, a);
	fill(p, N, 3);
	bind_range(p, N / 2, a);
	child_start(&c, be_target, p);
	for (int n = 1; happened; n = next_chance(n, true)) {
		struct page_migrate_request req = pm_req(c.pid, NULL, ~0UL, 1, &a, &b);
		int fd = pm_open();
		long ret;

		pm_poison(&req.result);
		happened = WITH_FAULT(&in, n, ret, pm_migrate(fd, &req));
		ASSERT_GT(MOST, n);
		if (happened)
			note(&seen, ret);
		ASSERT_TRUE(may_return(EITHER, happened, ret))
			TH_LOG("failure %d: %ld", n, ret);
		ASSERT_TRUE(ret != -ENOMEM || told(&req)) pm_print(&req.result);
		child_put(&c, 1);
		ASSERT_EQ(0, child_get(&c));
		/* Pages of libraries may be in use elsewhere: these are its own. */
		ASSERT_LE(0, pm_move(fd, c.pid, NULL, ~0UL, 0, 1, &a, &b, NULL));
		ASSERT_TRUE(all_on(c.pid, p, N, &b, 1))
			TH_LOG("failure %d: %ld", n, ret);
		close(fd);
		fd = pm_open();
		ASSERT_LE(0, pm_move(fd, c.pid, NULL, ~0UL, 0, 1, &b, &a, NULL));
		ASSERT_TRUE(all_on(c.pid, p, N, &a, 1));
		close(fd);
	}
	ASSERT_EQ(0, nr_isolated());
	LOG_SEEN(&seen);
	EXPECT_LT(0, seen.nomem);
	EXPECT_LT(0, seen.fault);
	child_end(&c);
	injector_close(&in);
}

/* What a job's file is made of: opening it, its information, its fdinfo. */
TEST(file_and_info)
{
	static const enum faults kinds[] = { COPIES, ALLOCATIONS };
	struct page_migrate_info info;
	struct seen seen = SEEN_NOTHING;
	bool happened = true;
	char path[64], text[4096];
	struct injector in;
	int fd, proc;
	long ret;

	injector_open(&in, EITHER);
	for (int n = 1; happened; n++) {
		happened = WITH_FAULT(&in, n, fd, open(PM_DEVICE, O_RDWR | O_CLOEXEC));
		ASSERT_GT(MOST, n);
		if (fd < 0) {
			ASSERT_TRUE(errno == ENOMEM || errno == EFAULT || errno == ENFILE)
				TH_LOG("failure %d: %m", n);
			seen.nomem++;
		} else {
			close(fd);
		}
	}
	EXPECT_LT(0, seen.nomem);
	fd = pm_open();
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		faults_prepare(kinds[i]);
		happened = true;
		for (int n = 1; happened; n++) {
			happened = WITH_FAULT(&in, n, ret,
					      pm_ioctl(fd, PAGE_MIGRATE_IOC_INFO, &info));
			ASSERT_GT(MOST, n);
			/* It needs no memory: nothing but the copy can fail. */
			ASSERT_EQ(happened && kinds[i] == COPIES ? -EFAULT : 0, ret)
				TH_LOG("failure %d: %ld", n, ret);
			seen.fault += ret == -EFAULT;
		}
	}
	EXPECT_LT(0, seen.fault);
	faults_prepare(EITHER);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	happened = true;
	for (int n = 1; happened; n++) {
		proc = open(path, O_RDONLY | O_CLOEXEC);
		ASSERT_LE(0, proc);
		happened = WITH_FAULT(&in, n, ret, read(proc, text, sizeof(text)));
		ASSERT_GT(MOST, n);
		ASSERT_TRUE(ret > 0 || happened);
		close(proc);
	}
	close(fd);
	injector_close(&in);
}

/*
 * New pages fail at random, in many calls. In the last of them a page may go to
 * another new node, if its own has none.
 */
TEST(random_pages)
{
	enum { MANY = 2048, CALLS = 24, STRICT_CALLS = 20 };
	const int nodes[] = { mem[0], mem[1], mem[2] };
	/* A cycle, so that a page that moves twice is seen. */
	const int next[] = { mem[1], mem[2], mem[0] };
	uint64_t no_memory = 0, moved = 0, fallback = 0;
	int whole = 0;
	int before[MANY], after[MANY], final[MANY];
	char *p = map_nodes(MANY, nodes, 3);

	faults_prepare(EITHER);
	fill(p, MANY, 5);
	set_fault("fail_page_alloc", "task-filter", "Y");
	for (int i = 0; i < CALLS; i++) {
		struct page_migrate_result res;
		unsigned int flags = i < STRICT_CALLS ? PAGE_MIGRATE_STRICT : 0;
		size_t stayed = 0, went = 0, strayed = 0, said;
		int fd = pm_open();
		long ret;

		nodes_of(0, p, MANY, before);
		set_fault("fail_page_alloc", "probability", i % 2 ? "50" : "5");
		file_write("/proc/self/make-it-fail", "1");
		ret = pm_move(fd, 0, p, MANY * PAGE, flags, 3, nodes, next, &res);
		file_write("/proc/self/make-it-fail", "0");
		set_fault("fail_page_alloc", "probability", "0");
		ASSERT_TRUE(ret >= 0 || ret == -ENOMEM)
			TH_LOG("call %d: %ld", i, ret);
		ASSERT_FALSE(pm_is_poison(&res));
		nodes_of(0, p, MANY, after);
		for (int k = 0; k < MANY; k++) {
			int to = before[k] == nodes[0] ? next[0] :
				 before[k] == nodes[1] ? next[1] : next[2];

			stayed += after[k] == before[k];
			went += after[k] == to;
			strayed += after[k] != before[k] && after[k] != to;
			ASSERT_TRUE(after[k] == nodes[0] || after[k] == nodes[1] ||
				    after[k] == nodes[2])
				TH_LOG("call %d, page %d: %d to %d", i, k, before[k], after[k]);
		}
		said = res.no_memory + pm_left(&res);
		/* Without memory for bookkeeping it ends early: the counts are of a part. */
		if (res.resume_va < (uintptr_t)p + MANY * PAGE) {
			EXPECT_EQ(-ENOMEM, ret) pm_print(&res);
			EXPECT_GE(stayed, said) pm_print(&res);
		} else {
			whole++;
			EXPECT_EQ(stayed, said) pm_print(&res);
		}
		EXPECT_EQ(went, res.moved) pm_print(&res);
		EXPECT_EQ(strayed, res.moved_fallback) pm_print(&res);
		if (flags)
			ASSERT_EQ(0, strayed);
		no_memory += res.no_memory;
		moved += res.moved;
		fallback += strayed;
		ASSERT_EQ(0, bad_pages(p, MANY, 5));
		/* The same call finishes what is left, and moves nothing twice. */
		ret = 1;
		for (int k = 0; k < 20 && ret > 0; k++)
			ret = pm_move(fd, 0, p, MANY * PAGE, flags, 3, nodes, next, NULL);
		ASSERT_EQ(0, ret);
		nodes_of(0, p, MANY, final);
		for (int k = 0; k < MANY; k++) {
			int to = before[k] == nodes[0] ? next[0] :
				 before[k] == nodes[1] ? next[1] : next[2];

			ASSERT_EQ(after[k] == before[k] ? to : after[k], final[k])
				TH_LOG("call %d, page %d was on %d", i, k, before[k]);
		}
		close(fd);
	}
	ASSERT_EQ(0, bad_pages(p, MANY, 5));
	ASSERT_EQ(0, nr_isolated());
	faults_prepare(EITHER);
	TH_LOG("%llu pages moved, %llu found no memory, %llu another node", (long long)moved,
	       (long long)no_memory, (long long)fallback);
	EXPECT_LT(0, no_memory);
	EXPECT_LT(0, fallback);
	/* Most calls got to their end, and so had all their counts checked. */
	EXPECT_LT(CALLS / 2, whole);
}

/* Where a function of the module begins and ends. */
static void function_range(const char *name, unsigned long *start, unsigned long *end)
{
	unsigned long at;
	char line[512], symbol[256];

	*start = 0;
	*end = ~0UL;
	/* The first time to find it, the second time to find what comes next. */
	for (int i = 0; i < 2; i++) {
		FILE *f = fopen("/proc/kallsyms", "re");

		while (f && fgets(line, sizeof(line), f)) {
			if (!strstr(line, "[page_migrate]") ||
			    sscanf(line, "%lx %*c %255s", &at, symbol) != 2)
				continue;
			if (!i && !strcmp(symbol, name))
				*start = at;
			if (i && at > *start && at < *end)
				*end = at;
		}
		if (!f)
			die("/proc/kallsyms");
		fclose(f);
	}
	if (!*start || *end == ~0UL)
		die("no %s in the module", name);
}

/* A process that has its pages for itself, and looks at them when it is told to. */
static void be_plain(struct child *c, void *arg)
{
	char *p = arg;

	place_pages(p, N, &mem[0], 1);
	fill(p, N, 6);
	for (child_put(c, 0);;) {
		child_get(c);
		child_put(c, bad_pages(p, N, 6));
	}
}

/*
 * A caller that may not use all nodes has a kernel thread do the work, which
 * knows nothing of the caller's fail-nth. So what fails is what is called from
 * that thread's function: once, or from some point on.
 */
static void worker_faults(struct __test_metadata *_metadata, bool slab, int times)
{
	const char *injector = slab ? "failslab" : "fail_page_alloc";
	const int a = mem[0], b = mem[1];
	unsigned long start, end;
	struct seen seen = SEEN_NOTHING;
	bool happened = true;
	struct child c;
	char text[24], *p;
	struct cg cg;

	function_range("pm_work_run", &start, &end);
	p = lazy_map(N, MADV_NOHUGEPAGE);
	child_start(&c, be_plain, p);
	child_get(&c);
	snprintf(text, sizeof(text), "%d", a);
	cg_make(&cg, "worker", text);
	cg_enter(&cg, getpid());
	faults_prepare(EITHER);
	snprintf(text, sizeof(text), "%#lx", start);
	set_fault(injector, "require-start", text);
	snprintf(text, sizeof(text), "%#lx", end);
	set_fault(injector, "require-end", text);
	for (int n = 1; happened; n++) {
		long space = slab ? nth_space(n) : n - 1;
		struct page_migrate_request req = pm_req(c.pid, p, N * PAGE, 1, &a, &b);
		int fd = pm_open();
		long ret;

		pm_poison(&req.result);
		space_set(injector, space, times);
		ret = pm_migrate(fd, &req);
		happened = space_happened(injector, times);
		ASSERT_GT(MOST, n);
		if (happened)
			note(&seen, ret);
		ASSERT_TRUE(may_return(ALLOCATIONS, happened, ret))
			TH_LOG("from %ld on: %ld", space, ret);
		ASSERT_TRUE(ret != -ENOMEM || told(&req)) pm_print(&req.result);
		ASSERT_EQ(N, count_on(c.pid, p, N, a) + count_on(c.pid, p, N, b))
			TH_LOG("from %ld on: %ld", space, ret);
		ASSERT_TRUE(ret || all_on(c.pid, p, N, &b, 1));
		child_put(&c, 1);
		ASSERT_EQ(0, child_get(&c))
			TH_LOG("from %ld on: %ld", space, ret);
		/* The same call does the rest. */
		ASSERT_EQ(0, repeat(fd, &req))
			TH_LOG("from %ld on: %ld", space, ret);
		ASSERT_TRUE(all_on(c.pid, p, N, &b, 1));
		close(fd);
		fd = pm_open();
		req = pm_req(c.pid, p, N * PAGE, 1, &b, &a);
		ASSERT_EQ(0, repeat(fd, &req));
		close(fd);
		child_put(&c, 1);
		ASSERT_EQ(0, child_get(&c));
	}
	faults_prepare(EITHER);
	ASSERT_EQ(0, nr_isolated());
	LOG_SEEN(&seen);
	EXPECT_LT(0, seen.faults);
	/* One page that is missing is got with more effort. */
	if (times > 1 || slab)
		EXPECT_LT(0, seen.nomem);
	cg_leave(getpid());
	child_end(&c);
	cg_remove(&cg);
}

TEST(worker_slab)
{
	worker_faults(_metadata, true, 1);
}

TEST(worker_no_slab)
{
	worker_faults(_metadata, true, ALWAYS);
}

TEST(worker_page)
{
	worker_faults(_metadata, false, 1);
}

TEST(worker_no_pages)
{
	worker_faults(_metadata, false, ALWAYS);
}

/*
 * Most of the pages find no room. They are tried once more, and that fails, too.
 * A move within a full node is not to be had: pages come back before the next one.
 */
TEST(full_node)
{
	/* The kernel may find some more room than there was. */
	enum { PAGES = 512 };
	const int a = mem[0], b = mem[1];
	struct seen seen = SEEN_NOTHING;
	uint64_t no_memory = 0, moved = 0;
	bool happened = true;
	struct injector in;
	struct child hog;
	char *p;

	p = map_node(PAGES, a);
	fill(p, PAGES, 7);
	hog_start(&hog, b);
	hog_release(&hog, N);
	injector_open(&in, EITHER);
	for (int n = 1; happened; n = next_chance(n, true)) {
		struct page_migrate_request req = pm_req(0, p, PAGES * PAGE, 1, &a, &b);
		int fd = pm_open();
		size_t there;
		long ret;

		pm_poison(&req.result);
		happened = WITH_FAULT(&in, n, ret, pm_migrate(fd, &req));
		ASSERT_GT(MOST, n);
		if (happened)
			note(&seen, ret);
		/* It is short of memory in any case. */
		ASSERT_TRUE(ret == -ENOMEM || may_return(EITHER, happened, ret))
			TH_LOG("failure %d: %ld", n, ret);
		ASSERT_TRUE(ret != -ENOMEM || told(&req)) pm_print(&req.result);
		ASSERT_TRUE(ret != -EFAULT || pm_is_poison(&req.result)) pm_print(&req.result);
		there = count_on(0, p, PAGES, b);
		/* Only where nothing fails, the counts are of all pages. */
		if (!happened) {
			ASSERT_EQ(there, req.result.moved) pm_print(&req.result);
			ASSERT_EQ(PAGES, pm_sum(&req.result)) pm_print(&req.result);
		}
		if (ret == -ENOMEM) {
			no_memory += req.result.no_memory > 0;
			moved += req.result.moved > 0;
		}
		ASSERT_EQ(PAGES, there + count_on(0, p, PAGES, a))
			TH_LOG("failure %d: %ld", n, ret);
		ASSERT_EQ(0, bad_pages(p, PAGES, 7))
			TH_LOG("failure %d: %ld", n, ret);
		close(fd);
		fd = pm_open();
		ASSERT_EQ(0, move_all(fd, p, PAGES * PAGE, b, a));
		close(fd);
	}
	injector_close(&in);
	ASSERT_EQ(0, nr_isolated());
	LOG_SEEN(&seen);
	TH_LOG("%llu calls found no room for pages, %llu of the ENOMEM moved some",
	       (long long)no_memory, (long long)moved);
	EXPECT_LT(0, no_memory);
	EXPECT_LT(0, moved);
	child_end(&hog);
	munmap(p, PAGES * PAGE);
}

TEST_HARNESS_MAIN
