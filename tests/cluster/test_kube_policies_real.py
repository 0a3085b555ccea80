"""Kubernetes as the source of policies, against a real kube-apiserver: its defaulting and ours, the least rights."""

import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from cluster.apiserver import WAIT_S, ApiServer, apiserver
from cluster.policy_sink import Json, PolicySink, following

from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.kube_api import Timing
from cni_py.model.policy import Pod
from cni_py.policy import objects

pytestmark = pytest.mark.sudo
TIMING = Timing(first=0.1, most=1.0)
DOCUMENT = Path(__file__).parent.parent.parent / "docs/policies-kubernetes.md"
MERGE = "application/merge-patch+json"
EVERYBODY: Json = {}
WEB = {"matchLabels": {"app": "web"}}
# Specs of NetworkPolicies, in as few words as the API takes.
SPECS: dict[str, Json] = {
    "nothing": {"podSelector": EVERYBODY},
    "empty": {"podSelector": EVERYBODY, "ingress": [], "egress": []},
    "all-in": {"podSelector": WEB, "ingress": [{}]},
    "egress-by-rules": {"podSelector": WEB, "egress": [{}]},
    "egress-only": {"podSelector": WEB, "policyTypes": ["Egress"]},
    "inert": {"podSelector": WEB, "policyTypes": ["Egress"], "ingress": [{"from": [{"podSelector": WEB}]}]},
    "both": {"podSelector": WEB, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"port": 53}]}]},
    "peers": {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]},
        "ingress": [
            {"from": [{"podSelector": WEB}, {"namespaceSelector": EVERYBODY}]},
            {"from": [{"podSelector": EVERYBODY, "namespaceSelector": {"matchLabels": {"team": "x"}}}]},
            {"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}]},
            {"from": []},
        ],
    },
    "ports": {
        "podSelector": WEB,
        "ingress": [
            {"ports": [{"port": 80}, {"port": "http"}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": 9}]},
            {"ports": [{"protocol": "TCP", "port": 8000, "endPort": 9000}, {}]},
            {"ports": []},
        ],
    },
    "blocks": {
        "podSelector": WEB,
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.3.4/32"]}}]}],
        "egress": [
            {"to": [{"ipBlock": {"cidr": "fd00::/8"}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}
        ],
    },
}
PODS: dict[str, Json] = {
    "shop/web-0": {
        "labels": {"app": "web", "tier": "front"},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "podIP": "10.0.0.1"},
    },
    "shop/api-0": {
        "labels": {"app": "api"},
        "spec": {
            "nodeName": "n2",
            "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 1}]}],
            "containers": [
                {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}, {"containerPort": 7}]},
                {"ports": [{"name": "http", "containerPort": 80}]},
            ],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]},
    },
    "shop/job-0": {"spec": {"nodeName": "n2", "containers": [{}]}, "status": {"phase": "Succeeded"}},
    "tools/net-0": {
        "labels": {"app": "net"},
        "spec": {"nodeName": "n1", "hostNetwork": True, "containers": [{}]},
        "status": {"phase": "Running", "hostIP": "192.0.2.1", "podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}]},
    },
    "tools/waits": {"spec": {"containers": [{}]}},
}


@pytest.fixture(params=[True, False], ids=["streaming", "paged"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A real one, with three namespaces, on an etcd that can do streaming lists, and on the system's."""
    with apiserver(tmp_path, streaming=request.param) as one:
        for name, team in (("shop", "x"), ("tools", "y")):
            one.call("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {"team": team}}})
            account = f"/api/v1/namespaces/{name}/serviceaccounts"
            one.call("POST", account, {"metadata": {"name": "default"}})  # which a controller makes in a whole cluster
        yield one


def manifest(key: str) -> Json:
    """One of PODS, as somebody writes it."""
    namespace, _, name = key.partition("/")
    of = PODS[key]
    spec = dict(of["spec"])
    for field in ("containers", "initContainers"):
        if field in spec:
            spec[field] = [{"name": f"{field[0]}{at}", "image": "i", **one} for at, one in enumerate(spec[field])]
    return {"metadata": {"namespace": namespace, "name": name, "labels": of.get("labels", {})}, "spec": spec}


def path(key: str, *more: str) -> str:
    """Of a Pod."""
    namespace, _, name = key.partition("/")
    return "/".join((f"/api/v1/namespaces/{namespace}/pods", name, *more))


def create(server: ApiServer) -> None:
    """All pods and policies are there."""
    for key, of in PODS.items():
        server.call("POST", path(key).rpartition("/")[0], manifest(key))
        if "status" in of:
            server.call("PATCH", path(key, "status"), {"status": of["status"]}, MERGE)
    for name, spec in SPECS.items():
        of_shop = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"
        server.call("POST", of_shop, {"metadata": {"name": name}, "spec": spec})


def told_as_written(sink: PolicySink) -> bool:
    """True if what was told is what the manifests say, but for what only the server knows of a pod."""
    policies = {
        f"shop/{name}": objects.policy({"metadata": {"namespace": "shop", "name": name}, "spec": spec})
        for name, spec in SPECS.items()
    }
    pods = {key: objects.pod({**manifest(key), "status": PODS[key].get("status")}) for key in PODS}
    told = {key: replace(one, uid=key, created="") for key, one in sink.cluster.pods.items()}
    assert all(one.uid != key and one.created for key, one in sink.cluster.pods.items())
    return (told, sink.cluster.policies) == (pods, policies)


def access(server: ApiServer, token: Path) -> KubeAccess:
    """By the ServiceAccount's token."""
    return KubeAccess(server.url, "n1", "", ca=server.ca, token=token)


def test_what_is_told_is_what_was_written(server: ApiServer, tmp_path: Path) -> None:
    """With the least rights; its defaulting is ours; and while the server is away all stays as it was."""
    token = tmp_path / "token"
    token.write_text(server.account("cni-py"))
    create(server)
    with following(access(server, token), TIMING) as (sink, source):
        sink.until(lambda now: 'cannot watch resource "networkpolicies"' in now.trouble_now, WAIT_S)
        server.grant(yaml.safe_load(DOCUMENT.read_text().split("```yaml\n")[1].split("```")[0]), "cni-py")
        sink.until(lambda now: not now.news.empty(), WAIT_S)
        sink.until(told_as_written)
        sink.until(lambda now: not now.trouble_now)
        assert sink.cluster.namespaces["shop"].labels == {"team": "x", "kubernetes.io/metadata.name": "shop"}
        assert sink.reasons == {}

        # a pod's addresses are known before its kubelet tells, and then by its kubelet
        source.announce("tools/waits", (ip_address("10.0.0.9"), ip_address("fd00::9")))
        sink.until(lambda now: now.cluster.pods["tools/waits"].announced)
        assert list(map(str, sink.cluster.pods["tools/waits"].addresses)) == ["10.0.0.9", "fd00::9"]
        status = {"status": {"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}}
        server.call("PATCH", path("tools/waits", "status"), status, MERGE)
        sink.until(lambda now: not now.cluster.pods["tools/waits"].announced)
        assert list(map(str, sink.cluster.pods["tools/waits"].addresses)) == ["10.0.0.9"]

        server.stop()
        sink.until(lambda now: "cannot be reached" in now.trouble_now, WAIT_S)
        words = sink.news.qsize()
        server.start("--feature-gates", "WatchList=false")
        sink.until(lambda now: not now.trouble_now, WAIT_S)
        assert sink.news.qsize() == words

        server.call("DELETE", path("shop/web-0") + "?gracePeriodSeconds=0")
        server.call("PATCH", path("shop/api-0"), {"metadata": {"labels": {"app": "web"}}}, MERGE)
        sink.until(lambda now: "shop/web-0" not in now.cluster.pods)
        sink.until(lambda now: now.cluster.pods["shop/api-0"].labels == {"app": "web"})


def test_another_pod_of_the_name_is_not_written(server: ApiServer, tmp_path: Path) -> None:
    """The uid goes with the PATCH, and the server holds to it."""
    token = tmp_path / "token"
    token.write_text("admin")
    create(server)
    with following(access(server, token), TIMING) as (sink, source):
        sink.until(lambda now: not now.news.empty(), WAIT_S)
        reflected = source._reflected
        old = reflected.get("tools/waits")
        assert isinstance(old, Pod)
        server.call("DELETE", path("tools/waits") + "?gracePeriodSeconds=0")
        server.call("POST", path("tools/waits").rpartition("/")[0], manifest("tools/waits"))
        sink.until(lambda now: now.cluster.pods.get("tools/waits", old).uid != old.uid)
        assert source._loop is not None
        source._loop.call_soon_threadsafe(source._announcer.want, old, (ip_address("10.0.0.9"),))
        source.announce("shop/job-0", (ip_address("10.0.0.8"),))  # after it
        until = time.monotonic() + WAIT_S
        while "cni-py.dev/addresses" not in annotations(server, "shop/job-0"):
            assert time.monotonic() < until
        assert annotations(server, "tools/waits") == {}
        assert sink.trouble_now == ""


def annotations(server: ApiServer, key: str) -> Json:
    """Of a Pod."""
    found: Json = server.call("GET", path(key))["metadata"].get("annotations", {})
    return found
