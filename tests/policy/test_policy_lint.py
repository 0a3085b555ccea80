"""What is probably not meant, and what a policy would change."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from policy.strategies import all_flows, clusters, policies

from cni_py.model.policy import TCP, Cluster, Flow, Policy
from cni_py.policy.lint import lint
from cni_py.policy.objects import namespace, pod, policy
from cni_py.policy.verdict import judge
from cni_py.policy.what_if import what_if

_HTTP = [{"ports": [{"name": "http", "containerPort": 80}]}]
_PODS = [
    pod({"metadata": {"namespace": "shop", "name": "web", "labels": {"app": "web"}}, "spec": {"containers": _HTTP}}),
    pod({"metadata": {"namespace": "shop", "name": "api", "labels": {"app": "api"}}, "status": {"podIP": "10.0.0.1"}}),
]
_CLUSTER = Cluster({one.key: one for one in _PODS}, {"shop": namespace({"metadata": {"name": "shop"}})}, {})
_WEB, _API, _DB = ({"podSelector": {"matchLabels": {"app": name}}} for name in ("web", "api", "db"))


@pytest.mark.parametrize(
    ("spec", "findings"),
    [
        ({"ingress": [{"from": [_API], "ports": [{"port": "http"}]}]}, []),
        ({**_DB}, ["it applies to no pod: none in namespace shop is app=db"]),
        ({"ingress": [{"ports": [{"port": 0}]}]}, ["spec.ingress[0].ports[0].port: 0 is no port, which is 1 to 65535"]),
        ({"ingress": [{"from": [_DB, _API]}]}, ["ingress rule 0: pods app=db in namespace shop: there are none now"]),
        (
            {"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}]},
            ["ingress rule 0: pods everything in namespaces a=b: there are none now"],
        ),
        (
            {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]}]},
            ["ingress rule 0: 10.0.0.0/24 holds addresses of pods, which change: they are better selected by labels"],
        ),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}, []),
        ({"ingress": [{"ports": [{"port": "dns"}]}]}, ["ingress rule 0: none of the pods has a port TCP dns"]),
        (
            {"ingress": [{"from": [_DB]}, {}]},
            [
                "ingress rule 0: pods app=db in namespace shop: there are none now",
                "ingress: rule 1 allows everything, the others do nothing",
            ],
        ),
        ({"policyTypes": ["Egress"]}, []),
        (
            {"policyTypes": ["Egress"], "egress": [{"to": [_API], "ports": [{"port": 80}]}]},
            ["egress: no rule has UDP 53, so these pods cannot ask for names"],
        ),
        ({"policyTypes": ["Egress"], "egress": [{"to": [_API]}]}, []),
        (
            {
                "policyTypes": ["Egress"],
                "egress": [
                    {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": "http"}]},
                    {"ports": [{"port": "http"}, {"protocol": "UDP", "port": 53}]},
                    {"to": [_API], "ports": [{"port": "http"}]},
                ],
            },
            [
                "egress rule 0: TCP http of an IP block, whose addresses give no names to ports, matches nothing",
                "egress rule 2: none of the pods has a port TCP http",
            ],
        ),
    ],
)
def test_findings(spec: dict[str, Any], findings: list[str]) -> None:
    """In words."""
    assert lint(_CLUSTER, policy({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec})) == tuple(findings)


def test_what_a_new_policy_would_cut() -> None:
    """A flow is told once, those that stay are not."""
    kept, cut = (Flow(ip_address(one), ip_address("10.0.0.1"), TCP, 80) for one in ("192.0.2.1", "192.0.2.2"))
    block = {"ipBlock": {"cidr": "192.0.2.1/32"}}
    one = policy({"metadata": {"namespace": "shop", "name": "p"}, "spec": {"ingress": [{"from": [block]}]}})
    [turned] = what_if(_CLUSTER, {one.key: one}, [kept, cut, cut])
    assert (turned.before.flow, turned.before.verdict, turned.after.verdict) == (cut, "allow", "deny")
    with_it = replace(_CLUSTER, policies={one.key: one})
    [back] = what_if(with_it, {one.key: None}, [kept, cut])
    assert (back.before.verdict, back.after.verdict) == ("deny", "allow")


@given(clusters(), policies())
def test_what_if_is_what_happens(cluster: Cluster, new: Policy) -> None:
    """Exactly those flows whose verdict is another; and every policy can be linted."""
    flows = all_flows(cluster, (80,))
    after = replace(cluster, policies={**cluster.policies, new.key: new})
    expected = [flow for flow in flows if judge(cluster, flow).verdict != judge(after, flow).verdict]
    assert [one.before.flow for one in what_if(cluster, {new.key: new}, flows)] == expected
    assert all(one.isprintable() for one in lint(cluster, new))
