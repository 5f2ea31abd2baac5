// SPDX-License-Identifier: GPL-2.0
/*
 * Load: processes that do to their memory all that a process can do, while
 * callers with lists that contradict each other move them, and all of them are
 * stopped and killed. No byte of a target may be lost or changed.
 *
 * Environment: PM_SECONDS, how long; PM_SEED, to choose again what was chosen.
 */
#include "harness.h"
#include "mem_util.h"

#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

enum {
	TARGETS = 3,
	THREADS = 2,		/* of a target, each with memory of its own */
	AREAS = 6,		/* of a thread */
	MAX_AREA = HPAGE_NR,	/* pages */
	CALLERS = 3,
	MAX_PIDS = 64,
	CHILDREN = 2,		/* of a thread at a time */
	MAX_OFFLINED = 64,	/* pages that the machine may lose */
	SWAP_PAGES = 32768,
	SETTLE = 20,		/* seconds from one count of all pages to the next */
	ALL_HAPPENS = 150,	/* seconds in which each disturbance must happen, */
	MORE = 120,		/* but there are so many more, for chance decides */
};

enum {
	CHECKED, WRITTEN, CALLS, MOVED, LEFT, SIGNALLED, GONE, NO_ROOM, RIVALS, T_KILLED,
	C_KILLED, STOPPED, HELD, EXECS, CHILDREN_DONE, USERFAULTS, RMMODS, COUNTED, RECOUNTED,
	TOTALS,
};

static const char *const total_name[TOTALS] = {
	[CHECKED] = "pages checked",
	[WRITTEN] = "pages written",
	[CALLS] = "calls",
	[MOVED] = "pages moved",
	[LEFT] = "pages left",
	[SIGNALLED] = "calls ended by a signal",
	[GONE] = "calls whose target had gone",
	[NO_ROOM] = "calls without room",
	[RIVALS] = "calls of migrate_pages(2)",
	[T_KILLED] = "targets killed",
	[C_KILLED] = "callers killed",
	[STOPPED] = "targets stopped",
	[HELD] = "targets held as by a debugger",
	[EXECS] = "execs",
	[CHILDREN_DONE] = "children that checked their copy",
	[USERFAULTS] = "faults served by userfaultfd",
	[RMMODS] = "rmmods refused",
	[COUNTED] = "pages counted and found",
	[RECOUNTED] = "times that a process was counted again",
};

/* What all processes share. */
struct board {
	atomic_bool end;
	atomic_ulong total[TOTALS], op[32];
	atomic_ulong damage, wrong, offlined;
	atomic_int nr_pids, pids[MAX_PIDS];
	uint32_t seed;
};

static struct board *b;

static uint32_t below(uint32_t *rnd, uint32_t n)
{
	return next_random(rnd) % n;
}

static void add(int total, unsigned long n)
{
	b->total[total] += n;
}

/*
 * Memory that is checked. The contents of a page follow from its version; 0 is
 * a page of zeros.
 */
enum kind { ANON, HUGE_PAGES, SAME, SHMEM, CACHE, SERVED, KINDS };

static const char *const kind_name[] = { "anonymous", "huge", "ksm", "shmem", "file",
					 "userfaultfd" };

#define MAYBE_ZERO 0x8000

struct area {
	char *p;
	size_t npages;
	enum kind kind;
	int file;		/* behind it, or its userfaultfd */
	int end[2];		/* a pipe that ends the thread that serves it */
	pthread_t server;
	uint32_t seed;
	uint16_t version[MAX_AREA];
};

struct worker {
	int nr;
	uint32_t rnd;
	struct area area[AREAS];
	pid_t child[CHILDREN];
	const char *op;
};

static bool is_private(const struct area *a)
{
	return a->kind == ANON || a->kind == HUGE_PAGES || a->kind == SAME;
}

static uint64_t key_of(const struct area *a, size_t i)
{
	uint64_t x = a->version[i];

	if (!x)
		return 0;
	/* The same in all processes, so that there is something to merge. */
	if (a->kind == SAME)
		return (x % 4 + 1) * 0x9e3779b97f4a7c15ULL | 1;
	x |= (uint64_t)a->seed << 32 | i << 16;
	return x * 0x9e3779b97f4a7c15ULL | 1;
}

static uint64_t word_of(uint64_t key, size_t w)
{
	return key ? key + w * 0x2545f4914f6cdd1dULL : 0;
}

static void page_make(uint64_t *p, uint64_t key)
{
	for (size_t w = 0; w < PAGE / 8; w++)
		p[w] = word_of(key, w);
}

static void page_write(struct worker *w, struct area *a, size_t i)
{
	a->version[i] = below(&w->rnd, MAYBE_ZERO - 1) + 1;
	page_make((uint64_t *)(a->p + i * PAGE), key_of(a, i));
	add(WRITTEN, 1);
}

static void page_check(const struct worker *w, struct area *a, size_t i)
{
	uint64_t *p = (uint64_t *)(a->p + i * PAGE), key;

	/* After MADV_FREE: old or zero until the next write, then for good. */
	if (a->version[i] & MAYBE_ZERO) {
		a->version[i] &= ~MAYBE_ZERO;
		if (!__atomic_fetch_add(p, 0, __ATOMIC_SEQ_CST))
			a->version[i] = 0;
	}
	key = key_of(a, i);
	for (size_t k = 0; k < PAGE / 8; k++) {
		uint64_t found = *(volatile uint64_t *)&p[k], want = word_of(key, k);

		if (found == want)
			continue;
		if (b->damage++ < 8)
			fprintf(stderr, "# process %d, %s memory at %p (page %zu of %zu), after %s:"
				" expected %#lx, found %#lx, then %#lx; pagemap %#lx; seed %u\n",
				getpid(), kind_name[a->kind], &p[k], i, a->npages, w->op, want,
				found, *(volatile uint64_t *)&p[k], pagemap_of(0, &p[k]), b->seed);
		return;
	}
	add(CHECKED, 1);
}

static void area_check(const struct worker *w, struct area *a)
{
	for (size_t i = 0; i < a->npages; i++)
		page_check(w, a, i);
}

/* Gives the pages that are asked for; their owner waits for them. */
static void *serve(void *arg)
{
	struct area *a = arg;
	uint64_t page[PAGE / 8];
	struct pollfd fds[2] = {
		{ .fd = a->file, .events = POLLIN },
		{ .fd = a->end[0], .events = POLLIN },
	};
	struct uffd_msg msg;

	while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
		struct uffdio_copy copy;
		struct uffdio_range wake;

		if (fds[1].revents)
			break;
		if (!(fds[0].revents & POLLIN) || read(a->file, &msg, sizeof(msg)) != sizeof(msg) ||
		    msg.event != UFFD_EVENT_PAGEFAULT)
			continue;
		copy = (struct uffdio_copy){
			.dst = msg.arg.pagefault.address & ~(PAGE - 1),
			.src = (uintptr_t)page,
			.len = PAGE,
		};
		page_make(page, key_of(a, (copy.dst - (uintptr_t)a->p) / PAGE));
		/* The address space may be changing under it: it is asked again. */
		while (ioctl(a->file, UFFDIO_COPY, &copy) && errno == EAGAIN)
			copy.copy = 0;
		wake = (struct uffdio_range){ .start = copy.dst, .len = PAGE };
		ioctl(a->file, UFFDIO_WAKE, &wake);
		add(USERFAULTS, 1);
	}
	return NULL;
}

/* While another thread is in execve(2), which ends this one, there is no new one. */
static void thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	for (int i = 0; i < 10000; i++) {
		errno = pthread_create(thread, NULL, fn, arg);
		if (!errno)
			return;
		if (errno != EAGAIN)
			break;
		usleep(1000);
	}
	die("pthread_create");
}

static void serve_start(struct area *a)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)a->p, .len = a->npages * PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	a->file = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (a->file < 0 || ioctl(a->file, UFFDIO_API, &api) ||
	    ioctl(a->file, UFFDIO_REGISTER, &reg) || pipe2(a->end, O_CLOEXEC))
		die("userfaultfd");
	thread_start(&a->server, serve, a);
}

/* An address range that is aligned for huge pages, and nothing around it. */
static char *space_for(size_t npages)
{
	size_t size = npages * PAGE, before;
	char *raw = mmap(NULL, size + HPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (raw == MAP_FAILED)
		die("mmap of %zu pages", npages);
	before = -(uintptr_t)raw % HPAGE;
	/* What is left over would add up to more mappings than there may be. */
	if ((before && munmap(raw, before)) || munmap(raw + before + size, HPAGE - before))
		die("munmap");
	return raw + before;
}

static int nameless_file(int flags)
{
	int fd = open(SCRATCH, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);

	if (fd < 0)
		die("a file on " SCRATCH);
	return fd;
}

static void area_new(struct worker *w, struct area *a)
{
	static const int flags[] = {
		[SHMEM] = MAP_SHARED | MAP_ANONYMOUS,
		[CACHE] = MAP_SHARED,
	};
	enum kind kind = below(&w->rnd, KINDS);

	*a = (struct area){
		.kind = kind,
		.npages = kind == HUGE_PAGES ? HPAGE_NR : 16 + below(&w->rnd, 128),
		.file = -1,
		.seed = next_random(&w->rnd),
	};
	a->p = space_for(a->npages);
	if (kind == CACHE) {
		a->file = nameless_file(0);
		if (ftruncate(a->file, a->npages * PAGE))
			die("ftruncate");
	}
	map_fixed(a->p, a->npages, PROT_READ | PROT_WRITE,
		  is_private(a) || kind == SERVED ? MAP_PRIVATE | MAP_ANONYMOUS : flags[kind],
		  a->file, 0);
	advise(a->p, a->npages * PAGE, kind == HUGE_PAGES ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (kind == SAME)
		madvise(a->p, a->npages * PAGE, MADV_MERGEABLE);
	if (below(&w->rnd, 4) == 0)
		bind_range(a->p, a->npages, mem[below(&w->rnd, nr_mem)]);
	if (kind == SERVED)
		serve_start(a);
	for (size_t i = 0; i < a->npages; i++)
		if (below(&w->rnd, 8))
			page_write(w, a, i);
}

static void area_end(struct area *a)
{
	if (a->kind == SERVED) {
		if (write(a->end[1], "", 1) != 1 || pthread_join(a->server, NULL))
			die("the thread that serves pages");
		close(a->end[0]);
		close(a->end[1]);
	}
	if (munmap(a->p, a->npages * PAGE))
		die("munmap");
	if (a->file >= 0)
		close(a->file);
}

/* A part of an area. */
struct part {
	char *p;
	size_t first, npages;
};

static struct part part_of(struct worker *w, const struct area *a)
{
	size_t first = below(&w->rnd, a->npages);

	return (struct part){
		.p = a->p + first * PAGE,
		.first = first,
		.npages = 1 + below(&w->rnd, a->npages - first),
	};
}

static int advise_part(const struct part *part, int advice)
{
	return madvise(part->p, part->npages * PAGE, advice);
}

static bool op_write(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);

	for (size_t i = 0; i < part.npages; i++)
		page_write(w, a, part.first + i);
	return true;
}

static bool op_renew(struct worker *w, struct area *a)
{
	area_check(w, a);
	area_end(a);
	area_new(w, a);
	return true;
}

static bool op_mremap(struct worker *w, struct area *a)
{
	char *to;

	/* Its pages are served by address. */
	if (a->kind == SERVED)
		return false;
	to = space_for(a->npages);
	/* In two parts, which merge. */
	for (size_t done = 0; done < a->npages;) {
		size_t n = done ? a->npages - done : 1 + below(&w->rnd, a->npages);

		if (mremap(a->p + done * PAGE, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   to + done * PAGE) == MAP_FAILED)
			die("mremap");
		done += n;
	}
	a->p = to;
	return true;
}

static bool op_mprotect(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);

	if (mprotect(part.p, part.npages * PAGE, below(&w->rnd, 2) ? PROT_NONE : PROT_READ))
		die("mprotect");
	usleep(below(&w->rnd, 2000));
	if (mprotect(part.p, part.npages * PAGE, PROT_READ | PROT_WRITE))
		die("mprotect");
	return true;
}

static bool op_dontneed(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);

	if (advise_part(&part, MADV_DONTNEED))
		die("MADV_DONTNEED");
	/* Files and served memory keep what they hold. */
	for (size_t i = 0; is_private(a) && i < part.npages; i++)
		a->version[part.first + i] = 0;
	return true;
}

static bool op_free(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);

	/*
	 * Not pages that may be merged. The kernel itself loses those: what is freed
	 * is taken for clean, and so is who is merged into it afterwards.
	 */
	if (!is_private(a) || a->kind == SAME)
		return false;
	if (advise_part(&part, MADV_FREE))
		die("MADV_FREE");
	for (size_t i = 0; i < part.npages; i++)
		if (a->version[part.first + i])
			a->version[part.first + i] |= MAYBE_ZERO;
	return true;
}

/* These may fail: the pages may be on their way. */
static bool op_collapse(struct worker *w, struct area *a)
{
	(void)w;
	/* Smaller ones have nothing that could collapse, which is no error. */
	return !madvise(a->p, a->npages * PAGE, MADV_COLLAPSE) && a->kind == HUGE_PAGES;
}

static bool op_pageout(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);

	return !advise_part(&part, MADV_PAGEOUT);
}

static bool op_offline(struct worker *w, struct area *a)
{
	/* Some at once, so that a slow machine does it, too. */
	return is_private(a) && (b->offlined < MAX_OFFLINED / 8 || below(&w->rnd, 8) == 0) &&
	       b->offlined++ < MAX_OFFLINED &&
	       !madvise(a->p + below(&w->rnd, a->npages) * PAGE, PAGE, MADV_SOFT_OFFLINE);
}

static bool op_mlock(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);
	bool done = !mlock2(part.p, part.npages * PAGE, below(&w->rnd, 2) ? MLOCK_ONFAULT : 0);

	if (!done && errno != EAGAIN)
		die("mlock2");
	usleep(below(&w->rnd, 2000));
	munlock(part.p, part.npages * PAGE);
	return done;
}

/* Whoever writes pages here has them: the rest of the file is not touched. */
static bool op_file(struct worker *w, struct area *a)
{
	uint64_t page[PAGE / 8];
	struct part part = part_of(w, a);

	if (a->kind != CACHE)
		return false;
	for (size_t i = part.first; i < part.first + part.npages; i++) {
		a->version[i] = below(&w->rnd, MAYBE_ZERO - 1) + 1;
		page_make(page, key_of(a, i));
		if (pwrite(a->file, page, PAGE, i * PAGE) != (ssize_t)PAGE)
			die("pwrite");
	}
	if (below(&w->rnd, 4) == 0)
		fdatasync(a->file);
	return true;
}

/* The disk reads and writes the pages themselves. */
static bool op_direct(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);
	int fd;

	if (a->kind == CACHE)
		return false;
	/* A page that may become zero must be settled before. */
	for (size_t i = 0; i < part.npages; i++)
		page_check(w, a, part.first + i);
	fd = nameless_file(O_DIRECT);
	if (pwrite(fd, part.p, part.npages * PAGE, 0) != (ssize_t)(part.npages * PAGE))
		die("direct write");
	memset(part.p, 0x5a, part.npages * PAGE);
	if (pread(fd, part.p, part.npages * PAGE, 0) != (ssize_t)(part.npages * PAGE))
		die("direct read");
	close(fd);
	return true;
}

static bool op_pin(struct worker *w, struct area *a)
{
	struct part part = part_of(w, a);
	struct iovec iov = { .iov_base = part.p, .iov_len = part.npages * PAGE };
	struct io_uring_params params = { };
	int ring = syscall(__NR_io_uring_setup, 4, &params);
	bool done;

	if (ring < 0)
		die("io_uring_setup");
	/* A file system's pages cannot be pinned for long. */
	done = !syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1);
	if (!done) {
		if (a->kind != CACHE && errno != ENOMEM && errno != EINTR && errno != EFAULT)
			die("IORING_REGISTER_BUFFERS");
	} else {
		uint64_t was[MAX_AREA], is;

		/* What reads and writes it by its frame would miss one that has moved. */
		for (size_t i = 0; i < part.npages; i++)
			was[i] = pfn_of(part.p + i * PAGE);
		op_write(w, a);
		usleep(below(&w->rnd, 3000));
		for (size_t i = 0; i < part.npages; i++) {
			is = pfn_of(part.p + i * PAGE);
			/* There is none while somebody tries to move it. */
			if (was[i] && is && was[i] != is && b->wrong++ < 8)
				fprintf(stderr, "# a pinned page of kind %d has moved\n", a->kind);
		}
		area_check(w, a);
	}
	close(ring);
	return done;
}

/* The child checks its copy, changes it, and checks it again. */
static void copied(struct worker *w)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	w->op = "fork";
	for (int turn = 0; turn < 2; turn++)
		for (int k = 0; k < AREAS; k++) {
			if (!is_private(&w->area[k]))
				continue;
			area_check(w, &w->area[k]);
			op_write(w, &w->area[k]);
			area_check(w, &w->area[k]);
		}
	add(CHILDREN_DONE, 1);
	_exit(0);
}

static void child_reap(pid_t pid)
{
	int status = 0;

	if (pid && (waitpid(pid, &status, 0) != pid || status)) {
		fprintf(stderr, "# child %d ended with status %#x\n", pid, status);
		b->damage++;
	}
}

static bool op_fork(struct worker *w, struct area *a)
{
	pid_t *child = &w->child[below(&w->rnd, CHILDREN)];

	(void)a;
	child_reap(*child);
	*child = fork();
	if (!*child)
		copied(w);
	if (*child < 0)
		die("fork");
	return true;
}

static __attribute__((noreturn)) void exec_target(uint32_t seed)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", seed);
	execl("/proc/self/exe", "soak_job", "--target", text, NULL);
	die("exec");
}

/* Only the first thread, which a tracer may hold. */
static bool op_exec(struct worker *w, struct area *a)
{
	(void)a;
	if (w->nr || below(&w->rnd, 4))
		return false;
	/* It does not come back to be counted as others are. */
	add(EXECS, 1);
	exec_target(next_random(&w->rnd));
}

/* They return whether they have done it. */
static const struct {
	const char *name;
	bool (*fn)(struct worker *w, struct area *a);
} ops[] = {
	{ "write", op_write }, { "munmap and mmap", op_renew }, { "mremap", op_mremap },
	{ "mprotect", op_mprotect }, { "MADV_DONTNEED", op_dontneed }, { "MADV_FREE", op_free },
	{ "MADV_COLLAPSE", op_collapse }, { "MADV_PAGEOUT", op_pageout },
	{ "MADV_SOFT_OFFLINE", op_offline }, { "mlock", op_mlock }, { "pwrite", op_file },
	{ "O_DIRECT", op_direct }, { "io_uring buffers", op_pin }, { "fork", op_fork },
	{ "exec", op_exec },
};

static void *work(void *arg)
{
	struct worker *w = arg;

	w->op = "mmap";
	for (int k = 0; k < AREAS; k++)
		area_new(w, &w->area[k]);
	while (!b->end) {
		uint32_t op = below(&w->rnd, ARRAY_LEN(ops));
		struct area *a = &w->area[below(&w->rnd, AREAS)];

		w->op = ops[op].name;
		if (ops[op].fn(w, a))
			b->op[op]++;
		area_check(w, a);
		if (below(&w->rnd, 8) == 0)
			for (int k = 0; k < AREAS; k++)
				area_check(w, &w->area[k]);
	}
	for (int k = 0; k < AREAS; k++) {
		area_check(w, &w->area[k]);
		area_end(&w->area[k]);
	}
	for (int k = 0; k < CHILDREN; k++)
		child_reap(w->child[k]);
	return NULL;
}

#define BOARD_FD 100

static void board_map(void)
{
	b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED, BOARD_FD, 0);
	if (b == MAP_FAILED)
		die("mmap of the board");
}

/*
 * What an exec has left: children that went on. Nobody knows their numbers now.
 * Those of the thread that the exec ended are killed with it.
 */
static void orphans_reap(int flags)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, flags)) > 0 || (pid < 0 && errno == EINTR))
		if (pid > 0 && status && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
			fprintf(stderr, "# child %d, older than an exec, ended with status %#x\n",
				pid, status);
			b->damage++;
		}
}

/* The program as a target. */
static int target(uint32_t seed)
{
	static struct worker w[THREADS];
	pthread_t t[THREADS];

	board_map();
	orphans_reap(WNOHANG);
	for (int i = 0; i < THREADS; i++) {
		w[i].nr = i;
		w[i].rnd = seed + i * 77777 ?: 1;
		if (i)
			thread_start(&t[i], work, &w[i]);
	}
	work(&w[0]);
	for (int i = 1; i < THREADS; i++)
		pthread_join(t[i], NULL);
	orphans_reap(0);
	return 0;
}

/*
 * Callers.
 */
static void nothing(int sig)
{
	(void)sig;
}

/* Any valid lists. */
static int random_lists(uint32_t *rnd, int *old, int *new)
{
	int count = 1 + below(rnd, nr_mem), first = below(rnd, nr_mem);

	for (int i = 0; i < count; i++) {
		old[i] = mem[(first + i) % nr_mem];
		new[i] = mem[below(rnd, nr_mem)];
	}
	if (count < nr_mem && below(rnd, 4) == 0)
		new[below(rnd, count)] = ANY;
	else if (below(rnd, 4) == 0)
		old[below(rnd, count)] = ANY;
	return count;
}

static void rival(uint32_t *rnd, pid_t pid)
{
	unsigned long from[MAX_NODES / 64] = { }, to[MAX_NODES / 64] = { };
	int a = mem[below(rnd, nr_mem)], z = mem[below(rnd, nr_mem)];

	from[a / 64] |= 1UL << a % 64;
	to[z / 64] |= 1UL << z % 64;
	migrate_pages(pid, MAX_NODES, from, to);
	add(RIVALS, 1);
}

static void judge(const struct page_migrate_request *req, long ret)
{
	const struct page_migrate_result *res = &req->result;
	bool right = true;

	add(CALLS, 1);
	switch (ret) {
	case -ESRCH:
		add(GONE, 1);
		return;
	case -EINTR:
		add(SIGNALLED, 1);
		break;
	case -ENOMEM:
		add(NO_ROOM, 1);
		break;
	default:
		right = ret >= 0 && (uint64_t)ret == pm_left(res) && !res->no_memory;
	}
	if (right && !(req->flags & PAGE_MIGRATE_DRY_RUN)) {
		add(MOVED, res->moved + res->moved_fallback);
		add(LEFT, pm_left(res));
	}
	if (right || b->wrong++ >= 8)
		return;
	fprintf(stderr, "# process %d, flags %#x: call returned %ld\n", req->pid, req->flags, ret);
	pm_print(res);
}

/* The largest number of workers that a call may ask for. */
static unsigned int workers_at_most(int fd)
{
	struct page_migrate_info info;

	if (pm_ioctl(fd, PAGE_MIGRATE_IOC_INFO, &info))
		die("PAGE_MIGRATE_IOC_INFO");
	return info.max_workers;
}

static void caller(uint32_t rnd, int shared)
{
	static const unsigned int flags[] = {
		PAGE_MIGRATE_DRY_RUN, PAGE_MIGRATE_KEEP_POLICY, PAGE_MIGRATE_EXCLUSIVE,
		PAGE_MIGRATE_NEW_JOB, PAGE_MIGRATE_STRICT,
	};
	struct sigaction act = { .sa_handler = nothing };
	int fd = pm_open(), old[MAX_NODES], new[MAX_NODES], count = 0;
	unsigned int max_workers = workers_at_most(fd);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGALRM, &act, NULL);
	while (!b->end) {
		pid_t pid = b->nr_pids ? b->pids[below(&rnd, b->nr_pids)] : 0;
		struct itimerval timer = { .it_value.tv_usec = 1 + below(&rnd, 100000) };
		struct page_migrate_request req;

		if (!pid) {
			usleep(1000);
			continue;
		}
		if (below(&rnd, 16) == 0) {
			rival(&rnd, pid);
			continue;
		}
		if (below(&rnd, 8) == 0) {
			close(fd);
			fd = pm_open();
		}
		/* Else the job goes on. */
		if (!count || below(&rnd, 3))
			count = random_lists(&rnd, old, new);
		req = pm_req(pid, NULL, ~0UL, count, old, new);
		if (below(&rnd, 4) == 0) {
			req.va_start = (0x7f0000000000UL + next_random(&rnd) * 256UL) & ~(PAGE - 1);
			req.len = next_random(&rnd) * 64UL;
		}
		for (size_t i = 0; i < ARRAY_LEN(flags); i++)
			if (below(&rnd, 5) == 0)
				req.flags |= flags[i];
		req.workers = below(&rnd, max_workers + 1);
		if (below(&rnd, 4) == 0)
			req.max_pages = 1 + below(&rnd, 3000);
		if (below(&rnd, 8) == 0)
			setitimer(ITIMER_REAL, &timer, NULL);
		judge(&req, pm_migrate(below(&rnd, 4) ? fd : shared, &req));
	}
	_exit(0);
}

/*
 * The test: keeps all of them going, and disturbs them.
 */

/* What the kernel counts of its own. */
static const struct {
	const char *name, *what;
} events[] = {
	{ "pswpout", "pages to swap" },
	{ "pswpin", "pages from swap" },
	{ "compact_migrate_scanned", "pages scanned by compaction" },
	{ "compact_isolated", "pages isolated by compaction" },
	{ "thp_split_page", "huge pages split" },
	{ "thp_collapse_alloc", "huge pages to collapse into" },
	{ "numa_hint_faults", "faults of NUMA balancing" },
};

#define NUMA_BALANCING "/proc/sys/kernel/numa_balancing"
#define KSM_SHARING "/sys/kernel/mm/ksm/pages_sharing"

/* False: this kernel has nothing that could do it. */
static bool event_exists(const char *name)
{
	if (!strncmp(name, "thp_", 4))
		return has_thp();
	return strncmp(name, "numa_", 5) || !access(NUMA_BALANCING, F_OK);
}

FIXTURE(soak)
{
	struct cg cg;
	pid_t target[TARGETS], caller[CALLERS];
	int fd;			/* that callers share */
	uint32_t rnd;
	long seconds;
	char swap[64];
	size_t turn;
	long event[ARRAY_LEN(events)], offline, merged;
};

static long number(const char *name, long otherwise)
{
	const char *text = getenv(name);

	return text && *text ? atol(text) : otherwise;
}

/* The number in a file, or behind a word in it. */
static long number_in(const char *path, const char *word)
{
	char text[8192];
	const char *at;

	if (file_read(path, text, sizeof(text)))
		die("%s", path);
	at = strstr(text, word);
	if (!at)
		die("no '%s' in %s", word, path);
	return atol(at + strlen(word));
}

/* Pages that the kernel has taken out of use, in kB. */
static long offline_kb(void)
{
	return number_in("/proc/meminfo", "HardwareCorrupted:");
}

FIXTURE_SETUP(soak)
{
	int fd = memfd_create("soak", 0);

	if (fd < 0 || ftruncate(fd, sizeof(*b)) || dup2(fd, BOARD_FD) < 0)
		die("memfd_create");
	close(fd);
	board_map();
	b->seed = number("PM_SEED", time(NULL) & 0xffffff) ?: 1;
	self->rnd = b->seed * 2654435761U ?: 1;
	self->seconds = number("PM_SECONDS", 160);
	TH_LOG("PM_SEED=%u PM_SECONDS=%ld", b->seed, self->seconds);
	if (file_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory"))
		die("no memory controller");
	cg_make(&self->cg, "soak", NULL);
	swap_start(self->swap, sizeof(self->swap), SWAP_PAGES);
	file_write("/sys/kernel/mm/ksm/sleep_millisecs", "20");
	file_write("/sys/kernel/mm/ksm/pages_to_scan", "500");
	file_write("/sys/kernel/mm/ksm/run", "1");
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		self->event[i] = vmstat(events[i].name);
	self->offline = offline_kb();
	self->fd = pm_open();
}

FIXTURE_TEARDOWN(soak)
{
	swap_end(self->swap);
	file_write("/sys/kernel/mm/ksm/run", "2");
	file_write("/sys/kernel/mm/ksm/run", "0");
	cg_remove(&self->cg);
	close(self->fd);
}

static void target_start(FIXTURE_DATA(soak) *self, pid_t *pid)
{
	uint32_t seed = next_random(&self->rnd);

	fflush(NULL);
	*pid = fork();
	if (*pid < 0)
		die("fork");
	if (*pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	cg_enter(&self->cg, getpid());
	exec_target(seed);
}

static void caller_start(FIXTURE_DATA(soak) *self, pid_t *pid)
{
	uint32_t seed = next_random(&self->rnd);

	fflush(NULL);
	*pid = fork();
	if (*pid < 0)
		die("fork");
	if (!*pid)
		caller(seed, self->fd);
}

/* It must not have ended by itself before. */
static void kill_and_reap(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	if (waitpid(pid, &status, __WALL) != pid)
		die("waitpid of %d", pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
		fprintf(stderr, "# process %d ended with status %#x\n", pid, status);
		b->wrong++;
	}
}

static void pids_refresh(const struct cg *cg)
{
	char path[320], buf[4096], *p = buf, *end;
	int n = 0;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cg->path);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	for (; n < MAX_PIDS; p = end) {
		pid_t pid = strtol(p, &end, 10);

		if (end == p)
			break;
		b->pids[n++] = pid;
	}
	b->nr_pids = n;
}

/* Whether it is still traced. An exec by another thread ends that. */
static bool is_traced(pid_t pid)
{
	char path[64], text[4096];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return !file_read(path, text, sizeof(text)) && !strstr(text, "TracerPid:\t0\n");
}

/* Holds the first thread as a debugger does. Returns whether it lives. */
static bool hold(FIXTURE_DATA(soak) *self, pid_t pid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
		return errno == ESRCH;
	for (int i = 0; i < 3000 * patience(); i++) {
		if (waitpid(pid, &status, WNOHANG | __WALL) == pid) {
			if (!WIFSTOPPED(status))
				return false;
			add(HELD, 1);
			usleep(below(&self->rnd, 200000));
			return !ptrace(PTRACE_DETACH, pid, 0, 0) || errno == ESRCH;
		}
		if (!is_traced(pid))
			return true;
		usleep(10000);
	}
	return false;
}

/* Stops all of it, as a shell does. */
static void stop(FIXTURE_DATA(soak) *self, pid_t pid)
{
	siginfo_t info = { };

	kill(pid, SIGSTOP);
	for (int i = 0; i < 50 * patience() && info.si_pid != pid; i++) {
		usleep(10000);
		if (waitid(P_PID, pid, &info, WSTOPPED | WNOHANG))
			break;
	}
	if (info.si_pid == pid) {
		add(STOPPED, 1);
		usleep(below(&self->rnd, 200000));
	}
	kill(pid, SIGCONT);
}

static void caller_renew(FIXTURE_DATA(soak) *self)
{
	pid_t *pid = &self->caller[below(&self->rnd, CALLERS)];

	kill_and_reap(*pid);
	add(C_KILLED, 1);
	caller_start(self, pid);
}

static void disturb(struct __test_metadata *_metadata, FIXTURE_DATA(soak) *self)
{
	/* A slow machine does not get far: first each of them once. */
	static const uint32_t first[] = { 5, 3, 4, 6, 8, 0, 1, 7 };
	pid_t *pid = &self->target[below(&self->rnd, TARGETS)];
	bool alive = true;
	int status = 0;

	switch (self->turn < ARRAY_LEN(first) ? first[self->turn++] : below(&self->rnd, 40)) {
	case 0:
		kill_and_reap(*pid);
		add(T_KILLED, 1);
		target_start(self, pid);
		return;
	case 1:
	case 2:
		caller_renew(self);
		break;
	case 3:
		stop(self, *pid);
		break;
	case 4:
		alive = hold(self, *pid);
		break;
	case 5:
		EXPECT_EQ(-EWOULDBLOCK, module_unload());
		add(RMMODS, 1);
		break;
	case 6:
		file_write("/proc/sys/vm/compact_memory", "1");
		break;
	case 7:
		file_write("/proc/sys/vm/drop_caches", "1");
		break;
	case 8 ... 11:
		/* What is in swap must leave memory, too, before it can come back. */
		cg_set(&self->cg, "memory.reclaim", "4M");
		break;
	}
	/* Nobody but us ends a target. */
	for (int i = 0; i < TARGETS; i++) {
		if (!alive || waitpid(self->target[i], &status, WNOHANG)) {
			EXPECT_TRUE(false)
				TH_LOG("target %d ended, status %#x", self->target[i], status);
			break;
		}
	}
}

/* Pages of a process that numa_maps shows and that are to be counted. */
static size_t numa_maps_sum(pid_t pid, size_t *on)
{
	static struct mapping maps[4096];
	size_t n = mappings_of(pid, maps, ARRAY_LEN(maps)), sum = 0, k = 0;
	char path[64], line[4096];
	FILE *f;

	memset(on, 0, MAX_NODES * sizeof(*on));
	snprintf(path, sizeof(path), "/proc/%d/numa_maps", pid);
	f = fopen(path, "re");
	if (!f)
		die("%s", path);
	while (fgets(line, sizeof(line), f)) {
		char *start = (char *)strtoul(line, NULL, 16);

		while (k < n && maps[k].start < start)
			k++;
		if (k < n && maps[k].start == start && maps[k].special)
			continue;
		for (char *p = line; (p = strstr(p, " N")); p++) {
			unsigned long node, pages;

			if (sscanf(p, " N%lu=%lu", &node, &pages) == 2 && node < MAX_NODES) {
				on[node] += pages;
				sum += pages;
			}
		}
	}
	fclose(f);
	return sum;
}

/* All counts of a process that stands still agree. */
static void count_process(struct __test_metadata *_metadata, int fd, pid_t pid)
{
	static size_t before[MAX_NODES], after[MAX_NODES];
	static uint64_t on[MAX_NODES];
	int old[MAX_NODES], new[MAX_NODES], nr = all_to_last(old, new);
	struct page_migrate_result res;
	size_t sum, seen;

	/*
	 * Until the kernel itself has changed nothing between two looks. What it moves for a
	 * while, as compaction does, is nowhere for one of us and back for the next.
	 */
	for (int i = 0; i < 20; i++) {
		bool agree = true;

		sum = numa_maps_sum(pid, before);
		ASSERT_EQ(0, pm_placement(fd, pid, NULL, ~0UL, on));
		ASSERT_LE(0, pm_move(fd, pid, NULL, ~0UL, PAGE_MIGRATE_DRY_RUN, nr, old, new,
				     &res)) pm_print(&res);
		seen = process_pages(pid, -1);
		numa_maps_sum(pid, after);
		for (int k = 0; k < nr_mem; k++)
			agree &= before[mem[k]] == on[mem[k]];
		if (agree && sum == pm_sum(&res) && sum == seen &&
		    !memcmp(before, after, sizeof(before)))
			break;
		add(RECOUNTED, 1);
		usleep(20000);
	}
	for (int i = 0; i < nr_mem; i++) {
		EXPECT_EQ(before[mem[i]], on[mem[i]])
			TH_LOG("process %d, node %d", pid, mem[i]);
	}
	EXPECT_EQ(sum, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(sum, seen);
	add(COUNTED, sum);
}

/* Where the threads of a process are in the kernel. */
static void print_stacks(pid_t pid)
{
	char command[128];

	snprintf(command, sizeof(command),
		 "grep -H . /proc/%d/task/*/stat /proc/%d/task/*/stack | sed 's/^/# /' >&2", pid,
		 pid);
	if (system(command))
		fprintf(stderr, "# the stacks of process %d cannot be shown\n", pid);
}

/*
 * A thread that the kernel makes wait for another that serves its pages does
 * not freeze if that one has. Then both may run again for a while.
 */
static void freeze(struct cg *cg)
{
	enum { TRIES = 12, POLLS = 500 };
	char path[320], text[128];

	snprintf(path, sizeof(path), "%s/cgroup.events", cg->path);
	for (int try = 0; try < TRIES; try++) {
		if (cg_set(cg, "cgroup.freeze", "1"))
			die("cgroup.freeze");
		for (int i = 0; i < POLLS * patience(); i++) {
			if (file_read(path, text, sizeof(text)))
				die("%s", path);
			if (strstr(text, "frozen 1"))
				return;
			usleep(10000);
		}
		fprintf(stderr, "# the targets do not freeze at once\n");
		if (try == TRIES - 1)
			break;
		cg_set(cg, "cgroup.freeze", "0");
		usleep(100000);
	}
	pids_refresh(cg);
	for (int i = 0; i < b->nr_pids; i++)
		print_stacks(b->pids[i]);
	die("the targets do not freeze");
}

static void merged_look(FIXTURE_DATA(soak) *self)
{
	long pages = access(KSM_SHARING, F_OK) ? 0 : number_in(KSM_SHARING, "");

	if (pages > self->merged)
		self->merged = pages;
}

/* Everything stands still, and is counted. */
static void settle(struct __test_metadata *_metadata, FIXTURE_DATA(soak) *self)
{
	for (int i = 0; i < CALLERS; i++)
		kill_and_reap(self->caller[i]);
	add(C_KILLED, CALLERS);
	freeze(&self->cg);
	pids_refresh(&self->cg);
	EXPECT_EQ(0, nr_isolated());
	merged_look(self);
	file_write("/sys/kernel/mm/ksm/run", "0");
	for (int i = 0; i < b->nr_pids; i++)
		count_process(_metadata, self->fd, b->pids[i]);
	file_write("/sys/kernel/mm/ksm/run", "1");
	cg_set(&self->cg, "cgroup.freeze", "0");
	for (int i = 0; i < CALLERS; i++)
		caller_start(self, &self->caller[i]);
}

static bool all_well(struct __test_metadata *_metadata)
{
	return !b->damage && !b->wrong && __test_passed(_metadata);
}

static void callers_start(FIXTURE_DATA(soak) *self)
{
	for (int i = 0; i < CALLERS; i++)
		caller_start(self, &self->caller[i]);
}

/* How many kinds of disturbance never came; says which. */
static int never_happened(const FIXTURE_DATA(soak) *self, bool say)
{
	static const int needed[] = {
		SIGNALLED, RIVALS, T_KILLED, C_KILLED, STOPPED, HELD, EXECS, CHILDREN_DONE,
		USERFAULTS, RMMODS,
	};
	const char *missing[64];
	int n = 0;

	for (size_t i = 0; i < ARRAY_LEN(needed); i++)
		if (!b->total[needed[i]])
			missing[n++] = total_name[needed[i]];
	for (size_t i = 0; i < ARRAY_LEN(ops); i++)
		if (!b->op[i] && ops[i].fn != op_exec && (ops[i].fn != op_collapse || has_thp()))
			missing[n++] = ops[i].name;
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (event_exists(events[i].name) && vmstat(events[i].name) <= self->event[i])
			missing[n++] = events[i].what;
	if (offline_kb() <= self->offline)
		missing[n++] = "pages offline";
	if (!self->merged && !access(KSM_SHARING, F_OK))
		missing[n++] = "pages merged";
	for (int i = 0; say && i < n; i++)
		fprintf(stderr, "# never happened: %s\n", missing[i]);
	return n;
}

static void callers_end(struct __test_metadata *_metadata, FIXTURE_DATA(soak) *self)
{
	int status;

	b->end = true;
	for (int i = 0; i < CALLERS; i++) {
		EXPECT_EQ(self->caller[i], waitpid(self->caller[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_EQ(0, b->damage);
	EXPECT_EQ(0, b->wrong);
	EXPECT_EQ(0, nr_isolated());
	for (int i = 0; i < TOTALS; i++)
		if (b->total[i])
			TH_LOG("%lu %s", b->total[i], total_name[i]);
	for (size_t i = 0; i < ARRAY_LEN(ops); i++)
		if (b->op[i])
			TH_LOG("%lu %s", b->op[i], ops[i].name);
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (event_exists(events[i].name))
			TH_LOG("%ld %s", vmstat(events[i].name) - self->event[i], events[i].what);
	TH_LOG("%ld kB of pages offline, %ld pages merged at most", offline_kb() - self->offline,
	       self->merged);
	/* Otherwise nothing was tested. */
	EXPECT_LT(0, b->total[MOVED]);
	EXPECT_LT(0, b->total[COUNTED]);
}

/* A test that cannot fail would show nothing. */
TEST_F(soak, finds_changes)
{
	struct worker w = { .rnd = self->rnd, .op = "a change that was made to be found" };
	unsigned long expected = 0;

	for (int kinds = 0; kinds != (1 << KINDS) - 1;) {
		struct area *a = &w.area[0];
		size_t i = 0;

		area_new(&w, a);
		area_check(&w, a);
		EXPECT_EQ(expected, b->damage);
		while (!a->version[i])
			i++;
		/* A bit of one page; and a page that is lost. */
		a->p[i * PAGE + below(&w.rnd, PAGE)] ^= 1 << below(&w.rnd, 8);
		area_check(&w, a);
		EXPECT_EQ(++expected, b->damage);
		if (is_private(a)) {
			madvise(a->p + i * PAGE, PAGE, MADV_DONTNEED);
			area_check(&w, a);
			EXPECT_EQ(++expected, b->damage);
		}
		kinds |= 1 << a->kind;
		area_end(a);
	}
}

TEST_F_TIMEOUT(soak, every_byte_stays, 1000000)
{
	time_t end = time(NULL) + self->seconds, next = time(NULL) + SETTLE;
	bool all_happens = self->seconds >= ALL_HAPPENS;
	int status;

	if (all_happens && !access(NUMA_BALANCING, F_OK))
		ASSERT_EQ(1, number_in(NUMA_BALANCING, ""))
			TH_LOG("the kernel parameter numa_balancing=enable is needed");
	for (int i = 0; i < TARGETS; i++)
		target_start(self, &self->target[i]);
	callers_start(self);
	while (all_well(_metadata)) {
		if (time(NULL) >= end && (!all_happens || time(NULL) >= end + MORE * patience() ||
					  !never_happened(self, false)))
			break;
		pids_refresh(&self->cg);
		disturb(_metadata, self);
		merged_look(self);
		usleep(20000);
		if (time(NULL) >= next) {
			settle(_metadata, self);
			next = time(NULL) + SETTLE;
		}
	}
	settle(_metadata, self);
	b->end = true;
	for (int i = 0; i < TARGETS; i++) {
		status = -1;
		EXPECT_EQ(self->target[i], waitpid(self->target[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	callers_end(_metadata, self);
	/* What has failed has ended early. */
	if (all_happens && all_well(_metadata))
		EXPECT_EQ(0, never_happened(self, true));
}

/*
 * Another's stressors, which verify what they read. Not --numa: it gives mbind(2)
 * the number of nodes as maxnode, which the kernel takes for one less, so that
 * the last node's mask is empty. Not --mmapmany and --mmapcow: they have more
 * mappings than are counted here.
 */
static char *const stressors[] = {
	"--vm", "--mremap", "--madvise", "--mmap", "--memfd", "--mmapfork", "--pagemove",
	"--mmaphuge", "--mmapfixed", "--vm-addr",
};

static char *const stress_options[] = {
	"--verify", "--oom-avoid", "--temp-path", "/tmp", "--vm-bytes", "24M", "--vm-method", "all",
	"--vm-numa", "--mremap-bytes", "8M", "--mremap-numa", "--mmap-bytes", "8M",
	"--mmap-mprotect", "--mmap-numa", "--mmap-write-check", "--memfd-bytes", "8M",
	"--memfd-numa", "--mmapfork-bytes", "16M", "--pagemove-bytes", "4M", "--pagemove-numa",
	"--mmaphuge-mmaps", "4", "--mmaphuge-numa", "--mmapfixed-numa", "--vm-addr-numa",
};

#define STRESS_LOG "/tmp/soak-stress-ng.log"

static void stress(long seconds)
{
	char *argv[8 + 2 * ARRAY_LEN(stressors) + ARRAY_LEN(stress_options)], text[24];
	int n = 0;

	snprintf(text, sizeof(text), "%ld", seconds);
	argv[n++] = "stress-ng";
	argv[n++] = "--timeout";
	argv[n++] = text;
	argv[n++] = "--log-file";
	argv[n++] = STRESS_LOG;
	for (size_t i = 0; i < ARRAY_LEN(stressors); i++) {
		argv[n++] = stressors[i];
		argv[n++] = "1";
	}
	for (size_t i = 0; i < ARRAY_LEN(stress_options); i++)
		argv[n++] = stress_options[i];
	argv[n] = NULL;
	execvp(argv[0], argv);
	die("stress-ng");
}

TEST_F_TIMEOUT(soak, stress_ng, 1000000)
{
	time_t next = time(NULL) + SETTLE;
	char text[16384], passed[32];
	int status = 0;
	pid_t pid;

	unlink(STRESS_LOG);
	fflush(NULL);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		cg_enter(&self->cg, getpid());
		stress(self->seconds / 8 + 1);
	}
	callers_start(self);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		pids_refresh(&self->cg);
		if (below(&self->rnd, 20) == 0)
			caller_renew(self);
		usleep(20000);
		if (time(NULL) >= next) {
			settle(_metadata, self);
			next = time(NULL) + SETTLE;
		}
	}
	EXPECT_EQ(0, status);
	/* Its status is 0, too, where it has skipped something. */
	ASSERT_EQ(0, file_read(STRESS_LOG, text, sizeof(text)));
	snprintf(passed, sizeof(passed), "passed: %zu:", ARRAY_LEN(stressors));
	EXPECT_NE(NULL, strstr(text, passed)) TH_LOG("%s", text);
	EXPECT_NE(NULL, strstr(text, "skipped: 0\n"));
	EXPECT_NE(NULL, strstr(text, "failed: 0\n"));
	callers_end(_metadata, self);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--target"))
		return target(strtoul(argv[2], NULL, 10));
	return test_harness_run(argc, argv);
}
