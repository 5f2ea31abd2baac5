// SPDX-License-Identifier: GPL-2.0
/*
 * Marks on a file system that is slow, fails, or never answers: a FUSE server
 * that does with each request for a mark what the test tells it to.
 */
#define FUSE_USE_VERSION 312

#include "harness.h"
#include "mem_util.h"

#include <dirent.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <signal.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#define MNT "/mnt"
#define CONNECTIONS "/sys/fs/fuse/connections"

/* The area that moves: N pages of memory, both files, N pages of memory. */
enum { N = 64, FILES = 2, AREA = (FILES + 2) * N };
/* A third file, without a mark, of which nothing is in memory. */
enum { SPARE = FILES, SPARE_PAGES = 1 << 16, SPARE_STEP = 256 };
enum { TRUSTED, USER, NAMES };
/* The first file's number; 1 is the root. */
enum { FIRST_INO = 2 };
/* Milliseconds: more than anything takes that does not hang. */
enum { LONG = 60000 };

static const char *const names[] = { "trusted.migrate", "user.migrate" };

/* What the server answers: an errno, or a value. */
struct reply {
	int err;
	size_t size;
	char value[64];
};

/* Memory that the test and the server share. */
static struct {
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
} *server;

/* What the server does while it is asked for a mark, if it is the target, too. */
static void (*meanwhile)(void);

/* The server has no extended attributes at all. */
static bool knows_no_marks;

/* Whose the server and the target are. */
static uid_t owner;

static bool wait_for(const _Atomic int *counter, int value)
{
	for (int i = 0; i < LONG * patience() && *counter < value; i++)
		usleep(1000);
	return *counter >= value;
}

/*
 * The server.
 */
static bool attributes(fuse_ino_t ino, struct stat *st)
{
	*st = (struct stat){ .st_ino = ino, .st_nlink = 1, .st_mode = S_IFREG | 0644 };
	if (ino == FUSE_ROOT_ID)
		st->st_mode = S_IFDIR | 0755;
	else
		st->st_size = (ino == FIRST_INO + SPARE ? SPARE_PAGES : N) * PAGE;
	return ino == FUSE_ROOT_ID || (ino >= FIRST_INO && ino <= FIRST_INO + SPARE);
}

static void serve_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {
		.ino = parent == FUSE_ROOT_ID ? FIRST_INO + atoi(name) : 0,
		.generation = 1,
		.attr_timeout = 1e6,
		.entry_timeout = 1e6,
	};

	if (attributes(entry.ino, &entry.attr))
		fuse_reply_entry(req, &entry);
	else
		fuse_reply_err(req, ENOENT);
}

static void serve_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	if (attributes(ino, &st))
		fuse_reply_attr(req, &st, 1e6);
	else
		fuse_reply_err(req, ENOENT);
}

/* Times change with what is written, and nobody looks at them. */
static void serve_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
			  struct fuse_file_info *fi)
{
	(void)attr;
	(void)to_set;
	serve_getattr(req, ino, fi);
}

static void serve_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->keep_cache = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

static void serve_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	size_t end = (ino == FIRST_INO + SPARE ? SPARE_PAGES : N) * PAGE, at = off;
	char *zeros;

	(void)fi;
	if (at > end)
		at = end;
	if (size > end - at)
		size = end - at;
	if (ino != FIRST_INO + SPARE) {
		fuse_reply_buf(req, server->data[ino - FIRST_INO] + at, size);
		return;
	}
	server->spare_reads++;
	zeros = calloc(1, size);
	fuse_reply_buf(req, zeros, size);
	free(zeros);
}

static void serve_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	(void)fi;
	if (ino == FIRST_INO + SPARE || off + size > N * PAGE) {
		fuse_reply_err(req, ENOSPC);
		return;
	}
	server->writes++;
	while (server->holds_writes)
		usleep(1000);
	memcpy(server->data[ino - FIRST_INO] + off, buf, size);
	fuse_reply_write(req, size);
}

static void serve_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)fi;
	if (ino < FIRST_INO + FILES)
		server->released[ino - FIRST_INO]++;
	fuse_reply_err(req, 0);
}

static void serve_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)ino;
	(void)datasync;
	(void)fi;
	fuse_reply_err(req, 0);
}

static void serve_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	int file = (int)ino - FIRST_INO, which = 0;
	const struct reply *reply;
	bool interrupted = false;

	(void)size;
	while (which < NAMES && strcmp(name, names[which]))
		which++;
	if (file < 0 || file >= FILES || which == NAMES) {
		fuse_reply_err(req, ENODATA);
		return;
	}
	if (which == USER && server->asked[file][USER] >= server->asked[file][TRUSTED])
		server->disorder = true;
	server->asked[file][which]++;
	if (meanwhile)
		meanwhile();
	usleep(server->delay);
	while (server->holds[file][which]) {
		if (!interrupted && fuse_req_interrupted(req)) {
			interrupted = true;
			server->interrupted++;
			if (server->obeys) {
				fuse_reply_err(req, EINTR);
				return;
			}
		}
		usleep(1000);
	}
	/* Counted before the caller can go on. */
	server->answered[file][which]++;
	reply = &server->reply[file][which];
	if (reply->err)
		fuse_reply_err(req, reply->err);
	else
		fuse_reply_buf(req, reply->value, reply->size);
}

static struct fuse_session *session_start(void)
{
	struct fuse_lowlevel_ops ops = {
		.lookup = serve_lookup,
		.getattr = serve_getattr,
		.setattr = serve_setattr,
		.open = serve_open,
		.read = serve_read,
		.write = serve_write,
		.release = serve_release,
		.fsync = serve_fsync,
		.getxattr = serve_getxattr,
	};
	static char *argv[] = { "fault_xattr", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_session *se;

	if (knows_no_marks)
		ops.getxattr = NULL;
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (!se || fuse_session_mount(se, MNT))
		die("FUSE on " MNT);
	return se;
}

/* Serves until the file system is unmounted, each request in a thread. */
static void *session_run(void *se)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();

	fuse_session_loop_mt(se, config);
	fuse_loop_cfg_destroy(config);
	return NULL;
}

static void be_server(struct child *c, void *arg)
{
	struct fuse_session *se;

	(void)arg;
	if (owner)
		drop_to(owner);
	se = session_start();
	child_put(c, 0);
	session_run(se);
}

/*
 * The target.
 */
enum { LOOK, LIVE, WRITE, SYNC, MOVE_BACK, REPLACE, GROW, SEGMENT, NO_SEGMENT, STICK, UNSTICK };
/* Pages that GROW makes. */
enum { GROWTH = 16384 };

struct scene {
	struct child server, target;
	int fd, prot, connection;
	char *area;
};

static char *part(const struct scene *s, int i)
{
	return s->area + i * N * PAGE;
}

static char *file_of(const struct scene *s, int file)
{
	return part(s, 1 + file);
}

static void *memory(char *at)
{
	map_fixed(at, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	advise(at, N * PAGE, MADV_NOHUGEPAGE);
	place_pages(at, N, &mem[0], 1);
	return at;
}

static void map_area(const struct scene *s)
{
	fill(memory(part(s, 0)), N, 100);
	fill(memory(part(s, 1 + FILES)), N, 101);
	for (int i = 0; i < FILES; i++) {
		char path[32];
		int file;

		snprintf(path, sizeof(path), MNT "/%d", i);
		file = open(path, s->prot & PROT_WRITE ? O_RDWR : O_RDONLY);
		if (file < 0)
			die("%s", path);
		map_fixed(file_of(s, i), N, s->prot, MAP_SHARED, file, 0);
		bind_to(mem[0]);
		touch(file_of(s, i), N);
		bind_to(-1);
		close(file);
	}
	if (!all_on(0, s->area, AREA, &mem[0], 1))
		die("the area is not where it was placed");
}

/* Changes its address space, and faults, in all ways that need mmap_lock. */
static void live(void)
{
	static _Atomic int page;
	int file = open(MNT "/2", O_RDONLY | O_CLOEXEC), reads = server->spare_reads;
	char *p, *q;
	pid_t pid;

	p = mmap(NULL, 2 * N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	memset(p, 7, 2 * N * PAGE);
	if (mprotect(p, N * PAGE, PROT_READ) || munmap(p + N * PAGE, N * PAGE))
		die("mprotect or munmap");
	q = mremap(p, N * PAGE, 4 * N * PAGE, MREMAP_MAYMOVE);
	if (q == MAP_FAILED || munmap(q, 4 * N * PAGE))
		die("mremap or munmap");

	/* A page that another thread of the server has to bring. */
	q = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file,
		 (off_t)(page++ * SPARE_STEP % SPARE_PAGES) * PAGE);
	if (q == MAP_FAILED || madvise(q, PAGE, MADV_RANDOM))
		die("mmap of the spare file");
	touch(q, 1);
	if (server->spare_reads == reads)
		die("the server was not asked for a page");
	munmap(q, PAGE);
	close(file);

	pid = fork();
	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		die("fork");
}

/* Memory that lives in a file on a tmpfs, whose name is gone at once. */
static void map_segment(char *at)
{
	int file = open(SCRATCH "/segment", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (file < 0 || unlink(SCRATCH "/segment") || ftruncate(file, N * PAGE))
		die(SCRATCH "/segment");
	map_fixed(at, N, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	close(file);
	place_pages(at, N, &mem[0], 1);
}

/*
 * One thread writes a page back, the other waits for that, in a fault, to write to
 * the page once more. The fault holds the VMA.
 */
static pthread_t stuck[2];

static void *write_back(void *p)
{
	return msync(p, PAGE, MS_SYNC) ? p : NULL;
}

static void *write_again(void *p)
{
	wait_for(&server->writes, 1);
	*(volatile char *)p = *(volatile char *)p;
	return NULL;
}

static void stick(char *p)
{
	unsigned long mask = 1UL << mem[0];

	if (mbind(p, N * PAGE, MPOL_BIND, &mask, 64, 0))
		die("mbind");
	*(volatile char *)p = *(volatile char *)p;
	if (pthread_create(&stuck[0], NULL, write_back, p) ||
	    pthread_create(&stuck[1], NULL, write_again, p))
		die("pthread_create");
}

static long unstick(void)
{
	long wrong = 0;
	void *ret;

	for (int i = 0; i < 2; i++) {
		pthread_join(stuck[i], &ret);
		wrong += !!ret;
	}
	return wrong;
}

/* Does what it is told; answers with the number of pages that went wrong. */
static void obey(const struct scene *s, struct child *c)
{
	unsigned int seeds[FILES + 2] = { 100, 0, 1, 101 };
	long answer = 0;

	for (child_put(c, 0);; child_put(c, answer)) {
		answer = 0;
		switch (child_get(c)) {
		case LOOK:
			for (int i = 0; i < FILES + 2; i++)
				answer += bad_pages(part(s, i), N, seeds[i]);
			break;
		case LIVE:
			live();
			break;
		case WRITE:
			for (int i = 0; i < FILES; i++)
				fill(file_of(s, i), N, seeds[1 + i] += 10);
			break;
		case SYNC:
			for (int i = 0; i < FILES; i++) {
				if (msync(file_of(s, i), N * PAGE, MS_SYNC))
					answer = N;
				answer += bad_pages(server->data[i], N, seeds[1 + i]);
			}
			break;
		case MOVE_BACK:
			answer = pm_move(s->fd, 0, s->area, AREA * PAGE, 0, 1, &mem[1], &mem[0],
					 NULL);
			break;
		case REPLACE:
			for (int i = 0; i < FILES; i++)
				fill(memory(file_of(s, i)), N, seeds[1 + i]);
			break;
		case GROW:
			fill(lazy_map(GROWTH, MADV_NOHUGEPAGE), GROWTH, 1);
			break;
		case SEGMENT:
			map_segment(part(s, 0));
			fill(part(s, 0), N, 100);
			break;
		case NO_SEGMENT:
			fill(memory(part(s, 0)), N, 100);
			break;
		case STICK:
			stick(file_of(s, 0));
			break;
		case UNSTICK:
			answer = unstick();
			break;
		}
	}
}

static void be_target(struct child *c, void *arg)
{
	if (owner)
		drop_to(owner);
	map_area(arg);
	obey(arg, c);
}

/* A target that maps a file system which its own threads serve. */
static void be_both(struct child *c, void *arg)
{
	pthread_t thread;
	sigset_t set;

	/* A child that ends early must not interrupt a call of another thread. */
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (pthread_create(&thread, NULL, session_run, session_start()))
		die("pthread_create");
	map_area(arg);
	meanwhile = live;
	obey(arg, c);
}

/*
 * The scene.
 */
static void answer(int file, int which, int err, const char *value, size_t size)
{
	struct reply *reply = &server->reply[file][which];

	*reply = (struct reply){ .err = err, .size = size };
	memcpy(reply->value, value, size);
}

/* The answers are again that there is no mark. */
static void no_marks(void)
{
	for (int i = 0; i < FILES; i++)
		for (int k = 0; k < NAMES; k++)
			answer(i, k, ENODATA, "", 0);
}

static void hold(int file, bool holds)
{
	for (int k = 0; k < NAMES; k++)
		server->holds[file][k] = holds;
}

static void *shared_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void scene_start(struct scene *s, int prot, bool both)
{
	struct stat st;

	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("no mount namespace");
	if (access(CONNECTIONS, F_OK) || mount("none", CONNECTIONS, "fusectl", 0, NULL))
		if (errno != EBUSY)
			die(CONNECTIONS);
	server = shared_memory(sizeof(*server));
	for (int i = 0; i < FILES; i++)
		fill(server->data[i], N, i);
	no_marks();
	*s = (struct scene){ .fd = pm_open(), .prot = prot, .area = reserve(AREA) };
	if (!both) {
		child_start(&s->server, be_server, NULL);
		child_get(&s->server);
	}
	child_start(&s->target, both ? be_both : be_target, s);
	child_get(&s->target);
	/* We may not even look at another's. */
	if (owner)
		return;
	if (stat(MNT, &st))
		die(MNT);
	s->connection = minor(st.st_dev);
}

static void connection_file(const struct scene *s, const char *name, char *path, size_t size)
{
	snprintf(path, size, CONNECTIONS "/%d/%s", s->connection, name);
}

/* Whether a process says something within that time. */
static bool speaks(struct child *c, int ms)
{
	struct pollfd in = { .fd = c->in, .events = POLLIN };

	return poll(&in, 1, ms * patience()) > 0;
}

/* What the target answers; it must not hang. */
static long tell(struct scene *s, uint64_t what)
{
	child_put(&s->target, what);
	if (!speaks(&s->target, LONG)) {
		fprintf(stderr, "# the target hangs\n");
		return -ETIMEDOUT;
	}
	return child_get(&s->target);
}

static bool unmounts(void)
{
	for (int i = 0; i < 100; i++) {
		if (!umount(MNT))
			return true;
		usleep(50000);
	}
	return false;
}

/* Nothing is lost, and nobody holds the file system any more. */
static void scene_end(struct __test_metadata *_metadata, struct scene *s)
{
	EXPECT_EQ(0, s->target.pid ? tell(s, LOOK) : 0);
	EXPECT_FALSE(server->disorder);
	child_end(&s->target);
	EXPECT_TRUE(unmounts());
	child_end(&s->server);
	EXPECT_EQ(0, nr_isolated());
	close(s->fd);
}

/*
 * Calls.
 */
static long move(struct scene *s, int from, int to, struct page_migrate_result *res)
{
	return pm_move(s->fd, s->target.pid, s->area, AREA * PAGE, 0, 1, &mem[from], &mem[to],
		       res);
}

/* Repeats a call until nothing is left: pages of files are busy at times. */
static void move_all(struct __test_metadata *_metadata, struct scene *s, int from, int to,
		     uint64_t exempt)
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

/* Where the parts of the area are now: all but what stays have moved from 0 to 1. */
static void landed(struct __test_metadata *_metadata, struct scene *s, bool stays0, bool stays1)
{
	const bool stays[] = { false, stays0, stays1, false };

	for (int i = 0; i < FILES + 2; i++) {
		EXPECT_TRUE(all_on(s->target.pid, part(s, i), N, &mem[!stays[i]], 1))
			TH_LOG("part %d", i);
	}
}

/* One call with the answers that are set. Then all goes back. */
static void there_and_back(struct __test_metadata *_metadata, struct scene *s, bool stays0,
			   bool stays1)
{
	move_all(_metadata, s, 0, 1, N * (stays0 + stays1));
	landed(_metadata, s, stays0, stays1);
	no_marks();
	move_all(_metadata, s, 1, 0, 0);
	EXPECT_TRUE(all_on(s->target.pid, s->area, AREA, &mem[0], 1));
}

/* A call in a process of its own. */
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

static void on_signal(int signal)
{
	(void)signal;
}

static void be_caller(struct child *child, void *arg)
{
	struct sigaction act = { .sa_handler = on_signal };
	struct caller *c = arg;

	sigaction(SIGUSR1, &act, NULL);
	pm_poison(&c->req.result);
	c->end->ret = pm_migrate(c->fd, &c->req);
	c->end->res = c->req.result;
	child_put(child, 0);
}

static void caller_start_on(struct caller *c, struct scene *s, int fd, char *va, size_t npages)
{
	*c = (struct caller){ .fd = fd, .end = shared_memory(PAGE) };
	c->req = pm_req(s->target.pid, va, npages * PAGE, 1, &mem[0], &mem[1]);
	child_start(&c->child, be_caller, c);
}

static void caller_start(struct caller *c, struct scene *s)
{
	caller_start_on(c, s, s->fd, s->area, AREA);
}

/* Whether it has returned; then it is gone, too. */
static bool caller_returns(struct caller *c, int ms)
{
	if (!speaks(&c->child, ms))
		return false;
	child_get(&c->child);
	child_end(&c->child);
	return true;
}

/* Whether a process has ended by a signal within that time. Reaps it. */
static bool dies(struct child *c, int ms)
{
	int status;

	for (int i = 0; i <= ms * patience(); i += 10) {
		if (waitpid(c->pid, &status, WNOHANG) == c->pid) {
			c->pid = 0;
			return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
		}
		usleep(10000);
	}
	return false;
}

/*
 * Slow servers.
 */
TEST(target_lives_on_while_the_server_thinks)
{
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (int i = 0; i < FILES; i++)
		hold(i, true);
	caller_start(&c, &s);
	for (int i = 0; i < FILES; i++)
		for (int k = 0; k < NAMES; k++) {
			ASSERT_TRUE(wait_for(&server->asked[i][k], 1));
			/* None of this would end if the caller had mmap_lock. */
			ASSERT_EQ(0, tell(&s, LIVE));
			ASSERT_EQ(0, tell(&s, LOOK));
			EXPECT_EQ(0, server->answered[i][k]);
			EXPECT_FALSE(speaks(&c.child, 0));
			server->holds[i][k] = false;
		}
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	/* What was busy. */
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

/* A call does not keep files open: what their last close does is done. */
TEST(files_are_closed_meanwhile)
{
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	hold(1, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[1][TRUSTED], 1));
	EXPECT_EQ(0, server->released[0]);
	ASSERT_EQ(0, tell(&s, REPLACE));
	/* The first has been asked for its mark, the second is just being asked. */
	for (int i = 0; i < FILES; i++)
		EXPECT_TRUE(wait_for(&server->released[i], 1));
	EXPECT_FALSE(speaks(&c.child, 0));
	hold(1, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 0), N, &mem[1], 1));
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 1 + FILES), N, &mem[1], 1));
	scene_end(_metadata, &s);
}

/* Nor is a removed segment of shared memory kept, though its mark has been read. */
TEST(segment_is_removed_meanwhile)
{
	struct caller c;
	struct statfs fs;
	fsblkcnt_t free;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	/* Only here: the others do not see it. */
	ASSERT_EQ(0, mount("none", SCRATCH, "tmpfs", 0, NULL));
	ASSERT_EQ(0, statfs(SCRATCH, &fs));
	free = fs.f_bfree;
	ASSERT_EQ(0, tell(&s, SEGMENT));
	ASSERT_EQ(0, statfs(SCRATCH, &fs));
	ASSERT_EQ(free - N, fs.f_bfree);
	hold(0, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], 1));
	/* So that one has been moved by now. */
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 0), N, &mem[1], 1));
	ASSERT_EQ(0, tell(&s, NO_SEGMENT));
	ASSERT_EQ(0, statfs(SCRATCH, &fs));
	EXPECT_EQ(free, fs.f_bfree);
	EXPECT_EQ(0, umount(SCRATCH));
	EXPECT_FALSE(speaks(&c.child, 0));
	hold(0, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 1 + FILES), N, &mem[1], 1));
	scene_end(_metadata, &s);
}

TEST(slow)
{
	bool once = true;
	struct scene s;
	int calls;

	scene_start(&s, PROT_READ, false);
	server->delay = 300000;
	answer(0, USER, 0, "none", 4);
	move_all(_metadata, &s, 0, 1, N);
	landed(_metadata, &s, true, false);
	/* Each name once in a call, of each file. */
	calls = server->asked[0][TRUSTED];
	for (int i = 0; i < FILES; i++)
		for (int k = 0; k < NAMES; k++)
			once &= server->asked[i][k] == calls;
	EXPECT_TRUE(once);
	scene_end(_metadata, &s);
}

/* What the target has written and the server has not got yet moves as well. */
TEST(written_pages)
{
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	hold(1, true);
	answer(0, USER, 0, "lib", 3);
	ASSERT_EQ(0, tell(&s, WRITE));
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[1][TRUSTED], 1));
	ASSERT_EQ(0, tell(&s, WRITE));
	hold(1, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	ASSERT_LE(0, c.end->ret);
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	EXPECT_EQ(0, tell(&s, LOOK));
	EXPECT_EQ(0, tell(&s, SYNC));
	scene_end(_metadata, &s);
}

/*
 * Answers.
 */
TEST(errors)
{
	static const int errs[] = {
		EIO, EPERM, EACCES, EOPNOTSUPP, ENODATA, EINTR, EAGAIN, ENOENT, ETIMEDOUT,
		EFAULT, EINVAL, EBUSY, ESTALE, ENOSPC, E2BIG, EHWPOISON,
	};
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (size_t i = 0; i < ARRAY_LEN(errs); i++) {
		int asked = server->asked[0][USER];

		for (int k = 0; k < NAMES; k++)
			answer(0, k, errs[i], "", 0);
		there_and_back(_metadata, &s, false, false);
		/* Where one name cannot be read, the other one is. */
		EXPECT_LT(asked, server->asked[0][USER]);
		answer(0, TRUSTED, errs[i], "", 0);
		answer(0, USER, 0, "none", 4);
		there_and_back(_metadata, &s, true, false);
		answer(0, TRUSTED, 0, "lib", 3);
		answer(0, USER, errs[i], "", 0);
		there_and_back(_metadata, &s, true, false);
		if (!__test_passed(_metadata))
			TH_LOG("that was errno %d", errs[i]);
	}
	scene_end(_metadata, &s);
}

/* A value that is too long: said by the server, or found by the kernel. */
TEST(long_values)
{
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (int k = 0; k < NAMES; k++) {
		answer(0, k, ERANGE, "", 0);
		there_and_back(_metadata, &s, false, false);
		answer(0, k, 0, "none and more", 13);
		there_and_back(_metadata, &s, false, false);
		answer(0, k, 0, "nonelibnonelibnonelibnonelibnonelibnonelib", 42);
		there_and_back(_metadata, &s, false, false);
	}
	/* It is set, so that the other one does not count. */
	answer(0, TRUSTED, ERANGE, "", 0);
	answer(0, USER, 0, "none", 4);
	there_and_back(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

TEST(server_without_attributes)
{
	struct scene s;

	knows_no_marks = true;
	scene_start(&s, PROT_READ, false);
	answer(0, TRUSTED, 0, "none", 4);
	there_and_back(_metadata, &s, false, false);
	EXPECT_EQ(0, server->asked[0][TRUSTED]);
	scene_end(_metadata, &s);
}

/* Nobody knows the mark: the call ends before the file, and can be repeated. */
TEST(server_without_memory)
{
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (int i = 0; i < FILES; i++)
		for (int k = 0; k < NAMES; k++) {
			struct page_migrate_result res;

			answer(i, k, ENOMEM, "", 0);
			ASSERT_EQ(-ENOMEM, move(&s, 0, 1, &res));
			EXPECT_EQ(0, res.no_memory) pm_print(&res);
			EXPECT_EQ((1 + i) * N, pm_sum(&res)) pm_print(&res);
			EXPECT_EQ((uintptr_t)file_of(&s, i), res.resume_va) pm_print(&res);
			EXPECT_TRUE(all_on(s.target.pid, file_of(&s, i), N, &mem[0], 1));
			no_marks();
			there_and_back(_metadata, &s, false, false);
		}
	scene_end(_metadata, &s);
}

TEST(marks)
{
	static const struct {
		const char *value;
		size_t size;
		bool stays;
	} values[] = {
		{ "none", 4, true }, { "NONE", 4, true }, { "nOnE", 4, true }, { "lib", 3, true },
		{ "LIB", 3, true }, { "Lib", 3, true }, { "", 0, false }, { "non", 3, false },
		{ "lib", 4, false }, { "lib\n", 4, false }, { "none\n", 5, false },
		{ "li", 2, false },
	};
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (size_t i = 0; i < ARRAY_LEN(values); i++) {
		bool stays = values[i].stays;

		for (int k = 0; k < NAMES; k++) {
			answer(0, k, 0, values[i].value, values[i].size);
			there_and_back(_metadata, &s, stays, false);
		}
		answer(1, USER, 0, values[i].value, values[i].size);
		there_and_back(_metadata, &s, false, stays);
		/* The trusted one goes first, even if it means nothing. */
		if (stays && values[i].size) {
			answer(0, TRUSTED, 0, values[i].value, values[i].size);
			answer(0, USER, 0, "all", 3);
			answer(1, TRUSTED, 0, "all", 3);
			answer(1, USER, 0, values[i].value, values[i].size);
			there_and_back(_metadata, &s, true, false);
		}
		if (!__test_passed(_metadata))
			TH_LOG("that was value %zu: %s", i, values[i].value);
	}
	scene_end(_metadata, &s);
}

TEST(marks_of_writable_mappings)
{
	struct scene s;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	answer(0, USER, 0, "lib", 3);
	answer(1, USER, 0, "NONE", 4);
	there_and_back(_metadata, &s, false, true);
	answer(0, TRUSTED, 0, "None", 4);
	answer(1, TRUSTED, 0, "LiB", 3);
	there_and_back(_metadata, &s, true, false);
	scene_end(_metadata, &s);
}

/*
 * FUSE lets nobody but the user who has mounted a file system ask its server,
 * not even root: it need not answer.
 */
TEST(server_of_another_user)
{
	struct scene s;

	owner = NOBODY;
	if (chmod("/dev/fuse", 0666) || chown(MNT, NOBODY, NOBODY))
		die("FUSE for a user");
	scene_start(&s, PROT_READ, false);
	for (int i = 0; i < FILES; i++) {
		hold(i, true);
		answer(i, TRUSTED, 0, "none", 4);
	}
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	EXPECT_EQ(0, server->asked[0][TRUSTED] + server->asked[0][USER]);
	/* The user can ask it. */
	for (int i = 0; i < FILES; i++)
		hold(i, false);
	EXPECT_LE(0, tell(&s, MOVE_BACK));
	EXPECT_LT(0, server->asked[0][TRUSTED]);
	EXPECT_TRUE(all_on(s.target.pid, file_of(&s, 0), N, &mem[1], 1));
	EXPECT_TRUE(all_on(s.target.pid, part(&s, 0), N, &mem[0], 1));
	scene_end(_metadata, &s);
	chown(MNT, 0, 0);
}

/*
 * The server is the target, and lives on while it is asked.
 */
TEST(target_serves_itself)
{
	struct scene s;
	long ret = 1;

	scene_start(&s, PROT_READ, true);
	there_and_back(_metadata, &s, false, false);
	answer(0, USER, 0, "none", 4);
	there_and_back(_metadata, &s, true, false);
	/* All of it, the server's own memory included. */
	for (int i = 0; i < 20 && ret > 0; i++)
		ret = pm_move(s.fd, s.target.pid, NULL, ~0UL, 0, 1, &mem[0], &mem[1], NULL);
	EXPECT_LE(0, ret);
	EXPECT_TRUE(all_on(s.target.pid, s.area, AREA, &mem[1], 1));
	EXPECT_EQ(0, tell(&s, LOOK));
	/* Caller, target and server are one. */
	ret = 1;
	for (int i = 0; i < 20 && ret > 0; i++)
		ret = tell(&s, MOVE_BACK);
	EXPECT_EQ(0, ret);
	EXPECT_TRUE(all_on(s.target.pid, s.area, AREA, &mem[0], 1));
	EXPECT_LT(0, server->spare_reads);
	scene_end(_metadata, &s);
}

/*
 * Servers that do not answer.
 */

/* A call stands before the first file: what it has done is written. */
static void stopped_before_file_0(struct __test_metadata *_metadata, struct scene *s,
				  struct caller *c)
{
	EXPECT_EQ(-EINTR, c->end->ret);
	ASSERT_FALSE(pm_is_poison(&c->end->res));
	EXPECT_EQ(N, c->end->res.moved) pm_print(&c->end->res);
	EXPECT_EQ(N, pm_sum(&c->end->res)) pm_print(&c->end->res);
	EXPECT_EQ((uintptr_t)file_of(s, 0), c->end->res.resume_va) pm_print(&c->end->res);
	EXPECT_TRUE(all_on(s->target.pid, part(s, 0), N, &mem[1], 1));
	EXPECT_TRUE(all_on(s->target.pid, part(s, 1), AREA - N, &mem[0], 1));
}

TEST(signal_and_a_server_that_gives_up)
{
	struct page_migrate_result res;
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	server->obeys = true;
	for (int k = 0; k < NAMES; k++) {
		/* Also in the middle of a file's two names. */
		server->holds[0][k] = true;
		caller_start(&c, &s);
		ASSERT_TRUE(wait_for(&server->asked[0][k], server->answered[0][k] + 1));
		kill(c.child.pid, SIGUSR1);
		ASSERT_TRUE(caller_returns(&c, LONG));
		stopped_before_file_0(_metadata, &s, &c);
		hold(0, false);
		server->answered[0][k]++;
		if (k == TRUSTED) {
			/* The same call again. */
			EXPECT_LE(0, move(&s, 0, 1, &res));
			EXPECT_EQ(N, res.already_moved) pm_print(&res);
			EXPECT_EQ(AREA, pm_sum(&res)) pm_print(&res);
		} else {
			/* From there on. */
			EXPECT_LE(0, pm_move(s.fd, s.target.pid, (void *)c.end->res.resume_va,
					     (AREA - N) * PAGE, 0, 1, &mem[0], &mem[1], &res));
			EXPECT_EQ(0, res.already_moved) pm_print(&res);
			EXPECT_EQ(AREA - N, pm_sum(&res)) pm_print(&res);
		}
		there_and_back(_metadata, &s, false, false);
	}
	EXPECT_EQ(NAMES, server->interrupted);
	scene_end(_metadata, &s);
}

/* The kernel waits for the answer; the signal ends the call then. */
TEST(signal_and_a_server_that_does_not_care)
{
	struct caller c;
	struct scene s;

	scene_start(&s, PROT_READ, false);
	for (int marked = 0; marked < 2; marked++) {
		int asked = server->asked[0][TRUSTED], interrupted = server->interrupted;

		hold(0, true);
		caller_start(&c, &s);
		ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], asked + 1));
		kill(c.child.pid, SIGUSR1);
		ASSERT_TRUE(wait_for(&server->interrupted, interrupted + 1));
		EXPECT_EQ(0, tell(&s, LIVE));
		EXPECT_FALSE(speaks(&c.child, 0));
		if (marked)
			answer(0, TRUSTED, 0, "none", 4);
		hold(0, false);
		ASSERT_TRUE(caller_returns(&c, LONG));
		stopped_before_file_0(_metadata, &s, &c);
		there_and_back(_metadata, &s, marked, false);
	}
	scene_end(_metadata, &s);
}

/* A request that the server has not taken yet: a fatal signal takes it back. */
TEST(killed_before_the_server_looks)
{
	char path[64], text[32] = "0";
	struct caller c;
	struct scene s;
	int status;

	scene_start(&s, PROT_READ, false);
	connection_file(&s, "waiting", path, sizeof(path));
	kill(s.server.pid, SIGSTOP);
	ASSERT_EQ(s.server.pid, waitpid(s.server.pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));
	caller_start(&c, &s);
	for (int i = 0; i < LONG * patience() && atoi(text) < 1; i += 10) {
		usleep(10000);
		ASSERT_EQ(0, file_read(path, text, sizeof(text)));
	}
	ASSERT_LE(1, atoi(text));
	EXPECT_EQ(0, server->asked[0][TRUSTED]);
	kill(c.child.pid, SIGKILL);
	EXPECT_TRUE(dies(&c.child, LONG));
	kill(s.server.pid, SIGCONT);
	there_and_back(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

/* Threads of a process that sleep and cannot be woken by a signal. */
static int asleep_for_good(pid_t pid)
{
	char path[64], stat[512];
	struct dirent *entry;
	int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		die("%s", path);
	while ((entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/stat", pid, entry->d_name);
		if (entry->d_name[0] != '.' && !file_read(path, stat, sizeof(stat)))
			n += !!strstr(stat, ") D ");
	}
	closedir(dir);
	return n;
}

/*
 * A fault of the target that waits for its server keeps the VMA, and so its policy.
 * The target may wait as long as it likes: a kill ends the call.
 */
TEST(killed_while_a_fault_keeps_the_policy)
{
	struct caller c;
	struct scene s;
	int tries = 0;

	scene_start(&s, PROT_READ | PROT_WRITE, false);
	server->holds_writes = true;
	ASSERT_EQ(0, tell(&s, STICK));
	while (asleep_for_good(s.target.pid) < 2 && tries++ < LONG / 10 * patience())
		usleep(10000);
	ASSERT_EQ(2, asleep_for_good(s.target.pid));
	caller_start(&c, &s);
	/* Nobody may look at the target now: who does waits, too. */
	EXPECT_FALSE(speaks(&c.child, 1000));
	kill(c.child.pid, SIGKILL);
	EXPECT_TRUE(dies(&c.child, LONG));
	/* It was that for which the call waited. */
	EXPECT_EQ(2, asleep_for_good(s.target.pid));
	server->holds_writes = false;
	EXPECT_EQ(0, tell(&s, UNSTICK));
	there_and_back(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

static void be_reader(struct child *c, void *arg)
{
	char value[4];

	(void)c;
	(void)arg;
	getxattr(MNT "/0", names[USER], value, sizeof(value));
}

/*
 * A request that the server has taken: the kernel waits for the answer, even if
 * the caller is killed. So does getxattr(2). An answer, or the end of the
 * connection, lets both go.
 */
TEST(killed_while_the_server_is_at_it)
{
	char path[64];
	struct scene s;

	scene_start(&s, PROT_READ, false);
	connection_file(&s, "abort", path, sizeof(path));
	for (int aborts = 0; aborts < 2; aborts++) {
		int asked[] = { server->asked[0][TRUSTED], server->asked[0][USER] };
		int interrupted = server->interrupted;
		bool caller_died, reader_died;
		struct child reader;
		struct caller c;

		hold(0, true);
		caller_start(&c, &s);
		ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], asked[TRUSTED] + 1));
		child_start(&reader, be_reader, NULL);
		ASSERT_TRUE(wait_for(&server->asked[0][USER], asked[USER] + 1));
		kill(c.child.pid, SIGKILL);
		kill(reader.pid, SIGKILL);
		ASSERT_TRUE(wait_for(&server->interrupted, interrupted + 2));
		caller_died = dies(&c.child, 500);
		reader_died = dies(&reader, 500);
		EXPECT_EQ(reader_died, caller_died);
		TH_LOG("a killed reader %s", reader_died ? "ends at once" : "waits");
		EXPECT_EQ(0, tell(&s, LIVE));
		if (aborts && file_write(path, "1"))
			die("%s", path);
		hold(0, false);
		EXPECT_TRUE(caller_died || dies(&c.child, LONG));
		EXPECT_TRUE(reader_died || dies(&reader, LONG));
		/* Who is killed asks no more: the one question was the reader's. */
		EXPECT_EQ(asked[USER] + 1, server->asked[0][USER]);
		if (!aborts)
			there_and_back(_metadata, &s, false, false);
	}
	/* Without a connection there are no marks. */
	answer(0, TRUSTED, 0, "none", 4);
	there_and_back(_metadata, &s, false, false);
	scene_end(_metadata, &s);
}

/*
 * Servers that go away. What has been answered before counts.
 */
static void goes_away(struct __test_metadata *_metadata, bool aborts)
{
	struct caller c;
	struct scene s;
	char path[64];

	scene_start(&s, PROT_READ, false);
	connection_file(&s, "abort", path, sizeof(path));
	answer(0, TRUSTED, 0, "none", 4);
	hold(1, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[1][TRUSTED], 1));
	if (!aborts)
		child_end(&s.server);
	else if (file_write(path, "1"))
		die("%s", path);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	EXPECT_EQ(N, c.end->res.exempt) pm_print(&c.end->res);
	EXPECT_TRUE(all_on(s.target.pid, file_of(&s, 0), N, &mem[0], 1));
	EXPECT_EQ(0, tell(&s, LOOK));
	/* The next call can read no mark at all. */
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	there_and_back(_metadata, &s, false, false);
	hold(1, false);
	scene_end(_metadata, &s);
}

TEST(server_is_killed)
{
	goes_away(_metadata, false);
}

TEST(connection_is_aborted)
{
	goes_away(_metadata, true);
}

/*
 * Others do not notice a call that waits.
 */
TEST(waiting_call_blocks_nobody_else)
{
	static uint64_t on[MAX_NODES];
	char path[64], text[1024], want[64];
	struct caller c, other, next;
	struct scene s;
	int fd;

	scene_start(&s, PROT_READ, false);
	fd = pm_open();
	hold(0, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], 1));

	/* Another open file on the same target, without that file. */
	caller_start_on(&other, &s, fd, file_of(&s, 1), 2 * N);
	ASSERT_TRUE(caller_returns(&other, LONG));
	EXPECT_LE(0, other.end->ret);
	EXPECT_EQ(2 * N, pm_sum(&other.end->res)) pm_print(&other.end->res);
	EXPECT_LE(N, other.end->res.moved) pm_print(&other.end->res);

	/* The census asks for no marks, and waits for no turn. */
	ASSERT_EQ(0, pm_placement(s.fd, s.target.pid, s.area, AREA * PAGE, on));
	EXPECT_EQ(AREA, on[mem[0]] + on[mem[1]]);
	EXPECT_LE(N, on[mem[0]]);

	/* The open file says how far it is. */
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", s.fd);
	ASSERT_EQ(0, file_read(path, text, sizeof(text)));
	EXPECT_NE(NULL, strstr(text, "running:\t1\n")) TH_LOG("%s", text);
	snprintf(want, sizeof(want), "moved:\t%d\n", N);
	EXPECT_NE(NULL, strstr(text, want)) TH_LOG("%s", text);
	snprintf(want, sizeof(want), "va:\t%p\n", (void *)file_of(&s, 0));
	EXPECT_NE(NULL, strstr(text, want)) TH_LOG("%s", text);

	/* One that waits for its turn on the same open file can be killed. */
	caller_start(&next, &s);
	EXPECT_FALSE(speaks(&next.child, 500));
	kill(next.child.pid, SIGKILL);
	EXPECT_TRUE(dies(&next.child, LONG));

	EXPECT_FALSE(speaks(&c.child, 0));
	EXPECT_EQ(1, server->asked[0][TRUSTED]);
	hold(0, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	EXPECT_LE(0, c.end->ret);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	move_all(_metadata, &s, 0, 1, 0);
	landed(_metadata, &s, false, false);
	close(fd);
	scene_end(_metadata, &s);
}

/* The target does not wait for the call either. */
TEST(target_exits_meanwhile)
{
	struct caller c;
	struct scene s;
	long pages;

	scene_start(&s, PROT_READ, false);
	ASSERT_EQ(0, tell(&s, GROW));
	hold(0, true);
	caller_start(&c, &s);
	ASSERT_TRUE(wait_for(&server->asked[0][TRUSTED], 1));
	pages = vmstat("nr_anon_pages");
	kill(s.target.pid, SIGKILL);
	ASSERT_TRUE(dies(&s.target, LONG));
	/* Its memory is given back, however long the call still takes. */
	for (int i = 0; i < 100 && pages - vmstat("nr_anon_pages") < GROWTH / 2; i++)
		usleep(20000);
	EXPECT_LT(GROWTH / 2, pages - vmstat("nr_anon_pages"));
	EXPECT_FALSE(speaks(&c.child, 0));
	hold(0, false);
	ASSERT_TRUE(caller_returns(&c, LONG));
	/* What was done before counts. */
	EXPECT_LE(0, c.end->ret);
	EXPECT_LE(N, pm_sum(&c.end->res)) pm_print(&c.end->res);
	scene_end(_metadata, &s);
}

TEST_HARNESS_MAIN
