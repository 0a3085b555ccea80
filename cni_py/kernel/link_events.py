"""The kernel's word that some link changed (rtnetlink group LINK), to wait for an outcome instead of polling for it."""

import select
import time
from types import TracebackType
from typing import Self

from cni_py.kernel.listener import Listener
from cni_py.kernel.netlink import NETLINK_ROUTE

RTNLGRP_LINK = 1


class LinkEvents:
    """Listens from its creation on, in the namespace that the thread is in. Look at the link after that, then wait."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._listener = Listener(NETLINK_ROUTE, (RTNLGRP_LINK,))

    def wait(self) -> bool:
        """True once some link changed since the last call, False when the seconds are over."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        if not poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000):
            return False
        for _ in self._listener.read():  # whatever it was, and however much
            pass
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()
