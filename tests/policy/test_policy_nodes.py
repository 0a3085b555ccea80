"""Two nodes joined by an overlay, each with the role policy: both sides of a connection decide, on their own nodes."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from agent.overlay_nodes import Cluster, Joined, cluster, settings
from netns.nat_lab import Place
from netns.overlay_lab import member
from netns.plugin import netns as make_netns
from policy.test_policies import eventually
from policy.test_policy_agent import arrives, from_app, namespace, pod, policy

from cni_py.kernel import netns

pytestmark = pytest.mark.sudo
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "cni-py", "ipam": {"type": "cni-py-ipam", "routes": ROUTES}}


class Pods:
    """The pods of a cluster, and the directory of manifests that all its nodes read."""

    def __init__(self, made: Cluster, directory: Path, stack: ExitStack) -> None:
        self.made, self.directory, self._stack = made, directory, stack
        self.addresses: dict[str, list[str]] = {}
        self.apps: dict[str, str] = {}

    def attach(self, one: Joined, name: str, app: str) -> Place:
        """A pod of that app on the node; its labels are told first, its addresses to the others after its ADD."""
        self.apps[name] = app
        self.say()
        make_netns(name)
        result = one.cni("ADD", name, CONFIG, args=f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};IgnoreUnknown=1")
        self.addresses[name] = [entry["address"].split("/")[0] for entry in result["ips"]]
        self.say()
        fd = netns.open_path(f"/run/netns/{name}")
        self._stack.callback(os.close, fd)
        found = {ip_address(text).version: ip_address(text) for text in self.addresses[name]}
        return Place(name, fd, found[4], found[6], "eth0")  # type: ignore[arg-type]

    def say(self) -> None:
        """The manifests of all pods."""
        items = [namespace("shop")]
        for name, app in self.apps.items():
            one = pod(name, app=app)
            one["status"] = {"phase": "Running", "podIPs": [{"ip": ip} for ip in self.addresses.get(name, [])]}
            items.append(one)
        self._write("pods", {"apiVersion": "v1", "kind": "List", "items": items})

    def enforce(self, *policies: dict[str, object]) -> None:
        """These are all policies."""
        self._write("policies", {"apiVersion": "v1", "kind": "List", "items": list(policies)})

    def _write(self, name: str, document: object) -> None:
        beside = self.directory / f".{name}"
        beside.write_text(json.dumps(document))
        beside.rename(self.directory / f"{name}.json")


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    """Two nodes, joined, with the role policy."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    of = settings("vxlan", policy={"directory": str(manifests)})
    with ExitStack() as stack, cluster(tmp_path, member(1), member(2), of=of) as made:
        found = Pods(made, manifests, stack)
        found.enforce()
        for one in made.nodes:
            one.roles = "attach,overlay,policy"
        made.start()
        for one in made.nodes:
            eventually(lambda one=one: bool(one.status()["peers"]) and one.status()["joined"], "joined")  # type: ignore[misc]
        yield found


def test_both_nodes_decide(pods: Pods) -> None:
    """Ingress on the destination's node by the labels of pods elsewhere, egress on the source's, labels that change."""
    first, second = pods.made.nodes
    pods.enforce(policy("allow", from_app("db")))
    web = pods.attach(first, "web", "web")
    db, cache = pods.attach(second, "db", "db"), pods.attach(second, "cache", "cache")
    for version in (4, 6):
        eventually(lambda version=version: arrives(db, web, version), "the allowed one gets through")  # type: ignore[misc]
        assert not arrives(cache, web, version)
        assert arrives(web, cache, version, patience=5)
    pods.apps["cache"] = "db"
    pods.say()
    eventually(lambda: arrives(cache, web), "by its new label")
    nobody = policy("out", {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]})
    pods.enforce(policy("allow", from_app("db")), nobody)
    eventually(lambda: not arrives(cache, web), "its own node lets nothing out")
    assert not arrives(db, web, 6)
    assert arrives(web, cache, patience=5)  # ingress there is not restricted
