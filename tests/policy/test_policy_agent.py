"""The agent with the role policy, as operators run it: ADDs by the shim, manifests in a directory, the commands."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from agent.live import SHIM, Agent, running
from netns.nat_lab import BRIDGE_SYSCTLS, Place, ip, sysctl
from netns.plugin import PROGRAM, Caller, dual_ipam, routed
from netns.plugin import netns as make_netns
from policy.test_policies import eventually

from cni_py.kernel import netns

pytestmark = pytest.mark.sudo
CIDRS = ["10.7.0.0/24", "fd00:7::/64"]
_SENDER = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setblocking(False)
print("ready", flush=True)
while True:
    try:
        sender.sendto(b"x", (sys.argv[1], 9))
    except OSError:
        pass
"""


def namespace(name: str, **labels: str) -> dict[str, Any]:
    """A manifest."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, **labels: str) -> dict[str, Any]:
    """A manifest of a pod that has no address yet."""
    metadata = {"name": name, "namespace": "shop", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}


def policy(name: str, spec: Mapping[str, Any], **annotations: str) -> dict[str, Any]:
    """A manifest."""
    metadata = {"name": name, "namespace": "shop", "annotations": annotations}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def from_app(app: str, port: int = 80) -> dict[str, Any]:
    """Web pods get from the pods of one app on one port."""
    peers = [{"podSelector": {"matchLabels": {"app": app}}}]
    rule = {"from": peers, "ports": [{"protocol": "UDP", "port": port}]}
    return {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]}


class Setup:
    """A node's files: programs, settings, manifests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in ("cni-py", "cni-py-ipam", "cni-py-policy"):
            (self.bin / name).symlink_to(SHIM)
        self.manifests = directory / "manifests"
        self.manifests.mkdir()
        self.settings = directory / "config.yaml"
        settings = {"node": {"name": "n1"}, "policy": {"directory": str(self.manifests), "cidrs": CIDRS}}
        self.settings.write_text(json.dumps(settings))
        self.fds: list[int] = []
        self.uids: dict[str, str] = {}  # of pods, where an API gives them some

    def say(self, name: str, *documents: Mapping[str, Any]) -> None:
        """The file of manifests has these."""
        beside = self.directory / f".{name}"
        beside.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}))
        beside.rename(self.manifests / f"{name}.json")

    @contextmanager
    def agent(self) -> Iterator[Agent]:
        """It runs for the block."""
        arguments = ("--roles", "attach,policy", "--config", str(self.settings), "--listen", "")
        with running(self.directory, *arguments) as one:
            yield one

    def caller(self, name: str) -> Caller:
        """The environment of the container of a pod; its namespace exists."""
        if not Path(f"/run/netns/{name}").exists():
            make_netns(name)
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={name}"
        args += f";K8S_POD_UID={self.uids[name]}" if name in self.uids else ""
        return Caller(self.bin, name, f"/run/netns/{name}", args=args)

    def attach(self, name: str, config: Mapping[str, Any] | None = None) -> Place:
        """The pod's container has its interface."""
        code, result = self.caller(name).process("ADD", config or routed())
        assert code == 0, result
        fd = netns.open_path(f"/run/netns/{name}")
        self.fds.append(fd)
        four, six = (one["address"].split("/")[0] for one in result["ips"])
        return Place(name, fd, socket_address(four), socket_address(six), "eth0")


def socket_address(text: str) -> Any:
    """An address."""
    from ipaddress import ip_address  # noqa: PLC0415

    return ip_address(text)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """A node without anything."""
    made = Setup(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)


def filter_bridges(wanted: bool) -> None:
    """IP's hooks see what is bridged, or do not; skips the test where this kernel cannot."""
    for name in ("iptables", "ip6tables"):
        if (BRIDGE_SYSCTLS / f"bridge-nf-call-{name}").exists():
            sysctl(f"bridge/bridge-nf-call-{name}", str(int(wanted)))
        elif wanted:
            pytest.skip("this kernel has no br_netfilter")


def command(*words: str) -> tuple[int, str, str]:
    """`cni-py WORDS`: exit status, stdout, stderr."""
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def arrives(source: Place, destination: Place, version: int = 4, port: int = 80, patience: float = 0.3) -> bool:
    """A datagram does, within so many seconds."""
    with destination.listen(version, "udp", port) as server, source.open(version, "udp") as client:
        server.settimeout(patience)
        client.sendto(b"x", (destination.address(version), port))
        with suppress(TimeoutError):
            return server.recv(10) == b"x"
        return False


def test_policies_of_containers(setup: Setup) -> None:
    """Without any cluster: labels by manifests, names by CNI_ARGS, both versions of IP, changes as files change."""
    setup.say("pods", namespace("shop"), pod("web", app="web"), pod("db", app="db"), pod("cache", app="cache"))
    setup.say("policies", policy("allow", from_app("db")))
    with setup.agent():
        web, db, cache = (setup.attach(name) for name in ("web", "db", "cache"))
        for version in (4, 6):
            assert arrives(db, web, version, patience=5)
            assert not arrives(cache, web, version)
            assert not arrives(db, web, version, 81)
            assert arrives(web, cache, version, patience=5)
        setup.say("policies", policy("allow", from_app("cache")))
        eventually(lambda: arrives(cache, web), "the other is allowed")
        assert not arrives(db, web)
        assert setup.caller("web").process("DEL", routed())[0] == 0
        assert setup.caller("stranger").process("ADD", routed())[0] == 0  # no manifest: a pod without labels


def test_commands(setup: Setup) -> None:
    """Status, list, show, explain, flows and check, in words and as JSON."""
    setup.say("pods", namespace("shop"), pod("web", app="web"), pod("db", app="db"), pod("cache", app="cache"))
    setup.say(
        "policies", policy("allow", from_app("db")), policy("odd", {"podSelector": {}, "ingress": [{"from": [{}]}]})
    )
    with setup.agent():
        web, db, cache = (setup.attach(name) for name in ("web", "db", "cache"))
        assert not arrives(cache, web)
        code, text, _ = command("status")
        assert code == 0
        assert "policies  2 of 1 namespaces, in the kernel" in text
        assert "3 pods, 3 of this node" in text
        assert "policy shop/odd" in text
        code, text, _ = command("explain", "shop/cache", "shop/web", "--port", "80", "--protocol", "udp", "--live")
        assert code == 1
        assert text.startswith("deny: UDP 80 from ")
        assert "shop/allow" in text
        assert "live: the kernel has exactly these rules; it denied 1 packets" in text
        code, text, _ = command("explain", str(web.ip4), "shop/cache", "-o", "json")
        assert (code, json.loads(text)["verdict"]) == (1, "deny")  # by shop/odd, which restricts all of the namespace
        eventually(lambda: command("flows")[1] != "", "the kernel has told")
        code, text, _ = command("flows")
        assert code == 0
        assert "denied: shop/cache -> shop/web UDP 80, ingress, by shop/allow, shop/odd" in text, text
        code, text, _ = command("policy", "list")
        assert code == 0
        assert "app=web" in text
        code, text, _ = command("policy", "show", "shop/web")
        assert code == 0
        assert "udp dport 80 ip saddr @" in text
        assert arrives(db, web, patience=5)
        code, text, _ = command("policy", "show", "shop/allow")
        assert code == 0
        assert "applies to shop/web" in text
        assert "ingress: from pods app=db in namespace shop, UDP 80 (1 connections" in text
        assert command("policy", "show", "shop/none")[0] == 1
        new = setup.directory / "new.json"
        new.write_text(json.dumps(policy("allow", from_app("cache"))))
        code, text, _ = command("policy", "check", str(new))
        assert "deny -> allow: shop/cache to shop/web UDP 80" in text
        assert command("policy", "check", "/nowhere")[0] == 1
        code, _, error = command("explain", "shop/nobody", "shop/web")
        assert (code, "is no address and no pod that is known" in error) == (1, True)
    code, _, error = command("policy", "list")
    assert (code, "no agent answers on this node" in error) == (1, True)


def test_agent_comes_and_goes(setup: Setup) -> None:
    """Without an agent all stays as it was; the next one lets nothing pass meanwhile, and knows who is attached."""
    setup.say("pods", namespace("shop"), pod("web", app="web"), pod("db", app="db"), pod("cache", app="cache"))
    setup.say("policies", policy("allow", from_app("db")))
    with setup.agent() as agent:
        web, db, cache = (setup.attach(name) for name in ("web", "db", "cache"))
        agent.kill()
        assert arrives(db, web, patience=5)
        assert not arrives(cache, web)
    with setup.agent():
        assert arrives(db, web, patience=5)
        assert not arrives(cache, web)
        assert "3 pods, 3 of this node" in command("status")[1]


@pytest.mark.parametrize("closed", ["egress", "ingress", "neither"])
def test_no_packet_slips_through(setup: Setup, closed: str, request: pytest.FixtureRequest) -> None:
    """A pod sends without pause from before its interface is there. Denied, not one packet arrives, in 300 starts.

    Agents are killed and started meanwhile. That the probe would see a packet: it does where nothing is denied.
    """
    deny = {
        "egress": policy("deny", {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}),
        "ingress": policy("deny", {"podSelector": {"matchLabels": {"app": "db"}}}),
        "neither": policy("none", {"podSelector": {"matchLabels": {"app": "other"}}}),
    }[closed]
    setup.say("all", namespace("shop"), pod("web", app="web"), pod("db", app="db"), deny)
    starts = 21 if closed == "neither" else request.config.getoption("starts")
    with setup.agent():
        db = setup.attach("db")
    server = db.listen(4, "udp", 9)
    server.setblocking(False)  # noqa: FBT003
    caller = setup.caller("web")
    sender = subprocess.Popen(
        ["ip", "netns", "exec", "web", sys.executable, "-c", _SENDER, str(db.ip4)], stdout=subprocess.PIPE
    )
    arrived = 0
    try:
        assert sender.stdout is not None
        assert sender.stdout.readline() == b"ready\n"
        for batch in range(3):
            with setup.agent() as agent:
                for _ in range(starts // 3):
                    assert caller.process("ADD", routed())[0] == 0
                    if closed == "neither":
                        eventually(lambda: _drained(server) > 0, "the probe sees packets")
                    arrived += _drained(server)
                    assert caller.process("DEL", routed())[0] == 0
                if batch == 1:
                    agent.kill()
    finally:
        sender.kill()
        sender.wait()
        sender.stdout.close()  # type: ignore[union-attr]
        time.sleep(0.05)  # what is on its way arrives
        arrived += _drained(server)
        server.close()
    assert closed == "neither" or arrived == 0


def _drained(server: socket.socket) -> int:
    count = 0
    with suppress(BlockingIOError):
        while server.recv(10):
            count += 1
    return count


@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "unfiltered"])
@pytest.mark.parametrize("main", ["ptp", "bridge-isolated", "bridge"])
def test_behind_the_reference_plugins(setup: Setup, reference: Path, main: str, filtered: bool) -> None:
    """`cni-py-policy` chained behind somebody else's main plugin; refused where no hook would see the packets."""
    filter_bridges(filtered)
    setup.say("pods", namespace("shop"), pod("web", app="web"), pod("db", app="db"), pod("cache", app="cache"))
    setup.say("policies", policy("allow", from_app("db")))
    ipam = dual_ipam("host-local")
    kind = main.partition("-")[0]
    config: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "type": kind, "ipam": ipam}
    if kind == "bridge":
        config |= {"isGateway": True, "portIsolation": main == "bridge-isolated"}
    chained = {"cniVersion": "1.0.0", "name": "net", "type": "cni-py-policy"}

    def attach(name: str) -> Place:
        caller = setup.caller(name)
        theirs = Caller(reference, name, caller.netns, args=caller.args)
        code, result = theirs.process("ADD", config, kind)
        assert code == 0, result
        code, passed = caller.process("ADD", {**chained, "prevResult": result}, "cni-py-policy")
        if main == "bridge" and not filtered:
            assert (code, "network policies could not hold" in passed["msg"]) == (1, True)
        else:
            assert (code, passed) == (0, result)
        fd = netns.open_path(caller.netns)
        setup.fds.append(fd)
        four, six = (socket_address(one["address"].split("/")[0]) for one in result["ips"])
        return Place(name, fd, four, six, "eth0")

    with setup.agent():
        web, db, cache = (attach(name) for name in ("web", "db", "cache"))
        if main == "ptp" or (main == "bridge" and filtered):
            for version in (4, 6):
                assert arrives(db, web, version, patience=5)
                assert not arrives(cache, web, version)
        if main == "bridge-isolated":  # such ports see the gateway alone
            assert not arrives(cache, web)
        caller = setup.caller("web")
        if main != "bridge" or filtered:
            assert caller.process("DEL", chained, "cni-py-policy")[0] == 0
            seen = json.loads(command("status", "-o", "json")[1])
            assert seen["policy"]["local"] == 2


def test_hostile_manifests(setup: Setup) -> None:
    """What cannot be read is told, what could be goes on to count, other pods are not concerned."""
    setup.say("pods", namespace("shop"), pod("web", app="web"), pod("db", app="db"), pod("cache", app="cache"))
    setup.say("policies", policy("allow", from_app("db")))
    with setup.agent():
        web, db, cache = (setup.attach(name) for name in ("web", "db", "cache"))
        (setup.manifests / "policies.json").write_text('{"kind": "List", "items": [')
        (setup.manifests / "zeros.yaml").write_bytes(bytes(5000))
        many = [{"ipBlock": {"cidr": f"10.{100 + number // 250}.{number % 250}.0/24"}} for number in range(5000)]
        setup.say(
            "many", policy("many", {"podSelector": {"matchLabels": {"app": "cache"}}, "ingress": [{"from": many}]})
        )
        setup.say("odd", policy("odd", {"podSelector": {"matchLabels": {"app": "cache"}}, "egress": [{"to": 7}]}))

        def told() -> bool:
            names = {one["name"] for one in json.loads(command("status", "-o", "json")[1])["policy"]["conditions"]}
            return {"unreadable policies.json", "unreadable zeros.yaml", "policy shop/odd"} <= names

        eventually(told, "each is named")
        assert arrives(db, web, patience=5)
        assert not arrives(cache, web)
        assert not arrives(web, cache)  # 10.7.0 is in none of the blocks


def test_without_the_role(setup: Setup) -> None:
    """The chained plugin says that nobody enforces anything, rather than let everything pass."""
    ip("link add vweb type veth peer name eth0")
    previous = {"cniVersion": "1.0.0", "interfaces": [], "ips": []}
    with running(setup.directory, "--listen", ""):
        code, error = setup.caller("web").process(
            "ADD",
            {"cniVersion": "1.0.0", "name": "net", "type": "cni-py-policy", "prevResult": previous},
            "cni-py-policy",
        )
    assert (code, error["code"]) == (1, 999) or error["code"] == 11
