"""The role `overlay`: one thread that hears the source and the kernel, and keeps this node joined to the others.

    source ─ View ─▶ overlay.roster ─▶ overlay.admit ─▶ agent.reconcile ─▶ kernel
                     who is there      who is believed   what it takes

It acts at once when the source says something new or the kernel says that somebody changed something, and looks at
everything once a minute. Nothing is taken away when it starts, stops or dies, nor because a source is away.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Protocol

from cni_py.agent.conditions import Conditions
from cni_py.agent.probe import Prober
from cni_py.agent.reconcile import Outcome, Reconciler, Wish
from cni_py.kernel.overlay_facts import facts
from cni_py.model.errors import CniPyError
from cni_py.model.overlay import BackendName, Facts, Network, Node
from cni_py.model.peers import Source, View
from cni_py.model.words import describe
from cni_py.overlay.admit import Admission
from cni_py.overlay.own import Identity, own_node
from cni_py.overlay.roster import Roster
from cni_py.overlay.select import pod_mtu

AUDIT_SECONDS = 60.0
GRACE_SECONDS = 10.0  # from the source's first word until what nobody has a wish for goes
_GATHER_SECONDS = 0.02
_RETRY_SECONDS, _MOST_RETRY_SECONDS = 0.25, 30.0
_SAVE_SECONDS = 5.0
_LOG = logging.getLogger("cni_py.agent")

# (kind of thing, how many)
Count = Callable[[str, int], None]


class Memory(Protocol):
    """What outlives the process. Raises CniPyError."""

    def recall(self) -> Mapping[str, Node]:
        """The last good nodes."""

    def keep(self, nodes: Mapping[str, Node]) -> None:
        """These are."""

    def tell(self, own: Node, mtu: int) -> None:
        """This is what the node's pods get from now on."""


@dataclass(slots=True)
class _Time:
    """When what is due, in monotonic seconds."""

    audit: float = 0.0
    retry: float = inf
    save: float = inf
    roster: float = inf
    prune: float = inf
    prunes: bool = False
    patience: float = _RETRY_SECONDS

    def next(self) -> float:
        return min(self.audit, self.retry, self.save, self.roster, self.prune)


@dataclass(frozen=True, slots=True)
class Standing:
    """How things are, for whoever asks."""

    wish: Wish | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    joined: bool = False
    passes: int = 0
    last_ms: float = 0.0
    last_whole_ms: float = 0.0


class Nodes:
    """See the module. It is the `Sink` of its source."""

    def __init__(
        self,
        who: Identity,
        source: Source,
        work: Reconciler,
        memory: Memory,
        backends: frozenset[BackendName],
        repaired: Count,
        joined: Callable[[], None],
    ) -> None:
        self._who, self._source, self._work, self._memory = who, source, work, memory
        self._backends = backends
        self._repaired, self._joined = repaired, joined
        self.conditions = Conditions()
        self.prober = Prober(who.probe_port, who.probe_seconds, self.conditions)
        self.standing = Standing()
        self._guard = threading.Lock()
        self._said: View | None = None
        self._view: View | None = None
        self._heard = False  # the source has spoken
        self._facts: Facts | None = None
        self._published: Node | None = None
        self._told: tuple[Node, int] | None = None
        self._roster = Roster({})
        self._admission = Admission(work.network)
        self._time = _Time()
        self._stopped = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        work.events.watch(self._wake)
        self._thread = threading.Thread(target=self._run, name="nodes", daemon=True)

    def start(self) -> None:
        """The node is joined as far as its last good set goes, then the source is heard. Raises CniPyError."""
        self._restore()
        self._source.start(self)
        self._guarded(changed=True, foreign=False)
        self._thread.start()
        self.prober.start()

    def stop(self) -> None:
        """Nothing is done any more; the kernel keeps all."""
        self._source.stop()
        self.prober.stop()
        self._stopped.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._save()

    @property
    def network(self) -> Network:
        """What all nodes agree on."""
        return self._work.network

    @property
    def guard_port(self) -> int:
        """The address of the socket by which nftables are changed."""
        return self._work.guard.port

    def liveness(self, name: str) -> Mapping[str, Any]:
        """What is known of the way to a peer by probing it."""
        return self.prober.of(name)

    def changed(self, view: View) -> None:
        """See Sink."""
        with self._guard:
            self._said = view
        os.eventfd_write(self._wake, 1)

    def trouble(self, reason: str) -> None:
        """See Sink."""
        self.conditions.set("source", reason)

    def _restore(self) -> None:
        try:
            known = self._memory.recall()
        except CniPyError as error:
            self.conditions.set("memory", f"{error.message}; {error.details}")
            return
        self._roster = Roster(known)
        if known:
            self._view = View(known)
            _LOG.info("knows %d nodes from before", len(known))

    def _run(self) -> None:
        while True:
            self._work.events.wait(self._time.next() - time.monotonic())
            if self._stopped.is_set():
                return
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            foreign = self._work.events.take()
            if foreign:  # what comes with it (a link goes with all that is on it) is one pass
                if self._stopped.wait(_GATHER_SECONDS):
                    return
                self._work.events.take()
            with self._guard:
                said, self._said = self._said, None
            if said is not None:
                if not self._heard:
                    self._heard = True
                    self._time.prune = time.monotonic() + GRACE_SECONDS
                self._view = said
                self._time.save = min(self._time.save, time.monotonic() + _SAVE_SECONDS)
            self._guarded(changed=said is not None, foreign=bool(foreign))

    def _guarded(self, *, changed: bool, foreign: bool) -> None:
        """One round; whatever goes wrong in it is told, and tried again."""
        try:
            self._round(changed=changed, foreign=foreign)
        except CniPyError as error:
            self._later(f"{error.message}; {error.details}" if error.details else error.message)
        except Exception as error:  # noqa: BLE001  # a bug of ours is no reason to leave the node alone
            self._later(f"unexpected {type(error).__name__}: {error}")

    def _later(self, problem: str) -> None:
        self.conditions.set("pass", problem)
        self._work.doubt()
        due = self._time
        due.retry = time.monotonic() + due.patience
        due.patience = min(2 * due.patience, _MOST_RETRY_SECONDS)

    def _round(self, *, changed: bool, foreign: bool) -> None:
        now, due = time.monotonic(), self._time
        if now >= due.save:
            self._save()
        whole = foreign or now >= min(due.audit, due.retry, due.prune)
        if not whole and not changed and now < due.roster:
            return
        if foreign:
            self._work.doubt()
        if whole:
            due.audit, due.retry = now + AUDIT_SECONDS, inf
        if now >= due.prune:
            due.prune, due.prunes = inf, True
        wish = self._wish(now, look=whole or self._facts is None)
        if wish is None:
            return
        outcome = None if whole else self._work.change(wish)
        if outcome is None:
            outcome = self._work.whole(wish, prune=due.prunes)
        self._finish(wish, outcome, time.monotonic() - now, foreign=foreign and not changed)

    def _wish(self, now: float, *, look: bool) -> Wish | None:
        """Who is there and believed; None as long as there is nothing to do it with."""
        view = self._view or View()
        if look:
            self._look(view)
        names = frozenset(view.skipped) | {name.rpartition(".")[0] for name in view.skipped}
        presence = self._roster.look(view, names, now)
        self._time.roster = now + presence.again
        self.conditions.set("peers", presence.alarm)
        if self._facts is None:
            return None
        said = presence.nodes.get(self._who.name) or Node(self._who.name, (), "")
        own = own_node(self._who, said, self._work.network, self._facts)
        if own.ip4 is None and own.ip6 is None:
            self.conditions.set("node", f"the link {self._facts.underlay.link} has no address to be reached at")
            return None
        if not own.cidrs:  # a source that assigns them may want to know us first
            lacks = f"the source gives {self._who.name} no pod network, so it is not joined"
            self.conditions.set("node", lacks if self._heard else "")
            self._publish(own)
            return None
        self.conditions.set("node", "")
        admitted = self._admission.admit(own, presence.nodes)
        told = {**view.skipped, **admitted.refused}
        self.conditions.replace("peer ", told)
        self.standing = replace(self.standing, refused=told)
        return Wish(own, admitted.peers, self._facts)

    def _look(self, view: View) -> None:
        """The underlay as it is now; while it is down or away, as it was."""
        kernel, said = self._work.kernel, view.nodes.get(self._who.name)
        link = self._who.interface or kernel.find_underlay(self._who.addresses(said))
        underlay = kernel.underlay(link) if link else None
        if underlay is None:
            what = f"the link {link} is down or not there" if link else "no link leads to other nodes"
            self.conditions.set("underlay", f"{what}: name one with `interface`, or bring it up")
            return
        self.conditions.set("underlay", "")
        self._facts = facts(underlay, self._backends)

    def _finish(self, wish: Wish, outcome: Outcome, seconds: float, *, foreign: bool) -> None:
        due = self._time
        if foreign and (outcome.ops or outcome.guarded):
            for op in outcome.ops:
                self._repaired(type(op).__name__, 1)
            if outcome.guarded:
                self._repaired("nftables", outcome.guarded)
            what = "; ".join([describe(op) for op in outcome.ops[:3]] + ["..."] * (len(outcome.ops) > 3))
            _LOG.warning("others changed the overlay, %d steps put it right: %s", len(outcome.ops), what or "nftables")
        self.conditions.set("guard", outcome.unguarded)
        refused = {describe(op): error.message for op, error in outcome.refused}
        self.conditions.replace("kernel ", refused)
        if refused or outcome.unguarded:
            self._later(f"{len(refused)} of {len(outcome.ops)} changes were refused" if refused else "see guard")
        else:
            self.conditions.set("pass", "")
            due.patience = _RETRY_SECONDS
        ms = round(seconds * 1e3, 3)
        self.standing = replace(self.standing, wish=wish, passes=self.standing.passes + 1, last_ms=ms)
        if outcome.whole:
            self.standing = replace(self.standing, last_whole_ms=ms)
        self.prober.peers(wish.own, wish.peers, self._work.network, wish.facts)
        self._tell(wish)

    def _tell(self, wish: Wish) -> None:
        """The others, our pods and Kubernetes hear of it, once it is in the kernel."""
        mtu = pod_mtu(wish.own, self._work.network, wish.facts).value
        if self._told != (wish.own, mtu):
            self._memory.tell(wish.own, mtu)
            self._told = wish.own, mtu
        self._publish(wish.own)
        if self._heard and not self.standing.joined:  # what was known before is not enough
            self._source.joined()
            self.standing = replace(self.standing, joined=True)
            _LOG.info("joined: %d peers", len(wish.peers))
            self._joined()

    def _publish(self, own: Node) -> None:
        if self._published != own:
            self._source.publish(own)
            self._published = own

    def _save(self) -> None:
        self._time.save = inf
        view = self._view
        if view is None or not view.nodes:
            return
        try:
            self._memory.keep(view.nodes)
            self.conditions.set("memory", "")
        except CniPyError as error:
            self.conditions.set("memory", f"{error.message}; {error.details}")
