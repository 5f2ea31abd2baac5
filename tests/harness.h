/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's own test harness, with a time limit that fits an emulated CPU.
 * It comes from the prepared kernel tree; nothing of it is kept here.
 */
#ifndef PM_TESTS_HARNESS_H
#define PM_TESTS_HARNESS_H

#include <kselftest_harness.h>

/* The harness gives each test 30 s: too short under emulation. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 240

#endif
