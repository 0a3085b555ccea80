"""What each verb may load: importing is most of what the script costs, so a module that creeps in fails here."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed

pytestmark = pytest.mark.sudo

LIMITS = {"bandwidth": {"ingressRate": 1000000, "ingressBurst": 800000}}
HEAVY = {"pydantic", "pyroute2", "netaddr", "click", "asyncio", "subprocess"}
# (name of the program, verb, configuration, heavy modules that it may load)
BUDGET = [
    ("cni-py", "VERSION", {}, set()),
    ("cni-py", "STATUS", routed(), set()),
    ("cni-py", "ADD", routed(ipMasq=True), {"pydantic"}),
    ("cni-py", "ADD", bridged(ipMasq=True), {"pydantic"}),
    ("cni-py", "ADD", routed(runtimeConfig=LIMITS), {"pydantic", "pyroute2", "asyncio", "subprocess"}),
    ("cni-py", "DEL", routed(), {"pydantic"}),
    ("cni-py", "GC", routed(), {"pydantic"}),
    ("cni-py-ipam", "VERSION", {}, set()),
    ("cni-py-ipam", "ADD", routed(), set()),
    ("cni-py-ipam", "DEL", routed(), set()),
    ("cni-py-ipam", "STATUS", routed(), set()),
    ("cni-py-ipam", "GC", routed(), set()),
    ("host-local", "ADD", routed(), set()),
    ("loopback", "ADD", {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}, set()),
]


@pytest.mark.parametrize(("program", "verb", "config", "allowed"), BUDGET, ids=[f"{p} {v}" for p, v, _, _ in BUDGET])
def test_import_budget(program: str, verb: str, config: dict[str, Any], allowed: set[str], tmp_path: Path) -> None:
    """A verb loads none of the heavy libraries but those that it cannot do without."""
    netns("c1")
    path = install(tmp_path / "bin")
    finished = subprocess.run(
        ["/usr/bin/python3", "-ISX", "importtime", path / program],
        input=json.dumps(config).encode(),
        env={**os.environ, **Caller(path).environ(verb)},
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in finished.stderr.decode().splitlines()}
    assert {"cni_py", "json"} <= loaded
    assert HEAVY & loaded <= allowed
