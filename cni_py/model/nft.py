"""Operations on tables and what is in them: what one nftables transaction is made of.

Each operation has nft text that does the same under `nft -f`. Operations say what should be true, not how it was
before: adding what is there and discarding what is gone both succeed, on kernels before 6.3 as well, which have no
"destroy".

A `Layout` is what stands in a table however many pods there are: its sets, chains and rules. Its `marker`, an empty set
named after the hash of the layout, is in the table if and only if exactly this layout is: see `kernel.nft.commit`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cni_py.model.nft_expr import DataType
from cni_py.model.nft_objects import Chain, Element, Hook, Rule, Set, Table

# The objects are named here as well, for those who commit operations on them.
__all__ = [
    "MARKER_PREFIX",
    "AddChain",
    "AddElements",
    "AddRule",
    "AddSet",
    "AddTable",
    "Chain",
    "Change",
    "DeleteChain",
    "DeleteElements",
    "DeleteSet",
    "DestroyTable",
    "DiscardElements",
    "Element",
    "FlushChain",
    "FlushSet",
    "Hook",
    "Layout",
    "Operation",
    "RequireSet",
    "Rule",
    "Set",
    "Table",
    "joined",
    "render",
    "rules_first",
]

MARKER_PREFIX = "layout_"


@dataclass(frozen=True, slots=True)
class AddTable:
    """The table is there."""

    table: Table

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"add table {self.table.text()}"


@dataclass(frozen=True, slots=True)
class AddChain:
    """The chain is there; an existing one must have the same hook."""

    chain: Chain

    def text(self) -> str:
        """The command for `nft -f`."""
        hook = f" {self.chain.hook.text()}" if self.chain.hook else ""
        return f"add chain {self.chain.text()}{hook}"


@dataclass(frozen=True, slots=True)
class FlushChain:
    """The chain has no rules. It must exist."""

    chain: Chain

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"flush chain {self.chain.text()}"


@dataclass(frozen=True, slots=True)
class DeleteChain:
    """The chain is gone. It must exist, without rules, and nothing may refer to it."""

    chain: Chain

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"delete chain {self.chain.text()}"


@dataclass(frozen=True, slots=True)
class AddSet:
    """The set is there; an existing one must be of the same types."""

    set: Set

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"add {self.set.noun} {self.set.text()} {self.set.definition()}"


@dataclass(frozen=True, slots=True)
class DeleteSet:
    """The set is gone. It must exist, and no rule may refer to it."""

    set: Set

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"delete {self.set.noun} {self.set.text()}"


@dataclass(frozen=True, slots=True)
class RequireSet:
    """Nothing changes, and the whole transaction fails with ENOENT if the set is not there."""

    set: Set

    def text(self) -> str:
        """There is no such command; flushing a set that is empty anyway fails alike."""
        return f"flush {self.set.noun} {self.set.text()}"


@dataclass(frozen=True, slots=True)
class FlushSet:
    """The set has no elements. It must exist."""

    set: Set

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"flush {self.set.noun} {self.set.text()}"


@dataclass(frozen=True, slots=True)
class AddRule:
    """One more rule at the end of its chain, also if an equal one is there."""

    rule: Rule

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"add rule {self.rule.text()}"


@dataclass(frozen=True, slots=True)
class AddElements:
    """The elements are there. One whose key is there with another value fails the transaction (`ExistsError`)."""

    set: Set
    elements: tuple[Element, ...]

    def text(self) -> str:
        """The command for `nft -f`."""
        return f"add element {self.set.text()} {_elements(self.set, self.elements)}"


@dataclass(frozen=True, slots=True)
class DeleteElements:
    """The elements with these keys are gone. They must be there."""

    set: Set
    elements: tuple[Element, ...]

    def text(self) -> str:
        """The command for `nft -f`."""
        keys = ", ".join(element.key_text(self.set) for element in self.elements)
        return f"delete element {self.set.text()} {{ {keys} }}"


@dataclass(frozen=True, slots=True)
class DiscardElements:
    """The elements are not there: none with this key *and* this value. Another value under the key stays.

    Add, then delete, in one transaction: the portable way to delete what may be gone, and nobody sees the added one.
    """

    set: Set
    elements: tuple[Element, ...]

    def text(self) -> str:
        """Two commands for `nft -f`."""
        keys = ", ".join(element.key_text(self.set) for element in self.elements)
        added = f"add element {self.set.text()} {_elements(self.set, self.elements)}"
        return f"{added}\ndelete element {self.set.text()} {{ {keys} }}"


def _elements(of: Set, elements: tuple[Element, ...]) -> str:
    return f"{{ {', '.join(element.text(of) for element in elements)} }}"


@dataclass(frozen=True, slots=True)
class DestroyTable:
    """The table is not there, and nothing that was in it."""

    table: Table

    def text(self) -> str:
        """Two commands for `nft -f`, as `DiscardElements`."""
        return f"add table {self.table.text()}\ndelete table {self.table.text()}"


Operation = (
    AddTable
    | AddChain
    | FlushChain
    | DeleteChain
    | AddSet
    | DeleteSet
    | RequireSet
    | FlushSet
    | AddRule
    | AddElements
    | DeleteElements
    | DiscardElements
    | DestroyTable
)


def rules_first(operations: Sequence[Operation]) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
    """What is to be committed before the rest: all up to the last rule that is written.

    A packet on its way has the rules of when it came to its first chain, and the elements of when it looks them up:
    were a chain and the way to it of one transaction, it could take that way, find the chain empty, and pass.
    """
    end = max((at for at, one in enumerate(operations, 1) if isinstance(one, AddRule)), default=0)
    return tuple(operations[:end]), tuple(operations[end:])


def render(operations: Iterable[Operation]) -> str:
    """All operations as one file for `nft -f`: the dry run, and what `explain` shows."""
    return "".join(f"{operation.text()}\n" for operation in operations)


@dataclass(frozen=True)  # without slots: the marker costs 90 us and is kept in __dict__
class Layout:
    """The standing part of one table. All sets, chains and rules belong to `table`."""

    table: Table
    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]
    rules: tuple[Rule, ...]

    @cached_property
    def marker(self) -> Set:
        """The set whose presence says that this very layout is in the table."""
        digest = hashlib.sha256(render(self._parts()).encode()).hexdigest()[:12]
        return Set(self.table, f"{MARKER_PREFIX}{digest}", (DataType.MARK,))

    def build(self) -> tuple[Operation, ...]:
        """Afterwards the table has this layout, whatever it had before; elements that are in its sets stay there.

        Base chains are never re-created, only their rules are, so no packet passes an unhooked moment.
        """
        return (*self._parts(), AddSet(self.marker))

    def _parts(self) -> tuple[Operation, ...]:
        return (
            AddTable(self.table),
            *(AddSet(one) for one in self.sets),
            *(AddChain(one) for one in self.chains),
            *(FlushChain(one) for one in self.chains),
            *(AddRule(one) for one in self.rules),
        )


@dataclass(frozen=True, slots=True)
class Change:
    """Operations on the elements of these layouts; `kernel.nft.commit` builds what is missing of them first."""

    layouts: tuple[Layout, ...]
    operations: tuple[Operation, ...]


def joined(*changes: Change) -> Change:
    """All changes as one, for one transaction."""
    layouts = {layout.table: layout for change in changes for layout in change.layouts}
    return Change(tuple(layouts.values()), tuple(one for change in changes for one in change.operations))
