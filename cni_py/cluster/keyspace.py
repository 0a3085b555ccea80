"""What a source that keeps nodes in etcd has to know of the keys: how they are read, and what is to be written. Pure.

The source mirrors all keys below a prefix. A keyspace says what they mean, and what this node would have to change.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cni_py.cluster.etcd_client import Txn
from cni_py.cluster.etcd_wire import KeyValue
from cni_py.cluster.record import MAX_BYTES, shown
from cni_py.model.errors import ExistsError, InvalidConfigError
from cni_py.model.overlay import Node
from cni_py.model.peers import View
from cni_py.model.result import IPNetwork

_LONGEST_KEY = 300
_ROOT = re.compile(r"(?:/[-._0-9a-zA-Z]+)+")


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and what it says: whose it is, a node, networks that are taken, or why it is not believed."""

    kv: KeyValue
    identity: str = ""
    node: Node | None = None
    cidrs: tuple[IPNetwork, ...] = ()
    reason: str = ""


Entries = Mapping[bytes, Entry]


@dataclass(frozen=True, slots=True)
class Plan:
    """The networks that this node is to have, and what makes them its own; no `txn`: they are."""

    cidrs: tuple[IPNetwork, ...]
    txn: Txn | None = None


class TakenError(ExistsError):
    """What the node has or wants is somebody else's: a network, or its name. The operator decides between the two."""


class Keyspace(Protocol):
    """How nodes are kept below a prefix. `identity` and `name` are this node's."""

    @property
    def prefix(self) -> bytes:
        """All keys begin so."""

    @property
    def identity(self) -> str:
        """Who this node is, whatever its name and addresses are."""

    @property
    def name(self) -> str:
        """This node's name."""

    def entry(self, kv: KeyValue) -> Entry:
        """What the key says; never an error."""

    def view(self, entries: Entries) -> View:
        """All nodes; of this name none but this one."""

    def own(self, entries: Entries) -> Entry | None:
        """The key that this node is told by."""

    def plan(self, entries: Entries, node: Node, held: tuple[IPNetwork, ...], lease: int) -> Plan:
        """What is to be there of this node, under that lease. `held`: the networks that it has or had, and no others.

        Raises CniPyError if it is not to write: TakenError, NoAddressError, InvalidConfigError.
        """


def checked_root(root: str) -> None:
    """A prefix of keys, without the slash behind it. Raises InvalidConfigError."""
    if not _ROOT.fullmatch(root):
        raise InvalidConfigError(f"{shown(root)} is no prefix of keys", "such as /cni-py/production")


def trimmed(kv: KeyValue) -> KeyValue:
    """Without what is no record for its size anyway."""
    if len(kv.value) <= MAX_BYTES:
        return kv
    return KeyValue(kv.key, kv.value[: MAX_BYTES + 1], kv.create_revision, kv.mod_revision, kv.lease)


def label(key: bytes) -> str:
    """A key for people."""
    text = key[:_LONGEST_KEY].decode("ascii", "backslashreplace")
    return text if text.isprintable() else shown(text)


def cidr_text(cidr: IPNetwork) -> str:
    """A network as a part of a key, in which a slash has another meaning: 10.244.1.0-24."""
    return str(cidr).replace("/", "-")
