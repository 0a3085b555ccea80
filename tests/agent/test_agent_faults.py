"""An agent whose disk is full or read-only, whose files are damaged, whose clock jumps, whose containers vanish."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent.live import NOTHING, SHIM, Dialogue, left, locked, running, serves, waiting_for
from native.fake_agent import RUN
from netns.plugin import Caller, finish, install, netns, routed
from netns.snapshot import node, output, settled
from netns.test_hostile_state import OBJECTS, PLACES, WORKS

pytestmark = [pytest.mark.sudo, pytest.mark.timeout(120)]

CONFIG = routed(ipMasq=True)
LOCK = Path("/var/lib/cni-py/lock")
RECORDS = Path("/var/lib/cni-py/attachments/net")
LEASES = Path("/var/lib/cni/networks/net")
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now)
{
	static int (*real)(clockid_t, struct timespec *);
	long offset = 0;
	if (!real)
		real = dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(id, now);
	FILE *file = id == CLOCK_REALTIME ? fopen("/run/clock", "re") : NULL;
	if (file) {
		if (fscanf(file, "%ld", &offset) == 1)
			now->tv_sec += offset;
		fclose(file);
	}
	return result;
}
"""


# Dies right after the next address is taken: its lease is on disk, and the index does not know yet whose it is.
DEATH = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>
int linkat(int from, const char *old, int to, const char *name, int flags)
{
	int (*real)(int, const char *, int, const char *, int) = dlsym(RTLD_NEXT, "linkat");
	int result = real(from, old, to, name, flags);
	if (access("/run/die", F_OK) == 0)
		kill(getpid(), SIGKILL);
	return result;
}
"""


def preloaded(source: str, directory: Path) -> tuple[str, ...]:
    """What a command begins with that has these functions instead of the C library's."""
    (directory / "preloaded.c").write_text(source)
    output("gcc", "-shared", "-fPIC", "-o", str(directory / "preloaded.so"), str(directory / "preloaded.c"), "-ldl")
    return ("env", f"LD_PRELOAD={directory}/preloaded.so")


@pytest.fixture
def caller(fresh_namespaces: None, tmp_path: Path) -> Caller:
    """Container c1 behind the shim, without an agent yet; c0 is there for `serves`."""
    del fresh_namespaces
    netns("c0", "c1")
    return Caller(install(tmp_path / "bin", program=SHIM))


def spare(caller: Caller) -> Caller:
    """The container for `serves`."""
    return Caller(caller.path, "c0", "/run/netns/c0")


def settles(wanted: dict[str, Any]) -> None:
    """The node comes to be like this within 15 s, by what the agent does by itself."""
    deadline = time.monotonic() + 15
    while (seen := left()) != wanted and time.monotonic() < deadline:
        pass
    assert wanted == seen


def test_full_disk(caller: Caller, tmp_path: Path) -> None:
    """ADD is refused with code 5 or 11 and leaves nothing, STATUS says why, DEL works; with room again ADD does too."""
    output("mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=200", "tmpfs", "/var/lib")
    with running(tmp_path):
        assert caller.process("ADD", CONFIG)[0] == 0
        fill = Path("/var/lib/fill")
        with pytest.raises(OSError, match="No space left"):
            fill.write_bytes(bytes(1 << 20))
        before = settled(node("c0"))
        code, error = spare(caller).process("ADD", CONFIG)
        assert (code, error["code"] in (5, 11)) == (1, True), error
        assert error["details"]
        code, error = caller.process("STATUS", CONFIG)
        assert (code, error["code"]) == (1, 50)
        assert before == settled(node("c0"))
        assert caller.process("DEL", CONFIG) == (0, None)
        fill.unlink()
        serves(spare(caller), CONFIG)
    assert left() == NOTHING


def test_read_only_disk(caller: Caller, tmp_path: Path) -> None:
    """ADD is refused and leaves nothing, CHECK works; when the disk is writable again all is as before."""
    with running(tmp_path):
        code, result = caller.process("ADD", CONFIG)
        assert code == 0
        before = settled(node("c0"))
        output("mount", "-o", "remount,ro", "/var/lib")
        code, error = spare(caller).process("ADD", CONFIG)
        assert (code, error["code"]) == (1, 5)
        assert error["details"]
        assert caller.process("CHECK", {**CONFIG, "prevResult": result}) == (0, None)
        output("mount", "-o", "remount,rw", "/var/lib")
        assert before == settled(node("c0"))
        assert caller.process("CHECK", {**CONFIG, "prevResult": result}) == (0, None)
        serves(spare(caller), CONFIG)
        assert caller.process("DEL", CONFIG) == (0, None)
    assert left() == NOTHING


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "random": lambda path: path.write_bytes(os.urandom(3000)),
    "huge": lambda path: path.write_bytes(b"x" * (3 << 20)),
    "another version": lambda path: path.write_text('{"version": 99}'),
    "a directory": _directory,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("restarted", [False, True], ids=["seen by the agent", "found at its start"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_record(name: str, restarted: bool, caller: Caller, tmp_path: Path) -> None:
    """Others are served; DEL of the damaged one takes away link, rules, lease and, but for a directory, the record."""
    with running(tmp_path) as agent:
        code, result = caller.process("ADD", CONFIG)
        assert code == 0
        (record,) = RECORDS.glob("*.json")
        DAMAGES[name](record)
        if restarted:
            agent.stop()
    with running(tmp_path):
        serves(spare(caller), CONFIG)
        code, document = caller.process("DEL", {**CONFIG, "prevResult": result})
        if name == "a directory":
            assert (code, str(record) in document["msg"]) == (1, True)
            record.rmdir()
            assert caller.process("DEL", {**CONFIG, "prevResult": result}) == (0, None)
        else:
            assert (code, document) == (0, None)
        serves(spare(caller), CONFIG)
    assert left() == NOTHING


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_lease(name: str, caller: Caller, tmp_path: Path) -> None:
    """Others are served and get another address; DEL leaves at most the file that is no lease of its container."""
    with running(tmp_path):
        code, result = caller.process("ADD", CONFIG)
        assert code == 0
        address = result["ips"][0]["address"].partition("/")[0]
        DAMAGES[name](LEASES / address)
        code, other = spare(caller).process("ADD", CONFIG)
        assert code == 0, other
        assert other["ips"][0]["address"].partition("/")[0] != address
        assert spare(caller).process("DEL", CONFIG) == (0, None)
        assert caller.process("DEL", CONFIG) == (0, None)
        serves(spare(caller), CONFIG)
        seen = left()
    assert (seen["links"], seen["nft"]) == ([], "")
    assert {Path(path).name for path in seen["files"]} <= {address}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", OBJECTS)
def test_in_the_place_of(name: str, place: str, caller: Caller, tmp_path: Path) -> None:
    """The agent starts, whatever stands where it keeps state; ADD works or is refused and names the path."""
    path = PLACES[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    OBJECTS[name](path)
    with running(tmp_path):
        code, document = caller.process("ADD", CONFIG)
        if (place, name) in WORKS:
            assert code == 0, document
            assert caller.process("DEL", CONFIG) == (0, None)
        else:
            assert (code, document["code"]) == (1, 5), document
            assert str(path) in document["msg"]


def test_clock_set_back(caller: Caller, tmp_path: Path) -> None:
    """The wall clock jumps ten years back and then forth: ADD, CHECK, DEL and collection do not ask it."""
    ten_years = 10 * 365 * 86400
    with running(tmp_path, "--grace", "1", prefix=preloaded(CLOCK, tmp_path)) as agent:
        code, result = caller.process("ADD", CONFIG)
        assert code == 0
        for offset in (-ten_years, ten_years, 0):
            Path("/run/clock").write_text(str(offset))
            serves(spare(caller), CONFIG)
            assert caller.process("CHECK", {**CONFIG, "prevResult": result}) == (0, None)
            lost = f"gone{abs(offset)}{offset > 0}"
            netns(lost)
            assert Caller(caller.path, lost, f"/run/netns/{lost}").process("ADD", CONFIG)[0] == 0
            assert len(list(RECORDS.glob("*.json"))) == 2
            output("ip", "netns", "del", lost)
            deadline = time.monotonic() + 30
            while len(list(RECORDS.glob("*.json"))) == 2 and time.monotonic() < deadline:
                os.sched_yield()
            assert caller.process("CHECK", {**CONFIG, "prevResult": result}) == (0, None)
            assert len(list(RECORDS.glob("*.json"))) == 1
        assert any(line.startswith("2016") for line in agent.log.read_text().splitlines())  # it did see that clock
        assert caller.process("DEL", CONFIG) == (0, None)
    assert left() == NOTHING


@pytest.mark.parametrize("deletes", [True, False], ids=["DEL", "no DEL"])
def test_namespace_deleted_during_add(deletes: bool, caller: Caller, tmp_path: Path) -> None:
    """The container is thrown away while its ADD is at work: DEL, or the agent by itself, leaves nothing."""
    with running(tmp_path, "--grace", "1"):
        serves(spare(caller), CONFIG)
        dialogue = Dialogue()
        with locked(LOCK):
            dialogue.call(caller, "ADD", CONFIG)
            output("ip", "netns", "del", "c1")
        dialogue.receive()
        dialogue.close()
        if deletes:
            assert caller.process("DEL", CONFIG) == (0, None)
            assert left() == NOTHING
        settles(NOTHING)


@pytest.mark.parametrize("deletes", [True, False], ids=["DEL", "no DEL"])
def test_killed_with_the_first_address(deletes: bool, caller: Caller, tmp_path: Path) -> None:
    """The agent dies between taking an address and noting for whom: the address is free again after a restart."""
    with running(tmp_path, prefix=preloaded(DEATH, tmp_path)) as agent:
        serves(spare(caller), CONFIG)
        Path("/run/die").touch()
        code, error = caller.process("ADD", CONFIG)
        assert (code, error["code"]) == (1, 11)
        Path("/run/die").unlink()
        assert agent.ended() == -signal.SIGKILL
    assert [Path(path).name for path in left()["files"]] == ["10.7.0.3"]
    output("ip", "netns", "del", "c1")
    with running(tmp_path, "--grace", "1"):
        if deletes:
            assert caller.process("DEL", CONFIG) == (0, None)
        settles(NOTHING)


def test_del_overtakes_add(caller: Caller, tmp_path: Path) -> None:
    """The runtime kills an ADD and sends DEL while the agent is still at it: DEL comes after, and nothing is left."""
    with running(tmp_path):
        serves(spare(caller), CONFIG)
        before = settled(node("c1"))
        with locked(LOCK):
            added = caller.start("ADD", CONFIG)
            waiting_for(LOCK)
            added.kill()
            added.communicate()
            deleted = caller.start("DEL", CONFIG)
        assert finish(deleted) == (0, None)
        assert before == settled(node("c1"))


def test_del_before_add(caller: Caller, tmp_path: Path) -> None:
    """A DEL that comes before its ADD succeeds, and the ADD after it is none of its business."""
    with running(tmp_path):
        foreign = routed(ipam={"type": "foreign"})
        dialogue = Dialogue()
        dialogue.call(caller, "DEL", foreign)
        assert dialogue.receive()[0] == RUN
        added = caller.start("ADD", CONFIG)  # waits: one container's calls come in their order
        serves(spare(caller), CONFIG)
        assert added.poll() is None
        dialogue.ran(0, b"")
        assert dialogue.answer() == (0, b"")
        dialogue.close()
        code, result = finish(added)
        assert code == 0
        assert caller.process("CHECK", {**CONFIG, "prevResult": result}) == (0, None)
        assert caller.process("DEL", CONFIG) == (0, None)
    assert left() == NOTHING
