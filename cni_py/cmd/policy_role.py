"""The agent's role `policy`, wired from its settings: where policies come from, and the gate that ADDs go through."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from cni_py.agent.drops import Drop, Drops
from cni_py.agent.policies import Policies, PolicySink, PolicySource
from cni_py.agent.settings import PolicySettings, Settings
from cni_py.agent.turn import Turn
from cni_py.cluster.manifests import Manifests
from cni_py.cmd.heap import tidy
from cni_py.cmd.ipam import boot_id
from cni_py.cmd.overlay import identity
from cni_py.kernel import rtnl
from cni_py.kernel.local_addresses import local_addresses
from cni_py.kernel.netlink import NetlinkError
from cni_py.kernel.netns import own_identity
from cni_py.kernel.node import open_route_socket
from cni_py.kernel.sysctl import read_sysctl
from cni_py.model.attachment import Attachment
from cni_py.model.errors import CniPyError, PluginError
from cni_py.model.policy import CIDR, Address, Changes, Namespace, Pod, Policy
from cni_py.model.ports import Gate
from cni_py.policy import objects
from cni_py.store.attachments import AttachmentStore, state_directories
from cni_py.store.node_file import NodeFile

# (kind of thing, how many)
Count = Callable[[str, int], None]
_FILTERED = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}


class PolicyRole:
    """`drops` is None where the kernel does not log."""

    def __init__(self, settings: Settings, repaired: Count, dropped: Callable[[Drop], None]) -> None:
        said = settings.policy or PolicySettings()
        self._follows_overlay = not said.cidrs
        name = identity(settings).name
        network = settings.network_settings
        cidrs = said.cidrs or NodeFile().read().ranges
        known = said.cidrs or (network.cidrs if network is not None else ())
        versions = tuple(dict.fromkeys(one.version for one in known)) or (4, 6)
        self._source, self._count_dropped = _source(said, name), dropped
        self.policies = Policies(
            name,
            cidrs,
            self._source,
            local_addresses,
            repaired,
            guards_node=said.guards_node,
            versions=versions,
        )
        self.policies.when_loaded = tidy
        self.drops: Drops | None = None
        try:
            self.drops = Drops(self.policies.name, self._dropped)
        except CniPyError as error:
            self.policies.conditions.set("drops", f"{error.message}; {error.details}")

    def _dropped(self, drop: Drop) -> None:
        self._count_dropped(drop)
        pod = drop.source_pod if drop.direction == "egress" else drop.destination_pod
        if pod:
            self._source.denied(pod, drop.line(), audit=drop.audit)

    def start(self) -> None:
        """Policies hold for what is attached and for what will be. Raises CniPyError."""
        if self.drops is not None:
            self.drops.start()
        self.policies.start(_recorded())

    def stop(self) -> None:
        """Nothing is done any more; what the kernel holds stays."""
        self.policies.stop()
        if self.drops is not None:
            self.drops.stop()

    def serve(self, cidrs: Collection[CIDR]) -> None:
        """The overlay gave this node these pod networks; they count if the settings name none."""
        if self._follows_overlay:
            self.policies.serve(cidrs)

    def gate(self, turn: Turn) -> Gate:
        """What ADD and DEL go through; it waits outside the `turn`."""
        return PolicyGate(self.policies, turn)


def _recorded() -> list[Attachment]:
    """What is attached to this node, in this boot, by the records on disk."""
    boot, host = boot_id(), own_identity()
    found = (one for path in state_directories() for one in AttachmentStore(path).list()[0])
    return [one for one in found if (one.boot, one.host) == (boot, host)]


class PolicyGate:
    """See Gate."""

    enforces = True

    def __init__(self, policies: Policies, turn: Turn) -> None:
        self._policies, self._turn = policies, turn

    def expect(self, pod: str, uid: str) -> None:
        """See Gate."""
        if not self._policies.is_expected(pod, uid):
            with self._turn.released():
                self._policies.expect(pod, uid)

    def admit(self, attachment: Attachment) -> None:
        """See Gate. Refuses an attachment whose packets to its neighbours no hook of IP would see."""
        _check_seen(attachment)
        self._policies.admit(attachment)

    def dismiss(self, attachment: Attachment) -> None:
        """See Gate."""
        self._policies.dismiss(attachment)


def _check_seen(attachment: Attachment) -> None:
    """Between ports of one bridge frames pass by IP's hooks, unless the ports are isolated or br_netfilter is on."""
    port = attachment.port
    if port is None or port.isolated or _is_isolated(attachment.host_ifname):
        return
    for version in {one.address.version for one in attachment.addresses}:
        if read_sysctl(_FILTERED[version]) != "1":
            raise PluginError(
                f"network policies could not hold between the ports of bridge {port.bridge}",
                f"load br_netfilter and set {_FILTERED[version].replace('/', '.')} to 1, or isolate the ports "
                "(portIsolation), or use mode routed",
            )


def _is_isolated(link: str) -> bool:
    """True if another plugin made the link an isolated port."""
    with open_route_socket() as socket, suppress(NetlinkError):
        return rtnl.parse_link(socket.request(rtnl.get_link(link))[0]).isolated
    return False


class ManifestSource:
    """See PolicySource: a directory of manifests. Containers that no manifest speaks of are pods without labels."""

    knows_pods = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._manifests: Manifests[Pod | Namespace | Policy] | None = None

    def start(self, sink: PolicySink) -> None:
        """See PolicySource."""
        parse: dict[str, Callable[[object], Pod | Namespace | Policy]] = {
            "Pod": objects.pod,
            "Namespace": objects.namespace,
            "NetworkPolicy": objects.policy,
        }

        def tell(told: Mapping[str, Mapping[str, Pod | Namespace | Policy | None]], wrong: Mapping[str, str]) -> None:
            sink.changed(_changes(told))
            sink.unreadable(wrong)

        self._manifests = Manifests(self._directory, parse, tell, sink.trouble)
        self._manifests.start()

    def announce(self, pod: str, addresses: tuple[Address, ...]) -> None:
        """See PolicySource. There is nobody to tell."""

    def denied(self, pod: str, text: str, *, audit: bool) -> None:
        """See PolicySource. There is nobody to tell."""

    def stop(self) -> None:
        """See PolicySource."""
        if self._manifests is not None:
            self._manifests.stop()


def _changes(told: Mapping[str, Mapping[str, Pod | Namespace | Policy | None]]) -> Changes:
    """By kind what is told by kind; each value is of the kind that it is told under."""
    return Changes(
        {key: one for key, one in told.get("Pod", {}).items() if one is None or isinstance(one, Pod)},
        {key: one for key, one in told.get("Namespace", {}).items() if one is None or isinstance(one, Namespace)},
        {key: one for key, one in told.get("NetworkPolicy", {}).items() if one is None or isinstance(one, Policy)},
    )


def _source(said: PolicySettings, name: str) -> PolicySource:
    if said.source == "files":
        return ManifestSource(said.directory)
    from cni_py.cluster.kube_access import in_cluster
    from cni_py.cluster.kube_policies import KubePolicies, Parsers
    from cni_py.cluster.kubeconfig import from_kubeconfig

    path = Path(said.kubeconfig)
    access = from_kubeconfig(path, name, "") if said.kubeconfig else in_cluster(name, "")
    return KubePolicies(access, Parsers(objects.pod, objects.namespace, objects.policy))
