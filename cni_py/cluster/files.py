"""Nodes from a directory: a file each, `NAME.yaml`, `NAME.yml` or `NAME.json`, that holds the node's record.

The operator (or a tool like Ansible) writes them on every node, this one's among them: it is what assigns its pod
networks. Changes are taken when a file is closed or renamed into place. Nothing is written here.
"""

import os
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import MappingProxyType

from cni_py.cluster.follow import Follower
from cni_py.cluster.plain_file import content
from cni_py.cluster.record import MAX_BYTES, from_document, parse, shown
from cni_py.model.errors import DecodeError, IOFailureError
from cni_py.model.overlay import Node
from cni_py.model.peers import Sink, View

_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_FILES = 20_000


class FileSource:
    """A `model.peers.Source`. While the directory cannot be read, what it held last goes on to count."""

    def __init__(self, directory: Path, cluster: str) -> None:
        self._directory = directory
        self._cluster = cluster
        self._nodes: dict[str, Node] = {}
        self._skipped: dict[str, str] = {}
        self._names: dict[str, str] = {}  # {file: the node it is taken for}
        self._sink: Sink
        self._spoken = False
        self._follower = Follower(directory, self._look, self._trouble)

    def start(self, sink: Sink) -> None:
        """See Source. Raises IOFailureError if the directory cannot be read now."""
        try:
            with os.scandir(self._directory):
                pass
        except OSError as error:
            raise IOFailureError(
                f"cannot read the directory of nodes {self._directory}: {error.strerror}",
                "make it, with one file NAME.yaml for each node: see docs/backends.md",
            ) from None
        self._sink = sink
        self._follower.start()

    def publish(self, node: Node) -> None:
        """See Source. The files are the operator's: nothing is written."""

    def joined(self) -> None:
        """See Source."""

    def stop(self) -> None:
        """See Source."""
        self._follower.stop()

    def _look(self, names: AbstractSet[str] | None) -> None:
        """Those files, or all. Raises OSError."""
        changed = self._read_all() if names is None else sum(self._read(name) for name in sorted(names)) > 0
        if changed or not self._spoken:
            self._spoken = True
            nodes, skipped = MappingProxyType(dict(self._nodes)), MappingProxyType(dict(self._skipped))
            self._sink.changed(View(nodes, skipped))

    def _trouble(self, reason: str) -> None:
        self._sink.trouble(reason)

    def _read_all(self) -> bool:
        """True if anything is another than before. Raises OSError."""
        before = self._nodes, self._skipped
        self._nodes, self._skipped, self._names = {}, {}, {}
        with os.scandir(self._directory) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names[:_MOST_FILES]:
            self._read(name)
        if len(names) > _MOST_FILES:
            self._skipped[str(self._directory)] = f"more than {_MOST_FILES} files: those after them are not read"
        return before != (self._nodes, self._skipped)

    def _read(self, name: str) -> bool:
        """One file, read or gone; True if it says anything new."""
        stem, suffix = Path(name).stem, Path(name).suffix
        if suffix not in _SUFFIXES or name.startswith("."):
            return False
        path = self._directory / name
        before = self._nodes.get(self._names.get(name, "")), self._skipped.pop(name, None)
        self._nodes.pop(self._names.pop(name, ""), None)
        try:
            node = self._node(path, stem, suffix)
        except DecodeError as error:
            self._skipped[name] = error.message
            node = None
        if node is not None:
            self._nodes[stem] = node
            self._names[name] = stem
        return before != (node, self._skipped.get(name))

    def _node(self, path: Path, stem: str, suffix: str) -> Node | None:
        """None if there is no such file. Raises DecodeError."""
        if stem in self._nodes:
            raise DecodeError(f"there is another file for the node {shown(stem)}")
        try:
            data = content(path, MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DecodeError(f"it cannot be read: {error.strerror}") from None
        if suffix == ".json":
            return parse(data, stem, self._cluster)
        from cni_py.cluster.yaml_text import load_yaml  # noqa: PLC0415  # 3 MiB that JSON needs not

        return from_document(load_yaml(data), stem, self._cluster)
