"""Forged frames from a pod: none arrives, each is counted; what the pod may send arrives."""

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from netns.nat_lab import NODE4, OUTSIDE4, OUTSIDE6, Lab, Place, lab, seen_from

from cni_py.cni import antispoof
from cni_py.cni.antispoof import Guarded
from cni_py.kernel import netns, nft
from cni_py.model.nft import Change

pytestmark = pytest.mark.sudo(real=True)  # SO_RCVBUFFORCE: no forged frame may be lost on the way to the count

FORGED = 500
ETHER_IP, ETHER_ARP, ETHER_IP6, ETHER_VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
MARK = b"genuine!"
PACKET_OUTGOING = 4


@pytest.fixture
def bridged(fresh_namespaces: None) -> Iterator[Lab]:
    """The node with pods on a bridge."""
    del fresh_namespaces
    with lab(bridged=True) as made:
        yield made


@pytest.fixture
def routed(fresh_namespaces: None) -> Iterator[Lab]:
    """The node with routed pods."""
    del fresh_namespaces
    with lab(bridged=False) as made:
        yield made


def mac(place: Place, interface: str = "eth0") -> bytes:
    """The MAC of an interface there."""
    with netns.entered(place.fd), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as asking:
        asking.bind((interface, 0))
        address: bytes = asking.getsockname()[4]
    return address


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total = 0
    for (word,) in struct.iter_unpack("!H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def frame(to: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    return to + source + struct.pack("!H", ethertype) + payload


def ip4(source: str, to: str, payload: bytes = b"forged!!") -> bytes:
    """An IPv4 packet with UDP to port 9."""
    udp = struct.pack("!HHHH", 9, 9, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    ends = IPv4Address(source).packed + IPv4Address(to).packed
    return head[:10] + struct.pack("!H", checksum(head + ends)) + ends + udp


def ip6(source: str, to: str, payload: bytes = b"forged!!", protocol: int = 17) -> bytes:
    """An IPv6 packet, UDP to port 9 by default. Nobody on the way looks at its checksum."""
    body = payload if protocol != 17 else struct.pack("!HHHH", 9, 9, 8 + len(payload), 0) + payload
    head = struct.pack("!IHBB", 0x60000000, len(body), protocol, 255)
    return head + IPv6Address(source).packed + IPv6Address(to).packed + body


def arp(sender_mac: bytes, sender: str, target: str) -> bytes:
    """An ARP answer, which is how a neighbour's cache is poisoned."""
    ends = sender_mac + IPv4Address(sender).packed + bytes(6) + IPv4Address(target).packed
    return struct.pack("!HHBBH", 1, ETHER_IP, 6, 4, 2) + ends + b"forged!!"


def icmp6(kind: int) -> bytes:
    """An ICMPv6 message of that type."""
    return bytes((kind, 0, 0, 0)) + bytes(12) + b"forged!!"


def advert(target: str) -> bytes:
    """A neighbour advertisement that overrides what is known of the target."""
    return bytes((136, 0, 0, 0, 0x20, 0, 0, 0)) + IPv6Address(target).packed + b"forged!!"


def dropped(table: str) -> int:
    """Packets that all drop rules of a table have counted."""
    command = ["nft", "list", "table", *table.split()]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sum(int(number) for number in re.findall(r"counter packets (\d+) bytes \d+ drop", shown))


def delivered(sender: Place, receiver: Place, forged: bytes, genuine: bytes) -> int:
    """How many of FORGED frames came through before the genuine one that was sent behind them."""
    with sender.packet_socket("eth0") as sending, receiver.packet_socket("eth0") as heard:
        heard.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        for _ in range(FORGED):
            sending.send(forged)
        sending.send(genuine)
        count = 0
        while True:
            seen, sender_of_it = heard.recvfrom(2048)
            if MARK in seen:
                return count
            # Not what the receiver answers: an ICMP error quotes what it is about.
            count += b"forged!!" in seen and sender_of_it[2] != PACKET_OUTGOING


def commit(change: Change) -> None:
    """One transaction."""
    with nft.connect() as socket_:
        nft.commit(socket_, change)


def guard(net: Lab, *, strict: bool = True) -> Guarded:
    """The first pod's interface, as the planner is told of it."""
    pod = net.pods[0]
    return Guarded(pod.link, mac(pod).hex(":"), (pod.ip4, pod.ip6) if strict else ())


STRANGER = bytes.fromhex("02000000beef")
OWN4, OTHER4, OWN6, OTHER6 = "10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"
ALL_NODES = bytes.fromhex("333300000001")

# (name, frame from the own and the other pod's MAC, does macspoofchk alone drop it)
BRIDGED = [
    ("MAC", lambda _, to: frame(to, STRANGER, ETHER_IP, ip4(OWN4, OTHER4)), True),
    ("other's MAC", lambda _, to: frame(b"\xff" * 6, to, ETHER_IP, ip4(OWN4, OTHER4)), True),
    ("IPv4", lambda own, to: frame(to, own, ETHER_IP, ip4("10.0.0.1", OTHER4)), False),
    ("IPv6", lambda own, to: frame(to, own, ETHER_IP6, ip6("fd00::1", OTHER6)), False),
    ("ARP of the gateway", lambda own, to: frame(to, own, ETHER_ARP, arp(own, "10.0.0.1", OTHER4)), False),
    ("ARP with a MAC", lambda own, to: frame(to, own, ETHER_ARP, arp(STRANGER, OWN4, OTHER4)), False),
    (
        "router advertisement",
        lambda own, _: frame(ALL_NODES, own, ETHER_IP6, ip6("fe80::2", "ff02::1", icmp6(134), 58)),
        False,
    ),
    ("redirect", lambda own, to: frame(to, own, ETHER_IP6, ip6("fe80::2", OTHER6, icmp6(137), 58)), False),
    (
        "neighbour advertisement",
        lambda own, to: frame(to, own, ETHER_IP6, ip6(OWN6, OTHER6, advert("fd00::1"), 58)),
        False,
    ),
    (
        "link-local advertisement",
        lambda own, to: frame(to, own, ETHER_IP6, ip6("fe80::2", OTHER6, advert("fe80::1"), 58)),
        False,
    ),
    ("VLAN", lambda own, to: frame(to, own, ETHER_VLAN, b"\0\1\x08\0" + ip4("10.0.0.1", OTHER4)), False),
    ("other protocol", lambda own, to: frame(to, own, 0x88B5, b"forged!!" * 8), False),
]


@pytest.mark.parametrize("strict", [True, False], ids=["addresses", "mac-only"])
@pytest.mark.parametrize(("make", "mac_drops"), [row[1:] for row in BRIDGED], ids=[row[0] for row in BRIDGED])
def test_forged_on_the_bridge(bridged: Lab, make: object, mac_drops: bool, strict: bool) -> None:
    """No forged frame reaches the other pod and each is counted; without addresses only the MAC is checked."""
    assert callable(make)
    first, second = bridged.pods
    commit(antispoof.plan_bridge_port(guard(bridged, strict=strict)))
    before = dropped("bridge cnipy_spoof")
    genuine = frame(mac(second), mac(first), ETHER_IP, ip4(OWN4, OTHER4, MARK))
    expected = 0 if strict or mac_drops else FORGED
    assert expected == delivered(first, second, make(mac(first), mac(second)), genuine)
    assert FORGED - expected <= dropped("bridge cnipy_spoof") - before


ROUTED = [
    ("IPv4", lambda own, to: frame(to, own, ETHER_IP, ip4(OTHER4, OUTSIDE4))),
    ("IPv4 of outside", lambda own, to: frame(to, own, ETHER_IP, ip4("198.51.100.1", OUTSIDE4))),
    ("IPv6", lambda own, to: frame(to, own, ETHER_IP6, ip6(OTHER6, OUTSIDE6))),
    ("router advertisement", lambda own, to: frame(to, own, ETHER_IP6, ip6("fe80::2", "ff02::1", icmp6(134), 58))),
    ("redirect", lambda own, to: frame(to, own, ETHER_IP6, ip6(OWN6, OUTSIDE6, icmp6(137), 58))),
]


@pytest.mark.parametrize("make", [row[1] for row in ROUTED], ids=[row[0] for row in ROUTED])
def test_forged_on_a_routed_link(routed: Lab, make: object) -> None:
    """No packet with another's source leaves the node, and each is counted."""
    assert callable(make)
    for name in ("all", routed.pods[0].link):  # the kernel's own check would hide that ours works
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    first = routed.pods[0]
    commit(antispoof.plan_routed_link(guard(routed)))
    before = dropped("inet cnipy_spoof")
    own, gateway = mac(first), mac(routed.node, first.link)
    genuine = frame(gateway, own, ETHER_IP, ip4(OWN4, OUTSIDE4, MARK))
    with routed.outside.open(4, "udp") as waking:  # resolve the neighbour, else the first packets wait for it
        waking.sendto(b"", (NODE4, 9))
    assert delivered(first, routed.outside, make(own, gateway), genuine) == 0
    assert dropped("inet cnipy_spoof") - before == FORGED


@pytest.mark.parametrize("make", [row[1] for row in ROUTED[:3]], ids=[row[0] for row in ROUTED[:3]])
def test_forged_gets_through_unguarded(routed: Lab, make: object) -> None:
    """The same packets do leave the node without the check, and again once it is taken off."""
    assert callable(make)
    for name in ("all", routed.pods[0].link):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    first = routed.pods[0]
    commit(antispoof.plan_routed_link(guard(routed)))
    commit(antispoof.unplan_routed_link(guard(routed)))
    own, gateway = mac(first), mac(routed.node, first.link)
    with routed.node.open(4, "udp") as waking, routed.outside.listen(4, "udp", 9) as heard:
        waking.sendto(b"", (OUTSIDE4, 9))
        heard.recv(16)
    with routed.node.open(6, "udp") as waking, routed.outside.listen(6, "udp", 9) as heard:
        waking.sendto(b"", (OUTSIDE6, 9))
        heard.recv(16)
    genuine = frame(gateway, own, ETHER_IP, ip4(OWN4, OUTSIDE4, MARK))
    assert delivered(first, routed.outside, make(own, gateway), genuine) == FORGED


@pytest.mark.parametrize("version", [4, 6])
def test_guarded_pods_talk(bridged: Lab, version: int) -> None:
    """With all checks on, ARP, neighbour discovery, and connections of the pod work as ever."""
    first, second = bridged.pods
    commit(antispoof.plan_bridge_port(guard(bridged)))
    for client, server in ((first, second), (second, first)):
        with server.listen(version, "tcp", 7000) as listening, client.open(version, "tcp") as asking:
            assert seen_from(asking, (server.address(version), 7000), listening) == client.address(version)
    assert dropped("bridge cnipy_spoof") == 0


def test_link_local_is_found(bridged: Lab) -> None:
    """A neighbour finds the pod by the link-local address that the kernel gave it."""
    first, second = bridged.pods
    commit(antispoof.plan_bridge_port(guard(bridged)))
    with netns.entered(second.fd):
        index = socket.if_nametoindex("eth0")
    to = (str(antispoof._link_local(mac(first).hex(":"))), 7000, 0, index)
    with first.listen(6, "udp", 7000) as listening, second.open(6, "udp") as asking:
        asking.sendto(b"question", to)
        assert listening.recv(16) == b"question"
    assert dropped("bridge cnipy_spoof") == 0


@pytest.mark.parametrize("version", [4, 6])
def test_guarded_routed_pods_talk(routed: Lab, version: int) -> None:
    """With the check on, a routed pod reaches its neighbour and the node, and is reached."""
    first, second = routed.pods
    commit(antispoof.plan_routed_link(guard(routed)))
    for client, server in ((first, second), (second, first)):
        with server.listen(version, "tcp", 7000) as listening, client.open(version, "tcp") as asking:
            assert seen_from(asking, (server.address(version), 7000), listening) == client.address(version)
    assert dropped("inet cnipy_spoof") == 0
