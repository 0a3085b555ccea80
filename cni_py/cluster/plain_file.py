"""What a file holds, if it is a plain one and not too large: anybody may have put anything in its place."""

import os
import stat
from pathlib import Path

from cni_py.model.errors import DecodeError


def content(path: Path, most_bytes: int) -> bytes:
    """All of it. Raises OSError, and DecodeError if it is no plain file or has more than `most_bytes`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DecodeError("it is no plain file")
        data = b""
        while len(data) <= most_bytes and (part := os.read(fd, most_bytes + 1 - len(data))):
            data += part
    finally:
        os.close(fd)
    if len(data) > most_bytes:
        raise DecodeError(f"it has more than {most_bytes} bytes")
    return data
