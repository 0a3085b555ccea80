"""What holds for any pool, history and order: no two leases share an address, none is lost, the order is kept."""

import shutil
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ipam.plugins import Outcome, environment, in_process

from cni_py.ipam.allocator import spans, tally
from cni_py.ipam.options import Options
from cni_py.ipam.pools import Range, RangeSet
from cni_py.ipam.ports import LeaseStore
from cni_py.store.lease_disk import OsDisk
from cni_py.store.lease_fake import FakeLeaseStore, Shelf
from cni_py.store.lease_view import Site
from cni_py.store.leases import DiskLeaseStore

BASE = int(ip_address("10.0.0.0"))
SMALL = st.integers(0, 40)


@st.composite
def pools(draw: st.DrawFn) -> RangeSet:
    """A set of one to three disjoint ranges of up to 14 addresses in 10.0.0.0/26, gateways inside and outside."""
    cuts = sorted(draw(st.sets(st.integers(1, 60), min_size=2, max_size=6)))
    ranges = []
    for low, high in zip(cuts[::2], cuts[1::2], strict=False):
        gateway = ip_address(BASE + draw(st.integers(0, 61)))
        ranges.append(Range(4, BASE, 26, BASE + low, BASE + min(high, low + 13), gateway))
    return RangeSet(tuple(draw(st.permutations(ranges))))


@st.composite
def options(draw: st.DrawFn) -> Options:
    """Up to three excluded spans and reserved addresses."""
    excluded = [(4, BASE + low, BASE + low + draw(st.integers(0, 9))) for low in draw(st.lists(SMALL, max_size=3))]
    reserved = draw(st.sets(SMALL, max_size=3))
    return Options(0, tuple(excluded), tuple((ip_address(BASE + number), "somebody") for number in reserved))


def walk(pool: RangeSet, last: int | None) -> list[int]:
    """The oracle, host-local's iterator step by step: next address, at the end next range, at the start stop."""
    ranges = pool.ranges
    at = next((i for i, one in enumerate(ranges) if last is not None and one.start <= last <= one.end), None)
    index, current, start, found = at or 0, last if at is not None else None, None, []
    while True:
        if current is None:
            current = ranges[0].start
        elif current == ranges[index].end:
            index = (index + 1) % len(ranges)
            current = ranges[index].start
        else:
            current += 1
        if start is None:
            start = current
        elif current == start:
            return found
        if current != int(ranges[index].gateway):
            found.append(current)


@given(pool=pools(), last=st.none() | st.integers(0, 63), held_back=options())
def test_the_order_is_host_locals(pool: RangeSet, last: int | None, held_back: Options) -> None:
    """The spans list host-local's candidates in its order, each once, less what is held back."""
    number = None if last is None else BASE + last
    address = None if number is None else ip_address(number)
    listed = [value for low, high, _ in spans(pool, address, held_back) for value in range(low, high + 1)]
    reserved = {owned for owned, _ in held_back.reservations}
    allowed = [
        value
        for value in walk(pool, number)
        if ip_address(value) not in reserved and not held_back.excludes(ip_address(value))
    ]
    assert allowed == listed


@given(pool=pools(), held_back=options(), taken=st.sets(SMALL), cooling=st.sets(SMALL))
def test_the_tally_adds_up(pool: RangeSet, held_back: Options, taken: set[int], cooling: set[int]) -> None:
    """Free addresses are exactly those of the order that are neither taken nor cooling."""
    used = {BASE + number for number in taken}
    waits = {BASE + number: 1.5 for number in cooling}
    spent = tally(pool, held_back, used, waits)
    listed = [value for low, high, _ in spans(pool, None, held_back) for value in range(low, high + 1)]
    assert sum(1 for value in listed if value not in used and value not in waits) == spent.free
    assert len(walk(pool, None)) == spent.size


CONTAINERS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"])


class Node(RuleBasedStateMachine):
    """A node's life: our calls and another plugin's, reboots, lost indexes, time. The model is a dict.

    The model knows of each lease whose it is and in which boot it was made or first seen (None: not seen by us yet).
    """

    foreign_writes = True

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="ipam-node-"))
        self.network = self.scratch / "net"
        self.model: dict[str, tuple[str, int | None]] = {}
        self.released: dict[str, float] = {}
        self.boot = 1
        self.now_s = 1000.0

    def teardown(self) -> None:
        """The scratch directory is gone."""
        shutil.rmtree(self.scratch)

    def store(self) -> LeaseStore:
        """The store in the present boot."""
        return DiskLeaseStore(Site(f"boot-{self.boot}", lambda: self.now_s, OsDisk()))

    def call(self, command: str, container: str, delay_s: int = 0, valid: object = None) -> Outcome:
        """One call of our plugin."""
        ipam: dict[str, Any] = {"type": "cni-py-ipam", "subnet": "10.0.0.0/29", "dataDir": str(self.scratch)}
        config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "ipam": ipam | {"reuseDelay": delay_s}}
        if command == "GC":
            config["cni.dev/valid-attachments"] = valid
        return in_process(config, environment(command, container), self.store())

    def settle(self) -> None:
        """What any change by us does first: leases of an earlier boot go, unseen ones are seen."""
        self.model = {
            name: (holder, self.boot) for name, (holder, boot) in self.model.items() if boot in (None, self.boot)
        }

    @rule(container=CONTAINERS, delay_s=st.sampled_from([0, 0, 60]))
    def add(self, container: str, delay_s: int) -> None:
        """ADD gives a free address that is not cooling, or says why not."""
        outcome = self.call("ADD", container, delay_s)
        self.settle()
        cooling = {name for name, moment in self.released.items() if delay_s and moment + delay_s > self.now_s}
        free = {f"10.0.0.{number}" for number in range(2, 7)} - self.model.keys() - cooling
        if container in {holder for holder, _ in self.model.values()}:
            assert "duplicate allocation" in outcome.message
        elif free:
            (address,) = outcome.addresses
            assert address in free
            self.model[address] = (container, self.boot)
        else:
            assert "no IP addresses available" in outcome.message
            # Cooling ones come back by themselves, taken ones do not.
            waiting = bool(cooling - self.model.keys())
            assert (11 if waiting else 999) == outcome.document["code"]

    @rule(container=CONTAINERS, delay_s=st.sampled_from([0, 60]))
    def delete(self, container: str, delay_s: int) -> None:
        """DEL releases what the container has, and only that."""
        assert self.call("DEL", container, delay_s).code == 0
        self.settle()
        for name in [name for name, (holder, _) in self.model.items() if holder == container]:
            del self.model[name]
            if delay_s:
                self.released[name] = self.now_s

    @rule(valid=st.sets(CONTAINERS))
    def collect(self, valid: set[str]) -> None:
        """GC leaves the leases of the valid attachments, those of this boot."""
        entries = [{"containerID": container, "ifname": "eth0"} for container in sorted(valid)]
        assert self.call("GC", "x", valid=entries).code == 0
        self.settle()
        self.model = {name: lease for name, lease in self.model.items() if lease[0] in valid}

    @rule()
    def reboot(self) -> None:
        """The boot is another; CLOCK_BOOTTIME starts anew and nothing cools down."""
        self.boot += 1
        self.now_s = 10.0
        self.released = {}

    @rule(seconds=st.integers(1, 90))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now_s += seconds

    @precondition(lambda self: self.foreign_writes)
    @rule(container=CONTAINERS, number=st.integers(2, 6), torn=st.booleans())
    def foreign_add(self, container: str, number: int, *, torn: bool) -> None:
        """Another plugin makes a lease, or dies between creating and writing it."""
        name = f"10.0.0.{number}"
        holders = {holder for holder, _ in self.model.values()}
        if self.network.is_dir() and not (self.network / name).exists() and container not in holders:
            (self.network / name).write_bytes(b"" if torn else f"{container}\r\neth0".encode())
            if not torn:
                self.model[name] = (container, None)
            (self.network / "last_reserved_ip.0").write_text(name)

    @precondition(lambda self: self.foreign_writes)
    @rule(container=CONTAINERS)
    def foreign_delete(self, container: str) -> None:
        """Another plugin releases a lease."""
        for name in [name for name, (holder, _) in self.model.items() if holder == container]:
            (self.network / name).unlink()
            del self.model[name]

    @precondition(lambda self: self.foreign_writes)
    @rule()
    def lose_the_index(self) -> None:
        """Somebody deletes our index: boots and cooling times are forgotten, leases are not."""
        shutil.rmtree(self.scratch / ".cni-py", ignore_errors=True)
        self.model = {name: (holder, None) for name, (holder, _) in self.model.items()}
        self.released = {}

    @invariant()
    def disk_is_the_model(self) -> None:
        """The reservation files that are not empty are the model's leases."""
        files = {path.name: path.read_bytes() for path in self.network.glob("10.*")}
        expected = {name: f"{holder}\r\neth0".encode() for name, (holder, _) in self.model.items()}
        assert expected == {name: content for name, content in files.items() if content}

    @invariant()
    def check_agrees(self) -> None:
        """CHECK of a container succeeds if it has a lease that is not of an earlier boot."""
        alive = {holder for holder, boot in self.model.values() if boot in (None, self.boot)}
        for container in "ah":
            assert (container in alive) == (self.call("CHECK", container).code == 0)


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


STEP = st.tuples(st.sampled_from(["ADD", "ADD", "DEL", "GC", "STATUS", "CHECK", "reboot", "wait"]), CONTAINERS)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=40), delay_s=st.sampled_from([0, 30]))
def test_disk_and_memory_agree(steps: list[tuple[str, str]], delay_s: int) -> None:
    """The store on disk and the one in memory give the same answers to any sequence of calls."""
    shelves: dict[tuple[str, str], Shelf] = {}
    boot, now_s = 1, 1000.0

    def memory() -> LeaseStore:
        return FakeLeaseStore(f"boot-{boot}", lambda: now_s, shelves)

    def disk() -> LeaseStore:
        return DiskLeaseStore(Site(f"boot-{boot}", lambda: now_s, OsDisk()))

    with tempfile.TemporaryDirectory() as scratch:
        ipam = {"type": "cni-py-ipam", "subnet": "fd00::/125", "dataDir": scratch, "reuseDelay": delay_s}
        config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "ipam": ipam}
        for command, container in steps:
            if command == "reboot":
                boot, now_s = boot + 1, 5.0
            elif command == "wait":
                now_s += 20
            else:
                valid = [{"containerID": container, "ifname": "eth0"}]
                sent = config | ({"cni.dev/valid-attachments": valid} if command == "GC" else {})
                env = environment(command, container)
                one, two = in_process(sent, env, memory()), in_process(sent, env, disk())
                assert one == two
