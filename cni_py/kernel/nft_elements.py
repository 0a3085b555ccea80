"""The elements of sets and maps as netlink attributes, and back."""

import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from cni_py.kernel import nft_expr
from cni_py.kernel.netlink import attr, iter_attrs, nested, parse_attrs
from cni_py.kernel.nft_expr import be32
from cni_py.model.nft_expr import DataType, Range, Scalar, Verdict
from cni_py.model.nft_objects import Element, Set, clean_comment

_INTERVAL_END = 1
_EXPRESSION, _COUNTER_PACKETS = 7, 2
# Types whose values are in host order, names of interfaces among them.
HOST_ORDER = (DataType.IFNAME, DataType.MARK, DataType.CT_STATE, DataType.CT_STATUS, DataType.FIB_TYPE)


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


def decode_packets(payloads: Sequence[bytes]) -> int:
    """The packets that the counter of the first element in the answers to `get_element` has seen, 0 without one."""
    for payload in payloads:
        for _, item in iter_attrs(parse_attrs(payload, 4).get(3, b"")):
            counter = parse_attrs(parse_attrs(parse_attrs(item).get(_EXPRESSION, b"")).get(2, b""))
            return int.from_bytes(counter.get(_COUNTER_PACKETS, b""), "big")
    return 0


def parse_user_data(data: bytes) -> dict[int, bytes]:
    """{type: value} of the type-length-value lists that nft keeps beside its objects."""
    found, offset = {}, 0
    while offset + 2 <= len(data):
        found[data[offset]] = data[offset + 2 : offset + 2 + data[offset + 1]]
        offset += 2 + data[offset + 1]
    return found


def note(kind: int, value: bytes) -> bytes:
    """One entry of the lists that nft keeps beside its objects."""
    return bytes((kind, len(value))) + value


def note_number(kind: int, value: int) -> bytes:
    """Such an entry with a number."""
    return note(kind, struct.pack("=I", value))


def note_comment(kind: int, text: str) -> bytes:
    """Such an entry with a comment, nothing without one."""
    return note(kind, clean_comment(text).encode() + b"\0") if text else b""


def types_of(of: tuple[DataType, ...] | str) -> tuple[DataType, ...]:
    """The types of a key or of a map's data, none of verdicts."""
    return () if isinstance(of, str) else of


def encode_element(one: Set, element: Element) -> Iterator[bytes]:
    """One entry of NFTA_SET_ELEM_LIST_ELEMENTS, two for a range: its first address, and the first behind its end."""
    data = b""
    if isinstance(element.value, Verdict):
        data = nested(2, nft_expr.data_verdict(element.value))
    elif element.value is not None:
        data = nested(2, nft_expr.data_value(_concatenated(types_of(one.data), element.value)))
    notes = note_comment(0, element.comment)
    if not isinstance(element.key, Range):
        key = nested(1, nft_expr.data_value(_concatenated(one.key, element.key)))
        yield nested(1, key, data, attr(6, notes) if notes else b"")
        return
    size = element.key.first.max_prefixlen // 8
    behind = int(element.key.last) + 1
    is_open = behind >> (8 * size) != 0
    if is_open:  # nft marks a range without an end
        notes += note_number(1, 1)
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
            return int(struct.unpack("=I", data)[0]) if kind in HOST_ORDER else int.from_bytes(data, "big")


def _decode_value(one: Set, data: bytes) -> tuple[Scalar, ...] | Verdict | None:
    if not data:
        return None
    parts = parse_attrs(data)
    if 2 not in parts:
        return _scalars(types_of(one.data), parts[1])
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
