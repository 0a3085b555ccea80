"""Properties of planning and applying: nothing to do twice, the way back is exact, at every fault."""

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cni_py.cni.state import check_bridge, desired_state, stale_addresses
from cni_py.kernel.fake import FakeKernel
from cni_py.model.attachment import Attachment, BridgePort, Key, PodAddress, host_ifname, ifb_name, macs
from cni_py.model.diff import diff
from cni_py.model.errors import CniPyError
from cni_py.model.net import NodeState, Shaper
from cni_py.model.ops import Op
from cni_py.model.result import Route

names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
v4 = st.integers(2, 250).map(lambda n: PodAddress(ip_interface(f"10.9.{n}.{n}/24"), ip_address(f"10.9.{n}.1")))
v6 = st.integers(2, 250).map(lambda n: PodAddress(ip_interface(f"fd00:{n:x}::{n:x}/64"), ip_address(f"fd00:{n:x}::1")))
addresses = st.lists(v4 | v6, min_size=1, max_size=3, unique_by=lambda one: one.address.network).map(tuple)


@st.composite
def attachments(draw: st.DrawFn) -> Attachment:
    """An attachment of any mode, with any of the features."""
    key = Key(draw(names), draw(names), draw(names))
    bridged, found = draw(st.booleans()), draw(addresses)
    families = sorted({entry.address.version for entry in found})
    defaults = tuple(Route(ip_network("0.0.0.0/0" if family == 4 else "::/0")) for family in families)
    gateways = tuple(ip_interface(f"{e.gateway}/{e.address.network.prefixlen}") for e in found)
    veth, ifb = host_ifname(key), ifb_name(key)
    limits = (Shaper(veth, 1000, 8000), Shaper(ifb, 1000, 8000, mirror_from=veth))
    flags: dict[str, Any] = {name: draw(st.booleans()) for name in ("hairpin", "promisc", "isolated")}
    port = BridgePort("cni0", "0a:00:00:00:00:07", gateways, vlan=draw(st.sampled_from([0, 0, 100])), **flags)
    host_mac, mac = macs(key)
    return Attachment(
        key=key,
        plugin="cni-py",
        mode="bridge" if bridged else "routed",
        netns="/run/netns/x",
        boot="b",
        created=0,
        config="{}",
        host_ifname=veth,
        host_mac=host_mac,
        mac=mac,
        mtu=draw(st.sampled_from([0, 1400])),
        addresses=found,
        routes=defaults if draw(st.booleans()) else (),
        port=port if bridged else None,
        container_up=draw(st.booleans()),
        shapers=limits if draw(st.booleans()) else (),
    )


def steps(attachment: Attachment, kernel: FakeKernel) -> tuple[Op, ...]:
    """What ADD would do on this kernel."""
    desired = desired_state(attachment)
    seen = kernel.facts(desired)
    check_bridge(attachment, seen)
    return diff(desired, seen, NodeState(addresses=stale_addresses(attachment, seen)))


def held(kernel: FakeKernel) -> tuple[frozenset[Any], ...]:
    """The state, whatever the order in which it came about. A sysctl that was not there counts as not set."""
    state = kernel.state
    return tuple(map(frozenset, (state.links, state.addresses, state.routes, state.sysctls, state.shapers)))


@given(attachments())
def test_diff_of_a_state_with_itself_is_empty(attachment: Attachment) -> None:
    """CHECK right after ADD: nothing to do."""
    desired = desired_state(attachment)
    assert diff(desired, desired) == ()


@given(attachments())
def test_applied_once_nothing_is_left_to_do(attachment: Attachment) -> None:
    """The steps lead to the desired state; planned again from what is there, there are none."""
    kernel = FakeKernel()
    kernel.apply(steps(attachment, kernel))
    assert diff(desired_state(attachment), kernel.state) == ()


@given(attachments(), st.integers(0, 40))
def test_the_way_back_from_every_step(attachment: Attachment, done: int) -> None:
    """However many of the steps took effect, their inverses restore what was there, but for sysctls of nothing."""
    kernel = FakeKernel()
    before = held(kernel)
    taken = steps(attachment, kernel)[:done]
    kernel.apply(taken)
    assert kernel.undo(taken) == []
    after = held(kernel)
    assert before[:3] == after[:3]
    assert before[4] == after[4]


@given(attachments(), attachments())
def test_beside_another(first: Attachment, second: Attachment) -> None:
    """A second attachment that is made and undone, or refused, leaves the first as it was."""
    kernel = FakeKernel()
    kernel.apply(steps(first, kernel))
    before = held(kernel)
    try:
        taken = steps(second, kernel)
        kernel.apply(taken)
    except CniPyError:
        assert before == held(kernel)
        return
    kernel.undo(taken)
    assert before[:3] == held(kernel)[:3]


@given(attachments())
def test_a_missing_piece_is_named(attachment: Attachment) -> None:
    """Whatever single address or route is taken away, the diff is exactly its return."""
    desired = desired_state(attachment)
    for index, address in enumerate(desired.addresses):
        rest = (*desired.addresses[:index], *desired.addresses[index + 1 :])
        (op,) = diff(desired, NodeState(desired.links, rest, desired.routes, desired.sysctls, desired.shapers))
        assert address == getattr(op, "address", None)
    for index, route in enumerate(desired.routes):
        rest_ = (*desired.routes[:index], *desired.routes[index + 1 :])
        (op,) = diff(desired, NodeState(desired.links, desired.addresses, rest_, desired.sysctls, desired.shapers))
        assert route == getattr(op, "route", None)
