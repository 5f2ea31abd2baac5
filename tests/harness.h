/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's own test harness, with a time limit that fits an emulated CPU.
 * It comes from the prepared kernel tree; nothing of it is kept here.
 */
#ifndef PM_TESTS_HARNESS_H
#define PM_TESTS_HARNESS_H

#include <limits.h>
#include <poll.h>
#include <stdlib.h>

#include "util.h"

/* This is how the harness waits for a test. */
static inline int pm_patient_poll(struct pollfd *fds, nfds_t n, int ms)
{
	long long longer = (long long)ms * patience();

	return poll(fds, n, ms > 0 && longer > INT_MAX ? INT_MAX : longer);
}

#define poll pm_patient_poll
#include <kselftest_harness.h>
#undef poll

/* The harness gives each test 30 s: too short under emulation. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 240

/* Why tests that are about huge pages are skipped without has_thp(). */
#define NO_THP "no transparent huge pages"

#endif
