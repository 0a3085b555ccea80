"""One segment over all nodes: a bridge on each, joined by VXLAN, on which broadcast and multicast reach every pod.

What is for nobody in particular goes to each peer as a copy of its own (head-end replication: no multicast is asked of
the underlay). Who is where is learned from what pods send; the guard sees to it that only peers are heard. A node with
peers of both families has a tunnel for each. They are isolated ports, which pass nothing on to each other: every node
sends to all others itself, so a frame from a tunnel is for pods alone, and no loop can be.

A segment has one MTU, since on a link nobody says "too big": what is left over IPv6, whatever family the peers have.
"""

from collections.abc import Iterable

from cni_py.model.net import (
    EVERYBODY,
    PROTOCOL_OVERLAY,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Address,
    Bridge,
    Fdb,
    Link,
    LinkRoute,
    NodeState,
    Sysctl,
    Vxlan,
)
from cni_py.model.node_network import SEGMENT, segment_gateway
from cni_py.model.overlay import Facts, Network, Node
from cni_py.model.result import IPAddress, IPNetwork
from cni_py.overlay.backend import METRIC, Share, forwarding, guards, outer
from cni_py.overlay.mtu import Mtu
from cni_py.overlay.vxlan import LINKS


def l2(node: Node, shares: Iterable[Share], network: Network, facts: Facts) -> NodeState:
    """This node's part of the segment, and its tunnels to these peers.

    The tunnel over IPv6 is there if the node has no other or a peer needs it.
    """
    entries: list[Fdb] = []
    versions = {4} if node.ip4 is not None else {6}
    for peer, cidrs in shares:
        ends = outer(node, peer)
        if ends is None or not cidrs:
            continue
        versions.add(ends[1].version)
        entries.append(Fdb("host", LINKS[ends[1].version], EVERYBODY, ends[1]))
    mtu = segment_mtu(facts).value
    own = [(version, local) for version, local in ((4, node.ip4), (6, node.ip6)) if local and version in versions]
    tunnels = tuple(_tunnel(version, local, node, network, mtu) for version, local in own)
    bridge = Link("host", SEGMENT, "bridge", mac=node.mac, mtu=mtu, bridge=Bridge())
    gateways = [one for cidr in node.cidrs if (one := segment_gateway(cidr, network.cidrs)) is not None]
    return NodeState(
        links=(bridge, *tunnels),  # a port needs its bridge
        addresses=tuple(Address("host", SEGMENT, one, prefix_route=False) for one in gateways),
        routes=(*guards(node, network), *(_route(one) for one in dict.fromkeys(one.network for one in gateways))),
        sysctls=(
            # Its addresses are the node's alone, and one that is still being looked for answers to nobody.
            Sysctl("host", f"net/ipv6/conf/{SEGMENT}/accept_dad", "0", required=False),
            *forwarding(node, facts, (SEGMENT, *(link.name for link in tunnels))),
        ),
        fdb=tuple(entries),
    )


def segment_mtu(facts: Facts) -> Mtu:
    """The one MTU of the segment."""
    return Mtu(facts.underlay.mtu, "vxlan", 6)


def _tunnel(version: int, local: IPAddress, node: Node, network: Network, mtu: int) -> Link:
    own = Vxlan(network.vxlan_port, network.vni, local, learning=True)
    return Link("host", LINKS[version], "vxlan", mac=node.mac, mtu=mtu, master=SEGMENT, isolated=True, vxlan=own)


def _route(whole: IPNetwork) -> LinkRoute:
    """The whole network is on the link. Ours, so that it is known and put back as every other route of the overlay."""
    scope = SCOPE_LINK if whole.version == 4 else SCOPE_UNIVERSE  # IPv6 knows no scope of routes
    return LinkRoute("host", SEGMENT, whole, scope=scope, priority=METRIC, protocol=PROTOCOL_OVERLAY)
