// SPDX-License-Identifier: GPL-2.0
/*
 * A node whose memory is taken offline before a call, during calls and after
 * them, comes back, and at last is removed. It is the last node of the machine.
 *
 * Environment: PM_SECONDS, how long calls and the node's coming and going meet.
 */
#include "harness.h"
#include "mem_util.h"

#include <glob.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

/* policy_util.h has its own LAST. */
#undef LAST
#include "policy_util.h"

#define ACPI_MEMORY "/sys/bus/acpi/devices/PNP0C80:*/eject"
#define NR_PLAIN 3	/* nodes that stay */

/*
 * The node, by the blocks that its memory is taken offline in.
 */
static int hot;
static glob_t blocks;

static bool block_is(size_t i, const char *file, const char *want)
{
	char path[160], text[64];

	snprintf(path, sizeof(path), "%s/%s", blocks.gl_pathv[i], file);
	if (file_read(path, text, sizeof(text)))
		die("%s", path);
	text[strcspn(text, "\n")] = 0;
	return !strcmp(text, want);
}

/* 0, also where it is so already, or -errno. */
static int block_set(size_t i, bool online)
{
	char path[160];

	if (block_is(i, "state", online ? "online" : "offline"))
		return 0;
	snprintf(path, sizeof(path), "%s/state", blocks.gl_pathv[i]);
	return file_write(path, online ? "online_movable" : "offline");
}

static bool hot_is_there(void)
{
	return node_in("has_memory", hot);
}

/*
 * The kernel gives up a block when it meets a page that cannot be moved just
 * then. Returns whether all of them have come or gone.
 */
static bool all_blocks(bool online)
{
	size_t done = 0;

	for (int tries = 0; done < blocks.gl_pathc && tries < 100; tries++) {
		done = 0;
		for (size_t i = 0; i < blocks.gl_pathc; i++)
			done += block_set(i, online) == 0;
		if (done < blocks.gl_pathc)
			usleep(20000);
	}
	return done == blocks.gl_pathc && hot_is_there() == online;
}

static void find_hot(void)
{
	char pattern[128];

	hot = nr_node_ids() - 1;
	snprintf(pattern, sizeof(pattern), "/sys/devices/system/node/node%d/memory[0-9]*", hot);
	if (glob(pattern, 0, NULL, &blocks) || blocks.gl_pathc < 2 || !all_blocks(true))
		die("node %d is no node whose memory can be taken offline", hot);
	for (size_t i = 0; i < blocks.gl_pathc; i++)
		if (!block_is(i, "valid_zones", "Movable"))
			die("%s is not movable", blocks.gl_pathv[i]);
	if (nr_mem != NR_PLAIN + 1 || mem[NR_PLAIN] != hot)
		die("node %d is not the last of %d", hot, NR_PLAIN + 1);
}

/* Pages that no move has lost: present, and on a node that has memory. */
static bool all_present(pid_t pid, const void *addr, size_t npages)
{
	int *nodes = malloc(npages * sizeof(*nodes));
	bool there = hot_is_there(), ok = true;

	if (!nodes)
		die("malloc");
	nodes_of(pid, addr, npages, nodes);
	for (size_t i = 0; i < npages && ok; i++) {
		ok = nodes[i] >= 0 && (there || nodes[i] != hot);
		if (!ok)
			fprintf(stderr, "# page %zu of %zu: %d\n", i, npages, nodes[i]);
	}
	free(nodes);
	return ok;
}

/*
 * A target: threads that check what they have written, and write anew.
 */
enum kind { ANON, HUGE_PAGES, SHMEM, CACHE, POOL, KINDS };

static const char *const kind_name[] = { "anonymous", "huge", "shmem", "file", "hugetlb" };
static const size_t kind_pages[] = { 1024, 2 * HPAGE_NR, 512, 512, HPAGE_NR };

enum { THREADS = 2, CALLERS = 3, MAX_AREA = 2 * HPAGE_NR, FRESH = 64, ERRNOS = 256 };

struct area {
	char *p;
	unsigned int seed[MAX_AREA];
};

struct board {
	atomic_bool end;	/* of the target's work */
	atomic_bool quit;	/* of the callers' */
	atomic_ulong checked, damage, fresh;
	atomic_ulong calls, moved, moved_hot, failed[ERRNOS], left, wrong;
	atomic_ulong questions, answers[2];
	struct area area[THREADS][KINDS];
};

static struct board *b;

static void area_make(struct area *a, enum kind k, int node)
{
	size_t n = kind_pages[k];
	char *p = reserve(n), path[64];
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;

	if (k == SHMEM)
		flags = MAP_SHARED | MAP_ANONYMOUS;
	if (k == POOL)
		flags |= MAP_HUGETLB;
	if (k == CACHE) {
		fd = scratch_file("offline", path, sizeof(path));
		file_fill(fd, n, 0, &node, 1);
		unlink(path);
		flags = MAP_SHARED;
	}
	map_fixed(p, n, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (k == ANON || k == HUGE_PAGES)
		advise(p, n * PAGE, k == ANON ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	bind_to(node);
	for (size_t i = 0; i < n; i++) {
		a->seed[i] = i;
		fill(p + i * PAGE, 1, i);
	}
	bind_to(-1);
	if (fd >= 0)
		close(fd);
	a->p = p;
}

static void page_check(struct area *a, enum kind k, size_t i, const char *when)
{
	if (!page_is_bad(a->p + i * PAGE, 0, a->seed[i])) {
		b->checked++;
	} else if (b->damage++ < 8) {
		fprintf(stderr, "# process %d: %s page %zu at %p is damaged, %s; pagemap %#lx\n",
			getpid(), kind_name[k], i, a->p + i * PAGE, when,
			pagemap_of(0, a->p + i * PAGE));
	}
}

/* Memory that did not exist before, where the thread's policy says. */
static void use_fresh(uint32_t *rnd)
{
	char *p = mmap(NULL, FRESH * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	unsigned int seed = next_random(rnd);

	if (p == MAP_FAILED)
		die("mmap");
	fill(p, FRESH, seed);
	b->damage += bad_pages(p, FRESH, seed);
	b->fresh += FRESH;
	munmap(p, FRESH * PAGE);
}

static void *work(void *arg)
{
	struct area *areas = arg;
	uint32_t rnd = areas - b->area[0] + 1;

	/* Nothing is bound: the kernel would kill for want of room on a shrinking node. */
	set_thread_policy(MPOL_PREFERRED, NODES(rnd == 1 ? mem[0] : hot));
	while (!b->end) {
		for (int k = 0; k < KINDS; k++) {
			struct area *a = &areas[k];
			size_t n = kind_pages[k], i = next_random(&rnd) % n;

			for (size_t c = 0; c < 64; c++)
				page_check(a, k, (i + c) % n, "in passing");
			for (size_t c = 0; c < 16; c++) {
				i = next_random(&rnd) % n;
				page_check(a, k, i, "before it is written");
				if (k == ANON && c % 4 == 0)
					madvise(a->p + i * PAGE, PAGE, MADV_DONTNEED);
				a->seed[i] = next_random(&rnd) >> 8;
				fill(a->p + i * PAGE, 1, a->seed[i]);
			}
		}
		use_fresh(&rnd);
	}
	for (int k = 0; k < KINDS; k++)
		for (size_t i = 0; i < kind_pages[k]; i++)
			page_check(&areas[k], k, i, "at the end");
	return NULL;
}

/* Works until the board says so, then tells that it has looked at everything. */
static void target(struct child *c, void *arg)
{
	pthread_t thread[THREADS];

	for (int t = 0; t < THREADS; t++)
		for (int k = 0; k < KINDS; k++)
			area_make(&b->area[t][k], k, *(int *)arg);
	/* Rewritten by the callers, and followed by what is dropped and comes anew. */
	set_policy(b->area[0][ANON].p, kind_pages[ANON], MPOL_PREFERRED, NODES(hot));
	set_policy(b->area[1][ANON].p, kind_pages[ANON], MPOL_INTERLEAVE, NODES(mem[0], hot));
	set_policy(b->area[0][SHMEM].p, kind_pages[SHMEM], MPOL_INTERLEAVE, NODES(mem[1], hot));
	for (int t = 0; t < THREADS; t++)
		if (pthread_create(&thread[t], NULL, work, b->area[t]))
			die("pthread_create");
	child_put(c, 0);
	for (int t = 0; t < THREADS; t++)
		pthread_join(thread[t], NULL);
	child_put(c, 0);
}

static bool target_is_whole(pid_t pid)
{
	/* Pages of a file may be reclaimed at any time: the target has read them. */
	for (int t = 0; t < THREADS; t++)
		for (int k = 0; k < KINDS; k++)
			if (k != CACHE && !all_present(pid, b->area[t][k].p, kind_pages[k])) {
				fprintf(stderr, "# %s\n", kind_name[k]);
				return false;
			}
	return true;
}

static size_t target_on(pid_t pid, int node)
{
	size_t sum = 0;

	for (int t = 0; t < THREADS; t++)
		for (int k = 0; k < KINDS; k++)
			sum += count_on(pid, b->area[t][k].p, kind_pages[k], node);
	return sum;
}

static void pools_set(int node, long npages)
{
	char text[16];

	/* On each node that stays, so that whatever is on the other has room. */
	snprintf(text, sizeof(text), "%ld", npages);
	for (int i = 0; i < NR_PLAIN; i++)
		node_pool(mem[i], text);
	if (node == hot)
		node_pool(hot, text);
}

static void target_start(struct child *c, int node)
{
	b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b == MAP_FAILED)
		die("mmap");
	pools_set(node, THREADS * kind_pages[POOL] / HPAGE_NR);
	child_start(c, target, &node);
	child_get(c);
}

/* Ends its work; it has found everything as it was then. */
static void target_stop(struct __test_metadata *_metadata, struct child *c)
{
	b->end = true;
	child_get(c);
	EXPECT_EQ(0, b->damage);
	TH_LOG("%lu pages checked, %lu fresh", b->checked, b->fresh);
	EXPECT_LT(0, b->checked);
}

static void target_end(struct child *c)
{
	child_end(c);
	pools_set(hot_is_there() ? hot : -1, 0);
	munmap(b, sizeof(*b));
}

/*
 * Callers. Of each pair of lists, one node at least stays for a wildcard.
 */
static const struct {
	int count, old[4], new[4];	/* places among mem[], ANY */
} orders[] = {
	{ 1, { 0 }, { 3 } },
	{ 1, { 3 }, { 0 } },
	{ 2, { 0, 3 }, { 3, 0 } },
	{ 3, { 0, 1, 2 }, { 3, 3, 3 } },
	{ 1, { ANY }, { 3 } },
	{ 2, { 0, 1 }, { 3, 2 } },
	{ 3, { 3, 0, 1 }, { 1, 3, 3 } },
	{ 1, { 0 }, { ANY } },
	{ 2, { 0, 1 }, { ANY, ANY } },
	{ 1, { 3 }, { ANY } },
	{ 2, { 3, 1 }, { ANY, 0 } },
	{ 2, { 0, ANY }, { ANY, 0 } },
};

static int node_at(int place)
{
	return place == ANY ? ANY : mem[place];
}

static void call(struct child *c, void *arg)
{
	static const unsigned int flags[] = {
		0, 0, 0, PAGE_MIGRATE_STRICT, PAGE_MIGRATE_NEW_JOB, PAGE_MIGRATE_KEEP_POLICY,
		PAGE_MIGRATE_DRY_RUN,
	};
	pid_t pid = *(pid_t *)arg;
	uint32_t rnd = getpid();
	int fd = -1;

	child_put(c, 0);
	while (!b->quit) {
		size_t o = next_random(&rnd) % ARRAY_LEN(orders);
		unsigned int flag = flags[next_random(&rnd) % ARRAY_LEN(flags)];
		uint64_t pairs[4] = { };
		struct page_migrate_request req;
		int old[4], new[4];
		long ret;

		for (int i = 0; i < orders[o].count; i++) {
			old[i] = node_at(orders[o].old[i]);
			new[i] = node_at(orders[o].new[i]);
		}
		if (fd < 0 || next_random(&rnd) % 4 == 0) {
			if (fd >= 0)
				close(fd);
			fd = pm_open();
		}
		req = pm_req(pid, NULL, ~0UL, orders[o].count, old, new);
		req.flags = flag;
		req.moved_by_pair = (uintptr_t)pairs;
		ret = pm_migrate(fd, &req);
		b->calls++;
		if (ret < 0) {
			b->failed[-ret % ERRNOS]++;
		} else {
			b->left += ret;
			/* What the lists select and nothing holds is where it should be. */
			if (!ret && req.result.no_memory)
				b->wrong++;
		}
		if ((ret >= 0 || ret == -ENOMEM) && !(flag & PAGE_MIGRATE_DRY_RUN)) {
			b->moved += req.result.moved + req.result.moved_fallback;
			for (int i = 0; i < orders[o].count; i++)
				if (new[i] == hot)
					b->moved_hot += pairs[i];
		}
		if (ret < 0 && ret != -ENOMEM && ret != -ENODEV && b->wrong++ < 8)
			fprintf(stderr, "# lists %zu, flags %#x: errno %ld\n", o, flag, -ret);
	}
	child_put(c, 0);
}

/* Is the node there? Calls of which everything is checked, and nothing is to be done. */
static void ask(struct child *c, void *arg)
{
	pid_t pid = *(pid_t *)arg;
	int fd = pm_open();

	child_put(c, 0);
	while (!b->quit) {
		long ret = pm_move(fd, pid, NULL, 0, 0, 1, &mem[0], &hot, NULL);

		b->questions++;
		if (!ret || ret == -ENODEV)
			b->answers[!ret]++;
		else if (b->wrong++ < 8)
			fprintf(stderr, "# empty range: %ld\n", ret);
	}
	child_put(c, 0);
}

/* One asks. One may use a single node itself, so that a kernel thread works for it. */
static struct cg confined;

static void callers_start(struct child *callers, pid_t *pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", mem[0]);
	cg_make(&confined, "offline", text);
	for (int i = 0; i < CALLERS; i++) {
		child_start(&callers[i], i ? call : ask, pid);
		child_get(&callers[i]);
	}
	cg_enter(&confined, callers[1].pid);
}

/* Lets some calls begin and end as things are now. */
static void callers_work(unsigned long n)
{
	unsigned long goal = b->calls + n;

	for (int i = 0; b->calls < goal && i < 200 * patience(); i++)
		usleep(50000);
}

static void callers_end(struct __test_metadata *_metadata, struct child *callers)
{
	b->quit = true;
	for (int i = 0; i < CALLERS; i++) {
		child_get(&callers[i]);
		child_end(&callers[i]);
	}
	cg_remove(&confined);
	TH_LOG("%lu calls moved %lu pages, %lu of them there; %lu left", b->calls, b->moved,
	       b->moved_hot, b->left);
	for (int i = 0; i < ERRNOS; i++)
		if (b->failed[i])
			TH_LOG("%lu times: %s", b->failed[i], strerror(i));
	TH_LOG("asked %lu times, %lu times it was there", b->questions, b->answers[1]);
	EXPECT_EQ(0, b->wrong);
	EXPECT_LT(0, b->failed[ENODEV]);
	EXPECT_LT(0, b->answers[0]);
	EXPECT_LT(0, b->answers[1]);
}

FIXTURE(offline) {
	int fd;
};

FIXTURE_SETUP(offline)
{
	find_hot();
	self->fd = pm_open();
}

FIXTURE_TEARDOWN(offline)
{
	close(self->fd);
	if (node_in("online", hot))
		EXPECT_TRUE(all_blocks(true));
	EXPECT_EQ(0, nr_isolated());
}

/* A node without memory is no new node, and nothing moves; it is an empty old one. */
TEST_F(offline, gone_before_the_call)
{
	const int home[] = { mem[0], mem[1] }, any = ANY, back = mem[1];
	const int bad_old[] = { mem[0], mem[1] }, bad_new[] = { mem[2], hot };
	const int all_old[] = { mem[0], mem[1], mem[2] }, all_any[] = { ANY, ANY, ANY };
	enum { N = 512 };
	static const unsigned int flags[] = {
		0, PAGE_MIGRATE_DRY_RUN, PAGE_MIGRATE_STRICT, PAGE_MIGRATE_NEW_JOB,
		PAGE_MIGRATE_KEEP_POLICY, PAGE_MIGRATE_EXCLUSIVE,
	};
	char *p = map_nodes(N, home, 2), *q = lazy_map(N, MADV_NOHUGEPAGE);
	struct page_migrate_result res;
	uint64_t pages[MAX_NODES], frame[N];
	long before = migrated();

	fill(p, N, 1);
	set_policy(q, N, MPOL_BIND, NODES(mem[1]));
	for (size_t i = 0; i < N; i++)
		frame[i] = pfn_of(p + i * PAGE);
	ASSERT_TRUE(all_blocks(false));
	ASSERT_FALSE(hot_is_there());
	for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
		EXPECT_EQ(-ENODEV, pm_move(self->fd, 0, NULL, ~0UL, flags[i], 1, &mem[1], &hot,
					   &res));
		EXPECT_TRUE(pm_is_poison(&res));
		/* The first pair is good: it must not move either. */
		EXPECT_EQ(-ENODEV, pm_move(self->fd, 0, NULL, ~0UL, flags[i], 2, bad_old, bad_new,
					   &res));
		EXPECT_TRUE(pm_is_poison(&res));
		EXPECT_EQ(-ENODEV, pm_move(self->fd, 0, p, N * PAGE, flags[i], 1, &any, &hot,
					   &res));
		/* There would be only this one to choose. */
		EXPECT_EQ(-EINVAL, pm_move(self->fd, 0, p, N * PAGE, flags[i], 3, all_old, all_any,
					   &res));
	}
	for (size_t i = 0; i < N; i++)
		ASSERT_EQ(frame[i], pfn_of(p + i * PAGE));
	EXPECT_EQ(before, migrated());
	EXPECT_TRUE(policy_at_is(q, MPOL_BIND, NODES(mem[1])));

	/* Nothing lies there, so nothing is left to do. */
	EXPECT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, 0, 1, &hot, &back, &res));
	EXPECT_EQ(N, res.in_place);
	EXPECT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, 0, 1, &hot, &any, &res));
	EXPECT_EQ(N, res.in_place);
	EXPECT_EQ(0, pm_placement(self->fd, 0, p, N * PAGE, pages));
	EXPECT_EQ(N / 2, pages[mem[0]]);
	EXPECT_EQ(N / 2, pages[mem[1]]);
	EXPECT_EQ(0, pages[hot]);

	/* The nearest to node 0, if it were there. Then it is. */
	EXPECT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, 0, 1, &mem[0], &any, &res));
	EXPECT_EQ(0, count_on(0, p, N, mem[0]));
	EXPECT_TRUE(all_present(0, p, N));
	ASSERT_TRUE(all_blocks(true));
	EXPECT_EQ(0, pm_move(self->fd, 0, p, N * PAGE, 0, 1, &mem[1], &any, &res));
	EXPECT_EQ(N, res.moved);
	EXPECT_EQ(N, count_on(0, p, N, hot));
	EXPECT_EQ(0, bad_pages(p, N, 1));
}

/*
 * Calls go to the node and back while block after block of it goes and comes.
 * Whatever a call meets, it ends in one of a few ways and loses nothing.
 */
TEST_F_TIMEOUT(offline, goes_during_calls, 1000000)
{
	struct child t, caller[CALLERS];
	unsigned long cycles = 0, refused = 0, landed = 0;
	const char *seconds = getenv("PM_SECONDS");
	double limit = seconds ? atof(seconds) : 30, begin, last;
	uint32_t rnd = 7;

	target_start(&t, mem[0]);
	callers_start(caller, &t.pid);
	begin = now();
	last = 100 * patience();
	/* At least until all of it has been seen, where the machine is slow. */
	while (now() - begin < limit ||
	       (now() - begin < last &&
		(cycles < 4 || !landed || !b->failed[ENODEV] || b->moved_hot < 4096))) {
		size_t n = blocks.gl_pathc, first = next_random(&rnd) % n;
		/* Sometimes a part only, so that the node shrinks and has no room. */
		size_t some = next_random(&rnd) % 3 ? n : 1 + next_random(&rnd) % (n - 1);

		landed += target_on(t.pid, hot) > 0;
		for (size_t i = 0; i < some; i++)
			refused += block_set((first + i) % n, false) != 0;
		if (!hot_is_there()) {
			cycles++;
			callers_work(CALLERS);
		}
		for (size_t i = 0; i < n; i++)
			refused += block_set(i, true) != 0;
		usleep(next_random(&rnd) % 500000);
	}
	TH_LOG("%lu times gone in %.0f s, %lu refusals; %lu times pages there before", cycles,
	       now() - begin, refused, landed);
	callers_end(_metadata, caller);
	EXPECT_LE(4, cycles);
	EXPECT_LT(0, landed);
	EXPECT_LE(4096, b->moved_hot);

	/* No call has left anything behind that holds the node back. */
	ASSERT_TRUE(all_blocks(false));
	target_stop(_metadata, &t);
	EXPECT_TRUE(target_is_whole(t.pid));
	EXPECT_EQ(0, target_on(t.pid, hot));
	target_end(&t);
}

/* A node is emptied of a process that runs on, and goes. */
TEST_F(offline, emptied_then_gone)
{
	const int any = ANY;
	struct child t;
	uint64_t sum;

	target_start(&t, hot);
	ASSERT_LT(0, target_on(t.pid, hot));
	/* A page may come there while the first call rewrites the policies. */
	for (int i = 0; i < 3 && process_pages(t.pid, hot); i++) {
		ASSERT_EQ(0, move_patiently(self->fd, t.pid, NULL, ~0UL, 1, &hot, &any, &sum));
		TH_LOG("%lu pages left the node", (unsigned long)sum);
	}
	EXPECT_EQ(0, target_on(t.pid, hot));
	EXPECT_EQ(0, process_pages(t.pid, hot));
	ASSERT_TRUE(all_blocks(false));
	target_stop(_metadata, &t);
	EXPECT_TRUE(target_is_whole(t.pid));
	target_end(&t);
}

/*
 * A job remembers frames of the node. It goes on when they have gone and come
 * back, with others' pages in them or with none.
 */
TEST_F(offline, job_goes_on)
{
	enum { N = 4096, ROUNDS = 3 };
	char *p = map_node(N, mem[0]), *q = map_node(N, mem[0]);
	const int old[] = { mem[0], hot }, new[] = { hot, mem[0] };
	struct page_migrate_result res;
	int swap = pm_open(), fd = pm_open();
	uint64_t sum;

	fill(p, N, 1);
	fill(q, N, 2);
	for (int i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(0, move_patiently(self->fd, 0, p, N * PAGE, 1, old, new, &sum));
		/* What the kernel brought to node 0 has moved again. */
		EXPECT_EQ(0, count_on(0, p, N, mem[0]));
		if (!i)
			EXPECT_EQ(N, count_on(0, p, N, hot));
		ASSERT_LE(0, pm_move(swap, 0, q, N * PAGE, 0, 2, old, new, &res));
		EXPECT_EQ(N, pm_sum(&res));
		TH_LOG("round %d: %lu moved, %zu on the node", i, (unsigned long)sum,
		       count_on(0, p, N, hot));

		ASSERT_TRUE(all_blocks(false));
		EXPECT_TRUE(all_present(0, p, N));
		EXPECT_EQ(-ENODEV, pm_move(self->fd, 0, p, N * PAGE, 0, 1, old, new, &res));
		EXPECT_EQ(-ENODEV, pm_move(swap, 0, p, N * PAGE, 0, 2, old, new, &res));
		EXPECT_EQ(0, bad_pages(p, N, 1));
		ASSERT_TRUE(all_blocks(true));

		/* Pages come to frames that the first job knows, but not through it. */
		if (i % 2 == 0)
			continue;
		ASSERT_LE(0, pm_move(swap, 0, p, N * PAGE, 0, 2, old, new, &res));
		EXPECT_EQ(N, pm_sum(&res));
	}
	/* Whatever those remember, a new job moves everything. */
	for (int i = 0; i < NR_PLAIN; i++)
		ASSERT_EQ(0, move_patiently(fd, 0, p, N * PAGE, 1, &mem[i], &hot, &sum));
	EXPECT_EQ(N, count_on(0, p, N, hot));
	EXPECT_EQ(0, bad_pages(p, N, 1));
	EXPECT_EQ(0, bad_pages(q, N, 2));
	close(swap);
	close(fd);
}

/*
 * Policies that a call has sent to the node, while there is none: what they are
 * about gets memory all the same.
 */
static const int modes[] = {
	MPOL_BIND, MPOL_PREFERRED, MPOL_PREFERRED_MANY, MPOL_INTERLEAVE,
	MPOL_WEIGHTED_INTERLEAVE, MPOL_BIND | MPOL_F_STATIC_NODES,
	MPOL_PREFERRED | MPOL_F_STATIC_NODES, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES,
};

enum { PARTS = 4, PART = 64 };	/* of each mapping, in pages: one for each state of the node */

/* Writes a part of each mapping that was never touched. Returns pages that are not right. */
static size_t use_part(const struct row *row, char *shm, char *huge, int part)
{
	size_t bad = 0;
	pid_t pid;
	int status;

	for (size_t i = 0; i <= row->n; i++) {
		char *p = (i < row->n ? slot(row, i) : shm) + part * PART * PAGE;

		fill(p, PART, part);
		bad += bad_pages(p, PART, part) + !all_present(0, p, PART);
	}
	huge += part * HPAGE;
	fill(huge, HPAGE_NR, part);
	bad += bad_pages(huge, HPAGE_NR, part) + !all_present(0, huge, HPAGE_NR);
	/* A process gets the same policies, and its own memory by them. */
	pid = fork();
	if (!pid) {
		for (size_t i = 0; i < row->n; i++)
			fill(slot(row, i) + part * PART * PAGE, PART, part + 1);
		_exit(!all_present(0, slot(row, 0) + part * PART * PAGE, PART));
	}
	bad += waitpid(pid, &status, 0) != pid || status;
	return bad;
}

TEST_F(offline, policies_that_name_it)
{
	struct row row = map_row(ARRAY_LEN(modes), PARTS * PART);
	char *shm = mmap(NULL, PARTS * PART * PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *huge = lazy_map(PARTS * HPAGE_NR, MADV_HUGEPAGE);
	const struct nodes from = NODES(mem[0]), to = NODES(hot);
	struct page_migrate_result res;

	ASSERT_NE(MAP_FAILED, shm);
	for (size_t i = 0; i < row.n; i++)
		set_policy(slot(&row, i), row.len, modes[i], from);
	set_home(slot(&row, 0), row.len, mem[0]);
	set_policy(shm, PARTS * PART, MPOL_BIND, from);
	set_policy(huge, PARTS * HPAGE_NR, MPOL_BIND, from);
	set_thread_policy(MPOL_INTERLEAVE, from);
	ASSERT_EQ(0, use_part(&row, shm, huge, 0));

	ASSERT_LE(0, pm_move(self->fd, 0, NULL, ~0UL, 0, 1, &mem[0], &hot, &res));
	EXPECT_LE(row.n + 3, res.policies);
	for (size_t i = 0; i < row.n; i++)
		EXPECT_TRUE(policy_at_is(slot(&row, i), modes[i], to));
	EXPECT_TRUE(policy_is(get_policy(NULL), MPOL_INTERLEAVE, to));
	ASSERT_EQ(0, use_part(&row, shm, huge, 1));
	for (size_t i = 0; i < row.n; i++)
		EXPECT_EQ(PART, count_on(0, slot(&row, i) + PART * PAGE, PART, hot));

	ASSERT_TRUE(all_blocks(false));
	EXPECT_EQ(0, use_part(&row, shm, huge, 2));
	/* The policies are there for another call, which may bring them back. */
	EXPECT_LE(0, pm_move(self->fd, 0, NULL, ~0UL, 0, 1, &hot, &mem[1], &res));
	ASSERT_TRUE(all_blocks(true));
	EXPECT_EQ(0, use_part(&row, shm, huge, 3));
	for (size_t i = 0; i < row.n; i++)
		EXPECT_LT(0, nodes_count(get_policy(slot(&row, i)).nodes));
	for (int part = 0; part < PARTS; part++)
		EXPECT_EQ(0, bad_pages(slot(&row, 0) + part * PART * PAGE, PART, part));
	set_mempolicy(MPOL_DEFAULT, NULL, 0);
}

/*
 * The last test: the node's memory is removed for good, with the kernel's
 * descriptions of its pages, while calls go there and jobs remember its frames.
 */
TEST_F(offline, removed_for_good)
{
	const int back[] = { mem[0] }, any = ANY;
	struct child t, caller[CALLERS];
	struct page_migrate_result res;
	uint64_t pages[MAX_NODES], sum;
	glob_t eject;
	double begin;

	ASSERT_EQ(0, glob(ACPI_MEMORY, 0, NULL, &eject));
	ASSERT_EQ(1, eject.gl_pathc);
	target_start(&t, mem[0]);
	ASSERT_EQ(0, move_patiently(self->fd, t.pid, NULL, ~0UL, 1, &mem[0], &hot, &sum));
	ASSERT_LT(0, target_on(t.pid, hot));
	callers_start(caller, &t.pid);
	begin = now();
	/*
	 * What each CPU has counted for a node is lost when the node is removed, and
	 * the sums would be wrong for good. So first it has nothing left to count.
	 */
	ASSERT_TRUE(all_blocks(false));
	vmstat("nr_isolated_anon");
	/* The kernel does it later. */
	for (int tries = 0; node_in("online", hot) && tries < 20; tries++) {
		file_write(eject.gl_pathv[0], "1");
		for (int i = 0; node_in("online", hot) && i < 50 * patience(); i++)
			usleep(100000);
	}
	TH_LOG("removed after %.1f s", now() - begin);
	ASSERT_FALSE(node_in("online", hot));
	/* They go on where there is nothing left. */
	for (int i = 0; i < 10 && !b->failed[ENODEV]; i++)
		callers_work(CALLERS);
	callers_end(_metadata, caller);

	EXPECT_EQ(-ENODEV, pm_move(self->fd, t.pid, NULL, ~0UL, 0, 1, back, &hot, &res));
	EXPECT_LE(0, pm_move(self->fd, t.pid, NULL, ~0UL, 0, 1, &hot, back, &res));
	EXPECT_LE(0, pm_move(self->fd, t.pid, NULL, ~0UL, 0, 1, &hot, &any, &res));
	EXPECT_LE(0, move_patiently(self->fd, t.pid, NULL, ~0UL, 1, back, &mem[1], &sum));
	EXPECT_EQ(0, pm_placement(self->fd, t.pid, NULL, ~0UL, pages));
	EXPECT_EQ(0, pages[hot]);
	target_stop(_metadata, &t);
	EXPECT_TRUE(target_is_whole(t.pid));
	target_end(&t);
	globfree(&eject);
}

TEST_HARNESS_MAIN
