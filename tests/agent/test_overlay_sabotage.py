"""Whatever others do to a joined node, it is healed; whatever a source says, nobody is cut off who should not be."""

import errno
import random
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from agent.in_process import MemoryMemory, Running, running
from agent.overlay_nodes import eventually
from netns.nat_lab import ip
from netns.overlay_lab import Member, lab, member, network

from cni_py.kernel.netlink import NetlinkError, NetlinkSocket
from cni_py.kernel.netns import entered
from cni_py.model.converge import converge
from cni_py.model.overlay import Network, Node, tunnel_mac

pytestmark = pytest.mark.sudo
_ACTS = 1000
_NFNL_BATCH_BEGIN = 0x10


def peers(*numbers: int) -> list[Node]:
    """Nodes that are there in word alone."""
    return [member(number) for number in numbers]


def holds(one: Member, nodes: Sequence[Node], of: Network) -> bool:
    """True if the kernel has all that it should, the guard's table with it."""
    desired = one.desired(list(nodes), of)
    if converge(desired, one.read(desired)):
        return False
    tunnels = {"vxlan", "gpe", "l2"} & set(of.backends)
    if not tunnels:
        return True
    with entered(one.place.fd):
        listed = subprocess.run(
            ["nft", "list", "table", "inet", "cnipy_guard"], check=False, capture_output=True, text=True
        ).stdout
    wanted = [str(peer.ip4) for peer in nodes if peer.name != one.node.name]
    whole = listed.count("goto") == 2 * len(tunnels) and listed.count("drop") == 7
    return whole and all(w in listed for w in wanted)


def acts(of: Network) -> list[str]:
    """What somebody with root can do to it, a command each."""
    link = {"vxlan": "cpyvx4", "gpe": "cpygpe", "l2": "cpybr"}.get(of.backends[0], "")
    known = [
        "ip route del 10.244.2.0/24 metric 142",
        "ip -6 route del fd44:0:3::/64 metric 142",
        "ip route flush proto 143",
        "ip -6 route flush proto 143",
        "ip route del unreachable 10.244.0.0/16 metric 16777216",
        "ip link set eth0 down; ip link set eth0 up; ip addr replace 2001:db8::1/64 dev eth0 nodad",
        "busybox sysctl -w net.ipv4.ip_forward=0",
        "nft flush ruleset",
        "ip route add 10.244.77.0/24 dev eth0 proto 143 metric 142",
    ]
    if link:
        known += [
            f"ip link del {link}",
            f"ip link set {link} down",
            f"ip link set {link} down; ip link set {link} up",
            f"ip link set {link} mtu 1280",
            f"ip addr flush dev {link}",
            f"ip addr add 10.99.9.9/32 dev {link}",
            "nft flush chain inet cnipy_guard guard_input",
            "nft flush chain inet cnipy_guard through_node",
            "nft delete element inet cnipy_guard peers4 { 192.0.2.2 }",
        ]
    if link == "cpyvx4":
        mac = tunnel_mac("lab", "n2")
        known += [
            f"bridge fdb del {mac} dev cpyvx4",
            f"bridge fdb replace {mac} dev cpyvx4 dst 192.0.2.66 self permanent",
            "bridge fdb add 0e:00:00:00:00:77 dev cpyvx4 dst 192.0.2.77 self permanent",
            "ip neigh flush all nud permanent dev cpyvx4",
            "ip neigh replace 10.244.2.0 lladdr 0e:00:00:00:00:66 nud permanent dev cpyvx4",
            "ip link set cpyvx4 address 0e:00:00:00:00:99",
            "ip link set cpyvx4 type vxlan learning",
            "ip link add x type dummy 2>/dev/null; ip link del cpyvx4; ip link add cpyvx4 type vxlan id 9 dstport 9999",
        ]
    if link == "cpybr":
        known += [
            "ip route del 10.244.0.0/16 dev cpybr",
            "ip link del cpyvx4",
            "ip link del cpybr; ip link add cpybr type dummy",
            "ip link set cpyvx4 nomaster",
            "ip link add br9 type bridge; ip link set cpyvx4 master br9",
            "ip link set cpyvx4 type vxlan nolearning",
            "ip link set cpybr type bridge mcast_snooping 1 stp_state 1",
            "bridge link set dev cpyvx4 isolated off",
            "bridge fdb del 00:00:00:00:00:00 dev cpyvx4 dst 192.0.2.2",
            "bridge fdb append 00:00:00:00:00:00 dev cpyvx4 dst 192.0.2.66",
            "bridge fdb add 0e:00:00:00:00:77 dev cpyvx4 dst 192.0.2.77 self permanent",
        ]
    return known


ATTACKED = [network("vxlan"), network("gpe"), network("host-gw"), network("l2")]


@pytest.mark.parametrize("of", ATTACKED, ids=lambda of: of.backends[0])
def test_random_sabotage_is_healed(
    of: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of a thousand acts a backend, some together, from a seed: each is healed within 2 s; the time is told."""
    monkeypatch.setattr("cni_py.agent.nodes.GRACE_SECONDS", 0.0)
    seed = 20261124
    draw = random.Random(seed)  # noqa: S311  # no secret
    with lab(tmp_path, member(1), member(2), member(3)) as made:
        one = made.members[0]
        with running(one, of) as role:
            role.source.say(*made.nodes)
            eventually(lambda: holds(one, made.nodes, of), "the node is joined")
            known, took = acts(of), []
            done = 0
            while done < _ACTS // 3:
                chosen = draw.sample(known, draw.choice([1, 1, 1, 2, 3]))
                with entered(one.place.fd):
                    for act in chosen:
                        subprocess.run(["sh", "-c", act], check=False, capture_output=True)
                done += len(chosen)
                began = time.monotonic()
                eventually(lambda: holds(one, made.nodes, of), f"seed {seed}: {'; '.join(chosen)}", seconds=2)
                took.append(time.monotonic() - began)
            took.sort()
            with capsys.disabled():
                half, most = took[len(took) // 2] * 1e3, took[-1] * 1e3
                print(f" {of.backends[0]}: {done} acts, healed within {half:.0f} ms (median), {most:.0f} ms (most)")  # noqa: T201
            assert role.repaired


def test_changes_are_refused_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One netlink message of ten fails; peers come and go, and in the end all is as it should be."""
    draw = random.Random(7)  # noqa: S311  # no secret
    send = NetlinkSocket.send_batch
    failing = True

    def refuse(self: NetlinkSocket, messages: Sequence[bytes]) -> None:
        if struct.unpack_from("=H", messages[0], 4)[0] == _NFNL_BATCH_BEGIN:  # a transaction fails as a whole
            if failing and draw.random() < 0.1:
                raise NetlinkError(1, errno.ENOBUFS)
            send(self, messages)
            return
        kept = [index for index in range(len(messages)) if not failing or draw.random() > 0.1]
        lost = [index for index in range(len(messages)) if index not in set(kept)]
        numbers: dict[int, int] = {}
        first: NetlinkError | None = None
        try:
            if kept:
                send(self, [messages[index] for index in kept])
        except NetlinkError as error:
            first = error
            numbers = {kept[index]: number for index, number in error.failed.items()}
        numbers |= dict.fromkeys(lost, errno.ENOBUFS)
        if numbers:
            worst = min(numbers)
            failed = NetlinkError(worst, numbers[worst], first.text if first else "")
            failed.failed = dict(sorted(numbers.items()))
            raise failed

    of = network("vxlan")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        with running(one, of) as role:
            monkeypatch.setattr(NetlinkSocket, "send_batch", refuse)
            for some in ([2, 3, 4], [2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7, 8]):
                nodes = [one.node, *peers(*some)]
                role.source.say(*nodes)
                eventually(lambda nodes=nodes: holds(one, nodes, of) or role.nodes.standing.passes > 40, "it goes on")  # type: ignore[misc]
            failing = False
            eventually(lambda: holds(one, nodes, of), "all is well")
            eventually(lambda: not role.nodes.conditions.report(), "nothing is left to complain of")


def test_a_source_that_wipes_is_not_believed(tmp_path: Path) -> None:
    """Neither nobody at all nor a tenth; the alarm says so, and goes when the source is itself again."""
    of = network("gpe")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        nodes = [one.node, *peers(*range(2, 12))]
        with running(one, of) as role:
            role.source.say(*nodes)
            eventually(lambda: holds(one, nodes, of), "joined")
            for left in ([], nodes[:2]):
                role.source.say(*left)
                eventually(lambda: alarmed(role, "no longer names"), "it is told")
                assert holds(one, nodes, of)
            role.source.say(*nodes)
            eventually(lambda: not alarmed(role, "no longer names"), "the alarm is over")


def alarmed(role: Running, words: str) -> bool:
    """True if a condition says so."""
    return any(words in str(one["text"]) for one in role.nodes.conditions.report())


def test_claims_to_others_networks_are_refused_and_named(tmp_path: Path) -> None:
    """The older owner keeps its network; own addresses, foreign networks, doubled endpoints."""
    of = network("vxlan")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        nodes = [one.node, *peers(2, 3)]
        with running(one, of) as role:
            role.source.say(*nodes)
            eventually(lambda: holds(one, nodes, of), "joined")
            bad = [
                replace(member(21), cidrs=(ip_network("10.244.2.0/24"),)),
                replace(member(22), ip4=IPv4Address("192.0.2.1"), ip6=None),
                replace(member(23), cidrs=(ip_network("172.16.0.0/16"),)),
                replace(member(24), ip4=IPv4Address("192.0.2.3"), ip6=None),
            ]
            role.source.say(*nodes, *bad, skipped={"n25": "the record is no JSON"})
            for name in ("n21", "n22", "n23", "n24", "n25"):
                eventually(lambda name=name: named(role, f"peer {name}"), f"{name} is named")  # type: ignore[misc]
            assert holds(one, nodes, of)


def named(role: Running, name: str) -> bool:
    """True if there is a condition of that name."""
    return any(one["name"] == name for one in role.nodes.conditions.report())


def test_a_node_that_boots_knows_its_peers(tmp_path: Path) -> None:
    """From the last good set, while the source is away; it is not said to be joined before the source speaks."""
    of = network("vxlan")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        nodes = [one.node, *peers(2, 3)]
        memory = MemoryMemory()
        memory.nodes = {node.name: node for node in nodes}
        with running(one, of, memory) as role:
            assert holds(one, nodes, of)
            assert not role.source.joins
            assert memory.told[-1][1] == 1450
            role.source.say(*nodes)
            eventually(lambda: role.source.joins == 1, "the source hears that it joined")
            assert role.source.published[0].ip4 == one.node.ip4


def test_what_an_earlier_run_left_goes_after_a_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is adopted if it is wanted, and left alone until the source has had time to speak."""
    monkeypatch.setattr("cni_py.agent.nodes.GRACE_SECONDS", 1.0)
    of = network("vxlan")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        one.passed([one.node, *peers(2, 3)], of)
        index = one.kernel.index("cpyvx4")
        with running(one, of) as role:
            assert holds_routes(one, "10.244.2.0/24", "10.244.3.0/24")
            role.source.say(one.node, *peers(2))
            eventually(lambda: role.nodes.standing.joined, "joined")
            assert holds_routes(one, "10.244.2.0/24", "10.244.3.0/24")
            eventually(lambda: not holds_routes(one, "10.244.3.0/24"), "what is left over goes")
            assert holds_routes(one, "10.244.2.0/24")
            assert one.kernel.index("cpyvx4") == index


def holds_routes(one: Member, *networks: str) -> bool:
    """True if the overlay has routes to all of these."""
    with entered(one.place.fd):
        state = one.kernel.read(())
    return {str(route.dst) for route in state.routes} >= set(networks)


def test_the_underlay_is_followed(tmp_path: Path) -> None:
    """Its MTU and address: the device is changed, not made anew, pods and others hear of it."""
    of = network("vxlan")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        with running(one, of) as role:
            role.source.say(one.node, *peers(2))
            eventually(lambda: bool(role.memory.told), "joined")
            index = one.kernel.index("cpyvx4")
            one.ip("link set eth0 mtu 1400")
            eventually(lambda: role.memory.told[-1][1] == 1350, "pods hear of the MTU")
            one.ip("addr del 192.0.2.1/24 dev eth0")  # with it go those of the same network that came later
            one.ip("addr add 192.0.2.55/24 dev eth0")
            eventually(lambda: role.source.published[-1].ip4 == IPv4Address("192.0.2.55"), "the others hear of it")
            with entered(one.place.fd):
                link = one.kernel.read(("cpyvx4",)).links[0]
            assert (link.mtu, str(link.vxlan and link.vxlan.local)) == (1350, "192.0.2.55")
            assert one.kernel.index("cpyvx4") == index


def test_an_underlay_that_goes_and_comes_is_no_loss(tmp_path: Path) -> None:
    """Deleted and made anew under its name: the tunnels stay, and it is told meanwhile."""
    of = network("vxlan")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        nodes = [one.node, *peers(2)]
        with running(one, of) as role:
            role.source.say(*nodes)
            eventually(lambda: holds(one, nodes, of), "joined")
            one.ip("link set eth0 down")
            eventually(lambda: named(role, "underlay"), "it is told")
            assert holds_routes(one, "10.244.2.0/24")
            one.ip("link set eth0 up")
            eventually(lambda: not named(role, "underlay"), "it is over")
            assert holds(one, nodes, of)


def test_a_pod_wakes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred links that come and go: not a pass for each, nor for some of them."""
    monkeypatch.setattr("cni_py.agent.nodes.GRACE_SECONDS", 0.0)
    of = network("vxlan")
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        with running(one, of) as role:
            role.source.say(one.node, *peers(2))
            eventually(lambda: role.nodes.standing.joined, "joined")
            before = role.nodes.standing.passes
            with entered(one.place.fd):
                for _ in range(100):
                    ip("link add cpy000000000001 type veth peer name x")
                    ip("link set cpy000000000001 up")
                    ip("link del cpy000000000001")
            # Of the node's own young links the kernel goes on to tell for some seconds.
            assert role.nodes.standing.passes - before <= 5
