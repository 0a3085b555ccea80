"""The kernel of one call: the host's and the container's namespace, read and changed by rtnetlink and sysctls.

The kernel does not roll a half-failed datagram back; `NodeKernel.apply` does, with the inverses of what took effect.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_interface

from cni_py.kernel import netns, rtnl
from cni_py.kernel.apply import Namespace, Run
from cni_py.kernel.errnos import translate
from cni_py.kernel.link_events import LinkEvents
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from cni_py.kernel.sysctl import read_sysctl, write_sysctl
from cni_py.kernel.warm_host import WarmHost
from cni_py.model.errors import CniPyError, KernelError
from cni_py.model.net import Address, Link, LinkKind, NodeState, Ns, Sysctl
from cni_py.model.ops import Op, inverse

_CARRIER_DEADLINE_S = 3  # the reference waits 2.55 s


def open_route_socket() -> NetlinkSocket:
    """An rtnetlink socket in the namespace that the thread is in; what is asked of it at once is little."""
    return NetlinkSocket(NETLINK_ROUTE, buffer_bytes=0)


class NodeKernel:
    """Reads and changes both namespaces of one call. `container_fd` is None where there is no container to touch.

    With a `warm` host a link of it counts as deleted when it is gone, which is long before the system call returns.
    """

    def __init__(
        self,
        container_fd: int | None,
        host: NetlinkSocket,
        open_socket: Callable[[], NetlinkSocket] = open_route_socket,
        write: Callable[[str, str], None] = write_sysctl,
        warm: WarmHost | None = None,
    ) -> None:
        self._shared = warm.shared if warm is not None else None
        self._remover = warm.remover if warm is not None else None
        home = warm.home if warm is not None else None
        self._write = write
        self._spaces: dict[Ns, Namespace] = {"host": Namespace(None, host)}
        if container_fd is not None:
            with netns.entered(container_fd, home):
                self._spaces["container"] = Namespace(container_fd, open_socket(), home)

    def close(self) -> None:
        """The container's socket is gone; the host's is its opener's."""
        if "container" in self._spaces:
            self._spaces["container"].socket.close()

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
            if link.shared:
                found, on_it = self._shared_link(link)
                links += found
                addresses += on_it
        return NodeState(links=tuple(links), addresses=tuple(addresses), sysctls=tuple(self._sysctls(desired)))

    def _shared_link(self, link: Link) -> tuple[Sequence[Link], Sequence[Address]]:
        socket = self._spaces[link.ns].socket
        known = self._shared.recall(link.name, socket) if self._shared is not None and link.ns == "host" else None
        if known is not None:
            return (_as_wanted(link, known[0]),), known[1]
        seen = self.see_link(link.ns, link.name)
        if seen is None:
            return (), ()
        found, on_it = _as_link(link, seen), self._addresses_on(link.ns, seen)
        if self._shared is not None and link.ns == "host" and found.up:
            self._shared.note(link.name, seen.index, found, on_it)
        return (found,), on_it

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

    def await_carrier(self, name: str) -> None:
        """The link sends, as it does as soon as the kernel has worked off the carrier of its other end.

        Until then all that it is given is lost: the answer to a pod's first question for its gateway, which the pod
        repeats a second later. The kernel tells on the link group; the socket listens before it looks.
        """
        if self._is_up(name):
            return
        with LinkEvents(_CARRIER_DEADLINE_S) as events:
            while not self._is_up(name):
                if not events.wait():
                    raise KernelError(f"{name!r} is not up after {_CARRIER_DEADLINE_S} s", errno.ENETDOWN)

    def _is_up(self, name: str) -> bool:
        seen = self.see_link("host", name)
        if seen is None:
            raise KernelError(f"{name!r} is gone", errno.ENODEV)
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
        if self._shared is not None:
            self._shared.changing(ops)
        try:
            Run(self._spaces, self._write, done, self._remover).run(ops)
        except CniPyError as error:
            left = self.undo(done)
            if left:
                error.details = "; ".join(filter(None, (error.details, *left)))
            raise

    def undo(self, ops: Sequence[Op]) -> list[str]:
        """The inverses of `ops`, last first; what could not be undone, in words."""
        left: list[str] = []
        if self._shared is not None:
            self._shared.forget()
        for op in reversed(ops):
            back = inverse(op)
            if back is None:
                continue
            try:
                Run(self._spaces, write_sysctl, []).run((back,))
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

    def _sysctls(self, desired: NodeState) -> Iterator[Sysctl]:
        """Sysctls as they are, but for those of links that are yet to be made."""
        new = tuple(f"/conf/{link.name}/" for link in desired.links if not link.shared)
        for ns, space in self._spaces.items():
            asked = [one for one in desired.sysctls if one.ns == ns and not any(part in one.key for part in new)]
            if not asked:
                continue
            with space.entered():
                for one in asked:
                    value = read_sysctl(one.key)
                    if value is not None:
                        yield Sysctl(ns, one.key, value, one.required)


def _as_wanted(wanted: Link, remembered: Link) -> Link:
    """A link as it was read for another attachment, which may have wanted other things of it that are not read."""
    return replace(
        wanted,
        kind=remembered.kind,
        mac=remembered.mac,
        mtu=remembered.mtu,
        up=remembered.up,
        promisc=remembered.promisc,
        vlan_filtering=remembered.vlan_filtering,
    )


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
