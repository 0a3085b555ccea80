"""Which nodes are believed: claims against the network, this node and others, as tables and as a property."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_py.model.overlay import Network, Node
from cni_py.overlay.admit import Admission, Admitted

_NETWORK = Network("c", (ip_network("10.244.0.0/16"), ip_network("fd44::/32")))


def node(number: int, *cidrs: str, ip4: str = "", since: int = 0, uid: str = "") -> Node:
    """With the pod network of its number, unless others are said."""
    return Node(
        f"n{number}",
        tuple(map(ip_network, cidrs or (f"10.244.{number}.0/24",))),
        f"0e:00:00:00:00:{number:02x}",
        IPv4Address(ip4 or f"192.0.2.{number}"),
        since=since,
        uid=uid or f"u{number}",
    )


OWN = node(1)


def admit(*nodes: Node, by: Admission | None = None) -> Admitted:
    """What becomes of them."""
    return (by or Admission(_NETWORK)).admit(OWN, {one.name: one for one in nodes})


def test_who_claims_nothing_of_others_is_believed() -> None:
    """This node is no peer of its own."""
    found = admit(OWN, node(2), node(3))
    assert found == Admitted({"n2": node(2), "n3": node(3)})


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (node(9, "10.0.9.0/24"), "not within the network's"),
        (node(9, "10.0.0.0/8"), "not within the network's"),
        (node(9, "10.244.1.0/24"), "this node's own"),
        (node(9, "10.244.1.128/25"), "this node's own"),
        (node(9, "10.244.0.0/16"), "this node's own"),
        (node(9, "10.244.2.0/24"), "that of n2, which had it first"),
        (node(9, "10.244.2.7/32"), "that of n2, which had it first"),
        (node(9, "10.244.2.0/23"), "that of n2, which had it first"),
        (node(9, ip4="192.0.2.1"), "192.0.2.1 is this node's own"),
        (node(9, ip4="192.0.2.2"), "192.0.2.2 is that of n2"),
        (node(9, ip4="10.244.9.1"), "within the pod network"),
        (replace(node(9), mac=OWN.mac), "this node's own"),
        (replace(node(9), mac=node(2).mac), "that of n2"),
    ],
)
def test_what_is_not_its_own_is_refused(bad: Node, why: str) -> None:
    """The others stay, and what is wrong is said; whether it comes along or later."""
    together = admit(node(2), bad)
    by = Admission(_NETWORK)
    admit(node(2), by=by)
    for found in (together, admit(node(2), bad, by=by)):
        assert set(found.peers) == {"n2"}
        assert why in found.refused["n9"]


def test_the_rest_of_a_node_is_believed() -> None:
    """One range of two is another's."""
    found = admit(node(2), node(9, "10.244.2.0/24", "10.244.9.0/24"))
    assert found.peers["n9"].cidrs == (ip_network("10.244.9.0/24"),)
    assert "10.244.2.0/24 is that of n2" in found.refused["n9"]


def test_the_older_owner_keeps_a_range() -> None:
    """By what was admitted before, else by the source's own order, whatever the name says."""
    young, old = node(2, "10.244.7.0/24", since=9), node(3, "10.244.7.0/24", since=8)
    assert set(admit(young, old).peers) == {"n3"}
    by = Admission(_NETWORK)
    admit(young, by=by)
    assert set(admit(young, old, by=by).peers) == {"n2"}
    assert set(admit(old, by=by).peers) == {"n3"}  # once it is free
    assert not admit(old, by=by).refused


def test_a_node_of_the_same_name_is_another_if_its_uid_says_so() -> None:
    """It came later than who asked for the range before it."""
    by = Admission(_NETWORK)
    first, other = node(2, "10.244.7.0/24", since=1), node(3, "10.244.7.0/24", since=5)
    admit(first, other, by=by)
    again = replace(first, uid="another", since=9)
    assert set(admit(again, other, by=by).peers) == {"n3"}


def test_a_change_of_address_is_no_claim_against_itself() -> None:
    """Two nodes that swap addresses are both believed."""
    by = Admission(_NETWORK)
    admit(node(2), node(3), by=by)
    found = admit(node(2, ip4="192.0.2.3"), node(3, ip4="192.0.2.2"), by=by)
    assert not found.refused
    assert found.peers["n2"].ip4 == IPv4Address("192.0.2.3")


_NODES = st.builds(
    lambda number, start, length, ip4, since: node(
        number,
        str(ip_network((int(IPv4Address("10.244.0.0")) + (start << 8), length), strict=False)),
        ip4=f"192.0.2.{ip4}",
        since=since,
    ),
    st.integers(2, 6),
    st.integers(0, 7),
    st.sampled_from([22, 23, 24]),
    st.integers(1, 6),
    st.integers(0, 3),
)
_STEPS = st.lists(st.lists(_NODES, max_size=5), min_size=1, max_size=5)


@given(_STEPS)
def test_whatever_comes_ranges_and_addresses_are_one_nodes(steps: list[list[Node]]) -> None:
    """After any history: disjoint, nobody's twice, each node admitted or refused, and nobody loses what he had."""
    by = Admission(_NETWORK)
    before: Admitted = Admitted()
    for step in steps:
        nodes = {one.name: one for one in step}
        found = by.admit(OWN, nodes)
        ranges = [cidr for peer in (OWN, *found.peers.values()) for cidr in peer.cidrs]
        assert not any(one.overlaps(two) for at, one in enumerate(ranges) for two in ranges[:at])
        addresses = [peer.ip4 for peer in (OWN, *found.peers.values())]
        assert len(set(addresses)) == len(addresses)
        assert found.peers.keys() | found.refused.keys() == nodes.keys()
        for name, peer in before.peers.items():
            if nodes.get(name) == peer:
                assert found.peers.get(name) == peer
        before = found
