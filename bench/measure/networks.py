"""What is compared: our one plugin with its options, and the list of reference plugins that does the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_OURS = {"cniVersion": "1.0.0", "name": "ours", "type": "cni-py"}
_THEIRS = {"cniVersion": "1.0.0", "name": "theirs"}
_SYSCTL = {"net.core.somaxconn": "512"}
_LIMITS = {
    "ingressRate": 1_000_000_000,
    "ingressBurst": 8_000_000,
    "egressRate": 1_000_000_000,
    "egressBurst": 8_000_000,
}

PluginList = list[dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """`ours` and `theirs` give a container's configurations by its number; the goals are ratios (theirs / ours)."""

    name: str
    add_goal: float
    del_goal: float
    ours: Callable[[int], PluginList]
    theirs: Callable[[int], PluginList]


def ipam(kind: str, data_dir: str = "") -> dict[str, Any]:
    """A pool that no benchmark fills."""
    pool = {"type": kind, "subnet": "10.64.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]}
    return {**pool, "dataDir": data_dir} if data_dir else pool


def _ours(**options: Any) -> Callable[[int], PluginList]:  # noqa: ANN401  # JSON
    return lambda _: [{**_OURS, "ipam": ipam("cni-py-ipam"), **options}]


def _theirs(kind: str, **options: Any) -> Callable[[int], PluginList]:  # noqa: ANN401  # JSON
    return lambda _: [{**_THEIRS, "type": kind, "ipam": ipam("host-local"), **options}]


def _ports(number: int) -> dict[str, Any]:
    ports = [(20_000, 80, "tcp"), (40_000, 53, "udp")]
    return {"portMappings": [{"hostPort": at + number, "containerPort": to, "protocol": p} for at, to, p in ports]}


def _our_list(number: int) -> PluginList:
    (bridge,) = _ours(mode="bridge", isGateway=True, ipMasq=True, antispoof=True, sysctl=_SYSCTL)(number)
    return [{**bridge, "runtimeConfig": {**_ports(number), "bandwidth": _LIMITS}}]


def _their_list(number: int) -> PluginList:
    return [
        *_theirs("bridge", isGateway=True, ipMasq=True)(number),
        {**_THEIRS, "type": "portmap", "backend": "iptables", "runtimeConfig": _ports(number)},
        {**_THEIRS, "type": "bandwidth", "runtimeConfig": {"bandwidth": _LIMITS}},
        {**_THEIRS, "type": "firewall", "backend": "iptables"},
        {**_THEIRS, "type": "tuning", "sysctl": _SYSCTL},
    ]


_BRIDGE = {"isGateway": True, "bridge": "cni0"}
BRIDGE = Network("bridge", 9, 14, _ours(mode="bridge", **_BRIDGE), _theirs("bridge", **_BRIDGE))
NETWORKS = (
    BRIDGE,
    Network(
        "bridge, masquerade",
        18,
        50,
        _ours(mode="bridge", ipMasq=True, **_BRIDGE),
        _theirs("bridge", ipMasq=True, **_BRIDGE),
    ),
    Network("routed / ptp", 7, 14, _ours(mode="routed"), _theirs("ptp")),
    Network("routed / ptp, masquerade", 18, 50, _ours(mode="routed", ipMasq=True), _theirs("ptp", ipMasq=True)),
    Network("whole list", 35, 90, _our_list, _their_list),
)
