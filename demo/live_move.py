#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Move a database between NUMA nodes while it serves, and check every record.

This half of the demonstration runs inside the virtual machine; scripts/demo
starts it. It prints what people want to see and writes the verdict to a file,
because the machine's kernel log still has to be looked at before the verdict
counts.
"""

import array
import hashlib
import multiprocessing
import socket
import subprocess
import time

from stage import (
    DemoFailed,
    Plan,
    counts,
    line,
    ms,
    pagemigrate,
    pages_by_node,
    parser_of,
    progress,
    run,
    wait,
)

OLD_NODES = (0, 1)
NEW_NODES = (2, 3)
MAP = "0-1:2-3"
LIVE_BYTES = 200_000_000
BATCH = 64
PARTS = 3
CLIENTS = 2


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


def load_part(path, keys, done):
    db = Database(path)
    for at in range(0, len(keys), BATCH):
        part = keys[at : at + BATCH]
        db(b"MSET", *(word for k in part for word in (k, record(k, 0))))
        with done.get_lock():
            done.value += len(part)


def check_part(path, keys, done, versions, bad):
    db = Database(path)
    for at in range(0, len(keys), BATCH):
        part = keys[at : at + BATCH]
        for key, got in zip(part, db(b"MGET", *part), strict=True):
            if got != record(key, versions.get(key, 0)):
                with bad.get_lock():
                    bad.value += 1
        with done.get_lock():
            done.value += len(part)


def in_parts(work, count, path, *args):
    """Run work on all keys, in several processes; all of them must succeed."""
    done = multiprocessing.Value("i", 0)
    jobs = [
        multiprocessing.Process(target=work, args=(path, range(i, count, PARTS), done, *args))
        for i in range(PARTS)
    ]
    for job in jobs:
        job.start()
    while any(job.is_alive() for job in jobs):
        progress(f"{done.value} of {count} records")
        time.sleep(0.5)
    progress()
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


# ------------------------------------------------------------------ the move


def demonstrate(args, scratch):
    path = f"{scratch}/db.sock"
    server = subprocess.Popen(
        ["numactl", "--interleave=0,1", "--", "valkey-server", "--port", "0"]
        + ["--unixsocket", path, "--dir", scratch, "--logfile", f"{scratch}/log"]
        + ["--save", "", "--appendonly", "no"],
    )
    try:
        return serve_and_move(args, scratch, path, server.pid)
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


def serve_and_move(args, scratch, path, pid):
    wait_for(path)
    plan = Plan(args.plan)
    plan.step("a database, on nodes 0 and 1", 14)
    # The host ends the line that it shows.
    time.sleep(1.5)
    in_parts(load_part, args.records, path)
    live = sum(size_of(k) for k in range(args.records))
    line(f"valkey-server, process {pid}: {args.records} records, {live / 1e6:.0f} MB\n")
    if live < LIVE_BYTES:
        raise DemoFailed("not enough live data")
    line(f"$ pagemigrate show {pid}")
    pagemigrate("show", str(pid))

    plan.step(f"{CLIENTS} clients read and rewrite; nothing moves", 10)
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
    wait(2, "they begin")
    quiet = time.monotonic()
    wait(args.quiet, "they are measured")
    quiet_end = time.monotonic()

    before = pages_by_node(pid)
    plan.step("it moves while they go on", 8)
    line(f"$ pagemigrate move -v {pid} {MAP}")
    metrics = f"{scratch}/metrics"
    moving = time.monotonic()
    status = pagemigrate("move", "-v", "--openmetrics", metrics, str(pid), MAP)
    moving_end = time.monotonic()
    moved, left = counts(metrics)
    after = pages_by_node(pid)
    wait(1, "the clients end")
    stop.set()
    if not all(pipe.poll(120) for pipe in pipes):
        raise DemoFailed("a client does not answer")
    samples = [pipe.recv() for pipe in pipes]
    for job in clients:
        job.join()

    plan.step("what the clients saw", 1)
    still = pauses(samples, quiet, quiet_end)
    during = pauses(samples, moving, moving_end)
    line(f"{'':<16} {'requests':>10} {'median':>10} {'longest pause':>15}")
    for name, seen in (("nothing moves", still), ("it moves", during)):
        if not seen:
            raise DemoFailed(f"no request was answered: {name}")
        line(f"{name:<16} {len(seen):>10} {ms(seen[len(seen) // 2]):>10} {ms(seen[-1]):>15}")

    plan.step("every record is read back", 12)
    versions = {}
    for sample in samples:
        versions.update(sample[2])
    wrong = sum(sample[3] for sample in samples)
    bad = multiprocessing.Value("i", 0)
    in_parts(check_part, args.records, path, versions, bad)
    held = Database(path)(b"DBSIZE")
    line(f"{held} records, {sum(versions.values())} rewritten since: {bad.value} differ")
    line(f"{sum(len(s[0]) for s in samples)} requests of the clients: {wrong} wrong answers")

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
    parser = parser_of(__doc__)
    parser.add_argument("--records", type=int, default=27_000)
    parser.add_argument("--quiet", type=float, default=8, help="seconds measured without a move")
    args = parser.parse_args()
    if args.records % CLIENTS:
        parser.error(f"--records must be a multiple of {CLIENTS}")
    run(demonstrate, args)


if __name__ == "__main__":
    main()
