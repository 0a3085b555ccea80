"""Whole lives of containers through a live agent, by either forwarder: answers and node as by the script alone."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
from agent.live import FORWARDERS, comparable, drawn, running, wipe
from netns.plugin import PROGRAM, Caller, bridged, dual_ipam, install, netns, routed

from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo

Config = dict[str, Any]
Call = tuple[str, str, Persona, Config]  # command, container, persona, configuration; PREVIOUS stands for ADD's result

PREVIOUS = "the result of this container's last ADD"
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
LIMITS = {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000}
SERVED = {"ipMasq": True, "runtimeConfig": {**PORTS, "bandwidth": LIMITS}}
NAMES = ("c1", "c2")
MY_IPAM = """#!/bin/sh
case $CNI_COMMAND in
ADD) echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}]}' ;;
STATUS) [ -z "$CNI_CONTAINERID" ] || exit 1 ;;
esac
"""
FULL = """#!/bin/sh
echo a line >&2
[ $CNI_COMMAND = DEL ] && exit 0
echo '{"code": 123, "msg": "full: \\"10.7.0.0/24\\"", "details": "ask\\nthe operator"}'
exit 1
"""
PLUGINS = {
    "my-ipam": MY_IPAM,
    "full-ipam": FULL,
    "mute-ipam": "#!/bin/sh\nexit 3\n",
    "dead-ipam": "#!/bin/sh\nkill -9 $$\n",
}

# Where the agent's answer is another one on purpose: {life: {the script's words: the agent's}}.
INTENDED: dict[str, dict[str, str]] = {
    # The forwarder opens CNI_NETNS and hands on what it opened, not why it could not.
    "no namespace": {
        "No such file or directory": "the forwarder could not open it",
        "mounted here?": "mounted where the runtime says?",
    },
    # It is the forwarder that runs the plugin, and says that it could not.
    "a text as IPAM plugin": {"cannot run plugin text: Permission denied": "cannot run plugin text"},
}


def life(config: Config, persona: Persona = Persona.CNI_PY) -> list[Call]:
    """All verbs of a network with two containers, the second without host ports and limits."""
    plain = {**config, "runtimeConfig": {}}
    return [
        ("STATUS", "c1", persona, config),
        ("ADD", "c1", persona, config),
        ("CHECK", "c1", persona, {**config, "prevResult": PREVIOUS}),
        ("ADD", "c1", persona, config),
        ("ADD", "c2", persona, plain),
        ("GC", "c1", persona, {**plain, "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}),
        ("CHECK", "c2", persona, {**plain, "prevResult": PREVIOUS}),
        ("ADD", "c2", persona, plain),
        ("STATUS", "c1", persona, config),
        ("DEL", "c1", persona, {**config, "prevResult": PREVIOUS}),
        ("DEL", "c1", persona, config),
        ("CHECK", "c1", persona, {**config, "prevResult": PREVIOUS}),
        ("GC", "c1", persona, {**plain, "cni.dev/valid-attachments": []}),
    ]


def chain(main: Persona, config: Config) -> list[Call]:
    """A conflist of the usual names: the main plugin, portmap and bandwidth, as containerd calls them."""
    plugins: list[tuple[Persona, Config]] = [
        (main, {**config, "cniVersion": "1.0.0", "type": main.value}),
        (Persona.PORTMAP, {"cniVersion": "1.0.0", "name": "net", "type": "portmap", "runtimeConfig": PORTS}),
        (
            Persona.BANDWIDTH,
            {"cniVersion": "1.0.0", "name": "net", "type": "bandwidth", "runtimeConfig": {"bandwidth": LIMITS}},
        ),
    ]
    calls: list[Call] = [
        ("ADD", "c1", persona, one if persona is main else {**one, "prevResult": PREVIOUS}) for persona, one in plugins
    ]
    calls += [("CHECK", "c1", persona, {**one, "prevResult": PREVIOUS}) for persona, one in plugins]
    return calls + [("DEL", "c1", persona, {**one, "prevResult": PREVIOUS}) for persona, one in reversed(plugins)]


def ipam(persona: Persona) -> list[Call]:
    """An IPAM plugin called by somebody else's main plugin."""
    config = {**routed(), "ipam": dual_ipam(persona.value)}
    return [(command, "c1", persona, {**config, "prevResult": PREVIOUS}) for command in ("STATUS", "ADD", "ADD")] + [
        ("ADD", "c2", persona, config),
        ("CHECK", "c1", persona, {**config, "prevResult": PREVIOUS}),
        ("DEL", "c1", persona, config),
        ("GC", "c1", persona, {**config, "cni.dev/valid-attachments": []}),
    ]


LO: Config = {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}
LIVES: dict[str, list[Call]] = {
    "routed": life(routed(**SERVED)),
    "bridge": life(bridged(macspoofchk=True, **SERVED)),
    "layer 2": life({**bridged(isDefaultGateway=False), "ipam": {}}),
    "sysctl": life(routed(sysctl={"net.core.somaxconn": "333", "net.ipv4.conf.IFNAME.arp_filter": "1"})),
    "MTU, MAC and antispoof": life(routed(mtu=1300, antispoof=True, runtimeConfig={"mac": "02:00:00:00:00:07"})),
    "host-local by its name": life(routed(ipam=dual_ipam("host-local"))),
    "compiled host-local": life(routed(ipam=dual_ipam("ref-host-local"), **SERVED)),
    "compiled host-local, bridge": life(bridged(ipam=dual_ipam("ref-host-local"), **SERVED)),
    "an IPAM plugin of somebody": life(routed(ipam={"type": "my-ipam"}, **SERVED)),
    "an IPAM plugin that is full": life(routed(ipam={"type": "full-ipam"}, **SERVED)),
    "an IPAM plugin that says nothing": life(routed(ipam={"type": "mute-ipam"})),
    "an IPAM plugin that is killed": life(routed(ipam={"type": "dead-ipam"})),
    "no IPAM plugin": life(routed(ipam={"type": "no-ipam"})),
    "a directory as IPAM plugin": life(routed(ipam={"type": "directory"})),
    "a text as IPAM plugin": life(routed(ipam={"type": "text"})),
    "bad options": life(routed(mtu="x")),
    "no namespace": [("ADD", "c9", Persona.CNI_PY, routed()), ("DEL", "c9", Persona.CNI_PY, routed())],
    "bridge persona": life(bridged(type="bridge", isGateway=True, ipMasq=True), Persona.BRIDGE),
    "ptp persona": life({**routed(type="ptp", ipMasq=True), "ipam": dual_ipam("host-local")}, Persona.PTP),
    "bridge, portmap, bandwidth": chain(Persona.BRIDGE, bridged(isGateway=True, ipMasq=True)),
    "ptp, portmap, bandwidth": chain(Persona.PTP, routed(ipMasq=True, ipam=dual_ipam("ref-host-local"))),
    "loopback": [(command, "c1", Persona.LOOPBACK, LO) for command in ("ADD", "CHECK", "DEL")],
    "host-local persona": ipam(Persona.HOST_LOCAL),
    "cni-py-ipam": ipam(Persona.CNI_PY_IPAM),
}


FAILING = {name for name in LIVES if name.startswith(("an IPAM plugin that", "no ", "a ", "bad"))}


@dataclass
class Told:
    """What one call came to."""

    what: str
    code: int
    document: Any
    node: list[str]


def live(calls: list[Call], path: Path, program: Path, reference: Path) -> list[Told]:
    """The calls one after another on an empty node."""
    shutil.rmtree(path, ignore_errors=True)
    install(path, reference, program)
    for name, text in PLUGINS.items():
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    (path / "directory").mkdir()
    (path / "text").write_text("no program")
    netns(*NAMES)
    results: dict[str, Any] = {}
    told = []
    for command, container, persona, config in calls:
        caller = Caller(path, container, f"/run/netns/{container}", persona=persona)
        code, document = caller.process(command, _with_previous(config, results.get(container)))
        if command == "ADD" and code == 0:
            results[container] = document
        state = [] if command in ("STATUS", "CHECK") else comparable(*NAMES)  # what they change the next call shows
        text = drawn(json.dumps(document)).replace(f"{path}/", "")
        told.append(Told(f"{command} {container} {persona.value}", code, json.loads(text), state))
    return told


def _with_previous(config: Config, result: Any) -> Mapping[str, Any]:
    return {
        key: result if value == PREVIOUS else value
        for key, value in config.items()
        if (value, result) != (PREVIOUS, None)
    }


@pytest.mark.parametrize("name", LIVES)
def test_life(name: str, tmp_path: Path, reference: Path) -> None:
    """Exit status, document and the whole node after each call are as by the script without an agent."""
    fails = name in FAILING
    alone = live(LIVES[name], tmp_path / "bin", PROGRAM, reference)
    assert any(one.code == 0 for one in alone if one.what.startswith("ADD")) is not fails
    replaced = INTENDED.get(name, {})
    for forwarder, program in FORWARDERS.items():
        wipe()
        with running(tmp_path):
            seen = live(LIVES[name], tmp_path / "bin", program, reference)
        for mine, wanted in zip(seen, alone, strict=True):
            document = json.dumps(wanted.document)
            for old, new in replaced.items():
                document = document.replace(old, new)
            assert (forwarder, mine.what, mine.code, mine.document) == (
                forwarder,
                wanted.what,
                wanted.code,
                json.loads(document),
            )
            difference = "\n".join(
                unified_diff(wanted.node, mine.node, "alone", f"{forwarder}: {mine.what}", lineterm="")
            )
            assert not difference, difference
