"""The table `inet cnipy_guard`: who may send tunnel packets to this node, and that pods send none to any.

A tunnel believes what it unpacks. So packets to its port are dropped unless they come from the underlay address of a
peer (input), and pods send none to this node (input) or, with this node's own address after masquerade, to another
(forward). Pods that run tunnels among themselves are not concerned. Addresses are elements of sets, so a change of
peers is one small transaction; the rules depend on nothing but the network.

Every packet of every pod meets both base chains, so all that these ask is one port, whatever the protocol: of a round
trip of 8.5 us between pods of two nodes (six visits, no wire) that is 0.23 us, of which 0.18 are for base chains at
all. The sender of each tunnel packet costs as much again. A set of ports, or UDP first, would cost more.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from cni_py.model.attachment import HOST_PREFIX
from cni_py.model.nft import AddElements, Change, DiscardElements, Layout
from cni_py.model.nft_expr import (
    DROP,
    RETURN,
    UDP,
    Counter,
    DataType,
    Field,
    Lookup,
    Match,
    NameBegins,
    Range,
    Verdict,
)
from cni_py.model.nft_objects import Chain, Element, Hook, Rule, Set, Table
from cni_py.model.overlay import Network, Node
from cni_py.model.result import IPAddress

GUARD = Table("inet", "cnipy_guard")
PEERS4, PEERS6 = Set(GUARD, "peers4", (DataType.IPV4,)), Set(GUARD, "peers6", (DataType.IPV6,))
PODS4 = Set(GUARD, "pods4", (DataType.IPV4,), interval=True)
PODS6 = Set(GUARD, "pods6", (DataType.IPV6,), interval=True)

_BEFORE_FILTER = -10
_INPUT = Chain(GUARD, "guard_input", Hook("filter", "input", _BEFORE_FILTER))
_FORWARD = Chain(GUARD, "guard_forward", Hook("filter", "forward", _BEFORE_FILTER))
_TO_NODE, _THROUGH = Chain(GUARD, "to_node"), Chain(GUARD, "through_node")
# Routed pods by their own device, those of a segment by its bridge SEGMENT, whose name begins so for this.
_FROM_POD = NameBegins(Field.IIFNAME, HOST_PREFIX)


_DROP = (Counter(), DROP)
# For packets to the port of a tunnel.
_RULES = (
    *(Rule(chain, (Match(Field.L4PROTO, UDP, negate=True), RETURN)) for chain in (_TO_NODE, _THROUGH)),
    Rule(_TO_NODE, (_FROM_POD, *_DROP), "from a pod"),
    Rule(_TO_NODE, (Lookup((Field.IP_SADDR,), PEERS4.name, negate=True), *_DROP), "from no peer"),
    Rule(_TO_NODE, (Lookup((Field.IP6_SADDR,), PEERS6.name, negate=True), *_DROP), "from no peer"),
    Rule(_THROUGH, (_FROM_POD, Lookup((Field.IP_DADDR,), PEERS4.name), *_DROP), "from a pod"),
    Rule(_THROUGH, (_FROM_POD, Lookup((Field.IP6_DADDR,), PEERS6.name), *_DROP), "from a pod"),
    Rule(
        _THROUGH, (Lookup((Field.IP_SADDR,), PODS4.name), Lookup((Field.IP_DADDR,), PEERS4.name), *_DROP), "from a pod"
    ),
    Rule(
        _THROUGH,
        (Lookup((Field.IP6_SADDR,), PODS6.name), Lookup((Field.IP6_DADDR,), PEERS6.name), *_DROP),
        "from a pod",
    ),
)


def sources(peers: Iterable[Node]) -> frozenset[IPAddress]:
    """The underlay addresses that tunnel packets may come from: those of the peers."""
    return frozenset(one for peer in peers for one in (peer.ip4, peer.ip6) if one is not None)


def layout(network: Network) -> Layout | None:
    """The table's standing part; None for a network without a tunnel."""
    used = {"vxlan": network.vxlan_port, "l2": network.vxlan_port, "gpe": network.gpe_port}
    ports = sorted({used[backend] for backend in network.backends if backend in used})
    if not ports:
        return None
    chains = ((_INPUT, _TO_NODE), (_FORWARD, _THROUGH))
    rules = [
        Rule(base, (Match(Field.TH_DPORT, port), Verdict("goto", chain.name)))
        for base, chain in chains
        for port in ports
    ]
    return Layout(GUARD, (PEERS4, PEERS6, PODS4, PODS6), (_INPUT, _FORWARD, _TO_NODE, _THROUGH), (*rules, *_RULES))


def everything(network: Network, allowed: Iterable[IPAddress]) -> Change:
    """The whole table; nothing for a network without a tunnel."""
    found = layout(network)
    if found is None:
        return Change((), ())
    pods = {4: PODS4, 6: PODS6}
    return Change(
        (found,),
        (
            *(AddElements(pods[cidr.version], (Element(Range.of(cidr)),)) for cidr in network.cidrs),
            *_adding(allowed),
        ),
    )


def allow(network: Network, addresses: Iterable[IPAddress]) -> Change:
    """Packets from these come in as well: before anything leads to their nodes."""
    found = layout(network)
    return Change((found,) if found else (), tuple(_adding(addresses)) if found else ())


def forbid(network: Network, addresses: Iterable[IPAddress]) -> Change:
    """Packets from these do not come in any more: once nothing leads to their nodes."""
    found = layout(network)
    operations = (DiscardElements(one.set, one.elements) for one in _adding(addresses))
    return Change((found,) if found else (), tuple(operations) if found else ())


def _adding(addresses: Iterable[IPAddress]) -> Iterable[AddElements]:
    found = sorted(addresses, key=int)
    four = tuple(Element((one,)) for one in found if isinstance(one, IPv4Address))
    six = tuple(Element((one,)) for one in found if isinstance(one, IPv6Address))
    return [AddElements(of, elements) for of, elements in ((PEERS4, four), (PEERS6, six)) if elements]
