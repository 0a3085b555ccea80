"""Deletes connection tracking entries that would keep a host port leading to where it led before; never flushes all.

A UDP flow has no end, so its entry lives as long as packets come: a client that asked before the port was mapped, or
that talked to a pod which is gone, is stuck with the old translation until its entry is deleted.
"""

import errno
import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cni_py.kernel.netlink import NLM_F_ACK, NLM_F_DUMP, NetlinkError, NetlinkSocket, attr, message, nested, parse_attrs
from cni_py.model.errors import KernelError

_SUBSYSTEM = 1 << 8
GET, _DELETE, _GET_STATS = 1, 2, 5
_STATS_GLOBAL_ENTRIES = 1
TUPLE_ORIGINAL, TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
TUPLE_IP, TUPLE_PROTOCOL = 1, 2
_IP_SOURCE, _IP_DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTOCOL_NUMBER, _DESTINATION_PORT = 1, 3
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 3, 1 << 5  # bits of CTA_FILTER_ORIG_FLAGS, Linux 5.8
_FAMILY = {4: 2, 6: 10}
NO_TRACKING = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT}


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


def delete(socket: NetlinkSocket, wanted: Collection[Flows]) -> int:
    """The entries are gone; returns how many there were. `socket` is one of `kernel.nft.connect`.

    A node that tracks no connections has none. KernelError if the kernel refuses to list or to delete. The kernel walks
    its whole table for a list, 3 ms for 262,144 buckets: an empty one is asked for its size only, and the others once
    for all ports of a family.
    """
    deleted = 0
    if not wanted or _is_empty(socket):
        return 0
    for version, protocol in {(flows.version, flows.protocol) for flows in wanted}:
        some = [flows for flows in wanted if (flows.version, flows.protocol) == (version, protocol)]
        port = some[0].port if len({flows.port for flows in some}) == 1 else None
        for entry in _list(socket, version, protocol, port):
            if any(_belongs(entry, flows) for flows in some):
                deleted += forget(socket, version, entry)
    return deleted


def forget(socket: NetlinkSocket, version: int, entry: Mapping[int, bytes]) -> bool:
    """The entry, as the kernel listed it, is gone; False if it was already. Raises KernelError."""
    which = b"".join(attr(kind, entry[kind]) for kind in (_ID, _ZONE) if kind in entry)
    body = nested(TUPLE_ORIGINAL, entry[TUPLE_ORIGINAL]) + which
    try:
        socket.send_batch((request(_DELETE, NLM_F_ACK, version, body),))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:  # it ended by itself meanwhile
            raise KernelError(f"deleting a tracked connection: {os.strerror(error.errno)}", error.errno) from None
        return False
    return True


def _is_empty(socket: NetlinkSocket) -> bool:
    try:
        answers = socket.request(request(_GET_STATS, 0, 4, b""))
    except NetlinkError:
        return False  # the list will say more
    return all(parse_attrs(answer, 4).get(_STATS_GLOBAL_ENTRIES) == bytes(4) for answer in answers)


def _list(socket: NetlinkSocket, version: int, protocol: int, port: int | None) -> list[dict[int, bytes]]:
    """Entries that may belong. A kernel before 5.8 ignores the filter and answers with all, hence `_belongs`."""
    transport = attr(_PROTOCOL_NUMBER, bytes((protocol,)))
    flags = _BY_PROTOCOL
    if port is not None:
        transport += attr(_DESTINATION_PORT, struct.pack("!H", port))
        flags |= _BY_DESTINATION_PORT
    chosen = nested(_FILTER, attr(_FILTER_ORIGINAL, struct.pack("=I", flags)), attr(_FILTER_REPLY, bytes(4)))
    for body in (nested(TUPLE_ORIGINAL, nested(TUPLE_PROTOCOL, transport)) + chosen, b""):
        try:
            answers = socket.request(request(GET, NLM_F_DUMP, version, body))
        except NetlinkError as error:
            if error.errno in NO_TRACKING:
                continue
            raise KernelError(f"listing tracked connections: {os.strerror(error.errno)}", error.errno) from None
        return [parse_attrs(answer, 4) for answer in answers]
    return []


def _belongs(entry: dict[int, bytes], flows: Flows) -> bool:
    original = parse_attrs(entry.get(TUPLE_ORIGINAL, b""))
    transport = parse_attrs(original.get(TUPLE_PROTOCOL, b""))
    if transport.get(_PROTOCOL_NUMBER) != bytes((flows.protocol,)):
        return False
    if transport.get(_DESTINATION_PORT) != struct.pack("!H", flows.port):
        return False
    destination = parse_attrs(original.get(TUPLE_IP, b"")).get(_IP_DESTINATION[flows.version])
    if destination is None or (flows.address is not None and destination != flows.address.packed):
        return False
    if flows.translated_to is None:
        return True
    reply = parse_attrs(parse_attrs(entry.get(TUPLE_REPLY, b"")).get(TUPLE_IP, b""))
    return reply.get(_IP_SOURCE[flows.version]) == flows.translated_to.packed != destination


def request(kind: int, flags: int, version: int, body: bytes) -> bytes:
    """A message to connection tracking about IP `version`."""
    return message(_SUBSYSTEM | kind, flags, bytes((_FAMILY[version], 0, 0, 0)) + body)
