"""A hundred real containers of containerd behind the shim and a live agent, which is restarted in between."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent.live import SHIM, Agent, quiet
from clients.cri import fields
from clients.engines import GREETING, NOTHING, left, page
from clients.test_cri import Kubelet, node
from netns.plugin import dual_ipam, install

pytestmark = [pytest.mark.sudo(real=True), pytest.mark.timeout(300)]

PODS = 100
RESTARTS = (20, 50, 80)
CAPABLE = {"capabilities": {"portMappings": True}}
OURS: list[dict[str, Any]] = [{"type": "cni-py", "ipMasq": True, "ipam": dual_ipam(), **CAPABLE}]


@pytest.fixture
def kubelet(fresh_namespaces: None, tmp_path: Path) -> Iterator[Kubelet]:
    """A containerd with its CRI, on a node whose plugins are all the shim."""
    del fresh_namespaces
    install(tmp_path / "bin", program=SHIM)
    with node(tmp_path, OURS) as caller:
        yield caller


class Restarted:
    """The node's agent, which is stopped now and then, and on its way up again when the next pod comes or goes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._agent = Agent(log)
        self._waits = False

    def before(self, number: int) -> None:
        """The pod with that number is the next."""
        if self._waits:
            self._agent.await_ready()
            self._waits = False
        if number in RESTARTS:
            self._agent.stop()
            self._agent = Agent(self._log, wait=False)
            self._waits = True

    def close(self) -> None:
        """It has ended in order."""
        self.before(-1)
        self._agent.stop()
        quiet(self._log)


def test_hundred_pods(kubelet: Kubelet, tmp_path: Path) -> None:
    """Each has an address of its own at which it serves; the agent is restarted meanwhile; nothing is left of them."""
    agent = Restarted(tmp_path / "agent.log")
    pods: dict[str, str] = {}
    for number in range(PODS):
        agent.before(number)
        name = f"p{number}"
        pod = kubelet.run({1: {1: name, 2: name, 3: "default"}, 2: name, 5: [{2: 80, 3: 9000 + number}]})
        (network,) = fields(fields(kubelet("PodSandboxStatus", {1: pod})[1][0])[5][0])[1]
        pods[pod] = network.decode()
    assert len(set(pods.values())) == PODS
    assert {page(f"http://{address}/") for address in pods.values()} == {GREETING}
    assert {page(f"http://192.0.2.1:{9000 + number}/") for number in range(0, PODS, 10)} == {GREETING}
    for number, pod in enumerate(pods):
        agent.before(number)
        kubelet.remove(pod)
    agent.close()
    assert left() == NOTHING
