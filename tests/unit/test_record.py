"""Nodes' records: what is written is read back, and what is hostile is refused in one printable line."""

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_py.cluster.record import MAX_BYTES, checked_name, from_document, parse, render
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import BackendName, Node, tunnel_mac

_CIDRS = (ip_network("10.244.1.0/24"), ip_network("fd44:0:1::/64"))
_NODE = Node(
    "n1",
    _CIDRS,
    "0e:08:c7:d4:c6:3a",
    IPv4Address("192.0.2.1"),
    IPv6Address("2001:db8::1"),
    frozenset(("vxlan", "direct")),
    vni=142,
    vxlan_port=4789,
    probe_port=9762,
)


def test_what_is_rendered_is_parsed() -> None:
    """With and without the pod networks in it."""
    assert parse(render(_NODE, cidrs=True), "n1", "c") == _NODE
    flanneld = replace(_NODE, mac6="c6:d2:32:6f:8f:66")
    assert parse(render(flanneld, cidrs=True), "n1", "c") == flanneld
    assert "cidrs" not in render(_NODE, cidrs=False)
    assert parse(render(_NODE, cidrs=False), "n1", "c", _CIDRS) == _NODE


def test_little_is_enough() -> None:
    """A record made by hand: addresses and pod networks; the MAC is that which the node gives itself."""
    node = parse('{"version": 1, "ipv4": "192.0.2.7", "cidrs": ["10.244.7.0/24"]}', "n7", "c")
    assert (node.mac, node.ip6, node.vni) == (tunnel_mac("c", "n7"), None, 0)
    assert node.backends == set(get_args(BackendName))


def test_what_a_newer_release_adds_is_passed_over() -> None:
    """Keys and backends alike."""
    node = parse('{"version": 1, "ipv4": "192.0.2.7", "new": {"a": 1}, "backends": ["vxlan", "psp"]}', "n7", "c")
    assert node.backends == {"vxlan"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version 2"),
        ({"version": True}, None),  # Python's True is 1, and nothing else is wrong with it
        ({"ipv4": "127.0.0.1"}, "no address at which a node can be reached"),
        ({"ipv4": "0.0.0.0"}, "no address at which"),
        ({"ipv4": "224.0.0.1"}, "no address at which"),
        ({"ipv4": "255.255.255.255"}, "no address at which"),
        ({"ipv4": "169.254.1.1"}, "no address at which"),
        ({"ipv4": "2001:db8::1"}, "other family"),
        ({"ipv6": "::ffff:192.0.2.1"}, "no address at which"),
        ({"ipv6": "fe80::1%eth0"}, "no address"),
        ({"ipv6": "::1"}, "no address at which"),
        ({"ipv4": "192.0.2.1\n"}, "no address"),
        ({"ipv4": 3221225985}, "no address"),
        ({"ipv4": ["192.0.2.1"]}, "no address"),
        ({"cidrs": "10.0.0.0/24"}, "a list"),
        ({"cidrs": ["10.0.0.1/24"]}, "no pod network"),
        ({"cidrs": ["0.0.0.0/0"]}, "no network for pods"),
        ({"cidrs": ["127.0.0.0/8"]}, "no network for pods"),
        ({"cidrs": ["224.0.0.0/4"]}, "no network for pods"),
        ({"cidrs": ["10.0.0.0/24\n10.0.1.0/24"]}, "no pod network"),
        ({"cidrs": [7]}, "no pod network"),
        ({"cidrs": [f"10.0.{n}.0/24" for n in range(17)]}, "16 at most"),
        ({"mac": "01:00:5e:00:00:01"}, "no unicast MAC"),
        ({"mac": "00:00:00:00:00:00"}, "no unicast MAC"),
        ({"mac": "0e:08:c7:d4:c6"}, "no unicast MAC"),
        ({"mac": "0e:08:c7:d4:c6:3a\n"}, "no unicast MAC"),
        ({"backends": "vxlan"}, "no list"),
        ({"backends": [1]}, "no list"),
        ({"vxlan": []}, "no object"),
        ({"vxlan": {"vni": 1 << 24}}, "no number"),
        ({"vxlan": {"port": -1}}, "no number"),
        ({"vxlan": {"port": "4789"}}, "no number"),
        ({"probe": 1.5}, "no number"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], why: str | None) -> None:
    """One wrong value is enough; the line names it."""
    record = json.dumps({**json.loads(render(_NODE, cidrs=True)), **change})
    if why is None:
        assert parse(record, "n1", "c") == _NODE
        return
    with pytest.raises(DecodeError, match=why) as caught:
        parse(record, "n1", "c")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"version": 1, "version": 1}',
        '{"version": 1, "vxlan": {"vni": 1, "vni": 2}}',
        '{"version": NaN}',
        "[" * 100_000,
        "[" * 10_000,
        '{"version": 1, "x": "' + "a" * MAX_BYTES + '"}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_record_is_refused(text: str | bytes) -> None:
    """Duplicate keys, wrong types, a megabyte."""
    with pytest.raises(DecodeError) as caught:
        parse(text, "n1", "c")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", ["", "a b", "a\n", "../x", "-a", "a" * 254, "ä"])
def test_names_are_plain(name: str) -> None:
    """They stand in logs and in file names."""
    with pytest.raises(DecodeError):
        checked_name(name)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(["ipv4", "ipv6", "cidrs", "mac", "backends", "vxlan", "probe", "x"]), _JSON))
def test_nothing_but_a_refusal_comes_of_any_value(document: dict[str, Any]) -> None:
    """A node or DecodeError, whatever stands there."""
    try:
        node = from_document({"version": 1, **document}, "n1", "c")
    except DecodeError as error:
        assert error.message.isprintable()  # noqa: PT017  # either outcome is right
    else:
        assert parse(render(node, cidrs=True), "n1", "c") == node
