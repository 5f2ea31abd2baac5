// SPDX-License-Identifier: GPL-2.0
/*
 * The version, as modinfo(8) and /sys/module/page_migrate/version show it. The
 * kernel's macro module! for Rust does not know one.
 */
#include <linux/module.h>

MODULE_VERSION(PAGE_MIGRATE_VERSION);
