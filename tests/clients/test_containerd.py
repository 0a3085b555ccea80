"""Real containers of containerd and runc: a web server fetched from a container, and from the node by its host port."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from clients.engines import (
    GREETING,
    NOTHING,
    SERVE,
    Containerd,
    fetch,
    left,
    mount_etc_and_opt,
    page,
    write_network,
)
from netns.nat_lab import ip
from netns.plugin import dual_ipam, install

pytestmark = pytest.mark.sudo(real=True)

Plugins = list[dict[str, Any]]
PORTS = {"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}
OURS: Plugins = [{"type": "cni-py", "ipMasq": True, "ipam": dual_ipam()}]
OURS_BRIDGED: Plugins = [{"type": "cni-py", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": dual_ipam()}]
# As containerd's own installation script writes it, but for the subnets.
USUAL: Plugins = [
    {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "promiscMode": True,
        "ipam": dual_ipam("host-local"),
    },
    {"type": "portmap", "capabilities": {"portMappings": True}},
]
# In each list the plugin that serves host ports.
LISTS = {"ours routed": (OURS, 0), "ours bridged": (OURS_BRIDGED, 0), "the usual names": (USUAL, 1)}


@pytest.fixture
def engine(fresh_namespaces: None, tmp_path: Path) -> Iterator[Containerd]:
    """A containerd on a node with an address, and our program under all names in /opt/cni/bin."""
    del fresh_namespaces
    install(tmp_path / "bin")
    mount_etc_and_opt(tmp_path)
    ip("link add eth0 type veth peer name away")
    ip("address add 192.0.2.1/24 dev eth0")
    ip("link set eth0 up")
    made = Containerd(tmp_path)
    try:
        yield made
    finally:
        made.close()


def _with_ports(plugins: Plugins, index: int) -> Plugins:
    """The same list with host ports, which other runtimes give by capability and `ctr` cannot."""
    return [{**plugin, **(PORTS if number == index else {})} for number, plugin in enumerate(plugins)]


@pytest.mark.parametrize("name", LISTS)
def test_web(name: str, engine: Containerd) -> None:
    """Container to container, node to container, node by 127.0.0.1 and by its own address; then nothing is left."""
    plugins, index = LISTS[name]
    write_network(_with_ports(plugins, index))
    with engine.running("web", SERVE):
        write_network(plugins)  # of two containers with one host port the second would be refused
        assert engine.output("client", fetch("http://10.7.0.2/")) == GREETING
        assert engine.output("client6", fetch("http://[fd00:7::2]/")) == GREETING
        assert engine.output("by-host-port", fetch("http://192.0.2.1:8080/")) == GREETING
        urls = ("10.7.0.2", "[fd00:7::2]", "127.0.0.1:8080", "192.0.2.1:8080")
        assert [GREETING] * len(urls) == [page(f"http://{url}/") for url in urls]
        write_network(_with_ports(plugins, index))
    assert left() == NOTHING


@pytest.mark.parametrize("name", LISTS)
def test_list_as_it_is(name: str, engine: Containerd) -> None:
    """The list without an edit: a container sees its interface, and leaves nothing."""
    write_network(LISTS[name][0])
    shown = engine.output("c1", _shell("ip -o address show eth0 | grep -o 'inet6* [0-9a-f.:/]*' | grep -v fe80"))
    assert shown.splitlines() == ["inet 10.7.0.2/24", "inet6 fd00:7::2/64"]
    assert left() == NOTHING


def test_refusal_is_shown(engine: Containerd) -> None:
    """What we refuse, the user of `ctr` reads; a host port that is taken names its owner, and nothing is left of it."""
    write_network(_with_ports(OURS, 0))
    with engine.running("web", SERVE):
        with pytest.raises(AssertionError, match=r"host port tcp \. 8080 is taken by net/"):
            engine.output("second", _shell("true"))
        assert sorted(path.name for path in Path("/var/lib/cni/networks/net").glob("10.*")) == ["10.7.0.2"]
    assert left() == NOTHING


def _shell(script: str) -> Sequence[str]:
    return ("/bin/busybox", "sh", "-c", "export PATH=/bin; alias ip='busybox ip'; " + script)
