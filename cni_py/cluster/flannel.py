"""flannel's records read as nodes, and a node written as one of flannel's: annotations of a Node, values in its etcd.

    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/backend-data: {"VNI":1,"VtepMAC":"0e:08:c7:d4:c6:3a"}
    flannel.alpha.coreos.com/public-ip: 192.0.2.1

    {"PublicIP": "192.0.2.1", "PublicIPv6": null, "BackendType": "vxlan",
     "BackendData": {"VNI": 1, "VtepMAC": "0e:08:c7:d4:c6:3a"}}

With `vxlan` and both families flanneld has a second device for IPv6, with another MAC (`backend-v6-data`), and sends
pods' IPv6 packets over IPv6 alone: a node with `Node.mac6`. Ours says the same MAC for both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from cni_py.cluster.record import MAX_BYTES, from_document, parse_endpoint, shown
from cni_py.model.errors import DecodeError
from cni_py.model.overlay import BackendName, Node
from cni_py.model.result import IPNetwork

VNI, PORT = 1, 8472  # flannel's own, unless its configuration says otherwise
BACKENDS: tuple[BackendName, ...] = ("vxlan", "host-gw")
_PREFIX = "flannel.alpha.coreos.com/"
_TYPE, _MANAGED = f"{_PREFIX}backend-type", f"{_PREFIX}kube-subnet-manager"
_DATA = {4: f"{_PREFIX}backend-data", 6: f"{_PREFIX}backend-v6-data"}
_IP = {4: f"{_PREFIX}public-ip", 6: f"{_PREFIX}public-ipv6"}
_FIELDS = {4: ("PublicIP", "BackendData"), 6: ("PublicIPv6", "BackendV6Data")}
KEYS = (_TYPE, _MANAGED, *_DATA.values(), *_IP.values(), *(f"{key}-overwrite" for key in _IP.values()))
_NONE = (None, "", "0.0.0.0", "::")  # what flannel writes for a family that it does not have


@dataclass(frozen=True, slots=True)
class Record:
    """What flannel knows of a node, decoded: by family its public address and the data of its backend."""

    backend: object
    addresses: Mapping[int, object]
    data: Mapping[int, object]

    def node(self, name: str, cidrs: Sequence[IPNetwork], port: int = PORT) -> Node:
        """The node. Raises DecodeError."""
        if self.backend not in BACKENDS:
            known = " or ".join(BACKENDS)
            raise DecodeError(f"flannel's backend {shown(self.backend)} is not spoken here, only {known}")
        known_ips = {version: ip for version, ip in self.addresses.items() if ip not in _NONE}
        document = {
            "version": 1,
            **{f"ipv{version}": ip for version, ip in known_ips.items()},
            "backends": [self.backend],
        }
        if not known_ips:
            raise DecodeError("flannel's record has no public address")
        if self.backend == "host-gw":
            return from_document(document, name, "", cidrs)
        first = min(known_ips)
        tunnels = {one: self._tunnel(one) for one in known_ips if one == first or self.data.get(one) is not None}
        mac, vni = tunnels[first]
        document |= {"mac": mac, "vxlan": {"vni": vni, "port": port}}
        if len(tunnels) > 1:
            document["mac6"], other = tunnels[6]
            if other != vni:
                raise DecodeError(f"flannel's record has VNI {shown(vni)} for IPv4 and {shown(other)} for IPv6")
        return from_document(document, name, "", [cidr for cidr in cidrs if cidr.version in tunnels])

    def _tunnel(self, version: int) -> tuple[str, object]:
        """MAC and VNI."""
        data = self.data.get(version)
        if not isinstance(data, dict) or not isinstance(data.get("VtepMAC"), str):
            raise DecodeError(f"{shown(data)} is no data of flannel's backend: it has no VtepMAC")
        return data["VtepMAC"], data.get("VNI", VNI)


def node_from_annotations(
    name: str, annotations: Mapping[str, str], cidrs: Sequence[IPNetwork], port: int = PORT
) -> Node | None:
    """The node that flanneld says it is, None if flanneld does not run there. Raises DecodeError.

    The VXLAN port is in no annotation: it is that of flannel's configuration.
    """
    if annotations.get(_MANAGED) != "true" or _TYPE not in annotations:
        return None
    addresses = {version: annotations.get(key) or annotations.get(f"{key}-overwrite") for version, key in _IP.items()}
    data = {version: _json(annotations[key]) for version, key in _DATA.items() if annotations.get(key)}
    return Record(annotations[_TYPE], addresses, data).node(name, cidrs, port)


def annotations_of(
    node: Node, backend: BackendName = "vxlan", present: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The annotations by which flanneld on other nodes takes this one for its own.

    `present` are those that the Node has: an address that somebody ordered there (`public-ip-overwrite`) is told.
    """
    made = {_MANAGED: "true", _TYPE: backend}
    for version, address in _addresses(node).items():
        ordered = (present or {}).get(f"{_IP[version]}-overwrite", "")
        made[_IP[version]] = str(parse_endpoint(ordered)) if ordered else str(address)
        made[_DATA[version]] = json.dumps(_backend_data(node, backend), separators=(",", ":"))
    return made


def decoded(value: bytes) -> Mapping[str, Any]:
    """A value of flannel's etcd. Raises DecodeError."""
    document = _json(value)
    if not isinstance(document, dict):
        raise DecodeError(f"flannel's record is no object but {shown(document)}")
    return document


def record_of(document: Mapping[str, Any]) -> Record:
    """What flannel's etcd knows of a node."""
    addresses = {version: document.get(ip) for version, (ip, _) in _FIELDS.items()}
    data = {version: document.get(name) for version, (_, name) in _FIELDS.items()}
    return Record(document.get("BackendType"), addresses, data)


def value_of(node: Node, backend: BackendName, more: Mapping[str, Any]) -> bytes:
    """The value by which flanneld takes the node for its own; `more` is passed over by flanneld."""
    document: dict[str, Any] = {"PublicIP": "0.0.0.0", "PublicIPv6": None, "BackendType": backend}
    for version, address in _addresses(node).items():
        ip, data = _FIELDS[version]
        document[ip] = str(address)
        if backend == "vxlan":
            document[data] = _backend_data(node, backend)
    return json.dumps({**document, **more}, separators=(",", ":")).encode()


def _addresses(node: Node) -> Mapping[int, IPv4Address | IPv6Address]:
    return {version: ip for version, ip in ((4, node.ip4), (6, node.ip6)) if ip is not None}


def _backend_data(node: Node, backend: BackendName) -> dict[str, Any] | None:
    return {"VNI": node.vni or VNI, "VtepMAC": node.mac} if backend == "vxlan" else None


def _json(text: str | bytes) -> object:
    if len(text) > MAX_BYTES:
        raise DecodeError(f"flannel's record has {len(text)} bytes, more than {MAX_BYTES}")
    try:
        return json.loads(text)
    except RecursionError:
        raise DecodeError("flannel's record is nested too deeply") from None
    except ValueError as error:  # also what is no UTF-8
        raise DecodeError(f"flannel's record is no JSON: {shown(str(error))}") from None
