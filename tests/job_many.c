// SPDX-License-Identifier: GPL-2.0
/*
 * Jobs of many processes on many nodes: one call per process, and each page is
 * where the map says, moved once. Beside it what migrate_pages(2) makes of the
 * same job. For machines with at least 16 nodes with memory.
 */
#include "harness.h"
#include "job.h"

FIXTURE(many)
{
	int fd;
	struct job job;
	struct job_shape shape;
	struct job_play play;
	struct page_migrate_result *each;
};

FIXTURE_SETUP(many)
{
	ASSERT_LE(16, nr_mem) TH_LOG("this machine has too few nodes");
	job_quiet_machine();
	self->fd = pm_open();
	self->shape = (struct job_shape){
		.members = 16, .nodes = nr_mem - 4, .shm = 3000, .file = 700, .own = 600,
		.cow = 400, .huge = 1,
	};
	/* Small nodes hold little, and the first ones hold the kernel. */
	if (nr_mem > 40) {
		self->shape = (struct job_shape){
			.members = 32, .first = 8, .nodes = nr_mem - 12, .shm = 600, .file = 150,
			.own = 60, .cow = 100, .locked = true,
		};
	}
	self->each = calloc(self->shape.members, sizeof(*self->each));
	job_start(&self->job, &self->shape);
}

FIXTURE_TEARDOWN(many)
{
	job_end(&self->job);
	free(self->each);
	close(self->fd);
}

/* What each call says, held against what was seen before the first of them. */
static void check_counts(struct __test_metadata *_metadata, FIXTURE_DATA(many) *self,
			 const struct job_record *before)
{
	uint64_t moved = 0;

	for (int m = 0; m < self->shape.members; m++) {
		const struct page_migrate_result *res = &self->each[m];
		size_t on_old = 0, n = before->first[m + 1] - before->first[m];

		for (size_t i = before->first[m]; i < before->first[m + 1]; i++)
			on_old += job_map_of(&self->play.map, before->page[i].node) !=
				  before->page[i].node;
		EXPECT_EQ(n, pm_sum(res)) pm_print(res);
		EXPECT_EQ(on_old, res->moved + res->already_moved) pm_print(res);
		EXPECT_EQ(n - on_old, res->in_place) pm_print(res);
		moved += res->moved;
	}
	/* Parts of large folios that no member maps move uncounted. */
	EXPECT_LE(moved, self->play.must_move);
	EXPECT_LT(self->play.must_move * 9 / 10, moved);
}

/* Moves the job by the map, as a new job, and checks everything. */
static void move(struct __test_metadata *_metadata, FIXTURE_DATA(many) *self,
		 unsigned int flags)
{
	struct job_play *play = &self->play;
	struct job_record before;
	long ret;

	job_look(&self->job, &before);
	ret = job_play_module(play, &self->job, self->fd, flags, self->each);
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, play->wrong);
	EXPECT_EQ(0, play->damage);
	/* Each page that had to, once. */
	EXPECT_LT(self->shape.shm / 2, play->must_move);
	EXPECT_EQ(play->must_move, play->migrated);
	check_counts(_metadata, self, &before);
	job_forget(&before);
}

/* And what the syscall does with the same job; it fails in some way. */
static void compare(struct __test_metadata *_metadata, FIXTURE_DATA(many) *self,
		    const char *what)
{
	job_end(&self->job);
	job_play_syscall(&self->play, &self->shape);
	EXPECT_LT(0, self->play.sys_wrong);
	fprintf(stderr, "# %s: a job of %d processes on %d nodes\n", what, self->shape.members,
		self->shape.nodes);
	job_picture(&self->play, stderr, "# ");
	job_start(&self->job, &self->shape);
}

TEST_F(many, shift_and_back)
{
	struct job_record first, last;
	struct job_play there;

	job_look(&self->job, &first);
	job_map_shift(&self->play.map, self->shape.first, self->shape.nodes, 2);
	move(_metadata, self, 0);
	there = self->play;
	/* Other lists are another job. */
	for (int i = 0; i < there.map.count; i++) {
		self->play.map.old[i] = there.map.new[i];
		self->play.map.new[i] = there.map.old[i];
	}
	move(_metadata, self, 0);
	/* What was on an old node is home again. */
	job_look(&self->job, &last);
	EXPECT_EQ(0, job_not_home(&self->job, &first, &last, &there.map));
	EXPECT_LT(0, job_wrong(&first, &last, &there.map));
	job_forget(&first);
	job_forget(&last);
	self->play = there;
	compare(_metadata, self, "shift by two");
}

TEST_F(many, circle)
{
	job_map_circle(&self->play.map, self->shape.first, 3);
	self->shape.nodes = 3;
	job_end(&self->job);
	job_start(&self->job, &self->shape);
	move(_metadata, self, 0);
	/* A second round of the same job moves nothing. */
	ASSERT_EQ(0, job_move(&self->job, self->fd, &self->play.map, 0, self->each));
	for (int m = 0; m < self->shape.members; m++)
		EXPECT_EQ(0, self->each[m].moved);
	/* As a new job it goes on round. */
	move(_metadata, self, PAGE_MIGRATE_NEW_JOB);
	compare(_metadata, self, "circle of three");
}

TEST_F(many, swap)
{
	job_map_circle(&self->play.map, self->shape.first, 2);
	self->shape.nodes = 2;
	job_end(&self->job);
	job_start(&self->job, &self->shape);
	move(_metadata, self, 0);
	compare(_metadata, self, "swap");
}

TEST_HARNESS_MAIN
