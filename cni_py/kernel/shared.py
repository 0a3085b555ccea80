"""Bridges as they were last read. Reading one and its addresses anew for each ADD costs as much as making the veth.

What is remembered counts as long as the device of that name has the same index and is up, which two ioctls tell. All of
it is forgotten when the kernel says that something was taken away (`kernel.host_events`), and one when we change it.
"""

import fcntl
import struct
from collections.abc import Iterable

from cni_py.kernel.netlink import NetlinkSocket
from cni_py.model.net import Address, Link
from cni_py.model.ops import AddAddress, AddLink, DelAddress, DelLink, Op, SetLink

_SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8913, 0x8933
_IFREQ_NUMBER = struct.Struct("16si20x")
_IFREQ_FLAGS = struct.Struct("16sh22x")
_UP = 1


class SharedLinks:
    """{name: what was read of it} of the host's links that attachments share."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Link, tuple[Address, ...]]] = {}

    def recall(self, name: str, socket: NetlinkSocket) -> tuple[Link, tuple[Address, ...]] | None:
        """The link and its addresses, None if they have to be read."""
        known = self._known.get(name)
        if known is None:
            return None
        request = name.encode()
        try:
            (_, index) = _IFREQ_NUMBER.unpack(
                fcntl.ioctl(socket.fileno(), _SIOCGIFINDEX, _IFREQ_NUMBER.pack(request, 0))
            )
            (_, flags) = _IFREQ_FLAGS.unpack(fcntl.ioctl(socket.fileno(), _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(request, 0)))
        except OSError:
            index, flags = 0, 0
        if index != known[0] or not flags & _UP:
            del self._known[name]
            return None
        return known[1:]

    def note(self, name: str, index: int, link: Link, addresses: Iterable[Address]) -> None:
        """It was read just now."""
        self._known[name] = (index, link, tuple(addresses))

    def changing(self, ops: Iterable[Op]) -> None:
        """These changes are about to be made: what they change has to be read again."""
        if not self._known:
            return
        for op in ops:
            match op:
                case AddLink(link) | SetLink(link):
                    self._known.pop(link.name, None)
                case AddAddress(address) | DelAddress(address):
                    self._known.pop(address.link, None)
                case DelLink(_, name):
                    self._known.pop(name, None)
                case _:
                    pass

    def forget(self) -> None:
        """Nothing is known."""
        self._known.clear()
