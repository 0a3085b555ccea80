"""Plugin processes, started with as little as possible between the clock and the plugin, the same way for both sides.

posix_spawn(3) with all that it needs made before: stdin and stdout are files in memory, opened for one call each.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class CallFailedError(Exception):
    """A plugin did not succeed: a benchmark of failures says nothing."""


@dataclass(frozen=True)
class Call:
    """One process to be started: the plugin's path, its environment, and descriptors for its stdin and stdout."""

    program: str
    environ: Mapping[str, str]
    stdin: int
    stdout: int

    def start(self) -> int:
        """Its process id."""
        redirections = [(os.POSIX_SPAWN_DUP2, self.stdin, 0), (os.POSIX_SPAWN_DUP2, self.stdout, 1)]
        return os.posix_spawn(self.program, (self.program,), self.environ, file_actions=redirections)

    def finished(self, status: int) -> None:
        """Raise CallFailedError unless the plugin ended well."""
        if status:
            told = os.pread(self.stdout, 4096, 0).decode(errors="replace")
            verb, container = (self.environ.get(f"CNI_{name}", "") for name in ("COMMAND", "CONTAINERID"))
            raise CallFailedError(f"{verb} of {container} by {self.program}: status {status:#x}, {told}")

    def answer(self) -> Any:  # noqa: ANN401  # JSON
        """What it printed, None if nothing."""
        size = os.fstat(self.stdout).st_size
        return json.loads(os.pread(self.stdout, size, 0)) if size else None


@contextmanager
def prepared(program: str, environ: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[Call]:
    """A call that reads `config`; its files are gone after the block."""
    stdin, stdout = os.memfd_create("stdin"), os.memfd_create("stdout")
    try:
        os.write(stdin, json.dumps(config).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        yield Call(program, environ, stdin, stdout)
    finally:
        os.close(stdin)
        os.close(stdout)


def run(call: Call) -> float:
    """The milliseconds from its start to its end."""
    started = time.perf_counter()
    pid = call.start()
    _, status = os.waitpid(pid, 0)
    elapsed = time.perf_counter() - started
    call.finished(status)
    return elapsed * 1e3


def run_at_once(calls: Sequence[Call], width: int) -> tuple[float, list[float]]:
    """The milliseconds of all and of each, with `width` of them under way until none is left to be started."""
    waiting: Iterable[Call] = iter(calls)
    under_way: dict[int, tuple[Call, float]] = {}
    each: list[float] = []
    begun = time.perf_counter()
    for call in waiting:
        under_way[call.start()] = call, time.perf_counter()
        if len(under_way) >= width:
            each.append(_reap(under_way))
    while under_way:
        each.append(_reap(under_way))
    return (time.perf_counter() - begun) * 1e3, each


def _reap(under_way: dict[int, tuple[Call, float]]) -> float:
    pid, status = os.waitpid(-1, 0)
    now = time.perf_counter()
    if pid not in under_way:
        raise CallFailedError(f"process {pid} ended with status {status:#x}: is it the agent?")
    call, started = under_way.pop(pid)
    call.finished(status)
    return (now - started) * 1e3
