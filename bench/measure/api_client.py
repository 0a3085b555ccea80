"""The administrator of a real kube-apiserver, as fast as a benchmark needs to fill it."""

import http.client
import json
import ssl
from threading import local
from typing import Any

from cluster.apiserver import PORT, ApiServer


class Client:
    """Keeps a connection for each thread."""

    def __init__(self, server: ApiServer) -> None:
        self._trust = ssl.create_default_context(cafile=str(server.ca))
        self._mine = local()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, kind: str = "application/json") -> bytes:
        """The answer."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=self._trust)
        connection: http.client.HTTPSConnection = self._mine.connection
        headers = {"Authorization": "Bearer admin", "Content-Type": kind}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        with connection.getresponse() as answer:
            data = answer.read()
            assert answer.status < 300, data  # noqa: S101  # a benchmark that fails has no figures
            return data
