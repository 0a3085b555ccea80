"""What a node says about itself in Kubernetes: its record, and that its network is up; kept as it should be.

Both go by one PATCH of the Node's status, the only right to write that is needed. Nothing is written that the watch
shows to be there already, and whoever undoes it again and again makes it slower, not busier.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from cni_py.cluster.backoff import Backoff
from cni_py.cluster.kube_api import ApiError, KubeApi, Timing
from cni_py.cluster.kube_node import CONDITION, KubeNode

_STRATEGIC = "application/strategic-merge-patch+json"  # it adds a condition to those that others have set


class Writer:
    """Writes what is wanted into the Node at `path`. `want` and `seen` are for the thread of the event loop."""

    def __init__(self, api: KubeApi, path: str, timing: Timing, trouble: Callable[[str], None]) -> None:
        self._api, self._path, self._timing, self._trouble = api, path, timing, trouble
        self._annotations: dict[str, str] = {}
        self._ready = False
        self._node: KubeNode | None = None
        self._asked = asyncio.Event()  # something else is wanted
        self._moved = asyncio.Event()  # or something else is there

    def want(self, annotations: dict[str, str], *, ready: bool) -> None:
        """The annotations, and if it is `ready` the condition are to be there."""
        if (annotations, ready) != (self._annotations, self._ready):
            self._annotations, self._ready = annotations, ready
            self._asked.set()
            self._moved.set()

    def seen(self, node: KubeNode | None) -> None:
        """This is the Node now; None if there is none that could be read."""
        self._node = node
        self._moved.set()

    async def run(self) -> None:
        """Never ends by itself, and raises nothing."""
        pause = Backoff(self._timing.first, self._timing.most)
        written, since, wait = None, 0.0, 0.0
        while True:
            missing = self._missing()
            if missing is None:
                self._moved.clear()
                await self._moved.wait()
                continue
            if missing != written or time.monotonic() - since > self._timing.most:
                pause.reset()
            if missing == written:  # it is not shown yet, or it failed, or somebody has undone it
                self._asked.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(wait, pause.next())):
                        await self._asked.wait()
                if missing != self._missing():
                    continue
            wait = await self._write(*missing)
            written, since = missing, time.monotonic()

    def _missing(self) -> tuple[dict[str, str], bool] | None:
        """(the annotations, whether the condition too) as far as they are not there."""
        node = self._node
        if node is None:
            return None
        told = node.told()
        annotations = {key: value for key, value in self._annotations.items() if told.get(key) != value}
        ready = self._ready and node.unavailable != "False"
        return (annotations, ready) if annotations or ready else None

    async def _write(self, annotations: dict[str, str], ready: bool) -> float:  # noqa: FBT001  # a tuple's
        """So many seconds the server wants to be left alone."""
        patch: dict[str, Any] = {}
        if annotations:
            patch["metadata"] = {"annotations": annotations}
        if ready:
            patch["status"] = {"conditions": [_condition()]}
        try:
            await self._api.patch(f"{self._path}/status", msgspec.json.encode(patch), _STRATEGIC)
        except ApiError as error:
            if error.status != 404:  # the Node has just gone, which the watch tells as well
                self._trouble(f"this node's record cannot be written: {error.message}; {error.details}")
            return error.wait
        self._trouble("")
        return 0.0


def _condition() -> dict[str, str]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": CONDITION,
        "status": "False",
        "reason": "CniPyIsUp",
        "message": "cni-py has joined the node to the pod network",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
