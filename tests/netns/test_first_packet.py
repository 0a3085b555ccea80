"""A pod's first packet of IPv4, sent the moment that ADD has answered, is not late: its question is not lost."""

import os
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from agent.live import SHIM, running
from netns.nat_lab import Place
from netns.plugin import Caller, routed
from netns.plugin import netns as make_netns

from cni_py.kernel import netns

pytestmark = pytest.mark.sudo
STARTS = 30
LATE_S = 0.5  # a question that was lost is repeated after a second


def test_first_packet_is_not_late(tmp_path: Path) -> None:
    """The kernel activates a veth some time after its other end is up, and what it is given before is lost."""
    for name in ("cni-py", "cni-py-ipam"):
        (tmp_path / name).symlink_to(SHIM)
    make_netns("first", "second")
    callers = [Caller(tmp_path, name, f"/run/netns/{name}") for name in ("first", "second")]
    late = 0
    with running(tmp_path, "--listen", ""):
        server = _place(callers[0])
        for _ in range(STARTS):
            client = _place(callers[1])
            with server.listen(4, "udp", 80) as listening, client.open(4, "udp") as sending:
                began = time.monotonic()
                sending.sendto(b"x", (server.address(4), 80))
                assert listening.recv(10) == b"x"
                late += time.monotonic() - began > LATE_S
            os.close(client.fd)
            assert callers[1].process("DEL", routed())[0] == 0
        os.close(server.fd)
    assert late == 0


def _place(caller: Caller) -> Place:
    """The container, attached."""
    code, result = caller.process("ADD", routed())
    assert code == 0, result
    four, six = (one["address"].split("/")[0] for one in result["ips"])
    return Place(caller.container, netns.open_path(caller.netns), IPv4Address(four), IPv6Address(six), "eth0")
