"""Leases on disk for a process that lives on: directories stay open and the index is remembered.

The disk is as with `DiskLeaseStore`, and the mark (`store.leases`) decides here as well: as long as it stands nobody
else was there and what is remembered holds; if not, it is read again.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from cni_py.store.lease_disk import Directory
from cni_py.store.lease_index import Entry, Index, State
from cni_py.store.lease_view import number_of
from cni_py.store.leases import DiskLeaseStore


@dataclass(slots=True)
class Recollection:
    """What is remembered of one network. `entries` is None until it is known whole, `taken` has a set a family."""

    state: State | None = None
    entries: dict[str, dict[str, Entry]] | None = None
    last: dict[int, str] = field(default_factory=dict)
    taken: dict[int, set[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmIndex(Index):
    """The index on disk, and `leases`, the directory that it is about, as far as remembered."""

    leases: Directory = field(repr=False)
    memory: Recollection = field(default_factory=Recollection, repr=False)

    def state(self) -> State:
        """See Index."""
        if self.memory.state is None:
            self.memory.state = Index.state(self)
        return self.memory.state

    def set_state(self, state: State) -> None:
        """See Index."""
        self.memory.state = None
        Index.set_state(self, state)
        self.memory.state = state

    def entries(self, content: str) -> dict[str, Entry]:
        """See Index."""
        return self.known().get(content, {})

    def known(self) -> dict[str, dict[str, Entry]]:
        """See Index."""
        return self.memory.entries if self.memory.entries is not None else self.all_entries()

    def set_entries(self, content: str, entries: dict[str, Entry]) -> None:
        """See Index."""
        Index.set_entries(self, content, entries)
        if self.memory.entries is None:
            return
        if entries:
            self.memory.entries[content] = entries
        else:
            self.memory.entries.pop(content, None)

    def all_entries(self) -> dict[str, dict[str, Entry]]:
        """See Index."""
        self.memory.entries = Index.all_entries(self)
        return self.memory.entries

    def keep_only(self, contents: Iterable[str]) -> None:
        """See Index."""
        keep = set(contents)
        Index.keep_only(self, keep)
        if self.memory.entries is not None:
            self.memory.entries = {name: value for name, value in self.memory.entries.items() if name in keep}

    def taken(self, version: int) -> set[int] | None:
        """See Index."""
        if version not in self.memory.taken:
            numbers = (number_of(name, version) for name in self.leases.names())
            self.memory.taken[version] = {number for number in numbers if number is not None}
        return self.memory.taken[version]

    def last(self, position: int) -> str | None:
        """See Index."""
        return self.memory.last.get(position)

    def reserved(self, name: str, position: int) -> None:
        """See Index."""
        self.memory.last[position] = name
        for version, numbers in self.memory.taken.items():
            number = number_of(name, version)
            if number is not None:
                numbers.add(number)

    def released(self, name: str) -> None:
        """See Index."""
        for version, numbers in self.memory.taken.items():
            number = number_of(name, version)
            if number is not None:
                numbers.discard(number)

    def forget(self) -> None:
        """See Index."""
        self.memory.state = self.memory.entries = None
        self.memory.last.clear()
        self.memory.taken.clear()


@dataclass(frozen=True, slots=True)
class WarmLeaseStore(DiskLeaseStore):
    """The leases of all networks of this node, remembered. One thread at a time."""

    _directories: dict[str, Directory] = field(default_factory=dict, repr=False)
    _indices: dict[str, WarmIndex] = field(default_factory=dict, repr=False)

    def opened(self) -> list[str]:
        """The directories of the networks that were touched so far."""
        return list(self._directories)

    def _open(self, path: str, stack: ExitStack) -> Directory:  # noqa: ARG002  # it stays open
        kept = self._directories.get(path)
        if kept is not None and _leads_to(path, kept):
            return kept
        if kept is not None:
            del self._directories[path]
            kept.close()
        self._directories[path] = opened = Directory(self.site.disk, path, follow=True)
        return opened

    @contextmanager
    def _open_index(self, path: str, leases: Directory) -> Iterator[Index | OSError]:
        index = self._remembered(path, leases)
        if index is None:
            try:
                index = WarmIndex(self._make_index(path), leases)
            except OSError as error:
                yield error
                return
            self._indices[path] = index
        yield index

    def _find_index(self, path: str, leases: Directory, stack: ExitStack) -> Index | None:
        return self._remembered(path, leases) or DiskLeaseStore._find_index(self, path, leases, stack)  # noqa: SLF001  # slots: no super()

    def _remembered(self, path: str, leases: Directory) -> WarmIndex | None:
        kept = self._indices.get(path)
        if kept is None or (kept.leases is leases and _leads_to(path, kept.directory)):
            return kept
        del self._indices[path]
        kept.directory.close()
        return None


def _leads_to(path: str, directory: Directory) -> bool:
    """True if the path still leads to the directory that is open."""
    try:
        return os.stat(path).st_ino == directory.stamp()[1]
    except OSError:
        return False
