"""The agent, or the shim, is killed at random instants while containers come and go, as often as `--campaign` says.

Seeded; the figures are printed. What a runtime does is imitated: a failed ADD is followed by DEL, or the container is
thrown away without one; a DEL that was killed is repeated. Afterwards the node holds the living containers and no more.
"""

import json
import os
import random
import select
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent.live import NOTHING, SHIM, Agent, left, quiet
from netns.plugin import Caller, install, netns, routed
from netns.snapshot import output

from cni_py.model.attachment import Key, host_ifname

if TYPE_CHECKING:
    import subprocess

pytestmark = [pytest.mark.sudo, pytest.mark.timeout(0)]

SEED = 20261124
GRACE = ("--grace", "1", "--listen", "")
COLLECTED_S = 20
AT_ONCE, PODS = 4, 16
LATEST_KILL_S = 0.03
POOL = {"type": "cni-py-ipam", "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]]}


@dataclass
class Pod:
    """A container: what the runtime knows of it."""

    caller: Caller
    config: dict[str, Any]
    addresses: frozenset[str] = frozenset()


@dataclass
class Running:
    """A call under way. `kill_at` is the moment at which its shim is killed, if it is to be."""

    command: str
    pod: Pod
    process: "subprocess.Popen[bytes]"
    pidfd: int
    kill_at: float = float("inf")
    killed: bool = False


@dataclass
class Runtime:
    """Adds and deletes containers at random, `AT_ONCE` calls at a time."""

    path: Path
    draw: random.Random
    kills_shims: bool
    living: list[Pod] = field(default_factory=list)
    calls: list[Running] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    _made: int = 0

    @property
    def begun(self) -> int:
        """ADDs and DELs."""
        return self.figures.get("ADD", 0) + self.figures.get("DEL", 0)

    def count(self, what: str) -> None:
        """One more of those."""
        self.figures[what] = self.figures.get(what, 0) + 1

    def begin(self) -> None:
        """One more call: an ADD, or the end of a container."""
        if len(self.living) < PODS and self.draw.random() < 0.55:
            self._made += 1
            name = f"k{self._made}"
            netns(name)
            ports = {"portMappings": [{"hostPort": 10000 + self._made, "containerPort": 80, "protocol": "tcp"}]}
            config = routed(ipMasq=True, ipam=POOL, runtimeConfig=ports)
            self._start("ADD", Pod(Caller(self.path, name, f"/run/netns/{name}"), config))
        elif self.living:
            pod = self.living.pop(self.draw.randrange(len(self.living)))
            if self.draw.random() < 0.15:
                self.count("ended without DEL")
                self._destroy(pod)
            else:
                self._start("DEL", pod)

    def _start(self, command: str, pod: Pod) -> None:
        self.count(command)
        process = pod.caller.start(command, pod.config)
        call = Running(command, pod, process, os.pidfd_open(process.pid))
        if self.kills_shims and self.draw.random() < 0.5:
            call.kill_at = time.monotonic() + self.draw.uniform(0, 0.012)
        self.calls.append(call)

    def wait(self, until: float) -> None:
        """Until a call is over or a shim's moment comes, at most until that time; what follows of it is begun."""
        moment = min([until, *(call.kill_at for call in self.calls)])
        seconds = max(0.0, min(moment - time.monotonic(), 60.0))
        over, _, _ = select.select([call.pidfd for call in self.calls], [], [], seconds)
        for call in list(self.calls):
            if call.pidfd in over:
                self.calls.remove(call)
                os.close(call.pidfd)
                self._follow(call)
            elif time.monotonic() >= call.kill_at:
                call.process.kill()
                call.killed, call.kill_at = True, float("inf")
                self.count(f"shim of {call.command} killed")

    def _follow(self, call: Running) -> None:
        stdout, stderr = call.process.communicate()
        assert stderr == b"", stderr.decode()
        code = call.process.returncode
        if code != 0 and not call.killed:
            document = json.loads(stdout)
            assert (call.command, document["code"]) == ("ADD", 11), document
            assert "lost in the middle" in document["msg"]
        if call.command == "ADD" and code == 0:
            self._lives(call.pod, json.loads(stdout))
        elif call.command == "ADD":
            self.count("ADD failed")
            if self.draw.random() < 0.25:
                self.count("thrown away without DEL")
                self._destroy(call.pod)
            else:
                self._start("DEL", call.pod)
        elif code == 0:
            self._destroy(call.pod)
        else:
            self.count("DEL repeated")
            self._start("DEL", call.pod)

    def _lives(self, pod: Pod, result: Any) -> None:
        pod.addresses = frozenset(entry["address"].partition("/")[0] for entry in result["ips"])
        assert len(pod.addresses) == 2
        for other in self.living:
            assert not pod.addresses & other.addresses, (pod, other)
        pod.config = {**pod.config, "prevResult": result}
        self.living.append(pod)
        self.count("ADD succeeded")

    def _destroy(self, pod: Pod) -> None:
        output("ip", "netns", "del", pod.caller.container)


def holds(living: list[Pod]) -> dict[str, Any]:
    """What the node holds that is not of the living containers, or lacks of theirs, by its kind."""
    names = {pod.caller.container for pod in living}
    veths = {host_ifname(Key("net", name, "eth0")) for name in names}
    leases = {
        (name, content.split()[0]) for name, content in files("/var/lib/cni/networks/net").items() if name[:1] in "1f"
    }
    records = {json.loads(content)["key"]["container_id"] for content in files(RECORDS).values()}
    links = {line.split(":")[1].split("@")[0].strip() for line in output("ip", "-o", "link").splitlines()}
    differences: dict[str, set[Any]] = {
        "leases": leases ^ {(address, pod.caller.container) for pod in living for address in pod.addresses},
        "records": records ^ names,
        "links": {name for name in links if name.startswith("cp")} ^ veths,
        "host ports": _host_ports() ^ {10000 + int(name[1:]) for name in names},
    }
    return {kind: difference for kind, difference in differences.items() if difference}


def files(directory: str) -> dict[str, str]:
    """{name: content} of a directory while somebody works in it."""
    found = {}
    for path in Path(directory).glob("[!.]*"):
        with suppress(FileNotFoundError):
            found[path.name] = path.read_text()
    return found


def _host_ports() -> set[int]:
    ruleset = output("nft", "list", "ruleset")
    return {int(word) for word in ruleset.replace(",", " ").split() if word.isdigit() and 10000 < int(word) < 20000}


RECORDS = "/var/lib/cni-py/attachments/net"


@pytest.mark.parametrize("victim", ["agent", "shim"])
def test_campaign(
    victim: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """No two living containers ever have one address; after one collection links, records, rules, leases are theirs."""
    total = request.config.getoption("--campaign") // (3 if victim == "shim" else 1)
    log = tmp_path / "agent.log"
    draw = random.Random(SEED)  # noqa: S311  # instants, not secrets
    runtime = Runtime(install(tmp_path / "bin", program=SHIM), draw, kills_shims=victim == "shim")
    agent = Agent(log, *GRACE)
    kill_at = time.monotonic()
    started = time.monotonic()
    while runtime.calls or runtime.begun < total:
        while len(runtime.calls) < AT_ONCE and runtime.begun < total:
            runtime.begin()
        runtime.wait(kill_at if victim == "agent" else float("inf"))
        if victim == "agent" and time.monotonic() >= kill_at:
            agent.kill()
            runtime.count("agent killed")
            agent = Agent(log, *GRACE)
            kill_at = time.monotonic() + draw.uniform(0, LATEST_KILL_S)
    seconds = time.monotonic() - started
    deadline = time.monotonic() + COLLECTED_S
    while (wrong := holds(runtime.living)) and time.monotonic() < deadline:
        assert agent.alive()
    assert wrong == {}, f"seed {SEED}: {wrong}"
    for pod in runtime.living:
        assert pod.caller.process("CHECK", pod.config) == (0, None)
        assert pod.caller.process("DEL", pod.config) == (0, None)
    assert left() == NOTHING
    agent.stop()
    quiet(log)
    assert runtime.figures["ADD succeeded"] > total // 5, runtime.figures
    with capsys.disabled():
        sys.stdout.write(f"\n{victim} killed: {seconds:.0f} s, {runtime.figures}\n")
