"""What a node knows of itself before it joins others."""

import errno
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from netns.nat_lab import sysctl
from netns.overlay_lab import lab, member, network

from cni_py.kernel import netns
from cni_py.kernel.netlink import NetlinkError, NetlinkSocket
from cni_py.kernel.overlay_facts import possible_backends
from cni_py.model.net import NodeState

pytestmark = pytest.mark.sudo


def test_this_kernel_can_do_all(tmp_path: Path) -> None:
    """Found by trying, of which the node sees nothing."""
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        with netns.entered(one.place.fd):
            assert possible_backends() == {"vxlan", "gpe", "host-gw", "direct", "l2", "none"}
        assert one.read(NodeState()) == NodeState()


def test_a_kernel_without_lightweight_tunnels(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses the route, so gpe is not offered; VXLAN is."""
    send = NetlinkSocket.send_batch

    def refuse_routes(self: NetlinkSocket, messages: Sequence[bytes]) -> None:
        send(self, [one for one in messages if one[4] != 24])
        for index, one in enumerate(messages):
            if one[4] == 24:
                raise NetlinkError(index, errno.EOPNOTSUPP)

    monkeypatch.setattr(NetlinkSocket, "send_batch", refuse_routes)
    assert possible_backends() == {"vxlan", "l2", "host-gw", "direct", "none"}


def test_what_is_on_the_link(tmp_path: Path) -> None:
    """Networks of the link's own routes, but for what a longer route takes elsewhere."""
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        one.ip("route add 192.0.2.64/27 via 192.0.2.9")
        underlay = one.facts().underlay
        assert underlay.mtu == 1500
        assert set(underlay.prefixes) == {ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")}
        assert underlay.on_link(ip_address("192.0.2.2"))
        assert not underlay.on_link(ip_address("192.0.2.66"))
        assert not underlay.on_link(ip_address("198.51.100.3"))
        assert underlay.on_link(ip_address("2001:db8::2"))


def test_a_link_that_is_down_is_no_underlay(tmp_path: Path) -> None:
    """Nor is one that is not there."""
    with lab(tmp_path, member(1)) as made:
        one = made.members[0]
        assert one.kernel.underlay("eth7") is None
        one.ip("link set eth0 down")
        assert one.kernel.underlay("eth0") is None


@pytest.mark.parametrize("backend", ["vxlan", "gpe", "host-gw", "direct", "l2"])
def test_where_ipv6_is_turned_off_no_change_is_refused(backend: str, tmp_path: Path) -> None:
    """Nothing of it is asked for, and a second pass has nothing to do."""
    with lab(tmp_path, member(1, underlay="4"), member(2, underlay="4")) as made:
        one = made.members[0]
        with netns.entered(one.place.fd):
            sysctl("ipv6/conf/all/disable_ipv6", "1")
        of = network(backend)  # type: ignore[arg-type]
        assert not one.facts().ipv6
        assert one.passed(made.nodes, of) != ()
        assert one.passed(made.nodes, of) == ()
