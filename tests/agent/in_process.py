"""The role overlay in this process, on a node of the lab: a source in memory, over the real kernel."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from netns.overlay_lab import Member

from cni_py.agent.nodes import Nodes
from cni_py.agent.reconcile import Reconciler
from cni_py.kernel.guard import TunnelGuard
from cni_py.kernel.netns import entered
from cni_py.kernel.overlay import OverlayKernel
from cni_py.kernel.overlay_events import OverlayEvents
from cni_py.kernel.overlay_facts import possible_backends
from cni_py.model.overlay import Network, Node
from cni_py.model.peers import Sink, View
from cni_py.overlay.guard import GUARD
from cni_py.overlay.own import Identity


class MemorySource:
    """A source that says what a test tells it to, and what it was told."""

    def __init__(self) -> None:
        self.sink: Sink
        self.published: list[Node] = []
        self.joins = 0

    def start(self, sink: Sink) -> None:
        """See Source."""
        self.sink = sink

    def publish(self, node: Node) -> None:
        """See Source."""
        self.published.append(node)

    def joined(self) -> None:
        """See Source."""
        self.joins += 1

    def stop(self) -> None:
        """See Source."""

    def say(self, *nodes: Node, skipped: Mapping[str, str] | None = None) -> None:
        """These are all."""
        self.sink.changed(View(MappingProxyType({one.name: one for one in nodes}), MappingProxyType(skipped or {})))


class MemoryMemory:
    """See `agent.nodes.Memory`."""

    def __init__(self) -> None:
        self.nodes: Mapping[str, Node] = {}
        self.told: list[tuple[Node, int]] = []

    def recall(self) -> Mapping[str, Node]:
        """See Memory."""
        return self.nodes

    def keep(self, nodes: Mapping[str, Node]) -> None:
        """See Memory."""
        self.nodes = nodes

    def tell(self, own: Node, mtu: int) -> None:
        """See Memory."""
        self.told.append((own, mtu))


class Running:
    """The role on one node."""

    def __init__(self, member: Member, of: Network, memory: MemoryMemory | None = None) -> None:
        self.member = member
        self.source = MemorySource()
        self.memory = memory or MemoryMemory()
        self.repaired: dict[str, int] = {}
        with entered(member.place.fd):  # threads are where those who start them are
            kernel = OverlayKernel()
            table = TunnelGuard(GUARD)
            events = OverlayEvents(kernel.port, table.port)
            self.work = Reconciler(of, kernel, table, events)
            who = Identity(member.node.name, "eth0")
            self.nodes = Nodes(who, self.source, self.work, self.memory, possible_backends(), self._count, lambda: None)
            self.nodes.start()

    def _count(self, what: str, number: int) -> None:
        self.repaired[what] = self.repaired.get(what, 0) + number

    def close(self) -> None:
        """Its thread has ended."""
        self.nodes.stop()
        self.work.events.close()
        self.work.guard.close()
        self.work.kernel.close()


@contextmanager
def running(member: Member, of: Network, memory: MemoryMemory | None = None) -> Iterator[Running]:
    """The role on that node for the block."""
    one = Running(member, of, memory)
    try:
        yield one
    finally:
        one.close()
