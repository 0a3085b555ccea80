"""One contract, two stores: what the planner may rely on holds on disk and in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cni_py.ipam.ports import LeaseStore
from cni_py.model.lease import Holder, Lease, Pool
from cni_py.store.lease_disk import OsDisk
from cni_py.store.lease_fake import FakeLeaseStore, Shelf
from cni_py.store.lease_view import Site
from cni_py.store.leases import DiskLeaseStore

ONE, TWO = Holder("one", "eth0"), Holder("two", "eth0")


@dataclass
class Node:
    """A node that can be rebooted and whose time can be moved."""

    data_dir: str
    make: Callable[["Node"], LeaseStore]
    boot: str = "boot-1"
    now_s: float = 1000.0
    shelves: dict[tuple[str, str], Shelf] = field(default_factory=dict)

    def reserve(self, holder: Holder, name: str, position: int = 0) -> bool:
        """One transaction with one reservation."""
        with self.make(self).change(self.data_dir, "net") as leases:
            return leases.reserve(holder, name, position, "")

    def release(self, holder: Holder, name: str, delay_s: int = 0) -> None:
        """One transaction with one release."""
        with self.make(self).change(self.data_dir, "net") as leases:
            leases.release(Lease(name, holder.content), delay_s)

    def held(self, holder: Holder) -> tuple[str, ...]:
        """What the holder has, looked at without changing anything."""
        with self.make(self).look(self.data_dir, "net") as leases:
            return leases.held(holder.content)

    def settle(self) -> None:
        """One transaction without a change."""
        with self.make(self).change(self.data_dir, "net"):
            pass


@pytest.fixture(params=["disk", "memory"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    """A node with a store of each kind."""

    def disk(node: Node) -> LeaseStore:
        return DiskLeaseStore(Site(node.boot, lambda: node.now_s, OsDisk()))

    def memory(node: Node) -> LeaseStore:
        return FakeLeaseStore(node.boot, lambda: node.now_s, node.shelves)

    return Node(str(tmp_path), disk if request.param == "disk" else memory)


def test_reserved_once(node: Node) -> None:
    """A reserved name cannot be reserved again, by nobody; its holder has it and it is the last of its set."""
    assert (
        node.reserve(ONE, "10.1.2.2", 3),
        node.reserve(TWO, "10.1.2.2", 3),
        node.reserve(ONE, "10.1.2.2", 3),
    ) == (True, False, False)
    with node.make(node).change(node.data_dir, "net") as leases:
        assert leases.held(ONE.content) == ("10.1.2.2",)
        assert leases.held(TWO.content) == ()
        assert (leases.last_reserved(3), leases.last_reserved(0)) == ("10.1.2.2", "")
        assert frozenset({0x0A010202}) == leases.taken(4)
        assert frozenset() == leases.taken(6)


def test_release(node: Node) -> None:
    """A released lease is gone and can be given again; releasing it again changes nothing."""
    node.reserve(ONE, "fd00::2")
    node.release(ONE, "fd00::2")
    node.release(ONE, "fd00::2")
    assert node.held(ONE) == ()
    assert node.reserve(TWO, "fd00::2")
    assert node.held(TWO) == ("fd00::2",)


def test_release_of_another_holder(node: Node) -> None:
    """A lease that meanwhile is somebody else's stays."""
    node.reserve(ONE, "10.1.2.2")
    node.release(TWO, "10.1.2.2")
    assert node.held(ONE) == ("10.1.2.2",)


def test_an_error_undoes_reservations(node: Node) -> None:
    """An exception that leaves the transaction leaves none of its reservations, and all earlier ones."""
    node.reserve(ONE, "10.1.2.2")

    def fail() -> None:
        with node.make(node).change(node.data_dir, "net") as leases:
            leases.reserve(TWO, "10.1.2.3", 0, "")
            leases.reserve(TWO, "fd00::3", 1, "")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert node.held(TWO) == ()
    assert node.held(ONE) == ("10.1.2.2",)
    assert node.reserve(ONE, "10.1.2.3")


def test_another_boot(node: Node) -> None:
    """Leases of an earlier boot are nobody's at once, and gone after the first change."""
    node.reserve(ONE, "10.1.2.2")
    node.boot = "boot-2"
    assert node.held(ONE) == ()
    node.settle()
    assert node.reserve(TWO, "10.1.2.2")
    assert node.held(TWO) == ("10.1.2.2",)


def test_unknown_boot(node: Node) -> None:
    """When the boot cannot be known, nothing is of an earlier one."""
    node.reserve(ONE, "10.1.2.2")
    node.boot = ""
    assert not node.reserve(TWO, "10.1.2.2")
    assert node.held(ONE) == ("10.1.2.2",)


def test_cooling(node: Node) -> None:
    """A released address cools down for the delay, over any number of processes, and not in another boot."""
    node.reserve(ONE, "10.1.2.2")
    node.release(ONE, "10.1.2.2", 60)
    node.now_s += 20
    with node.make(node).change(node.data_dir, "net") as leases:
        assert (
            leases.cooling_left("10.1.2.2", 60),
            leases.cooling_left("10.1.2.2", 30),
            leases.cooling_left("10.1.2.3", 60),
        ) == (40.0, 10.0, 0.0)
        assert leases.cooling(4, 60) == {0x0A010202: 40.0}
        assert leases.cooling(6, 60) == {}
    node.boot = "boot-2"
    with node.make(node).change(node.data_dir, "net") as leases:
        assert leases.cooling_left("10.1.2.2", 60) == 0.0


def test_cooled_down(node: Node) -> None:
    """After the delay the address is free and forgotten."""
    node.reserve(ONE, "10.1.2.2")
    node.release(ONE, "10.1.2.2", 60)
    node.now_s += 60
    with node.make(node).change(node.data_dir, "net") as leases:
        assert leases.cooling_left("10.1.2.2", 60) == 0.0
        assert leases.cooling(4, 60) == {}


def test_leases_are_described(node: Node) -> None:
    """A lease knows its boot, its moment and its owner."""
    with node.make(node).change(node.data_dir, "net") as leases:
        leases.reserve(ONE, "10.1.2.2", 0, "shop/db-0")
        leases.remember((Pool("10.1.2.1-10.1.2.6", 5),))
    with node.make(node).look(node.data_dir, "net") as view:
        assert (Lease("10.1.2.2", "one\r\neth0", "boot-1", 1000.0, "shop/db-0"),) == view.leases()


def test_networks_are_separate(node: Node) -> None:
    """The same address can be leased in two networks."""
    node.reserve(ONE, "10.1.2.2")
    with node.make(node).change(node.data_dir, "other") as leases:
        assert leases.reserve(TWO, "10.1.2.2", 0, "")
    assert node.held(ONE) == ("10.1.2.2",)


def test_nothing_yet(node: Node) -> None:
    """Looking at a network that never was finds nothing."""
    with node.make(node).look(node.data_dir, "never") as view:
        assert ((), (), frozenset(), {}) == (view.held("x"), view.leases(), view.taken(4), view.cooling(4, 60))
