"""One segment over nodes: pods of all talk; broadcast and multicast reach each other pod once, and nobody else."""

import os
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, closing
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from netns.nat_lab import Place
from netns.overlay_lab import Families, Lab, carry, lab, member, network, whole_datagram

from cni_py.kernel import netns
from cni_py.model.overlay import Node
from cni_py.overlay.backend import outer
from cni_py.overlay.select import pod_mtu

pytestmark = pytest.mark.sudo

L2 = network("l2")
GROUP4, GROUP6 = "239.1.2.3", "ff05::1:2:3"
ALL: tuple[Families, ...] = ("4", "6", "46")
# Over which families each of three nodes is reached: one of both between two of one is where a loop could be.
UNDERLAYS: dict[str, tuple[Families, Families, Families]] = {
    "over4": ("4", "4", "4"),
    "over6": ("6", "6", "6"),
    "over46": ("46", "46", "46"),
    "mixed": ("46", "4", "6"),
}


def _members(pods: Families, underlays: tuple[Families, Families, Families]) -> tuple[Node, Node, Node]:
    first, second, third = underlays
    return member(1, pods, first), member(2, pods, second), member(3, pods, third, far=True)


@pytest.mark.parametrize("pods", ALL)
@pytest.mark.parametrize("underlays", UNDERLAYS)
def test_pods_of_all_nodes_are_on_one_link(underlays: str, pods: Families, tmp_path: Path) -> None:
    """TCP and datagrams at the full MTU, by ARP and neighbour discovery across nodes; a second pass does nothing."""
    with lab(tmp_path, *_members(pods, UNDERLAYS[underlays])) as made:
        made.settle(L2)
        first, second, third = made.pods(L2)
        mtu = pod_mtu(made.nodes[0], L2, made.members[0].facts()).value
        assert mtu == 1430
        pairs = [(first, second), (third, first)] + ([(second, third)] if underlays != "mixed" else [])
        for client, server in pairs:
            for version in map(int, pods):
                carry(client, server, version)
                whole_datagram(client, server, version, mtu).close()
                assert _mac_behind(client, server.address(version)) == _mac(server)
        assert all(one.passed(made.nodes, L2) == () for one in made.members)


def _mac_behind(place: Place, address: str) -> str:
    """The MAC that a pod has found for an address on its link."""
    with netns.entered(place.fd):
        told = subprocess.run(["ip", "neigh", "show", address], check=True, capture_output=True, text=True).stdout
    return told.partition("lladdr ")[2].partition(" ")[0]


def _mac(place: Place) -> str:
    with netns.entered(place.fd):
        told = subprocess.run(["ip", "-o", "link", "show", "eth0"], check=True, capture_output=True, text=True).stdout
    return told.partition("link/ether ")[2].partition(" ")[0]


def _hearers(stack: ExitStack, places: list[Place], version: int) -> list[socket.socket]:
    """A socket in each that hears broadcast, or of IPv6 the group of all nodes' pods, and the multicast group."""
    found = []
    for place in places:
        made = stack.enter_context(closing(place.listen(version, "udp", 5353)))
        index = _index(place)
        if version == 4:
            request = socket.inet_aton(GROUP4) + socket.inet_aton(place.address(4))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        else:
            request = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        found.append(made)
    return found


def _index(place: Place) -> int:
    with netns.entered(place.fd):
        return socket.if_nametoindex("eth0")


def _say(place: Place, version: int, to: str, text: bytes) -> None:
    with place.open(version, "udp") as asking:
        if version == 4:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(place.address(4)))
            asking.sendto(text, (to, 5353))
        else:
            asking.sendto(text, (to, 5353, 0, _index(place)))


def _heard(one: socket.socket, seconds: float = 0.3) -> list[bytes]:
    """All that comes within a moment."""
    found = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        one.settimeout(left)
        try:
            found.append(one.recv(1500))
        except TimeoutError:
            break
    return found


@pytest.mark.parametrize("underlays", UNDERLAYS)
def test_everybody_hears_it_once(underlays: str, tmp_path: Path) -> None:
    """Broadcast of IPv4, a group of each family: to a pod of each other node and to one beside the sender."""
    with lab(tmp_path, *_members("46", UNDERLAYS[underlays])) as made, ExitStack() as stack:
        made.settle(L2)
        speaker, second, third = made.pods(L2)
        beside = made.members[0].attach(L2, "beside")
        stack.callback(os.close, beside.fd)
        for version, to in ((4, "10.244.255.255"), (4, "255.255.255.255"), (4, GROUP4), (6, "ff02::1"), (6, GROUP6)):
            with ExitStack() as listening:
                hearers = _hearers(listening, [second, third, beside], version)
                text = to.encode()
                _say(speaker, version, to, text)
                assert [_heard(one) for one in hearers] == [[text]] * 3, to


def test_a_node_of_both_families_passes_nothing_on(tmp_path: Path) -> None:
    """Between a node of IPv4 and one of IPv6: what comes from a tunnel is for its pods alone, so nothing is doubled."""
    with lab(tmp_path, *_members("46", UNDERLAYS["mixed"])) as made, ExitStack() as stack:
        made.settle(L2)
        first, second, third = made.pods(L2)
        hearers = _hearers(stack, [first, second, third], 4)
        _say(second, 4, "10.244.255.255", b"from the one of IPv4")
        assert [_heard(one) for one in hearers] == [[b"from the one of IPv4"], [b"from the one of IPv4"], []]
        _say(third, 4, "10.244.255.255", b"from the one of IPv6")
        assert [_heard(one) for one in hearers] == [[b"from the one of IPv6"], [], [b"from the one of IPv6"]]


def test_pods_reach_their_node_and_beyond(tmp_path: Path) -> None:
    """The gateway is the pod's own node, by the bridge; what leaves the segment goes by it."""
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(L2)
        first, second = made.pods(L2)
        assert (str(first.ip4), str(second.ip6)) == ("10.244.1.2", "fd44:0:2::2")
        with netns.entered(first.fd):
            shown = subprocess.run(["ip", "-o", "addr", "show", "eth0"], check=True, capture_output=True, text=True)
            routes = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout
        assert "10.244.1.2/16 " in shown.stdout
        assert "fd44:0:1::2/32 " in shown.stdout
        assert "default via 10.244.1.1 dev eth0" in routes
        node = made.members[0].place
        gateway = Place("n1", node.fd, IPv4Address("10.244.1.1"), IPv6Address("fd44:0:1::1"), "cpybr")
        for version in (4, 6):
            carry(first, gateway, version)
            carry(gateway, second, version)


def _tunnel_frames(made: Lab, number: int) -> socket.socket:
    """What comes to a node by its underlay."""
    return made.members[number].place.packet_socket("eth0")


@pytest.mark.parametrize("underlay", ["4", "6"])
def test_to_a_peer_that_is_gone_goes_no_frame(underlay: Families, tmp_path: Path) -> None:
    """Neither to everybody nor to pods of it that were learned."""
    with lab(tmp_path, *_members("46", (underlay, underlay, underlay))) as made:
        made.settle(L2)
        first, second, third = made.pods(L2)
        for version in (4, 6):
            carry(first, third, version)
            carry(third, first, version)
        left = made.nodes[:2]
        made.members[2].passed(made.nodes[1:], L2)  # else it goes on to be learned from: here is no guard
        made.members[0].passed(left, L2)
        assert made.members[0].passed(left, L2) == ()
        with closing(_tunnel_frames(made, 2)) as arriving:
            arriving.settimeout(0)
            while _one(arriving):
                pass
            with first.open(4, "udp") as asking:
                asking.sendto(b"hello", (third.address(4), 9))
            _say(first, 4, "10.244.255.255", b"all")
            time.sleep(0.3)
            ends = outer(made.nodes[0], made.nodes[2])
            assert ends is not None
            pair = ends[0].packed + ends[1].packed
            assert not [frame for frame in iter(lambda: _one(arriving), b"") if pair in frame[:60]]
        carry(first, second, 4)


def _one(arriving: socket.socket) -> bytes:
    try:
        return arriving.recv(2048)
    except BlockingIOError:
        return b""


def test_a_pod_that_comes_says_so_on_all_nodes(tmp_path: Path) -> None:
    """By gratuitous ARP, and with IPv6 by joining its groups: its MAC is known everywhere before it is asked for."""
    with lab(tmp_path, member(1), member(2)) as made, ExitStack() as stack:
        made.settle(L2)
        watching = made.members[1].attach(L2)
        stack.callback(os.close, watching.fd)
        arriving = stack.enter_context(closing(watching.packet_socket("eth0")))
        came = made.members[0].attach(L2)
        stack.callback(os.close, came.fd)
        mac = bytes.fromhex(_mac(came).replace(":", ""))
        announced = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + mac + came.ip4.packed + bytes(6) + came.ip4.packed
        wanted = {"ARP": mac + announced, "MLD": mac + b"\x86\xdd"}
        while wanted:
            frame = arriving.recv(2048)
            wanted = {name: start for name, start in wanted.items() if not frame[6:].startswith(start)}


@pytest.mark.parametrize("underlay", ALL)
def test_a_network_becomes_a_segment_and_back(underlay: Families, tmp_path: Path) -> None:
    """In place: the tunnels of the one are those of the other, and no change is refused."""
    with lab(tmp_path, member(1, underlay=underlay), member(2, underlay=underlay)) as made:
        for of in (network("vxlan"), L2, network("gpe"), L2, network("vxlan")):
            made.settle(of)
        first, second = made.pods(network("vxlan"))
        for version in (4, 6):
            carry(first, second, version)


SABOTAGE = {
    "tunnel deleted": ["ip link del DEV"],
    "tunnel taken out of the bridge": ["ip link set DEV nomaster"],
    "tunnel no longer isolated": ["bridge link set dev DEV isolated off"],
    "learning off": ["ip link set DEV type vxlan nolearning"],
    "an entry deleted": ["bridge fdb del 00:00:00:00:00:00 dev DEV dst PEER"],
    "entries flushed": ["bridge fdb flush dev DEV self"],
    "an entry too much": ["bridge fdb append 00:00:00:00:00:00 dev DEV dst OTHER"],
    "bridge down": ["ip link set cpybr down"],
    "another MAC": ["ip link set cpybr address 0e:00:00:00:00:99"],
    "another MTU": ["ip link set cpybr mtu 1300"],
    "snooping on": ["ip link set cpybr type bridge mcast_snooping 1"],
    "spanning tree on": ["ip link set cpybr type bridge stp_state 1"],
    "addresses flushed": ["ip addr flush dev cpybr scope global"],
    "route deleted": ["ip route flush proto 143"],
}


@pytest.mark.parametrize("underlay", ["4", "6"])
@pytest.mark.parametrize("what", SABOTAGE)
def test_one_pass_puts_it_right(what: str, underlay: Families, tmp_path: Path) -> None:
    """No change is refused, and pods talk again."""
    with lab(tmp_path, member(1, underlay=underlay), member(2, underlay=underlay)) as made:
        made.settle(L2)
        first, second = made.pods(L2)
        words = {
            "DEV": "cpyvx4" if underlay == "4" else "cpyvx6",
            "PEER": "192.0.2.2" if underlay == "4" else "2001:db8::2",
            "OTHER": "192.0.2.9" if underlay == "4" else "2001:db8::9",
        }
        one = made.members[0]
        with netns.entered(one.place.fd):
            for command in SABOTAGE[what]:
                subprocess.run([words.get(word, word) for word in command.split()], check=True)
        assert one.passed(made.nodes, L2) != ()
        assert one.passed(made.nodes, L2) == ()
        for version in (4, 6):
            carry(second, first, version)
