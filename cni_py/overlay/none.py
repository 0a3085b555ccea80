"""No backend: the network between the nodes routes pods by itself, or somebody else makes the routes."""

from collections.abc import Iterable

from cni_py.model.net import NodeState
from cni_py.model.overlay import Facts, Network, Node
from cni_py.overlay.backend import Share, forwarding


def none(node: Node, shares: Iterable[Share], network: Network, facts: Facts) -> NodeState:  # noqa: ARG001  # Backend
    """The node forwards, and that is all: also nothing is made unreachable, as the default route may lead to pods."""
    return NodeState(sysctls=forwarding(node, facts, ()))
