// SPDX-License-Identifier: GPL-2.0
/*
 * NUMA nodes: what the machine says of them.
 *
 * Locks: none. A node's own structure stays for good.
 */
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/topology.h>

#include "shim.h"

unsigned int pm_shim_nr_nodes(void)
{
	return nr_node_ids;
}

unsigned int pm_shim_node_state(unsigned int nid)
{
	return (node_possible(nid) ? PM_NODE_POSSIBLE : 0) |
	       (node_state(nid, N_MEMORY) ? PM_NODE_MEMORY : 0);
}

unsigned int pm_shim_node_distance(unsigned int from, unsigned int to)
{
	return node_distance(from, to);
}

/**
 * pm_shim_node_has_room() - whether a node has single pages to spare
 * @nid: the node
 * @nr_pages: how many are wanted
 *
 * Counts what is free above the watermarks up to which kswapd reclaims. That is
 * an estimate: others take pages, too.
 */
bool pm_shim_node_has_room(unsigned int nid, unsigned long nr_pages)
{
	unsigned long room = 0;

	if (!node_state(nid, N_MEMORY))
		return false;
	for (int i = 0; i <= ZONE_MOVABLE; i++) {
		struct zone *zone = &NODE_DATA(nid)->node_zones[i];
		unsigned long free = zone_page_state(zone, NR_FREE_PAGES);
		unsigned long kept = high_wmark_pages(zone);

		if (managed_zone(zone) && free > kept)
			room += free - kept;
	}
	return room >= nr_pages;
}
