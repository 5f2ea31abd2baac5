# SPDX-License-Identifier: GPL-2.0
"""What the demonstrations share: their steps, the command, and what is where."""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

TOOL = "build/tools/release/pagemigrate"


class DemoFailed(Exception):
    """Something that the demonstration promises is not true."""


# ------------------------------------------------------------- what is where


def pages_by_node(pid):
    """Base pages on each node, as the kernel itself reports them."""
    nodes = {}
    for row in pathlib.Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        scale = int(re.search(r"kernelpagesize_kB=(\d+)|$", row)[1] or 4) // 4
        for node, pages in re.findall(r" N(\d+)=(\d+)", row):
            nodes[int(node)] = nodes.get(int(node), 0) + int(pages) * scale
    return nodes


# ----------------------------------------------------------- what people see

TERMINAL = sys.stdout.isatty()


class Plan:
    """The plan that scripts/demo has begun: scripts/lib.sh says what is in its file."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def step(self, text, seconds):
        """Begin the next step, which takes some seconds."""
        step, steps, before, total, begun = map(int, self.path.read_text().split())
        step += 1
        self.path.write_text(f"{step} {steps} {before + seconds} {total} {begun}\n")
        slower = max(1, (time.time() - begun) / before) if before >= 20 else 1
        left = (total - before) * slower
        heading = f"[{step}/{steps}] {text} ({before * 100 // total} %, about {left:.0f} s left)"
        if TERMINAL and not os.environ.get("NO_COLOR"):
            heading = f"\033[1m{heading}\033[0m"
        print(f"\n{heading}", flush=True)


last_line = 0


def progress(text=""):
    """Show how far a step is: in one line of a terminal, else in a line every five seconds."""
    global last_line
    if TERMINAL:
        print(f"\r\033[K{text}", end="", flush=True)
    elif text and time.monotonic() > last_line + 5:
        last_line = time.monotonic()
        line(text)


def wait(seconds, what):
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        progress(f"{what}: {left:.0f} s left")
        time.sleep(min(left, 0.5))
    progress()


def line(text):
    print(text, flush=True)


def ms(seconds):
    return f"{seconds * 1000:.1f} ms"


# --------------------------------------------------------------- the command


def pagemigrate(*args):
    """Run the command for all to see, return its exit status."""
    status = subprocess.run([TOOL, *args]).returncode
    if status not in (0, 3):
        raise DemoFailed(f"pagemigrate: exit status {status}")
    return status


def counts(metrics):
    """Pages that the command says it has moved, and left behind."""
    text = pathlib.Path(metrics).read_text()
    of = lambda name: sum(
        int(n) for n in re.findall(rf"^pagemigrate_last_{name}_bytes{{.*}} (\d+)$", text, re.M)
    )
    return of("moved") // 4096, of("left_behind") // 4096


# ----------------------------------------------------------- the demonstration


def parser_of(what):
    """What scripts/demo gives to each demonstration."""
    parser = argparse.ArgumentParser(description=what.splitlines()[0])
    parser.add_argument("plan", help="file of the plan to go on with")
    parser.add_argument("verdict", help="file to write the last line to")
    return parser


def run(demonstrate, args):
    """Run it with a folder of its own, and write down what it says in the end."""
    with tempfile.TemporaryDirectory(prefix="demo.", dir="/run") as scratch:
        try:
            verdict = demonstrate(args, scratch)
        except (DemoFailed, OSError, subprocess.SubprocessError) as failed:
            sys.exit(f"demo: FAILED: {failed}")
    pathlib.Path(args.verdict).write_text(verdict + "\n")
