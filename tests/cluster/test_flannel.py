"""A node of ours among flanneld's, by a real flanneld and a real etcd: pods of both reach each other."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from agent.overlay_nodes import cluster
from cluster.apiserver import apiserver, write_kubeconfig
from cluster.etcd_server import Etcd, etcd
from cluster.etcd_watcher import Watcher
from cluster.flanneld import Flanneld, flanneld, routed, until
from netns.nat_lab import Place
from netns.overlay_lab import CLUSTER, Families, Lab, Member, carry, lab, member, whole_datagram
from netns.snapshot import output

from cni_py.cluster.etcd import EtcdSource, Timing
from cni_py.cluster.etcd_access import EtcdAccess
from cni_py.cluster.flannel_etcd import FlannelKeys
from cni_py.kernel import netns
from cni_py.model.overlay import BackendName, Network
from cni_py.overlay.select import pod_mtu

QUICK = Timing(ttl=3600, beat=0.2, answer=2.0, first=0.02, last=0.2, gather=0.0)
CONFIG = {"Network": "10.5.0.0/16", "SubnetLen": 24}
DUAL = {**CONFIG, "EnableIPv6": True, "IPv6Network": "fd05::/48"}


@dataclass
class World:
    """The lab, etcd in its router, and flannel's network as our node has it."""

    lab: Lab
    server: Etcd
    path: Path
    network: Network

    def flanneld(self, one: Member) -> Flanneld:
        """It runs on the node, which gets the pod networks that flanneld took."""
        made = Flanneld(one, self.path, "-etcd-endpoints", self.server.url)
        one.node = replace(one.node, cidrs=made.cidrs)
        return made


class Ours:
    """A node of ours: a source in flannel's keys, and passes of the overlay by what it tells."""

    def __init__(self, world: World, one: Member) -> None:
        self.seen = Watcher()
        self._world, self._member = world, one
        keys = FlannelKeys(one.node.name, f"id-{one.node.name}")
        self.source = EtcdSource(EtcdAccess((world.server.url,)), keys, timing=QUICK)
        self.source.start(self.seen)
        self.source.publish(replace(one.node, vni=1, vxlan_port=8472))
        self.seen.until(lambda seen: one.node.name in seen.nodes)
        one.node = replace(one.node, cidrs=self.seen.nodes[one.node.name].cidrs)

    def passed(self, peers: int) -> None:
        """The kernel is as it is to be for that many peers."""
        self.seen.until(lambda seen: len(seen.nodes) == peers + 1)
        assert not self.seen.reason
        assert not self.seen.skipped
        self._member.passed(list(self.seen.nodes.values()), self._world.network)

    def stop(self) -> None:
        """It has ended; what it made in the kernel stays, and so does its lease."""
        self.source.stop()


@contextmanager
def world(path: Path, backend: BackendName, config: dict[str, object]) -> Iterator[World]:
    """Two nodes and a router with etcd, which holds flannel's configuration."""
    families: Families = "46" if "EnableIPv6" in config else "4"
    with ExitStack() as stack:
        made = stack.enter_context(lab(path, *(member(number, families, families) for number in (1, 2))))
        server = stack.enter_context(etcd(path, address="192.0.2.254"))
        server.put("/coreos.com/network/config", json.dumps({**config, "Backend": {"Type": backend}}))
        cidrs = tuple(ip_network(str(config[name])) for name in ("Network", "IPv6Network") if name in config)
        yield World(made, server, path, Network("flannel", cidrs, (backend,), vni=1, vxlan_port=8472))


def reach(places: list[Place], version: int = 4) -> None:
    """Pods ping each other and exchange TCP, both ways, with their own addresses."""
    for client, server in (places, places[::-1]):
        with netns.entered(client.fd):
            output("busybox", f"ping{version if version == 6 else ''}", "-c", "1", "-W", "5", server.address(version))
        carry(client, server, version)


@pytest.mark.sudo
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
@pytest.mark.parametrize("first", ["flanneld", "ours"])
def test_pods_of_both_reach_each_other(tmp_path: Path, backend: BackendName, first: str) -> None:
    """Whoever joined first; a datagram as large as the MTU that flannel leaves passes as well."""
    with world(tmp_path, backend, CONFIG) as made, ExitStack() as stack:
        theirs, mine = made.lab.members
        if first == "flanneld":
            stack.enter_context(_running(made, theirs))
        ours = Ours(made, mine)
        stack.callback(ours.stop)
        if first == "ours":
            stack.enter_context(_running(made, theirs))
        ours.passed(1)
        peer = ours.seen.nodes["192.0.2.1"]
        assert peer.cidrs == theirs.node.cidrs
        assert peer.backends == {backend}
        device = "flannel.1" if backend == "vxlan" else "192.0.2.2"
        until(lambda: routed(theirs, mine.node.cidrs[0], device), lambda: str(_told(made, tmp_path)))
        pods = made.lab.pods(made.network)
        reach(pods)
        whole_datagram(pods[0], pods[1], 4, pod_mtu(mine.node, made.network, mine.facts()).value).close()
        assert _told(made, tmp_path)[0].count("error") == 0


@pytest.mark.sudo
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_a_node_changes_over_and_back(tmp_path: Path, backend: BackendName) -> None:
    """From flanneld to ours under running pods, and back: the same network each time, and its peer hears of it."""
    with world(tmp_path, backend, CONFIG) as made, ExitStack() as stack:
        theirs, mine = made.lab.members
        stack.enter_context(_running(made, theirs))
        old = made.flanneld(mine)
        stack.callback(old.stop)
        cidrs = mine.node.cidrs
        until(lambda: routed(theirs, cidrs[0]) and routed(mine, theirs.node.cidrs[0]), old.said)
        pods = made.lab.pods(made.network)
        reach(pods)
        old.stop()
        if backend == "vxlan":
            mine.ip("link del flannel.1")
        else:
            mine.ip(f"route del {theirs.node.cidrs[0]}")
        ours = Ours(made, mine)
        stack.callback(ours.stop)
        assert mine.node.cidrs == cidrs
        ours.passed(1)
        if backend == "vxlan":
            until(lambda: mine.node.mac in output("bridge", "-n", "n1", "fdb", "show", "dev", "flannel.1"), old.said)
        reach(pods)
        ours.stop()
        mine.ip("route flush proto 143")
        if backend == "vxlan":
            mine.ip("link del cpyvx4")
        again = made.flanneld(mine)
        stack.callback(again.stop)
        assert mine.node.cidrs == cidrs
        if backend == "vxlan":
            mac = json.loads(output("ip", "-n", "n2", "-j", "link", "show", "flannel.1"))[0]["address"]
            until(lambda: mac in output("bridge", "-n", "n1", "fdb", "show", "dev", "flannel.1"), again.said)
        until(lambda: routed(mine, theirs.node.cidrs[0]), again.said)
        reach(pods)


@pytest.mark.sudo
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
@pytest.mark.parametrize("first", ["flanneld", "ours"])
def test_both_families(tmp_path: Path, backend: BackendName, first: str) -> None:
    """A lease of two networks; IPv6 as IPv4, with `vxlan` by a device of its own on either side."""
    with world(tmp_path, backend, DUAL) as made, ExitStack() as stack:
        theirs, mine = made.lab.members
        if first == "flanneld":
            stack.enter_context(_running(made, theirs))
        ours = Ours(made, mine)
        stack.callback(ours.stop)
        if first == "ours":
            stack.enter_context(_running(made, theirs))
        assert [cidr.version for cidr in mine.node.cidrs] == [4, 6]
        ours.passed(1)
        for cidr in mine.node.cidrs:
            until(lambda cidr=cidr: routed(theirs, cidr), lambda: str(_told(made, tmp_path)))  # type: ignore[misc]
        pods = made.lab.pods(made.network)
        reach(pods)
        reach(pods, 6)
        mtu = pod_mtu(mine.node, made.network, mine.facts()).value
        whole_datagram(pods[0], pods[1], 4, mtu).close()
        whole_datagram(pods[0], pods[1], 6, mtu - (20 if backend == "vxlan" else 0)).close()


@contextmanager
def _running(made: World, one: Member) -> Iterator[Flanneld]:
    with flanneld(one, made.path, "-etcd-endpoints", made.server.url) as running:
        one.node = replace(one.node, cidrs=running.cidrs)
        yield running


def _told(made: World, path: Path) -> tuple[str, object]:
    logs = [log.read_text() for log in sorted(path.glob("*-flanneld.log"))]
    return "\n".join(logs), made.server.get("/coreos.com/network/subnets")


@pytest.mark.sudo
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
@pytest.mark.parametrize("families", ["4", "46"])
def test_with_kubernetes(tmp_path: Path, backend: BackendName, families: Families) -> None:
    """Flanneld and ours on Nodes of a real API server: each takes the other for one of its own by its annotations."""
    cidrs = CLUSTER[: len(families)]
    settings = {
        "network": {
            "cluster": "lab",
            "cidrs": list(map(str, cidrs)),
            "backends": [backend],
            "vni": 1,
            "vxlanPort": 8472,
        },
        "peers": {"source": "kubernetes", "kubeconfig": str(tmp_path / "kubeconfig"), "flannel": True},
    }
    nodes = member(1, families, families), member(2, families, families)
    with cluster(tmp_path, *nodes, of=settings) as made, apiserver(tmp_path, address="192.0.2.254") as server:
        for node in nodes:
            server.add_node(node.name, *map(str, node.cidrs))
        write_kubeconfig(tmp_path / "kubeconfig", server)
        config = tmp_path / "net-conf.json"
        of_flannel = {"Network": str(cidrs[0]), "Backend": {"Type": backend}}
        both = {"EnableIPv6": True, "IPv6Network": str(cidrs[1])} if len(cidrs) > 1 else {}
        config.write_text(json.dumps(of_flannel | both))
        theirs, ours = made.lab.members[0], made.nodes[1]
        store = ("-kube-subnet-mgr", "-kubeconfig-file", str(tmp_path / "kubeconfig"), "-net-config-path", str(config))
        with flanneld(theirs, tmp_path, *store) as running:
            ours.start()
            for cidr in ours.member.node.cidrs:
                until(lambda cidr=cidr: routed(theirs, cidr), running.said)  # type: ignore[misc]
            until(lambda: [one["name"] for one in ours.status()["peers"]] == ["n1"], ours.log.read_text)
            of = Network("lab", cidrs, (backend,), vni=1, vxlan_port=8472)
            pods = made.lab.pods(of)
            for version in map(int, families):
                reach(pods, version)
            assert ours.status()["conditions"] == []
