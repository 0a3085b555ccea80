"""Deleting tracked connections: exactly the ones that were asked for."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from netns.nat_lab import NODE4, OUTSIDE4, Lab, lab, seen_from

from cni_py.cni import portmap
from cni_py.cni.portmap import HostPorts
from cni_py.kernel import conntrack, nft
from cni_py.kernel.conntrack import Flows
from cni_py.kernel.netlink import NLM_F_DUMP, NetlinkSocket
from cni_py.model.attachment import PortMapping

TCP, UDP = 6, 17

pytestmark = pytest.mark.sudo


@pytest.fixture
def net(fresh_namespaces: None) -> Iterator[Lab]:
    """A node that tracks connections, since it maps host ports."""
    del fresh_namespaces
    with lab(bridged=False) as made:
        yield made


def tracked(socket: NetlinkSocket) -> int:
    """How many IPv4 and IPv6 connections the node knows."""
    return sum(len(socket.request(conntrack.request(1, NLM_F_DUMP, version, b""))) for version in (4, 6))


def flow(net: Lab, version: int, port: int, protocol: str = "udp") -> None:
    """One question and answer from outside to the node."""
    with net.node.listen(version, protocol, port) as server, net.outside.open(version, protocol) as client:
        seen_from(client, (net.node.address(version), port), server)


ROWS = [
    ("port", Flows(4, UDP, 53), 1),
    ("other port", Flows(4, UDP, 54), 0),
    ("tcp", Flows(4, TCP, 80), 1),
    ("tcp by its udp number", Flows(4, UDP, 80), 0),
    ("v6", Flows(6, UDP, 53), 1),
    ("address", Flows(4, UDP, 53, ip_address(NODE4)), 1),
    ("other address", Flows(4, UDP, 53, ip_address(OUTSIDE4)), 0),
    ("not translated", Flows(4, UDP, 53, translated_to=ip_address(NODE4)), 0),
]


@pytest.mark.parametrize(("flows", "count"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_delete(net: Lab, flows: Flows, count: int) -> None:
    """The connections that match are gone, the others stay."""
    with nft.connect() as socket:
        ports = HostPorts((PortMapping(9999, 9),), (net.pods[0].ip4,))
        nft.commit(socket, portmap.plan_portmap(ports))
        flow(net, 4, 53)
        flow(net, 4, 80, "tcp")
        flow(net, 6, 53)
        before = tracked(socket)
        assert count == conntrack.delete(socket, (flows,))
        assert before - count == tracked(socket)


def test_stale_flow_finds_the_new_port(net: Lab) -> None:
    """A client whose flow is older than the host port reaches the pod once its entry is deleted, not before."""
    pod = net.pods[0]
    ports = HostPorts((PortMapping(53, 53, "udp"),), (pod.ip4,))
    other = HostPorts((PortMapping(9999, 9),), (pod.ip4,))
    with nft.connect() as socket, net.outside.open(4, "udp") as client:
        nft.commit(socket, portmap.plan_portmap(other))
        with net.node.listen(4, "udp", 53) as own:
            seen_from(client, (NODE4, 53), own)
            nft.commit(socket, portmap.plan_portmap(ports))
            seen_from(client, (NODE4, 53), own)
        assert conntrack.delete(socket, (Flows(4, UDP, 53),)) == 1
        with pod.listen(4, "udp", 53) as served:
            assert seen_from(client, (NODE4, 53), served) == OUTSIDE4


def test_many_entries(net: Lab) -> None:
    """Of two thousand connections the hundred to one port go, in one call."""
    pod = net.pods[0]
    with nft.connect() as socket:
        nft.commit(socket, portmap.plan_portmap(HostPorts((PortMapping(53, 53, "udp"),), (pod.ip4,))))
        sinks = [net.node.listen(4, "udp", port) for port in range(6000, 6019)]
        clients = [net.outside.open(4, "udp") for _ in range(100)]  # all open at once: no two have the same port
        for client in clients:
            for port in (53, *range(6000, 6019)):
                client.sendto(b"x", (NODE4, port))
        for sink in sinks:
            for _ in range(100):
                sink.recv(16)
        for one in (*sinks, *clients):
            one.close()
        before = tracked(socket)
        assert conntrack.delete(socket, (Flows(4, UDP, 53, translated_to=pod.ip4),)) == 100
        assert before - 100 == tracked(socket)
        assert conntrack.delete(socket, (Flows(4, UDP, 53),)) == 0
