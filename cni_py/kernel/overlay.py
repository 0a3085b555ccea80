"""The overlay's part of the kernel: read back whole, changed in large datagrams, and what a node has to plan with.

One change that the kernel refuses is one peer's trouble: the others take effect, and the refusal is handed back.
"""

import errno
import fcntl
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from ipaddress import ip_interface

from cni_py.kernel import neighbours, rtnl
from cni_py.kernel.apply import Namespace, Run
from cni_py.kernel.errnos import already_so, refusal, translate
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from cni_py.kernel.sysctl import read_sysctl, write_sysctl
from cni_py.model.errors import CniPyError
from cni_py.model.net import (
    PROTOCOL_OVERLAY,
    TABLE_MAIN,
    Address,
    Fdb,
    Link,
    LinkRoute,
    Neighbour,
    NodeState,
    Ns,
    Sysctl,
)
from cni_py.model.ops import (
    AddRoute,
    DelFdb,
    DelNeighbour,
    DelRoute,
    Op,
    ReplaceRoute,
    SetFdb,
    SetNeighbour,
)
from cni_py.model.overlay import Underlay
from cni_py.model.result import IPNetwork

Refusal = tuple[Op, CniPyError]

_BATCH = 600  # messages a datagram: 50 kB, and the kernel is not kept from signals for more than 60 ms
_SIOCGIFNAME = 0x8910
_IFREQ = struct.Struct("16si20x")
_FAMILIES = (rtnl.AF_INET, rtnl.AF_INET6)


class OverlayKernel:
    """The namespace that the thread is in when it is made, by one socket that stays open."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE)

    def close(self) -> None:
        """The socket is gone; the kernel keeps everything."""
        self._socket.close()

    def read(self, names: Iterable[str], sysctls: Iterable[Sysctl] = ()) -> NodeState:
        """The links of these names with all that is on them, the overlay's routes wherever they lead, the sysctls.

        Raises KernelError's cause NetlinkError if the lists change without pause.
        """
        seen = [link for name in names if (link := self._link(name)) is not None]
        return NodeState(
            links=tuple(map(_as_link, seen)),
            addresses=tuple(one for link in seen for one in self._addresses(link)),
            routes=tuple(self._routes()),
            sysctls=tuple(_sysctls(sysctls)),
            neighbours=tuple(one for link in seen for one in self._neighbours(link)),
            fdb=tuple(one for link in seen if link.kind == "vxlan" for one in self._fdb(link)),
        )

    def apply(self, ops: Sequence[Op]) -> tuple[Refusal, ...]:
        """All changes take effect but for those handed back, each with the reason."""
        run = _Run(self._socket)
        run.run(ops)
        return tuple(run.refused)

    def underlay(self, name: str) -> Underlay | None:
        """The link of that name as an underlay, None if it is not there or down."""
        seen = self._link(name)
        if seen is None or not seen.flags & rtnl.IFF_UP:
            return None
        prefixes: list[IPNetwork] = []
        elsewhere: list[IPNetwork] = []
        name_of = self._name_of()
        for family in _FAMILIES:
            for payload in self._socket.request(rtnl.get_routes(family)):
                route = rtnl.parse_whole_route(payload, name_of)
                if route.table != TABLE_MAIN or route.protocol == PROTOCOL_OVERLAY or route.dst.is_link_local:
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

    def _link(self, name: str) -> rtnl.SeenLink | None:
        try:
            return rtnl.parse_link(self._socket.request(rtnl.get_link(name))[0])
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise translate(f"look up {name!r}", error.errno, error.text) from None
            return None

    def _addresses(self, link: rtnl.SeenLink) -> Iterator[Address]:
        """All but those that the kernel gives by itself."""
        for index, packed, length in map(rtnl.parse_address, self._socket.request(rtnl.get_addresses(link.index))):
            interface = ip_interface((packed, length))
            if index == link.index and not interface.is_link_local:
                yield Address("host", link.name, interface)

    def _routes(self) -> Iterator[LinkRoute]:
        name_of = self._name_of()
        for family in _FAMILIES:
            for payload in self._socket.request(rtnl.get_routes_of(family, PROTOCOL_OVERLAY)):
                route = rtnl.parse_whole_route(payload, name_of)
                if route.protocol == PROTOCOL_OVERLAY:  # a kernel before 4.20 gives all
                    yield route

    def _neighbours(self, link: rtnl.SeenLink) -> Iterator[Neighbour]:
        for family in _FAMILIES:
            for payload in self._socket.request(neighbours.get_neighbours(link.index, family)):
                neighbour = neighbours.parse_neighbour(payload, link.name, link.index)
                if neighbour is not None:
                    yield neighbour

    def _fdb(self, link: rtnl.SeenLink) -> Iterator[Fdb]:
        for payload in self._socket.request(neighbours.get_fdb(link.index)):
            entry = neighbours.parse_fdb(payload, link.name, link.index)
            if entry is not None:
                yield entry

    def _name_of(self) -> Callable[[int], str]:
        """The name of an index, asked once; "" if it is gone by now."""

        @cache
        def name_of(index: int) -> str:
            try:
                answer = fcntl.ioctl(self._socket.fileno(), _SIOCGIFNAME, _IFREQ.pack(b"", index))
            except OSError:
                return ""
            return _IFREQ.unpack(answer)[0].rstrip(b"\0").decode(errors="replace")  # type: ignore[no-any-return]

        return name_of


class _Run(Run):
    """The changes of the overlay, and on past a refusal."""

    def __init__(self, socket: NetlinkSocket) -> None:
        super().__init__({"host": Namespace(None, socket)}, write_sysctl, [])
        self.refused: list[Refusal] = []

    def _step(self, op: Op) -> None:
        try:
            super()._step(op)
        except CniPyError as error:
            self.refused.append((op, error))
        if len(self._pending) >= _BATCH:
            self._flush()

    def _encode(self, op: Op) -> tuple[Ns, list[bytes]]:
        match op:
            case SetNeighbour(neighbour):
                return "host", [neighbours.set_neighbour(neighbour, self._index("host", neighbour.link))]
            case DelNeighbour(neighbour):
                return "host", [neighbours.del_neighbour(neighbour, self._index("host", neighbour.link))]
            case SetFdb(entry):
                return "host", [neighbours.set_fdb(entry, self._index("host", entry.link))]
            case DelFdb(entry):
                return "host", [neighbours.del_fdb(entry, self._index("host", entry.link))]
            case AddRoute(route):
                return "host", [rtnl.new_route(route, self._oif(route))]
            case ReplaceRoute(route):
                return "host", [rtnl.replace_route(route, self._oif(route))]
            case DelRoute(route):
                return "host", [rtnl.del_route(route, self._oif(route))]
            case _:
                return super()._encode(op)

    def _oif(self, route: LinkRoute) -> int:
        return self._index("host", route.link) if route.link else 0

    def _settle(self, pending: list[tuple[Op, bytes]], error: NetlinkError) -> None:
        for index, number in error.failed.items():
            op = pending[index][0]
            if not already_so(op, number):
                self.refused.append((op, refusal(op, number, error.text if index == error.index else "")))


def _as_link(seen: rtnl.SeenLink) -> Link:
    return Link(
        "host",
        seen.name,
        "vxlan" if seen.kind == "vxlan" else "other",
        mac=seen.mac,
        mtu=seen.mtu,
        up=bool(seen.flags & rtnl.IFF_UP),
        vxlan=seen.vxlan,
    )


def _sysctls(asked: Iterable[Sysctl]) -> Iterator[Sysctl]:
    """One that is not required and not there is as it should be."""
    for one in asked:
        value = read_sysctl(one.key)
        if value is None and not one.required:
            value = one.value
        if value is not None:
            yield Sysctl("host", one.key, value, one.required)


def _is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.prefixlen > outer.prefixlen and inner.network_address in outer
