"""Probes on real nodes: what passes is measured, and what does not is told apart and named."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent.overlay_nodes import Cluster, Joined, cluster, eventually, settings, write_record
from netns.nat_lab import Place
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
    seen = {}

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
    seen = {}

    def fine() -> bool:
        seen.update(peer(one, name))
        return seen["problem"] == "" and seen["loss"] == 0 and seen["path_mtu"] == mtu

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
