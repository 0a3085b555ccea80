"""An attachment's share in the node's nftables: what it adds, what goes with it, and what all of them together need."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress

from cni_py.cni.antispoof import (
    BRIDGE_LAYOUT,
    ROUTED_LAYOUT,
    Guarded,
    plan_bridge_port,
    plan_routed_link,
    unplan_bridge_port,
    unplan_routed_link,
)
from cni_py.cni.masquerade import plan_masquerade, pod_range, rewrite_masquerade
from cni_py.cni.portmap import HostPorts, plan_portmap, unplan_localnet, unplan_portmap
from cni_py.cni.state import localnet_device
from cni_py.cni.tables import NAT_LAYOUT
from cni_py.model.attachment import Attachment
from cni_py.model.errors import ExistsError, KernelError
from cni_py.model.nft import Change, joined
from cni_py.model.ports import Firewall, Records

LAYOUTS = (NAT_LAYOUT, BRIDGE_LAYOUT, ROUTED_LAYOUT)


def planned(attachment: Attachment) -> Change:
    """All elements that an attachment adds."""
    masquerade = (plan_masquerade(map(pod_range, attachment.masquerade)),) if attachment.masquerade else ()
    return joined(*masquerade, *_own(attachment))


def everything(attachments: Iterable[Attachment]) -> Change:
    """What all attachments of the node together need, for tables that somebody flushed."""
    listed = tuple(attachments)
    ranges = [pod_range(network) for attachment in listed for network in attachment.masquerade]
    masquerade = (rewrite_masquerade(ranges),) if ranges else ()
    return joined(*masquerade, *(change for attachment in listed for change in _own(attachment)))


def install(attachment: Attachment, firewall: Firewall, records: Records) -> None:
    """The attachment's elements are in the kernel; under the records' lock.

    Ranges that overlap with another network's cannot just be added: then all of the node's are written anew, merged.
    """
    change = planned(attachment)
    if not change.operations:
        return
    restore = _restorer(attachment, records)
    try:
        firewall.commit(change, restore)
    except ExistsError:
        if not attachment.masquerade:
            raise
        alive = [*_others(attachment, records), attachment]
        ranges = [pod_range(network) for one in alive for network in one.masquerade]
        firewall.commit(joined(rewrite_masquerade(ranges), *_own(attachment)), restore)
    if attachment.ports:
        firewall.forget_udp(attachment, translated_only=False)


def withdraw(attachment: Attachment, firewall: Firewall, records: Records) -> None:
    """No element of the attachment alone is in the kernel; under the records' lock, before its address is free."""
    guarded = _guarded(attachment)
    changes: list[Change] = []
    if attachment.ports:
        changes.append(unplan_portmap(_host_ports(attachment), localnet_shared=True))
    if attachment.mode == "bridge" and (attachment.macspoofchk or attachment.antispoof):
        changes.append(unplan_bridge_port(guarded))
    if attachment.mode == "routed" and attachment.antispoof:
        changes.append(unplan_routed_link(guarded))
    if changes:
        firewall.commit(joined(*changes), _restorer(attachment, records))
    if attachment.ports:
        firewall.forget_udp(attachment, translated_only=True)


def release_shared(attachment: Attachment, firewall: Firewall, records: Records) -> None:
    """Nothing that this attachment was the last to need is in the kernel, nor a table of ours that is empty.

    Under the same lock under which its record goes: of two that end at once the second must not see the first.
    """
    changes: list[Change] = []
    if attachment.masquerade or attachment.ports:
        others = _others(attachment, records)
        kept = {network for other in others for network in other.masquerade}
        if not kept.issuperset(attachment.masquerade):
            changes.append(rewrite_masquerade(map(pod_range, kept)))
        device = _localnet(attachment)
        if device and not any(other.ports and _localnet(other) == device for other in others):
            changes.append(unplan_localnet(device))
    if changes:
        firewall.commit(joined(*changes), _restorer(attachment, records))
    if not records.has_others(attachment):
        # what others added may have gone before this one, which itself need not have added any, nor find nftables
        with nullcontext() if changes else suppress(KernelError):
            firewall.remove_if_empty(LAYOUTS)


def _own(attachment: Attachment) -> Iterator[Change]:
    """The elements that no other attachment shares, but for the guard on a bridge."""
    if attachment.ports:
        yield plan_portmap(_host_ports(attachment))
    guarded = _guarded(attachment)
    if attachment.mode == "bridge" and (attachment.macspoofchk or attachment.antispoof):
        yield plan_bridge_port(guarded)
    if attachment.mode == "routed" and attachment.antispoof:
        yield plan_routed_link(guarded)


def _guarded(attachment: Attachment) -> Guarded:
    addresses = tuple(entry.address.ip for entry in attachment.addresses) if attachment.antispoof else ()
    return Guarded(attachment.host_ifname, attachment.mac, addresses)


def _host_ports(attachment: Attachment) -> HostPorts:
    """Of several addresses of a family the first one is mapped to, as the reference does."""
    first = {entry.address.version: entry.address.ip for entry in reversed(attachment.addresses)}
    return HostPorts(
        mappings=attachment.ports,
        pod=tuple(first[version] for version in sorted(first)),
        owner=f"{attachment.key.network}/{attachment.key.container_id}",
        bridge=localnet_device(attachment) if attachment.port is not None else "",
        localnet=_localnet(attachment),
        snat=attachment.snat,
        masq_all=attachment.masq_all,
    )


def _localnet(attachment: Attachment) -> str:
    """The device on which 127.0.0.1 may be a source, "" where none has to."""
    has_ipv4 = any(entry.address.version == 4 for entry in attachment.addresses)
    return localnet_device(attachment) if attachment.ports and attachment.snat and has_ipv4 else ""


def _others(attachment: Attachment, records: Records) -> list[Attachment]:
    """The attachments to the same host in this boot, without this one."""
    identity, place = (attachment.key, attachment.plugin), (attachment.boot, attachment.host)
    return [one for one in records.list()[0] if (one.key, one.plugin) != identity and (one.boot, one.host) == place]


def _restorer(attachment: Attachment, records: Records) -> Callable[[], Change]:
    return lambda: everything(_others(attachment, records))
