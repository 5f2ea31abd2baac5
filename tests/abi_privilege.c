// SPDX-License-Identifier: GPL-2.0
/*
 * Who may move whose pages: a table of callers and targets. In each row the
 * same caller asks for the same target by move_pages(2), by migrate_pages(2)
 * and by each of our calls, and all must give the same answer. Behind the
 * table: what somebody without rights can find out about others.
 */
#include "harness.h"
#include "util.h"

#include <fcntl.h>
#include <grp.h>
#include <numaif.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>

#define NPAGES 8
#define SOMEBODY 1234
#define COPY "/scratch/pm-privilege"

/*
 * The pages of a target. With another program executed, the same happens there.
 */
static void hold(struct child *c)
{
	char *p = map_node(NPAGES, mem[0]);

	fill(p, NPAGES, 5);
	child_put(c, (uintptr_t)p);
	while (child_get(c))
		child_put(c, bad_pages(p, NPAGES, 5));
	_exit(0);
}

/* Executes a copy of this program with another mode, which goes on in main(). */
static void exec_copy(struct child *c)
{
	char in[16], out[16];

	snprintf(in, sizeof(in), "%d", c->in);
	snprintf(out, sizeof(out), "%d", c->out);
	fcntl(c->in, F_SETFD, 0);
	fcntl(c->out, F_SETFD, 0);
	execl(COPY, COPY, "--hold", in, out, NULL);
	die("exec of " COPY);
}

static void make_copy(mode_t mode)
{
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int to = open(COPY, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
	char buf[65536];
	ssize_t n;

	if (from < 0 || to < 0)
		die(COPY);
	while ((n = read(from, buf, sizeof(buf))) > 0)
		if (write(to, buf, n) != n)
			die("write");
	if (fchmod(to, mode))
		die("chmod");
	close(from);
	close(to);
}

static void ids(uid_t real, uid_t effective, uid_t saved, gid_t gid)
{
	if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(real, effective, saved) ||
	    prctl(PR_SET_DUMPABLE, 1))
		die("cannot become %u", real);
}

/* nobody with one capability. */
static void user_with_cap(int cap)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { };

	data[cap / 32].permitted = data[cap / 32].effective = 1U << (cap % 32);
	if (prctl(PR_SET_KEEPCAPS, 1))
		die("PR_SET_KEEPCAPS");
	ids(NOBODY, NOBODY, NOBODY, NOBODY);
	if (syscall(SYS_capset, &head, data) || prctl(PR_SET_DUMPABLE, 1))
		die("capset");
}

static void no_caps(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { };

	if (syscall(SYS_capset, &head, data) || prctl(PR_SET_DUMPABLE, 1))
		die("capset");
}

/* Targets. */
static void as_root(struct child *c, pid_t other) { (void)c; (void)other; }

static void as_user(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	drop_to(NOBODY);
}

static void as_somebody(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	drop_to(SOMEBODY);
}

static void in_other_group(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	ids(NOBODY, NOBODY, NOBODY, SOMEBODY);
}

static void with_saved_root(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	ids(NOBODY, 0, 0, NOBODY);
}

static void hidden(struct child *c, pid_t other)
{
	as_user(c, other);
	if (prctl(PR_SET_DUMPABLE, 0))
		die("PR_SET_DUMPABLE");
}

static void with_sys_time(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	user_with_cap(CAP_SYS_TIME);
}

static void no_new_privs(struct child *c, pid_t other)
{
	as_user(c, other);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("PR_SET_NO_NEW_PRIVS");
}

static void executes_setuid(struct child *c, pid_t other)
{
	as_user(c, other);
	exec_copy(c);
}

static void in_own_userns(struct child *c, pid_t other)
{
	as_user(c, other);
	if (unshare(CLONE_NEWUSER))
		die("unshare");
}

/* A user namespace that root has filled: 0 to 9 within are 100000 to 100009. */
static void in_mapped_userns(struct child *c, pid_t other)
{
	(void)other;
	if (unshare(CLONE_NEWUSER))
		die("unshare");
	child_put(c, 0);
	child_get(c);
	ids(1, 1, 1, 1);
	no_caps();
}

static void map_userns(pid_t pid)
{
	static const char *const files[] = { "uid_map", "gid_map" };
	char path[64];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[i]);
		if (file_write(path, "0 100000 10"))
			die("%s", path);
	}
}

/* Callers. */
static void without_ptrace(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	drop_cap(CAP_SYS_PTRACE);
}

static void with_ptrace(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	user_with_cap(CAP_SYS_PTRACE);
}

static void without_nice(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	drop_cap(CAP_SYS_NICE);
}

static void with_nice(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	user_with_cap(CAP_SYS_NICE);
}

static void effective_somebody(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	ids(NOBODY, SOMEBODY, NOBODY, NOBODY);
}

static void really_somebody(struct child *c, pid_t other)
{
	(void)c;
	(void)other;
	ids(SOMEBODY, NOBODY, NOBODY, NOBODY);
}

static void enter_userns(pid_t other)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/user", other);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWUSER))
		die("setns");
	close(fd);
}

static void root_in_its_userns(struct child *c, pid_t other)
{
	(void)c;
	enter_userns(other);
	ids(0, 0, 0, 0);
}

static void user_in_its_userns(struct child *c, pid_t other)
{
	(void)c;
	enter_userns(other);
	ids(2, 2, 2, 2);
	no_caps();
}

/* Without capabilities, but with the user's own numbers. */
static void same_in_its_userns(struct child *c, pid_t other)
{
	(void)c;
	enter_userns(other);
	ids(1, 1, 1, 1);
	no_caps();
}

static void in_own_pidns(struct child *c, pid_t other)
{
	pid_t pid;

	(void)c;
	(void)other;
	if (unshare(CLONE_NEWPID))
		die("unshare");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid) {
		waitpid(pid, NULL, 0);
		_exit(0);
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void landlocked(struct child *c, pid_t other)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK };
	int fd = syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	(void)c;
	(void)other;
	if (fd < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    syscall(SYS_landlock_restrict_self, fd, 0))
		die("landlock");
}

#define TYPES "/sys/kernel/btf/vmlinux"

/* The number of a function in the kernel's type information. */
static int btf_function(const char *name)
{
	int fd = open(TYPES, O_RDONLY | O_CLOEXEC), id = 0, found = 0;
	size_t size = 0, room = 64 << 20;
	char *data = malloc(room), *types, *strings, *at;
	struct btf_header *head = (void *)data;
	ssize_t n;

	if (fd < 0 || !data)
		die(TYPES);
	while ((n = read(fd, data + size, room - size)) > 0)
		size += n;
	close(fd);
	types = data + head->hdr_len + head->type_off;
	strings = data + head->hdr_len + head->str_off;
	for (at = types; !found && at < types + head->type_len; ) {
		struct btf_type *t = (void *)at;
		unsigned int vlen = BTF_INFO_VLEN(t->info);

		id++;
		at += sizeof(*t);
		switch (BTF_INFO_KIND(t->info)) {
		case BTF_KIND_INT:
		case BTF_KIND_VAR:
		case BTF_KIND_DECL_TAG:
			at += 4;
			break;
		case BTF_KIND_ARRAY:
			at += sizeof(struct btf_array);
			break;
		case BTF_KIND_STRUCT:
		case BTF_KIND_UNION:
			at += vlen * sizeof(struct btf_member);
			break;
		case BTF_KIND_ENUM:
			at += vlen * sizeof(struct btf_enum);
			break;
		case BTF_KIND_ENUM64:
			at += vlen * sizeof(struct btf_enum64);
			break;
		case BTF_KIND_FUNC_PROTO:
			at += vlen * sizeof(struct btf_param);
			break;
		case BTF_KIND_DATASEC:
			at += vlen * sizeof(struct btf_var_secinfo);
			break;
		case BTF_KIND_FUNC:
			if (!strcmp(strings + t->name_off, name))
				found = id;
			break;
		}
	}
	free(data);
	return found;
}

/* A security module that says no whenever this process moves memory. */
static void forbidden_by_lsm(struct child *c, pid_t other)
{
	struct bpf_insn prog[] = {
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_get_current_pid_tgid },
		{ .code = BPF_ALU64 | BPF_RSH | BPF_K, .dst_reg = 0, .imm = 32 },
		{ .code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 0, .imm = getpid(), .off = 2 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = -EPERM },
		{ .code = BPF_JMP | BPF_EXIT },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_LSM,
		.expected_attach_type = BPF_LSM_MAC,
		.insns = (uintptr_t)prog,
		.insn_cnt = ARRAY_LEN(prog),
		.license = (uintptr_t)"GPL",
		.attach_btf_id = btf_function("bpf_lsm_task_movememory"),
	}, attach = { };
	int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));

	(void)c;
	(void)other;
	attach.raw_tracepoint.prog_fd = fd;
	if (fd < 0 || syscall(SYS_bpf, BPF_RAW_TRACEPOINT_OPEN, &attach, sizeof(attach)) < 0)
		die("BPF LSM");
}

/* What a caller was told. */
struct answers {
	long query, move, migrate;
	long empty, dry_run, placement, placement_by_pidfd, by_pidfd, ours;
	bool wrote;
};

struct row {
	const char *name;
	void (*target)(struct child *c, pid_t other);
	void (*caller)(struct child *c, pid_t other);
	long want;
	/* The mode of the program that the target executes. */
	mode_t mode;
	/* The target needs a map of a user namespace. */
	bool mapped;
	/* A pidfd says who is meant, whatever the PID namespace. */
	bool pidfd_is_fine;
	const char *yama;
};

#define ROW(n, t, c, w, ...)	\
	{ .name = (n), .target = (t), .caller = (c), .want = (w), ##__VA_ARGS__ }

static const struct row rows[] = {
	ROW("the same user", as_user, as_user, 0),
	ROW("another user", as_somebody, as_user, -EPERM),
	ROW("the same user in another group", in_other_group, as_user, -EPERM),
	ROW("root", as_root, as_user, -EPERM),
	ROW("root's saved id", with_saved_root, as_user, -EPERM),
	ROW("root's saved id, by root", with_saved_root, as_root, 0),
	ROW("not dumpable", hidden, as_user, -EPERM),
	ROW("not dumpable, by root", hidden, as_root, 0),
	ROW("more capabilities", with_sys_time, as_user, -EPERM),
	ROW("equal capabilities", with_sys_time, with_sys_time, 0),
	ROW("less capabilities", as_user, with_sys_time, 0),
	ROW("the effective id does not count", as_user, effective_somebody, 0),
	ROW("the real id counts", as_user, really_somebody, -EPERM),
	ROW("a setuid program", executes_setuid, as_user, -EPERM, .mode = 04755),
	ROW("a setuid program, by root", executes_setuid, as_root, 0, .mode = 04755),
	ROW("a setgid program", executes_setuid, as_user, -EPERM, .mode = 02755),
	ROW("an unreadable program", executes_setuid, as_user, -EPERM, .mode = 0711),
	ROW("a plain program", executes_setuid, as_user, 0, .mode = 0755),
	ROW("root without CAP_SYS_PTRACE", as_user, without_ptrace, -EPERM),
	ROW("CAP_SYS_PTRACE alone", as_somebody, with_ptrace, 0),
	ROW("CAP_SYS_PTRACE on root", as_root, with_ptrace, 0),
	ROW("target without new privileges", no_new_privs, as_user, 0),
	ROW("caller without new privileges", as_user, no_new_privs, 0),
	ROW("ptrace scope 1", as_user, as_user, 0, .yama = "1"),
	ROW("ptrace scope 2", as_user, as_user, 0, .yama = "2"),
	ROW("root of its own user namespace", as_user, in_own_userns, -EPERM),
	ROW("owner of the target's user namespace", in_own_userns, as_user, 0),
	ROW("sister user namespaces", in_own_userns, in_own_userns, -EPERM),
	ROW("root within the same user namespace", in_mapped_userns, root_in_its_userns, 0,
	    .mapped = true),
	ROW("another user within it", in_mapped_userns, user_in_its_userns, -EPERM,
	    .mapped = true),
	ROW("the same user within it", in_mapped_userns, same_in_its_userns, 0, .mapped = true),
	ROW("nobody outside of it", in_mapped_userns, as_user, -EPERM, .mapped = true),
	ROW("root outside of it", in_mapped_userns, as_root, 0, .mapped = true),
	ROW("from another PID namespace", as_user, in_own_pidns, -ESRCH, .pidfd_is_fine = true),
	ROW("out of a landlock domain", as_root, landlocked, -EPERM),
	ROW("into a landlock domain", landlocked, as_root, 0),
};

/* It needs the kernel's description of its own types. */
static const struct row lsm_row =
	ROW("a security module says no", as_root, forbidden_by_lsm, -EPERM);

struct asked {
	const struct row *row;
	pid_t pid;
	char *p;
};

static void target_main(struct child *c, void *arg)
{
	const struct row *row = arg;

	row->target(c, 0);
	hold(c);
}

static long errno_of(long ret)
{
	return ret < 0 ? -errno : ret;
}

static long look_by_pidfd(int pidfd, const void *p)
{
	uint64_t pages[MAX_NODES];
	struct page_migrate_placement look = {
		.pid = pidfd,
		.flags = PAGE_MIGRATE_PIDFD,
		.va_start = (uintptr_t)p,
		.len = NPAGES * PAGE,
		.count = MAX_NODES,
		.pages = (uintptr_t)pages,
	};

	return pm_ioctl(pm_open(), PAGE_MIGRATE_IOC_PLACEMENT, &look);
}

static void caller_main(struct child *c, void *arg)
{
	const struct asked *a = arg;
	unsigned long on[2][MAX_NODES / (8 * sizeof(long))] = { };
	struct page_migrate_request req = pm_req(a->pid, a->p, NPAGES * PAGE, 1, &mem[0], &mem[2]);
	uint64_t pages[MAX_NODES];
	struct answers ans = { };
	void *page = a->p;
	int status, pidfd = syscall(SYS_pidfd_open, a->pid, 0);

	if (pidfd < 0)
		die("pidfd_open");
	a->row->caller(c, a->pid);
	for (int i = 0; i < 2; i++)
		on[i][mem[i] / 64] |= 1UL << (mem[i] % 64);
	/* One page away with the one, and back with the other. */
	ans.query = errno_of(move_pages(a->pid, 1, &page, NULL, &status, 0));
	ans.move = errno_of(move_pages(a->pid, 1, &page, &mem[1], &status, MPOL_MF_MOVE));
	ans.migrate = errno_of(migrate_pages(a->pid, MAX_NODES, on[1], on[0]));

	pm_poison(&req.result);
	ans.placement = pm_placement(pm_open(), a->pid, a->p, NPAGES * PAGE, pages);
	ans.placement_by_pidfd = look_by_pidfd(pidfd, a->p);
	req.len = 0;
	ans.empty = pm_migrate(pm_open(), &req);
	req.len = NPAGES * PAGE;
	req.flags = PAGE_MIGRATE_DRY_RUN;
	ans.dry_run = pm_migrate(pm_open(), &req);
	req.flags = PAGE_MIGRATE_PIDFD | PAGE_MIGRATE_DRY_RUN;
	req.pid = pidfd;
	if (ans.empty < 0 && !pm_is_poison(&req.result))
		ans.wrote = true;
	ans.by_pidfd = pm_migrate(pm_open(), &req);
	req.flags = 0;
	req.pid = a->pid;
	pm_poison(&req.result);
	ans.ours = pm_migrate(pm_open(), &req);
	if (ans.ours < 0 && !pm_is_poison(&req.result))
		ans.wrote = true;
	if (write(c->out, &ans, sizeof(ans)) != sizeof(ans))
		die("write");
}

#define YAMA "/proc/sys/kernel/yama/ptrace_scope"

static void try_row(struct __test_metadata *_metadata, const struct row *row)
{
	struct asked asked = { .row = row };
	struct child target, caller;
	struct answers ans;
	char yama[8];

	if (row->yama && (file_read(YAMA, yama, sizeof(yama)) || file_write(YAMA, row->yama)))
		die(YAMA);
	if (row->mode)
		make_copy(row->mode);
	child_start(&target, target_main, (void *)row);
	if (row->mapped) {
		child_get(&target);
		map_userns(target.pid);
		child_put(&target, 0);
	}
	asked.pid = target.pid;
	asked.p = (char *)child_get(&target);
	child_start(&caller, caller_main, &asked);
	if (read(caller.in, &ans, sizeof(ans)) != sizeof(ans))
		die("%s: the caller has gone", row->name);
	EXPECT_EQ(row->want, ans.query) TH_LOG("%s: move_pages to look", row->name);
	EXPECT_EQ(row->want, ans.move) TH_LOG("%s: move_pages", row->name);
	EXPECT_EQ(row->want, ans.migrate) TH_LOG("%s: migrate_pages", row->name);
	EXPECT_EQ(row->want, ans.placement) TH_LOG("%s: PLACEMENT", row->name);
	EXPECT_EQ(row->pidfd_is_fine ? 0 : row->want, ans.placement_by_pidfd)
		TH_LOG("%s: PLACEMENT by a pidfd", row->name);
	EXPECT_EQ(row->want, ans.empty) TH_LOG("%s: an empty range", row->name);
	EXPECT_EQ(row->want, ans.dry_run) TH_LOG("%s: a dry run", row->name);
	EXPECT_EQ(row->pidfd_is_fine ? 0 : row->want, ans.by_pidfd)
		TH_LOG("%s: by a pidfd", row->name);
	EXPECT_EQ(row->want, ans.ours) TH_LOG("%s: MIGRATE", row->name);
	EXPECT_FALSE(ans.wrote) TH_LOG("%s: a refused call wrote a result", row->name);
	EXPECT_TRUE(all_on(target.pid, asked.p, NPAGES, &mem[row->want ? 0 : 2], 1))
		TH_LOG("%s: pages are on the wrong node", row->name);
	child_put(&target, 1);
	EXPECT_EQ(0, child_get(&target)) TH_LOG("%s: contents", row->name);
	child_end(&caller);
	child_end(&target);
	if (row->mode)
		unlink(COPY);
	if (row->yama)
		file_write(YAMA, yama);
}

TEST(table)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		try_row(_metadata, &rows[i]);
}

TEST(security_module)
{
	if (access(TYPES, F_OK) && errno == ENOENT)
		SKIP(return, "no type information");
	try_row(_metadata, &lsm_row);
}

/*
 * Pages that somebody else maps, too: who may move those. Side by side, what
 * migrate_pages(2), move_pages(2) and our call do for the same caller.
 */
struct common {
	const struct row *row;
	pid_t pid;
	/* The target's alone; shared; shared until somebody writes (both have it). */
	char *area[3];
};

enum { OWN, SHARED, COPIED };
enum { MOVE, MOVE_ALL, MIGRATE_PAGES, OURS, WAYS };

static void sharing_target(struct child *c, void *arg)
{
	const struct common *m = arg;
	char *own;

	m->row->target(c, 0);
	own = map_node(NPAGES, mem[0]);
	fill(own, NPAGES, OWN);
	for (int i = 0; i < NPAGES; i++)
		for (int k = SHARED; k <= COPIED; k++)
			(void)((volatile char *)m->area[k])[i * PAGE];
	child_put(c, (uintptr_t)own);
	child_get(c);
	child_put(c, bad_pages(own, NPAGES, OWN) + bad_pages(m->area[SHARED], NPAGES, SHARED) +
		     bad_pages(m->area[COPIED], NPAGES, COPIED));
}

/* Moves all pages of the areas, by move_pages(2). */
static long move_areas(const struct common *m, int to, int flags)
{
	void *pages[3 * NPAGES];
	int nodes[3 * NPAGES], status[3 * NPAGES];

	for (int i = 0; i < 3 * NPAGES; i++) {
		pages[i] = m->area[i / NPAGES] + i % NPAGES * PAGE;
		nodes[i] = to;
	}
	return errno_of(move_pages(m->pid, 3 * NPAGES, pages, nodes, status, flags));
}

static void sharing_caller(struct child *c, void *arg)
{
	const struct common *m = arg;
	unsigned long on[2][MAX_NODES / (8 * sizeof(long))] = { };

	for (int i = 0; i < 2; i++)
		on[i][mem[i] / 64] |= 1UL << (mem[i] % 64);
	m->row->caller(c, m->pid);
	for (int fd = pm_open();;) {
		struct page_migrate_result res;
		uint64_t left = 0, shared = 0;
		long ret = 0;

		switch (child_get(c)) {
		case MOVE:
			ret = move_areas(m, mem[1], MPOL_MF_MOVE);
			break;
		case MOVE_ALL:
			ret = move_areas(m, mem[1], MPOL_MF_MOVE_ALL);
			break;
		case MIGRATE_PAGES:
			ret = errno_of(migrate_pages(m->pid, MAX_NODES, on[0], on[1]));
			break;
		case OURS:
			for (int k = 0; k < 3 && ret >= 0; k++) {
				ret = pm_move(fd, m->pid, m->area[k], NPAGES * PAGE, 0, 1,
					      &mem[0], &mem[1], &res);
				left += ret;
				shared += res.shared;
			}
			if (ret >= 0)
				ret = left == shared ? (long)left : -EBUSY;
			break;
		}
		child_put(c, ret);
	}
}

static const struct sharing {
	struct row row;
	bool all;
} sharings[] = {
	{ ROW("root", as_user, as_root, 0), true },
	{ ROW("root without CAP_SYS_NICE", as_user, without_nice, 0), false },
	{ ROW("the same user", as_user, as_user, 0), false },
	{ ROW("the same user with CAP_SYS_NICE", as_user, with_nice, 0), true },
	{ ROW("CAP_SYS_NICE in its own user namespace", in_own_userns, as_user, 0), false },
	{ ROW("root within the same user namespace", in_mapped_userns, root_in_its_userns, 0,
	      .mapped = true), false },
};

static void try_sharing(struct __test_metadata *_metadata, const struct sharing *s)
{
	struct common m = { .row = &s->row };
	int nodes[WAYS][3 * NPAGES];
	struct child target, caller;
	long ret[WAYS];

	/* These are mapped here, and then in the target as well. */
	m.area[COPIED] = map_node(NPAGES, mem[0]);
	fill(m.area[COPIED], NPAGES, COPIED);
	m.area[SHARED] = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (m.area[SHARED] == MAP_FAILED)
		die("mmap");
	place_pages(m.area[SHARED], NPAGES, &mem[0], 1);
	fill(m.area[SHARED], NPAGES, SHARED);
	child_start(&target, sharing_target, &m);
	if (s->row.mapped) {
		child_get(&target);
		map_userns(target.pid);
		child_put(&target, 0);
	}
	m.pid = target.pid;
	m.area[OWN] = (char *)child_get(&target);
	child_start(&caller, sharing_caller, &m);
	for (int way = 0; way < WAYS; way++) {
		for (int k = 0; k < 3; k++)
			ASSERT_TRUE(all_on(target.pid, m.area[k], NPAGES, &mem[0], 1));
		child_put(&caller, way);
		ret[way] = child_get(&caller);
		for (int k = 0; k < 3; k++)
			nodes_of(target.pid, m.area[k], NPAGES, nodes[way] + k * NPAGES);
		/* All back, by somebody who may. */
		ASSERT_LE(0, move_areas(&m, mem[0], MPOL_MF_MOVE_ALL));
	}
	EXPECT_LE(0, ret[MOVE]) TH_LOG("%s: %ld", s->row.name, ret[MOVE]);
	EXPECT_EQ(s->all ? 0 : -EPERM, ret[MOVE_ALL]) TH_LOG("%s: MPOL_MF_MOVE_ALL", s->row.name);
	EXPECT_LE(0, ret[MIGRATE_PAGES]) TH_LOG("%s: %ld", s->row.name, ret[MIGRATE_PAGES]);
	EXPECT_EQ(s->all ? 0 : 2 * NPAGES, ret[OURS]) TH_LOG("%s: MIGRATE", s->row.name);
	for (int i = 0; i < 3 * NPAGES; i++) {
		int like = s->all ? MOVE_ALL : MOVE;

		EXPECT_EQ(nodes[MIGRATE_PAGES][i], nodes[OURS][i])
			TH_LOG("%s: page %d, migrate_pages(2)", s->row.name, i);
		EXPECT_EQ(nodes[like][i], nodes[OURS][i])
			TH_LOG("%s: page %d, move_pages(2)", s->row.name, i);
		EXPECT_EQ(mem[s->all || i < NPAGES], nodes[OURS][i])
			TH_LOG("%s: page %d", s->row.name, i);
	}
	child_put(&target, 1);
	EXPECT_EQ(0, child_get(&target)) TH_LOG("%s: contents", s->row.name);
	child_end(&caller);
	child_end(&target);
	munmap(m.area[SHARED], NPAGES * PAGE);
	munmap(m.area[COPIED], NPAGES * PAGE);
}

TEST(pages_of_others)
{
	for (size_t i = 0; i < ARRAY_LEN(sharings); i++)
		try_sharing(_metadata, &sharings[i]);
}

/*
 * The new node is outside of a cpuset: the target's, the caller's own, or both.
 * Here the calls differ. For migrate_pages(2) the caller's cpuset is the limit,
 * and CAP_SYS_NICE lifts the target's. For ours the target's is, for everyone,
 * and the caller's does not count. For move_pages(2) both are, in different ways.
 */
static const struct confined {
	struct row row;
	bool target, caller;
	long move, migrate, ours;
} confined[] = {
	{ ROW("target's cpuset, root", as_user, as_root, 0), true, false,
	  .move = -EACCES, .migrate = 0, .ours = -EINVAL },
	{ ROW("target's cpuset, root without CAP_SYS_NICE", as_user, without_nice, 0), true, false,
	  .move = -EACCES, .migrate = -EPERM, .ours = -EINVAL },
	{ ROW("target's cpuset, the same user", as_user, as_user, 0), true, false,
	  .move = -EACCES, .migrate = -EPERM, .ours = -EINVAL },
	{ ROW("target's cpuset, the same user with CAP_SYS_NICE", as_user, with_nice, 0),
	  true, false, .move = -EACCES, .migrate = 0, .ours = -EINVAL },
	{ ROW("caller's cpuset, root", as_user, as_root, 0), false, true,
	  .move = -ENOMEM, .migrate = -EINVAL, .ours = 0 },
	{ ROW("caller's cpuset, the same user", as_user, as_user, 0), false, true,
	  .move = -ENOMEM, .migrate = -EINVAL, .ours = 0 },
	{ ROW("both cpusets, root", as_user, as_root, 0), true, true,
	  .move = -EACCES, .migrate = -EINVAL, .ours = -EINVAL },
	{ ROW("both cpusets, the same user", as_user, as_user, 0), true, true,
	  .move = -EACCES, .migrate = -EPERM, .ours = -EINVAL },
	/* Who may not do anything learns nothing of cpusets. */
	{ ROW("target's cpuset, another user", as_root, as_user, -EPERM), true, false,
	  .move = -EPERM, .migrate = -EPERM, .ours = -EPERM },
	{ ROW("both cpusets, another user", as_root, as_user, -EPERM), true, true,
	  .move = -EPERM, .migrate = -EPERM, .ours = -EPERM },
};

enum { C_QUERY, C_MOVE, C_MIGRATE, C_PLACEMENT, C_BY_PIDFD, C_EMPTY, C_DRY_RUN, C_OURS_BY_PIDFD,
	C_OURS, C_WAYS };

static const char *const confined_ways[] = {
	"move_pages to look", "move_pages", "migrate_pages", "PLACEMENT", "PLACEMENT by a pidfd",
	"an empty range", "a dry run", "MIGRATE by a pidfd", "MIGRATE",
};

/* One way after the other, on demand, from mem[0] to mem[2]. */
static void confined_caller(struct child *c, void *arg)
{
	const struct asked *a = arg;
	unsigned long on[3][MAX_NODES / (8 * sizeof(long))] = { };
	int pidfd = syscall(SYS_pidfd_open, a->pid, 0);
	struct page_migrate_result res;
	uint64_t pages[MAX_NODES];

	if (pidfd < 0)
		die("pidfd_open");
	for (int i = 0; i < 3; i++)
		on[i][mem[i] / 64] |= 1UL << (mem[i] % 64);
	a->row->caller(c, a->pid);
	for (;;) {
		int way = child_get(c), who = way == C_OURS_BY_PIDFD ? pidfd : a->pid;
		unsigned int flags = way == C_DRY_RUN ? PAGE_MIGRATE_DRY_RUN :
				     way == C_OURS_BY_PIDFD ? PAGE_MIGRATE_PIDFD : 0;
		void *page = a->p;
		long ret;
		int status;

		switch (way) {
		case C_QUERY:
			ret = errno_of(move_pages(a->pid, 1, &page, NULL, &status, 0));
			break;
		case C_MOVE:
			ret = errno_of(move_pages(a->pid, 1, &page, &mem[2], &status,
						  MPOL_MF_MOVE));
			break;
		case C_MIGRATE:
			ret = errno_of(migrate_pages(a->pid, MAX_NODES, on[0], on[2]));
			break;
		case C_PLACEMENT:
			ret = pm_placement(pm_open(), a->pid, a->p, NPAGES * PAGE, pages);
			break;
		case C_BY_PIDFD:
			ret = look_by_pidfd(pidfd, a->p);
			break;
		default:
			ret = pm_move(pm_open(), who, a->p, way == C_EMPTY ? 0 : NPAGES * PAGE,
				      flags, 1, &mem[0], &mem[2], &res);
			/* A refusal that writes a result is a wrong answer. */
			if (ret < 0 && !pm_is_poison(&res))
				ret = -EIO;
		}
		child_put(c, ret);
	}
}

static void try_confined(struct __test_metadata *_metadata, const struct confined *r,
			 struct cg *cg)
{
	const long want[C_WAYS] = {
		r->row.want, r->move, r->migrate, r->row.want, r->row.want,
		r->ours, r->ours, r->ours, r->ours,
	};
	struct asked asked = { .row = &r->row };
	struct child target, caller;

	child_start(&target, target_main, (void *)&r->row);
	asked.pid = target.pid;
	asked.p = (char *)child_get(&target);
	child_start(&caller, confined_caller, &asked);
	if (r->target)
		cg_enter(cg, target.pid);
	if (r->caller)
		cg_enter(cg, caller.pid);
	for (int way = 0; way < C_WAYS; way++) {
		bool moves = way == C_MIGRATE || way == C_OURS || way == C_OURS_BY_PIDFD;
		void *pages[NPAGES];
		int nodes[NPAGES], status[NPAGES];
		long ret;

		child_put(&caller, way);
		ret = child_get(&caller);
		EXPECT_EQ(want[way], ret) TH_LOG("%s: %s", r->row.name, confined_ways[way]);
		moves &= !want[way];
		EXPECT_TRUE(all_on(target.pid, asked.p, NPAGES, &mem[moves ? 2 : 0], 1))
			TH_LOG("%s: after %s", r->row.name, confined_ways[way]);
		for (int i = 0; i < NPAGES; i++) {
			pages[i] = asked.p + i * PAGE;
			nodes[i] = mem[0];
		}
		/* All back, by somebody who may. */
		ASSERT_LE(0, move_pages(target.pid, NPAGES, pages, nodes, status,
					MPOL_MF_MOVE_ALL));
	}
	child_put(&target, 1);
	EXPECT_EQ(0, child_get(&target)) TH_LOG("%s: contents", r->row.name);
	child_end(&caller);
	child_end(&target);
}

TEST(another_cpuset)
{
	char mems[64];
	struct cg cg;

	/* All but mem[2]. */
	snprintf(mems, sizeof(mems), "%d,%d,%d", mem[0], mem[1], mem[3]);
	cg_make(&cg, "confined", mems);
	for (size_t i = 0; i < ARRAY_LEN(confined); i++)
		try_confined(_metadata, &confined[i], &cg);
	cg_remove(&cg);
}

/* The rights of who calls count, not of who has opened the file. */
static void borrower_main(struct child *c, void *arg)
{
	const struct asked *a = arg;
	int fd = pm_open();

	drop_to(NOBODY);
	child_put(c, pm_move(fd, a->pid, a->p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], NULL));
}

TEST(file_that_root_has_opened)
{
	static const struct row row = { .target = as_root };
	struct asked asked = { };
	struct child target, caller;

	child_start(&target, target_main, (void *)&row);
	asked.pid = target.pid;
	asked.p = (char *)child_get(&target);
	child_start(&caller, borrower_main, &asked);
	EXPECT_EQ(-EPERM, (long)child_get(&caller));
	EXPECT_TRUE(all_on(target.pid, asked.p, NPAGES, &mem[0], 1));
	child_end(&caller);
	child_end(&target);
}

/*
 * A target that executes a setuid program during calls by its former owner: the
 * program's memory is out of reach from its first page on.
 */
struct hammer {
	pid_t pid;
	bool looks;
};

static long hammer_once(int fd, const struct hammer *h, unsigned int flags)
{
	uint64_t pages[MAX_NODES];

	/* All of it, from every node. */
	if (h->looks)
		return pm_placement(fd, h->pid, NULL, ~0UL, pages);
	return pm_move(fd, h->pid, NULL, ~0UL, flags, 1, &mem[0], &mem[2], NULL);
}

static void hammer_main(struct child *c, void *arg)
{
	const struct hammer *h = arg;
	long ret, before = 0;
	int fd = pm_open();

	drop_to(NOBODY);
	child_put(c, 0);
	do {
		ret = hammer_once(fd, h, PAGE_MIGRATE_NEW_JOB);
		before += ret >= 0;
	} while (ret != -EPERM);
	child_put(c, before);
	for (int i = 0; i < 50; i++)
		if (hammer_once(fd, h, 0) != -EPERM)
			child_put(c, 1);
	child_put(c, 0);
}

static void waits_and_executes(struct child *c, void *arg)
{
	(void)arg;
	drop_to(NOBODY);
	child_put(c, 0);
	child_get(c);
	usleep(20000);
	exec_copy(c);
}

TEST(setuid_program_executed_during_calls)
{
	long served[2] = { };

	make_copy(04755);
	for (int i = 0; i < 10; i++) {
		struct child target, hammer[2];
		char *p;

		child_start(&target, waits_and_executes, NULL);
		child_get(&target);
		/* One moves, one looks. */
		for (int k = 0; k < 2; k++) {
			struct hammer h = { .pid = target.pid, .looks = k };

			child_start(&hammer[k], hammer_main, &h);
			child_get(&hammer[k]);
		}
		child_put(&target, 0);
		p = (char *)child_get(&target);
		for (int k = 0; k < 2; k++) {
			served[k] += child_get(&hammer[k]);
			EXPECT_EQ(0, child_get(&hammer[k]));
		}
		EXPECT_TRUE(all_on(target.pid, p, NPAGES, &mem[0], 1));
		child_put(&target, 1);
		EXPECT_EQ(0, child_get(&target));
		for (int k = 0; k < 2; k++)
			child_end(&hammer[k]);
		child_end(&target);
	}
	unlink(COPY);
	/* They were at work when it happened. */
	EXPECT_LT(0, served[0]);
	EXPECT_LT(0, served[1]);
}

/* A refusal says nothing about the memory, the cpuset or the lists. */
static void prober_main(struct child *c, void *arg)
{
	const struct asked *a = arg;
	uint64_t pages[MAX_NODES];
	const struct { char *p; size_t len; } ranges[] = {
		{ a->p, PAGE }, { a->p - PAGE, PAGE }, { NULL, PAGE }, { NULL, ~0UL },
		{ (char *)(1UL << 46), 1UL << 30 }, { (char *)(1UL << 63), PAGE },
	};
	int nowhere = node_without_memory(), fd = pm_open();

	drop_to(NOBODY);
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
		for (int k = 1; k < 4; k++)
			child_put(c, pm_move(fd, a->pid, ranges[i].p, ranges[i].len, 0, 1,
					     &mem[0], &mem[k], NULL));
		if (nowhere >= 0)
			child_put(c, pm_move(fd, a->pid, ranges[i].p, ranges[i].len, 0, 1,
					     &mem[0], &nowhere, NULL));
		child_put(c, pm_placement(fd, a->pid, ranges[i].p, ranges[i].len, pages));
	}
	child_put(c, 0);
}

TEST(refusals_are_all_the_same)
{
	static const struct row row = { .target = as_root };
	struct asked asked = { };
	struct child target, caller;
	char mems[32];
	struct cg cg;
	int n = 0;
	long ret;

	child_start(&target, target_main, (void *)&row);
	asked.pid = target.pid;
	asked.p = (char *)child_get(&target);
	snprintf(mems, sizeof(mems), "%d,%d", mem[0], mem[1]);
	cg_make(&cg, "privilege", mems);
	cg_enter(&cg, target.pid);
	child_start(&caller, prober_main, &asked);
	for (; (ret = child_get(&caller)); n++)
		EXPECT_EQ(-EPERM, ret) TH_LOG("probe %d", n);
	EXPECT_LE(24, n);
	child_end(&caller);
	child_end(&target);
	cg_remove(&cg);
}

/* Pointers cannot be used to find out what is mapped in the kernel. */
TEST(kernel_addresses_are_all_the_same)
{
	char *p = map_node(1, mem[0]);
	int fd = pm_open();

	for (int bit = 47; bit < 64; bit++)
		for (int low = 0; low < 32; low += 4) {
			uint64_t addr = ~0ULL << bit | 1ULL << (low + 8);
			struct page_migrate_request req = pm_req(0, p, PAGE, 1, &mem[0], &mem[1]);

			EXPECT_EQ(-EFAULT, pm_ioctl(fd, PAGE_MIGRATE_IOC_MIGRATE, (void *)addr));
			EXPECT_EQ(-EFAULT, pm_ioctl(fd, PAGE_MIGRATE_IOC_PLACEMENT, (void *)addr));
			EXPECT_EQ(-EFAULT, pm_ioctl(fd, PAGE_MIGRATE_IOC_INFO, (void *)addr));
			req.moved_by_pair = addr;
			EXPECT_EQ(-EFAULT, pm_migrate(fd, &req));
			req.old_nodes = addr;
			EXPECT_EQ(-EFAULT, pm_migrate(fd, &req));
		}
	EXPECT_TRUE(all_on(0, p, 1, &mem[0], 1));
}

/* What others' files and the tracepoints tell is not for everybody. */
static void peeper_main(struct child *c, void *arg)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_TRACEPOINT, .size = sizeof(attr) };
	pid_t pid = getppid();
	char path[128], buf[256];

	attr.config = *(int *)arg;
	drop_to(NOBODY);
	for (int fd = 0; fd < 64; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
		child_put(c, file_read(path, buf, sizeof(buf)));
	}
	child_put(c, file_read(TRACING "/events/page_migrate/page_migrate_call/format", buf,
			       sizeof(buf)));
	child_put(c, file_read(TRACING "/trace", buf, sizeof(buf)));
	child_put(c, syscall(SYS_perf_event_open, &attr, pid, -1, -1, 0) < 0 ? -EACCES : 0);
	child_put(c, 1);
}

TEST(nobody_watches_others)
{
	char *p = map_node(NPAGES, mem[0]), buf[64];
	struct child c;
	int id, n, fd = pm_open();
	long ret;

	EXPECT_EQ(0, pm_move(fd, 0, p, NPAGES * PAGE, 0, 1, &mem[0], &mem[2], NULL));
	tracefs_mount();
	ASSERT_EQ(0, file_read(TRACING "/events/page_migrate/page_migrate_call/id", buf,
			       sizeof(buf)));
	id = atoi(buf);
	child_start(&c, peeper_main, &id);
	for (n = 0; (ret = child_get(&c)) != 1; n++)
		EXPECT_TRUE(ret == -EACCES || ret == -EPERM)
			TH_LOG("peep %d: %ld", n, ret);
	child_end(&c);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "--hold")) {
		struct child c = { .in = atoi(argv[2]), .out = atoi(argv[3]) };

		hold(&c);
	}
	return test_harness_run(argc, argv);
}
