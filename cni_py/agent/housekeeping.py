"""When the agent looks after the node by itself: at its start, at hints of the kernel, and from time to time.

What it then does is `Upkeep`'s; here is only when. Hints of one moment are gathered, so that `nft flush ruleset`, which
is many, costs one look.
"""

import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Protocol

from cni_py.kernel.host_events import Hints, HostEvents
from cni_py.model.errors import CniPyError

AUDIT_SECONDS = 60.0  # what the kernel does not tell (a sysctl of one link) is found after this long
_GATHER_SECONDS = 0.05
_LOG = logging.getLogger("cni_py.agent")


class Upkeep(Protocol):
    """What is done. All methods take the turn themselves and raise CniPyError."""

    def replay(self) -> None:
        """Spooled DELs are carried out."""

    def collect(self) -> float:
        """What belongs to no living container for longer than the grace period is gone.

        Returns the seconds until the next thing that is dead now may go, infinity if there is none.
        """

    def mend(self, *, links: bool, firewall: bool) -> None:
        """What somebody took from the host's part of the attachments is back."""

    def ended(self, namespaces: set[int]) -> None:
        """The network namespaces with these ids are no more."""

    def forget_namespaces(self) -> None:
        """Which namespaces live is not known any more."""

    def concerned(self, links: set[str]) -> bool:
        """True if an attachment that is still recorded had one of these links of the host, which went."""

    def learn(self, name: str) -> None:
        """The namespace of the other end of that link of the host is one that lives."""


class Housekeeping:
    """A thread that lasts as long as the agent."""

    def __init__(self, upkeep: Upkeep, events: HostEvents) -> None:
        self._upkeep = upkeep
        self._events = events
        self._stopped = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._added: deque[str] = deque()
        self._collect_in = AUDIT_SECONDS
        events.watch(self._wake)
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """All is looked at once, before the first call is taken; then the thread goes on."""
        self._collect_in = self._round(Hints(links=True, firewall=True))
        self._thread.start()

    def added(self, host_ifname: str) -> None:
        """A container was attached by that link. Costs its ADD nothing: what is to be learnt of it is learnt later."""
        self._added.append(host_ifname)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """The thread has ended."""
        self._stopped.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()

    def _run(self) -> None:
        audit, collect = time.monotonic() + AUDIT_SECONDS, time.monotonic() + self._collect_in
        while True:
            self._events.wait(min(audit, collect) - time.monotonic())
            if self._stopped.wait(_GATHER_SECONDS):  # a moment in which hints come together
                return
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            while self._added:
                self._upkeep.learn(self._added.popleft())
            hints = self._events.take()
            hints.settle()
            now = time.monotonic()
            if now >= audit:
                hints.links = hints.firewall = True
                audit = now + AUDIT_SECONDS
            if hints or now >= collect or self._upkeep.concerned(hints.removed):
                collect = now + max(self._round(hints), _GATHER_SECONDS)

    def _round(self, hints: Hints) -> float:
        """One look at everything that may need it; seconds until the next collection."""
        wait = AUDIT_SECONDS
        if hints.lost:
            self._upkeep.forget_namespaces()
        self._upkeep.ended(hints.dead)
        with _logging("replay the spool"):
            self._upkeep.replay()
        with _logging("collect what is dead"):
            wait = self._upkeep.collect()
        if hints.links or hints.firewall or hints.lost:
            with _logging("mend the node"):
                self._upkeep.mend(links=hints.links or hints.lost, firewall=hints.firewall or hints.lost)
        return wait


class _logging:  # noqa: N801  # reads as the statement that it is
    """An error inside is logged, and housekeeping goes on: the next round tries again."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, CniPyError):
            _LOG.warning("could not %s: %s; %s", self._what, error.message, error.details)
            return True
        if isinstance(error, Exception):
            _LOG.error("could not %s: unexpected %s: %s", self._what, type(error).__name__, error)
            return True
        return False
