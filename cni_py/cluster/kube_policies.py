"""Kubernetes as the source of policies: its Pods of all nodes, Namespaces and NetworkPolicies, as they are now.

Nothing is told before all three have been read once: half of it would let through or cut what it should not. From then
on each change is told as it comes. Of an object that cannot be read its last good value goes on to count.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import msgspec

from cni_py.cluster import kube_pods
from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.kube_announcer import Announcer
from cni_py.cluster.kube_api import KubeApi, Timing
from cni_py.cluster.kube_events import Event, Events
from cni_py.cluster.reflector import Reflector, Unreadable
from cni_py.model.policy import Address, Changes, Namespace, Pod, Policy

PATHS = {
    "Pod": "/api/v1/pods",
    "Namespace": "/api/v1/namespaces",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
}
_USUAL = Timing()
# What it means that an object was never readable.
_MEANING = {
    "Pod": "it is nobody's peer, and no policy selects it",
    "Namespace": "it has no labels but that of its name",
    "NetworkPolicy": "it is NOT ENFORCED",
}

T = TypeVar("T", Pod, Namespace, Policy)


class Sink(Protocol):
    """Who listens: see `agent.policies.PolicySink`."""

    def changed(self, changes: Changes) -> None:
        """That is so now."""

    def trouble(self, reason: str) -> None:
        """What is in the way, "" if nothing is any more."""

    def unreadable(self, reasons: Mapping[str, str]) -> None:
        """All that is not understood, by what names it."""


@dataclass(frozen=True, slots=True)
class Parsers:
    """What makes values of plain documents. Each raises DecodeError."""

    pod: Callable[[object], Pod]
    namespace: Callable[[object], Namespace]
    policy: Callable[[object], Policy]


class _Kind(Generic[T]):
    """All objects of one kind: those that differ from what was told last, and what of them cannot be read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.read = False
        self.changes: dict[str, T | None] = {}
        self.unreadable: dict[str, str] = {}
        self._good = set[str]()  # has been read once, so what it said then still counts

    def told(self, changes: Mapping[str, T | Unreadable | None]) -> None:
        """By its reflector."""
        self.read = True
        for key, now in changes.items():
            if isinstance(now, Unreadable):
                meaning = "what it said before counts" if key in self._good else _MEANING[self.name]
                self.unreadable[f"{self.name} {key}"] = f"{meaning}: {now.reason}"
                continue
            self.unreadable.pop(f"{self.name} {key}", None)
            self.changes[key] = now
            (self._good.discard if now is None else self._good.add)(key)

    def taken(self) -> dict[str, T | None]:
        """What is to be told, which counts as told."""
        changes, self.changes = self.changes, {}
        return changes


class KubePolicies:
    """An `agent.policies.PolicySource`, with an event loop in a thread of its own."""

    knows_pods = True

    def __init__(self, access: KubeAccess, parsers: Parsers, timing: Timing = _USUAL) -> None:
        self._access, self._parsers, self._timing = access, parsers, timing
        self._pods = _Kind[Pod]("Pod")
        self._namespaces = _Kind[Namespace]("Namespace")
        self._policies = _Kind[Policy]("NetworkPolicy")
        self._told = False
        self._unreadable: dict[str, str] = {}
        self._troubles: dict[str, str] = {}
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._announcer: Announcer
        self._events: Events
        self._reflected: Reflector[Pod]
        self._sink: Sink
        self._thread: threading.Thread
        self._task: asyncio.Task[None]

    def start(self, sink: Sink) -> None:
        """See `PolicySource`. Raises CniPyError for files that are missing or no PEM."""
        api = KubeApi(self._access, self._timing)
        api.check()
        self._sink = sink
        with self._guard:
            self._loop = asyncio.new_event_loop()
            self._announcer = Announcer(api, self._timing, partial(self._trouble, "announcing"))
            self._events = Events(api, self._access.node, partial(self._trouble, "events"))
            self._reflected = self._reflector(api, self._pods, kube_pods.decode, self._parsers.pod)
            self._task = self._loop.create_task(self._main(api))
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="kube-policies", daemon=True)
        self._thread.start()

    def announce(self, pod: str, addresses: tuple[Address, ...]) -> None:
        """See `PolicySource`. What cannot be written is tried again until the pod's status has addresses."""
        with self._guard:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._announce, pod, addresses)

    def denied(self, pod: str, text: str, *, audit: bool) -> None:
        """See `PolicySource`."""
        with self._guard:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._denied, pod, text, audit)

    def stop(self) -> None:
        """See `PolicySource`."""
        with self._guard:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(self._task)
        finally:
            with self._guard:
                self._loop = None
                loop.close()

    async def _main(self, api: KubeApi) -> None:
        namespaces = self._reflector(api, self._namespaces, msgspec.json.decode, self._parsers.namespace)
        policies = self._reflector(api, self._policies, msgspec.json.decode, self._parsers.policy)
        try:
            async with asyncio.TaskGroup() as tasks:
                for one in (self._reflected, namespaces, policies, self._announcer, self._events):
                    tasks.create_task(one.run())
        except* Exception:
            self._trouble("bug", "reading policies ended by a bug of cni-py, see its log; restart the agent")
            raise
        finally:
            await api.close()

    def _reflector(
        self, api: KubeApi, kind: _Kind[T], decode: Callable[[msgspec.Raw], object], parse: Callable[[object], T]
    ) -> Reflector[T]:
        def changed(changes: Mapping[str, T | Unreadable | None]) -> None:
            kind.told(changes)
            self._tell()

        trouble = partial(self._trouble, kind.name)
        return Reflector(api, PATHS[kind.name], lambda _, raw: parse(decode(raw)), changed, trouble, self._timing)

    def _tell(self) -> None:
        kinds = (self._pods, self._namespaces, self._policies)
        if not all(one.read for one in kinds):
            return
        for key, pod in self._pods.changes.items():
            self._announcer.seen(key, pod)
        if not self._told or any(one.changes for one in kinds):
            self._told = True
            self._flawed(self._policies.changes)
            self._sink.changed(Changes(self._pods.taken(), self._namespaces.taken(), self._policies.taken()))
        unreadable = {**self._pods.unreadable, **self._namespaces.unreadable, **self._policies.unreadable}
        if unreadable != self._unreadable:
            self._unreadable = unreadable
            self._sink.unreadable(unreadable)

    def _announce(self, key: str, addresses: tuple[Address, ...]) -> None:
        pod = self._reflected.get(key)
        if isinstance(pod, Pod):  # one that is gone needs none
            self._announcer.want(pod, addresses)

    def _denied(self, key: str, text: str, audit: bool) -> None:  # noqa: FBT001  # the event loop gives it by place
        pod = self._reflected.get(key)
        if isinstance(pod, Pod):
            reason = "PolicyWouldDeny" if audit else "PolicyDenied"
            self._events.want(Event("v1", "Pod", key, pod.uid, reason, text, not audit))

    def _flawed(self, policies: Mapping[str, Policy | None]) -> None:
        """What of a policy is not understood is said on it as well, by whichever node is first."""
        for key, policy in policies.items():
            if policy is not None and policy.flaws:
                text = f"not all of it is enforced as it may be meant, so it allows less: {'; '.join(policy.flaws)}"
                self._events.want(Event("networking.k8s.io/v1", "NetworkPolicy", key, "", "PolicyFlawed", text))

    def _trouble(self, what: str, reason: str) -> None:
        if self._troubles.get(what, "") != reason:
            self._troubles[what] = reason
            self._sink.trouble("; ".join(dict.fromkeys(filter(None, self._troubles.values()))))
