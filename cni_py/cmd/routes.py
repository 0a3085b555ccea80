"""`cni-py routes` and `cni-py plan`: what this node's kernel holds of the overlay, and what the agent would change now.

Both look by themselves, with the configuration and the last good set of nodes on disk, and change nothing: they work
beside an agent and without one.
"""

from typing import Any

from cni_py.cmd.overlay import DiskMemory, identity
from cni_py.cmd.settings_file import read_settings
from cni_py.kernel.overlay import OverlayKernel
from cni_py.kernel.overlay_facts import facts, possible_backends
from cni_py.model.converge import converge
from cni_py.model.errors import UnavailableError
from cni_py.model.net import LinkRoute, NodeState
from cni_py.model.node_network import SEGMENT
from cni_py.model.overlay import DEVICES, Node
from cni_py.model.words import describe
from cni_py.overlay.admit import Admission
from cni_py.overlay.own import own_node
from cni_py.overlay.select import plan


def read_routes(config: str) -> list[dict[str, Any]]:
    """The overlay's routes in the kernel, each with the peer whose network it leads to."""
    nodes = DiskMemory(read_settings(config)).recall()
    owners = {cidr: node for node in nodes.values() for cidr in node.cidrs}
    kernel = OverlayKernel()
    try:
        state = kernel.read(DEVICES)
    finally:
        kernel.close()
    return [_describe(route, state, owners.get(route.dst)) for route in sorted(state.routes, key=_order)]


def planned(config: str) -> list[str]:
    """The steps from what the kernel holds to what it should. Raises CniPyError where that is not known."""
    settings = read_settings(config)
    who, network = identity(settings), settings.network.network()
    nodes = DiskMemory(settings).recall()
    said = nodes.get(who.name)
    if said is None:
        raise UnavailableError(
            f"nobody has said yet which pod networks {who.name} has", "start the agent: cni-py status"
        )
    kernel = OverlayKernel()
    try:
        link = who.interface or kernel.find_underlay(who.addresses(said))
        underlay = kernel.underlay(link) if link else None
        if underlay is None:
            raise UnavailableError(f"the link {link or 'to other nodes'} is down or not there", "bring it up")
        known = facts(underlay, possible_backends())
        own = own_node(who, said, network, known)
        desired = plan(own, list(Admission(network).admit(own, nodes).peers.values()), network, known)
        return [describe(op) for op in converge(desired, kernel.read(DEVICES, desired))]
    finally:
        kernel.close()


def table(routes: list[dict[str, Any]]) -> list[list[str]]:
    """For a terminal."""
    head = ["PODS", "PEER", "BY", "DEVICE", "TO", "MTU"]
    return [head, *([str(one[key.lower()] or "-") for key in head] for one in routes)]


def _describe(route: LinkRoute, state: NodeState, peer: Node | None) -> dict[str, Any]:
    by, to = _way(route, state)
    link = state.link("host", route.link)
    return {
        "pods": str(route.dst),
        "peer": peer.name if peer is not None else "",
        "by": by,
        "device": route.link,
        "to": to,
        "mtu": route.mtu or (link.mtu if link is not None else 0),
        "metric": route.priority,
    }


def _way(route: LinkRoute, state: NodeState) -> tuple[str, str]:
    """By which backend, and to which underlay address as the kernel has it: through neighbour and entry with VXLAN."""
    if route.kind == "unreachable":
        return "unreachable", ""
    if route.encap is not None:
        return "gpe", str(route.encap.dst)
    if route.link == SEGMENT:
        return "l2", "everybody"
    if route.link not in DEVICES:
        return "plain", str(route.gw or "")
    macs = {(one.link, one.address): one.mac for one in state.neighbours}
    ends = {(one.link, one.mac): str(one.dst) for one in state.fdb}
    mac = macs.get((route.link, route.gw), "") if route.gw is not None else ""
    return "vxlan", ends.get((route.link, mac), "no way: its neighbour or forwarding entry is missing")


def _order(route: LinkRoute) -> tuple[bool, int, int]:
    return route.kind == "unreachable", route.dst.version, int(route.dst.network_address)
