"""The agent's configuration: what a file says, and that a wrong one is told where and how."""

from ipaddress import ip_network
from typing import Any

import pytest

from cni_py.agent.settings import parse_settings
from cni_py.model.errors import InvalidConfigError
from cni_py.model.overlay import Network

LEAST: dict[str, Any] = {"network": {"cidrs": ["10.244.0.0/16", "fd44::/32"]}}


def test_little_is_enough() -> None:
    """VXLAN among the nodes of a directory."""
    found = parse_settings(LEAST, "x")
    assert found.network.network() == Network("cni-py", (ip_network("10.244.0.0/16"), ip_network("fd44::/32")))
    assert (found.peers.source, found.probe_port) == ("files", 9762)


def test_all_can_be_said() -> None:
    """Each section with its keys."""
    found = parse_settings(
        {
            "node": {"name": "n1", "interface": "eth0", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1"},
            "network": {
                "cluster": "c",
                "cidrs": ["10.0.0.0/8"],
                "backends": ["direct", "gpe", "vxlan"],
                "vni": 7,
                "vxlanPort": 8472,
                "gpePort": 4791,
            },
            "peers": {
                "source": "etcd",
                "flannel": True,
                "etcd": {"endpoints": ["http://127.0.0.1:2379"], "passwordFile": "/x", "nodeLength": {"ipv4": 26}},
            },
            "probePort": 0,
            "stateDir": "/var/lib/x",
        },
        "x",
    )
    assert found.network.vxlan_port == 8472
    assert found.peers.etcd is not None
    assert (found.peers.etcd.node_length.ipv4, found.peers.etcd.node_length.ipv6) == (26, 64)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"netwrok": {}}, "'netwrok' is not known, perhaps 'network'"),
        (
            {"network": {"cidrs": ["10.0.0.0/8"], "backend": ["vxlan"]}},
            "'network.backend' is not known, perhaps 'backends'",
        ),
        ({"network": {}}, "network.cidrs is missing"),
        ({"network": {"cidrs": []}}, "network.cidrs"),
        ({"network": {"cidrs": ["10.0.0.1/8"]}}, "network.cidrs.0"),
        ({"network": {"cidrs": ["10.0.0.0/8"], "backends": ["vxlann"]}}, "network.backends.0"),
        ({"network": {"cidrs": ["10.0.0.0/8"], "backends": ["none", "vxlan"]}}, "none goes with no other"),
        ({"network": {"cidrs": ["10.0.0.0/8"], "backends": ["gpe", "gpe"]}}, "twice"),
        ({"network": {"cidrs": ["10.0.0.0/8"], "vni": 0}}, "network.vni"),
        ({"network": {"cidrs": ["10.0.0.0/8"], "gpePort": 4789}}, "must differ"),
        ({"node": {"interface": "a/b"}}, "no name of a link"),
        ({"node": {"name": "a\nb"}}, "node.name"),
        ({"peers": {"source": "etcd"}}, "needs a section etcd"),
        ({"peers": {"source": "gossip"}}, "peers.source"),
        ({"peers": {"etcd": {"endpoint": ["x"]}}}, "'peers.etcd.endpoint' is not known, perhaps 'endpoints'"),
        ({"peers": {"flannel": True}}, "flannel's records are in etcd or Kubernetes"),
        ({"peers": 7}, "peers"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], told: str) -> None:
    """In one line, with the place."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_settings({**LEAST, **change}, "config.yaml")
    assert told in caught.value.message
    assert caught.value.message.startswith("config.yaml: ")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("document", [None, 7, "x", []])
def test_what_is_no_mapping_is_told(document: object) -> None:
    """An empty file is one."""
    with pytest.raises(InvalidConfigError, match="no mapping"):
        parse_settings(document, "config.yaml")
