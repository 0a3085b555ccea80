"""Environment and stdin to a Request: the checks that every verb of every plugin has in common.

The order of the checks and their texts are the reference's (cni v1.3.1 pkg/skel), so that a caller that looks at one
sees no difference; SPEC 1.1 section 2 "Parameters" is the source. `tests/vectors/request` holds a case for each rule.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cni_py.model.errors import BadEnvironmentError, DecodeError, IncompatibleVersionError, InvalidConfigError
from cni_py.spec import gojson, versions
from cni_py.spec.memo import Memo

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

# The verbs that must have the variable. ARGS and NETNS_OVERRIDE are never required.
_REQUIRED: tuple[tuple[str, frozenset[str]], ...] = (
    ("CNI_CONTAINERID", frozenset({"ADD", "CHECK", "DEL"})),
    ("CNI_NETNS", frozenset({"ADD", "CHECK"})),
    ("CNI_IFNAME", frozenset({"ADD", "CHECK", "DEL"})),
    ("CNI_PATH", frozenset({"ADD", "CHECK", "DEL", "GC", "STATUS"})),
)
# The version from which on a verb exists; ADD, DEL and VERSION always did.
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

_NO_CONFIG: tuple[dict[str, Any], str, str] = ({}, "", "0.1.0")
_decoded: Memo[tuple[dict[str, Any], str, str]] = Memo()

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a plugin, checked as far as is possible without its own schema.

    `config` is stdin decoded, its keys as they were sent; `stdin` the same as bytes, which a delegate gets unchanged.
    `netns` is CNI_NETNS verbatim (may be empty on DEL), `path` the directories of CNI_PATH, `args` CNI_ARGS verbatim.
    """

    command: str
    container_id: str
    ifname: str
    netns: str
    path: tuple[str, ...]
    args: str
    netns_override: bool
    network: str
    cni_version: str
    config: Mapping[str, Any]
    stdin: bytes


def parse_request(environ: Mapping[str, str], read_stdin: Callable[[], bytes]) -> Request:
    """The request in `environ` and stdin. VERSION never reads stdin.

    Raises BadEnvironmentError, IOFailureError (from `read_stdin`), DecodeError, InvalidConfigError,
    IncompatibleVersionError.
    """
    command = environ.get("CNI_COMMAND", "")
    _check_environment(command, environ)
    stdin = b"" if command == "VERSION" else read_stdin()
    config, network, cni_version = _NO_CONFIG
    if command != "VERSION":
        config, network, cni_version = _decoded.get(stdin, lambda: _decode(stdin))
    if command not in COMMANDS:
        raise BadEnvironmentError(f"unknown CNI_COMMAND: {command}", f"known are {', '.join(COMMANDS)}")
    if command != "VERSION":
        _check_version(command, cni_version)
    return Request(
        command=command,
        container_id=environ.get("CNI_CONTAINERID", ""),
        ifname=environ.get("CNI_IFNAME", ""),
        netns=environ.get("CNI_NETNS", ""),
        path=tuple(part for part in environ.get("CNI_PATH", "").split(":") if part),
        args=environ.get("CNI_ARGS", ""),
        netns_override=environ.get("CNI_NETNS_OVERRIDE", "").upper() in ("1", "TRUE"),
        network=network,
        cni_version=cni_version,
        config=config,
        stdin=stdin,
    )


def _decode(stdin: bytes) -> tuple[dict[str, Any], str, str]:
    """The configuration, its network's name, checked, and its `cniVersion`."""
    config = gojson.decode(stdin)
    network = gojson.get_string(config, "name")
    _check_network_name(network)
    return config, network, gojson.get_string(config, "cniVersion") or "0.1.0"


def version_hint(stdin: bytes) -> str:
    """The `cniVersion` for an error document: the configuration's if it can be had, else our newest."""
    try:
        version = gojson.get_string(gojson.decode(stdin), "cniVersion") or "0.1.0"
    except DecodeError:
        return versions.CURRENT
    return version if version in versions.SUPPORTED else versions.CURRENT


def _check_environment(command: str, environ: Mapping[str, str]) -> None:
    missing = [] if command else ["CNI_COMMAND"]
    for name, commands in _REQUIRED:
        value = environ.get(name, "")
        if command not in commands:
            continue
        if not value:
            missing.append(name)
        elif name == "CNI_CONTAINERID":
            _check_container_id(value)
        elif name == "CNI_IFNAME":
            check_ifname(value)
    if missing:
        raise BadEnvironmentError(f"required env variables [{','.join(missing)}] missing")


def _check_container_id(value: str) -> None:
    if not _NAME.fullmatch(value):  # fullmatch: `$` would accept a newline at the end
        raise BadEnvironmentError("invalid characters in containerID", value)


def _check_network_name(value: str) -> None:
    if not value:
        raise InvalidConfigError("missing network name", 'the configuration needs a "name"')
    if not _NAME.fullmatch(value):
        raise InvalidConfigError("invalid characters found in network name", value)


def check_ifname(value: str) -> None:
    """Raise BadEnvironmentError unless the kernel and the spec allow `value` as the name of an interface."""
    if any("\ud800" <= char <= "\udfff" for char in value):  # how Python shows bytes that are no UTF-8
        raise BadEnvironmentError("interface name is not UTF-8", repr(value))
    if len(value.encode()) > 15:
        raise BadEnvironmentError("interface name is too long", "interface name should be less than 16 characters")
    if value in (".", ".."):
        raise BadEnvironmentError("interface name is . or ..")
    if any(char in "/:" or char.isspace() for char in value):
        raise BadEnvironmentError("interface name contains / or : or whitespace characters")


def _check_version(command: str, cni_version: str) -> None:
    since = _SINCE.get(command)
    if since is not None:
        if not versions.at_least(cni_version, since):
            raise IncompatibleVersionError(f"config version does not allow {command}", f"it came with CNI {since}")
        if not versions.at_least(versions.CURRENT, cni_version):
            raise IncompatibleVersionError(f"plugin version does not allow {command}")
    if cni_version not in versions.SUPPORTED:
        supported = " ".join(f'"{version}"' for version in versions.SUPPORTED)
        raise IncompatibleVersionError(
            "incompatible CNI versions", f'config is "{cni_version}", plugin supports [{supported}]'
        )
