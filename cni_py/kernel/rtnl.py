"""Kernel changes as rtnetlink messages, packed by hand: an ADD is two datagrams and 0.6 ms (decision 0002).

pyroute2 needs 0.4 to 1.1 ms to encode one message and 150 to 200 ms to be imported; it stays the library for all that
is not on the way of an ADD or DEL. `tests/unit/test_rtnl.py` proves each message equal to pyroute2's, byte by byte.
Numbers: linux/rtnetlink.h, if_link.h, if_addr.h.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from cni_py.kernel import tunnel
from cni_py.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attr,
    message,
    nested,
    parse_attrs,
)
from cni_py.model.net import PROTOCOL_ATTACHMENT, Address, Bridge, Link, LinkRoute, Vxlan

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
IFF_UP, IFF_PROMISC = 0x1, 0x100
OPER_UP = 6

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO, IFLA_OPERSTATE = 1, 3, 4, 5, 10, 12, 16
IFLA_LINKINFO, IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 18, 28, 29, 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_DATA, VETH_INFO_PEER = 1, 2, 5, 1
IFLA_BR_STP_STATE, IFLA_BR_VLAN_FILTERING, IFLA_BR_MCAST_SNOOPING = 5, 7, 23
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
_IFLA_LINK_NETNSID, _IFLA_EVENT = 37, 44
_EVENT_FEATURES = 2
_IFLA_AF_SPEC, _IFLA_BRIDGE_FLAGS, _IFLA_BRIDGE_VLAN_INFO, _BRIDGE_FLAGS_MASTER = 26, 0, 2, 1
_PVID, _UNTAGGED = 2, 4
_SKIP_STATS = 1 << 3

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 6, 7, 8, 15
_RTA_VIA = 18
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_ROUTE_TYPES = {"unicast": 1, "unreachable": 7}
_RTN_UNICAST = 1
_ONLINK = 4
# Who made a route. Ours on the host can be told from all others; in the container it is what the reference says, boot.
ROUTE_PROTOCOL = {"host": PROTOCOL_ATTACHMENT, "container": 3}

_MAKE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst length, src length, tos, table, protocol, scope, type, flags
_U32 = struct.Struct("=I")


_ONE_QUEUE = attr(IFLA_NUM_TX_QUEUES, _U32.pack(1)) + attr(IFLA_NUM_RX_QUEUES, _U32.pack(1))


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A link as the kernel reports it; `peer` is the index of a veth's other end, in that end's namespace."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    operstate: int
    master: int
    peer: int
    vlan_filtering: bool
    isolated: bool
    peer_netns: int  # the id of the peer's namespace in this one; -1 if it is none or has none
    vxlan: Vxlan | None
    bridge: Bridge | None


@dataclass(frozen=True, slots=True)
class SeenRoute:
    """A unicast route out of one link as the kernel reports it; addresses packed, empty if there is none."""

    index: int
    dst: bytes
    length: int
    gateway: bytes
    table: int
    protocol: int


def new_veth(host: Link, peer: Link, netns_fd: int | None, master: int) -> bytes:
    """Both ends in one message: the host's up and, with `master` (an index), a port; the peer born where it belongs.

    A device that is moved to another namespace costs a grace period (13 to 16 ms), so none is. Each end has one queue:
    the kernel would make one a CPU, each with files in sysfs (decision 0005). Without `netns_fd` both are the host's.
    """
    end = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, peer.name) + _ONE_QUEUE + _optional(peer)
    end += attr(IFLA_NET_NS_FD, _U32.pack(netns_fd)) if netns_fd is not None else b""
    flags = IFF_UP if host.up else 0
    body = (
        _IFINFO.pack(0, 0, 0, flags, flags)
        + _text(IFLA_IFNAME, host.name)
        + _ONE_QUEUE
        + _optional(host)
        + (attr(IFLA_MASTER, _U32.pack(master)) if master else b"")
        + nested(IFLA_LINKINFO, _text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, attr(VETH_INFO_PEER, end)))
    )
    return message(RTM_NEWLINK, _MAKE, body)


def new_link(link: Link) -> bytes:
    """A bridge, an ifb or a VXLAN."""
    flags = (IFF_UP if link.up else 0) | (IFF_PROMISC if link.promisc else 0)
    own = _bridge(link.bridge) + (attr(IFLA_BR_VLAN_FILTERING, b"\x01") if link.vlan_filtering else b"")
    data = (nested(IFLA_INFO_DATA, own),) if own else ()
    if link.vxlan is not None:
        data = (nested(IFLA_INFO_DATA, tunnel.vxlan_data(link.vxlan)),)
    body = (
        _IFINFO.pack(0, 0, 0, flags, flags)
        + _text(IFLA_IFNAME, link.name)
        + _optional(link)
        + nested(IFLA_LINKINFO, _text(IFLA_INFO_KIND, link.kind), *data)
    )
    return message(RTM_NEWLINK, _MAKE, body)


def set_link(index: int, change: dict[str, object], master: int) -> list[bytes]:
    """The messages that change the attributes named in `change` (model.diff.link_change), master given as index.

    A port that is to be isolated is so before it comes up, and passes on nothing that it must not.
    """
    flags = (IFF_UP if change.get("up") else 0) | (IFF_PROMISC if change.get("promisc") else 0)
    mask = (IFF_UP if "up" in change else 0) | (IFF_PROMISC if "promisc" in change else 0)
    attributes = b""
    if "mac" in change:
        attributes += attr(IFLA_ADDRESS, _mac(str(change["mac"])))
    if "mtu" in change:
        attributes += attr(IFLA_MTU, _U32.pack(int(str(change["mtu"]))))
    if "master" in change:
        attributes += attr(IFLA_MASTER, _U32.pack(master))
    value = attr(IFLA_BR_VLAN_FILTERING, b"\x01") if change.get("vlan_filtering") else b""
    if isinstance(bridge := change.get("bridge"), Bridge):
        value += _bridge(bridge)
    if value:
        attributes += nested(IFLA_LINKINFO, _text(IFLA_INFO_KIND, "bridge"), nested(IFLA_INFO_DATA, value))
    before = []
    if isinstance(vxlan := change.get("vxlan"), Vxlan):  # by itself: beside it the kernel takes no MTU
        value = tunnel.vxlan_change(vxlan)
        info = nested(IFLA_LINKINFO, _text(IFLA_INFO_KIND, "vxlan"), nested(IFLA_INFO_DATA, value))
        before.append(_changed(index, 0, 0, info))
    port = set_port(index, change)
    if change.get("isolated") and mask & IFF_UP and attributes:
        return [*before, _changed(index, 0, 0, attributes), *port, _changed(index, flags, mask)]
    return [*before, *([_changed(index, flags, mask, attributes)] if mask or attributes else []), *port]


def _changed(index: int, flags: int, mask: int, attributes: bytes = b"") -> bytes:
    return message(RTM_NEWLINK, NLM_F_ACK, _IFINFO.pack(0, 0, index, flags, mask) + attributes)


def set_port(index: int, change: dict[str, object]) -> list[bytes]:
    """Hairpin mode and isolation of a bridge port; the kernel takes them only once the port is one."""
    values = [
        attr(number, bytes([bool(change[name])]))
        for name, number in (("hairpin", IFLA_BRPORT_MODE), ("isolated", IFLA_BRPORT_ISOLATED))
        if name in change
    ]
    if not values:
        return []
    return [message(RTM_SETLINK, NLM_F_ACK, _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + nested(IFLA_PROTINFO, *values))]


def set_vlans(link: Link, index: int) -> list[bytes]:
    """A bridge port's VLANs: out of the default one unless it is kept, into its own untagged, into the trunk tagged.

    A trunk without a VLAN of its own has VLAN 1 for untagged frames, as the reference has it.
    """
    untagged = link.vlan or 1
    joined = _vlan_info(untagged, _PVID | _UNTAGGED) + b"".join(_vlan_info(vlan, 0) for vlan in link.trunk)
    messages = [] if link.default_vlan or untagged == 1 else [_port_vlans(RTM_DELLINK, index, _vlan_info(1, 0))]
    return [*messages, _port_vlans(RTM_SETLINK, index, joined)]


def _vlan_info(vlan: int, flags: int) -> bytes:
    return attr(_IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags, vlan))


def _port_vlans(kind: int, index: int, infos: bytes) -> bytes:
    spec = nested(_IFLA_AF_SPEC, attr(_IFLA_BRIDGE_FLAGS, struct.pack("=H", _BRIDGE_FLAGS_MASTER)), infos)
    return message(kind, NLM_F_ACK, _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + spec)


def del_link(name: str) -> bytes:
    """The link of that name goes, whatever its index is by now."""
    return message(RTM_DELLINK, NLM_F_ACK, _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name))


def del_link_at(index: int) -> bytes:
    """The link of that index goes."""
    return message(RTM_DELLINK, NLM_F_ACK, _IFINFO.pack(0, 0, index, 0, 0))


def get_link(name: str) -> bytes:
    """Ask for one link, without statistics."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attr(IFLA_EXT_MASK, _U32.pack(_SKIP_STATS)) + _text(IFLA_IFNAME, name)
    return message(RTM_GETLINK, 0, body)


def get_links() -> bytes:
    """Ask for all links, without statistics."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attr(IFLA_EXT_MASK, _U32.pack(_SKIP_STATS))
    return message(RTM_GETLINK, NLM_F_DUMP, body)


def get_link_at(index: int) -> bytes:
    """Ask for the link of that index."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + attr(IFLA_EXT_MASK, _U32.pack(_SKIP_STATS))
    return message(RTM_GETLINK, 0, body)


def parse_link(payload: bytes) -> SeenLink:
    """The answer to `get_link`, or a link notification."""
    _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    told = parse_attrs(payload, 16)
    info = parse_attrs(told.get(IFLA_LINKINFO, b""))
    data = parse_attrs(info.get(IFLA_INFO_DATA, b""))
    kind = _parse_text(info.get(IFLA_INFO_KIND, b""))
    port = parse_attrs(info[IFLA_INFO_SLAVE_DATA]) if IFLA_INFO_SLAVE_DATA in info else {}
    return SeenLink(
        index=index,
        name=_parse_text(told.get(IFLA_IFNAME, b"")),
        kind=kind,
        mac=told.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=_parse_u32(told.get(IFLA_MTU)),
        flags=flags,
        operstate=told.get(IFLA_OPERSTATE, b"\0")[0],
        master=_parse_u32(told.get(IFLA_MASTER)),
        peer=_parse_u32(told.get(IFLA_LINK)),
        vlan_filtering=kind == "bridge" and data.get(IFLA_BR_VLAN_FILTERING, b"\0") != b"\0",
        isolated=port.get(IFLA_BRPORT_ISOLATED, b"\0") == b"\1",
        peer_netns=struct.unpack("=i", told.get(_IFLA_LINK_NETNSID, b"\xff" * 4))[0],
        vxlan=tunnel.parse_vxlan(data) if kind == "vxlan" else None,
        bridge=_parse_bridge(data) if kind == "bridge" else None,
    )


def is_of_features(payload: bytes) -> bool:
    """True of a link notification that says that the device's features changed, and no more."""
    return _parse_u32(parse_attrs(payload, _IFINFO.size).get(_IFLA_EVENT)) == _EVENT_FEATURES


def new_address(address: Address, index: int) -> bytes:
    """An address on the link of that index."""
    return message(RTM_NEWADDR, _MAKE, _address(address, index))


def del_address(address: Address, index: int) -> bytes:
    """The address goes."""
    return message(RTM_DELADDR, NLM_F_ACK, _address(address, index))


def get_addresses(index: int) -> bytes:
    """Ask for all addresses of one link (NETLINK_GET_STRICT_CHK makes the kernel filter by the index)."""
    return message(RTM_GETADDR, NLM_F_DUMP, _IFADDR.pack(0, 0, 0, 0, index))


def parse_address(payload: bytes) -> tuple[int, bytes, int]:
    """An answer to `get_addresses`: (index, packed address, prefix length)."""
    _, prefix_length, _, _, index = _IFADDR.unpack_from(payload)
    told = parse_attrs(payload, _IFADDR.size)
    return index, told.get(IFA_LOCAL) or told.get(IFA_ADDRESS, b""), prefix_length


def new_route(route: LinkRoute, index: int) -> bytes:
    """A route out of the link of that index."""
    return message(RTM_NEWROUTE, _MAKE, _route(route, index))


def replace_route(route: LinkRoute, index: int) -> bytes:
    """A route out of the link of that index, in the place of the one to the same destination with its priority."""
    return message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, _route(route, index))


def del_route(route: LinkRoute, index: int) -> bytes:
    """The route goes."""
    return message(RTM_DELROUTE, NLM_F_ACK, _route(route, index))


def get_routes(family: int) -> bytes:
    """Ask for all routes of a family."""
    return message(RTM_GETROUTE, NLM_F_DUMP, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def get_routes_of(family: int, protocol: int) -> bytes:
    """Ask for the routes of a family that one protocol made (the kernel filters, with NETLINK_GET_STRICT_CHK)."""
    return message(RTM_GETROUTE, NLM_F_DUMP, _RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0))


def parse_whole_route(payload: bytes, name_of: Callable[[int], str]) -> LinkRoute:
    """A route with all that is its own; out of no link ("") if out of several. `name_of` tells an index's name."""
    family, length, _, _, table, protocol, scope, kind, flags = _RTMSG.unpack_from(payload)
    told = parse_attrs(payload, _RTMSG.size)
    metrics = parse_attrs(told.get(_RTA_METRICS, b""))
    via = told.get(_RTA_GATEWAY) or told.get(_RTA_VIA, b"\0\0")[2:]
    src = told.get(_RTA_PREFSRC)
    unreachable = kind == _ROUTE_TYPES["unreachable"]  # of IPv6 it is said to be out of lo
    return LinkRoute(
        "host",
        "" if unreachable or _RTA_OIF not in told else name_of(_parse_u32(told[_RTA_OIF])),
        ip_network((told.get(_RTA_DST) or bytes(4 if family == AF_INET else 16), length)),
        gw=ip_address(via) if via else None,
        src=ip_address(src) if src else None,
        scope=scope,
        table=_parse_u32(told.get(_RTA_TABLE)) or table,
        priority=_parse_u32(told.get(_RTA_PRIORITY)),
        mtu=_parse_u32(metrics.get(_RTAX_MTU)),
        advmss=_parse_u32(metrics.get(_RTAX_ADVMSS)),
        onlink=bool(flags & _ONLINK),
        kind="unreachable" if unreachable else "unicast",
        encap=tunnel.parse_encap(told),
        protocol=protocol,
    )


def parse_route(payload: bytes) -> SeenRoute | None:
    """An answer to `get_routes` or a notification; None for what is no plain route out of one link."""
    _, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(payload)
    told = parse_attrs(payload, _RTMSG.size)
    if kind != _RTN_UNICAST or _RTA_OIF not in told:
        return None
    return SeenRoute(
        index=_parse_u32(told[_RTA_OIF]),
        dst=told.get(_RTA_DST, b""),
        length=length,
        gateway=told.get(_RTA_GATEWAY, b""),
        table=_parse_u32(told.get(_RTA_TABLE)) or table,
        protocol=protocol,
    )


def _address(address: Address, index: int) -> bytes:
    interface = address.address
    ip = interface.ip.packed
    flags = (0 if address.prefix_route else _IFA_F_NOPREFIXROUTE) | (
        _IFA_F_NODAD if interface.version == 6 and not address.dad else 0
    )
    family = AF_INET if interface.version == 4 else AF_INET6
    body = _IFADDR.pack(family, interface.network.prefixlen, flags & 0xFF, 0, index)
    body += attr(IFA_LOCAL, ip) + attr(IFA_ADDRESS, ip)
    if interface.version == 4 and interface.network.prefixlen < 31:
        body += attr(IFA_BROADCAST, interface.network.broadcast_address.packed)
    return body + (attr(IFA_FLAGS, _U32.pack(flags)) if flags else b"")


def _route(route: LinkRoute, index: int) -> bytes:
    family = AF_INET if route.dst.version == 4 else AF_INET6
    table = route.table if route.table < 256 else 0
    scope = route.scope if route.dst.version == 4 else 0  # IPv6 knows no scope of routes
    protocol = route.protocol or ROUTE_PROTOCOL[route.ns]
    kind, flags = _ROUTE_TYPES[route.kind], _ONLINK if route.onlink else 0
    body = _RTMSG.pack(family, route.dst.prefixlen, 0, 0, table, protocol, scope, kind, flags)
    if route.dst.prefixlen:
        body += attr(_RTA_DST, route.dst.network_address.packed)
    if index:
        body += attr(_RTA_OIF, _U32.pack(index))
    if route.gw is not None and route.gw.version == route.dst.version:
        body += attr(_RTA_GATEWAY, route.gw.packed)
    elif route.gw is not None:
        body += attr(_RTA_VIA, struct.pack("=H", AF_INET6) + route.gw.packed)
    if route.src is not None:
        body += attr(_RTA_PREFSRC, route.src.packed)
    if route.priority:
        body += attr(_RTA_PRIORITY, _U32.pack(route.priority))
    if table != route.table:
        body += attr(_RTA_TABLE, _U32.pack(route.table))
    metrics = [
        attr(number, _U32.pack(value))
        for number, value in ((_RTAX_MTU, route.mtu), (_RTAX_ADVMSS, route.advmss))
        if value
    ]
    body += nested(_RTA_METRICS, *metrics) if metrics else b""
    return body if route.encap is None else body + tunnel.encap_attributes(route.encap)


def _bridge(bridge: Bridge | None) -> bytes:
    """IFLA_INFO_DATA's attributes of a bridge that is ours alone."""
    if bridge is None:
        return b""
    return attr(IFLA_BR_STP_STATE, _U32.pack(bridge.stp)) + attr(IFLA_BR_MCAST_SNOOPING, bytes([bridge.snooping]))


def _parse_bridge(data: Mapping[int, bytes]) -> Bridge:
    """A kernel without multicast snooping does not speak of it."""
    snooping = data.get(IFLA_BR_MCAST_SNOOPING, b"\0") != b"\0"
    return Bridge(snooping, stp=_parse_u32(data.get(IFLA_BR_STP_STATE)) != 0)


def _optional(link: Link) -> bytes:
    """The MAC and the MTU where they are given."""
    return (attr(IFLA_ADDRESS, _mac(link.mac)) if link.mac else b"") + (
        attr(IFLA_MTU, _U32.pack(link.mtu)) if link.mtu else b""
    )


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _text(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def _parse_text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _parse_u32(value: bytes | None) -> int:
    return int(_U32.unpack(value)[0]) if value and len(value) == 4 else 0
