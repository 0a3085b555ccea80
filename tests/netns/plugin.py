"""Calls the interface plugin as a runtime does: in this process, or as one of its own."""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_py.cmd import cni
from cni_py.cmd.cold import ColdMachine
from cni_py.cmd.plugin import answer
from cni_py.model.persona import Persona

ROOT = Path(__file__).parent.parent.parent
PROGRAM = ROOT / "bin/cni-py"
NAMES = tuple(persona.value for persona in Persona)


def install(directory: Path, reference: Path | None = None, program: Path = PROGRAM) -> Path:
    """A CNI_PATH directory with `program` under all our names; `reference`: the compiled ones as `ref-NAME` too."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (directory / name).symlink_to(program)
    for path in reference.iterdir() if reference is not None else ():
        (directory / f"ref-{path.name}").symlink_to(path)
    return directory


@dataclass(frozen=True)
class Caller:
    """One container's environment. `verb` runs in this process, `process` starts the program; both give (code, doc)."""

    path: Path
    container: str = "c1"
    netns: str = "/run/netns/c1"
    ifname: str = "eth0"
    args: str = ""
    persona: Persona = Persona.CNI_PY

    def environ(self, command: str) -> dict[str, str]:
        """The CNI_ variables."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": self.args,
            "CNI_PATH": str(self.path),
        }

    def verb(self, command: str, config: Mapping[str, Any]) -> tuple[int, Any]:
        """In this process: the exit status and the parsed document, None if nothing was printed."""
        environ, stdin = self.environ(command), json.dumps(config).encode()
        program = self.path / self.persona.value
        answered = answer(
            self.persona.value,
            lambda request: cni.call(request, self.persona, ColdMachine({**os.environ, **environ}, program)),
            environ,
            lambda: stdin,
        )
        return answered.code, json.loads(answered.stdout) if answered.stdout else None

    def process(self, command: str, config: Mapping[str, Any] | bytes, name: str = "") -> tuple[int, Any]:
        """As a process, under the persona's name or another one on the path."""
        stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
        finished = subprocess.run(
            [self.path / (name or self.persona.value)],
            input=stdin,
            env={**os.environ, **self.environ(command)},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert b"Traceback" not in finished.stderr, finished.stderr.decode()
        return finished.returncode, json.loads(finished.stdout) if finished.stdout else None

    def start(self, command: str, config: Mapping[str, Any], name: str = "") -> "subprocess.Popen[bytes]":
        """As a process that was given its stdin and is not waited for; `finish` reads what it says."""
        pipe = subprocess.PIPE
        environ = {**os.environ, **self.environ(command)}
        program = self.path / (name or self.persona.value)
        process = subprocess.Popen([program], stdin=pipe, stdout=pipe, stderr=pipe, env=environ)
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(config).encode())
        process.stdin.close()
        process.stdin = None  # communicate() would use it
        return process

    def add(self, config: Mapping[str, Any]) -> Any:
        """ADD in this process, which must succeed: the result."""
        code, document = self.verb("ADD", config)
        assert code == 0, document
        return document

    def delete(self, config: Mapping[str, Any]) -> None:
        """DEL in this process, which must succeed and print nothing."""
        assert self.verb("DEL", config) == (0, None)


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, Any]:
    """How a process of `Caller.start` ended and the document that it printed, if any."""
    stdout, stderr = process.communicate(timeout=120)
    assert stderr == b"", stderr.decode()
    return process.returncode, json.loads(stdout) if stdout else None


def routed(**options: Any) -> dict[str, Any]:
    """A dual-stack routed network over our own IPAM."""
    return {"cniVersion": "1.1.0", "name": "net", "type": "cni-py", "ipam": dual_ipam(), **options}


def bridged(**options: Any) -> dict[str, Any]:
    """A dual-stack bridge network over our own IPAM."""
    return routed(**{"bridge": "cni0", "isDefaultGateway": True, **options})


def dual_ipam(kind: str = "cni-py-ipam") -> dict[str, Any]:
    """10.7.0.0/24 and fd00:7::/64 with default routes."""
    return {
        "type": kind,
        "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "fd00:7::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }


def netns(*names: str) -> None:
    """Named namespaces exist, with loopback up as a runtime's have."""
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
