"""The steps from what is seen of our own to exactly what is wanted: what is only seen goes.

`model.diff` adds one attachment to a node that has others'; this is for what one planner owns whole, thousands of
objects, found by the kernel's own keys. Links come first, what a link loses with a step is planned as lost.

Order: what makes the unserved unreachable; routes away; links with their addresses; forwarding, the neighbours that are
behind it, the routes by them; last neighbours, forwarding, addresses and links that nothing uses any more. What moves
from one node to another is one change of its route or of its neighbour: at no moment is there none.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cni_py.model.diff import link_change
from cni_py.model.net import EVERYBODY, Address, Fdb, Link, LinkRoute, Neighbour, NodeState, Sysctl
from cni_py.model.ops import (
    AddAddress,
    AddLink,
    AddRoute,
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
)

T = TypeVar("T")


def converge(desired: NodeState, observed: NodeState, *, prune: bool = True) -> tuple[Op, ...]:
    """The changes that turn `observed`, all of it ours, into `desired`; empty if nothing differs. Host objects only.

    Without `prune` what is only seen stays: it is perhaps wanted by somebody who has not spoken yet.
    """
    if not prune:
        desired = _with_surplus(desired, observed)
    links = _links(desired, observed)
    left = _left(observed, links.emptied, links.forgetful)
    routes = _compare(desired.routes, left.routes, _route_key)
    neighbours = _compare(desired.neighbours, left.neighbours, _neighbour_key)
    fdb = _compare(desired.fdb, _stale_or_lasting(desired.fdb, left.fdb), Fdb.place)
    addresses = _compare(desired.addresses, left.addresses, _address_key)
    kept = {link.name for link in desired.links}
    return (
        *_away(routes.doubled),
        *_routes(routes, guard=True),
        *_away(route for route in routes.surplus if route.kind == "unicast"),
        *links.made,
        *_sysctls(desired.sysctls, observed.sysctls, links.recreated),
        *links.changed,
        *(AddAddress(address) for address, before in addresses.wanted if before is None),
        *(SetFdb(entry) for entry, _ in fdb.wanted),
        *(SetNeighbour(neighbour) for neighbour, _ in neighbours.wanted),
        *_routes(routes, guard=False),
        *(DelNeighbour(neighbour) for neighbour in neighbours.surplus if neighbour.link in kept),
        *(DelFdb(entry) for entry in fdb.surplus if entry.link in kept),
        *(DelAddress(address) for address in addresses.surplus if address.link in kept),
        *(DelLink("host", link.name) for link in observed.links if link.name not in kept),
        *(DelRoute(route) for route in routes.surplus if route.kind == "unreachable"),
    )


def _with_surplus(desired: NodeState, observed: NodeState) -> NodeState:
    """The desired state, and what is seen in places that it has no wish for; what was learned goes by itself."""

    def both(wanted: tuple[T, ...], seen: tuple[T, ...], key: Callable[[T], Hashable]) -> tuple[T, ...]:
        places = {key(one) for one in wanted}
        return (*wanted, *(one for one in seen if key(one) not in places))

    return replace(
        desired,
        links=both(desired.links, observed.links, lambda link: link.name),
        addresses=both(desired.addresses, observed.addresses, _address_key),
        routes=both(desired.routes, observed.routes, _route_key),
        neighbours=both(desired.neighbours, observed.neighbours, _neighbour_key),
        fdb=both(desired.fdb, tuple(one for one in observed.fdb if not one.learned), Fdb.place),
    )


@dataclass(slots=True)
class _LinkSteps:
    """`emptied` are links that have nothing on them when the steps are done, `forgetful` those without neighbours."""

    made: list[Op]
    changed: list[Op]
    recreated: set[str]
    emptied: set[str]
    forgetful: set[str]


def _links(desired: NodeState, observed: NodeState) -> _LinkSteps:
    steps = _LinkSteps([], [], set(), set(), set())
    seen_by_name = {link.name: link for link in observed.links}
    for link in desired.links:
        seen = seen_by_name.get(link.name)
        if seen is not None and not _can_become(seen, link):
            steps.made.append(DelLink("host", link.name))
            seen = None
        if seen is None:
            steps.recreated.add(link.name)
            steps.emptied.add(link.name)
            seen = replace(link, up=False, master="", isolated=False)  # sysctls come before it is up
            steps.made.append(AddLink(seen))
        if seen.master != link.master or seen.master in steps.recreated:  # what a port is like went with its bridge
            seen = replace(seen, master="" if seen.master in steps.recreated else seen.master, isolated=False)
        change = link_change(link, seen)
        if change is None:
            continue
        steps.changed.append(SetLink(link, seen))
        if "mac" in change:  # the kernel forgets all neighbours of a link whose MAC changes, permanent ones too
            steps.forgetful.add(link.name)
    return steps


def _can_become(seen: Link, link: Link) -> bool:
    """True if a link can be changed into the other while packets flow; a VXLAN's source address and learning can."""
    if seen.kind != link.kind or seen.vxlan is None or link.vxlan is None:
        return seen.kind == link.kind and seen.vxlan == link.vxlan
    fixed = replace(seen.vxlan, local=link.vxlan.local, learning=link.vxlan.learning)
    return fixed == link.vxlan and _family(seen.vxlan.local) == _family(link.vxlan.local)


def _family(address: object) -> int:
    return int(getattr(address, "version", 0))


def _left(observed: NodeState, emptied: set[str], forgetful: set[str]) -> NodeState:
    if not emptied and not forgetful:
        return observed
    without = emptied | forgetful
    return replace(
        observed,
        addresses=tuple(one for one in observed.addresses if one.link not in emptied),
        routes=tuple(one for one in observed.routes if one.link not in emptied),
        fdb=tuple(one for one in observed.fdb if one.link not in emptied),
        neighbours=tuple(one for one in observed.neighbours if one.link not in without),
    )


@dataclass(slots=True)
class _Comparison(Generic[T]):
    """`wanted`: what is missing or differs, with what is in its place; `surplus`: whose place nobody wants.

    `doubled`: what is in a place beside another; what is wanted there is wanted anew.
    """

    wanted: list[tuple[T, T | None]]
    surplus: list[T]
    doubled: list[T]


def _compare(desired: Iterable[T], observed: Iterable[T], key: Callable[[T], Hashable]) -> _Comparison[T]:
    places: dict[Hashable, T] = {}
    doubled: list[T] = []
    crowded: set[Hashable] = set()
    for one in observed:
        place = key(one)
        if places.setdefault(place, one) is not one:
            doubled.append(one)
            crowded.add(place)
    wanted = []
    for one in desired:
        place = key(one)
        before = places.pop(place, None)
        if before != one or place in crowded:
            wanted.append((one, before))
    return _Comparison(wanted, list(places.values()), doubled)


def _route_key(route: LinkRoute) -> Hashable:
    return route.dst, route.priority, route.table


def _neighbour_key(neighbour: Neighbour) -> Hashable:
    return neighbour.link, neighbour.address


def _stale_or_lasting(desired: Iterable[Fdb], observed: Iterable[Fdb]) -> Iterator[Fdb]:
    """All but what was learned of nodes that everybody's frames go to; of another it is to be forgotten."""
    known = {(entry.link, entry.dst) for entry in desired if entry.mac == EVERYBODY}
    return (entry for entry in observed if not entry.learned or (entry.link, entry.dst) not in known)


def _address_key(address: Address) -> Hashable:
    """How an address came to be (prefix route, DAD) is not seen again."""
    return address.link, address.address


def _routes(routes: _Comparison[LinkRoute], *, guard: bool) -> Iterator[Op]:
    for route, before in routes.wanted:
        if (route.kind == "unreachable") == guard:
            yield AddRoute(route) if before is None else ReplaceRoute(route, before)


def _away(routes: Iterable[LinkRoute]) -> Iterator[Op]:
    """Those without a gateway go last, as the kernel takes one with a gateway for such a one.

    Of several in one place so the right number goes, perhaps the wrong ones: what is left is replaced.
    """
    return map(DelRoute, sorted(routes, key=lambda route: route.gw is None))


def _sysctls(desired: Iterable[Sysctl], observed: Iterable[Sysctl], recreated: set[str]) -> Iterator[Op]:
    seen = {sysctl.key: sysctl.value for sysctl in observed}
    for sysctl in desired:
        new = any(f"/conf/{name}/" in sysctl.key for name in recreated)
        before = None if new else seen.get(sysctl.key)
        if before != sysctl.value:
            yield SetSysctl(sysctl, before)
