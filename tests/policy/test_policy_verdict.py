"""The verdict, point by point of the API's semantics: the clusters are documents, read as they would come.

Unless a row says something else, the flow is TCP 80 from the pod shop/api (10.0.0.1, app=api) to shop/web (10.0.0.2,
app=web), or from a pod of other namespaces: ops/probe (10.0.0.3, app=probe) and bare/tool (10.0.0.4, without labels).
"""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.strategies import all_flows, clusters, flows

from cni_py.model.policy import ICMP, SCTP, TCP, UDP, Cluster, Flow
from cni_py.policy.objects import namespace, pod, policy
from cni_py.policy.verdict import Side, judge

API, WEB, PROBE, TOOL, OUTSIDE, NODE = (
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.4",
    "192.0.2.1",
    "192.0.2.100",
)
API6, WEB6 = "fd00::1", "fd00::2"


def made(key: str, *ips: str, ports: tuple[tuple[str, int], ...] = (), **more: Any) -> dict[str, Any]:
    """A pod's document; `more` are its labels, but for `status` and `spec`, of which more is said there."""
    space, name = key.split("/")
    status, spec = more.pop("status", {}), more.pop("spec", {})
    named = [{"name": word, "containerPort": number} for word, number in ports]
    return {
        "metadata": {"namespace": space, "name": name, "labels": more, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"ports": named}], **spec},
        "status": {"phase": "Running", "podIPs": [{"ip": one} for one in ips], **status},
    }


_PODS = (
    made("shop/api", API, API6, app="api", ports=(("http", 81),)),
    made("shop/web", WEB, WEB6, app="web", ports=(("http", 80),)),
    made("ops/probe", PROBE, app="probe", ports=(("http", 8080),)),
    made("bare/tool", TOOL),
)
_SPACES: dict[str, dict[str, str]] = {"shop": {"team": "sales"}, "ops": {"team": "ops", "infra": "yes"}, "bare": {}}


def cluster(*specs: dict[str, Any], extra: tuple[dict[str, Any], ...] = ()) -> Cluster:
    """The pods above and `extra`, and policies shop/0, shop/1, ..., each of a spec and of what begins with `_`."""
    pods = {one.key: one for one in map(pod, (*_PODS, *extra))}
    spaces = [namespace({"metadata": {"name": name, "labels": labels}}) for name, labels in _SPACES.items()]
    policies = {}
    for at, spec in enumerate(specs):
        metadata = {"namespace": "shop", "name": str(at), **spec.pop("_metadata", {})}
        one = policy({"metadata": metadata, "spec": spec})
        policies[one.key] = one
    return Cluster(pods, {one.name: one for one in spaces}, policies)


def passes(within: Cluster, source: str = API, destination: str = WEB, port: int = 80, protocol: int = TCP) -> bool:
    """True if the flow goes through."""
    return judge(within, Flow(ip_address(source), ip_address(destination), protocol, port)).passes


def app(name: str) -> dict[str, Any]:
    """A selector."""
    return {"matchLabels": {"app": name}}


def admits(peer: dict[str, Any]) -> set[str]:
    """Who of the four and of two outsiders gets to shop/web if that peer alone may."""
    within = cluster({"podSelector": app("web"), "ingress": [{"from": [peer]}]})
    return {one for one in (API, PROBE, TOOL, OUTSIDE) if passes(within, one)}


def test_point_01_without_a_policy_everything_passes() -> None:
    """Isolation begins with a policy that selects the pod and lists the direction."""
    assert passes(cluster())
    assert not passes(cluster({}))
    assert not passes(cluster({"policyTypes": ["Egress"]}))
    assert passes(cluster({"_metadata": {"namespace": "ops"}}))
    assert passes(cluster({"podSelector": app("web"), "policyTypes": ["Egress"]}))
    assert passes(cluster({"podSelector": app("api"), "policyTypes": ["Ingress"]}))


def test_point_01_policies_add_up() -> None:
    """There is no deny and no order: one allows, others cannot take it back."""
    closed: dict[str, Any] = {"podSelector": {}}
    opened: dict[str, Any] = {"podSelector": {}, "ingress": [{"from": [{"podSelector": app("api")}]}]}
    for specs in ((dict(closed), dict(opened)), (dict(opened), dict(closed))):
        assert passes(cluster(*specs))
    assert not passes(cluster(closed, opened), source=PROBE)


def test_point_02_egress_needs_its_type_or_rules() -> None:
    """An empty list of egress rules without a type isolates nobody's egress, a type without rules does."""
    assert passes(cluster({"podSelector": app("api"), "egress": []}))
    assert not passes(cluster({"podSelector": app("api"), "policyTypes": ["Egress"]}))
    assert not passes(cluster({"podSelector": app("api"), "egress": [{"to": [{"ipBlock": {"cidr": "1.0.0.0/8"}}]}]}))
    assert passes(cluster({"podSelector": app("api"), "policyTypes": ["Ingress"], "egress": []}))


def test_point_03_a_policy_that_selects_nobody_does_nothing() -> None:
    """The empty selector selects all pods of the namespace."""
    assert passes(cluster({"podSelector": app("nobody")}))
    assert not passes(cluster({"podSelector": {}}))
    assert not passes(cluster({"podSelector": {}}), destination=API, source=WEB)
    assert passes(cluster({"podSelector": {}}), destination=PROBE)


@pytest.mark.parametrize(
    ("ingress", "expected"),
    [(None, False), ([], False), ([{}], True), ([{"from": []}], True), ([{"from": [], "ports": []}], True)],
)
def test_point_04_no_rule_is_nothing_and_an_empty_rule_is_everything(ingress: Any, expected: bool) -> None:
    """Also from outside, and without ports."""
    within = cluster({"ingress": ingress})
    for flow in ((API, TCP, 80), (OUTSIDE, UDP, 53), (OUTSIDE, ICMP, 0), (API, 2, 0), (API, 47, 0)):
        assert passes(within, flow[0], WEB, flow[2], flow[1]) == expected


@pytest.mark.parametrize(
    ("source", "port", "expected"),
    [(API, 80, True), (PROBE, 80, True), (API, 443, True), (API, 81, False), (TOOL, 80, False), (PROBE, 82, True)],
)
def test_point_05_peers_and_ports_are_anded_rules_are_ored(source: str, port: int, expected: bool) -> None:
    """Any of the peers over any of the ports of one rule."""
    probe = {"namespaceSelector": {}, "podSelector": app("probe")}
    first = {"from": [{"podSelector": app("api")}, probe], "ports": [{"port": 80}, {"port": 443}]}
    within = cluster({"ingress": [first, {"from": [probe], "ports": [{"port": 82}]}]})
    assert passes(within, source, port=port) == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ({"podSelector": {}}, {API}),
        ({"podSelector": app("probe")}, set()),
        ({"namespaceSelector": {}}, {API, PROBE, TOOL}),
        ({"namespaceSelector": {"matchLabels": {"team": "ops"}}}, {PROBE}),
        ({"namespaceSelector": {}, "podSelector": app("probe")}, {PROBE}),
        ({"namespaceSelector": {"matchLabels": {"team": "sales"}}, "podSelector": app("probe")}, set()),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "bare"}}}, {TOOL}),
        ({}, set()),
    ],
)
def test_point_06_fields_of_one_peer_are_anded(peer: dict[str, Any], expected: set[str]) -> None:
    """A selector of pods alone is of the policy's own namespace; no pod is outside; a peer of no field is nobody."""
    assert admits(peer) == expected


def test_point_06_two_peers_are_ored() -> None:
    """The trap of the list's dashes: the same two selectors as items of their own."""
    sales, probe = {"namespaceSelector": {"matchLabels": {"team": "sales"}}}, {"podSelector": app("probe")}
    within = cluster({"podSelector": app("web"), "ingress": [{"from": [sales, probe]}]})
    assert passes(within, API)
    assert not passes(within, PROBE)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"key": "team", "operator": "In", "values": ["ops", "sales"]}, {API, PROBE}),
        ({"key": "team", "operator": "NotIn", "values": ["ops"]}, {API, TOOL}),
        ({"key": "team", "operator": "Exists"}, {API, PROBE}),
        ({"key": "team", "operator": "DoesNotExist"}, {TOOL}),
        ({"key": "infra", "operator": "NotIn", "values": ["no"]}, {API, PROBE, TOOL}),
    ],
)
def test_point_07_operators(expression: dict[str, Any], expected: set[str]) -> None:
    """NotIn and DoesNotExist also match what lacks the key."""
    assert admits({"namespaceSelector": {"matchExpressions": [expression]}}) == expected


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([{"cidr": "10.0.0.0/8"}], {API, PROBE, TOOL}),
        ([{"cidr": "10.0.0.9/24"}], {API, PROBE, TOOL}),
        ([{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/30"]}], {TOOL, OUTSIDE}),
        ([{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/30"]}, {"cidr": "10.0.0.3/32"}], {PROBE, TOOL, OUTSIDE}),
        ([{"cidr": "0.0.0.0/0", "except": ["junk"]}], set()),
        ([{"cidr": "::/0"}], set()),
    ],
)
def test_point_08_blocks(blocks: list[dict[str, Any]], expected: set[str]) -> None:
    """They hold pods too; an exception is of its own item only."""
    within = cluster({"podSelector": app("web"), "ingress": [{"from": [{"ipBlock": one} for one in blocks]}]})
    assert {one for one in (API, PROBE, TOOL, OUTSIDE) if passes(within, one)} == expected


@pytest.mark.parametrize(
    ("port", "allowed", "denied"),
    [
        ({"port": 80}, (TCP, 80), (TCP, 81)),
        ({"port": 80}, (TCP, 80), (UDP, 80)),
        ({"protocol": "UDP"}, (UDP, 65535), (TCP, 80)),
        ({"port": 80, "endPort": 90}, (TCP, 80), (TCP, 79)),
        ({"port": 80, "endPort": 90}, (TCP, 90), (TCP, 91)),
        ({}, (TCP, 1), (UDP, 1)),
    ],
)
def test_point_09_ports(port: dict[str, Any], allowed: tuple[int, int], denied: tuple[int, int]) -> None:
    """A missing port is all of them, of that protocol; ranges hold both of their ends."""
    within = cluster({"ingress": [{"ports": [port]}]})
    assert passes(within, protocol=allowed[0], port=allowed[1])
    assert not passes(within, protocol=denied[0], port=denied[1])


def test_point_10_a_name_is_the_selected_pods_for_ingress() -> None:
    """Each pod's own number, and no other pod's."""
    within = cluster({"ingress": [{"ports": [{"port": "http"}]}]})
    assert passes(within, API, WEB, 80)
    assert not passes(within, API, WEB, 81)
    assert passes(within, WEB, API, 81)
    assert not passes(within, WEB, API, 80)
    assert not passes(within, API, WEB, 80, UDP)
    block = cluster({"ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": "http"}]}]})
    assert passes(block, OUTSIDE, WEB, 80)
    assert not passes(block, OUTSIDE, WEB, 81)


def test_point_10_a_name_is_the_peers_for_egress() -> None:
    """To pods; to a block it means nothing, though a pod may be in it."""
    web: dict[str, Any] = {"podSelector": app("web")}
    within = cluster({**web, "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}]})
    assert passes(within, WEB, API, 81)
    assert passes(within, WEB, PROBE, 8080)
    assert not passes(within, WEB, PROBE, 81)
    assert not passes(within, WEB, TOOL, 80)
    anybody = cluster({**web, "egress": [{"ports": [{"port": "http"}]}]})
    assert passes(anybody, WEB, PROBE, 8080)
    assert not passes(anybody, WEB, OUTSIDE, 80)
    block = cluster({**web, "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": "http"}]}]})
    assert not passes(block, WEB, PROBE, 8080)


def test_point_10_two_containers_with_one_name_both_count() -> None:
    """As do those of init containers."""
    both = made("shop/two", "10.0.0.5", app="two", ports=(("http", 80), ("http", 90)))
    both["spec"]["initContainers"] = [{"ports": [{"name": "http", "containerPort": 100}]}]
    within = cluster({"ingress": [{"ports": [{"port": "http"}]}]}, extra=(both,))
    assert [passes(within, API, "10.0.0.5", number) for number in (80, 90, 100, 81)] == [True, True, True, False]


def test_point_11_sctp_is_not_tcp() -> None:
    """Nor the other way round."""
    within = cluster({"ingress": [{"ports": [{"protocol": "SCTP", "port": 80}]}]})
    assert passes(within, protocol=SCTP)
    assert not passes(within, protocol=TCP)


def test_point_12_icmp_passes_by_rules_without_ports_only() -> None:
    """All ports of TCP are no ICMP."""
    assert not passes(cluster({"ingress": [{"ports": [{}, {"protocol": "UDP"}]}]}), protocol=ICMP, port=0)
    assert passes(cluster({"ingress": [{"from": [{"podSelector": {}}]}]}), protocol=ICMP, port=0)


@pytest.mark.parametrize(("leaves", "enters"), [(False, False), (False, True), (True, False), (True, True)])
def test_point_13_both_sides_decide(leaves: bool, enters: bool) -> None:
    """An egress that allows does not end it, and the judgement tells which side denied."""
    within = cluster(
        {"podSelector": app("api"), "policyTypes": ["Egress"], "egress": [{}] if leaves else []},
        {"podSelector": app("web"), "ingress": [{}] if enters else []},
    )
    judgement = judge(within, Flow(ip_address(API), ip_address(WEB), TCP, 80))
    assert judgement.passes == (leaves and enters)
    assert judgement.egress == Side(
        "egress", "shop/api", ("shop/0",), (("shop/0", 0),) if leaves else (), "allow" if leaves else "deny"
    )
    assert judgement.ingress == Side(
        "ingress", "shop/web", ("shop/1",), (("shop/1", 0),) if enters else (), "allow" if enters else "deny"
    )


def test_point_14_pods_of_the_host_network_are_nobody() -> None:
    """Neither subject nor peer; a block reaches their address."""
    host = made("shop/host", NODE, app="host", spec={"hostNetwork": True}, status={"hostIP": NODE})
    within = cluster({"ingress": [{"from": [{"podSelector": {}}]}]}, extra=(host,))
    assert passes(within, API, NODE)
    assert not passes(within, NODE, WEB)
    block = cluster({"ingress": [{"from": [{"ipBlock": {"cidr": f"{NODE}/32"}}]}]}, extra=(host,))
    assert passes(block, NODE, WEB)
    # and one that claims the node's address without being in its network
    liar = made("shop/liar", NODE, app="host", status={"hostIP": NODE})
    assert passes(cluster({}, extra=(liar,)), OUTSIDE, NODE)


def test_point_15_a_node_reaches_its_own_pods_only() -> None:
    """What comes from another node is judged."""
    flow = Flow(ip_address(NODE), ip_address(WEB), TCP, 80)
    assert not judge(cluster({}), flow).passes
    assert judge(cluster({}), flow, frozenset((ip_address(NODE),))).passes


def test_point_16_a_pod_reaches_its_own_node_as_its_egress_says() -> None:
    """The exemption is the node's, not the pod's."""
    flow = Flow(ip_address(API), ip_address(NODE), TCP, 80)
    assert not judge(cluster({"policyTypes": ["Egress"]}), flow, frozenset((ip_address(NODE),))).passes


def test_point_17_a_pod_reaches_itself() -> None:
    """Through a Service, source and destination are one."""
    assert passes(cluster({"policyTypes": ["Ingress", "Egress"]}), API, API)


def test_point_21_an_address_is_the_younger_pods() -> None:
    """A finished pod has none, whatever its status still says; of two that run the one that was created last has it."""
    done = made("shop/done", "10.0.0.5", app="done", status={"phase": "Succeeded"})
    older, younger = made("shop/older", "10.0.0.6", app="api"), made("shop/younger", "10.0.0.6", app="none")
    younger["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z"
    older["metadata"]["uid"] = "z"
    spec = {"podSelector": app("web"), "ingress": [{"from": [{"podSelector": {}}]}]}
    within = cluster(spec, extra=(done,))
    assert not passes(within, "10.0.0.5")
    by_app = {"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("api")}]}]}
    assert passes(cluster(dict(by_app), extra=(older,)), "10.0.0.6")
    assert not passes(cluster(dict(by_app), extra=(younger, older)), "10.0.0.6")
    younger["status"] = {}
    younger["metadata"]["annotations"] = {"cni-py.dev/addresses": "10.0.0.6"}  # which anybody may write
    assert passes(cluster(dict(by_app), extra=(younger, older)), "10.0.0.6")


def test_point_23_each_family_by_itself() -> None:
    """All addresses of a pod count, and a block of IPv4 closes IPv6."""
    pods = cluster({"ingress": [{"from": [{"podSelector": app("api")}]}]})
    assert passes(pods, API6, WEB6)
    block = cluster({"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]})
    assert passes(block, API, WEB)
    assert not passes(block, API6, WEB6)


def test_a_namespace_of_which_nobody_has_told_has_its_name() -> None:
    """And no other label."""
    within = cluster(
        {"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "new"}}}]}]},
        extra=(made("new/pod", "10.0.0.5"),),
    )
    assert passes(within, "10.0.0.5")
    assert not passes(within, TOOL)


_AUDIT: dict[str, Any] = {"annotations": {"cni-py.dev/audit": "true"}}
_OPEN: dict[str, Any] = {"ingress": [{}]}


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([{"_metadata": _AUDIT}], "would deny"),
        ([{"_metadata": _AUDIT, **_OPEN}], "allow"),
        ([{"_metadata": _AUDIT}, {"_metadata": _AUDIT, **_OPEN}], "allow"),
        ([{}, {"_metadata": _AUDIT, **_OPEN}], "deny"),
        ([{"_metadata": _AUDIT}, dict(_OPEN)], "allow"),
        ([{"podSelector": app("api")}, {"_metadata": _AUDIT}], "would deny"),
        ([{"policyTypes": ["Egress"]}, {"_metadata": _AUDIT}], "deny"),
    ],
)
def test_audit(specs: list[dict[str, Any]], expected: str) -> None:
    """A policy in audit drops nothing, and opens nothing for a pod that others restrict in that direction."""
    within = cluster(*map(dict, specs))
    assert judge(within, Flow(ip_address(API), ip_address(WEB), TCP, 80)).verdict == expected


def test_a_namespace_in_audit() -> None:
    """All its policies are."""
    within = cluster({})
    spaces = {"shop": namespace({"metadata": {"name": "shop", **_AUDIT}})}
    judgement = judge(Cluster(within.pods, spaces, within.policies), Flow(ip_address(API), ip_address(WEB), TCP, 80))
    assert (judgement.verdict, judgement.ingress.policies) == ("would deny", ("shop/0",))


@given(st.data(), clusters())
def test_point_01_rules_only_add(data: st.DataObject, cluster: Cluster) -> None:
    """What passes when all of them are taken out passes with them."""
    flow = data.draw(flows(cluster))
    bare = {
        key: replace(one, ingress=one.ingress and (), egress=one.egress and ()) for key, one in cluster.policies.items()
    }
    if judge(replace(cluster, policies=bare), flow).passes:
        assert judge(cluster, flow).passes


@given(clusters())
def test_point_01_without_policies_everything_passes(cluster: Cluster) -> None:
    """Whatever the pods."""
    free = replace(cluster, policies={})
    assert {judge(free, flow).verdict for flow in all_flows(cluster)} == {"allow"}
