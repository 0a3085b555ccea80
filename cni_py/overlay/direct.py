"""Plain routes to the peers on the link, a tunnel to all others."""

from collections.abc import Sequence
from dataclasses import replace

from cni_py.model.net import NodeState
from cni_py.model.overlay import Facts, Network, Node
from cni_py.overlay import gpe, vxlan
from cni_py.overlay.backend import need
from cni_py.overlay.hostgw import plain_route


def direct(node: Node, peers: Sequence[Node], network: Network, facts: Facts) -> NodeState:
    """The backend `direct`. The tunnel's link is there even if nobody needs it now: a peer that moves finds it."""
    need("direct", facts)
    found = [(peer, [(cidr, plain_route(cidr, peer, facts)) for cidr in peer.cidrs]) for peer in peers]
    plain = [route for _, ranges in found for _, route in ranges if route is not None]
    beyond = [(peer, [cidr for cidr, route in ranges if route is None]) for peer, ranges in found]
    tunnels = vxlan.tunnels if network.beyond == "vxlan" else gpe.tunnels
    state = tunnels(node, beyond, network, facts)
    return replace(state, routes=(*state.routes, *plain))
