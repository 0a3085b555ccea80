"""IP blocks as disjoint ranges: in them is what is in one of the blocks, and nothing else."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_py.model.policy import CIDR, IpBlock
from cni_py.policy.cidrs import union

_BASE4, _BASE6 = int(ip_address("10.0.0.0")), int(ip_address("fd00::"))


@st.composite
def cidrs(draw: st.DrawFn) -> CIDR:
    """Within the 64 first addresses of 10.0.0.0 or fd00::, so that they meet."""
    offset, bits = draw(st.integers(0, 63)), draw(st.integers(0, 6))
    if draw(st.booleans()):
        return ip_network((_BASE4 + offset, 32 - bits), strict=False)
    return IPv6Network((_BASE6 + offset, 128 - bits), strict=False)


@st.composite
def blocks(draw: st.DrawFn) -> IpBlock:
    """With exceptions, all that there is among them."""
    cidr = draw(cidrs())
    inside = [one for one in draw(st.lists(cidrs(), max_size=3)) if _within(one, cidr)]
    return IpBlock(cidr, tuple(inside))


def _within(one: CIDR, cidr: CIDR) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(cidr, IPv4Network) and one.subnet_of(cidr)
    return isinstance(cidr, IPv6Network) and one.subnet_of(cidr)


@given(st.lists(blocks(), max_size=6))
def test_the_ranges_hold_what_the_blocks_hold(given_blocks: list[IpBlock]) -> None:
    """Address by address; and they are ascending, disjoint and not to be joined."""
    for version, base in ((4, _BASE4), (6, _BASE6)):
        ranges = union(given_blocks, version)
        for address in map(ip_address, range(base, base + 65)):
            expected = any(address in block for block in given_blocks)
            assert any(int(one.first) <= int(address) <= int(one.last) for one in ranges) == expected
        assert all(one.first.version == version for one in ranges)
        assert all(int(low.last) + 1 < int(high.first) for low, high in pairwise(ranges))


@pytest.mark.parametrize(
    ("given_blocks", "expected"),
    [
        ([], []),
        ([("10.0.0.0/8", [])], ["10.0.0.0/8"]),
        ([("0.0.0.0/0", [])], ["0.0.0.0/0"]),
        ([("0.0.0.0/0", ["0.0.0.0/1", "255.255.255.255/32"])], ["128.0.0.0-255.255.255.254"]),
        ([("10.0.0.0/8", ["10.0.0.0/8"])], []),
        ([("10.0.0.0/24", ["10.0.0.64/26"]), ("10.0.0.64/27", [])], ["10.0.0.0-10.0.0.95", "10.0.0.128/25"]),
        ([("10.0.0.0/25", []), ("10.0.0.128/25", [])], ["10.0.0.0/24"]),
        ([("10.0.0.0/25", []), ("10.0.0.0/25", []), ("10.0.0.0/26", [])], ["10.0.0.0/25"]),
        ([("10.0.0.0/24", ["10.0.0.0/26", "10.0.0.0/25"])], ["10.0.0.128/25"]),
    ],
    ids=["none", "one", "all", "ends", "nothing left", "let in again", "touching", "twice", "exceptions in exceptions"],
)
def test_blocks_become_ranges(given_blocks: list[tuple[str, list[str]]], expected: list[str]) -> None:
    """In nft's words."""
    values = [IpBlock(ip_network(cidr), tuple(map(ip_network, excepts))) for cidr, excepts in given_blocks]
    assert [one.text() for one in union(values, 4)] == expected


def test_point_08_an_exception_is_of_its_own_block_only() -> None:
    """Another block holds the excepted address: it is in the ranges."""
    values = [
        IpBlock(ip_network("10.0.0.0/8"), (ip_network("10.0.0.1/32"),)),
        IpBlock(ip_network("10.0.0.1/32")),
    ]
    [one] = union(values, 4)
    assert (one.first, one.last) == (IPv4Address("10.0.0.0"), IPv4Address("10.255.255.255"))
