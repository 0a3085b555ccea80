"""The standing table `inet cnipy_nat` of the node: masquerade and host ports. `antispoof` has those of source checks.

A pod is elements in sets, never a rule, so the cost of a packet and of an ADD does not grow with the pods. The rules
are here in one place, since their order across the features is what makes them right:

- *Host ports* are translated at priority dstnat + 5, after kube-proxy's chains (dstnat): the first translation of a
  connection wins, so a Service or NodePort on the same number stays what it was (CVE-2019-9946). Only packets to an
  address of the node are looked at, so port 53 here never takes a pod's packet to port 53 elsewhere (CVE-2025-67499).
  XXX: kube-proxy in IPVS mode gives the node the address of every Service (kube-ipvs0) and translates on input, after
  us, so a host port without hostIP takes that port of Services too. No expression tells such an address from the node's
  own; on those nodes hostIP is the answer.
- *127.0.0.1* is translated on output only. The packet leaves through an interface with `route_localnet`, which lets
  neighbours talk to 127.0.0.0/8 as well (CVE-2020-8558); the guard drops what comes in from there for loopback, before
  connection tracking puts 127.0.0.1 back into genuine replies. IPv6 has no `route_localnet`: [::1]:port is not served.
- *Masquerade*: first of translated connections that would not come back otherwise (from the pod to itself, from the
  node's 127.0.0.1, from a neighbour on the same bridge), then of what leaves the pod networks. Both need connection
  tracking, which sees the first packet only.
"""

from ipaddress import IPv4Network, IPv6Network

from cni_py.model.nft import Layout
from cni_py.model.nft_expr import DROP, AnyOf, Counter, DataType, DnatToMap, Field, Lookup, Masquerade, Match, Verdict
from cni_py.model.nft_objects import Chain, Hook, Rule, Set, Table

NAT = Table("inet", "cnipy_nat")

MASQ4 = Set(NAT, "masq4", (DataType.IPV4,), interval=True)
MASQ6 = Set(NAT, "masq6", (DataType.IPV6,), interval=True)

_PORT = (DataType.PROTOCOL, DataType.SERVICE)
_TO4, _TO6 = (DataType.IPV4, DataType.SERVICE), (DataType.IPV6, DataType.SERVICE)
HOST_PORT4 = Set(NAT, "hostport4", _PORT, _TO4, comment="host port")
HOST_PORT6 = Set(NAT, "hostport6", _PORT, _TO6, comment="host port")
HOST_IP4 = Set(NAT, "hostip4", (DataType.IPV4, *_PORT), _TO4, comment="host port")
HOST_IP6 = Set(NAT, "hostip6", (DataType.IPV6, *_PORT), _TO6, comment="host port")

# Source and translated destination of connections that must seem to come from the node.
HAIRPIN4 = Set(NAT, "hairpin4", (DataType.IPV4, DataType.IPV4))
HAIRPIN6 = Set(NAT, "hairpin6", (DataType.IPV6, DataType.IPV6))
# The same by the interface they came in by: the bridge that the pod is on. Exact keys in a hash, not subnets: sets of
# ranges and exact fields together are copied as a whole on every change (54 ms for one deletion at 10,000).
BRIDGED4 = Set(NAT, "bridged4", (DataType.IFNAME, DataType.IPV4))
BRIDGED6 = Set(NAT, "bridged6", (DataType.IFNAME, DataType.IPV6))
# The same whatever the source is.
MASQ_ALL4 = Set(NAT, "masqall4", (DataType.IPV4,))
MASQ_ALL6 = Set(NAT, "masqall6", (DataType.IPV6,))
# Interfaces with route_localnet.
LOCALNET = Set(NAT, "localnet", (DataType.IFNAME,))

_DNAT, _SNAT, _RAW = -100, 100, -300
_GUARD = Chain(NAT, "guard", Hook("filter", "prerouting", _RAW))
_PREROUTING = Chain(NAT, "nat_prerouting", Hook("nat", "prerouting", _DNAT + 5))
_OUTPUT = Chain(NAT, "nat_output", Hook("nat", "output", _DNAT + 5))
_POSTROUTING = Chain(NAT, "nat_postrouting", Hook("nat", "postrouting", _SNAT))
_HOST_PORTS = Chain(NAT, "host_ports")

_LOOPBACK = IPv4Network("127.0.0.0/8")
_MULTICAST4, _MULTICAST6 = IPv4Network("224.0.0.0/4"), IPv6Network("ff00::/8")
_LINK_LOCAL6 = IPv6Network("fe80::/10")
_RTN_LOCAL = 2


def _host_port_rules() -> tuple[Rule, ...]:
    port = (Field.L4PROTO, Field.TH_DPORT)
    here = Match(Field.FIB_DADDR_TYPE, _RTN_LOCAL)
    into = Verdict("goto", _HOST_PORTS.name)
    return (
        Rule(_PREROUTING, (here, into)),
        Rule(_OUTPUT, (here, into)),
        Rule(_HOST_PORTS, (DnatToMap(4, (Field.IP_DADDR, *port), HOST_IP4.name),)),
        Rule(_HOST_PORTS, (DnatToMap(4, port, HOST_PORT4.name),)),
        Rule(_HOST_PORTS, (DnatToMap(6, (Field.IP6_DADDR, *port), HOST_IP6.name),)),
        Rule(_HOST_PORTS, (DnatToMap(6, port, HOST_PORT6.name),)),
    )


def _guard_rules() -> tuple[Rule, ...]:
    from_there = Lookup((Field.IIFNAME,), LOCALNET.name)
    to, by = Match(Field.IP_DADDR, _LOOPBACK), Match(Field.IP_SADDR, _LOOPBACK)
    return tuple(Rule(_GUARD, (from_there, one, Counter(), DROP), "loopback from outside") for one in (to, by))


def _masquerade_rules() -> tuple[Rule, ...]:
    translated = AnyOf(Field.CT_STATUS, ("dnat",))
    rules: list[Rule] = []
    for source, destination, hairpin, bridged, every in (
        (Field.IP_SADDR, Field.IP_DADDR, HAIRPIN4, BRIDGED4, MASQ_ALL4),
        (Field.IP6_SADDR, Field.IP6_DADDR, HAIRPIN6, BRIDGED6, MASQ_ALL6),
    ):
        keys = (
            Lookup((source, destination), hairpin.name),
            Lookup((Field.IIFNAME, destination), bridged.name),
            Lookup((destination,), every.name),
        )
        rules += (Rule(_POSTROUTING, (translated, key, Masquerade())) for key in keys)
    for source, destination, ranges, kept in (
        (Field.IP_SADDR, Field.IP_DADDR, MASQ4, (_MULTICAST4,)),
        (Field.IP6_SADDR, Field.IP6_DADDR, MASQ6, (_MULTICAST6, _LINK_LOCAL6)),
    ):
        outside = Lookup((destination,), ranges.name, negate=True)
        unlike = tuple(Match(destination, network, negate=True) for network in kept)
        rules.append(Rule(_POSTROUTING, (Lookup((source,), ranges.name), outside, *unlike, Masquerade())))
    return tuple(rules)


NAT_LAYOUT = Layout(
    NAT,
    (
        MASQ4,
        MASQ6,
        HOST_PORT4,
        HOST_PORT6,
        HOST_IP4,
        HOST_IP6,
        HAIRPIN4,
        HAIRPIN6,
        BRIDGED4,
        BRIDGED6,
        MASQ_ALL4,
        MASQ_ALL6,
        LOCALNET,
    ),
    (_GUARD, _HOST_PORTS, _PREROUTING, _OUTPUT, _POSTROUTING),
    (*_guard_rules(), *_host_port_rules(), *_masquerade_rules()),
)
