"""Kubernetes as a source of nodes, against a real kube-apiserver: the least rights, three nodes, and its absence."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
import yaml
from cluster.apiserver import WAIT_S, ApiServer, apiserver
from cluster.kube_told import Told

from cni_py.cluster.kube import KubeSource
from cni_py.cluster.kube_access import KubeAccess
from cni_py.cluster.kube_api import Timing
from cni_py.model.overlay import Node
from cni_py.model.peers import View

TIMING = Timing(first=0.1, most=1.0)
DOCUMENT = Path(__file__).parent.parent.parent / "docs/peers-kubernetes.md"
NAMES = ("n1", "n2", "n3")


@pytest.fixture(params=[True, False], ids=["streaming", "paged"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A real one, on an etcd that can do streaming lists, and on the system's, which need not."""
    with apiserver(tmp_path, streaming=request.param) as one:
        yield one


def own(number: int) -> Node:
    """What the node n`number` publishes."""
    return Node(
        f"n{number}", (), f"0e:00:00:00:00:0{number}", IPv4Address(f"192.0.2.{number}"), vni=142, vxlan_port=4789
    )


def complete(view: View) -> bool:
    """True if all three are there, and all that are not the viewer itself with an address."""
    return view.nodes.keys() == set(NAMES) and sum(one.ip4 is not None for one in view.nodes.values()) == 2


@pytest.mark.sudo
def test_three_nodes(server: ApiServer, tmp_path: Path) -> None:
    """From no rights at all to a network of three, one of which goes, and an API server that goes and comes."""
    token = tmp_path / "token"
    token.write_text(server.account("cni-py"))
    for number in (1, 2, 3):
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        server.add_node(f"n{number}", f"10.244.{number}.0/24", f"fd44:0:{number}::/64", conditions=[ready])
    with ExitStack() as stack:
        sources, all_told = [], [Told(WAIT_S) for _ in NAMES]
        for name, told in zip(NAMES, all_told, strict=True):
            access = KubeAccess(server.url, name, "test", ca=server.ca, token=token)
            sources.append(KubeSource(access, TIMING))
            sources[-1].start(told)
            stack.callback(sources[-1].stop)
        for told in all_told:
            assert 'cannot watch resource "nodes"' in told.troubled("(403)")

        server.grant(yaml.safe_load(DOCUMENT.read_text().split("```yaml\n")[1].split("```")[0]), "cni-py")
        for told in all_told:
            told.troubled("")
        assert [told.next().nodes.keys() for told in all_told] == [{name} for name in NAMES]
        for number, source in enumerate(sources, 1):
            source.joined()  # before the record, so that it is there when the record is
            source.publish(own(number))
        views = [told.until(complete) for told in all_told]
        for number, view in enumerate(views, 1):
            peer = view.nodes["n1" if number != 1 else "n2"]
            cidrs = (ip_network(f"10.244.{peer.name[1]}.0/24"), ip_network(f"fd44:0:{peer.name[1]}::/64"))
            assert peer == replace(own(int(peer.name[1])), cidrs=cidrs, uid=peer.uid, since=peer.since)
            assert peer.uid
            assert peer.since
        for name in NAMES:
            conditions = conditions_of(server, name)
            assert conditions["NetworkUnavailable"]["status"] == "False"
            assert conditions["NetworkUnavailable"]["reason"] == "CniPyIsUp"
            assert conditions["Ready"]["reason"] == "KubeletReady"

        server.call("DELETE", "/api/v1/nodes/n3")
        for told in all_told[:2]:
            assert told.until(lambda view: "n3" not in view.nodes).nodes.keys() == {"n1", "n2"}
        assert all_told[2].until(lambda view: "n3" not in view.nodes).nodes.keys() == {"n1", "n2"}
        all_told[2].troubled("no Node of the name n3")

        # a server of another release, which has no streaming lists: what was known is read in pages and is the same
        server.stop()
        for told in all_told:
            told.troubled("cannot be reached")
        server.start("--feature-gates", "WatchList=false")
        all_told[0].troubled("")
        assert [told.news.qsize() for told in all_told] == [0, 0, 0]
        late = Told(WAIT_S)
        source = KubeSource(KubeAccess(server.url, "n1", "test", ca=server.ca, token=token), TIMING)
        source.start(late)
        stack.callback(source.stop)
        assert late.next().nodes.keys() == {"n1", "n2"}

        patch = {"metadata": {"annotations": {"cni-py.dev/node": "{"}}}
        server.call("PATCH", "/api/v1/nodes/n2", patch, "application/merge-patch+json")
        assert "no JSON" in all_told[0].next().skipped["n2"]
        assert all_told[0].until(lambda view: "n2" in view.nodes).nodes["n2"].ip4 == IPv4Address("192.0.2.2")


def conditions_of(server: ApiServer, name: str) -> dict[str, dict[str, str]]:
    """The conditions of a Node, by their type."""
    found = server.call("GET", f"/api/v1/nodes/{name}")["status"]["conditions"]
    return {one["type"]: one for one in found}
