"""Bandwidth limits by traffic control: a token bucket on the veth, an ifb for what the container sends.

Written with pyroute2, since only attachments with a limit come here; the figures are the reference plugin's (25 ms of
latency, burst in bytes), so `tc` shows the same as behind it.
"""

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cni_py.kernel.errnos import translate
from cni_py.model.net import Shaper
from cni_py.model.ops import AddShaper
from cni_py.model.words import describe

_LATENCY_S = 0.025
# A bucket is told as the time that filling it takes, in 32 bits of 64 ns. containerd's burst for "none given", 2^32-1
# bits, takes 537 s at 8 Mbit/s; the reference lets that wrap around.
_MAX_FILLING_S = 274
_INGRESS = 0xFFFF0000
_ETH_P_ALL = 0x0003
# The reference's own bound for a rate that a 32-bit field of old kernels holds; above it the kernel takes 64 bits.
_MAX_LIMIT = (1 << 32) - 1


class TcShapers:
    """Shapers in the namespace that the thread is in."""

    def add(self, shaper: Shaper) -> None:
        """The link of `shaper` is limited; an ifb also gets what comes in from the link that it mirrors."""
        with _route(AddShaper(shaper)) as route:
            index = socket.if_nametoindex(shaper.link)
            route.tc("add", "tbf", index, 0x10000, **tbf(shaper))
            if shaper.mirror_from:
                source = socket.if_nametoindex(shaper.mirror_from)
                route.tc("add", "ingress", source, _INGRESS)
                route.tc(
                    "add-filter",
                    "u32",
                    source,
                    parent=_INGRESS,
                    prio=1,
                    protocol=_ETH_P_ALL,
                    target=0x10001,
                    keys=["0x0/0x0+0"],
                    action={"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": index},
                )


def tbf(shaper: Shaper) -> dict[str, int]:
    """The token bucket's parameters in bytes: `rate` a second, `burst` and `limit`, what may wait (25 ms of it)."""
    rate = shaper.rate // 8
    burst = min(shaper.burst // 8, rate * _MAX_FILLING_S)
    limit = min(math.floor(rate * _LATENCY_S) + burst, _MAX_LIMIT)
    return {"rate": rate, "burst": burst, "limit": limit}


@contextmanager
def _route(op: AddShaper) -> Iterator[IPRoute]:
    """A pyroute2 handle whose refusals become ours."""
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise translate(describe(op), error.code, "is sch_tbf, sch_ingress, cls_u32 and act_mirred there?") from None
    except OSError as error:
        raise translate(describe(op), error.errno or 5) from None
