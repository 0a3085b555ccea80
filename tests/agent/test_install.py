"""`cni-py install` and `uninstall`: files whole or not at all, in the right order, and nothing left at the end."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent.live import SHIM, running
from netns.plugin import PROGRAM, ROOT, Caller, bridged, netns, routed
from netns.snapshot import node, settled

from cni_py.spec import frame

SHIPPED = (ROOT / "conf/10-cni-py.conflist").read_bytes()
NAMES = ["cni-py", "cni-py-ipam", "cni-py-policy", "loopback"]


def cni_py(*arguments: str | Path, expected: int = 0) -> str:
    """What the command prints on either channel."""
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=30)
    text = done.stdout + done.stderr
    assert done.returncode == expected, text
    assert "Traceback" not in text
    return text


class Host:
    """A node's two directories."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.conf = directory / "net.d"

    def install(self, *arguments: str | Path, expected: int = 0) -> str:
        """Forwarders and configuration."""
        return cni_py("install", "--bin-dir", self.bin, "--conf-dir", self.conf, *arguments, expected=expected)

    def uninstall(self, *arguments: str, expected: int = 0) -> str:
        """Neither."""
        return cni_py("uninstall", "--bin-dir", self.bin, "--conf-dir", self.conf, *arguments, expected=expected)

    def files(self) -> list[str]:
        """All that is there."""
        return sorted(path.name for path in (*self.bin.glob("*"), *self.conf.glob("*")))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An empty one."""
    return Host(tmp_path)


def state(directory: Path) -> dict[str, tuple[int, int, int]]:
    """{name: inode, time, mode}: what a second run must not change."""
    found = {path.name: path.lstat() for path in directory.iterdir()}
    return {name: (one.st_ino, one.st_mtime_ns, one.st_mode) for name, one in found.items()}


@contextmanager
def small_disk(path: Path, kib: int) -> Iterator[None]:
    """A file system of that size at `path`."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0755", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.sudo
def test_binaries(host: Host) -> None:
    """The forwarder under three names, executable; a second run changes nothing."""
    cni_py("install", "--bin-dir", host.bin)
    assert sorted(path.name for path in host.bin.iterdir()) == NAMES
    for path in host.bin.iterdir():
        assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (SHIM.read_bytes(), 0o755)
    before = state(host.bin)
    assert "written" not in cni_py("install", "--bin-dir", host.bin)
    assert state(host.bin) == before


@pytest.mark.sudo
def test_what_is_in_the_place(host: Host, tmp_path: Path) -> None:
    """A link is replaced and not followed, an old file is replaced, somebody else's loopback stays."""
    host.bin.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (host.bin / "cni-py").symlink_to(victim)
    (host.bin / "cni-py-ipam").write_text("an older release")
    (host.bin / "loopback").write_text("the reference's")
    assert "somebody else's, left alone" in cni_py("install", "--bin-dir", host.bin)
    assert victim.read_text() == "precious"
    assert not (host.bin / "cni-py").is_symlink()
    assert (host.bin / "cni-py-ipam").read_bytes() == SHIM.read_bytes()
    assert (host.bin / "loopback").read_text() == "the reference's"


@pytest.mark.sudo
def test_our_older_loopback_is_replaced(host: Host) -> None:
    """A forwarder of another release, which is known by the socket's path inside."""
    host.bin.mkdir()
    (host.bin / "loopback").write_bytes(b"\x7fELF old " + frame.SOCKET.encode())
    cni_py("install", "--bin-dir", host.bin)
    assert (host.bin / "loopback").read_bytes() == SHIM.read_bytes()


@pytest.mark.sudo
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_others_can_write_there(host: Host, mode: int) -> None:
    """Nothing is put where others can replace it: they would be root."""
    host.bin.mkdir()
    host.bin.chmod(mode)
    assert "can be written by others" in cni_py("install", "--bin-dir", host.bin, expected=1)
    assert list(host.bin.iterdir()) == []


@pytest.mark.sudo
def test_a_directory_in_the_place(host: Host) -> None:
    """It is said what stands there, and no temporary file stays."""
    (host.bin / "cni-py").mkdir(parents=True)
    assert "a directory stands in the place" in cni_py("install", "--bin-dir", host.bin, expected=1)
    assert [path.name for path in host.bin.iterdir()] == ["cni-py"]


@pytest.mark.sudo
def test_full_disk(host: Host) -> None:
    """Where one file has no room none is replaced, and nothing is left."""
    with small_disk(host.bin, 48):
        (host.bin / "cni-py").write_text("old")
        assert "No space left" in cni_py("install", "--bin-dir", host.bin, expected=1)
        assert [(path.name, path.read_text()) for path in host.bin.iterdir()] == [("cni-py", "old")]


@pytest.mark.sudo
def test_read_only(host: Host) -> None:
    """It is said why and what to look at; where all is as it should be, a read-only directory is no problem."""
    with small_disk(host.bin, 1024):
        subprocess.run(["mount", "-o", "remount,ro", host.bin], check=True)
        assert "mounted here for writing?" in cni_py("install", "--bin-dir", host.bin, expected=1)
        subprocess.run(["mount", "-o", "remount,rw", host.bin], check=True)
        cni_py("install", "--bin-dir", host.bin)
        subprocess.run(["mount", "-o", "remount,ro", host.bin], check=True)
        cni_py("install", "--bin-dir", host.bin)


@pytest.mark.sudo
def test_interrupted(host: Host) -> None:
    """What an install that was killed before its renames left is gone after the next."""
    host.bin.mkdir()
    for name in ("cni-py", "other"):
        (host.bin / f".cni-py.{name}.new").write_text("half")
    cni_py("install", "--bin-dir", host.bin)
    assert sorted(path.name for path in host.bin.iterdir()) == NAMES


@pytest.mark.sudo
def test_two_at_once(host: Host) -> None:
    """Ten installs at once all succeed, and the outcome is that of one."""
    command: list[str | Path] = [PROGRAM, "install", "--bin-dir", host.bin]
    running_ones = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(10)]
    for one in running_ones:
        _, error = one.communicate(timeout=30)
        assert (one.returncode, error) == (0, b"")
    assert sorted(path.name for path in host.bin.iterdir()) == NAMES


@pytest.mark.sudo
def test_configuration_comes_last(host: Host) -> None:
    """Without an agent the binaries are there and the configuration is not; with one it is, and stays as it is."""
    said = host.install("--wait", "0.3", expected=1)
    assert f"{host.bin}/cni-py: written" in said
    assert "no agent answers" in said
    assert host.files() == NAMES
    with running(host.bin.parent):
        assert f"{host.conf}/10-cni-py.conflist: written" in host.install()
        written = host.conf / "10-cni-py.conflist"
        assert (written.read_bytes(), written.stat().st_mode & 0o7777) == (SHIPPED, 0o644)
        before = state(host.conf)
        host.install()
        assert state(host.conf) == before


@pytest.mark.sudo
def test_waits_for_the_agent(host: Host) -> None:
    """An install that began first goes on when the agent answers; one that listens but does not answer is none."""
    Path(frame.SOCKET).parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(frame.SOCKET)
        mute.listen()
        assert "no agent answers" in host.install("--wait", "0.3", expected=1)
    command: list[str | Path] = [PROGRAM, "install", "--bin-dir", host.bin, "--conf-dir", host.conf, "--wait", "60"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as waiting, running(host.bin.parent):
        assert waiting.wait(60) == 0
    assert (host.conf / "10-cni-py.conflist").exists()


@pytest.mark.sudo
def test_an_init_container(host: Host) -> None:
    """The order of a DaemonSet: binaries by the init container, then the agent, which writes the configuration."""
    cni_py("install", "--bin-dir", host.bin)
    host.conf.mkdir()
    (host.conf / "05-other.conflist").write_text("{}")
    with running(host.bin.parent, "--conf-dir", str(host.conf)) as agent:
        netns("c1")
        assert Caller(host.bin, "c1", "/run/netns/c1").process("ADD", routed())[0] == 0
        status = json.loads(cni_py("status", "-o", "json"))
        assert status["ready"] == "yes"
        (host.conf / "10-cni-py.conflist").unlink()
        assert "is not in" in json.loads(cni_py("status", "-o", "json"))["ready"]
        assert f"runtimes take {host.conf}/05-other.conflist first" in agent.log.read_text()


@pytest.mark.sudo
def test_the_agent_leaves_the_configuration(host: Host) -> None:
    """It is there when the agent is ready, and stays when it stops: the forwarders wait for the next one."""
    with running(host.bin.parent, "--conf-dir", str(host.conf)):
        assert host.files() == ["10-cni-py.conflist"]
    assert host.files() == ["10-cni-py.conflist"]


@pytest.mark.sudo
@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"name": "x"}', '{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "bridge"}]}', "\xff\0"],
)
def test_no_configuration(host: Host, content: str) -> None:
    """What is none is refused before anything is touched, by install and by the agent."""
    source = host.bin.parent / "x.conflist"
    source.write_bytes(content.encode("latin-1"))
    host.install("--conflist", source, expected=1)
    assert host.files() == []
    cni_py("agent", "--conf-dir", host.conf, "--conflist", source, expected=1)


@pytest.mark.sudo
def test_uninstall_when_nothing_is_there(host: Host) -> None:
    """It says so, as often as one likes, and makes nothing."""
    for _ in range(2):
        assert host.uninstall() == "nothing of cni-py is left\n"
    assert not host.bin.exists()


@pytest.mark.sudo
@pytest.mark.parametrize(
    "config", [routed(ipMasq=True), bridged(ipMasq=True, macspoofchk=True)], ids=["routed", "bridge"]
)
@pytest.mark.parametrize("with_agent", [True, False])
def test_uninstall_with_attachments(host: Host, config: dict[str, Any], with_agent: bool) -> None:
    """Refused with the configuration gone and the network whole; forced, nothing is left, by the agent or without."""
    netns("c1", "c2")
    with running(host.bin.parent):
        host.install()
        for name in ("c1", "c2"):
            caller = Caller(host.bin, name, f"/run/netns/{name}")
            assert caller.process("ADD", {**config, "runtimeConfig": {"portMappings": [], "bandwidth": {}}})[0] == 0
        before = settled(node("c1", "c2"))
        refused = host.uninstall(expected=1)
        assert "2 interfaces are attached" in refused
        assert "eth0 of container c1 in network net" in refused
        assert settled(node("c1", "c2")) == before
        assert host.files() == NAMES
        if with_agent:
            left = host.uninstall("--force", expected=1)
            assert "an agent serves; stop it" in left
            assert left.count("detached") == 2
    said = host.uninstall(*([] if with_agent else ["--force"]))
    assert said.endswith("nothing of cni-py is left\n")
    assert host.files() == []
    assert not Path("/run/cni-py").exists()
    after = node()
    assert (after["host"]["nft"], after["files"]) == ("", {})
    assert set(after["host"]["links"]) <= {"lo", "cni0"}
    assert not Path("/var/lib/cni-py").exists()
    assert not Path("/var/lib/cni/networks").exists()


@pytest.mark.sudo
def test_uninstall_spares_others(host: Host) -> None:
    """Another's configuration, loopback, leases and state stay; what only uses our IPAM is told."""
    host.bin.mkdir()
    host.conf.mkdir()
    (host.bin / "loopback").write_text("the reference's")
    (host.conf / "20-other.conflist").write_text('{"plugins": [{"type": "bridge"}]}')
    leases = Path("/var/lib/cni/networks/other")
    leases.mkdir(parents=True)
    (leases / "10.1.1.1").write_text("x\r\neth0")
    assert host.uninstall() == "nothing of cni-py is left\n"
    assert host.files() == ["20-other.conflist", "loopback"]
    assert (leases / "10.1.1.1").exists()
    (host.conf / "20-other.conflist").write_text('{"plugins": [{"type": "bridge", "ipam": {"type": "cni-py-ipam"}}]}')
    assert "which uses cni-py-ipam" in host.uninstall(expected=1)


@pytest.mark.sudo
def test_uninstall_of_a_shared_state_directory(host: Host, tmp_path: Path) -> None:
    """A state and a data directory that others use too lose what is ours, file by file, and nothing else."""
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("precious", "net.txt"):
        (shared / name).write_text("precious")
    netns("c1")
    config = routed(stateDir=str(shared))
    config["ipam"] = {**config["ipam"], "dataDir": str(shared)}
    with running(host.bin.parent):
        host.install()
        assert Caller(host.bin, "c1", "/run/netns/c1").process("ADD", config)[0] == 0
    assert host.uninstall("--force").endswith("nothing of cni-py is left\n")
    assert sorted(path.name for path in shared.iterdir()) == ["net.txt", "precious"]


@pytest.mark.sudo
def test_uninstall_tells_what_it_cannot_place(host: Host) -> None:
    """A damaged record and a device of ours without a record are left, named; --force takes the device."""
    subprocess.run(["ip", "link", "add", "cpy0123456789ab", "type", "veth", "peer", "name", "x0"], check=True)
    record = Path("/var/lib/cni-py/attachments/net/x.json")
    record.parent.mkdir(parents=True)
    record.write_text("{")
    said = host.uninstall(expected=1)
    assert "device cpy0123456789ab" in said
    assert str(record) in said
    record.unlink()
    assert host.uninstall("--force").endswith("nothing of cni-py is left\n")


def test_usage() -> None:
    """A configuration without a place for it is wrong usage."""
    assert "--conflist needs --conf-dir" in cni_py("install", "--bin-dir", "/x", "--conflist", "/y", expected=2)


@pytest.mark.sudo
@pytest.mark.parametrize(
    "config", [routed(ipMasq=True), bridged(ipMasq=True, macspoofchk=True)], ids=["routed", "bridge"]
)
def test_the_services_capabilities_are_enough(host: Host, config: dict[str, Any]) -> None:
    """With no capability but those of the unit file, and no way to get others, the agent carries out every verb."""
    unit = (ROOT / "deploy/systemd/cni-py.service").read_text()
    (line,) = (one for one in unit.splitlines() if one.startswith("CapabilityBoundingSet="))
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in line.partition("=")[2].split())
    bounded = ("setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs")
    netns("c1")
    cni_py("install", "--bin-dir", host.bin)
    config = {
        **config,
        "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
        "capabilities": {"portMappings": True, "bandwidth": True},
        "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}],
            "bandwidth": {
                "ingressRate": 8_000_000,
                "ingressBurst": 800_000,
                "egressRate": 8_000_000,
                "egressBurst": 800_000,
            },
        },
    }
    with running(host.bin.parent, "--conf-dir", str(host.conf), prefix=bounded):
        caller = Caller(host.bin, "c1", "/run/netns/c1")
        code, result = caller.process("ADD", config)
        assert code == 0, result
        valid = [{"containerID": "c1", "ifname": "eth0"}]
        for command, more in (
            ("CHECK", {"prevResult": result}),
            ("STATUS", {}),
            ("GC", {"cni.dev/valid-attachments": valid}),
            ("DEL", {"prevResult": result}),
        ):
            assert caller.process(command, {**config, **more}) == (0, None)
        for command in ("ADD", "DEL"):
            assert (
                caller.process(command, {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}, "loopback")[0] == 0
            )
    assert host.files() == sorted([*NAMES, "10-cni-py.conflist"])
