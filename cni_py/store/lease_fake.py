"""Leases in memory, for tests of what asks a store: the same contract as `store.leases`, checked by the same tests.

Several stores may share one `Shelf`, as boots of a node share a disk. Nothing is locked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from cni_py.model.lease import Holder, Lease, Pool
from cni_py.store.lease_view import Clock


@dataclass(slots=True)
class Shelf:
    """One network's leases by name, cursors by position, releases by name as (boot, moment)."""

    leases: dict[str, Lease] = field(default_factory=dict)
    last: dict[int, str] = field(default_factory=dict)
    released: dict[str, tuple[str, float]] = field(default_factory=dict)
    pools: tuple[Pool, ...] = ()


@dataclass(frozen=True, slots=True)
class FakeLeaseStore:
    """See `ipam.ports.LeaseStore`; `shelves` is {(data_dir, network): Shelf}."""

    boot: str
    clock: Clock
    shelves: dict[tuple[str, str], Shelf] = field(default_factory=dict)

    @contextmanager
    def change(self, data_dir: str, network: str) -> Iterator["FakeLeases"]:
        """See LeaseStore."""
        shelf = self.shelves.setdefault((data_dir, network), Shelf())
        shelf.leases = {
            name: lease if lease.boot else replace(lease, boot=self.boot)
            for name, lease in shelf.leases.items()
            if not lease.boot or not self.boot or lease.boot == self.boot
        }
        before = dict(shelf.leases)
        try:
            yield FakeLeases(self, shelf)
        except Exception:
            shelf.leases = before
            raise

    @contextmanager
    def look(self, data_dir: str, network: str) -> Iterator["FakeLeases"]:
        """See LeaseStore."""
        yield FakeLeases(self, self.shelves.get((data_dir, network), Shelf()))

    def prepare(self, data_dir: str, network: str) -> None:
        """See LeaseStore."""
        self.shelves.setdefault((data_dir, network), Shelf())

    def check_usable(self, data_dir: str, network: str) -> None:
        """Memory is always usable."""


@dataclass(frozen=True, slots=True)
class FakeLeases:
    """See `ipam.ports.Leases`."""

    store: FakeLeaseStore
    shelf: Shelf

    def held(self, content: str) -> tuple[str, ...]:
        """See LeaseView."""
        return tuple(sorted(lease.name for lease in self.leases() if lease.content == content))

    def leases(self) -> tuple[Lease, ...]:
        """See LeaseView."""
        boot = self.store.boot
        return tuple(one for one in self.shelf.leases.values() if not one.boot or not boot or one.boot == boot)

    def taken(self, version: int) -> frozenset[int]:
        """See LeaseView."""
        numbers = (_number(lease.name, version) for lease in self.leases())
        return frozenset(number for number in numbers if number is not None)

    def cooling(self, version: int, delay_s: int) -> Mapping[int, float]:
        """See LeaseView."""
        left = {_number(name, version): self.cooling_left(name, delay_s) for name in self.shelf.released}
        return {number: seconds for number, seconds in left.items() if number is not None and seconds > 0}

    def last_reserved(self, position: int) -> str:
        """See Leases."""
        return self.shelf.last.get(position, "")

    def reserve(self, holder: Holder, name: str, position: int, owner: str) -> bool:
        """See Leases."""
        if name in self.shelf.leases:
            return False
        self.shelf.leases[name] = Lease(name, holder.content, self.store.boot, self.store.clock(), owner)
        self.shelf.last[position] = name
        return True

    def release(self, lease: Lease, delay_s: int) -> None:
        """See Leases."""
        found = self.shelf.leases.get(lease.name)
        if found is not None and found.content == lease.content:
            del self.shelf.leases[lease.name]
            if delay_s:
                self.shelf.released[lease.name] = (self.store.boot, self.store.clock())

    def cooling_left(self, name: str, delay_s: int) -> float:
        """See Leases."""
        boot, moment = self.shelf.released.get(name, ("", 0.0))
        return max(0.0, moment + delay_s - self.store.clock()) if boot == self.store.boot else 0.0

    def remember(self, pools: tuple[Pool, ...]) -> None:
        """See Leases."""
        self.shelf.pools = pools


def _number(name: str, version: int) -> int | None:
    try:
        return int(IPv4Address(name) if version == 4 else IPv6Address(name))
    except AddressValueError:
        return None
