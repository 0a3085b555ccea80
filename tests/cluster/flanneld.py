"""A real flanneld on a node of the lab, with etcd or Kubernetes as its store."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

import pytest
from netns.overlay_lab import Member
from netns.snapshot import output

from cni_py.model.result import IPNetwork

FLANNELD = Path(os.environ.get("CNI_PY_FLANNEL", "~/.cache/cni-py/flannel")).expanduser() / "flannel"
WAIT_S = 60


class Flanneld:
    """It runs, and has its networks: those that it writes for container engines."""

    def __init__(self, member: Member, directory: Path, *store: str) -> None:
        if not FLANNELD.exists():
            pytest.skip(f"{FLANNELD} is not there: run ./dev setup")
        name = member.node.name
        self.log = directory / f"{name}-flanneld.log"
        self._file = directory / f"{name}-subnet.env"
        command = [
            *("nsenter", f"--net=/run/netns/{name}", str(FLANNELD)),
            *(*store, "-iface", "eth0", "-subnet-file", str(self._file)),
        ]
        environ = {**os.environ, "NODE_NAME": name}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        until(self._file.exists, self.said)

    def said(self) -> str:
        """The end of its log, and if it still runs."""
        return f"exit {self._process.poll()}: {self.log.read_text()[-3000:]}"

    @property
    def cidrs(self) -> tuple[IPNetwork, ...]:
        """The node's pod networks."""
        words = dict(line.split("=", 1) for line in self._file.read_text().split())
        found = (words.get("FLANNEL_SUBNET"), words.get("FLANNEL_IPV6_SUBNET"))
        interfaces: list[IPv4Interface | IPv6Interface] = [ip_interface(one) for one in found if one]
        return tuple(one.network for one in interfaces)

    @property
    def mtu(self) -> int:
        """What it leaves to pods."""
        return int(dict(line.split("=", 1) for line in self._file.read_text().split())["FLANNEL_MTU"])

    def stop(self) -> None:
        """It has ended; what it made in the kernel stays."""
        self._process.terminate()
        self._process.wait(WAIT_S)
        self._file.unlink(missing_ok=True)


@contextmanager
def flanneld(member: Member, directory: Path, *store: str) -> Iterator[Flanneld]:
    """It runs for the block, unless the test stops it; `store` are its options for where it keeps leases."""
    made = Flanneld(member, directory, *store)
    try:
        yield made
    finally:
        made.stop()


def until(holds: Callable[[], object], said: Callable[[], str]) -> None:
    """It holds, within a minute, or the test fails with what is said."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, said()
        os.sched_yield()


def routed(member: Member, cidr: IPNetwork, *words: str) -> bool:
    """True if the node has a route to the network with these words."""
    shown = output("ip", "-n", member.node.name, f"-{cidr.version}", "route", "show", str(cidr)).split()
    return bool(shown) and all(word in shown for word in words)
