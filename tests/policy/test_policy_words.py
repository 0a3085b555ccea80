"""Explanations for people and for programs."""

import json
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from policy.strategies import clusters, flows

from cni_py.model.policy import TCP, Cluster, Flow
from cni_py.policy.amendment import amendments
from cni_py.policy.explain import explain
from cni_py.policy.objects import pod, policy
from cni_py.policy.words import plain, text

API, WEB = map(ip_address, ("10.0.0.1", "10.0.0.2"))
FLOW = Flow(API, WEB, TCP, 80)


def cluster(*specs: dict[str, Any]) -> Cluster:
    """The pods shop/api and shop/web, and policies shop/0, shop/1, ... for all of shop."""
    pods = [
        pod({"metadata": {"namespace": "shop", "name": name, "labels": {"app": name}}, "status": {"podIP": str(ip)}})
        for name, ip in (("api", API), ("web", WEB))
    ]
    policies = [
        policy({"metadata": {"namespace": "shop", "name": str(at)}, "spec": spec}) for at, spec in enumerate(specs)
    ]
    return Cluster({one.key: one for one in pods}, {}, {one.key: one for one in policies})


def lines(within: Cluster) -> list[str]:
    """What is said of the flow."""
    explanation = explain(within, FLOW)
    return list(text(explanation, amendments(explanation)))


def test_a_flow_that_is_denied() -> None:
    """Who denies it, what each rule failed by, and what would allow it."""
    db: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "db"}}}
    rules = [
        {"from": [db], "ports": [{"port": 443}]},
        {"from": [db], "ports": [{"port": 80}]},
    ]
    audited: dict[str, Any] = {"ingress": [{}]}
    within = cluster({"ingress": rules}, {}, audited)
    within = replace(within, policies={**within.policies, "shop/2": replace(within.policies["shop/2"], audit=True)})
    assert lines(within) == [
        "deny: TCP 80 from 10.0.0.1 (pod shop/api) to 10.0.0.2 (pod shop/web)",
        "egress of shop/api: allow, as no policy restricts it",
        "ingress of shop/web: deny, as no rule of shop/0, shop/1 allows it",
        "  shop/0",
        "    rule 0: not from pods app=db in namespace shop, and not TCP 443",
        "    rule 1: not from pods app=db in namespace shop (the nearest miss)",
        "  shop/1: it has no rules",
        "  shop/2, in audit: others are in force",
        "    rule 0: allows it",
        "it would be allowed by `kubectl -n shop patch networkpolicy 0 --type=json -p ...`:",
        "to spec.ingress.1.from of shop/0 add",
        "  - podSelector:",
        "      matchLabels:",
        '        app: "api"',
    ]


def test_a_flow_that_is_allowed() -> None:
    """By which rules."""
    assert lines(cluster({"ingress": [{}]})) == [
        "allow: TCP 80 from 10.0.0.1 (pod shop/api) to 10.0.0.2 (pod shop/web)",
        "egress of shop/api: allow, as no policy restricts it",
        "ingress of shop/web: allow, by shop/0 rule 0",
        "  shop/0",
        "    rule 0: allows it",
    ]


def test_what_was_not_understood_is_told() -> None:
    """And of many peers some."""
    ports = {"ports": [{"port": 0}]}
    many = {"from": [{"ipBlock": {"cidr": f"192.0.2.{at}/32"}} for at in range(10)]}
    said = lines(cluster({"ingress": [ports, many]}))
    assert "    not understood: spec.ingress[0].ports[0].port: 0 is no port, which is 1 to 65535" in said
    assert "    rule 0: not anything that was understood" in said
    assert [one for one in said if "192.0.2.4/32 or 5 more" in one]


def test_a_terminal_is_safe() -> None:
    """What a selector holds is not obeyed, and short."""
    evil = {"podSelector": {"matchLabels": {"a\x1b[2J": "\u202e" + "x" * 10_000}}}
    said = lines(cluster({"ingress": [{"from": [evil]}]}))
    assert all(one.isascii() and one.isprintable() and len(one) < 400 for one in said)


@given(st.data(), clusters())
def test_every_explanation_can_be_told(data: st.DataObject, cluster: Cluster) -> None:
    """In words and as JSON."""
    explanation = explain(cluster, data.draw(flows(cluster)))
    found = amendments(explanation)
    assert next(text(explanation, found)).startswith(explanation.judgement.verdict)
    assert json.loads(json.dumps(plain(explanation, found)))["verdict"] == explanation.judgement.verdict
