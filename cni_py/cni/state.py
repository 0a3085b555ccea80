"""An attachment in, the links, addresses, routes, sysctls and shapers that it stands for out.

The state is what the reference's ptp (routed) and bridge leave behind. What differs is meant: no device accepts router
advertisements (CVE-2020-10749), an address that IPAM proved unique needs no duplicate address detection (1 to 2 s), and
a routed address makes no route to its own network, so none has to be deleted again.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_interface, ip_network

from cni_py.cni.attach import resolve_gateway
from cni_py.model.attachment import Attachment, BridgePort, PodAddress
from cni_py.model.errors import PluginError
from cni_py.model.net import SCOPE_LINK, TABLE_MAIN, Address, Bridge, Link, LinkRoute, NodeState, Sysctl
from cni_py.model.node_network import SEGMENT
from cni_py.model.ops import SetLink
from cni_py.model.result import IPAddress, IPInterface, IPNetwork


def desired_state(attachment: Attachment) -> NodeState:
    """All that should be in the kernel for an attachment, but for nftables."""
    links = tuple(_links(attachment))
    return NodeState(
        links=links,
        addresses=tuple(_addresses(attachment)),
        routes=tuple(_routes(attachment)),
        sysctls=tuple(_sysctls(attachment, links)),
        shapers=attachment.shapers,
    )


def host_links(attachment: Attachment) -> tuple[str, ...]:
    """The host's devices that go with the attachment, in the order in which DEL removes them."""
    veth = () if attachment.mode == "chained" else (attachment.host_ifname,)
    return (*veth, *(shaper.link for shaper in attachment.shapers if shaper.mirror_from))


def check_bridge(attachment: Attachment, observed: NodeState) -> None:
    """Raise PluginError if a device has the bridge's name and is none."""
    port = attachment.port
    seen = observed.link("host", port.bridge) if port is not None and attachment.mode == "bridge" else None
    if seen is not None and seen.kind != "bridge":
        raise PluginError(
            f'"{seen.name}" already exists but is not a bridge', "name another bridge, or remove the device"
        )


def bridge_pin(attachment: Attachment, observed: NodeState) -> tuple[SetLink, ...]:
    """The change that makes an existing bridge keep its MAC, once it is to be a gateway that others know by it."""
    port = attachment.port
    seen = observed.link("host", port.bridge) if port is not None and port.gateways else None
    if (
        port is None
        or port.vlan
        or seen is None
        or all(_has(observed, port.bridge, gateway) for gateway in port.gateways)
    ):
        return ()
    return (SetLink(seen, replace(seen, mac="")),)


def _has(observed: NodeState, link: str, address: IPInterface) -> bool:
    return any(seen.link == link and seen.address == address for seen in observed.addresses)


def stale_addresses(attachment: Attachment, observed: NodeState) -> tuple[Address, ...]:
    """Addresses of an existing bridge that stand against the gateways that it should have.

    One of IPv4 that differs, or one of IPv6 whose network overlaps: with `force_address` they are to go, else they are
    an error (PluginError, the reference's text). A changed pod network shows up like this.
    """
    port = attachment.port
    if port is None or not port.gateways:
        return ()
    device = gateway_device(port)
    held = [address for address in observed.addresses if address.ns == "host" and address.link == device]
    stale: list[Address] = []
    for gateway in port.gateways:
        if any(address.address == gateway for address in held):
            continue
        for address in held:
            if not _conflicts(address.address, gateway) or address.address in port.gateways:
                continue
            if not port.force_address:
                raise PluginError(
                    f'"{device}" already has an IP address different from {gateway}',
                    f"it has {address.address}: remove that, set forceAddress, or name another bridge",
                )
            stale.append(address)
    return tuple(dict.fromkeys(stale))


def _conflicts(held: IPInterface, wanted: IPInterface) -> bool:
    if held.version != wanted.version or held.ip.is_link_local:
        return False
    return held.version == 4 or held.ip in wanted.network or wanted.ip in held.network


def _links(attachment: Attachment) -> Iterator[Link]:
    port = attachment.port
    if attachment.mode == "bridge" and port is not None:
        yield bridge_link(port, attachment.mtu)
        yield from _gateway_links(port, attachment.mtu)
    if attachment.mode != "chained":
        ifname = attachment.key.ifname
        yield Link(
            "host",
            attachment.host_ifname,
            "veth",
            mac=attachment.host_mac,
            mtu=attachment.mtu,
            master=port.bridge if port is not None else "",
            peer=ifname,
            hairpin=port is not None and port.hairpin,
            isolated=port is not None and port.isolated,
            vlan=port.vlan if port is not None else 0,
            trunk=port.trunk if port is not None else (),
            default_vlan=port is None or port.keep_default_vlan,
        )
        yield Link(
            "container",
            ifname,
            "veth",
            mac=attachment.mac,
            mtu=attachment.mtu,
            up=attachment.container_up,
            peer=attachment.host_ifname,
        )
    for shaper in attachment.shapers:
        if shaper.mirror_from:
            yield Link("host", shaper.link, "ifb", mtu=attachment.mtu)


def bridge_link(port: BridgePort, mtu: int) -> Link:
    """The bridge as it is made. One that exists keeps its MAC and its MTU: other ports depend on them."""
    return Link(
        "host",
        port.bridge,
        "bridge",
        mac=port.mac,
        mtu=mtu,
        promisc=port.promisc,
        vlan_filtering=bool(port.vlan or port.trunk),
        shared=True,
        bridge=Bridge() if port.bridge == SEGMENT else None,
    )


def gateway_device(port: BridgePort) -> str:
    """The device that has the gateways' addresses: the bridge, or of a VLAN the node's own veth into it."""
    return f"{port.bridge}.{port.vlan}" if port.vlan else port.bridge


def _gateway_links(port: BridgePort, mtu: int) -> Iterator[Link]:
    """The node's own port in the VLAN: a bridge with several VLANs is in none of them itself."""
    if port.vlan and port.gateways:
        device = gateway_device(port)
        inner = "cpv" + hashlib.sha256(device.encode()).hexdigest()[:12]
        yield Link("host", device, "veth", mtu=mtu, peer=inner, shared=True)
        yield Link(
            "host",
            inner,
            "veth",
            mtu=mtu,
            master=port.bridge,
            peer=device,
            vlan=port.vlan,
            default_vlan=port.keep_default_vlan,
            shared=True,
        )


def _addresses(attachment: Attachment) -> Iterator[Address]:
    if attachment.mode == "chained":
        return
    port = attachment.port
    for gateway in port.gateways if port is not None else ():
        yield Address("host", gateway_device(port) if port is not None else "", gateway)
    if attachment.mode == "routed":
        for single in dict.fromkeys(_host_route(entry.gateway) for entry in attachment.addresses):
            yield Address("host", attachment.host_ifname, single)
    for entry in attachment.addresses:
        routed = attachment.mode == "routed"
        yield Address("container", attachment.key.ifname, entry.address, prefix_route=not routed, dad=attachment.dad)


@lru_cache(maxsize=64)
def _host_route(address: IPAddress | None) -> IPInterface:
    """A gateway's address as an interface's without a network, /32 or /128."""
    return ip_interface(str(address))


@lru_cache(maxsize=64)
def _host_network(address: IPAddress) -> IPNetwork:
    """A gateway's address as a network of its own."""
    return ip_network(str(address))


def _routes(attachment: Attachment) -> Iterator[LinkRoute]:
    if attachment.mode == "chained":
        return
    ifname = attachment.key.ifname
    if attachment.mode == "routed":
        for entry in attachment.addresses:
            yield from _routed(attachment, entry)
    gateways = {entry.gateway for entry in attachment.addresses}
    for route in attachment.routes:
        resolved = resolve_gateway(route, attachment.addresses)
        yield LinkRoute(
            "container",
            ifname,
            route.dst,
            gw=resolved.gw,
            scope=route.scope if route.scope is not None else (0 if resolved.gw is not None else SCOPE_LINK),
            table=route.table if route.table is not None else TABLE_MAIN,
            priority=route.priority,
            mtu=route.mtu,
            advmss=route.advmss,
            onlink=attachment.mode == "routed" and resolved.gw not in gateways and resolved.gw is not None,
        )


def _routed(attachment: Attachment, entry: PodAddress) -> Iterator[LinkRoute]:
    """One address in routed mode: all but the gateway itself is reached by way of the gateway, the node answers ARP."""
    ifname, own = attachment.key.ifname, entry.address.ip
    yield LinkRoute("host", attachment.host_ifname, _single(entry), scope=SCOPE_LINK)
    if entry.gateway is None:
        return
    gateway = _host_network(entry.gateway)
    first = next(e for e in attachment.addresses if e.gateway == entry.gateway)
    if first is entry:  # two addresses of one network share its gateway
        yield LinkRoute("container", ifname, gateway, src=own, scope=SCOPE_LINK)
    if next(e for e in attachment.addresses if e.address.network == entry.address.network) is entry:
        yield LinkRoute("container", ifname, entry.address.network, gw=entry.gateway, src=own)


def _single(entry: PodAddress) -> IPNetwork:
    return ip_network((int(entry.address.ip), entry.address.max_prefixlen))


def _sysctls(attachment: Attachment, links: tuple[Link, ...]) -> Iterator[Sysctl]:
    """Order counts: router advertisements are refused before the container's link is up and any could arrive."""
    versions: frozenset[int] = frozenset(entry.address.version for entry in attachment.addresses)
    for link in links:
        if link.ns == "host" and link.kind != "ifb":
            yield Sysctl("host", f"net/ipv6/conf/{link.name}/accept_ra", "0", required=False)
    if attachment.mode == "routed" or (attachment.port is not None and attachment.port.gateways):
        yield from _forwarding(attachment, versions)
    if attachment.ports and attachment.snat and 4 in versions:
        yield Sysctl("host", f"net/ipv4/conf/{localnet_device(attachment)}/route_localnet", "1")
    if attachment.mode != "chained" and attachment.addresses:
        # a layer 2 interface, without addresses, may be configured by whoever is on that segment
        asked = {sysctl.key for sysctl in attachment.sysctls}
        ours = _container_sysctls(attachment, ipv6=6 in versions)
        yield from (sysctl for sysctl in ours if sysctl.key not in asked)
    yield from attachment.sysctls


def _forwarding(attachment: Attachment, versions: frozenset[int]) -> Iterator[Sysctl]:
    if 4 in versions:
        yield Sysctl("host", "net/ipv4/ip_forward", "1")
    if 6 in versions:
        yield Sysctl("host", "net/ipv6/conf/all/forwarding", "1")
        if attachment.mode == "routed":  # a link made before `all` was set would stay off
            yield Sysctl("host", f"net/ipv6/conf/{attachment.host_ifname}/forwarding", "1")
        if not attachment.dad:  # forwarding, the node asks for MACs from its link-local address: else tentative for 2 s
            yield Sysctl("host", f"net/ipv6/conf/{localnet_device(attachment)}/accept_dad", "0")


def localnet_device(attachment: Attachment) -> str:
    """The device by which the node reaches the container, and on which 127.0.0.1 may be a source (host ports)."""
    return gateway_device(attachment.port) if attachment.port is not None else attachment.host_ifname


def _container_sysctls(attachment: Attachment, *, ipv6: bool) -> Iterator[Sysctl]:
    conf = f"net/ipv6/conf/{attachment.key.ifname}"
    if attachment.mode == "bridge":
        yield Sysctl("container", f"net/ipv4/conf/{attachment.key.ifname}/arp_notify", "1")
    yield Sysctl("container", f"{conf}/accept_ra", "0", required=False)
    if not ipv6:
        return
    yield Sysctl("container", "net/ipv6/conf/lo/disable_ipv6", "0")
    yield Sysctl("container", f"{conf}/disable_ipv6", "0")
    yield Sysctl("container", f"{conf}/keep_addr_on_down", "1")
    yield Sysctl("container", f"{conf}/accept_dad", "1" if attachment.dad else "0")
    if attachment.dad:
        yield Sysctl("container", f"{conf}/enhanced_dad", "1")
