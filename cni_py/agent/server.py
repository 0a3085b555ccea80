"""The socket on which forwarders call: accept, check the peer, read the frame, answer it; stop without losing a call.

One thread accepts a call, reads and answers it: calls compute one at a time anyway (`agent.turn`), and a thread that
ran a moment ago finds its caches warm. Where it has to wait for anybody, another stands in for it meanwhile. A new
agent binds a name of its own and renames it over the old socket. To stop, the listening socket is shut down for
reading: the kernel then refuses new connections, which forwarders take for "agent away" and try again, and still hands
out those that were made before.
"""

import errno
import logging
import os
import select
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cni_py.model.errors import CniPyError, DecodeError, IOFailureError, TryAgainError
from cni_py.spec import frame, versions
from cni_py.spec.codes import render_error
from cni_py.spec.frame import Header, Kind

_BACKLOG = 4096
_CMSG_CLOEXEC = 0x40000000  # MSG_CMSG_CLOEXEC, which the standard library has no name for
_READ_BYTES = 1 << 16
_MOST_FDS = 4  # two are of use
_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid
_PEER_SECONDS = struct.pack("@ll", 120, 0)  # a forwarder that neither goes on nor hangs up
_TRANSIENT = {errno.EINTR, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_LOG = logging.getLogger("cni_py.agent")
_GONE = select.POLLHUP | select.POLLERR | select.POLLRDHUP


@dataclass(slots=True)
class Caller:
    """One connection: what was called, and the forwarder behind it. `netns_fd` is None if it could not be opened.

    Inside `busy` another thread stands in for this one. Without a connection it is the agent itself that calls.
    """

    connection: socket.socket | None
    busy: Callable[[], AbstractContextManager[None]]
    name: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    host_fd: int | None = None
    netns_fd: int | None = None

    def gone(self) -> bool:
        """True if the forwarder has hung up: nobody waits for the answer."""
        if self.connection is None:
            return False
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return any(events & _GONE for _, events in poll.poll(0))

    def run(self, plugin: str, environ: dict[str, str], stdin: bytes) -> tuple[int, bytes]:
        """The forwarder runs a plugin of its CNI_PATH: (RAN's status, stdout). Raises TryAgainError if it is gone."""
        if self.connection is None:
            raise TryAgainError(f"only a forwarder can run {plugin}", "the next ADD brings one")
        try:
            self.connection.sendall(frame.pack_call(plugin, environ, stdin, Kind.RUN))
            header, head, body = _read_frame(self.connection, b"", nullcontext)
        except OSError:
            raise TryAgainError(f"the caller hung up while it ran {plugin}", "the runtime repeats the call") from None
        if header.kind is not Kind.RAN:
            raise DecodeError("the forwarder answered RUN with something else", "it is broken, or not ours")
        return frame.parse_status(head), body

    def answer(
        self, code: int, stdout: bytes, released: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> bool:
        """The answer is on its way, the rest of a long one inside `released`; False if nobody takes it any more."""
        if self.connection is None:
            return True
        rest = memoryview(frame.pack_status(Kind.ANSWER, code, stdout))
        try:
            with suppress(BlockingIOError):
                rest = rest[self.connection.send(rest, socket.MSG_DONTWAIT) :]
            if rest:  # more than the socket holds, and the forwarder need not read it
                with released():
                    self.connection.sendall(rest)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Connection and descriptors are closed."""
        for fd in (self.host_fd, self.netns_fd):
            if fd is not None:
                os.close(fd)
        if self.connection is not None:
            self.connection.close()


class Server:
    """Serves `call` for CALL frames on a Unix socket, and for REPORT frames `report`, which may raise CniPyError."""

    def __init__(self, path: Path, call: Callable[[Caller], None], report: Callable[[str, bytes], bytes]) -> None:
        self._path = path
        self._call = call
        self._report = report
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._inode = 0
        self._guard = threading.Lock()
        self._crew: set[threading.Thread] = set()
        self._surplus = 0

    def start(self) -> None:
        """The socket is in its place and served. Raises IOFailureError."""
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.parent.chmod(0o700)
            new.unlink(missing_ok=True)
            self._listener.bind(str(new))
            new.chmod(0o600)
            self._listener.listen(_BACKLOG)
            self._inode = new.stat().st_ino
            new.rename(self._path)
        except OSError as error:
            self._listener.close()
            raise IOFailureError(
                f"cannot listen on {self._path}: {error.strerror}", "run the agent as root, with /run/cni-py writable"
            ) from None
        self._hire()

    def displaced(self) -> bool:
        """True if another agent has put its socket in the place of ours."""
        try:
            return self._path.stat().st_ino != self._inode
        except OSError:
            return True

    def stop(self, seconds: float) -> bool:
        """No new call is taken and those that were begun are finished; False if some were not within `seconds`."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self._guard:
                thread = next(iter(self._crew), None)
            if thread is None:
                break
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()
        return not self._crew

    def _hire(self) -> None:
        thread = threading.Thread(target=self._work, name="call", daemon=True)
        with self._guard:  # so that `stop` sees none that it cannot join yet
            self._crew.add(thread)
            thread.start()

    def _receive(self, connection: socket.socket) -> tuple[bytes, list[int]]:
        """What the forwarder sent first, and its descriptors; it nearly always has sent by now."""
        try:
            return _receive_with_fds(connection, socket.MSG_DONTWAIT)
        except BlockingIOError:
            with self.stand_in():
                return _receive_with_fds(connection, 0)

    @contextmanager
    def stand_in(self) -> Iterator[None]:
        """Another thread takes calls as long as this one is inside the block; before `start` there are none to take."""
        if not self._inode:
            yield
            return
        self._hire()
        try:
            yield
        finally:
            with self._guard:
                self._surplus += 1

    def _dismissed(self) -> bool:
        with self._guard:
            if not self._surplus:
                return False
            self._surplus -= 1
            return True

    def _work(self) -> None:
        try:
            self._accept_until_stopped()
        finally:
            with self._guard:
                self._crew.discard(threading.current_thread())

    def _accept_until_stopped(self) -> None:
        while not self._dismissed():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue
                return  # shut down and drained
            caller = Caller(connection, self.stand_in)
            try:
                self._serve(caller, connection)
            except Exception as error:  # noqa: BLE001  # a bug costs the call that met it, not the node its agent
                _LOG.error("a call was dropped: unexpected %s: %s", type(error).__name__, error)
            finally:
                caller.close()

    def _serve(self, caller: Caller, connection: socket.socket) -> None:
        try:
            _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != 0:
                return
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection.setsockopt(socket.SOL_SOCKET, option, _PEER_SECONDS)
            data, fds = self._receive(connection)
            caller.host_fd, caller.netns_fd = (*fds[:2], None, None)[:2]
            for extra in fds[2:]:
                os.close(extra)
            if not data:
                return
            header, head, caller.stdin = _read_frame(connection, data, self.stand_in)
            if header.kind is Kind.REPORT:
                caller.answer(0, self._report(head.decode("utf-8", "replace"), caller.stdin))
                return
            if header.kind is not Kind.CALL:
                raise DecodeError(f"a frame of kind {header.kind.name} begins no call", "the forwarder is broken")
            if caller.host_fd is None:
                raise DecodeError("a CALL without the caller's network namespace", "the forwarder is broken")
            caller.name, caller.environ = frame.parse_call(head)
        except CniPyError as error:
            caller.answer(1, render_error(error, versions.CURRENT))
            return
        except OSError:
            return
        self._call(caller)


def _receive_with_fds(connection: socket.socket, flags: int) -> tuple[bytes, list[int]]:
    """As socket.recv_fds, which in Python 3.11 forgets its flags."""
    fds = array("i")
    space = socket.CMSG_LEN(_MOST_FDS * fds.itemsize)
    data, ancillary, _, _ = connection.recvmsg(_READ_BYTES, space, flags | _CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, fds.tolist()


def _read_frame(
    connection: socket.socket, data: bytes, waiting: Callable[[], AbstractContextManager[None]]
) -> tuple[Header, bytes, bytes]:
    """The frame that begins with `data`: (header, head, body). Where it has to wait for more it does inside `waiting`.

    Raises CniPyError, OSError also for an early end.
    """
    if len(data) < frame.HEADER_BYTES:
        with waiting():
            data = _read_up_to(connection, data, frame.HEADER_BYTES)
    header = frame.parse_header(data)
    end = frame.HEADER_BYTES + header.head
    if len(data) < end + header.body:
        with waiting():
            data = _read_up_to(connection, data, end + header.body)
    return header, data[frame.HEADER_BYTES : end], data[end : end + header.body]


def _read_up_to(connection: socket.socket, data: bytes, size: int) -> bytes:
    parts = bytearray(data)
    while len(parts) < size:
        part = connection.recv(min(_READ_BYTES, size - len(parts)))
        if not part:
            raise ConnectionResetError
        parts += part
    return bytes(parts)
