// SPDX-License-Identifier: GPL-2.0
/*
 * Policies of a job whose cpuset changes around its move: widened before and
 * narrowed after it, moved before it, or left alone. The kernel renames nodes
 * by their rank in the cpuset, which is not what the lists say.
 */
#include "harness.h"
#include "policy_util.h"

/* A to B and B to C: the lists overlap. */
#define SHIFT 2, ((const int[]){ A, B }), ((const int[]){ B, C })
#define SWAP 2, ((const int[]){ A, B }), ((const int[]){ B, A })

/* Pages that each look takes of a mapping, and how often it can. */
enum { STEP = 4, LOOKS = 8 };

/* What a policy is to be: as it was asked for, and the nodes in effect. */
struct want {
	int mode;
	struct nodes asked, effect;
	bool skip;
};

/* Shared with the processes of the job. */
struct plan {
	size_t n;
	struct want vma[16];
	struct want thread;
};

static struct want wanted(int mode, struct nodes asked, struct nodes effect)
{
	return (struct want){ mode, asked, effect, false };
}

/* Every kind of policy on A, on B and on both, in a cpuset of these two. */
static void fill_plan(struct plan *plan)
{
	static const int modes[] = { MPOL_BIND, MPOL_PREFERRED_MANY, MPOL_PREFERRED };
	struct want *at = plan->vma;

	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		*at++ = wanted(modes[i], NODES(A), NODES(A));
		*at++ = wanted(modes[i], NODES(B), NODES(B));
	}
	*at++ = wanted(MPOL_INTERLEAVE, NODES(A, B), NODES(A, B));
	*at++ = wanted(MPOL_WEIGHTED_INTERLEAVE, NODES(B), NODES(B));
	*at++ = wanted(MPOL_BIND | MPOL_F_STATIC_NODES, NODES(A), NODES(A));
	*at++ = wanted(MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, NODES(B), NODES(B));
	*at++ = wanted(MPOL_BIND | MPOL_F_RELATIVE_NODES, NODES(0), NODES(A));
	*at++ = wanted(MPOL_BIND | MPOL_F_RELATIVE_NODES, NODES(1), NODES(B));
	plan->n = at - plan->vma;
	plan->thread = wanted(MPOL_BIND, NODES(A), NODES(A));
}

static void rename_one(struct want *w, int count, const int *old, const int *new)
{
	w->effect = image(w->effect, count, old, new);
	if (!(w->mode & MPOL_F_RELATIVE_NODES))
		w->asked = image(w->asked, count, old, new);
}

static size_t rename_plan(struct plan *plan, int count, const int *old, const int *new)
{
	size_t changed = 0;

	for (size_t i = 0; i < plan->n; i++) {
		struct nodes before = plan->vma[i].effect;

		rename_one(&plan->vma[i], count, old, new);
		changed += !nodes_same(before, plan->vma[i].effect);
	}
	rename_one(&plan->thread, count, old, new);
	return changed + 1;
}

/* Whether all is as the plan has it, and new pages land there. */
static bool holds(const struct plan *plan, const struct row *row, int look)
{
	const struct want *w = plan->vma;
	size_t at = (size_t)look * STEP * PAGE;
	char *fresh;
	bool ok;

	for (size_t i = 0; i < plan->n; i++, w++) {
		if (w->skip)
			continue;
		if (!policy_at_is(slot(row, i), w->mode, w->asked) ||
		    !shown_as(0, slot(row, i), w->mode, w->effect) ||
		    !faults_land_on(slot(row, i) + at, STEP, w->mode, w->effect)) {
			fprintf(stderr, "# that was mapping %zu, look %d\n", i, look);
			return false;
		}
	}
	w = &plan->thread;
	fresh = mmap(NULL, STEP * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fresh == MAP_FAILED)
		die("mmap");
	ok = policy_is(get_policy(NULL), w->mode, w->asked) &&
	     faults_land_on(fresh, STEP, w->mode, w->effect);
	munmap(fresh, STEP * PAGE);
	return ok;
}

struct subject {
	struct cg *cg;
	struct plan *plan;
	struct row row;
	int look;
};

enum { LOOK = 1, FORK };

/* A child that has copies of all policies. */
static void copy(struct child *c, void *arg)
{
	struct subject *s = arg;

	for (;;) {
		child_get(c);
		child_put(c, holds(s->plan, &s->row, s->look++));
	}
}

/* The process of the job, from before the move. */
static void subject(struct child *c, void *arg)
{
	struct subject *s = arg;
	struct child next = { };
	bool ok;

	cg_enter(s->cg, getpid());
	s->row = map_row(s->plan->n, STEP * LOOKS);
	for (size_t i = 0; i < s->plan->n; i++)
		set_policy(slot(&s->row, i), s->row.len, s->plan->vma[i].mode,
			   s->plan->vma[i].asked);
	set_thread_policy(s->plan->thread.mode, s->plan->thread.asked);
	child_put(c, 1);
	for (;;) {
		if (child_get(c) == FORK) {
			child_start(&next, copy, s);
			child_put(c, 1);
			continue;
		}
		ok = holds(s->plan, &s->row, s->look++);
		if (next.pid) {
			child_put(&next, 1);
			ok &= child_get(&next);
		}
		child_put(c, ok);
	}
}

FIXTURE(cpuset)
{
	int fd;
	struct cg cg;
	struct plan *plan;
	struct child c;
	struct page_migrate_result res;
};

/* A process in a cpuset of A and B, with every kind of policy. */
FIXTURE_SETUP(cpuset)
{
	struct subject s;

	self->fd = pm_open();
	self->plan = mmap(NULL, sizeof(*self->plan), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->plan);
	fill_plan(self->plan);
	cg_make(&self->cg, "policy", nodes_text(NODES(A, B)));
	s = (struct subject){ .cg = &self->cg, .plan = self->plan };
	child_start(&self->c, subject, &s);
	child_get(&self->c);
}

FIXTURE_TEARDOWN(cpuset)
{
	child_end(&self->c);
	cg_remove(&self->cg);
	munmap(self->plan, sizeof(*self->plan));
	close(self->fd);
}

static bool ask(FIXTURE_DATA(cpuset) *self, int what)
{
	child_put(&self->c, what);
	return child_get(&self->c);
}

#define AS_PLANNED()	EXPECT_TRUE(ask(self, LOOK))
#define SET_MEMS(...)								\
	ASSERT_EQ(0, cg_set(&self->cg, "cpuset.mems", nodes_text(NODES(__VA_ARGS__))))

/* Widened, moved, narrowed: what a batch manager does. */
TEST_F(cpuset, widened_and_narrowed)
{
	size_t changed;

	AS_PLANNED();
	SET_MEMS(A, B, C);
	AS_PLANNED();
	changed = rename_plan(self->plan, SHIFT);
	ASSERT_LE(0, pm_move(self->fd, self->c.pid, WHOLE, 0, SHIFT, &self->res));
	EXPECT_EQ(changed, self->res.policies);
	AS_PLANNED();
	/* Copies made after the move stay as well. */
	ASSERT_TRUE(ask(self, FORK));
	SET_MEMS(B, C);
	AS_PLANNED();
	/* The job is not done twice. */
	ASSERT_LE(0, pm_move(self->fd, self->c.pid, WHOLE, 0, 1, &A, &B, &self->res));
	EXPECT_EQ(0, self->res.policies);
	AS_PLANNED();
}

/* Where it would go wrong: policies that programs set so are sent back. */
TEST(ranks_are_not_lists)
{
	struct row row = map_row(2, STEP);
	struct cg cg;

	cg_make(&cg, "ranks", nodes_text(NODES(A, B, C)));
	cg_enter(&cg, getpid());
	set_policy(slot(&row, 0), STEP, MPOL_BIND, NODES(B));
	set_policy(slot(&row, 1), STEP, MPOL_BIND, NODES(C));
	ASSERT_EQ(0, cg_set(&cg, "cpuset.mems", nodes_text(NODES(B, C))));
	EXPECT_TRUE(policy_at_is(slot(&row, 0), MPOL_BIND, NODES(C)));
	EXPECT_TRUE(policy_at_is(slot(&row, 1), MPOL_BIND, NODES(B)));
	cg_leave(getpid());
	cg_remove(&cg);
}

/* What the kernel does not rename when a cpuset changes, or in its own way. */
static void skip_the_kernels(struct plan *plan)
{
	for (size_t i = 0; i < plan->n; i++) {
		int mode = plan->vma[i].mode;

		plan->vma[i].skip = mode == MPOL_PREFERRED || mode == MPOL_PREFERRED_MANY ||
			(mode & MPOL_F_STATIC_NODES);
	}
}

/* The cpuset was moved first: the kernel has renamed, and once is enough. */
TEST_F(cpuset, moved_first)
{
	AS_PLANNED();
	skip_the_kernels(self->plan);
	rename_plan(self->plan, SHIFT);
	SET_MEMS(B, C);
	AS_PLANNED();
	ASSERT_LE(0, pm_move(self->fd, self->c.pid, WHOLE, PAGE_MIGRATE_KEEP_POLICY, SHIFT,
			     &self->res));
	EXPECT_EQ(0, self->res.policies);
	AS_PLANNED();
}

/*
 * Nodes that change places within the cpuset: it is not going to be narrowed,
 * so that policies stay as much the kernel's to rename as they were.
 */
TEST_F(cpuset, swapped_within)
{
	size_t changed = rename_plan(self->plan, SWAP);

	ASSERT_LE(0, pm_move(self->fd, self->c.pid, WHOLE, 0, SWAP, &self->res));
	/* The interleaved pair stays what it is. */
	EXPECT_EQ(changed, self->res.policies);
	AS_PLANNED();
	/* Relative nodes are the kernel's again. */
	skip_the_kernels(self->plan);
	for (size_t i = 0; i < self->plan->n; i++)
		if (self->plan->vma[i].mode & MPOL_F_RELATIVE_NODES)
			rename_one(&self->plan->vma[i], SWAP);
	rename_plan(self->plan, SHIFT);
	SET_MEMS(B, C);
	AS_PLANNED();
}

TEST_HARNESS_MAIN
