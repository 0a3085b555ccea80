"""One call from the connection to the answer: its place in the order, the turn, and what a hang-up means."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from cni_py.agent.server import Caller
from cni_py.agent.turn import Order, Turn


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


# One verb: (the caller, its environment) to the outcome. Never raises.
Perform = Callable[[Caller, dict[str, str]], Outcome]


class Calls:
    """Serves the callers of one agent. `observe` is told of each call when it is over, out of turn, by any thread."""

    def __init__(self, turn: Turn, perform: Perform, observe: Callable[[Observed], None]) -> None:
        self._turn = turn
        self._order = Order()
        self._perform = perform
        self._observe = observe

    def serve(self, caller: Caller) -> None:
        """The call is answered, or, if its forwarder hung up, as if it had never come."""
        started = time.perf_counter()
        environ = caller.environ
        with self._order.of(f"{caller.name} {environ.get('CNI_CONTAINERID', '')}"), self._turn.held():
            if caller.gone():
                return
            outcome = self._perform(caller, environ)
            taken = not caller.gone() and caller.answer(outcome.code, outcome.stdout)
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

    def at_work(self) -> int:
        """Calls that have not been answered."""
        return self._order.waiting()
