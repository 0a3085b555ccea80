"""Results kept for the few configurations that a node has: a warm agent parses each of them once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")
_ENTRIES = 64
_MAX_BYTES = 16 << 10  # a configuration with a prevResult in it, or a hostile one, is not worth keeping


class Memo(Generic[_Value]):
    """Values by configuration (stdin as bytes) and whatever else they depend on; the least used go first.

    Values are shared: whoever gets one leaves it as it is. Errors are not kept. Threads that race compute the same.
    """

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[bytes, Hashable], _Value] = OrderedDict()

    def get(self, stdin: bytes, compute: Callable[[], _Value], more: Hashable = None) -> _Value:
        """The value of `compute` for this `stdin` and `more`, computed now or earlier."""
        if len(stdin) > _MAX_BYTES:
            return compute()
        key = (stdin, more)
        value = self._values.get(key)
        if value is None:
            self._values[key] = value = compute()
            if len(self._values) > _ENTRIES:
                self._values.popitem(last=False)
        return value
