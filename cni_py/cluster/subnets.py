"""Which networks a node takes out of a pool: the first free one, from a place on that is the node's own. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from cni_py.model.errors import InvalidConfigError, NoAddressError
from cni_py.model.result import IPNetwork


@dataclass(frozen=True, slots=True)
class Pool:
    """What nodes take networks of `prefix` bits from. Raises InvalidConfigError if it has none of them."""

    cidr: IPNetwork
    prefix: int

    def __post_init__(self) -> None:
        if not self.cidr.prefixlen <= self.prefix <= self.cidr.max_prefixlen:
            raise InvalidConfigError(
                f"the pool {self.cidr} has no networks of /{self.prefix}",
                f"a node's prefix is from {self.cidr.prefixlen} to {self.cidr.max_prefixlen}",
            )


def choose(pool: Pool, taken: Iterable[IPNetwork], identity: str) -> IPNetwork:
    """A network of the pool that overlaps none of those. Raises NoAddressError if there is none.

    Nodes that join at once begin at different places, so they seldom want the same one.
    """
    shift = pool.cidr.max_prefixlen - pool.prefix
    first, count = int(pool.cidr.network_address), 1 << (pool.prefix - pool.cidr.prefixlen)
    spans = sorted(_span(one, first, shift, count) for one in taken if one.overlaps(pool.cidr))
    start = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8]) % count
    for low, high in ((start, count), (0, start)):
        index = low
        for begin, end in spans:
            if begin > index:
                break
            index = max(index, end)
        if index < high:
            address = pool.cidr.network_address + (index << shift)
            return ip_network(f"{address}/{pool.prefix}")
    raise NoAddressError(
        f"the pool {pool.cidr} has no network of /{pool.prefix} left, all {count} are taken",
        "widen the pool, or delete the keys of nodes that are gone for good",
    )


def overlapping(cidr: IPNetwork, others: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first of the others that shares addresses with it."""
    return next((one for one in others if one.overlaps(cidr)), None)


def _span(cidr: IPNetwork, first: int, shift: int, count: int) -> tuple[int, int]:
    """The networks of the pool that it takes something of, counted from the pool's first: from, to before."""
    begin = max(0, (int(cidr.network_address) - first) >> shift)
    end = min(count, ((int(cidr.broadcast_address) - first) >> shift) + 1)
    return begin, end
