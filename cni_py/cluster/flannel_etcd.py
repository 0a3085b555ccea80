"""flannel's keys in etcd, with this node as one of flanneld's: its configuration is read, leases are as it takes them.

    PREFIX/config                              {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
    PREFIX/subnets/10.5.34.0-24                see `flannel`
    PREFIX/subnets/10.5.34.0-24&fd00:5::-64    the same with IPv6

flanneld knows a node by its public address. This one is known by its identity, which it adds to its record; it takes
over the record of a flanneld that had its address, so a node that changes from one to the other keeps its networks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network, summarize_address_range
from types import MappingProxyType
from typing import Any

from cni_py.cluster.etcd_client import Txn
from cni_py.cluster.etcd_wire import KeyValue
from cni_py.cluster.flannel import BACKENDS, PORT, VNI, decoded, record_of, value_of
from cni_py.cluster.keyspace import Entries, Entry, Plan, TakenError, checked_root, cidr_text, label, trimmed
from cni_py.cluster.record import checked_name, parse_cidrs, shown
from cni_py.cluster.subnets import Pool, choose, overlapping
from cni_py.model.errors import DecodeError, InvalidConfigError
from cni_py.model.overlay import BackendName, Node
from cni_py.model.peers import View
from cni_py.model.result import IPNetwork

_OURS = "CniPy"
_DEFAULT_LENGTH = {4: 24, 6: 64}
_FIELDS = {4: "", 6: "IPv6"}


@dataclass(frozen=True, slots=True)
class FlannelNetwork:
    """flannel's configuration: the backend of all nodes, pools, and what of them is nobody's."""

    backend: BackendName
    pools: tuple[Pool, ...]
    spared: tuple[IPNetwork, ...] = ()
    vni: int = VNI
    port: int = PORT


@dataclass(frozen=True, slots=True)
class FlannelKeys:
    """flannel's keyspace as this node has it; see `keyspace.Keyspace`. Raises InvalidConfigError."""

    name: str
    identity: str
    root: str = "/coreos.com/network"

    def __post_init__(self) -> None:
        try:
            checked_name(self.name)
            checked_name(self.identity)
        except DecodeError as error:
            raise InvalidConfigError(error.message, "letters, digits, and within -, . and _") from None
        checked_root(self.root)

    @property
    def prefix(self) -> bytes:
        """See Keyspace."""
        return f"{self.root}/".encode()

    def subnet_key(self, cidrs: tuple[IPNetwork, ...]) -> bytes:
        """Where the lease of these networks is; that of IPv4 comes first."""
        return f"{self.root}/subnets/{'&'.join(map(cidr_text, cidrs))}".encode()

    def entry(self, kv: KeyValue) -> Entry:
        """See Keyspace."""
        kv = trimmed(kv)
        path = kv.key[len(self.prefix) :].decode("utf-8", "replace")
        try:
            if path == "config":
                parse_network(kv.value)
                return Entry(kv)
            return self._lease(kv, path)
        except (DecodeError, InvalidConfigError) as error:
            return Entry(kv, reason=error.message)

    def own(self, entries: Entries) -> Entry | None:
        """See Keyspace."""
        return next((entry for entry in entries.values() if entry.identity == self.identity), None)

    def view(self, entries: Entries) -> View:
        """See Keyspace. A node of flanneld's is named by its address."""
        skipped = {label(entry.kv.key): entry.reason for entry in entries.values() if entry.reason}
        nodes: dict[str, Node] = {}
        for entry, node in sorted(_nodes(entries), key=lambda one: (one[1].since, one[0].kv.key)):
            if node.name == self.name and node.uid != self.identity:
                skipped[label(entry.kv.key)] = f"it has the name {node.name}, which is this node's"
            elif node.name in nodes:
                skipped[label(entry.kv.key)] = f"it has the name {node.name}, as another had before"
            elif node.cidrs:
                nodes[node.name] = node
        return View(MappingProxyType(nodes), MappingProxyType(skipped))

    def plan(self, entries: Entries, node: Node, held: tuple[IPNetwork, ...], lease: int) -> Plan:
        """See Keyspace."""
        network = self._network(entries, node)
        own = self.own(entries) or next(
            (entry for entry, other in _nodes(entries) if _is_flanneld(entry) and other.ip4 == node.ip4), None
        )
        others = [entry for entry in entries.values() if entry.cidrs and entry is not own]
        wanted = held or (own.cidrs if own is not None else ()) or self._chosen(network, others)
        key = self.subnet_key(wanted)
        if held:  # what stands there now is nobody's record: it is written again
            others = [entry for entry in others if entry.kv.key != key or entry.node is not None]
        for entry in others:
            first = own is not None and own.kv.key == key and own.kv.create_revision < entry.kv.create_revision
            if not first and entry.identity != self.identity and _overlap(entry.cidrs, wanted):
                raise TakenError(
                    f"{', '.join(map(str, wanted))} is not this node's: {label(entry.kv.key)} is another's",
                    "pods of this node keep running, no new ones: drain it, then start it without its old networks",
                )
        ours = {_OURS: {"name": self.name, "identity": self.identity}}
        value = value_of(replace(node, vni=network.vni), network.backend, ours)
        stale = [one for one, entry in entries.items() if entry.identity == self.identity and one != key]
        there = entries.get(key)
        if there is not None and there.kv.value == value and there.kv.lease == lease and not stale:
            return Plan(wanted)
        if own is not None and _is_flanneld(own) and own.kv.key != key:
            stale.append(own.kv.key)  # flanneld's own, for networks that this node does not want
        expected = {one: entries[one].kv.mod_revision if one in entries else 0 for one in (key, *stale)}
        return Plan(wanted, Txn(expected, {key: value}, tuple(stale)))

    def _network(self, entries: Entries, node: Node) -> FlannelNetwork:
        config = entries.get(f"{self.root}/config".encode())
        if config is None:
            raise InvalidConfigError(
                f"there is no {self.root}/config in etcd",
                'flannel\'s configuration, such as {"Network": "10.5.0.0/16"}',
            )
        network = parse_network(config.kv.value)
        if node.ip4 is None:
            raise InvalidConfigError(
                "flannel knows nodes in etcd by an IPv4 address, and this one has none", "give it one"
            )
        mine = (node.vni or network.vni, node.vxlan_port or network.port)
        if network.backend == "vxlan" and mine != (network.vni, network.port):
            raise InvalidConfigError(
                f"flannel's network has VNI {network.vni} and port {network.port}, "
                f"this node is set to VNI {mine[0]} and port {mine[1]}",
                "set the node to flannel's",
            )
        return network

    def _chosen(self, network: FlannelNetwork, others: list[Entry]) -> tuple[IPNetwork, ...]:
        taken = [*network.spared, *(cidr for entry in others for cidr in entry.cidrs)]
        return tuple(choose(pool, taken, self.identity) for pool in network.pools)

    def _lease(self, kv: KeyValue, path: str) -> Entry:
        kind, _, text = path.partition("/")
        if kind != "subnets":
            raise DecodeError("this is no key of flannel")
        cidrs = parse_cidrs(["/".join(one.rsplit("-", 1)) for one in text.split("&")])
        if self.subnet_key(cidrs) != kv.key or [cidr.version for cidr in cidrs] not in ([4], [4, 6]):
            raise DecodeError(f"{shown(text)} is no lease as flannel writes it")
        try:
            document = decoded(kv.value)
            record, (name, identity) = record_of(document), _ours(document)
            node = record.node(name or str(record.addresses[4]), cidrs)
        except DecodeError as error:
            return Entry(kv, cidrs=cidrs, reason=error.message)  # taken all the same
        return Entry(kv, identity, replace(node, uid=identity or node.name, since=kv.create_revision), cidrs)


def parse_network(value: bytes) -> FlannelNetwork:
    """As flannel is configured. Raises DecodeError, InvalidConfigError for what flanneld alone can do."""
    document = decoded(value)
    backend = document.get("Backend", {})
    if not isinstance(backend, dict):
        raise DecodeError(f"Backend: {shown(backend)} is no object")
    kind = next((one for one in BACKENDS if one == backend.get("Type", "udp")), None)
    if kind is None:
        raise InvalidConfigError(f"flannel's backend {shown(backend.get('Type', 'udp'))} is not spoken here")
    spared: list[IPNetwork] = []
    pools = []
    for version, enabled in ((4, document.get("EnableIPv4", True)), (6, document.get("EnableIPv6", False))):
        if enabled:
            pools.append(_pool(document, version, spared))
    if [pool.cidr.version for pool in pools][:1] != [4]:
        raise InvalidConfigError("flannel keeps leases in etcd by IPv4 networks, and its network has none")
    # of a JSON object into a Go struct, names count whatever their case
    numbers = {str(name).lower(): number for name, number in backend.items()}
    vni, port = _number(numbers, "vni", VNI, (1 << 24) - 1), _number(numbers, "port", PORT, 65535)
    return FlannelNetwork(kind, tuple(pools), tuple(spared), vni, port or PORT)


def _pool(document: Mapping[str, Any], version: int, spared: list[IPNetwork]) -> Pool:
    """The pool of a family; what is below SubnetMin and above SubnetMax is added to `spared`."""
    field = _FIELDS[version]
    try:
        whole = ip_network(document.get(f"{field}Network", ""))
        default = _DEFAULT_LENGTH[version] if whole.prefixlen <= _DEFAULT_LENGTH[version] - 2 else whole.prefixlen + 2
        pool = Pool(whole, _number(document, f"{field}SubnetLen", 0, whole.max_prefixlen) or default)
        size = 1 << (whole.max_prefixlen - pool.prefix)
        begin, end = whole.network_address, whole.broadcast_address
        first = ip_address(document.get(f"{field}SubnetMin") or str(begin + size))
        last = ip_address(document.get(f"{field}SubnetMax") or str(begin + (whole.num_addresses - size)))
        if whole.version != version or first not in whole or last not in whole:
            raise ValueError("SubnetMin or SubnetMax is elsewhere")  # noqa: TRY301
        if first != begin:
            spared += summarize_address_range(begin, first - 1)
        if int(last) + size <= int(end):
            spared += summarize_address_range(last + size, end)
    except (ValueError, TypeError) as error:
        raise DecodeError(f"flannel's {field}Network cannot be used: {shown(str(error))}") from None
    return pool


def _number(document: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = document.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise DecodeError(f"{name}: {shown(value)} is no number from 0 to {most}")
    return value


def _ours(document: Mapping[str, Any]) -> tuple[str, str]:
    """Name and identity of a node of ours, both empty for one of flanneld's."""
    ours = document.get(_OURS)
    if ours is None:
        return "", ""
    name, identity = (ours.get("name"), ours.get("identity")) if isinstance(ours, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(identity, str) or not identity:
        raise DecodeError(f"{_OURS}: {shown(ours)} is no name and identity")
    return checked_name(name), checked_name(identity)


def _nodes(entries: Entries) -> Iterator[tuple[Entry, Node]]:
    return ((entry, entry.node) for entry in entries.values() if entry.node is not None)


def _is_flanneld(entry: Entry) -> bool:
    return entry.node is not None and not entry.identity


def _overlap(one: tuple[IPNetwork, ...], others: tuple[IPNetwork, ...]) -> bool:
    return any(overlapping(cidr, others) is not None for cidr in one)
