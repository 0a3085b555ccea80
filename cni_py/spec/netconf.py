"""The configuration of the interface plugin: the options of the reference's bridge, ptp, portmap, bandwidth, and ours.

pydantic checks the types as strictly as Go does (a string is no integer), after keys have been matched without case.
An option that nobody knows is an error that names it and the nearest known one: a typo that is silently ignored costs
an afternoon. Under the reference's names (`Persona`), where old configurations must go on working, it is ignored.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cni_py.model.attachment import STATE_DIR
from cni_py.model.errors import CniPyError, DecodeError, InvalidConfigError, UnsupportedFieldError
from cni_py.model.persona import Persona
from cni_py.spec import gojson
from cni_py.spec.memo import Memo
from cni_py.spec.request import Request
from cni_py.spec.sysctl import parse_sysctls

Mac = Annotated[str, Field(pattern=r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
VlanId = Annotated[int, Field(ge=1, le=4094)]
UInt64 = Annotated[int, Field(ge=0, lt=1 << 64)]
_IfName = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[^/:\s\x00]+$")]


def _parse_ip(value: object) -> object:
    """A string to an address; pydantic's strict mode takes only address objects."""
    if value == "":
        return None
    if isinstance(value, str):
        return IPv6Address(value) if ":" in value else IPv4Address(value)
    return value


class _Section(BaseModel):
    """Strict, frozen, and keeps what it does not know, so that it can be named."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class PortMapping(_Section):
    """One entry of `runtimeConfig.portMappings`. containerd sends `Protocol` in lower case, others in upper."""

    hostPort: int = Field(0, ge=0, le=65535)  # noqa: N815  # the wire's spelling
    containerPort: Port  # noqa: N815  # the wire's spelling
    protocol: Annotated[
        Literal["tcp", "udp", "sctp"], BeforeValidator(lambda v: v.lower() if isinstance(v, str) else v)
    ] = "tcp"
    hostIP: Annotated[IPv4Address | IPv6Address | None, BeforeValidator(_parse_ip)] = None  # noqa: N815  # the wire's


class Bandwidth(_Section):
    """Rates in bits a second, bursts in bits; containerd sends a burst of 2^32-1 for "no limit"."""

    ingressRate: UInt64 = 0  # noqa: N815  # the wire's spelling
    ingressBurst: UInt64 = 0  # noqa: N815  # the wire's spelling
    egressRate: UInt64 = 0  # noqa: N815  # the wire's spelling
    egressBurst: UInt64 = 0  # noqa: N815  # the wire's spelling


class VlanTrunk(_Section):
    """A range of VLANs that a port carries tagged, or one."""

    minID: VlanId | None = None  # noqa: N815  # the wire's spelling
    maxID: VlanId | None = None  # noqa: N815  # the wire's spelling
    id: VlanId | None = None


class RuntimeConfig(_Section):
    """Capability arguments (CONVENTIONS.md). What we do not serve is for other plugins and is let through."""

    portMappings: tuple[PortMapping, ...] = Field((), strict=False)  # noqa: N815  # the wire's spelling
    bandwidth: Bandwidth | None = None
    mac: Mac | None = None
    dns: dict[str, Any] | None = None


class CniArgs(_Section):
    """`args.cni`."""

    mac: Mac | None = None


class Args(_Section):
    """`args`; only `cni` is ours."""

    cni: CniArgs = CniArgs()


class NetConf(_Section):
    """One network configuration, as plugin `type` sees it."""

    cniVersion: str = "0.1.0"  # noqa: N815  # the wire's spelling
    name: str
    type: str = ""
    mode: Literal["routed", "bridge", "l2"] | None = None
    # bridge
    bridge: _IfName = "cni0"
    isGateway: bool = False  # noqa: N815  # the wire's spelling
    isDefaultGateway: bool = False  # noqa: N815  # the wire's spelling
    forceAddress: bool = False  # noqa: N815  # the wire's spelling
    hairpinMode: bool = False  # noqa: N815  # the wire's spelling
    promiscMode: bool = False  # noqa: N815  # the wire's spelling
    vlan: int = Field(0, ge=0, le=4094)
    vlanTrunk: tuple[VlanTrunk, ...] = Field((), strict=False)  # noqa: N815  # the wire's spelling
    preserveDefaultVlan: bool = False  # noqa: N815  # the wire's spelling
    macspoofchk: bool = False
    enabledad: bool = False
    disableContainerInterface: bool = False  # noqa: N815  # the wire's spelling
    portIsolation: bool = False  # noqa: N815  # the wire's spelling
    # bridge and ptp
    ipMasq: bool = False  # noqa: N815  # the wire's spelling
    ipMasqBackend: Literal["iptables", "nftables"] | None = None  # noqa: N815  # the wire's spelling
    mtu: int = Field(0, ge=0, le=65535)
    # portmap
    backend: Literal["iptables", "nftables"] | None = None
    snat: bool = True
    masqAll: bool = False  # noqa: N815  # the wire's spelling
    markMasqBit: int | None = Field(None, ge=0, le=31)  # noqa: N815  # the wire's spelling
    externalSetMarkChain: str | None = None  # noqa: N815  # the wire's spelling
    conditionsV4: tuple[str, ...] = Field((), strict=False)  # noqa: N815  # the wire's spelling
    conditionsV6: tuple[str, ...] = Field((), strict=False)  # noqa: N815  # the wire's spelling
    # bandwidth
    ingressRate: UInt64 = 0  # noqa: N815  # the wire's spelling
    ingressBurst: UInt64 = 0  # noqa: N815  # the wire's spelling
    egressRate: UInt64 = 0  # noqa: N815  # the wire's spelling
    egressBurst: UInt64 = 0  # noqa: N815  # the wire's spelling
    # ours
    antispoof: bool | None = None
    sysctl: dict[str, Any] = Field(default_factory=dict)
    stateDir: str = Field(STATE_DIR, pattern=r"^/[^\x00]*$")  # noqa: N815  # the wire's spelling
    # the frame of every configuration
    ipam: dict[str, Any] = Field(default_factory=dict)
    dns: dict[str, Any] = Field(default_factory=dict)
    args: Args = Args()
    runtimeConfig: RuntimeConfig = RuntimeConfig()  # noqa: N815  # the wire's spelling
    prevResult: dict[str, Any] | None = None  # noqa: N815  # the wire's spelling
    capabilities: dict[str, Any] = Field(default_factory=dict)
    disableCheck: bool = False  # noqa: N815  # the wire's spelling
    disableGC: bool = False  # noqa: N815  # the wire's spelling

    @property
    def ipam_type(self) -> str:
        """The delegate's name, "" for a network without addresses."""
        return gojson.get_string(self.ipam, "type")

    @property
    def effective_mode(self) -> Literal["routed", "bridge", "l2"]:
        """`mode`, or what the options imply: one that only the bridge plugin has means bridge."""
        if self.mode is not None:
            return self.mode
        return "bridge" if self.model_fields_set & _BRIDGE_ONLY else "routed"

    @cached_property
    def bandwidth(self) -> Bandwidth:
        """The static limits; where there are none, the runtime's (static beats runtime, as the reference has it)."""
        static = Bandwidth(
            ingressRate=self.ingressRate,
            ingressBurst=self.ingressBurst,
            egressRate=self.egressRate,
            egressBurst=self.egressBurst,
        )
        return static if static != Bandwidth() else self.runtimeConfig.bandwidth or Bandwidth()


_BRIDGE_ONLY = frozenset(
    {
        "bridge",
        "isGateway",
        "isDefaultGateway",
        "forceAddress",
        "hairpinMode",
        "promiscMode",
        "vlan",
        "vlanTrunk",
        "preserveDefaultVlan",
        "macspoofchk",
        "enabledad",
        "disableContainerInterface",
        "portIsolation",
    }
)
# What the segment's bridge is like is the same on all nodes, and the agent's.
_NOT_L2 = frozenset(
    {
        "bridge",
        "isGateway",
        "forceAddress",
        "promiscMode",
        "vlan",
        "vlanTrunk",
        "preserveDefaultVlan",
        "portIsolation",
    }
)
_read: Memo[NetConf] = Memo()
# Set by libcni or reserved by the spec; they mean nothing to an interface plugin.
_RESERVED = frozenset({"cniVersions", "loadOnlyInlinedPlugins"})


def read_netconf(request: Request, persona: Persona, *, lenient: bool) -> NetConf:
    """`parse_netconf` of the request's configuration, which is parsed once."""
    return _read.get(request.stdin, lambda: parse_netconf(request.config, persona, lenient=lenient), (persona, lenient))


def parse_netconf(config: Mapping[str, Any], persona: Persona, *, lenient: bool = False) -> NetConf:
    """The configuration, checked. `lenient` (DEL, GC): options that are unknown or wrong count as unset.

    Cleaning up comes first: a configuration that was spoiled after the ADD must not keep a container from going.

    Raises DecodeError for a value of the wrong type, InvalidConfigError for one out of range or against another,
    UnsupportedFieldError for an option that only iptables could serve.
    """
    folded = _fold(config)
    if persona is not Persona.CNI_PY:  # the reference's plugins of those names do not know it
        folded.pop("sysctl", None)
    try:
        conf = NetConf.model_validate(folded)
    except ValidationError as error:
        if not lenient:
            raise _translate(error) from None
        wrong = {fault["loc"][0] for fault in error.errors(include_url=False) if fault["loc"]}
        conf = NetConf.model_validate({name: value for name, value in folded.items() if name not in wrong})
    if persona is Persona.CNI_PY and not lenient:
        _refuse_unknown(conf)
        _refuse_beside_l2(conf)
    if not lenient:
        _refuse_contradictions(conf)
    return conf


def _fold(config: Mapping[str, Any]) -> dict[str, Any]:
    folded = gojson.fold_keys(config, NetConf.model_fields)
    runtime = folded.get("runtimeConfig")
    if isinstance(runtime, dict):
        folded["runtimeConfig"] = runtime = gojson.fold_keys(runtime, RuntimeConfig.model_fields)
        if isinstance(runtime.get("portMappings"), list):
            runtime["portMappings"] = [_fold_section(entry, PortMapping) for entry in runtime["portMappings"]]
        if "bandwidth" in runtime:
            runtime["bandwidth"] = _fold_section(runtime["bandwidth"], Bandwidth)
    arguments = folded.get("args")
    if isinstance(arguments, dict):
        folded["args"] = arguments = gojson.fold_keys(arguments, Args.model_fields)
        if "cni" in arguments:
            arguments["cni"] = _fold_section(arguments["cni"], CniArgs)
    if isinstance(folded.get("vlanTrunk"), list):
        folded["vlanTrunk"] = [_fold_section(entry, VlanTrunk) for entry in folded["vlanTrunk"]]
    return folded


def _fold_section(value: object, section: type[_Section]) -> object:
    return gojson.fold_keys(value, section.model_fields) if isinstance(value, dict) else value


def _translate(error: ValidationError) -> CniPyError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
    text = f"failed to load netconf: {where}: {first['msg']}"
    if first["type"] == "missing":
        return InvalidConfigError(text)
    wrong_type = first["type"].endswith("_type") or first["type"] == "int_from_float"
    return (DecodeError if wrong_type else InvalidConfigError)(text, f"it is {str(first['input'])[:80]!r}")


def _refuse_unknown(conf: NetConf) -> None:
    for section, where, known in _strict_sections(conf):
        for key in section.model_extra or {}:
            if key in _RESERVED or "/" in key or "." in key:  # `cni.dev/...` and other people's namespaces
                continue
            near = get_close_matches(key, known, n=1, cutoff=0.5) or get_close_matches(
                key.lower(), [name.lower() for name in known], n=1, cutoff=0.5
            )
            spelled = next((name for name in known if near and name.lower() == near[0].lower()), "")
            hint = f"did you mean {spelled!r}? " if spelled else ""
            raise InvalidConfigError(f"unknown option {where + key!r}", f"{hint}known are: {', '.join(sorted(known))}")


def _strict_sections(conf: NetConf) -> Iterator[tuple[_Section, str, list[str]]]:
    """The sections that are ours alone. `runtimeConfig`, `args` and `ipam` hold what is for others as well."""
    yield conf, "", list(NetConf.model_fields)
    for index, entry in enumerate(conf.vlanTrunk):
        yield entry, f"vlanTrunk.{index}.", list(VlanTrunk.model_fields)


def _refuse_beside_l2(conf: NetConf) -> None:
    wrong = sorted(conf.model_fields_set & _NOT_L2) if conf.mode == "l2" else []
    if wrong:
        raise InvalidConfigError(
            f"mode l2 goes without {', '.join(wrong)}", "the segment's bridge is the agent's, the same on all nodes"
        )


def _refuse_contradictions(conf: NetConf) -> None:
    if conf.hairpinMode and conf.promiscMode:
        raise InvalidConfigError("cannot set hairpin mode and promiscuous mode at the same time")
    if conf.ipam_type and conf.disableContainerInterface:
        raise InvalidConfigError("cannot use IPAM when DisableContainerInterface flag is set")
    if conf.externalSetMarkChain and conf.markMasqBit is not None:
        raise InvalidConfigError("Cannot specify externalSetMarkChain and markMasqBit")
    for name in ("conditionsV4", "conditionsV6", "externalSetMarkChain"):
        if getattr(conf, name):
            raise UnsupportedFieldError(
                f"{name} is in iptables syntax, host ports are served by nftables here",
                f"leave {name} out, or chain the reference portmap plugin for this network",
            )
    _check_limits(conf.bandwidth)
    _check_trunks(conf.vlanTrunk)
    parse_sysctls(conf.sysctl)


def _check_limits(limits: Bandwidth) -> None:
    for way in ("ingress", "egress"):
        rate, burst = getattr(limits, way + "Rate"), getattr(limits, way + "Burst")
        if bool(rate) != bool(burst):
            raise InvalidConfigError(f"if one of {way}Rate and {way}Burst is set, the other must be as well")
        if 0 < rate < 8 or 0 < burst < 8:
            raise InvalidConfigError(f"{way}Rate and {way}Burst are bits, and below a byte nothing could pass")
        if burst // 8 >= 1 << 32:
            raise InvalidConfigError(f"{way}Burst cannot be 4GB or more, it is {burst} bits")


def _check_trunks(trunks: tuple[VlanTrunk, ...]) -> None:
    for trunk in trunks:
        if (trunk.minID is None) != (trunk.maxID is None):
            missing = "minID" if trunk.minID is None else "maxID"
            raise InvalidConfigError(f"minID and maxID should be configured simultaneously, {missing} is missing")
        if trunk.minID is not None and trunk.maxID is not None and trunk.maxID < trunk.minID:
            raise InvalidConfigError("minID is greater than maxID in trunk parameter")
