"""What host-local lacks: `reuseDelay`, `exclude` and `reservations`, and a word for a key that nobody knows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cni_py.ipam.addresses import IPAddress, parse_ip
from cni_py.ipam.pools import RangeSet
from cni_py.model.errors import InvalidConfigError
from cni_py.spec import gojson

RANGE_KEYS = ("subnet", "rangeStart", "rangeEnd", "gateway")
KEYS = (
    "type",
    "name",
    *RANGE_KEYS,
    "ranges",
    "routes",
    "dataDir",
    "resolvConf",
    "reuseDelay",
    "exclude",
    "reservations",
)
MAX_DELAY_S = 30 * 24 * 3600  # a longer one is a unit mistaken


@dataclass(frozen=True, slots=True)
class Options:
    """`reuse_delay_s` seconds pass before an address is given again. `excluded` are disjoint `(version, first, last)`.

    `reservations` are `(address, owner)`: the address goes to that owner only, and the owner gets no other of its set.
    """

    reuse_delay_s: int = 0
    excluded: tuple[tuple[int, int, int], ...] = ()
    reservations: tuple[tuple[IPAddress, str], ...] = ()

    def excludes(self, address: IPAddress) -> bool:
        """True if `address` is never to be given."""
        return any(version == address.version and low <= int(address) <= high for version, low, high in self.excluded)

    def owner_of(self, address: IPAddress) -> str | None:
        """Whom `address` is reserved for, None if for nobody."""
        return next((owner for reserved, owner in self.reservations if reserved == address), None)


def check_keys(ipam: Mapping[str, Any]) -> None:
    """Raise InvalidConfigError if `ipam` or one of its ranges has a key that is not an option."""
    _check(ipam, KEYS, "ipam")
    for ranges in gojson.get_list(ipam, "ranges"):
        for entry in ranges if isinstance(ranges, list) else ():
            if isinstance(entry, dict):
                _check(entry, RANGE_KEYS, "a range of ipam")


def parse_options(ipam: Mapping[str, Any], sets: tuple[RangeSet, ...]) -> Options:
    """Our options. Raises InvalidConfigError, DecodeError."""
    return Options(
        reuse_delay_s=_parse_delay(ipam),
        excluded=_parse_exclude(gojson.get_list(ipam, "exclude")),
        reservations=_parse_reservations(gojson.get_object(ipam, "reservations"), sets),
    )


def lenient_options(ipam: Mapping[str, Any]) -> Options:
    """The options that matter when an address is released; what is wrong in them counts as unset, so DEL goes on."""
    delay = gojson.get(ipam, "reuseDelay")
    usable = isinstance(delay, int) and not isinstance(delay, bool) and 0 < delay <= MAX_DELAY_S
    return Options(reuse_delay_s=delay if usable else 0)


def _check(obj: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    folded = {gojson.fold(key): key for key in known}
    for key in obj:
        if gojson.fold(key) not in folded:
            import difflib  # noqa: PLC0415  # only to word an error: an ADD that succeeds does not pay for it

            near = difflib.get_close_matches(gojson.fold(key), folded, n=1)
            hint = f'do you mean "{folded[near[0]]}"?' if near else f"known are {', '.join(folded.values())}"
            raise InvalidConfigError(f"unknown key {key[:80]!r} in {where}", hint)


def _parse_delay(ipam: Mapping[str, Any]) -> int:
    delay = gojson.get_int(ipam, "reuseDelay") or 0
    if not 0 <= delay <= MAX_DELAY_S:
        raise InvalidConfigError(
            f'invalid "reuseDelay" {delay}: 0 to {MAX_DELAY_S} seconds', "it is in seconds; 60 is a good value"
        )
    return delay


def _parse_exclude(entries: list[Any]) -> tuple[tuple[int, int, int], ...]:
    if not entries:
        return ()
    for entry in entries:
        if not isinstance(entry, str):
            raise InvalidConfigError(f'invalid "exclude" entry {entry!r}'[:200], "each entry is a string")
    from cni_py.ipam.ranges import merge  # noqa: PLC0415  # netaddr loads slowly; most networks exclude nothing

    return merge(entries)


def _parse_reservations(entries: Mapping[str, Any], sets: tuple[RangeSet, ...]) -> tuple[tuple[IPAddress, str], ...]:
    reservations: dict[IPAddress, str] = {}
    for text, owner in entries.items():
        address = parse_ip(text)
        pool = next((found for one in sets if address and (found := one.range_of(address))), None)
        if address is None or pool is None or address == pool.gateway:
            raise InvalidConfigError(
                f'invalid "reservations" key {text[:80]!r}', "it must be an address of a range and not its gateway"
            )
        if not isinstance(owner, str) or not owner:
            raise InvalidConfigError(
                f'invalid "reservations" owner of {address}', 'an owner is a container ID or "namespace/name" of a pod'
            )
        reservations[address] = owner
    return tuple(reservations.items())
