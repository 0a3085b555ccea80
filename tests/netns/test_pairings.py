"""Separable: each of our parts with the compiled plugins as the others, driven by libcni; ADD, CHECK, traffic, DEL."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from clients.cnitool import Cnitool
from netns.nat_lab import sysctl
from netns.plugin import PROGRAM, dual_ipam, netns
from netns.pods import Node, talk
from netns.snapshot import node as snapshot

from cni_py.kernel import netns as kernel_netns

pytestmark = pytest.mark.sudo

PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
LIMITS = {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000}
CAPABILITIES = {**PORTS, "bandwidth": LIMITS}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
THEIR_PORTMAP = {**PORTMAP, "backend": "nftables"}
BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
TUNING = {"type": "tuning", "mac": "02:00:00:00:00:77", "mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}
STATIC = {
    "type": "static",
    "addresses": [
        {"address": "10.7.0.2/24", "gateway": "10.7.0.1"},
        {"address": "fd00:7::2/64", "gateway": "fd00:7::1"},
    ],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}
ROUTED = {"type": "cni-py", "ipMasq": True}
BRIDGED = {"type": "cni-py", "bridge": "cni0", "isGateway": True, "ipMasq": True, "macspoofchk": True}
THEIR_BRIDGE = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipMasqBackend": "nftables"}
THEIR_PTP = {"type": "ptp", "ipMasq": True, "ipMasqBackend": "nftables"}
OURS = {"cni-py", "cni-py-ipam"}

# name: the list, and which of its types are ours
PAIRINGS: dict[str, tuple[list[dict[str, Any]], set[str]]] = {
    "routed over host-local": ([{**ROUTED, "ipam": dual_ipam("host-local")}], OURS),
    "bridged over host-local": ([{**BRIDGED, "ipam": dual_ipam("host-local")}], OURS),
    "routed over static": ([{**ROUTED, "ipam": STATIC}], OURS),
    "bridged over static": ([{**BRIDGED, "ipam": STATIC}], OURS),
    "bridge over cni-py-ipam": ([{**THEIR_BRIDGE, "ipam": dual_ipam()}], OURS),
    "ptp over cni-py-ipam": ([{**THEIR_PTP, "ipam": dual_ipam()}], OURS),
    "tuning behind routed": ([{**ROUTED, "ipam": dual_ipam()}, TUNING], OURS),
    "tuning behind bridged": ([{**BRIDGED, "macspoofchk": False, "ipam": dual_ipam()}, TUNING], OURS),
    "portmap behind routed": ([{**ROUTED, "ipam": dual_ipam()}, THEIR_PORTMAP], OURS),
    "portmap behind bridged": ([{**BRIDGED, "ipam": dual_ipam()}, THEIR_PORTMAP], OURS),
    "bandwidth behind routed": ([{**ROUTED, "ipam": dual_ipam()}, BANDWIDTH], OURS),
    "bandwidth behind bridged": ([{**BRIDGED, "ipam": dual_ipam()}, BANDWIDTH], OURS),
    "our portmap behind bridge": ([{**THEIR_BRIDGE, "ipam": dual_ipam("host-local")}, PORTMAP], {"portmap"}),
    "our portmap behind ptp": ([{**THEIR_PTP, "ipam": dual_ipam("host-local")}, PORTMAP], {"portmap"}),
    "our bandwidth behind bridge": ([{**THEIR_BRIDGE, "ipam": dual_ipam("host-local")}, BANDWIDTH], {"bandwidth"}),
    "our bandwidth, portmap behind ptp": (
        [{**THEIR_PTP, "ipam": dual_ipam("host-local")}, BANDWIDTH, PORTMAP],
        {"bandwidth", "portmap"},
    ),
    "all ours, each a plugin": ([{**ROUTED, "ipam": dual_ipam()}, BANDWIDTH, PORTMAP], {*OURS, "bandwidth", "portmap"}),
    "firewall behind routed": ([{**ROUTED, "ipam": dual_ipam()}, {"type": "firewall", "backend": "iptables"}], OURS),
}


def mixed(directory: Path, ours: set[str], reference: Path) -> Path:
    """A CNI_PATH with the compiled plugins, and our program under these names instead."""
    directory.mkdir()
    for path in reference.iterdir():
        (directory / path.name).symlink_to(PROGRAM if path.name in ours else path)
    for name in ours - {path.name for path in reference.iterdir()}:
        (directory / name).symlink_to(PROGRAM)
    return directory


@pytest.mark.parametrize("name", PAIRINGS)
def test_pairing(name: str, tmp_path: Path, reference: Path) -> None:
    """ADD, CHECK, a connection by each family and host port, DEL; nothing of the container is left."""
    plugins, ours = PAIRINGS[name]
    types = [plugin["type"] for plugin in plugins]
    if "firewall" in types and shutil.which("iptables") is None:
        pytest.skip("the reference firewall plugin needs iptables")
    sysctl("ipv6/conf/default/accept_dad", "0")  # the compiled plugins' addresses would be there two seconds later
    netns("c1")
    path = mixed(tmp_path / "bin", ours, reference)
    (tmp_path / "net.d").mkdir()
    cnitool = Cnitool(reference / "cnitool", path, tmp_path / "net.d", CAPABILITIES)
    cnitool.define(plugins, "1.0.0")
    code, printed = cnitool("add")
    assert code == 0, printed
    assert cnitool("check") == (0, "")
    _traffic(json.loads(printed), types)
    assert cnitool("del") == (0, "")
    assert _left() == ([], [], {})


def _traffic(result: Any, types: Sequence[str]) -> None:
    """The node reaches the container by each of its addresses, and by a host port if there is one."""
    with ExitStack() as stack:
        node = Node(Path(), stack)
        addresses = tuple(entry["address"] for entry in result["ips"])
        pod = node.place_of("c1", kernel_netns.open_path("/run/netns/c1"), addresses)
        assert [pod.address(4), pod.address(6)] == ["10.7.0.2", "fd00:7::2"]
        for version in (4, 6):
            assert talk(node.place, (pod.address(version), 80), pod)
        if "portmap" in types:
            assert talk(node.place, ("127.0.0.1", 8080), pod)


def _left() -> tuple[list[str], list[str], dict[str, str]]:
    """Devices but the bridge, lines of nftables that know the container, leases and records."""
    state = snapshot()
    rules = [line for line in state["host"]["nft"].splitlines() if "10.7.0.2" in line or "cnipy" in line]
    return sorted(set(state["host"]["links"]) - {"lo", "cni0"}), rules, state["files"]
