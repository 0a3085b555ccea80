"""Containers that the plugin attached, as places with sockets; the node is the test's own namespace."""

import os
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from typing import Any

from netns.nat_lab import NODE4, NODE6, OUTSIDE4, OUTSIDE6, Place, ip, seen_from, sysctl
from netns.plugin import Caller, install
from netns.plugin import netns as make_netns

from cni_py.kernel import netns
from cni_py.model.persona import Persona

UNSET4, UNSET6 = IPv4Address("0.0.0.0"), IPv6Address("::")
ADDRESSES = {"node": {4: NODE4, 6: NODE6}, "outside": {4: OUTSIDE4, 6: OUTSIDE6}}


class Node:
    """The node and what is attached to it. `path`: CNI_PATH with our program under all its names."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self._stack = stack
        self.place = self.place_of("node", netns.open_own(), (NODE4, NODE6))
        self.results: dict[str, Any] = {}
        self.callers: dict[str, Caller] = {}
        self.places: dict[str, Place] = {}

    def place_of(self, name: str, fd: int, addresses: tuple[str, ...]) -> Place:
        """The namespace `fd`, which is ours to close, as a place with these addresses (`ip/length`)."""
        self._stack.callback(os.close, fd)
        parsed = [ip_interface(address).ip for address in addresses]
        ip4 = next((one for one in parsed if isinstance(one, IPv4Address)), UNSET4)
        ip6 = next((one for one in parsed if isinstance(one, IPv6Address)), UNSET6)
        return Place(name, fd, ip4, ip6, "eth0")

    def caller(self, name: str, persona: Persona = Persona.CNI_PY, args: str = "") -> Caller:
        """The environment of one container; its namespace exists."""
        if name not in self.callers:
            make_netns(name)
            self.callers[name] = Caller(self.path, name, f"/run/netns/{name}", args=args, persona=persona)
        return self.callers[name]

    def attach(self, name: str, config: Mapping[str, Any], persona: Persona = Persona.CNI_PY, args: str = "") -> Place:
        """A new container in that network."""
        result = self.results[name] = self.caller(name, persona, args).add(config)
        fd = netns.open_path(f"/run/netns/{name}")
        self.places[name] = self.place_of(name, fd, tuple(entry["address"] for entry in result.get("ips", ())))
        return self.places[name]

    def result(self, name: str) -> Any:
        """What ADD of that container printed."""
        return self.results[name]

    def outside(self) -> Place:
        """A neighbour of the node, by eth0; it knows no route to the containers."""
        make_netns("outside")
        fd = netns.open_path("/run/netns/outside")
        sysctl("ipv6/conf/default/accept_dad", "0")
        with netns.entered(fd):
            sysctl("ipv6/conf/default/accept_dad", "0")
        ip("link add eth0 type veth peer name eth0 netns outside")
        for inside, mine in (("", (NODE4, NODE6)), ("-n outside", (OUTSIDE4, OUTSIDE6))):
            ip(inside, "link set eth0 up")
            ip(inside, f"addr add {mine[0]}/24 dev eth0")
            ip(inside, f"addr add {mine[1]}/64 dev eth0 nodad")
        return self.place_of("outside", fd, (OUTSIDE4, OUTSIDE6))


@contextmanager
def empty_node(directory: Path) -> Iterator[Node]:
    """A node with nothing attached; all that is made on it goes with the test's namespaces."""
    with ExitStack() as stack:
        yield Node(install(directory / "bin"), stack)


def talk(client: Place, to: tuple[str, int], server: Place, port: int = 80, protocol: str = "tcp") -> str:
    """The client's address as a server on `port` of `server` sees it when the client talks to `to`."""
    version = 6 if ":" in to[0] else 4
    with server.listen(version, protocol, port) as listening, client.open(version, protocol) as asking:
        return seen_from(asking, to, listening)


def throughput_bits(sender: Place, receiver: Place, seconds: float = 1.0) -> float:
    """Bits a second that one TCP connection carries from one place to the other."""
    with receiver.listen(4, "tcp", 9000) as listening, sender.open(4, "tcp") as sending:
        sending.connect((str(receiver.ip4), 9000))
        accepted, _ = listening.accept()
        with accepted:
            sending.settimeout(0)
            accepted.settimeout(0)
            started = time.monotonic()
            received = 0
            while (passed := time.monotonic() - started) < seconds:
                readable, writable, _ = select.select([accepted], [sending], [], seconds)
                if writable:
                    sending.send(bytes(1 << 16))
                if readable:
                    received += len(accepted.recv(1 << 18))
    return received * 8 / passed
