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
 * PAGE_MIGRATE_NODE_ANY - wildcard in a node list
 *
 * In &page_migrate_request.old_nodes: every node that no other entry of
 * old_nodes names; at most one such entry. In &page_migrate_request.new_nodes:
 * the nearest node with room that the target may use and that old_nodes does
 * not name.
 */
#define PAGE_MIGRATE_NODE_ANY		(-1)

/**
 * PAGE_MIGRATE_PIDFD - @pid is a pidfd, not a process ID
 */
#define PAGE_MIGRATE_PIDFD		(1U << 0)

/**
 * PAGE_MIGRATE_DRY_RUN - count what would move, change nothing
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
 */
#define PAGE_MIGRATE_NEW_JOB		(1U << 4)

/**
 * PAGE_MIGRATE_STRICT - no fallback
 *
 * A page whose own new node is full stays and counts in
 * &page_migrate_result.no_memory.
 */
#define PAGE_MIGRATE_STRICT		(1U << 5)

/**
 * struct page_migrate_info - what this module can do
 * @max_nodes: Out. Node numbers are below this; also the largest count of
 *	entries in a node list.
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
 * @moved_fallback: Pages moved to another node of new_nodes, the one nearest
 *	to the named node that had room. Not in @moved.
 * @already_moved: Pages met again after they had moved in this job.
 * @in_place: Pages present, on no old node or on one that maps to itself,
 *	and never moved in this job.
 * @exempt: Pages on an old node left because of their file's mark.
 * @shared: Pages left because another process maps them and the caller may
 *	not move such pages. A page that is mapped more than once may count
 *	here: the kernel cannot always tell.
 * @busy: Pages that could not be moved now: locked, under writeback, or
 *	briefly referenced.
 * @pinned: Pages pinned for DMA or otherwise held for long, where the kernel
 *	can tell; else they count in @busy.
 * @unmovable: Pages that the kernel cannot move at all.
 * @no_memory: Pages for which no node of new_nodes has room.
 * @policies: Memory policy objects that were changed (a VMA's and its file's
 *	are two).
 * @resume_va: Address where an interrupted or limited call stopped; the end
 *	of the range, page-aligned, when it got there.
 * @reserved: 0.
 *
 * Each base-page mapping in the range that is present at the scan is counted
 * in exactly one of the page counts. Zero pages, the vdso, device mappings and
 * pages in swap are not counted. All page counts are in base pages.
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
	__aligned_u64 reserved[2];
};

/**
 * struct page_migrate_request - argument of PAGE_MIGRATE_IOC_MIGRATE
 * @pid: In. Process, by any of its threads, in the caller's PID namespace;
 *	0 is the caller, a negative one is ESRCH. With PAGE_MIGRATE_PIDFD a
 *	pidfd; a negative one is EBADF.
 * @flags: In. PAGE_MIGRATE_* flags; an unknown bit is EINVAL.
 * @va_start: In. First address, a multiple of the page size.
 * @len: In. Bytes, rounded up to whole pages. 0 is an empty range. A range
 *	that passes the end of the address space ends there, so a @va_start of
 *	0 with a @len of ~0 is the whole process. Holes are no error.
 * @count: In. Entries in both lists, 1 to &page_migrate_info.max_nodes.
 * @workers: In. Threads that copy; 0 is the kernel's choice. More than
 *	&page_migrate_info.max_workers is EINVAL.
 * @old_nodes: In. Pointer to const __s32[count]: nodes to empty.
 * @new_nodes: In. Pointer to const __s32[count]: a page found on old_nodes[i]
 *	goes to new_nodes[i].
 * @moved_by_pair: Out. Pointer to __u64[count]: pages that left old_nodes[i],
 *	fallback included; 0 means not wanted. Written with @result.
 * @max_pages: In. 0 is no limit; else the call ends once about that many pages
 *	have moved, at most 4096 pages or one folio more, with
 *	&page_migrate_result.resume_va set.
 * @reserved: In. Must be 0.
 * @result: Out. What was there before is ignored.
 *
 * The decision about each page is made once, from the node where it is found:
 * lists may overlap, and 0 to 1 with 1 to 0 is a swap. Pages on nodes of no
 * list entry stay. A node that stands twice in @old_nodes is EINVAL, twice in
 * @new_nodes is fine.
 *
 * Before the first page moves, memory policies in the range name the new nodes
 * instead of the old ones, unless PAGE_MIGRATE_KEEP_POLICY: those of the VMAs
 * that lie wholly inside the range, the shared policies of the shmem files that
 * they map, and, when the range is the whole process, those of all its
 * threads. Modes and flags stay. Each policy is rewritten once per job.
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
 * @flags: In. PAGE_MIGRATE_PIDFD or 0.
 * @va_start: In. As in &struct page_migrate_request.
 * @len: In. As in &struct page_migrate_request.
 * @count: In. Entries in @pages, at least &page_migrate_info.max_nodes.
 * @reserved0: In. Must be 0.
 * @pages: Out. Pointer to __u64[count]: pages of the range on each node.
 *	Entries from &page_migrate_info.max_nodes on are 0.
 * @reserved: In. Must be 0.
 *
 * A page that is mapped twice in the range counts twice. Zero pages, the vdso,
 * device mappings and pages in swap do not count.
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
 *	&struct page_migrate_request. Returns 0 if every page that the lists
 *	select is where it should be or is exempt, the number of pages left
 *	behind if it is positive (at most INT_MAX), else -1 with errno.
 * @PAGE_MIGRATE_IOC_PLACEMENT: Count the pages on each node. Takes a
 *	&struct page_migrate_placement.
 *
 * An open file is one migration job. As long as its calls carry the same two
 * node lists, entry for entry, a page that has moved in one of them does not
 * move again in another, whichever process, address or mapping it is met
 * through. Other lists, PAGE_MIGRATE_NEW_JOB or a new open file begin a new
 * job. Calls on one open file take turns.
 *
 * Note: this is an enum so that it can be resolved by Rust bindgen.
 */
enum page_migrate_ioc {
	PAGE_MIGRATE_IOC_INFO = _IOR(0xB9, 0x00, struct page_migrate_info),
	PAGE_MIGRATE_IOC_MIGRATE = _IOWR(0xB9, 0x01, struct page_migrate_request),
	PAGE_MIGRATE_IOC_PLACEMENT = _IOWR(0xB9, 0x02, struct page_migrate_placement),
};

#endif /* _UAPI_LINUX_PAGE_MIGRATE_H */
