"""Lines out of pieces as they come, each an event of a watch; of a line that is too long only the beginning is kept."""

import re
from collections.abc import Iterator

MOST_BYTES = 4 << 20  # etcd takes 1.5 MiB for an object, which may be twice that as JSON
_BEGINNING_BYTES = 4096
_NAMED = re.compile(
    rb'"metadata":\{"name":"(?P<name>[-.:\w]{1,253})"(?:,"generateName":"[^"]*")?(?:,"namespace":"(?P<space>[-\w]+)")?'
)


class Lines:
    """Puts lines together. A line has `most` bytes at most."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._length = 0
        self._kept = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[bytes, int]]:
        """(line, its length) of all lines that the piece ends; what is longer than the line was more than allowed."""
        begin = 0
        while (end := piece.find(b"\n", begin)) >= 0:
            self._add(piece[begin:end])
            line, length = bytes(self._kept), self._length
            self._kept.clear()
            self._length = 0
            begin = end + 1
            if length:
                yield line, length
        self._add(piece[begin:])

    def _add(self, part: bytes) -> None:
        self._length += len(part)
        if self._length <= self._most:
            self._kept += part
        else:
            del self._kept[_BEGINNING_BYTES:]
            self._kept += part[: _BEGINNING_BYTES - len(self._kept)]


def deletion(beginning: bytes) -> bool:
    """True for an event that says that an object is gone."""
    return beginning.startswith(b'{"type":"DELETED"')


def named(beginning: bytes) -> str:
    """The key, NAME or NAMESPACE/NAME, of the object in what may be no JSON; "" if it does not show."""
    found = _NAMED.search(beginning[:_BEGINNING_BYTES])
    return key(found["name"].decode(), (found["space"] or b"").decode()) if found else ""


def key(name: str, namespace: str) -> str:
    """What an object of a kind goes by."""
    return f"{namespace}/{name}" if namespace else name
