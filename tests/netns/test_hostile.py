"""What is in the way of a call: hostile stdin as a process gets it, foreign files, full and read-only disks.

Each gives the CNI error JSON with the right code and a text that says what to do, and leaves nothing.
"""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import lines, node, output

from cni_py.kernel.kernels import NodeKernels
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from cni_py.model.attachment import Key, host_ifname
from cni_py.model.errors import MissingFeatureError
from cni_py.model.net import Link
from cni_py.model.ops import AddLink

pytestmark = pytest.mark.sudo

STATE = Path("/var/lib/cni-py")
RECORDS = STATE / "attachments/net"
KEY = Key("net", "c1", "eth0")
RECORD = RECORDS / f"{KEY.digest()[:32]}.json"


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    """Container c1 and a CNI_PATH with our program under all its names."""
    netns("c1")
    return Caller(install(tmp_path / "bin"))


STDIN = {
    "nothing": (b"", 6),
    "64 MiB of nothing": (b" " * (64 << 20), 6),
    "64 MiB in a string": (b'{"name": "' + b"a" * (64 << 20) + b'"}', 6),
    "a hundred thousand brackets": (b"[" * 100000, 6),
    "nested objects": (b'{"a":' * 100000 + b"1" + b"}" * 100000, 6),
    "truncated": (json.dumps(routed()).encode()[:-20], 6),
    "not UTF-8": (b'{"cniVersion": "1.0.0", "name": "\xc3\x28"}', 6),
    "UTF-16": (json.dumps(routed()).encode("utf-16"), 6),
    "NUL": (b'{"cniVersion": "1.0.0", "name": "a\\u0000b"}', 7),
    "a huge integer": (b'{"cniVersion": "1.0.0", "name": "n", "ipam": {"type": "x"}, "mtu": ' + b"9" * 4000 + b"}", 7),
    "a name of 1 MiB": (json.dumps({**routed(), "name": "n" * (1 << 20)}).encode(), 5),
}


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
@pytest.mark.parametrize("name", STDIN)
def test_stdin(name: str, verb: str, caller: Caller) -> None:
    """An error with its code, as a process of its own, and nothing left; DEL fails only for what it cannot read."""
    data, code = STDIN[name]
    before = lines(node("c1"))
    status, document = caller.process(verb, data)
    if verb == "ADD" or code == 6:
        assert (status, document["code"]) == (1, code)
        assert document["details"] or code == 7
    assert before == lines(node("c1"))


def test_closed_stdin(caller: Caller) -> None:
    """No stdin at all is code 5, as what could not be read is."""
    command = ["sh", "-c", f'exec "{caller.path}/cni-py" <&-']
    done = subprocess.run(command, env={**os.environ, **caller.environ("ADD")}, capture_output=True, check=False)
    assert json.loads(done.stdout)["code"] == 5
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("how", [">&-", ">/dev/full"])
def test_stdout_takes_nothing(how: str, caller: Caller) -> None:
    """A caller that took no answer sees a failure, no traceback; its DEL cleans up."""
    command = ["sh", "-c", f'exec "{caller.path}/cni-py" {how}']
    done = subprocess.run(
        command,
        input=json.dumps(routed()).encode(),
        env={**os.environ, **caller.environ("ADD")},
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    caller.delete(routed())
    assert node("c1")["files"] == {}


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _text(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a link to elsewhere": _link,
    "a FIFO": os.mkfifo,
    "a directory": lambda path: path.mkdir(),
    "nothing in it": _text(b""),
    "half a record": _text(b'{"version": 1, "key": {"network": "net"'),
    "binary": _text(bytes(range(256))),
    "a record of another version": _text(b'{"version": 99}'),
    "a list": _text(b"[1, 2]"),
    "nested": _text(b"[" * 100000),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_foreign_file_for_a_record(name: str, caller: Caller) -> None:
    """Where a record should be is something else: ADD and DEL work, never following or waiting for it."""
    RECORDS.mkdir(parents=True)
    IN_THE_WAY[name](RECORD)
    code, document = caller.verb("ADD", routed())
    if name == "a directory":  # the one thing that a rename cannot replace
        assert (document["code"], str(RECORD) in document["msg"]) == (5, True)
        assert "eth0" not in output("ip", "-n", "c1", "-o", "link")
        return
    assert code == 0, document
    caller.delete({**routed(), "prevResult": document})
    assert node("c1")["files"] == {}
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_foreign_file_beside_records(name: str, caller: Caller) -> None:
    """A file that is no record does not stop another container's ADD and DEL; GC goes on and names it."""
    RECORDS.mkdir(parents=True)
    IN_THE_WAY[name](RECORDS / "foreign.json")
    caller.add(routed(ipMasq=True))
    assert caller.verb("STATUS", routed()) == (0, None)
    code, document = caller.verb("GC", {**routed(), "cni.dev/valid-attachments": []})
    assert (code, "foreign.json" in document["msg"] + document["details"]) == (1, True)
    assert "eth0" not in output("ip", "-n", "c1", "-o", "link")
    caller.delete(routed(ipMasq=True))


def test_half_written_record(caller: Caller) -> None:
    """What a killed ADD of a container that never comes back left of its record goes with the next GC."""
    caller.add(routed())
    (RECORDS / ".0123.json.new").write_text('{"version": 1, "ke')
    listed = [{"containerID": "c1", "ifname": "eth0"}]
    assert caller.verb("GC", {**routed(), "cni.dev/valid-attachments": listed}) == (0, None)
    assert list(RECORDS.iterdir()) == [RECORD]


def test_record_is_lost(caller: Caller) -> None:
    """DEL without the record, which somebody removed: link, elements and lease go all the same."""
    config = routed(ipMasq=True, runtimeConfig={"portMappings": [{"hostPort": 8080, "containerPort": 80}]})
    result = caller.add(config)
    RECORD.unlink()
    caller.delete({**config, "prevResult": result})
    assert node("c1")["files"] == {}
    assert host_ifname(KEY) not in output("ip", "-o", "link")
    assert "8080" not in node()["host"]["nft"]


def _small_disk(path: Path, options: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)


def _fill(path: Path) -> None:
    """Not one page is left, though there is a file for what may still be overwritten."""
    fd = os.open(path / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
    with suppress(OSError):
        while True:
            os.write(fd, b"x" * 4096)
    os.close(fd)


def _full(path: Path) -> None:
    _small_disk(path, "size=64k,mode=0700")
    _fill(path)


FULL: dict[str, Callable[[Path], None]] = {
    "no space": _full,
    "no inodes": lambda path: _small_disk(path, "nr_inodes=1,mode=0700"),
    "read-only": lambda path: _small_disk(path, "ro,mode=0700"),
}


@pytest.mark.parametrize("where", [STATE, Path("/var/lib/cni/networks")], ids=["records", "leases"])
@pytest.mark.parametrize("how", FULL)
def test_disk(how: str, where: Path, caller: Caller) -> None:
    """A disk that takes nothing: code 5 that names the path and says what to do, before the kernel is touched."""
    FULL[how](where)
    before = lines({name: state for name, state in node("c1").items() if name != "files"})
    code, document = caller.verb("ADD", routed())
    assert (code, document["code"]) == (1, 5), document
    assert str(where) in document["msg"]
    assert document["details"]
    assert before == lines({name: state for name, state in node("c1").items() if name != "files"})
    assert caller.verb("STATUS", routed())[1]["code"] == 50


@pytest.mark.parametrize("how", ["no space", "read-only"])
def test_del_on_a_bad_disk(how: str, caller: Caller) -> None:
    """A full disk does not keep a container from going; on a read-only one DEL says that the record stays."""
    _small_disk(STATE, "size=64k,mode=0700")
    caller.add(routed())
    if how == "no space":
        _fill(STATE)
        caller.delete(routed())
        assert list(RECORDS.glob("*")) == []
        return
    subprocess.run(["mount", "-o", "remount,bind,ro", STATE], check=True)
    code, document = caller.verb("DEL", routed())
    assert (code, document["code"]) == (1, 5)
    assert host_ifname(KEY) not in output("ip", "-o", "link")


class NoSuchFeature(NetlinkSocket):
    """A kernel that knows no kind of link."""

    def send_batch(self, messages: Sequence[bytes]) -> None:
        """Refused as the kernel refuses what it was built without."""
        if messages:
            raise NetlinkError(0, errno.EOPNOTSUPP, "Unknown device type")


def test_missing_feature() -> None:
    """A feature that the kernel lacks is named with the change that needs it."""
    netns("c1")
    kernels = NodeKernels(open_socket=lambda: NoSuchFeature(NETLINK_ROUTE))
    ifb = Link("host", "x", "ifb")
    with (
        kernels.host() as kernel,
        pytest.raises(MissingFeatureError, match=r"make ifb 'x'.*Unknown device type") as caught,
    ):
        kernel.apply([AddLink(ifb)])
    assert "load its module" in caught.value.details


def test_unknown_option_names_the_nearest(caller: Caller) -> None:
    """A typo is told, with what was meant, before anything is done; also in the section of our IPAM plugin."""
    code, document = caller.verb("ADD", bridged(isDefaultGatway=True))
    assert (code, "did you mean 'isDefaultGateway'" in document["details"]) == (1, True)
    config: dict[str, Any] = routed(ipam={"type": "cni-py-ipam", "subnet": "10.7.0.0/24", "gatway": "10.7.0.1"})
    code, document = caller.verb("ADD", config)
    assert (code, "gateway" in document["msg"] + document["details"]) == (1, True)
    assert "eth0" not in output("ip", "-n", "c1", "-o", "link")


def test_bytes_that_are_no_text(caller: Caller) -> None:
    """Environment variables that are no UTF-8 are refused, not tripped over."""
    environ = {os.fsencode(key): os.fsencode(value) for key, value in caller.environ("ADD").items()}
    for name in (b"CNI_CONTAINERID", b"CNI_IFNAME", b"CNI_NETNS"):
        command = [os.fsencode(caller.path / "cni-py")]
        stdin = json.dumps(routed()).encode()
        odd = {**environ, name: b"\xff\xfe", b"PATH": os.environb[b"PATH"]}
        done = subprocess.run(command, input=stdin, env=odd, capture_output=True, check=False)
        assert json.loads(done.stdout)["code"] in (4, 8)
        assert b"Traceback" not in done.stderr


def test_same_digest_in_no_other_network() -> None:
    """Names are made of network, container and interface together, so no two attachments share one."""
    keys = [Key("a", "bc", "d"), Key("ab", "c", "d"), Key("a", "b", "cd"), Key("a", "bc", "e")]
    assert len({host_ifname(key) for key in keys}) == len(keys)
    assert len({replace(key).digest() for key in keys}) == len(keys)
