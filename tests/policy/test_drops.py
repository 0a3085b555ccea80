"""What is dropped is told: by which pods, ports and policies; counted in the kernel; and hostile packets read."""

import struct
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy.policy_lab import Lab, address, lab
from policy.test_policies import allow, eventually, pod, running

from cni_py.agent.drops import Drop, Drops
from cni_py.kernel.nflog import Nflog, parse_packet
from cni_py.kernel.policy_table import PolicyTable
from cni_py.model.errors import KernelError
from cni_py.model.policy import ICMP, TCP, UDP, Flow, Policy, Selector
from cni_py.policy import table

_V4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
_V6_ENDS = ip_address("fd00::1").packed + ip_address("fd00::2").packed
PORTS = struct.pack("!HH", 40000, 80)
FLOW4, FLOW6 = (
    Flow(ip_address("10.0.0.1"), ip_address("10.0.0.2"), TCP, 80),
    Flow(ip_address("fd00::1"), ip_address("fd00::2"), UDP, 80),
)


@pytest.fixture
def place() -> Iterator[Lab]:
    """A node with nine pods."""
    with lab() as made:
        yield made


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_V4 + PORTS, (FLOW4, 40000)),
        (_V4, (Flow(FLOW4.source, FLOW4.destination, TCP, 0), 0)),
        (_V4[:6] + b"\x00\x10" + _V4[8:] + PORTS, (Flow(FLOW4.source, FLOW4.destination, TCP, 0), 0)),
        (struct.pack("!IHBB", 6 << 28, 8, UDP, 64) + _V6_ENDS + PORTS, (FLOW6, 40000)),
        (struct.pack("!IHBB", 6 << 28, 8, 0, 64) + _V6_ENDS + bytes((UDP, 0)) + bytes(6) + PORTS, (FLOW6, 40000)),
        (
            struct.pack("!IHBB", 6 << 28, 8, 44, 64) + _V6_ENDS + struct.pack("!BBHI", UDP, 0, 8, 1) + PORTS,
            (Flow(FLOW6.source, FLOW6.destination, UDP, 0), 0),
        ),
        (b"", None),
        (_V4[:19], None),
        (b"\x60" + bytes(38), None),
        (bytes(60), None),
    ],
    ids=["tcp", "short", "fragment", "udp6", "hop-by-hop", "fragment6", "nothing", "cut", "cut6", "no version"],
)
def test_packets(data: bytes, expected: tuple[Flow, int] | None) -> None:
    """The flow of a packet of which only the beginning is there."""
    assert parse_packet(data) == expected


@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    """Whatever a pod sends is a flow or none."""
    parse_packet(data)


@pytest.mark.sudo
def test_drops_are_named(place: Lab) -> None:
    """Both directions, in force and in audit: who, where to, and by which policies."""
    told: list[Drop] = []
    audited = Policy("shop", "watch", Selector(), None, (), audit=True)
    with running() as (policies, source, _):
        drops = Drops(policies.name, told.append)
        drops.start()
        try:
            source.say(pod(1, "web"), pod(2, "db"), pod(3), allow("db"), audited)
            with place.pods[3].socket(2, 2) as client:
                client.sendto(b"x", (str(address(1, 4)), 80))
                eventually(lambda: len(told) > 1, "both are told")
        finally:
            drops.stop()
        kernel = PolicyTable(table.layout(guards_node=True))
        with closing(kernel):
            counted = [one.key for one in kernel.elements(table.DENIED["ingress", False][4])]
    out, dropped = sorted(told, key=lambda one: one.direction)
    assert (out.direction, out.audit, out.policies) == ("egress", True, ("shop/watch",))
    assert (dropped.direction, dropped.audit, dropped.policies) == ("ingress", False, ("shop/allow",))
    assert (dropped.source_pod, dropped.destination_pod) == ("shop/p3", "shop/p1")
    assert (dropped.source, dropped.destination, dropped.protocol, dropped.port) == ("10.0.0.3", "10.0.0.1", "UDP", 80)
    assert dropped.line() == "denied: shop/p3 -> shop/p1 UDP 80, ingress, by shop/allow"
    assert out.line() == "would be denied: shop/p3 -> shop/p1 UDP 80, egress, by shop/watch"
    assert counted == [(address(3, 4), address(1, 4), UDP, 80)]
    assert drops.since(dropped.number - 1)[:1] == [dropped]


@pytest.mark.sudo
def test_portless_drops_are_counted_once(place: Lab) -> None:
    """Of ICMP each packet has another checksum where others have ports: one flow all the same."""
    with running() as (_, source, _):
        source.say(pod(1), pod(2), Policy("shop", "closed", Selector(), ()))
        for _ in range(3):
            place.matrix(set())
        kernel = PolicyTable(table.layout(guards_node=True))
        with closing(kernel):
            keys = {one.key for one in kernel.elements(table.DENIED_PORTLESS["ingress", False][4])}
    assert (address(2, 4), address(1, 4), ICMP) in keys
    assert len(keys) <= 12


@pytest.mark.sudo
def test_group_in_use() -> None:
    """Another program that reads the group is named as a possible reason."""
    with closing(Nflog(table.NFLOG_GROUP, 96)), pytest.raises(KernelError, match="NFLOG group 86"):
        Nflog(table.NFLOG_GROUP, 96)
