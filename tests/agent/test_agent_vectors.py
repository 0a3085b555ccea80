"""The contract's vectors through a live agent, by either forwarder: the script's answer, and the node it leaves."""

import json
import shutil
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
from agent.live import FORWARDERS, comparable, drawn, running, wipe
from netns.plugin import PROGRAM, install, netns
from vectors.test_contract_vectors import FILES, call

pytestmark = pytest.mark.sudo

# Where the agent's answer is another one on purpose: the script's words, and the agent's.
INTENDED: dict[str, tuple[str, str]] = {
    # The forwarder opens CNI_NETNS, in the runtime's mount namespace: its mounts are not in question.
    "25-bad-netns": (
        "the runtime's mount of it may not be visible here: check mount propagation of /run/netns",
        "give the container's, as in /run/netns",
    ),
}


def outcome(vector: dict[str, Any], path: Path, program: Path) -> tuple[int, str, str, list[str]]:
    """Exit status, stdout, stderr and the node after a vector's call on an empty node, which it is again."""
    shutil.rmtree(path, ignore_errors=True)
    install(path, program=program)
    netns("c1")
    code, stdout, stderr = call(vector, path, path / vector["plugin"])
    return code, drawn(stdout), stderr, comparable("c1")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_vector(file: Path, tmp_path: Path) -> None:
    """The call through the agent: exit status, stdout, stderr and every byte of the node as without one."""
    vector = json.loads(file.read_text())
    code, stdout, stderr, after = outcome(vector, tmp_path / "bin", PROGRAM)
    wanted = (code, stdout.replace(*INTENDED.get(file.stem, ("", ""))), stderr)
    for name, program in FORWARDERS.items():
        wipe()
        with running(tmp_path):
            seen = outcome(vector, tmp_path / "bin", program)
        assert (name, *wanted) == (name, *seen[:3])
        difference = "\n".join(unified_diff(after, seen[3], "without", f"with an agent, by the {name}", lineterm=""))
        assert not difference, difference
