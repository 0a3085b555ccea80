"""A change in words: what errors, CHECK and a dry run say."""

from cni_py.model.net import EVERYBODY, Fdb, LinkRoute
from cni_py.model.ops import (
    AddAddress,
    AddLink,
    AddRoute,
    AddShaper,
    DelAddress,
    DelFdb,
    DelLink,
    DelNeighbour,
    DelRoute,
    Op,
    ReplaceRoute,
    SetFdb,
    SetLink,
    SetNeighbour,
    SetSysctl,
    SetVlans,
)


def describe(op: Op) -> str:  # noqa: C901, PLR0912  # a branch a kind of change
    """The change in words, for errors."""
    match op:
        case AddLink(link, peer):
            return f"make {link.kind} {link.name!r}" + (f" with {peer.name!r} in the container" if peer else "")
        case SetLink(link):
            return f"set up {link.name!r}{_where(link.ns)}"
        case SetVlans(link):
            return f"put {link.name!r} into VLAN {link.vlan or 1}" + (" and a trunk" if link.trunk else "")
        case DelLink(ns, name):
            return f"delete {name!r}{_where(ns)}"
        case AddAddress(address):
            return f"add address {address.address} to {address.link!r}{_where(address.ns)}"
        case DelAddress(address):
            return f"remove address {address.address} from {address.link!r}{_where(address.ns)}"
        case AddRoute(route):
            return f"add route {_route(route)}{_where(route.ns)}"
        case DelRoute(route):
            return f"remove route {_route(route)}{_where(route.ns)}"
        case ReplaceRoute(route, before):
            return f"change route {_route(before)} to {_route(route)}{_where(route.ns)}"
        case SetNeighbour(neighbour):
            return f"note {neighbour.mac} as {neighbour.address} on {neighbour.link!r}"
        case DelNeighbour(neighbour):
            return f"forget {neighbour.address} on {neighbour.link!r}"
        case SetFdb(entry):
            return f"send frames for {_whom(entry)} by {entry.link!r} to {entry.dst}"
        case DelFdb(entry):
            return f"send no frames for {_whom(entry)} by {entry.link!r} to {entry.dst}"
        case SetSysctl(sysctl):
            return f"write {sysctl.value} to /proc/sys/{sysctl.key}{_where(sysctl.ns)}"
        case AddShaper(shaper):
            return f"limit {shaper.link!r} to {shaper.rate} bit/s"


def _where(ns: str) -> str:
    return " in the container" if ns == "container" else ""


def _whom(entry: Fdb) -> str:
    return "everybody" if entry.mac == EVERYBODY else entry.mac


def _route(route: LinkRoute) -> str:
    if route.kind == "unreachable":
        return f"{route.dst} (unreachable)"
    via = f" via {route.gw}" if route.gw is not None else ""
    through = f" through a tunnel to {route.encap.dst}" if route.encap is not None else ""
    return f"{route.dst}{via}{through} by {route.link!r}"
