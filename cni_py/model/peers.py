"""What is between a source of nodes and the agent: views of who is there one way, the node's own record the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from cni_py.model.overlay import Node


@dataclass(frozen=True, slots=True)
class View:
    """All that a source knows at one moment; a later one replaces it whole. Never changed, so threads may share it.

    `nodes` by name, this one among them: of it only the pod networks count. A node without pod networks or without any
    underlay address has not joined yet and is in neither mapping. `skipped`: {what holds it: why it is not believed},
    in words for an operator; a node that is skipped is not in `nodes`. Sources check each record by itself; what needs
    the others or this node's facts (foreign or doubly claimed networks, own addresses) is `overlay.admit`'s.
    """

    nodes: Mapping[str, Node] = field(default_factory=lambda: MappingProxyType({}))
    skipped: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Sink(Protocol):
    """Who listens to a source. Both may be called by any thread and return at once."""

    def changed(self, view: View) -> None:
        """This is how it is now. Not before the source has read everything once."""

    def trouble(self, reason: str) -> None:
        """The source cannot be reached and why, "" once it can be again. What it said last goes on to count."""


class Source(Protocol):
    """Where nodes come from. It repairs its own connection for ever, and raises nothing once it is started."""

    def start(self, sink: Sink) -> None:
        """From now on threads of the source's own tell the sink. Raises CniPyError for what no waiting mends."""

    def publish(self, node: Node) -> None:
        """This is how the node itself is now; it is told to the others, again whenever somebody undoes it.

        Its pod networks are the source's own and are not written back. Any thread; returns at once.
        """

    def joined(self) -> None:
        """The kernel holds all peers for the first time, so pods may be scheduled here. Any thread; returns at once."""

    def stop(self) -> None:
        """Nothing is told any more and the threads have ended; what was published stays."""
