/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests about memory policies share: sets of nodes, policies as
 * get_mempolicy(2) and numa_maps show them, and where new faults land.
 */
#ifndef PM_TESTS_POLICY_UTIL_H
#define PM_TESTS_POLICY_UTIL_H

#include "util.h"

#include <ctype.h>
#include <numaif.h>
#include <sys/syscall.h>

#define WORD_BITS (8 * sizeof(unsigned long))

/*
 * Places among the nodes with memory. Where there are many, they are small: the
 * kernel needs the last ones itself, and its caches of files fill one after the
 * other from the first. A preferred node must have room. Z is then in another
 * word of the mask.
 */
#define FIRST (nr_mem > 64 ? 40 : 0)
#define LAST (nr_mem > 64 ? nr_mem - 20 : nr_mem - 1)

#define A (mem[FIRST])
#define B (mem[FIRST + 1])
#define C (mem[FIRST + 2])
#define Z (mem[LAST])

/* A map with a cycle, A to B to Z to A: not the order of the nodes. C stays. */
#define CYCLE_OLD ((const int[]){ A, B, Z })
#define CYCLE_NEW ((const int[]){ B, Z, A })

struct nodes {
	unsigned long word[MAX_NODES / WORD_BITS];
};

#define NODES(...) nodes_list(ARRAY_LEN(((const int[]){ __VA_ARGS__ })), \
			      (const int[]){ __VA_ARGS__ })

static inline bool has_node(const struct nodes *set, int node)
{
	return node >= 0 && node < MAX_NODES &&
	       (set->word[node / WORD_BITS] >> (node % WORD_BITS) & 1);
}

static inline void add_node(struct nodes *set, int node)
{
	set->word[node / WORD_BITS] |= 1UL << (node % WORD_BITS);
}

static inline struct nodes nodes_list(int n, const int *list)
{
	struct nodes set = { };

	for (int i = 0; i < n; i++)
		add_node(&set, list[i]);
	return set;
}

static inline int nodes_count(struct nodes set)
{
	int n = 0;

	for (int i = 0; i < MAX_NODES; i++)
		n += has_node(&set, i);
	return n;
}

static inline bool nodes_same(struct nodes a, struct nodes b)
{
	return !memcmp(&a, &b, sizeof(a));
}

/* What the lists make of a set. */
static inline struct nodes image(struct nodes set, int count, const int *old, const int *new)
{
	struct nodes out = { };

	for (int i = 0; i < MAX_NODES; i++) {
		int to = i;

		if (!has_node(&set, i))
			continue;
		for (int k = 0; k < count; k++)
			if (old[k] == i)
				to = new[k];
		add_node(&out, to);
	}
	return out;
}

/* As the kernel prints it: 0-2,5. */
static inline const char *nodes_text(struct nodes set)
{
	static char text[8][512];
	static unsigned int turn;
	char *p = text[turn++ % ARRAY_LEN(text)], *at = p;

	*p = 0;
	for (int i = 0; i < MAX_NODES; i++) {
		int last = i;

		if (!has_node(&set, i))
			continue;
		while (has_node(&set, last + 1))
			last++;
		at += sprintf(at, at == p ? "%d" : ",%d", i);
		if (last > i)
			at += sprintf(at, "-%d", last);
		i = last;
	}
	return p;
}

/* Policies. Mode always stands for the mode with its flags. */
struct policy {
	int mode;
	struct nodes nodes;
};

static inline void set_policy(void *addr, size_t npages, int mode, struct nodes set)
{
	if (mbind(addr, npages * PAGE, mode, set.word, MAX_NODES, 0))
		die("mbind, mode %#x, nodes %s", mode, nodes_text(set));
}

static inline void set_home(void *addr, size_t npages, int node)
{
	if (syscall(SYS_set_mempolicy_home_node, addr, npages * PAGE, node, 0))
		die("set_mempolicy_home_node %d", node);
}

static inline void set_thread_policy(int mode, struct nodes set)
{
	if (set_mempolicy(mode, set.word, MAX_NODES))
		die("set_mempolicy, mode %#x, nodes %s", mode, nodes_text(set));
}

/* The policy at an address, or of this thread where it is NULL. */
static inline struct policy get_policy(const void *addr)
{
	struct policy pol = { };

	if (get_mempolicy(&pol.mode, pol.nodes.word, MAX_NODES, (void *)addr,
			  addr ? MPOL_F_ADDR : 0))
		die("get_mempolicy");
	return pol;
}

static inline bool policy_is(struct policy pol, int mode, struct nodes set)
{
	if (pol.mode == mode && nodes_same(pol.nodes, set))
		return true;
	fprintf(stderr, "# policy is %#x:%s, wanted %#x:%s\n", pol.mode, nodes_text(pol.nodes),
		mode, nodes_text(set));
	return false;
}

static inline bool policy_at_is(const void *addr, int mode, struct nodes set)
{
	return policy_is(get_policy(addr), mode, set);
}

/*
 * The same in the words of numa_maps, for the mapping that begins there. With
 * static and relative nodes, the set is that of the nodes in effect.
 */
static inline bool shown_as(pid_t pid, const void *addr, int mode, struct nodes set)
{
	static const char *const names[] = {
		[MPOL_DEFAULT] = "default",
		[MPOL_PREFERRED] = "prefer",
		[MPOL_BIND] = "bind",
		[MPOL_INTERLEAVE] = "interleave",
		[MPOL_LOCAL] = "local",
		[MPOL_PREFERRED_MANY] = "prefer (many)",
		[MPOL_WEIGHTED_INTERLEAVE] = "weighted interleave",
	};
	int flags = mode & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES | MPOL_F_NUMA_BALANCING);
	char line[8192], want[1024], *at;

	snprintf(want, sizeof(want), " %s%s%s%s%s%s", names[mode & ~flags], flags ? "=" : "",
		 flags & MPOL_F_STATIC_NODES ? "static" : "",
		 flags & MPOL_F_RELATIVE_NODES ? "relative" : "",
		 flags & MPOL_F_NUMA_BALANCING ? "balancing" : "", nodes_count(set) ? ":" : "");
	strcat(want, nodes_text(set));
	if (!numa_maps_line(pid, addr, line, sizeof(line)))
		die("no line of %p in numa_maps", addr);
	at = strchr(line, ' ');
	if (at && !strncmp(at, want, strlen(want)) && isspace(at[strlen(want)]))
		return true;
	fprintf(stderr, "# numa_maps has \"%.80s\", wanted \"%s\"\n", line, want);
	return false;
}

/* Whether the pages, new or not, are all on nodes of a set, on each some if even. */
static inline bool lie_on(const void *addr, size_t npages, struct nodes set, bool even)
{
	struct nodes seen = { };
	int *at = malloc(npages * sizeof(*at));

	if (!at)
		die("malloc");
	nodes_of(0, addr, npages, at);
	for (size_t i = 0; i < npages; i++) {
		if (!has_node(&set, at[i])) {
			fprintf(stderr, "# page %zu is on %d, not on %s\n", i, at[i],
				nodes_text(set));
			free(at);
			return false;
		}
		add_node(&seen, at[i]);
	}
	free(at);
	if (!even || nodes_same(seen, set))
		return true;
	fprintf(stderr, "# pages on %s only, not on all of %s\n", nodes_text(seen),
		nodes_text(set));
	return false;
}

static inline void touch_for_writing(void *addr, size_t npages)
{
	for (size_t i = 0; i < npages; i++)
		((volatile char *)addr)[i * PAGE] = 1;
}

static inline bool spreads(int mode)
{
	mode &= 0xff;
	return mode == MPOL_INTERLEAVE || mode == MPOL_WEIGHTED_INTERLEAVE;
}

/* Where new faults of a range land. */
static inline bool faults_land_on(void *addr, size_t npages, int mode, struct nodes set)
{
	touch_for_writing(addr, npages);
	return lie_on(addr, npages, set, spreads(mode));
}

/*
 * A row of mappings with gaps between them, so that each stays one VMA.
 */
struct row {
	char *base;
	size_t len;	/* of each mapping, in pages */
	size_t n;
};

static inline char *slot(const struct row *row, size_t i)
{
	return row->base + i * (row->len + 1) * PAGE;
}

static inline size_t row_size(const struct row *row)
{
	return row->n * (row->len + 1) * PAGE;
}

static inline struct row map_row(size_t n, size_t len)
{
	struct row row = { .len = len, .n = n };
	char *p = mmap(NULL, row_size(&row), PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	row.base = p;
	for (size_t i = 0; i < n; i++) {
		p = mmap(slot(&row, i), len * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (p != slot(&row, i) || advise(p, len * PAGE, MADV_NOHUGEPAGE))
			die("mmap of slot %zu", i);
	}
	return row;
}

/* The whole process, as the contract says it. */
#define WHOLE NULL, ~0UL

#endif
