// SPDX-License-Identifier: GPL-2.0
#include "trace_util.h"

#include <fcntl.h>
#include <sys/stat.h>

static const char *path_of(const struct recording *r, const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), TRACING "/instances/%s%s", r->group, name);
	return path;
}

static void set(const char *path, const char *text)
{
	int ret = file_write(path, text);

	if (ret) {
		errno = -ret;
		die("%s > %s", text, path);
	}
}

static void event_set(const struct recording *r, const char *event, const char *text)
{
	char name[128];

	snprintf(name, sizeof(name), "/events/%s/enable", event);
	set(path_of(r, name), text);
}

static void probe_add(const char *probe)
{
	int fd = open(TRACING "/kprobe_events", O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0 || write(fd, probe, strlen(probe)) != (ssize_t)strlen(probe))
		die("probe %s", probe);
	close(fd);
}

/* Removes what a test that was ended may have left, too. */
void recording_stop(const struct recording *r)
{
	char name[64], text[160];

	if (!access(path_of(r, ""), F_OK)) {
		snprintf(text, sizeof(text), "/events/%s", r->group);
		if (!access(path_of(r, text), F_OK))
			event_set(r, r->group, "0");
		if (rmdir(path_of(r, "")))
			die("rmdir %s", path_of(r, ""));
	}
	for (const char *const *probe = r->probes; *probe; probe++) {
		if (sscanf(*probe, "%*c:%63s", name) != 1)
			die("probe %s", *probe);
		snprintf(text, sizeof(text), TRACING "/events/%s", name);
		if (access(text, F_OK))
			continue;
		snprintf(text, sizeof(text), "-:%s", name);
		probe_add(text);
	}
}

void recording_start(const struct recording *r, const char *kib)
{
	tracefs_mount();
	recording_stop(r);
	for (const char *const *probe = r->probes; *probe; probe++)
		probe_add(*probe);
	if (mkdir(path_of(r, ""), 0700))
		die("mkdir %s", path_of(r, ""));
	/* The same on all CPUs, so that lines of several tasks are in order. */
	set(path_of(r, "/trace_clock"), "global");
	set(path_of(r, "/buffer_size_kb"), kib);
}

void recording_of(const struct recording *r, const char *event)
{
	event_set(r, event, "1");
}

void recording_clear(const struct recording *r)
{
	int fd = open(path_of(r, "/trace"), O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd < 0)
		die("%s", path_of(r, "/trace"));
	close(fd);
}

/* A line is "TASK-PID [CPU] FLAGS TIME: EVENT: ...". */
static bool event_parse(struct event *e, const char *line)
{
	const char *cpu = strstr(line, " ["), *dash = cpu, *what;

	if (*line == '#' || !cpu)
		return false;
	while (dash > line && *dash != '-')
		dash--;
	what = strstr(cpu, ": ");
	if (!what)
		return false;
	*e = (struct event){
		.line = line,
		.what = what + 2,
		.task = line + strspn(line, " "),
		.pid = atoi(dash + 1),
	};
	return true;
}

void recording_read(const struct recording *r, void (*look)(void *data, const struct event *),
		    void *data)
{
	FILE *f = fopen(path_of(r, "/trace"), "re");
	struct event event;
	char line[1024];

	if (!f)
		die("%s", path_of(r, "/trace"));
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "EVENTS]"))
			die("events are lost");
		if (event_parse(&event, line))
			look(data, &event);
	}
	fclose(f);
}

bool event_is(const struct event *event, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(event->what, name, len) && event->what[len] == ':';
}

uint64_t event_number(const struct event *event, const char *key)
{
	const char *p = event->what;

	while ((p = strstr(p, key)) && (p[-1] != ' ' || p[strlen(key)] != '='))
		p++;
	if (!p)
		die("no %s in %s", key, event->line);
	return strtoull(p + strlen(key) + 1, NULL, 0);
}

long event_pages(const struct event *event)
{
	bool large = event_number(event, "flags") >> 6 & 1;

	return large ? 1L << (event_number(event, "second") & 0xff) : 1;
}
