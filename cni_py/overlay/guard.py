"""The table `inet cnipy_guard`: who may send tunnel packets to this node, and that pods send none to any.

A tunnel believes what it unpacks. So packets to its port are dropped unless they come from the underlay address of a
peer (input), and pods send none to this node (input) or, with this node's own address after masquerade, to another
(forward). Pods that run tunnels among themselves are not concerned. Addresses are elements of sets, so a change of
peers is one small transaction; the rules depend on nothing but the network.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from cni_py.model.attachment import HOST_PREFIX
from cni_py.model.nft import AddElements, Change, DiscardElements, Layout
from cni_py.model.nft_expr import DROP, Counter, DataType, Field, Lookup, Match, NameBegins, Range
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
# Routed pods by their own device, those of a segment by its bridge SEGMENT, whose name begins so for this.
_FROM_POD = NameBegins(Field.IIFNAME, HOST_PREFIX)


def sources(peers: Iterable[Node]) -> frozenset[IPAddress]:
    """The underlay addresses that tunnel packets may come from: those of the peers."""
    return frozenset(one for peer in peers for one in (peer.ip4, peer.ip6) if one is not None)


def layout(network: Network) -> Layout | None:
    """The table's standing part; None for a network without a tunnel."""
    used = {"vxlan": network.vxlan_port, "l2": network.vxlan_port, "gpe": network.gpe_port}
    ports = sorted({used[backend] for backend in network.backends if backend in used})
    if not ports:
        return None
    rules = [rule for port in ports for rule in _rules(port)]
    return Layout(GUARD, (PEERS4, PEERS6, PODS4, PODS6), (_INPUT, _FORWARD), tuple(rules))


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


def _rules(port: int) -> Iterable[Rule]:
    to = Match(Field.UDP_DPORT, port)
    yield Rule(_INPUT, (to, _FROM_POD, Counter(), DROP), "from a pod")
    yield Rule(_FORWARD, (to, _FROM_POD, Lookup((Field.IP_DADDR,), PEERS4.name), Counter(), DROP), "from a pod")
    yield Rule(_FORWARD, (to, _FROM_POD, Lookup((Field.IP6_DADDR,), PEERS6.name), Counter(), DROP), "from a pod")
    for source, destination, peers, pods in (
        (Field.IP_SADDR, Field.IP_DADDR, PEERS4, PODS4),
        (Field.IP6_SADDR, Field.IP6_DADDR, PEERS6, PODS6),
    ):
        yield Rule(_INPUT, (to, Lookup((source,), peers.name, negate=True), Counter(), DROP), "from no peer")
        both = (Lookup((source,), pods.name), Lookup((destination,), peers.name))
        yield Rule(_FORWARD, (to, *both, Counter(), DROP), "from a pod")
