"""`exclude`: addresses, CIDRs and `a-b` spans made into disjoint intervals. The one home of netaddr.

Imported only when a configuration has the option: loading netaddr takes longer than the rest of an ADD.
"""

from collections.abc import Iterable

import netaddr

from cni_py.ipam.addresses import parse_cidr, parse_ip
from cni_py.model.errors import InvalidConfigError


def merge(entries: Iterable[str]) -> tuple[tuple[int, int, int], ...]:
    """`(IP version, first, last)` of each interval, disjoint, ascending within a family, ends included.

    Raises InvalidConfigError naming the entry that is not an address, a CIDR or a span.
    """
    excluded = netaddr.IPSet()
    for entry in entries:
        excluded.update(_parse(entry))
    return tuple((span.version, int(span.first), int(span.last)) for span in excluded.iter_ipranges())


def _parse(entry: str) -> netaddr.IPNetwork | netaddr.IPRange:
    subnet = parse_cidr(entry.strip())
    if subnet is not None and subnet[2] == subnet[0].max_prefixlen:
        return netaddr.IPNetwork(f"{subnet[0]}/{subnet[1]}").cidr
    first, dash, last = entry.partition("-")
    low, high = parse_ip(first.strip()), parse_ip((last if dash else first).strip())
    if low is None or high is None or low.version != high.version or int(high) < int(low):
        raise InvalidConfigError(
            f'invalid "exclude" entry {entry[:80]!r}',
            'an entry is an address, a CIDR or a span: "10.1.2.3", "10.1.2.64/26", "10.1.2.10-10.1.2.20"',
        )
    return netaddr.IPRange(str(low), str(high))
