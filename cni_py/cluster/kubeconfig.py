"""kubeconfig files, as far as an agent needs them: a server, its CA, and a token or a client certificate."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cni_py.cluster.kube_access import KubeAccess
from cni_py.model.errors import InvalidConfigError, IOFailureError

_CLUSTER = {"server", "certificate-authority", "certificate-authority-data"}
_USER = {"token", "tokenFile", "client-certificate", "client-certificate-data", "client-key", "client-key-data"}
_HARMLESS = {"extensions", "disable-compression"}


def from_kubeconfig(path: Path, node: str, cluster: str) -> KubeAccess:
    """The access of the file's current context. Raises IOFailureError, or InvalidConfigError for what we cannot do."""
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise IOFailureError(f"kubeconfig {path}: {error.strerror}", "give a file that can be read") from None
    except (yaml.YAMLError, ValueError):
        raise _wrong(path, "is no YAML") from None
    if not isinstance(document, dict):
        raise _wrong(path, "is no mapping")
    context = _entry(path, document, "context", document.get("current-context"))
    server = _entry(path, document, "cluster", context.get("cluster"))
    user = _entry(path, document, "user", context.get("user"))
    _known(path, "cluster", server, _CLUSTER)
    _known(path, "user", user, _USER)
    if not isinstance(server.get("server"), str):
        raise _wrong(path, "has no server in its cluster")
    token = user.get("token")
    return KubeAccess(
        server["server"].rstrip("/"),
        node,
        cluster,
        ca=_material(path, server, "certificate-authority"),
        token=token.encode() if isinstance(token, str) and token else _file(path, user, "tokenFile"),
        certificate=_material(path, user, "client-certificate"),
        key=_material(path, user, "client-key"),
    )


def _entry(path: Path, document: Mapping[str, Any], kind: str, name: object) -> Mapping[str, Any]:
    """What the list of that kind has under the name."""
    entries = document.get(f"{kind}s")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(kind), dict):
            found: dict[str, Any] = entry[kind]
            return found
    raise _wrong(path, f"has no {kind} of the name {name!r}")


def _known(path: Path, kind: str, entry: Mapping[str, Any], keys: Iterable[str]) -> None:
    foreign = [key for key in entry if key not in keys and key not in _HARMLESS and entry[key] not in (None, False, "")]
    if foreign:
        raise InvalidConfigError(
            f"kubeconfig {path}: {', '.join(map(str, foreign))} of its {kind} is not supported",
            "use a server with its certificate-authority, and a token or a client certificate with its key;"
            " a ServiceAccount's token does",
        )


def _material(path: Path, entry: Mapping[str, Any], key: str) -> Path | bytes | None:
    """Content, which goes before a file as with everybody else."""
    data = entry.get(f"{key}-data")
    if not data:
        return _file(path, entry, key)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _wrong(path, f"has a {key}-data that is no base64") from None


def _file(path: Path, entry: Mapping[str, Any], key: str) -> Path | None:
    """A file, seen from the kubeconfig's directory."""
    value = entry.get(key)
    if not value:
        return None
    if not isinstance(value, str):
        raise _wrong(path, f"has a {key} that is no path")
    return path.parent / value


def _wrong(path: Path, what: str) -> InvalidConfigError:
    return InvalidConfigError(f"kubeconfig {path} {what}", "correct it, or give another")
