"""What an attachment has from its node's place among others: where pods are, and what fits on the way to them."""

from dataclasses import dataclass

from cni_py.model.result import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """`networks` are those of the pods of all nodes, `ranges` this node's among them, `mtu` bytes or 0 for unknown."""

    networks: tuple[IPNetwork, ...] = ()
    ranges: tuple[IPNetwork, ...] = ()
    mtu: int = 0

    def whole(self, address: IPAddress) -> IPNetwork | None:
        """The network of all nodes' pods that the address is in, None if in none."""
        return next((one for one in self.networks if address in one), None)
