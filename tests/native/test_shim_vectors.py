"""What needs no agent: the shim's answers are the Python program's, byte for byte."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from native.fake_agent import Caller
from vectors.test_contract_vectors import FILES, call, holds

from cni_py.cmd.plugin import Answer, answer
from cni_py.model.persona import Persona
from cni_py.spec.request import Request

pytestmark = pytest.mark.sudo  # an agent of the machine is not to be asked


def local(vector: dict[str, Any]) -> Answer | None:
    """The Python program's answer if it needs no verb for it, else None."""
    environ = {
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt",
        **vector.get("env", {}),
        **({} if vector["command"] is None else {"CNI_COMMAND": vector["command"]}),
    }
    stdin = vector["stdin"] if isinstance(vector["stdin"], str) else json.dumps(vector["stdin"])
    forwarded = []

    def verbs(_: Request) -> bytes:
        forwarded.append(True)
        return b""

    answered = answer(vector["plugin"], verbs, environ, stdin.encode)
    return None if forwarded else answered


VECTORS = {file.stem: json.loads(file.read_text()) for file in FILES}
LOCAL = sorted(name for name, vector in VECTORS.items() if local(vector) is not None)


@pytest.mark.parametrize("name", LOCAL)
def test_vector(name: str, shim: Caller, tmp_path: Path) -> None:
    """A vector of the contract that needs no agent is answered as it says, and in the same bytes as by Python."""
    vector = VECTORS[name]
    program = tmp_path / vector["plugin"]
    program.symlink_to(shim.program)
    code, stdout, stderr = call(vector, tmp_path, program)
    assert code == vector["expect"]["exit"]
    assert holds(vector["expect"].get("document", {}), json.loads(stdout) if stdout else {}), stdout
    assert vector["expect"].get("stderr", "") in stderr
    answered = local(vector)
    assert answered is not None
    assert (code, stdout, stderr) == (answered.code, answered.stdout.decode(), answered.stderr.decode())


def test_vectors_are_many() -> None:
    """A change of the vectors' form does not leave this file without work."""
    assert len(LOCAL) > 40


@pytest.mark.parametrize("persona", [*Persona, None], ids=str)
def test_version(persona: Persona | None, shim: Caller) -> None:
    """VERSION reads no stdin, needs no other variable and says the same under every name."""
    name = persona.value if persona else "odd"
    reader, writer = os.pipe()  # a stdin that never ends
    pid = os.posix_spawn(
        shim.program,
        [name],
        {"CNI_COMMAND": "VERSION"},
        file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)],
    )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(reader)
    os.close(writer)
    python = answer(name, lambda _: b"", {"CNI_COMMAND": "VERSION"}, lambda: b"")
    assert shim.call("VERSION", name=name).stdout == python.stdout
