"""The policy table in the kernel: all of it made to be as it should, or one change; over a socket of its own.

The table is read back before it is mended, and only what differs is written, in one transaction: a restart of the
agent changes nothing for packets, and what is right is left alone with its counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cni_py.kernel import nft, nft_rules, nft_wire
from cni_py.kernel.netlink import NetlinkSocket
from cni_py.model.errors import CniPyError
from cni_py.model.nft import (
    MARKER_PREFIX,
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    Change,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DestroyTable,
    FlushChain,
    FlushSet,
    Layout,
    Operation,
    rules_first,
)
from cni_py.model.nft_expr import Range, Scalar
from cni_py.model.nft_objects import Chain, Element, Rule, Set

# What is to be in the table beside its layout: elements by set and key, and the rules of chains.
Sets = Mapping[Set, Mapping[tuple[Scalar, ...] | Range, Element]]
Chains = Mapping[Chain, Sequence[Rule]]


@dataclass(frozen=True, slots=True)
class Mended:
    """How many chains were written, and elements added and removed, to make the table what it should be."""

    chains: int = 0
    added: int = 0
    removed: int = 0

    def __bool__(self) -> bool:
        return (self.chains, self.added, self.removed) != (0, 0, 0)


class PolicyTable:
    """The table of `layout` in the namespace in which this is made. All methods raise CniPyError.

    `connect` is a seam, at which tests make the kernel fail.
    """

    def __init__(self, layout: Layout, connect: Callable[[], NetlinkSocket] = nft.connect) -> None:
        self._layout = layout
        self._socket = connect()

    @property
    def socket(self) -> NetlinkSocket:
        """The nfnetlink socket, by whose port the kernel says who changed something."""
        return self._socket

    def close(self) -> None:
        """The socket is gone, the table stays."""
        self._socket.close()

    def is_there(self) -> bool:
        """True if the table is."""
        return nft.table_exists(self._socket, self._layout.table)

    def commit(self, operations: Sequence[Operation]) -> None:
        """One transaction, all or nothing; the table must be there."""
        if operations:
            nft.commit(self._socket, Change((), tuple(operations)))

    def load(self, sets: Sets, chains: Chains) -> Mended:
        """The table holds exactly this, in its layout; sets that packets fill keep what they have."""
        mended, operations, rebuild = self._plan(sets, chains)
        if mended:
            layouts = (self._layout,)
            first, rest = (operations, ()) if not self.is_there() else rules_first(operations)
            nft.commit(self._socket, Change(layouts, first), rebuild=layouts if rebuild else (), look=True)
            self.commit(rest)
        return mended

    def differences(self, sets: Sets, chains: Chains) -> Mended:
        """What `load` would mend; nothing is changed."""
        return self._plan(sets, chains)[0]

    def problem(self, sets: Sets, chain: Chain, rules: Sequence[Rule]) -> str:
        """Why the kernel does not take a chain and the sets that it looks into; "" if it does, and has them now."""
        there = self._set_names()
        new = {one: tuple(elements.values()) for one, elements in sets.items() if one.name not in there}
        operations: list[Operation] = [AddSet(one) for one in new]
        operations += (AddElements(one, elements) for one, elements in new.items() if elements)
        operations += [AddChain(chain), FlushChain(chain), *map(AddRule, rules)]
        try:
            self.commit(operations)
        except CniPyError as error:
            return error.message
        return ""

    def hits(self) -> dict[str, int]:
        """How many packets each commented rule has let pass, by its comment."""
        return nft_rules.hits(self._socket, self._layout.table)

    def packets(self, one: Set, key: tuple[Scalar, ...]) -> int:
        """The count of an element of a set that packets fill; 0 if it is not there."""
        return nft.packets(self._socket, one, Element(key))

    def _plan(self, sets: Sets, chains: Chains) -> tuple[Mended, tuple[Operation, ...], bool]:
        """What is to be mended, by which operations, and whether the layout is to be written anew."""
        if not self.is_there():
            mended = Mended(len(chains) + len(self._layout.chains), sum(map(len, sets.values())))
            return mended, _all(sets, chains, self._layout), True
        operations = list[Operation]()
        rules = nft_rules.rules(self._socket, self._layout.table)
        names = nft_rules.chains(self._socket, self._layout.table)
        there = self._set_names()
        wrong = [one for one, wanted in chains.items() if not nft_rules.are(rules.get(one.name, ()), wanted)]
        added = removed = 0
        operations += (AddSet(one) for one in sets if one.name not in there)
        for chain in wrong:
            operations += [AddChain(chain), FlushChain(chain), *(AddRule(rule) for rule in chains[chain])]
        for one, wanted in sets.items():
            seen = nft.elements(self._socket, one) if one.name in there else ()
            steps, gained, lost = _differences(one, seen, wanted)
            operations += steps
            added, removed = added + gained, removed + lost
        kept = {one.name for one in (*chains, *self._layout.chains)}
        stray = [Chain(self._layout.table, name) for name in sorted(names - kept)]
        operations += (FlushChain(one) for one in stray)
        operations += (DeleteChain(one) for one in stray)
        standing = {one.name for one in (*sets, *self._layout.sets)}
        unused = (name for name in sorted(there - standing) if not name.startswith(MARKER_PREFIX))
        operations += (DeleteSet(Set(self._layout.table, name, ())) for name in unused)
        rebuild = self._layout_is_wrong(rules) or self._layout.marker.name not in there
        count = len(wrong) + len(stray) + (len(self._layout.chains) if rebuild else 0)
        return Mended(count, added, removed), tuple(operations), rebuild

    def remove(self) -> bool:
        """The table is gone; True if it was there."""
        if not nft.table_exists(self._socket, self._layout.table):
            return False
        nft.commit(self._socket, Change((), (DestroyTable(self._layout.table),)))
        return True

    def elements(self, one: Set) -> tuple[Element, ...]:
        """What is in a set."""
        return nft.elements(self._socket, one)

    def generation(self) -> int:
        """A number that is another after each transaction of anybody."""
        return nft.generation(self._socket)

    def _set_names(self) -> set[str]:
        return {nft_wire.decode_set_name(one) for one in nft.read(self._socket, nft_wire.dump_sets(self._layout.table))}

    def _layout_is_wrong(self, rules: Mapping[str, list[bytes]]) -> bool:
        by_chain: dict[str, list[Rule]] = {one.name: [] for one in self._layout.chains}
        for rule in self._layout.rules:
            by_chain[rule.chain.name].append(rule)
        return not all(nft_rules.are(rules.get(name, ()), wanted) for name, wanted in by_chain.items())


def _all(sets: Sets, chains: Chains, layout: Layout) -> tuple[Operation, ...]:
    """Into a table that has nothing but its layout."""
    standing = set(layout.sets)
    return (
        *(AddSet(one) for one in sets if one not in standing),
        *(AddChain(one) for one in chains),
        *(AddRule(rule) for rules in chains.values() for rule in rules),
        *(AddElements(one, tuple(elements.values())) for one, elements in sets.items() if elements),
    )


def _differences(
    one: Set, seen: Iterable[Element], wanted: Mapping[tuple[Scalar, ...] | Range, Element]
) -> tuple[list[Operation], int, int]:
    """The operations that make the set so, and how many elements they add and remove."""
    there = {element.key: element for element in seen}
    missing = tuple(element for key, element in wanted.items() if there.get(key) != element)
    stray = tuple(element for key, element in there.items() if wanted.get(key) != element)
    if not missing and not stray:
        return [], 0, 0
    if one.interval:  # ranges may lie across each other: all at once
        add = [AddElements(one, tuple(wanted.values()))] if wanted else []
        return [FlushSet(one), *add], len(missing), len(stray)
    operations: list[Operation] = [DeleteElements(one, stray)] if stray else []
    return operations + ([AddElements(one, missing)] if missing else []), len(missing), len(stray)
