// SPDX-License-Identifier: GPL-2.0
/* What the programs that measure share; see bench.h. */
#include "bench.h"

#include <getopt.h>
#include <limits.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define NODE_DIR "/sys/devices/system/node"
#define TRACING "/sys/kernel/tracing"
#define MASK_WORDS (MAX_NODES / (8 * sizeof(long)))

/* Where the profiler looks for calls, one every MARK_STEP bytes; see profile.c. */
#define MARK ((char *)0x13370000)
#define MARK_STEP 64

const char *const contestant_names[NR_CONTESTANTS] = {
	"idle", "ours", "migrate_pages", "move_pages",
};

const char *const kind_names[NR_KINDS] = { "anon", "memfd", "disk", "thp" };

int rounds = 3;
size_t mib;
const char *only;
bool quick;

int nr_mem;
int mem[MAX_NODES];
int home;
char *arena;

static char case_name[256];
static const char *time_unit = "ns";

void die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "bench: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, " (errno %d: %s)\n", err, strerror(err));
	va_end(ap);
	fflush(NULL);
	_exit(1);
}

uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/*
 * Nodes.
 */

static void file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t n;

	if (fd < 0)
		die("%s", path);
	while (have + 1 < size && (n = read(fd, buf + have, size - 1 - have)) > 0)
		have += n;
	buf[have] = 0;
	close(fd);
}

static void nodes_find(void)
{
	char buf[4096], *p = buf;
	unsigned int cpu, node;

	file_read(NODE_DIR "/has_memory", buf, sizeof(buf));
	while (*p && *p != '\n') {
		long a = strtol(p, &p, 10), b = a;

		if (*p == '-')
			b = strtol(p + 1, &p, 10);
		for (; a <= b && nr_mem < MAX_NODES; a++)
			mem[nr_mem++] = a;
		if (*p == ',')
			p++;
	}
	if (getcpu(&cpu, &node))
		die("getcpu");
	home = mem[0];
	for (int i = 0; i < nr_mem; i++)
		if (mem[i] == (int)node)
			home = node;
}

size_t node_free(int node)
{
	char path[128], buf[8192], *p;
	long kb;

	snprintf(path, sizeof(path), NODE_DIR "/node%d/meminfo", node);
	file_read(path, buf, sizeof(buf));
	p = strstr(buf, "MemFree:");
	if (!p || sscanf(p, "MemFree: %ld kB", &kb) != 1)
		die("no MemFree in %s", path);
	return kb / (PAGE / 1024);
}

static void mask_set(unsigned long *mask, int node)
{
	mask[node / (8 * sizeof(long))] |= 1UL << node % (8 * sizeof(long));
}

void bind_to(int node)
{
	unsigned long mask[MASK_WORDS] = { };
	long ret;

	if (node < 0) {
		ret = syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
	} else {
		mask_set(mask, node);
		ret = syscall(SYS_set_mempolicy, MPOL_BIND, mask, MAX_NODES + 1);
	}
	if (ret)
		die("set_mempolicy for node %d", node);
}

bool pairs_find(struct pairs *p, int n, size_t pages)
{
	int found[MAX_NODES], have = 0;
	bool has_home = false;

	/* What the kernel keeps for itself: the watermarks, and more on small nodes. */
	pages += pages / 32 + 512;
	for (int i = 0; i < nr_mem && have < 2 * n; i++) {
		if (node_free(mem[i]) < pages)
			continue;
		if (mem[i] == home)
			has_home = true;
		else
			found[have++] = mem[i];
	}
	if (have < 2 * n && has_home)
		found[have++] = home;
	if (have < 2 * n)
		return false;
	p->n = n;
	for (int i = 0; i < n; i++) {
		p->from[i] = found[i];
		p->to[i] = found[n + i];
	}
	return true;
}

void pairs_turn(struct pairs *p)
{
	for (int i = 0; i < p->n; i++) {
		int node = p->from[i];

		p->from[i] = p->to[i];
		p->to[i] = node;
	}
}

/*
 * Cases and lines.
 */

bool case_begin(const char *name, const char *fmt, ...)
{
	int n = snprintf(case_name, sizeof(case_name), "%s,", name);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(case_name + n, sizeof(case_name) - n, fmt, ap);
	va_end(ap);
	return !only || strstr(case_name, only);
}

void case_skip(const char *fmt, ...)
{
	va_list ap;

	printf("# %s: ", case_name);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

void print_count(enum contestant c, int round, size_t pages, uint64_t value, const char *unit)
{
	printf("%s,%s,%d,%zu,%llu,%s\n", case_name, contestant_names[c], round, pages,
	       (unsigned long long)value, unit);
}

void print_time(enum contestant c, int round, size_t pages, uint64_t value)
{
	print_count(c, round, pages, value, time_unit);
}

/*
 * The profiler's marks: functions that do nothing, at addresses that it knows.
 */

static void marks_map(void)
{
	char *p = mmap(MARK, PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MARK)
		die("the profiler's marks at %p", MARK);
#if defined(__x86_64__)
	for (size_t i = 0; i < PAGE; i += MARK_STEP)
		p[i] = (char)0xc3;
#endif
	if (mprotect(p, PAGE, PROT_READ | PROT_EXEC))
		die("mprotect");
}

static void mark(int region)
{
#if defined(__x86_64__)
	((void (*)(void))(MARK + region * MARK_STEP))();
#endif
}

bool warm_up;

void profile_begin(enum contestant c)
{
	if (!warm_up)
		mark(c);
}

void profile_end(void)
{
	mark(0);
}

/*
 * Memory.
 */

int arena_file(enum kind kind, const char *name)
{
	char path[128];
	int fd = -1;

	switch (kind) {
	case MEMFD:
		fd = memfd_create(name, MFD_CLOEXEC);
		if (fd < 0)
			die("memfd_create");
		break;
	case DISK:
		snprintf(path, sizeof(path), "%s/pm-bench-%s-%d",
			 getenv("PAGE_MIGRATE_BENCH_DIR") ?: "/scratch", name, getpid());
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0)
			return -2;
		unlink(path);
		break;
	default:
		break;
	}
	return fd;
}

void arena_map(size_t offset, size_t npages, enum kind kind, int fd, const int *nodes, int n)
{
	size_t step = kind == THP ? HUGE : PAGE, len = npages * PAGE;
	int flags = MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
	static char zeros[PAGE];
	char *p = arena + offset;

	if (fd >= 0 && ftruncate(fd, len))
		die("ftruncate");
	if (mmap(p, len, PROT_READ | PROT_WRITE, flags, fd, 0) != p)
		die("mmap of %zu pages", npages);
	if (kind == THP && madvise(p, len, MADV_HUGEPAGE))
		die("no huge pages");
	if (kind != THP && fd < 0)
		madvise(p, len, MADV_NOHUGEPAGE);
	for (int k = 0; k < n; k++) {
		bind_to(nodes[k]);
		for (size_t i = k * step; i < len; i += n * step) {
			/* Page by page, or the file system makes large folios. */
			if (kind == DISK && pwrite(fd, zeros, PAGE, i) != PAGE)
				die("pwrite");
			((volatile char *)p)[i] = 1;
		}
	}
	bind_to(-1);
	/* Dirty pages would be written at some time in between. */
	if (kind == DISK && fsync(fd))
		die("fsync");
}

/* Fills an array with the address of every step-th byte. */
static void **addresses(const void *va, size_t n, size_t step)
{
	void **pages = malloc(n * sizeof(*pages));

	if (!pages)
		die("malloc");
	for (size_t i = 0; i < n; i++)
		pages[i] = (char *)va + i * step;
	return pages;
}

size_t arena_count(pid_t pid, size_t offset, size_t npages, const int *nodes, int n)
{
	void **pages = addresses(arena + offset, npages, PAGE);
	int *status = malloc(npages * sizeof(*status));
	bool wanted[MAX_NODES] = { };
	size_t found = 0;

	if (!status)
		die("malloc");
	for (int i = 0; i < n; i++)
		wanted[nodes[i]] = true;
	if (syscall(SYS_move_pages, pid, npages, pages, NULL, status, 0))
		die("move_pages query of %d", pid);
	for (size_t i = 0; i < npages; i++)
		found += status[i] >= 0 && status[i] < MAX_NODES && wanted[status[i]];
	free(status);
	free(pages);
	return found;
}

size_t pages_of(size_t wanted_mib)
{
	return (mib && mib < wanted_mib ? mib : wanted_mib) * ((1 << 20) / PAGE);
}

size_t expect_moved(enum contestant c, size_t there, size_t all)
{
	if (there + all / 100 < all)
		die("%s: %zu of %zu pages are where they should be", contestant_names[c], there,
		    all);
	return there;
}

/*
 * Targets.
 */

void target_start(struct target *t, void (*fn)(void *arg), void *arg)
{
	int ready[2], go[2];
	pid_t parent = getpid();
	char c = 0;

	if (pipe2(ready, O_CLOEXEC) || pipe2(go, O_CLOEXEC))
		die("pipe");
	fflush(NULL);
	t->pid = fork();
	if (t->pid < 0)
		die("fork");
	if (!t->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		close(go[1]);
		bind_to(home);
		fn(arg);
		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(ready[1]);
	close(go[0]);
	t->pipe = go[1];
	if (read(ready[0], &c, 1) != 1) {
		waitpid(t->pid, NULL, 0);
		die("the target has ended");
	}
	close(ready[0]);
}

void target_end(struct target *t)
{
	kill(t->pid, SIGKILL);
	waitpid(t->pid, NULL, 0);
	close(t->pipe);
}

/*
 * The contestants.
 */

int device_open(void)
{
	int fd = open("/dev/page_migrate", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/page_migrate: is the module loaded?");
	return fd;
}

unsigned int max_workers(void)
{
	struct page_migrate_info info = { };
	int fd = device_open();

	if (ioctl(fd, PAGE_MIGRATE_IOC_INFO, &info))
		die("PAGE_MIGRATE_IOC_INFO");
	close(fd);
	return info.max_workers;
}

struct page_migrate_request request_of(pid_t pid, const void *va, size_t len,
				       const struct pairs *p)
{
	return (struct page_migrate_request){
		.pid = pid,
		.va_start = (uintptr_t)va,
		.len = len,
		.count = p->n,
		.old_nodes = (uintptr_t)p->from,
		.new_nodes = (uintptr_t)p->to,
	};
}

uint64_t call_request(int fd, struct page_migrate_request *req)
{
	uint64_t t;
	int ret;

	profile_begin(OURS);
	t = now();
	ret = ioctl(fd, PAGE_MIGRATE_IOC_MIGRATE, req);
	t = now() - t;
	profile_end();
	if (ret < 0)
		die("PAGE_MIGRATE_IOC_MIGRATE");
	return t;
}

uint64_t call_ours(int fd, pid_t pid, const void *va, size_t len, const struct pairs *p)
{
	struct page_migrate_request req = request_of(pid, va, len, p);

	return call_request(fd, &req);
}

uint64_t call_new_job(pid_t pid, const struct pairs *p, unsigned int workers)
{
	struct page_migrate_request req = request_of(pid, NULL, ~0UL, p);
	int fd = device_open();
	uint64_t t;

	req.workers = workers;
	t = call_request(fd, &req);
	close(fd);
	return t;
}

uint64_t call_migrate_pages(pid_t pid, const struct pairs *p)
{
	uint64_t t;

	profile_begin(MIGRATE_PAGES);
	t = now();
	for (int i = 0; i < p->n; i++) {
		unsigned long from[MASK_WORDS] = { }, to[MASK_WORDS] = { };

		mask_set(from, p->from[i]);
		mask_set(to, p->to[i]);
		if (syscall(SYS_migrate_pages, pid, MAX_NODES + 1, from, to) < 0)
			die("migrate_pages of %d", pid);
	}
	t = now() - t;
	profile_end();
	return t;
}

uint64_t call_move_pages(pid_t pid, const void *va, size_t npages, size_t step,
			 const struct pairs *p)
{
	size_t n = npages * PAGE / step, first[MAX_NODES + 1] = { }, k;
	void **pages = addresses(va, n, step), **some = addresses(va, n, step);
	int *status = malloc(2 * n * sizeof(*status)), *nodes = status + n;
	int to[MAX_NODES];
	uint64_t t;

	if (!status)
		die("malloc");
	/* The arrays are there, as those of a program that does this often. */
	memset(status, 0, 2 * n * sizeof(*status));
	profile_begin(MOVE_PAGES);
	t = now();
	if (syscall(SYS_move_pages, pid, n, pages, NULL, status, 0))
		die("move_pages query of %d", pid);
	for (int i = 0; i < MAX_NODES; i++)
		to[i] = -1;
	for (int i = 0; i < p->n; i++)
		to[p->from[i]] = p->to[i];
	/* Sorted by destination: the system call moves runs of one destination at once. */
	for (size_t i = 0; i < n; i++)
		if (status[i] >= 0 && to[status[i]] >= 0)
			first[to[status[i]] + 1]++;
	for (int i = 0; i < MAX_NODES; i++)
		first[i + 1] += first[i];
	k = first[MAX_NODES];
	for (size_t i = 0; i < n; i++)
		if (status[i] >= 0 && to[status[i]] >= 0) {
			size_t at = first[to[status[i]]]++;

			some[at] = pages[i];
			nodes[at] = to[status[i]];
		}
	if (k && syscall(SYS_move_pages, pid, k, some, nodes, status, MPOL_MF_MOVE_ALL) < 0)
		die("move_pages of %d", pid);
	t = now() - t;
	profile_end();
	free(status);
	free(some);
	free(pages);
	return t;
}

/*
 * Counters.
 */

static int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

long number_in(const char *path, const char *name)
{
	size_t n = strlen(name);
	char line[256];
	long value = -1;
	FILE *f = fopen(path, "re");

	if (!f)
		die("%s", path);
	while (value < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, n) && (line[n] == ' ' || line[n] == ':'))
			value = atol(line + n + 1);
	fclose(f);
	return value;
}

void counters_refresh(void)
{
	file_write("/proc/sys/vm/stat_refresh", "1");
}

long isolated(void)
{
	counters_refresh();
	return number_in("/proc/vmstat", "nr_isolated_anon") +
	       number_in("/proc/vmstat", "nr_isolated_file");
}

/* Reason 3 is a system call, ours among them; compaction is 0. */
#define EVENT TRACING "/events/migrate/mm_migrate_pages"
#define TRIGGER "hist:keys=reason if reason == 3"

bool batches_begin(void)
{
	return !file_write(EVENT "/trigger", TRIGGER) || errno == EEXIST;
}

long batches(void)
{
	char text[4096], *p;

	file_read(EVENT "/hist", text, sizeof(text));
	/* Behind the blank: the first line has the word, too. */
	p = strstr(text, " hitcount:");
	return p ? atol(p + strlen(" hitcount:")) : 0;
}

void batches_end(void)
{
	file_write(EVENT "/trigger", "!" TRIGGER);
}

/*
 * CPUs.
 */

static cpu_set_t allowed;

int cpus(void)
{
	return CPU_COUNT(&allowed);
}

void pin_to(int i)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && i-- == 0)
			CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		die("sched_setaffinity");
}

/*
 * Options.
 */

static void usage(const char *name)
{
	printf("usage: %s [--rounds N] [--mib N] [--only TEXT] [--quick] [--instructions]\n\n"
	       "  --rounds N      how often each contestant is measured (%d)\n"
	       "  --mib N         the most memory that a case uses\n"
	       "  --only TEXT     cases whose \"CASE,PARAMETERS\" contains TEXT\n"
	       "  --quick         few cases\n"
	       "  --instructions  the machine's clock counts instructions: that is the unit\n",
	       name, rounds);
}

void bench_begin(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rounds", required_argument, NULL, 'r' },
		{ "mib", required_argument, NULL, 'm' },
		{ "only", required_argument, NULL, 'o' },
		{ "quick", no_argument, NULL, 'q' },
		{ "instructions", no_argument, NULL, 'i' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'r':
			rounds = atoi(optarg);
			break;
		case 'm':
			mib = strtoul(optarg, NULL, 10);
			break;
		case 'o':
			only = optarg;
			break;
		case 'q':
			quick = true;
			break;
		case 'i':
			time_unit = "instructions";
			break;
		case 'h':
			usage(argv[0]);
			exit(0);
		default:
			usage(argv[0]);
			exit(2);
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		die("sched_getaffinity");
	nodes_find();
	if (nr_mem < 2)
		die("there is one node with memory");
	marks_map();
	arena = mmap(NULL, ARENA_SIZE + HUGE, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (arena == MAP_FAILED)
		die("mmap");
	arena = (char *)(((uintptr_t)arena + HUGE) & ~(HUGE - 1));
}
