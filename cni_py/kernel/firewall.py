"""The firewall port over nfnetlink: transactions, read-back for CHECK, connection tracking; one socket, opened late."""

from collections.abc import Callable, Iterable, Sequence

from cni_py.kernel import conntrack, nft, nft_mend
from cni_py.kernel.netlink import NetlinkSocket
from cni_py.model.attachment import Attachment
from cni_py.model.nft import AddElements, Change, Element, Layout, Set, Table
from cni_py.model.nft_expr import UDP, Range


class NftFirewall:
    """nftables and connection tracking of the namespace in which the first method is called.

    `connect` is a seam, at which tests make the kernel fail.
    """

    def __init__(self, connect: Callable[[], NetlinkSocket] = nft.connect) -> None:
        self._connect = connect
        self._opened: NetlinkSocket | None = None
        self._built = set[Table]()  # by what was last seen of them

    @property
    def socket(self) -> NetlinkSocket:
        """The nfnetlink socket, opened when it is first asked for."""
        if self._opened is None:
            self._opened = self._connect()
        return self._opened

    @property
    def messages_sent(self) -> int:
        """Netlink messages so far."""
        return self._opened.messages_sent if self._opened is not None else 0

    @property
    def seconds_in_kernel(self) -> float:
        """Time between sending and the last answer."""
        return self._opened.seconds_in_kernel if self._opened is not None else 0.0

    def close(self) -> None:
        """The socket is gone."""
        if self._opened is not None:
            self._opened.close()

    def commit(self, change: Change, restore: Callable[[], Change]) -> None:
        """One transaction; where a table was flushed, `restore` gives what else has to be in it."""
        tables = {layout.table for layout in change.layouts}
        nft.commit(self.socket, change, restore, look=not tables <= self._built)
        self._built |= tables

    def remove_if_empty(self, layouts: Iterable[Layout]) -> None:
        """Those of the layouts' tables that hold no element are gone."""
        self._built -= set(nft.remove_if_empty(self.socket, layouts))

    def mend(self, layouts: Sequence[Layout], wanted: Change) -> nft_mend.Mended:
        """The layouts' tables are as `wanted`, all that the node's attachments need, has them."""
        return nft_mend.mend(self.socket, layouts, wanted)

    def missing(self, change: Change) -> list[str]:
        """The elements that `change` adds, and the rules that use them, as far as they are not there."""
        added = [operation for operation in change.operations if isinstance(operation, AddElements)]
        emptied = [
            f"write the rules of chain {chain.text()} (delete its table, and the next ADD makes it whole)"
            for layout in change.layouts
            for chain in nft.emptied_chains(self.socket, layout)
        ]
        return emptied + [
            f"add element {operation.set.text()} {{ {element.text(operation.set)} }}"
            for operation in added
            for element in operation.elements
            if not self._is_there(operation.set, element)
        ]

    def forget_udp(self, attachment: Attachment, *, translated_only: bool) -> None:
        """UDP flows to the host ports, all or only those that lead to the attachment, start anew."""
        wanted: list[conntrack.Flows] = []
        pods = [entry.address.ip for entry in attachment.addresses]
        for mapping in attachment.ports:
            if mapping.protocol != "udp":
                continue
            any_address = mapping.host_ip is None or mapping.host_ip.is_unspecified
            for pod in pods:
                if mapping.host_ip is not None and mapping.host_ip.version != pod.version:
                    continue
                flows = conntrack.Flows(
                    pod.version,
                    UDP,
                    mapping.host_port,
                    address=None if any_address else mapping.host_ip,
                    translated_to=pod if translated_only else None,
                )
                wanted.append(flows)
        if wanted:
            conntrack.delete(self.socket, wanted)

    def _is_there(self, one: Set, element: Element) -> bool:
        if isinstance(element.key, Range):
            return any(
                seen.key.first <= element.key.first and element.key.last <= seen.key.last  # type: ignore[operator]
                for seen in nft.elements(self.socket, one)
                if isinstance(seen.key, Range)  # one family a set, so the ends compare
            )
        seen = nft.element(self.socket, one, element)
        return seen is not None and (seen.key, seen.value) == (element.key, element.value)
