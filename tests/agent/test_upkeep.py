"""What the agent does by itself: it puts back what somebody took, collects what is dead, and nothing that lives."""

import json
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.live import SHIM
from netns.plugin import PROGRAM, Caller, bridged, netns, routed
from netns.snapshot import node, output, settled

pytestmark = [pytest.mark.sudo, pytest.mark.timeout(120)]

RECORDS = Path("/var/lib/cni-py/attachments/net")
LEASES = Path("/var/lib/cni/networks/net")
SPOOL = Path("/run/cni-py/del")
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
MODES: dict[str, Callable[..., dict[str, Any]]] = {"routed": routed, "bridge": bridged}


class Agent:
    """An agent whose log lines are events."""

    def __init__(self, *arguments: str) -> None:
        command: list[str | Path] = [PROGRAM, "agent", "--listen", "", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self._text = b""
        self.until("serves on")

    def until(self, words: str, seconds: float = 30) -> None:
        """The agent has said it, now or since the last call."""
        assert self.process.stderr is not None
        while words.encode() not in self._text:
            ready, _, _ = select.select([self.process.stderr], [], [], seconds)
            part = os.read(self.process.stderr.fileno(), 1 << 16) if ready else b""
            assert part, f"the agent never said {words!r}, but: {self._text.decode()}"
            self._text += part
        self._text = self._text.partition(words.encode())[2]

    def until_quiet(self) -> None:
        """What is at work now is done: a call of its own, answered in its turn, comes after it."""
        environ = {"CNI_COMMAND": "STATUS", "CNI_PATH": "/nowhere", "PATH": os.environ["PATH"]}
        stdin = json.dumps({"cniVersion": "1.1.0", "name": "quiet"}).encode()
        subprocess.run([SHIM], input=stdin, env=environ, check=True, stdout=subprocess.DEVNULL)

    def end(self, *, kill: bool = False) -> None:
        """It has ended, without a traceback."""
        (self.process.kill if kill else self.process.terminate)()
        _, rest = self.process.communicate(timeout=30)
        assert b"Traceback" not in self._text + rest
        assert kill or self.process.returncode == 0


@contextmanager
def running(*arguments: str) -> Iterator[Agent]:
    """An agent for the block."""
    agent = Agent(*arguments)
    try:
        yield agent
    finally:
        if agent.process.poll() is None:
            agent.end()


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    """Containers c1 and c2, and the shim under all our names."""
    netns("c1", "c2")
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("cni-py", "cni-py-ipam"):
        (path / name).symlink_to(SHIM)
    return Caller(path)


def add(caller: Caller, config: dict[str, Any]) -> Any:
    """ADD by the shim, which must succeed."""
    code, document = caller.process("ADD", config)
    assert code == 0, document
    return document


def veth() -> str:
    """The host's end of the one attachment."""
    return next(str(name) for name in node()["host"]["links"] if name.startswith("cpy"))


# How to take it away, and what the agent says when it is back.
DAMAGE = {
    "the whole ruleset": ("nft flush ruleset", "nftables"),
    "all rules of a table": ("nft flush table inet cnipy_nat", "nftables"),
    "a table": ("nft delete table inet cnipy_nat", "nftables"),
    "a host port": ("nft delete element inet cnipy_nat hostport4 '{ tcp . 8080 }'", "nftables"),
    "a masqueraded range": ("nft delete element inet cnipy_nat masq4 '{ 10.7.0.0/24 }'", "nftables"),
    "the link's state": ("ip link set VETH down", "set up"),
    "forwarding": ("sysctl -qw net.ipv4.ip_forward=0", "ip_forward"),
    "forwarding of IPv6": ("sysctl -qw net.ipv6.conf.all.forwarding=0", "forwarding"),
}
DAMAGE_ROUTED = {
    "the route": ("ip route del 10.7.0.2", "add route"),
    "the route of IPv6": ("ip -6 route del fd00:7::2", "add route"),
    "the gateway's address": ("ip addr del 10.7.0.1/32 dev VETH", "add address"),
}
DAMAGE_BRIDGE = {
    "the port": ("ip link set VETH nomaster", "VETH"),
    "the bridge's state": ("ip link set cni0 down", "set up"),
    "the bridge's address": ("ip addr del 10.7.0.1/24 dev cni0", "add address"),
}
CASES = [
    *(("routed", name) for name in (*DAMAGE, *DAMAGE_ROUTED)),
    *(("bridge", name) for name in (*DAMAGE, *DAMAGE_BRIDGE)),
]


def whole(container: str) -> list[str]:
    """The node, whatever the order of nft's tables is, which is that of their making."""
    state = node(container)
    state["host"]["nft"] = sorted(state["host"]["nft"].split("table "))
    return settled(state)


def run(command: str) -> None:
    """A command of an operator, VETH standing for the host's end."""
    if "VETH" in command:
        command = command.replace("VETH", veth())
    subprocess.run(command, shell=True, check=True)  # noqa: S602  # the tests' own words


@pytest.mark.parametrize(("mode", "what"), CASES)
def test_repair(mode: str, what: str, caller: Caller) -> None:
    """What somebody takes from the host's part of an attachment comes back by itself, all of it, and nothing else."""
    config = MODES[mode](ipMasq=True, runtimeConfig=PORTS)
    with running() as agent:
        add(caller, config)
        before = whole("c1")
        command, said = {**DAMAGE, **DAMAGE_ROUTED, **DAMAGE_BRIDGE}[what]
        said = said.replace("VETH", veth())
        run(command)
        agent.until(said)
        agent.until_quiet()
        assert before == whole("c1")


def test_a_bridge_that_was_deleted(caller: Caller) -> None:
    """It is made again with its addresses, and the containers' ends are its ports again."""
    with running() as agent:
        add(caller, bridged(isDefaultGateway=True))
        run("ip link del cni0")
        agent.until("add address fd00:7::1/64")
        agent.until_quiet()
        port = json.loads(output("ip", "-j", "link", "show", veth()))[0]
        assert (port["master"], port["operstate"]) == ("cni0", "UP")


def test_strangers_in_our_sets_go(caller: Caller) -> None:
    """An element that belongs to no attachment does not stay in our tables."""
    with running("--grace", "0") as agent:
        add(caller, routed(ipMasq=True))
        before = output("nft", "list", "ruleset")
        run("nft add element inet cnipy_nat masq4 '{ 10.99.0.0/24 }'")
        run("nft flush table inet cnipy_spoof")
        agent.until("nftables")
        agent.until_quiet()
        assert before == output("nft", "list", "ruleset")


def test_other_tables_are_nobodys_business(caller: Caller) -> None:
    """What others have in nftables is neither read nor touched."""
    with running() as agent:
        add(caller, routed(ipMasq=True))
        run("nft add table inet other")
        run("nft add chain inet other c")
        run("nft delete table inet cnipy_nat")
        agent.until("nftables")
        assert "chain c" in output("nft", "list", "table", "inet", "other")


def veth_missing() -> bool:
    """True on an empty node."""
    return not any(name.startswith("cpy") for name in node()["host"]["links"])


@pytest.mark.parametrize("mode", MODES)
def test_a_namespace_without_del(mode: str, caller: Caller) -> None:
    """A container that ended without DEL is collected, whole; its neighbour keeps everything."""
    config = MODES[mode](ipMasq=True, egressRate=10**7, egressBurst=10**7)
    with running("--grace", "0.2") as agent:
        add(replace(caller, container="c2", netns="/run/netns/c2"), config)
        alone = whole("c2")
        add(caller, config)
        subprocess.run(["ip", "netns", "del", "c1"], check=True)
        agent.until("collected eth0 of container c1")
        agent.until_quiet()
        seen = whole("c2")
        assert [line for line in alone if "last_reserved" not in line] == [
            line for line in seen if "last_reserved" not in line
        ]


def test_a_running_container_is_never_collected(caller: Caller) -> None:
    """Its veth was deleted by hand: as long as its namespace lives its record and its address stay."""
    with running("--grace", "0") as agent:
        add(caller, routed())
        add(replace(caller, container="c2", netns="/run/netns/c2"), routed())
        run("sysctl -qw net.ipv4.ip_forward=0")
        agent.until("ip_forward")  # by then it knows the namespaces of both
        host = next(
            record["host_ifname"]
            for record in map(json.loads, (path.read_text() for path in RECORDS.glob("*.json")))
            if record["key"]["container_id"] == "c1"
        )
        subprocess.run(["ip", "link", "del", host], check=True)
        subprocess.run(["ip", "netns", "del", "c2"], check=True)
        agent.until("collected eth0 of container c2")
        assert len(list(RECORDS.glob("*.json"))) == 1
        assert (LEASES / "10.7.0.2").exists()
        subprocess.run(["ip", "netns", "del", "c1"], check=True)
        agent.until("collected eth0 of container c1")
        assert not (LEASES / "10.7.0.2").exists()


def test_what_a_killed_add_left(caller: Caller) -> None:
    """A lease that our main plugin took and never attached is collected; somebody else's is not."""
    lease = {"cniVersion": "1.0.0", "name": "net", "ipam": routed()["ipam"]}
    config = routed()
    with running() as agent:
        add(caller, config)
        code, _ = replace(caller, container="other").process("ADD", lease, "cni-py-ipam")
        assert code == 0
        agent.end()
    for path in RECORDS.glob("*.json"):
        path.unlink()
    with running("--grace", "0"):
        pass
    assert sorted(path.name for path in LEASES.glob("[1f]*")) == ["10.7.0.3", "fd00:7::3"]


def test_after_a_reboot(caller: Caller) -> None:
    """Leases and records of an earlier boot are gone before the first call, whatever their grace."""
    with running() as agent:
        add(caller, routed())
        agent.end()
    index = Path("/var/lib/cni/networks/.cni-py/net")
    for path in (*RECORDS.glob("*.json"), Path("/var/lib/cni-py/boot"), *index.iterdir()):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        path.write_text(path.read_text().replace(boot, "another-boot"))
    subprocess.run(["ip", "link", "del", veth()], check=True)
    with running():
        assert not list(RECORDS.glob("*.json"))


def test_spool(caller: Caller) -> None:
    """A DEL while the agent is away succeeds, and is carried out when it is back, before it serves."""
    with running() as agent:
        add(caller, routed(ipMasq=True))
        agent.end(kill=True)
    assert caller.process("DEL", routed(ipMasq=True)) == (0, None)
    assert len(list(SPOOL.iterdir())) == 1
    with running():
        assert (list(SPOOL.iterdir()), list(RECORDS.glob("*")), list(LEASES.glob("[1f]*"))) == ([], [], [])
        assert veth_missing()


def test_a_spooled_del_never_hits_a_later_add(caller: Caller) -> None:
    """The container came back under its old name while the DEL of its first life was still spooled."""
    with running() as agent:
        add(caller, routed())
        agent.end(kill=True)
    assert caller.process("DEL", routed()) == (0, None)
    spooled = next(SPOOL.iterdir()).read_bytes()
    subprocess.run(["ip", "netns", "del", "c1"], check=True)
    netns("c1")
    with running():
        (SPOOL / "00000000000000000001-1").write_bytes(spooled)  # as if it came a moment after the start
        result = add(caller, routed())
        assert caller.process("CHECK", {**routed(), "prevResult": result}) == (0, None)
        assert list(SPOOL.iterdir()) == []


def test_hostile_spool(caller: Caller) -> None:
    """What is no DEL in the spool is removed, and hangs nobody."""
    SPOOL.mkdir(parents=True, mode=0o700)
    (SPOOL / "0-torn").write_bytes(b"cnpy\x01\x01")
    (SPOOL / "1-empty").touch()
    os.mkfifo(SPOOL / "2-fifo")
    (SPOOL / "3-link").symlink_to("/dev/zero")
    (SPOOL / "4-directory").mkdir()
    with running():
        add(caller, routed())
        assert {path.name for path in SPOOL.iterdir()} <= {"3-link", "4-directory"}


def test_a_spooled_del_of_a_foreign_ipam_waits_for_a_forwarder(caller: Caller, reference: Path) -> None:
    """Only the runtime's side can run another IPAM plugin: the next ADD brings it."""
    (caller.path / "host-local").symlink_to(reference / "host-local")
    foreign = routed(ipam={"type": "host-local", "ranges": [[{"subnet": "10.7.0.0/24"}]]})
    with running() as agent:
        add(caller, foreign)
        agent.end(kill=True)
    assert caller.process("DEL", foreign) == (0, None)
    with running():
        assert (LEASES / "10.7.0.2").exists()
        assert len(list(SPOOL.iterdir())) == 1
        add(replace(caller, container="c2", netns="/run/netns/c2"), foreign)
        assert not (LEASES / "10.7.0.2").exists()
        assert list(SPOOL.iterdir()) == []
