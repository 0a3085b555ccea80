"""The same configuration through the compiled plugins and through ours: the same result, the same state of the node."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, dual_ipam, install, netns
from netns.snapshot import namespace, output

from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo

V4 = {"type": "host-local", "ranges": [[{"subnet": "10.7.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
PTP = {
    "ipv4": {"ipam": V4},
    "dual stack": {"ipam": dual_ipam("host-local")},
    "ipv6": {"ipam": {"type": "host-local", "subnet": "fd00:7::/64", "routes": [{"dst": "::/0"}]}},
    "mtu": {"ipam": V4, "mtu": 1400},
    "no routes": {"ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}},
    "route by gw": {
        "ipam": {**V4, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.7.0.9", "priority": 50}]}
    },
    "own dns": {"ipam": V4, "dns": {"nameservers": ["192.0.2.53"], "search": ["example.org"]}},
    "two subnets": {
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.7.0.0/24"}], [{"subnet": "10.8.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
    },
}
BRIDGE = {
    "defaults": {"ipam": V4},
    "gateway": {"ipam": V4, "isGateway": True},
    "default gateway": {"ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}, "isDefaultGateway": True},
    "dual stack": {"ipam": {**dual_ipam("host-local"), "routes": []}, "isDefaultGateway": True},
    "hairpin, isolated, mtu": {"ipam": V4, "isGateway": True, "hairpinMode": True, "portIsolation": True, "mtu": 1400},
    "promiscuous": {"ipam": V4, "isGateway": True, "promiscMode": True},
    "layer 2": {},
    "layer 2, empty ipam": {"ipam": {}},
    "interface left down": {"disableContainerInterface": True},
    "own bridge": {"ipam": V4, "bridge": "mine"},
    "mac by args": {"ipam": V4, "args": {"cni": {"mac": "02:00:00:00:00:07"}}},
    "enabledad": {"ipam": dual_ipam("host-local"), "isGateway": True, "enabledad": True},
}
CASES = [(Persona.PTP, name, options, "1.1.0") for name, options in PTP.items()]
CASES += [(Persona.BRIDGE, name, options, "1.1.0") for name, options in BRIDGE.items()]
CASES += [(Persona.PTP, "dual stack", PTP["dual stack"], version) for version in ("0.2.0", "0.4.0")]
CASES += [(Persona.BRIDGE, "dual stack", BRIDGE["dual stack"], version) for version in ("0.2.0", "0.4.0")]

# What is meant to differ, each with its reason.
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_NAME = re.compile(r"\b(veth[0-9a-f]{8}|cpy[0-9a-f]{12})\b")  # the host's end has a name of the plugin's choice


# the reference's addresses get these when duplicate address detection is through, ours have them at once
_AFTER_DAD = re.compile(r"(local|anycast) fd00:7:")


def _neutral(text: str) -> str:
    return _NAME.sub("VETH", _MAC.sub("MAC", text))


def _neutral_result(result: dict[str, Any]) -> str:
    """mtu: 1.1.0 has a field for it, which the reference leaves empty."""
    for interface in result.get("interfaces", ()):
        interface.pop("mtu", None)
    return _neutral(json.dumps(result, sort_keys=True))


def _neutral_state(state: dict[str, Any]) -> dict[str, Any]:
    links = {
        _neutral(name): {
            "flags": sorted(set(link["flags"]) - {"NO-CARRIER", "LOWER_UP"}),
            "mtu": link["mtu"],
            "carrier": _carrier(link),
            "master": link.get("master"),
            "promiscuity": link["promiscuity"],
            "port": _port(link),
            # how an address came about (nodad, noprefixroute) is how a second of waiting and a route are saved
            "addresses": sorted(f"{one['local']}/{one['prefixlen']} {one['scope']}" for one in link["addr_info"]),
        }
        for name, link in state["links"].items()
    }
    routes = [_neutral_route(_neutral(line)) for line in (*state["routes"], *state["routes6"])]
    routes = [line for line in routes if not _AFTER_DAD.match(line)]
    return {"links": links, "routes": sorted(routes), "sysctls": state["sysctls"]}


def _carrier(link: dict[str, Any]) -> bool | None:
    """Whether the other end is up. Of a bridge the kernel says it only a moment after its ports came or went."""
    return None if link.get("linkinfo", {}).get("info_kind") == "bridge" else "LOWER_UP" in link["flags"]


def _neutral_route(line: str) -> str:
    """The host's route to the container: ours says whose it is (proto) and that it is on the link, not local (scope).

    `onlink` is how we say what the reference achieves by adding the route before it deletes the network's.
    """
    return re.sub(r"(dev VETH)( proto \w+)?( scope \w+)?| (?:onlink|linkdown)\b", r"\1", line).strip()


def _port(link: dict[str, Any]) -> dict[str, Any]:
    data = link.get("linkinfo", {}).get("info_slave_data", {})
    return {key: data.get(key) for key in ("state", "hairpin", "isolated")}


@pytest.mark.parametrize(
    ("persona", "options", "version"),
    [(persona, options, version) for persona, _, options, version in CASES],
    ids=[f"{persona.value} {version}: {name}" for persona, name, _, version in CASES],
)
def test_as_the_reference(
    persona: Persona, options: dict[str, Any], version: str, tmp_path: Path, reference: Path
) -> None:
    """A conflist that works with ptp or bridge needs no edit: result and kernel state are the same, and DEL's too."""
    ours = install(tmp_path / "bin")
    seen = []
    for path in (reference, ours):
        netns("c1")
        caller = Caller(path, persona=persona)
        config = {"cniVersion": version, "name": "net", "type": persona.value, **options}
        code, result = caller.process("ADD", config)
        assert code == 0, result
        during = (_neutral_state(namespace()), _neutral_state(namespace("c1")))
        chained = {**config, "prevResult": result}
        if version != "0.2.0" and (path == ours or options.get("ipam")):  # its bridge cannot CHECK without IPAM
            assert caller.process("CHECK", chained)[0] == 0
        assert caller.process("DEL", chained) == (0, None)
        after = (_neutral_state(namespace()), _neutral_state(namespace("c1")))
        seen.append(_lines(_neutral_result(result), during, after))
        _clean()
    assert seen[0] == seen[1]


def _lines(result: str, *states: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    """All of it as lines, so that a failure shows those that differ."""
    named = {"result": result, **dict(zip(("during", "after"), states, strict=True))}
    return json.dumps(named, indent=1, sort_keys=True).splitlines()


def _clean() -> None:
    for link in ("cni0", "mine"):
        if f" {link}:" in output("ip", "-o", "link"):
            output("ip", "link", "del", link)
    output("ip", "netns", "del", "c1")
    for path in (Path("/var/lib/cni/networks/net")).glob("*"):
        path.unlink()
    for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        Path("/proc/sys", key).write_text("0")
