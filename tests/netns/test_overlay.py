"""Pods on different nodes talk, by every backend, of every family over every family, at the full MTU."""

from pathlib import Path

import pytest
from netns.nat_lab import Place
from netns.overlay_lab import Families, carry, lab, member, network, whole_datagram

from cni_py.kernel.netns import entered
from cni_py.kernel.overlay import OverlayKernel
from cni_py.model.overlay import DEVICES, Network
from cni_py.overlay.select import pod_mtu

pytestmark = pytest.mark.sudo

ALL: tuple[Families, ...] = ("4", "6", "46")
PLAIN: tuple[tuple[Families, Families], ...] = (("4", "4"), ("6", "6"), ("46", "46"), ("4", "6"))
CASES: list[tuple[Network, Families, Families]] = [
    *((network(backend), pods, underlay) for backend in ("vxlan", "gpe") for pods in ALL for underlay in ALL),
    *((network("host-gw"), pods, underlay) for pods, underlay in PLAIN),
    *((network("direct", beyond), "46", underlay) for beyond in ("vxlan", "gpe") for underlay in ALL),
]


def _name(case: tuple[Network, Families, Families]) -> str:
    of, pods, underlay = case
    return f"{'-'.join(of.backends)}-pods{pods}-over{underlay}"


@pytest.mark.parametrize(("of", "pods", "underlay"), CASES, ids=map(_name, CASES))
def test_pods_of_two_nodes_talk(of: Network, pods: Families, underlay: Families, tmp_path: Path) -> None:
    """TCP and a datagram of MTU size pass both ways with the pods' own addresses; a second pass has nothing to do."""
    far = of.backends != ("host-gw",)
    nodes = (member(1, pods, underlay), member(2, pods, underlay), member(3, pods, underlay, far=far))
    with lab(tmp_path, *nodes) as made:
        made.settle(of)
        first, second, third = made.pods(of)
        mtu = pod_mtu(nodes[0], of, made.members[0].facts()).value
        for client, server in ((first, second), (second, first), (first, third), (third, second)):
            _talk(client, server, pods, mtu)
        assert all(one.passed(made.nodes, of) == () for one in made.members)


def test_what_is_read_as_it_is_wanted_is_that_very_object(tmp_path: Path) -> None:
    """So thousands of peers are in memory once."""
    of = network("vxlan")
    with lab(tmp_path, member(1), member(2)) as made:
        made.settle(of)
        desired = made.members[0].desired(made.nodes, of)
        with entered(made.members[0].place.fd):
            fresh = OverlayKernel()
            seen = fresh.read(DEVICES, desired)
            fresh.close()
        pairs = ((seen.routes, desired.routes), (seen.neighbours, desired.neighbours), (seen.fdb, desired.fdb))
        for read, wanted in pairs:
            assert {id(one) for one in read} == {id(one) for one in wanted} != set()


def _talk(client: Place, server: Place, pods: Families, mtu: int) -> None:
    for version in map(int, pods):
        carry(client, server, version)
        whole_datagram(client, server, version, mtu).close()
