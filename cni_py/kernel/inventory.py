"""All links, addresses and routes of the host's namespace, in four lists: what the agent compares with its records.

`kernel.observe` looks at one attachment with another library's eyes, for CHECK; this reads a whole node, in
milliseconds.
"""

from ipaddress import ip_address, ip_interface, ip_network

from cni_py.kernel import rtnl
from cni_py.kernel.netlink import NetlinkSocket
from cni_py.model.net import Address, Link, LinkKind, LinkRoute, NodeState

_KINDS: dict[str, LinkKind] = {"veth": "veth", "bridge": "bridge", "ifb": "ifb"}


def read_links(socket: NetlinkSocket) -> dict[int, rtnl.SeenLink]:
    """{index: link} of the socket's namespace."""
    return {link.index: link for link in map(rtnl.parse_link, socket.request(rtnl.get_links()))}


def read_node(socket: NetlinkSocket) -> NodeState:
    """Links, addresses and unicast routes, as of the host's namespace. What a port of a bridge is like is left out."""
    seen = read_links(socket)
    names = {index: link.name for index, link in seen.items()}
    return NodeState(
        links=tuple(_link(link, names) for link in seen.values()),
        addresses=tuple(
            Address("host", names[index], ip_interface((packed, length)))
            for index, packed, length in map(rtnl.parse_address, socket.request(rtnl.get_addresses(0)))
            if index in names
        ),
        routes=tuple(_routes(socket, names)),
    )


def _link(link: rtnl.SeenLink, names: dict[int, str]) -> Link:
    return Link(
        "host",
        link.name,
        _KINDS.get(link.kind, "other"),
        mac=link.mac,
        mtu=link.mtu,
        up=bool(link.flags & rtnl.IFF_UP),
        master=names.get(link.master, ""),
        promisc=bool(link.flags & rtnl.IFF_PROMISC),
        vlan_filtering=link.vlan_filtering,
    )


def _routes(socket: NetlinkSocket, names: dict[int, str]) -> list[LinkRoute]:
    found = []
    for family, nowhere in ((rtnl.AF_INET, "0.0.0.0"), (rtnl.AF_INET6, "::")):
        for payload in socket.request(rtnl.get_routes(family)):
            route = rtnl.parse_route(payload)
            if route is None or route.index not in names:
                continue
            dst = ip_network((route.dst or ip_address(nowhere).packed, route.length))
            gateway = ip_address(route.gateway) if route.gateway else None
            found.append(LinkRoute("host", names[route.index], dst, gw=gateway, table=route.table))
    return found
