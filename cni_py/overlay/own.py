"""This node as it tells itself to the others: at which of its underlay's addresses it is reached, what it can do."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from cni_py.model.overlay import Facts, Network, Node, tunnel_mac
from cni_py.model.result import IPAddress
from cni_py.overlay.select import offered

Address = TypeVar("Address", IPv4Address, IPv6Address)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the operator says of a node: its name, and where he wants it reached; "" and None leave the choice to us.

    Its peers are probed every `probe_seconds`, at `probe_port` it answers theirs.
    """

    name: str
    interface: str = ""
    ip4: IPv4Address | None = None
    ip6: IPv6Address | None = None
    probe_port: int = 0
    probe_seconds: float = 10.0

    def addresses(self, said: Node | None) -> frozenset[IPAddress]:
        """What its underlay's link is found by: the operator's addresses, and those that a source said."""
        told = () if said is None else (said.ip4, said.ip6)
        return frozenset(one for one in (self.ip4, self.ip6, *told) if one is not None)


def own_node(who: Identity, said: Node, network: Network, facts: Facts) -> Node:
    """The node, of which a source said `said`. Raises InvalidConfigError if this kernel can do nothing permitted.

    An address that the operator gave counts as it is. One that the source says counts as long as the node has it;
    else it is the first that the underlay has of the family.
    """
    have = facts.underlay.addresses
    ip4 = who.ip4 or _chosen(said.ip4, [one for one in have if isinstance(one, IPv4Address)])
    ip6 = who.ip6 or _chosen(said.ip6, [one for one in have if isinstance(one, IPv6Address)])
    return Node(
        who.name,
        said.cidrs,
        tunnel_mac(network.cluster, who.name),
        ip4,
        ip6 if facts.ipv6 else None,
        frozenset(offered(network, facts)),
        network.vni,
        network.vxlan_port,
        who.probe_port,
        said.uid,
        said.since,
    )


def _chosen(said: Address | None, have: Sequence[Address]) -> Address | None:
    return said if said in have else next(iter(have), None)
