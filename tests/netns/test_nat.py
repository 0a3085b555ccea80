"""Masquerade and host ports with packets: who reaches whom, and as whom."""

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from netns.nat_lab import (
    BRIDGE_SYSCTLS,
    NODE4,
    NODE6,
    OUTSIDE4,
    OUTSIDE6,
    Lab,
    Place,
    ip,
    lab,
    seen_from,
    sysctl,
    unanswered,
)

from cni_py.cni import masquerade, portmap, tables
from cni_py.cni.portmap import HostPorts
from cni_py.kernel import conntrack, nft
from cni_py.model.attachment import PortMapping, Protocol
from cni_py.model.nft import Change, joined
from cni_py.model.nft_expr import UDP

pytestmark = pytest.mark.sudo

MASQUERADE = masquerade.plan_masquerade(masquerade.pod_range(ip_network(one)) for one in ("10.0.0.0/24", "fd00::/64"))
NODE = {4: NODE4, 6: NODE6}
OUTSIDE = {4: OUTSIDE4, 6: OUTSIDE6}


@pytest.fixture(params=["routed", "bridge", "filtered"])
def net(request: pytest.FixtureRequest, fresh_namespaces: None) -> Iterator[Lab]:
    """The node with its pods: routed, on a bridge, on a bridge with br_netfilter."""
    del fresh_namespaces
    if request.param == "filtered" and not BRIDGE_SYSCTLS.exists():
        pytest.skip("br_netfilter is not loaded")
    with lab(bridged=request.param != "routed", filtered=request.param == "filtered") as made:
        yield made


@pytest.fixture
def routed(fresh_namespaces: None) -> Iterator[Lab]:
    """The node with routed pods."""
    del fresh_namespaces
    with lab(bridged=False) as made:
        yield made


def commit(*changes: Change) -> None:
    """All of it in one transaction."""
    with nft.connect() as socket:
        nft.commit(socket, joined(*changes))


def host_ports(net: Lab, *mappings: PortMapping, snat: bool = True, masq_all: bool = False) -> HostPorts:
    """The mappings to the first pod; sets route_localnet where the caller of the planner would."""
    link = net.bridge or net.pods[0].link
    sysctl(f"ipv4/conf/{link}/route_localnet", "1")
    pod = net.pods[0]
    return HostPorts(mappings, (pod.ip4, pod.ip6), "net/first", net.bridge, link, snat, masq_all)


def talk(client: Place, to: tuple[str, int], server: Place, port: int, protocol: str) -> str:
    """The client's address as a server on `port` sees it when the client talks to `to`."""
    version = 6 if ":" in to[0] else 4
    with server.listen(version, protocol, port) as listening, client.open(version, protocol) as asking:
        return seen_from(asking, to, listening)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("version", [4, 6])
def test_masquerade(net: Lab, version: int, protocol: str) -> None:
    """Outside sees the node, another pod and the node itself see the pod."""
    commit(MASQUERADE)
    first, second = net.pods
    assert talk(first, (OUTSIDE[version], 7000), net.outside, 7000, protocol) == NODE[version]
    assert talk(first, (second.address(version), 7000), second, 7000, protocol) == first.address(version)
    assert talk(net.node, (first.address(version), 7000), first, 7000, protocol) not in {first.address(version), ""}


def test_no_masquerade_without_ranges(routed: Lab) -> None:
    """A network that does not ask for it keeps its addresses, although the table is there."""
    commit(MASQUERADE)
    commit(masquerade.rewrite_masquerade([masquerade.pod_range(ip_network("10.9.0.0/24"))]))
    ip("-n outside route add 10.0.0.0/24 via", NODE4)
    first = routed.pods[0]
    assert talk(first, (OUTSIDE4, 7000), routed.outside, 7000, "udp") == str(first.ip4)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("version", [4, 6])
def test_host_port(net: Lab, version: int, protocol: Protocol) -> None:
    """A host port leads to the pod from outside, from the node's own address, from the pod itself and its neighbour."""
    commit(MASQUERADE, portmap.plan_portmap(host_ports(net, PortMapping(8080, 80, protocol))))
    first, second = net.pods
    to = (NODE[version], 8080)
    assert talk(net.outside, to, first, 80, protocol) == OUTSIDE[version]
    assert talk(net.node, to, first, 80, protocol) == NODE[version]
    gateway = "10.0.0.1" if version == 4 else "fd00::1"
    assert talk(first, to, first, 80, protocol) == gateway
    # On the bridge the answer would go past the node, were the neighbour's address kept; br_netfilter catches it there.
    neighbour = gateway if net.bridge and not net.filtered else second.address(version)
    assert talk(second, to, first, 80, protocol) == neighbour


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_host_port_by_loopback(net: Lab, protocol: Protocol) -> None:
    """127.0.0.1:port on the node leads to the pod, which sees the node's address."""
    commit(portmap.plan_portmap(host_ports(net, PortMapping(8080, 80, protocol))))
    assert talk(net.node, ("127.0.0.1", 8080), net.pods[0], 80, protocol) == "10.0.0.1"


@pytest.mark.parametrize("version", [4, 6])
def test_transit_is_untouched(net: Lab, version: int) -> None:
    """Host port 53 takes no pod's question to port 53 elsewhere (CVE-2025-67499), nor that of the mapped pod itself."""
    commit(MASQUERADE, portmap.plan_portmap(host_ports(net, PortMapping(53, 53, "udp"), PortMapping(53, 53, "tcp"))))
    for pod in net.pods:
        for protocol in ("udp", "tcp"):
            assert talk(pod, (OUTSIDE[version], 53), net.outside, 53, protocol) == NODE[version]


@pytest.mark.parametrize("version", [4, 6])
def test_host_ip(net: Lab, version: int) -> None:
    """A mapping for one address of the node serves that one only, and wins over one for all."""
    host_ip = IPv4Address(NODE4) if version == 4 else IPv6Address(NODE6)
    other = "10.0.0.1" if version == 4 else "fd00::1"
    ports = host_ports(net, PortMapping(8080, 80, "udp", host_ip), PortMapping(8080, 81, "udp"), PortMapping(9090, 90))
    only = host_ports(net, PortMapping(7070, 70, "udp", host_ip))
    commit(portmap.plan_portmap(ports), portmap.plan_portmap(only))
    first, second = net.pods
    talk(net.outside, (NODE[version], 8080), first, 80, "udp")
    talk(second, (other, 8080), first, 81, "udp")
    talk(net.outside, (NODE[version], 7070), first, 70, "udp")
    with second.open(version, "udp") as asking:
        assert unanswered(asking, (other, 7070))


@pytest.mark.parametrize(("host_ip", "open_version", "shut_version"), [("0.0.0.0", 4, 6), ("::", 6, 4)])
def test_unspecified_host_ip(routed: Lab, host_ip: str, open_version: int, shut_version: int) -> None:
    """0.0.0.0 and :: are any address of their family and none of the other."""
    any_address = IPv4Address(host_ip) if ":" not in host_ip else IPv6Address(host_ip)
    commit(portmap.plan_portmap(host_ports(routed, PortMapping(8080, 80, "udp", any_address))))
    talk(routed.outside, (NODE[open_version], 8080), routed.pods[0], 80, "udp")
    with routed.outside.open(shut_version, "udp") as asking:
        assert unanswered(asking, (NODE[shut_version], 8080))


@pytest.mark.parametrize("version", [4, 6])
def test_masq_all(routed: Lab, version: int) -> None:
    """With masqAll the pod sees the node whoever asks."""
    commit(portmap.plan_portmap(host_ports(routed, PortMapping(8080, 80), masq_all=True)))
    gateway = "10.0.0.1" if version == 4 else "fd00::1"
    assert talk(routed.outside, (NODE[version], 8080), routed.pods[0], 80, "tcp") == gateway


def test_no_snat(routed: Lab) -> None:
    """Without snat outside gets in as ever, the pod itself does not."""
    commit(portmap.plan_portmap(host_ports(routed, PortMapping(8080, 80), snat=False)))
    first = routed.pods[0]
    assert talk(routed.outside, (NODE4, 8080), first, 80, "tcp") == OUTSIDE4
    with first.listen(4, "tcp", 80), first.open(4, "tcp") as asking:
        assert unanswered(asking, (NODE4, 8080))


def test_deleted_host_port(net: Lab) -> None:
    """After DEL the port is the node's again, also for a flow that is tracked; other pods' connections stay."""
    ports = host_ports(net, PortMapping(8080, 80, "udp"))
    commit(portmap.plan_portmap(ports))
    first = net.pods[0]
    with net.outside.open(4, "udp") as asking, first.listen(4, "udp", 80) as served:
        assert seen_from(asking, (NODE4, 8080), served) == OUTSIDE4
        with nft.connect() as socket:
            nft.commit(socket, portmap.unplan_portmap(ports, localnet_shared=False))
            flows = conntrack.Flows(4, UDP, 8080, translated_to=first.ip4)
            assert [conntrack.delete(socket, (flows,)) for _ in range(2)] == [1, 0]
            assert nft.remove_if_empty(socket, (tables.NAT_LAYOUT,)) == (tables.NAT,)
        with net.node.listen(4, "udp", 8080) as own:
            assert seen_from(asking, (NODE4, 8080), own) == OUTSIDE4


def _loopback_probe(net: Lab, attacker: Place, gateway: str) -> bool:
    """True if a service on the node's 127.0.0.1 hears a neighbour that routes 127/8 to the node (CVE-2020-8558)."""
    inside = ("-n", attacker.name)
    for name in ("all", "eth0"):
        subprocess.run(
            ["ip", "netns", "exec", attacker.name, "busybox", "sysctl", "-w", f"net.ipv4.conf.{name}.route_localnet=1"],
            check=True,
        )
    ip(*inside, "addr del 127.0.0.1/8 dev lo")
    ip(*inside, "route add 127.0.0.1/32 via", gateway, "dev eth0")
    with net.node.listen(4, "udp", 6000, "127.0.0.1") as private, attacker.open(4, "udp") as asking:
        private.settimeout(0.2)
        asking.sendto(b"probe", ("127.0.0.1", 6000))
        try:
            private.recvfrom(16)
        except TimeoutError:
            return False
        return True


def test_loopback_is_closed_to_pods(net: Lab) -> None:
    """A pod cannot talk to the node's 127.0.0.1 by the interface with route_localnet, and is counted."""
    commit(portmap.plan_portmap(host_ports(net, PortMapping(8080, 80))))
    assert not _loopback_probe(net, net.pods[0], "10.0.0.1")
    shown = subprocess.run(["nft", "list chain inet cnipy_nat guard"], check=True, capture_output=True, text=True)
    assert "packets 1 " in shown.stdout


def test_loopback_probe_works(net: Lab) -> None:
    """The probe does get through where there is no guard: the test above tests something."""
    host_ports(net)
    assert _loopback_probe(net, net.pods[0], "10.0.0.1")


def test_loopback_is_closed_outside(routed: Lab) -> None:
    """A neighbour of the node finds no route_localnet on eth0."""
    commit(portmap.plan_portmap(host_ports(routed, PortMapping(8080, 80))))
    assert not _loopback_probe(routed, routed.outside, NODE4)


def test_service_wins(routed: Lab) -> None:
    """What translates at priority dstnat, as kube-proxy does, is not shadowed by a host port (CVE-2019-9946)."""
    commit(portmap.plan_portmap(host_ports(routed, PortMapping(8080, 80))))
    second = routed.pods[1]
    subprocess.run(
        ["nft", "-f", "-"],
        input=f"""table ip service {{
            chain c {{
                type nat hook prerouting priority dstnat; policy accept;
                tcp dport 8080 dnat to {second.ip4}:81
            }}
        }}""",
        text=True,
        check=True,
    )
    assert talk(routed.outside, (NODE4, 8080), second, 81, "tcp") == OUTSIDE4


def test_flush_between_two_adds(routed: Lab) -> None:
    """After somebody's `nft flush ruleset` the next pod's ADD brings back the first pod's port and the masquerade."""
    first = joined(MASQUERADE, portmap.plan_portmap(host_ports(routed, PortMapping(8080, 80, "udp"))))
    pod = routed.pods[1]
    second = portmap.plan_portmap(HostPorts((PortMapping(8081, 80, "udp"),), (pod.ip4, pod.ip6)))
    commit(first)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    with nft.connect() as socket:
        assert nft.commit(socket, second, lambda: first)
    assert talk(routed.outside, (NODE4, 8080), routed.pods[0], 80, "udp") == OUTSIDE4
    assert talk(routed.outside, (NODE4, 8081), pod, 80, "udp") == OUTSIDE4
    assert talk(pod, (OUTSIDE4, 7000), routed.outside, 7000, "udp") == NODE4
