"""VLANs of bridge ports: refused with a reason on a kernel without VLAN filtering, and what the others have to show."""

import json
import subprocess
from pathlib import Path

import pytest
from netns.plugin import Caller, bridged, install, netns
from netns.snapshot import lines, node, output

pytestmark = pytest.mark.sudo


def _has_vlan_filtering() -> bool:
    made = subprocess.run(["ip", "link", "add", "probe0", "type", "bridge", "vlan_filtering", "1"], check=False)
    if made.returncode == 0:
        output("ip", "link", "del", "probe0")
    return made.returncode == 0


@pytest.mark.parametrize("options", [{"vlan": 100}, {"vlanTrunk": [{"minID": 10, "maxID": 12}, {"id": 20}]}], ids=str)
def test_vlans(options: dict[str, object], tmp_path: Path) -> None:
    """A port is in its VLANs, and the gateway too; or code 2 says what the kernel lacks, and nothing is left."""
    caller = Caller(install(tmp_path / "bin"))
    netns("c1")
    config = bridged(**options)
    before = lines(node("c1"))
    code, document = caller.verb("ADD", config)
    if not _has_vlan_filtering():
        assert (code, document["code"]) == (1, 2)
        assert "CONFIG_BRIDGE_VLAN_FILTERING" in document["details"]
        assert before == lines(node("c1"))
        return
    assert code == 0, document
    veth = document["interfaces"][1]["name"]
    vlans = {
        port["ifname"]: [(one["vlan"], sorted(one.get("flags", []))) for one in port["vlans"]]
        for port in json.loads(output("bridge", "-j", "vlan", "show"))
    }
    if "vlan" in options:
        assert vlans[veth] == [(100, ["Egress Untagged", "PVID"])]
        assert document["interfaces"][-1]["name"] == "cni0.100"
        gateway = json.loads(output("ip", "-j", "-4", "address", "show", "cni0.100"))
        assert [one["local"] for one in gateway[0]["addr_info"]] == ["10.7.0.1"]
    else:
        assert vlans[veth] == [(1, ["Egress Untagged", "PVID"]), (10, []), (11, []), (12, []), (20, [])]
    assert caller.verb("CHECK", {**config, "prevResult": document}) == (0, None)
    other = Caller(caller.path, container="c2", netns="/run/netns/c2")
    netns("c2")
    other.add(config)
    for each in (caller, other):
        each.delete(config)
