"""What is attached to this node, by pod: addresses, and the host's ends of veths. Whoever calls holds the lock."""

from collections.abc import Iterable

from cni_py.model.attachment import Attachment, Key
from cni_py.model.policy import Address

# An attachment and the plugin that made it: two of a list may have a part in one.
_Place = tuple[Key, str]


class Attached:
    """All attachments, and the links of pods as `policy.program` takes them."""

    def __init__(self, links: dict[str, tuple[str, ...]]) -> None:
        self._all: dict[_Place, Attachment] = {}
        self._links = links

    def put(self, attachment: Attachment) -> None:
        """It is there."""
        self._all[attachment.key, attachment.plugin] = attachment

    def drop(self, attachment: Attachment) -> Attachment | None:
        """It is not there any more: how it was, which a DEL need not know; None if it was not."""
        return self._all.pop((attachment.key, attachment.plugin), None)

    def pods(self) -> Iterable[str]:
        """Those with attachments."""
        return {pod_of(one) for one in self._all.values()}

    def addresses(self, pod: str) -> tuple[Address, ...]:
        """Of all attachments of a pod: an old sandbox may still be there when the new one comes."""
        found = (address for one in self._of(pod) for address in addresses_of(one))
        return tuple(dict.fromkeys(found))

    def link(self, pod: str) -> set[str]:
        """The pod's links are noted; the other pods of which one was: their DEL never came, and the name is taken."""
        names = tuple(dict.fromkeys(one.host_ifname for one in self._of(pod) if one.host_ifname))
        robbed = {other for other, held in self._links.items() if other != pod and not set(names).isdisjoint(held)}
        for other in robbed:
            self._links[other] = tuple(one for one in self._links[other] if one not in names)
        self._links.pop(pod, None)
        if names:
            self._links[pod] = names
        return robbed

    def _of(self, pod: str) -> list[Attachment]:
        return [one for one in self._all.values() if pod_of(one) == pod]


def pod_of(attachment: Attachment) -> str:
    """Its NAMESPACE/NAME; a container that is no pod is one in a namespace without a name."""
    return attachment.pod or f"/{attachment.key.container_id}"


def addresses_of(attachment: Attachment) -> tuple[Address, ...]:
    """Its addresses."""
    return tuple(one.address.ip for one in attachment.addresses)
