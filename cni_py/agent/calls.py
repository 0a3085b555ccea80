"""One call from the connection to the answer: its place in the order, the turn, and what a hang-up means."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from cni_py.agent.server import Caller
from cni_py.agent.turn import Order, Turn
from cni_py.store.spool import Spool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: exit status and stdout; the network it was about, and the code and text of its error."""

    code: int
    stdout: bytes
    network: str = ""
    error: int = 0
    message: str = ""


class Observed(NamedTuple):
    """A call that is over. `code` is 0 or the error's; `seconds` from when it was read until it was answered."""

    name: str
    command: str
    network: str
    container_id: str
    ifname: str
    code: int
    message: str
    seconds: float


_LATER = (5, 11)  # codes of what may well succeed another time

# One verb: (the caller, its environment) to the outcome. Never raises.
Perform = Callable[[Caller, dict[str, str]], Outcome]


class Calls:
    """Serves the callers of one agent. `observe` is told of each call when it is over, out of turn, by any thread.

    What was spooled while the agent was away is carried out before any ADD: else a DEL could hit the ADD after it.
    """

    def __init__(self, turn: Turn, perform: Perform, observe: Callable[[Observed], None], spool: Spool) -> None:
        self._turn = turn
        self._order = Order()
        self._perform = perform
        self._observe = observe
        self._spool = spool
        self._replaying = threading.Lock()

    def serve(self, caller: Caller) -> None:
        """The call is answered, or, if its forwarder hung up, as if it had never come."""
        started = time.perf_counter()
        environ = caller.environ
        if environ.get("CNI_COMMAND") == "ADD":
            self.replay(caller)
        with self._order.of(_line(caller.name, environ), caller.busy), self._turn.held():
            if caller.gone():
                return
            outcome = self._perform(caller, environ)
            taken = not caller.gone() and caller.answer(outcome.code, outcome.stdout, self._turn.released)
            if not taken and outcome.code == 0 and environ.get("CNI_COMMAND") == "ADD":
                self._perform(replace(caller), {**environ, "CNI_COMMAND": "DEL"})
        self._observe(
            Observed(
                caller.name,
                environ.get("CNI_COMMAND", ""),
                outcome.network,
                environ.get("CNI_CONTAINERID", ""),
                environ.get("CNI_IFNAME", ""),
                outcome.error,
                outcome.message or ("" if taken else "the caller hung up before the answer"),
                time.perf_counter() - started,
            )
        )

    def replay(self, caller: Caller) -> int:
        """What is spooled is carried out, with the forwarder of `caller` to run other plugins; how many were done.

        One that needs a forwarder, where there is none, waits for the next ADD, and one for which the disk is full
        waits as well. All others are done with, also those that fail: the runtime was told that they would be.
        """
        if not self._spool.pending():
            return 0
        done = 0
        if not self._replaying.acquire(blocking=False):
            with caller.busy():
                self._replaying.acquire()
        try:
            for call in self._spool.calls():
                mine = Caller(caller.connection, caller.busy, call.name, call.environ, call.stdin)
                with self._order.of(_line(call.name, call.environ), caller.busy), self._turn.held():
                    outcome = self._perform(mine, call.environ)
                if outcome.error not in _LATER:
                    self._spool.remove(call.path)
                    done += 1
        finally:
            self._replaying.release()
        return done


def _line(name: str, environ: dict[str, str]) -> str:
    """Whose calls come in order: one container's, of one plugin; a plugin may call another for the same container."""
    return f"{name} {environ.get('CNI_CONTAINERID', '')}"
