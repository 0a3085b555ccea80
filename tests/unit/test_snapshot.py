"""The last good nodes as bytes: what is written is read, for the same cluster; what is damaged is told."""

from ipaddress import IPv4Address, ip_network

import pytest

from cni_py.cluster.snapshot import dump, load
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import Node

NODES = {
    f"n{n}": Node(
        f"n{n}",
        (ip_network(f"10.244.{n}.0/24"),),
        f"0e:00:00:00:00:{n:02x}",
        IPv4Address(f"192.0.2.{n}"),
        backends=frozenset(("vxlan",)),
        uid=f"u{n}",
        since=n,
    )
    for n in (1, 2)
}


def test_what_is_written_is_read() -> None:
    """By the same cluster; another's nodes are nobody here."""
    assert load(dump(NODES, "c"), "c") == NODES
    assert load(dump(NODES, "c"), "d") == {}
    assert load(dump({}, "c"), "c") == {}


@pytest.mark.parametrize("data", [b"", b"{", b"7", dump(NODES, "c")[:-9], dump(NODES, "c") + b"\n7", b"\xff"])
def test_what_is_damaged_is_told(data: bytes) -> None:
    """And never half believed."""
    try:
        assert load(data, "c") == {}
    except DecodeError as error:
        assert error.message.isprintable()  # noqa: PT017  # either outcome is right
