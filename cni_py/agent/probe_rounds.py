"""Whom to probe when, and what came of it: bookkeeping without sockets, threads or a clock of its own.

Each peer has its turn once an interval, at a moment that chance spread. The interval grows with the number of peers, so
that a node never sends more than a certain number of packets a second. Searches for a path's MTU are few at a time.
"""

import errno
import heapq
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cni_py.kernel.probe_socket import key, words
from cni_py.model.errors import CniPyError
from cni_py.model.overlay import Facts, Network, Node
from cni_py.overlay.liveness import Health, Sight, Track
from cni_py.overlay.path_sizes import PathSizes
from cni_py.overlay.probe_targets import Ends, senders, targets
from cni_py.overlay.probe_wire import BYTES, Probe, render

MOST_PER_SECOND = 250
ANSWER_SECONDS = 1.0
_PER_TURN = 2.2  # packets: one on the underlay, one through the tunnel, now and then a large one
_LARGE_EVERY = 6
_MOST_SEARCHES = 20
_GATHER_SECONDS = 0.02
_FRESH_TURNS = 3


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request, from where to where."""

    data: bytes
    version: int
    source: str
    target: str
    port: int
    token: int


@dataclass(eq=False, slots=True)
class _Peer:
    node: Node
    sight: Sight
    due: float
    turn: int = 0


@dataclass(frozen=True, slots=True)
class _Sent:
    peer: _Peer
    over: bool
    large: int  # bytes of the IP packet, 0 for a small probe
    probe: Probe
    target: str
    at: float


class Rounds:
    """Not for several threads at once, but for `health`.

    `heard_mtu` is what the kernel has heard of the path's MTU between two addresses; 0 if it cannot tell.
    """

    def __init__(self, seconds: float, heard_mtu: Callable[[Ends], int]) -> None:
        self._seconds, self._heard_mtu = seconds, heard_mtu
        self._patience = min(ANSWER_SECONDS, seconds)
        self._nodes: Mapping[str, Node] = {}
        self._peers: dict[str, _Peer] = {}  # those of them that can be probed
        self._senders: dict[str, tuple[str, bool]] = {}
        self._turns: list[tuple[float, str]] = []
        self._pending: dict[int, _Sent] = {}
        self._order: deque[int] = deque()
        self._searches: set[_Peer] = set()
        self._chance = random.Random()  # noqa: S311  # it spreads turns; tokens are of `secrets`
        self._last: tuple[Node, Network, Facts] | None = None

    @property
    def interval(self) -> float:
        """Seconds from one turn of a peer to the next."""
        return max(self._seconds, len(self._peers) * _PER_TURN / MOST_PER_SECOND)

    def adopt(self, own: Node, peers: Mapping[str, Node], network: Network, facts: Facts, now: float) -> None:
        """These are the peers now. What is known of a way that is still the same is kept."""
        same, nodes = self._last == (own, network, facts), self._nodes
        if same and len(nodes) == len(peers) and all(nodes.get(name) is node for name, node in peers.items()):
            return
        self._last, self._nodes = (own, network, facts), peers
        before, after, fresh = self._peers, {}, []
        for name, node in peers.items():
            known = before.get(name)
            if known is not None and same and known.node is node:
                after[name] = known
                continue
            made = self._made(own, node, network, facts)
            if made is None:
                continue
            if known is not None and known.sight.targets == made.targets:
                known.node = node
                after[name] = known
            else:
                fresh.append(name)
                after[name] = _Peer(node, made, 0.0)
        self._peers = after
        for name in fresh:
            self._put(name, now + self._chance.random() * self.interval)
        self._senders = {
            key(address): (name, over) for name, node in peers.items() for address, over in senders(node, network)
        }
        self._searches &= set(self._peers.values())

    def sender(self, address: str) -> str | None:
        """The name of the peer whose packets come from there."""
        found = self._senders.get(address)
        return found[0] if found is not None else None

    def asked(self, address: str, now: float) -> None:
        """A peer's request came from there."""
        name, over = self._senders[address]
        peer = self._peers.get(name)
        if peer is not None:
            (peer.sight.over if over else peer.sight.under).heard = now

    def next(self) -> float:
        """When something is due."""
        turn = self._turns[0][0] if self._turns else float("inf")
        oldest = self._pending.get(self._order[0]) if self._order else None
        return min(turn, oldest.at + self._patience if oldest is not None else turn)

    def due(self, now: float) -> Iterator[Outgoing]:
        """The requests to be sent now; each is either sent or given to `fault`."""
        while self._turns and self._turns[0][0] <= now + _GATHER_SECONDS:
            due, name = heapq.heappop(self._turns)
            peer = self._peers.get(name)
            if peer is None or peer.due != due:
                continue
            self._put(name, now + self.interval * self._chance.uniform(0.9, 1.1))
            yield from self._turn(peer, now)

    def answered(self, probe: Probe, address: str, now: float) -> Iterator[Outgoing] | None:
        """An answer came from there; what is to be sent next. None if nobody had asked for it."""
        sent = self._pending.get(probe.token)
        if sent is None or (sent.target, sent.probe.size, sent.probe.sequence) != (address, probe.size, probe.sequence):
            return None
        self._drop(probe.token)
        if sent.large:
            sent.peer.sight.sizes.arrived(sent.large)
        else:
            _track(sent).answered(now - sent.at)
        return self._search(sent.peer, now) if sent.peer in self._searches and sent.large else iter(())

    def fault(self, token: int, number: int, now: float, *, late: bool) -> Iterator[Outgoing]:
        """An error was told of that request, by others (`late`) or at once by this node's kernel."""
        sent = self._pending.get(token)
        if sent is None:
            return iter(())
        self._drop(token)
        if sent.large:
            return self._missed_large(sent, now)
        track, why = _track(sent), words(number)
        if number == errno.ECONNREFUSED:
            track.missed("refused", why)
        elif late and sent.over and sent.peer.sight.targets.asks:
            track.missed()  # nobody said its MAC: the tunnel is as silent as that
        elif late or number in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}:
            track.missed("unreachable", why)
        else:
            track.missed("unsent", why)
        return iter(())

    def expire(self, now: float) -> Iterator[Outgoing]:
        """What was not answered in time is lost; what is to be sent therefore."""
        while self._order:
            sent = self._pending.get(self._order[0])
            if sent is not None and now < sent.at + self._patience:
                return
            token = self._order.popleft()
            if sent is None:
                continue
            del self._pending[token]
            if sent.large:
                yield from self._missed_large(sent, now)
            else:
                _track(sent).missed()

    def health(self, now: float, name: str | None = None) -> list[Health]:
        """What is known of that peer, or of all. Any thread may ask."""
        known = self._peers
        found = known if name is None else {name: known[name]} if name in known else {}
        fresh = now - _FRESH_TURNS * self.interval - ANSWER_SECONDS
        return [_health(one, peer.sight, fresh) for one, peer in list(found.items())]

    def _made(self, own: Node, peer: Node, network: Network, facts: Facts) -> Sight | None:
        try:
            where = targets(own, peer, network, facts)
        except CniPyError:  # it is told where the state is planned
            return None
        if where is None:
            return None
        ends = where.over or where.under
        return Sight(where, PathSizes(where.mtu, ends.packet(BYTES)))

    def _put(self, name: str, due: float) -> None:
        self._peers[name].due = due
        heapq.heappush(self._turns, (due, name))

    def _turn(self, peer: _Peer, now: float) -> Iterator[Outgoing]:
        where, sizes = peer.sight.targets, peer.sight.sizes
        yield self._request(peer, where.under, 0, now, over=False)
        if where.over is not None:
            yield self._request(peer, where.over, 0, now, over=True)
        if _large(peer).passes:
            if sizes.suspicious or peer.turn % _LARGE_EVERY == 0:
                for size in sizes.check():
                    yield self._request(peer, where.over or where.under, size, now, over=where.over is not None)
            yield from self._search(peer, now)
        peer.turn += 1

    def _search(self, peer: _Peer, now: float) -> Iterator[Outgoing]:
        """The search goes on, or begins where few others are on."""
        where, sizes = peer.sight.targets, peer.sight.sizes
        size = sizes.step()
        if size is None:
            self._searches.discard(peer)
            if sizes.path is not None and sizes.lost is not None:
                sizes.told = 0 < self._heard_mtu(where.over or where.under) <= sizes.path
            return
        if peer not in self._searches and len(self._searches) >= _MOST_SEARCHES:
            return
        if any(sent.peer is peer and sent.large == size for sent in self._pending.values()):
            return
        self._searches.add(peer)
        yield self._request(peer, where.over or where.under, size, now, over=where.over is not None)

    def _missed_large(self, sent: _Sent, now: float) -> Iterator[Outgoing]:
        if not _large(sent.peer).passes:  # nothing passes, so this says nothing about sizes
            self._searches.discard(sent.peer)
            return iter(())
        sent.peer.sight.sizes.missed(sent.large)
        return self._search(sent.peer, now)

    def _request(self, peer: _Peer, ends: Ends, large: int, now: float, *, over: bool) -> Outgoing:
        payload = max(BYTES, ends.payload(large)) if large else BYTES
        probe = Probe("request", payload, peer.turn & 0xFFFFFFFF, secrets.randbits(64))
        target = key(ends.target)
        self._pending[probe.token] = _Sent(peer, over, large, probe, target, now)
        self._order.append(probe.token)
        return Outgoing(
            render(probe), ends.target.version, key(ends.source), target, peer.sight.targets.port, probe.token
        )

    def _drop(self, token: int) -> None:
        del self._pending[token]
        while self._order and self._order[0] not in self._pending:
            self._order.popleft()


def _track(sent: _Sent) -> Track:
    return sent.peer.sight.over if sent.over else sent.peer.sight.under


def _large(peer: _Peer) -> Track:
    """The way that large packets take."""
    return peer.sight.over if peer.sight.targets.over is not None else peer.sight.under


def _health(name: str, sight: Sight, fresh: float) -> Health:
    tracks = {"underlay": sight.under, **({"overlay": sight.over} if sight.targets.over is not None else {})}
    return Health(
        name,
        {way: track.rtt for way, track in tracks.items()},
        {way: track.loss for way, track in tracks.items()},
        sight.sizes.path,
        sight.diagnose(fresh),
    )
