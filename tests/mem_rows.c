// SPDX-License-Identifier: GPL-2.0
/*
 * The rows of docs/pages.md: for each kind of memory, what PLACEMENT counts,
 * what MIGRATE moves, and what migrate_pages(2) moves.
 */
#include "harness.h"
#include "mem_util.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <elf.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>

/* Not in every version of the headers. */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0)
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1)
#endif
#define UFFD_RWP_FEATURE (1ULL << 17)
#define UFFD_RWP_REGISTER (1ULL << 3)
#define UFFD_RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect)

/* Bits of a pagemap entry. */
#define FRAME ((1ULL << 55) - 1)
#define SOFT_DIRTY (1ULL << 55)
#define UFFD_PROTECTED (1ULL << 57)

/*
 * What is to become of a page of mem[0] when that node is emptied.
 *
 * The system call is migrate_pages(2) by a caller with CAP_SYS_NICE.
 */
enum fate {
	MOVES		= 'm',	/* moved by MIGRATE and by the system call */
	OURS		= 'o',	/* moved by MIGRATE, left by the system call */
	STAYS		= 'u',	/* counted as unmovable, left by both */
	RING		= 'r',	/* a driver's: not counted, or as unmovable */
	UNCOUNTED	= '.',	/* not counted, left by both */
};

enum { MAX_PAGES = 1024 };

/* An area of memory of one kind, in this process, all of it on mem[0]. */
struct memory {
	char *p;
	size_t npages;
	char fate[MAX_PAGES];
	/* Why this kernel or machine cannot make such memory. */
	const char *missing;
	/* Contents that fill() wrote to pages whose fate is to move. */
	bool filled;
	/* Says whether what is particular to the kind is still so. */
	bool (*intact)(struct memory *m);
	/* Takes back what outlives the process. */
	void (*end)(struct memory *m);
	uint64_t entry[MAX_PAGES];	/* pagemap, before the move */
	char path[128];
	int fd;
	size_t again;			/* mappings beyond the first of one page */
	void *code;			/* a function with a probe */
};

static void fate_is(struct memory *m, size_t first, size_t npages, enum fate fate)
{
	if (first + npages > MAX_PAGES)
		die("an area of more than %d pages", MAX_PAGES);
	memset(m->fate + first, fate, npages);
}

static void area_is(struct memory *m, char *p, size_t npages, enum fate fate)
{
	m->p = p;
	m->npages = npages;
	fate_is(m, 0, npages, fate);
}

static size_t pages_with(const struct memory *m, const char *fates)
{
	size_t n = 0;

	for (size_t i = 0; i < m->npages; i++)
		n += !!strchr(fates, m->fate[i]);
	return n;
}

/* Makes each page present while this thread allocates from mem[0] only. */
static void touch_bound(char *p, size_t npages)
{
	bind_to(mem[0]);
	touch(p, npages);
	bind_to(-1);
}

/* Anonymous memory with known contents, for kinds that change its state. */
static char *anon_area(struct memory *m, size_t npages)
{
	char *p = map_node(npages, mem[0]);

	fill(p, npages, 1);
	m->filled = true;
	area_is(m, p, npages, MOVES);
	return p;
}

/*
 * Whether the kernel refuses to read a page for this process. A read by this
 * process itself would end in SIGBUS or SIGSEGV.
 */
static bool unreadable(char *page)
{
	char byte;
	struct iovec to = { &byte, 1 }, from = { page, 1 };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) < 0 && errno == EFAULT;
}

/*
 * Kinds of memory.
 */
static void make_zero(struct memory *m)
{
	char *p = lazy_map(64, MADV_NOHUGEPAGE);

	touch(p, 64);
	area_is(m, p, 64, UNCOUNTED);
	/* A page in the middle that is the process's own. */
	place_pages(p + 20 * PAGE, 1, &mem[0], 1);
	fate_is(m, 20, 1, MOVES);
}

static void make_huge_zero(struct memory *m)
{
	char *p;

	if (!has_thp()) {
		m->missing = NO_THP;
		return;
	}
	p = lazy_map(HPAGE_NR, MADV_HUGEPAGE);
	touch(p, 1);
	if (!has_flag(p + 5 * PAGE, KPF_ZERO_PAGE))
		die("no huge zero page");
	area_is(m, p, HPAGE_NR, UNCOUNTED);
}

static void make_vdso(struct memory *m)
{
	char *p = (char *)getauxval(AT_SYSINFO_EHDR);

	if (!p)
		die("no vdso");
	touch(p, 1);
	area_is(m, p, 1, UNCOUNTED);
}

static bool vdso_works(struct memory *m)
{
	struct timespec t;

	(void)m;
	return !clock_gettime(CLOCK_MONOTONIC, &t);
}

static void make_vvar(struct memory *m)
{
	char line[256], *p = NULL;
	unsigned long start, end;
	struct timespec t;
	size_t npages = 0;
	FILE *f = fopen("/proc/self/maps", "re");

	clock_gettime(CLOCK_MONOTONIC, &t);
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[vvar]") && sscanf(line, "%lx-%lx", &start, &end) == 2) {
			p = (char *)start;
			npages = (end - start) / PAGE;
		}
	if (!p)
		die("no vvar");
	fclose(f);
	area_is(m, p, npages, UNCOUNTED);
	m->intact = vdso_works;
}

/* A function that returns 42, with a breakpoint of the kernel at its start. */
static const unsigned char forty_two[] = { 0x31, 0xc0, 0xb8, 42, 0, 0, 0, 0xc3 };
#define PROBES TRACING "/uprobe_events"
#define PROBE TRACING "/events/pm_rows/probe/enable"

static int call_at(void *code)
{
	return ((int (*)(void))code)();
}

static void probe_end(struct memory *m)
{
	file_write(PROBE, "0");
	if (file_write(PROBES, "-:pm_rows/probe"))
		die(PROBES);
	unlink(m->path);
}

static bool probe_works(struct memory *m)
{
	return *(unsigned char *)m->p != forty_two[0] && call_at(m->p) == 42;
}

static void make_probed(struct memory *m)
{
	char spec[256];
	int fd = scratch_file("code", m->path, sizeof(m->path));
	char *p;

	tracefs_mount();
	if (ftruncate(fd, PAGE) || pwrite(fd, forty_two, sizeof(forty_two), 0) < 0)
		die("%s", m->path);
	p = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		die("mmap of %s", m->path);
	snprintf(spec, sizeof(spec), "p:pm_rows/probe %s:0x0", m->path);
	if (file_write(PROBES, spec))
		die(PROBES);
	m->end = probe_end;
	/* The kernel writes to a private copy, which it allocates for this thread. */
	bind_to(mem[0]);
	touch(p, 1);
	if (file_write(PROBE, "1"))
		die(PROBE);
	if (call_at(p) != 42)
		die("the probed function");
	bind_to(-1);
	close(fd);
	area_is(m, p, 1, MOVES);
	m->intact = probe_works;
}

/* The page in which a probe's instruction is executed. */
static bool slot_works(struct memory *m)
{
	return call_at(m->code) == 42;
}

static void make_probe_slot(struct memory *m)
{
	char line[256], *code, *p = NULL;
	FILE *f;

	make_probed(m);
	code = m->p;
	f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[uprobes]"))
			p = (char *)strtoul(line, NULL, 16);
	if (!p)
		die("no [uprobes] mapping");
	fclose(f);
	area_is(m, p, 1, UNCOUNTED);
	m->code = code;
	m->intact = slot_works;
}

static char *map_firmware(size_t npages, int prot, int flags)
{
	int file = open("/dev/mem", O_RDONLY | O_CLOEXEC);
	char *p;

	if (file < 0)
		die("/dev/mem");
	/* The firmware, which strict rules for /dev/mem let through. */
	p = mmap(NULL, npages * PAGE, prot, flags, file, 0xf0000);
	if (p == MAP_FAILED)
		die("mmap of /dev/mem");
	close(file);
	return p;
}

static void make_device(struct memory *m)
{
	char *p = map_firmware(16, PROT_READ, MAP_SHARED);

	touch(p, 16);
	area_is(m, p, 16, UNCOUNTED);
}

/* Every other page has been written to and is a copy. */
static void copies_are(struct memory *m, char *p, size_t npages, enum fate fate, enum fate rest)
{
	area_is(m, p, npages, rest);
	bind_to(mem[0]);
	for (size_t i = 0; i < npages; i += 2) {
		p[i * PAGE] = i + 1;
		fate_is(m, i, 1, fate);
	}
	bind_to(-1);
}

static bool copies_intact(struct memory *m)
{
	for (size_t i = 0; i < m->npages; i += 2)
		if (m->p[i * PAGE] != (char)(i + 1))
			return false;
	return true;
}

static void make_device_copies(struct memory *m)
{
	char *p = map_firmware(16, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	copies_are(m, p, 16, OURS, UNCOUNTED);
	m->intact = copies_intact;
}

static char *map_packet_ring(struct memory *m, size_t npages, int flags)
{
	struct tpacket_req req = {
		.tp_block_size = PAGE,
		.tp_block_nr = npages,
		.tp_frame_size = PAGE / 2,
		.tp_frame_nr = npages * 2,
	};
	char *p;

	m->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	bind_to(mem[0]);
	if (m->fd < 0 || setsockopt(m->fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)))
		die("PACKET_RX_RING");
	p = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, flags, m->fd, 0);
	bind_to(-1);
	if (p == MAP_FAILED)
		die("mmap of a packet ring");
	return p;
}

static void make_packet_ring(struct memory *m)
{
	char *p = map_packet_ring(m, 16, MAP_SHARED);

	touch(p, 16);
	area_is(m, p, 16, RING);
}

static void make_packet_ring_copies(struct memory *m)
{
	char *p = map_packet_ring(m, 16, MAP_PRIVATE);

	copies_are(m, p, 16, MOVES, RING);
	m->intact = copies_intact;
}

static void make_uring(struct memory *m)
{
	struct io_uring_params params = { };
	size_t size;
	char *p;

	bind_to(mem[0]);
	m->fd = syscall(__NR_io_uring_setup, 64, &params);
	if (m->fd < 0)
		die("io_uring_setup");
	size = (params.sq_entries * sizeof(struct io_uring_sqe) + PAGE - 1) / PAGE;
	p = mmap(NULL, size * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, m->fd,
		 IORING_OFF_SQES);
	bind_to(-1);
	if (p == MAP_FAILED)
		die("mmap of an io_uring");
	area_is(m, p, size, RING);
}

static void make_perf(struct memory *m)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_PAGE_FAULTS,
		.size = sizeof(attr),
	};
	char *p;

	m->fd = syscall(__NR_perf_event_open, &attr, 0, -1, -1, 0);
	if (m->fd < 0)
		die("perf_event_open");
	bind_to(mem[0]);
	p = mmap(NULL, 9 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	if (p == MAP_FAILED)
		die("mmap of a perf buffer");
	touch(p, 9);
	bind_to(-1);
	area_is(m, p, 9, RING);
}

static void make_secret(struct memory *m)
{
	int file = syscall(__NR_memfd_secret, 0);
	char *p;

	if (file < 0 || ftruncate(file, 20 * PAGE))
		die("memfd_secret");
	p = mmap(NULL, 20 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (p == MAP_FAILED)
		die("mmap of secret memory");
	touch_bound(p, 20);
	fill(p, 20, 1);
	area_is(m, p, 20, STAYS);
}

static bool still_filled(struct memory *m)
{
	return !bad_pages(m->p, m->npages, 1);
}

static void make_guest(struct memory *m)
{
	struct kvm_create_guest_memfd arg = {
		.size = 16 * PAGE,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
	};
	int kvm, vm, file;
	char *p;

	if (system("modprobe -q kvm_intel 2>/dev/null || modprobe -q kvm_amd 2>/dev/null")) {
		m->missing = "the machine's CPU cannot run virtual machines";
		return;
	}
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		die("KVM_CREATE_VM");
	file = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &arg);
	if (file < 0) {
		m->missing = "no guest memory that can be mapped";
		return;
	}
	p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (p == MAP_FAILED)
		die("mmap of guest memory");
	touch_bound(p, 16);
	fill(p, 16, 1);
	area_is(m, p, 16, STAYS);
	m->intact = still_filled;
}

static void pool_end(struct memory *m)
{
	munmap((void *)((uintptr_t)m->p & ~(HPAGE - 1)), 2 * HPAGE);
	node_pool(mem[0], "0");
	node_pool(mem[1], "0");
}

/* A range that begins and ends within huge pages. */
static void make_huge_parts(struct memory *m)
{
	char *p;

	if (node_pool(mem[0], "2") != 2 || node_pool(mem[1], "2") != 2)
		die("no pool of huge pages");
	m->end = pool_end;
	bind_to(mem[0]);
	p = mmap(NULL, 2 * HPAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (p == MAP_FAILED)
		die("mmap of huge pages");
	touch(p, 2 * HPAGE_NR);
	/* Not the zero page of a read. */
	p[0] = p[HPAGE] = 1;
	bind_to(-1);
	fill(p + 300 * PAGE, 500, 1);
	m->filled = true;
	area_is(m, p + 300 * PAGE, 500, MOVES);
}

static void swap_off(struct memory *m)
{
	munmap(m->p, m->npages * PAGE);
	swap_end(m->path);
}

static void make_swapped(struct memory *m)
{
	size_t out = 0;
	char *p;

	swap_start(m->path, sizeof(m->path), 4096);
	m->end = swap_off;
	p = anon_area(m, 256);
	if (madvise(p, 128 * PAGE, MADV_PAGEOUT))
		die("MADV_PAGEOUT");
	for (size_t i = 0; i < 256; i++)
		if (!(pagemap_of(0, p + i * PAGE) >> 63)) {
			fate_is(m, i, 1, UNCOUNTED);
			out++;
		}
	if (!out)
		die("nothing went to swap");
}

static void on_sigbus(int sig)
{
	(void)sig;
}

static void make_poisoned(struct memory *m)
{
	struct sigaction action = { .sa_handler = on_sigbus };
	char *p = anon_area(m, 32);

	if (sigaction(SIGBUS, &action, NULL))
		die("sigaction");
	if (madvise(p + 10 * PAGE, PAGE, MADV_HWPOISON)) {
		m->missing = "no handling of memory failures";
		return;
	}
	fate_is(m, 10, 1, UNCOUNTED);
}

static bool poison_stays(struct memory *m)
{
	return unreadable(m->p + 10 * PAGE);
}

static int uffd_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		die("userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void uffd_register(int fd, char *p, size_t npages, uint64_t mode)
{
	struct uffdio_register arg = { .range = { (uintptr_t)p, npages * PAGE }, .mode = mode };

	if (ioctl(fd, UFFDIO_REGISTER, &arg))
		die("UFFDIO_REGISTER");
}

static void uffd_protect(int fd, char *p, size_t npages)
{
	struct uffdio_writeprotect arg = {
		.range = { (uintptr_t)p, npages * PAGE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (ioctl(fd, UFFDIO_WRITEPROTECT, &arg))
		die("UFFDIO_WRITEPROTECT");
}

/* Entries without a page that say something about the page to come. */
static void make_markers(struct memory *m)
{
	char *p = anon_area(m, 40);
	struct uffdio_poison poison = { .range = { (uintptr_t)p + 8 * PAGE, 8 * PAGE } };

	/* Without pages: 8 poisoned, 8 guarded, 8 protected. */
	if (madvise(p + 8 * PAGE, 24 * PAGE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	m->fd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED |
			  UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_POISON);
	if (m->fd < 0)
		die("UFFDIO_API");
	uffd_register(m->fd, p + 8 * PAGE, 8, UFFDIO_REGISTER_MODE_MISSING);
	if (ioctl(m->fd, UFFDIO_POISON, &poison))
		die("UFFDIO_POISON");
	if (madvise(p + 16 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL))
		die("MADV_GUARD_INSTALL");
	uffd_register(m->fd, p + 24 * PAGE, 8, UFFDIO_REGISTER_MODE_WP);
	uffd_protect(m->fd, p + 24 * PAGE, 8);
	fate_is(m, 8, 24, UNCOUNTED);
}

static bool markers_stay(struct memory *m)
{
	for (int i = 8; i < 32; i++) {
		uint64_t entry = pagemap_of(0, m->p + i * PAGE);

		if (entry >> 63 || (i < 24 ? !unreadable(m->p + i * PAGE) :
					     !(entry & UFFD_PROTECTED)))
			return false;
	}
	return true;
}

/* Pages that a monitor has protected against writes, and soft-dirty ones. */
static void make_tracked(struct memory *m)
{
	char *p = anon_area(m, 64);

	m->fd = uffd_open(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC);
	if (m->fd < 0)
		die("UFFDIO_API");
	uffd_register(m->fd, p, 32, UFFDIO_REGISTER_MODE_WP);
	if (file_write("/proc/self/clear_refs", "4"))
		die("/proc/self/clear_refs");
	for (int i = 40; i < 64; i++)
		((volatile char *)p)[i * PAGE] = p[i * PAGE];
	uffd_protect(m->fd, p, 16);
}

static bool tracking_stays(struct memory *m)
{
	const uint64_t bits = SOFT_DIRTY | UFFD_PROTECTED;
	size_t dirty = 0, protected = 0;

	for (size_t i = 0; i < m->npages; i++) {
		uint64_t entry = pagemap_of(0, m->p + i * PAGE);

		dirty += !!(entry & SOFT_DIRTY);
		protected += !!(entry & UFFD_PROTECTED);
		if ((entry & bits) != (m->entry[i] & bits))
			return false;
	}
	return dirty == 24 && protected == 16;
}

/* Pages that a monitor has made inaccessible, like those of NUMA balancing. */
static void make_rw_protected(struct memory *m)
{
	char *p = anon_area(m, 32);
	struct uffdio_writeprotect arg = {
		.range = { (uintptr_t)p, 16 * PAGE },
		.mode = 1,
	};

	m->fd = uffd_open(UFFD_RWP_FEATURE | UFFD_RWP_FEATURE << 1);
	if (m->fd < 0) {
		m->missing = "no userfaultfd that protects against reads";
		return;
	}
	uffd_register(m->fd, p, 32, UFFD_RWP_REGISTER);
	if (ioctl(m->fd, UFFD_RWPROTECT, &arg))
		die("UFFDIO_RWPROTECT");
}

static bool rw_protection_stays(struct memory *m)
{
	for (size_t i = 0; i < m->npages; i++) {
		bool protected = pagemap_of(0, m->p + i * PAGE) & UFFD_PROTECTED;

		if (i < 16 ? !protected : protected)
			return false;
	}
	return true;
}

static void make_no_access(struct memory *m)
{
	char *p = anon_area(m, 64);

	if (mprotect(p, 64 * PAGE, PROT_NONE))
		die("mprotect");
}

static bool no_access_stays(struct memory *m)
{
	bool stays = unreadable(m->p);

	/* For whoever compares the contents. */
	return stays && !mprotect(m->p, m->npages * PAGE, PROT_READ);
}

static bool lazy_intact(struct memory *m)
{
	for (size_t i = 0; i < m->npages; i++)
		if (m->p[i * PAGE] != 0x33 && m->p[i * PAGE] != 0)
			return false;
	return true;
}

static void make_lazily_freed(struct memory *m)
{
	char *p = anon_area(m, 64);

	memset(p, 0x33, 64 * PAGE);
	m->filled = false;
	if (madvise(p, 64 * PAGE, MADV_FREE))
		die("MADV_FREE");
}

#define KSM "/sys/kernel/mm/ksm/"

static void ksm_end(struct memory *m)
{
	munmap(m->p, m->npages * PAGE);
	file_write(KSM "run", "0");
}

static void make_merged(struct memory *m)
{
	enum { N = 32 };
	char *p = map_node(N, mem[0]);
	size_t same = 0;

	for (int i = 0; i < N; i++)
		fill(p + i * PAGE, 1, 1);
	if (file_write(KSM "pages_to_scan", "1000") || file_write(KSM "sleep_millisecs", "5") ||
	    file_write(KSM "run", "1") || madvise(p, N * PAGE, MADV_MERGEABLE))
		die(KSM);
	area_is(m, p, N, MOVES);
	m->end = ksm_end;
	for (int i = 0; i < 600 && same < N; i++) {
		usleep(100000);
		for (same = 0; same < N && pfn_of(p + same * PAGE) == pfn_of(p); same++)
			;
	}
	file_write(KSM "run", "0");
	if (same < N || !has_flag(p, KPF_KSM))
		die("ksmd has not merged the pages");
	m->again = N - 1;
}

static bool merged_intact(struct memory *m)
{
	for (size_t i = 0; i < m->npages; i++)
		if (pfn_of(m->p + i * PAGE) != pfn_of(m->p) || bad_pages(m->p + i * PAGE, 1, 1))
			return false;
	return has_flag(m->p, KPF_KSM);
}

FIXTURE(row)
{
	struct memory m;
	int fd;
};

FIXTURE_VARIANT(row)
{
	void (*make)(struct memory *m);
	bool (*intact)(struct memory *m);
};

#define ROW(name, make_it, is_intact)					       \
FIXTURE_VARIANT_ADD(row, name) { .make = make_it, .intact = is_intact }

ROW(zero_pages, make_zero, NULL);
ROW(huge_zero_page, make_huge_zero, NULL);
ROW(vdso, make_vdso, vdso_works);
ROW(vvar, make_vvar, NULL);
ROW(probed_code, make_probed, NULL);
ROW(probe_slot, make_probe_slot, NULL);
ROW(device, make_device, NULL);
ROW(device_copies, make_device_copies, NULL);
ROW(packet_ring, make_packet_ring, NULL);
ROW(packet_ring_copies, make_packet_ring_copies, NULL);
ROW(io_uring, make_uring, NULL);
ROW(perf_buffer, make_perf, NULL);
ROW(secret_memory, make_secret, still_filled);
ROW(guest_memory, make_guest, NULL);
ROW(parts_of_huge_pages, make_huge_parts, NULL);
ROW(swapped, make_swapped, NULL);
ROW(poisoned_page, make_poisoned, poison_stays);
ROW(markers, make_markers, markers_stay);
ROW(tracked_writes, make_tracked, tracking_stays);
ROW(tracked_accesses, make_rw_protected, rw_protection_stays);
ROW(no_access, make_no_access, no_access_stays);
ROW(lazily_freed, make_lazily_freed, lazy_intact);
ROW(merged_by_ksm, make_merged, merged_intact);

FIXTURE_SETUP(row)
{
	struct memory *m = &self->m;

	self->fd = pm_open();
	variant->make(m);
	if (m->missing)
		SKIP(return, "%s", m->missing);
	if (variant->intact)
		m->intact = variant->intact;
	for (size_t i = 0; i < m->npages; i++) {
		if (m->fate[i] == MOVES || m->fate[i] == OURS || m->fate[i] == STAYS)
			ASSERT_EQ(mem[0], node_of(m->p + i * PAGE)) TH_LOG("page %zu", i);
		m->entry[i] = pagemap_of(0, m->p + i * PAGE);
	}
}

FIXTURE_TEARDOWN(row)
{
	if (self->m.end)
		self->m.end(&self->m);
}

/* Pages of these fates are on the new node, all others are where they were. */
static void expect_moved(struct __test_metadata *_metadata, struct memory *m, const char *fates)
{
	size_t stayed = 0, strayed = 0, bad = 0;

	for (size_t i = 0; i < m->npages; i++) {
		char *page = m->p + i * PAGE;

		if (strchr(fates, m->fate[i]))
			stayed += node_of(page) != mem[1];
		else
			strayed += (m->entry[i] ^ pagemap_of(0, page)) & FRAME ? 1 : 0;
	}
	EXPECT_EQ(0, stayed);
	EXPECT_EQ(0, strayed);
	EXPECT_TRUE(!m->intact || m->intact(m));
	for (size_t i = 0; m->filled && i < m->npages; i++)
		if (strchr("mo", m->fate[i]))
			bad += page_is_bad(m->p + i * PAGE, i, 1);
	EXPECT_EQ(0, bad);
	EXPECT_EQ(0, nr_isolated());
}

/*
 * PLACEMENT counts what is to be counted. It agrees with what a dry run of
 * MIGRATE counts, and neither changes anything.
 */
TEST_F(row, placement)
{
	struct memory *m = &self->m;
	size_t counted = pages_with(m, "mou"), rings = pages_with(m, "r");
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];
	uint64_t sum = 0;

	ASSERT_EQ(0, pm_placement(self->fd, 0, m->p, m->npages * PAGE, on));
	for (int i = 0; i < MAX_NODES; i++)
		sum += on[i];
	EXPECT_LE(counted, on[mem[0]]);
	EXPECT_GE(counted + rings, on[mem[0]]);
	if (!rings)
		EXPECT_EQ(counted, sum);
	ASSERT_LE(0, pm_move(self->fd, 0, m->p, m->npages * PAGE, PAGE_MIGRATE_DRY_RUN, 1, &mem[0],
			     &mem[1], &res));
	EXPECT_EQ(sum, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(pages_with(m, "mo") - m->again, res.moved) pm_print(&res);
	expect_moved(_metadata, m, "");
}

TEST_F(row, migrate)
{
	struct memory *m = &self->m;
	size_t counted = pages_with(m, "mou"), rings = pages_with(m, "r");
	struct page_migrate_result res = { };
	size_t moved = 0;

	/* What is busy for a moment moves with another call. */
	for (int i = 0; i < 20; i++) {
		long ret = pm_move(self->fd, 0, m->p, m->npages * PAGE, 0, 1, &mem[0], &mem[1],
				   &res);

		ASSERT_EQ((long)pm_left(&res), ret) pm_print(&res);
		ASSERT_LE(counted, pm_sum(&res)) pm_print(&res);
		ASSERT_GE(counted + rings, pm_sum(&res)) pm_print(&res);
		moved += res.moved;
		if (res.unmovable == pm_left(&res))
			break;
		usleep(100000);
	}
	EXPECT_EQ(pages_with(m, "mo") - m->again, moved) pm_print(&res);
	EXPECT_LE(pages_with(m, "u"), res.unmovable) pm_print(&res);
	EXPECT_GE(pages_with(m, "ur"), res.unmovable) pm_print(&res);
	expect_moved(_metadata, m, "mo");
}

/* What the system call moves is what the table says, so MIGRATE moves it too. */
TEST_F(row, migrate_pages)
{
	struct memory *m = &self->m;
	unsigned long from[MAX_NODES / (8 * sizeof(long))] = { };
	unsigned long to[MAX_NODES / (8 * sizeof(long))] = { };

	from[mem[0] / (8 * sizeof(long))] |= 1UL << mem[0] % (8 * sizeof(long));
	to[mem[1] / (8 * sizeof(long))] |= 1UL << mem[1] % (8 * sizeof(long));
	for (int i = 0; i < 20; i++) {
		size_t left = 0;

		ASSERT_LE(0, syscall(__NR_migrate_pages, 0, MAX_NODES, from, to))
			TH_LOG("migrate_pages: %s", strerror(errno));
		for (size_t k = 0; k < m->npages; k++)
			left += m->fate[k] == MOVES && node_of(m->p + k * PAGE) != mem[1];
		if (!left)
			break;
		usleep(100000);
	}
	expect_moved(_metadata, m, "m");
}

/*
 * Targets that are about to end.
 */
enum { DUMPED = 2000, EXITING = 20000 };

static void *wait_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void aborting_child(struct child *c, void *arg)
{
	char *p = map_node(DUMPED, mem[0]);
	pthread_t other;

	(void)arg;
	fill(p, DUMPED, 2);
	if (pthread_create(&other, NULL, wait_for_ever, NULL))
		die("pthread_create");
	child_put(c, (uintptr_t)p);
	child_get(c);
	abort();
}

/* Whether a field of /proc/PID/status has a value. */
static bool status_is(pid_t pid, const char *line)
{
	char path[64], text[4096];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return !file_read(path, text, sizeof(text)) && strstr(text, line);
}

/* Waits up to a minute. */
static bool comes_to(pid_t pid, const char *line)
{
	double end = now() + 60 * patience();

	while (now() < end) {
		if (status_is(pid, line))
			return true;
		usleep(10000);
	}
	return false;
}

#define CORE_PATTERN "/proc/sys/kernel/core_pattern"

FIXTURE(dump)
{
	char pattern[256], script[128], core[160], gate[160];
	struct child c;
	char *p;
	int fd;
};

/* Starts a process and has it dump core to a program that waits for the gate. */
FIXTURE_SETUP(dump)
{
	char text[768];
	int file;

	self->fd = pm_open();
	file = scratch_file("reader", self->script, sizeof(self->script));
	snprintf(self->core, sizeof(self->core), "%s.core", self->script);
	snprintf(self->gate, sizeof(self->gate), "%s.gate", self->script);
	unlink(self->gate);
	snprintf(text, sizeof(text),
		 "#!/bin/sh\nwhile [ ! -e %s ]; do sleep 0.1; done\ncat >%s.part\nmv %s.part %s\n",
		 self->gate, self->core, self->core, self->core);
	if (write(file, text, strlen(text)) < 0 || fchmod(file, 0755))
		die("%s", self->script);
	close(file);
	ASSERT_EQ(0, file_read(CORE_PATTERN, self->pattern, sizeof(self->pattern)));
	snprintf(text, sizeof(text), "|%s", self->script);
	ASSERT_EQ(0, file_write(CORE_PATTERN, text));
	child_start(&self->c, aborting_child, NULL);
	self->p = (char *)child_get(&self->c);
	child_put(&self->c, 1);
	ASSERT_TRUE(comes_to(self->c.pid, "CoreDumping:\t1"));
}

static void open_gate(FIXTURE_DATA(dump) *self)
{
	int gate = open(self->gate, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	if (gate < 0)
		die("%s", self->gate);
	close(gate);
}

FIXTURE_TEARDOWN(dump)
{
	open_gate(self);
	child_end(&self->c);
	/* A pattern that was read ends with a newline. */
	self->pattern[strcspn(self->pattern, "\n")] = 0;
	file_write(CORE_PATTERN, self->pattern);
	usleep(300000);
	unlink(self->gate);
	unlink(self->script);
	unlink(self->core);
}

/* Reads pages of a process from its core file. */
static bool core_pages(const char *path, const void *addr, void *buf, size_t npages)
{
	size_t size = npages * PAGE;
	bool found = false;
	Elf64_Phdr segment;
	Elf64_Ehdr head;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &head, sizeof(head), 0) != sizeof(head))
		die("%s", path);
	for (int i = 0; i < head.e_phnum && !found; i++) {
		if (pread(fd, &segment, sizeof(segment),
			  head.e_phoff + i * sizeof(segment)) != sizeof(segment))
			die("%s", path);
		if (segment.p_type == PT_LOAD && segment.p_vaddr <= (uintptr_t)addr &&
		    segment.p_vaddr + segment.p_filesz >= (uintptr_t)addr + size)
			found = pread(fd, buf, size, segment.p_offset + (uintptr_t)addr -
				      segment.p_vaddr) == (ssize_t)size;
	}
	close(fd);
	return found;
}

/* A process keeps its memory until its core has been written, and it is served. */
TEST_F(dump, is_served)
{
	unsigned long from[MAX_NODES / (8 * sizeof(long))] = { };
	unsigned long to[MAX_NODES / (8 * sizeof(long))] = { };
	static uint64_t on[MAX_NODES];
	struct page_migrate_result res = { };
	pid_t pid = self->c.pid;
	char *buf = malloc(DUMPED * PAGE);
	uint64_t moved;
	double end;

	ASSERT_NE(NULL, buf);
	ASSERT_EQ(DUMPED, count_on(pid, self->p, DUMPED, mem[0]));
	EXPECT_EQ(0, pm_placement(self->fd, pid, self->p, DUMPED * PAGE, on));
	EXPECT_EQ(DUMPED, on[mem[0]]);
	EXPECT_EQ(0, move_patiently(self->fd, pid, self->p, DUMPED * PAGE, 1, &mem[0], &mem[1],
				    &moved));
	EXPECT_EQ(DUMPED, moved);
	EXPECT_TRUE(all_on(pid, self->p, DUMPED, &mem[1], 1));
	/* The system call does the same, back and further. */
	from[mem[1] / (8 * sizeof(long))] |= 1UL << mem[1] % (8 * sizeof(long));
	to[mem[2] / (8 * sizeof(long))] |= 1UL << mem[2] % (8 * sizeof(long));
	EXPECT_LE(0, syscall(__NR_migrate_pages, pid, MAX_NODES, from, to));
	EXPECT_LE(DUMPED - 20, count_on(pid, self->p, DUMPED, mem[2]));
	EXPECT_TRUE(status_is(pid, "CoreDumping:\t1"));

	/* What is dumped after it has moved is what was there before. */
	open_gate(self);
	EXPECT_TRUE(comes_to(pid, "State:\tZ"));
	for (end = now() + 60 * patience(); now() < end && access(self->core, R_OK); )
		usleep(10000);
	ASSERT_TRUE(core_pages(self->core, self->p, buf, DUMPED));
	EXPECT_EQ(0, bad_pages(buf, DUMPED, 2));
	/* Now it has gone, reaped or not. */
	EXPECT_EQ(-ESRCH, pm_move(self->fd, pid, self->p, DUMPED * PAGE, 0, 1, &mem[1], &mem[0],
				  &res));
	EXPECT_EQ(-ESRCH, pm_placement(self->fd, pid, self->p, DUMPED * PAGE, on));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
	EXPECT_EQ(-ESRCH, pm_placement(self->fd, pid, self->p, DUMPED * PAGE, on));
	self->c.pid = 0;
	free(buf);
}

/* A kill ends the dump, and then the process. */
TEST_F(dump, killed)
{
	static uint64_t on[MAX_NODES];
	struct page_migrate_result res;
	pid_t pid = self->c.pid;
	double end = now() + 60 * patience();
	long ret;

	ASSERT_EQ(0, kill(pid, SIGKILL));
	do {
		ret = pm_move(self->fd, pid, self->p, DUMPED * PAGE, PAGE_MIGRATE_NEW_JOB, 1,
			      &mem[0], &mem[1], &res);
		EXPECT_TRUE(ret >= 0 || ret == -ESRCH) TH_LOG("%ld", ret);
		ret = pm_placement(self->fd, pid, self->p, DUMPED * PAGE, on);
		EXPECT_TRUE(ret == 0 || ret == -ESRCH) TH_LOG("%ld", ret);
	} while (ret != -ESRCH && now() < end);
	EXPECT_EQ(-ESRCH, ret);
	EXPECT_TRUE(comes_to(pid, "State:\tZ"));
}

static void large_child(struct child *c, void *arg)
{
	char *p = map_node(EXITING, mem[0]);

	(void)arg;
	child_put(c, (uintptr_t)p);
}

/* While a killed process takes its memory down, it is served or it is gone. */
TEST(exiting)
{
	int fd = pm_open();
	static uint64_t on[MAX_NODES];
	struct page_migrate_result res;
	int served = 0;

	for (int round = 0; round < 10; round++) {
		double end = now() + 60 * patience();
		struct child c;
		long ret;
		char *p;

		child_start(&c, large_child, NULL);
		p = (char *)child_get(&c);
		ASSERT_EQ(0, kill(c.pid, SIGKILL));
		do {
			uint64_t sum = 0;

			ret = pm_placement(fd, c.pid, p, EXITING * PAGE, on);
			ASSERT_TRUE(ret == 0 || ret == -ESRCH) TH_LOG("%ld", ret);
			for (int i = 0; !ret && i < MAX_NODES; i++)
				sum += on[i];
			EXPECT_GE(EXITING, sum);
			served += !ret;
			ret = pm_move(fd, c.pid, p, EXITING * PAGE, PAGE_MIGRATE_NEW_JOB, 1,
				      &mem[0], &mem[1], &res);
			ASSERT_TRUE(ret >= 0 || ret == -ESRCH) TH_LOG("%ld", ret);
			if (ret >= 0)
				EXPECT_GE(EXITING, pm_sum(&res));
		} while (ret != -ESRCH && now() < end);
		EXPECT_EQ(-ESRCH, ret);
		EXPECT_EQ(-ESRCH, pm_placement(fd, c.pid, p, EXITING * PAGE, on));
		child_end(&c);
	}
	TH_LOG("served %d times after the kill", served);
	EXPECT_EQ(0, nr_isolated());
}

/*
 * Pages that somebody else is moving: there all the time.
 */
struct shuttle {
	char *p;
	size_t npages, step;
	atomic_bool stop;
	atomic_long rounds;
};

/* Moves the area back and forth between two nodes. */
static void *shuttle_run(void *arg)
{
	struct shuttle *s = arg;
	size_t n = s->npages / s->step;
	void **pages = calloc(n, sizeof(*pages));
	int *nodes = calloc(n, sizeof(*nodes)), *status = calloc(n, sizeof(*status));

	if (!pages || !nodes || !status)
		die("calloc");
	for (size_t i = 0; i < n; i++)
		pages[i] = s->p + i * s->step * PAGE;
	while (!s->stop) {
		for (size_t i = 0; i < n; i++)
			nodes[i] = mem[(s->rounds + 1) % 2];
		if (syscall(__NR_move_pages, 0, n, pages, nodes, status, MPOL_MF_MOVE_ALL) < 0)
			die("move_pages");
		s->rounds++;
	}
	free(pages);
	free(nodes);
	free(status);
	return NULL;
}

static void expect_none_missing(struct __test_metadata *_metadata, char *p, size_t npages,
				size_t step)
{
	struct shuttle s = { .p = p, .npages = npages, .step = step };
	enum { SECONDS = 4, ROUNDS = 5 };
	struct page_migrate_result res;
	double end = now() + 120 * patience(), soon;
	static uint64_t on[MAX_NODES];
	int fd = pm_open(), calls = 0, missing = 0, unseen = 0;
	pthread_t t;

	fill(p, npages, 3);
	ASSERT_EQ(npages, present_pages(0, p, npages));
	ASSERT_EQ(0, pthread_create(&t, NULL, shuttle_run, &s));
	soon = now() + SECONDS;
	while ((now() < soon || s.rounds < ROUNDS || calls < 100) && now() < end) {
		uint64_t sum = 0;

		ASSERT_EQ(0, pm_placement(fd, 0, p, npages * PAGE, on));
		for (int i = 0; i < MAX_NODES; i++)
			sum += on[i];
		missing += sum != npages;
		ASSERT_LE(0, pm_move(fd, 0, p, npages * PAGE, PAGE_MIGRATE_DRY_RUN, 1, &mem[0],
				     &mem[1], &res));
		unseen += pm_sum(&res) != npages;
		calls++;
	}
	s.stop = true;
	pthread_join(t, NULL);
	EXPECT_LE(ROUNDS, s.rounds);
	EXPECT_EQ(0, missing) TH_LOG("of %d PLACEMENT calls", calls);
	EXPECT_EQ(0, unseen) TH_LOG("of %d dry runs of MIGRATE", calls);
	EXPECT_EQ(0, bad_pages(p, npages, 3));
	close(fd);
}

TEST(being_migrated_anonymous)
{
	expect_none_missing(_metadata, map_node(2000, mem[0]), 2000, 1);
}

TEST(being_migrated_shared)
{
	char *p = mmap(NULL, 2000 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		       0);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, advise(p, 2000 * PAGE, MADV_NOHUGEPAGE));
	place_pages(p, 2000, &mem[0], 1);
	expect_none_missing(_metadata, p, 2000, 1);
}

TEST(being_migrated_huge)
{
	if (!has_thp())
		SKIP(return, NO_THP);
	expect_none_missing(_metadata, map_thp(16, mem[0]), 16 * HPAGE_NR, HPAGE_NR);
}

/*
 * Huge pages whose page tables several processes share.
 */
enum { HUGE = 24, SHARED_NR = HUGE * HPAGE_NR };
#define GIB (1UL << 30)
/* Where a page table of huge pages begins, in each mapping of the file. */
#define SEGMENT ((char *)0x500000000000UL)

struct segment {
	char *p;
	size_t len;
	size_t huge[HUGE];	/* which of its huge pages are there */
};

static char *huge_page(const struct segment *s, int i)
{
	return s->p + s->huge[i] * HPAGE;
}

static size_t segment_bad(const struct segment *s)
{
	size_t bad = 0;

	for (int i = 0; i < HUGE; i++)
		bad += bad_pages(huge_page(s, i), HPAGE_NR, i);
	return bad;
}

/* The pages of the segment on a node; brings those in that are not mapped. */
static size_t segment_on(const struct segment *s, pid_t pid, int node)
{
	size_t n = 0;

	for (int i = 0; i < HUGE; i++) {
		if (!pid)
			touch(huge_page(s, i), 1);
		n += count_on(pid, huge_page(s, i), HPAGE_NR, node);
	}
	return n;
}

/* How often the page tables of all processes map a huge page. */
static uint64_t mappings_of_page(const void *addr)
{
	int fd = open("/proc/kpagecount", O_RDONLY | O_CLOEXEC);
	uint64_t n;

	if (fd < 0 || pread(fd, &n, 8, pfn_of(addr) * 8) != 8)
		die("/proc/kpagecount");
	close(fd);
	return n;
}

static void segment_child(struct child *c, void *arg)
{
	const struct segment *s = arg;

	for (;;) {
		child_put(c, segment_bad(s));
		child_get(c);
	}
}

FIXTURE(shared_tables)
{
	struct segment s;
	struct child c;
	int fd, file;
};

FIXTURE_VARIANT(shared_tables)
{
	int gib;
};

FIXTURE_VARIANT_ADD(shared_tables, one_gib) { .gib = 1 };
FIXTURE_VARIANT_ADD(shared_tables, two_gib) { .gib = 2 };

FIXTURE_SETUP(shared_tables)
{
	struct segment *s = &self->s;

	self->fd = pm_open();
	self->file = memfd_create("segment", MFD_HUGETLB);
	ASSERT_LE(0, self->file);
	ASSERT_EQ(HUGE, node_pool(mem[0], "24"));
	ASSERT_EQ(HUGE, node_pool(mem[1], "24"));
	s->len = variant->gib * GIB;
	ASSERT_EQ(0, ftruncate(self->file, s->len));
	s->p = mmap(SEGMENT, s->len, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, self->file, 0);
	ASSERT_EQ(SEGMENT, s->p);
	/* Spread over all of it: in each table, at both of its ends. */
	for (int i = 0; i < HUGE; i++)
		s->huge[i] = i < HUGE / 2 ? (size_t)i : s->len / HPAGE - HUGE + i;
	bind_to(mem[0]);
	for (int i = 0; i < HUGE; i++)
		fill(huge_page(s, i), HPAGE_NR, i);
	bind_to(-1);
	child_start(&self->c, segment_child, s);
	ASSERT_EQ(0, child_get(&self->c));
	ASSERT_EQ(SHARED_NR, segment_on(s, 0, mem[0]));
	ASSERT_EQ(SHARED_NR, segment_on(s, self->c.pid, mem[0]));
	/* Two processes have it, and one table maps it. */
	for (int i = 0; i < HUGE; i++)
		ASSERT_EQ(1, mappings_of_page(huge_page(s, i)));
}

FIXTURE_TEARDOWN(shared_tables)
{
	child_end(&self->c);
	munmap(self->s.p, self->s.len);
	close(self->file);
	node_pool(mem[0], "0");
	node_pool(mem[1], "0");
}

/* All of it is on a node for both processes, and both read what was written. */
static void expect_segment_on(struct __test_metadata *_metadata,
			      FIXTURE_DATA(shared_tables) *self, int node)
{
	EXPECT_EQ(0, segment_bad(&self->s));
	child_put(&self->c, 1);
	EXPECT_EQ(0, child_get(&self->c));
	EXPECT_EQ(SHARED_NR, segment_on(&self->s, 0, node));
	EXPECT_EQ(SHARED_NR, segment_on(&self->s, self->c.pid, node));
}

static void expect_all_moved(struct __test_metadata *_metadata,
			     FIXTURE_DATA(shared_tables) *self, pid_t pid)
{
	struct segment *s = &self->s;
	static uint64_t on[MAX_NODES];
	struct page_migrate_result res;

	ASSERT_EQ(0, pm_placement(self->fd, pid, s->p, s->len, on));
	EXPECT_EQ(SHARED_NR, on[mem[0]]);
	ASSERT_EQ(0, pm_move(self->fd, pid, s->p, s->len, PAGE_MIGRATE_DRY_RUN, 1, &mem[0], &mem[1],
			     &res));
	EXPECT_EQ(SHARED_NR, res.moved) pm_print(&res);
	EXPECT_EQ(0, pm_move(self->fd, pid, s->p, s->len, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(SHARED_NR, res.moved) pm_print(&res);
	EXPECT_EQ(SHARED_NR, pm_sum(&res)) pm_print(&res);
	expect_segment_on(_metadata, self, mem[1]);

	/* The other process's mappings have moved already. */
	EXPECT_EQ(0, pm_move(self->fd, pid ? 0 : self->c.pid, s->p, s->len, 0, 1, &mem[0], &mem[1],
			     &res));
	EXPECT_EQ(0, res.moved) pm_print(&res);
	EXPECT_EQ(SHARED_NR, res.already_moved) pm_print(&res);
	EXPECT_EQ(SHARED_NR, pm_sum(&res)) pm_print(&res);
	expect_segment_on(_metadata, self, mem[1]);
}

TEST_F(shared_tables, first_process)
{
	expect_all_moved(_metadata, self, 0);
}

TEST_F(shared_tables, second_process)
{
	expect_all_moved(_metadata, self, self->c.pid);
}

TEST_F(shared_tables, migrate_pages)
{
	unsigned long from = 1UL << mem[0], to = 1UL << mem[1];

	ASSERT_LE(0, syscall(__NR_migrate_pages, self->c.pid, 64, &from, &to));
	expect_segment_on(_metadata, self, mem[1]);
}

static void expect_left(struct __test_metadata *_metadata, FIXTURE_DATA(shared_tables) *self,
			unsigned int flags)
{
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];
	pid_t pids[] = { 0, self->c.pid };

	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(SHARED_NR, pm_move(self->fd, pids[i], self->s.p, self->s.len, flags, 1,
					     &mem[0], &mem[1], &res));
		EXPECT_EQ(SHARED_NR, res.shared) pm_print(&res);
		EXPECT_EQ(SHARED_NR, pm_sum(&res)) pm_print(&res);
		EXPECT_EQ(0, pm_placement(self->fd, pids[i], self->s.p, self->s.len, on));
		EXPECT_EQ(SHARED_NR, on[mem[0]]);
	}
	expect_segment_on(_metadata, self, mem[0]);
	for (int i = 0; i < HUGE; i++)
		EXPECT_EQ(1, mappings_of_page(huge_page(&self->s, i)));
}

TEST_F(shared_tables, exclusive)
{
	expect_left(_metadata, self, PAGE_MIGRATE_EXCLUSIVE);
}

TEST_F(shared_tables, without_cap_sys_nice)
{
	drop_cap(CAP_SYS_NICE);
	expect_left(_metadata, self, 0);
}

/* Two mappings of one process, beside the other process's, and one table. */
TEST_F(shared_tables, mapped_twice)
{
	struct segment *s = &self->s, again = *s;
	struct page_migrate_result res;
	static uint64_t on[MAX_NODES];

	again.p = mmap(SEGMENT + 4 * GIB, s->len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, self->file, 0);
	ASSERT_EQ(SEGMENT + 4 * GIB, again.p);
	ASSERT_EQ(0, segment_bad(&again));
	for (int i = 0; i < HUGE; i++)
		ASSERT_EQ(1, mappings_of_page(huge_page(&again, i)));
	ASSERT_EQ(0, pm_placement(self->fd, 0, s->p, 8 * GIB, on));
	EXPECT_EQ(2 * SHARED_NR, on[mem[0]]);
	EXPECT_EQ(0, pm_move(self->fd, 0, s->p, 8 * GIB, 0, 1, &mem[0], &mem[1], &res))
		pm_print(&res);
	EXPECT_EQ(SHARED_NR, res.moved) pm_print(&res);
	EXPECT_EQ(SHARED_NR, res.already_moved) pm_print(&res);
	EXPECT_EQ(2 * SHARED_NR, pm_sum(&res)) pm_print(&res);
	expect_segment_on(_metadata, self, mem[1]);
	EXPECT_EQ(0, segment_bad(&again));
	EXPECT_EQ(SHARED_NR, segment_on(&again, 0, mem[1]));
	munmap(again.p, again.len);
}

/* A part of the segment, within one table. */
TEST_F(shared_tables, part)
{
	enum { PART = 5 };
	struct segment *s = &self->s;
	struct page_migrate_result res;

	EXPECT_EQ(0, pm_move(self->fd, self->c.pid, huge_page(s, 2), PART * HPAGE, 0, 1, &mem[0],
			     &mem[1], &res));
	EXPECT_EQ(PART * HPAGE_NR, res.moved) pm_print(&res);
	EXPECT_EQ(PART * HPAGE_NR, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(0, segment_bad(s));
	for (int i = 0; i < HUGE; i++)
		EXPECT_EQ(mem[i >= 2 && i < 2 + PART], node_of(huge_page(s, i)));
}

TEST_HARNESS_MAIN
