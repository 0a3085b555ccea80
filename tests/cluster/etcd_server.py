"""Debian's etcd as a process in the test's namespaces, and its keys by hand."""

import json
import os
import select
import signal
import socket
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

WAIT_S = 60


class Etcd:
    """One member, up when this is made. `arguments` are options of etcd."""

    def __init__(
        self, directory: Path, *arguments: str, address: str = "127.0.0.1", port: int = 2379, scheme: str = "http"
    ) -> None:
        self.url = f"{scheme}://{address}:{port}"
        self.log = directory / "etcd.log"
        peer = f"http://127.0.0.1:{port + 1}"
        self._command = [
            *("etcd", "--name", "test", "--data-dir", str(directory / "etcd"), "--listen-client-urls", self.url),
            *("--advertise-client-urls", self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"test={peer}", "--heartbeat-interval", "10", "--election-timeout", "100"),
            *arguments,
        ]
        self.start()

    def start(self) -> None:
        """It runs, on what an earlier one left, and says itself that it serves."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log.open("ab") as log:
            ready.bind("")  # a name of the kernel's choice, without a file
            environ = {**os.environ, "NOTIFY_SOCKET": ready.getsockname().decode().replace("\0", "@", 1)}
            self._process = subprocess.Popen(self._command, env=environ, stdout=log, stderr=log)
            ended = os.pidfd_open(self._process.pid)
            seen, _, _ = select.select([ready.fileno(), ended], [], [], WAIT_S)
            os.close(ended)
            assert ready.fileno() in seen, f"etcd did not start: {self.log.read_text()[-2000:]}"

    def signal(self, number: int) -> None:
        """It gets the signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """It is dead in the middle of whatever it did."""
        self.signal(signal.SIGKILL)
        self._process.wait(WAIT_S)

    def call(self, path: str, body: Mapping[str, Any], token: str = "") -> dict[str, Any]:
        """One call of the gateway, without code of ours."""
        headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {})}
        with urlopen(Request(f"{self.url}/v3/{path}", json.dumps(body).encode(), headers), timeout=WAIT_S) as answer:  # noqa: S310  # the test's own
            found: dict[str, Any] = json.load(answer)
        return found

    def put(self, key: str, value: str | bytes, lease: int = 0) -> None:
        """The key has that value."""
        data = value.encode() if isinstance(value, str) else value
        self.call("kv/put", {"key": base64(key.encode()), "value": base64(data), "lease": lease})

    def delete(self, key: str) -> None:
        """The key is gone."""
        self.call("kv/deleterange", {"key": base64(key.encode())})

    def get(self, prefix: str, token: str = "") -> dict[str, tuple[str, dict[str, int]]]:
        """{key: (value, its numbers)} of all keys that begin so."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self.call("kv/range", {"key": base64(prefix.encode()), "range_end": base64(end.encode())}, token)
        return {
            b64decode(kv["key"]).decode(): (
                b64decode(kv.get("value", "")).decode("utf-8", "replace"),
                {name: int(kv.get(name, 0)) for name in ("create_revision", "mod_revision", "version", "lease")},
            )
            for kv in answer.get("kvs", [])
        }

    def revision(self) -> int:
        """The store's."""
        return int(self.call("kv/range", {"key": base64(b"x")})["header"]["revision"])

    def compact(self) -> None:
        """What was before now is forgotten."""
        self.call("kv/compaction", {"revision": self.revision(), "physical": True})

    def expire(self, lease: int) -> None:
        """As if nobody had kept the lease alive."""
        self.call("lease/revoke", {"ID": lease})


@contextmanager
def etcd(directory: Path, *arguments: str, **options: Any) -> Iterator[Etcd]:
    """An etcd for the block."""
    server = Etcd(directory, *arguments, **options)
    try:
        yield server
    finally:
        server.kill()


def base64(data: bytes) -> str:
    """As the gateway has bytes."""
    return b64encode(data).decode()
