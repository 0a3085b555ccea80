"""The delegate port, twice: our own IPAM plugin is called in this process; others are run here, or by the forwarder."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cni_py.cmd import ipam
from cni_py.invoke.delegate import find_plugin
from cni_py.ipam.ports import LeaseStore
from cni_py.model.attachment import Attachment, Key
from cni_py.model.persona import Persona
from cni_py.model.result import Result
from cni_py.spec import gojson
from cni_py.spec.request import Request
from cni_py.spec.result import parse_result


class IpamDelegate(ABC):
    """What the port says, over `call`: the plugin's output for a request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @abstractmethod
    def call(self, plugin: str, request: Request) -> bytes:
        """What the IPAM plugin prints. Raises DelegatedError or PluginError."""

    def lease(self, plugin: str) -> Result:
        """The result of the plugin's ADD, called as we were."""
        return parse_result(gojson.decode(self.run(plugin, "ADD")), self._request.cni_version, same_family=False)

    def run(self, plugin: str, command: str, key: Key | None = None) -> bytes:
        """What the plugin prints, called as we were but with that command and, for another attachment, its key."""
        request = self._request if command == self._request.command else replace(self._request, command=command)
        if key is not None:
            request = replace(request, container_id=key.container_id, ifname=key.ifname, netns="", args="")
        return self.call(plugin, request)

    def release(self, attachment: Attachment) -> None:
        """The lease of a recorded attachment is free, by a DEL with the configuration of the record."""
        plugin, request = release_request(attachment, self._request.path)
        if plugin:
            self.call(plugin, request)


class ScriptDelegate(IpamDelegate):
    """For a process that lives in the runtime's mount namespace: CNI_PATH is its own."""

    def __init__(self, request: Request, state_dir: str, environ: Mapping[str, str], program: Path) -> None:
        super().__init__(request)
        self._state_dir = state_dir
        self._environ = environ
        self._program = program.resolve()

    def call(self, plugin: str, request: Request) -> bytes:
        """In this process if the executable of that name is this program."""
        executable = find_plugin(plugin, request.path)
        if executable.resolve() == self._program and executable.name in (ipam.NAME, Persona.HOST_LOCAL.value):
            return ipam.call(request, attached=self._state_dir)
        from cni_py.invoke.process import run_plugin

        return run_plugin(executable, {**self._environ, **variables(request)}, request.stdin)


class AgentDelegate(IpamDelegate):
    """For the agent: `cni-py-ipam` over `leases`, others by `foreign(name, variables, stdin)` on the caller's side."""

    def __init__(
        self,
        request: Request,
        state_dir: str,
        leases: LeaseStore,
        foreign: Callable[[str, dict[str, str], bytes], bytes],
    ) -> None:
        super().__init__(request)
        self._state_dir = state_dir
        self._leases = leases
        self._foreign = foreign

    def lease(self, plugin: str) -> Result:
        """Our own plugin's result does not become JSON in between."""
        if plugin != ipam.NAME:
            return super().lease(plugin)
        return ipam.lease(self._request, self._leases, attached=self._state_dir)

    def call(self, plugin: str, request: Request) -> bytes:
        """By name alone: what the agent cannot see, it does not look up."""
        if plugin == ipam.NAME:
            return ipam.serve(request, self._leases, attached=self._state_dir)
        return self._foreign(plugin, variables(request), request.stdin)


def release_request(attachment: Attachment, path: tuple[str, ...]) -> tuple[str, Request]:
    """The IPAM plugin of a recorded attachment, "" if it has none, and the DEL that frees its lease."""
    config = json.loads(attachment.config)
    return gojson.get_string(gojson.get_object(config, "ipam"), "type"), Request(
        command="DEL",
        container_id=attachment.key.container_id,
        ifname=attachment.key.ifname,
        netns="",
        path=path,
        args="",
        netns_override=False,
        network=attachment.key.network,
        cni_version=gojson.get_string(config, "cniVersion") or "0.1.0",
        config=config,
        stdin=attachment.config.encode(),
    )


def variables(request: Request) -> dict[str, str]:
    """The CNI_ variables of a request."""
    return {
        "CNI_COMMAND": request.command,
        "CNI_CONTAINERID": request.container_id,
        "CNI_IFNAME": request.ifname,
        "CNI_NETNS": request.netns,
        "CNI_ARGS": request.args,
        "CNI_PATH": ":".join(request.path),
    }
