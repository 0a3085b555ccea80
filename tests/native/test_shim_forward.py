"""A call that travels: what the agent gets, and what the runtime gets back."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from native.fake_agent import CONFIG, Caller, Conversation, agent, pack, status, strings

pytestmark = pytest.mark.sudo

LONGEST = 131_072  # of one argument or variable, its NUL counted


def inode(path: str) -> int:
    """The namespace behind a path."""
    return Path(path).stat().st_ino


def test_call_arrives(shim: Caller) -> None:
    """Name, the variables that are set, stdin as it was; both namespaces as descriptors."""
    subprocess.run(["ip", "netns", "add", "c1"], check=True)
    with agent(lambda call: call.answer(0, b'{"ips": []}')) as served:
        done = shim.call(
            "ADD",
            CONFIG + b"\n ",
            name="/opt/cni/bin/bridge",
            CNI_NETNS="/run/netns/c1",
            CNI_ARGS="",
            TRACEPARENT="00-x",
            CNI_X="1",
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"ips": []}', b"")
    (call,) = served.calls
    wanted = ["bridge", "CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=/run/netns/c1", "CNI_IFNAME=eth0"]
    assert call.head == strings(*wanted, "CNI_ARGS=", "CNI_PATH=/opt/cni/bin", "TRACEPARENT=00-x")
    assert call.body == CONFIG + b"\n "
    assert call.inodes == [inode("/proc/self/ns/net"), inode("/run/netns/c1")]
    assert call.inodes[0] != call.inodes[1]


@pytest.mark.parametrize("netns", ["", "/nowhere", "/run/netns/" + "x" * 300, "/proc/self/mem/x"])
def test_no_second_descriptor(netns: str, shim: Caller) -> None:
    """A CNI_NETNS that cannot be opened is the agent's to complain about: it gets the host's descriptor alone."""
    with agent(lambda call: call.answer(0)) as served:
        assert shim.call("DEL", CNI_NETNS=netns).returncode == 0
    assert served.calls[0].inodes == [inode("/proc/self/ns/net")]


def test_netns_that_would_block(shim: Caller, tmp_path: Path) -> None:
    """A FIFO as CNI_NETNS hangs nobody; what it is, the agent sees."""
    os.mkfifo(tmp_path / "fifo")
    with agent(lambda call: call.answer(1, b"{}")) as served:
        assert shim.call("ADD", CNI_NETNS=str(tmp_path / "fifo")).returncode == 1
    assert served.calls[0].inodes[1] == inode(str(tmp_path / "fifo"))


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (255, 255), (256, 1), (-1, 1), (1 << 30, 1)])
def test_exit_status(code: int, seen: int, shim: Caller) -> None:
    """The answer's, and never 0 for one that is not 0."""
    with agent(lambda call: call.answer(code, b"x" * 100)):
        done = shim.call("ADD")
    assert (done.returncode, done.stdout) == (seen, b"x" * 100)


def test_bytes_are_passed_as_they_are(shim: Caller) -> None:
    """What is no UTF-8 is not for the forwarder to mend."""
    environ = {os.fsencode(key): os.fsencode(value) for key, value in shim.environ("DEL").items()}
    with agent(lambda call: call.answer(0)) as served:
        subprocess.run(
            [b"/x/\xff\x01"],
            executable=shim.program,
            input=CONFIG,
            env={**environ, b"CNI_ARGS": b"\xfe\n=;"},
            check=True,
        )
    assert served.calls[0].head.startswith(b"\xff\x01\0CNI_COMMAND=DEL\0")
    assert b"\0CNI_ARGS=\xfe\n=;\0" in served.calls[0].head


@pytest.mark.parametrize(
    ("argv0", "name"),
    [("", ""), ("/", ""), ("a/b//", "b"), ("..", ".."), ("x" * 100_000, "x" * 100_000), ("/a b\n", "a b\n")],
)
def test_name(argv0: str, name: str, shim: Caller) -> None:
    """The last component of argv[0], whatever that is."""
    with agent(lambda call: call.answer(0)) as served:
        assert shim.call("DEL", name=argv0).returncode == 0
    assert served.calls[0].head.split(b"\0")[0].decode() == name


def test_large(shim: Caller) -> None:
    """8 MiB go and 8 MiB and a byte come back."""
    body = CONFIG[:-1] + b', "x": "' + b"y" * ((8 << 20) - len(CONFIG) - 9) + b'"}'
    assert len(body) == 8 << 20
    with agent(lambda call: call.answer(0, b"z" * ((8 << 20) + 1))) as served:
        done = shim.call("ADD", body)
    assert served.calls[0].body == body
    assert (done.returncode, done.stdout) == (0, b"z" * ((8 << 20) + 1))


def test_piecemeal(shim: Caller) -> None:
    """An answer that comes byte by byte, and stdin that does, are put together."""

    def answer(call: Conversation) -> None:
        for byte in pack(4, status(0), b"slow"):
            call.send(bytes([byte]))
            time.sleep(0.001)  # so that each is a read of its own

    with (
        agent(answer),
        subprocess.Popen(
            [shim.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=shim.environ("ADD"), bufsize=0
        ) as process,
    ):
        assert process.stdin
        for byte in CONFIG:
            process.stdin.write(bytes([byte]))
        stdout, _ = process.communicate()
    assert (process.returncode, stdout) == (0, b"slow")


def test_variables_too_long(shim: Caller) -> None:
    """More than 1 MiB of variables does not travel; the reason is printed."""
    names = ("CNI_ARGS", "CNI_PATH", "CNI_NETNS", "CNI_CONTAINERID", "TRACEPARENT", "CNI_NETNS_OVERRIDE", "CNI_IFNAME")
    long = {name: "x" * (LONGEST - len(name) - 2) for name in names}
    config = CONFIG.replace(b"1.0.0", b"1.1.0")
    with agent(lambda call: call.answer(0)) as served:
        assert shim.call("GC", config, name="y" * 1000, **long).returncode == 0
        done = shim.call("GC", config, name="y" * (LONGEST - 1), **long)
        assert len(served.calls) == 1
    document = json.loads(done.stdout)
    assert (done.returncode, document["code"]) == (1, 4)
    assert "longer than 1 MiB" in document["msg"]


@pytest.mark.parametrize("code", [0, 7])
def test_hung_up_reader(code: int, shim: Caller) -> None:
    """A runtime that closed its end of stdout: the answer's code, or 1 where that would be success."""
    reader, writer = os.pipe()
    os.close(reader)
    with agent(lambda call: call.answer(code, b"{}")):
        done = subprocess.run([shim.program], input=CONFIG, stdout=writer, env=shim.environ("ADD"), check=False)
    os.close(writer)
    assert done.returncode == (code or 1)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2), (1, 2)])
def test_closed_streams(closed: tuple[int, ...], shim: Caller) -> None:
    """A standard stream that is closed is never mistaken for a descriptor of ours."""
    with agent(lambda call: call.answer(0, b"{}")) as served:
        reader, writer = os.pipe()
        os.write(writer, CONFIG)
        os.close(writer)
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, reader, 0), *((os.POSIX_SPAWN_CLOSE, fd) for fd in closed)]
        pid = os.posix_spawn(
            shim.program, ["x"], shim.environ("ADD", CNI_NETNS="/proc/self/ns/net"), file_actions=actions
        )
        os.close(reader)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == (1 if 0 in closed or 1 in closed else 0)
    if 0 not in closed:
        assert served.calls[0].inodes == [inode("/proc/self/ns/net")] * 2


def test_stdin_is_a_directory(shim: Caller) -> None:
    """What cannot be read is code 5."""
    fd = os.open("/", os.O_RDONLY)
    done = subprocess.run([shim.program], stdin=fd, env=shim.environ("ADD"), capture_output=True, check=False)
    os.close(fd)
    document = json.loads(done.stdout)
    assert (done.returncode, document["code"], document["msg"]) == (1, 5, "error reading from stdin: Is a directory")


def test_no_more_than_once(shim: Caller) -> None:
    """Concurrent forwarders do not mix: each gets its own answer."""
    with agent(lambda call: call.answer(0, call.head.split(b"\0")[2])):
        running = [
            subprocess.Popen(
                [shim.program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=shim.environ("DEL", CNI_CONTAINERID=f"c{n}"),
            )
            for n in range(40)
        ]
        seen = [process.communicate(CONFIG)[0] for process in running]
    assert seen == [f"CNI_CONTAINERID=c{n}".encode() for n in range(40)]
    assert {process.returncode for process in running} == {0}
