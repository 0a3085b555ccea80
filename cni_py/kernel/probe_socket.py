"""The UDP socket of the probes: it chooses the sender's address by the packet, and hears of the errors of each.

Nothing it sends is fragmented, whatever the kernel knows of the path (IP_PMTUDISC_PROBE): a large probe either arrives
as one packet or not at all. A tunnel's own outer packets are the kernel's matter.
"""

import errno
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

# linux/in.h, linux/in6.h; what the socket module has no names for
_IP_PKTINFO, _IP_MTU_DISCOVER, _IP_RECVERR = 8, 10, 11
_IPV6_MTU_DISCOVER, _IPV6_RECVERR = 23, 25
_IP_MTU, _IPV6_MTU = 14, 24
_PMTUDISC_PROBE = 3
_PKTINFO4, _PKTINFO6 = struct.Struct("=i4s4s"), struct.Struct("=16si")
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_ROOM = 1 << 16
_QUOTED = 576  # bytes at most of our packet in an ICMP error
_MOST_FAULTS = 64

# What an earlier packet met may be told when the next one is sent.
_LATE = frozenset(
    (
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EACCES,
        errno.EMSGSIZE,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EHOSTDOWN,
        errno.ENONET,
    )
)


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram, who sent it from which port, and at which of our addresses it came in."""

    data: memoryview
    sender: str
    port: int
    to: str


@dataclass(frozen=True, slots=True)
class Fault:
    """The kernel or somebody on the way would not carry a datagram, which is quoted as far as it came back."""

    data: bytes
    number: int


def key(address: IPv4Address | IPv6Address) -> str:
    """As the socket tells addresses."""
    return socket.inet_ntop(_family(address.version), address.packed)


class ProbeSocket:
    """Raises OSError if the port cannot be had. The memory of what it received is used again for the next."""

    def __init__(self, version: int, port: int) -> None:
        self.version = version
        self._socket = own = socket.socket(_family(version), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if version == 4:
                own.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                own.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
                own.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            else:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                own.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
                own.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
            own.bind(("", port))
        except OSError:
            own.close()
            raise
        self._room = bytearray(_ROOM)
        self._faults: list[Fault] = []

    def fileno(self) -> int:
        """To wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """The port is free again."""
        self._socket.close()

    def send(self, data: bytes, source: str, target: str, port: int) -> int:
        """0, or the errno for which the datagram did not leave."""
        message = ((data,), (self._from(source),), 0, (target, port))
        try:
            self._socket.sendmsg(*message)
        except OSError as error:
            if error.errno not in _LATE:
                return error.errno or errno.EIO
        else:
            return 0
        self._collect()
        try:
            self._socket.sendmsg(*message)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def receive(self) -> Received | None:
        """The next datagram; None if there is none now."""
        while True:
            try:
                count, ancillary, flags, sender = self._socket.recvmsg_into((self._room,), 256)
            except BlockingIOError:
                return None
            except OSError:  # an error of an earlier packet; what is still there makes the socket readable
                self._collect()
                return None
            if flags & socket.MSG_TRUNC:
                continue
            return Received(memoryview(self._room)[:count], sender[0], sender[1], self._to(ancillary))

    def faults(self) -> list[Fault]:
        """What came back since the last call."""
        self._collect()
        found, self._faults = self._faults, []
        return found

    def _collect(self) -> None:
        for _ in range(_MOST_FAULTS):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_QUOTED, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            for level, kind, body in ancillary:
                if (level, kind) in _ERRORS and len(body) >= _EXTENDED_ERROR.size and len(self._faults) < _MOST_FAULTS:
                    self._faults.append(Fault(data, _EXTENDED_ERROR.unpack_from(body)[0]))

    def _from(self, source: str) -> tuple[int, int, bytes]:
        packed = socket.inet_pton(_family(self.version), source)
        if self.version == 4:
            return socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(0, packed, bytes(4))
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(packed, 0)

    def _to(self, ancillary: list[tuple[int, int, bytes]]) -> str:
        for level, kind, body in ancillary:
            with suppress(struct.error):
                if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                    return socket.inet_ntop(socket.AF_INET, _PKTINFO4.unpack(body)[2])
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                    return socket.inet_ntop(socket.AF_INET6, _PKTINFO6.unpack(body)[0])
        return ""


def heard_mtu(source: IPv4Address | IPv6Address, target: IPv4Address | IPv6Address) -> int:
    """What the kernel knows of the path's MTU, from its routes and from what others told it; 0 if there is no path."""
    level, option = (socket.IPPROTO_IP, _IP_MTU) if target.version == 4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
    try:
        with socket.socket(_family(target.version), socket.SOCK_DGRAM) as own:
            own.bind((str(source), 0))
            own.connect((str(target), 9))
            return own.getsockopt(level, option)
    except OSError:
        return 0


_ERRORS = ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))


def words(number: int) -> str:
    """An errno for people."""
    return os.strerror(number).lower()


def _family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6
