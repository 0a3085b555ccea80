"""Frames by the thousand that no forwarder sends: each is answered or refused, and the agent serves on as before.

Seeded, so a failure repeats: seed and number are in the message.
"""

import json
import os
import random
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from agent.live import SHIM, Dialogue, running, serves
from fuzz.mutate import environment, mutate_bytes, mutate_config
from native.fake_agent import ANSWER, CALL, HEADER, RAN, RUN, SOCKET, pack, strings
from netns.plugin import NAMES, Caller, bridged, install, netns, routed
from netns.snapshot import namespace, output

from cni_py.model.persona import Persona
from cni_py.spec.request import COMMANDS

pytestmark = [pytest.mark.sudo, pytest.mark.timeout(0)]

SEED = 20261124
FRAMES = 5000
BUG = b"unexpected "  # how cmd.plugin begins the text of an error that nobody foresaw
SPARE = {**routed(), "name": "spare", "ipam": {"type": "cni-py-ipam", "subnet": "10.9.9.0/24"}}  # no frame names it
FILES = ("/proc/self/ns/net", "/run/netns/c1", "/run/netns/c2", "/dev/null", "/proc/self/ns/mnt", "/etc/passwd", "/run")


def frame(rng: random.Random, path: Path) -> tuple[bytes, bool]:
    """A CALL of any verb under any name, its configuration mutated, often with wrong bytes; and whether it is whole."""
    config = mutate_config(rng, rng.choice([routed, bridged])(), rng.choice(list(Persona)))
    if isinstance(config.get("ipam"), dict) and rng.random() < 0.3:
        config["ipam"]["type"] = "foreign"
    stdin = json.dumps(config).encode("utf-8", "surrogatepass")
    environ = environment(rng.choice(COMMANDS), path, rng.choice(["c1", "c2"]), rng)
    head = strings(rng.choice([*NAMES, "", "odd/name"]), *(f"{name}={value}" for name, value in environ.items()))
    if rng.random() < 0.3:
        head = mutate_bytes(rng, head)
    whole = pack(CALL, head, stdin)
    match rng.randrange(8):
        case 0:
            return mutate_bytes(rng, whole), False
        case 1:  # lengths that are not so
            lengths = [rng.choice([0, 1, len(head), len(stdin), 1 << 20, (8 << 20) + 1, 2**32 - 1]) for _ in range(2)]
            return HEADER.pack(b"cnpy", 1, 1, 0, *lengths) + head + stdin, False
        case 2:  # another version, another kind
            return pack(
                rng.choice([0, RUN, RAN, ANSWER, 6, 255]), head, stdin, version=rng.choice([0, 1, 2, 255])
            ), True
        case 3:
            return rng.randbytes(rng.choice([0, 1, 15, 16, 17, 5000])), False
        case _:
            return whole, True


def send(rng: random.Random, data: bytes, *, whole: bool) -> bytes:
    """What the agent answers to these bytes with descriptors of all sorts; b"" if it hung up, or nobody waited."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(SOCKET))
        usual = rng.random() < 0.6
        paths = FILES[: rng.randrange(1, 3)] if usual else [rng.choice(FILES) for _ in range(rng.randrange(7))]
        fds = [os.open(path, os.O_RDONLY) for path in paths]
        cut = rng.randrange(len(data) + 1) if not whole and rng.random() < 0.5 else len(data)
        with suppress(BrokenPipeError, ConnectionResetError):  # an agent that has seen enough
            socket.send_fds(connection, [data[:cut]], fds) if cut else None
            connection.sendall(data[cut:])
        for fd in fds:
            os.close(fd)
        if rng.random() < 0.2:
            return b""  # and gone
        if not whole:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)  # it may wait for more, which does not come
        answer = bytearray()
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):
                answer += part
                if answer[5] == RUN:  # hung up while the plugin runs
                    break
        return bytes(answer)


def test_frames(tmp_path: Path) -> None:
    """An ANSWER with a result, nothing or an error document, a RUN, or a hang-up; never a traceback, never a bug."""
    netns("c0", "c1", "c2")
    path = install(tmp_path / "bin", program=SHIM)
    rng = random.Random(SEED)  # noqa: S311  # to repeat, not to hide
    spare = Caller(path, "c0", "/run/netns/c0")
    answers = {"none": 0, "success": 0, "error": 0, "run": 0}
    with running(tmp_path) as agent:
        for number in range(FRAMES):
            data, whole = frame(rng, path)
            what = f"seed {SEED}, frame {number}: {data[:2000]!r}"
            try:
                answer = send(rng, data, whole=whole)
            except TimeoutError:
                pytest.fail(f"no answer to {what}")
            assert BUG not in answer, what
            answers[kind_of(answer, what)] += 1
            if number % 1000 == 999:
                assert agent.alive()
                serves(spare, SPARE)
        settle(spare)
        serves(spare, SPARE)
    assert min(answers.values()) > FRAMES // 100, answers


def test_no_namespace(tmp_path: Path) -> None:
    """A forwarder whose first descriptor is no network namespace gets an error, and the next caller is served."""
    netns("c0", "c1")
    caller = Caller(install(tmp_path / "bin", program=SHIM))
    with running(tmp_path):
        for path in ("/dev/null", "/proc/self/ns/mnt", "/run"):
            dialogue = Dialogue()
            dialogue.call(caller, "ADD", routed(), host=path)
            code, stdout = dialogue.answer()
            assert (code, json.loads(stdout)["code"]) == (1, 8)
            dialogue.close()
        serves(Caller(caller.path, "c0", "/run/netns/c0"), routed())


def kind_of(answer: bytes, what: str) -> str:
    """What the agent sent first, checked as far as its form goes."""
    if not answer:
        return "none"
    magic, version, kind, _, head, body = HEADER.unpack_from(answer)
    assert (magic, version) == (b"cnpy", 1), what
    if kind == RUN:
        return "run"
    assert kind == ANSWER, what
    assert len(answer) == HEADER.size + head + body, what
    if struct.unpack_from("=i", answer, HEADER.size)[0] == 0:
        return "success"
    document = json.loads(answer[HEADER.size + head :])
    assert isinstance(document["code"], int), what
    assert document["msg"], what
    return "error"


def settle(caller: Caller) -> None:
    """All that the frames made is gone by GC of the networks that they named."""
    networks = {record.parent.name for record in Path("/var/lib/cni-py").glob("attachments/*/*")}
    for name in networks:
        config = {**routed(), "name": name, "cni.dev/valid-attachments": []}
        for persona in (Persona.CNI_PY, Persona.PORTMAP, Persona.BANDWIDTH):
            assert caller.process("GC", {**config, "type": persona.value}, persona.value)[0] == 0
    assert list(Path("/var/lib/cni-py").glob("attachments/*/*")) == []
    assert [name for name in namespace()["links"] if name.startswith("cp")] == []
    assert "cnipy" not in namespace()["nft"]
    for container in ("c1", "c2"):
        assert "eth0" not in output("ip", "-n", container, "-o", "link")
