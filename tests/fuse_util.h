/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A FUSE server that does with each request for a mark what the test tells it to,
 * a target that maps two of its files between pieces of memory, and calls on that
 * target in processes of their own.
 */
#ifndef PM_TESTS_FUSE_UTIL_H
#define PM_TESTS_FUSE_UTIL_H

#include "mem_util.h"

#define MNT "/mnt"
#define CONNECTIONS "/sys/fs/fuse/connections"

/* The area that moves: N pages of memory, both files, N pages of memory. */
enum { N = 64, FILES = 2, AREA = (FILES + 2) * N };
enum { TRUSTED, USER, NAMES };
/* Milliseconds: more than anything takes that does not hang. */
enum { LONG = 60000 };

extern const char *const names[];

/* What the server answers: an errno, or a value. */
struct reply {
	int err;
	size_t size;
	char value[64];
};

/* Memory that the test and the server share. */
struct fuse_server {
	/* Told by the test. */
	_Atomic bool holds[FILES][NAMES];	/* no answer as long as it is set */
	_Atomic bool obeys;			/* EINTR to what was interrupted */
	_Atomic bool holds_writes;		/* nothing is written as long as it is set */
	_Atomic unsigned int delay;		/* microseconds */
	/* Seen by the test. */
	_Atomic int asked[FILES][NAMES], answered[FILES][NAMES];
	_Atomic int interrupted;
	_Atomic int released[FILES];		/* closed for the last time */
	_Atomic int spare_reads;
	_Atomic int writes;
	_Atomic bool disorder;			/* user. was asked for first */
	/* What the server has to give. */
	struct reply reply[FILES][NAMES];
	char data[FILES][N * PAGE];
};

extern struct fuse_server *server;

/* Set before the scene starts: the server has no extended attributes at all. */
extern bool knows_no_marks;
/* Set before the scene starts: the user of the server and the target. */
extern uid_t owner;

/* Waits until a counter has reached a value; false if that takes too long. */
bool wait_for(const _Atomic int *counter, int value);

/* Memory that a process and its children share. */
void *shared_memory(size_t size);

struct fuse_session;

/*
 * Mounts a FUSE file system, with more options than the usual ones or NULL, and serves
 * it until it is unmounted, each request in a thread. A thread can be session_run(session).
 */
struct fuse_session *session_start(const char *mnt, const char *options);
void *session_run(void *session);

/* What the target can be told to do. */
enum {
	LOOK,		/* counts the pages whose contents are wrong */
	LIVE,		/* changes its address space in all ways, and faults */
	WRITE,		/* writes to all pages of the files */
	SYNC,		/* has them written back, and looks at what the server got */
	MOVE_BACK,	/* moves its own area from the second node to the first */
	REPLACE,	/* maps memory instead of the files */
	GROW,		/* gets GROWTH pages more */
	SEGMENT,	/* maps a file of a tmpfs instead of the first piece of memory */
	NO_SEGMENT,	/* maps memory there again */
	STICK,		/* two threads wait for the server, one of them in a fault */
	UNSTICK,	/* joins these threads */
	MAP,		/* maps, writes and unmaps memory; answers with milliseconds */
	COVER,		/* a thread maps memory over the first file */
	UNCOVER,	/* joins that thread */
	COVER_SHARED,	/* the same by a process that shares the memory; its number */
	EXEC,		/* executes another program */
};

enum { GROWTH = 16384 };

struct scene {
	struct child server, target;
	int fd, prot, connection;
	char *area;
};

/* Piece i of the area, and a file's piece. */
char *part(const struct scene *s, int i);
char *file_of(const struct scene *s, int file);

/* prot: of the files' mappings. both: the target serves the file system itself. */
void scene_start(struct scene *s, int prot, bool both);

/* Tells the target to do something, and waits for the answer; it must not hang. */
long tell(struct scene *s, uint64_t what);
/* The path of a control file of the FUSE connection. */
void connection_file(const struct scene *s, const char *name, char *path, size_t size);
/* Whether the file system can be unmounted. */
bool unmounts(void);
/* Whether a process says something within that time. */
bool speaks(struct child *c, int ms);
/* Whether a process is ended by SIGKILL within that time. Reaps it. */
bool dies(struct child *c, int ms);
/* Number of a process's threads that sleep and cannot be woken by a signal. */
int asleep_for_good(pid_t pid);

/* What the server answers from now on. */
void answer(int file, int which, int err, const char *value, size_t size);
void no_marks(void);
/* Whether it answers requests for a mark of this file at all. */
void hold(int file, bool holds);

/* One call for the whole area. */
long move(struct scene *s, int from, int to, struct page_migrate_result *res);

/* A call in a process of its own, which handles SIGINT, SIGTERM and SIGUSR1. */
struct caller {
	struct child child;
	int fd;
	struct page_migrate_request req;
	/* Memory that it shares with the test. */
	struct {
		long ret;
		struct page_migrate_result res;
	} *end;
};

/* The area, or a part of it through another open file. */
void caller_start(struct caller *c, struct scene *s);
void caller_start_on(struct caller *c, struct scene *s, int fd, char *va, size_t npages);
/* Whether it has returned within that time; then it has ended, too. */
bool caller_returns(struct caller *c, int ms);

/* What uses the harness, which only one file of a program can include. */
#ifdef TEST_HARNESS_MAIN

/* Checks that nothing is lost, and that nobody holds the file system any more. */
static inline void scene_end(struct __test_metadata *_metadata, struct scene *s)
{
	EXPECT_EQ(0, s->target.pid ? tell(s, LOOK) : 0);
	EXPECT_FALSE(server->disorder);
	child_end(&s->target);
	EXPECT_TRUE(unmounts());
	child_end(&s->server);
	EXPECT_EQ(0, nr_isolated());
	close(s->fd);
}

/* Repeats a call until nothing is left: pages of files are busy at times. */
static inline void move_all(struct __test_metadata *_metadata, struct scene *s, int from,
			    int to, uint64_t exempt)
{
	struct page_migrate_result res;
	long ret = 1;

	for (int i = 0; i < 20 && ret > 0; i++) {
		if (i)
			usleep(50000);
		ret = move(s, from, to, &res);
	}
	EXPECT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(AREA, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(exempt, res.exempt) pm_print(&res);
}

/* Checks that all parts have moved from the first node to the second, but what stays. */
static inline void landed(struct __test_metadata *_metadata, struct scene *s, bool stays0,
			  bool stays1)
{
	const bool stays[] = { false, stays0, stays1, false };

	for (int i = 0; i < FILES + 2; i++) {
		EXPECT_TRUE(all_on(s->target.pid, part(s, i), N, &mem[!stays[i]], 1))
			TH_LOG("part %d", i);
	}
}

/* Moves all with the answers that are set, then back without marks. */
static inline void there_and_back(struct __test_metadata *_metadata, struct scene *s,
				  bool stays0, bool stays1)
{
	move_all(_metadata, s, 0, 1, N * (stays0 + stays1));
	landed(_metadata, s, stays0, stays1);
	no_marks();
	move_all(_metadata, s, 1, 0, 0);
	EXPECT_TRUE(all_on(s->target.pid, s->area, AREA, &mem[0], 1));
}

#endif
#endif
