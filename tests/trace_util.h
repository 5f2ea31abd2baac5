/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel does, as its trace events and probes of a test's own tell it, in a
 * trace instance of the test's own.
 */
#ifndef PM_TESTS_TRACE_UTIL_H
#define PM_TESTS_TRACE_UTIL_H

#include "util.h"

/*
 * Probes that tell how many pages are isolated and given back. A folio's first word tells
 * whether it is a large one (PG_head is bit 6), and the first byte of its second page of
 * what order.
 */
#define PROBE_FOLIO "flags=+0($arg1):x64 second=+64($arg1):x64"
#define PROBE_ISOLATED(group) \
	"r:" group "/isolated isolate_folio_to_list ok=$retval:u8 " PROBE_FOLIO
#define PROBE_PUT_BACK(group) \
	"p:" group "/put_back folio_putback_lru " PROBE_FOLIO

/* The names of the instance and of the group of the probes, and the probes (NULL at the end). */
struct recording {
	const char *group;
	const char *const *probes;
};

/* One event. */
struct event {
	const char *line;	/* all of it */
	const char *what;	/* its name, and behind it what it tells */
	const char *task;	/* its name, and behind it a dash */
	pid_t pid;
};

void recording_start(const struct recording *r, const char *kib);
void recording_stop(const struct recording *r);
void recording_clear(const struct recording *r);
/* "GROUP/EVENT" or "GROUP". */
void recording_of(const struct recording *r, const char *event);
/* Calls @look for each event. */
void recording_read(const struct recording *r, void (*look)(void *data, const struct event *),
		    void *data);

bool event_is(const struct event *event, const char *name);
/* The number behind KEY=, in whatever base it is written. */
uint64_t event_number(const struct event *event, const char *key);
/* The pages of the folio that a probe tells of. */
long event_pages(const struct event *event);

#endif /* PM_TESTS_TRACE_UTIL_H */
