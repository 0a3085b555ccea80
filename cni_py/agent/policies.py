"""The role `policy`: what the cluster says becomes what the kernel does, before anybody is told that it is so.

    source ─ Changes ─▶ policy.index ─ Delta ─▶ policy.program ─ Edit ─▶ kernel.policy_table
    ADD, DEL ─────────▶                                        └ shrunk ─▶ agent.revoke

One lock is around all of it, and whoever brings a change carries it to the kernel: a source's thread, or an ADD, which
is answered when its pod's rules are there. A thread hears when others change the table, and mends it. Nothing is taken
away when the agent starts, stops or dies.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from typing import Protocol

from cni_py.agent.conditions import Conditions
from cni_py.agent.policy_metrics import Standing
from cni_py.agent.revoke import Revoker
from cni_py.kernel.policy_table import Mended, PolicyTable
from cni_py.kernel.table_events import TableEvents
from cni_py.model.attachment import Attachment, Key
from cni_py.model.errors import CniPyError, TryAgainError
from cni_py.model.nft import AddElements, Operation
from cni_py.model.nft_objects import Element
from cni_py.model.policy import CIDR, DIRECTIONS, Address, Changes, Direction, Flow
from cni_py.policy import table
from cni_py.policy.compile import Compiled, set_of
from cni_py.policy.index import Index
from cni_py.policy.permit import denied
from cni_py.policy.program import Edit, Program

AUDIT_SECONDS = 600.0
SYNC_SECONDS = 8.0  # an ADD waits so long for the source's first word, and for its word about the pod
_RETRY_SECONDS, _MOST_RETRY_SECONDS = 0.25, 30.0
_NOTHING = Changes({}, {}, {})
_LOG = logging.getLogger("cni_py.agent")

# An attachment and the plugin that made it: two of a list may have a part in one.
_Place = tuple[Key, str]
# (kind of thing, how many)
Count = Callable[[str, int], None]


class PolicySink(Protocol):
    """Who listens to a source of policies. Both may be called by any thread."""

    def changed(self, changes: Changes) -> None:
        """That is so now. The first word is all that there is, also if that is nothing."""

    def trouble(self, reason: str) -> None:
        """The source cannot be reached and why, "" once it can be again. What it said last goes on to count."""

    def unreadable(self, reasons: Mapping[str, str]) -> None:
        """All that the source has and does not understand, by what names it, and why. What it said last counts."""


class PolicySource(Protocol):
    """Where pods, namespaces and policies come from. It repairs its own connection for ever.

    `knows_pods`: each pod is told of before its ADD; one that is not is refused, not taken for one without labels.
    """

    knows_pods: bool

    def start(self, sink: PolicySink) -> None:
        """From now on threads of its own tell the sink. Raises CniPyError for what no waiting mends."""

    def announce(self, pod: str, addresses: tuple[Address, ...]) -> None:
        """A pod of this node has these addresses; the other nodes hear of it. Any thread; returns at once."""

    def stop(self) -> None:
        """Nothing is told any more."""


class Policies:
    """See the module. It is the sink of its source, and the gate that attachments go through."""

    def __init__(
        self,
        node: str,
        cidrs: Iterable[CIDR],
        source: PolicySource,
        own_addresses: Callable[[], frozenset[Address]],
        count: Count,
        *,
        guards_node: bool = True,
        versions: Collection[int] = table.VERSIONS,
    ) -> None:
        self._source, self._own_addresses, self._count = source, own_addresses, count
        self._guards_node = guards_node
        self._lock = threading.Condition()
        self.index = Index()
        self._program = Program(self.index, node, tuple(cidrs), versions)
        self._table = PolicyTable(table.layout(guards_node=guards_node))
        self._revoker = Revoker(self._judgement, lambda ended: count("connection", ended))
        self._events = TableEvents(table.TABLE.name, (self._table.socket.port, self._revoker.port))
        self.conditions = Conditions()
        self._attached: dict[_Place, tuple[str, tuple[Address, ...]]] = {}
        self._early: list[Changes] = []
        self._synced = False
        self._loaded = False
        self._changes, self._last_ms = 0, 0.0
        self._retry, self._patience = inf, _RETRY_SECONDS
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._events.watch(self._wake)
        self._thread = threading.Thread(target=self._run, name="policies", daemon=True)

    def start(self, attachments: Iterable[Attachment]) -> None:
        """What is attached is known, then the source is heard. Raises CniPyError."""
        for one in attachments:
            self._attached[one.key, one.plugin] = _pod_of(one), _addresses(one)
        self._source.start(self)
        self._revoker.start()
        self._thread.start()

    def stop(self) -> None:
        """Nothing is done any more; the kernel keeps all."""
        self._source.stop()
        with self._lock:
            self._stopped = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._revoker.stop()
        self._events.close()
        self._table.close()

    @property
    def ports(self) -> tuple[int, int]:
        """The addresses of the sockets by which nftables are changed."""
        return self._table.socket.port, self._revoker.port

    def standing(self) -> Standing:
        """How things are."""
        with self._lock:
            index = self.index
            return Standing(
                self._loaded,
                len(index.pods),
                len(self._program.pods()),
                len(index.policies),
                len(index.namespaces),
                len(self._program.contents().chains),
                self._changes,
                self._last_ms,
            )

    def name(self, direction: Direction, address: Address) -> tuple[str, tuple[str, ...]]:
        """The pod that has the address, and the policies that restrict it in that direction; see `agent.drops`."""
        with self._lock:
            pod = self.index.owner(address) or ""
            return pod, tuple(one.key for one in self.index.policies_of(pod, direction)[0]) if pod else ()

    @contextmanager
    def reading(self) -> Iterator[Index]:
        """The index, as it is and stays inside the block."""
        with self._lock:
            yield self.index

    def addresses(self) -> frozenset[Address]:
        """Those of the pods of this node."""
        with self._lock:
            return self._program.addresses()

    def chains(self, pod: str) -> tuple[Compiled | None, ...]:
        """The chains of a pod of this node, in the order of DIRECTIONS."""
        with self._lock:
            return self._program.chains(pod)

    def verify(self) -> Mended:
        """How the kernel's table differs from what it should be; nothing is changed. Raises CniPyError."""
        with self._lock:
            contents = self._program.contents()
            return self._table.differences(contents.sets, {one.chain: one.rules for one in contents.chains.values()})

    def denied_packets(self, flow: Flow) -> int:
        """How many packets of the flow the kernel dropped in the last five minutes."""
        sets = table.DENIED if flow.protocol in table.WITH_PORTS else table.DENIED_PORTLESS
        key = (
            flow.source,
            flow.destination,
            flow.protocol,
            *((flow.port,) if flow.protocol in table.WITH_PORTS else ()),
        )
        with self._lock:
            return sum(self._table.packets(sets[one, False][flow.source.version], key) for one in DIRECTIONS)

    def is_settled(self) -> bool:
        """True if every connection is such as the policies allow."""
        return self._revoker.is_idle()

    def trouble(self, reason: str) -> None:
        """See PolicySink."""
        self.conditions.set("source", reason)

    def unreadable(self, reasons: Mapping[str, str]) -> None:
        """See PolicySink."""
        self.conditions.replace("unreadable ", reasons)

    def changed(self, changes: Changes) -> None:
        """See PolicySink. When it returns, the kernel has it; or it is told and tried again."""
        began = time.perf_counter()
        with self._lock:
            first, self._synced = not self._synced, True
            attached = {pod: self._addresses_of(pod) for pod, _ in self._attached.values()} if first else {}
            edit = self._program.update(self.index.apply(changes, attached))
            self._flaws(changes)
            if first or not self._loaded:
                self._load()
            else:
                self._commit(edit)
            self.conditions.replace("closed ", self._program.refused)
            self._changes += 1
            self._last_ms = round((time.perf_counter() - began) * 1e3, 3)
            self._lock.notify_all()

    def is_expected(self, pod: str) -> bool:
        """True if `expect` would not wait."""
        with self._lock:
            return self._loaded and not (pod and self._source.knows_pods and pod not in self.index.pods)

    def expect(self, pod: str) -> None:
        """The source has spoken, of that pod as well if it should know it. Raises TryAgainError."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._loaded, SYNC_SECONDS):
                raise TryAgainError(
                    "the policies of the pod are not known yet",
                    "the agent waits for its source of policies; see cni-py status",
                )
            if (
                pod
                and self._source.knows_pods
                and not self._lock.wait_for(lambda: pod in self.index.pods, SYNC_SECONDS)
            ):
                raise TryAgainError(
                    f"the API server has not told of the pod {pod} yet, so its policies are not known",
                    "see that the agent may list pods, and that it reaches the API server",
                )

    def serve(self, cidrs: Iterable[CIDR]) -> None:
        """The pods of this node have their addresses from these."""
        with self._lock:
            operations = self._program.serve(tuple(cidrs))
            if self._loaded:
                self._commit(Edit(operations))

    def admit(self, attachment: Attachment) -> None:
        """The pod's policies are in the kernel, and from now on it may send and get. Raises CniPyError."""
        pod, addresses = _pod_of(attachment), _addresses(attachment)
        with self._lock:
            if not self._loaded:
                raise TryAgainError("the policies of the pod are not in the kernel", "see cni-py status")
            self._attached[attachment.key, attachment.plugin] = pod, addresses
            delta = self.index.apply(_NOTHING, {pod: self._addresses_of(pod)})
            try:
                self._commit(self._program.update(delta), strict=True)
            except CniPyError:
                self._dismiss((attachment.key, attachment.plugin))
                raise
        if attachment.pod:
            self._source.announce(pod, addresses)

    def dismiss(self, attachment: Attachment) -> None:
        """The pod's addresses are nobody's."""
        with self._lock:
            self._dismiss((attachment.key, attachment.plugin))

    def _dismiss(self, place: _Place) -> None:
        pod, _ = self._attached.pop(place, ("", ()))
        if pod:
            delta = self.index.apply(_NOTHING, {pod: self._addresses_of(pod) or None})
            self._commit(self._program.update(delta))

    def _addresses_of(self, pod: str) -> tuple[Address, ...]:
        """Of all attachments of a pod: an old sandbox may still be there when the new one comes."""
        found = (addresses for name, addresses in self._attached.values() if name == pod)
        return tuple(dict.fromkeys(one for addresses in found for one in addresses))

    def _commit(self, edit: Edit, *, strict: bool = False) -> None:
        """The edit is in the kernel; if it refuses, the whole table is tried. `strict`: raises if that fails too."""
        self._revoker.look_at(edit.shrunk)
        try:
            self._table.commit((*edit.operations, *_dirty(edit.shrunk)))
        except CniPyError as error:
            _LOG.warning("the policy table is read anew, as a change was refused: %s", error.message)
            self._load(strict=strict)

    def _load(self, *, strict: bool = False, closed_first: bool = False) -> Mended:
        """The whole table is as it should be; what failed is told and tried again."""
        mended = Mended()
        try:
            if closed_first and not self._table.is_there():
                local = self._program.contents().sets
                self._table.load({one: local[one] for one in table.LOCAL.values()}, {})
            mended = self._write()
            addresses = self._program.addresses()
            self._revoker.look_at(addresses)
            self._table.commit(_dirty(addresses))
        except CniPyError as error:
            self._later(f"{error.message}; {error.details}" if error.details else error.message)
            if strict:
                raise
        else:
            self._loaded = True
            self._retry, self._patience = inf, _RETRY_SECONDS
            self.conditions.set("table", "")
        self.conditions.replace("closed ", self._program.refused)
        return mended

    def _write(self) -> Mended:
        """The kernel has the whole table. Chains that it does not take are closed, for their pods alone."""
        contents = self._program.contents()
        try:
            return self._table.load(contents.sets, {one.chain: one.rules for one in contents.chains.values()})
        except CniPyError:
            refused = {}
            for name, one in contents.chains.items():
                sets = {set_of(need): contents.sets[set_of(need)] for need in one.needs}
                if problem := self._table.problem(sets, one.chain, one.rules):
                    refused[name] = problem
            if not refused:
                raise
        self._program.refuse(refused)
        contents = self._program.contents()
        return self._table.load(contents.sets, {one.chain: one.rules for one in contents.chains.values()})

    def _later(self, problem: str) -> None:
        self.conditions.set("table", problem)
        self._retry = time.monotonic() + self._patience
        self._patience = min(2 * self._patience, _MOST_RETRY_SECONDS)
        os.eventfd_write(self._wake, 1)

    def _flaws(self, changes: Changes) -> None:
        for key, policy in changes.policies.items():
            told = "; ".join(policy.flaws[:3]) if policy is not None else ""
            self.conditions.set(f"policy {key}", told)

    def _judgement(self) -> Callable[[Flow], bool]:
        """See Revoker. What the node itself sends is no pod's ingress, and what it gets only perhaps a pod's egress."""
        own = self._own_addresses()
        with self._lock:
            subjects = self._program.addresses()

        def is_denied(flow: Flow) -> bool:
            if flow.source in own or (flow.destination in own and not self._guards_node):
                return False
            with self._lock:
                return denied(self.index, flow, subjects)

        return is_denied

    def _run(self) -> None:
        audit = time.monotonic() + AUDIT_SECONDS
        while True:
            self._events.wait(min(audit, self._retry) - time.monotonic())
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            with self._lock:
                if self._stopped:
                    return
                now = time.monotonic()
                foreign = self._events.take()
                if not self._synced or not (foreign or now >= min(audit, self._retry)):
                    continue
                audit = now + AUDIT_SECONDS
                mended = self._load(closed_first=True)
                if mended and foreign:
                    self._count("policy table", 1)
                    _LOG.warning(
                        "others changed the policy table: wrote %d chains, added %d elements, removed %d",
                        mended.chains,
                        mended.added,
                        mended.removed,
                    )
                self._lock.notify_all()


def _dirty(addresses: Iterable[Address]) -> tuple[Operation, ...]:
    by_version: Mapping[int, list[Element]] = {version: [] for version in table.VERSIONS}
    for one in addresses:
        by_version[one.version].append(Element((one,)))
    return tuple(AddElements(table.DIRTY[version], tuple(found)) for version, found in by_version.items() if found)


def _pod_of(attachment: Attachment) -> str:
    """Its NAMESPACE/NAME; a container that is no pod is one in a namespace without a name."""
    return attachment.pod or f"/{attachment.key.container_id}"


def _addresses(attachment: Attachment) -> tuple[Address, ...]:
    return tuple(one.address.ip for one in attachment.addresses)
