"""Random acts of sabotage, and a kernel that refuses one message in ten: what is left is what was wanted."""

import errno
import random
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from netns.overlay_lab import Member, lab, member, network

from cni_py.kernel import netns
from cni_py.kernel.netlink import NetlinkError, NetlinkSocket
from cni_py.model.converge import converge
from cni_py.model.net import EVERYBODY, NodeState
from cni_py.model.node_network import SEGMENT
from cni_py.model.overlay import BackendName, Node, tunnel_mac

pytestmark = pytest.mark.sudo

ACTS = 125
BACKENDS: tuple[BackendName, ...] = ("vxlan", "gpe", "host-gw", "direct", "l2")


def _peers() -> list[Node]:
    """A few near and far, some of IPv6 alone. They are not there: what is looked at is the kernel of one node."""
    return [
        Node(
            f"m{number}",
            (ip_network(f"10.244.{number}.0/24"), ip_network(f"fd44:0:{number:x}::/64")),
            tunnel_mac("lab", f"m{number}"),
            IPv4Address(f"{'198.51.100' if number % 3 else '192.0.2'}.{number}") if number % 4 else None,
            IPv6Address(f"2001:db8::{number:x}"),
        )
        for number in range(20, 36)
    ]


def _possible(dice: random.Random, held: NodeState) -> Iterator[str]:
    """Commands that take away, change or add something; of each kind one, of a random object."""
    yield "sysctl -qw net.ipv4.ip_forward=0"
    yield "ip route flush proto 143"
    yield "ip -6 route flush proto 143"
    yield f"ip route add 10.244.{dice.randrange(100, 200)}.0/24 dev eth0 metric 142 proto 143"
    route = dice.choice(held.routes)
    kind = "unreachable " if route.kind != "unicast" else ""
    yield f"ip -{route.dst.version} route del {kind}{route.dst} metric {route.priority} proto 143"
    yield f"ip -{route.dst.version} route replace {route.dst} dev eth0 metric {route.priority} proto 143"
    yield f"ip -{route.dst.version} route append {route.dst} dev lo metric {route.priority} proto 143"
    for link in held.links[:1]:
        name = dice.choice(held.links).name
        yield f"ip link del {name}"
        yield f"ip link set {name} down"
        yield f"ip link set {name} mtu {dice.randrange(1280, 1400)}"
        yield f"ip addr add 10.244.250.{dice.randrange(1, 250)}/24 dev {name}"
        if held.link("host", SEGMENT) is not None:
            yield f"ip link set {name} nomaster"
            yield f"bridge link set dev {name} isolated off"
            yield f"ip link set {SEGMENT} type bridge mcast_snooping 1"
        address = dice.choice(held.addresses)
        yield f"ip addr del {address.address} dev {address.link}"
        if link.mac:
            yield f"ip link set {name} address 0e:00:00:00:00:{dice.randrange(256):02x}"
    for _ in held.fdb[:1]:
        entry = dice.choice(held.fdb)
        outside = "192.0.2.99" if entry.dst.version == 4 else "2001:db8::99"
        stray = f"0e:aa:00:00:00:{dice.randrange(256):02x}"
        yield f"bridge fdb append {stray} dev {entry.link} dst {outside} self permanent"
        if entry.mac == EVERYBODY:
            yield f"bridge fdb del {entry.mac} dev {entry.link} dst {entry.dst}"
            yield f"bridge fdb append {entry.mac} dev {entry.link} dst {outside} self permanent"
            yield f"bridge fdb append {stray} dev {entry.link} dst {outside} self dynamic"
            continue
        neighbour = dice.choice(held.neighbours)
        yield f"ip neigh del {neighbour.address} dev {neighbour.link}"
        yield f"ip neigh replace {neighbour.address} lladdr 0e:00:00:00:00:01 dev {neighbour.link} nud permanent"
        yield f"ip neigh replace 10.244.251.1 lladdr {neighbour.mac} dev {neighbour.link} nud permanent"
        yield f"ip neigh replace {neighbour.address} lladdr {neighbour.mac} dev {neighbour.link} nud reachable"
        yield f"bridge fdb del {entry.mac} dev {entry.link}"
        yield f"bridge fdb replace {entry.mac} dev {entry.link} dst {outside} self permanent"
        yield f"bridge fdb replace {entry.mac} dev {entry.link} dst {outside} self dynamic"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_act_of_sabotage_is_healed_in_one_pass(backend: BackendName, tmp_path: Path) -> None:
    """One to three acts at a time, chosen by a seed; no change is refused, and a second pass finds nothing to do."""
    dice = random.Random(f"sabotage {backend}")  # noqa: S311  # a seed is what is wanted
    of, peers = network(backend), _peers()
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        one.passed(peers, of)
        healed = 0
        for _ in range(ACTS):
            held = _held(one, peers, backend)
            acts = dice.sample(list(_possible(dice, held)), dice.randrange(1, 4))
            with netns.entered(one.place.fd):
                for act in acts:  # after another act it may be impossible
                    subprocess.run(act.split(), check=False, stderr=subprocess.DEVNULL)
            healed += one.passed(peers, of) != ()
            assert one.passed(peers, of) == (), acts
        assert healed > ACTS * 0.9  # some do what an earlier one did already


def _held(one: Member, peers: Sequence[Node], backend: BackendName) -> NodeState:
    return one.read(one.desired(list(peers), network(backend)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kernel_that_refuses_at_random(backend: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is handed back and is what the next pass does; in the end all is as wanted."""
    dice = random.Random(f"refusals {backend}")  # noqa: S311  # a seed is what is wanted
    send = NetlinkSocket.send_batch

    def refuse(self: NetlinkSocket, messages: Sequence[bytes]) -> None:
        refused = [index for index in range(len(messages)) if dice.random() < 0.1]
        kept = [index for index in range(len(messages)) if index not in refused]
        failed = dict.fromkeys(refused, errno.ENOMEM)
        try:
            send(self, [messages[index] for index in kept])
        except NetlinkError as error:
            failed |= {kept[index]: number for index, number in error.failed.items()}
        if failed:
            raised = NetlinkError(min(failed), failed[min(failed)])
            raised.failed = failed
            raise raised

    with lab(tmp_path, member(1)) as made:
        one, of = made.members[0], network(backend)
        desired = one.desired(_peers(), of)
        monkeypatch.setattr(NetlinkSocket, "send_batch", refuse)
        for _ in range(40):
            ops = converge(desired, one.read(desired))
            if not ops:
                break
            with netns.entered(one.place.fd):
                handed_back = {op for op, _ in one.kernel.apply(ops)}
            assert handed_back <= set(ops)
        monkeypatch.undo()
        assert one.passed(_peers(), of) == ()
