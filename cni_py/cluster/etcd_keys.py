"""cni-py's own keys in etcd: who a node is, and whose a network is, both under one lease of the node.

    PREFIX/nodes/IDENTITY         {"name": "n1", "version": 1, "ipv4": "192.0.2.1", "cidrs": ["10.244.1.0/24"], ...}
    PREFIX/subnets/10.244.1.0-24  IDENTITY

A network is the node's that its key names; as long as it has none, the node's whose record has it. A key that somebody
made by hand, without a lease, reserves it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from cni_py.cluster.etcd_client import Txn
from cni_py.cluster.etcd_wire import KeyValue
from cni_py.cluster.keyspace import Entries, Entry, Plan, TakenError, checked_root, cidr_text, label, trimmed
from cni_py.cluster.record import checked_name, parse, parse_cidrs, render, shown
from cni_py.cluster.subnets import Pool, choose, overlapping
from cni_py.model.errors import DecodeError, InvalidConfigError
from cni_py.model.overlay import Node
from cni_py.model.peers import View
from cni_py.model.result import IPNetwork

_IDENTITY = re.compile(r"[0-9a-zA-Z](?:[-._0-9a-zA-Z]{0,62}[0-9a-zA-Z])?")


@dataclass(frozen=True, slots=True)
class EtcdKeys:
    """The keyspace of a cluster as this node has it. Raises InvalidConfigError.

    A node has `cidrs` if there are any, else one network of each of the `pools`.
    """

    cluster: str
    name: str
    identity: str
    pools: tuple[Pool, ...] = ()
    cidrs: tuple[IPNetwork, ...] = ()
    root: str = ""

    def __post_init__(self) -> None:
        try:
            checked_name(self.name)
        except DecodeError as error:
            raise InvalidConfigError(error.message, "letters, digits, and within -, . and _") from None
        if not _IDENTITY.fullmatch(self.identity):
            raise InvalidConfigError(
                f"{shown(self.identity)} is no identity of a node", "letters and digits, 64 at most"
            )
        checked_root(self._root)
        if not self.pools and not self.cidrs:
            raise InvalidConfigError("there is no pool that nodes take their networks from", "such as 10.244.0.0/16")
        if len({pool.cidr.version for pool in self.pools}) != len(self.pools):
            raise InvalidConfigError("there are two pools of one family", "one of IPv4, one of IPv6")

    @property
    def _root(self) -> str:
        return self.root or f"/cni-py/{self.cluster}"

    @property
    def prefix(self) -> bytes:
        """See Keyspace."""
        return f"{self._root}/".encode()

    def node_key(self, identity: str) -> bytes:
        """Where the node's record is."""
        return f"{self._root}/nodes/{identity}".encode()

    def subnet_key(self, cidr: IPNetwork) -> bytes:
        """Where it says whose the network is."""
        return f"{self._root}/subnets/{cidr_text(cidr)}".encode()

    def entry(self, kv: KeyValue) -> Entry:
        """See Keyspace."""
        kv = trimmed(kv)
        kind, _, rest = kv.key[len(self.prefix) :].decode("utf-8", "replace").partition("/")
        try:
            match kind:
                case "nodes":
                    return Entry(kv, rest, self._node(kv, rest))
                case "subnets":
                    return self._subnet(kv, rest)
        except DecodeError as error:
            return Entry(kv, reason=error.message)
        return Entry(kv, reason="this is no key of cni-py")

    def own(self, entries: Entries) -> Entry | None:
        """See Keyspace."""
        return entries.get(self.node_key(self.identity))

    def view(self, entries: Entries) -> View:
        """See Keyspace. Of two nodes of one name the one that was there first counts."""
        skipped = {label(entry.kv.key): entry.reason for entry in entries.values() if entry.reason}
        nodes: dict[str, Node] = {}
        for entry, node in sorted(_nodes(entries), key=lambda one: (one[1].since, one[1].uid)):
            if node.name == self.name and node.uid != self.identity:
                skipped[label(entry.kv.key)] = f"it has the name {node.name}, which is this node's"
            elif node.name in nodes:
                skipped[label(entry.kv.key)] = f"it has the name {node.name}, as {nodes[node.name].uid} had before"
            elif foreign := self._foreign(entries, node):
                skipped[label(entry.kv.key)] = f"{foreign.cidrs[0]} is not its own but that of {_owner(foreign)}"
            elif node.cidrs and (node.ip4 or node.ip6):
                nodes[node.name] = node
        return View(MappingProxyType(nodes), MappingProxyType(skipped))

    def plan(self, entries: Entries, node: Node, held: tuple[IPNetwork, ...], lease: int) -> Plan:
        """See Keyspace."""
        own = self.own(entries)
        self._name_is_free(entries, own)
        wanted = self._wanted(entries, own, held)
        self._are_free(entries, wanted, held)
        record = {"name": self.name, **json.loads(render(replace(node, cidrs=wanted), cidrs=True))}
        values = {self.subnet_key(cidr): self.identity.encode() for cidr in wanted}
        keys = {**values, self.node_key(self.identity): json.dumps(record, separators=(",", ":")).encode()}
        puts = {
            key: value
            for key, value in keys.items()
            if (there := entries.get(key)) is None
            or there.kv.value != value
            or (there.kv.lease != lease and (there.kv.lease or key not in values))
        }
        stale = [key for key, entry in self._owned(entries) if key not in keys and entry.kv.lease]
        if not puts and not stale:
            return Plan(wanted)
        expected = {key: entries[key].kv.mod_revision if key in entries else 0 for key in (*keys, *stale)}
        return Plan(wanted, Txn(expected, puts, tuple(stale)))

    def _node(self, kv: KeyValue, identity: str) -> Node:
        if not _IDENTITY.fullmatch(identity):
            raise DecodeError(f"{shown(identity)} is no identity of a node")
        parse(kv.value, "unnamed", self.cluster)  # a record; what is in it may be its name
        name = json.loads(kv.value).get("name")
        if not isinstance(name, str):
            raise DecodeError(f"name: {shown(name)} is no name of a node")
        return replace(parse(kv.value, name, self.cluster), uid=identity, since=kv.create_revision)

    def _subnet(self, kv: KeyValue, text: str) -> Entry:
        cidr = parse_cidrs(["/".join(text.rsplit("-", 1))])[0]
        if cidr_text(cidr) != text:
            raise DecodeError(f"{shown(text)} is no network as it is written in a key")
        owner = kv.value.decode("utf-8", "replace")
        if not _IDENTITY.fullmatch(owner):
            return Entry(kv, cidrs=(cidr,), reason=f"{shown(owner)} is no identity of a node")
        return Entry(kv, owner, cidrs=(cidr,))

    def _foreign(self, entries: Entries, node: Node) -> Entry | None:
        """A network that the node calls its own and that is another's."""
        keys = (entries.get(self.subnet_key(cidr)) for cidr in node.cidrs)
        return next((one for one in keys if one is not None and one.identity != node.uid), None)

    def _owned(self, entries: Entries) -> Iterator[tuple[bytes, Entry]]:
        return ((key, one) for key, one in entries.items() if one.cidrs and one.identity == self.identity)

    def _wanted(self, entries: Entries, own: Entry | None, held: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
        if self.cidrs:
            return self.cidrs
        recorded = own.node.cidrs if own is not None and own.node is not None else ()
        has = held or recorded or tuple(cidr for _, entry in self._owned(entries) for cidr in entry.cidrs)
        lacking = [pool for pool in self.pools if pool.cidr.version not in {cidr.version for cidr in has}]
        if not lacking:
            return has
        taken = [cidr for entry in entries.values() for cidr in entry.cidrs]
        taken += [cidr for _, node in _nodes(entries) if node.uid != self.identity for cidr in node.cidrs]
        return (*has, *(choose(pool, taken, self.identity) for pool in lacking))

    def _name_is_free(self, entries: Entries, own: Entry | None) -> None:
        for entry, node in _nodes(entries):
            first = own is None or node.since < own.kv.create_revision
            if node.name == self.name and node.uid != self.identity and first:
                raise TakenError(
                    f"the name {self.name} is that of another machine, {node.uid}",
                    f"give this node another name; or, if that machine is gone for good, delete {label(entry.kv.key)}",
                )

    def _are_free(self, entries: Entries, wanted: tuple[IPNetwork, ...], held: tuple[IPNetwork, ...]) -> None:
        for key, entry in entries.items():
            if not entry.cidrs or entry.identity == self.identity:
                continue
            cidr = overlapping(entry.cidrs[0], wanted)
            mine = entries.get(self.subnet_key(cidr)) if cidr is not None else None
            first = mine is not None and mine.identity == self.identity
            if cidr is None or (first and mine and mine.kv.create_revision < entry.kv.create_revision):
                continue
            raise TakenError(
                f"{cidr} is not this node's: {entry.cidrs[0]} belongs to {_owner(entry)}",
                (
                    "pods of this node keep running, no new ones: drain it, then start it without its old networks"
                    if held
                    else "this node has not joined: give it other networks"
                )
                + f"; or, if the other is wrong, delete {label(key)}",
            )


def _nodes(entries: Entries) -> Iterator[tuple[Entry, Node]]:
    return ((entry, entry.node) for entry in entries.values() if entry.node is not None)


def _owner(entry: Entry) -> str:
    return entry.identity or "nobody that can be read"
