"""What is on a node of network policies: their nftables table. Found, removed."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from cni_py.kernel.policy_table import PolicyTable
from cni_py.model.errors import MissingFeatureError
from cni_py.policy import table


def remove(say: Callable[[str], None]) -> None:
    """It is not there, and nothing is denied any more. An agent of the role policy would put it back."""
    with _table() as found:
        if found is not None and found.remove():
            say(f"removed nftables table {table.TABLE.text()}")


def look() -> list[str]:
    """It, in words, if it is there."""
    with _table() as found:
        return [f"nftables table {table.TABLE.text()}"] if found is not None and found.is_there() else []


@contextmanager
def _table() -> Iterator[PolicyTable | None]:
    """None where the kernel has no nftables."""
    try:
        found = PolicyTable(table.layout(guards_node=True))
    except MissingFeatureError:
        yield None
        return
    with closing(found):
        yield found
