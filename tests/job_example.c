// SPDX-License-Identifier: GPL-2.0
/*
 * The job that the call was designed for: 64 processes with shared and private
 * memory on nodes 0 to 31 move to nodes 2 to 33. Needs 34 nodes with memory.
 */
#include "harness.h"
#include "job.h"

/* The same as in demo/job_move.c. */
static const struct job_shape shape = {
	.members = 64, .nodes = 32, .shm = 6144, .file = 256, .own = 700, .cow = 256,
};

TEST(thirty_two_nodes_by_two)
{
	static struct page_migrate_result each[64];
	static struct job_play play;
	struct job job;
	int fd = pm_open();

	ASSERT_LE(34, nr_mem);
	job_quiet_machine();
	job_map_shift(&play.map, 0, 32, 2);
	job_start(&job, &shape);
	ASSERT_EQ(0, job_play_module(&play, &job, fd, 0, each));
	job_end(&job);
	job_play_syscall(&play, &shape);
	job_picture(&play, stderr, "# ");
	/* Page by page where the map says, each moved once. */
	EXPECT_EQ(0, play.wrong);
	EXPECT_EQ(play.must_move, play.migrated);
	EXPECT_LT(64 * 700UL, play.must_move);
	EXPECT_EQ(0, play.damage);
	for (int i = 0; i < MAX_NODES; i++)
		EXPECT_EQ(play.wanted[i], play.ours[i]);
	/* The syscall cannot. */
	EXPECT_LT(play.sys_mappings / 4, play.sys_wrong);
}

TEST_HARNESS_MAIN
