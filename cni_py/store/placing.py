"""Files put into a directory that others read: whole or not at all, and nothing of ours left by an attempt that died.

The directory is opened once and locked against others who place here. Each file is written beside its place, under a
name that no runtime reads, and renamed when all of them are on the disk.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from cni_py.model.errors import IOFailureError

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_BYTES = 16 << 20
_PREFIX, _SUFFIX = ".cni-py.", ".new"
_NEXT = {
    errno.EROFS: "it is on a read-only file system; is the host's directory mounted here for writing?",
    errno.ENOSPC: "free space or inodes (df, df -i)",
    errno.EDQUOT: "free space: the quota is used up",
    errno.EACCES: "run it as root",
    errno.EPERM: "run it as root; is the directory immutable (lsattr)?",
    errno.ENOTDIR: "name a directory",
    errno.ENOENT: "make it first",
    errno.EISDIR: "a directory stands in the place; remove it",
}


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is to be: its bytes and its permissions."""

    data: bytes
    mode: int


class Place:
    """A directory, open and locked. `opened` makes one."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def names(self) -> list[str]:
        """The names of all that is in it, in order."""
        return sorted(os.listdir(self._fd))

    def has(self, name: str) -> bool:
        """True if there is anything of that name, also a link that leads nowhere."""
        return self._status(name) is not None

    def read(self, name: str) -> bytes | None:
        """The plain file `name`, None if there is none, or something else, or more than a file of ours can hold."""
        try:
            fd = os.open(name, _READ, dir_fd=self._fd)
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
                return None
            with open(fd, "rb", closefd=False) as file:
                return file.read(_MAX_BYTES)
        finally:
            os.close(fd)

    def put(self, files: Mapping[str, Content]) -> list[str]:
        """All are in place and on the disk; the names of those that were not so before. Raises IOFailureError.

        Where one cannot be written, none is replaced. A link is replaced, not followed.
        """
        changed = {name: content for name, content in files.items() if not self._is(name, content)}
        try:
            for name, content in changed.items():
                with _naming(f"{self.path}/{name}", "write"):
                    self._write(_temporary(name), content)
            for name in changed:
                with _naming(f"{self.path}/{name}", "replace"):
                    os.rename(_temporary(name), name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            for name in changed:
                with suppress(OSError):
                    os.unlink(_temporary(name), dir_fd=self._fd)
            raise
        if changed:
            with _naming(self.path, "sync"):
                os.fsync(self._fd)
        return list(changed)

    def remove(self, name: str) -> bool:
        """There is nothing of that name; True if there was. Raises IOFailureError."""
        with _naming(f"{self.path}/{name}", "remove"):
            try:
                os.unlink(name, dir_fd=self._fd)
            except FileNotFoundError:
                return False
        return True

    def sweep(self) -> list[str]:
        """What attempts that died have left is gone; its names."""
        left = [name for name in self.names() if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
        return [name for name in left if self.remove(name)]

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _is(self, name: str, content: Content) -> bool:
        found = self._status(name)
        if found is None or not stat.S_ISREG(found.st_mode):
            return False
        same = (stat.S_IMODE(found.st_mode), found.st_uid) == (content.mode, os.geteuid())
        return same and self.read(name) == content.data

    def _write(self, name: str, content: Content) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            rest = memoryview(content.data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fchmod(fd, content.mode)
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def opened(path: str, *, make: bool = False) -> Iterator[Place]:
    """The directory at `path`, swept, for a block in which nobody else has it. Raises IOFailureError.

    Refused is one in which others than its owner, root or us, can put files: what is placed there would not be ours.
    """
    if make:
        with _naming(path, "make"):
            os.makedirs(path, 0o755, exist_ok=True)
    with _naming(path, "open"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise IOFailureError(
                f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}, uid {found.st_uid})",
                f"whoever writes there is root on this node: chown root:root {path}; chmod go-w {path}",
            )
        fcntl.flock(fd, fcntl.LOCK_EX)
        place = Place(path, fd)
        if make:
            place.sweep()
        yield place
    finally:
        os.close(fd)


def _temporary(name: str) -> str:
    return f"{_PREFIX}{name}{_SUFFIX}"


@contextmanager
def _naming(path: str, step: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IOFailureError(f"cannot {step} {path}: {error.strerror}", _NEXT.get(error.errno or 0, "")) from None
