"""Which backend leads to which pod network of which peer, the whole state of it, and what pods may send there.

Each node says what it can do and may (`offered`). A node has the links of all that it offers, whoever uses them now, so
packets of a peer that chose otherwise, or not yet, arrive: a network changes its backend node by node and loses none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from cni_py.model.errors import InvalidConfigError
from cni_py.model.net import NodeState
from cni_py.model.overlay import BackendName, Facts, Network, Node, Tunnel
from cni_py.model.result import IPNetwork
from cni_py.overlay.backend import Backend, Share, far_end, outer
from cni_py.overlay.direct import divided
from cni_py.overlay.gpe import gpe
from cni_py.overlay.hostgw import hostgw
from cni_py.overlay.l2 import l2, segment_mtu
from cni_py.overlay.mtu import Mtu
from cni_py.overlay.none import none
from cni_py.overlay.vxlan import vxlan

T = TypeVar("T")

BACKENDS: Mapping[BackendName, Backend] = {
    "vxlan": vxlan,
    "gpe": gpe,
    "host-gw": hostgw,
    "direct": hostgw,
    "l2": l2,
    "none": none,
}
_PLAIN: frozenset[BackendName] = frozenset(("direct", "host-gw"))
_TUNNELS: tuple[Tunnel, ...] = ("vxlan", "gpe")
_VXLAN: frozenset[BackendName] = frozenset(("vxlan", "l2"))


@dataclass(frozen=True, slots=True)
class Way:
    """How a pod network is reached; `backend` None if it is not. `reason` is for people."""

    cidr: IPNetwork
    backend: BackendName | None
    reason: str


def plan(node: Node, peers: Sequence[Node], network: Network, facts: Facts) -> NodeState:
    """The state of the network on this node. Raises InvalidConfigError if it cannot take part at all.

    Where IPv6 is turned off, all that the kernel would refuse is left out.
    """
    offers = offered(network, facts)
    if not facts.ipv6:
        node, peers = _only_ip4(node), [_only_ip4(peer) for peer in peers]
        network = replace(network, cidrs=tuple(cidr for cidr in network.cidrs if cidr.version == 4))
    shares: dict[BackendName, list[Share]] = {backend: [] for backend in offers}
    for peer in peers:
        for backend, cidrs in _divide(node, peer, offers, network, facts):
            shares[backend].append((peer, cidrs))
    return _merged([BACKENDS[backend](node, share, network, facts) for backend, share in shares.items()])


def offered(network: Network, facts: Facts) -> tuple[BackendName, ...]:
    """The permitted backends that this kernel can do. Raises InvalidConfigError if there are none."""
    found = tuple(one for one in network.backends if one in facts.backends)
    if not found:
        known = ", ".join(sorted(facts.backends)) or "none"
        raise InvalidConfigError(
            f"this kernel cannot do {' or '.join(network.backends) or 'no backend'}",
            f"permit one that it can ({known}), or load its modules",
        )
    return found


def ways(node: Node, peer: Node, network: Network, facts: Facts) -> tuple[Way, ...]:
    """How each pod network of the peer is reached, and why so."""
    offers = offered(network, facts)
    backends = {cidr: backend for backend, cidrs in _divide(node, peer, offers, network, facts) for cidr in cidrs}
    return tuple(
        Way(cidr, backend := backends.get(cidr), _why(node, peer, backend, offers, network, facts))
        for cidr in peer.cidrs
    )


def pod_mtu(node: Node, network: Network, facts: Facts) -> Mtu:
    """The MTU of this node's pods: what the tunnels leave. To peers with less the kernel tells them (path MTU)."""
    version = 4 if node.ip4 is not None else 6
    offers = offered(network, facts)
    if "l2" in offers:
        return segment_mtu(facts)
    tunnels = [one for one in _TUNNELS if one in offers]
    sums = [Mtu(facts.underlay.mtu, tunnel, version) for tunnel in tunnels] or [Mtu(facts.underlay.mtu)]
    return min(sums, key=lambda one: one.value)


def _divide(
    node: Node, peer: Node, offers: Sequence[BackendName], network: Network, facts: Facts
) -> Iterator[tuple[BackendName, Sequence[IPNetwork]]]:
    """Each backend that leads to networks of the peer, with those."""
    rest: Sequence[IPNetwork] = peer.cidrs
    for backend in offers:
        if not rest:
            return
        if not _fits(node, peer, backend, network):
            continue
        if backend not in _PLAIN:
            yield backend, [cidr for cidr in rest if far_end(node, peer, cidr.version)] if peer.mac6 else rest
            return
        plain, rest = divided(peer, rest, facts)
        if plain:
            yield backend, plain


def _fits(node: Node, peer: Node, backend: BackendName, network: Network) -> bool:
    if backend in _PLAIN:  # any router will do
        return not _PLAIN.isdisjoint(peer.backends)
    if backend not in peer.backends:
        return False
    if backend in _VXLAN and not _same_vxlan(peer, network):
        return False
    return backend not in {*_TUNNELS, *_VXLAN} or outer(node, peer) is not None


def _same_vxlan(peer: Node, network: Network) -> bool:
    return peer.vni in {0, network.vni} and peer.vxlan_port in {0, network.vxlan_port}


def _why(
    node: Node, peer: Node, backend: BackendName | None, offers: Sequence[BackendName], network: Network, facts: Facts
) -> str:
    if backend is None:
        return _why_not(node, peer, offers, network)
    if backend in _PLAIN:
        return f"it is on the link {facts.underlay.link}"
    if backend == "none":
        return "the network between the nodes routes by itself"
    before = offers[: offers.index(backend)]
    lacking = [one for one in before if not _fits(node, peer, one, network)]
    reasons = [f"it cannot do {', '.join(lacking)}"] if lacking else []
    return (
        "; ".join([*reasons, *(["it is not on the link"] if len(lacking) < len(before) else [])]) or "the first of ours"
    )


def _why_not(node: Node, peer: Node, offers: Sequence[BackendName], network: Network) -> str:
    shared = [one for one in offers if one in peer.backends or (one in _PLAIN and not _PLAIN.isdisjoint(peer.backends))]
    tunnels = [one for one in shared if one not in _PLAIN]
    if not shared:
        return f"this node does {', '.join(offers)}, it does {', '.join(sorted(peer.backends))}: nothing in common"
    if not tunnels:
        return "it is not on the link, and no tunnel is permitted"
    if outer(node, peer) is None:
        have = " and ".join(f"IPv{v}" for v, own in ((4, node.ip4), (6, node.ip6)) if own is not None)
        return f"it has no underlay address of {have}"
    if peer.mac6 and _same_vxlan(peer, network):
        return "it carries pods of a family over that family alone, and the nodes do not have it both"
    vni, port = peer.vni or network.vni, peer.vxlan_port or network.vxlan_port
    return f"it does VXLAN with VNI {vni} on port {port}, this network {network.vni} on {network.vxlan_port}"


def _merged(states: Sequence[NodeState]) -> NodeState:
    """One state of all; what several want is there once."""

    def union(parts: Iterable[tuple[T, ...]]) -> tuple[T, ...]:
        return tuple(dict.fromkeys(one for part in parts for one in part))

    if len(states) == 1:
        return states[0]
    return NodeState(
        links=union(one.links for one in states),
        addresses=union(one.addresses for one in states),
        routes=union(one.routes for one in states),
        sysctls=union(one.sysctls for one in states),
        neighbours=union(one.neighbours for one in states),
        fdb=union(one.fdb for one in states),
    )


def _only_ip4(node: Node) -> Node:
    return replace(node, ip6=None, cidrs=tuple(cidr for cidr in node.cidrs if cidr.version == 4))
