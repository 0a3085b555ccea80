"""The steps from what is seen to what is wanted, in an order in which the kernel takes them.

ADD applies the steps, CHECK demands that there are none, a dry run prints them. Nothing that is only seen is removed:
what must go is named by the caller in `absent`.
"""

from collections.abc import Iterator
from dataclasses import replace

from cni_py.model.net import Address, Link, LinkRoute, NodeState
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

_NOTHING = NodeState()


def diff(desired: NodeState, observed: NodeState = _NOTHING, absent: NodeState = _NOTHING) -> tuple[Op, ...]:
    """The changes that turn `observed` into `desired` without `absent`; empty if nothing differs.

    Order: removals; links; sysctls, before an address could bring up what they govern; host addresses and routes;
    shapers; last the container's addresses, its links up and its routes, as from then on packets flow.
    """
    return (
        *_removals(observed, absent),
        *_links(desired, observed),
        *_sysctls(desired, observed),
        *_host_addressing(desired, observed),
        *(AddShaper(shaper) for shaper in desired.shapers if shaper not in observed.shapers),
        *_container_addressing(desired, observed),
    )


def _removals(observed: NodeState, absent: NodeState) -> Iterator[Op]:
    for route in absent.routes:
        if _find_route(route, observed):
            yield DelRoute(route)
    for address in absent.addresses:
        if _find_address(address, observed):
            yield DelAddress(address)
    for link in absent.links:
        if observed.link(link.ns, link.name) is not None:
            yield DelLink(link.ns, link.name)


def _links(desired: NodeState, observed: NodeState) -> Iterator[Op]:
    made: set[str] = set()
    for link in desired.links:
        if link.ns == "container":
            continue  # comes with its peer
        seen = observed.link(link.ns, link.name)
        if link.name in made:
            yield SetLink(link, replace(link, up=False, master="", hairpin=False, isolated=False))
            yield from _vlans(link)
        elif seen is None:
            peer = desired.link("host", link.peer) or desired.link("container", link.peer)
            made.update((peer.name,) if peer is not None and peer.ns == "host" else ())
            yield AddLink(link, peer)
            if link.hairpin or link.isolated:  # what a port is can be set only once it is one
                yield SetLink(link, replace(link, hairpin=False, isolated=False))
            yield from _vlans(link)
        else:
            if link_change(link, seen) is not None:
                yield SetLink(link, seen)
            yield from _vlans(link) if (link.vlan, link.trunk) != (seen.vlan, seen.trunk) else ()


def _vlans(link: Link) -> Iterator[Op]:
    if link.vlan or link.trunk:
        yield SetVlans(link)


def link_change(link: Link, seen: Link) -> dict[str, object] | None:
    """What of `link` differs from `seen`, by attribute; None if nothing does. An unset mac or mtu never differs.

    A bridge that is shared with others keeps what they need of it (MAC, MTU), and nothing is switched off. What a port
    is like goes with its bridge.
    """
    wanted: dict[str, object] = {"up": link.up}
    if link.kind == "bridge" and link.shared:
        wanted |= {name: True for name in ("promisc", "vlan_filtering") if getattr(link, name)}
        wanted |= {"mac": link.mac} if link.mac and not seen.mac else {}
    else:
        wanted |= {"master": link.master}
        wanted |= {"hairpin": link.hairpin, "isolated": link.isolated} if link.master else {}
        named = (("mac", link.mac), ("mtu", link.mtu), ("vxlan", link.vxlan), ("bridge", link.bridge))
        wanted |= {name: value for name, value in named if value}
    changed = {name: value for name, value in wanted.items() if getattr(seen, name) != value}
    return changed or None


def _sysctls(desired: NodeState, observed: NodeState) -> Iterator[Op]:
    seen = {(sysctl.ns, sysctl.key): sysctl.value for sysctl in observed.sysctls}
    for sysctl in desired.sysctls:
        before = seen.get((sysctl.ns, sysctl.key))
        if before != sysctl.value:
            yield SetSysctl(sysctl, before)


def _host_addressing(desired: NodeState, observed: NodeState) -> Iterator[Op]:
    for address in desired.addresses:
        if address.ns == "host" and not _find_address(address, observed):
            yield AddAddress(address)
    for route in desired.routes:
        if route.ns == "host" and not _find_route(route, observed):
            yield AddRoute(route)


def _container_addressing(desired: NodeState, observed: NodeState) -> Iterator[Op]:
    for address in desired.addresses:
        if address.ns == "container" and not _find_address(address, observed):
            yield AddAddress(address)
    for link in desired.links:
        if link.ns != "container":
            continue
        made = replace(link, up=False)  # an end that AddLink makes is down
        seen = observed.link(link.ns, link.name) or made
        if link_change(link, seen) is not None:
            yield SetLink(link, seen)
    for route in desired.routes:
        if route.ns == "container" and not _find_route(route, observed):
            yield AddRoute(route)


def _find_address(address: Address, observed: NodeState) -> bool:
    """How an address came to be (prefix route, DAD) is not seen again; where and what it is, is."""
    key = (address.ns, address.link, address.address)
    return any((seen.ns, seen.link, seen.address) == key for seen in observed.addresses)


def _find_route(route: LinkRoute, observed: NodeState) -> bool:
    key = (route.ns, route.link, route.dst, route.gw, route.table)
    return any((seen.ns, seen.link, seen.dst, seen.gw, seen.table) == key for seen in observed.routes)
