"""CHECK passes on what ADD left, and names what somebody broke. One sabotage a test."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import output

from cni_py.model.attachment import Key, host_ifname, ifb_name

pytestmark = pytest.mark.sudo

LIMITS = {"ingressRate": 8000000, "ingressBurst": 800000, "egressRate": 8000000, "egressBurst": 800000}
SERVED = {
    "ipMasq": True,
    "runtimeConfig": {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": LIMITS,
    },
}
CONFIGS = {"routed": routed(**SERVED), "bridge": bridged(**SERVED, macspoofchk=True)}
KEY = Key("net", "c1", "eth0")
VETH, IFB = host_ifname(KEY), ifb_name(KEY)


@pytest.fixture
def caller(fresh_namespaces: None, tmp_path: Path) -> Caller:
    """The caller for one container on an empty node."""
    del fresh_namespaces
    netns("c1")
    return Caller(install(tmp_path / "bin"))


def chained(config: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """The configuration as CHECK gets it."""
    return {**config, "prevResult": result}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_right_after_add(name: str, version: str, caller: Caller) -> None:
    """CRI-O asks right after each ADD: nothing differs."""
    config = {**CONFIGS[name], "cniVersion": version}
    assert caller.verb("CHECK", chained(config, caller.add(config))) == (0, None)


@pytest.mark.parametrize("name", CONFIGS)
def test_behind_tuning(name: str, caller: Caller) -> None:
    """A later plugin of the list gave another MAC and MTU and said so in prevResult: nothing differs."""
    result = caller.add(CONFIGS[name])
    output(*["ip", "-n", "c1", "link", "set", "eth0", "address", "02:00:00:00:00:99", "mtu", "1300"])
    for interface in result["interfaces"]:
        if interface.get("sandbox"):
            interface |= {"mac": "02:00:00:00:00:99", "mtu": 1300}
    assert caller.verb("CHECK", chained(CONFIGS[name], result)) == (0, None)


SABOTAGE = [
    # network, what is done, what the error names
    ("routed", "ip -n c1 address del 10.7.0.2/24 dev eth0", "add address 10.7.0.2/24 to 'eth0' in the container"),
    ("routed", "ip -n c1 -6 address del fd00:7::2/64 dev eth0", "add address fd00:7::2/64 to 'eth0' in the container"),
    ("routed", "ip -n c1 route del default", "add route 0.0.0.0/0 via 10.7.0.1 by 'eth0' in the container"),
    ("routed", "ip -n c1 -6 route del default", "add route ::/0 via fd00:7::1 by 'eth0' in the container"),
    ("routed", "ip -n c1 link set eth0 down", "set up 'eth0' in the container"),
    ("routed", "ip -n c1 link set eth0 address 02:00:00:00:00:99", "set up 'eth0' in the container"),
    ("routed", f"ip link set {VETH} down", f"set up '{VETH}'"),
    ("routed", f"ip link del {VETH}", f"make veth '{VETH}' with 'eth0' in the container"),
    ("routed", f"ip route del 10.7.0.2 dev {VETH}", f"add route 10.7.0.2/32 by '{VETH}'"),
    ("routed", f"ip -6 route del fd00:7::2 dev {VETH}", f"add route fd00:7::2/128 by '{VETH}'"),
    ("routed", f"ip address del 10.7.0.1/32 dev {VETH}", f"add address 10.7.0.1/32 to '{VETH}'"),
    ("routed", "busybox sysctl -w net.ipv4.ip_forward=0", "write 1 to /proc/sys/net/ipv4/ip_forward"),
    ("routed", "busybox sysctl -w net.ipv6.conf.all.forwarding=0", "write 1 to /proc/sys/net/ipv6/conf/all/forwarding"),
    ("routed", f"nft delete element inet cnipy_spoof links {{ {VETH} }}", f'cnipy_spoof links {{ "{VETH}" }}'),
    ("routed", "nft delete element inet cnipy_nat hostport4 { tcp . 8080 }", "hostport4 { tcp . 8080"),
    ("routed", "nft flush set inet cnipy_nat masq4", "10.7.0.0"),
    ("routed", "nft flush ruleset", "cnipy_"),
    ("routed", "nft delete table inet cnipy_spoof", "cnipy_spoof"),
    ("routed", "nft flush table inet cnipy_nat", "write the rules of chain inet cnipy_nat "),
    ("routed", "nft flush chain inet cnipy_spoof check_address", "the rules of chain inet cnipy_spoof check_address"),
    ("bridge", "nft flush chain bridge cnipy_spoof check_mac", "the rules of chain bridge cnipy_spoof check_mac"),
    ("routed", f"tc qdisc del dev {VETH} root", f"limit '{VETH}' to 8000000 bit/s"),
    ("routed", f"tc qdisc del dev {VETH} ingress", f"limit '{IFB}' to 8000000 bit/s"),
    ("routed", f"ip link del {IFB}", f"make ifb '{IFB}'"),
    ("routed", "rm /var/lib/cni/networks/net/10.7.0.2", "10.7.0.2"),
    ("routed", "rm -r /var/lib/cni-py/attachments", "there is no record of eth0 of container c1 in network net"),
    ("bridge", f"ip link set {VETH} nomaster", f"set up '{VETH}'"),
    ("bridge", "ip link set cni0 down", "set up 'cni0'"),
    ("bridge", "ip address del 10.7.0.1/24 dev cni0", "add address 10.7.0.1/24 to 'cni0'"),
    ("bridge", "ip link del cni0", "make bridge 'cni0'"),
    ("bridge", "ip -n c1 route del default", "add route 0.0.0.0/0 via 10.7.0.1 by 'eth0' in the container"),
    ("bridge", "nft flush set bridge cnipy_spoof macs", f'cnipy_spoof macs {{ "{VETH}" . '),
]


@pytest.mark.parametrize(("name", "command", "named"), SABOTAGE)
def test_sabotage(name: str, command: str, named: str, caller: Caller) -> None:
    """CHECK fails and says what would mend it; DEL after it leaves nothing of the container."""
    result = caller.add(CONFIGS[name])
    subprocess.run(command.split(), check=True)
    code, error = caller.verb("CHECK", chained(CONFIGS[name], result))
    assert code == 1
    assert named in f"{error['msg']}; {error['details']}"
    caller.delete(chained(CONFIGS[name], result))
    assert VETH not in output("ip", "-o", "link")


def test_result_of_another_add(caller: Caller) -> None:
    """PrevResult without our address is the runtime's mistake, and is told so."""
    result = caller.add(CONFIGS["routed"])
    result["ips"] = result["ips"][1:]
    code, error = caller.verb("CHECK", chained(CONFIGS["routed"], result))
    assert (code, error["msg"]) == (1, "prevResult lacks 10.7.0.2/24")


def test_no_previous_result(caller: Caller) -> None:
    """CHECK without prevResult is an error (SPEC 1.1 section 2)."""
    caller.add(CONFIGS["routed"])
    code, error = caller.verb("CHECK", CONFIGS["routed"])
    assert (code, error["msg"]) == (1, "Required prevResult missing")


def status(config: Mapping[str, Any], caller: Caller) -> tuple[int, int, str]:
    """Exit status, error code and message of STATUS."""
    code, error = caller.verb("STATUS", config)
    return code, (error or {}).get("code", 0), (error or {}).get("msg", "")


def small_pool(kind: str) -> dict[str, Any]:
    """A network of two addresses."""
    return {
        **routed(),
        "ipam": {"type": kind, "subnet": "10.7.0.0/29", "rangeStart": "10.7.0.2", "rangeEnd": "10.7.0.3"},
    }


@pytest.mark.parametrize("kind", ["cni-py-ipam", "host-local"])
def test_status_of_a_full_pool(kind: str, caller: Caller) -> None:
    """STATUS is 50 once there is no address left, and 0 again when one is free."""
    config = small_pool(kind)
    assert status(config, caller) == (0, 0, "")
    netns("c2")
    other = Caller(caller.path, "c2", "/run/netns/c2")
    caller.add(config)
    assert status(config, caller) == (0, 0, "")
    other.add(config)
    code, number, message = status(config, caller)
    assert (code, number) == (1, 50)
    assert "no IP addresses available" in message
    other.delete(config)
    assert status(config, caller) == (0, 0, "")


@pytest.mark.parametrize("place", ["/var/lib/cni-py", "/var/lib/cni/networks"])
def test_status_of_a_read_only_directory(place: str, caller: Caller) -> None:
    """STATUS is 50 where ADD could not write a record or a lease, and names the directory."""
    Path(place).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], check=True)
    code, number, message = status(routed(), caller)
    assert (code, number) == (1, 50)
    assert place in message


def test_status_without_forwarding(caller: Caller) -> None:
    """STATUS is 51 while containers are cut off, 0 when none is attached: the next ADD switches forwarding on."""
    assert status(routed(), caller) == (0, 0, "")
    caller.add(routed())
    output("busybox", "sysctl", "-w", "net.ipv4.ip_forward=0")
    code, number, message = status(routed(), caller)
    assert (code, number) == (1, 51)
    assert message == "IP forwarding was switched off while containers are attached"
    caller.delete(routed())
    assert status(routed(), caller) == (0, 0, "")
