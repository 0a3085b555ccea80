"""An attachment to the JSON of its record and back. Addresses are strings there, all else as it is."""

import json
from collections.abc import Mapping
from dataclasses import fields
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from cni_py.model.attachment import Attachment, BridgePort, Key, PodAddress, PortMapping
from cni_py.model.net import Shaper, Sysctl
from cni_py.model.result import Route

VERSION = 1


def encode_attachment(attachment: Attachment) -> bytes:
    """The record's bytes. What is as unset as in a new attachment is left out: most of it is, in most."""
    document: dict[str, Any] = {"version": VERSION}
    for name, unset in _FIELDS:
        value = getattr(attachment, name)
        if value != unset:
            document[name] = value
    return json.dumps(document, default=_plain).encode()


_FIELDS = tuple((field.name, field.default) for field in fields(Attachment))


def _plain(value: object) -> object:
    """What JSON has no form for: our values as objects, addresses as strings."""
    names = getattr(type(value), "__dataclass_fields__", None)
    return str(value) if names is None else {name: getattr(value, name) for name in names}


def decode_attachment(document: Mapping[str, Any]) -> Attachment:
    """The attachment in a record. Raises ValueError, KeyError or TypeError for anything else."""
    rest = dict(document)
    version = rest.pop("version")
    if version != VERSION:
        raise ValueError(f"record version {version}, this cni-py reads {VERSION}")
    port = rest.pop("port", None)
    return Attachment(
        key=Key(**rest.pop("key")),
        addresses=tuple(_address(entry) for entry in rest.pop("addresses", ())),
        routes=tuple(_route(entry) for entry in rest.pop("routes", ())),
        port=_port(port) if port is not None else None,
        masquerade=tuple(ip_network(entry) for entry in rest.pop("masquerade", ())),
        ports=tuple(_mapping(entry) for entry in rest.pop("ports", ())),
        shapers=tuple(Shaper(**entry) for entry in rest.pop("shapers", ())),
        sysctls=tuple(Sysctl(**entry) for entry in rest.pop("sysctls", ())),
        **rest,
    )


def _address(entry: Mapping[str, Any]) -> PodAddress:
    gateway = entry["gateway"]
    return PodAddress(ip_interface(entry["address"]), ip_address(gateway) if gateway is not None else None)


def _route(entry: Mapping[str, Any]) -> Route:
    gw = entry["gw"]
    rest = {name: entry[name] for name in ("mtu", "advmss", "priority", "table", "scope")}
    return Route(ip_network(entry["dst"]), ip_address(gw) if gw is not None else None, **rest)


def _port(entry: Mapping[str, Any]) -> BridgePort:
    gateways = tuple(ip_interface(gateway) for gateway in entry["gateways"])
    return BridgePort(**{**entry, "gateways": gateways, "trunk": tuple(entry["trunk"])})


def _mapping(entry: Mapping[str, Any]) -> PortMapping:
    host_ip = entry["host_ip"]
    return PortMapping(**{**entry, "host_ip": ip_address(host_ip) if host_ip is not None else None})
