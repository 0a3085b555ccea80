"""The verdict over a flow, straight from the API's words: the tests' oracle, and what `explain` is built on.

It is naive on purpose: every question is asked of all objects, nothing is remembered, and nothing is shared with the
compiler, so that both can only agree by being right.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from cni_py.model.policy import Address, Cluster, Direction, Flow, IpBlock, NamedPort, Peer, Pod, Policy, Port, Rule

Verdict = Literal["allow", "deny", "would deny"]
NAME_LABEL = "kubernetes.io/metadata.name"
NOBODY: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class Side:
    """What one end of a flow says to it: the source's egress or the destination's ingress.

    `pod` is the key of the pod that is asked, "" if nobody is: the address is no pod's, or the flow is exempt.
    `policies` are those that count, by their keys: they are in force, or, where there is none in force, all in audit.
    `allowed_by` are the policies and the places of their rules that allow it.
    """

    direction: Direction
    pod: str = ""
    policies: tuple[str, ...] = ()
    allowed_by: tuple[tuple[str, int], ...] = ()
    verdict: Verdict = "allow"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Both sides' opinions. Both have to allow it."""

    flow: Flow
    egress: Side
    ingress: Side

    @property
    def verdict(self) -> Verdict:
        """Deny if one side denies it; what would be denied passes."""
        verdicts = (self.egress.verdict, self.ingress.verdict)
        return "deny" if "deny" in verdicts else "would deny" if "would deny" in verdicts else "allow"

    @property
    def passes(self) -> bool:
        """True if the packet goes through."""
        return self.verdict != "deny"


@dataclass(frozen=True, slots=True)
class Ends:
    """A flow, and the pods that have its two addresses; None where no pod has one."""

    flow: Flow
    source: Pod | None
    destination: Pod | None

    def subject(self, direction: Direction) -> Pod | None:
        """The pod whose policies of that direction are asked."""
        return self.source if direction == "egress" else self.destination

    def peer(self, direction: Direction) -> tuple[Address, Pod | None]:
        """The other end, which the rules of that direction call the peer."""
        if direction == "egress":
            return self.flow.destination, self.destination
        return self.flow.source, self.source


def judge(cluster: Cluster, flow: Flow, local: AbstractSet[Address] = NOBODY) -> Judgement:
    """The verdict over a flow. `local` are the addresses of the node where the packet is seen.

    What a pod sends to itself is no policy's business, and neither is what a node sends to a pod of its own.
    """
    egress, ingress = Side("egress"), Side("ingress")
    if flow.source != flow.destination:
        ends = ends_of(cluster, flow)
        egress = _ask(cluster, ends, "egress")
        if flow.source not in local:
            ingress = _ask(cluster, ends, "ingress")
    return Judgement(flow, egress, ingress)


def ends_of(cluster: Cluster, flow: Flow) -> Ends:
    """The pods at the ends of a flow."""
    return Ends(flow, owner(cluster, flow.source), owner(cluster, flow.destination))


def owner(cluster: Cluster, address: Address) -> Pod | None:
    """The pod that has the address; of several that claim it the last one created whose status says so, or of all.

    What is announced is an annotation, which whoever may create pods may write.
    """
    claims = [one for one in cluster.pods.values() if address in one.addresses]
    return max(claims, key=lambda one: (not one.announced, one.created, one.uid, one.key), default=None)


def isolating(cluster: Cluster, pod: Pod, direction: Direction) -> list[Policy]:
    """The policies that select the pod and restrict that direction, in force or in audit, by their keys."""
    return [
        policy
        for _, policy in sorted(cluster.policies.items())
        if policy.namespace == pod.namespace and policy.pods.matches(pod.labels) and policy.rules(direction) is not None
    ]


def in_audit(cluster: Cluster, policy: Policy) -> bool:
    """True if the policy is only audited, by its own wish or its namespace's."""
    namespace = cluster.namespaces.get(policy.namespace)
    return policy.audit or (namespace is not None and namespace.audit)


def counting(cluster: Cluster, policies: list[Policy]) -> list[Policy]:
    """Those in force; what is in audit counts only where there are none, and so never opens what they close."""
    return [one for one in policies if not in_audit(cluster, one)] or policies


def allows(cluster: Cluster, rule: Rule, direction: Direction, ends: Ends) -> bool:
    """True if one of the rule's peers and one of its ports match; where it names none, all do."""
    return any(
        is_peer(cluster, peer, direction, ends) and is_port(port, peer, direction, ends)
        for peer in peers(rule)
        for port in ports(rule)
    )


def peers(rule: Rule) -> tuple[Peer | None, ...]:
    """None stands for everybody."""
    return (None,) if rule.peers is None else rule.peers


def ports(rule: Rule) -> tuple[Port | None, ...]:
    """None stands for every protocol and every port."""
    return (None,) if rule.ports is None else rule.ports


def is_peer(cluster: Cluster, peer: Peer | None, direction: Direction, ends: Ends) -> bool:
    """True if the other end is the peer's: an address in the block, or a selected pod in a selected namespace."""
    address, pod = ends.peer(direction)
    if peer is None:
        return True
    if isinstance(peer, IpBlock):
        return address in peer
    if pod is None or not peer.pods.matches(pod.labels):
        return False
    if isinstance(peer.namespaces, str):
        return peer.namespaces == pod.namespace
    return peer.namespaces.matches(namespace_labels(cluster, pod.namespace))


def is_port(port: Port | None, peer: Peer | None, direction: Direction, ends: Ends) -> bool:
    """True if the flow goes to the port. A name is what the destination calls it, which to an IP block has no names."""
    if port is None:
        return True
    if port.protocol != ends.flow.protocol:
        return False
    if not port.name:
        return port.first <= ends.flow.port <= port.last
    if direction == "egress" and isinstance(peer, IpBlock):
        return False
    pod = ends.destination
    return pod is not None and NamedPort(port.name, port.protocol, ends.flow.port) in pod.ports


def namespace_labels(cluster: Cluster, name: str) -> Mapping[str, str]:
    """One that nobody has told of has the label that each has."""
    namespace = cluster.namespaces.get(name)
    return namespace.labels if namespace is not None else {NAME_LABEL: name}


def _ask(cluster: Cluster, ends: Ends, direction: Direction) -> Side:
    pod = ends.subject(direction)
    if pod is None:
        return Side(direction)
    counted = counting(cluster, isolating(cluster, pod, direction))
    allowed_by = tuple(
        (policy.key, place)
        for policy in counted
        for place, rule in enumerate(policy.rules(direction) or ())
        if allows(cluster, rule, direction, ends)
    )
    if not counted or allowed_by:
        verdict: Verdict = "allow"
    else:
        verdict = "would deny" if in_audit(cluster, counted[0]) else "deny"
    return Side(direction, pod.key, tuple(one.key for one in counted), allowed_by, verdict)
