"""RUN: the plugin that the forwarder executes for the agent, and what RAN says of it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from native.fake_agent import CONFIG, Caller, Conversation, agent, pack, strings

pytestmark = pytest.mark.sudo

NOT_FOUND, NOT_EXECUTED = -1, -2


def script(directory: Path, text: str, name: str = "plugin") -> Path:
    """An executable script in a directory of CNI_PATH."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def ran(shim: Caller, path: str, stdin: bytes = b"{}", name: str = "plugin", **variables: str) -> tuple[int, bytes]:
    """What RAN says of one plugin; the agent's answer reaches the runtime after it."""

    def order(call: Conversation) -> tuple[int, bytes]:
        seen = call.run(name, path, stdin, **variables)
        call.answer(0, b"done")
        return seen

    with agent(order) as served:
        done = shim.call("ADD", CNI_X="kept", CNI_ARGS="theirs", PATH=os.environ["PATH"])
    assert (done.returncode, done.stdout) == (0, b"done"), served
    seen: tuple[int, bytes] = served.outcome[0]
    return seen


def test_compiled_plugin(shim: Caller, reference: Path) -> None:
    """The reference's host-local gives a lease, with the order's stdin and variables."""
    config = {"cniVersion": "1.0.0", "name": "n", "ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}}
    variables = {"CNI_CONTAINERID": "c9", "CNI_IFNAME": "eth0", "CNI_NETNS": "/x", "CNI_ARGS": ""}
    code, stdout = ran(shim, str(reference), json.dumps(config).encode(), "host-local", **variables)
    assert (code, json.loads(stdout)["ips"][0]["address"]) == (0, "10.7.0.2/24")
    assert Path("/var/lib/cni/networks/n/10.7.0.2").read_text().split() == ["c9", "eth0"]


def test_environment(shim: Caller, tmp_path: Path) -> None:
    """Its own environment with the order's variables over it, each once."""
    script(tmp_path, "exec env -0")
    code, stdout = ran(shim, str(tmp_path), CNI_ARGS="", CNI_NETNS="/y", CNI_COMMAND="DEL")
    lines = stdout.decode().rstrip("\0").split("\0")
    environ = dict(line.split("=", 1) for line in lines)
    assert code == 0
    assert len(environ) == len(lines)
    wanted = {"CNI_COMMAND": "DEL", "CNI_ARGS": "", "CNI_NETNS": "/y", "CNI_PATH": str(tmp_path), "CNI_X": "kept"}
    assert wanted.items() <= environ.items()
    assert environ["CNI_CONTAINERID"] == "c1"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("kill -KILL $$", 256 + signal.SIGKILL),
        ("kill -TERM $$", 256 + signal.SIGTERM),
    ],
)
def test_status(text: str, code: int, shim: Caller, tmp_path: Path) -> None:
    """Exit statuses and signals are told apart; what was printed before comes along."""
    script(tmp_path, f"echo out; {text}")
    assert ran(shim, str(tmp_path)) == (code, b"out\n")


def test_order_of_directories(shim: Caller, tmp_path: Path) -> None:
    """The first regular file of that name; empty, relative, missing and overlong directories are passed over."""
    script(tmp_path / "a", "echo a", "other")
    script(tmp_path / "b", "echo b")
    script(tmp_path / "c", "echo c")
    (tmp_path / "a" / "plugin").mkdir()
    path = f"::/nowhere:{'x' * 5000}:/{'y/' * 2040}:{tmp_path}/a:{tmp_path}/b/:{tmp_path}/c:"
    assert ran(shim, path) == (0, b"b\n")


@pytest.mark.parametrize("path", ["", ":", "/nowhere", "/dev:/proc", "/" + "x" * 100_000])
def test_not_found(path: str, shim: Caller) -> None:
    """No such file on CNI_PATH; devices and directories are none."""
    assert ran(shim, path, name="null") == (NOT_FOUND, b"")


@pytest.mark.parametrize("content", [b"", b"text", b"#!/nowhere\n", b"\x7fELF"])
@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_not_executed(content: bytes, mode: int, shim: Caller, tmp_path: Path) -> None:
    """A file that the kernel does not execute."""
    (tmp_path / "plugin").write_bytes(content)
    (tmp_path / "plugin").chmod(mode)
    assert ran(shim, str(tmp_path)) == (NOT_EXECUTED, b"")


def test_no_deadlock(shim: Caller, tmp_path: Path) -> None:
    """Both pipes full at once: 4 MiB through cat."""
    script(tmp_path, "exec cat")
    body = os.urandom(4 << 20)
    assert ran(shim, str(tmp_path), body) == (0, body)


@pytest.mark.parametrize("text", ["echo out", "exec 0<&-; echo out", "head -c 100 >/dev/null; echo out"])
def test_stdin_is_not_read(text: str, shim: Caller, tmp_path: Path) -> None:
    """A plugin that reads little or nothing of a large stdin is no failure."""
    script(tmp_path, text)
    assert ran(shim, str(tmp_path), b"x" * (4 << 20)) == (0, b"out\n")


def test_stdout_is_closed_early(shim: Caller, tmp_path: Path) -> None:
    """A plugin that says nothing and still reads gets all of its stdin."""
    script(tmp_path, f"exec 1>&-; cat >{tmp_path}/seen; exit 3")
    assert ran(shim, str(tmp_path), b"x" * (1 << 20)) == (3, b"")
    assert (tmp_path / "seen").stat().st_size == 1 << 20


def test_stdout_without_end(shim: Caller, tmp_path: Path) -> None:
    """8 MiB and no more; the plugin gets the SIGPIPE that it would get from a reader that left."""
    script(tmp_path, "exec yes")
    code, stdout = ran(shim, str(tmp_path))
    assert (code, len(stdout)) == (256 + signal.SIGPIPE, 8 << 20)


def test_streams_of_the_plugin(shim: Caller, tmp_path: Path) -> None:
    """Three streams and nothing else; its stderr is the runtime's; SIGPIPE has its default."""
    script(tmp_path, "ls -1 /proc/self/fd | wc -l; grep SigIgn /proc/self/status; echo problem >&2")

    def order(call: Conversation) -> tuple[int, bytes]:
        seen = call.run("plugin", str(tmp_path))
        call.answer(0)
        return seen

    with agent(order) as served:
        done = shim.call("ADD", PATH=os.environ["PATH"], CNI_NETNS="/proc/self/ns/net")
    code, stdout = served.outcome[0]
    assert (code, done.stderr) == (0, b"problem\n")
    descriptors, ignored = stdout.decode().splitlines()
    assert int(descriptors) == 4  # the fourth is how ls reads the directory
    assert not int(ignored.split()[1], 16) & 1 << (signal.SIGPIPE - 1)


def test_runs_of_one_call(shim: Caller, tmp_path: Path) -> None:
    """RUN comes any number of times before ANSWER."""
    script(tmp_path, "cat")
    script(tmp_path, "exit 7", "other")

    def orders(call: Conversation) -> list[Any]:
        seen = [call.run("plugin", str(tmp_path), f"{number}".encode()) for number in range(5)]
        seen.append(call.run("other", str(tmp_path)))
        seen.append(call.run("missing", str(tmp_path)))
        call.answer(4, b"end")
        return seen

    with agent(orders) as served:
        done = shim.call("GC", CONFIG.replace(b"1.0.0", b"1.1.0"), PATH=os.environ["PATH"])
    assert (done.returncode, done.stdout) == (4, b"end")
    assert served.outcome[0] == [*((0, f"{number}".encode()) for number in range(5)), (7, b""), (NOT_FOUND, b"")]


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
def test_streams_that_are_closed(closed: tuple[int, ...], shim: Caller, tmp_path: Path) -> None:
    """Pipes that would take the number of a closed stream do not get lost."""
    script(tmp_path, "exec cat")

    def order(call: Conversation) -> tuple[int, bytes]:
        seen = call.run("plugin", str(tmp_path), b"through")
        call.answer(0)
        return seen

    with agent(order) as served:
        reader, writer = os.pipe()
        os.write(writer, CONFIG)
        os.close(writer)
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, reader, 0), *((os.POSIX_SPAWN_CLOSE, fd) for fd in closed)]
        environ = shim.environ("ADD", PATH=os.environ["PATH"])
        pid = os.posix_spawn(shim.program, ["x"], environ, file_actions=actions)
        os.close(reader)
        os.waitpid(pid, 0)
    assert served.outcome == [(0, b"through")]


@pytest.mark.parametrize("head", [strings("../plugin"), strings("plugin", "LD_PRELOAD=/x"), b"plugin", b""], ids=str)
def test_orders_that_are_none(head: bytes, shim: Caller, tmp_path: Path) -> None:
    """A name that is a path and variables that are not CNI's are not obeyed."""
    script(tmp_path, f"touch {tmp_path}/ran")
    with agent(lambda call: call.send(pack(2, head))):
        done = shim.call("ADD")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 999)
    assert not (tmp_path / "ran").exists()


def test_agent_gone_during_run(shim: Caller, tmp_path: Path) -> None:
    """An agent that ends while a plugin runs: ADD is lost in the middle, the plugin has ended."""
    script(tmp_path, f"touch {tmp_path}/ran")
    with agent(lambda call: call.send(pack(2, strings("plugin", f"CNI_PATH={tmp_path}"), b""))):
        done = shim.call("ADD", PATH=os.environ["PATH"])
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)
    assert (tmp_path / "ran").exists()


def test_shim_is_its_own_delegate(shim: Caller, tmp_path: Path) -> None:
    """A CNI_PATH whose IPAM plugin is the shim under another name: its call is a connection of its own."""
    (tmp_path / "host-local").symlink_to(shim.program)

    def order(call: Conversation) -> Any:
        if call.head.startswith(b"host-local\0"):
            return call.answer(0, b"lease")
        seen = call.run("host-local", str(tmp_path), CONFIG)
        call.answer(0)
        return seen

    with agent(order, crew=2) as served:
        assert shim.call("ADD").returncode == 0
    assert (0, b"lease") in served.outcome
