"""A failed ADD leaves the node as it was, whichever of its steps failed: every message, sysctl, file and delegate."""

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from netns.plugin import Caller, bridged, install, netns, routed
from netns.snapshot import lines, node

from cni_py.cmd import ipam
from cni_py.cmd.delegates import ScriptDelegate
from cni_py.cni import verbs
from cni_py.cni.attach import Occasion
from cni_py.cni.call import Call, Node
from cni_py.kernel.firewall import NftFirewall
from cni_py.kernel.kernels import NodeKernels
from cni_py.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkError, NetlinkSocket
from cni_py.kernel.netns import own_identity
from cni_py.kernel.sysctl import write_sysctl
from cni_py.model.attachment import Attachment, Key
from cni_py.model.errors import CniPyError, IOFailureError, PluginError
from cni_py.model.persona import Persona
from cni_py.spec.netconf import parse_netconf
from cni_py.spec.request import parse_request
from cni_py.store.attachments import AttachmentStore

pytestmark = pytest.mark.sudo


class Fault:
    """Strikes once, at the step with the given number; counts the steps."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    def strikes(self) -> bool:
        """True at the one step."""
        self.steps += 1
        return self.steps - 1 == self.at

    @property
    def struck(self) -> bool:
        """True once it has."""
        return self.steps > self.at


class FaultySocket(NetlinkSocket):
    """Sends messages up to the faulty one, which the kernel "refuses"."""

    fault: Fault

    def send_batch(self, messages: Sequence[bytes]) -> None:
        """As the real one, until the fault strikes."""
        for index, _ in enumerate(messages):
            if self.fault.strikes():
                refused = NetlinkError(index, errno.ENOMEM, "injected")
                if self._is_route:  # the kernel works the others off all the same
                    kept = [other for other in range(len(messages)) if other != index]
                    try:
                        super().send_batch([messages[other] for other in kept])
                    except NetlinkError as error:
                        refused.failed |= {kept[other]: number for other, number in error.failed.items()}
                raise refused
        super().send_batch(messages)

    _is_route = True


def _socket(fault: Fault, protocol: int) -> Callable[[], NetlinkSocket]:
    def make() -> NetlinkSocket:
        made = FaultySocket(protocol)
        made.fault = fault
        made._is_route = protocol == NETLINK_ROUTE
        return made

    return make


class FaultyRecords(AttachmentStore):
    """A store whose disk is full at the faulty step."""

    fault: Fault

    def put(self, attachment: Attachment) -> None:
        """As the real one, unless the fault strikes."""
        if self.fault.strikes():
            raise IOFailureError("injected: No space left on device")
        super().put(attachment)


class FaultyDelegate(ScriptDelegate):
    """An IPAM that fails at the faulty step."""

    fault: Fault

    def run(self, plugin: str, command: str, key: Key | None = None) -> bytes:
        """As the real one, unless the fault strikes."""
        if command == "ADD" and self.fault.strikes():
            raise PluginError("injected: no addresses")
        return super().run(plugin, command, key)


class FaultyNode:
    """A node of real parts, each of which may fail."""

    def __init__(self, fault: Fault, caller: Caller, config: dict[str, Any], command: str = "ADD") -> None:
        environ = caller.environ(command)
        request = parse_request(environ, lambda: json.dumps(config).encode())
        self.call = Call(request, parse_netconf(config, Persona.CNI_PY), Persona.CNI_PY)
        records, delegate = (
            FaultyRecords(Path("/var/lib/cni-py")),
            FaultyDelegate(request, "/var/lib/cni-py", environ, caller.path / "cni-py"),
        )
        records.fault = delegate.fault = fault

        def write(key: str, value: str) -> None:
            if fault.strikes():
                raise OSError(errno.EACCES, "injected")
            write_sysctl(key, value)

        self._firewall = NftFirewall(_socket(fault, NETLINK_NETFILTER))
        self.node = Node(
            kernels=NodeKernels(_socket(fault, NETLINK_ROUTE), write),
            firewall=self._firewall,
            records=records,
            delegate=delegate,
            occasion=Occasion(ipam.boot_id(), 1, "0a:00:00:00:00:01", own_identity()),
        )

    def close(self) -> None:
        """The firewall's socket is gone."""
        self._firewall.close()


EVERYTHING = {
    "ipMasq": True,
    "runtimeConfig": {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
        ],
        "bandwidth": {"ingressRate": 1000000, "ingressBurst": 800000, "egressRate": 1000000, "egressBurst": 800000},
    },
}
CONFIGS = {
    "routed": routed(),
    "routed, everything": routed(**EVERYTHING),
    "bridge, made": bridged(hairpinMode=True, portIsolation=True),
    "bridge, everything": bridged(**EVERYTHING, macspoofchk=True, antispoof=True),
    "layer 2": {**bridged(isDefaultGateway=False), "ipam": {}},
}


def _fail_at(step: int, caller: Caller, config: dict[str, Any]) -> str | None:
    """ADD with a fault at that step; the error, or None if ADD has fewer steps and went through."""
    fault = Fault(step)
    faulty = FaultyNode(fault, caller, config)
    try:
        verbs.add(faulty.call, faulty.node)
    except CniPyError as error:
        return error.message
    finally:
        faulty.close()
    return None if not fault.struck else f"no error, though step {step} failed"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("populated", [False, True], ids=["empty node", "beside another container"])
def test_undo_from_every_step(name: str, populated: bool, tmp_path: Path) -> None:
    """ADD fails at each step in turn; each time links, routes, nft, qdiscs, leases and records are as before."""
    caller = Caller(install(tmp_path / "bin"))
    netns("c1", "c2")
    config = CONFIGS[name]
    if populated:
        other = replace(caller, container="c2", netns="/run/netns/c2")
        plain = {**config, "runtimeConfig": {}}
        other.add(plain)
    files = node("c1", "c2")["files"]
    before = lines(node("c1", "c2"))
    step = 0
    while (message := _fail_at(step, caller, config)) is not None:
        assert before == lines(node("c1", "c2")), f"step {step}: {message}"
        step += 1
    assert step >= 4
    caller.delete(config)
    assert files == node("c1", "c2")["files"]
