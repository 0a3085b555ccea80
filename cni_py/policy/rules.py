"""The rules of a NetworkPolicy, from plain documents: peers, IP blocks and ports.

Only what is understood to the last field is a peer or a port. What is not is left out of its list, and a list of which
nothing is left matches nothing: it never becomes the missing list, which matches all.
"""

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import TypeVar

from cni_py.model.errors import DecodeError
from cni_py.model.policy import (
    CIDR,
    LAST_PORT,
    SCTP,
    TCP,
    UDP,
    Direction,
    IpBlock,
    Peer,
    Pods,
    Port,
    Rule,
    Selector,
)
from cni_py.policy.plain import Document, Flaws, listed, mapping, only, shown
from cni_py.policy.selectors import selector

PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
PEERS_FIELD: dict[Direction, str] = {"ingress": "from", "egress": "to"}
_NOTHING = Rule((), ())
# IANA's service names, to which the API holds the names of ports: 15 characters, a letter among them.
_PORT_NAME = re.compile(r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_CIDR = re.compile(r"[0-9a-fA-F.:]{2,45}/[0-9]{1,3}")
_MAPPED_BITS = 96  # ::ffff:0:0/96 is IPv4 in IPv6's clothes, which never is on the wire

T = TypeVar("T")


def rules(value: object, where: str, direction: Direction, namespace: str, flaws: Flaws) -> tuple[Rule, ...]:
    """Those of one direction, each at its place; a missing list is an empty one and allows nothing."""
    try:
        documents = listed(value, where)
    except DecodeError as error:
        flaws.add(error.message)
        return ()
    return tuple(_rule(one, f"{where}[{at}]", direction, namespace, flaws) for at, one in enumerate(documents))


def port_number(value: object, where: str) -> int:
    """A port, 1 to 65535. Raises DecodeError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LAST_PORT:
        raise DecodeError(f"{where}: {shown(value)} is no port, which is 1 to {LAST_PORT}")
    return value


def port_name(value: object, where: str) -> str:
    """A name that a container's port can have. Raises DecodeError."""
    if not isinstance(value, str) or not _PORT_NAME.fullmatch(value):
        raise DecodeError(f"{where}: {shown(value)} is no name of a port")
    return value


def protocol(value: object, where: str) -> int:
    """Its number; TCP where none is given. Raises DecodeError."""
    number = TCP if value is None else PROTOCOLS.get(value) if isinstance(value, str) else None
    if number is None:
        raise DecodeError(f"{where}: {shown(value)} is none of {', '.join(PROTOCOLS)}")
    return number


def _rule(value: object, where: str, direction: Direction, namespace: str, flaws: Flaws) -> Rule:
    field = PEERS_FIELD[direction]
    try:
        document = _object(value, where)
        only(document, (field, "ports"), where)
    except DecodeError as error:
        flaws.add(error.message)
        return _NOTHING
    return Rule(
        _each(document.get(field), f"{where}.{field}", lambda one, at: _peer(one, at, namespace), flaws),
        _each(document.get("ports"), f"{where}.ports", _port, flaws),
    )


def _each(value: object, where: str, read: Callable[[object, str], T], flaws: Flaws) -> tuple[T, ...] | None:
    """What could be read of a list; None if nothing was ever in it."""
    try:
        documents = listed(value, where)
    except DecodeError as error:
        flaws.add(error.message)
        return ()
    if not documents:
        return None
    kept = []
    for at, one in enumerate(documents):
        try:
            kept.append(read(one, f"{where}[{at}]"))
        except DecodeError as error:
            flaws.add(error.message)
    return tuple(kept)


def _peer(value: object, where: str, namespace: str) -> Peer:
    document = _object(value, where)
    only(document, ("podSelector", "namespaceSelector", "ipBlock"), where)
    pods, namespaces, block = (document.get(key) for key in ("podSelector", "namespaceSelector", "ipBlock"))
    if block is not None:
        if pods is not None or namespaces is not None:
            raise DecodeError(f"{where}: an ipBlock stands alone, without selectors")
        return _ip_block(block, f"{where}.ipBlock")
    if pods is None and namespaces is None:
        raise DecodeError(f"{where}: it has no field, so it is nobody")
    return Pods(
        namespace if namespaces is None else selector(namespaces, f"{where}.namespaceSelector"),
        Selector() if pods is None else selector(pods, f"{where}.podSelector"),
    )


def _ip_block(value: object, where: str) -> IpBlock:
    document = _object(value, where)
    only(document, ("cidr", "except"), where)
    cidr = _cidr(document.get("cidr"), f"{where}.cidr")
    excepts = set()
    for at, one in enumerate(listed(document.get("except"), f"{where}.except")):
        part = _cidr(one, f"{where}.except[{at}]")
        if not _within(part, cidr):  # whoever wrote it wanted something kept out, and nobody knows what
            raise DecodeError(f"{where}.except[{at}]: {part} is not within {cidr}")
        excepts.add(part)
    return IpBlock(cidr, tuple(sorted(excepts, key=lambda one: (one.network_address.packed, one.prefixlen))))


def _cidr(value: object, where: str) -> CIDR:
    """Host bits are masked, as the API passes them."""
    try:
        cidr = ip_network(value, strict=False) if isinstance(value, str) and _CIDR.fullmatch(value) else None
    except ValueError:
        cidr = None
    if cidr is None:
        raise DecodeError(f"{where}: {shown(value)} is no CIDR")
    if cidr.prefixlen >= _MAPPED_BITS and getattr(cidr.network_address, "ipv4_mapped", None) is not None:
        raise DecodeError(f"{where}: {cidr} is IPv4 written as IPv6")
    return cidr


def _within(part: CIDR, cidr: CIDR) -> bool:
    return part.version == cidr.version and cidr.prefixlen <= part.prefixlen and part.network_address in cidr


def _port(value: object, where: str) -> Port:
    document = _object(value, where)
    only(document, ("protocol", "port", "endPort"), where)
    number = protocol(document.get("protocol"), f"{where}.protocol")
    first, last = document.get("port"), document.get("endPort")
    if isinstance(first, str) or first is None:
        if last is not None:
            raise DecodeError(f"{where}: an endPort is for a port that is a number")
        return Port(number) if first is None else Port(number, name=port_name(first, f"{where}.port"))
    low = port_number(first, f"{where}.port")
    high = low if last is None else port_number(last, f"{where}.endPort")
    if high < low:
        raise DecodeError(f"{where}: the endPort {high} is below the port {low}")
    return Port(number, low, high)


def _object(value: object, where: str) -> Document:
    """As `mapping`, but null is none: an element of a list that says nothing is a mistake, not a wildcard."""
    if value is None:
        raise DecodeError(f"{where}: null is no object")
    return mapping(value, where)
