"""Which address of a range set a container gets: host-local's round robin, without its reading of every lease.

The candidates are the set's addresses from the one after the last reserved, cyclically, each once (GetIter and Next
of allocator.go). A few are tried directly, which is enough unless the pool is crowded there; then one listing shows
what is taken and the rest is arithmetic. Blocked spans (gateway, `exclude`, `reservations`) are jumped, not walked, so
a /64 with half of it excluded costs as much as a /24.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from itertools import islice
from math import ceil

from cni_py.ipam.addresses import IPAddress, parse_ip, spell
from cni_py.ipam.options import Options
from cni_py.ipam.pools import Range, RangeSet
from cni_py.ipam.ports import Leases
from cni_py.model.errors import ExistsError, NoAddressError, TryAgainError
from cni_py.model.lease import Holder
from cni_py.model.result import IPConfig

PROBES = 8

Span = tuple[int, int, Range]


@dataclass(frozen=True, slots=True)
class Want:
    """Who wants an address, by which names it may claim a reserved one, and what the network's options are."""

    holder: Holder
    owners: frozenset[str]
    options: Options

    @property
    def owner(self) -> str:
        """The name that is recorded with the lease: the pod's if it is known."""
        return next((name for name in self.owners if "/" in name), "")


@dataclass(frozen=True, slots=True)
class Tally:
    """How a set's addresses are spent. `free` can be given now, `wait_s` is the least wait for one that cools down."""

    size: int
    used: int
    cooling: int
    held_back: int
    free: int
    wait_s: int


def allocate(leases: Leases, want: Want, position: int, pool: RangeSet, requested: IPAddress | None) -> IPConfig:
    """One address of `pool`, reserved. `position` is the set's place in the configuration.

    Raises ExistsError, NoAddressError (host-local's words), TryAgainError when the free ones are cooling down.
    """
    prefix = f"failed to allocate for range {position}: "
    if requested is not None:
        return _take_requested(leases, want, position, pool, requested)
    for name in sorted((*leases.held(want.holder.content), *leases.held(want.holder.old_content))):
        address = parse_ip(name)
        if address is not None and pool.range_of(address) is not None:
            raise ExistsError(
                f"{prefix}{name} has been allocated to {want.holder.container_id}, duplicate allocation is not allowed",
                "send DEL for this container and interface before another ADD",
            )
    for address, owner in want.options.reservations:
        if owner in want.owners and pool.range_of(address) is not None:
            return _take_reserved(leases, want, position, pool, address)
    return _take_next(leases, want, position, pool)


def _take_requested(leases: Leases, want: Want, position: int, pool: RangeSet, address: IPAddress) -> IPConfig:
    prefix = f"failed to allocate for range {position}: "
    chosen = pool.range_of(address)
    if chosen is None:
        raise NoAddressError(f"{prefix}{address} not in range set {pool}")
    if address == chosen.gateway:
        raise NoAddressError(f"{prefix}requested ip {address} is subnet's gateway", "ask for another address")
    unavailable = f"{prefix}requested IP address {address} is not available in range set {pool}"
    if want.options.excludes(address):
        raise NoAddressError(unavailable, 'it is excluded: take it out of "exclude" or ask for another address')
    owner = want.options.owner_of(address)
    if owner is not None and owner not in want.owners:
        raise NoAddressError(unavailable, f"it is reserved for {owner}")
    delay = want.options.reuse_delay_s
    left = leases.cooling_left(str(address), delay) if delay and owner is None else 0
    if left > 0:
        raise TryAgainError(unavailable, f"it was released a moment ago and may be given again in {ceil(left)} s")
    if not leases.reserve(want.holder, str(address), position, want.owner):
        raise NoAddressError(unavailable, "it is taken: ask for another address or release the container that has it")
    return _configure(address, chosen)


def _take_reserved(leases: Leases, want: Want, position: int, pool: RangeSet, address: IPAddress) -> IPConfig:
    # No delay here: nobody but this owner ever had the address.
    chosen = pool.range_of(address)
    if chosen is not None and leases.reserve(want.holder, str(address), position, want.owner):
        return _configure(address, chosen)
    raise TryAgainError(
        f"failed to allocate for range {position}: {address} is reserved for {want.options.owner_of(address)} "
        "but still held by another container",
        "it comes free when that container, perhaps an earlier life of the same pod, is deleted",
    )


def _take_next(leases: Leases, want: Want, position: int, pool: RangeSet) -> IPConfig:
    delay, version = want.options.reuse_delay_s, pool.version
    free = tuple(spans(pool, parse_ip(leases.last_reserved(position)), want.options))
    for number, chosen in islice(_numbers(free, frozenset()), PROBES):
        name = spell(number, version)
        if not (delay and leases.cooling_left(name, delay) > 0) and leases.reserve(
            want.holder, name, position, want.owner
        ):
            return _configure(number, chosen)
    taken: AbstractSet[int] = leases.taken(version)
    cooling: Mapping[int, float] = leases.cooling(version, delay) if delay else {}
    for number, chosen in _numbers(free, taken | cooling.keys()):
        if leases.reserve(want.holder, spell(number, version), position, want.owner):
            return _configure(number, chosen)
    raise exhausted(f"failed to allocate for range {position}: ", pool, tally(pool, want.options, taken, cooling))


def spans(pool: RangeSet, last: IPAddress | None, options: Options) -> Iterator[Span]:
    """The addresses that may be given, as `(first, last, range)` in the order of preference, `last` reserved before."""
    ranges = pool.ranges
    at = next((index for index, one in enumerate(ranges) if last is not None and one.holds(last)), None)
    if at is None or last is None:
        segments: list[Span] = [(one.start, one.end, one) for one in ranges]
    else:
        here, turn = ranges[at], int(last)
        rest = (*ranges[at + 1 :], *ranges[:at])
        segments = [
            (turn + 1, here.end, here),
            *((one.start, one.end, one) for one in rest),
            (here.start, turn, here),
        ]
    held_back = _held_back(options, pool.version)
    for first, end, one in segments:
        # A gateway is skipped in its own range only, as in host-local.
        gateway = () if one.gateway_number is None else ((one.gateway_number, one.gateway_number),)
        start = first
        for low, high in sorted((*held_back, *gateway)):
            if high < start:
                continue
            if low > end:
                break
            if low > start:
                yield start, low - 1, one
            start = high + 1
        if start <= end:
            yield start, end, one


def givable(pool: RangeSet, options: Options) -> int:
    """How many addresses of `pool` can be given to anybody: all but gateways, excluded and reserved ones."""
    return sum(high - low + 1 for low, high, _ in spans(pool, None, options))


def tally(pool: RangeSet, options: Options, taken: AbstractSet[int], cooling: Mapping[int, float]) -> Tally:
    """How the addresses of `pool` are spent."""
    allowed = tuple(spans(pool, None, options))
    open_count = givable(pool, options)

    def allowed_of(numbers: AbstractSet[int]) -> list[int]:
        return [number for number in numbers if any(low <= number <= high for low, high, _ in allowed)]

    in_pool = sum(1 for number in taken if any(one.start <= number <= one.end for one in pool.ranges))
    waiting = allowed_of(cooling.keys() - taken)
    return Tally(
        size=pool.size(),
        used=in_pool,
        cooling=len(waiting),
        held_back=pool.size() - open_count,
        free=open_count - len(allowed_of(taken)) - len(waiting),
        wait_s=ceil(min((cooling[number] for number in waiting), default=0)),
    )


def exhausted(prefix: str, pool: RangeSet, spent: Tally) -> NoAddressError | TryAgainError:
    """The error of a set without an address to give, with how it came to that."""
    message = f"{prefix}no IP addresses available in range set: {pool}"
    counts = (
        f"size {spent.size}, used {spent.used}, cooling down {spent.cooling}, excluded or reserved {spent.held_back}"
    )
    if spent.cooling:
        return TryAgainError(
            message, f"{counts}; the next address may be given again in {spent.wait_s} s (reuseDelay), try then"
        )
    return NoAddressError(
        message, f"{counts}; delete containers, run GC to release what dead ones left, or give the network more ranges"
    )


def _held_back(options: Options, version: int) -> list[tuple[int, int]]:
    excluded = [(low, high) for family, low, high in options.excluded if family == version]
    reserved = [(int(address), int(address)) for address, _ in options.reservations if address.version == version]
    return excluded + reserved


def _numbers(free: tuple[Span, ...], skip: AbstractSet[int]) -> Iterator[tuple[int, Range]]:
    for low, high, one in free:
        number = low
        while number <= high:
            if number not in skip:
                yield number, one
            number += 1


def _configure(address: IPAddress | int, chosen: Range) -> IPConfig:
    kind = IPv4Interface if chosen.version == 4 else IPv6Interface
    return IPConfig(address=kind((int(address), chosen.prefix)), gateway=chosen.gateway)
