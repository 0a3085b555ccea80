"""The wire form of tunnels: a VXLAN link's attributes, and the header that a route puts before its packets.

Numbers: linux/if_link.h (IFLA_VXLAN_*), lwtunnel.h. pyroute2 knows the former; of the latter it knows no IP header.
"""

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address

from cni_py.kernel.netlink import attr, nested, parse_attrs
from cni_py.model.net import Encap, Vxlan

_ID, _LOCAL, _LEARNING, _PORT, _LOCAL6 = 1, 4, 7, 15, 17
_UDP_CSUM, _COLLECT_METADATA, _GPE = 18, 25, 27

RTA_ENCAP_TYPE, RTA_ENCAP = 21, 22
_ENCAP_IP, _ENCAP_IP6 = 2, 4
_IP_ID, _IP_DST, _IP_SRC, _IP_FLAGS = 1, 2, 3, 6
# The outer UDP has a checksum: with IPv6 one without is dropped.
_CHECKSUM = struct.pack(">H", 0x0001)

_U32, _BE16, _BE64 = struct.Struct("=I"), struct.Struct(">H"), struct.Struct(">Q")


def vxlan_data(vxlan: Vxlan) -> bytes:
    """IFLA_INFO_DATA's payload for a link that is made. Nothing is left to the kernel's defaults: they learn."""
    body = attr(_COLLECT_METADATA, b"\x01") + attr(_GPE, b"") if vxlan.gpe else attr(_ID, _U32.pack(vxlan.vni))
    return body + vxlan_change(vxlan) + attr(_PORT, _BE16.pack(vxlan.port)) + attr(_UDP_CSUM, b"\x01")


def vxlan_change(vxlan: Vxlan) -> bytes:
    """IFLA_INFO_DATA's payload with what can be changed of a link that is there."""
    body = attr(_LEARNING, bytes([vxlan.learning]))
    if vxlan.local is not None:
        body += attr(_LOCAL if vxlan.local.version == 4 else _LOCAL6, vxlan.local.packed)
    return body


def parse_vxlan(data: Mapping[int, bytes]) -> Vxlan:
    """What the attributes of IFLA_INFO_DATA say."""
    local = data.get(_LOCAL) or data.get(_LOCAL6)
    own = ip_address(local) if local else None
    return Vxlan(
        port=_BE16.unpack(data.get(_PORT, b"\0\0"))[0],
        vni=_U32.unpack(data.get(_ID, bytes(4)))[0],
        local=own if own is not None and not own.is_unspecified else None,
        gpe=_GPE in data and data.get(_COLLECT_METADATA, b"\0") != b"\0",
        learning=data.get(_LEARNING, b"\0") != b"\0",
    )


def encap_attributes(encap: Encap) -> bytes:
    """A route's attributes for the tunnel that its packets go into."""
    kind = _ENCAP_IP if isinstance(encap.dst, IPv4Address) else _ENCAP_IP6
    header = nested(
        RTA_ENCAP,
        attr(_IP_ID, _BE64.pack(encap.vni)),
        attr(_IP_DST, encap.dst.packed),
        attr(_IP_SRC, encap.src.packed),
        attr(_IP_FLAGS, _CHECKSUM),
    )
    return attr(RTA_ENCAP_TYPE, struct.pack("=H", kind)) + header


def parse_encap(route: Mapping[int, bytes]) -> Encap | None:
    """The tunnel of a route with these attributes; None if there is none, or none that we make."""
    if route.get(RTA_ENCAP_TYPE, b"") not in (struct.pack("=H", _ENCAP_IP), struct.pack("=H", _ENCAP_IP6)):
        return None
    header = parse_attrs(route.get(RTA_ENCAP, b""))
    if header.get(_IP_FLAGS) != _CHECKSUM or not {_IP_ID, _IP_DST, _IP_SRC} <= header.keys():
        return None
    return Encap(_BE64.unpack(header[_IP_ID])[0], ip_address(header[_IP_SRC]), ip_address(header[_IP_DST]))
