// SPDX-License-Identifier: GPL-2.0
/*
 * Files that only their file system can let go: NFS, which keeps a written page until its
 * server has it on disk, with a server that goes away and comes back; and ext4 with data
 * in its journal. The NFS server is the kernel's own, in the same machine.
 */
#include "harness.h"
#include "mem_util.h"

#include <arpa/inet.h>
#include <numa.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#define EXPORT SCRATCH "/export"
#define MNT "/mnt"
#define NFSD "/proc/fs/nfsd"
#define RPC "/proc/net/rpc"

/* The area that moves: N pages of memory, N of a file, N of memory. */
enum { N = 256, AREA = 3 * N };
/* Milliseconds. See fault_server. */
enum { BY_ITSELF = 10000, AFTER_SIGNAL = 1500, LONG = 60000 };
/* Calls until all written pages have moved, with a server that is back, and pauses (ms). */
enum { CALLS = 3, BACK = 60, PAUSE = 1500 };

static void put(const char *path, const char *text)
{
	int ret = file_write(path, text);

	if (ret) {
		errno = -ret;
		die("%s", path);
	}
}

static void run(const char *command)
{
	if (system(command))
		die("%s", command);
}

/*
 * The server. What exportfs(8) and rpc.mountd(8) would tell the kernel is told here: who
 * the client is, what it may mount, and where that is. The flags are those of an export
 * that can be written to, for root as well, from any port, and that has a number, 0.
 */
static void server_start(void)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(2049),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	char text[16];

	put(NFSD "/nfsv4leasetime", "10");
	put(NFSD "/nfsv4gracetime", "10");
	put(NFSD "/versions", "-3 +4 +4.1 +4.2\n");
	put(RPC "/auth.unix.ip/channel", "nfsd 127.0.0.1 2147483647 client\n");
	put(RPC "/nfsd.export/channel", "client " EXPORT " 2147483647 9218 65534 65534 0\n");
	put(RPC "/nfsd.fh/channel", "client 1 \\x00000000 2147483647 " EXPORT "\n");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 16))
		die("the server's port");
	snprintf(text, sizeof(text), "%d\n", fd);
	put(NFSD "/portlist", text);
	close(fd);
	put(NFSD "/threads", "4");
}

/* As long as clients may reclaim what they had, the server opens no file for anybody. */
static void grace_wait(void)
{
	char text[16] = "";

	for (int i = 0; i < 600 * patience() && text[0] != 'Y'; i++) {
		usleep(100000);
		if (file_read(NFSD "/v4_end_grace", text, sizeof(text)))
			die("v4_end_grace");
	}
	if (text[0] != 'Y')
		die("the server's time of grace does not end");
}

static void server_stop(void)
{
	put(NFSD "/threads", "0");
}

static bool server_is_there(void)
{
	char text[16];

	if (file_read(NFSD "/threads", text, sizeof(text)))
		die("threads");
	return atoi(text) > 0;
}

static void client_mount(void)
{
	if (mount("127.0.0.1:/", MNT, "nfs4", 0,
		  "vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,hard,actimeo=1"))
		die("NFS on " MNT);
}

/* Mounts of this network namespace's that the kernel still knows. */
static bool client_is_there(void)
{
	char text[4096];

	/* The first line is a heading. */
	return !file_read("/proc/net/nfsfs/volumes", text, sizeof(text)) &&
	       strchr(text, '\n') && strchr(text, '\n')[1];
}

/* Unmounts, and waits until the client has told the server all it has to tell. */
static void client_unmount(void)
{
	bool mounted = true;

	for (int i = 0; i < 200 * patience() && (mounted || client_is_there()); i++) {
		mounted = mounted && umount(MNT) && errno == EBUSY;
		usleep(50000);
	}
	if (mounted || client_is_there())
		die("NFS stays mounted on " MNT);
}

/*
 * A target with a mapping of a file between memory.
 */
struct target {
	struct child child;
	const char *path;
	int prot;
	unsigned int seed;	/* of the file; it is written if prot says so */
	char *area;
};

static char *part(const struct target *t, int i)
{
	return t->area + i * N * PAGE;
}

static void memory(char *at, unsigned int seed)
{
	map_fixed(at, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	advise(at, N * PAGE, MADV_NOHUGEPAGE);
	place_pages(at, N, &mem[0], 1);
	fill(at, N, seed);
}

enum { LOOK, WRITE, SYNC };

static void be_target(struct child *c, void *arg)
{
	struct target *t = arg;
	bool writes = t->prot & PROT_WRITE;
	int fd = open(t->path, writes ? O_RDWR | O_CREAT : O_RDONLY, 0644);

	if (fd < 0 || (writes && ftruncate(fd, N * PAGE)))
		die("%s", t->path);
	memory(part(t, 0), 100);
	memory(part(t, 2), 102);
	map_fixed(part(t, 1), N, t->prot, MAP_SHARED, fd, 0);
	close(fd);
	bind_to(mem[0]);
	if (writes)
		fill(part(t, 1), N, t->seed);
	else
		touch(part(t, 1), N);
	bind_to(-1);
	if (!all_on(0, t->area, AREA, &mem[0], 1))
		die("the area is not where it was placed");
	for (child_put(c, 0);;) {
		long answer = 0;

		switch (child_get(c)) {
		case LOOK:
			answer = bad_pages(part(t, 0), N, 100) + bad_pages(part(t, 1), N, t->seed) +
				 bad_pages(part(t, 2), N, 102);
			break;
		case WRITE:
			fill(part(t, 1), N, ++t->seed);
			break;
		case SYNC:
			answer = msync(part(t, 1), N * PAGE, MS_SYNC);
			break;
		}
		child_put(c, answer);
	}
}

static void target_start(struct target *t, const char *path, int prot, unsigned int seed)
{
	*t = (struct target){ .path = path, .prot = prot, .seed = seed, .area = reserve(AREA) };
	child_start(&t->child, be_target, t);
	child_get(&t->child);
}

static long tell(struct target *t, uint64_t what)
{
	if (what == WRITE)
		t->seed++;
	child_put(&t->child, what);
	return child_get(&t->child);
}

/* How many of the file's pages have a flag of /proc/kpageflags. */
static size_t flagged(const struct target *t, int bit)
{
	size_t n = 0;

	for (int i = 0; i < N; i++) {
		uint64_t pfn = pfn_of_pid(t->child.pid, part(t, 1) + i * PAGE);

		n += pfn && (kpageflags(pfn) >> bit & 1);
	}
	return n;
}

static long move(int fd, const struct target *t, int from, int to,
		 struct page_migrate_result *res)
{
	return pm_move(fd, t->child.pid, t->area, AREA * PAGE, 0, 1, &mem[from], &mem[to], res);
}

static bool is_at(const struct target *t, int file, int memory)
{
	return all_on(t->child.pid, part(t, 0), N, &mem[memory], 1) &&
	       all_on(t->child.pid, part(t, 1), N, &mem[file], 1) &&
	       all_on(t->child.pid, part(t, 2), N, &mem[memory], 1);
}

/*
 * Whether migrate_pages(2) moves a target from the first node to the second, as it should.
 * It moves the whole process, of which other pages may be in use.
 */
static bool moved_by_the_kernel(const struct target *t)
{
	unsigned long from = 1UL << mem[0], to = 1UL << mem[1];

	for (int i = 0; i < CALLS; i++)
		if (!migrate_pages(t->child.pid, 8 * sizeof(long) + 1, &from, &to))
			break;
	return is_at(t, 1, 1);
}

/* A call that is made again, at most so often, until nothing is left. */
static void move_all(struct __test_metadata *_metadata, int fd, const struct target *t, int from,
		     int to, int calls, int pause)
{
	struct page_migrate_result res;
	long ret = 1;
	int n = 0;

	while (n < calls && ret > 0) {
		if (n++)
			usleep(pause * 1000);
		ret = move(fd, t, from, to, &res);
		/* Whatever else happens, memory does not wait for files. */
		EXPECT_TRUE(all_on(t->child.pid, part(t, 2), N, &mem[to], 1));
	}
	TH_LOG("%d calls", n);
	EXPECT_EQ(0, ret) pm_print(&res);
	EXPECT_TRUE(is_at(t, to, to));
	EXPECT_EQ(AREA, pm_sum(&res)) pm_print(&res);
	EXPECT_EQ(0, res.exempt) pm_print(&res);
}

/* Pages of a file that do not hold what fill() writes, read by read(2). */
static size_t bad_in_file(const char *path, unsigned int seed)
{
	char *buf = malloc(N * PAGE);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t bad;

	if (!buf || fd < 0 || pread(fd, buf, N * PAGE, 0) != (ssize_t)(N * PAGE))
		die("%s", path);
	bad = bad_pages(buf, N, seed);
	close(fd);
	free(buf);
	return bad;
}

static bool no_nfs;

FIXTURE(nfs) {
	int fd;
	struct target t, other;
};

FIXTURE_SETUP(nfs)
{
	if (no_nfs)
		SKIP(return, "no NFS");
	client_mount();
	self->fd = pm_open();
}

FIXTURE_TEARDOWN(nfs)
{
	/* Processes with written pages do not end without it. */
	if (!server_is_there())
		server_start();
	child_end(&self->t.child);
	child_end(&self->other.child);
	close(self->fd);
	client_unmount();
	run("rm -rf " EXPORT "/*");
	EXPECT_EQ(0, nr_isolated());
}

/* A file that the server already has. */
static void make_file(const char *name, unsigned int seed)
{
	char path[64], *buf = malloc(N * PAGE);
	int fd;

	snprintf(path, sizeof(path), EXPORT "/%s", name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (!buf || fd < 0)
		die("%s", path);
	fill(buf, N, seed);
	if (write(fd, buf, N * PAGE) != (ssize_t)(N * PAGE) || fsync(fd))
		die("%s", path);
	close(fd);
	free(buf);
}

TEST_F(nfs, clean_pages)
{
	make_file("f", 1);
	target_start(&self->t, MNT "/f", PROT_READ, 1);
	move_all(_metadata, self->fd, &self->t, 0, 1, CALLS, PAUSE);
	EXPECT_EQ(0, tell(&self->t, LOOK));
	make_file("g", 2);
	target_start(&self->other, MNT "/g", PROT_READ, 2);
	EXPECT_TRUE(moved_by_the_kernel(&self->other));
}

/* The server has to have a page on its disk before it can move. */
TEST_F(nfs, written_pages)
{
	target_start(&self->other, MNT "/g", PROT_READ | PROT_WRITE, 1);
	EXPECT_LE(N / 2, flagged(&self->other, KPF_DIRTY));
	EXPECT_TRUE(moved_by_the_kernel(&self->other));

	target_start(&self->t, MNT "/f", PROT_READ | PROT_WRITE, 10);
	EXPECT_LE(N / 2, flagged(&self->t, KPF_DIRTY));
	move_all(_metadata, self->fd, &self->t, 0, 1, CALLS, PAUSE);
	EXPECT_EQ(0, tell(&self->t, LOOK));

	/* Written again, and back, in another job. */
	tell(&self->t, WRITE);
	EXPECT_LE(N / 2, flagged(&self->t, KPF_DIRTY));
	move_all(_metadata, self->fd, &self->t, 1, 0, CALLS, PAUSE);
	EXPECT_EQ(0, tell(&self->t, LOOK));
	/* The last mapping may go before what is written through it: msync(2) waits. */
	tell(&self->t, WRITE);
	EXPECT_EQ(0, tell(&self->t, LOOK));
	EXPECT_EQ(0, tell(&self->t, SYNC));
	child_end(&self->t.child);
	child_end(&self->other.child);
	client_unmount();
	EXPECT_EQ(0, bad_in_file(EXPORT "/f", self->t.seed));
	client_mount();
	EXPECT_EQ(0, bad_in_file(MNT "/f", self->t.seed));
	EXPECT_EQ(0, bad_on_disk(EXPORT "/f", N, self->t.seed));
}

static void mark(const char *path, const char *value)
{
	if (value ? setxattr(path, "user.migrate", value, strlen(value), 0) :
		    removexattr(path, "user.migrate"))
		die("user.migrate of %s", path);
}

/* A target's file is marked, so that its pages stay. */
static void marked(struct __test_metadata *_metadata, int fd, const struct target *t)
{
	struct page_migrate_result res;
	long ret = 1;

	for (int i = 0; i < CALLS && ret > 0; i++)
		ret = move(fd, t, 0, 1, &res);
	EXPECT_EQ(0, ret) pm_print(&res);
	EXPECT_EQ(N, res.exempt) pm_print(&res);
	EXPECT_TRUE(is_at(t, 0, 1));
}

TEST_F(nfs, marks)
{
	char value[8];

	make_file("f", 1);
	make_file("g", 2);
	make_file("h", 3);
	mark(MNT "/f", "none");
	mark(MNT "/g", "lib");
	mark(MNT "/h", "lib");
	/* It is the server that has it. */
	EXPECT_EQ(4, getxattr(EXPORT "/f", "user.migrate", value, sizeof(value)));
	target_start(&self->t, MNT "/f", PROT_READ, 1);
	target_start(&self->other, MNT "/g", PROT_READ, 2);
	marked(_metadata, self->fd, &self->t);
	marked(_metadata, self->fd, &self->other);
	mark(MNT "/f", NULL);
	mark(MNT "/g", "all");
	move_all(_metadata, self->fd, &self->t, 0, 1, CALLS, PAUSE);
	move_all(_metadata, self->fd, &self->other, 0, 1, CALLS, PAUSE);
	child_end(&self->other.child);

	/* This mark leaves pages that can be written to. */
	target_start(&self->other, MNT "/h", PROT_READ | PROT_WRITE, 3);
	move_all(_metadata, self->fd, &self->other, 0, 1, CALLS, PAUSE);
	EXPECT_EQ(0, tell(&self->other, LOOK));
}

/*
 * The server goes away. What is known of a file for a second is forgotten, so that it has
 * to be asked.
 */
static void server_goes(void)
{
	server_stop();
	sleep(3);
}

/* A call in a process of its own. */
struct caller {
	struct child child;
	int fd;
	const struct target *t;
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

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGUSR1, &act, NULL);
	c->end->ret = move(c->fd, c->t, 0, 1, &c->end->res);
	child_put(child, 0);
}

static void caller_start(struct caller *c, int fd, const struct target *t)
{
	*c = (struct caller){ .fd = fd, .t = t };
	c->end = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (c->end == MAP_FAILED)
		die("mmap");
	child_start(&c->child, be_caller, c);
}

static bool speaks(struct child *c, int ms)
{
	struct pollfd in = { .fd = c->in, .events = POLLIN };

	return poll(&in, 1, ms * patience()) > 0;
}

static bool caller_returns(struct caller *c, int ms)
{
	if (!speaks(&c->child, ms))
		return false;
	child_get(&c->child);
	child_end(&c->child);
	return true;
}

/* Whether a process is ended by SIGKILL within that time. Reaps it. */
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
 * A call that meets a server which is not there: it ends by itself, and at once when a
 * signal comes. The memory behind the file moves.
 */
static void without_server(struct __test_metadata *_metadata, int fd, const struct target *t)
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGUSR1, SIGKILL };
	struct caller c;
	double begin = now();

	for (size_t i = 0; i < ARRAY_LEN(sigs); i++) {
		caller_start(&c, fd, t);
		EXPECT_TRUE(readers_become(1, LONG));
		/* How long the module waits is the same on a slow machine. */
		EXPECT_FALSE(speaks(&c.child, 500 / patience()));
		kill(c.child.pid, sigs[i]);
		if (sigs[i] == SIGKILL) {
			EXPECT_TRUE(dies(&c.child, AFTER_SIGNAL));
			continue;
		}
		ASSERT_TRUE(caller_returns(&c, AFTER_SIGNAL)) TH_LOG("signal %d", sigs[i]);
		EXPECT_EQ(-EINTR, c.end->ret);
		EXPECT_EQ((uintptr_t)part(t, 1), c.end->res.resume_va) pm_print(&c.end->res);
		/* A question that nobody waits for is taken back. */
		EXPECT_TRUE(readers_become(0, LONG));
	}
	EXPECT_TRUE(readers_become(0, LONG));
	begin = now();
	caller_start(&c, fd, t);
	ASSERT_TRUE(caller_returns(&c, BY_ITSELF));
	TH_LOG("ended by itself after %.1f s", now() - begin);
	EXPECT_EQ(N, c.end->ret);
	EXPECT_EQ(N, c.end->res.busy) pm_print(&c.end->res);
	EXPECT_EQ(AREA, pm_sum(&c.end->res)) pm_print(&c.end->res);
	EXPECT_TRUE(is_at(t, 0, 1));
}

TEST_F_TIMEOUT(nfs, server_goes_away, 400)
{
	make_file("f", 1);
	make_file("g", 2);
	target_start(&self->t, MNT "/f", PROT_READ, 1);
	target_start(&self->other, MNT "/g", PROT_READ, 2);
	server_goes();
	without_server(_metadata, self->fd, &self->t);
	/* That these pages can be moved without a server, migrate_pages(2) shows. */
	EXPECT_TRUE(moved_by_the_kernel(&self->other));
	server_start();
	grace_wait();
	move_all(_metadata, self->fd, &self->t, 0, 1, BACK, PAUSE);
	EXPECT_TRUE(readers_become(0, LONG));
	EXPECT_EQ(0, tell(&self->t, LOOK));
}

/* What has been written and has not reached the server stays until it can. */
TEST_F_TIMEOUT(nfs, server_goes_away_before_it_has_all, 400)
{
	target_start(&self->t, MNT "/f", PROT_READ | PROT_WRITE, 20);
	ASSERT_EQ(0, tell(&self->t, SYNC));
	server_goes();
	tell(&self->t, WRITE);
	without_server(_metadata, self->fd, &self->t);
	server_start();
	grace_wait();
	move_all(_metadata, self->fd, &self->t, 0, 1, BACK, PAUSE);
	EXPECT_TRUE(readers_become(0, LONG));
	EXPECT_EQ(0, tell(&self->t, LOOK));
	EXPECT_EQ(0, tell(&self->t, SYNC));
	EXPECT_EQ(0, bad_in_file(EXPORT "/f", self->t.seed));
}

/*
 * With its data in the journal, ext4 holds the buffers of a page until they have been
 * committed, and written to their place as well. migrate_pages(2) moves no such page.
 */
TEST(journalled_pages)
{
	struct target t;
	int fd = pm_open();

	if (system("modprobe -q loop"))
		SKIP(return, "no loop devices");
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("no mount namespace");
	run("truncate -s 64M " SCRATCH "/image && mkfs.ext4 -q " SCRATCH "/image && "
	    "mount -o loop,data=journal " SCRATCH "/image " MNT);
	target_start(&t, MNT "/f", PROT_READ | PROT_WRITE, 30);
	EXPECT_LE(N / 2, flagged(&t, KPF_DIRTY));
	move_all(_metadata, fd, &t, 0, 1, CALLS, PAUSE);
	EXPECT_EQ(0, tell(&t, LOOK));
	/* On the disk, but still held. */
	tell(&t, WRITE);
	EXPECT_EQ(0, tell(&t, SYNC));
	EXPECT_EQ(0, flagged(&t, KPF_DIRTY));
	move_all(_metadata, fd, &t, 1, 0, CALLS, PAUSE);
	/* Written to while it is called. */
	tell(&t, WRITE);
	move_all(_metadata, fd, &t, 0, 1, CALLS, PAUSE);
	tell(&t, WRITE);
	EXPECT_EQ(0, tell(&t, LOOK));
	child_end(&t.child);
	run("umount " MNT " && fsck.ext4 -fn " SCRATCH "/image >/dev/null 2>&1 && "
	    "mount -o loop " SCRATCH "/image " MNT);
	EXPECT_EQ(0, bad_in_file(MNT "/f", t.seed));
	run("umount " MNT " && rm " SCRATCH "/image");
	EXPECT_EQ(0, nr_isolated());
	close(fd);
}

/* Servers, and what they listen on, belong to a network namespace. All tests have one. */
int main(int argc, char **argv)
{
	int ret;

	no_nfs = system("modprobe -aq nfsd nfsv4");
	if (no_nfs)
		return test_harness_run(argc, argv);
	if (unshare(CLONE_NEWNS | CLONE_NEWNET) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("nfsd", NFSD, "nfsd", 0, NULL))
		die("namespaces");
	run("ip link set lo up");
	if (mkdir(EXPORT, 0755) && errno != EEXIST)
		die(EXPORT);
	server_start();
	grace_wait();
	ret = test_harness_run(argc, argv);
	/* What a test has left that could not go on. A client without a server hangs. */
	if (!server_is_there())
		server_start();
	client_unmount();
	server_stop();
	run("rm -rf " EXPORT);
	return ret;
}
