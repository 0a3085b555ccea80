"""An attachment to the JSON of its record and back. Addresses are strings there, all else as it is."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from cni_py.model.attachment import Attachment, BridgePort, Key, PodAddress, PortMapping
from cni_py.model.net import Shaper, Sysctl
from cni_py.model.result import Route

VERSION = 1


def encode_attachment(attachment: Attachment) -> bytes:
    """The record's bytes."""
    return json.dumps({"version": VERSION, **asdict(attachment)}, default=str, indent=1).encode()


def decode_attachment(document: Mapping[str, Any]) -> Attachment:
    """The attachment in a record. Raises ValueError, KeyError or TypeError for anything else."""
    fields = dict(document)
    version = fields.pop("version")
    if version != VERSION:
        raise ValueError(f"record version {version}, this cni-py reads {VERSION}")
    port = fields.pop("port")
    return Attachment(
        key=Key(**fields.pop("key")),
        addresses=tuple(_address(entry) for entry in fields.pop("addresses")),
        routes=tuple(_route(entry) for entry in fields.pop("routes")),
        port=_port(port) if port is not None else None,
        masquerade=tuple(ip_network(entry) for entry in fields.pop("masquerade")),
        ports=tuple(_mapping(entry) for entry in fields.pop("ports")),
        shapers=tuple(Shaper(**entry) for entry in fields.pop("shapers")),
        sysctls=tuple(Sysctl(**entry) for entry in fields.pop("sysctls", ())),  # records before 0.2 have none
        **fields,
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
