"""What the IPAM planner asks of a lease store. `store.leases` keeps it on disk, `store.lease_fake` in memory."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Protocol

from cni_py.model.lease import Holder, Lease, Pool


class LeaseView(Protocol):
    """The leases of one network while nobody changes them. Methods raise IOFailureError."""

    def held(self, content: str) -> tuple[str, ...]:
        """The names of the leases with this content, sorted as host-local finds them."""

    def leases(self) -> tuple[Lease, ...]:
        """All leases; O(n)."""

    def taken(self, version: int) -> AbstractSet[int]:
        """The addresses of a family that cannot be reserved; O(n)."""

    def cooling(self, version: int, delay_s: int) -> Mapping[int, float]:
        """{address: seconds left} of those released less than `delay_s` ago; O(n)."""


class Leases(LeaseView, Protocol):
    """The leases of one network, ours to change until the transaction ends."""

    def last_reserved(self, position: int) -> str:
        """The content of `last_reserved_ip.<position>`, empty if there is none."""

    def reserve(self, holder: Holder, name: str, position: int, owner: str) -> bool:
        """True if the lease is made and remembered as the set's last; False if the name is taken."""

    def release(self, lease: Lease, delay_s: int) -> None:
        """The lease is gone if it still has this content; its address cools down for `delay_s`."""

    def cooling_left(self, name: str, delay_s: int) -> float:
        """Seconds until the address may be given again, 0 if it may now."""

    def remember(self, pools: tuple[Pool, ...]) -> None:
        """The pools are known to `cni-py ipam show`."""


class LeaseStore(Protocol):
    """Networks' leases below data directories."""

    def change(self, data_dir: str, network: str) -> AbstractContextManager[Leases]:
        """The network's leases under its exclusive lock, those of an earlier boot dropped.

        An exception that leaves the block undoes the reservations made in it.
        """

    def look(self, data_dir: str, network: str) -> AbstractContextManager[LeaseView]:
        """The network's leases, not of an earlier boot, for reading; nothing is made or changed on disk."""

    def prepare(self, data_dir: str, network: str) -> None:
        """The network's directory exists, as host-local leaves it after any verb. Raises IOFailureError."""

    def check_usable(self, data_dir: str, network: str) -> None:
        """Raise UnavailableError if a lease could not be written there now; nothing is written to find out."""
