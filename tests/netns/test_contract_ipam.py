"""Delegation: what an IPAM plugin that we do not know may do, and what becomes of it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import lines, node, output

pytestmark = pytest.mark.sudo

ANSWER = """echo '{"ips": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}]}'"""
MODES = {"routed": routed, "bridge": bridged}


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    """Container c1 and a CNI_PATH with our program under all its names."""
    netns("c1")
    return Caller(install(tmp_path / "bin"))


def my_ipam(caller: Caller, script: str, mode: str = "routed", **options: Any) -> dict[str, Any]:
    """A network over an IPAM plugin that is a shell script, which notes the verbs that it is asked for."""
    plugin = caller.path / "my-ipam"
    plugin.write_text(f'#!/bin/sh\necho $CNI_COMMAND >>"$0.log"\n{script}\n')
    plugin.chmod(0o755)
    return MODES[mode](ipam={"type": "my-ipam"}, **options)


def asked(caller: Caller) -> list[str]:
    """The verbs that the script was asked for."""
    return (caller.path / "my-ipam.log").read_text().split()


def _run(caller: Caller, config: dict[str, Any]) -> tuple[int, Any, str]:
    """ADD as a process: exit status, document, stderr."""
    done = subprocess.run(
        [caller.path / "cni-py"],
        input=json.dumps(config).encode(),
        env={**os.environ, **caller.environ("ADD")},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout), done.stderr.decode()


FAILURES = {
    "exit without a word": ("exit 3", 999, "plugin my-ipam failed without an error document: exit status 3"),
    "text instead of an error": ("echo out of order; exit 1", 999, "without an error document: exit status 1"),
    "a result, but failed": (f"{ANSWER}; exit 1", 999, "without an error document: exit status 1"),
    "an error without a code": ("""echo '{"msg": "no"}'; exit 1""", 999, "without an error document"),
    "an error of odd types": ("""echo '{"code": "7", "msg": ["no"]}'; exit 1""", 999, "without an error document"),
    "killed": ("kill -9 $$", 999, "without an error document: signal 9"),
    "an error in words of the world": ("""echo '{"code": 7, "msg": "völlig voll"}'; exit 1""", 7, "völlig voll"),
    "an error with success": ("""echo '{"code": 7, "msg": "no"}'""", 999, "IPAM plugin returned missing IP config"),
    "an endless answer": ("head -c 20000000 /dev/zero", 6, "more than"),
    "a list": ("echo []", 6, "a JSON object is expected"),
    "two answers": (f"{ANSWER}; {ANSWER}", 6, "Extra data"),
    "an IPv4 gateway of a text": ("""echo '{"ips": [{"address": "10.7.0.9/24", "gateway": "x"}]}'""", 6, "'x'"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FAILURES)
def test_failure(name: str, mode: str, caller: Caller) -> None:
    """Item 29: ADD fails with the plugin's code or ours, and names it; the plugin's DEL is called, nothing is left."""
    script, code, text = FAILURES[name]
    config = my_ipam(caller, f"[ $CNI_COMMAND = DEL ] && exit 0; echo a line >&2; {script}", mode)
    before = lines(node("c1"))
    status, document, stderr = _run(caller, config)
    assert (status, document["code"]) == (1, code)
    assert text in document["msg"]
    assert stderr == "a line\n"
    assert asked(caller) == ["ADD", "DEL"]
    assert before == lines(node("c1"))


def test_error_is_passed_on_unchanged(caller: Caller) -> None:
    """Item 29: code, text and details are the IPAM plugin's, to the letter."""
    error = {"code": 123, "msg": 'full: "10.7.0.0/24"', "details": "ask\nthe operator"}
    config = my_ipam(caller, f"[ $CNI_COMMAND = DEL ] || {{ printf %s '{json.dumps(error)}'; exit 1; }}")
    status, document, _ = _run(caller, config)
    assert (status, document) == (1, {"cniVersion": "1.1.0", **error})


def _not_executable(plugin: Path) -> None:
    plugin.chmod(0o644)


def _without_interpreter(plugin: Path) -> None:
    plugin.write_text("#!/nowhere/sh\n")


def _directory(plugin: Path) -> None:
    plugin.unlink()
    plugin.mkdir()


def _dangling(plugin: Path) -> None:
    plugin.unlink()
    plugin.symlink_to("/nowhere/ipam")


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "not executable": (_not_executable, "cannot run plugin"),
    "no interpreter": (_without_interpreter, "cannot run plugin"),
    "a directory": (_directory, 'failed to find plugin "my-ipam" in path'),
    "a dangling link": (_dangling, 'failed to find plugin "my-ipam" in path'),
    "not there": (Path.unlink, 'failed to find plugin "my-ipam" in path'),
}


@pytest.mark.parametrize("verb", ["ADD", "DEL", "STATUS"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable(name: str, verb: str, caller: Caller) -> None:
    """Item 29: an IPAM plugin that cannot be run is named with its path, and what to do; nothing is left."""
    spoil, text = UNUSABLE[name]
    config = my_ipam(caller, ANSWER)
    spoil(caller.path / "my-ipam")
    before = lines(node("c1"))
    code, document = caller.verb(verb, config)
    assert (code, document["code"], text in document["msg"]) == (1, 999, True)
    assert str(caller.path) in document["msg"]
    assert document["details"]
    assert before == lines(node("c1"))


def test_stdin_is_not_read(caller: Caller) -> None:
    """Item 29: an IPAM plugin that does not read its stdin, though it is more than a pipe holds, is no failure."""
    config = my_ipam(caller, f"exec <&-; {ANSWER}", **{"cni.dev/long": "x" * (1 << 20)})
    assert _run(caller, config)[0] == 0


def test_interfaces_of_ipam_are_not_taken(caller: Caller) -> None:
    """Item 30: an IPAM plugin must not name interfaces; what it says of them is not in the result."""
    answer = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "theirs", "sandbox": "/theirs"}],
        "ips": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1", "interface": 7}],
    }
    status, document, _ = _run(caller, my_ipam(caller, f"echo '{json.dumps(answer)}'"))
    assert status == 0
    assert [one["name"] for one in document["interfaces"]][1:] == ["eth0"]
    assert [one["interface"] for one in document["ips"]] == [1]


def test_failing_release(caller: Caller) -> None:
    """Item 16: ADD failed and the IPAM plugin's DEL does too: the first error is told, and that the other is left."""
    fails = """[ $CNI_COMMAND = ADD ] || { echo '{"code": 11, "msg": "busy"}'; exit 1; }"""
    status, document, _ = _run(caller, my_ipam(caller, f"""{fails}; echo '{{"cniVersion": "1.1.0"}}'"""))
    assert (status, document["msg"]) == (1, "IPAM plugin returned missing IP config")
    assert "busy" in document["details"]


@pytest.mark.parametrize("mode", MODES)
def test_failing_del(mode: str, caller: Caller) -> None:
    """Item 31: the IPAM plugin's DEL fails: its error comes back, link and rules are gone, a repeat succeeds."""
    fails = """[ $CNI_COMMAND = DEL ] && [ ! -e "$0.well" ] && { echo '{"code": 11, "msg": "busy"}'; exit 1; }"""
    config = my_ipam(caller, f"{fails}; [ $CNI_COMMAND = DEL ] || {ANSWER}", mode, ipMasq=True)
    caller.add(config)
    code, document = caller.verb("DEL", config)
    assert (code, document["code"], document["msg"]) == (1, 11, "busy")
    assert "eth0" not in output("ip", "-n", "c1", "-o", "link")
    (caller.path / "my-ipam.well").touch()
    caller.delete(config)
    assert (node()["files"], "cnipy" in node()["host"]["nft"]) == ({}, False)
