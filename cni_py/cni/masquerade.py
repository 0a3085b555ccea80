"""Masquerade: what leaves the pod networks for elsewhere gets the node's address. One node-wide set of ranges a family.

The set holds the pod subnets of all living attachments that ask for it (`ipMasq`). Networks may overlap, which a set of
ranges cannot hold, so what is written is the disjoint union (`merge`); a subnet that several attachments share is there
once, and goes when the last of them does. Only the caller knows that: it has the records of the attachments.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from cni_py.cni.tables import MASQ4, MASQ6, NAT_LAYOUT
from cni_py.model.nft import AddElements, Change, FlushSet, Operation
from cni_py.model.nft_expr import Range
from cni_py.model.nft_objects import Element


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same addresses as disjoint ranges, IPv4 first, in order.

    Ranges that only touch stay apart: joined, they would no longer be the elements that the next ADD of either network
    adds, and each such ADD would need the rewrite.
    """
    merged: list[Range] = []
    for one in sorted(ranges, key=lambda one: (one.first.version, int(one.first), int(one.last))):
        last = merged[-1] if merged else None
        if last is None or last.first.version != one.first.version or int(one.first) > int(last.last):
            merged.append(one)
        elif int(one.last) > int(last.last):
            merged[-1] = Range(last.first, one.last)
    return tuple(merged)


def pod_range(subnet: IPv4Network | IPv6Network) -> Range:
    """The range of a pod's subnet. A pod alone in its prefix (/32, /128) is a range of one."""
    return Range.of(subnet)


def plan_masquerade(ranges: Iterable[Range]) -> Change:
    """The ranges are masqueraded: the fast path of ADD, one message.

    The kernel takes it if each range is there already or touches nothing that is. If it overlaps others the commit
    fails with ExistsError, and `rewrite_masquerade` of all ranges is what is needed.
    """
    return Change((NAT_LAYOUT,), _additions(merge(ranges)))


def rewrite_masquerade(ranges: Iterable[Range]) -> Change:
    """Exactly these ranges are masqueraded: those of all living attachments. In one transaction, so without a gap."""
    return Change((NAT_LAYOUT,), (FlushSet(MASQ4), FlushSet(MASQ6), *_additions(merge(ranges))))


def _additions(ranges: tuple[Range, ...]) -> tuple[Operation, ...]:
    families = ((MASQ4, IPv4Address), (MASQ6, IPv6Address))
    wanted = ((one, tuple(Element(each) for each in ranges if isinstance(each.first, kind))) for one, kind in families)
    return tuple(AddElements(one, elements) for one, elements in wanted if elements)
