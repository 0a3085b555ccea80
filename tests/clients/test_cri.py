"""Pods as the kubelet asks containerd for them: host ports and limits as capabilities, loopback, STATUS."""

import io
import json
import tarfile
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from clients.cri import Message, call, fields
from clients.engines import GREETING, NOTHING, Containerd, left, mount_etc_and_opt, page, write_network
from netns.nat_lab import ip
from netns.plugin import dual_ipam, install
from netns.snapshot import namespace, output

pytestmark = pytest.mark.sudo(real=True)

IMAGE = "cni-py.test/pause:1"
CAPABLE = {"capabilities": {"portMappings": True, "bandwidth": True}}
LISTS: dict[str, list[dict[str, Any]]] = {
    "ours": [{"type": "cni-py", "ipMasq": True, "ipam": dual_ipam(), **CAPABLE}],
    "the usual names": [
        {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": dual_ipam("host-local")},
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ],
}
POD: Message = {
    1: {1: "web", 2: "uid-1", 3: "default"},
    2: "web",
    5: [{2: 80, 3: 8080}, {2: 81}],  # a container port alone is listed with host port 0
    7: [
        {1: "kubernetes.io/ingress-bandwidth", 2: "8M"},
        {1: "kubernetes.io/egress-bandwidth", 2: "8M"},
    ],
}


class Kubelet:
    """Calls the CRI of a containerd."""

    def __init__(self, engine: Containerd) -> None:
        self._engine = engine
        self._pods: list[str] = []

    def __call__(self, method: str, message: Message) -> dict[int, list[bytes]]:
        """One call; a failure shows containerd's log."""
        try:
            return call(self._engine.socket, method, message)
        except AssertionError as failed:
            raise AssertionError(f"{failed}\n{self._engine.log()[-3000:]}") from None

    def run(self, pod: Message) -> str:
        """A pod's sandbox, in the engine's cgroup: its ID."""
        (name,) = self("RunPodSandbox", {1: {**pod, 8: {1: f"/{self._engine.cgroup}"}}})[1]
        self._pods.append(name.decode())
        return name.decode()

    def remove(self, pod: str) -> None:
        """The pod is stopped and removed."""
        self("StopPodSandbox", {1: pod})
        self("RemovePodSandbox", {1: pod})
        self._pods.remove(pod)

    def close(self) -> None:
        """No pod is left."""
        for pod in list(self._pods):
            self.remove(pod)


def image(directory: Path) -> Path:
    """The pause image, as `docker save` would write it: busybox, which serves a page."""
    layer, path = directory / "layer.tar", directory / "image.tar"
    with tarfile.open(layer, "w") as tar:
        tar.add(directory / "rootfs", ".")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{output('sha256sum', str(layer)).split()[0]}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        tar.add(layer, "layer.tar")
        for name, content in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@contextmanager
def node(tmp_path: Path, plugins: list[dict[str, Any]]) -> Iterator[Kubelet]:
    """A containerd with its CRI, our pause image and the network of these plugins, on a node with an address."""
    mount_etc_and_opt(tmp_path)
    write_network(plugins)
    ip("link add eth0 type veth peer name away")
    ip("address add 192.0.2.1/24 dev eth0")
    ip("link set eth0 up")
    engine = Containerd(tmp_path, sandbox_image=IMAGE)
    caller = Kubelet(engine)
    try:
        engine.ctr("-n", "k8s.io", "images", "import", "--snapshotter", "native", str(image(tmp_path)))
        yield caller
    finally:
        caller.close()
        engine.close()


@pytest.fixture
def kubelet(fresh_namespaces: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Kubelet]:
    """On a node with our plugins, and the network of that name."""
    del fresh_namespaces
    install(tmp_path / "bin")
    with node(tmp_path, LISTS[request.param]) as caller:
        yield caller


@pytest.mark.parametrize("kubelet", LISTS, indirect=True)
def test_pod(kubelet: Kubelet) -> None:
    """A pod with a host port and limits: reachable, limited, both addresses in its status; nothing is left of it."""
    pod = kubelet.run(POD)
    (network,) = fields(fields(kubelet("PodSandboxStatus", {1: pod})[1][0])[5][0])[1]
    assert network == b"10.7.0.2"
    urls = ("10.7.0.2", "[fd00:7::2]", "127.0.0.1:8080", "192.0.2.1:8080")
    assert [_page(f"http://{url}/") for url in urls] == [GREETING] * len(urls)
    buckets = [line for line in namespace()["qdiscs"] if "tbf" in line]
    assert len(buckets) == 2
    assert all("rate 8Mbit" in line for line in buckets)
    kubelet.remove(pod)
    assert left() == NOTHING


@pytest.mark.parametrize("kubelet", LISTS, indirect=True)
def test_stopped_twice(kubelet: Kubelet) -> None:
    """StopPodSandbox is repeated by the kubelet at will: each time it succeeds."""
    pod = kubelet.run(POD)
    for _ in range(2):
        kubelet("StopPodSandbox", {1: pod})
    assert left() == NOTHING


def _page(url: str) -> str:
    """The page, as soon as the pod's server listens, of which nobody tells; ten seconds at most."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(urllib.error.URLError):
            return page(url)
        time.sleep(0.01)
    return page(url)
