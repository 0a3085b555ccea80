"""Which leases a reboot takes: histories that only an adversary or bad luck would choose, one test each."""

import errno
import os
from pathlib import Path

from ipam.test_ipam_faults import call, leases

from cni_py.store.lease_disk import OsDisk


def foreign(data_dir: Path, name: str, container: str) -> None:
    """Another plugin makes a lease."""
    (data_dir / "net" / name).write_bytes(f"{container}\r\neth0".encode())


def test_seen_in_an_earlier_boot(tmp_path: Path) -> None:
    """A foreign lease that we saw in an earlier boot goes, also if others wrote since; an unseen one stays once."""
    call(tmp_path, "ADD", "c1")
    foreign(tmp_path, "10.1.2.9", "seen")
    call(tmp_path, "DEL", "nobody")
    foreign(tmp_path, "10.1.2.10", "unseen")
    call(tmp_path, "DEL", "nobody", boot="boot-2")
    assert {"10.1.2.10"} == leases(tmp_path).keys()
    foreign(tmp_path, "10.1.2.11", "new")
    call(tmp_path, "DEL", "nobody", boot="boot-3")
    assert {"10.1.2.11"} == leases(tmp_path).keys()


def test_the_same_lease_made_again(tmp_path: Path) -> None:
    """The same address for the same container, made anew by another plugin in this boot, is of this boot."""
    call(tmp_path, "ADD", "c1")
    path = tmp_path / "net" / "10.1.2.2"
    content = path.read_bytes()
    path.rename(tmp_path / "elsewhere")  # so that the new file cannot get the same inode
    path.write_bytes(content)
    call(tmp_path, "DEL", "nobody", boot="boot-2")
    assert {"10.1.2.2": content} == leases(tmp_path)


def test_power_loss(tmp_path: Path) -> None:
    """When the index's files are torn but the mark stands, nobody wrote since: all leases are of the earlier boot."""
    call(tmp_path, "ADD", "c1")
    for path in (tmp_path / ".cni-py" / "net").glob("held.*"):
        path.write_bytes(b"")
    assert call(tmp_path, "CHECK", "c1", boot="boot-2").code == 1
    assert call(tmp_path, "ADD", "c2", boot="boot-2").addresses == ["10.1.2.3", "fd00::3"]
    assert {"10.1.2.3", "fd00::3"} == leases(tmp_path).keys()


def test_all_torn(tmp_path: Path) -> None:
    """When nothing of the index is left, leases stay for this boot and go at the next."""
    call(tmp_path, "ADD", "c1")
    for path in (tmp_path / ".cni-py" / "net").iterdir():
        path.write_bytes(b"")
    call(tmp_path, "DEL", "nobody", boot="boot-2")
    assert {"10.1.2.2", "fd00::2"} == leases(tmp_path).keys()
    call(tmp_path, "DEL", "nobody", boot="boot-3")
    assert leases(tmp_path) == {}


def test_the_index_keeps_no_dead(tmp_path: Path) -> None:
    """After another plugin's DEL our next change forgets the lease, so the index does not grow."""
    call(tmp_path, "ADD", "c1")
    (tmp_path / "net" / "10.1.2.2").unlink()
    (tmp_path / "net" / "fd00::2").unlink()
    call(tmp_path, "DEL", "nobody")
    assert [path.name for path in (tmp_path / ".cni-py" / "net").iterdir()] == ["state"]


class RefusingDisk(OsDisk):
    """Files of a kind cannot be written; if `stuck`, from the first refusal on none can be removed."""

    def __init__(self, kind: str, *, stuck: bool) -> None:
        self.kind = kind
        self.stuck = stuck
        self.refused = False

    def open(self, path: str, flags: int, mode: int, directory: int | None) -> int:
        """As OsDisk, but for files of that kind."""
        if path.startswith(self.kind) and flags & os.O_CREAT:
            self.refused = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().open(path, flags, mode, directory)

    def unlink(self, name: str, directory: int) -> None:
        """As OsDisk until an entry was refused."""
        if self.refused and self.stuck:
            raise OSError(errno.EIO, "Input/output error")
        super().unlink(name, directory)


def test_an_unwritable_index(tmp_path: Path) -> None:
    """A lease whose boot cannot be recorded is not given."""
    outcome = call(tmp_path, "ADD", "c1", RefusingDisk("held.", stuck=False))
    assert (outcome.document["code"], leases(tmp_path)) == (5, {})


def test_an_undo_that_fails(tmp_path: Path) -> None:
    """What an ADD could neither finish nor undo is found by the container's DEL."""
    call(tmp_path, "ADD", "c1")
    assert call(tmp_path, "ADD", "c2", RefusingDisk("last_reserved_ip.1", stuck=True)).document["code"] == 5
    assert {"10.1.2.2", "fd00::2", "10.1.2.3", "fd00::3"} == leases(tmp_path).keys()
    assert call(tmp_path, "DEL", "c2").code == 0
    assert {"10.1.2.2", "fd00::2"} == leases(tmp_path).keys()
