"""Neighbours and forwarding entries as rtnetlink messages, packed by hand; `tests/unit` proves them pyroute2's.

A forwarding entry of a VXLAN link is a neighbour of family AF_BRIDGE that is the link's own ("self"). Numbers:
linux/neighbour.h.
"""

import struct
from ipaddress import ip_address

from cni_py.kernel import rtnl
from cni_py.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    attr,
    message,
    parse_attrs,
)
from cni_py.model.net import EVERYBODY, Fdb, Neighbour

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
_NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO, _NDA_IFINDEX = 1, 2, 3, 8
_ATTRIBUTE = struct.Struct("=HH")
_NTF_SELF = 0x02
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_SET = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
_APPEND = NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
_INDEX = struct.Struct("=I")

# RTM_NEWNEIGH or RTM_DELNEIGH, of which address (a node's, of a forwarding entry), and the MAC.
Word = tuple[int, bytes, bytes]


def set_neighbour(neighbour: Neighbour, index: int) -> bytes:
    """The neighbour is known for good on the link of that index."""
    return message(RTM_NEWNEIGH, _SET, _neighbour(neighbour, index) + attr(_NDA_LLADDR, _mac(neighbour.mac)))


def del_neighbour(neighbour: Neighbour, index: int) -> bytes:
    """The neighbour is forgotten."""
    return message(RTM_DELNEIGH, NLM_F_ACK, _neighbour(neighbour, index))


def get_neighbours(index: int, family: int) -> bytes:
    """Ask for the neighbours of one link."""
    body = _NDMSG.pack(family, 0, 0, 0, 0) + attr(_NDA_IFINDEX, _INDEX.pack(index))
    return message(RTM_GETNEIGH, NLM_F_DUMP, body)


def parse_neighbour(payload: bytes, link: str, index: int) -> Neighbour | None:
    """An answer to `get_neighbours`; None for what is not permanent: that is the kernel's own, and goes by itself."""
    _, seen, state, _, _ = _NDMSG.unpack_from(payload)
    told = parse_attrs(payload, _NDMSG.size)
    if seen != index or not state & _NUD_PERMANENT or _NDA_DST not in told:
        return None
    return Neighbour("host", link, ip_address(told[_NDA_DST]), told.get(_NDA_LLADDR, b"").hex(":"))


def word(kind: int, payload: bytes) -> Word:
    """What the kernel tells, so that it can be compared with `word_of` what was asked for."""
    told = parse_attrs(payload, _NDMSG.size)
    forgotten = kind == RTM_DELNEIGH and payload[0] != rtnl.AF_BRIDGE  # its MAC is no more, or whatever it was
    return kind, told.get(_NDA_DST, b""), b"" if forgotten else told.get(_NDA_LLADDR, b"")


def word_of(kind: int, one: Neighbour | Fdb) -> Word:
    """What the kernel tells once that is so."""
    if isinstance(one, Fdb):
        return kind, one.dst.packed, _mac(one.mac)
    return kind, one.address.packed, b"" if kind == RTM_DELNEIGH else _mac(one.mac)


def lasting(payload: bytes) -> bytes:
    """An answer up to its ages, so that it is the same each time; what comes after them is nothing of ours."""
    offset, end = _NDMSG.size, len(payload)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if kind == _NDA_CACHEINFO or size < 4:
            break
        offset += (size + 3) & ~3
    return payload[:offset]


def set_fdb(entry: Fdb, index: int) -> bytes:
    """Frames to the MAC go to that node, and of a unicast MAC to no other; everybody's go to one node more."""
    flags = _APPEND if entry.mac == EVERYBODY else _SET
    return message(RTM_NEWNEIGH, flags, _entry(entry, index, _NUD_NOARP | _NUD_PERMANENT))


def del_fdb(entry: Fdb, index: int) -> bytes:
    """The entry is gone."""
    return message(RTM_DELNEIGH, NLM_F_ACK, _entry(entry, index, 0))


def get_fdb(index: int) -> bytes:
    """Ask for the forwarding entries of one link."""
    return message(RTM_GETNEIGH, NLM_F_DUMP, _NDMSG.pack(rtnl.AF_BRIDGE, index, 0, 0, 0))


def parse_fdb(payload: bytes, link: str, index: int) -> Fdb | None:
    """An answer to `get_fdb`; None for what leads to no node."""
    _, seen, state, _, _ = _NDMSG.unpack_from(payload)
    told = parse_attrs(payload, _NDMSG.size)
    if seen != index or _NDA_DST not in told or _NDA_LLADDR not in told:
        return None
    learned = not state & _NUD_PERMANENT
    return Fdb("host", link, told[_NDA_LLADDR].hex(":"), ip_address(told[_NDA_DST]), learned)


def _neighbour(neighbour: Neighbour, index: int) -> bytes:
    family = rtnl.AF_INET if neighbour.address.version == 4 else rtnl.AF_INET6
    return _NDMSG.pack(family, index, _NUD_PERMANENT, 0, 0) + attr(_NDA_DST, neighbour.address.packed)


def _entry(entry: Fdb, index: int, state: int) -> bytes:
    body = _NDMSG.pack(rtnl.AF_BRIDGE, index, state, _NTF_SELF, 0)
    return body + attr(_NDA_LLADDR, _mac(entry.mac)) + attr(_NDA_DST, entry.dst.packed)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
