"""The kernel in memory and the real one: the same answers to the same changes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from netns.plugin import netns

from cni_py.kernel.fake import FakeKernel
from cni_py.kernel.kernels import NodeKernels
from cni_py.model.errors import CniPyError, ExistsError, KernelError
from cni_py.model.net import Address, Link, LinkRoute, NodeState, Ns, Sysctl
from cni_py.model.ops import (
    AddAddress,
    AddLink,
    AddRoute,
    DelAddress,
    DelLink,
    DelRoute,
    Op,
    SetLink,
    SetSysctl,
)
from cni_py.model.ports import Kernel

pytestmark = pytest.mark.sudo

VETH = Link("host", "cpy0", "veth", mac="0a:00:00:00:00:01", peer="eth0")
PEER = Link("container", "eth0", "veth", mac="0a:00:00:00:00:02", peer="cpy0")
BRIDGE = Link("host", "cni0", "bridge", mac="0a:00:00:00:00:03", shared=True)
GATEWAY = Address("host", "cni0", ip_interface("10.9.0.1/24"))
INSIDE = Address("container", "eth0", ip_interface("10.9.0.2/24"))
ROUTE = LinkRoute("container", "eth0", ip_network("0.0.0.0/0"), gw=ip_address("10.9.0.1"))
UP = SetLink(PEER, Link("container", "eth0", "veth", mac=PEER.mac, up=False, peer="cpy0"))
FORWARD = Sysctl("host", "net/ipv4/ip_forward", "1")

ATTACH: tuple[Op, ...] = (AddLink(VETH, PEER), AddAddress(INSIDE), UP, AddRoute(ROUTE))
# What is there before, and what is then refused with which error (None: taken).
CASES: list[tuple[str, tuple[Op, ...], tuple[Op, ...], type[CniPyError] | None]] = [
    ("a veth", (), (AddLink(VETH, PEER),), None),
    ("its name twice", (AddLink(VETH, PEER),), (AddLink(VETH, PEER),), ExistsError),
    ("the container's name twice", (AddLink(VETH, PEER),), (AddLink(Link("host", "cpy1", "veth"), PEER),), ExistsError),
    ("a bridge twice, which others may have made", (AddLink(BRIDGE),), (AddLink(BRIDGE),), None),
    ("an attachment", (), ATTACH, None),
    ("an address twice", ATTACH, (AddAddress(INSIDE),), ExistsError),
    ("a bridge's address twice", (AddLink(BRIDGE), AddAddress(GATEWAY)), (AddAddress(GATEWAY),), None),
    ("a route twice", ATTACH, (AddRoute(ROUTE),), ExistsError),
    ("an address on no link", (), (AddAddress(INSIDE),), KernelError),
    ("a route by no link", (), (AddRoute(ROUTE),), KernelError),
    ("no link set up", (), (UP,), KernelError),
    ("a link gone already", (), (DelLink("host", "cpy0"),), None),
    ("an address gone already", ATTACH, (DelAddress(INSIDE), DelAddress(INSIDE)), None),
    ("a route gone already", ATTACH, (DelRoute(ROUTE), DelRoute(ROUTE)), None),
    ("the second of two", (), (AddLink(BRIDGE), AddAddress(GATEWAY), AddAddress(INSIDE)), KernelError),
]


@contextmanager
def _fake() -> Iterator[Kernel]:
    yield FakeKernel()


@contextmanager
def _real() -> Iterator[Kernel]:
    netns("c1")
    with NodeKernels().container("/run/netns/c1") as kernel:
        yield kernel


@pytest.mark.parametrize("open_kernel", [_fake, _real], ids=["fake", "real"])
@pytest.mark.parametrize(("before", "ops", "error"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_same_answer(
    before: tuple[Op, ...],
    ops: tuple[Op, ...],
    error: type[CniPyError] | None,
    open_kernel: Callable[[], AbstractContextManager[Kernel]],
) -> None:
    """Taken or refused alike; what is refused leaves the links as they were, also those that were made before it."""
    with open_kernel() as kernel:
        kernel.apply(before)
        names: list[tuple[Ns, str]] = [("host", "cpy0"), ("host", "cni0"), ("container", "eth0")]
        had = [kernel.has_link(*name) for name in names]
        if error is None:
            kernel.apply(ops)
            return
        with pytest.raises(error):
            kernel.apply(ops)
        assert had == [kernel.has_link(*name) for name in names]


@pytest.mark.parametrize("open_kernel", [_fake, _real], ids=["fake", "real"])
def test_what_can_be_asked(open_kernel: Callable[[], AbstractContextManager[Kernel]]) -> None:
    """Names, MACs, kinds, the veth's other end, facts of what is shared; and all is gone with its link."""
    with open_kernel() as kernel:
        kernel.apply((AddLink(BRIDGE), AddAddress(GATEWAY), SetSysctl(FORWARD), *ATTACH))
        assert kernel.mac_of("host", "cpy0") == VETH.mac
        assert kernel.kind_of("container", "eth0") == "veth"
        assert (kernel.mac_of("host", "none"), kernel.kind_of("host", "none")) == ("", "")
        assert kernel.host_peer("eth0") == "cpy0"
        facts = kernel.facts(NodeState(links=(BRIDGE, VETH), sysctls=(FORWARD,)))
        assert [link.name for link in facts.links] == ["cni0"]
        assert GATEWAY.address in [address.address for address in facts.addresses]
        assert [sysctl.value for sysctl in facts.sysctls] == ["1"]
        kernel.apply((DelLink("host", "cpy0"),))
        assert not kernel.has_link("container", "eth0")
        assert kernel.host_peer("eth0") == ""
