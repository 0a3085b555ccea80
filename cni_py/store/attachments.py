"""Attachment records: `<state dir>/attachments/<network>/<hash of the key>[.<plugin>].json`, one file each, 0600.

Written to a temporary file and renamed, so a reader sees the old record, the new one or none. File names are made of
hashes and of a network name that was checked; nothing else from a request reaches a path. A file that is no record of
ours (torn, foreign) is reported by `list`, never a reason to fail.

The agent keeps what it read (`store.memory`).
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from cni_py.model.attachment import STATE_DIR, Attachment, Key
from cni_py.model.errors import DecodeError, IOFailureError
from cni_py.store.attachment_json import encode_attachment
from cni_py.store.lock import Idle, lock
from cni_py.store.memory import Memory
from cni_py.store.record_file import (
    MAX_BYTES,
    READ,
    failure,
    open_lock,
    read_record,
    reporting,
    temporary,
    write_whole,
)

ELSEWHERE = "elsewhere"  # below the usual state directory: one file for each other one, its path inside
MAIN = frozenset({"cni-py", "bridge", "ptp"})
_MAX_NAME = 200


class AttachmentStore:
    """The records below one state directory, which is made when the first is written.

    `warm`: this process lives on and remembers them. `idle` is around the wait for the lock. One thread at a time.
    """

    def __init__(self, state_dir: str | Path, *, warm: bool = False, idle: Idle = nullcontext) -> None:
        self._idle = idle
        self._state = os.fspath(state_dir)
        self._root = f"{self._state}/attachments"
        self._memory = Memory() if warm else None
        self._boot = ""
        self._holding = False

    @property
    def path(self) -> str:
        """The state directory."""
        return self._state

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process is in such a block: what all attachments of the node share is changed inside only."""
        try:
            fd = open_lock(f"{self._state}/lock")
        except FileNotFoundError:
            self._make_directory(self._state)
            with reporting(f"{self._state}/lock"):
                fd = open_lock(f"{self._state}/lock")
        except OSError as error:
            raise failure(f"{self._state}/lock", error) from None
        try:
            lock(fd, idle=self._idle)
            self._holding = True
            yield
        finally:
            self._holding = False
            os.close(fd)

    def get(self, key: Key, plugin: str) -> Attachment | None:
        """The record of an attachment, None if there is none or it cannot be read (DEL then does without)."""
        directory, name = self._place(key, plugin)
        known = self._recall(directory)
        if known is not None:
            return known.get(name)
        try:
            return read_record(f"{directory}/{name}")
        except (FileNotFoundError, DecodeError, IOFailureError):
            return None

    def exists(self, key: Key) -> bool:
        """True if there is a record of the main plugin's attachment, readable or not."""
        directory, name = self._place(key, "")
        return os.path.lexists(f"{directory}/{name}")

    def put(self, attachment: Attachment) -> None:
        """The record is on disk, whole. Under the lock. Raises IOFailureError."""
        directory, name = self._place(attachment.key, attachment.plugin)
        known = self._recall(directory)
        if known is None:
            self._make_directory(directory)
            self._register()
        with reporting(f"{directory}/{name}"):
            write_whole(directory, name, encode_attachment(attachment))
        if self._memory is not None and known is not None:
            known[name] = attachment
            self._memory.mark(directory)

    def delete(self, attachment: Attachment) -> None:
        """The record is not there, nor an empty directory where it was. Under the lock."""
        directory, name = self._place(attachment.key, attachment.plugin)
        known = self._recall(directory)
        for part in (name, temporary(name)) if known is None else (name,):
            with reporting(f"{directory}/{part}"), suppress(FileNotFoundError):
                os.unlink(f"{directory}/{part}")
        if self._memory is not None and known is not None:
            known.pop(name, None)
            self._memory.mark(directory)
            if known:
                return
        for path in (directory, self._root):
            with suppress(OSError):  # not empty, which rmdir(2) is the one to know
                os.rmdir(path)

    def list(self, network: str = "") -> tuple[tuple[Attachment, ...], tuple[str, ...]]:
        """All records, or one network's, and what is wrong with the files that are none."""
        found: list[Attachment] = []
        damaged: list[str] = []
        for directory in [f"{self._root}/{_directory(network)}"] if network else self._directories():
            known = self._recall(directory)
            if known is None:
                known, wrong = _read_all(directory)
                damaged += wrong
            found += known.values()
        return tuple(found), tuple(damaged)

    def sweep(self, network: str = "") -> None:
        """No half-written record of a network, or of any, is left; under the lock, when nobody is writing one."""
        for directory in [f"{self._root}/{_directory(network)}"] if network else self._directories():
            with suppress(OSError):
                for name in os.listdir(directory):
                    if name.startswith(".") and name.endswith(".new"):
                        os.unlink(f"{directory}/{name}")
                os.rmdir(directory)  # if that was all

    def has_others(self, attachment: Attachment) -> bool:
        """True if there is a record besides this one, of any network; stops at the first."""
        directory, name = self._place(attachment.key, attachment.plugin)
        for other in self._directories():
            known = self._recall(other)
            names = known if known is not None else _names(other)
            if any((other, one) != (directory, name) for one in names):
                return True
        return False

    def boot_of_last_add(self) -> str:
        """The boot id that `note_boot` left, "" before the first ADD ever."""
        if self._boot:
            return self._boot
        try:
            fd = os.open(f"{self._state}/boot", READ)
        except OSError:
            return ""
        try:
            boot = os.read(fd, MAX_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):  # a directory, somebody else's file
            return ""
        finally:
            os.close(fd)
        if self._memory is not None:  # one who lives on notes its own boot next, and no other comes while it lives
            self._boot = boot
        return boot

    def note_boot(self, boot: str) -> None:
        """From now on `boot_of_last_add` is `boot`."""
        with reporting(f"{self._state}/boot"):
            write_whole(self._state, "boot", boot.encode("ascii"))
        self._boot = boot

    def check_writable(self) -> None:
        """Raise IOFailureError if records could not be written: STATUS asks before an ADD fails."""
        directory = self._state
        while not os.path.lexists(directory):
            directory = os.path.dirname(directory) or "/"
        with reporting(directory):
            if not os.path.isdir(directory):
                raise NotADirectoryError(20, "Not a directory")
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
            disk = os.statvfs(directory)
            if disk.f_bavail == 0 or (disk.f_files and disk.f_favail == 0):
                raise OSError(28, "No space left on device")

    def _register(self) -> None:
        """The usual state directory knows this one: what an agent collects, it must not take from attachments here."""
        if self._state == STATE_DIR:
            return
        registry, path = f"{STATE_DIR}/{ELSEWHERE}", os.path.normpath(self._state)
        self._make_directory(registry)
        name = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
        with reporting(f"{registry}/{name}"):
            if not os.path.lexists(f"{registry}/{name}"):
                write_whole(registry, name, path.encode("utf-8", "surrogateescape"))

    def _recall(self, directory: str) -> dict[str, Attachment] | None:
        """{file name: record} of a directory from memory, None if it does not say."""
        if self._memory is None:
            return None
        known = self._memory.recall(directory)
        if known is None and self._holding:  # without the lock a change could be missed
            records, damaged = _read_all(directory)
            if not damaged and os.path.isdir(directory):
                self._memory.learn(directory, records)
                return records
        return known

    def _place(self, key: Key, plugin: str) -> tuple[str, str]:
        """(directory, file name) of a record."""
        suffix = "" if plugin in MAIN or not plugin else f".{plugin}"
        return f"{self._root}/{_directory(key.network)}", f"{key.digest()[:32]}{suffix}.json"

    def _directories(self) -> Sequence[str]:
        try:
            return [f"{self._root}/{name}" for name in sorted(os.listdir(self._root))]
        except OSError:
            return []

    def _make_directory(self, path: str) -> None:
        with reporting(path):
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)


def state_directories() -> list[str]:
    """The usual state directory and those that configurations have named, as far as they are still there."""
    found = [STATE_DIR]
    registry = f"{STATE_DIR}/{ELSEWHERE}"
    with suppress(OSError):
        for name in sorted(os.listdir(registry)):
            fd = os.open(f"{registry}/{name}", READ)
            try:
                path = os.read(fd, MAX_BYTES).decode("utf-8", "surrogateescape")
            finally:
                os.close(fd)
            if path.startswith("/") and "\0" not in path and os.path.isdir(path):
                found.append(path)
    return found


def _names(directory: str) -> Sequence[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(".json") and not name.startswith("."))
    except OSError:
        return []


def _read_all(directory: str) -> tuple[dict[str, Attachment], Sequence[str]]:
    """({file name: record}, what is wrong with the others)."""
    records: dict[str, Attachment] = {}
    damaged: list[str] = []
    for name in _names(directory):
        try:
            records[name] = read_record(f"{directory}/{name}")
        except FileNotFoundError:
            continue  # deleted meanwhile
        except (DecodeError, IOFailureError) as error:
            damaged.append(error.message)
    return records, damaged


def _directory(network: str) -> str:
    """A network's directory: its name, or a hash of one that is longer than a file name may be (255)."""
    return network if len(network) <= _MAX_NAME else hashlib.sha256(network.encode()).hexdigest()
