"""Hostile calls by the thousand against the real verbs on a real kernel: an answer each, no traceback, nothing left.

Seeded, so a failure repeats: seed and call are in the message, and the call goes to `tests/vectors` when mended.
"""

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fuzz.mutate import environment, mutate_bytes, mutate_config
from netns.plugin import bridged, install, netns, routed
from netns.snapshot import namespace, output

from cni_py.cmd.cold import ColdMachine
from cni_py.cmd.plugin import Answer, answer, perform
from cni_py.model.persona import Persona
from cni_py.spec.request import COMMANDS

pytestmark = [pytest.mark.sudo, pytest.mark.timeout(0)]

SEED = 20261124
BATCH = 500
BUG = "unexpected "  # how cmd.plugin begins the text of an error that nobody foresaw


@contextmanager
def _no_longer_than(seconds: int, what: str) -> Iterator[None]:
    """A call that hangs is a failure of its own."""

    def ring(*_: object) -> None:
        raise AssertionError(f"no answer within {seconds} s: {what}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _call(persona: Persona, path: Path, environ: dict[str, str], stdin: bytes) -> Answer:
    machine = ColdMachine({**os.environ, **environ}, path / persona.value)
    return answer(persona.value, lambda request: perform(request, persona, machine), environ, lambda: stdin)


def _check(answered: Answer, command: str, what: str) -> None:
    """A result, nothing, or an error document of the spec; never the text that stands for a bug."""
    if answered.code == 0:
        if command == "ADD":
            assert "cniVersion" in json.loads(answered.stdout), what
        return
    document = json.loads(answered.stdout)
    assert isinstance(document["code"], int), what
    assert document["msg"], what
    assert BUG not in document["msg"], f"{document}\n{what}"


def _settle(path: Path, containers: list[str]) -> None:
    """Every container that could have been made is deleted, and the node is empty."""
    networks = {"net", *(record.parent.name for record in Path("/var/lib/cni-py").glob("attachments/*/*"))}
    for name in networks:
        config = {**routed(), "name": name, "cni.dev/valid-attachments": []}
        for persona in (Persona.CNI_PY, Persona.PORTMAP, Persona.BANDWIDTH):
            answered = _call(persona, path, environment("GC", path, "c1"), json.dumps(config).encode())
            assert answered.code == 0, answered.stdout
    links = {line.split(":")[1].split("@")[0].strip() for line in output("ip", "-o", "link").splitlines()}
    assert [link for link in links if link.startswith("cp")] == []
    assert "cnipy" not in namespace()["nft"]
    for container in containers:
        assert "eth0" not in output("ip", "-n", container, "-o", "link")
    assert list(Path("/var/lib/cni-py").glob("attachments/*/*")) == []


def test_fuzz(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Mutated calls of every persona and verb: each is answered, and nothing is left behind."""
    path = install(tmp_path / "bin")
    containers = ["c1", "c2", "c3"]
    netns(*containers)
    rng = random.Random(SEED)  # noqa: S311  # to repeat, not to hide
    total = request.config.getoption("--fuzz")
    answers = {0: 0, 1: 0}
    for number in range(total):
        persona = rng.choice(list(Persona))
        command = rng.choice(COMMANDS)
        config: dict[str, Any] = mutate_config(rng, rng.choice([routed, bridged])(), persona)
        stdin = json.dumps(config).encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            stdin = mutate_bytes(rng, stdin)
        environ = environment(command, path, rng.choice(containers), rng)
        what = f"seed {SEED}, call {number}: {persona.value} {environ}\n{stdin[:2000]!r}"
        with _no_longer_than(10, what):
            answered = _call(persona, path, environ, stdin)
        _check(answered, environ.get("CNI_COMMAND", ""), what)
        answers[min(answered.code, 1)] += 1
        if number % BATCH == BATCH - 1:
            _settle(path, containers)
    _settle(path, containers)
    assert answers[0] > total // 20, f"hardly any call succeeded, so hardly any code was reached: {answers}"
    assert answers[1] > total // 20, answers
