"""Objects of the API, as JSON or YAML decode to: what is read, what is missing, and what is hostile."""

import json
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_py.model.errors import DecodeError
from cni_py.model.policy import (
    SCTP,
    TCP,
    UDP,
    IpBlock,
    NamedPort,
    Namespace,
    Pod,
    Pods,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
)
from cni_py.policy.objects import namespace, pod, policy

_ALL = Rule()
_NOTHING = Rule((), ())


def netpol(**spec: Any) -> dict[str, Any]:
    """A NetworkPolicy shop/web."""
    return {"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}


def peer(value: Any) -> Policy:
    """The policy with this one peer."""
    return policy(netpol(ingress=[{"from": [value]}]))


def equal(key: str, value: str) -> Selector:
    """One label."""
    return Selector((Requirement(key, "In", (value,)),))


def test_a_whole_policy() -> None:
    """Each field at its place."""
    document = netpol(
        podSelector={"matchLabels": {"app": "web"}},
        policyTypes=["Ingress", "Egress"],
        ingress=[
            {
                "from": [
                    {"podSelector": {"matchLabels": {"app": "api"}}, "namespaceSelector": {}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                ],
                "ports": [{"port": 80}, {"protocol": "UDP", "port": 8000, "endPort": 9000}, {"port": "http"}],
            }
        ],
        egress=[{}],
    )
    assert policy(document) == Policy(
        "shop",
        "web",
        equal("app", "web"),
        (
            Rule(
                (
                    Pods(Selector(), equal("app", "api")),
                    IpBlock(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)),
                ),
                (Port(TCP, 80, 80), Port(UDP, 8000, 9000), Port(TCP, name="http")),
            ),
        ),
        (_ALL,),
    )


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        ({"policyTypes": None, "ingress": None, "egress": None}, (), None),
        ({"policyTypes": []}, (), None),
        ({"egress": []}, (), None),
        ({"egress": [{}]}, (), (_ALL,)),
        ({"ingress": [{}], "egress": [{}]}, (_ALL,), (_ALL,)),
        ({"policyTypes": ["Egress"]}, None, ()),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, (), None),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Egress", "Ingress", "Egress"]}, (), ()),
    ],
)
def test_point_02_types_that_are_missing_are_defaulted(spec: dict[str, Any], ingress: Any, egress: Any) -> None:
    """As the API server does it; a list that is there wins over the sections."""
    value = policy(netpol(**spec))
    assert (value.ingress, value.egress, value.flaws) == (ingress, egress, ())


def test_point_02_a_protocol_that_is_missing_is_tcp() -> None:
    """Also where no port is given."""
    value = policy(netpol(ingress=[{"ports": [{}, {"protocol": None, "port": 1}]}]))
    assert value.ingress == (Rule(None, (Port(TCP), Port(TCP, 1, 1))),)


@pytest.mark.parametrize("spec", [{}, {"podSelector": None}, {"podSelector": {}}, {"podSelector": {"matchLabels": {}}}])
def test_point_03_an_empty_selector_is_all_pods(spec: dict[str, Any]) -> None:
    """And so is a missing one."""
    assert policy(netpol(**spec)).pods == Selector()


@pytest.mark.parametrize(
    ("ingress", "expected"),
    [
        (None, ()),
        ([], ()),
        ([{}], (_ALL,)),
        ([{"from": [], "ports": []}], (_ALL,)),
        ([{"from": None, "ports": None}], (_ALL,)),
        ([{"ports": [{"port": 80}]}], (Rule(None, (Port(TCP, 80, 80),)),)),
    ],
)
def test_point_04_what_is_empty_in_a_rule_is_everything(ingress: Any, expected: tuple[Rule, ...]) -> None:
    """But no rule allows nothing."""
    assert policy(netpol(ingress=ingress)).ingress == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"podSelector": {}}, (Pods("shop"),)),
        ({"podSelector": {"matchLabels": {"a": "b"}}}, (Pods("shop", equal("a", "b")),)),
        ({"namespaceSelector": {}}, (Pods(Selector()),)),
        ({"namespaceSelector": {}, "podSelector": None}, (Pods(Selector()),)),
        (
            {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchLabels": {"c": "d"}}},
            (Pods(equal("a", "b"), equal("c", "d")),),
        ),
        ({}, ()),
        ({"podSelector": None}, ()),
    ],
)
def test_point_06_fields_of_a_peer(value: Any, expected: tuple[Pods, ...]) -> None:
    """Nil is not empty; a peer without any field is nobody."""
    found = peer(value)
    assert found.ingress == (Rule(expected),)
    assert bool(found.flaws) == (not expected)


def test_point_06_one_item_is_and_two_are_or() -> None:
    """The trap of the list's dashes."""
    one: list[Any] = [{"podSelector": {}, "namespaceSelector": {}}]
    two: list[Any] = [{"podSelector": {}}, {"namespaceSelector": {}}]
    assert policy(netpol(egress=[{"to": one}])).egress == (Rule((Pods(Selector()),)),)
    assert policy(netpol(egress=[{"to": two}])).egress == (Rule((Pods("shop"), Pods(Selector()))),)


def test_point_07_selectors_in_other_words_are_equal() -> None:
    """Order, repetition, and the two ways to ask for one value."""
    words: list[Any] = [
        {"matchLabels": {"a": "x", "b": "y"}},
        {"matchLabels": {"b": "y"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "x"]}]},
        {
            "matchExpressions": [
                {"key": "b", "operator": "In", "values": ["y"]},
                {"key": "a", "operator": "In", "values": ["x"]},
                {"key": "b", "operator": "In", "values": ["y"]},
            ]
        },
    ]
    first, *others = [policy(netpol(podSelector=one)).pods for one in words]
    assert all(one == first for one in others)
    assert str(first) == "a=x,b=y"


def test_point_07_every_namespace_has_the_label_of_its_name() -> None:
    """Whatever a document says of it."""
    assert namespace({"metadata": {"name": "a"}}).labels == {"kubernetes.io/metadata.name": "a"}
    liar = namespace({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "b", "c": "d"}}})
    assert liar == Namespace("a", {"kubernetes.io/metadata.name": "a", "c": "d"})


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"cidr": "10.0.0.5/24"}, IpBlock(ip_network("10.0.0.0/24"))),
        ({"cidr": "fd00::5/64", "except": None}, IpBlock(ip_network("fd00::/64"))),
        (
            {"cidr": "10.0.0.0/8", "except": ["10.1.2.3/16", "10.0.0.0/24", "10.1.0.0/16"]},
            IpBlock(ip_network("10.0.0.0/8"), (ip_network("10.0.0.0/24"), ip_network("10.1.0.0/16"))),
        ),
        (
            {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]},
            IpBlock(ip_network("10.0.0.0/8"), (ip_network("10.0.0.0/8"),)),
        ),
    ],
)
def test_point_08_host_bits_are_masked(block: Any, expected: IpBlock) -> None:
    """And are no flaw, as the API passes them."""
    value = peer({"ipBlock": block})
    assert (value.ingress, value.flaws) == ((Rule((expected,)),), ())


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ({}, "ipBlock.cidr: null is no CIDR"),
        ({"cidr": "10.0.0.0"}, "ipBlock.cidr: '10.0.0.0' is no CIDR"),
        ({"cidr": "10.0.0.0/33"}, "is no CIDR"),
        ({"cidr": "10.0.0.0/255.0.0.0"}, "is no CIDR"),
        ({"cidr": "10.0.0.0/0.0.0.255"}, "is no CIDR"),
        ({"cidr": "010.0.0.0/8"}, "is no CIDR"),
        ({"cidr": "fe80::1%eth0/64"}, "is no CIDR"),
        ({"cidr": "::ffff:10.0.0.0/104"}, "is IPv4 written as IPv6"),
        ({"cidr": 10}, "10 is no CIDR"),
        ({"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}, "is no list"),
        ({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "junk"]}, "except[1]: 'junk' is no CIDR"),
        ({"cidr": "10.0.0.0/8", "except": [None]}, "except[0]: null is no CIDR"),
        ({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}, "11.0.0.0/16 is not within 10.0.0.0/8"),
        ({"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}, "is not within"),
        ({"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}, "is not within"),
        ({"cidr": "10.0.0.0/8", "excepts": []}, "the field 'excepts' is not known"),
        (None, "it has no field"),
        ([], "a list is no object"),
    ],
)
def test_point_08_a_block_that_is_not_understood_matches_nothing(block: Any, why: str) -> None:
    """Nor does one of whose exceptions nobody knows what they are."""
    value = peer({"ipBlock": block})
    assert value.ingress == (Rule(()),)
    [flaw] = value.flaws
    assert why in flaw
    assert flaw.startswith("spec.ingress[0].from[0]")


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80}, Port(TCP, 80, 80)),
        ({"port": 80, "endPort": 80}, Port(TCP, 80, 80)),
        ({"port": 1, "endPort": 65535}, Port(TCP, 1, 65535)),
        ({"protocol": "UDP"}, Port(UDP)),
        ({"protocol": "SCTP", "port": 80}, Port(SCTP, 80, 80)),
        ({"port": "http-2"}, Port(TCP, name="http-2")),
    ],
)
def test_point_09_ports(port: Any, expected: Port) -> None:
    """A missing port is all of them."""
    value = policy(netpol(ingress=[{"ports": [port]}]))
    assert (value.ingress, value.flaws) == ((Rule(None, (expected,)),), ())


@pytest.mark.parametrize(
    ("port", "why"),
    [
        ({"port": 90, "endPort": 80}, "the endPort 80 is below the port 90"),
        ({"port": "http", "endPort": 80}, "an endPort is for a port that is a number"),
        ({"endPort": 80}, "an endPort is for a port that is a number"),
        ({"port": 80, "endPort": "90"}, "'90' is no port"),
        ({"port": 0}, "0 is no port"),
        ({"port": 65536}, "65536 is no port"),
        ({"port": -1}, "-1 is no port"),
        ({"port": 80, "endPort": 70000}, "70000 is no port"),
        ({"port": True}, "true is no port"),
        ({"port": 80.5}, "80.5 is no port"),
        ({"port": 10**6000}, "a huge number is no port"),
        ({"port": "80"}, "'80' is no name of a port"),
        ({"port": ""}, "'' is no name of a port"),
        ({"port": "HTTP"}, "is no name of a port"),
        ({"port": "sixteen-letters-"}, "is no name of a port"),
        ({"port": "a--b"}, "is no name of a port"),
        ({"protocol": "tcp"}, "'tcp' is none of TCP, UDP, SCTP"),
        ({"protocol": "ICMP"}, "'ICMP' is none of"),
        ({"protocol": 6}, "6 is none of"),
        ({"protocol": []}, "a list is none of"),
        ({"port": 80, "new": 1}, "the field 'new' is not known"),
        (None, "null is no object"),
        ("http", "'http' is no object"),
    ],
)
def test_point_09_a_port_that_is_not_understood_matches_nothing(port: Any, why: str) -> None:
    """The others of its rule do as before."""
    value = policy(netpol(ingress=[{"ports": [port, {"port": 443}]}, {"ports": [port]}]))
    assert value.ingress == (Rule(None, (Port(TCP, 443, 443),)), Rule(None, ()))
    assert [why in one for one in value.flaws] == [True, True]
    assert value.flaws[1].startswith("spec.ingress[1].ports[0]")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"podSelector": {}, "new": {}}, "the field 'new' is not known"),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, "an ipBlock stands alone"),
        ({"podSelector": {"matchLabel": {"a": "b"}}}, "the field 'matchLabel' is not known"),
        ({"podSelector": {"matchLabels": {"a": 1}}}, "is no text"),
        ({"podSelector": {"matchLabels": ["a"]}}, "a list is no object"),
        ({"podSelector": {"matchLabels": {1: "a"}}}, "1 is no text"),
        ({"podSelector": {"matchExpressions": {}}}, "an object is no list"),
        ({"podSelector": {"matchExpressions": [None]}}, "key: null is no text"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}, "'Gt' is none of"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": []}]}}, "a list is none of"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "In needs values"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]}},
            "NotIn needs values",
        ),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}, "Exists has no"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "x": 1}]}}, "'x' is not known"),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": [1]}]}}, "1 is no text"),
        ({"namespaceSelector": 5, "podSelector": {}}, "5 is no object"),
        (None, "null is no object"),
        ("everybody", "'everybody' is no object"),
    ],
)
def test_a_peer_that_is_not_understood_matches_nothing(value: Any, why: str) -> None:
    """The others of its rule do as before."""
    found = policy(netpol(egress=[{"to": [value, {"namespaceSelector": {}}]}, {"to": [value]}]))
    assert found.egress == (Rule((Pods(Selector()),)), Rule(()))
    assert [why in one for one in found.flaws] == [True, True]
    assert found.flaws[0].startswith("spec.egress[0].to[0]")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, _NOTHING),
        ("all", _NOTHING),
        ([], _NOTHING),
        ({"to": []}, _NOTHING),
        ({"new": 1}, _NOTHING),
        ({"new": None}, _ALL),
        ({"from": {}}, Rule((), None)),
        ({"ports": "80"}, Rule(None, ())),
    ],
)
def test_a_rule_that_is_not_understood_matches_nothing(rule: Any, expected: Rule) -> None:
    """Null is no empty rule; a field of the other direction is not known."""
    value = policy(netpol(ingress=[rule, {"ports": [{"port": 80}]}]))
    assert value.ingress == (expected, Rule(None, (Port(TCP, 80, 80),)))
    assert bool(value.flaws) == (expected != _ALL)


@pytest.mark.parametrize(
    ("types", "ingress", "egress"),
    [
        (["Ingress", "egress"], (_ALL,), ()),
        (["Egress", None], (), (_ALL,)),
        (["Everything"], (), ()),
        ("Ingress", (), ()),
        ({}, (), ()),
        (False, (), ()),
        ([["Ingress"]], (), ()),
    ],
)
def test_a_type_that_is_not_understood_closes(types: Any, ingress: Any, egress: Any) -> None:
    """A direction that may or may not have been meant is closed and has no rules: they could open it for others."""
    value = policy(netpol(policyTypes=types, ingress=[{}], egress=[{}]))
    assert (value.ingress, value.egress) == (ingress, egress)
    assert "all are isolated" in value.flaws[0]


@pytest.mark.parametrize(
    ("spec", "egress"), [({"ingress": "all"}, None), ({"egress": {}}, ()), ({"new": 1}, None)], ids=str
)
def test_a_spec_that_is_not_understood(spec: dict[str, Any], egress: Any) -> None:
    """A section that is no list allows nothing; a field of a newer API is told."""
    value = policy(netpol(**spec))
    assert (value.ingress, value.egress, len(value.flaws)) == ((), egress, 1)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "policy",
        {},
        {"metadata": []},
        {"metadata": {"name": None}},
        {"metadata": {"name": ""}},
        {"metadata": {"name": 5}},
        {"metadata": {"name": "a b"}},
        {"metadata": {"name": "a\n"}},
        {"metadata": {"name": "a/b"}},
        {"metadata": {"name": "a" * 254}},
        {"metadata": {"name": "\u0661"}},
        {"metadata": {"name": "a", "namespace": 5}},
        {"metadata": {"name": "a", "namespace": ".."}},
        {"metadata": {"name": "a"}, "spec": []},
        {"metadata": {"name": "a"}, "spec": {"podSelector": []}},
        {"metadata": {"name": "a"}, "spec": {"podSelector": {"new": 1}}},
        {"metadata": {"name": "a"}, "spec": {"podSelector": {"matchLabels": {"a": None}}}},
    ],
)
def test_a_policy_of_nobody_knows_whom(document: Any) -> None:
    """Is refused in one short line."""
    with pytest.raises(DecodeError) as caught:
        policy(document)
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()


def test_names_may_be_anything_that_is_a_name() -> None:
    """The words of nft, and the longest that there are."""
    for name in ("drop", "table", "0", "a" * 253, "a.b-c"):
        assert policy({"metadata": {"name": name, "namespace": "accept"}}).key == f"accept/{name}"


def test_what_has_no_namespace_is_in_default() -> None:
    """As kubectl does with files."""
    assert (policy({"metadata": {"name": "a"}}).key, pod({"metadata": {"name": "a"}}).key) == ("default/a",) * 2


@pytest.mark.parametrize(
    ("annotations", "audit", "flawed"),
    [
        (None, False, False),
        ({"cni-py.dev/audit": "true"}, True, False),
        ({"cni-py.dev/audit": "false"}, False, False),
        ({"cni-py.dev/audit": "yes"}, False, True),
        ({"cni-py.dev/audit": True}, False, True),
        ([], False, True),
    ],
)
def test_audit_is_the_word_true(annotations: Any, audit: bool, flawed: bool) -> None:
    """Anything else leaves the policy in force."""
    document = {"metadata": {"name": "a", "annotations": annotations}}
    value = policy(document)
    assert (value.audit, bool(value.flaws)) == (audit, flawed)
    assert namespace(document).audit == audit


def test_a_text_of_a_mebibyte_is_not_told() -> None:
    """Nor are ten thousand flaws."""
    long = "x" * (1 << 20)
    value = policy(
        netpol(ingress=[{"from": [{"ipBlock": {"cidr": long}}, {long: 1}, {"podSelector": {long: 1}}] * 4000}])
    )
    assert len(value.flaws) == 21
    assert value.flaws[-1] == "and 11980 more"
    assert max(map(len, value.flaws)) < 250


def test_ten_thousand_peers() -> None:
    """All of them count."""
    peers = [{"ipBlock": {"cidr": f"10.{one >> 8}.{one & 255}.0/24"}} for one in range(10_000)]
    [rule] = policy(netpol(ingress=[{"from": peers}])).ingress or ()
    assert len(rule.peers or ()) == 10_000


def running(**more: Any) -> dict[str, Any]:
    """A pod shop/web-1 that runs."""
    return {
        "metadata": {"namespace": "shop", "name": "web-1", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], **more},
    }


def test_a_whole_pod() -> None:
    """Each field at its place."""
    document = running(hostIP="192.0.2.1", hostIPs=[{"ip": "192.0.2.1"}])
    document["metadata"]["labels"] = {"app": "web"}
    document["spec"]["containers"] = [{"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 1}]}]
    assert pod(document) == Pod(
        "u1",
        "shop",
        "web-1",
        {"app": "web"},
        (ip_address("10.0.0.1"), ip_address("fd00::1")),
        (NamedPort("http", TCP, 8080),),
        "n1",
        "2026-01-01T00:00:00Z",
    )


def test_point_10_ports_of_all_containers() -> None:
    """Init and sidecar containers' too; two with one name both count."""
    document = running()
    document["spec"]["containers"] = [
        {"ports": [{"name": "http", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
        {"ports": [{"name": "http", "containerPort": 81}]},
        {},
        {"ports": None},
    ]
    document["spec"]["initContainers"] = [
        {"restartPolicy": "Always", "ports": [{"name": "admin", "containerPort": 15}]}
    ]
    assert pod(document).ports == (
        NamedPort("admin", TCP, 15),
        NamedPort("dns", UDP, 53),
        NamedPort("http", TCP, 80),
        NamedPort("http", TCP, 81),
    )


def test_point_14_a_pod_of_the_host_network_has_no_address() -> None:
    """Nor has one whose address is the node's."""
    document = running()
    document["spec"]["hostNetwork"] = True
    value = pod(document)
    assert (value.addresses, value.host_network) == ((), True)
    assert pod(running(hostIP="10.0.0.1")).addresses == (ip_address("fd00::1"),)
    assert pod(running(hostIPs=[{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])).addresses == ()


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_point_21_a_finished_pod_has_no_address(phase: str) -> None:
    """It may be another's already."""
    value = pod(running(phase=phase))
    assert (value.addresses, value.finished) == ((), True)


def test_point_21_a_terminating_pod_keeps_its_address() -> None:
    """It still talks."""
    document = running()
    document["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert len(pod(document).addresses) == 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}], "podIP": "fd00::1"}, ["fd00::1", "10.0.0.1"]),
        ({"podIP": "10.0.0.1"}, ["10.0.0.1"]),
        ({"podIPs": [], "podIP": ""}, ["10.9.9.9", "fd09::9"]),
        ({}, ["10.9.9.9", "fd09::9"]),
        (None, ["10.9.9.9", "fd09::9"]),
    ],
)
def test_point_23_all_addresses_count(status: Any, expected: list[str]) -> None:
    """Of both families; what the node's agent announced counts until the kubelet has reported."""
    document = {
        "metadata": {"name": "a", "annotations": {"cni-py.dev/addresses": "10.9.9.9, fd09::9"}},
        "status": status,
    }
    value = pod(document)
    assert value.addresses == tuple(map(ip_address, expected))
    assert value.announced == ("10.9.9.9" in expected)


@pytest.mark.parametrize(
    "ip",
    [
        "junk",
        5,
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "::",
        "::1",
        "ff02::1",
        "fe80::1%e",
        "::ffff:10.0.0.2",
        "x" * 9999,
        "10.0.0.0/8",
    ],
)
def test_an_address_that_no_pod_has(ip: Any) -> None:
    """Is told and does not count, the others do."""
    value = pod({"metadata": {"name": "a"}, "status": {"podIPs": [{"ip": ip}, {"ip": "10.0.0.1"}]}})
    assert value.addresses == (ip_address("10.0.0.1"),)
    [flaw] = value.flaws
    assert "is no address of a pod" in flaw
    assert len(flaw) < 200


@pytest.mark.parametrize(
    "document",
    [
        None,
        {"metadata": {"name": "a", "labels": []}},
        {"metadata": {"name": "a", "labels": {"a": 1}}},
        {"metadata": {"name": "a"}, "spec": []},
        {"metadata": {"name": "a"}, "spec": {"hostNetwork": "true"}},
        {"metadata": {"name": "a"}, "status": 5},
        {"metadata": {"name": "a"}, "status": {"phase": []}},
        {"metadata": {"name": "a", "uid": 5}},
    ],
)
def test_a_pod_that_is_not_understood(document: Any) -> None:
    """Is refused in one short line."""
    with pytest.raises(DecodeError):
        pod(document)


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": {}},
        {"containers": [[]]},
        {"containers": [{"ports": 5}]},
        {"containers": [{"ports": [5]}]},
        {"containers": [{"ports": [{"name": "http", "containerPort": 0}]}]},
        {"containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "tcp"}]}]},
        {"containers": [{"ports": [{"name": "UPPER", "containerPort": 80}]}]},
    ],
)
def test_a_port_that_no_container_has(spec: Any) -> None:
    """Is told and does not count."""
    value = pod({"metadata": {"name": "a"}, "spec": spec})
    assert (value.ports, len(value.flaws)) == ((), 1)


def test_equal_labels_and_ports_are_shared() -> None:
    """Ten thousand pods of one deployment have one mapping and one tuple."""
    document = json.dumps({**running(), "metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}}})
    one, other = pod(json.loads(document)), pod(json.loads(document))
    assert one.labels is other.labels
    assert one.ports is other.ports
    assert sys.intern(one.namespace) is one.namespace


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = (
    "podSelector",
    "namespaceSelector",
    "ipBlock",
    "matchLabels",
    "matchExpressions",
    "from",
    "to",
    "ports",
    "port",
    "cidr",
)
_FIELDS_MORE = (
    "except",
    "policyTypes",
    "ingress",
    "egress",
    "labels",
    "podIPs",
    "containers",
    "ip",
    "hostNetwork",
    "phase",
)
_SHAPED = st.recursive(
    _JSON,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS + _FIELDS_MORE), inner, max_size=4)
    ),
    max_leaves=12,
)


def complaints(read: Callable[[object], Any], document: object) -> Sequence[str]:
    """What is said of a document."""
    try:
        return getattr(read(document), "flaws", ())
    except DecodeError as error:
        return [error.message]


@given(_SHAPED, _SHAPED, _SHAPED)
def test_nothing_but_a_decode_error(metadata: Any, spec: Any, status: Any) -> None:
    """Whatever is in a document, and that and the flaws can be shown."""
    named = {**metadata, "name": "a"} if isinstance(metadata, dict) else {"name": "a"}
    for read in (policy, namespace, pod):
        for document in (spec, {"metadata": metadata}, {"metadata": named, "spec": spec, "status": status}):
            assert all(one.isprintable() and len(one) < 1000 for one in complaints(read, document))
