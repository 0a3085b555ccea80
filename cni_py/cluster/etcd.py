"""Nodes from etcd: a thread that mirrors all keys below a prefix, and keeps this node's own there under a lease.

All of it is read at a revision and followed from the next one on, anew after each interruption. What is to be written
follows from what is there: each change, be it of this node or by somebody else, leads to one transaction or to none.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from cni_py.cluster.backoff import Backoff
from cni_py.cluster.etcd_access import EtcdAccess
from cni_py.cluster.etcd_client import NOT_FOUND, EtcdClient, EtcdRefusedError, GapError, Txn
from cni_py.cluster.etcd_wire import KeyValue
from cni_py.cluster.keyspace import Entry, Keyspace, Plan
from cni_py.model.errors import CniPyError
from cni_py.model.overlay import Node
from cni_py.model.peers import Sink, View
from cni_py.model.result import IPNetwork

_OFTEN = 3  # times in a row, after which it is said that somebody undoes what this node writes
_STOP_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """In seconds. A lease is `ttl` long and begins anew with every `beat`, which also shows that etcd is there.

    A call has `answer`. What failed is tried again after `first`, then ever later up to `last`; what somebody undoes is
    written again so. Changes are gathered for `gather` before they are told. Nodes that are missing when etcd is back
    have `grace` to come back too: their leases may have run out while nobody could renew them, or etcd lost its data.
    """

    ttl: int = 86400
    beat: float = 20.0
    answer: float = 5.0
    first: float = 0.5
    last: float = 30.0
    gather: float = 0.05
    grace: float = 60.0


class EtcdSource:
    """See model.peers.Source.

    `held`: networks that pods of this node may be using, from what the agent kept: it asks for these and no others.
    """

    def __init__(
        self, access: EtcdAccess, keys: Keyspace, held: tuple[IPNetwork, ...] = (), timing: Timing | None = None
    ) -> None:
        self._access = access
        self._keys = keys
        self._held = held
        self._timing = timing or Timing()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._node: Node | None = None
        self._entries: dict[bytes, Entry] = {}
        self._missing: dict[bytes, tuple[Entry, float]] = {}  # nodes, each until then
        self._revision = 0  # up to which the entries are known
        self._written = 0  # the revision of this node's last writing
        self._lease = 0
        self._since = 0
        self._shown = False  # this node is in the views by what it holds
        self._told: View | None = None
        self._reasons = {"connection": "", "claim": ""}
        self._said = ""
        self._put: dict[bytes, tuple[bytes, int]] = {}  # by this process, with the lease
        self._repeats: list[float] = []  # when it put the same again, in a row

    def start(self, sink: Sink) -> None:
        """See Source."""
        self._access.context()
        self._sink = sink
        ready = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(ready,), name="etcd", daemon=True)
        self._thread.start()
        ready.wait()

    def publish(self, node: Node) -> None:
        """See Source."""
        self._node = node
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._changed.set)

    def joined(self) -> None:
        """See Source. In etcd nobody asks."""

    def stop(self) -> None:
        """See Source. The lease runs on: who starts again finds its networks."""
        self._stopped = True
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _live(self, ready: threading.Event) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._run(ready))

    async def _run(self, ready: threading.Event) -> None:
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        ready.set()
        pause = Backoff(self._timing.first, self._timing.last)
        while not self._stopped:
            began = time.monotonic()
            await self._connection()
            if time.monotonic() - began > self._timing.last:
                pause.reset()
            await asyncio.sleep(pause.next())

    async def _connection(self) -> None:
        """As long as etcd is there. Afterwards it is said why it is not."""
        self._synced.clear()
        self._written = 0
        try:
            async with EtcdClient(self._access, self._timing.answer) as client:
                await _together(self._follow(client), self._beat(client), self._work(client))
        except CniPyError as error:
            self._say("connection", _words(error))
        except Exception as error:  # noqa: BLE001  # the thread is to live; what it cannot do is told
            _log.exception("etcd: a bug")
            self._say("connection", f"a bug of cni-py, {type(error).__name__}: see its log")

    async def _follow(self, client: EtcdClient) -> None:
        """The entries are as etcd has them."""
        while True:
            found, self._revision = await client.read(self._keys.prefix)
            entries, until = {kv.key: self._entry(kv) for kv in found}, time.monotonic() + self._timing.grace
            gone = {key: (entry, until) for key, entry in self._entries.items() if entry.node and key not in entries}
            self._missing, self._entries = {**gone, **self._missing}, entries
            if gone:
                asyncio.get_running_loop().call_later(self._timing.grace, self._changed.set)
            try:
                async for revision, events in client.watch(self._keys.prefix, self._revision + 1):
                    self._revision = revision
                    for event in events:
                        if event.type == "DELETE":
                            self._entries.pop(event.kv.key, None)
                        else:
                            self._entries[event.kv.key] = self._keys.entry(event.kv)
                    self._synced.set()
                    self._changed.set()
            except GapError:
                self._written = 0
                await asyncio.sleep(self._timing.first)

    def _entry(self, kv: KeyValue) -> Entry:
        known = self._entries.get(kv.key)
        return known if known is not None and known.kv == kv else self._keys.entry(kv)

    async def _beat(self, client: EtcdClient) -> None:
        """There is a lease: that of this node's key, so that a restart writes nothing, or a new one."""
        await self._synced.wait()
        while True:
            await self._renew(client)
            if self._reasons["claim"]:
                self._changed.set()  # what was wrong may have passed
            self._say("connection", "")
            await asyncio.sleep(self._timing.beat)

    async def _renew(self, client: EtcdClient) -> None:
        own = self._keys.own(self._entries)
        lease = self._lease or (own.kv.lease if own is not None else 0)
        if not lease or await client.keep(lease) <= 0:
            lease = await client.grant(self._timing.ttl)
        if lease != self._lease:
            self._lease = lease
            self._changed.set()

    async def _work(self, client: EtcdClient) -> None:
        """What changed is told, and what is to be written is."""
        await self._synced.wait()
        self._changed.set()
        while True:
            await self._changed.wait()
            await asyncio.sleep(self._timing.gather)
            self._changed.clear()
            plan = self._plan()
            self._tell()
            if plan is None or plan.txn is None or not self._lease or self._revision < self._written:
                continue
            if self._undone(plan.txn):
                await asyncio.sleep(self._pause())
            try:
                self._written = await client.commit(plan.txn, self._lease)
            except EtcdRefusedError as error:
                if error.code != NOT_FOUND:
                    raise
                await self._renew(client)  # the lease ran out, and with it the keys
                continue
            # If 0 somebody was faster, and what they wrote is on its way here.
            if self._written:
                if self._undone(plan.txn):
                    self._repeats.append(time.monotonic())
                self._put.update({key: (value, self._lease) for key, value in plan.txn.puts.items()})

    def _plan(self) -> Plan | None:
        """What this node wants, if it may; else it is said why not, and it holds what it had."""
        node = self._node
        if node is None:
            return None
        try:
            plan = self._keys.plan(self._entries, node, self._held, self._lease)
        except CniPyError as error:
            self._shown = self._shown or bool(self._held)
            self._say("claim", _words(error))
            return None
        if plan.txn is None:
            own = self._keys.own(self._entries)
            self._held, self._shown = plan.cidrs, True
            self._since = own.kv.create_revision if own is not None else 0
        quarrel = self._quarrel()
        if plan.txn is None or quarrel:  # what was wrong is over when it is written
            self._say("claim", quarrel)
        return plan

    def _undone(self, txn: Txn) -> bool:
        """True if this process put it so before."""
        return any(self._put.get(key) == (value, self._lease) for key, value in txn.puts.items())

    def _pause(self) -> float:
        """Seconds before it is put again: none after a while of calm, ever more while somebody undoes it."""
        now = time.monotonic()
        if not self._repeats or now - self._repeats[-1] > 2 * self._timing.last:
            self._repeats.clear()
            return 0.0
        pause = min(self._timing.first * 2.0 ** len(self._repeats), self._timing.last)
        return max(0.0, self._repeats[-1] + pause - now)

    def _quarrel(self) -> str:
        if len(self._repeats) < _OFTEN or time.monotonic() - self._repeats[-1] > 2 * self._timing.last:
            return ""
        return (
            f"this node's record was undone {len(self._repeats)} times in a row: "
            f"does another machine have the identity {self._keys.identity}, as a copy of this one would?"
        )

    def _tell(self) -> None:
        """The view, if it is another one."""
        now, names = time.monotonic(), {entry.node.name for entry in self._entries.values() if entry.node}
        self._missing = {
            key: (entry, until)
            for key, (entry, until) in self._missing.items()
            if key not in self._entries and until > now and entry.node and entry.node.name not in names
        }
        view = self._keys.view({**self._entries, **{key: entry for key, (entry, _) in self._missing.items()}})
        node = self._node
        if self._shown and node is not None:
            own = replace(node, name=self._keys.name, cidrs=self._held, uid=self._keys.identity, since=self._since)
            view = View(MappingProxyType({**view.nodes, own.name: own}), view.skipped)
        if view != self._told and not self._stopped:
            self._told = view
            self._sink.changed(view)

    def _say(self, about: str, reason: str) -> None:
        """The trouble, if it is another one; what keeps us from etcd before what we would want of it."""
        self._reasons[about] = reason
        words = self._reasons["connection"] or self._reasons["claim"]
        if words != self._said and not self._stopped:
            self._said = words
            self._sink.trouble(words)


async def _together(*parts: Coroutine[Any, Any, None]) -> None:
    """All of them, until one raises; that is raised, when the others have ended."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _words(error: CniPyError) -> str:
    return f"{error.message}: {error.details}" if error.details else error.message
