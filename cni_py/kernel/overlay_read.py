"""The overlay read back from the kernel, whole: some thousand objects of five kinds, in milliseconds.

Nearly all of them are as they were a minute ago, and decoding costs ten times what the kernel takes to tell. So what an
answer stood for is remembered by its bytes, for as long as the kernel goes on to give it. And nearly all of them are as
they are wanted: what equals something wanted is that very object, which spares a third of what a peer takes of memory.
"""

import errno
import fcntl
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import ip_address, ip_interface
from typing import Generic, TypeVar

from cni_py.kernel import neighbours, rtnl
from cni_py.kernel.errnos import translate
from cni_py.kernel.netlink import NetlinkError, NetlinkSocket
from cni_py.kernel.sysctl import seen_sysctl
from cni_py.model.net import (
    PROTOCOL_OVERLAY,
    TABLE_MAIN,
    Address,
    Fdb,
    Link,
    LinkKind,
    LinkRoute,
    Neighbour,
    NodeState,
)
from cni_py.model.overlay import Underlay
from cni_py.model.result import IPAddress, IPNetwork

T = TypeVar("T")

_SIOCGIFNAME = 0x8910
_IFREQ = struct.Struct("16si20x")
_FAMILIES = (rtnl.AF_INET, rtnl.AF_INET6)
_KINDS: dict[str, LinkKind] = {"vxlan": "vxlan", "bridge": "bridge"}


class OverlayReader:
    """Reads by the socket given, in its namespace; sysctls are those of the thread's."""

    def __init__(self, socket: NetlinkSocket) -> None:
        self._socket = socket
        self._names: dict[int, str] = {}
        self._routes: _Answers[LinkRoute] = _Answers()
        self._neighbours: _Answers[Neighbour | None] = _Answers()
        self._fdb: _Answers[Fdb | None] = _Answers()

    def read(self, names: Iterable[str], wanted: NodeState) -> NodeState:
        """The links of these names with all that is on them, the overlay's routes, the sysctls of what is wanted."""
        self._routes.wanted, self._neighbours.wanted, self._fdb.wanted = wanted.routes, wanted.neighbours, wanted.fdb
        seen = [link for name in names if (link := self._link(name)) is not None]
        self._forget_if_renamed(seen)
        state = NodeState(
            links=tuple(_as_link(link, self._name_of(link.master) if link.master else "") for link in seen),
            addresses=tuple(one for link in seen for one in self._addresses(link)),
            routes=tuple(self._own_routes()),
            sysctls=tuple(one for sysctl in wanted.sysctls if (one := seen_sysctl(sysctl)) is not None),
            neighbours=tuple(one for link in seen for one in self._neighbours_on(link)),
            fdb=tuple(one for link in seen if link.kind == "vxlan" for one in self._fdb_of(link)),
        )
        for answers in (self._routes, self._neighbours, self._fdb):
            answers.turn()
        return state

    def find_underlay(self, addresses: Collection[IPAddress]) -> str:
        """The link that has one of these addresses, else that of the best default route; "" if there is neither."""
        for payload in self._ask("read the addresses", rtnl.get_addresses(0)):
            index, packed, _ = rtnl.parse_address(payload)
            if packed and ip_address(packed) in addresses:
                return self._name_of(index)
        best: list[tuple[int, str]] = []
        for family in _FAMILIES:
            for payload in self._ask("read the routes", rtnl.get_routes(family)):
                if payload[5] == PROTOCOL_OVERLAY:  # thousands, and none of them the underlay's
                    continue
                route = rtnl.parse_whole_route(payload, self._name_of)
                if route.table == TABLE_MAIN and not route.dst.prefixlen and route.link and payload[0] == family:
                    best.append((route.priority, route.link))
            if best:
                return min(best)[1]
        return ""

    def underlay(self, name: str) -> Underlay | None:
        """The link of that name as an underlay, None if it is not there or down."""
        seen = self._link(name)
        if seen is None or not seen.flags & rtnl.IFF_UP:
            return None
        prefixes: list[IPNetwork] = []
        elsewhere: list[IPNetwork] = []
        names: dict[int, str] = {seen.index: name}
        for family in _FAMILIES:
            for payload in self._ask("read the routes", rtnl.get_routes(family)):
                if payload[5] == PROTOCOL_OVERLAY:
                    continue
                route = rtnl.parse_whole_route(payload, lambda index: names.get(index, ""))
                if route.table != TABLE_MAIN or route.dst.is_link_local:
                    continue
                straight = route.link == name and route.gw is None and route.dst.prefixlen
                (prefixes if straight else elsewhere).append(route.dst)
        return Underlay(
            name,
            seen.mtu,
            tuple(one.address.ip for one in self._addresses(seen)),
            tuple(dict.fromkeys(prefixes)),
            tuple(dict.fromkeys(one for one in elsewhere if any(_is_within(one, prefix) for prefix in prefixes))),
        )

    def _ask(self, what: str, message: bytes) -> list[bytes]:
        """The answers; none if the link that they would be about has gone."""
        try:
            return self._socket.request(message)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return []
            raise translate(what, error.errno, error.text) from None

    def _link(self, name: str) -> rtnl.SeenLink | None:
        answer = self._ask(f"look up {name!r}", rtnl.get_link(name))
        return rtnl.parse_link(answer[0]) if answer else None

    def _forget_if_renamed(self, seen: Iterable[rtnl.SeenLink]) -> None:
        """What is remembered holds names of links, answers hold numbers."""
        now = {index: self._name_of(index) for index in self._names} | {link.index: link.name for link in seen}
        if any(now[index] != name for index, name in self._names.items()):
            self._routes, self._neighbours, self._fdb = _Answers(), _Answers(), _Answers()
        self._names = {index: name for index, name in now.items() if name}

    def _name_of(self, index: int) -> str:
        """The name of a link, "" if there is none by now."""
        try:
            answer = fcntl.ioctl(self._socket.fileno(), _SIOCGIFNAME, _IFREQ.pack(b"", index))
        except OSError:
            return ""
        name: bytes = _IFREQ.unpack(answer)[0]
        return name.rstrip(b"\0").decode(errors="replace")

    def _known_name(self, index: int) -> str:
        if index not in self._names:
            self._names[index] = self._name_of(index)
        return self._names[index]

    def _addresses(self, link: rtnl.SeenLink) -> Iterator[Address]:
        """All but those that the kernel gives by itself."""
        for payload in self._ask(f"read the addresses of {link.name!r}", rtnl.get_addresses(link.index)):
            index, packed, length = rtnl.parse_address(payload)
            interface = ip_interface((packed, length))
            if index == link.index and not interface.is_link_local:
                yield Address("host", link.name, interface)

    def _own_routes(self) -> Iterator[LinkRoute]:
        for family in _FAMILIES:
            for payload in self._ask("read the routes", rtnl.get_routes_of(family, PROTOCOL_OVERLAY)):
                route = self._routes.get(payload, lambda whole: rtnl.parse_whole_route(whole, self._known_name))
                # A kernel before 4.20 gives those of all protocols, one without IPv6 gives IPv4's for it.
                if route.protocol == PROTOCOL_OVERLAY and payload[0] == family:
                    yield route

    def _neighbours_on(self, link: rtnl.SeenLink) -> Iterator[Neighbour]:
        for family in _FAMILIES:
            message = neighbours.get_neighbours(link.index, family)
            for payload in self._ask(f"read the neighbours of {link.name!r}", message):
                one = self._neighbours.get(
                    neighbours.lasting(payload), lambda part: neighbours.parse_neighbour(part, link.name, link.index)
                )
                if one is not None and payload[0] == family:
                    yield one

    def _fdb_of(self, link: rtnl.SeenLink) -> Iterator[Fdb]:
        for payload in self._ask(f"read the forwarding entries of {link.name!r}", neighbours.get_fdb(link.index)):
            one = self._fdb.get(
                neighbours.lasting(payload), lambda part: neighbours.parse_fdb(part, link.name, link.index)
            )
            if one is not None:
                yield one


class _Answers(Generic[T]):
    """What answers of the kernel stand for. `turn` drops those that did not come since the last one.

    `wanted` are objects that are given in place of equal ones.
    """

    def __init__(self) -> None:
        self.wanted: Iterable[T] = ()
        self._same: dict[T, T] = {}
        self._before: dict[bytes, T] = {}
        self._now: dict[bytes, T] = {}

    def get(self, answer: bytes, parse: Callable[[bytes], T]) -> T:
        """What `parse` says of it, now or earlier."""
        found = self._before[answer] if answer in self._before else self._wanted(parse(answer))
        self._now[answer] = found
        return found

    def turn(self) -> None:
        """A reading is over."""
        self._before, self._now = self._now, {}
        self.wanted, self._same = (), {}

    def _wanted(self, found: T) -> T:
        if not self._same:  # only if there is anything new: of thousands it takes a while
            self._same = {one: one for one in self.wanted}
        return self._same.get(found, found)


def _as_link(seen: rtnl.SeenLink, master: str) -> Link:
    return Link(
        "host",
        seen.name,
        _KINDS.get(seen.kind, "other"),
        mac=seen.mac,
        mtu=seen.mtu,
        up=bool(seen.flags & rtnl.IFF_UP),
        master=master,
        isolated=seen.isolated,
        vxlan=seen.vxlan,
        bridge=seen.bridge,
    )


def _is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.prefixlen > outer.prefixlen and inner.network_address in outer
