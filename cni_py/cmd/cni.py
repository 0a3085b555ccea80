"""The interface plugin and the chained ones: cni-py, bridge, ptp, portmap, bandwidth and cni-py-policy."""

from contextlib import suppress

from cni_py.cmd.machine import Machine
from cni_py.model.attachment import STATE_DIR
from cni_py.model.errors import BadEnvironmentError, CniPyError
from cni_py.model.persona import Persona
from cni_py.spec import gojson
from cni_py.spec.request import Request
from cni_py.spec.result import render_result


def call(request: Request, persona: Persona, machine: Machine) -> bytes:
    """What the verb prints. STATUS, which runtimes ask every few seconds, does without pydantic and pyroute2."""
    if request.command == "STATUS":
        _status(request, persona, machine)
        return b""
    from cni_py.cni import verbs
    from cni_py.cni.call import Call, Node
    from cni_py.spec.netconf import read_netconf

    conf = read_netconf(request, persona, lenient=request.command in ("DEL", "GC"))
    this_call = Call(request, conf, persona)
    with machine.firewall() as firewall:
        node = Node(
            kernels=machine.kernels(),
            firewall=firewall,
            records=machine.records(conf.stateDir),
            delegate=machine.delegate(request, conf.stateDir),
            occasion=machine.occasion(),
            gate=machine.gate(),
        )
        match request.command:
            case "ADD":
                return render_result(verbs.add(this_call, node), request.cni_version)
            case "DEL":
                verbs.delete(this_call, node)
            case "CHECK":
                from cni_py.cni.check import check

                check(this_call, node, machine.observer())
            case "GC":
                from cni_py.cni.collect import collect_garbage

                collect_garbage(this_call, node)
            case other:
                raise BadEnvironmentError(f"unknown CNI_COMMAND: {other}")
    return b""


def _status(request: Request, persona: Persona, machine: Machine) -> None:
    from cni_py.cni.status import serves_traffic, status
    from cni_py.kernel.sysctl import read_sysctl

    state_dir = gojson.get_string(request.config, "stateDir") or STATE_DIR
    records = machine.records(state_dir)
    chained = persona in (Persona.PORTMAP, Persona.BANDWIDTH, Persona.CNI_PY_POLICY)
    ipam_type = "" if chained else gojson.get_string(gojson.get_object(request.config, "ipam"), "type")
    serving = False
    with suppress(CniPyError):
        serving = serves_traffic(records.list(request.network)[0])
    forwarding = read_sysctl("net/ipv4/ip_forward") == "1"
    status(ipam_type, records, machine.delegate(request, state_dir), forwarding=forwarding, serving=serving)
