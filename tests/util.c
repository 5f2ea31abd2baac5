// SPDX-License-Identifier: GPL-2.0
/* Helpers that all test programs share; see util.h. */
#include "util.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <numa.h>
#include <numaif.h>
#include <signal.h>
#include <stdarg.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#define NODE_DIR "/sys/devices/system/node"

int nr_mem;
int mem[MAX_NODES];

void die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "# test cannot go on: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, " (errno %d: %s)\n", err, strerror(err));
	va_end(ap);
	fflush(NULL);
	_exit(1);
}

bool has_thp(void)
{
	return !access("/sys/kernel/mm/transparent_hugepage", F_OK);
}

int advise(void *addr, size_t len, int advice)
{
	bool huge = advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE;

	return madvise(addr, len, advice) && !(huge && errno == EINVAL && !has_thp()) ? -1 : 0;
}

int file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while (have + 1 < size && (n = read(fd, buf + have, size - 1 - have)) != 0) {
		if (n < 0) {
			n = -errno;
			close(fd);
			return n;
		}
		have += n;
	}
	buf[have] = 0;
	close(fd);
	return 0;
}

int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;
	int ret = 0;

	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	if (n != (ssize_t)strlen(text))
		ret = n < 0 ? -errno : -EIO;
	close(fd);
	return ret;
}

/* Marks the nodes of a list such as 0-1,3 in set; returns the highest. */
static int parse_nodes(const char *file, bool *set)
{
	char path[128], buf[4096], *p = buf;
	int high = -1;

	snprintf(path, sizeof(path), NODE_DIR "/%s", file);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	while (*p && *p != '\n') {
		long a = strtol(p, &p, 10), b = a;

		if (*p == '-')
			b = strtol(p + 1, &p, 10);
		for (; a <= b && a < MAX_NODES; a++) {
			set[a] = true;
			high = a;
		}
		if (*p == ',')
			p++;
	}
	return high;
}

static void __attribute__((constructor)) find_nodes(void)
{
	bool set[MAX_NODES] = { };
	int high = parse_nodes("has_memory", set);

	for (int i = 0; i <= high; i++)
		if (set[i])
			mem[nr_mem++] = i;
	if (nr_mem < 4)
		die("the tests need 4 nodes with memory, here are %d", nr_mem);
	/* A test's output must not sit in a buffer that a fork copies. */
	setvbuf(stdout, NULL, _IOLBF, 0);
}

int nr_node_ids(void)
{
	bool set[MAX_NODES] = { };

	return parse_nodes("possible", set) + 1;
}

bool node_in(const char *file, int node)
{
	bool set[MAX_NODES] = { };

	parse_nodes(file, set);
	return node >= 0 && node < MAX_NODES && set[node];
}

int node_without_memory(void)
{
	int ids = nr_node_ids();

	for (int i = 0; i < ids; i++)
		if (!node_in("has_memory", i))
			return i;
	return -1;
}

int node_distance_of(int from, int to)
{
	char path[128], buf[8192], *p = buf;
	bool online[MAX_NODES] = { };
	int high = parse_nodes("online", online);

	/* The file has one number for each online node. */
	snprintf(path, sizeof(path), NODE_DIR "/node%d/distance", from);
	if (file_read(path, buf, sizeof(buf)))
		return 255;
	for (int i = 0; i <= high; i++) {
		long d;

		if (!online[i])
			continue;
		d = strtol(p, &p, 10);
		if (i == to)
			return d;
	}
	return 255;
}

long node_free(int node)
{
	char path[128], buf[8192], *p;
	long kb;

	snprintf(path, sizeof(path), NODE_DIR "/node%d/meminfo", node);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	p = strstr(buf, "MemFree:");
	if (!p || sscanf(p, "MemFree: %ld kB", &kb) != 1)
		die("no MemFree in %s", path);
	return kb / (PAGE / 1024);
}

long node_watermark(int node, const char *which)
{
	long pages, sum = 0;
	char line[256], format[32];
	int now = -1;
	FILE *f = fopen("/proc/zoneinfo", "re");

	if (!f)
		die("/proc/zoneinfo");
	/* The lists of each CPU have a line "high:"; that is another one. */
	snprintf(format, sizeof(format), " %s %%ld", which);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %d, zone", &now) != 1 && now == node &&
		    sscanf(line, format, &pages) == 1)
			sum += pages;
	}
	fclose(f);
	return sum;
}

static const char *const zone_lines[] = {
	"pages free", "boost ", "min ", "low ", "high ", "managed ", "protection:", "nr_free_cma ",
	"nr_isolated_", "nr_active_", "nr_inactive_", "nr_unevictable ", "count:",
	"node_unreclaimable",
};

void zones_print(int node)
{
	char line[256], *name;
	int now = -1;
	FILE *f = fopen("/proc/zoneinfo", "re");

	if (!f)
		die("/proc/zoneinfo");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %d, zone", &now) == 1 && now == node)
			fprintf(stderr, "#   %s", line);
		if (now != node)
			continue;
		name = line + strspn(line, " ");
		for (size_t i = 0; i < ARRAY_LEN(zone_lines); i++)
			if (!strncmp(name, zone_lines[i], strlen(zone_lines[i])))
				fprintf(stderr, "#     %s", name);
	}
	fclose(f);
}

long node_free_all(int node)
{
	long n, sum = 0;
	char line[256];
	int now = -1;
	FILE *f = fopen("/proc/zoneinfo", "re");

	if (!f)
		die("/proc/zoneinfo");
	file_write("/proc/sys/vm/stat_refresh", "1");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %d, zone", &now) == 1 || now != node)
			continue;
		/* The zone's own, and the list of each CPU. */
		if (sscanf(line, " nr_free_pages %ld", &n) == 1 ||
		    sscanf(line, " count: %ld", &n) == 1)
			sum += n;
	}
	fclose(f);
	return sum;
}

int pm_open(void)
{
	int fd = open(PM_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("cannot open %s", PM_DEVICE);
	return fd;
}

long pm_ioctl(int fd, unsigned long nr, void *arg)
{
	long ret = ioctl(fd, nr, arg);

	return ret == -1 ? -errno : ret;
}

static unsigned int default_workers(void)
{
	const char *number = getenv("PAGE_MIGRATE_WORKERS");

	return number ? atoi(number) : 0;
}

struct page_migrate_request pm_req(pid_t pid, const void *va, size_t len,
				   int count, const int *old, const int *new)
{
	return (struct page_migrate_request){
		.pid = pid,
		.va_start = (uintptr_t)va,
		.len = len,
		.count = count,
		.workers = default_workers(),
		.old_nodes = (uintptr_t)old,
		.new_nodes = (uintptr_t)new,
	};
}

long pm_migrate(int fd, struct page_migrate_request *req)
{
	return pm_ioctl(fd, PAGE_MIGRATE_IOC_MIGRATE, req);
}

long pm_move(int fd, pid_t pid, const void *va, size_t len, unsigned int flags,
	     int count, const int *old, const int *new,
	     struct page_migrate_result *res)
{
	struct page_migrate_request req = pm_req(pid, va, len, count, old, new);
	long ret;

	req.flags = flags;
	pm_poison(&req.result);
	ret = pm_migrate(fd, &req);
	if (res)
		*res = req.result;
	return ret;
}

long pm_placement(int fd, pid_t pid, const void *va, size_t len, uint64_t *pages)
{
	struct page_migrate_placement arg = {
		.pid = pid,
		.va_start = (uintptr_t)va,
		.len = len,
		.count = MAX_NODES,
		.pages = (uintptr_t)pages,
	};

	return pm_ioctl(fd, PAGE_MIGRATE_IOC_PLACEMENT, &arg);
}

void pm_poison(struct page_migrate_result *res)
{
	memset(res, 0xa5, sizeof(*res));
}

bool pm_is_poison(const struct page_migrate_result *res)
{
	struct page_migrate_result p;

	pm_poison(&p);
	return !memcmp(&p, res, sizeof(p));
}

uint64_t pm_sum(const struct page_migrate_result *r)
{
	return r->moved + r->moved_fallback + r->already_moved + r->in_place +
	       r->exempt + r->shared + r->busy + r->pinned + r->unmovable +
	       r->no_memory + r->gone;
}

uint64_t pm_left(const struct page_migrate_result *r)
{
	return r->shared + r->busy + r->pinned + r->unmovable;
}

void pm_print(const struct page_migrate_result *r)
{
#define SHOW(f) fprintf(stderr, " " #f "=%" PRIu64, (uint64_t)r->f)
	fprintf(stderr, "#  ");
	SHOW(moved);
	SHOW(moved_fallback);
	SHOW(already_moved);
	SHOW(in_place);
	SHOW(exempt);
	SHOW(shared);
	SHOW(busy);
	SHOW(pinned);
	SHOW(unmovable);
	SHOW(no_memory);
	SHOW(gone);
	SHOW(policies);
	fprintf(stderr, " resume_va=%#" PRIx64 "\n", (uint64_t)r->resume_va);
#undef SHOW
}

void bind_to(int node)
{
	unsigned long mask[MAX_NODES / (8 * sizeof(long))] = { };
	long ret;

	if (node < 0) {
		ret = set_mempolicy(MPOL_DEFAULT, NULL, 0);
	} else {
		mask[node / (8 * sizeof(long))] |= 1UL << (node % (8 * sizeof(long)));
		ret = set_mempolicy(MPOL_BIND, mask, MAX_NODES);
	}
	if (ret)
		die("set_mempolicy for node %d", node);
}

void place_pages(void *addr, size_t npages, const int *nodes, int n)
{
	volatile char *p = addr;

	for (int k = 0; k < n; k++) {
		bind_to(nodes[k]);
		for (size_t i = k; i < npages; i += n)
			p[i * PAGE] = p[i * PAGE];
	}
	bind_to(-1);
}

void *map_nodes(size_t npages, const int *nodes, int n)
{
	/*
	 * Reserve a page more on both sides and leave it without access, so
	 * that the kernel does not merge the mapping with another.
	 */
	char *p = mmap(NULL, (npages + 2) * PAGE, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap of %zu pages", npages);
	p += PAGE;
	if (mprotect(p, npages * PAGE, PROT_READ | PROT_WRITE) ||
	    advise(p, npages * PAGE, MADV_NOHUGEPAGE))
		die("mprotect or madvise");
	place_pages(p, npages, nodes, n);
	if (!all_on(0, p, npages, nodes, n))
		die("pages are not where they were placed");
	return p;
}

void *map_node(size_t npages, int node)
{
	return map_nodes(npages, &node, 1);
}

void *map_thp(size_t nhuge, int node)
{
	char *p;

	/* Room around it, so that it is not merged and can be aligned. */
	p = mmap(NULL, (nhuge + 2) * HPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap of %zu huge pages", nhuge);
	p = (char *)(((uintptr_t)p + HPAGE) & ~(HPAGE - 1));
	if (mprotect(p, nhuge * HPAGE, PROT_READ | PROT_WRITE) ||
	    advise(p, nhuge * HPAGE, MADV_HUGEPAGE))
		die("mprotect or madvise");
	bind_to(node);
	for (size_t i = 0; i < nhuge * HPAGE_NR; i += has_thp() ? HPAGE_NR : 1)
		((volatile char *)p)[i * PAGE] = 1;
	bind_to(-1);
	if (has_thp() && smaps_kb(0, p, "AnonHugePages") != (long)(nhuge * HPAGE / 1024))
		die("no huge pages on node %d", node);
	if (!all_on(0, p, nhuge * HPAGE_NR, &node, 1))
		die("huge pages are not where they were placed");
	return p;
}

static inline uint64_t pattern(size_t page, size_t word, unsigned int seed)
{
	uint64_t x = ((uint64_t)seed << 40) ^ ((uint64_t)page << 9) ^ word;

	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ (x >> 29);
}

void fill(void *addr, size_t npages, unsigned int seed)
{
	uint64_t *p = addr;

	for (size_t i = 0; i < npages; i++)
		for (size_t w = 0; w < PAGE / 8; w++)
			*p++ = pattern(i, w, seed);
}

bool page_is_bad(const void *page, size_t i, unsigned int seed)
{
	const uint64_t *p = page;

	for (size_t w = 0; w < PAGE / 8; w++)
		if (p[w] != pattern(i, w, seed))
			return true;
	return false;
}

size_t bad_pages(const void *addr, size_t npages, unsigned int seed)
{
	size_t bad = 0;

	for (size_t i = 0; i < npages; i++)
		bad += page_is_bad((const char *)addr + i * PAGE, i, seed);
	return bad;
}

void nodes_of(pid_t pid, const void *addr, size_t npages, int *nodes)
{
	enum { CHUNK = 1024 };
	void *pages[CHUNK];

	for (size_t done = 0; done < npages;) {
		size_t n = npages - done < CHUNK ? npages - done : CHUNK;

		for (size_t i = 0; i < n; i++)
			pages[i] = (char *)addr + (done + i) * PAGE;
		if (move_pages(pid, n, pages, NULL, nodes + done, 0))
			die("move_pages query of %d", pid);
		done += n;
	}
}

int node_of_pid(pid_t pid, const void *addr)
{
	int node;

	nodes_of(pid, addr, 1, &node);
	return node;
}

int node_of(const void *addr)
{
	return node_of_pid(0, addr);
}

size_t count_on(pid_t pid, const void *addr, size_t npages, int node)
{
	int *nodes = malloc(npages * sizeof(*nodes));
	size_t n = 0;

	if (!nodes)
		die("malloc");
	nodes_of(pid, addr, npages, nodes);
	for (size_t i = 0; i < npages; i++)
		n += nodes[i] == node;
	free(nodes);
	return n;
}

bool all_on(pid_t pid, const void *addr, size_t npages, const int *want, int n)
{
	int *nodes = malloc(npages * sizeof(*nodes));
	bool ok = true;

	if (!nodes)
		die("malloc");
	nodes_of(pid, addr, npages, nodes);
	for (size_t i = 0; i < npages && ok; i++)
		if (nodes[i] != want[i % n]) {
			fprintf(stderr, "# page %zu of %zu is on node %d, wanted %d\n",
				i, npages, nodes[i], want[i % n]);
			ok = false;
		}
	free(nodes);
	return ok;
}

static void proc_path(char *path, size_t size, pid_t pid, const char *name)
{
	if (pid)
		snprintf(path, size, "/proc/%d/%s", pid, name);
	else
		snprintf(path, size, "/proc/self/%s", name);
}

uint64_t pagemap_of(pid_t pid, const void *addr)
{
	char path[64];
	uint64_t entry;
	int fd;

	proc_path(path, sizeof(path), pid, "pagemap");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)addr / PAGE * 8) != 8)
		die("%s", path);
	close(fd);
	return entry;
}

uint64_t pfn_of_pid(pid_t pid, const void *addr)
{
	uint64_t entry = pagemap_of(pid, addr);

	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

uint64_t pfn_of(const void *addr)
{
	return pfn_of_pid(0, addr);
}

bool numa_maps_line(pid_t pid, const void *addr, char *buf, size_t size)
{
	char path[64];
	bool found = false;
	FILE *f;

	proc_path(path, sizeof(path), pid, "numa_maps");
	f = fopen(path, "re");
	if (!f)
		die("%s", path);
	while (!found && fgets(buf, size, f))
		found = strtoull(buf, NULL, 16) == (uintptr_t)addr;
	fclose(f);
	return found;
}

long numa_maps_pages(pid_t pid, const void *addr, int node)
{
	char line[4096], key[24], *p;

	if (!numa_maps_line(pid, addr, line, sizeof(line)))
		die("no mapping begins at %p", addr);
	snprintf(key, sizeof(key), " N%d=", node);
	p = strstr(line, key);
	return p ? atol(p + strlen(key)) : 0;
}

long smaps_kb(pid_t pid, const void *addr, const char *field)
{
	char path[64], line[4096];
	bool inside = false;
	long kb = -1;
	FILE *f;

	proc_path(path, sizeof(path), pid, "smaps");
	f = fopen(path, "re");
	if (!f)
		die("%s", path);
	while (kb < 0 && fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		size_t n = strlen(field);

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (uintptr_t)addr >= start && (uintptr_t)addr < end;
		else if (inside && !strncmp(line, field, n) && line[n] == ':')
			kb = atol(line + n + 1);
	}
	fclose(f);
	if (kb < 0)
		die("no %s of %p in %s", field, addr, path);
	return kb;
}

long vmstat(const char *name)
{
	char line[128];
	long value = -1;
	FILE *f;

	/* Bring in what each CPU has counted for itself. */
	file_write("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/vmstat", "re");
	if (!f)
		die("/proc/vmstat");
	while (value < 0 && fgets(line, sizeof(line), f)) {
		size_t n = strlen(name);

		if (!strncmp(line, name, n) && line[n] == ' ')
			value = atol(line + n + 1);
	}
	fclose(f);
	return value;
}

void tracefs_mount(void)
{
	if (access(TRACING "/events", F_OK) && mount("none", TRACING, "tracefs", 0, NULL))
		die("no tracefs at " TRACING);
}

long migrated(void)
{
	static const char event[] = TRACING "/events/migrate/mm_migrate_pages";
	char path[128], text[4096];
	long sum = 0;
	int ret;

	tracefs_mount();
	/* Reason 3 is a system call, ours among them; compaction is 0. */
	snprintf(path, sizeof(path), "%s/trigger", event);
	ret = file_write(path, "hist:keys=reason:vals=succeeded if reason == 3");
	if (ret && ret != -EEXIST)
		die("%s: %s", path, strerror(-ret));
	snprintf(path, sizeof(path), "%s/hist", event);
	if (file_read(path, text, sizeof(text)))
		die("%s", path);
	for (char *p = text; (p = strstr(p, " succeeded:")); p++)
		sum += atol(p + strlen(" succeeded:"));
	return sum;
}

long nr_isolated(void)
{
	long least = LONG_MAX;

	/* khugepaged and kcompactd isolate some as well, and put them back. */
	for (int i = 0; i < 200 && least; i++) {
		long now = vmstat("nr_isolated_anon") + vmstat("nr_isolated_file");

		if (now < least)
			least = now;
		if (least)
			usleep(50000);
	}
	return least;
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

int patience(void)
{
	const char *factor = getenv("PAGE_MIGRATE_PATIENCE");

	return factor ? atoi(factor) : 1;
}

uint64_t fdinfo(pid_t pid, int fd, const char *key)
{
	char path[64], buf[4096], *p;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	p = strstr(buf, key);
	if (!p)
		die("no %s in %s", key, path);
	return strtoull(p + strlen(key), NULL, 0);
}

void *kill_in_call(void *killer)
{
	const struct killer *k = killer;
	double begin = now();

	if (k->after_us >= 0)
		usleep(k->after_us);
	else
		while (!fdinfo(getpid(), k->fd, "moved:") && now() - begin < 20)
			;
	kill(k->pid, SIGKILL);
	return NULL;
}

void drop_to(uid_t uid)
{
	if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		die("cannot become %u", uid);
	/* A change of identity hides the process from others of the same one. */
	if (prctl(PR_SET_DUMPABLE, 1))
		die("PR_SET_DUMPABLE");
}

void drop_cap(int cap)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (prctl(PR_CAPBSET_DROP, cap))
		die("PR_CAPBSET_DROP %d", cap);
	if (syscall(SYS_capget, &head, data))
		die("capget");
	data[cap / 32].effective &= ~(1U << (cap % 32));
	data[cap / 32].permitted &= ~(1U << (cap % 32));
	data[cap / 32].inheritable &= ~(1U << (cap % 32));
	if (syscall(SYS_capset, &head, data))
		die("capset");
	if (prctl(PR_SET_DUMPABLE, 1))
		die("PR_SET_DUMPABLE");
}

void child_start(struct child *c, void (*fn)(struct child *c, void *arg), void *arg)
{
	int down[2], up[2];

	if (pipe2(down, O_CLOEXEC) || pipe2(up, O_CLOEXEC))
		die("pipe2");
	fflush(NULL);
	c->pid = fork();
	if (c->pid < 0)
		die("fork");
	if (!c->pid) {
		char byte;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(down[1]);
		close(up[0]);
		c->in = down[0];
		c->out = up[1];
		fn(c, arg);
		while (read(c->in, &byte, 1) > 0)
			;
		_exit(0);
	}
	close(down[0]);
	close(up[1]);
	c->in = up[0];
	c->out = down[1];
	c->taken = 0;
}

void child_put(struct child *c, uint64_t value)
{
	if (write(c->out, &value, sizeof(value)) != sizeof(value))
		die("write to the other process");
}

uint64_t child_get(struct child *c)
{
	uint64_t value;

	if (read(c->in, &value, sizeof(value)) != sizeof(value))
		die("the other process has gone");
	return value;
}

void child_end(struct child *c)
{
	long enough;

	if (c->pid <= 0)
		return;
	enough = c->taken > 0 ? node_free_all(c->node) + c->taken / 2 : 0;
	kill(c->pid, SIGKILL);
	close(c->in);
	close(c->out);
	waitpid(c->pid, NULL, 0);
	c->pid = 0;
	/* Reclaim may look at the memory of a process that has ended, and frees it later then. */
	for (int tries = 0; c->taken > 0 && node_free_all(c->node) < enough; tries++) {
		if (tries == 3000)
			die("the memory of a hog does not come back");
		usleep(10000);
	}
}

/* Waits until the thread stops. Returns the signal it stopped for, and what ptrace adds. */
static int stop_of(pid_t tid)
{
	int status;

	if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
		_exit(0);
	return status >> 8;
}

static bool enters_ioctl(pid_t tid)
{
	struct __ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) <= 0)
		die("PTRACE_GET_SYSCALL_INFO");
	return info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_ioctl;
}

static void interrupter_main(struct child *c, void *arg)
{
	enum { AT_SYSCALL = SIGTRAP | 0x80 };
	pid_t whom = *(pid_t *)arg;

	if (ptrace(PTRACE_SEIZE, whom, NULL, (void *)PTRACE_O_TRACESYSGOOD) ||
	    ptrace(PTRACE_INTERRUPT, whom, NULL, NULL))
		die("ptrace");
	for (bool begun = false;; begun = true) {
		int stop = stop_of(whom);
		/* It stops for each signal as well: that goes on to its handler. */
		bool passed_on = stop != AT_SYSCALL && !(stop >> 8);

		/* In a stop, a signal is put off until the system call has ended. */
		if (stop == AT_SYSCALL && enters_ioctl(whom) && tgkill(getppid(), whom, SIGUSR1))
			die("tgkill");
		if (ptrace(PTRACE_SYSCALL, whom, NULL, (void *)(long)(passed_on ? stop : 0)))
			die("PTRACE_SYSCALL");
		if (!begun)
			child_put(c, 1);
	}
}

void interrupter_start(struct child *c)
{
	pid_t self = gettid();

	child_start(c, interrupter_main, &self);
	child_get(c);
}

#define HIGH_FRACTION "/proc/sys/vm/percpu_pagelist_high_fraction"

void cpu_lists_drain(void)
{
	bool full = true;

	/* Short lists are cut whenever the counters are refreshed. */
	if (file_write(HIGH_FRACTION, "1000000"))
		die(HIGH_FRACTION);
	for (int tries = 0; full && tries < 200; tries++) {
		full = false;
		for (int i = 0; i < nr_mem; i++)
			full |= node_free_all(mem[i]) - node_free(mem[i]) > 2048;
		if (full)
			usleep(20000);
	}
	file_write(HIGH_FRACTION, "0");
}

/* Of what hog() is asked: the pages are to be no neighbours. */
#define HOG_SCATTER (1UL << 32)

/*
 * Takes most of a node by faults. Faults may end in the OOM killer, so the
 * last part comes from other nodes by move_pages(2), which fails instead.
 * The first pages are small ones, to be given back one by one.
 */
static void hog(struct child *c, void *arg)
{
	enum { CHUNK = 256, SMALL = 48 * HPAGE_NR };
	/* Faults must stay above every watermark. */
	long reserve = 2048 + node_watermark(*(int *)arg, "high");
	int node = *(int *)arg, nodes[CHUNK], status[CHUNK];
	size_t first = 0, total, tail = reserve * 2 + 65536, free_at = 0;
	void *pages[CHUNK];
	char *p, *t;

	file_write("/proc/self/oom_score_adj", "1000");
	/*
	 * What compaction moves is nowhere for a while, and what it wakes kswapd for raises
	 * the watermarks: a node where pages have been freed would still be full.
	 */
	file_write("/proc/sys/vm/compaction_proactiveness", "0");
	file_write("/proc/sys/vm/watermark_boost_factor", "0");
	/* The less page cache there is, the less comes back later. */
	file_write("/proc/sys/vm/drop_caches", "1");
	total = node_free(node) + 65536;
	p = mmap(NULL, total * PAGE + HPAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		die("hog: mmap");
	p = (char *)(((uintptr_t)p + HPAGE - 1) & ~(HPAGE - 1));
	if (advise(p, SMALL * PAGE, MADV_NOHUGEPAGE) ||
	    advise(p + SMALL * PAGE, (total - SMALL) * PAGE, MADV_HUGEPAGE))
		die("hog: madvise");
	bind_to(node);
	while (first < total) {
		if (first % HPAGE_NR == 0 && node_free(node) < reserve)
			break;
		p[first++ * PAGE] = 1;
	}
	bind_to(-1);

	t = mmap(NULL, tail * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t == MAP_FAILED || advise(t, tail * PAGE, MADV_NOHUGEPAGE))
		die("hog: mmap");
	for (size_t i = 0; i < CHUNK; i++)
		nodes[i] = node;
	/*
	 * Free pages hide on the lists of the CPUs, and kswapd makes room again
	 * out of the page cache, in the background. With short lists, which are
	 * cut whenever the counters are refreshed, go on until nothing comes.
	 */
	if (file_write(HIGH_FRACTION, "1000000"))
		die(HIGH_FRACTION);
	for (size_t done = 0, quiet = 0; quiet < 5; ) {
		size_t moved = 0;

		if (done + CHUNK > tail)
			die("hog: node %d does not get full", node);
		/* The other nodes have room; any but the hogged one will do. */
		bind_to(node == mem[0] ? mem[1] : mem[0]);
		for (size_t i = 0; i < CHUNK; i++) {
			pages[i] = t + (done + i) * PAGE;
			*(char *)pages[i] = 1;
		}
		bind_to(-1);
		if (move_pages(0, CHUNK, pages, nodes, status, MPOL_MF_MOVE) < 0 &&
		    errno != ENOMEM)
			die("hog: move_pages");
		nodes_of(0, pages[0], CHUNK, status);
		for (size_t i = 0; i < CHUNK; i++)
			moved += status[i] == node;
		done += CHUNK;
		if (moved == CHUNK) {
			quiet = 0;
			continue;
		}
		/* What did not fit is of no use. */
		for (size_t i = 0; i < CHUNK; i++)
			if (status[i] != node)
				madvise(pages[i], PAGE, MADV_DONTNEED);
		quiet++;
		usleep(20000);
		file_write("/proc/sys/vm/stat_refresh", "1");
		if (node_free_all(node) - node_free(node) > 2048)
			quiet = 0;
	}
	file_write(HIGH_FRACTION, "0");
	child_put(c, 1);
	for (;;) {
		size_t n = child_get(c);

		if (n & HOG_SCATTER) {
			n -= HOG_SCATTER;
			if (n > SMALL / 2 || first < SMALL)
				die("hog: cannot scatter %zu pages", n);
			for (size_t i = 0; i < n; i++)
				madvise(p + i * (SMALL / n) * PAGE, PAGE, MADV_DONTNEED);
			if (mlockall(MCL_CURRENT | MCL_ONFAULT))
				die("hog: mlockall");
			free_at = SMALL;
			child_put(c, n);
			continue;
		}
		if (free_at + n > SMALL)
			n = SMALL - free_at;
		madvise(p + free_at * PAGE, n * PAGE, MADV_DONTNEED);
		free_at += n;
		child_put(c, n);
	}
}

void hog_start(struct child *c, int node)
{
	long free = node_free_all(node);

	child_start(c, hog, &node);
	child_get(c);
	c->node = node;
	c->taken = free - node_free_all(node);
}

void hog_release(struct child *c, size_t npages)
{
	child_put(c, npages);
	if (child_get(c) != npages)
		die("the hog has less than %zu pages", npages);
}

void hog_scatter(struct child *c, size_t npages)
{
	child_put(c, HOG_SCATTER | npages);
	child_get(c);
}

int module_open(void)
{
	char exe[512], path[1024];
	const char *ko = getenv("PM_KO");
	struct utsname uts;
	ssize_t n;
	int fd;

	if (!ko) {
		n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
		if (n < 0 || uname(&uts))
			die("readlink or uname");
		exe[n] = 0;
		*strrchr(exe, '/') = 0;
		snprintf(path, sizeof(path), "%s/../%s/page_migrate.ko", exe, uts.release);
		ko = path;
	}
	fd = open(ko, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("no module at %s", ko);
	return fd;
}

long module_load(const char *params)
{
	int fd = module_open();
	long ret = syscall(SYS_finit_module, fd, params, 0);

	ret = ret ? -errno : 0;
	close(fd);
	return ret;
}

long module_unload(void)
{
	return syscall(SYS_delete_module, "page_migrate", O_NONBLOCK) ? -errno : 0;
}

bool module_loaded(void)
{
	return !access("/sys/module/page_migrate", F_OK);
}

int readers(void)
{
	struct dirent *entry;
	int n = 0;
	DIR *dir = opendir("/proc");

	if (!dir)
		die("/proc");
	while ((entry = readdir(dir))) {
		char path[64], name[64];

		snprintf(path, sizeof(path), "/proc/%.16s/comm", entry->d_name);
		if (atoi(entry->d_name) && !file_read(path, name, sizeof(name)))
			n += !strncmp(name, "pm_ask", 6);
	}
	closedir(dir);
	return n;
}

bool readers_become(int n, int ms)
{
	for (int i = 0; i < ms * patience() && readers() != n; i += 10)
		usleep(10000);
	return readers() == n;
}

/* udev or devtmpfs makes the node; give it a moment. */
bool device_comes(bool there)
{
	for (int i = 0; i < 100; i++) {
		if (!access(PM_DEVICE, F_OK) == there)
			return true;
		usleep(20000);
	}
	return false;
}

#define CG_ROOT "/sys/fs/cgroup"

void cg_make(struct cg *cg, const char *name, const char *mems)
{
	int ret;

	if (access(CG_ROOT "/cgroup.controllers", F_OK) &&
	    mount("none", CG_ROOT, "cgroup2", 0, NULL))
		die("no cgroup v2 at " CG_ROOT);
	ret = file_write(CG_ROOT "/cgroup.subtree_control", "+cpuset");
	if (ret) {
		errno = -ret;
		die("no cpuset controller");
	}
	snprintf(cg->path, sizeof(cg->path), CG_ROOT "/pm-%s-%d", name, getpid());
	if (mkdir(cg->path, 0755))
		die("mkdir %s", cg->path);
	ret = mems ? cg_set(cg, "cpuset.mems", mems) : 0;
	if (ret) {
		errno = -ret;
		die("cpuset.mems %s", mems);
	}
}

int cg_set(struct cg *cg, const char *file, const char *text)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", cg->path, file);
	return file_write(path, text);
}

void cg_enter(struct cg *cg, pid_t pid)
{
	char text[16];
	int ret;

	snprintf(text, sizeof(text), "%d", pid);
	ret = cg_set(cg, "cgroup.procs", text);
	if (ret) {
		errno = -ret;
		die("cannot enter %s", cg->path);
	}
}

void cg_leave(pid_t pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	if (file_write(CG_ROOT "/cgroup.procs", text))
		die("cannot leave the cgroup");
}

void cg_remove(struct cg *cg)
{
	/* A process that has just died is counted for a moment more. */
	for (int i = 0; i < 1500; i++) {
		if (!rmdir(cg->path))
			return;
		usleep(20000);
	}
	die("rmdir %s", cg->path);
}
