"""Files in one directory, written whole or not at all, never through a link and never waiting on a FIFO.

All work is relative to a descriptor of the directory, so nobody can swap the path below us. `Disk` is the operating
system as far as it is used, a seam for tests that fail or stop at each step. Nothing is synced: after a power loss the
boot is another and the leases are void anyway.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol

from cni_py.model.errors import IOFailureError
from cni_py.store.lock import Idle, lock

_MAX_BYTES = 256 << 10  # a reservation has about 80 bytes, and at most what an environment variable can hold, 128 KiB
_TEMPORARY = ".cni-py-new"  # one name is enough: it exists only under the network's lock

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}

_ADVICE = {
    errno.ENOSPC: "the file system is full (or out of inodes: df -i); free some space",
    errno.EDQUOT: "the disk quota is used up; raise it or free some space",
    errno.EROFS: "the file system is read-only: remount it, or point ipam.dataDir to a writable one",
    errno.EACCES: "the plugin must run as root and no security module may deny it this directory",
    errno.EPERM: "the plugin must run as root and the directory must not be immutable (lsattr)",
    errno.ELOOP: "a symbolic link stands where a plain file belongs; remove it",
    errno.EISDIR: "a directory stands where a plain file belongs; remove it",
    errno.ENOTDIR: "a plain file stands where a directory belongs; remove it or change ipam.dataDir",
    errno.EIO: "the disk fails; look at dmesg",
}


class Disk(Protocol):
    """The system calls that the lease store makes. They raise OSError."""

    def open(self, path: str, flags: int, mode: int, directory: int | None) -> int: ...  # noqa: D102  # as os.open

    def write(self, fd: int, data: bytes) -> int: ...  # noqa: D102  # as os.write

    def truncate(self, fd: int, size: int) -> None: ...  # noqa: D102  # as os.ftruncate

    def link_open(self, fd: int, name: str, directory: int) -> None:
        """An O_TMPFILE file gets the name `name`."""

    def link(self, source: str, name: str, directory: int) -> None: ...  # noqa: D102  # as os.link

    def rename(self, source: str, name: str, directory: int) -> None: ...  # noqa: D102  # as os.rename

    def unlink(self, name: str, directory: int) -> None: ...  # noqa: D102  # as os.unlink

    def mkdir(self, path: str, mode: int) -> None: ...  # noqa: D102  # as os.makedirs with exist_ok

    def set_mtime(self, directory: int, mtime_ns: int) -> None:
        """The directory's modification time is `mtime_ns`."""


class OsDisk:
    """The real one."""

    def open(self, path: str, flags: int, mode: int, directory: int | None) -> int:
        """As os.open."""
        return os.open(path, flags, mode, dir_fd=directory)

    def write(self, fd: int, data: bytes) -> int:
        """As os.write."""
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """As os.ftruncate."""
        os.ftruncate(fd, size)

    def link_open(self, fd: int, name: str, directory: int) -> None:
        """By /proc, as open(2) says for O_TMPFILE: linking by the descriptor itself needs CAP_DAC_READ_SEARCH."""
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)

    def link(self, source: str, name: str, directory: int) -> None:
        """As os.link within `directory`."""
        os.link(source, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)

    def rename(self, source: str, name: str, directory: int) -> None:
        """As os.rename within `directory`."""
        os.rename(source, name, src_dir_fd=directory, dst_dir_fd=directory)

    def unlink(self, name: str, directory: int) -> None:
        """As os.unlink within `directory`."""
        os.unlink(name, dir_fd=directory)

    def mkdir(self, path: str, mode: int) -> None:
        """As os.makedirs: parents get the mode that the umask leaves."""
        os.makedirs(path, mode, exist_ok=True)  # pathlib costs the import of half an ADD

    def set_mtime(self, directory: int, mtime_ns: int) -> None:
        """By utimensat on the descriptor."""
        os.utime(directory, ns=(mtime_ns, mtime_ns))


@contextmanager
def naming(path: str, step: str) -> Iterator[None]:
    """An OSError in the block leaves it as IOFailureError: `open /x: no such file or directory`, as Go words it."""
    try:
        yield
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        advice = _ADVICE.get(error.errno or 0, f"look at {path} and at what the system logged about it")
        raise IOFailureError(f"{step} {path}: {text}", advice) from error


@dataclass(frozen=True, slots=True)
class File:
    """A plain file as found: `token` tells it from another file of the same name."""

    content: bytes
    token: str


class Directory:
    """An open directory. Close it after use."""

    def __init__(self, disk: Disk, path: str, *, follow: bool) -> None:
        self.path = path
        self._disk = disk
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        self._fd = disk.open(path, flags, 0, None)

    def close(self) -> None:
        """The descriptor is free."""
        os.close(self._fd)

    @contextmanager
    def lock(self, *, exclusive: bool, create: bool, idle: Idle = nullcontext) -> Iterator[None]:
        """host-local's lock: flock on the file `lock`. Without `create` and without the file nobody is kept out."""
        flags = _READ | (os.O_CREAT if create else 0)
        try:
            fd = self._disk.open("lock", flags, 0o750, self._fd)
        except FileNotFoundError:
            yield
            return
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise IOFailureError(f"open {self.path}/lock: not a plain file", "remove it; it is made anew")
            lock(fd, exclusive=exclusive, idle=idle)
            yield
        finally:
            os.close(fd)

    def names(self) -> list[str]:
        """The names of all entries."""
        return os.listdir(self._fd)  # pathlib knows no descriptors

    def read(self, name: str) -> File | None:
        """The plain file `name`; None if there is none, or something else (link, FIFO, directory, huge file)."""
        try:
            fd = self._disk.open(name, _READ, 0, self._fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV):
                return None
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
                return None
            return File(os.read(fd, found.st_size + 1), _token(found))
        finally:
            os.close(fd)

    def create(self, name: str, content: bytes, before: Callable[[str], None]) -> bool:
        """The file appears under `name` with all its content, mode 0600. False if the name is taken.

        `before` is called with its token when all but the name is there: what it writes down outlives a stop.
        """
        try:
            fd = self._disk.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, self._fd)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
            return self._create_by_name(name, content, before)
        try:
            self._write(fd, content)
            before(_token(os.fstat(fd)))
            self._disk.link_open(fd, name, self._fd)
        except FileExistsError:
            return False
        except FileNotFoundError:  # /proc is not mounted
            return self._create_by_name(name, content, before)
        finally:
            os.close(fd)
        return True

    def _create_by_name(self, name: str, content: bytes, before: Callable[[str], None]) -> bool:
        token = self._write_temporary(content)
        try:
            before(token)
            self._disk.link(_TEMPORARY, name, self._fd)
        except FileExistsError:
            return False
        finally:
            with suppress(OSError):
                self._disk.unlink(_TEMPORARY, self._fd)
        return True

    def create_plainly(self, name: str, content: bytes) -> bool:
        """The file is made and then written, in half the time of `create`: a stop may tear it. False if it is there."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = self._disk.open(name, flags, 0o600, self._fd)
        except FileExistsError:
            return False
        try:
            self._write(fd, content)
        finally:
            os.close(fd)
        return True

    def replace(self, name: str, content: bytes) -> None:
        """The file `name` has this content, mode 0600, whatever was there but a directory."""
        self._write_temporary(content)
        try:
            self._disk.rename(_TEMPORARY, name, self._fd)
        except OSError:
            with suppress(OSError):
                self._disk.unlink(_TEMPORARY, self._fd)
            raise

    def overwrite(self, name: str, content: bytes) -> None:
        """The file `name` has this content, written in place as Go does: a stop may tear it."""
        fd = self._disk.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, self._fd)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a plain file")
            self._write(fd, content)
            self._disk.truncate(fd, len(content))
        finally:
            os.close(fd)

    def unlink(self, name: str) -> None:
        """There is no file `name`."""
        with suppress(FileNotFoundError):
            self._disk.unlink(name, self._fd)

    def stamp(self) -> tuple[int, int]:
        """When the directory was last changed in nanoseconds, or what `set_mtime` said, and its inode."""
        found = os.fstat(self._fd)
        return found.st_mtime_ns, found.st_ino

    def set_mtime(self, mtime_ns: int) -> None:
        """The directory's modification time is `mtime_ns`."""
        self._disk.set_mtime(self._fd, mtime_ns)

    def _write_temporary(self, content: bytes) -> str:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = self._disk.open(_TEMPORARY, flags, 0o600, self._fd)
        except FileExistsError:  # left by a process that was killed
            self.unlink(_TEMPORARY)
            fd = self._disk.open(_TEMPORARY, flags, 0o600, self._fd)
        try:
            self._write(fd, content)
            return _token(os.fstat(fd))
        except OSError:
            with suppress(OSError):
                self._disk.unlink(_TEMPORARY, self._fd)
            raise
        finally:
            os.close(fd)

    def _write(self, fd: int, content: bytes) -> None:
        while content:
            content = content[self._disk.write(fd, content) :]


def is_temporary(name: str) -> bool:
    """True for what a stop between two steps of ours can leave behind."""
    return name == _TEMPORARY


def _token(found: os.stat_result) -> str:
    # Compared for equality only, so a clock that jumps does no harm.
    return f"{found.st_ino}.{found.st_mtime_ns}"
