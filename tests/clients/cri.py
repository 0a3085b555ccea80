"""The kubelet's side of the CRI: unary gRPC calls over a Unix socket, with what they need of HTTP/2 and protobuf.

The service answers a call with response headers, one message and trailers, or with trailers alone if it failed
(RFC 9113; gRPC over HTTP/2). Header blocks are compressed and not read: a call failed if there is no message, and
containerd's log says why. Messages are trees of `{field number: value}`; of answers only texts and messages are read.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

# An integer, a text, a message, or several of these.
Value: TypeAlias = "int | str | Message | list[int | str | Message]"
Message: TypeAlias = dict[int, "Value"]

_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def encode(message: Message) -> bytes:
    """A message as protobuf."""
    return b"".join(_field(number, one) for number, value in message.items() for one in _listed(value))


def _listed(value: Value) -> "list[int | str | Message]":
    return value if isinstance(value, list) else [value]


def _field(number: int, value: "int | str | Message") -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else encode(value)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def fields(data: bytes) -> dict[int, list[bytes]]:
    """{field number: contents} of a message, of strings and messages; numbers are left out."""
    found: dict[int, list[bytes]] = {}
    at = 0

    def take() -> int:
        nonlocal at
        value = shift = 0
        while True:
            at += 1
            value |= (data[at - 1] & 0x7F) << shift
            shift += 7
            if data[at - 1] < 0x80:
                return value

    while at < len(data):
        key = take()
        length_or_value = take()
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(data[at : at + length_or_value])
            at += length_or_value
    return found


def call(path: Path, method: str, message: Message) -> dict[int, list[bytes]]:
    """The answer of the runtime service to one call, on a connection of its own. Raises AssertionError if it failed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        body = encode(message)
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/runtime.v1.RuntimeService/{method}",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, block)
            + _frame(_DATA, _END_STREAM, 1, b"\0" + len(body).to_bytes(4, "big") + body)
        )
        answer = b"".join(_answer(connection))
    assert answer, f"{method} failed, see containerd's log"
    return fields(answer[5 : 5 + int.from_bytes(answer[1:5], "big")])


def _text(text: str) -> bytes:
    """A header's name or value, shorter than 127 bytes, not compressed."""
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _answer(connection: socket.socket) -> Iterator[bytes]:
    """The data of stream 1 until it ends."""
    with connection.makefile("rb") as reader:
        while True:
            head = reader.read(9)
            payload = reader.read(int.from_bytes(head[:3], "big"))
            kind, flags = head[3], head[4]
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind == _DATA:
                yield payload
            if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
                return
