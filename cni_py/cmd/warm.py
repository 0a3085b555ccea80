"""The agent's machine: what outlives a call stays open, and the rest comes with the call."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cni_py.agent.server import Caller
from cni_py.agent.turn import Turn
from cni_py.cmd import ipam
from cni_py.cmd.delegates import AgentDelegate
from cni_py.cni.attach import Occasion
from cni_py.cni.call import OPEN_GATE
from cni_py.invoke.delegate import check_name, missing
from cni_py.invoke.process import check_outcome
from cni_py.ipam.config import DATA_DIR
from cni_py.kernel import netns
from cni_py.kernel.firewall import NftFirewall
from cni_py.kernel.kernels import NodeKernels
from cni_py.kernel.warm_host import WarmHost
from cni_py.model.errors import NetnsError, PluginError, TryAgainError
from cni_py.model.ports import Firewall, Gate, Observer
from cni_py.spec import frame
from cni_py.spec.request import Request
from cni_py.store.attachments import AttachmentStore, state_directories
from cni_py.store.node_file import NodeFile


class Warm:
    """What lasts: sockets in the agent's own network namespace, and the stores with what they remember."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.host = WarmHost()
        self.firewall = NftFirewall()
        self.boot = ipam.boot_id()
        self.leases = ipam.open_warm_store(turn.released)
        self.node = NodeFile()
        self.gate: Gate = OPEN_GATE
        self._stores: dict[str, AttachmentStore] = {}

    def records(self, state_dir: str) -> AttachmentStore:
        """The attachment records below a state directory."""
        store = self._stores.get(state_dir)
        if store is None:
            store = self._stores[state_dir] = AttachmentStore(state_dir, warm=True, idle=self.turn.released)
        return store

    def state_dirs(self) -> list[str]:
        """The usual state directory and those that configurations have named."""
        return list(dict.fromkeys((*state_directories(), *self._stores)))

    def lease_networks(self) -> list[tuple[str, str]]:
        """(data directory, network) of the leases that calls have touched, and of those in the usual place."""
        paths = set(self.leases.opened())
        with suppress(OSError):
            paths |= {f"{DATA_DIR}/{name}" for name in os.listdir(f"{DATA_DIR}/.cni-py")}  # noqa: PTH208
        return [(path.rpartition("/")[0], path.rpartition("/")[2]) for path in sorted(paths)]


class WarmMachine:
    """See `cmd.machine.Machine`: one call of `caller`, None for what the agent does by itself."""

    def __init__(self, warm: Warm, caller: Caller | None = None) -> None:
        self._warm = warm
        self._caller = caller
        self._at_home = caller is None or caller.host_fd is None or warm.host.is_host_of(caller.host_fd)

    @contextmanager
    def host(self) -> Iterator[None]:
        """This thread is in the network namespace that is the host of the call."""
        if self._at_home or self._caller is None or self._caller.host_fd is None:
            yield
            return
        with netns.entered(self._caller.host_fd):
            yield

    def ipam(self, request: Request) -> bytes:
        """See Machine."""
        return ipam.serve(request, self._warm.leases)

    def records(self, state_dir: str) -> AttachmentStore:
        """See Machine."""
        return self._warm.records(state_dir)

    def delegate(self, request: Request, state_dir: str) -> AgentDelegate:
        """See Machine."""
        return AgentDelegate(request, state_dir, self._warm.leases, self._run)

    def kernels(self) -> NodeKernels:
        """See Machine."""
        if not self._at_home:
            return NodeKernels(open_netns=self._open_netns)
        return NodeKernels(open_netns=self._open_netns, warm=self._warm.host)

    @contextmanager
    def firewall(self) -> Iterator[Firewall]:
        """See Machine."""
        if self._at_home:
            yield self._warm.firewall
            return
        firewall = NftFirewall()
        try:
            yield firewall
        finally:
            firewall.close()

    def observer(self) -> Observer:
        """See Machine."""
        from cni_py.kernel.observe import NodeObserver

        return NodeObserver(self._open_netns)

    def gate(self) -> Gate:
        """See Machine."""
        return self._warm.gate if self._at_home else OPEN_GATE

    def occasion(self) -> Occasion:
        """See Machine."""
        host = self._warm.host.identity if self._at_home else netns.own_identity()
        return Occasion(self._warm.boot, int(time.time()), "0a:" + os.urandom(5).hex(":"), host, self._warm.node.read())

    def _open_netns(self, path: str) -> int:
        """A descriptor of CNI_NETNS, which came with the call; no path of a caller means anything here."""
        fd = self._caller.netns_fd if self._caller is not None else None
        if fd is None:
            raise NetnsError(
                f"failed to open netns {path!r}: the forwarder could not open it",
                "is the container still running, and its namespace mounted where the runtime says?",
            )
        if not netns.is_network_namespace(fd):
            raise NetnsError(f"{path!r} is not a network namespace", "give the container's, as in /run/netns")
        return os.dup(fd)

    def _run(self, plugin: str, environ: dict[str, str], stdin: bytes) -> bytes:
        """A foreign plugin, run by the forwarder, while others may go on."""
        check_name(plugin)
        if self._caller is None:
            raise TryAgainError(f"only a caller can run {plugin}", "it is done with the next ADD")
        with self._warm.turn.released():
            status, stdout = self._caller.run(plugin, environ, stdin)
        if status == frame.NOT_FOUND:
            raise missing(plugin, tuple(part for part in environ["CNI_PATH"].split(":") if part))
        if status == frame.NOT_EXECUTABLE:
            raise PluginError(f"cannot run plugin {plugin}", "is it an executable file?")
        return check_outcome(plugin, status if status < 256 else 256 - status, stdout)
