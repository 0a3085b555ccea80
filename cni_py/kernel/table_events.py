"""The kernel's word that somebody else changed one of our nftables tables."""

import select
from collections.abc import Sequence

from cni_py.kernel import bpf, nft_wire
from cni_py.kernel.listener import Listener
from cni_py.kernel.netlink import NETLINK_NETFILTER

_NFTABLES = 7


class TableEvents:
    """Listens in the namespace in which it is made. `own`: ports of sockets whose changes are our own."""

    def __init__(self, table: str, own: Sequence[int]) -> None:
        self._table = table
        self._listener = Listener(NETLINK_NETFILTER, (_NFTABLES,), [*bpf.not_from(own), bpf.PASSED])
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)

    def watch(self, fd: int) -> None:
        """`wait` also returns when that descriptor can be read."""
        self._poll.register(fd, select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Something was told, or the time is over."""
        self._poll.poll(max(0, int(seconds * 1000) + 1))

    def close(self) -> None:
        """Nothing is heard any more."""
        self._listener.close()

    def take(self) -> bool:
        """True if the table was changed since the last call, or may have been."""
        changed = {nft_wire.changed_in(*told) for told in self._listener.read()}
        return self._listener.overflowed() or self._table in changed
