/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/page_migrate.h>

#include "events/page_migrate_trace.h"
#include "page_migrate_shim.h"
#include "shim/policy.h"
