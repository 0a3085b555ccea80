"""The smallest change to a policy that allows a flow: one port, one peer, or one rule, and nothing beside it.

A port is added to a rule only if the rule has one peer, a peer only if it has one port: with more of them, others would
be let in as well, so a rule of its own is what lets in least. Changes are JSON patches (RFC 6902), which the API takes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cni_py.model.policy import PROTOCOL_NAMES, SCTP, TCP, UDP, Address, Flow, Pod, Policy
from cni_py.policy.explain import Explanation, Half
from cni_py.policy.rules import PEERS_FIELD
from cni_py.policy.verdict import NAME_LABEL

# Labels that controllers put on each pod or each revision: a selector of them would not outlive the next rollout.
_FLEETING = (
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
    "batch.kubernetes.io/job-completion-index",
)

Plain = Mapping[str, "Plain"] | Sequence["Plain"] | str | int


@dataclass(frozen=True, slots=True)
class Amendment:
    """`value` is to be added at `path` (a JSON pointer) of the policy."""

    namespace: str
    name: str
    path: str
    value: Plain

    def patch(self) -> str:
        """As `kubectl -n NAMESPACE patch networkpolicy NAME --type=json -p PATCH` takes it."""
        return json.dumps([{"op": "add", "path": self.path, "value": self.value}])

    def text(self) -> str:
        """For people: where it goes, and the YAML of it."""
        where = self.path.removesuffix("/-").lstrip("/").replace("/", ".")
        item = [self.value] if self.path.endswith("/-") else self.value
        return "\n".join([f"to {where} of {self.namespace}/{self.name} add", *_yaml(item, "  ")])


def amendments(explanation: Explanation) -> tuple[Amendment, ...]:
    """What would allow the flow, one for each direction that does not.

    None where all policies in the way have flaws: they are to be mended first, as nobody knows what they say.
    """
    halves = (explanation.egress, explanation.ingress)
    found = (_amendment(half, explanation.judgement.flow) for half in halves)
    return tuple(one for one in found if one is not None)


def _amendment(half: Half, flow: Flow) -> Amendment | None:
    usable = [one.policy for one in half.candidates if one.counts and not one.policy.flaws]
    if half.side.verdict == "allow" or not usable:
        return None
    direction, nearest = half.side.direction, half.nearest
    policy = nearest.policy if nearest is not None else usable[0]
    peer, port = _peer(policy, half.peer, flow.source if direction == "ingress" else flow.destination), _port(flow)
    base = f"/spec/{direction}"
    if nearest is not None and port is not None:
        rule = nearest.rule
        if nearest.failed == ("port",) and rule.peers is not None and len(rule.peers) == 1:
            return Amendment(policy.namespace, policy.name, f"{base}/{nearest.place}/ports/-", port)
        if nearest.failed == ("peer",) and rule.ports is not None and len(rule.ports) == 1:
            return Amendment(policy.namespace, policy.name, f"{base}/{nearest.place}/{PEERS_FIELD[direction]}/-", peer)
    rule_of_its_own: dict[str, Plain] = {PEERS_FIELD[direction]: [peer]}
    if port is not None:
        rule_of_its_own["ports"] = [port]
    if policy.rules(direction):
        return Amendment(policy.namespace, policy.name, f"{base}/-", rule_of_its_own)
    return Amendment(policy.namespace, policy.name, base, [rule_of_its_own])


def _peer(policy: Policy, pod: Pod | None, address: Address) -> Plain:
    """The pod and its like; else the address alone."""
    if pod is None:
        return {"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}
    labels = {key: value for key, value in sorted(pod.labels.items()) if key not in _FLEETING}
    selector: dict[str, Plain] = {"podSelector": {"matchLabels": labels} if labels else {}}
    if pod.namespace == policy.namespace:
        return selector
    return {"namespaceSelector": {"matchLabels": {NAME_LABEL: pod.namespace}}, **selector}


def _port(flow: Flow) -> Plain | None:
    """None for what has no ports, of which the API has only all protocols at once."""
    if flow.protocol not in (TCP, UDP, SCTP):
        return None
    protocol = {"protocol": PROTOCOL_NAMES[flow.protocol]}
    return {**protocol, "port": flow.port} if flow.port else protocol


def _yaml(value: Plain, indent: str) -> Iterator[str]:
    """Lines in block style; a text is JSON's, which is YAML too and never anything but a text."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if isinstance(one, str | int) or not one:
                yield f"{indent}{_word(key)}: {json.dumps(one)}"
            else:
                yield f"{indent}{_word(key)}:"
                yield from _yaml(one, indent + "  ")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            first, *others = _yaml(one, indent + "  ")
            yield f"{indent}- {first.removeprefix(indent + '  ')}"
            yield from others
    else:
        yield f"{indent}{json.dumps(value)}"


def _word(key: str) -> str:
    return (
        key if key.replace("/", "").replace(".", "").replace("-", "").isalpha() and key.isascii() else json.dumps(key)
    )
