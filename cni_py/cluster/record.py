"""A node's record, as it stands in an annotation, in etcd or in a file: JSON or YAML of one version, hostile.

    {"version": 1, "ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "cidrs": ["10.244.1.0/24"], "mac": "0e:08:c7:d4:c6:3a",
     "backends": ["vxlan", "direct"], "vxlan": {"vni": 142, "port": 4789}, "probe": 9762}

All keys but `version` may be missing, `mac6` is there of flanneld's alone; `cidrs` is read where the record is what
assigns them (files, etcd). Keys and backends that are not known are a newer release's and are passed over.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, get_args

from cni_py.model.errors import DecodeError
from cni_py.model.overlay import BackendName, Node, tunnel_mac
from cni_py.model.result import IPAddress, IPNetwork

VERSION = 1
MAX_BYTES = 1 << 16  # a record has some three hundred
_MOST_CIDRS = 16
_SHOWN = 60
_NAME = re.compile(r"[a-zA-Z0-9](?:[-._a-zA-Z0-9]{0,251}[a-zA-Z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
_RESERVED4 = ip_network("240.0.0.0/4")


def render(node: Node, *, cidrs: bool) -> str:
    """The record of a node, with its pod networks where the record is what assigns them."""
    document: dict[str, Any] = {"version": VERSION}
    if node.ip4 is not None:
        document["ipv4"] = str(node.ip4)
    if node.ip6 is not None:
        document["ipv6"] = str(node.ip6)
    if cidrs:
        document["cidrs"] = list(map(str, node.cidrs))
    document["mac"] = node.mac
    if node.mac6:
        document["mac6"] = node.mac6
    document["backends"] = sorted(node.backends)
    if node.vni or node.vxlan_port:
        document["vxlan"] = {"vni": node.vni, "port": node.vxlan_port}
    if node.probe_port:
        document["probe"] = node.probe_port
    return json.dumps(document, separators=(",", ":"))


def parse(text: str | bytes, name: str, cluster: str, cidrs: Sequence[IPNetwork] | None = None) -> Node:
    """The node of that name whose record is `text`; `cidrs` are its pod networks if not the record assigns them.

    `cluster` is what a MAC that is not said is made of. Raises DecodeError with what is wrong, in one printable line.
    """
    if len(text) > MAX_BYTES:
        raise DecodeError(f"the record has {len(text)} bytes, more than {MAX_BYTES}")
    return from_document(load_json(text, "the record"), name, cluster, cidrs)


def load_json(text: str | bytes, what: str) -> object:
    """What the text says. No key twice, no NaN. Raises DecodeError, in one printable line about `what`."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise DecodeError(f"{what} is nested too deeply") from None
    except ValueError as error:  # also what is no UTF-8
        raise DecodeError(f"{what} is no JSON: {shown(str(error))}") from None


def from_document(document: object, name: str, cluster: str, cidrs: Sequence[IPNetwork] | None = None) -> Node:
    """See `parse`; `document` is the record decoded."""
    if not isinstance(document, dict):
        raise DecodeError(f"the record is no object but {shown(document)}")
    if document.get("version") != VERSION:
        raise DecodeError(f"version {shown(document.get('version'))} of the record is not known, only {VERSION}")
    vxlan = _mapping(document, "vxlan")
    ip4, ip6 = _endpoint(document, "ipv4", 4), _endpoint(document, "ipv6", 6)
    return Node(
        checked_name(name),
        tuple(cidrs) if cidrs is not None else parse_cidrs(document.get("cidrs", [])),
        _mac(document, "mac") or tunnel_mac(cluster, name),
        ip4 if isinstance(ip4, IPv4Address) else None,
        ip6 if isinstance(ip6, IPv6Address) else None,
        _backends(document),
        vni=_number(vxlan, "vni", (1 << 24) - 1),
        vxlan_port=_number(vxlan, "port", 65535),
        probe_port=_number(document, "probe", 65535),
        mac6=_mac(document, "mac6"),
    )


def checked_name(name: str) -> str:
    """The name of a node: letters, digits, `-`, `.`, `_`. Raises DecodeError."""
    if not _NAME.fullmatch(name):
        raise DecodeError(f"{shown(name)} is no name of a node")
    return name


def parse_cidrs(value: object) -> tuple[IPNetwork, ...]:
    """Pod networks. Raises DecodeError."""
    if not isinstance(value, list) or len(value) > _MOST_CIDRS:
        raise DecodeError(f"pod networks are a list of {_MOST_CIDRS} at most, not {shown(value)}")
    return tuple(dict.fromkeys(map(_cidr, value)))


def parse_endpoint(value: object) -> IPAddress:
    """An address at which a node can be reached. Raises DecodeError, also for one that no other node can be at."""
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None or getattr(address, "scope_id", None):
        raise DecodeError(f"{shown(value)} is no address")
    if (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or getattr(address, "ipv4_mapped", None)
        or (address.version == 4 and address in _RESERVED4)
    ):
        raise DecodeError(f"{address} is no address at which a node can be reached")
    return address


def shown(value: object) -> str:
    """A foreign value for people: printable ASCII, short."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _cidr(value: object) -> IPNetwork:
    try:
        cidr = ip_network(value) if isinstance(value, str) else None
    except ValueError as error:
        raise DecodeError(f"{shown(value)} is no pod network: {shown(str(error))}") from None
    if cidr is None:
        raise DecodeError(f"{shown(value)} is no pod network")
    first = cidr.network_address
    if not cidr.prefixlen or first.is_loopback or first.is_multicast or first.is_link_local:
        raise DecodeError(f"{cidr} is no network for pods")
    return cidr


def _endpoint(document: Mapping[str, Any], key: str, version: int) -> IPAddress | None:
    value = document.get(key)
    if value is None:
        return None
    address = parse_endpoint(value)
    if address.version != version:
        raise DecodeError(f"{key}: {address} is of the other family")
    return address


def _mac(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    mac = value.lower() if isinstance(value, str) else ""
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise DecodeError(f"{key}: {shown(value)} is no unicast MAC")
    return mac


def _backends(document: Mapping[str, Any]) -> frozenset[BackendName]:
    value = document.get("backends")
    if value is None:
        return _shared(_BACKENDS)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DecodeError(f"backends: {shown(value)} is no list of names")
    return _shared(tuple(one for one in _BACKENDS if one in value))


@cache
def _shared(backends: tuple[BackendName, ...]) -> frozenset[BackendName]:
    """One set for all nodes that have the same: of thousands each would be larger than the rest of its node."""
    return frozenset(backends)


def _number(document: Mapping[str, Any], key: str, most: int) -> int:
    value = document.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise DecodeError(f"{key}: {shown(value)} is no number from 0 to {most}")
    return value


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise DecodeError(f"{key}: {shown(value)} is no object")
    return value


def _unique(pairs: Collection[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is there twice")
    return document


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")
