"""Packets that nftables' `log group N` sends to user space (NFLOG), as the flows they belong to.

Netlink, subsystem NFNL_SUBSYS_ULOG of linux/netfilter/nfnetlink_log.h. The kernel never waits for whoever reads: what
does not fit into the socket is lost, and counted here.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cni_py.kernel.netlink import NETLINK_NETFILTER, attr, message, messages, parse_attrs
from cni_py.model.errors import KernelError
from cni_py.model.policy import SCTP, TCP, UDP, Flow

_SUBSYSTEM = 4 << 8
_PACKET, _CONFIG = 0, 1
_CONFIG_COMMAND, _CONFIG_MODE, _CONFIG_THRESHOLD = 1, 2, 5
_BIND, _COPY_PACKET = 1, 2
_PAYLOAD, _PREFIX = 9, 10
_NLM_F_REQUEST, _NLM_F_ACK, _NLMSG_ERROR = 1, 4, 2
_READ_BYTES = 1 << 17
_BUFFER_BYTES = 1 << 20
_PORTED = {TCP, UDP, SCTP}
_EXTENSIONS = {0, 43, 60}  # hop-by-hop, routing, destination options: RFC 8200
_FRAGMENT = 44


@dataclass(frozen=True, slots=True)
class Logged:
    """One packet: the prefix of the rule that logged it, and its flow, with the source's port, 0 for none."""

    prefix: str
    flow: Flow
    source_port: int


class Nflog:
    """The packets of one group in the namespace in which it is made. Raises KernelError if somebody else has it."""

    def __init__(self, group: int, copy_bytes: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self.lost = 0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.bind((0, 0))
            self._configure(group, attr(_CONFIG_COMMAND, bytes((_BIND,))))
            mode = struct.pack("!IBB", copy_bytes, _COPY_PACKET, 0)
            self._configure(group, attr(_CONFIG_MODE, mode))
            # each packet at once: rules limit how many there are, and the kernel would gather them for a second
            self._configure(group, attr(_CONFIG_THRESHOLD, struct.pack("!I", 1)))
            self._socket.setblocking(False)  # noqa: FBT003  # the standard library's
        except OSError as error:
            self._socket.close()
            number = error.errno or errno.EIO
            raise KernelError(
                f"dropped packets are not told of: NFLOG group {group}: {os.strerror(number)}",
                number,
                "is the kernel module nfnetlink_log there, and no other program reads this group?",
            ) from None

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        """Nothing is read any more."""
        self._socket.close()

    def read(self) -> Iterator[Logged]:
        """What was logged since the last reading."""
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            for kind, _, _, payload in messages(data, len(data)):
                if kind == _SUBSYSTEM | _PACKET:
                    parts = parse_attrs(payload, 4)
                    seen = parse_packet(parts.get(_PAYLOAD, b""))
                    if seen is not None:
                        yield Logged(parts.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace"), *seen)

    def _configure(self, group: int, attribute: bytes) -> None:
        body = struct.pack("!BBH", 0, 0, group) + attribute
        self._socket.send(message(_SUBSYSTEM | _CONFIG, _NLM_F_REQUEST | _NLM_F_ACK, body))
        data = self._socket.recv(_READ_BYTES)
        for kind, _, _, payload in messages(data, len(data)):
            if kind == _NLMSG_ERROR and (number := -struct.unpack_from("=i", payload)[0]):
                raise OSError(number, os.strerror(number))


def parse_packet(data: bytes) -> tuple[Flow, int] | None:
    """The flow of an IP packet, of which only the beginning may be there, and its source port; None if it is none."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        first = not int.from_bytes(data[6:8], "big") & 0x1FFF
        ends = IPv4Address(data[12:16]), IPv4Address(data[16:20])
        return _flow(ends, data[9], data[(data[0] & 15) * 4 :] if first else b"")
    if version == 6 and len(data) >= 40:
        protocol, rest, first = data[6], data[40:], True
        while protocol in _EXTENSIONS and len(rest) >= 8:
            protocol, rest = rest[0], rest[8 * (rest[1] + 1) :]
        if protocol == _FRAGMENT and len(rest) >= 8:
            protocol, first, rest = rest[0], not int.from_bytes(rest[2:4], "big") & 0xFFF8, rest[8:]
        return _flow((IPv6Address(data[8:24]), IPv6Address(data[24:40])), protocol, rest if first else b"")
    return None


def _flow(
    ends: tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address], protocol: int, transport: bytes
) -> tuple[Flow, int]:
    source_port = port = 0
    if protocol in _PORTED and len(transport) >= 4:
        source_port, port = struct.unpack_from("!HH", transport)
    return Flow(ends[0], ends[1], protocol, port), source_port
