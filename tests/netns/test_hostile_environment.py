"""Hostile variables, namespaces that are none, closed descriptors: an error with its code, no hang, nothing left."""

import json
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import lines, node, output

from cni_py.model.persona import Persona

pytestmark = [pytest.mark.sudo, pytest.mark.timeout(60)]


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    """Container c1 and a CNI_PATH with our program under all its names."""
    netns("c1")
    return Caller(install(tmp_path / "bin"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


NO_NAMESPACE: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path,
    "a file": lambda path: path.write_text("net"),
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a device": _link_to("/dev/zero"),
    "a terminal": _link_to("/dev/tty"),
    "a mount namespace": _link_to("/proc/self/ns/mnt"),
    "a user namespace": _link_to("/proc/self/ns/user"),
    "a dangling link": _link_to("/nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("persona", [Persona.CNI_PY, Persona.BRIDGE, Persona.LOOPBACK, Persona.PORTMAP])
@pytest.mark.parametrize("name", NO_NAMESPACE)
def test_no_namespace(name: str, persona: Persona, caller: Caller, tmp_path: Path) -> None:
    """Item 25: CNI_NETNS that is no network namespace is code 8 on ADD, names the path; DEL succeeds all the same."""
    path = tmp_path / "netns"
    NO_NAMESPACE[name](path)
    before = lines(node("c1"))
    odd = replace(caller, netns=str(path), persona=persona)
    code, document = odd.process("ADD", routed())
    assert (code, document["code"], str(path) in document["msg"]) == (1, 8, True)
    assert document["details"]
    assert odd.process("DEL", routed()) == (0, None)
    assert before == lines(node("c1"))


@pytest.mark.parametrize("persona", [one for one in Persona if one not in (Persona.CNI_PY_IPAM, Persona.HOST_LOCAL)])
def test_own_namespace(persona: Persona, caller: Caller) -> None:
    """Item 17: under each of our names the plugin's own namespace is code 8 on ADD, and DEL touches nothing of it."""
    before = lines(node("c1"))
    own = replace(caller, netns="/proc/self/ns/net", persona=persona)
    code, document = own.process("ADD", routed())
    assert (code, document["code"]) == (1, 8)
    assert own.process("DEL", routed()) == (0, None)
    assert before == lines(node("c1"))


OVERRIDES = {"1": True, "true": True, "TRUE": True, "True": True, "yes": False, "0": False, "": False, "11": False}


@pytest.mark.parametrize("value", OVERRIDES)
def test_override(value: str, caller: Caller, reference: Path) -> None:
    """Item 17: CNI_NETNS_OVERRIDE is 1 or true in any case, as the reference reads it; all else is no."""
    layer2 = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "bridge"}).encode()
    environ = {**os.environ, **caller.environ("ADD"), "CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": value}
    codes = []
    for path in (caller.path, reference):
        done = subprocess.run([path / "bridge"], input=layer2, env=environ, stdout=subprocess.PIPE, check=False)
        codes.append(done.returncode == 0)
        subprocess.run(["ip", "link", "del", "eth0"], check=False, capture_output=True)
    assert codes == [OVERRIDES[value]] * 2


LONG = "c" * 4096
VARIABLES: dict[str, tuple[dict[str, str], int]] = {
    "an ID of 4 kB": ({"CNI_CONTAINERID": LONG}, 0),
    "an ID of 100 kB": ({"CNI_CONTAINERID": LONG * 25}, 0),
    "an ID with an escape": ({"CNI_CONTAINERID": "c\x1b[31m"}, 4),
    "an ID with a NUL's neighbour": ({"CNI_CONTAINERID": "c\x01"}, 4),
    "an ID of another script": ({"CNI_CONTAINERID": "контейнер"}, 4),
    "an ID with full-width digits": ({"CNI_CONTAINERID": "c\uff11"}, 4),
    "an ifname of 4 kB": ({"CNI_IFNAME": LONG}, 4),
    "an ifname with a carriage return": ({"CNI_IFNAME": "eth\r0"}, 4),
    "an ifname with a line separator": ({"CNI_IFNAME": "eth\u20280"}, 4),
    "an ifname of control characters": ({"CNI_IFNAME": "\x01\x02\x7f"}, 0),
    "an ifname of an emoji": ({"CNI_IFNAME": "\U0001f980"}, 0),
    "an ifname with a percent sign": ({"CNI_IFNAME": "eth%d"}, 999),
    "an ifname of dashes": ({"CNI_IFNAME": "--help"}, 0),
    "the ifname lo": ({"CNI_IFNAME": "lo"}, 999),
    "the ifname all": ({"CNI_IFNAME": "all"}, 999),
    "the ifname default": ({"CNI_IFNAME": "default"}, 999),
    "arguments of 100 kB": ({"CNI_ARGS": "IgnoreUnknown=1;" + "K=v;" * 25000 + "K=v"}, 0),
    "arguments of nothing but semicolons": ({"CNI_ARGS": ";;;"}, 999),
    "a path of nothing": ({"CNI_PATH": ":::"}, 999),
    "a path of 100 kB": ({"CNI_PATH": "/nowhere:" * 10000}, 999),
    "a relative path": ({"CNI_PATH": "..:."}, 999),
    "a namespace of 100 kB": ({"CNI_NETNS": "/" + "n" * 100000}, 8),
    "a namespace of newlines": ({"CNI_NETNS": "\n\n"}, 8),
    "a relative namespace": ({"CNI_NETNS": "run/netns/c1"}, 8),
}


@pytest.mark.parametrize("config", [routed(), bridged()], ids=["routed", "bridge"])
@pytest.mark.parametrize("name", VARIABLES)
def test_variable(name: str, config: dict[str, Any], caller: Caller, tmp_path: Path) -> None:
    """The code of the variable's fault, or it works; then DEL works as well, and the node is as before."""
    changed, expected = VARIABLES[name]
    environ = {**os.environ, **caller.environ("ADD"), **changed}
    before = lines(node("c1"))

    def call(verb: str) -> tuple[int, Any]:
        done = subprocess.run(
            [caller.path / "cni-py"],
            input=json.dumps(config).encode(),
            env={**environ, "CNI_COMMAND": verb},
            capture_output=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.stderr == b""
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    code, document = call("ADD")
    assert document.get("code", 0) == expected, document
    assert code == (1 if expected else 0)
    if "CNI_PATH" in changed:  # without its IPAM plugin nothing can be released
        assert call("DEL")[1]["code"] == 999
    elif expected != 4:
        assert call("DEL") == (0, None) or "CNI_ARGS" in changed
    if expected:
        assert before == lines(node("c1"))
    assert "cpy" not in output("ip", "-o", "link")
    assert node()["files"] == {}
