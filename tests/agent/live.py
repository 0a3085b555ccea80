"""A real agent as a process in the test's namespaces, and who calls it: shim, script, a forwarder of the test's own."""

import fcntl
import json
import os
import platform
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from native.fake_agent import ANSWER, CALL, HEADER, RAN, SOCKET, pack, status, strings
from netns.plugin import PROGRAM, ROOT, Caller
from netns.snapshot import node, output, settled

SHIM = ROOT / f"build/shim-{platform.machine()}"
PYTHON = ("/usr/bin/python3", "-IS", "-X", "faulthandler")  # as the script's first line, but it can tell of its threads
FORWARDERS = {"shim": SHIM, "script": PROGRAM}
NOTHING: dict[str, Any] = {"links": [], "nft": "", "files": []}
WAIT_S = 60
_DRAWN_KINDS = {"bridge", "ifb", "vlan"}  # of links whose MAC is drawn for each; of all others it is a hash of the name
_DRAWN = re.compile(
    r'"(?:cni0[.\w]*|cpb\w+)\\?",\s*\\?"mac\\?": \\?"(?P<mac>[0-9a-f:]+)'
    r'|8000\.a(?P<id>(:[0-9a-f]{1,2}){5})|\\?"created\\?": (?P<time>\d+)'
)


class Agent:
    """`cni-py agent`. `log` gets the stderr of all that write to it, one after another.

    It is up when this is made, or with `wait=False` after `await_ready`.
    """

    def __init__(self, log: Path, *arguments: str, prefix: tuple[str, ...] = (), wait: bool = True) -> None:
        self.log = log
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ready = f"/run/ready-{os.urandom(8).hex()}"  # a file: names without one are a network namespace's own
        self._ready.bind(ready)
        environ = {**os.environ, "NOTIFY_SOCKET": ready}
        command = [*prefix, *PYTHON, str(PROGRAM), "agent", *arguments]
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(command, env=environ, stderr=stderr, stdin=subprocess.DEVNULL)
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """It serves. Nobody listens on its supervisor's socket any more."""
        ended = os.pidfd_open(self._process.pid)
        with self._ready:
            seen, _, _ = select.select([self._ready.fileno(), ended], [], [], WAIT_S)
            os.close(ended)
            assert self._ready.fileno() in seen, f"the agent did not start: {self.log.read_text()}"
            assert self._ready.recv(64) == b"READY=1"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def alive(self) -> bool:
        """True as long as it runs."""
        return self._process.poll() is None

    def signal(self, number: int = signal.SIGTERM) -> None:
        """It gets the signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """It has ended by SIGTERM, as it should: exit 0."""
        self.signal()
        assert self._process.wait(WAIT_S) == 0, self.log.read_text()

    def ended(self) -> int:
        """It has ended by itself: its exit status, negative for a signal."""
        return self._process.wait(WAIT_S)

    def kill(self) -> None:
        """It is dead, in the middle of whatever it did."""
        self.signal(signal.SIGKILL)
        assert self._process.wait(WAIT_S) == -signal.SIGKILL

    def abort(self) -> None:
        """It is dead, and the test's output says what each of its threads did."""
        self.signal(signal.SIGABRT)
        self._process.wait(WAIT_S)
        sys.stderr.write(self.log.read_text())

    def size(self) -> tuple[int, int]:
        """Open descriptors and threads."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir())), len(list(Path(f"/proc/{self.pid}/task").iterdir()))


def quiet(log: Path) -> None:
    """No agent that wrote there had a bug to tell."""
    assert "Traceback" not in log.read_text(), log.read_text()


@contextmanager
def running(directory: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[Agent]:
    """An agent for the block. After it it has ended without a traceback, unless the test ended it in its way."""
    agent = Agent(directory / "agent.log", *arguments, prefix=prefix)
    try:
        yield agent
        if agent.alive():
            agent.stop()
    finally:
        if agent.alive():
            agent.abort()
    quiet(agent.log)


def left() -> dict[str, Any]:
    """What is on the node of attachments: devices but the bridge, nftables, leases, records."""
    state = node()
    links = sorted(set(state["host"]["links"]) - {"lo", "cni0"})
    return {"links": links, "nft": state["host"]["nft"], "files": sorted(state["files"])}


def drawn(text: str) -> str:
    """The text without what is drawn for each ADD, or is the time of it."""
    return _DRAWN.sub(lambda found: found[0].replace(found[found.lastgroup or 0], "*"), text)


def comparable(*containers: str) -> list[str]:
    """The node as lines, without what is another each time."""
    state = node(*containers)
    for link in state["host"]["links"].values():
        if link.get("linkinfo", {}).get("info_kind") in _DRAWN_KINDS:
            link["address"] = "*"
    for space in (state[name] for name in ("host", *containers)):  # these come when the link has its carrier
        space["routes6"] = [line for line in space["routes6"] if not line.startswith(("local", "anycast"))]
    return [drawn(line) for line in settled(state)]


def wipe() -> None:
    """The node is as before the first ADD ever; no agent runs."""
    for path in Path("/run/netns").iterdir():
        output("ip", "netns", "del", path.name)
    for line in output("ip", "-o", "link", "show").splitlines():
        name = line.split()[1].rstrip(":").partition("@")[0]
        if name != "lo":
            subprocess.run(
                ["ip", "link", "del", name], check=False, capture_output=True
            )  # its peer may have gone before
    output("nft", "flush", "ruleset")
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        output("busybox", "sysctl", "-w", f"{key}=0")
    for path in (*Path("/var/lib").iterdir(), Path("/run/cni-py")):
        shutil.rmtree(path, ignore_errors=True)


class Dialogue:
    """A forwarder that does what a test wants; the bytes are made and read without code of ours."""

    def __init__(self) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(WAIT_S)
        self.connection.connect(str(SOCKET))

    def call(
        self,
        caller: Caller,
        command: str,
        config: Mapping[str, Any],
        *,
        netns: bool = True,
        host: str = "/proc/self/ns/net",
    ) -> None:
        """CALL with the descriptors that belong to it: of `host` and, if `netns`, of CNI_NETNS."""
        environ = caller.environ(command)
        head = strings(caller.persona.value, *(f"{name}={value}" for name, value in environ.items()))
        paths = [host, *([caller.netns] if netns else [])]
        fds = [os.open(path, os.O_RDONLY) for path in paths]
        try:
            frame = pack(CALL, head, json.dumps(config).encode())
            sent = socket.send_fds(self.connection, [frame], fds)
            self.connection.sendall(frame[sent:])
        finally:
            for fd in fds:
                os.close(fd)

    def receive(self) -> tuple[int, bytes, bytes]:
        """The next frame: kind, head, body. Raises EOFError if the agent hung up."""
        header = HEADER.unpack(self._read(HEADER.size))
        assert header[:2] == (b"cnpy", 1)
        return header[2], self._read(header[4]), self._read(header[5])

    def ran(self, code: int, stdout: bytes) -> None:
        """RAN."""
        self.connection.sendall(pack(RAN, status(code), stdout))

    def answer(self) -> tuple[int, bytes]:
        """ANSWER: exit status and stdout."""
        kind, head, body = self.receive()
        assert kind == ANSWER
        return struct.unpack("=i", head)[0], body

    def close(self) -> None:
        """The forwarder is gone."""
        self.connection.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = b""
            with suppress(ConnectionResetError):
                part = self.connection.recv(size - len(data))
            if not part:
                raise EOFError(data)
            data += part
        return data


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The file is locked, and when the block ends somebody waits for it."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        waiting_for(path)


def waiting_for(path: Path) -> None:
    """Somebody waits for the lock of that file."""
    inode = f":{path.stat().st_ino} "
    while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
        os.sched_yield()


def serves(caller: Caller, config: Mapping[str, Any]) -> None:
    """The agent is there and works: ADD, CHECK and DEL of a container that the test uses for nothing else."""
    code, result = caller.process("ADD", config)
    assert code == 0, result
    for command in ("CHECK", "DEL"):
        code, document = caller.process(command, {**config, "prevResult": result})
        assert (code, document) == (0, None)
