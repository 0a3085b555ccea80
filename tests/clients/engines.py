"""Container engines as a node has them, in the test's own namespaces and with directories of the test's own."""

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from netns.snapshot import node

GREETING = "hello from a container"
# httpd goes to the background once it listens; what follows on standard output is the event that a test waits for.
SERVE = ("/bin/busybox", "sh", "-c", "busybox httpd -p 80 -h /www && echo ready && exec busybox sleep 600")
WAIT_S = 60


def rootfs(directory: Path) -> Path:
    """A container's root file system: busybox and a page to serve."""
    root = directory / "rootfs"
    for name in ("bin", "www", "proc", "dev", "sys", "etc", "tmp", "run"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    (root / "www/index.html").write_text(GREETING + "\n")
    return root


def mount_etc_and_opt(directory: Path) -> None:
    """/etc is a copy that may be written, without networks; /opt is empty. The mounts go with the test's namespace."""
    for command in (
        ["mount", "-t", "tmpfs", "tmpfs", "/opt"],
        ["mkdir", "-p", "/run/etc", "/run/work", "/run/netns"],
        ["mount", "-t", "overlay", "overlay", "-o", "lowerdir=/etc,upperdir=/run/etc,workdir=/run/work", "/etc"],
        ["mkdir", "-p", "/etc/cni"],
        ["mount", "-t", "tmpfs", "tmpfs", "/etc/cni"],
        ["mkdir", "-p", "/opt/cni", "/etc/cni/net.d"],
        ["ln", "-s", str(directory / "bin"), "/opt/cni/bin"],
    ):
        subprocess.run(command, check=True)


def write_network(plugins: Sequence[dict[str, Any]], name: str = "net", directory: str = "/etc/cni/net.d") -> None:
    """The node's only network is this list; renamed into place, as runtimes read it at any moment."""
    path = Path(directory, "10-net.conflist")
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins}))
    temporary.replace(path)


def page(url: str) -> str:
    """What a web server answers to this process."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # a URL of our own
        text: str = answer.read().decode()
    return text.strip()


def fetch(url: str) -> tuple[str, ...]:
    """The command that prints a page inside a container."""
    return ("/bin/busybox", "wget", "-qO-", url)


def left() -> dict[str, Any]:
    """What is on the node of containers: devices but its own and the bridge, nftables, leases, records."""
    state = node()
    return {
        "links": sorted(set(state["host"]["links"]) - STAYS),
        "nft": state["host"]["nft"],
        "files": sorted(state["files"]),
    }


STAYS = {"lo", "cni0", "eth0", "away"}
NOTHING: dict[str, Any] = {"links": [], "nft": "", "files": []}


def remove_cgroups(name: str) -> None:
    """The cgroups of that name, in every hierarchy, are gone with their empty children."""
    found = [
        Path(directory, name) for directory, names, _ in os.walk("/sys/fs/cgroup") if name in names
    ]  # os.walk does not mind that other people's come and go
    for top in found:
        for directory, _, _ in os.walk(top, topdown=False):
            Path(directory).rmdir()


class Running:
    """A container whose command said that it is ready."""

    def __init__(
        self,
        command: Sequence[str],
        stop: Callable[[], object],
        log: IO[bytes],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._stop = stop
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ)
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        if self._stdout.readline().strip() != b"ready":
            self.close()
            raise AssertionError(f"{' '.join(command)} ended before it was ready")

    def close(self) -> None:
        """It is gone, with its network."""
        self._stop()
        self._process.wait(WAIT_S)
        self._stdout.close()


# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not start a sandbox.
CRI = """
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"""


class Containerd:
    """A containerd of the test's own, with `ctr` as its client; with a `sandbox_image` it serves the CRI as well."""

    def __init__(self, directory: Path, sandbox_image: str = "") -> None:
        self._directory = directory
        self.socket = directory / "containerd.sock"
        self._rootfs = rootfs(directory)
        self.cgroup = f"cni-py-test-{directory.name}"
        config = directory / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            + ("" if sandbox_image else 'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
            + f'[grpc]\naddress = "{self.socket}"\n'
            + (CRI.format(image=sandbox_image) if sandbox_image else "")
        )
        self._log = (directory / "containerd.log").open("wb")
        self._daemon = self._start(config)

    def _start(self, config: Path) -> "subprocess.Popen[bytes]":
        """The daemon runs and answers, which it tells in the way of systemd's services (sd_notify)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            path = self._directory / "notify"
            ready.bind(str(path))
            ready.settimeout(WAIT_S)
            environ = {**os.environ, "NOTIFY_SOCKET": str(path)}
            command = ["containerd", "-c", str(config)]
            daemon = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environ)
            assert ready.recv(64) == b"READY=1"
        return daemon

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        options = ["--rm", "--cni", "--cgroup", f"{self.cgroup}/{name}", "--rootfs", str(self._rootfs)]
        return ["ctr", "-a", str(self.socket), "run", *options, name, *command]

    @contextmanager
    def running(self, name: str, command: Sequence[str]) -> Iterator[None]:
        """A container that has printed `ready`, until the block ends."""
        kill = ["ctr", "-a", str(self.socket), "task", "kill", "-s", "9", name]
        container = Running(
            self._command(name, command), lambda: subprocess.run(kill, check=False, stderr=self._log), self._log
        )
        try:
            yield
        finally:
            container.close()

    def output(self, name: str, command: Sequence[str]) -> str:
        """What a container prints until it ends."""
        done = subprocess.run(self._command(name, command), check=False, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 0, done.stderr + self.log()
        return done.stdout.strip()

    def ctr(self, *arguments: str) -> None:
        """One command of `ctr`, which must succeed."""
        subprocess.run(["ctr", "-a", str(self.socket), *arguments], check=True, stdout=self._log, stderr=self._log)

    def log(self) -> str:
        """What the daemon and its clients said."""
        return (self._directory / "containerd.log").read_text()

    def close(self) -> None:
        """The daemon is gone, what still ran of a container that was refused its network, and the cgroups."""
        client = ["ctr", "-a", str(self.socket), "task"]
        listed = subprocess.run([*client, "ls", "-q"], check=True, capture_output=True, text=True).stdout
        for name in listed.split():
            subprocess.run([*client, "delete", "--force", name], check=True, stderr=self._log)
        self._daemon.terminate()
        self._daemon.wait(WAIT_S)
        self._log.close()
        remove_cgroups(self.cgroup)


class Podman:
    """Podman 4 with its CNI backend; configuration and cgroups are the test's own, as are /var/lib and /run."""

    def __init__(self, directory: Path) -> None:
        self._rootfs = rootfs(directory)
        self._cgroup = f"cni-py-test-{directory.name}"
        config = directory / "containers.conf"
        config.write_text(
            f'[network]\nnetwork_backend = "cni"\ncni_plugin_dirs = ["{directory}/bin"]\ndefault_network = "net"\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
        )
        self._environ = {**os.environ, "CONTAINERS_CONF": str(config), "HOME": str(directory)}
        self._podman = ["podman", "--runtime=/usr/sbin/runc", f"--network-config-dir={directory}/net.d"]
        self._log = (directory / "podman.log").open("wb")

    def __call__(self, *arguments: str) -> str:
        """What one command of podman prints."""
        done = subprocess.run(
            [*self._podman, *arguments], env=self._environ, check=False, capture_output=True, text=True, timeout=WAIT_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _run_command(self, command: Sequence[str], options: Sequence[str]) -> list[str]:
        """The limits are those that a container without CAP_SYS_RESOURCE may have."""
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", f"--cgroup-parent={self._cgroup}"]
        return ["run", "--rm", *limits, "--network=net", *options, "--rootfs", str(self._rootfs), *command]

    @contextmanager
    def running(self, name: str, command: Sequence[str], *options: str) -> Iterator[None]:
        """A container that has printed `ready`, until the block ends."""
        container = Running(
            [*self._podman, *self._run_command(command, (f"--name={name}", *options))],
            lambda: self("rm", "--force", "--time=0", "--ignore", name),
            self._log,
            self._environ,
        )
        try:
            yield
        finally:
            container.close()

    def output(self, command: Sequence[str], *options: str) -> str:
        """What a container prints until it ends."""
        return self(*self._run_command(command, options))

    def close(self) -> None:
        """No container is left, nor a cgroup."""
        self("rm", "--force", "--time=0", "--all")
        self._log.close()
        remove_cgroups(self._cgroup)
