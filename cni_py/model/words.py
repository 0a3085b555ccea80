"""A change in words: what errors, CHECK and a dry run say."""

from cni_py.model.ops import (
    AddAddress,
    AddLink,
    AddRoute,
    AddShaper,
    DelAddress,
    DelLink,
    DelRoute,
    Op,
    SetLink,
    SetSysctl,
    SetVlans,
)


def describe(op: Op) -> str:  # noqa: C901  # a branch a kind of change
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
            return f"add route {_route(route.dst, route.gw)} by {route.link!r}{_where(route.ns)}"
        case DelRoute(route):
            return f"remove route {_route(route.dst, route.gw)} by {route.link!r}{_where(route.ns)}"
        case SetSysctl(sysctl):
            return f"write {sysctl.value} to /proc/sys/{sysctl.key}{_where(sysctl.ns)}"
        case AddShaper(shaper):
            return f"limit {shaper.link!r} to {shaper.rate} bit/s"


def _where(ns: str) -> str:
    return " in the container" if ns == "container" else ""


def _route(dst: object, gw: object) -> str:
    return f"{dst} via {gw}" if gw is not None else str(dst)
