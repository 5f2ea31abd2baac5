// SPDX-License-Identifier: GPL-2.0
/*
 * Sets of page numbers: one bit for each page, in blocks of bits that are made on
 * demand. The walk looks pages up under page-table locks, so that takes no lock
 * and does not sleep. Bits change atomically: several threads may add pages.
 */
#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/slab.h>

#include "page_set.h"
#include "shim.h"

/**
 * pm_shim_set_new() - make an empty set
 *
 * Return: the set, for pm_shim_set_free(), or NULL.
 */
struct pm_set *pm_shim_set_new(void)
{
	struct pm_set *set = kmalloc(sizeof(*set), GFP_KERNEL_ACCOUNT);

	if (set) {
		xa_init(&set->blocks);
		set->nr = 0;
		set->first = 0;
		set->last = 0;
	}
	return set;
}

/**
 * pm_shim_set_clear() - take all pages away from a set that nobody else uses now
 * @set: the set
 */
void pm_shim_set_clear(struct pm_set *set)
{
	unsigned long index;
	void *bits;

	/* A block that could not be made may have left nodes. */
	if (xa_empty(&set->blocks))
		return;
	xa_for_each_range(&set->blocks, index, bits, set->first, set->last)
		kfree(bits);
	xa_destroy(&set->blocks);
	set->nr = 0;
}

/**
 * pm_shim_set_free() - free a set that nobody uses any more
 * @set: the set
 */
void pm_shim_set_free(struct pm_set *set)
{
	pm_shim_set_clear(set);
	kfree(set);
}

/**
 * pm_shim_set_is_empty() - whether no page was ever to be added
 * @set: the set
 */
bool pm_shim_set_is_empty(const struct pm_set *set)
{
	return !READ_ONCE(set->nr);
}

/**
 * pm_shim_set_has() - whether a page is in a set
 * @set: the set
 * @page: its number
 */
bool pm_shim_set_has(struct pm_set *set, unsigned long page)
{
	struct pm_set_cursor at = PM_SET_CURSOR;

	return pm_set_has(set, &at, page);
}

/*
 * The next page from @page on that is in the set, or with @has false the next
 * one that is not. Return: its number, or @end if there is none before.
 */
static unsigned long pm_set_find(struct pm_set *set, unsigned long page,
				 unsigned long end, bool has)
{
	while (page < end) {
		unsigned long index = page >> PM_SET_SHIFT, first, last, found;
		const unsigned long *bits;

		if (has) {
			bits = xa_find(&set->blocks, &index, ULONG_MAX, XA_PRESENT);
			if (!bits || index << PM_SET_SHIFT >= end)
				return end;
			page = max(page, index << PM_SET_SHIFT);
		} else {
			bits = xa_load(&set->blocks, index);
			if (!bits)
				return page;
		}
		first = page & (PM_SET_PAGES - 1);
		last = min(PM_SET_PAGES - first, end - page) + first;
		found = has ? find_next_bit(bits, last, first) :
			      find_next_zero_bit(bits, last, first);
		page += found - first;
		if (found < last)
			break;
	}
	return page;
}

/**
 * pm_shim_set_next() - find a page of a set
 * @set: the set
 * @page: where to begin
 * @end: where to end
 *
 * Return: the first page of the set in this range, or @end.
 */
unsigned long pm_shim_set_next(struct pm_set *set, unsigned long page,
			       unsigned long end)
{
	return pm_set_find(set, page, end, true);
}

/**
 * pm_shim_set_gap() - find a page that is not in a set
 * @set: the set
 * @page: where to begin
 * @end: where to end
 *
 * Return: the first page in this range that is not in the set, or @end.
 */
unsigned long pm_shim_set_gap(struct pm_set *set, unsigned long page,
			      unsigned long end)
{
	return pm_set_find(set, page, end, false);
}

/*
 * Its block of bits, which is made if it is not there.
 *
 * Charged to the caller: everybody may open as many jobs as files. Where folios
 * are locked, so it fails rather than call the OOM killer. A node of the array
 * serves 64 such blocks and need not be charged.
 */
static unsigned long *pm_set_make(struct pm_set *set, unsigned long index)
{
	unsigned long *bits = xa_load(&set->blocks, index), *others;

	if (bits)
		return bits;
	bits = pm_shim_zalloc(PM_SET_PAGES / BITS_PER_BYTE);
	if (!bits)
		return NULL;
	xa_lock(&set->blocks);
	others = __xa_cmpxchg(&set->blocks, index, NULL, bits,
			      GFP_NOWAIT | __GFP_NOWARN);
	if (!others) {
		set->first = set->nr ? min(set->first, index) : index;
		set->last = set->nr ? max(set->last, index) : index;
		/* Pairs with pm_set_has(): whoever sees the number finds the block. */
		smp_store_release(&set->nr, set->nr + 1);
	}
	xa_unlock(&set->blocks);
	if (!others)
		return bits;
	kfree(bits);
	return xa_is_err(others) ? NULL : others;
}

/* Change the bits of pages of one block. */
static void pm_set_change(unsigned long *bits, unsigned long first,
			  unsigned long nr, bool add)
{
	while (nr) {
		unsigned long bit = first % BITS_PER_LONG;
		unsigned long len = min(nr, BITS_PER_LONG - bit);
		unsigned long mask = GENMASK(bit + len - 1, bit);
		atomic_long_t *word = (atomic_long_t *)&bits[first / BITS_PER_LONG];

		if (add)
			atomic_long_or(mask, word);
		else
			atomic_long_andnot(mask, word);
		first += len;
		nr -= len;
	}
}

/**
 * pm_shim_set_add() - add pages
 * @set: the set
 * @at: the block that the caller used last, or PM_SET_CURSOR
 * @page: the first page
 * @nr: how many; the last one has a number, too
 *
 * Return: 0, or -ENOMEM; then none has been added.
 */
int pm_shim_set_add(struct pm_set *set, struct pm_set_cursor *at,
		    unsigned long page, unsigned long nr)
{
	unsigned long index = page >> PM_SET_SHIFT, end = page + nr;
	unsigned long first = page & (PM_SET_PAGES - 1);

	/* Most folios are in one block. */
	if (first + nr <= PM_SET_PAGES) {
		if (!at->bits || at->index != index) {
			at->bits = pm_set_make(set, index);
			at->index = index;
		}
		if (!at->bits)
			return -ENOMEM;
		if (nr == 1)
			set_bit(first, at->bits);
		else
			pm_set_change(at->bits, first, nr, true);
		return 0;
	}
	for (index = page >> PM_SET_SHIFT; index << PM_SET_SHIFT < end; index++)
		if (!pm_set_make(set, index))
			return -ENOMEM;
	while (page < end) {
		unsigned long *bits = xa_load(&set->blocks, page >> PM_SET_SHIFT);

		first = page & (PM_SET_PAGES - 1);
		nr = min(end - page, PM_SET_PAGES - first);
		pm_set_change(bits, first, nr, true);
		page += nr;
	}
	return 0;
}

/**
 * pm_shim_set_remove() - take pages away
 * @set: the set
 * @page: the first page
 * @nr: how many
 */
void pm_shim_set_remove(struct pm_set *set, unsigned long page, unsigned long nr)
{
	unsigned long end = page + nr;

	while (page < end) {
		unsigned long *bits = xa_load(&set->blocks, page >> PM_SET_SHIFT);
		unsigned long first = page & (PM_SET_PAGES - 1);

		nr = min(end - page, PM_SET_PAGES - first);
		if (bits)
			pm_set_change(bits, first, nr, false);
		page += nr;
	}
}
