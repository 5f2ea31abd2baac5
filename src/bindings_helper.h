/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/page_migrate.h>

#include "page_migrate_policy.h"
#include "page_migrate_shim.h"
#include "page_migrate_trace.h"
