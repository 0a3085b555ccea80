"""What the kernel holds for us, as values: links, addresses, routes, sysctls and shapers of two namespaces.

`ns` says whose: "host" is the namespace in which the runtime started the plugin, "container" is CNI_NETNS. Objects name
their link, since an index exists only once the link does.
"""

from dataclasses import dataclass
from typing import Literal

from cni_py.model.result import IPAddress, IPInterface, IPNetwork

Ns = Literal["host", "container"]
LinkKind = Literal["veth", "bridge", "ifb", "vxlan", "other"]
RouteKind = Literal["unicast", "unreachable"]

SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
TABLE_MAIN = 254
# Who made a route on the host: an attachment, or the overlay. Each finds its own again by it, and touches no other.
PROTOCOL_ATTACHMENT, PROTOCOL_OVERLAY = 142, 143
# The MAC under which a VXLAN link has the nodes for frames that are for no known one: unknown, broadcast, multicast.
EVERYBODY = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Vxlan:
    """What is a VXLAN link's own. `local` is the outer source address; its family is that of all outer packets.

    With `gpe` the link has no VNI, address or MAC of its own: it carries IP packets, and a route's `Encap` tells where
    to. With `learning` the link believes what it receives about who is where; a link made by hand does.
    """

    port: int
    vni: int = 0
    local: IPAddress | None = None
    gpe: bool = False
    learning: bool = False


@dataclass(frozen=True, slots=True)
class Bridge:
    """What is a bridge's own, where it is one planner's alone. The kernel's default is to snoop, and no spanning tree.

    `snooping`: multicast goes only to ports that asked for it, as far as somebody queries.
    """

    snooping: bool = False
    stp: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `mac` "" and `mtu` 0 leave the choice to the kernel, `master` "" means none.

    `peer` is the name of a veth's other end, in the other namespace unless a link of that name is among the host's.
    `hairpin`, `isolated` and the VLANs are a bridge port's: `vlan` is what untagged frames belong to, `trunk` are
    carried tagged; both unset leave the port in the bridge's default VLAN. `shared`: several attachments use the link.
    """

    ns: Ns
    name: str
    kind: LinkKind
    mac: str = ""
    mtu: int = 0
    up: bool = True
    master: str = ""
    peer: str = ""
    hairpin: bool = False
    isolated: bool = False
    promisc: bool = False
    vlan_filtering: bool = False
    vlan: int = 0
    trunk: tuple[int, ...] = ()
    default_vlan: bool = True
    shared: bool = False
    vxlan: Vxlan | None = None
    bridge: Bridge | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a link. Without `prefix_route` the kernel adds no route to its network; `dad` is IPv6's."""

    ns: Ns
    link: str
    address: IPInterface
    prefix_route: bool = True
    dad: bool = False


@dataclass(frozen=True, slots=True)
class Encap:
    """The tunnel header that a route puts before each packet: from `src` to `dst`, of one family, for network `vni`."""

    vni: int
    src: IPAddress
    dst: IPAddress


@dataclass(frozen=True, slots=True)
class LinkRoute:
    """A route out of a link. `src` is the preferred source; numbers of 0 are left to the kernel.

    `onlink`: the gateway is taken to be on the link, though no route says so. A route of IPv4 may have a gateway of
    IPv6. One that is "unreachable" is out of no link ("") and answers with an ICMP error. `protocol` says who made it,
    0 an attachment.
    """

    ns: Ns
    link: str
    dst: IPNetwork
    gw: IPAddress | None = None
    src: IPAddress | None = None
    scope: int = SCOPE_UNIVERSE
    table: int = TABLE_MAIN
    priority: int = 0
    mtu: int = 0
    advmss: int = 0
    onlink: bool = False
    kind: RouteKind = "unicast"
    encap: Encap | None = None
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent entry of a link: packets to `address` go to `mac`, nobody is asked."""

    ns: Ns
    link: str
    address: IPAddress
    mac: str


@dataclass(frozen=True, slots=True)
class Fdb:
    """A forwarding entry of a VXLAN link: frames to `mac` go into the tunnel to the node at `dst`.

    A MAC has one node, but EVERYBODY: a copy goes to each. One that is not permanent was `learned`, and goes by itself.
    """

    ns: Ns
    link: str
    mac: str
    dst: IPAddress
    learned: bool = False

    def place(self) -> tuple[object, ...]:
        """What no two entries have in common."""
        return (self.link, self.mac, self.dst) if self.mac == EVERYBODY else (self.link, self.mac)


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One file below /proc/sys; `key` with slashes, so that an interface name may hold dots.

    Where it is not `required` a kernel without the file (IPv6 turned off) is as good as one with the value.
    """

    ns: Ns
    key: str
    value: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Shaper:
    """A token bucket on the way out of a host link: `rate` in bits a second, `burst` in bits.

    With `mirror_from` the link is an ifb that gets what comes in from that link, so that arriving traffic is shaped.
    """

    link: str
    rate: int
    burst: int
    mirror_from: str = ""


@dataclass(frozen=True, slots=True)
class NodeState:
    """Objects that should be there, or that were seen, each kind in the order in which it is made."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[LinkRoute, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    shapers: tuple[Shaper, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    fdb: tuple[Fdb, ...] = ()

    def link(self, ns: Ns, name: str) -> Link | None:
        """The link of that name, None if it is not here."""
        return next((link for link in self.links if link.ns == ns and link.name == name), None)
