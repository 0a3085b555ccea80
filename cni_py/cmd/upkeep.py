"""What the agent does by itself for its node, over its warm machine: see `agent.housekeeping.Upkeep`."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress

from cni_py.cmd.delegates import release_request
from cni_py.cmd.warm import Warm, WarmMachine
from cni_py.cni.call import Node
from cni_py.cni.collect import collect, collect_stale_boot
from cni_py.cni.firewall import LAYOUTS, everything
from cni_py.cni.repair import Seen, plan_repairs
from cni_py.kernel import rtnl
from cni_py.kernel.inventory import read_links, read_node
from cni_py.kernel.netlink import NetlinkError
from cni_py.kernel.node import open_route_socket
from cni_py.kernel.sysctl import seen_sysctl
from cni_py.model.attachment import Attachment, Key
from cni_py.model.errors import CniPyError
from cni_py.model.lease import SEPARATOR, Lease
from cni_py.model.words import describe
from cni_py.store.attachments import AttachmentStore

_RETRY_SECONDS = 60.0
_LOG = logging.getLogger("cni_py.agent")

# (kind of thing, how many)
Count = Callable[[str, int], None]
# Carries out what is spooled and can be done without a forwarder; how many that were.
Replay = Callable[[], int]


class NodeUpkeep:
    """The agent's node. `grace` is how many seconds a thing has to be dead before it is collected."""

    def __init__(self, warm: Warm, replay: Replay, grace: float, repaired: Count, collected: Count) -> None:
        self._warm = warm
        self._replay = replay
        self._grace = grace
        self._repaired = repaired
        self._collected = collected
        self._reader = open_route_socket()  # so that reading a whole node needs no turn
        self._living: dict[str, int] = {}  # {host's end: id of the container's namespace}
        self._dead_since: dict[object, float] = {}

    def replay(self) -> None:
        """See Upkeep."""
        done = self._replay()
        if done:
            self._collected("spooled DEL", done)

    def ended(self, namespaces: set[int]) -> None:
        """See Upkeep."""
        for name in [name for name, one in self._living.items() if one in namespaces]:
            del self._living[name]

    def forget_namespaces(self) -> None:
        """See Upkeep."""
        self._living.clear()

    def learn(self, name: str) -> None:
        """See Upkeep."""
        with suppress(NetlinkError):  # gone again
            self._note_peer(rtnl.parse_link(self._reader.request(rtnl.get_link(name))[0]))

    def concerned(self, links: set[str]) -> bool:
        """See Upkeep."""
        if not links:
            return False
        with self._warm.turn.held():
            return any(one.host_ifname in links for store in self._stores() for one in store.list()[0])

    def _note_peer(self, link: rtnl.SeenLink) -> None:
        if link.kind == "veth" and link.peer_netns >= 0:
            self._living[link.name] = link.peer_netns

    def collect(self) -> float:
        """See Upkeep."""
        links = {link.name: link for link in read_links(self._reader).values()}
        for link in links.values():
            self._note_peer(link)
        present = links.keys() | self._living.keys()
        now = time.monotonic()
        doomed: dict[object, float] = {}
        for store in self._stores():
            with self._warm.turn.held():
                self._drop_earlier_boots(store)
                with store.locked():
                    store.sweep()
                    attachments, _ = store.list()
            for attachment in attachments:
                if self._is_here(attachment) and attachment.host_ifname not in present:
                    thing = attachment.key, attachment.plugin
                    since = doomed[thing] = self._since(thing)
                    if now - since >= self._grace and not self._collect(attachment, store):
                        doomed[thing] = now + _RETRY_SECONDS
        for data_dir, network, lease in self._orphans():
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - (lease.created_s or 0.0)
            since = doomed[data_dir, network, lease.name] = now - age
            if age >= self._grace:
                self._release(data_dir, network, lease)
        self._dead_since = doomed
        return min(
            (since + self._grace - now for since in doomed.values() if since + self._grace > now), default=math.inf
        )

    def mend(self, *, links: bool, firewall: bool) -> None:
        """See Upkeep."""
        with self._warm.turn.held(), ExitStack() as stack:
            self._warm.host.shared.forget()
            here: list[Attachment] = []
            for store in self._stores():  # all, as they share tables, and locked until all is mended
                stack.enter_context(store.locked())
                here += [one for one in store.list()[0] if self._is_here(one)]
            if links and here:
                self._mend_links(here)
            if firewall:
                self._mend_firewall(here)

    def _mend_links(self, attachments: Iterable[Attachment]) -> None:
        seen = Seen(read_node(self._reader), seen_sysctl)
        with WarmMachine(self._warm).kernels().host() as kernel:
            for op in plan_repairs(attachments, seen):
                try:
                    kernel.apply([op])
                except CniPyError as error:
                    _LOG.warning("could not %s: %s", describe(op), error.message)
                else:
                    self._repaired(type(op).__name__, 1)
                    _LOG.warning("found that somebody undid it, and did again: %s", describe(op))

    def _mend_firewall(self, attachments: Iterable[Attachment]) -> None:
        done = self._warm.firewall.mend(LAYOUTS, everything(attachments))
        for what, count in (("nftables rules", done.rebuilt), ("nftables element", done.added)):
            if count:
                self._repaired(what, count)
                _LOG.warning("nftables were not as they should be: restored %d %s", count, what)
        if done.removed:
            self._collected("nftables element", done.removed)

    def _stores(self) -> Iterator[AttachmentStore]:
        return iter([self._warm.records(path) for path in self._warm.state_dirs()])

    def _is_here(self, attachment: Attachment) -> bool:
        return (attachment.boot, attachment.host) == (self._warm.boot, self._warm.host.identity)

    def _since(self, thing: object) -> float:
        return self._dead_since.get(thing, time.monotonic())

    def _node(self, attachment: Attachment, store: AttachmentStore) -> Node:
        machine = WarmMachine(self._warm)
        return Node(
            kernels=machine.kernels(),
            firewall=self._warm.firewall,
            records=store,
            delegate=machine.delegate(release_request(attachment, ())[1], store.path),
            occasion=machine.occasion(),
            gate=machine.gate(),
        )

    def _drop_earlier_boots(self, store: AttachmentStore) -> None:
        if store.boot_of_last_add() != self._warm.boot:
            for attachment in store.list()[0][:1]:  # any will do for the ports; none, and there is nothing to drop
                collect_stale_boot(self._node(attachment, store))

    def _collect(self, attachment: Attachment, store: AttachmentStore) -> bool:
        with self._warm.turn.held():
            problems = collect(attachment, self._node(attachment, store))
        if problems:
            _LOG.warning("could not collect %s: %s", attachment.key, "; ".join(problems))
            return False
        self._collected("attachment", 1)
        _LOG.info("collected %s: its container is gone", attachment.key)
        return True

    def _orphans(self) -> Iterator[tuple[str, str, Lease]]:
        """(data directory, network, lease) of leases made for an attachment of which there is no record."""
        for data_dir, network in self._warm.lease_networks():
            with self._warm.turn.held(), self._warm.leases.look(data_dir, network) as view:
                leases = view.attached()
            for lease in leases:
                container, _, ifname = lease.content.partition(SEPARATOR)
                records = self._warm.records(lease.attached)
                if lease.boot == self._warm.boot and not records.exists(Key(network, container, ifname)):
                    yield data_dir, network, lease

    def _release(self, data_dir: str, network: str, lease: Lease) -> None:
        with self._warm.turn.held(), self._warm.leases.change(data_dir, network) as leases:
            leases.release(lease, 0)
        self._collected("lease", 1)
        _LOG.info("collected the lease of %s in network %s: it was never attached", lease.name, network)
