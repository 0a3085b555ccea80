"""The kernel of one call: the host's and the container's namespace, read and changed by rtnetlink and sysctls.

Changes of one namespace that need nothing from each other go out in one datagram, so a whole attach is two or three.
The kernel does not roll a half-failed datagram back; `apply` does, with the inverses of what took effect.
"""

import errno
import fcntl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import Protocol

from cni_py.kernel import netns, rtnl
from cni_py.kernel.errnos import already_so, refusal, translate
from cni_py.kernel.link_events import LinkEvents
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from cni_py.kernel.sysctl import read_sysctl, write_sysctl
from cni_py.model.diff import link_change
from cni_py.model.errors import CniPyError, KernelError
from cni_py.model.net import Address, Link, LinkKind, NodeState, Ns, Shaper, Sysctl
from cni_py.model.ops import (
    AddAddress,
    AddLink,
    AddRoute,
    AddShaper,
    DelAddress,
    DelLink,
    DelRoute,
    Op,
    SetLink,
    SetSysctl,
    SetVlans,
    inverse,
)

_SIOCGIFINDEX = 0x8933
_PORT_DEADLINE_S = 3  # the reference waits 2.55 s


class ShaperAdapter(Protocol):
    """Traffic control, which only attachments with a bandwidth limit pay for (`kernel.shaper`)."""

    def add(self, shaper: Shaper) -> None:
        """The link of `shaper` is limited. Raises KernelError."""


@dataclass(slots=True)
class _Namespace:
    """One of the two namespaces: a socket in it, and the indices of links seen so far. `fd` None is our own."""

    fd: int | None
    socket: NetlinkSocket
    indices: dict[str, int] = field(default_factory=dict)

    def index(self, name: str) -> int | None:
        """The index of a link by ioctl(2), which on any socket speaks of that socket's namespace; None if absent."""
        if name not in self.indices:
            try:
                answer = fcntl.ioctl(self.socket.fileno(), _SIOCGIFINDEX, struct.pack("16si20x", name.encode(), 0))
            except OSError:
                return None
            self.indices[name] = struct.unpack("16si20x", answer)[1]
        return self.indices[name]


def open_route_socket() -> NetlinkSocket:
    """An rtnetlink socket in the namespace that the thread is in."""
    return NetlinkSocket(NETLINK_ROUTE)


class NodeKernel:
    """Reads and changes both namespaces of one call. `container_fd` is None where there is no container to touch."""

    def __init__(
        self,
        container_fd: int | None,
        shapers: ShaperAdapter | None = None,
        open_socket: Callable[[], NetlinkSocket] = open_route_socket,
        write: Callable[[str, str], None] = write_sysctl,
    ) -> None:
        self._shapers = shapers
        self._write = write
        self._spaces: dict[Ns, _Namespace] = {"host": _Namespace(None, open_socket())}
        if container_fd is not None:
            with netns.entered(container_fd):
                self._spaces["container"] = _Namespace(container_fd, open_socket())

    def close(self) -> None:
        """The sockets are gone."""
        for space in self._spaces.values():
            space.socket.close()

    @property
    def messages_sent(self) -> int:
        """Netlink messages so far, in both namespaces."""
        return sum(space.socket.messages_sent for space in self._spaces.values())

    @property
    def seconds_in_kernel(self) -> float:
        """Time between sending and the last answer, in both namespaces."""
        return sum(space.socket.seconds_in_kernel for space in self._spaces.values())

    @property
    def has_container(self) -> bool:
        """True if there is a container's namespace to speak of."""
        return "container" in self._spaces

    def has_link(self, ns: Ns, name: str) -> bool:
        """True if a link of that name exists."""
        return self._spaces[ns].index(name) is not None

    def facts(self, desired: NodeState) -> NodeState:
        """What is there already of the objects that an ADD shares with others: bridges, their addresses, sysctls."""
        links: list[Link] = []
        addresses: list[Address] = []
        for link in desired.links:
            seen = self.see_link(link.ns, link.name) if link.shared else None
            if seen is not None:
                links.append(_as_link(link, seen))
                addresses += self._addresses_on(link.ns, seen)
        sysctls = [sysctl for wanted in desired.sysctls for sysctl in self._sysctl(wanted)]
        return NodeState(links=tuple(links), addresses=tuple(addresses), sysctls=tuple(sysctls))

    def mac_of(self, ns: Ns, name: str) -> str:
        """The MAC of a link, "" if there is no such link."""
        seen = self.see_link(ns, name)
        return seen.mac if seen is not None else ""

    def kind_of(self, ns: Ns, name: str) -> str:
        """The kind of a link as the kernel names it, "" if there is no such link."""
        seen = self.see_link(ns, name) if ns in self._spaces else None
        return seen.kind if seen is not None else ""

    def host_peer(self, ifname: str) -> str:
        """The host's device at the other end of the container's veth, "" if there is none."""
        inner = self.see_link("container", ifname)
        if inner is None or inner.kind != "veth":
            return ""
        try:
            answer = self._spaces["host"].socket.request(rtnl.get_link_at(inner.peer))
        except NetlinkError:
            return ""
        outer = rtnl.parse_link(answer[0])
        return outer.name if outer.kind == "veth" and outer.peer == inner.index else ""

    def await_port(self, name: str) -> None:
        """The bridge port forwards, as it does as soon as the kernel has worked off the carrier of its other end.

        The kernel tells on the link group; the socket listens before it looks, so no change is missed.
        """
        if self._is_up(name):
            return
        with LinkEvents(_PORT_DEADLINE_S) as events:
            while not self._is_up(name):
                if not events.wait():
                    raise KernelError(f"bridge port {name!r} is not up after {_PORT_DEADLINE_S} s", errno.ENETDOWN)

    def _is_up(self, name: str) -> bool:
        seen = self.see_link("host", name)
        if seen is None:
            raise KernelError(f"bridge port {name!r} is gone", errno.ENODEV)
        return seen.operstate == rtnl.OPER_UP

    def see_link(self, ns: Ns, name: str) -> rtnl.SeenLink | None:
        """One link as it is, None if it is not."""
        try:
            answer = self._spaces[ns].socket.request(rtnl.get_link(name))
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise translate(f"look up {name!r}", error.errno, error.text) from None
        return rtnl.parse_link(answer[0])

    def apply(self, ops: Sequence[Op]) -> None:
        """All changes take effect, or none and a KernelError says which was refused and why."""
        done: list[Op] = []
        try:
            _Run(self._spaces, self._shapers, self._write, done).run(ops)
        except CniPyError as error:
            left = self.undo(done)
            if left:
                error.details = "; ".join(filter(None, (error.details, *left)))
            raise

    def undo(self, ops: Sequence[Op]) -> list[str]:
        """The inverses of `ops`, last first; what could not be undone, in words."""
        left: list[str] = []
        for op in reversed(ops):
            back = inverse(op)
            if back is None:
                continue
            try:
                _Run(self._spaces, self._shapers, write_sysctl, []).run((back,))
            except CniPyError as error:
                if isinstance(error, KernelError) and error.errno in (errno.ENODEV, errno.ENOENT):
                    continue  # went with its link
                left.append(f"could not undo it: {error.message}")
        return left

    def addresses(self, ns: Ns, name: str) -> list[Address]:
        """The addresses of a link; none if it is not there."""
        seen = self.see_link(ns, name)
        return [] if seen is None else self._addresses_on(ns, seen)

    def _addresses_on(self, ns: Ns, seen: rtnl.SeenLink) -> list[Address]:
        answers = self._spaces[ns].socket.request(rtnl.get_addresses(seen.index))
        parsed = (rtnl.parse_address(answer) for answer in answers)
        return [
            Address(ns, seen.name, ip_interface((packed, length)))
            for index, packed, length in parsed
            if index == seen.index
        ]

    def _sysctl(self, wanted: Sysctl) -> list[Sysctl]:
        space = self._spaces[wanted.ns]
        if space.fd is None:
            value = read_sysctl(wanted.key)
        else:
            with netns.entered(space.fd):
                value = read_sysctl(wanted.key)
        return [] if value is None else [Sysctl(wanted.ns, wanted.key, value, wanted.required)]


class _Run:
    """One pass over a list of changes: collects messages, sends them when something needs their outcome."""

    def __init__(
        self,
        spaces: dict[Ns, _Namespace],
        shapers: ShaperAdapter | None,
        write: Callable[[str, str], None],
        done: list[Op],
    ) -> None:
        self._spaces = spaces
        self._shapers = shapers
        self._write = write
        self._done = done
        self._ns: Ns = "host"
        self._pending: list[tuple[Op, bytes]] = []

    def run(self, ops: Sequence[Op]) -> None:
        for op in ops:
            self._step(op)
        self._flush()

    def _step(self, op: Op) -> None:
        match op:
            case SetSysctl(sysctl):
                self._flush()
                self._set_sysctl(op, sysctl)
            case AddShaper(shaper):
                self._flush()
                self._shape(op, shaper)
            case _:
                ns, messages = self._encode(op)
                if ns != self._ns:
                    self._flush()
                    self._ns = ns
                self._pending += [(op, message) for message in messages]

    def _encode(self, op: Op) -> tuple[Ns, list[bytes]]:
        """The messages for one change; what waits is sent first if an index is needed that it will bring."""
        match op:
            case AddLink(link, None):
                return link.ns, [rtnl.new_link(link)]
            case AddLink(link, Link() as peer):
                master = self._index(link.ns, link.master) if link.master else 0
                fd = self._container_fd() if peer.ns == "container" else None
                return link.ns, [rtnl.new_veth(link, peer, fd, master)]
            case SetLink(link, before):
                change = link_change(link, before) or {}
                master = self._index(link.ns, link.master) if link.master and "master" in change else 0
                return link.ns, rtnl.set_link(self._index(link.ns, link.name), change, master)
            case SetVlans(link):
                return link.ns, rtnl.set_vlans(link, self._index(link.ns, link.name))
            case DelLink(ns, name):
                return ns, [rtnl.del_link(name)]
            case AddAddress(address):
                return address.ns, [rtnl.new_address(address, self._index(address.ns, address.link))]
            case DelAddress(address):
                return address.ns, [rtnl.del_address(address, self._index(address.ns, address.link))]
            case AddRoute(route):
                return route.ns, [rtnl.new_route(route, self._index(route.ns, route.link))]
            case DelRoute(route):
                return route.ns, [rtnl.del_route(route, self._index(route.ns, route.link))]
        raise AssertionError(op)

    def _container_fd(self) -> int:
        fd = self._spaces["container"].fd
        if fd is None:
            raise AssertionError("a veth is planned only where there is a container")
        return fd

    def _index(self, ns: Ns, name: str) -> int:
        """The index of a link, which may be one that is still waiting to be made."""
        index = self._spaces[ns].index(name)
        if index is None and self._pending:
            self._flush()
            index = self._spaces[ns].index(name)
        if index is None:
            raise KernelError(f"there is no link {name!r}", errno.ENODEV)
        return index

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        space = self._spaces[self._ns]
        try:
            space.socket.send_batch([message for _, message in pending])
        except NetlinkError as error:
            self._settle(pending, error)
        else:
            self._done += dict.fromkeys(op for op, _ in pending)
        for op, _ in pending:
            if isinstance(op, DelLink):
                space.indices.pop(op.name, None)

    def _settle(self, pending: list[tuple[Op, bytes]], error: NetlinkError) -> None:
        """After a refusal: note what took effect all the same; raise unless each refusal means "already so"."""
        self._done += dict.fromkeys(op for index, (op, _) in enumerate(pending) if index not in error.failed)
        if not all(already_so(pending[index][0], number) for index, number in error.failed.items()):
            raise refusal(pending[error.index][0], error.errno, error.text) from None

    def _set_sysctl(self, op: Op, sysctl: Sysctl) -> None:
        space = self._spaces[sysctl.ns]
        try:
            if space.fd is None:
                self._write(sysctl.key, sysctl.value)
            else:
                with netns.entered(space.fd):
                    self._write(sysctl.key, sysctl.value)
        except OSError as error:
            if error.errno == errno.ENOENT and not sysctl.required:
                return
            raise refusal(op, error.errno or errno.EIO) from None
        self._done.append(op)

    def _shape(self, op: Op, shaper: Shaper) -> None:
        if self._shapers is None:
            raise AssertionError("the root wires traffic control where there are limits")
        self._shapers.add(shaper)
        self._done.append(op)


def _as_link(wanted: Link, seen: rtnl.SeenLink) -> Link:
    """A shared link as seen. What it is part of (master, VLANs) was set when it was made and is not asked again."""
    kinds: dict[str, LinkKind] = {"veth": "veth", "bridge": "bridge", "ifb": "ifb"}
    return replace(
        wanted,
        kind=kinds.get(seen.kind, "other"),
        mac=seen.mac,
        mtu=seen.mtu,
        up=bool(seen.flags & rtnl.IFF_UP),
        promisc=bool(seen.flags & rtnl.IFF_PROMISC),
        vlan_filtering=seen.vlan_filtering,
    )
