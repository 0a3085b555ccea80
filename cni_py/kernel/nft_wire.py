"""Operations of `model.nft` as nfnetlink messages, and the elements of a set back from them."""

import struct

from cni_py.kernel import nft_expr
from cni_py.kernel.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    attr,
    message,
    nested,
    parse_attrs,
)
from cni_py.kernel.nft_elements import (
    HOST_ORDER,
    encode_element,
    note,
    note_comment,
    note_number,
    parse_user_data,
    types_of,
)
from cni_py.kernel.nft_expr import NFPROTO, be32
from cni_py.model.nft import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DestroyTable,
    DiscardElements,
    FlushChain,
    FlushSet,
    Operation,
    RequireSet,
)
from cni_py.model.nft_expr import DataType, Field
from cni_py.model.nft_objects import Chain, Element, Rule, Set, Table

_SUBSYSTEM = 10 << 8
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _GETRULE, _DELRULE = 0, 1, 2, 3, 6, 7, 8
_NEWSET, _GETSET, _DELSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM, _GETGEN = 9, 10, 11, 12, 13, 14, 16
_GETCHAIN, _DELCHAIN = 4, 5
_DELETIONS = {_SUBSYSTEM | kind for kind in (_DELTABLE, _DELCHAIN, _DELRULE, _DELSET, _DELSETELEM)}
_CHANGES = _DELETIONS | {_SUBSYSTEM | kind for kind in (_NEWTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM)}
_BATCH_BEGIN, _BATCH_END = 16, 17
_BATCH_GENID = 1
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_POLICY_ACCEPT = 1
_SET_INTERVAL, _SET_MAP, _SET_TIMEOUT, _SET_EVAL = 4, 8, 16, 32
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


def begin(generation: int | None) -> bytes:
    """The start of a transaction; with `generation` it fails (ERESTART) if another one was committed since."""
    guard = attr(_BATCH_GENID, be32(generation)) if generation is not None else b""
    return message(_BATCH_BEGIN, 0, struct.pack("!BBH", 0, 0, 10) + guard)


def end() -> bytes:
    """The end of a transaction."""
    return message(_BATCH_END, 0, struct.pack("!BBH", 0, 0, 10))


def encode(operation: Operation) -> list[bytes]:  # noqa: C901, PLR0912  # one line for each operation there is
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
        case DeleteChain(chain):
            return [_request(chain.table, _DELCHAIN, 0, _string(1, chain.table.name) + _string(3, chain.name))]
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
        case DeleteElements(one, elements):
            return _change_elements(one, tuple(Element(element.key) for element in elements), _DELSETELEM)
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


def dump_chains(table: Table) -> bytes:
    """Asks for the chains of all tables of one family; the kernel has no narrower dump."""
    return _request(table, _GETCHAIN, NLM_F_DUMP, b"")


def decode_chain(payload: bytes) -> tuple[str, str]:
    """(table, name) in one answer to `dump_chains`."""
    parts = parse_attrs(payload, 4)
    return _decode_string(parts.get(1, b"")), _decode_string(parts.get(3, b""))


def dump_rules(table: Table) -> bytes:
    """Asks for the rules of one table."""
    return _request(table, _GETRULE, NLM_F_DUMP, _string(1, table.name))


def dump_elements(one: Set) -> bytes:
    """Asks for all elements of one set."""
    return _request(one.table, _GETSETELEM, NLM_F_DUMP, _string(1, one.table.name) + _string(2, one.name))


def get_element(one: Set, element: Element) -> bytes:
    """Asks for the element with this key."""
    listed = nested(3, *encode_element(one, Element(element.key)))
    return _request(one.table, _GETSETELEM, 0, _string(1, one.table.name) + _string(2, one.name) + listed)


def get_generation() -> bytes:
    """Asks for the number of the last transaction in this network namespace."""
    return message(_SUBSYSTEM | _GETGEN, 0, bytes(4))


def decode_generation(payload: bytes) -> int:
    """The number of the last transaction."""
    return int.from_bytes(parse_attrs(payload, 4)[1], "big")


def decode_set_name(payload: bytes) -> str:
    """The name in one answer to `dump_sets`."""
    return _decode_string(parse_attrs(payload, 4).get(2, b""))


def decode_rule_chain(payload: bytes) -> str:
    """The chain of the rule in one answer to `dump_rules`."""
    return _decode_string(parse_attrs(payload, 4).get(2, b""))


def decode_rule_expressions(payload: bytes) -> bytes:
    """What the rule in one answer to `dump_rules` is made of."""
    return parse_attrs(payload, 4).get(4, b"")


def decode_rule_comment(payload: bytes) -> str:
    """The comment of the rule in one answer to `dump_rules`, "" if it has none."""
    return _decode_string(parse_user_data(parse_attrs(payload, 4).get(7, b"")).get(0, b""))


def deleted_from(kind: int, payload: bytes) -> str:
    """The table of which a message says that it, or a chain, rule, set or element of it, was deleted; else ""."""
    return changed_in(kind, payload) if kind in _DELETIONS else ""


def changed_in(kind: int, payload: bytes) -> str:
    """The table of which a message says that it, or something of it, was changed; else ""."""
    return _decode_string(parse_attrs(payload, 4).get(1, b"")) if kind in _CHANGES else ""


def _request(table: Table, kind: int, flags: int, body: bytes) -> bytes:
    return message(_SUBSYSTEM | kind, flags, bytes((NFPROTO[table.family], 0, 0, 0)) + body)


def _decode_string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _string(kind: int, text: str) -> bytes:
    return attr(kind, text.encode() + b"\0")


def _declared_by(fields: tuple[Field, ...]) -> bytes:
    """The note from which nft prints `typeof`: a concatenation, and in it each field by its place."""
    noted = b""
    for place, one in enumerate(fields):
        kind, numbers = nft_expr.field_notes(one)
        listed = b"".join(note_number(index, number) for index, number in enumerate(numbers))
        noted += note(place, note_number(0, kind) + note(1, listed))
    return note(3, note_number(0, _NOTE_CONCAT) + note(1, noted))


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
        body += attr(7, note_comment(0, rule.comment))
    return _request(rule.chain.table, _NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)


def _define_set(one: Set, flags: int) -> bytes:
    has = (_SET_INTERVAL if one.interval else 0) | (_SET_MAP if one.data else 0)
    has |= (_SET_TIMEOUT if one.timeout else 0) | (_SET_EVAL if one.size else 0)
    body = _string(1, one.table.name) + _string(2, one.name) + attr(3, be32(has))
    body += attr(4, be32(_type_number(one.key))) + attr(5, be32(_length(one.key)))
    if one.timeout:
        body += attr(11, struct.pack("!Q", one.timeout * 1000))
    if one.size:
        body += nested(9, attr(1, be32(one.size)))
    notes = note_number(0, _byte_order(one.key))
    if one.fields:
        notes += _declared_by(one.fields)
    if one.data == "verdict":
        body += attr(6, be32(_VERDICT_TYPE)) + attr(7, be32(0))
    elif one.data:
        body += attr(6, be32(_type_number(one.data))) + attr(7, be32(_length(one.data)))
    if one.data:
        notes += note_number(1, _byte_order(one.data)) + note_number(6, 0)
    # The id is for rules that name a set before it has one; ours have names, but the kernel wants the attribute.
    body += attr(10, be32(1)) + attr(13, notes + note_comment(7, one.comment))
    return _request(one.table, _NEWSET, flags, body)


def _type_number(types: tuple[DataType, ...] | str) -> int:
    number = 0
    for one in types_of(types):
        number = number << 6 | _TYPE_NUMBERS[one]
    return number


def _length(types: tuple[DataType, ...] | str) -> int:
    listed = types_of(types)
    return listed[0].size if len(listed) == 1 else sum(nft_expr.padded(one) for one in listed)


def _byte_order(types: tuple[DataType, ...] | str) -> int:
    listed = types_of(types)
    if len(listed) != 1:
        return _MIXED_ENDIAN
    return _HOST_ENDIAN if listed[0] in HOST_ORDER else _BIG_ENDIAN


def _change_elements(one: Set, elements: tuple[Element, ...], kind: int) -> list[bytes]:
    head = _string(1, one.table.name) + _string(2, one.name)
    flags = NLM_F_CREATE if kind == _NEWSETELEM else 0
    lists: list[list[bytes]] = [[]]
    size = 0
    for element in elements:
        for encoded in encode_element(one, element):
            if size > _LIST_BYTES:
                lists.append([])
                size = 0
            lists[-1].append(encoded)
            size += len(encoded)
    return [_request(one.table, kind, flags, head + nested(3, *listed)) for listed in lists if listed]
