"""Files of the state directory: read without trust, written whole or not at all, and errors that name them."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cni_py.model.attachment import Attachment
from cni_py.model.errors import DecodeError, IOFailureError
from cni_py.store.attachment_json import decode_attachment

MAX_BYTES = 1 << 20
# Never through a link, and never waiting for the other end of a FIFO that somebody put there.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_record(path: str) -> Attachment:
    """One record. Never follows a link, never waits for a FIFO, never reads more than a record can have."""
    try:
        fd = os.open(path, READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IOFailureError(f"{path}: {error.strerror}", "remove it if it is not yours") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DecodeError(f"{path} is not a regular file", "remove it")
        data = os.read(fd, MAX_BYTES)
    finally:
        os.close(fd)
    try:
        document: Any = json.loads(data.decode("utf-8"))
        return decode_attachment(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DecodeError(f"{path} is no attachment record: {error}"[:300], "remove it") from None


def temporary(name: str) -> str:
    """Where the next content of a file is written. One name a file: what a killed process left, the next removes."""
    return f".{name}.new"


def write_whole(directory: str, name: str, content: bytes) -> None:
    """The file has this content, or the one that it had. Under the lock, so nobody else writes the same file."""
    new = f"{directory}/{temporary(name)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        try:
            fd = os.open(new, flags, 0o600)
        except FileExistsError:
            os.unlink(new)
            fd = os.open(new, flags, 0o600)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)
        os.rename(new, f"{directory}/{name}")
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


def open_lock(path: str) -> int:
    """A descriptor to lock; an existing file serves also where the disk is full or read-only."""
    try:
        return os.open(path, READ)
    except FileNotFoundError:
        return os.open(path, READ | os.O_CREAT, 0o600)


@contextmanager
def reporting(path: str) -> Iterator[None]:
    """An OSError inside becomes an IOFailureError that names the path and what to do."""
    try:
        yield
    except OSError as error:
        raise failure(path, error) from None


def failure(path: str, error: OSError) -> IOFailureError:
    """The error for a file that could not be written."""
    return IOFailureError(
        f"cannot write {path}: {error.strerror}",
        "attachment records need a writable directory with free space: see stateDir in the configuration",
    )
