"""The agent's role `overlay`, wired from its settings: where peers come from, what is kept, and how it stands."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cni_py.agent.nodes import Nodes
from cni_py.agent.reconcile import Reconciler
from cni_py.agent.settings import Settings
from cni_py.cluster.record import checked_name
from cni_py.cluster.snapshot import dump, load
from cni_py.kernel.guard import TunnelGuard
from cni_py.kernel.overlay import OverlayKernel
from cni_py.kernel.overlay_events import OverlayEvents
from cni_py.kernel.overlay_facts import possible_backends
from cni_py.model.errors import DecodeError, InvalidConfigError
from cni_py.model.node_network import NodeNetwork
from cni_py.model.overlay import BackendName, Node
from cni_py.model.peers import Source
from cni_py.model.result import IPNetwork
from cni_py.overlay.guard import GUARD
from cni_py.overlay.own import Identity
from cni_py.store.node_file import NodeFile
from cni_py.store.whole_file import WholeFile

if TYPE_CHECKING:
    from cni_py.cluster.keyspace import Keyspace


def identity(settings: Settings) -> Identity:
    """Who this node is among its peers. Raises InvalidConfigError."""
    node = settings.node
    try:
        name = checked_name(node.name or socket.gethostname().lower())
    except DecodeError as error:
        raise InvalidConfigError(error.message, "give one: node.name in the configuration") from None
    return Identity(name, node.interface, node.ipv4, node.ipv6, settings.probe_port, settings.probe_seconds)


def open_nodes(
    settings: Settings,
    repaired: Callable[[str, int], None],
    joined: Callable[[], None],
    ranged: Callable[[tuple[IPNetwork, ...]], None],
) -> Nodes:
    """Raises CniPyError for what no waiting mends."""
    who, memory = identity(settings), DiskMemory(settings, ranged)
    source = _source(settings, who.name, memory)
    backends = possible_backends()
    kernel = OverlayKernel()
    table = TunnelGuard(GUARD)
    work = Reconciler(settings.network.network(), kernel, table, OverlayEvents(kernel.port, table.port))
    return Nodes(who, source, work, memory, backends, repaired, joined)


class DiskMemory:
    """See `agent.nodes.Memory`: the last good nodes, and what this node's pods get. `ranged` hears their networks."""

    def __init__(self, settings: Settings, ranged: Callable[[tuple[IPNetwork, ...]], None] = lambda _: None) -> None:
        self._ranged = ranged
        self._cluster = settings.network.cluster
        self._nodes = WholeFile(settings.state_dir / "nodes")
        self._networks = settings.network.cidrs
        self._node = NodeFile()

    def recall(self) -> Mapping[str, Node]:
        """See Memory."""
        data = self._nodes.read()
        return load(data, self._cluster) if data is not None else {}

    def keep(self, nodes: Mapping[str, Node]) -> None:
        """See Memory."""
        self._nodes.write(dump(nodes, self._cluster))

    def tell(self, own: Node, mtu: int) -> None:
        """See Memory."""
        self._ranged(own.cidrs)
        segment = own.mac if "l2" in own.backends else ""  # which goes with no other
        self._node.write(NodeNetwork(self._networks, own.cidrs, mtu, segment))


def _source(settings: Settings, name: str, memory: DiskMemory) -> Source:
    peers, cluster = settings.peers, settings.network.cluster
    match peers.source:
        case "files":
            from cni_py.cluster.files import FileSource

            return FileSource(peers.directory, cluster)
        case "kubernetes":
            from cni_py.cluster.kube import KubeSource
            from cni_py.cluster.kube_access import in_cluster
            from cni_py.cluster.kubeconfig import from_kubeconfig

            path = Path(peers.kubeconfig)
            reach = from_kubeconfig(path, name, cluster) if peers.kubeconfig else in_cluster(name, cluster)
            if peers.flannel:
                backend: BackendName = "vxlan" if "vxlan" in settings.network.backends else "host-gw"
                reach = replace(reach, flannel=backend, flannel_port=settings.network.vxlan_port)
            return KubeSource(reach)
        case "etcd":
            from cni_py.cluster.etcd import EtcdSource
            from cni_py.cluster.etcd_access import EtcdAccess

            said = peers.etcd
            assert said is not None  # noqa: S101  # the settings are checked
            password = _secret(said.password_file) if said.password_file else ""
            access = EtcdAccess(said.endpoints, said.ca, said.cert, said.key, said.user, password)
            own = memory.recall().get(name)
            return EtcdSource(access, _keyspace(settings, name), own.cidrs if own is not None else ())


def _keyspace(settings: Settings, name: str) -> "Keyspace":
    from cni_py.cluster.etcd_access import machine_identity
    from cni_py.cluster.etcd_keys import EtcdKeys
    from cni_py.cluster.flannel_etcd import FlannelKeys
    from cni_py.cluster.subnets import Pool

    said = settings.peers.etcd
    assert said is not None  # noqa: S101  # the settings are checked
    identity = said.identity or machine_identity()
    if settings.peers.flannel:
        return FlannelKeys(name, identity, said.prefix) if said.prefix else FlannelKeys(name, identity)
    length = {4: said.node_length.ipv4, 6: said.node_length.ipv6}
    pools = tuple(Pool(cidr, length[cidr.version]) for cidr in settings.network.cidrs)
    return EtcdKeys(settings.network.cluster, name, identity, pools, root=said.prefix)


def _secret(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        raise InvalidConfigError(f"the password of etcd in {path} cannot be read: {error}", "give a file") from None
