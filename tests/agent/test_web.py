"""Health and metrics of a real agent over HTTP, also for clients that mean no good."""

import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from agent.live import SHIM, running
from netns.plugin import Caller, netns, routed

from cni_py.agent.web import Probe, parse_address
from cni_py.model.errors import BadEnvironmentError

PORT = 9761


def get(path: str, port: int = PORT) -> tuple[int, str]:
    """Status and content."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def shim(directory: Path) -> Path:
    """A CNI_PATH with the shim."""
    directory.mkdir()
    for name in ("cni-py", "cni-py-ipam"):
        (directory / name).symlink_to(SHIM)
    return directory


@pytest.mark.sudo
def test_pages(tmp_path: Path) -> None:
    """Healthy, ready, and a call is counted as soon as it is answered."""
    netns("c1")
    with running(tmp_path):
        caller = Caller(shim(tmp_path / "bin"), "c1", "/run/netns/c1")
        code, result = caller.process("ADD", routed())
        assert code == 0, result
        assert get("/healthz") == (200, "ok\n")
        assert get("/readyz") == (200, "ok\n")
        status, metrics = get("/metrics?x=1")
        assert status == 200
        for line in (
            'cnipy_cni_requests_total{code="0",command="ADD"} 1.0',
            'cnipy_attachments{network="net"} 1.0',
            'cnipy_ipam_allocated{network="net"} 2.0',
        ):
            assert line in metrics.splitlines()
        assert "c1" not in metrics
        assert get("/")[0] == 404


@pytest.mark.sudo
def test_not_ready_when_displaced(tmp_path: Path) -> None:
    """An agent whose socket another one has taken is healthy and not ready."""
    with running(tmp_path), running(tmp_path, "--listen", "127.0.0.1:9762"):
        assert get("/readyz", 9762) == (200, "ok\n")
        assert get("/readyz") == (503, "another agent has taken /run/cni-py/agent.sock\n")
        assert get("/healthz")[0] == 200


@pytest.mark.sudo
def test_hostile_clients(tmp_path: Path) -> None:
    """Half requests, garbage and long lines get nothing or an error, and others are served as before."""
    with running(tmp_path) as agent, ExitStack() as stack:
        for garbage in (
            b"",
            b"GET",
            b"\0" * 9000,
            b"GET /" + b"x" * 70_000,
            b"POST /metrics HTTP/1.1\r\n\r\n",
            b"\r\n" * 50,
        ):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", PORT), 30))
            client.sendall(garbage)
        assert get("/healthz") == (200, "ok\n")
        assert agent.alive()


@pytest.mark.sudo
def test_port_taken(tmp_path: Path) -> None:
    """Somebody else's port is no reason for a node without a network: the log says it."""
    with socket.create_server(("127.0.0.1", PORT)), running(tmp_path) as agent:
        assert "going on without health and metrics" in agent.log.read_text()


@pytest.mark.sudo
def test_none(tmp_path: Path) -> None:
    """With --listen "" there is nothing."""
    with running(tmp_path, "--listen", ""), pytest.raises(urllib.error.URLError):
        get("/healthz")


@pytest.mark.sudo
def test_stopped_agent(tmp_path: Path) -> None:
    """A stopped process answers nothing, so a probe fails by its own timeout; continued, it is well."""
    with running(tmp_path) as agent:
        os.kill(agent.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=0.3)
        os.kill(agent.pid, signal.SIGCONT)
        assert get("/healthz") == (200, "ok\n")


def test_a_check_that_hangs() -> None:
    """It is told within the time, and asked only once however often one looks; when it comes to an end, it is well."""
    over = threading.Event()
    begun: list[int] = []

    def check() -> str:
        begun.append(1)
        over.wait()
        return ""

    probe = Probe(check)
    assert [probe.ask(0.05), probe.ask(0.05)] == ["no answer within 0.05 s"] * 2
    assert len(begun) == 1
    over.set()
    assert probe.ask(30) == ""


@pytest.mark.parametrize(
    "text", ["", "9761", ":9761", "127.0.0.1:", "localhost:9761", "127.0.0.1:0", "1.2.3.4:99999", "\0:1"]
)
def test_no_address(text: str) -> None:
    """What is no address and port is refused before anything is done."""
    with pytest.raises(BadEnvironmentError):
        parse_address(text)


def test_addresses() -> None:
    """Both families."""
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address("0.0.0.0:9761") == ("0.0.0.0", 9761)
