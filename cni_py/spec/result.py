"""The result of an ADD and its JSON in every CNI version (SPEC 1.1 section 5 "Success"; shapes as Go prints them)."""

import json
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from cni_py.model.errors import DecodeError, PluginError
from cni_py.model.result import Dns, Interface, IPConfig, Result, Route
from cni_py.spec import gojson, versions

__all__ = [
    "Dns",
    "IPConfig",
    "Interface",
    "Result",
    "Route",
    "parse_dns",
    "parse_result",
    "parse_route",
    "render_result",
]


def parse_dns(obj: Mapping[str, Any]) -> Dns:
    """A `dns` object, from a result or from a configuration."""
    return Dns(
        nameservers=tuple(_strings(obj, "nameservers")),
        domain=gojson.get_string(obj, "domain"),
        search=tuple(_strings(obj, "search")),
        options=tuple(_strings(obj, "options")),
    )


def parse_route(obj: object) -> Route:
    """A route as it stands in results and in IPAM configurations."""
    entry = _object(obj, "route")
    scope, table = gojson.get_int(entry, "scope"), gojson.get_int(entry, "table")
    gw = gojson.get_string(entry, "gw")
    try:
        return Route(
            dst=ip_network(gojson.get_string(entry, "dst"), strict=False),
            gw=ip_address(gw) if gw else None,
            mtu=gojson.get_int(entry, "mtu") or 0,
            advmss=gojson.get_int(entry, "advmss") or 0,
            priority=gojson.get_int(entry, "priority") or 0,
            table=table,
            scope=scope,
        )
    except ValueError as error:
        raise DecodeError(f"invalid route: {error}") from None


def parse_result(document: Mapping[str, Any], config_version: str, *, same_family: bool) -> Result:
    """The result in `document`; a missing `cniVersion` means the configuration's (exec.go fixupResultVersion).

    With `same_family` (prevResult) a result of another family is an error, since Go's decoder is chosen by the
    configuration's version. Raises DecodeError.
    """
    version = gojson.get_string(document, "cniVersion") or config_version
    members = versions.family(version)
    if not members or (same_family and config_version not in members):
        problem = (
            f'could not parse prevResult: a result of "{version}" in a configuration of "{config_version}"'
            if same_family
            else f'unsupported CNI result version "{version}"'
        )
        raise DecodeError(
            problem, "results of 0.1.0-0.2.0, 0.3.0-0.4.0 and 1.0.0-1.1.0 do not mix: give all plugins one cniVersion"
        )
    dns = parse_dns(gojson.get_object(document, "dns"))
    if members == versions.FAMILIES[0]:
        return _parse_020(document, dns)
    return Result(
        interfaces=tuple(_parse_interface(entry) for entry in gojson.get_list(document, "interfaces")),
        ips=tuple(_parse_ip(entry) for entry in gojson.get_list(document, "ips")),
        routes=tuple(parse_route(entry) for entry in gojson.get_list(document, "routes")),
        dns=dns,
    )


def check_expressible(result: Result, cni_version: str) -> None:
    """Raise PluginError if `render_result` would: before the kernel is touched for a result that nobody can be told."""
    if versions.family(cni_version) == versions.FAMILIES[0]:
        _render_020(result)


def render_result(result: Result, cni_version: str) -> bytes:
    """The one JSON document that ADD prints: 4 spaces of indent, no newline at the end, unset fields left out.

    Raises PluginError when the version's shape cannot hold the result (0.1.0 and 0.2.0 need an address).
    """
    members = versions.family(cni_version)
    document: dict[str, Any] = {"cniVersion": cni_version}
    if members == versions.FAMILIES[0]:
        document.update(_render_020(result))
    else:
        old = members == versions.FAMILIES[1]
        interfaces = [_render_interface(entry, full=cni_version == "1.1.0") for entry in result.interfaces]
        ips = [_render_ip(entry, versioned=old) for entry in result.ips]
        routes = [_render_route(entry) for entry in result.routes]
        document.update(
            {key: value for key, value in (("interfaces", interfaces), ("ips", ips), ("routes", routes)) if value}
        )
        if old or result.dns:  # Go's 0.3 and 0.4 types print an empty dns object, 1.x leaves it out
            document["dns"] = _render_dns(result.dns)
    return json.dumps(document, indent=4, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError(f"invalid {what}: a JSON object is expected")
    return value


def _strings(obj: Mapping[str, Any], key: str) -> list[str]:
    values = gojson.get_list(obj, key)
    if not all(isinstance(value, str) for value in values):
        raise DecodeError(f"{key} must be an array of strings")
    return values


def _parse_interface(obj: object) -> Interface:
    entry = _object(obj, "interface")
    return Interface(
        name=gojson.get_string(entry, "name"),
        mac=gojson.get_string(entry, "mac"),
        mtu=gojson.get_int(entry, "mtu") or 0,
        sandbox=gojson.get_string(entry, "sandbox"),
        socket_path=gojson.get_string(entry, "socketPath"),
        pci_id=gojson.get_string(entry, "pciID"),
    )


def _parse_ip(obj: object) -> IPConfig:
    entry = _object(obj, "ip")
    address, gateway = gojson.get_string(entry, "address"), gojson.get_string(entry, "gateway")
    if "/" not in address:
        raise DecodeError(f"invalid CIDR address: {address}")
    try:
        return IPConfig(
            address=ip_interface(address),
            gateway=ip_address(gateway) if gateway else None,
            interface=gojson.get_int(entry, "interface"),
        )
    except ValueError as error:
        raise DecodeError(f"invalid address in a result: {error}") from None


def _parse_020(document: Mapping[str, Any], dns: Dns) -> Result:
    ips: list[IPConfig] = []
    routes: list[Route] = []
    for key in ("ip4", "ip6"):
        entry = gojson.get_object(document, key)
        if entry:
            gateway = gojson.get_string(entry, "gateway")
            ips.append(_parse_ip({"address": gojson.get_string(entry, "ip"), "gateway": gateway}))
            routes.extend(parse_route(route) for route in gojson.get_list(entry, "routes"))
    return Result(ips=tuple(ips), routes=tuple(routes), dns=dns)


def _render_020(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for family, key in ((4, "ip4"), (6, "ip6")):
        first = next((ip for ip in result.ips if ip.address.version == family), None)
        if first is None:
            continue
        entry: dict[str, Any] = {"ip": str(first.address)}
        if first.gateway is not None:
            entry["gateway"] = str(first.gateway)
        routes = [
            {"dst": str(route.dst), **({"gw": str(route.gw)} if route.gw is not None else {})}
            for route in result.routes
            if route.dst.version == family
        ]
        if routes:
            entry["routes"] = routes
        document[key] = entry
    if not document:
        raise PluginError("cannot convert: no valid IP addresses", "CNI 0.1.0 and 0.2.0 results need an address")
    document["dns"] = _render_dns(result.dns)
    return document


def _render_interface(entry: Interface, *, full: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": entry.name, "mac": entry.mac}
    if full:
        fields["mtu"] = entry.mtu
    fields["sandbox"] = entry.sandbox
    if full:
        fields["socketPath"], fields["pciID"] = entry.socket_path, entry.pci_id
    return {key: value for key, value in fields.items() if value or key == "name"}


def _render_ip(entry: IPConfig, *, versioned: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"version": str(entry.address.version)} if versioned else {}
    if entry.interface is not None:
        fields["interface"] = entry.interface
    fields["address"] = str(entry.address)
    if entry.gateway is not None:
        fields["gateway"] = str(entry.gateway)
    return fields


def _render_route(entry: Route) -> dict[str, Any]:
    fields: dict[str, Any] = {"dst": str(entry.dst)}
    if entry.gw is not None:
        fields["gw"] = str(entry.gw)
    for key, value in (("mtu", entry.mtu), ("advmss", entry.advmss), ("priority", entry.priority)):
        if value:
            fields[key] = value
    for key, number in (("table", entry.table), ("scope", entry.scope)):
        if number is not None:
            fields[key] = number
    return fields


def _render_dns(dns: Dns) -> dict[str, Any]:
    fields = {"nameservers": list(dns.nameservers), "domain": dns.domain, "search": list(dns.search)}
    return {key: value for key, value in {**fields, "options": list(dns.options)}.items() if value}
