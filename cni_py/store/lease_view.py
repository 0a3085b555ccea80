"""Leases on disk as they are found, without changing them.

Foreign things in the directory: a link, FIFO, directory or huge file is neither opened nor removed, and if its name is
an address, that address is taken. An empty or NUL-filled reservation is what a crash of host-local leaves; host-local
lets it block the address for ever, we remove it, as under the lock nobody can be about to fill it. Any other content
counts as somebody's lease until GC says that there is no such container.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from cni_py.model.lease import GO_SPACE, Lease, Pool
from cni_py.store.lease_disk import Directory, Disk, is_temporary
from cni_py.store.lease_index import Entry, Index, State
from cni_py.store.lock import Idle

LAST = "last_reserved_ip."
_NO_ENTRY = Entry("", "")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Site:
    """The node: its boot ID (empty if it cannot be known), its CLOCK_BOOTTIME in seconds and its disk.

    `idle` is around the wait for a lock.
    """

    boot: str
    clock: Clock
    disk: Disk
    idle: Idle = nullcontext


@dataclass(frozen=True, slots=True)
class Survey:
    """All reservation files as read: {content: {name: Entry}} of the live, {name: Lease} of the dead.

    Dead are leases of an earlier boot and empty files.
    """

    live: dict[str, dict[str, Entry]]
    dead: dict[str, Lease]


class DiskView:
    """One network's leases for reading. See `ipam.ports.LeaseView`."""

    def __init__(self, site: Site, directory: Directory, index: Index | None) -> None:
        self._site = site
        self._directory = directory
        self._index = index
        self._state = index.state() if index else State()
        self._marked = self._state.cookie_ns != 0 and (self._state.cookie_ns, self._state.inode) == directory.stamp()
        trusted = self._marked and self._state.boot == site.boot
        if not trusted and index is not None:
            index.forget()
        self._survey = None if trusted else self._read_all()

    def held(self, content: str) -> tuple[str, ...]:
        """See LeaseView."""
        if self._survey is not None:
            return tuple(sorted(self._survey.live.get(content, ())))
        entries = self._index.entries(content) if self._index else {}
        return tuple(sorted(name for name in entries if self._holds(name, content)))

    def leases(self) -> tuple[Lease, ...]:
        """See LeaseView."""
        survey = self._survey or self._read_all()
        return tuple(
            Lease(name, content, entry.boot, entry.created_s, entry.owner, entry.attached)
            for content, entries in survey.live.items()
            for name, entry in entries.items()
            if _family(name)
        )

    def attached(self) -> tuple[Lease, ...]:
        """The leases that our main plugin asked for; none is read."""
        known = self._survey.live if self._survey is not None else self._index.known() if self._index else {}
        return tuple(
            Lease(name, content, entry.boot, entry.created_s, entry.owner, entry.attached)
            for content, entries in known.items()
            for name, entry in entries.items()
            if entry.attached
        )

    def dead(self) -> tuple[Lease, ...]:
        """The leases that the next change will drop."""
        return tuple((self._survey or self._read_all()).dead.values())

    def taken(self, version: int) -> AbstractSet[int]:
        """See LeaseView."""
        remembered = self._index.taken(version) if self._index is not None and self._survey is None else None
        if remembered is not None:
            return remembered
        dead = self._survey.dead if self._survey else {}
        numbers = (number_of(name, version) for name in self._directory.names() if name not in dead)
        return frozenset(number for number in numbers if number is not None)

    def cooling(self, version: int, delay_s: int) -> Mapping[int, float]:
        """See LeaseView."""
        left: dict[int, float] = {}
        for name in self._index.cooling_names() if self._index and delay_s else ():
            number, seconds = number_of(name, version), self._left(name, delay_s)
            if number is not None and seconds > 0:
                left[number] = seconds
        return left

    def pools(self) -> tuple[Pool, ...]:
        """The range sets of the last ADD, empty if not known."""
        return self._state.pools

    def _left(self, name: str, delay_s: int) -> float:
        released_s = self._index.released_s(name, self._site.boot) if self._index else None
        return 0.0 if released_s is None else max(0.0, released_s + delay_s - self._site.clock())

    def _holds(self, name: str, content: str) -> bool:
        found = self._directory.read(name)
        return found is not None and _text(found.content) == content

    def _read_all(self) -> Survey:
        boot, seen_in = self._site.boot, self._state.boot
        known = self._index.all_entries() if self._index else {}
        all_old = self._marked and bool(boot and seen_in) and seen_in != boot
        survey = Survey({}, {})
        for name in self._directory.names():
            if name == "lock" or name.startswith(LAST) or is_temporary(name):
                continue
            found = self._directory.read(name)
            if found is None:
                continue
            content = _text(found.content)
            entry = known.get(content, {}).get(name, _NO_ENTRY)
            if entry.token != found.token:
                entry = Entry(found.token, seen_in if all_old else "")
            old = bool(boot and entry.boot) and entry.boot != boot
            if _family(name) and (old or not content.strip("\0")):
                survey.dead[name] = Lease(name, content, entry.boot, entry.created_s, entry.owner)
            else:
                survey.live.setdefault(content, {})[name] = entry
        return survey


class EmptyView:
    """The leases of a network that has no directory yet."""

    def attached(self) -> tuple[Lease, ...]:
        """None."""
        return ()

    def held(self, content: str) -> tuple[str, ...]:  # noqa: ARG002  # as the others
        """None."""
        return ()

    def leases(self) -> tuple[Lease, ...]:
        """None."""
        return ()

    def dead(self) -> tuple[Lease, ...]:
        """None."""
        return ()

    def taken(self, version: int) -> frozenset[int]:  # noqa: ARG002  # as the others
        """None."""
        return frozenset()

    def cooling(self, version: int, delay_s: int) -> Mapping[int, float]:  # noqa: ARG002  # as the others
        """None."""
        return {}

    def pools(self) -> tuple[Pool, ...]:
        """None."""
        return ()


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape").strip(GO_SPACE)


def number_of(name: str, version: int) -> int | None:
    """The number of the address that a file is named after, None if the name is none of that family."""
    if version == 4:
        return _number4(name)
    if ":" not in name or "%" in name:
        return None
    try:
        return int(IPv6Address(name))
    except AddressValueError:
        return None


def _number4(name: str) -> int | None:
    # By hand: ipaddress takes four times as long, which is felt at 10,000 leases.
    try:
        a, b, c, d = map(int, name.split("."))
    except ValueError:
        return None
    # int() takes more than Go does (+1, 01, 1_0); what is spelled back otherwise is no address.
    if max(a, b, c, d) > 255 or min(a, b, c, d) < 0 or f"{a}.{b}.{c}.{d}" != name:
        return None
    return a << 24 | b << 16 | c << 8 | d


def _family(name: str) -> int:
    """4 or 6 if `name` is an address, else 0."""
    return next((version for version in (4, 6) if number_of(name, version) is not None), 0)
