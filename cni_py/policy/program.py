"""What the policy table of one node is to hold, kept up to date: each change of the cluster becomes one transaction.

Only what the pods of this node need is in the table: chains that one of them has, sets that such a chain looks into.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cni_py.model.nft import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    FlushChain,
    FlushSet,
    Operation,
)
from cni_py.model.nft_expr import Range, Scalar, Verdict
from cni_py.model.nft_objects import Element, Set
from cni_py.model.policy import CIDR, DIRECTIONS, Address, Direction, IpBlock, Pods, Policy
from cni_py.policy import table
from cni_py.policy.cidrs import union
from cni_py.policy.compile import Blocks, Compiled, Needed, compile_chain, set_of
from cni_py.policy.index import Delta, Index, Move

_Key = tuple[Scalar, ...] | Range
_SPARE = 100  # chains that are remembered though no pod has them now


@dataclass(frozen=True, slots=True)
class Edit:
    """One transaction. `shrunk`: local addresses of which a policy allows less than before, or that are gone."""

    operations: tuple[Operation, ...] = ()
    shrunk: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class Contents:
    """All that is to be in the table beside its layout: elements of sets, and chains by name."""

    sets: Mapping[Set, Mapping[_Key, Element]]
    chains: Mapping[str, Compiled]


@dataclass(frozen=True, slots=True)
class _Local:
    """A pod of this node: its addresses and its chains; no chain where nothing restricts it."""

    addresses: tuple[Address, ...] = ()
    chains: tuple[Compiled | None, ...] = (None, None)  # in the order of DIRECTIONS
    links: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    """A transaction in the making."""

    new_sets: dict[Needed, None] = field(default_factory=dict)
    new_chains: dict[str, Compiled] = field(default_factory=dict)
    added: dict[Set, dict[_Key, Element]] = field(default_factory=dict)
    removed: dict[Set, dict[_Key, Element]] = field(default_factory=dict)
    shrunk: set[Address] = field(default_factory=set)

    def change(self, one: Set, before: Iterable[Element], after: Iterable[Element]) -> bool:
        """Of the elements of a set, some are others; True if one is gone."""
        old, new = {item.key: item for item in before}, {item.key: item for item in after}
        gone = {key: item for key, item in old.items() if new.get(key) != item}
        self.removed.setdefault(one, {}).update(gone)
        self.added.setdefault(one, {}).update({key: item for key, item in new.items() if old.get(key) != item})
        return bool(gone)


class Program:
    """The table of the node called `node`. `cidrs` are what its pods have their addresses from, of these `versions`.

    Without `cidrs` there is no gate: pods of which nothing is known yet are not told from others.
    """

    def __init__(
        self, index: Index, node: str, cidrs: Sequence[CIDR] = (), versions: Collection[int] = table.VERSIONS
    ) -> None:
        self._index = index
        self._node = node
        self._cidrs = tuple(cidrs)
        self._versions = tuple(versions)
        self._pods: dict[str, _Local] = {}
        self._chains: dict[str, Compiled] = {}
        self._pods_of: dict[str, set[str]] = {}  # by chain
        self._chains_of: dict[Needed, set[str]] = {}
        self._needs_of: dict[Pods, set[Needed]] = {}
        self.links: dict[str, tuple[str, ...]] = {}  # the host's ends of pods' veths; to be set before their update
        self.refused: dict[str, str] = {}  # chains that the kernel does not take, or we cannot make, and why
        self._compiled: dict[tuple[Direction, bool, tuple[str, ...]], tuple[tuple[Policy, ...], Compiled]] = {}

    def update(self, delta: Delta) -> Edit:
        """What the index told of its last change is in the program; the transaction that puts it into the table."""
        draft = _Draft()
        after = {key: self._local(key) for key in delta.pods if key in self._pods or self._is_here(key)}
        before = {key: self._pods.get(key, _Local()) for key in after}
        for key, local in after.items():
            self._acquire(key, local, draft)
        gone = self._release(before, after)
        if len(self._compiled) > 2 * len(self._chains) + _SPARE:
            used = {names: one for names, one in self._compiled.items() if one[1].chain.name in self._chains}
            self._compiled = used
        for pods, moves in delta.moves.items():
            self._move(pods, moves, draft)
        for key, local in after.items():
            self._replace(key, before[key], local, draft)
        if self.refused:
            wanted = {self._wanted(key, one) for key in self._pods for one in DIRECTIONS}
            self.refused = {name: why for name, why in self.refused.items() if name in wanted}
        return Edit(tuple(self._operations(draft, gone)), frozenset(draft.shrunk))

    def serve(self, cidrs: tuple[CIDR, ...]) -> tuple[Operation, ...]:
        """Pods of this node have their addresses from these, from now on; the transaction for it."""
        if cidrs == self._cidrs:
            return ()
        self._cidrs = cidrs
        operations: list[Operation] = []
        for local in table.LOCAL.values():
            wanted = self._gate(local)
            operations += [FlushSet(local), *([AddElements(local, tuple(wanted.values()))] if wanted else [])]
        return tuple(operations)

    def refuse(self, chains: Mapping[str, str]) -> None:
        """The kernel does not take these chains, and why: the pods that have them are closed in that direction."""
        self.refused.update(chains)
        concerned = {key for chain in chains for key in self._pods_of.get(chain, ())}
        self.update(Delta(pods=concerned))

    def contents(self) -> Contents:
        """All that is to be in the table."""
        sets: dict[Set, dict[_Key, Element]] = {one: {} for one in table.STATIC_SETS}
        for local in table.LOCAL.values():
            sets[local] = self._gate(local)
        for one, numbers in ((table.ND, table.NEIGHBOUR_DISCOVERY), (table.PORTED, table.WITH_PORTS)):
            sets[one] = {(number,): Element((number,)) for number in numbers}
        for local_pod in self._pods.values():
            for one, element in _own_elements(local_pod):
                sets[one][element.key] = element
        for need in self._chains_of:
            sets[set_of(need)] = {element.key: element for element in self._elements(need)}
        return Contents(sets, dict(self._chains))

    def addresses(self) -> frozenset[Address]:
        """Those of the pods of this node."""
        return frozenset(address for local in self._pods.values() for address in local.addresses)

    def pods(self) -> frozenset[str]:
        """The pods of this node that are in the table."""
        return frozenset(self._pods)

    @property
    def size(self) -> int:
        """How many chains there are."""
        return len(self._chains)

    def chains(self, key: str) -> tuple[Compiled | None, ...]:
        """The chains of a pod of this node, in the order of DIRECTIONS."""
        return self._pods.get(key, _Local()).chains

    def _gate(self, local: Set) -> dict[_Key, Element]:
        """What is in one of the sets of local addresses."""
        blocks = tuple(IpBlock(one) for one in self._cidrs)
        version = next(version for version, one in table.LOCAL.items() if one == local)
        return {one: Element(one) for one in union(blocks, version)}

    def _local(self, key: str) -> _Local:
        """How the pod is to be; without addresses if it is none of this node's."""
        if not self._is_here(key):
            return _Local()
        addresses = self._index.member(key).addresses
        if not addresses:
            return _Local()
        return _Local(addresses, tuple(self._chain(key, one) for one in DIRECTIONS), self.links.get(key, ()))

    def _is_here(self, key: str) -> bool:
        pod = self._index.pods.get(key)
        return key in self._index.attached or (pod is not None and pod.node == self._node)

    def _chain(self, key: str, direction: Direction) -> Compiled | None:
        policies, audit = self._index.policies_of(key, direction)
        if not policies:
            return None
        names = direction, audit, tuple(one.key for one in policies)
        known = self._compiled.get(names)
        if known is None or any(one is not other for one, other in zip(known[0], policies, strict=True)):
            known = self._compiled[names] = policies, self._compile(policies, direction, audit=audit)
        return known[1] if known[1].chain.name not in self.refused else _closed(direction)

    def _wanted(self, key: str, direction: Direction) -> str:
        """By what name the chain of a pod would be refused."""
        policies, audit = self._index.policies_of(key, direction)
        names = tuple(one.key for one in policies)
        known = self._compiled.get((direction, audit, names))
        failed = _label(direction, names)
        return failed if known is None or failed in self.refused else known[1].chain.name

    def _compile(self, policies: tuple[Policy, ...], direction: Direction, *, audit: bool) -> Compiled:
        try:
            return compile_chain(policies, direction, audit=audit, versions=self._versions)
        except Exception as error:  # noqa: BLE001  # a bug of ours neither lets packets pass nor fails other pods
            label = _label(direction, tuple(one.key for one in policies))
            self.refused[label] = f"unexpected {type(error).__name__}: {error}"
            return _closed(direction)

    def _acquire(self, key: str, local: _Local, draft: _Draft) -> None:
        for chain in local.chains:
            if chain is None:
                continue
            name = chain.chain.name
            if name not in self._chains:
                self._chains[name] = draft.new_chains[name] = chain
                for need in chain.needs:
                    if need not in self._chains_of:
                        draft.new_sets[need] = None
                        if not isinstance(need, Blocks):
                            self._needs_of.setdefault(need.pods, set()).add(need)
                    self._chains_of.setdefault(need, set()).add(name)
            self._pods_of.setdefault(name, set()).add(key)

    def _release(
        self, before: Mapping[str, _Local], after: Mapping[str, _Local]
    ) -> tuple[list[Compiled], list[Needed]]:
        """The chains and the sets that nobody has any more."""
        chains: list[Compiled] = []
        needs: list[Needed] = []
        for key, local in before.items():
            kept = {chain.chain.name for chain in after[key].chains if chain is not None}
            for chain in local.chains:
                if chain is None or chain.chain.name in kept:
                    continue
                users = self._pods_of[chain.chain.name]
                users.discard(key)
                if users:
                    continue
                del self._pods_of[chain.chain.name], self._chains[chain.chain.name]
                chains.append(chain)
                for need in chain.needs:
                    self._chains_of[need].discard(chain.chain.name)
                    if not self._chains_of[need]:
                        del self._chains_of[need]
                        needs.append(need)
                        self._unneed(need)
        return chains, needs

    def _unneed(self, need: Needed) -> None:
        if not isinstance(need, Blocks):
            self._needs_of[need.pods].discard(need)
            if not self._needs_of[need.pods]:
                del self._needs_of[need.pods]

    def _move(self, pods: Pods, moves: Mapping[str, Move], draft: _Draft) -> None:
        """Pods come into the sets of a selector, go out, or change in them."""
        for need in self._needs_of.get(pods, ()):
            if need in draft.new_sets or isinstance(need, Blocks):
                continue
            before = [one for old, _ in moves.values() if old is not None for one in need.elements(old)]
            after = [one for _, new in moves.values() if new is not None for one in need.elements(new)]
            if draft.change(set_of(need), before, after):
                users = (key for chain in self._chains_of[need] for key in self._pods_of[chain])
                draft.shrunk.update(address for key in users for address in self._pods.get(key, _Local()).addresses)

    def _replace(self, key: str, before: _Local, after: _Local, draft: _Draft) -> None:
        """The pod's own elements: readiness, and the ways into its chains."""
        old: dict[Set, list[Element]] = {}
        new: dict[Set, list[Element]] = {}
        for one, element in _own_elements(before):
            old.setdefault(one, []).append(element)
        for one, element in _own_elements(after):
            new.setdefault(one, []).append(element)
        for one in old.keys() | new.keys():
            draft.change(one, old.get(one, ()), new.get(one, ()))
        draft.shrunk.update(set(before.addresses) - set(after.addresses))
        if any(_shrinks(*pair) for pair in zip(before.chains, after.chains, strict=True)):
            draft.shrunk.update(after.addresses)
        if after.addresses:
            self._pods[key] = after
        else:
            self._pods.pop(key, None)

    def _elements(self, need: Needed) -> Iterable[Element]:
        if isinstance(need, Blocks):
            return (Element(one) for one in need.ranges)
        return (element for member in self._index.members(need.pods) for element in need.elements(member))

    def _operations(self, draft: _Draft, gone: tuple[list[Compiled], list[Needed]]) -> Iterable[Operation]:
        """In the order in which one thing can refer to the next: nothing is pointed to that is not there."""
        for need in draft.new_sets:
            yield AddSet(set_of(need))
            if elements := tuple(self._elements(need)):
                yield AddElements(set_of(need), elements)
        for chain in draft.new_chains.values():
            yield AddChain(chain.chain)
            yield from (AddRule(rule) for rule in chain.rules)
        for one, removed in draft.removed.items():
            added = draft.added[one]
            if elements := tuple(item for key, item in removed.items() if added.get(key) != item):
                yield DeleteElements(one, elements)
        for one, added in draft.added.items():
            removed = draft.removed[one]
            if elements := tuple(item for key, item in added.items() if removed.get(key) != item):
                yield AddElements(one, elements)
        chains, needs = gone
        yield from (FlushChain(one.chain) for one in chains)
        yield from (DeleteChain(one.chain) for one in chains)
        yield from (DeleteSet(set_of(one)) for one in needs)


def _link_elements(local: _Local) -> Iterable[tuple[Set, Element]]:
    chain = local.chains[DIRECTIONS.index("egress")]
    if chain is not None:
        yield from ((table.LINKS, Element((link,), Verdict("jump", chain.chain.name))) for link in local.links)


def _label(direction: Direction, names: tuple[str, ...]) -> str:
    return f"{direction} of {', '.join(names)}"


def _closed(direction: Direction) -> Compiled:
    """A chain that lets nothing pass."""
    return compile_chain((), direction, audit=False)


def _own_elements(local: _Local) -> Iterable[tuple[Set, Element]]:
    """What a pod of this node has for itself: it is ready, may talk to itself, and has its chains."""
    for address in local.addresses:
        yield table.READY[address.version], Element((address,))
        yield table.OWN[address.version], Element((address, address))
        for direction, chain in zip(DIRECTIONS, local.chains, strict=True):
            if chain is not None:
                yield table.MAPS[direction][address.version], Element((address,), Verdict("jump", chain.chain.name))
    yield from _link_elements(local)


def _shrinks(before: Compiled | None, after: Compiled | None) -> bool:
    """True unless all that the chain before let through, the one after does: what it lacks, or that there is one."""
    if after is None or (before is not None and before.chain == after.chain):
        return False
    if before is None:
        return True
    return not {one.expressions for one in before.rules} <= {one.expressions for one in after.rules}
