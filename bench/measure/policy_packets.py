"""What policies cost a packet: nodes in namespaces, each with two pods on veths, whose packets take its forward hook.

First packets are written by a raw socket, each of another connection; the other pod has no such address and drops them
at once. Nodes are measured in turn, in another order in each round, so that what the machine does meanwhile hits all.
"""

import json
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median

from bench.measure import node
from cni_py.kernel import conntrack, nft
from cni_py.kernel.netlink import NLM_F_ACK
from cni_py.kernel.netns import entered, open_path

_PACKETS = 4000
_DELETE = 2  # uapi/linux/netfilter/nfnetlink_conntrack.h
_PORT = 53


class Road:
    """A node and two of its pods. With `answers` the second one has its address and a server, else it is deaf."""

    def __init__(self, name: str, source: str, destination: str, *, answers: bool = False) -> None:
        self._ends = source, destination
        self._names = f"{name}-a", f"{name}-b"
        node.make([name, *self._names])
        self.fd, *pods = (open_path(f"/run/netns/{one}") for one in (name, *self._names))
        address = f"addr add {destination}/32 dev eth0" if answers else ""
        _ip(
            name,
            "link set lo up",
            *(f"link add v{one} type veth peer name eth0 netns {self._names[one]}" for one in (0, 1)),
            *(f"addr add 169.254.1.1/32 dev v{one}" for one in (0, 1)),
            *(f"link set v{one} up" for one in (0, 1)),
            *(f"route add {end}/32 dev v{one}" for one, end in enumerate(self._ends)),
        )
        for one, own in ((0, f"addr add {source}/32 dev eth0"), (1, address)):
            _ip(self._names[one], own, "link set eth0 up", "route add 169.254.1.1/32 dev eth0")
            _ip(self._names[one], "route add default via 169.254.1.1 dev eth0")
            _ip(name, f"neigh replace {self._ends[one]} lladdr {_mac(self._names[one])} dev v{one} nud permanent")
        with entered(self.fd):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            self._netlink = nft.connect()
        with entered(pods[0]):
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with entered(pods[1]):
            self._answering = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ends = b"".join(map(socket.inet_aton, self._ends))
        head = struct.pack("!BBHHHBBH", 0x45, 0, 32, 0, 0, 64, socket.IPPROTO_UDP, 0) + ends
        ports = range(20_000, 20_000 + _PACKETS)
        self._packets = [head + struct.pack("!HHHHI", one, _PORT, 12, 0, one) for one in ports]

    def load(self, text: str) -> float:
        """Seconds of `nft -f` with that text on the node."""
        with entered(self.fd):
            began = time.perf_counter()
            subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)
            return time.perf_counter() - began

    def first_packets(self) -> float:
        """Microseconds of the first packet of a connection, of many of which all arrive."""
        self._netlink.request(conntrack.request(_DELETE, NLM_F_ACK, 4, b""))
        before, to, send = self._arrived(), (self._ends[1], 0), self._raw.sendto
        began = time.perf_counter()
        for packet in self._packets:
            send(packet, to)
        took = time.perf_counter() - began
        arrived = self._arrived() - before
        if arrived < _PACKETS:
            raise ConnectionError(f"of {_PACKETS} packets {arrived} arrived: the benchmark's policies drop them")
        return took / _PACKETS * 1e6

    def connect(self) -> None:
        """A connection that the node takes for established."""
        self._answering.bind((self._ends[1], _PORT))
        self._asking.connect((self._ends[1], _PORT))
        self._asking.settimeout(5)
        self._asking.send(b"x")
        self._answering.sendto(*self._answering.recvfrom(9))
        self._asking.recv(9)

    def later_packets(self) -> float:
        """Microseconds of a packet of that connection."""
        send = self._asking.send
        began = time.perf_counter()
        for _ in range(_PACKETS):
            send(b"x")
        took = time.perf_counter() - began
        self._answering.setblocking(False)  # noqa: FBT003  # the standard library's
        with suppress(BlockingIOError):
            while True:
                self._answering.recv(9)
        return took / _PACKETS * 1e6

    def _arrived(self) -> int:
        shown = subprocess.run(
            ["ip", "-n", self._names[1], "-j", "-s", "link", "show", "eth0"], capture_output=True, check=True
        )
        return int(json.loads(shown.stdout)[0]["stats64"]["rx"]["packets"])


def in_turn(roads: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """{name: what was measured, a round each}."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[str, list[float]] = {name: [] for name in roads}
    order, chance = list(roads), random.Random(1)  # noqa: S311  # an order, no secret
    for measured in range(-2, rounds):
        chance.shuffle(order)
        for name in order:
            took = roads[name]()
            if measured >= 0:  # the first are to warm up
                found[name].append(took)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return found


def beside(samples: Mapping[str, list[float]], name: str, other: str) -> tuple[float, float]:
    """How many times longer `name` takes than `other`, and how many microseconds: medians over the rounds."""
    pairs = list(zip(samples[name], samples[other], strict=True))
    return median([one / two for one, two in pairs]), median([one - two for one, two in pairs])


def _mac(name: str) -> str:
    shown = subprocess.run(["ip", "-n", name, "-j", "link", "show", "eth0"], capture_output=True, check=True)
    return str(json.loads(shown.stdout)[0]["address"])


def _ip(name: str, *commands: str) -> None:
    batch = "".join(f"{one}\n" for one in commands if one)
    subprocess.run(["ip", "-n", name, "-batch", "-"], input=batch, text=True, check=True)
