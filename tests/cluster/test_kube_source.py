"""Kubernetes as a source of nodes, against a fake API server: who is a member, and what a node says about itself."""

import base64
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cluster.fake_api import WAIT_S, FakeApi, error, node, refuse
from cluster.kube_told import QUICK, Told, access

from cni_py.cluster.kube import KubeSource
from cni_py.cluster.kube_access import KubeAccess, in_cluster
from cni_py.cluster.kube_api import Timing
from cni_py.cluster.kubeconfig import from_kubeconfig
from cni_py.cluster.record import render
from cni_py.model.errors import CniPyError, InvalidConfigError
from cni_py.model.overlay import Node, tunnel_mac
from cni_py.model.peers import View

SINCE = 1767323045  # of the fake's Nodes
OWN = Node("n1", (), "0e:00:00:00:00:01", IPv4Address("192.0.2.1"), vni=142, vxlan_port=4789)
RECORD = render(OWN, cidrs=False)
STRATEGIC = "application/strategic-merge-patch+json"


@contextmanager
def running(api: FakeApi, timing: Timing = QUICK, name: str = "n1") -> Iterator[tuple[KubeSource, Told]]:
    """A source for the block. Nothing is told after it."""
    told, source = Told(), KubeSource(access(api, name), timing)
    source.start(told)
    try:
        yield source, told
    finally:
        source.stop()
    assert not [one for one in threading.enumerate() if one.name == "kube"]


def peer(number: int) -> Node:
    """The node n`number` as its record says."""
    return Node(
        f"n{number}",
        (ip_network(f"10.244.{number}.0/24"),),
        f"0e:00:00:00:00:0{number}",
        IPv4Address(f"192.0.2.{number}"),
        uid=f"uid-n{number}",
        since=SINCE,
    )


def put(api: FakeApi, number: int, **status: Any) -> None:
    """Its Node."""
    api.put(node(f"n{number}", f"10.244.{number}.0/24", render(peer(number), cidrs=False), **status))


def test_who_is_a_member(api: FakeApi) -> None:
    """Who has pod networks and a record with an address; this node without a record; who has either not, is nowhere."""
    api.put(node("n1", "10.244.1.0/24"))
    put(api, 2)
    api.put(node("n3", "", render(peer(3), cidrs=False)))
    api.put(node("n4", "10.244.4.0/24"))
    api.put(node("n5", "10.244.5.0/24", '{"version": 1}'))
    with running(api) as (_, told):
        view = told.next()
        own = Node("n1", (ip_network("10.244.1.0/24"),), tunnel_mac("test", "n1"), uid="uid-n1", since=SINCE)
        assert view == View({"n1": own, "n2": peer(2)}, {})
        put(api, 3)
        assert told.next().nodes.keys() == {"n1", "n2", "n3"}
        assert view.nodes.keys() == {"n1", "n2"}  # what was told does not change any more
        api.delete("n2")
        assert told.next().nodes.keys() == {"n1", "n3"}


def test_two_families_and_the_old_field(api: FakeApi) -> None:
    """podCIDRs, or podCIDR alone."""
    dual = node("n2", "10.244.2.0/24", render(replace(peer(2), ip6=IPv6Address("2001:db8::2")), cidrs=False))
    dual["spec"]["podCIDRs"].append("fd44:0:2::/64")
    api.put(dual)
    old = node("n3", "10.244.3.0/24", render(peer(3), cidrs=False))
    del old["spec"]["podCIDRs"]
    api.put(old)
    with running(api) as (_, told):
        view = told.next()
        assert view.nodes["n2"].cidrs == (ip_network("10.244.2.0/24"), ip_network("fd44:0:2::/64"))
        assert view.nodes["n2"].ip6 == IPv6Address("2001:db8::2")
        assert view.nodes["n3"].cidrs == (ip_network("10.244.3.0/24"),)


def test_a_heartbeat_is_no_news(api: FakeApi) -> None:
    """Nor is a record that is written again, nor one that differs only in what is not read."""
    put(api, 2)
    with running(api) as (_, told):
        first = told.next()
        for beat in range(5):
            put(api, 2, conditions=[{"type": "Ready", "status": "True", "lastHeartbeatTime": str(beat)}])
        api.put(node("n2", "10.244.2.0/24", render(peer(2), cidrs=False)[:-1] + ',"newer":1}'))
        api.raw(error(410))
        put(api, 3)
        second = told.next()
        assert dict(second.nodes) == {**first.nodes, "n3": peer(3)}
        assert not told.news.qsize()


def test_a_node_that_is_about_to_go_stays(api: FakeApi) -> None:
    """Its pods run until it is gone."""
    put(api, 2)
    with running(api) as (_, told):
        told.next()
        leaving = deepcopy(api.nodes["n2"])
        leaving["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:06Z"
        api.put(leaving)
        put(api, 3)
        assert told.next().nodes.keys() == {"n2", "n3"}


@pytest.mark.parametrize(
    ("annotation", "cidr", "why"),
    [
        ("{", "10.244.2.0/24", "annotation cni-py.dev/node: the record is no JSON"),
        ('{"version": 2}', "10.244.2.0/24", "version 2 of the record"),
        ('{"version": 1, "ipv4": "127.0.0.1"}', "10.244.2.0/24", "no address at which"),
        (RECORD, "0.0.0.0/0", "no network for pods"),
        (RECORD, "none", "no pod network"),
    ],
)
def test_what_is_not_believed_is_named(api: FakeApi, annotation: str, cidr: str, why: str) -> None:
    """All others stay, and so does it as soon as it is mended."""
    put(api, 3)
    with running(api) as (_, told):
        told.next()
        api.put(node("n2", cidr, annotation))
        view = told.next()
        assert view.nodes.keys() == {"n3"}
        assert view.skipped.keys() == {"n2"}
        assert why in view.skipped["n2"]
        put(api, 2)
        assert told.next() == View({"n3": peer(3), "n2": peer(2)}, {})


def test_another_node_of_the_name(api: FakeApi) -> None:
    """Its uid tells them apart."""
    put(api, 2)
    with running(api) as (_, told):
        told.next()
        other = node("n2", "10.244.2.0/24", render(peer(2), cidrs=False), uid="other")
        api.delete("n2")
        api.put(other)
        assert told.until(lambda view: "n2" in view.nodes).nodes["n2"] == replace(peer(2), uid="other")


def test_the_view_stays_while_the_api_is_away(api: FakeApi) -> None:
    """Trouble in words, then "", and no news in between."""
    put(api, 2)
    with running(api, name="n2") as (_, told):
        told.next()
        api.down()
        assert "see that the API server runs" in told.troubled("cannot be reached: Connection refused")
        api.up()
        told.troubled("")
        assert not told.news.qsize()


def test_a_node_says_who_it_is(api: FakeApi) -> None:
    """One PATCH of its status, and no second for the same record."""
    api.put(node("n1", "10.244.1.0/24"))
    with running(api) as (source, told):
        told.next()
        source.publish(OWN)
        patch = api.next("patch")
        assert patch == {"type": STRATEGIC, "metadata": {"annotations": {"cni-py.dev/node": RECORD}}}
        source.publish(OWN)
        other = replace(OWN, ip4=IPv4Address("192.0.2.99"))
        source.publish(other)
        assert api.next("patch")["metadata"] == {"annotations": {"cni-py.dev/node": render(other, cidrs=False)}}
        assert api.nodes["n1"]["metadata"]["annotations"]["other"] == "x"


def test_what_is_there_is_not_written(api: FakeApi) -> None:
    """An agent that was started again writes nothing, also if it is asked before it runs."""
    api.put(node("n1", "10.244.1.0/24", RECORD, conditions=[{"type": "NetworkUnavailable", "status": "False"}]))
    source, told = KubeSource(access(api), QUICK), Told()
    source.publish(OWN)
    source.joined()
    source.start(told)
    told.next()
    source.publish(replace(OWN, ip4=IPv4Address("192.0.2.99")))
    patch = api.next("patch")  # the first
    source.stop()
    assert "192.0.2.99" in patch["metadata"]["annotations"]["cni-py.dev/node"]
    assert "status" not in patch


def test_a_node_that_is_not_there_yet(api: FakeApi) -> None:
    """What is published waits for the Node, of which an operator is told; so does a Node without networks."""
    with running(api) as (source, told):
        source.publish(OWN)
        assert "kubectl get nodes" in told.troubled("no Node of the name n1")
        api.put(node("n1"))
        assert "--allocate-node-cidrs" in told.troubled("no spec.podCIDRs")
        assert api.next("patch")["metadata"]["annotations"] == {"cni-py.dev/node": RECORD}
        api.put(node("n1", "10.244.1.0/24", RECORD))
        told.troubled("")
        assert told.until(lambda view: "n1" in view.nodes).nodes.keys() == {"n1"}


def test_what_is_undone_is_done_again_but_never_hotly(api: FakeApi) -> None:
    """Somebody removes the record as soon as it is there."""
    timing = replace(QUICK, first=0.05, most=0.4)
    api.put(node("n1", "10.244.1.0/24"))
    with running(api, timing) as (source, told):
        told.next()
        source.publish(OWN)
        times = []
        for _ in range(6):
            api.next("patch")
            times.append(time.monotonic())
            api.put(node("n1", "10.244.1.0/24"))
        assert times[-1] - times[0] > 0.5 * (0.05 + 0.1 + 0.2 + 0.4 + 0.4)


def test_a_new_record_does_not_wait_for_the_old_ones_pause(api: FakeApi) -> None:
    """What is published now goes out now, whatever failed before."""
    timing = replace(QUICK, first=100.0, most=100.0)
    api.script("patch", refuse(500, "broken"))
    api.put(node("n1", "10.244.1.0/24"))
    with running(api, timing) as (source, told):
        told.next()
        source.publish(OWN)
        api.next("patch")
        told.troubled("record cannot be written")
        source.publish(replace(OWN, ip4=IPv4Address("192.0.2.99")))
        assert "192.0.2.99" in api.next("patch")["metadata"]["annotations"]["cni-py.dev/node"]
        told.troubled("")


def test_the_condition(api: FakeApi) -> None:
    """It is set once the node has joined, beside those of others, and kept."""
    ready = {"type": "Ready", "status": "True"}
    api.put(node("n1", "10.244.1.0/24", RECORD, conditions=[ready]))
    with running(api) as (source, told):
        told.next()
        source.publish(OWN)
        source.joined()
        patch = api.next("patch")
        (condition,) = patch["status"]["conditions"]
        assert "metadata" not in patch
        assert (condition["type"], condition["status"], condition["reason"]) == (
            "NetworkUnavailable",
            "False",
            "CniPyIsUp",
        )
        source.joined()
        api.put(node("n1", "10.244.1.0/24", RECORD, conditions=[ready | {"type": "NetworkUnavailable"}]))
        assert api.next("patch")["status"]["conditions"][0]["status"] == "False"


def test_what_rbac_does_not_allow_is_said(api: FakeApi) -> None:
    """In the words of the server, which name verb and resource, and with what to do. Reading goes on."""
    said = 'nodes "n1" is forbidden: User "u" cannot patch resource "nodes/status"'
    api.put(node("n1", "10.244.1.0/24"))
    api.script("patch", refuse(403, said))
    with running(api) as (source, told):
        told.next()
        source.publish(OWN)
        reason = told.troubled("(403)")
        assert said in reason
        assert "docs/peers-kubernetes.md" in reason
        put(api, 2)
        assert told.until(lambda view: "n2" in view.nodes)
        assert api.next("patch")["metadata"]
        told.troubled("")


def test_reading_may_be_forbidden_too(api: FakeApi) -> None:
    """Both troubles are told, each as long as it lasts."""
    api.script("initial", refuse(403, 'cannot list resource "nodes"'))
    with running(api) as (_, told):
        assert 'cannot list resource "nodes"' in told.troubled("(403)")
        assert told.next() == View({}, {})


def test_a_bug_is_not_silent(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread's end is told, and its traceback is for the log."""
    hooked: queue.Queue[threading.ExceptHookArgs] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", hooked.put)

    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cni_py.cluster.kube.member", bug)
    put(api, 2)
    with running(api) as (source, told):
        told.troubled("a bug of cni-py")
        assert hooked.get(timeout=WAIT_S).exc_type is ExceptionGroup
        source.publish(OWN)


def test_what_no_waiting_mends(api: FakeApi, tmp_path: Path) -> None:
    """Files that are missing or none, and names that no Node has."""
    good = access(api)
    (tmp_path / "empty").touch()
    for wrong in (
        replace(good, ca=tmp_path / "missing"),
        replace(good, ca=tmp_path / "empty"),
        replace(good, token=tmp_path / "missing"),
        replace(good, certificate=b"none", key=b"none"),
        replace(good, node="../n1"),
    ):
        with pytest.raises(CniPyError) as caught:
            KubeSource(wrong).start(Told())
        assert caught.value.message.isprintable()


def test_access_in_a_pod() -> None:
    """By the environment that each Pod has."""
    there = in_cluster("n1", "c", {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"})
    assert there.server == "https://[fd00::1]:6443"
    assert str(there.token).endswith("/serviceaccount/token")
    with pytest.raises(InvalidConfigError):
        in_cluster("n1", "c", {})


def kubeconfig(path: Path, user: str, cluster: str = "", server: str = "https://192.0.2.1:6443") -> Path:
    """A file, with `user` and `cluster` as lines of their own."""
    path.write_text(
        f"current-context: here\ncontexts: [{{name: here, context: {{cluster: c, user: u}}}}]\n"
        f"clusters: [{{name: c, cluster: {{server: '{server}', {cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    )
    return path


def test_access_by_a_kubeconfig(tmp_path: Path) -> None:
    """Content goes before files; files are seen from the kubeconfig."""
    data = base64.b64encode(b"PEM").decode()
    file = kubeconfig(tmp_path / "config", "token: secret", f"certificate-authority-data: {data}")
    there = from_kubeconfig(file, "n1", "c")
    assert there == KubeAccess("https://192.0.2.1:6443", "n1", "c", ca=b"PEM", token=b"secret")
    assert "secret" not in repr(there)
    file = kubeconfig(file, "client-certificate: crt, client-key: /key, tokenFile: tok", "certificate-authority: ca")
    there = from_kubeconfig(file, "n1", "c")
    assert (there.ca, there.token) == (tmp_path / "ca", tmp_path / "tok")
    assert (there.certificate, there.key) == (tmp_path / "crt", Path("/key"))


@pytest.mark.parametrize(
    ("user", "cluster", "server", "why"),
    [
        ("exec: {command: aws}", "", "https://a", "exec of its user is not supported"),
        ("auth-provider: {name: x}", "", "https://a", "auth-provider of its user is not supported"),
        ("", "insecure-skip-tls-verify: true", "https://a", "insecure-skip-tls-verify of its cluster"),
        ("", "proxy-url: http://a", "https://a", "proxy-url of its cluster"),
        ("", "certificate-authority-data: '*'", "https://a", "no base64"),
        ("", "certificate-authority: [1]", "https://a", "is no path"),
        ("", "", "http://a", "no https:// address"),
    ],
)
def test_a_kubeconfig_that_will_not_do(tmp_path: Path, user: str, cluster: str, server: str, why: str) -> None:
    """It names what cannot be done, and never connects without verifying."""
    with pytest.raises(InvalidConfigError, match=why):
        from_kubeconfig(kubeconfig(tmp_path / "config", user, cluster, server), "n1", "c")


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", "current-context: x", "contexts: 1"])
def test_what_is_no_kubeconfig(tmp_path: Path, text: str) -> None:
    """An error in words."""
    (tmp_path / "config").write_text(text)
    with pytest.raises(InvalidConfigError):
        from_kubeconfig(tmp_path / "config", "n1", "c")


def test_a_client_certificate_is_shown(api: FakeApi) -> None:
    """It reaches the server without a file of ours on a disk."""
    issued = api.authority.issue_cert("client@example.org")
    names = []

    async def who(server: FakeApi, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        names.append(request.transport.get_extra_info("peercert"))
        return await server.watch(request, *server.initial(request))

    api.demand_certificates()
    api.script("initial", who)
    shown = replace(access(api), certificate=issued.cert_chain_pems[0].bytes(), key=issued.private_key_pem.bytes())
    told, source = Told(), KubeSource(shown, QUICK)
    source.start(told)
    told.next()
    source.stop()
    assert names[0]["subjectAltName"] == (("email", "client@example.org"),)
