"""Attachment records: `<state dir>/attachments/<network>/<hash of the key>[.<plugin>].json`, one file each, 0600.

Written to a temporary file and renamed, so a reader sees the old record, the new one or none. File names are made of
hashes and of a network name that was checked; nothing else from a request reaches a path. A file that is no record of
ours (torn, foreign) is reported by `list`, never a reason to fail.
"""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cni_py.model.attachment import Attachment, Key
from cni_py.model.errors import DecodeError, IOFailureError
from cni_py.store.attachment_json import decode_attachment, encode_attachment

MAIN = frozenset({"cni-py", "bridge", "ptp"})
_MAX_BYTES = 1 << 20
_MAX_NAME = 200
# Never through a link, and never waiting for the other end of a FIFO that somebody put there.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class AttachmentStore:
    """The records below one state directory, which is made when the first is written."""

    def __init__(self, state_dir: Path) -> None:
        self._state = state_dir
        self._root = state_dir / "attachments"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process is in such a block: what all attachments of the node share is changed inside only."""
        self._make_directory(self._state)
        with _reporting(self._state / "lock"):
            fd = _open_lock(self._state / "lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def get(self, key: Key, plugin: str) -> Attachment | None:
        """The record of an attachment, None if there is none or it cannot be read (DEL then does without)."""
        try:
            return self._read(self._path(key, plugin))
        except (FileNotFoundError, DecodeError, IOFailureError):
            return None

    def put(self, attachment: Attachment) -> None:
        """The record is on disk, whole. Raises IOFailureError."""
        path = self._path(attachment.key, attachment.plugin)
        self._make_directory(path.parent)
        with _reporting(path):
            _write_whole(path, encode_attachment(attachment))

    def delete(self, attachment: Attachment) -> None:
        """The record is not there, nor an empty directory where it was."""
        path = self._path(attachment.key, attachment.plugin)
        for part in (path, _temporary(path)):
            with _reporting(part), suppress(FileNotFoundError):
                part.unlink()
        for directory in (path.parent, self._root):
            with suppress(OSError):  # not empty, which rmdir(2) is the one to know
                directory.rmdir()

    def list(self, network: str = "") -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
        """All records, or one network's, and what is wrong with the files that are none."""
        found: list[Attachment] = []
        damaged: list[str] = []
        for path in sorted(self._root.glob(f"{_directory(network) or '*'}/*.json")):
            try:
                found.append(self._read(path))
            except FileNotFoundError:
                continue  # deleted meanwhile
            except (DecodeError, IOFailureError) as error:
                damaged.append(error.message)
        return tuple(found), tuple(damaged)

    def sweep(self, network: str) -> None:
        """No half-written record of a network is left; under the lock, when nobody is writing one."""
        for path in (self._root / _directory(network)).glob(".*.new"):
            with suppress(OSError):
                path.unlink()

    def has_others(self, attachment: Attachment) -> bool:
        """True if there is a record besides this one, of any network; stops at the first."""
        own = self._path(attachment.key, attachment.plugin)
        return any(path != own for path in self._root.glob("*/*.json"))

    def boot_of_last_add(self) -> str:
        """The boot id that `note_boot` left, "" before the first ADD ever."""
        try:
            fd = os.open(self._state / "boot", _READ)
        except OSError:
            return ""
        try:
            return os.read(fd, _MAX_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):  # a directory, somebody else's file
            return ""
        finally:
            os.close(fd)

    def note_boot(self, boot: str) -> None:
        """From now on `boot_of_last_add` is `boot`."""
        path = self._state / "boot"
        with _reporting(path):
            _write_whole(path, boot.encode("ascii"))

    def check_writable(self) -> None:
        """Raise IOFailureError if records could not be written: STATUS asks before an ADD fails."""
        directory = self._state
        while not directory.exists() and directory != directory.parent:
            directory = directory.parent
        with _reporting(directory):
            if not directory.is_dir():
                raise NotADirectoryError(20, "Not a directory")
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
            disk = os.statvfs(directory)
            if disk.f_bavail == 0 or (disk.f_files and disk.f_favail == 0):
                raise OSError(28, "No space left on device")

    def _path(self, key: Key, plugin: str) -> Path:
        suffix = "" if plugin in MAIN else f".{plugin}"
        return self._root / _directory(key.network) / f"{key.digest()[:32]}{suffix}.json"

    def _make_directory(self, path: Path) -> None:
        with _reporting(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _read(self, path: Path) -> Attachment:
        """One record. Never follows a link, never waits for a FIFO, never reads more than a record can have."""
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise IOFailureError(f"{path}: {error.strerror}", "remove it if it is not yours") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise DecodeError(f"{path} is not a regular file", "remove it")
            data = os.read(fd, _MAX_BYTES)
        finally:
            os.close(fd)
        try:
            document: Any = json.loads(data.decode("utf-8"))
            return decode_attachment(document)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DecodeError(f"{path} is no attachment record: {error}"[:300], "remove it") from None


def _temporary(path: Path) -> Path:
    """Where the next content of a file is written. One name a file: what a killed process left, the next removes."""
    return path.with_name(f".{path.name}.new")


def _write_whole(path: Path, content: bytes) -> None:
    """The file has this content, or the one that it had. Under the lock, so nobody else writes the same file."""
    temporary = _temporary(path)
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _open_lock(path: Path) -> int:
    """A descriptor to lock; an existing file serves also where the disk is full or read-only."""
    try:
        return os.open(path, _READ)
    except FileNotFoundError:
        return os.open(path, _READ | os.O_CREAT, 0o600)


def _directory(network: str) -> str:
    """A network's directory: its name, or a hash of one that is longer than a file name may be (255)."""
    return network if len(network) <= _MAX_NAME else hashlib.sha256(network.encode()).hexdigest()


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """An OSError inside becomes an IOFailureError that names the path and what to do."""
    try:
        yield
    except OSError as error:
        raise IOFailureError(
            f"cannot write {path}: {error.strerror}",
            "attachment records need a writable directory with free space: see stateDir in the configuration",
        ) from None
