"""The two halves of the end of an attachment; its address becomes free between them, when nothing leads to it."""

from cni_py.cni import firewall
from cni_py.cni.call import Node
from cni_py.cni.state import host_links
from cni_py.model.attachment import Attachment
from cni_py.model.ops import DelLink
from cni_py.model.ports import Kernel


def detach(attachment: Attachment, node: Node, kernel: Kernel) -> None:
    """Links, firewall elements and policies of its own are gone; under the records' lock."""
    kernel.apply([DelLink("host", name) for name in host_links(attachment)])
    node.gate.dismiss(attachment)
    firewall.withdraw(attachment, node.firewall, node.records)


def forget(attachment: Attachment, node: Node) -> None:
    """What it shared with others goes with the last of them; the record goes."""
    with node.records.locked():
        firewall.release_shared(attachment, node.firewall, node.records)
        node.records.delete(attachment)
