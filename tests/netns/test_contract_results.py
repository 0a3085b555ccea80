"""Table 1d of the contract: what ADD prints in each version, to the byte, and which versions of prevResult mix.

The goldens are below `tests/vectors/results`: MODE-VERSION.json, with the MACs, which chance chooses, as `MAC`.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, dual_ipam, install, netns

from cni_py.model.persona import Persona
from cni_py.spec.versions import FAMILIES, SUPPORTED

pytestmark = pytest.mark.sudo

GOLDENS = Path(__file__).parent.parent / "vectors/results"
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_VETH = re.compile(r"\b(veth[0-9a-f]{8}|cpy[0-9a-f]{12})\b")

ROUTES = [
    {"dst": "0.0.0.0/0"},
    {"dst": "::/0"},
    {"dst": "192.0.2.0/24", "gw": "10.7.0.9", "mtu": 1300, "advmss": 1260, "priority": 50},
]
IPAM = {**dual_ipam("host-local"), "routes": ROUTES}
DNS = {"nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["example.org"], "options": ["ndots:2"]}
# mode: the name of the plugin, its configuration, and whether the reference of that name prints the very same
MODES: dict[str, tuple[Persona, dict[str, Any], bool]] = {
    "routed": (Persona.CNI_PY, {"ipam": IPAM, "mtu": 1450}, False),
    "ptp": (Persona.PTP, {"ipam": IPAM, "dns": DNS}, True),
    "bridge": (Persona.BRIDGE, {"ipam": dual_ipam("host-local"), "isGateway": True}, True),
    "layer-2": (Persona.BRIDGE, {}, True),
    "host-local": (Persona.HOST_LOCAL, {"ipam": IPAM}, True),
    "loopback": (Persona.LOOPBACK, {}, True),
}
VERSIONS = ("none", *SUPPORTED)
# The reference's loopback prints its 1.1.0 result under every version that is named: it takes equal numbers for equal
# shapes (convert.go). We print what the version has.
SAME = [
    (mode, version)
    for mode, (_, _, same) in MODES.items()
    for version in VERSIONS
    if same and (mode != "loopback" or version in ("none", *FAMILIES[-1]))
]


def printed(path: Path, persona: Persona, version: str, options: dict[str, Any]) -> tuple[int, str]:
    """The exit status and stdout of an ADD, MACs as `MAC`."""
    config = {"cniVersion": version, "name": "net", "type": persona.value, **options}
    if version == "none":
        del config["cniVersion"]
    caller = Caller(path, persona=persona)
    done = subprocess.run(
        [path / persona.value],
        input=json.dumps(config).encode(),
        env={**os.environ, **caller.environ("ADD")},
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return done.returncode, _MAC.sub("MAC", done.stdout.decode())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES)
def test_shape(mode: str, version: str, tmp_path: Path) -> None:
    """ADD prints the golden: the fields of the version in their order, unset ones left out, indented by 4."""
    persona, options, _ = MODES[mode]
    netns("c1")
    _, text = printed(install(tmp_path / "bin"), persona, version, options)
    golden = GOLDENS / f"{mode}-{version}.json"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(text)
    assert golden.read_text() == text


@pytest.mark.parametrize(("mode", "version"), SAME)
def test_shape_is_the_references(mode: str, version: str, reference: Path) -> None:
    """The compiled plugin prints the golden too, but for the name of the host's end and the extras of an error.

    To the byte before 1.0.0; since then Go has the keys of a map in order of the alphabet, which means nothing.
    """
    persona, options, _ = MODES[mode]
    netns("c1")
    code, text = printed(reference, persona, version, options)
    golden = (GOLDENS / f"{mode}-{version}.json").read_text()
    if code != 0:
        theirs = json.loads(text)
        assert theirs.items() <= json.loads(golden).items()
        return
    golden, text = _VETH.sub("VETH", golden), _VETH.sub("VETH", text)
    assert json.loads(golden) == json.loads(text)
    assert version in FAMILIES[-1] or golden == text


INNER = ("", *SUPPORTED, "9.9.9")
PREVIOUS: dict[str, dict[str, Any]] = {
    "0": {"ip4": {"ip": "10.7.0.9/24"}},
    "1": {"ips": [{"version": "4", "address": "10.7.0.9/24"}]},
    "2": {"ips": [{"address": "10.7.0.9/24"}]},
}


@pytest.mark.parametrize("version", SUPPORTED)
def test_families_of_prev_result(version: str, tmp_path: Path, reference: Path) -> None:
    """Item 13: prevResult is taken in the versions of one family, and in no other, as by the reference."""
    netns("c1")
    ours, theirs = install(tmp_path / "bin"), reference
    family = next(number for number, members in enumerate(FAMILIES) if version in members)
    taken: dict[str, set[str]] = {"ours": set(), "theirs": set()}
    for inner in INNER:
        shape = next((number for number, members in enumerate(FAMILIES) if inner in members), family)
        previous = {**({"cniVersion": inner} if inner else {}), **PREVIOUS[str(shape)]}
        for name, path in (("ours", ours), ("theirs", theirs)):
            code, text = printed(path, Persona.PORTMAP, version, {"prevResult": previous})
            if code == 0:
                taken[name].add(inner)
                assert "10.7.0.9/24" in text
                assert json.loads(text)["cniVersion"] == version
    assert taken["ours"] == taken["theirs"] == {"", *FAMILIES[family]}
