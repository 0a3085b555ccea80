"""The option `sysctl`, beside the reference's tuning plugin, which it is modelled on."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import lines, node, output

from cni_py.model.persona import Persona

pytestmark = pytest.mark.sudo

ASKED = {
    "net.core.somaxconn": "512",
    "net/ipv4/ip_local_port_range": "1024 65000",
    "net.ipv4.conf.IFNAME.arp_filter": "1",
    "net.ipv6.conf.IFNAME.accept_ra": "2",
}
SEEN = {
    "net/core/somaxconn": "512",
    "net/ipv4/ip_local_port_range": "1024\t65000",
    "net/ipv4/conf/eth0/arp_filter": "1",
    "net/ipv6/conf/eth0/accept_ra": "2",
}
LAYER_2 = {**bridged(isDefaultGateway=False), "ipam": {}}


@pytest.fixture
def caller(fresh_namespaces: None, tmp_path: Path) -> Caller:
    """The caller for one container on an empty node."""
    del fresh_namespaces
    netns("c1")
    return Caller(install(tmp_path / "bin"))


def read(key: str, *inside: str) -> str:
    """A sysctl of a container, c1 unless another is named; of the host with ""."""
    space = ["ip", "netns", "exec", *(inside or ("c1",))] if inside != ("",) else []
    return output(*space, "cat", f"/proc/sys/{key}").strip()


@pytest.mark.parametrize("config", [routed(), bridged(), LAYER_2], ids=["routed", "bridge", "layer 2"])
def test_set_and_checked(config: dict[str, Any], caller: Caller) -> None:
    """In the container, not on the host, also against a value of our own; CHECK names what somebody changed since."""
    before = read("net/core/somaxconn", "")
    config = {**config, "sysctl": ASKED}
    result = caller.add(config)
    assert {key: read(key) for key in SEEN} == SEEN
    assert read("net/core/somaxconn", "") == before
    assert caller.verb("CHECK", {**config, "prevResult": result}) == (0, None)
    output("ip", "netns", "exec", "c1", "busybox", "sysctl", "-w", "net.core.somaxconn=100")
    code, error = caller.verb("CHECK", {**config, "prevResult": result})
    assert code == 1
    assert "write 512 to /proc/sys/net/core/somaxconn in the container" in f"{error['msg']}; {error['details']}"
    caller.delete(config)


def test_before_the_link_is_up(caller: Caller) -> None:
    """What governs a link is set before it is up: a kernel without IPv6 on it gives it no link-local address."""
    ipv4 = {"type": "cni-py-ipam", "subnet": "10.7.0.0/24"}
    caller.add(routed(sysctl={"net.ipv6.conf.IFNAME.addr_gen_mode": "1"}, ipam=ipv4))
    (link,) = json.loads(output("ip", "-n", "c1", "-j", "address", "show", "dev", "eth0"))
    assert [one["family"] for one in link["addr_info"]] == ["inet"]


def test_interface_with_a_dot(caller: Caller) -> None:
    """IFNAME is put in after dots have become slashes."""
    dotted = Caller(caller.path, ifname="eth0.5")
    dotted.add(routed(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"}))
    assert read("net/ipv4/conf/eth0.5/arp_filter") == "1"


def test_as_tuning(caller: Caller, reference: Path) -> None:
    """The reference's plugin, chained in another container, leaves the same values."""
    caller.add(routed(sysctl=ASKED))
    netns("c2")
    output("ip", "-n", "c2", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    theirs = {
        "cniVersion": "1.0.0",
        "name": "n",
        "type": "tuning",
        "sysctl": ASKED,
        "prevResult": {"cniVersion": "1.0.0"},
    }
    other = Caller(caller.path, "c2", "/run/netns/c2")
    subprocess.run([reference / "tuning"], input=json.dumps(theirs).encode(), env=other.environ("ADD"), check=True)
    assert {key: read(key) for key in SEEN} == {key: read(key, "c2") for key in SEEN}


REFUSED = [
    # what the sysctl section is, CNI code, what the error says
    ({"kernel.hostname": "x"}, 7, "invalid net sysctl key: 'kernel.hostname'"),
    ({"net": "1"}, 7, "invalid net sysctl key: 'net'"),
    ({"net.": "1"}, 7, "invalid net sysctl key: 'net.'"),
    ({"net/../kernel/hostname": "x"}, 7, "invalid net sysctl key"),
    ({"net.core/../../kernel.hostname": "x"}, 7, "invalid net sysctl key"),
    ({"/net/core/somaxconn": "1"}, 7, "invalid net sysctl key"),
    ({"net.core.some max": "1"}, 7, "invalid net sysctl key"),
    ({"net.core.so\x00maxconn": "1"}, 7, "invalid net sysctl key"),
    ({"net.core." + "x" * 300: "1"}, 7, "invalid net sysctl key"),
    ({"": "1"}, 7, "invalid net sysctl key"),
    ({"net.core.somaxconn": 512}, 7, "the value of sysctl 'net.core.somaxconn' is not a string: 512"),
    ({"net.core.somaxconn": None}, 7, "is not a string"),
    ({"net.core.somaxconn": " "}, 7, "is no line of text"),
    ({"net.core.somaxconn": "1\n2"}, 7, "is no line of text"),
    ({"net.core.somaxconn": "1" * 2000}, 7, "is no line of text"),
    ({"net.core.somaxconn": "1", "net/core/somaxconn": "2"}, 7, "sysctl 'net/core/somaxconn' is given twice"),
    (["net.core.somaxconn"], 6, "sysctl"),
    ({"net.core.nothing": "1"}, 999, "failed to write 1 to /proc/sys/net/core/nothing in the container"),
    ({"net.core.somaxconn": "many"}, 999, "Invalid argument"),
    ({"net.core": "1"}, 999, "Is a directory"),
]


@pytest.mark.parametrize(("section", "number", "text"), REFUSED, ids=[str(row[0])[:50] for row in REFUSED])
def test_refused(section: Any, number: int, text: str, caller: Caller) -> None:
    """What is not below net, no string or unknown to the kernel fails the ADD, and leaves nothing; DEL works on."""
    config = routed(sysctl=section)
    before = lines(node("c1"))
    code, error = caller.verb("ADD", config)
    assert (code, error["code"]) == (1, number), error
    assert text in error["msg"]
    assert before == lines(node("c1"))
    caller.delete(config)


@pytest.mark.parametrize("persona", [Persona.BRIDGE, Persona.PTP])
def test_not_under_the_references_names(persona: Persona, caller: Caller) -> None:
    """As in the reference's bridge and ptp the option means nothing there, whatever is in it."""
    before = read("net/core/somaxconn")
    config = {**routed(), "type": persona.value, "sysctl": {"net.core.somaxconn": "512", "kernel.hostname": 7}}
    Caller(caller.path, persona=persona).add(config)
    assert read("net/core/somaxconn") == before


def test_failure_later_on(caller: Caller) -> None:
    """An ADD that fails after some were set puts the values back: the namespace outlives it."""
    before = read("net/core/somaxconn")
    code, _ = caller.verb("ADD", routed(sysctl={"net.core.somaxconn": "512", "net.core.nothing": "1"}))
    assert (code, read("net/core/somaxconn")) == (1, before)
