"""cnitool, libcni's own client, over lists of our plugins: all verbs, cached results."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clients.cnitool import Cnitool
from netns.plugin import dual_ipam, install, netns
from netns.snapshot import node, output

pytestmark = pytest.mark.sudo

PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
LIMITS = {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000}
CAPABILITIES = {"portMappings": PORTS, "bandwidth": LIMITS}
CAPABLE = {"capabilities": {"portMappings": True, "bandwidth": True}}
LISTS: dict[str, list[dict[str, Any]]] = {
    "routed": [{"type": "cni-py", "ipMasq": True, "ipam": dual_ipam("cni-py-ipam"), **CAPABLE}],
    "bridge": [
        {"type": "cni-py", "bridge": "cni0", "isDefaultGateway": True, "ipam": dual_ipam("cni-py-ipam"), **CAPABLE}
    ],
    "reference names": [
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipMasq": True, "ipam": dual_ipam("host-local")},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ],
    "ptp": [{"type": "ptp", "ipMasq": True, "ipam": dual_ipam("host-local")}],
}


@pytest.fixture
def cnitool(fresh_namespaces: None, tmp_path: Path, reference: Path) -> Cnitool:
    """The compiled client, with our program under all names."""
    del fresh_namespaces
    netns("c1")
    made = Cnitool(reference / "cnitool", install(tmp_path / "bin"), tmp_path / "net.d", CAPABILITIES)
    made.lists.mkdir()
    return made


def cached() -> list[dict[str, Any]]:
    """The results that libcni keeps."""
    return [json.loads(path.read_text()) for path in Path("/var/lib/cni/results").glob("net-*")]


def left() -> tuple[list[str], str, dict[str, str]]:
    """Devices but the bridge, nftables, leases and records."""
    state = node()
    return sorted(set(state["host"]["links"]) - {"lo", "cni0"}), state["host"]["nft"], state["files"]


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.parametrize("name", LISTS)
def test_life(name: str, version: str, cnitool: Cnitool) -> None:
    """ADD, CHECK, DEL, and DEL again; the result is cached in between, both families work."""
    cnitool.define(LISTS[name], version)
    code, printed = cnitool("add")
    assert code == 0, printed
    result = json.loads(printed)
    assert [entry["address"] for entry in result["ips"]] == ["10.7.0.2/24", "fd00:7::2/64"]
    (kept,) = cached()
    assert result == kept["result"]
    for address in ("10.7.0.2", "fd00:7::2"):
        output("busybox", "ping", "-c1", "-W5", address)
    assert cnitool("check") == (0, "")
    assert cnitool("del") == (0, "")
    assert not cached()
    assert left() == ([], "", {})
    assert cnitool("del") == (0, "")


@pytest.mark.parametrize("name", LISTS)
def test_second_add(name: str, cnitool: Cnitool) -> None:
    """A second ADD is refused, and the first container keeps all it has."""
    cnitool.define(LISTS[name])
    assert cnitool("add")[0] == 0
    code, printed = cnitool("add")
    assert code == 1
    assert 'container already has an interface "eth0"' in printed
    assert cnitool("check") == (0, "")
    assert cnitool("del") == (0, "")


@pytest.mark.parametrize("name", LISTS)
def test_status_and_gc(name: str, cnitool: Cnitool) -> None:
    """STATUS is well. cnitool's GC deletes what libcni has cached and sends no list, so we collect nothing more."""
    cnitool.define(LISTS[name])
    netns("c2")
    assert cnitool("status") == (0, "")
    assert cnitool("add", "c1")[0] == 0
    for path in Path("/var/lib/cni/results").glob("net-*"):
        path.unlink()
    assert replace(cnitool, capabilities={})("add", "c2")[0] == 0
    assert cnitool("status") == (0, "")
    assert cnitool("gc") == (0, "")
    assert [path.name for path in Path("/var/lib/cni/networks/net").glob("10.*")] == ["10.7.0.2"]
    assert not cached()
    assert sorted({"eth0"} & set(node("c1")["c1"]["links"])) == ["eth0"]
    assert sorted(node("c2")["c2"]["links"]) == ["lo"]
    assert cnitool("del", "c1") == (0, "")
    assert left() == ([], "", {})


def test_check_reports(cnitool: Cnitool) -> None:
    """What CHECK finds reaches the user through libcni."""
    cnitool.define(LISTS["reference names"])
    assert cnitool("add")[0] == 0
    output(*["ip", "-n", "c1", "route", "del", "default"])
    code, printed = cnitool("check")
    assert code == 1
    assert "add route 0.0.0.0/0 via 10.7.0.1 by 'eth0' in the container" in printed


def test_conflict_reports(cnitool: Cnitool) -> None:
    """A host port that is taken: the error names its owner, and libcni's DEL after it leaves the first alone."""
    cnitool.define(LISTS["reference names"])
    netns("c2")
    assert cnitool("add", "c1")[0] == 0
    code, printed = cnitool("add", "c2")
    assert code == 1
    assert "host port tcp . 8080 is taken by net/" in printed
    assert cnitool("del", "c2") == (0, "")
    assert cnitool("check", "c1") == (0, "")
