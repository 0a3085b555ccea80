"""What of the host's part of the attachments is missing, as changes: links down, routes and sysctls that somebody took.

A veth that is gone is not made again: its other end went too, and only a new ADD can give the container one.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from cni_py.cni.state import desired_state
from cni_py.model.attachment import Attachment
from cni_py.model.diff import diff
from cni_py.model.net import Address, Link, LinkRoute, NodeState, Sysctl
from cni_py.model.ops import Op

# A sysctl of the host as it is; None if it is required and not there.
SeenSysctl = Callable[[Sysctl], Sysctl | None]


class Seen:
    """The host as it was read, by link."""

    def __init__(self, observed: NodeState, sysctl: SeenSysctl) -> None:
        self.links = {link.name: link for link in observed.links}
        self._sysctl = sysctl
        self._addresses: dict[str, list[Address]] = {}
        self._routes: dict[str, list[LinkRoute]] = {}
        for address in observed.addresses:
            self._addresses.setdefault(address.link, []).append(address)
        for route in observed.routes:
            self._routes.setdefault(route.link, []).append(route)

    def of(self, desired: NodeState) -> NodeState:
        """What is there of the objects in `desired`."""
        names = [link.name for link in desired.links]
        return NodeState(
            links=tuple(_as_seen(link, self.links[link.name]) for link in desired.links if link.name in self.links),
            addresses=tuple(one for name in names for one in self._addresses.get(name, ())),
            routes=tuple(one for name in names for one in self._routes.get(name, ())),
            sysctls=tuple(one for wanted in desired.sysctls if (one := self._sysctl(wanted)) is not None),
        )


def plan_repairs(attachments: Iterable[Attachment], seen: Seen) -> tuple[Op, ...]:
    """The changes that put the host's part of the attachments right, each once; of those whose veth is there."""
    steps: dict[Op, None] = {}
    for attachment in attachments:
        if attachment.mode != "chained" and attachment.host_ifname in seen.links:
            desired = host_part(desired_state(attachment))
            steps.update(dict.fromkeys(diff(desired, seen.of(desired))))
    return tuple(steps)


def host_part(state: NodeState) -> NodeState:
    """The objects of the host's namespace, without shapers, which cannot be taken away unnoticed by their link."""
    return NodeState(
        links=tuple(link for link in state.links if link.ns == "host" and link.kind != "ifb"),
        addresses=tuple(one for one in state.addresses if one.ns == "host"),
        routes=tuple(one for one in state.routes if one.ns == "host"),
        sysctls=tuple(one for one in state.sysctls if one.ns == "host"),
    )


def _as_seen(wanted: Link, seen: Link) -> Link:
    """The link as seen; what a port of a bridge is like is not read, and was lost if it is no port of that any more."""
    if wanted.master and seen.master != wanted.master:
        return seen
    return replace(
        seen,
        hairpin=wanted.hairpin,
        isolated=wanted.isolated,
        vlan=wanted.vlan,
        trunk=wanted.trunk,
        default_vlan=wanted.default_vlan,
    )
