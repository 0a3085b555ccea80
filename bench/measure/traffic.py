"""What pods get between two nodes: pairs of pods in turn, so that what the machine does meanwhile hits all alike.

A side is two pods. Each round measures every side once, in another order each time; figures are medians over the rounds
with the middle half of them, and a side's ratio to another is the median of what each round says. One lab differs from
the next by a hundredth, for reasons of memory: rounds are to be of several.
"""

import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import median, quantiles

from netns.nat_lab import Place

Side = tuple[Place, Place]
_SECONDS, _TRIPS = 0.25, 500
_TCP, _UDP = 5201, 5202


@dataclass(frozen=True)
class Samples:
    """Of one side, a round each: Gbit/s of one TCP connection, microseconds of a datagram there and back."""

    speed: list[float]
    trip: list[float]

    def extend(self, other: "Samples") -> None:
        """Those of another lab are added."""
        self.speed.extend(other.speed)
        self.trip.extend(other.trip)

    def line(self) -> str:
        """`20.11 Gbit/s (19.40-20.92), 8.83 us (8.77-8.95)`."""
        return f"{_spread(self.speed)} Gbit/s, {_spread(self.trip)} us"

    def beside(self, other: "Samples") -> tuple[float, float]:
        """How this side is to the other in throughput and in round trips: 1 is alike, more is better."""
        return (
            median([ours / theirs for ours, theirs in zip(self.speed, other.speed, strict=True)]),
            median([theirs / ours for ours, theirs in zip(self.trip, other.trip, strict=True)]),
        )


def in_turn(sides: Mapping[str, Side], rounds: int) -> dict[str, Samples]:
    """{name: samples} after that many rounds."""
    found = {name: Samples([], []) for name in sides}
    order = list(sides)
    shuffled = random.Random(1)  # noqa: S311  # an order, no secret
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            found[name].speed.append(_throughput(*sides[name]))
            found[name].trip.append(_round_trip(*sides[name]))
    return found


def _spread(samples: list[float]) -> str:
    low, middle, high = quantiles(samples, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _throughput(client: Place, server: Place) -> float:
    with server.listen(4, "tcp", _TCP) as listening, client.open(4, "tcp") as asking:
        asking.connect((str(server.ip4), _TCP))
        accepted, _ = listening.accept()
        over = threading.Event()

        def send() -> None:
            data = memoryview(bytes(1 << 18))
            with suppress(OSError):
                while not over.is_set():
                    asking.send(data)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        with accepted:
            room = bytearray(1 << 18)
            received, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < _SECONDS:
                received += accepted.recv_into(room)
            over.set()
        sender.join()
    return received * 8 / took / 1e9


def _round_trip(client: Place, server: Place) -> float:
    found = []
    with server.listen(4, "udp", _UDP) as answering, client.open(4, "udp") as asking:
        asking.connect((str(server.ip4), _UDP))
        for _ in range(_TRIPS):
            began = time.perf_counter()
            asking.send(b"x")
            data, peer = answering.recvfrom(10)
            answering.sendto(data, peer)
            asking.recv(10)
            found.append((time.perf_counter() - began) * 1e6)
    return median(found)
