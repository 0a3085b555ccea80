"""`cni-py status` with an agent and without."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from agent.live import SHIM, running
from netns.plugin import PROGRAM, Caller, netns, routed

from cni_py.cmd.status import render


def status(*arguments: str) -> tuple[int, str]:
    """Exit status and what is printed."""
    done = subprocess.run([PROGRAM, "status", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout


def document(expected: int) -> Any:
    """The status as JSON."""
    code, text = status("-o", "json")
    assert code == expected
    return json.loads(text)


@pytest.mark.sudo
def test_with_an_agent(tmp_path: Path) -> None:
    """Calls, errors, pools and attachments as they are; the same in words."""
    netns("c1")
    (tmp_path / "bin").mkdir()
    for name in ("cni-py", "cni-py-ipam"):
        (tmp_path / "bin" / name).symlink_to(SHIM)
    with running(tmp_path) as agent:
        caller = Caller(tmp_path / "bin", "c1", "/run/netns/c1")
        assert caller.process("ADD", routed())[0] == 0
        code, error = caller.process("ADD", routed())
        assert code == 1
        seen = document(0)
        assert (seen["agent"], seen["pid"], seen["ready"]) == (True, agent.pid, "yes")
        assert seen["listen"] == "127.0.0.1:9761"
        assert (seen["calls"]["ADD"]["count"], seen["calls"]["ADD"]["failed"]) == (2, 1)
        assert 0 < seen["calls"]["ADD"]["p50_ms"] <= seen["calls"]["ADD"]["p99_ms"]
        (failed,) = seen["errors"]
        assert (failed["containerid"], failed["code"], failed["msg"]) == ("c1", error["code"], error["msg"])
        (attached,) = seen["attachments"]
        assert (attached["network"], attached["containerid"], attached["mode"]) == ("net", "c1", "routed")
        assert attached["addresses"] == ["10.7.0.2/24", "fd00:7::2/64"]
        assert next((pool["ranges"], pool["used"]) for pool in seen["pools"]) == ("10.7.0.1-10.7.0.254", 1)
        code, text = status()
        assert code == 0
        for words in ("ready", "10.7.0.2/24,fd00:7::2/64", error["msg"]):
            assert words in text


@pytest.mark.sudo
def test_without_an_agent(tmp_path: Path) -> None:
    """It says so, tells what is on disk, and exits 1."""
    code, text = status()
    assert code == 1
    assert text.startswith("no agent answers on /run/cni-py/agent.sock")
    netns("c1")
    (tmp_path / "cni-py").symlink_to(PROGRAM)
    (tmp_path / "cni-py-ipam").symlink_to(PROGRAM)
    Caller(tmp_path, "c1", "/run/netns/c1").add(routed())
    seen = document(1)
    assert seen["agent"] is False
    assert [one["containerid"] for one in seen["attachments"]] == ["c1"]
    assert "10.7.0.2/24" in status()[1]


def test_terminal() -> None:
    """No control character of anybody reaches the terminal, whichever field it is in."""
    nasty = "\x1b[2J\r\n\u202e"
    shown = render(
        {
            "agent": True,
            "version": "1",
            "pid": 1,
            "uptime_s": 3700,
            "socket": nasty,
            "roles": [nasty],
            "ready": nasty,
            "listen": "",
            "host_netns": "net:[1]",
            "repairs": {nasty: 1},
            "collected": {},
            "log_lines_dropped": 0,
            "calls": {},
            "damaged": [nasty],
            "pools": [{"network": nasty, "ranges": nasty, "size": 1, "used": 1, "free": 0}],
            "attachments": [
                {"network": nasty, "containerid": nasty, "ifname": nasty, "addresses": [], "mode": nasty, "age_s": 1}
            ],
            "errors": [{"time": 0.0, "command": nasty, "network": "", "containerid": nasty, "code": 1, "msg": nasty}],
        }
    )
    assert all(line.isprintable() for line in shown.split("\n"))
    assert len(shown.splitlines()) == 19
