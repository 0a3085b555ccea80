"""errno to the exception tree, and the one place that decides which errnos mean "it is so already"."""

import errno
import os

from cni_py.model.errors import ExistsError, KernelError, MissingFeatureError
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
)

_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
_MISSING = frozenset({errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})


def already_so(op: Op, number: int) -> bool:
    """True if the kernel refused `op` because its outcome is there: a deletion of what is gone, a shared bridge.

    Parallel first ADDs race for the bridge and its address, ours under one lock, other plugins' without.
    """
    match op:
        case DelLink() | DelAddress() | DelRoute():
            return number in _GONE
        case AddLink(link):
            return number == errno.EEXIST and link.kind == "bridge"
        case AddAddress(address):
            return number == errno.EEXIST and address.ns == "host"
        case _:
            return False


def describe(op: Op) -> str:
    """The change in words, for errors."""
    match op:
        case AddLink(link, peer):
            return f"make {link.kind} {link.name!r}" + (f" with {peer.name!r} in the container" if peer else "")
        case SetLink(link):
            return f"set up {link.name!r}{_where(link.ns)}"
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


def translate(what: str, number: int, text: str = "") -> KernelError | ExistsError:
    """The error for a refused change: `what` in words, the kernel's errno and, if it gave one, its own text."""
    reason = os.strerror(number) + (f" ({text})" if text else "")
    message = f"failed to {what}: {reason}"
    if number == errno.EEXIST:
        return ExistsError(message, "something of that name or address is there already; remove it or choose another")
    if number in _MISSING:
        return MissingFeatureError(message, number, "this kernel lacks the feature: load its module, or do without it")
    if number in (errno.EPERM, errno.EACCES):
        return KernelError(message, number, "CAP_NET_ADMIN is needed: run as root")
    return KernelError(message, number)


def _where(ns: str) -> str:
    return " in the container" if ns == "container" else ""


def _route(dst: object, gw: object) -> str:
    return f"{dst} via {gw}" if gw is not None else str(dst)
