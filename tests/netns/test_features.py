"""What runtimes ask of the interface plugin beside the configuration: capabilities, arguments, and who wins."""

import json
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, dual_ipam, install, netns, routed
from netns.snapshot import output

from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo


@pytest.fixture
def path(fresh_namespaces: None, tmp_path: Path) -> Path:
    """CNI_PATH on an empty node with one container."""
    del fresh_namespaces
    netns("c1")
    return install(tmp_path / "bin")


def link(name: str = "eth0", space: str = "c1") -> dict[str, Any]:
    """A link as iproute2 shows it."""
    inside = ("-n", space) if space else ()
    (shown,) = json.loads(output("ip", *inside, "-j", "-d", "address", "show", "dev", name))
    return dict(shown)


MACS = [
    # CNI_ARGS, args, runtimeConfig, what the interface has
    ("MAC=02:00:00:00:00:01", {}, {}, "02:00:00:00:00:01"),
    ("", {"cni": {"mac": "02:00:00:00:00:02"}}, {}, "02:00:00:00:00:02"),
    ("", {}, {"mac": "02:00:00:00:00:03"}, "02:00:00:00:00:03"),
    ("MAC=02:00:00:00:00:01", {"cni": {"mac": "02:00:00:00:00:02"}}, {}, "02:00:00:00:00:02"),
    ("MAC=02:00:00:00:00:01", {"cni": {"mac": "02:00:00:00:00:02"}}, {"mac": "02:0A:00:00:00:03"}, "02:0a:00:00:00:03"),
]


@pytest.mark.parametrize(("args", "section", "runtime", "mac"), MACS)
@pytest.mark.parametrize("config", [routed(), bridged()], ids=["routed", "bridge"])
def test_mac(
    config: dict[str, Any], args: str, section: dict[str, Any], runtime: dict[str, Any], mac: str, path: Path
) -> None:
    """RuntimeConfig beats args beats CNI_ARGS (CONVENTIONS.md); the result says what is there."""
    caller = Caller(path, args=f"IgnoreUnknown=1;{args}" if args else "")
    result = caller.add({**config, "args": section, "runtimeConfig": runtime})
    (inside,) = [one for one in result["interfaces"] if one.get("sandbox")]
    assert (mac, mac) == (inside["mac"], link()["address"])


IPS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("IP=10.7.0.31", {}, {}, ["10.7.0.31/24", "fd00:7::2/64"]),
    ("", {"cni": {"ips": ["10.7.0.32"]}}, {}, ["10.7.0.32/24", "fd00:7::2/64"]),
    ("", {}, {"ips": ["10.7.0.33/24", "fd00:7::33/64"]}, ["10.7.0.33/24", "fd00:7::33/64"]),
    ("IP=10.7.0.31", {}, {"ips": ["fd00:7::33"]}, ["10.7.0.31/24", "fd00:7::33/64"]),
]


@pytest.mark.parametrize(("args", "section", "runtime", "addresses"), IPS)
@pytest.mark.parametrize("ipam", ["cni-py-ipam", "host-local"])
def test_ips(
    ipam: str, args: str, section: dict[str, Any], runtime: dict[str, Any], addresses: list[str], path: Path
) -> None:
    """Asked-for addresses reach the IPAM plugin through us, and are what the container has."""
    config = {**routed(), "ipam": dual_ipam(ipam), "args": section, "runtimeConfig": runtime}
    result = Caller(path, args=f"IgnoreUnknown=1;{args}" if args else "").add(config)
    assert addresses == [entry["address"] for entry in result["ips"]]
    held = {f"{one['local']}/{one['prefixlen']}" for one in link()["addr_info"] if one["scope"] == "global"}
    assert set(addresses) == held


def test_ip_ranges(path: Path) -> None:
    """The capability ipRanges gives the ranges where the configuration has none."""
    ranges = {"ipRanges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]}
    config = {**routed(), "ipam": {"type": "cni-py-ipam"}, "runtimeConfig": ranges}
    assert [entry["address"] for entry in Caller(path).add(config)["ips"]] == ["10.9.0.2/24", "fd00:9::2/64"]


DNS = [
    ({}, {}, {"nameservers": ["192.0.2.1"]}),
    ({"nameservers": ["192.0.2.2"], "domain": "a.example"}, {}, {"nameservers": ["192.0.2.2"], "domain": "a.example"}),
    (
        {"nameservers": ["192.0.2.2"], "domain": "a.example"},
        {"servers": ["192.0.2.3"], "searches": ["b.example"], "options": ["ndots:5"]},
        {"nameservers": ["192.0.2.3"], "search": ["b.example"], "options": ["ndots:5"]},
    ),
]


@pytest.mark.parametrize(("own", "runtime", "shown"), DNS, ids=["from ipam", "configured", "capability"])
def test_dns(own: dict[str, Any], runtime: dict[str, Any], shown: dict[str, Any], path: Path, tmp_path: Path) -> None:
    """The runtime's dns beats the configuration's beats IPAM's, whole."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.1\n")
    config = {**routed(), "ipam": {**dual_ipam(), "resolvConf": str(resolv)}, "dns": own}
    assert shown == Caller(path).add({**config, "runtimeConfig": {"dns": runtime} if runtime else {}})["dns"]


@pytest.mark.parametrize("config", [routed(), bridged()], ids=["routed", "bridge"])
def test_mtu(config: dict[str, Any], path: Path) -> None:
    """Both ends have the MTU that was asked for, and the result of 1.1.0 says so."""
    result = Caller(path).add({**config, "mtu": 1400})
    (veth,) = [one["name"] for one in result["interfaces"] if one["name"].startswith("cpy")]
    (inside,) = [one for one in result["interfaces"] if one.get("sandbox")]
    assert (inside["mtu"], link()["mtu"], link(veth, "")["mtu"]) == (1400, 1400, 1400)


def test_disabled_interface(path: Path) -> None:
    """DisableContainerInterface leaves it down, for who is to configure it later; with IPAM that is an error."""
    config = {**bridged(isDefaultGateway=False, disableContainerInterface=True), "ipam": {}}
    caller = Caller(path)
    result = caller.add(config)
    assert "UP" not in link()["flags"]
    assert caller.verb("CHECK", {**config, "prevResult": result}) == (0, None)
    caller.delete(config)
    code, error = caller.verb("ADD", {**config, "ipam": dual_ipam()})
    assert (code, error["msg"]) == (1, "cannot use IPAM when DisableContainerInterface flag is set")


@pytest.mark.parametrize(("wanted", "flags"), [(False, {"nodad"}), (True, set())], ids=["off", "on"])
def test_enabledad(wanted: bool, flags: set[str], path: Path) -> None:
    """Duplicate address detection is left out, as IPAM knows better, unless the configuration asks for it."""
    Caller(path).add(bridged(enabledad=wanted))
    (address,) = [one for one in link()["addr_info"] if one["family"] == "inet6" and one["scope"] == "global"]
    assert flags == {"nodad"} & address.keys()
    read = ("ip", "netns", "exec", "c1", "cat", "/proc/sys/net/ipv6/conf/eth0/accept_dad")
    assert str(int(wanted)) == output(*read).strip()


def test_several_interfaces(path: Path) -> None:
    """One container in two networks, and twice in one: each interface has its own address, DEL takes just its own."""
    second = {
        **bridged(isDefaultGateway=False),
        "name": "other",
        "ipam": {"type": "cni-py-ipam", "subnet": "10.8.0.0/24"},
    }
    configs = {"eth0": routed(), "net1": second, "net2": second}
    callers = {name: Caller(path, ifname=name) for name in configs}
    added = [callers[name].add(config)["ips"][0]["address"] for name, config in configs.items()]
    assert added == ["10.7.0.2/24", "10.8.0.2/24", "10.8.0.3/24"]
    callers["net1"].delete(second)
    names = {one["ifname"] for one in json.loads(output("ip", "-n", "c1", "-j", "link"))}
    assert {"lo", "eth0", "net2"} == names
    assert [entry.name for entry in Path("/var/lib/cni/networks/other").glob("10.*")] == ["10.8.0.3"]


@pytest.mark.parametrize("persona", [Persona.CNI_PY, Persona.BRIDGE, Persona.PTP])
def test_unknown_option(persona: Persona, path: Path) -> None:
    """Under our name a typo is an error that knows better; under the reference's names it is ignored, as there."""
    kind = {"ipam": dual_ipam("host-local"), "isDefaultGatway": True}
    code, document = Caller(path, persona=persona).verb("ADD", {"cniVersion": "1.0.0", "name": "net", **kind})
    if persona is Persona.CNI_PY:
        assert (code, document["code"]) == (1, 7)
        assert "isDefaultGateway" in f"{document['msg']} {document['details']}"
    else:
        assert code == 0
