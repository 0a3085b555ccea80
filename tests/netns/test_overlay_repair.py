"""Whatever is taken away or changed by hand, one pass puts it right; what is no longer wanted leaves nothing."""

import errno
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from netns.nat_lab import Place, ip, sysctl
from netns.overlay_lab import Lab, Member, carry, lab, member, network, payload_of, ranges, whole_datagram

from cni_py.kernel import netns
from cni_py.model.converge import converge
from cni_py.model.errors import ExistsError
from cni_py.model.net import NodeState
from cni_py.model.ops import (
    AddLink,
    AddRoute,
    DelLink,
    DelRoute,
    ReplaceRoute,
    SetFdb,
    SetLink,
    SetNeighbour,
    SetSysctl,
)
from cni_py.model.overlay import GPE, VXLAN4, VXLAN6, Network, Node, tunnel_mac
from cni_py.overlay.select import pod_mtu

pytestmark = pytest.mark.sudo

VXLAN, GPE_NET, HOSTGW = network("vxlan"), network("gpe"), network("host-gw")


@pytest.fixture(params=["4", "6"], ids=["over4", "over6"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """Two nodes that share one family."""
    with lab(tmp_path, member(1, underlay=request.param), member(2, underlay=request.param)) as made:
        yield made


def _device(one: Member) -> str:
    return VXLAN4 if one.node.ip4 is not None else VXLAN6


# What is done on a node; DEV is its tunnel of that network.
SABOTAGE: dict[str, tuple[Network, tuple[str, ...]]] = {
    "device deleted": (VXLAN, ("link del DEV",)),
    "device down": (VXLAN, ("link set DEV down",)),
    "device flapped": (VXLAN, ("link set DEV down", "link set DEV up")),
    "MAC changed": (VXLAN, ("link set DEV address 0e:00:00:00:00:99",)),
    "MTU changed": (VXLAN, ("link set DEV mtu 1300",)),
    "learning on": (VXLAN, ("link set DEV type vxlan learning",)),
    "another VNI": (VXLAN, ("link del DEV", "link add DEV type vxlan id 7 dstport 4789 dev eth0")),
    "another kind": (VXLAN, ("link del DEV", "link add DEV type bridge")),
    "neighbours flushed": (VXLAN, ("neigh flush dev DEV nud permanent",)),
    "addresses flushed": (VXLAN, ("addr flush dev DEV scope global",)),
    "routes flushed": (VXLAN, ("route flush proto 143", "-6 route flush proto 143")),
    "gpe device deleted": (GPE_NET, ("link del DEV",)),
    "gpe device flapped": (GPE_NET, ("link set DEV down", "link set DEV up")),
    "gpe made classic": (GPE_NET, ("link del DEV", "link add DEV type vxlan id 9 dstport 4790")),
    "gpe routes flushed": (GPE_NET, ("route flush proto 143", "-6 route flush proto 143")),
    "underlay flapped": (HOSTGW, ("link set eth0 down", "link set eth0 up")),
}


def _write(one: Member, key: str, value: str) -> None:
    with netns.entered(one.place.fd):
        sysctl(key, value)


def _sabotage(one: Member, of: Network, words: tuple[str, ...]) -> None:
    device = GPE if of is GPE_NET else _device(one)
    for line in words:
        one.ip(line.replace("DEV", device))
    if "eth0 down" in words[0] and one.node.ip6 is not None:  # the kernel forgets it
        one.ip(f"addr add {one.node.ip6}/64 dev eth0 nodad")


@pytest.mark.parametrize("what", SABOTAGE)
def test_one_pass_heals(what: str, two: Lab) -> None:
    """Pods talk again after one pass, and a second has nothing to do."""
    of, words = SABOTAGE[what]
    for one in two.members if of is HOSTGW else ():  # plain routes cross no families
        version = 4 if one.node.ip4 is not None else 6
        one.node = replace(one.node, cidrs=tuple(cidr for cidr in one.node.cidrs if cidr.version == version))
    two.settle(of)
    one, other = two.members
    first, second = two.pods(of)
    _sabotage(one, of, words)
    assert one.passed(two.nodes, of) != ()
    assert one.passed(two.nodes, of) == ()
    for version in {cidr.version for cidr in one.node.cidrs}:
        carry(first, second, version)
        carry(second, first, version)
    assert other.passed(two.nodes, of) == ()


@pytest.mark.parametrize(("key", "value"), [("ipv6/conf/cpyvx4/accept_ra", "1"), ("ipv4/ip_forward", "0")])
def test_a_sysctl_that_somebody_changed(key: str, value: str, tmp_path: Path) -> None:
    """It is put back, and nothing else is touched."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(VXLAN)
        one = made.members[0]
        _write(one, key, value)
        (op,) = one.passed(made.nodes, VXLAN)
        assert isinstance(op, SetSysctl)
        assert one.passed(made.nodes, VXLAN) == ()


def test_a_forwarding_entry_that_is_gone_or_wrong_returns(two: Lab) -> None:
    """One change each; of what was added by hand nothing stays."""
    two.settle(VXLAN)
    one, other = two.members
    device, mac = _device(one), other.node.mac
    peer = str(other.node.ip4 or other.node.ip6)
    elsewhere = "192.0.2.77" if other.node.ip4 else "2001:db8::77"
    with netns.entered(one.place.fd):
        for words in (
            f"del {mac} dev {device}",
            f"replace {mac} dev {device} dst {elsewhere} self permanent",
            f"add 0e:aa:aa:aa:aa:aa dev {device} dst {peer} self permanent",
        ):
            subprocess.run(["bridge", "fdb", *words.split()], check=True)
            assert len(one.passed(two.nodes, VXLAN)) == 1
            assert one.passed(two.nodes, VXLAN) == ()


@pytest.mark.parametrize("of", [VXLAN, GPE_NET, HOSTGW], ids=lambda of: of.backends[0])
def test_peers_that_leave_take_everything_along(of: Network, tmp_path: Path) -> None:
    """With the last peer gone the kernel holds what it held before there was one."""
    with lab(tmp_path, member(1), member(2)) as made:
        one = made.members[0]
        one.passed([one.node], of)
        alone = _held(one, of)
        peers = [member(number) for number in range(2, 30)]
        one.passed(peers, of)
        assert len(one.read(NodeState()).routes) == len(alone.routes) + 2 * len(peers)
        one.passed([one.node], of)
        assert _held(one, of) == alone


def _held(one: Member, of: Network) -> NodeState:
    return one.read(one.desired([one.node], of))


@pytest.mark.parametrize("of", [VXLAN, GPE_NET, HOSTGW], ids=lambda of: of.backends[0])
def test_a_range_that_moves_is_one_replacement(of: Network, tmp_path: Path) -> None:
    """Its route is changed in place, so at no moment is there none; the old owner leaves nothing."""
    with lab(tmp_path, member(1), member(2), member(3)) as made:
        made.settle(of)
        second = replace(made.members[1].node, cidrs=ranges(9))
        third = replace(made.members[2].node, cidrs=ranges(2))
        peers = [second, third]
        ops = made.members[0].passed(peers, of)
        moved = [op.route.dst for op in ops if isinstance(op, ReplaceRoute)]
        if of is VXLAN:  # of IPv4 the neighbour behind the route is another one
            told = {op.neighbour.address: op.neighbour.mac for op in ops if isinstance(op, SetNeighbour)}
            assert told[ip_address("10.244.2.0")] == third.mac
        assert moved == list(ranges(2, "6" if of is VXLAN else "46"))
        deleted = [op.route.dst for op in ops if isinstance(op, DelRoute)]
        assert deleted == list(ranges(3))
        assert made.members[0].passed(peers, of) == ()


def test_a_peer_with_another_address_is_one_change(tmp_path: Path) -> None:
    """The entry that says where its MAC is; routes and neighbours stay."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(VXLAN)
        moved = replace(made.nodes[1], ip4=IPv4Address("192.0.2.22"))
        (op,) = made.members[0].passed([moved], VXLAN)
        assert isinstance(op, SetFdb)


def test_an_own_address_that_changes_keeps_the_device(tmp_path: Path) -> None:
    """The source of the tunnel is changed while it carries packets; nothing on it is lost."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(VXLAN)
        first, second = made.pods(VXLAN)
        one, other = made.members
        one.ip("addr add 192.0.2.11/24 dev eth0")
        one.node = replace(one.node, ip4=IPv4Address("192.0.2.11"))
        (op,) = one.passed(made.nodes, VXLAN)
        assert isinstance(op, SetLink)
        other.passed(made.nodes, VXLAN)
        _write(one, "ipv4/conf/eth0/promote_secondaries", "1")
        one.ip("addr del 192.0.2.1/24 dev eth0")
        carry(first, second, 4)


def test_the_backend_changes(tmp_path: Path) -> None:
    """From each backend to each other: routes are replaced, devices that nobody needs are gone, pods talk."""
    order = [VXLAN, GPE_NET, HOSTGW, network("direct"), GPE_NET, VXLAN, HOSTGW, VXLAN]
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(VXLAN)
        first, second = made.pods(VXLAN)
        for of in order:
            for one in made.members:
                ops = one.passed(made.nodes, of)
                assert not [op for op in ops if isinstance(op, DelRoute | AddRoute)]
            assert all(one.passed(made.nodes, of) == () for one in made.members)
            carry(first, second, 4)
            carry(second, first, 6)


@pytest.mark.parametrize("version", [4, 6])
def test_a_tunnel_that_is_gone_says_so_at_once(version: int, tmp_path: Path) -> None:
    """Packets for the peer's pods don't fall to the default route: the pod hears that there is no way."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(VXLAN)
        first, second = made.pods(VXLAN)
        made.members[0].ip(f"link del {VXLAN4}")
        with first.open(version, "tcp") as asking:
            number = asking.connect_ex((second.address(version), 80))
        assert number in (errno.EHOSTUNREACH, errno.ENETUNREACH)


def test_the_link_below_is_deleted(tmp_path: Path) -> None:
    """The tunnel outlives the underlay's device; with a new one under its address pods talk, without a change."""
    with lab(tmp_path, member(1, underlay="4"), member(2, underlay="4")) as made:
        made.settle(VXLAN)
        first, second = made.pods(VXLAN)
        one = made.members[0]
        one.ip("link del eth0")
        ip("link add un1 type veth peer name eth0 netns n1")
        ip("link set un1 up master br0")
        one.ip("link set eth0 up")
        one.ip("addr add 192.0.2.1/24 dev eth0")
        assert one.passed(made.nodes, VXLAN) == ()
        carry(first, second, 4)


def test_somebody_elses_route_is_left_alone(tmp_path: Path) -> None:
    """One in the very place of ours is not replaced: the refusal names it, all else is done."""
    with lab(tmp_path, member(1), member(2)) as made:
        one, other = made.members
        theirs = f"10.244.2.0/24 via {other.node.ip4} dev eth0 metric 142 proto static"
        one.ip(f"route add {theirs}")
        desired = one.desired(made.nodes, VXLAN)
        with netns.entered(one.place.fd):
            refused = one.kernel.apply(converge(desired, one.read(desired)))
        ((op, error),) = refused
        assert isinstance(op, AddRoute)
        assert op.route.dst == ip_network("10.244.2.0/24")
        assert isinstance(error, ExistsError)
        left = converge(desired, one.read(desired))
        assert left == (op,)


@pytest.mark.parametrize("of", [VXLAN, GPE_NET], ids=lambda of: of.backends[0])
@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_of_the_mtu_passes_and_one_more_byte_does_not(of: Network, version: int, tmp_path: Path) -> None:
    """A pod that thinks it may send 1500 bytes is told by the node what fits, and that is the sum of `pod_mtu`."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(of)
        mtu = pod_mtu(made.nodes[0], of, made.members[0].facts()).value
        first, second = made.pods(of)
        _widen(first, made.members[0])
        with whole_datagram(first, second, version, mtu) as asking:
            asking.send(bytes(payload_of(version, mtu) + 1))  # the node's answer is there when this returns
            with pytest.raises(OSError, match="Message too long"):
                asking.send(bytes(payload_of(version, mtu) + 1))
            told = (socket.IPPROTO_IP, 14) if version == 4 else (socket.IPPROTO_IPV6, 24)
            assert asking.getsockopt(*told) == mtu


def _widen(pod: Place, one: Member) -> None:
    with netns.entered(pod.fd):
        ip("link set eth0 mtu 1500")
    with netns.entered(one.place.fd):
        listed = subprocess.run(["ip", "-j", "link", "show", "type", "veth"], check=True, capture_output=True)
        for link in json.loads(listed.stdout):
            ip(f"link set {link['ifname']} mtu 1500")


@pytest.mark.parametrize("of", [VXLAN, GPE_NET, HOSTGW], ids=lambda of: of.backends[0])
def test_a_thousand_peers_at_once(of: Network, tmp_path: Path) -> None:
    """All of them, and no message is refused; the read-back is what was asked for."""
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        peers = many(1000)
        one.passed(peers, of)
        assert one.passed(peers, of) == ()
        expected = 1000 if of is HOSTGW else 2000  # no plain route of IPv6 leads to a node that has IPv4 alone
        assert len([route for route in one.read(NodeState()).routes if route.kind == "unicast"]) == expected


def many(count: int) -> list[Node]:
    """Peers on the link of the lab's nodes, two ranges each."""
    return [
        Node(
            f"m{number}",
            (ip_network(f"10.244.{number >> 5}.{(number & 31) << 3}/29"), ip_network(f"fd44:1:{number:x}::/64")),
            tunnel_mac("lab", f"m{number}"),
            IPv4Address(f"192.0.2.{number % 200 + 20}"),
        )
        for number in range(64, 64 + count)
    ]


def test_nothing_is_recreated_without_need(tmp_path: Path) -> None:
    """An agent that starts anew adopts what is there."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(VXLAN)
        ops = made.members[0].passed([*made.nodes, member(5)], VXLAN)
        assert not [op for op in ops if isinstance(op, AddLink | DelLink | SetLink)]


def test_what_is_remembered_follows_the_names_of_links(tmp_path: Path) -> None:
    """A device that takes the name of another is told apart from it, though the kernel speaks of numbers."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(HOSTGW)
        first, second = made.pods(HOSTGW)
        one = made.members[0]
        one.ip("link set eth0 down")
        one.ip("link set eth0 name old0")
        one.ip("link set old0 up")
        routes = [route for route in one.read(NodeState()).routes if route.kind == "unicast"]
        assert routes == []
        one.ip(f"addr add {one.node.ip6}/64 dev old0 nodad")
        one.ip("route add 10.244.2.0/24 via 192.0.2.2 dev old0 metric 142 proto 143")
        assert {route.link for route in one.read(NodeState()).routes} == {"", "old0"}
        one.ip("link set old0 name eth0")
        assert {route.link for route in one.read(NodeState()).routes} == {"", "eth0"}
        one.passed(made.nodes, HOSTGW)
        carry(first, second, 4)
        carry(first, second, 6)
