"""Our traffic control messages are pyroute2's, byte by byte; and what they make is what `tc` makes."""

import json
import socket
import struct
import subprocess
from typing import Any

import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from cni_py.kernel import rtnl, tc
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkSocket, attr, iter_attrs, parse_attrs
from cni_py.model.net import Link, Shaper

NESTED = 0x8000
LIMIT = Shaper("cpy0", 1_000_000, 800_000)
MIRRORED = Shaper("cpb0", 8_000_000, 1_600_000, mirror_from="cpy0")


def encoded(kind: int, header: dict[str, int], attrs: list[tuple[str, Any]]) -> bytes:
    """Pyroute2's bytes of a traffic control message with these fields and attributes, in this order."""
    message = tcmsg()
    message["header"]["type"], message["header"]["flags"] = kind, 0x605
    for name, value in {"family": 0, "info": 0, **header}.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)


def plain(attributes: bytes) -> bytes:
    """Attributes without the nested flag, which pyroute2 sets on some of those that hold others."""
    result = b""
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        value, padded = attributes[4:length], (length + 3) & ~3
        value = plain(value) if kind & NESTED else value
        result += struct.pack("=HH", length, kind & ~NESTED) + value + attributes[length:padded]
        attributes = attributes[padded:]
    return result


def _mirred() -> tuple[str, Any]:
    fields = {"index": 0, "capab": 0, "action": 4, "refcnt": 0, "bindcnt": 0, "eaction": 1, "ifindex": 7}
    options = {"attrs": [("TCA_MIRRED_PARMS", fields)]}
    action = {"attrs": [("TCA_ACT_KIND", "mirred"), ("TCA_ACT_OPTIONS", options)]}
    return ("TCA_U32_ACT", {"attrs": [("TCA_ACT_PRIO_1", action)]})


CASES = {
    "ingress": (
        tc.new_ingress(5),
        encoded(36, {"index": 5, "handle": 0xFFFF0000, "parent": 0xFFFFFFF1}, [("TCA_KIND", "ingress")]),
    ),
    "redirect": (
        tc.new_redirect(5, 7),
        encoded(
            44,
            {"index": 5, "handle": 0, "parent": 0xFFFF0000, "info": 0x10000 | socket.htons(3)},
            [
                ("TCA_KIND", "u32"),
                (
                    "TCA_OPTIONS",
                    {"attrs": [_mirred(), ("TCA_U32_CLASSID", 0x10001), ("TCA_U32_SEL", {"keys": ["0x0/0x0+0"]})]},
                ),
            ],
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_pyroute2(name: str) -> None:
    """Type, flags, header and every attribute; but for the flag of nested attributes, which pyroute2 sets at times."""
    ours, theirs = CASES[name]
    assert (theirs[:36] + _flagless(theirs[36:])).hex() == (ours[:36] + plain(ours[36:])).hex()


def _flagless(attributes: bytes) -> bytes:
    """Pyroute2's only flagged attribute, the options of an action, without the flag."""
    return attributes.replace(struct.pack("=HH", 36, 2 | NESTED), struct.pack("=HH", 36, 2))


def test_bucket_equal_to_pyroute2() -> None:
    """The bucket is pyroute2's, but for the table of times; the burst in bytes, unknown to it, follows."""
    made = tc.new_tbf(LIMIT, 5)
    options = parse_attrs(made, 36)[tc.TCA_OPTIONS]
    assert [kind for kind, _ in iter_attrs(options)] == [tc.TCA_TBF_PARMS, tc.TCA_TBF_BURST]
    assert struct.pack("=I", 100_000) == parse_attrs(options)[tc.TCA_TBF_BURST]
    rate = {"cell_log": 0, "__reserved": 1, "overhead": 0, "cell_align": 0, "mpu": 0, "": 125_000}
    fields = {(f"rate_{name}" if name else "rate"): value for name, value in rate.items()}
    fields |= {(f"peak_{name}" if name else "peak"): 0 for name in rate}
    fields |= {"limit": 103_125, "buffer": 12_500_000, "mtu": 0}
    known = encoded(
        36,
        {"index": 5, "handle": 0x10000, "parent": 0xFFFFFFFF},
        [("TCA_KIND", "tbf"), ("TCA_OPTIONS", {"attrs": [("TCA_TBF_PARMS", fields)]})],
    )
    parameters = parse_attrs(options)[tc.TCA_TBF_PARMS]
    kept = attr(tc.TCA_KIND, b"tbf\0") + attr(tc.TCA_OPTIONS, attr(tc.TCA_TBF_PARMS, parameters))
    cells = slice(52, 60)  # how the table of times is cut, of which pyroute2 speaks and has none
    ours, theirs = bytearray(made[:36] + kept), bytearray(known)
    ours[cells] = theirs[cells] = bytes(8)
    assert theirs[4:].hex() == ours[4:].hex()


BURSTS = [
    # bits a second, bits; bytes a second, bytes, what may wait, ticks, 64 bits of rate
    (1_000_000, 800_000, 125_000, 100_000, 103_125, 12_500_000, None),
    (8, 8, 1, 1, 1, 15_625_000, None),
    (8_000, 2**32 - 1, 1_000, 536_870_911, 536_870_936, 2**32 - 1, None),
    (40_000_000_000, 8_000_000, 5_000_000_000, 1_000_000, 126_000_000, 3_125, 5_000_000_000),
    (2**64 - 1, 2**35, 2**61 - 1, 2**32 - 1, 2**32 - 1, 0, 2**61 - 1),
]


@pytest.mark.parametrize(("rate", "burst", "bps", "bytes_", "limit", "ticks", "rate64"), BURSTS)
def test_figures(rate: int, burst: int, bps: int, bytes_: int, limit: int, ticks: int, rate64: int | None) -> None:
    """Bits become bytes, 25 ms of the rate may wait beside the burst, and 32 bits hold at most their most."""
    options = parse_attrs(parse_attrs(tc.new_tbf(Shaper("x", rate, burst), 5), 36)[tc.TCA_OPTIONS])
    parameters = options[tc.TCA_TBF_PARMS]
    assert struct.unpack_from("=I", parameters, 8)[0] == min(bps, 2**32 - 1)
    assert struct.unpack_from("=II", parameters, 24) == (limit, ticks)
    assert options[tc.TCA_TBF_BURST] == struct.pack("=I", bytes_)
    assert options.get(tc.TCA_TBF_RATE64) == (None if rate64 is None else struct.pack("=Q", rate64))


def shown(*command: str) -> list[dict[str, Any]]:
    """What tc shows, without the names and numbers that two devices cannot share."""
    text = subprocess.run(["tc", "-d", "-j", *command], check=True, capture_output=True, text=True).stdout
    for one in ("ours1", "theirs1"):
        text = text.replace(one, "ifb")
    found: list[dict[str, Any]] = json.loads(text)
    for entry in found:
        entry.pop("dev", None)
        for action in entry.get("options", {}).get("actions", []):
            action.pop("index", None)
    return found


@pytest.mark.sudo
@pytest.mark.parametrize(("rate", "burst"), [(1_000_000, 800_000), (40_000_000_000, 80_000_000), (8_000, 12_000)])
def test_same_as_tc(rate: int, burst: int) -> None:
    """A limit both ways, in one datagram, is in the kernel what the commands of tc would have made."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for name in ("ours", "theirs"):
            netlink.send_batch(
                [
                    rtnl.new_veth(Link("host", f"{name}0", "veth"), Link("host", f"{name}2", "veth"), None, 0),
                    rtnl.new_link(Link("host", f"{name}1", "ifb")),
                ]
            )
        veth, ifb = socket.if_nametoindex("ours0"), socket.if_nametoindex("ours1")
        limit, mirrored = Shaper("ours0", rate, burst), Shaper("ours1", rate, burst, mirror_from="ours0")
        netlink.send_batch([*tc.shape(limit, veth), *tc.shape(mirrored, ifb, veth)])
    bucket = ["root", "handle", "1:", "tbf", "rate", f"{rate}bit", "burst", f"{burst // 8}b", "latency", "25ms"]
    match = ["u32", "match", "u32", "0", "0", "flowid", "1:1"]
    redirect = ["action", "mirred", "egress", "redirect", "dev", "theirs1"]
    for command in (
        ["qdisc", "add", "dev", "theirs0", *bucket],
        ["qdisc", "add", "dev", "theirs1", *bucket],
        ["qdisc", "add", "dev", "theirs0", "ingress"],
        ["filter", "add", "dev", "theirs0", "parent", "ffff:", "protocol", "all", "prio", "1", *match, *redirect],
    ):
        subprocess.run(["tc", *command], check=True)
    for ours, theirs in (("ours0", "theirs0"), ("ours1", "theirs1")):
        assert shown("qdisc", "show", "dev", ours) == shown("qdisc", "show", "dev", theirs)
    assert shown("filter", "show", "dev", "ours0", "ingress") == shown("filter", "show", "dev", "theirs0", "ingress")
