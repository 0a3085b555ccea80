"""The host of a call is the network namespace of its forwarder, whichever one the agent runs in."""

import os
from pathlib import Path
from typing import Any

import pytest
from agent.live import FORWARDERS, NOTHING, left, running
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import namespace, settled

from cni_py.kernel import netns as spaces

pytestmark = pytest.mark.sudo

SERVED = {
    "ipMasq": True,
    "runtimeConfig": {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000},
    },
}


@pytest.mark.parametrize("forwarder", FORWARDERS)
@pytest.mark.parametrize("config", [routed(**SERVED), bridged(macspoofchk=True, **SERVED)], ids=["routed", "bridge"])
def test_another_host(config: dict[str, Any], forwarder: str, tmp_path: Path) -> None:
    """ADD, CHECK, DEL from another namespace than the agent's: links, rules and forwarding are there, not here."""
    netns("c1", "c2", "host2")
    caller = Caller(install(tmp_path / "bin", program=FORWARDERS[forwarder]))
    with running(tmp_path):
        other = Caller(caller.path, "c2", "/run/netns/c2")
        assert other.process("ADD", config)[0] == 0  # the same host port, on another host
        before = settled({"host": namespace()})
        fd = spaces.open_path("/run/netns/host2")
        with spaces.entered(fd):
            code, result = caller.process("ADD", config)
        assert code == 0, result
        there = namespace("host2")
        assert {name[:3] for name in there["links"]} >= {"cpy", "cpb"}
        assert "8080" in there["nft"]
        assert "masquerade" in there["nft"]
        assert there["sysctls"][0] == "1"
        assert before == settled({"host": namespace()})
        with spaces.entered(fd):
            assert caller.process("CHECK", {**config, "prevResult": result}) == (0, None)
            assert caller.process("DEL", {**config, "prevResult": result}) == (0, None)
        there = namespace("host2")
        assert sorted(set(there["links"]) - {"cni0"}) == ["lo"]
        assert "8080" not in there["nft"]
        os.close(fd)
        assert before == settled({"host": namespace()})
        assert other.process("DEL", config) == (0, None)
    assert left() == NOTHING
