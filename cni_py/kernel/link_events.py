"""The kernel's word that some link changed (rtnetlink group LINK), to wait for an outcome instead of polling for it."""

import errno
import socket
import time
from types import TracebackType
from typing import Self

_RTMGRP_LINK = 1


class LinkEvents:
    """Listens from its creation on, in the namespace that the thread is in. Look at the link after that, then wait."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))

    def wait(self) -> bool:
        """True once some link changed since the last call, False when the seconds are over.

        An overflow (ENOBUFS) means that so much changed that some of it was not told: a change all the same.
        """
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            return False
        self._socket.settimeout(remaining)
        try:
            self._socket.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
