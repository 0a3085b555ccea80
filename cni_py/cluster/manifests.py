"""Pods, Namespaces and NetworkPolicies from a directory of manifests, for nodes without a cluster.

Every file `*.yaml`, `*.yml` and `*.json` is read, again when it is closed or renamed into place. Of a file in which
something is wrong the good objects count, and of the others what it held last: an object goes when a file without
faults no longer has it, so that a slip of the pen opens nothing. Nothing is written here.
"""

import os
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from cni_py.cluster.follow import Follower
from cni_py.cluster.manifest import MAX_BYTES, SUFFIXES, Manifest, manifest, manifests
from cni_py.cluster.plain_file import content
from cni_py.cluster.record import shown
from cni_py.model.errors import DecodeError, IOFailureError

_MOST_FILES = 20_000
_MOST_REASONS = 5  # told of a file

T = TypeVar("T")
Parse = Callable[[object], T]
Changes = Mapping[str, Mapping[str, T | None]]
_Name = tuple[str, str]  # kind and key


@dataclass(frozen=True, slots=True)
class _File(Generic[T]):
    """What a file holds, by kind and key, and what is wrong with it, in words."""

    objects: Mapping[_Name, T] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()


class Manifests(Generic[T]):
    """Tells from a thread of its own what changes. While the directory cannot be read, what was told last counts.

    `parse` makes a value of a document, for each kind that is read; it raises DecodeError. `tell` gets what differs
    from what it was told before, {kind: {key: value, or None if it is gone}}, first of all everything, and by file what
    is wrong now; `trouble` why the directory cannot be read, "" once it can be again.
    """

    def __init__(
        self,
        directory: Path,
        parse: Mapping[str, Parse[T]],
        tell: Callable[[Changes[T], Mapping[str, str]], None],
        trouble: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._parse = parse
        self._tell = tell
        self._files: dict[str, _File[T]] = {}
        self._told: tuple[dict[_Name, T], dict[str, str]] | None = None
        self._follower = Follower(directory, self._read, trouble)

    def start(self) -> None:
        """From now on it tells. Raises IOFailureError if the directory cannot be read now."""
        try:
            with os.scandir(self._directory):
                pass
        except OSError as error:
            raise IOFailureError(
                f"cannot read the directory of manifests {self._directory}: {error.strerror}",
                "make it; it may be empty until there are policies",
            ) from None
        self._follower.start()

    def stop(self) -> None:
        """Nothing is told any more."""
        self._follower.stop()

    def _read(self, names: AbstractSet[str] | None) -> None:
        """Those entries, or all. Raises OSError."""
        excess = {}
        if names is None:
            with os.scandir(self._directory) as entries:
                found = sorted(entry.name for entry in entries if _is_manifest(entry.name))
            if len(found) > _MOST_FILES:
                excess[str(self._directory)] = f"more than {_MOST_FILES} files: those after them are not read"
            self._files = {name: self._files[name] for name in found if name in self._files}
            names = set(found[:_MOST_FILES])
        for name in filter(_is_manifest, names):
            self._read_file(name)
        self._compare(excess)

    def _read_file(self, name: str) -> None:
        before: _File[T] = self._files.pop(name, _File())
        try:
            documents = manifests(content(self._directory / name, MAX_BYTES), Path(name).suffix)
        except FileNotFoundError:
            return
        except OSError as error:
            self._files[name] = _File(before.objects, (f"it cannot be read: {error.strerror}",))
        except DecodeError as error:
            self._files[name] = _File(before.objects, (error.message,))
        else:
            self._files[name] = self._objects(documents, before.objects)

    def _objects(self, documents: list[object], before: Mapping[_Name, T]) -> _File[T]:
        objects: dict[_Name, T] = {}
        wrong: list[str] = []
        passed_over: list[str] = []
        for document in documents:
            try:
                found = manifest(document, self._parse)
                if isinstance(found, Manifest):
                    self._put(objects, found)
                else:
                    passed_over.append(found)
            except DecodeError as error:
                wrong.append(error.message)
        return _File({**before, **objects} if wrong else objects, (*wrong, *dict.fromkeys(passed_over)))

    def _put(self, objects: dict[_Name, T], found: Manifest) -> None:
        what = f"{found.kind} {shown(found.key)}"
        try:
            value = self._parse[found.kind](found.document)
        except DecodeError as error:
            raise DecodeError(f"{what}: {error.message}") from None
        if objects.setdefault((found.kind, found.key), value) is not value:
            raise DecodeError(f"{what} is there twice: the first one counts")

    def _compare(self, wrong: dict[str, str]) -> None:
        """Tells what is not as it was told."""
        objects: dict[_Name, T] = {}
        holder: dict[_Name, str] = {}
        for name, file in sorted(self._files.items()):
            reasons = list(file.wrong)
            for (kind, key), value in file.objects.items():
                first = holder.setdefault((kind, key), name)
                if first == name:
                    objects[kind, key] = value
                else:
                    reasons.append(f"{kind} {shown(key)} is in {shown(first)} already, and that one counts")
            if reasons:
                more = len(reasons) - _MOST_REASONS
                wrong[name] = "; ".join([*reasons[:_MOST_REASONS], *([f"and {more} more"] if more > 0 else [])])
        if self._told == (objects, wrong):
            return
        before = self._told[0] if self._told is not None else {}
        changes: dict[str, dict[str, T | None]] = {kind: {} for kind in self._parse}
        for kind, key in before.keys() - objects.keys():
            changes[kind][key] = None
        for (kind, key), value in objects.items():
            if (kind, key) not in before or before[kind, key] != value:
                changes[kind][key] = value
        self._told = objects, wrong
        self._tell(changes, wrong)


def _is_manifest(name: str) -> bool:
    return Path(name).suffix in SUFFIXES and not name.startswith(".")
