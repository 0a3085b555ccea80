"""What a verb works on and with: the call, and the ports of the node."""

from dataclasses import dataclass

from cni_py.cni.attach import Occasion
from cni_py.model.attachment import Attachment
from cni_py.model.persona import Persona
from cni_py.model.ports import Delegate, Firewall, Gate, Kernels, Records
from cni_py.spec.netconf import NetConf
from cni_py.spec.request import Request

CHAINED = frozenset({Persona.PORTMAP, Persona.BANDWIDTH, Persona.CNI_PY_POLICY})


class OpenGate:
    """See Gate: where no policy agent runs everything passes."""

    enforces = False

    def expect(self, pod: str, uid: str) -> None:
        """See Gate."""

    def admit(self, attachment: Attachment) -> None:
        """See Gate."""

    def dismiss(self, attachment: Attachment) -> None:
        """See Gate."""


OPEN_GATE = OpenGate()


@dataclass(frozen=True, slots=True)
class Node:
    """The ports of one call."""

    kernels: Kernels
    firewall: Firewall
    records: Records
    delegate: Delegate
    occasion: Occasion
    gate: Gate = OPEN_GATE


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the request, its configuration, and under which name we were started."""

    request: Request
    conf: NetConf
    persona: Persona
