"""Nodes by a real etcd: who joins, what stays whose over restarts and cuts, what hostile keys do."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import trustme
from cluster.etcd_server import Etcd, base64, etcd
from cluster.etcd_watcher import Watcher
from netns.nat_lab import ip
from netns.plugin import netns as make_netns

from cni_py.cluster import etcd as etcd_module
from cni_py.cluster.etcd import EtcdSource, Timing
from cni_py.cluster.etcd_access import EtcdAccess
from cni_py.cluster.etcd_client import EtcdClient
from cni_py.cluster.etcd_keys import EtcdKeys
from cni_py.cluster.etcd_wire import KeyValue
from cni_py.cluster.subnets import Pool
from cni_py.kernel import netns
from cni_py.model.errors import InvalidConfigError, TryAgainError
from cni_py.model.overlay import Node, tunnel_mac
from cni_py.model.result import IPNetwork

QUICK = Timing(ttl=60, beat=0.2, answer=2.0, first=0.02, last=0.2, gather=0.0, grace=0.0)
POOLS = (Pool(ip_network("10.244.0.0/16"), 24), Pool(ip_network("fd44::/32"), 64))
ROOT = "/cni-py/c"


class Machine:
    """A node that may be started again and again. `source` and `seen` are those of the last start."""

    def __init__(
        self, server: Etcd, number: int, pools: tuple[Pool, ...] = POOLS, cidrs: tuple[IPNetwork, ...] = ()
    ) -> None:
        self.access = EtcdAccess((server.url,))
        self.keys = EtcdKeys("c", f"n{number}", f"id{number}", pools, cidrs)
        self.node = Node(
            f"n{number}",
            (),
            tunnel_mac("c", f"n{number}"),
            IPv4Address(f"192.0.2.{number}"),
            IPv6Address(f"2001:db8::{number}"),
        )
        self.seen = Watcher()
        self.source: EtcdSource | None = None

    def start(self, held: tuple[IPNetwork, ...] = (), timing: Timing = QUICK) -> "Machine":
        """It runs and has told who it is."""
        self.seen = Watcher()
        self.source = EtcdSource(self.access, self.keys, held, timing)
        self.source.start(self.seen)
        self.source.publish(self.node)
        return self

    def stop(self) -> None:
        """Its agent has ended."""
        if self.source is not None:
            self.source.stop()
            self.source = None

    @property
    def cidrs(self) -> tuple[IPNetwork, ...]:
        """Its networks, as it was told."""
        node = self.seen.nodes.get(self.node.name)
        return node.cidrs if node is not None else ()

    def joined(self) -> tuple[IPNetwork, ...]:
        """Its networks, when it has some."""
        self.seen.until(lambda _: bool(self.cidrs))
        return self.cidrs


@pytest.fixture(autouse=True)
def no_threads() -> Iterator[None]:
    """Threads that have ended are gone from the kernel as well, which lets nobody out of a namespace before."""
    yield
    while len(list(Path("/proc/self/task").iterdir())) > 1:
        os.sched_yield()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd."""
    with etcd(tmp_path) as made:
        yield made


@pytest.fixture
def machines(server: Etcd) -> Iterator["list[Machine]"]:
    """Three, not started; they are stopped in the end, as are those that a test adds."""
    made = [Machine(server, number) for number in (1, 2, 3)]
    yield made
    for one in made:
        one.stop()


def lease_of(server: Etcd, machine: Machine) -> int:
    """The lease that a machine's keys are under: one for all of them."""
    identity = machine.keys.identity
    keys = server.get(ROOT).items()
    found = {numbers["lease"] for key, (value, numbers) in keys if value == identity or key.endswith(f"/{identity}")}
    assert len(found) == 1, found
    return found.pop()


@pytest.mark.sudo
def test_who_joins_is_seen_by_all(machines: list[Machine], server: Etcd) -> None:
    """Three at once: each is told of the other two, with networks of both families that are nobody else's."""
    for one in machines:
        one.start()
    for one in machines:
        one.seen.until(lambda seen: len(seen.nodes) == 3)
        assert one.seen.nodes == machines[0].seen.nodes
        assert not one.seen.reason
    nodes = machines[0].seen.nodes
    assert len({cidr for node in nodes.values() for cidr in node.cidrs}) == 6
    for machine in machines:
        node = nodes[machine.node.name]
        assert (node.ip4, node.ip6, node.mac) == (machine.node.ip4, machine.node.ip6, machine.node.mac)
        assert [cidr.prefixlen for cidr in node.cidrs] == [24, 64]
        assert node.uid == machine.keys.identity
        assert node.since == server.get(f"{ROOT}/nodes/{node.uid}")[f"{ROOT}/nodes/{node.uid}"][1]["create_revision"]
    assert lease_of(server, machines[0]) != lease_of(server, machines[1])
    assert all(cidr.overlaps(pool.cidr) for cidr, pool in zip(nodes["n1"].cidrs, POOLS, strict=True))


@pytest.mark.sudo
def test_a_full_pool_is_an_error_and_nothing_is_borrowed(server: Etcd) -> None:
    """Twenty at once share the twenty networks that are free; the next is told so, and joins when one has gone."""
    pools = (Pool(ip_network("10.244.0.0/19"), 24),)
    for number in range(12):
        server.put(f"{ROOT}/subnets/10.244.{number}.0-24", "somebody")
    with ExitStack() as stack:
        joining = [Machine(server, number, pools) for number in range(1, 21)]
        for one in joining:
            stack.callback(one.stop)
            one.start()
        cidrs = {one.joined() for one in joining}
        assert cidrs == {(ip_network(f"10.244.{number}.0/24"),) for number in range(12, 32)}
        late = Machine(server, 21, pools)
        stack.callback(late.stop)
        late.start()
        late.seen.until(lambda seen: "no network of /24 left, all 32 are taken" in seen.reason)
        late.seen.until(lambda seen: len(seen.nodes) == 20)  # it sees the others, and has nothing itself
        assert "n21" not in late.seen.nodes
        assert not server.get(f"{ROOT}/nodes/id21")
        gone = joining[0].cidrs
        joining[0].stop()
        server.expire(lease_of(server, joining[0]))
        assert late.joined() == gone
        late.seen.until(lambda seen: not seen.reason)


@pytest.mark.sudo
def test_a_restart_writes_nothing(machines: list[Machine], server: Etcd) -> None:
    """Same networks, same lease; not one revision of the store goes by."""
    first = machines[0].start().joined()
    machines[0].stop()
    before, lease = server.revision(), lease_of(server, machines[0])
    assert machines[0].start().joined() == first
    machines[0].seen.until(lambda seen: seen.troubles == [] and machines[0].source._lease == lease)  # type: ignore[union-attr]
    for number in range(2):  # what it would write for the first it has written before it tells the second
        server.put(f"{ROOT}/mark{number}", "x")
        machines[0].seen.until(partial(_has_skipped, number + 1))
    assert server.revision() == before + 2


@pytest.mark.sudo
def test_a_new_address_keeps_the_networks(machines: list[Machine]) -> None:
    """While it runs and over a restart; the others hear of it."""
    first = machines[0].start().joined()
    machines[1].start().seen.until(lambda seen: "n1" in seen.nodes)
    for number, restart in ((101, False), (102, True)):
        address = IPv4Address(f"192.0.2.{number}")
        machines[0].node = Node("n1", (), machines[0].node.mac, address)
        if restart:
            machines[0].stop()
            machines[0].start()
        else:
            assert machines[0].source is not None
            machines[0].source.publish(machines[0].node)
        machines[1].seen.until(partial(_has_address, address))
        assert machines[1].seen.nodes["n1"].cidrs == first
        assert machines[0].joined() == first


@pytest.mark.sudo
def test_a_lease_that_ran_out_meanwhile_costs_nothing(machines: list[Machine], server: Etcd) -> None:
    """The same networks again if they are free: by what the agent kept, else by the identity's own place."""
    first = machines[0].start().joined()
    for held in (first, ()):
        machines[0].stop()
        server.expire(lease_of(server, machines[0]))
        assert not server.get(ROOT)
        assert machines[0].start(held).joined() == first


@pytest.mark.sudo
def test_what_the_agent_kept_is_asked_for(machines: list[Machine], server: Etcd) -> None:
    """Also where the identity alone would lead elsewhere."""
    held = (ip_network("10.244.77.0/24"), ip_network("fd44:0:77::/64"))
    assert machines[0].start(held).joined() == held
    assert {f"{ROOT}/subnets/10.244.77.0-24", f"{ROOT}/subnets/fd44:0:77::-64"} < set(server.get(ROOT))


@pytest.mark.sudo
def test_a_lease_that_runs_out_under_a_living_node_comes_again(machines: list[Machine], server: Etcd) -> None:
    """The networks too; and the node itself never stops to have them."""
    first = machines[0].start().joined()
    lease = lease_of(server, machines[0])
    count = len(machines[0].seen.views)
    server.expire(lease)
    machines[1].start()
    machines[1].seen.until(lambda seen: "n1" in seen.nodes)
    assert machines[1].seen.nodes["n1"].cidrs == first
    assert lease_of(server, machines[0]) != lease
    assert not any(machines[0].seen.troubles)
    assert all(view.nodes["n1"].cidrs == first for view in machines[0].seen.views[count:])


@pytest.mark.sudo
def test_what_has_another_owner_is_not_stolen(machines: list[Machine], server: Etcd) -> None:
    """Away, its lease over, its network another's: it says so, writes nothing, and has it again when that one goes."""
    pool = (Pool(ip_network("10.244.9.0/24"), 24),)
    old, new = Machine(server, 7, pool), Machine(server, 8, pool)
    machines += [old, new]
    held = old.start().joined()
    old.stop()
    server.expire(lease_of(server, old))
    assert new.start().joined() == held
    old.start(held)
    old.seen.until(lambda seen: bool(seen.reason))
    words = r"10\.244\.9\.0/24 is not this node's: .* belongs to id8: pods of this node keep running, no"
    assert re.search(words, old.seen.reason)
    old.seen.until(lambda seen: {"n7", "n8"} <= set(seen.nodes))
    assert old.seen.nodes["n7"].cidrs == held  # its pods go on
    assert set(server.get(ROOT)) == {f"{ROOT}/nodes/id8", f"{ROOT}/subnets/10.244.9.0-24"}
    assert new.seen.nodes.keys() == {"n8"}
    lease = lease_of(server, new)
    new.stop()
    server.expire(lease)
    old.seen.until(lambda seen: not seen.reason)
    assert server.get(ROOT)[f"{ROOT}/subnets/10.244.9.0-24"][0] == "id7"
    assert old.joined() == held


@pytest.mark.sudo
def test_a_network_lost_in_a_partition_stays_lost(tmp_path: Path) -> None:
    """Cut off until its lease ran out and another got its network: it heals without a fight, and its pods go on."""
    make_netns("cut")
    ip("link add ucut type veth peer name eth0 netns cut")
    ip("link set ucut up")
    ip("addr add 198.51.100.254/24 dev ucut")
    ip("-n cut link set eth0 up")
    ip("-n cut addr add 198.51.100.1/24 dev eth0")
    fd = netns.open_path("/run/netns/cut")
    pool = (Pool(ip_network("10.244.9.0/24"), 24),)
    timing = Timing(ttl=2, beat=0.2, answer=0.5, first=0.02, last=0.2, gather=0.0)
    with ExitStack() as stack:
        stack.callback(os.close, fd)
        server = stack.enter_context(etcd(tmp_path, address="198.51.100.254"))
        old, new = Machine(server, 7, pool), Machine(server, 8, pool)
        stack.callback(old.stop)
        stack.callback(new.stop)
        with netns.entered(fd):
            old.start(timing=timing)
            held = old.joined()
            subprocess.run(["nft", "-f", "-"], input=_CUT, check=True)
        old.seen.until(lambda seen: "etcd cannot be reached" in seen.reason)
        assert new.start(timing=timing).joined() == held  # by the lease's own end
        before = len(old.seen.views)
        with netns.entered(fd):
            subprocess.run(["nft", "delete", "table", "inet", "cut"], check=True)
        old.seen.until(lambda seen: "belongs to id8: pods of this node keep running, no new ones" in seen.reason)
        old.seen.until(lambda seen: "n8" in seen.nodes)
        assert all(view.nodes["n7"].cidrs == held for view in old.seen.views[before - 1 :])
        assert server.get(f"{ROOT}/subnets")[f"{ROOT}/subnets/10.244.9.0-24"][0] == "id8"
        assert new.seen.nodes.keys() == {"n8"}
        assert not new.seen.reason


_CUT = b"""table inet cut {
  chain out { type filter hook output priority 0; policy drop; }
  chain in { type filter hook input priority 0; policy drop; }
}"""


@pytest.mark.sudo
def test_what_happened_in_a_gap_is_not_missed(
    machines: list[Machine], server: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and following, a node came, one went, and the history was compacted: it is read again."""
    machines[1].start().joined()
    real, reads = EtcdClient.read, []

    async def read(self: EtcdClient, prefix: bytes) -> tuple[list[KeyValue], int]:
        found = await real(self, prefix)
        reads.append(found[1])
        if len(reads) == 1:
            server.expire(lease_of(server, machines[1]))
            server.put(f"{ROOT}/nodes/hand", _record("hand", "10.244.200.0/24"))
            server.compact()
        return found

    machines[1].stop()
    monkeypatch.setattr(EtcdClient, "read", read)
    machines[0].start()
    machines[0].seen.until(lambda seen: {"hand", "n1"} == set(seen.nodes))
    assert len(reads) == 2
    assert not any(machines[0].seen.troubles)


@pytest.mark.sudo
@pytest.mark.parametrize("how", ["killed", "stopped", "wiped"])
def test_an_outage_changes_nothing(machines: list[Machine], server: Etcd, tmp_path: Path, how: str) -> None:
    """The store dead, or hanging, or back without its data: it is said, the last view stays; then all goes on."""
    timing = Timing(ttl=60, beat=0.1, answer=0.3, first=0.02, last=0.2, gather=0.0, grace=60.0)
    for one in machines[:2]:
        one.start(timing=timing)
    for one in machines[:2]:
        one.seen.until(lambda seen: len(seen.nodes) == 2)
    counts = [len(one.seen.views) for one in machines[:2]]
    cidrs = [one.cidrs for one in machines[:2]]
    if how == "stopped":
        server.signal(signal.SIGSTOP)
    else:
        server.kill()
    for one in machines[:2]:
        one.seen.until(lambda seen: "etcd cannot be reached: http://127.0.0.1:2379: " in seen.reason)
    assert [len(one.seen.views) for one in machines[:2]] == counts
    if how == "stopped":
        server.signal(signal.SIGCONT)
    else:
        if how == "wiped":
            shutil.rmtree(tmp_path / "etcd")
        server.start()
    for one in machines[:2]:
        one.seen.until(lambda seen: not seen.reason)
    machines[2].start().joined()
    for one in machines:
        one.seen.until(lambda seen: len(seen.nodes) == 3)
    assert [machines[2].seen.nodes[one.node.name].cidrs for one in machines[:2]] == cidrs
    assert [one.cidrs for one in machines[:2]] == cidrs
    for one, count in zip(machines[:2], counts, strict=True):
        assert all({"n1", "n2"} <= set(view.nodes) for view in one.seen.views[count - 1 :])


@pytest.mark.sudo
def test_who_does_not_come_back_after_an_outage_is_gone(
    machines: list[Machine], server: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is over; a network that another has by then is not its own before."""
    machines[0].start(timing=replace(QUICK, grace=1.0)).joined()
    lost = machines[1].start().joined()
    machines[2].start().joined()
    machines[0].seen.until(lambda seen: len(seen.nodes) == 3)
    count = len(machines[0].seen.views)
    for machine in machines[1:]:
        machine.stop()
    real = EtcdClient.read

    async def read(self: EtcdClient, prefix: bytes) -> tuple[list[KeyValue], int]:
        try:
            server.put(f"{ROOT}/subnets/{str(lost[0]).replace('/', '-')}", "heir")
            server.put(f"{ROOT}/nodes/heir", _record("heir", str(lost[0])))
        except URLError:
            raise TryAgainError("not yet") from None
        return await real(self, prefix)

    server.kill()
    shutil.rmtree(tmp_path / "etcd")
    monkeypatch.setattr(EtcdClient, "read", read)
    server.start()
    machines[0].seen.until(lambda seen: "heir" in seen.nodes)
    first = next(view for view in machines[0].seen.views[count:] if "heir" in view.nodes)
    assert first.nodes.keys() == {"n1", "n3", "heir"}
    assert "not its own but that of heir" in first.skipped[f"{ROOT}/nodes/id2"]
    machines[0].seen.until(lambda seen: seen.nodes.keys() == {"n1", "heir"} and not seen.skipped)


@pytest.mark.sudo
@pytest.mark.parametrize("how", ["deleted", "foreign", "junk", "another name", "everything"])
def test_what_somebody_undoes_is_written_again(machines: list[Machine], server: Etcd, how: str) -> None:
    """The record and whose the networks are, under the node's lease."""
    first = machines[0].start().joined()
    machines[1].start().seen.until(lambda seen: "n1" in seen.nodes)
    key = f"{ROOT}/nodes/id1"
    before, lease = server.get(key)[key][0], lease_of(server, machines[0])
    mod = server.revision()
    match how:
        case "deleted":
            server.delete(key)
        case "foreign":
            server.put(key, _record("n1", "10.99.0.0/24"))
        case "junk":
            server.put(key, b"\xff\x00")
        case "another name":
            server.put(key, _record("n9", str(first[0])))
        case "everything":
            for one in server.get(ROOT):
                server.delete(one)
    machines[1].seen.until(lambda _: server.revision() > mod + 1 and server.get(key).get(key, ("", {}))[0] == before)
    assert lease_of(server, machines[0]) == lease
    machines[1].seen.until(lambda seen: not seen.skipped and seen.nodes.keys() == {"n1", "n2"})
    machines[1].seen.until(lambda seen: seen.nodes["n1"].cidrs == first)
    assert not machines[0].seen.reason


@pytest.mark.sudo
def test_two_machines_of_one_identity_do_not_fight_hot(machines: list[Machine], server: Etcd) -> None:
    """A copied machine: both say so, and their writing slows down; it is some a second, not thousands."""
    twin = Machine(server, 1)
    twin.node = Node("n1", (), twin.node.mac, IPv4Address("192.0.2.66"))
    machines.append(twin)
    machines[0].start().joined()
    twin.start()
    words = "times in a row: does another machine have the identity id1"
    for one in (machines[0], twin):
        one.seen.until(lambda seen: words in seen.reason)
    before = server.revision()
    threading.Event().wait(1.0)  # watched for a while: each writes once in 0.2 s
    assert server.revision() - before <= 20
    twin.stop()
    machines[0].seen.until(lambda seen: not seen.reason)
    assert json.loads(server.get(f"{ROOT}/nodes/")[f"{ROOT}/nodes/id1"][0])["ipv4"] == "192.0.2.1"


@pytest.mark.sudo
def test_a_name_is_one_machines(machines: list[Machine], server: Etcd) -> None:
    """The second of a name does not join and says why; the first and the others do not see it at all."""
    machines[0].start().joined()
    second = Machine(server, 5)
    second.keys, second.node = EtcdKeys("c", "n1", "id5", POOLS), replace(second.node, name="n1")
    machines.append(second)
    second.start()
    second.seen.until(lambda seen: "the name n1 is that of another machine, id1" in seen.reason)
    assert "n1" not in second.seen.nodes  # what is not its own is not taken for it
    assert not server.get(f"{ROOT}/nodes/id5")
    lease = lease_of(server, machines[0])
    machines[0].stop()
    server.expire(lease)
    second.joined()
    second.seen.until(lambda seen: not seen.reason)


@pytest.mark.sudo
def test_networks_may_be_given(machines: list[Machine], server: Etcd) -> None:
    """In the configuration, or by a key made by hand; what overlaps an older claim is refused in words."""
    server.put(f"{ROOT}/subnets/10.244.50.0-24", "id2")
    assert machines[1].start().joined()[0] == ip_network("10.244.50.0/24")
    fixed = Machine(server, 4, (), (ip_network("10.7.0.0/24"),))
    clash = Machine(server, 5, (), (ip_network("10.244.50.0/23"),))
    machines += [fixed, clash]
    assert fixed.start().joined() == (ip_network("10.7.0.0/24"),)
    clash.start().seen.until(lambda seen: "10.244.50.0/24 belongs to id2: this node has not joined" in seen.reason)
    fixed.stop()
    fixed.keys = EtcdKeys("c", "n4", "id4", (), (ip_network("10.8.0.0/24"),))
    fixed.start().seen.until(lambda _: fixed.cidrs == (ip_network("10.8.0.0/24"),))
    assert f"{ROOT}/subnets/10.7.0.0-24" not in server.get(ROOT)


HOSTILE: dict[str, str | bytes] = {
    "nodes/big": "x" * 1_000_000,
    "nodes/json": "{",
    "nodes/list": "[]",
    "nodes/bytes": b"\xff\xfe\x00",
    "nodes/noname": '{"version": 1, "ipv4": "192.0.2.9", "cidrs": ["10.9.0.0/24"]}',
    "nodes/numbername": '{"version": 1, "name": 7, "ipv4": "192.0.2.9", "cidrs": ["10.9.0.0/24"]}',
    "nodes/newline": '{"version": 1, "name": "a\\nb", "ipv4": "192.0.2.9", "cidrs": ["10.9.0.0/24"]}',
    "nodes/wrongip": '{"version": 1, "name": "w", "ipv4": "127.0.0.1", "cidrs": ["10.9.0.0/24"]}',
    "nodes/twice": '{"version": 1, "name": "t", "name": "u"}',
    "nodes/de/ep": '{"version": 1, "name": "d"}',
    "nodes/": '{"version": 1, "name": "e"}',
    "nodes/new\nline": '{"version": 1, "name": "l"}',
    "nodes/deep": "[" * 50_000,
    "nodes/namesake": '{"version": 1, "name": "good", "ipv4": "192.0.2.9", "cidrs": ["10.9.0.0/24"]}',
    "nodes/thief": '{"version": 1, "name": "thief", "ipv4": "192.0.2.9", "cidrs": ["10.244.200.0/24"]}',
    "nodes/me": '{"version": 1, "name": "n1", "ipv4": "192.0.2.9", "cidrs": ["10.9.0.0/24"]}',
    "subnets/all": "x",
    "subnets/0.0.0.0-0": "x",
    "subnets/10.1.0.1-24": "x",
    "subnets/10.1.0.0-024": "x",
    "subnets/10.2.0.0-24": "no body\n",
    "elsewhere": "x",
    "\u00e9\x01": "x",
}


@pytest.mark.sudo
def test_hostile_keys_are_skipped(machines: list[Machine], server: Etcd) -> None:
    """Each with its reason in one printable line; what is good beside them stays, before and after."""
    server.put(f"{ROOT}/nodes/first", _record("good", "10.244.200.0/24"))
    server.put(f"{ROOT}/subnets/10.244.200.0-24", "first")
    machines[0].start().joined()
    machines[1].start().joined()
    for key, value in HOSTILE.items():
        server.put(f"{ROOT}/{key}", value)
    machines[2].start().joined()  # it reads what the others were told
    for one in machines:
        one.seen.until(lambda seen: len(seen.skipped) >= len(HOSTILE) and len(seen.nodes) == 4)
        assert one.seen.nodes.keys() == {"good", "n1", "n2", "n3"}
        assert len(one.seen.skipped) == len(HOSTILE)
        for text in (*one.seen.skipped, *one.seen.skipped.values()):
            assert text.isprintable()
            assert 0 < len(text) < 400
        assert not one.seen.reason
    assert "as first had before" in machines[1].seen.skipped[f"{ROOT}/nodes/namesake"]
    assert "not its own but that of first" in machines[1].seen.skipped[f"{ROOT}/nodes/thief"]
    assert "this node's" in machines[0].seen.skipped[f"{ROOT}/nodes/me"]
    for key in HOSTILE:
        server.delete(f"{ROOT}/{key}")
    for one in machines:
        one.seen.until(lambda seen: not seen.skipped)


@pytest.mark.sudo
def test_many_are_read_in_pages(machines: list[Machine], server: Etcd) -> None:
    """Three thousand keys, and then pages that are larger than what is read at once."""
    for start in range(0, 1500, 60):
        puts = []
        for number in range(start, start + 60):
            cidr = f"10.{number >> 8}.{number & 255}.0"
            puts.append((f"nodes/m{number}", _record(f"m{number}", f"{cidr}/24")))
            puts.append((f"subnets/{cidr}-24", f"m{number}"))
        server.call("kv/txn", {"success": [{"request_put": _put(f"{ROOT}/{key}", value)} for key, value in puts]})
    machines[0].start().joined()
    assert len(machines[0].seen.views[0].nodes) >= 1500  # the first view is whole
    for number in range(30):
        server.put(f"{ROOT}/nodes/x{number}", "x" * 1_000_000)
    machines[1].start().joined()
    machines[1].seen.until(lambda seen: len(seen.nodes) == 1502 and len(seen.skipped) == 30)
    assert not machines[1].seen.reason


@pytest.mark.sudo
def test_a_user_and_a_password(machines: list[Machine], server: Etcd) -> None:
    """A token that etcd forgot is fetched anew; a wrong password is said and tried on."""
    server.call("auth/user/add", {"name": "root", "password": "r"})
    server.call("auth/role/add", {"name": "root"})
    server.call("auth/user/grant", {"user": "root", "role": "root"})
    server.call("auth/enable", {})
    machines[0].access = EtcdAccess((server.url,), user="root", password="r")  # noqa: S106  # the test's
    machines[1].access = EtcdAccess((server.url,), user="root", password="wrong")  # noqa: S106  # the test's
    machines[0].start().joined()
    machines[1].start().seen.until(lambda seen: "etcd refused: " in seen.reason)
    assert "wrong" not in machines[1].seen.reason.replace("wrong user", "").replace("password", "")
    assert "wrong" not in repr(machines[1].access)
    assert not machines[1].seen.views
    machines[2].start().seen.until(lambda seen: "etcd refused: " in seen.reason)  # nobody
    token = server.call("auth/authenticate", {"name": "root", "password": "r"})["token"]
    server.call("auth/disable", {}, token)
    server.call("auth/enable", {})  # without the tokens it had
    assert machines[0].source is not None
    machines[0].source.publish(replace(machines[0].node, ip4=IPv4Address("192.0.2.77")))
    token = server.call("auth/authenticate", {"name": "root", "password": "r"})["token"]
    key = f"{ROOT}/nodes/id1"
    machines[0].seen.until(lambda _: "192.0.2.77" in server.get(key, token)[key][0])
    assert not any(machines[0].seen.troubles)


@pytest.mark.sudo
def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    """A client without one, or with a CA that does not know etcd's, gets nowhere and says why."""
    authority, other = trustme.CA(), trustme.CA()
    mine, theirs = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    for name, blob in (
        ("ca", authority.cert_pem),
        ("other", other.cert_pem),
        ("cert", mine.cert_chain_pems[0]),
        ("key", mine.private_key_pem),
        ("scert", theirs.cert_chain_pems[0]),
        ("skey", theirs.private_key_pem),
    ):
        blob.write_to_path(str(tmp_path / name))
    path = {name: str(tmp_path / name) for name in ("ca", "other", "cert", "key", "scert", "skey")}
    options = ("--cert-file", path["scert"], "--key-file", path["skey"], "--trusted-ca-file", path["ca"])
    with ExitStack() as stack:
        server = stack.enter_context(etcd(tmp_path, "--client-cert-auth", *options, scheme="https"))
        machines = [Machine(server, number) for number in (1, 2, 3)]
        machines[0].access = EtcdAccess((server.url,), path["ca"], path["cert"], path["key"])
        machines[1].access = EtcdAccess((server.url,), path["other"], path["cert"], path["key"])
        machines[2].access = EtcdAccess((server.url,), path["ca"])
        for one in machines:
            stack.callback(one.stop)
            one.start()
        machines[0].joined()
        for one in machines[1:]:
            one.seen.until(lambda seen: "etcd cannot be reached" in seen.reason)
        assert "certificate" in machines[1].seen.reason.lower()


@pytest.mark.sudo
def test_another_endpoint_takes_over(machines: list[Machine], server: Etcd) -> None:
    """The first of the two is nobody."""
    machines[0].access = EtcdAccess(("http://127.0.0.1:1", server.url))
    machines[0].start().joined()
    assert not machines[0].seen.reason


class _Web(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """As a web server that is no etcd."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>\nhello" * 10)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.mark.sudo
def test_what_is_no_etcd_is_said(machines: list[Machine]) -> None:
    """A web server behind the address."""
    web = HTTPServer(("127.0.0.1", 8080), _Web)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    machines[0].access = EtcdAccess(("http://127.0.0.1:8080",))
    machines[0].start().seen.until(lambda seen: "no answer of etcd's JSON gateway" in seen.reason)
    assert machines[0].seen.reason.isprintable()
    web.shutdown()
    web.server_close()


@pytest.mark.parametrize(
    "access",
    [
        EtcdAccess(()),
        EtcdAccess(("192.0.2.1:2379",)),
        EtcdAccess(("http://192.0.2.1:2379", "https://192.0.2.2:2379")),
        EtcdAccess(("http://192.0.2.1:2379",), ca="/nowhere"),
        EtcdAccess(("https://192.0.2.1:2379",), ca="/nowhere"),
        EtcdAccess(("https://192.0.2.1:2379",), cert="/nowhere"),
    ],
)
def test_what_no_waiting_mends_is_raised_at_once(access: EtcdAccess) -> None:
    """Endpoints and files."""
    with pytest.raises(InvalidConfigError) as caught:
        EtcdSource(access, EtcdKeys("c", "n1", "id1", POOLS)).start(Watcher())
    assert caught.value.details


@pytest.mark.parametrize(
    ("name", "identity", "root", "pools"),
    [
        ("n 1", "id", "", POOLS),
        ("n1", "i/d", "", POOLS),
        ("n1", "id", "no/slash", POOLS),
        ("n1", "id", "", ()),
        ("n1", "id", "", POOLS[:1] * 2),
    ],
)
def test_a_keyspace_that_cannot_be_is_refused(name: str, identity: str, root: str, pools: tuple[Pool, ...]) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidConfigError):
        EtcdKeys("c", name, identity, pools, root=root)


@pytest.mark.sudo
def test_a_bug_is_told_and_the_thread_lives(
    machines: list[Machine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is."""

    class Broken(EtcdClient):
        async def read(self, prefix: bytes) -> tuple[list[KeyValue], int]:
            raise ZeroDivisionError(prefix)

    with monkeypatch.context() as patch:
        patch.setattr(etcd_module, "EtcdClient", Broken)
        machines[0].start().seen.until(lambda seen: "a bug of cni-py, ZeroDivisionError" in seen.reason)
    machines[0].joined()
    machines[0].seen.until(lambda seen: not seen.reason)
    assert "ZeroDivisionError" in caplog.text


def _has_skipped(count: int, seen: Watcher) -> bool:
    return len(seen.skipped) == count


def _has_address(address: IPv4Address, seen: Watcher) -> bool:
    return seen.nodes["n1"].ip4 == address


def _record(name: str, cidr: str) -> str:
    return json.dumps({"version": 1, "name": name, "ipv4": "192.0.2.200", "cidrs": [cidr]})


def _put(key: str, value: str) -> dict[str, str]:
    return {"key": base64(key.encode()), "value": base64(value.encode())}
