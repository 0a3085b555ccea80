"""Requests to the API server of Kubernetes. A failure is an ApiError that says in words what it is and what mends it.

The server's certificate is always verified. Files may change at any time: tokens are rotated every hour and CAs once in
years, so a token is read for each request, and connections are made anew when the files behind their TLS have changed.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.record import shown
from cni_py.model.errors import InvalidConfigError, IOFailureError, TryAgainError

_LONGEST_WAIT_S = 120.0
_SAID_BYTES = 1 << 14
_SAID_SHOWN = 300
_CHUNK_BYTES = 1 << 16
_FAREWELL_S = 0.1


class _Status(msgspec.Struct):
    message: str


_STATUS = msgspec.json.Decoder(_Status)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `first` to `most` between attempts; `connect` until a connection stands.

    A connection on which nothing came for `quiet` is taken for dead: the server sends a bookmark each minute. A watch
    lasts about `lasts`, then it is made anew.
    """

    first: float = 0.8
    most: float = 30.0
    connect: float = 10.0
    quiet: float = 70.0
    lasts: float = 290.0


class ApiError(TryAgainError):
    """The API server refused, or could not be asked. `status` is that of HTTP, 0 if there was no answer.

    `wait`: so many seconds it wants to be left alone. `begun`: the answer broke off, which is how a restart looks.
    """

    def __init__(self, message: str, details: str, status: int = 0, wait: float = 0, *, begun: bool = False) -> None:
        super().__init__(message, details)
        self.status, self.wait, self.begun = status, wait, begun


class KubeApi:
    """The API server, for the tasks of one event loop."""

    def __init__(self, access: KubeAccess, timing: Timing) -> None:
        self._access = access
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=timing.connect, sock_connect=timing.connect, sock_read=timing.quiet
        )
        self._session: aiohttp.ClientSession | None = None
        self._files: object = None

    def check(self) -> None:
        """All files are there and fit, or CniPyError is raised."""
        tls_context(self._access)
        if self._access.token is not None:
            _content(self._access.token, "token")

    async def close(self) -> None:
        """Its connections are closed."""
        if self._session is not None:
            await self._session.close()
            # what was cut off in the middle of a request still says TLS's farewell, and nothing tells when it has
            await asyncio.sleep(_FAREWELL_S)

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of a GET as it comes, in pieces; after the block nobody reads it any more. Raises ApiError."""
        response = await self._request("GET", path, query, None, "")
        pieces = self._pieces(response)
        try:
            yield pieces
        finally:
            await pieces.aclose()
            _hang_up(response)

    async def patch(self, path: str, body: bytes, kind: str) -> None:
        """A PATCH of the content type `kind` was taken. Raises ApiError."""
        _hang_up(await self._request("PATCH", path, {}, body, kind))

    async def post(self, path: str, body: bytes) -> None:
        """A POST of JSON was taken. Raises ApiError."""
        _hang_up(await self._request("POST", path, {}, body, "application/json"))

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None, kind: str
    ) -> aiohttp.ClientResponse:
        access = self._access
        with self._translated(begun=False):
            session = await self._connected()
            headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "cni-py"}
            if access.token is not None:
                headers["Authorization"] = f"Bearer {_content(access.token, 'token').decode('latin-1').strip()}"
            if body is not None:
                headers["Content-Type"] = kind
            response = await session.request(
                method, access.server + path, params=query, data=body, headers=headers, allow_redirects=False
            )
        if response.status < 300:
            return response
        try:
            raise await self._refusal(response)
        finally:
            _hang_up(response)

    async def _connected(self) -> aiohttp.ClientSession:
        files = [_stamp(one) for one in (self._access.ca, self._access.certificate, self._access.key)]
        if self._session is None or files != self._files:
            context = tls_context(self._access)
            await self.close()
            connector = aiohttp.TCPConnector(ssl=context, limit=4)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
            self._files = files
        return self._session

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        with self._translated(begun=True):
            while piece := await response.content.read(_CHUNK_BYTES):
                yield piece

    @contextmanager
    def _translated(self, *, begun: bool) -> Iterator[None]:
        """Any way in which a connection fails, in words."""
        server, runs = self._access.server, "see that the API server runs and that this node reaches it"
        try:
            yield
        except aiohttp.ClientConnectorCertificateError as error:
            raise ApiError(
                f"{server} is not who it should be: {shown(str(error.certificate_error))}",
                "see that the CA is that of the cluster, and that the address is in the server's certificate",
            ) from None
        except TimeoutError:
            raise ApiError(f"{server} {'fell silent' if begun else 'does not answer'}", runs, begun=begun) from None
        except (IOFailureError, InvalidConfigError) as error:
            raise ApiError(error.message, error.details) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            what = "broke off" if begun else "cannot be reached"
            raise ApiError(f"{server} {what}: {_words(error)}", runs, begun=begun) from None

    async def _refusal(self, response: aiohttp.ClientResponse) -> ApiError:
        with self._translated(begun=True):
            said = _said(await response.content.read(_SAID_BYTES))
        server, status = self._access.server, response.status
        match status:
            case 401:
                what = f"{server} does not know who this is (401)"
                todo = "see that the token or client certificate is of this cluster and has not expired"
            case 403:
                what = f"{server} does not allow it (403): {said}"
                todo = "grant it by RBAC: docs/peers-kubernetes.md and policies-kubernetes.md have the ClusterRoles"
            case 429 | 503 | 504:
                what = f"{server} is too busy ({status}): {said}"
                todo = "it is asked again"
            case _:
                what = f"{server} refuses ({status}): {said}"
                todo = "if it goes on: see the log of the API server"
        return ApiError(what, todo, status, _wait(response.headers.get("Retry-After", "")))


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """Nobody reads it any more. Not with TLS's farewell, for which a connection that is half-open waits in vain."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def tls_context(access: KubeAccess) -> ssl.SSLContext:
    """What is believed and shown when a connection is made. Raises IOFailureError or InvalidConfigError."""
    context = ssl.create_default_context()
    # from Python 3.13 on default contexts refuse CAs that lack extensions which clusters made before 2020 never had
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        if access.ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_verify_locations(cadata=_content(access.ca, "CA").decode("ascii"))
        if access.certificate is not None and access.key is not None:
            with _file(access.certificate, "certificate") as certificate, _file(access.key, "key") as key:
                context.load_cert_chain(certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfigError(
            f"the CA or the client certificate for {access.server} is not PEM that fits: {shown(str(error))}",
            "give the files of this cluster",
        ) from None
    return context


def _content(source: Path | bytes, what: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise IOFailureError(
            f"the {what} {source}: {error.strerror}", "see that the ServiceAccount is mounted, or give another file"
        ) from None


@contextmanager
def _file(source: Path | bytes, what: str) -> Iterator[str]:
    """A path under which OpenSSL finds it; content never reaches a disk."""
    descriptor = os.memfd_create(what)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(_content(source, what))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _stamp(source: Path | bytes | None) -> object:
    """Another value when the file is another."""
    if not isinstance(source, Path):
        return None
    try:
        state = source.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _said(body: bytes) -> str:
    """What the server says to it, in one printable line."""
    try:
        text = _STATUS.decode(body).message
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        text = body.decode(errors="replace")
    return "".join(one if " " <= one <= "~" else " " for one in text[:_SAID_SHOWN])


def _words(error: Exception) -> str:
    inner = getattr(error, "os_error", error)
    number = getattr(inner, "errno", None)
    # asyncio makes up texts with addresses and numbers in them; the system's say it shorter
    return os.strerror(number) if isinstance(number, int) and number > 0 else shown(str(inner))


def _wait(text: str) -> float:
    return min(float(text), _LONGEST_WAIT_S) if text.isascii() and text.isdigit() else 0.0
