"""Links deleted, and known to be gone before the system call says so.

The kernel takes a device off its lists, says RTM_DELLINK, lets go of the RTNL lock and then waits for a grace period,
12 to 20 ms, before sendmsg(2) returns (netdev_run_todo). The device is gone with the message, after 0.8 ms. So threads
of their own wait in sendmsg, and whoever wants the link gone waits for the message. While it waits, the GIL is free.
"""

import errno
import os
import queue
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from cni_py.kernel import rtnl
from cni_py.kernel.link_events import RTNLGRP_LINK
from cni_py.kernel.listener import Listener, link_exists
from cni_py.kernel.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket

_CREW = 24  # each is bound for up to 20 ms a link, the work itself takes 0.8
_DEADLINE_S = 20
_LINK = struct.Struct("=BxxxI")  # ifinfomsg: family, index


@dataclass(slots=True)
class _Job:
    """A link on its way out; `error` is what the kernel said against it."""

    index: int
    error: NetlinkError | None = None


class LinkRemover:
    """Removes links of the network namespace in which it is made, for good. Used by any thread."""

    def __init__(self) -> None:
        self._events = Listener(NETLINK_ROUTE, (RTNLGRP_LINK,))
        self._refused = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._events, select.POLLIN)
        self._poll.register(self._refused, select.POLLIN)
        self._one = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        for number in range(_CREW):
            worker = NetlinkSocket(NETLINK_ROUTE)
            threading.Thread(target=self._work, args=(worker,), name=f"remove-{number}", daemon=True).start()

    def remove(self, name: str) -> None:
        """There is no link of that name; that there was none is fine. Raises NetlinkError."""
        with self._one:
            try:
                job = _Job(socket.if_nametoindex(name))
            except OSError:
                return
            self._drain()
            self._jobs.put(job)
            self._await(job)

    def _await(self, job: _Job) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not self._is_gone(job.index):
            left = deadline - time.monotonic()
            if left <= 0:
                raise NetlinkError(0, errno.ETIMEDOUT, f"the link is still there after {_DEADLINE_S} s")
            self._poll.poll(left * 1000)
            if job.error is not None:
                if job.error.errno == errno.ENODEV:
                    return
                raise job.error

    def _is_gone(self, index: int) -> bool:
        """Reads what the kernel told since the last call."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._refused)
        gone = any(_is_end_of(index, kind, payload) for kind, payload in self._events.read())
        return gone or (self._events.overflowed() and not link_exists(index))

    def _drain(self) -> None:
        for _ in self._events.read():
            pass
        self._events.overflowed()

    def _work(self, worker: NetlinkSocket) -> None:
        while True:
            job = self._jobs.get()
            try:
                worker.send_batch([rtnl.del_link_at(job.index)])
            except NetlinkError as error:
                job.error = error
                os.eventfd_write(self._refused, 1)


def _is_end_of(index: int, kind: int, payload: bytes) -> bool:
    """True if that device is gone; a bridge says of a port that leaves it the same in another family."""
    return kind == rtnl.RTM_DELLINK and _LINK.unpack_from(payload) == (socket.AF_UNSPEC, index)
