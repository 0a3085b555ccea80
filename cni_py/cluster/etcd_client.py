"""etcd v3 by its JSON gateway (/v3/, etcd 3.4 and later): several endpoints, TLS, a user, a limit on all that is read.

A call goes to the endpoint that answered last, and to each of the others before it fails.
"""

import asyncio
import json
import socket
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from cni_py.cluster.etcd_access import EtcdAccess
from cni_py.cluster.etcd_wire import (
    Answer,
    Event,
    KeepAnswer,
    KeyValue,
    LeaseAnswer,
    RangeAnswer,
    Refusal,
    TokenAnswer,
    TxnAnswer,
    WatchLine,
    decode,
)
from cni_py.cluster.record import shown
from cni_py.model.errors import CniPyError, DecodeError, TryAgainError

_MOST_BYTES = 1 << 24  # an answer, or a line of a watch; etcd takes requests of 1.5 MiB
_PAGE = 500
_FAREWELL_SECONDS = 0.1
_QUIET_SECONDS = 1500.0  # etcd gives a sign of life in a watch every ten minutes
_LONGEST_REASON = 160
NOT_FOUND, _UNAUTHENTICATED = 5, 16  # gRPC's numbers
# What etcd says when a token is too old, in words alone: the number is that of any bad argument.
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")
_ELSEWHERE = (4, 14)  # this member is late or has no leader; another may do better


class EtcdUnreachableError(TryAgainError):
    """No endpoint answered. Nothing is wrong for good."""


class EtcdRefusedError(TryAgainError):
    """etcd answered that it will not: rights, a user, a quota. The operator changes it, and then it goes on."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message, "see etcd's log; the user needs to read and write below the prefix")
        self.code = code


class GapError(TryAgainError):
    """The watch cannot go on from that revision: what happened since is compacted, or more than is read at once."""


class _TooLargeError(DecodeError):
    """An answer is larger than what is read."""


@dataclass(frozen=True, slots=True)
class Txn:
    """Written whole or not at all: if each key of `expected` has that mod_revision, 0 for one that is not there."""

    expected: Mapping[bytes, int]
    puts: Mapping[bytes, bytes] = field(default_factory=dict)
    deletes: Sequence[bytes] = ()


class EtcdClient:
    """In one event loop, as an asynchronous context. Calls raise CniPyError, nothing else."""

    def __init__(self, access: EtcdAccess, seconds: float = 5.0) -> None:
        self._access = access
        self._context = access.context()
        self._seconds = seconds
        self._endpoints = [one.rstrip("/") for one in access.endpoints]
        self._token = ""
        self._page = _PAGE

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context if self._context is not None else True, limit=8)
        self._session = aiohttp.ClientSession(
            connector=connector, read_bufsize=1 << 18, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        # The loop closes sockets in its next turn, those with TLS when the other side has said farewell as well.
        await asyncio.sleep(0 if self._context is None else _FAREWELL_SECONDS)

    async def read(self, prefix: bytes) -> tuple[list[KeyValue], int]:
        """All keys that begin so, as they were at the revision that is returned with them."""
        found: list[KeyValue] = []
        start, revision, more = prefix, 0, True
        while more:
            body = {"key": _base64(start), "range_end": _base64(end_of(prefix)), "revision": revision}
            try:
                answer = await self._call("kv/range", {**body, "limit": self._page}, RangeAnswer)
            except _TooLargeError:
                if self._page == 1:
                    raise
                self._page = max(1, self._page // 8)  # somebody keeps what is no record there
                continue
            found += answer.kvs
            revision = revision or answer.header.revision
            more = answer.more and bool(answer.kvs)
            if more:
                start = answer.kvs[-1].key + b"\0"
        return found, revision

    async def commit(self, txn: Txn, lease: int = 0) -> int:
        """The revision as of which it is written, its puts under that lease; 0 if a key was not as expected."""
        compares = [
            {"key": _base64(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision}
            for key, revision in txn.expected.items()
        ]
        puts = [
            {"request_put": {"key": _base64(key), "value": _base64(value), "lease": lease}}
            for key, value in txn.puts.items()
        ]
        deletes = [{"request_delete_range": {"key": _base64(key)}} for key in txn.deletes]
        answer = await self._call("kv/txn", {"compare": compares, "success": puts + deletes}, TxnAnswer)
        return answer.header.revision if answer.succeeded else 0

    async def grant(self, ttl: int) -> int:
        """A new lease of that many seconds."""
        return (await self._call("lease/grant", {"TTL": ttl}, LeaseAnswer)).ID

    async def keep(self, lease: int) -> int:
        """The lease begins anew: the seconds that it has, 0 if it is gone."""
        return (await self._call("lease/keepalive", {"ID": lease}, KeepAnswer)).result.TTL

    async def revoke(self, lease: int) -> None:
        """The lease is gone, and all keys under it."""
        await self._call("lease/revoke", {"ID": lease}, LeaseAnswer)

    async def watch(self, prefix: bytes, revision: int) -> AsyncGenerator[tuple[int, tuple[Event, ...]]]:
        """(revision, events) from the revision that is given on, first with none when it has begun. Raises GapError.

        The revision is the last of which all events were told. That of a sign of life may be ahead of events to come.
        """
        request = {
            "key": _base64(prefix),
            "range_end": _base64(end_of(prefix)),
            "start_revision": revision,
            "progress_notify": True,
            "fragment": True,
        }
        whole: list[Event] = []
        async with aclosing(self._lines("watch", {"create_request": request})) as lines:
            async for line in lines:
                said = decode(line, WatchLine)
                if said.error is not None:
                    raise self._refused(bytes(said.error))
                answer = said.result
                if answer is None:
                    continue
                if answer.compact_revision:
                    raise GapError(f"etcd no longer tells what happened since revision {revision}")
                if answer.canceled:
                    raise EtcdRefusedError(f"etcd ended the watch: {shown(answer.cancel_reason or 'no reason given')}")
                whole += answer.events
                if answer.created or (whole and not answer.fragment):
                    told = max([revision - 1, *(event.kv.mod_revision for event in whole)])
                    yield told, tuple(whole)
                    whole = []

    async def _lines(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes]:
        timeout = aiohttp.ClientTimeout(sock_connect=self._seconds, sock_read=_QUIET_SECONDS)
        try:
            async with self._post(path, body, await self._authorized(), timeout) as response:
                if response.status != 200:
                    raise self._refused(await _whole(response))
                _keep_alive(response)
                rest = b""
                async for part in response.content.iter_any():
                    *lines, rest = (rest + part).split(b"\n")
                    if len(rest) > _MOST_BYTES:
                        raise GapError("etcd tells more at once than is read")
                    for line in lines:
                        if line:
                            yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable([(self._endpoints[0], error)]) from None
        raise self._unreachable([(self._endpoints[0], "it ended the watch")])

    async def _call(self, path: str, body: Mapping[str, Any], kind: type[Answer]) -> Answer:
        timeout = aiohttp.ClientTimeout(total=self._seconds)
        failed: list[tuple[str, object]] = []
        renewed = False
        while True:
            try:
                headers = {} if path == "auth/authenticate" else await self._authorized()
                async with self._post(path, body, headers, timeout) as response:
                    data = await _whole(response)
                if response.status == 200:
                    return decode(data, kind)
                error = self._refused(data)
                stale = error.code == _UNAUTHENTICATED or any(words in error.message for words in _STALE_TOKEN)
                if stale and self._access.user and headers and not renewed:
                    self._token, renewed = "", True
                    continue
                if error.code not in _ELSEWHERE and response.status < 502:
                    raise error
                failed.append((self._endpoints[0], error.message))
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failed.append((self._endpoints[0], error))
            self._endpoints.append(self._endpoints.pop(0))
            if len(failed) >= len(self._endpoints):
                raise self._unreachable(failed)

    def _post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> Any:  # noqa: ANN401  # aiohttp's own context, which has no public name
        return self._session.post(
            f"{self._endpoints[0]}/v3/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
            timeout=timeout,
            allow_redirects=False,
        )

    async def _authorized(self) -> Mapping[str, str]:
        if not self._access.user:
            return {}
        if not self._token:
            asked = {"name": self._access.user, "password": self._access.password}
            self._token = (await self._call("auth/authenticate", asked, TokenAnswer)).token
        return {"Authorization": self._token}

    def _refused(self, data: bytes) -> EtcdRefusedError:
        try:
            said = decode(data, Refusal)
        except CniPyError:
            return EtcdRefusedError(f"{self._endpoints[0]} is no etcd: it answered {shown(data[:80])}")
        words = said.message or said.error or "no reason given"
        return EtcdRefusedError(f"etcd refused: {shown(words)}", said.code or said.grpc_code)

    @staticmethod
    def _unreachable(failed: Sequence[tuple[str, object]]) -> EtcdUnreachableError:
        reasons = "; ".join(f"{endpoint}: {_reason(error)}" for endpoint, error in failed)
        return EtcdUnreachableError(
            f"etcd cannot be reached: {reasons}", "is it running, and does a firewall let this node to it?"
        )


def end_of(prefix: bytes) -> bytes:
    """The first key behind all that begin so."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _reason(error: object) -> str:
    match error:
        case TimeoutError():
            text = "no answer in time"
        case aiohttp.ClientConnectorCertificateError():
            text = f"its certificate is not accepted: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            text = error.strerror or str(error.os_error)
        case _:
            text = str(error) or type(error).__name__
    return ascii(text)[1:-1][:_LONGEST_REASON]


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > _MOST_BYTES:
            response.close()
            raise _TooLargeError(f"etcd answers with more than {_MOST_BYTES} bytes")
    return bytes(data)


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """A watch that nothing comes from for long is known to be cut within half a minute."""
    transport = response.connection.transport if response.connection is not None else None
    connection = transport.get_extra_info("socket") if isinstance(transport, asyncio.Transport) else None
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
