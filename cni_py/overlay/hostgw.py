"""Plain routes: a peer's ranges by its own address, which must be on the link. No header, no MTU lost."""

from collections.abc import Iterable

from cni_py.model.net import PROTOCOL_OVERLAY, LinkRoute, NodeState
from cni_py.model.overlay import Facts, Network, Node
from cni_py.model.result import IPAddress, IPNetwork
from cni_py.overlay.backend import METRIC, Share, forwarding, guards


def hostgw(node: Node, shares: Iterable[Share], network: Network, facts: Facts) -> NodeState:
    """Ranges of a peer that is behind a router are left out: it would not know them."""
    routes = [
        route for peer, cidrs in shares for cidr in cidrs if (route := plain_route(cidr, peer, facts)) is not None
    ]
    return NodeState(routes=(*guards(node, network), *routes), sysctls=forwarding(node, facts, ()))


def plain_route(cidr: IPNetwork, peer: Node, facts: Facts) -> LinkRoute | None:
    """The route to a range of a peer out of the underlay; None if the peer is not on it under a fitting address."""
    gateway = _next_hop(cidr, peer, facts)
    if gateway is None:
        return None
    link = facts.underlay.link
    return LinkRoute("host", link, cidr, gw=gateway, priority=METRIC, protocol=PROTOCOL_OVERLAY)


def _next_hop(cidr: IPNetwork, peer: Node, facts: Facts) -> IPAddress | None:
    """Of the range's own family, or for IPv4 also of IPv6; the kernel knows no route of IPv6 by a gateway of IPv4."""
    candidates = (peer.ip4, peer.ip6) if cidr.version == 4 else (peer.ip6,)
    return next((one for one in candidates if one is not None and facts.underlay.on_link(one)), None)
