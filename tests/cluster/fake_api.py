"""An API server of Kubernetes that behaves as a test wants, also badly: HTTPS on 127.0.0.1, a few kinds of objects.

What it has is in `objects`, by path. Each request of a kind takes the next step of the script of that kind, and when
there is none does what a good server does. It notes all that it was asked. The kind is initial, list, watch or patch,
for other objects than Nodes with the path behind it, as in "watch /api/v1/pods".
"""

import asyncio
import json
import queue
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import trustme
from aiohttp import web

WAIT_S = 30
NODES = "/api/v1/nodes"
PATHS = {
    "Node": NODES,
    "Pod": "/api/v1/pods",
    "Namespace": "/api/v1/namespaces",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
}
Step = Callable[["FakeApi", web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]


def node(name: str, cidr: str = "", annotation: str | None = None, *, uid: str = "", **status: Any) -> Json:
    """A Node as small as one can be."""
    return {
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": uid or f"uid-{name}",
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "annotations": {"other": "x"} | ({} if annotation is None else {"cni-py.dev/node": annotation}),
        },
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {},
        "status": status,
    }


class FakeApi:
    """Serves from `with` on. `asked` gets (kind, query) of each request."""

    def __init__(self, directory: Path) -> None:
        self.objects: dict[str, dict[str, Json]] = {path: {} for path in PATHS.values()}
        self.nodes = self.objects[NODES]
        self.version = 10
        self.token = "first"  # noqa: S105  # a test's
        self.asked: queue.Queue[tuple[str, Json]] = queue.Queue()
        self.scripts: dict[str, deque[Step]] = defaultdict(deque)
        self.ca = directory / "ca.crt"
        self.token_file = directory / "token"
        self.token_file.write_text("first\n")
        self._watchers: dict[str, list[asyncio.Queue[bytes | None]]] = {path: [] for path in PATHS.values()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._demanding = False
        self.port = 0
        self.renew()

    def renew(self) -> None:
        """Another CA, and a certificate by it; for connections from now on."""
        self.authority = trustme.CA()
        self._issued = self.authority.issue_cert("127.0.0.1")
        self.authority.cert_pem.write_to_path(str(self.ca))

    def demand_certificates(self) -> None:
        """Clients without a certificate are turned away from now on."""
        self._demanding = True
        self.down()
        self.up()

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://127.0.0.1:{self.port}"

    def call(self, work: Any) -> Any:
        """The coroutine has run in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def script(self, kind: str, *steps: Step) -> None:
        """What the next requests of that kind get."""
        self.scripts[kind].extend(steps)

    def next(self, kind: str) -> Json:
        """The query of the next request of the kind, once there is one; others before it are passed over."""
        while True:
            asked, query = self.asked.get(timeout=WAIT_S)
            if asked == kind:
                return query

    def put(self, object_: Json) -> None:
        """An object is there, or is as it is now."""
        objects = self.objects[PATHS[object_["kind"]]]
        self.emit("MODIFIED" if _key(object_) in objects else "ADDED", object_)
        objects[_key(object_)] = object_

    def delete(self, name: str, path: str = NODES) -> None:
        """An object is gone."""
        self.emit("DELETED", self.objects[path].pop(name))

    def emit(self, kind: str, object_: Json) -> None:
        """All watches of its kind get the event, whatever is there."""
        self.version += 1
        object_["metadata"]["resourceVersion"] = str(self.version)
        self.raw(event(kind, object_), PATHS[object_["kind"]])

    def raw(self, data: bytes | None, path: str = NODES) -> None:
        """All watches of the path get the bytes; None ends them."""
        self.call(self._raw(data, path))

    def down(self) -> None:
        """It does not listen any more, and its connections are cut."""
        self.call(self._stop())

    def up(self) -> None:
        """It is there again, on the same port."""
        self.call(self._start())

    async def _raw(self, data: bytes | None, path: str) -> None:
        for watcher in self._watchers[path]:
            watcher.put_nowait(data)

    async def _start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._issued.configure_cert(context)
        if self._demanding:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        application = web.Application()
        for path in PATHS.values():
            application.router.add_get(path, self._get)
        application.router.add_patch("/api/v1/nodes/{name}/status", self._patch)
        application.router.add_patch("/api/v1/namespaces/{namespace}/pods/{name}/status", self._patch_pod)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        for path in self._watchers:
            await self._raw(None, path)
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None
            await asyncio.sleep(0)  # a transport closes its socket in the next round of the loop

    async def _get(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        kind = "list" if "watch" not in query else "initial" if "sendInitialEvents" in query else "watch"
        if request.path != NODES:
            kind += f" {request.path}"
        self.asked.put((kind, query))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return status(401)
        if self.scripts[kind]:
            return await self.scripts[kind].popleft()(self, request)
        return await (self.page(request) if kind.startswith("list") else self.watch(request, *self.initial(request)))

    def initial(self, request: web.Request) -> list[bytes]:
        """What a watch begins with: everything and a bookmark, or nothing."""
        if "sendInitialEvents" not in request.query:
            return []
        objects = self.objects[request.path].values()
        return [*(event("ADDED", one) for one in objects), bookmark(self.version, complete=True)]

    async def page(self, request: web.Request) -> web.StreamResponse:
        """A list, two objects a page."""
        begin = int(request.query.get("continue", "0"))
        objects = self.objects[request.path]
        names = sorted(objects)
        metadata = {"resourceVersion": str(self.version)}
        if begin + 2 < len(names):
            metadata["continue"] = str(begin + 2)
        items = [objects[name] for name in names[begin : begin + 2]]
        return web.json_response({"kind": "List", "metadata": metadata, "items": items})

    async def watch(self, request: web.Request, *begin: bytes, then: bool = True) -> web.StreamResponse:
        """The bytes, then what is emitted; or with `then=False` the end."""
        response = web.StreamResponse()
        events: asyncio.Queue[bytes | None] = asyncio.Queue()
        watchers = self._watchers[request.path]
        watchers.append(events)  # before anybody can know that the watch is there
        try:
            await response.prepare(request)
            for one in begin:
                await response.write(one)
            while then and (data := await events.get()) is not None:
                await response.write(data)
        except ConnectionResetError:
            pass
        finally:
            watchers.remove(events)
        return response

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.asked.put(("patch", {"type": request.content_type, **body}))
        if self.scripts["patch"]:
            return await self.scripts["patch"].popleft()(self, request)
        object_ = deepcopy(self.nodes[request.match_info["name"]])
        object_["metadata"]["annotations"] |= body.get("metadata", {}).get("annotations", {})
        conditions = {one["type"]: one for one in object_["status"].get("conditions", [])}
        conditions |= {one["type"]: one for one in body.get("status", {}).get("conditions", [])}
        object_["status"]["conditions"] = list(conditions.values())
        self.version += 1
        object_["metadata"]["resourceVersion"] = str(self.version)
        self.nodes[request.match_info["name"]] = object_
        await self._raw(event("MODIFIED", object_), NODES)
        return web.json_response(object_)

    async def _patch_pod(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        path, key = PATHS["Pod"], f"{request.match_info['namespace']}/{request.match_info['name']}"
        self.asked.put((f"patch {path}", {"type": request.content_type, "pod": key, **body["metadata"]}))
        if self.scripts[f"patch {path}"]:
            return await self.scripts[f"patch {path}"].popleft()(self, request)
        if key not in self.objects[path]:
            return status(404)
        object_ = deepcopy(self.objects[path][key])
        if body["metadata"].get("uid", object_["metadata"]["uid"]) != object_["metadata"]["uid"]:
            return status(422, "metadata.uid: field is immutable")
        object_["metadata"]["annotations"] = {
            **object_["metadata"].get("annotations", {}),
            **body["metadata"]["annotations"],
        }
        self.version += 1
        object_["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path][key] = object_
        await self._raw(event("MODIFIED", object_), path)
        return web.json_response(object_)


def _key(object_: Json) -> str:
    metadata = object_["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if "namespace" in metadata else str(metadata["name"])


def event(kind: str, object_: Json) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": object_}, separators=(",", ":")).encode() + b"\n"


def bookmark(version: int, *, complete: bool = False) -> bytes:
    """A bookmark; with `complete` that which ends the initial events."""
    annotations = {"k8s.io/initial-events-end": "true"} if complete else {}
    metadata = {"resourceVersion": str(version), "annotations": annotations}
    return event("BOOKMARK", {"kind": "Node", "metadata": metadata})


def error(code: int) -> bytes:
    """An ERROR frame."""
    return event("ERROR", {"kind": "Status", "code": code, "message": f"error {code}", "status": "Failure"})


def status(code: int, message: str = "", **headers: str) -> web.Response:
    """A refusal."""
    body = {"kind": "Status", "status": "Failure", "message": message or f"status {code}", "code": code}
    return web.json_response(
        body, status=code, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


def refuse(code: int, message: str = "", **headers: str) -> Step:
    """A step: a refusal."""

    async def step(_api: FakeApi, _request: web.Request) -> web.StreamResponse:
        return status(code, message, **headers)

    return step


def say(*data: bytes, then: bool = True) -> Step:
    """A step: a watch that begins with these bytes."""

    async def step(api: FakeApi, request: web.Request) -> web.StreamResponse:
        return await api.watch(request, *data, then=then)

    return step
