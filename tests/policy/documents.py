"""Values as the documents of the API that they are read from."""

from collections.abc import Mapping
from typing import Any

from cni_py.model.policy import PROTOCOL_NAMES, IpBlock, Peer, Policy, Port, Rule, Selector
from cni_py.policy.objects import AUDIT


def document(policy: Policy) -> dict[str, Any]:
    """A NetworkPolicy's. Empty peers or ports, which no document has, are a peer or a port that nobody understands."""
    spec: dict[str, Any] = {"podSelector": selector(policy.pods), "policyTypes": []}
    for name, rules, field in (("Ingress", policy.ingress, "from"), ("Egress", policy.egress, "to")):
        if rules is not None:
            spec["policyTypes"].append(name)
            spec[name.lower()] = [_rule(one, field) for one in rules]
    metadata: dict[str, Any] = {"namespace": policy.namespace, "name": policy.name}
    if policy.audit:
        metadata["annotations"] = {AUDIT: "true"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def selector(value: Selector) -> dict[str, Any]:
    """A LabelSelector's."""
    terms = [{"key": one.key, "operator": one.operator, "values": list(one.values)} for one in value.requirements]
    return {"matchExpressions": terms} if terms else {}


def patched(root: dict[str, Any], path: str, value: Any) -> None:
    """Adds `value` to the document where the JSON pointer says."""
    *parents, last = path.removeprefix("/").split("/")
    into: Any = root
    for step in parents:
        into = into[int(step) if isinstance(into, list) else step]
    if isinstance(into, list):
        assert last == "-"
        into.append(value)
    else:
        into[last] = value


def _rule(rule: Rule, field: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if rule.peers is not None:
        found[field] = [_peer(one) for one in rule.peers] or [{"newer": {}}]
    if rule.ports is not None:
        found["ports"] = [_port(one) for one in rule.ports] or [{"newer": {}}]
    return found


def _peer(peer: Peer) -> Mapping[str, Any]:
    if isinstance(peer, IpBlock):
        return {"ipBlock": {"cidr": str(peer.cidr), "except": list(map(str, peer.excepts))}}
    pods = {"podSelector": selector(peer.pods)}
    if isinstance(peer.namespaces, str):
        name = {"matchLabels": {"kubernetes.io/metadata.name": peer.namespaces}}
        return {"namespaceSelector": name, **pods}
    return {"namespaceSelector": selector(peer.namespaces), **pods}


def _port(port: Port) -> Mapping[str, Any]:
    protocol = {"protocol": PROTOCOL_NAMES[port.protocol]}
    if port.name:
        return {**protocol, "port": port.name}
    if port.first == 0:
        return protocol
    return {**protocol, "port": port.first, "endPort": port.last}
