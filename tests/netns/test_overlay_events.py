"""What wakes the overlay: others' changes to its links and all on them, and to the underlay; no pod does."""

import socket
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
            quiet = False
            while not quiet:  # of young links the kernel goes on to tell for a moment, of their own addresses
                events.wait(0.3)
                quiet = not events.take()
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


SEGMENT_FOREIGN = [
    "ip link del cpybr",
    "ip link set cpybr down",
    "ip link set cpybr type bridge mcast_snooping 1",
    "ip link set cpyvx4 nomaster",
    "bridge link set dev cpyvx4 isolated off",
    "ip link set cpyvx4 type vxlan nolearning",
    "ip addr del 10.244.1.1/16 dev cpybr",
    "ip route del 10.244.0.0/16 dev cpybr",
    "bridge fdb del 00:00:00:00:00:00 dev cpyvx4 dst 192.0.2.2",
    "bridge fdb append 00:00:00:00:00:00 dev cpyvx4 dst 192.0.2.9",
    "bridge fdb add 0e:00:00:00:00:09 dev cpyvx4 dst 192.0.2.9 self permanent",
]


@pytest.fixture
def segment(watched: Watched) -> Watched:
    """The same node in a segment, as a reconciler that has made it listens."""
    watched.one.passed([member(2)], network("l2"))
    ours = [watched.one.kernel.index(name) or 0 for name in ("cpybr", "cpyvx4")]
    watched.events.links(ours, [watched.one.kernel.index("eth0") or 0], learning=True)
    watched.told()
    return watched


@pytest.mark.parametrize("command", SEGMENT_FOREIGN)
def test_what_others_do_to_a_segment_is_told(segment: Watched, command: str) -> None:
    """To its bridge, its tunnel, and where everybody's frames go."""
    subprocess.run(command.split(), check=True)
    assert segment.told().drift


def test_what_is_learned_in_a_segment_is_not(segment: Watched) -> None:
    """By tunnel, bridge and node; nor are ports that come and go."""
    ip("link add cpy000000000001 type veth peer name x")
    ip("link set cpy000000000001 up master cpybr")
    ip("link set x up")
    for command in (
        "bridge fdb add 0a:00:00:00:00:01 dev cpyvx4 dst 192.0.2.2 self dynamic",
        "bridge fdb add 0a:00:00:00:00:02 dev cpy000000000001 master dynamic",
        "bridge fdb del 0a:00:00:00:00:01 dev cpyvx4 dst 192.0.2.2 self",
        "ip neigh replace 10.244.1.5 lladdr 0a:00:00:00:00:01 dev cpybr nud reachable",
    ):
        subprocess.run(command.split(), check=True)
    ip("link del cpy000000000001")
    assert segment.told() == NOTHING


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


UNDONE = [
    "bridge fdb del MAC dev cpyvx4",
    "bridge fdb replace MAC dev cpyvx4 dst 192.0.2.66 self permanent",
    "ip neigh del 10.244.3.0 dev cpyvx4",
    "ip neigh replace 10.244.3.0 lladdr 0e:00:00:00:00:66 nud permanent dev cpyvx4",
]


@pytest.mark.parametrize("command", UNDONE)
def test_what_others_undo_at_once_is_told(watched: Watched, command: str) -> None:
    """Before it was heard that we did it: only the very change that we made is taken for ours."""
    watched.told()
    of, peer = network("vxlan"), member(3)
    desired = watched.one.desired([peer], of)
    ops = converge(desired, watched.one.read(desired))
    watched.events.expect(ops)
    assert not watched.one.kernel.apply(ops)
    subprocess.run(command.replace("MAC", peer.mac).split(), check=True)
    assert watched.told() == DRIFT


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


def test_what_was_lost_counts_as_everything(watched: Watched) -> None:
    """More than the kernel keeps for us (ENOBUFS)."""
    watched.told()
    buffer = 4096
    watched.events._route._socket.setsockopt(socket.SOL_SOCKET, 33, buffer)  # SO_RCVBUFFORCE
    for number in range(200):
        ip(f"neigh replace 10.244.2.0 lladdr 0e:00:00:00:00:{number:02x} dev cpyvx4")
    assert watched.told() == Foreign(drift=True, underlay=True)
    assert watched.told() == NOTHING
