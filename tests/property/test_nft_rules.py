"""Random rule sets: what is put in is what is read back, and text and netlink leave the same in the kernel."""

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netns.nft_listing import listed, listed_elsewhere

from cni_py.cni.masquerade import merge
from cni_py.kernel import nft
from cni_py.model.nft import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Change,
    DestroyTable,
    DiscardElements,
    Operation,
    render,
)
from cni_py.model.nft_expr import ACCEPT, DROP, RETURN, Counter, DataType, Field, Lookup, Match, Range, Scalar, Verdict
from cni_py.model.nft_objects import Chain, Element, Rule, Set, Table

T = Table("inet", "t")
LEAF, TOP = Chain(T, "leaf"), Chain(T, "top")

ADDRESSES4, ADDRESSES6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
SCALARS: dict[DataType, st.SearchStrategy[Scalar]] = {
    DataType.IPV4: ADDRESSES4,
    DataType.IPV6: ADDRESSES6,
    DataType.ETHER: st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":")),
    DataType.PROTOCOL: st.sampled_from([6, 17, 132]),
    DataType.SERVICE: st.integers(0, 65535),
    DataType.IFNAME: st.text("abcdefgh0123456789-._", min_size=1, max_size=15),
    DataType.MARK: st.integers(0, 0xFFFFFFFF),
}
# Fields with the types that their values have. Only one family in a rule: no packet is of both.
FIELDS = [Field.IP_SADDR, Field.IP_DADDR, Field.L4PROTO, Field.TH_DPORT, Field.IIFNAME, Field.OIFNAME, Field.MARK]
COMMENTS = st.sampled_from(["", "x", "net/container eth0"])
TYPES = st.lists(st.sampled_from(list(SCALARS)), min_size=1, max_size=3).map(tuple)


def keys_of(types: tuple[DataType, ...]) -> st.SearchStrategy[tuple[Scalar, ...]]:
    """Values for a concatenation of these types."""
    return st.tuples(*(SCALARS[one] for one in types))


@st.composite
def filled_sets(draw: st.DrawFn, name: str) -> AddElements:
    """A set, a data map or a verdict map, with elements of distinct keys."""
    types = draw(TYPES)
    kind = draw(st.sampled_from(["set", "map", "verdicts"]))
    data: tuple[DataType, ...] | str = ()
    if kind == "map":
        data = draw(TYPES)
    elif kind == "verdicts":
        data = "verdict"
    keys = draw(st.lists(keys_of(types), unique=True, max_size=6))
    elements = []
    for key in keys:
        value: tuple[Scalar, ...] | Verdict | None = None
        if isinstance(data, str):
            value = draw(st.sampled_from([ACCEPT, DROP, RETURN, Verdict("jump", "leaf"), Verdict("goto", "leaf")]))
        elif data:
            value = draw(keys_of(data))
        elements.append(Element(key, value, draw(COMMENTS)))
    return AddElements(Set(T, name, types, data, comment=draw(COMMENTS)), tuple(elements))


@st.composite
def rules(draw: st.DrawFn) -> tuple[Set, Rule]:
    """A set and a rule that looks into it, among matches of single fields."""
    fields = tuple(draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=4, unique=True)))
    name = draw(st.sampled_from(["r1", "r2"]))
    looked = Set(T, f"{name}_{'_'.join(str(FIELDS.index(one)) for one in fields)}", tuple(one.type for one in fields))
    others = [one for one in FIELDS if one not in fields]
    matches = tuple(
        Match(one, draw(SCALARS[one.type]), draw(st.booleans()))
        for one in draw(st.lists(st.sampled_from(others), max_size=2, unique=True))
        if one not in {Field.TH_DPORT, Field.L4PROTO}  # nft prints `tcp dport` once both are known
    )
    lookup = Lookup(fields, looked.name, draw(st.booleans()))
    end = draw(st.sampled_from([(ACCEPT,), (Counter(), DROP), (Verdict("jump", "leaf"),)]))
    return looked, Rule(TOP, (*matches, lookup, *end), draw(COMMENTS))


@pytest.mark.sudo
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(filled_sets("s0"), filled_sets("s1")), st.lists(rules(), max_size=4))
def test_netlink_is_text(filled: tuple[AddElements, ...], looking: list[tuple[Set, Rule]]) -> None:
    """Any of our rule sets lists alike by both ways, and its elements are read back as they were put in."""
    operations: tuple[Operation, ...] = (
        AddTable(T),
        AddChain(LEAF),
        AddChain(TOP),
        *(AddSet(one.set) for one in filled),
        *(one for one in filled if one.elements),
        *(AddSet(one) for one in dict.fromkeys(looked for looked, _ in looking)),
        *(AddRule(rule) for _, rule in looking),
    )
    with nft.connect() as socket:
        nft.commit(socket, Change((), (DestroyTable(T), *operations)))
        assert listed_elsewhere(render(operations)) == listed()
        for one in filled:
            assert set(one.elements) == set(nft.elements(socket, one.set))
            nft.commit(socket, Change((), (DiscardElements(one.set, one.elements),)))
            assert nft.elements(socket, one.set) == ()


def spans(version: Literal[4, 6]) -> st.SearchStrategy[Range]:
    """Ranges of any length; many touch each other or an end of the address space."""
    kind = IPv4Address if version == 4 else IPv6Address
    top = (1 << kind(0).max_prefixlen) - 1
    numbers = st.integers(0, 30) | st.integers(top - 30, top) | st.integers(0, top)
    return st.tuples(numbers, numbers).map(lambda two: Range(kind(min(two)), kind(max(two))))


@pytest.mark.sudo
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(spans(4), max_size=8), st.lists(spans(6), max_size=8))
def test_ranges_come_back(four: list[Range], six: list[Range]) -> None:
    """Any disjoint ranges can be put into interval sets, and come back whole and in order."""
    with nft.connect() as socket:
        for ranges, kind in ((merge(four), DataType.IPV4), (merge(six), DataType.IPV6)):
            one = Set(T, f"i_{kind.name}", (kind,), interval=True)
            added = AddElements(one, tuple(Element(each) for each in ranges))
            nft.commit(socket, Change((), (AddTable(T), AddSet(one), added)))
            assert added.elements == nft.elements(socket, one)
            nft.commit(socket, Change((), (added, DiscardElements(one, added.elements), DestroyTable(T))))


SMALL = st.integers(0, 40)


@given(st.lists(st.tuples(SMALL, SMALL).map(sorted), max_size=10))
def test_merge_keeps_the_addresses(bounds: list[list[int]]) -> None:
    """The merged ranges hold exactly the addresses of the given ones, in order and disjoint."""
    base = int(IPv4Address("10.0.0.0"))
    ranges = [Range(IPv4Address(base + first), IPv4Address(base + last)) for first, last in bounds]
    merged = merge(ranges)
    held = [number for one in merged for number in range(int(one.first), int(one.last) + 1)]
    assert sorted({number for first, last in bounds for number in range(base + first, base + last + 1)}) == held
    assert all(int(one.last) < int(behind.first) for one, behind in pairwise(merged))
    assert merged == merge(merged)
