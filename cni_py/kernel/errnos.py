"""errno to the exception tree, and the one place that decides which errnos mean "it is so already"."""

import errno
import os

from cni_py.model.errors import CniPyError, ExistsError, KernelError, MissingFeatureError, UnsupportedFieldError
from cni_py.model.ops import (
    AddAddress,
    AddLink,
    AddShaper,
    DelAddress,
    DelFdb,
    DelLink,
    DelNeighbour,
    DelRoute,
    Op,
    SetLink,
    SetVlans,
)
from cni_py.model.words import describe

_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
_MISSING = frozenset({errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})


def already_so(op: Op, number: int) -> bool:
    """True if the kernel refused `op` because its outcome is there: a deletion of what is gone, a shared bridge.

    Parallel first ADDs race for the bridge and its address, ours under one lock, other plugins' without.
    """
    match op:
        case DelLink() | DelAddress() | DelRoute() | DelNeighbour() | DelFdb():
            return number in _GONE
        case AddLink(link):
            return number == errno.EEXIST and link.kind == "bridge"
        case AddAddress(address):
            return number == errno.EEXIST and address.ns == "host"
        case _:
            return False


def refusal(op: Op, number: int, text: str = "") -> CniPyError:
    """The error for a change that the kernel refused. A kernel without VLAN filtering shows it here, and only here."""
    about_vlans = isinstance(op, SetVlans) or (isinstance(op, AddLink | SetLink) and op.link.vlan_filtering)
    if about_vlans and number in _MISSING:
        return UnsupportedFieldError(
            f"cannot {describe(op)}: this kernel's bridges have no VLAN filtering",
            "vlan and vlanTrunk need CONFIG_BRIDGE_VLAN_FILTERING: leave them out, or use one bridge a VLAN",
        )
    if isinstance(op, AddShaper):
        text = "; ".join(filter(None, (text, "are sch_tbf, sch_ingress, cls_u32 and act_mirred there?")))
    return translate(describe(op), number, text)


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
