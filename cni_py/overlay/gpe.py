"""VXLAN-GPE: one link that carries bare IP packets, of any family over any family; a peer is a route for each range.

The route itself holds the tunnel header, so there is no neighbour and no forwarding entry that could be lost.
"""

from collections.abc import Iterable
from ipaddress import ip_interface

from cni_py.model.net import (
    PROTOCOL_OVERLAY,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Address,
    Encap,
    Link,
    LinkRoute,
    NodeState,
    Vxlan,
)
from cni_py.model.overlay import GPE, Facts, Network, Node
from cni_py.model.result import IPAddress, IPNetwork
from cni_py.overlay.backend import METRIC, Share, forwarding, guards, outer, tunnel_address
from cni_py.overlay.mtu import Mtu


def gpe(node: Node, shares: Iterable[Share], network: Network, facts: Facts) -> NodeState:
    """The link of this node, and the routes to these ranges of these peers through it.

    Its MTU is that over IPv4 if the node has that; routes over IPv6 then say that they take less.
    """
    mtu = Mtu(facts.underlay.mtu, "gpe", 4 if node.ip4 is not None else 6).value
    routes: list[LinkRoute] = []
    for peer, cidrs in shares:
        ends = outer(node, peer)
        if ends is None:
            continue
        fits = Mtu(facts.underlay.mtu, "gpe", ends[1].version).value
        encap = Encap(network.vni, *ends)
        routes += [_route(cidr, encap, fits if fits < mtu else 0) for cidr in cidrs]
    addresses = (tunnel_address(node.cidrs, version) for version in (4, 6))
    return NodeState(
        links=(Link("host", GPE, "vxlan", mtu=mtu, vxlan=Vxlan(network.gpe_port, gpe=True)),),
        addresses=tuple(_address(one) for one in addresses if one is not None),
        routes=(*guards(node, network), *routes),
        sysctls=forwarding(node, facts, (GPE,)),
    )


def _address(address: IPAddress) -> Address:
    return Address("host", GPE, ip_interface(address), prefix_route=False)


def _route(cidr: IPNetwork, encap: Encap, mtu: int) -> LinkRoute:
    scope = SCOPE_LINK if cidr.version == 4 else SCOPE_UNIVERSE  # IPv6 knows no scope of routes
    return LinkRoute("host", GPE, cidr, scope=scope, priority=METRIC, mtu=mtu, encap=encap, protocol=PROTOCOL_OVERLAY)
