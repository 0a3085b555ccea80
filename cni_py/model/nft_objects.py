"""What an nftables table holds: chains, rules, sets and maps, and their elements, as values with their nft text."""

from collections.abc import Iterable
from dataclasses import dataclass

from cni_py.model.nft_expr import DataType, Expression, Field, Range, Scalar, Verdict, concat

COMMENT_BYTES = 127  # nft refuses more than 128 with the final NUL


def comment_text(comment: str) -> str:
    """` comment "..."`, or nothing; nft's text has no way to write a quote or a line end inside one."""
    return f' comment "{clean_comment(comment)}"' if comment else ""


def clean_comment(comment: str) -> str:
    """A comment that nft can print: no quotes, no control characters, not too long."""
    plain = "".join("'" if character == '"' else character if character.isprintable() else "?" for character in comment)
    return plain.encode()[:COMMENT_BYTES].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class Table:
    """`family` is ip, ip6, inet or bridge."""

    family: str
    name: str

    def text(self) -> str:
        """`inet cnipy_nat`."""
        return f"{self.family} {self.name}"


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain sits: `type` filter or nat, lower `priority` first. The policy is always accept."""

    type: str
    hook: str
    priority: int

    def text(self) -> str:
        """`{ type nat hook postrouting priority 100; policy accept; }`."""
        return f"{{ type {self.type} hook {self.hook} priority {self.priority}; policy accept; }}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain if it has a hook."""

    table: Table
    name: str
    hook: Hook | None = None

    def text(self) -> str:
        """`inet cnipy_nat postrouting`."""
        return f"{self.table.text()} {self.name}"


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or a map when it has data: a concatenation of types, or the string "verdict".

    `interval`: its elements are disjoint `Range`s; only for a key of one address. `fields`: what a key is made of, for
    one with a raw type, which nft knows no other way to declare. `timeout`: seconds after which an element goes, 0 for
    never. `size`: rules add the elements (`Note`), and not more than so many.
    """

    table: Table
    name: str
    key: tuple[DataType, ...]
    data: tuple[DataType, ...] | str = ()
    interval: bool = False
    comment: str = ""
    fields: tuple[Field, ...] = ()
    timeout: int = 0
    size: int = 0

    def text(self) -> str:
        """`inet cnipy_nat masq4`."""
        return f"{self.table.text()} {self.name}"

    def definition(self) -> str:
        """`{ type ipv4_addr; flags interval; }`."""
        data = "verdict" if self.data == "verdict" else _types(self.data)
        named = (("interval", self.interval), ("dynamic", self.size > 0), ("timeout", self.timeout > 0))
        flags = ",".join(name for name, has in named if has)
        flags = f" flags {flags};" if flags else ""
        size = f" size {self.size};" if self.size else ""
        timeout = f" timeout {self.timeout}s;" if self.timeout else ""
        comment = f"{comment_text(self.comment)};" if self.comment else ""
        key = f"typeof {concat(self.fields)}" if self.fields else f"type {_types(self.key)}"
        return f"{{ {key}{' : ' if data else ''}{data};{size}{flags}{timeout}{comment} }}"

    @property
    def noun(self) -> str:
        """`set` or `map`."""
        return "map" if self.data else "set"


def _types(types: Iterable[DataType | str]) -> str:
    return " . ".join(one.label for one in types if isinstance(one, DataType))


@dataclass(frozen=True, slots=True)
class Element:
    """A key and, in a map, its value: scalars in the order of the set's types, one `Range` in an interval set."""

    key: tuple[Scalar, ...] | Range
    value: tuple[Scalar, ...] | Verdict | None = None
    comment: str = ""

    def text(self, of: Set) -> str:
        """`tcp . 80 comment "c1" : 10.0.0.2 . 8080`."""
        key = self.key_text(of)
        value = self.value_text(of)
        return f"{key}{comment_text(self.comment)}{' : ' if value else ''}{value}"

    def key_text(self, of: Set) -> str:
        """`tcp . 80`."""
        return self.key.text() if isinstance(self.key, Range) else _scalars(of.key, self.key)

    def value_text(self, of: Set) -> str:
        """`10.0.0.2 . 8080`, or nothing in a set."""
        if isinstance(self.value, Verdict):
            return self.value.text()
        return _scalars(of.data, self.value or ())


def _scalars(types: Iterable[DataType | str], scalars: tuple[Scalar, ...]) -> str:
    pairs = zip(types, scalars, strict=False)
    return " . ".join(kind.text(scalar) for kind, scalar in pairs if isinstance(kind, DataType))


@dataclass(frozen=True, slots=True)
class Rule:
    """Expressions in order; the first that does not match ends the rule."""

    chain: Chain
    expressions: tuple[Expression, ...]
    comment: str = ""

    def text(self) -> str:
        """`inet t c ip saddr @masq4 masquerade`."""
        body = " ".join(expression.text() for expression in self.expressions)
        return f"{self.chain.text()} {body}{comment_text(self.comment)}"
