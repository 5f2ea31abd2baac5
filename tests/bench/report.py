#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes tables, plots and profiles of what the programs in this folder have measured.

    report.py table FOLDER CSV...           the table and the list of bars, and both as
                                            Markdown and the plots, into FOLDER
    report.py compare BASELINE KERNEL CSV   fails if instructions have grown
    report.py update BASELINE KERNEL CSV    writes them as the new figures
    report.py profile COUNTS KALLSYMS CSV   where the instructions went

See bench.h for what a line of a CSV file holds.
"""
import bisect
import collections
import csv
import os
import re
import shutil
import statistics
import subprocess
import sys

OURS, MIGRATE, MOVE, IDLE = "ours", "migrate_pages", "move_pages", "idle"
# What may come on top before it counts as slower.
GROWTH = 1.03
# A batch of the module's, in pages.
BATCH = 1024
# Pages of it that the kernel is shown at a time.
SHOWN = 64
# "Not slower" means no more than what repeats differ by.
NOT_SLOWER = 1.005


def typical(case, values):
    """The median; of small calls the least, as a tick is a good part of such a call."""
    return min(values) if case == "small" else statistics.median(values)


class Results:
    """The lines of some CSV files, by case, parameters, contestant and unit."""

    def __init__(self, names):
        self.values = collections.OrderedDict()
        self.units = {}
        self.skipped = collections.OrderedDict()
        for name in names:
            with open(name, newline="") as file:
                for line in file:
                    self._read(line.rstrip("\n"))

    def _read(self, line):
        if line.startswith("# ") and ": " in line:
            what, why = line[2:].split(": ", 1)
            self.skipped[what] = why
        row = next(csv.reader([line]), [])
        if len(row) != 7 or not row[5].isdigit():
            return
        case, params, contestant, _, pages, value, unit = row
        kind = "time" if unit in ("ns", "instructions") else unit
        key = case, params, contestant, kind
        self.values.setdefault(key, []).append((int(value), int(pages)))
        if kind == "time":
            self.units[case] = unit

    def all(self, case, params, contestant, kind="time"):
        return [value for value, _ in self.values.get((case, params, contestant, kind), [])]

    def get(self, case, params, contestant, kind="time"):
        """What is typical of the rounds, or None."""
        values = self.all(case, params, contestant, kind)
        return typical(case, values) if values else None

    def per_page(self, case, params, contestant):
        rows = self.values.get((case, params, contestant, "time"), [])
        return typical(case, [v / p for v, p in rows if p]) if rows else None

    def ratio(self, case, params, a, b):
        """How many times as long a takes as b."""
        x, y = self.per_page(case, params, a), self.per_page(case, params, b)
        return x / y if x and y else None

    def why(self, case):
        for what, why in self.skipped.items():
            if what.startswith(case):
                return why
        return "not run"

    def params(self, case, contestant=OURS, kind="time"):
        return [k[1] for k in self.values if (k[0], k[2], k[3]) == (case, contestant, kind)]


def number(value):
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


# ------------------------------------------------------------------- the bars

def many(n, what):
    return f"{n} {what}" + "s" * (n != 1)


def least(r, bar, case, params, a, b, factor):
    """A bar: a takes at least so many times as long as b."""
    ratio = r.ratio(case, params, a, b)
    if ratio is None:
        return bar, f">= {factor}", None, r.why(case)
    return bar, f">= {factor}", ratio >= factor, f"{ratio:.2f}"


def most(r, bar, case, params, a, b, factor, unit=""):
    ratio = r.ratio(case, params, a, b)
    text = f"<= {factor}{unit}"
    if ratio is None:
        return bar, text, None, r.why(case)
    return bar, text, ratio <= (NOT_SLOWER if factor == 1 else factor), f"{ratio:.2f}"


def at_most(bar, limit, value, why, form="{:.2f}"):
    if value is None:
        return bar, f"<= {limit}", None, why
    return bar, f"<= {limit}", value <= limit, form.format(value)


def grown(r, case, first, last, contestant):
    a, b = r.per_page(case, first, contestant), r.per_page(case, last, contestant)
    return b / a if a and b else None


def scan_bars(r):
    for job, pairs, factor in (("new", 1, 2), ("new", 32, 60), ("used", 1, 1.3),
                               ("used", 32, 40)):
        yield least(r, f"scan, {many(pairs, 'pair')}, {job} job: migrate_pages / ours", "scan",
                    f"pairs={pairs} job={job}", MIGRATE, OURS, factor)


def small_bars(r):
    for what in ("process", "page"):
        for other, factor in ((MIGRATE, 1), (MOVE, 1.5)):
            yield most(r, f"small call, range is the {what}: ours / {other}", "small",
                       f"range={what}", OURS, other, factor)


def move_bars(r):
    for memory in ("anon", "memfd", "disk"):
        for pairs in (1, 2):
            yield most(r, f"move, {memory}, {many(pairs, 'pair')}: ours / migrate_pages", "move",
                       f"memory={memory} pairs={pairs}", OURS, MIGRATE, 1)
        yield least(r, f"move, {memory}, 8 pairs: migrate_pages / ours", "move",
                    f"memory={memory} pairs=8", MIGRATE, OURS, 1.05)
    for other in (MIGRATE, MOVE):
        yield most(r, f"move, THP, 8 pairs: ours / {other}", "move", "memory=thp pairs=8",
                   OURS, other, 1)
    for memory in ("anon", "thp"):
        yield most(r, f"swap, {memory}: ours / move_pages", "swap", f"memory={memory}",
                   OURS, MOVE, 1)


def job_bars(r):
    yield least(r, "job of 16 processes: migrate_pages / ours", "job",
                "processes=16 pairs=8", MIGRATE, OURS, 1.2)


def vma_bars(r):
    ours, theirs = (grown(r, "vmas", "what=move vmas=1", "what=move vmas=10000", c)
                    for c in (OURS, MIGRATE))
    yield at_most("1 -> 10 000 VMAs, move: growth / that of migrate_pages", 1.0,
                  ours / theirs if ours and theirs else None, r.why("vmas"), "{:.3f}")
    yield most(r, "scan of 10 000 VMAs: ours / migrate_pages", "vmas",
               "what=scan vmas=10000", OURS, MIGRATE, 1)


def call_bars(r):
    # What full batches need, and one more for each kind of list: small folios and large ones.
    for what, limit, text in (("files=22 pages=4400", -(-4400 // SHOWN) + 2, "22 files"),
                              ("processes=64 pages=1024", 64 + 2, "64 processes")):
        yield at_most(f"kernel migrate_pages() calls, {text}", limit,
                      r.get("calls", what, OURS, "batches"), r.why("calls"), "{:.0f}")


def growth_bars(r):
    sizes = r.params("size")
    value = grown(r, "size", sizes[0], sizes[-1], OURS) if len(sizes) > 1 else None
    name = f"{sizes[0][4:]} -> {sizes[-1][4:]} MiB" if value else "32 MiB -> 4 GiB"
    yield at_most(f"time per page, {name}: growth", 1.05, value, r.why("size"), "{:.3f}")
    yield at_most("time per page, 1 -> 1000 open jobs: growth", 1.05,
                  grown(r, "jobs", "open=1", "open=1000", OURS), r.why("jobs"), "{:.3f}")


def stall_bars(r):
    def get(what, workers, who):
        return r.get("stall", f"what={what} workers={workers}", who)

    for workers in (1, 2):
        why = r.why(f"stall,what=munmap workers={workers}")
        for what, limit in (("munmap", 0.05), ("access", 0.5), ("fault", 1.0)):
            ours, theirs, idle = (get(what, workers, c) for c in (OURS, MIGRATE, IDLE))
            text = f"longest {what}, {many(workers, 'worker')}: ours / migrate_pages"
            value = None
            if ours and theirs and what == "access":
                text += ", less the idle floor"
                if theirs > idle:
                    value = max(0, ours - idle) / (theirs - idle)
                else:
                    why = "lost in what is so when idle"
            elif ours and theirs:
                value = ours / theirs
            yield at_most(text, limit, value, why)


def isolated_bars(r):
    for workers in (1, 2):
        for memory in ("anon", "thp"):
            params = f"memory={memory} workers={workers}"
            values = r.all("isolated", params, OURS, "pages")
            yield at_most(f"isolated pages at most, {memory}, {many(workers, 'worker')}",
                          BATCH * workers, max(values, default=None),
                          r.why(f"isolated,{params}"), "{:.0f}")


def speedup(r, how, memory, who=OURS):
    one, two = (r.all("parallel", f"how={how} memory={memory} cpus={n}", who) for n in (1, 2))
    return statistics.median(a / b for a, b in zip(one, two)) if one and two else None


def parallel_bars(r):
    for memory, factor in (("anon", 1.6), ("thp", 1.8), ("memfd", 1.3)):
        value, ruler = speedup(r, "workers", memory), speedup(r, "processes", memory)
        bar = f"2 workers / 1, {memory}"
        if value is None:
            yield bar, f">= {factor}", None, r.why("parallel,how=workers")
            continue
        text = f"{value:.2f}"
        if ruler:
            text += f" (two processes: {ruler:.2f}; of that {value / ruler:.2f})"
        yield bar, f">= {factor}", value >= factor, text
    yield least(r, "swap, 2 workers: move_pages / ours", "parallel",
                "how=workers memory=anon swap=1", MOVE, OURS, 1.5)


def all_bars(r):
    for bars in (scan_bars, small_bars, move_bars, job_bars, vma_bars, call_bars,
                 parallel_bars, stall_bars, growth_bars, isolated_bars):
        yield from bars(r)


# ------------------------------------------------------------------ the table

def spread_of(values):
    """How far apart the rounds are: the middle half of them, where there are many."""
    values, middle = sorted(values), statistics.median(values)
    if len(values) >= 8:
        values = values[len(values) // 4:-(len(values) // 4)]
    return (values[-1] - values[0]) / middle if middle else 0


def cost_rows(r):
    """A row for each case: what each contestant takes, and how much the rounds differ."""
    seen = collections.OrderedDict()
    for case, params, contestant, kind in r.values:
        seen.setdefault((case, params, kind), []).append(contestant)
    for (case, params, kind), contestants in seen.items():
        per_page = (kind == "time" and case not in ("small", "stall") and
                    "how=loops" not in params)
        row = [f"{case} {params}", "per page" if per_page else kind if kind != "time" else
               "longest" if case == "stall" else "per call"]
        spread = 0
        for contestant in (OURS, MIGRATE, MOVE, IDLE):
            values = r.all(case, params, contestant, kind)
            if contestant not in contestants or not values:
                row.append("")
                continue
            row.append(number(r.per_page(case, params, contestant) if per_page else
                              r.get(case, params, contestant, kind)))
            spread = max(spread, spread_of(values))
        row.append(f"{spread * 100:.1f} %")
        yield row


def as_text(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) if i < 1 else cell.rjust(w)
                       for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
             for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def as_markdown(rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def table(folder, names):
    r = Results(names)
    costs = [["case", "what", "ours", "migrate_pages", "move_pages", "idle", "spread"]]
    costs += cost_rows(r)
    bars = [["bar", "wanted", "measured", "holds"]]
    for bar, wanted, holds, measured in all_bars(r):
        bars.append([bar, wanted, measured if holds is not None else "-",
                     "not measured: " + measured if holds is None else
                     "yes" if holds else "NO"])
    for bar, value in notes(r):
        bars.append([bar, "", value, "measured"])
    with open(os.path.join(folder, "table.md"), "w") as out:
        out.write("<!-- SPDX-License-Identifier: GPL-2.0 -->\n\n")
        out.write(as_markdown(costs) + "\n\n" + as_markdown(bars) + "\n")
    print(as_text(costs) + "\n\n" + as_text(bars))
    plots(folder, r)


def notes(r):
    """What is only told, without a bar."""
    value = speedup(r, "loops", "none", IDLE)
    if value:
        yield "two loops that do nothing / one: what the host gives", f"{value:.2f}"
    for how, text in (("halves", "two callers on halves of a process"),
                      ("processes", "two callers on two processes")):
        for memory in ("anon", "memfd", "thp"):
            value = speedup(r, how, memory)
            if value:
                yield f"{text} / one, {memory}", f"{value:.2f}"
    held = r.get("jobs", "open=1000", OURS, "kB")
    if held is not None:
        yield "kernel memory of 1000 open jobs that have moved a page each, kB", number(held)
    stack = r.get("stack", "what=move", OURS, "bytes")
    if stack:
        yield "stack of a call, bytes (any task that runs by the way included)", number(stack)
    lines = 0
    for where, _, files in os.walk("src"):
        for name in files:
            if name.endswith((".rs", ".c", ".h")):
                with open(os.path.join(where, name)) as file:
                    lines += sum(1 for _ in file)
    if lines:
        yield "lines of src/", str(lines)


# ------------------------------------------------------------------ the plots

def plot(folder, name, title, commands, data):
    text = f"""set terminal svg size 720,400 background "white" font "sans,11"
set output "{os.path.join(folder, name)}.svg"
set title "{title}" noenhanced
set key outside right top noenhanced
set grid ytics
$data << END
{data}
END
{commands}
"""
    subprocess.run(["gnuplot"], input=text, text=True, check=True)


def lines_plot(folder, r, name, case, prefix, title, xlabel, log):
    """A line for each contestant, over the number at the end of the parameters."""
    points = collections.OrderedDict()
    for contestant in (OURS, MIGRATE, MOVE):
        for params in r.params(case, contestant):
            match = re.fullmatch(prefix.replace("N", r"(\d+)"), params)
            if match:
                x = points.setdefault(int(match.group(1)), {})
                x[contestant] = r.per_page(case, params, contestant)
    if len(points) < 2:
        return
    who = [c for c in (OURS, MIGRATE, MOVE) if any(c in x for x in points.values())]
    data = "\n".join(f"{n} " + " ".join(str(points[n].get(c, "NaN")) for c in who)
                     for n in sorted(points))
    commands = f'set xlabel "{xlabel}"\nset ylabel "{r.units[case]} per page"\n'
    commands += f"set logscale {log}\nset offsets graph 0.05, graph 0.05\n"
    commands += "set xtics (" + ", ".join(str(n) for n in sorted(points)) + ")\n"
    if "y" not in log:
        commands += "set yrange [0:*]\n"
    commands += "plot " + ", ".join(
        f'$data using 1:{i + 2} with linespoints lw 2 title "{c}"' for i, c in enumerate(who))
    plot(folder, name, title, commands, data)


def bars_plot(folder, r, name, title, rows, who, ylabel, log=False):
    """Groups of bars: rows of (label, {contestant: value})."""
    rows = [(label, x) for label, x in rows if any(x.values())]
    if not rows:
        return
    case = name if name in r.units else "swap"
    ylabel = f"{r.units[case]} {ylabel}"
    data = "\n".join(f'"{label}" ' + " ".join(str(x.get(c) or "NaN") for c in who)
                     for label, x in rows)
    commands = f'set ylabel "{ylabel}"\nset format y "%.0f"\nset style data histograms\n'
    commands += "set style fill solid 0.8 border -1\nset xtics rotate by -30 noenhanced\n"
    commands += "set logscale y\n" if log else "set yrange [0:*]\n"
    commands += "plot " + ", ".join(
        f'$data using {i + 2}:xtic(1) title "{c}"' for i, c in enumerate(who))
    plot(folder, name, title, commands, data)


def plots(folder, r):
    if not shutil.which("gnuplot"):
        print("\nno gnuplot here: no plots")
        return
    lines_plot(folder, r, "scan", "scan", "pairs=N job=new", "Scan, nothing to move",
               "pairs", "xy")
    lines_plot(folder, r, "size", "size", "mib=N", "Move, by size", "MiB", "x")
    lines_plot(folder, r, "vmas", "vmas", "what=move vmas=N", "Move, by number of VMAs",
               "VMAs", "x")
    who = (OURS, MIGRATE, MOVE)
    bars_plot(folder, r, "move", "Move",
              [(f"{case} " + re.sub(r"\w+=", "", params),
                {c: r.per_page(case, params, c) for c in who})
               for case in ("move", "swap") for params in r.params(case)],
              who, "per page")
    bars_plot(folder, r, "small", "A small call",
              [(params, {c: r.get("small", params, c) for c in who})
               for params in r.params("small")], who, "per call")
    who = (IDLE, OURS, MIGRATE)
    bars_plot(folder, r, "stall", "Longest wait of the target",
              [(re.sub(r"\w+=", "", params).replace(" ", ", workers "),
                {c: r.get("stall", params, c) for c in who})
               for params in r.params("stall")], who, "", log=True)


# ------------------------------------------------- instructions that have grown

def figures(names):
    """The least of the rounds is what repeats best."""
    r = Results(names)
    return {key[:3]: min(v for v, _ in rows) for key, rows in r.values.items()
            if key[3] == "time"}


def read_baseline(name):
    known = collections.OrderedDict()
    if os.path.exists(name):
        with open(name, newline="") as file:
            for row in csv.reader(line for line in file if not line.startswith("#")):
                known.setdefault(row[0], {})[tuple(row[1:4])] = int(row[4])
    return known


def compare(baseline, kernel, names):
    now, known = figures(names), read_baseline(baseline)
    if not now:
        print("bench: nothing was measured")
        return 1
    if kernel not in known:
        print(f"bench: {baseline} has no figures for {kernel}: nothing to compare with.\n"
              "bench: scripts/bench --quick --update writes them")
        return 0
    rows = [["case", "contestant", "then", "now", "change"]]
    bad = []
    for key, then in known[kernel].items():
        if key not in now:
            bad.append(f"{key[0]} {key[1]}: not measured")
            continue
        change = now[key] / then
        rows.append([f"{key[0]} {key[1]}", key[2], number(then), number(now[key]),
                     f"{(change - 1) * 100:+.1f} %"])
        if key[2] == OURS and change > GROWTH:
            bad.append(f"{key[0]} {key[1]}: {(change - 1) * 100:.1f} % more instructions")
    print(as_text(rows))
    for line in bad:
        print(f"bench: {line}")
    if bad:
        print(f"bench: more than {GROWTH * 100 - 100:.0f} % over {baseline}")
    return 1 if bad else 0


def update(baseline, kernel, names):
    now, known = figures(names), read_baseline(baseline)
    if not now:
        print("bench: nothing was measured")
        return 1
    known[kernel] = now
    with open(baseline, "w", newline="") as out:
        out.write("# SPDX-License-Identifier: GPL-2.0\n"
                  "# Instructions of a call: kernel, case, parameters, contestant, the least "
                  "of the rounds.\n# scripts/bench --quick compares with them; with --update, "
                  "it writes them.\n")
        writer = csv.writer(out, lineterminator="\n")
        for version in sorted(known):
            for key, value in known[version].items():
                writer.writerow([version, *key, value])
    print(f"bench: {len(now)} figures for {kernel} are in {baseline} now")
    return 0


# ----------------------------------------------------------------- the profile

# What a function and all that it calls is for, unless a function further in says more.
# "ours:" is in front of what is in the module.
PHASES = (
    ("clear", r"clear_highpages\w*|kernel_init_pages|__?clear_pages?\w*|folio_zero_user"),
    ("copy", r"folio_mc_copy|copy_mc_\w+|folio_copy"),
    ("unmap", r"try_to_migrate|try_to_migrate_one"),
    ("remap", r"remove_migration_ptes?|remove_migration_pte"),
    ("allocate", r"__alloc_pages_noprof|__alloc_frozen_pages_noprof|__folio_alloc_noprof|"
                 r"alloc_migration_target\w*|alloc_migrate_folio|ours:pm_shim_folio_alloc\w*"),
    ("free", r"free_frozen_pages|free_unref_\w+|__folio_put|folios_put_refs|"
             r"__free_frozen_pages"),
    ("isolate", r"folio_isolate_lru|isolate_folio_to_list|isolate_movable_ops_page|"
                r"folio_isolate_hugetlb|migrate_folio_add"),
    ("LRU", r"folio_add_lru|folio_batch_move_lru|lru_add|lru_add_drain\w*|lru_add_drain_all|"
            r"__lru_add_drain_all|folio_putback_lru|putback_movable_pages"),
    ("core", r"migrate_pages|migrate_pages_batch|migrate_pages_sync|move_to_new_folio|"
             r"migrate_folio\w*|__migrate_folio"),
    ("walk", r"(ours:pm_)?walk_\w+|__walk_page_range|queue_pages_range|folio_walk_start|"
             r"do_pages_stat\w*|ours:.*Visitor::folio|ours:pm_folio_facts"),
    ("tick", r"asm_sysvec_\w+|asm_common_interrupt|__schedule"),
    ("our own", r"ours:.*"),
    ("call", r"do_syscall_64|entry_SYSCALL_64\w*|__x64_sys_\w+"),
)


def demangle(name):
    """Enough of Rust's mangling to read: the last names of the path."""
    if not name.startswith("_R"):
        return name
    parts, i = [], 2
    while i < len(name):
        # References and disambiguators have digits, too.
        match = re.match(r"[Bs][0-9a-zA-Z]*_", name[i:])
        if match:
            i += match.end()
            continue
        match = re.match(r"(\d+)_?", name[i:])
        if match:
            start = i + match.end()
            i = start + int(match.group(1))
            parts.append(name[start:i])
        else:
            i += 1
    parts = [p for p in parts if p not in ("page_migrate_main", "core", "kernel", "alloc")]
    return "::".join(parts[-3:]) if parts else name


class Symbols:
    """Names of the guest's functions."""

    def __init__(self, name):
        found = {}
        with open(name) as file:
            for line in file:
                field = line.split()
                # Of several names for one address, one that is a function's.
                if field[1] in "tTwW":
                    found[int(field[0], 16)] = ("ours:" * (field[3:] == ["[page_migrate]"]) +
                                                demangle(field[2]))
        self.addresses = sorted(found)
        self.names = [found[a] for a in self.addresses]

    def name(self, address):
        if address < 1 << 47:
            return "(program)"
        i = bisect.bisect_right(self.addresses, address) - 1
        return self.names[i] if i >= 0 else "(unknown)"


def profile(counts, kallsyms, names):
    symbols, r = Symbols(kallsyms), Results(names)
    phases = [(phase, re.compile(pattern)) for phase, pattern in PHASES]
    cache, phase_of_chain = {}, {0: "other"}
    contestants = (IDLE, OURS, MIGRATE, MOVE)
    by_function = collections.defaultdict(collections.Counter)
    by_phase = collections.defaultdict(collections.Counter)

    def phase_of(name):
        if name not in cache:
            cache[name] = next((p for p, regex in phases if regex.fullmatch(name)), None)
        return cache[name]

    with open(counts) as file:
        for line in file:
            field = line.split()
            region, chain = int(field[1]), int(field[2])
            if field[0] == "call":
                inner = phase_of(symbols.name(int(field[4], 16)))
                phase_of_chain[chain] = inner or phase_of_chain[int(field[3])]
            else:
                name, n = symbols.name(int(field[3], 16)), int(field[4])
                by_function[region][name] += n
                by_phase[region][phase_of(name) or phase_of_chain[chain]] += n
    for region in sorted(by_function):
        who = contestants[region]
        rows = [row for key, rows in r.values.items() if key[2] == who and key[3] == "time"
                for row in rows]
        pages, calls = sum(p for _, p in rows) or 1, len(rows) or 1
        total = sum(by_function[region].values())
        print(f"\n== {who}: {total / pages:.1f} instructions for each of {pages} pages, "
              f"in {calls} calls")
        for title, counter, most in (("phase", by_phase[region], 20),
                                     ("function", by_function[region], 40)):
            rows = [[title, "a page", "a call", "share"]]
            for name, n in counter.most_common(most):
                rows.append([name, f"{n / pages:.1f}", f"{n / calls:.0f}",
                             f"{n / total * 100:.1f} %"])
            print("\n" + as_text(rows))
    return 0


def main(args):
    if len(args) >= 3 and args[0] == "table":
        return table(args[1], args[2:])
    if len(args) >= 4 and args[0] in ("compare", "update", "profile"):
        return globals()[args[0]](args[1], args[2], args[3:])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
