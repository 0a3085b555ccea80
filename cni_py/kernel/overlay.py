"""The overlay's part of the kernel, changed in large datagrams.

One change that the kernel refuses is one peer's trouble: the others take effect, and the refusal is handed back.
"""

from collections.abc import Collection, Iterable, Sequence

from cni_py.kernel import neighbours, rtnl
from cni_py.kernel.apply import Namespace, Run
from cni_py.kernel.errnos import already_so, refusal
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket
from cni_py.kernel.overlay_read import OverlayReader
from cni_py.kernel.sysctl import write_sysctl
from cni_py.model.errors import CniPyError
from cni_py.model.net import LinkRoute, NodeState, Ns
from cni_py.model.ops import AddRoute, DelFdb, DelNeighbour, DelRoute, Op, ReplaceRoute, SetFdb, SetNeighbour
from cni_py.model.overlay import Underlay
from cni_py.model.result import IPAddress

Refusal = tuple[Op, CniPyError]

_NOTHING = NodeState()
_BATCH = 600  # messages a datagram: 50 kB, during which no signal is served


class OverlayKernel:
    """The namespace that the thread is in, by one socket that stays open. Raises KernelError if it cannot be read."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE)
        self._reader = OverlayReader(self._socket)

    def close(self) -> None:
        """The socket is gone; the kernel keeps everything."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The address of the socket, by which the kernel says who changed something."""
        return self._socket.port

    def index(self, name: str) -> int | None:
        """The index of a link, None if there is none of that name."""
        return Namespace(None, self._socket).index(name)

    def read(self, names: Iterable[str], wanted: NodeState = _NOTHING) -> NodeState:
        """The links of these names with all that is on them, the overlay's routes wherever they lead.

        Of what is wanted the sysctls; and what is read and equals something wanted is that very object.
        """
        return self._reader.read(names, wanted)

    def find_underlay(self, addresses: Collection[IPAddress]) -> str:
        """The link that has one of these addresses, else that of the best default route; "" if there is neither."""
        return self._reader.find_underlay(addresses)

    def underlay(self, name: str) -> Underlay | None:
        """The link of that name as an underlay, None if it is not there or down."""
        return self._reader.underlay(name)

    def apply(self, ops: Sequence[Op]) -> tuple[Refusal, ...]:
        """All changes take effect but for those handed back, each with the reason."""
        run = _Run(self._socket)
        run.run(ops)
        return tuple(run.refused)


class _Run(Run):
    """The changes of the overlay, and on past a refusal."""

    def __init__(self, socket: NetlinkSocket) -> None:
        super().__init__({"host": Namespace(None, socket)}, write_sysctl, [])
        self.refused: list[Refusal] = []

    def _step(self, op: Op) -> None:
        try:
            super()._step(op)
        except CniPyError as error:
            self.refused.append((op, error))
        if len(self._pending) >= _BATCH:
            self._flush()

    def _encode(self, op: Op) -> tuple[Ns, list[bytes]]:
        match op:
            case SetNeighbour(neighbour):
                return "host", [neighbours.set_neighbour(neighbour, self._index("host", neighbour.link))]
            case DelNeighbour(neighbour):
                return "host", [neighbours.del_neighbour(neighbour, self._index("host", neighbour.link))]
            case SetFdb(entry):
                return "host", [neighbours.set_fdb(entry, self._index("host", entry.link))]
            case DelFdb(entry):
                return "host", [neighbours.del_fdb(entry, self._index("host", entry.link))]
            case AddRoute(route):
                return "host", [rtnl.new_route(route, self._oif(route))]
            case ReplaceRoute(route):
                return "host", [rtnl.replace_route(route, self._oif(route))]
            case DelRoute(route):
                return "host", [rtnl.del_route(route, self._oif(route))]
            case _:
                return super()._encode(op)

    def _oif(self, route: LinkRoute) -> int:
        return self._index("host", route.link) if route.link else 0

    def _settle(self, pending: list[tuple[Op, bytes]], error: NetlinkError) -> None:
        for index, number in error.failed.items():
            op = pending[index][0]
            if not already_so(op, number):
                self.refused.append((op, refusal(op, number, error.text if index == error.index else "")))
