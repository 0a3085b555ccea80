"""Source checks: a pod sends with its own MAC and addresses only, and no router advertisement (CVE-2020-10749).

Two tables, since a bridge port and a routed interface pass different hooks. Both look at the interface name first, so
traffic of others costs one failed lookup. Names of the node's ends of veths are unique, and never given by a user.

- `bridge cnipy_spoof` for ports of a bridge. `macspoofchk` checks the MAC; where addresses are known as well, ARP and
  IP senders, and frames other than ARP, IPv4 and IPv6 are dropped (a VLAN tag would hide an address).
- `inet cnipy_spoof` for routed interfaces, at priority raw: before connection tracking.

Allowed beyond the pod's own addresses is what cannot harm: the ARP probe from 0.0.0.0, and the IPv6 link-local and
unspecified sources of neighbour discovery, which are never forwarded. On a bridge a neighbour advertisement must be for
an address of the pod, or the link-local one that its MAC makes (RFC 4291 appendix A), so no pod can say that another's
address is at its own MAC.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from cni_py.model.nft import AddElements, Change, DiscardElements, Layout
from cni_py.model.nft_expr import ACCEPT, DROP, Counter, DataType, Expression, Field, Lookup, Match, Verdict
from cni_py.model.nft_objects import Chain, Element, Hook, Rule, Set, Table

BRIDGE = Table("bridge", "cnipy_spoof")
ROUTED = Table("inet", "cnipy_spoof")

# Bridge ports: all that are checked, their MACs, and those of them whose addresses are known.
PORTS = Set(BRIDGE, "ports", (DataType.IFNAME,))
MACS = Set(BRIDGE, "macs", (DataType.IFNAME, DataType.ETHER))
STRICT = Set(BRIDGE, "strict", (DataType.IFNAME,))
PORT_OWNERS4 = Set(BRIDGE, "owners4", (DataType.IFNAME, DataType.IPV4))
PORT_OWNERS6 = Set(BRIDGE, "owners6", (DataType.IFNAME, DataType.IPV6))
# What a port may advertise to its neighbours.
CLAIMS6 = Set(BRIDGE, "claims6", (DataType.IFNAME, DataType.RAW_ADDRESS), fields=(Field.IIFNAME, Field.ND_TARGET))
# Routed interfaces and their addresses.
LINKS = Set(ROUTED, "links", (DataType.IFNAME,))
LINK_OWNERS4 = Set(ROUTED, "owners4", (DataType.IFNAME, DataType.IPV4))
LINK_OWNERS6 = Set(ROUTED, "owners6", (DataType.IFNAME, DataType.IPV6))

_BEFORE_ALL, _RAW = -350, -300
_ND_ROUTER_ADVERT, _ND_NEIGHBOUR_ADVERT, _ND_REDIRECT = 134, 136, 137
_LINK_LOCAL6, _UNSPECIFIED6 = IPv6Network("fe80::/10"), IPv6Address("::")


@dataclass(frozen=True, slots=True)
class Guarded:
    """One pod's interface: `link` is the node's end of its veth, `mac` the container's, "aa:bb:cc:dd:ee:ff"."""

    link: str
    mac: str = ""
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()


def plan_bridge_port(port: Guarded) -> Change:
    """Frames from that bridge port have its MAC and, if it has addresses, are from those. (`macspoofchk`)."""
    return Change((BRIDGE_LAYOUT,), tuple(AddElements(one, elements) for one, elements in _bridge_elements(port)))


def unplan_bridge_port(port: Guarded) -> Change:
    """Nothing of that bridge port is checked."""
    return Change((), tuple(DiscardElements(one, elements) for one, elements in _bridge_elements(port)))


def plan_routed_link(link: Guarded) -> Change:
    """Packets from that routed interface are from its addresses."""
    return Change((ROUTED_LAYOUT,), tuple(AddElements(one, elements) for one, elements in _routed_elements(link)))


def unplan_routed_link(link: Guarded) -> Change:
    """Nothing of that routed interface is checked."""
    return Change((), tuple(DiscardElements(one, elements) for one, elements in _routed_elements(link)))


def _bridge_elements(port: Guarded) -> Iterator[tuple[Set, tuple[Element, ...]]]:
    # The MAC before the port: nothing is dropped for want of an element in the same transaction anyway, but a reader of
    # the dry run sees what is allowed before what is checked.
    yield MACS, (Element((port.link, port.mac)),)
    if port.addresses:
        yield from _owners(port, PORT_OWNERS4, PORT_OWNERS6)
        claimed = (*(one for one in port.addresses if one.version == 6), _link_local(port.mac))
        yield CLAIMS6, tuple(Element((port.link, one)) for one in dict.fromkeys(claimed))
        yield STRICT, (Element((port.link,)),)
    yield PORTS, (Element((port.link,)),)


def _link_local(mac: str) -> IPv6Address:
    """The address that the kernel gives an interface with this MAC (modified EUI-64)."""
    first, *others = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((first ^ 2, *others[:2], 0xFF, 0xFE, *others[2:]))
    return IPv6Address(_LINK_LOCAL6.network_address.packed[:8] + identifier)


def _routed_elements(link: Guarded) -> Iterator[tuple[Set, tuple[Element, ...]]]:
    yield from _owners(link, LINK_OWNERS4, LINK_OWNERS6)
    yield LINKS, (Element((link.link,)),)


def _owners(guarded: Guarded, owners4: Set, owners6: Set) -> Iterator[tuple[Set, tuple[Element, ...]]]:
    for one, version in ((owners4, 4), (owners6, 6)):
        elements = tuple(Element((guarded.link, each)) for each in guarded.addresses if each.version == version)
        if elements:
            yield one, elements


def _address_rules(chain: Chain, owners4: Set, owners6: Set, passed: Verdict) -> list[Rule]:
    """IPv4 and IPv6 sources: the pod's own pass, all else is dropped by the chain's end."""
    bodies: Sequence[tuple[Expression, ...]] = (
        (Lookup((Field.IIFNAME, Field.IP_SADDR), owners4.name), passed),
        (Match(Field.ICMPV6_TYPE, _ND_ROUTER_ADVERT), Counter(), DROP),
        (Match(Field.ICMPV6_TYPE, _ND_REDIRECT), Counter(), DROP),
        (Lookup((Field.IIFNAME, Field.IP6_SADDR), owners6.name), passed),
        (Match(Field.IP6_SADDR, _LINK_LOCAL6), passed),
        (Match(Field.IP6_SADDR, _UNSPECIFIED6), passed),
    )
    return [*(Rule(chain, body) for body in bodies), Rule(chain, (Counter(), DROP), "source address")]


def _bridge_layout() -> Layout:
    entry = Chain(BRIDGE, "spoof_prerouting", Hook("filter", "prerouting", _BEFORE_ALL))
    mac, address = Chain(BRIDGE, "check_mac"), Chain(BRIDGE, "check_address")
    is_others_mac = Lookup((Field.IIFNAME, Field.ETHER_SADDR), MACS.name, negate=True)
    is_others_arp = Lookup((Field.IIFNAME, Field.ARP_SENDER_MAC), MACS.name, negate=True)
    is_advert = Match(Field.ICMPV6_TYPE, _ND_NEIGHBOUR_ADVERT)
    rules = (
        Rule(entry, (Lookup((Field.IIFNAME,), PORTS.name), Verdict("goto", mac.name))),
        Rule(mac, (is_others_mac, Counter(), DROP), "source MAC"),
        Rule(mac, (Lookup((Field.IIFNAME,), STRICT.name), Verdict("goto", address.name))),
        Rule(address, (is_others_arp, Counter(), DROP), "ARP sender MAC"),
        Rule(address, (Match(Field.ARP_SENDER_IP, IPv4Address("0.0.0.0")), ACCEPT)),
        Rule(address, (Lookup((Field.IIFNAME, Field.ARP_SENDER_IP), PORT_OWNERS4.name), ACCEPT)),
        Rule(address, (is_advert, Lookup(CLAIMS6.fields, CLAIMS6.name, negate=True), Counter(), DROP), "ND target"),
        *_address_rules(address, PORT_OWNERS4, PORT_OWNERS6, ACCEPT),
    )
    return Layout(BRIDGE, (PORTS, MACS, STRICT, PORT_OWNERS4, PORT_OWNERS6, CLAIMS6), (mac, address, entry), rules)


def _routed_layout() -> Layout:
    entry = Chain(ROUTED, "spoof_prerouting", Hook("filter", "prerouting", _RAW))
    address = Chain(ROUTED, "check_address")
    rules = (
        Rule(entry, (Lookup((Field.IIFNAME,), LINKS.name), Verdict("goto", address.name))),
        *_address_rules(address, LINK_OWNERS4, LINK_OWNERS6, ACCEPT),
    )
    return Layout(ROUTED, (LINKS, LINK_OWNERS4, LINK_OWNERS6), (address, entry), rules)


BRIDGE_LAYOUT = _bridge_layout()
ROUTED_LAYOUT = _routed_layout()
