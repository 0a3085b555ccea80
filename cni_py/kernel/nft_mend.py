"""Our nftables made to hold what they should: what somebody flushed comes back, what is nobody's goes."""

from collections.abc import Sequence
from dataclasses import dataclass

from cni_py.kernel import nft
from cni_py.kernel.netlink import NetlinkSocket
from cni_py.model.nft import AddElements, Change, DiscardElements, FlushSet, Layout, Operation
from cni_py.model.nft_expr import Range, Scalar
from cni_py.model.nft_objects import Element, Set


@dataclass(frozen=True, slots=True)
class Mended:
    """How many chains or tables were written anew, and elements added and removed."""

    rebuilt: int = 0
    added: int = 0
    removed: int = 0


def mend(socket: NetlinkSocket, layouts: Sequence[Layout], wanted: Change) -> Mended:
    """The tables of `layouts` hold the elements that `wanted` adds and no others, under whole rules.

    `wanted` is all that all attachments of the node need (`cni.firewall.everything`). A table that nobody needs is
    gone. Raises CniPyError.
    """
    needed = {layout.table for layout in wanted.layouts}
    emptied = [one for one in layouts if one.table in needed and nft.emptied_chains(socket, one)]
    present = [one for one in layouts if nft.table_exists(socket, one.table)]
    operations, added, removed = _differences(socket, present, wanted)
    rebuilt = nft.commit(socket, Change(wanted.layouts, operations), rebuild=emptied)
    nft.remove_if_empty(socket, [layout for layout in layouts if layout.table not in needed])
    return Mended(len(emptied) or int(rebuilt), added, removed)


def _differences(
    socket: NetlinkSocket, present: Sequence[Layout], wanted: Change
) -> tuple[tuple[Operation, ...], int, int]:
    """The operations that make it so, and how many elements are added and removed by them."""
    desired = _elements(wanted)
    tables = {layout.table: layout for layout in present}
    sets = dict.fromkeys([*desired, *(one for layout in present for one in layout.sets)])
    operations: list[Operation] = []
    added = removed = 0
    for one in sets:
        seen = {element.key: element for element in nft.elements(socket, one)} if one.table in tables else {}
        want = desired.get(one, {})
        missing = tuple(element for key, element in want.items() if not _equal(seen.get(key), element))
        stray = tuple(element for element in seen.values() if not _equal(want.get(element.key), element))
        added, removed = added + len(missing), removed + len(stray)
        if one.interval and (missing or stray):  # ranges may lie across each other: all at once
            flush = (FlushSet(one),) if one.table in tables else ()
            operations += [*flush, *([AddElements(one, tuple(want.values()))] if want else [])]
            continue
        operations += [DiscardElements(one, stray)] if stray else []
        operations += [AddElements(one, missing)] if missing else []
    return tuple(operations), added, removed


def _elements(change: Change) -> dict[Set, dict[tuple[Scalar, ...] | Range, Element]]:
    found: dict[Set, dict[tuple[Scalar, ...] | Range, Element]] = {}
    for operation in change.operations:
        if isinstance(operation, AddElements):
            found.setdefault(operation.set, {}).update({element.key: element for element in operation.elements})
    return found


def _equal(one: Element | None, other: Element) -> bool:
    """A comment is for people: an element with another one does the same."""
    return one is not None and (one.key, one.value) == (other.key, other.value)
