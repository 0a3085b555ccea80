"""Operations of `model.nft` as nfnetlink messages, and the elements of a set back from them."""

import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from cni_py.kernel import nft_expr
from cni_py.kernel.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    attr,
    iter_attrs,
    message,
    nested,
    parse_attrs,
)
from cni_py.kernel.nft_expr import NFPROTO, be32
from cni_py.model.nft import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Chain,
    DeleteSet,
    DestroyTable,
    DiscardElements,
    Element,
    FlushChain,
    FlushSet,
    Operation,
    RequireSet,
    Rule,
    Set,
    Table,
    clean_comment,
)
from cni_py.model.nft_expr import DataType, Field, Range, Scalar, Verdict

_SUBSYSTEM = 10 << 8
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _DELRULE = 0, 1, 2, 3, 6, 8
_NEWSET, _GETSET, _DELSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM, _GETGEN = 9, 10, 11, 12, 13, 14, 16
_BATCH_BEGIN, _BATCH_END = 16, 17
_BATCH_GENID = 1
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_POLICY_ACCEPT = 1
_SET_INTERVAL, _SET_MAP = 4, 8
_INTERVAL_END = 1
_VERDICT_TYPE = 0xFFFFFF00
_HOST_ENDIAN, _BIG_ENDIAN, _MIXED_ENDIAN = 1, 2, 0
_NOTE_CONCAT = 13
_LIST_BYTES = 32_000  # an attribute ends at 64 KiB
# The numbers by which nft knows its types; the kernel only keeps them for it.
_TYPE_NUMBERS = {
    DataType.RAW_ADDRESS: 4,
    DataType.IPV4: 7,
    DataType.IPV6: 8,
    DataType.ETHER: 9,
    DataType.ETHERTYPE: 10,
    DataType.PROTOCOL: 12,
    DataType.SERVICE: 13,
    DataType.MARK: 19,
    DataType.CT_STATE: 26,
    DataType.CT_DIRECTION: 27,
    DataType.CT_STATUS: 28,
    DataType.ICMPV6_TYPE: 29,
    DataType.FIB_TYPE: 38,
    DataType.IFNAME: 41,
}
_HOST_ORDER = (DataType.IFNAME, DataType.MARK, DataType.CT_STATE, DataType.CT_STATUS, DataType.FIB_TYPE)


def begin(generation: int | None) -> bytes:
    """The start of a transaction; with `generation` it fails (ERESTART) if another one was committed since."""
    guard = attr(_BATCH_GENID, be32(generation)) if generation is not None else b""
    return message(_BATCH_BEGIN, 0, struct.pack("!BBH", 0, 0, 10) + guard)


def end() -> bytes:
    """The end of a transaction."""
    return message(_BATCH_END, 0, struct.pack("!BBH", 0, 0, 10))


def encode(operation: Operation) -> list[bytes]:  # noqa: C901  # one line for each operation there is
    """The messages of one operation, in order."""
    match operation:
        case AddTable(table):
            return [_table(table, _NEWTABLE)]
        case DestroyTable(table):
            return [_table(table, _NEWTABLE), _table(table, _DELTABLE)]
        case AddChain(chain):
            return [_add_chain(chain)]
        case FlushChain(chain):
            return [_request(chain.table, _DELRULE, 0, _chain_of(chain))]
        case AddRule(rule):
            return [_add_rule(rule)]
        case AddSet(one):
            return [_define_set(one, NLM_F_CREATE)]
        case RequireSet(one):
            return [_define_set(one, 0)]
        case DeleteSet(one):
            return [_request(one.table, _DELSET, 0, _string(1, one.table.name) + _string(2, one.name))]
        case FlushSet(one):
            return [_request(one.table, _DELSETELEM, 0, _string(1, one.table.name) + _string(2, one.name))]
        case AddElements(one, elements):
            return _change_elements(one, elements, _NEWSETELEM)
        case DiscardElements(one, elements):
            gone = tuple(Element(element.key) for element in elements)
            return [*_change_elements(one, elements, _NEWSETELEM), *_change_elements(one, gone, _DELSETELEM)]


def get_table(table: Table) -> bytes:
    """Asks for one table."""
    return _table(table, _GETTABLE)


def get_set(one: Set) -> bytes:
    """Asks for one set."""
    return _request(one.table, _GETSET, 0, _string(1, one.table.name) + _string(2, one.name))


def dump_sets(table: Table) -> bytes:
    """Asks for the sets of one table."""
    return _request(table, _GETSET, NLM_F_DUMP, _string(1, table.name))


def dump_elements(one: Set) -> bytes:
    """Asks for all elements of one set."""
    return _request(one.table, _GETSETELEM, NLM_F_DUMP, _string(1, one.table.name) + _string(2, one.name))


def get_element(one: Set, element: Element) -> bytes:
    """Asks for the element with this key."""
    listed = nested(3, *_element(one, Element(element.key)))
    return _request(one.table, _GETSETELEM, 0, _string(1, one.table.name) + _string(2, one.name) + listed)


def get_generation() -> bytes:
    """Asks for the number of the last transaction in this network namespace."""
    return message(_SUBSYSTEM | _GETGEN, 0, bytes(4))


def decode_generation(payload: bytes) -> int:
    """The number of the last transaction."""
    return int.from_bytes(parse_attrs(payload, 4)[1], "big")


def decode_set_name(payload: bytes) -> str:
    """The name in one answer to `dump_sets`."""
    return parse_attrs(payload, 4).get(2, b"").rstrip(b"\0").decode(errors="replace")


def decode_elements(one: Set, payloads: Sequence[bytes]) -> tuple[Element, ...]:
    """The elements in the answers to `dump_elements` or `get_element`; ranges are whole again and in order."""
    found: list[tuple[bytes, int, bytes, str]] = []
    for payload in payloads:
        for _, item in iter_attrs(parse_attrs(payload, 4).get(3, b"")):
            parts = parse_attrs(item)
            key = parse_attrs(parts[1])[1] if 1 in parts else b""
            flags = int.from_bytes(parts.get(3, b""), "big")
            comment = parse_user_data(parts.get(6, b"")).get(0, b"")
            found.append((key, flags, parts.get(2, b""), comment.rstrip(b"\0").decode(errors="replace")))
    if one.interval:
        return _ranges(one, found)
    return tuple(
        Element(_scalars(one.key, key), _decode_value(one, data), comment) for key, _, data, comment in found if key
    )


def parse_user_data(data: bytes) -> dict[int, bytes]:
    """{type: value} of the type-length-value lists that nft keeps beside its objects."""
    found, offset = {}, 0
    while offset + 2 <= len(data):
        found[data[offset]] = data[offset + 2 : offset + 2 + data[offset + 1]]
        offset += 2 + data[offset + 1]
    return found


def _request(table: Table, kind: int, flags: int, body: bytes) -> bytes:
    return message(_SUBSYSTEM | kind, flags, bytes((NFPROTO[table.family], 0, 0, 0)) + body)


def _string(kind: int, text: str) -> bytes:
    return attr(kind, text.encode() + b"\0")


def _user_data(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def _number(kind: int, value: int) -> bytes:
    return _user_data(kind, struct.pack("=I", value))


def _declared_by(fields: tuple[Field, ...]) -> bytes:
    """The note from which nft prints `typeof`: a concatenation, and in it each field by its place."""
    noted = b""
    for place, one in enumerate(fields):
        kind, numbers = nft_expr.field_notes(one)
        listed = b"".join(_number(index, number) for index, number in enumerate(numbers))
        noted += _user_data(place, _number(0, kind) + _user_data(1, listed))
    return _user_data(3, _number(0, _NOTE_CONCAT) + _user_data(1, noted))


def _comment(kind: int, comment: str) -> bytes:
    return _user_data(kind, clean_comment(comment).encode() + b"\0") if comment else b""


def _table(table: Table, kind: int) -> bytes:
    return _request(table, kind, 0, _string(1, table.name))


def _chain_of(chain: Chain) -> bytes:
    return _string(1, chain.table.name) + _string(2, chain.name)


def _add_chain(chain: Chain) -> bytes:
    body = _string(1, chain.table.name) + _string(3, chain.name)
    if chain.hook is not None:
        hook = nested(4, attr(1, be32(_HOOKS[chain.hook.hook])), attr(2, be32(chain.hook.priority)))
        body += _string(7, chain.hook.type) + attr(5, be32(_POLICY_ACCEPT)) + hook
    return _request(chain.table, _NEWCHAIN, NLM_F_CREATE, body)


def _add_rule(rule: Rule) -> bytes:
    body = _chain_of(rule.chain) + nested(4, nft_expr.expressions(rule))
    if rule.comment:
        body += attr(7, _comment(0, rule.comment))
    return _request(rule.chain.table, _NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)


def _define_set(one: Set, flags: int) -> bytes:
    has = (_SET_INTERVAL if one.interval else 0) | (_SET_MAP if one.data else 0)
    body = _string(1, one.table.name) + _string(2, one.name) + attr(3, be32(has))
    body += attr(4, be32(_type_number(one.key))) + attr(5, be32(_length(one.key)))
    notes = _number(0, _byte_order(one.key))
    if one.fields:
        notes += _declared_by(one.fields)
    if one.data == "verdict":
        body += attr(6, be32(_VERDICT_TYPE)) + attr(7, be32(0))
    elif one.data:
        body += attr(6, be32(_type_number(one.data))) + attr(7, be32(_length(one.data)))
    if one.data:
        notes += _number(1, _byte_order(one.data)) + _number(6, 0)
    # The id is for rules that name a set before it has one; ours have names, but the kernel wants the attribute.
    body += attr(10, be32(1)) + attr(13, notes + _comment(7, one.comment))
    return _request(one.table, _NEWSET, flags, body)


def _types(types: tuple[DataType, ...] | str) -> tuple[DataType, ...]:
    return () if isinstance(types, str) else types


def _type_number(types: tuple[DataType, ...] | str) -> int:
    number = 0
    for one in _types(types):
        number = number << 6 | _TYPE_NUMBERS[one]
    return number


def _length(types: tuple[DataType, ...] | str) -> int:
    listed = _types(types)
    return listed[0].size if len(listed) == 1 else sum(nft_expr.padded(one) for one in listed)


def _byte_order(types: tuple[DataType, ...] | str) -> int:
    listed = _types(types)
    if len(listed) != 1:
        return _MIXED_ENDIAN
    return _HOST_ENDIAN if listed[0] in _HOST_ORDER else _BIG_ENDIAN


def _change_elements(one: Set, elements: tuple[Element, ...], kind: int) -> list[bytes]:
    head = _string(1, one.table.name) + _string(2, one.name)
    flags = NLM_F_CREATE if kind == _NEWSETELEM else 0
    lists: list[list[bytes]] = [[]]
    size = 0
    for element in elements:
        for encoded in _element(one, element):
            if size > _LIST_BYTES:
                lists.append([])
                size = 0
            lists[-1].append(encoded)
            size += len(encoded)
    return [_request(one.table, kind, flags, head + nested(3, *listed)) for listed in lists if listed]


def _element(one: Set, element: Element) -> Iterator[bytes]:
    """One entry of NFTA_SET_ELEM_LIST_ELEMENTS, two for a range: its first address, and the first behind its end."""
    data = b""
    if isinstance(element.value, Verdict):
        data = nested(2, nft_expr.data_verdict(element.value))
    elif element.value is not None:
        data = nested(2, nft_expr.data_value(_concatenated(_types(one.data), element.value)))
    notes = _comment(0, element.comment)
    if not isinstance(element.key, Range):
        key = nested(1, nft_expr.data_value(_concatenated(one.key, element.key)))
        yield nested(1, key, data, attr(6, notes) if notes else b"")
        return
    size = element.key.first.max_prefixlen // 8
    behind = int(element.key.last) + 1
    is_open = behind >> (8 * size) != 0
    if is_open:  # nft marks a range without an end
        notes += _number(1, 1)
    yield nested(1, nested(1, nft_expr.data_value(element.key.first.packed)), data, attr(6, notes) if notes else b"")
    if not is_open:
        key = nested(1, nft_expr.data_value(behind.to_bytes(size, "big")))
        yield nested(1, attr(3, be32(_INTERVAL_END)), key)


def _concatenated(types: tuple[DataType, ...], scalars: tuple[Scalar, ...]) -> bytes:
    if len(types) == 1:
        return nft_expr.encode(types[0], scalars[0])
    parts = zip(types, scalars, strict=True)
    return b"".join(nft_expr.encode(kind, scalar).ljust(nft_expr.padded(kind), b"\0") for kind, scalar in parts)


def _scalars(types: tuple[DataType, ...], data: bytes) -> tuple[Scalar, ...]:
    scalars: list[Scalar] = []
    offset = 0
    for kind in types:
        scalars.append(_scalar(kind, data[offset : offset + kind.size]))
        offset += nft_expr.padded(kind)
    return tuple(scalars)


def _scalar(kind: DataType, data: bytes) -> Scalar:
    match kind:
        case DataType.IPV4:
            return IPv4Address(data)
        case DataType.IPV6 | DataType.RAW_ADDRESS:
            return IPv6Address(data)
        case DataType.IFNAME:
            return data.rstrip(b"\0").decode(errors="replace")
        case DataType.ETHER:
            return data.hex(":")
        case _:
            return int(struct.unpack("=I", data)[0]) if kind in _HOST_ORDER else int.from_bytes(data, "big")


def _decode_value(one: Set, data: bytes) -> tuple[Scalar, ...] | Verdict | None:
    if not data:
        return None
    parts = parse_attrs(data)
    if 2 not in parts:
        return _scalars(_types(one.data), parts[1])
    told = parse_attrs(parts[2])
    code = struct.unpack("!i", told[1])[0]
    kinds = {number: kind for kind, number in nft_expr.VERDICTS.items()}
    return Verdict(kinds.get(code, str(code)), told.get(2, b"").rstrip(b"\0").decode(errors="replace"))


def _ranges(one: Set, found: list[tuple[bytes, int, bytes, str]]) -> tuple[Element, ...]:
    ranges: list[Element] = []
    start: tuple[bytes, bytes, str] | None = None
    for key, flags, data, comment in sorted(found, key=lambda item: (item[0], -item[1])):
        if start is not None:
            ranges.append(_range_element(one, start, int.from_bytes(key, "big") - 1))
        start = None if flags & _INTERVAL_END else (key, data, comment)
    if start is not None:
        ranges.append(_range_element(one, start, (1 << 8 * len(start[0])) - 1))
    return tuple(ranges)


def _range_element(one: Set, start: tuple[bytes, bytes, str], last: int) -> Element:
    key, data, comment = start
    address = IPv4Address if len(key) == 4 else IPv6Address
    return Element(Range(address(key), address(last)), _decode_value(one, data), comment)
