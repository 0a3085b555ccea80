"""The agent's log: a line a call, whatever is in it, and whether or not anybody reads it."""

import fcntl
import json
import logging
import os
import select
from pathlib import Path

import pytest

from cni_py.agent.calls import Observed
from cni_py.agent.log import Log

FINE = Observed("cni-py", "ADD", "net", "c1", "eth0", 0, "", 0.00123)
HOSTILE = Observed("x", "ADD\n", "net", "c\x1b[2J1", "e\u202eth", 11, 'say "no"\r\nINFO forged=1' + "x" * 5000, 1.5)


def lines(format_name: str, *calls: Observed) -> list[str]:
    """What a log of these calls holds."""
    read, write = os.pipe()
    log = Log(format_name, write)
    for call in calls:
        log.call(call)
    log.stop()
    os.close(write)
    with os.fdopen(read, encoding="ascii") as pipe:
        return pipe.read().splitlines()


def test_text() -> None:
    """A call is one line of fields, INFO if it went well."""
    (line,) = lines("text", FINE)
    moment, rest = line.split(" ", 1)
    assert rest == 'INFO command=ADD network=net containerid=c1 ifname=eth0 code=0 took_ms=1.23 msg="cni-py: done"'
    assert (moment[10], moment[-1]) == ("T", "Z")


def test_json() -> None:
    """The same fields as JSON; numbers are numbers."""
    (line,) = lines("json", FINE)
    document = json.loads(line)
    assert list(document) == [
        "time",
        "level",
        "command",
        "network",
        "containerid",
        "ifname",
        "code",
        "took_ms",
        "msg",
    ]
    assert (document["code"], document["took_ms"], document["level"]) == (0, 1.23, "INFO")


@pytest.mark.parametrize("format_name", ["text", "json"])
def test_hostile(format_name: str) -> None:
    """What a caller made up stays in its field, in one line of printable ASCII that is not long."""
    (line,) = lines(format_name, HOSTILE)
    assert line.isprintable()
    assert len(line) < 2000
    assert "WARNING" in line
    assert " forged=1 " not in line.split("msg=")[0]


def test_the_standard_librarys_loggers() -> None:
    """A record of `logging` has the same fields, by `extra`; arguments that do not fit are no failure."""
    read, write = os.pipe()
    log = Log("text", write)
    logger = logging.getLogger("cni_py.test")
    logger.addHandler(log)
    logger.propagate = False
    logger.warning("gone: %s", "veth", extra={"network": "net", "secret": "x"})
    logger.warning("%d", "no number")
    logger.removeHandler(log)
    log.stop()
    os.close(write)
    with os.fdopen(read, encoding="ascii") as pipe:
        first, second = pipe.read().splitlines()
    assert first.endswith('WARNING network=net msg="gone: veth"')
    assert second.endswith("msg=%d")


def test_nobody_reads() -> None:
    """A full pipe holds up no call; what is lost is counted, and told as soon as somebody reads."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    log = Log("text", write)
    for _ in range(12_000):
        log.call(FINE)  # would never come back if it waited
    assert log.dropped >= 1_000
    os.set_blocking(read, False)
    seen = b""
    while b"were dropped" not in seen:
        assert select.select([read], [], [], 30)[0]
        seen += os.read(read, 1 << 16)
    log.stop()
    os.close(read)
    os.close(write)


def test_broken_pipe() -> None:
    """Whoever read it went away: lines are dropped and counted, the log lives."""
    read, write = os.pipe()
    os.close(read)
    log = Log("text", write)
    for _ in range(3):
        log.call(FINE)
    log.stop()
    os.close(write)
    assert log.dropped == 3


def test_full_disk() -> None:
    """A device without space is the same."""
    with Path("/dev/full").open("wb", 0) as full:
        log = Log("json", full.fileno())
        log.call(FINE)
        log.stop()
    assert log.dropped == 1
