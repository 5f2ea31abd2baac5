/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _PAGE_MIGRATE_FRAMES_H
#define _PAGE_MIGRATE_FRAMES_H

#include <linux/bitops.h>
#include <linux/xarray.h>

/* Frames of one page of bits: 128 MiB of memory. */
#define PM_FRAMES_SHIFT		(PAGE_SHIFT + 3)
#define PM_FRAMES_PER_PAGE	(1UL << PM_FRAMES_SHIFT)

struct pm_frames {
	struct xarray pages;		/* of bits, by frame number / PM_FRAMES_PER_PAGE */
	unsigned int nr;		/* pages of bits */
};

/* The page of bits that was looked at last, NULL if there was none among @nr. */
struct pm_frames_cursor {
	unsigned long index;
	const unsigned long *bits;
	unsigned int nr;
};

#define PM_FRAMES_CURSOR	{ .index = ULONG_MAX }

/*
 * Whether a frame is in the set. Takes no lock: pages of bits stay until the
 * whole set is freed. Another thread may add one at any time, before it sets a
 * bit there.
 */
static inline bool pm_frames_has(struct pm_frames *frames,
				 struct pm_frames_cursor *at, unsigned long pfn)
{
	unsigned long index = pfn >> PM_FRAMES_SHIFT;

	if (index != at->index ||
	    (!at->bits && at->nr != READ_ONCE(frames->nr))) {
		/* Pairs with pm_frames_make(): one more page may be there, not less. */
		at->nr = smp_load_acquire(&frames->nr);
		at->bits = xa_load(&frames->pages, index);
		at->index = index;
	}
	return at->bits && test_bit(pfn & (PM_FRAMES_PER_PAGE - 1), at->bits);
}

#endif /* _PAGE_MIGRATE_FRAMES_H */
