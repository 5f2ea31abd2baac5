# SPDX-License-Identifier: MIT OR Apache-2.0
"""Move the pages of running processes between NUMA nodes.

Calls the device /dev/page_migrate, which page_migrate(4) describes:

    import pagemigrate

    with pagemigrate.Device() as device:
        for pid in pids:
            result = device.move(pid, pagemigrate.parse_map("0-1:2-3"))
            print(pid, result.moved, "moved,", result.left_behind, "left behind")

An open Device is one job: as long as the pairs stay the same, a page that it has
moved does not move again, whichever process it is met through. Counts are in base
pages. A call that could do nothing raises an Error; one that did some of its work
returns a Result, whose stop says why it returned.
"""

import ctypes
import errno
import os
from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

__version__ = "0.1.0"
__all__ = [
    "ANY",
    "DEVICE_PATH",
    "Device",
    "Error",
    "Info",
    "InvalidArgument",
    "NoDevice",
    "NoSuchNode",
    "NoSuchProcess",
    "NotAPidfd",
    "NotPermitted",
    "NotSupported",
    "OutOfMemory",
    "Result",
    "clear_mark",
    "get_mark",
    "parse_map",
    "parse_nodes",
    "set_mark",
]

DEVICE_PATH = "/dev/page_migrate"
#: In a pair: as the old node, every node that no other pair names; as the new
#: node, the nearest one with room.
ANY = -1
#: The length of a range that reaches to the end of the address space.
WHOLE = 2**64 - 1

Pairs = Union[Mapping[int, int], Iterable[Tuple[int, int]]]


class Error(OSError):
    """A call did nothing. errno says why, and so does the class."""


class NoDevice(Error):
    """The device cannot be opened: is the module loaded?"""


class NotPermitted(Error, PermissionError):
    """EPERM: the caller may not move or see this process's pages."""


class NoSuchProcess(Error, ProcessLookupError):
    """ESRCH: there is no such process, or it has exited."""


class NotAPidfd(Error):
    """EBADF: the descriptor is not a pidfd."""


class InvalidArgument(Error):
    """EINVAL: page_migrate(4) lists the reasons."""


class NoSuchNode(Error):
    """ENODEV: a new node is offline or without memory, or an old one cannot exist."""


class OutOfMemory(Error):
    """ENOMEM of a call that has no counts to report."""


class NotSupported(Error):
    """ENOTTY: not the device, or an older module that lacks the call."""


_CLASSES = {
    errno.EPERM: NotPermitted,
    errno.ESRCH: NoSuchProcess,
    errno.EBADF: NotAPidfd,
    errno.EINVAL: InvalidArgument,
    errno.ENODEV: NoSuchNode,
    errno.ENOMEM: OutOfMemory,
    errno.ENOTTY: NotSupported,
}


def _error(number: int, path: str) -> Error:
    return _CLASSES.get(number, Error)(number, os.strerror(number), path)


# The structures and numbers of <linux/page_migrate.h>.

_PIDFD = 1 << 0
_DRY_RUN = 1 << 1
_KEEP_POLICY = 1 << 2
_EXCLUSIVE = 1 << 3
_NEW_JOB = 1 << 4
_STRICT = 1 << 5
_FLAG_NAMES = ("PIDFD", "DRY_RUN", "KEEP_POLICY", "EXCLUSIVE", "NEW_JOB", "STRICT")


class _Info(ctypes.Structure):
    _fields_ = [
        ("max_nodes", ctypes.c_uint32),
        ("max_workers", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 6),
    ]


_COUNTS = (
    "moved",
    "moved_fallback",
    "already_moved",
    "in_place",
    "exempt",
    "shared",
    "busy",
    "pinned",
    "unmovable",
    "no_memory",
    "policies",
    "resume_va",
    "gone",
)


class _Result(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in (*_COUNTS, "reserved")]


class _Request(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("va_start", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("workers", ctypes.c_uint32),
        ("old_nodes", ctypes.c_uint64),
        ("new_nodes", ctypes.c_uint64),
        ("moved_by_pair", ctypes.c_uint64),
        ("max_pages", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 2),
        ("result", _Result),
    ]


class _Placement(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("va_start", ctypes.c_uint64),
        ("len", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("reserved0", ctypes.c_uint32),
        ("pages", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 3),
    ]


def _ioc(direction: int, number: int, argument: type) -> int:
    return direction << 30 | ctypes.sizeof(argument) << 16 | 0xB9 << 8 | number


_IOC_INFO = _ioc(2, 0, _Info)
_IOC_MIGRATE = _ioc(3, 1, _Request)
_IOC_PLACEMENT = _ioc(3, 2, _Placement)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Info:
    """What the module can do."""

    #: Node numbers are below this.
    max_nodes: int
    #: The largest number of workers of a call.
    max_workers: int
    #: The flags that the module knows, without their prefix PAGE_MIGRATE_.
    flags: Tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What a call did, in base pages. page_migrate(4) tells what each count means."""

    moved: int
    moved_fallback: int
    already_moved: int
    in_place: int
    exempt: int
    shared: int
    busy: int
    pinned: int
    unmovable: int
    no_memory: int
    policies: int
    resume_va: int
    gone: int
    #: Pages that left the old node of each pair, in the order of the pairs.
    moved_by_pair: Tuple[int, ...]
    #: "done"; "limit": max_pages were copied; "no room": some pages found none;
    #: "out of memory": the call had none for its own work; "interrupted": a signal.
    stop: str

    @property
    def left_behind(self) -> int:
        """Pages that should have moved and did not."""
        return self.shared + self.busy + self.pinned + self.unmovable + self.no_memory


class Device:
    """An open device: one job."""

    def __init__(self, path: str = DEVICE_PATH):
        self._path = path
        try:
            self._fd: Optional[int] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise NoDevice(e.errno, e.strerror, path) from None

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor, for /proc/self/fdinfo, which tells of a call at work."""
        if self._fd is None:
            raise ValueError("the device is closed")
        return self._fd

    def close(self) -> None:
        """Ends the job."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _ioctl(self, number: int, argument: ctypes.Structure) -> Tuple[int, int]:
        returned = _libc.ioctl(
            self.fileno(), ctypes.c_ulong(number), ctypes.byref(argument)
        )
        return returned, ctypes.get_errno() if returned < 0 else 0

    def info(self) -> Info:
        """What the module can do."""
        raw = _Info()
        _, number = self._ioctl(_IOC_INFO, raw)
        if number:
            raise _error(number, self._path)
        names = tuple(n for i, n in enumerate(_FLAG_NAMES) if raw.flags >> i & 1)
        return Info(raw.max_nodes, raw.max_workers, names)

    def move(
        self,
        pid: int,
        pairs: Pairs,
        *,
        start: int = 0,
        length: int = WHOLE,
        pidfd: bool = False,
        dry_run: bool = False,
        keep_policy: bool = False,
        exclusive: bool = False,
        new_job: bool = False,
        strict: bool = False,
        max_pages: int = 0,
        workers: int = 0,
    ) -> Result:
        """Moves pages of a process: what is on the old node of a pair goes to its new one.

        pid is a process by any of its threads, 0 for the caller, or, with pidfd=True,
        a descriptor. The names of the other arguments are those of page_migrate(4).
        """
        listed = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
        if not listed:
            raise _error(errno.EINVAL, self._path)
        nodes = ctypes.c_int32 * len(listed)
        try:
            old = nodes(*(_node(pair[0]) for pair in listed))
            new = nodes(*(_node(pair[1]) for pair in listed))
        except OverflowError:
            raise _error(errno.EINVAL, self._path) from None
        by_pair = (ctypes.c_uint64 * len(listed))()
        flags = (
            (_PIDFD if pidfd else 0)
            | (_DRY_RUN if dry_run else 0)
            | (_KEEP_POLICY if keep_policy else 0)
            | (_EXCLUSIVE if exclusive else 0)
            | (_NEW_JOB if new_job else 0)
            | (_STRICT if strict else 0)
        )
        raw = _Request(
            pid=pid,
            flags=flags,
            va_start=start,
            len=length,
            count=len(listed),
            workers=workers,
            old_nodes=ctypes.addressof(old),
            new_nodes=ctypes.addressof(new),
            moved_by_pair=ctypes.addressof(by_pair),
            max_pages=max_pages,
        )
        _, number = self._ioctl(_IOC_MIGRATE, raw)
        result = raw.result
        if number == errno.EINTR:
            stop = "interrupted"
        elif number == errno.ENOMEM:
            stop = "no room" if result.no_memory else "out of memory"
        elif number:
            raise _error(number, self._path)
        elif 0 < max_pages <= result.moved + result.moved_fallback:
            stop = "limit"
        else:
            stop = "done"
        counts = {name: getattr(result, name) for name in _COUNTS}
        return Result(**counts, moved_by_pair=tuple(by_pair), stop=stop)

    def placement(
        self,
        pid: int,
        *,
        start: int = 0,
        length: int = WHOLE,
        pidfd: bool = False,
    ) -> Dict[int, int]:
        """Pages of a process on each node, without the nodes that have none."""
        count = self.info().max_nodes
        pages = (ctypes.c_uint64 * count)()
        raw = _Placement(
            pid=pid,
            flags=_PIDFD if pidfd else 0,
            va_start=start,
            len=length,
            count=count,
            pages=ctypes.addressof(pages),
        )
        _, number = self._ioctl(_IOC_PLACEMENT, raw)
        if number:
            raise _error(number, self._path)
        return {node: n for node, n in enumerate(pages) if n}


def _node(number: int) -> int:
    if not -(2**31) <= number < 2**31:
        raise OverflowError(number)
    return number


def parse_nodes(text: str) -> List[int]:
    """The nodes of a list such as "0-3,5", in the order in which it names them."""
    nodes: List[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            numbers = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise ValueError(f"'{text}' is not a list of nodes") from None
        if not numbers:
            raise ValueError(f"'{part}' counts downwards")
        nodes.extend(numbers)
    return nodes


def parse_map(text: str) -> List[Tuple[int, int]]:
    """The pairs of maps such as "0-1:2-3" or "0:1 1:0".

    A single new node serves all old ones, "any" is ANY on either side, and "all"
    is ANY on the left one.
    """
    pairs: List[Tuple[int, int]] = []
    for word in text.replace(";", " ").split():
        left, colon, right = word.partition(":")
        if not colon:
            raise ValueError(f"'{word}' is not OLD:NEW")
        old: Sequence[int] = [ANY] if left in ("all", "any") else parse_nodes(left)
        new: Sequence[int] = [ANY] if right == "any" else parse_nodes(right)
        if len(new) == 1:
            new = list(new) * len(old)
        if len(new) != len(old):
            raise ValueError(f"'{word}' has {len(old)} old nodes and {len(new)} new ones")
        pairs.extend(zip(old, new))
    if not pairs:
        raise ValueError("there is no map")
    return pairs


def _attribute(trusted: bool) -> str:
    return "trusted.migrate" if trusted else "user.migrate"


def get_mark(path: Union[str, os.PathLike], *, trusted: bool = False) -> Optional[str]:
    """The mark of a file: "none", "lib", or None where it has none that means anything.

    Only who has CAP_SYS_ADMIN sees trusted marks.
    """
    try:
        value = os.getxattr(path, _attribute(trusted))
    except OSError as e:
        if e.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise
    text = value.decode("ascii", "replace").lower()
    return text if text in ("none", "lib") else None


def set_mark(path: Union[str, os.PathLike], mark: str, *, trusted: bool = False) -> None:
    """Marks a file: "none" keeps all pages mapped from it, "lib" those of its own."""
    if mark not in ("none", "lib"):
        raise ValueError(f"'{mark}' is not a mark: none or lib")
    os.setxattr(path, _attribute(trusted), mark.encode())


def clear_mark(path: Union[str, os.PathLike], *, trusted: bool = False) -> None:
    """Takes a file's mark away. That there is none is not an error."""
    try:
        os.removexattr(path, _attribute(trusted))
    except OSError as e:
        if e.errno != errno.ENODATA:
            raise
