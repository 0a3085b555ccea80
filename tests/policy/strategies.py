"""Small clusters in which everything collides, policies of every shape, flows, and ways from one cluster to another.

There are three namespaces (one of which nobody may have told of), two labels of two values, a handful of addresses of
both families, few ports and names: so selectors select, blocks hold pods, ranges meet, and addresses change hands.
"""

from dataclasses import replace
from ipaddress import IPv6Network, ip_address, ip_network
from typing import TypeVar

from hypothesis import strategies as st

from cni_py.model.policy import (
    CIDR,
    ICMP,
    ICMPV6,
    LAST_PORT,
    SCTP,
    TCP,
    UDP,
    Address,
    Changes,
    Cluster,
    Flow,
    IpBlock,
    NamedPort,
    Namespace,
    Operator,
    Peer,
    Pod,
    Pods,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
)

NAME_LABEL = "kubernetes.io/metadata.name"
NAMESPACES = ("a", "b", "c")
KEYS, VALUES = ("app", "tier"), ("x", "y")
PORTS = (1, 79, 80, 81, 82, 443, LAST_PORT)
PORT_NAMES = ("dns", "http")
PROTOCOLS = (TCP, UDP, SCTP)
PORTLESS = (ICMP, ICMPV6, 2, 47, 50)
# Pods have the first eight of each family; what comes after is outside, or a node's.
_BASES = (int(ip_address("10.0.0.0")), int(ip_address("fd00::")))
POD_ADDRESSES: tuple[Address, ...] = tuple(ip_address(base + at) for base in _BASES for at in range(8))
OTHER_ADDRESSES: tuple[Address, ...] = (
    *(ip_address(base + at) for base in _BASES for at in (8, 15)),
    *map(ip_address, ("192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::")),
)

T = TypeVar("T")
Labels = dict[str, str]

# One of the namespaces is where most things are, so that they meet.
homes = st.sampled_from(("a", "a", *NAMESPACES))
labels: st.SearchStrategy[Labels] = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))


@st.composite
def requirements(draw: st.DrawFn, keys: tuple[str, ...] = KEYS, values: tuple[str, ...] = VALUES) -> Requirement:
    """Of each operator; also of a value that nothing has."""
    operator: Operator = draw(st.sampled_from(("In", "In", "NotIn", "Exists", "DoesNotExist")))
    several = st.sets(st.sampled_from((*values, "z")), min_size=1, max_size=2)
    chosen = tuple(sorted(draw(several))) if operator in ("In", "NotIn") else ()
    return Requirement(draw(st.sampled_from(keys)), operator, chosen)


def selectors() -> st.SearchStrategy[Selector]:
    """Of up to two terms; also such as contradict themselves."""
    return st.sets(requirements(), max_size=2).map(lambda terms: Selector(tuple(sorted(terms))))


def namespace_selectors() -> st.SearchStrategy[Selector]:
    """By labels or by name."""
    by_name = requirements((NAME_LABEL,), NAMESPACES).map(lambda one: Selector((one,)))
    return selectors() | by_name


@st.composite
def cidrs(draw: st.DrawFn) -> CIDR:
    """Around the addresses of pods, from one of them to all that there are."""
    base, size = draw(st.sampled_from(((_BASES[0], 32), (_BASES[1], 128))))
    bits = draw(st.sampled_from((0, 1, 2, 3, 4, size)))
    first = (base + draw(st.integers(0, 15))) >> bits << bits
    return IPv6Network((first, size - bits)) if size == 128 else ip_network((first, size - bits))


@st.composite
def ip_blocks(draw: st.DrawFn) -> IpBlock:
    """With up to three exceptions, which may meet each other and be all of it."""
    cidr = draw(cidrs())
    others = [one for one in draw(st.lists(cidrs(), max_size=3)) if one.prefixlen >= cidr.prefixlen]
    return IpBlock(cidr, tuple(one for one in others if one.network_address in cidr))


def peers() -> st.SearchStrategy[Peer]:
    """Pods of one namespace or of several, and blocks."""
    return st.builds(Pods, st.sampled_from(NAMESPACES) | namespace_selectors(), selectors()) | ip_blocks()


@st.composite
def ports(draw: st.DrawFn) -> Port:
    """All of a protocol, one, a range, or a name."""
    protocol = draw(st.sampled_from(PROTOCOLS))
    match draw(st.sampled_from(("all", "one", "range", "name"))):
        case "all":
            return Port(protocol)
        case "name":
            return Port(protocol, name=draw(st.sampled_from(PORT_NAMES)))
        case "one":
            one = draw(st.sampled_from(PORTS))
            return Port(protocol, one, one)
        case _:
            first, last = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
            return Port(protocol, first, last)


def _few(values: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...] | None]:
    """None, an empty tuple (what is left where nothing was understood), or up to three, the same twice among them."""
    return st.none() | st.lists(values, max_size=3).map(tuple)


def rules() -> st.SearchStrategy[Rule]:
    """Of peers and ports, or without one or both."""
    return st.builds(Rule, _few(peers()), _few(ports()))


def policies() -> st.SearchStrategy[Policy]:
    """In one of the namespaces, for ingress, egress, both or none; one in four in audit."""
    some = st.lists(rules(), min_size=1, max_size=3).map(tuple)
    sections = st.sampled_from((None, ())) | some | some
    audit = st.sampled_from((False, False, False, True))
    names = st.sampled_from(("p", "q", "r"))
    return st.builds(Policy, homes, names, st.just(Selector()) | selectors(), sections, sections, audit)


def named_ports() -> st.SearchStrategy[tuple[NamedPort, ...]]:
    """Also one name for two numbers, and one number with two names."""
    one = st.builds(
        NamedPort, st.sampled_from(PORT_NAMES), st.sampled_from(PROTOCOLS), st.sampled_from((79, 80, 81, 443))
    )
    return st.sets(one, max_size=3).map(lambda found: tuple(sorted(found)))


_any_address = st.sampled_from(POD_ADDRESSES)


@st.composite
def pods(draw: st.DrawFn, addresses: st.SearchStrategy[Address] = _any_address) -> Pod:
    """Of one or two addresses; of twelve one is in the node's network, one finished, one starts: they have none.

    Of the addresses of the others a third is only announced.
    """
    state = draw(st.sampled_from(("host", "finished", "starts", *["runs"] * 6, *["announced"] * 3)))
    own = draw(st.lists(addresses, min_size=1, max_size=2, unique=True))
    return Pod(
        f"uid-{draw(st.integers(0, 9))}",
        draw(homes),
        draw(st.sampled_from(("1", "2", "3", "4"))),
        draw(labels),
        tuple(own) if state in ("runs", "announced") else (),
        draw(named_ports()),
        draw(st.sampled_from(("n1", "n2"))),
        draw(st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"))),
        state == "host",
        state == "finished",
        state == "announced",
    )


@st.composite
def namespaces(draw: st.DrawFn) -> Namespace:
    """With labels of their own; one in six in audit."""
    name = draw(st.sampled_from(NAMESPACES))
    audit = draw(st.sampled_from((False, False, False, False, False, True)))
    return Namespace(name, {**draw(labels), NAME_LABEL: name}, audit)


@st.composite
def clusters(draw: st.DrawFn, *, disputed: bool = True) -> Cluster:
    """Of one to eight pods, up to three namespaces, one to five policies. `disputed`: two pods may claim an address."""
    found = {one.key: one for one in draw(st.lists(pods(), min_size=1, max_size=8))}
    if not disputed:
        taken = set[Address]()
        for key, pod in found.items():
            found[key] = replace(pod, addresses=tuple(one for one in pod.addresses if one not in taken))
            taken |= set(pod.addresses)
    return Cluster(
        found,
        {one.name: one for one in draw(st.lists(namespaces(), max_size=3))},
        {one.key: one for one in draw(st.lists(policies(), min_size=1, max_size=5))},
    )


@st.composite
def flows(draw: st.DrawFn, cluster: Cluster | None = None) -> Flow:
    """Between addresses of one family, mostly such as pods of the cluster have."""
    own = [address for pod in (cluster.pods.values() if cluster else ()) for address in pod.addresses]
    anybody = st.sampled_from((*POD_ADDRESSES, *OTHER_ADDRESSES))
    source = draw(st.sampled_from(own) | st.sampled_from(own) | anybody if own else anybody)
    alike = [one for one in (*own, *own, *POD_ADDRESSES, *OTHER_ADDRESSES) if one.version == source.version]
    destination = draw(st.sampled_from(alike))
    protocol = draw(st.sampled_from((*PROTOCOLS, *PROTOCOLS, ICMP if source.version == 4 else ICMPV6, *PORTLESS[2:])))
    port = draw(st.sampled_from((*PORTS, 80, 78, 83))) if protocol in PROTOCOLS else 0
    return Flow(source, destination, protocol, port)


def all_flows(cluster: Cluster, numbers: tuple[int, ...] = (1, 79, 80, 443)) -> list[Flow]:
    """Between all pods' addresses and two that are nobody's, of all protocols: where every verdict is wanted."""
    own = dict.fromkeys(address for pod in cluster.pods.values() for address in pod.addresses)
    ends = (*own, OTHER_ADDRESSES[0], OTHER_ADDRESSES[2])
    kinds = [(protocol, number) for protocol in PROTOCOLS for number in numbers]
    found = []
    for source in ends:
        for destination in ends:
            if source.version == destination.version:
                icmp = ICMP if source.version == 4 else ICMPV6
                found += [Flow(source, destination, *kind) for kind in (*kinds, (icmp, 0), (47, 0))]
    return found


@st.composite
def changes(draw: st.DrawFn, before: Cluster, after: Cluster) -> list[Changes]:
    """One of the ways from one cluster to another: in any order, batched anyhow, with detours and repetitions.

    A detour is an object that is another, or is there or gone, for a while. Last of each is told what is in `after`.
    """
    told: dict[tuple[str, str], list[object]] = {}
    for kind, strangers in (("pods", pods()), ("namespaces", namespaces()), ("policies", policies())):
        old, new = getattr(before, kind), getattr(after, kind)
        for key in (*old, *new):
            if old.get(key) != new.get(key) or draw(st.integers(0, 7)) == 0:
                told[kind, key] = [new.get(key)] * draw(st.sampled_from((1, 1, 1, 2)))
        for stranger in draw(st.lists(strangers, max_size=2)):
            key = stranger.name if isinstance(stranger, Namespace) else stranger.key  # type: ignore[attr-defined]
            told.setdefault((kind, key), [new.get(key)]).insert(0, draw(st.sampled_from((stranger, None))))
    batches: list[Changes] = []
    for kind, key in draw(st.permutations([name for name, values in told.items() for _ in values])):
        if not batches or draw(st.booleans()):
            batches.append(Changes({}, {}, {}))
        getattr(batches[-1], kind)[key] = told[kind, key].pop(0)
    return batches


def applied(cluster: Cluster, batches: list[Changes]) -> Cluster:
    """What the cluster is after these changes."""
    now = {kind: dict(getattr(cluster, kind)) for kind in ("pods", "namespaces", "policies")}
    for kind, objects in now.items():
        for batch in batches:
            objects.update(getattr(batch, kind))
        now[kind] = {key: value for key, value in objects.items() if value is not None}
    return Cluster(**now)
