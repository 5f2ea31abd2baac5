#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Move a database between NUMA nodes while it serves, and check every record.

This half of the demonstration runs inside the virtual machine; scripts/demo
starts it. It prints what people want to see and writes the verdict to a file,
because the machine's kernel log still has to be looked at before the verdict
counts.
"""

import argparse
import array
import hashlib
import json
import multiprocessing
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

OLD_NODES = (0, 1)
NEW_NODES = (2, 3)
MAP = "0-1:2-3"
LIVE_BYTES = 200_000_000
BATCH = 64
PARTS = 3
CLIENTS = 2


class DemoFailed(Exception):
    """Something that the demonstration promises is not true."""


# ---------------------------------------------------------------- the data


def size_of(key):
    """2 to 14 KB, so that records lie in many of the allocator's classes."""
    return 2048 + key * 7919 % 12289


def record(key, version):
    """The contents of a record: all of it follows from its key and version."""
    seed = b"%d:%d:" % (key, version)
    return seed + hashlib.shake_128(seed).digest(size_of(key))


class Database:
    """A connection: as much of the protocol as this file needs."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(120)
        self.socket.connect(path)
        self.replies = self.socket.makefile("rb")

    def __call__(self, *words):
        """Send a command of bytes and numbers, return the reply."""
        words = [b"%d" % w if isinstance(w, int) else w for w in words]
        self.socket.sendall(
            b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
        )
        return self.reply()

    def reply(self):
        head = self.replies.readline()
        kind, rest = head[:1], head[1:].rstrip()
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self.replies.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise DemoFailed(f"the database answers: {head.decode(errors='replace').strip()}")


def load_part(path, keys):
    db = Database(path)
    for at in range(0, len(keys), BATCH):
        db(b"MSET", *(word for k in keys[at : at + BATCH] for word in (k, record(k, 0))))


def check_part(path, keys, versions, bad):
    db = Database(path)
    for at in range(0, len(keys), BATCH):
        part = keys[at : at + BATCH]
        for key, got in zip(part, db(b"MGET", *part), strict=True):
            if got != record(key, versions.get(key, 0)):
                bad.value += 1


def in_parts(work, count, *args):
    """Run work on all keys, in several processes; all of them must succeed."""
    jobs = [
        multiprocessing.Process(target=work, args=(args[0], range(i, count, PARTS), *args[1:]))
        for i in range(PARTS)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    if any(job.exitcode for job in jobs):
        raise DemoFailed(f"{work.__name__} did not finish")


# -------------------------------------------------------------- the clients


def client(path, number, count, stop, answer):
    """Read and rewrite records until told to stop; note how long each took.

    Each client has its own keys, so it knows what it must read.
    """
    db = Database(path)
    begun, took = array.array("d"), array.array("d")
    versions = {}
    wrong = 0
    step = number
    while not stop.is_set():
        # A full-period walk over this client's keys in no obvious order.
        step += 1
        key = (step * 7907 % (count // CLIENTS)) * CLIENTS + number
        write = step % 4 == 0
        if write:
            versions[key] = versions.get(key, 0) + 1
        expected = record(key, versions.get(key, 0))
        start = time.monotonic()
        if write:
            db(b"SET", key, expected)
            got = expected
        else:
            got = db(b"GET", key)
        took.append(time.monotonic() - start)
        begun.append(start)
        wrong += got != expected
    answer.send((begun, took, versions, wrong))


def pauses(samples, start, end):
    """How long the requests took that were under way between start and end."""
    return sorted(
        took
        for begun, all_took, _, _ in samples
        for start_of, took in zip(begun, all_took)
        if start_of < end and start_of + took > start
    )


# ------------------------------------------------------------- what is where


def pages_by_node(pid):
    """Base pages on each node, as the kernel itself reports them."""
    nodes = {}
    for row in pathlib.Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        scale = int(re.search(r"kernelpagesize_kB=(\d+)|$", row)[1] or 4) // 4
        for node, pages in re.findall(r" N(\d+)=(\d+)", row):
            nodes[int(node)] = nodes.get(int(node), 0) + int(pages) * scale
    return nodes


def on(nodes, which):
    return sum(nodes.get(n, 0) for n in which)


def numastat(pid):
    text = subprocess.run(["numastat", "-p", str(pid)], capture_output=True, text=True, check=True)
    for row in text.stdout.splitlines():
        if row.strip():
            line(row)


MARK = "==>"


def say(text):
    print(f"\n{MARK} {text}", flush=True)


def line(text):
    print("   ", text.rstrip(), flush=True)


def ms(seconds):
    return f"{seconds * 1000:.1f} ms"


# ------------------------------------------------------------------ the move


def pagemigrate(tool, *args):
    """Run the command, return (exit status, its JSON)."""
    done = subprocess.run([tool, *args], capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise DemoFailed(f"pagemigrate: exit status {done.returncode}: {done.stderr.strip()}")
    return done.returncode, json.loads(done.stdout)


LEFT = ("shared", "busy", "pinned", "unmovable", "no_memory")


def demonstrate(args, scratch):
    path = f"{scratch}/db.sock"
    server = subprocess.Popen(
        ["numactl", "--interleave=0,1", "--", "valkey-server", "--port", "0"]
        + ["--unixsocket", path, "--dir", scratch, "--logfile", f"{scratch}/log"]
        + ["--save", "", "--appendonly", "no"],
    )
    try:
        return serve_and_move(args, path, server.pid)
    finally:
        server.kill()
        server.wait()


def wait_for(path):
    for _ in range(300):
        try:
            return Database(path)(b"PING")
        except OSError:
            time.sleep(0.2)
    raise DemoFailed("the database does not answer")


def serve_and_move(args, path, pid):
    wait_for(path)
    say(f"A database: valkey-server, process {pid}, its memory interleaved over nodes 0 and 1")
    start = time.monotonic()
    in_parts(load_part, args.records, path)
    live = sum(size_of(k) for k in range(args.records))
    line(f"{args.records} records, {live / 1e6:.0f} MB, loaded in {time.monotonic() - start:.1f} s")
    if live < LIVE_BYTES:
        raise DemoFailed("not enough live data")
    numastat(pid)

    say(f"{CLIENTS} clients read and rewrite records; nothing moves")
    stop = multiprocessing.Event()
    pipes, clients = [], []
    for number in range(CLIENTS):
        here, there = multiprocessing.Pipe(False)
        pipes.append(here)
        clients.append(
            multiprocessing.Process(
                target=client, args=(path, number, args.records, stop, there), daemon=True
            )
        )
        clients[-1].start()
    # The first requests warm caches; they count for neither window.
    time.sleep(2)
    quiet = time.monotonic()
    time.sleep(args.quiet)
    quiet_end = time.monotonic()

    before = pages_by_node(pid)
    say(f"pagemigrate move {pid} {MAP}, while they go on")
    moving = time.monotonic()
    status, report = pagemigrate(args.tool, "move", "--json", str(pid), MAP)
    moving_end = time.monotonic()
    after = pages_by_node(pid)
    time.sleep(1)
    stop.set()
    if not all(pipe.poll(120) for pipe in pipes):
        raise DemoFailed("a client does not answer")
    samples = [pipe.recv() for pipe in pipes]
    for job in clients:
        job.join()

    result = report.get("result", report)
    moved = result["moved"] + result["moved_fallback"]
    left = sum(result[reason] for reason in LEFT)
    line(f"{moved} pages ({moved * 4096 / 1e6:.0f} MB) in {moving_end - moving:.2f} s")
    for reason in LEFT:
        if result[reason]:
            line(f"left behind, {reason}: {result[reason]}")

    say("Where its memory is now")
    numastat(pid)
    for old, new in zip(OLD_NODES, NEW_NODES):
        line(
            f"node {old}: {before.get(old, 0)} pages before, {after.get(old, 0)} after;"
            f" node {new}: {before.get(new, 0)} before, {after.get(new, 0)} after"
        )

    say("What the clients saw")
    requests = sum(len(s[0]) for s in samples)
    still = pauses(samples, quiet, quiet_end)
    during = pauses(samples, moving, moving_end)
    line(f"{requests} requests in all")
    for name, seen, span in (
        ("without a move", still, quiet_end - quiet),
        ("during the move", during, moving_end - moving),
    ):
        if not seen:
            raise DemoFailed(f"no request was answered {name}")
        line(
            f"{name:<16} {len(seen):6} requests in {span:5.2f} s,"
            f" median {ms(seen[len(seen) // 2])}, longest pause {ms(seen[-1])}"
        )

    say("Every record")
    versions = {}
    for sample in samples:
        versions.update(sample[2])
    wrong = sum(sample[3] for sample in samples)
    bad = multiprocessing.Value("i", 0)
    start = time.monotonic()
    in_parts(check_part, args.records, path, versions, bad)
    held = Database(path)(b"DBSIZE")
    line(
        f"{held} records read back in {time.monotonic() - start:.1f} s,"
        f" {sum(versions.values())} rewritten meanwhile: {bad.value} differ,"
        f" {wrong} wrong answers to the clients"
    )

    if bad.value or wrong or held != args.records:
        raise DemoFailed("records are damaged or missing")
    if not moved or left * 100 >= moved:
        raise DemoFailed(f"{moved} pages moved, {left} left behind")
    if bool(left) != (status == 3):
        raise DemoFailed(f"{left} pages left behind, but exit status {status}")
    # The module's word is not enough: the kernel must see the same. What the
    # server allocated during the move may lie on the old nodes.
    for old, new in zip(OLD_NODES, NEW_NODES):
        gone = before.get(old, 0) - after.get(old, 0)
        come = after.get(new, 0) - before.get(new, 0)
        if gone < 0.98 * before.get(old, 0) or come < 0.98 * before.get(old, 0):
            raise DemoFailed(f"numa_maps: node {old} lost {gone} pages, node {new} got {come}")
    return f"demo: {moved} pages moved, {left} left behind, data intact"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", required=True, help="the pagemigrate command")
    parser.add_argument("--verdict", required=True, help="file to write the last line to")
    parser.add_argument("--records", type=int, default=27_000)
    parser.add_argument("--quiet", type=float, default=8, help="seconds measured without a move")
    parser.add_argument("--colour", action="store_true")
    args = parser.parse_args()
    if args.colour:
        global MARK
        MARK = "\033[1m==>\033[0m"
    if args.records % CLIENTS:
        parser.error(f"--records must be a multiple of {CLIENTS}")
    with tempfile.TemporaryDirectory(prefix="demo.", dir="/run") as scratch:
        try:
            verdict = demonstrate(args, scratch)
        except (DemoFailed, OSError, subprocess.SubprocessError) as failed:
            sys.exit(f"demo: FAILED: {failed}")
    pathlib.Path(args.verdict).write_text(verdict + "\n")


if __name__ == "__main__":
    main()
