"""A network changes its backend node by node, nodes restart and move, and a stream between pods loses no packet."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pytest
from agent.in_process import MemorySource, Running
from agent.overlay_nodes import eventually
from netns.nat_lab import Place, sysctl
from netns.overlay_lab import Lab, Member, carry, lab, member, network

from cni_py.kernel.netns import entered
from cni_py.model.overlay import BackendName, Network, Node
from cni_py.model.peers import View

pytestmark = pytest.mark.sudo


class Hub:
    """What an API server is to the nodes: what one publishes all are told."""

    def __init__(self, *nodes: Node) -> None:
        self.given = {node.name: node for node in nodes}
        self.records: dict[str, Node] = {}
        self.sources: dict[str, MemorySource] = {}

    def join(self, one: Running) -> None:
        """The node hears what all say from now on, and is heard."""
        name = one.member.node.name
        self.sources[name] = one.source
        one.source.publish = self._published  # type: ignore[method-assign]  # this is the hub's
        for node in one.source.published[-1:]:
            self._published(node)
        self.tell()

    def leave(self, name: str) -> None:
        """It hears nothing; what it said stays."""
        del self.sources[name]

    def _published(self, node: Node) -> None:
        self.records[node.name] = replace(node, cidrs=self.given[node.name].cidrs)
        self.tell()

    def tell(self) -> None:
        """All hear how it is: of those that have not spoken only themselves know."""
        for name, source in list(self.sources.items()):
            own = {name: self.records.get(name, self.given[name])}
            source.sink.changed(View(MappingProxyType({**self.records, **own})))


class Stream:
    """Numbered datagrams from one pod to another and back, one each millisecond."""

    def __init__(self, client: Place, server: Place) -> None:
        self._server, self._client = server.listen(4, "udp", 7000), client.open(4, "udp")
        self._client.connect((str(server.ip4), 7000))
        self._client.settimeout(0.1)
        self._server.settimeout(0.1)
        self._over = threading.Event()
        self._paused = threading.Event()
        self.sent = self.back = 0
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._echo, self._ask, self._hear)]
        for one in self._threads:
            one.start()

    def _echo(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                data, peer = self._server.recvfrom(100)
                self._server.sendto(data, peer)

    def _ask(self) -> None:
        while not self._over.is_set():
            if not self._paused.is_set():
                with suppress(OSError):  # refused on the way: it is lost
                    self._client.send(b"%d" % self.sent)
                self.sent += 1
            time.sleep(0.001)

    def _hear(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                self._client.recv(100)
                self.back += 1

    def begin(self) -> None:
        """What was lost before does not count: not all had joined."""
        self.lost()
        self.sent = self.back = 0
        self._paused.clear()

    def lost(self) -> int:
        """How many did not come back, when all had the time to; nothing is sent any more."""
        self._paused.set()
        deadline = time.monotonic() + 2
        while self.back < self.sent and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.sent - self.back

    def close(self) -> None:
        """It is over."""
        self._over.set()
        for one in self._threads:
            one.join()
        self._client.close()
        self._server.close()


@contextmanager
def streaming(client: Place, server: Place) -> Iterator[Stream]:
    """A stream for the block, which has begun."""
    one = Stream(client, server)
    try:
        eventually(lambda: one.back > 10, "the stream flows")
        one.begin()
        yield one
    finally:
        one.close()


def permitting(*backends: BackendName) -> Network:
    """The lab's network with these, the best first."""
    return replace(network("vxlan"), backends=backends)


def uses(one: Member, device: str) -> bool:
    """True if routes to other nodes' pods go by that device."""
    state = one.read(one.desired([], network("vxlan")))
    return {route.link for route in state.routes if route.kind == "unicast"} == {device}


@contextmanager
def roles_on(made: Lab, *networks: Network) -> Iterator[tuple[Hub, list[Running]]]:
    """The role on each node, with a network each, and the hub between them; those that are in the list end with it."""
    hub = Hub(*made.nodes)
    roles = [Running(one, of) for one, of in zip(made.members, networks, strict=True)]
    try:
        for role in roles:
            hub.join(role)
        yield hub, roles
    finally:
        for role in roles:
            role.close()


def restarted(hub: Hub, before: Running, of: Network) -> Running:
    """The role again on the same node, with another network: what an upgrade does."""
    hub.leave(before.member.node.name)
    before.close()
    one = Running(before.member, of, before.memory)
    hub.join(one)
    return one


@pytest.mark.parametrize(
    ("old", "before", "new", "device"),
    [
        (("vxlan",), "cpyvx4", ("gpe", "vxlan"), "cpygpe"),
        (("gpe",), "cpygpe", ("vxlan", "gpe"), "cpyvx4"),
        (("vxlan",), "cpyvx4", ("direct", "vxlan"), "eth0"),
        (("direct", "vxlan"), "eth0", ("gpe", "direct", "vxlan"), "cpygpe"),
    ],
)
def test_a_backend_is_changed_node_by_node(
    old: tuple[BackendName, ...], before: str, new: tuple[BackendName, ...], device: str, tmp_path: Path
) -> None:
    """Each node in turn permits both; a stream goes on all the time, and in the end all use the new one."""
    of = permitting(*old)
    with lab(tmp_path, member(1), member(2)) as made, roles_on(made, of, of) as (hub, roles):
        eventually(lambda: all(uses(one, before) for one in made.members), "joined")
        pods = [one.attach(permitting("vxlan")) for one in made.members]
        with streaming(*pods) as stream:
            for at in (0, 1):
                roles[at] = restarted(hub, roles[at], permitting(*new))
                eventually(lambda at=at: roles[at].nodes.standing.joined, "joined again")  # type: ignore[misc]
            eventually(lambda: all(uses(one, device) for one in made.members), "both use the new backend")
            back = stream.back
            eventually(lambda: stream.back > back + 50, "the stream goes on")
            assert stream.lost() == 0


def test_an_agent_that_restarts_loses_no_packet(tmp_path: Path) -> None:
    """Five times; nor does one that is away."""
    of = network("vxlan")
    with lab(tmp_path, member(1), member(2)) as made, roles_on(made, of, of) as (hub, roles):
        eventually(lambda: all(uses(one, "cpyvx4") for one in made.members), "joined")
        with streaming(*[one.attach(of) for one in made.members]) as stream:
            for _ in range(5):
                roles[0] = restarted(hub, roles[0], of)
                eventually(lambda: roles[0].nodes.standing.joined, "joined again")
            assert stream.lost() == 0


def test_a_network_that_moves_to_a_new_node_is_replaced_in_place(tmp_path: Path) -> None:
    """A peer's address changes: the stream to the third goes on, and that to the peer comes back."""
    of = network("gpe")
    with lab(tmp_path, member(1), member(2), member(3)) as made, roles_on(made, of, of, of) as (hub, _):
        eventually(lambda: all(uses(one, "cpygpe") for one in made.members), "joined")
        pods = [one.attach(of) for one in made.members]
        with streaming(pods[0], pods[2]) as stream:
            made.members[1].ip("addr add 192.0.2.77/24 dev eth0")
            made.members[1].ip("addr del 192.0.2.2/24 dev eth0")
            made.members[1].ip("addr add 192.0.2.77/24 dev eth0")
            eventually(lambda: str(hub.records["n2"].ip4) == "192.0.2.77", "the others hear of it")
            with streaming(pods[0], pods[1]) as other:
                eventually(lambda: other.back > 20, "the pods of the moved node are back")
            assert stream.lost() == 0


def test_two_nodes_that_choose_differently_hear_each_other(tmp_path: Path) -> None:
    """One sends by VXLAN, the other by VXLAN-GPE, as amid a change; also where sources are checked strictly."""
    with lab(tmp_path, member(1), member(2)) as made:
        for one in made.members:
            with entered(one.place.fd):
                sysctl("ipv4/conf/all/rp_filter", "1")
                sysctl("ipv4/conf/default/rp_filter", "1")
        with roles_on(made, permitting("vxlan", "gpe"), permitting("gpe", "vxlan")):
            for one, device in zip(made.members, ("cpyvx4", "cpygpe"), strict=True):
                eventually(partial(uses, one, device), f"it sends by {device}")
            pods = [one.attach(permitting("vxlan", "gpe")) for one in made.members]
            for version in (4, 6):
                carry(pods[0], pods[1], version)
                carry(pods[1], pods[0], version)
