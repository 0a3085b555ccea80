"""One pass over a list of changes: messages are collected and sent when something needs their outcome.

Changes of one namespace that need nothing from each other so go out in one datagram, a whole attach in two or three.
"""

import errno
import fcntl
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby

from cni_py.kernel import netns, rtnl, tc
from cni_py.kernel.errnos import already_so, refusal
from cni_py.kernel.netlink import NetlinkError, NetlinkSocket
from cni_py.kernel.removal import LinkRemover
from cni_py.model.diff import link_change
from cni_py.model.errors import KernelError
from cni_py.model.net import Link, Ns, Sysctl
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
)

_SIOCGIFINDEX = 0x8933


@dataclass(slots=True)
class Namespace:
    """One of the two namespaces: a socket in it, and the indices of links seen so far. `fd` None is our own.

    `home` is a descriptor of our own, if there is one that is open anyway.
    """

    fd: int | None
    socket: NetlinkSocket
    home: int | None = None
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

    def entered(self) -> AbstractContextManager[None]:
        """This thread is in the namespace inside the block."""
        return nullcontext() if self.fd is None else netns.entered(self.fd, self.home)


class Run:
    """One pass over a list of changes: collects messages, sends them when something needs their outcome."""

    def __init__(
        self,
        spaces: dict[Ns, Namespace],
        write: Callable[[str, str], None],
        done: list[Op],
        remover: LinkRemover | None = None,
    ) -> None:
        self._remover = remover
        self._spaces = spaces
        self._write = write
        self._done = done
        self._ns: Ns = "host"
        self._pending: list[tuple[Op, bytes]] = []

    def run(self, ops: Sequence[Op]) -> None:
        """All changes, in order; those that took effect are in `done`, also when one is refused (CniPyError)."""
        for ns, group in groupby(ops, lambda op: op.sysctl.ns if isinstance(op, SetSysctl) else None):
            if ns is not None:
                self._flush()
                with self._spaces[ns].entered():
                    for op in group:
                        self._step(op)
                continue
            for op in group:
                self._step(op)
        self._flush()

    def _step(self, op: Op) -> None:
        match op:
            case SetSysctl(sysctl):
                self._set_sysctl(op, sysctl)
            case DelLink("host", name) if self._remover is not None:
                self._flush()
                self._remove(self._remover, op, name)
            case _:
                ns, messages = self._encode(op)
                if ns != self._ns:
                    self._flush()
                    self._ns = ns
                self._pending += [(op, message) for message in messages]

    def _encode(self, op: Op) -> tuple[Ns, list[bytes]]:
        """The messages for one change; what waits is sent first if an index is needed that it will bring."""
        match op:
            case AddAddress(address):
                return address.ns, [rtnl.new_address(address, self._index(address.ns, address.link))]
            case DelAddress(address):
                return address.ns, [rtnl.del_address(address, self._index(address.ns, address.link))]
            case AddRoute(route):
                return route.ns, [rtnl.new_route(route, self._index(route.ns, route.link))]
            case DelRoute(route):
                return route.ns, [rtnl.del_route(route, self._index(route.ns, route.link))]
            case AddShaper(shaper):
                source = self._index("host", shaper.mirror_from) if shaper.mirror_from else 0
                return "host", tc.shape(shaper, self._index("host", shaper.link), source)
            case _:
                return self._encode_link(op)

    def _encode_link(self, op: Op) -> tuple[Ns, list[bytes]]:
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
            self._note(op for op, _ in pending)
        if any(isinstance(op, DelLink) for op, _ in pending):  # the other end went too
            for each in self._spaces.values():
                each.indices.clear()

    def _settle(self, pending: list[tuple[Op, bytes]], error: NetlinkError) -> None:
        """After a refusal: note what took effect all the same; raise unless each refusal means "already so"."""
        self._note(op for index, (op, _) in enumerate(pending) if index not in error.failed)
        if not all(already_so(pending[index][0], number) for index, number in error.failed.items()):
            raise refusal(pending[error.index][0], error.errno, error.text) from None

    def _note(self, ops: Iterable[Op]) -> None:
        """These took effect; one that is several messages counts once."""
        for op in ops:
            if not self._done or self._done[-1] is not op:
                self._done.append(op)

    def _set_sysctl(self, op: Op, sysctl: Sysctl) -> None:
        try:
            self._write(sysctl.key, sysctl.value)
        except OSError as error:
            if error.errno == errno.ENOENT and not sysctl.required:
                return
            raise refusal(op, error.errno or errno.EIO) from None
        self._done.append(op)

    def _remove(self, remover: LinkRemover, op: Op, name: str) -> None:
        try:
            remover.remove(name)
        except NetlinkError as error:
            raise refusal(op, error.errno, error.text) from None
        self._done.append(op)
        for space in self._spaces.values():
            space.indices.clear()
