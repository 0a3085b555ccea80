"""What joins nodes, as values: who the nodes are, what their network is to be, and what a node has to do it with."""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from cni_py.model.node_network import SEGMENT
from cni_py.model.result import IPAddress, IPNetwork

Tunnel = Literal["vxlan", "gpe"]
BackendName = Literal["direct", "host-gw", "vxlan", "gpe", "l2", "none"]
# What nodes can do side by side, each pair its best; `l2` and `none` are a whole network's.
MIXED: tuple[BackendName, ...] = ("direct", "host-gw", "vxlan", "gpe")

# The overlay's own devices. Tunnels are one for each family of the packets outside, with gpe one for both; SEGMENT is
# the bridge that has those of VXLAN as ports. No attachment's device is of these names: those end in twelve digits.
VXLAN4, VXLAN6, GPE = "cpyvx4", "cpyvx6", "cpygpe"
DEVICES = (SEGMENT, VXLAN4, VXLAN6, GPE)


@dataclass(frozen=True, slots=True)
class Node:
    """A member of the network: its underlay addresses and the pod networks it serves, the first of a family its main.

    `backends` is what it can do, `mac` the MAC of its tunnels (`tunnel_mac`, unless it says otherwise). Ports and VNI
    of 0 are the network's; a `probe_port` of 0 means that it answers no probes. A node with a `mac6` has a VXLAN tunnel
    for each family of pods, over that family alone, and this is the MAC of the one of IPv6: flanneld's do.

    `uid` tells two nodes of one name apart, the later of which took the earlier's place; of two that claim one network
    the one with the lower `since`, a number of the source's own, was there first.
    """

    name: str
    cidrs: tuple[IPNetwork, ...]
    mac: str
    ip4: IPv4Address | None = None
    ip6: IPv6Address | None = None
    backends: frozenset[BackendName] = frozenset((*MIXED, "l2"))
    vni: int = 0
    vxlan_port: int = 0
    probe_port: int = 0
    uid: str = ""
    since: int = 0
    mac6: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """What all nodes agree on. `backends` are those permitted, the best first: a pair uses the first that both can do.

    `cluster` tells networks that share an underlay apart. Nothing in `cidrs` leaves a node but to a peer.
    """

    cluster: str
    cidrs: tuple[IPNetwork, ...]
    backends: tuple[BackendName, ...] = ("vxlan",)
    vni: int = 142
    vxlan_port: int = 4789
    gpe_port: int = 4790


@dataclass(frozen=True, slots=True)
class Underlay:
    """The link that leads to the other nodes; `mtu` in bytes, IP header included.

    `prefixes` are the networks that its routes say to be on the link, `detours` those within them that go elsewhere.
    """

    link: str
    mtu: int
    addresses: tuple[IPAddress, ...] = ()
    prefixes: tuple[IPNetwork, ...] = ()
    detours: tuple[IPNetwork, ...] = ()

    def on_link(self, address: IPAddress) -> bool:
        """True if packets to the address go straight to it, by no router."""
        return any(address in one for one in self.prefixes) and not any(address in one for one in self.detours)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node has: its underlay, and what its kernel can do."""

    underlay: Underlay
    backends: frozenset[BackendName] = frozenset(MIXED)
    ipv6: bool = True


def tunnel_mac(cluster: str, node: str) -> str:
    """The MAC of a node's tunnels: unicast, locally administered, the same after each boot and on each node.

    Attachments' begin with 0a, so that a frame's origin shows.
    """
    digest = hashlib.sha256(f"{cluster}\0{node}".encode()).digest()
    return (b"\x0e" + digest[:5]).hex(":")
