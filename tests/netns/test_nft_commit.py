"""Transactions against the real kernel: exactly one layout whoever is faster, healing, idempotence, large batches."""

import errno
import re
import subprocess
import threading
from ipaddress import IPv4Address, IPv4Network

import pytest
from netns.nft_listing import listed, listed_elsewhere

from cni_py.cni import antispoof, masquerade, portmap, tables
from cni_py.cni.antispoof import Guarded
from cni_py.cni.portmap import HostPorts
from cni_py.kernel import nft, nft_wire
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket, message
from cni_py.model.attachment import PortMapping
from cni_py.model.errors import ExistsError, KernelError
from cni_py.model.nft import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Change,
    DiscardElements,
    FlushSet,
    Layout,
    joined,
    render,
)
from cni_py.model.nft_expr import DROP, Counter, DataType, Field, Lookup, Masquerade
from cni_py.model.nft_objects import Chain, Element, Hook, Rule, Set, Table

pytestmark = pytest.mark.sudo

NETWORK = masquerade.pod_range(IPv4Network("10.0.0.0/24"))
MASQUERADE = masquerade.plan_masquerade([NETWORK])


def pod(number: int) -> IPv4Address:
    """Address of a pod by its number."""
    return IPv4Address("10.0.0.0") + number


def ports(number: int, host_port: int) -> HostPorts:
    """One host port of that pod."""
    return HostPorts((PortMapping(host_port, 80),), (pod(number),), f"net/pod{number}")


def empty_layout() -> str:
    """The listing of the NAT table as it should be without pods."""
    return listed_elsewhere(render(tables.NAT_LAYOUT.build()))


def test_layout_is_built_once() -> None:
    """The first commit builds the layout, the second finds it; the rules are there once."""
    with nft.connect() as socket:
        assert [nft.commit(socket, MASQUERADE) for _ in range(2)] == [True, False]
        assert (Element(NETWORK),) == nft.elements(socket, tables.MASQ4)
        nft.commit(socket, masquerade.rewrite_masquerade([]))
    assert empty_layout() == listed()


def test_flush_by_somebody_is_healed() -> None:
    """After `nft flush ruleset` the next ADD brings back the rules, and what `restore` knows of the other pods."""
    first, second = portmap.plan_portmap(ports(2, 8080)), portmap.plan_portmap(ports(3, 8081))
    asked = 0

    def restore() -> Change:
        nonlocal asked
        asked += 1
        return joined(MASQUERADE, first, antispoof.plan_routed_link(Guarded("cpy1", addresses=(pod(2),))))

    with nft.connect() as socket:
        nft.commit(socket, first, lambda: Change((), ()))
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert nft.commit(socket, second, restore)
        assert not nft.commit(socket, second, restore)
        assert len(nft.elements(socket, tables.HOST_PORT4)) == 2
        assert (Element(NETWORK),) == nft.elements(socket, tables.MASQ4)
        assert nft.table_exists(socket, antispoof.ROUTED)
    assert asked == 1


def test_other_layout_is_replaced() -> None:
    """A table of another version gets our rules and keeps its elements; the other version's marker is gone."""
    other = Layout(tables.NAT, tables.NAT_LAYOUT.sets, tables.NAT_LAYOUT.chains, tables.NAT_LAYOUT.rules[:3])
    with nft.connect() as socket:
        nft.commit(socket, Change((other,), MASQUERADE.operations))
        assert nft.commit(socket, Change((tables.NAT_LAYOUT,), ()))
        assert (Element(NETWORK),) == nft.elements(socket, tables.MASQ4)
        nft.commit(socket, masquerade.rewrite_masquerade([]))
    assert empty_layout() == listed()


def test_parallel_adds_build_one_layout() -> None:
    """Eight that add at once after a flush make one layout, with the elements of all."""
    sockets = [nft.connect() for _ in range(8)]
    failed: list[BaseException] = []
    for _ in range(5):
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        together = threading.Barrier(len(sockets))

        def add(number: int, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                nft.commit(sockets[number], joined(MASQUERADE, portmap.plan_portmap(ports(number + 2, 8000 + number))))
            except (KernelError, ExistsError) as error:
                failed.append(error)

        threads = [threading.Thread(target=add, args=(number,)) for number in range(len(sockets))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(sockets) == len(nft.elements(sockets[0], tables.HOST_PORT4))
        for number in range(len(sockets)):
            nft.commit(sockets[0], portmap.unplan_portmap(ports(number + 2, 8000 + number), localnet_shared=False))
        nft.commit(sockets[0], masquerade.rewrite_masquerade([]))
        assert empty_layout() == listed()
    for socket in sockets:
        socket.close()


def test_occupied_host_port() -> None:
    """The second owner of a host port is told who has it and nothing of its change is done; the first may add again."""
    with nft.connect() as socket:
        nft.commit(socket, portmap.plan_portmap(ports(2, 8080)))
        before = listed()
        with pytest.raises(ExistsError) as error:
            nft.commit(socket, joined(MASQUERADE, portmap.plan_portmap(ports(3, 8080))))
        assert error.value.message == "host port tcp . 8080 is taken by net/pod2"
        assert before == listed()
        nft.commit(socket, portmap.plan_portmap(ports(2, 8080)))
        assert before == listed()


def test_delete_spares_the_new_owner() -> None:
    """DEL of a host port that leads to another pod by now, of one gone already and of one flushed away, all succeed."""
    old = HostPorts((PortMapping(8080, 80), PortMapping(8081, 80)), (pod(2),), "net/old")
    with nft.connect() as socket:
        gone = portmap.unplan_portmap(old, localnet_shared=False)
        nft.commit(socket, gone)
        assert not nft.table_exists(socket, tables.NAT)
        nft.commit(socket, portmap.plan_portmap(old))
        nft.commit(socket, gone)
        nft.commit(socket, portmap.plan_portmap(ports(3, 8080)))
        nft.commit(socket, gone)
        nft.commit(socket, gone)
        assert (Element((6, 8080), (pod(3), 80), "net/pod3"),) == nft.elements(socket, tables.HOST_PORT4)


def test_overlapping_ranges() -> None:
    """A range within another network's is refused on the fast path, and the rewrite of all holds both."""
    wide = masquerade.pod_range(IPv4Network("10.0.0.0/16"))
    with nft.connect() as socket:
        nft.commit(socket, MASQUERADE)
        with pytest.raises(ExistsError):
            nft.commit(socket, masquerade.plan_masquerade([wide]))
        nft.commit(socket, masquerade.rewrite_masquerade([NETWORK, wide]))
        assert (Element(wide),) == nft.elements(socket, tables.MASQ4)
        nft.commit(socket, masquerade.rewrite_masquerade([NETWORK]))
        assert (Element(NETWORK),) == nft.elements(socket, tables.MASQ4)


def test_adjacent_networks_keep_the_fast_path() -> None:
    """After a rewrite each of two networks side by side still adds its range by itself."""
    beside = masquerade.pod_range(IPv4Network("10.0.1.0/24"))
    with nft.connect() as socket:
        nft.commit(socket, MASQUERADE)
        nft.commit(socket, masquerade.plan_masquerade([beside]))
        nft.commit(socket, masquerade.rewrite_masquerade([beside, NETWORK]))
        for one in (NETWORK, beside):
            nft.commit(socket, masquerade.plan_masquerade([one]))
        assert (Element(NETWORK), Element(beside)) == nft.elements(socket, tables.MASQ4)


def test_nothing_is_left_without_pods() -> None:
    """Tables whose sets are empty go, those with an element stay."""
    guarded = antispoof.plan_routed_link(Guarded("cpy1", addresses=(pod(2),)))
    layouts = (tables.NAT_LAYOUT, antispoof.ROUTED_LAYOUT, antispoof.BRIDGE_LAYOUT)
    with nft.connect() as socket:
        nft.commit(socket, joined(MASQUERADE, guarded))
        nft.commit(socket, masquerade.rewrite_masquerade([]))
        assert nft.remove_if_empty(socket, layouts) == (tables.NAT,)
        nft.commit(socket, antispoof.unplan_routed_link(Guarded("cpy1", addresses=(pod(2),))))
        assert nft.remove_if_empty(socket, layouts) == (antispoof.ROUTED,)
        assert nft.remove_if_empty(socket, layouts) == ()
    assert listed() == ""


def test_removal_never_takes_a_new_element() -> None:
    """While one removes empty tables, another adds and deletes: what was added is there at once, and stays."""
    lost: list[int] = []
    stop = threading.Event()
    with nft.connect() as adder, nft.connect() as remover:

        def remove() -> None:
            while not stop.is_set():
                nft.remove_if_empty(remover, (tables.NAT_LAYOUT,))

        thread = threading.Thread(target=remove)
        thread.start()
        for number in range(2, 202):
            mine = ports(number % 200 + 2, 8080)
            nft.commit(adder, portmap.plan_portmap(mine))
            if len(nft.elements(adder, tables.HOST_PORT4)) != 1:
                lost.append(number)
            nft.commit(adder, portmap.unplan_portmap(mine, localnet_shared=False))
        stop.set()
        thread.join()
    assert lost == []


def test_large_batch() -> None:
    """Ten thousand elements and a thousand operations fit into one transaction, and into one after a failure."""
    one = Set(tables.NAT, "many", (DataType.IPV4, DataType.SERVICE))
    elements = tuple(Element((pod(number), 80), comment="c" * 60) for number in range(10_000))
    single = tuple(AddElements(one, (Element((pod(number), 81)),)) for number in range(1_000))
    change = Change((), (AddTable(one.table), AddSet(one), AddElements(one, elements), *single))
    with nft.connect() as socket:
        nft.commit(socket, change)
        assert len(nft.elements(socket, one)) == 11_000
        # Each discard of an element in a set that is not there fails by itself: answers for all of them come back.
        nowhere = Set(tables.NAT, "nowhere", one.key)
        lost = tuple(DiscardElements(nowhere, (Element((pod(number), 81)),)) for number in range(5_000))
        nft.commit(socket, Change((), (FlushSet(one), *lost)))
        assert nft.elements(socket, one) == ()


def test_failure_names_the_operation() -> None:
    """A refusal tells which operation it was, in nft's words; the transaction before and behind it is undone."""
    t = Table("inet", "t")
    rule = Rule(Chain(t, "c"), (Lookup((Field.IP_SADDR,), "missing"), Counter(), DROP))
    with nft.connect() as socket:
        with pytest.raises(KernelError) as error:
            nft.commit(socket, Change((), (AddTable(t), AddChain(Chain(t, "c")), AddRule(rule), AddTable(t))))
        assert error.value.message == "nft add rule inet t c ip saddr @missing counter drop: No such file or directory"
        assert error.value.errno == errno.ENOENT
        wrong = Chain(t, "w", Hook("nat", "prerouting", 0))
        masquerade_there = AddRule(Rule(wrong, (Masquerade(),)))
        with pytest.raises(KernelError, match=re.escape("w masquerade: Operation not supported")) as error:
            nft.commit(socket, Change((), (AddTable(t), AddChain(wrong), masquerade_there)))
        assert type(error.value) is KernelError
        with pytest.raises(KernelError, match=re.escape("accept; }: No such file or directory")) as error:
            nft.commit(socket, Change((), (AddChain(wrong),)))
        assert type(error.value) is KernelError
    assert listed() == ""


def test_stale_generation_is_refused() -> None:
    """A dump that a commit has overtaken cannot be acted on: what `remove_if_empty` stands on."""
    with nft.connect() as socket:
        nft.commit(socket, Change((), (AddTable(tables.NAT),)))
        (answer,) = socket.request(nft_wire.get_generation())
        generation = nft_wire.decode_generation(answer)
        nft.commit(socket, Change((), (AddTable(Table("ip", "other")),)))
        with pytest.raises(nft._Refused) as refused:
            nft._run(socket, (AddTable(Table("ip", "third")),), generation)
        assert refused.value.error.errno == 85


def test_strangers_are_left_alone() -> None:
    """A whole life of ours leaves another table's rules, sets and counters as they were."""
    theirs = "table ip theirs { set s { type ipv4_addr; elements = { 1.2.3.4 }; }; chain c { counter accept; }; }"
    subprocess.run(["nft", theirs], check=True)
    before = listed()
    with nft.connect() as socket:
        nft.commit(socket, joined(MASQUERADE, portmap.plan_portmap(ports(2, 80))))
        nft.commit(socket, portmap.unplan_portmap(ports(2, 80), localnet_shared=False))
        nft.commit(socket, masquerade.rewrite_masquerade([]))
        nft.remove_if_empty(socket, (tables.NAT_LAYOUT,))
    assert before == listed()


def test_netlink_batch_names_the_first_failure() -> None:
    """Of several requests in one datagram the first that fails is named, and the others have their effect."""
    body = b"\0" * 4 + b"\x0f\x27\0\0" + b"\0" * 8
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        with pytest.raises(NetlinkError) as error:
            socket.send_batch(
                [message(18, 4, bytes(4) + b"\1\0\0\0" + bytes(8)), message(16, 4, body), message(16, 4, body)]
            )
        assert (error.value.index, error.value.errno) == (1, errno.ENODEV)
        assert socket.messages_sent == 3
        assert socket.seconds_in_kernel > 0
