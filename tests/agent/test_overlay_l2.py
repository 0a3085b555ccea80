"""Agents that make one segment: one configuration of the plugin for all nodes, and what is taken away comes back."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent.overlay_nodes import Cluster, Joined, cluster, eventually, settings
from netns.nat_lab import Place
from netns.overlay_lab import carry, member, network, place
from netns.plugin import netns as make_netns

from cni_py.kernel.netns import entered

pytestmark = pytest.mark.sudo
L2 = network("l2")


def _config(one: Joined) -> dict[str, Any]:
    """The same on all nodes, but for the directories: here they share one /run."""
    return {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "cni-py",
        "mode": "l2",
        "ipMasq": True,
        "stateDir": f"/run/{one.name}/state",
        "ipam": {
            "type": "cni-py-ipam",
            "dataDir": f"/run/{one.name}/leases",
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }


def _pod(one: Joined, stack: ExitStack, **more: Any) -> tuple[Place, Mapping[str, Any]]:
    name = f"p{one.name}"
    make_netns(name)
    result = one.cni("ADD", name, {**_config(one), **more})
    made = place(name, result)
    stack.callback(os.close, made.fd)
    return made, result


@contextmanager
def _segment(tmp_path: Path, *underlays: str) -> Iterator[tuple[Cluster, list[Place], ExitStack]]:
    """Nodes of these underlays with their agents, and a pod on each."""
    nodes = [member(number, underlay=under) for number, under in enumerate(underlays, 1)]  # type: ignore[arg-type]
    with cluster(tmp_path, *nodes, of=settings("l2")) as made, ExitStack() as stack:
        made.start()
        made.settle(L2)
        yield made, [_pod(one, stack)[0] for one in made.nodes], stack


def test_pods_get_what_the_segment_needs(tmp_path: Path) -> None:
    """Without ranges and MTU: addresses of the node's range, the whole network on the link, the node as gateway."""
    with cluster(tmp_path, member(1), member(2), of=settings("l2")) as made, ExitStack() as stack:
        made.start()
        made.settle(L2)
        first, result = _pod(made.nodes[0], stack)
        second, _ = _pod(made.nodes[1], stack)
        assert [(one["address"], one["gateway"]) for one in result["ips"]] == [
            ("10.244.1.2/16", "10.244.1.1"),
            ("fd44:0:1::2/32", "fd44:0:1::1"),
        ]
        assert result["interfaces"][-1]["mtu"] == 1430
        assert result["interfaces"][0]["name"] == "cpybr"
        for version in (4, 6):
            carry(first, second, version)
            carry(second, first, version)
        one = made.nodes[0]
        one.cni("CHECK", "pn1", {**_config(one), "prevResult": result})
        assert "MTU of pods: 1500 - 70 (VXLAN over IPv6) = 1430" in one.command("status")
        eventually(lambda: one.saved({"n1", "n2"}), "the nodes are on disk")
        assert one.command("plan", "--config", str(one.config)) == "nothing to do\n"
        assert "l2" in one.command("routes", "--config", str(one.config))
        one.cni("DEL", "pn1", _config(one))
        assert one.settled(made.records, L2)


@pytest.mark.parametrize("what", ["link del cpybr", "link del cpyvx4", "link set cpyvx4 nomaster"])
def test_what_is_deleted_is_back_with_the_pods(what: str, tmp_path: Path) -> None:
    """The bridge as it was, and the pods as its ports."""
    with _segment(tmp_path, "46", "46") as (made, (first, second), _):
        one = made.nodes[0]
        for version in (4, 6):
            carry(first, second, version)
        one.ip(what)
        assert eventually(lambda: one.settled(made.records, L2), "the segment is back") < 2
        eventually(lambda: len(_ports(one)) == 2, "the pod is a port again")
        for version in (4, 6):
            carry(second, first, version)
            carry(first, second, version)
        assert one.settled(made.records, L2)


def _ports(one: Joined) -> list[str]:
    with entered(one.member.place.fd):
        told = subprocess.run(["ip", "-o", "link", "show", "master", "cpybr"], check=False, capture_output=True)
    return told.stdout.decode().splitlines()


def test_what_pods_bring_about_wakes_nobody(tmp_path: Path) -> None:
    """What tunnels, bridges and nodes learn of them is no change by others."""
    with _segment(tmp_path, "46", "4", "6") as (made, (first, second, third), stack):
        time.sleep(2.5)  # until the underlay has its own address of IPv6, and the agents heard what they did
        passes = [one.status()["passes"] for one in made.nodes]
        for version in (4, 6):
            carry(first, second, version)
            carry(first, third, version)
        node = made.nodes[0].member.place
        with closing(node.open(4, "udp")) as asking:
            asking.sendto(b"x", (first.address(4), 9))
        made.nodes[0].cni("DEL", "pn1", _config(made.nodes[0]))
        subprocess.run(["ip", "netns", "del", "pn1"], check=True)
        _pod(made.nodes[0], stack)
        time.sleep(0.1)
        assert [one.status()["passes"] for one in made.nodes] == passes
        assert not any("others changed" in one.log.read_text() for one in made.nodes)


def test_a_pod_sends_no_tunnel_packets(tmp_path: Path) -> None:
    """They come by the bridge, whose name begins as pods' devices do; masqueraded they would look like this node's."""
    with _segment(tmp_path, "46", "46") as (made, (first, _), _):
        other = made.nodes[1].member.place
        with closing(other.packet_socket("eth0")) as arriving:
            for port, text in ((4789, b"forged tunnel packet"), (4790, b"another port passes")):
                with closing(first.open(4, "udp")) as asking:
                    asking.sendto(text, ("192.0.2.2", port))
            seen = b""
            while b"another port passes" not in seen:
                seen = arriving.recv(2048)
                assert b"forged tunnel packet" not in seen


def test_sources_are_checked_where_asked(tmp_path: Path) -> None:
    """With `antispoof` neighbour discovery, ARP and data pass as they are, and another's address does not."""
    with cluster(tmp_path, member(1), member(2), of=settings("l2")) as made, ExitStack() as stack:
        made.start()
        made.settle(L2)
        first, _ = _pod(made.nodes[0], stack, antispoof=True)
        second, _ = _pod(made.nodes[1], stack, antispoof=True)
        for version in (4, 6):
            carry(first, second, version)
            carry(second, first, version)
        with entered(first.fd):
            subprocess.run(["ip", "addr", "add", "10.244.1.77/16", "dev", "eth0"], check=True)
        with closing(second.listen(4, "udp", 7)) as listening, closing(first.open(4, "udp")) as asking:
            asking.bind(("10.244.1.77", 0))
            asking.sendto(b"as another", (second.address(4), 7))
            with closing(first.open(4, "udp")) as honest:
                honest.sendto(b"as itself", (second.address(4), 7))
            assert listening.recv(64) == b"as itself"


def test_a_node_that_goes_is_forgotten(tmp_path: Path) -> None:
    """Where it was reached and what was learned of it; who stays goes on."""
    with _segment(tmp_path, "46", "46", "46") as (made, (first, second, third), _):
        one = made.nodes[0]
        carry(first, third, 4)
        assert "dst 192.0.2.3" in _entries(one)
        made.nodes[2].kill()
        (made.directory / "n3.json").unlink()
        eventually(lambda: one.settled(made.records[:2], L2), "n3 is gone")
        assert "192.0.2.3" not in _entries(one)
        with third.open(4, "udp") as asking:  # it still sends, and is not heard
            asking.sendto(b"x", (first.address(4), 9))
        assert "192.0.2.3" not in _entries(one)
        carry(first, second, 6)


def _entries(one: Joined) -> str:
    with entered(one.member.place.fd):
        told = subprocess.run(["bridge", "fdb", "show", "dev", "cpyvx4"], check=True, capture_output=True, text=True)
    return told.stdout
