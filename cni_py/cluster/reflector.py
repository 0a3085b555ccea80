"""All objects of one kind, as they are now: list and watch of a Kubernetes API, for ever.

What is told are differences between what was known and what is there, never events: after any gap everything is read
again and compared, so nothing is torn down by a gap. Of each object only what `decode` makes of it is kept.

Everything is read by a watch that begins with all objects, which costs the server least, or in pages where it cannot do
that. A version is what the server says, opaque; where it has become too old, everything is read again.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from cni_py.cluster.backoff import Backoff
from cni_py.cluster.kube_api import ApiError, KubeApi, Timing
from cni_py.cluster.kube_lines import MOST_BYTES, Lines, deletion, key, named
from cni_py.cluster.record import shown
from cni_py.model.errors import DecodeError

PAGE_OBJECTS = 500
_PAGE_BYTES = 128 << 20
_GONE = 410

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object is there, but not to be understood."""

    reason: str


class _Annotations(msgspec.Struct):
    complete: str = msgspec.field(name="k8s.io/initial-events-end", default="")


class _Metadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    continued: str = msgspec.field(name="continue", default="")
    annotations: _Annotations | None = None


class _Head(msgspec.Struct):
    metadata: _Metadata


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Page(msgspec.Struct):
    metadata: _Metadata
    items: list[msgspec.Raw] | None = None


_HEAD, _STATUS = msgspec.json.Decoder(_Head), msgspec.json.Decoder(_Status)
# what comes of bytes that are no such JSON: also of what is nested too deeply, or no UTF-8
_NO_JSON = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
_EVENT, _PAGE = msgspec.json.Decoder(_Event), msgspec.json.Decoder(_Page)


class _StaleError(Exception):
    """What is known cannot be carried on from: everything has to be read again."""


class _NoStreamError(Exception):
    """The server does not begin a watch with all objects: it has to be asked for pages."""


class Reflector(Generic[T]):
    """Reads what is at `path`, such as /api/v1/nodes, in the event loop that `run` runs in.

    `decode(key, JSON)` makes of an object what is wanted of it, and raises msgspec.MsgspecError or DecodeError if that
    cannot be. `tell({key: what it is now, None if it is gone})` gets what differs from what it was told before, for the
    first time when everything has been read, if nothing is there as well. `trouble(why)`, "" when it is over.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        decode: Callable[[str, msgspec.Raw], T],
        tell: Callable[[Mapping[str, T | Unreadable | None]], None],
        trouble: Callable[[str], None],
        timing: Timing,
    ) -> None:
        self._api, self._path = api, path
        self._decode, self._tell, self._trouble = decode, tell, trouble
        self._timing = timing
        self.most_bytes = MOST_BYTES
        self._version = ""  # that of what is known, "" if everything is to be read
        self._known: dict[str, tuple[str, T | Unreadable]] = {}  # with the uid of each
        self._fresh: dict[str, tuple[str, T | Unreadable]] | None = None  # what was read so far of everything
        self._changes: dict[str, T | Unreadable | None] = {}
        self._told = False
        self._paged = False  # everything is read in pages next time
        self._refused = False  # and always

    async def run(self) -> None:
        """Never ends by itself, and raises nothing."""
        pause = Backoff(self._timing.first, self._timing.most)
        while True:
            begin, wait = time.monotonic(), 0.0
            try:
                if not self._version and self._paged:
                    await self._list()
                await self._watch()
            except _NoStreamError:
                continue  # to the pages, at once
            except _StaleError:
                self._version = ""
            except ApiError as error:
                if error.status == _GONE:
                    self._version = ""
                elif error.status in (400, 422) and not self._version and not self._paged:
                    self._refused = self._paged = True  # an older server
                    continue
                elif not error.begun or not self._version:
                    self._trouble(f"{error.message}; {error.details}")
                wait = error.wait
            if time.monotonic() - begin > self._timing.most:
                pause.reset()
            await asyncio.sleep(max(wait, pause.next()))

    def get(self, name: str) -> T | Unreadable | None:
        """What is there under the name, as far as it is known."""
        return self._known.get(name, ("", None))[1]

    async def _list(self) -> None:
        """Everything, in pages. A version that got too old between two of them raises ApiError."""
        fresh: dict[str, tuple[str, T | Unreadable]] = {}
        query = {"limit": str(PAGE_OBJECTS)}
        while True:
            page = await self._page(query)
            for item in page.items or ():
                try:
                    head = _head(item)
                except _NO_JSON:
                    continue  # there is no such object: each has a name
                fresh[key(head.name, head.namespace)] = (head.uid, self._read(head, item))
            if not page.metadata.continued:
                break
            query["continue"] = page.metadata.continued
        self._paged = self._refused
        self._replace(fresh, page.metadata.version)

    async def _page(self, query: Mapping[str, str]) -> _Page:
        body = bytearray()
        async with self._api.stream(self._path, query) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > _PAGE_BYTES:
                    break
        try:
            page = _PAGE.decode(body)
            wrong = "" if page.metadata.version else "it has no version"
        except _NO_JSON as error:
            wrong = shown(str(error))
        if wrong:
            todo = "see that this is the API server of Kubernetes"
            raise ApiError(f"the API server's list is not one: {wrong}", todo)
        return page

    async def _watch(self) -> None:
        """What happens, after everything if nothing is known yet, until the server ends it."""
        lasts = self._timing.lasts * random.uniform(0.93, 1.07)  # noqa: S311  # it hides nothing, it spreads
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": f"{lasts:.0f}"}
        if self._version:
            query["resourceVersion"] = self._version
            self._fresh = None
        else:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            self._fresh = {}
        lines = Lines(self.most_bytes)
        async with self._api.stream(self._path, query) as pieces:
            if self._version:
                self._trouble("")
            else:
                self._paged = True  # should this come to nothing
            async for piece in pieces:
                try:
                    for line, length in lines.feed(piece):
                        self._take(line, length)
                finally:
                    self._flush()

    def _take(self, line: bytes, length: int) -> None:
        """One event."""
        if length > len(line):
            self._lost(line, f"its object has {length} bytes, more than {self.most_bytes}")
            return
        try:
            event = _EVENT.decode(line)
            head = _STATUS.decode(event.object) if event.type == "ERROR" else _head(event.object)
        except _NO_JSON:
            self._lost(line, "the API server's event about it is no JSON")
            return
        if isinstance(head, _Status):
            if self._fresh is not None:
                raise _NoStreamError  # as one does whose etcd is too old for it
            if head.code == _GONE:
                raise _StaleError
            self._version = ""
            raise ApiError(f"the API server ended a watch: {shown(head.message)}", "if it goes on: see its log")
        match event.type:
            case "ADDED" | "MODIFIED":
                self._put(key(head.name, head.namespace), head.uid, self._read(head, event.object))
            case "DELETED":
                self._drop(key(head.name, head.namespace), head.uid)
            case "BOOKMARK" if self._fresh is not None and head.annotations and head.annotations.complete == "true":
                self._paged = self._refused
                self._replace(self._fresh, head.version)
        if self._fresh is None and head.version:
            self._version = head.version

    def _read(self, head: _Metadata, raw: msgspec.Raw) -> T | Unreadable:
        try:
            return self._decode(key(head.name, head.namespace), raw)
        except DecodeError as error:
            return Unreadable(error.message)
        except _NO_JSON as error:
            return Unreadable(f"its object is not as it should be: {shown(str(error))}")

    def _lost(self, line: bytes, reason: str) -> None:
        """An event cannot be read. If it does not show which object it is about, everything has to be read again."""
        name = named(line)
        if name and not deletion(line):
            self._put(name, "", Unreadable(reason))
        elif self._fresh is None:
            raise _StaleError

    def _put(self, name: str, uid: str, value: T | Unreadable) -> None:
        if self._fresh is not None:
            self._fresh[name] = (uid, value)
            return
        before = self._known.get(name)
        self._known[name] = (uid, value)
        if before is None or before[1] != value:
            self._changes[name] = value

    def _drop(self, name: str, uid: str) -> None:
        """The object is gone, unless another of its name is there already, or what is there could not be read."""
        objects = self._known if self._fresh is None else self._fresh
        if name in objects and objects[name][0] in (uid, ""):
            del objects[name]
            if self._fresh is None:
                self._changes[name] = None

    def _replace(self, fresh: dict[str, tuple[str, T | Unreadable]], version: str) -> None:
        """Everything has been read."""
        before, self._known, self._fresh, self._version = self._known, fresh, None, version
        self._changes = {name: None for name in before if name not in fresh}
        for name, (_, value) in fresh.items():
            if name not in before or before[name][1] != value:
                self._changes[name] = value
        self._trouble("")
        self._flush()

    def _flush(self) -> None:
        changes, self._changes = self._changes, {}
        if changes or (self._version and not self._told):
            self._told = True
            self._tell(changes)


def _head(raw: msgspec.Raw) -> _Metadata:
    return _HEAD.decode(raw).metadata
