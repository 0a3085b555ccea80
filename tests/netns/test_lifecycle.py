"""DEL in every state that a node can be in: it succeeds, and nothing of the attachment is left."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, dual_ipam, install, netns, routed
from netns.snapshot import node, output, settled

from cni_py.model.attachment import Key, host_ifname
from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo

SERVED = {
    "ipMasq": True,
    "runtimeConfig": {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
        ],
        "bandwidth": {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000},
    },
}
CONFIGS = {
    "routed": routed(**SERVED),
    "bridge": bridged(**SERVED, macspoofchk=True),
    "layer 2": {**bridged(isDefaultGateway=False), "ipam": {}},
}
VETH = host_ifname(Key("net", "c1", "eth0"))
LEASES = Path("/var/lib/cni/networks/net")
RECORDS = Path("/var/lib/cni-py/attachments")


@pytest.fixture
def caller(fresh_namespaces: None, tmp_path: Path) -> Caller:
    """The caller for one container on an empty node."""
    del fresh_namespaces
    netns("c1")
    return Caller(install(tmp_path / "bin"))


def left() -> dict[str, Any]:
    """What is on the host of attachments: devices but the bridge, routes, nftables, leases, records."""
    host = node()
    return {
        "links": sorted(set(host["host"]["links"]) - {"lo", "cni0"}),
        "nft": host["host"]["nft"],
        "routes": [line for line in host["host"]["routes"] if VETH in line or "10.7.0.2 " in line],
        "files": host["files"],
    }


NOTHING = {"links": [], "nft": "", "routes": [], "files": {}}


def _other_namespace() -> None:
    """The container's namespace is gone, and its name is that of another one, with an eth0 of its own."""
    output("ip", "netns", "del", "c1")
    netns("c1")
    output(*["ip", "-n", "c1", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])


def _torn() -> None:
    for path in RECORDS.glob("*/*.json"):
        path.write_text('{"version": 1, "ke')


def _run(command: str) -> Callable[[], object]:
    return lambda: output(*command.split())


STATES = {
    "as ADD left it": _run("true"),
    "no record": _run("rm -r /var/lib/cni-py/attachments"),
    "torn record": _torn,
    "record without link": _run(f"ip link del {VETH}"),
    "container's end deleted": _run("ip -n c1 link del eth0"),
    "namespace gone": _run("ip netns del c1"),
    "path is another namespace": _other_namespace,
    "ruleset flushed": _run("nft flush ruleset"),
    "table deleted": _run("nft delete table inet cnipy_nat"),
    "lease gone": _run("rm -r /var/lib/cni/networks/net"),
    "forwarding off": _run("busybox sysctl -w net.ipv4.ip_forward=0"),
}
NOT_OF_LAYER_2 = {"table deleted", "lease gone"}


@pytest.mark.parametrize(
    ("name", "state"),
    [(name, state) for name in CONFIGS for state in STATES if name != "layer 2" or state not in NOT_OF_LAYER_2],
)
def test_del(name: str, state: str, caller: Caller) -> None:
    """DEL, as libcni sends it, twice: success, and nothing is left."""
    config = CONFIGS[name]
    chained = {**config, "prevResult": caller.add(config)}
    STATES[state]()
    caller.delete(chained)
    assert left() == NOTHING
    caller.delete(chained)
    assert left() == NOTHING


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("populated", [False, True], ids=["alone", "beside another"])
def test_add_del(name: str, populated: bool, caller: Caller) -> None:
    """The node before ADD and after DEL is the same to the last rule, also beside another container."""
    config = CONFIGS[name]
    if populated:
        netns("c2")
        Caller(caller.path, "c2", "/run/netns/c2").add({**config, "runtimeConfig": {}})
    else:  # the bridge and forwarding stay, as with the reference
        caller.add(config)
        caller.delete(config)
    before = settled(node("c1"))
    caller.add(config)
    caller.delete(config)
    assert before == settled(node("c1"))


@pytest.mark.parametrize("name", CONFIGS)
def test_del_of_nothing(name: str, caller: Caller) -> None:
    """DEL of what was never added is success and changes nothing."""
    before = settled(node("c1"))
    caller.delete(CONFIGS[name])
    assert before == settled(node("c1"))


def test_another_namespace_keeps_its_interface(caller: Caller) -> None:
    """The path leads to somebody else's namespace by now: its eth0 is not ours to delete."""
    chained = {**CONFIGS["routed"], "prevResult": caller.add(CONFIGS["routed"])}
    _other_namespace()
    caller.delete(chained)
    assert "eth0" in node("c1")["c1"]["links"]


@pytest.mark.parametrize("kind", ["ptp", "bridge"])
def test_made_by_the_reference(kind: str, caller: Caller, reference: Path) -> None:
    """An attachment of the compiled plugin, deleted by ours after the switch: interface and lease are gone."""
    config = {"cniVersion": "1.0.0", "name": "net", "type": kind, "ipam": dual_ipam("host-local")}
    old = Caller(reference, persona=Persona(kind))
    code, result = old.process("ADD", config)
    assert code == 0, result
    new = Caller(caller.path, persona=Persona(kind))
    new.delete({**config, "prevResult": result})
    assert sorted(node("c1")["c1"]["links"]) == ["lo"]
    assert left() == NOTHING


def test_existing_interface(caller: Caller) -> None:
    """A second ADD is refused, and the first attachment is as it was (SPEC 1.1 section 2)."""
    caller.add(CONFIGS["routed"])
    before = settled(node("c1"))
    code, error = caller.verb("ADD", CONFIGS["routed"])
    assert (code, error["msg"]) == (1, 'container already has an interface "eth0"')
    assert before == settled(node("c1"))


def test_second_namespace(caller: Caller) -> None:
    """ADD of the same container ID in another namespace is refused: its first attachment would be orphaned."""
    caller.add(CONFIGS["routed"])
    netns("c2")
    before = settled(node("c1", "c2"))
    code, error = Caller(caller.path, "c1", "/run/netns/c2").verb("ADD", CONFIGS["routed"])
    assert code == 1
    assert "is attached already, to another namespace" in error["msg"]
    assert before == settled(node("c1", "c2"))


@pytest.mark.parametrize("ipam", ["host-local", "cni-py-ipam"])
def test_reboot(ipam: str, caller: Caller) -> None:
    """Records and leases of an earlier boot, whose links are gone, are so too before the first ADD needs an address."""
    pool = {"type": ipam, "subnet": "10.7.0.0/29", "rangeStart": "10.7.0.2", "rangeEnd": "10.7.0.2"}
    config = {**routed(), "ipam": pool}
    caller.add(config)
    output("ip", "netns", "del", "c1")
    for path in (*RECORDS.glob("*/*.json"), Path("/var/lib/cni-py/boot")):
        path.write_text(
            path.read_text().replace(Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "earlier")
        )
    subprocess.run(["ip", "link", "del", VETH], check=False, capture_output=True)
    output("nft", "flush", "ruleset")
    netns("c2")
    after = Caller(caller.path, "c2", "/run/netns/c2")
    assert after.add(config)["ips"][0]["address"] == "10.7.0.2/29"
    (record,) = RECORDS.glob("*/*.json")
    assert json.loads(record.read_text())["key"]["container_id"] == "c2"
    after.delete(config)
    assert left() == NOTHING


def test_crash_between_record_and_kernel(caller: Caller) -> None:
    """A record without a link (the process died between the two) is no obstacle to the next ADD, nor its lease."""
    config = CONFIGS["routed"]
    caller.add(config)
    output("ip", "link", "del", VETH)
    caller.delete({**config, "ipam": {**config["ipam"]}})
    caller.add(config)
    output("ip", "link", "del", VETH)
    for lease in LEASES.glob("[0-9f]*"):
        lease.unlink()
    caller.add(config)
    assert caller.verb("CHECK", {**config, "prevResult": _result(config, caller)}) == (0, None)


def _result(config: dict[str, Any], caller: Caller) -> Any:
    caller.delete(config)
    return caller.add(config)


@pytest.mark.parametrize("mode", [routed, bridged])
def test_another_configuration_over_a_lost_link(mode: Callable[..., dict[str, Any]], caller: Caller) -> None:
    """An ADD that finds a record without its link takes along what only that shared, such as a masqueraded range."""
    caller.add(mode(**SERVED))
    output("ip", "link", "del", VETH)
    output("rm", "-r", str(LEASES))
    caller.add(mode())
    caller.delete(mode())
    assert left() == NOTHING
