"""A forwarder in Python: hands a call to the node's agent (docs/agent-protocol.md). The shim in C does the same."""

import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from cni_py.invoke.delegate import find_plugin
from cni_py.model.errors import CniPyError, PluginError, TryAgainError
from cni_py.spec import frame
from cni_py.spec.frame import Header, Kind

_ANSWER_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Answered:
    """The agent's answer."""

    code: int
    stdout: bytes


def forward(name: str, environ: Mapping[str, str], stdin: bytes) -> Answered | None:
    """The agent's answer to a call of the plugin `name`, None if the agent is away.

    Raises TryAgainError if it is lost in the middle, PluginError if it is of another release.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(frame.SOCKET)
        except OSError:
            return None
        try:
            _send_call(connection, frame.pack_call(name, frame.forwarded(environ), stdin), environ)
            while True:
                header, head, body = _receive(connection)
                if header.kind is not Kind.RUN:
                    return Answered(frame.parse_status(head), body)
                connection.sendall(_run(environ, head, body))
        except OSError:
            raise TryAgainError(
                "the cni-py agent was lost while it answered",
                "look at it (systemctl status cni-py, or the log of its pod); the runtime repeats the call",
            ) from None


def report(seconds: float = _ANSWER_SECONDS, query: str = "", arguments: bytes = b"") -> bytes | None:
    """The agent's status, or its answer to a query, as JSON; None if it is away or silent for so long.

    Raises PluginError with the agent's words if it has no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(frame.SOCKET)
            connection.sendall(frame.pack(Kind.REPORT, query.encode(), arguments))
            header, head, body = _receive(connection)
        except OSError:
            return None
    if header.kind is not Kind.ANSWER:
        return None
    if frame.parse_status(head):
        import json  # noqa: PLC0415  # no call of a plugin needs it

        document = json.loads(body)
        raise PluginError(str(document.get("msg", "")), str(document.get("details", "")))
    return body


def _send_call(connection: socket.socket, call: bytes, environ: Mapping[str, str]) -> None:
    fds = [os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)]
    try:
        with suppress(OSError, ValueError):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            fds.append(os.open(environ.get("CNI_NETNS", ""), flags))
        sent = socket.send_fds(connection, [call], fds)
    finally:
        for fd in fds:
            os.close(fd)
    with suppress(BrokenPipeError):  # an agent may answer and leave before it has read all, even before this line
        connection.sendall(call[sent:])


def _receive(connection: socket.socket) -> tuple[Header, bytes, bytes]:
    header = frame.parse_header(_read(connection, frame.HEADER_BYTES))
    return header, _read(connection, header.head), _read(connection, header.body)


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(1 << 16, size - len(data)))
        if not part:
            raise ConnectionResetError
        data += part
    return bytes(data)


def _run(environ: Mapping[str, str], head: bytes, stdin: bytes) -> bytes:
    """RAN: the plugin that RUN asks for, run here with our environment and its variables over it."""
    name, variables = frame.parse_call(head)
    path = tuple(part for part in variables.get("CNI_PATH", "").split(":") if part)
    try:
        executable = find_plugin(name, path)
    except PluginError:
        return frame.pack_status(Kind.RAN, frame.NOT_FOUND, b"")
    try:
        finished = subprocess.run(  # noqa: S603  # the name was checked, the directory is the runtime's
            [str(executable)], input=stdin, stdout=subprocess.PIPE, env={**environ, **variables}, check=False
        )
    except (OSError, CniPyError):
        return frame.pack_status(Kind.RAN, frame.NOT_EXECUTABLE, b"")
    status = finished.returncode if finished.returncode >= 0 else 256 - finished.returncode
    return frame.pack_status(Kind.RAN, status, finished.stdout)
