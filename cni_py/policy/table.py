"""The standing part of the table `inet cnipy_policy`: what is in it however many pods and policies there are.

A packet takes this way. Replies pass, and so does what belongs to a connection that was let through, unless a policy of
one of its pods has shrunk (`dirty`). Local pods that are not `ready` send and get nothing. For the first packet of a
connection the source's chain is asked and then the destination's; `return` in one of them allows that direction.

`forward` sees pods, after DNAT; `input` sees pods that talk to their own node, of which only the egress policies can
have an opinion. There is no output hook: what the node sends to its own pods is always allowed.

Everything is there twice, for IPv4 and for IPv6: names end in 4 or 6. See docs/policy.md.
"""

from ipaddress import IPv6Network

from cni_py.model.nft import Layout
from cni_py.model.nft_expr import (
    ACCEPT,
    DROP,
    RETURN,
    AnyOf,
    Counter,
    DataType,
    Expression,
    Field,
    Limit,
    Log,
    Lookup,
    Match,
    Note,
    Verdict,
    VerdictMap,
)
from cni_py.model.nft_objects import Chain, Hook, Rule, Set, Table
from cni_py.model.policy import SCTP, TCP, UDP, Direction

TABLE = Table("inet", "cnipy_policy")
VERSIONS = (4, 6)
NFLOG_GROUP = 86
SOURCE = {4: Field.IP_SADDR, 6: Field.IP6_SADDR}
DESTINATION = {4: Field.IP_DADDR, 6: Field.IP6_DADDR}
ADDRESS = {4: DataType.IPV4, 6: DataType.IPV6}
# What the log of a packet begins with: the direction that had no rule for it, and whether it was dropped.
PREFIXES: dict[tuple[Direction, bool], str] = {
    ("ingress", False): "cnipy deny in ",
    ("egress", False): "cnipy deny out ",
    ("ingress", True): "cnipy would deny in ",
    ("egress", True): "cnipy would deny out ",
}
_PRIORITY = -5  # just before the filters of others
_REMEMBERED_S = 300  # how long a denied flow is remembered after its last packet
_REMEMBERED = 8192
CUT_SECONDS = 900  # longer than TCP goes on repeating what is not acknowledged
_LOGS_PER_SECOND, _LOG_BURST, LOG_BYTES = 20, 50, 96
_LINK_LOCAL, _MULTICAST = IPv6Network("fe80::/10"), IPv6Network("ff00::/8")
NEIGHBOUR_DISCOVERY = (133, 134, 135, 136, 137)
WITH_PORTS = (TCP, UDP, SCTP)


def _sets(name: str, *types: DataType, interval: bool = False, timeout: int = 0, size: int = 0) -> dict[int, Set]:
    """One for each version; IPV4 stands for the version's addresses."""
    return {
        version: Set(
            TABLE,
            f"{name}{version}",
            tuple(ADDRESS[version] if one is DataType.IPV4 else one for one in types),
            interval=interval,
            timeout=timeout,
            size=size,
        )
        for version in VERSIONS
    }


_A, _PROTO, _PORT = DataType.IPV4, DataType.PROTOCOL, DataType.SERVICE
LOCAL = _sets("local", _A, interval=True)  # what the pods of this node have their addresses from
READY = _sets("ready", _A)  # local pods whose policies are in the table
DIRTY = _sets("dirty", _A)  # local pods whose policies shrank: their connections are judged again
OWN = _sets("own", _A, _A)  # (address, the same address) of local pods: a pod may talk to itself by a Service
CUT = _sets(
    "cut", _A, _A, _PROTO, _PORT, _PORT, timeout=CUT_SECONDS
)  # connections that were let through and are no more
MAPS: dict[Direction, dict[int, Set]] = {
    direction: {version: Set(TABLE, f"{direction}{version}", (ADDRESS[version],), "verdict") for version in VERSIONS}
    for direction in ("egress", "ingress")
}
# By the host's end of a pod's veth: what it sends its node from a link-local address, which says nothing else of it.
LINKS = Set(TABLE, "egress_links", (DataType.IFNAME,), "verdict")
_KINDS: tuple[tuple[Direction, bool], ...] = (
    ("egress", False),
    ("ingress", False),
    ("egress", True),
    ("ingress", True),
)


def _denied(name: str, *types: DataType) -> dict[tuple[Direction, bool], dict[int, Set]]:
    return {
        (direction, audit): _sets(
            f"{'would_' if audit else ''}deny_{direction}{name}_", *types, timeout=_REMEMBERED_S, size=_REMEMBERED
        )
        for direction, audit in _KINDS
    }


# What was denied, each with the count of its packets: by direction, and whether it passed, being audited only.
DENIED = _denied("", _A, _A, _PROTO, _PORT)
DENIED_PORTLESS = _denied("_portless", _A, _A, _PROTO)
ND = Set(TABLE, "nd", (DataType.ICMPV6_TYPE,))
PORTED = Set(TABLE, "ported", (_PROTO,))
# Those of which a program says what is in them; time and the packets say it of the others.
STATIC_SETS = (
    ND,
    PORTED,
    LINKS,
    *(one[version] for one in (LOCAL, READY, OWN, *MAPS.values()) for version in VERSIONS),
)

FORWARD = Chain(TABLE, "c_forward", Hook("filter", "forward", _PRIORITY))
INPUT = Chain(TABLE, "c_input", Hook("filter", "input", _PRIORITY))
_ESTABLISHED, _JUDGE = Chain(TABLE, "c_established"), Chain(TABLE, "c_judge")
_ENDS = {kind: Chain(TABLE, f"{'w' if kind[1] else 'd'}_{kind[0]}") for kind in _KINDS}


def end(direction: Direction, *, audit: bool) -> Verdict:
    """What a pod's chain ends with: the packet is told of and dropped, or, to be audited only, told of."""
    return Verdict("goto", _ENDS[direction, audit].name)


def _entry(hook: Chain) -> list[Rule]:
    """Most packets get no further."""
    return [
        Rule(hook, (Lookup((Field.ICMPV6_TYPE,), ND.name), ACCEPT)),
        Rule(hook, (AnyOf(Field.CT_STATE, ("established",)), Verdict("jump", _ESTABLISHED.name))),
        Rule(hook, (AnyOf(Field.CT_STATE, ("related",)), ACCEPT)),
    ]


def _gate(chain: Chain, version: int, field: Field) -> Rule:
    """Local pods that are not ready are cut off."""
    local, ready = Lookup((field,), LOCAL[version].name), Lookup((field,), READY[version].name, negate=True)
    return Rule(chain, (local, ready, Counter(), DROP))


def _established() -> list[Rule]:
    """The quick way; who returns is dirty.

    It leads to no pod's chain itself: the kernel walks each way to each of them when a chain or a map changes.
    """
    dirty = [
        Rule(_ESTABLISHED, (Lookup((field,), DIRTY[version].name), RETURN))
        for version in VERSIONS
        for field in (SOURCE[version], DESTINATION[version])
    ]
    return [Rule(_ESTABLISHED, (Match(Field.CT_DIRECTION, 1), ACCEPT)), *dirty, Rule(_ESTABLISHED, (ACCEPT,))]


def _judge(version: int) -> list[Rule]:
    ends = (SOURCE[version], DESTINATION[version])
    connection = (*ends, Field.L4PROTO, Field.TH_SPORT, Field.TH_DPORT)
    bodies: tuple[tuple[Expression, ...], ...] = (
        (Lookup(connection, CUT[version].name), Counter(), DROP),
        (Lookup(ends, OWN[version].name), ACCEPT),
        (VerdictMap((SOURCE[version],), MAPS["egress"][version].name),),
        (VerdictMap((DESTINATION[version],), MAPS["ingress"][version].name),),
    )
    gates = [_gate(_JUDGE, version, field) for field in ends]
    # twice: each lookup sees the table of its own moment, so a pod that goes may be ready at the first and have no
    # chain at the map, and then it is not ready at the last
    return [*gates, *(Rule(_JUDGE, body) for body in bodies), *gates]


def _end(direction: Direction, *, audit: bool) -> list[Rule]:
    chain, bodies = _ENDS[direction, audit], list[tuple[Expression, ...]]()
    with_port, without = Lookup((Field.L4PROTO,), PORTED.name), Lookup((Field.L4PROTO,), PORTED.name, negate=True)
    for version in VERSIONS:
        flow = (SOURCE[version], DESTINATION[version], Field.L4PROTO)
        # rules of their own: a set that is full ends the rule, not the chain
        denied, portless = DENIED[direction, audit][version], DENIED_PORTLESS[direction, audit][version]
        bodies.append((with_port, Note((*flow, Field.TH_DPORT), denied.name, counter=True)))
        bodies.append((without, Note(flow, portless.name, counter=True)))
    log = Log(NFLOG_GROUP, PREFIXES[direction, audit], LOG_BYTES)
    bodies += [(Limit(_LOGS_PER_SECOND, _LOG_BURST), log), (Counter(), RETURN if audit else DROP)]
    return [Rule(chain, body) for body in bodies]


def _rules(*, guards_node: bool) -> list[Rule]:
    node = [Rule(INPUT, (VerdictMap((SOURCE[one],), MAPS["egress"][one].name),)) for one in VERSIONS]
    to_one = Match(Field.IP6_DADDR, _MULTICAST, negate=True)  # a pod's reports of its groups are no connections
    by_link = VerdictMap((Field.IIFNAME,), LINKS.name)
    node.append(Rule(INPUT, (Match(Field.IP6_SADDR, _LINK_LOCAL), to_one, by_link)))
    return [
        *_entry(FORWARD),
        Rule(FORWARD, (Verdict("goto", _JUDGE.name),)),
        *_entry(INPUT),
        *(_gate(INPUT, version, SOURCE[version]) for version in VERSIONS),
        *(node if guards_node else ()),
        *(_gate(INPUT, version, SOURCE[version]) for version in VERSIONS if guards_node),  # as in _judge
        *_established(),
        *(rule for version in VERSIONS for rule in _judge(version)),
        *(rule for direction, audit in _KINDS for rule in _end(direction, audit=audit)),
    ]


def layout(*, guards_node: bool) -> Layout:
    """The table. `guards_node`: egress policies of a pod hold for its own node as well."""
    by_version = (LOCAL, READY, DIRTY, OWN, CUT, *MAPS.values(), *DENIED.values(), *DENIED_PORTLESS.values())
    sets = (ND, PORTED, LINKS, *(one[version] for one in by_version for version in VERSIONS))
    chains = (*_ENDS.values(), _JUDGE, _ESTABLISHED, FORWARD, INPUT)
    return Layout(TABLE, sets, chains, tuple(_rules(guards_node=guards_node)))
