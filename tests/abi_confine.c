// SPDX-License-Identifier: GPL-2.0
/*
 * Users cannot leave their confinement by making a call wait. An unprivileged caller
 * stops its call by memory that is not there yet, by its turn on the open file or by a
 * mark that its file system is slow to tell. During the stop the administrator takes the
 * new node away from the target, or the target executes a setuid program. Whatever the
 * call has checked before, no page may then go to the lost node, and none of the program.
 * migrate_pages(2), which the same user calls during the stop, refuses.
 */
#define FUSE_USE_VERSION 312

#include "harness.h"

#include <fuse_lowlevel.h>

#include "policy_util.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define MNT "/mnt"
#define COPY "/scratch/pm-confine"

/* Where the area of each target begins, also that of the program that it executes. */
#define AREA ((char *)(1UL << 40))

/* The parts of the area, of N pages each. A part that a test does not need is a hole. */
enum { BEFORE, FILE_PART, BEHIND, SECOND_PAIR, PARTS };
enum { N = 128 };

/* The files of the server: a page that is slow to come, and pages with a slow mark. */
enum { PAGE_INO = FUSE_ROOT_ID + 1, MARK_INO };
#define PAGE_FILE MNT "/page"
#define MARK_FILE MNT "/mark"

/* Milliseconds: more than anything takes that does not hang. */
enum { LONG = 60000 };

/* Seconds. A call gives up on a mark after somewhat more, so that a stop has to be shorter. */
#define MARK_PATIENCE 2.0

/* What stops the call. */
enum stall {
	/* userfaultfd in memory of the call. In that of the result, reading does not stop. */
	UFFD_PAIRS, UFFD_ARGUMENT, UFFD_LIST, UFFD_RESULT,
	/* Memory of the call is a mapping of a file whose server is slow to read it. */
	FUSE_PAIRS, FUSE_PAIRS_SHARED, FUSE_LIST,
	/* A slow mark in the middle of a call, and a second call that waits for its turn. */
	MARK, TURN,
};

/* What happens during the stop. */
enum change { NOTHING, CPUSET_NARROWED, OTHER_CGROUP, SETUID_PROGRAM };

struct plan {
	enum stall stall;
	/* The server runs as the user instead of as root. */
	bool users_server;
	enum change change;
	/* The caller moves itself. */
	bool self;
	/* The cgroup of a caller that is not the target. */
	enum { UNCONFINED, AS_TARGET, WITHOUT_NEW_NODE } caller;
	unsigned int flags;
	int count;
	int old[2], new[2];
	/* The cpuset of the target, and what is left of it. */
	struct nodes mems, left;
	/* Which parts of the area there are. */
	bool part[PARTS];
};

struct call {
	_Atomic pid_t thread;
	_Atomic bool done;
	long ret;
	struct page_migrate_result res;
	uint64_t by_pair[2];
};

/* Memory that the test, the server and the caller share. */
static struct {
	_Atomic bool holds;		/* the server does not answer as long as it is set */
	_Atomic int asked;		/* how often the server was asked for what it holds */
	_Atomic double asked_at;
	int list[PAGE / sizeof(int)];	/* the contents of the page that is slow to come */
	struct call call[2];
} *board;

static bool stalls_by_mark(const struct plan *plan)
{
	return plan->stall == MARK || plan->stall == TURN;
}

static bool stalls_by_uffd(const struct plan *plan)
{
	return plan->stall <= UFFD_RESULT;
}

static bool has_server(const struct plan *plan)
{
	return !stalls_by_uffd(plan);
}

static char *part(int i)
{
	return AREA + i * N * PAGE;
}

static int home_of(int i)
{
	return i == SECOND_PAIR ? C : A;
}

/*
 * The server.
 */
static void serve_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {
		.ino = strcmp(name, "page") ? MARK_INO : PAGE_INO,
		.generation = 1,
		.attr_timeout = 1e6,
		.entry_timeout = 1e6,
	};

	(void)parent;
	entry.attr = (struct stat){
		.st_ino = entry.ino,
		.st_nlink = 1,
		.st_mode = S_IFREG | 0666,
		.st_size = entry.ino == PAGE_INO ? PAGE : N * PAGE,
	};
	fuse_reply_entry(req, &entry);
}

static void serve_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st = {
		.st_ino = ino,
		.st_nlink = 1,
		.st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0666,
		.st_size = ino == PAGE_INO ? PAGE : ino == MARK_INO ? N * PAGE : 0,
	};

	(void)fi;
	fuse_reply_attr(req, &st, 1e6);
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

static void wait_until_told(void)
{
	if (board->holds && !board->asked) {
		board->asked_at = now();
		board->asked = 1;
	}
	while (board->holds)
		usleep(1000);
}

static void serve_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	static const char zeros[N * PAGE];
	size_t end = ino == PAGE_INO ? PAGE : N * PAGE, at = off;

	(void)fi;
	if (at > end)
		at = end;
	if (size > end - at)
		size = end - at;
	if (ino == MARK_INO) {
		fuse_reply_buf(req, zeros, size);
		return;
	}
	wait_until_told();
	fuse_reply_buf(req, (char *)board->list + at, size);
}

/* What the call has written to its memory is of no use to the server. */
static void serve_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	(void)ino;
	(void)buf;
	(void)off;
	(void)fi;
	fuse_reply_write(req, size);
}

static void serve_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	(void)size;
	if (ino == MARK_INO && strstr(name, ".migrate"))
		wait_until_told();
	/* There is no mark. */
	fuse_reply_err(req, ENODATA);
}

static void be_server(struct child *c, void *arg)
{
	static const struct fuse_lowlevel_ops ops = {
		.lookup = serve_lookup,
		.getattr = serve_getattr,
		.setattr = serve_setattr,
		.open = serve_open,
		.read = serve_read,
		.write = serve_write,
		.getxattr = serve_getxattr,
	};
	/* Root has to say that the user may use what it serves. */
	static char *argv[] = { "abi_confine", "-oallow_other", NULL };
	const struct plan *plan = arg;
	struct fuse_args args = FUSE_ARGS_INIT(plan->users_server ? 1 : 2, argv);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	struct fuse_session *se;

	if (plan->users_server)
		drop_to(NOBODY);
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (!se || fuse_session_mount(se, MNT))
		die("FUSE on " MNT);
	child_put(c, 0);
	/* Each request in a thread. */
	fuse_session_loop_mt(se, config);
}

/*
 * The target.
 */
struct scene {
	const struct plan *plan;
	struct child server, target, caller;
	pid_t target_pid;
	/* The cgroup of the target, and one that lacks the first pair's new node. */
	struct cg cg, without;
};

static void map_part(int i, int fd)
{
	char *p = mmap(part(i), N * PAGE, fd < 0 ? PROT_READ | PROT_WRITE : PROT_READ,
		       fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE :
				MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	int home = home_of(i);

	if (p != part(i) || advise(p, N * PAGE, MADV_NOHUGEPAGE))
		die("mmap of part %d", i);
	bind_to(home);
	for (size_t k = 0; k < N; k++)
		(void)*(volatile char *)(p + k * PAGE);
	if (fd < 0)
		fill(p, N, i);
	bind_to(-1);
	if (!all_on(0, p, N, &home, 1))
		die("part %d is not where it was placed", i);
}

static void map_area(const struct plan *plan)
{
	for (int i = 0; i < PARTS; i++) {
		int fd = -1;

		if (!plan->part[i])
			continue;
		if (i == FILE_PART && stalls_by_mark(plan)) {
			fd = open(MARK_FILE, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				die(MARK_FILE);
		}
		map_part(i, fd);
		if (fd >= 0)
			close(fd);
	}
	/*
	 * A refused call leaves policies alone, too. Without any, one that ends before it
	 * moves a page has done nothing.
	 */
	if (plan->change != SETUID_PROGRAM)
		set_policy(part(BEHIND), N, MPOL_BIND, NODES(A));
}

/* Pages of the area that do not hold what was written there. */
static size_t damage(const struct plan *plan)
{
	size_t bad = 0;

	for (int i = 0; i < PARTS; i++)
		if (plan->part[i] && !(i == FILE_PART && stalls_by_mark(plan)))
			bad += bad_pages(part(i), N, i);
	return bad;
}

/* A new page in place of one of the area. */
static void fault_again(void)
{
	if (madvise(part(BEHIND), PAGE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	*part(BEHIND) = 1;
}

/* What the other side is told to do. */
enum { LOOK, FAULT_AGAIN, EXECUTE, CALL, CALL_SECOND, MIGRATE_PAGES, RELEASE, JOIN };

/* A program with another owner: the same area, without a file. */
static void be_program(struct child *c)
{
	const struct plan plan = { .part = { [FILE_PART] = true, [BEHIND] = true } };

	if (geteuid())
		die("the setuid program is not root's");
	map_area(&plan);
	for (;;) {
		child_put(c, damage(&plan));
		child_get(c);
	}
}

static void execute_copy(struct child *c)
{
	char in[16], out[16];

	snprintf(in, sizeof(in), "%d", c->in);
	snprintf(out, sizeof(out), "%d", c->out);
	fcntl(c->in, F_SETFD, 0);
	fcntl(c->out, F_SETFD, 0);
	execl(COPY, COPY, "--program", in, out, NULL);
	die("exec of " COPY);
}

static void make_copy(void)
{
	static char buf[1 << 16];
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), to;
	ssize_t n;

	unlink(COPY);
	to = open(COPY, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
	if (from < 0 || to < 0)
		die(COPY);
	while ((n = read(from, buf, sizeof(buf))) > 0)
		if (write(to, buf, n) != n)
			die("write");
	if (n < 0 || fchmod(to, 04755))
		die(COPY);
	close(from);
	close(to);
}

static void be_target(struct child *c, void *arg)
{
	struct scene *s = arg;

	cg_enter(&s->cg, getpid());
	drop_to(NOBODY);
	map_area(s->plan);
	for (;;) {
		child_put(c, damage(s->plan));
		switch (child_get(c)) {
		case FAULT_AGAIN:
			fault_again();
			break;
		case EXECUTE:
			execute_copy(c);
		}
	}
}

/*
 * The caller: one thread for each call, and one that is told what to do next.
 */

/* Memory that stops a thread which touches it, until it is released. */
struct trap {
	int uffd;
	char *page;
	char contents[PAGE] __attribute__((aligned(PAGE)));
};

static void trap_set(struct trap *t, bool by_writing)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range.len = PAGE };

	if (by_writing)
		api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	t->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/*
	 * Users see faults of the kernel only where vm.unprivileged_userfaultfd allows it. So
	 * this is opened by root, who then becomes the user.
	 */
	t->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	reg.range.start = (uintptr_t)t->page;
	reg.mode = by_writing ? UFFDIO_REGISTER_MODE_WP : UFFDIO_REGISTER_MODE_MISSING;
	if (t->page == MAP_FAILED || t->uffd < 0 || ioctl(t->uffd, UFFDIO_API, &api) ||
	    ioctl(t->uffd, UFFDIO_REGISTER, &reg))
		die("userfaultfd");
}

/* Makes present memory stop a thread that writes to it, or lets that thread go on. */
static void trap_protect(struct trap *t, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)t->page, .len = PAGE },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	if (ioctl(t->uffd, UFFDIO_WRITEPROTECT, &wp))
		die("UFFDIO_WRITEPROTECT");
}

static void trap_fill(struct trap *t)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)t->page,
		.src = (uintptr_t)t->contents,
		.len = PAGE,
	};

	if (ioctl(t->uffd, UFFDIO_COPY, &copy))
		die("UFFDIO_COPY");
}

/* Waits until a thread is stopped. Returns false if the call returns first. */
static bool trap_stops(struct trap *t, const struct call *call)
{
	struct pollfd in = { .fd = t->uffd, .events = POLLIN };
	struct uffd_msg msg;

	while (!call->done)
		if (poll(&in, 1, 10) > 0 && read(t->uffd, &msg, sizeof(msg)) == sizeof(msg))
			return msg.event == UFFD_EVENT_PAGEFAULT;
	return false;
}

struct order {
	int fd;
	struct page_migrate_request own, *req;
	struct call *call;
	pthread_t thread;
};

static void *make_call(void *arg)
{
	struct order *o = arg;

	o->call->thread = gettid();
	o->call->ret = pm_migrate(o->fd, o->req);
	o->call->res = o->req->result;
	o->call->done = true;
	return NULL;
}

static void start_call(struct order *o)
{
	if (pthread_create(&o->thread, NULL, make_call, o))
		die("pthread_create");
}

/* A mapping of the file that is slow to come. */
static void *slow_page(bool shared)
{
	int fd = open(PAGE_FILE, O_RDWR | O_CLOEXEC);
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd,
		       0);

	if (fd < 0 || p == MAP_FAILED)
		die(PAGE_FILE);
	close(fd);
	return p;
}

/* Puts the memory that stops the call where it belongs. */
static void prepare(struct order *o, struct trap *t, const struct plan *plan)
{
	o->req = &o->own;
	switch (plan->stall) {
	case UFFD_PAIRS:
		o->own.moved_by_pair = (uintptr_t)t->page;
		break;
	case UFFD_ARGUMENT:
		memcpy(t->contents, &o->own, sizeof(o->own));
		o->req = (void *)t->page;
		break;
	case UFFD_LIST:
		memcpy(t->contents, plan->new, sizeof(plan->new));
		o->own.new_nodes = (uintptr_t)t->page;
		break;
	case UFFD_RESULT:
		memcpy(t->page, &o->own, sizeof(o->own));
		o->req = (void *)t->page;
		trap_protect(t, true);
		break;
	case FUSE_PAIRS:
	case FUSE_PAIRS_SHARED:
		o->own.moved_by_pair = (uintptr_t)slow_page(plan->stall == FUSE_PAIRS_SHARED);
		break;
	case FUSE_LIST:
		o->own.new_nodes = (uintptr_t)slow_page(false);
		break;
	case MARK:
	case TURN:
		break;
	}
}

/* What the system call makes of the same request. */
static long sys_migrate(pid_t pid, const struct plan *plan)
{
	struct nodes old = nodes_list(plan->count, plan->old);
	/* It knows no wildcard. */
	struct nodes new = plan->new[0] == ANY ? NODES(B) : nodes_list(plan->count, plan->new);
	long ret = migrate_pages(pid, MAX_NODES, old.word, new.word);

	return ret < 0 ? -errno : ret;
}

static void be_caller(struct child *c, void *arg)
{
	static struct trap trap;
	struct scene *s = arg;
	const struct plan *plan = s->plan;
	struct order order[2] = { };
	pid_t pid = plan->self ? 0 : s->target_pid;
	int fd;

	if (plan->self || plan->caller == AS_TARGET)
		cg_enter(&s->cg, getpid());
	else if (plan->caller == WITHOUT_NEW_NODE)
		cg_enter(&s->without, getpid());
	if (stalls_by_uffd(plan))
		trap_set(&trap, plan->stall == UFFD_RESULT);
	drop_to(NOBODY);
	fd = pm_open();
	if (plan->self)
		map_area(plan);
	for (int i = 0; i < 2; i++) {
		order[i].fd = fd;
		order[i].call = &board->call[i];
		order[i].own = pm_req(pid, AREA, PARTS * N * PAGE, plan->count, plan->old,
				      plan->new);
		order[i].own.flags = plan->flags;
		order[i].own.moved_by_pair = (uintptr_t)board->call[i].by_pair;
		pm_poison(&order[i].own.result);
		order[i].req = &order[i].own;
	}
	prepare(&order[0], &trap, plan);
	child_put(c, 0);
	for (;;) {
		long answer = 0;

		switch (child_get(c)) {
		case LOOK:
			answer = damage(plan);
			break;
		case FAULT_AGAIN:
			fault_again();
			break;
		case CALL:
			start_call(&order[0]);
			if (stalls_by_uffd(plan))
				answer = trap_stops(&trap, order[0].call);
			break;
		case CALL_SECOND:
			start_call(&order[1]);
			break;
		case MIGRATE_PAGES:
			answer = sys_migrate(pid, plan);
			break;
		case RELEASE:
			if (plan->stall == UFFD_RESULT)
				trap_protect(&trap, false);
			else if (stalls_by_uffd(plan))
				trap_fill(&trap);
			break;
		case JOIN:
			for (int i = 0; i <= (plan->stall == TURN); i++)
				pthread_join(order[i].thread, NULL);
			break;
		}
		child_put(c, answer);
	}
}

/*
 * The scene.
 */
static void own_mounts(void)
{
	static bool done;

	if (done)
		return;
	done = true;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("no mount namespace");
	/* A user who has a file system of its own. */
	if (chmod("/dev/fuse", 0666) || chown(MNT, NOBODY, NOBODY))
		die("FUSE for a user");
}

static void scene_start(struct scene *s, const struct plan *plan)
{
	own_mounts();
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (board == MAP_FAILED)
		die("mmap");
	memcpy(board->list, plan->new, sizeof(plan->new));
	*s = (struct scene){ .plan = plan };
	cg_make(&s->cg, "confine", nodes_text(plan->mems));
	cg_make(&s->without, "confine-without", nodes_text(plan->left));
	if (plan->change == SETUID_PROGRAM)
		make_copy();
	if (has_server(plan)) {
		child_start(&s->server, be_server, (void *)plan);
		child_get(&s->server);
	}
	if (!plan->self) {
		child_start(&s->target, be_target, s);
		child_get(&s->target);
		s->target_pid = s->target.pid;
	}
	child_start(&s->caller, be_caller, s);
	child_get(&s->caller);
	if (plan->self)
		s->target_pid = s->caller.pid;
	board->holds = true;
}

static void scene_end(struct scene *s)
{
	board->holds = false;
	child_end(&s->caller);
	child_end(&s->target);
	for (int i = 0; s->server.pid && umount(MNT); i++) {
		if (i == 200)
			die("umount " MNT);
		usleep(20000);
	}
	child_end(&s->server);
	cg_remove(&s->cg);
	cg_remove(&s->without);
	unlink(COPY);
	munmap(board, sizeof(*board));
}

/* What a process answers; it must not hang. */
static long tell(struct child *c, uint64_t what)
{
	struct pollfd in = { .fd = c->in, .events = POLLIN };

	child_put(c, what);
	if (poll(&in, 1, LONG * patience()) <= 0)
		die("a process hangs, told to do %lu", (unsigned long)what);
	return child_get(c);
}

/* The system call in which a thread sleeps, or -1. */
static int sleeps_in(pid_t thread)
{
	char path[64], text[256];

	snprintf(path, sizeof(path), "/proc/%d/syscall", thread);
	/* It has no number while the thread runs. */
	if (!thread || file_read(path, text, sizeof(text)) || *text < '0' || *text > '9')
		return -1;
	return atoi(text);
}

/* Whether a call comes to a stop, and not just for a moment. */
static bool comes_to_a_stop(const struct call *call)
{
	int looks = 0;

	for (int i = 0; i < LONG * patience() && !call->done && looks < 20; i++) {
		looks = sleeps_in(call->thread) == SYS_ioctl ? looks + 1 : 0;
		usleep(1000);
	}
	return looks == 20;
}

static bool mems_become(pid_t pid, const char *mems)
{
	char path[64], text[8192], want[600];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	snprintf(want, sizeof(want), "\nMems_allowed_list:\t%s\n", mems);
	for (int i = 0; i < 1000; i++) {
		if (file_read(path, text, sizeof(text)))
			return false;
		if (strstr(text, want))
			return true;
		usleep(10000);
	}
	return false;
}

static bool make_change(struct scene *s)
{
	const char *left = nodes_text(s->plan->left);

	switch (s->plan->change) {
	case NOTHING:
		break;
	case CPUSET_NARROWED:
		return !cg_set(&s->cg, "cpuset.mems", left) && mems_become(s->target_pid, left);
	case OTHER_CGROUP:
		cg_enter(&s->without, s->target_pid);
		return mems_become(s->target_pid, left);
	case SETUID_PROGRAM:
		return !tell(&s->target, EXECUTE);
	}
	return true;
}

static bool none_on(const struct scene *s, int node)
{
	size_t n = count_on(s->target_pid, AREA, PARTS * N, node);

	if (n)
		fprintf(stderr, "# %zu pages are on node %d\n", n, node);
	return !n;
}

static bool part_on(const struct scene *s, int i, int node)
{
	return all_on(s->target_pid, part(i), N, &node, 1);
}

static bool all_at_home(const struct scene *s)
{
	for (int i = 0; i < PARTS; i++)
		if (s->plan->part[i] && !part_on(s, i, home_of(i)))
			return false;
	return true;
}

/*
 * Makes a call, stops it, changes what the plan says, and lets the call go on to its
 * end. Returns false if the call may have given up on the mark before that.
 */
static bool try_call(struct __test_metadata *_metadata, struct scene *s, const struct plan *plan)
{
	const struct call *stopped = &board->call[plan->stall == TURN];
	bool stops, made, returned, at_home;
	long sys = -EPERM;

	stops = tell(&s->caller, CALL);
	for (int i = 0; has_server(plan) && i < LONG * patience() && !board->asked; i++)
		usleep(1000);
	if (has_server(plan))
		stops = board->asked;
	if (plan->stall == TURN)
		tell(&s->caller, CALL_SECOND);
	stops &= comes_to_a_stop(stopped);
	made = make_change(s);
	at_home = all_at_home(s);
	if (plan->change != NOTHING)
		sys = tell(&s->caller, MIGRATE_PAGES);
	at_home &= all_at_home(s);
	returned = board->call[0].done || board->call[1].done;
	if (stalls_by_mark(plan) && now() - board->asked_at > MARK_PATIENCE)
		return false;
	board->holds = false;
	tell(&s->caller, RELEASE);
	tell(&s->caller, JOIN);
	EXPECT_TRUE(stops);
	EXPECT_TRUE(made);
	EXPECT_FALSE(returned);
	EXPECT_EQ(-EPERM, sys);
	/* If the call moved pages before its stop, the kernel moved them back with the change. */
	EXPECT_TRUE(at_home);
	return true;
}

static void stopped_call(struct __test_metadata *_metadata, struct scene *s,
			 const struct plan *plan)
{
	for (int tries = 0; tries < 5; tries++) {
		scene_start(s, plan);
		if (try_call(_metadata, s, plan))
			return;
		scene_end(s);
	}
	die("the machine is too slow for marks");
}

/* A call that was refused. */
static void refused(struct __test_metadata *_metadata, const struct scene *s,
		    const struct call *call, long ret)
{
	EXPECT_EQ(ret, call->ret);
	EXPECT_TRUE(pm_is_poison(&call->res)) pm_print(&call->res);
	EXPECT_TRUE(all_at_home(s));
	/* Of two calls, the first has changed it before the node was lost. */
	if (s->plan->stall != TURN && s->plan->change != SETUID_PROGRAM)
		EXPECT_TRUE(shown_as(s->target_pid, part(BEHIND), MPOL_BIND, NODES(A)));
}

/* Ends a scene. Whatever policies name by now, new pages keep off a lost node as well. */
static void end_without(struct __test_metadata *_metadata, struct scene *s, int lost)
{
	struct child *c = s->plan->self ? &s->caller : &s->target;

	EXPECT_EQ(0, tell(c, LOOK));
	if (lost >= 0) {
		tell(c, FAULT_AGAIN);
		EXPECT_TRUE(none_on(s, lost));
	}
	scene_end(s);
}

/* A call that was at work when its first new node was lost, and had no other node. */
static void found_no_room(struct __test_metadata *_metadata, const struct scene *s,
			  const struct call *call)
{
	size_t pages = 0;

	for (int i = 0; i < PARTS; i++)
		pages += s->plan->part[i] ? N : 0;
	EXPECT_EQ(-ENOMEM, call->ret);
	ASSERT_FALSE(pm_is_poison(&call->res));
	EXPECT_EQ(pages, pm_sum(&call->res)) pm_print(&call->res);
	/* Pages of the file may be busy. */
	EXPECT_LE(N, call->res.no_memory) pm_print(&call->res);
	EXPECT_EQ(pages - N * s->plan->part[BEFORE] - N * s->plan->part[SECOND_PAIR],
		  call->res.no_memory + call->res.busy) pm_print(&call->res);
	EXPECT_EQ(0, call->res.moved_fallback) pm_print(&call->res);
}

/* Carries out a plan with a single pair and checks what became of it. */
static void try_plan(struct __test_metadata *_metadata, const struct plan *plan)
{
	const struct call *call = board->call;
	struct scene s;

	stopped_call(_metadata, &s, plan);
	call = &board->call[plan->stall == TURN];
	switch (plan->change) {
	case NOTHING:
		/* This shows that the call would move all pages in the other tests. */
		for (int i = 0; i <= (plan->stall == TURN); i++) {
			EXPECT_LE(0, board->call[i].ret);
			EXPECT_EQ(2 * N, pm_sum(&board->call[i].res))
				pm_print(&board->call[i].res);
		}
		EXPECT_LE(N, board->call[0].res.moved) pm_print(&board->call[0].res);
		EXPECT_TRUE(part_on(&s, BEHIND, B));
		if (!stalls_by_mark(plan)) {
			EXPECT_EQ(0, call->ret);
			EXPECT_TRUE(part_on(&s, FILE_PART, B));
		}
		break;
	case CPUSET_NARROWED:
	case OTHER_CGROUP:
		EXPECT_TRUE(none_on(&s, B));
		EXPECT_TRUE(all_at_home(&s));
		if (stalls_by_mark(plan))
			found_no_room(_metadata, &s, &board->call[0]);
		if (plan->stall != MARK)
			refused(_metadata, &s, call, -EINVAL);
		break;
	case SETUID_PROGRAM:
		EXPECT_TRUE(none_on(&s, B));
		EXPECT_TRUE(all_at_home(&s));
		/* The call has checked a program that is gone, and has done nothing. */
		if (stalls_by_mark(plan))
			refused(_metadata, &s, &board->call[0], -ESRCH);
		if (plan->stall != MARK)
			refused(_metadata, &s, call, -EPERM);
		break;
	}
	end_without(_metadata, &s, plan->change == CPUSET_NARROWED ||
		    plan->change == OTHER_CGROUP ? B : -1);
}

FIXTURE(stopped_by)
{
};

FIXTURE_VARIANT(stopped_by)
{
	enum stall stall;
	bool users_server;
};

#define VARIANT(_name, ...)							\
FIXTURE_VARIANT_ADD(stopped_by, _name) { __VA_ARGS__ }

VARIANT(uffd_in_moved_by_pair, .stall = UFFD_PAIRS);
VARIANT(uffd_in_the_argument, .stall = UFFD_ARGUMENT);
VARIANT(uffd_in_a_list, .stall = UFFD_LIST);
VARIANT(uffd_in_the_result, .stall = UFFD_RESULT);
VARIANT(fuse_in_moved_by_pair, .stall = FUSE_PAIRS);
VARIANT(own_shared_fuse_in_moved_by_pair, .stall = FUSE_PAIRS_SHARED, .users_server = true);
VARIANT(fuse_in_a_list, .stall = FUSE_LIST);
VARIANT(a_mark, .stall = MARK);
VARIANT(a_mark_of_an_own_server, .stall = MARK, .users_server = true);
VARIANT(a_turn, .stall = TURN);

FIXTURE_SETUP(stopped_by)
{
	(void)self;
	(void)variant;
}

FIXTURE_TEARDOWN(stopped_by)
{
	(void)self;
	(void)variant;
}

/* A to B, in a cpuset of these two, of which A is left. */
static struct plan one_pair(enum stall stall, bool users_server, enum change change)
{
	return (struct plan){
		.stall = stall,
		.users_server = users_server,
		.change = change,
		.count = 1,
		.old = { A },
		.new = { B },
		.mems = NODES(A, B),
		.left = NODES(A),
		.part = { [FILE_PART] = true, [BEHIND] = true },
	};
}

/* A to B and C to Z, of which B is lost. */
static struct plan two_pairs(enum stall stall, bool users_server)
{
	return (struct plan){
		.stall = stall,
		.users_server = users_server,
		.change = CPUSET_NARROWED,
		.count = 2,
		.old = { A, C },
		.new = { B, Z },
		.mems = NODES(A, B, C, Z),
		.left = NODES(A, C, Z),
		.part = { [FILE_PART] = true, [BEHIND] = true, [SECOND_PAIR] = true },
	};
}

#define ONE_PAIR(change)	one_pair(variant->stall, variant->users_server, change)
#define TWO_PAIRS()		two_pairs(variant->stall, variant->users_server)

TEST_F(stopped_by, nothing_changes)
{
	struct plan plan = ONE_PAIR(NOTHING);

	try_plan(_metadata, &plan);
}

TEST_F(stopped_by, cpuset_is_narrowed)
{
	struct plan plan = ONE_PAIR(CPUSET_NARROWED);

	try_plan(_metadata, &plan);
}

TEST_F(stopped_by, target_is_moved_to_another_cgroup)
{
	struct plan plan = ONE_PAIR(OTHER_CGROUP);

	try_plan(_metadata, &plan);
}

TEST_F(stopped_by, target_executes_a_setuid_program)
{
	struct plan plan = ONE_PAIR(SETUID_PROGRAM);

	try_plan(_metadata, &plan);
}

TEST_F(stopped_by, self_and_nothing_changes)
{
	struct plan plan = ONE_PAIR(NOTHING);

	plan.self = true;
	try_plan(_metadata, &plan);
}

TEST_F(stopped_by, self_and_cpuset_is_narrowed)
{
	struct plan plan = ONE_PAIR(CPUSET_NARROWED);

	plan.self = true;
	try_plan(_metadata, &plan);
}

TEST_F(stopped_by, self_and_moved_to_another_cgroup)
{
	struct plan plan = ONE_PAIR(OTHER_CGROUP);

	plan.self = true;
	try_plan(_metadata, &plan);
}

/* The kernel does not let the caller itself allocate on the new node. */
TEST_F(stopped_by, confined_caller_and_nothing_changes)
{
	struct plan plan = ONE_PAIR(NOTHING);

	plan.caller = WITHOUT_NEW_NODE;
	try_plan(_metadata, &plan);
}

TEST_F(stopped_by, confined_caller_and_cpuset_is_narrowed)
{
	struct plan plan = ONE_PAIR(CPUSET_NARROWED);

	plan.caller = WITHOUT_NEW_NODE;
	try_plan(_metadata, &plan);
}

/* The caller loses the node, too. */
TEST_F(stopped_by, caller_in_the_cgroup_that_is_narrowed)
{
	struct plan plan = ONE_PAIR(CPUSET_NARROWED);

	plan.caller = AS_TARGET;
	try_plan(_metadata, &plan);
}

static void try_two_pairs(struct __test_metadata *_metadata, const struct plan *plan)
{
	bool strict = plan->flags & PAGE_MIGRATE_STRICT;
	const struct call *call;
	struct scene s;

	stopped_call(_metadata, &s, plan);
	EXPECT_TRUE(none_on(&s, B));
	call = &board->call[0];
	if (stalls_by_mark(plan)) {
		/* The other pair's pages still move. */
		EXPECT_TRUE(part_on(&s, SECOND_PAIR, Z));
		EXPECT_TRUE(part_on(&s, BEHIND, strict ? A : Z));
		EXPECT_EQ(N, call->res.moved) pm_print(&call->res);
		EXPECT_EQ(N, call->by_pair[1]);
		EXPECT_EQ(call->res.moved_fallback, call->by_pair[0]);
	} else {
		refused(_metadata, &s, call, -EINVAL);
	}
	if (stalls_by_mark(plan) && strict) {
		found_no_room(_metadata, &s, call);
	} else if (stalls_by_mark(plan)) {
		/* A lost node is as a full one: its pages go to the other new node. */
		EXPECT_LE(0, call->ret);
		EXPECT_LE(N, call->res.moved_fallback) pm_print(&call->res);
		EXPECT_EQ(0, call->res.no_memory) pm_print(&call->res);
	}
	if (plan->stall == TURN)
		EXPECT_EQ(-EINVAL, board->call[1].ret);
	end_without(_metadata, &s, B);
}

TEST_F(stopped_by, one_of_two_new_nodes_is_lost)
{
	struct plan plan = TWO_PAIRS();

	try_two_pairs(_metadata, &plan);
}

TEST_F(stopped_by, one_of_two_new_nodes_is_lost_without_fallback)
{
	struct plan plan = TWO_PAIRS();

	plan.flags = PAGE_MIGRATE_STRICT;
	try_two_pairs(_metadata, &plan);
}

/* A confined caller has its work done on another thread. */
TEST_F(stopped_by, confined_caller_and_one_of_two_new_nodes_is_lost)
{
	struct plan plan = TWO_PAIRS();

	plan.caller = WITHOUT_NEW_NODE;
	try_two_pairs(_metadata, &plan);
}

/*
 * Memory before the file: the call may have moved it before it asked for the mark. When
 * the cpuset is narrowed, the kernel moves such pages back.
 */
TEST(pages_that_moved_before_the_stop)
{
	struct plan plan = one_pair(MARK, false, CPUSET_NARROWED);
	struct scene s;

	plan.part[BEFORE] = true;
	stopped_call(_metadata, &s, &plan);
	EXPECT_TRUE(none_on(&s, B));
	EXPECT_TRUE(all_at_home(&s));
	EXPECT_EQ(-ENOMEM, board->call[0].ret);
	EXPECT_EQ(3 * N, pm_sum(&board->call[0].res)) pm_print(&board->call[0].res);
	EXPECT_GE(N, board->call[0].res.moved) pm_print(&board->call[0].res);
	EXPECT_LE(N, board->call[0].res.no_memory) pm_print(&board->call[0].res);
	end_without(_metadata, &s, B);
}

/* A wildcard does not choose a node that is lost. */
static void try_any(struct __test_metadata *_metadata, const struct plan *plan, int to)
{
	struct scene s;

	stopped_call(_metadata, &s, plan);
	EXPECT_TRUE(none_on(&s, B));
	EXPECT_TRUE(part_on(&s, BEHIND, to));
	if (to == A)
		found_no_room(_metadata, &s, &board->call[0]);
	else
		EXPECT_LE(0, board->call[0].ret);
	end_without(_metadata, &s, B);
}

TEST(any_node_but_the_one_that_is_lost)
{
	struct plan plan = one_pair(MARK, false, CPUSET_NARROWED);

	plan.new[0] = ANY;
	plan.mems = NODES(A, B, C);
	plan.left = NODES(A, C);
	try_any(_metadata, &plan, C);
}

TEST(any_node_and_the_only_one_is_lost)
{
	struct plan plan = one_pair(MARK, false, CPUSET_NARROWED);

	plan.new[0] = ANY;
	try_any(_metadata, &plan, A);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "--program")) {
		struct child c = { .in = atoi(argv[2]), .out = atoi(argv[3]) };

		be_program(&c);
	}
	return test_harness_run(argc, argv);
}
