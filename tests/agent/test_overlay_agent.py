"""The agent's role overlay on real nodes: it joins, follows, repairs, and its end cuts nobody off."""

import json
import signal
from pathlib import Path

import pytest
from agent.overlay_nodes import cluster, eventually, settings, write_record
from netns.overlay_lab import carry, member, network, place
from netns.plugin import netns as make_netns

from cni_py.model.net import NodeState

pytestmark = pytest.mark.sudo


def test_nodes_of_a_directory_are_joined(tmp_path: Path) -> None:
    """Pods of three nodes talk, one behind a router; the status names each and the way to it."""
    nodes = member(1), member(2), member(3, far=True)
    with cluster(tmp_path, *nodes, of=settings("direct", "vxlan")) as made:
        made.start()
        made.settle(network("direct"))
        status = made.nodes[0].status()
        assert status["joined"]
        assert status["conditions"] == []
        ways = {peer["name"]: {way["backend"] for way in peer["ways"]} for peer in status["peers"]}
        assert ways == {"n2": {"direct"}, "n3": {"vxlan"}}
        pods = made.lab.pods(network("direct"))
        for version in (4, 6):
            carry(pods[0], pods[1], version)
            carry(pods[1], pods[2], version)
        text = made.nodes[0].command("status")
        assert "MTU of pods: 1500 - 50 (VXLAN over IPv4) = 1450" in text
        made.nodes[0].stop()
        assert made.nodes[0].settled(made.records, network("direct"))


def test_without_the_role_attach_calls_are_refused(tmp_path: Path) -> None:
    """With the word that says what to do, and none of that role's listeners is open."""
    with cluster(tmp_path, member(1), member(2), of=settings("vxlan")) as made:
        whole, alone = made.nodes
        alone.roles = "overlay"
        made.start()
        made.settle(network("vxlan"))
        answer = alone.cni("ADD", "c1", {"cniVersion": "1.1.0", "name": "net", "type": "cni-py"}, status=1)
        assert (answer["code"], "--roles attach,overlay" in answer["details"]) == (11, True)
        assert _listeners(alone.pid) == 2 < _listeners(whole.pid)  # of the overlay's links, and of its nftables
        assert alone.status()["joined"]


def _listeners(pid: int) -> int:
    """How many netlink sockets of the node are told of changes."""
    lines = Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]
    return sum(1 for line in lines if int(line.split()[3], 16))


def test_a_deleted_device_is_back(tmp_path: Path) -> None:
    """With all that was on it."""
    with cluster(tmp_path, member(1), member(2), of=settings("vxlan")) as made:
        made.start()
        made.settle(network("vxlan"))
        one = made.nodes[0]
        one.ip("link del cpyvx4")
        seconds = eventually(lambda: one.settled(made.records, network("vxlan")), "the device is back")
        assert seconds < 2


def test_peers_come_change_and_go(tmp_path: Path) -> None:
    """A file is a peer."""
    with cluster(tmp_path, member(1), member(2), of=settings("vxlan")) as made:
        made.start()
        one, of = made.nodes[0], network("vxlan")
        made.settle(of)
        third = member(3)
        write_record(made.directory, third)
        eventually(lambda: one.settled([*made.records, third], of), "n3 is there")
        moved = member(3, underlay="4", far=True)
        write_record(made.directory, moved)
        eventually(lambda: one.settled([*made.records, moved], of), "n3 has moved")
        (made.directory / "n3.json").unlink()
        eventually(lambda: one.settled(made.records, of), "n3 is gone")


def test_a_pod_gets_its_nodes_networks_and_mtu(tmp_path: Path) -> None:
    """One configuration for all nodes, without ranges and MTU; pods of other nodes see its own address."""
    with cluster(tmp_path, member(1), member(2), of=settings("vxlan")) as made:
        made.start()
        made.settle(network("vxlan"))
        config = {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "cni-py",
            "ipMasq": True,
            "ipam": {"type": "cni-py-ipam", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]},
        }
        pods = []
        for one in made.nodes:
            name = f"p{one.name}"
            config["ipam"]["dataDir"] = f"/run/{one.name}/leases"  # type: ignore[index]  # one /run for all here
            config["stateDir"] = f"/run/{one.name}/state"
            make_netns(name)
            result = one.cni("ADD", name, config)
            assert result["interfaces"][-1]["mtu"] == 1450
            pods.append(place(name, result))
        assert str(pods[0].ip4) == "10.244.1.2"
        assert str(pods[1].ip6) == "fd44:0:2::2"
        for version in (4, 6):
            carry(pods[0], pods[1], version)
        for one in made.nodes:
            one.cni("DEL", f"p{one.name}", config)


def test_routes_and_plan_tell_what_is_and_what_would_be(tmp_path: Path) -> None:
    """On a live node, as text and as JSON; a dry run changes nothing."""
    with cluster(tmp_path, member(1), member(2), of=settings("vxlan")) as made:
        made.start()
        made.settle(network("vxlan"))
        one = made.nodes[0]
        eventually(lambda: one.saved({"n1", "n2"}), "the nodes are on disk")
        config = ("--config", str(one.config))
        found = {route["pods"]: route for route in json.loads(one.command("routes", *config, "-o", "json"))}
        assert found["10.244.2.0/24"] == {
            "pods": "10.244.2.0/24",
            "peer": "n2",
            "by": "vxlan",
            "device": "cpyvx4",
            "to": "192.0.2.2",
            "mtu": 1450,
            "metric": 142,
        }
        assert found["10.244.0.0/16"]["by"] == "unreachable"
        assert "10.244.2.0/24  n2    vxlan" in one.command("routes", *config)
        assert one.command("plan", *config) == "nothing to do\n"
        one.agent.signal(signal.SIGSTOP)  # type: ignore[union-attr]
        one.ip("link del cpyvx4")
        steps = json.loads(one.command("plan", *config, "-o", "json", status=1))
        assert "make vxlan 'cpyvx4'" in steps
        assert not one.settled(made.records, network("vxlan"))
        assert "no way" not in one.command("routes", *config)
        one.agent.signal(signal.SIGCONT)  # type: ignore[union-attr]


def test_uninstall_leaves_nothing_of_it(tmp_path: Path) -> None:
    """Once the agent has ended: before, it says that one serves."""
    with cluster(tmp_path, member(1), member(2), of=settings("gpe")) as made:
        made.start()
        one = made.nodes[0]
        made.settle(network("gpe"))
        eventually(lambda: one.saved({"n1", "n2"}), "the nodes are on disk")
        said = one.command("uninstall", "--bin-dir", "/nowhere", status=1)
        assert one.settled(made.records, network("gpe")), said
        with one.place_of_agent() as command:
            one.stop()
            said = command("uninstall", "--bin-dir", "/nowhere")
        # These are mounts of the test's.
        assert said.endswith("left of cni-py:\n  /var/lib/cni-py\n  /run/cni-py\n")
        assert "overlay: delete 'cpygpe'" in said
        assert not one.member.read(NodeState()).routes
        assert not one.saved({"n1", "n2"})
