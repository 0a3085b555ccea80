"""What about a policy is probably not what its author meant, though the API takes it. Each finding is one line."""

from collections.abc import Iterator
from itertools import chain

from cni_py.model.policy import DIRECTIONS, UDP, Cluster, Direction, IpBlock, Peer, Pod, Pods, Policy, Port, Rule
from cni_py.policy.plain import printable
from cni_py.policy.verdict import namespace_labels

_DNS = 53


def lint(cluster: Cluster, policy: Policy) -> tuple[str, ...]:
    """The findings about a policy in a cluster, which need not have it yet; what was not understood comes first.

    That a selector selects nobody is true of the cluster as it is: it may be for pods that are still to come.
    """
    subjects = [one for one in cluster.pods.values() if one.namespace == policy.namespace and not one.host_network]
    subjects = [one for one in subjects if policy.pods.matches(one.labels)]
    found = list(policy.flaws)
    if not subjects:
        found.append(f"it applies to no pod: none in namespace {policy.namespace} is {printable(str(policy.pods))}")
    for direction in DIRECTIONS:
        for place, rule in enumerate(policy.rules(direction) or ()):
            found += (f"{direction} rule {place}: {one}" for one in _rule(cluster, rule, direction, subjects))
        found += _section(policy.rules(direction), direction)
    return tuple(found)


def _section(rules: tuple[Rule, ...] | None, direction: Direction) -> Iterator[str]:
    if rules is None:
        return
    if len(rules) > 1 and Rule() in rules:
        yield f"{direction}: rule {rules.index(Rule())} allows everything, the others do nothing"
    if direction == "egress" and rules and not any(_has_dns(one) for one in rules):
        yield "egress: no rule has UDP 53, so these pods cannot ask for names"


def _has_dns(rule: Rule) -> bool:
    """A named port may be it."""
    if rule.ports is None:
        return True
    return any(one.protocol == UDP and (one.name or one.first <= _DNS <= one.last) for one in rule.ports)


def _rule(cluster: Cluster, rule: Rule, direction: Direction, subjects: list[Pod]) -> Iterator[str]:
    for peer in rule.peers or ():
        if isinstance(peer, Pods):
            if not _selected(cluster, peer):
                yield f"{printable(str(peer))}: there are none now"
        elif any(address in peer for pod in cluster.pods.values() for address in pod.addresses) and peer.cidr.prefixlen:
            yield f"{peer.cidr} holds addresses of pods, which change: they are better selected by labels"
    for port in rule.ports or ():
        if port.name:
            yield from _named(cluster, port, rule, direction, subjects)


def _named(cluster: Cluster, port: Port, rule: Rule, direction: Direction, subjects: list[Pod]) -> Iterator[str]:
    peers = rule.peers or ()
    if direction == "egress" and peers and all(isinstance(one, IpBlock) for one in peers):
        yield f"{port} of an IP block, whose addresses give no names to ports, matches nothing"
        return
    if direction == "ingress":
        destinations = subjects
    elif rule.peers is None:
        destinations = list(cluster.pods.values())
    else:
        destinations = list(chain.from_iterable(_selected(cluster, one) for one in peers))
    if destinations and not any(
        (port.name, port.protocol) == (one.name, one.protocol) for pod in destinations for one in pod.ports
    ):
        yield f"none of the pods has a port {port}"


def _selected(cluster: Cluster, peer: Peer) -> list[Pod]:
    if isinstance(peer, IpBlock):
        return []
    return [
        pod
        for pod in cluster.pods.values()
        if not pod.host_network and peer.pods.matches(pod.labels) and _is_in(cluster, pod.namespace, peer)
    ]


def _is_in(cluster: Cluster, namespace: str, peer: Pods) -> bool:
    if isinstance(peer.namespaces, str):
        return namespace == peer.namespaces
    return peer.namespaces.matches(namespace_labels(cluster, namespace))
