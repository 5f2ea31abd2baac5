/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests about kinds of memory share beyond util.h: what a range holds,
 * seen by /proc only, files on the scratch disk, and a fragmented node.
 */
#ifndef PM_TESTS_MEM_UTIL_H
#define PM_TESTS_MEM_UTIL_H

#include "util.h"

#include <fcntl.h>
#include <numaif.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/vfs.h>
#include <linux/kernel-page-flags.h>
#include <linux/magic.h>

#define SCRATCH "/scratch"
#define LAST (mem[nr_mem - 1])

/* Not in every version of the UAPI header. */
#define KPF_MLOCKED_BIT 33

/* Maps of nodes that most tests use. */
#define SWAP_OLD ((const int[]){ mem[0], mem[1] })
#define SWAP_NEW ((const int[]){ mem[1], mem[0] })

/* Flags of a frame from /proc/kpageflags. */
static inline uint64_t kpageflags(uint64_t pfn)
{
	static int fd = -1;
	uint64_t flags;

	if (fd < 0)
		fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, &flags, 8, pfn * 8) != 8)
		die("/proc/kpageflags of frame %#lx", (unsigned long)pfn);
	return flags;
}

static inline bool has_flag(const void *addr, int bit)
{
	uint64_t pfn = pfn_of(addr);

	return pfn && (kpageflags(pfn) >> bit & 1);
}

/*
 * How many pages of a range the module has to count: present in the page
 * table, and not the zero page.
 */
static inline size_t present_pages(pid_t pid, const void *addr, size_t npages)
{
	enum { CHUNK = 512 };
	uint64_t entry[CHUNK];
	char path[64];
	size_t n = 0;
	int fd;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	else
		snprintf(path, sizeof(path), "/proc/self/pagemap");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("%s", path);
	for (size_t done = 0; done < npages;) {
		size_t k = npages - done < CHUNK ? npages - done : CHUNK;

		if (pread(fd, entry, k * 8, ((uintptr_t)addr / PAGE + done) * 8) !=
		    (ssize_t)(k * 8))
			die("read of %s", path);
		for (size_t i = 0; i < k; i++)
			if (entry[i] >> 63 &&
			    !(kpageflags(entry[i] & ((1ULL << 55) - 1)) >> KPF_ZERO_PAGE & 1))
				n++;
		done += k;
	}
	close(fd);
	return n;
}

/* One mapping of a process; special: nothing of it is to be counted. */
struct mapping {
	char *start;
	size_t npages;
	bool special;
};

/* Reads the mappings of a process from smaps; returns how many. */
static inline size_t mappings_of(pid_t pid, struct mapping *maps, size_t max)
{
	char path[64], line[4096];
	size_t n = 0;
	FILE *f;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	else
		snprintf(path, sizeof(path), "/proc/self/smaps");
	f = fopen(path, "re");
	if (!f)
		die("%s", path);
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			if (n == max)
				die("more than %zu mappings", max);
			maps[n].start = (char *)start;
			maps[n].npages = (end - start) / PAGE;
			maps[n++].special = strstr(line, "[vdso]") || strstr(line, "[vvar") ||
					    strstr(line, "[vsyscall]");
		} else if (n && !strncmp(line, "VmFlags:", 8)) {
			if (strstr(line, " io") || strstr(line, " pf"))
				maps[n - 1].special = true;
		}
	}
	fclose(f);
	return n;
}

/* Pages of a whole process that are to be counted; those on node if >= 0. */
static inline size_t process_pages(pid_t pid, int node)
{
	static struct mapping maps[4096];
	size_t n = mappings_of(pid, maps, ARRAY_LEN(maps)), sum = 0;

	for (size_t i = 0; i < n; i++) {
		if (maps[i].special)
			continue;
		if (node < 0)
			sum += present_pages(pid, maps[i].start, maps[i].npages);
		else
			sum += count_on(pid, maps[i].start, maps[i].npages, node);
	}
	return sum;
}

/* The map of every node but the last to the last; returns its entries. */
static inline int all_to_last(int *old, int *new)
{
	for (int i = 0; i < nr_mem - 1; i++) {
		old[i] = mem[i];
		new[i] = mem[nr_mem - 1];
	}
	return nr_mem - 1;
}

/* A shift register as a source of numbers that repeat from run to run. */
static inline uint32_t next_random(uint32_t *state)
{
	uint32_t x = *state;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return *state = x;
}

/* Whether each page is at the image of where it was: to[i] = map(from[i]). */
static inline bool all_mapped(const int *from, const int *to, size_t npages, int count,
			      const int *old, const int *new)
{
	for (size_t i = 0; i < npages; i++) {
		int want = from[i];

		for (int k = 0; k < count; k++)
			if (from[i] == old[k])
				want = new[k];
		if (to[i] != want) {
			fprintf(stderr, "# page %zu was on node %d, is on %d, wanted %d\n",
				i, from[i], to[i], want);
			return false;
		}
	}
	return true;
}

/* Address space of its own for MAP_FIXED, aligned to a huge page. */
static inline char *reserve(size_t npages)
{
	char *p = mmap(NULL, npages * PAGE + 2 * HPAGE, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap of %zu pages", npages);
	return (char *)(((uintptr_t)p + HPAGE) & ~(HPAGE - 1));
}

static inline void *map_fixed(void *addr, size_t npages, int prot, int flags, int fd, off_t off)
{
	void *p = mmap(addr, npages * PAGE, prot, flags | MAP_FIXED, fd, off);

	if (p != addr)
		die("mmap at %p", addr);
	return p;
}

/*
 * Moves a range until nothing is left of it: pages that were busy for a moment
 * get another try. Only for maps that do not move a page twice (0 to 1).
 * Returns the last call's value; sum counts what all calls moved.
 */
static inline long move_patiently(int fd, pid_t pid, const void *va, size_t len, int count,
				  const int *old, const int *new, uint64_t *sum)
{
	struct page_migrate_result res;
	long ret = -1;

	*sum = 0;
	for (int i = 0; i < 20; i++) {
		ret = pm_move(fd, pid, va, len, 0, count, old, new, &res);
		if (ret < 0 && ret != -ENOMEM)
			break;
		*sum += res.moved + res.moved_fallback;
		if (ret <= 0)
			break;
		usleep(100000);
	}
	if (ret)
		pm_print(&res);
	return ret;
}

/* A file on the scratch disk, empty, open for reading and writing. */
static inline int scratch_file(const char *name, char *path, size_t size)
{
	struct statfs fs;
	int fd;

	if (statfs(SCRATCH, &fs) || fs.f_type != EXT4_SUPER_MAGIC)
		die(SCRATCH " is not the ext4 scratch disk");
	snprintf(path, size, SCRATCH "/pm-%s-%d", name, getpid());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		die("%s", path);
	return fd;
}

/*
 * Writes what fill() would write, page i while bound to nodes[i % n], so that
 * the page cache of the file lies there.
 */
static inline void file_fill(int fd, size_t npages, unsigned int seed, const int *nodes, int n)
{
	char *buf = malloc(npages * PAGE);

	if (!buf)
		die("malloc");
	fill(buf, npages, seed);
	for (int k = 0; k < n; k++) {
		bind_to(nodes[k]);
		for (size_t i = k; i < npages; i += n)
			if (pwrite(fd, buf + i * PAGE, PAGE, i * PAGE) != (ssize_t)PAGE)
				die("pwrite");
	}
	bind_to(-1);
	free(buf);
}

/* Brings in each page of a mapping for reading. */
static inline void touch(const void *addr, size_t npages)
{
	for (size_t i = 0; i < npages; i++)
		(void)((const volatile char *)addr)[i * PAGE];
}

/* Number of pages that differ on the disk itself from what fill() writes. */
static inline size_t bad_on_disk(const char *path, size_t npages, unsigned int seed)
{
	char *buf = aligned_alloc(PAGE, npages * PAGE);
	size_t bad;
	int fd;

	sync();
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (!buf || fd < 0)
		die("%s", path);
	file_write("/proc/sys/vm/drop_caches", "1");
	if (pread(fd, buf, npages * PAGE, 0) != (ssize_t)(npages * PAGE))
		die("pread of %s", path);
	close(fd);
	bad = bad_pages(buf, npages, seed);
	free(buf);
	return bad;
}

/* A swap area on the scratch disk, as mkswap(8) makes it. Its path is kept. */
static inline void swap_start(char *path, size_t size, size_t npages)
{
	static struct {
		char boot[1024];
		uint32_t version, last_page, bad;
		char rest[PAGE - 1024 - 12 - 10];
		char magic[10];
	} __attribute__((packed)) head = { .version = 1 };
	int fd = scratch_file("swap", path, size);

	head.last_page = npages - 1;
	memcpy(head.magic, "SWAPSPACE2", 10);
	if (fchmod(fd, 0600) || fallocate(fd, 0, 0, npages * PAGE) ||
	    pwrite(fd, &head, sizeof(head), 0) != sizeof(head) || fsync(fd) || swapon(path, 0))
		die("swap on %s", path);
	close(fd);
}

static inline void swap_end(const char *path)
{
	if (swapoff(path) || unlink(path))
		die("swapoff %s", path);
}

/* A tmpfs of this process alone on /mnt. */
static inline void own_tmpfs(const char *options)
{
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", "/mnt", "tmpfs", 0, options))
		die("tmpfs on /mnt");
}

/*
 * A child that leaves a node with room for npages pages, all of them single: it
 * fills the node, frees pages with odd frame numbers, locks the others and
 * takes the free huge pages. With vm.compact_unevictable_allowed off the kernel
 * cannot compact what is left: the node has room for pages, not for huge ones.
 */
struct fragment {
	struct child child;
	int node;
	size_t npages;
	char compact[16];
};

#define COMPACT_LOCKED "/proc/sys/vm/compact_unevictable_allowed"

static inline void *lazy_map(size_t npages, int advice)
{
	char *p = reserve(npages);

	map_fixed(p, npages, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (advise(p, npages * PAGE, advice))
		die("madvise");
	return p;
}

/* Only the pages of a range are bound, not the page tables that they need. */
static inline void bind_range(void *p, size_t npages, int node)
{
	unsigned long mask[MAX_NODES / (8 * sizeof(long))] = { };

	mask[node / (8 * sizeof(long))] |= 1UL << (node % (8 * sizeof(long)));
	if (mbind(p, npages * PAGE, MPOL_BIND, mask, MAX_NODES, 0))
		die("mbind to node %d", node);
}

/* Sets, if asked to, and reads how many hugetlb pages of 2 MB a node has. */
static inline long node_pool(int node, const char *set)
{
	char path[160], buf[32];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages", node);
	if (set && file_write(path, set))
		die("%s", path);
	if (file_read(path, buf, sizeof(buf)))
		die("%s", path);
	return atol(buf);
}

static inline void fragment_child(struct child *c, void *arg)
{
	const struct fragment *f = arg;
	/* Enough above the watermarks that a fault never ends in reclaim. */
	long high = node_watermark(f->node, "high"), floor = high + 1024;
	size_t total = node_free(f->node), n = 0, freed = 0, single = f->npages + floor;
	char *p = lazy_map(total, MADV_NOHUGEPAGE), *h;

	file_write("/proc/self/oom_score_adj", "1000");
	bind_range(p, total, f->node);
	while (n < total && (n % 256 || node_free(f->node) > floor))
		p[n++ * PAGE] = 1;
	for (size_t i = 0; i < n && freed < single; i++)
		if (pfn_of(p + i * PAGE) & 1) {
			madvise(p + i * PAGE, PAGE, MADV_DONTNEED);
			freed++;
		}
	if (freed < single || mlock2(p, total * PAGE, MLOCK_ONFAULT))
		die("fragment: freed %zu of %zu", freed, single);
	/* What was free in one piece all the time. */
	h = lazy_map(floor * 2, MADV_HUGEPAGE);
	bind_range(h, floor * 2, f->node);
	for (long i = 0; i + (long)HPAGE_NR <= floor * 2 && node_free(f->node) > high;
	     i += HPAGE_NR) {
		h[i * PAGE] = 1;
		if (!has_flag(h + (i + 1) * PAGE, KPF_THP)) {
			madvise(h + i * PAGE, HPAGE, MADV_DONTNEED);
			break;
		}
	}
	/* What the kernel can still make of the rest is taken as well. */
	h = mmap(NULL, node_pool(f->node, "200") * HPAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
	if (h != MAP_FAILED) {
		size_t huge = node_pool(f->node, NULL);

		bind_range(h, huge * HPAGE_NR, f->node);
		for (size_t i = 0; i < huge; i++)
			h[i * HPAGE] = 1;
	}
	child_put(c, freed);
}

static inline void fragment_start(struct fragment *f, int node, size_t npages)
{
	*f = (struct fragment){ .node = node, .npages = npages };
	if (file_read(COMPACT_LOCKED, f->compact, sizeof(f->compact)) ||
	    file_write(COMPACT_LOCKED, "0"))
		die(COMPACT_LOCKED);
	/*
	 * Huge pages of processes that have exited may be on the lists of CPUs: once these
	 * are drained, as a call does that finds no room, they would be room for whole folios.
	 */
	cpu_lists_drain();
	child_start(&f->child, fragment_child, f);
	child_get(&f->child);
}

/*
 * How many pages are on a node, such as this, that the kernel itself compacts:
 * its pages are away for moments. Waits for as many as are wanted.
 */
static inline size_t count_at_rest(const char *p, size_t npages, int node, size_t want)
{
	size_t n = count_on(0, p, npages, node);

	for (int i = 0; i < 20 && n != want; i++) {
		usleep(100000);
		n = count_on(0, p, npages, node);
	}
	return n;
}

static inline bool come_to_rest_on(const char *p, size_t npages, int node)
{
	count_at_rest(p, npages, node, npages);
	return all_on(0, p, npages, &node, 1);
}

static inline void fragment_end(struct fragment *f)
{
	if (!f->compact[0])
		return;
	child_end(&f->child);
	node_pool(f->node, "0");
	file_write(COMPACT_LOCKED, f->compact);
	f->compact[0] = 0;
}

#endif
