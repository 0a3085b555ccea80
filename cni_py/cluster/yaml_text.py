"""YAML as far as records and settings need it, which operators and tools write; nothing that surprises."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import yaml

from cni_py.cluster.record import shown
from cni_py.model.errors import DecodeError


def load_yaml(data: bytes) -> object:
    """What the text says. Raises DecodeError, in one printable line."""
    with _told():
        return yaml.load(data, _Loader)  # noqa: S506  # a SafeLoader of fewer types


def load_yaml_stream(data: bytes) -> list[object]:
    """What each of the documents between `---` says; an empty one is None. Raises DecodeError as `load_yaml`."""
    with _told():
        return list(yaml.load_all(data, _Loader))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise DecodeError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise DecodeError(f"it is no YAML: {shown(' '.join(str(error).split()))}") from None


class _Loader(yaml.SafeLoader):
    """Text, whole numbers, true and false, lists, mappings: a MAC of digits is no number of base 60.

    No key twice, and no aliases, of which a few lines can make more than there is memory for.
    """

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # as the base class

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401  # as the base class
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not for this")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401, FBT001, FBT002
        keys = [key.value for key, _ in node.value]
        if len({*map(str, keys)}) != len(keys):
            raise yaml.YAMLError("a key is there twice")
        with suppress(TypeError):
            return super().construct_mapping(node, deep)
        raise yaml.YAMLError("a key is no text")


for _tag, _pattern, _first in (
    ("int", r"(?:0|[1-9][0-9]*)$", list("0123456789")),
    ("bool", r"(?:true|false)$", ["t", "f"]),
    ("null", r"(?:~|null|)$", ["~", "n", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
