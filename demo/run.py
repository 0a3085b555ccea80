"""./dev demo: a web server in one container, fetched from another and by its host port; then two nodes (`nodes`).

As root the containers are containerd's (runc), which calls cni-py as it would on any node. As a normal user, in a user
namespace, they are network namespaces and the demo itself is the runtime. Either way the node is a network, mount and
process namespace of the demo's own, so nothing of it can outlive it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nodes import two_nodes

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ("cni-py", "cni-py-ipam")
SUBNET = "10.244.0.0/24"
HOST_PORT = 8080
GREETING = "hello from a container"


def say(mark: str, text: str) -> None:
    """One line of progress."""
    print(f" {mark} {text}", flush=True)


def run(*command: str | Path) -> str:
    """What the command prints; a failure ends the demo with what it said."""
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    if finished.returncode:
        raise SystemExit(f" ✗ {' '.join(map(str, command))}\n{finished.stdout}{finished.stderr}")
    return finished.stdout


def conflist(mappings: list[dict[str, Any]]) -> dict[str, Any]:
    """The demo's network. Other runtimes give port mappings themselves (capabilities); for `ctr` they stand here."""
    ipam = {"type": "cni-py-ipam", "ranges": [[{"subnet": SUBNET}]], "routes": [{"dst": "0.0.0.0/0"}]}
    plugin = {"type": "cni-py", "ipMasq": True, "ipam": ipam, "runtimeConfig": {"portMappings": mappings}}
    return {"cniVersion": "1.0.0", "name": "demo", "plugins": [plugin]}


class Containerd:
    """Containers of a containerd that the demo starts, with its state in a directory of the demo's."""

    name = "containerd and runc"

    def __init__(self, scratch: Path, rootfs: Path) -> None:
        self._socket = scratch / "containerd.sock"
        self._rootfs = rootfs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        config = scratch / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{scratch}/root"\nstate = "{scratch}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self._socket}"\n'
        )
        self._log = (scratch / "containerd.log").open("wb")
        self._daemon = subprocess.Popen(["containerd", "-c", str(config)], stdout=self._log, stderr=self._log)
        until(lambda: self._socket.exists() and not self._call("version").returncode, "containerd answers")

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "-a", str(self._socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def _run_command(self, name: str, command: list[str]) -> list[str]:
        options = ["--rm", "--cni", "--cgroup", f"cni-py-demo/{name}", "--rootfs", str(self._rootfs)]
        return ["ctr", "-a", str(self._socket), "run", *options, name, *command]

    def start(self, name: str, command: list[str]) -> None:
        """The container runs."""
        self._running[name] = subprocess.Popen(self._run_command(name, command), stdout=self._log, stderr=self._log)
        until(lambda: "RUNNING" in self._call("task", "ls").stdout, f"container {name} runs")

    def output(self, name: str, command: list[str]) -> str:
        """What a container prints until it ends."""
        return run(*self._run_command(name, command))

    def stop(self, name: str) -> None:
        """The container is gone, its network by the DEL of the runtime."""
        self._call("task", "kill", "-s", "9", name)
        self._running.pop(name).wait(30)

    def close(self) -> None:
        """The daemon and what it still ran are gone."""
        for name in list(self._running):
            self.stop(name)
        self._daemon.terminate()
        self._daemon.wait(30)
        for directory in Path("/sys/fs/cgroup").glob("**/cni-py-demo"):
            with suppress(OSError):
                directory.rmdir()


class Namespaces:
    """Containers as network namespaces; the demo calls the plugin as a runtime does."""

    name = "network namespaces (containerd needs root)"

    def __init__(self, scratch: Path, rootfs: Path) -> None:
        self._scratch = scratch
        self._rootfs = rootfs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def _cni(self, verb: str, name: str) -> None:
        network = json.loads((self._scratch / "net.d/10-demo.conflist").read_text())
        config = {**network["plugins"][0], "name": network["name"], "cniVersion": network["cniVersion"]}
        environ = {
            **os.environ,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": name,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/run/netns/{name}",
            "CNI_PATH": str(self._scratch / "bin"),
        }
        plugin = [self._scratch / "bin/cni-py"]
        finished = subprocess.run(
            plugin, input=json.dumps(config).encode(), env=environ, capture_output=True, check=False
        )
        if finished.returncode:
            raise SystemExit(f" ✗ {verb} {name}: {finished.stdout.decode()}")

    def _enter(self, name: str, command: list[str]) -> list[str]:
        return ["ip", "netns", "exec", name, "chroot", str(self._rootfs), *command]

    def start(self, name: str, command: list[str]) -> None:
        """The container runs."""
        run("ip", "netns", "add", name)
        self._cni("ADD", name)
        self._running[name] = subprocess.Popen(self._enter(name, command))

    def output(self, name: str, command: list[str]) -> str:
        """What a container prints until it ends."""
        run("ip", "netns", "add", name)
        self._cni("ADD", name)
        try:
            return run(*self._enter(name, command))
        finally:
            self._cni("DEL", name)
            run("ip", "netns", "del", name)

    def stop(self, name: str) -> None:
        """The container is gone."""
        process = self._running.pop(name)
        process.kill()
        process.wait(30)
        self._cni("DEL", name)
        run("ip", "netns", "del", name)

    def close(self) -> None:
        """All containers are gone."""
        for name in list(self._running):
            self.stop(name)


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until something is so, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f" ✗ gave up after 10 s: {what}")
        time.sleep(0.02)


def fetch(url: str) -> str:
    """The page at `url`, as soon as the server listens."""
    pages: list[str] = []

    def answered() -> bool:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2) as page:  # noqa: S310  # a URL of our own
            pages.append(page.read().decode())
        return bool(pages)

    until(answered, f"{url} answers")
    return pages[0].strip()


def prepare(scratch: Path, *, overlay: bool) -> Path:
    """The node's directories are the demo's own, the plugins installed; the containers' root file system is made.

    `overlay`: /opt/cni and /etc/cni too, where `ctr` looks and a normal user's namespace may not mount.
    """
    for path in ("/run", "/var/lib"):
        run("mount", "-t", "tmpfs", "tmpfs", path)
    Path("/run/netns").mkdir()
    places = {"/opt": ("bin", scratch / "bin"), "/etc": ("net.d", scratch / "net.d")}
    for path, (name, place) in places.items() if overlay else ():
        upper, work = Path("/run/upper" + path), Path("/run/work" + path)
        upper.mkdir(parents=True)
        work.mkdir(parents=True)
        options = f"lowerdir={path},upperdir={upper},workdir={work}"  # what is there stays: this checkout may be
        run("mount", "-t", "overlay", "overlay", "-o", options, path)
        Path(path, "cni").mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", f"{path}/cni")
        Path(path, "cni", name).symlink_to(place)
    for name in ("bin", "net.d"):
        (scratch / name).mkdir()
    for name in PLUGINS:
        (scratch / "bin" / name).symlink_to(ROOT / "bin/cni-py")
    run("ip", "link", "set", "lo", "up")
    rootfs = scratch / "rootfs"
    for name in ("bin", "www", "proc", "dev", "sys", "etc", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", rootfs / "bin/busybox")
    (rootfs / "www/index.html").write_text(GREETING + "\n")
    return rootfs


def write_network(scratch: Path, mappings: list[dict[str, Any]]) -> None:
    """The conflist is in place, whole."""
    path = scratch / "net.d/10-demo.conflist"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(conflist(mappings), indent=2))
    temporary.replace(path)


def left_behind() -> list[str]:
    """What is still there of links, routes, nftables tables, leases and records."""
    links = [line.split(":")[1].strip() for line in run("ip", "-o", "link").splitlines() if "lo:" not in line]
    routes = run("ip", "route").split()
    leases = [str(path) for path in Path("/var/lib/cni/networks").glob("*/[0-9]*.[0-9]*")]
    records = [str(path) for path in Path("/var/lib/cni-py").glob("attachments/*/*")]
    tables = run("nft", "list", "tables").splitlines()
    return [*links, *routes, *tables, *leases, *records]


def demonstrate(engine: Containerd | Namespaces, scratch: Path) -> None:
    """The demo proper."""
    say("✓", f"runtime: {engine.name}")
    write_network(scratch, [{"hostPort": HOST_PORT, "containerPort": 80, "protocol": "tcp"}])
    started = time.monotonic()
    engine.start("web", ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"])
    say("✓", f"web started in {time.monotonic() - started:.2f} s, {HOST_PORT} of the node leads to its port 80")
    print(run(scratch / "bin/cni-py", "ipam", "show").rstrip())
    (address,) = (path.name for path in Path("/var/lib/cni/networks/demo").glob("[0-9]*.[0-9]*"))
    until(lambda: fetch(f"http://{address}/") == GREETING, "web answers")
    write_network(scratch, [])  # of two containers with one host port the second would be refused
    page = engine.output("client", ["/bin/busybox", "wget", "-qO-", f"http://{address}/"]).strip()
    say("✓" if page == GREETING else "✗", f"client → http://{address}/      {page!r}")
    node = fetch(f"http://127.0.0.1:{HOST_PORT}/")
    say("✓" if node == GREETING else "✗", f"node   → http://127.0.0.1:{HOST_PORT}/ {node!r}")
    write_network(scratch, [{"hostPort": HOST_PORT, "containerPort": 80, "protocol": "tcp"}])
    engine.stop("web")
    if not page == node == GREETING:
        raise SystemExit("demo: FAILED, see ✗ above")


def main() -> None:
    """The demo, from an empty node to an empty node."""
    true_root = Path("/proc/self/uid_map").read_text().split()[:2] == ["0", "0"] and shutil.which("containerd")
    print("A node in a namespace of its own, two containers, one network of cni-py:")
    with tempfile.TemporaryDirectory(prefix="cni-py-demo-") as directory:
        scratch = Path(directory)
        engine: Containerd | Namespaces | None = None
        try:
            rootfs = prepare(scratch, overlay=bool(true_root))
            engine = (Containerd if true_root else Namespaces)(scratch, rootfs)
            demonstrate(engine, scratch)
            print("Two nodes in namespaces of their own, four containers, an overlay between them:")
            two_nodes(scratch, rootfs, say)
        finally:
            if engine is not None:
                engine.close()
        left = left_behind()
    say("✗" if left else "✓", f"left behind: {', '.join(left)}" if left else "nothing left: links, routes, nft, leases")
    if left:
        sys.exit("demo: FAILED")
    print("demo: OK")


if __name__ == "__main__":
    main()
