"""`cni-py agent`: the warm node agent, wired. It runs until SIGTERM or SIGINT, then finishes what it began."""

import gc
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from cni_py.agent.calls import Calls, Outcome
from cni_py.agent.server import Caller, Server
from cni_py.agent.turn import Turn
from cni_py.cmd.plugin import answer, perform
from cni_py.cmd.warm import Warm, WarmMachine
from cni_py.model.persona import Persona
from cni_py.spec import frame

_DRAIN_SECONDS = 30.0


def run() -> None:
    """The agent from start to end."""
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # before there are threads: they inherit it
    turn = Turn()
    warm = Warm(turn)

    def carry_out(caller: Caller, environ: dict[str, str]) -> Outcome:
        persona = next((one for one in Persona if one.value == caller.name), Persona.CNI_PY)
        machine = WarmMachine(warm, caller)
        with machine.host():
            answered = answer(
                persona.value, lambda request: perform(request, persona, machine), environ, lambda: caller.stdin
            )
        return Outcome(answered.code, answered.stdout)

    calls = Calls(turn, carry_out, lambda _: None)
    server = Server(Path(frame.SOCKET), calls.serve, lambda: b"{}")
    server.start()
    gc.collect()
    gc.freeze()
    _tell_supervisor("READY=1")
    signal.sigwait(stop)
    _tell_supervisor("STOPPING=1")
    server.stop(_DRAIN_SECONDS)


def _tell_supervisor(state: str) -> None:
    """sd_notify(3), where a supervisor asks for it; one that went away is no reason to end otherwise than in order."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1))
