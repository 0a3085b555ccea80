"""Values that go out and come back: results in every version, attachment records on disk."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property.test_diff import attachments

from cni_py.model.attachment import Attachment, PortMapping
from cni_py.model.result import Dns, Interface, IPConfig, Result, Route
from cni_py.spec.result import parse_result, render_result
from cni_py.spec.versions import FAMILIES, SUPPORTED
from cni_py.store.attachment_json import decode_attachment, encode_attachment

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(0, 2**31)
v4, v6 = st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1).filter(lambda n: n >> 32)
ips = v4.map(ip_address) | v6.map(ip_address)
interfaces = st.tuples(v4, st.integers(1, 32)).map(ip_interface) | st.tuples(v6, st.integers(1, 128)).map(ip_interface)
networks = interfaces.map(lambda one: ip_network(one.network))
routes = st.builds(
    Route,
    dst=networks,
    gw=st.none() | ips,
    mtu=numbers,
    advmss=numbers,
    priority=numbers,
    table=st.none() | numbers,
    scope=st.none() | st.sampled_from([0, 253, 254]),
)
dns = st.builds(Dns, *(st.lists(text, max_size=2).map(tuple), text, *[st.lists(text).map(tuple)] * 2))
results = st.builds(
    Result,
    interfaces=st.lists(st.builds(Interface, text, text, numbers, text, text, text), max_size=3).map(tuple),
    ips=st.lists(st.builds(IPConfig, interfaces, st.none() | ips, st.none() | st.integers(0, 3)), max_size=3).map(
        tuple
    ),
    routes=st.lists(routes, max_size=3).map(tuple),
    dns=dns,
)


def carried(result: Result, version: str) -> Result:
    """What of a result a version's shape can hold (contract table 1d)."""
    if version == "1.1.0":
        return result
    plain = tuple(Interface(one.name, one.mac, sandbox=one.sandbox) for one in result.interfaces)
    if version in FAMILIES[0]:
        firsts = {ip.address.version: IPConfig(ip.address, ip.gateway) for ip in reversed(result.ips)}
        kept = sorted(
            (Route(route.dst, route.gw) for route in result.routes if route.dst.version in firsts),
            key=lambda route: route.dst.version,
        )
        return Result(ips=tuple(firsts[family] for family in sorted(firsts)), routes=tuple(kept), dns=result.dns)
    return Result(plain, result.ips, result.routes, result.dns)


@pytest.mark.parametrize("version", SUPPORTED)
@given(data=st.data())
def test_a_result_comes_back(version: str, data: Any) -> None:
    """Rendered and parsed again a result is what its version can hold of it; no field is null."""
    result = data.draw(results)
    if version in FAMILIES[0] and not result.ips:  # its shape needs an address
        result = replace(result, ips=(IPConfig(data.draw(interfaces)),))
    document = json.loads(render_result(result, version))
    assert "null" not in json.dumps(document).replace('"null"', "")
    assert version == document["cniVersion"]
    assert carried(result, version) == parse_result(document, version, same_family=True)


@given(
    attachments(), st.lists(st.builds(PortMapping, numbers, numbers, st.sampled_from(["tcp", "udp"]), st.none() | ips))
)
def test_a_record_comes_back(attachment: Attachment, ports: list[PortMapping]) -> None:
    """What is written to disk is what DEL will work from."""
    attachment = replace(attachment, ports=tuple(ports), masquerade=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
    assert attachment == decode_attachment(json.loads(encode_attachment(attachment)))
