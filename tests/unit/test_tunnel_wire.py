"""Messages for tunnels, neighbours and forwarding entries are pyroute2's, byte by byte, and are read back whole."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from unit.plain_wire import plain

from cni_py.kernel import neighbours, rtnl, tunnel
from cni_py.kernel.netlink import parse_attrs
from cni_py.model.net import EVERYBODY, Encap, Fdb, Link, LinkRoute, Neighbour, Vxlan

# REQUEST and ACK; and CREATE and REPLACE; and CREATE and EXCL; and CREATE and APPEND
ACK, SET, MAKE, APPEND = 0x5, 0x505, 0x605, 0xC05
MAC = "0e:00:00:00:00:01"
OWN4 = Vxlan(4789, 142, ip_address("192.0.2.1"))
OWN6 = Vxlan(4789, 142, ip_address("2001:db8::1"))
GPE = Vxlan(4790, gpe=True)
BEHIND4 = Neighbour("host", "cpyvx4", ip_address("10.244.2.0"), MAC)
BEHIND6 = Neighbour("host", "cpyvx4", ip_address("fe80::1"), MAC)
ENTRY4 = Fdb("host", "cpyvx4", MAC, ip_address("192.0.2.2"))
ENTRY6 = Fdb("host", "cpyvx6", MAC, ip_address("2001:db8::2"))
UNREACHABLE = LinkRoute("host", "", ip_network("10.244.0.0/16"), priority=1 << 24, kind="unreachable", protocol=143)
ACROSS = LinkRoute(
    "host", "eth0", ip_network("10.244.2.0/24"), gw=ip_address("2001:db8::2"), priority=142, protocol=143
)
ENCAP4 = Encap(142, ip_address("192.0.2.1"), ip_address("192.0.2.2"))
ENCAP6 = Encap(142, ip_address("2001:db8::1"), ip_address("2001:db8::2"))


def _encoded(message: Any, kind: int, flags: int, header: dict[str, Any], *attrs: tuple[str, Any]) -> bytes:
    message["header"]["type"], message["header"]["flags"] = kind, flags
    for name, value in header.items():
        message[name] = value
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data)


def _vxlan(kind: int, flags: int, header: dict[str, Any], before: list[Any], *data: tuple[str, Any]) -> bytes:
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": list(data)})]}
    all_of_it = {"family": 0, "index": 0, "flags": 0, "change": 0, **header}
    return _encoded(ifinfmsg(), kind, flags, all_of_it, *before, ("IFLA_LINKINFO", info))


def _neigh(kind: int, flags: int, header: dict[str, Any], *attrs: tuple[str, Any]) -> bytes:
    return _encoded(ndmsg(), kind, flags, {"ifindex": 5, "state": 0, "flags": 0, "ndm_type": 0, **header}, *attrs)


def _route(flags: int, header: dict[str, Any], *attrs: tuple[str, Any]) -> bytes:
    zeros = {"src_len": 0, "tos": 0, "table": 254, "proto": 143, "scope": 0, "type": 1, "flags": 0, "family": 2}
    return _encoded(rtmsg(), 24, flags, {**zeros, **header}, *attrs)


CASES = {
    "vxlan over ipv4": (
        rtnl.new_link(Link("host", "cpyvx4", "vxlan", mac=MAC, mtu=1450, up=False, vxlan=OWN4)),
        _vxlan(
            16,
            MAKE,
            {},
            [("IFLA_IFNAME", "cpyvx4"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1450)],
            ("IFLA_VXLAN_ID", 142),
            ("IFLA_VXLAN_LEARNING", 0),
            ("IFLA_VXLAN_LOCAL", "192.0.2.1"),
            ("IFLA_VXLAN_PORT", 4789),
            ("IFLA_VXLAN_UDP_CSUM", 1),
        ),
    ),
    "vxlan over ipv6": (
        rtnl.new_link(Link("host", "cpyvx6", "vxlan", up=False, vxlan=OWN6)),
        _vxlan(
            16,
            MAKE,
            {},
            [("IFLA_IFNAME", "cpyvx6")],
            ("IFLA_VXLAN_ID", 142),
            ("IFLA_VXLAN_LEARNING", 0),
            ("IFLA_VXLAN_LOCAL6", "2001:db8::1"),
            ("IFLA_VXLAN_PORT", 4789),
            ("IFLA_VXLAN_UDP_CSUM", 1),
        ),
    ),
    "vxlan-gpe": (
        rtnl.new_link(Link("host", "cpygpe", "vxlan", up=False, vxlan=GPE)),
        _vxlan(
            16,
            MAKE,
            {},
            [("IFLA_IFNAME", "cpygpe")],
            ("IFLA_VXLAN_COLLECT_METADATA", 1),
            ("IFLA_VXLAN_GPE", True),
            ("IFLA_VXLAN_LEARNING", 0),
            ("IFLA_VXLAN_PORT", 4790),
            ("IFLA_VXLAN_UDP_CSUM", 1),
        ),
    ),
    "another source": (
        rtnl.set_link(5, {"vxlan": OWN4}, 0)[0],
        _vxlan(16, ACK, {"index": 5}, [], ("IFLA_VXLAN_LEARNING", 0), ("IFLA_VXLAN_LOCAL", "192.0.2.1")),
    ),
    "neighbour": (
        neighbours.set_neighbour(BEHIND4, 5),
        _neigh(28, SET, {"family": 2, "state": 0x80}, ("NDA_DST", "10.244.2.0"), ("NDA_LLADDR", MAC)),
    ),
    "neighbour of ipv6, forgotten": (
        neighbours.del_neighbour(BEHIND6, 5),
        _neigh(29, ACK, {"family": 10, "state": 0x80}, ("NDA_DST", "fe80::1")),
    ),
    "forwarding entry": (
        neighbours.set_fdb(ENTRY4, 5),
        _neigh(28, SET, {"family": 7, "state": 0xC0, "flags": 2}, ("NDA_LLADDR", MAC), ("NDA_DST", "192.0.2.2")),
    ),
    "one node more for everybody": (
        neighbours.set_fdb(replace(ENTRY4, mac=EVERYBODY), 5),
        _neigh(
            28, APPEND, {"family": 7, "state": 0xC0, "flags": 2}, ("NDA_LLADDR", EVERYBODY), ("NDA_DST", "192.0.2.2")
        ),
    ),
    "forwarding entry over ipv6, gone": (
        neighbours.del_fdb(ENTRY6, 5),
        _neigh(29, ACK, {"family": 7, "flags": 2}, ("NDA_LLADDR", MAC), ("NDA_DST", "2001:db8::2")),
    ),
    "unreachable": (
        rtnl.new_route(UNREACHABLE, 0),
        _route(MAKE, {"type": 7, "dst_len": 16}, ("RTA_DST", "10.244.0.0"), ("RTA_PRIORITY", 1 << 24)),
    ),
    "ipv4 by a gateway of ipv6, replaced": (
        rtnl.replace_route(ACROSS, 5),
        _route(
            SET,
            {"dst_len": 24},
            ("RTA_DST", "10.244.2.0"),
            ("RTA_OIF", 5),
            ("RTA_VIA", {"family": 10, "addr": "2001:db8::2"}),
            ("RTA_PRIORITY", 142),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_pyroute2(name: str) -> None:
    """Type, flags, header and every attribute; but for the flag of nested attributes, which pyroute2 leaves out."""
    ours, theirs = CASES[name]
    header = 16 + (16 if ours[4] == 16 else 12)
    assert theirs.hex() == (ours[:header] + plain(ours[header:])).hex()


@pytest.mark.parametrize("vxlan", [OWN4, OWN6, GPE, Vxlan(8472, 1, ip_address("192.0.2.9"), learning=True)])
def test_a_link_is_read_back(vxlan: Vxlan) -> None:
    """The attributes say again what they were made of."""
    assert tunnel.parse_vxlan(parse_attrs(tunnel.vxlan_data(vxlan))) == vxlan


@pytest.mark.parametrize("encap", [ENCAP4, ENCAP6])
@pytest.mark.parametrize("dst", ["10.244.2.0/24", "fd44:0:2::/64", "10.244.2.0/32"])
def test_a_route_is_read_back(encap: Encap, dst: str) -> None:
    """With its tunnel, whatever the families."""
    route = LinkRoute("host", "cpygpe", ip_network(dst), priority=142, mtu=1444, encap=encap, protocol=143)
    assert rtnl.parse_whole_route(rtnl.new_route(route, 5)[16:], {5: "cpygpe"}.__getitem__) == route


@pytest.mark.parametrize(
    "route", [UNREACHABLE, ACROSS, LinkRoute("host", "", ip_network("::/0"), kind="unreachable", protocol=143)]
)
def test_a_route_without_tunnel_is_read_back(route: LinkRoute) -> None:
    """Unreachable ones, and one of IPv4 by a gateway of IPv6."""
    index = 5 if route.link else 0
    assert rtnl.parse_whole_route(rtnl.new_route(route, index)[16:], {5: "eth0"}.__getitem__) == route


def test_entries_are_read_back() -> None:
    """Those of that link; a neighbour only if it is permanent, of an entry it is told whether it was learned."""
    for one in (BEHIND4, BEHIND6):
        payload = neighbours.set_neighbour(one, 5)[16:]
        assert neighbours.parse_neighbour(payload, "cpyvx4", 5) == one
        assert neighbours.parse_neighbour(payload, "cpyvx4", 6) is None
        assert neighbours.parse_neighbour(payload[:8] + b"\2\0" + payload[10:], "cpyvx4", 5) is None
    for entry in (ENTRY4, ENTRY6, replace(ENTRY4, mac=EVERYBODY)):
        payload = neighbours.set_fdb(entry, 5)[16:]
        assert neighbours.parse_fdb(payload, entry.link, 5) == entry
        learned = neighbours.parse_fdb(payload[:8] + b"\2\0" + payload[10:], entry.link, 5)
        assert learned == replace(entry, learned=True)


def test_what_was_asked_for_is_known_again() -> None:
    """By what it makes so and of whom: another MAC or node, or that it is gone, is something else."""
    new, gone = neighbours.RTM_NEWNEIGH, neighbours.RTM_DELNEIGH
    for entry in (ENTRY4, replace(ENTRY4, mac=EVERYBODY), ENTRY6):
        assert neighbours.word(new, neighbours.set_fdb(entry, 5)[16:]) == neighbours.word_of(new, entry)
        assert neighbours.word(gone, neighbours.del_fdb(entry, 5)[16:]) == neighbours.word_of(gone, entry)
    one = Neighbour("host", "cpyvx4", ip_address("10.244.2.0"), ENTRY4.mac)
    assert neighbours.word(new, neighbours.set_neighbour(one, 5)[16:]) == neighbours.word_of(new, one)
    assert neighbours.word(gone, neighbours.del_neighbour(one, 5)[16:]) == neighbours.word_of(gone, one)
    moved = replace(ENTRY4, dst=ip_address("192.0.2.9")), replace(one, mac="0e:00:00:00:00:66")
    assert len({neighbours.word_of(kind, each) for kind in (new, gone) for each in (ENTRY4, one, *moved)}) == 7
