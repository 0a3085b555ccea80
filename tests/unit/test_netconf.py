"""The configuration's rules: right rows beside wrong ones, each wrong one with its error and what it says."""

from typing import Any

import pytest

from cni_py.model.errors import CniPyError, DecodeError, InvalidConfigError, UnsupportedFieldError
from cni_py.model.persona import Persona
from cni_py.spec.netconf import parse_netconf

MAPPING = {"hostPort": 80, "containerPort": 80}
WRONG: list[tuple[dict[str, Any], type[CniPyError], str]] = [
    ({"mtu": "1500"}, DecodeError, "mtu"),
    ({"mtu": True}, DecodeError, "mtu"),
    ({"mtu": 1.5}, DecodeError, "mtu"),
    ({"isGateway": 1}, DecodeError, "isGateway"),
    ({"ipam": []}, DecodeError, "ipam"),
    ({"runtimeConfig": {"portMappings": {}}}, DecodeError, "portMappings"),
    ({"runtimeConfig": {"portMappings": [{"hostPort": "80", "containerPort": 80}]}}, DecodeError, "hostPort"),
    ({"mtu": -1}, InvalidConfigError, "mtu"),
    ({"vlan": 4095}, InvalidConfigError, "vlan"),
    ({"bridge": "a/b"}, InvalidConfigError, "bridge"),
    ({"bridge": "x" * 16}, InvalidConfigError, "bridge"),
    ({"mode": "l3"}, InvalidConfigError, "'routed', 'bridge' or 'l2'"),
    ({"mode": "l2", "vlan": 5, "bridge": "x"}, InvalidConfigError, "mode l2 goes without bridge, vlan"),
    ({"stateDir": "relative"}, InvalidConfigError, "stateDir"),
    ({"runtimeConfig": {"portMappings": [{**MAPPING, "hostPort": 65536}]}}, InvalidConfigError, "hostPort"),
    ({"runtimeConfig": {"portMappings": [{"hostPort": 80}]}}, InvalidConfigError, "containerPort"),
    ({"runtimeConfig": {"portMappings": [{**MAPPING, "protocol": "icmp"}]}}, InvalidConfigError, "protocol"),
    ({"runtimeConfig": {"portMappings": [{**MAPPING, "hostIP": "1.2.3"}]}}, InvalidConfigError, "hostIP"),
    ({"runtimeConfig": {"mac": "0a:58"}}, InvalidConfigError, "mac"),
    ({"hairpinMode": True, "promiscMode": True}, InvalidConfigError, "at the same time"),
    ({"disableContainerInterface": True, "ipam": {"type": "x"}}, InvalidConfigError, "IPAM"),
    ({"ingressRate": 8}, InvalidConfigError, "ingressBurst"),
    ({"egressBurst": 8}, InvalidConfigError, "egressRate"),
    ({"ingressRate": 1, "ingressBurst": 2**32 - 1}, InvalidConfigError, "below a byte"),  # found by fuzzing
    ({"ingressRate": 8, "ingressBurst": 2**35}, InvalidConfigError, "4GB"),
    ({"vlanTrunk": [{"minID": 3}]}, InvalidConfigError, "maxID is missing"),
    ({"vlanTrunk": [{"minID": 3, "maxID": 2}]}, InvalidConfigError, "greater"),
    ({"markMasqBit": 1, "externalSetMarkChain": "X"}, InvalidConfigError, "markMasqBit"),
    ({"conditionsV4": ["-d", "1.2.3.4"]}, UnsupportedFieldError, "conditionsV4"),
    ({"externalSetMarkChain": "X"}, UnsupportedFieldError, "externalSetMarkChain"),
    ({"isGatway": True}, InvalidConfigError, "did you mean 'isGateway'"),
    ({"ipmask": True}, InvalidConfigError, "did you mean 'ipMasq'"),
    ({"vlanTrunk": [{"id": 5, "ids": 6}]}, InvalidConfigError, "vlanTrunk.0.ids"),
]
RIGHT: list[tuple[dict[str, Any], str]] = [
    ({}, "routed"),
    ({"ipMasq": True, "mtu": 1400}, "routed"),
    ({"bridge": "br0"}, "bridge"),
    ({"ISGATEWAY": True}, "bridge"),
    ({"vlan": None}, "routed"),
    ({"mode": "routed", "isDefaultGateway": True}, "routed"),
    ({"mode": "bridge"}, "bridge"),
    ({"cni.dev/x": 1, "example.org/y": {}, "disableGC": True}, "routed"),
    ({"args": {"other": {"x": 1}}, "runtimeConfig": {"infinibandGUID": "x"}}, "routed"),
    (
        {"runtimeConfig": {"PortMappings": [{"HostPort": 80, "ContainerPort": 8, "Protocol": "TCP", "HostIP": ""}]}},
        "routed",
    ),
    ({"runtimeConfig": {"bandwidth": {"IngressRate": 8, "IngressBurst": 2**32 - 1}}}, "routed"),
]


@pytest.mark.parametrize(("options", "error", "text"), WRONG, ids=[str(options)[:60] for options, _, _ in WRONG])
def test_wrong(options: dict[str, Any], error: type[CniPyError], text: str) -> None:
    """Refused with the right code, and the text names the option and what to do."""
    with pytest.raises(error) as caught:
        parse_netconf({"name": "x", "type": "cni-py", **options}, Persona.CNI_PY)
    assert type(caught.value) is error
    assert text in f"{caught.value.message} {caught.value.details}"


@pytest.mark.parametrize(("options", "mode"), RIGHT, ids=[str(options)[:60] for options, _ in RIGHT])
def test_right(options: dict[str, Any], mode: str) -> None:
    """Taken, whatever the case of its keys; a bridge-only option means bridge where no mode is given."""
    assert mode == parse_netconf({"name": "x", "type": "cni-py", **options}, Persona.CNI_PY).effective_mode


@pytest.mark.parametrize("options", [options for options, _, _ in WRONG], ids=lambda options: str(options)[:60])
def test_cleaning_up_takes_anything(options: dict[str, Any]) -> None:
    """On DEL and GC what is wrong counts as unset, and what is right still counts."""
    conf = parse_netconf({"name": "x", "type": "cni-py", "ipMasq": True, **options}, Persona.CNI_PY, lenient=True)
    assert (conf.name, conf.ipMasq) == ("x", True)


def test_a_references_name_ignores_what_it_does_not_know() -> None:
    """An old configuration under the name bridge goes on working."""
    assert parse_netconf({"name": "x", "type": "bridge", "isGatway": True}, Persona.BRIDGE).isGateway is False


def test_static_limits_beat_the_runtimes() -> None:
    """As the reference: the configuration's bandwidth, and only without one the runtime's."""
    runtime = {"runtimeConfig": {"bandwidth": {"ingressRate": 8, "ingressBurst": 8}}}
    assert parse_netconf({"name": "x", **runtime}, Persona.CNI_PY).bandwidth.ingressRate == 8
    static = {"ingressRate": 16, "ingressBurst": 16}
    assert parse_netconf({"name": "x", **runtime, **static}, Persona.CNI_PY).bandwidth.ingressRate == 16
