"""The addresses that are the node's own."""

import os
from ipaddress import IPv4Address, IPv6Address

from cni_py.kernel import rtnl
from cni_py.kernel.netlink import NetlinkError
from cni_py.kernel.node import open_route_socket
from cni_py.model.errors import KernelError


def local_addresses() -> frozenset[IPv4Address | IPv6Address]:
    """All of all links of the thread's network namespace. Raises KernelError."""
    with open_route_socket() as socket:
        try:
            answers = socket.request(rtnl.get_addresses(0))
        except NetlinkError as error:
            raise KernelError(f"reading the node's addresses: {os.strerror(error.errno)}", error.errno) from None
    packed = (rtnl.parse_address(one)[1] for one in answers)
    return frozenset(IPv4Address(one) if len(one) == 4 else IPv6Address(one) for one in packed)
