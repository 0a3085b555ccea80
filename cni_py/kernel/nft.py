"""Nftables transactions by raw nfnetlink: commit a change, read back our own sets, remove what is empty.

A transaction is all or nothing. Two things come in between, and both are survived without a lock or a listing:
- *A parallel ADD by another process.* Nothing is created "if missing" in two steps. Every transaction first requires
  the marker set of its layouts; when that fails, the same transaction is sent again with the whole layout in it, which
  is right whatever is there: `add` of tables, sets and chains keeps what exists, and the rules are flushed and written
  in the same transaction. Two processes may both do so; the second writes the same rules again.
- *`nft flush ruleset` by somebody else.* The marker went with the table, so the next commit builds the layout, and asks
  its caller (`restore`) for the elements of everything else that lives on the node.

A transaction that fails costs an RCU grace period (16 ms), one that succeeds 5 us: so a failure is the way of the first
ADD on a node, never of every ADD, and DEL looks first whether there is a table to discard from.

Only our own tables are read. No message depends on a kernel newer than 5.13.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from cni_py.kernel import nft_elements, nft_wire
from cni_py.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NetlinkError,
    NetlinkSocket,
    parse_attrs,
    with_flags,
)
from cni_py.model.errors import CniPyError, ExistsError, KernelError, MissingFeatureError
from cni_py.model.nft import (
    MARKER_PREFIX,
    AddChain,
    AddElements,
    AddRule,
    AddTable,
    Change,
    DeleteSet,
    DestroyTable,
    DiscardElements,
    Layout,
    Operation,
    RequireSet,
    joined,
)
from cni_py.model.nft_objects import Chain, Element, Set, Table

_ATTEMPTS = 20
_TEXT_LENGTH = 300
_ERESTART = 85
_FIRST_ATTRIBUTE = 20  # behind nlmsghdr and nfgenmsg
_ABSENT = {errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}
# An element to discard is not there, or its key has another value, or its range lies across others.
_NOT_THERE = {errno.ENOENT, errno.EBUSY, errno.EEXIST}
# Expressions of our rules that are modules of their own; the others are in nf_tables.
_MODULAR = {"ct", "fib", "log", "masq", "nat"}


class _Refused(Exception):  # noqa: N818  # says what the kernel did, and never leaves this module
    """The kernel refused `operation`, None for the transaction as a whole; `message` is what it was encoded as."""

    def __init__(self, operation: Operation | None, message: bytes, error: NetlinkError) -> None:
        super().__init__(str(error))
        self.operation = operation
        self.message = message
        self.error = error


def connect() -> NetlinkSocket:
    """A socket for this module's functions, in the network namespace that the thread is in."""
    try:
        return NetlinkSocket(NETLINK_NETFILTER)
    except OSError as error:
        raise MissingFeatureError(
            f"nftables: {error.strerror}", error.errno or errno.EIO, "load the kernel module nf_tables"
        ) from None


def commit(
    socket: NetlinkSocket,
    change: Change,
    restore: Callable[[], Change] | None = None,
    rebuild: Iterable[Layout] = (),
    *,
    look: bool = False,
) -> bool:
    """All of `change` is in the kernel, or CniPyError and nothing is.

    True if a layout had to be built. `restore` is called then, once, for the elements of all other living attachments;
    they go into the same transaction, before the change. The rules of `rebuild` are written anew in any case. `look`
    first whether the layouts are there, where that is in doubt: a transaction that fails costs a thousand times more.
    """
    missing: set[Table] = {layout.table for layout in rebuild}
    layouts, operations = change.layouts, _worthwhile(socket, change)
    absent = _absent(socket, layouts) if look else set()
    if absent and restore is not None:
        both = joined(restore(), Change(layouts, operations))
        layouts, operations = both.layouts, both.operations
        absent = _absent(socket, layouts)
    missing |= absent
    attempts = _ATTEMPTS
    while attempts:
        try:
            _run(socket, (*_foundation(socket, layouts, missing), *operations))
        except _Refused as refused:
            operation, number = refused.operation, refused.error.errno
            if isinstance(operation, DiscardElements) and number in _NOT_THERE:
                operations = _without(operations, operation, number)  # fewer each time, so this ends
                continue
            if isinstance(operation, RequireSet) and number == errno.ENOENT:
                if not missing and restore is not None:
                    both = joined(restore(), Change(layouts, operations))
                    layouts, operations = both.layouts, both.operations
                missing.add(operation.set.table)
                missing |= _absent(socket, layouts)
            elif not (isinstance(operation, DeleteSet) and number == errno.ENOENT):  # somebody was faster
                raise _explain(socket, refused) from None
            attempts -= 1
            continue
        return bool(missing)
    raise KernelError("nftables: somebody else changes our tables without pause", errno.EAGAIN, "try again")


def _absent(socket: NetlinkSocket, layouts: Iterable[Layout]) -> set[Table]:
    """The tables of which this very layout is not there."""
    return {one.table for one in layouts if not read(socket, nft_wire.get_set(one.marker))}


def generation(socket: NetlinkSocket) -> int:
    """A number that is another after each transaction of anybody."""
    return nft_wire.decode_generation(socket.request(nft_wire.get_generation())[0])


def table_exists(socket: NetlinkSocket, table: Table) -> bool:
    """True if the table is there."""
    return bool(read(socket, nft_wire.get_table(table)))


def emptied_chains(socket: NetlinkSocket, layout: Layout) -> tuple[Chain, ...]:
    """The chains with fewer rules than the layout gives them: somebody flushed them. None if the table is not there.

    A marker does not show that, as `nft flush table` leaves sets alone.
    """
    if not table_exists(socket, layout.table):
        return ()
    seen = Counter(nft_wire.decode_rule_chain(one) for one in read(socket, nft_wire.dump_rules(layout.table)))
    wanted = Counter(rule.chain.name for rule in layout.rules)
    return tuple(chain for chain in layout.chains if seen[chain.name] < wanted[chain.name])


def elements(socket: NetlinkSocket, one: Set) -> tuple[Element, ...]:
    """The elements of one of our sets, in no order but that of ranges; none if the set is not there."""
    return nft_elements.decode_elements(one, read(socket, nft_wire.dump_elements(one)))


def element(socket: NetlinkSocket, one: Set, wanted: Element) -> Element | None:
    """The element with the key of `wanted`, or None. Not for interval sets."""
    return next(iter(nft_elements.decode_elements(one, read(socket, nft_wire.get_element(one, wanted)))), None)


def packets(socket: NetlinkSocket, one: Set, wanted: Element) -> int:
    """The count of the element with the key of `wanted`; 0 if it is not there, or has none."""
    return nft_elements.decode_packets(read(socket, nft_wire.get_element(one, wanted)))


def remove_if_empty(socket: NetlinkSocket, layouts: Iterable[Layout]) -> tuple[Table, ...]:
    """The tables among `layouts` whose sets hold no element are gone; returns those.

    Safe beside an ADD: the removal is void if any transaction was committed after the sets were found empty.
    """
    removed: list[Table] = []
    for layout in layouts:
        for _ in range(_ATTEMPTS):
            before = generation(socket)
            if not table_exists(socket, layout.table) or any(elements(socket, one) for one in layout.sets):
                break
            try:
                _run(socket, (DestroyTable(layout.table),), before)
            except _Refused as refused:
                if refused.error.errno != _ERESTART:
                    raise _explain(socket, refused) from None
                continue
            removed.append(layout.table)
            break
    return tuple(removed)


def _foundation(socket: NetlinkSocket, layouts: Sequence[Layout], missing: set[Table]) -> tuple[Operation, ...]:
    operations: list[Operation] = []
    for layout in layouts:
        if layout.table not in missing:
            operations.append(RequireSet(layout.marker))
            continue
        names = (nft_wire.decode_set_name(one) for one in read(socket, nft_wire.dump_sets(layout.table)))
        stale = (name for name in names if name.startswith(MARKER_PREFIX) and name != layout.marker.name)
        operations += (DeleteSet(Set(layout.table, name, layout.marker.key)) for name in stale)
        operations += layout.build()
    return tuple(operations)


def _worthwhile(socket: NetlinkSocket, change: Change) -> tuple[Operation, ...]:
    """The operations without discards from tables that are not there and that the change does not make."""
    made = {one.table for one in change.layouts} | {one.table for one in change.operations if isinstance(one, AddTable)}
    discarding = {one.set.table for one in change.operations if isinstance(one, DiscardElements)}
    gone = {one for one in discarding - made if not table_exists(socket, one)}
    return tuple(one for one in change.operations if not (isinstance(one, DiscardElements) and one.set.table in gone))


def _without(operations: tuple[Operation, ...], refused: DiscardElements, number: int) -> tuple[Operation, ...]:
    """The operations without what need not be discarded: ENOENT, the set is gone; else the key has another value."""
    kept: list[Operation] = []
    for operation in operations:
        if isinstance(operation, DiscardElements) and operation.set == refused.set:
            if number == errno.ENOENT or (operation is refused and len(refused.elements) == 1):
                continue
            kept += [DiscardElements(operation.set, (one,)) for one in operation.elements]
        else:
            kept.append(operation)
    return tuple(kept)


def read(socket: NetlinkSocket, request: bytes) -> list[bytes]:
    """The answers to a request; none if what is asked for is not there. Raises KernelError."""
    try:
        return socket.request(request)
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return []
        raise KernelError(
            f"nftables: reading our tables: {os.strerror(error.errno)} {error.text}", error.errno
        ) from None


def _run(socket: NetlinkSocket, operations: Sequence[Operation], generation: int | None = None) -> None:
    """One transaction. Only its last message asks for an ack: failures are told of any, successes need no buffer."""
    owners: list[Operation | None] = [None]
    messages = [nft_wire.begin(generation)]
    for operation in operations:
        encoded = nft_wire.encode(operation)
        messages += encoded
        owners += [operation] * len(encoded)
    if len(messages) == 1:
        return
    messages[-1] = with_flags(messages[-1], NLM_F_ACK)
    messages.append(nft_wire.end())
    owners.append(None)
    try:
        socket.send_batch(messages)
    except NetlinkError as error:
        raise _Refused(owners[error.index], messages[error.index], error) from None


def _explain(socket: NetlinkSocket, refused: _Refused) -> CniPyError:
    """What the people at the other end need to know about a refusal."""
    operation, number = refused.operation, refused.error.errno
    reason = os.strerror(number) + (f" ({refused.error.text})" if refused.error.text else "")
    if number == errno.EPERM:
        return KernelError(f"nftables: {reason}", number, "CAP_NET_ADMIN is needed: run as root")
    if operation is None:
        if number in _ABSENT or number == errno.EINVAL:
            return MissingFeatureError(f"nftables: {reason}", number, "load the kernel module nf_tables")
        return KernelError(f"nftables: the transaction failed: {reason}", number)
    text = operation.text()
    where = text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]}..."
    if isinstance(operation, AddElements) and number in {errno.EBUSY, errno.EEXIST}:
        return _occupied(socket, operation) or ExistsError(f"nft {where}: {reason}")
    module = _missing_module(refused) if number in _ABSENT else ""
    if module:
        return MissingFeatureError(f"nft {where}: {reason}", number, f"load the kernel module {module}")
    return KernelError(f"nft {where}: {reason}", number)


def _occupied(socket: NetlinkSocket, operation: AddElements) -> ExistsError | None:
    """Which element has another value already, and whose it is by its comment."""
    one = operation.set
    for wanted in () if one.interval else operation.elements:
        there = element(socket, one, wanted)
        if there is not None and there.value != wanted.value:
            holder = there.comment or there.value_text(one)
            return ExistsError(
                f"{one.comment or one.name} {wanted.key_text(one)} is taken by {holder}",
                f"it leads to {there.value_text(one)}; see: nft list {one.noun} {one.text()}",
            )
    return None


def _missing_module(refused: _Refused) -> str:
    """The module that would have known the chain type or the expression; empty if it is not that which is missing."""
    offset = refused.error.offset
    if isinstance(refused.operation, AddChain) and refused.operation.chain.hook is not None:
        if offset == _FIRST_ATTRIBUTE:  # the table
            return ""
        return "nft_chain_nat" if refused.operation.chain.hook.type == "nat" else "nf_tables"
    if not isinstance(refused.operation, AddRule) or refused.error.errno != errno.ENOENT:
        return ""
    # The extended ack points to the list element with the expression: 4 bytes of header before its name.
    told = parse_attrs(refused.message[offset + 4 :]) if offset else {}
    name = told.get(1, b"").rstrip(b"\0").decode(errors="replace")
    return f"nft_{name}" if name in _MODULAR else ""
