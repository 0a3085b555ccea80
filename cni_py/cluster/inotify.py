"""What happens in a directory, as the kernel tells it (inotify(7)); the standard library has no way to ask."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x8, 0x40, 0x80, 0x200, 0x400, 0x800
_ATTRIB, _CREATE, _ONLY_DIRECTORY = 0x4, 0x100, 0x01000000
_OVERFLOW, _IGNORED, _UNMOUNT = 0x4000, 0x8000, 0x2000
_MASK = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE | _DELETE_SELF | _MOVE_SELF | _ATTRIB | _CREATE
_EVENT = struct.Struct("=iIII")


class Directory:
    """Watches a directory from its creation on. Raises OSError if there is none."""

    def __init__(self, path: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK | _ONLY_DIRECTORY) < 0:
            number = ctypes.get_errno()
            if self._fd >= 0:
                os.close(self._fd)
            raise OSError(number, os.strerror(number), path)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._fd

    def close(self) -> None:
        """Nothing is told any more."""
        os.close(self._fd)

    def read(self) -> Iterator[str | None]:
        """Names of entries that may have changed since the last reading; None if the whole directory may have.

        Raises OSError (ESTALE) once the directory is no longer where it was.
        """
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(data):
                _, mask, _, size = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size + size
                if mask & (_DELETE_SELF | _MOVE_SELF | _IGNORED | _UNMOUNT):
                    raise OSError(errno.ESTALE, "the directory was removed or moved")
                if mask & _OVERFLOW:
                    yield None
                else:
                    yield os.fsdecode(data[offset - size : offset].rstrip(b"\0"))
