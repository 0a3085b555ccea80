"""One frozen class a kernel change, and the change that takes it back."""

from dataclasses import dataclass

from cni_py.model.net import Address, Fdb, Link, LinkRoute, Neighbour, Ns, Shaper, Sysctl


@dataclass(frozen=True, slots=True)
class AddLink:
    """A link is made; with `peer` both ends of a veth at once, the peer in its own namespace and down."""

    link: Link
    peer: Link | None = None


@dataclass(frozen=True, slots=True)
class SetLink:
    """A link gets the attributes of `link` that differ from `before`."""

    link: Link
    before: Link


@dataclass(frozen=True, slots=True)
class SetVlans:
    """A bridge port is in the VLANs of `link`, and with `default_vlan` in the bridge's default one as well."""

    link: Link


@dataclass(frozen=True, slots=True)
class DelLink:
    """A link goes, a veth's other end with it, and all addresses and routes of both."""

    ns: Ns
    name: str


@dataclass(frozen=True, slots=True)
class AddAddress:
    """A link gets an address."""

    address: Address


@dataclass(frozen=True, slots=True)
class DelAddress:
    """A link loses an address."""

    address: Address


@dataclass(frozen=True, slots=True)
class AddRoute:
    """A route is added; one to the same destination with the same priority is an error."""

    route: LinkRoute


@dataclass(frozen=True, slots=True)
class DelRoute:
    """A route goes."""

    route: LinkRoute


@dataclass(frozen=True, slots=True)
class ReplaceRoute:
    """A route to the same destination with the same priority takes the place of `before`, with no moment between."""

    route: LinkRoute
    before: LinkRoute


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    """A link knows a neighbour's MAC, whatever it knew of that address before."""

    neighbour: Neighbour


@dataclass(frozen=True, slots=True)
class DelNeighbour:
    """A link knows nothing of an address."""

    neighbour: Neighbour


@dataclass(frozen=True, slots=True)
class SetFdb:
    """A VXLAN link knows the node behind a MAC, whichever it took it for before; of EVERYBODY one more node."""

    entry: Fdb


@dataclass(frozen=True, slots=True)
class DelFdb:
    """A VXLAN link knows no node behind a MAC; of EVERYBODY one less."""

    entry: Fdb


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """A sysctl gets a value; `before` is what it was, None if the file comes with a link that is made here."""

    sysctl: Sysctl
    before: str | None = None


@dataclass(frozen=True, slots=True)
class AddShaper:
    """A link's outgoing traffic, or an ifb's incoming, is shaped."""

    shaper: Shaper


Op = (
    AddLink
    | SetLink
    | SetVlans
    | DelLink
    | AddAddress
    | DelAddress
    | AddRoute
    | DelRoute
    | ReplaceRoute
    | SetNeighbour
    | DelNeighbour
    | SetFdb
    | DelFdb
    | SetSysctl
    | AddShaper
)


def ns_of(op: Op) -> Ns:
    """Where a change takes place; of a veth pair, where it is made."""
    match op:
        case AddLink() | SetLink() | SetVlans():
            return op.link.ns
        case SetSysctl():
            return op.sysctl.ns
        case AddAddress() | DelAddress():
            return op.address.ns
        case AddRoute() | DelRoute() | ReplaceRoute():
            return op.route.ns
        case SetNeighbour() | DelNeighbour():
            return op.neighbour.ns
        case SetFdb() | DelFdb():
            return op.entry.ns
        case DelLink():
            return op.ns
        case AddShaper():
            return "host"


def inverse(op: Op) -> Op | None:
    """The change that undoes `op`; None for what goes with its link, and for deletions, which are never undone."""
    match op:
        case AddLink(link):
            return DelLink(link.ns, link.name)
        case SetLink(link, before):
            return SetLink(before, link)
        case AddAddress(address):
            return DelAddress(address)
        case DelAddress(address):
            return AddAddress(address)
        case AddRoute(route):
            return DelRoute(route)
        case SetSysctl(sysctl, before) if before is not None:
            return SetSysctl(Sysctl(sysctl.ns, sysctl.key, before), sysctl.value)
        case _:
            return None
