// SPDX-License-Identifier: GPL-2.0
/*
 * Folios: isolated, allocated on one node, migrated, and put back.
 *
 * Locks: none is held here. pm_shim_folio_isolate() runs under the page-table
 * lock of a mapping; the callbacks of pm_shim_migrate() run while the kernel holds
 * the locks of folios, and must neither take mmap_lock nor reclaim inodes.
 */
#include <linux/gfp.h>
#include <linux/hugetlb.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/swap.h>

#include "shim.h"

void pm_shim_list_init(struct list_head *list)
{
	INIT_LIST_HEAD(list);
}

bool pm_shim_list_is_empty(const struct list_head *list)
{
	return list_empty(list);
}

static void pm_source_facts(struct pm_source *out, struct folio *folio)
{
	out->pfn = folio_pfn(folio);
	out->nid = folio_nid(folio);
	out->order = folio_order(folio);
	out->hugetlb = out->order && folio_test_hugetlb(folio);
}

/* Tell of the first folio. Return: false if there is none. */
bool pm_shim_list_first(struct list_head *list, struct pm_source *out)
{
	struct folio *folio = list_first_entry_or_null(list, struct folio, lru);

	if (!folio)
		return false;
	pm_source_facts(out, folio);
	return true;
}

/* Move the first folio of @from to the end of @to. Return: false if none. */
bool pm_shim_list_shift(struct list_head *from, struct list_head *to,
			struct pm_folio *out)
{
	struct folio *folio = list_first_entry_or_null(from, struct folio, lru);
	u32 flags = 0;

	if (!folio)
		return false;
	if (folio_ref_count(folio) == 1)
		flags |= PM_FOLIO_FREED;
	if (!folio_test_anon(folio) &&
	    (folio_test_dirty(folio) || folio_test_writeback(folio) ||
	     folio_test_private(folio)))
		flags |= PM_FOLIO_UNWRITTEN;
	pm_folio_facts(out, folio, flags);
	out->index = 0;
	out->mapped = 0;
	list_move_tail(&folio->lru, to);
	return true;
}

/*
 * Move the first folios of @from to @to, which is empty: as many as have @pages
 * base pages, and at least one.
 */
void pm_shim_list_take(struct list_head *from, unsigned long pages,
		       struct list_head *to)
{
	struct list_head *last = from;
	struct folio *folio;

	list_for_each_entry(folio, from, lru) {
		last = &folio->lru;
		if (folio_nr_pages(folio) >= pages)
			break;
		pages -= folio_nr_pages(folio);
	}
	list_cut_position(to, from, last);
}

/* Put all folios back, so that they can be isolated again at once. */
void pm_shim_list_put_back(struct list_head *list)
{
	if (list_empty(list))
		return;
	pm_call(putback_movable_pages)(list);
	/* The last of them wait on this CPU for others to come. */
	pm_call(lru_add_drain)();
}

void pm_shim_list_splice(struct list_head *from, struct list_head *to)
{
	list_splice_tail_init(from, to);
}

/**
 * pm_shim_folio_isolate() - take a folio off its LRU list or hugetlb pool
 * @folio: a folio that is mapped, under that mapping's page-table lock
 * @list: where it goes
 *
 * Return: false if somebody else has it, or if it waits in the cache of a CPU to
 * be listed.
 */
bool pm_shim_folio_isolate(struct folio *folio, struct list_head *list)
{
	return pm_call(isolate_folio_to_list)(folio, list);
}

/**
 * pm_shim_folio_alloc() - allocate a folio on one node and no other
 * @nid: the node
 * @order: order of the folio
 * @hugetlb: from the pool of huge pages of this size
 * @effort: how hard to try; never the OOM killer
 *
 * Return: the folio with a reference, or NULL.
 */
struct folio *pm_shim_folio_alloc(unsigned int nid, unsigned int order,
				  bool hugetlb, enum pm_effort effort)
{
	gfp_t gfp = __GFP_THISNODE | __GFP_NOWARN | __GFP_NORETRY;

	if (hugetlb) {
		struct hstate *h = pm_call(size_to_hstate)(PAGE_SIZE << order);

		/* Gigantic pages come from the pool, not from movable zones. */
		gfp |= __GFP_COMP;
		gfp |= hstate_is_gigantic(h) ? GFP_HIGHUSER :
					       GFP_HIGHUSER_MOVABLE;
		if (effort == PM_EFFORT_NONE)
			gfp &= ~__GFP_DIRECT_RECLAIM;
		return pm_call(alloc_hugetlb_folio_nodemask)(h, nid, NULL, gfp,
							     true);
	}
	gfp |= order ? GFP_TRANSHUGE_LIGHT : GFP_HIGHUSER_MOVABLE;
	if (effort == PM_EFFORT_NONE)
		gfp &= ~__GFP_DIRECT_RECLAIM;
	else
		gfp |= __GFP_DIRECT_RECLAIM;
	return __folio_alloc(gfp, order, nid, NULL);
}

/**
 * pm_shim_folio_alloc_some() - allocate single pages on one node and no other
 * @nid: the node
 * @nr: how many
 * @folios: out: the folios, each with a reference; all NULL before
 *
 * Takes what is free.
 *
 * Return: how many it got.
 */
unsigned long pm_shim_folio_alloc_some(unsigned int nid, unsigned long nr,
				       struct folio **folios)
{
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_THISNODE | __GFP_NOWARN |
		    __GFP_NORETRY;

	/* A single page is a folio. */
	BUILD_BUG_ON(offsetof(struct folio, page) != 0);
	return __alloc_pages_bulk(gfp & ~__GFP_DIRECT_RECLAIM, nid, NULL, nr,
				  (struct page **)folios);
}

unsigned long pm_shim_folio_pfn(struct folio *folio)
{
	return folio_pfn(folio);
}

unsigned long pm_shim_folio_nr_pages(struct folio *folio)
{
	return folio_nr_pages(folio);
}

void pm_shim_folio_put(struct folio *folio)
{
	folio_put(folio);
}

static struct folio *pm_new_folio(struct folio *src, unsigned long private)
{
	unsigned int order = folio_order(src);

	/* In registers: this is done for each page. */
	return page_migrate_new_folio((void *)private, folio_pfn(src),
				      folio_nid(src), order,
				      order && folio_test_hugetlb(src));
}

static void pm_free_folio(struct folio *dst, unsigned long private)
{
	page_migrate_free_folio((void *)private, dst);
}

/**
 * pm_shim_migrate() - migrate a list of isolated folios
 * @list: the folios; afterwards those that were not migrated
 * @mover: handed to page_migrate_new_folio() and page_migrate_free_folio()
 * @wait: for the locks of folios, which no signal ends
 *
 * What is allocated for it must not reclaim inodes: with the last reference
 * to one, its folios go, and it waits for the locks that a batch holds.
 */
void pm_shim_migrate(struct list_head *list, void *mover, bool wait)
{
	unsigned int nofs = memalloc_nofs_save();

	pm_call(migrate_pages)(list, pm_new_folio, pm_free_folio,
			       (unsigned long)mover,
			       wait ? MIGRATE_SYNC_LIGHT : MIGRATE_ASYNC,
			       MR_SYSCALL, NULL);
	memalloc_nofs_restore(nofs);
}

/* Bring recently used folios of all CPUs to the LRU lists. */
void pm_shim_drain_lru(void)
{
	pm_call(lru_add_drain_all)();
}

/* The same for this CPU alone. */
void pm_shim_drain_lru_here(void)
{
	pm_call(lru_add_drain)();
}

/**
 * pm_shim_drain_free() - give free pages that CPUs keep for themselves back
 * @nid: the node
 *
 * For all zones at once drain_all_pages() does nothing while another such drain
 * is at work. For a zone it waits for its turn.
 */
void pm_shim_drain_free(unsigned int nid)
{
	for (int i = 0; i < MAX_NR_ZONES; i++) {
		struct zone *zone = &NODE_DATA(nid)->node_zones[i];

		if (populated_zone(zone))
			pm_call(drain_all_pages)(zone);
	}
}
