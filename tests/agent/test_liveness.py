"""Probes on real nodes: what passes is measured, and what does not is told apart and named."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent.overlay_nodes import Cluster, Joined, cluster, eventually, settings, write_record
from netns.nat_lab import Place, ip
from netns.overlay_lab import member, network

from cni_py.kernel.netns import entered
from cni_py.model.overlay import BackendName, Node

pytestmark = pytest.mark.sudo

PORT = 9762
SECONDS = 0.3
LONG = 60


@contextmanager
def probing(path: Path, *nodes: Node, by: BackendName = "vxlan", **more: Any) -> Iterator[Cluster]:
    """Nodes whose agents know each other's port of probes, started and settled."""
    of = settings(by, probeSeconds=SECONDS, **more)
    with cluster(path, *nodes, of=of) as made:
        for node in made.records:
            write_record(made.directory, node, probe=PORT)
        for one in made.nodes:
            one.start()
        made.settle(network(by))
        yield made


def peer(one: Joined, name: str = "n2") -> dict[str, Any]:
    """What status tells of a peer."""
    return next(found for found in one.status()["peers"] if found["name"] == name)


def eventually_told(one: Joined, words: str, name: str = "n2") -> dict[str, Any]:
    """The status names the problem with the peer so."""
    seen: dict[str, Any] = {}

    def told() -> bool:
        seen.update(peer(one, name))
        return words in seen["problem"]

    try:
        eventually(told, words, LONG)
    except AssertionError:
        raise AssertionError(f"{words!r} was not told but {seen}") from None
    return seen


def eventually_fine(one: Joined, mtu: int, name: str = "n2") -> dict[str, Any]:
    """Probes pass, and packets of that size."""
    seen: dict[str, Any] = {}

    def fine() -> bool:
        seen.update(peer(one, name))
        return (seen["problem"], seen["loss"], seen["path_mtu"]) == ("", 0, mtu)

    try:
        eventually(fine, "all is fine", LONG)
    except AssertionError:
        raise AssertionError(f"not fine: {seen}") from None
    return seen


def nft(place: Place, hook: str, rule: str) -> None:
    """A rule before all others, in the table `lab` of the node's namespace."""
    with entered(place.fd):
        chain = f"add table inet lab; add chain inet lab {hook} {{ type filter hook {hook} priority -300; }}"
        subprocess.run(["nft", f"{chain}; add rule inet lab {hook} {rule}"], check=True)


def unfiltered(place: Place) -> None:
    """No rule of `nft` is there any more."""
    with entered(place.fd):
        subprocess.run(["nft", "delete table inet lab"], check=True)


@pytest.mark.parametrize(("by", "mtu"), [("vxlan", 1450), ("gpe", 1464)])
def test_round_trip_loss_and_path_mtu_are_measured(tmp_path: Path, by: BackendName, mtu: int) -> None:
    """On both ways, for a peer on the link and one behind a router; after them the conditions are empty."""
    with probing(tmp_path, member(1), member(2), member(3, far=True), by=by) as made:
        for name in ("n2", "n3"):
            seen = eventually_fine(made.nodes[0], mtu, name)
            assert 0 < seen["rtt_ms"] < 1000
            assert seen["probed"] == ["underlay", "overlay"]
        eventually(lambda: made.nodes[0].status()["conditions"] == [], "no condition")
        assert f"0%    {mtu}" in made.nodes[0].command("status")


def test_a_filtered_tunnel_is_named(tmp_path: Path) -> None:
    """Which way it is filtered, as far as one end can tell, and that it is over."""
    with probing(tmp_path, member(1), member(2)) as made:
        one, two = made.nodes
        eventually_fine(one, 1450)
        nft(two.member.place, "input", "udp dport 4789 drop")
        seen = eventually_told(one, "VXLAN packets to UDP port 4789 of 192.0.2.2 are lost, those from it arrive")
        eventually_told(two, "VXLAN packets to UDP port 4789 of 192.0.2.1 do not come through: is", "n1")
        assert seen["rtt_ms"] is None
        conditions = {found["name"]: found["text"] for found in one.status()["conditions"]}
        assert "1 of 1 peers: n2: VXLAN packets" in conditions["probes"]
        unfiltered(two.member.place)
        eventually_fine(one, 1450)


def test_a_filtered_tunnel_of_a_segment_is_named(tmp_path: Path) -> None:
    """Though nobody tells the MAC of its bridge any more."""
    with probing(tmp_path, member(1), member(2), by="l2") as made:
        one, two = made.nodes
        assert eventually_fine(one, 1430)["probed"] == ["underlay", "overlay"]
        nft(two.member.place, "input", "udp dport 4789 drop")
        one.ip("neigh flush dev cpybr")
        eventually_told(one, "VXLAN packets to UDP port 4789 of 192.0.2.2 ")


def test_a_path_that_swallows_large_packets_is_named_with_its_sizes(tmp_path: Path) -> None:
    """A switch drops what is too large for a port, without a word; the bridge has 4 bytes to spare for a VLAN."""
    with probing(tmp_path, member(1), member(2)) as made:
        one, two = made.nodes
        eventually_fine(one, 1450)
        for filtering in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):  # else br_netfilter fragments
            filtering.write_text("0")
        ip("link set un2 mtu 1400")
        words = (
            "packets of more than 1354 bytes are lost on the way: "
            "the path's MTU is 1404 (VXLAN takes 50 of it), pods have 1450"
        )
        assert eventually_told(one, words)["path_mtu"] == 1354
        eventually_told(two, words, "n1")
        ip("link set un2 mtu 1500")
        eventually_fine(one, 1450)


def test_a_router_that_swallows_large_packets_and_says_nothing(tmp_path: Path) -> None:
    """Over IPv6, whose routers never fragment, to a peer behind one; nor does its ICMP get through."""
    with probing(tmp_path, member(1, underlay="6"), member(3, underlay="6", far=True)) as made:
        one = made.nodes[0]
        eventually_fine(one, 1430, "n3")
        chain = "add table inet lab; add chain inet lab output { type filter hook output priority 0; }"
        rule = "add rule inet lab output icmpv6 type packet-too-big drop"
        subprocess.run(["nft", f"{chain}; {rule}"], check=True)
        ip("link set br1 mtu 1400")
        words = "packets of more than 1330 bytes are lost on the way: the path's MTU is 1400 (VXLAN takes 70 of it)"
        assert eventually_told(one, words, "n3")["path_mtu"] == 1330


def test_a_router_that_says_so_is_no_black_hole(tmp_path: Path) -> None:
    """Its ICMP arrives, so the tunnel tells pods to send less."""
    with probing(tmp_path, member(1, underlay="6"), member(3, underlay="6", far=True)) as made:
        one = made.nodes[0]
        eventually_fine(one, 1430, "n3")
        ip("link set br1 mtu 1400")
        assert eventually_told(one, "do not fit the way", "n3")["path_mtu"] == 1330


def test_an_agent_that_is_stopped_is_no_black_hole(tmp_path: Path) -> None:
    """Its kernel goes on, and says itself that nobody listens; what is wrong beyond that is still told."""
    with probing(tmp_path, member(1), member(2)) as made:
        one, two = made.nodes
        eventually_fine(one, 1450)
        two.stop()
        seen = eventually_told(one, "its agent does not run: 192.0.2.2 refuses UDP port 9762")
        assert "VXLAN" not in seen["problem"]
        assert seen["loss"] == 0
        nft(two.member.place, "input", "udp dport 4789 drop")
        eventually_told(one, "; VXLAN packets to UDP port 4789 of 192.0.2.2 do not come through")
        unfiltered(two.member.place)
        two.start()
        eventually_fine(one, 1450)


def test_an_agent_that_hangs_is_unreachable(tmp_path: Path) -> None:
    """Nothing tells it from a node that is down."""
    with probing(tmp_path, member(1), member(2)) as made:
        one, two = made.nodes
        eventually_fine(one, 1450)
        two.agent.signal(signal.SIGSTOP)  # type: ignore[union-attr]
        eventually_told(one, "unreachable: 192.0.2.2 answers no probe, nor does the tunnel")
        two.agent.signal(signal.SIGCONT)  # type: ignore[union-attr]
        eventually_fine(one, 1450)


def test_a_node_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    """After a while all that is counted is lost."""
    with probing(tmp_path, member(1), member(2), member(3, far=True)) as made:
        one = made.nodes[0]
        eventually_fine(one, 1450)
        ip("link del un2")
        eventually_told(one, "unreachable: 192.0.2.2")
        eventually(lambda: peer(one)["loss"] == 1, "all is lost", LONG)
        eventually_fine(one, 1450, "n3")


def test_a_filtered_port_of_probes_is_not_taken_for_the_tunnels(tmp_path: Path) -> None:
    """On the underlay alone, in one direction, and by a firewall of this node."""
    with probing(tmp_path, member(1), member(2)) as made:
        one, two = made.nodes
        eventually_fine(one, 1450)
        nft(two.member.place, "input", "iifname eth0 udp dport 9762 drop")
        eventually_told(one, "UDP port 9762 of 192.0.2.2 does not answer on the underlay (filtered?), but the tunnel")
        unfiltered(two.member.place)
        eventually_fine(one, 1450)
        nft(two.member.place, "input", "udp dport 9762 @th,104,8 1 drop")  # requests, not answers
        eventually_told(one, "it asks, but does not answer: packets to UDP port 9762 of 192.0.2.2 are lost")
        unfiltered(two.member.place)
        eventually_fine(one, 1450)
        nft(one.member.place, "output", "udp dport 9762 drop")
        eventually_told(one, "nothing can be sent to 192.0.2.2: operation not permitted")


def test_plain_routes_are_probed_on_the_underlay_alone(tmp_path: Path) -> None:
    """No tunnel takes anything, so the path has to take the underlay's whole MTU."""
    with probing(tmp_path, member(1), member(2), by="host-gw") as made:
        assert eventually_fine(made.nodes[0], 1500)["probed"] == ["underlay"]


def test_a_peer_that_answers_no_probes_is_not_judged(tmp_path: Path) -> None:
    """Nothing is known, so nothing is told."""
    with probing(tmp_path, member(1), member(2)) as made:
        one = made.nodes[0]
        write_record(made.directory, member(2))
        eventually(lambda: peer(one)["probed"] == [], "n2 is not probed any more")
        assert (peer(one)["loss"], peer(one)["problem"]) == (None, "")


def test_a_taken_port_is_a_condition(tmp_path: Path) -> None:
    """The node is joined without probes, and has them once the port is free."""
    with cluster(tmp_path, member(1), member(2), of=settings("vxlan", probeSeconds=SECONDS)) as made:
        one = made.nodes[0]
        with entered(one.member.place.fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("", PORT))
            made.start()
            told = {found["name"]: found["text"] for found in one.status()["conditions"]}
            assert "UDP port 9762 cannot be had for probes (address already in use)" in told["probe port"]
        for node in made.records:
            write_record(made.directory, node, probe=PORT)
        eventually_fine(one, 1450)
        assert one.status()["conditions"] == []
