"""What ADD leaves behind, independent of the CNI version that carries it (SPEC 1.1 section 5 "Success")."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Interface:
    """One entry of `interfaces`. `sandbox` is CNI_NETNS verbatim for a container's interface, empty for the host's."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class IPConfig:
    """One entry of `ips`. `interface` is an index into `interfaces`; IPAM plugins leave it None."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of `routes`; without `gw` the gateway of the first IP of that family is meant."""

    dst: IPNetwork
    gw: IPAddress | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """The `dns` object; empty fields are left out."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """False if there is nothing in it."""
        return bool(self.nameservers or self.domain or self.search or self.options)


@dataclass(frozen=True, slots=True)
class Result:
    """What ADD leaves behind, independent of the CNI version that carries it."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)
