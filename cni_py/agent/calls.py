"""One call from the connection to the answer: its place in the order, the turn, and what a hang-up means."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cni_py.agent.server import Caller
from cni_py.agent.turn import Order, Turn


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: exit status and stdout."""

    code: int
    stdout: bytes


# One verb: (the caller, its environment) to the outcome. Never raises.
Perform = Callable[[Caller, dict[str, str]], Outcome]


class Calls:
    """Serves the callers of one agent."""

    def __init__(self, turn: Turn, perform: Perform) -> None:
        self._turn = turn
        self._order = Order()
        self._perform = perform

    def serve(self, caller: Caller) -> None:
        """The call is answered, or, if its forwarder hung up, as if it had never come."""
        environ = caller.environ
        with self._order.of(f"{caller.name} {environ.get('CNI_CONTAINERID', '')}"), self._turn.held():
            if caller.gone():
                return
            outcome = self._perform(caller, environ)
            taken = not caller.gone() and caller.answer(outcome.code, outcome.stdout)
            if not taken and outcome.code == 0 and environ.get("CNI_COMMAND") == "ADD":
                self._perform(replace(caller), {**environ, "CNI_COMMAND": "DEL"})

    def at_work(self) -> int:
        """Calls that have not been answered."""
        return self._order.waiting()
