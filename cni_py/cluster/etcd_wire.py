"""What etcd's JSON gateway says, as values. Numbers are strings of digits there, bytes are base64; zero is left out."""

from typing import TypeVar

import msgspec

from cni_py.model.errors import DecodeError


class KeyValue(msgspec.Struct, frozen=True):
    """A key as it is at a revision. `lease` 0: it stays until somebody deletes it."""

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class Header(msgspec.Struct, frozen=True):
    """The store's revision when it answered."""

    revision: int = 0


class RangeAnswer(msgspec.Struct, frozen=True):
    """Keys in order; `more`: there are others behind them."""

    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()
    more: bool = False


class TxnAnswer(msgspec.Struct, frozen=True):
    """Whether the compares held."""

    header: Header = Header()
    succeeded: bool = False


class LeaseAnswer(msgspec.Struct, frozen=True):
    """A lease, and how many seconds it has now; 0 if it is gone."""

    ID: int = 0
    TTL: int = 0


class KeepAnswer(msgspec.Struct, frozen=True):
    """A stream's first line."""

    result: LeaseAnswer = LeaseAnswer()


class TokenAnswer(msgspec.Struct, frozen=True):
    """Who has it is the user."""

    token: str = ""


class Event(msgspec.Struct, frozen=True):
    """A key was written, or `type` is DELETE."""

    kv: KeyValue
    type: str = "PUT"


class WatchAnswer(msgspec.Struct, frozen=True):
    """Events, or that the watch began or ended; nothing of these is a sign of life."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: tuple[Event, ...] = ()
    fragment: bool = False


class WatchLine(msgspec.Struct, frozen=True):
    """A line of a watch."""

    result: WatchAnswer | None = None
    error: msgspec.Raw | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why not, with gRPC's number for it."""

    message: str = ""
    error: str = ""
    code: int = 0
    grpc_code: int = 0


Answer = TypeVar("Answer", bound=msgspec.Struct)


def decode(data: bytes, kind: type[Answer]) -> Answer:
    """The answer. Raises DecodeError if it is none."""
    try:
        return msgspec.json.decode(data, type=kind, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"this is no answer of etcd's JSON gateway: {ascii(str(error))[:120]}") from None
