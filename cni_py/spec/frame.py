"""Frames between a forwarder and the agent: docs/agent-protocol.md as code. Bytes in, values out; no I/O."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from cni_py.model.errors import DecodeError, PluginError
from cni_py.spec.gojson import MAX_BYTES

SOCKET = "/run/cni-py/agent.sock"
SPOOL = "/run/cni-py/del"

VERSION = 1
HEADER_BYTES = 16
MAX_HEAD = 1 << 20
MAX_BODY = MAX_BYTES + 1  # one more than a configuration may have, so that the agent sees that it has more

FORWARDED = (
    "CNI_COMMAND",
    "CNI_CONTAINERID",
    "CNI_NETNS",
    "CNI_IFNAME",
    "CNI_ARGS",
    "CNI_PATH",
    "CNI_NETNS_OVERRIDE",
    "TRACEPARENT",
)

NOT_FOUND, NOT_EXECUTABLE = -1, -2  # of RAN

_MAGIC = b"cnpy"
_HEADER = struct.Struct("=4sBBHII")
_STATUS = struct.Struct("=i")


class Kind(IntEnum):
    """What a frame is."""

    CALL = 1
    RUN = 2
    RAN = 3
    ANSWER = 4
    REPORT = 5


@dataclass(frozen=True, slots=True)
class Header:
    """The first 16 bytes; lengths in bytes."""

    kind: Kind
    head: int
    body: int


def pack(kind: Kind, head: bytes = b"", body: bytes = b"") -> bytes:
    """One frame."""
    return b"".join((_HEADER.pack(_MAGIC, VERSION, kind, 0, len(head), len(body)), head, body))


def pack_call(name: str, environ: Mapping[str, str], stdin: bytes, kind: Kind = Kind.CALL) -> bytes:
    """A CALL (or RUN) of the plugin `name` with the variables of `environ`."""
    strings = (name, *(f"{key}={value}" for key, value in environ.items()))
    return pack(kind, b"".join(one.encode("utf-8", "surrogateescape") + b"\0" for one in strings), stdin)


def pack_status(kind: Kind, status: int, stdout: bytes) -> bytes:
    """An ANSWER or a RAN."""
    return pack(kind, _STATUS.pack(status), stdout)


def forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that go into a CALL."""
    return {name: environ[name] for name in FORWARDED if name in environ}


def parse_header(data: bytes) -> Header:
    """The header in the first 16 bytes. Raises PluginError for another version, DecodeError for all else."""
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
        raise DecodeError("this is no frame of cni-py", "something else than cni-py's forwarder speaks here")
    _, version, kind, _, head, body = _HEADER.unpack_from(data)
    if version != VERSION or kind not in _KINDS:
        older = "forwarder" if version < VERSION else "agent"
        raise PluginError(
            f"frame of protocol version {version}, kind {kind}; here it is version {VERSION}",
            f"the {older} is older: install the shim and the agent of one release (cni-py install)",
        )
    if head > MAX_HEAD or body > MAX_BODY:
        raise DecodeError(f"a frame of {head} and {body} bytes", f"at most {MAX_HEAD} and {MAX_BODY} are allowed")
    return Header(Kind(kind), head, body)


_KINDS = frozenset(Kind)


def parse_call(head: bytes) -> tuple[str, dict[str, str]]:
    """The plugin's name and its variables. Raises DecodeError."""
    name, *rest = parse_strings(head)
    environ = {}
    for one in rest:
        key, equals, value = one.partition("=")
        if not equals:
            raise DecodeError("a CALL with a variable that has no value", "the forwarder is broken")
        environ[key] = value
    return name, environ


def parse_strings(head: bytes) -> Iterable[str]:
    """Strings that are each ended by NUL; at least one. Raises DecodeError."""
    if not head.endswith(b"\0"):
        raise DecodeError("a frame whose strings do not end", "the sender is broken")
    return head[:-1].decode("utf-8", "surrogateescape").split("\0")


def parse_status(head: bytes) -> int:
    """The number in an ANSWER or a RAN. Raises DecodeError."""
    if len(head) != _STATUS.size:
        raise DecodeError("an answer without a status", "the sender is broken")
    return int(_STATUS.unpack(head)[0])
