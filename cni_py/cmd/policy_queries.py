"""What operators ask the agent about policies: the answers, as JSON has them. The agent's side of `cmd.policy_cli`."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from cni_py.kernel import connections, nft
from cni_py.kernel.local_addresses import local_addresses
from cni_py.model.errors import InvalidConfigError
from cni_py.model.policy import DIRECTIONS, PROTOCOL_NAMES, Address, Cluster, Flow, Policy
from cni_py.policy import objects
from cni_py.policy.amendment import amendments
from cni_py.policy.compile import label
from cni_py.policy.explain import explain
from cni_py.policy.index import Index
from cni_py.policy.lint import lint
from cni_py.policy.what_if import what_if
from cni_py.policy.words import plain, text

if TYPE_CHECKING:
    from cni_py.cmd.policy_role import PolicyRole

_MOST_FLOWS = 20_000
_MOST_PODS = 1000
_NUMBERS = {name.lower(): number for number, name in PROTOCOL_NAMES.items()}


def answer(role: "PolicyRole", query: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The answer. Raises InvalidConfigError for a question that makes no sense."""
    queries: Mapping[str, Callable[[PolicyRole, Mapping[str, Any]], dict[str, Any]]] = {
        "explain": _explain,
        "flows": _flows,
        "list": _list,
        "show": _show,
        "check": _check,
    }
    if query not in queries:
        raise InvalidConfigError(f"unknown question {query[:40]!r}", f"ask one of {', '.join(queries)}")
    return queries[query](role, arguments)


def cluster_of(role: "PolicyRole") -> Cluster:
    """All objects, each pod with the addresses that it owns, as the kernel's table has them."""
    policies = role.policies
    with policies.reading() as index:
        pods = {key: replace(pod, addresses=index.member(key).addresses) for key, pod in index.pods.items()}
        for key in index.attached.keys() - pods.keys():
            pod = index.pod(key)
            if pod is not None:
                pods[key] = replace(pod, addresses=index.member(key).addresses)
        return Cluster(pods, dict(index.namespaces), dict(index.policies))


def _explain(role: "PolicyRole", arguments: Mapping[str, Any]) -> dict[str, Any]:
    cluster = cluster_of(role)
    flow = _flow(cluster, arguments)
    explanation = explain(cluster, flow, local_addresses())
    proposed = amendments(explanation)
    found = {**plain(explanation, proposed), "text": list(text(explanation, proposed))}
    if arguments.get("live"):
        found["live"] = _live(role, flow)
    return found


def _live(role: "PolicyRole", flow: Flow) -> dict[str, Any]:
    """Whether the kernel's rules are those that the verdict is about, and how often it denied this very flow."""
    differing = role.policies.verify()
    return {
        "agrees": not differing,
        "differing": {"chains": differing.chains, "missing": differing.added, "stray": differing.removed},
        "denied_packets": role.policies.denied_packets(flow),
    }


def _flow(cluster: Cluster, arguments: Mapping[str, Any]) -> Flow:
    protocol = str(arguments.get("protocol") or "tcp").lower()
    number = _NUMBERS.get(protocol, int(protocol) if protocol.isdecimal() and int(protocol) < 256 else -1)
    if number < 0:
        raise InvalidConfigError(f"{protocol[:20]!r} is no protocol", "give tcp, udp, sctp, icmp or a number")
    port = arguments.get("port", 0)
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise InvalidConfigError("the port is no number from 0 to 65535", "give the destination's port after DNAT")
    sources = _addresses(cluster, str(arguments.get("source")))
    destinations = _addresses(cluster, str(arguments.get("destination")))
    for source in sources:
        for destination in destinations:
            if source.version == destination.version:
                return Flow(source, destination, number, port)
    raise InvalidConfigError("the two have no version of IP in common", "give addresses of one version")


def _addresses(cluster: Cluster, end: str) -> tuple[Address, ...]:
    """An address, or those of the pod NAMESPACE/NAME."""
    pod = cluster.pods.get(end)
    if pod is not None:
        if not pod.addresses:
            raise InvalidConfigError(
                f"the pod {end} has no address of its own", "it is not running, or in the node's network"
            )
        return pod.addresses
    try:
        return (ip_address(end),)
    except ValueError:
        raise InvalidConfigError(
            f"{end[:100]!r} is no address and no pod that is known", "give NAMESPACE/POD or an IP address"
        ) from None


def _flows(role: "PolicyRole", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What was logged after the number `since`."""
    since = arguments.get("since", 0)
    found = role.drops.since(since if isinstance(since, int) else 0) if role.drops is not None else []
    return {"flows": [{**asdict(one), "line": one.line()} for one in found]}


def _list(role: "PolicyRole", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Each policy: whom it applies to, what it restricts, and what of it was not understood."""
    del arguments
    with role.policies.reading() as index:
        found = [
            {
                "namespace": one.namespace,
                "name": one.name,
                "pods": str(one.pods),
                "selected": len(index.selected(one)),
                "directions": [direction for direction in DIRECTIONS if one.rules(direction) is not None],
                "audit": index.is_audited(one),
                "flaws": list(one.flaws),
            }
            for one in sorted(index.policies.values(), key=lambda one: one.key)
        ]
    return {"policies": found}


def _show(role: "PolicyRole", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What has the name NAMESPACE/NAME: a policy, a pod, or one of each."""
    name = str(arguments.get("name"))
    hits = role.policies.hits()
    with role.policies.reading() as index:
        policy = index.policies.get(name)
        found: dict[str, Any] = {}
        if policy is not None:
            found["policy"] = _policy(index, policy, hits)
        if index.pod(name) is not None:
            found["pod"] = _pod(role, index, name)
    if not found:
        raise InvalidConfigError(f"no policy and no pod {name[:100]!r} is known", "see cni-py policy list")
    return found


def _policy(index: Index, policy: Policy, hits: Mapping[str, int]) -> dict[str, Any]:
    """Whom it applies to and what it allows, with how many connections of this node's pods each rule let pass."""
    found: dict[str, Any] = {
        "name": policy.key,
        "pods": str(policy.pods),
        "selected": sorted(index.selected(policy))[:_MOST_PODS],
        "audit": index.is_audited(policy),
        "flaws": list(policy.flaws),
    }
    for direction in DIRECTIONS:
        rules = policy.rules(direction)
        if rules is not None:
            found[direction] = [
                {
                    "peers": ["anybody"] if one.peers is None else list(map(str, one.peers)),
                    "ports": ["everything"] if one.ports is None else list(map(str, one.ports)),
                    "connections": hits.get(label(policy.key, direction, number), 0),
                }
                for number, one in enumerate(rules)
            ]
    return found


def _pod(role: "PolicyRole", index: Index, name: str) -> dict[str, Any]:
    """Its policies, and the rules in the kernel if it is one of this node's, as nft would write them."""
    found: dict[str, Any] = {"name": name, "addresses": list(map(str, index.member(name).addresses))}
    for direction, chain in zip(DIRECTIONS, role.policies.chains(name), strict=True):
        found[direction] = {
            "policies": [one.key for one in index.policies_of(name, direction)[0]],
            "rules": [rule.text().partition(f"{rule.chain.text()} ")[2] for rule in chain.rules] if chain else [],
        }
    return found


def _check(role: "PolicyRole", arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is wrong with policies that are given as documents, and which of the flows of now they would turn."""
    cluster, local = cluster_of(role), local_addresses()
    told = [objects.policy(document) for document in arguments.get("documents", ())]
    changed: dict[str, Policy | None] = {one.key: one for one in told}
    turned = what_if(cluster, changed, _recent(role, local), local)
    return {
        "findings": {one.key: list(lint(cluster, one)) for one in told},
        "turned": [
            {
                "source": str(one.after.flow.source),
                "source_pod": one.after.egress.pod,
                "destination": str(one.after.flow.destination),
                "destination_pod": one.after.ingress.pod,
                "protocol": PROTOCOL_NAMES.get(one.after.flow.protocol, str(one.after.flow.protocol)),
                "port": one.after.flow.port,
                "before": one.before.verdict,
                "after": one.after.verdict,
            }
            for one in turned
        ],
        "at": round(time.time(), 3),
    }


def _recent(role: "PolicyRole", local: frozenset[Address]) -> Iterable[Flow]:
    """The connections of now with a pod of this node, and what was logged last."""
    own = role.policies.addresses()
    with closing(nft.connect()) as socket:
        standing = [one.flow for version in (4, 6) for one in connections.tracked(socket, version)]
    flows = [one for one in standing if ({one.source, one.destination} & own) and one.source not in local]
    logged = role.drops.since(0) if role.drops is not None else []
    numbers: dict[str, int] = {name: number for number, name in PROTOCOL_NAMES.items()}
    flows += [
        Flow(ip_address(one.source), ip_address(one.destination), numbers[one.protocol], one.port)
        for one in logged
        if one.protocol in numbers
    ]
    return list(dict.fromkeys(flows))[:_MOST_FLOWS]
