"""Items of the CNI contract that need a kernel, a sequence of calls or a runtime; the others are vectors."""

import json
import os
import select
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import lines, node, output

pytestmark = pytest.mark.sudo

CONFIGS = {"routed": routed(), "bridge": bridged()}
IPAM = """#!/bin/sh
cat >"$0.stdin"
env >"$0.env"
echo a line on stderr >&2
"""


@pytest.fixture
def caller(tmp_path: Path) -> Caller:
    """Container c1 and a CNI_PATH with our program under all its names."""
    netns("c1")
    return Caller(install(tmp_path / "bin"))


def foreign(caller: Caller, script: str) -> dict[str, Any]:
    """A routed network over an IPAM plugin that is a shell script; what it was given is beside it."""
    plugin = caller.path / "my-ipam"
    plugin.write_text(IPAM + script)
    plugin.chmod(0o755)
    return routed(ipam={"type": "my-ipam"})


ANSWER = """echo '{"ips": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1"}]}'"""


def test_regular_file_of_that_name(caller: Caller, reference: Path) -> None:
    """Item 1: libcni finds us as a file named as `type`, starts us without arguments and with its environment."""
    conf = caller.path.parent / "conf"
    conf.mkdir()
    network = {"cniVersion": "1.0.0", "name": "net", "plugins": [routed()]}
    (conf / "10.conflist").write_text(json.dumps(network))
    environ = {**os.environ, "CNI_PATH": f"/nowhere:{caller.path}", "NETCONFPATH": str(conf), "SOMETHING": "else"}
    command = [str(reference / "cnitool"), "add", "net", "/run/netns/c1"]
    added = subprocess.run(command, env=environ, capture_output=True, check=True)
    assert [ip["address"] for ip in json.loads(added.stdout)["ips"]] == ["10.7.0.2/24", "fd00:7::2/64"]


@pytest.mark.parametrize("name", CONFIGS)
def test_existing_interface(name: str, caller: Caller) -> None:
    """Item 15: an interface of that name is an error; nothing changes, no address is taken."""
    output("ip", "-n", "c1", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    before = lines(node("c1"))
    code, error = caller.verb("ADD", CONFIGS[name])
    assert (code, 'already has an interface "eth0"' in error["msg"]) == (1, True)
    assert before == lines(node("c1"))


@pytest.mark.parametrize("name", CONFIGS)
def test_add_twice(name: str, caller: Caller) -> None:
    """Item 15: a second ADD is refused, in the same and in another namespace, and the first stays whole."""
    result = caller.add(CONFIGS[name])
    netns("c2")
    for ip in (("ip", "-o", "link", "show", result["interfaces"][-2]["name"]), ("ip", "-n", "c1", "-o", "link")):
        while "state UP" not in output(*ip):
            pass  # the kernel works the carrier off in its own time; pytest's time-out bounds it
    before = lines(node("c1", "c2"))
    assert caller.verb("ADD", CONFIGS[name])[0] == 1
    assert replace(caller, netns="/run/netns/c2").verb("ADD", CONFIGS[name])[0] == 1
    assert before == lines(node("c1", "c2"))
    assert caller.verb("CHECK", {**CONFIGS[name], "prevResult": result}) == (0, None)


def test_failed_add_calls_ipam_del(caller: Caller) -> None:
    """Item 16: IPAM answered and a later step fails: its DEL is called, with the same stdin, before ADD returns."""
    config = foreign(caller, f'echo $CNI_COMMAND >>"$0.log"; [ $CNI_COMMAND = DEL ] || {ANSWER}')
    output("ip", "link", "add", "blocker", "type", "veth")
    output("ip", "route", "add", "10.7.0.9", "dev", "lo")  # the container's host route cannot be made
    code, error = caller.verb("ADD", config)
    assert (code, "10.7.0.9" in error["msg"]) == (1, True)
    assert (caller.path / "my-ipam.log").read_text().split() == ["ADD", "DEL"]
    assert json.loads((caller.path / "my-ipam.stdin").read_bytes()) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_own_namespace(name: str, caller: Caller) -> None:
    """Item 17: the host's own namespace is code 8, asked before anything is done; DEL cleans up and succeeds."""
    before = lines(node("c1"))
    own = replace(caller, netns="/proc/self/ns/net")
    code, error = own.process("ADD", CONFIGS[name])
    assert (code, error["code"]) == (1, 8)
    assert error["msg"] == "plugin's netns and netns from CNI_NETNS should not be the same"
    assert before == lines(node("c1"))
    assert own.process("DEL", CONFIGS[name]) == (0, None)


def test_own_namespace_allowed(caller: Caller) -> None:
    """Item 17: CNI_NETNS_OVERRIDE=1 allows it."""
    layer2 = bridged(ipam={}, isDefaultGateway=False)
    environ = {**os.environ, **caller.environ("ADD"), "CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": "1"}
    command = [caller.path / "cni-py"]
    done = subprocess.run(command, input=json.dumps(layer2).encode(), env=environ, capture_output=True, check=False)
    assert (done.returncode, "eth0" in output("ip", "-o", "link")) == (0, True), done.stdout


DELETED: dict[str, dict[str, Any]] = {
    "twice": {},
    "path empty": {"netns": ""},
    "namespace gone": {"netns": "/run/netns/gone"},
    "path is no namespace": {"netns": "/dev/null"},
    "never added": {"container": "never"},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("how", DELETED)
def test_del_succeeds(how: str, config: dict[str, Any], caller: Caller) -> None:
    """Item 18: DEL succeeds, silently, whatever is gone already, and leaves nothing on the host."""
    caller.add(config)
    other = replace(caller, **DELETED[how])
    other.delete(config)
    if how == "never added":
        assert "cpy" in output("ip", "-o", "link")
        caller.delete(config)
    other.delete(config)
    assert "cpy" not in output("ip", "-o", "link")
    assert node()["files"] == {}
    assert "cnipy" not in node()["host"]["nft"]


@pytest.mark.parametrize("name", CONFIGS)
def test_check(name: str, caller: Caller) -> None:
    """Item 19: CHECK right after ADD says nothing; without prevResult it is an error; what is missing is named."""
    config = CONFIGS[name]
    chained = {**config, "prevResult": caller.add(config)}
    assert caller.verb("CHECK", chained) == (0, None)
    assert caller.verb("CHECK", config)[1]["msg"] == "Required prevResult missing"
    output("ip", "-n", "c1", "address", "del", "10.7.0.2/24", "dev", "eth0")
    code, error = caller.verb("CHECK", chained)
    assert (code, "10.7.0.2/24" in error["msg"]) == (1, True)


def test_status(caller: Caller) -> None:
    """Item 20: STATUS is silent when ADD would work, forwards IPAM's 50 when a pool is full, 51 when pods suffer."""
    tiny = routed(ipam={"type": "cni-py-ipam", "subnet": "10.7.0.0/30"})
    assert caller.verb("STATUS", tiny) == (0, None)
    caller.add(tiny)
    assert caller.verb("STATUS", tiny)[1]["code"] == 50
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    assert caller.verb("STATUS", tiny)[1]["code"] == 51
    failing = foreign(caller, """echo '{"code": 123, "msg": "no"}'; exit 1""")
    assert caller.verb("STATUS", {**failing, "name": "other"})[1]["code"] == 123


GC: dict[str, tuple[dict[str, Any], set[str]]] = {
    "absent": ({}, {"c1", "c2"}),
    "null": ({"cni.dev/valid-attachments": None}, set()),
    "empty": ({"cni.dev/valid-attachments": []}, set()),
    "one": ({"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}, {"c2"}),
    "other ifname": ({"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth1"}]}, set()),
    "misspelt": ({"cni.dev/attachments": [{"containerID": "c1", "ifname": "eth0"}]}, {"c1"}),
    "both": (
        {"cni.dev/attachments": [], "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]},
        {"c1"},
    ),
}


@pytest.mark.parametrize("name", GC)
def test_gc(name: str, caller: Caller) -> None:
    """Item 21: what is not listed goes, with its address and its link; no list at all is no list."""
    listed, kept = GC[name]
    netns("c2")
    for each in ("c1", "c2"):
        replace(caller, container=each, netns=f"/run/netns/{each}").add(routed())
    output("ip", "netns", "del", "c2")
    assert caller.verb("GC", {**routed(), **listed}) == (0, None)
    leases = Path("/var/lib/cni/networks/net").glob("10.*")
    assert kept == {lease.read_text().split()[0] for lease in leases}


MALFORMED = {
    "IDs only": ["c1"],
    "numbers": [5],
    "no container": [{"ifname": "eth0"}],
    "no interface": [{"containerID": "c1"}],
    "empty ID": [{"containerID": "", "ifname": "eth0"}],
    "one good, one bad": [{"containerID": "c1", "ifname": "eth0"}, None],
    "text": "all",
    "object": {"containerID": "c1", "ifname": "eth0"},
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_of_a_malformed_list(name: str, key: str, caller: Caller) -> None:
    """Item 21: a list that is not understood names nobody for dead: code 6, and nothing is collected."""
    result = caller.add(routed())
    code, error = caller.verb("GC", {**routed(), key: MALFORMED[name]})
    assert (code, error["code"]) == (1, 6)
    assert caller.verb("CHECK", {**routed(), "prevResult": result}) == (0, None)


def test_gc_is_forwarded_and_goes_on(caller: Caller) -> None:
    """Item 21: IPAM gets GC too; an error of one attachment does not stop the others, and is reported."""
    answer = f"[ $CNI_COMMAND$CNI_CONTAINERID = DELc1 ] && exit 1; [ $CNI_COMMAND != ADD ] || {ANSWER}"
    config = foreign(caller, f'echo $CNI_COMMAND >>"$0.log"; {answer}; true')
    caller.add(config)
    code, error = caller.verb("GC", {**config, "cni.dev/valid-attachments": []})
    assert (code, "incomplete" in error["msg"]) == (1, True)
    assert (caller.path / "my-ipam.log").read_text().split()[-1] == "GC"
    assert "cpy" not in output("ip", "-o", "link")


def test_output(caller: Caller) -> None:
    """Item 23: ADD prints one JSON object, indented by 4 and without a newline at the end; the others print nothing."""
    config = {**routed(), "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    printed = {}
    for verb in ("STATUS", "ADD", "CHECK", "GC", "DEL"):
        environ = {**os.environ, **caller.environ(verb)}
        command = [caller.path / "cni-py"]
        done = subprocess.run(command, input=json.dumps(config).encode(), env=environ, capture_output=True, check=True)
        printed[verb] = done.stdout.decode()
        config |= {"prevResult": json.loads(done.stdout)} if verb == "ADD" else {}
    document = printed.pop("ADD")
    assert document == json.dumps(json.loads(document), indent=4)
    assert set(printed.values()) == {""}


def test_error_document(caller: Caller) -> None:
    """Item 24: an error is JSON on stdout with version, code and text, in the configuration's version, exit not 0."""
    code, document = caller.process("ADD", {**routed(), "cniVersion": "0.4.0", "mtu": "x"})
    assert (code, document["cniVersion"], document["code"]) == (1, "0.4.0", 6)


def test_nobody_holds_stdout(caller: Caller) -> None:
    """Item 26: end of file arrives with the exit, also when the IPAM plugin leaves a child behind."""
    config = foreign(caller, f"(exec >/dev/null 2>&1; sleep 5) & {ANSWER}")
    plugin = subprocess.Popen(
        [caller.path / "cni-py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **caller.environ("ADD")},
    )
    assert plugin.stdin is not None
    assert plugin.stdout is not None
    with plugin:
        plugin.stdin.write(json.dumps(config).encode())
        plugin.stdin.close()
        assert plugin.wait(20) == 0
        readable, _, _ = select.select([plugin.stdout], [], [], 0)
        assert readable
        assert plugin.stdout.read().endswith(b"}")  # up to the end of file, at once


def test_killed_runtime_leaves_what_del_cleans(caller: Caller) -> None:
    """Item 27: a runtime's time-out kills the plugin alone; its DEL, and then a retry, work."""
    config = foreign(caller, f'[ $CNI_COMMAND != ADD ] || [ -e "$0.go" ] || exec sleep 5; {ANSWER}')
    plugin = subprocess.Popen(
        [caller.path / "cni-py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **caller.environ("ADD")},
    )
    assert plugin.stdin is not None
    with plugin:
        plugin.stdin.write(json.dumps(config).encode())
        plugin.stdin.close()
        plugin.kill()
    (caller.path / "my-ipam.go").touch()
    caller.delete(config)
    caller.add(config)
    caller.delete(config)


def test_sandbox_is_verbatim(caller: Caller) -> None:
    """Item 28: `sandbox` is CNI_NETNS as it came, and nothing is smuggled in keys that libcni would drop."""
    known = {"name", "mac", "mtu", "sandbox", "socketPath", "pciID"}
    result = replace(caller, netns="/run/../run/netns/c1").add(routed())
    assert [one.get("sandbox") for one in result["interfaces"]] == [None, "/run/../run/netns/c1"]
    assert set().union(*result["interfaces"]) <= known
    assert set(result) <= {"cniVersion", "interfaces", "ips", "routes", "dns"}


def test_delegate_gets_what_we_got(caller: Caller) -> None:
    """Item 29: the IPAM plugin gets the identical stdin bytes and the same environment; its stderr is ours."""
    config = foreign(caller, ANSWER)
    stdin = json.dumps(config, indent=3).encode() + b"\n\n"
    environ = {**os.environ, **caller.environ("ADD"), "CNI_ARGS": "A=1;IgnoreUnknown=1", "TRACEPARENT": "00-x-y-01"}
    done = subprocess.run([caller.path / "cni-py"], input=stdin, env=environ, capture_output=True, check=True)
    assert stdin == (caller.path / "my-ipam.stdin").read_bytes()
    seen = dict(line.split("=", 1) for line in (caller.path / "my-ipam.env").read_text().splitlines() if "=" in line)
    assert {key: environ[key] for key in environ if key.startswith(("CNI_", "TRACE"))}.items() <= seen.items()
    assert done.stderr == b"a line on stderr\n"


IPAM_ANSWERS = {
    "no version": (ANSWER, 0, ""),
    "an older version": (
        """echo '{"cniVersion": "0.2.0", "ip4": {"ip": "10.7.0.9/24", "gateway": "10.7.0.1"}}'""",
        0,
        "",
    ),
    "no addresses": ('echo \'{"cniVersion": "1.1.0"}\'', 999, "IPAM plugin returned missing IP config"),
    "nothing": ("true", 6, "error unmarshall"),
    "garbage": ("echo hello", 6, "error unmarshall"),
    "an unknown version": ("""echo '{"cniVersion": "7.0.0"}'""", 6, "unsupported CNI result version"),
    "an address without a length": ("""echo '{"ips": [{"address": "10.7.0.9"}]}'""", 6, "invalid CIDR address"),
    "its own error": ("""echo '{"code": 123, "msg": "full", "details": "d"}'; exit 1""", 123, "full"),
}


@pytest.mark.parametrize("name", IPAM_ANSWERS)
def test_ipam_answers(name: str, caller: Caller) -> None:
    """Item 30: a result in any version is taken, one without addresses or sense is an error, and nothing is left."""
    script, code, text = IPAM_ANSWERS[name]
    config = foreign(caller, script)
    before = lines(node("c1"))
    status, document = caller.verb("ADD", config)
    if not code:
        assert [ip["address"] for ip in document["ips"]] == ["10.7.0.9/24"]
        return
    assert (status, document["code"], text in document["msg"]) == (1, code, True)
    assert before == lines(node("c1"))


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
def test_verbs_are_forwarded(verb: str, caller: Caller) -> None:
    """Item 31: every verb reaches the IPAM plugin, and its error comes back; DEL removes the link all the same."""
    config = foreign(
        caller,
        f'[ $CNI_COMMAND != "$(cat "$0.fail")" ] || {{ echo \'{{"code": 123, "msg": "no"}}\'; exit 1; }}; {ANSWER}',
    )
    fail = caller.path / "my-ipam.fail"
    fail.write_text("none")
    if verb != "ADD":
        config |= {"prevResult": caller.add(config)}
    fail.write_text(verb)
    code, document = caller.verb(verb, config)
    assert (code, document["code"] if verb != "GC" else 123) == (1, 123)
    if verb in ("ADD", "DEL"):
        assert "cpy" not in output("ip", "-o", "link")


def test_chain(caller: Caller, reference: Path) -> None:
    """Item 32: libcni's chain: ADD forward and cached, CHECK, DEL backward; containers at the same time."""
    conf = caller.path.parent / "conf"
    conf.mkdir()
    plugins = [bridged(), {"type": "portmap", "capabilities": {"portMappings": True}}]
    (conf / "10.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}))
    base = {**os.environ, "CNI_PATH": str(caller.path), "NETCONFPATH": str(conf)}
    netns("c2", "c3")
    names = ["c1", "c2", "c3"]

    def all_at_once(verb: str) -> list[int]:
        started = []
        for number, name in enumerate(names):
            mappings = {"portMappings": [{"hostPort": 8000 + number, "containerPort": 80, "protocol": "tcp"}]}
            environ = {**base, "CAP_ARGS": json.dumps(mappings)}
            command = [str(reference / "cnitool"), verb, "net", f"/run/netns/{name}"]
            started.append(subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL))
        return [process.wait(60) for process in started]

    assert all_at_once("add") == [0, 0, 0]
    assert len(list(Path("/var/lib/cni/results").iterdir())) == 3
    assert all_at_once("check") == [0, 0, 0]
    assert all_at_once("del") == [0, 0, 0]
    assert node()["files"] == {}
    assert "cnipy" not in node()["host"]["nft"]
