"""An attachment to the result that ADD prints: the same interfaces, in the same order, as the reference's plugins."""

from collections.abc import Mapping
from dataclasses import replace

from cni_py.cni.attach import choose_dns
from cni_py.cni.state import gateway_device
from cni_py.model.attachment import Attachment
from cni_py.model.result import Interface, IPConfig, Result
from cni_py.spec.netconf import NetConf


def result_of(attachment: Attachment, conf: NetConf, lease: Result, macs: Mapping[str, str]) -> Result:
    """bridge: bridge, host's end, container's end, VLAN gateway; routed: the two ends; then the ifb.

    `macs`: {host device: MAC}.
    """
    on_host = [] if attachment.port is None else [attachment.port.bridge]
    on_host.append(attachment.host_ifname)
    interfaces = [Interface(name, macs.get(name, "")) for name in on_host]
    own = len(interfaces)
    interfaces.append(Interface(attachment.key.ifname, attachment.mac, mtu=attachment.mtu, sandbox=attachment.netns))
    if attachment.port is not None and attachment.port.vlan and attachment.port.gateways:
        device = gateway_device(attachment.port)
        interfaces.append(Interface(device, macs.get(device, "")))
    interfaces += _ifbs(attachment, macs)
    return Result(
        interfaces=tuple(interfaces),
        ips=tuple(IPConfig(entry.address, entry.gateway, own) for entry in attachment.addresses),
        routes=attachment.routes,
        dns=choose_dns(conf, lease),
    )


def chained_result(attachment: Attachment, previous: Result, macs: Mapping[str, str]) -> Result:
    """PrevResult and, with a limit on what the container sends, the ifb."""
    return replace(previous, interfaces=(*previous.interfaces, *_ifbs(attachment, macs)))


def _ifbs(attachment: Attachment, macs: Mapping[str, str]) -> list[Interface]:
    return [Interface(shaper.link, macs.get(shaper.link, "")) for shaper in attachment.shapers if shaper.mirror_from]
