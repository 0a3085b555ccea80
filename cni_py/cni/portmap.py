"""Host ports: a port of the node leads to a port of the pod. Elements in maps, and who must be masqueraded on the way.

A map has one value for a key, so a host port has one owner: the kernel refuses a second (`ExistsError` names the first
by the comment on its element). `hostIP` unset or unspecified (0.0.0.0, ::) is any address of the node, the latter of
its family only; a mapping for one address wins over one for all of them. A host port that a process of the node listens
on is taken from it, as with the reference plugin; the caller may try to bind it first.

`conditionsV4`/`conditionsV6` of the reference are iptables arguments and have no meaning here; the caller refuses them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cni_py.cni import tables
from cni_py.model.attachment import PortMapping
from cni_py.model.errors import InvalidConfigError
from cni_py.model.nft import AddElements, Change, DiscardElements
from cni_py.model.nft_expr import SCTP, TCP, UDP, Scalar
from cni_py.model.nft_objects import Element, Set

PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
_LOOPBACK = IPv4Address("127.0.0.1")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class HostPorts:
    """The host ports of one attachment. `owner` is what a refused second owner is told, such as `network/container`.

    `pod` has at most one address of each family. `bridge`: the bridge that it is attached to, "" when routed.
    `localnet`: the interface for which the caller sets `route_localnet`, so that 127.0.0.1:port works; "" for none.
    `snat` False: no masquerade at all, so no access from the pod itself, 127.0.0.1 or a neighbour on the bridge.
    """

    mappings: tuple[PortMapping, ...]
    pod: tuple[Address, ...]
    owner: str = ""
    bridge: str = ""
    localnet: str = ""
    snat: bool = True
    masq_all: bool = False


def plan_portmap(ports: HostPorts) -> Change:
    """The host ports lead to the pod. Committed twice it changes nothing; InvalidConfigError if it makes no sense."""
    return Change((tables.NAT_LAYOUT,), tuple(AddElements(one, elements) for one, elements in _elements(ports)))


def unplan_portmap(ports: HostPorts, *, localnet_shared: bool) -> Change:
    """The host ports do not lead to the pod. Right also if they never did, or lead to another pod by now.

    `localnet_shared`: other attachments need the guard on that interface still, as those on the same bridge do.
    """
    discards = (
        DiscardElements(one, elements)
        for one, elements in _elements(ports)
        if not (localnet_shared and one == tables.LOCALNET)
    )
    return Change((), tuple(discards))


def unplan_localnet(device: str) -> Change:
    """127.0.0.1 may be no source on that interface any more."""
    return Change((), (DiscardElements(tables.LOCALNET, (Element((device,)),)),))


def _elements(ports: HostPorts) -> list[tuple[Set, tuple[Element, ...]]]:
    found: dict[Set, dict[tuple[Scalar, ...], Element]] = {}
    for mapping in ports.mappings:
        _check(mapping, ports.pod)
        for pod in _targets(mapping, ports.pod):
            one, key = _map_and_key(mapping, pod)
            element = Element(key, (pod, mapping.container_port), ports.owner)
            if found.setdefault(one, {}).setdefault(key, element) != element:
                raise InvalidConfigError(f"host port {mapping.host_port}/{mapping.protocol} is mapped twice")
    for one, keys in _masqueraded(ports):
        found.setdefault(one, {}).update((key, Element(key)) for key in keys)
    return [(one, tuple(elements.values())) for one, elements in found.items() if elements]


def _check(mapping: PortMapping, pod: Sequence[Address]) -> None:
    for name, port in (("hostPort", mapping.host_port), ("containerPort", mapping.container_port)):
        if not 0 < port < 1 << 16:
            raise InvalidConfigError(f"invalid {name} number: {port}", "ports are 1 to 65535")
    if not _targets(mapping, pod):
        raise InvalidConfigError(
            f"host port {mapping.host_port}/{mapping.protocol} on {mapping.host_ip}: the pod has no such address",
            "give the pod an address of the family of hostIP, or leave hostIP out",
        )


def _targets(mapping: PortMapping, pod: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(one for one in pod if mapping.host_ip is None or mapping.host_ip.version == one.version)


def _map_and_key(mapping: PortMapping, pod: Address) -> tuple[Set, tuple[Scalar, ...]]:
    port = (PROTOCOLS[mapping.protocol], mapping.host_port)
    is_v4 = pod.version == 4
    if mapping.host_ip is None or mapping.host_ip.is_unspecified:
        return (tables.HOST_PORT4 if is_v4 else tables.HOST_PORT6), port
    return (tables.HOST_IP4 if is_v4 else tables.HOST_IP6), (mapping.host_ip, *port)


def _masqueraded(ports: HostPorts) -> Iterable[tuple[Set, tuple[tuple[Scalar, ...], ...]]]:
    """Per set the keys of connections to the pod that must seem to come from the node."""
    if ports.localnet:
        yield tables.LOCALNET, ((ports.localnet,),)
    for pod in ports.pod if ports.snat else ():
        is_v4 = pod.version == 4
        itself: tuple[tuple[Scalar, ...], ...] = ((pod, pod),)
        yield (tables.HAIRPIN4 if is_v4 else tables.HAIRPIN6), (*itself, (_LOOPBACK, pod)) if is_v4 else itself
        if ports.bridge:
            yield (tables.BRIDGED4 if is_v4 else tables.BRIDGED6), ((ports.bridge, pod),)
        if ports.masq_all:
            yield (tables.MASQ_ALL4 if is_v4 else tables.MASQ_ALL6), ((pod,),)
