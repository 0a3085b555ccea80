"""Policies -> one chain: the rules that a list of policies comes to for one direction, and the sets that these need.

All pods that have the same list share the chain, all rules that have the same selector share its set. Names are hashes
of what a chain or a set means, so two nodes, or one before and after a restart, name the same things alike.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cni_py.model.nft_expr import RETURN, Between, Counter, DataType, Expression, Field, Lookup, Match, Range
from cni_py.model.nft_objects import Chain, Element, Rule, Set, clean_comment
from cni_py.model.policy import LAST_PORT, SCTP, TCP, UDP, Direction, IpBlock, Pods, Policy, Port
from cni_py.model.policy import Rule as PolicyRule
from cni_py.policy.cidrs import union
from cni_py.policy.index import EVERY_POD, Member, subject
from cni_py.policy.table import ADDRESS, DESTINATION, SOURCE, TABLE, VERSIONS, end

_PORT_FIELDS = {TCP: Field.TCP_DPORT, UDP: Field.UDP_DPORT, SCTP: Field.SCTP_DPORT}


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of one version that the pods of a selector have."""

    pods: Pods
    version: int

    def set(self) -> Set:
        """Where they are in the table."""
        return Set(TABLE, _name(f"s{self.version}", repr(self.pods)), (ADDRESS[self.version],))

    def elements(self, member: Member) -> Iterator[Element]:
        """Those of one pod."""
        return (Element((one,)) for one in member.addresses if one.version == self.version)


@dataclass(frozen=True, slots=True)
class NamedPorts:
    """Where a name of ports leads, for the pods of a selector: (address, protocol, number)."""

    pods: Pods
    version: int
    protocol: int
    name: str

    def set(self) -> Set:
        """Where they are in the table."""
        key = (ADDRESS[self.version], DataType.PROTOCOL, DataType.SERVICE)
        return Set(TABLE, _name(f"n{self.version}", repr((self.pods, self.protocol, self.name))), key)

    def elements(self, member: Member) -> Iterator[Element]:
        """Those of one pod."""
        ports = {one.number for one in member.ports if (one.name, one.protocol) == (self.name, self.protocol)}
        for address in member.addresses if ports else ():
            if address.version == self.version:
                for number in sorted(ports):
                    yield Element((address, self.protocol, number))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Ranges of addresses, disjoint and in order."""

    version: int
    ranges: tuple[Range, ...]

    def set(self) -> Set:
        """Where they are in the table."""
        text = ",".join(one.text() for one in self.ranges)
        return Set(TABLE, _name(f"b{self.version}", text), (ADDRESS[self.version],), interval=True)


Needed = Addresses | NamedPorts | Blocks


@dataclass(frozen=True, slots=True)
class Compiled:
    """A chain, its rules, and the sets that the rules look into."""

    chain: Chain
    rules: tuple[Rule, ...]
    needs: frozenset[Needed]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way in which a rule matches packets of a version, None for any: what is looked at, and the sets for that."""

    version: int | None = None
    looks: tuple[Expression, ...] = ()
    needs: tuple[Needed, ...] = ()

    def __and__(self, other: "_Way") -> "_Way | None":
        """Both; None where no packet can be of both versions."""
        if None not in (self.version, other.version) and self.version != other.version:
            return None
        version = self.version or other.version
        return _Way(version, (*self.looks, *other.looks), (*self.needs, *other.needs))


def compile_chain(
    policies: Sequence[Policy], direction: Direction, *, audit: bool, versions: Collection[int] = VERSIONS
) -> Compiled:
    """What allows in `direction`: `policies` all restrict it, and apply to the pods whose chain this is.

    `versions` of IP are those that these pods have addresses of.
    """
    bodies: dict[tuple[Expression, ...], str] = {}
    needs = set[Needed]()
    for policy in policies:
        for number, rule in enumerate(policy.rules(direction) or ()):
            for way in _ways(rule, direction, subject(policy), versions):
                bodies.setdefault((*way.looks, Counter(), RETURN), label(policy.key, direction, number))
                needs.update(way.needs)
    last = end(direction, audit=audit)
    text = "\n".join(f"{' '.join(one.text() for one in body)} # {comment}" for body, comment in bodies.items())
    chain = Chain(TABLE, _name(direction, f"{text}\n{last.text()}"))
    rules = [Rule(chain, body, comment) for body, comment in bodies.items()]
    return Compiled(chain, (*rules, Rule(chain, (last,))), frozenset(needs))


def _ways(rule: PolicyRule, direction: Direction, subjects: Pods, versions: Collection[int]) -> Iterator[_Way]:
    """All ways in which a rule can match: any of its ports with any of its peers."""
    plain = None if rule.ports is None else tuple(one for one in rule.ports if not one.name)
    for port in (_Way(),) if plain is None else _ports(plain):
        for peer in _peers(rule, direction, versions):
            if (both := port & peer) is not None:
                yield both
    for name in dict.fromkeys(one for one in rule.ports or () if one.name):
        if direction == "ingress":
            for way in _named(name, subjects, versions):
                for peer in _peers(rule, direction, versions):
                    if (both := way & peer) is not None:
                        yield both
            continue
        # that name on one of these pods: the address says which, so the peer needs no lookup of its own
        peers = (EVERY_POD,) if rule.peers is None else tuple(one for one in rule.peers if isinstance(one, Pods))
        for pods in dict.fromkeys(peers):
            yield from _named(name, pods, versions)


def _ports(ports: Iterable[Port]) -> Iterator[_Way]:
    """Ranges that touch are one."""
    by_protocol: dict[int, list[tuple[int, int]]] = {}
    for port in sorted(ports):
        ranges = by_protocol.setdefault(port.protocol, [])
        if ranges and port.first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], port.last))
        else:
            ranges.append((port.first, port.last))
    for protocol, ranges in by_protocol.items():
        field = _PORT_FIELDS[protocol]
        for first, last in ranges:
            if (first, last) == (0, LAST_PORT):
                yield _Way(None, (Match(Field.L4PROTO, protocol),))
            elif first == last:
                yield _Way(None, (Match(field, first),))
            else:
                yield _Way(None, (Between(field, first, last),))


def _named(port: Port, pods: Pods, versions: Collection[int]) -> Iterator[_Way]:
    for version in versions:
        need = NamedPorts(pods, version, port.protocol, port.name)
        key = (DESTINATION[version], Field.L4PROTO, Field.TH_DPORT)
        yield _Way(version, (Lookup(key, set_of(need).name),), (need,))


def _peers(rule: PolicyRule, direction: Direction, versions: Collection[int]) -> Iterator[_Way]:
    if rule.peers is None:
        yield _Way()
        return
    blocks = tuple(one for one in rule.peers if isinstance(one, IpBlock))
    selectors = tuple(dict.fromkeys(one for one in rule.peers if isinstance(one, Pods)))
    for version in versions:
        field = (SOURCE if direction == "ingress" else DESTINATION)[version]
        needs: list[Needed] = [Addresses(pods, version) for pods in selectors]
        if ranges := union(blocks, version):
            needs.append(Blocks(version, ranges))
        for need in needs:
            yield _Way(version, (Lookup((field,), set_of(need).name),), (need,))


def label(policy: str, direction: Direction, number: int) -> str:
    """The comment of the rules that come of one rule of a policy."""
    return clean_comment(f"{policy} {direction} {number}")


@lru_cache(8192)
def set_of(need: Needed) -> Set:
    """The set of the table that holds it."""
    return need.set()


def _name(kind: str, meaning: str) -> str:
    """128 bits: nobody can write a selector that gets into another's set."""
    return f"{kind}_{hashlib.sha256(meaning.encode()).hexdigest()[:32]}"
