"""Pods, namespaces and network policies as values: what NetworkPolicy v1 says, after defaulting, without its spelling.

Names follow the API (networking.k8s.io/v1). What a source could not read of a policy is left out of it in such a way
that it allows less, never more, and is told in `Policy.flaws`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

Address = IPv4Address | IPv6Address
CIDR = IPv4Network | IPv6Network
Direction = Literal["ingress", "egress"]
Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]

ADDRESSES_ANNOTATION = "cni-py.dev/addresses"  # of a Pod, from its node's agent, until its kubelet reports
DIRECTIONS: tuple[Direction, Direction] = ("ingress", "egress")
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
PROTOCOL_NAMES = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
LAST_PORT = 65535


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One term of a selector. `values` are sorted; NotIn and DoesNotExist also match what lacks the key."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """True if these labels fulfil it."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None

    def __str__(self) -> str:
        """As `kubectl get -l` takes it."""
        match self.operator:
            case "In" if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case "In":
                return f"{self.key} in ({','.join(self.values)})"
            case "NotIn":
                return f"{self.key} notin ({','.join(self.values)})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """All `requirements`, which are sorted and distinct; without any it selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """True if it selects an object with these labels."""
        return all(one.matches(labels) for one in self.requirements)

    def __str__(self) -> str:
        """As `kubectl get -l` takes it, `everything` for the empty one."""
        return ",".join(map(str, self.requirements)) or "everything"


@dataclass(frozen=True, slots=True, order=True)
class Pods:
    """Pods that `pods` selects: in the namespace of that name, or in those that the selector `namespaces` selects."""

    namespaces: str | Selector
    pods: Selector = Selector()

    def __str__(self) -> str:
        """`pods app=web in namespace shop`."""
        where = f"namespace {self.namespaces}" if isinstance(self.namespaces, str) else f"namespaces {self.namespaces}"
        return f"pods {self.pods} in {where}"


@dataclass(frozen=True, slots=True)
class IpBlock:
    """Addresses in `cidr` and in none of `excepts`, which lie within it; no host bits are set."""

    cidr: CIDR
    excepts: tuple[CIDR, ...] = ()

    def __contains__(self, address: Address) -> bool:
        """True if the address is one of these."""
        return address in self.cidr and not any(address in one for one in self.excepts)

    def __str__(self) -> str:
        """`10.0.0.0/8 except 10.1.0.0/16`."""
        return f"{self.cidr}" + (f" except {', '.join(map(str, self.excepts))}" if self.excepts else "")


Peer = Pods | IpBlock


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """Ports `first` to `last` of a protocol; or, with a `name`, those that the destination pod gives that name."""

    protocol: int
    first: int = 0
    last: int = LAST_PORT
    name: str = ""

    def __str__(self) -> str:
        """`TCP 80`, `UDP 8000-9000`, `TCP http`, `SCTP`."""
        protocol = PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        if self.name:
            return f"{protocol} {self.name}"
        if (self.first, self.last) == (0, LAST_PORT):
            return protocol
        return f"{protocol} {self.first}" + (f"-{self.last}" if self.last != self.first else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """Any of the peers over any of the ports. None: all there are, also what is no pod, what has no ports.

    An empty tuple is what is left where nothing could be read: it matches nothing.
    """

    peers: tuple[Peer, ...] | None = None
    ports: tuple[Port, ...] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One NetworkPolicy. `ingress`, `egress`: None where the direction is not in its policyTypes, so not restricted.

    `audit`: what it would drop is told and passes. `flaws`: what of it was not understood, in words.
    """

    namespace: str
    name: str
    pods: Selector = Selector()
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    audit: bool = False
    flaws: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """Those of one direction."""
        return self.ingress if direction == "ingress" else self.egress


@dataclass(frozen=True, slots=True, order=True)
class NamedPort:
    """A port to which a container gives a name."""

    name: str
    protocol: int
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod. `addresses` are those of its own network namespace: none as long as it has none, or with the node's.

    A pod that has `finished` (phase Succeeded or Failed) has none either: they may be another pod's already.
    `announced`: its node's agent told of the addresses, by an annotation, and its status does not yet. An address that
    two claim is that one's whose status has it, then that one's which was `created` (as the API writes times) later.
    `flaws`: what of its addresses and ports was not understood, in words.
    """

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    addresses: tuple[Address, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    node: str = ""
    created: str = ""
    host_network: bool = False
    finished: bool = False
    announced: bool = False
    flaws: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace. `labels` include `kubernetes.io/metadata.name`. `audit`: all its policies are in audit."""

    name: str
    labels: Mapping[str, str]
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """All objects, by their keys: what the naive engine judges by."""

    pods: Mapping[str, Pod]
    namespaces: Mapping[str, Namespace]
    policies: Mapping[str, Policy]


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from before, by key (NAMESPACE/NAME; NAME of a namespace); None is gone."""

    pods: Mapping[str, Pod | None]
    namespaces: Mapping[str, Namespace | None]
    policies: Mapping[str, Policy | None]


@dataclass(frozen=True, slots=True)
class Flow:
    """The first packet of a connection, as the forward hook sees it: after DNAT, before any masquerading.

    `port` is the destination's, 0 for a protocol without ports.
    """

    source: Address
    destination: Address
    protocol: int
    port: int = 0
