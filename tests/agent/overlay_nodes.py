"""Nodes with an agent each, of the role overlay, joined by files: what an operator has on his machines, on one.

Each node is a network namespace of the lab's picture, and a mount namespace whose /run/cni-py and state are its own.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.live import PYTHON, Agent, quiet
from netns.nat_lab import ip
from netns.overlay_lab import Lab, Member, lab, network
from netns.plugin import PROGRAM

from cni_py.kernel.netns import entered
from cni_py.model.net import NodeState
from cni_py.model.overlay import BackendName, Network, Node

_PRIVATE = "mount -t tmpfs none /run/cni-py && mount -t tmpfs none /var/lib/cni-py && exec"
PATIENCE_SECONDS = 20


def eventually(true: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """It becomes true; how many seconds that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


def write_record(directory: Path, node: Node, **more: Any) -> None:
    """The file of a node, renamed into place."""
    record = {"version": 1, "cidrs": list(map(str, node.cidrs)), **more}
    record |= {f"ipv{version}": str(one) for version, one in ((4, node.ip4), (6, node.ip6)) if one is not None}
    beside = directory / f".{node.name}.new"
    beside.write_text(json.dumps(record))
    beside.rename(directory / f"{node.name}.json")


class Joined:
    """One node: the lab's member, and its agent. `directory` holds the files of all nodes."""

    def __init__(self, member: Member, directory: Path, settings: Mapping[str, Any]) -> None:
        self.member = member
        self.name = member.node.name
        self.directory = directory
        self.config = directory.parent / f"{self.name}.yaml"
        self.log = directory.parent / f"{self.name}.log"
        self.configure(settings)
        self.agent: Agent | None = None
        self.roles = "attach,overlay"

    def configure(self, settings: Mapping[str, Any]) -> None:
        """What its next agent reads."""
        whole = {"node": {"name": self.name}, "peers": {"directory": str(self.directory)}, **settings}
        self.config.write_text(json.dumps(whole))  # JSON is YAML

    def start(self, *, wait: bool = True) -> None:
        """Its agent serves."""
        state = self.directory.parent / f"{self.name}.state"
        state.mkdir(exist_ok=True)
        private = f'mount -t tmpfs none /run/cni-py && mount --bind {state} /var/lib/cni-py && exec "$@"'
        Path("/run/cni-py").mkdir(exist_ok=True)
        Path("/var/lib/cni-py").mkdir(exist_ok=True)
        net = f"--net=/run/netns/{self.name}"
        prefix = ("nsenter", net, "unshare", "--mount", "--propagation", "slave", "sh", "-c", private, "sh")
        options = ("--roles", self.roles, "--config", str(self.config), "--listen", "")
        self.agent = Agent(self.log, *options, prefix=prefix, wait=wait)

    @property
    def pid(self) -> int:
        """Of its agent."""
        assert self.agent is not None
        return self.agent.pid

    def stop(self) -> None:
        """Its agent has ended, as it should."""
        if self.agent is not None:
            self.agent.stop()
            self.agent = None

    def kill(self) -> None:
        """Its agent is dead."""
        assert self.agent is not None
        self.agent.kill()
        self.agent = None

    def close(self) -> None:
        """Nothing of it runs."""
        if self.agent is not None and self.agent.alive():
            with suppress(AssertionError):
                self.agent.kill()

    def status(self) -> dict[str, Any]:
        """What `cni-py status` says of the overlay."""
        found: dict[str, Any] = json.loads(self.command("status", "-o", "json"))["overlay"]
        return found

    def saved(self, names: set[str]) -> bool:
        """True if these are the nodes that it would know after a reboot."""
        file = self.directory.parent / f"{self.name}.state" / "nodes"
        return file.exists() and {json.loads(line)[0] for line in file.read_text().split("\n")[1:]} == names

    def command(self, *words: str, status: int = 0) -> str:
        """What `cni-py` prints on the node, and ends with that status."""
        assert self.agent is not None
        enter = ("nsenter", "-t", str(self.pid), "--net", "--mount")
        done = subprocess.run(
            [*enter, *PYTHON, str(PROGRAM), *words], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def place_of_agent(self) -> Iterator[Callable[..., str]]:
        """What runs `cni-py` where the agent is now, also after it has ended: what it says."""
        holder = subprocess.Popen(["nsenter", "-t", str(self.pid), "--net", "--mount", "sleep", "600"])
        enter = ("nsenter", "-t", str(holder.pid), "--net", "--mount")

        def command(*words: str) -> str:
            done = subprocess.run(
                [*enter, *PYTHON, str(PROGRAM), *words], check=False, capture_output=True, text=True, timeout=60
            )
            return done.stdout + done.stderr

        try:
            yield command
        finally:
            holder.kill()
            holder.wait()

    def cni(self, command: str, container: str, config: Mapping[str, Any], status: int = 0, args: str = "") -> Any:
        """What the plugin answers to a call for the namespace of that name, on the node, and ends with that status."""
        assert self.agent is not None
        environ = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_ARGS": args,
            "CNI_PATH": str(PROGRAM.parent),
            "PATH": os.environ["PATH"],
        }
        enter = ["nsenter", "-t", str(self.pid), "--net", "--mount", *PYTHON, str(PROGRAM)]
        text = json.dumps(config).encode()
        done = subprocess.run(enter, input=text, env=environ, check=False, capture_output=True)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout or b"null")

    def desired(self, peers: list[Node], of: Network) -> NodeState:
        """What the node should have."""
        return self.member.desired(peers, of)

    def settled(self, peers: list[Node], of: Network) -> bool:
        """True if the kernel has all that it should, for these peers."""
        from cni_py.model.converge import converge  # noqa: PLC0415

        desired = self.desired(peers, of)
        return not converge(desired, self.member.read(desired))

    def ip(self, *words: str) -> None:
        """Run iproute2 on the node."""
        with entered(self.member.place.fd):
            ip(*words)


class Cluster:
    """Nodes by number."""

    def __init__(self, made: Lab, directory: Path, settings: Mapping[str, Any]) -> None:
        self.lab = made
        self.directory = directory
        self.nodes = [Joined(member, directory, settings) for member in made.members]

    @property
    def records(self) -> list[Node]:
        """All that are in the directory."""
        return [one.member.node for one in self.nodes]

    def settle(self, of: Network) -> None:
        """Each node holds what it should."""
        for one in self.nodes:
            eventually(lambda one=one: one.settled(self.records, of), f"{one.name} holds its state")  # type: ignore[misc]

    def start(self) -> None:
        """All files are there, all agents run."""
        for node in self.records:
            write_record(self.directory, node)
        for one in self.nodes:
            one.start()


def settings(*backends: BackendName, **more: Any) -> dict[str, Any]:
    """Of the lab's network."""
    cidrs = list(map(str, network("vxlan").cidrs))
    return {"network": {"cluster": "lab", "cidrs": cidrs, "backends": backends or ("vxlan",)}, **more}


@contextmanager
def cluster(tmp_path: Path, *nodes: Node, of: Mapping[str, Any]) -> Iterator[Cluster]:
    """These nodes, not started. After it no agent of theirs runs and none had a bug to tell."""
    directory = tmp_path / "nodes"
    directory.mkdir()
    with lab(tmp_path, *nodes) as made:
        found = Cluster(made, directory, of)
        try:
            yield found
        finally:
            for one in found.nodes:
                one.close()
        for one in found.nodes:
            if one.log.exists():
                quiet(one.log)
                assert "unexpected" not in one.log.read_text(), one.log.read_text()
