"""The rules of a table carried out on one packet, in Python: what nftables would do with the first of a connection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cni_py.model.nft import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    FlushChain,
    Layout,
    Operation,
)
from cni_py.model.nft_expr import (
    AnyOf,
    Between,
    Counter,
    Expression,
    Field,
    Limit,
    Log,
    Lookup,
    Match,
    Network,
    Note,
    Range,
    Scalar,
    Verdict,
    VerdictMap,
)
from cni_py.model.nft_objects import Element, Rule
from cni_py.model.policy import SCTP, TCP, UDP, Flow
from cni_py.policy.program import Contents

Key = tuple[Scalar, ...] | Range
_PORTS = {Field.TCP_DPORT: TCP, Field.UDP_DPORT: UDP, Field.SCTP_DPORT: SCTP}


@dataclass
class Table:
    """Chains and elements by name, as the kernel would have them; refuses what it would refuse."""

    rules: dict[str, list[tuple[Expression, ...]]] = field(default_factory=dict)
    sets: dict[str, dict[Key, Element]] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, contents: Contents) -> "Table":
        """The layout, with all that is to be in it."""
        table = cls()
        for chain in layout.chains:
            table.rules[chain.name] = []
        for one in layout.sets:
            table.sets[one.name] = {}
        for rule in layout.rules:
            table.rules[rule.chain.name].append(rule.expressions)
        for one, elements in contents.sets.items():
            table.sets[one.name] = dict(elements)
        for name, compiled in contents.chains.items():
            table.rules[name] = [rule.expressions for rule in compiled.rules]
        return table

    def carry_out(self, operations: Sequence[Operation]) -> None:  # noqa: C901, PLR0912  # one case an operation
        """One transaction. AssertionError where the kernel would refuse it."""
        for operation in operations:
            match operation:
                case AddSet(one):
                    assert one.name not in self.sets, one.name
                    self.sets[one.name] = {}
                case AddChain(chain):
                    assert chain.name not in self.rules, chain.name
                    self.rules[chain.name] = []
                case AddRule(rule):
                    self._check(rule)
                    self.rules[rule.chain.name].append(rule.expressions)
                case AddElements(one, elements):
                    for element in elements:
                        assert self.sets[one.name].get(element.key, element) == element
                        if isinstance(element.value, Verdict):
                            assert element.value.chain in self.rules
                        self.sets[one.name][element.key] = element
                case DeleteElements(one, elements):
                    for element in elements:
                        del self.sets[one.name][element.key]
                case FlushChain(chain):
                    self.rules[chain.name].clear()
                case DeleteChain(chain):
                    assert not self.rules.pop(chain.name)
                    used = (one.value for elements in self.sets.values() for one in elements.values())
                    assert all(one.chain != chain.name for one in used if isinstance(one, Verdict)), chain.name
                case DeleteSet(one):
                    del self.sets[one.name]
                    assert not any(one.name in _names(body) for rules in self.rules.values() for body in rules)
                case _:
                    raise AssertionError(operation)

    def _check(self, rule: Rule) -> None:
        for name in _names(rule.expressions):
            assert name in self.sets or name in self.rules, name

    def judge(self, flow: Flow, hook: str = "c_forward") -> tuple[bool, tuple[str, ...]]:
        """True if the first packet of that connection passes; and the sets that it was noted in."""
        noted: list[str] = []
        verdict = self._run(hook, _packet(flow), noted)
        return verdict != "drop", tuple(noted)

    def _run(self, chain: str, packet: Mapping[Field, Scalar], noted: list[str]) -> str:
        for body in self.rules[chain]:
            verdict = self._rule(body, packet, noted)
            if verdict in ("accept", "drop", "return"):
                return verdict if verdict != "return" else ""
            if verdict == "end":  # of a chain that was gone to: its caller goes on
                return ""
        return ""

    def _rule(self, body: tuple[Expression, ...], packet: Mapping[Field, Scalar], noted: list[str]) -> str:
        """`accept`, `drop`, `return`, `end`, or "" to go on with the next rule."""
        for expression in body:
            match expression:
                case Counter() | Limit() | Log():
                    continue
                case Note(_, name):
                    if not all(one in packet for one in expression.fields):
                        return ""
                    noted.append(name)
                case Verdict():
                    return self._follow(expression, packet, noted)
                case VerdictMap(fields, name):
                    key = tuple(packet[one] for one in fields if one in packet)
                    element = self.sets[name].get(key) if len(key) == len(fields) else None
                    if element is None:
                        return ""
                    assert isinstance(element.value, Verdict)
                    return self._follow(element.value, packet, noted)
                case _:
                    if not self._matches(expression, packet):
                        return ""
        return ""

    def _follow(self, verdict: Verdict, packet: Mapping[Field, Scalar], noted: list[str]) -> str:
        if verdict.kind not in ("jump", "goto"):
            return verdict.kind
        result = self._run(verdict.chain, packet, noted)
        return result or ("" if verdict.kind == "jump" else "end")

    def _matches(self, expression: Expression, packet: Mapping[Field, Scalar]) -> bool:
        match expression:
            case Match(one, value):
                if one not in packet:
                    return False
                seen = packet[one] in value if isinstance(value, Network) else packet[one] == value
                return seen != expression.negate
            case Between(one, first, last):
                return one in packet and first <= int(packet[one]) <= last
            case AnyOf(Field.CT_STATE, names):
                return "new" in names
            case Lookup(fields, name):
                if not all(one in packet for one in fields):
                    return False
                return self._has(name, tuple(packet[one] for one in fields)) != expression.negate
            case _:
                raise AssertionError(expression)

    def _has(self, name: str, key: tuple[Scalar, ...]) -> bool:
        if key in self.sets[name]:
            return True
        ranges = (one for one in self.sets[name] if isinstance(one, Range))
        return any(one.first <= key[0] <= one.last for one in ranges)  # type: ignore[operator]  # one version a set


def _packet(flow: Flow) -> dict[Field, Scalar]:
    four = flow.source.version == 4
    packet: dict[Field, Scalar] = {
        Field.IP_SADDR if four else Field.IP6_SADDR: flow.source,
        Field.IP_DADDR if four else Field.IP6_DADDR: flow.destination,
        Field.L4PROTO: flow.protocol,
        Field.TH_SPORT: 40000,
        Field.TH_DPORT: flow.port,
        Field.CT_DIRECTION: 0,
    }
    return packet | {one: flow.port for one, protocol in _PORTS.items() if protocol == flow.protocol}


def _names(body: Sequence[Expression]) -> list[str]:
    """The sets and chains that a rule refers to."""
    found: list[str] = []
    for one in body:
        match one:
            case Lookup(_, name) | VerdictMap(_, name) | Note(_, name):
                found.append(name)
            case Verdict(_, chain) if chain:
                found.append(chain)
            case _:
                pass
    return found
