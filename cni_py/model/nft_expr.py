"""What an nftables rule is made of: data types, the fields of a packet, matches, lookups, statements and verdicts.

Every value has its nft text (`text()`), as `nft list ruleset` of 1.0.6 prints it where it prints it at all.
`kernel.nft_expr` has the bytecode of the same values; the two are proven equal by loading both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# One field of a key: an address, an interface name or MAC (str), or a number (protocol, port, mark).
Scalar = IPv4Address | IPv6Address | str | int
Network = IPv4Network | IPv6Network

TCP, UDP, ICMPV6, SCTP = 6, 17, 58, 132
_PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMPV6: "ipv6-icmp", SCTP: "sctp"}
_ETHERTYPES = {0x0800: "ip", 0x0806: "arp", 0x86DD: "ip6"}
_ICMPV6_TYPES = {
    133: "nd-router-solicit",
    134: "nd-router-advert",
    135: "nd-neighbor-solicit",
    136: "nd-neighbor-advert",
    137: "nd-redirect",
}
CT_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
CT_STATUSES = {"snat": 16, "dnat": 32}
_CT_DIRECTIONS = {0: "original", 1: "reply"}
_FIB_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast"}


class DataType(Enum):
    """A type of nft: its name and its size in bytes."""

    IPV4 = ("ipv4_addr", 4)
    IPV6 = ("ipv6_addr", 16)
    ETHER = ("ether_addr", 6)
    ETHERTYPE = ("ether_type", 2)
    PROTOCOL = ("inet_proto", 1)
    SERVICE = ("inet_service", 2)
    IFNAME = ("ifname", 16)
    MARK = ("mark", 4)
    ICMPV6_TYPE = ("icmpv6_type", 1)
    CT_STATE = ("ct_state", 4)
    CT_STATUS = ("ct_status", 4)
    CT_DIRECTION = ("ct_dir", 1)
    FIB_TYPE = ("fib_addrtype", 4)
    # An IPv6 address in a place that nft 1.0.6 has no name for. Sets of it are declared by field, see `Set.fields`.
    RAW_ADDRESS = ("integer", 16)

    def __init__(self, label: str, size: int) -> None:
        self.label = label
        self.size = size

    def text(self, scalar: Scalar) -> str:
        """One value of this type as nft prints it."""
        match self:
            case DataType.IFNAME:
                return f'"{scalar}"'
            case DataType.RAW_ADDRESS:
                return f"0x{int(scalar):032x}" if isinstance(scalar, IPv6Address) else str(scalar)
            case DataType.MARK:
                return f"0x{int(scalar):08x}"
            case _:
                return _NAMES.get(self, {}).get(scalar) or str(scalar)


_NAMES: Mapping[DataType, Mapping[Scalar, str]] = {
    DataType.PROTOCOL: dict(_PROTOCOLS.items()),
    DataType.ETHERTYPE: dict(_ETHERTYPES.items()),
    DataType.ICMPV6_TYPE: dict(_ICMPV6_TYPES.items()),
    DataType.CT_DIRECTION: dict(_CT_DIRECTIONS.items()),
    DataType.FIB_TYPE: dict(_FIB_TYPES.items()),
}


class Field(Enum):
    """A part of a packet, or of what the kernel knows of it: its nft text and its type."""

    IP_SADDR = ("ip saddr", DataType.IPV4)
    IP_DADDR = ("ip daddr", DataType.IPV4)
    IP6_SADDR = ("ip6 saddr", DataType.IPV6)
    IP6_DADDR = ("ip6 daddr", DataType.IPV6)
    ARP_SENDER_IP = ("arp saddr ip", DataType.IPV4)
    ARP_SENDER_MAC = ("arp saddr ether", DataType.ETHER)
    ETHER_SADDR = ("ether saddr", DataType.ETHER)
    ETHER_DADDR = ("ether daddr", DataType.ETHER)
    PROTOCOL = ("meta protocol", DataType.ETHERTYPE)
    L4PROTO = ("meta l4proto", DataType.PROTOCOL)
    MARK = ("meta mark", DataType.MARK)
    IIFNAME = ("iifname", DataType.IFNAME)
    OIFNAME = ("oifname", DataType.IFNAME)
    TH_SPORT = ("th sport", DataType.SERVICE)
    TH_DPORT = ("th dport", DataType.SERVICE)
    TCP_DPORT = ("tcp dport", DataType.SERVICE)
    UDP_DPORT = ("udp dport", DataType.SERVICE)
    SCTP_DPORT = ("sctp dport", DataType.SERVICE)
    ICMPV6_TYPE = ("icmpv6 type", DataType.ICMPV6_TYPE)
    ND_TARGET = ("@th,64,128", DataType.RAW_ADDRESS)
    CT_STATE = ("ct state", DataType.CT_STATE)
    CT_STATUS = ("ct status", DataType.CT_STATUS)
    CT_DIRECTION = ("ct direction", DataType.CT_DIRECTION)
    FIB_SADDR_TYPE = ("fib saddr type", DataType.FIB_TYPE)
    FIB_DADDR_TYPE = ("fib daddr type", DataType.FIB_TYPE)

    @property
    def text(self) -> str:
        """The field as nft writes it."""
        return self.value[0]

    @property
    def type(self) -> DataType:
        """The type of its values."""
        return self.value[1]


def concat(fields: tuple[Field, ...]) -> str:
    """Several fields as one key: `ip saddr . th dport`."""
    return " . ".join(field.text for field in fields)


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from `first` to `last`, both included, of one family. ValueError if it is empty or mixed."""

    first: IPv4Address | IPv6Address
    last: IPv4Address | IPv6Address

    def __post_init__(self) -> None:
        if self.first.version != self.last.version or int(self.first) > int(self.last):
            raise ValueError(f"{self.first}-{self.last} is not a range of addresses")

    @classmethod
    def of(cls, network: Network) -> "Range":
        """All addresses of a network, its first and last included."""
        return cls(network.network_address, network.broadcast_address)

    def text(self) -> str:
        """As nft prints it: one address, a prefix where it is one, else first-last."""
        if self.first == self.last:
            return str(self.first)
        size = int(self.last) - int(self.first) + 1
        is_prefix = size & (size - 1) == 0 and int(self.first) % size == 0
        if is_prefix:
            return f"{self.first}/{self.first.max_prefixlen + 1 - size.bit_length()}"
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Match:
    """The packet's field is (with `negate`: is not) this value, or lies in this network."""

    field: Field
    value: Scalar | Network
    negate: bool = False

    def text(self) -> str:
        """`ip daddr != 224.0.0.0/4`."""
        value = self.value if isinstance(self.value, Network) else self.field.type.text(self.value)
        return f"{self.field.text} {'!= ' if self.negate else ''}{value}"


@dataclass(frozen=True, slots=True)
class Between:
    """The packet's field is a number from `first` to `last`, both included."""

    field: Field
    first: int
    last: int

    def text(self) -> str:
        """`tcp dport 8000-9000`."""
        return f"{self.field.text} {self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class NameBegins:
    """The interface's name (`iifname`, `oifname`) begins so; `prefix` is shorter than a name may be."""

    field: Field
    prefix: str

    def text(self) -> str:
        """`iifname "cpy*"`."""
        return f'{self.field.text} "{self.prefix}*"'


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these bits is set: names of CT_STATES for `ct state`, of CT_STATUSES for `ct status`."""

    field: Field
    names: tuple[str, ...]

    def text(self) -> str:
        """`ct state established,related`."""
        return f"{self.field.text} {','.join(self.names)}"

    def mask(self) -> int:
        """The bits, as the kernel numbers them."""
        bits = CT_STATES if self.field is Field.CT_STATE else CT_STATUSES
        return sum(bits[name] for name in self.names)


@dataclass(frozen=True, slots=True)
class Lookup:
    """The key made of these fields is (with `negate`: is not) an element of the set of that name."""

    fields: tuple[Field, ...]
    set_name: str
    negate: bool = False

    def text(self) -> str:
        """`iifname . ip saddr != @owners4`."""
        return f"{concat(self.fields)} {'!= ' if self.negate else ''}@{self.set_name}"


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """The verdict that the map of that name has for this key; without one the next rule decides."""

    fields: tuple[Field, ...]
    map_name: str

    def text(self) -> str:
        """`ip saddr vmap @egress4`."""
        return f"{concat(self.fields)} vmap @{self.map_name}"


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts the packets that come this far; `packets` and `bytes` in a dump, not in a value."""

    def text(self) -> str:
        """`counter`."""
        return "counter"


@dataclass(frozen=True, slots=True)
class Note:
    """The key made of these fields is an element of the set of that name from now until the set's timeout.

    `counter`: with a count of the packets that made it so. A set that is full ends the rule.
    """

    fields: tuple[Field, ...]
    set_name: str
    counter: bool = False

    def text(self) -> str:
        """`update @denied4 { ip saddr . ip daddr counter }`."""
        return f"update @{self.set_name} {{ {concat(self.fields)}{' counter' if self.counter else ''} }}"


@dataclass(frozen=True, slots=True)
class Limit:
    """Matches so many packets a second, and before that a burst."""

    per_second: int
    burst: int

    def text(self) -> str:
        """`limit rate 20/second burst 50 packets`."""
        return f"limit rate {self.per_second}/second burst {self.burst} packets"


@dataclass(frozen=True, slots=True)
class Log:
    """Sends the first `snaplen` bytes of the packet to the NFLOG group; the prefix is at most 127 bytes."""

    group: int
    prefix: str = ""
    snaplen: int = 0

    def text(self) -> str:
        """`log prefix "x" group 5 snaplen 96`."""
        prefix = f' prefix "{self.prefix}"' if self.prefix else ""
        snaplen = f" snaplen {self.snaplen}" if self.snaplen else ""
        return f"log{prefix} group {self.group}{snaplen}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kind` is accept, drop, return, jump or goto; the last two name a chain of the same table."""

    kind: str
    chain: str = ""

    def text(self) -> str:
        """`goto mac`."""
        return f"{self.kind} {self.chain}" if self.chain else self.kind


ACCEPT, DROP, RETURN = Verdict("accept"), Verdict("drop"), Verdict("return")


@dataclass(frozen=True, slots=True)
class Masquerade:
    """The source becomes the address of the interface that the packet leaves by."""

    def text(self) -> str:
        """`masquerade`."""
        return "masquerade"


@dataclass(frozen=True, slots=True)
class DnatToMap:
    """The destination becomes the address and port that the map has for this key; without one the next rule decides.

    `version` 4 or 6 is the family of the map's addresses; packets of the other family pass.
    """

    version: int
    fields: tuple[Field, ...]
    map_name: str

    def text(self) -> str:
        """`dnat ip to meta l4proto . th dport map @hostport4`."""
        return f"dnat {'ip' if self.version == 4 else 'ip6'} to {concat(self.fields)} map @{self.map_name}"


Expression = (
    Match
    | Between
    | NameBegins
    | AnyOf
    | Lookup
    | VerdictMap
    | Counter
    | Note
    | Limit
    | Log
    | Verdict
    | Masquerade
    | DnatToMap
)
