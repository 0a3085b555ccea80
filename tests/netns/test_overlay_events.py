"""What wakes the overlay: others' changes to its links and all on them, and to the underlay; no pod does."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from netns.nat_lab import ip, sysctl
from netns.overlay_lab import Member, lab, member, network

from cni_py.kernel import nft
from cni_py.kernel.netlink import NetlinkSocket
from cni_py.kernel.netns import entered
from cni_py.kernel.overlay_events import Foreign, OverlayEvents
from cni_py.model.converge import converge
from cni_py.model.overlay import tunnel_mac
from cni_py.overlay import guard

pytestmark = pytest.mark.sudo
NOTHING, DRIFT, UNDERLAY = Foreign(), Foreign(drift=True), Foreign(underlay=True)


@dataclass
class Watched:
    """A node with its overlay, and what is told of it."""

    events: OverlayEvents
    nft: NetlinkSocket
    one: Member

    def told(self) -> Foreign:
        """What came by now; the kernel tells before a change returns."""
        return self.events.take()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """The node n1 with n2 as its peer, by VXLAN; this thread is on the node."""
    with lab(tmp_path, member(1), member(2)) as made:
        one = made.members[0]
        made.settle(network("vxlan"))
        with entered(one.place.fd):
            socket = nft.connect()
            events = OverlayEvents(one.kernel.port, socket.port)
            events.links([one.kernel.index("cpyvx4") or 0], [one.kernel.index("eth0") or 0])
            try:
                yield Watched(events, socket, one)
            finally:
                events.close()
                socket.close()


FOREIGN = [
    ("link del cpyvx4", DRIFT),
    ("link set cpyvx4 down", DRIFT),
    ("link set cpyvx4 mtu 1400", DRIFT),
    ("link set cpyvx4 address 0e:00:00:00:00:99", DRIFT),
    ("addr del 10.244.1.0/32 dev cpyvx4", DRIFT),
    ("addr add 10.9.9.9/32 dev cpyvx4", DRIFT),
    ("route del 10.244.2.0/24", DRIFT),
    ("-6 route del fd44:0:2::/64", DRIFT),
    ("route replace 10.244.2.0/24 dev eth0 metric 142 proto 143", DRIFT),
    ("neigh del 10.244.2.0 dev cpyvx4", DRIFT),
    ("neigh replace 10.244.2.0 lladdr 0e:00:00:00:00:99 dev cpyvx4", DRIFT),
    ("link set eth0 mtu 1400", UNDERLAY),
    ("addr add 192.0.2.77/24 dev eth0", UNDERLAY),
    ("addr del 192.0.2.1/24 dev eth0", UNDERLAY),
    ("route add 192.0.2.99/32 via 192.0.2.2", UNDERLAY),
    ("route del default", UNDERLAY),
]


@pytest.mark.parametrize(("command", "told"), FOREIGN, ids=[one for one, _ in FOREIGN])
def test_what_others_do_is_told(watched: Watched, command: str, told: Foreign) -> None:
    """By what it concerns."""
    assert watched.told() == NOTHING
    ip(command)
    found = watched.told()
    assert found.drift >= told.drift
    assert found.underlay >= told.underlay


def test_entries_of_the_tunnel_are_told(watched: Watched) -> None:
    """As bridge(8) changes them."""
    watched.told()
    subprocess.run(["bridge", "fdb", "del", tunnel_mac("lab", "n2"), "dev", "cpyvx4"], check=True)
    assert watched.told() == DRIFT


def test_what_pods_bring_about_is_not(watched: Watched) -> None:
    """Links of theirs with addresses and routes, which come and go."""
    watched.told()
    ip("link add cpy000000000001 type veth peer name x")
    ip("link set cpy000000000001 up")
    ip("link set x up")
    ip("addr add 10.244.1.1/32 dev cpy000000000001")
    ip("route add 10.244.1.5/32 dev cpy000000000001 proto 142")
    ip("neigh replace 10.244.1.5 lladdr 0a:00:00:00:00:01 dev cpy000000000001")
    ip("link del cpy000000000001")
    assert watched.told() == NOTHING


def test_our_own_changes_are_not(watched: Watched) -> None:
    """Neither of links and routes nor of the table."""
    watched.told()
    of, peer = network("vxlan"), member(3)
    desired = watched.one.desired([peer], of)
    ops = converge(desired, watched.one.read(desired))
    watched.events.expect(ops)
    assert not watched.one.kernel.apply(ops)
    nft.commit(watched.nft, guard.everything(of, guard.sources([peer])), look=True)
    nft.commit(watched.nft, guard.forbid(of, guard.sources([peer])))
    assert watched.told() == NOTHING


def test_the_table_is_watched(watched: Watched) -> None:
    """Only ours."""
    nft.commit(watched.nft, guard.everything(network("vxlan"), ()), look=True)
    subprocess.run(["nft", "add", "table", "inet", "other"], check=True)
    subprocess.run(["nft", "delete", "table", "inet", "other"], check=True)
    assert watched.told() == NOTHING
    subprocess.run(["nft", "flush", "chain", "inet", "cnipy_guard", "guard_input"], check=True)
    assert watched.told() == DRIFT


def test_a_sysctl_of_the_whole_node_is_told(watched: Watched) -> None:
    """Forwarding that somebody turned off."""
    sysctl("ipv4/ip_forward", "1")
    watched.told()
    sysctl("ipv4/ip_forward", "0")
    assert watched.told() == DRIFT


def test_without_an_underlay_any_link_may_be_it(watched: Watched) -> None:
    """It is told when it comes."""
    watched.events.links([], [])
    watched.told()
    ip("link add late type veth peer name y")
    assert watched.told() == UNDERLAY
