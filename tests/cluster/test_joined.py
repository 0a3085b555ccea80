"""Nodes with agents, joined by a real etcd and by a real API server: pods of all of them talk, in every backend."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agent.overlay_nodes import Cluster, Joined, cluster, eventually, settings
from cluster.apiserver import apiserver, write_kubeconfig
from cluster.etcd_server import Etcd
from netns.overlay_lab import carry, member, network, place
from netns.plugin import netns as make_netns

from cni_py.model.overlay import BackendName

pytestmark = pytest.mark.sudo
FABRIC = "192.0.2.254"
WAYS: list[tuple[BackendName, ...]] = [("vxlan",), ("gpe",), ("direct", "vxlan"), ("host-gw",)]


def pods_talk(made: Cluster) -> None:
    """One configuration for all nodes; each pod reaches each other one, with both families."""
    pods = []
    for one in made.nodes:
        name = f"p{one.name}"
        make_netns(name)
        config = {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "cni-py",
            "ipMasq": True,
            "ipam": {
                "type": "cni-py-ipam",
                "dataDir": f"/run/{one.name}/leases",
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
            "stateDir": f"/run/{one.name}/state",
        }
        pods.append(place(name, one.cni("ADD", name, config)))
    for client in pods:
        for server in pods:
            if client is not server:
                carry(client, server, 4)
                carry(client, server, 6)


def joined(made: Cluster) -> None:
    """Each agent knows all others, and has nothing to complain of."""
    names = {one.name for one in made.nodes}
    for one in made.nodes:
        eventually(partial(knows, one, names - {one.name}), f"{one.name} knows all")
    for one in made.nodes:
        assert one.status()["conditions"] == []


def knows(one: Joined, names: set[str]) -> bool:
    """True if these are its peers."""
    return {peer["name"] for peer in one.status()["peers"]} == names


def configured(made: Cluster, of: Mapping[str, Any], **peers: Any) -> None:
    """All nodes with these peers; what is a node's own is in braces."""
    for one in made.nodes:
        one.configure({**of, "peers": json.loads(json.dumps(peers).replace("{name}", one.name))})


@contextmanager
def etcd_at(directory: Path, address: str) -> Iterator[Etcd]:
    """One that the nodes reach."""
    store = Etcd(directory, "--unsafe-no-fsync", address=address)
    try:
        yield store
    finally:
        store.kill()


@pytest.mark.parametrize("backends", WAYS, ids="-".join)
def test_nodes_with_etcd(backends: tuple[BackendName, ...], tmp_path: Path) -> None:
    """Two nodes take their networks from its pools."""
    of = settings(*backends)
    with cluster(tmp_path, member(1), member(2), of=of) as made, etcd_at(tmp_path, FABRIC) as store:
        access = {"endpoints": [store.url], "identity": "{name}"}
        configured(made, of, source="etcd", etcd=access)
        for one in made.nodes:
            one.start()
        joined(made)
        pods_talk(made)


@pytest.mark.parametrize("backends", WAYS, ids="-".join)
def test_nodes_with_an_api_server(backends: tuple[BackendName, ...], tmp_path: Path) -> None:
    """Three nodes, one behind a router unless all need one link; Node objects made by hand."""
    of = settings(*backends)
    nodes = member(1), member(2), member(3, far=backends != ("host-gw",))
    with cluster(tmp_path, *nodes, of=of) as made, apiserver(tmp_path, address=FABRIC) as server:
        for node in made.records:
            server.add_node(node.name, *map(str, node.cidrs))
        kubeconfig = tmp_path / "kubeconfig"
        write_kubeconfig(kubeconfig, server)
        configured(made, of, source="kubernetes", kubeconfig=str(kubeconfig))
        for one in made.nodes:
            one.start()
        joined(made)
        pods_talk(made)
        for node in made.records:
            conditions = server.call("GET", f"/api/v1/nodes/{node.name}")["status"]["conditions"]
            assert ("NetworkUnavailable", "False") in {(one["type"], one["status"]) for one in conditions}
        server.stop()  # for long: nobody is cut off, and it is told
        eventually(lambda: any(c["name"] == "source" for c in made.nodes[0].status()["conditions"]), "it is told")
        one = made.nodes[0]
        one.ip("route flush proto 143")
        eventually(lambda: one.settled(made.records, network(backends[0])), "what somebody deletes meanwhile is back")
