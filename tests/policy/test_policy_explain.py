"""Why a flow is denied, and what would allow it."""

import json
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from policy.documents import document, patched
from policy.strategies import all_flows, clusters, flows

from cni_py.model.policy import ICMP, TCP, UDP, Cluster, Flow
from cni_py.policy.amendment import amendments
from cni_py.policy.explain import explain
from cni_py.policy.objects import namespace, pod, policy
from cni_py.policy.verdict import judge

API, WEB, OTHER, OUTSIDE = map(ip_address, ("10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1"))


def cluster(*specs: dict[str, Any]) -> Cluster:
    """The pods shop/api, shop/web and ops/other, and policies shop/0, shop/1, ... that select shop/web."""
    pods = [
        pod({"metadata": {"namespace": space, "name": name, "labels": labels}, "status": {"podIP": str(ip)}})
        for space, name, ip, labels in (
            ("shop", "api", API, {"app": "api", "tier": "back", "pod-template-hash": "5d4f"}),
            ("shop", "web", WEB, {"app": "web"}),
            ("ops", "other", OTHER, {}),
        )
    ]
    spaces = [namespace({"metadata": {"name": name}}) for name in ("shop", "ops")]
    web = {"podSelector": {"matchLabels": {"app": "web"}}}
    policies = [
        policy({"metadata": {"namespace": "shop", "name": str(at)}, "spec": {**web, **spec}})
        for at, spec in enumerate(specs)
    ]
    return Cluster(
        {one.key: one for one in pods}, {one.name: one for one in spaces}, {one.key: one for one in policies}
    )


def app(*names: str) -> dict[str, Any]:
    """A peer."""
    return {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": list(names)}]}}


def test_each_rule_tells_which_of_its_terms_failed() -> None:
    """Peer, port, both or none."""
    within = cluster(
        {
            "ingress": [
                {"from": [app("api")], "ports": [{"port": 443}]},
                {"from": [app("db")], "ports": [{"port": 80}]},
                {"from": [app("db")], "ports": [{"port": 443}]},
            ]
        },
        {"ingress": []},
    )
    half = explain(within, Flow(API, WEB, TCP, 80)).ingress
    assert [one.policy.key for one in half.candidates] == ["shop/0", "shop/1"]
    assert [one.failed for one in half.candidates[0].fits] == [("port",), ("peer",), ("peer", "port")]
    assert (half.subject, half.peer) == (within.pods["shop/web"], within.pods["shop/api"])
    allowed = explain(within, Flow(API, WEB, TCP, 443)).ingress
    assert [one.failed for one in allowed.candidates[0].fits] == [(), ("peer", "port"), ("peer",)]
    assert allowed.nearest is None


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ([{"from": [app("db")]}, {"from": [app("api")], "ports": [{"port": 443}]}], 1),
        ([{"from": [{"ipBlock": {"cidr": "11.0.0.0/8"}}]}, {"from": [app("db")]}], 1),
        ([{"from": [app("db")], "ports": [{"port": 443}]}, {"from": [app("db")]}], 1),
        (
            [
                {"from": [{"podSelector": {"matchLabels": {"app": "db", "tier": "front"}}}]},
                {"from": [{"podSelector": {"matchLabels": {"app": "db", "tier": "back"}}}]},
            ],
            1,
        ),
    ],
    ids=["a port rather than a peer", "a label rather than a block", "one term rather than two", "one label of two"],
)
def test_the_nearest_miss(rules: list[dict[str, Any]], place: int) -> None:
    """Is the rule that failed by least."""
    nearest = explain(cluster({"ingress": rules}), Flow(API, WEB, TCP, 80)).ingress.nearest
    assert nearest is not None
    assert nearest.place == place


@pytest.mark.parametrize(
    ("spec", "flow", "path", "value"),
    [
        (
            {"ingress": [{"from": [app("api")], "ports": [{"port": 443}]}]},
            Flow(API, WEB, TCP, 80),
            "/spec/ingress/0/ports/-",
            {"protocol": "TCP", "port": 80},
        ),
        (
            {"ingress": [{"from": [app("db")], "ports": [{"port": 80}]}]},
            Flow(API, WEB, TCP, 80),
            "/spec/ingress/0/from/-",
            {"podSelector": {"matchLabels": {"app": "api", "tier": "back"}}},
        ),
        (
            {"ingress": [{"from": [app("api"), app("db")], "ports": [{"port": 443}]}]},
            Flow(API, WEB, UDP, 53),
            "/spec/ingress/-",
            {
                "from": [{"podSelector": {"matchLabels": {"app": "api", "tier": "back"}}}],
                "ports": [{"protocol": "UDP", "port": 53}],
            },
        ),
        (
            {},
            Flow(OTHER, WEB, ICMP),
            "/spec/ingress",
            [
                {
                    "from": [
                        {
                            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}},
                            "podSelector": {},
                        }
                    ]
                }
            ],
        ),
        (
            {"policyTypes": ["Egress"]},
            Flow(WEB, OUTSIDE, TCP, 443),
            "/spec/egress",
            [{"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [{"protocol": "TCP", "port": 443}]}],
        ),
    ],
    ids=["a port", "a peer", "a rule, as others have that peer's port", "the first rule", "outside"],
)
def test_what_would_allow_it(spec: dict[str, Any], flow: Flow, path: str, value: Any) -> None:
    """The least that does; no label that the next rollout changes is in it."""
    within = cluster(spec)
    [found] = amendments(explain(within, flow))
    assert json.loads(found.patch()) == [{"op": "add", "path": path, "value": value}]


def test_an_amendment_in_words() -> None:
    """As YAML, at its place."""
    within = cluster({})
    [found] = amendments(explain(within, Flow(OTHER, WEB, TCP, 80)))
    assert found.text().splitlines() == [
        "to spec.ingress of shop/0 add",
        "  - from:",
        "      - namespaceSelector:",
        "          matchLabels:",
        '            kubernetes.io/metadata.name: "ops"',
        "        podSelector: {}",
        "    ports:",
        '      - protocol: "TCP"',
        "        port: 80",
    ]


def test_a_policy_with_flaws_is_neither_near_nor_amended() -> None:
    """It is mended first."""
    within = cluster({"ingress": [{"from": [app("api")], "ports": [{"port": -1}]}]})
    explanation = explain(within, Flow(API, WEB, TCP, 80))
    assert (explanation.judgement.verdict, explanation.ingress.nearest) == ("deny", None)
    assert amendments(explanation) == ()


def test_what_is_in_audit_beside_others_does_not_count() -> None:
    """It is a candidate all the same."""
    within = cluster({}, {"ingress": [{}]})
    audited = {**within.policies, "shop/1": replace(within.policies["shop/1"], audit=True)}
    half = explain(replace(within, policies=audited), Flow(API, WEB, TCP, 80)).ingress
    assert [(one.audit, one.counts) for one in half.candidates] == [(False, True), (True, False)]
    assert half.nearest is None


@given(st.data(), clusters())
def test_policies_are_read_back_from_their_documents(data: st.DataObject, cluster: Cluster) -> None:
    """All that is judged of them; one that restricts no direction has no document."""
    written = {key: one for key, one in cluster.policies.items() if (one.ingress, one.egress) != (None, None)}
    again = {key: policy(document(one)) for key, one in written.items()}
    flow = data.draw(flows(cluster))
    assert judge(replace(cluster, policies=again), flow) == judge(replace(cluster, policies=written), flow)


@given(clusters())
def test_the_terms_agree_with_the_verdict(cluster: Cluster) -> None:
    """A rule allows exactly if none of its terms failed."""
    for flow in all_flows(cluster, (80,)):
        explanation = explain(cluster, flow)
        for half in (explanation.egress, explanation.ingress):
            fits = [fit for one in half.candidates if one.counts for fit in one.fits]
            assert tuple((one.policy.key, one.place) for one in fits if not one.failed) == half.side.allowed_by


@given(st.data(), clusters())
def test_amended_policies_allow(data: st.DataObject, cluster: Cluster) -> None:
    """The patches are applied to the documents, and then the flow passes, and not by an audit's leave."""
    documents = {key: document(one) for key, one in cluster.policies.items()}
    read = replace(cluster, policies={key: policy(one) for key, one in documents.items()})
    denied = [one for one in all_flows(read) if judge(read, one).verdict != "allow"]
    assume(denied)
    flow = data.draw(st.sampled_from(denied))
    found = amendments(explain(read, flow))
    for one in found:
        patched(documents[f"{one.namespace}/{one.name}"], one.path, json.loads(one.patch())[0]["value"])
        assert one.text().isascii()
    after = replace(read, policies={key: policy(one) for key, one in documents.items()})
    explanation = explain(read, flow)
    hopeless = [
        half.side.direction
        for half in (explanation.egress, explanation.ingress)
        if half.side.verdict != "allow" and all(one.policy.flaws for one in half.candidates if one.counts)
    ]
    sides = {one.direction: one for one in (judge(after, flow).egress, judge(after, flow).ingress)}
    assert [one.direction for one in sides.values() if one.verdict != "allow"] == hopeless
