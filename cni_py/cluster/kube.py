"""Kubernetes as a source of nodes: its Nodes, of which each carries its own record as an annotation.

A node is a member as soon as it has pod networks (`spec.podCIDRs`) and a record with an address. A Node that is about
to be deleted stays a member until it is: its pods run until then. A Node is written every few minutes by its kubelet,
which changes nothing that is read here, and then nobody is told anything.
"""

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

import msgspec

from cni_py.cluster.flannel import annotations_of
from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.kube_api import KubeApi, Timing
from cni_py.cluster.kube_node import ANNOTATION, KubeNode, decode, member
from cni_py.cluster.kube_writer import Writer
from cni_py.cluster.record import checked_name, render
from cni_py.cluster.reflector import Reflector, Unreadable
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import Node
from cni_py.model.peers import Sink, View

_NODES = "/api/v1/nodes"
_USUAL = Timing()


class KubeSource:
    """A `model.peers.Source`, with an event loop in a thread of its own."""

    def __init__(self, access: KubeAccess, timing: Timing = _USUAL) -> None:
        self._access, self._timing = access, timing
        self._nodes: dict[str, Node] = {}
        self._skipped: dict[str, str] = {}
        self._told = False
        self._troubles = {"reading": "", "own": "", "writing": ""}
        self._annotations: dict[str, str] = {}
        self._ready = False
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None
        self._sink: Sink
        self._thread: threading.Thread
        self._task: asyncio.Task[None]

    def start(self, sink: Sink) -> None:
        """See `Source`. Raises CniPyError for a name that no Node has, and for files that are missing or no PEM."""
        checked_name(self._access.node)
        api = KubeApi(self._access, self._timing)
        api.check()
        self._sink = sink
        with self._guard:
            self._loop = asyncio.new_event_loop()
            self._writer = Writer(api, f"{_NODES}/{self._access.node}", self._timing, self._not_written)
            self._writer.want(self._annotations, ready=self._ready)
            self._task = self._loop.create_task(self._main(api, self._writer))
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="kube", daemon=True)
        self._thread.start()

    def publish(self, node: Node) -> None:
        """See `Source`."""
        backend = self._access.flannel
        flanneld = annotations_of(node, backend) if backend is not None else {}
        self._annotations = {ANNOTATION: render(node, cidrs=False), **flanneld}
        self._ask()

    def joined(self) -> None:
        """See `Source`: the condition NetworkUnavailable is False."""
        self._ready = True
        self._ask()

    def stop(self) -> None:
        """See `Source`."""
        with self._guard:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _ask(self) -> None:
        with self._guard:
            if self._loop is not None and self._writer is not None:
                self._loop.call_soon_threadsafe(self._want, self._writer)

    def _want(self, writer: Writer) -> None:
        writer.want(self._annotations, ready=self._ready)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(self._task)
        finally:
            with self._guard:
                self._loop = None
                loop.close()

    async def _main(self, api: KubeApi, writer: Writer) -> None:
        reflector = Reflector(api, _NODES, self._decode, self._changed, self._not_read, self._timing)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reflector.run())
                tasks.create_task(writer.run())
        except* Exception:
            self._not_read("reading Nodes ended by a bug of cni-py, see its log; restart the agent")
            raise
        finally:
            await api.close()

    def _decode(self, name: str, raw: msgspec.Raw) -> KubeNode:
        return decode(raw, own=name == self._access.node)

    def _changed(self, changes: Mapping[str, KubeNode | Unreadable | None]) -> None:
        news = not self._told
        for name, now in changes.items():
            node, reason = self._judged(now)
            if name == self._access.node and self._writer is not None:
                self._writer.seen(now if isinstance(now, KubeNode) else None)
            if node == self._nodes.get(name) and reason == self._skipped.get(name):
                continue
            news = True
            self._nodes.pop(name, None)
            self._skipped.pop(name, None)
            if node is not None:
                self._nodes[name] = node
            elif reason is not None:
                self._skipped[name] = reason
        if not self._told or self._access.node in changes:
            self._look_at_own(changes.get(self._access.node))
        if news:
            self._told = True
            self._sink.changed(View(MappingProxyType(dict(self._nodes)), MappingProxyType(dict(self._skipped))))

    def _judged(self, now: KubeNode | Unreadable | None) -> tuple[Node | None, str | None]:
        """The member that it is, or why it is none."""
        match now:
            case None:
                return None, None
            case Unreadable(reason):
                return None, reason
            case KubeNode():
                try:
                    return member(now, self._access), None
                except DecodeError as error:
                    return None, error.message

    def _look_at_own(self, now: KubeNode | Unreadable | None) -> None:
        """The two things that are forgotten most, in words."""
        name = self._access.node
        if now is None:
            reason = f"there is no Node of the name {name}; give the agent the name that `kubectl get nodes` shows"
        elif isinstance(now, KubeNode) and not now.cidrs:
            reason = (
                f"the Node {name} has no spec.podCIDRs; run kube-controller-manager with"
                " --allocate-node-cidrs and --cluster-cidr"
            )
        else:
            reason = ""
        self._trouble("own", reason)

    def _not_read(self, reason: str) -> None:
        self._trouble("reading", reason)

    def _not_written(self, reason: str) -> None:
        self._trouble("writing", reason)

    def _trouble(self, what: str, reason: str) -> None:
        if self._troubles[what] != reason:
            self._troubles[what] = reason
            self._sink.trouble("; ".join(filter(None, self._troubles.values())))
