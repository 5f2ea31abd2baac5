# SPDX-License-Identifier: MIT OR Apache-2.0
"""Brings the memory of a job back to the nodes of its CPUs.

Where a node was full, the kernel gave a job memory of another one, which stays there for
good, even when the job that filled the node has ended. So a batch manager calls this when a
job ends, for those that go on: slurm-epilog and pbs-epilogue.py do.
"""

import glob
import os

import pagemigrate

NODES = "/sys/devices/system/node"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def home_of(group):
    """The nodes of the CPUs that a control group may use."""
    allowed = read(f"{group}/cpuset.cpus.effective")
    cpus = set(pagemigrate.parse_nodes(allowed)) if allowed else set()
    nodes = pagemigrate.parse_nodes(read(f"{NODES}/has_memory"))
    lists = {node: read(f"{NODES}/node{node}/cpulist") for node in nodes}
    return [n for n in nodes if lists[n] and cpus & set(pagemigrate.parse_nodes(lists[n]))]


def way_home(home):
    """Each other node with memory, and the node of home that is nearest to it."""
    online = pagemigrate.parse_nodes(read(f"{NODES}/online"))
    pairs = {}
    for node in pagemigrate.parse_nodes(read(f"{NODES}/has_memory")):
        if node not in home:
            distances = read(f"{NODES}/node{node}/distance").split()
            far = dict(zip(online, map(int, distances)))
            pairs[node] = min(home, key=far.__getitem__)
    return pairs


def processes(folder):
    """The processes of a control group and of those below it."""
    pids = []
    for path, _, _ in os.walk(folder):
        try:
            pids += [int(line) for line in read(f"{path}/cgroup.procs").split()]
        except OSError:
            pass  # It has gone, or has threads only.
    return pids


def bring_home(group, parts=("",)):
    """Moves what a job has on other nodes. Its processes are in the parts of its group.

    Returns pages that moved and pages that stay. A node of home that is full takes
    nothing: those pages are where they were.
    """
    home = home_of(group)
    pairs = way_home(home) if home else {}
    moved = stayed = 0
    if not pairs:
        return moved, stayed
    with pagemigrate.Device() as device:
        for part in parts:
            for folder in glob.glob(os.path.join(group, part)):
                for pid in processes(folder):
                    try:
                        # The policies stay: the job has not changed its place.
                        result = device.move(pid, pairs, keep_policy=True)
                    except (pagemigrate.NoSuchProcess, pagemigrate.InvalidArgument):
                        continue  # It has ended, or its cpuset forbids it.
                    moved += result.moved + result.moved_fallback
                    stayed += result.left_behind
    return moved, stayed
