"""What a node has to join others with: its underlay, and which backends its kernel can do, found by trying them."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

from cni_py.kernel import netns
from cni_py.kernel.overlay import OverlayKernel
from cni_py.kernel.sysctl import read_sysctl
from cni_py.model.errors import NetnsError
from cni_py.model.net import EVERYBODY, PROTOCOL_OVERLAY, Bridge, Encap, Fdb, Link, LinkRoute, Vxlan
from cni_py.model.node_network import SEGMENT
from cni_py.model.ops import AddLink, AddRoute, Op, SetFdb, SetLink
from cni_py.model.overlay import GPE, VXLAN4, BackendName, Facts, Underlay

_HERE, _THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
_VXLAN = AddLink(Link("host", VXLAN4, "vxlan", vxlan=Vxlan(4789, 1, _HERE)))
_SEGMENT: tuple[Op, ...] = (
    AddLink(Link("host", SEGMENT, "bridge", bridge=Bridge())),
    SetLink(replace(_VXLAN.link, master=SEGMENT, isolated=True), _VXLAN.link),
    SetFdb(Fdb("host", VXLAN4, EVERYBODY, _THERE)),
)
_GPE = AddLink(Link("host", GPE, "vxlan", vxlan=Vxlan(4790, gpe=True)))
_ROUTE = AddRoute(
    LinkRoute("host", GPE, ip_network("10.0.0.0/8"), encap=Encap(1, _HERE, _THERE), protocol=PROTOCOL_OVERLAY)
)


def facts(underlay: Underlay, backends: frozenset[BackendName]) -> Facts:
    """With whether the thread's namespace gives IPv6 to new links."""
    return Facts(underlay, backends, ipv6=read_sysctl("net/ipv6/conf/default/disable_ipv6") == "0")


def possible_backends() -> frozenset[BackendName]:
    """Tried in a namespace that is gone with the trial, so the node itself sees nothing of it.

    Raises NetnsError if no namespace can be made (CAP_SYS_ADMIN).
    """
    with _nowhere():
        kernel = OverlayKernel()
        try:
            refused: set[Op] = {op for op, _ in kernel.apply((_VXLAN, _GPE, _ROUTE, *_SEGMENT))}
        finally:
            kernel.close()
    found: set[BackendName] = {"host-gw", "direct", "none"}
    if _VXLAN not in refused:
        found.add("vxlan")
    if not refused & {_VXLAN, *_SEGMENT}:
        found.add("l2")
    if not refused & {_GPE, _ROUTE}:
        found.add("gpe")
    return frozenset(found)


@contextmanager
def _nowhere() -> Iterator[None]:
    """This thread is in a new network namespace inside the block."""
    own = netns.open_own()
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(netns.CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise NetnsError(
                f"cannot make a network namespace to try the backends in: {reason}",
                "CAP_SYS_ADMIN is needed: run as root",
            )
        try:
            yield
        finally:
            netns.setns(own, netns.CLONE_NEWNET)
    finally:
        os.close(own)
