// SPDX-License-Identifier: GPL-2.0
/* A FUSE server, a target that maps its files, and calls on that target; see fuse_util.h. */
#define FUSE_USE_VERSION 312

#include "fuse_util.h"

#include <dirent.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

/* A third file, without a mark, of which nothing is in memory. */
enum { SPARE = FILES, SPARE_PAGES = 1 << 16, SPARE_STEP = 256 };
/* The first file's number; 1 is the root. */
enum { FIRST_INO = 2 };

const char *const names[] = { "trusted.migrate", "user.migrate" };

struct fuse_server *server;

/* What the server does while it is asked for a mark, if it is the target, too. */
static void (*meanwhile)(void);

bool knows_no_marks;
uid_t owner;

bool wait_for(const _Atomic int *counter, int value)
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

struct fuse_session *session_start(const char *mnt, const char *options)
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
	char *argv[] = { "fuse_util", (char *)options, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(options ? 2 : 1, argv);
	struct fuse_session *se;

	if (knows_no_marks)
		ops.getxattr = NULL;
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (!se || fuse_session_mount(se, mnt))
		die("FUSE on %s", mnt);
	return se;
}

void *session_run(void *session)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();

	fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return NULL;
}

static void be_server(struct child *c, void *arg)
{
	struct fuse_session *se;

	(void)arg;
	if (owner)
		drop_to(owner);
	se = session_start(MNT, NULL);
	child_put(c, 0);
	session_run(se);
}

/*
 * The target.
 */
char *part(const struct scene *s, int i)
{
	return s->area + i * N * PAGE;
}

char *file_of(const struct scene *s, int file)
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

/* Milliseconds for a mapping that has nothing to do with the others. */
static long map_something(void)
{
	double begin = now();
	char *p = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	memset(p, 1, N * PAGE);
	munmap(p, N * PAGE);
	return (now() - begin) * 1000;
}

/*
 * The kernel writes back what has been written through a mapping of a FUSE file when the
 * mapping goes. Where another one takes its place, it waits for that with mmap_lock
 * held for writing.
 */
static pthread_t coverer;

static void *cover(void *p)
{
	map_fixed(p, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return NULL;
}

static int cover_and_exit(void *p)
{
	cover(p);
	_exit(0);
}

static pid_t cover_shared(void *p)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	pid_t pid;

	memset(stack, 0, sizeof(stack));
	pid = clone(cover_and_exit, stack + sizeof(stack), CLONE_VM | SIGCHLD, p);
	if (pid < 0)
		die("clone");
	return pid;
}

/*
 * Does what it is told; answers with the number of pages that went wrong, if nothing
 * else is said beside the command.
 */
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
		case MAP:
			answer = map_something();
			break;
		case COVER:
			if (pthread_create(&coverer, NULL, cover, file_of(s, 0)))
				die("pthread_create");
			break;
		case UNCOVER:
			pthread_join(coverer, NULL);
			break;
		case COVER_SHARED:
			answer = cover_shared(file_of(s, 0));
			break;
		case EXEC:
			child_put(c, 0);
			execl("/bin/true", "true", NULL);
			die("exec");
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
	if (pthread_create(&thread, NULL, session_run, session_start(MNT, NULL)))
		die("pthread_create");
	map_area(arg);
	meanwhile = live;
	obey(arg, c);
}

/*
 * The scene.
 */
void answer(int file, int which, int err, const char *value, size_t size)
{
	struct reply *reply = &server->reply[file][which];

	*reply = (struct reply){ .err = err, .size = size };
	memcpy(reply->value, value, size);
}

void no_marks(void)
{
	for (int i = 0; i < FILES; i++)
		for (int k = 0; k < NAMES; k++)
			answer(i, k, ENODATA, "", 0);
}

void hold(int file, bool holds)
{
	for (int k = 0; k < NAMES; k++)
		server->holds[file][k] = holds;
}

void *shared_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

void scene_start(struct scene *s, int prot, bool both)
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

void connection_file(const struct scene *s, const char *name, char *path, size_t size)
{
	snprintf(path, size, CONNECTIONS "/%d/%s", s->connection, name);
}

bool speaks(struct child *c, int ms)
{
	struct pollfd in = { .fd = c->in, .events = POLLIN };

	return poll(&in, 1, ms * patience()) > 0;
}

long tell(struct scene *s, uint64_t what)
{
	child_put(&s->target, what);
	if (!speaks(&s->target, LONG)) {
		fprintf(stderr, "# the target hangs\n");
		return -ETIMEDOUT;
	}
	return child_get(&s->target);
}

bool unmounts(void)
{
	for (int i = 0; i < 100; i++) {
		/* A forced unmount may have succeeded: then it is not mounted any more. */
		if (!umount(MNT) || errno == EINVAL)
			return true;
		usleep(50000);
	}
	fprintf(stderr, "# %s: %m\n", MNT);
	return false;
}

/*
 * Calls.
 */
long move(struct scene *s, int from, int to, struct page_migrate_result *res)
{
	return pm_move(s->fd, s->target.pid, s->area, AREA * PAGE, 0, 1, &mem[from], &mem[to],
		       res);
}

static void on_signal(int signal)
{
	(void)signal;
}

static void be_caller(struct child *child, void *arg)
{
	struct sigaction act = { .sa_handler = on_signal };
	struct caller *c = arg;

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGUSR1, &act, NULL);
	pm_poison(&c->req.result);
	c->end->ret = pm_migrate(c->fd, &c->req);
	c->end->res = c->req.result;
	child_put(child, 0);
}

void caller_start_on(struct caller *c, struct scene *s, int fd, char *va, size_t npages)
{
	*c = (struct caller){ .fd = fd, .end = shared_memory(PAGE) };
	c->req = pm_req(s->target.pid, va, npages * PAGE, 1, &mem[0], &mem[1]);
	child_start(&c->child, be_caller, c);
}

void caller_start(struct caller *c, struct scene *s)
{
	caller_start_on(c, s, s->fd, s->area, AREA);
}

bool caller_returns(struct caller *c, int ms)
{
	if (!speaks(&c->child, ms))
		return false;
	child_get(&c->child);
	child_end(&c->child);
	return true;
}

bool dies(struct child *c, int ms)
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

int asleep_for_good(pid_t pid)
{
	char path[64], text[512];
	struct dirent *entry;
	int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		die("%s", path);
	while ((entry = readdir(dir))) {
		/* The file named stat cannot be read while the process executes another program. */
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/status", pid, entry->d_name);
		if (entry->d_name[0] != '.' && !file_read(path, text, sizeof(text)))
			n += !!strstr(text, "\nState:\tD");
	}
	closedir(dir);
	return n;
}
