"""The nft text of values, the planners' operations, and what a refusal by the kernel is turned into."""

import errno
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from cni_py.cni import antispoof, masquerade, portmap, tables
from cni_py.cni.portmap import HostPorts
from cni_py.kernel import netlink, nft, nft_expr, nft_wire
from cni_py.model.attachment import PortMapping
from cni_py.model.errors import InvalidConfigError, KernelError, MissingFeatureError
from cni_py.model.nft import AddChain, AddElements, AddRule, AddSet, DestroyTable, DiscardElements, Layout, Operation
from cni_py.model.nft_expr import (
    DROP,
    RETURN,
    AnyOf,
    Counter,
    DataType,
    Field,
    Log,
    Lookup,
    Masquerade,
    Match,
    Range,
    Scalar,
)
from cni_py.model.nft_objects import Chain, Element, Hook, Rule, Set, Table, clean_comment

T = Table("inet", "t")
POD4, POD6 = IPv4Address("10.0.0.2"), IPv6Address("fd00::2")
V4 = (DataType.IPV4,)


def span(first: str, last: str) -> Range:
    """A range from text."""
    return Range(ip_address(first), ip_address(last))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        pytest.param(span("10.0.0.0", "10.0.0.255"), "10.0.0.0/24", id="prefix"),
        pytest.param(span("10.0.0.1", "10.0.0.2"), "10.0.0.1-10.0.0.2", id="same-size-not-aligned"),
        pytest.param(span("10.0.0.0", "10.0.0.2"), "10.0.0.0-10.0.0.2", id="odd-size"),
        pytest.param(span("10.0.0.7", "10.0.0.7"), "10.0.0.7", id="one"),
        pytest.param(span("0.0.0.0", "255.255.255.255"), "0.0.0.0/0", id="all"),
        pytest.param(span("fd00::", "fd00::ffff:ffff:ffff:ffff"), "fd00::/64", id="prefix6"),
    ],
)
def test_range_text(one: Range, text: str) -> None:
    """A range is written as nft prints it."""
    assert text == one.text()


@pytest.mark.parametrize(("first", "last"), [("10.0.0.2", "10.0.0.1"), ("10.0.0.1", "fd00::1")], ids=["empty", "mixed"])
def test_no_range(first: str, last: str) -> None:
    """Two addresses that are no range are refused."""
    with pytest.raises(ValueError, match="not a range"):
        span(first, last)


OPERATIONS: list[tuple[str, Operation, str]] = [
    ("set", AddSet(Set(T, "s", V4, interval=True)), "add set inet t s { type ipv4_addr; flags interval; }"),
    (
        "map",
        AddSet(Set(T, "m", (DataType.PROTOCOL, DataType.SERVICE), (DataType.IPV4, DataType.SERVICE), comment="c")),
        'add map inet t m { type inet_proto . inet_service : ipv4_addr . inet_service; comment "c"; }',
    ),
    ("verdicts", AddSet(Set(T, "v", V4, "verdict")), "add map inet t v { type ipv4_addr : verdict; }"),
    (
        "base chain",
        AddChain(Chain(T, "c", Hook("filter", "prerouting", -300))),
        "add chain inet t c { type filter hook prerouting priority -300; policy accept; }",
    ),
    (
        "rule",
        AddRule(Rule(Chain(T, "c"), (Lookup((Field.IIFNAME, Field.IP_SADDR), "s", negate=True), Counter(), DROP), "x")),
        'add rule inet t c iifname . ip saddr != @s counter drop comment "x"',
    ),
    (
        "states",
        AddRule(Rule(Chain(T, "c"), (AnyOf(Field.CT_STATE, ("established", "related")), Log(5, "p ", 96), RETURN))),
        'add rule inet t c ct state established,related log prefix "p " group 5 snaplen 96 return',
    ),
    (
        "discard",
        DiscardElements(Set(T, "m", V4, (DataType.IPV4,)), (Element((POD4,), (POD4,), "o"),)),
        'add element inet t m { 10.0.0.2 comment "o" : 10.0.0.2 }\ndelete element inet t m { 10.0.0.2 }',
    ),
    ("destroy", DestroyTable(T), "add table inet t\ndelete table inet t"),
]


@pytest.mark.parametrize(("operation", "text"), [row[1:] for row in OPERATIONS], ids=[row[0] for row in OPERATIONS])
def test_operation_text(operation: Operation, text: str) -> None:
    """An operation is the command, or the two, that do the same under `nft -f`."""
    assert text == operation.text()


@pytest.mark.parametrize(
    ("comment", "clean"),
    [
        pytest.param('say "x"', "say 'x'", id="quote"),
        pytest.param("a\nb\0", "a?b?", id="control"),
        pytest.param("ä" * 100, "ä" * 63, id="cut at a whole character"),
    ],
)
def test_comment(comment: str, clean: str) -> None:
    """A comment is what nft can read back, whatever a configuration had."""
    assert clean == clean_comment(comment)


@pytest.mark.parametrize(
    ("ranges", "merged"),
    [
        pytest.param([], (), id="none"),
        pytest.param(["10.0.0.0/24", "10.0.0.0/24"], ("10.0.0.0/24",), id="twice"),
        pytest.param(["10.0.0.0/16", "10.0.7.0/24"], ("10.0.0.0/16",), id="inside"),
        pytest.param(["10.0.1.0/24", "10.0.0.0/24"], ("10.0.0.0/24", "10.0.1.0/24"), id="adjacent"),
        pytest.param(["10.0.0.0/24", "10.0.2.0/24"], ("10.0.0.0/24", "10.0.2.0/24"), id="apart"),
        pytest.param(["fd00::/64", "255.255.255.255/32"], ("255.255.255.255", "fd00::/64"), id="families"),
        pytest.param(["0.0.0.0/0", "::/0"], ("0.0.0.0/0", "::/0"), id="all"),
    ],
)
def test_merge(ranges: list[str], merged: tuple[str, ...]) -> None:
    """Ranges of networks become disjoint ones of the same addresses."""
    parsed = [masquerade.pod_range(ip_network(one)) for one in ranges]
    assert merged == tuple(one.text() for one in masquerade.merge(parsed))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        pytest.param(PortMapping(0, 80), "invalid hostPort number: 0", id="host port 0"),
        pytest.param(PortMapping(80, 65536), "invalid containerPort number: 65536", id="container port"),
        pytest.param(
            PortMapping(80, 80, "tcp", IPv6Address("::")),
            "host port 80/tcp on ::: the pod has no such address",
            id="family",
        ),
    ],
)
def test_refused_mapping(mapping: PortMapping, message: str) -> None:
    """A mapping that cannot be is an error that says why."""
    with pytest.raises(InvalidConfigError) as error:
        portmap.plan_portmap(HostPorts((mapping,), (POD4,)))
    assert message == error.value.message


def test_same_port_twice() -> None:
    """One attachment cannot map one port to two; the same mapping twice is one."""
    again = PortMapping(80, 8080)
    assert portmap.plan_portmap(HostPorts((again,), (POD4,))) == portmap.plan_portmap(
        HostPorts((again, again), (POD4,))
    )
    with pytest.raises(InvalidConfigError, match="host port 80/tcp is mapped twice"):
        portmap.plan_portmap(HostPorts((again, PortMapping(80, 81)), (POD4,)))


def test_bridge_guard_stays_while_shared() -> None:
    """DEL of one pod leaves the loopback guard on an interface that others use, and takes it along otherwise."""
    ports = HostPorts((PortMapping(80, 80),), (POD4,), bridge="cni0", localnet="cni0")
    kept = portmap.unplan_portmap(ports, localnet_shared=True).operations
    last = portmap.unplan_portmap(ports, localnet_shared=False).operations
    assert {tables.LOCALNET} == {one.set for one in last if isinstance(one, DiscardElements)} - {
        one.set for one in kept if isinstance(one, DiscardElements)
    }


@pytest.mark.parametrize(
    "layout", [tables.NAT_LAYOUT, antispoof.BRIDGE_LAYOUT, antispoof.ROUTED_LAYOUT], ids=lambda x: x.table.text()
)
def test_layout_names_no_stranger(layout: Layout) -> None:
    """Each set that a rule looks into is one of the layout, and each chain that it goes to."""
    sets, chains = {one.name for one in layout.sets}, {one.name for one in layout.chains}
    for rule in layout.rules:
        for expression in rule.expressions:
            for name, known in (("set_name", sets), ("map_name", sets), ("chain", chains)):
                assert (getattr(expression, name, "") or next(iter(known))) in known


@pytest.mark.parametrize(
    ("kind", "scalar"),
    [
        pytest.param(DataType.IFNAME, "a" * 16, id="long name"),
        pytest.param(DataType.IFNAME, "", id="no name"),
        pytest.param(DataType.ETHER, "02:00:00", id="short MAC"),
        pytest.param(DataType.IPV4, IPv6Address("::1"), id="other family"),
        pytest.param(DataType.IPV4, "10.0.0.1", id="text"),
    ],
)
def test_no_value_of_the_type(kind: DataType, scalar: Scalar) -> None:
    """What is no value of a type never reaches the kernel."""
    with pytest.raises(ValueError, match=" is no "):
        nft_expr.encode(kind, scalar)


def _offset_of(message: bytes, name: bytes) -> int:
    """Where the list element of that expression begins: its header, then the header of its name."""
    return message.index(name + b"\0") - 8


def test_missing_expression_names_its_module() -> None:
    """The extended ack's offset leads to the expression, and that to the module."""
    operation = AddRule(Rule(Chain(T, "c"), (Match(Field.IIFNAME, "x"), Masquerade())))
    (message,) = nft_wire.encode(operation)
    error = netlink.NetlinkError(1, errno.ENOENT, "", _offset_of(message, b"masq"))
    refused = nft._Refused(operation, message, error)
    with netlink.NetlinkSocket(netlink.NETLINK_ROUTE) as socket:
        told = nft._explain(socket, refused)
    assert isinstance(told, MissingFeatureError)
    assert told.details == "load the kernel module nft_masq"


@pytest.mark.parametrize(
    ("operation", "number", "kind", "details"),
    [
        pytest.param(None, errno.EINVAL, MissingFeatureError, "load the kernel module nf_tables", id="no nf_tables"),
        pytest.param(DestroyTable(T), errno.EPERM, KernelError, "CAP_NET_ADMIN is needed: run as root", id="not root"),
        pytest.param(AddRule(Rule(Chain(T, "c"), (DROP,))), errno.ENOENT, KernelError, "", id="no such chain"),
        pytest.param(
            AddChain(Chain(T, "c", Hook("nat", "output", 0))),
            errno.ENOENT,
            MissingFeatureError,
            "load the kernel module nft_chain_nat",
            id="no nat",
        ),
        pytest.param(AddElements(Set(T, "s", V4), ()), errno.ENOSPC, KernelError, "", id="other"),
    ],
)
def test_refusals(operation: Operation | None, number: int, kind: type[KernelError], details: str) -> None:
    """An errno becomes an error that says who has to do what."""
    message = nft_wire.encode(operation)[0] if operation is not None and nft_wire.encode(operation) else b""
    with netlink.NetlinkSocket(netlink.NETLINK_ROUTE) as socket:
        told = nft._explain(socket, nft._Refused(operation, message, netlink.NetlinkError(1, number)))
    assert (kind, details) == (type(told), told.details)


def test_pod_alone_in_its_prefix() -> None:
    """A /32 is a range of one address."""
    assert Range(POD4, POD4) == masquerade.pod_range(IPv4Network("10.0.0.2/32"))
    assert Range(POD6, POD6) == masquerade.pod_range(IPv6Network("fd00::2/128"))
