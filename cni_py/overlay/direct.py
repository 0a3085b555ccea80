"""Plain routes to the peers on the link, a tunnel to all others: which range of a peer goes where.

It is decided for each range, as a peer on the link by IPv4 alone has those of IPv6 in the tunnel.
"""

from collections.abc import Sequence

from cni_py.model.overlay import Facts, Node
from cni_py.model.result import IPNetwork
from cni_py.overlay.hostgw import plain_route


def divided(
    peer: Node, cidrs: Sequence[IPNetwork], facts: Facts
) -> tuple[tuple[IPNetwork, ...], tuple[IPNetwork, ...]]:
    """The ranges that a plain route leads to, and those that none does."""
    plain = tuple(cidr for cidr in cidrs if plain_route(cidr, peer, facts) is not None)
    return plain, tuple(cidr for cidr in cidrs if cidr not in plain)
