"""Reads an attachment back from the kernel, for CHECK: a second pair of eyes, since it shares no code with the writer.

pyroute2 does the reading: CHECK is not on the way of a pod's start. Only the objects that are asked for are looked at.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cni_py.kernel import netns
from cni_py.kernel.sysctl import seen_sysctl
from cni_py.kernel.tc import tbf
from cni_py.model.net import Address, Link, LinkKind, LinkRoute, NodeState, Ns, Shaper
from cni_py.model.result import IPNetwork

_MAX_U32 = (1 << 32) - 1
_IFF_UP, _IFF_PROMISC = 0x1, 0x100
_KINDS: dict[str, LinkKind] = {"veth": "veth", "bridge": "bridge", "ifb": "ifb"}


class NodeObserver:
    """The observer port. `open_netns` gives a descriptor of the namespace at a path, to be closed here."""

    def __init__(self, open_netns: Callable[[str], int] = netns.open_path) -> None:
        self._open_netns = open_netns

    def observe(self, desired: NodeState, path: str) -> NodeState:
        """What is there of the links in `desired` and on them. Raises NetnsError if there is no namespace at `path`."""
        host = _read("host", desired)
        fd = self._open_netns(path)
        try:
            with netns.entered(fd):
                container = _read("container", desired)
        finally:
            os.close(fd)
        return NodeState(
            links=(*host.links, *container.links),
            addresses=(*host.addresses, *container.addresses),
            routes=(*host.routes, *container.routes),
            sysctls=(*host.sysctls, *container.sysctls),
            shapers=host.shapers,
        )


def _read(ns: Ns, desired: NodeState) -> NodeState:
    """One namespace, the one that this thread is in."""
    with IPRoute() as route:
        indices = {link.name: _index(link.name) for link in desired.links if link.ns == ns}
        indices |= {address.link: _index(address.link) for address in desired.addresses if address.ns == ns}
        indices |= {one.link: _index(one.link) for one in desired.routes if one.ns == ns}
        present = {name: index for name, index in indices.items() if index}
        wanted = [link for link in desired.links if link.ns == ns and link.name in present]
        return NodeState(
            links=tuple(_link(route, link, present) for link in wanted),
            addresses=tuple(one for name, index in present.items() for one in _addresses(route, ns, name, index)),
            routes=tuple(one for name, index in present.items() for one in _routes(route, ns, name, index)),
            sysctls=tuple(one for wanted in desired.sysctls if wanted.ns == ns and (one := seen_sysctl(wanted))),
            shapers=tuple(one for one in desired.shapers if ns == "host" and _is_shaped(route, one)),
        )


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _link(route: IPRoute, wanted: Link, present: dict[str, int]) -> Link:
    """A link as seen. The MTU is compared only where one was asked for, and a port's flags where they were."""
    (seen,) = route.get_links(present[wanted.name])
    info = seen.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info is not None else ""
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info is not None and seen.get_attr("IFLA_MASTER") else None
    master = seen.get_attr("IFLA_MASTER")
    in_vlans = not (wanted.vlan or wanted.trunk) or {wanted.vlan or 1, *wanted.trunk} <= _vlans(route, seen["index"])
    return replace(
        wanted,
        kind=_KINDS.get(kind or "", "other"),
        vlan=wanted.vlan if in_vlans else 0,
        trunk=wanted.trunk if in_vlans else (),
        mac=seen.get_attr("IFLA_ADDRESS") or "",
        mtu=seen.get_attr("IFLA_MTU"),
        up=bool(seen["flags"] & _IFF_UP),
        master=socket.if_indextoname(master) if master else "",
        hairpin=bool(port.get_attr("IFLA_BRPORT_MODE")) if port is not None else False,
        isolated=bool(port.get_attr("IFLA_BRPORT_ISOLATED")) if port is not None else False,
        promisc=bool(seen["flags"] & _IFF_PROMISC),
    )


def _vlans(route: IPRoute, index: int) -> set[int]:
    """The VLANs that a bridge port is in."""
    ports = [one for one in route.get_vlans() if one["index"] == index]
    infos = [info for one in ports for info in one.get_attr("IFLA_AF_SPEC").get_attrs("IFLA_BRIDGE_VLAN_INFO")]
    return {info["vid"] for info in infos}


def _addresses(route: IPRoute, ns: Ns, name: str, index: int) -> list[Address]:
    return [
        Address(
            ns, name, ip_interface(f"{seen.get_attr('IFA_LOCAL') or seen.get_attr('IFA_ADDRESS')}/{seen['prefixlen']}")
        )
        for seen in route.get_addr(index=index)
    ]


def _routes(route: IPRoute, ns: Ns, name: str, index: int) -> list[LinkRoute]:
    found = [
        seen for family in (socket.AF_INET, socket.AF_INET6) for seen in route.get_routes(family=family, oif=index)
    ]
    return [LinkRoute(ns, name, _dst(seen), gw=_gateway(seen), table=seen.get_attr("RTA_TABLE")) for seen in found]


def _dst(seen: Any) -> IPNetwork:  # noqa: ANN401  # pyroute2 is not typed
    nowhere = "0.0.0.0" if seen["family"] == socket.AF_INET else "::"
    return ip_network(f"{seen.get_attr('RTA_DST') or nowhere}/{seen['dst_len']}")


def _gateway(seen: Any) -> Any:  # noqa: ANN401  # pyroute2 is not typed
    gateway = seen.get_attr("RTA_GATEWAY")
    return ip_address(gateway) if gateway else None


def _is_shaped(route: IPRoute, shaper: Shaper) -> bool:
    """The token bucket is there with its rate, and for an ifb the filter that feeds it."""
    index = _index(shaper.link)
    try:
        buckets = [one for one in route.get_qdiscs(index) if index and one.get_attr("TCA_KIND") == "tbf"]
        fed = not shaper.mirror_from or bool(route.get_filters(index=_index(shaper.mirror_from), parent=0xFFFF0000))
    except NetlinkError:
        return False
    return fed and any(_rate(bucket) == min(tbf(shaper)["rate"], _MAX_U32) for bucket in buckets)


def _rate(bucket: Any) -> int:  # noqa: ANN401  # pyroute2 is not typed
    """In bytes a second, as far as 32 bits go: pyroute2 does not know the attribute with 64."""
    rate: int = bucket.get_attr("TCA_OPTIONS").get_attr("TCA_TBF_PARMS")["rate"]
    return rate
