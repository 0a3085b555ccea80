"""Sysctls of the network namespace that the thread is in: /proc/sys/net is that of whoever opens a file below it."""

import os
from pathlib import Path


def read_sysctl(key: str) -> str | None:
    """The value of a sysctl of this thread's namespace, one blank between words; None if there is no such file."""
    try:
        return " ".join(Path("/proc/sys", key).read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return None


def write_sysctl(key: str, value: str) -> None:
    """A sysctl of this thread's namespace has the value. Raises OSError."""
    fd = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
