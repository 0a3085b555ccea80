"""The connections that the kernel tracks, as the forward hook sees their first packet: after DNAT, before SNAT."""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cni_py.kernel import conntrack
from cni_py.kernel.netlink import NLM_F_DUMP, NetlinkError, NetlinkSocket, parse_attrs
from cni_py.model.errors import KernelError
from cni_py.model.policy import Flow

_SOURCE, _DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTOCOL, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection; `entry` is how the kernel knows it. `source_port` is 0 for a protocol without ports."""

    flow: Flow
    source_port: int
    entry: Mapping[int, bytes]


def tracked(socket: NetlinkSocket, version: int) -> Iterator[Connection]:
    """All of an IP version; none on a node that tracks nothing. `socket` is one for nfnetlink. Raises KernelError."""
    try:
        answers = socket.request(conntrack.request(conntrack.GET, NLM_F_DUMP, version, b""))
    except NetlinkError as error:
        if error.errno in conntrack.NO_TRACKING:
            return
        raise KernelError(f"listing tracked connections: {os.strerror(error.errno)}", error.errno) from None
    for answer in answers:
        entry = parse_attrs(answer, 4)
        connection = _connection(version, entry)
        if connection is not None:
            yield connection


def forget(socket: NetlinkSocket, connection: Connection) -> None:
    """The kernel knows nothing of it any more; its next packet is a first one. Raises KernelError."""
    conntrack.forget(socket, connection.flow.source.version, connection.entry)


def _connection(version: int, entry: Mapping[int, bytes]) -> Connection | None:
    """None if the kernel leaves out what makes it one."""
    original = parse_attrs(entry.get(conntrack.TUPLE_ORIGINAL, b""))
    reply = parse_attrs(entry.get(conntrack.TUPLE_REPLY, b""))
    source = parse_attrs(original.get(conntrack.TUPLE_IP, b"")).get(_SOURCE[version])
    destination = parse_attrs(reply.get(conntrack.TUPLE_IP, b"")).get(_SOURCE[version])
    sent = parse_attrs(original.get(conntrack.TUPLE_PROTOCOL, b""))
    answered = parse_attrs(reply.get(conntrack.TUPLE_PROTOCOL, b""))
    if source is None or destination is None or _PROTOCOL not in sent:
        return None
    address = IPv4Address if version == 4 else IPv6Address
    source_port, port = sent.get(_SOURCE_PORT, bytes(2)), answered.get(_SOURCE_PORT, bytes(2))
    flow = Flow(address(source), address(destination), sent[_PROTOCOL][0], struct.unpack("!H", port)[0])
    return Connection(flow, struct.unpack("!H", source_port)[0], entry)
