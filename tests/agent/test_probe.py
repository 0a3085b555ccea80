"""A prober on the kernel's sockets, and a peer of the test's own that answers as it likes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from agent.overlay_nodes import eventually
from netns.nat_lab import ip

from cni_py.agent.conditions import Conditions
from cni_py.agent.probe import Prober
from cni_py.model.overlay import Facts, Network, Node, Underlay, tunnel_mac
from cni_py.overlay.probe_wire import BYTES, Probe, answer_to, parse, render

pytestmark = pytest.mark.sudo

PORT = 9762
OWN, PEER, STRANGER = "192.0.2.1", "192.0.2.2", "192.0.2.9"
OWN6, PEER6 = "2001:db8::1", "2001:db8::2"
NETWORK = Network("lab", (ip_network("10.244.0.0/16"),), ("host-gw",))
FACTS = Facts(Underlay("lo", 1500, prefixes=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))))


def node(name: str, ip4: str, ip6: str) -> Node:
    """With the addresses that are given."""
    cidr = ip_network(f"10.244.{name[1:]}.0/24")
    at4, at6 = IPv4Address(ip4) if ip4 else None, IPv6Address(ip6) if ip6 else None
    return Node(name, (cidr,), tunnel_mac("lab", name), at4, at6, probe_port=9000)


@contextmanager
def prober(*, version: int = 4, seconds: float = 0.1) -> Iterator[tuple[Prober, socket.socket]]:
    """It knows one peer, n2, that is the socket."""
    for address in (f"{OWN}/24", f"{PEER}/24", f"{STRANGER}/24", f"{OWN6}/64 nodad", f"{PEER6}/64 nodad"):
        ip(f"addr add {address} dev lo")
    four = version == 4
    with socket.socket(socket.AF_INET if four else socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind((PEER if four else PEER6, 9000))
        peer.settimeout(10)
        made = Prober(PORT, seconds, Conditions())
        made.start()
        own, other = node("n1", OWN, OWN6), node("n2", PEER if four else "", PEER6)
        made.peers(own, {"n2": other}, NETWORK, FACTS)
        try:
            yield made, peer
        finally:
            made.stop()


def ask(peer: socket.socket) -> Probe:
    """The next request that came to the peer."""
    found = parse(peer.recv(1 << 16))
    assert found is not None
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_it_asks_and_answers(version: int) -> None:
    """From the node's own address and to the port of the peer; its answers come from where they were asked."""
    to = (OWN, PORT) if version == 4 else (OWN6, PORT)
    with prober(version=version) as (made, peer):
        data, sender = peer.recvfrom(1 << 16)
        request = parse(data)
        assert request is not None
        assert (request.kind, sender[:2]) == ("request", to)
        peer.sendto(render(answer_to(request)), to)
        peer.sendto(render(Probe("request", 1000, 7, 8)), to)
        seen = (peer.recv(1 << 16) for _ in range(10))
        found = next(data for data in seen if parse(data) == Probe("answer", 1000, 7, 8))
        assert len(found) == BYTES
        eventually(lambda: made.of("n2")["rtt_ms"] is not None, "an answer counts")
        assert made.of("n2")["probed"] == ["underlay"]


def test_strangers_get_nothing_and_change_nothing() -> None:
    """Nor do malformed packets, answers to no question, wrong ones and replayed ones; they are counted."""
    with prober(seconds=1.0) as (made, peer), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((STRANGER, 9000))
        stranger.settimeout(0)
        good = ask(peer)
        for one in (Probe("request", 1000, 7, 8), answer_to(good)):
            stranger.sendto(render(one), (OWN, PORT))
        for junk in (b"", b"CNIP", render(good)[:-1], render(good) + b"x", bytes(60000), b"CNIP\x02" + bytes(40)):
            peer.sendto(junk, (OWN, PORT))
        peer.sendto(render(Probe("answer", good.size, good.sequence, good.token ^ 1)), (OWN, PORT))
        eventually(lambda: made.ignored == {"stranger": 2, "malformed": 6, "unasked": 1}, "all were counted")
        assert made.of("n2")["rtt_ms"] is None
        with pytest.raises(BlockingIOError):
            stranger.recv(100)
        fresh = ask(peer)
        for _ in range(3):
            peer.sendto(render(answer_to(fresh)), (OWN, PORT))
        eventually(lambda: made.ignored["unasked"] == 3, "an answer counts once")
        assert made.of("n2")["rtt_ms"] is not None


def test_a_flood_costs_little() -> None:
    """Most of it is dropped by the kernel; and afterwards all is as before."""
    with prober() as (made, peer), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((STRANGER, 9000))
        for _ in range(20_000):
            stranger.sendto(b"x", (OWN, PORT))
        assert made.ignored["stranger"] < 10_000

        def answered() -> bool:
            peer.sendto(render(answer_to(ask(peer))), (OWN, PORT))
            return made.of("n2")["loss"] not in {None, 1}

        eventually(answered, "it hears answers again")


def test_a_peer_that_nobody_listens_at_is_told_by_its_kernel() -> None:
    """And errors about one packet are not taken for another's."""
    with prober() as (made, peer):
        peer.close()
        eventually(lambda: "its agent does not run" in made.of("n2")["problem"], "n2 refuses")


def test_a_bug_of_ours_is_a_condition() -> None:
    """It goes on."""
    with prober() as (made, _):
        made.peers(None, {}, NETWORK, FACTS)  # type: ignore[arg-type]
        made.peers(None, {"n2": None}, NETWORK, FACTS)  # type: ignore[dict-item, arg-type]
        eventually(lambda: "unexpected" in str(made._conditions.report()), "it is told")
        assert made._thread.is_alive()
