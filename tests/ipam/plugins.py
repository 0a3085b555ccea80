"""The two plugins as the tests call them: ours and the compiled reference, one data directory each or one for both."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_py.cmd import ipam
from cni_py.cmd.plugin import answer
from cni_py.ipam.ports import LeaseStore

ROOT = Path(__file__).parent.parent.parent
RUN = (
    "import os, sys\n"
    "from cni_py.cmd import ipam\n"
    "from cni_py.cmd.plugin import answer\n"
    "done = answer('cni-py-ipam', ipam.call, os.environ, sys.stdin.buffer.read)\n"
    "sys.stdout.buffer.write(done.stdout)\n"
    "sys.exit(done.code)\n"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call ended."""

    code: int
    document: dict[str, Any]

    @property
    def message(self) -> str:
        """The error's text, empty on success."""
        return str(self.document.get("msg", ""))

    @property
    def addresses(self) -> list[str]:
        """The addresses of an ADD, without prefix."""
        return [entry["address"].partition("/")[0] for entry in self.document.get("ips", ())]


def environment(command: str, container: str = "c1", ifname: str = "eth0", args: str = "") -> dict[str, str]:
    """The variables of one call."""
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_IFNAME": ifname,
        "CNI_NETNS": "/var/run/netns/x",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": args,
    }


def in_process(
    config: Mapping[str, Any] | bytes, environ: Mapping[str, str], store: LeaseStore | None = None
) -> Outcome:
    """Our plugin called as a function, over the real store or another."""
    stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
    used = store or ipam.open_store()
    done = answer("cni-py-ipam", lambda request: ipam.serve(request, used), environ, lambda: stdin)
    return Outcome(done.code, json.loads(done.stdout or b"{}"))


def start_ours(environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Our plugin as a process."""
    return _start([sys.executable, "-c", RUN], {**os.environ, **environ})


def start_reference(reference: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The reference as a process."""
    return _start([str(reference / "host-local")], environ)


def finish(process: subprocess.Popen[bytes], config: Mapping[str, Any] | bytes) -> Outcome:
    """The outcome of a process, given its stdin."""
    stdout, _ = process.communicate(config if isinstance(config, bytes) else json.dumps(config).encode(), timeout=60)
    return Outcome(process.returncode, json.loads(stdout or b"{}"))


def tree(data_dir: Path) -> dict[str, tuple[int, bytes]]:
    """{path: (mode, content)} of everything below, our side index left out."""
    return {
        str(path.relative_to(data_dir)): (path.stat().st_mode, b"" if path.is_dir() else path.read_bytes())
        for path in data_dir.rglob("*")
        if ".cni-py" not in path.relative_to(data_dir).parts
    }


def _start(command: list[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environ, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
