// SPDX-License-Identifier: GPL-2.0
/*
 * The policies of shared memory files: they belong to the file, beside those
 * of the mappings, and change once however many processes map it.
 */
#include "harness.h"
#include "policy_util.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/shm.h>

#define CYCLE 3, CYCLE_OLD, CYCLE_NEW
#define SWAP 2, ((const int[]){ A, Z }), ((const int[]){ Z, A })

/* Three parts of a file with a policy each, and one without. */
enum { PART = 12, PARTS = 4, SIZE = PART * PARTS };

struct part {
	int mode;
	struct nodes asked, effect;
};

static void three_parts(struct part *part)
{
	part[0] = (struct part){ MPOL_BIND, NODES(A), NODES(A) };
	part[1] = (struct part){ MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, NODES(B, C), NODES(B, C) };
	/* The second node with memory, by its place. */
	part[2] = (struct part){
		MPOL_PREFERRED | MPOL_F_RELATIVE_NODES, NODES(FIRST + 1), NODES(B)
	};
	part[3] = (struct part){ MPOL_DEFAULT, { }, { } };
}

static void move_parts(struct part *part, int count, const int *old, const int *new)
{
	for (int i = 0; i < PARTS; i++) {
		if (!(part[i].mode & MPOL_F_RELATIVE_NODES))
			part[i].asked = image(part[i].asked, count, old, new);
		part[i].effect = image(part[i].effect, count, old, new);
	}
}

static void set_parts(char *p, const struct part *part)
{
	for (int i = 0; i < PARTS; i++)
		if (part[i].mode)
			set_policy(p + i * PART * PAGE, PART, part[i].mode, part[i].asked);
}

static bool parts_are(const char *p, const struct part *part)
{
	bool ok = true;

	for (int i = 0; i < PARTS; i++)
		ok &= policy_at_is(p + i * PART * PAGE, part[i].mode, part[i].asked);
	return ok;
}

/* Pages first..last-1 of each part are touched now and must land as it says. */
static bool parts_land(char *p, const struct part *part, int first, int last)
{
	bool ok = true;

	for (int i = 0; i < PARTS; i++)
		if (part[i].mode)
			ok &= faults_land_on(p + (i * PART + first) * PAGE, last - first,
					     part[i].mode, part[i].effect);
	return ok;
}

static char *map_file(int file, size_t npages)
{
	char *p = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static int new_file(size_t npages)
{
	int file = memfd_create("policy", MFD_CLOEXEC);

	if (file < 0 || ftruncate(file, npages * PAGE))
		die("memfd");
	return file;
}

static char *attach(int id)
{
	char *p = shmat(id, NULL, 0);

	if (p == (void *)-1)
		die("shmat");
	return p;
}

static void one_file(struct __test_metadata *_metadata, char *p)
{
	struct page_migrate_result res;
	struct part part[PARTS];
	int fd = pm_open();

	three_parts(part);
	set_parts(p, part);
	ASSERT_TRUE(parts_are(p, part));
	ASSERT_TRUE(parts_land(p, part, 0, 4));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, PAGE_MIGRATE_DRY_RUN, CYCLE, &res));
	/* The mapping's own and the file's. */
	EXPECT_EQ(6, res.policies);
	EXPECT_TRUE(parts_are(p, part));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res)) pm_print(&res);
	EXPECT_EQ(6, res.policies);
	move_parts(part, CYCLE);
	EXPECT_TRUE(parts_are(p, part));
	for (int i = 0; i < PARTS; i++) {
		EXPECT_TRUE(shown_as(0, p + i * PART * PAGE, part[i].mode, part[i].effect));
		if (part[i].mode)
			EXPECT_TRUE(lie_on(p + i * PART * PAGE, 4, part[i].effect, false));
	}
	EXPECT_TRUE(parts_land(p, part, 4, 8));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
		EXPECT_EQ(0, res.policies);
		EXPECT_TRUE(parts_are(p, part));
	}
	/* Another job finds them all again. */
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, PAGE_MIGRATE_NEW_JOB, CYCLE, &res));
	EXPECT_EQ(6, res.policies);
	move_parts(part, CYCLE);
	EXPECT_TRUE(parts_are(p, part));
	EXPECT_TRUE(parts_land(p, part, 8, PART));
}

TEST(memfd)
{
	one_file(_metadata, map_file(new_file(SIZE), SIZE));
}

TEST(anonymous_and_shared)
{
	char *p = mmap(NULL, SIZE * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);

	ASSERT_NE(MAP_FAILED, (void *)p);
	one_file(_metadata, p);
}

TEST(system_v)
{
	int id = shmget(IPC_PRIVATE, SIZE * PAGE, 0600 | IPC_CREAT);
	char *p;

	ASSERT_LE(0, id);
	p = attach(id);
	ASSERT_EQ(0, shmctl(id, IPC_RMID, NULL));
	one_file(_metadata, p);
}

TEST(private_mapping_of_a_shared_file)
{
	int file = new_file(SIZE), fd = pm_open();
	struct page_migrate_result res;
	char *p = mmap(NULL, SIZE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);

	ASSERT_NE(MAP_FAILED, (void *)p);
	/* The kernel gives the file a policy here as well, and copies follow it. */
	set_policy(p, SIZE, MPOL_BIND, NODES(A));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(2, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
	EXPECT_TRUE(faults_land_on(p, SIZE, MPOL_BIND, NODES(B)));
}

/* The policy came with the mount; no mapping has one. */
TEST(policy_of_a_mount)
{
	int fd = pm_open(), file;
	struct page_migrate_result res;
	char options[64];
	char *p, *q;

	snprintf(options, sizeof(options), "huge=never,mpol=bind:%d", A);
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", "/mnt", "tmpfs", 0, options))
		die("tmpfs on /mnt");
	file = open("/mnt/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, SIZE * PAGE));
	p = map_file(file, SIZE);
	ASSERT_TRUE(faults_land_on(p, 4, MPOL_BIND, NODES(A)));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
	EXPECT_TRUE(lie_on(p, 4, NODES(B), false));
	/* What write(2) brings in follows the file. */
	q = calloc(SIZE, PAGE);
	ASSERT_EQ((ssize_t)(SIZE * PAGE), pwrite(file, q, SIZE * PAGE, 0));
	EXPECT_TRUE(faults_land_on(p, SIZE, MPOL_BIND, NODES(B)));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
}

struct job {
	int file, id;	/* one of them, the other -1 */
	struct part part[PARTS];
};

/* Another process of the job: 1 = look, n > 1 = touch page n - 2 of each part. */
static void sharer(struct child *c, void *arg)
{
	struct job *job = arg;
	char *p = job->id < 0 ? map_file(job->file, SIZE) : attach(job->id);

	child_put(c, (uintptr_t)p);
	for (;;) {
		int order = child_get(c);
		bool ok = parts_are(p, job->part);

		if (order > 1)
			for (int i = 0; i < PARTS; i++)
				if (job->part[i].mode)
					ok &= faults_land_on(p + (i * PART + order - 2) * PAGE, 1,
							     0, job->part[i].effect);
		child_put(c, ok);
	}
}

static void two_processes(struct __test_metadata *_metadata, struct job *job, bool other_first)
{
	char *p = job->id < 0 ? map_file(job->file, SIZE) : attach(job->id), *q;
	struct page_migrate_result res;
	int fd = pm_open();
	struct child c;

	three_parts(job->part);
	set_parts(p, job->part);
	ASSERT_TRUE(parts_land(p, job->part, 0, 4));
	/* The child sees in "part" what is to come. */
	move_parts(job->part, CYCLE);
	child_start(&c, sharer, job);
	q = (char *)child_get(&c);
	for (int i = 0; i < 3; i++) {
		if (other_first || i) {
			ASSERT_EQ(0, pm_move(fd, c.pid, q, SIZE * PAGE, 0, CYCLE, &res));
			/* Its mapping has none, there are the file's. */
			EXPECT_EQ(other_first && !i ? 3 : 0, res.policies);
		}
		ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
		EXPECT_EQ(i ? 0 : other_first ? 3 : 6, res.policies);
		EXPECT_TRUE(parts_are(p, job->part));
		child_put(&c, 4 + 2 + i);
		EXPECT_TRUE(child_get(&c));
	}
	EXPECT_TRUE(parts_land(p, job->part, 8, PART));
	child_end(&c);
}

TEST(two_processes_of_one_job)
{
	struct job job = { .file = new_file(SIZE), .id = -1 };

	two_processes(_metadata, &job, false);
}

TEST(two_processes_the_other_first)
{
	struct job job = { .file = new_file(SIZE), .id = -1 };

	two_processes(_metadata, &job, true);
}

TEST(two_processes_and_a_segment)
{
	struct job job = { .file = -1, .id = shmget(IPC_PRIVATE, SIZE * PAGE, 0600 | IPC_CREAT) };

	ASSERT_LE(0, job.id);
	two_processes(_metadata, &job, true);
	shmctl(job.id, IPC_RMID, NULL);
}

TEST(keep_policy_and_part_of_a_mapping)
{
	int file = new_file(SIZE), fd = pm_open();
	struct page_migrate_result res;
	char *p = map_file(file, SIZE);

	set_policy(p, SIZE, MPOL_BIND, NODES(A));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, PAGE_MIGRATE_KEEP_POLICY, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(A)));
	/* No mapping lies wholly inside: no file is touched either. */
	ASSERT_EQ(0, pm_move(fd, 0, p, (SIZE - 1) * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(A)));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(2, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
}

/* A window on the file is enough: the policies are the file's. */
TEST(mapping_of_a_part_of_the_file)
{
	int file = new_file(SIZE), fd = pm_open();
	struct page_migrate_result res;
	struct part part[PARTS];
	char *p = map_file(file, SIZE), *q;

	three_parts(part);
	set_parts(p, part);
	q = mmap(NULL, PART * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, PART * PAGE);
	ASSERT_NE(MAP_FAILED, (void *)q);
	ASSERT_EQ(0, pm_move(fd, 0, q, PART * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(3, res.policies);
	move_parts(part, CYCLE);
	EXPECT_TRUE(parts_are(p, part));
	EXPECT_TRUE(policy_at_is(q, part[1].mode, part[1].asked));
}

/*
 * A program that gives a piece in the middle a policy of its own splits what
 * the job has changed already: the new piece has its turn, the rest has not.
 */
TEST(once_after_a_split)
{
	int file = new_file(SIZE), fd = pm_open();
	struct page_migrate_result res;
	char *p = map_file(file, SIZE);

	set_policy(p, SIZE, MPOL_BIND, NODES(A));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
	ASSERT_EQ(2, res.policies);
	set_policy(p + PART * PAGE, PART, MPOL_INTERLEAVE, NODES(A, B));
	ASSERT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(2, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
	EXPECT_TRUE(policy_at_is(p + PART * PAGE, MPOL_INTERLEAVE, NODES(B, Z)));
	EXPECT_TRUE(policy_at_is(p + 2 * PART * PAGE, MPOL_BIND, NODES(B)));
	ASSERT_EQ(0, pm_move(fd, 0, p, SIZE * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
}

/* Huge pages of shared memory have no policy in the file. */
TEST(huge_pages)
{
	int id = shmget(IPC_PRIVATE, HPAGE, 0600 | IPC_CREAT | SHM_HUGETLB | SHM_NORESERVE);
	int fd = pm_open();
	struct page_migrate_result res;
	char *p;

	ASSERT_LE(0, id);
	p = attach(id);
	shmctl(id, IPC_RMID, NULL);
	set_policy(p, HPAGE_NR, MPOL_BIND, NODES(A));
	ASSERT_EQ(0, pm_move(fd, 0, p, HPAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
}

/*
 * The policy of a file that a target maps belongs to all who map it. A caller that
 * may not move shared pages leaves it, unless the target is the caller itself.
 */
struct user {
	int file;
	uid_t uid;
};

/* Maps the file, and says so. On a number other than 0, moves itself with those flags. */
static void use_file(struct child *c, void *arg)
{
	struct page_migrate_result res;
	struct user *u = arg;
	uint64_t flags;

	map_file(u->file, SIZE);
	if (u->uid)
		drop_to(u->uid);
	child_put(c, 1);
	while ((flags = child_get(c))) {
		long ret = pm_move(pm_open(), 0, NULL, ~0UL, flags & 0xff, CYCLE, &res);

		child_put(c, ret < 0 ? ret : (long)res.policies);
	}
}

struct foreign_call {
	pid_t pid;
	unsigned int flags;
};

/* Moves another process as nobody, and says how many policies changed. */
static void move_as_nobody(struct child *c, void *arg)
{
	const struct foreign_call *call = arg;
	struct page_migrate_result res;
	long ret;

	drop_to(NOBODY);
	ret = pm_move(pm_open(), call->pid, NULL, ~0UL, call->flags, CYCLE, &res);
	child_put(c, ret < 0 ? ret : (long)res.policies);
}

TEST(policies_of_others)
{
	struct user u = { new_file(SIZE), NOBODY };
	char *p = map_file(u.file, SIZE);
	struct page_migrate_result res;
	struct foreign_call call = { };
	struct child target, caller;
	int fd = pm_open();

	child_start(&target, use_file, &u);
	child_get(&target);
	call.pid = target.pid;
	/* After the target was made: its own mapping has no policy. */
	set_policy(p, SIZE, MPOL_BIND, NODES(A));

	/* Without CAP_SYS_NICE, and with it but EXCLUSIVE; dry runs, too. */
	for (int i = 0; i < 2; i++) {
		call.flags = i ? PAGE_MIGRATE_DRY_RUN : 0;
		child_start(&caller, move_as_nobody, &call);
		EXPECT_EQ(0, child_get(&caller));
		child_end(&caller);
		EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(A)));
		ASSERT_LE(0, pm_move(fd, target.pid, NULL, ~0UL,
				     PAGE_MIGRATE_EXCLUSIVE | call.flags, CYCLE, &res));
		EXPECT_EQ(0, res.policies);
		EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(A)));
	}

	/* The caller itself, without any privilege, also with EXCLUSIVE. */
	child_put(&target, PAGE_MIGRATE_NEW_JOB);
	EXPECT_EQ(1, child_get(&target));
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
	child_put(&target, PAGE_MIGRATE_NEW_JOB | PAGE_MIGRATE_EXCLUSIVE);
	EXPECT_EQ(1, child_get(&target));
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(Z)));

	/* And whoever may move shared pages. */
	ASSERT_LE(0, pm_move(fd, target.pid, NULL, ~0UL, PAGE_MIGRATE_NEW_JOB, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(A)));
	child_put(&target, 0);
	child_end(&target);
}

/*
 * Many pieces, and processes that fault all the time in the file while its
 * policies change places: no fault fails, nothing lands elsewhere.
 */
struct arena {
	volatile bool stop;
	volatile uint64_t rounds, stray;
};

enum { PIECES = 64, PIECE = 4 };

struct churn {
	struct arena *arena;
	int file;
};

static void churn(struct child *c, void *arg)
{
	struct churn *ch = arg;
	struct nodes allowed = NODES(A, Z);
	char *p = map_file(ch->file, PIECES * PIECE);
	int at[PIECES * PIECE];

	child_put(c, 1);
	while (!ch->arena->stop) {
		touch_for_writing(p, PIECES * PIECE);
		nodes_of(0, p, PIECES * PIECE, at);
		/* The other one may have punched a page out since. */
		for (int i = 0; i < PIECES * PIECE; i++)
			if (at[i] >= 0 && !has_node(&allowed, at[i]))
				ch->arena->stray++;
		if (madvise(p, PIECES * PIECE * PAGE, MADV_REMOVE))
			die("MADV_REMOVE");
		ch->arena->rounds++;
	}
	child_put(c, 2);
}

TEST(faults_that_never_fail)
{
	enum { ROUNDS = 40 };
	struct arena *arena = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct churn ch = { arena, new_file(PIECES * PIECE) };
	char *p = map_file(ch.file, PIECES * PIECE);
	int fd = pm_open(), modes[] = { MPOL_BIND, MPOL_PREFERRED, MPOL_BIND, MPOL_PREFERRED_MANY };
	long killed = vmstat("oom_kill");
	struct page_migrate_result res;
	struct child c[2];

	ASSERT_NE(MAP_FAILED, (void *)arena);
	for (int i = 0; i < PIECES; i++)
		set_policy(p + i * PIECE * PAGE, PIECE, modes[i % 4], NODES(i % 3 ? A : Z));
	for (int i = 0; i < 2; i++) {
		child_start(&c[i], churn, &ch);
		child_get(&c[i]);
	}
	for (int i = 0; i < ROUNDS; i++) {
		ASSERT_LE(0, pm_move(fd, 0, p, PIECES * PIECE * PAGE, PAGE_MIGRATE_NEW_JOB, SWAP,
				     &res)) pm_print(&res);
		EXPECT_EQ(2 * PIECES, res.policies);
	}
	arena->stop = true;
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(2, child_get(&c[i]));
	EXPECT_LT(0, arena->rounds);
	EXPECT_EQ(0, arena->stray);
	EXPECT_EQ(killed, vmstat("oom_kill"));
	for (int i = 0; i < PIECES; i++)
		EXPECT_TRUE(policy_at_is(p + i * PIECE * PAGE, modes[i % 4], NODES(i % 3 ? A : Z)));
	for (int i = 0; i < 2; i++)
		child_end(&c[i]);
}

TEST_HARNESS_MAIN
