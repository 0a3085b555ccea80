"""The agent is stopped, started again and replaced while containers come and go: no call fails, nothing is lost."""

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agent.live import NOTHING, SHIM, Agent, Dialogue, left, quiet, running, serves
from native.fake_agent import RUN, SPOOL
from netns.plugin import PROGRAM, Caller, finish, install, netns, routed
from netns.snapshot import output

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.sudo

POOL = {"type": "cni-py-ipam", "ranges": [[{"subnet": "10.7.0.0/20"}], [{"subnet": "fd00:7::/64"}]]}
PODS = routed(ipMasq=True, ipam=POOL)
SECONDS, RATE = 10, 20


def callers(path: Path, count: int) -> list[Caller]:
    """Containers with their namespaces."""
    names = [f"c{number}" for number in range(count)]
    netns(*names)
    return [Caller(path, name, f"/run/netns/{name}") for name in names]


class Traffic:
    """Calls of shims at a steady rate, round a few containers; a container's next call waits for its last."""

    def __init__(self, made: list[Caller], verbs: Sequence[str]) -> None:
        self._made = made
        self._verbs = verbs
        self._results: dict[str, Any] = {}
        self._pending: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        self.failed: list[tuple[str, str, Any]] = []
        self.answered = 0

    def run(self, events: Mapping[int, Callable[[], object]]) -> None:
        """SECONDS of it; `events` happen before the call with that number. All is deleted in the end."""
        due = time.monotonic()
        for number in range(SECONDS * RATE):
            events.get(number, lambda: None)()
            caller = self._made[number % len(self._made)]
            self._await(caller.container)
            verb = self._verbs[number // len(self._made) % len(self._verbs)]
            previous = self._results.get(caller.container)
            config = PODS if verb == "ADD" or previous is None else {**PODS, "prevResult": previous}
            self._pending[caller.container] = (verb, caller.start(verb, config))
            due += 1 / RATE
            time.sleep(max(0.0, due - time.monotonic()))
        for caller in self._made:
            self._await(caller.container)
            assert caller.process("DEL", PODS) == (0, None)

    def _await(self, container: str) -> None:
        if container not in self._pending:
            return
        verb, process = self._pending.pop(container)
        code, document = finish(process)
        self.answered += 1
        if code != 0:
            self.failed.append((container, verb, document))
        elif verb == "ADD":
            self._results[container] = document


def test_restarts(tmp_path: Path) -> None:
    """20 calls a second while the agent is restarted by SIGTERM three times: none fails, and nothing is left."""
    traffic = Traffic(callers(install(tmp_path / "bin", program=SHIM), 20), ("ADD", "CHECK", "DEL"))
    log = tmp_path / "agent.log"
    agents = [Agent(log)]

    def restart() -> None:
        agents[-1].stop()
        agents.append(Agent(log))

    traffic.run({50: restart, 100: restart, 150: restart})
    assert (traffic.answered, traffic.failed) == (SECONDS * RATE, [])
    assert not SPOOL.exists() or list(SPOOL.iterdir()) == []
    agents[-1].stop()
    quiet(log)
    assert left() == NOTHING


def test_replaced(tmp_path: Path) -> None:
    """20 calls a second while a second agent takes the socket over and the first is stopped, twice: none fails.

    STATUS as well, which does not wait for an agent: there is no moment without one. Nor is a DEL spooled.
    """
    traffic = Traffic(callers(install(tmp_path / "bin", program=SHIM), 10), ("ADD", "STATUS", "CHECK", "DEL"))
    log = tmp_path / "agent.log"
    agents = [Agent(log)]
    events: dict[int, Callable[[], object]] = {
        50: lambda: agents.append(Agent(log)),
        70: agents[0].stop,
        120: lambda: agents.append(Agent(log)),
        140: lambda: agents.pop(1).stop(),
    }
    traffic.run(events)
    assert (traffic.answered, traffic.failed) == (SECONDS * RATE, [])
    assert not SPOOL.exists()
    agents[-1].stop()
    quiet(log)
    assert left() == NOTHING


def test_two_at_once(tmp_path: Path) -> None:
    """Two agents started at the same moment: both live, one has the socket, and when that is stopped none is asked."""
    caller, spare = callers(install(tmp_path / "bin", program=SHIM), 2)
    log = tmp_path / "agent.log"
    agents = [Agent(log, wait=False), Agent(log, wait=False)]
    for one in agents:
        one.await_ready()
    serves(spare, PODS)
    assert caller.process("ADD", PODS)[0] == 0
    asked = json.loads(output(str(PROGRAM), "status", "-o", "json"))["pid"]
    last, first = sorted(agents, key=lambda one: one.pid != asked)
    first.stop()
    serves(spare, PODS)
    last.stop()
    assert caller.process("STATUS", PODS)[0] == 1
    assert caller.process("DEL", PODS) == (0, None)  # spooled
    with running(tmp_path):
        serves(spare, PODS)
    assert left() == NOTHING


def test_sigterm_finishes_what_was_begun(tmp_path: Path) -> None:
    """Calls in flight when SIGTERM comes are answered, also one that waits for its IPAM plugin; then exit 0."""
    made = callers(install(tmp_path / "bin", program=SHIM), 30)
    foreign = routed(ipam={"type": "foreign"})
    with running(tmp_path) as agent:
        waiting = Dialogue()
        waiting.call(made[0], "ADD", foreign)
        assert waiting.receive()[0] == RUN
        processes = [one.start("ADD", PODS) for one in made[1:]]
        agent.signal(signal.SIGTERM)
        waiting.ran(0, b'{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.9/24", "gateway": "10.9.0.1"}]}')
        code, _ = waiting.answer()
        assert code == 0
        waiting.close()
        agent.stop()
        with running(tmp_path):  # shims that found nobody try on
            outcomes = [finish(one) for one in processes]
            assert {code for code, _ in outcomes} == {0}, outcomes
            assert {finish(one.start("DEL", PODS))[0] for one in made[1:]} == {0}
            last = Dialogue()
            last.call(made[0], "DEL", foreign)
            assert last.receive()[0] == RUN
            last.ran(0, b"")
            assert last.answer() == (0, b"")
            last.close()
    assert left() == NOTHING


def test_fifty_at_once(tmp_path: Path) -> None:
    """50 first ADDs of an empty node at once; each is as its CHECK wants it; 50 DELs at once leave nothing."""
    made = callers(install(tmp_path / "bin", program=SHIM), 50)
    with running(tmp_path):
        outcomes = [finish(one) for one in [caller.start("ADD", PODS) for caller in made]]
        assert {code for code, _ in outcomes} == {0}, outcomes
        assert len({entry["address"] for _, result in outcomes for entry in result["ips"]}) == 100
        for caller, (_, result) in zip(made, outcomes, strict=True):
            assert caller.process("CHECK", {**PODS, "prevResult": result}) == (0, None)
        assert [finish(one) for one in [caller.start("DEL", PODS) for caller in made]] == [(0, None)] * 50
    assert left() == NOTHING


def test_five_hundred(tmp_path: Path) -> None:
    """500 pods of one node, ten at a time: addresses are distinct; 500 DELs leave nothing."""
    made = callers(install(tmp_path / "bin", program=SHIM), 500)
    with running(tmp_path) as agent:
        results = ten_at_a_time(made, "ADD")
        assert len({entry["address"] for result in results for entry in result["ips"]}) == 1000
        links = output("ip", "-o", "link", "show", "type", "veth")
        assert links.count("cpy") == 500
        agent.stop()
        with running(tmp_path):  # another one knows them all from the disk
            assert made[7].process("CHECK", {**PODS, "prevResult": results[7]}) == (0, None)
            ten_at_a_time(made, "DEL")
    assert left() == NOTHING


def ten_at_a_time(made: list[Caller], command: str) -> list[Any]:
    """What each prints, in order; all succeeded."""
    outcomes = []
    for start in range(0, len(made), 10):
        outcomes += [finish(one) for one in [caller.start(command, PODS) for caller in made[start : start + 10]]]
    assert {code for code, _ in outcomes} == {0}, [one for one in outcomes if one[0]][:3]
    return [document for _, document in outcomes]
