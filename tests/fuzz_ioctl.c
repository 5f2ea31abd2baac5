// SPDX-License-Identifier: GPL-2.0
/*
 * A structured fuzzer of the three ioctls. Several callers, root and nobody,
 * each with a thread that changes and unmaps their arguments under them, make
 * calls that are right, or wrong in one to three places, on quiet and on busy
 * processes. After each call: was its answer one that the contract allows for
 * what was wrong with it, and is every page of the quiet memory where this call
 * may have put it?
 *
 * PM_SEED: the seed (default: the time). PM_SECONDS: how long (60).
 * PM_CALLS: how many calls, however long that takes. In scripts/vm:
 *	scripts/vm --nodes 4 --timeout 0 -- env PM_CALLS=1000000 build/tests/fuzz_ioctl
 */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <linux/userfaultfd.h>

#define CALLERS 4
#define BUSY 3
#define SHARED_FDS 2
#define SLOTS 4
/* A quiet region: base pages, a hole, and a huge page. */
#define SMALL 16
#define HUGE_AT HPAGE
#define REGION (HUGE_AT + HPAGE)
#define REGION_PAGES (REGION / PAGE)
#define KNOWN_FLAGS 0x3f

struct world {
	volatile bool stop;
	volatile pid_t busy[BUSY];
	pid_t hidden, dead;
	int dead_pidfd, hidden_pidfd;
	unsigned long calls, done, refused, by_int80, ended_early;
	/* Calls on quiet memory without room; faults that were served late. */
	unsigned long no_memory, late;
	unsigned long busy_rounds;
};

static struct world *world;
static bool has_int80;

/* xorshift64*: the low bits of a plain one are weak. */
struct rng {
	uint64_t state;
};

static uint32_t rnd(struct rng *r)
{
	r->state ^= r->state >> 12;
	r->state ^= r->state << 25;
	r->state ^= r->state >> 27;
	return (r->state * 0x2545f4914f6cdd1dULL) >> 32;
}

static uint32_t below(struct rng *r, uint32_t n)
{
	return rnd(r) % n;
}

static bool one_in(struct rng *r, uint32_t n)
{
	return !below(r, n);
}

static struct rng seeded(uint64_t seed, int who)
{
	struct rng r = { (seed + 1) * 0x9e3779b97f4a7c15ULL + who * 0xbf58476d1ce4e5b9ULL };

	r.state = r.state ?: 1;
	for (int i = 0; i < 8; i++)
		rnd(&r);
	return r;
}

/* The call of a 32-bit program. Its pointer must be below 4 GiB. */
static long ioctl_int80(int fd, unsigned int nr, void *arg)
{
	long ret;

	asm volatile("int $0x80" : "=a"(ret)
		     : "0"(54), "b"(fd), "c"(nr), "d"(arg)
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

/* Whether the kernel is built with a function. */
static bool kernel_has(const char *function)
{
	FILE *f = fopen("/proc/kallsyms", "re");
	char line[1024], name[512];
	bool found = false;

	if (!f)
		die("/proc/kallsyms");
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %*c %511s", name) == 1 && !strcmp(name, function);
	fclose(f);
	return found;
}

static void probe_int80(struct child *c, void *arg)
{
	(void)arg;
	signal(SIGSEGV, SIG_DFL);
	child_put(c, ioctl_int80(-1, 0, NULL) == -EBADF);
}

/* Memory where both kinds of caller can point to. */
static char *low_map(size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (p == MAP_FAILED)
		die("mmap below 4 GiB");
	return p;
}

/*
 * Quiet memory: nothing but the calls of one caller moves it. node[] is what is
 * known of each page.
 */
struct quiet {
	pid_t pid;		/* as the caller names it; 0 is the caller itself */
	int pidfd;
	char *p;
	int node[REGION_PAGES];
	struct child child;
};

static char *region_make(unsigned int seed)
{
	char *p = reserve(REGION_PAGES);

	map_fixed(p, SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (advise(p, SMALL * PAGE, MADV_NOHUGEPAGE))
		die("madvise");
	place_pages(p, SMALL, mem, nr_mem);
	fill(p, SMALL, seed);
	map_fixed(p + HUGE_AT, HPAGE_NR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		  -1, 0);
	/* No huge page is no fault: then there are 512 small ones. */
	advise(p + HUGE_AT, HPAGE, MADV_HUGEPAGE);
	bind_to(mem[seed % nr_mem]);
	fill(p + HUGE_AT, HPAGE_NR, seed + 1);
	bind_to(-1);
	return p;
}

static size_t region_damage(const char *p, unsigned int seed)
{
	return bad_pages(p, SMALL, seed) + bad_pages(p + HUGE_AT, HPAGE_NR, seed + 1);
}

static void quiet_child(struct child *c, void *arg)
{
	unsigned int seed = *(unsigned int *)arg;
	char *p = region_make(seed);

	if (prctl(PR_SET_DUMPABLE, 1))
		die("PR_SET_DUMPABLE");
	child_put(c, (uintptr_t)p);
	while (child_get(c))
		child_put(c, region_damage(p, seed));
}

/* Where the pages are now. A page that compaction holds is away for a moment. */
static void look(const struct quiet *q, int *node, bool huge)
{
	nodes_of(q->pid, q->p, SMALL, node);
	if (huge)
		nodes_of(q->pid, q->p + HUGE_AT, HPAGE_NR, node + HUGE_AT / PAGE);
	for (size_t i = 0; i < (huge ? REGION_PAGES : SMALL); i++) {
		if (i == SMALL)
			i = HUGE_AT / PAGE;
		for (int tries = 0; node[i] < 0 && tries < 1000; tries++) {
			usleep(1000);
			nodes_of(q->pid, q->p + i * PAGE, 1, node + i);
		}
	}
}

/* Ends a busy process that has found its memory changed. */
static void busy_check(const char *p, size_t npages, unsigned int with)
{
	char line[512];

	for (size_t i = 0; i < npages; i++) {
		const uint64_t *at = (const void *)(p + i * PAGE);

		/* What a page has to hold depends on its place. */
		if (!page_is_bad(at, i, with))
			continue;
		snprintf(line, sizeof(line),
			 "# process %d, page %zu of %zu at %p: %#lx, then %s; pagemap %#lx\n",
			 getpid(), i, npages, at, (unsigned long)*at,
			 page_is_bad(at, i, with) ? "bad again" : "good",
			 (unsigned long)pagemap_of(0, at));
		if (write(2, line, strlen(line)) < 0)
			_exit(4);
		_exit(2);
	}
}

/*
 * A process that changes all the time. It checks its own memory, and ends in
 * one way or the other; the next one takes its place.
 */
static void busy_life(uint64_t seed)
{
	enum { MAPS = 8, LEN = 32 };
	struct rng r = seeded(seed, 77);
	char *map[MAPS] = { };
	unsigned int with[MAPS];

	for (unsigned int life = 20 + below(&r, 200); life && !world->stop; life--) {
		unsigned int i = below(&r, MAPS);
		pid_t pid;

		world->busy_rounds++;
		if (!map[i]) {
			map[i] = mmap(NULL, LEN * PAGE, PROT_READ | PROT_WRITE,
				      (one_in(&r, 3) ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS,
				      -1, 0);
			if (map[i] == MAP_FAILED)
				_exit(3);
			with[i] = rnd(&r);
			fill(map[i], LEN, with[i]);
			continue;
		}
		busy_check(map[i], LEN, with[i]);
		switch (below(&r, 8)) {
		case 0:
			munmap(map[i], LEN * PAGE);
			map[i] = NULL;
			break;
		case 1:
			mprotect(map[i] + PAGE, PAGE, PROT_READ);
			mprotect(map[i] + PAGE, PAGE, PROT_READ | PROT_WRITE);
			break;
		case 2: {
			char *to = mremap(map[i], LEN * PAGE, LEN * PAGE,
					  MREMAP_MAYMOVE | MREMAP_FIXED, reserve(LEN));

			if (to == MAP_FAILED)
				_exit(3);
			map[i] = to;
			break;
		}
		case 3:
			pid = fork();
			if (!pid) {
				busy_check(map[i], LEN, with[i]);
				_exit(0);
			}
			if (pid > 0) {
				int status;

				waitpid(pid, &status, 0);
				/* It has checked the same memory. */
				if (status)
					_exit(2);
			}
			break;
		case 4:
			madvise(map[i], LEN * PAGE, MADV_COLD);
			mlock(map[i], 4 * PAGE);
			break;
		default:
			fill(map[i], LEN, ++with[i]);
		}
		usleep(below(&r, 20000));
	}
	if (!world->stop && one_in(&r, 3))
		execl("/bin/true", "true", NULL);
	_exit(0);
}

static bool ended_badly(int status)
{
	/* 1 is die(), 3 a call that the kernel refused: no memory for it. */
	if (WIFEXITED(status) && (!status || WEXITSTATUS(status) == 3))
		return false;
	fprintf(stderr, "# a busy process ended with status %#x\n", status);
	return true;
}

static void busy_keeper(struct child *c, void *arg)
{
	struct rng r = seeded(*(uint64_t *)arg, 50);
	unsigned long bad = 0;
	uint64_t life;
	int status;
	pid_t pid;

	drop_to(NOBODY);
	for (int i = 0; !world->stop; i = (i + 1) % BUSY) {
		if (world->busy[i]) {
			if (waitpid(world->busy[i], &status, WNOHANG) != world->busy[i]) {
				usleep(2000);
				continue;
			}
			bad += ended_badly(status);
		}
		life = rnd(&r);
		pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			busy_life(life);
		}
		/* Not before: the child, too, can write there. */
		world->busy[i] = pid;
	}
	for (int i = 0; i < BUSY; i++)
		if (world->busy[i] && waitpid(world->busy[i], &status, 0) > 0)
			bad += ended_badly(status);
	child_put(c, bad);
}

/*
 * One caller: what it points to, and what its second thread does to that.
 */
enum spot { STEADY, READ_ONLY, EDGE, FLIPPING, FAULTING, UNMAPPED, SPOTS };

struct caller {
	int who;
	bool root;
	uint64_t seed;
	struct rng r;
	char *steady, *read_only, *edge, *flipping, *faulting, *holes;
	int uffd;
	/* An alarm may end any call. */
	bool alarmed;
	int shared[SHARED_FDS];
	volatile int slot[SLOTS];
	struct quiet own, other;
	unsigned int nr_ids, max_workers;
	unsigned long call;
};

/* Each area has a part for each pointer of a call. */
#define PARTS 4
#define PART (4 * PAGE)
#define AREA (PARTS * PART)

/* Serves the faults on one area, late, and takes its pages away again. */
static void *fault_server(void *arg)
{
	struct caller *c = arg;
	struct uffd_msg msg;

	while (read(c->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		struct uffdio_zeropage zero = {
			.range = { msg.arg.pagefault.address & ~(PAGE - 1), PAGE },
		};

		if (msg.event != UFFD_EVENT_PAGEFAULT)
			continue;
		usleep(msg.arg.pagefault.address % 700);
		ioctl(c->uffd, UFFDIO_ZEROPAGE, &zero);
		__atomic_fetch_add(&world->late, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *racer(void *arg)
{
	struct caller *c = arg;
	struct rng r = seeded(c->seed, 1000 + c->who);
	int noise[PAGE / sizeof(int)];
	struct iovec from = { noise, PAGE };

	while (!world->stop) {
		unsigned int i = below(&r, SLOTS);
		char *page = c->flipping + below(&r, AREA / PAGE) * PAGE;

		switch (below(&r, 7)) {
		case 0:
			mprotect(page, PAGE, PROT_NONE);
			break;
		case 1:
			map_fixed(page, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				  -1, 0);
			break;
		case 2:
			mprotect(page, PAGE, PROT_READ);
			break;
		case 3:
			munmap(page, PAGE);
			break;
		case 4:
			close(c->slot[i]);
			c->slot[i] = one_in(&r, 4) ? dup(c->shared[0]) : open(PM_DEVICE, O_RDONLY);
			break;
		case 5:
			if (c->uffd >= 0)
				madvise(c->faulting, AREA, MADV_DONTNEED);
			break;
		default:
			/* What is being read, perhaps. It need not be there. */
			for (size_t k = 0; k < ARRAY_LEN(noise); k++)
				noise[k] = (int)below(&r, nr_mem + 2) - 1;
			if (process_vm_writev(getpid(), &from, 1, &(struct iovec){ page, PAGE },
					      1, 0) < 0)
				usleep(1000);
		}
		/* Some changes for each call, not all of the CPU. */
		usleep(below(&r, 20000));
	}
	return NULL;
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* n bytes in one of the areas, anywhere in a part of it. */
static char *space(struct caller *c, enum spot kind, int part, size_t n)
{
	size_t at = part * PART + below(&c->r, (PART - n) / 8) * 8;

	switch (kind) {
	case READ_ONLY:
		return c->read_only + at;
	case EDGE:
		/* Only the first bytes are there. */
		return c->edge + PAGE - (1 + below(&c->r, n - 1));
	case FLIPPING:
		return c->flipping + at;
	case FAULTING:
		return c->faulting + at;
	case UNMAPPED:
		switch (below(&c->r, 4)) {
		case 0:
			return c->holes + at;
		case 1:
			return NULL + below(&c->r, 4096);
		case 2:
			return (char *)-(uintptr_t)(1 + rnd(&c->r));
		default:
			return (char *)(1ULL << (47 + below(&c->r, 17)));
		}
	default:
		return c->steady + at;
	}
}

/*
 * What is wrong with a call. errnos: bit E for each errno that it may give now;
 * sure: it cannot succeed.
 */
struct verdict {
	uint64_t may[3];
	bool sure;
	/* Memory that changes while it is read: it may say anything. */
	bool shaky;
};

static void allow(struct verdict *v, int err)
{
	v->may[err / 64] |= 1ULL << (err % 64);
}

static bool allowed(const struct verdict *v, long ret)
{
	return ret < 0 && ret > -192 && v->may[-ret / 64] >> (-ret % 64) & 1;
}

static void wrong(struct verdict *v, int err)
{
	allow(v, err);
	v->sure = true;
}

/* A pointer that a call reads, or also writes, of data put there if possible. */
static char *pointer(struct caller *c, struct verdict *v, int part, const void *data, size_t n,
		     bool out)
{
	enum spot kind = one_in(&c->r, 10) ? below(&c->r, SPOTS) : STEADY;
	char *p;

	if (kind == FAULTING && c->uffd < 0)
		kind = STEADY;
	/* Now and then on top of another one. */
	if (one_in(&c->r, 40)) {
		part = below(&c->r, PARTS);
		v->shaky = true;
	}
	p = space(c, kind, part, n);
	switch (kind) {
	case READ_ONLY:
		mprotect(c->read_only, AREA, PROT_READ | PROT_WRITE);
		memcpy(p, data, n);
		mprotect(c->read_only, AREA, PROT_READ);
		if (out)
			wrong(v, EFAULT);
		break;
	case EDGE:
		memcpy(p, data, c->edge + PAGE - p);
		wrong(v, EFAULT);
		break;
	case UNMAPPED:
		wrong(v, EFAULT);
		break;
	case FLIPPING:
	case FAULTING: {
		struct iovec from = { (void *)data, n }, to = { p, n };

		/* What does not fit is left: anything may be read then. */
		if (process_vm_writev(getpid(), &from, 1, &to, 1, 0) < 0)
			errno = 0;
		v->shaky = true;
		break;
	}
	default:
		memcpy(p, data, n);
	}
	return p;
}

/* Nothing but an alarm interrupts a caller. */
static void allow_alarm(const struct caller *c, struct verdict *v)
{
	if (c->alarmed)
		allow(v, EINTR);
}

static void shaky(const struct caller *c, struct verdict *v)
{
	static const int any[] = { EFAULT, EINVAL, ENODEV, ESRCH, EBADF, EPERM, ENOMEM };

	for (size_t i = 0; i < ARRAY_LEN(any); i++)
		allow(v, any[i]);
	allow_alarm(c, v);
	v->sure = false;
}

/* Whom the call is about. Returns the quiet memory if it is there. */
static struct quiet *choose_target(struct caller *c, struct verdict *v, int32_t *pid,
				   uint32_t *flags)
{
	struct quiet *q = one_in(&c->r, 2) ? &c->own : &c->other;

	switch (below(&c->r, 32)) {
	case 0:
		*pid = world->dead;
		wrong(v, ESRCH);
		return NULL;
	case 1:
		*pid = -1 - (int)(rnd(&c->r) >> 2);
		if (one_in(&c->r, 2)) {
			*flags |= PAGE_MIGRATE_PIDFD;
			wrong(v, EBADF);
		} else {
			wrong(v, ESRCH);
		}
		return NULL;
	case 2:
		*pid = world->hidden;
		if (one_in(&c->r, 2)) {
			*flags |= PAGE_MIGRATE_PIDFD;
			*pid = world->hidden_pidfd;
		}
		wrong(v, EPERM);
		/* Root may, but must not: its pages are watched. */
		if (c->root) {
			*flags |= PAGE_MIGRATE_PIDFD;
			*pid = world->dead_pidfd;
			allow(v, ESRCH);
		}
		return NULL;
	case 3:
		/* kthreadd */
		*pid = 2;
		wrong(v, c->root ? EINVAL : EPERM);
		return NULL;
	case 4:
		*flags |= PAGE_MIGRATE_PIDFD;
		*pid = world->dead_pidfd;
		wrong(v, ESRCH);
		return NULL;
	case 5:
		/* No pidfd, or nothing at all. */
		*flags |= PAGE_MIGRATE_PIDFD;
		*pid = one_in(&c->r, 2) ? c->shared[0] : 900 + (int)below(&c->r, 100);
		wrong(v, EBADF);
		return NULL;
	case 6 ... 12:
		*pid = world->busy[below(&c->r, BUSY)];
		if (*pid <= 0) {
			*pid = 0;
			return &c->own;
		}
		allow(v, ESRCH);
		/* While it executes another program. */
		allow(v, EPERM);
		return NULL;
	case 13 ... 18:
		*flags |= PAGE_MIGRATE_PIDFD;
		*pid = q->pidfd;
		return q;
	default:
		*pid = q->pid;
		if (!*pid && one_in(&c->r, 2))
			*pid = getpid();
		return q;
	}
}

/* A range: often of the quiet memory, else anything. */
static void choose_range(struct caller *c, struct verdict *v, const struct quiet *q,
			 uint64_t *va, uint64_t *len)
{
	const char *p = q ? q->p : c->own.p;
	uint64_t first = below(&c->r, SMALL);

	switch (below(&c->r, 10)) {
	case 0:
		/* All of it, which takes long. */
		if (!one_in(&c->r, 4))
			goto some;
		*va = 0;
		*len = ~0ULL - below(&c->r, 4096);
		break;
	case 1:
		*va = (uint64_t)rnd(&c->r) << 12 | (uint64_t)below(&c->r, 1 << 16) << 44;
		*len = (uint64_t)rnd(&c->r) << below(&c->r, 32);
		break;
	case 2:
		if (!one_in(&c->r, 4))
			goto some;
		*va = (uintptr_t)p + 1 + below(&c->r, PAGE - 1);
		*len = rnd(&c->r);
		wrong(v, EINVAL);
		break;
	case 3:
		*va = (uintptr_t)p;
		*len = 0;
		break;
	case 4:
		if (!one_in(&c->r, 4))
			goto some;
		*va = (uintptr_t)p + HUGE_AT + below(&c->r, HPAGE_NR) * PAGE;
		*len = 1 + below(&c->r, HPAGE);
		break;
	case 5:
		*va = (uintptr_t)c->steady;
		*len = AREA;
		break;
	default:
some:
		*va = (uintptr_t)p + first * PAGE;
		*len = 1 + below(&c->r, (SMALL - first) * PAGE);
		if (one_in(&c->r, 32)) {
			*va = (uintptr_t)p;
			*len = REGION;
		}
	}
}

struct lists {
	int old[MAX_NODES], new[MAX_NODES];
	uint32_t count;
};

static void choose_lists(struct caller *c, struct verdict *v, struct lists *l)
{
	int order[MAX_NODES];

	memcpy(order, mem, sizeof(int) * nr_mem);
	for (int i = nr_mem - 1; i > 0; i--) {
		int k = below(&c->r, i + 1), t = order[i];

		order[i] = order[k];
		order[k] = t;
	}
	l->count = 1 + below(&c->r, nr_mem);
	for (uint32_t i = 0; i < l->count; i++) {
		l->old[i] = order[i];
		l->new[i] = mem[below(&c->r, nr_mem)];
	}
	switch (below(&c->r, 12)) {
	case 0:
		l->old[below(&c->r, l->count)] = ANY;
		break;
	case 1:
		l->new[below(&c->r, l->count)] = ANY;
		if (l->count == (uint32_t)nr_mem)
			wrong(v, EINVAL);
		break;
	case 2:
		l->old[0] = ANY;
		l->new[0] = ANY;
		wrong(v, EINVAL);
		break;
	case 3:
		if (l->count > 1) {
			l->old[l->count - 1] = l->old[0];
			wrong(v, EINVAL);
		}
		break;
	case 4:
		(one_in(&c->r, 2) ? l->old : l->new)[below(&c->r, l->count)] =
			one_in(&c->r, 2) ? -2 - (int)(rnd(&c->r) >> 2) :
			(int)c->nr_ids + (int)(rnd(&c->r) >> 2);
		wrong(v, EINVAL);
		break;
	}
}

/* How a page may have been changed by a call that began with it on node from. */
static bool may_be(const struct lists *l, int from, int to, bool strict)
{
	int want = -2;

	for (uint32_t i = 0; i < l->count; i++)
		if (l->old[i] == from || (want == -2 && l->old[i] == ANY))
			want = l->new[i];
	if (to == from || to == want)
		return true;
	if (want == -2)
		return false;
	for (uint32_t i = 0; i < l->count; i++) {
		/* A wildcard: any node that is not to be emptied. */
		if (l->new[i] == ANY && (want == ANY || !strict)) {
			bool named = false;

			for (uint32_t k = 0; k < l->count; k++)
				named |= l->old[k] == to;
			if (!named)
				return true;
		}
		if (!strict && l->new[i] == to)
			return true;
	}
	return false;
}

static void complain(struct caller *c, const char *what, const struct page_migrate_request *req,
		     long ret)
{
	fprintf(stderr, "# caller %d (%s), call %lu: %s: returned %ld\n", c->who,
		c->root ? "root" : "nobody", c->call, what, ret);
	fprintf(stderr, "#  pid %d flags %#x va %#llx len %#llx count %u workers %u max %llu\n",
		req->pid, req->flags, (long long)req->va_start, (long long)req->len, req->count,
		req->workers, (long long)req->max_pages);
	fprintf(stderr, "#  lists %#llx %#llx by_pair %#llx\n", (long long)req->old_nodes,
		(long long)req->new_nodes, (long long)req->moved_by_pair);
	pm_print(&req->result);
	fflush(NULL);
	_exit(1);
}

/* Each quiet page is where it was, or where the call may have put it. */
static void check_pages(struct caller *c, struct quiet *q, const struct page_migrate_request *req,
			const struct lists *l, long ret, bool may_move)
{
	uint64_t start = req->va_start, end = start + req->len < start ? ~0ULL : start + req->len;
	bool huge = start < (uintptr_t)q->p + REGION && end > (uintptr_t)q->p + HUGE_AT;
	int now[REGION_PAGES];

	if (!may_move && c->call % 8)
		return;
	/* 512 pages are a lot to look at each time. */
	memcpy(now, q->node, sizeof(now));
	look(q, now, (may_move && huge) || c->call % 64 == 0);
	for (size_t i = 0; i < REGION_PAGES; i++) {
		uint64_t va = (uintptr_t)q->p + i * PAGE;
		bool inside = va + PAGE > start && va < end;

		if (i >= SMALL && i < HUGE_AT / PAGE)
			continue;
		/* A huge page moves whole. */
		if (i >= HUGE_AT / PAGE)
			inside = huge;
		if (now[i] != q->node[i] &&
		    (!may_move || !inside ||
		     !may_be(l, q->node[i], now[i], req->flags & PAGE_MIGRATE_STRICT))) {
			fprintf(stderr, "# page %zu of %d was on node %d, is on %d\n", i, q->pid,
				q->node[i], now[i]);
			complain(c, "a page moved that may not", req, ret);
		}
	}
	memcpy(q->node, now, sizeof(now));
}

/* What the counts must add up to; -1 where that is not known. */
static long pages_in(const struct quiet *q, uint64_t va, uint64_t len)
{
	uint64_t from = (uintptr_t)q->p, to = from + REGION, n = 0;

	if (!len)
		return 0;
	if (va < from || va >= to || len > to - va)
		return -1;
	for (size_t i = 0; i < REGION_PAGES; i++)
		n += (i < SMALL || i >= HUGE_AT / PAGE) && from + i * PAGE >= va &&
		     from + i * PAGE < va + len;
	return n;
}

static int choose_fd(struct caller *c, struct verdict *v)
{
	switch (below(&c->r, 24)) {
	case 0:
		wrong(v, EBADF);
		return -1 - (int)below(&c->r, 100);
	case 1:
	case 2: {
		/* It may be closed, or be something else by now. */
		allow(v, EBADF);
		allow(v, ENOTTY);
		allow(v, EINVAL);
		v->shaky = true;
		return c->slot[below(&c->r, SLOTS)];
	}
	default:
		return c->shared[below(&c->r, SHARED_FDS)];
	}
}

static long call(struct caller *c, int fd, unsigned int nr, void *arg)
{
	long ret;

	__atomic_fetch_add(&world->calls, 1, __ATOMIC_RELAXED);
	if (has_int80 && (uintptr_t)arg >> 32 == 0 && one_in(&c->r, 3)) {
		__atomic_fetch_add(&world->by_int80, 1, __ATOMIC_RELAXED);
		ret = ioctl_int80(fd, nr, arg);
	} else {
		ret = pm_ioctl(fd, nr, arg);
	}
	__atomic_fetch_add(ret < 0 ? &world->refused : &world->done, 1, __ATOMIC_RELAXED);
	if (ret == -EINTR)
		__atomic_fetch_add(&world->ended_early, 1, __ATOMIC_RELAXED);
	return ret;
}

static void fuzz_migrate(struct caller *c)
{
	struct verdict v = { }, where = { };
	struct page_migrate_request req = { }, *arg;
	uint64_t by_pair[MAX_NODES], sum = 0;
	struct lists l;
	struct quiet *q;
	bool refused, sure, may_move;
	long ret, present;
	int fd;

	memset(by_pair, 0x5a, sizeof(by_pair));
	req.flags = rnd(&c->r) & KNOWN_FLAGS & ~PAGE_MIGRATE_PIDFD;
	if (one_in(&c->r, 2))
		req.flags &= ~PAGE_MIGRATE_DRY_RUN;
	q = choose_target(c, &v, &req.pid, &req.flags);
	choose_range(c, &v, q, (uint64_t *)&req.va_start, (uint64_t *)&req.len);
	choose_lists(c, &v, &l);
	req.count = l.count;
	if (one_in(&c->r, 2))
		req.workers = below(&c->r, c->max_workers + 1);
	if (one_in(&c->r, 6))
		req.max_pages = 1ULL << below(&c->r, 64);
	req.old_nodes = (uintptr_t)pointer(c, &v, 1, l.old, 4 * l.count, false);
	req.new_nodes = (uintptr_t)pointer(c, &v, 2, l.new, 4 * l.count, false);
	if (one_in(&c->r, 2))
		req.moved_by_pair = (uintptr_t)pointer(c, &v, 3, by_pair, 8 * l.count,
							    true);
	switch (below(&c->r, 24)) {
	case 0:
		req.flags |= 1U << (6 + below(&c->r, 26));
		wrong(&v, EINVAL);
		break;
	case 1:
		req.reserved[below(&c->r, 2)] = 1ULL << below(&c->r, 64);
		wrong(&v, EINVAL);
		break;
	case 2:
		req.count = one_in(&c->r, 2) ? 0 :
			c->nr_ids + 1 + (rnd(&c->r) >> (1 + below(&c->r, 31)));
		wrong(&v, EINVAL);
		break;
	case 3:
		req.workers = c->max_workers + 1 + (rnd(&c->r) >> (1 + below(&c->r, 31)));
		wrong(&v, EINVAL);
		break;
	}
	pm_poison(&req.result);
	fd = choose_fd(c, &v);
	arg = (void *)pointer(c, &where, 0, &req, sizeof(req), true);
	for (size_t i = 0; i < ARRAY_LEN(v.may); i++)
		v.may[i] |= where.may[i];
	sure = v.sure || where.sure;
	if (!sure) {
		allow_alarm(c, &v);
		allow(&v, ENOMEM);
	}
	if (v.shaky || where.shaky) {
		shaky(c, &v);
		sure = false;
	}
	ret = call(c, fd, PAGE_MIGRATE_IOC_MIGRATE, arg);

	if (q && ret == -ENOMEM)
		__atomic_fetch_add(&world->no_memory, 1, __ATOMIC_RELAXED);
	if (ret < 0 && !allowed(&v, ret))
		complain(c, "an errno that nothing explains", &req, ret);
	if (ret >= 0 && sure)
		complain(c, "a call that cannot be right", &req, ret);
	refused = ret < 0 && ret != -ENOMEM && ret != -EINTR;
	may_move = !refused && !(req.flags & PAGE_MIGRATE_DRY_RUN);
	/* What changes during a call may have said anything, and be gone at its end. */
	if (v.shaky || where.shaky) {
		for (int i = 0; i < nr_mem; i++) {
			l.old[i] = mem[i];
			l.new[i] = mem[i];
		}
		l.count = nr_mem;
		req.flags &= ~PAGE_MIGRATE_STRICT;
		if (where.shaky) {
			req.va_start = 0;
			req.len = ~0ULL;
		}
		may_move = true;
	}
	check_pages(c, &c->own, &req, &l, ret, may_move && (q == &c->own || where.shaky));
	check_pages(c, &c->other, &req, &l, ret, may_move && (q == &c->other || where.shaky));
	if (v.shaky || where.shaky || where.sure)
		return;

	/* A target that dies during the call may have let it come to the zeros. */
	memcpy(&req.result, &arg->result, sizeof(req.result));
	if (refused) {
		struct page_migrate_result zero = { };

		if (!pm_is_poison(&req.result) &&
		    (ret != -ESRCH || memcmp(&zero, &req.result, sizeof(zero))))
			complain(c, "a refused call wrote a result", &req, ret);
		return;
	}
	if (req.result.reserved)
		complain(c, "something in the reserved field", &req, ret);
	if (ret >= 0 && ret != (long)pm_left(&req.result))
		complain(c, "not the number of pages left behind", &req, ret);
	if (ret >= 0 && req.result.no_memory)
		complain(c, "no_memory without ENOMEM", &req, ret);
	if (req.moved_by_pair) {
		memcpy(by_pair, (void *)(uintptr_t)req.moved_by_pair, 8 * l.count);
		for (uint32_t i = 0; i < l.count; i++)
			sum += by_pair[i];
		if (sum != req.result.moved + req.result.moved_fallback)
			complain(c, "moved_by_pair is not what has moved", &req, ret);
	}
	present = q ? pages_in(q, req.va_start, req.len) : -1;
	if (present >= 0 && !req.max_pages && ret != -EINTR && ret != -ENOMEM &&
	    pm_sum(&req.result) != (uint64_t)present) {
		fprintf(stderr, "# %ld pages are there\n", present);
		complain(c, "pages are missing in the counts", &req, ret);
	}
}

static void fuzz_placement(struct caller *c)
{
	struct page_migrate_placement req = { }, *arg;
	struct page_migrate_request shown = { };
	struct verdict v = { }, where = { };
	uint64_t pages[MAX_NODES];
	struct quiet *q;
	long ret, present;
	int fd;

	memset(pages, 0x5a, sizeof(pages));
	q = choose_target(c, &v, &req.pid, &req.flags);
	choose_range(c, &v, q, (uint64_t *)&req.va_start, (uint64_t *)&req.len);
	req.count = c->nr_ids;
	req.pages = (uintptr_t)pointer(c, &v, 3, pages, 8 * req.count, true);
	switch (below(&c->r, 16)) {
	case 0:
		req.flags |= 2U << below(&c->r, 31);
		wrong(&v, EINVAL);
		break;
	case 1:
		req.count = below(&c->r, c->nr_ids);
		wrong(&v, EINVAL);
		break;
	case 2:
		req.reserved[below(&c->r, 3)] = 1ULL << below(&c->r, 64);
		wrong(&v, EINVAL);
		break;
	case 3:
		req.count = ~0U;
		/* Zeros are written as far as there is memory. */
		shaky(c, &v);
		v.shaky = true;
		break;
	}
	fd = choose_fd(c, &v);
	arg = (void *)pointer(c, &where, 0, &req, sizeof(req), false);
	for (size_t i = 0; i < ARRAY_LEN(v.may); i++)
		v.may[i] |= where.may[i];
	/* Pages are counted before they are written. */
	allow_alarm(c, &v);
	if (v.shaky || where.shaky) {
		shaky(c, &v);
		where.sure = false;
	}
	ret = call(c, fd, PAGE_MIGRATE_IOC_PLACEMENT, arg);
	shown.pid = req.pid;
	shown.flags = req.flags;
	shown.va_start = req.va_start;
	shown.len = req.len;
	shown.count = req.count;
	shown.moved_by_pair = req.pages;
	if (ret > 0 || (ret < 0 && !allowed(&v, ret)))
		complain(c, "PLACEMENT: an errno that nothing explains", &shown, ret);
	if (!ret && (v.sure || where.sure))
		complain(c, "PLACEMENT: a call that cannot be right", &shown, ret);
	present = q ? pages_in(q, req.va_start, req.len) : -1;
	if (ret || present < 0 || v.shaky || where.shaky)
		return;
	/* A page that compaction holds is away for a moment. */
	for (int tries = 0;; tries++) {
		long missing = present;

		memcpy(pages, (void *)(uintptr_t)req.pages, 8 * req.count);
		for (uint32_t i = 0; i < req.count; i++)
			missing -= pages[i];
		if (!missing || tries == 1000) {
			present = missing;
			break;
		}
		usleep(1000);
		if (pm_ioctl(fd, PAGE_MIGRATE_IOC_PLACEMENT, arg))
			return;
	}
	if (present)
		complain(c, "PLACEMENT: pages are missing", &shown, present);
}

static void fuzz_info(struct caller *c)
{
	struct page_migrate_info info = { }, *arg;
	struct page_migrate_request shown = { };
	struct verdict v = { };
	unsigned int nr = PAGE_MIGRATE_IOC_INFO;
	int fd = choose_fd(c, &v);
	long ret;

	if (one_in(&c->r, 3)) {
		/* Some number that is not one of ours. */
		nr = one_in(&c->r, 2) ? rnd(&c->r) : nr ^ (1U << below(&c->r, 32));
		if (nr == PAGE_MIGRATE_IOC_MIGRATE || nr == PAGE_MIGRATE_IOC_PLACEMENT ||
		    _IOC_TYPE(nr) != 0xb9)
			return;
		if (nr != PAGE_MIGRATE_IOC_INFO) {
			v.sure = true;
			allow(&v, ENOTTY);
		}
	}
	arg = (void *)pointer(c, &v, 0, &info, sizeof(info), true);
	if (v.shaky)
		shaky(c, &v);
	ret = call(c, fd, nr, arg);
	if (ret > 0 || (ret < 0 && !allowed(&v, ret)) || (!ret && v.sure))
		complain(c, "INFO", &shown, ret);
	if (ret || v.shaky)
		return;
	memcpy(&info, arg, sizeof(info));
	if (info.max_nodes != c->nr_ids || info.max_workers != c->max_workers ||
	    info.flags != KNOWN_FLAGS)
		complain(c, "INFO: other facts than before", &shown, ret);
	for (size_t i = 0; i < ARRAY_LEN(info.reserved); i++)
		if (info.reserved[i])
			complain(c, "INFO: something in the reserved fields", &shown, ret);
}

static void caller_setup(struct caller *c)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	unsigned int seed = c->who * 2 + 1;
	struct page_migrate_info info;
	int fd = pm_open();

	c->r = seeded(c->seed, c->who);
	c->nr_ids = nr_node_ids();
	if (pm_ioctl(fd, PAGE_MIGRATE_IOC_INFO, &info))
		die("PAGE_MIGRATE_IOC_INFO");
	c->max_workers = info.max_workers;
	close(fd);
	c->uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (c->uffd < 0 && !access("/proc/sys/vm/unprivileged_userfaultfd", F_OK))
		die("userfaultfd");
	c->steady = low_map(AREA);
	c->read_only = low_map(AREA);
	c->flipping = low_map(AREA);
	c->faulting = low_map(AREA);
	c->holes = low_map(AREA);
	mprotect(c->holes, AREA, PROT_NONE);
	c->edge = low_map(2 * PAGE);
	mprotect(c->edge + PAGE, PAGE, PROT_NONE);
	if (c->uffd >= 0) {
		reg.range.start = (uintptr_t)c->faulting;
		reg.range.len = AREA;
		if (ioctl(c->uffd, UFFDIO_API, &api) || ioctl(c->uffd, UFFDIO_REGISTER, &reg))
			die("userfaultfd");
	}
	c->own.pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	if (!c->root)
		drop_to(NOBODY);
	seed++;
	child_start(&c->other.child, quiet_child, &seed);
	c->other.pid = c->other.child.pid;
	c->other.p = (char *)child_get(&c->other.child);
	c->other.pidfd = syscall(SYS_pidfd_open, c->other.pid, 0);
	look(&c->other, c->other.node, true);
	/* Behind the fork: what two processes map, nobody may not move. */
	c->own.p = region_make(seed - 1);
	look(&c->own, c->own.node, true);
	if (c->own.pidfd < 0 || c->other.pidfd < 0)
		die("pidfd_open");
	for (int i = 0; i < SLOTS; i++)
		c->slot[i] = pm_open();
}

static void caller_main(struct child *up, void *arg)
{
	struct itimerval often = { .it_interval.tv_usec = 7000, .it_value.tv_usec = 7000 };
	struct sigaction act = { .sa_handler = on_alarm };
	struct caller *c = arg;
	sigset_t alarms;
	pthread_t t;

	caller_setup(c);
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarms, NULL);
	if (pthread_create(&t, NULL, racer, c) ||
	    (c->uffd >= 0 && pthread_create(&t, NULL, fault_server, c)))
		die("pthread_create");
	/* Half of the callers are interrupted all the time. */
	sigaction(SIGALRM, &act, NULL);
	pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
	for (c->call = 0; !world->stop; c->call++) {
		if (c->call % 256 == 0 && c->who % 2) {
			bool on = c->call / 256 % 2;

			/* One that is pending comes before the return from there. */
			setitimer(ITIMER_REAL, on ? &often : &(struct itimerval){ }, NULL);
			c->alarmed = on;
		}
		switch (below(&c->r, 8)) {
		case 0:
			fuzz_info(c);
			break;
		case 1:
			fuzz_placement(c);
			break;
		default:
			fuzz_migrate(c);
		}
	}
	setitimer(ITIMER_REAL, &(struct itimerval){ }, NULL);
	sigaction(SIGALRM, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
	child_put(&c->other.child, 1);
	child_put(up, region_damage(c->own.p, c->who * 2 + 1) + child_get(&c->other.child));
	child_put(up, c->call);
	child_end(&c->other.child);
}

static void hidden_main(struct child *c, void *arg)
{
	char *p = region_make(99);

	(void)arg;
	child_put(c, (uintptr_t)p);
	while (child_get(c))
		child_put(c, region_damage(p, 99));
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

FIXTURE(fuzz)
{
	struct child hidden, keeper, caller[CALLERS];
	struct caller c[CALLERS];
};

FIXTURE_SETUP(fuzz)
{
	struct child probe;
	uint64_t works;
	pid_t pid;

	(void)self;
	world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		     -1, 0);
	if (world == MAP_FAILED)
		die("mmap");
	child_start(&probe, probe_int80, NULL);
	has_int80 = read(probe.in, &works, sizeof(works)) == sizeof(works) && works;
	child_end(&probe);
	if (!has_int80 && kernel_has("do_int80_emulation"))
		die("calls of 32-bit programs do not work");
	/* A process that is no more, but whose number is not given again. */
	pid = fork();
	if (!pid)
		_exit(0);
	world->dead = pid;
	world->dead_pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (world->dead_pidfd < 0)
		die("pidfd_open");
	child_start(&self->hidden, hidden_main, NULL);
	world->hidden = self->hidden.pid;
	world->hidden_pidfd = syscall(SYS_pidfd_open, self->hidden.pid, 0);
}

FIXTURE_TEARDOWN(fuzz)
{
	for (int i = 0; i < CALLERS; i++)
		child_end(&self->caller[i]);
	child_end(&self->keeper);
	child_end(&self->hidden);
	waitpid(world->dead, NULL, 0);
	EXPECT_EQ(0, nr_isolated());
}

TEST_F_TIMEOUT(fuzz, calls, 30 * 24 * 3600)
{
	uint64_t calls = number("PM_CALLS", 0), seed = number("PM_SEED", time(NULL));
	uint64_t seconds = number("PM_SECONDS", calls ? 30 * 24 * 3600 : 60), value;
	struct quiet hidden = { .pid = self->hidden.pid };
	int shared[SHARED_FDS], now[REGION_PAGES];
	time_t end;

	TH_LOG("PM_SEED=%llu, %s calls of 32-bit programs", (long long)seed,
	       has_int80 ? "with" : "without");
	for (int i = 0; i < SHARED_FDS; i++)
		shared[i] = pm_open();
	hidden.p = (char *)child_get(&self->hidden);
	look(&hidden, hidden.node, true);
	child_start(&self->keeper, busy_keeper, &seed);
	for (int i = 0; i < CALLERS; i++) {
		self->c[i].who = i;
		self->c[i].seed = seed;
		self->c[i].root = i == 0;
		memcpy(self->c[i].shared, shared, sizeof(shared));
		child_start(&self->caller[i], caller_main, &self->c[i]);
	}
	end = time(NULL) + seconds;
	while (time(NULL) < end && (!calls || world->calls < calls)) {
		int status;

		usleep(100000);
		/* One that has complained ends it for all. */
		for (int i = 0; i < CALLERS; i++)
			if (waitpid(self->caller[i].pid, &status, WNOHANG) > 0) {
				world->stop = true;
				self->caller[i].pid = 0;
				TH_LOG("caller %d ended, status %#x; PM_SEED=%llu", i, status,
				       (long long)seed);
				ASSERT_TRUE(false);
			}
	}
	world->stop = true;
	for (int i = 0; i < CALLERS; i++) {
		EXPECT_EQ(0, child_get(&self->caller[i]))
			TH_LOG("caller %d: damaged pages", i);
		EXPECT_LT(0, child_get(&self->caller[i]));
	}
	EXPECT_EQ(0, child_get(&self->keeper));
	/* Nobody could touch this one. */
	look(&hidden, now, true);
	EXPECT_EQ(0, memcmp(now, hidden.node, sizeof(int) * SMALL));
	EXPECT_EQ(0, memcmp(now + HUGE_AT / PAGE, hidden.node + HUGE_AT / PAGE,
			    sizeof(int) * HPAGE_NR));
	child_put(&self->hidden, 1);
	EXPECT_EQ(0, child_get(&self->hidden));
	/* The files work. */
	value = world->done;
	EXPECT_LT(0, value);
	for (int i = 0; i < SHARED_FDS; i++) {
		char *p = map_node(4, mem[0]);

		EXPECT_EQ(0, pm_move(shared[i], 0, p, 4 * PAGE, PAGE_MIGRATE_NEW_JOB, 1,
				     &mem[0], &mem[1], NULL));
		EXPECT_TRUE(all_on(0, p, 4, &mem[1], 1));
	}
	TH_LOG("%lu calls (%lu by int 0x80): %lu done, %lu refused, %lu of these by a signal",
	       world->calls, world->by_int80, world->done, world->refused, world->ended_early);
	EXPECT_EQ(has_int80, world->by_int80 > 0);
	TH_LOG("%lu faults served late, %lu calls on quiet memory without room for pages",
	       world->late, world->no_memory);
	/* There is room on each node, nearly always. */
	EXPECT_GE(value / 100, world->no_memory);
	TH_LOG("%lu things that busy processes did", world->busy_rounds);
}

TEST_HARNESS_MAIN
