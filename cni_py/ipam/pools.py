"""Ranges and range sets: the pools that addresses come from, made whole and checked as host-local does it.

A set gives a container one address; a network with two sets gives it two. Texts and the order of the checks are those
of host-local v1.9.1 (backend/allocator/range.go, range_set.go), since operators search for them. Inside, addresses are
ints.
"""

from dataclasses import dataclass
from typing import NoReturn

from cni_py.ipam.addresses import IPAddress, parse_cidr, parse_ip, spell
from cni_py.model.errors import PluginError

BITS = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class RangeFields:
    """One range as it stands in the configuration: texts that are addresses where they are not empty."""

    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """The addresses `start` to `end`, both included, in a subnet of `prefix` bits. The gateway is never given out.

    `gateway` may lie outside the subnet, even be of the other family: host-local allows it.
    """

    version: int
    network: int
    prefix: int
    start: int
    end: int
    gateway: IPAddress

    def holds(self, address: IPAddress) -> bool:
        """True if `address` is one of this range's."""
        return address.version == self.version and self.start <= int(address) <= self.end

    @property
    def gateway_number(self) -> int | None:
        """The gateway as an int if it is of this range's family."""
        return int(self.gateway) if self.gateway.version == self.version else None

    def __str__(self) -> str:
        return f"{spell(self.start, self.version)}-{spell(self.end, self.version)}"


@dataclass(frozen=True, slots=True)
class RangeSet:
    """At least one range, all of one family, none overlapping another."""

    ranges: tuple[Range, ...]

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.ranges[0].version

    def range_of(self, address: IPAddress) -> Range | None:
        """The range that holds `address`, None if none does."""
        return next((pool for pool in self.ranges if pool.holds(address)), None)

    def overlaps(self, other: "RangeSet") -> bool:
        """True if an address lies in both."""
        return any(_overlap(one, two) for one in self.ranges for two in other.ranges)

    def size(self) -> int:
        """How many addresses can be given out: gateways are not among them."""
        return sum(
            pool.end - pool.start + 1 - (pool.gateway_number is not None and pool.holds(pool.gateway))
            for pool in self.ranges
        )

    def __str__(self) -> str:
        return ",".join(str(pool) for pool in self.ranges)


def plan_range(fields: RangeFields) -> Range:
    """The range with everything filled in: gateway and start are the first address, end the last but broadcast.

    Raises PluginError in host-local's words.
    """
    subnet = parse_cidr(fields.subnet) if fields.subnet else None
    if subnet is None:
        raise PluginError("IP <nil> not v4 nor v6", 'each range needs a "subnet"')
    address, prefix, mask_bits = subnet
    bits, version = BITS[address.version], address.version
    shown = f"{address}/{prefix - (mask_bits - bits)}"
    if prefix > mask_bits - 2:
        _refuse(f"Network {shown} too small to allocate from", f"a /{bits - 2} is the smallest possible")
    if bits != mask_bits:
        _refuse("IPNet IP and Mask version mismatch", "write an IPv4 subnet as 10.1.2.0/24, not IPv4-mapped")
    network = int(address) >> (bits - prefix) << (bits - prefix)
    if network != int(address):
        right = spell(network, version)
        _refuse(
            f"Network has host bits set. For a subnet mask of length {prefix} the network address is {right}",
            f'write "subnet": "{right}/{prefix}"',
        )
    last = network | ((1 << (bits - prefix)) - 1)
    start, end = parse_ip(fields.range_start), parse_ip(fields.range_end)
    if start is not None and not _inside(start, version, network, _last_start(end, version, last)):
        _refuse(f"RangeStart {start} not in network {shown}", "rangeStart lies in the subnet and not behind rangeEnd")
    first = network + 1 if start is None else int(start)
    if end is not None and not (end.version == version and first <= int(end) <= last):
        _refuse(f"RangeEnd {end} not in network {shown}", "rangeEnd lies in the subnet and not before rangeStart")
    default_end = last - 1 if version == 4 else last
    gateway = parse_ip(fields.gateway) or parse_ip(spell(network + 1, version))
    if gateway is None:  # cannot be: a network with two host bits has a second address
        raise PluginError(f"no gateway in {shown}")
    return Range(version, network, prefix, first, default_end if end is None else int(end), gateway)


def plan_set(ranges: tuple[RangeFields, ...]) -> RangeSet:
    """The ranges as one set. Raises PluginError in host-local's words."""
    if not ranges:
        raise PluginError("empty range set", 'a set is a list of objects, each with a "subnet"')
    planned: list[Range] = []
    for fields in ranges:
        planned.append(plan_range(fields))
        if planned[-1].version != planned[0].version:
            raise PluginError("mixed address families", "give IPv4 and IPv6 a set each: [[{v4}], [{v6}]]")
    for position, one in enumerate(planned):
        for two in planned[position + 1 :]:
            if _overlap(one, two):
                raise PluginError(f"subnets {one} and {two} overlap", "no address may be in two ranges")
    return RangeSet(tuple(planned))


def _last_start(end: IPAddress | None, version: int, last: int) -> int:
    # host-local compares rangeStart with a rangeEnd of the same family only; of the other it complains later.
    return min(int(end), last) if end is not None and end.version == version else last


def _inside(address: IPAddress, version: int, low: int, high: int) -> bool:
    return address.version == version and low <= int(address) <= high


def _overlap(one: Range, two: Range) -> bool:
    return one.version == two.version and one.start <= two.end and two.start <= one.end


def _refuse(message: str, details: str) -> NoReturn:
    raise PluginError(message, details)
