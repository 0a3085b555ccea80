"""Bandwidth limits by traffic control, in the namespace that the thread is in; `kernel.tc` makes the messages."""

import socket

from cni_py.kernel import tc
from cni_py.kernel.errnos import translate
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from cni_py.kernel.tc import tbf
from cni_py.model.net import Shaper
from cni_py.model.ops import AddShaper
from cni_py.model.words import describe

__all__ = ["TcShapers", "tbf"]

_MODULES = "are sch_tbf, sch_ingress, cls_u32 and act_mirred there?"


class TcShapers:
    """Shapers in the namespace that the thread is in."""

    def add(self, shaper: Shaper) -> None:
        """The link of `shaper` is limited; an ifb also gets what comes in from the link that it mirrors.

        Raises KernelError.
        """
        what = describe(AddShaper(shaper))
        try:
            index = socket.if_nametoindex(shaper.link)
            source = socket.if_nametoindex(shaper.mirror_from) if shaper.mirror_from else 0
            with NetlinkSocket(NETLINK_ROUTE) as netlink:
                netlink.send_batch(tc.shape(shaper, index, source))
        except NetlinkError as error:
            hint = "; ".join(filter(None, (error.text, _MODULES)))
            raise translate(what, error.errno, hint) from None
        except OSError as error:
            raise translate(what, error.errno or 5) from None
