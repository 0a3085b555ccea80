"""GC: of its network only what the runtime says is valid is left; the living notice nothing."""

from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, dual_ipam, install, netns, routed
from netns.pods import Node, empty_node, talk
from netns.snapshot import lines, node, output, settled

from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo

SERVED = {"ipMasq": True, "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}}
MODES = {"routed": routed(), "bridge": bridged(macspoofchk=True)}
LEASES = Path("/var/lib/cni/networks/net")


def collect(caller: Caller, config: dict[str, Any], *valid: str) -> tuple[int, Any]:
    """GC with these containers as the valid ones."""
    listed = [{"containerID": name, "ifname": "eth0"} for name in valid]
    return caller.verb("GC", {**config, "runtimeConfig": {}, "cni.dev/valid-attachments": listed})


def leases() -> set[str]:
    """The addresses of IPv4 that are taken."""
    return {path.name for path in LEASES.glob("10.*")}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ipam", ["cni-py-ipam", "host-local"])
def test_three_kinds(mode: str, ipam: str, tmp_path: Path) -> None:
    """One lives, one's namespace is gone, one was never recorded (its lease is an orphan): the first alone is left."""
    config = {**MODES[mode], "ipam": dual_ipam(ipam)}
    with empty_node(tmp_path) as made:
        living = made.attach("c1", {**config, "ipMasq": True})
        before = settled(node("c1"))
        made.attach("c2", {**config, **SERVED})
        output("ip", "netns", "del", "c2")
        for name in ("10.7.0.77", "fd00:7::77"):
            (LEASES / name).write_bytes(b"c3\r\neth0")
        assert collect(made.callers["c1"], config, "c1") == (0, None)
        assert {"10.7.0.2"} == leases()
        assert before == settled(node("c1"))
        assert living.address(4) == talk(living, ("10.7.0.1", 80), made.place)


@pytest.mark.parametrize("valid", [None, []], ids=["null", "empty list"])
def test_none_is_valid(valid: list[Any] | None, tmp_path: Path) -> None:
    """`null`, which CRI-O sends on a node without pods, and the empty list say that nothing is valid."""
    caller = Caller(install(tmp_path / "bin"))
    netns("c1")
    caller.add(routed(**SERVED))
    assert caller.verb("GC", {**routed(), "cni.dev/valid-attachments": valid}) == (0, None)
    state = node("c1")
    assert sorted(state["host"]["links"]) == ["lo"]
    assert (state["host"]["nft"], state["files"]) == ("", {})


def test_no_list(tmp_path: Path) -> None:
    """Without any list nothing is known of what is valid, so nothing is collected."""
    caller = Caller(install(tmp_path / "bin"))
    netns("c1")
    caller.add(routed(**SERVED))
    before = settled(node("c1"))
    assert caller.verb("GC", routed()) == (0, None)
    assert before == settled(node("c1"))


def test_other_networks(tmp_path: Path) -> None:
    """A container of another network, whose range lies beside, keeps its interface, lease and masquerade."""
    with empty_node(tmp_path) as made:
        other = {**routed(ipMasq=True), "name": "other", "ipam": {"type": "cni-py-ipam", "subnet": "10.8.0.0/24"}}
        made.attach("c1", other)
        before = settled(node("c1"))
        mine = {**routed(**SERVED), "ipam": {"type": "cni-py-ipam", "subnet": "10.7.0.0/24"}}
        made.attach("c2", mine)
        assert collect(made.callers["c2"], mine) == (0, None)
        assert before == settled(node("c1"))


def test_goes_on(tmp_path: Path) -> None:
    """A record that nobody can read is named, and all others are collected nevertheless."""
    with empty_node(tmp_path) as made:
        made.attach("c1", routed())
        made.attach("c2", routed(**SERVED))
        damaged, *_ = sorted(Path("/var/lib/cni-py/attachments/net").glob("*.json"))
        damaged.write_text("no record")
        code, error = collect(made.callers["c1"], routed())
        assert code == 1
        assert str(damaged) in error["msg"]
        assert set() == leases()
        assert [damaged] == list(Path("/var/lib/cni-py/attachments/net").glob("*.json"))


@pytest.mark.parametrize("persona", [Persona.PORTMAP, Persona.BANDWIDTH])
def test_chained(persona: Persona, tmp_path: Path) -> None:
    """GC of a list asks each plugin: the chained ones take only what is theirs."""
    limits = {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000}
    extra = {**SERVED["runtimeConfig"], "bandwidth": limits}  # type: ignore[dict-item]  # a table of JSON
    with empty_node(tmp_path) as made:
        made.attach("c1", routed())
        before = _chained_share()
        chained = Caller(made.path, "c1", "/run/netns/c1", persona=persona)
        config = {"cniVersion": "1.1.0", "name": "net", "type": persona.value, "runtimeConfig": extra}
        chained.add({**config, "prevResult": made.result("c1")})
        during = _chained_share()
        assert before != during
        assert collect(chained, config, "c1") == (0, None)
        assert during == _chained_share()
        talk(made.place, ("10.7.0.2", 80), made.places["c1"])
        assert collect(chained, config) == (0, None)
        assert before == _chained_share()


def _chained_share() -> tuple[set[str], bool, int]:
    """Devices, whether there is a host port, and the number of records; a limit on the veth goes with that."""
    state = node()["host"]
    records = list(Path("/var/lib/cni-py/attachments").glob("*/*.json"))
    return set(state["links"]), "8080" in state["nft"], len(records)


def test_unused(tmp_path: Path) -> None:
    """GC on a node where nothing was ever added succeeds and makes nothing."""
    with empty_node(tmp_path) as made:
        assert isinstance(made, Node)
        netns("c1")
        before = lines(node("c1"))
        assert collect(Caller(made.path), routed()) == (0, None)
        assert before == lines(node("c1"))
