"""Deletes connection tracking entries that would keep a host port leading to where it led before; never flushes all.

A UDP flow has no end, so its entry lives as long as packets come: a client that asked before the port was mapped, or
that talked to a pod which is gone, is stuck with the old translation until its entry is deleted.
"""

import errno
import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cni_py.kernel.netlink import NLM_F_ACK, NLM_F_DUMP, NetlinkError, NetlinkSocket, attr, message, nested, parse_attrs
from cni_py.model.errors import KernelError

_SUBSYSTEM = 1 << 8
_GET, _DELETE = 1, 2
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_IP_SOURCE, _IP_DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTOCOL_NUMBER, _DESTINATION_PORT = 1, 3
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 3, 1 << 5  # bits of CTA_FILTER_ORIG_FLAGS, Linux 5.8
_FAMILY = {4: 2, 6: 10}
_NO_TRACKING = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT}


@dataclass(frozen=True, slots=True)
class Flows:
    """Connections of IP `version` that were opened to `port` (of `address`, if given) over a protocol with ports.

    With `translated_to`: only those that DNAT sends to that address, so nobody else's connection to such a port.
    """

    version: int
    protocol: int
    port: int
    address: IPv4Address | IPv6Address | None = None
    translated_to: IPv4Address | IPv6Address | None = None


def delete(socket: NetlinkSocket, flows: Flows) -> int:
    """The entries are gone; returns how many there were. `socket` is one of `kernel.nft.connect`.

    A node that tracks no connections has none. KernelError if the kernel refuses to list or to delete.
    """
    deleted = 0
    for entry in _list(socket, flows):
        if not _belongs(entry, flows):
            continue
        which = b"".join(attr(kind, entry[kind]) for kind in (_ID, _ZONE) if kind in entry)
        body = nested(_TUPLE_ORIGINAL, entry[_TUPLE_ORIGINAL]) + which
        try:
            socket.send_batch((_request(_DELETE, NLM_F_ACK, flows.version, body),))
        except NetlinkError as error:
            if error.errno != errno.ENOENT:  # it ended by itself meanwhile
                raise KernelError(f"deleting a tracked connection: {os.strerror(error.errno)}", error.errno) from None
        else:
            deleted += 1
    return deleted


def _list(socket: NetlinkSocket, flows: Flows) -> list[dict[int, bytes]]:
    """Entries that may belong. A kernel before 5.8 ignores the filter and answers with all, hence `_belongs`."""
    protocol = attr(_PROTOCOL_NUMBER, bytes((flows.protocol,)))
    wanted = nested(_TUPLE_PROTOCOL, protocol, attr(_DESTINATION_PORT, struct.pack("!H", flows.port)))
    flags = struct.pack("=I", _BY_PROTOCOL | _BY_DESTINATION_PORT)
    chosen = nested(_FILTER, attr(_FILTER_ORIGINAL, flags), attr(_FILTER_REPLY, bytes(4)))
    for body in (nested(_TUPLE_ORIGINAL, wanted) + chosen, b""):
        try:
            answers = socket.request(_request(_GET, NLM_F_DUMP, flows.version, body))
        except NetlinkError as error:
            if error.errno in _NO_TRACKING:
                continue
            raise KernelError(f"listing tracked connections: {os.strerror(error.errno)}", error.errno) from None
        return [parse_attrs(answer, 4) for answer in answers]
    return []


def _belongs(entry: dict[int, bytes], flows: Flows) -> bool:
    original = parse_attrs(entry.get(_TUPLE_ORIGINAL, b""))
    transport = parse_attrs(original.get(_TUPLE_PROTOCOL, b""))
    if transport.get(_PROTOCOL_NUMBER) != bytes((flows.protocol,)):
        return False
    if transport.get(_DESTINATION_PORT) != struct.pack("!H", flows.port):
        return False
    destination = parse_attrs(original.get(_TUPLE_IP, b"")).get(_IP_DESTINATION[flows.version])
    if destination is None or (flows.address is not None and destination != flows.address.packed):
        return False
    if flows.translated_to is None:
        return True
    reply = parse_attrs(parse_attrs(entry.get(_TUPLE_REPLY, b"")).get(_TUPLE_IP, b""))
    return reply.get(_IP_SOURCE[flows.version]) == flows.translated_to.packed != destination


def _request(kind: int, flags: int, version: int, body: bytes) -> bytes:
    return message(_SUBSYSTEM | kind, flags, bytes((_FAMILY[version], 0, 0, 0)) + body)
