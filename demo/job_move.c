// SPDX-License-Identifier: GPL-2.0
/*
 * The part of "make demo-job" inside the virtual machine: a job of 64 processes
 * on 32 nodes moves by two nodes, with the module, and a copy of it with
 * migrate_pages(2). Writes the verdict to the file that its argument names.
 */
#include "job.h"

static const struct job_shape shape = {
	.members = 64, .nodes = 32, .shm = 6144, .file = 256, .own = 700, .cow = 256,
};

static const char *mark = "==>";

static void say(const char *text)
{
	printf("\n%s %s\n", mark, text);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static struct page_migrate_result each[64];
	static struct job_play play;
	struct job job;
	FILE *verdict;
	long ret;

	if (argc < 2)
		die("usage: job_move VERDICT-FILE [MARK]");
	if (argc > 2)
		mark = argv[2];
	job_quiet_machine();
	job_map_shift(&play.map, 0, 32, 2);

	say("A job: 64 processes on nodes 0-31, two on each");
	printf("    %zu MB of shared memory, a tmpfs file, memory from before the fork, and\n"
	       "    %zu MB for each process alone; every page where it was touched first\n",
	       shape.shm * PAGE >> 20, shape.own * PAGE >> 20);
	fflush(stdout);
	job_start(&job, &shape);

	say("64 calls of page_migrate, one open file, one call for each process: 0-31 to 2-33");
	ret = job_play_module(&play, &job, pm_open(), 0, each);
	if (ret < 0) {
		errno = -ret;
		die("page_migrate");
	}
	printf("    %.1f s\n", play.seconds);
	job_end(&job);

	say("64 calls of migrate_pages(2) for the same job, started anew");
	job_play_syscall(&play, &shape);
	printf("    %.1f s\n", play.sys_seconds);

	say("Pages on each node");
	job_picture(&play, stdout, "    ");

	say("What was held against the map, page by page");
	printf("    contents: %zu pages differ from what was written\n", play.damage);
	printf("    page_migrate moved each page that had to move %s\n",
	       play.migrated == play.must_move ? "once" : "NOT once");
	printf("    migrate_pages(2) moves shared memory again in each call, until it lies on the\n"
	       "    last nodes: %zu moves for %zu pages, and %zu mappings are elsewhere than the\n"
	       "    map says. To get it right by ordering, it takes 16 rounds of 64 calls.\n",
	       play.sys_migrated, play.sys_must_move, play.sys_wrong);

	if (ret || play.wrong || play.damage || play.migrated != play.must_move ||
	    !play.must_move) {
		printf("\ndemo-job: FAILED: %zu mappings wrong, %zu pages damaged, %ld left behind,"
		       " %zu moves for %zu pages\n", play.wrong, play.damage, ret, play.migrated,
		       play.must_move);
		return 1;
	}
	verdict = fopen(argv[1], "we");
	if (!verdict ||
	    fprintf(verdict, "demo-job: %zu pages of 64 processes moved in 64 calls, each once;"
		    " all %zu mappings are where the map says, data intact\n", play.migrated,
		    play.mappings) < 0 || fclose(verdict))
		die("%s", argv[1]);
	return 0;
}
