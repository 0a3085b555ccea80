"""The interface plugin, under its own name or that of bridge, ptp, portmap or bandwidth."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cni_py.cmd import ipam
from cni_py.invoke.delegate import find_plugin
from cni_py.model.attachment import Attachment, Key
from cni_py.model.errors import BadEnvironmentError, CniPyError
from cni_py.model.persona import Persona
from cni_py.spec import gojson
from cni_py.spec.request import Request
from cni_py.spec.result import render_result
from cni_py.store.attachments import AttachmentStore

if TYPE_CHECKING:
    from cni_py.cni.verbs import Call, Node

DEFAULT_STATE_DIR = "/var/lib/cni-py"


class IpamDelegate:
    """The delegate port. Our own IPAM plugin is called in this process, every other one is run."""

    def __init__(self, request: Request, environ: Mapping[str, str], program: Path) -> None:
        self._request = request
        self._environ = environ
        self._program = program.resolve()

    def run(self, plugin: str, command: str, key: Key | None = None) -> bytes:
        """What the plugin prints, called as we were but with that command and, for another attachment, its key."""
        request = replace(self._request, command=command)
        if key is not None:
            request = replace(request, container_id=key.container_id, ifname=key.ifname, netns="", args="")
        return self._call(plugin, request)

    def release(self, attachment: Attachment) -> None:
        """The lease of a recorded attachment is free, by a DEL with the configuration of the record."""
        config = json.loads(attachment.config)
        plugin = gojson.get_string(gojson.get_object(config, "ipam"), "type")
        if plugin:
            request = replace(
                self._request,
                command="DEL",
                container_id=attachment.key.container_id,
                ifname=attachment.key.ifname,
                netns="",
                args="",
                network=attachment.key.network,
                cni_version=gojson.get_string(config, "cniVersion") or "0.1.0",
                config=config,
                stdin=attachment.config.encode(),
            )
            self._call(plugin, request)

    def _call(self, plugin: str, request: Request) -> bytes:
        executable = find_plugin(plugin, request.path)
        if executable.resolve() == self._program and executable.name in (ipam.NAME, Persona.HOST_LOCAL.value):
            return ipam.call(request)
        from cni_py.invoke.process import run_plugin

        environ = {
            **self._environ,
            "CNI_COMMAND": request.command,
            "CNI_CONTAINERID": request.container_id,
            "CNI_IFNAME": request.ifname,
            "CNI_NETNS": request.netns,
            "CNI_ARGS": request.args,
        }
        return run_plugin(executable, environ, request.stdin)


def call(request: Request, persona: Persona, environ: Mapping[str, str], program: Path) -> bytes:
    """What the verb prints. STATUS, which runtimes ask every few seconds, does without pydantic and pyroute2."""
    delegate = IpamDelegate(request, environ, program)
    if request.command == "STATUS":
        _status(request, persona, delegate)
        return b""
    from cni_py.cni import verbs
    from cni_py.spec.netconf import parse_netconf

    conf = parse_netconf(request.config, persona, lenient=request.command in ("DEL", "GC"))
    this_call = verbs.Call(request, conf, persona)
    with _node(this_call, delegate) as node:
        match request.command:
            case "ADD":
                return render_result(verbs.add(this_call, node), request.cni_version)
            case "DEL":
                verbs.delete(this_call, node)
            case "CHECK":
                from cni_py.cni.check import check
                from cni_py.kernel.observe import NodeObserver

                check(this_call, node, NodeObserver())
            case "GC":
                verbs.collect_garbage(this_call, node)
            case other:
                raise BadEnvironmentError(f"unknown CNI_COMMAND: {other}")
    return b""


@contextmanager
def _node(call: "Call", delegate: IpamDelegate) -> Iterator["Node"]:
    """The real node: this machine's kernel and disk."""
    from cni_py.cni.attach import Occasion
    from cni_py.cni.verbs import Node
    from cni_py.kernel.firewall import NftFirewall
    from cni_py.kernel.kernels import NodeKernels

    shapers = None
    if call.request.command == "ADD" and (call.conf.bandwidth.ingressRate or call.conf.bandwidth.egressRate):
        from cni_py.kernel.shaper import TcShapers

        shapers = TcShapers()
    with closing(NftFirewall()) as firewall:
        yield Node(
            kernels=NodeKernels(shapers),
            firewall=firewall,
            records=AttachmentStore(Path(call.conf.stateDir)),
            delegate=delegate,
            occasion=Occasion(ipam.boot_id(), int(time.time()), "0a:" + os.urandom(5).hex(":")),
        )


def _status(request: Request, persona: Persona, delegate: IpamDelegate) -> None:
    from cni_py.cni.status import serves_traffic, status
    from cni_py.kernel.sysctl import read_sysctl

    records = AttachmentStore(Path(gojson.get_string(request.config, "stateDir") or DEFAULT_STATE_DIR))
    chained = persona in (Persona.PORTMAP, Persona.BANDWIDTH)
    ipam_type = "" if chained else gojson.get_string(gojson.get_object(request.config, "ipam"), "type")
    serving = False
    with suppress(CniPyError):
        serving = serves_traffic(records.list(request.network)[0])
    status(ipam_type, records, delegate, forwarding=read_sysctl("net/ipv4/ip_forward") == "1", serving=serving)
