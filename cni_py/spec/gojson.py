"""JSON as Go's encoding/json reads it, since that is what every runtime was tried against.

Keys match without regard to case (containerd's structs have no JSON tags: it sends `HostPort`), `null` means unset,
and of two keys that name the same field the last one counts. What Go accepts by accident is refused here: NaN, invalid
UTF-8, a byte order mark.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cni_py.model.errors import DecodeError

MAX_BYTES = 8 << 20  # a configuration with every result of a full node in it is below 1 MiB


def decode(data: bytes) -> dict[str, Any]:
    """The object in `data`. Raises DecodeError for all else; its message begins as the reference's does."""
    if len(data) > MAX_BYTES:
        raise DecodeError(
            f"error unmarshall network config: more than {MAX_BYTES} bytes on stdin",
            "check what the runtime sends; a network configuration has a few hundred bytes",
        )
    try:
        text = data.decode("utf-8")
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_late_nulls)
        if "\\ud" in text.lower():
            document = json.loads(_without_lone_surrogates(document))
    except UnicodeDecodeError as error:
        raise DecodeError(f"error unmarshall network config: not UTF-8 at byte {error.start}", _WHERE) from None
    except RecursionError:
        raise DecodeError("error unmarshall network config: nested too deeply", _WHERE) from None
    except ValueError as error:
        raise DecodeError(f"error unmarshall network config: {error}"[:300], _WHERE) from None
    if not isinstance(document, dict):
        raise DecodeError(f"error unmarshall network config: a JSON object is expected, not {_kind(document)}", _WHERE)
    return document


_WHERE = "stdin must hold one JSON object, the network configuration"


def _without_late_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of equal keys the last one counts, but `null` leaves the value that there is, as in Go."""
    obj: dict[str, Any] = {}
    for key, value in pairs:
        if value is not None or key not in obj:
            obj[key] = value
    return obj


def _without_lone_surrogates(document: object) -> str:
    """The document as JSON text in which each half of a surrogate pair is U+FFFD, as Go reads it."""
    text = json.dumps(document, ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"invalid number {name}")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def fold(key: str) -> str:
    """The form in which Go compares keys: simple case folding, so `ſ` is `s` but `ß` is not `ss`."""
    folded = key.casefold()
    return folded if len(folded) == len(key) else key.lower()


def fold_keys(obj: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """`obj` with each key that matches one of `known` spelled as there and unset (`null`) fields left out."""
    spelling = {fold(key): key for key in known}
    renamed: dict[str, Any] = {}
    for key, value in obj.items():
        name = spelling.get(fold(key), key)
        if value is None:  # as Go: null leaves the field as it was
            continue
        renamed[name] = value
    return renamed


def get(obj: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401  # decoded JSON has no type yet
    """The value that Go would put into the field `key`, None when unset."""
    wanted = fold(key)
    found = None
    for name, value in obj.items():
        if value is not None and fold(name) == wanted:
            found = value
    return found


def get_object(obj: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Like `get` for a field that is an object; `{}` when unset, DecodeError when it is something else."""
    value = get(obj, key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong_type(key, "an object", value)
    return value


def get_list(obj: Mapping[str, Any], key: str) -> list[Any]:
    """Like `get` for a field that is an array; `[]` when unset, DecodeError when it is something else."""
    value = get(obj, key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong_type(key, "an array", value)
    return value


def get_string(obj: Mapping[str, Any], key: str) -> str:
    """Like `get` for a field that is a string; `""` when unset, DecodeError when it is something else."""
    value = get(obj, key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(key, "a string", value)
    return value


def get_int(obj: Mapping[str, Any], key: str) -> int | None:
    """Like `get` for a field that is an integer; None when unset, DecodeError when it is something else."""
    value = get(obj, key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(key, "an integer", value)
    return value


def _wrong_type(key: str, expected: str, value: object) -> DecodeError:
    return DecodeError(f"error unmarshall network config: {key} must be {expected}, not {_kind(value)}", _WHERE)
