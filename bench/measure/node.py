"""Namespaces to measure in: private ones for the whole run, a node's for each row, and the containers'."""

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cni_py.kernel.netns import CLONE_NEWNET, setns

_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
_PRIVATE = ("/run", "/var/lib")


def isolate() -> None:
    """This process has its own network and mounts, with nothing in /run and /var/lib; they go with it."""
    _call("unshare", CLONE_NEWNET | _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    for path in _PRIVATE:
        _call("mount", b"tmpfs", path.encode(), b"tmpfs", 0, b"mode=0755")


def make(names: Sequence[str]) -> None:
    """Network namespaces of these names."""
    commands = "".join(f"netns add {name}\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)


def make_node(name: str) -> str:
    """The name, of a new namespace that has loopback as a node does."""
    make([name])
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    return name


def enter(name: str) -> None:
    """This thread, and what it starts from now on, is in that namespace."""
    fd = os.open(Path("/run/netns", name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, CLONE_NEWNET)
    finally:
        os.close(fd)


def _call(name: str, *args: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
