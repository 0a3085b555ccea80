"""The agent's role `attach`, wired: calls of the plugins are carried out, and what they left is kept as it was."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from cni_py.agent.calls import Observed
from cni_py.agent.housekeeping import Housekeeping
from cni_py.agent.metrics import Metrics
from cni_py.agent.server import Caller
from cni_py.agent.turn import Turn
from cni_py.cmd.census import Census
from cni_py.cmd.plugin import perform
from cni_py.cmd.upkeep import NodeUpkeep
from cni_py.cmd.warm import Warm, WarmMachine
from cni_py.cni.verbs import add as _loaded_for_the_first_add  # noqa: F401
from cni_py.kernel.host_events import HostEvents
from cni_py.model.attachment import Key, host_ifname
from cni_py.model.errors import CniPyError
from cni_py.model.persona import Persona
from cni_py.spec.request import Request


class AttachRole:
    """`replay` carries out what is spooled; `own` are ports of other sockets of the agent that change nftables."""

    def __init__(
        self, turn: Turn, replay: Callable[[], int], grace: float, census: Census, metrics: Metrics, own: Sequence[int]
    ) -> None:
        self.warm = Warm(turn)
        self._census = census
        upkeep = NodeUpkeep(self.warm, replay, grace, metrics.repaired, metrics.collected)
        self._housekeeping = Housekeeping(upkeep, HostEvents([self.warm.firewall.socket.port, *own]))

    def start(self) -> None:
        """The node is looked after."""
        self._housekeeping.start()

    def stop(self) -> None:
        """It is no more."""
        self._housekeeping.stop()

    def perform(self, request: Request, persona: Persona, caller: Caller) -> bytes:
        """What the plugin prints. Raises CniPyError."""
        with suppress(CniPyError):  # perform says what is wrong with it
            self._census.note(request.config)
        machine = WarmMachine(self.warm, caller)
        with machine.host():
            return perform(request, persona, machine)

    def observe(self, call: Observed) -> None:
        """The call is over."""
        if call.command == "ADD" and call.code == 0:
            self._housekeeping.added(host_ifname(Key(call.network, call.container_id, call.ifname)))
