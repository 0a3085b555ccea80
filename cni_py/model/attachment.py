"""An attachment: one interface in one container, and all that ADD decided about it.

The record of it on disk is what DEL, CHECK and GC work from, so none of them needs the container's namespace, the
configuration of the day, or a guess.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from cni_py.model.net import Shaper, Sysctl
from cni_py.model.result import IPAddress, IPInterface, IPNetwork, Route

Mode = Literal["routed", "bridge", "chained"]
Protocol = Literal["tcp", "udp", "sctp"]


@dataclass(frozen=True, slots=True)
class Key:
    """What identifies an attachment (SPEC 1.1 section 2): network, container and interface name."""

    network: str
    container_id: str
    ifname: str

    def digest(self) -> str:
        """A hash of the key, the same on every call: names of devices and files are made of it."""
        return hashlib.sha256(f"{self.network}\0{self.container_id}\0{self.ifname}".encode()).hexdigest()

    def __str__(self) -> str:
        """The form in which people see it."""
        return f"{self.ifname} of container {self.container_id} in network {self.network}"


@dataclass(frozen=True, slots=True)
class PodAddress:
    """An address of the container's interface and the gateway of its network, if there is one."""

    address: IPInterface
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class PortMapping:
    """Packets to `host_port` of the node (of `host_ip` only, if given) go to the container's `container_port`."""

    host_port: int
    container_port: int
    protocol: Protocol = "tcp"
    host_ip: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class BridgePort:
    """The bridge that the host end is a port of, and how; `gateways` are addresses that the bridge itself has.

    `mac` is for a bridge that is made now: one that takes its MAC from its ports changes it as they come and go.
    """

    bridge: str
    mac: str = ""
    gateways: tuple[IPInterface, ...] = ()
    force_address: bool = False
    hairpin: bool = False
    promisc: bool = False
    isolated: bool = False
    vlan: int = 0
    trunk: tuple[int, ...] = ()
    keep_default_vlan: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """`host` identifies the network namespace that was the host of the ADD, among those of one boot; "" if not known.

    `netns` is CNI_NETNS verbatim, `boot` the kernel's boot id, `created` seconds since the epoch (for people only).

    `host_ifname`, `host_mac`, `mac` and `mtu` describe the veth pair; "chained" attachments have none of their own.
    `masquerade` are the networks whose traffic to elsewhere leaves under the node's address. `config` is the
    configuration as JSON without its prevResult: GC releases the address with it.
    `sysctls` are those of the container that the configuration asks for. `pod` is the NAMESPACE/NAME in CNI_ARGS, "" if
    there is none.
    """

    key: Key
    plugin: str
    mode: Mode
    netns: str
    boot: str
    created: int
    config: str
    host_ifname: str
    host: str = ""
    host_mac: str = ""
    mac: str = ""
    mtu: int = 0
    addresses: tuple[PodAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    port: BridgePort | None = None
    dad: bool = False
    container_up: bool = True
    masquerade: tuple[IPNetwork, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    snat: bool = True
    masq_all: bool = False
    macspoofchk: bool = False
    antispoof: bool = False
    shapers: tuple[Shaper, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    pod: str = ""


HOST_PREFIX = "cpy"
IFB_PREFIX = "cpb"
STATE_DIR = "/var/lib/cni-py"


def host_ifname(key: Key) -> str:
    """The name of the host's end of the veth: the same on ADD and DEL, 15 bytes, 48 bits of hash."""
    return HOST_PREFIX + key.digest()[:12]


def ifb_name(key: Key) -> str:
    """The name of the ifb through which what the container sends is shaped."""
    return IFB_PREFIX + key.digest()[:12]


def macs(key: Key) -> tuple[str, str]:
    """MAC addresses for the host's and the container's end: unicast, locally administered, from the hash.

    Given at creation, since udev (MACAddressPolicy) rewrites the random ones that the kernel gives.
    """
    digest = bytes.fromhex(key.digest())
    return _mac(digest[8:13]), _mac(digest[16:21])


def _mac(tail: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in b"\x0a" + tail)
