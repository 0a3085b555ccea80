"""Locked files, waited for in a way that does not keep others from their work."""

import fcntl
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

# A block in which this thread waits and others may go on.
Idle = Callable[[], AbstractContextManager[None]]


def lock(fd: int, *, exclusive: bool = True, idle: Idle = nullcontext) -> None:
    """This open file has the lock (flock(2)); it goes when the file is closed. If somebody has it, waits in `idle`.

    Who holds the agent's turn gives it up there, so nobody waits for a lock and keeps its owner from working.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        with idle():
            fcntl.flock(fd, kind)
