"""What policies dropped, or would have: read from the kernel, named by pods, told in the log, kept for who asks.

The kernel sends some of the packets (`policy.table`: 20 a second) and counts all, by flow, in its own sets.
"""

import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cni_py.kernel.nflog import Logged, Nflog
from cni_py.model.policy import PROTOCOL_NAMES, Address, Direction
from cni_py.policy.table import LOG_BYTES, NFLOG_GROUP, PREFIXES

_KEPT = 1000
_LINES_PER_SECOND = 10
_LOG = logging.getLogger("cni_py.policy")
_KINDS = {prefix: kind for kind, prefix in PREFIXES.items()}

# (direction, the address of the pod that was asked) to (its name, the names of the policies that restrict it).
Naming = Callable[[Direction, Address], tuple[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Drop:
    """One packet. `time`: seconds since the epoch; `number` grows; pods are NAMESPACE/NAME, "" for no pod's address.

    `policies` are those that restrict the pod that was asked: the source's for egress, the destination's for ingress.
    """

    number: int
    time: float
    direction: Direction
    audit: bool
    source: str
    source_pod: str
    source_port: int
    destination: str
    destination_pod: str
    protocol: str
    port: int
    policies: tuple[str, ...]

    def line(self) -> str:
        """For the log."""
        what = "would be denied" if self.audit else "denied"
        port = f" {self.port}" if self.port else ""
        ends = f"{self.source_pod or self.source} -> {self.destination_pod or self.destination}"
        return f"{what}: {ends} {self.protocol}{port}, {self.direction}, by {', '.join(self.policies) or 'no policy'}"


class Drops:
    """A thread. `told` gets each drop. Raises KernelError where the kernel cannot log."""

    def __init__(self, naming: Naming, told: Callable[[Drop], None]) -> None:
        self._naming, self._told = naming, told
        self._log = Nflog(NFLOG_GROUP, LOG_BYTES)
        self._guard = threading.Lock()
        self._kept: deque[Drop] = deque(maxlen=_KEPT)
        self._numbers = itertools.count(1)
        self._second, self._lines = 0, 0
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="drops", daemon=True)

    def start(self) -> None:
        """From now on it reads."""
        self._thread.start()

    def stop(self) -> None:
        """The thread has ended."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._log.close()

    def since(self, number: int) -> list[Drop]:
        """Those after that number that are still kept, the oldest first."""
        with self._guard:
            return [one for one in self._kept if one.number > number]

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._log, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            poll.poll()
            with suppress(BlockingIOError):
                os.eventfd_read(self._stop)
                return
            for logged in self._log.read():
                self._take(logged)

    def _take(self, logged: Logged) -> None:
        direction, audit = _KINDS.get(logged.prefix, ("ingress", False))
        flow = logged.flow
        asked, other = (flow.source, flow.destination) if direction == "egress" else (flow.destination, flow.source)
        (pod, policies), (peer, _) = self._naming(direction, asked), self._naming(direction, other)
        source, destination = (pod, peer) if direction == "egress" else (peer, pod)
        drop = Drop(
            next(self._numbers),
            round(time.time(), 3),
            direction,
            audit,
            str(flow.source),
            source,
            logged.source_port,
            str(flow.destination),
            destination,
            PROTOCOL_NAMES.get(flow.protocol, str(flow.protocol)),
            flow.port,
            policies,
        )
        with self._guard:
            self._kept.append(drop)
        self._told(drop)
        self._say(drop)

    def _say(self, drop: Drop) -> None:
        second = int(drop.time)
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= _LINES_PER_SECOND:
            _LOG.info("%s", drop.line())
