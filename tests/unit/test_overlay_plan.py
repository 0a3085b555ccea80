"""What each backend wants of the kernel, as a table: links, neighbours, forwarding and routes of a node with peers."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from cni_py.model.errors import InvalidConfigError
from cni_py.model.net import EVERYBODY, Bridge, Link, LinkRoute, NodeState
from cni_py.model.overlay import MIXED, BackendName, Facts, Network, Node, Underlay, tunnel_mac
from cni_py.overlay.backend import unjoined
from cni_py.overlay.mtu import Mtu
from cni_py.overlay.select import plan, pod_mtu, ways

NEAR, FAR, OTHER = "192.0.2.2", "198.51.100.3", "2001:db8:1::4"
FACTS = Facts(
    Underlay(
        "eth0",
        1500,
        (ip_address("192.0.2.1"), ip_address("2001:db8::1")),
        (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")),
    ),
    frozenset((*MIXED, "l2")),
)


def node(number: int, ip4: str = "", ip6: str = "") -> Node:
    """With a range of each family."""
    return Node(
        f"n{number}",
        (ip_network(f"10.244.{number}.0/24"), ip_network(f"fd44:0:{number}::/64")),
        f"0e:00:00:00:00:0{number}",
        IPv4Address(ip4) if ip4 else None,
        IPv6Address(ip6) if ip6 else None,
    )


HERE = node(1, "192.0.2.1", "2001:db8::1")
PEERS = (node(2, NEAR, "2001:db8::2"), node(3, FAR), node(4, "", OTHER))
CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd44::/32"))

GUARD = ["10.244.0.0/16 unreachable", "fd44::/32 unreachable"]
VX4 = "cpyvx4 1450 0e:00:00:00:00:01 vni 142 port 4789 local 192.0.2.1"
VX6 = "cpyvx6 1430 0e:00:00:00:00:01 vni 142 port 4789 local 2001:db8::1"
GPE = "cpygpe 1464 port 4790 gpe"
PORT = "port of cpybr isolated learning"
GOLDEN: dict[str, dict[str, list[str]]] = {
    "vxlan": {
        "links": [VX4, VX6],
        "addresses": ["cpyvx4 10.244.1.0/32", "cpyvx4 fd44:0:1::/128", "cpyvx6 10.244.1.0/32", "cpyvx6 fd44:0:1::/128"],
        "fdb": [
            "cpyvx4 0e:00:00:00:00:02 192.0.2.2",
            "cpyvx4 0e:00:00:00:00:03 198.51.100.3",
            "cpyvx6 0e:00:00:00:00:04 2001:db8:1::4",
        ],
        "neighbours": [
            "cpyvx4 10.244.2.0 0e:00:00:00:00:02",
            "cpyvx4 fe80::c00:ff:fe00:2 0e:00:00:00:00:02",
            "cpyvx4 10.244.3.0 0e:00:00:00:00:03",
            "cpyvx4 fe80::c00:ff:fe00:3 0e:00:00:00:00:03",
            "cpyvx6 10.244.4.0 0e:00:00:00:00:04",
            "cpyvx6 fe80::c00:ff:fe00:4 0e:00:00:00:00:04",
        ],
        "routes": [
            *GUARD,
            "10.244.2.0/24 via 10.244.2.0 dev cpyvx4 onlink",
            "fd44:0:2::/64 via fe80::c00:ff:fe00:2 dev cpyvx4 onlink",
            "10.244.3.0/24 via 10.244.3.0 dev cpyvx4 onlink",
            "fd44:0:3::/64 via fe80::c00:ff:fe00:3 dev cpyvx4 onlink",
            "10.244.4.0/24 via 10.244.4.0 dev cpyvx6 onlink",
            "fd44:0:4::/64 via fe80::c00:ff:fe00:4 dev cpyvx6 onlink",
        ],
    },
    "gpe": {
        "links": [GPE],
        "addresses": ["cpygpe 10.244.1.0/32", "cpygpe fd44:0:1::/128"],
        "fdb": [],
        "neighbours": [],
        "routes": [
            *GUARD,
            "10.244.2.0/24 dev cpygpe into 192.0.2.1 > 192.0.2.2 vni 142",
            "fd44:0:2::/64 dev cpygpe into 192.0.2.1 > 192.0.2.2 vni 142",
            "10.244.3.0/24 dev cpygpe into 192.0.2.1 > 198.51.100.3 vni 142",
            "fd44:0:3::/64 dev cpygpe into 192.0.2.1 > 198.51.100.3 vni 142",
            "10.244.4.0/24 dev cpygpe into 2001:db8::1 > 2001:db8:1::4 vni 142 mtu 1444",
            "fd44:0:4::/64 dev cpygpe into 2001:db8::1 > 2001:db8:1::4 vni 142 mtu 1444",
        ],
    },
    "host-gw": {
        "links": [],
        "addresses": [],
        "fdb": [],
        "neighbours": [],
        "routes": [*GUARD, "10.244.2.0/24 via 192.0.2.2 dev eth0", "fd44:0:2::/64 via 2001:db8::2 dev eth0"],
    },
    "direct": {
        "links": [VX4, VX6],
        "addresses": ["cpyvx4 10.244.1.0/32", "cpyvx4 fd44:0:1::/128", "cpyvx6 10.244.1.0/32", "cpyvx6 fd44:0:1::/128"],
        "fdb": ["cpyvx4 0e:00:00:00:00:03 198.51.100.3", "cpyvx6 0e:00:00:00:00:04 2001:db8:1::4"],
        "neighbours": [
            "cpyvx4 10.244.3.0 0e:00:00:00:00:03",
            "cpyvx4 fe80::c00:ff:fe00:3 0e:00:00:00:00:03",
            "cpyvx6 10.244.4.0 0e:00:00:00:00:04",
            "cpyvx6 fe80::c00:ff:fe00:4 0e:00:00:00:00:04",
        ],
        "routes": [
            *GUARD,
            "10.244.2.0/24 via 192.0.2.2 dev eth0",
            "fd44:0:2::/64 via 2001:db8::2 dev eth0",
            "10.244.3.0/24 via 10.244.3.0 dev cpyvx4 onlink",
            "fd44:0:3::/64 via fe80::c00:ff:fe00:3 dev cpyvx4 onlink",
            "10.244.4.0/24 via 10.244.4.0 dev cpyvx6 onlink",
            "fd44:0:4::/64 via fe80::c00:ff:fe00:4 dev cpyvx6 onlink",
        ],
    },
    "l2": {
        "links": [
            "cpybr 1430 0e:00:00:00:00:01 bridge",
            f"cpyvx4 1430 0e:00:00:00:00:01 {PORT} vni 142 port 4789 local 192.0.2.1",
            f"cpyvx6 1430 0e:00:00:00:00:01 {PORT} vni 142 port 4789 local 2001:db8::1",
        ],
        "addresses": ["cpybr 10.244.1.1/16", "cpybr fd44:0:1::1/32"],
        "fdb": [
            "cpyvx4 everybody 192.0.2.2",
            "cpyvx4 everybody 198.51.100.3",
            "cpyvx6 everybody 2001:db8:1::4",
        ],
        "neighbours": [],
        "routes": [*GUARD, "10.244.0.0/16 dev cpybr", "fd44::/32 dev cpybr"],
    },
}
BACKENDS: tuple[BackendName, ...] = ("vxlan", "gpe", "host-gw", "direct", "l2")


def permitted(backend: BackendName) -> tuple[BackendName, ...]:
    """`direct` has a tunnel to those that are not on the link."""
    return ("direct", "vxlan") if backend == "direct" else (backend,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden(backend: BackendName) -> None:
    """A node and a peer beside it, one behind a router, and one that has IPv6 alone."""
    assert in_words(plan(HERE, PEERS, Network("c", CLUSTER, permitted(backend)), FACTS)) == GOLDEN[backend]


def in_words(state: NodeState) -> dict[str, list[str]]:
    """The state as lines."""
    assert all(route.protocol == 143 for route in state.routes)
    assert {route.priority for route in state.routes} <= {142, 1 << 24}
    return {
        "links": [_link(link) for link in state.links],
        "addresses": [f"{one.link} {one.address}" for one in state.addresses],
        "fdb": [f"{one.link} {one.mac if one.mac != EVERYBODY else 'everybody'} {one.dst}" for one in state.fdb],
        "neighbours": [f"{one.link} {one.address} {one.mac}" for one in state.neighbours],
        "routes": [_route(route) for route in state.routes],
    }


def _link(link: Link) -> str:
    own = link.vxlan
    if own is None:
        assert link.bridge == Bridge(snooping=False, stp=False)
        return f"{link.name} {link.mtu} {link.mac} {link.kind}"
    assert own.learning == link.isolated == bool(link.master)
    port = f"port of {link.master} isolated learning" if link.master else ""
    words = [link.name, str(link.mtu), link.mac, port, f"vni {own.vni}" if own.vni else "", f"port {own.port}"]
    return " ".join(filter(None, (*words, f"local {own.local}" if own.local else "", "gpe" if own.gpe else "")))


def _route(route: LinkRoute) -> str:
    tunnel = route.encap
    words = (
        str(route.dst),
        f"via {route.gw}" if route.gw else "",
        f"dev {route.link}" if route.link else "",
        f"into {tunnel.src} > {tunnel.dst} vni {tunnel.vni}" if tunnel else "",
        "onlink" if route.onlink else "",
        f"mtu {route.mtu}" if route.mtu else "",
        route.kind if route.kind != "unicast" else "",
    )
    return " ".join(filter(None, words))


@pytest.mark.parametrize(
    ("mtu", "text"),
    [
        (Mtu(1500, "vxlan", 4), "1500 - 50 (VXLAN over IPv4) = 1450"),
        (Mtu(1500, "vxlan", 6), "1500 - 70 (VXLAN over IPv6) = 1430"),
        (Mtu(9001, "gpe", 4), "9001 - 36 (VXLAN-GPE over IPv4) = 8965"),
        (Mtu(1500, "gpe", 6), "1500 - 56 (VXLAN-GPE over IPv6) = 1444"),
        (Mtu(1500), "1500 (plain routes)"),
    ],
)
def test_the_mtu_tells_its_sum(mtu: Mtu, text: str) -> None:
    """Underlay, headers, what is left."""
    assert str(mtu) == text


def test_pods_have_the_tunnels_mtu() -> None:
    """With plain routes alone they have the underlay's."""
    assert pod_mtu(HERE, Network("c", CLUSTER, ("host-gw",)), FACTS).value == 1500
    assert pod_mtu(HERE, Network("c", CLUSTER, ("direct", "gpe")), FACTS).value == 1464
    assert pod_mtu(replace(HERE, ip4=None), Network("c", CLUSTER), FACTS).value == 1430
    assert pod_mtu(HERE, Network("c", CLUSTER, ("l2",)), FACTS).value == 1430  # there may be one that has IPv6 alone


def test_who_cannot_be_reached_is_known() -> None:
    """The far peers of host-gw, and one that shares no family with a tunnel's node; their pods are unreachable."""
    state = plan(HERE, PEERS, Network("c", CLUSTER, ("host-gw",)), FACTS)
    assert {peer.name for peer, _ in unjoined(PEERS, state)} == {"n3", "n4"}
    alone = replace(HERE, ip6=None)
    state = plan(alone, PEERS, Network("c", CLUSTER), FACTS)
    assert {peer.name for peer, _ in unjoined(PEERS, state)} == {"n4"}


def test_ranges_outside_of_the_network_are_guarded() -> None:
    """This node's own, unless it is a single address."""
    own = (ip_network("172.16.0.0/24"), ip_network("172.17.0.1/32"), ip_network("10.244.1.0/24"))
    state = plan(replace(HERE, cidrs=own), (), Network("c", CLUSTER[:1]), FACTS)
    assert [str(route.dst) for route in state.routes] == ["10.244.0.0/16", "172.16.0.0/24"]


def test_without_ipv6_nothing_of_it_is_wanted() -> None:
    """The kernel would refuse it, again and again."""
    for backend in BACKENDS:
        state = plan(HERE, PEERS, Network("c", CLUSTER, permitted(backend)), replace(FACTS, ipv6=False))
        kept = (*(route.dst for route in state.routes), *(one.address.network for one in state.addresses))
        assert all(one.version == 4 for one in kept)
        assert all("ipv6/conf/all" not in one.key for one in state.sysctls)
        assert "cpyvx6" not in {link.name for link in state.links}


def test_a_backend_that_the_kernel_lacks_is_refused() -> None:
    """With a word on what there is."""
    with pytest.raises(InvalidConfigError, match="this kernel cannot do gpe") as caught:
        plan(HERE, PEERS, Network("c", CLUSTER, ("gpe",)), replace(FACTS, backends=frozenset({"host-gw", "vxlan"})))
    assert "host-gw, vxlan" in caught.value.details


def ways_to(peer: Node, *backends: BackendName, here: Node = HERE) -> list[str]:
    """`backend: reason` of each of its networks."""
    return [f"{one.backend}: {one.reason}" for one in ways(here, peer, Network("c", CLUSTER, backends), FACTS)]


@pytest.mark.parametrize(
    ("backends", "can", "told"),
    [
        (("vxlan",), ("vxlan",), ["vxlan: the first of ours"]),
        (("gpe", "vxlan"), ("vxlan",), ["vxlan: it cannot do gpe"]),
        (("gpe", "vxlan"), ("vxlan", "gpe"), ["gpe: the first of ours"]),
        (("direct", "vxlan"), ("vxlan", "host-gw"), ["direct: it is on the link eth0"]),
        (("direct", "vxlan"), ("vxlan",), ["vxlan: it cannot do direct"]),
        (("vxlan", "direct"), ("vxlan", "direct"), ["vxlan: the first of ours"]),
        (("vxlan", "direct"), ("direct",), ["direct: it is on the link eth0"]),
        (("none",), ("none",), ["none: the network between the nodes routes by itself"]),
        (("l2",), ("l2",), ["l2: the first of ours"]),
        (("l2",), ("vxlan",), ["None: this node does l2, it does vxlan: nothing in common"]),
        (
            ("gpe",),
            ("vxlan",),
            ["None: this node does gpe, it does vxlan: nothing in common"],
        ),
    ],
)
def test_a_pair_uses_the_best_that_both_can_do(
    backends: tuple[BackendName, ...], can: tuple[BackendName, ...], told: list[str]
) -> None:
    """In the order in which the network permits them; the reason is told."""
    near = replace(PEERS[0], backends=frozenset(can))
    facts = replace(FACTS, backends=frozenset((*MIXED, "l2", "none")))
    found = ways(HERE, near, Network("c", CLUSTER, backends), facts)
    assert [f"{one.backend}: {one.reason}" for one in found] == told * 2


def test_a_peer_of_another_vni_or_port_gets_no_vxlan() -> None:
    """Its packets would not be ours; plain routes are no matter of it."""
    other = replace(PEERS[0], vni=1, vxlan_port=8472)
    assert ways_to(other, "direct", "vxlan") == ["direct: it is on the link eth0"] * 2
    assert ways_to(other, "vxlan") == ["None: it does VXLAN with VNI 1 on port 8472, this network 142 on 4789"] * 2
    same = Network("c", CLUSTER, vni=1, vxlan_port=8472)
    assert [one.backend for one in ways(HERE, other, same, FACTS)] == ["vxlan"] * 2


def test_what_cannot_be_reached_is_told() -> None:
    """Behind a router with plain routes alone; of no family that this node has."""
    assert ways_to(PEERS[1], "host-gw") == ["None: it is not on the link, and no tunnel is permitted"] * 2
    assert ways_to(PEERS[2], "vxlan", here=replace(HERE, ip6=None)) == ["None: it has no underlay address of IPv4"] * 2


def test_a_flanneld_has_a_tunnel_a_family() -> None:
    """Each over its own family and with its own MAC; what the other family would have to carry is not reached."""
    peer = replace(PEERS[0], mac6="0e:00:00:00:06:02")
    state = plan(HERE, (peer,), Network("c", CLUSTER), FACTS)
    assert [(one.link, one.mac, str(one.dst)) for one in state.fdb] == [
        ("cpyvx4", peer.mac, NEAR),
        ("cpyvx6", peer.mac6, "2001:db8::2"),
    ]
    assert [(one.link, str(one.address), one.mac) for one in state.neighbours] == [
        ("cpyvx4", "10.244.2.0", peer.mac),
        ("cpyvx6", "fe80::c00:ff:fe00:602", peer.mac6),
    ]
    assert {(str(one.dst), one.link) for one in state.routes if one.link} == {
        ("10.244.2.0/24", "cpyvx4"),
        ("fd44:0:2::/64", "cpyvx6"),
    }
    assert ways_to(peer, "vxlan", here=replace(HERE, ip6=None)) == [
        "vxlan: the first of ours",
        "None: it carries pods of a family over that family alone, and the nodes do not have it both",
    ]


def test_a_node_has_the_links_of_all_that_it_offers() -> None:
    """So a peer that has not heard of a change yet is still heard: this is what makes a migration lose nothing."""
    state = plan(
        HERE, (replace(PEERS[0], backends=frozenset(("gpe",))),), Network("c", CLUSTER, ("gpe", "vxlan")), FACTS
    )
    assert {link.name for link in state.links} == {"cpyvx4", "cpygpe"}
    assert {route.link for route in state.routes if route.kind == "unicast"} == {"cpygpe"}
    assert len(state.routes) == len(set(state.routes))


def test_no_backend_makes_no_routes() -> None:
    """Not even those that make the network unreachable: the default route may lead to it."""
    facts = replace(FACTS, backends=frozenset(("none",)))
    state = plan(HERE, PEERS, Network("c", CLUSTER, ("none",)), facts)
    assert state == NodeState(sysctls=state.sysctls)


def test_several_ranges_have_one_gateway() -> None:
    """A neighbour a family, however many ranges; a range with no address to spare lends none."""
    many = (ip_network("10.244.9.9/32"), ip_network("10.244.2.0/24"), ip_network("10.244.5.0/24"))
    state = plan(HERE, (replace(PEERS[0], cidrs=many),), Network("c", CLUSTER), FACTS)
    assert [str(one.address) for one in state.neighbours] == ["10.244.2.0"]
    assert {str(route.gw) for route in state.routes if route.kind == "unicast"} == {"10.244.2.0"}


def test_a_mac_is_a_nodes_own() -> None:
    """Locally administered, unicast, the same always; another for another cluster or node."""
    mac = tunnel_mac("c", "n1")
    assert mac == tunnel_mac("c", "n1")
    assert int(mac[:2], 16) & 3 == 2
    assert len({mac, tunnel_mac("d", "n1"), tunnel_mac("c", "n2"), tunnel_mac("", "cn1")}) == 4


def test_a_segment_of_ranges_of_all_sizes() -> None:
    """A range without room for the node and a pod has no gateway; one outside of the network is a segment itself."""
    own = tuple(map(ip_network, ("10.244.0.0/24", "10.244.9.0/31", "172.16.0.0/28", "fd44::/64")))
    state = plan(replace(HERE, cidrs=own), (), Network("c", CLUSTER, ("l2",)), FACTS)
    assert [str(one.address) for one in state.addresses] == ["10.244.0.1/16", "172.16.0.1/28", "fd44::1/32"]
    routed = [str(route.dst) for route in state.routes if route.kind == "unicast"]
    assert routed == ["10.244.0.0/16", "172.16.0.0/28", "fd44::/32"]


def test_a_peer_that_has_no_family_in_common_is_not_in_the_segment() -> None:
    """Nobody passes its frames on, and the status says so."""
    alone = replace(HERE, ip6=None)
    assert {str(one.dst) for one in plan(alone, PEERS, Network("c", CLUSTER, ("l2",)), FACTS).fdb} == {NEAR, FAR}
    assert ways_to(PEERS[2], "l2", here=alone) == ["None: it has no underlay address of IPv4"] * 2
