"""The kernel's word that somebody else changed what the overlay stands on: its links and all on them, or the underlay.

What we change ourselves is not passed on by the filter in the kernel (classic BPF), nor what pods bring about: an ADD
wakes nobody here. Links are told apart by index, so the filter is made anew when those change. Of neighbours that are
deleted and of all forwarding entries the kernel does not say who did it: what we are about to change is `expect`ed.
Of links that learn, only what is permanent counts: the rest comes and goes with pods.
"""

import select
import struct
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from cni_py.kernel import bpf, neighbours, nft_wire, rtnl
from cni_py.kernel.listener import Listener
from cni_py.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE
from cni_py.model.net import PROTOCOL_ATTACHMENT, PROTOCOL_OVERLAY
from cni_py.model.ops import DelFdb, DelNeighbour, Op, SetFdb, SetNeighbour

_LINK, _NEIGH, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV4_CONF, _IPV6_CONF = (
    1,
    3,
    5,
    7,
    9,
    11,
    24,
    25,
)
_NFTABLES = 7
_NEWADDR, _DELADDR, _NEWROUTE, _NEWNETCONF = 20, 21, 24, 80
_OF_A_LINK = frozenset({rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK, _NEWADDR, _DELADDR})
_PROTOCOL_KERNEL = 2
_NUD_PERMANENT = 0x80
_GUARD = "cnipy_guard"


@dataclass(frozen=True, slots=True)
class Foreign:
    """What somebody did. `drift`: to what is ours; `underlay`: to what leads to the other nodes."""

    drift: bool = False
    underlay: bool = False

    def __bool__(self) -> bool:
        return self.drift or self.underlay


class OverlayEvents:
    """Listens in the namespace in which it is made. `route` and `nft` are the ports of our own sockets."""

    def __init__(self, route: int, nft: int) -> None:
        self._own = route
        groups = (_LINK, _NEIGH, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV4_CONF, _IPV6_CONF)
        self._route = Listener(NETLINK_ROUTE, groups, _filter(route, ()))
        self._nft: Listener | None = None
        with suppress(OSError):  # a kernel without nftables, which then cannot be flushed
            self._nft = Listener(NETLINK_NETFILTER, (_NFTABLES,), [*bpf.not_from([nft]), bpf.PASSED])
        self._expected: set[neighbours.Word] = set()
        self._ours: frozenset[int] = frozenset()
        self._underlay: frozenset[int] = frozenset()
        self._learning = False
        self._poll = select.poll()
        for one in (self._route, self._nft):
            if one is not None:
                self._poll.register(one, select.POLLIN)

    def close(self) -> None:
        """Nothing is heard any more."""
        for one in (self._route, self._nft):
            if one is not None:
                one.close()

    def watch(self, fd: int) -> None:
        """`wait` also returns when that descriptor can be read."""
        self._poll.register(fd, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Something was told, or the time is over."""
        self._poll.poll(max(0, min(int(seconds * 1000) + 1, 1 << 30)))

    def links(self, ours: Iterable[int], underlay: Iterable[int], *, learning: bool = False) -> None:
        """From now on these are the overlay's links, which may be `learning`, and those that lead to other nodes.

        By index. As long as there is no underlay, every link that comes may be it.
        """
        now, below = frozenset(ours), frozenset(underlay)
        if (now, below, learning) != (self._ours, self._underlay, self._learning):
            self._ours, self._underlay, self._learning = now, below, learning
            self._route.pass_only(_filter(self._own, now | below, learning=learning))

    def expect(self, ops: Iterable[Op]) -> None:
        """These changes are about to be made by us: what the next `take` finds of them was not somebody else.

        Of the very same only: who undoes at once what we did is heard.
        """
        for op in ops:
            match op:
                case SetNeighbour(one) | SetFdb(one):
                    self._expected.add(neighbours.word_of(neighbours.RTM_NEWNEIGH, one))
                case DelNeighbour(one) | DelFdb(one):
                    self._expected.add(neighbours.word_of(neighbours.RTM_DELNEIGH, one))

    def take(self) -> Foreign:
        """What was told since the last call."""
        drift = underlay = False
        expected, self._expected = self._expected, set()
        for kind, payload in self._route.read():
            match kind:
                case neighbours.RTM_NEWNEIGH | neighbours.RTM_DELNEIGH:
                    ours = struct.unpack_from("=i", payload, 4)[0] in self._ours
                    drift |= ours and neighbours.word(kind, payload) not in expected
                case rtnl.RTM_NEWLINK if rtnl.is_of_features(payload):
                    pass  # of a bridge when a port comes or goes, and nothing that we ask for
                case _ if kind in _OF_A_LINK:
                    index = struct.unpack_from("=I", payload, 4)[0]
                    drift |= index in self._ours
                    underlay |= index not in self._ours
                case _ if kind in {_NEWROUTE, rtnl.RTM_DELROUTE}:
                    drift |= payload[5] == PROTOCOL_OVERLAY
                    underlay |= payload[5] != PROTOCOL_OVERLAY
                case _:  # a sysctl of the whole namespace
                    drift = True
        if self._nft is not None:
            drift |= _GUARD in {nft_wire.deleted_from(*told) for told in self._nft.read()}
        for source in (self._route, self._nft):
            if source is not None and source.overflowed():
                drift = underlay = True
        return Foreign(drift, underlay)


def _filter(own: int, links: Collection[int], *, learning: bool = False) -> list[bpf.Instruction]:
    """Pass what others did: to these links (to any, if there are none), to routes that may be ours or lead to nodes."""
    matching = [step for index in sorted(links) for step in ((bpf.EQUAL, 0, 1, bpf.word(index)), bpf.PASSED)]
    by_index = [(bpf.LOAD_WORD, 0, 0, 20), *matching, bpf.DROPPED if links else bpf.PASSED]
    by_protocol = [
        (bpf.LOAD_BYTE, 0, 0, 21),
        *((bpf.EQUAL, 0, 1, _PROTOCOL_KERNEL), bpf.DROPPED),
        *((bpf.EQUAL, 0, 1, PROTOCOL_ATTACHMENT), bpf.DROPPED),
        bpf.PASSED,
    ]
    by_whole = [
        (bpf.LOAD_WORD, 0, 0, 24),
        (bpf.EQUAL, 0, 1, 0xFFFFFFFF),
        bpf.PASSED,
        bpf.DROPPED,
    ]  # NETCONFA_IFINDEX is -1
    by_state = [(bpf.LOAD_HALF, 0, 0, 24), (bpf.ANY_BIT, 1, 0, bpf.half(_NUD_PERMANENT)), bpf.DROPPED, *by_index]
    beyond = len(by_index), len(by_index) + len(by_protocol), len(by_index) + len(by_protocol) + len(by_whole)
    kinds = [(_NEWROUTE, beyond[0]), (rtnl.RTM_DELROUTE, beyond[0]), (_NEWNETCONF, beyond[1])]
    if learning:
        kinds += [(neighbours.RTM_NEWNEIGH, beyond[2]), (neighbours.RTM_DELNEIGH, beyond[2])]
    tests: list[bpf.Instruction] = []
    for number, (kind, target) in enumerate(kinds):
        left = 2 * (len(kinds) - number - 1)
        tests += [(bpf.EQUAL, 0, 1, bpf.half(kind)), (bpf.JUMP, 0, 0, left + target)]
    return [
        *bpf.not_from([own]),
        bpf.TYPE,
        *tests,
        *by_index,
        *by_protocol,
        *by_whole,
        *(by_state if learning else []),
    ]
