"""`exclude` as intervals, GC's list, resolv.conf, and who the owner is."""

from typing import Any

import pytest
from ipam.plugins import environment

from cni_py.ipam.attachments import valid_contents
from cni_py.ipam.ranges import merge
from cni_py.ipam.requested import owner_names
from cni_py.ipam.resolv import parse_resolv_conf
from cni_py.model.errors import DecodeError
from cni_py.model.result import Dns
from cni_py.spec.request import parse_request


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], ()),
        (["0.0.0.5"], ((4, 5, 5),)),
        (["0.0.0.5/30"], ((4, 4, 7),)),
        (["0.0.0.5 - 0.0.0.9"], ((4, 5, 9),)),
        (["0.0.0.4/30", "0.0.0.8", "0.0.0.6-0.0.0.7"], ((4, 4, 8),)),
        (["::9", "0.0.0.9"], ((4, 9, 9), (6, 9, 9))),
        (["0.0.0.0/0"], ((4, 0, 2**32 - 1),)),
        (["::/1"], ((6, 0, 2**127 - 1),)),
    ],
)
def test_merge(entries: list[str], expected: tuple[tuple[int, int, int], ...]) -> None:
    """Entries become disjoint ascending intervals."""
    assert expected == merge(entries)


ONE = [{"containerID": "one", "ifname": "eth0"}]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"cni.dev/valid-attachments": None}, frozenset()),
        ({"cni.dev/valid-attachments": []}, frozenset()),
        ({"CNI.dev/Valid-Attachments": ONE}, frozenset({"one\r\neth0", "one"})),
        ({"cni.dev/attachments": ONE}, frozenset({"one\r\neth0", "one"})),
        ({"cni.dev/attachments": ONE, "cni.dev/valid-attachments": None}, frozenset()),
        ({"cni.dev/valid-attachments": [{"ContainerID": "a", "IfName": "b"}]}, frozenset({"a\r\nb", "a"})),
    ],
)
def test_valid_contents(config: dict[str, Any], expected: frozenset[str] | None) -> None:
    """Absent is nothing to do; null and [] are none valid."""
    assert expected == valid_contents(config)


@pytest.mark.parametrize("value", [{}, "x", 0, False, [None], ["one"], [{}], [{"containerID": 1}], [[]]])
def test_invalid_contents(value: object) -> None:
    """A list half understood is an error, never an empty list."""
    with pytest.raises(DecodeError):
        valid_contents({"cni.dev/valid-attachments": value})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", Dns()),
        (b"# nameserver 1.1.1.1\n;x y\n\nnameserver\n", Dns()),
        (b"nameserver 192.0.2.1\n  nameserver 192.0.2.2 x\n", Dns(nameservers=("192.0.2.1", "192.0.2.2"))),
        (
            b"domain a\ndomain b\nsearch x y\nsearch z\noptions ndots:2 rotate\nsortlist 1\n",
            Dns(domain="b", search=("x", "y", "z"), options=("ndots:2", "rotate")),
        ),
        (b"search caf\xe9 \xff\r\n", Dns(search=("caf�", "�"))),
    ],
)
def test_resolv_conf(content: bytes, expected: Dns) -> None:
    """The last domain counts, lists grow, anything else is passed over."""
    assert expected == parse_resolv_conf(content)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("", {"c1"}),
        ("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0", {"c1", "shop/db-0"}),
        ("K8S_POD_NAME=db-0", {"c1"}),
        ("K8S_POD_NAMESPACE=;K8S_POD_NAME=db-0", {"c1"}),
    ],
)
def test_owner_names(args: str, expected: set[str]) -> None:
    """The container's ID always, the pod's name when both parts are there."""
    request = parse_request(environment("ADD", args=args), lambda: b'{"name": "net"}')
    assert expected == owner_names(request)
