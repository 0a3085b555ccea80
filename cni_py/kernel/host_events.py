"""The kernel's word that something was taken away from the host's namespace: a link, a route, a sysctl, nftables.

Most of what the kernel tells is what we did ourselves: a filter in the kernel (classic BPF) passes on only what may
need mending, so an ADD wakes nobody here.
"""

import select
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cni_py.kernel import bpf, nft_wire, rtnl
from cni_py.kernel.listener import Listener, link_exists
from cni_py.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, parse_attrs

_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS = 1, 5, 7, 9
_IPV6_ROUTE, _IPV4_CONF, _IPV6_CONF, _NSID = 11, 24, 25, 28
_NFTABLES = 7
_DELADDR, _NEWNETCONF, _DELNSID = 21, 80, 89
_NETNSA_NSID = 1
_OUR_TABLES = "cnipy_"


@dataclass(slots=True)
class Hints:
    """What may need to be looked at: `links` stands for links, addresses, routes and sysctls of the host.

    `suspects`: indices of links that lost something, perhaps only because they were about to go. `removed`: names of
    links that went. `dead`: ids of namespaces that ended. `lost`: the kernel could not tell all, so everything may
    need it.
    """

    links: bool = False
    suspects: set[int] = field(default_factory=set)
    firewall: bool = False
    lost: bool = False
    removed: set[str] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)

    def settle(self) -> None:
        """Links that are gone need nothing."""
        self.links = self.links or any(map(link_exists, self.suspects))
        self.suspects.clear()

    def __bool__(self) -> bool:
        return self.links or self.firewall or self.lost or bool(self.dead)


class HostEvents:
    """Listens in the namespace in which it is made. `own`: ports of sockets whose changes to nftables are our own."""

    def __init__(self, own: Sequence[int]) -> None:
        groups = (_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE, _IPV4_CONF, _IPV6_CONF, _NSID)
        self._route = Listener(NETLINK_ROUTE, groups, _route_filter())
        self._nft: Listener | None = None
        with suppress(OSError):  # a kernel without nftables, which then cannot be flushed
            self._nft = Listener(NETLINK_NETFILTER, (_NFTABLES,), [*bpf.not_from(own), bpf.PASSED])
        self._poll = select.poll()
        self._sources = [one for one in (self._route, self._nft) if one is not None]
        for one in self._sources:
            self._poll.register(one, select.POLLIN)

    def watch(self, fd: int) -> None:
        """`wait` also returns when that descriptor can be read."""
        self._poll.register(fd, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Something was told, or the time is over."""
        self._poll.poll(max(0, int(seconds * 1000)))

    def take(self) -> Hints:
        """What was told since the last call; empty if nothing. To be settled when it is acted upon."""
        hints = Hints()
        for kind, payload in self._route.read():
            match kind:
                case rtnl.RTM_NEWLINK | rtnl.RTM_DELLINK:
                    link = rtnl.parse_link(payload)
                    hints.links |= kind == rtnl.RTM_DELLINK and link.kind == "bridge"
                    hints.removed |= {link.name} if kind == rtnl.RTM_DELLINK else set()
                    hints.suspects.add(link.index)
                case rtnl.RTM_DELROUTE:
                    route = rtnl.parse_route(payload)
                    hints.suspects |= {route.index} if route is not None and _is_ours(route) else set()
                case _ if kind == _DELADDR:
                    hints.suspects.add(rtnl.parse_address(payload)[0])
                case _ if kind == _NEWNETCONF:
                    hints.links = True
                case _ if kind == _DELNSID:
                    told = parse_attrs(payload, 4).get(_NETNSA_NSID, b"")
                    hints.dead |= {struct.unpack("=i", told)[0]} if len(told) == 4 else set()
        if self._nft is not None:
            for kind, payload in self._nft.read():
                hints.firewall |= nft_wire.deleted_from(kind, payload).startswith(_OUR_TABLES)
        for source in self._sources:
            hints.lost |= source.overflowed()
        return hints


def _is_ours(route: rtnl.SeenRoute) -> bool:
    return route.protocol == rtnl.ROUTE_PROTOCOL["host"]


def _route_filter() -> list[bpf.Instruction]:
    """Pass links that are not up or gone, deletions, and sysctls of the whole namespace (index -1)."""
    flags_byte = 24 if sys.byteorder == "little" else 27
    deletions = (rtnl.RTM_DELLINK, rtnl.RTM_DELROUTE, _DELADDR, _DELNSID)
    program = [bpf.TYPE]
    # Each test jumps over what is left of the tests to one of the four parts at the end.
    tests = [rtnl.RTM_NEWLINK, _NEWNETCONF, *deletions]
    for number, kind in enumerate(tests):
        left = len(tests) - number - 1
        target = left + {rtnl.RTM_NEWLINK: 1, _NEWNETCONF: 3}.get(kind, 5)
        program.append((bpf.EQUAL, target, 0, bpf.half(kind)))
    return [
        *program,
        bpf.DROPPED,
        (bpf.LOAD_BYTE, 0, 0, flags_byte),
        (bpf.ANY_BIT, 3, 2, rtnl.IFF_UP),
        (bpf.LOAD_WORD, 0, 0, 24),  # the first attribute's value, NETCONFA_IFINDEX
        (bpf.EQUAL, 0, 1, 0xFFFFFFFF),
        bpf.PASSED,
        bpf.DROPPED,
    ]
