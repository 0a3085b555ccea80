"""flannel's records: read as it writes them, written as it reads them, hostile ones refused in one printable line."""

import json
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from cni_py.cluster.etcd_wire import KeyValue
from cni_py.cluster.flannel import annotations_of, node_from_annotations, value_of
from cni_py.cluster.flannel_etcd import FlannelKeys, parse_network
from cni_py.cluster.keyspace import Entry, TakenError
from cni_py.model.errors import CniPyError, DecodeError, InvalidConfigError, NoAddressError
from cni_py.model.overlay import Node

_P = "flannel.alpha.coreos.com/"
_CIDRS = (ip_network("10.5.34.0/24"), ip_network("fd05:0:0:34::/64"))
_MAC4, _MAC6 = "c6:d2:32:6f:8f:44", "c6:d2:32:6f:8f:66"
# As flanneld wrote them.
_VXLAN = {
    f"{_P}kube-subnet-manager": "true",
    f"{_P}backend-type": "vxlan",
    f"{_P}backend-data": f'{{"VNI":1,"VtepMAC":"{_MAC4}"}}',
    f"{_P}public-ip": "192.0.2.1",
}
_DUAL = {**_VXLAN, f"{_P}backend-v6-data": f'{{"VNI":1,"VtepMAC":"{_MAC6}"}}', f"{_P}public-ipv6": "2001:db8::1"}
_HOSTGW = {
    f"{_P}kube-subnet-manager": "true",
    f"{_P}backend-type": "host-gw",
    f"{_P}backend-data": "null",
    f"{_P}public-ip": "192.0.2.1",
    f"{_P}public-ipv6": "2001:db8::1",
}
_OURS = Node("n2", _CIDRS, "0e:08:c7:d4:c6:3a", IPv4Address("192.0.2.2"), IPv6Address("2001:db8::2"))


def test_a_flanneld_is_read() -> None:
    """VNI and MAC out of its data, the port of flannel; what it can do is its backend and nothing else."""
    node = node_from_annotations("n1", _VXLAN, _CIDRS[:1])
    assert node == Node(
        "n1", _CIDRS[:1], _MAC4, IPv4Address("192.0.2.1"), None, frozenset(("vxlan",)), vni=1, vxlan_port=8472
    )
    assert node_from_annotations("n1", _VXLAN, _CIDRS[:1], 4789) == Node(
        "n1", _CIDRS[:1], _MAC4, IPv4Address("192.0.2.1"), None, frozenset(("vxlan",)), vni=1, vxlan_port=4789
    )


def test_of_two_devices_both_are_read() -> None:
    """Each with the pods of its family; that of IPv6 where there is no other; what has no data is no device."""
    node = node_from_annotations("n1", _DUAL, _CIDRS)
    assert node is not None
    assert (node.mac, node.mac6, node.cidrs) == (_MAC4, _MAC6, _CIDRS)
    ordered = {**_VXLAN, f"{_P}public-ipv6-overwrite": "2001:db8::9"}
    node = node_from_annotations("n1", ordered, _CIDRS)
    assert node is not None
    assert (node.mac, node.mac6, node.cidrs) == (_MAC4, "", _CIDRS[:1])
    only6 = {key: text for key, text in _DUAL.items() if key not in (f"{_P}public-ip", f"{_P}backend-data")}
    node = node_from_annotations("n1", only6, _CIDRS[1:])
    assert node is not None
    assert (node.mac, node.cidrs, node.ip4, node.ip6) == (_MAC6, _CIDRS[1:], None, IPv6Address("2001:db8::1"))


def test_plain_routes_have_both_families() -> None:
    """No MAC is needed."""
    node = node_from_annotations("n1", _HOSTGW, _CIDRS)
    assert node is not None
    assert node.cidrs == _CIDRS
    assert node.backends == {"host-gw"}


@pytest.mark.parametrize(
    "annotations", [{}, {f"{_P}backend-type": "vxlan"}, {**_VXLAN, f"{_P}kube-subnet-manager": "false"}]
)
def test_where_no_flanneld_runs_there_is_no_node(annotations: dict[str, str]) -> None:
    """Also where only somebody's order is left."""
    assert node_from_annotations("n1", annotations, _CIDRS) is None


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("backend-type", "wireguard", "'wireguard' is not spoken here"),
        ("backend-type", "vxlan\n", "not spoken here"),
        ("backend-data", "null", "no VtepMAC"),
        ("backend-data", "", "no VtepMAC"),
        ("backend-data", "[]", "no VtepMAC"),
        ("backend-data", "{", "no JSON"),
        ("backend-data", "[" * 30_000, "JSON|nested"),
        ("backend-data", "x" * 1_000_000, "more than"),
        ("backend-data", '{"VNI":1,"VtepMAC":7}', "no VtepMAC"),
        ("backend-data", '{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}', "no unicast MAC"),
        ("backend-data", '{"VNI":16777216,"VtepMAC":"c6:d2:32:6f:8f:44"}', "vni: 16777216"),
        ("backend-data", '{"VNI":"1","VtepMAC":"c6:d2:32:6f:8f:44"}', "vni: '1'"),
        ("backend-v6-data", '{"VNI":2,"VtepMAC":"c6:d2:32:6f:8f:66"}', "VNI 1 for IPv4 and 2 for IPv6"),
        ("backend-v6-data", '{"VNI":1,"VtepMAC":"c7:d2:32:6f:8f:66"}', "mac6: 'c7:d2"),
        ("public-ip", "", "no public address"),
        ("public-ip", "0.0.0.0", "no public address"),
        ("public-ip", "127.0.0.1", "no address at which"),
        ("public-ip", "2001:db8::1", "other family"),
        ("public-ip", "192.0.2.1\nx", "no address"),
    ],
)
def test_hostile_annotations_are_refused(key: str, text: str, why: str) -> None:
    """Each in words."""
    with pytest.raises(DecodeError, match=why) as caught:
        node_from_annotations("n1", {**(_DUAL if "v6" in key else _VXLAN), f"{_P}{key}": text}, _CIDRS[:1])
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


def test_ours_is_written_as_flanneld_writes() -> None:
    """To the letter, but for the order of the keys."""
    made = annotations_of(_OURS)
    assert made == {
        f"{_P}kube-subnet-manager": "true",
        f"{_P}backend-type": "vxlan",
        f"{_P}backend-data": '{"VNI":1,"VtepMAC":"0e:08:c7:d4:c6:3a"}',
        f"{_P}backend-v6-data": '{"VNI":1,"VtepMAC":"0e:08:c7:d4:c6:3a"}',
        f"{_P}public-ip": "192.0.2.2",
        f"{_P}public-ipv6": "2001:db8::2",
    }
    assert annotations_of(_OURS, "host-gw")[f"{_P}backend-data"] == "null"
    node = node_from_annotations("n2", made, _CIDRS)
    assert node is not None
    assert (node.mac, node.ip4, node.ip6) == (_OURS.mac, _OURS.ip4, _OURS.ip6)


def test_an_ordered_address_is_told() -> None:
    """`public-ip-overwrite`, as flanneld does; one that is none is refused."""
    ordered = {f"{_P}public-ip-overwrite": "198.51.100.7"}
    assert annotations_of(_OURS, present=ordered)[f"{_P}public-ip"] == "198.51.100.7"
    with pytest.raises(DecodeError):
        annotations_of(_OURS, present={f"{_P}public-ip-overwrite": "localhost"})
    read = {key: text for key, text in _VXLAN.items() if key != f"{_P}public-ip"} | ordered
    node = node_from_annotations("n1", read, _CIDRS[:1])
    assert node is not None
    assert node.ip4 == IPv4Address("198.51.100.7")


@pytest.mark.parametrize(
    ("config", "pools", "spared"),
    [
        ({"Network": "10.5.0.0/16"}, ["10.5.0.0/16 24"], ["10.5.0.0/24"]),
        ({"Network": "10.5.0.0/24"}, ["10.5.0.0/24 26"], ["10.5.0.0/26"]),
        ({"Network": "10.5.0.0/16", "SubnetLen": 20}, ["10.5.0.0/16 20"], ["10.5.0.0/20"]),
        (
            {"Network": "10.5.0.0/22", "SubnetLen": 24, "SubnetMin": "10.5.2.0", "SubnetMax": "10.5.2.0"},
            ["10.5.0.0/22 24"],
            ["10.5.0.0/23", "10.5.3.0/24"],
        ),
        (
            {"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "fd05::/48"},
            ["10.5.0.0/16 24", "fd05::/48 64"],
            ["10.5.0.0/24", "fd05::/64"],
        ),
    ],
)
def test_a_configuration_is_read(config: dict[str, Any], pools: list[str], spared: list[str]) -> None:
    """Pools with flannel's defaults, and what it spares of them."""
    network = parse_network(json.dumps({**config, "Backend": {"Type": "vxlan"}}).encode())
    assert [f"{pool.cidr} {pool.prefix}" for pool in network.pools] == pools
    assert list(map(str, network.spared)) == spared
    assert (network.vni, network.port, network.backend) == (1, 8472, "vxlan")


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[]",
        '{"Network": "10.5.0.0/16"}',  # flannel's default is the backend udp
        '{"Network": "10.5.0.0/16", "Backend": {"Type": "wireguard"}}',
        '{"Network": "10.5.0.0/16", "Backend": ["vxlan"]}',
        '{"Network": "10.5.0.1/16", "Backend": {"Type": "vxlan"}}',
        '{"Network": 7, "Backend": {"Type": "vxlan"}}',
        '{"Network": "fd00::/48", "Backend": {"Type": "vxlan"}}',
        '{"Network": "10.5.0.0/16", "SubnetLen": 8, "Backend": {"Type": "vxlan"}}',
        '{"Network": "10.5.0.0/16", "SubnetLen": "24", "Backend": {"Type": "vxlan"}}',
        '{"Network": "10.5.0.0/16", "SubnetMin": "10.9.0.0", "Backend": {"Type": "vxlan"}}',
        '{"Network": "10.5.0.0/16", "SubnetMin": ["10.5.1.0"], "Backend": {"Type": "vxlan"}}',
        '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": -1}}',
        '{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd05::/48", "Backend": {"Type": "vxlan"}}',
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(config: str) -> None:
    """In words."""
    with pytest.raises(CniPyError) as caught:
        parse_network(config.encode())
    assert caught.value.message.isprintable()


def test_the_backend_may_have_numbers_of_its_own() -> None:
    """VNI and port, whatever the case, as Go reads JSON."""
    network = parse_network(b'{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7, "port": 4789}}')
    assert (network.vni, network.port) == (7, 4789)


_KEYS = FlannelKeys("n2", "id2")
_ROOT = "/coreos.com/network"


def _entries(*keys: tuple[str, str | bytes]) -> dict[bytes, Entry]:
    made = {}
    for revision, (key, value) in enumerate(keys, 1):
        data = value if isinstance(value, bytes) else value.encode()
        kv = KeyValue(f"{_ROOT}/{key}".encode(), data, revision, revision, 9)
        made[kv.key] = _KEYS.entry(kv)
    return made


def _config(**more: Any) -> tuple[str, str]:
    return "config", json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}, **more})


def _lease(ip: str, mac: str = _MAC4) -> str:
    return json.dumps(
        {"PublicIP": ip, "PublicIPv6": None, "BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": mac}}
    )


def test_a_lease_is_a_node() -> None:
    """Of flanneld's named by its address; with two networks in its key too."""
    dual = json.loads(_lease("192.0.2.3")) | {
        "PublicIPv6": "2001:db8::3",
        "BackendV6Data": {"VNI": 1, "VtepMAC": _MAC6},
    }
    view = _KEYS.view(
        _entries(
            _config(), ("subnets/10.5.1.0-24", _lease("192.0.2.1")), ("subnets/10.5.3.0-24&fd05::-64", json.dumps(dual))
        )
    )
    assert not view.skipped
    assert {name: node.cidrs for name, node in view.nodes.items()} == {
        "192.0.2.1": (ip_network("10.5.1.0/24"),),
        "192.0.2.3": (ip_network("10.5.3.0/24"), ip_network("fd05::/64")),
    }
    assert view.nodes["192.0.2.3"].mac6 == _MAC6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("subnets/10.5.1.0-24", "{"),
        ("subnets/10.5.1.0-24", b"\xff"),
        ("subnets/10.5.1.0-24", "x" * 1_000_000),
        ("subnets/10.5.1.0-24", _lease("127.0.0.1")),
        ("subnets/10.5.1.0-24", json.dumps({"PublicIP": {}, "BackendType": "vxlan"})),
        ("subnets/10.5.1.0-24", json.dumps({**json.loads(_lease("192.0.2.1")), "CniPy": "n1"})),
        (
            "subnets/10.5.1.0-24",
            json.dumps({**json.loads(_lease("192.0.2.1")), "CniPy": {"name": "a\nb", "identity": "i"}}),
        ),
        ("subnets/10.5.1.0-24", json.dumps({**json.loads(_lease("192.0.2.1")), "BackendType": ["vxlan"]})),
        ("subnets/10.5.1.1-24", _lease("192.0.2.1")),
        ("subnets/0.0.0.0-0", _lease("192.0.2.1")),
        ("subnets/fd05::-64", _lease("192.0.2.1")),
        ("subnets/10.5.1.0-24&10.5.2.0-24", _lease("192.0.2.1")),
        ("subnets/x\n", _lease("192.0.2.1")),
        ("elsewhere", _lease("192.0.2.1")),
    ],
)
def test_hostile_keys_are_skipped(key: str, value: str | bytes) -> None:
    """With the reason; the good one beside stays."""
    view = _KEYS.view(_entries(_config(), ("subnets/10.5.9.0-24", _lease("192.0.2.9")), (key, value)))
    assert view.nodes.keys() == {"192.0.2.9"}
    ((where, why),) = view.skipped.items()
    assert where.isprintable()
    assert why.isprintable()


def test_a_node_takes_one_lease_and_keeps_it() -> None:
    """What flannel spares and others have is left alone; written once, there is nothing more to write."""
    small = _config(Network="10.5.0.0/22", SubnetLen=24)
    entries = _entries(small, ("subnets/10.5.1.0-24", _lease("192.0.2.1")), ("subnets/10.5.3.0-24", b"junk"))
    plan = _KEYS.plan(entries, _OURS, (), 5)
    assert plan.cidrs == (ip_network("10.5.2.0/24"),)
    assert plan.txn is not None
    ((key, value),) = plan.txn.puts.items()
    assert plan.txn.expected == {key: 0}
    assert (key, json.loads(value)["PublicIP"]) == (b"/coreos.com/network/subnets/10.5.2.0-24", "192.0.2.2")
    entries[key] = _KEYS.entry(KeyValue(key, value, 9, 9, 5))
    assert _KEYS.plan(entries, _OURS, (), 5).txn is None
    assert _KEYS.view(entries).nodes["n2"].uid == "id2"
    entries[key] = _KEYS.entry(KeyValue(key, b"junk", 9, 10, 0))  # somebody's slip
    assert _KEYS.plan(entries, _OURS, plan.cidrs, 5).txn == type(plan.txn)({key: 10}, {key: value})
    entries[key] = _KEYS.entry(KeyValue(key, _lease("192.0.2.77").encode(), 11, 11, 6))  # a flanneld got it
    with pytest.raises(TakenError, match="is another's"):
        _KEYS.plan(entries, _OURS, plan.cidrs, 5)


def test_a_full_network_is_an_error() -> None:
    """As of any pool."""
    entries = _entries(_config(Network="10.5.0.0/23", SubnetLen=24), ("subnets/10.5.1.0-24", _lease("192.0.2.1")))
    with pytest.raises(NoAddressError, match="all 2 are taken"):
        _KEYS.plan(entries, _OURS, (), 5)


def test_what_a_flanneld_of_this_address_had_is_taken_over() -> None:
    """Not what a node of ours had that has another identity."""
    entries = _entries(_config(), ("subnets/10.5.1.0-24", _lease("192.0.2.2")))
    assert _KEYS.plan(entries, _OURS, (), 5).cidrs == (ip_network("10.5.1.0/24"),)
    other = value_of(_OURS, "vxlan", {"CniPy": {"name": "n7", "identity": "id7"}})
    entries = _entries(_config(), ("subnets/10.5.1.0-24", other))
    assert _KEYS.plan(entries, _OURS, (), 5).cidrs != (ip_network("10.5.1.0/24"),)


@pytest.mark.parametrize(("name", "identity", "root"), [("n 2", "i", "/x"), ("n2", "", "/x"), ("n2", "i", "x/")])
def test_a_keyspace_that_cannot_be_is_refused(name: str, identity: str, root: str) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidConfigError):
        FlannelKeys(name, identity, root)


@pytest.mark.parametrize(
    ("config", "node", "why"),
    [
        ((), _OURS, "there is no /coreos.com/network/config"),
        ((_config(Backend={"Type": "udp"}),), _OURS, "'udp' is not spoken here"),
        ((_config(),), Node("n2", (), _MAC4, _OURS.ip4, vni=142, vxlan_port=4789), "VNI 1 and port 8472"),
        ((_config(),), Node("n2", (), _MAC4, None, _OURS.ip6), "this one has none"),
    ],
)
def test_a_node_that_does_not_fit_is_told(config: tuple[tuple[str, str], ...], node: Node, why: str) -> None:
    """And writes nothing."""
    with pytest.raises(InvalidConfigError, match=why):
        _KEYS.plan(_entries(*config), node, (), 5)
