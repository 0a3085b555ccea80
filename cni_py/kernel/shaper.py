"""Bandwidth limits by traffic control: a token bucket on the veth, an ifb for what the container sends.

Written with pyroute2, since only attachments with a limit come here, but for the bucket, whose 64-bit rate and burst in
bytes it does not know. The figures are the reference plugin's (25 ms of latency), so `tc` shows the same as behind it.
Numbers: linux/rtnetlink.h, pkt_sched.h.
"""

import math
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cni_py.kernel.errnos import translate
from cni_py.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkSocket,
    attr,
    message,
    nested,
)
from cni_py.kernel.netlink import NetlinkError as RefusedError
from cni_py.model.net import Shaper
from cni_py.model.ops import AddShaper
from cni_py.model.words import describe

_LATENCY_S = 0.025
_INGRESS = 0xFFFF0000
_ETH_P_ALL = 0x0003
_MODULES = "is sch_tbf, sch_ingress, cls_u32 and act_mirred there?"
_MAX_U32 = (1 << 32) - 1

_RTM_NEWQDISC, _TC_H_ROOT, _HANDLE = 36, 0xFFFFFFFF, 0x10000
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_LINKLAYER_ETHERNET = 1  # the kernel knows the time that a frame takes by itself, and needs no table of it
_TICK_NS = 64
_TCMSG = struct.Struct("=BxHiIII")  # family, index, handle, parent, info
_RATESPEC = struct.Struct("=BBHhHI")  # cell log, link layer, overhead, cell align, mpu, bytes a second
_LIMITS = struct.Struct("=III")  # limit, buffer in ticks, mtu


class TcShapers:
    """Shapers in the namespace that the thread is in."""

    def add(self, shaper: Shaper) -> None:
        """The link of `shaper` is limited; an ifb also gets what comes in from the link that it mirrors."""
        with _route(AddShaper(shaper)) as route:
            index = socket.if_nametoindex(shaper.link)
            _send(AddShaper(shaper), new_tbf(index, shaper))
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
    rate, burst = shaper.rate // 8, min(shaper.burst // 8, _MAX_U32)
    return {"rate": rate, "burst": burst, "limit": min(math.floor(rate * _LATENCY_S) + burst, _MAX_U32)}


def new_tbf(index: int, shaper: Shaper) -> bytes:
    """The message that makes a token bucket the root of a link.

    The kernel goes by the burst in bytes (since 3.14), and so takes one of minutes: containerd's for "none given" is
    2^32-1 bits. As a time in ticks, the older way, that does not fit into 32 bits.
    """
    figures = tbf(shaper)
    rate, burst = figures["rate"], figures["burst"]
    ticks = min(burst * 1_000_000_000 // max(rate, 1) // _TICK_NS, _MAX_U32)
    spec = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _MAX_U32))
    parameters = spec + bytes(_RATESPEC.size) + _LIMITS.pack(figures["limit"], ticks, 0)
    options = [attr(_TCA_TBF_PARMS, parameters), attr(_TCA_TBF_BURST, struct.pack("=I", burst))]
    if rate > _MAX_U32:
        options.append(attr(_TCA_TBF_RATE64, struct.pack("=Q", rate)))
    head = _TCMSG.pack(0, 0, index, _HANDLE, _TC_H_ROOT, 0)
    body = head + attr(_TCA_KIND, b"tbf\0") + nested(_TCA_OPTIONS, *options)
    return message(_RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def _send(op: AddShaper, one: bytes) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            netlink.send_batch([one])
        except RefusedError as error:
            raise translate(describe(op), error.errno, _MODULES) from None


@contextmanager
def _route(op: AddShaper) -> Iterator[IPRoute]:
    """A pyroute2 handle whose refusals become ours."""
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise translate(describe(op), error.code, _MODULES) from None
    except OSError as error:
        raise translate(describe(op), error.errno or 5) from None
