"""A node's whole agent on a real API server: its Pods, its NetworkPolicies, and a server that goes and comes back."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.apiserver import ApiServer, apiserver, write_kubeconfig
from netns.plugin import routed
from policy.test_policies import eventually
from policy.test_policy_agent import CIDRS, Setup, arrives, command, from_app

pytestmark = pytest.mark.sudo
PODS = "/api/v1/namespaces/shop/pods"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"
MERGE = "application/merge-patch+json"
BAD = {"cidr": "010.0.0.0/8"}  # which the API takes, and nobody knows how it is meant


class Shop(Setup):
    """The node n1 of a cluster, and the namespace shop."""

    def __init__(self, directory: Path, server: ApiServer) -> None:
        super().__init__(directory)
        self.server = server
        kubeconfig = directory / "kubeconfig"
        write_kubeconfig(kubeconfig, server)
        policy = {"source": "kubernetes", "kubeconfig": str(kubeconfig), "cidrs": CIDRS}
        self.settings.write_text(json.dumps({"node": {"name": "n1"}, "policy": policy}))
        server.call("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
        server.call(
            "POST", "/api/v1/namespaces/shop/serviceaccounts", {"metadata": {"name": "default"}}
        )  # which a controller would make

    def schedule(self, name: str, app: str) -> None:
        """A Pod of this node, as the scheduler leaves it."""
        spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}], "automountServiceAccountToken": False}
        made = self.server.call("POST", PODS, {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})
        self.uids[name] = made["metadata"]["uid"]

    def events(self, name: str) -> list[str]:
        """What Events say about an object of that name."""
        found = self.server.call("GET", "/apis/events.k8s.io/v1/namespaces/shop/events")["items"]
        return [one["note"] for one in found if one["regarding"]["name"] == name]

    def annotations(self, name: str) -> dict[str, str]:
        """Of a Pod."""
        found: dict[str, str] = self.server.call("GET", f"{PODS}/{name}")["metadata"].get("annotations", {})
        return found

    def enforce(self, name: str, spec: dict[str, Any], *, new: bool = True) -> None:
        """That policy, `new` or another than before."""
        body = {"metadata": {"name": name}, "spec": spec}
        self.server.call("POST" if new else "PUT", POLICIES if new else f"{POLICIES}/{name}", body)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A node of a cluster with a real API server."""
    with apiserver(tmp_path) as server:
        made = Shop(tmp_path, server)
        yield made
        for fd in made.fds:
            os.close(fd)


def test_policies_of_a_cluster(shop: Shop) -> None:
    """From the API's objects to packets; addresses are announced at ADD; all goes on while the server is away."""
    for name, app in (("web", "web"), ("db", "db"), ("cache", "cache")):
        shop.schedule(name, app)
    shop.enforce("allow", from_app("db"))
    with shop.agent():
        web, db, cache = (shop.attach(name) for name in ("web", "db", "cache"))
        for version in (4, 6):
            assert arrives(db, web, version, patience=5)
            assert not arrives(cache, web, version)
        announced = ",".join((str(web.ip4), str(web.ip6)))
        eventually(lambda: shop.annotations("web").get("cni-py.dev/addresses") == announced, "the others hear of it")
        denied = "denied: shop/cache -> shop/web UDP 80, ingress, by shop/allow"
        eventually(lambda: denied in shop.events("web"), "the Pod says so")
        shop.enforce(
            "odd", {"podSelector": {"matchLabels": {"app": "none"}}, "ingress": [{"from": [{"ipBlock": BAD}]}]}
        )
        eventually(lambda: any("allows less" in one for one in shop.events("odd")), "the policy says so")
        shop.server.call("PATCH", f"{PODS}/cache", {"metadata": {"labels": {"app": "db"}}}, MERGE)
        eventually(lambda: arrives(cache, web), "by its new label")
        shop.enforce("allow", from_app("nobody"), new=False)
        eventually(lambda: not arrives(db, web), "by the new policy")
        shop.schedule("late", "web")
        eventually(lambda: "4 pods" in command("status")[1], "it is told of")
        shop.server.stop()
        late = shop.attach("late")
        assert not arrives(db, late)
        assert not arrives(db, web)
        code, error = shop.caller("unknown").process("ADD", routed())
        assert (code, error["code"], "has not told of the pod shop/unknown" in error["msg"]) == (1, 11, True)
        eventually(lambda: "! source" in command("status")[1], "the operator is told")
    with shop.agent():  # which knows nothing: no pod starts, and what holds goes on to hold
        assert not arrives(db, web)
        code, error = shop.caller("unknown").process("ADD", routed())
        assert (code, error["code"], "not known yet" in error["msg"]) == (1, 11, True)
        shop.server.start()
        eventually(lambda: "in the kernel" in command("status")[1], "it knows all again", seconds=60)
        assert not arrives(db, web)
        shop.server.call("DELETE", f"{POLICIES}/allow")
        eventually(lambda: arrives(db, web), "nothing restricts it any more")
