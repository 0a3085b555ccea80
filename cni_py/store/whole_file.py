"""A file that one process writes and others may read: whole or as it was, of root alone, read without trust."""

import os
import stat
from pathlib import Path

from cni_py.model.errors import DecodeError, IOFailureError
from cni_py.store.record_file import READ, write_whole


class WholeFile:
    """`path` with at most `most` bytes. One writer at a time."""

    def __init__(self, path: Path, most: int = 16 << 20) -> None:
        self._path = path
        self._most = most

    def read(self) -> bytes | None:
        """None if it is not there. Raises IOFailureError, DecodeError for what is no such file."""
        try:
            fd = os.open(self._path, READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IOFailureError(f"{self._path}: {error.strerror}", "remove it if it is not yours") from None
        with open(fd, "rb") as file:
            seen = os.fstat(fd)
            if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid():
                raise DecodeError(f"{self._path} is no file of ours", "remove it")
            data = file.read(self._most + 1)
        if len(data) > self._most:
            raise DecodeError(f"{self._path} has more than {self._most} bytes", "remove it")
        return data

    def write(self, content: bytes) -> None:
        """It has this content. Raises IOFailureError; then it has the one that it had."""
        try:
            os.makedirs(self._path.parent, mode=0o700, exist_ok=True)
            write_whole(str(self._path.parent), self._path.name, content)
        except OSError as error:
            raise IOFailureError(f"cannot write {self._path}: {error.strerror}", "is there space, may we?") from None
