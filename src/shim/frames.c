// SPDX-License-Identifier: GPL-2.0
/*
 * Sets of page frames: one bit for each frame, in pages of bits that are made on
 * demand. The walk looks frames up under page-table locks, so that takes no lock
 * and does not sleep. Bits change atomically: several threads may add frames.
 */
#include <linux/atomic.h>
#include <linux/slab.h>

#include "frames.h"
#include "shim.h"

/**
 * pm_shim_frames_new() - make an empty set
 *
 * Return: the set, for pm_shim_frames_free(), or NULL.
 */
struct pm_frames *pm_shim_frames_new(void)
{
	struct pm_frames *frames = kmalloc(sizeof(*frames), GFP_KERNEL_ACCOUNT);

	if (frames) {
		xa_init(&frames->pages);
		frames->nr = 0;
	}
	return frames;
}

/**
 * pm_shim_frames_free() - free a set that nobody uses any more
 * @frames: the set
 */
void pm_shim_frames_free(struct pm_frames *frames)
{
	unsigned long index;
	void *bits;

	xa_for_each(&frames->pages, index, bits)
		kfree(bits);
	xa_destroy(&frames->pages);
	kfree(frames);
}

/**
 * pm_shim_frames_is_empty() - whether no frame was ever to be added
 * @frames: the set
 */
bool pm_shim_frames_is_empty(const struct pm_frames *frames)
{
	return !READ_ONCE(frames->nr);
}

/**
 * pm_shim_frames_has() - whether a frame is in a set
 * @frames: the set
 * @pfn: the frame
 */
bool pm_shim_frames_has(struct pm_frames *frames, unsigned long pfn)
{
	struct pm_frames_cursor at = PM_FRAMES_CURSOR;

	return pm_frames_has(frames, &at, pfn);
}

/*
 * Its page of bits, which is made if it is not there.
 *
 * Charged to the caller: everybody may open as many jobs as files. Where folios
 * are locked, so it fails rather than call the OOM killer. A node of the array
 * serves 64 such pages and need not be charged.
 */
static unsigned long *pm_frames_make(struct pm_frames *frames, unsigned long index)
{
	unsigned long *bits = xa_load(&frames->pages, index), *others;

	if (bits)
		return bits;
	bits = pm_shim_zalloc(PAGE_SIZE);
	if (!bits)
		return NULL;
	xa_lock(&frames->pages);
	others = __xa_cmpxchg(&frames->pages, index, NULL, bits,
			      GFP_NOWAIT | __GFP_NOWARN);
	if (!others) {
		/* Pairs with pm_frames_has(): whoever sees the number finds the page. */
		smp_store_release(&frames->nr, frames->nr + 1);
	}
	xa_unlock(&frames->pages);
	if (!others)
		return bits;
	kfree(bits);
	return xa_is_err(others) ? NULL : others;
}

/* Change the bits of frames of one page of bits. */
static void pm_frames_change(unsigned long *bits, unsigned long first,
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
 * pm_shim_frames_add() - add the frames of a folio
 * @frames: the set
 * @pfn: the first frame
 * @nr: how many; all of them are valid frames
 *
 * Return: 0, or -ENOMEM; then none has been added.
 */
int pm_shim_frames_add(struct pm_frames *frames, unsigned long pfn,
		       unsigned long nr)
{
	unsigned long index, end = pfn + nr;
	unsigned long first = pfn & (PM_FRAMES_PER_PAGE - 1);

	/* All but gigantic folios are on one page of bits. */
	if (first + nr <= PM_FRAMES_PER_PAGE) {
		unsigned long *bits = pm_frames_make(frames, pfn >> PM_FRAMES_SHIFT);

		if (!bits)
			return -ENOMEM;
		pm_frames_change(bits, first, nr, true);
		return 0;
	}
	for (index = pfn >> PM_FRAMES_SHIFT; index << PM_FRAMES_SHIFT < end; index++)
		if (!pm_frames_make(frames, index))
			return -ENOMEM;
	while (pfn < end) {
		unsigned long *bits = xa_load(&frames->pages, pfn >> PM_FRAMES_SHIFT);

		first = pfn & (PM_FRAMES_PER_PAGE - 1);
		nr = min(end - pfn, PM_FRAMES_PER_PAGE - first);
		pm_frames_change(bits, first, nr, true);
		pfn += nr;
	}
	return 0;
}

/**
 * pm_shim_frames_remove() - take the frames of a folio away
 * @frames: the set
 * @pfn: the first frame
 * @nr: how many
 */
void pm_shim_frames_remove(struct pm_frames *frames, unsigned long pfn,
			   unsigned long nr)
{
	unsigned long end = pfn + nr;

	while (pfn < end) {
		unsigned long *bits = xa_load(&frames->pages, pfn >> PM_FRAMES_SHIFT);
		unsigned long first = pfn & (PM_FRAMES_PER_PAGE - 1);

		nr = min(end - pfn, PM_FRAMES_PER_PAGE - first);
		if (bits)
			pm_frames_change(bits, first, nr, false);
		pfn += nr;
	}
}
