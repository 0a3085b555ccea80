"""An agent that does what a test tells it, and a runtime that calls the shim. Bytes are read without code of ours."""

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOCKET = Path("/run/cni-py/agent.sock")
SPOOL = Path("/run/cni-py/del")
HEADER = struct.Struct("=4sBBHII")
CALL, RUN, RAN, ANSWER = 1, 2, 3, 4
CONFIG = b'{"cniVersion": "1.0.0", "name": "net", "type": "cni-py"}'


def pack(kind: int, head: bytes, body: bytes = b"", *, version: int = 1) -> bytes:
    """A frame."""
    return HEADER.pack(b"cnpy", version, kind, 0, len(head), len(body)) + head + body


def status(number: int) -> bytes:
    """The head of ANSWER and RAN."""
    return struct.pack("=i", number)


def strings(*parts: str) -> bytes:
    """The head of CALL and RUN."""
    return b"".join(part.encode() + b"\0" for part in parts)


def unpack(data: bytes) -> tuple[int, bytes, bytes]:
    """Kind, head and body of exactly one frame."""
    magic, version, kind, zero, head, body = HEADER.unpack_from(data)
    assert (magic, version, zero) == (b"cnpy", 1, 0)
    assert len(data) == HEADER.size + head + body
    return kind, data[16 : 16 + head], data[16 + head :]


@dataclass
class Conversation:
    """One connection, its CALL read."""

    connection: socket.socket
    head: bytes = b""
    body: bytes = b""
    inodes: list[int] = field(default_factory=list)

    def read_call(self) -> None:
        """Head, body and the descriptors' inodes are those of the CALL."""
        first, fds, _, _ = socket.recv_fds(self.connection, 16, 8)
        self.inodes = [os.fstat(fd).st_ino for fd in fds]
        for fd in fds:
            os.close(fd)
        kind, self.head, self.body = self._read(first)
        assert kind == CALL

    def send(self, data: bytes) -> None:
        """Bytes, whatever they are; a forwarder that is gone is the test's to notice."""
        with suppress(OSError):
            self.connection.sendall(data)

    def answer(self, code: int, stdout: bytes = b"") -> None:
        """ANSWER."""
        self.send(pack(ANSWER, status(code), stdout))

    def run(self, name: str, path: str, stdin: bytes = b"", **variables: str) -> tuple[int, bytes]:
        """RUN, and what RAN says: status and stdout."""
        settings = {"CNI_COMMAND": "ADD", **variables, "CNI_PATH": path}
        self.send(pack(RUN, strings(name, *(f"{key}={value}" for key, value in settings.items())), stdin))
        kind, head, body = self._read(b"")
        assert kind == RAN
        return struct.unpack("=i", head)[0], body

    def _read(self, data: bytes) -> tuple[int, bytes, bytes]:
        wanted = HEADER.size
        while len(data) < wanted or wanted == HEADER.size:
            if len(data) >= HEADER.size:
                wanted = HEADER.size + sum(HEADER.unpack_from(data)[4:6])
                if len(data) >= wanted:
                    break
            part = self.connection.recv(wanted - len(data))
            if not part:
                raise EOFError(data)
            data += part
        return unpack(data)


@dataclass
class FakeAgent:
    """What it was asked, and what went wrong in the test's own script."""

    calls: list[Conversation] = field(default_factory=list)
    outcome: list[Any] = field(default_factory=list)


@contextmanager
def agent(script: Callable[[Conversation], Any], *, crew: int = 1) -> Iterator[FakeAgent]:
    """An agent on the socket; `script` is what it does with each call, and what it returns is in `outcome`."""
    SOCKET.parent.mkdir(mode=0o700, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    served = FakeAgent()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen(64)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    conversation = Conversation(connection)
                    conversation.read_call()
                    served.calls.append(conversation)
                    try:
                        served.outcome.append(script(conversation))
                    except EOFError as error:
                        served.outcome.append(error)

        threads = [threading.Thread(target=serve) for _ in range(crew)]
        for thread in threads:
            thread.start()
        try:
            yield served
        finally:
            listener.shutdown(socket.SHUT_RD)
            for thread in threads:
                _end(thread)


def _end(thread: threading.Thread) -> None:
    """The thread is gone, also for the kernel: only a process of one task can go back to its namespaces."""
    thread.join(10)
    assert not thread.is_alive()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        os.sched_yield()


@dataclass(frozen=True)
class Caller:
    """A runtime that calls the shim `program`."""

    program: Path

    def environ(self, command: str, **variables: str) -> dict[str, str]:
        """A runtime's environment; a variable given as "" is set and empty."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/nowhere",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            **variables,
        }

    def call(
        self, command: str, stdin: bytes = CONFIG, *, name: str = "cni-py", **variables: str
    ) -> "subprocess.CompletedProcess[bytes]":
        """One call; nothing of it reached stderr."""
        done = subprocess.run(
            [name],
            executable=self.program,
            input=stdin,
            env=self.environ(command, **variables),
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert b"Sanitizer" not in done.stderr
        assert b"runtime error" not in done.stderr
        return done
