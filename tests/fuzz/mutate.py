"""Makes hostile calls out of good ones: their structure stays near what is valid, so that they get far."""

import copy
import random
from pathlib import Path
from typing import Any

from cni_py.model.persona import Persona

ATOMS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    65536,
    2**63,
    10**400,
    0.5,
    1e308,
    "",
    "x",
    "..",
    "../../etc",
    "a/b",
    "\n",
    "\0",
    "%s",
    "fwd",
    "\ud800",
    "\u017f",
    "é" * 20,
    "A" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": None},
]
ADDRESSES = [
    "10.7.0.9",
    "10.7.0.9/24",
    "10.7.0.1",
    "0.0.0.0/0",
    "255.255.255.255",
    "10.7.0.0/33",
    "::/0",
    "fd00:7::9/64",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "127.0.0.1",
    "224.0.0.1/4",
    "1.2.3",
    "010.7.0.9",
]
EXTRAS: dict[str, Any] = {
    "cniVersion": ["", "0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "9.9.9", "1.0", "a.b.c"],
    "name": ["net", "n-1", "", "a b", "-x", "x" * 300],
    "mode": ["routed", "bridge", "l2"],
    "bridge": ["cni0", "lo", "eth0", "x" * 16, "a:b", ".."],
    "mtu": [0, 1, 68, 1280, 1400, 65535, 65536, -5],
    "isGateway": [True, False],
    "isDefaultGateway": [True, False],
    "forceAddress": [True],
    "hairpinMode": [True],
    "promiscMode": [True],
    "portIsolation": [True],
    "macspoofchk": [True],
    "antispoof": [True, False],
    "enabledad": [True],
    "disableContainerInterface": [True],
    "ipMasq": [True],
    "vlan": [0, 1, 4095],
    "vlanTrunk": [[{"minID": 5, "maxID": 3}], [{"id": 7}], [{}]],
    "dns": [{"nameservers": ["1.1.1.1"]}, {"search": "x"}],
    "args": [{"cni": {"mac": "02:00:00:00:00:01"}}, {"cni": {"ips": ["10.7.0.9"]}}, {"cni": 7}],
    "prevResult": [
        {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"address": "10.7.0.9/24"}]},
        {"cniVersion": "0.2.0", "ip4": {"ip": "10.7.0.9/24"}},
        {"ips": [{"address": "10.7.0.9"}]},
        {"interfaces": 5},
    ],
    "runtimeConfig": [
        {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        {"portMappings": [{"HostPort": 53, "ContainerPort": 53, "Protocol": "UDP", "HostIP": "127.0.0.1"}] * 2},
        {"portMappings": [{"hostPort": 0, "containerPort": 80}, {"hostPort": 99999, "containerPort": 1}]},
        {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "::1"}]},
        {"bandwidth": {"ingressRate": 1000000, "ingressBurst": 800000, "egressRate": 1000000, "egressBurst": 800000}},
        {"bandwidth": {"ingressRate": 1, "ingressBurst": 2**32 - 1}},
        {"bandwidth": {"ingressRate": 2**64 - 1, "ingressBurst": 1}},
        {"mac": "ff:ff:ff:ff:ff:ff"},
        {"mac": "02:00:00:00:00:02"},
        {"ips": ["10.7.0.77"]},
        {"ipRanges": [[{"subnet": "10.99.0.0/30"}]]},
        {"dns": {"servers": ["1.1.1.1"], "searches": ["a"], "options": []}},
    ],
    "cni.dev/valid-attachments": [None, [], [{"containerID": "c1", "ifname": "eth0"}], [7], {"containerID": 1}, "x"],
    "capabilities": [{"portMappings": True}],
    "typo": [1],
}
IPAM_EXTRAS: dict[str, Any] = {
    "type": ["cni-py-ipam", "host-local", "", "../x", "nothere", 7],
    "subnet": ["10.8.0.0/24", "10.8.0.0/31", "10.8.0.1/24", "fd00:8::/64", "x"],
    "rangeStart": ADDRESSES,
    "rangeEnd": ADDRESSES,
    "gateway": ADDRESSES,
    "ranges": [[[{"subnet": "10.8.0.0/24"}]], [[]], [[{"subnet": "10.7.0.0/24"}], [{"subnet": "10.7.0.0/16"}]]],
    "routes": [[{"dst": "0.0.0.0/0", "gw": "10.7.0.1"}], [{"dst": "x"}], [{"dst": "0.0.0.0/0", "scope": 253}]],
    "exclude": [["10.7.0.2-10.7.0.5"], ["x"], "10.7.0.2"],
    "reuseDelay": [0, 5, -1, "x"],
    "reservations": [{"10.7.0.3": "c1"}, {"x": "y"}],
}
ARGS = [
    "",
    "IgnoreUnknown=1;K8S_POD_NAME=p",
    "MAC=02:00:00:00:00:03",
    "MAC=zz",
    "IP=10.7.0.50",
    "X=1",
    "a=b=c",
    ";",
    "=",
]


def mutate_config(rng: random.Random, config: dict[str, Any], persona: Persona) -> dict[str, Any]:
    """The configuration with some options added, and sometimes a value somewhere replaced by something odd."""
    mutated = copy.deepcopy(config) | {"type": persona.value}
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        name = rng.choice(list(EXTRAS))
        mutated[_odd_case(rng, name)] = copy.deepcopy(rng.choice(EXTRAS[name]))
    if rng.random() < 0.3 and isinstance(mutated.get("ipam"), dict):
        name = rng.choice(list(IPAM_EXTRAS))
        mutated["ipam"][name] = copy.deepcopy(rng.choice(IPAM_EXTRAS[name]))
    if rng.random() < 0.3:
        _replace_somewhere(rng, mutated)
    return mutated


def _odd_case(rng: random.Random, name: str) -> str:
    return name if rng.random() < 0.8 else rng.choice([name.upper(), name.capitalize(), name.replace("s", "\u017f")])


def _replace_somewhere(rng: random.Random, value: Any) -> None:
    """One value, at any depth, becomes an atom or an address, or goes."""
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        current = waiting.pop()
        items = (
            current.items() if isinstance(current, dict) else enumerate(current) if isinstance(current, list) else ()
        )
        for key, inner in list(items):
            places.append((current, key))
            waiting.append(inner)
    if places:
        container, key = rng.choice(places)
        if rng.random() < 0.1:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(ATOMS + ADDRESSES))


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes cut, flipped, doubled, wrapped, or with others in between."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            return (
                data[:at] + rng.choice([b"\0", b"\xff\xfe", b"NaN", b"{", b"]", b'"', b"\\ud800", b"1e999"]) + data[at:]
            )
        case 3:
            return data + data
        case 4:
            return b"[" * rng.choice([1, 50, 5000]) + data
        case _:
            return data.decode(errors="replace").encode(rng.choice(["utf-16", "utf-8-sig"]))


def environment(command: str, path: Path, container: str, rng: random.Random | None = None) -> dict[str, str]:
    """A runtime's environment; with `rng` sometimes one variable is missing or odd."""
    environ = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": f"/run/netns/{container}",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "" if rng is None or rng.random() < 0.7 else rng.choice(ARGS),
        "CNI_PATH": str(path),
    }
    if rng is not None and rng.random() < 0.15:
        odd = ["", "x\n", "a b", "../x", "é" * 9, "A" * 4000, "lo", "/dev/null", "/proc/self/ns/net", "/nowhere", "1"]
        environ[rng.choice(list(environ))] = rng.choice(odd)
    return environ
