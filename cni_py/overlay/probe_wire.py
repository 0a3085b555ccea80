"""A probe on the wire: a request of any size and its answer, which is never larger than the request.

    magic "CNIP", version, kind, bytes of the request, sequence, token; then zeros up to the bytes that it says

A token is random and counts once, so that only who saw a request can answer it.
"""

import struct
from dataclasses import dataclass
from typing import Literal

Kind = Literal["request", "answer"]
VERSION = 1

_MAGIC = b"CNIP"
_FORM = struct.Struct("!4sBBHIQ")
_CODES: dict[Kind, int] = {"request": 1, "answer": 2}
_KINDS: dict[int, Kind] = {code: kind for kind, code in _CODES.items()}
BYTES = _FORM.size  # of an answer, and of the smallest request
MOST_BYTES = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class Probe:
    """`size` is the UDP payload of the request, also in its answer."""

    kind: Kind
    size: int
    sequence: int
    token: int


def render(probe: Probe) -> bytes:
    """The datagram; of a request as large as it says."""
    head = _FORM.pack(_MAGIC, VERSION, _CODES[probe.kind], probe.size, probe.sequence & 0xFFFFFFFF, probe.token)
    return head.ljust(probe.size, b"\0") if probe.kind == "request" else head


def parse(data: bytes | memoryview) -> Probe | None:
    """What the datagram says; None for what is no probe of this version, or is not as long as it says."""
    if len(data) < BYTES:
        return None
    magic, version, code, size, sequence, token = _FORM.unpack_from(data)
    kind = _KINDS.get(code)
    if magic != _MAGIC or version != VERSION or kind is None or size < BYTES:
        return None
    if len(data) != (size if kind == "request" else BYTES):
        return None
    return Probe(kind, size, sequence, token)


def quoted(data: bytes | memoryview) -> int | None:
    """The token of a request that an ICMP error quotes, often in part only; None if it is none of ours."""
    if len(data) < BYTES:
        return None
    magic, version, code, _, _, token = _FORM.unpack_from(data)
    return int(token) if (magic, version, code) == (_MAGIC, VERSION, _CODES["request"]) else None


def answer_to(request: Probe) -> Probe:
    """What is sent back."""
    return Probe("answer", request.size, request.sequence, request.token)
