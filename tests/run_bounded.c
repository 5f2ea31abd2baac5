// SPDX-License-Identifier: GPL-2.0
/*
 * The work of a call is bounded: what it isolates and copies at a time, and what
 * it waits for while it holds isolated folios.
 *
 * What a call isolates and gives back is counted by probes on the kernel's own
 * functions, since the counters of /proc/vmstat are late and sum up everybody.
 */
#include "harness.h"
#include "mem_util.h"
#include "trace_util.h"

#include <pthread.h>
#include <stdatomic.h>

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"
#define PROACTIVENESS "/proc/sys/vm/compaction_proactiveness"

/*
 * The most base pages that each of a call's workers has isolated at a time, unless it
 * is one folio that is larger.
 */
enum { MOST = 1024, WORKERS = 2 };

static long most_with(long largest)
{
	return largest > MOST ? largest : MOST;
}

static void set_workers(const char *number)
{
	setenv("PAGE_MIGRATE_WORKERS", number, 1);
}

static const struct recording recording = {
	.group = "bounded",
	.probes = (const char *const[]){
		PROBE_ISOLATED("bounded"),
		PROBE_PUT_BACK("bounded"),
		"p:bounded/put_back_hugetlb folio_putback_hugetlb " PROBE_FOLIO,
		"r:bounded/compacted try_to_compact_pages",
		"p:bounded/drain drain_all_pages zone=$arg1:x64 caller=$stack0:symbol",
		NULL,
	},
};

static const char *const events[] = {
	"bounded",
	"migrate/mm_migrate_pages",
	"migrate/mm_migrate_pages_start",
	"compaction/mm_compaction_try_to_compact_pages",
	"workqueue/workqueue_queue_work",
	"workqueue/workqueue_execute_start",
	"workqueue/workqueue_execute_end",
};

/* What one task did, or had done by a thread of the kernel. In base pages. */
struct seen {
	pid_t pid;
	pid_t works_for;	/* of a thread of the kernel, while it does */
	long held;		/* isolated now */
	long most;		/* isolated at a time */
	long isolated;		/* in all */
	long moved;
	long largest;		/* of its folios */
	long hugetlb_back;	/* given back since migrate_pages() began */
	bool compacting;
	int compactions;	/* with nothing isolated */
	int compactions_holding;
};

/* Work that a task with isolated pages has left to a thread of the kernel. */
struct work {
	uint64_t id;
	pid_t by;
};

struct record {
	size_t nr_tasks, nr_works;
	struct seen task[512];
	struct work work[4096];
	/* Asked for by the module, not by the kernel's own reclaim. */
	int drains_of_zones, drains_of_all;
};

static void set(const char *path, const char *text)
{
	int ret = file_write(path, text);

	if (ret) {
		errno = -ret;
		die("%s > %s", text, path);
	}
}

/* Calls that go on and on would fill the buffers with more than their drains. */
enum what { ALL, DRAINS };

static void record_start(enum what what)
{
	recording_start(&recording, "8192");
	for (size_t i = 0; i < ARRAY_LEN(events) && what == ALL; i++)
		recording_of(&recording, events[i]);
	if (what == DRAINS)
		recording_of(&recording, "bounded/drain");
}

static struct seen *seen_of(struct record *r, pid_t pid)
{
	for (size_t i = 0; i < r->nr_tasks; i++)
		if (r->task[i].pid == pid)
			return &r->task[i];
	if (r->nr_tasks == ARRAY_LEN(r->task))
		die("too many tasks");
	r->task[r->nr_tasks] = (struct seen){ .pid = pid };
	return &r->task[r->nr_tasks++];
}

static void work_queued(struct record *r, uint64_t id, pid_t by)
{
	if (r->nr_works == ARRAY_LEN(r->work))
		die("too much work");
	r->work[r->nr_works++] = (struct work){ id, by };
}

/* Who queued it last; 0: nobody whom the record is about. */
static pid_t work_of(const struct record *r, uint64_t id)
{
	for (size_t i = r->nr_works; i--;)
		if (r->work[i].id == id)
			return r->work[i].by;
	return 0;
}

static void look_at(void *data, const struct event *event)
{
	struct record *r = data;
	struct seen *s = seen_of(r, event->pid);

	if (event_is(event, "workqueue_execute_start")) {
		const char *work = strstr(event->what, "struct ");

		s->works_for = work_of(r, strtoull(work + strlen("struct "), NULL, 16));
		return;
	}
	if (event_is(event, "workqueue_execute_end")) {
		s->works_for = 0;
		return;
	}
	if (s->works_for)
		s = seen_of(r, s->works_for);
	if (event_is(event, "workqueue_queue_work")) {
		const char *work = strstr(event->what, "struct=");

		if (s->isolated)
			work_queued(r, strtoull(work + strlen("struct="), NULL, 16), s->pid);
		return;
	}
	if (event_is(event, "mm_compaction_try_to_compact_pages")) {
		s->compacting = true;
		if (s->held) {
			s->compactions_holding++;
			fprintf(stderr, "# holding %ld pages: %s", s->held, event->line);
		} else {
			s->compactions++;
		}
	} else if (event_is(event, "compacted")) {
		s->compacting = false;
	} else if (event_is(event, "drain")) {
		if (!strstr(event->what, "[page_migrate]"))
			return;
		if (event_number(event, "zone"))
			r->drains_of_zones++;
		else
			r->drains_of_all++;
	} else if (s->compacting) {
		/* Compaction moves pages of its own. */
	} else if (event_is(event, "isolated")) {
		long n = event_pages(event);

		if (!event_number(event, "ok"))
			return;
		s->held += n;
		s->isolated += n;
		if (s->held > s->most)
			s->most = s->held;
		if (n > s->largest)
			s->largest = n;
	} else if (event_is(event, "put_back")) {
		s->held -= event_pages(event);
	} else if (event_is(event, "put_back_hugetlb")) {
		s->held -= event_pages(event);
		s->hugetlb_back += event_pages(event);
	} else if (event_is(event, "mm_migrate_pages_start")) {
		s->hugetlb_back = 0;
	} else if (event_is(event, "mm_migrate_pages")) {
		long n = event_number(event, "nr_succeeded");

		s->moved += n;
		/* Of the pages that moved, hugetlb alone gives the old ones back. */
		s->held -= n - s->hugetlb_back;
	}
}

static const struct record *record_read(void)
{
	static struct record r;

	memset(&r, 0, sizeof(r));
	recording_read(&recording, look_at, &r);
	return &r;
}

/* What the tasks did that isolated anything: together, but for the most and the largest. */
static struct seen seen_of_all(void)
{
	const struct record *r = record_read();
	struct seen all = { };

	for (size_t i = 0; i < r->nr_tasks; i++) {
		const struct seen *s = &r->task[i];

		if (!s->isolated)
			continue;
		all.held += s->held;
		all.most = s->most > all.most ? s->most : all.most;
		all.isolated += s->isolated;
		all.moved += s->moved;
		all.largest = s->largest > all.largest ? s->largest : all.largest;
		all.compactions += s->compactions;
		all.compactions_holding += s->compactions_holding;
	}
	return all;
}

static void seen_print(const struct seen *s)
{
	fprintf(stderr, "# isolated %ld, at a time %ld, largest %ld, moved %ld, held %ld; "
		"compactions %d, while holding %d\n", s->isolated, s->most, s->largest, s->moved,
		s->held, s->compactions, s->compactions_holding);
}

/*
 * Batches. Folios of which a range holds all, or as little as a page.
 */
enum { FOLIOS = 12 };

enum kind { TMPFS_PAGES, TMPFS_AROUND, EXT4_PAGES, THP_PMD, THP_PTE, THP_PAGES, HUGETLB };

/* A range with folios, all on one node. */
struct range {
	char *p;
	size_t npages;
	size_t present;		/* pages that are mapped in it */
	size_t all;		/* pages of its folios, where that is known */
	char path[64];		/* of a file that is to be removed */
};

/* Maps the first page of each 2 MiB of a file, far enough apart that no other comes with it. */
static void map_first_pages(struct range *r, int fd)
{
	enum { APART = 16 };

	r->npages = FOLIOS * APART;
	r->p = reserve(r->npages);
	for (int i = 0; i < FOLIOS; i++)
		touch(map_fixed(r->p + i * APART * PAGE, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
				i * HPAGE), 1);
}

static int tmpfs_file(int node)
{
	char *p;
	int fd;

	own_tmpfs("huge=always");
	fd = open("/mnt/folios", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, FOLIOS * HPAGE))
		die("/mnt/folios");
	p = mmap(NULL, FOLIOS * HPAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap of /mnt/folios");
	bind_to(node);
	fill(p, FOLIOS * HPAGE_NR, 1);
	bind_to(-1);
	munmap(p, FOLIOS * HPAGE);
	return fd;
}

static int ext4_file(struct range *r, int node)
{
	int fd = scratch_file("bounded", r->path, sizeof(r->path));
	char *buf = malloc(HPAGE);

	if (!buf)
		die("malloc");
	/* What is written at a time becomes large folios. */
	bind_to(node);
	for (int i = 0; i < FOLIOS; i++) {
		fill(buf, HPAGE_NR, i);
		if (pwrite(fd, buf, HPAGE, i * HPAGE) != (ssize_t)HPAGE)
			die("pwrite");
	}
	bind_to(-1);
	free(buf);
	if (fsync(fd))
		die("fsync");
	return fd;
}

static struct range make_range(enum kind kind, int node, int other)
{
	struct range r = { .npages = FOLIOS * HPAGE_NR, .all = FOLIOS * HPAGE_NR };
	char text[16], *p;
	int fd;

	switch (kind) {
	case TMPFS_PAGES:
		map_first_pages(&r, tmpfs_file(node));
		break;
	case TMPFS_AROUND:
		fd = tmpfs_file(node);
		/* Where it cannot be mapped by huge entries: a fault maps what is around it. */
		r.p = reserve(r.npages + 1) + PAGE;
		map_fixed(r.p, r.npages, PROT_READ, MAP_SHARED, fd, 0);
		for (int i = 0; i < FOLIOS; i++)
			touch(r.p + i * HPAGE, 1);
		break;
	case EXT4_PAGES:
		map_first_pages(&r, ext4_file(&r, node));
		r.all = 0;
		break;
	case THP_PMD:
	case THP_PTE:
		r.p = map_thp(FOLIOS, node);
		fill(r.p, r.npages, 1);
		for (int i = 0; i < FOLIOS && kind == THP_PTE; i++)
			if (mprotect(r.p + i * HPAGE, PAGE, PROT_READ))
				die("mprotect");
		break;
	case THP_PAGES:
		/* A page of each is elsewhere, alone. The others are not in the range. */
		p = map_thp(FOLIOS, node);
		fill(p, r.npages, 1);
		/* So that khugepaged does not fill the holes. */
		if (madvise(p, FOLIOS * HPAGE, MADV_NOHUGEPAGE))
			die("madvise");
		r.npages = FOLIOS * 2;
		r.p = reserve(r.npages);
		for (int i = 0; i < FOLIOS; i++)
			if (mremap(p + i * HPAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
				   r.p + i * 2 * PAGE) == MAP_FAILED)
				die("mremap");
		break;
	case HUGETLB:
		snprintf(text, sizeof(text), "%d", FOLIOS);
		if (node_pool(node, text) != FOLIOS || node_pool(other, text) != FOLIOS)
			die("no pool");
		r.p = mmap(NULL, FOLIOS * HPAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		if (r.p == MAP_FAILED)
			die("mmap of huge pages");
		bind_to(node);
		fill(r.p, r.npages, 1);
		bind_to(-1);
		break;
	}
	r.present = present_pages(0, r.p, r.npages);
	if (count_on(0, r.p, r.npages, node) != r.present)
		die("the folios are not where they were placed");
	return r;
}

FIXTURE(batch)
{
	struct range r;
	int from, to;
};

FIXTURE_VARIANT(batch)
{
	enum kind kind;
	bool needs_thp;
};

FIXTURE_VARIANT_ADD(batch, tmpfs_first_pages)
{
	.kind = TMPFS_PAGES,
	.needs_thp = true,
};

FIXTURE_VARIANT_ADD(batch, tmpfs_fault_around)
{
	.kind = TMPFS_AROUND,
	.needs_thp = true,
};

FIXTURE_VARIANT_ADD(batch, ext4_first_pages)
{
	.kind = EXT4_PAGES,
};

FIXTURE_VARIANT_ADD(batch, thp_by_pmd)
{
	.kind = THP_PMD,
	.needs_thp = true,
};

FIXTURE_VARIANT_ADD(batch, thp_by_pte)
{
	.kind = THP_PTE,
	.needs_thp = true,
};

FIXTURE_VARIANT_ADD(batch, thp_a_page_of_each)
{
	.kind = THP_PAGES,
	.needs_thp = true,
};

FIXTURE_VARIANT_ADD(batch, hugetlb)
{
	.kind = HUGETLB,
};

FIXTURE_SETUP(batch)
{
	nr_node_ids();
	if (variant->needs_thp && !has_thp())
		SKIP(return, NO_THP);
	self->from = mem[0];
	self->to = mem[1];
	self->r = make_range(variant->kind, self->from, self->to);
	record_start(ALL);
}

FIXTURE_TEARDOWN(batch)
{
	if (!self->r.p)
		return;
	recording_stop(&recording);
	if (variant->kind == HUGETLB) {
		munmap(self->r.p, FOLIOS * HPAGE);
		node_pool(self->from, "0");
		node_pool(self->to, "0");
	}
	if (self->r.path[0])
		unlink(self->r.path);
}

/* Without a limit all of it moves, in batches of bounded size. */
TEST_F(batch, isolates_at_most)
{
	const struct range *r = &self->r;
	struct page_migrate_result res;
	int fd = pm_open();
	struct seen s;

	set_workers("1");
	recording_clear(&recording);
	ASSERT_EQ(0, pm_move(fd, 0, r->p, r->npages * PAGE, 0, 1, &self->from, &self->to, &res))
		pm_print(&res);
	s = seen_of_all();
	seen_print(&s);
	EXPECT_EQ(r->present, res.moved);
	EXPECT_EQ(r->present, count_on(0, r->p, r->npages, self->to));
	/* It was about large folios, and each of them was isolated and moved once. */
	EXPECT_LT(64, s.largest);
	if (r->all) {
		EXPECT_EQ((long)r->all, s.isolated);
		EXPECT_EQ((long)r->all, s.moved);
	}
	EXPECT_GE(most_with(s.largest), s.most);
	EXPECT_LT(0, s.most);
	EXPECT_EQ(0, s.held);
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

/*
 * Calls with a limit, until one gets to the end: each copies at least that much
 * and at most a folio more, and together they move each page once.
 */
static void in_calls(struct __test_metadata *_metadata, const struct range *r, int from, int to,
		     unsigned long limit, bool from_resume)
{
	const char *end = r->p + r->npages * PAGE, *at = r->p;
	uint64_t moved = 0, copied = 0, isolated = 0;
	int fd = pm_open(), calls = 0;

	for (; at < end; calls++) {
		const char *begin = from_resume ? at : r->p;
		struct page_migrate_request req = pm_req(0, begin, end - begin, 1, &from, &to);
		struct seen s;

		req.max_pages = limit;
		recording_clear(&recording);
		ASSERT_EQ(0, pm_migrate(fd, &req)) pm_print(&req.result);
		s = seen_of_all();
		if (!from_resume)
			EXPECT_EQ(moved, req.result.already_moved);
		EXPECT_GE((long)limit + s.largest, s.moved) seen_print(&s);
		EXPECT_GE(most_with(s.largest), s.most) seen_print(&s);
		EXPECT_GE((long)limit + s.largest, s.most) seen_print(&s);
		if (req.result.resume_va != (uintptr_t)end) {
			EXPECT_LE((long)limit, s.moved) seen_print(&s);
			ASSERT_LT((uintptr_t)at, req.result.resume_va);
			EXPECT_GT((uintptr_t)end, req.result.resume_va);
		}
		EXPECT_EQ(0, s.held);
		moved += req.result.moved;
		copied += s.moved;
		isolated += s.isolated;
		/* What it says to have moved is where it says, and nothing else. */
		EXPECT_EQ(moved, count_on(0, r->p, r->npages, to));
		at = (const char *)req.result.resume_va;
		ASSERT_GT(4096, calls);
	}
	TH_LOG("%d calls of %lu pages copied %llu", calls, limit, (long long)copied);
	EXPECT_LT(1, calls);
	EXPECT_EQ(r->present, moved);
	EXPECT_EQ(copied, isolated);
	if (r->all)
		EXPECT_EQ(r->all, copied);
	EXPECT_EQ(r->present, count_on(0, r->p, r->npages, to));
	close(fd);
}

TEST_F(batch, copies_at_most)
{
	in_calls(_metadata, &self->r, self->from, self->to, 64, false);
	in_calls(_metadata, &self->r, self->to, self->from, 64, true);
	/*
	 * Where parts of a huge page are mapped by two VMAs, the kernel splits it when it
	 * moves again, and what moves with a page is then no longer the whole.
	 */
	if (variant->kind != THP_PAGES)
		in_calls(_metadata, &self->r, self->from, self->to, 1500, false);
	EXPECT_EQ(0, nr_isolated());
}

/*
 * Compaction. Two nodes have no large block free, and large folios
 * on both, which change places.
 */
enum { JOBS = 2, LARGE = 16 };

struct large {
	struct child child;
	struct fragment *frag;	/* NULL: of the jobs */
	size_t order_pages;
	char *p;
	int fd;
	long ret;
	double seconds;
	struct page_migrate_result res;
	pthread_t thread;
};

static const char *thp_file(size_t pages)
{
	static char path[128];

	snprintf(path, sizeof(path), THP_DIR "hugepages-%zukB/enabled", pages * PAGE / 1024);
	return path;
}

/* As many folios on each of the two nodes, one by one. */
static void hold_large(struct child *c, void *arg)
{
	struct large *l = arg;
	size_t n = 2 * LARGE * HPAGE_NR / l->order_pages, large = 0;
	size_t each = l->order_pages;

	bind_to(mem[nr_mem - 1]);
	for (size_t i = 0; i < n; i++) {
		char *p = l->p + i * each * PAGE;

		bind_to(mem[nr_mem - 1 - i % 2]);
		for (size_t k = 0; k < each; k++)
			p[k * PAGE] = 1;
		large += has_flag(p + PAGE, KPF_COMPOUND_TAIL);
	}
	bind_to(-1);
	fill(l->p, n * each, 3);
	child_put(c, large);
	while (child_get(c))
		child_put(c, bad_pages(l->p, n * each, 3));
}

/* The blocks of a fragmented node that are large enough for such folios. */
struct blocks {
	struct child child;
	int node;
	size_t pages;
};

/*
 * Takes them until there are none, or until the kernel would rather kill somebody.
 * A fault does not compact: it takes a small page, which is given back.
 */
static void take_blocks(struct child *c, void *arg)
{
	enum { MANY = 16384 };
	const struct blocks *b = arg;
	long enough = node_watermark(b->node, "high") + 512;
	char *p = reserve(MANY);
	size_t i = 0;

	file_write("/proc/self/oom_score_adj", "1000");
	map_fixed(p, MANY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		  -1, 0);
	bind_range(p, MANY, b->node);
	for (; i < MANY && node_free(b->node) > enough; i += b->pages) {
		p[i * PAGE] = 1;
		if (!has_flag(p + (i + 1) * PAGE, KPF_COMPOUND_TAIL))
			break;
	}
	if (i < MANY)
		madvise(p + i * PAGE, b->pages * PAGE, MADV_DONTNEED);
	child_put(c, i);
}

FIXTURE(compaction)
{
	struct large job[JOBS];
	struct fragment frag[2];
	struct blocks blocks[2];
	char was[2][64], proactiveness[16];
	struct cg cg;
	int old[2], new[2];
};

FIXTURE_VARIANT(compaction)
{
	size_t pages;		/* of a folio */
	int jobs;
	bool confined;		/* its caller may not use the new nodes itself */
};

FIXTURE_VARIANT_ADD(compaction, thp)
{
	.pages = HPAGE_NR,
	.jobs = 1,
};

FIXTURE_VARIANT_ADD(compaction, thp_confined)
{
	.pages = HPAGE_NR,
	.jobs = 1,
	.confined = true,
};

FIXTURE_VARIANT_ADD(compaction, thp_two_jobs)
{
	.pages = HPAGE_NR,
	.jobs = 2,
	.confined = true,
};

FIXTURE_VARIANT_ADD(compaction, of_16_pages)
{
	.pages = 16,
	.jobs = 1,
};

FIXTURE_VARIANT_ADD(compaction, of_16_pages_two_jobs)
{
	.pages = 16,
	.jobs = 2,
	.confined = true,
};

FIXTURE_VARIANT_ADD(compaction, of_8_pages)
{
	.pages = 8,
	.jobs = 1,
	.confined = true,
};

FIXTURE_VARIANT_ADD(compaction, of_4_pages)
{
	.pages = 4,
	.jobs = 1,
};

static void only_chosen(char *text)
{
	char *p = strchr(text, '['), *end = strchr(text, ']');

	if (!p || !end)
		die("nothing is chosen in %s", text);
	*end = 0;
	memmove(text, p + 1, end - p);
}

FIXTURE_SETUP(compaction)
{
	const char *dir = thp_file(variant->pages);
	size_t n = 2 * LARGE * HPAGE_NR;

	nr_node_ids();
	if (!has_thp())
		SKIP(return, NO_THP);
	/* No other size than that which is wanted. */
	if (file_read(thp_file(HPAGE_NR), self->was[0], sizeof(self->was[0])) ||
	    file_read(thp_file(variant->pages), self->was[1], sizeof(self->was[1])))
		die("%s", dir);
	only_chosen(self->was[0]);
	only_chosen(self->was[1]);
	set(thp_file(HPAGE_NR), "never");
	set(thp_file(variant->pages), "always");
	/* Or kcompactd makes the room before the call asks for it. */
	if (file_read(PROACTIVENESS, self->proactiveness, sizeof(self->proactiveness)))
		die("%s", PROACTIVENESS);
	set(PROACTIVENESS, "0");
	self->old[0] = self->new[1] = mem[nr_mem - 1];
	self->old[1] = self->new[0] = mem[nr_mem - 2];
	for (int i = 0; i < variant->jobs; i++) {
		struct large *l = &self->job[i];

		l->order_pages = variant->pages;
		l->p = reserve(n);
		map_fixed(l->p, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		child_start(&l->child, hold_large, l);
		ASSERT_EQ(n / variant->pages, child_get(&l->child));
		l->fd = pm_open();
	}
	/* Room for a part of what moves: for more than kswapd wants to have. */
	for (int i = 0; i < 2; i++)
		fragment_start(&self->frag[i], self->old[i], 8 * HPAGE_NR);
	for (int i = 0; i < 2 && variant->pages < HPAGE_NR; i++) {
		struct blocks *b = &self->blocks[i];

		b->node = self->old[i];
		b->pages = variant->pages;
		child_start(&b->child, take_blocks, b);
		TH_LOG("%llu pages of node %d were in blocks", (long long)child_get(&b->child),
		       b->node);
	}
	if (variant->confined) {
		char text[16];

		snprintf(text, sizeof(text), "%d", mem[0]);
		cg_make(&self->cg, "bounded", text);
		cg_enter(&self->cg, getpid());
	}
	record_start(ALL);
}

FIXTURE_TEARDOWN(compaction)
{
	if (!has_thp())
		return;
	recording_stop(&recording);
	if (variant->confined) {
		cg_leave(getpid());
		cg_remove(&self->cg);
	}
	for (int i = 0; i < variant->jobs; i++)
		child_end(&self->job[i].child);
	for (int i = 0; i < 2; i++)
		child_end(&self->blocks[i].child);
	/* The last one that began knows the least. */
	fragment_end(&self->frag[1]);
	fragment_end(&self->frag[0]);
	set(thp_file(variant->pages), self->was[1]);
	set(thp_file(HPAGE_NR), self->was[0]);
	set(PROACTIVENESS, self->proactiveness);
}

struct large_call {
	struct large *l;
	const int *old, *new;
};

static void *move_large(void *arg)
{
	struct large_call *call = arg;
	struct large *l = call->l;
	double begin = now();

	l->ret = pm_move(l->fd, l->child.pid, l->p, 2 * LARGE * HPAGE, 0, 2, call->old, call->new,
			 &l->res);
	l->seconds = now() - begin;
	return NULL;
}

/*
 * Joins a call in time. A call that waits for compaction, which waits for what
 * this very call holds, would wait for ever: with more pages on the LRU lists of
 * the nodes compaction goes on, and the test can end.
 */
static bool ends(struct large *l, const int *nodes)
{
	enum { MANY = 40000 };
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 60 * patience();
	if (!pthread_timedjoin_np(l->thread, NULL, &t))
		return true;
	fprintf(stderr, "# the call does not end\n");
	for (int i = 0; i < 2; i++) {
		char *p = lazy_map(MANY, MADV_NOHUGEPAGE);

		bind_range(p, MANY, nodes[i]);
		fill(p, MANY, 0);
	}
	pthread_join(l->thread, NULL);
	return false;
}

/*
 * Compaction waits while many pages of a node are isolated, a thread of the
 * kernel without an end. A call that holds such pages must not wait for it.
 */
TEST_F(compaction, never_while_holding)
{
	struct large_call call[JOBS];
	size_t n = 2 * LARGE * HPAGE_NR;
	bool ended = true;
	struct seen s;
	long stalls = vmstat("compact_stall");

	set_workers("2");
	recording_clear(&recording);
	for (int i = 0; i < variant->jobs; i++) {
		call[i] = (struct large_call){ &self->job[i], self->old, self->new };
		ASSERT_EQ(0, pthread_create(&self->job[i].thread, NULL, move_large, &call[i]));
	}
	for (int i = 0; i < variant->jobs && ended; i++) {
		ended = ends(&self->job[i], self->old);
		EXPECT_TRUE(ended);
	}
	s = seen_of_all();
	seen_print(&s);
	TH_LOG("compact_stall %ld, %.1f s", vmstat("compact_stall") - stalls,
	       self->job[0].seconds);
	EXPECT_EQ(0, s.compactions_holding);
	EXPECT_EQ(0, s.held);
	EXPECT_GE(WORKERS * most_with(variant->pages), s.most);
	/*
	 * It is tried while nothing is isolated. Small blocks may come by themselves, and
	 * large ones from what another job has moved.
	 */
	if (variant->pages == HPAGE_NR && variant->jobs == 1)
		EXPECT_LT(0, s.compactions);
	EXPECT_EQ(0, nr_isolated());
	for (int i = 0; i < variant->jobs; i++) {
		struct large *l = &self->job[i];
		size_t left = l->res.no_memory;

		/* There is room for each of them, in pieces if need be. */
		EXPECT_LE(0, l->ret) pm_print(&l->res);
		EXPECT_EQ(0, left) pm_print(&l->res);
		EXPECT_EQ(n, pm_sum(&l->res)) pm_print(&l->res);
		for (size_t k = 0, each = variant->pages; k < n / each; k++) {
			size_t here = count_on(l->child.pid, l->p + k * each * PAGE, each,
					       self->new[k % 2]);

			if (here != each && !l->ret)
				EXPECT_EQ(each, here) TH_LOG("folio %zu of job %d", k, i);
		}
		child_put(&l->child, 1);
		EXPECT_EQ(0, child_get(&l->child));
	}
}

/*
 * Free pages on the lists of CPUs. A node has room, but all of it is
 * on the list of another CPU, while other calls have such lists drained, too.
 */
enum { ROUNDS = 10, HIDDEN = 200, FEW = 64, FILLER = 256 };

static void on_cpu(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(pid, sizeof(set), &set))
		die("CPU %d", cpu);
}

struct drainer {
	int old, new, cpu;
	atomic_bool end;
	unsigned long calls;
};

/* Moves, again and again, to a full node. */
static void *drain_on(void *arg)
{
	struct drainer *d = arg;
	char *p = map_node(2, d->old);
	int fd = pm_open();

	on_cpu(0, d->cpu);
	while (!d->end) {
		pm_move(fd, 0, p, 2 * PAGE, PAGE_MIGRATE_NEW_JOB | PAGE_MIGRATE_STRICT, 1, &d->old,
			&d->new, NULL);
		d->calls++;
	}
	close(fd);
	return NULL;
}

TEST(room_on_the_list_of_another_cpu)
{
	enum { DRAINERS = 2 };
	struct drainer d[DRAINERS] = { };
	pthread_t thread[DRAINERS];
	int from, to, full, fd, bad = 0, hidden = 0;
	struct child hog, other;
	const struct record *r;

	nr_node_ids();
	from = mem[0];
	to = mem[nr_mem - 1];
	full = mem[nr_mem - 2];
	hog_start(&other, full);
	hog_start(&hog, to);
	on_cpu(hog.pid, 1);
	on_cpu(0, 0);
	record_start(DRAINS);
	for (int i = 0; i < DRAINERS; i++) {
		d[i] = (struct drainer){ .old = from, .new = full, .cpu = 2 + i };
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, drain_on, &d[i]));
	}
	fd = pm_open();
	for (int i = 0; i < ROUNDS; i++) {
		char *p = map_node(FEW, from);
		struct page_migrate_result res;
		long ret, before;

		/* Takes what was left from the last round, and what has become free since. */
		do {
			char *filler = map_node(FILLER, from);

			ret = pm_move(fd, 0, filler, FILLER * PAGE, PAGE_MIGRATE_STRICT, 1, &from,
				      &to, &res);
			ASSERT_TRUE(!ret || ret == -ENOMEM) pm_print(&res);
		} while (!ret);
		before = node_free(to);
		hog_release(&hog, HIDDEN);
		/* If they were not hidden, this round shows nothing. */
		hidden += node_free(to) - before < HIDDEN / 2;
		ret = pm_move(fd, 0, p, FEW * PAGE, PAGE_MIGRATE_STRICT, 1, &from, &to, &res);
		if (ret) {
			bad++;
			TH_LOG("round %d: %ld, %llu found no room", i, ret,
			       (long long)res.no_memory);
		}
	}
	r = record_read();
	recording_stop(&recording);
	for (int i = 0; i < DRAINERS; i++) {
		d[i].end = true;
		pthread_join(thread[i], NULL);
	}
	child_end(&hog);
	child_end(&other);
	TH_LOG("%d drains of zones, %d of all", r->drains_of_zones, r->drains_of_all);
	TH_LOG("%d rounds with hidden room, %lu other calls", hidden, d[0].calls + d[1].calls);
	EXPECT_LT(ROUNDS / 2, hidden);
	EXPECT_EQ(0, bad);
	/* The lists of one node, and those all the time. */
	EXPECT_EQ(0, r->drains_of_all);
	EXPECT_LT(0, r->drains_of_zones);
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

/* A huge page for which a batch of small ones has no room left is in the next one. */
TEST(huge_page_after_small_ones)
{
	/* The first batches of a call are small. This many are left for the next one. */
	enum { SMALL = 900, SMALL_IN_BATCH = 600 };
	struct page_migrate_result res;
	char *p, *small;
	int from, to, fd;
	struct seen s;

	nr_node_ids();
	from = mem[0];
	to = mem[1];
	if (!has_thp())
		SKIP(return, "this kernel has no huge pages");
	ASSERT_GT(2 * HPAGE_NR, SMALL);
	ASSERT_LT(MOST, SMALL_IN_BATCH + HPAGE_NR);
	p = map_thp(3, from);
	small = p + (2 * HPAGE_NR - SMALL) * PAGE;
	ASSERT_EQ(0, madvise(p, 2 * HPAGE, MADV_DONTNEED));
	ASSERT_EQ(0, madvise(p, 2 * HPAGE, MADV_NOHUGEPAGE));
	bind_to(from);
	memset(small, 1, SMALL * PAGE);
	bind_to(-1);
	ASSERT_EQ(SMALL + HPAGE_NR, count_on(0, small, SMALL + HPAGE_NR, from));
	set_workers("1");
	record_start(ALL);
	fd = pm_open();
	ASSERT_EQ(0, pm_move(fd, 0, small, (SMALL + HPAGE_NR) * PAGE, 0, 1, &from, &to, &res))
		pm_print(&res);
	s = seen_of_all();
	recording_stop(&recording);
	seen_print(&s);
	EXPECT_EQ(SMALL + (long)HPAGE_NR, s.moved);
	EXPECT_EQ((long)HPAGE_NR, s.largest);
	EXPECT_GE(MOST, s.most);
	EXPECT_LE(SMALL_IN_BATCH, s.most);
	EXPECT_EQ(SMALL + HPAGE_NR, count_on(0, small, SMALL + HPAGE_NR, to));
	EXPECT_EQ(0, s.held);
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

/* A swap of two nodes that are full but for some pages. */
struct swap {
	int fd, old[2], new[2];
	char *p;
	struct child hog[2];
	long ret;
	struct page_migrate_result res;
	pthread_t thread;
};

enum { SWAPPED = 2000 };

static void *swap_nodes(void *arg)
{
	struct swap *w = arg;

	w->ret = pm_move(w->fd, 0, w->p, 2 * SWAPPED * PAGE, PAGE_MIGRATE_NEW_JOB, 2, w->old,
			 w->new, &w->res);
	return NULL;
}

/*
 * Swaps at the same time: of two pairs of nodes, or, where there are few nodes, of
 * one pair beside calls that find no room on a third node.
 */
TEST(swaps_of_full_nodes_side_by_side)
{
	enum { TURNS = 4, ROOM = 1024 };
	struct drainer d = { };
	struct swap swap[2] = { };
	pthread_t drainer;
	struct child other;
	const struct record *r;
	int swaps;

	nr_node_ids();
	swaps = nr_mem >= 6 ? 2 : 1;
	for (int i = 0; i < swaps; i++) {
		struct swap *w = &swap[i];
		int a = mem[nr_mem - 1 - 2 * i], b = mem[nr_mem - 2 - 2 * i];

		w->old[0] = w->new[1] = a;
		w->old[1] = w->new[0] = b;
		w->p = map_nodes(2 * SWAPPED, w->old, 2);
		fill(w->p, 2 * SWAPPED, 5 + i);
		/* The hogs must not hold them: they are other processes. */
		ASSERT_EQ(0, madvise(w->p, 2 * SWAPPED * PAGE, MADV_DONTFORK));
		w->fd = pm_open();
	}
	for (int i = 0; i < swaps; i++)
		for (int k = 0; k < 2; k++) {
			hog_start(&swap[i].hog[k], swap[i].old[k]);
			hog_release(&swap[i].hog[k], ROOM);
		}
	if (swaps == 1) {
		d = (struct drainer){ .old = mem[0], .new = mem[1], .cpu = 1 };
		hog_start(&other, d.new);
		ASSERT_EQ(0, pthread_create(&drainer, NULL, drain_on, &d));
	}
	record_start(DRAINS);
	for (int turn = 0; turn < TURNS; turn++) {
		for (int i = 0; i < swaps; i++)
			ASSERT_EQ(0, pthread_create(&swap[i].thread, NULL, swap_nodes, &swap[i]));
		for (int i = 0; i < swaps; i++) {
			struct swap *w = &swap[i];

			pthread_join(w->thread, NULL);
			EXPECT_EQ(0, w->ret) {
				TH_LOG("swap %d, turn %d", i, turn);
				pm_print(&w->res);
				zones_print(w->old[0]);
				zones_print(w->old[1]);
			}
			EXPECT_EQ(2 * SWAPPED, w->res.moved) pm_print(&w->res);
			EXPECT_TRUE(all_on(0, w->p, 2 * SWAPPED, turn % 2 ? w->old : w->new, 2));
		}
	}
	r = record_read();
	recording_stop(&recording);
	if (swaps == 1) {
		d.end = true;
		pthread_join(drainer, NULL);
		child_end(&other);
	}
	for (int i = 0; i < swaps; i++) {
		for (int k = 0; k < 2; k++)
			child_end(&swap[i].hog[k]);
		EXPECT_EQ(0, bad_pages(swap[i].p, 2 * SWAPPED, 5 + i));
		close(swap[i].fd);
	}
	TH_LOG("%d drains of zones, %d of all", r->drains_of_zones, r->drains_of_all);
	EXPECT_EQ(0, r->drains_of_all);
	EXPECT_EQ(0, nr_isolated());
}

TEST_HARNESS_MAIN
