// SPDX-License-Identifier: GPL-2.0
/*
 * The policies of mappings: every mode, flag and home node, which mappings a
 * range holds, and once per job whatever the target does between the calls.
 */
#include "harness.h"
#include "policy_util.h"

#include <fcntl.h>
#include <numa.h>

#define CYCLE 3, CYCLE_OLD, CYCLE_NEW
#define BACK 3, CYCLE_NEW, CYCLE_OLD

/* Pages of a mapping that are there before the call, and all of it. */
enum { EARLY = 6, LEN = 18 };

struct kind {
	int mode;
	struct nodes asked;	/* what mbind is given */
	struct nodes effect;	/* the nodes that come out of it */
};

/* Every mode with every flag, over three sets of nodes. */
static size_t all_kinds(struct kind *kinds)
{
	static const int modes[] = { MPOL_BIND, MPOL_PREFERRED, MPOL_PREFERRED_MANY,
				     MPOL_INTERLEAVE, MPOL_WEIGHTED_INTERLEAVE };
	static const int flags[] = { 0, MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES };
	/* Places among the nodes with memory: what relative nodes count. */
	const int sets[][3] = {
		{ FIRST, FIRST + 2, FIRST + 2 },
		{ FIRST, FIRST + 1, FIRST + 1 },
		{ LAST, LAST, LAST },
	};
	size_t n = 0;

	for (size_t m = 0; m < ARRAY_LEN(modes); m++)
		for (size_t f = 0; f < ARRAY_LEN(flags); f++)
			for (size_t s = 0; s < ARRAY_LEN(sets); s++) {
				struct kind *k = &kinds[n++];
				/* A preferred node is one, the first. */
				int len = modes[m] == MPOL_PREFERRED ? 1 : 3, at[3];

				for (int i = 0; i < 3; i++)
					at[i] = mem[sets[s][i]];
				k->mode = modes[m] | flags[f];
				k->effect = nodes_list(len, at);
				k->asked = flags[f] == MPOL_F_RELATIVE_NODES ?
					nodes_list(len, sets[s]) : k->effect;
			}
	kinds[n++] = (struct kind){ MPOL_BIND | MPOL_F_NUMA_BALANCING, NODES(A, C), NODES(A, C) };
	return n;
}

/* What a job makes of a kind of policy. */
static struct kind moved(const struct kind *k, int count, const int *old, const int *new)
{
	struct kind to = *k;

	to.effect = image(k->effect, count, old, new);
	if (!(k->mode & MPOL_F_RELATIVE_NODES))
		to.asked = image(k->asked, count, old, new);
	return to;
}

static bool is_kind(const char *p, const struct kind *k)
{
	return policy_at_is(p, k->mode, k->asked) && shown_as(0, p, k->mode, k->effect);
}

TEST(each_mode_and_flag)
{
	struct kind kinds[64];
	size_t n = all_kinds(kinds);
	struct row row = map_row(n, LEN);
	int fd = pm_open(), *from = malloc(n * EARLY * 4), to[EARLY];
	struct page_migrate_result dry, res;

	for (size_t i = 0; i < n; i++) {
		set_policy(slot(&row, i), LEN, kinds[i].mode, kinds[i].asked);
		ASSERT_TRUE(is_kind(slot(&row, i), &kinds[i]));
		ASSERT_TRUE(faults_land_on(slot(&row, i), EARLY, kinds[i].mode, kinds[i].effect));
		nodes_of(0, slot(&row, i), EARLY, from + i * EARLY);
	}

	/* A dry run counts them and changes none. */
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), PAGE_MIGRATE_DRY_RUN, CYCLE, &dry));
	for (size_t i = 0; i < n; i++)
		EXPECT_TRUE(is_kind(slot(&row, i), &kinds[i]));

	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, CYCLE, &res)) pm_print(&res);
	EXPECT_EQ(n, res.policies);
	EXPECT_EQ(n, dry.policies);
	for (size_t i = 0; i < n; i++) {
		struct kind after = moved(&kinds[i], CYCLE);

		EXPECT_TRUE(is_kind(slot(&row, i), &after)) TH_LOG("mode %#x", after.mode);
		/* The pages by the map, one by one; new ones by the policy. */
		nodes_of(0, slot(&row, i), EARLY, to);
		for (int p = 0; p < EARLY; p++) {
			struct nodes want = image(NODES(from[i * EARLY + p]), CYCLE);

			EXPECT_TRUE(has_node(&want, to[p]));
		}
		EXPECT_TRUE(faults_land_on(slot(&row, i) + EARLY * PAGE, LEN - EARLY,
					   after.mode, after.effect));
	}

	/* The same job again: nothing more, though every node is an old one. */
	ASSERT_LE(0, pm_move(fd, 0, row.base, row_size(&row), 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	for (size_t i = 0; i < n; i++) {
		struct kind after = moved(&kinds[i], CYCLE);

		EXPECT_TRUE(is_kind(slot(&row, i), &after));
	}

	/* Another job, back: everything as it was. */
	ASSERT_LE(0, pm_move(fd, 0, row.base, row_size(&row), 0, BACK, &res));
	EXPECT_EQ(n, res.policies);
	for (size_t i = 0; i < n; i++)
		EXPECT_TRUE(is_kind(slot(&row, i), &kinds[i]));
}

TEST(what_has_no_old_node_is_no_change)
{
	struct row row = map_row(5, LEN);
	int fd = pm_open();
	struct page_migrate_result res;

	set_policy(slot(&row, 0), LEN, MPOL_LOCAL, (struct nodes){ });
	set_policy(slot(&row, 1), LEN, MPOL_PREFERRED, (struct nodes){ });
	set_policy(slot(&row, 2), LEN, MPOL_BIND, NODES(C));
	/* The cycle's image of its own three nodes is the same set. */
	set_policy(slot(&row, 3), LEN, MPOL_INTERLEAVE, NODES(A, B, Z));
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_LOCAL, (struct nodes){ }));
	EXPECT_TRUE(policy_at_is(slot(&row, 1), MPOL_LOCAL, (struct nodes){ }));
	EXPECT_TRUE(policy_at_is(slot(&row, 2), MPOL_BIND, NODES(C)));
	EXPECT_TRUE(policy_at_is(slot(&row, 3), MPOL_INTERLEAVE, NODES(A, B, Z)));
	EXPECT_TRUE(policy_at_is(slot(&row, 4), MPOL_DEFAULT, (struct nodes){ }));
	EXPECT_TRUE(faults_land_on(slot(&row, 2), LEN, MPOL_BIND, NODES(C)));
}

/*
 * The thread runs on B's CPU, if it has one. BIND to {A,B} at home on A becomes
 * {B,Z} at home on B; at home on B it becomes {B,Z} at home on Z, which neither
 * the CPU's node nor the old home would give.
 */
TEST(home_node_follows)
{
	struct row row = map_row(4, LEN);
	int fd = pm_open();
	struct page_migrate_result res;

	if (node_in("has_cpu", B))
		ASSERT_EQ(0, numa_run_on_node(B));
	for (int i = 0; i < 4; i++) {
		int mode = i / 2 ? MPOL_PREFERRED_MANY : MPOL_BIND;

		set_policy(slot(&row, i), LEN, mode, NODES(A, B));
		set_home(slot(&row, i), LEN, i % 2 ? B : A);
		ASSERT_TRUE(faults_land_on(slot(&row, i), EARLY, 0, i % 2 ? NODES(B) : NODES(A)));
	}
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, CYCLE, &res)) pm_print(&res);
	EXPECT_EQ(4, res.policies);
	for (int i = 0; i < 4; i++) {
		int mode = i / 2 ? MPOL_PREFERRED_MANY : MPOL_BIND;

		EXPECT_TRUE(policy_at_is(slot(&row, i), mode, NODES(B, Z)));
		EXPECT_TRUE(faults_land_on(slot(&row, i) + EARLY * PAGE, LEN - EARLY, 0,
					   i % 2 ? NODES(Z) : NODES(B)));
	}
}

/* Nodes that are all old and all new: only the home shows the change. */
TEST(home_node_alone_changes)
{
	struct row row = map_row(1, LEN);
	int fd = pm_open();
	struct page_migrate_result res;

	if (node_in("has_cpu", B))
		ASSERT_EQ(0, numa_run_on_node(B));
	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A, B, Z));
	set_home(slot(&row, 0), LEN, B);
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(A, B, Z)));
	EXPECT_TRUE(faults_land_on(slot(&row, 0), LEN, 0, NODES(Z)));
}

TEST(keep_policy)
{
	struct row row = map_row(1, LEN);
	int fd = pm_open();
	struct page_migrate_result res;

	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A));
	touch_for_writing(slot(&row, 0), EARLY);
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), PAGE_MIGRATE_KEEP_POLICY, CYCLE,
			     &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_EQ(EARLY, res.moved);
	EXPECT_TRUE(all_on(0, slot(&row, 0), EARLY, &B, 1));
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(A)));
	/* The same job without the flag: the policy's turn, the pages' no more. */
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_EQ(EARLY, res.already_moved);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(B)));
	EXPECT_TRUE(all_on(0, slot(&row, 0), EARLY, &B, 1));
}

TEST(only_mappings_that_lie_in_the_range)
{
	struct row row = map_row(3, LEN);
	int fd = pm_open();
	struct page_migrate_result res;
	char *start = slot(&row, 0), *end = slot(&row, 2) + LEN * PAGE;

	for (int i = 0; i < 3; i++)
		set_policy(slot(&row, i), LEN, MPOL_BIND, NODES(A));
	/* A page short at both ends. */
	ASSERT_EQ(0, pm_move(fd, 0, start + PAGE, end - start - 2 * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(A)));
	EXPECT_TRUE(policy_at_is(slot(&row, 1), MPOL_BIND, NODES(B)));
	EXPECT_TRUE(policy_at_is(slot(&row, 2), MPOL_BIND, NODES(A)));
	/* An empty range holds none. */
	ASSERT_EQ(0, pm_move(fd, 0, start, 0, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	/* Exactly one mapping; a length that is rounded up to its end. */
	ASSERT_EQ(0, pm_move(fd, 0, start, LEN * PAGE - 1, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(B)));
	EXPECT_TRUE(policy_at_is(slot(&row, 2), MPOL_BIND, NODES(A)));
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(B)));
	EXPECT_TRUE(policy_at_is(slot(&row, 1), MPOL_BIND, NODES(B)));
	EXPECT_TRUE(policy_at_is(slot(&row, 2), MPOL_BIND, NODES(B)));
}

TEST(once_after_a_split_and_a_move)
{
	struct row row = map_row(2, LEN);
	int fd = pm_open();
	struct page_migrate_result res;
	char *p = slot(&row, 0), *q;

	set_policy(p, LEN, MPOL_BIND, NODES(A));
	set_policy(slot(&row, 1), LEN, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, NODES(A, C));
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	ASSERT_EQ(2, res.policies);
	/* Three mappings of one, and the second one elsewhere. */
	ASSERT_EQ(0, mprotect(p + 6 * PAGE, 6 * PAGE, PROT_READ));
	q = mremap(slot(&row, 1), LEN * PAGE, 2 * LEN * PAGE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, (void *)q);
	ASSERT_NE(slot(&row, 1), q);
	for (int i = 0; i < 2; i++) {
		ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
		EXPECT_EQ(0, res.policies);
		EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
		EXPECT_TRUE(policy_at_is(p + 6 * PAGE, MPOL_BIND, NODES(B)));
		EXPECT_TRUE(policy_at_is(p + 12 * PAGE, MPOL_BIND, NODES(B)));
		EXPECT_TRUE(policy_at_is(q, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, NODES(B, C)));
	}
	/* Put together again. */
	ASSERT_EQ(0, mprotect(p, LEN * PAGE, PROT_READ | PROT_WRITE));
	/* What the program sets itself between two calls is a new policy. */
	set_policy(p + 6 * PAGE, 6, MPOL_BIND, NODES(A));
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(p, MPOL_BIND, NODES(B)));
	EXPECT_TRUE(policy_at_is(p + 6 * PAGE, MPOL_BIND, NODES(B)));
	EXPECT_TRUE(policy_at_is(p + 12 * PAGE, MPOL_BIND, NODES(B)));
	/* New jobs begin anew: by flag, by file, by lists. */
	ASSERT_EQ(0, pm_move(fd, 0, q, 2 * LEN * PAGE, PAGE_MIGRATE_NEW_JOB, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(q, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, NODES(Z, C)));
	ASSERT_EQ(0, pm_move(pm_open(), 0, q, 2 * LEN * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(q, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, NODES(A, C)));
	ASSERT_EQ(0, pm_move(fd, 0, q, 2 * LEN * PAGE, 0, 1, &A, &Z, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(q, MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, NODES(Z, C)));
}

/* A dry run of another job between two calls leaves the job alone. */
TEST(once_after_a_dry_run)
{
	struct row row = map_row(1, LEN);
	int fd = pm_open();
	struct page_migrate_result res;

	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A));
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	ASSERT_EQ(1, res.policies);
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, PAGE_MIGRATE_DRY_RUN, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, PAGE_MIGRATE_DRY_RUN | PAGE_MIGRATE_NEW_JOB, CYCLE,
			     &res));
	EXPECT_EQ(1, res.policies);
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, PAGE_MIGRATE_DRY_RUN, BACK, &res));
	EXPECT_EQ(1, res.policies);
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, PAGE_MIGRATE_DRY_RUN | PAGE_MIGRATE_KEEP_POLICY, BACK,
			     &res));
	EXPECT_EQ(0, res.policies);
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(B)));
}

static void forked(struct child *c, void *arg)
{
	const struct row *row = arg;

	for (;;) {
		child_get(c);
		/* A new mapping, policy and all, from a split. */
		mprotect(slot(row, 0) + PAGE, PAGE, PROT_READ);
		child_put(c, policy_at_is(slot(row, 0), MPOL_BIND, NODES(B)) &&
			  policy_at_is(slot(row, 0) + PAGE, MPOL_BIND, NODES(B)) &&
			  policy_at_is(slot(row, 1), MPOL_INTERLEAVE, NODES(B, Z)) &&
			  policy_at_is(slot(row, 2), MPOL_BIND | MPOL_F_RELATIVE_NODES,
				       NODES(FIRST)) &&
			  shown_as(0, slot(row, 2), MPOL_BIND | MPOL_F_RELATIVE_NODES, NODES(B)));
	}
}

TEST(once_after_a_fork)
{
	struct row row = map_row(3, LEN);
	int fd = pm_open();
	struct page_migrate_result res;
	struct child before, after;

	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A));
	set_policy(slot(&row, 1), LEN, MPOL_INTERLEAVE, NODES(A, B));
	set_policy(slot(&row, 2), LEN, MPOL_BIND | MPOL_F_RELATIVE_NODES, NODES(FIRST));
	child_start(&before, forked, &row);
	ASSERT_LE(0, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	ASSERT_EQ(3, res.policies);
	child_start(&after, forked, &row);
	/* One has policies of its own still to change, the other copies of ours. */
	ASSERT_LE(0, pm_move(fd, before.pid, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(3, res.policies);
	ASSERT_LE(0, pm_move(fd, after.pid, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	for (int i = 0; i < 2; i++) {
		child_put(&before, 1);
		EXPECT_TRUE(child_get(&before));
		child_put(&after, 1);
		EXPECT_TRUE(child_get(&after));
		ASSERT_LE(0, pm_move(fd, before.pid, WHOLE, 0, CYCLE, &res));
		EXPECT_EQ(0, res.policies);
		ASSERT_LE(0, pm_move(fd, after.pid, WHOLE, 0, CYCLE, &res));
		EXPECT_EQ(0, res.policies);
	}
	child_end(&before);
	child_end(&after);
}

TEST(every_other_node)
{
	struct row row = map_row(3, LEN);
	int fd = pm_open(), old[] = { C, ANY }, new[] = { C, Z };
	struct page_migrate_result res;

	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A, B));
	set_policy(slot(&row, 1), LEN, MPOL_PREFERRED_MANY, NODES(B, C));
	set_policy(slot(&row, 2), LEN, MPOL_PREFERRED, NODES(C));
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, 2, old, new, &res));
	EXPECT_EQ(2, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(Z)));
	EXPECT_TRUE(policy_at_is(slot(&row, 1), MPOL_PREFERRED_MANY, NODES(Z, C)));
	EXPECT_TRUE(policy_at_is(slot(&row, 2), MPOL_PREFERRED, NODES(C)));
}

TEST(nearest_node)
{
	struct row row = map_row(1, LEN);
	int fd = pm_open(), old[] = { A, B }, new[] = { ANY, C }, least = 256, at = -1;
	struct page_migrate_result res;
	struct policy pol;

	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A));
	for (int i = 0; i < nr_mem; i++)
		if (mem[i] != A && mem[i] != B &&
		    node_distance_of(A, mem[i]) < least)
			least = node_distance_of(A, mem[i]);
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, 2, old, new, &res));
	EXPECT_EQ(1, res.policies);
	pol = get_policy(slot(&row, 0));
	EXPECT_EQ(MPOL_BIND, pol.mode);
	EXPECT_EQ(1, nodes_count(pol.nodes));
	for (int i = 0; i < nr_mem; i++)
		if (has_node(&pol.nodes, mem[i]))
			at = mem[i];
	ASSERT_LE(0, at);
	EXPECT_NE(A, at);
	EXPECT_NE(B, at);
	EXPECT_EQ(least, node_distance_of(A, at));
}

/*
 * Static nodes keep what is not to be had now: what is outside the cpuset, or,
 * on a machine that has such a node, without memory.
 */
TEST(nodes_that_are_not_in_effect)
{
	struct row row = map_row(2, LEN);
	int fd = pm_open(), mode = MPOL_BIND | MPOL_F_STATIC_NODES;
	int absent[] = { C, node_without_memory() };
	struct page_migrate_result res;
	char mems[64];
	struct cg cg;

	snprintf(mems, sizeof(mems), "%d,%d,%d", A, B, Z);
	cg_make(&cg, "static", mems);
	cg_enter(&cg, getpid());
	for (size_t i = 0; i < ARRAY_LEN(absent); i++) {
		int node = absent[i];

		if (!node_in("online", node))
			continue;
		set_policy(slot(&row, 0), LEN, mode, NODES(A, node));
		ASSERT_TRUE(shown_as(0, slot(&row, 0), mode, NODES(A)));
		set_policy(slot(&row, 1), LEN, mode, NODES(B, node));
		ASSERT_EQ(0, pm_move(fd, 0, slot(&row, 0), LEN * PAGE, 0, CYCLE, &res));
		EXPECT_EQ(1, res.policies);
		EXPECT_TRUE(policy_at_is(slot(&row, 0), mode, NODES(B, node)));
		EXPECT_TRUE(shown_as(0, slot(&row, 0), mode, NODES(B)));
		ASSERT_EQ(0, pm_move(fd, 0, slot(&row, 1), LEN * PAGE, 0, 1, &node, &Z, &res));
		EXPECT_EQ(1, res.policies);
		EXPECT_TRUE(policy_at_is(slot(&row, 1), mode, NODES(B, Z)));
		EXPECT_TRUE(faults_land_on(slot(&row, 0), LEN, mode, NODES(B)));
		madvise(slot(&row, 0), LEN * PAGE, MADV_DONTNEED);
	}
	cg_leave(getpid());
	cg_remove(&cg);
}

/* Static nodes may be such as this machine cannot have. They stay what they are. */
TEST(nodes_that_cannot_be)
{
	struct row row = map_row(2, LEN);
	int fd = pm_open(), mode = MPOL_BIND | MPOL_F_STATIC_NODES;
	int beyond = nr_node_ids();
	/* What is in another word than the last node there can be is not shown. */
	bool shown = beyond % WORD_BITS;
	struct page_migrate_result res;

	set_policy(slot(&row, 0), LEN, mode, NODES(A, beyond));
	set_policy(slot(&row, 1), LEN, mode, NODES(C, beyond));
	ASSERT_TRUE(policy_at_is(slot(&row, 0), mode, shown ? NODES(A, beyond) : NODES(A)));
	ASSERT_EQ(0, pm_move(fd, 0, slot(&row, 0), LEN * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), mode, shown ? NODES(B, beyond) : NODES(B)));
	ASSERT_EQ(0, pm_move(fd, 0, slot(&row, 1), LEN * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(0, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 1), mode, shown ? NODES(C, beyond) : NODES(C)));
}

TEST(many_mappings)
{
	enum { N = 300 };
	struct row row = map_row(N, 2);
	int fd = pm_open();
	struct page_migrate_result res;
	size_t want = 0;

	for (int i = 0; i < N; i++)
		if (i % 3) {
			set_policy(slot(&row, i), 2, MPOL_BIND, NODES(mem[FIRST + i % 4]));
			want += image(NODES(mem[FIRST + i % 4]), 1, &A, &B).word[0] !=
				NODES(mem[FIRST + i % 4]).word[0];
		}
	ASSERT_EQ(0, pm_move(fd, 0, row.base, row_size(&row), 0, 1, &A, &B, &res));
	EXPECT_EQ(want, res.policies);
	for (int i = 0; i < N; i++)
		if (i % 3)
			EXPECT_TRUE(policy_at_is(slot(&row, i), MPOL_BIND,
						 image(NODES(mem[FIRST + i % 4]), 1, &A, &B)));
}

/* Files and huge pages have the policy in the mapping alone. */
TEST(mappings_of_other_kinds)
{
	int fd = pm_open(), exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct page_migrate_result res;
	char *huge, *file;

	ASSERT_LE(0, exe);
	file = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe, 0);
	ASSERT_NE(MAP_FAILED, (void *)file);
	huge = mmap(NULL, 2 * HPAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)huge);
	set_policy(file, 4, MPOL_BIND, NODES(A));
	set_policy(huge, 2 * HPAGE_NR, MPOL_BIND, NODES(A, C));
	ASSERT_LE(0, pm_move(fd, 0, file, 4 * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(file, MPOL_BIND, NODES(B)));
	/* The private copy of a file's page is a new fault. */
	EXPECT_TRUE(faults_land_on(file, 4, MPOL_BIND, NODES(B)));
	ASSERT_LE(0, pm_move(fd, 0, huge, 2 * HPAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(huge, MPOL_BIND, NODES(B, C)));
}

/* Room for the results of three pairs that cannot be written. */
static const uint64_t only_read[3] = { 1, 2, 3 };

/* Another user moves its parent, or wants to. */
static void not_permitted(struct child *c, void *arg)
{
	int fd = pm_open();
	pid_t pid = getppid();

	drop_to(NOBODY);
	child_put(c, pm_move(fd, pid, WHOLE, 0, CYCLE, arg));
	child_put(c, pm_move(fd, pid, WHOLE, PAGE_MIGRATE_NEW_JOB, 1, &A, &B, arg));
}

TEST(a_refused_call_changes_none)
{
	struct row row = map_row(1, LEN);
	int fd = pm_open(), none = nr_node_ids();
	struct page_migrate_request req;
	struct page_migrate_result res;
	/* A list that begins well, and ends where nothing is mapped. */
	char *edge = slot(&row, 0) + LEN * PAGE;
	int *torn = (int *)edge - 2;
	struct child c;

	memcpy(torn, CYCLE_OLD, 2 * sizeof(int));
	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A));
	req = pm_req(0, WHOLE, 3, torn, CYCLE_NEW);
	EXPECT_EQ(-EFAULT, pm_migrate(fd, &req));
	req = pm_req(0, WHOLE, 3, CYCLE_OLD, torn);
	EXPECT_EQ(-EFAULT, pm_migrate(fd, &req));
	req = pm_req(0, WHOLE, 3, CYCLE_OLD, CYCLE_NEW);
	req.moved_by_pair = (uintptr_t)edge - 8;
	EXPECT_EQ(-EFAULT, pm_migrate(fd, &req));
	/* It can be read, but not written. */
	req.moved_by_pair = (uintptr_t)only_read;
	EXPECT_EQ(-EFAULT, pm_migrate(fd, &req));
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(A)));
	child_start(&c, not_permitted, &res);
	EXPECT_EQ(-EPERM, (long)child_get(&c));
	EXPECT_EQ(-EPERM, (long)child_get(&c));
	child_end(&c);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(A)));
	EXPECT_EQ(-EINVAL, pm_move(fd, 0, WHOLE, 0, 1, &A, &none, &res));
	EXPECT_EQ(-EINVAL, pm_move(fd, 0, WHOLE, 0, 2, ((int[]){ A, A }), CYCLE_NEW, &res));
	EXPECT_EQ(-EINVAL, pm_move(fd, 0, WHOLE, 1U << 31, CYCLE, &res));
	none = node_without_memory();
	if (none >= 0)
		EXPECT_EQ(-ENODEV, pm_move(fd, 0, WHOLE, 0, 1, &A, &none, &res));
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(A)));
	ASSERT_EQ(0, pm_move(fd, 0, slot(&row, 0), LEN * PAGE, 0, CYCLE, &res));
	EXPECT_EQ(1, res.policies);
}

/* The cpuset allows what the first entries want, but not the last. */
TEST(nor_does_one_that_the_cpuset_refuses)
{
	struct row row = map_row(1, LEN);
	struct page_migrate_result res;
	int fd = pm_open();
	char mems[32];
	struct cg cg;

	snprintf(mems, sizeof(mems), "%d,%d", A, B);
	cg_make(&cg, "policy", mems);
	cg_enter(&cg, getpid());
	set_policy(slot(&row, 0), LEN, MPOL_BIND, NODES(A));
	EXPECT_EQ(-EINVAL, pm_move(fd, 0, WHOLE, 0, CYCLE, &res));
	EXPECT_EQ(-EINVAL, pm_move(fd, 0, WHOLE, 0, 1, &A, &Z, &res));
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(A)));
	/* What it allows is done. */
	ASSERT_LE(0, pm_move(fd, 0, slot(&row, 0), LEN * PAGE, 0, 1, &A, &B, &res));
	EXPECT_EQ(1, res.policies);
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(B)));
	cg_leave(getpid());
	cg_remove(&cg);
}

TEST_HARNESS_MAIN
