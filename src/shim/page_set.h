/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _PAGE_MIGRATE_PAGE_SET_H
#define _PAGE_MIGRATE_PAGE_SET_H

#include <linux/bitops.h>
#include <linux/xarray.h>

#include "page_migrate_shim.h"

/* Page numbers of one block of bits: 16 MiB of memory in 512 bytes. */
#define PM_SET_SHIFT	12
#define PM_SET_PAGES	(1UL << PM_SET_SHIFT)

/* A set of page numbers, of frames or of virtual pages. */
struct pm_set {
	struct xarray blocks;		/* of bits, by page number / PM_SET_PAGES */
	unsigned int nr;		/* of blocks */
	unsigned long first, last;	/* of them, while there are some */
};

#define PM_SET_CURSOR	{ .index = ULONG_MAX }

/*
 * Whether a page is in the set. Takes no lock: blocks of bits stay until the
 * whole set is freed. Another thread may add one at any time, before it sets a
 * bit there.
 */
static inline bool pm_set_has(struct pm_set *set, struct pm_set_cursor *at,
			      unsigned long page)
{
	unsigned long index = page >> PM_SET_SHIFT;

	if (index != at->index ||
	    (!at->bits && at->nr != READ_ONCE(set->nr))) {
		/* Pairs with pm_set_make(): one more block may be there, not less. */
		at->nr = smp_load_acquire(&set->nr);
		at->bits = xa_load(&set->blocks, index);
		at->index = index;
	}
	return at->bits && test_bit(page & (PM_SET_PAGES - 1), at->bits);
}

#endif /* _PAGE_MIGRATE_PAGE_SET_H */
