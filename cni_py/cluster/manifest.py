"""One file of manifests: the objects that it describes, as plain documents, and what of it was not understood.

It is YAML of any number of documents, or JSON; an object may also be an item of a List. Kinds that are not asked for
are named and passed over: operators keep other things in such files as well.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cni_py.cluster.record import load_json, shown
from cni_py.cluster.yaml_text import load_yaml_stream
from cni_py.model.errors import DecodeError

KINDS = {"Namespace": "v1", "Pod": "v1", "NetworkPolicy": "networking.k8s.io/v1"}
MAX_BYTES = 4 << 20
SUFFIXES = (".yaml", ".yml", ".json")
_LIST = "List"
_DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object: `key` is NAMESPACE/NAME, or NAME of a Namespace; `document` is all of it, plain."""

    kind: str
    key: str
    document: Mapping[str, object]


def manifests(data: bytes, suffix: str) -> list[object]:
    """The documents of a file, those in Lists by themselves. Raises DecodeError if it is no JSON or YAML, or empty.

    An empty one is more often half of something than all that is meant.
    """
    documents = [load_json(data, "it")] if suffix == ".json" else load_yaml_stream(data)
    found = [document for document in documents if document is not None]
    if not found:
        raise DecodeError("it is empty; to take back what it held, remove it")
    return [item for document in found for item in _items(document)]


def manifest(document: object, kinds: Collection[str]) -> Manifest | str:
    """The object; or, if it is none of these kinds (of KINDS), what is passed over. Raises DecodeError."""
    if not isinstance(document, dict):
        raise DecodeError(f"{shown(document)} is no object of the API")
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str):
        raise DecodeError("an object without a kind and an apiVersion")
    if kind not in kinds:
        return f"the kind {shown(kind)} is passed over"
    if version != KINDS[kind]:
        raise DecodeError(f"a {kind} of {shown(version)}, only {KINDS[kind]} is known")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name or not isinstance(namespace, str | None):
        raise DecodeError(f"a {kind} without a name")
    key = name if kind == "Namespace" else f"{namespace or _DEFAULT_NAMESPACE}/{name}"
    return Manifest(kind, key, document)


def _items(document: object) -> Iterator[object]:
    """Those of a List, or the document itself. A list of one kind, as the API gives it, says so only once."""
    if not isinstance(document, dict) or not str(document.get("kind")).endswith(_LIST) or "items" not in document:
        yield document
        return
    items: Any = document["items"]
    if not isinstance(items, list | None):
        raise DecodeError(f"the items of a List are no list but {shown(items)}")
    kind = str(document["kind"]).removesuffix(_LIST)
    common = {"kind": kind, "apiVersion": document.get("apiVersion")} if kind else {}
    for item in items or ():
        yield {**common, **item} if isinstance(item, dict) else item
