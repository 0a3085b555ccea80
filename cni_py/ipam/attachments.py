"""GC's list of the attachments that are still valid (SPEC 1.1 section 2 GC, `cni.dev/valid-attachments`)."""

from collections.abc import Mapping
from typing import Any

from cni_py.model.errors import DecodeError
from cni_py.model.lease import Holder
from cni_py.spec import gojson

# libcni sends the second as well, misspelt in its first release with GC; the first counts if both are there.
KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")


def valid_contents(config: Mapping[str, Any]) -> frozenset[str] | None:
    """The contents of the leases to keep; None if the list is absent (libcni without arguments): nothing is garbage.

    `null` and `[]` are lists of none: CRI-O sends null when no pod is left. Raises DecodeError for another shape, as
    releasing by a list half understood would take addresses from running containers.
    """
    sent = {gojson.fold(key): value for key, value in config.items()}
    key = next((key for key in KEYS if key in sent), None)
    if key is None:
        return None
    entries = sent[key] if sent[key] is not None else []
    if not isinstance(entries, list):
        raise _wrong(key)
    contents: set[str] = set()
    for entry in entries:
        if not isinstance(entry, dict):
            raise _wrong(key)
        holder = Holder(gojson.get_string(entry, "containerID"), gojson.get_string(entry, "ifname"))
        if not holder.container_id:
            raise _wrong(key)
        contents |= {holder.content, holder.old_content}
    return frozenset(contents)


def _wrong(key: str) -> DecodeError:
    return DecodeError(
        f"error unmarshall network config: {key} must be an array of objects with containerID and ifname",
        "nothing was released",
    )
