"""CHECK: it looks, and changes nothing."""

from dataclasses import replace

from cni_py.cni import firewall
from cni_py.cni.attach import key_of
from cni_py.cni.call import CHAINED, Call, Node
from cni_py.cni.state import desired_state
from cni_py.cni.verbs import previous_result
from cni_py.model.attachment import Attachment
from cni_py.model.diff import diff
from cni_py.model.errors import CheckFailedError
from cni_py.model.net import Link, NodeState, Sysctl
from cni_py.model.ports import Observer
from cni_py.model.result import Result
from cni_py.model.words import describe


def check(call: Call, node: Node, observer: Observer) -> None:
    """SPEC 1.1 section 2 CHECK: the container's network is as ADD left it, or CheckFailedError says what differs.

    What later plugins of the list may have changed (a MAC, moved routes) is taken from prevResult, which is theirs too.
    """
    previous = previous_result(call)
    if call.conf.ipam_type and call.persona not in CHAINED:
        node.delegate.run(call.conf.ipam_type, "CHECK")
    attachment = node.records.get(key_of(call.request), call.persona.value)
    if attachment is None:
        if call.persona in CHAINED and not call.conf.runtimeConfig.portMappings:
            return  # nothing was asked for
        raise CheckFailedError(f"there is no record of {key_of(call.request)}", "DEL the container and ADD it again")
    _check_result(attachment, previous)
    desired = _as_reported(desired_state(attachment), attachment, previous)
    differences = [describe(op) for op in diff(desired, observer.observe(desired, call.request.netns))]
    differences += node.firewall.missing(firewall.planned(attachment))
    if differences:
        raise CheckFailedError(
            f"the network of {attachment.key} is not as ADD left it: to mend it, {differences[0]}",
            "; ".join(differences[1:]) or "DEL the container and ADD it again",
        )


def _check_result(attachment: Attachment, previous: Result) -> None:
    """PrevResult names our addresses: a runtime that lost the result must not be told that all is well."""
    reported = {ip.address for ip in previous.ips}
    lost = [str(entry.address) for entry in attachment.addresses if entry.address not in reported]
    if lost and attachment.mode != "chained":
        raise CheckFailedError(f"prevResult lacks {', '.join(lost)}", "the runtime's cached result is not of this ADD")


def _as_reported(desired: NodeState, attachment: Attachment, previous: Result) -> NodeState:
    """The state with what prevResult says of the container's interface, and without routes that it does not list."""
    kept = {(route.dst, route.gw) for route in previous.routes}
    dropped = {route.dst for route in attachment.routes if (route.dst, route.gw) not in kept}
    macs = {interface.name: interface.mac for interface in previous.interfaces if interface.sandbox}
    return replace(
        desired,
        links=tuple(_reported_link(link, macs) for link in desired.links),
        routes=tuple(route for route in desired.routes if route.ns == "host" or route.dst not in dropped),
        sysctls=tuple(sysctl for sysctl in desired.sysctls if _is_checked(sysctl, attachment)),
    )


def _is_checked(sysctl: Sysctl, attachment: Attachment) -> bool:
    """The container's sysctls that nobody asked for are for a later tuning plugin to change."""
    return sysctl.ns == "host" or sysctl in attachment.sysctls


def _reported_link(link: Link, macs: dict[str, str]) -> Link:
    """The MTU is not compared: the tuning plugin may set it, and results before 1.1.0 cannot say so."""
    mac = macs.get(link.name, link.mac).lower() if link.ns == "container" else link.mac
    return replace(link, mac=mac, mtu=0, promisc=link.promisc and link.ns == "host")
