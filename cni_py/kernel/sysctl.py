"""Sysctls of the network namespace that the thread is in: /proc/sys/net is that of whoever opens a file below it."""

import os
from dataclasses import replace

from cni_py.model.net import Sysctl

_MAX_BYTES = 4096


def read_sysctl(key: str) -> str | None:
    """The value of a sysctl of this thread's namespace, one blank between words; None if there is no such file."""
    try:
        fd = os.open(f"/proc/sys/{key}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return " ".join(os.read(fd, _MAX_BYTES).decode("ascii", "replace").split())
    except OSError:
        return None
    finally:
        os.close(fd)


def seen_sysctl(wanted: Sysctl) -> Sysctl | None:
    """It as it is in this thread's namespace; None if it is required and not there.

    One that is not required and not there is as it should be.
    """
    value = read_sysctl(wanted.key)
    if value is None:
        return None if wanted.required else wanted
    return wanted if value == wanted.value else replace(wanted, value=value)


def write_sysctl(key: str, value: str) -> None:
    """A sysctl of this thread's namespace has the value. Raises OSError."""
    fd = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
