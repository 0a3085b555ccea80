"""Our rtnetlink messages are pyroute2's, byte by byte."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from unit.plain_wire import plain

from cni_py.kernel import rtnl
from cni_py.model.net import Address, Bridge, Link, LinkRoute, Vxlan

UP, PROMISC = 0x1, 0x100
ACK, MAKE = 0x5, 0x605  # REQUEST and ACK; and CREATE and EXCL


def encoded(message: Any, kind: int, flags: int, header: dict[str, Any], attrs: list[tuple[str, Any]]) -> bytes:
    """Pyroute2's bytes of a message with these fields and attributes, in this order."""
    message["header"]["type"], message["header"]["flags"] = kind, flags
    for name, value in header.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)


def link(kind: int, flags: int, header: dict[str, Any], *attrs: tuple[str, Any]) -> bytes:
    """A link message of pyroute2."""
    return encoded(ifinfmsg(), kind, flags, {"family": 0, "index": 0, "flags": 0, "change": 0, **header}, list(attrs))


VETH = Link("host", "cpy0", "veth", mac="0a:00:00:00:00:01", mtu=1400, peer="eth0")
PEER = Link("container", "eth0", "veth", mac="0a:00:00:00:00:02", mtu=1400)
V4 = Address("container", "eth0", ip_interface("10.1.2.3/24"))
V6 = Address("container", "eth0", ip_interface("fd00::3/64"), prefix_route=False)


def _veth(*, master: int = 0) -> bytes:
    peer = {
        "attrs": [
            ("IFLA_IFNAME", "eth0"),
            ("IFLA_NUM_TX_QUEUES", 1),
            ("IFLA_NUM_RX_QUEUES", 1),
            ("IFLA_ADDRESS", "0a:00:00:00:00:02"),
            ("IFLA_MTU", 1400),
            ("IFLA_NET_NS_FD", 7),
        ]
    }
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]}
    return link(
        16,
        MAKE,
        {"flags": UP, "change": UP},
        ("IFLA_IFNAME", "cpy0"),
        ("IFLA_NUM_TX_QUEUES", 1),
        ("IFLA_NUM_RX_QUEUES", 1),
        ("IFLA_ADDRESS", "0a:00:00:00:00:01"),
        ("IFLA_MTU", 1400),
        *((("IFLA_MASTER", master),) if master else ()),
        ("IFLA_LINKINFO", info),
    )


def _bridge() -> bytes:
    data = {"attrs": [("IFLA_BR_VLAN_FILTERING", 1)]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}
    both = UP | PROMISC
    return link(16, MAKE, {"flags": both, "change": both}, ("IFLA_IFNAME", "cni0"), ("IFLA_LINKINFO", info))


def _port() -> bytes:
    values = {"attrs": [("IFLA_BRPORT_MODE", 1), ("IFLA_BRPORT_ISOLATED", 1)]}
    return link(19, ACK, {"family": 7, "index": 5}, ("IFLA_PROTINFO", values))


def _address(kind: int, flags: int, header: dict[str, Any], *attrs: tuple[str, Any]) -> bytes:
    return encoded(ifaddrmsg(), kind, flags, {"scope": 0, "index": 5, **header}, list(attrs))


def _route(kind: int, flags: int, header: dict[str, Any], *attrs: tuple[str, Any]) -> bytes:
    defaults = {"src_len": 0, "tos": 0, "table": 254, "proto": 3, "scope": 0, "type": 1, "flags": 0}
    return encoded(rtmsg(), kind, flags, {**defaults, **header}, list(attrs))


OWN, OWN_STP = (
    {
        "attrs": [
            ("IFLA_INFO_KIND", "bridge"),
            ("IFLA_INFO_DATA", {"attrs": [("IFLA_BR_STP_STATE", stp), ("IFLA_BR_MCAST_SNOOPING", 0)]}),
        ]
    }
    for stp in (0, 1)
)
CASES = {
    "veth into a namespace": (rtnl.new_veth(VETH, PEER, 7, 0), _veth()),
    "veth as a port": (rtnl.new_veth(VETH, PEER, 7, 4), _veth(master=4)),
    "bridge": (
        rtnl.new_link(Link("host", "cni0", "bridge", promisc=True, vlan_filtering=True)),
        _bridge(),
    ),
    "bridge that is ours alone": (
        rtnl.new_link(Link("host", "cpybr", "bridge", up=False, bridge=Bridge())),
        link(16, MAKE, {}, ("IFLA_IFNAME", "cpybr"), ("IFLA_LINKINFO", OWN)),
    ),
    "bridge made ours again": (
        rtnl.set_link(5, {"bridge": Bridge(snooping=False, stp=True)}, 0)[0],
        link(16, ACK, {"index": 5}, ("IFLA_LINKINFO", OWN_STP)),
    ),
    "link up with mac and mtu": (
        rtnl.set_link(5, {"up": True, "mac": "0a:00:00:00:00:09", "mtu": 9000}, 0)[0],
        link(
            16, ACK, {"index": 5, "flags": UP, "change": UP}, ("IFLA_ADDRESS", "0a:00:00:00:00:09"), ("IFLA_MTU", 9000)
        ),
    ),
    "link down": (rtnl.set_link(5, {"up": False}, 0)[0], link(16, ACK, {"index": 5, "change": UP})),
    "new master": (rtnl.set_link(5, {"master": "cni0"}, 4)[0], link(16, ACK, {"index": 5}, ("IFLA_MASTER", 4))),
    "port flags": (rtnl.set_port(5, {"hairpin": True, "isolated": True})[0], _port()),
    "delete by name": (rtnl.del_link("cpy0"), link(17, ACK, {}, ("IFLA_IFNAME", "cpy0"))),
    "get by name": (
        rtnl.get_link("cpy0"),
        link(18, 1, {}, ("IFLA_EXT_MASK", 8), ("IFLA_IFNAME", "cpy0")),
    ),
    "ipv4 address": (
        rtnl.new_address(V4, 5),
        _address(
            20,
            MAKE,
            {"family": 2, "prefixlen": 24, "flags": 0},
            ("IFA_LOCAL", "10.1.2.3"),
            ("IFA_ADDRESS", "10.1.2.3"),
            ("IFA_BROADCAST", "10.1.2.255"),
        ),
    ),
    "ipv6 address, no DAD, no prefix route": (
        rtnl.new_address(V6, 5),
        _address(
            20,
            MAKE,
            {"family": 10, "prefixlen": 64, "flags": 2},
            ("IFA_LOCAL", "fd00::3"),
            ("IFA_ADDRESS", "fd00::3"),
            ("IFA_FLAGS", 0x202),
        ),
    ),
    "delete address": (
        rtnl.del_address(Address("host", "cni0", ip_interface("10.1.2.1/31")), 5),
        _address(
            21,
            ACK,
            {"family": 2, "prefixlen": 31, "flags": 0},
            ("IFA_LOCAL", "10.1.2.1"),
            ("IFA_ADDRESS", "10.1.2.1"),
        ),
    ),
    "host route": (
        rtnl.new_route(LinkRoute("host", "cpy0", ip_network("10.1.2.3/32"), scope=253), 5),
        _route(
            24,
            MAKE,
            {"family": 2, "dst_len": 32, "scope": 253, "proto": 142},
            ("RTA_DST", "10.1.2.3"),
            ("RTA_OIF", 5),
        ),
    ),
    "default route with everything": (
        rtnl.new_route(
            LinkRoute(
                "container",
                "eth0",
                ip_network("0.0.0.0/0"),
                gw=ip_address("10.1.2.1"),
                src=ip_address("10.1.2.3"),
                table=1000,
                priority=50,
                mtu=1400,
                advmss=1300,
                onlink=True,
            ),
            5,
        ),
        _route(
            24,
            MAKE,
            {"family": 2, "dst_len": 0, "table": 0, "flags": 4},
            ("RTA_OIF", 5),
            ("RTA_GATEWAY", "10.1.2.1"),
            ("RTA_PREFSRC", "10.1.2.3"),
            ("RTA_PRIORITY", 50),
            ("RTA_TABLE", 1000),
            ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1400), ("RTAX_ADVMSS", 1300)]}),
        ),
    ),
    "ipv6 route, delete": (
        rtnl.del_route(LinkRoute("container", "eth0", ip_network("fd00::/64"), gw=ip_address("fd00::1"), scope=253), 5),
        _route(
            25,
            ACK,
            {"family": 10, "dst_len": 64},
            ("RTA_DST", "fd00::"),
            ("RTA_OIF", 5),
            ("RTA_GATEWAY", "fd00::1"),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_pyroute2(name: str) -> None:
    """Type, flags, header and every attribute; but for the flag of nested attributes, which pyroute2 leaves out."""
    ours, theirs = CASES[name]
    header = 16 + {1: 16, 2: 8, 3: 12}[(ours[4] - 12) // 4]
    assert theirs.hex() == (ours[:header] + plain(ours[header:])).hex()


def test_a_port_is_isolated_before_it_is_up() -> None:
    """From its first frame on; one that is up already is isolated after it is a port."""
    first, port, last = rtnl.set_link(5, {"master": "cpybr", "isolated": True, "up": True}, 4)
    assert first == link(16, ACK, {"index": 5}, ("IFLA_MASTER", 4))
    assert port == rtnl.set_port(5, {"isolated": True})[0]
    assert last == link(16, ACK, {"index": 5, "flags": UP, "change": UP})
    assert len(rtnl.set_link(5, {"master": "cpybr", "isolated": True}, 4)) == 2


def test_what_is_a_tunnels_own_goes_by_itself() -> None:
    """The kernel takes no MTU beside it ("Cannot change mtu")."""
    change = {"vxlan": Vxlan(4789, 142, ip_address("192.0.2.1")), "mtu": 1430, "up": True}
    first, second = rtnl.set_link(5, change, 0)
    assert first == rtnl.set_link(5, {"vxlan": change["vxlan"]}, 0)[0]
    assert second == rtnl.set_link(5, {"mtu": 1430, "up": True}, 0)[0]


def test_a_port_and_a_bridge_are_read_back() -> None:
    """Whether a port is isolated stands among what its bridge says of it."""
    flags = {"attrs": [("IFLA_BRPORT_ISOLATED", 1)]}
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", flags)]}
    seen = rtnl.parse_link(link(16, ACK, {"index": 5}, ("IFLA_MASTER", 4), ("IFLA_LINKINFO", info))[16:])
    assert (seen.master, seen.isolated, seen.bridge) == (4, True, None)
    seen = rtnl.parse_link(link(16, ACK, {"index": 5}, ("IFLA_LINKINFO", OWN_STP))[16:])
    assert seen.bridge == Bridge(snooping=False, stp=True)
    assert not seen.isolated
