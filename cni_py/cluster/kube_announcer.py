"""What a node's agent knows of its pods before their kubelet says it: their addresses, as an annotation of the Pod.

It goes by a PATCH of the Pod's status: the right to write that is less than the one to write Pods, with which one could
give them other images. The Pod's uid goes with it, so that another Pod of the name is never written.
"""

import asyncio
from collections.abc import Callable

import msgspec

from cni_py.cluster.backoff import Backoff
from cni_py.cluster.kube_api import ApiError, KubeApi, Timing
from cni_py.model.policy import ADDRESSES_ANNOTATION, Address, Pod

_MERGE = "application/merge-patch+json"
_SETTLED = (404, 409, 422)  # it is gone, or another has its name: a uid cannot be changed
_MOST = 1000  # a node has fewer pods


class Announcer:
    """Writes one after another. `want` and `seen` are for the thread of the event loop."""

    def __init__(self, api: KubeApi, timing: Timing, trouble: Callable[[str], None]) -> None:
        self._api, self._timing, self._trouble = api, timing, trouble
        self._wanted: dict[str, tuple[str, tuple[Address, ...]]] = {}  # by key: the uid and the addresses
        self._asked = asyncio.Event()

    def want(self, pod: Pod, addresses: tuple[Address, ...]) -> None:
        """The pod's annotation is to be these; of two that are wanted of one pod only the last counts."""
        self._wanted.pop(pod.key, None)
        self._wanted[pod.key] = pod.uid, addresses
        if len(self._wanted) > _MOST:
            del self._wanted[next(iter(self._wanted))]
        self.seen(pod.key, pod)
        self._asked.set()

    def seen(self, key: str, pod: Pod | None) -> None:
        """That is the pod now; None if it is gone. There is nothing to announce of one whose status has addresses."""
        uid, addresses = self._wanted.get(key, ("", ()))
        if pod is None or pod.uid != uid or (pod.addresses and not (pod.announced and pod.addresses != addresses)):
            self._wanted.pop(key, None)

    async def run(self) -> None:
        """Never ends by itself, and raises nothing."""
        pause = Backoff(self._timing.first, self._timing.most)
        while True:
            if not self._wanted:
                self._trouble("")
                self._asked.clear()
                await self._asked.wait()
                continue
            key, (uid, addresses) = next(iter(self._wanted.items()))
            try:
                await self._write(key, uid, addresses)
            except ApiError as error:
                self._trouble(f"the addresses of {key} cannot be announced: {error.message}; {error.details}")
                if self._wanted.get(key) == (uid, addresses):
                    self._wanted[key] = self._wanted.pop(key)  # the others first: it may be this one's fault
                await asyncio.sleep(max(error.wait, pause.next()))
            else:
                pause.reset()
                if self._wanted.get(key) == (uid, addresses):
                    del self._wanted[key]

    async def _write(self, key: str, uid: str, addresses: tuple[Address, ...]) -> None:
        namespace, _, name = key.partition("/")
        annotations = {ADDRESSES_ANNOTATION: ",".join(map(str, addresses))}
        body = msgspec.json.encode({"metadata": {"uid": uid, "annotations": annotations}})
        try:
            await self._api.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", body, _MERGE)
        except ApiError as error:
            if error.status not in _SETTLED:
                raise
