"""A directory followed by a thread of its own: what is in it is read, and then what changes, until it is stopped."""

import os
import select
import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import closing
from pathlib import Path

from cni_py.cluster.inotify import Directory

_AGAIN_SECONDS = 1.0
# Many a program takes a file away before it puts the new one in its place: nothing is read before it has been quiet.
_QUIET_SECONDS = 0.05
_BUSY_SECONDS = 1.0  # but no longer than that
_DATA_LINK = "..data"  # what a mounted ConfigMap swaps when any of its files changes

Read = Callable[[AbstractSet[str] | None], None]


class Follower:
    """Calls `read` with the names of entries that may be others than before, with None for all of them.

    It raises OSError where the directory cannot be read; `trouble` is told why, and "" once it can be again.
    """

    def __init__(self, directory: Path, read: Read, trouble: Callable[[str], None]) -> None:
        self._directory = directory
        self._read = read
        self._trouble = trouble
        self._told = ""
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> None:
        """From now on the thread calls."""
        self._thread.start()

    def stop(self) -> None:
        """Nothing is called any more."""
        os.eventfd_write(self._stop, 1)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            try:
                with closing(Directory(str(self._directory))) as watch:
                    self._follow(watch)
                over = True
            except OSError as error:
                self._tell(f"cannot read the directory {self._directory}: {error.strerror}")
                over = self._is_over(_AGAIN_SECONDS)

    def _follow(self, watch: Directory) -> None:
        """Until it is over. Raises OSError once the directory cannot be read."""
        self._read(None)
        self._tell("")
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while self._stop not in (fd for fd, _ in poll.poll()):
            names = _settled(watch, poll)
            everything = names & {None, _DATA_LINK}
            self._read(None if everything else {name for name in names if name is not None})

    def _is_over(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _tell(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            self._trouble(reason)


def _settled(watch: Directory, poll: select.poll) -> set[str | None]:
    """All names that the directory tells until it is quiet, or somebody stops it."""
    names = set(watch.read())
    latest = time.monotonic() + _BUSY_SECONDS
    while watch.fileno() in (fd for fd, _ in poll.poll(_QUIET_SECONDS * 1000)) and time.monotonic() < latest:
        names |= set(watch.read())
    return names
