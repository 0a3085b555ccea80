"""Request, configuration and lease in, the attachment out: every decision of ADD is taken here, once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface, ip_network
from itertools import takewhile
from typing import Any, Literal

from cni_py.model.attachment import (
    Attachment,
    BridgePort,
    Key,
    PodAddress,
    PortMapping,
    host_ifname,
    ifb_name,
    macs,
)
from cni_py.model.errors import InvalidConfigError, PluginError, TryAgainError
from cni_py.model.net import SCOPE_LINK, Shaper
from cni_py.model.node_network import SEGMENT, NodeNetwork
from cni_py.model.persona import Persona
from cni_py.model.result import Dns, IPConfig, IPInterface, IPNetwork, Result, Route
from cni_py.spec import gojson
from cni_py.spec.args import parse_args, pod_name
from cni_py.spec.memo import Memo
from cni_py.spec.netconf import Bandwidth, NetConf, VlanTrunk
from cni_py.spec.request import Request
from cni_py.spec.result import parse_dns
from cni_py.spec.sysctl import parse_sysctls

_kept: Memo[str] = Memo()


_ALONE = NodeNetwork()


@dataclass(frozen=True, slots=True)
class Occasion:
    """What only the machine knows at the moment of the call.

    The boot id, seconds since the epoch, a random MAC to use, which network namespace the host's is, and the node's
    place among others.
    """

    boot: str
    now: int
    spare_mac: str
    host: str
    network: NodeNetwork = _ALONE


def key_of(request: Request) -> Key:
    """The attachment that a request is about."""
    return Key(request.network, request.container_id, request.ifname)


def check_place(conf: NetConf, persona: Persona, network: NodeNetwork) -> None:
    """Raise what `mode_of` does, and TryAgainError for a container of a segment where there is none yet."""
    if mode_of(conf, persona) == "l2" and not network.segment:
        raise TryAgainError(
            "this node is in no segment yet",
            "the agent makes it: role overlay, joined, with network.backends: [l2]; see cni-py status",
        )


def mode_of(conf: NetConf, persona: Persona) -> Literal["routed", "bridge", "l2"]:
    """How the container is attached: as the reference plugin of that name does it, else as the configuration says.

    Raises InvalidConfigError for a routed network without IPAM: there is nothing to route.
    """
    fixed: dict[Persona, Literal["routed", "bridge", "l2"]] = {Persona.PTP: "routed", Persona.BRIDGE: "bridge"}
    mode = fixed.get(persona, conf.effective_mode)
    if mode == "routed" and not conf.ipam_type:
        raise InvalidConfigError("no plugin name provided", 'a routed network needs an "ipam" section with a "type"')
    return mode


def plan_attachment(request: Request, conf: NetConf, persona: Persona, lease: Result, occasion: Occasion) -> Attachment:
    """The attachment that ADD is to make of a `lease`, the IPAM plugin's result (empty for a layer 2 network).

    Raises PluginError if the lease has no address, InvalidConfigError if it has no gateway where one is needed.
    """
    key = key_of(request)
    mode = mode_of(conf, persona)
    bridged = mode != "routed"
    if conf.ipam_type and not lease.ips:
        raise PluginError("IPAM plugin returned missing IP config", f"look at {conf.ipam_type or 'the ipam section'}")
    host_mac, own_mac = macs(key)
    addresses = tuple(_with_gateway(ip, conf, mode) for ip in lease.ips)
    return Attachment(
        key=key,
        plugin=persona.value,
        mode="bridge" if bridged else "routed",
        netns=request.netns,
        boot=occasion.boot,
        created=occasion.now,
        host=occasion.host,
        config=_kept.get(request.stdin, lambda: config_to_keep(request.config)),
        host_ifname=host_ifname(key),
        host_mac=host_mac,
        mac=_choose_mac(request, conf) or own_mac,
        mtu=conf.mtu or _overlay_mtu(addresses, occasion.network),
        addresses=addresses,
        routes=_routes(lease.routes, addresses, conf),
        port=_port(conf, mode, addresses, occasion),
        dad=bridged and conf.enabledad,
        container_up=not conf.disableContainerInterface,
        masquerade=_networks(addresses, occasion.network) if conf.ipMasq else (),
        ports=port_mappings(conf) if persona is Persona.CNI_PY else (),
        snat=conf.snat,
        masq_all=conf.masqAll,
        macspoofchk=bridged and conf.macspoofchk,
        antispoof=persona is Persona.CNI_PY and (conf.antispoof if conf.antispoof is not None else mode == "routed"),
        shapers=plan_shapers(conf.bandwidth, host_ifname(key), key) if persona is Persona.CNI_PY else (),
        sysctls=parse_sysctls(conf.sysctl, request.ifname),
        pod=pod_name(request.args),
    )


def plan_chained(  # the same as above, and what the kernel says of the veth
    request: Request, conf: NetConf, persona: Persona, previous: Result, occasion: Occasion, veth: str
) -> Attachment:
    """What a chained persona adds behind another plugin's interface, whose host end is `veth`.

    Raises PluginError if there is nothing that could be shaped, or nothing that the host sees the packets of.
    """
    key = key_of(request)
    # bridge and veth stand before the container's end; an ifb of an earlier plugin's limit comes after it
    on_host = [interface.name for interface in takewhile(lambda one: not one.sandbox, previous.interfaces)]
    addresses = container_addresses(previous, request.ifname)
    shaped = persona is Persona.BANDWIDTH and conf.bandwidth != Bandwidth()
    if shaped and not veth:
        raise PluginError(
            f"container interface {request.ifname} has no veth peer in the host's namespace",
            "a limit needs a veth: put bandwidth behind bridge, ptp or cni-py",
        )
    if persona is Persona.CNI_PY_POLICY and request.command == "ADD" and not (veth and addresses):
        lacks = "veth peer in the host's namespace" if addresses else "address"
        raise PluginError(
            f"container interface {request.ifname} has no {lacks}, so no network policy could hold for it",
            "put cni-py-policy behind cni-py, ptp, bridge or flannel",
        )
    bridge = next((name for name in on_host if name != veth), "")
    return Attachment(
        key=key,
        plugin=persona.value,
        mode="chained",
        netns=request.netns,
        boot=occasion.boot,
        created=occasion.now,
        host=occasion.host,
        config=_kept.get(request.stdin, lambda: config_to_keep(request.config)),
        host_ifname=veth,
        mtu=conf.mtu,
        addresses=addresses,
        port=BridgePort(bridge) if bridge else None,
        ports=port_mappings(conf) if persona is Persona.PORTMAP and addresses else (),
        snat=conf.snat,
        masq_all=conf.masqAll,
        shapers=plan_shapers(conf.bandwidth, veth, key) if shaped else (),
        pod=pod_name(request.args),
    )


def container_addresses(result: Result, ifname: str) -> tuple[PodAddress, ...]:
    """The addresses of the container's own interface in a result."""
    found: list[PodAddress] = []
    for ip in result.ips:
        index = ip.interface
        if index is not None and 0 <= index < len(result.interfaces):
            owner = result.interfaces[index]
            if owner.name != ifname or not owner.sandbox:
                continue
        found.append(PodAddress(ip.address, ip.gateway))
    return tuple(found)


def port_mappings(conf: NetConf) -> tuple[PortMapping, ...]:
    """The port mappings that ask for a port of the host; containerd also lists those that do not, with port 0."""
    return tuple(
        PortMapping(entry.hostPort, entry.containerPort, entry.protocol, entry.hostIP)
        for entry in conf.runtimeConfig.portMappings
        if entry.hostPort
    )


def plan_shapers(limits: Bandwidth, veth: str, key: Key) -> tuple[Shaper, ...]:
    """The limits as token buckets: what the container gets leaves by the veth, what it sends goes through an ifb."""
    shapers: list[Shaper] = []
    if limits.ingressRate:
        shapers.append(Shaper(veth, limits.ingressRate, limits.ingressBurst))
    if limits.egressRate:
        shapers.append(Shaper(ifb_name(key), limits.egressRate, limits.egressBurst, mirror_from=veth))
    return tuple(shapers)


def choose_dns(conf: NetConf, lease: Result) -> Dns:
    """The runtime's dns argument, else the configuration's, else what IPAM said; whole, never mixed."""
    runtime = conf.runtimeConfig.dns
    if runtime:
        spelled = {"nameservers": gojson.get_list(runtime, "servers"), "search": gojson.get_list(runtime, "searches")}
        return parse_dns({**spelled, "options": gojson.get_list(runtime, "options")})
    return parse_dns(conf.dns) or lease.dns


def config_to_keep(config: Mapping[str, Any]) -> str:
    """The configuration without prevResult and the list of attachments: what a later IPAM DEL needs, and no more."""
    dropped = {"prevresult", "cni.dev/valid-attachments", "cni.dev/attachments"}
    return json.dumps({name: value for name, value in config.items() if gojson.fold(name) not in dropped})


def _choose_mac(request: Request, conf: NetConf) -> str:
    """runtimeConfig.mac beats args.cni.mac beats CNI_ARGS MAC (CONVENTIONS.md)."""
    env = parse_args(request.args, {"MAC", "IP"}).get("MAC", "")
    chosen = conf.runtimeConfig.mac or conf.args.cni.mac or env
    octets = chosen.split(":") if chosen else []
    if chosen and (len(octets) != 6 or not all(_is_octet(octet) for octet in octets)):
        raise InvalidConfigError(f"invalid MAC address {chosen!r}", "write it as 0a:58:0a:01:02:03")
    if octets and int(octets[0], 16) & 1:
        raise InvalidConfigError(
            f"{chosen} is a multicast address", "an interface needs a unicast MAC: first octet even"
        )
    return chosen.lower()


def _is_octet(text: str) -> bool:
    return len(text) == 2 and all(char in "0123456789abcdefABCDEF" for char in text)


def _with_gateway(ip: IPConfig, conf: NetConf, mode: str) -> PodAddress:
    """bridge: a gateway that IPAM left out is the network's first address; routed cannot do without one either."""
    gateway = ip.gateway
    if gateway is None and (mode == "routed" or conf.isGateway or conf.isDefaultGateway):
        gateway = ip.address.network.network_address + 1
        if gateway == ip.address.ip:
            raise InvalidConfigError(
                f"IPAM gave {ip.address} and no gateway, and the first address of that network is taken by it",
                "give a gateway in the ipam section",
            )
    return PodAddress(ip.address, gateway)


def _routes(given: tuple[Route, ...], addresses: tuple[PodAddress, ...], conf: NetConf) -> tuple[Route, ...]:
    """IPAM's routes and, with isDefaultGateway, a default route a family, unless there is the same one already.

    The reference adds its own beside an IPAM default route without `gw` and then fails with "file exists".
    """
    routes = list(given)
    if conf.isDefaultGateway:
        for version in dict.fromkeys(entry.address.version for entry in addresses):
            default = ip_network("0.0.0.0/0" if version == 4 else "::/0")
            gateway = next(entry.gateway for entry in addresses if entry.address.version == version)
            if not any(route.dst == default and route.table is None for route in routes):
                routes.append(Route(default, gateway))
    unique: dict[Route, Route] = {}
    for route in routes:
        unique.setdefault(resolve_gateway(route, addresses), route)
    return tuple(unique.values())


def resolve_gateway(route: Route, addresses: tuple[PodAddress, ...]) -> Route:
    """A route without `gw` goes by the first gateway of its family, unless its scope says that it is on the link."""
    if route.gw is not None or (route.scope or 0) >= SCOPE_LINK:
        return route
    gateways = (entry.gateway for entry in addresses if entry.address.version == route.dst.version)
    return replace(route, gw=next((gateway for gateway in gateways if gateway is not None), None))


def _networks(addresses: tuple[PodAddress, ...], of: NodeNetwork) -> tuple[IPNetwork, ...]:
    """Where the pods are that see each other's own addresses: on all nodes, if the nodes are joined."""
    return tuple(dict.fromkeys(of.whole(entry.address.ip) or entry.address.network for entry in addresses))


def _overlay_mtu(addresses: tuple[PodAddress, ...], of: NodeNetwork) -> int:
    """What fits on the way to other nodes' pods; 0, the kernel's choice, where no address is among theirs."""
    return of.mtu if any(of.whole(entry.address.ip) is not None for entry in addresses) else 0


def _port(conf: NetConf, mode: str, addresses: tuple[PodAddress, ...], occasion: Occasion) -> BridgePort | None:
    """Of a segment's bridge only its MAC is ours to say: if it is gone for a moment, the one made is the same."""
    if mode == "l2":
        return BridgePort(SEGMENT, mac=occasion.network.segment, hairpin=conf.hairpinMode)
    return _bridge_port(conf, addresses, occasion.spare_mac) if mode == "bridge" else None


def _bridge_port(conf: NetConf, addresses: tuple[PodAddress, ...], spare_mac: str) -> BridgePort:
    gateways: tuple[IPInterface, ...] = ()
    if conf.isGateway or conf.isDefaultGateway:
        gateways = tuple(
            dict.fromkeys(ip_interface(f"{e.gateway}/{e.address.network.prefixlen}") for e in addresses if e.gateway)
        )
    return BridgePort(
        bridge=conf.bridge,
        mac=spare_mac,
        gateways=gateways,
        force_address=conf.forceAddress,
        hairpin=conf.hairpinMode,
        promisc=conf.promiscMode,
        isolated=conf.portIsolation,
        vlan=conf.vlan,
        trunk=_trunk(conf.vlanTrunk),
        keep_default_vlan=conf.preserveDefaultVlan,
    )


def _trunk(entries: tuple[VlanTrunk, ...]) -> tuple[int, ...]:
    vlans: set[int] = set()
    for entry in entries:
        if entry.minID is not None and entry.maxID is not None:
            vlans.update(range(entry.minID, entry.maxID + 1))
        if entry.id is not None:
            vlans.add(entry.id)
    return tuple(sorted(vlans))
