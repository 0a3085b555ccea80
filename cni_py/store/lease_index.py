"""The side index of one network: who holds what, known without reading every lease.

It lies in `<dataDir>/.cni-py/<network>`, where no network can be and host-local never looks:

    held.<holder>    one file for each content of reservations (one container's interface): its leases as JSON
    cool.<address>   boot ID and CLOCK_BOOTTIME of the address's release
    state            JSON: the cookie, the boot of the last change, the pools last seen

The index is a hint: it says where to look, and what it says is verified against the reservation file before it is acted
upon. Deleting it loses ages and cooling times, never an address.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cni_py.model.lease import Pool
from cni_py.store.lease_disk import Directory, File, is_temporary

_COOLING = "cool."
_HELD = "held."
# Contents that can be read off the file's name: a container ID, alone or with an interface behind a comma.
_PLAIN = re.compile(r"[a-zA-Z0-9_.\-]{1,180}(\r\n[^/\0,]{1,15})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one lease beyond its file: the file's token, and see `model.lease.Lease`."""

    token: str
    boot: str
    created_s: float | None = None
    owner: str = ""
    attached: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """`cookie_ns` is the mtime of the network's directory `inode` if nobody but us changed it since; 0 if never set."""

    cookie_ns: int = 0
    inode: int = 0
    boot: str = ""
    pools: tuple[Pool, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """The index's directory, opened under the network's lock."""

    directory: Directory = field(repr=False)

    def state(self) -> State:
        """The state; an empty one if it is missing or torn."""
        document = _load(self.directory.read("state"))
        try:
            pools = tuple(Pool(str(ranges), int(size)) for ranges, size in document["pools"])
            return State(int(document["cookie_ns"]), int(document["inode"]), str(document["boot"]), pools)
        except (KeyError, TypeError, ValueError):
            return State()

    def set_state(self, state: State) -> None:
        """`state` is what the next call finds."""
        pools = [[pool.ranges, pool.size] for pool in state.pools]
        self._store("state", {"cookie_ns": state.cookie_ns, "inode": state.inode, "boot": state.boot, "pools": pools})

    def entries(self, content: str) -> dict[str, Entry]:
        """{name: Entry} of the leases with this content, as far as known."""
        return _entries(_load(self.directory.read(_key(content))), content)

    def set_entries(self, content: str, entries: dict[str, Entry]) -> None:
        """The leases with this content are `entries`."""
        if not entries:
            self.directory.unlink(_key(content))
            return
        leases = {name: [one.token, one.boot, one.created_s, one.owner, one.attached] for name, one in entries.items()}
        self._store(_key(content), {"content": content, "leases": leases})

    def all_entries(self) -> dict[str, dict[str, Entry]]:
        """{content: {name: Entry}} of everything that is known; O(n)."""
        found: dict[str, dict[str, Entry]] = {}
        for name in self.directory.names():
            if name.startswith(_HELD):
                document = _load(self.directory.read(name))
                content = document.get("content")
                if isinstance(content, str):
                    found[content] = _entries(document, content)
        return found

    def known(self) -> dict[str, dict[str, Entry]]:
        """The same, from memory if it is there."""
        return self.all_entries()

    def keep_only(self, contents: Iterable[str]) -> None:
        """Files that describe no content of `contents`, and what a stop left behind, are gone."""
        keep = {_key(content) for content in contents}
        for name in self.directory.names():
            if (name.startswith(_HELD) and name not in keep) or is_temporary(name):
                self.directory.unlink(name)

    def taken(self, version: int) -> set[int] | None:  # noqa: ARG002  # for those that remember
        """The addresses of a family that are taken, if that is remembered."""
        return None

    def last(self, position: int) -> str | None:  # noqa: ARG002  # as above
        """The address that was reserved last in a set, if that is remembered."""
        return None

    def reserved(self, name: str, position: int) -> None:
        """The address was reserved in that set."""

    def released(self, name: str) -> None:
        """The address was released."""

    def forget(self) -> None:
        """Nothing that is remembered holds any more."""

    def cool(self, name: str, boot: str, now_s: float) -> None:
        """The address was released now."""
        self.directory.replace(f"{_COOLING}{name}", f"{boot} {now_s}".encode())

    def released_s(self, name: str, boot: str) -> float | None:
        """CLOCK_BOOTTIME of the address's release in this boot, None if there was none."""
        found = self.directory.read(f"{_COOLING}{name}")
        if found is None:
            return None
        released_in, _, moment = found.content.decode("ascii", "replace").partition(" ")
        try:
            return float(moment) if released_in == boot else None
        except ValueError:
            return None

    def forget_cooling(self, name: str) -> None:
        """The address is not cooling down."""
        self.directory.unlink(f"{_COOLING}{name}")

    def cooling_names(self) -> list[str]:
        """The addresses that have been released with a delay, perhaps long ago; O(n)."""
        return [name.removeprefix(_COOLING) for name in self.directory.names() if name.startswith(_COOLING)]

    def _store(self, name: str, document: dict[str, object]) -> None:
        # Torn, it is as good as missing: while it is written the mark is not set, so the index counts for nothing.
        content = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")
        if not self.directory.create_plainly(name, content):
            self.directory.replace(name, content)


def _key(content: str) -> str:
    if _PLAIN.fullmatch(content):
        return _HELD + content.replace("\r\n", ",")
    import hashlib  # noqa: PLC0415  # loads OpenSSL, and only a foreign file has such a content

    digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{_HELD},{digest}"  # no container ID is empty, so this is nobody's plain name


def _load(found: File | None) -> dict[str, Any]:
    try:
        document = json.loads(found.content.decode("utf-8", "surrogateescape")) if found else {}
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _entries(document: dict[str, Any], content: str) -> dict[str, Entry]:
    leases = document.get("leases")
    if document.get("content") != content or not isinstance(leases, dict):
        return {}
    entries: dict[str, Entry] = {}
    for name, fields in leases.items():
        match fields:
            case [str(token), str(boot), float() | int() | None as created_s, str(owner), str(attached)]:
                entries[name] = Entry(token, boot, created_s, owner, attached)
            case _:
                pass
    return entries
