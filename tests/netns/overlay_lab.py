"""Nodes in namespaces of their own, joined by an underlay, each with a pod that our own plugin attached.

    n1 192.0.2.1, 2001:db8::1 --+-- br0 [fabric] br1 --- n3 198.51.100.3, 2001:db8:1::3
    n2 192.0.2.2, 2001:db8::2 --+

The fabric, a router, is the test's own namespace. It knows no route to pods.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any, Literal

from netns.nat_lab import Place, ip, sysctl
from netns.plugin import Caller, install
from netns.plugin import netns as make_netns

from cni_py.kernel import netns
from cni_py.kernel.overlay import OverlayKernel
from cni_py.kernel.overlay_facts import facts
from cni_py.model.converge import converge
from cni_py.model.net import NodeState
from cni_py.model.node_network import NodeNetwork
from cni_py.model.ops import Op
from cni_py.model.overlay import DEVICES, MIXED, BackendName, Facts, Network, Node, Tunnel, tunnel_mac
from cni_py.model.result import IPNetwork
from cni_py.overlay.select import plan, pod_mtu
from cni_py.store.node_file import NodeFile

Families = Literal["4", "6", "46"]
CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd44::/32"))
FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


def network(backend: BackendName, beyond: Tunnel = "vxlan") -> Network:
    """The network of the lab by that backend."""
    return Network("lab", CLUSTER, ("direct", beyond) if backend == "direct" else (backend,))


def ranges(number: int, pods: Families = "46") -> tuple[IPNetwork, ...]:
    """The pod networks of the node of that number."""
    both = (ip_network(f"10.244.{number}.0/24"), ip_network(f"fd44:0:{number:x}::/64"))
    return tuple(one for one in both if str(one.version) in pods)


def member(number: int, pods: Families = "46", underlay: Families = "46", *, far: bool = False) -> Node:
    """The node of that number; far ones are behind the router."""
    ip4 = IPv4Address(f"{'198.51.100' if far else '192.0.2'}.{number}")
    ip6 = IPv6Address(f"2001:db8:{int(far)}::{number:x}")
    return Node(
        f"n{number}",
        ranges(number, pods),
        tunnel_mac("lab", f"n{number}"),
        ip4 if "4" in underlay else None,
        ip6 if "6" in underlay else None,
    )


def place(name: str, result: Any) -> Place:
    """The namespace of that name with the addresses that an ADD gave it."""
    addresses = [entry["address"].split("/")[0] for entry in result["ips"]]
    ip4 = next((IPv4Address(one) for one in addresses if ":" not in one), IPv4Address(0))
    ip6 = next((IPv6Address(one) for one in addresses if ":" in one), IPv6Address(0))
    return Place(name, netns.open_path(f"/run/netns/{name}"), ip4, ip6, "eth0")


@dataclass
class Member:
    """A node with its kernel and its pod. `passed` does what a reconciler will: read, plan, change."""

    node: Node
    place: Place
    kernel: OverlayKernel
    path: Path

    def facts(self) -> Facts:
        """As the kernel tells."""
        with netns.entered(self.place.fd):
            underlay = self.kernel.underlay("eth0")
            assert underlay is not None
            return facts(underlay, frozenset((*MIXED, "l2")))

    def desired(self, peers: list[Node], of: Network) -> NodeState:
        """What this node should have."""
        return plan(self.node, [peer for peer in peers if peer.name != self.node.name], of, self.facts())

    def read(self, desired: NodeState) -> NodeState:
        """What it has."""
        with netns.entered(self.place.fd):
            return self.kernel.read(DEVICES, desired)

    def passed(self, peers: list[Node], of: Network) -> tuple[Op, ...]:
        """One pass: the changes, none of which was refused."""
        desired = self.desired(peers, of)
        ops = converge(desired, self.read(desired))
        with netns.entered(self.place.fd):
            refused = self.kernel.apply(ops)
        assert not refused, [error.message for _, error in refused]
        return ops

    def attach(self, of: Network, name: str = "") -> Place:
        """A pod of this node, by our plugin, with the MTU that the overlay leaves."""
        name = name or f"p{self.node.name}"
        mtu = pod_mtu(self.node, of, self.facts()).value
        make_netns(name)
        ipam: dict[str, Any] = {
            "type": "cni-py-ipam",
            "dataDir": f"/run/{self.node.name}/leases",
            "ranges": [[{"subnet": str(cidr)}] for cidr in self.node.cidrs],
            "routes": [{"dst": "0.0.0.0/0" if cidr.version == 4 else "::/0"} for cidr in self.node.cidrs],
        }
        config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "cni-py", "mtu": mtu, "ipam": ipam}
        if of.backends == ("l2",):
            NodeFile().write(NodeNetwork(CLUSTER, self.node.cidrs, mtu, self.node.mac))
            del ipam["ranges"], config["mtu"]
            config["mode"] = "l2"
        with netns.entered(self.place.fd):
            result = Caller(self.path, name, f"/run/netns/{name}").add(
                {**config, "stateDir": f"/run/{self.node.name}/state"}
            )
        return place(name, result)

    def ip(self, *words: str) -> None:
        """Run iproute2 on the node."""
        with netns.entered(self.place.fd):
            ip(*words)


class Lab:
    """Members by number."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        self.members: list[Member] = []

    @property
    def nodes(self) -> list[Node]:
        """All that are joined."""
        return [one.node for one in self.members]

    def join(self, node: Node) -> Member:
        """A node with its underlay addresses, and nothing of the overlay."""
        make_netns(node.name)
        fd = netns.open_path(f"/run/netns/{node.name}")
        self._stack.callback(os.close, fd)
        far = node.ip6 is not None and node.ip6 in ip_network("2001:db8:1::/64")
        far = far or (node.ip4 is not None and node.ip4 in ip_network("198.51.100.0/24"))
        ip(f"link add u{node.name} type veth peer name eth0 netns {node.name}")
        ip(f"link set u{node.name} up master br{int(far)}")
        with netns.entered(fd):
            sysctl("ipv6/conf/default/accept_dad", "0")
            sysctl("ipv6/conf/all/accept_dad", "0")
            ip("link set eth0 up")
            if node.ip4 is not None:
                ip(f"addr add {node.ip4}/24 dev eth0")
                ip(f"route add default via {'198.51.100.254' if far else '192.0.2.254'}")
            if node.ip6 is not None:
                ip(f"addr add {node.ip6}/64 dev eth0 nodad")
                ip(f"-6 route add default via 2001:db8:{int(far)}::fe")
            kernel = OverlayKernel()
        self._stack.callback(kernel.close)
        place = Place(node.name, fd, node.ip4 or IPv4Address(0), node.ip6 or IPv6Address(0), "eth0")
        made = Member(node, place, kernel, self._path)
        self.members.append(made)
        return made

    def settle(self, of: Network) -> None:
        """Each node has made its pass, and has nothing left to do in a second one."""
        for one in self.members:
            one.passed(self.nodes, of)
        for one in self.members:
            assert one.passed(self.nodes, of) == ()

    def pods(self, of: Network) -> list[Place]:
        """A pod on each node, with the MTU that the overlay leaves."""
        found = []
        for one in self.members:
            place = one.attach(of)
            self._stack.callback(os.close, place.fd)
            found.append(place)
        return found


@contextmanager
def lab(directory: Path, *nodes: Node) -> Iterator[Lab]:
    """The picture above with these nodes."""
    with ExitStack() as stack:
        sysctl("ipv6/conf/default/accept_dad", "0")
        for name in FORWARDING:
            sysctl(name, "1")
        for number, (ip4, ip6) in enumerate(
            (("192.0.2.254/24", "2001:db8::fe/64"), ("198.51.100.254/24", "2001:db8:1::fe/64"))
        ):
            ip(f"link add br{number} type bridge")
            ip(f"link set br{number} up")
            ip(f"addr add {ip4} dev br{number}")
            ip(f"addr add {ip6} dev br{number} nodad")
        made = Lab(install(directory / "bin"), stack)
        for node in nodes:
            made.join(node)
        yield made


def carry(client: Place, server: Place, version: int, size: int = 200_000) -> None:
    """TCP carries `size` bytes from one to the other, and the server sees the client's own address."""
    with server.listen(version, "tcp", 80) as listening, client.open(version, "tcp") as asking:
        asking.connect((server.address(version), 80))
        accepted, peer = listening.accept()
        assert peer[0] == client.address(version)
        with accepted:
            accepted.settimeout(5)
            asking.settimeout(0)
            sent = received = 0
            while received < size:
                if sent < size:
                    with suppress(BlockingIOError):
                        sent += asking.send(bytes(min(1 << 15, size - sent)))
                received += len(accepted.recv(1 << 16))


def whole_datagram(client: Place, server: Place, version: int, mtu: int) -> socket.socket:
    """A datagram that fills the MTU, and must not be fragmented, arrives whole; the socket that sent it."""
    with server.listen(version, "udp", 53) as listening:
        asking = client.open(version, "udp")
        if version == 4:
            asking.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        else:
            asking.setsockopt(socket.IPPROTO_IPV6, 23, 2)
        asking.connect((server.address(version), 53))
        payload = os.urandom(payload_of(version, mtu))
        asking.send(payload)
        assert listening.recv(1 << 16) == payload
        return asking


def payload_of(version: int, mtu: int) -> int:
    """The bytes of a datagram that makes an IP packet of `mtu` bytes."""
    return mtu - (28 if version == 4 else 48)
