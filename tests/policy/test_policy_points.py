"""The 27 points of NetworkPolicy's semantics, each by real packets through the role policy on a node with nine pods.

Pod k of the lab is shop/pk with the label that a test gives it; `enforced` says what the API would, in its own words,
and `only` compares the whole matrix of flows with what the point says: TCP, UDP, SCTP and ICMP, IPv4 and IPv6.
"""

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import bridged
from policy import test_policy_agent as agents
from policy.policy_lab import NUMBERS, Lab, address, lab
from policy.test_policies import CIDRS, PATIENCE_S, MemorySource, attached, connect, eventually, passes, pod, running

from cni_py.agent.policies import Policies
from cni_py.kernel import netns
from cni_py.kernel.local_addresses import local_addresses
from cni_py.model.policy import ICMP, ICMPV6, SCTP, TCP, UDP, Changes, Flow, NamedPort, Namespace, Pod, Policy
from cni_py.policy import objects
from cni_py.policy.index import Index
from cni_py.policy.program import Program

ABSENT_S = 0.3
PINGS = (ICMP, ICMPV6)
WEB: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "web"}}}
CLOSED: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
OUTSIDE = {4: ("192.0.2.1", "192.0.2.2", "192.0.2.3"), 6: ("2001:db8::1", "2001:db8::2", "2001:db8::3")}
SERVICE = {4: "10.96.0.1", 6: "fd96::1"}


def enforced(spec: Mapping[str, Any], name: str = "one", namespace: str = "shop") -> Policy:
    """The policy of a document."""
    made = objects.policy({"metadata": {"namespace": namespace, "name": name}, "spec": dict(spec)})
    assert not made.flaws
    return made


def app(name: str) -> dict[str, Any]:
    """The pods of an app as a peer."""
    return {"podSelector": {"matchLabels": {"app": name}}}


def block(cidr: str, *excepts: str) -> dict[str, Any]:
    """Addresses as a peer."""
    return {"ipBlock": {"cidr": cidr, "except": list(excepts)}}


def tcp(port: int | str, **more: int) -> dict[str, Any]:
    """A port of TCP, which is what is meant where nothing is said."""
    return {"port": port, **more}


def pods(apps: Mapping[int, str]) -> list[Pod]:
    """All nine, with these apps; the others have none."""
    return [pod(number, apps.get(number, "")) for number in NUMBERS]


def ends(flow: Flow) -> tuple[int, int]:
    """The numbers of the two pods."""
    return int(flow.source) & 0xFF, int(flow.destination) & 0xFF


def only(place: Lab, passing: Callable[[Flow, int, int], bool]) -> None:
    """What arrives is just that: asked of the flow and of the numbers of its two pods."""
    wanted = {flow for flow in place.flows() if passing(flow, *ends(flow))}
    arrived = place.matrix(wanted)
    assert arrived == wanted, sorted(map(str, arrived ^ wanted))[:5]


def connects(fd: int, to: tuple[str, int], source: str = "", *, patience: float = PATIENCE_S) -> bool:
    """A TCP connection comes about from that namespace, and address. False if nothing at all comes back."""
    with netns.entered(fd):
        client = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
    with client:
        client.settimeout(patience)
        if source:
            client.bind((source, 0))
        try:
            client.connect(to)
        except TimeoutError:
            return False
    return True


def is_denied(fd: int, to: tuple[str, int], source: str = "") -> bool:
    """Nothing comes back, not even a refusal."""
    return not connects(fd, to, source, patience=ABSENT_S)


def nft(text: str) -> None:
    """Somebody else's rules."""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def service(pod_number: int, port: int = 80) -> None:
    """TCP 80 of the Service's addresses is that port of the pod, as kube-proxy does it, hairpins masqueraded."""
    four, six = address(pod_number, 4), address(pod_number, 6)
    nft(f"""
table ip services {{
    chain before {{
        type nat hook prerouting priority dstnat
        ip daddr {SERVICE[4]} tcp dport 80 dnat to {four}:{port}
    }}
    chain after {{
        type nat hook postrouting priority srcnat
        ip saddr {four} ip daddr {four} snat to 10.99.0.1
    }}
}}
table ip6 services {{
    chain before {{
        type nat hook prerouting priority dstnat
        ip6 daddr {SERVICE[6]} tcp dport 80 dnat to [{six}]:{port}
    }}
    chain after {{
        type nat hook postrouting priority srcnat
        ip6 saddr {six} ip6 daddr {six} snat to fd99::1
    }}
}}
""")


@pytest.fixture
def place() -> Iterator[Lab]:
    """A node with nine pods."""
    with lab() as made:
        yield made


@pytest.fixture
def here(place: Lab) -> Iterator[int]:
    """The node's own namespace."""
    assert place.pods
    fd = netns.open_own()
    yield fd
    os.close(fd)


@pytest.fixture
def outside(place: Lab) -> Iterator[int]:
    """The namespace of another machine, with two addresses of each version; it gets to the pods by the node."""
    assert place.pods
    subprocess.run(["ip", "netns", "add", "outside"], check=True)
    theirs = "link set eth0 up\n"
    ours = "link add out type veth peer name eth0 netns outside\nlink set out up\n"
    for version, length in ((4, 24), (6, 64)):
        node, *addresses = OUTSIDE[version]
        ours += f"addr add {node}/{length} dev out nodad\n"
        theirs += "".join(f"addr add {one}/{length} dev eth0 nodad\n" for one in addresses)
        theirs += f"route add default via {node}\n"
    for options, batch in ((), ours), (("-n", "outside"), theirs):
        subprocess.run(["ip", *options, "-batch", "-"], input=batch, text=True, check=True)
    fd = netns.open_path("/run/netns/outside")
    yield fd
    os.close(fd)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[agents.Setup]:
    """A node without anything, for agents of its own."""
    made = agents.Setup(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)


@contextmanager
def unguarded() -> Iterator[MemorySource]:
    """The role where policies say nothing about a pod's own node."""
    source = MemorySource()
    one = Policies("n1", CIDRS, source, local_addresses, lambda _what, _number: None, guards_node=False)
    one.start(())
    try:
        yield source
    finally:
        one.stop()


@pytest.mark.sudo
def test_point_01_directions_are_apart(place: Lab) -> None:
    """A pod is isolated in the directions that its policies list; policies only add to what passes."""
    with running() as (_, source, _):
        source.say(*pods({1: "web"}))
        only(place, lambda _flow, _src, _dst: True)
        source.say(enforced(WEB))
        only(place, lambda _flow, _src, dst: dst != 1)
        source.say(enforced({**WEB, "policyTypes": ["Egress"]}))
        only(place, lambda _flow, src, _dst: src != 1)
        source.say(enforced({**WEB, "egress": [{"to": [block("10.0.0.2/32")]}]}, "two"))
        only(place, lambda flow, src, dst: (src != 1 or (dst == 2 and flow.source.version == 4)) and dst != 1)


@pytest.mark.sudo
def test_point_02_defaults_of_types(place: Lab) -> None:
    """No rules of egress and no types isolate ingress alone; a type that is listed alone makes other rules inert."""
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), enforced({**WEB, "egress": []}))
        only(place, lambda _flow, _src, dst: dst != 1)
        source.say(enforced({**WEB, "policyTypes": ["Egress"], "ingress": [{"from": [app("nobody")]}]}))
        only(place, lambda _flow, src, _dst: src != 1)


@pytest.mark.sudo
def test_point_03_empty_selector_is_the_namespace(place: Lab) -> None:
    """All pods of the policy's own namespace, and none of another."""
    others = [replace(pod(number), namespace="ops") for number in (8, 9)]
    with running() as (_, source, _):
        source.say(*(pod(number) for number in range(1, 8)), *others, enforced({"podSelector": {}}))
        only(place, lambda _flow, _src, dst: dst > 7)
        source.say(enforced({"podSelector": {"matchLabels": {"app": "nobody"}}}))
        only(place, lambda _flow, _src, _dst: True)


@pytest.mark.sudo
def test_point_04_empty_rule_is_everything(place: Lab, outside: int) -> None:
    """A rule without peers and ports lets in every protocol from everywhere, no rule lets in nothing."""
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), enforced(WEB))
        only(place, lambda _flow, _src, dst: dst != 1)
        assert is_denied(outside, ("10.0.0.1", 80))
        source.say(enforced({**WEB, "ingress": [{}]}))
        only(place, lambda _flow, _src, _dst: True)
        assert connects(outside, ("10.0.0.1", 80))


@pytest.mark.sudo
def test_point_05_peers_and_ports(place: Lab) -> None:
    """Any peer of a rule over any of its ports; another rule is another way."""
    rules = [
        {"from": [app("db"), app("cache")], "ports": [tcp(79), tcp(80)]},
        {"from": [app("db")], "ports": [tcp(443)]},
    ]
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db", 3: "cache"}), enforced({**WEB, "ingress": rules}))
        ways = {(2, 79), (2, 80), (3, 79), (3, 80), (2, 443)}
        only(place, lambda flow, src, dst: dst != 1 or (flow.protocol == TCP and (src, flow.port) in ways))


@pytest.mark.sudo
def test_point_06_one_item_or_two(place: Lab) -> None:
    """Both selectors in one item: db pods of ops. In two: all pods of ops, and db pods of the policy's namespace."""
    theirs = [replace(pod(number, label), namespace="ops") for number, label in ((8, "db"), (9, "cache"))]
    ours = [pod(number, "db" if number == 2 else "web" if number == 1 else "") for number in range(1, 8)]
    spaces = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}
    with running() as (_, source, _):
        source.say(*ours, *theirs, enforced({**WEB, "ingress": [{"from": [{**spaces, **app("db")}]}]}))
        only(place, lambda _flow, src, dst: dst != 1 or src == 8)
        source.say(enforced({**WEB, "ingress": [{"from": [spaces, app("db")]}]}))
        only(place, lambda _flow, src, dst: dst != 1 or src in (2, 8, 9))


@pytest.mark.sudo
@pytest.mark.parametrize(
    ("operator", "values", "allowed"),
    [
        ("In", ["db"], {2}),
        ("NotIn", ["db", "web"], {3, 4, 5, 6, 7, 8, 9}),
        ("Exists", [], {2, 3}),
        ("DoesNotExist", [], {4, 5, 6, 7, 8, 9}),
    ],
)
def test_point_07_operators(place: Lab, operator: str, values: list[str], allowed: set[int]) -> None:
    """NotIn and DoesNotExist match pods without the label as well."""
    peer = {"podSelector": {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}}
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db", 3: "cache"}), enforced({**WEB, "ingress": [{"from": [peer]}]}))
        only(place, lambda _flow, src, dst: dst != 1 or src in allowed)


@pytest.mark.sudo
def test_point_08_blocks_of_pods(place: Lab) -> None:
    """Host bits do not count, an exception is of its own block alone, and pods' addresses are addresses."""
    first = {**WEB, "ingress": [{"from": [block("10.0.0.3/28", "10.0.0.4/30"), block("fd00::9/125")]}]}
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), enforced(first))
        allowed = {4: {2, 3, 8, 9}, 6: {8, 9}}
        only(place, lambda flow, src, dst: dst != 1 or src in allowed[flow.source.version])
        source.say(enforced({**WEB, "ingress": [{"from": [block("10.0.0.5/32")]}]}, "two"))
        allowed[4].add(5)
        only(place, lambda flow, src, dst: dst != 1 or src in allowed[flow.source.version])


@pytest.mark.sudo
def test_point_09_ranges_and_whole_protocols(place: Lab) -> None:
    """A range has both its ends and no more; a protocol without a port is all of it and nothing else."""
    ports = [tcp(79, endPort=80), {"protocol": "UDP"}]
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), enforced({**WEB, "ingress": [{"ports": ports}]}))
        only(
            place,
            lambda flow, _src, dst: (
                dst != 1 or flow.protocol == UDP or (flow.protocol == TCP and flow.port in (79, 80))
            ),
        )
        source.say(enforced({**WEB, "ingress": [{"ports": [tcp(81, endPort=443)]}]}))
        only(place, lambda flow, _src, dst: dst != 1 or (flow.protocol, flow.port) == (TCP, 443))


@pytest.mark.sudo
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_point_10_names_are_the_destinations(place: Lab, direction: str) -> None:
    """One name, other numbers on two pods, and a pod that has it for UDP only: each is reached by its own number."""
    named = {1: NamedPort("http", TCP, 80), 2: NamedPort("http", TCP, 443), 3: NamedPort("http", UDP, 79)}
    known = [replace(one, ports=(named[at],) if at in named else ()) for at, one in enumerate(pods({9: "db"}), 1)]
    ways = {(1, 80), (2, 443)}
    spec: dict[str, Any] = {"podSelector": {}, "ingress": [{"ports": [tcp("http")]}]}
    if direction == "egress":
        spec = {**app("db"), "policyTypes": ["Egress"], "egress": [{"ports": [tcp("http")]}]}
    with running() as (_, source, _):
        source.say(*known, enforced(spec))
        only(
            place,
            lambda flow, src, dst: (
                (direction == "egress" and src != 9) or (flow.protocol == TCP and (dst, flow.port) in ways)
            ),
        )


@pytest.mark.sudo
def test_point_10_no_names_of_addresses(place: Lab) -> None:
    """To an ipBlock a name means nothing, though a pod that has it is in the block."""
    known = [replace(one, ports=(NamedPort("http", TCP, 80),)) for one in pods({9: "db"})]
    egress = [{"to": [block("10.0.0.0/24")], "ports": [tcp("http")]}]
    with running() as (_, source, _):
        source.say(*known, enforced({**app("db"), "policyTypes": ["Egress"], "egress": egress}))
        only(place, lambda _flow, src, _dst: src != 9)


@pytest.mark.sudo
def test_point_11_sctp_is_sctp(place: Lab) -> None:
    """A rule for SCTP lets in SCTP and no other protocol on that port; one for TCP lets in no SCTP."""
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), enforced({**WEB, "ingress": [{"ports": [{"protocol": "SCTP", "port": 80}]}]}))
        only(place, lambda flow, _src, dst: dst != 1 or (flow.protocol, flow.port) == (SCTP, 80))
        source.say(enforced({**WEB, "ingress": [{"ports": [tcp(80)]}]}))
        only(place, lambda flow, _src, dst: dst != 1 or (flow.protocol, flow.port) == (TCP, 80))


@pytest.mark.sudo
def test_point_12_icmp_by_rules_without_ports(place: Lab) -> None:
    """A rule that names ports lets in no ping, even if it names all of them."""
    every = [{"protocol": one} for one in ("TCP", "UDP", "SCTP")]
    ingress = [{"from": [app("db")]}, {"from": [app("cache")], "ports": every}]
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db", 3: "cache"}), enforced({**WEB, "ingress": ingress}))
        only(place, lambda flow, src, dst: dst != 1 or src == 2 or (src == 3 and flow.protocol not in PINGS))


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
def test_point_12_errors_of_what_is_allowed(place: Lab, version: int) -> None:
    """`Port unreachable` gets back to a pod that nobody may send to; what is denied is not answered at all."""
    rules = [{"from": [app("db")], "ports": [{"protocol": "UDP"}]}]
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db"}), enforced({"podSelector": {}}))
        source.say(enforced({**WEB, "ingress": rules}, "two"))
        for number, error in ((2, ConnectionRefusedError), (3, TimeoutError)):
            with place.pods[number].socket(
                socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM
            ) as one:
                one.settimeout(PATIENCE_S if number == 2 else ABSENT_S)
                one.connect((str(address(1, version)), 9))
                one.send(b"x")
                with pytest.raises(error):
                    one.recv(1)


@pytest.mark.sudo
def test_point_13_both_sides_decide(place: Lab) -> None:
    """The source has to let it out and the destination has to let it in; answers need no rule."""
    leaves = {**app("db"), "policyTypes": ["Egress"], "egress": [{"to": [app("web"), app("cache")]}]}
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db", 3: "cache", 4: "db"}), enforced(leaves))
        source.say(enforced({**WEB, "ingress": [{"from": [app("cache")]}]}, "two"))
        only(place, lambda _flow, src, dst: (src not in (2, 4) or dst in (1, 3)) and (dst != 1 or src == 3))
        source.say(enforced({**WEB, "ingress": [{"from": [app("db")]}]}, "two"))
        only(place, lambda _flow, src, dst: (src not in (2, 4) or dst in (1, 3)) and (dst != 1 or src in (2, 4)))


@pytest.mark.sudo
def test_point_14_host_network_is_no_peer(outside: int) -> None:
    """A pod in its node's network is no peer by its labels, and no subject: only an ipBlock speaks of its address."""
    said = {
        "metadata": {"namespace": "shop", "name": "agent", "labels": {"app": "db"}},
        "spec": {"hostNetwork": True},
        "status": {"phase": "Running", "podIPs": [{"ip": OUTSIDE[4][1]}, {"ip": OUTSIDE[6][1]}]},
    }
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), objects.pod(said), enforced({**WEB, "ingress": [{"from": [app("db")]}]}))
        source.say(enforced({**app("db"), "policyTypes": ["Egress"]}, "two"))
        for version in (4, 6):
            assert is_denied(outside, (str(address(1, version)), 80))
            assert connects(outside, (str(address(2, version)), 80))
        source.say(enforced({**WEB, "ingress": [{"from": [block("192.0.2.2/32"), block("2001:db8::2/128")]}]}))
        for version in (4, 6):
            assert connects(outside, (str(address(1, version)), 80), OUTSIDE[version][1])
            assert is_denied(outside, (str(address(1, version)), 80), OUTSIDE[version][2])


@pytest.mark.sudo
def test_point_15_own_node_and_no_other(here: int, outside: int) -> None:
    """The node reaches its pods by whichever of its addresses; another node does so only as policies allow."""
    with running() as (_, source, _):
        source.say(*pods({}), enforced(CLOSED))
        for version in (4, 6):
            assert connects(here, (str(address(1, version)), 80))
            assert connects(here, (str(address(1, version)), 80), OUTSIDE[version][0])
            assert is_denied(outside, (str(address(1, version)), 80))


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
def test_point_16_to_the_own_node(place: Lab, outside: int, version: int) -> None:
    """A pod reaches its own node as its egress policies say; ingress policies have no part in it."""
    assert outside
    own = OUTSIDE[version][0]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.create_server((own, 8080), family=family), running() as (_, source, _):
        source.say(*pods({1: "web"}), enforced({"podSelector": {}}))
        assert connects(place.pods[1].fd, (own, 8080))
        source.say(enforced({**WEB, "policyTypes": ["Egress"]}, "two"))
        assert is_denied(place.pods[1].fd, (own, 8080))
        assert connects(place.pods[2].fd, (own, 8080))
        peers = [block("192.0.2.1/32"), block("2001:db8::1/128")]
        source.say(enforced({**WEB, "policyTypes": ["Egress"], "egress": [{"to": peers}]}, "two"))
        assert connects(place.pods[1].fd, (own, 8080))


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
def test_point_16_the_switch(place: Lab, outside: int, version: int) -> None:
    """With `guardsNode: false` a pod reaches its node whatever its policies are, and other pods no more than before."""
    assert outside
    own = OUTSIDE[version][0]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.create_server((own, 8080), family=family), unguarded() as source:
        source.say(*pods({1: "web"}), enforced(CLOSED))
        assert connects(place.pods[1].fd, (own, 8080))
        assert is_denied(place.pods[1].fd, (str(address(2, version)), 80))


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
def test_point_17_a_service_of_its_own(place: Lab, version: int) -> None:
    """A pod that comes back to itself by a Service is let through, however closed it is; others are not."""
    service(1)
    with running() as (_, source, _):
        source.say(*pods({}), enforced(CLOSED))
        assert connects(place.pods[1].fd, (SERVICE[version], 80))
        assert is_denied(place.pods[2].fd, (SERVICE[version], 80))


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
def test_point_18_policies_see_the_pod_behind_a_service(place: Lab, version: int) -> None:
    """The Service's port 80 is the pod's 443, of which the policies speak; its own address is in no one's way."""
    service(1, 443)
    client = place.pods[2].fd
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db"}))
        source.say(enforced({**WEB, "ingress": [{"from": [app("db")], "ports": [tcp(80)]}]}))
        assert is_denied(client, (SERVICE[version], 80))
        source.say(enforced({**WEB, "ingress": [{"from": [app("db")], "ports": [tcp(443)]}]}))
        assert connects(client, (SERVICE[version], 80))
        assert is_denied(place.pods[3].fd, (SERVICE[version], 80))
        to_service = [{"to": [block("10.96.0.0/12"), block("fd96::/16")]}]
        source.say(enforced({**app("db"), "policyTypes": ["Egress"], "egress": to_service}, "two"))
        assert is_denied(client, (SERVICE[version], 80))
        to_pods = [{"to": [app("web")], "ports": [tcp(443)]}]
        source.say(enforced({**app("db"), "policyTypes": ["Egress"], "egress": to_pods}, "two"))
        assert connects(client, (SERVICE[version], 80))


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
def test_point_19_clients_of_a_node_port(outside: int, version: int) -> None:
    """What comes in by a port of the node is judged by its client's address, and by the pod's port."""
    own, allowed, other = OUTSIDE[version]
    family, bracketed = ("ip", "10.0.0.1:443") if version == 4 else ("ip6", "[fd00::1]:443")
    nft(f"""
table {family} ports {{
    chain before {{
        type nat hook prerouting priority dstnat
        {family} daddr {own} tcp dport 30080 dnat to {bracketed}
    }}
}}
""")
    peers = [block(f"{allowed}/{32 if version == 4 else 128}")]
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), enforced({**WEB, "ingress": [{"from": peers, "ports": [tcp(443)]}]}))
        assert connects(outside, (own, 30080), allowed)
        assert is_denied(outside, (own, 30080), other)
        source.say(enforced({**WEB, "ingress": [{"from": peers, "ports": [tcp(30080)]}]}))
        assert is_denied(outside, (own, 30080), allowed)


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_point_20_what_stands_is_cut(place: Lab, version: int, direction: str) -> None:
    """A flow of UDP that was allowed ends with the policy that allowed it, whichever side's; one beside it goes on."""
    spec: dict[str, Any] = {**WEB, "ingress": [{"from": [app("db"), app("cache")]}]}
    narrow: dict[str, Any] = {**WEB, "ingress": [{"from": [app("cache")]}]}
    if direction == "egress":
        spec = {**app("db"), "policyTypes": ["Egress"], "egress": [{"to": [app("web")]}]}
        narrow = {**spec, "egress": [{"to": [app("cache")]}]}
    family, server = socket.AF_INET if version == 4 else socket.AF_INET6, place.pods[1].receivers[version, 80]
    with running() as (policies, source, _):
        source.say(*pods({1: "web", 2: "db", 3: "cache"}), enforced(spec))
        with (
            place.pods[2].socket(family, socket.SOCK_DGRAM) as cut,
            place.pods[3].socket(family, socket.SOCK_DGRAM) as kept,
        ):
            for one in (cut, kept):
                one.connect((str(address(1, version)), 80))
                assert passes(one, server)
                server.sendto(b"answer", one.getsockname()[:2])  # so that it stands
                one.settimeout(PATIENCE_S)
                assert one.recv(10) == b"answer"
            source.say(enforced(narrow))
            assert not passes(cut, server)
            assert passes(kept, server)
            eventually(policies.is_settled, "all is judged")
            server.sendto(b"answer", cut.getsockname()[:2])  # nor does the other side get through
            cut.settimeout(ABSENT_S)
            with pytest.raises(TimeoutError):
                cut.recv(10)
            assert passes(kept, server)


@pytest.mark.sudo
@pytest.mark.parametrize("late", [False, True], ids=["first the end", "first the next pod"])
def test_point_21_the_address_of_a_finished_pod(place: Lab, late: bool) -> None:
    """A job is done and its address is another pod's: that one's labels count, in whichever order the news come."""
    job = replace(pod(2, "db"), created="2026-01-01T00:00:00Z")
    done = replace(job, finished=True, addresses=())
    heir = replace(pod(2), uid="u-heir", name="heir", created="2026-01-02T00:00:00Z")
    with running() as (_, source, _):
        source.say(*pods({1: "web"}), job, enforced({**WEB, "ingress": [{"from": [app("db")]}]}))
        only(place, lambda _flow, src, dst: dst != 1 or src == 2)
        source.say(heir if late else done)
        only(place, lambda _flow, src, dst: dst != 1 and (late or 2 not in (src, dst)))
        source.say(done if late else heir)
        only(place, lambda _flow, _src, dst: dst != 1)
        source.say(replace(heir, labels={"app": "db"}))
        only(place, lambda _flow, src, dst: dst != 1 or src == 2)
        source.say(gone=(done,))
        only(place, lambda _flow, src, dst: dst != 1 or src == 2)


@pytest.mark.sudo
def test_point_22_labels_of_pods(place: Lab) -> None:
    """Peers come and go with their labels, and so do the pods that a policy is of."""
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db"}), enforced({**WEB, "ingress": [{"from": [app("db")]}]}))
        only(place, lambda _flow, src, dst: dst != 1 or src == 2)
        source.say(pod(2), pod(3, "db"))
        only(place, lambda _flow, src, dst: dst != 1 or src == 3)
        source.say(pod(1), pod(4, "web"))
        only(place, lambda _flow, src, dst: dst != 4 or src == 3)


@pytest.mark.sudo
def test_point_22_labels_of_namespaces(place: Lab) -> None:
    """All pods of a namespace become peers, and cease to be, with its labels, and with itself."""
    theirs = [replace(pod(number), namespace="ops") for number in (8, 9)]
    ours = [pod(number, "web" if number == 1 else "") for number in range(1, 8)]
    peer = {"namespaceSelector": {"matchLabels": {"team": "blue"}}}
    with running() as (_, source, _):
        source.say(*ours, *theirs, enforced({**WEB, "ingress": [{"from": [peer]}]}))
        only(place, lambda _flow, _src, dst: dst != 1)
        source.say(Namespace("ops", {"team": "blue"}))
        only(place, lambda _flow, src, dst: dst != 1 or src > 7)
        source.say(Namespace("ops", {"team": "red"}), Namespace("shop", {"team": "blue"}))
        only(place, lambda _flow, src, dst: dst != 1 or src < 8)
        source.sink.changed(Changes({}, {"shop": None}, {}))
        only(place, lambda _flow, _src, dst: dst != 1)


@pytest.mark.sudo
def test_point_23_each_version_by_itself(place: Lab) -> None:
    """A block of all IPv4 lets in no IPv6; a pod's labels count for all its addresses."""
    with running() as (_, source, _):
        source.say(*pods({1: "web", 2: "db"}), enforced({**WEB, "ingress": [{"from": [block("0.0.0.0/0")]}]}))
        only(place, lambda flow, _src, dst: dst != 1 or flow.source.version == 4)
        source.say(enforced({**WEB, "ingress": [{"from": [block("::/0")]}]}))
        only(place, lambda flow, _src, dst: dst != 1 or flow.source.version == 6)
        source.say(enforced({**WEB, "ingress": [{"from": [app("db")]}]}))
        only(place, lambda _flow, src, dst: dst != 1 or src == 2)


@pytest.mark.sudo
def test_point_24_a_pods_start(place: Lab) -> None:
    """Closed both ways until it is admitted, then at once as its policies and those of its peers say."""
    bare = [replace(one, addresses=()) for one in pods({1: "web", 2: "db"})[:2]]
    with running() as (policies, source, _):
        source.say(*bare, *pods({})[2:], enforced({**WEB, "ingress": [{"from": [app("db")]}]}))
        only(place, lambda _flow, src, dst: {src, dst}.isdisjoint((1, 2)))
        policies.admit(attached(1, "shop/p1"))
        only(place, lambda _flow, src, dst: 2 not in (src, dst) and dst != 1)
        policies.admit(attached(2, "shop/p2"))
        only(place, lambda _flow, src, dst: dst != 1 or src == 2)


@pytest.mark.sudo
def test_point_25_without_an_agent(place: Lab) -> None:
    """All stays as it was: when it stops, while it is away, when the next one starts and nobody tells it anything."""
    said: list[Pod | Policy] = [*pods({1: "web", 2: "db"}), enforced({**WEB, "ingress": [{"from": [app("db")]}]})]

    def as_before() -> None:
        only(place, lambda _flow, src, dst: dst != 1 or src == 2)

    with running() as (_, source, _):
        source.say(*said)
        as_before()
    as_before()
    with running():
        as_before()
    with running() as (_, source, _):
        source.say(*said)
        as_before()


def test_point_26_rules_are_as_many_as_the_policies_have() -> None:
    """25 policies of a pod, each of 1,000 peers by label and 1,000 by address: the rules are 3 of each policy.

    And a peer that comes is one element of each version, whatever else there is.
    """
    index = Index()
    program = Program(index, "n1")
    peers = {}
    for number in range(25_000):
        one = Pod(f"u{number}", "shop", f"x{number}", {"app": f"a{number % 25}"}, (address(0, 4) + 1000 + number,))
        peers[one.key] = one
    policies = {}
    for number in range(25):
        blocks = [block(f"172.{16 + number}.{at // 250}.{at % 250}/32") for at in range(0, 2000, 2)]
        made = enforced({**WEB, "ingress": [{"from": [app(f"a{number}"), *blocks], "ports": [tcp(80)]}]}, f"p{number}")
        policies[made.key] = made
    edit = program.update(index.apply(Changes({"shop/p1": pod(1, "web"), **peers}, {}, policies)))
    ingress, egress = program.chains("shop/p1")
    assert egress is None
    assert ingress is not None
    assert len(ingress.rules) == 25 * 3 + 1
    assert len(edit.operations) < 300
    more = Pod("more", "shop", "more", {"app": "a7"}, (address(200, 4), address(200, 6)))
    assert len(program.update(index.apply(Changes({"shop/more": more}, {}, {}))).operations) == 2


@pytest.mark.sudo
def test_point_26_established_packets_cost_nothing(place: Lab) -> None:
    """However many policies a pod has, its rules see the first packet of a connection and no other."""
    policies = [
        enforced(
            {**WEB, "ingress": [{"from": [app(f"a{number}" if number else "db")], "ports": [tcp(80)]}]}, f"p{number}"
        )
        for number in range(25)
    ]

    def counted() -> int:
        listing = subprocess.run(
            ["nft", "list", "table", "inet", "cnipy_policy"], check=True, capture_output=True, text=True
        ).stdout
        return sum(map(int, re.findall(r"counter packets (\d+) bytes \d+ return", listing)))

    with running() as (role, source, _):
        source.say(*pods({1: "web", 2: "db"}), *policies)
        eventually(role.is_settled, "all is judged")
        client, server = connect(place, 2, 1)
        with client, server:
            assert counted() == 1
            for _ in range(100):
                assert passes(client, server)
                assert passes(server, client)
            assert counted() == 1


@pytest.mark.sudo
def test_point_27_a_bridge_past_ip(node: agents.Setup) -> None:
    """Between ports of a bridge packets pass by IP's hooks: refused, unless the ports are isolated; nothing is left."""
    agents.filter_bridges(wanted=False)
    node.say("pods", agents.namespace("shop"), agents.pod("web", app="web"), agents.pod("db", app="db"))
    with node.agent():
        code, error = node.caller("web").process("ADD", bridged())
        assert (code, "network policies could not hold" in error["msg"]) == (1, True)
        assert json.loads(agents.command("status", "-o", "json")[1])["policy"]["local"] == 0
        links = subprocess.run(["ip", "-n", "web", "-br", "link"], check=True, capture_output=True, text=True).stdout
        assert "eth0" not in links
        node.attach("db", bridged(portIsolation=True))


@pytest.mark.sudo
def test_point_27_a_bridge_that_ip_sees(node: agents.Setup) -> None:
    """With br_netfilter the policies hold between ports of a bridge, for both versions, and neighbours are found."""
    agents.filter_bridges(wanted=True)
    node.say("pods", agents.namespace("shop"), *(agents.pod(one, app=one) for one in ("web", "db", "cache")))
    node.say("policies", agents.policy("allow", agents.from_app("db")))
    with node.agent():
        web, db, cache = (node.attach(name, bridged()) for name in ("web", "db", "cache"))
        for version in (4, 6):
            assert agents.arrives(db, web, version, patience=5)
            assert not agents.arrives(cache, web, version)


@pytest.mark.sudo
@pytest.mark.parametrize("version", [4, 6])
def test_fragments(place: Lab, version: int) -> None:
    """A datagram in pieces passes as a whole or not at all: of one that is denied not even a later piece arrives."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with netns.entered(place.pods[1].fd):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800 if version == 4 else 0x86DD))
    server = place.pods[1].receivers[version, 80]
    server.settimeout(PATIENCE_S)
    wire.bind(("eth0", 0))
    wire.setblocking(False)  # noqa: FBT003
    with running() as (_, source, _), wire:
        source.say(*pods({1: "web", 2: "db"}), enforced({**WEB, "ingress": [{"from": [app("db")]}]}))
        for number, pieces in ((3, 0), (2, 4)):
            with place.pods[number].socket(family, socket.SOCK_DGRAM) as client:
                client.sendto(bytes([number]) * 5000, (str(address(1, version)), 80))
                if pieces:
                    assert server.recv(6000) == bytes([number]) * 5000
                else:
                    server.settimeout(ABSENT_S)
                    with pytest.raises(TimeoutError):
                        server.recv(6000)
                    server.settimeout(PATIENCE_S)
            source_address, seen = address(number, version).packed, 0
            with suppress(BlockingIOError):
                while True:
                    packet = wire.recv(2000)
                    seen += packet[12:16] == source_address if version == 4 else packet[8:24] == source_address
            assert seen == pieces


@pytest.mark.sudo
def test_point_24_no_packet_before_or_after(place: Lab) -> None:
    """A pod that may not send does so without pause while it is admitted and dismissed 2,000 times: none arrives.

    That the probe sees packets: it does once the policy is gone.
    """
    server, stopped = place.pods[2].receivers[4, 80], threading.Event()
    client = place.pods[1].socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send() -> None:
        while not stopped.is_set():
            with suppress(OSError):
                client.sendto(b"x", ("10.0.0.2", 80))

    sender = threading.Thread(target=send)
    closed = enforced({**WEB, "policyTypes": ["Egress"]})
    with running() as (policies, source, _), client:
        source.say(replace(pod(1, "web"), addresses=()), *pods({})[1:], closed)
        sender.start()
        try:
            for _ in range(2000):
                policies.admit(attached(1, "shop/p1"))
                policies.dismiss(attached(1, "shop/p1"))
            with pytest.raises(BlockingIOError):
                server.recv(10)
            policies.admit(attached(1, "shop/p1"))
            source.say(gone=(closed,))
            server.settimeout(PATIENCE_S)
            assert server.recv(10) == b"x"
        finally:
            stopped.set()
            sender.join()
