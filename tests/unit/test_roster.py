"""Who stays when a source no longer names him: the hold, a network that moves, and a source that wipes."""

from ipaddress import IPv4Address, ip_network
from math import inf

import pytest

from cni_py.model.overlay import Node
from cni_py.model.peers import View
from cni_py.overlay.roster import Roster


def nodes(*numbers: int) -> dict[str, Node]:
    """By name."""
    return {
        f"n{n}": Node(
            f"n{n}", (ip_network(f"10.244.{n}.0/24"),), f"0e:00:00:00:00:{n:02x}", IPv4Address(f"192.0.2.{n}")
        )
        for n in numbers
    }


def names(roster: Roster, now: float, *numbers: int, skipped: str = "") -> set[str]:
    """Who is there when the source names these."""
    return set(roster.look(View(nodes(*numbers)), frozenset({skipped} - {""}), now).nodes)


def test_who_is_no_longer_named_stays_for_the_hold() -> None:
    """And if he is named again, as if nothing had been."""
    roster = Roster({}, hold=10)
    assert names(roster, 0, 1, 2, 3) == {"n1", "n2", "n3"}
    found = roster.look(View(nodes(1, 2)), frozenset(), 5)
    assert (set(found.nodes), found.again, found.alarm) == ({"n1", "n2", "n3"}, 10, "")
    assert names(roster, 14, 1, 2) == {"n1", "n2", "n3"}
    assert names(roster, 14.5, 1, 2, 3) == {"n1", "n2", "n3"}
    assert names(roster, 16, 1, 2) == {"n1", "n2", "n3"}
    assert names(roster, 26, 1, 2) == {"n1", "n2"}
    assert roster.look(View(nodes(1, 2)), frozenset(), 26).again == inf


def test_a_network_that_another_claims_is_free_at_once() -> None:
    """The same pod network on a new node: one replacement, no wait."""
    roster = Roster(nodes(1, 2), hold=10)
    moved = {**nodes(1), "n9": Node("n9", nodes(2)["n2"].cidrs, "0e:00:00:00:00:09", IPv4Address("192.0.2.9"))}
    assert set(roster.look(View(moved), frozenset(), 0).nodes) == {"n1", "n9"}


def test_an_unreadable_record_leaves_the_node_as_it_was() -> None:
    """However long."""
    roster = Roster(nodes(1, 2), hold=10)
    assert names(roster, 0, 1, skipped="n2") == {"n1", "n2"}
    assert names(roster, 1e6, 1, skipped="n2") == {"n1", "n2"}


def test_nobody_at_all_is_never_believed() -> None:
    """An empty list by fault, in a large cluster as in one of two."""
    for many in ((1, 2), range(1, 101)):
        roster = Roster(nodes(*many))
        for now in (0.0, 1e3, 1e6):
            found = roster.look(View(), frozenset(), now)
            assert found.nodes == nodes(*many)
            assert f"{len(many)} of {len(many)} nodes" in found.alarm
        assert not roster.look(View(nodes(*many)), frozenset(), 1e6).alarm


def test_most_of_the_cluster_does_not_go_in_one_step() -> None:
    """Until the source has said so for an hour."""
    roster = Roster(nodes(*range(1, 11)), hold=10)
    found = roster.look(View(nodes(1, 2)), frozenset(), 0)
    assert len(found.nodes) == 10
    assert "8 of 10 nodes" in found.alarm
    assert found.again == 3600
    assert len(names(roster, 3599, 1, 2)) == 10
    assert names(roster, 3600, 1, 2) == {"n1", "n2"}


@pytest.mark.parametrize(("known", "left"), [((1, 2), (1,)), ((1, 2, 3, 4), (1,)), (range(1, 11), range(1, 6))])
def test_few_or_half_may_go(known: tuple[int, ...], left: tuple[int, ...]) -> None:
    """A small cluster shrinks to one node, a large one to its half, after the hold."""
    roster = Roster(nodes(*known), hold=10)
    assert not roster.look(View(nodes(*left)), frozenset(), 0).alarm
    assert names(roster, 10, *left) == set(nodes(*left))
