"""docs/backends.md shows what a node really holds."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns.overlay_lab import lab, member, network
from netns.plugin import ROOT

from cni_py.kernel import netns
from cni_py.model.overlay import BackendName

pytestmark = pytest.mark.sudo

BACKENDS: tuple[BackendName, ...] = ("vxlan", "gpe", "host-gw", "direct", "l2")


def _shown(backend: str) -> Iterator[tuple[str, list[str]]]:
    """(command, lines of its output) of a backend's section."""
    text = (ROOT / "docs/backends.md").read_text()
    (block,) = re.findall(rf"^```console {backend}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for part in block.removeprefix("$ ").split("\n$ "):
        command, *lines = part.strip().splitlines()
        yield command, lines


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_documented_state_is_the_real_one(backend: BackendName, tmp_path: Path) -> None:
    """Line by line, in any order, and no line more."""
    with lab(tmp_path, member(1), member(2), member(3, far=True)) as made:
        one = made.members[0]
        one.passed(made.nodes, network(backend))
        for command, lines in _shown(backend):
            with netns.entered(one.place.fd):
                told = subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
            real = sorted(" ".join(line.split()) for line in told.splitlines())
            left = list(real)
            for line in lines:
                pattern = ".*".join(map(re.escape, line.split("…")))
                found = [seen for seen in left if re.fullmatch(pattern, seen)]
                assert found, f"{command}: no line is {line!r} in {real}"
                left.remove(found[0])
            assert left == [], command
