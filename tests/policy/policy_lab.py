"""A node with nine pods on routed links, and what of all that they send each other arrives: real packets of a matrix.

The node is the test's own namespace. Pod k has 10.0.0.k and fd00::k, k from 1 to 9.
"""

import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from netns.nat_lab import ip, sysctl

from cni_py.kernel import netns
from cni_py.model.policy import ICMP, ICMPV6, SCTP, TCP, UDP, Address, Flow

NUMBERS = range(1, 10)
PORTS = (79, 80, 443)
PATIENCE_S = 5.0
ABSENT_S = 0.05
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_CRC32C = 0x82F63B78


def address(number: int, version: int) -> Address:
    """The address of a pod."""
    return ip_address(f"10.0.0.{number}" if version == 4 else f"fd00::{number}")


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ _CRC32C & -(crc & 1)
    return crc ^ 0xFFFFFFFF


def sctp_init(source_port: int, port: int) -> bytes:
    """A packet that begins an association."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x01020304, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source_port, port, 0)
    return struct.pack("!HHI", source_port, port, 0)[:8] + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


@dataclass
class Pod:
    """A pod's namespace and its servers."""

    number: int
    fd: int
    listeners: dict[tuple[int, int], socket.socket] = field(default_factory=dict)  # by version and port
    receivers: dict[tuple[int, int], socket.socket] = field(default_factory=dict)
    raw: dict[tuple[int, int], socket.socket] = field(default_factory=dict)  # by version and protocol

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket there that never waits."""
        with netns.entered(self.fd):
            made = socket.socket(family, kind, protocol)
        made.setblocking(False)  # noqa: FBT003  # the standard library's
        return made

    def serve(self) -> None:
        """All its ports are open, and what comes raw is heard."""
        for version, family in _FAMILY.items():
            own = str(address(self.number, version))
            for port in PORTS:
                for kind, servers in ((socket.SOCK_STREAM, self.listeners), (socket.SOCK_DGRAM, self.receivers)):
                    made = self.socket(family, kind)
                    made.bind((own, port))
                    servers[version, port] = made
                self.listeners[version, port].listen(512)
            for protocol in (ICMP if version == 4 else ICMPV6, SCTP):
                self.raw[version, protocol] = self.socket(family, socket.SOCK_RAW, protocol)

    def close(self) -> None:
        """Nobody listens any more."""
        for servers in (self.listeners, self.receivers, self.raw):
            for one in servers.values():
                one.close()


class Lab:
    """The pods. A matrix is of all flows between them of these `versions`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._round = 0
        sysctl("ipv4/ip_forward", "1")
        sysctl("ipv6/conf/all/forwarding", "1")
        sysctl("ipv6/conf/default/accept_dad", "0")
        self.pods = {number: self._pod(number) for number in NUMBERS}

    def _pod(self, number: int) -> Pod:
        name = f"pod{number}"
        ip(f"netns add {name}")
        fd = netns.open_path(f"/run/netns/{name}")
        self._stack.callback(os.close, fd)
        batch = f"""link add v{number} type veth peer name eth0 netns {name}
addr add 169.254.1.1/32 dev v{number}
addr add fe80::1/64 dev v{number} nodad
link set v{number} up
route add 10.0.0.{number}/32 dev v{number}
route add fd00::{number}/128 dev v{number}
"""
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        batch = f"""link set lo up
link set eth0 up
addr add 10.0.0.{number}/32 dev eth0
addr add fd00::{number}/128 dev eth0 nodad
route add 169.254.1.1/32 dev eth0
route add default via 169.254.1.1 dev eth0
route add default via fe80::1 dev eth0
"""
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=batch, text=True, check=True)
        pod = Pod(number, fd)
        self._stack.callback(pod.close)
        pod.serve()
        return pod

    def link_local(self, number: int) -> tuple[str, int, int, int]:
        """A pod's own link-local address, which can be bound, as a socket has it."""
        with netns.entered(self.pods[number].fd):
            index = socket.if_nametoindex("eth0")
            while True:  # until the kernel knows that nobody else has it
                lines = (line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines())
                found = [one[0] for one in lines if one[0].startswith("fe80") and one[4] == "80" and one[5] == "eth0"]
                if found:
                    return str(ip_address(bytes.fromhex(found[0]))), 0, 0, index
                os.sched_yield()

    def flows(self) -> list[Flow]:
        """All of a matrix; nobody talks to itself, as that packet never leaves the pod."""
        found = []
        for version in _FAMILY:
            kinds = [(protocol, port) for protocol in (TCP, UDP, SCTP) for port in PORTS]
            for one in NUMBERS:
                for other in NUMBERS:
                    if one != other:
                        ends = address(one, version), address(other, version)
                        found += [Flow(*ends, *kind) for kind in (*kinds, (ICMP if version == 4 else ICMPV6, 0))]
        return found

    def matrix(self, expected: Collection[Flow]) -> set[Flow]:
        """The flows of which the first packet arrives. Waits for the expected ones, and a moment for others."""
        self._round += 1
        with ExitStack() as stack:
            epoll = stack.enter_context(select.epoll())
            connecting: dict[int, tuple[socket.socket, Flow]] = {}
            for flow in self.flows():
                self._send(flow, epoll, connecting, stack)
            return self._arrived(expected, epoll, connecting)

    def _send(
        self, flow: Flow, epoll: select.epoll, connecting: dict[int, tuple[socket.socket, Flow]], stack: ExitStack
    ) -> None:
        source = self.pods[int(flow.source) & 0xFF]
        family = _FAMILY[flow.source.version]
        to = (str(flow.destination), flow.port)
        note = struct.pack("!IBBB", self._round, source.number, int(flow.destination) & 0xFF, flow.protocol)
        match flow.protocol:
            case 6:
                made = stack.enter_context(source.socket(family, socket.SOCK_STREAM))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                made.connect_ex(to)
                connecting[made.fileno()] = made, flow
                epoll.register(made, select.EPOLLOUT)
            case 17:
                stack.enter_context(source.socket(family, socket.SOCK_DGRAM)).sendto(note, to)
            case 132:
                packet = sctp_init(20000 + self._round, flow.port)
                source.raw[flow.source.version, SCTP].sendto(packet, (to[0], 0))
            case _:
                kind = 8 if flow.protocol == ICMP else 128
                source.raw[flow.source.version, flow.protocol].sendto(self._echo(kind, note), (to[0], 0))

    def _echo(self, kind: int, note: bytes) -> bytes:
        """An echo request; of IPv6 the kernel makes the checksum."""
        body = struct.pack("!HH", self._round & 0xFFFF, note[4] << 8 | note[5]) + note + b"\0"
        words = struct.unpack(f"!{len(body) // 2}H", body)
        total = (kind << 8) + sum(words)
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return struct.pack("!BBH", kind, 0, ~total & 0xFFFF) + body

    def _arrived(
        self, expected: Collection[Flow], epoll: select.epoll, connecting: Mapping[int, tuple[socket.socket, Flow]]
    ) -> set[Flow]:
        arrived = set[Flow]()
        patience, absent = time.monotonic() + PATIENCE_S, 0.0
        while True:
            for fd, _ in epoll.poll(0.005):
                made, flow = connecting[fd]
                epoll.unregister(fd)
                if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    arrived.add(flow)
            for pod in self.pods.values():
                arrived |= set(self._heard(pod))
            now = time.monotonic()
            if not absent and (now > patience or arrived.issuperset(expected)):
                absent = now + ABSENT_S
            if absent and now > absent:
                return arrived

    def _heard(self, pod: Pod) -> Iterator[Flow]:
        for (version, port), server in pod.receivers.items():
            for data, sender in _datagrams(server):
                if struct.unpack_from("!I", data)[0] == self._round:
                    yield Flow(ip_address(sender), address(pod.number, version), UDP, port)
        for (version, protocol), raw in pod.raw.items():
            for data, sender in _datagrams(raw):
                body = data[(data[0] & 15) * 4 :] if version == 4 else data
                ends = ip_address(sender), address(pod.number, version)
                if protocol == SCTP and struct.unpack_from("!H", body)[0] == 20000 + self._round & 0xFFFF:
                    yield Flow(*ends, SCTP, struct.unpack_from("!H", body, 2)[0])
                elif protocol != SCTP and body[0] in (8, 128) and body[4:6] == struct.pack("!H", self._round & 0xFFFF):
                    yield Flow(*ends, protocol, 0)
        for listener in pod.listeners.values():
            for accepted in _accepted(listener):
                accepted.close()


def _datagrams(server: socket.socket) -> Iterator[tuple[bytes, str]]:
    while True:
        try:
            data, sender = server.recvfrom(2048)
        except (BlockingIOError, ConnectionError):
            return
        yield data, sender[0].partition("%")[0]


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    while True:
        try:
            yield listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            return


@contextmanager
def lab() -> Iterator[Lab]:
    """The node and its pods; all goes with the test's namespaces."""
    with ExitStack() as stack:
        yield Lab(stack)
