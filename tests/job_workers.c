// SPDX-License-Identifier: GPL-2.0
/*
 * Calls whose batches several threads of the kernel move: whatever their number, a call
 * does the same and counts the same, isolates no more than one batch for each of them, and
 * leaves nothing behind when it ends early.
 *
 * Environment: PM_SECONDS, how long each number of workers meets pages that are mapped three
 * times (5); PM_SEED, the order in which these are mapped.
 */
#include "harness.h"
#include "mem_util.h"
#include "trace_util.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/wait.h>

/* A number of workers that stands for the largest one of the module. */
#define MOST (~0U)

/* Base pages that a batch has at most, but for its last folio. */
enum { BATCH = 1024 };

/* So many pages have moved only when the workers of a call are at work. */
enum { UNDER_WAY = 3000 };

/* Calls of which one at least has to be met in its middle. */
enum { TRIES = 10 };

static const unsigned int all_numbers[] = { 1, 2, MOST, 0 };

static unsigned int number_of(unsigned int workers)
{
	struct page_migrate_info info;
	int fd;

	if (workers != MOST)
		return workers;
	fd = pm_open();
	if (pm_ioctl(fd, PAGE_MIGRATE_IOC_INFO, &info))
		die("PAGE_MIGRATE_IOC_INFO");
	close(fd);
	return info.max_workers;
}

/* How many workers there can be in a call that asks for that number. */
static unsigned int at_most(unsigned int workers)
{
	return number_of(workers ? workers : MOST);
}

/* One call, and the lists that it goes by. */
struct call {
	struct page_migrate_request req;
	int count, old[4], new[4];
	uint64_t by_pair[4];
};

#define NODE_LIST(...) (const int[]){ __VA_ARGS__ }

static void call_init(struct call *c, unsigned int workers, int count, const int *old,
		      const int *new)
{
	memset(c, 0, sizeof(*c));
	memcpy(c->old, old, count * sizeof(*old));
	memcpy(c->new, new, count * sizeof(*new));
	memset(c->by_pair, 0xa5, sizeof(c->by_pair));
	c->count = count;
	c->req = pm_req(0, NULL, 0, count, c->old, c->new);
	c->req.workers = number_of(workers);
	c->req.moved_by_pair = (uintptr_t)c->by_pair;
	pm_poison(&c->req.result);
}

static long call_over(struct call *c, int fd, pid_t pid, const void *p, size_t npages)
{
	c->req.pid = pid;
	c->req.va_start = (uintptr_t)p;
	c->req.len = npages * PAGE;
	return pm_migrate(fd, &c->req);
}

/* The pair that a page on a node belongs to, or -1. */
static int pair_of(const struct call *c, int node)
{
	for (int i = 0; i < c->count; i++)
		if (c->old[i] == node)
			return i;
	return -1;
}

/*
 * What the kernel compacts by itself is busy for a moment, and in a frame that the job does
 * not know afterwards.
 */
#define PROACTIVENESS "/proc/sys/vm/compaction_proactiveness"

static void compaction_stop(char *was, size_t size)
{
	if (file_read(PROACTIVENESS, was, size) || file_write(PROACTIVENESS, "0"))
		die(PROACTIVENESS);
}

static int *new_nodes(size_t npages)
{
	int *nodes = malloc(npages * sizeof(*nodes));

	if (!nodes)
		die("malloc");
	return nodes;
}

/*
 * Every kind of memory.
 */
enum { N = 16 * HPAGE_NR };

/* Memory of which each folio is on one of three nodes, in no order. */
struct memory {
	char *p;
	pid_t pid;		/* whose memory it is */
	int at[N];
	bool is_filled;
	char path[128];		/* of a file that is to be removed */
	struct child sharer;
};

static void choose_nodes(int *at, size_t npages, size_t each, int nr_nodes)
{
	uint32_t seed = 4711;

	for (size_t i = 0; i < npages; i++)
		at[i] = i % each ? at[i - 1] : mem[next_random(&seed) % nr_nodes];
}

/* Writes to the first page of each folio while it is bound to the folio's node. */
static void place(char *p, size_t npages, size_t each, const int *at)
{
	for (int k = 0; k < nr_mem; k++) {
		bind_to(mem[k]);
		for (size_t i = 0; i < npages; i += each)
			if (at[i] == mem[k])
				((volatile char *)p)[i * PAGE] = 1;
	}
	bind_to(-1);
}

static char *map_of(int prot, int flags, int fd)
{
	char *p = mmap(NULL, N * PAGE, prot, flags, fd, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void make_private(struct memory *m)
{
	m->p = lazy_map(N, MADV_NOHUGEPAGE);
	place(m->p, N, 1, m->at);
}

static void make_memfd(struct memory *m)
{
	int fd = memfd_create("pm", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, N * PAGE))
		die("memfd");
	m->p = map_of(PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	place(m->p, N, 1, m->at);
}

static void make_system_v(struct memory *m)
{
	int id = shmget(IPC_PRIVATE, N * PAGE, 0600 | IPC_CREAT);

	if (id < 0)
		die("shmget");
	m->p = shmat(id, NULL, 0);
	if (shmctl(id, IPC_RMID, NULL) || m->p == (void *)-1)
		die("shmat");
	place(m->p, N, 1, m->at);
}

static void make_tmpfs(struct memory *m)
{
	int fd;

	own_tmpfs("huge=never");
	fd = open("/mnt/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		die("/mnt/file");
	file_fill(fd, N, 1, m->at, N);
	m->p = map_of(PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	touch(m->p, N);
	m->is_filled = true;
}

static void make_disk(struct memory *m)
{
	int fd = scratch_file("workers", m->path, sizeof(m->path));

	file_fill(fd, N, 1, m->at, N);
	if (fsync(fd))
		die("fsync");
	m->p = map_of(PROT_READ, MAP_SHARED, fd);
	if (advise(m->p, N * PAGE, MADV_NOHUGEPAGE))
		die("madvise");
	touch(m->p, N);
	m->is_filled = true;
}

static void make_thp(struct memory *m)
{
	m->p = lazy_map(N, MADV_HUGEPAGE);
	place(m->p, N, HPAGE_NR, m->at);
	if (smaps_kb(0, m->p, "AnonHugePages") != N * (long)PAGE / 1024)
		die("these are not huge pages");
}

static void make_hugetlb(struct memory *m)
{
	for (int i = 0; i < 3; i++)
		if (node_pool(mem[i], "16") != 16)
			die("node %d has no pool", mem[i]);
	m->p = map_of(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	place(m->p, N, HPAGE_NR, m->at);
}

static void just_stay(struct child *c, void *arg)
{
	(void)arg;
	child_put(c, 1);
}

/* Pages that a process shares with its child until one of them writes. */
static void make_copy_on_write(struct memory *m)
{
	make_private(m);
	fill(m->p, N, 1);
	m->is_filled = true;
	child_start(&m->sharer, just_stay, NULL);
	child_get(&m->sharer);
	m->pid = m->sharer.pid;
}

FIXTURE(kind)
{
	struct memory *m;
	long isolated;
	char proactiveness[16];
};

FIXTURE_VARIANT(kind)
{
	void (*make)(struct memory *m);
	size_t each;		/* pages of a folio */
};

#define KIND(name, pages) \
	FIXTURE_VARIANT_ADD(kind, name) { .make = make_##name, .each = pages }

KIND(private, 1);
KIND(memfd, 1);
KIND(system_v, 1);
KIND(tmpfs, 1);
KIND(disk, 1);
KIND(thp, HPAGE_NR);
KIND(hugetlb, HPAGE_NR);
KIND(copy_on_write, 1);

FIXTURE_SETUP(kind)
{
	struct memory *m = calloc(1, sizeof(*m));

	if (variant->make == make_thp && !has_thp())
		SKIP(return, NO_THP);
	self->m = m;
	compaction_stop(self->proactiveness, sizeof(self->proactiveness));
	self->isolated = nr_isolated();
	choose_nodes(m->at, N, variant->each, 3);
	variant->make(m);
	if (!m->is_filled)
		fill(m->p, N, 1);
	if (!all_on(m->pid, m->p, N, m->at, N))
		die("pages are not where they were placed");
}

FIXTURE_TEARDOWN(kind)
{
	if (!self->m)
		return;
	file_write(PROACTIVENESS, self->proactiveness);
	child_end(&self->m->sharer);
	if (self->m->path[0])
		unlink(self->m->path);
	if (variant->make == make_hugetlb) {
		munmap(self->m->p, N * PAGE);
		for (int i = 0; i < 3; i++)
			node_pool(mem[i], "0");
	}
}

/* Moves the memory in one call, and holds all that the call says against what has happened. */
static void moves_all(struct __test_metadata *_metadata, const struct memory *m, struct call *c)
{
	const struct page_migrate_result *res = &c->req.result;
	int *from = new_nodes(N), *to = new_nodes(N);
	uint64_t selected = 0, by_pair[4] = { };
	int fd = pm_open();
	long before, ret;

	nodes_of(m->pid, m->p, N, from);
	for (size_t i = 0; i < N; i++) {
		int pair = pair_of(c, from[i]);

		if (pair >= 0) {
			by_pair[pair]++;
			selected++;
		}
	}
	before = migrated();
	ret = call_over(c, fd, m->pid, m->p, N);
	ASSERT_EQ(0, ret) pm_print(res);
	EXPECT_EQ(selected, res->moved) pm_print(res);
	EXPECT_EQ(N - selected, res->in_place);
	EXPECT_EQ(N, pm_sum(res)) pm_print(res);
	EXPECT_EQ((uintptr_t)m->p + N * PAGE, res->resume_va);
	EXPECT_EQ(selected, fdinfo(getpid(), fd, "moved:"));
	for (int i = 0; i < c->count; i++)
		EXPECT_EQ(by_pair[i], c->by_pair[i]);
	/* Looked at from outside. */
	EXPECT_EQ((long)selected, migrated() - before);
	nodes_of(m->pid, m->p, N, to);
	EXPECT_TRUE(all_mapped(from, to, N, c->count, c->old, c->new));
	if (m->pid)
		EXPECT_TRUE(all_on(0, m->p, N, to, N));
	EXPECT_EQ(0, bad_pages(m->p, N, 1));
	free(from);
	free(to);
	close(fd);
}

/* Each number of workers does the same with the same lists, and counts the same. */
static void all_numbers_agree(struct __test_metadata *_metadata, const struct memory *m,
			      int count, const int *old, const int *new)
{
	struct page_migrate_result first;

	for (size_t i = 0; i < ARRAY_LEN(all_numbers); i++) {
		struct call c;

		call_init(&c, all_numbers[i], count, old, new);
		moves_all(_metadata, m, &c);
		if (!i)
			first = c.req.result;
		EXPECT_EQ(0, memcmp(&first, &c.req.result, sizeof(first))) {
			TH_LOG("with %u workers", c.req.workers);
			pm_print(&first);
			pm_print(&c.req.result);
		}
	}
}

TEST_F(kind, moves)
{
	/* What is on the third node stays. */
	all_numbers_agree(_metadata, self->m, 2, SWAP_OLD, SWAP_NEW);
	/* A circle. Which pages are on which node changes each time, and how many does not. */
	all_numbers_agree(_metadata, self->m, 3, mem, NODE_LIST(mem[1], mem[2], mem[0]));
	EXPECT_EQ(self->isolated, nr_isolated());
	if (self->m->path[0]) {
		munmap(self->m->p, N * PAGE);
		EXPECT_EQ(0, bad_on_disk(self->m->path, N, 1));
	}
}

/*
 * What follows is for each number of workers by itself.
 */
FIXTURE(workers)
{
	long isolated;
	char proactiveness[16];
};

FIXTURE_VARIANT(workers)
{
	unsigned int number;
};

FIXTURE_VARIANT_ADD(workers, one)
{
	.number = 1,
};

FIXTURE_VARIANT_ADD(workers, two)
{
	.number = 2,
};

FIXTURE_VARIANT_ADD(workers, most)
{
	.number = MOST,
};

FIXTURE_VARIANT_ADD(workers, chosen)
{
	.number = 0,
};

FIXTURE_SETUP(workers)
{
	compaction_stop(self->proactiveness, sizeof(self->proactiveness));
	self->isolated = nr_isolated();
}

FIXTURE_TEARDOWN(workers)
{
	file_write(PROACTIVENESS, self->proactiveness);
}

/*
 * Each page exactly once, though it is mapped three times: by views of a file, each of them
 * in small pieces of its own. Pieces with the same pages are not far from each other, in no
 * order. So the other mappings of a page are met before, while and after it moves.
 */
enum {
	FILE_N = 6000,
	VIEWS = 3,
	ALL_N = VIEWS * FILE_N,
	MAX_PIECE = 16,
	APART = 2000,		/* pages of the file between pieces that follow each other */
	TOUCHERS = 2,
	MARGIN = 64,
};

struct views {
	uint32_t seed;
	char *base;
	/* Where in the range each view has each page of the file. */
	int place[VIEWS][FILE_N];
	atomic_bool stop;
	atomic_ulong damage, rounds[TOUCHERS];
};

struct toucher {
	struct views *v;
	int number;
};

struct piece {
	int view, first, len, key;
};

static char *seen_at(const struct views *v, int view, int page)
{
	return v->base + v->place[view][page] * PAGE;
}

static int by_key(const void *a, const void *b)
{
	return ((const struct piece *)a)->key - ((const struct piece *)b)->key;
}

/* Cuts the views into pieces and shuffles these, but not too far. Returns how many there are. */
static int cut_views(struct views *v, struct piece *piece)
{
	int n = 0;

	for (int view = 0; view < VIEWS; view++) {
		for (int page = 0; page < FILE_N; n++) {
			int len = 1 + next_random(&v->seed) % MAX_PIECE;

			if (len > FILE_N - page)
				len = FILE_N - page;
			piece[n] = (struct piece){
				.view = view,
				.first = page,
				.len = len,
				.key = page + next_random(&v->seed) % APART,
			};
			page += len;
		}
	}
	qsort(piece, n, sizeof(*piece), by_key);
	return n;
}

static void map_views(struct views *v, int fd)
{
	struct piece *piece = malloc(ALL_N * sizeof(*piece));
	int n, at = 0;

	if (!piece)
		die("malloc");
	v->base = reserve(ALL_N);
	n = cut_views(v, piece);
	for (int i = 0; i < n; i++) {
		map_fixed(v->base + at * PAGE, piece[i].len, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			  piece[i].first * PAGE);
		for (int k = 0; k < piece[i].len; k++)
			v->place[piece[i].view][piece[i].first + k] = at++;
	}
	free(piece);
}

/* Writes to each page through one view, and reads through another what it wrote before. */
static void *touch_all(void *arg)
{
	const struct toucher *t = arg;
	struct views *v = t->v;

	for (uint64_t round = 1; !v->stop; round++) {
		for (int page = 0; page < FILE_N; page++) {
			volatile uint64_t *written, *read;

			written = (uint64_t *)seen_at(v, (round + page) % VIEWS, page) + t->number;
			read = (uint64_t *)seen_at(v, (round + page + 1) % VIEWS, page) + t->number;
			v->damage += *read != round - 1;
			*written = round;
		}
		v->rounds[t->number]++;
		/* Others need a CPU, too. */
		usleep(2000);
	}
	return NULL;
}

/* Each page begins with the words of the threads; the rest stays as it is. */
static void views_fill(const struct views *v)
{
	for (int page = 0; page < FILE_N; page++) {
		fill(seen_at(v, 0, page), 1, page);
		memset(seen_at(v, 0, page), 0, MARGIN);
	}
}

static uint64_t views_bad(const struct views *v)
{
	char want[PAGE];
	uint64_t bad = 0;

	for (int page = 0; page < FILE_N; page++) {
		fill(want, 1, page);
		for (int view = 0; view < VIEWS; view++)
			bad += !!memcmp(want + MARGIN, seen_at(v, view, page) + MARGIN,
					PAGE - MARGIN);
	}
	return bad;
}

static void views_child(struct child *c, void *arg)
{
	struct views *v = arg;
	struct toucher toucher[TOUCHERS];
	pthread_t thread[TOUCHERS];
	int fd = memfd_create("pm", MFD_CLOEXEC), *at = new_nodes(FILE_N);

	if (fd < 0 || ftruncate(fd, FILE_N * PAGE))
		die("memfd");
	map_views(v, fd);
	choose_nodes(at, FILE_N, 1, 2);
	for (int k = 0; k < 2; k++) {
		bind_to(mem[k]);
		for (int page = 0; page < FILE_N; page++)
			if (at[page] == mem[k])
				*seen_at(v, 0, page) = 1;
	}
	bind_to(-1);
	views_fill(v);
	/* For writing, so that nothing is left to be mapped by a fault. */
	for (int i = 0; i < ALL_N; i++)
		__atomic_fetch_or(v->base + i * PAGE, 0, __ATOMIC_RELAXED);
	for (int i = 0; i < TOUCHERS; i++) {
		toucher[i] = (struct toucher){ v, i };
		if (pthread_create(&thread[i], NULL, touch_all, &toucher[i]))
			die("pthread_create");
	}
	child_put(c, 1);
	child_get(c);
	v->stop = true;
	for (int i = 0; i < TOUCHERS; i++)
		pthread_join(thread[i], NULL);
	child_put(c, views_bad(v));
}

static unsigned long rounds_of(const struct views *v)
{
	unsigned long sum = 0;

	for (int i = 0; i < TOUCHERS; i++)
		sum += v->rounds[i];
	return sum;
}

/* A swap in one call, after which a second one finds nothing left to do. */
static void swap_views(struct __test_metadata *_metadata, struct views *v, struct call *c,
		       int fd, pid_t pid)
{
	const struct page_migrate_result *res = &c->req.result;
	static int from[ALL_N], to[ALL_N];
	long before = migrated(), ret;

	nodes_of(pid, v->base, ALL_N, from);
	c->req.flags = PAGE_MIGRATE_NEW_JOB;
	ret = call_over(c, fd, pid, v->base, ALL_N);
	ASSERT_EQ(0, ret) pm_print(res);
	EXPECT_EQ(FILE_N, res->moved) pm_print(res);
	EXPECT_EQ(ALL_N - FILE_N, res->already_moved) pm_print(res);
	EXPECT_EQ(ALL_N, pm_sum(res)) pm_print(res);
	EXPECT_EQ(FILE_N, c->by_pair[0] + c->by_pair[1]);
	EXPECT_EQ(FILE_N, migrated() - before);

	c->req.flags = 0;
	ret = call_over(c, fd, pid, v->base, ALL_N);
	ASSERT_EQ(0, ret) pm_print(res);
	EXPECT_EQ(0, res->moved) pm_print(res);
	EXPECT_EQ(ALL_N, res->already_moved) pm_print(res);
	EXPECT_EQ(FILE_N, migrated() - before);

	nodes_of(pid, v->base, ALL_N, to);
	EXPECT_TRUE(all_mapped(from, to, ALL_N, 2, c->old, c->new));
}

TEST_F_TIMEOUT(workers, exactly_once, 1000000)
{
	const char *seconds = getenv("PM_SECONDS"), *seed = getenv("PM_SEED");
	double limit = seconds ? atof(seconds) : 5, begin;
	struct views *v = mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = pm_open(), calls = 0;
	unsigned long rounds;
	struct child child;
	struct call c;

	ASSERT_NE(MAP_FAILED, v);
	v->seed = (seed ? (uint32_t)atol(seed) : (uint32_t)time(NULL)) ?: 1;
	TH_LOG("PM_SEED=%u PM_SECONDS=%.0f", v->seed, limit);
	child_start(&child, views_child, v);
	child_get(&child);
	call_init(&c, variant->number, 2, SWAP_OLD, SWAP_NEW);
	rounds = rounds_of(v);
	begin = now();
	/* The threads must have met some of the calls. */
	while (calls < 4 || now() - begin < limit || (rounds_of(v) < rounds + 4 && calls < 1000)) {
		swap_views(_metadata, v, &c, fd, child.pid);
		ASSERT_EQ(0, v->damage);
		calls++;
	}
	TH_LOG("%d calls, %lu rounds of the target's threads", calls, rounds_of(v) - rounds);
	EXPECT_LE(rounds + 4, rounds_of(v));
	child_put(&child, 1);
	EXPECT_EQ(0, child_get(&child));
	EXPECT_EQ(0, v->damage);
	child_end(&child);
	EXPECT_EQ(self->isolated, nr_isolated());
	close(fd);
}

/*
 * How much is isolated at a time. Probes on the kernel's own functions count it, since the
 * counters of /proc/vmstat are late and sum up everybody.
 */
static const struct recording recording = {
	.group = "pm_workers",
	.probes = (const char *const[]){
		PROBE_ISOLATED("pm_workers"),
		PROBE_PUT_BACK("pm_workers"),
		NULL,
	},
};

/* What the call and its workers did together, in base pages. */
struct seen {
	long held;		/* isolated now */
	long most;		/* isolated at a time */
	long isolated;		/* in all */
	long moved;
	int by_workers;		/* batches that were not moved by the caller itself */
};

static void look_at(void *data, const struct event *event)
{
	bool by_kernel = !strncmp(event->task, "kworker/", strlen("kworker/"));
	struct seen *s = data;

	/* Others, such as kcompactd, isolate pages, too. */
	if (event->pid != getpid() && !by_kernel)
		return;
	if (event_is(event, "isolated")) {
		if (!event_number(event, "ok"))
			return;
		s->held += event_pages(event);
		s->isolated += event_pages(event);
		if (s->held > s->most)
			s->most = s->held;
	} else if (event_is(event, "put_back")) {
		s->held -= event_pages(event);
	} else if (event_is(event, "mm_migrate_pages")) {
		long n = event_number(event, "nr_succeeded");

		if (!strstr(event->what, "reason=syscall"))
			return;
		s->held -= n;
		s->moved += n;
		s->by_workers += by_kernel;
	}
}

/* One call over memory whose folios have so many pages. */
static struct seen call_seen(struct __test_metadata *_metadata, struct call *c, char *p,
			     size_t npages)
{
	int fd = pm_open();
	struct seen s = { };
	long ret;

	recording_clear(&recording);
	ret = call_over(c, fd, 0, p, npages);
	recording_read(&recording, look_at, &s);
	EXPECT_EQ(0, ret) pm_print(&c->req.result);
	TH_LOG("%u workers: isolated %ld pages, %ld at a time, moved %ld, %d batches by workers",
	       c->req.workers, s.isolated, s.most, s.moved, s.by_workers);
	EXPECT_EQ(npages, c->req.result.moved) pm_print(&c->req.result);
	EXPECT_EQ((long)npages, s.moved);
	EXPECT_EQ((long)npages, s.isolated);
	EXPECT_EQ(0, s.held);
	close(fd);
	return s;
}

TEST_F(workers, isolate_a_batch_each)
{
	enum { SMALL = 24000, LARGE = 12 * HPAGE_NR };
	long most = at_most(variant->number);
	int *at = new_nodes(SMALL);
	char *p = lazy_map(SMALL, MADV_NOHUGEPAGE), *huge;
	struct call c;
	struct seen s;

	choose_nodes(at, SMALL, 1, 2);
	place(p, SMALL, 1, at);
	huge = map_thp(LARGE / HPAGE_NR, mem[0]);
	recording_start(&recording, "16384");
	recording_of(&recording, "migrate/mm_migrate_pages");
	recording_of(&recording, recording.group);
	call_init(&c, variant->number, 2, SWAP_OLD, SWAP_NEW);
	s = call_seen(_metadata, &c, p, SMALL);
	EXPECT_GE(most * BATCH, s.most);
	/* There are as many workers as were asked for: one alone is the call itself. */
	if (variant->number == 1) {
		EXPECT_EQ(0, s.by_workers);
	} else if (variant->number) {
		EXPECT_LT(BATCH, s.most);
		EXPECT_LT(0, s.by_workers);
	}
	s = call_seen(_metadata, &c, huge, LARGE);
	EXPECT_GE(most * BATCH, s.most);
	/* A call with a limit does all by itself, one batch after the other. */
	c.req.max_pages = SMALL;
	s = call_seen(_metadata, &c, p, SMALL);
	EXPECT_GE(BATCH, s.most);
	EXPECT_EQ(0, s.by_workers);
	recording_stop(&recording);
	EXPECT_EQ(self->isolated, nr_isolated());
}

/*
 * Calls that end early. Their target is another process with many pages on two nodes.
 */
struct large {
	struct child c;
	char *p;
	size_t npages;
	int nr_nodes;
	struct cg *cg;		/* that of the target, if it has one of its own */
};

static uint64_t *tag_of(const struct large *l, size_t page)
{
	return (uint64_t *)(l->p + page * PAGE) + page % (PAGE / 8);
}

static void large_child(struct child *c, void *arg)
{
	struct large *l = arg;
	int *at = new_nodes(l->npages);

	if (l->cg)
		cg_enter(l->cg, getpid());
	choose_nodes(at, l->npages, 1, l->nr_nodes);
	place(l->p, l->npages, 1, at);
	for (size_t i = 0; i < l->npages; i++)
		*tag_of(l, i) = i + 1;
	for (;;) {
		uint64_t bad = 0;

		for (size_t i = 0; i < l->npages; i++)
			bad += *tag_of(l, i) != i + 1;
		child_put(c, bad);
		child_get(c);
	}
}

static void large_start(struct large *l)
{
	/* Mapped before the child comes, so that both know where. */
	if (!l->p)
		l->p = lazy_map(l->npages, MADV_NOHUGEPAGE);
	child_start(&l->c, large_child, l);
	if (child_get(&l->c))
		die("the target has damage before it is moved");
}

/* Pages of the target that do not hold what it wrote. */
static uint64_t large_bad(struct large *l)
{
	child_put(&l->c, 1);
	return child_get(&l->c);
}

/* A thread that does something as soon as a call on an open file has moved enough. */
struct watch {
	pid_t pid;
	int fd;
	uint64_t moved;
	void (*strike)(struct watch *w);
	union {
		pthread_t caller;
		pid_t victim;
		struct cg *cg;
	};
};

static void *watching(void *arg)
{
	struct watch *w = arg;
	double begin = now();

	while (fdinfo(w->pid, w->fd, "moved:") < w->moved && now() - begin < 20 * patience())
		;
	w->strike(w);
	return NULL;
}

static void signal_caller(struct watch *w)
{
	pthread_kill(w->caller, SIGUSR1);
}

static void kill_victim(struct watch *w)
{
	kill(w->victim, SIGKILL);
}

static void on_signal(int sig)
{
	(void)sig;
}

/* What a call has done to pages, by their nodes before and after it. */
struct change {
	size_t moved, stayed, lost;
};

static struct change change_of(const struct call *c, const int *from, const int *to, size_t npages)
{
	struct change change = { };

	for (size_t i = 0; i < npages; i++) {
		int pair = pair_of(c, from[i]);

		if (pair >= 0 && to[i] == c->new[pair])
			change.moved++;
		else if (to[i] == from[i])
			change.stayed++;
		else
			change.lost++;
	}
	return change;
}

/* Returns whether the signal came in the middle of the call. */
static bool interrupted_once(struct __test_metadata *_metadata, struct large *l, struct call *c,
			     long isolated)
{
	const struct page_migrate_result *res = &c->req.result;
	struct watch w = {
		.pid = getpid(),
		.fd = pm_open(),
		.moved = UNDER_WAY,
		.strike = signal_caller,
		.caller = pthread_self(),
	};
	int *from = new_nodes(l->npages), *to = new_nodes(l->npages);
	uint64_t first_moved, done;
	struct change change;
	pthread_t thread;
	long ret;

	nodes_of(l->c.pid, l->p, l->npages, from);
	ASSERT_EQ(0, pthread_create(&thread, NULL, watching, &w));
	ret = call_over(c, w.fd, l->c.pid, l->p, l->npages);
	pthread_join(thread, NULL);
	if (ret == 0) {
		close(w.fd);
		return false;
	}
	ASSERT_EQ(-EINTR, ret) pm_print(res);
	EXPECT_EQ(isolated, nr_isolated());
	nodes_of(l->c.pid, l->p, l->npages, to);
	change = change_of(c, from, to, l->npages);
	first_moved = res->moved;
	done = (res->resume_va - (uintptr_t)l->p) / PAGE;
	TH_LOG("%u workers: a signal after %llu of %zu pages", c->req.workers,
	       (long long)first_moved, l->npages);
	EXPECT_LT(0, first_moved);
	EXPECT_EQ(first_moved, change.moved) pm_print(res);
	EXPECT_EQ(0, change.lost);
	EXPECT_EQ(first_moved, c->by_pair[0] + c->by_pair[1]);
	EXPECT_EQ(first_moved, fdinfo(getpid(), w.fd, "moved:"));
	/* Each page before the place where it stopped has been counted, and none behind it. */
	ASSERT_LT(done, l->npages);
	EXPECT_EQ(done, pm_sum(res)) pm_print(res);
	EXPECT_EQ(done, first_moved + pm_left(res)) pm_print(res);
	change = change_of(c, from + done, to + done, l->npages - done);
	EXPECT_EQ(0, change.moved);

	/* The same call goes on from there, and one over all of it finds the rest. */
	ret = call_over(c, w.fd, l->c.pid, l->p + done * PAGE, l->npages - done);
	EXPECT_EQ(0, ret) pm_print(res);
	EXPECT_EQ(l->npages - done, res->moved) pm_print(res);
	ret = call_over(c, w.fd, l->c.pid, l->p, l->npages);
	EXPECT_EQ(0, ret) pm_print(res);
	EXPECT_EQ(done - first_moved, res->moved);
	EXPECT_EQ(l->npages, pm_sum(res));
	nodes_of(l->c.pid, l->p, l->npages, to);
	EXPECT_TRUE(all_mapped(from, to, l->npages, c->count, c->old, c->new));
	EXPECT_EQ(0, large_bad(l));
	close(w.fd);
	free(from);
	free(to);
	return true;
}

TEST_F(workers, signal_in_the_middle)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct large l = { .npages = 30000, .nr_nodes = 2 };
	struct call c;
	int hits = 0;

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	large_start(&l);
	call_init(&c, variant->number, 2, SWAP_OLD, SWAP_NEW);
	for (int i = 0; i < TRIES && !hits; i++)
		hits += interrupted_once(_metadata, &l, &c, self->isolated);
	EXPECT_LT(0, hits) TH_LOG("no signal came in the middle of a call");
	child_end(&l.c);
}

/* Calls on an open file of its own, which it names before. */
struct caller {
	struct large *l;
	struct call *c;
};

static void caller_child(struct child *c, void *arg)
{
	struct caller *a = arg;
	int fd = pm_open();

	child_put(c, fd);
	call_over(a->c, fd, a->l->c.pid, a->l->p, a->l->npages);
}

static long references(void)
{
	char text[32];

	if (file_read("/sys/module/page_migrate/refcnt", text, sizeof(text)))
		die("the references of the module");
	return atol(text);
}

TEST_F(workers, caller_is_killed_in_the_middle)
{
	struct large l = { .npages = 30000, .nr_nodes = 2 };
	int *from = new_nodes(l.npages), *to = new_nodes(l.npages), reading = readers(), fd;
	long refs = references(), ret;
	struct call c;
	bool hit = false;

	large_start(&l);
	call_init(&c, variant->number, 2, SWAP_OLD, SWAP_NEW);
	for (int i = 0; i < TRIES && !hit; i++) {
		struct caller a = { &l, &c };
		struct watch w = { .moved = UNDER_WAY, .strike = kill_victim };
		struct change change;
		struct child caller;
		double begin;

		nodes_of(l.c.pid, l.p, l.npages, from);
		child_start(&caller, caller_child, &a);
		w.fd = child_get(&caller);
		w.pid = w.victim = caller.pid;
		watching(&w);
		begin = now();
		child_end(&caller);
		EXPECT_GT(5.0 * patience(), now() - begin);
		EXPECT_EQ(self->isolated, nr_isolated());
		nodes_of(l.c.pid, l.p, l.npages, to);
		change = change_of(&c, from, to, l.npages);
		EXPECT_EQ(0, change.lost);
		EXPECT_LT(0, change.moved);
		hit = change.stayed > 0;
		TH_LOG("%u workers: killed after %zu of %zu pages", c.req.workers, change.moved,
		       l.npages);
	}
	EXPECT_TRUE(hit) TH_LOG("no caller was killed in the middle of a call");
	EXPECT_TRUE(readers_become(reading, 5000));
	for (int i = 0; i < 100 && references() != refs; i++)
		usleep(20000);
	EXPECT_EQ(refs, references());
	EXPECT_EQ(0, large_bad(&l));
	/* And others can move it as before. */
	nodes_of(l.c.pid, l.p, l.npages, from);
	fd = pm_open();
	ret = call_over(&c, fd, l.c.pid, l.p, l.npages);
	EXPECT_EQ(0, ret) pm_print(&c.req.result);
	nodes_of(l.c.pid, l.p, l.npages, to);
	EXPECT_TRUE(all_mapped(from, to, l.npages, 2, c.old, c.new));
	EXPECT_EQ(0, large_bad(&l));
	close(fd);
	child_end(&l.c);
}

TEST_F(workers, target_dies_in_the_middle)
{
	struct large l = { .npages = 30000, .nr_nodes = 2 };
	struct call c;
	int hits = 0;

	call_init(&c, variant->number, 2, SWAP_OLD, SWAP_NEW);
	for (int i = 0; i < TRIES && !hits; i++) {
		struct watch w = {
			.pid = getpid(),
			.fd = pm_open(),
			.moved = UNDER_WAY,
			.strike = kill_victim,
		};
		pthread_t thread;
		double begin;
		long ret;

		large_start(&l);
		w.victim = l.c.pid;
		ASSERT_EQ(0, pthread_create(&thread, NULL, watching, &w));
		begin = now();
		ret = call_over(&c, w.fd, l.c.pid, l.p, l.npages);
		EXPECT_GT(30.0 * patience(), now() - begin);
		pthread_join(thread, NULL);
		/* Whoever has moved some pages tells of them. */
		EXPECT_LE(0, ret);
		if (ret >= 0) {
			EXPECT_EQ((uint64_t)ret, pm_left(&c.req.result));
			EXPECT_LE(pm_sum(&c.req.result), l.npages);
			hits += c.req.result.moved > 0 && c.req.result.moved < l.npages;
			TH_LOG("%u workers: died after %llu of %zu pages", c.req.workers,
			       (long long)c.req.result.moved, l.npages);
		}
		child_end(&l.c);
		close(w.fd);
		EXPECT_EQ(self->isolated, nr_isolated());
	}
	EXPECT_LT(0, hits) TH_LOG("no target died in the middle of a call");
}

/*
 * One of two new nodes gets full in the middle. Those pages that find no room go to the
 * other new node, or stay.
 */
static void fills_up(struct __test_metadata *_metadata, struct large *l, unsigned int workers,
		     bool strict)
{
	const int from = mem[0], full = mem[1], other = mem[3];
	const struct page_migrate_result *res;
	size_t on_full, on_other, on_old;
	struct call c, back;
	long ret;
	int fd = pm_open();

	call_init(&c, workers, 2, NODE_LIST(from, mem[2]), NODE_LIST(full, other));
	c.req.flags = strict ? PAGE_MIGRATE_STRICT : 0;
	res = &c.req.result;
	ret = call_over(&c, fd, l->c.pid, l->p, l->npages);
	on_full = count_on(l->c.pid, l->p, l->npages, full);
	on_other = count_on(l->c.pid, l->p, l->npages, other);
	on_old = count_on(l->c.pid, l->p, l->npages, from);
	TH_LOG("%u workers%s: %zu pages of %zu found room", c.req.workers, strict ? ", strict" : "",
	       on_full, l->npages);
	EXPECT_EQ(strict ? -ENOMEM : 0, ret) pm_print(res);
	EXPECT_EQ(l->npages, pm_sum(res)) pm_print(res);
	EXPECT_EQ(on_full, res->moved) pm_print(res);
	EXPECT_EQ(on_other, res->moved_fallback) pm_print(res);
	EXPECT_EQ(on_old, res->no_memory + pm_left(res)) pm_print(res);
	EXPECT_EQ(l->npages, on_full + on_other + on_old);
	EXPECT_EQ(on_full + on_other, c.by_pair[0]);
	/* It was full in the middle. */
	EXPECT_LT(UNDER_WAY, on_full);
	EXPECT_LT(on_full, l->npages);
	EXPECT_EQ(0, strict ? on_other : on_old);

	/* Where a node is full, kswapd looks at its pages, which are busy then. */
	call_init(&back, workers, 2, NODE_LIST(full, other), NODE_LIST(from, from));
	ret = call_over(&back, fd, l->c.pid, l->p, l->npages);
	for (int i = 0; i < 20 && ret > 0; i++) {
		usleep(50000);
		ret = call_over(&back, fd, l->c.pid, l->p, l->npages);
	}
	EXPECT_EQ(0, ret) pm_print(&back.req.result);
	EXPECT_TRUE(all_on(l->c.pid, l->p, l->npages, &from, 1));
	EXPECT_EQ(0, large_bad(l));
	close(fd);
}

TEST(a_new_node_fills_up)
{
	struct large l = { .npages = 12000, .nr_nodes = 1 };
	long isolated = nr_isolated();
	struct child hog;

	large_start(&l);
	hog_start(&hog, mem[1]);
	/* What the hog gives back is first on the lists of its CPU. That is room, too. */
	hog_release(&hog, 5000);
	for (size_t i = 0; i < ARRAY_LEN(all_numbers); i++) {
		fills_up(_metadata, &l, all_numbers[i], false);
		fills_up(_metadata, &l, all_numbers[i], true);
	}
	child_end(&hog);
	child_end(&l.c);
	EXPECT_EQ(isolated, nr_isolated());
}

/*
 * Cpusets: that of the caller does not matter, and that of the target may change.
 */
static void confined_child(struct child *c, void *arg)
{
	struct caller *a = arg;
	int fd;

	child_get(c);
	fd = pm_open();
	bind_to(mem[0]);
	child_put(c, call_over(a->c, fd, a->l->c.pid, a->l->p, a->l->npages));
	child_put(c, a->c->req.result.moved);
}

TEST_F(workers, caller_may_not_use_the_new_nodes)
{
	struct large l = { .npages = 8000, .nr_nodes = 2 };
	int *from = new_nodes(l.npages), *to = new_nodes(l.npages);
	struct child confined;
	struct caller a;
	struct call c;
	struct cg cg;
	char mems[16];

	large_start(&l);
	nodes_of(l.c.pid, l.p, l.npages, from);
	call_init(&c, variant->number, 2, SWAP_OLD, NODE_LIST(mem[2], mem[3]));
	a = (struct caller){ &l, &c };
	snprintf(mems, sizeof(mems), "%d", mem[0]);
	cg_make(&cg, "workers", mems);
	child_start(&confined, confined_child, &a);
	cg_enter(&cg, confined.pid);
	child_put(&confined, 1);
	EXPECT_EQ(0, (long)child_get(&confined));
	EXPECT_EQ(l.npages, child_get(&confined));
	nodes_of(l.c.pid, l.p, l.npages, to);
	EXPECT_TRUE(all_mapped(from, to, l.npages, 2, c.old, c.new));
	EXPECT_EQ(0, large_bad(&l));
	child_end(&confined);
	child_end(&l.c);
	cg_remove(&cg);
	EXPECT_EQ(self->isolated, nr_isolated());
}

/* The last of four nodes is taken away. */
static void narrow(struct watch *w)
{
	char mems[64];

	snprintf(mems, sizeof(mems), "%d,%d,%d", mem[0], mem[1], mem[2]);
	if (cg_set(w->cg, "cpuset.mems", mems))
		die("cpuset.mems %s", mems);
}

TEST_F(workers, cpuset_of_the_target_is_narrowed)
{
	struct large l = { .npages = 40000, .nr_nodes = 2 };
	size_t in_flight = at_most(variant->number) * BATCH;
	const struct page_migrate_result *res;
	struct call c;
	int hits = 0;

	call_init(&c, variant->number, 2, SWAP_OLD, NODE_LIST(mem[2], mem[3]));
	res = &c.req.result;
	for (int i = 0; i < TRIES && !hits; i++) {
		struct watch w = {
			.pid = getpid(),
			.fd = pm_open(),
			.moved = UNDER_WAY,
			.strike = narrow,
		};
		size_t on_lost, on_other, on_old;
		pthread_t thread;
		struct cg cg;
		char mems[64];
		long ret;

		snprintf(mems, sizeof(mems), "%d,%d,%d,%d", mem[0], mem[1], mem[2], mem[3]);
		cg_make(&cg, "workers", mems);
		l.cg = w.cg = &cg;
		large_start(&l);
		ASSERT_EQ(0, pthread_create(&thread, NULL, watching, &w));
		ret = call_over(&c, w.fd, l.c.pid, l.p, l.npages);
		pthread_join(thread, NULL);
		on_lost = count_on(l.c.pid, l.p, l.npages, mem[3]);
		on_other = count_on(l.c.pid, l.p, l.npages, mem[2]);
		on_old = count_on(l.c.pid, l.p, l.npages, mem[0]) +
			 count_on(l.c.pid, l.p, l.npages, mem[1]);
		TH_LOG("%u workers: %llu pages moved, %llu fell back, %zu are on the lost node",
		       c.req.workers, (long long)res->moved, (long long)res->moved_fallback,
		       on_lost);
		EXPECT_LE(0, ret) pm_print(res);
		EXPECT_EQ(l.npages, pm_sum(res)) pm_print(res);
		EXPECT_EQ(l.npages, on_lost + on_other + on_old);
		/* The kernel has emptied the node; what was on its way then may have come later. */
		EXPECT_GE(in_flight, on_lost);
		hits += res->moved_fallback > 0;
		EXPECT_EQ(0, large_bad(&l));
		child_end(&l.c);
		cg_remove(&cg);
		close(w.fd);
	}
	EXPECT_LT(0, hits) TH_LOG("the cpuset was never narrowed in the middle of a call");
	EXPECT_EQ(self->isolated, nr_isolated());
}

TEST_HARNESS_MAIN
