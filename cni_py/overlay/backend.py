"""What a backend is: a pure function from who the nodes are to what this node's kernel is to hold."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import Protocol

from cni_py.model.net import PROTOCOL_OVERLAY, LinkRoute, NodeState, Sysctl
from cni_py.model.overlay import Facts, Network, Node
from cni_py.model.result import IPAddress, IPNetwork

# Routes that somebody made by hand, with no metric, stay ahead of ours and in nobody's way.
METRIC = 142
# Behind all that anybody else may have for the whole network.
LAST_METRIC = 1 << 24


# A peer, and those of its pod networks that one backend is to lead to.
Share = tuple[Node, Sequence[IPNetwork]]


class Backend(Protocol):
    """The pod networks of the peers are disjoint, and no peer is this node."""

    def __call__(self, node: Node, shares: Iterable[Share], network: Network, facts: Facts) -> NodeState:
        """All that is to be in the kernel for this node to reach these networks of these peers.

        What the backend cannot reach is left out, so that its pods are unreachable at once (`unjoined`).
        """


def outer(node: Node, peer: Node) -> tuple[IPAddress, IPAddress] | None:
    """The addresses between which tunnel packets go, ours and the peer's: of IPv4 if both have one."""
    if node.ip4 is not None and peer.ip4 is not None:
        return node.ip4, peer.ip4
    if node.ip6 is not None and peer.ip6 is not None:
        return node.ip6, peer.ip6
    return None


def far_end(node: Node, peer: Node, version: int) -> tuple[IPAddress, str] | None:
    """Where VXLAN packets of that family of pods go: the peer's address outside, and its MAC."""
    if not peer.mac6:
        ends = outer(node, peer)
        return None if ends is None else (ends[1], peer.mac)
    ours, theirs, mac = (node.ip4, peer.ip4, peer.mac) if version == 4 else (node.ip6, peer.ip6, peer.mac6)
    return None if ours is None or theirs is None else (theirs, mac)


def tunnel_address(cidrs: Iterable[IPNetwork], version: int) -> IPAddress | None:
    """The address that the node itself has in the pod network: the first of its range, which no pod ever gets.

    None if the node has no range of that family, or one with no address to spare.
    """
    for cidr in cidrs:
        if cidr.version == version and cidr.prefixlen < cidr.max_prefixlen - 1:
            return cidr.network_address
    return None


def guards(node: Node, network: Network) -> tuple[LinkRoute, ...]:
    """Routes that answer for what nobody serves, or whose tunnel is gone, before the default route would.

    For the whole network, and for this node's own ranges where they are outside of it; not for single addresses.
    """
    alone = [cidr for cidr in node.cidrs if not any(_holds(whole, cidr) for whole in network.cidrs)]
    ranges = [one for one in dict.fromkeys((*network.cidrs, *alone)) if one.prefixlen < one.max_prefixlen]
    return tuple(
        LinkRoute("host", "", one, priority=LAST_METRIC, kind="unreachable", protocol=PROTOCOL_OVERLAY)
        for one in ranges
    )


def forwarding(node: Node, facts: Facts, links: Iterable[str]) -> tuple[Sysctl, ...]:
    """The node is a router for the families of its pods, and believes no router advertisement on its tunnels.

    What comes out of a tunnel may be answered by another way, while a network changes its backend: the tunnels' sources
    are checked loosely (2), which counts also where all are strict (1), as the kernel takes the larger.
    """
    links = tuple(links)
    versions = {cidr.version for cidr in node.cidrs}
    known = [Sysctl("host", "net/ipv4/ip_forward", "1")] if 4 in versions else []
    if 6 in versions and facts.ipv6:
        known.append(Sysctl("host", "net/ipv6/conf/all/forwarding", "1", required=False))
    return (
        *(Sysctl("host", f"net/ipv6/conf/{link}/accept_ra", "0", required=False) for link in links),
        *(Sysctl("host", f"net/ipv4/conf/{link}/rp_filter", "2") for link in links if 4 in versions),
        *known,
    )


def unjoined(peers: Iterable[Node], state: NodeState) -> tuple[tuple[Node, IPNetwork], ...]:
    """The peers' networks that no route of the state leads to. Not of `l2`, where one route is for all."""
    routed = {route.dst for route in state.routes if route.kind == "unicast"}
    return tuple((peer, cidr) for peer in peers for cidr in peer.cidrs if cidr not in routed)


def _holds(whole: IPNetwork, part: IPNetwork) -> bool:
    if isinstance(whole, IPv4Network):
        return isinstance(part, IPv4Network) and part.subnet_of(whole)
    return not isinstance(part, IPv4Network) and part.subnet_of(whole)
