"""What stands where the state directory, its lock, its boot note or a network's records should be."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, install, netns, routed
from netns.snapshot import namespace, output

pytestmark = [pytest.mark.sudo, pytest.mark.timeout(60)]  # who waits for a FIFO's other end waits for ever

STATE = Path("/var/lib/cni-py")


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    """Container c1 and a CNI_PATH with our program under all its names."""
    netns("c1")
    return Caller(install(tmp_path / "bin"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _dangling(path: Path) -> None:
    path.symlink_to("/nowhere/else")


def _loop(path: Path) -> None:
    path.symlink_to(path)


OBJECTS: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_bytes(b"\xff\x00 not ours"),
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a directory": Path.mkdir,
    "a dangling link": _dangling,
    "a link to itself": _loop,
}
PLACES = {
    "the state directory": STATE,
    "the lock": STATE / "lock",
    "the boot note": STATE / "boot",
    "all records": STATE / "attachments",
    "the network's records": STATE / "attachments/net",
}
# A directory is what should be there, a lock may be all that can be opened, what stands for the boot note is replaced.
WORKS = {
    ("the state directory", "a directory"),
    *(("the lock", name) for name in ("a file", "a FIFO", "a directory")),
    ("all records", "a directory"),
    ("the network's records", "a directory"),
    *(("the boot note", name) for name in OBJECTS if name != "a directory"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", OBJECTS)
def test_in_the_place_of(name: str, place: str, caller: Caller) -> None:
    """ADD works, or is refused with code 5 that names the path, and leaves nothing; no verb hangs or raises."""
    path = PLACES[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    OBJECTS[name](path)
    before = namespace("c1")
    config = routed()
    for verb in ("STATUS", "GC"):
        _answered(*caller.verb(verb, {**config, "cni.dev/valid-attachments": []}))
    code, document = caller.verb("ADD", config)
    if (place, name) in WORKS:
        assert code == 0, document
        assert caller.verb("CHECK", {**config, "prevResult": document}) == (0, None)
        caller.delete(config)
    else:
        assert (code, document["code"]) == (1, 5), document
        assert str(path) in document["msg"]
        assert document["details"]
        _answered(*caller.verb("DEL", config))
    assert before == namespace("c1")
    assert "cpy" not in output("ip", "-o", "link")
    assert list(Path("/var/lib/cni/networks/net").glob("[0-9f]*")) == []


def _answered(code: int, document: Any) -> None:
    """Success, or an error that says what is in the way and what to do."""
    if code != 0:
        assert document["code"] in (5, 50, 999), document
        assert (document["msg"].startswith("unexpected"), document["details"] != "") == (False, True)
