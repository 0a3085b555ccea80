"""A fault at every system call of every verb: what is on disk afterwards is the old state or the new one."""

import errno
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ipam.disks import FaultyDisk, Killed, NoProcDisk, PlainDisk
from ipam.plugins import Outcome, environment, in_process

from cni_py.store.lease_disk import Disk, OsDisk
from cni_py.store.lease_view import Site
from cni_py.store.leases import DiskLeaseStore

CONFIG: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "net",
    "ipam": {
        "type": "cni-py-ipam",
        "ranges": [[{"subnet": "10.1.2.0/28"}], [{"subnet": "fd00::/124"}]],
        "reuseDelay": 1,
    },
    "cni.dev/valid-attachments": [{"containerID": "keep", "ifname": "eth0"}],
}
FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS, "EACCES": errno.EACCES, "killed": 0}


def call(
    data_dir: Path, command: str, container: str, disk: Disk | None = None, boot: str = "boot-1", now_s: float = 1.0
) -> Outcome:
    """One call over a disk of the given kind; the boot and the time are ours to choose."""
    config = CONFIG | {"ipam": {**CONFIG["ipam"], "dataDir": str(data_dir)}}
    store = DiskLeaseStore(Site(boot, lambda: now_s, disk or OsDisk()))
    return in_process(config, environment(command, container), store)


def leases(data_dir: Path) -> dict[str, bytes]:
    """{address: content} of the reservation files."""
    network = data_dir / "net"
    names = [path for path in network.glob("*") if not path.name.startswith(("lock", "last_", "."))]
    return {path.name: path.read_bytes() for path in names}


def prepared(kind: str, scratch: Path) -> Iterator[Path]:
    """Directories, without end, each in one of the states that a call can meet (no copies: inodes count)."""
    for number in count():
        fresh = scratch / str(number)
        fresh.mkdir()
        boot = "boot-0" if kind == "other boot" else "boot-1"
        if kind != "new":
            call(fresh, "ADD", "keep", boot=boot)
            call(fresh, "ADD", "c2", boot=boot)
        if kind == "foreign":
            (fresh / "net" / "10.1.2.9").write_bytes(b"c2\r\neth0")
        yield fresh


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["new", "marked", "foreign", "other boot"])
@pytest.mark.parametrize(("command", "container"), [("ADD", "c1"), ("DEL", "c2"), ("GC", "c2")])
def test_fault_at_every_step(command: str, container: str, kind: str, fault: str, tmp_path: Path) -> None:
    """A failed call is an I/O error and changed no lease of this boot; a killed one did a part that DEL takes back."""
    copies = prepared(kind, tmp_path)
    intact = next(copies)
    stale = leases(intact) if kind == "other boot" else {}
    old = {name: content for name, content in leases(intact).items() if name not in stale}
    done = call(intact, command, container)
    assert done.code == 0
    new = leases(intact)
    for at in range(1, 400):
        copy = next(copies)
        disk = FaultyDisk(at, FAULTS[fault], short=True)
        try:
            outcome = call(copy, command, container, disk)
        except Killed:
            outcome = None
        found = {name: content for name, content in leases(copy).items() if name not in stale or name in new}
        if not disk.fired:
            assert new == found
            break
        assert all(found.values()), "an empty reservation"
        if outcome is None or command != "ADD":
            assert (old.keys() & new.keys()) <= found.keys() <= (old.keys() | new.keys() | stale.keys())
        elif outcome.code:
            assert (5, old) == (outcome.document["code"], {name: found[name] for name in found if name not in stale})
        else:
            assert new == found
        recovered(copy, command, container, new)
        shutil.rmtree(copy)
    else:
        pytest.fail("the call has no end")


def recovered(data_dir: Path, command: str, container: str, new: dict[str, bytes]) -> None:
    """What a runtime does next works: DEL, then the call again, and then all is as if the fault had not been."""
    if command == "ADD":
        assert call(data_dir, "DEL", container).code == 0
        assert call(data_dir, "ADD", container, now_s=100.0).code == 0
        assert set(new.values()) == set(leases(data_dir).values())
        assert len(new) == len(leases(data_dir))
    else:
        assert call(data_dir, command, container).code == 0
        assert new == leases(data_dir)
    left = {path.name for path in data_dir.rglob(".cni-py-new")}
    assert set() == left
    assert call(data_dir, "CHECK", container if command == "ADD" else "keep").code == 0 or not new


class StickyDisk(OsDisk):
    """One file cannot be removed."""

    def unlink(self, name: str, directory: int) -> None:
        """As OsDisk, but for that file."""
        if name == "10.1.2.3":
            raise OSError(errno.EIO, "Input/output error")
        super().unlink(name, directory)


@pytest.mark.parametrize(("command", "container"), [("GC", "x"), ("DEL", "c2")])
def test_going_on_at_errors(command: str, container: str, tmp_path: Path) -> None:
    """A lease that cannot be released is reported at the end; all others are released, and the next call gets it."""
    for name in ("keep", "c2", "c3", "c4"):
        call(tmp_path, "ADD", name)
    expected = {"10.1.2.2", "fd00::2", "10.1.2.3"} | (
        set() if command == "GC" else {"10.1.2.4", "fd00::4", "10.1.2.5", "fd00::5"}
    )
    outcome = call(tmp_path, command, container, StickyDisk())
    assert (5, f"release {tmp_path}/net/10.1.2.3: input/output error") == (outcome.document["code"], outcome.message)
    assert expected == leases(tmp_path).keys()
    assert call(tmp_path, command, container).code == 0
    assert expected - {"10.1.2.3"} == leases(tmp_path).keys()


@pytest.mark.parametrize("disk", [PlainDisk(), NoProcDisk()], ids=["no O_TMPFILE", "no /proc"])
def test_other_ways_to_create(disk: Disk, tmp_path: Path) -> None:
    """Without O_TMPFILE or /proc the same files appear, and taken addresses are still taken."""
    assert call(tmp_path / "a", "ADD", "c1", disk).addresses == ["10.1.2.2", "fd00::2"]
    assert call(tmp_path / "a", "ADD", "c2", disk).addresses == ["10.1.2.3", "fd00::3"]
    (tmp_path / "a" / "net" / "last_reserved_ip.0").write_text("10.1.2.1")
    assert call(tmp_path / "a", "ADD", "c3", disk).addresses == ["10.1.2.4", "fd00::4"]
    for number in (1, 2, 3):
        call(tmp_path / "b", "ADD", f"c{number}")
    assert leases(tmp_path / "b") == leases(tmp_path / "a")
    assert {0o100600} == {path.stat().st_mode for path in (tmp_path / "a" / "net").glob("[1f]*")}
