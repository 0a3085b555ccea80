"""Many calls at once, as real processes, and processes that are killed: no error, no leftovers, no lost address."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import node, output

pytestmark = pytest.mark.sudo

SERVED = {
    "ipMasq": True,
    "runtimeConfig": {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000},
    },
}
MODES = {"routed": routed, "bridge": bridged}
CONTAINERS = 30
KILLS = 30  # of each kind


def left() -> dict[str, Any]:
    """What is on the host of attachments: devices but the bridge, nftables, leases, records."""
    state = node()
    links = sorted(set(state["host"]["links"]) - {"lo", "cni0"})
    return {"links": links, "nft": state["host"]["nft"], "files": sorted(state["files"])}


NOTHING = {"links": [], "nft": "", "files": []}


def start(caller: Caller, command: str, config: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    """The plugin as a process that was given its configuration; what it says is to be read."""
    pipe = subprocess.PIPE
    environ = {**os.environ, **caller.environ(command)}
    process = subprocess.Popen([caller.path / "cni-py"], stdin=pipe, stdout=pipe, stderr=pipe, env=environ)
    assert process.stdin is not None
    process.stdin.write(json.dumps(config).encode())
    process.stdin.close()
    process.stdin = None  # communicate() would use it
    return process


def finish(processes: Sequence["subprocess.Popen[bytes]"]) -> list[Any]:
    """What each printed, as JSON; all succeeded."""
    documents = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=120)
        assert (process.returncode, stderr) == (0, b""), stdout
        documents.append(json.loads(stdout) if stdout else None)
    return documents


@pytest.mark.parametrize("mode", MODES)
def test_thirty_at_once(mode: str, tmp_path: Path) -> None:
    """30 first ADDs of a node at once: all succeed, addresses are distinct and work; 30 DELs at once leave nothing."""
    path = install(tmp_path / "bin")
    names = [f"c{number}" for number in range(CONTAINERS)]
    netns(*names)
    callers = [Caller(path, name, f"/run/netns/{name}") for name in names]
    config = MODES[mode](ipMasq=True)
    configs = [
        {**config, "runtimeConfig": {"portMappings": [{"hostPort": 8000 + number, "containerPort": 80}]}}
        for number in range(CONTAINERS)
    ]
    results = finish([start(caller, "ADD", one) for caller, one in zip(callers, configs, strict=True)])
    addresses = [entry["address"] for result in results for entry in result["ips"]]
    assert len(set(addresses)) == 2 * CONTAINERS
    for caller, one, result in zip(callers, configs, results, strict=True):
        assert caller.verb("CHECK", {**one, "prevResult": result}) == (0, None)
    finish([start(caller, "DEL", one) for caller, one in zip(callers, configs, strict=True)])
    assert left() == NOTHING


@pytest.mark.parametrize("mode", MODES)
def test_coming_and_going(mode: str, tmp_path: Path) -> None:
    """The node's last containers go while new ones come: tables that one call finds empty are full for the other."""
    path = install(tmp_path / "bin")
    names = [f"c{number}" for number in range(16)]
    netns(*names)
    callers = [Caller(path, name, f"/run/netns/{name}") for name in names]
    config = MODES[mode](ipMasq=True)
    going, coming = callers[:8], callers[8:]
    for caller in going:
        caller.add(config)
    processes = []
    for goes, comes in zip(going, coming, strict=True):
        processes += [start(goes, "DEL", config), start(comes, "ADD", config)]
    results = [result for result in finish(processes) if result is not None]
    for caller, result in zip(coming, results, strict=True):
        assert caller.verb("CHECK", {**config, "prevResult": result}) == (0, None)
        caller.delete(config)
    assert left() == NOTHING


@pytest.mark.parametrize("populated", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize("mode", MODES)
def test_killed(mode: str, command: str, populated: bool, tmp_path: Path) -> None:
    """ADD or DEL is killed at random instants of its work: each time DEL leaves nothing; a retry of ADD succeeds."""
    config = MODES[mode](**SERVED)
    caller = Caller(install(tmp_path / "bin"))
    other = replace(caller, container="c2", netns="/run/netns/c2")
    netns("c1", "c2")
    if populated:
        other.add({**config, "runtimeConfig": {}})
    before = left()
    caller.delete({**config, "prevResult": caller.add(config)})  # all is imported now
    full = _seconds_of(caller, command, config)
    draw = random.Random(7)  # noqa: S311  # instants, not secrets
    stages: set[tuple[bool, ...]] = set()
    for number in range(4 * KILLS):
        if number >= KILLS and len(stages) >= 2:
            break
        if command == "DEL":
            caller.add(config)
        # Later and later, as a call may take longer than the one that was timed: all kills could come too early.
        _kill_after(full * draw.uniform(0.0, 1.2 + number / KILLS), caller, command, config)
        stages.add(_stage())
        caller.delete(config)
        assert before == left()
        assert "eth0" not in output("ip", "-n", "c1", "-o", "link")
    assert len(stages) >= 2, f"the kills missed what {command} does"
    result = caller.add(config)
    assert caller.verb("CHECK", {**config, "prevResult": result}) == (0, None)
    caller.delete(config)
    assert before == left()


def _seconds_of(caller: Caller, command: str, config: Mapping[str, Any]) -> float:
    """How long ADD or DEL takes in this process; nothing is attached afterwards."""
    times = {}
    for verb in ("ADD", "DEL"):
        started = time.monotonic()
        assert caller.verb(verb, config)[0] == 0
        times[verb] = time.monotonic() - started
    return times[command]


def _kill_after(seconds: float, caller: Caller, command: str, config: Mapping[str, Any]) -> None:
    """The verb in a process that is killed after that time; forked, so that its time is not spent on imports."""
    child = os.fork()
    if child == 0:
        try:
            caller.verb(command, config)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _stage() -> tuple[bool, ...]:
    """How far an ADD got: leased, recorded, linked, addressed, host port, limit."""
    inside = output("ip", "-n", "c1", "-o", "address")
    return (
        len(list(Path("/var/lib/cni/networks/net").glob("10.*"))) > 1,
        len(list(Path("/var/lib/cni-py/attachments/net").glob("*.json"))) > 1,
        "eth0" in output("ip", "-n", "c1", "-o", "link"),
        "10.7.0" in inside,
        "8080" in output("nft", "list", "ruleset"),
        "tbf" in output("tc", "qdisc", "show"),
    )


@pytest.mark.parametrize("mode", MODES)
def test_killed_and_retried(mode: str, tmp_path: Path) -> None:
    """ADD is killed and the runtime retries as kubelet does: another container ID, the old namespace gone, then GC."""
    config = MODES[mode](**SERVED)
    path = install(tmp_path / "bin")
    netns("c0")
    full = _seconds(Caller(path, "c0", "/run/netns/c0"), config)
    draw = random.Random(8)  # noqa: S311  # instants, not secrets
    for number in range(1, 6):
        netns(f"c{number}")
        caller = Caller(path, f"c{number}", f"/run/netns/c{number}")
        process = start(caller, "ADD", config)
        try:
            process.wait(full * draw.uniform(0.7, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=60)
        output("ip", "netns", "del", f"c{number}")
    assert Caller(path).verb("GC", {**config, "cni.dev/valid-attachments": []}) == (0, None)
    found = left()  # a half-written record, which no list shows, waits for a DEL or ADD of that container
    assert {**found, "files": [name for name in found["files"] if not name.endswith(".new")]} == NOTHING
    netns("c9")
    assert "10.7.0" in Caller(path, "c9", "/run/netns/c9").add(config)["ips"][0]["address"]


def _seconds(caller: Caller, config: Mapping[str, Any]) -> float:
    """How long a whole ADD takes, as a process; it is undone."""
    started = time.monotonic()
    finish([start(caller, "ADD", config)])
    passed = time.monotonic() - started
    caller.delete(config)
    return passed
