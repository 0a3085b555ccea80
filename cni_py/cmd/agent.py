"""`cni-py agent`: the warm node agent, wired. It runs until SIGTERM or SIGINT, then finishes what it began."""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni_py import __version__
from cni_py.agent import log, web
from cni_py.agent.calls import Calls, Observed, Outcome
from cni_py.agent.metrics import COMMANDS, CONTENT_TYPE, Metrics
from cni_py.agent.report import Journal
from cni_py.agent.server import Caller, Server
from cni_py.agent.turn import Turn
from cni_py.cmd.census import Census
from cni_py.cmd.conflist import is_present, read_conflist
from cni_py.cmd.heap import share_one_heap, tidy
from cni_py.cmd.install import place_conflist
from cni_py.cmd.overlay_status import standing
from cni_py.cmd.plugin import answer
from cni_py.cmd.policy_status import standing as policy_standing
from cni_py.cmd.settings_file import read_settings
from cni_py.cmd.status import attachments
from cni_py.kernel import netns, rtnl
from cni_py.kernel.netlink import NetlinkError
from cni_py.kernel.node import open_route_socket
from cni_py.model.errors import CniPyError, IOFailureError, TryAgainError
from cni_py.model.persona import Persona
from cni_py.spec import frame, gojson
from cni_py.spec.request import Request
from cni_py.store.spool import Spool

if TYPE_CHECKING:
    from cni_py.agent.nodes import Nodes
    from cni_py.cmd.attach_role import AttachRole
    from cni_py.cmd.policy_role import PolicyRole

_DRAIN_SECONDS = 30.0
_HEALTH_SECONDS = 1.0
_LOG = logging.getLogger("cni_py.agent")


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator said. `listen` is "" for no HTTP, `grace` seconds are what is dead left alone.

    `roles` are of `attach`, `overlay` and `policy`; `config` is the latter two's file of settings. `conf_dir` is "" for
    no network configuration to write; `conflist` is "" for the one that comes with the program.
    """

    roles: tuple[str, ...] = ("attach",)
    listen: str = "127.0.0.1:9761"
    log_format: str = "text"
    grace: float = 60.0
    conf_dir: str = ""
    conflist: str = ""
    config: str = ""


class Agent:
    """All parts of one agent, wired. `metrics` counts what it repairs and collects."""

    def __init__(self, options: Options, lines: log.Log) -> None:
        self._options = options
        self._address = web.parse_address(options.listen) if options.listen else None
        self._configuration = read_conflist(options.conflist) if options.conf_dir else None
        self._lines = lines
        self._started = time.monotonic()
        self._census = Census()
        self._journal = Journal(COMMANDS)
        self._listening = ""
        self._serving = False
        self._turn = Turn()
        self._home = f"net:[{netns.own_identity().rpartition(':')[2]}]"
        self.metrics = Metrics(
            __version__,
            self._census.usage,
            lambda: None if self._nodes is None else self._nodes.prober.report(),
            lambda: None if self._policy is None else self._policy.policies.standing(),
        )
        calls = Calls(self._turn, self._carry_out, self._observe, Spool())
        self.server = Server(Path(frame.SOCKET), calls.serve, self._report_meanwhile)
        self._turn.stand_in = self.server.stand_in
        self._nodes: Nodes | None = None
        self._policy: PolicyRole | None = None
        self._attach: AttachRole | None = None
        own: list[int] = []
        settings = read_settings(options.config) if {"overlay", "policy"} & set(options.roles) else None
        if settings is not None and "policy" in options.roles:
            from cni_py.cmd import policy_role

            self._policy = policy_role.PolicyRole(settings, self.metrics.repaired, self.metrics.dropped)
            own += self._policy.policies.ports
        if settings is not None and "overlay" in options.roles:
            from cni_py.cmd.overlay import open_nodes

            # Only joined to the others a node may have pods.
            joined = self._write_configuration
            ranged = self._policy.serve if self._policy is not None else lambda _: None
            self._nodes = open_nodes(settings, self.metrics.repaired, joined, ranged)
            own.append(self._nodes.guard_port)
        if "attach" in options.roles:
            from cni_py.cmd import attach_role

            nobody = Caller(None, nullcontext)
            self._attach = attach_role.AttachRole(
                self._turn, lambda: calls.replay(nobody), options.grace, self._census, self.metrics, own
            )
            if self._policy is not None:
                self._attach.warm.gate = self._policy.gate(self._turn)
        self._route = open_route_socket() if self._attach is None else self._attach.warm.host.route

    def start(self) -> None:
        """It serves. Raises CniPyError."""
        if self._nodes is not None:  # before there can be new pods
            self._nodes.start()
        if self._policy is not None:
            self._policy.start()
        if self._attach is not None:
            self._attach.start()
        self.server.start()
        self._serving = True
        if self._address is not None:
            self._serve_http(self._address)
        _LOG.info("version %s serves on %s", __version__, frame.SOCKET)
        if self._nodes is None:
            self._write_configuration()

    def stop(self) -> None:
        """What was begun is finished, and nothing is served any more."""
        self._serving = False
        if self._nodes is not None:
            self._nodes.stop()
        if self._attach is not None:
            self._attach.stop()
        if not self.server.stop(_DRAIN_SECONDS):
            _LOG.warning("calls were not over within %g s and are left to the kernel", _DRAIN_SECONDS)
        if self._policy is not None:  # which the last calls need
            self._policy.stop()
        _LOG.info("stopped")

    def _write_configuration(self) -> None:
        """From now on runtimes take the node for ready. It stays when the agent goes: forwarders wait for the next."""
        if self._configuration is None:
            return
        try:
            for line in place_conflist(self._options.conf_dir, self._configuration):
                _LOG.log(logging.WARNING if line.startswith("WARNING") else logging.INFO, "%s", line)
        except CniPyError as error:
            _LOG.warning("%s; %s", error.message, error.details)

    def _serve_http(self, address: tuple[str, int]) -> None:
        """Health and metrics; the pod network goes on without, where something else has the port."""
        probe = web.Probe(self._check_health)
        pages = {
            "/healthz": lambda: web.verdict(probe.ask(_HEALTH_SECONDS)),
            "/readyz": lambda: web.verdict(self._unready()),
            "/metrics": lambda: web.Page(200, self.metrics.exposition(), CONTENT_TYPE),
        }
        try:
            web.serve(address, pages)
            self._listening = self._options.listen
        except IOFailureError as error:
            _LOG.warning("%s; %s; going on without health and metrics", error.message, error.details)

    def _carry_out(self, caller: Caller, environ: dict[str, str]) -> Outcome:
        persona = Persona.named(caller.name)
        network = ""

        def verbs(request: Request) -> bytes:
            nonlocal network
            if self._attach is None:
                raise TryAgainError("this agent has not the role attach", "start it with --roles attach,overlay")
            network = request.network
            return self._attach.perform(request, persona, caller)

        answered = answer(persona.value, verbs, environ, lambda: caller.stdin)
        if answered.code == 0:
            return Outcome(0, answered.stdout, network)
        document = json.loads(answered.stdout)
        return Outcome(answered.code, answered.stdout, network, document["code"], document["msg"])

    def _observe(self, call: Observed) -> None:
        if self._attach is not None:
            self._attach.observe(call)
        self.metrics.called(call)
        self._journal.note(call)
        self._lines.call(call)

    def _check_health(self) -> str:
        """A call could be carried out now: its turn comes and the kernel answers on the socket it would use."""
        with self._turn.held():
            try:
                self._route.request(rtnl.get_link("lo"))
            except NetlinkError as error:
                return f"the kernel does not answer on the route socket: {error}"
        return ""

    def _unready(self) -> str:
        """Why calls do not reach this agent, "" if they do."""
        if not self._serving:
            return "not serving"
        if self.server.displaced():
            return f"another agent has taken {frame.SOCKET}"
        if self._policy is not None and not self._policy.policies.is_expected("", ""):
            return "what the policies are is not known yet: see cni-py status"
        if self._nodes is not None and not self._nodes.standing.joined:
            return "the node is not joined to the others yet: see cni-py status"
        directory, configuration = self._options.conf_dir, self._configuration
        if configuration is not None and not is_present(directory, configuration.name):
            return f"the network configuration {configuration.name} is not in {directory}"
        return ""

    def _report_meanwhile(self, query: str, body: bytes) -> bytes:
        """The status, or the answer to a question about policies, while another thread takes the calls that come."""
        with self.server.stand_in():
            if not query:
                return json.dumps(self._report()).encode()
            if self._policy is None:
                raise TryAgainError("this agent has not the role policy", "start it with --roles attach,policy")
            from cni_py.cmd.policy_queries import answer as answer_query

            return json.dumps(answer_query(self._policy, query, gojson.decode(body))).encode()

    def _report(self) -> Mapping[str, Any]:
        repaired, collected = self.metrics.tallies()
        found, damaged = attachments()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": int(time.monotonic() - self._started),
            "socket": frame.SOCKET,
            "roles": list(self._options.roles),
            "ready": self._unready() or "yes",
            "listen": self._listening,
            "host_netns": self._home,
            "calls": self._journal.calls(),
            "errors": self._journal.errors(),
            "repairs": repaired,
            "collected": collected,
            "log_lines_dropped": self._lines.dropped,
            "attachments": found,
            "damaged": damaged,
            "pools": self._census.pools(),
            **({"policy": policy_standing(self._policy)} if self._policy is not None else {}),
            **({"overlay": standing(self._nodes)} if self._nodes is not None else {}),
        }


def run(options: Options) -> None:
    """The agent from start to end. Raises CniPyError if it cannot start."""
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # before there are threads: they inherit it
    share_one_heap()
    lines = log.start(options.log_format)
    try:
        agent = Agent(options, lines)
        agent.start()
        tidy()
        _tell_supervisor("READY=1")
        signal.sigwait(stop)
        _tell_supervisor("STOPPING=1")
        agent.stop()
    finally:
        lines.stop()


def _tell_supervisor(state: str) -> None:
    """sd_notify(3), where a supervisor asks for it; one that went away is no reason to end otherwise than in order."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1))
