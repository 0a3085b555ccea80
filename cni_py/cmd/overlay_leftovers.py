"""What is on a node of the overlay: devices, routes, the guard's table. Found, removed."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from cni_py.kernel.guard import TunnelGuard
from cni_py.kernel.overlay import OverlayKernel
from cni_py.model.converge import converge
from cni_py.model.errors import MissingFeatureError
from cni_py.model.net import NodeState
from cni_py.model.overlay import DEVICES
from cni_py.model.words import describe
from cni_py.overlay.guard import GUARD


def remove(say: Callable[[str], None]) -> None:
    """Nothing of it is there; what resists is found by `look`. An agent of the role overlay would put it back."""
    with closing(OverlayKernel()) as kernel:
        ops = converge(NodeState(), kernel.read(DEVICES))
        refused = {op for op, _ in kernel.apply(ops)}
    for op in ops:
        if op not in refused:
            say(f"overlay: {describe(op)}")
    with _table() as table:
        if table is not None and table.remove():
            say(f"removed nftables table {GUARD.text()}")


def look() -> list[str]:
    """All that is there but devices, in words."""
    with closing(OverlayKernel()) as kernel:
        routes = kernel.read(()).routes
    found = [f"a route of the overlay to {route.dst}" for route in routes]
    with _table() as table:
        return [*found, *([f"nftables table {GUARD.text()}"] if table is not None and table.is_there() else [])]


@contextmanager
def _table() -> Iterator[TunnelGuard | None]:
    """The guard's; None where the kernel has no nftables."""
    try:
        table = TunnelGuard(GUARD)
    except MissingFeatureError:
        yield None
        return
    with closing(table):
        yield table
