// SPDX-License-Identifier: GPL-2.0
#include "job.h"

#include <fcntl.h>
#include <numaif.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <linux/kernel-page-flags.h>

#define PFN_MASK ((1ULL << 55) - 1)
#define SWAPPED (1ULL << 62)
#define PRESENT (1ULL << 63)

/* A number for a place that looks like chance and is always the same. */
static uint32_t hash(uint32_t a, uint32_t b)
{
	uint32_t x = a * 0x9e3779b9u ^ (b + 0x7f4a7c15u) * 0x85ebca6bu;

	x ^= x >> 15;
	x *= 0x2c1b3c6du;
	x ^= x >> 12;
	x *= 0x297a2d39u;
	return x ^ x >> 15;
}

static int home(const struct job *job, int m)
{
	const struct job_shape *s = &job->shape;

	if (s->members < s->nodes)
		m = m * s->nodes / s->members;
	return mem[s->first + m % s->nodes];
}

static int any_node(const struct job *job, uint32_t a, uint32_t b)
{
	return mem[job->shape.first + hash(a, b) % job->shape.nodes];
}

static void *map_own(size_t npages)
{
	void *p = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || advise(p, npages * PAGE, MADV_NOHUGEPAGE))
		die("mmap of %zu pages", npages);
	return p;
}

/* Contents differ by area, page and, where members have copies, by member. */
enum { SHM = 1 << 16, TMPFS = 2 << 16, COW = 3 << 16, OWN = 4 << 16, HUGE = 5 << 16 };

static void put_page(char *area, size_t i, unsigned int seed)
{
	fill(area + i * PAGE, 1, seed + i);
}

static size_t bad_page(const char *area, size_t i, unsigned int seed)
{
	return bad_pages(area + i * PAGE, 1, seed + i);
}

/* Which member touches a page of shared memory first. */
static bool is_mine(const struct job *job, int area, size_t i, int m)
{
	return hash(area, i) % job->shape.members == (uint32_t)m;
}

/* Every fourth page of the leader's memory becomes a copy. */
static bool is_copied(size_t i, int m)
{
	return hash(COW + m, i) % 4 == 0;
}

static bool has_huge(const struct job *job, int m)
{
	return job->shape.huge && m % 4 == 1;
}

static void leader_memory(struct job *job)
{
	const struct job_shape *s = &job->shape;
	int id, fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	id = shmget(IPC_PRIVATE, s->shm * PAGE, IPC_CREAT | 0600);
	if (id < 0)
		die("shmget of %zu pages", s->shm);
	job->shm = shmat(id, NULL, 0);
	if (job->shm == (void *)-1 || shmctl(id, IPC_RMID, NULL))
		die("shmat");
	if (fd < 0 || ftruncate(fd, s->file * PAGE))
		die("a file in /dev/shm");
	job->file = mmap(NULL, s->file * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (job->file == MAP_FAILED)
		die("mmap of a file");
	job->cow = map_own(s->cow);
	for (size_t i = 0; i < s->cow; i++) {
		bind_to(any_node(job, COW, i));
		put_page(job->cow, i, COW);
	}
	bind_to(-1);
	if (s->huge) {
		job->huge = map_thp(s->huge, mem[s->first + 1]);
		fill(job->huge, s->huge * HPAGE_NR, HUGE);
	}
	/* It lies on each member's own nodes. */
	job->own = map_own(s->own);
}

/* First touch, as it happens in a job whose members run on their own nodes. */
static void touch_first(struct job *job, int m)
{
	const struct job_shape *s = &job->shape;

	bind_to(home(job, m));
	for (size_t i = 0; i < s->shm; i++)
		if (is_mine(job, SHM, i, m))
			put_page(job->shm, i, SHM);
	for (size_t i = 0; i < s->file; i++)
		if (is_mine(job, TMPFS, i, m))
			put_page(job->file, i, TMPFS);
	for (size_t i = 0; i < s->cow; i++)
		if (is_copied(i, m))
			put_page(job->cow, i, COW + m * 1000);
	for (size_t i = 0; i < s->own; i++) {
		bool strays = hash(OWN + m, i) % 4 == 0;

		if (strays)
			bind_to(any_node(job, OWN, i * 64 + m));
		put_page(job->own, i, OWN + m * 1000);
		if (strays)
			bind_to(home(job, m));
	}
	bind_to(-1);
	if (has_huge(job, m)) {
		char *p = map_thp(s->huge, home(job, m));

		fill(p, s->huge * HPAGE_NR, HUGE + m);
		job->huge = p;
	}
}

/* Everybody maps everything that is shared. */
static void touch_all(const struct job *job)
{
	for (size_t i = 0; i < job->shape.shm; i++)
		(void)((volatile char *)job->shm)[i * PAGE];
	for (size_t i = 0; i < job->shape.file; i++)
		(void)((volatile char *)job->file)[i * PAGE];
}

static uint64_t damage(const struct job *job, int m)
{
	const struct job_shape *s = &job->shape;
	uint64_t bad = 0;

	/* The first two read all that is shared, the others what they wrote. */
	for (size_t i = 0; i < s->shm; i++)
		if (m < 2 || is_mine(job, SHM, i, m))
			bad += bad_page(job->shm, i, SHM);
	for (size_t i = 0; i < s->file; i++)
		if (m < 2 || is_mine(job, TMPFS, i, m))
			bad += bad_page(job->file, i, TMPFS);
	for (size_t i = 0; i < s->cow; i++)
		bad += bad_page(job->cow, i, is_copied(i, m) ? COW + m * 1000 : COW);
	for (size_t i = 0; i < s->own; i++)
		bad += bad_page(job->own, i, OWN + m * 1000);
	if (s->huge)
		bad += bad_pages(job->huge, s->huge * HPAGE_NR, has_huge(job, m) ? HUGE + m : HUGE);
	return bad;
}

static void member(struct job *job, int m)
{
	struct child c = job->member[m];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Locks are not inherited. */
	if (job->shape.locked && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		die("mlockall");
	child_get(&c);
	touch_first(job, m);
	child_put(&c, 1);
	child_get(&c);
	touch_all(job);
	/* Bring in what it needs later. */
	damage(job, m);
	child_put(&c, 1);
	for (;;) {
		child_get(&c);
		child_put(&c, damage(job, m));
	}
}

static void leader(struct job *job, const struct child *theirs)
{
	struct child up = job->member[0];

	memcpy(job->member, theirs, job->shape.members * sizeof(*theirs));
	up = job->member[0];
	leader_memory(job);
	for (int m = 1; m < job->shape.members; m++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (!pid)
			member(job, m);
		child_put(&up, pid);
	}
	child_put(&up, (uintptr_t)job->shm);
	child_put(&up, (uintptr_t)job->file);
	child_put(&up, (uintptr_t)job->cow);
	child_put(&up, (uintptr_t)job->own);
	member(job, 0);
}

static void all_do(struct job *job)
{
	for (int m = 0; m < job->shape.members; m++)
		child_put(&job->member[m], 1);
	for (int m = 0; m < job->shape.members; m++)
		child_get(&job->member[m]);
}

void job_start(struct job *job, const struct job_shape *shape)
{
	int n = shape->members;
	struct child *theirs = calloc(n, sizeof(*theirs));
	pid_t pid;

	*job = (struct job){ .shape = *shape, .member = calloc(n, sizeof(struct child)) };
	if (!theirs || !job->member)
		die("calloc");
	if (shape->first + shape->nodes > nr_mem)
		die("a job on %d nodes, but the machine has %d", shape->nodes, nr_mem);
	/* Members whose leader has gone are ours to reap. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (int m = 0; m < n; m++) {
		int down[2], up[2];

		if (pipe2(down, O_CLOEXEC) || pipe2(up, O_CLOEXEC))
			die("pipe2");
		theirs[m] = (struct child){ .in = down[0], .out = up[1] };
		job->member[m] = (struct child){ .in = up[0], .out = down[1] };
	}
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid)
		leader(job, theirs);
	for (int m = 0; m < n; m++) {
		close(theirs[m].in);
		close(theirs[m].out);
	}
	free(theirs);
	job->member[0].pid = pid;
	for (int m = 1; m < n; m++)
		job->member[m].pid = child_get(&job->member[0]);
	job->shm = (char *)child_get(&job->member[0]);
	job->file = (char *)child_get(&job->member[0]);
	job->cow = (char *)child_get(&job->member[0]);
	job->own = (char *)child_get(&job->member[0]);
	all_do(job);
	all_do(job);
}

size_t job_damage(struct job *job)
{
	size_t bad = 0;

	for (int m = 0; m < job->shape.members; m++)
		child_put(&job->member[m], 1);
	for (int m = 0; m < job->shape.members; m++)
		bad += child_get(&job->member[m]);
	return bad;
}

void job_end(struct job *job)
{
	for (int m = 0; m < job->shape.members; m++) {
		kill(job->member[m].pid, SIGKILL);
		close(job->member[m].in);
		close(job->member[m].out);
	}
	/* The leader first: then the others are ours. */
	for (int m = 0; m < job->shape.members; m++)
		waitpid(job->member[m].pid, NULL, 0);
	free(job->member);
	job->member = NULL;
}

static void add_page(struct job_record *rec, size_t *room, struct job_page page)
{
	if (rec->n == *room) {
		*room = *room ? *room * 2 : 1 << 14;
		rec->page = realloc(rec->page, *room * sizeof(*rec->page));
		if (!rec->page)
			die("realloc");
	}
	rec->page[rec->n++] = page;
}

/* What pagemap says of n pages. Returns whether one of them is on the move. */
static bool read_pagemap(int pagemap, uintptr_t start, size_t n, uint64_t *entry)
{
	if (pread(pagemap, entry, n * 8, start / PAGE * 8) != (ssize_t)(n * 8))
		die("pagemap");
	/* The machine has no swap: a page that compaction is moving is shown as if. */
	for (size_t i = 0; i < n; i++)
		if ((entry[i] & (SWAPPED | PRESENT)) == SWAPPED)
			return true;
	return false;
}

/* The present pages of a mapping; their nodes come later. */
static void look_at(struct job_record *rec, size_t *room, int pagemap, uintptr_t start,
		    uintptr_t end)
{
	enum { CHUNK = 4096, TRIES = 1000 };
	static uint64_t entry[CHUNK];

	while (start < end) {
		size_t n = (end - start) / PAGE < CHUNK ? (end - start) / PAGE : CHUNK;

		for (int i = 0; read_pagemap(pagemap, start, n, entry) && i < TRIES; i++)
			usleep(1000);
		for (size_t i = 0; i < n; i++)
			if (entry[i] & PRESENT)
				add_page(rec, room, (struct job_page){
					.va = start + i * PAGE, .pfn = entry[i] & PFN_MASK });
		start += n * PAGE;
	}
}

/* The node of a page that may be on the move, which has none for a moment. */
static int node_of_moving(pid_t pid, void *addr)
{
	enum { TRIES = 1000 };
	int node = -ENOENT;

	for (int i = 0; node == -ENOENT && i < TRIES; i++) {
		if (i)
			usleep(1000);
		if (move_pages(pid, 1, &addr, NULL, &node, 0))
			die("move_pages query of %d", pid);
	}
	return node;
}

/* Asks for the nodes of the pages from first on; drops those without one. */
static void ask_nodes(struct job_record *rec, size_t first, pid_t pid)
{
	enum { CHUNK = 1024 };
	static void *addr[CHUNK];
	static int node[CHUNK];
	size_t to = first;

	for (size_t at = first; at < rec->n; at += CHUNK) {
		size_t n = rec->n - at < CHUNK ? rec->n - at : CHUNK;

		for (size_t i = 0; i < n; i++)
			addr[i] = (void *)rec->page[at + i].va;
		if (move_pages(pid, n, addr, NULL, node, 0))
			die("move_pages query of %d", pid);
		for (size_t i = 0; i < n; i++) {
			if (node[i] == -ENOENT)
				node[i] = node_of_moving(pid, addr[i]);
			/* The zero page has none. */
			if (node[i] < 0)
				continue;
			rec->page[to] = rec->page[at + i];
			rec->page[to++].node = node[i];
		}
	}
	rec->n = to;
}

void job_look(const struct job *job, struct job_record *rec)
{
	size_t room = 0;

	*rec = (struct job_record){ .first = calloc(job->shape.members + 1, sizeof(size_t)) };
	if (!rec->first)
		die("calloc");
	for (int m = 0; m < job->shape.members; m++) {
		pid_t pid = job->member[m].pid;
		char path[64], line[4096];
		int pagemap;
		FILE *f;

		rec->first[m] = rec->n;
		snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
		pagemap = open(path, O_RDONLY | O_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/%d/maps", pid);
		f = fopen(path, "re");
		if (pagemap < 0 || !f)
			die("%s", path);
		while (fgets(line, sizeof(line), f)) {
			unsigned long start, end;

			/* What belongs to the kernel is in no list. */
			if (strstr(line, "[vdso]") || strstr(line, "[vvar") ||
			    strstr(line, "[vsyscall]"))
				continue;
			if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
				look_at(rec, &room, pagemap, start, end);
		}
		fclose(f);
		close(pagemap);
		ask_nodes(rec, rec->first[m], pid);
	}
	rec->first[job->shape.members] = rec->n;
}

void job_forget(struct job_record *rec)
{
	free(rec->page);
	free(rec->first);
	*rec = (struct job_record){ };
}

void job_map_shift(struct job_map *map, int first, int count, int by)
{
	map->count = count;
	for (int i = 0; i < count; i++) {
		map->old[i] = mem[first + i];
		map->new[i] = mem[first + i + by];
	}
}

void job_map_circle(struct job_map *map, int first, int count)
{
	map->count = count;
	for (int i = 0; i < count; i++) {
		map->old[i] = mem[first + i];
		map->new[i] = mem[first + (i + 1) % count];
	}
}

int job_map_of(const struct job_map *map, int node)
{
	for (int i = 0; i < map->count; i++)
		if (map->old[i] == node)
			return map->new[i];
	return node;
}

size_t job_wrong(const struct job_record *before, const struct job_record *after,
		 const struct job_map *map)
{
	size_t wrong = 0, b = 0, a = 0;

	if (before->n != after->n)
		fprintf(stderr, "# %zu pages were there, %zu are\n", before->n, after->n);
	while (b < before->n && a < after->n) {
		const struct job_page *was = &before->page[b], *is = &after->page[a];

		/* Both are sorted; what is in one only has come or gone. */
		if (was->va != is->va) {
			wrong++;
			if (was->va < is->va)
				b++;
			else
				a++;
			continue;
		}
		wrong += is->node != job_map_of(map, was->node);
		a++;
		b++;
	}
	/* Where one ends first, the rest of the other has come or gone, too. */
	return wrong + (before->n - b) + (after->n - a);
}

size_t job_not_home(const struct job *job, const struct job_record *first,
		    const struct job_record *last, const struct job_map *map)
{
	size_t wrong = 0;

	for (int m = 0; m < job->shape.members; m++) {
		size_t at = last->first[m], end = last->first[m + 1];

		for (size_t i = first->first[m]; i < first->first[m + 1]; i++) {
			const struct job_page *was = &first->page[i];

			if (job_map_of(map, was->node) == was->node)
				continue;
			while (at < end && last->page[at].va < was->va)
				at++;
			if (at < end && last->page[at].va == was->va &&
			    last->page[at].node == was->node)
				continue;
			fprintf(stderr, "# member %d: %#lx was on node %d, %s\n", m,
				(unsigned long)was->va, was->node,
				at < end && last->page[at].va == was->va ? "is on another" :
				"is gone");
			wrong++;
		}
	}
	return wrong;
}

static int by_pfn(const void *a, const void *b)
{
	const struct job_page *x = a, *y = b;

	return (x->pfn > y->pfn) - (x->pfn < y->pfn);
}

/* Each page of memory once, in the order of the frames. Returns how many. */
static size_t each_once(const struct job_record *rec, struct job_page **pages)
{
	struct job_page *p = malloc((rec->n + 1) * sizeof(*p));
	size_t n = 0;

	if (!p)
		die("malloc");
	memcpy(p, rec->page, rec->n * sizeof(*p));
	qsort(p, rec->n, sizeof(*p), by_pfn);
	for (size_t i = 0; i < rec->n; i++)
		if (!n || p[n - 1].pfn != p[i].pfn)
			p[n++] = p[i];
	*pages = p;
	return n;
}

static bool frame_is(int fd, uint64_t pfn, int bit)
{
	uint64_t flags = 0;

	/* Past the last frame there is nothing. */
	if (pread(fd, &flags, 8, pfn * 8) != 8)
		return false;
	return flags >> bit & 1;
}

size_t job_must_move(const struct job_record *rec, const struct job_map *map)
{
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	struct job_page *p;
	size_t n = each_once(rec, &p), sum = 0;
	uint64_t end = 0;

	if (fd < 0)
		die("/proc/kpageflags");
	for (size_t i = 0; i < n; i++) {
		uint64_t head = p[i].pfn;

		if (job_map_of(map, p[i].node) == p[i].node || p[i].pfn < end)
			continue;
		while (frame_is(fd, head, KPF_COMPOUND_TAIL))
			head--;
		for (end = head + 1; frame_is(fd, end, KPF_COMPOUND_TAIL);)
			end++;
		sum += end - head;
	}
	close(fd);
	free(p);
	return sum;
}

void job_on_nodes(const struct job_record *rec, size_t *on)
{
	struct job_page *p;
	size_t n = each_once(rec, &p);

	memset(on, 0, MAX_NODES * sizeof(*on));
	for (size_t i = 0; i < n; i++)
		on[p[i].node]++;
	free(p);
}

long job_move(const struct job *job, int fd, const struct job_map *map, unsigned int flags,
	      struct page_migrate_result *each)
{
	long left = 0;

	for (int m = 0; m < job->shape.members; m++) {
		long ret = pm_move(fd, job->member[m].pid, NULL, ~0UL, flags, map->count,
				   map->old, map->new, each ? &each[m] : NULL);

		if (ret < 0)
			return ret;
		left += ret;
		/* It begins with the first member. */
		flags &= ~PAGE_MIGRATE_NEW_JOB;
	}
	return left;
}

void job_move_by_syscall(const struct job *job, const struct job_map *map)
{
	enum { BITS = 8 * sizeof(long) };
	unsigned long old[MAX_NODES / BITS] = { }, new[MAX_NODES / BITS] = { };

	for (int i = 0; i < map->count; i++) {
		old[map->old[i] / BITS] |= 1UL << map->old[i] % BITS;
		new[map->new[i] / BITS] |= 1UL << map->new[i] % BITS;
	}
	for (int m = 0; m < job->shape.members; m++)
		if (migrate_pages(job->member[m].pid, MAX_NODES, old, new) < 0)
			die("migrate_pages(2)");
}

void job_quiet_machine(void)
{
	file_write("/proc/sys/vm/compaction_proactiveness", "0");
	file_write("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "0");
}

void job_play_syscall(struct job_play *play, const struct job_shape *shape)
{
	struct job_record before, after;
	struct job job;
	long moved;

	job_start(&job, shape);
	job_look(&job, &before);
	play->sys_must_move = job_must_move(&before, &play->map);
	moved = migrated();
	play->sys_seconds = -now();
	job_move_by_syscall(&job, &play->map);
	play->sys_seconds += now();
	play->sys_migrated = migrated() - moved;
	job_look(&job, &after);
	job_on_nodes(&before, play->sys_before);
	job_on_nodes(&after, play->syscall);
	play->sys_mappings = before.n;
	play->sys_wrong = job_wrong(&before, &after, &play->map);
	job_forget(&before);
	job_forget(&after);
	job_end(&job);
}

long job_play_module(struct job_play *play, struct job *job, int fd, unsigned int flags,
		     struct page_migrate_result *each)
{
	struct job_record before, after;
	long moved, ret;

	job_look(job, &before);
	play->must_move = job_must_move(&before, &play->map);
	moved = migrated();
	play->seconds = -now();
	ret = job_move(job, fd, &play->map, flags, each);
	play->seconds += now();
	play->migrated = migrated() - moved;
	job_look(job, &after);
	job_on_nodes(&before, play->before);
	job_on_nodes(&after, play->ours);
	memset(play->wanted, 0, sizeof(play->wanted));
	for (int node = 0; node < MAX_NODES; node++)
		play->wanted[job_map_of(&play->map, node)] += play->before[node];
	play->mappings = before.n;
	play->wrong = job_wrong(&before, &after, &play->map);
	play->damage = job_damage(job);
	job_forget(&before);
	job_forget(&after);
	return ret;
}

/* A number and a bar, padded to width. */
static void bar(FILE *out, size_t n, size_t max, int width)
{
	static const char full[] = "####################";
	int len = max ? (n * (sizeof(full) - 1) + max - 1) / max : 0;

	if (len || width)
		fprintf(out, " %6zu %-*.*s", n, width, len, full);
	else
		fprintf(out, " %6zu", n);
}

static void picture_of_nodes(const struct job_play *play, FILE *out, const char *prefix)
{
	size_t max = 0;

	for (int i = 0; i < MAX_NODES; i++) {
		max = play->before[i] > max ? play->before[i] : max;
		max = play->ours[i] > max ? play->ours[i] : max;
		max = play->syscall[i] > max ? play->syscall[i] : max;
	}
	fprintf(out, "%snode  %-27s %-27s %s\n", prefix, "before", "page_migrate",
		"migrate_pages(2)");
	for (int i = 0; i < nr_mem; i++) {
		fprintf(out, "%s%4d", prefix, mem[i]);
		bar(out, play->before[mem[i]], max, 20);
		bar(out, play->ours[mem[i]], max, 20);
		bar(out, play->syscall[mem[i]], max, 0);
		fputc('\n', out);
	}
}

void job_picture(const struct job_play *play, FILE *out, const char *prefix)
{
	/* More lines than that show nothing. */
	if (nr_mem <= 64)
		picture_of_nodes(play, out, prefix);
	fprintf(out, "%spage_migrate:     %zu of %zu mappings where the map says,"
		" %zu pages to move, %zu moves, %.1f s\n", prefix,
		play->mappings - play->wrong, play->mappings, play->must_move, play->migrated,
		play->seconds);
	fprintf(out, "%smigrate_pages(2): %zu of %zu mappings where the map says,"
		" %zu pages to move, %zu moves, %.1f s\n", prefix,
		play->sys_mappings - play->sys_wrong, play->sys_mappings, play->sys_must_move,
		play->sys_migrated, play->sys_seconds);
}
