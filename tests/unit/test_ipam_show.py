"""`cni-py ipam show`: the table and the JSON of what is on disk."""

import json
from pathlib import Path

import pytest
from ipam.plugins import environment, in_process

from cni_py.cmd.ipam_show import render
from cni_py.model.errors import IOFailureError
from cni_py.store.lease_disk import OsDisk
from cni_py.store.lease_view import Site
from cni_py.store.leases import DiskLeaseStore


def fill(data_dir: Path) -> None:
    """One pod and one plain container in this boot, one lease of the Go plugin, one of a network of the last boot."""
    for name, container, boot, now_s, args in (
        ("blue", "c1", "boot-2", 100.0, "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0"),
        ("blue", "c2", "boot-2", 4000.0, ""),
        ("old", "c3", "boot-1", 5.0, ""),
    ):
        ipam = {"type": "cni-py-ipam", "subnet": "10.1.2.0/29", "dataDir": str(data_dir)}
        store = DiskLeaseStore(Site(boot, lambda now_s=now_s: now_s, OsDisk()))  # type: ignore[misc]  # a clock that stands
        config = {"cniVersion": "1.1.0", "name": name, "ipam": ipam}
        assert in_process(config, environment("ADD", container, args=args), store).code == 0
    (data_dir / "blue" / "10.1.2.5").write_bytes(b"go\x1b[31m\r\neth0")


def test_table(tmp_path: Path) -> None:
    """Networks, pools and leases in order of address; no control character of a foreign file gets through."""
    fill(tmp_path)
    expected = """\
network blue: 3 leases
  pool 10.1.2.1-10.1.2.6: 3 used, 2 free
ADDRESS   CONTAINER  IFNAME  OWNER      AGE  BOOT
10.1.2.2  c1         eth0    shop/db-0  2h   current
10.1.2.3  c2         eth0    -          66m  current
10.1.2.5  go?[31m    eth0    -          -    unknown

network old: 1 leases
  pool 10.1.2.1-10.1.2.6: 1 used, 4 free
ADDRESS   CONTAINER  IFNAME  OWNER  AGE  BOOT
10.1.2.2  c3         eth0    -      -    stale
"""
    assert expected == render(tmp_path, now_s=8000.0, boot="boot-2")


def test_json(tmp_path: Path) -> None:
    """The same as an object, of one network."""
    fill(tmp_path)
    shown = json.loads(render(tmp_path, "old", as_json=True, now_s=8000.0, boot="boot-2"))
    lease = {"address": "10.1.2.2", "container": "c3", "ifname": "eth0", "owner": "", "age_s": None, "boot": "stale"}
    pool = {"ranges": "10.1.2.1-10.1.2.6", "size": 5, "used": 1, "free": 4}
    assert {"dataDir": str(tmp_path), "networks": [{"network": "old", "pools": [pool], "leases": [lease]}]} == shown


def test_shows_and_changes_nothing(tmp_path: Path) -> None:
    """After a look every file and every time is as before."""
    fill(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    render(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_nothing_there(tmp_path: Path) -> None:
    """No directory, no leases; a network that is not there is an error that names those that are."""
    assert f"no leases in {tmp_path}/none\n" == render(tmp_path / "none")
    fill(tmp_path)
    with pytest.raises(IOFailureError) as raised:
        render(tmp_path, "grey")
    assert (raised.value.details, "'grey'" in raised.value.message) == ("there are: blue, old", True)
