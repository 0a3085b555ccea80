"""The kernel made to hold what a node with these peers is to hold: all of it, or only what changed.

A whole pass reads everything back, whatever anybody did to it. A change of few peers needs no reading: what they need
now against what they needed before are the steps, so one more of five thousand costs what one costs. Where that would
touch what peers share (a link), or something is in doubt, the pass is a whole one.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cni_py.kernel.guard import TunnelGuard
from cni_py.kernel.overlay import OverlayKernel, Refusal
from cni_py.kernel.overlay_events import OverlayEvents
from cni_py.model.converge import converge
from cni_py.model.errors import CniPyError, KernelError
from cni_py.model.net import NodeState
from cni_py.model.nft import Change
from cni_py.model.ops import Op
from cni_py.model.overlay import DEVICES, Facts, Network, Node
from cni_py.overlay import guard
from cni_py.overlay.select import plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass did. `refused`: what the kernel would not do; `unguarded`: what is wrong with the guard's table."""

    ops: tuple[Op, ...] = ()
    refused: tuple[Refusal, ...] = ()
    guarded: int = 0
    unguarded: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """Who this node is, who its peers are, and what it has to reach them with."""

    own: Node
    peers: Mapping[str, Node]
    facts: Facts

    def same_as(self, other: "Wish | None") -> bool:
        """True if it is the same; peers are, if they are the same objects, as a source's are that says no more."""
        return (
            other is not None
            and (self.own, self.facts) == (other.own, other.facts)
            and len(self.peers) == len(other.peers)
            and all(other.peers.get(name) is peer for name, peer in self.peers.items())
        )


@dataclass(slots=True)
class Reconciler:
    """Over the kernel of the namespace in which its parts were made. Not for several threads at once."""

    network: Network
    kernel: OverlayKernel
    guard: TunnelGuard
    events: OverlayEvents
    _done: Wish | None = field(default=None, init=False)
    _shared: NodeState = field(default_factory=NodeState, init=False)
    _planned: Wish | None = field(default=None, init=False)
    _desired: NodeState = field(default_factory=NodeState, init=False)
    _sources: Change = field(default_factory=lambda: Change((), ()), init=False)
    _clean: NodeState | None = field(default=None, init=False)  # read when there was nothing to do for the planned wish

    def whole(self, wish: Wish, *, prune: bool) -> Outcome:
        """Everything is read and made so. Raises CniPyError if nothing could be done at all."""
        self._done = None
        if not wish.same_as(self._planned):
            self._clean = None
            self._desired = plan(wish.own, list(wish.peers.values()), self.network, wish.facts)
            self._sources = self._all_sources(wish)
            self._planned = wish
        desired, observed = self._desired, self.kernel.read(DEVICES, self._desired)
        # Nearly always nothing has changed: what is read is then, one by one, what was read before.
        ops = () if prune and observed == self._clean else converge(desired, observed, prune=prune)
        self._clean = observed if prune and not ops else None
        guarded, unguarded = 0, ""
        try:  # before anything leads to a new peer
            guarded = self.guard.hold(self._sources)
        except CniPyError as error:
            unguarded = f"{error.message}; {error.details}"
        self.events.expect(ops)
        refused = self.kernel.apply(ops)
        self._listen(wish.facts, learning=_learning(desired))
        if not refused and not unguarded:
            self._done, self._shared = wish, _shared(desired)
        return Outcome(ops, refused, guarded, unguarded, whole=True)

    def change(self, wish: Wish) -> Outcome | None:
        """What changed since the last pass is made so; None where a whole one is needed. Raises CniPyError."""
        done = self._done
        if done is None or (done.own, done.facts) != (wish.own, wish.facts):
            return None
        names = [name for name, peer in wish.peers.items() if done.peers.get(name) is not peer]
        names += [name for name in done.peers if name not in wish.peers]
        before, after = _of(done.peers, names), _of(wish.peers, names)
        old, new = (plan(wish.own, peers, self.network, wish.facts) for peers in (before, after))
        if _shared(old) != _shared(new) or any(link not in self._shared.links for link in new.links):
            return None
        if _learning(old) and not set(old.fdb) <= set(new.fdb):  # what was learned of who went has to be read
            return None
        self._done = None  # until all of it is done
        come, gone = guard.sources(after) - guard.sources(before), guard.sources(before) - guard.sources(after)
        ops = converge(new, old)
        if come:
            self.guard.change(guard.allow(self.network, come), lambda: self._all_sources(wish))
        self.events.expect(ops)
        refused = self.kernel.apply(ops)
        if gone:
            with suppress(KernelError):  # nothing leads there any more; the next whole pass tries again
                self.guard.change(guard.forbid(self.network, gone), lambda: self._all_sources(wish))
        if not refused:
            self._done = wish
        return Outcome(ops, refused)

    def doubt(self) -> None:
        """The next pass is a whole one, and takes nothing for known."""
        self._done = None
        self.guard.doubt()

    def _all_sources(self, wish: Wish) -> Change:
        return guard.everything(self.network, guard.sources(wish.peers.values()))

    def _listen(self, facts: Facts, *, learning: bool) -> None:
        def indices(names: Iterable[str]) -> list[int]:
            return [index for name in names if (index := self.kernel.index(name)) is not None]

        self.events.links(indices(DEVICES), indices([facts.underlay.link]), learning=learning)


def _of(peers: Mapping[str, Node], names: Sequence[str]) -> list[Node]:
    return [peers[name] for name in names if name in peers]


def _learning(state: NodeState) -> bool:
    return any(link.vxlan is not None and link.vxlan.learning for link in state.links)


def _shared(state: NodeState) -> NodeState:
    """What several peers have in common."""
    return NodeState(links=state.links, addresses=state.addresses, sysctls=state.sysctls)
