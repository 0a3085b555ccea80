"""No agent, one that leaves in the middle, one that says nothing, one that says something else. And the spool."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from native.fake_agent import CONFIG, SOCKET, SPOOL, Caller, Conversation, agent, pack, status, strings, unpack

pytestmark = pytest.mark.sudo
REAL = pytest.mark.sudo(real=True)  # there is a second user

NEWEST = CONFIG.replace(b"1.0.0", b"1.1.0")
HEADER = struct.Struct("=4sBBHII")


def code_of(done: "subprocess.CompletedProcess[bytes]") -> int:
    """The code in the document of a failure, which says what and what next."""
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert done.stderr == b""
    assert document["cniVersion"] == "1.1.0"
    assert document["msg"]
    assert document["details"]
    return int(document["code"])


def spooled() -> list[Path]:
    """The spool's files in the order of their names; no draft is left."""
    assert list(SPOOL.glob(".*")) == []
    return sorted(SPOOL.iterdir()) if SPOOL.exists() else []


@contextmanager
def nobody_listens() -> Iterator[None]:
    """A socket that an agent left behind."""
    SOCKET.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
    yield


@contextmanager
def no_socket() -> Iterator[None]:
    """A node that never had an agent."""
    yield


@pytest.mark.parametrize("away", [no_socket, nobody_listens])
@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_away(command: str, code: int, away: Callable[[], AbstractContextManager[None]], shim: Caller) -> None:
    """ADD and CHECK wait before they give up, GC and STATUS do not; nothing is spooled."""
    with away():
        begin = time.monotonic()
        done = shim.call(command, NEWEST)
        took = time.monotonic() - begin
    assert code_of(done) == code
    assert b"cni-py agent" in done.stdout
    assert spooled() == []
    if command in ("ADD", "CHECK"):
        assert took >= 0.4


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_agent_comes(command: str, shim: Caller) -> None:
    """An agent that starts while ADD or CHECK waits serves them."""
    with subprocess.Popen(
        [shim.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=shim.environ(command)
    ) as process:
        assert process.stdin
        process.stdin.write(CONFIG)
        process.stdin.close()
        deadline = time.monotonic() + 0.2
        while "nanosleep" not in _waits_in(process.pid) and time.monotonic() < deadline:
            os.sched_yield()
        with agent(lambda call: call.answer(0, b"late")):
            assert process.stdout
            assert process.stdout.read() == b"late"
    assert process.returncode == 0


def _waits_in(pid: int) -> str:
    """The kernel's function in which the process sleeps, "0" if it does not, or it is not told."""
    return Path(f"/proc/{pid}/wchan").read_text()


@pytest.mark.parametrize("away", [no_socket, nobody_listens])
def test_spool(away: Callable[[], AbstractContextManager[None]], shim: Caller) -> None:
    """DEL is kept as the CALL frame under the boot's clock, readable by root alone, in the order of the calls."""
    with away():
        begin = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for number in range(3):
            done = shim.call("DEL", CONFIG, name="bridge", CNI_CONTAINERID=f"c{number}", CNI_NETNS="")
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        end = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    files = spooled()
    assert len(files) == 3
    assert (SPOOL.stat().st_mode & 0o777, SPOOL.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    for number, file in enumerate(files):
        stamp, _, pid = file.name.partition("-")
        assert len(stamp) == 20
        assert begin <= int(stamp) <= end
        assert int(pid) > 0
        assert file.stat().st_mode & 0o777 == 0o600
        variables = ["CNI_COMMAND=DEL", f"CNI_CONTAINERID=c{number}", "CNI_NETNS=", "CNI_IFNAME=eth0"]
        assert unpack(file.read_bytes()) == (1, strings("bridge", *variables, "CNI_PATH=/opt/cni/bin"), CONFIG)


def test_spool_is_bounded(shim: Caller) -> None:
    """256 wait at most; drafts do not count."""
    SPOOL.mkdir(mode=0o700, parents=True)
    for number in range(255):
        (SPOOL / f"{number:020}-1").touch()
    (SPOOL / ".9.new").touch()
    assert shim.call("DEL").returncode == 0
    done = shim.call("DEL", NEWEST)
    assert code_of(done) == 11
    assert b"256 wait" in done.stdout
    assert len(list(SPOOL.iterdir())) == 257


def _read_only() -> None:
    subprocess.run(["mount", "-o", "remount,ro", "/run"], check=True)


def _file_in_its_place() -> None:
    SPOOL.parent.mkdir()
    SPOOL.touch()


def _link_in_its_place() -> None:
    SPOOL.parent.mkdir()
    Path("/run/elsewhere").mkdir(mode=0o700)
    SPOOL.symlink_to("/run/elsewhere")


def _fifo_in_its_place() -> None:
    SPOOL.parent.mkdir()
    os.mkfifo(SPOOL)


def _writable_by_all() -> None:
    SPOOL.mkdir(parents=True)
    SPOOL.chmod(0o777)


def _of_somebody_else() -> None:
    SPOOL.mkdir(parents=True)
    os.chown(SPOOL, 1, 1)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_read_only, "Read-only file system"),
        (_file_in_its_place, "Not a directory"),
        (_link_in_its_place, "Not a directory"),
        (_fifo_in_its_place, "Not a directory"),
        (_writable_by_all, "is not root's alone"),
        pytest.param(_of_somebody_else, "is not root's alone", marks=REAL),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_spool_that_cannot_be(spoil: Callable[[], None], text: str, shim: Caller) -> None:
    """What is not root's own directory is not written to; code 11 says why, and the runtime repeats the DEL."""
    spoil()
    done = shim.call("DEL", NEWEST)
    assert code_of(done) == 11
    assert text in json.loads(done.stdout)["msg"] + json.loads(done.stdout)["details"]
    assert list(Path("/run").rglob("*-[0-9]*")) == []


def test_full_disk(shim: Caller) -> None:
    """A DEL that does not fit leaves nothing behind; one that does is kept."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/run"], check=True)
    large = NEWEST + b" " * 100_000
    done = shim.call("DEL", large)
    assert code_of(done) == 11
    assert "No space left on device" in json.loads(done.stdout)["msg"]
    assert spooled() == []
    assert shim.call("DEL").returncode == 0
    assert len(spooled()) == 1


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "fifo"])
def test_draft_in_its_place(kind: str, shim: Caller, tmp_path: Path) -> None:
    """What stands where the draft should be is replaced, never written through."""
    SPOOL.mkdir(mode=0o700, parents=True)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    # the draft's name has the pid in it: a shell that has made it becomes the shim
    make = {
        "file": "echo x >$d",
        "link": f"ln -s {victim} $d",
        "dangling": f"ln -s {tmp_path}/nowhere $d",
        "fifo": "mkfifo $d",
    }[kind]
    text = f"d={SPOOL}/.$$.new; {make}; exec {shim.program}"
    done = subprocess.run(
        ["sh", "-c", text], input=CONFIG, env={**shim.environ("DEL"), "PATH": os.environ["PATH"]}, check=False
    )
    assert done.returncode == 0
    assert victim.read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()
    (file,) = spooled()
    assert unpack(file.read_bytes())[2] == CONFIG


def test_draft_is_a_directory(shim: Caller) -> None:
    """What cannot be removed is code 11."""
    SPOOL.mkdir(mode=0o700, parents=True)
    text = f"mkdir {SPOOL}/.$$.new; exec {shim.program}"
    environ = {**shim.environ("DEL"), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", text], input=NEWEST, env=environ, check=False, capture_output=True)
    assert code_of(done) == 11


def test_configuration_that_is_left_is_spooled(shim: Caller) -> None:
    """A configuration nested deeper than the shim looks is the agent's to judge, also later."""
    deep = b'{"name": "net", "x": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert shim.call("DEL", deep).returncode == 0
    assert unpack(spooled()[0].read_bytes())[2] == deep


def begins(call: Conversation) -> None:
    """An agent that dies after it has begun to answer."""
    call.send(pack(4, status(0), b"x" * 1000)[:500])


LOST = [lambda _: None, begins]


@pytest.mark.parametrize("how", LOST, ids=["silent", "half an answer"])
@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_lost(command: str, code: int, how: Callable[[Conversation], None], shim: Caller) -> None:
    """An agent that ends before ANSWER: ADD is asked once only, CHECK again; each says so."""
    with agent(how) as served:
        assert code_of(shim.call(command, NEWEST)) == code
    assert (len(served.calls) > 1) == (command == "CHECK")
    assert spooled() == []


@pytest.mark.parametrize("how", LOST, ids=["silent", "half an answer"])
def test_lost_del(how: Callable[[Conversation], None], shim: Caller) -> None:
    """DEL whose agent ends before ANSWER is kept for the next one."""
    with agent(how) as served:
        assert shim.call("DEL").returncode == 0
    assert len(served.calls) == 1
    assert unpack(spooled()[0].read_bytes()) == (1, served.calls[0].head, CONFIG)


def test_check_survives_a_restart(shim: Caller) -> None:
    """CHECK whose agent was lost gets the answer of the next one, with descriptors again."""
    asked: list[int] = []

    def second_time(call: Conversation) -> None:
        asked.append(len(call.inodes))
        if len(asked) > 1:
            call.answer(0)

    with agent(second_time):
        assert shim.call("CHECK", NEWEST, CNI_NETNS="/proc/self/ns/net").returncode == 0
    assert asked == [2, 2]


def test_del_lost_after_run(shim: Caller) -> None:
    """An agent that is lost after RUN: DEL is kept all the same."""

    def order(call: Conversation) -> None:
        call.run("missing", "/nowhere")

    with agent(order):
        assert shim.call("DEL").returncode == 0
    assert len(spooled()) == 1


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_no_answer(command: str, shim: Caller) -> None:
    """An agent that takes the call and says nothing is code 11, for each verb; DEL is not kept: it may be done yet."""
    over = threading.Event()
    with agent(lambda _: over.wait(30)) as served:
        done = shim.call(command, NEWEST)
        over.set()
    assert code_of(done) == 11
    assert len(served.calls) == 1
    assert spooled() == []


def _header(version: int = 1, kind: int = 4, zero: int = 0, head: int = 4, body: int = 0) -> bytes:
    return HEADER.pack(b"cnpy", version, kind, zero, head, body)


@pytest.mark.parametrize(
    ("data", "details"),
    [
        (_header(version=2) + status(0), "the forwarder is older"),
        (_header(version=0) + status(0), "the agent is older"),
        (_header(version=255)[:12], "the forwarder is older"),
        (_header(kind=6) + status(0), "the forwarder is older"),
        (_header(kind=1) + status(0), "the forwarder is older"),
        (_header(kind=3) + status(0), "the forwarder is older"),
        (_header(zero=1) + status(0), "the forwarder is older"),
        (_header(head=(1 << 20) + 1), "the forwarder is older"),
        (_header(head=0xFFFFFFFF, body=0xFFFFFFFF), "the forwarder is older"),
        (_header(body=(8 << 20) + 2) + status(0), "one of the two is older"),
        (_header(head=3) + b"abc", "one of the two is older"),
        (_header(head=0), "one of the two is older"),
        (_header() + status(0) + b"more", "one of the two is older"),
        (pack(2, strings("../x")), "one of the two is older"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is the agent of cni-py listening there?"),
        (b"c" + b"\0" * 15, "is the agent of cni-py listening there?"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else "",
)
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_frames_that_are_not_understood(command: str, data: bytes, details: str, shim: Caller) -> None:
    """Code 999, and which side is older."""
    with agent(lambda call: call.send(data)):
        done = shim.call(command, NEWEST)
    assert code_of(done) == 999
    assert details in json.loads(done.stdout)["details"]


def test_refused_while_sending(shim: Caller) -> None:
    """An agent that refuses a frame by its header alone is heard, though it never read the rest."""
    SOCKET.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen()
        body = CONFIG + b" " * (4 << 20)
        with subprocess.Popen(
            [shim.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=shim.environ("ADD")
        ) as process:
            assert process.stdin
            process.stdin.write(body)
            process.stdin.close()
            connection, _ = listener.accept()
            with connection:
                connection.recv(16)
                connection.sendall(pack(4, status(9), b"too long"))
            assert process.stdout
            assert process.stdout.read() == b"too long"
    assert process.returncode == 9


def test_full_backlog(shim: Caller) -> None:
    """An agent with more callers than it lets wait: ADD tries again, DEL is kept at last, STATUS fails."""
    SOCKET.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(SOCKET))
            assert code_of(shim.call("ADD", NEWEST)) == 11
            assert code_of(shim.call("STATUS", NEWEST)) == 50
            assert shim.call("DEL", NEWEST).returncode == 0
    assert len(spooled()) == 1


@REAL
def test_no_right_to_the_socket(shim: Caller) -> None:
    """Who is not root is told so."""
    program = shutil.copy(shim.program, "/run/shim")
    with agent(lambda call: call.answer(0)) as served:
        done = subprocess.run(
            [program],
            input=CONFIG,
            env=shim.environ("DEL"),
            capture_output=True,
            check=False,
            user=65534,
            group=65534,
        )
        assert served.calls == []
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 5)
    assert "Permission denied" in json.loads(done.stdout)["msg"]


def test_killed_while_it_waits(shim: Caller) -> None:
    """A runtime that kills its forwarder closes the connection, which is how the agent knows."""
    seen = threading.Event()

    def wait(call: Conversation) -> bytes:
        seen.set()
        return call.connection.recv(1)

    with (
        agent(wait) as served,
        subprocess.Popen([shim.program], stdin=subprocess.PIPE, env=shim.environ("ADD")) as process,
    ):
        assert process.stdin
        process.stdin.write(CONFIG)
        process.stdin.close()
        assert seen.wait(10)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert served.outcome == [b""]
