"""What is on a node of the overlay: devices, routes, the guard's table. Found, removed."""

from collections.abc import Callable
from contextlib import closing

from cni_py.kernel import nft
from cni_py.kernel.overlay import OverlayKernel
from cni_py.model.converge import converge
from cni_py.model.errors import MissingFeatureError
from cni_py.model.net import NodeState
from cni_py.model.nft import Change, DestroyTable
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
    if _has_table():
        with closing(nft.connect()) as tables:
            nft.commit(tables, Change((), (DestroyTable(GUARD),)))
        say(f"removed nftables table {GUARD.text()}")


def look() -> list[str]:
    """All that is there but devices, in words."""
    with closing(OverlayKernel()) as kernel:
        routes = kernel.read(()).routes
    found = [f"a route of the overlay to {route.dst}" for route in routes]
    return [*found, *([f"nftables table {GUARD.text()}"] if _has_table() else [])]


def _has_table() -> bool:
    try:
        with closing(nft.connect()) as tables:
            return nft.table_exists(tables, GUARD)
    except MissingFeatureError:
        return False
