"""Traffic control as rtnetlink messages, packed by hand: a limit is one message, one by way of an ifb three.

A token bucket is the root of the limited link. What a container sends arrives at the host's end of its veth, where no
queue is: an ingress filter hands every packet to an ifb, whose way out has the bucket. The figures are the reference
plugin's, so `tc` shows the same as behind it. `tests/unit/test_tc.py` compares with pyroute2's bytes where it has them.
Numbers: linux/rtnetlink.h, pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

import math
import socket
import struct

from cni_py.kernel.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, attr, message, nested
from cni_py.model.net import Shaper

RTM_NEWQDISC, RTM_NEWTFILTER = 36, 44
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT = 1, 5, 7
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2

_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1  # places where a qdisc can be
_BUCKET_HANDLE, _INGRESS_HANDLE, _CLASS = 0x1_0000, 0xFFFF_0000, 0x1_0001  # 1:, ffff:, 1:1
_ETH_P_ALL = 0x0003
_FIRST = 1  # the filter's priority
_STOLEN, _EGRESS_REDIRECT = 4, 1  # the packet goes its way out of the other link and is no more seen here
_TERMINAL = 1

_LATENCY_S = 0.025
_LINKLAYER_ETHERNET = 1  # the kernel knows the time that a frame takes by itself, and needs no table of it
_TICK_NS = 64
_MAX_U32 = (1 << 32) - 1
_MAKE = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL

_TCMSG = struct.Struct("=BxHiIII")  # family, padding, index, handle, parent, info
_RATESPEC = struct.Struct("=BBHhHI")  # cell log, link layer, overhead, cell align, mpu, bytes a second
_LIMITS = struct.Struct("=III")  # limit, buffer in ticks, mtu
_MIRRED = struct.Struct("=IIiiiiI")  # index, capabilities, verdict, two counts, what to do, index of the other link
_U32_SELECTOR = struct.Struct("=BBBxHHhhI")  # flags, shift, keys, mask, offset, and three of hashing
_U32_KEY = struct.Struct("=IIii")  # mask, value, offset, offset mask


def shape(shaper: Shaper, index: int, mirror_from: int = 0) -> list[bytes]:
    """The messages that limit the link of that index; of an ifb `mirror_from` is the index of the link that feeds it.

    They need nothing of each other's answers. The bucket is before the filter, so no packet gets past it.
    """
    bucket = new_tbf(shaper, index)
    return [bucket, new_ingress(mirror_from), new_redirect(mirror_from, index)] if mirror_from else [bucket]


def tbf(shaper: Shaper) -> dict[str, int]:
    """The token bucket's parameters in bytes: `rate` a second, `burst` and `limit`, what may wait (25 ms of it)."""
    rate, burst = shaper.rate // 8, min(shaper.burst // 8, _MAX_U32)
    return {"rate": rate, "burst": burst, "limit": min(math.floor(rate * _LATENCY_S) + burst, _MAX_U32)}


def new_tbf(shaper: Shaper, index: int) -> bytes:
    """A token bucket is the root of the link.

    The kernel goes by the burst in bytes (since 3.14), and so takes one of minutes: containerd's for "none given" is
    2^32-1 bits. As a time in ticks, the older way, that does not fit into 32 bits.
    """
    figures = tbf(shaper)
    rate, burst = figures["rate"], figures["burst"]
    ticks = min(burst * 1_000_000_000 // max(rate, 1) // _TICK_NS, _MAX_U32)
    spec = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _MAX_U32))
    parameters = spec + bytes(_RATESPEC.size) + _LIMITS.pack(figures["limit"], ticks, 0)
    options = [attr(TCA_TBF_PARMS, parameters), attr(TCA_TBF_BURST, struct.pack("=I", burst))]
    if rate > _MAX_U32:
        options.append(attr(TCA_TBF_RATE64, struct.pack("=Q", rate)))
    head = _TCMSG.pack(0, 0, index, _BUCKET_HANDLE, _ROOT, 0)
    return message(RTM_NEWQDISC, _MAKE, head + attr(TCA_KIND, b"tbf\0") + nested(TCA_OPTIONS, *options))


def new_ingress(index: int) -> bytes:
    """The link has a place where filters see what arrives."""
    head = _TCMSG.pack(0, 0, index, _INGRESS_HANDLE, _INGRESS, 0)
    return message(RTM_NEWQDISC, _MAKE, head + attr(TCA_KIND, b"ingress\0"))


def new_redirect(index: int, target: int) -> bytes:
    """Everything that arrives on the link of that index leaves by the link `target` instead.

    A u32 filter that compares nothing, as the reference has it.
    """
    redirect = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    mirred = attr(_TCA_ACT_KIND, b"mirred\0") + nested(_TCA_ACT_OPTIONS, attr(_TCA_MIRRED_PARMS, redirect))
    selector = _U32_SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _U32_KEY.pack(0, 0, 0, 0)
    options = nested(
        TCA_OPTIONS,
        nested(TCA_U32_ACT, nested(_FIRST, mirred)),
        attr(TCA_U32_CLASSID, struct.pack("=I", _CLASS)),
        attr(TCA_U32_SEL, selector),
    )
    info = _FIRST << 16 | socket.htons(_ETH_P_ALL)
    head = _TCMSG.pack(0, 0, index, 0, _INGRESS_HANDLE, info)
    return message(RTM_NEWTFILTER, _MAKE, head + attr(TCA_KIND, b"u32\0") + options)
