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
from typing import Protocol

from cni_py.agent.attached import Attached, addresses_of, pod_of
from cni_py.agent.conditions import Conditions
from cni_py.agent.policy_kernel import PolicyKernel
from cni_py.agent.policy_metrics import Standing
from cni_py.kernel.policy_table import Mended
from cni_py.kernel.table_events import TableEvents
from cni_py.model.attachment import Attachment
from cni_py.model.errors import CniPyError, TryAgainError
from cni_py.model.policy import CIDR, Address, Changes, Direction, Flow
from cni_py.policy import table
from cni_py.policy.compile import Compiled
from cni_py.policy.index import Delta, Index
from cni_py.policy.permit import denied
from cni_py.policy.program import Edit, Program

AUDIT_SECONDS = 600.0
SYNC_SECONDS = 8.0  # an ADD waits so long for the source's first word, and for its word about the pod
UID_SECONDS = 2.0  # and so long until a pod of that name is that very one
_NOTHING = Changes({}, {}, {})
_LOG = logging.getLogger("cni_py.agent")

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

    def denied(self, pod: str, text: str, *, audit: bool) -> None:
        """A packet of a pod was denied, or would be. Any thread; returns at once, and need not say it everywhere."""

    def stop(self) -> None:
        """Nothing is told any more."""


class Policies:
    """See the module. It is the sink of its source, and the gate that attachments go through.

    `when_loaded` is called once, when the first word of the source has been acted upon.
    """

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
        self.when_loaded: Callable[[], None] = lambda: None
        self._lock = threading.Condition()
        self.index = Index()
        self._program = Program(self.index, node, tuple(cidrs), versions)
        self.conditions = Conditions()
        self._kernel = PolicyKernel(
            self._program,
            self._judgement,
            lambda number: count("connection", number),
            lambda: os.eventfd_write(self._wake, 1),
            self.conditions,
            guards_node=guards_node,
        )
        self._events = TableEvents(table.TABLE.name, self._kernel.ports)
        self._attached = Attached(self._program.links)
        self._synced = False
        self._changes, self._last_ms = 0, 0.0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._events.watch(self._wake)
        self._thread = threading.Thread(target=self._run, name="policies", daemon=True)

    def start(self, attachments: Iterable[Attachment]) -> None:
        """What is attached is known, then the source is heard. Raises CniPyError."""
        for one in attachments:
            self._attached.put(one)
        self._source.start(self)
        self._kernel.start()
        self._thread.start()

    def stop(self) -> None:
        """Nothing is done any more; the kernel keeps all."""
        self._source.stop()
        with self._lock:
            self._stopped = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._kernel.stop()
        self._events.close()

    @property
    def ports(self) -> tuple[int, int]:
        """The addresses of the sockets by which nftables are changed."""
        return self._kernel.ports

    def standing(self) -> Standing:
        """How things are."""
        with self._lock:
            index = self.index
            return Standing(
                self._kernel.loaded,
                len(index.pods),
                len(self._program.pods()),
                len(index.policies),
                len(index.namespaces),
                self._program.size,
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
            return self._kernel.verify()

    def hits(self) -> dict[str, int]:
        """How many connections each rule of a policy has let pass on this node, by `compile.label`."""
        with self._lock:
            return self._kernel.hits()

    def denied_packets(self, flow: Flow) -> int:
        """How many packets of the flow the kernel dropped in the last five minutes."""
        with self._lock:
            return self._kernel.denied_packets(flow)

    def is_settled(self) -> bool:
        """True if every connection is such as the policies allow."""
        return self._kernel.is_settled()

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
            attached = {}
            for pod in self._attached.pods() if first else ():
                self._attached.link(pod)
                attached[pod] = self._attached.addresses(pod)
            edit = self._program.update(self.index.apply(changes, attached))
            self._flaws(changes)
            if first or not self._kernel.loaded:
                self._kernel.load()
            else:
                self._kernel.commit(edit)
            self.conditions.replace("closed ", self._program.refused)
            self._changes += 1
            self._last_ms = round((time.perf_counter() - began) * 1e3, 3)
            self._lock.notify_all()
        if first:
            self.when_loaded()

    def is_expected(self, pod: str, uid: str) -> bool:
        """True if `expect` would not wait."""
        with self._lock:
            return self._kernel.loaded and (not pod or not self._source.knows_pods or self._is(pod, uid))

    def expect(self, pod: str, uid: str) -> None:
        """The source has spoken, of that pod as well if it should know it. Raises TryAgainError.

        Of a pod by another uid it is taken to have spoken after a while: that of a static pod is not the API's.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: self._kernel.loaded, SYNC_SECONDS):
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
            if pod and self._source.knows_pods:
                self._lock.wait_for(lambda: self._is(pod, uid), UID_SECONDS)

    def _is(self, pod: str, uid: str) -> bool:
        known = self.index.pods.get(pod)
        return known is not None and uid in ("", known.uid)

    def serve(self, cidrs: Iterable[CIDR]) -> None:
        """The pods of this node have their addresses from these."""
        with self._lock:
            operations = self._program.serve(tuple(cidrs))
            if self._kernel.loaded:
                self._kernel.commit(Edit(operations))

    def admit(self, attachment: Attachment) -> None:
        """The pod's policies are in the kernel, and from now on it may send and get. Raises CniPyError."""
        pod = pod_of(attachment)
        with self._lock:
            if not self._kernel.loaded:
                raise TryAgainError("the policies of the pod are not in the kernel", "see cni-py status")
            self._attached.put(attachment)
            delta = self._noted(pod)
            try:
                self._kernel.commit(self._program.update(delta), strict=True)
            except CniPyError:
                self._dismiss(attachment)
                raise
        if attachment.pod:
            self._source.announce(pod, addresses_of(attachment))

    def dismiss(self, attachment: Attachment) -> None:
        """The pod's addresses are nobody's."""
        with self._lock:
            self._dismiss(attachment)

    def _dismiss(self, attachment: Attachment) -> None:
        known = self._attached.drop(attachment)
        if known is not None:
            self._kernel.commit(self._program.update(self._noted(pod_of(known))))

    def _noted(self, pod: str) -> Delta:
        """What of the pod is attached now is known; its links are others, even where its addresses are not."""
        robbed = self._attached.link(pod)
        delta = self.index.apply(_NOTHING, {pod: self._attached.addresses(pod) or None})
        delta.pods.update((pod, *robbed))
        return delta

    def _flaws(self, changes: Changes) -> None:
        for key, policy in changes.policies.items():
            told = "; ".join(policy.flaws[:3]) if policy is not None else ""
            self.conditions.set(f"policy {key}", told)

    def _judgement(self) -> Callable[[Flow], bool]:
        """See Revoker. What the node itself sends is no pod's ingress, and what it gets only perhaps a pod's egress."""
        with self._lock:  # first of all, so that the change that wakes the revoker is done before it does anything
            subjects = self._program.addresses()
        own = self._own_addresses()

        def is_denied(flow: Flow) -> bool:
            if flow.source in own or (flow.destination in own and not self._guards_node):
                return False
            with self._lock:
                return denied(self.index, flow, subjects)

        return is_denied

    def _run(self) -> None:
        audit = time.monotonic() + AUDIT_SECONDS
        while True:
            self._events.wait(min(audit, self._kernel.retry) - time.monotonic())
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            with self._lock:
                if self._stopped:
                    return
                now = time.monotonic()
                foreign = self._events.take()
                if not self._synced or not (foreign or now >= min(audit, self._kernel.retry)):
                    continue
                audit = now + AUDIT_SECONDS
                mended = self._kernel.load(closed_first=True)
                if mended and foreign:
                    self._count("policy table", 1)
                    _LOG.warning(
                        "others changed the policy table: wrote %d chains, added %d elements, removed %d",
                        mended.chains,
                        mended.added,
                        mended.removed,
                    )
                self._lock.notify_all()
