#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Move a guest of QEMU's between NUMA nodes while it checks its own memory.

Each of the guest's two nodes is bound to a node of this machine, as a guest with
strict memory is (host-nodes=, policy=bind), and its virtual CPU runs on one of them.
This half of the demonstration runs inside the virtual machine; scripts/demo starts
it.
"""

import os
import pathlib
import re
import socket
import subprocess
import threading
import time

from stage import DemoFailed, Plan, counts, line, ms, pagemigrate, parser_of, progress, run, wait

OLD_NODES = (0, 1)
NEW_NODES = (2, 3)
MAP = "0-1:2-3"
MIB_EACH = 96
REPORT = re.compile(r"^checked (\d+) wrong (\d+) rounds (\d+)")


class Guest:
    """A running guest, and what its console says."""

    def __init__(self, program):
        self.reports = []  # (time, MiB checked, wrong words, rounds)
        self.said = []
        self.ended = threading.Event()
        self.console, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                self.command(program, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.pid = self.process.pid
        threading.Thread(target=self.listen, daemon=True).start()

    @staticmethod
    def command(program, console):
        memory = []
        for node in OLD_NODES:
            memory += [
                "-object",
                f"memory-backend-ram,id=m{node},size={MIB_EACH}M,prealloc=on,host-nodes={node},policy=bind",
                "-numa",
                f"node,nodeid={node},memdev=m{node}",
            ]
        return (
            ["numactl", f"--cpunodebind={OLD_NODES[0]}", "--", "qemu-system-x86_64"]
            + ["-name", "guest,debug-threads=on", "-accel", "tcg,tb-size=32", "-cpu", "qemu64"]
            + ["-machine", "q35", "-nodefaults", "-display", "none", "-no-reboot"]
            + ["-m", f"{MIB_EACH * len(OLD_NODES)}M", *memory]
            + ["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"]
            + ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", program]
        )

    def listen(self):
        for text in self.console.makefile(errors="replace"):
            report = REPORT.match(text)
            if report:
                self.reports.append((time.monotonic(), *map(int, report.groups())))
            else:
                self.said.append(text.rstrip())
        self.ended.set()

    def last(self):
        if self.ended.is_set():
            raise DemoFailed("the guest has ended: " + " | ".join(self.said[-5:]))
        return self.reports[-1] if self.reports else (0, 0, 0, 0)

    def cpu(self):
        """The thread that is the virtual CPU."""
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            if (task / "comm").read_text().startswith("CPU 0/"):
                return int(task.name)
        raise DemoFailed("the guest's CPU is not to be found")

    def seen(self, start, end):
        """How long the guest took for each MiB that it checked between two moments."""
        times = [r[0] for r in self.reports]
        took = sorted(
            this - last for last, this in zip(times, times[1:]) if last < end and this > start
        )
        if not took:
            raise DemoFailed("the guest has told nothing")
        return took

    def end(self):
        self.console.sendall(b"\n")
        if not self.ended.wait(120) or "end" not in self.said:
            raise DemoFailed("the guest does not end")


def cpus_of(node):
    text = pathlib.Path(f"/sys/devices/system/node/node{node}/cpulist").read_text().strip()
    return {
        cpu
        for part in text.split(",")
        for cpu in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
    }


def ram(pid):
    """The policy of each of the guest's nodes, and its pages by node: what numa_maps says."""
    rows = []
    for row in pathlib.Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if " bind:" in row:
            pages = re.findall(r" N(\d+)=(\d+)", row)
            if sum(int(n) for _, n in pages) * 4 // 1024 >= MIB_EACH // 2:
                rows.append((row.split()[1], {int(node): int(n) for node, n in pages}))
    return sorted(rows)


def show_ram(pid):
    for policy, pages in ram(pid):
        where = ", ".join(f"{n} pages on node {node}" for node, n in sorted(pages.items()))
        line(f"    {policy}: {where}")


def placed(pid, nodes):
    """Whether each node of the guest lies on one of these alone, and is bound to it."""
    rows = ram(pid)
    return [(policy, set(pages)) for policy, pages in rows] == sorted(
        (f"bind:{node}", {node}) for node in nodes
    )


def demonstrate(args, scratch):
    plan = Plan(args.plan)
    plan.step("a guest of two nodes, bound to nodes 0 and 1, starts", 25)
    guest = Guest(args.program)
    # The host ends the line that it shows.
    time.sleep(1.5)
    try:
        return move(args, scratch, plan, guest)
    finally:
        guest.process.kill()
        guest.process.wait()


def wait_for_round(guest, number):
    """Wait until the guest has begun a round."""
    end = time.monotonic() + 200
    while guest.last()[3] < number:
        if time.monotonic() > end:
            raise DemoFailed("the guest does not get on: " + " | ".join(guest.said[-5:]))
        progress(f"{guest.last()[1]} MiB checked")
        time.sleep(0.5)
    progress()


def move(args, scratch, plan, guest):
    wait_for_round(guest, 1)
    pid, cpu = guest.pid, guest.cpu()
    line(f"qemu, process {pid}: the policy of each of its guest's nodes, and where it lies")
    show_ram(pid)
    if not placed(pid, OLD_NODES) or os.sched_getaffinity(cpu) != cpus_of(OLD_NODES[0]):
        raise DemoFailed("the guest is not where it was bound to")

    plan.step("the guest checks its memory; nothing moves", args.quiet)
    quiet = time.monotonic()
    wait(args.quiet, "it is measured")
    quiet_end = time.monotonic()

    plan.step("it moves while it goes on, its virtual CPU as well", 10)
    line(f"$ pagemigrate move -v --threads {pid} {MAP}")
    metrics = f"{scratch}/metrics"
    moving = time.monotonic()
    pagemigrate("move", "-v", "--threads", "--openmetrics", metrics, str(pid), MAP)
    moving_end = time.monotonic()
    moved, left = counts(metrics)
    line("\nwhat the kernel says of it now")
    show_ram(pid)
    if not placed(pid, NEW_NODES):
        raise DemoFailed("the guest's memory, or what it is bound to, is not where it should be")
    if os.sched_getaffinity(cpu) != cpus_of(NEW_NODES[0]):
        raise DemoFailed(f"the virtual CPU may run on {os.sched_getaffinity(cpu)}")
    line(f"    the virtual CPU: on the CPUs of node {NEW_NODES[0]}")

    plan.step("the guest checks all of it once more", 20)
    # The round that is under way began before the move had ended.
    wait_for_round(guest, guest.last()[3] + 2)
    line(f"{'':<16} {'MiB checked':>12} {'median':>10} {'longest pause':>15}")
    for name, start, end in (("nothing moves", quiet, quiet_end), ("it moves", moving, moving_end)):
        took = guest.seen(start, end)
        line(f"{name:<16} {len(took):>12} {ms(took[len(took) // 2]):>10} {ms(took[-1]):>15}")
    guest.end()
    _, checked, wrong, rounds = guest.reports[-1]
    line(f"{checked} MiB checked, all memory {rounds} times: {wrong} wrong words")

    if wrong:
        raise DemoFailed("memory of the guest is damaged")
    if moved < MIB_EACH * len(OLD_NODES) * 256 or left * 100 >= moved:
        raise DemoFailed(f"{moved} pages moved, {left} left behind")
    return f"demo: {moved} pages of a running guest moved, {left} left behind, data intact"


def main():
    parser = parser_of(__doc__)
    parser.add_argument("program", help="what the guest runs")
    parser.add_argument("--quiet", type=int, default=8, help="seconds measured without a move")
    run(demonstrate, parser.parse_args())


if __name__ == "__main__":
    main()
