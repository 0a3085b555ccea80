"""A node with pods and a neighbour, in namespaces: the test's own is the node's.

    outside 192.0.2.2, 2001:db8::2  --- eth0 [node 192.0.2.1, 2001:db8::1] --- pods 10.0.0.2, .3, fd00::2, ::3

Outside knows no route to the pods, so what it sees of them is what was translated. Pods are on the bridge cni0
(10.0.0.1, hairpin on), or each on a routed veth. Sockets stay in the namespace they were made in, so one thread runs
all of them.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cni_py.kernel import netns

WAIT_S = 5.0
# How long the absence of a packet is watched. All is on one machine: what arrives does so in well under a millisecond.
ABSENT_S = 0.2

BRIDGE_SYSCTLS = Path("/proc/sys/net/bridge")

NODE4, NODE6 = "192.0.2.1", "2001:db8::1"
OUTSIDE4, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def ip(*words: str) -> None:
    """Run iproute2."""
    subprocess.run(["ip", *" ".join(words).split()], check=True)


def sysctl(name: str, value: str) -> None:
    """Set a /proc/sys/net value of the node."""
    Path("/proc/sys/net", name).write_text(value)


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace by descriptor, and its addresses."""

    name: str
    fd: int
    ip4: IPv4Address
    ip6: IPv6Address
    link: str = ""

    def address(self, version: int) -> str:
        """Its address of that family."""
        return str(self.ip4 if version == 4 else self.ip6)

    def open(self, version: int, protocol: str) -> socket.socket:
        """A socket there, with a time limit."""
        with netns.entered(self.fd):
            made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, KINDS[protocol])
        made.settimeout(WAIT_S)
        return made

    def listen(self, version: int, protocol: str, port: int, address: str = "") -> socket.socket:
        """A server's socket there, on all its addresses unless one is given."""
        made = self.open(version, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        if protocol == "tcp":
            made.listen()
        return made

    def packet_socket(self, interface: str) -> socket.socket:
        """Raw frames of one interface there, all of them."""
        with netns.entered(self.fd):
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((interface, 0))
        made.settimeout(WAIT_S)
        return made


@dataclass(frozen=True, slots=True)
class Lab:
    """Everybody. `bridge`: "cni0", or "" when pods are routed. `filtered`: br_netfilter shows IP what is bridged."""

    node: Place
    outside: Place
    pods: tuple[Place, Place]
    bridge: str
    filtered: bool


@contextmanager
def lab(*, bridged: bool, filtered: bool = False) -> Iterator[Lab]:
    """The picture above. Namespaces and links go with the test's own."""
    with ExitStack() as stack:
        node_fd = netns.open_own()
        stack.callback(os.close, node_fd)
        node = Place("node", node_fd, IPv4Address(NODE4), IPv6Address(NODE6), "eth0")
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            sysctl(name, "1")
        sysctl("ipv6/conf/default/accept_dad", "0")  # link-local addresses work at once
        outside = _place(stack, "outside", OUTSIDE4, OUTSIDE6, "eth0")
        ip(f"addr add {NODE4}/24 dev eth0")
        ip(f"addr add {NODE6}/64 dev eth0 nodad")
        ip("-n outside", f"addr add {OUTSIDE4}/24 dev eth0")
        ip("-n outside", f"addr add {OUTSIDE6}/64 dev eth0 nodad")
        if BRIDGE_SYSCTLS.exists():
            for name in ("iptables", "ip6tables"):
                (BRIDGE_SYSCTLS / f"bridge-nf-call-{name}").write_text(str(int(filtered)))
        if bridged:
            ip("link add cni0 type bridge")
            ip("link set cni0 up")
            ip("addr add 10.0.0.1/24 dev cni0")
            ip("addr add fd00::1/64 dev cni0 nodad")
        pods = tuple(_pod(stack, number, bridged=bridged) for number in (2, 3))
        yield Lab(node, outside, (pods[0], pods[1]), "cni0" if bridged else "", filtered)


def _place(stack: ExitStack, name: str, ip4: str, ip6: str, link: str) -> Place:
    ip("netns add", name)
    fd = netns.open_path(f"/run/netns/{name}")
    stack.callback(os.close, fd)
    with netns.entered(fd):
        sysctl("ipv6/conf/default/accept_dad", "0")
    ip(f"link add {link} type veth peer name eth0 netns {name}")
    ip(f"link set {link} up")
    ip("-n", name, "link set lo up")
    ip("-n", name, "link set eth0 up")
    return Place(name, fd, IPv4Address(ip4), IPv6Address(ip6), link)


def _pod(stack: ExitStack, number: int, *, bridged: bool) -> Place:
    pod = _place(stack, f"pod{number}", f"10.0.0.{number}", f"fd00::{number}", f"veth{number}")
    inside = ("-n", pod.name)
    prefix4, prefix6 = ("24", "64") if bridged else ("32", "128")
    ip(*inside, f"addr add {pod.ip4}/{prefix4} dev eth0")
    ip(*inside, f"addr add {pod.ip6}/{prefix6} dev eth0 nodad")
    if bridged:
        ip(f"link set {pod.link} master cni0")
        ip(f"link set {pod.link} type bridge_slave hairpin on")
    else:
        ip(f"addr add 10.0.0.1/32 dev {pod.link}")
        ip(f"-6 addr add fd00::1/128 dev {pod.link} nodad")
        ip(f"route add {pod.ip4}/32 dev {pod.link}")
        ip(f"-6 route add {pod.ip6}/128 dev {pod.link}")
        ip(*inside, "route add 10.0.0.1 dev eth0 scope link")
        ip(*inside, "-6 route add fd00::1 dev eth0")
    ip(*inside, "route add default via 10.0.0.1")
    ip(*inside, "-6 route add default via fd00::1")
    return pod


def seen_from(client: socket.socket, to: tuple[str, int], server: socket.socket) -> str:
    """Client sends to `to`, the server answers, the client gets it: the client's address as the server saw it."""
    if server.type == socket.SOCK_STREAM:
        client.connect(to)
        accepted, peer = server.accept()
        with accepted:
            accepted.sendall(b"answer")
            assert client.recv(16) == b"answer"
    else:
        client.connect(to)
        client.send(b"question")
        _, peer = server.recvfrom(16)
        server.sendto(b"answer", peer)
        assert client.recv(16) == b"answer"
    return str(peer[0])


def unanswered(client: socket.socket, to: tuple[str, int]) -> bool:
    """True if nothing comes of it: no connection, no answer to a datagram."""
    client.settimeout(ABSENT_S)
    try:
        client.connect(to)
        client.send(b"question")
        client.recv(16)
    except (TimeoutError, OSError):
        return True
    return False
