"""Health and metrics over HTTP, for kubelet and Prometheus: the standard library's server, in threads of its own.

aiohttp would be 16 MiB more in an agent that may have 50; three pages that take no input need none of it. A client gets
one answer a connection, has five seconds for its request, and more than a few at once are turned away.
"""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from cni_py.model.errors import BadEnvironmentError, IOFailureError

_AT_ONCE = 16
_CLIENT_SECONDS = 5.0
_MOST_BYTES = 1 << 13
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


def verdict(problem: str) -> Page:
    """200 for no problem, 503 that names it."""
    return Page(503, f"{problem}\n".encode()) if problem else Page(200, b"ok\n")


def parse_address(text: str) -> tuple[str, int]:
    """`ADDRESS:PORT` or `[ADDRESS]:PORT`. Raises BadEnvironmentError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        version = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.inet_pton(version, host)
        number = int(port)
        if not 0 < number < 1 << 16:
            raise ValueError  # noqa: TRY301  # one way out for all that is no address
    except (OSError, ValueError):
        raise BadEnvironmentError(
            f"--listen: {text[:80]!r} is no ADDRESS:PORT", 'such as 127.0.0.1:9761 or [::1]:9761, or "" for none'
        ) from None
    return host, number


def serve(address: tuple[str, int], pages: Mapping[str, Callable[[], Page]]) -> None:
    """`pages`, {path: what is there}, are served as long as the process lives. Raises IOFailureError."""
    try:
        server = _Server(address, pages)
    except OSError as error:
        raise IOFailureError(
            f"cannot listen on {address[0]} port {address[1]}: {error.strerror}",
            'give another address with --listen, or "" for none',
        ) from None
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], pages: Mapping[str, Callable[[], Page]]) -> None:
        self.pages = pages
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Also where the loopback interface is not up yet, and beside an agent that is about to go (an upgrade)."""
        six = self.address_family == socket.AF_INET6
        level, option = (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if six else (socket.IPPROTO_IP, _IP_FREEBIND)
        self.socket.setsockopt(level, option, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the base class
        """Not another thread where so many wait already."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as above
        """See the base class."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as above
        """A client that hung up is no event."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    server: _Server

    def setup(self) -> None:
        """The request is here, or as much of it as came in time."""
        super().setup()
        head = b""
        deadline = time.monotonic() + _CLIENT_SECONDS
        with suppress(OSError):
            while b"\r\n\r\n" not in head and len(head) < _MOST_BYTES and (left := deadline - time.monotonic()) > 0:
                self.connection.settimeout(left)
                part = self.connection.recv(_MOST_BYTES)
                if not part:
                    break
                head += part
        self.connection.settimeout(_CLIENT_SECONDS)
        self.rfile = BytesIO(head)

    def do_GET(self) -> None:
        """A page."""
        look_up = self.server.pages.get(self.path.partition("?")[0])
        page = look_up() if look_up is not None else Page(404, b"/healthz, /readyz and /metrics are here\n")
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def do_HEAD(self) -> None:
        """A page without its content."""
        self.do_GET()

    def version_string(self) -> str:
        """What we are, and no more."""
        return "cni-py"

    def log_message(self, *_: object) -> None:
        """No line: probes come every few seconds."""


class Probe:
    """A check that may hang, asked with patience. `check` raises nothing and says "" or what is wrong."""

    def __init__(self, check: Callable[[], str]) -> None:
        self._check = check
        self._guard = threading.Lock()
        self._running: _Check | None = None

    def ask(self, seconds: float) -> str:
        """What the check says, or that it has not come to an end; a check that hangs is joined, not repeated."""
        with self._guard:
            running = self._running
            if running is None or running.over.is_set():
                running = self._running = _Check(self._check)
        if running.over.wait(seconds):
            return running.said
        return f"no answer within {seconds:g} s"


class _Check:
    def __init__(self, check: Callable[[], str]) -> None:
        self.over = threading.Event()
        self.said = ""
        self._check = check
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def _run(self) -> None:
        self.said = self._check()
        self.over.set()
