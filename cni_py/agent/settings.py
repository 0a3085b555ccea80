"""The agent's configuration file: one schema for the node, its network and where its peers come from.

    node: {name: n1, interface: eth0}
    network: {cluster: prod, cidrs: [10.244.0.0/16], backends: [direct, vxlan]}
    peers: {source: kubernetes}

A key that is not known is an error that names the nearest one.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cni_py.model.errors import InvalidConfigError
from cni_py.model.overlay import BackendName, Network

_PLAIN_NAME = r"[a-zA-Z0-9](?:[-._a-zA-Z0-9]{0,251}[a-zA-Z0-9])?"
_LINK_NAME = re.compile(r"[^/\s\0]{1,15}")
_Port = Field(ge=1, le=65535)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=_camel, populate_by_name=False)


class NodeSettings(_Part):
    """This node. What is not said is found out: the host's name, the link of the default route, its addresses."""

    name: str = Field("", pattern=f"^({_PLAIN_NAME})?$", description="its name among the peers; the host's if empty")
    interface: str = Field("", description="the link that leads to the other nodes")
    ipv4: IPv4Address | None = Field(None, description="the address at which it is reached, if not the link's first")
    ipv6: IPv6Address | None = Field(None, description="the same of IPv6")

    @field_validator("interface")
    @classmethod
    def _is_a_link_name(cls, value: str) -> str:
        if value and not _LINK_NAME.fullmatch(value):
            raise ValueError("it is no name of a link")
        return value


class NetworkSettings(_Part):
    """What all nodes have alike."""

    cluster: str = Field("cni-py", pattern=f"^{_PLAIN_NAME}$", description="tells networks on one underlay apart")
    cidrs: tuple[IPv4Network | IPv6Network, ...] = Field(min_length=1, description="all pod networks are within these")
    backends: tuple[BackendName, ...] = Field(("vxlan",), min_length=1, description="permitted ones, the best first")
    vni: int = Field(142, ge=1, le=(1 << 24) - 1, description="of VXLAN and VXLAN-GPE")
    vxlan_port: int = Field(4789, ge=1, le=65535, description="UDP port of VXLAN")
    gpe_port: int = Field(4790, ge=1, le=65535, description="UDP port of VXLAN-GPE")

    @model_validator(mode="after")
    def _fits(self) -> "NetworkSettings":
        if self.vxlan_port == self.gpe_port:
            raise ValueError("vxlanPort and gpePort must differ")
        if len(set(self.backends)) != len(self.backends):
            raise ValueError("a backend is there twice")
        whole = [one for one in ("none", "l2") if one in self.backends]
        if whole and len(self.backends) > 1:
            raise ValueError(f"the backend {whole[0]} goes with no other")
        return self

    def network(self) -> Network:
        """As the planners know it."""
        return Network(self.cluster, self.cidrs, self.backends, self.vni, self.vxlan_port, self.gpe_port)


class NodeLength(_Part):
    """Bits of the prefix that each node's pod network has."""

    ipv4: int = Field(24, ge=8, le=30)
    ipv6: int = Field(64, ge=16, le=126)


class EtcdSettings(_Part):
    """etcd 3.4 or later, by its JSON gateway."""

    endpoints: tuple[str, ...] = Field(min_length=1, description="https://ADDRESS:PORT, one or more")
    ca: str = Field("", description="file of the CA")
    cert: str = Field("", description="file of our certificate")
    key: str = Field("", description="file of its key")
    user: str = Field("", description="name of a user")
    password_file: str = Field("", description="file of the user's password")
    prefix: str = Field("", description="of the keys; /cni-py/CLUSTER if empty, flannel's with flannel")
    identity: str = Field("", description="what the node is known by; a hash of the machine's id if empty")
    node_length: NodeLength = Field(NodeLength(), description="how long the prefix of a node's pod network is")


class PeerSettings(_Part):
    """Where the peers come from."""

    source: Literal["files", "etcd", "kubernetes"] = Field("files", description="which of these")
    directory: Path = Field(Path("/etc/cni-py/nodes"), description="of files, one a node")
    etcd: EtcdSettings | None = Field(None, description="where etcd is")
    kubeconfig: str = Field("", description="file; empty in a Pod, which has its ServiceAccount")
    flannel: bool = Field(default=False, description="read and publish flannel's records as well")

    @model_validator(mode="after")
    def _fits(self) -> "PeerSettings":
        if self.source == "etcd" and self.etcd is None:
            raise ValueError("the source etcd needs a section etcd with its endpoints")
        if self.flannel and self.source == "files":
            raise ValueError("flannel's records are in etcd or Kubernetes")
        return self


class PolicySettings(_Part):
    """Where pods, namespaces and network policies come from, and how far they reach."""

    source: Literal["files", "kubernetes"] = Field("files", description="which of these")
    directory: Path = Field(Path("/etc/cni-py/policies"), description="of manifests, for files")
    kubeconfig: str = Field("", description="file; empty in a Pod, which has its ServiceAccount")
    cidrs: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="what this node's pods have their addresses from; the overlay's if empty"
    )
    guards_node: bool = Field(default=True, description="egress policies hold for a pod's own node as well")


class Settings(_Part):
    """The whole file."""

    node: NodeSettings = NodeSettings()
    network_settings: NetworkSettings | None = Field(None, alias="network", description="the overlay's")
    peers: PeerSettings = PeerSettings()
    policy: PolicySettings | None = Field(None, description="for the role policy")
    probe_port: int = Field(9762, ge=0, le=65535, description="UDP port of the probes between agents; 0 for none")
    probe_seconds: float = Field(10.0, ge=0.1, le=3600, description="from one probe of a peer to the next, at least")
    state_dir: Path = Field(Path("/var/lib/cni-py"), description="where the last good set of nodes is kept")

    @property
    def network(self) -> NetworkSettings:
        """The overlay's network. Raises InvalidConfigError if there is none."""
        if self.network_settings is None:
            raise InvalidConfigError("the settings have no `network`, which the overlay needs", "see docs/overlay.md")
        return self.network_settings

    @model_validator(mode="after")
    def _says_something(self) -> "Settings":
        if self.network_settings is None and self.policy is None:
            raise ValueError("network is missing")
        return self


def parse_settings(document: object, source: str) -> Settings:
    """Raises InvalidConfigError that names each wrong place, and for an unknown key the nearest one."""
    if not isinstance(document, Mapping):
        raise InvalidConfigError(f"{source}: it is no mapping of settings", "see docs/overlay.md for an example")
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        problems = [_words(one) for one in error.errors(include_url=False, include_context=False)]
        raise InvalidConfigError(
            f"{source}: {'; '.join(problems[:5])}", "see docs/overlay.md for what there is"
        ) from None


def _words(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"] if not str(part).startswith("IPv"))[:120]
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys(error["loc"][:-1]), 1)
        return f"{where!a} is not known" + (f", perhaps {near[0]!r}" if near else "")
    if error["type"] == "missing":
        return f"{where} is missing"
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{where or 'settings'}: {said[:150]}"


def _keys(path: Iterable[object]) -> list[str]:
    """What may stand there."""
    part: type[BaseModel] = Settings
    for name in path:
        found = next((one.annotation for one in part.model_fields.values() if one.alias == name), None)
        for one in (found, *getattr(found, "__args__", ())):
            if isinstance(one, type) and issubclass(one, BaseModel):
                part = one
    return [str(one.alias) for one in part.model_fields.values()]
