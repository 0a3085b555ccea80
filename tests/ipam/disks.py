"""A disk that fails, or a process that dies, at a chosen system call."""

import errno

from cni_py.store.lease_disk import OsDisk


class Killed(BaseException):
    """kill -9 in the middle: no handler of the plugin runs, as none catches this."""


class FaultyDisk(OsDisk):
    """The real disk until call number `at`, which fails with `number`, or kills if that is 0. `fired` tells if it did.

    With `short` a write takes only one byte, so that content arrives in many steps.
    """

    def __init__(self, at: int, number: int, *, short: bool = False) -> None:
        self.left = at
        self.number = number
        self.short = short
        self.fired = False

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.fired = True
            if self.number == 0:
                raise Killed
            raise OSError(self.number, errno.errorcode[self.number])

    def open(self, path: str, flags: int, mode: int, directory: int | None) -> int:
        """As OsDisk."""
        self._step()
        return super().open(path, flags, mode, directory)

    def write(self, fd: int, data: bytes) -> int:
        """As OsDisk."""
        self._step()
        return super().write(fd, data[:7] if self.short else data)

    def truncate(self, fd: int, size: int) -> None:
        """As OsDisk."""
        self._step()
        super().truncate(fd, size)

    def link_open(self, fd: int, name: str, directory: int) -> None:
        """As OsDisk."""
        self._step()
        super().link_open(fd, name, directory)

    def rename(self, source: str, name: str, directory: int) -> None:
        """As OsDisk."""
        self._step()
        super().rename(source, name, directory)

    def unlink(self, name: str, directory: int) -> None:
        """As OsDisk."""
        self._step()
        super().unlink(name, directory)

    def mkdir(self, path: str, mode: int) -> None:
        """As OsDisk."""
        self._step()
        super().mkdir(path, mode)

    def set_mtime(self, directory: int, mtime_ns: int) -> None:
        """As OsDisk."""
        self._step()
        super().set_mtime(directory, mtime_ns)


class PlainDisk(OsDisk):
    """A file system without O_TMPFILE."""

    def open(self, path: str, flags: int, mode: int, directory: int | None) -> int:
        """As OsDisk, but for O_TMPFILE."""
        if path == ".":
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return super().open(path, flags, mode, directory)


class NoProcDisk(OsDisk):
    """A mount namespace without /proc."""

    def link_open(self, fd: int, name: str, directory: int) -> None:  # noqa: ARG002  # as OsDisk
        """As OsDisk where /proc/self/fd is missing."""
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")
