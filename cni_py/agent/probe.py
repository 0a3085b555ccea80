"""The prober: one thread that asks each peer's agent whether packets pass, and answers those that ask.

Only peers are answered, by their addresses, and never with more bytes than they sent. Whatever floods the port costs
some hundred packets' work a second; the kernel drops the rest.
"""

import errno
import math
import os
import select
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from cni_py.agent.conditions import Conditions
from cni_py.agent.peer_metrics import Peers
from cni_py.agent.probe_rounds import Outgoing, Rounds
from cni_py.kernel.probe_socket import ProbeSocket, Received, heard_mtu, words
from cni_py.model.overlay import Facts, Network, Node
from cni_py.overlay.liveness import Health
from cni_py.overlay.probe_wire import answer_to, parse, quoted, render

_RETRY_SECONDS = 5.0
_WINDOW_SECONDS, _MOST_A_WINDOW = 0.1, 150
_NOTHING: Mapping[str, Any] = {"rtt_ms": None, "loss": None, "path_mtu": None, "problem": "", "probed": []}
_TAKEN, _NO_SOCKET = errno.EADDRINUSE, errno.EAFNOSUPPORT


class Prober:
    """On that UDP port, each peer every so many seconds if they are not too many; port 0 is no probing at all.

    `ignored` counts datagrams that came to nothing: of strangers, malformed ones, answers that nobody had asked for.
    """

    def __init__(self, port: int, seconds: float, conditions: Conditions) -> None:
        self._port, self._conditions = port, conditions
        self._rounds = Rounds(seconds, lambda ends: heard_mtu(ends.source, ends.target))
        self.ignored = {"stranger": 0, "malformed": 0, "unasked": 0}
        self._guard = threading.Lock()
        self._said: tuple[Node, Mapping[str, Node], Network, Facts] | None = None
        self._sockets: dict[int, ProbeSocket] = {}
        self._open_at = self._look_at = 0.0
        self._stopped = threading.Event()
        self._window, self._count = 0.0, 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self) -> None:
        """It asks and answers, as soon as it knows the peers."""
        if self._port:
            self._thread.start()

    def stop(self) -> None:
        """The port is free."""
        self._stopped.set()
        os.eventfd_write(self._wake, 1)
        if self._thread.ident is not None:
            self._thread.join()

    def peers(self, own: Node, peers: Mapping[str, Node], network: Network, facts: Facts) -> None:
        """These are who to ask and to answer now. Any thread may say so, and does not wait."""
        with self._guard:
            self._said = own, peers, network, facts
        os.eventfd_write(self._wake, 1)

    def of(self, name: str) -> Mapping[str, Any]:
        """What status tells of that peer: as pods would have it, so by the tunnel if there is one."""
        found = self._rounds.health(time.monotonic(), name)
        if not found:
            return _NOTHING
        one = found[0]
        way = "overlay" if "overlay" in one.rtt else "underlay"
        rtt, loss = one.rtt[way], one.loss[way]
        return {
            "rtt_ms": None if rtt is None else round(rtt * 1e3, 3),
            "loss": None if loss is None else round(loss, 3),
            "path_mtu": one.path_mtu,
            "problem": one.problem,
            "probed": list(one.rtt),
        }

    def health(self) -> list[Health]:
        """All peers that are probed. Any thread may ask."""
        return self._rounds.health(time.monotonic())

    def report(self) -> Peers:
        """What metrics tell. Any thread may ask."""
        return Peers(self.health(), dict(self.ignored))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._once()
            except Exception as error:  # noqa: BLE001  # a bug of ours is no reason to leave others unanswered
                self._conditions.set("probes", f"unexpected {type(error).__name__}: {error}")
                self._stopped.wait(_RETRY_SECONDS)
        self._close()

    def _once(self) -> None:
        now = time.monotonic()
        with self._guard:
            said, self._said = self._said, None
        if said is not None:
            self._rounds.adopt(*said, now)
        if now >= self._open_at:
            self._open()
            self._open_at = math.inf if self._sockets else now + _RETRY_SECONDS
        if now >= self._look_at:
            self._look_at = now + self._rounds.interval
            self._tell()
        next_turn = self._rounds.next() if self._sockets else math.inf
        self._wait(min(next_turn, self._open_at, self._look_at) - now)
        for one in self._sockets.values():
            self._receive(one)
            for fault in one.faults():
                token = quoted(fault.data)
                if token is not None:
                    now = time.monotonic()
                    self._send(self._rounds.fault(token, fault.number, now, late=True))
        now = time.monotonic()
        self._send(self._rounds.expire(now))
        if self._sockets:
            self._send(self._rounds.due(now))

    def _open(self) -> None:
        """The sockets of the families that there are."""
        problem = ""
        for version in (4, 6):
            try:
                self._sockets[version] = ProbeSocket(version, self._port)
            except OSError as error:
                if version == 4 or not self._sockets or error.errno == _TAKEN:
                    problem = problem or (
                        f"UDP port {self._port} cannot be had for probes ({words(error.errno or 0)}): "
                        f"free it, or give another as `probePort`; peers are not probed until then"
                    )
        if problem:
            self._close()
        self._conditions.set("probe port", problem)

    def _close(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._sockets = {}

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._count < _MOST_A_WINDOW:
            for one in self._sockets.values():
                poll.register(one, select.POLLIN)
        else:  # what is above is left to the kernel's queue, and then dropped
            seconds = min(seconds, _WINDOW_SECONDS)
        for fd, _ in poll.poll(math.ceil(max(0.0, min(seconds, 3600)) * 1e3)):
            if fd == self._wake:
                os.eventfd_read(self._wake)

    def _receive(self, one: ProbeSocket) -> None:
        now = time.monotonic()
        if now >= self._window + _WINDOW_SECONDS:
            self._window, self._count = now, 0
        while self._count < _MOST_A_WINDOW:
            got = one.receive()
            if got is None:
                return
            self._count += 1
            self._take(one, got, time.monotonic())

    def _take(self, one: ProbeSocket, got: Received, now: float) -> None:
        if self._rounds.sender(got.sender) is None:
            self.ignored["stranger"] += 1
            return
        probe = parse(got.data)
        if probe is None:
            self.ignored["malformed"] += 1
        elif probe.kind == "request":
            one.send(render(answer_to(probe)), got.to, got.sender, got.port)
            self._rounds.asked(got.sender, now)
        else:
            following = self._rounds.answered(probe, got.sender, now)
            if following is None:
                self.ignored["unasked"] += 1
            else:
                self._send(following)

    def _send(self, requests: Iterable[Outgoing]) -> None:
        """What this node's kernel would not send is a fault, from which more may follow: a search ends by itself."""
        for one in requests:
            own = self._sockets.get(one.version)
            number = own.send(one.data, one.source, one.target, one.port) if own is not None else _NO_SOCKET
            if number:
                self._send(self._rounds.fault(one.token, number, time.monotonic(), late=False))

    def _tell(self) -> None:
        """Peers with a problem are one condition, so that a node that is cut off logs a line and not thousands."""
        found = self.health()
        wrong = [one for one in found if one.problem]
        shown = "; ".join(f"{one.name}: {one.problem}" for one in wrong[:3]) + ("; ..." if len(wrong) > 3 else "")
        self._conditions.set("probes", f"{len(wrong)} of {len(found)} peers: {shown}" if wrong else "")
