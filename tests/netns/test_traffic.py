"""Packets between containers that the plugin attached, the node and a neighbour of it: who reaches whom, as whom."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from netns.nat_lab import ABSENT_S, BRIDGE_SYSCTLS, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Place, ip, seen_from, unanswered
from netns.plugin import bridged, routed
from netns.pods import Node, empty_node, talk, throughput_bits
from netns.snapshot import output

pytestmark = pytest.mark.sudo

MODES = {"routed": routed(), "bridge": bridged()}
OTHER = {
    "type": "cni-py-ipam",
    "ranges": [[{"subnet": "10.8.0.0/24"}], [{"subnet": "fd00:8::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}
NODE = {4: NODE4, 6: NODE6}
OUTSIDE = {4: OUTSIDE4, 6: OUTSIDE6}
GATEWAY = {4: "10.7.0.1", 6: "fd00:7::1"}
both_modes = pytest.mark.parametrize("mode", MODES)
both_families = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def node(fresh_namespaces: None, tmp_path: Path) -> Iterator[Node]:
    """An empty node; where br_netfilter is loaded, as most nodes have it: off, so that a bridge is one."""
    del fresh_namespaces
    for name in ("iptables", "ip6tables") if BRIDGE_SYSCTLS.exists() else ():
        (BRIDGE_SYSCTLS / f"bridge-nf-call-{name}").write_text("0")
    with empty_node(tmp_path) as made:
        yield made


def mapped(*entries: dict[str, Any]) -> dict[str, Any]:
    """Host ports to port 80."""
    return {"runtimeConfig": {"portMappings": [{"containerPort": 80, "protocol": "tcp", **entry} for entry in entries]}}


def only(version: int) -> dict[str, Any]:
    """A network of one family."""
    subnet, default = ("10.7.0.0/24", "0.0.0.0/0") if version == 4 else ("fd00:7::/64", "::/0")
    return {"ipam": {"type": "cni-py-ipam", "subnet": subnet, "routes": [{"dst": default}]}}


@both_families
@both_modes
def test_reach(mode: str, version: int, node: Node) -> None:
    """Containers reach each other and the gateway address, the node reaches both, all under their own addresses."""
    first, second = node.attach("c1", MODES[mode]), node.attach("c2", MODES[mode])
    assert first.address(version) == talk(first, (second.address(version), 80), second)
    assert second.address(version) == talk(second, (first.address(version), 80), first, protocol="udp")
    assert first.address(version) == talk(first, (GATEWAY[version], 80), node.place)
    assert GATEWAY[version] == talk(node.place, (first.address(version), 80), first)


@both_families
@both_modes
def test_single_stack(mode: str, version: int, node: Node) -> None:
    """A network of one family alone works, IPv6 as well."""
    config = {**MODES[mode], **only(version)}
    first, second = node.attach("c1", config), node.attach("c2", config)
    assert first.address(version) == talk(first, (second.address(version), 80), second)
    assert first.address(version) == talk(first, (GATEWAY[version], 80), node.place)


@both_families
def test_routed_and_bridge(version: int, node: Node) -> None:
    """Containers of a routed and of a bridge network on one node reach each other, both ways."""
    first, second = node.attach("c1", routed()), node.attach("c2", {**bridged(), "name": "other", "ipam": OTHER})
    assert first.address(version) == talk(first, (second.address(version), 80), second)
    assert second.address(version) == talk(second, (first.address(version), 80), first)


def test_ipv6_without_delay(node: Node) -> None:
    """What the node forwards to a new container does not wait for duplicate address detection (2 s and more).

    One second may pass all the same: the kernel rations carrier events, and then the neighbour is asked a second time.
    """
    first, second = node.attach("c1", routed()), node.attach("c2", {**routed(), "name": "other", "ipam": OTHER})
    with second.listen(6, "tcp", 80) as server, first.open(6, "tcp") as client:
        client.settimeout(1.6)
        server.settimeout(1.6)
        assert first.address(6) == seen_from(client, (second.address(6), 80), server)


@both_families
@both_modes
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_masquerade(mode: str, version: int, protocol: str, node: Node) -> None:
    """Outside sees the node, a container of the same network sees the container."""
    outside = node.outside()
    config = {**MODES[mode], "ipMasq": True}
    first, second = node.attach("c1", config), node.attach("c2", config)
    assert NODE[version] == talk(first, (OUTSIDE[version], 80), outside, protocol=protocol)
    assert first.address(version) == talk(first, (second.address(version), 80), second, protocol=protocol)


@both_families
@both_modes
def test_without_masquerade(mode: str, version: int, node: Node) -> None:
    """Without ipMasq a container keeps its address outside; who knows a route can answer."""
    outside = node.outside()
    ip("-n outside", f"route add 10.7.0.0/24 via {NODE4}")
    ip("-n outside", f"route add fd00:7::/64 via {NODE6}")
    first = node.attach("c1", MODES[mode])
    assert first.address(version) == talk(first, (OUTSIDE[version], 80), outside)


@both_families
@both_modes
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_host_port(mode: str, version: int, protocol: str, node: Node) -> None:
    """A host port leads to the container: from outside, the node, another container and the container itself."""
    outside = node.outside()
    ports = mapped({"hostPort": 8080, "protocol": protocol})
    web, other = node.attach("c1", {**MODES[mode], **ports, "ipMasq": True}), node.attach("c2", MODES[mode])
    to = (NODE[version], 8080)
    assert OUTSIDE[version] == talk(outside, to, web, 80, protocol)
    for client in (node.place, other, web):
        assert talk(client, to, web, 80, protocol)
    if version == 4:
        assert talk(node.place, ("127.0.0.1", 8080), web, 80, protocol)
    node.callers["c1"].delete(MODES[mode])
    with node.place.open(version, protocol) as asking:
        assert unanswered(asking, to)


@both_modes
@both_families
def test_host_ip(mode: str, version: int, node: Node) -> None:
    """A mapping for one address of the node is not on another one."""
    outside = node.outside()
    second = "192.0.2.9" if version == 4 else "2001:db8::9"
    ip(f"address add {second}/{'24' if version == 4 else '64'} dev eth0" + (" nodad" if version == 6 else ""))
    web = node.attach("c1", {**MODES[mode], **mapped({"hostPort": 8080, "hostIP": second})})
    assert OUTSIDE[version] == talk(outside, (second, 8080), web)
    with outside.open(version, "tcp") as client:
        assert unanswered(client, (NODE[version], 8080))


@both_modes
def test_host_port_conflict(mode: str, node: Node) -> None:
    """A host port has one owner: the second is refused with the first one's name, and the first goes on serving."""
    config = {**MODES[mode], **mapped({"hostPort": 8080})}
    web = node.attach("c1", config)
    code, error = node.caller("c2").verb("ADD", config)
    assert (code, error["msg"].rsplit(": ", 1)[-1]) == (1, "host port tcp . 8080 is taken by net/c1")
    assert talk(node.place, ("127.0.0.1", 8080), web)
    assert "eth0" not in output("ip", "-n", "c2", "-o", "link")


@both_modes
def test_stale_udp_flow(mode: str, node: Node) -> None:
    """A client that goes on sending from one port reaches whoever has the host port now, not whom it had before."""
    outside = node.outside()
    config = {**MODES[mode], **mapped({"hostPort": 5353, "protocol": "udp"})}
    with outside.open(4, "udp") as client:
        client.bind(("", 40000))
        client.sendto(b"to nobody", (NODE4, 5353))
        for name in ("c1", "c2"):
            pod = node.attach(name, config)
            with pod.listen(4, "udp", 80) as server:
                client.sendto(b"to whom?", (NODE4, 5353))
                assert server.recvfrom(16) == (b"to whom?", (OUTSIDE4, 40000))
            node.callers[name].delete(config)


@both_modes
def test_restored_after_flush(mode: str, node: Node) -> None:
    """Somebody flushed all of nftables: the next ADD on the node makes the others' host ports and masquerade whole."""
    outside = node.outside()
    config = {**MODES[mode], "ipMasq": True, **mapped({"hostPort": 8080})}
    web = node.attach("c1", config)
    checked = {**config, "prevResult": node.result("c1")}
    output("nft", "flush", "ruleset")
    assert node.callers["c1"].verb("CHECK", checked)[0] == 1
    node.attach("c2", MODES[mode])
    node.attach("c3", {**MODES[mode], **mapped({"hostPort": 8081})})
    assert node.callers["c1"].verb("CHECK", checked) == (0, None)
    assert talk(outside, (NODE4, 8080), web)
    assert talk(web, (OUTSIDE4, 80), outside) == NODE4


@both_modes
def test_bandwidth(mode: str, node: Node, record_property: Callable[[str, object], None]) -> None:
    """A limit of 16 Mbit/s is what a connection gets, in each direction; without one it is many times that."""
    limits = {"ingressRate": 16_000_000, "ingressBurst": 1_600_000, "egressRate": 16_000_000, "egressBurst": 1_600_000}
    limited = node.attach("c1", {**MODES[mode], "runtimeConfig": {"bandwidth": limits}})
    free, other = node.attach("c2", MODES[mode]), node.attach("c3", MODES[mode])
    unlimited = throughput_bits(free, other, 0.3)
    ways = {"ingress": throughput_bits(other, limited), "egress": throughput_bits(limited, other)}
    for way, measured in ways.items():
        record_property(f"{mode} {way} of 16 Mbit/s", measured / 16e6)
        record_property(f"{mode} unlimited to limited {way}", unlimited / measured)
        # the burst of 0.1 s comes on top; below is what headers and slow start take
        assert 0.6 < measured / 16e6 < 1.25, way
        assert unlimited / measured > 5, way


@pytest.mark.parametrize(
    ("rate", "burst", "shown"),
    [
        (8_000_000, (1 << 32) - 1, "rate 8Mbit"),
        (1_000, (1 << 32) - 1, "rate 1Kbit"),
        (10_000_000_000, (1 << 32) - 1, "rate 10Gbit"),
        (40_000_000_000, (1 << 32) - 1, "rate 40Gbit"),
    ],
    ids=["8 Mbit/s", "1 kbit/s", "10 Gbit/s", "40 Gbit/s"],
)
def test_bandwidth_as_containerd_asks(rate: int, burst: int, shown: str, node: Node) -> None:
    """Containerd gives pods with a limit a burst of 2^32-1 bits, minutes of traffic: the limit is there."""
    limits = {"IngressRate": rate, "IngressBurst": burst, "EgressRate": rate, "EgressBurst": burst}
    config = routed(runtimeConfig={"bandwidth": limits})
    node.attach("c1", config)
    buckets = [line for line in output("tc", "qdisc", "show").splitlines() if "tbf" in line]
    assert [shown in line for line in buckets] == [True, True]
    assert node.callers["c1"].verb("CHECK", {**config, "prevResult": node.result("c1")}) == (0, None)


def _forged(place: Place, source: str, to: str) -> socket.socket:
    """A datagram socket there with an address that is not the interface's own."""
    ip("-n", place.name, f"address add {source}/32 dev lo")
    made = place.open(4, "udp")
    made.bind((source, 0))
    made.connect((to, 53))
    return made


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        (routed(), False),
        (routed(antispoof=False), True),
        (bridged(), True),
        (bridged(antispoof=True), False),
        (bridged(macspoofchk=True), True),
    ],
    ids=["routed, as it is", "routed, off", "bridge, as it is", "bridge, antispoof", "bridge, macspoofchk"],
)
def test_forged_address(config: dict[str, Any], passes: bool, node: Node) -> None:
    """A container sends from an address that is not its own: dropped where antispoof is on, as it is when routed."""
    pod = node.attach("c1", config)
    for path in Path("/proc/sys/net/ipv4/conf").glob("*/rp_filter"):  # which would drop it as well
        path.write_text("0")
    gateway = GATEWAY[4]
    with node.place.listen(4, "udp", 53) as server, _forged(pod, "10.7.0.99", gateway) as client:
        server.settimeout(ABSENT_S)
        client.send(b"forged")
        try:
            seen = server.recvfrom(16)[1][0]
        except TimeoutError:
            seen = ""
    assert ("10.7.0.99" if passes else "") == seen
    assert pod.address(4) == talk(pod, (gateway, 80), node.place)


@pytest.mark.parametrize(("option", "passes"), [({}, True), ({"macspoofchk": True}, False)], ids=["off", "on"])
def test_forged_mac(option: dict[str, Any], passes: bool, node: Node) -> None:
    """With macspoofchk a frame from another MAC does not leave the bridge port."""
    first, second = (node.attach(name, bridged(**option)) for name in ("c1", "c2"))
    frame = b"\xff" * 6 + b"\x02\0\0\0\0\x66" + b"\x88\xb5" + b"forged".ljust(46, b"\0")
    assert passes == _arrives(first, frame, second)


def _arrives(sender: Place, frame: bytes, receiver: Place) -> bool:
    """True if a frame that one container sends is received by the other."""
    with sender.packet_socket("eth0") as sending, receiver.packet_socket("eth0") as receiving:
        receiving.settimeout(ABSENT_S)
        sending.send(frame)
        try:
            while True:
                seen, (_, _, kind, *_) = receiving.recvfrom(2048)
                if seen == frame and kind != socket.PACKET_OUTGOING:
                    return True
        except TimeoutError:
            return False


@pytest.mark.parametrize("hairpin", [False, True], ids=["off", "on"])
def test_hairpin(hairpin: bool, node: Node) -> None:
    """With hairpinMode a port gets its own frames back, else not."""
    pod = node.attach("c1", bridged(hairpinMode=hairpin))
    frame = b"\xff" * 6 + b"\x02\0\0\0\0\x66" + b"\x88\xb5" + b"to myself".ljust(46, b"\0")
    assert hairpin == _arrives(pod, frame, pod)


def test_port_isolation(node: Node) -> None:
    """Isolated containers reach the node and what is outside, not each other."""
    outside = node.outside()
    config = bridged(portIsolation=True, ipMasq=True)
    first, second = node.attach("c1", config), node.attach("c2", config)
    assert NODE[4] == talk(first, (OUTSIDE[4], 80), outside)
    assert first.address(4) == talk(first, (GATEWAY[4], 80), node.place)
    with second.listen(4, "tcp", 80), first.open(4, "tcp") as client:
        assert unanswered(client, (second.address(4), 80))


def test_force_address(node: Node) -> None:
    """The node's pod network changed: without forceAddress ADD says so, with it the new gateway serves."""
    node.attach("c1", {**bridged(), **only(4)})
    node.callers["c1"].delete({**bridged(), **only(4)})
    moved = {"type": "cni-py-ipam", "subnet": "10.8.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}
    config = {**bridged(), "name": "moved", "ipam": moved}
    code, error = node.caller("c2").verb("ADD", config)
    assert (code, error["msg"]) == (1, '"cni0" already has an IP address different from 10.8.0.1/24')
    assert "forceAddress" in error["details"]
    pod = node.attach("c2", {**config, "forceAddress": True})
    assert pod.address(4) == talk(pod, ("10.8.0.1", 80), node.place)
    assert "10.7.0.1" not in output("ip", "address", "show", "cni0")


def test_layer_2(node: Node) -> None:
    """A bridge without IPAM is a segment: containers that address themselves reach each other on it."""
    config = {**bridged(isDefaultGateway=False), "ipam": {}}
    first, second = node.attach("c1", config), node.attach("c2", config)
    ip("-n c1 address add 10.9.0.1/24 dev eth0")
    ip("-n c2 address add 10.9.0.2/24 dev eth0")
    with second.listen(4, "tcp", 80) as server, first.open(4, "tcp") as client:
        assert seen_from(client, ("10.9.0.2", 80), server) == "10.9.0.1"


@both_modes
def test_mtu(mode: str, node: Node) -> None:
    """The MTU is that of both ends, and what a datagram that may not be fragmented can have."""
    first, second = (node.attach(name, {**MODES[mode], "mtu": 1400}) for name in ("c1", "c2"))
    with second.listen(4, "udp", 80) as server, first.open(4, "udp") as client:
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        client.connect((second.address(4), 80))
        client.send(bytes(1400 - 28))
        assert len(server.recv(2048)) == 1372
        with pytest.raises(OSError, match="Message too long"):
            client.send(bytes(1400 - 27))
