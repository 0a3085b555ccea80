"""ADD and DEL over injected ports. GC is in `cni.collect`, CHECK and STATUS, which change nothing, in theirs.

ADD goes forward only: lease, plan, record, kernel, firewall, container. Each step leaves with `Undo` how it is taken
back, so a failure at any of them leaves the node as it was. DEL works from the record and needs no namespace.
"""

from contextlib import suppress
from dataclasses import replace

from cni_py.cni import firewall
from cni_py.cni.attach import check_place, key_of, plan_attachment, plan_chained
from cni_py.cni.call import CHAINED, Call, Node
from cni_py.cni.collect import collect_stale_boot
from cni_py.cni.outcome import chained_result, result_of
from cni_py.cni.state import bridge_pin, check_bridge, desired_state, gateway_device, stale_addresses
from cni_py.cni.teardown import detach, forget
from cni_py.cni.undo import Undo
from cni_py.model.attachment import HOST_PREFIX, Attachment, host_ifname, ifb_name, macs
from cni_py.model.diff import diff
from cni_py.model.errors import CniPyError, ExistsError, PluginError, TryAgainError
from cni_py.model.net import NodeState, Shaper
from cni_py.model.ops import DelLink, ns_of
from cni_py.model.persona import Persona
from cni_py.model.ports import Kernel
from cni_py.model.result import Result
from cni_py.spec.args import pod_name, pod_uid
from cni_py.spec.request import Request
from cni_py.spec.result import check_expressible, parse_result


def add(call: Call, node: Node) -> Result:
    """SPEC 1.1 section 2 ADD: the interface is there, in the network, and the result says how. Or nothing changed."""
    request, conf = call.request, call.conf
    with node.kernels.container(request.netns, allow_own=request.netns_override) as kernel, Undo() as undo:
        collect_stale_boot(node)
        node.gate.expect(pod_name(request.args), pod_uid(request.args))
        if call.persona in CHAINED:
            return _add_chained(call, node, kernel)
        _refuse_existing(call, node, kernel)
        check_place(conf, call.persona, node.occasion.network)
        lease = Result()
        if conf.ipam_type:
            undo.push("release the address", lambda: node.delegate.run(conf.ipam_type, "DEL"))
            lease = node.delegate.lease(conf.ipam_type)
        attachment = plan_attachment(request, conf, call.persona, lease, node.occasion)
        check_expressible(lease, request.cni_version)
        with node.records.locked(), Undo() as steps:
            _attach(attachment, node, kernel, steps)
            return result_of(attachment, conf, lease, _host_macs(attachment, kernel))


def delete(call: Call, node: Node) -> None:
    """SPEC 1.1 section 2 DEL: nothing of the attachment is left. Repeats, gone namespaces, half ADDs: all succeed.

    The link goes before the address is free, so that no two containers ever answer to one.
    """
    key = key_of(call.request)
    record = node.records.get(key, call.persona.value)
    attachment = record or _guess(call, node)
    with node.kernels.host(call.request.netns) as kernel:
        with node.records.locked():
            detach(attachment, node, kernel)
        if record is None and call.persona not in CHAINED:
            _delete_unrecorded(call.request, kernel)
    if call.conf.ipam_type and call.persona not in CHAINED:
        node.delegate.run(call.conf.ipam_type, "DEL")
    forget(attachment, node)


def _refuse_existing(call: Call, node: Node, kernel: Kernel) -> None:
    """SPEC 1.1 section 2: an interface of that name is an error. Asked before IPAM is, so no address is taken."""
    request = call.request
    if kernel.has_link("container", request.ifname):
        raise ExistsError(
            f'container already has an interface "{request.ifname}"',
            "each ADD needs a name of its own (CNI_IFNAME); DEL the old attachment first",
        )
    key = key_of(request)
    if node.records.get(key, call.persona.value) is not None and kernel.has_link("host", host_ifname(key)):
        raise ExistsError(f"{key} is attached already, to another namespace", "DEL it before it is added again")


def _attach(attachment: Attachment, node: Node, kernel: Kernel, undo: Undo) -> None:
    """Record, host, firewall, policies, container: what denies is in place before a packet can flow.

    All of it under the records' lock, the way back too: a bridge that was made here is nobody else's port yet.
    """
    before = node.records.get(attachment.key, attachment.plugin)
    if before is not None:  # a record whose link is gone: a crash between the two
        detach(before, node, kernel)
        firewall.release_shared(before, node.firewall, node.records)
    node.records.put(attachment)
    undo.push("delete the record", lambda: node.records.delete(attachment))
    desired = desired_state(attachment)
    seen = kernel.facts(desired)
    check_bridge(attachment, seen)
    stale = NodeState(addresses=stale_addresses(attachment, seen))
    steps = (*diff(desired, seen, stale), *bridge_pin(attachment, seen))
    host = [op for op in steps if ns_of(op) == "host"]
    container = [op for op in steps if ns_of(op) == "container"]
    kernel.apply(host)
    undo.push("undo the host's part", lambda: kernel.undo(host))
    undo.push("undo the firewall's part", lambda: firewall.release_shared(attachment, node.firewall, node.records))
    undo.push("undo the firewall's part", lambda: firewall.withdraw(attachment, node.firewall, node.records))
    firewall.install(attachment, node.firewall, node.records)
    undo.push("undo the policies' part", lambda: node.gate.dismiss(attachment))
    node.gate.admit(attachment)
    kernel.apply(container)
    undo.push("undo the container's part", lambda: kernel.undo(container))
    if attachment.mode != "chained" and attachment.container_up:
        kernel.await_carrier(attachment.host_ifname)


def _add_chained(call: Call, node: Node, kernel: Kernel) -> Result:
    """The portmap, bandwidth and policy personas: prevResult is passed on, with what was added to it."""
    previous = previous_result(call)
    veth = kernel.host_peer(call.request.ifname)
    attachment = plan_chained(call.request, call.conf, call.persona, previous, node.occasion, veth)
    if not attachment.ports and not attachment.shapers and call.persona is not Persona.CNI_PY_POLICY:
        return previous
    if call.persona is Persona.CNI_PY_POLICY and not node.gate.enforces:
        raise TryAgainError(
            "no agent enforces network policies on this node",
            "start one with --roles attach,policy, or unlist the plugin",
        )
    with node.records.locked(), Undo() as steps:
        _attach(attachment, node, kernel, steps)
        return chained_result(attachment, previous, _host_macs(attachment, kernel))


def _host_macs(attachment: Attachment, kernel: Kernel) -> dict[str, str]:
    """{host device: MAC}; only those that the kernel chose, or may have changed, have to be asked for."""
    macs = {attachment.host_ifname: attachment.host_mac}
    asked = [shaper.link for shaper in attachment.shapers if shaper.mirror_from]
    asked += [attachment.port.bridge, gateway_device(attachment.port)] if attachment.port is not None else []
    return macs | {name: kernel.mac_of("host", name) for name in asked}


def previous_result(call: Call) -> Result:
    """PrevResult. Raises PluginError if there is none, DecodeError if it is of another family of versions."""
    if call.conf.prevResult is None:
        if call.persona in CHAINED and call.request.command == "ADD":
            raise PluginError("must be called as chained plugin", "list it in a conflist behind a main plugin")
        raise PluginError("Required prevResult missing", "the runtime gives the result of ADD on CHECK")
    return parse_result(call.conf.prevResult, call.request.cni_version, same_family=True)


def _guess(call: Call, node: Node) -> Attachment:
    """What DEL can know of an attachment without a record (lost, or made by the reference plugins).

    Names and MACs are hashes of its key, ports are in the configuration, addresses in prevResult. Too much is
    harmless: deleting what is not there succeeds.
    """
    key = key_of(call.request)
    previous = Result()
    if call.conf.prevResult is not None:
        with suppress(CniPyError):
            previous = parse_result(call.conf.prevResult, call.request.cni_version, same_family=False)
    veth = host_ifname(key)
    guess = plan_chained(call.request, call.conf, Persona.PORTMAP, previous, node.occasion, veth)
    ifb = Shaper(ifb_name(key), 0, 0, mirror_from=veth)
    if call.persona in CHAINED:
        return replace(guess, plugin=call.persona.value, shapers=(ifb,) if call.persona is Persona.BANDWIDTH else ())
    networks = tuple(entry.address.network for entry in guess.addresses)
    return replace(
        guess,
        plugin=call.persona.value,
        mode="bridge" if guess.port is not None else "routed",
        mac=macs(key)[1],
        antispoof=True,
        masquerade=networks if call.conf.ipMasq else (),
        shapers=(ifb,),
    )


def _delete_unrecorded(request: Request, kernel: Kernel) -> None:
    """The container's veth, when it was made by somebody else: a pod that lives through a change of plugins.

    Not if its other end has a name of ours: then it is another attachment's, whose namespace the path has come to be.
    """
    ifname = request.ifname
    if kernel.kind_of("container", ifname) == "veth" and not kernel.host_peer(ifname).startswith(HOST_PREFIX):
        kernel.apply([DelLink("container", ifname)])
