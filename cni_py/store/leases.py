"""Leases on disk, in host-local's files, shared with host-local itself at the same time.

`<dataDir>/<network>/` holds `<address>` (0600; container ID, CR, LF, ifname), `last_reserved_ip.N` (0600) and `lock`
(0750), exactly as host-local v1.9.1 (backend/disk) has them. Beside it lies our index (`lease_index`), which spares
reading all of them.

Who wrote last? After each change we set the directory's mtime to a moment before 1970, which no kernel clock can give
(settimeofday refuses it), and remember it: the mark. Whatever makes or removes a file there sets another time. So if
the mark stands, on the same inode, nobody else was there and the index is complete; if not, it is rebuilt from the
files, once. A stop between our change and the mark leads to a rebuild too. host-local overwrites `last_reserved_ip.N`
in place, which does not change the directory's time: it is read anyway.

Boots: containers do not survive one, leases do. Ours know their boot. A lease that somebody else made is taken as of
the boot in which we first see it. And if the mark stands but is of an earlier boot, then all are of earlier boots. The
wall clock has no say in this.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from cni_py.model.errors import UnavailableError
from cni_py.model.lease import Holder, Lease, Pool
from cni_py.store.lease_disk import Directory, naming
from cni_py.store.lease_index import Entry, Index, State
from cni_py.store.lease_view import LAST, DiskView, EmptyView, Site, Survey


@dataclass(frozen=True, slots=True)
class DiskLeaseStore:
    """The leases of all networks of this node."""

    site: Site

    @contextmanager
    def change(self, data_dir: str, network: str) -> Iterator["DiskLeases"]:
        """See `ipam.ports.LeaseStore`."""
        path, beside = _paths(data_dir, network)
        self._make(path)
        with ExitStack() as stack, naming(path, "use"):
            directory = self._open(path, stack)
            with naming(f"{path}/lock", "lock"):
                stack.enter_context(directory.lock(exclusive=True, create=True, idle=self.site.idle))
            index = stack.enter_context(self._open_index(beside, directory))
            leases = DiskLeases(self.site, directory, index, beside)
            with naming(path, "drop the leases of an earlier boot from"):
                leases.settle()
            try:
                yield leases
                with naming(beside, "write"):
                    leases.commit()
            except BaseException:
                leases.undo()
                raise

    @contextmanager
    def look(self, data_dir: str, network: str) -> Iterator["DiskView | EmptyView"]:
        """See `ipam.ports.LeaseStore`."""
        path, beside = _paths(data_dir, network)
        with ExitStack() as stack, naming(path, "read"):
            try:
                directory = self._open(path, stack)
            except FileNotFoundError:
                yield EmptyView()
                return
            stack.enter_context(directory.lock(exclusive=False, create=False, idle=self.site.idle))
            yield DiskView(self.site, directory, self._find_index(beside, directory, stack))

    def prepare(self, data_dir: str, network: str) -> None:
        """See `ipam.ports.LeaseStore`."""
        path, _ = _paths(data_dir, network)
        self._make(path)
        with naming(path, "lock"), ExitStack() as stack:
            directory = Directory(self.site.disk, path, follow=True)
            stack.callback(directory.close)
            stack.enter_context(directory.lock(exclusive=False, create=True, idle=self.site.idle))

    def _make(self, path: str) -> None:
        if not os.path.isdir(path):  # pathlib costs the import of half an ADD
            with naming(path, "mkdir"):
                self.site.disk.mkdir(path, 0o755)

    def check_usable(self, data_dir: str, network: str) -> None:
        """See `ipam.ports.LeaseStore`."""
        path, _ = _paths(data_dir, network)
        while not os.path.lexists(path):
            path = os.path.dirname(path) or "."  # as above
        if not os.path.isdir(path):  # as above
            raise UnavailableError(f"data directory {path} is not a directory", "remove it or change ipam.dataDir")
        if not os.access(path, os.W_OK | os.X_OK):
            raise UnavailableError(
                f"data directory {path} is not writable", "check its permissions and that it is not mounted read-only"
            )
        with naming(path, "statfs"):
            space = os.statvfs(path)
        if space.f_bavail == 0 or (space.f_files and space.f_favail == 0):
            raise UnavailableError(f"data directory {path}: no space left", "free space or inodes (df, df -i)")

    def _open(self, path: str, stack: ExitStack) -> Directory:
        """The directory, open as long as the stack."""
        directory = Directory(self.site.disk, path, follow=True)
        stack.callback(directory.close)
        return directory

    @contextmanager
    def _open_index(self, path: str, leases: Directory) -> Iterator[Index | OSError]:  # noqa: ARG002  # the warm one's
        # Without an index an address can be released but not given: a full disk must not hold up DEL.
        try:
            directory = self._make_index(path)
        except OSError as error:
            yield error
            return
        try:
            yield Index(directory)
        finally:
            directory.close()

    def _find_index(self, path: str, leases: Directory, stack: ExitStack) -> Index | None:  # noqa: ARG002  # as above
        try:
            index = Index(Directory(self.site.disk, path, follow=False))
        except FileNotFoundError:
            return None
        stack.callback(index.directory.close)
        return index

    def _make_index(self, path: str) -> Directory:
        try:
            return Directory(self.site.disk, path, follow=False)
        except FileNotFoundError:
            self.site.disk.mkdir(path, 0o700)
            return Directory(self.site.disk, path, follow=False)


class DiskLeases(DiskView):
    """One network's leases, ours to change under the lock. See `ipam.ports.Leases`."""

    def __init__(self, site: Site, directory: Directory, index: Index | OSError, index_path: str) -> None:
        super().__init__(site, directory, index if isinstance(index, Index) else None)
        self._broken = index if isinstance(index, OSError) else None
        self._index_path = index_path
        self._made: dict[str, dict[str, Entry]] = {}
        self._released: dict[str, set[str]] = {}
        self._known: dict[str, dict[str, Entry]] = {}
        self._noted: dict[str, dict[str, Entry]] = {}
        self._pools = self._state.pools

    def settle(self) -> None:
        """Dead leases are gone, the index is complete and the mark set. Raises OSError if a dead one resists.

        If the index cannot be written it is left alone: releases go on without it, reservations do not.
        """
        if self._survey is None:
            return
        for name in self._survey.dead:
            self._directory.unlink(name)
        self._survey.dead.clear()
        if self._index is None:
            return
        try:
            self._rebuild(self._index, self._survey)
        except OSError as error:
            self._broken = error
        else:
            self._survey = None

    def _rebuild(self, index: Index, survey: Survey) -> None:
        known = index.all_entries()
        for content, entries in survey.live.items():
            adopted = {
                name: entry if entry.boot else replace(entry, boot=self._site.boot) for name, entry in entries.items()
            }
            if adopted != known.get(content):
                index.set_entries(content, adopted)
        index.keep_only(survey.live)
        if self._state.boot != self._site.boot:
            for name in index.cooling_names():
                index.forget_cooling(name)
        self._state = State(_cookie(), self._directory.stamp()[1], self._site.boot, self._state.pools)
        index.set_state(self._state)
        self._mark()

    def last_reserved(self, position: int) -> str:
        """See Leases."""
        remembered = self._index.last(position) if self._index is not None and self._survey is None else None
        if remembered is not None:
            return remembered
        found = self._directory.read(f"{LAST}{position}")
        return found.content.decode("ascii", "replace") if found else ""

    def reserve(self, holder: Holder, name: str, position: int, owner: str) -> bool:
        """See Leases."""
        with naming(self._index_path, "write"):
            if self._broken is not None:
                raise self._broken
        content = holder.content
        boot, now_s = self._site.boot, round(self._site.clock(), 3)

        def before(token: str) -> None:
            with naming(self._index_path, "write"):
                self._note(content, {name: Entry(token, boot, now_s, owner, holder.attached)})

        with naming(f"{self._directory.path}/{name}", "reserve"):
            if not self._directory.create(name, content.encode("utf-8", "surrogateescape"), before):
                return False
            self._made.setdefault(content, {})[name] = self._noted[content][name]
        with naming(f"{self._directory.path}/{LAST}{position}", "write"):
            self._directory.overwrite(f"{LAST}{position}", name.encode())
        if self._index is not None:
            self._index.reserved(name, position)
        return True

    def _note(self, content: str, coming: dict[str, Entry]) -> None:
        """The index knows of a lease before it is there: one whose making is cut short is no stranger's."""
        if self._index is None:
            return
        if content not in self._known:
            self._known[content] = self._index.entries(content)
        entries = self._known[content] | self._made.get(content, {}) | coming
        self._index.set_entries(content, entries)
        self._noted[content] = entries

    def release(self, lease: Lease, delay_s: int) -> None:
        """See Leases."""
        with naming(f"{self._directory.path}/{lease.name}", "release"):
            if not self._holds(lease.name, lease.content):
                self._released.setdefault(lease.content, set()).add(lease.name)  # the index may think otherwise
                return
            if delay_s and self._index is not None:
                with suppress(OSError):  # a full disk: better given too early than kept for ever
                    self._index.cool(lease.name, self._site.boot, self._site.clock())
            self._directory.unlink(lease.name)
            if self._index is not None:
                self._index.released(lease.name)
            self._released.setdefault(lease.content, set()).add(lease.name)

    def cooling_left(self, name: str, delay_s: int) -> float:
        """See Leases."""
        left = self._left(name, delay_s)
        if not left and self._index is not None:
            with suppress(OSError):
                self._index.forget_cooling(name)
        return left

    def remember(self, pools: tuple[Pool, ...]) -> None:
        """See Leases."""
        self._pools = pools

    def commit(self) -> None:
        """The index knows what was done, and the mark says so. Raises OSError if something was reserved in vain."""
        try:
            if self._index is not None and self._broken is None:
                self._write_index(self._index)
        except OSError:
            if self._made:
                raise
            if self._index is not None:
                self._index.forget()
            # What was released is released; without the mark the next call rebuilds the index.

    def undo(self) -> None:
        """What was reserved here is not. A file that resists is left without a mark, so that the index finds it."""
        if self._index is not None:
            self._index.forget()
        failed = False
        for entries in self._made.values():
            for name in entries:
                try:
                    self._directory.unlink(name)
                except OSError:
                    failed = True
        if self._noted and not (failed or self._released or self._survey):
            with suppress(OSError):
                for content, entries in self._known.items():
                    if self._index is not None:
                        self._index.set_entries(content, entries)
                self._mark()

    def _write_index(self, index: Index) -> None:
        for content in self._made.keys() | self._released.keys():
            gone = self._released.get(content, set())
            before = self._known[content] if content in self._known else index.entries(content)
            kept = {name: entry for name, entry in before.items() if name not in gone}
            entries = kept | self._made.get(content, {})
            if entries != self._noted.get(content):
                index.set_entries(content, entries)
        if self._pools != self._state.pools:
            self._state = replace(self._state, pools=self._pools)
            index.set_state(self._state)
        if self._made or self._released:
            self._mark()

    def _mark(self) -> None:
        self._directory.set_mtime(self._state.cookie_ns)


def _paths(data_dir: str, network: str) -> tuple[str, str]:
    # `network` begins with a letter or digit (spec.request), so it is one component and neither .. nor .cni-py.
    root = os.path.normpath(data_dir)
    return f"{root}/{network}", f"{root}/.cni-py/{network}"


def _cookie() -> int:
    # A moment between 1902 and 1969 in nanoseconds, another for each index.
    seconds = 86400 + int.from_bytes(os.urandom(4), "big") % (2**31 - 2 * 86400)
    return -seconds * 10**9 + int.from_bytes(os.urandom(4), "big") % 10**9
