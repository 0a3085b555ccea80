"""What the agent remembers of its calls for `cni-py status`: how many, how long, and the last errors. Bounded."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from math import ceil
from typing import Any

from cni_py.agent.calls import Observed

_ERRORS = 20
_DURATIONS = 1000  # of each command, the latest


class Journal:
    """Any thread may write and read. Commands that are none of `commands` are counted together as "other"."""

    def __init__(self, commands: tuple[str, ...]) -> None:
        self._guard = threading.Lock()
        self._tallies = {command: _Tally() for command in (*commands, "other")}
        self._errors: deque[tuple[float, Observed]] = deque(maxlen=_ERRORS)

    def note(self, call: Observed) -> None:
        """One more call is over."""
        tally = self._tallies.get(call.command) or self._tallies["other"]
        with self._guard:
            tally.count += 1
            tally.seconds.append(call.seconds)
            if call.code:
                tally.failed += 1
                self._errors.append((time.time(), call))

    def calls(self) -> Mapping[str, Mapping[str, Any]]:
        """{command: its figures} of those that were called; durations of the last thousand of each."""
        with self._guard:
            seen = [
                (name, one.count, one.failed, sorted(one.seconds)) for name, one in self._tallies.items() if one.count
            ]
        return {
            name: {
                "count": count,
                "failed": failed,
                "p50_ms": _percentile_ms(seconds, 50),
                "p99_ms": _percentile_ms(seconds, 99),
            }
            for name, count, failed, seconds in seen
        }

    def errors(self) -> list[Mapping[str, Any]]:
        """The last errors, the oldest first; `time` is in seconds since the epoch."""
        with self._guard:
            errors = list(self._errors)
        return [
            {
                "time": round(moment, 3),
                "command": call.command[:80],
                "network": call.network,
                "containerid": call.container_id[:200],
                "ifname": call.ifname[:80],
                "code": call.code,
                "msg": call.message[:1000],
            }
            for moment, call in errors
        ]


class _Tally:
    __slots__ = ("count", "failed", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.failed = 0
        self.seconds: deque[float] = deque(maxlen=_DURATIONS)


def _percentile_ms(ordered: list[float], percent: int) -> float:
    return round(ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] * 1e3, 3)
