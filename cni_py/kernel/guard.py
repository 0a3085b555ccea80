"""The table of the tunnels' guard in the kernel: whole at once, or one change; over a socket of its own."""

from collections.abc import Callable

from cni_py.kernel import nft, nft_mend
from cni_py.model.nft import Change, DestroyTable, Table


class TunnelGuard:
    """Of that table, in the namespace in which it is made. Raises CniPyError."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._socket = nft.connect()
        self._held: Change | None = None
        self._generation = 0  # of all nftables in the namespace, when the table was exactly so

    @property
    def port(self) -> int:
        """The address of the socket, by which the kernel says who changed something."""
        return self._socket.port

    def close(self) -> None:
        """The socket is gone, the table stays."""
        self._socket.close()

    def doubt(self) -> None:
        """Somebody may have changed the table."""
        self._held = None

    def hold(self, wanted: Change) -> int:
        """The table is exactly so, or gone if nothing is wanted; how much had to be mended."""
        if wanted is self._held and nft.generation(self._socket) == self._generation:
            return 0
        if not wanted.layouts:
            return self.remove()
        done = nft_mend.mend(self._socket, wanted.layouts, wanted)
        self._held, self._generation = wanted, nft.generation(self._socket)
        return done.rebuilt + done.added + done.removed

    def is_there(self) -> bool:
        """True if the table is."""
        return nft.table_exists(self._socket, self._table)

    def remove(self) -> int:
        """The table is gone; 1 if it was there."""
        if not self.is_there():
            return 0
        nft.commit(self._socket, Change((), (DestroyTable(self._table),)))
        return 1

    def change(self, change: Change, whole: Callable[[], Change]) -> None:
        """One change in it; where somebody took the table away, `whole` is what else is in it."""
        nft.commit(self._socket, change, whole)
