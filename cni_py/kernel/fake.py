"""A kernel in memory: the same port as `kernel.node`, refuses what the real one refuses, shows what it holds.

Planners and verbs are tested on it in microseconds; `tests/netns/test_fake.py` holds both kernels to the same facts.
"""

import errno
from collections.abc import Sequence
from dataclasses import replace

from cni_py.kernel.errnos import already_so, refusal
from cni_py.model.errors import CniPyError, KernelError
from cni_py.model.net import Address, Link, LinkRoute, Neighbour, NodeState, Ns, Sysctl
from cni_py.model.ops import (
    AddAddress,
    AddLink,
    AddRoute,
    AddShaper,
    DelAddress,
    DelFdb,
    DelLink,
    DelNeighbour,
    DelRoute,
    Op,
    ReplaceRoute,
    SetFdb,
    SetLink,
    SetNeighbour,
    SetSysctl,
    SetVlans,
    inverse,
)


class FakeKernel:
    """`state` is all there is, in both namespaces."""

    def __init__(self, state: NodeState | None = None) -> None:
        self.state = state if state is not None else NodeState()

    def has_link(self, ns: Ns, name: str) -> bool:
        """True if a link of that name exists."""
        return self.state.link(ns, name) is not None

    def facts(self, desired: NodeState) -> NodeState:
        """What is there of the links that are shared, and of the sysctls."""
        shared = {(link.ns, link.name) for link in desired.links if link.shared}
        keys = {(sysctl.ns, sysctl.key) for sysctl in desired.sysctls}
        return NodeState(
            links=tuple(link for link in self.state.links if (link.ns, link.name) in shared),
            addresses=tuple(one for one in self.state.addresses if (one.ns, one.link) in shared),
            sysctls=tuple(sysctl for sysctl in self.state.sysctls if (sysctl.ns, sysctl.key) in keys),
        )

    def apply(self, ops: Sequence[Op]) -> None:
        """All changes take effect or none."""
        before = self.state
        try:
            for op in ops:
                self._step(op)
        except CniPyError:
            self.state = before
            raise

    def undo(self, ops: Sequence[Op]) -> list[str]:
        """The inverses, last first; what went with its link is no failure."""
        left: list[str] = []
        for op in reversed(ops):
            back = inverse(op)
            if back is None:
                continue
            try:
                self._step(back)
            except KernelError as error:
                left += [] if error.errno in (errno.ENODEV, errno.ENOENT) else [error.message]
        return left

    def mac_of(self, ns: Ns, name: str) -> str:
        """The MAC of a link, "" if there is no such link."""
        link = self.state.link(ns, name)
        return link.mac if link is not None else ""

    def kind_of(self, ns: Ns, name: str) -> str:
        """The kind of a link, "" if there is no such link."""
        link = self.state.link(ns, name)
        return link.kind if link is not None else ""

    def host_peer(self, ifname: str) -> str:
        """The host's device at the other end of the container's veth, "" if there is none."""
        link = self.state.link("container", ifname)
        return link.peer if link is not None and self.has_link("host", link.peer) else ""

    def await_carrier(self, name: str) -> None:
        """The bridge port forwards, if it is there."""
        self._need(DelLink("host", name), "host", name)

    def _step(self, op: Op) -> None:
        number = self._refused(op)
        if number and not already_so(op, number):
            raise refusal(op, number)
        if not number:
            self.state = self._changed(op)

    def _refused(self, op: Op) -> int:
        """The errno with which the kernel answers, 0 if it does what it is told."""
        match op:
            case AddLink(link, peer):
                ends = [link] if peer is None else [link, peer]
                return errno.EEXIST if any(self.has_link(end.ns, end.name) for end in ends) else 0
            case AddAddress() | DelAddress():
                return self._address_refused(op)
            case AddRoute() | DelRoute() | ReplaceRoute():
                return self._route_refused(op)
            case SetNeighbour() | DelNeighbour() | SetFdb() | DelFdb():
                return self._entry_refused(op)
            case SetLink(link) | SetVlans(link):
                return self._absent(link.ns, link.name)
            case DelLink(ns, name):
                return self._absent(ns, name)
            case AddShaper(shaper):
                return self._absent("host", shaper.link)
            case SetSysctl():
                return 0

    def _address_refused(self, op: AddAddress | DelAddress) -> int:
        address = op.address
        held = self._holds(address)
        wrong = (errno.EEXIST if held else 0) if isinstance(op, AddAddress) else (0 if held else errno.EADDRNOTAVAIL)
        return self._absent(address.ns, address.link) or wrong

    def _route_refused(self, op: AddRoute | DelRoute | ReplaceRoute) -> int:
        route = op.route
        absent = 0 if route.kind == "unreachable" else self._absent(route.ns, route.link)
        match op:
            case AddRoute():
                return absent or (errno.EEXIST if self._routes(route) else 0)
            case DelRoute():
                return absent or (0 if self._routes(route) else errno.ESRCH)
            case ReplaceRoute():
                return absent

    def _entry_refused(self, op: SetNeighbour | DelNeighbour | SetFdb | DelFdb) -> int:
        match op:
            case SetNeighbour(one) | DelNeighbour(one):
                held = one in self.state.neighbours or isinstance(op, SetNeighbour)
                return self._absent(one.ns, one.link) or (0 if held else errno.ENOENT)
            case SetFdb(entry) | DelFdb(entry):
                held = entry in self.state.fdb or isinstance(op, SetFdb)
                return self._absent(entry.ns, entry.link) or (0 if held else errno.ENOENT)

    def _changed(self, op: Op) -> NodeState:
        state = self.state
        match op:
            case AddLink(link, peer):
                ends = (link,) if peer is None else (link, replace(peer, up=False))
                return replace(state, links=(*state.links, *ends))
            case SetLink(link) | SetVlans(link):
                return self._link_changed(link)
            case DelLink(ns, name):
                return self._without(ns, name)
            case AddAddress() | DelAddress():
                others_a = tuple(one for one in state.addresses if not _same(one, op.address))
                return replace(state, addresses=(*others_a, op.address) if isinstance(op, AddAddress) else others_a)
            case DelRoute(route):
                return replace(state, routes=tuple(one for one in state.routes if one != route))
            case AddRoute(route) | ReplaceRoute(route):
                others_r = tuple(one for one in state.routes if _place(one) != _place(route))
                return replace(state, routes=(*others_r, route))
            case SetNeighbour() | DelNeighbour() | SetFdb() | DelFdb():
                return self._tunnel_changed(op)
            case AddShaper(shaper):
                return replace(state, shapers=(*state.shapers, shaper))
            case SetSysctl(sysctl):
                others_ = tuple(one for one in state.sysctls if (one.ns, one.key) != (sysctl.ns, sysctl.key))
                return replace(state, sysctls=(*others_, Sysctl(sysctl.ns, sysctl.key, sysctl.value, sysctl.required)))

    def _link_changed(self, link: Link) -> NodeState:
        """With the MAC of a link its neighbours go."""
        state = self.state
        before = state.link(link.ns, link.name)
        if before is not None and before.mac != link.mac:
            known = tuple(one for one in state.neighbours if (one.ns, one.link) != (link.ns, link.name))
            state = replace(state, neighbours=known)
        others = tuple(one for one in state.links if (one.ns, one.name) != (link.ns, link.name))
        return replace(state, links=(*others, link))

    def _tunnel_changed(self, op: SetNeighbour | DelNeighbour | SetFdb | DelFdb) -> NodeState:
        state = self.state
        match op:
            case SetNeighbour(one) | DelNeighbour(one):
                left = tuple(seen for seen in state.neighbours if _known_by(seen) != _known_by(one))
                return replace(state, neighbours=(*left, one) if isinstance(op, SetNeighbour) else left)
            case SetFdb(entry) | DelFdb(entry):
                others = tuple(seen for seen in state.fdb if seen.place() != entry.place())
                return replace(state, fdb=(*others, entry) if isinstance(op, SetFdb) else others)

    def _without(self, ns: Ns, name: str) -> NodeState:
        """The state without a link, its other end, and all that was on either."""
        link = self.state.link(ns, name)
        gone = {(ns, name)}
        if link is not None and link.peer:
            other: Ns = "container" if ns == "host" else "host"
            gone |= {(where, link.peer) for where in (ns, other) if self._is_end(where, link.peer, name)}
        links = {one for _, one in gone}
        return NodeState(
            links=tuple(_freed(one, gone) for one in self.state.links if (one.ns, one.name) not in gone),
            addresses=tuple(one for one in self.state.addresses if (one.ns, one.link) not in gone),
            routes=tuple(one for one in self.state.routes if (one.ns, one.link) not in gone),
            sysctls=tuple(one for one in self.state.sysctls if not links & set(one.key.split("/"))),
            shapers=tuple(one for one in self.state.shapers if not {one.link, one.mirror_from} & links),
            neighbours=tuple(one for one in self.state.neighbours if (one.ns, one.link) not in gone),
            fdb=tuple(one for one in self.state.fdb if (one.ns, one.link) not in gone),
        )

    def _is_end(self, ns: Ns, name: str, peer: str) -> bool:
        link = self.state.link(ns, name)
        return link is not None and link.peer == peer

    def _absent(self, ns: Ns, name: str) -> int:
        return 0 if self.has_link(ns, name) else errno.ENODEV

    def _need(self, op: Op, ns: Ns, name: str) -> None:
        if not self.has_link(ns, name):
            raise refusal(op, errno.ENODEV)

    def _holds(self, address: Address) -> bool:
        return any(_same(one, address) for one in self.state.addresses)

    def _routes(self, route: LinkRoute) -> bool:
        return any(_place(one) == _place(route) for one in self.state.routes)


def _same(one: Address, other: Address) -> bool:
    return (one.ns, one.link, one.address) == (other.ns, other.link, other.address)


def _place(route: LinkRoute) -> tuple[object, ...]:
    """What no two routes have in common."""
    return route.ns, route.dst, route.table, route.priority


def _freed(link: Link, gone: set[tuple[Ns, str]]) -> Link:
    """The link, no port any more if its bridge is among those that go."""
    return replace(link, master="", hairpin=False, isolated=False) if (link.ns, link.master) in gone else link


def _known_by(neighbour: Neighbour) -> tuple[object, ...]:
    return neighbour.ns, neighbour.link, neighbour.address
