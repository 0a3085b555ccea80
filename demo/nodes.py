"""The second act of ./dev demo: two nodes, four containers, an overlay between them, a sabotage and its repair.

A node is a network namespace with an agent of its own, and a mount namespace for that agent's socket and state. The two
are joined by files, one a node, as an operator would write them.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "bin/cni-py"
PATIENCE_S = 20

CONFIG: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "demo",
    "type": "cni-py",
    "ipMasq": True,
    "ipam": {"type": "cni-py-ipam", "routes": [{"dst": "0.0.0.0/0"}]},
}


def run(*command: str | Path, stdin: str | None = None) -> str:
    """What the command prints. Raises SystemExit with what it said if it fails."""
    words = list(map(str, command))
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise SystemExit(f" ✗ {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def until(true: Callable[[], bool], what: str) -> float:
    """Wait until it is so; how many seconds that took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > PATIENCE_S:
            raise SystemExit(f" ✗ gave up after {PATIENCE_S} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Container:
    """A network namespace with a web server in it."""

    name: str
    node: "Node"
    address: str
    mtu: int
    server: "subprocess.Popen[bytes] | None" = None


@dataclass
class Node:
    """A node: its address, the network of its pods, its agent."""

    name: str
    address: str
    pods: str
    scratch: Path
    rootfs: Path
    agent: "subprocess.Popen[bytes] | None" = None
    containers: list[Container] = field(default_factory=list)

    def start(self) -> None:
        """It has its link to the other, and its agent has joined them."""
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"u-{self.name}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", f"u-{self.name}", "up", "master", "fabric")
        for words in ("link set lo up", "link set eth0 up", f"addr add {self.address}/24 dev eth0"):
            run("ip", "-n", self.name, *words.split())
        config = self.scratch / f"{self.name}.yaml"
        config.write_text(
            f"node: {{name: {self.name}, interface: eth0}}\n"
            "network: {cluster: demo, cidrs: [10.244.0.0/16], backends: [vxlan]}\n"
            f"peers: {{source: files, directory: {self.scratch / 'nodes'}}}\n"
        )
        own = 'mount -t tmpfs none /run/cni-py && mount -t tmpfs none /var/lib && exec "$@"'
        command = ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--mount", "--propagation", "slave"]
        command += ["sh", "-c", own, "sh", str(PROGRAM), "agent", "--roles", "attach,overlay", "--config", str(config)]
        with (self.scratch / f"{self.name}.log").open("wb") as log:
            self.agent = subprocess.Popen([*command, "--listen", ""], stderr=log)
        until(self._answers, f"the agent of {self.name} has joined: {self.scratch / f'{self.name}.log'}")

    def _answers(self) -> bool:
        done = subprocess.run([*self.enter(), str(PROGRAM), "status", "-o", "json"], capture_output=True, check=False)
        return done.returncode == 0 and bool(json.loads(done.stdout)["overlay"]["joined"])

    def enter(self) -> list[str]:
        """What a command is put behind to run on the node."""
        assert self.agent is not None  # noqa: S101  # it is started
        return ["nsenter", "-t", str(self.agent.pid), "--net", "--mount"]

    def cni(self, verb: str, container: str) -> Any:  # noqa: ANN401  # a plugin's JSON
        """The plugin's answer, called as a runtime does."""
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_PATH": str(PROGRAM.parent),
        }
        words = [*self.enter(), "env", *(f"{name}={value}" for name, value in environ.items()), str(PROGRAM)]
        return json.loads(run(*words, stdin=json.dumps(CONFIG)) or "null")

    def run_container(self, name: str) -> Container:
        """A container with a web server, which says its name."""
        run("ip", "netns", "add", name)
        result = self.cni("ADD", name)
        address, mtu = result["ips"][0]["address"].partition("/")[0], result["interfaces"][-1]["mtu"]
        www = self.rootfs / "www" / name
        www.mkdir(parents=True)
        (www / "index.html").write_text(f"hello from {name}\n")
        httpd = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", f"/www/{name}"]
        one = Container(name, self, address, mtu)
        one.server = subprocess.Popen(["ip", "netns", "exec", name, "chroot", str(self.rootfs), *httpd])
        self.containers.append(one)
        return one

    def stop(self) -> None:
        """Its containers and its agent are gone, by DEL and by SIGTERM."""
        for one in self.containers:
            if one.server is not None:
                one.server.kill()
                one.server.wait(30)
            self.cni("DEL", one.name)
            run("ip", "netns", "del", one.name)
        if self.agent is not None:
            self.agent.send_signal(signal.SIGTERM)
            self.agent.wait(30)
        run("ip", "link", "del", f"u-{self.name}")  # else it goes with the namespace, some moment later
        run("ip", "netns", "del", self.name)


def fetched(rootfs: Path, client: Container, server: Container) -> bool:
    """True if one gets the page of the other."""
    wget = ["/bin/busybox", "wget", "-qO-", f"http://{server.address}/"]
    enter = ["timeout", "2", "ip", "netns", "exec", client.name, "chroot", str(rootfs)]
    done = subprocess.run([*enter, *wget], capture_output=True, text=True, check=False)
    return done.stdout.strip() == f"hello from {server.name}"


def two_nodes(scratch: Path, rootfs: Path, say: Callable[[str, str], None]) -> None:
    """The act, from nothing to nothing. Raises SystemExit if anything is not as it should be."""
    (scratch / "nodes").mkdir()
    Path("/run/cni-py").mkdir(exist_ok=True)
    nodes = [
        Node(f"node-{letter}", f"192.0.2.{number}", f"10.244.{number}.0/24", scratch, rootfs)
        for number, letter in ((1, "a"), (2, "b"))
    ]
    for one in nodes:
        record = {"version": 1, "ipv4": one.address, "cidrs": [one.pods]}
        (scratch / "nodes" / f"{one.name}.json").write_text(json.dumps(record))
    run("ip", "link", "add", "fabric", "type", "bridge")
    run("ip", "link", "set", "fabric", "up")
    try:
        for one in nodes:
            one.start()
            say("✓", f"{one.name} at {one.address}: its agent has joined, pods {one.pods}")
        containers = [one.run_container(f"{name}-{one.name[-1]}") for one in nodes for name in ("web", "shop")]
        for client, server in ((containers[0], containers[2]), (containers[3], containers[1])):
            until(partial(fetched, rootfs, client, server), f"{server.name} answers {client.name}")
            say("✓", f"{client.name} {client.address} → {server.name} {server.address}: over VXLAN, MTU {client.mtu}")
        run("ip", "-n", nodes[0].name, "link", "del", "cpyvx4")
        say("!", f"sabotage: {nodes[0].name} has lost its tunnel's device, and all routes and neighbours with it")
        seconds = until(lambda: fetched(rootfs, containers[0], containers[2]), "the tunnel is repaired")
        say("✓", f"repaired: {containers[0].name} reaches {containers[2].name} again after {seconds * 1e3:.0f} ms")
        print(run(*nodes[0].enter(), PROGRAM, "status").rstrip())
    finally:
        for one in nodes:
            if one.agent is not None:
                one.stop()
        run("ip", "link", "del", "fabric")


if __name__ == "__main__":
    sys.exit("run ./dev demo")
