"""Between which addresses a peer is probed, and how large a packet is that pods may send to it.

On the underlay between the addresses that tunnel packets have, through the tunnel between those that the two nodes
themselves have in the pod network, on a segment those of its bridges. Where plain routes lead to the peer, nothing has
such an address to answer from.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cni_py.model.node_network import segment_gateway
from cni_py.model.overlay import BackendName, Facts, Network, Node, Tunnel
from cni_py.model.result import IPAddress
from cni_py.overlay.backend import outer, tunnel_address
from cni_py.overlay.mtu import Mtu
from cni_py.overlay.select import pod_mtu, ways

_HEADERS = {4: 28, 6: 48}  # IP and UDP
_TUNNELED: tuple[BackendName, ...] = ("vxlan", "gpe", "l2")
_NAMES: dict[Tunnel, str] = {"vxlan": "VXLAN", "gpe": "VXLAN-GPE"}


@dataclass(frozen=True, slots=True)
class Ends:
    """From which address of ours to which of the peer's."""

    source: IPAddress
    target: IPAddress

    def payload(self, size: int) -> int:
        """Bytes of UDP payload that make an IP packet of `size` bytes."""
        return size - _HEADERS[self.target.version]

    def packet(self, payload: int) -> int:
        """Bytes of the IP packet around that UDP payload."""
        return payload + _HEADERS[self.target.version]


@dataclass(frozen=True, slots=True)
class Targets:
    """Where one peer is probed, at UDP `port`. `over` is None where no tunnel leads to it.

    `mtu` is the largest packet that pods may send it, `overhead` what the tunnel adds outside. `asks` is True if the
    peer's MAC is asked for through the tunnel, so that nothing leaves where nothing comes back.
    """

    port: int
    under: Ends
    over: Ends | None
    mtu: int
    tunnel: str = ""
    tunnel_port: int = 0
    overhead: int = 0
    asks: bool = False


def targets(own: Node, peer: Node, network: Network, facts: Facts) -> Targets | None:
    """None for a peer that answers no probes, or to which no packet could go. Raises InvalidConfigError."""
    ends = outer(own, peer)
    if not peer.probe_port or ends is None:
        return None
    under, pods = Ends(*ends), pod_mtu(own, network, facts).value
    found = _through(own, peer, network, facts)
    if found is None:
        return Targets(peer.probe_port, under, None, pods)
    backend, over = found
    tunnel: Tunnel = "gpe" if backend == "gpe" else "vxlan"
    fits = Mtu(facts.underlay.mtu, tunnel, under.target.version)
    port = network.gpe_port if tunnel == "gpe" else network.vxlan_port
    most = min(pods, fits.value)
    return Targets(peer.probe_port, under, over, most, _NAMES[tunnel], port, fits.overhead, asks=backend == "l2")


def senders(peer: Node, network: Network) -> Iterable[tuple[IPAddress, bool]]:
    """Where its packets may come from, and True with those that come through a tunnel."""
    for version, address in ((4, peer.ip4), (6, peer.ip6)):
        if address is not None:
            yield address, False
        inner = _inner(peer, version, "l2" if "l2" in network.backends else "vxlan", network)
        if inner is not None:
            yield inner, True


def _through(own: Node, peer: Node, network: Network, facts: Facts) -> tuple[BackendName, Ends] | None:
    known = {way.cidr: way.backend for way in ways(own, peer, network, facts)}
    for version in (4, 6) if facts.ipv6 else (4,):
        for backend in _TUNNELED:
            source, target = (_inner(node, version, backend, network) for node in (own, peer))
            if source is None or target is None:
                continue
            if any(by == backend and target in cidr for cidr, by in known.items()):
                return backend, Ends(source, target)
    return None


def _inner(node: Node, version: int, backend: BackendName, network: Network) -> IPAddress | None:
    """The address that the node itself has in the pod network."""
    if backend != "l2":
        return tunnel_address(node.cidrs, version)
    found = (segment_gateway(cidr, network.cidrs) for cidr in node.cidrs if cidr.version == version)
    return next((one.ip for one in found if one is not None), None)
