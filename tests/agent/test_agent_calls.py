"""What the agent makes of its callers: who is served, in which order, and what a caller that is gone leaves."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent.live import NOTHING, SHIM, Agent, Dialogue, left, locked, running, serves
from native.fake_agent import ANSWER, HEADER, RUN, SOCKET
from netns.plugin import Caller, bridged, finish, install, netns, routed
from netns.snapshot import node, settled

from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo

SERVED = {
    "ipMasq": True,
    "runtimeConfig": {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000},
    },
}
FOREIGN = routed(ipam={"type": "slow-ipam"})
LOCK = Path("/var/lib/cni-py/lock")
LEASE = b'{"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}]}'


@pytest.fixture
def agent(fresh_namespaces: None, tmp_path: Path) -> Iterator[Agent]:
    """An agent on an empty node."""
    del fresh_namespaces
    with running(tmp_path) as made:
        yield made


@pytest.fixture
def caller(agent: Agent, tmp_path: Path) -> Caller:
    """Container c1 behind the shim; c0 is there for `serves`."""
    del agent
    netns("c0", "c1")
    return Caller(install(tmp_path / "bin", program=SHIM))


def other(caller: Caller, name: str) -> Caller:
    """The same for another container."""
    return Caller(caller.path, name, f"/run/netns/{name}")


def slow_ipam(caller: Caller) -> dict[str, Any]:
    """A network whose IPAM plugin writes a byte into one FIFO and then waits for another one's writer."""
    os.mkfifo(caller.path / "begun")
    os.mkfifo(caller.path / "go")
    plugin = caller.path / "slow-ipam"
    plugin.write_text(f"""#!/bin/sh
[ $CNI_COMMAND = ADD ] || exit 0
echo x >{caller.path}/begun
read x <{caller.path}/go
echo '{LEASE.decode()}'
""")
    plugin.chmod(0o755)
    return FOREIGN


def begun(caller: Caller) -> None:
    """The slow plugin runs."""
    assert (caller.path / "begun").read_bytes()


def go(caller: Caller) -> None:
    """It goes on."""
    (caller.path / "go").write_bytes(b"x\n")


@pytest.mark.sudo(real=True)
def test_another_user(caller: Caller) -> None:
    """A peer that is not root gets nothing, though the socket's mode let it in; the agent serves on."""
    SOCKET.parent.chmod(0o755)
    SOCKET.chmod(0o666)
    before = settled(node("c1"))
    done = subprocess.run(
        ["cni-py"],
        executable=shutil.copy(SHIM, "/run/shim"),  # where everybody may go
        input=json.dumps(routed()).encode(),
        env=caller.environ("ADD"),
        capture_output=True,
        check=False,
        user=65534,
        timeout=60,
    )
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)
    assert "lost" in json.loads(done.stdout)["msg"]
    assert before == settled(node("c1"))
    serves(other(caller, "c0"), routed())


@pytest.mark.parametrize("sent", [0, 5, 16, 60])
def test_silent_forwarders(sent: int, caller: Caller) -> None:
    """Forwarders that stop in the middle of their CALL hold nobody up."""
    frame = HEADER.pack(b"cnpy", 1, 1, 0, 100, 100) + b"x" * 100
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for one in (first, second):
            one.connect(str(SOCKET))
            one.sendall(frame[:sent])
        serves(other(caller, "c0"), routed())


def test_hang_up_before_the_turn(caller: Caller) -> None:
    """Forwarders that are gone before their call's turn comes: the calls are as if they had never come."""
    serves(other(caller, "c0"), routed())  # forwarding stays, as with the reference
    before = settled(node("c1"))
    holder, first, second = Dialogue(), Dialogue(), Dialogue()
    with locked(LOCK):
        holder.call(other(caller, "c0"), "ADD", routed())
        for dialogue in (first, second):
            dialogue.call(caller, "ADD", routed(**SERVED))
            dialogue.close()
    assert holder.answer()[0] == 0
    holder.close()
    assert other(caller, "c0").process("DEL", routed()) == (0, None)
    serves(other(caller, "c0"), routed())
    assert before == settled(node("c1"))


def test_hang_up_during_run(caller: Caller) -> None:
    """A forwarder that is gone while it runs the IPAM plugin: nothing is left of the ADD on the whole node."""
    serves(other(caller, "c0"), routed())
    before = settled(node("c1"))
    dialogue = Dialogue()
    dialogue.call(caller, "ADD", FOREIGN)
    kind, head, _ = dialogue.receive()
    assert (kind, head.split(b"\0")[0]) == (RUN, b"slow-ipam")
    dialogue.close()
    serves(other(caller, "c0"), routed())
    assert before == settled(node("c1"))


@pytest.mark.parametrize("config", [routed(**SERVED), bridged(**SERVED)], ids=["routed", "bridge"])
def test_hang_up_before_the_answer(config: dict[str, Any], caller: Caller) -> None:
    """A forwarder that is gone when its ADD is done: all of it is taken back, before that container's next call."""
    serves(other(caller, "c0"), config)  # the bridge and forwarding stay
    before = settled(node("c1"))
    dialogue = Dialogue()
    with locked(LOCK):
        dialogue.call(caller, "ADD", config)
    dialogue.close()
    assert caller.process("CHECK", {**config, "prevResult": {"cniVersion": "1.0.0"}})[0] != 0
    assert before == settled(node("c1"))
    serves(other(caller, "c0"), config)
    assert before == settled(node("c1"))


def test_hang_up_before_the_answer_foreign(caller: Caller) -> None:
    """Of an ADD over a foreign IPAM plugin, which nobody is left to run, the record stays until the runtime's DEL."""
    dialogue = Dialogue()
    dialogue.call(caller, "ADD", FOREIGN)
    assert dialogue.receive()[0] == RUN
    dialogue.ran(0, LEASE)
    dialogue.close()
    serves(other(caller, "c0"), {**routed(), "name": "other"})
    seen = left()
    assert (seen["links"], len(seen["files"])) == ([], 1)
    dialogue = Dialogue()
    dialogue.call(caller, "DEL", FOREIGN)
    assert dialogue.receive()[0] == RUN
    dialogue.ran(0, b"")
    assert dialogue.answer() == (0, b"")
    dialogue.close()
    assert left() == NOTHING


def test_order(caller: Caller) -> None:
    """DEL that comes while its ADD waits for the IPAM plugin is carried out after it; other containers go on."""
    slow = slow_ipam(caller)
    added = caller.start("ADD", slow)
    begun(caller)
    deleted = caller.start("DEL", slow)
    again = caller.start("DEL", slow)
    for _ in range(5):
        serves(other(caller, "c0"), routed())
    assert deleted.poll() is None
    go(caller)
    assert finish(added)[0] == 0
    assert finish(deleted) == (0, None)
    assert finish(again) == (0, None)
    assert left() == NOTHING


def test_twenty_wait(caller: Caller) -> None:
    """Twenty containers wait for a foreign IPAM plugin, and the twenty-first is served."""
    names = [f"w{number}" for number in range(20)]
    netns(*names)
    dialogues = {name: Dialogue() for name in names}
    for name, dialogue in dialogues.items():
        dialogue.call(other(caller, name), "ADD", FOREIGN)
        assert dialogue.receive()[0] == RUN
    serves(other(caller, "c0"), routed())
    for number, dialogue in enumerate(dialogues.values()):
        dialogue.ran(0, LEASE.replace(b"10.7.0.9", b"10.7.0.%d" % (number + 10)))
        assert dialogue.answer()[0] == 0
        dialogue.close()
    for name in names:
        dialogue = Dialogue()
        dialogue.call(other(caller, name), "DEL", FOREIGN, netns=False)
        assert dialogue.receive()[0] == RUN
        dialogue.ran(0, b"")
        assert dialogue.answer() == (0, b"")
        dialogue.close()
    assert left() == NOTHING


def test_own_ipam_by_another_name(caller: Caller) -> None:
    """Fifty shims at once whose host-local is our own shim: each RUN calls back into the agent, and all succeed."""
    names = [f"h{number}" for number in range(50)]
    netns(*names)
    config = routed(ipam={"type": "host-local", "subnet": "10.7.0.0/24"})
    added = [other(caller, name).start("ADD", config) for name in names]
    results = [finish(one) for one in added]
    assert {code for code, _ in results} == {0}, results
    assert len({result["ips"][0]["address"] for _, result in results}) == 50
    deleted = [other(caller, name).start("DEL", config) for name in names]
    assert [finish(one) for one in deleted] == [(0, None)] * 50
    assert left() == NOTHING


def test_nothing_piles_up(agent: Agent, caller: Caller) -> None:
    """After 500 calls, a third of them refused or given up, the agent has as many descriptors and threads as before."""
    config = routed(**SERVED)

    def ten() -> None:
        for _ in range(2):
            serves(caller, config)
        assert caller.process("ADD", routed(mtu="x"))[0] == 1
        assert Caller(caller.path, netns="/dev/null").process("ADD", config)[0] == 1
        for command in ("ADD", "DEL"):
            dialogue = Dialogue()
            dialogue.call(caller, command, FOREIGN)
            dialogue.receive()
            dialogue.close()

    ten()
    before = idle(agent)
    for _ in range(50):
        ten()
    assert before == idle(agent)
    assert left() == NOTHING


def idle(agent: Agent) -> tuple[int, int]:
    """Its descriptors and threads when no call is left: 100 looks in a row show the same. Nobody tells when."""
    seen: list[tuple[int, int]] = []
    while len(seen) < 100:
        size = agent.size()
        seen = [*seen, size] if not seen or seen[-1] == size else [size]
        os.sched_yield()
    return seen[-1]


def test_status_under_load(caller: Caller) -> None:
    """STATUS is answered, and well, while ten ADDs and DELs are always on their way."""
    names = [f"s{number}" for number in range(10)]
    netns(*names)
    for _ in range(5):
        added = [other(caller, name).start("ADD", routed()) for name in names]
        asked = [caller.start("STATUS", routed()) for _ in range(5)]
        assert [finish(one) for one in asked] == [(0, None)] * 5
        assert {finish(one)[0] for one in added} == {0}
        assert {finish(one)[0] for one in [other(caller, name).start("DEL", routed()) for name in names]} == {0}


def test_large_answer_is_not_read(caller: Caller) -> None:
    """A forwarder that does not read its answer, of more than a socket holds, holds nobody up."""
    config = {"cniVersion": "1.1.0", "name": "net", "type": "portmap"}
    previous = {"cniVersion": "1.1.0", "interfaces": [], "ips": [], "dns": {"search": ["x" * 100] * 40000}}
    dialogue = Dialogue()
    dialogue.call(Caller(caller.path, persona=Persona.PORTMAP), "ADD", {**config, "prevResult": previous})
    serves(other(caller, "c0"), routed())
    kind, _, body = dialogue.receive()
    assert (kind, len(body) > 4_000_000) == (ANSWER, True)
    dialogue.close()
