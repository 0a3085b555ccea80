"""What a call of the IPAM plugin may load: its time is its imports."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ipam.plugins import ROOT, environment

HEAVY = {"pydantic", "pyroute2", "netaddr", "click", "hashlib", "pathlib", "socket", "subprocess", "asyncio", "logging"}
SCRIPT = (
    "import os, sys; sys.path.insert(0, sys.argv[1])\n"
    "from cni_py.cmd import ipam\n"
    "from cni_py.cmd.plugin import answer\n"
    "done = answer('cni-py-ipam', ipam.call, os.environ, sys.stdin.buffer.read)\n"
    "print(done.code, *sorted({name.partition('.')[0] for name in sys.modules}))\n"
)


def loaded(command: str, data_dir: Path, **options: Any) -> set[str]:
    """The top-level modules that a process has loaded after one successful call."""
    ipam = {"type": "cni-py-ipam", "subnet": "10.1.2.0/24", "dataDir": str(data_dir), **options}
    config = {"cniVersion": "1.1.0", "name": "net", "ipam": ipam, "cni.dev/valid-attachments": []}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, str(ROOT)],
        input=json.dumps(config).encode(),
        env=environment(command) | {"PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    code, *names = done.stdout.decode().split()
    assert code == "0"
    return set(names)


@pytest.mark.parametrize("command", ["VERSION", "ADD", "DEL", "GC", "STATUS"])
def test_no_heavy_import(command: str, tmp_path: Path) -> None:
    """No verb loads a third-party module or one that costs a millisecond for nothing."""
    assert set() == loaded(command, tmp_path) & HEAVY


def test_no_heavy_import_in_check(tmp_path: Path) -> None:
    """Nor does CHECK, after an ADD with a delay and a reservation."""
    options: dict[str, Any] = {"reuseDelay": 5, "reservations": {"10.1.2.9": "a/b"}}
    assert set() == loaded("ADD", tmp_path, **options) & HEAVY
    assert set() == loaded("CHECK", tmp_path, **options) & HEAVY
