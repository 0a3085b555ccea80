"""Why a flow has its verdict: for each policy that could decide and each of its rules the term that failed.

The nearest miss is the rule that failed by least: by one of its two terms rather than both, by its port rather than its
peer, by few labels rather than many. What would have to change for the flow to be allowed is `amendment`'s.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from cni_py.model.policy import Address, Cluster, Direction, Flow, IpBlock, Peer, Pod, Policy, Rule, Selector
from cni_py.policy.verdict import (
    NOBODY,
    Ends,
    Judgement,
    Side,
    ends_of,
    in_audit,
    is_peer,
    is_port,
    isolating,
    judge,
    namespace_labels,
    peers,
    ports,
)

Term = Literal["peer", "port"]
_NEVER = 1 << 10  # what no label mends: an address outside a block, a name that leads nowhere


@dataclass(frozen=True, slots=True)
class Fit:
    """How a rule takes a flow. `failed`: its terms that do not match, none if it allows it; `misses`: by how much.

    A miss is a label of a pod or a namespace that is not as a selector wants it.
    """

    policy: Policy
    place: int
    rule: Rule
    failed: tuple[Term, ...] = ()
    misses: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy that restricts the pod in that direction. `counts`: False for one in audit beside others in force."""

    policy: Policy
    audit: bool
    counts: bool
    fits: tuple[Fit, ...]


@dataclass(frozen=True, slots=True)
class Half:
    """One direction. `subject` is the pod that was asked, `peer` the one at the other end; None where it is none.

    `nearest`: the nearest miss of those that count, if the flow is not allowed and there is a rule at all.
    """

    side: Side
    subject: Pod | None
    peer: Pod | None
    candidates: tuple[Candidate, ...] = ()
    nearest: Fit | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict over a flow, and why."""

    judgement: Judgement
    egress: Half
    ingress: Half


def explain(cluster: Cluster, flow: Flow, local: AbstractSet[Address] = NOBODY) -> Explanation:
    """Why the flow passes or not; `local` as of `judge`."""
    judgement, ends = judge(cluster, flow, local), ends_of(cluster, flow)
    return Explanation(judgement, _half(cluster, ends, judgement.egress), _half(cluster, ends, judgement.ingress))


def _half(cluster: Cluster, ends: Ends, side: Side) -> Half:
    _, peer = ends.peer(side.direction)
    subject = ends.subject(side.direction) if side.pod else None
    if subject is None:
        return Half(side, subject, peer)
    candidates = tuple(
        Candidate(
            policy, in_audit(cluster, policy), policy.key in side.policies, _fits(cluster, policy, side.direction, ends)
        )
        for policy in isolating(cluster, subject, side.direction)
    )
    return Half(side, subject, peer, candidates, None if side.verdict == "allow" else _nearest(candidates))


def _fits(cluster: Cluster, policy: Policy, direction: Direction, ends: Ends) -> tuple[Fit, ...]:
    rules = enumerate(policy.rules(direction) or ())
    return tuple(_fit(cluster, policy, place, rule, direction, ends) for place, rule in rules)


def _fit(cluster: Cluster, policy: Policy, place: int, rule: Rule, direction: Direction, ends: Ends) -> Fit:
    matching = [peer for peer in peers(rule) if is_peer(cluster, peer, direction, ends)]
    # a name of ports is the peer's to give: where no peer matches, any of them may
    asked = matching or peers(rule) or (None,)
    failed: list[Term] = []
    if not matching:
        failed.append("peer")
    if not any(is_port(port, peer, direction, ends) for port in ports(rule) for peer in asked):
        failed.append("port")
    _, pod = ends.peer(direction)
    distance = 0 if matching else min((_misses(cluster, peer, pod) for peer in rule.peers or ()), default=_NEVER)
    return Fit(policy, place, rule, tuple(failed), distance)


def _misses(cluster: Cluster, peer: Peer, pod: Pod | None) -> int:
    """The labels that keep what is at the other end from being the peer's."""
    if pod is None or isinstance(peer, IpBlock):
        return _NEVER
    if isinstance(peer.namespaces, str):
        elsewhere = int(peer.namespaces != pod.namespace)
    else:
        elsewhere = _unmet(peer.namespaces, namespace_labels(cluster, pod.namespace))
    return elsewhere + _unmet(peer.pods, pod.labels)


def _unmet(selector: Selector, labels: Mapping[str, str]) -> int:
    return sum(not one.matches(labels) for one in selector.requirements)


def _nearest(candidates: tuple[Candidate, ...]) -> Fit | None:
    """One whose policy was not understood is near to nothing: nobody knows what it says."""
    fits = [fit for one in candidates if one.counts and not one.policy.flaws for fit in one.fits]
    return min(fits, key=lambda one: (len(one.failed), "peer" in one.failed, one.misses), default=None)
