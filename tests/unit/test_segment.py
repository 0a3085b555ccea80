"""What an attachment and its lease have from a segment over all nodes: bridge, range, gateway."""

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from cni_py.cmd import ipam
from cni_py.cni.attach import Occasion, check_place, plan_attachment
from cni_py.cni.state import desired_state
from cni_py.model.errors import TryAgainError
from cni_py.model.net import Bridge
from cni_py.model.node_network import NodeNetwork, segment_gateway
from cni_py.model.persona import Persona
from cni_py.spec.netconf import parse_netconf
from cni_py.spec.request import Request, parse_request
from cni_py.spec.result import parse_result
from cni_py.store.node_file import NodeFile

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd44::/32"))
MAC = "0e:00:00:00:00:01"
IN_ONE = NodeNetwork(NETWORKS, (ip_network("10.244.1.0/24"), ip_network("fd44:0:1::/64")), 1430, MAC)
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "cni-py", "mode": "l2", "ipMasq": True, "ipam": {"type": "x"}}


def _request() -> Request:
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/x",
    }
    return parse_request(environ, lambda: json.dumps(CONFIG).encode())


@pytest.mark.parametrize(
    ("cidr", "gateway"),
    [
        ("10.244.1.0/24", "10.244.1.1/16"),
        ("10.244.0.0/16", "10.244.0.1/16"),
        ("fd44:0:1::/64", "fd44:0:1::1/32"),
        ("172.16.0.0/28", "172.16.0.1/28"),
        ("10.244.1.4/30", "10.244.1.5/16"),
        ("10.244.1.4/31", None),
        ("10.244.1.4/32", None),
    ],
)
def test_the_nodes_address_is_its_pods_gateway(cidr: str, gateway: str | None) -> None:
    """The first of its range but one, as long as the network."""
    found = segment_gateway(ip_network(cidr), NETWORKS)
    assert (str(found) if found is not None else None) == gateway


def test_ranges_of_a_segment() -> None:
    """Within the whole network, from after the gateway to the last that is nobody's broadcast address."""
    found = [ipam._range(one, IN_ONE) for one in IN_ONE.ranges]
    assert found == [
        {"subnet": "10.244.0.0/16", "rangeStart": "10.244.1.2", "rangeEnd": "10.244.1.254", "gateway": "10.244.1.1"},
        {
            "subnet": "fd44::/32",
            "rangeStart": "fd44:0:1::2",
            "rangeEnd": "fd44:0:1:0:ffff:ffff:ffff:ffff",
            "gateway": "fd44:0:1::1",
        },
    ]
    routed = NodeNetwork(NETWORKS, IN_ONE.ranges, 1450)
    assert [ipam._range(one, routed) for one in routed.ranges] == [{"subnet": str(one)} for one in routed.ranges]


def test_an_attachment_is_a_port_of_the_segment() -> None:
    """The bridge is the one that the agent makes, should it be gone just now; its addresses are the agent's."""
    lease = parse_result(
        {"cniVersion": "1.1.0", "ips": [{"address": "10.244.1.2/16", "gateway": "10.244.1.1"}]},
        "1.1.0",
        same_family=True,
    )
    request, conf = _request(), parse_netconf(CONFIG, Persona.CNI_PY)
    occasion = Occasion("boot", 0, "0a:00:00:00:00:99", "host", IN_ONE)
    attachment = plan_attachment(request, conf, Persona.CNI_PY, lease, occasion)
    state = desired_state(attachment)
    bridge = state.link("host", "cpybr")
    assert bridge is not None
    assert (bridge.kind, bridge.mac, bridge.mtu, bridge.bridge) == ("bridge", MAC, 1430, Bridge())
    assert [one for one in state.addresses if one.ns == "host"] == []
    assert {link.master for link in state.links if link.ns == "host" and link.kind == "veth"} == {"cpybr"}
    assert attachment.masquerade == NETWORKS[:1]


def test_without_a_segment_the_runtime_is_to_try_again() -> None:
    """Code 11, before an address is taken; other modes do not care."""
    conf = parse_netconf(CONFIG, Persona.CNI_PY)
    check_place(conf, Persona.CNI_PY, IN_ONE)
    check_place(conf, Persona.PTP, NodeNetwork())
    with pytest.raises(TryAgainError, match="no segment yet"):
        check_place(conf, Persona.CNI_PY, NodeNetwork(NETWORKS, IN_ONE.ranges, 1450))


@pytest.mark.parametrize("network", [IN_ONE, NodeNetwork(NETWORKS, IN_ONE.ranges, 1450), NodeNetwork()])
def test_the_file_says_it(network: NodeNetwork, tmp_path: Path) -> None:
    """What the agent wrote is what an ADD reads."""
    file = NodeFile(str(tmp_path / "node.json"))
    file.write(network)
    assert NodeFile(str(tmp_path / "node.json")).read() == network


@pytest.mark.parametrize("segment", [7, None, "x", "0e:00:00:00:00:0g", ["0e:00:00:00:00:01"], "0E:00:00:00:00:01\n"])
def test_what_is_no_mac_is_no_segment(segment: object, tmp_path: Path) -> None:
    """The rest counts."""
    path = tmp_path / "node.json"
    path.write_text(json.dumps({"networks": ["10.244.0.0/16"], "mtu": 1430, "segment": segment}))
    assert NodeFile(str(path)).read() == NodeNetwork(NETWORKS[:1], (), 1430)
