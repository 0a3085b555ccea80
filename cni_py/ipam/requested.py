"""Which addresses the caller asks for, and by which names it may claim a reserved one."""

from collections.abc import Mapping
from typing import Any

from cni_py.ipam.addresses import IPAddress, parse_cidr, parse_ip
from cni_py.model.errors import DecodeError, PluginError
from cni_py.spec import gojson
from cni_py.spec.args import parse_args
from cni_py.spec.request import Request


def parse_requested(args: str, configured: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
    """The requested addresses, each once: CNI_ARGS `IP`, then what the configuration asks for.

    All are collected, none overrides another (contrary to CONVENTIONS.md, but so does host-local). A prefix is ignored.
    CNI_ARGS knows `IP` alone: `MAC=` or `K8S_POD_NAME=` without IgnoreUnknown is an error, as there.
    """
    from_args = parse_args(args, ("IP",)).get("IP", "")
    if not from_args:
        return configured
    address = _parse(from_args)
    if address is None:
        raise PluginError(f'ARGS: error parsing value of pair "IP={from_args}": invalid IP address {from_args}')
    return tuple(dict.fromkeys((address, *configured)))


def parse_configured(config: Mapping[str, Any], runtime: Mapping[str, Any]) -> tuple[IPAddress, ...]:
    """The addresses in `args.cni.ips` and `runtimeConfig.ips`, each once."""
    requested = []
    args_cni = gojson.get_object(gojson.get_object(config, "args"), "cni")
    for text in (*gojson.get_list(args_cni, "ips"), *gojson.get_list(runtime, "ips")):
        if not isinstance(text, str):
            raise DecodeError("error unmarshall network config: ips must be an array of strings")
        if not text:
            raise PluginError("cannot understand ip: IP <nil> not v4 nor v6", "an entry of ips is empty")
        address = _parse(text)
        if address is None:
            raise PluginError(f"invalid IP address {text}", 'an entry of ips looks like "10.1.2.3" or "10.1.2.3/24"')
        requested.append(address)
    return tuple(dict.fromkeys(requested))


def owner_names(request: Request) -> frozenset[str]:
    """What `reservations` may call this container: its ID, and `namespace/name` of its pod if CNI_ARGS has both."""
    pairs = dict(pair.split("=", 1) for pair in request.args.split(";") if "=" in pair)
    namespace, name = pairs.get("K8S_POD_NAMESPACE", ""), pairs.get("K8S_POD_NAME", "")
    pod = {f"{namespace}/{name}"} if namespace and name else set()
    return frozenset({request.container_id, *pod})


def _parse(text: str) -> IPAddress | None:
    if "/" not in text:
        return parse_ip(text)
    parsed = parse_cidr(text)
    return parsed[0] if parsed else None
