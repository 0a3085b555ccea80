"""From whatever is there to exactly what is wanted, by steps that the kernel takes and that leave packets a way."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from cni_py.kernel.fake import FakeKernel
from cni_py.model.converge import converge
from cni_py.model.net import Link, NodeState
from cni_py.model.ops import AddLink, AddRoute, DelLink, DelRoute, ReplaceRoute, SetFdb
from cni_py.model.overlay import DEVICES, MIXED, Facts, Network, Node, Underlay
from cni_py.model.result import IPNetwork
from cni_py.model.words import describe
from cni_py.overlay.select import plan

FACTS = Facts(
    Underlay(
        "eth0",
        1500,
        (ip_address("192.0.2.1"), ip_address("2001:db8::1")),
        (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")),
    ),
    frozenset((*MIXED, "l2")),
)
CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd44::/32"))


@st.composite
def states(draw: st.DrawFn) -> NodeState:
    """What some backend wants for some peers, near and far, each with a range or two that may have been another's."""
    numbers = draw(st.lists(st.integers(2, 9), max_size=4, unique=True))
    ranges = iter(draw(st.permutations(range(2, 12))))
    here = Node("n1", _ranges(1), "0e:00:00:00:00:01", IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    peers = [_peer(draw, number, [next(ranges) for _ in range(draw(st.integers(1, 2)))]) for number in numbers]
    mixed = st.lists(st.sampled_from(MIXED), min_size=1, unique=True).map(tuple)
    of = Network("c", CLUSTER, draw(st.one_of(mixed, st.just(("l2",)))))
    return plan(here, peers, replace(of, vni=draw(st.sampled_from([142, 143]))), FACTS)


def _ranges(*numbers: int) -> tuple[IPNetwork, ...]:
    return tuple(
        ip_network(text) for number in numbers for text in (f"10.244.{number}.0/24", f"fd44:0:{number:x}::/64")
    )


def _peer(draw: st.DrawFn, number: int, owned: list[int]) -> Node:
    ip4 = draw(st.sampled_from(["192.0.2", "198.51.100", ""]))
    ip6 = "2001:db8::" if draw(st.booleans()) or not ip4 else ""
    return Node(
        f"n{number}",
        _ranges(*owned),
        f"0e:00:00:00:00:{number:02x}",
        IPv4Address(f"{ip4}.{number}") if ip4 else None,
        IPv6Address(f"{ip6}{number:x}") if ip6 else None,
    )


@st.composite
def damaged(draw: st.DrawFn) -> NodeState:
    """Some state of which somebody took away or changed parts, with what the kernel lost by that."""
    state = draw(states())
    links = []
    gone: set[str] = set()
    for link in state.links:
        match draw(st.sampled_from(["fine", "fine", "gone", "down", "mac", "mtu", "other", "port", "joined"])):
            case "gone":
                state = _without(state, link.name)
                gone.add(link.name)
            case "port" if link.master:
                links.append(replace(link, master="", isolated=False))
            case "joined" if link.master:
                links.append(replace(link, isolated=False))
            case "down":
                links.append(replace(link, up=False))
            case "mac" if link.mac:  # with gpe there is none
                links.append(replace(link, mac="0e:00:00:00:00:ff"))
            case "mtu":
                links.append(replace(link, mtu=1300))
            case "other":
                links.append(replace(link, kind="other", vxlan=None, bridge=None, master="", isolated=False))
                gone.add(link.name)
            case _:
                links.append(link)
    learned = [replace(one, mac="0a:00:00:00:00:01", learned=True) for one in state.fdb[:1]]
    return NodeState(
        tuple(replace(one, master="", isolated=False) if one.master in gone else one for one in links),
        tuple(one for one in state.addresses if draw(st.booleans())),
        tuple(one for one in state.routes if draw(st.booleans())),
        tuple(replace(one, value="7") if draw(st.booleans()) else one for one in state.sysctls),
        (),
        tuple(one for one in state.neighbours if draw(st.booleans())),
        (*(one for one in state.fdb if draw(st.booleans())), *learned),
    )


def _without(state: NodeState, name: str) -> NodeState:
    return NodeState(
        tuple(one for one in state.links if one.name != name),
        tuple(one for one in state.addresses if one.link != name),
        tuple(one for one in state.routes if one.link != name),
        tuple(one for one in state.sysctls if f"/{name}/" not in one.key),
        (),
        tuple(one for one in state.neighbours if one.link != name),
        tuple(one for one in state.fdb if one.link != name),
    )


def _kernel(state: NodeState) -> FakeKernel:
    """With the underlay's link, which is not ours."""
    return FakeKernel(replace(state, links=(Link("host", "eth0", "other"), *state.links)))


def _ours(kernel: FakeKernel) -> NodeState:
    return replace(kernel.state, links=tuple(link for link in kernel.state.links if link.name in DEVICES))


@given(states())
def test_what_is_there_needs_nothing(desired: NodeState) -> None:
    """An audit of a node that is as it should be makes no change."""
    assert converge(desired, desired) == ()


@given(states(), damaged())
def test_one_pass_leads_from_anything_to_what_is_wanted(desired: NodeState, seen: NodeState) -> None:
    """The kernel refuses none of the steps, a second pass has none, and nothing of the other state is left."""
    kernel = _kernel(seen)
    kernel.apply(converge(desired, _ours(kernel)))
    assert converge(desired, _ours(kernel)) == ()
    held = _ours(kernel)
    assert set(held.links) == set(desired.links)
    assert set(held.routes) == set(desired.routes)
    assert set(held.neighbours) == set(desired.neighbours)
    assert {one for one in held.fdb if not one.learned} == set(desired.fdb)
    assert all(one.dst in {wanted.dst for wanted in desired.fdb} for one in held.fdb)
    assert set(held.addresses) == set(desired.addresses)


@given(states(), damaged())
def test_a_route_comes_when_what_it_leads_to_is_there(desired: NodeState, seen: NodeState) -> None:
    """The gateway of a route through VXLAN has a neighbour, whose MAC has a node, before packets go there."""
    kernel = _kernel(seen)
    for op in converge(desired, _ours(kernel)):
        kernel.apply((op,))
        if isinstance(op, AddRoute | ReplaceRoute) and op.route.onlink:
            known = {(one.link, one.address): one.mac for one in kernel.state.neighbours}
            mac = known[op.route.link, op.route.gw or ip_address("0.0.0.0")]
            assert any((one.link, one.mac) == (op.route.link, mac) for one in kernel.state.fdb), describe(op)


@given(states(), states())
def test_a_range_that_stays_has_a_route_all_the_time(desired: NodeState, before: NodeState) -> None:
    """Whether it moves to another node or the backend changes; but for a device that had to be made anew."""
    kernel = _kernel(before)
    ops = converge(desired, before)
    recreated = {op.name for op in ops if isinstance(op, DelLink)} & {
        op.link.name for op in ops if isinstance(op, AddLink)
    }
    stay = {route.dst for route in before.routes if route.link not in recreated} & {one.dst for one in desired.routes}
    for op in ops:
        kernel.apply((op,))
        assert stay <= {route.dst for route in kernel.state.routes}, describe(op)


@given(states(), damaged())
def test_what_was_learned_is_never_written_down(desired: NodeState, seen: NodeState) -> None:
    """Nor what goes on to be there because nobody has spoken yet."""
    for prune in (True, False):
        kernel = _kernel(seen)
        ops = converge(desired, _ours(kernel), prune=prune)
        assert not any(isinstance(op, SetFdb) and op.entry.learned for op in ops)
        kernel.apply(ops)
        assert converge(desired, _ours(kernel), prune=prune) == ()


@given(states())
def test_two_routes_in_one_place_become_one(desired: NodeState) -> None:
    """Of what somebody appended to ours nothing stays."""
    doubled = tuple(replace(one, gw=None, onlink=False) for one in desired.routes if one.gw is not None)
    ops = converge(desired, replace(desired, routes=(*desired.routes, *doubled)))
    kept = (one for one in desired.routes if one.gw is not None)
    assert ops == (*map(DelRoute, doubled), *(ReplaceRoute(one, one) for one in kept))
