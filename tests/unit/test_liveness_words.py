"""What probes tell: a table of what arrives and what is said, and the statistics."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from cni_py.model.overlay import BackendName, Facts, Network, Node, Underlay, tunnel_mac
from cni_py.overlay.liveness import LAST, Fault, Sight, Track
from cni_py.overlay.path_sizes import PathSizes
from cni_py.overlay.probe_targets import senders, targets

LINK = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"))
FACTS = Facts(Underlay("eth0", 1500, prefixes=LINK))
CIDRS = (ip_network("10.244.0.0/16"), ip_network("fd44::/32"))


def node(number: int, *, ip4: bool = True, ip6: bool = True, probe_port: int = 9762) -> Node:
    """The node of that number, on the link."""
    cidrs = (ip_network(f"10.244.{number}.0/24"), ip_network(f"fd44:0:{number}::/64"))
    addresses = ip_address(f"192.0.2.{number}"), ip_address(f"2001:db8::{number}")
    return Node(
        f"n{number}",
        cidrs,
        tunnel_mac("lab", f"n{number}"),
        addresses[0] if ip4 else None,  # type: ignore[arg-type]
        addresses[1] if ip6 else None,  # type: ignore[arg-type]
        probe_port=probe_port,
    )


def network(*backends: BackendName) -> Network:
    """By these."""
    return Network("lab", CIDRS, backends)


def track(*seen: float | Fault | None, heard: float = 0.0) -> Track:
    """Answered after so many seconds, refused and so on, or lost."""
    made = Track(heard=heard)
    for one in seen:
        if isinstance(one, float):
            made.answered(one)
        else:
            made.missed(one, f"words of {one}" if one else "")
    return made


def sight(under: Track, over: Track, *backends: BackendName, lost: int | None = None, passes: int = 1450) -> Sight:
    """Of n2 by VXLAN, or as said."""
    where = targets(node(1), node(2), network(*(backends or ("vxlan",))), FACTS)
    assert where is not None
    return Sight(where, PathSizes(where.mtu, 48, passes, lost), under, over)


FINE, SILENT = track(0.1), track(0.1, None, None, None)
REFUSED = track(0.1, "refused", "refused", "refused")
UNREACHABLE = track(0.1, "unreachable", "unreachable", "unreachable")
HEARD, UNSENT = track(None, None, None, heard=9.0), track("unsent", "unsent", "unsent")
NEW = track()
HOLE = "VXLAN packets to UDP port 4789 of 192.0.2.2 "


@pytest.mark.parametrize(
    ("under", "over", "words"),
    [
        (NEW, NEW, ""),
        (FINE, NEW, ""),
        (FINE, FINE, ""),
        (track(0.1, None, None), FINE, ""),
        (FINE, track(0.1, None, None), ""),
        (track(0.1, None), SILENT, HOLE + "do not come through: is the port filtered?"),
        (FINE, SILENT, HOLE + "do not come through: is the port filtered?"),
        (FINE, HEARD, HOLE + "are lost, those from it arrive: is the port filtered there?"),
        (FINE, REFUSED, "UDP port 9762 of 10.244.2.0 is refused through the tunnel, though its agent runs"),
        (FINE, UNREACHABLE, "nothing can be sent through the tunnel to 10.244.2.0: words of unreachable"),
        (FINE, UNSENT, "nothing can be sent through the tunnel to 10.244.2.0: words of unsent"),
        (REFUSED, REFUSED, "its agent does not run: 192.0.2.2 refuses UDP port 9762"),
        (REFUSED, FINE, "its agent does not run: 192.0.2.2 refuses UDP port 9762"),
        (SILENT, REFUSED, "its agent does not run: 192.0.2.2 refuses UDP port 9762"),
        (
            REFUSED,
            SILENT,
            "its agent does not run: 192.0.2.2 refuses UDP port 9762; "
            + HOLE
            + "do not come through: is the port filtered?",
        ),
        (
            SILENT,
            FINE,
            "UDP port 9762 of 192.0.2.2 does not answer on the underlay (filtered?), but the tunnel carries",
        ),
        (SILENT, SILENT, "unreachable: 192.0.2.2 answers no probe, nor does the tunnel"),
        (UNREACHABLE, SILENT, "unreachable: 192.0.2.2 is down or cut off (words of unreachable)"),
        (
            SILENT,
            HEARD,
            "it asks, but does not answer: packets to UDP port 9762 of 192.0.2.2 are lost, also through the tunnel",
        ),
        (UNSENT, UNSENT, "nothing can be sent to 192.0.2.2: words of unsent"),
        (track(*[0.1, None, 0.1, 0.1] * 5), FINE, "25% of the packets are lost on the underlay"),
        (FINE, track(*[0.1, None] * 5, 0.1), "45% of the packets are lost through the tunnel"),
    ],
)
def test_what_is_said(under: Track, over: Track, words: str) -> None:
    """By what comes back on the underlay and through the tunnel."""
    assert sight(under, over).diagnose(5.0) == words


def test_what_is_said_without_a_tunnel() -> None:
    """No word of one."""
    for under, words in (
        (NEW, ""),
        (FINE, ""),
        (SILENT, "unreachable: 192.0.2.2 answers no probe"),
        (REFUSED, "its agent does not run: 192.0.2.2 refuses UDP port 9762"),
        (HEARD, "it asks, but does not answer: packets to UDP port 9762 of 192.0.2.2 are lost"),
    ):
        assert sight(under, NEW, "host-gw").diagnose(5.0) == words


def test_sizes_are_said() -> None:
    """What passes, what the tunnel adds, what pods have."""
    found = sight(FINE, FINE, lost=1355, passes=1354)
    path = "the path's MTU is 1404 (VXLAN takes 50 of it), pods have 1450"
    assert found.diagnose(5.0) == f"packets of more than 1354 bytes are lost on the way: {path}"
    found.sizes.told = True
    assert "do not fit the way, and its routers say so: " in found.diagnose(5.0)
    found.sizes.searching = True
    assert found.diagnose(5.0) == "packets of 1355 bytes are lost on the way, small ones pass; pods have 1450"
    plain = sight(FINE, NEW, "host-gw", lost=1405, passes=1404)
    assert plain.diagnose(5.0).endswith("are lost on the way: the path's MTU is 1404, pods have 1500")


def test_statistics() -> None:
    """The round-trip time is smoothed and goes with silence; loss is over the last; what was refused is not lost."""
    found = track(0.1, 0.9)
    assert found.rtt == pytest.approx(0.2)
    assert track().loss is None
    assert track(0.1, None, None, None).rtt is None
    assert track(0.1, None, None, None).loss == 0.75
    assert track(0.1, "refused", "refused", "refused").loss == 0
    assert track(*[0.1] * 100, *[None] * LAST).loss == 1
    assert track(*[None] * 100, *[0.1] * LAST).loss == 0
    assert track("refused", None, None, None).state == "silent"
    assert track("refused", None, None).state == "refused"


def test_where_a_peer_is_probed() -> None:
    """IPv4 outside and inside if both have it; each tunnel with what it takes."""
    ones = node(1), node(2)
    found = targets(*ones, network("vxlan"), FACTS)
    assert found is not None
    assert found.over is not None
    assert (str(found.under.target), str(found.over.source), str(found.over.target)) == (
        "192.0.2.2",
        "10.244.1.0",
        "10.244.2.0",
    )
    assert (found.mtu, found.overhead, found.tunnel_port) == (1450, 50, 4789)
    gpe = targets(*ones, network("gpe"), FACTS)
    assert gpe is not None
    assert (gpe.mtu, gpe.overhead, gpe.tunnel, gpe.tunnel_port) == (1464, 36, "VXLAN-GPE", 4790)
    six = targets(node(1), node(2, ip4=False), network("vxlan"), FACTS)
    assert six is not None
    assert (str(six.under.target), six.mtu, six.overhead) == ("2001:db8::2", 1430, 70)
    plain = targets(*ones, network("direct", "vxlan"), FACTS)
    assert plain is not None
    assert (plain.over, plain.mtu) == (None, 1450)
    mixed = targets(*ones, network("direct", "vxlan"), Facts(Underlay("eth0", 1500, prefixes=LINK[:1])))
    assert mixed is not None
    assert mixed.over is not None
    assert str(mixed.over.target) == "fd44:0:2::"
    both = [replace(one, backends=frozenset(("l2",))) for one in ones]
    segment = targets(both[0], both[1], network("l2"), replace(FACTS, backends=frozenset(("l2",))))
    assert segment is not None
    assert segment.over is not None
    assert (str(segment.over.target), segment.tunnel, segment.mtu, segment.overhead) == (
        "10.244.2.1",
        "VXLAN",
        1430,
        50,
    )
    assert ("10.244.2.1", True) in {(str(address), over) for address, over in senders(ones[1], network("l2"))}


def test_whom_nobody_can_ask() -> None:
    """It says no port, or there is no family that both have."""
    assert targets(node(1), node(2, probe_port=0), network("vxlan"), FACTS) is None
    assert targets(node(1, ip6=False), node(2, ip4=False), network("vxlan"), FACTS) is None


def test_where_its_packets_come_from() -> None:
    """Its addresses on the underlay, and those that it has in the pod network."""
    assert {(str(address), over) for address, over in senders(node(2), network("vxlan"))} == {
        ("192.0.2.2", False),
        ("2001:db8::2", False),
        ("10.244.2.0", True),
        ("fd44:0:2::", True),
    }
