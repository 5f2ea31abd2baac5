// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin for QEMU's emulation of one CPU: counts the instructions that the guest executes
 * between the marks of bench.c, by the chain of calls that led to them.
 *
 * It follows calls and returns by itself: a block that ends with a call remembers the
 * address behind it, and a block that begins there after a return ends all calls since. It
 * knows no functions: only addresses come out, and report.py names them with the guest's
 * /proc/kallsyms.
 *
 * Arguments: out=FILE. Its lines are
 *
 *   call REGION ID PARENT ADDRESS	a function that was called, by which chain
 *   insns REGION ID ADDRESS COUNT	instructions of a block within that call
 *
 * The distribution ships no header for plugins: what is used of version 4 of the interface
 * (QEMU 9.2 and newer) is declared here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGS };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
						  void (*fn)(qemu_plugin_id_t,
							     struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
						 void (*fn)(unsigned int, void *), int flags,
						 void *arg);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
					   void (*fn)(qemu_plugin_id_t, void *), void *arg);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
							size_t i);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 4;

/* As in bench.c. */
#define MARK 0x13370000ULL
#define MARK_STEP 64
#define REGIONS 8

#define DEPTH 256

/* Instructions of a block, within one chain of calls. */
struct count {
	const struct block *block;
	uint64_t n;
	struct count *next;
};

/* A chain of calls: a function, and who called it. */
struct chain {
	uint64_t addr;
	uint32_t id;
	struct chain *parent, *children, *sibling;
	struct count *counts[64];
};

enum ending { OTHER, CALL, RETURN };

struct block {
	uint64_t addr, end;
	uint32_t insns;
	enum ending ending;
	int mark;	/* the region that begins here, or -1 */
	struct block *next;
	/* Where it was counted last. */
	const struct chain *chain;
	struct count *count;
};

static struct block *table[1 << 16];
static struct chain *roots[REGIONS], *now;
static uint32_t chains;
static const struct block *last;
static struct {
	uint64_t ret;
	struct chain *caller;
} stack[DEPTH];
static int depth, region;
static const char *out;

static void *zalloc(size_t size)
{
	void *p = calloc(1, size);

	if (!p)
		abort();
	return p;
}

static struct chain *chain_new(struct chain *parent, uint64_t addr)
{
	struct chain *c = zalloc(sizeof(*c));

	c->addr = addr;
	c->id = ++chains;
	c->parent = parent;
	if (parent) {
		c->sibling = parent->children;
		parent->children = c;
	}
	return c;
}

static void begin(int r)
{
	region = r;
	depth = 0;
	last = NULL;
	if (!r)
		return;
	if (!roots[r])
		roots[r] = chain_new(NULL, 0);
	now = roots[r];
}

static void call(uint64_t addr)
{
	struct chain **at = &now->children, *c;

	if (depth == DEPTH) {
		memmove(stack, stack + 1, (DEPTH - 1) * sizeof(*stack));
		depth--;
	}
	stack[depth].ret = last->end;
	stack[depth++].caller = now;
	for (c = *at; c && c->addr != addr; c = c->sibling)
		;
	now = c ? c : chain_new(now, addr);
}

static void block_runs(unsigned int cpu, void *data)
{
	struct block *b = data;

	(void)cpu;
	if (b->mark >= 0) {
		begin(b->mark);
		return;
	}
	if (!region)
		return;
	if (last && last->ending == CALL && b->addr != last->end) {
		call(b->addr);
	} else if (last && last->ending == RETURN) {
		/* Not found: a return that is used as a jump. */
		for (int i = depth; i > 0; i--)
			if (stack[i - 1].ret == b->addr) {
				depth = i - 1;
				now = stack[depth].caller;
				break;
			}
	}
	last = b;
	if (b->chain != now) {
		struct count **at = &now->counts[b->addr / 4 % 64], *c;

		for (c = *at; c && c->block != b; c = c->next)
			;
		if (!c) {
			c = zalloc(sizeof(*c));
			c->block = b;
			c->next = *at;
			*at = c;
		}
		b->chain = now;
		b->count = c;
	}
	b->count->n += b->insns;
}

/* Calls and returns as x86 has them, behind any prefixes. */
static enum ending ending_of(const struct qemu_plugin_insn *insn)
{
	uint8_t code[16] = { };
	size_t n = qemu_plugin_insn_data(insn, code, sizeof(code)), i = 0;

	while (i + 1 < n && (code[i] == 0xf2 || code[i] == 0xf3 || code[i] == 0x2e ||
			     code[i] == 0x3e || code[i] == 0x66 || (code[i] & 0xf0) == 0x40))
		i++;
	if (code[i] == 0xe8 || (code[i] == 0xff && (code[i + 1] >> 3 & 7) == 2))
		return CALL;
	if (code[i] == 0xc3 || code[i] == 0xc2 || code[i] == 0xcf)
		return RETURN;
	return OTHER;
}

static void block_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	uint64_t addr = qemu_plugin_tb_vaddr(tb), end = addr;
	uint32_t n = qemu_plugin_tb_n_insns(tb);
	struct block **at = &table[addr * 0x9e3779b97f4a7c15ULL >> 48], *b;
	enum ending ending = OTHER;

	(void)id;
	for (uint32_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		end += qemu_plugin_insn_size(insn);
		if (i == n - 1)
			ending = ending_of(insn);
	}
	for (b = *at; b && (b->addr != addr || b->insns != n || b->end != end ||
			    b->ending != ending); b = b->next)
		;
	if (!b) {
		b = zalloc(sizeof(*b));
		b->addr = addr;
		b->end = end;
		b->insns = n;
		b->ending = ending;
		b->mark = -1;
		if (addr >= MARK && addr < MARK + REGIONS * MARK_STEP)
			b->mark = (addr - MARK) / MARK_STEP;
		b->next = *at;
		*at = b;
	}
	qemu_plugin_register_vcpu_tb_exec_cb(tb, block_runs, NO_REGS, b);
}

static void chain_print(FILE *f, int r, const struct chain *c)
{
	fprintf(f, "call %d %" PRIu32 " %" PRIu32 " %" PRIx64 "\n", r, c->id,
		c->parent ? c->parent->id : 0, c->addr);
	for (size_t i = 0; i < 64; i++)
		for (const struct count *n = c->counts[i]; n; n = n->next)
			fprintf(f, "insns %d %" PRIu32 " %" PRIx64 " %" PRIu64 "\n", r, c->id,
				n->block->addr, n->n);
	for (const struct chain *child = c->children; child; child = child->sibling)
		chain_print(f, r, child);
}

static void at_exit(qemu_plugin_id_t id, void *arg)
{
	FILE *f = fopen(out, "w");

	(void)id;
	(void)arg;
	if (!f)
		return;
	for (int r = 1; r < REGIONS; r++)
		if (roots[r])
			chain_print(f, r, roots[r]);
	fclose(f);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
	if (!out) {
		fprintf(stderr, "profile: out=FILE is missing\n");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
	qemu_plugin_register_atexit_cb(id, at_exit, NULL);
	return 0;
}
