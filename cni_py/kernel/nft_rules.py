"""Rules as the kernel has them, held against rules as they should be.

The kernel says more of an expression than was asked of it (counts, defaults), so a rule is as it should be if all that
was asked is there.
"""

from collections.abc import Mapping, Sequence

from cni_py.kernel import nft_expr, nft_wire
from cni_py.kernel.netlink import NetlinkSocket, iter_attrs, parse_attrs
from cni_py.kernel.nft import read
from cni_py.model.nft_objects import Rule, Table

_NAME, _DATA = 1, 2
_COUNTER, _COUNTER_PACKETS = b"counter\0", 2
_NO_SUCH_STATE = {b"counter"}  # what it has is a count
# The attributes that hold attributes: the values of cmp and bitwise, the verdict of immediate, the counter of dynset.
_NESTED = {b"cmp": {3}, b"bitwise": {4, 5}, b"immediate": {2}, b"dynset": {7}}


def rules(socket: NetlinkSocket, table: Table) -> dict[str, list[bytes]]:
    """The expressions of each rule of the table by chain, in order. Raises KernelError."""
    found: dict[str, list[bytes]] = {}
    for payload in read(socket, nft_wire.dump_rules(table)):
        found.setdefault(nft_wire.decode_rule_chain(payload), []).append(nft_wire.decode_rule_expressions(payload))
    return found


def chains(socket: NetlinkSocket, table: Table) -> set[str]:
    """The names of the chains of the table. Raises KernelError."""
    found = (nft_wire.decode_chain(payload) for payload in read(socket, nft_wire.dump_chains(table)))
    return {name for owner, name in found if owner == table.name}


def hits(socket: NetlinkSocket, table: Table) -> dict[str, int]:
    """How many packets the counters of the table's rules have seen, by the rules' comments. Raises KernelError."""
    found: dict[str, int] = {}
    for payload in read(socket, nft_wire.dump_rules(table)):
        comment = nft_wire.decode_rule_comment(payload)
        if comment:
            expressions = (parse_attrs(one) for _, one in iter_attrs(nft_wire.decode_rule_expressions(payload)))
            seen = sum(_packets(one) for one in expressions if one.get(_NAME) == _COUNTER)
            found[comment] = found.get(comment, 0) + seen
    return found


def _packets(counter: Mapping[int, bytes]) -> int:
    return int.from_bytes(parse_attrs(counter.get(_DATA, b"")).get(_COUNTER_PACKETS, b""), "big")


def are(seen: Sequence[bytes], wanted: Sequence[Rule]) -> bool:
    """True if a chain's rules are these."""
    return len(seen) == len(wanted) and all(map(_is, seen, wanted))


def _is(seen: bytes, wanted: Rule) -> bool:
    ours = [parse_attrs(one) for _, one in iter_attrs(nft_expr.expressions(wanted))]
    theirs = [parse_attrs(one) for _, one in iter_attrs(seen)]
    return len(ours) == len(theirs) and all(map(_is_expression, theirs, ours))


def _is_expression(seen: Mapping[int, bytes], wanted: Mapping[int, bytes]) -> bool:
    name = wanted[_NAME].rstrip(b"\0")
    if seen.get(_NAME) != wanted[_NAME] or name in _NO_SUCH_STATE:
        return seen.get(_NAME) == wanted[_NAME]
    return _has(parse_attrs(seen.get(_DATA, b"")), parse_attrs(wanted[_DATA]), _NESTED.get(name, frozenset()))


def _has(seen: Mapping[int, bytes], wanted: Mapping[int, bytes], nested: set[int] | frozenset[int]) -> bool:
    for kind, value in wanted.items():
        other = seen.get(kind)
        if other == value:
            continue
        if other is None or kind not in nested:
            return False
        inner, inner_wanted = parse_attrs(other), parse_attrs(value)
        if _NAME in inner_wanted and inner_wanted[_NAME].rstrip(b"\0") in _NO_SUCH_STATE:
            if inner.get(_NAME) != inner_wanted[_NAME]:
                return False
            continue
        if not _has(inner, inner_wanted, {1, 2}):
            return False
    return True
