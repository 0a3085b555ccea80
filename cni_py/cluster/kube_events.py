"""Events of events.k8s.io about Pods and NetworkPolicies: what a person sees who asks why something does not work.

They are for people, so few: each text about an object once (the Event's name is made of both, and the API server
refuses a second of a name for the hour that it keeps them), a dozen an object and hour, one a second, none tried twice.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cni_py.cluster.kube_api import ApiError, KubeApi

_PER_SECOND = 1.0
_MOST = 100  # that wait
_PER_OBJECT = 12
_REMEMBERED = 1000
_NAME_BYTES = 200  # of the object's, in a name of at most 253
_TEXT_BYTES = 1000  # the API's limit is 1024
_KNOWN = 409


@dataclass(frozen=True, slots=True)
class Event:
    """About the object of that `kind`, `api` and `key` (NAMESPACE/NAME). `uid` is "" if it is not known."""

    api: str
    kind: str
    key: str
    uid: str
    reason: str
    text: str
    warning: bool = True

    @property
    def name(self) -> str:
        """The same for the same text about the same object, whichever node writes it."""
        digest = hashlib.sha256(f"{self.kind} {self.uid} {self.key} {self.text}".encode()).hexdigest()[:16]
        return f"{self.key.partition('/')[2][:_NAME_BYTES].rstrip('.-')}.{digest}"


class Events:
    """Writes one after another. `want` is for the thread of the event loop; `node` is who reports."""

    def __init__(self, api: KubeApi, node: str, trouble: Callable[[str], None]) -> None:
        self._api, self._node, self._trouble = api, node, trouble
        self._wanted: asyncio.Queue[Event] = asyncio.Queue(_MOST)
        self._written: dict[str, None] = {}
        self._hour, self._counts = 0, dict[str, int]()  # by object, of this hour

    def want(self, event: Event) -> None:
        """It is to be written, unless it was, or too many wait."""
        hour = int(time.time() // 3600)
        if hour != self._hour:
            self._hour, self._counts = hour, {}
        count = self._counts.get(event.key, 0)
        if event.name in self._written or count >= _PER_OBJECT or self._wanted.full():
            return
        self._counts[event.key] = count + 1
        self._written[event.name] = None
        if len(self._written) > _REMEMBERED:
            del self._written[next(iter(self._written))]
        self._wanted.put_nowait(event)

    async def run(self) -> None:
        """Never ends by itself, and raises nothing."""
        while True:
            event = await self._wanted.get()
            try:
                await self._write(event)
                self._trouble("")
            except ApiError as error:
                self._trouble("" if error.status == _KNOWN else f"an Event cannot be written: {error.message}")
            await asyncio.sleep(1 / _PER_SECOND)

    async def _write(self, event: Event) -> None:
        namespace, _, name = event.key.partition("/")
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06d}Z"
        regarding = {"apiVersion": event.api, "kind": event.kind, "namespace": namespace, "name": name}
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": event.name, "namespace": namespace},
            "eventTime": stamp,
            "reportingController": "cni-py.dev/agent",
            "reportingInstance": self._node,
            "action": "Enforce",
            "reason": event.reason,
            "type": "Warning" if event.warning else "Normal",
            "note": event.text.encode()[:_TEXT_BYTES].decode(errors="ignore"),
            "regarding": {**regarding, **({"uid": event.uid} if event.uid else {})},
        }
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        await self._api.post(path, msgspec.json.encode(body))
