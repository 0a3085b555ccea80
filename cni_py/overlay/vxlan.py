"""VXLAN: a link for each family of the packets outside; a peer is a neighbour, a forwarding entry and a route a range.

No frame is ever flooded or learned from: who is where is written down before the first packet. The links are bound to
no device, so they outlive the underlay's, and packets leave by whatever the routing table says.
"""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_interface

from cni_py.model.net import PROTOCOL_OVERLAY, Address, Fdb, Link, LinkRoute, Neighbour, NodeState, Vxlan
from cni_py.model.overlay import VXLAN4, VXLAN6, Facts, Network, Node
from cni_py.model.result import IPAddress, IPNetwork
from cni_py.overlay.backend import METRIC, Share, far_end, forwarding, guards, tunnel_address
from cni_py.overlay.mtu import Mtu

# By family of the packets outside; `l2` has the same.
LINKS = {4: VXLAN4, 6: VXLAN6}


def vxlan(node: Node, shares: Iterable[Share], network: Network, facts: Facts) -> NodeState:
    """The links of this node, and what leads to these ranges of these peers through them.

    The link over IPv6 is there if the node has no other or a peer needs it.
    """
    neighbours: list[Neighbour] = []
    entries: list[Fdb] = []
    routes: list[LinkRoute] = []
    versions = {4} if node.ip4 is not None else {6}
    for peer, cidrs in shares:
        for version in dict.fromkeys(cidr.version for cidr in cidrs):
            end = far_end(node, peer, version)
            if end is None:
                continue
            address, mac = end
            link, gateway = LINKS[address.version], _gateway(peer, version, mac)
            versions.add(address.version)
            entry = Fdb("host", link, mac, address)
            if entries[-1:] != [entry]:  # one for both families, as a rule
                entries.append(entry)
            neighbours.append(Neighbour("host", link, gateway, mac))
            routes += [_route(link, cidr, gateway) for cidr in cidrs if cidr.version == version]
    own = [(version, local) for version, local in ((4, node.ip4), (6, node.ip6)) if local and version in versions]
    links = tuple(_link(version, local, node, network, facts) for version, local in own)
    return NodeState(
        links=links,
        addresses=tuple(_addresses(node, links)),
        routes=(*guards(node, network), *routes),
        sysctls=forwarding(node, facts, (link.name for link in links)),
        neighbours=tuple(neighbours),
        fdb=tuple(entries),
    )


def _link(version: int, local: IPAddress, node: Node, network: Network, facts: Facts) -> Link:
    mtu = Mtu(facts.underlay.mtu, "vxlan", version).value
    own = Vxlan(network.vxlan_port, network.vni, local)
    return Link("host", LINKS[version], "vxlan", mac=node.mac, mtu=mtu, vxlan=own)


def _addresses(node: Node, links: Iterable[Link]) -> Iterable[Address]:
    """What the node itself says to pods comes from its own range, so that answers find back by the tunnel.

    A single address: with the range's length the kernel would add a route and a broadcast address.
    """
    for link in links:
        for version in (4, 6):
            address = tunnel_address(node.cidrs, version)
            if address is not None:
                yield Address("host", link.name, ip_interface(address), prefix_route=False)


def _gateway(peer: Node, version: int, mac: str) -> IPAddress:
    """The address under which a peer is known on the link, which nobody ever asks for.

    Of IPv4 its own in the pod network, as others do it. Of IPv6 a link-local one made of its MAC: one within a range
    is refused by the kernel as long as that range is routed elsewhere, so no range could move between two devices.
    """
    if version == 6:
        octets = bytes.fromhex(mac.replace(":", ""))
        return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:])
    spare = tunnel_address(peer.cidrs, version)
    return spare or next(cidr.network_address for cidr in peer.cidrs if cidr.version == version)


def _route(link: str, cidr: IPNetwork, gateway: IPAddress) -> LinkRoute:
    return LinkRoute("host", link, cidr, gw=gateway, priority=METRIC, onlink=True, protocol=PROTOCOL_OVERLAY)
