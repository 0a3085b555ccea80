"""Label selectors and labels, from plain documents."""

import sys
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import get_args

from cni_py.model.errors import DecodeError
from cni_py.model.policy import Operator, Requirement, Selector
from cni_py.policy.plain import listed, mapping, only, shown, text

_OPERATORS: dict[str, Operator] = {name: name for name in get_args(Operator)}


def selector(value: object, where: str) -> Selector:
    """A LabelSelector, canonical: what means the same in other words is equal, `matchLabels` being an In of one value.

    Raises DecodeError. All of it is one term: without a part that is not understood it would select more. Keys and
    values are held to no pattern: the API passes older ones that no label can have, and such match as they should.
    """
    document = mapping(value, where)
    only(document, ("matchLabels", "matchExpressions"), where)
    equal = labels(document.get("matchLabels"), f"{where}.matchLabels")
    requirements = {Requirement(key, "In", (value,)) for key, value in equal.items()}
    for at, one in enumerate(listed(document.get("matchExpressions"), f"{where}.matchExpressions")):
        requirements.add(_requirement(one, f"{where}.matchExpressions[{at}]"))
    return Selector(tuple(sorted(requirements)))


def labels(value: object, where: str) -> Mapping[str, str]:
    """Text by text; one mapping for all that are equal, as those of a deployment's pods are. Raises DecodeError."""
    pairs = []
    for key, one in mapping(value, where).items():
        if not isinstance(one, str):
            raise DecodeError(f"{where}: {shown(one)}, the value of {shown(key)}, is no text (YAML: put it in quotes)")
        pairs.append((text(key, where), one))
    return _shared(tuple(sorted(pairs)))


@lru_cache(4096)  # kinds of pods, which are far fewer than pods; one that was forgotten is only made twice
def _shared(pairs: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return MappingProxyType({sys.intern(key): sys.intern(value) for key, value in pairs})


def _requirement(value: object, where: str) -> Requirement:
    document = mapping(value, where)
    only(document, ("key", "operator", "values"), where)
    key = text(document.get("key"), f"{where}.key")
    operator = _OPERATORS.get(str(document.get("operator")))
    if operator is None:
        raise DecodeError(f"{where}.operator: {shown(document.get('operator'))} is none of {', '.join(_OPERATORS)}")
    values = {text(one, f"{where}.values") for one in listed(document.get("values"), f"{where}.values")}
    if bool(values) != (operator in ("In", "NotIn")):
        raise DecodeError(f"{where}: {operator} {'has no' if values else 'needs'} values")
    return Requirement(key, operator, tuple(sorted(values)))
