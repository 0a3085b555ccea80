"""Foreign things in the data directory, and a disk that is full, read-only or somebody else's."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ipam.disks import FaultyDisk
from ipam.plugins import Outcome, environment, in_process
from ipam.test_ipam_faults import call as call_on


def call(data_dir: Path, command: str, container: str = "c1", valid: object = None) -> Outcome:
    """One call on a /29."""
    ipam = {"type": "cni-py-ipam", "subnet": "10.1.2.0/29", "dataDir": str(data_dir)}
    config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "ipam": ipam}
    if command == "GC":
        config["cni.dev/valid-attachments"] = valid
    return in_process(config, environment(command, container))


def symlink(path: Path) -> None:
    """A link to a file that looks like the container's lease."""
    target = path.parent.parent / "target"
    target.write_bytes(b"c1\r\neth0")
    path.symlink_to(target)


def nested(path: Path) -> None:
    """A directory that holds what looks like a lease."""
    path.mkdir()
    (path / "10.1.2.5").write_bytes(b"c1\r\neth0")


OBSTACLES: dict[str, Callable[[Path], object]] = {
    "link": symlink,
    "dangling link": lambda path: path.symlink_to("/nonexistent"),
    "loop": lambda path: path.symlink_to(path),
    "FIFO": os.mkfifo,
    "directory": nested,
    "huge": lambda path: path.write_bytes(b"c1\r\neth0" + b" " * 300_000),
    "binary": lambda path: path.write_bytes(bytes(range(1, 256))),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_an_obstacle_takes_its_address(obstacle: str, tmp_path: Path) -> None:
    """What is no reservation is passed by in every verb, blocks its address and is still there after DEL."""
    path = tmp_path / "net" / "10.1.2.2"
    path.parent.mkdir()
    OBSTACLES[obstacle](path)
    before = path.lstat()
    assert call(tmp_path, "ADD").addresses == ["10.1.2.3"]
    assert call(tmp_path, "CHECK").code == 0
    assert call(tmp_path, "STATUS").code == 0
    assert call(tmp_path, "ADD", "c2").addresses == ["10.1.2.4"]
    assert [call(tmp_path, "DEL", container).code for container in ("c1", "c2")] == [0, 0]
    assert before == path.lstat()
    assert obstacle != "link" or (tmp_path / "target").exists()


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_gc_takes_plain_files_only(obstacle: str, tmp_path: Path) -> None:
    """GC removes a plain file that blocks an address for nobody, and nothing that is no plain file."""
    path = tmp_path / "net" / "10.1.2.2"
    path.parent.mkdir()
    OBSTACLES[obstacle](path)
    assert call(tmp_path, "GC").code == 0
    assert (obstacle != "binary") == os.path.lexists(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b" \r\n"], ids=["empty", "NUL", "blank"])
def test_a_torn_reservation_blocks_nothing(content: bytes, tmp_path: Path) -> None:
    """What a crash between create and write left is removed, as nobody can hold it."""
    path = tmp_path / "net" / "10.1.2.2"
    path.parent.mkdir()
    path.write_bytes(content)
    assert call(tmp_path, "ADD").addresses == ["10.1.2.2"]
    assert path.read_bytes() == b"c1\r\neth0"


def test_the_old_format(tmp_path: Path) -> None:
    """A reservation without interface counts for each; DEL takes it when there is none of the new format."""
    path = tmp_path / "net" / "10.1.2.4"
    path.parent.mkdir()
    path.write_bytes(b"c1\n")
    assert call(tmp_path, "CHECK").code == 0
    assert "10.1.2.4 has been allocated to c1" in call(tmp_path, "ADD").message
    assert call(tmp_path, "DEL").code == 0
    assert not path.exists()


@pytest.mark.parametrize("name", ["lock", "last_reserved_ip.0"])
@pytest.mark.parametrize("obstacle", ["link", "loop", "FIFO", "directory"])
def test_our_own_names_taken(name: str, obstacle: str, tmp_path: Path) -> None:
    """A thing in the place of a file that must be written is an I/O error that names it, and no lease is left."""
    path = tmp_path / "net" / name
    path.parent.mkdir()
    OBSTACLES[obstacle](path)
    outcome = call(tmp_path, "ADD")
    assert (outcome.code, outcome.document["code"]) == (1, 5)
    assert str(path) in outcome.message
    assert "remove it" in outcome.document["details"] or "look at" in outcome.document["details"]
    assert list(path.parent.glob("10.*")) == []


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe", b"192.0.2.1", b"10.1.2.3\n", b"x" * 70000])
def test_a_torn_cursor(content: bytes, tmp_path: Path) -> None:
    """A cursor that is no address of the set starts anew, as in host-local."""
    path = tmp_path / "net" / "last_reserved_ip.0"
    path.parent.mkdir()
    path.write_bytes(content)
    assert call(tmp_path, "ADD").addresses == ["10.1.2.2"]
    assert path.read_bytes() == b"10.1.2.2"


@pytest.mark.parametrize("entry", [b"", b"{", b"[]", b"null", b'{"content": 5}', b"\xff", b"[" * 100_000])
def test_a_torn_index(entry: bytes, tmp_path: Path) -> None:
    """Whatever is in the files of the index, leases are kept and found."""
    call(tmp_path, "ADD")
    beside = tmp_path / ".cni-py" / "net"
    mark = (tmp_path / "net").stat().st_mtime_ns
    for path in beside.iterdir():
        path.write_bytes(entry)
    assert mark == (tmp_path / "net").stat().st_mtime_ns
    assert call(tmp_path, "ADD", "c2").addresses == ["10.1.2.3"]
    assert "duplicate allocation" in call(tmp_path, "ADD").message
    assert [call(tmp_path, "DEL", container).code for container in ("c1", "c2")] == [0, 0]
    assert list((tmp_path / "net").glob("10.*")) == []


@pytest.mark.parametrize("obstacle", ["link", "FIFO", "file"])
def test_the_index_cannot_be(obstacle: str, tmp_path: Path) -> None:
    """Without a place for the index ADD fails and says where, DEL still works."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "10.1.2.2").write_bytes(b"c1\r\neth0")
    beside = tmp_path / ".cni-py" / "net"
    beside.parent.mkdir()
    make = OBSTACLES.get(obstacle, Path.touch)
    make(beside)
    outcome = call(tmp_path, "ADD", "c2")
    assert (outcome.document["code"], str(beside) in outcome.message) == (5, True)
    assert call(tmp_path, "DEL").code == 0
    assert list((tmp_path / "net").glob("10.*")) == []


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "STATUS"])
def test_the_data_directory_is_a_file(command: str, tmp_path: Path) -> None:
    """A plain file in the place of the directory is an error that names it: 5, and 50 from STATUS."""
    (tmp_path / "file").write_text("")
    outcome = call(tmp_path / "file", command)
    assert (50 if command == "STATUS" else 5) == outcome.document["code"]
    assert str(tmp_path / "file") in outcome.message


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """File names and contents that are not UTF-8 do no harm."""
    network = tmp_path / "net"
    network.mkdir()
    Path(os.fsdecode(bytes(network) + b"/\xff\xfe")).write_bytes(b"\xff\xfe")
    assert call(tmp_path, "ADD").addresses == ["10.1.2.2"]
    assert call(tmp_path, "DEL").code == 0


def test_a_restored_backup(tmp_path: Path) -> None:
    """Leases taken back from a backup, times and all, under a newer index are found and released."""
    call(tmp_path, "ADD")
    subprocess.run(["cp", "-a", str(tmp_path / "net"), str(tmp_path / "backup")], check=True)
    call(tmp_path, "DEL")
    subprocess.run(["rm", "-r", str(tmp_path / "net")], check=True)
    (tmp_path / "backup").rename(tmp_path / "net")
    assert call(tmp_path, "DEL").code == 0
    assert list((tmp_path / "net").glob("10.*")) == []


def test_the_same_work_at_any_size(tmp_path: Path) -> None:
    """ADD and DEL make as many system calls among 500 leases as in an empty network, which time could not show."""

    def calls(command: str, container: str) -> int:
        disk = FaultyDisk(0, 0)
        assert call_on(tmp_path, command, container, disk, now_s=1e6).code == 0
        return -disk.left

    network = tmp_path / "net"
    call_on(tmp_path, "ADD", "first")
    few = [calls("ADD", "a"), calls("DEL", "a")]
    for number in range(500):
        (network / f"10.9.{number // 250}.{number % 250}").write_bytes(f"x{number}\r\neth0".encode())
    call_on(tmp_path, "DEL", "nobody")
    assert few == [calls("ADD", "b"), calls("DEL", "b")]


@pytest.mark.sudo
def test_a_full_disk(tmp_path: Path) -> None:
    """Out of inodes ADD fails with 5 and leaves nothing, STATUS says 50, DEL still frees, and then ADD works again."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=24", "tmpfs", str(tmp_path)], check=True)
    assert call(tmp_path, "ADD").addresses == ["10.1.2.2"]
    fillers: list[Path] = []
    while True:
        filler = tmp_path / f"filler{len(fillers)}"
        try:
            filler.write_text("")
        except OSError:
            break
        fillers.append(filler)
    before = sorted(path.name for path in (tmp_path / "net").iterdir())
    full = call(tmp_path, "ADD", "c2")
    assert (5, "full" in full.document["details"]) == (full.document["code"], True)
    assert before == sorted(path.name for path in (tmp_path / "net").iterdir())
    assert call(tmp_path, "STATUS").document["code"] == 50
    assert call(tmp_path, "DEL").code == 0
    assert list((tmp_path / "net").glob("10.*")) == []
    fillers[0].unlink()
    assert call(tmp_path, "ADD", "c2").addresses == ["10.1.2.3"]


@pytest.mark.sudo
def test_a_full_disk_without_an_index(tmp_path: Path) -> None:
    """DEL of a lease that only host-local knows of works where not even the index can be made."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4", "tmpfs", str(tmp_path)], check=True)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "lock").write_text("")
    (tmp_path / "net" / "10.1.2.2").write_bytes(b"c1\r\neth0")
    assert call(tmp_path, "DEL").code == 0
    assert list((tmp_path / "net").glob("10.*")) == []


@pytest.mark.sudo
def test_a_read_only_disk(tmp_path: Path) -> None:
    """Read-only: ADD is 5, STATUS 50, DEL of a lease 5 (a lie would lose the address), DEL of nothing 0."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True)
    call(tmp_path, "ADD")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(tmp_path)], check=True)
    refused = call(tmp_path, "ADD", "c2")
    assert (refused.document["code"], "read-only" in refused.document["details"]) == (5, True)
    assert call(tmp_path, "STATUS").document["code"] == 50
    assert call(tmp_path, "CHECK").code == 0
    assert call(tmp_path, "DEL").document["code"] == 5
    assert call(tmp_path, "DEL", "nobody").code == 0
