"""The guard on real packets: tunnels hear peers alone, and pods talk to no tunnel; between pods the port is free."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from agent.in_process import running
from agent.overlay_nodes import eventually
from netns.nat_lab import Place
from netns.overlay_lab import Lab, lab, member, network

from cni_py.kernel.netns import entered

pytestmark = pytest.mark.sudo
PORT, VNI = 4789, 142


@dataclass
class Guarded:
    """Two joined nodes with a pod each, and a stranger on their link."""

    made: Lab
    pods: list[Place]
    stranger: Place

    def dropped(self, node: int) -> int:
        """How many packets the guard of that node dropped."""
        with entered(self.made.members[node].place.fd):
            text = subprocess.run(
                ["nft", "list", "table", "inet", "cnipy_guard"], check=True, capture_output=True
            ).stdout
        words = text.decode().split()
        return sum(int(words[at + 1]) for at, word in enumerate(words) if word == "packets")

    def heard(self, node: int) -> int:
        """How many packets came out of the tunnel of that node."""
        with entered(self.made.members[node].place.fd):
            return int(Path("/proc/net/dev").read_text().split("cpyvx4:")[1].split()[1])


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    """By VXLAN, with the role running on both."""
    of = network("vxlan")
    with lab(tmp_path, member(1), member(2), member(9)) as made:
        joined = made.members[:2]
        nodes = [one.node for one in joined]
        with running(joined[0], of) as one, running(joined[1], of) as two:
            for role in (one, two):
                role.source.say(*nodes)
                eventually(lambda role=role: role.nodes.standing.joined, "joined")  # type: ignore[misc]
            pods = [one.attach(of) for one in joined]
            yield Guarded(made, pods, made.members[2].place)


def frame(of: Guarded, source: str) -> bytes:
    """A VXLAN packet's payload: a datagram from that address to the pod of n1, behind the node's own MAC."""
    node, pod = of.made.members[0].node, of.pods[0]
    body = struct.pack(">HHHH", 7, 7, 8, 0)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0)
    header += ip_address(source).packed + pod.ip4.packed
    total = sum(struct.unpack(">10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    mac = bytes.fromhex(node.mac.replace(":", ""))
    return struct.pack(">II", 0x08000000, VNI << 8) + mac + b"\x0e\0\0\0\0\x01\x08\x00" + header + body


def send(place: Place, to: str, data: bytes) -> None:
    """A datagram to the tunnel's port."""
    with entered(place.fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, (to, PORT))


def test_packets_of_a_peer_come_in(guarded: Guarded) -> None:
    """And nothing is dropped for it."""
    before = guarded.heard(0)
    send(guarded.made.members[1].place, "192.0.2.1", frame(guarded, "10.244.2.9"))
    eventually(lambda: guarded.heard(0) == before + 1, "it is heard")
    assert guarded.dropped(0) == 0


def test_packets_of_a_stranger_are_dropped(guarded: Guarded) -> None:
    """Whatever they hold: nothing of them comes out of the tunnel."""
    before = guarded.heard(0)
    send(guarded.stranger, "192.0.2.1", frame(guarded, "10.244.2.9"))
    eventually(lambda: guarded.dropped(0) == 1, "it is dropped")
    assert guarded.heard(0) == before


def test_a_peer_that_somebody_took_off_the_list_is_back(guarded: Guarded) -> None:
    """Else its tunnel would be dead."""
    with entered(guarded.made.members[0].place.fd):
        subprocess.run(["nft", "delete element inet cnipy_guard peers4 { 192.0.2.2 }"], check=True)
    eventually(lambda: "192.0.2.2" in listed(guarded), "somebody's deletion is mended")


def listed(of: Guarded) -> str:
    """The table."""
    with entered(of.made.members[0].place.fd):
        command = ["nft", "list", "table", "inet", "cnipy_guard"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("to", "node"), [("192.0.2.1", 0), ("192.0.2.2", 0)])
def test_pods_send_to_no_tunnel(guarded: Guarded, to: str, node: int) -> None:
    """Neither to their own node's nor, by its address, to another's."""
    heard = [guarded.heard(0), guarded.heard(1)]
    send(guarded.pods[0], to, frame(guarded, "10.244.2.9"))
    eventually(lambda: guarded.dropped(node) == 1, "it is dropped where it begins")
    assert [guarded.heard(0), guarded.heard(1)] == heard


def test_pods_may_use_the_port_among_themselves(guarded: Guarded) -> None:
    """A tunnel of their own, between pods of two nodes."""
    one, two = guarded.pods
    with entered(two.fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", PORT))
        server.settimeout(10)
        send(one, str(two.ip4), b"hello")
        assert server.recv(100) == b"hello"
    assert guarded.dropped(0) == guarded.dropped(1) == 0


def test_tcp_of_the_same_number_is_nobodys_concern(guarded: Guarded) -> None:
    """Neither to a node nor between pods."""
    for server in (guarded.made.members[0].place, guarded.pods[1]):
        with server.listen(4, "tcp", PORT) as listening, guarded.pods[0].open(4, "tcp") as asking:
            asking.connect((str(server.ip4), PORT))
            listening.accept()[0].close()
    assert guarded.dropped(0) == guarded.dropped(1) == 0
