"""One of the two sides: calls its plugins for container after container, as a runtime would."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import node
from bench.measure.networks import PluginList
from bench.measure.process import Call, prepared, run, run_at_once

BLOCK = 10  # calls of one side before it is the other's turn: both see the same machine


@dataclass
class Side:
    """`label` is the prefix of its containers' namespaces, `path` its CNI_PATH, `node` the namespace of its host."""

    label: str
    path: Path
    node: str
    plugins: Callable[[int], PluginList]
    results: dict[int, Any] = field(default_factory=dict)

    def environ(self, command: str, number: int) -> dict[str, str]:
        """The runtime's environment."""
        container = f"{self.label}{number}"
        return {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.path),
        }

    def call(self, command: str, number: int) -> float:
        """Milliseconds of ADD or DEL of one container: all plugins of its list, each from its start to its end."""
        return self._add(number) if command == "ADD" else self._delete(number)

    def calls(self, command: str, numbers: Sequence[int]) -> list[float]:
        """The same for several, one after the other."""
        node.enter(self.node)
        return [self.call(command, number) for number in numbers]

    def calls_at_once(self, command: str, numbers: Sequence[int], width: int) -> tuple[float, list[float]]:
        """Milliseconds of all and of each, of a list of one plugin, `width` at once."""
        node.enter(self.node)
        with ExitStack() as stack:
            ready = [stack.enter_context(self._prepared(command, number)) for number in numbers]
            timed = run_at_once(ready, width)
            if command == "ADD":
                self.results |= {number: call.answer() for number, call in zip(numbers, ready, strict=True)}
        return timed

    def _add(self, number: int) -> float:
        spent, previous = 0.0, None
        for config in self.plugins(number):
            chained = {**config, "prevResult": previous} if previous is not None else config
            with prepared(f"{self.path}/{config['type']}", self.environ("ADD", number), chained) as call:
                spent += run(call)
                previous = call.answer()
        self.results[number] = previous
        return spent

    def _delete(self, number: int) -> float:
        spent, previous = 0.0, self.results.pop(number)
        for config in reversed(self.plugins(number)):
            chained = {**config, "prevResult": previous}
            with prepared(f"{self.path}/{config['type']}", self.environ("DEL", number), chained) as call:
                spent += run(call)
        return spent

    @contextmanager
    def _prepared(self, command: str, number: int) -> Iterator[Call]:
        (config,) = self.plugins(number)
        previous = {"prevResult": self.results.pop(number)} if command == "DEL" else {}
        with prepared(f"{self.path}/{config['type']}", self.environ(command, number), {**config, **previous}) as call:
            yield call


def in_turn(sides: Sequence[Side], command: str, numbers: Sequence[int]) -> list[list[float]]:
    """Milliseconds of each call, by side; they take turns block by block."""
    times: list[list[float]] = [[] for _ in sides]
    for first in range(0, len(numbers), BLOCK):
        for samples, side in zip(times, sides, strict=True):
            samples.extend(side.calls(command, numbers[first : first + BLOCK]))
    return times
