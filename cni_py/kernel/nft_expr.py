"""The bytecode of rules: `model.nft_expr` values -> NFTA_RULE_EXPRESSIONS, such as nft 1.0.6 itself would emit.

The kernel takes more than `nft list ruleset` can print, and what nft cannot print breaks the listing for everybody on
the host, so only nft's own shapes are made here. Four rules of it:
- A field of a protocol comes after a check that the packet is of that protocol (a *dependency*), once per rule. nft
  does not print the check; without it, it would print a raw payload expression.
- A key of several fields lies in consecutive 32-bit registers, each field padded to 4 bytes.
- Fields of the link layer come first in a rule: nft puts them there, joining them with the check of the frame's type.
- Numbers are in network order where they come from the packet and in host order where they come from the kernel.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import assert_never

from cni_py.kernel.netlink import attr, nested
from cni_py.model.nft_expr import (
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    AnyOf,
    Between,
    Counter,
    DataType,
    DnatToMap,
    Expression,
    Field,
    Limit,
    Log,
    Lookup,
    Masquerade,
    Match,
    NameBegins,
    Note,
    Scalar,
    Verdict,
    VerdictMap,
)
from cni_py.model.nft_objects import Rule

# The first of sixteen 32-bit registers, and the register of the verdict.
REGISTER, VERDICT_REGISTER = 8, 0
VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
_HOST_ORDER = {DataType.MARK, DataType.CT_STATE, DataType.CT_STATUS, DataType.FIB_TYPE}
_NOTE_PAYLOAD, _NOTE_META = 7, 9
_LINK, _NETWORK, _TRANSPORT = 0, 1, 2
_EQUAL, _DIFFERENT, _AT_MOST, _AT_LEAST = 0, 1, 3, 5
_DYNSET_UPDATE = 1
_META_PROTOCOL, _META_NFPROTO, _META_L4PROTO = 1, 15, 16
_FIB_ADDRTYPE, _FIB_SADDR, _FIB_DADDR = 3, 1, 2
_NF_NAT_DNAT = 1
_ETHERTYPES = {"ip": b"\x08\x00", "arp": b"\x08\x06", "ip6": b"\x86\xdd"}
NFPROTO = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}

# Where each field is: a header, an offset in it, and the protocol that must have been checked for.
_PAYLOAD: dict[Field, tuple[int, int, str]] = {
    Field.ETHER_DADDR: (_LINK, 0, ""),
    Field.ETHER_SADDR: (_LINK, 6, ""),
    Field.IP_SADDR: (_NETWORK, 12, "ip"),
    Field.IP_DADDR: (_NETWORK, 16, "ip"),
    Field.IP6_SADDR: (_NETWORK, 8, "ip6"),
    Field.IP6_DADDR: (_NETWORK, 24, "ip6"),
    Field.ARP_SENDER_MAC: (_NETWORK, 8, "arp"),
    Field.ARP_SENDER_IP: (_NETWORK, 14, "arp"),
    Field.TH_SPORT: (_TRANSPORT, 0, ""),
    Field.TH_DPORT: (_TRANSPORT, 2, ""),
    Field.TCP_DPORT: (_TRANSPORT, 2, "tcp"),
    Field.UDP_DPORT: (_TRANSPORT, 2, "udp"),
    Field.SCTP_DPORT: (_TRANSPORT, 2, "sctp"),
    Field.ICMPV6_TYPE: (_TRANSPORT, 0, "icmpv6"),
    Field.ND_TARGET: (_TRANSPORT, 8, ""),
}
_META = {
    Field.PROTOCOL: _META_PROTOCOL,
    Field.MARK: 3,
    Field.IIFNAME: 6,
    Field.OIFNAME: 7,
    Field.L4PROTO: _META_L4PROTO,
}
_CT = {Field.CT_STATE: 0, Field.CT_DIRECTION: 1, Field.CT_STATUS: 2}
_FIB = {Field.FIB_SADDR_TYPE: _FIB_SADDR, Field.FIB_DADDR_TYPE: _FIB_DADDR}
_L4 = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmpv6": ICMPV6}


def be32(number: int) -> bytes:
    """An unsigned number, or a negative verdict, in network order."""
    return struct.pack("!I", number & 0xFFFFFFFF)


def _register(number: int) -> bytes:
    """By the number under which the kernel lists it: each fourth of the sixteen is also one of four of 16 bytes."""
    if number >= REGISTER and number % 4 == 0:
        number = number // 4 - 1
    return be32(number)


def encode(kind: DataType, scalar: Scalar) -> bytes:
    """One value as it lies in a register or in a set, not padded. ValueError if it is no value of that type."""
    if kind is DataType.IFNAME:
        name = str(scalar).encode()
        if not 0 < len(name) < kind.size:
            raise ValueError(f"{scalar!r} is no interface name")
        return name.ljust(kind.size, b"\0")
    if kind is DataType.ETHER:
        data = bytes.fromhex(str(scalar).replace(":", ""))
    elif isinstance(scalar, IPv4Address | IPv6Address):
        data = scalar.packed
    elif isinstance(scalar, int):
        data = scalar.to_bytes(kind.size, "big")
    else:
        data = b""
    if len(data) != kind.size:
        raise ValueError(f"{scalar!r} is no {kind.label}")
    # int.to_bytes knows no "native"; struct does, for the four-byte types that are not from the wire.
    return struct.pack("=I", int(scalar)) if kind in _HOST_ORDER and isinstance(scalar, int) else data


def padded(kind: DataType) -> int:
    """Bytes that one field of a key takes."""
    return (kind.size + 3) & ~3


def data_value(payload: bytes) -> bytes:
    """NFTA_DATA_VALUE."""
    return attr(1, payload)


def data_verdict(verdict: Verdict) -> bytes:
    """NFTA_DATA_VERDICT."""
    chain = attr(2, verdict.chain.encode() + b"\0") if verdict.chain else b""
    return nested(2, attr(1, be32(VERDICTS[verdict.kind])), chain)


def field_notes(one: Field) -> tuple[int, tuple[int, ...]]:
    """How nft notes a field in the declaration of a set (`typeof`): its kind of expression, and that one's numbers."""
    if one in _META:
        return _NOTE_META, (_META[one],)
    base, offset, _ = _PAYLOAD[one]
    # nft counts headers from 1, and bits; 0, 0 is a raw place in one.
    return _NOTE_PAYLOAD, (0, 0, base + 1, offset * 8, one.type.size * 8)


def expressions(rule: Rule) -> bytes:
    """The value of NFTA_RULE_EXPRESSIONS."""
    compiler = _Compiler(rule.chain.table.family)
    return b"".join(one for expression in rule.expressions for one in compiler.compile(expression))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, attr(1, name.encode() + b"\0"), nested(2, *attributes))


@lru_cache(1024)  # these four: rules repeat what they look at and compare with
def _compare(operator: int, value: bytes) -> bytes:
    return _expression("cmp", attr(1, _register(REGISTER)), attr(2, be32(operator)), nested(3, data_value(value)))


def _mask(mask: bytes) -> bytes:
    registers = (attr(1, _register(REGISTER)), attr(2, _register(REGISTER)), attr(3, be32(len(mask))))
    return _expression("bitwise", *registers, nested(4, data_value(mask)), nested(5, data_value(bytes(len(mask)))))


@lru_cache(1024)
def _meta(key: int, register: int) -> bytes:
    return _expression("meta", attr(2, be32(key)), attr(1, _register(register)))


@lru_cache(1024)
def _payload(base: int, offset: int, size: int, register: int) -> bytes:
    where = (attr(2, be32(base)), attr(3, be32(offset)), attr(4, be32(size)))
    return _expression("payload", attr(1, _register(register)), *where)


@dataclass(slots=True)
class _Compiler:
    """Of one rule: what has been checked so far is `known`, a network protocol or a transport protocol."""

    family: str
    known: set[str] = field(default_factory=set)

    def compile(self, expression: Expression) -> Iterator[bytes]:  # noqa: C901, PLR0912  # one case a kind
        match expression:
            case Match() | NameBegins():
                yield from self._match(expression)
            case Between():
                yield from self._load((expression.field,))
                yield _compare(_AT_LEAST, encode(expression.field.type, expression.first))
                yield _compare(_AT_MOST, encode(expression.field.type, expression.last))
            case AnyOf():
                yield from self._load((expression.field,))
                yield _mask(struct.pack("=I", expression.mask()))
                yield _compare(_DIFFERENT, bytes(4))
            case Lookup():
                yield from self._load(expression.fields)
                flags = attr(5, be32(1)) if expression.negate else b""
                yield _expression("lookup", attr(2, _register(REGISTER)), _name(1, expression.set_name), flags)
            case VerdictMap():
                yield from self._load(expression.fields)
                yield _lookup_map(expression.map_name, VERDICT_REGISTER)
            case Counter():
                yield _expression("counter")
            case Note():
                yield from self._load(expression.fields)
                yield _note(expression)
            case Limit():
                yield _limit(expression)
            case Log():
                yield _log(expression)
            case Verdict():
                verdict = nested(2, data_verdict(expression))
                yield _expression("immediate", attr(1, _register(VERDICT_REGISTER)), verdict)
            case Masquerade():
                yield _expression("masq")
            case DnatToMap():
                yield from self._load(expression.fields)
                yield _lookup_map(expression.map_name, REGISTER)
                yield _dnat(expression.version)
            case _:
                assert_never(expression)

    def _match(self, match: Match | NameBegins) -> Iterator[bytes]:
        yield from self._load((match.field,))
        value: bytes
        if isinstance(match, NameBegins):  # as many bytes as it has are compared
            yield _compare(_EQUAL, match.prefix.encode())
            return
        if isinstance(match.value, IPv4Network | IPv6Network):
            value = match.value.network_address.packed
            yield _mask(match.value.netmask.packed)
        else:
            value = encode(match.field.type, match.value)
        yield _compare(_DIFFERENT if match.negate else _EQUAL, value)

    def _load(self, fields: tuple[Field, ...]) -> Iterator[bytes]:
        """All checks first: they use the same registers as the key."""
        for one in fields:
            if one in _PAYLOAD:
                yield from self._depend(_PAYLOAD[one][2])
        register = REGISTER
        for one in fields:
            yield _load_field(one, register)
            register += padded(one.type) // 4

    def _depend(self, protocol: str, *, from_frame: bool = False) -> Iterator[bytes]:
        """On a bridge nft checks the frame's own type for ARP and ICMPv6, and what the kernel made of it for IP."""
        if not protocol or protocol in self.known or protocol == self.family:
            return
        self.known.add(protocol)
        if protocol in _L4:
            if protocol == "icmpv6":
                yield from self._depend("ip6", from_frame=True)
            yield _meta(_META_L4PROTO, REGISTER)
            yield _compare(_EQUAL, bytes((_L4[protocol],)))
        elif self.family == "bridge":
            is_frame = from_frame or protocol == "arp"
            yield _payload(_LINK, 12, 2, REGISTER) if is_frame else _meta(_META_PROTOCOL, REGISTER)
            yield _compare(_EQUAL, _ETHERTYPES[protocol])
        else:
            yield _meta(_META_NFPROTO, REGISTER)
            yield _compare(_EQUAL, bytes((NFPROTO[protocol],)))


@lru_cache(1024)
def _load_field(one: Field, register: int) -> bytes:
    if one in _PAYLOAD:
        base, offset, _ = _PAYLOAD[one]
        return _payload(base, offset, one.type.size, register)
    if one in _META:
        return _meta(_META[one], register)
    if one in _CT:
        return _expression("ct", attr(2, be32(_CT[one])), attr(1, _register(register)))
    flags, result = attr(3, be32(_FIB[one])), attr(2, be32(_FIB_ADDRTYPE))
    return _expression("fib", flags, result, attr(1, _register(register)))


def _name(kind: int, name: str) -> bytes:
    return attr(kind, name.encode() + b"\0")


def _lookup_map(name: str, into: int) -> bytes:
    return _expression("lookup", attr(2, _register(REGISTER)), attr(3, _register(into)), _name(1, name))


def _dnat(version: int) -> bytes:
    """The address is in the first register, the port behind it."""
    address, port = REGISTER, REGISTER + (1 if version == 4 else 4)
    family = attr(2, be32(NFPROTO["ip" if version == 4 else "ip6"]))
    to = (attr(3, _register(address)), attr(5, _register(port)))
    return _expression("nat", attr(1, be32(_NF_NAT_DNAT)), family, *to)


def _note(note: Note) -> bytes:
    counter = nested(7, attr(1, b"counter\0")) if note.counter else b""
    operation, key = attr(3, be32(_DYNSET_UPDATE)), attr(4, _register(REGISTER))
    return _expression("dynset", operation, key, counter, _name(1, note.set_name))


def _limit(limit: Limit) -> bytes:
    """Packets, not bytes, a second."""
    rate, second = attr(1, struct.pack("!Q", limit.per_second)), attr(2, struct.pack("!Q", 1))
    return _expression("limit", rate, second, attr(3, be32(limit.burst)), attr(4, be32(0)), attr(5, be32(0)))


def _log(log: Log) -> bytes:
    prefix = _name(2, log.prefix) if log.prefix else b""
    snaplen = attr(3, be32(log.snaplen)) if log.snaplen else b""
    return _expression("log", attr(1, struct.pack("!H", log.group)), prefix, snaplen)
