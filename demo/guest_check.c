// SPDX-License-Identifier: GPL-2.0
/*
 * All of the guest that "make demo-vm" moves: a program that needs no kernel, since
 * one would take minutes to start in a machine that is emulated itself. QEMU loads it
 * by the Multiboot Specification. It fills all memory, and from then on reads
 * every word and writes it anew. For each MiB there is a line on the console:
 *
 *	checked MIB wrong WORDS rounds ROUNDS
 *
 * all of them from the start. A byte on the console's input ends the guest.
 */
#include <stdbool.h>
#include <stdint.h>

enum {
	CONSOLE = 0x3f8,	/* the first serial port */
	CONSOLE_STATUS = CONSOLE + 5,
	HAS_INPUT = 0x01,
	CAN_SEND = 0x20,
	DEBUG_EXIT = 0xf4,	/* isa-debug-exit: whatever is written there ends QEMU */
	MIB = 1 << 20,
	WORDS = MIB / sizeof(uint32_t),
	FIRST_MIB = 4,		/* this program, and what QEMU tells it, lie below */
	LAST_MIB = 1,		/* the tables of the BIOS lie in the last one */
};

/* What QEMU tells, as far as it is used. */
struct multiboot_info {
	uint32_t flags;
	uint32_t kib_lower;
	uint32_t kib_upper;	/* memory from the first MiB on */
};

/* The header that QEMU looks for (magic, flags, checksum), and where it begins. */
asm(".text\n"
	".balign 4\n"
	".long 0x1badb002, 0, -0x1badb002\n"
	".globl guest_start\n"
	"guest_start:\n"
	"	movl $guest_stack_end, %esp\n"
	"	pushl %ebx\n"
	"	call guest_main\n"
	".bss\n"
	".balign 16\n"
	"	.skip 4096\n"
	"guest_stack_end:\n"
	".text\n");

static uint8_t in(uint16_t port)
{
	uint8_t value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void out(uint16_t port, uint8_t value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void say(const char *text)
{
	for (; *text; text++) {
		while (!(in(CONSOLE_STATUS) & CAN_SEND))
			;
		out(CONSOLE, *text);
	}
}

static void say_number(uint32_t number)
{
	char text[11], *at = text + sizeof(text) - 1;

	*at = '\0';
	do {
		*--at = '0' + number % 10;
		number /= 10;
	} while (number);
	say(at);
}

/* What a word holds in a round: another value for each word and round. */
static uint32_t value(uint32_t word, uint32_t round)
{
	return (word + 1) * 0x9e3779b1u + round * 0x85ebca6bu;
}

static uint32_t *memory(uint32_t mib)
{
	return (uint32_t *)(mib * MIB);
}

static void fill(uint32_t mib, uint32_t round)
{
	uint32_t *words = memory(mib);

	for (uint32_t i = 0; i < WORDS; i++)
		words[i] = value(mib * WORDS + i, round);
}

/* Return: how many words are not what they should be. */
static uint32_t check(uint32_t mib, uint32_t round)
{
	const uint32_t *words = memory(mib);
	uint32_t wrong = 0;

	for (uint32_t i = 0; i < WORDS; i++)
		wrong += words[i] != value(mib * WORDS + i, round);
	return wrong;
}

void guest_main(const struct multiboot_info *info);

void guest_main(const struct multiboot_info *info)
{
	const uint32_t end = 1 + info->kib_upper / 1024 - LAST_MIB;
	uint32_t checked = 0, wrong = 0;

	for (uint32_t mib = FIRST_MIB; mib < end; mib++)
		fill(mib, 0);
	for (uint32_t round = 0;; round++) {
		for (uint32_t mib = FIRST_MIB; mib < end; mib++) {
			wrong += check(mib, round);
			fill(mib, round + 1);
			say("checked ");
			say_number(++checked);
			say(" wrong ");
			say_number(wrong);
			say(" rounds ");
			say_number(round);
			say("\n");
			if (in(CONSOLE_STATUS) & HAS_INPUT) {
				say("end\n");
				out(DEBUG_EXIT, 0);
			}
		}
	}
}
