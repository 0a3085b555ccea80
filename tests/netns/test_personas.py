"""Under the reference's names: portmap and bandwidth as chained plugins, loopback, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, dual_ipam, install, netns
from netns.pods import Node, empty_node, talk
from netns.snapshot import namespace, node, output, settled

from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo

PTP = {"cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipam": dual_ipam("host-local")}
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
LIMITS = {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000}
CHAINED = [Persona.PORTMAP, Persona.BANDWIDTH]
RUNTIME = {Persona.PORTMAP: PORTS, Persona.BANDWIDTH: {"bandwidth": LIMITS}}


def chained(persona: Persona, result: Any, **options: Any) -> dict[str, Any]:
    """The configuration of a chained plugin."""
    return {"cniVersion": "1.0.0", "name": "net", "type": persona.value, "prevResult": result, **options}


def behind(made: Node, persona: Persona) -> Caller:
    """The same container's call under another name."""
    return Caller(made.path, "c1", "/run/netns/c1", persona=persona)


@pytest.mark.parametrize("persona", CHAINED)
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_nothing_asked_for(persona: Persona, version: str, tmp_path: Path) -> None:
    """Without mappings or limits prevResult passes through, and nothing changes: most containers have none."""
    with empty_node(tmp_path) as made:
        made.attach("c1", {**PTP, "cniVersion": version}, Persona.PTP)
        before = settled(node("c1"))
        config = chained(persona, made.result("c1"), cniVersion=version)
        assert made.result("c1") == behind(made, persona).add(config)
        if version >= "0.4.0":
            assert behind(made, persona).verb("CHECK", config) == (0, None)
        behind(made, persona).delete(config)
        assert before == settled(node("c1"))


@pytest.mark.parametrize("persona", CHAINED)
def test_not_chained(persona: Persona, tmp_path: Path) -> None:
    """As the only plugin of a list there is nothing to work on; the reference's portmap says it in these words."""
    caller = Caller(install(tmp_path / "bin"), persona=persona)
    netns("c1")
    config = {"cniVersion": "1.0.0", "name": "net", "type": persona.value, "runtimeConfig": RUNTIME[persona]}
    code, error = caller.verb("ADD", config)
    assert (code, error["msg"]) == (1, "must be called as chained plugin")


@pytest.mark.parametrize("persona", CHAINED)
def test_life(persona: Persona, tmp_path: Path) -> None:
    """ADD, CHECK, DEL; the DEL of a runtime that forgot the mappings and limits takes them away as well."""
    with empty_node(tmp_path) as made:
        pod = made.attach("c1", PTP, Persona.PTP)
        caller = behind(made, persona)
        config = chained(persona, made.result("c1"), runtimeConfig=RUNTIME[persona])
        result = caller.add(config)
        assert made.result("c1")["ips"] == result["ips"]
        assert caller.verb("CHECK", {**config, "prevResult": result}) == (0, None)
        if persona is Persona.PORTMAP:
            assert talk(made.place, ("127.0.0.1", 8080), pod)
        else:
            assert sorted(line.split()[1] for line in namespace()["qdiscs"] if "tbf" in line) == ["tbf", "tbf"]
        caller.delete(chained(persona, made.result("c1")))
        assert "8080" not in namespace()["nft"]
        assert not [name for name in namespace()["links"] if name.startswith("cpb")]
        made.callers["c1"].delete(PTP)
        state = node("c1")
        assert (sorted(state["host"]["links"]), state["host"]["nft"], state["files"]) == (["lo"], "", {})


def test_reference_network_names(tmp_path: Path) -> None:
    """A network name of the reference's alphabet, dots and all, makes records, leases and devices."""
    caller = Caller(install(tmp_path / "bin"), container="A.b-c_9", persona=Persona.PTP)
    netns("c1")
    config = {**PTP, "name": "k8s-pod.network_1"}
    caller.add(config)
    assert [path.name for path in Path("/var/lib/cni/networks/k8s-pod.network_1").glob("10.*")] == ["10.7.0.2"]
    caller.delete(config)
    assert node("c1")["files"] == {}


def test_no_veth(tmp_path: Path) -> None:
    """A limit behind a plugin whose interface has no end on the host is refused with what to do."""
    with empty_node(tmp_path) as made:
        caller = made.caller("c1", Persona.BANDWIDTH)
        output(*["ip", "-n", "c1", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])
        result = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}], "ips": []}
        config = chained(Persona.BANDWIDTH, result, runtimeConfig=RUNTIME[Persona.BANDWIDTH])
        code, error = caller.verb("ADD", config)
        assert (code, error["msg"]) == (1, "container interface eth0 has no veth peer in the host's namespace")


def test_loopback(tmp_path: Path) -> None:
    """What containerd calls first for each container, with 0.3.1: lo is up, with both addresses in the result."""
    path = install(tmp_path / "bin")
    output("ip", "netns", "add", "c1")
    caller = Caller(path, ifname="lo", persona=Persona.LOOPBACK)
    config = {"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"}
    code, result = caller.process("ADD", config, "loopback")
    assert code == 0, result
    (lo,) = json.loads(output("ip", "-n", "c1", "-j", "address", "show", "lo"))
    assert "UP" in lo["flags"]
    assert {entry["address"] for entry in result["ips"]} == {"127.0.0.1/8", "::1/128"}
    assert caller.process("DEL", config, "loopback") == (0, None)


@pytest.mark.parametrize("name", ["bridge", "ptp", "host-local", "portmap", "bandwidth", "loopback", "cni-py"])
def test_version(name: str, tmp_path: Path) -> None:
    """VERSION under each name, which runtimes ask with garbage in all other variables."""
    caller = Caller(install(tmp_path / "bin"), container="dummy", netns="dummy", ifname="dummy")
    code, answer = caller.process("VERSION", b"no JSON", name)
    assert (code, answer["cniVersion"]) == (0, "1.1.0")
