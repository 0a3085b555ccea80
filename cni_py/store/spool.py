"""DELs that forwarders wrote down while the agent was away (docs/agent-protocol.md): read in order, removed when done.

The directory is root's, but a file in it may be torn or anybody's: it is never followed, never waited for, and what is
no frame is removed.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from cni_py.model.errors import CniPyError
from cni_py.spec import frame
from cni_py.spec.frame import Kind

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_BYTES = frame.HEADER_BYTES + frame.MAX_HEAD + frame.MAX_BODY


@dataclass(frozen=True, slots=True)
class Spooled:
    """One call that waits: the plugin's name, its variables and stdin; `path` is where it is."""

    path: str
    name: str
    environ: dict[str, str]
    stdin: bytes


class Spool:
    """The spooled calls below one directory."""

    def __init__(self, directory: str = frame.SPOOL) -> None:
        self._directory = directory

    def pending(self) -> list[str]:
        """The names of what waits, in the order in which it is to be done."""
        try:
            return sorted(name for name in os.listdir(self._directory) if not name.startswith("."))
        except OSError:
            return []

    def calls(self) -> Iterator[Spooled]:
        """What waits, in order; what is no call is removed."""
        for name in self.pending():
            path = f"{self._directory}/{name}"
            try:
                data = _read(path)
            except OSError:
                continue
            call = _parse(path, data)
            if call is None:
                self.remove(path)
            else:
                yield call

    def remove(self, path: str) -> None:
        """It waits no more."""
        with suppress(OSError):
            os.unlink(path)


def _read(path: str) -> bytes:
    fd = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return os.read(fd, _MAX_BYTES)
    finally:
        os.close(fd)


def _parse(path: str, data: bytes) -> Spooled | None:
    try:
        header = frame.parse_header(data)
        end = frame.HEADER_BYTES + header.head
        if header.kind is not Kind.CALL or len(data) != end + header.body:
            return None
        name, environ = frame.parse_call(data[frame.HEADER_BYTES : end])
    except CniPyError:
        return None
    return Spooled(path, name, environ, data[end:]) if environ.get("CNI_COMMAND") == "DEL" else None
