"""What an attachment has from its node's place among others: where pods are, and what fits on the way to them."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface

from cni_py.model.result import IPAddress, IPInterface, IPNetwork

# Where the agent's role `overlay` writes its node's, for who attaches pods.
NODE_FILE = "/run/cni-py/node.json"
# The bridge that is this node's part of a segment over all nodes. Its name begins as those of pods' devices do: what
# its pods send comes in by it, and is held to be theirs by every rule that speaks of such names.
SEGMENT = "cpybr"


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """`networks` are those of the pods of all nodes, `ranges` this node's among them, `mtu` bytes or 0 for unknown.

    `segment` is the MAC of the bridge SEGMENT, where pods of all nodes share one segment; "" where they do not.
    """

    networks: tuple[IPNetwork, ...] = ()
    ranges: tuple[IPNetwork, ...] = ()
    mtu: int = 0
    segment: str = ""

    def whole(self, address: IPAddress) -> IPNetwork | None:
        """The network of all nodes' pods that the address is in, None if in none."""
        return next((one for one in self.networks if address in one), None)


def segment_gateway(cidr: IPNetwork, networks: Iterable[IPNetwork]) -> IPInterface | None:
    """The address in a segment of the node whose range that is, its pods' gateway: the first of the range but one.

    It has the length of the whole network, as its pods' have: all see each other on the link. None where a range has
    no address to spare.
    """
    if cidr.prefixlen > cidr.max_prefixlen - 2:
        return None
    whole = next((one for one in networks if cidr.network_address in one), cidr)
    return ip_interface(f"{cidr.network_address + 1}/{whole.prefixlen}")
