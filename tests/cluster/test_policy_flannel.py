"""Policies beside a real flanneld: its VXLAN, the reference's bridge, `cni-py-policy` behind it, on two nodes."""

import json
import os
import subprocess
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from agent.live import PYTHON
from agent.overlay_nodes import Joined
from cluster.etcd_server import etcd
from cluster.flanneld import Flanneld, flanneld, routed, until
from netns.nat_lab import BRIDGE_SYSCTLS, Place
from netns.overlay_lab import lab, member
from netns.plugin import PROGRAM
from netns.plugin import netns as make_netns
from policy.test_policies import eventually
from policy.test_policy_agent import arrives, from_app, namespace, pod, policy

from cni_py.kernel import netns
from cni_py.kernel.netns import entered

CONFIG = {"Network": "10.5.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan"}}
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME="


def call(program: list[str], node: str, name: str, config: dict[str, Any]) -> Any:
    """The result of an ADD by that program, on the node, for the pod of that name."""
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_PATH": f"{Path(program[-1]).parent}",
        "CNI_ARGS": ARGS + name,
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [*node.split(), *program], input=json.dumps(config).encode(), env=environ, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def attach(node: Joined, their: Flanneld, name: str, directory: Path, reference: Path) -> Any:
    """The result of the list that flannel's own plugin makes, with ours behind it."""
    make_netns(name)
    ipam = {"type": "host-local", "subnet": str(their.cidrs[0]), "dataDir": str(directory / node.name)}
    config: dict[str, Any] = {"cniVersion": "1.0.0", "name": "cbr0", "ipam": ipam, "mtu": their.mtu}
    config |= {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True}
    result = call([str(reference / "bridge")], f"nsenter --net=/run/netns/{node.name}", name, config)
    chained = {"cniVersion": "1.0.0", "name": "cbr0", "type": "cni-py-policy", "prevResult": result}
    agent = f"nsenter -t {node.pid} --net --mount"
    assert call([*PYTHON, str(directory / "cni-py-policy")], agent, name, chained) == result
    return result


@pytest.mark.sudo
def test_beside_flanneld(tmp_path: Path, reference: Path) -> None:
    """Pods on bridges of two nodes that flanneld joins: between nodes and on one, only what the policy allows."""
    if not (BRIDGE_SYSCTLS / "bridge-nf-call-iptables").exists():
        pytest.skip("this kernel has no br_netfilter")
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (tmp_path / "cni-py-policy").symlink_to(PROGRAM)
    apps = {"web": ("web", 0), "db": ("db", 1), "cache": ("cache", 1), "near": ("cache", 0)}
    addresses: dict[str, str] = {}

    def say() -> None:
        items: list[dict[str, Any]] = [namespace("shop"), policy("allow", from_app("db"))]
        for name, (app, _) in apps.items():
            one = pod(name, app=app)
            one["status"] = {"podIPs": [{"ip": addresses[name]}] if name in addresses else []}
            items.append(one)
        (tmp_path / "new").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        (tmp_path / "new").rename(manifests / "all.json")

    with ExitStack() as stack:
        made = stack.enter_context(lab(tmp_path, member(1, "4", "4"), member(2, "4", "4")))
        server = stack.enter_context(etcd(tmp_path, address="192.0.2.254"))
        server.put("/coreos.com/network/config", json.dumps(CONFIG))
        theirs: list[Flanneld] = [
            stack.enter_context(flanneld(one, tmp_path, "-etcd-endpoints", server.url)) for one in made.members
        ]
        until(lambda: routed(made.members[0], theirs[1].cidrs[0], "flannel.1"), theirs[0].said)
        until(lambda: routed(made.members[1], theirs[0].cidrs[0], "flannel.1"), theirs[1].said)
        say()
        nodes: list[Joined] = []
        for one, their in zip(made.members, theirs, strict=True):
            with entered(one.place.fd):
                (BRIDGE_SYSCTLS / "bridge-nf-call-iptables").write_text("1")
            node = Joined(one, manifests, {"policy": {"directory": str(manifests), "cidrs": [str(their.cidrs[0])]}})
            stack.callback(node.close)
            node.roles = "attach,policy"
            node.start()
            nodes.append(node)
        places = {}
        for name, (_, number) in apps.items():
            result = attach(nodes[number], theirs[number], name, tmp_path, reference)
            addresses[name] = result["ips"][0]["address"].split("/")[0]
            fd = netns.open_path(f"/run/netns/{name}")
            stack.callback(os.close, fd)
            places[name] = Place(name, fd, IPv4Address(addresses[name]), made.members[0].place.ip6, "eth0")
        say()
        web = places["web"]
        eventually(lambda: arrives(places["db"], web), "the allowed one, of the other node, gets through")
        assert not arrives(places["cache"], web)
        assert not arrives(places["near"], web)  # on the same bridge
        assert arrives(web, places["cache"], patience=5)
        assert arrives(web, places["near"], patience=5)
