"""Network namespaces by file descriptor: opened once, checked, entered and left (setns(2), ioctl_ns(2)).

A path is resolved exactly once, so what a later step works on cannot be swapped for something else.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from cni_py.model.errors import NetnsError

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703

_OWN = "/proc/thread-self/ns/net"


def open_own() -> int:
    """A descriptor of the namespace that this thread is in: what a CNI plugin calls the host."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def is_network_namespace(fd: int) -> bool:
    """True if the descriptor is one of a network namespace."""
    try:
        return int(fcntl.ioctl(fd, _NS_GET_NSTYPE)) == CLONE_NEWNET
    except OSError:
        return False


def open_path(path: str) -> int:
    """A descriptor of the network namespace at `path` (CNI_NETNS). Raises NetnsError for anything else.

    O_NONBLOCK: a FIFO that somebody put there must not hang us; namespace files ignore it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NetnsError(
            f"failed to open netns {path!r}: {reason}",
            "is the container still running, and its namespace mounted here?",
        ) from None
    if not is_network_namespace(fd):
        os.close(fd)
        raise NetnsError(
            f"{path!r} is not a network namespace",
            "the runtime's mount of it may not be visible here: check mount propagation of /run/netns",
        )
    return fd


def same(fd_a: int, fd_b: int) -> bool:
    """True if both descriptors are of one namespace."""
    a, b = os.fstat(fd_a), os.fstat(fd_b)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def identity(fd: int) -> str:
    """`device:inode` of a namespace, unique among those alive on this boot."""
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}"


def own_identity() -> str:
    """The identity of the namespace that this thread is in; "" where /proc is hidden."""
    try:
        fd = open_own()
    except OSError:
        return ""
    try:
        return identity(fd)
    finally:
        os.close(fd)


@contextmanager
def entered(fd: int, home: int | None = None) -> Iterator[None]:
    """This thread is in the namespace `fd` inside the block, and back where it was after it.

    `home` is a descriptor of where it was, opened here if it is not given. Sockets opened inside stay in the namespace;
    /proc/sys/net is that of the thread that opens a file below it.
    """
    own = open_own() if home is None else home
    try:
        setns(fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(own, CLONE_NEWNET)
    finally:
        if home is None:
            os.close(own)


def setns(fd: int, kind: int) -> None:
    """This thread is in the namespace `fd` (setns(2), which Python has from 3.12 on only). Raises NetnsError."""
    if hasattr(os, "setns"):
        try:
            os.setns(fd, kind)
        except OSError as error:
            raise _refused(error.errno or 0) from None
    elif _setns()(fd, kind) != 0:
        raise _refused(ctypes.get_errno())


@cache
def _setns() -> Callable[[int, int], int]:
    function: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).setns
    return function


def _refused(number: int) -> NetnsError:
    hint = "CAP_SYS_ADMIN is needed: run as root" if number == errno.EPERM else ""
    return NetnsError(f"cannot enter the network namespace: {os.strerror(number)}", hint)
