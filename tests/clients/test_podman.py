"""Podman 4 over its CNI backend: containers that fetch from each other, `-p`, `--ip`, `--mac-address`; nothing left."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients.engines import GREETING, NOTHING, SERVE, Podman, fetch, left, page, write_network
from netns.nat_lab import ip
from netns.plugin import dual_ipam, install

pytestmark = pytest.mark.sudo(real=True)

ALL = {"portMappings": True, "ips": True, "mac": True}
LISTS: dict[str, list[dict[str, Any]]] = {
    "ours routed": [{"type": "cni-py", "ipMasq": True, "capabilities": ALL, "ipam": dual_ipam()}],
    "ours bridged": [
        {
            "type": "cni-py",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "capabilities": ALL,
            "ipam": dual_ipam(),
        }
    ],
    # As `podman network create` writes it, but for the firewall plugin, which has no nftables backend; tuning is Go's.
    "podman's own": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "capabilities": {"ips": True, "mac": True},
            "ipam": dual_ipam("host-local"),
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "tuning"},
    ],
}


@pytest.fixture
def podman(fresh_namespaces: None, tmp_path: Path, reference: Path) -> Iterator[Podman]:
    """Podman on a node with an address, our program under all names as its plugins."""
    del fresh_namespaces
    known = subprocess.run(["podman", "--network-backend=cni", "info"], check=False, capture_output=True, text=True)
    if "networkBackend: cni" not in known.stdout:
        pytest.skip(f"this podman has no CNI backend: {known.stderr.strip()}")
    (install(tmp_path / "bin") / "tuning").symlink_to(reference / "tuning")
    (tmp_path / "net.d").mkdir()
    ip("link add eth0 type veth peer name away")
    ip("address add 192.0.2.1/24 dev eth0")
    ip("link set eth0 up")
    made = Podman(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("name", LISTS)
def test_web(name: str, podman: Podman, tmp_path: Path) -> None:
    """Container to container by address and by host port, node to both; `podman rm` leaves nothing."""
    write_network(LISTS[name], directory=str(tmp_path / "net.d"))
    with podman.running("web", SERVE, "-p=8080:80"):
        assert podman.output(fetch("http://10.7.0.2/")) == GREETING
        assert podman.output(fetch("http://[fd00:7::2]/")) == GREETING
        assert podman.output(fetch("http://192.0.2.1:8080/")) == GREETING
        urls = ("10.7.0.2", "[fd00:7::2]", "127.0.0.1:8080", "192.0.2.1:8080")
        assert [GREETING] * len(urls) == [page(f"http://{url}/") for url in urls]
    assert left() == NOTHING


@pytest.mark.parametrize("name", LISTS)
def test_chosen_address(name: str, podman: Podman, tmp_path: Path) -> None:
    """`--ip` and `--mac-address` arrive as capabilities, and are what the container has."""
    write_network(LISTS[name], directory=str(tmp_path / "net.d"))
    shown = podman.output(
        ("/bin/busybox", "ip", "-o", "address", "show", "eth0"), "--ip=10.7.0.77", "--mac-address=02:00:00:00:00:77"
    )
    assert "inet 10.7.0.77/24" in shown
    link = podman.output(("/bin/busybox", "ip", "link", "show", "eth0"), "--mac-address=02:00:00:00:00:78")
    assert "link/ether 02:00:00:00:00:78" in link
    assert left() == NOTHING


def test_refusal_is_shown(podman: Podman, tmp_path: Path) -> None:
    """A host port that another container has: podman's user reads whose it is; nothing of the second is left."""
    write_network(LISTS["ours routed"], directory=str(tmp_path / "net.d"))
    with podman.running("web", SERVE, "-p=8080:80"):
        with pytest.raises(AssertionError, match=r"8080"):
            podman.output(("/bin/busybox", "true"), "-p=8080:80")
        assert sorted(path.name for path in Path("/var/lib/cni/networks/net").glob("10.*")) == ["10.7.0.2"]
    assert left() == NOTHING
