"""Which of the nodes that a source names are believed: each claim is held against the network, this node, the others.

A pod network that is another's is refused, the older owner keeps it. Who was there first is what was admitted before;
among those that are new the source's own order (`Node.since`), then the name.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from cni_py.model.overlay import Network, Node
from cni_py.model.result import IPAddress, IPNetwork

_Span = tuple[int, int, str]  # the first address, the last, whose


@dataclass(frozen=True, slots=True)
class Admitted:
    """`peers` by name, with the pod networks that are theirs; `refused`: {name: what is not believed of it and why}."""

    peers: Mapping[str, Node] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Admission:
    """Remembers who has what. Not for several threads at once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._own: Node | None = None
        self._nodes: dict[str, Node] = {}  # as they claim, those that were looked at
        self._peers: dict[str, Node] = {}  # as admitted
        self._refused: dict[str, str] = {}
        self._ranges = _Ranges()
        self._owners: dict[object, str] = {}  # of underlay addresses and MACs

    def admit(self, own: Node, nodes: Mapping[str, Node]) -> Admitted:
        """The peers among `nodes`, which may hold this node as well.

        Costs what changed since the last call, as long as nothing is refused: then all claims are looked at again.
        """
        changed = [name for name, node in nodes.items() if self._nodes.get(name) is not node and name != own.name]
        gone = [name for name in self._nodes if name not in nodes]
        if own != self._own or self._refused:
            changed = [name for name in nodes if name != own.name]
            self._own = own
        before = {name: self._peers[name] for name in (*changed, *gone) if name in self._peers}
        for name in (*changed, *gone):
            self._release(name)
        for name in sorted(changed, key=lambda name: _seniority(nodes[name], before.get(name))):
            self._claim(own, nodes[name], before.get(name))
        return Admitted(dict(self._peers), dict(self._refused))

    def _release(self, name: str) -> None:
        self._nodes.pop(name, None)
        self._refused.pop(name, None)
        node = self._peers.pop(name, None)
        if node is None:
            return
        for cidr in node.cidrs:
            self._ranges.discard(cidr, name)
        for thing in _identities(node):
            self._owners.pop(thing, None)

    def _claim(self, own: Node, node: Node, before: Node | None) -> None:
        self._nodes[node.name] = node
        problem = self._problem(own, node)
        if problem:
            self._refused[node.name] = problem
            return
        # What it had comes first, so that of two ranges of its own that overlap the old one stays.
        had = before.cidrs if before is not None else ()
        taken: list[IPNetwork] = []
        reasons: list[str] = []
        for cidr in sorted(node.cidrs, key=lambda cidr: cidr not in had):
            reason = self._range_problem(own, cidr)
            if reason:
                reasons.append(reason)
            else:
                self._ranges.add(cidr, node.name)
                taken.append(cidr)
        if reasons:
            self._refused[node.name] = "; ".join(reasons)
        if not taken:
            return
        for thing in _identities(node):
            self._owners[thing] = node.name
        kept = tuple(cidr for cidr in node.cidrs if cidr in taken)
        self._peers[node.name] = node if kept == node.cidrs else replace(node, cidrs=kept)

    def _problem(self, own: Node, node: Node) -> str:
        """Why nothing of the node can be believed, "" if there is no such reason."""
        for thing in _identities(node):
            if thing in _identities(own):
                return f"{thing} is this node's own"
            if thing in self._owners:
                return f"{thing} is that of {self._owners[thing]}"
        for address in (node.ip4, node.ip6):
            if address is not None and any(address in cidr for cidr in self._network.cidrs):
                return f"{address} is within the pod network: the tunnel would lead into itself"
        return ""

    def _range_problem(self, own: Node, cidr: IPNetwork) -> str:
        if not any(_within(cidr, whole) for whole in self._network.cidrs):
            return f"{cidr} is not within the network's {', '.join(map(str, self._network.cidrs))}"
        for mine in own.cidrs:
            if _within(cidr, mine) or _within(mine, cidr):
                return f"{cidr} overlaps with {mine}, which is this node's own"
        owner = self._ranges.owner(cidr)
        return f"{cidr} is that of {owner}, which had it first" if owner else ""


def _seniority(node: Node, before: Node | None) -> tuple[bool, int, str]:
    return before is None or before.uid != node.uid, node.since, node.name


def _identities(node: Node) -> Iterator[IPAddress | str]:
    """What no two nodes have."""
    if node.ip4 is not None:
        yield node.ip4
    if node.ip6 is not None:
        yield node.ip6
    yield node.mac
    if node.mac6:
        yield node.mac6


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    return int(inner.network_address) >> (inner.max_prefixlen - outer.prefixlen) == int(outer.network_address) >> (
        outer.max_prefixlen - outer.prefixlen
    )


class _Ranges:
    """Disjoint ranges and whose they are, in order; a question is a search among them."""

    def __init__(self) -> None:
        self._ordered: dict[int, list[_Span]] = {4: [], 6: []}

    def owner(self, cidr: IPNetwork) -> str:
        """Who has a range that overlaps with it, "" if nobody."""
        first, last, _ = _span(cidr, "")
        ordered = self._ordered[cidr.version]
        at = bisect_left(ordered, (first,))
        if at < len(ordered) and ordered[at][0] <= last:
            return ordered[at][2]
        return ordered[at - 1][2] if at and ordered[at - 1][1] >= first else ""

    def add(self, cidr: IPNetwork, owner: str) -> None:
        """It must overlap with none."""
        insort(self._ordered[cidr.version], _span(cidr, owner))

    def discard(self, cidr: IPNetwork, owner: str) -> None:
        """It is not that one's."""
        ordered, span = self._ordered[cidr.version], _span(cidr, owner)
        at = bisect_left(ordered, span)
        if at < len(ordered) and ordered[at] == span:
            del ordered[at]


def _span(cidr: IPNetwork, owner: str) -> tuple[int, int, str]:
    first = int(cidr.network_address)
    return first, first + (1 << (cidr.max_prefixlen - cidr.prefixlen)) - 1, owner
