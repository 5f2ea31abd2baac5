/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Interface of /dev/page_migrate: move the pages of a running process between
 * NUMA nodes, by a map from old nodes to new nodes.
 *
 * Every structure is fixed-width and naturally aligned, the same for 32-bit
 * and 64-bit callers. Pointers travel as __aligned_u64. Counts are in base
 * pages. Existing fields never change; reserved ones may gain a meaning.
 */
#ifndef _UAPI_LINUX_PAGE_MIGRATE_H
#define _UAPI_LINUX_PAGE_MIGRATE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: Calls and jobs
 *
 * Open /dev/page_migrate in any mode and call ioctl(2) on it. The device node
 * has mode 0666: each call checks its own permission.
 *
 * An open file is one migration job. As long as its calls carry the same two
 * node lists, entry for entry, a page that has moved in one of them does not
 * move again in another, whichever process, address or mapping it is met
 * through. A call may be repeated until nothing is left. Other lists,
 * %PAGE_MIGRATE_NEW_JOB or a new open file begin a new job. Calls on one open
 * file take turns; on several they run side by side.
 *
 * What is remembered is the frame to which a page has moved. So a page that
 * was allocated later, in such a frame, may count as already moved, and a page
 * that something else has moved since may move again.
 */

/**
 * DOC: Permission
 *
 * The rule is that of move_pages(2) and migrate_pages(2): ptrace_may_access()
 * with PTRACE_MODE_READ_REALCREDS, under the target's exec_update_lock, then the
 * security modules' hook, security_task_movememory().
 *
 * Pages that other processes map too move only for a caller with CAP_SYS_NICE
 * in the initial user namespace; else they stay and count as shared. New nodes
 * must be in the target's cpuset, for everyone. The caller's own cpuset and
 * memory policy do not matter.
 */

/**
 * DOC: Node lists
 *
 * A page found on old_nodes[i] goes to new_nodes[i]. That is decided once for
 * each page, from the node on which the job found it: lists may overlap, and 0
 * to 1 with 1 to 0 is a swap. Pages on nodes of no entry stay, and so do those
 * of a pair whose two nodes are the same. A node may stand once in old_nodes,
 * and any number of times in new_nodes.
 *
 * Where the new node is full, the page goes to the other node of new_nodes that
 * has room and is nearest to the full one, but never to its own, unless
 * %PAGE_MIGRATE_STRICT is given.
 *
 * %PAGE_MIGRATE_NODE_ANY in old_nodes, at most once, is every node that no other
 * entry of old_nodes names. In new_nodes it is the nearest node with room that
 * the target may use and that old_nodes does not name, so that a node can be
 * emptied before it is taken away. What such an entry moves counts as moved,
 * whichever node had room, or as without memory; policies name the nearest such
 * node. It is EINVAL on both sides of a pair, and in new_nodes where there is no
 * such node.
 */

/**
 * DOC: Memory policies
 *
 * Before the first page moves, memory policies in the range name the new nodes
 * instead of the old ones, so that new pages come from there:
 *
 * - those of the VMAs that lie wholly inside the range, but for one that a page
 *   fault keeps locked for long: a repeated call rewrites it;
 * - the shared ones of the shmem files that these VMAs map, if the target is the
 *   caller itself or the call may move shared pages: they belong to all who map
 *   the file;
 * - those of all threads of the process, if the range is the whole process.
 *
 * Modes and flags stay, and a home node follows. Each policy is rewritten once
 * per job. %PAGE_MIGRATE_KEEP_POLICY leaves all of them as they are.
 *
 * When the target's cpuset is narrowed to the new nodes after that, policies
 * still name the nodes that the lists gave them. Not so with
 * MPOL_F_RELATIVE_NODES: what the user asked for is ranks in the cpuset and
 * stays; only the nodes in effect change, and the kernel counts them anew with
 * the next change of the cpuset. They come out as the lists say only where the
 * lists keep the order of the nodes.
 */

/**
 * DOC: Marks on files
 *
 * The extended attribute trusted.migrate of a mapped file or, where that is not
 * set, user.migrate says what stays. Letters may be of either case.
 *
 * - none: nothing that is mapped from the file moves, private copies included.
 * - lib: the file's own pages stay in mappings without write permission. Pages
 *   of writable mappings, and private copies in any mapping, move.
 *
 * With any other value (one that ends with a newline or NUL is another), with
 * none set, or on a file system without extended attributes, everything moves.
 * Marks are read anew in each call, of the file that the process opened, where
 * file systems are stacked, and as the user who opened the one whose pages are
 * mapped.
 *
 * Where a mark cannot be read, since the file system reports an error or its
 * server does not answer within a few seconds, the pages of that file stay and
 * count as busy, and the call goes on behind them. A file system that has left a
 * question unanswered is not asked again before it has answered or failed. A
 * signal ends the call even while a server is waited for.
 *
 * Where a target maps one new file after the other in the same place, so that
 * the mark of the one that is there is never known, its pages count as busy.
 *
 * A page that one mapping exempts moves when it is met through another that
 * does not. A file that is deleted but still mapped is treated like any other.
 */

/**
 * DOC: Return value and errors
 *
 * PAGE_MIGRATE_IOC_MIGRATE returns 0 if every page that the lists select is
 * where it should be, or is exempt. A positive value is the number of pages left
 * behind: shared, busy, pinned and unmovable ones, at most INT_MAX. Else it
 * returns -1 and sets errno. Nothing moves and no policy changes unless every
 * check has passed.
 *
 * The checks hold for as long as the call works. The caller's memory is touched
 * and its turn on the open file taken before the target is looked at, and the
 * target's cpuset is read again before each batch of pages. A new node that the
 * target has lost by then is treated as a full one.
 *
 * The result and the counts of the pairs are written if the call returns 0 or
 * more, and with ENOMEM and EINTR. With any other error the result is what it
 * was, and the counts of the pairs are undefined.
 *
 * EFAULT
 *	The argument, a list, or where counts of the pairs go, cannot be read or
 *	written. All of it is checked before anything moves; memory that is taken
 *	away during the call is EFAULT, too, but at its end.
 * EINVAL
 *	An unknown flag. A reserved field that is not 0. An address that is not a
 *	multiple of the page size. A count of 0, or one above max_nodes. More
 *	workers than max_workers. A node number that is neither
 *	%PAGE_MIGRATE_NODE_ANY nor from 0 to max_nodes - 1. A node, or the
 *	wildcard, twice in old_nodes. The wildcard on both sides of a pair, or in
 *	new_nodes without a node to choose from. A new node outside of the
 *	target's cpuset. A target without an address space (a kernel thread). With
 *	self_ranges_only=1, a partial range of another process.
 * ENODEV
 *	A new node is offline or has no memory. An old node cannot exist on this
 *	machine.
 * ESRCH
 *	There is no such process, or all its threads have exited. A process that
 *	exits during the call ends it: with the counts so far, or with ESRCH if
 *	nothing had been done.
 * EBADF
 *	With %PAGE_MIGRATE_PIDFD: it is not a pidfd.
 * EPERM
 *	The caller may not move the process's pages, or a security module forbids
 *	it.
 * ENOMEM
 *	Some pages found no room on any new node; the rest has moved. Or the call
 *	could not get memory for its own bookkeeping: then no_memory is 0, unless
 *	pages had found no room before. If that happened before anything was
 *	looked at, all counts are 0 and resume_va is va_start.
 * EINTR
 *	A signal came. What is done stays done, resume_va tells where the call
 *	stopped, and the same call again goes on with the job. It gets on even if
 *	each call is interrupted: unless the signal kills, the first part of the
 *	range is looked at.
 * ENOTTY
 *	An unknown ioctl number.
 *
 * PAGE_MIGRATE_IOC_PLACEMENT returns 0 or fails for the same reasons, as far as
 * they apply; its counts are undefined then. PAGE_MIGRATE_IOC_INFO returns 0 or
 * fails with EFAULT.
 */

/**
 * DOC: Progress
 *
 * /proc/PID/fdinfo/FD of the open file tells of its job, also while a call is at
 * work. Dry runs do not show. One a line:
 *
 * - moved: pages that have moved in this job, fallback included
 * - left: pages that the last or current call has left, without room included
 * - va: where that call stands or stopped, in hexadecimal with 0x
 * - running: 1 while a call is at work, else 0
 */

/**
 * DOC: Module parameter
 *
 * self_ranges_only=1 (a bool, 0 if not given, set when the module is loaded):
 * PAGE_MIGRATE_IOC_MIGRATE takes a partial range only of the caller's own
 * address space, and of another process only the whole.
 */

/**
 * PAGE_MIGRATE_NODE_ANY - wildcard in a node list
 *
 * In &page_migrate_request.old_nodes: every node that no other entry of
 * old_nodes names; at most one such entry. In &page_migrate_request.new_nodes:
 * the nearest node with room that the target may use and that old_nodes does
 * not name. Not on both sides of a pair. See "Node lists".
 */
#define PAGE_MIGRATE_NODE_ANY		(-1)

/**
 * PAGE_MIGRATE_PIDFD - @pid is a pidfd, not a process ID
 */
#define PAGE_MIGRATE_PIDFD		(1U << 0)

/**
 * PAGE_MIGRATE_DRY_RUN - count what would move, change nothing
 *
 * No page, no policy, nothing of the job and no fdinfo changes. The result and
 * the counts of the pairs say what would happen. With PAGE_MIGRATE_NEW_JOB or
 * other lists than the job's, it counts as a new job would, and leaves the old
 * one in place.
 */
#define PAGE_MIGRATE_DRY_RUN		(1U << 1)

/**
 * PAGE_MIGRATE_KEEP_POLICY - do not rewrite memory policies
 */
#define PAGE_MIGRATE_KEEP_POLICY	(1U << 2)

/**
 * PAGE_MIGRATE_EXCLUSIVE - leave pages that another process maps
 *
 * Holds whatever the caller may do. Such pages count in
 * &page_migrate_result.shared.
 */
#define PAGE_MIGRATE_EXCLUSIVE		(1U << 3)

/**
 * PAGE_MIGRATE_NEW_JOB - forget what this file has moved before, then work
 *
 * Policies may then be rewritten again, too.
 */
#define PAGE_MIGRATE_NEW_JOB		(1U << 4)

/**
 * PAGE_MIGRATE_STRICT - no fallback
 *
 * A page whose own new node is full stays and counts in
 * &page_migrate_result.no_memory. PAGE_MIGRATE_NODE_ANY still takes the nearest
 * node with room.
 */
#define PAGE_MIGRATE_STRICT		(1U << 5)

/**
 * struct page_migrate_info - what this module can do
 * @max_nodes: Out. Node numbers are below this; also the largest
 *	&page_migrate_request.count.
 * @max_workers: Out. The largest &page_migrate_request.workers.
 * @flags: Out. Every PAGE_MIGRATE_* flag that this module knows.
 * @reserved: Out. 0.
 */
struct page_migrate_info {
	__u32 max_nodes;
	__u32 max_workers;
	__aligned_u64 flags;
	__aligned_u64 reserved[6];
};

/**
 * struct page_migrate_result - what a call did
 * @moved: Pages now on the node that the lists name (with
 *	PAGE_MIGRATE_DRY_RUN: that would be moved).
 * @moved_fallback: Pages moved to another node of new_nodes, since the named one
 *	was full: the one with room that is nearest to the named one, never the
 *	page's own. Not in @moved.
 * @already_moved: Pages met again after they had moved in this job: through a
 *	second mapping, another process or a repeated call. Wins over @exempt.
 * @in_place: Pages on no old node, or on one that maps to itself, that have
 *	never moved in this job.
 * @exempt: Pages on an old node left because of their file's mark.
 * @shared: Pages left because another process maps them and the caller may not
 *	move such pages, or gave PAGE_MIGRATE_EXCLUSIVE. A page that is mapped
 *	more than once may count here: the kernel cannot always tell.
 * @busy: Pages that could not be moved now: locked, under writeback, or
 *	briefly referenced. The lock of a page for which a server answers (NFS,
 *	FUSE) is not waited for. Dirty pages that their file system lets go only
 *	once they are written (NFS, ext4 with data=journal) begin to be written at
 *	the end of the call, so that a repeated call moves them.
 * @pinned: Pages pinned for DMA or otherwise held for long, where the kernel
 *	can tell; else they count in @busy.
 * @unmovable: Pages that the kernel cannot move at all (memfd_secret).
 * @no_memory: Pages for which no node of new_nodes has room.
 * @policies: Memory policy objects that were changed (a VMA's and its file's
 *	are two).
 * @resume_va: Address where an interrupted or limited call stopped; the end
 *	of the range, page-aligned, when it got there.
 * @gone: Present at the scan, then given back by its process (freed, unmapped,
 *	split off by madvise(2)) before it could move: neither moved nor left
 *	behind.
 * @reserved: 0.
 *
 * All page counts are in base pages. Each base-page mapping in the range that is
 * present at the scan is counted in exactly one of them, @moved to @no_memory and
 * @gone, whatever kind of mapping it is in: private copies in a mapping of a DAX
 * file or a device are pages like any other.
 * Zero pages, the vdso, device mappings and what is in swap are not counted; a
 * driver's ring pages are not either, or are @unmovable.
 *
 * A folio (a huge page, for one) moves whole. Pages of it outside the range may
 * move along, uncounted; their mappings that are met later are @already_moved.
 */
struct page_migrate_result {
	__aligned_u64 moved;
	__aligned_u64 moved_fallback;
	__aligned_u64 already_moved;
	__aligned_u64 in_place;
	__aligned_u64 exempt;
	__aligned_u64 shared;
	__aligned_u64 busy;
	__aligned_u64 pinned;
	__aligned_u64 unmovable;
	__aligned_u64 no_memory;
	__aligned_u64 policies;
	__aligned_u64 resume_va;
	__aligned_u64 gone;
	__aligned_u64 reserved;
};

/**
 * struct page_migrate_request - argument of PAGE_MIGRATE_IOC_MIGRATE
 * @pid: In. Process, by any of its threads, in the caller's PID namespace;
 *	0 is the caller, a negative one is ESRCH. With PAGE_MIGRATE_PIDFD a
 *	pidfd; a negative one is EBADF. A process of which the first thread alone
 *	has exited is served.
 * @flags: In. PAGE_MIGRATE_* flags; an unknown bit is EINVAL.
 * @va_start: In. First address, a multiple of the page size, else EINVAL.
 * @len: In. Bytes, rounded up to whole pages like in mlock(2). With 0 the range
 *	is empty: all checks are made, and the call returns 0. So is a range that
 *	begins past the end of the address space. One that passes the end, ends
 *	there, so a @va_start of 0 with a @len of ~0 is the whole process. Holes
 *	are no error.
 * @count: In. Entries in both lists, 1 to &page_migrate_info.max_nodes.
 * @workers: In. Threads that copy, 0 to &page_migrate_info.max_workers; 0 is the
 *	kernel's choice. They are threads of the kernel, and begin once a call has
 *	more to do than a few batches of 1024 pages. With 1, with @max_pages and in
 *	a dry run the caller copies by itself. What a complete call has done does not
 *	depend on their number.
 * @old_nodes: In. Pointer to const __s32[count]: nodes to empty, each from 0 to
 *	&page_migrate_info.max_nodes - 1 or PAGE_MIGRATE_NODE_ANY. None twice.
 * @new_nodes: In. Pointer to const __s32[count], the same numbers: a page found
 *	on old_nodes[i] goes to new_nodes[i].
 * @moved_by_pair: Out. Pointer to __u64[count]: pages that left old_nodes[i],
 *	fallback included; 0 means not wanted. Written with @result, undefined
 *	where that is not written.
 * @max_pages: In. Base pages, 0 is no limit. Else the call ends once about that
 *	many have been copied, with &page_migrate_result.resume_va set. Whole
 *	folios count, mapped in the range or not; at most 1024 pages for each
 *	worker, or one folio, more are copied. It returns as a complete call does,
 *	for what it looked at. Callers pace themselves with it.
 * @reserved: In. Must be 0, else EINVAL.
 * @result: Out. What was there before is ignored. "Return value and errors" says
 *	when it is written.
 *
 * See "Node lists" for what the lists mean, "Memory policies" for what changes
 * before the first page moves, and "Marks on files" for what stays.
 */
struct page_migrate_request {
	__s32 pid;
	__u32 flags;
	__aligned_u64 va_start;
	__aligned_u64 len;
	__u32 count;
	__u32 workers;
	__aligned_u64 old_nodes;
	__aligned_u64 new_nodes;
	__aligned_u64 moved_by_pair;
	__aligned_u64 max_pages;
	__aligned_u64 reserved[2];
	struct page_migrate_result result;
};

/**
 * struct page_migrate_placement - argument of PAGE_MIGRATE_IOC_PLACEMENT
 * @pid: In. As in &struct page_migrate_request.
 * @flags: In. PAGE_MIGRATE_PIDFD or 0; another bit is EINVAL.
 * @va_start: In. As in &struct page_migrate_request.
 * @len: In. As in &struct page_migrate_request.
 * @count: In. Entries in @pages, at least &page_migrate_info.max_nodes, else
 *	EINVAL.
 * @reserved0: In. Must be 0, else EINVAL.
 * @pages: Out. Pointer to __u64[count]: base pages of the range on each node.
 *	Entries from &page_migrate_info.max_nodes on are 0.
 * @reserved: In. Must be 0, else EINVAL.
 *
 * A page that is mapped twice in the range counts twice, and marked pages count.
 * Zero pages, the vdso, device mappings and pages in swap do not. The permission
 * is the same as for PAGE_MIGRATE_IOC_MIGRATE.
 */
struct page_migrate_placement {
	__s32 pid;
	__u32 flags;
	__aligned_u64 va_start;
	__aligned_u64 len;
	__u32 count;
	__u32 reserved0;
	__aligned_u64 pages;
	__aligned_u64 reserved[3];
};

/**
 * enum page_migrate_ioc - the ioctl numbers
 * @PAGE_MIGRATE_IOC_INFO: What this module can do. Fills a
 *	&struct page_migrate_info.
 * @PAGE_MIGRATE_IOC_MIGRATE: Move pages. Takes a
 *	&struct page_migrate_request. Returns 0, or how many pages stay behind.
 * @PAGE_MIGRATE_IOC_PLACEMENT: Count the pages on each node. Takes a
 *	&struct page_migrate_placement. Returns 0.
 *
 * "Return value and errors" has the rest.
 *
 * Note: this is an enum so that it can be resolved by Rust bindgen.
 */
enum page_migrate_ioc {
	PAGE_MIGRATE_IOC_INFO = _IOR(0xB9, 0x00, struct page_migrate_info),
	PAGE_MIGRATE_IOC_MIGRATE = _IOWR(0xB9, 0x01, struct page_migrate_request),
	PAGE_MIGRATE_IOC_PLACEMENT = _IOWR(0xB9, 0x02, struct page_migrate_placement),
};

#endif /* _UAPI_LINUX_PAGE_MIGRATE_H */
