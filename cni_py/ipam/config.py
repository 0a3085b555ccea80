"""The `ipam` part of a network configuration, read as host-local reads it, and our options beside it.

Order of checks and texts are host-local's (backend/allocator/config.go LoadIPAMConfig). Our options `reuseDelay`,
`exclude` and `reservations` count when `ipam.type` is `cni-py-ipam`, and then a key that nobody knows is an error;
under any other type they are ignored, as the Go plugin does, so that the two stay interchangeable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cni_py.ipam.addresses import IPAddress, parse_cidr, parse_ip
from cni_py.ipam.options import Options, check_keys, lenient_options, parse_options
from cni_py.ipam.pools import RangeFields, RangeSet, plan_set
from cni_py.ipam.requested import parse_configured, parse_requested
from cni_py.model.errors import DecodeError, PluginError
from cni_py.model.result import Route
from cni_py.spec import gojson, versions
from cni_py.spec.memo import Memo
from cni_py.spec.request import Request
from cni_py.spec.result import parse_route

DATA_DIR = "/var/lib/cni/networks"
OWN_TYPE = "cni-py-ipam"


@dataclass(frozen=True, slots=True)
class IpamConfig:
    """What the verbs need. `sets` are never empty; the position of one is the N of its `last_reserved_ip.N`."""

    network: str
    data_dir: str
    sets: tuple[RangeSet, ...]
    requested: tuple[IPAddress, ...]
    routes: tuple[Route, ...]
    resolv_conf: str
    options: Options


_parsed: Memo[IpamConfig] = Memo()


def ipam_object(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `ipam` object. Raises PluginError when there is none, DecodeError when it is something else."""
    if gojson.get(config, "ipam") is None:
        raise PluginError("IPAM config missing 'ipam' key", 'the configuration needs "ipam": {"type": ..., ...}')
    return gojson.get_object(config, "ipam")


def data_dir_of(ipam: Mapping[str, Any]) -> str:
    """The directory that holds one directory for each network."""
    data_dir = gojson.get_string(ipam, "dataDir") or DATA_DIR
    if "\0" in data_dir:
        raise PluginError("invalid dataDir: it contains a NUL character", "name a directory")
    return data_dir


def release_options(ipam: Mapping[str, Any]) -> Options:
    """The options as DEL and GC need them: nothing in them can be wrong."""
    return lenient_options(ipam) if gojson.get(ipam, "type") == OWN_TYPE else Options()


def parse_config(request: Request, *, strict: bool) -> IpamConfig:
    """The configuration in `request`; `strict` (not for DEL) checks our options and refuses unknown keys.

    Raises PluginError in host-local's words, DecodeError for a value of a wrong JSON type, InvalidConfigError for our
    options.
    """
    config = _parsed.get(request.stdin, lambda: _parse(request, strict=strict), strict)
    if not request.args:
        return config
    return replace(config, requested=parse_requested(request.args, config.requested))


def _parse(request: Request, *, strict: bool) -> IpamConfig:
    """All but what CNI_ARGS asks for."""
    config = request.config
    ipam = ipam_object(config)
    own = gojson.get_string(ipam, "type") == OWN_TYPE
    if own and strict:
        check_keys(ipam)
    routes = tuple(_parse_route(entry) for entry in gojson.get_list(ipam, "routes"))
    runtime = gojson.get_object(config, "runtimeConfig")
    sets = _parse_sets(gojson.get_list(runtime, "ipRanges"), "ipRanges")
    top = _parse_range(ipam)
    fixed = _parse_sets(gojson.get_list(ipam, "ranges"), "ranges")
    data_dir, resolv_conf = data_dir_of(ipam), gojson.get_string(ipam, "resolvConf")
    planned = _plan_sets((*sets, *(((top,),) if top.subnet else ()), *fixed), gojson.get_string(config, "cniVersion"))
    return IpamConfig(
        network=request.network,
        data_dir=data_dir,
        sets=planned,
        requested=parse_configured(config, runtime),
        routes=routes,
        resolv_conf=resolv_conf,
        options=parse_options(ipam, planned) if own and strict else release_options(ipam),
    )


def _plan_sets(sets: tuple[tuple[RangeFields, ...], ...], cni_version: str) -> tuple[RangeSet, ...]:
    if not sets:
        raise PluginError("no IP ranges specified", 'give "ipam" a "subnet" or "ranges": [[{"subnet": ...}]]')
    planned: list[RangeSet] = []
    for position, fields in enumerate(sets):
        try:
            planned.append(plan_set(fields))
        except PluginError as error:
            raise PluginError(f"invalid range set {position}: {error.message}", error.details) from None
    families = [one.version for one in planned]
    if max(families.count(4), families.count(6)) > 1 and not versions.at_least(cni_version or "0.1.0", "0.3.0"):
        raise PluginError(
            f"CNI version {cni_version} does not support more than 1 address per family",
            'set "cniVersion" to 1.1.0, or keep one range set for each family',
        )
    for position, one in enumerate(planned):
        for other, two in enumerate(planned[position + 1 :], position + 1):
            if one.overlaps(two):
                raise PluginError(f"range set {position} overlaps with {other}", "no address may be in two sets")
    return tuple(planned)


def _parse_sets(entries: list[Any], key: str) -> tuple[tuple[RangeFields, ...], ...]:
    sets: list[tuple[RangeFields, ...]] = []
    for entry in entries:
        if entry is not None and not isinstance(entry, list):
            raise DecodeError(f"error unmarshall network config: {key} must be an array of arrays of ranges")
        ranges = entry or []
        if not all(item is None or isinstance(item, dict) for item in ranges):
            raise DecodeError(f"error unmarshall network config: a range in {key} must be an object")
        sets.append(tuple(_parse_range(item or {}) for item in ranges))
    return tuple(sets)


def _parse_range(obj: Mapping[str, Any]) -> RangeFields:
    subnet = gojson.get_string(obj, "subnet")
    # Go's decoder hands even null and "" to the subnet's own parser, which wants a CIDR.
    if any(gojson.fold(key) == "subnet" for key in obj) and parse_cidr(subnet) is None:
        raise PluginError(f"invalid CIDR address: {subnet}", 'a subnet looks like "10.1.2.0/24"')
    fields = RangeFields(
        subnet=subnet,
        range_start=gojson.get_string(obj, "rangeStart"),
        range_end=gojson.get_string(obj, "rangeEnd"),
        gateway=gojson.get_string(obj, "gateway"),
    )
    for text in (fields.range_start, fields.range_end, fields.gateway):
        if text and parse_ip(text) is None:
            raise PluginError(f"invalid IP address: {text}", 'an address looks like "10.1.2.3" or "fd00::3"')
    return fields


def _parse_route(entry: object) -> Route:
    if isinstance(entry, dict):
        destination = gojson.get_string(entry, "dst")
        if parse_cidr(destination) is None:
            raise PluginError(f"invalid CIDR address: {destination}", 'a route\'s "dst" looks like "0.0.0.0/0"')
    return parse_route(entry)
