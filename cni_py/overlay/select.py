"""Which backend a network has, and what pods may send there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cni_py.model.net import NodeState
from cni_py.model.overlay import BackendName, Facts, Network, Node
from cni_py.overlay.backend import Backend
from cni_py.overlay.direct import direct
from cni_py.overlay.gpe import gpe
from cni_py.overlay.hostgw import hostgw
from cni_py.overlay.mtu import Mtu
from cni_py.overlay.vxlan import vxlan

BACKENDS: Mapping[BackendName, Backend] = {"vxlan": vxlan, "gpe": gpe, "host-gw": hostgw, "direct": direct}


def plan(node: Node, peers: Sequence[Node], network: Network, facts: Facts) -> NodeState:
    """The state of the network's backend on this node. Raises InvalidConfigError.

    Where IPv6 is turned off, all that the kernel would refuse is left out.
    """
    if not facts.ipv6:
        node, peers = _only_ip4(node), [_only_ip4(peer) for peer in peers]
        network = replace(network, cidrs=tuple(cidr for cidr in network.cidrs if cidr.version == 4))
    return BACKENDS[network.backend](node, peers, network, facts)


def _only_ip4(node: Node) -> Node:
    return replace(node, ip6=None, cidrs=tuple(cidr for cidr in node.cidrs if cidr.version == 4))


def pod_mtu(node: Node, network: Network, facts: Facts) -> Mtu:
    """The MTU of this node's pods: what the tunnel leaves. To peers with less the kernel tells them (path MTU)."""
    return Mtu(facts.underlay.mtu, network.tunnel, 4 if node.ip4 is not None else 6)
